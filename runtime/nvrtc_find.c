/* nvrtc_find.c: where the NVRTC library is on this machine.
 *
 * Loading NVRTC costs up to a quarter of a second, and a program that is served from the cache never needs it, only its
 * identity. So places are looked at with stat, and the loader is asked only where nothing else knows an answer. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "internal.h"

#if defined(__aarch64__)
#define TRIPLET "aarch64-linux-gnu"
#define TOOLKIT_TARGET "targets/sbsa-linux/lib"
#else
#define TRIPLET "x86_64-linux-gnu"
#define TOOLKIT_TARGET "targets/x86_64-linux/lib"
#endif

enum { PYTHON_TIMEOUT_MS = 10000 };

typedef struct search {
    const char *const *names;
    char *file;     /* the answer: resolved, malloc'd; NULL while there is none */
    cj_text *tried;
} search;

/* ---- places on disk ---- */

/* A place is listed once, however many ways lead to it. */
static void note(search *s, const char *place)
{
    size_t length = strlen(place);
    for (const char *line = s->tried->data; line && *line; line = strchr(line, '\n') + 1)
        if (strncmp(line, place, length) == 0 && line[length] == '\n')
            return;
    cj_text_printf(s->tried, "%s\n", place);
}

static bool is_file(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0;
}

/* Looks for every name in dir/sub; sub may be "". */
static bool look_in(search *s, const char *dir, const char *sub)
{
    cj_text place = {0};
    cj_text_printf(&place, "%s%s%s", dir, *sub ? "/" : "", sub);
    if (!place.failed)
        note(s, place.data);
    for (const char *const *name = s->names; *name && !s->file && !place.failed; name++) {
        cj_text path = {0};
        cj_text_printf(&path, "%s/%s", place.data, *name);
        if (!path.failed && is_file(path.data))
            s->file = realpath(path.data, NULL);
        cj_text_free(&path);
    }
    cj_text_free(&place);
    return s->file != NULL;
}

/* The directories of a colon-separated list. An empty entry would mean the working directory: no place to take code
 * from. */
static bool look_in_list(search *s, const char *list)
{
    char *copy = list ? strdup(list) : NULL, *rest = NULL;
    for (char *dir = copy ? strtok_r(copy, ":;", &rest) : NULL; dir && !s->file; dir = strtok_r(NULL, ":;", &rest))
        look_in(s, dir, "");
    free(copy);
    return s->file != NULL;
}

static bool look_in_toolkit(search *s, const char *root)
{
    return root && *root && (look_in(s, root, "lib64") || look_in(s, root, "lib") || look_in(s, root, TOOLKIT_TARGET));
}

static int newest_first(const void *a, const void *b)
{
    return strverscmp(*(char *const *)b, *(char *const *)a);
}

static bool look_in_toolkits(search *s, const char *pattern)
{
    glob_t found;
    if (glob(pattern, 0, NULL, &found) != 0) {
        note(s, pattern);
        return false;
    }
    qsort(found.gl_pathv, found.gl_pathc, sizeof *found.gl_pathv, newest_first);
    for (size_t i = 0; i < found.gl_pathc && !s->file; i++)
        look_in_toolkit(s, found.gl_pathv[i]);
    globfree(&found);
    return s->file != NULL;
}

/* ---- the loader ---- */

/* Has the loader find a name, and asks it which file that is. It stays loaded: whoever asks wants to use it. */
static bool ask_loader(search *s, const char *name)
{
    struct link_map *map;
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library && dlinfo(library, RTLD_DI_LINKMAP, &map) == 0)
        s->file = realpath(map->l_name, NULL);
    return s->file != NULL;
}

static bool ask_loader_for_any(search *s)
{
    note(s, "the loader's path (dlopen by bare name)");
    for (const char *const *name = s->names; *name; name++)
        if (ask_loader(s, *name))
            return true;
    return false;
}

/* ---- the wheel of the Python on PATH ---- */

static int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Reads until the other end closes, but not beyond the deadline. */
static bool read_all(int fd, cj_text *out, int64_t deadline)
{
    char buffer[4096];
    for (;;) {
        struct pollfd ready = {.fd = fd, .events = POLLIN};
        int64_t left = deadline - now_ms();
        int n = left > 0 ? poll(&ready, 1, (int)left) : 0;
        if (n < 0 && errno == EINTR)
            continue;
        ssize_t got = n > 0 ? read(fd, buffer, sizeof buffer) : -1;
        if (got <= 0)
            return got == 0 && !out->failed;
        cj_text_add(out, buffer, (size_t)got);
    }
}

