/* cache.c: the kernel cache on disk: what is kept comes back, what is damaged or untrusted never does, and no state of
 * the disk makes a look-up or a store fail. */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include "cache.h"
#include "sample.h"

static const char identity[] = "nvrtc 12.4.127";

/* ---- A cache, a kernel in it, and the log ---- */

typedef struct log_lines { int n; char last[1024]; } log_lines;

static void take_line(void *user, const char *line)
{
    log_lines *l = user;
    l->n++;
    snprintf(l->last, sizeof l->last, "%s", line);
}

/* log NULL: silent. */
static cj_cache *open_cache(const char *dir, const char *path, log_lines *log)
{
    convjit_config config = {.size = sizeof config, .cache_dir = dir, .cache_path = path, .verbose = log ? 1 : -1};
    cj_cache *c = NULL;
    config.log = take_line;
    config.log_user = log;
    if (log)
        *log = (log_lines){0};
    CHECK_OK(cj_cache_open(&c, &config));
    if (!c)
        exit(EXIT_FAILURE);
    return c;
}

/* One thing to store. */
typedef struct item { cj_kernel *kernel; cj_key key; cj_text key_text; cj_blob binary; } item;

static item make_item(const char *tuple, const char *compiler, const char *binary)
{
    item i = {.kernel = sample_kernel()};
    set(&i.kernel->tuple, tuple);
    CHECK_OK(cj_key_make(i.kernel, "cubin", compiler, &i.key, &i.key_text));
    i.binary = (cj_blob){(unsigned char *)strdup(binary), strlen(binary)};
    return i;
}

static void free_item(item *i)
{
    cj_kernel_free(i->kernel);
    cj_text_free(&i->key_text);
    cj_blob_free(&i->binary);
}

static bool put(cj_cache *c, const item *i)
{
    bool stored = false;
    CHECK_OK(cj_cache_put(c, &i->key, i->key_text.data, i->kernel, &i->binary, &stored));
    return stored;
}

/* The binary that comes back, as text, or "" for a miss. */
static const char *get(cj_cache *c, const cj_key *key)
{
    static char text[4096];
    bool found;
    cj_kernel *k = NULL;
    cj_blob b = {0};
    text[0] = 0;
    CHECK_OK(cj_cache_get(c, key, &found, &k, &b));
    CHECK_INT(found, k != NULL);
    if (found)
        snprintf(text, sizeof text, "%.*s", (int)b.size, (const char *)b.data);
    cj_kernel_free(k);
    cj_blob_free(&b);
    return text;
}

static const char *entry_name(const cj_key *key)
{
    static char names[4][128];
    static unsigned turn;
    char *name = names[turn++ % 4];
    snprintf(name, sizeof names[0], "%s.%.16s.cjk", key->source_hex, key->compiler_hex);
    return name;
}

static const char *path_in(const char *dir, const char *name)
{
    static char paths[4][700];
    static unsigned turn;
    char *path = paths[turn++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", dir, name);
    return path;
}

static bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static unsigned mode_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (unsigned)st.st_mode & 07777 : 0;
}

static void age(const char *path, long seconds)
{
    struct timespec times[2] = {{time(NULL) - seconds, 0}, {time(NULL) - seconds, 0}};
    CHECK(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW) == 0);
}

/* ---- Tests ---- */

