/* cache.c: the kernel cache on disk: one file an entry, in one directory that is written to, and any number that are
 * only read. An entry is a kernel (cache_entry.c has its layout) or a selection (selection.c has its).
 *
 * Nothing here may make a call fail that would succeed without a cache: what cannot be read, or is damaged, is a miss,
 * and what cannot be written is not kept. Each directory's first such event, and each damaged entry, is a line in the
 * log. Directories are opened anew for each operation, so that one that is made, repaired or deleted meanwhile is seen,
 * and no descriptor is held. There is no lock: entries appear whole, by rename, so any mix of processes may
 * read, write and remove; at worst one of them misses.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cache.h"

/* A directory; path NULL if there is none. */
typedef struct place { char *path; bool writable, complained; } place;

struct cj_cache {
    cj_log log;
    place own;          /* written to */
    const char *no_own; /* why there is none */
    place *search;      /* only read, and searched first */
    size_t n_search;
    char *search_path;
};

/* ---- Directories ---- */

/* The first `length` characters of a path, made absolute now, for the working directory may change later; without '/'
 * at the end. NULL if memory ran out. */
static char *absolute(const char *path, size_t length)
{
    cj_text t = {0};
    char *out = NULL, *here = path[0] == '/' ? NULL : getcwd(NULL, 0);
    if (here) {
        cj_text_puts(&t, here);
        cj_text_puts(&t, "/");
    }
    cj_text_add(&t, path, length);
    while (!t.failed && t.length > 1 && t.data[t.length - 1] == '/')
        t.data[--t.length] = 0;
    free(here);
    return cj_text_take(&t, &out) == CONVJIT_OK ? out : NULL;
}

static char *join_path(const char *base, const char *more)
{
    cj_text t = {0};
    char *out = NULL;
    cj_text_puts(&t, base);
    cj_text_puts(&t, more);
    return cj_text_take(&t, &out) == CONVJIT_OK ? out : NULL;
}

static bool is_absolute(const char *path)
{
    return path && path[0] == '/';
}

/* The writable directory by configuration, then environment. A program that runs with privileges (setuid) must not let
 * its caller choose where kernels come from, which secure_getenv sees to. */
static convjit_status find_own(cj_cache *c, const char *configured)
{
    const char *given = configured ? configured : secure_getenv("CONVJIT_CACHE_DIR");
    const char *caches = secure_getenv("XDG_CACHE_HOME"), *home = secure_getenv("HOME");
    c->own.writable = true;
    if (given && !given[0]) {
        c->no_own = "the cache directory is set to \"\": kernels are kept in memory only";
        return CONVJIT_OK;
    }
    if (given)
        c->own.path = absolute(given, strlen(given));
    else if (is_absolute(caches)) /* the XDG specification has relative ones ignored */
        c->own.path = join_path(caches, "/convjit");
    else if (is_absolute(home))
        c->own.path = join_path(home, "/.cache/convjit");
    else
        c->no_own = "none of CONVJIT_CACHE_DIR, XDG_CACHE_HOME and HOME names a directory";
    if (c->own.path || c->no_own)
        return CONVJIT_OK;
    return cj_fail(CONVJIT_NO_MEMORY, "out of memory for the cache's directories");
}

static convjit_status find_search(cj_cache *c, const char *configured)
{
    const char *list = configured ? configured : secure_getenv("CONVJIT_CACHE_PATH");
    cj_text joined = {0};
    size_t most = 1;
    for (const char *at = list ? list : ""; *at; at++)
        most += *at == ':';
    c->search = calloc(most, sizeof *c->search);
    for (const char *at = list ? list : ""; c->search && *at;) {
        size_t length = strcspn(at, ":");
        char *path = length ? absolute(at, length) : NULL;
        if (length && !path)
            joined.failed = true;
        if (path) {
            cj_text_printf(&joined, "%s%s", c->n_search ? ":" : "", path);
            c->search[c->n_search++].path = path;
        }
        at += length + (at[length] == ':');
    }
    if (c->search)
        return cj_text_take(&joined, &c->search_path);
    return cj_fail(CONVJIT_NO_MEMORY, "out of memory for the cache's directories");
}

