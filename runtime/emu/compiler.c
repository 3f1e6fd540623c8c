/* compiler.c: the host's C++ compiler as a cj_compiler: kernel text in, a shared object for the emulated device out.
 *
 * The compiler is $CONVJIT_CXX ("none": there is none), else the first of c++, g++ and clang++ on PATH. It is started
 * directly, with no shell, in a private temporary directory, and everything it sees is in there: the kernel text, device.h
 * and device_abi.h, and a unit that includes both and ends in the table of entry points.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "internal.h"

extern char **environ;

/* The sanitizers only make the compiler call us (see device.h); -nostdlib keeps their run-time libraries out. */
static const char *const common_flags[] = {
    "-std=c++17", "-O1", "-g1", "-w", "-pipe", "-fPIC", "-shared", "-nostdlib", "-fvisibility=hidden", "-fno-exceptions",
    "-fno-rtti", "-fno-math-errno", "-fno-strict-aliasing", "-fno-delete-null-pointer-checks", "-fno-stack-protector",
    "-ffp-contract=off", "-fsanitize=thread,alignment", "-DCONVJIT_EMU",
};
enum { N_COMMON = sizeof common_flags / sizeof *common_flags, MAX_FLAGS = N_COMMON + 8 };

#if defined(__x86_64__)
#define HOST "x86-64"
#elif defined(__aarch64__)
#define HOST "aarch64"
#else
#define HOST "other"
#endif

typedef struct emu_compiler {
    cj_compiler base; /* first: the runtime knows only this */
    pthread_mutex_t lock; /* guards the search */
    char *program;    /* NULL until found */
    char *identity;
} emu_compiler;

/* Flags that depend on the host's CPU are part of the identity; device_abi.h says how a module tells which it needs. */
static int host_flags(const char *flags[MAX_FLAGS])
{
    int n = 0;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("fma"))
        flags[n++] = "-mfma";
#elif defined(__aarch64__)
    flags[n++] = "-mno-outline-atomics";
#endif
    return n;
}

/* ---- Running a program ---- */