static void test_round_trip(void)
{
    log_lines log;
    char dir[512];
    snprintf(dir, sizeof dir, "%s", in_scratch("round/a//b/"));
    cj_cache *c = open_cache(dir, "", &log);
    item i = make_item("c1k1r1s1", identity, "binary of one");
    bool found = true;
    cj_kernel *k = NULL;
    cj_blob b = {0};
    cj_text before = {0}, after = {0};
    CHECK_STR(get(c, &i.key), "");
    CHECK(!exists(in_scratch("round"))); /* looking makes nothing */
    CHECK(put(c, &i));
    CHECK_INT(mode_of(in_scratch("round")), 0700);
    CHECK_INT(mode_of(in_scratch("round/a")), 0700);
    CHECK_INT(mode_of(dir), 0700);
    CHECK_INT(mode_of(path_in(dir, entry_name(&i.key))), 0600);
    CHECK_OK(cj_cache_get(c, &i.key, &found, &k, &b));
    CHECK(found && b.size == i.binary.size && memcmp(b.data, i.binary.data, b.size) == 0);
    CHECK(k && !k->source);
    CHECK_OK(cj_kernel_write(i.kernel, &before));
    CHECK_OK(cj_kernel_write(k, &after));
    CHECK_STR(after.data, before.data);
    CHECK(put(c, &i)); /* again: it is there already */
    CHECK_INT(log.n, 0);
    cj_text_free(&before);
    cj_text_free(&after);
    cj_kernel_free(k);
    cj_blob_free(&b);
    free_item(&i);
    cj_cache_close(c);
}

/* Puts back `bytes`, changed, and expects a miss, a line in the log, and the file gone. */
static bool is_removed_miss(cj_cache *c, const char *file, const cj_key *key, const void *bytes, size_t n,
                            log_lines *log)
{
    log->n = 0;
    return file_write(file, bytes, n) && !*get(c, key) && !exists(file) && log->n == 1 &&
           strncmp(log->last, "convjit,v1,cache,damaged,", 25) == 0;
}

static void test_damage(void)
{
    log_lines log;
    const char *dir = in_scratch("damage");
    cj_cache *c = open_cache(dir, "", &log);
    item i = make_item("c2k2r1s1", identity, "binary of two");
    CHECK(put(c, &i));
    char file[700];
    snprintf(file, sizeof file, "%s", path_in(dir, entry_name(&i.key)));
    cj_blob whole = file_read(file);
    CHECK_THAT(whole.size > 500, "the entry has %zu bytes", whole.size);
    size_t accepted = 0;
    for (size_t n = 0; n < whole.size; n++)
        accepted += !is_removed_miss(c, file, &i.key, whole.data, n, &log);
    CHECK_THAT(accepted == 0, "%zu truncated lengths were accepted", accepted);
    for (size_t at = 0; at < whole.size; at++)
        for (int bit = 0; bit < 8; bit += 7) {
            whole.data[at] ^= (unsigned char)(1 << bit);
            accepted += !is_removed_miss(c, file, &i.key, whole.data, whole.size, &log);
            whole.data[at] ^= (unsigned char)(1 << bit);
        }
    CHECK_THAT(accepted == 0, "%zu flipped bits were accepted", accepted);
    CHECK(is_removed_miss(c, file, &i.key, whole.data, whole.size + 1, &log)); /* file_read left room for one more */
    CHECK(file_write(file, whole.data, whole.size));
    CHECK_STR(get(c, &i.key), "binary of two");
    CHECK(file_write(file, whole.data, whole.size - 1));
    CHECK(put(c, &i)); /* replaces it */
    CHECK_STR(get(c, &i.key), "binary of two");
    cj_blob_free(&whole);
    free_item(&i);
    cj_cache_close(c);
}

/* An intact entry under another's name would be the wrong kernel. */
static void test_wrong_name(void)
{
    log_lines log;
    const char *dir = in_scratch("names");
    cj_cache *c = open_cache(dir, "", &log);
    item a = make_item("c3k3r1s1", identity, "binary of a"), b = make_item("c3k6r1s1", identity, "binary of b");
    cj_key long_match = a.key;
    CHECK(put(c, &a));
    CHECK(rename(path_in(dir, entry_name(&a.key)), path_in(dir, entry_name(&b.key))) == 0);
    CHECK_STR(get(c, &b.key), "");
    CHECK_HAS(log.last, "name is not that of its key");
    CHECK(put(c, &a));
    long_match.compiler_hex[40] ^= 1; /* behind what the name shows */
    CHECK_STR(get(c, &long_match), "");
    CHECK_STR(get(c, &a.key), "binary of a");
    bool stored = true;
    CHECK_FAILS(cj_cache_put(c, &a.key, b.key_text.data, a.kernel, &a.binary, &stored), CONVJIT_INVALID,
                "not that of the key");
    CHECK(!stored);
    free_item(&a);
    free_item(&b);
    cj_cache_close(c);
}