convjit_status cj_cache_open(cj_cache **out, const convjit_config *config)
{
    cj_cache *c = calloc(1, sizeof *c);
    if (!c)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for the cache");
    cj_log_init(&c->log, config);
    convjit_status status = find_own(c, config ? config->cache_dir : NULL);
    if (!status)
        status = find_search(c, config ? config->cache_path : NULL);
    if (status)
        cj_cache_close(c);
    else
        *out = c;
    return status;
}

void cj_cache_close(cj_cache *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->n_search; i++)
        free(c->search[i].path);
    free(c->search);
    free(c->search_path);
    free(c->own.path);
    free(c);
}

/* Logs this thread's message, a place's first time. */
static void complain(cj_cache *c, place *p)
{
    if (!__atomic_exchange_n(&p->complained, true, __ATOMIC_RELAXED))
        cj_log_line(&c->log, 1, "convjit,v1,cache,unusable,%s,%s", p->path, convjit_errmsg());
}

/* Opens a place for reading; -1 if it is of no use now. That a writable one is not there yet is no complaint. */
static int open_place(cj_cache *c, place *p)
{
    int fd = -1;
    bool absent;
    if (!p->path)
        return -1;
    if (cj_dir_open(p->path, p->writable ? CJ_DIR_WRITE : CJ_DIR_READ, &fd, &absent) && !(absent && p->writable))
        complain(c, p);
    return fd;
}

/* Opens the writable directory for whoever cannot go on without it; fd -1 with CONVJIT_OK: it is not there yet. */
static convjit_status open_own(cj_cache *c, int *fd)
{
    bool absent;
    *fd = -1;
    if (!c->own.path)
        return cj_fail(CONVJIT_IO, "%s", c->no_own);
    convjit_status status = cj_dir_open(c->own.path, CJ_DIR_WRITE, fd, &absent);
    return status && absent ? CONVJIT_OK : status;
}

static convjit_status create_own(cj_cache *c, int *fd)
{
    if (!c->own.path)
        return cj_fail(CONVJIT_IO, "%s", c->no_own);
    return cj_dir_open(c->own.path, CJ_DIR_CREATE, fd, NULL);
}

convjit_status cj_cache_ready(cj_cache *c)
{
    int fd = -1;
    convjit_status status = create_own(c, &fd);
    if (!status && faccessat(fd, ".", W_OK, AT_EACCESS) != 0)
        status = cj_fail(CONVJIT_IO, "directory \"%s\" cannot be written to: %m", c->own.path);
    if (fd >= 0)
        close(fd);
    return status;
}

const char *cj_cache_dir(const cj_cache *c, const char **why_not)
{
    int fd = -1;
    bool absent = false;
    *why_not = c->no_own;
    if (!c->own.path)
        return NULL;
    if (cj_dir_open(c->own.path, CJ_DIR_WRITE, &fd, &absent) && !absent) {
        *why_not = convjit_errmsg();
        return NULL;
    }
    if (fd >= 0)
        close(fd);
    return c->own.path;
}

const char *cj_cache_search_path(const cj_cache *c)
{
    return c->search_path;
}

/* ---- Looking up ---- */

/* What a look-up wants, and what it has found. */
typedef struct search { const cj_key *key; bool found; cj_kernel *kernel; cj_blob binary; } search;

/* Logs a damaged entry, and removes it where that is ours to do, so that a good one can take its place. */
static void handle_damage(cj_cache *c, place *p, int dir, const char *name)
{
    cj_log_line(&c->log, 1, "convjit,v1,cache,damaged,%s/%s,%s", p->path, name, convjit_errmsg());
    if (p->writable)
        unlinkat(dir, name, 0);
}