static bool read_all(int fd, cj_text *out)
{
    char bytes[4096];
    for (;;) {
        ssize_t n = read(fd, bytes, sizeof bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n == 0;
        cj_text_add(out, bytes, (size_t)n);
    }
}

/* Whether a child ended well. A host that ignores SIGCHLD leaves nothing to wait for: then its output must tell. */
static bool wait_for(pid_t child)
{
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return errno == ECHILD;
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static bool set_up(posix_spawn_file_actions_t *actions, const char *directory, int output)
{
    return (!directory || posix_spawn_file_actions_addchdir_np(actions, directory) == 0) &&
           posix_spawn_file_actions_addopen(actions, 0, "/dev/null", O_RDONLY, 0) == 0 &&
           posix_spawn_file_actions_adddup2(actions, output, 1) == 0 &&
           posix_spawn_file_actions_adddup2(actions, output, 2) == 0;
}

/* Runs a program and collects what it prints. 0, or an errno if it could not be started. */
static int run(const char *const argv[], const char *directory, cj_text *output, bool *succeeded)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return errno;
    posix_spawn_file_actions_t actions;
    pid_t child = 0;
    int error = posix_spawn_file_actions_init(&actions);
    if (!error) {
        error = set_up(&actions, directory, ends[1])
                    ? posix_spawnp(&child, argv[0], &actions, NULL, (char *const *)(uintptr_t)argv, environ) : ENOMEM;
        posix_spawn_file_actions_destroy(&actions);
    }
    close(ends[1]);
    if (!error) {
        bool complete = read_all(ends[0], output);
        *succeeded = wait_for(child) && complete;
    }
    close(ends[0]);
    return error;
}

/* ---- Which compiler ---- */

/* The first line of --version, in `out`; false if the program does not run. */
static bool ask_version(const char *program, cj_text *out)
{
    const char *const argv[] = {program, "--version", NULL};
    cj_text text = {0};
    bool succeeded = false;
    if (run(argv, NULL, &text, &succeeded) == 0 && succeeded && text.length > 0 && !text.failed)
        cj_text_add(out, text.data, strcspn(text.data, "\n"));
    cj_text_free(&text);
    return out->length > 0;
}

/* The program's name as posix_spawnp will find it from another working directory. */
static char *stable_name(const char *program)
{
    return strchr(program, '/') ? realpath(program, NULL) : strdup(program);
}

static void describe(cj_text *identity)
{
    const char *flags[MAX_FLAGS];
    int n = host_flags(flags);
    cj_text headers = {0};
    for (size_t i = 0; i < cj_embedded_count; i++)
        if (strncmp(cj_embedded_files[i].name, "runtime/emu/device", 18) == 0)
            cj_text_add(&headers, cj_embedded_files[i].text, cj_embedded_files[i].length + 1);
    char hex[65];
    cj_sha256_hex(headers.data, headers.length, hex);
    cj_text_printf(identity, "; emulated device on %s %.16s;", HOST, hex);
    for (int i = 0; i < N_COMMON; i++)
        cj_text_printf(identity, " %s", common_flags[i]);
    for (int i = 0; i < n; i++)
        cj_text_printf(identity, " %s", flags[i]);
    identity->failed |= headers.failed;
    cj_text_free(&headers);
}

/* Finds the compiler; the caller holds the lock. */
static convjit_status find_compiler(emu_compiler *c)
{
    static const char *const usual[] = {"c++", "g++", "clang++"};
    const char *chosen = getenv("CONVJIT_CXX");
    if (chosen && strcmp(chosen, "none") == 0)
        return cj_fail(CONVJIT_NO_COMPILER, "the emulated device needs a C++ compiler, and CONVJIT_CXX is \"none\"");
    bool given = chosen && *chosen;
    cj_text identity = {0};
    const char *program = NULL;
    for (size_t i = 0; i < (given ? 1 : sizeof usual / sizeof *usual) && !program; i++)
        program = ask_version(given ? chosen : usual[i], &identity) ? (given ? chosen : usual[i]) : NULL;
    if (!program)
        return given ? cj_fail(CONVJIT_NO_COMPILER, "the emulated device needs a C++ compiler: tried %s (from CONVJIT_CXX), "
                               "which does not run", chosen)
                     : cj_fail(CONVJIT_NO_COMPILER, "the emulated device needs a C++ compiler: tried CONVJIT_CXX (not set) and "
                               "c++, g++, clang++ on PATH");
    describe(&identity);
    char *name = stable_name(program);
    convjit_status status = name ? cj_text_take(&identity, &c->identity) : cj_fail(CONVJIT_NO_MEMORY, "out of memory");
    if (status) {
        free(name);
        cj_text_free(&identity);
        return status;
    }
    c->program = name;
    return CONVJIT_OK;
}

static convjit_status find_once(emu_compiler *c)
{
    pthread_mutex_lock(&c->lock);
    convjit_status status = c->program ? CONVJIT_OK : find_compiler(c);
    pthread_mutex_unlock(&c->lock);
    return status;
}

static const char *get_identity(cj_compiler *base)
{
    emu_compiler *c = (emu_compiler *)(void *)base;
    return find_once(c) == CONVJIT_OK ? c->identity : NULL;
}

/* ---- Files of a compilation ---- */

static convjit_status write_file(const char *directory, const char *name, const char *text, size_t length)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "wb");
    bool written = file && fwrite(text, 1, length, file) == length;
    if (file && fclose(file) != 0)
        written = false;
    return written ? CONVJIT_OK : cj_fail(CONVJIT_IO, "%s: cannot be written: %s", path, strerror(errno));
}

static const char *base_name(const char *name)
{
    const char *slash = strrchr(name, '/');
    return slash ? slash + 1 : name;
}

static convjit_status write_headers(const char *directory)
{
    convjit_status status = CONVJIT_OK;
    for (size_t i = 0; i < cj_embedded_count && status == CONVJIT_OK; i++)
        if (strncmp(cj_embedded_files[i].name, "runtime/emu/device", 18) == 0)
            status = write_file(directory, base_name(cj_embedded_files[i].name), cj_embedded_files[i].text,
                                cj_embedded_files[i].length);
    return status;
}