static void test_search_path(void)
{
    log_lines log;
    char path[1024];
    item first = make_item("c4k4r1s1", identity, "from the first");
    item second = make_item("c4k4r1s1", identity, "from the second");
    item own = make_item("c4k4r1s1", identity, "from our own");
    cj_cache *c = open_cache(in_scratch("ro1"), "", &log);
    CHECK(put(c, &first));
    cj_cache_close(c);
    c = open_cache(in_scratch("ro2"), "", &log);
    CHECK(put(c, &second));
    cj_cache_close(c);
    snprintf(path, sizeof path, ":%s::%s/:%s", in_scratch("nowhere"), in_scratch("ro1"), in_scratch("ro2"));
    c = open_cache(in_scratch("own"), path, &log);
    snprintf(path, sizeof path, "%s:%s:%s", in_scratch("nowhere"), in_scratch("ro1"), in_scratch("ro2"));
    CHECK_STR(cj_cache_search_path(c), path);
    CHECK(put(c, &own)); /* kept, though the search path has one */
    CHECK_STR(get(c, &first.key), "from the first");
    CHECK_INT(log.n, 1); /* the one that is not there */
    CHECK_STR(get(c, &first.key), "from the first");
    CHECK_INT(log.n, 1);
    const char *file = path_in(in_scratch("ro1"), entry_name(&first.key));
    CHECK(file_write(file, "damaged", 7));
    CHECK_STR(get(c, &first.key), "from the second");
    CHECK(exists(file)); /* not ours to remove */
    CHECK(unlink(path_in(in_scratch("ro2"), entry_name(&first.key))) == 0);
    CHECK_STR(get(c, &first.key), "from our own");
    cj_cache_close(c);
    c = open_cache("", in_scratch("ro1"), &log); /* memory only, and one to search */
    CHECK(!put(c, &own));
    CHECK_HAS(convjit_errmsg(), "memory only");
    CHECK_STR(get(c, &first.key), "");
    cj_cache_close(c);
    free_item(&first);
    free_item(&second);
    free_item(&own);
}

static void test_any_compiler(void)
{
    log_lines log;
    const char *dir = in_scratch("any");
    cj_cache *c = open_cache(dir, "", &log);
    item old = make_item("c5k5r1s1", "nvrtc 11", "of 11"), new = make_item("c5k5r1s1", "nvrtc 12", "of 12");
    item other = make_item("c5k10r1s1", "nvrtc 13", "of another"), none = make_item("c5k5r1s1", NULL, "never stored");
    CHECK_STR(get(c, &none.key), "");
    CHECK(put(c, &old));
    CHECK(put(c, &new));
    CHECK(put(c, &other));
    age(path_in(dir, entry_name(&old.key)), 1000);
    CHECK_STR(get(c, &none.key), "of 12");
    age(path_in(dir, entry_name(&new.key)), 2000);
    CHECK_STR(get(c, &none.key), "of 11");
    age(path_in(dir, entry_name(&old.key)), 2000); /* as old: by name */
    bool first = strcmp(entry_name(&old.key), entry_name(&new.key)) < 0;
    CHECK_STR(get(c, &none.key), first ? "of 11" : "of 12");
    CHECK(file_write(path_in(dir, entry_name(&old.key)), "damaged", 7)); /* the newest now, and no good */
    CHECK_STR(get(c, &none.key), "of 12");
    bool stored = true;
    CHECK_FAILS(cj_cache_put(c, &none.key, none.key_text.data, none.kernel, &none.binary, &stored), CONVJIT_INVALID,
                "without a compiler");
    free_item(&old);
    free_item(&new);
    free_item(&other);
    free_item(&none);
    cj_cache_close(c);
}