/* Decodes the entry `name`; what is wrong with it is a miss. Only lack of memory is an error. */
static convjit_status try_entry(cj_cache *c, place *p, int dir, const char *name, search *s)
{
    cj_blob bytes = {0};
    cj_key key = {0};
    bool absent;
    convjit_status status = cj_file_read(dir, name, CJ_ENTRY_LIMIT, &bytes, &absent);
    if (!status)
        status = cj_entry_decode(&bytes, name, &key, &s->kernel, &s->binary);
    cj_blob_free(&bytes);
    if (status == CONVJIT_NO_MEMORY)
        return status;
    if (status == CONVJIT_CORRUPT)
        handle_damage(c, p, dir, name);
    else if (status && !absent)
        complain(c, p);
    if (status)
        return CONVJIT_OK;
    /* The name holds a part of the compiler's digest; the rest must be right, too. */
    s->found = !s->key->compiler_hex[0] || strcmp(key.compiler_hex, s->key->compiler_hex) == 0;
    if (!s->found) {
        cj_kernel_free(s->kernel);
        cj_blob_free(&s->binary);
    }
    return CONVJIT_OK;
}

typedef struct dated { const char *name; struct timespec time; } dated;

static int compare_newest_first(const void *a, const void *b)
{
    const dated *x = a, *y = b;
    if (x->time.tv_sec != y->time.tv_sec)
        return x->time.tv_sec > y->time.tv_sec ? -1 : 1;
    if (x->time.tv_nsec != y->time.tv_nsec)
        return x->time.tv_nsec > y->time.tv_nsec ? -1 : 1;
    return strcmp(x->name, y->name);
}

/* The names with this source digest, newest first: reads the whole directory, at about half a microsecond a name. */
static convjit_status find_candidates(int dir, const cj_key *key, cj_names *names, dated **candidates, size_t *n)
{
    struct stat st;
    convjit_status status = cj_dir_names(dir, key->source_hex, cj_entry_is_name, names);
    *n = 0;
    if (status)
        return status;
    *candidates = calloc(names->n + 1, sizeof **candidates);
    if (!*candidates)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a search of the cache");
    for (size_t i = 0; i < names->n; i++)
        if (fstatat(dir, names->names[i], &st, AT_SYMLINK_NOFOLLOW) == 0)
            (*candidates)[(*n)++] = (dated){names->names[i], st.st_mtim};
    qsort(*candidates, *n, sizeof **candidates, compare_newest_first);
    return CONVJIT_OK;
}

static convjit_status try_any_compiler(cj_cache *c, place *p, int dir, search *s)
{
    cj_names names = {0};
    dated *candidates = NULL;
    size_t n;
    convjit_status status = find_candidates(dir, s->key, &names, &candidates, &n);
    if (status == CONVJIT_IO) {
        complain(c, p);
        status = CONVJIT_OK;
    }
    for (size_t i = 0; !status && !s->found && i < n; i++)
        status = try_entry(c, p, dir, candidates[i].name, s);
    free(candidates);
    cj_names_free(&names);
    return status;
}

static convjit_status search_place(cj_cache *c, place *p, search *s)
{
    char name[CJ_ENTRY_NAME];
    int dir = open_place(c, p);
    convjit_status status;
    if (dir < 0)
        return CONVJIT_OK;
    if (s->key->compiler_hex[0]) {
        cj_entry_name(s->key, name);
        status = try_entry(c, p, dir, name, s);
    } else {
        status = try_any_compiler(c, p, dir, s);
    }
    close(dir);
    return status;
}