static const struct { const char *name; char letter; } argument_kinds[CJ_ARG_KIND_COUNT] = {
    [CJ_ARG_INPUT] = {"input", 'p'},       [CJ_ARG_WEIGHTS] = {"weights", 'p'}, [CJ_ARG_BIAS] = {"bias", 'p'},
    [CJ_ARG_RESIDUAL] = {"residual", 'p'}, [CJ_ARG_OUTPUT] = {"output", 'p'},   [CJ_ARG_WORKSPACE] = {"workspace", 'p'},
    [CJ_ARG_PACKED] = {"packed", 'p'},
    [CJ_ARG_I32] = {"i32", 'i'},           [CJ_ARG_I64] = {"i64", 'l'},
    [CJ_ARG_TENSOR_MAP] = {"tensor_map", 't'},
};

static bool is_repeated(const cj_kernel *k, int i)
{
    for (int j = 0; j < i; j++)
        if (strcmp(k->launches[j].entry, k->launches[i].entry) == 0)
            return true;
    return false;
}

/* Where the word ends that stands before `at`, blanks left out; at most `from`. */
static const char *before_blanks(const char *from, const char *at)
{
    while (at > from && strchr(" \t\n", at[-1]))
        at--;
    return at;
}

/* The arguments of the __launch_bounds__ in front of the first mention of a function's name, if there are any. */
static void add_launch_bounds(cj_text *out, const char *source, const char *entry)
{
    static const char word[] = "__launch_bounds__";
    const size_t length = sizeof word - 1;
    for (const char *name = source; (name = strstr(name, entry)); name += strlen(entry)) {
        const char *end = before_blanks(source, name), *open = end;
        int depth = 0;
        if (end == source || end[-1] != ')' || name[strlen(entry)] != '(')
            continue;
        do {
            open--;
            depth += *open == ')' ? 1 : *open == '(' ? -1 : 0;
        } while (depth > 0 && open > source);
        const char *before = before_blanks(source, open);
        if (depth == 0 && (size_t)(before - source) >= length && strncmp(before - length, word, length) == 0) {
            cj_text_add(out, open + 1, (size_t)(end - 1 - (open + 1)));
            return;
        }
    }
}

/* The table of entry points, each compared with the kernel's own parameter list by the compiler. */
static convjit_status write_unit(const char *directory, const cj_kernel *k)
{
    cj_text unit = {0}, table = {0};
    int n = 0;
    cj_text_puts(&unit, "#include \"device.h\"\n#include \"kernel.cu\"\n");
    for (int i = 0; i < k->n_launches; i++) {
        const cj_launch *launch = &k->launches[i];
        if (is_repeated(k, i))
            continue;
        cj_text_printf(&unit, "static_assert(cj_emu_kernel<%s>::takes(\"", launch->entry);
        for (int a = 0; a < launch->n_args; a++)
            cj_text_add(&unit, &argument_kinds[launch->args[a].kind].letter, 1);
        cj_text_printf(&unit, "\"), \"the parameters of %s are not those of the launch table\");\n", launch->entry);
        cj_text_printf(&table, "    CJ_EMU_ENTRY(%s, \"", launch->entry);
        for (int a = 0; a < launch->n_args; a++)
            cj_text_printf(&table, "%s%s", a ? "," : "", argument_kinds[launch->args[a].kind].name);
        cj_text_puts(&table, "\", ");
        add_launch_bounds(&table, k->source, launch->entry);
        cj_text_puts(&table, "),\n");
        n++;
    }
    cj_text_printf(&unit, "static const cj_emu_entry cj_emu_entries[] = {\n%s};\n", table.data ? table.data : "");
    cj_text_printf(&unit, "CJ_EMU_MODULE(cj_emu_entries, %d)\n", n);
    convjit_status status = unit.failed || table.failed ? cj_fail(CONVJIT_NO_MEMORY, "out of memory")
                                                        : write_file(directory, "unit.cpp", unit.data, unit.length);
    cj_text_free(&unit);
    cj_text_free(&table);
    return status;
}