/* Expects that the directory is of no use, for the reason given, and that nothing fails. */
static void check_refused(const char *dir, const item *i, const char *reason)
{
    log_lines log;
    const char *why = NULL;
    cj_cache_entry *entries;
    size_t n;
    cj_cache *c = open_cache(dir, "", &log);
    CHECK_STR(get(c, &i->key), "");
    CHECK(!put(c, i));
    CHECK_HAS(convjit_errmsg(), reason);
    CHECK_HAS(convjit_errmsg(), dir);
    CHECK(!put(c, i));
    CHECK_INT(log.n, 1);
    CHECK_HAS(log.last, reason);
    CHECK(cj_cache_dir(c, &why) == NULL);
    CHECK_HAS(why, reason);
    CHECK_FAILS(cj_cache_ready(c), CONVJIT_IO, reason);
    CHECK_FAILS(cj_cache_list(c, &entries, &n), CONVJIT_IO, reason);
    CHECK_FAILS(cj_cache_prune(c, 0, &n), CONVJIT_IO, reason);
    CHECK_FAILS(cj_cache_clear(c, &n), CONVJIT_IO, reason);
    cj_cache_close(c);
}

static void test_untrusted_directories(void)
{
    log_lines log;
    item i = make_item("c6k6r1s1", identity, "binary of six");
    char dir[512];
    snprintf(dir, sizeof dir, "%s", in_scratch("shared"));
    cj_cache *c = open_cache(dir, "", &log);
    CHECK(put(c, &i));
    cj_cache_close(c);
    CHECK(chmod(dir, 0770) == 0);
    check_refused(dir, &i, "can be written to by other users (mode 0770)");
    CHECK(chmod(dir, 0702) == 0);
    check_refused(dir, &i, "(mode 0702)");
    c = open_cache("", dir, &log); /* nor is it searched */
    CHECK_STR(get(c, &i.key), "");
    CHECK_HAS(log.last, "(mode 0702)");
    CHECK(chmod(dir, 0755) == 0); /* repaired while the cache is open */
    CHECK_STR(get(c, &i.key), "binary of six");
    cj_cache_close(c);
    CHECK(file_write(in_scratch("file"), "", 0));
    check_refused(in_scratch("file"), &i, "Not a directory");
    check_refused(in_scratch("file/below"), &i, "Not a directory");
    if (geteuid() == 0) { /* only root can give files away */
        CHECK(chown(dir, 12345, 12345) == 0);
        check_refused(dir, &i, "belongs to user 12345, not to user 0");
    } else {
        check_refused("/", &i, "belongs to user 0");
    }
    free_item(&i);
}

/* A link to a directory is fine; in it, only plain files that nobody else can write to. */
static void test_links_and_odd_files(void)
{
    log_lines log;
    item i = make_item("c7k7r1s1", identity, "binary of seven");
    char real[512], file[700], aside[512];
    snprintf(real, sizeof real, "%s", in_scratch("real"));
    snprintf(aside, sizeof aside, "%s", in_scratch("aside"));
    snprintf(file, sizeof file, "%s", path_in(real, entry_name(&i.key)));
    CHECK(mkdir(real, 0700) == 0 && symlink(real, in_scratch("link")) == 0);
    cj_cache *c = open_cache(in_scratch("link"), "", &log);
    CHECK(put(c, &i));
    CHECK_STR(get(c, &i.key), "binary of seven");
    CHECK(rename(file, aside) == 0 && symlink(aside, file) == 0);
    CHECK_STR(get(c, &i.key), "");
    CHECK_HAS(log.last, "is a symbolic link");
    CHECK(!exists(file) && exists(aside));
    CHECK(mkfifo(file, 0600) == 0);
    CHECK_STR(get(c, &i.key), ""); /* without waiting for a writer */
    CHECK_HAS(log.last, "is not a plain file");
    CHECK(put(c, &i) && chmod(file, 0620) == 0);
    CHECK_STR(get(c, &i.key), "");
    CHECK_HAS(log.last, "can be written to by other users");
    CHECK(mkdir(file, 0700) == 0);
    CHECK_STR(get(c, &i.key), "");
    CHECK(!put(c, &i)); /* a directory is not replaced */
    CHECK(rmdir(file) == 0);
    CHECK(put(c, &i));
    free_item(&i);
    cj_cache_close(c);
}