convjit_status cj_cache_get(cj_cache *c, const cj_key *key, bool *found, cj_kernel **kernel, cj_blob *binary)
{
    search s = {.key = key};
    convjit_status status = CONVJIT_OK;
    for (size_t i = 0; !status && !s.found && i < c->n_search; i++)
        status = search_place(c, &c->search[i], &s);
    if (!status && !s.found)
        status = search_place(c, &c->own, &s);
    *found = s.found;
    if (s.found) {
        *kernel = s.kernel;
        *binary = s.binary;
    }
    return status;
}

static bool try_selection(cj_cache *c, place *p, const char *name, cj_selection *s)
{
    cj_blob bytes = {0};
    bool absent;
    int dir = open_place(c, p);
    if (dir < 0)
        return false;
    convjit_status status = cj_file_read(dir, name, CJ_SELECTION_LIMIT, &bytes, &absent);
    if (!status)
        status = cj_selection_decode(&bytes, name, s);
    cj_blob_free(&bytes);
    if (status == CONVJIT_CORRUPT)
        handle_damage(c, p, dir, name);
    else if (status == CONVJIT_IO && !absent)
        complain(c, p);
    close(dir);
    return status == CONVJIT_OK;
}

bool cj_cache_get_selection(cj_cache *c, const char *key_text, cj_selection *s)
{
    char name[CJ_SELECTION_NAME];
    cj_selection_name(key_text, name);
    for (size_t i = 0; i < c->n_search; i++)
        if (try_selection(c, &c->search[i], name, s))
            return true;
    return try_selection(c, &c->own, name, s);
}

/* ---- Publishing ---- */

bool cj_cache_is_name(const char *name)
{
    return cj_entry_is_name(name) || cj_selection_is_name(name);
}

convjit_status cj_cache_verify(const cj_blob *bytes, const char *name)
{
    return cj_selection_claims_name(name) ? cj_selection_decode(bytes, name, NULL)
                                          : cj_entry_decode(bytes, name, NULL, NULL, NULL);
}

/* Whether there is no need to write the bytes. A compiler's binaries for one key are all as good; a selection whose
 * kernel has another key now must give way. */
static bool is_there(int dir, const char *name, const cj_blob *wanted)
{
    cj_blob bytes = {0};
    bool absent, there = false;
    if (cj_file_read(dir, name, CJ_ENTRY_LIMIT, &bytes, &absent) == CONVJIT_OK)
        there = cj_selection_is_name(name)
                    ? bytes.size == wanted->size && memcmp(bytes.data, wanted->data, bytes.size) == 0
                    : cj_cache_verify(&bytes, name) == CONVJIT_OK;
    cj_blob_free(&bytes);
    return there;
}

/* The directory is not synchronised: a name that a crash of the machine loses is a miss, and that costs less than a
 * second wait for the disk with every kernel. A selection is made again faster than a disk takes it for certain, so for
 * that there is no wait at all. */
static convjit_status write_entry(cj_cache *c, int dir, const char *name, const cj_blob *bytes)
{
    cj_writer w;
    if (cj_writer_open(&w, dir, 0600)) {
        bool (*publish)(cj_writer *, const char *) =
            cj_selection_is_name(name) ? cj_writer_publish_unsynced : cj_writer_publish;
        if (cj_writer_add(&w, bytes->data, bytes->size) && publish(&w, name))
            return CONVJIT_OK;
        cj_writer_discard(&w);
    }
    return cj_fail(CONVJIT_IO, "cannot write \"%s/%s\": %m", c->own.path, name);
}

convjit_status cj_cache_store(cj_cache *c, const char *name, const cj_blob *bytes)
{
    int dir = -1;
    convjit_status status = create_own(c, &dir);
    if (!status && !is_there(dir, name, bytes)) /* by another process, perhaps: its bytes are as good */
        status = write_entry(c, dir, name, bytes);
    if (dir >= 0)
        close(dir);
    if (status && c->own.path)
        complain(c, &c->own);
    return status;
}

static bool same_key(const cj_key *a, const cj_key *b)
{
    return strcmp(a->source_hex, b->source_hex) == 0 && strcmp(a->compiler_hex, b->compiler_hex) == 0;
}

