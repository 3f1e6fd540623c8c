/* nvrtc.c: a fake libnvrtc for tests; fake.h says what it does and how to steer it. */
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "fake.h"

#define EXPORT(type, name, parameters) \
    type name parameters;              \
    __attribute__((visibility("default"))) type name parameters

enum { SUCCESS = 0, OUT_OF_MEMORY = 1, INVALID_INPUT = 3, INVALID_PROGRAM = 4, INVALID_OPTION = 5, COMPILATION = 6 };

typedef struct program {
    unsigned magic; /* PROGRAM while it lives */
    char *source, *name;
    char *cubin;
    size_t cubin_size;
    char log[512];
} program;

enum { PROGRAM = 0x70726f67 };

static atomic_int compiles;

EXPORT(int, fake_nvrtc_compiles, (void))
{
    return compiles;
}

EXPORT(int, nvrtcVersion, (int *major, int *minor))
{
    *major = 99;
    *minor = 1;
    return SUCCESS;
}

EXPORT(const char *, nvrtcGetErrorString, (int result))
{
    static const char *const names[] = {
        "NVRTC_SUCCESS",
        "NVRTC_ERROR_OUT_OF_MEMORY",
        "NVRTC_ERROR_PROGRAM_CREATION_FAILURE",
        "NVRTC_ERROR_INVALID_INPUT",
        "NVRTC_ERROR_INVALID_PROGRAM",
        "NVRTC_ERROR_INVALID_OPTION",
        "NVRTC_ERROR_COMPILATION",
    };
    return result >= 0 && result <= COMPILATION ? names[result] : "NVRTC_ERROR unknown";
}

EXPORT(int, nvrtcCreateProgram,
       (program **out, const char *source, const char *name, int n_headers, const char *const *headers,
        const char *const *include_names))
{
    if (!out || !source || n_headers != 0)
        return INVALID_INPUT;
    program *p = calloc(1, sizeof *p);
    if (!p)
        return OUT_OF_MEMORY;
    p->magic = PROGRAM;
    p->source = strdup(source);
    p->name = strdup(name ? name : "default_program");
    if (!p->source || !p->name) {
        free(p->source);
        free(p->name);
        free(p);
        return OUT_OF_MEMORY;
    }
    *out = p;
    return SUCCESS;
}

EXPORT(int, nvrtcDestroyProgram, (program **handle))
{
    if (!handle || !*handle || (*handle)->magic != PROGRAM)
        return INVALID_PROGRAM;
    program *p = *handle;
    p->magic = 0;
    free(p->source);
    free(p->name);
    free(p->cubin);
    free(p);
    *handle = NULL;
    return SUCCESS;
}

static void count_compile(void)
{
    compiles++;
    const char *file = getenv("FAKE_NVRTC_COUNT");
    if (!file || !*file)
        return;
    int fd = open(file, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, ".", 1) != 1)
        perror(file);
    if (fd >= 0)
        close(fd);
}

static void take_time(void)
{
    const char *text = getenv("FAKE_NVRTC_MS");
    long ms = text ? atol(text) : 0;
    struct timespec rest = {ms / 1000, ms % 1000 * 1000000};
    while (ms > 0 && nanosleep(&rest, &rest) != 0)
        continue;
}

/* Of the options that define something the latest, without its -D; else "nothing". */
static const char *definition(int n, const char *const *options)
{
    const char *latest = "nothing";
    for (int i = 0; i < n; i++)
        if (strncmp(options[i], "-D", 2) == 0)
            latest = options[i] + 2;
    return latest;
}

/* The value of --gpu-architecture=, or NULL with a log like NVRTC's own. */
static const char *architecture(program *p, int n, const char *const *options)
{
    static const char prefix[] = "--gpu-architecture=";
    const char *newest = getenv("FAKE_NVRTC_NEWEST"), *arch = NULL;
    for (int i = 0; i < n; i++) {
        if (strncmp(options[i], prefix, sizeof prefix - 1) == 0) {
            arch = options[i] + sizeof prefix - 1;
        } else if (options[i][0] != '-') {
            snprintf(p->log, sizeof p->log, "nvrtc: error: unrecognized option %s found\n", options[i]);
            return NULL;
        }
    }
    int number = arch && strncmp(arch, "sm_", 3) == 0 ? atoi(arch + 3) : 0;
    if (number < 50 || number > (newest ? atoi(newest) : 121)) {
        snprintf(p->log, sizeof p->log, "nvrtc: error: invalid value for --gpu-architecture (-arch)\n");
        return NULL;
    }
    return arch;
}

EXPORT(int, nvrtcCompileProgram, (program *p, int n, const char *const *options))
{
    if (!p || p->magic != PROGRAM)
        return INVALID_PROGRAM;
    count_compile();
    take_time();
    const char *arch = architecture(p, n, options);
    if (!arch)
        return INVALID_OPTION;
    const char *fail = getenv("FAKE_NVRTC_FAIL");
    if ((fail && *fail) || strstr(p->source, "FAKE_NVRTC_FAIL")) {
        snprintf(p->log, sizeof p->log, "%s(1): error: the fake compiler was told to fail\n", p->name);
        return COMPILATION;
    }
    snprintf(p->log, sizeof p->log, "ptxas info    : fake log of %s for %s; defined: %s\n", p->name, arch,
             definition(n, options));
    size_t capacity = strlen(FAKE_CUBIN_MAGIC) + strlen(arch) + strlen(p->source) + 2;
    free(p->cubin);
    p->cubin = malloc(capacity);
    if (!p->cubin)
        return OUT_OF_MEMORY;
    p->cubin_size = (size_t)snprintf(p->cubin, capacity, FAKE_CUBIN_MAGIC "%s\n%s", arch, p->source) + 1;
    return SUCCESS;
}

EXPORT(int, nvrtcGetCUBINSize, (program *p, size_t *size))
{
    if (!p || p->magic != PROGRAM)
        return INVALID_PROGRAM;
    *size = p->cubin_size;
    return SUCCESS;
}

EXPORT(int, nvrtcGetCUBIN, (program *p, char *cubin))
{
    if (!p || p->magic != PROGRAM || !p->cubin)
        return INVALID_PROGRAM;
    memcpy(cubin, p->cubin, p->cubin_size);
    return SUCCESS;
}

EXPORT(int, nvrtcGetProgramLogSize, (program *p, size_t *size))
{
    if (!p || p->magic != PROGRAM)
        return INVALID_PROGRAM;
    *size = strlen(p->log) + 1;
    return SUCCESS;
}

EXPORT(int, nvrtcGetProgramLog, (program *p, char *log))
{
    if (!p || p->magic != PROGRAM)
        return INVALID_PROGRAM;
    strcpy(log, p->log);
    return SUCCESS;
}