static int count_temporaries(const char *dir)
{
    char command[600], line[32] = "";
    snprintf(command, sizeof command, "ls -A %s | grep -c convjit-tmp", dir);
    FILE *f = popen(command, "r");
    if (f && !fgets(line, sizeof line, f))
        line[0] = 0;
    if (f)
        pclose(f);
    return *line ? atoi(line) : -1;
}

/* A disk that takes no more bytes, and a process that may open no more files. */
static void test_limits(void)
{
    log_lines log;
    const char *dir = in_scratch("limits");
    struct rlimit before, limit;
    cj_cache *c = open_cache(dir, "", &log);
    item kept = make_item("c8k8r1s1", identity, "kept"), i = make_item("c8k16r1s1", identity, "not kept");
    CHECK(put(c, &kept));
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    limit = (struct rlimit){100, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
    bool stored = put(c, &i);
    setrlimit(RLIMIT_FSIZE, &before);
    CHECK(!stored);
    CHECK_HAS(convjit_errmsg(), "cannot write");
    CHECK_INT(log.n, 1);
    CHECK_INT(count_temporaries(dir), 0);
    CHECK_STR(get(c, &i.key), "");
    getrlimit(RLIMIT_NOFILE, &before);
    limit = (struct rlimit){0, before.rlim_max};
    setrlimit(RLIMIT_NOFILE, &limit);
    CHECK_STR(get(c, &kept.key), "");
    stored = put(c, &i);
    setrlimit(RLIMIT_NOFILE, &before);
    CHECK(!stored);
    CHECK_INT(log.n, 1); /* the directory has complained before */
    CHECK_STR(get(c, &kept.key), "kept");
    CHECK(put(c, &i));
    free_item(&kept);
    free_item(&i);
    cj_cache_close(c);
}

/* Where the writable directory is, by configuration and environment. */
static void check_dir(const char *configured, const char *expected)
{
    log_lines log;
    const char *why = NULL;
    cj_cache *c = open_cache(configured, "", &log);
    const char *dir = cj_cache_dir(c, &why);
    if (expected)
        CHECK_STR(dir, expected);
    else
        CHECK(!dir && why && *why);
    cj_cache_close(c);
}

static void test_resolution(void)
{
    char here[400], relative[512];
    setenv("CONVJIT_CACHE_DIR", "/tmp/convjit-none/env", 1);
    setenv("XDG_CACHE_HOME", "/tmp/convjit-none/xdg", 1);
    setenv("HOME", "/tmp/convjit-none/home", 1);
    check_dir("/tmp/convjit-none/given", "/tmp/convjit-none/given");
    check_dir("/", geteuid() == 0 ? "/" : NULL);
    check_dir("", NULL);
    check_dir(NULL, "/tmp/convjit-none/env");
    CHECK(getcwd(here, sizeof here) != NULL);
    snprintf(relative, sizeof relative, "%s/some/where", here);
    check_dir("some/where/", relative);
    setenv("CONVJIT_CACHE_DIR", "", 1); /* memory only, as in the configuration */
    check_dir(NULL, NULL);
    unsetenv("CONVJIT_CACHE_DIR");
    check_dir(NULL, "/tmp/convjit-none/xdg/convjit");
    setenv("XDG_CACHE_HOME", "not/absolute", 1);
    check_dir(NULL, "/tmp/convjit-none/home/.cache/convjit");
    unsetenv("XDG_CACHE_HOME");
    check_dir(NULL, "/tmp/convjit-none/home/.cache/convjit");
    unsetenv("HOME");
    check_dir(NULL, NULL);
}

static void test_list(void)
{
    log_lines log;
    const char *dir = in_scratch("list");
    cj_cache_entry *e = NULL;
    size_t n = 9;
    cj_cache *c = open_cache(dir, "", &log);
    CHECK_OK(cj_cache_list(c, &e, &n)); /* not there yet: empty */
    CHECK_INT(n, 0);
    cj_cache_list_free(e, n);
    item a = make_item("c9k9r1s1", identity, "a"), b = make_item("c9k18r1s1", identity, "b");
    CHECK(put(c, &a) && put(c, &b));
    CHECK(file_write(path_in(dir, "zzz.cjk"), "x", 1));
    CHECK(file_write(path_in(dir, "README"), "x", 1));
    CHECK_OK(cj_cache_list(c, &e, &n));
    CHECK_INT(n, 3);
    bool a_first = strcmp(entry_name(&a.key), entry_name(&b.key)) < 0;
    for (size_t i = 0; n == 3 && i < 2; i++) {
        const item *it = (i == 0) == a_first ? &a : &b;
        CHECK_STR(e[i].file, entry_name(&it->key));
        CHECK_STR(e[i].tuple, it->kernel->tuple);
        CHECK_STR(e[i].schedule, "direct:kt=64,pt=4");
        CHECK_STR(e[i].arch, "sm_90a");
        CHECK_INT(e[i].status, CONVJIT_OK);
        CHECK(e[i].bytes > 500 && e[i].mtime > time(NULL) - 60 && !e[i].damage);
    }
    if (n == 3) {
        CHECK_STR(e[2].file, "zzz.cjk");
        CHECK_INT(e[2].status, CONVJIT_CORRUPT);
        CHECK_HAS(e[2].damage, "too few");
        CHECK(!e[2].tuple);
    }
    cj_cache_list_free(e, n);
    free_item(&a);
    free_item(&b);
    cj_cache_close(c);
}

/* Leaves a temporary file whose writer died over it; the dead process is still there as a zombie. */
static pid_t leave_temporary(const char *dir)
{
    pid_t child = fork();
    if (child == 0) {
        cj_writer w;
        int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        _exit(!(fd >= 0 && cj_writer_open(&w, fd, 0600) && cj_writer_add(&w, "half", 4)));
    }
    siginfo_t info;
    CHECK(child > 0 && waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0 && info.si_status == 0);
    return child;
}

static void test_prune_and_clear(void)
{
    log_lines log;
    const char *dir = in_scratch("prune");
    size_t removed = 9;
    cj_cache *c = open_cache(dir, "", &log);
    CHECK_OK(cj_cache_prune(c, 0, &removed));
    CHECK_INT(removed, 0);
    item items[4];
    struct stat st;
    for (int i = 0; i < 4; i++) {
        static const char *const tuples[] = {"c1k1r3s3", "c1k2r3s3", "c1k3r3s3", "c1k4r3s3"};
        items[i] = make_item(tuples[i], identity, "some binary");
        CHECK(put(c, &items[i]));
        age(path_in(dir, entry_name(&items[i].key)), 1000 - 100 * i);
    }
    CHECK(stat(path_in(dir, entry_name(&items[0].key)), &st) == 0);
    pid_t gone = leave_temporary(dir);
    cj_writer alive;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    CHECK(fd >= 0 && cj_writer_open(&alive, fd, 0600) && cj_writer_add(&alive, "half", 4));
    CHECK(file_write(path_in(dir, ".convjit-tmp-mine"), "x", 1));
    CHECK(file_write(path_in(dir, ".convjit-tmp-1-0123456789abcdef0"), "x", 1));
    CHECK(file_write(path_in(dir, "broken.cjk"), "x", 1));
    CHECK_INT(count_temporaries(dir), 4);
    CHECK_OK(cj_cache_prune(c, 0, &removed));
    CHECK_INT(removed, 2); /* the dead process's, and the broken entry */
    CHECK_INT(count_temporaries(dir), 3);
    CHECK(waitpid(gone, NULL, 0) == gone);
    CHECK(exists(path_in(dir, alive.temporary)));
    cj_writer_discard(&alive);
    close(fd);
    CHECK_INT(count_temporaries(dir), 2); /* whose names are only similar */
    CHECK_OK(cj_cache_prune(c, (uint64_t)st.st_size * 2 + 10, &removed));
    CHECK_INT(removed, 2);
    CHECK_STR(get(c, &items[0].key), "");
    CHECK_STR(get(c, &items[1].key), "");
    CHECK_STR(get(c, &items[2].key), "some binary");
    CHECK_STR(get(c, &items[3].key), "some binary");
    CHECK(file_write(path_in(dir, "README"), "x", 1));
    CHECK_OK(cj_cache_clear(c, &removed));
    CHECK_INT(removed, 2);
    CHECK_STR(get(c, &items[3].key), "");
    CHECK(exists(path_in(dir, "README")) && exists(path_in(dir, ".convjit-tmp-mine")));
    for (int i = 0; i < 4; i++)
        free_item(&items[i]);
    cj_cache_close(c);
}

/* ---- Many at once: every look-up is a miss or right, however entries come, go and are damaged ---- */

enum { KEYS = 5, THREADS = 8, ROUNDS = 300 };

typedef struct crowd { cj_cache *cache; item items[KEYS]; char paths[KEYS][700]; int id, wrong, hits, damaged; } crowd;

static void look(crowd *w, const item *i)
{
    bool found = false;
    cj_kernel *k = NULL;
    cj_blob b = {0};
    w->wrong += cj_cache_get(w->cache, &i->key, &found, &k, &b) != CONVJIT_OK;
    w->wrong += found && (b.size != i->binary.size || memcmp(b.data, i->binary.data, b.size) != 0);
    w->hits += found;
    cj_kernel_free(k);
    cj_blob_free(&b);
}

/* The first thread damages entries now and then, the second removes some; otherwise each puts what it looked for. */
static void *jostle(void *user)
{
    crowd *w = user;
    for (int round = 0; round < ROUNDS; round++) {
        const item *i = &w->items[(round * 7 + w->id) % KEYS];
        look(w, i);
        if (w->id == 0 && round % 3 == 0)
            w->damaged += truncate(w->paths[round % KEYS], 100) == 0;
        else if (w->id == 1 && round % 5 == 0)
            unlink(w->paths[round % KEYS]);
        else
            w->wrong += cj_cache_put(w->cache, &i->key, i->key_text.data, i->kernel, &i->binary, NULL) != CONVJIT_OK;
    }
    return NULL;
}

static void test_crowd(void)
{
    static crowd all[THREADS];
    pthread_t threads[THREADS];
    int wrong = 0, hits = 0;
    const char *dir = in_scratch("crowd");
    all[0].cache = open_cache(dir, "", NULL);
    for (int i = 0; i < KEYS; i++) {
        char tuple[32], binary[32];
        snprintf(tuple, sizeof tuple, "c%dk1r1s1", i + 1);
        snprintf(binary, sizeof binary, "binary %d", i);
        all[0].items[i] = make_item(tuple, identity, binary);
        snprintf(all[0].paths[i], sizeof all[0].paths[i], "%s/%s", dir, entry_name(&all[0].items[i].key));
    }
    for (int t = 0; t < THREADS; t++) {
        all[t] = all[0];
        all[t].id = t;
    }
    for (int t = 0; t < THREADS; t++)
        pthread_create(&threads[t], NULL, jostle, &all[t]);
    for (int t = 0; t < THREADS; t++) {
        pthread_join(threads[t], NULL);
        wrong += all[t].wrong;
        hits += all[t].hits;
    }
    CHECK_INT(wrong, 0);
    CHECK_THAT(hits > ROUNDS, "only %d hits", hits);
    CHECK(all[0].damaged > 0);
    for (int i = 0; i < KEYS; i++)
        free_item(&all[0].items[i]);
    cj_cache_close(all[0].cache);
}

int main(void)
{
    umask(0002); /* modes must not depend on it */
    if (!scratch_make())
        return EXIT_FAILURE;
    test_round_trip();
    test_damage();
    test_wrong_name();
    test_search_path();
    test_any_compiler();
    test_untrusted_directories();
    test_links_and_odd_files();
    test_limits();
    test_list();
    test_prune_and_clear();
    test_crowd();
    test_resolution();
    return check_done("cache");
}