convjit_status cj_cache_put(cj_cache *c, const cj_key *key, const char *key_text, const cj_kernel *k,
                            const cj_blob *binary, bool *stored)
{
    char name[CJ_ENTRY_NAME];
    cj_blob bytes = {0};
    cj_key its_key;
    if (stored)
        *stored = false;
    if (!cj_key_parse(key_text, strlen(key_text), &its_key) || !same_key(&its_key, key))
        return cj_fail(CONVJIT_INVALID, "kernel %s: the key's text is not that of the key", k->name);
    if (!key->compiler_hex[0])
        return cj_fail(CONVJIT_INVALID, "kernel %s: a key without a compiler cannot be stored", k->name);
    convjit_status status = cj_entry_encode(key_text, k, binary, &bytes);
    if (status)
        return status;
    cj_entry_name(key, name);
    status = cj_cache_store(c, name, &bytes);
    cj_blob_free(&bytes);
    if (stored)
        *stored = status == CONVJIT_OK;
    return status == CONVJIT_IO ? CONVJIT_OK : status;
}

void cj_cache_put_selection(cj_cache *c, const char *key_text, const char source_hex[65], const char *schedule,
                            const char *why)
{
    char name[CJ_SELECTION_NAME];
    cj_blob bytes = {0};
    if (cj_selection_encode(key_text, source_hex, schedule, why, &bytes))
        return;
    cj_selection_name(key_text, name);
    cj_cache_store(c, name, &bytes);
    cj_blob_free(&bytes);
}

/* ---- Listing ---- */

convjit_status cj_cache_load(cj_cache *c, const char *name, cj_blob *bytes)
{
    int dir;
    bool absent;
    convjit_status status = open_own(c, &dir);
    if (!status && dir < 0)
        status = cj_fail(CONVJIT_IO, "directory \"%s\" is not there", c->own.path);
    if (!status)
        status = cj_file_read(dir, name, CJ_ENTRY_LIMIT, bytes, &absent);
    if (!status)
        status = cj_cache_verify(bytes, name);
    if (status)
        cj_blob_free(bytes);
    if (dir >= 0)
        close(dir);
    return status ? cj_fail_in(status, "\"%s\"", name) : status;
}

static void free_entry(cj_cache_entry *e)
{
    free(e->file);
    free(e->tuple);
    free(e->schedule);
    free(e->arch);
    free(e->damage);
}

static convjit_status describe_kernel(const cj_blob *bytes, cj_cache_entry *e)
{
    cj_key key;
    cj_kernel *k = NULL;
    convjit_status status = cj_entry_decode(bytes, e->file, &key, &k, NULL);
    if (status)
        return status;
    memcpy(e->source_hex, key.source_hex, sizeof e->source_hex);
    e->tuple = k->tuple;
    e->schedule = k->schedule;
    e->arch = k->arch;
    k->tuple = k->schedule = k->arch = NULL;
    cj_kernel_free(k);
    return CONVJIT_OK;
}

static convjit_status describe_selection(const cj_blob *bytes, cj_cache_entry *e)
{
    cj_selection s;
    convjit_status status = cj_selection_decode(bytes, e->file, &s);
    if (status)
        return status;
    memcpy(e->source_hex, s.source_hex, sizeof e->source_hex);
    e->tuple = s.problem;
    e->schedule = s.schedule;
    e->arch = s.arch;
    s.problem = s.schedule = s.arch = NULL;
    cj_selection_free(&s);
    return CONVJIT_OK;
}