static bool spawn_python(char *const argv[], int output, pid_t *pid)
{
    posix_spawn_file_actions_t actions;
    if (posix_spawn_file_actions_init(&actions) != 0)
        return false;
    bool ok = posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0) == 0 &&
              posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0) == 0 &&
              posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO) == 0 &&
              posix_spawnp(pid, argv[0], &actions, NULL, argv, environ) == 0;
    posix_spawn_file_actions_destroy(&actions);
    return ok;
}

/* What `python3` on PATH has as its module path, one directory a line. No shell takes part. */
static bool python_path(cj_text *out)
{
    static char python[] = "python3", flag[] = "-c";
    static char code[] = "import os, sys; os.write(1, b'\\n'.join(map(os.fsencode, sys.path)))";
    char *argv[] = {python, flag, code, NULL};
    int ends[2];
    pid_t pid;
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    bool started = spawn_python(argv, ends[1], &pid);
    close(ends[1]);
    bool ok = started && read_all(ends[0], out, now_ms() + PYTHON_TIMEOUT_MS);
    close(ends[0]);
    if (started) {
        if (!ok)
            kill(pid, SIGKILL);
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            continue;
    }
    return ok;
}

static bool look_in_wheels(search *s)
{
    cj_text path = {0};
    char *rest = NULL;
    note(s, "the nvidia-cuda-nvrtc wheel of the python3 on PATH");
    bool known = python_path(&path) && path.data;
    char *dir = known ? strtok_r(path.data, "\n", &rest) : NULL;
    for (; dir && !s->file; dir = strtok_r(NULL, "\n", &rest))
        if (!look_in(s, dir, "nvidia/cu13/lib"))
            look_in(s, dir, "nvidia/cuda_nvrtc/lib");
    cj_text_free(&path);
    return s->file != NULL;
}

/* ---- the search ---- */

/* secure_getenv: a program with more rights than its user takes no code from where that user says. */
static bool search_everywhere(search *s)
{
    static const char usual[] = "/usr/local/lib:/usr/lib/" TRIPLET ":/lib/" TRIPLET ":/usr/lib64:/usr/lib";
    return look_in_list(s, secure_getenv("LD_LIBRARY_PATH")) || look_in_list(s, usual) ||
           look_in_toolkit(s, secure_getenv("CUDA_HOME")) || look_in_toolkit(s, secure_getenv("CUDA_PATH")) ||
           look_in_toolkit(s, "/usr/local/cuda") || look_in_toolkits(s, "/usr/local/cuda-*") || ask_loader_for_any(s) ||
           (secure_getenv("PATH") && look_in_wheels(s));
}

static convjit_status find_configured(search *s, const char *configured)
{
    note(s, configured);
    if (is_file(configured))
        s->file = realpath(configured, NULL);
    else if (!strchr(configured, '/'))
        ask_loader(s, configured);
    return s->file ? CONVJIT_OK :
        cj_fail(CONVJIT_NO_COMPILER, "NVRTC is configured as \"%s\", which is no library file", configured);
}

static convjit_status fail_not_found(const search *s)
{
    cj_text text = {0};
    for (const char *const *name = s->names; *name; name++)
        cj_text_printf(&text, "%s%s", name == s->names ? "" : ", ", *name);
    cj_text_puts(&text, "; looked in");
    for (const char *line = s->tried->data; line && *line;) {
        size_t length = strcspn(line, "\n");
        cj_text_printf(&text, "\n  %.*s", (int)length, line);
        line += length + 1;
    }
    convjit_status status = text.failed ? cj_fail(CONVJIT_NO_MEMORY, "out of memory") :
        cj_fail(CONVJIT_NO_COMPILER, "no NVRTC library found (set CONVJIT_NVRTC to its path): no %s", text.data);
    cj_text_free(&text);
    return status;
}

convjit_status cj_nvrtc_find(const char *configured, const char *const names[], char **file, cj_text *tried)
{
    search s = {.names = names, .tried = tried};
    convjit_status status = configured ? find_configured(&s, configured) :
                            search_everywhere(&s) ? CONVJIT_OK : fail_not_found(&s);
    if (status == CONVJIT_OK)
        *file = s.file;
    return status;
}