static convjit_status read_module(const char *directory, cj_blob *binary)
{
    char path[4200];
    snprintf(path, sizeof path, "%s/module.so", directory);
    cj_text bytes = {0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool complete = fd >= 0 && read_all(fd, &bytes);
    if (fd >= 0)
        close(fd);
    if (!complete || bytes.failed || bytes.length == 0) {
        cj_text_free(&bytes);
        return cj_fail(CONVJIT_IO, "%s: the compiler's output cannot be read", path);
    }
    binary->data = (unsigned char *)bytes.data;
    binary->size = bytes.length;
    return CONVJIT_OK;
}

static void remove_files(const char *directory)
{
    static const char *const ours[] = {"kernel.cu", "unit.cpp", "module.so"};
    char path[4200];
    for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, ours[i]);
        unlink(path);
    }
    for (size_t i = 0; i < cj_embedded_count; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, base_name(cj_embedded_files[i].name));
        unlink(path);
    }
    rmdir(directory);
}

/* ---- Compiling ---- */

static convjit_status run_compiler(const emu_compiler *c, const char *directory, const char *name)
{
    char map[4200];
    snprintf(map, sizeof map, "-ffile-prefix-map=%s=.", directory); /* no path of this machine in the module */
    const char *argv[MAX_FLAGS + 8], *flags[MAX_FLAGS];
    int n = 0, n_flags = host_flags(flags);
    argv[n++] = c->program;
    for (int i = 0; i < N_COMMON; i++)
        argv[n++] = common_flags[i];
    for (int i = 0; i < n_flags; i++)
        argv[n++] = flags[i];
    /* Clang's "bounds" has a part that ends the process. */
    argv[n++] = strstr(c->identity, "clang") ? "-fsanitize=array-bounds" : "-fsanitize=bounds";
    argv[n++] = map;
    argv[n++] = "unit.cpp";
    argv[n++] = "-o";
    argv[n++] = "module.so";
    argv[n++] = "-lm";
    argv[n] = NULL;
    cj_text log = {0};
    bool succeeded = false;
    int error = run(argv, directory, &log, &succeeded);
    convjit_status status = CONVJIT_OK;
    if (error)
        status = cj_fail(CONVJIT_NO_COMPILER, "%s cannot be started: %s", c->program, strerror(error));
    else if (!succeeded)
        status = cj_fail(CONVJIT_COMPILE, "%s refused %s:\n%s", c->program, name, log.data ? log.data : "(no message)");
    cj_text_free(&log);
    return status;
}

static convjit_status compile(cj_compiler *base, const cj_kernel *k, cj_blob *binary)
{
    emu_compiler *c = (emu_compiler *)(void *)base;
    convjit_status status = find_once(c);
    if (status)
        return status;
    const char *parent = getenv("TMPDIR");
    char directory[4096];
    int length = snprintf(directory, sizeof directory, "%s/convjit-XXXXXX", parent && *parent ? parent : "/tmp");
    if (length >= (int)sizeof directory || !mkdtemp(directory))
        return cj_fail(CONVJIT_IO, "no temporary directory %s: %s", directory, strerror(errno));
    status = write_headers(directory);
    if (status == CONVJIT_OK)
        status = write_file(directory, "kernel.cu", k->source, strlen(k->source));
    if (status == CONVJIT_OK)
        status = write_unit(directory, k);
    if (status == CONVJIT_OK)
        status = run_compiler(c, directory, k->name);
    if (status == CONVJIT_OK)
        status = read_module(directory, binary);
    remove_files(directory);
    return status;
}

/* ---- Open, close ---- */

void cj_emu_compiler_info(cj_compiler *base, cj_text *json)
{
    const char *identity = get_identity(base);
    cj_text_puts(json, identity ? "{\"program\":" : "{\"error\":");
    cj_text_json(json, identity ? ((emu_compiler *)(void *)base)->program : convjit_errmsg());
    if (identity) {
        cj_text_puts(json, ",\"identity\":");
        cj_text_json(json, identity);
    }
    cj_text_puts(json, "}");
}

static void close_compiler(cj_compiler *base)
{
    emu_compiler *c = (emu_compiler *)(void *)base;
    pthread_mutex_destroy(&c->lock);
    free(c->program);
    free(c->identity);
    free(c);
}

convjit_status cj_emu_compiler_open(cj_compiler **out, const convjit_config *config)
{
    emu_compiler *c = calloc(1, sizeof *c);
    if (!c)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory");
    c->base = (cj_compiler){.kind = "host " HOST, .identity = get_identity, .compile = compile, .close = close_compiler};
    pthread_mutex_init(&c->lock, NULL);
    *out = &c->base;
    return CONVJIT_OK;
}