/* *gone: somebody removed it since the directory was read. */
static convjit_status describe(int dir, const char *name, cj_cache_entry *e, bool *gone)
{
    struct stat st;
    cj_blob bytes = {0};
    *e = (cj_cache_entry){.file = strdup(name), .selection = cj_selection_claims_name(name)};
    if (!e->file)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a list of the cache");
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        e->bytes = (uint64_t)st.st_size;
        e->mtime = st.st_mtime;
    }
    convjit_status status = cj_file_read(dir, name, e->selection ? CJ_SELECTION_LIMIT : CJ_ENTRY_LIMIT, &bytes, gone);
    if (!status)
        status = e->selection ? describe_selection(&bytes, e) : describe_kernel(&bytes, e);
    cj_blob_free(&bytes);
    if (!status || status == CONVJIT_NO_MEMORY)
        return status;
    e->status = status;
    e->damage = strdup(convjit_errmsg());
    return e->damage ? CONVJIT_OK : cj_fail(CONVJIT_NO_MEMORY, "out of memory for a list of the cache");
}

static bool claims_name(const char *name)
{
    return cj_entry_claims_name(name) || cj_selection_claims_name(name);
}

static convjit_status list(int dir, cj_cache_entry **entries, size_t *n)
{
    cj_names names = {0};
    size_t count = 0;
    convjit_status status = cj_dir_names(dir, "", claims_name, &names);
    cj_cache_entry *all = status ? NULL : calloc(names.n + 1, sizeof *all);
    if (!status && !all)
        status = cj_fail(CONVJIT_NO_MEMORY, "out of memory for a list of the cache");
    for (size_t i = 0; !status && i < names.n; i++) {
        bool gone = false;
        status = describe(dir, names.names[i], &all[count], &gone);
        if (status || gone)
            free_entry(&all[count]);
        else
            count++;
    }
    cj_names_free(&names);
    if (status) {
        cj_cache_list_free(all, count);
        return status;
    }
    *entries = all;
    *n = count;
    return CONVJIT_OK;
}

convjit_status cj_cache_list(cj_cache *c, cj_cache_entry **entries, size_t *n)
{
    int dir;
    convjit_status status = open_own(c, &dir);
    if (status)
        return status;
    if (dir >= 0) {
        status = list(dir, entries, n);
        close(dir);
        return status;
    }
    *entries = NULL;
    *n = 0;
    return CONVJIT_OK;
}

void cj_cache_list_free(cj_cache_entry *entries, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free_entry(&entries[i]);
    free(entries);
}

/* ---- Removing ---- */

/* Counts the file if it was there and is gone. */
static convjit_status remove_file(cj_cache *c, int dir, const char *name, size_t *removed)
{
    if (unlinkat(dir, name, 0) == 0)
        ++*removed;
    else if (errno != ENOENT)
        return cj_fail(CONVJIT_IO, "cannot remove \"%s/%s\": %m", c->own.path, name);
    return CONVJIT_OK;
}

static convjit_status remove_temporaries(cj_cache *c, int dir, size_t *removed)
{
    cj_names names = {0};
    convjit_status status = cj_dir_names(dir, "", cj_is_temporary, &names);
    for (size_t i = 0; !status && i < names.n; i++)
        if (cj_is_stale_temporary(dir, names.names[i]))
            status = remove_file(c, dir, names.names[i], removed);
    cj_names_free(&names);
    return status;
}

/* What is in the writable directory, by name, and which of it is to go. */
typedef struct census {
    cj_cache_entry *entries;
    size_t n;
    bool *doomed;
    size_t *by_age; /* indices, oldest first */
} census;

static void mark_damaged(census *s)
{
    for (size_t i = 0; i < s->n; i++)
        s->doomed[i] = s->entries[i].status == CONVJIT_CORRUPT;
}

/* A kernel's name begins with its source digest, so those of one source stand together. */
static bool keeps_kernel(const census *s, const char *source_hex)
{
    size_t low = 0, high = s->n;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (strcmp(s->entries[middle].file, source_hex) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < s->n && strncmp(s->entries[low].file, source_hex, 64) == 0; low++)
        if (!s->entries[low].selection && !s->doomed[low])
            return true;
    return false;
}

