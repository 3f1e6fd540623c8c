/* cache_dir.c: directories and files of the kernel cache: whom they must belong to, and how a file appears whole.
 *
 * What is in a cache directory runs on the user's device, so only the user, or root, may be able to put it there.
 * Symbolic links on the way to a directory are followed (a home is often one); what is checked is the directory that
 * was opened. Links in it are not followed.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "cache.h"

enum { OTHERS_MAY_WRITE = S_IWGRP | S_IWOTH, STALE_SECONDS = 3600 };

static const char TEMPORARY[] = ".convjit-tmp-";

/* ---- Directories ---- */

/* mkdir -p, each 0700. */
static bool make_directories(char *path)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST)
        return true;
    char *slash = strrchr(path, '/');
    if (errno != ENOENT || !slash || slash == path)
        return false;
    *slash = 0;
    bool made = make_directories(path);
    *slash = '/';
    return made && (mkdir(path, 0700) == 0 || errno == EEXIST);
}

static int open_directory(const char *path, bool create)
{
    int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC;
    int fd = open(path, flags);
    if (fd >= 0 || errno != ENOENT || !create)
        return fd;
    char *copy = strdup(path);
    bool made = copy && make_directories(copy);
    int error = errno;
    free(copy);
    errno = error;
    return made ? open(path, flags) : -1;
}

static convjit_status check_directory(const char *path, int fd, bool readable_only)
{
    struct stat st;
    unsigned user = (unsigned)geteuid();
    if (fstat(fd, &st) != 0)
        return cj_fail(CONVJIT_IO, "directory \"%s\": %m", path);
    if (st.st_uid != user && !(readable_only && st.st_uid == 0))
        return cj_fail(CONVJIT_IO, "directory \"%s\" belongs to user %u, not to user %u%s, so it is not used", path,
                       (unsigned)st.st_uid, user, readable_only ? " or root" : "");
    if (st.st_mode & OTHERS_MAY_WRITE)
        return cj_fail(CONVJIT_IO, "directory \"%s\" can be written to by other users (mode %04o), so it is not used; "
                       "chmod go-w it", path, (unsigned)st.st_mode & 07777);
    return CONVJIT_OK;
}

convjit_status cj_dir_open(const char *path, cj_dir_use use, int *fd, bool *absent)
{
    int opened = open_directory(path, use == CJ_DIR_CREATE);
    if (absent)
        *absent = opened < 0 && errno == ENOENT;
    if (opened < 0)
        return cj_fail(CONVJIT_IO, "directory \"%s\": %m", path);
    convjit_status status = check_directory(path, opened, use == CJ_DIR_READ);
    if (status)
        close(opened);
    else
        *fd = opened;
    return status;
}

void cj_names_free(cj_names *names)
{
    for (size_t i = 0; i < names->n; i++)
        free(names->names[i]);
    free(names->names);
    *names = (cj_names){0};
}

static bool add_name(cj_names *names, size_t *capacity, const char *name)
{
    if (names->n == *capacity) {
        size_t more = *capacity ? 2 * *capacity : 64;
        char **grown = realloc(names->names, more * sizeof *grown);
        if (!grown)
            return false;
        names->names = grown;
        *capacity = more;
    }
    names->names[names->n] = strdup(name);
    return names->names[names->n] && ++names->n;
}

static int compare_names(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static convjit_status read_names(DIR *d, const char *prefix, bool (*filter)(const char *name), cj_names *names)
{
    size_t capacity = 0, n = strlen(prefix);
    for (;;) {
        errno = 0;
        const struct dirent *e = readdir(d);
        if (!e && errno != 0)
            return cj_fail(CONVJIT_IO, "the cache directory cannot be listed: %m");
        if (!e)
            return CONVJIT_OK;
        if (strncmp(e->d_name, prefix, n) == 0 && filter(e->d_name) && !add_name(names, &capacity, e->d_name))
            return cj_fail(CONVJIT_NO_MEMORY, "out of memory for the names of a directory");
    }
}

convjit_status cj_dir_names(int dir, const char *prefix, bool (*filter)(const char *name), cj_names *out)
{
    cj_names names = {0};
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* a position of its own */
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    if (!d) {
        cj_fail(CONVJIT_IO, "the cache directory cannot be listed: %m");
        if (fd >= 0)
            close(fd);
        return CONVJIT_IO;
    }
    convjit_status status = read_names(d, prefix, filter, &names);
    closedir(d);
    if (status) {
        cj_names_free(&names);
        return status;
    }
    if (names.n)
        qsort(names.names, names.n, sizeof *names.names, compare_names);
    *out = names;
    return CONVJIT_OK;
}

/* ---- Reading ---- */

static convjit_status check_file(const struct stat *st, uint64_t limit)
{
    if (!S_ISREG(st->st_mode))
        return cj_fail(CONVJIT_CORRUPT, "is not a plain file");
    if (st->st_uid != geteuid() && st->st_uid != 0)
        return cj_fail(CONVJIT_CORRUPT, "belongs to user %u", (unsigned)st->st_uid);
    if (st->st_mode & OTHERS_MAY_WRITE)
        return cj_fail(CONVJIT_CORRUPT, "can be written to by other users (mode %04o)", (unsigned)st->st_mode & 07777);
    if ((uint64_t)st->st_size > limit)
        return cj_fail(CONVJIT_CORRUPT, "has %lld bytes, above the limit %llu", (long long)st->st_size,
                       (unsigned long long)limit);
    return CONVJIT_OK;
}

convjit_status cj_fd_read(int fd, size_t size, cj_blob *out)
{
    unsigned char *data = malloc(size ? size : 1);
    if (!data)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a file of %zu bytes", size);
    size_t at = 0;
    ssize_t n = 1;
    while (at < size && n != 0) {
        n = read(fd, data + at, size - at);
        if (n < 0 && errno != EINTR) {
            convjit_status status = cj_fail(CONVJIT_IO, "cannot be read: %m");
            free(data);
            return status;
        }
        at += n > 0 ? (size_t)n : 0;
    }
    *out = (cj_blob){data, at}; /* short if the file shrank, which the caller's checks find out */
    return CONVJIT_OK;
}

convjit_status cj_file_read(int dir, const char *name, uint64_t limit, cj_blob *out, bool *absent)
{
    struct stat st;
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC); /* a FIFO must not make this wait */
    *absent = fd < 0 && errno == ENOENT;
    if (fd < 0 && errno == ELOOP)
        return cj_fail(CONVJIT_CORRUPT, "is a symbolic link");
    if (fd < 0)
        return cj_fail(CONVJIT_IO, "cannot be opened: %m");
    convjit_status status = fstat(fd, &st) == 0 ? check_file(&st, limit) : cj_fail(CONVJIT_IO, "cannot be read: %m");
    if (!status)
        status = cj_fd_read(fd, (size_t)st.st_size, out);
    close(fd);
    return status;
}

/* ---- Writing ---- */

bool cj_writer_open(cj_writer *w, int dir, unsigned mode)
{
    static unsigned counter;
    struct timespec now;
    w->dir = dir;
    do { /* process, time and counter make a name of its own; EEXIST can only be another process-id namespace */
        unsigned turn = __atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
        clock_gettime(CLOCK_REALTIME, &now);
        uint64_t unique = ((uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec) ^ (uint64_t)turn << 40;
        snprintf(w->temporary, sizeof w->temporary, "%s%d-%016llx", TEMPORARY, (int)getpid(),
                 (unsigned long long)unique);
        w->fd = openat(dir, w->temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, (mode_t)mode);
    } while (w->fd < 0 && errno == EEXIST);
    if (w->fd < 0) {
        w->temporary[0] = 0; /* nothing to discard */
        return false;
    }
    /* The lock goes with the process, however it ends, and tells that the file is not left over. Where there are no
     * locks, its age must tell. */
    flock(w->fd, LOCK_EX | LOCK_NB);
    return true;
}

bool cj_writer_add(cj_writer *w, const void *data, size_t n)
{
    const unsigned char *bytes = data;
    while (n > 0) {
        ssize_t written = write(w->fd, bytes, n);
        if (written < 0 && errno != EINTR)
            return false;
        if (written > 0) {
            bytes += written;
            n -= (size_t)written;
        }
    }
    return true;
}

bool cj_writer_publish(cj_writer *w, const char *name)
{
    /* Without fsync a crash of the machine could leave the name on a file whose bytes never arrived. */
    return fsync(w->fd) == 0 && cj_writer_publish_unsynced(w, name);
}

bool cj_writer_publish_unsynced(cj_writer *w, const char *name)
{
    int fd = w->fd;
    w->fd = -1;
    if (close(fd) != 0 || renameat(w->dir, w->temporary, w->dir, name) != 0)
        return false;
    w->temporary[0] = 0;
    return true;
}

void cj_writer_discard(cj_writer *w)
{
    int error = errno;
    if (w->fd >= 0)
        close(w->fd);
    if (w->temporary[0])
        unlinkat(w->dir, w->temporary, 0);
    w->fd = -1;
    w->temporary[0] = 0;
    errno = error;
}

/* ---- Temporary files that a killed process left ---- */

bool cj_is_temporary(const char *name)
{
    size_t prefix = sizeof TEMPORARY - 1;
    if (strncmp(name, TEMPORARY, prefix) != 0)
        return false;
    const char *unique = name + prefix + strspn(name + prefix, "0123456789");
    return unique > name + prefix && *unique == '-' && strspn(unique + 1, "0123456789abcdef") == 16 && !unique[1 + 16];
}

bool cj_is_stale_temporary(int dir, const char *name)
{
    struct stat st;
    int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return false;
    bool free_to_lock = flock(fd, LOCK_EX | LOCK_NB) == 0, locked = !free_to_lock && errno == EWOULDBLOCK;
    bool old = fstat(fd, &st) == 0 && st.st_mtime < time(NULL) - STALE_SECONDS;
    close(fd);
    return free_to_lock || (!locked && old);
}