static bool is_searched(cj_cache *c, const char *source_hex)
{
    size_t found = 0;
    for (size_t i = 0; i < c->n_search && !found; i++) {
        cj_names names = {0};
        int dir = open_place(c, &c->search[i]);
        if (dir >= 0 && cj_dir_names(dir, source_hex, cj_entry_is_name, &names) == CONVJIT_OK)
            found = names.n;
        cj_names_free(&names);
        if (dir >= 0)
            close(dir);
    }
    return found > 0;
}

/* Selections whose kernel is, or is about to be, nowhere. */
static void mark_orphans(cj_cache *c, census *s)
{
    for (size_t i = 0; i < s->n; i++) {
        const cj_cache_entry *e = &s->entries[i];
        if (e->selection && e->status == CONVJIT_OK && !s->doomed[i])
            s->doomed[i] = !keeps_kernel(s, e->source_hex) && !is_searched(c, e->source_hex);
    }
}

static int compare_oldest_first(const void *a, const void *b, void *of)
{
    const cj_cache_entry *entries = of, *x = &entries[*(const size_t *)a], *y = &entries[*(const size_t *)b];
    return x->mtime != y->mtime ? (x->mtime < y->mtime ? -1 : 1) : strcmp(x->file, y->file);
}

static void mark_oldest(census *s, uint64_t max_bytes)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < s->n; i++) {
        s->by_age[i] = i;
        bytes += s->doomed[i] ? 0 : s->entries[i].bytes;
    }
    qsort_r(s->by_age, s->n, sizeof *s->by_age, compare_oldest_first, s->entries);
    for (size_t i = 0; i < s->n && max_bytes && bytes > max_bytes; i++) {
        size_t oldest = s->by_age[i];
        bytes -= s->doomed[oldest] ? 0 : s->entries[oldest].bytes;
        s->doomed[oldest] = true;
    }
}

static convjit_status remove_entries(cj_cache *c, int dir, uint64_t max_bytes, size_t *removed)
{
    census s = {0};
    convjit_status status = list(dir, &s.entries, &s.n);
    if (status)
        return status;
    s.doomed = calloc(s.n + 1, sizeof *s.doomed);
    s.by_age = calloc(s.n + 1, sizeof *s.by_age);
    if (s.doomed && s.by_age) {
        mark_damaged(&s);
        mark_orphans(c, &s); /* before what is still of use has to go for its size */
        mark_oldest(&s, max_bytes);
        mark_orphans(c, &s); /* of kernels that went for theirs */
    } else {
        status = cj_fail(CONVJIT_NO_MEMORY, "out of memory for a list of the cache");
    }
    for (size_t i = 0; !status && i < s.n; i++)
        if (s.doomed[i])
            status = remove_file(c, dir, s.entries[i].file, removed);
    free(s.by_age);
    free(s.doomed);
    cj_cache_list_free(s.entries, s.n);
    return status;
}

convjit_status cj_cache_prune(cj_cache *c, uint64_t max_bytes, size_t *removed)
{
    int dir;
    convjit_status status = open_own(c, &dir);
    *removed = 0;
    if (status || dir < 0)
        return status;
    status = remove_temporaries(c, dir, removed);
    if (!status)
        status = remove_entries(c, dir, max_bytes, removed);
    close(dir);
    return status;
}

convjit_status cj_cache_clear(cj_cache *c, size_t *removed)
{
    int dir;
    size_t temporaries = 0;
    cj_names names = {0};
    convjit_status status = open_own(c, &dir);
    *removed = 0;
    if (status || dir < 0)
        return status;
    status = remove_temporaries(c, dir, &temporaries);
    if (!status)
        status = cj_dir_names(dir, "", claims_name, &names);
    for (size_t i = 0; !status && i < names.n; i++)
        status = remove_file(c, dir, names.names[i], removed);
    cj_names_free(&names);
    close(dir);
    return status;
}
