/* limits.c: what the emulated device and its compiler refuse, memory between guard pages, and modules side by side. */
#include <sys/wait.h>
#include <unistd.h>
#include "emu_test.h"

#define COPY "extern \"C\" __global__ void k(const float *x, float *y, int n)\n{ if (threadIdx.x < n) y[threadIdx.x] = x[threadIdx.x]; }\n"

static void launches(emu *e)
{
    emu_kernel k = emu_build(e, COPY, "ion");
    float *x = emu_alloc(e, 4), *y = emu_alloc(e, 4);
    int n = 0;
    void *args[] = {&x, &y, &n};
    static const struct { unsigned grid[3], block[3], smem; const char *message; } bad[] = {
        {{0, 1, 1}, {32, 1, 1}, 0, "grid.x is 0, and must be from 1 to 2147483647"},
        {{1, 65536, 1}, {32, 1, 1}, 0, "grid.y is 65536, and must be from 1 to 65535"},
        {{1, 1, 1}, {1025, 1, 1}, 0, "block.x is 1025"},
        {{1, 1, 1}, {1, 1, 65}, 0, "block.z is 65"},
        {{1, 1, 1}, {64, 32, 1}, 0, "a block of 64 x 32 x 1 threads, and at most 1024 are allowed"},
        {{1, 1, 1}, {32, 1, 1}, 227 * 1024 + 1, "232449 bytes of shared memory, and a block of sm_90a has at most 232448"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_FAILS(e->device->launch(e->device, k.function, bad[i].grid, bad[i].block, bad[i].smem, args, 3, NULL),
                    CONVJIT_INVALID, bad[i].message);
    const unsigned one[3] = {1, 1, 1}, most[3] = {8, 8, 16};
    CHECK_OK(e->device->launch(e->device, k.function, one, most, 227 * 1024, args, 3, NULL));
    CHECK_FAILS(e->device->launch(e->device, k.function, one, one, 0, args, 2, NULL), CONVJIT_INVALID,
                "launched with 2 arguments, and takes 3");
    CHECK_FAILS(e->device->launch(e->device, k.function, one, one, 0, args, 3, args), CONVJIT_INVALID, "stream must be NULL");
    cj_function *f = NULL;
    CHECK_FAILS(e->device->function(e->device, k.module, "other", 0, &f), CONVJIT_INVALID, "no kernel other");
    CHECK_FAILS(e->device->function(e->device, k.module, "k", 227 * 1024 + 1, &f), CONVJIT_UNSUPPORTED, "at most 232448");
    e->device->free(e->device, x);
    e->device->free(e->device, y);
    emu_drop(&k);
}

static void settings(emu *e)
{
    emu_kernel k = emu_build(e, COPY, "ion");
    float *none = NULL;
    int n = 0;
    void *args[] = {&none, &none, &n};
    CHECK_FAILS(cj_emu_device_order(e->device, "backwards"), CONVJIT_INVALID, "\"backwards\" is none of forward, reverse, seed:N");
    CHECK_FAILS(cj_emu_device_order(e->device, "seed:"), CONVJIT_INVALID, "CONVJIT_EMU_ORDER: \"\" is no number");
    CHECK_FAILS(cj_emu_device_order(e->device, "seed:18446744073709551616"), CONVJIT_INVALID, "no number");
    CHECK_OK(cj_emu_device_order(e->device, "seed:18446744073709551615"));
    CHECK_OK(emu_launch(&k, 100, 7, 0, args));
    CHECK_OK(cj_emu_device_order(e->device, NULL));
    setenv("CONVJIT_EMU_ORDER", "sideways", 1);
    CHECK_FAILS(emu_launch(&k, 1, 1, 0, args), CONVJIT_INVALID, "sideways");
    setenv("CONVJIT_EMU_ORDER", "reverse", 1);
    CHECK_OK(emu_launch(&k, 1, 1, 0, args));
    unsetenv("CONVJIT_EMU_ORDER");
    cj_emu_device_threads(e->device, 0);
    setenv("CONVJIT_EMU_THREADS", "0", 1);
    CHECK_FAILS(emu_launch(&k, 1, 1, 0, args), CONVJIT_INVALID, "CONVJIT_EMU_THREADS: \"0\" is no number from 1 to 256");
    setenv("CONVJIT_EMU_THREADS", "3", 1);
    CHECK_OK(emu_launch(&k, 10, 1, 0, args));
    unsetenv("CONVJIT_EMU_THREADS");
    cj_emu_device_threads(e->device, 1);
    emu_drop(&k);
}

static void architectures(void)
{
    static const struct { const char *arch; int kib; } known[] = {{"sm_80", 163}, {"sm_86", 99}, {"sm_90", 227}, {"sm_120", 99}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        convjit_config config = {.size = sizeof config, .arch = known[i].arch};
        cj_device *d = NULL;
        CHECK_OK(cj_emu_device_open(&d, &config));
        char arch[16];
        int sms = -1;
        uintptr_t binding = 1;
        CHECK_OK(d->bind(d, arch, &sms, &binding));
        CHECK_STR(arch, known[i].arch);
        CHECK_INT(sms, 0);
        CHECK_INT(binding, 0);
        CHECK_INT(d->smem_limit, known[i].kib * 1024);
        d->close(d);
    }
    convjit_config config = {.size = sizeof config, .arch = "sm_1"};
    cj_device *d = NULL;
    CHECK_FAILS(cj_emu_device_open(&d, &config), CONVJIT_INVALID, "sm_1");
    CHECK(d == NULL);
}

/* Whether writing that byte from the host ends a child process. */
static bool is_guarded(volatile char *address)
{
    pid_t child = fork();
    if (child == 0) {
        *address = 1;
        _exit(0);
    }
    int status = 0;
    waitpid(child, &status, 0);
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0; /* the latter with AddressSanitizer */
}

static void memory(emu *e)
{
    static const size_t sizes[] = {1, 256, 4096, 5000, 1 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *m = emu_alloc(e, sizes[i]);
        size_t slot = (sizes[i] + 255) / 256 * 256, filled = 0;
        CHECK_INT((uintptr_t)m % 256, 0);
        for (size_t b = 0; b < sizes[i]; b++)
            filled += m[b] == 0xFF;
        CHECK_INT(filled, sizes[i]);
        CHECK(is_guarded((char *)m + slot));
        CHECK(is_guarded((char *)((uintptr_t)m / 4096 * 4096 - 1)));
        CHECK(!is_guarded((char *)m + sizes[i] - 1));
        CHECK_FAILS(e->device->write(e->device, m, sizes, sizes[i] + 1), CONVJIT_INVALID, "write: ");
        CHECK_FAILS(e->device->fill(e->device, m + 1, 0, sizes[i]), CONVJIT_INVALID, "fill: ");
        char byte;
        CHECK_FAILS(e->device->read(e->device, &byte, m - 1, 1), CONVJIT_INVALID, "read: ");
        CHECK_OK(e->device->fill(e->device, m, 7, sizes[i]));
        CHECK_OK(e->device->read(e->device, &byte, m + sizes[i] - 1, 1));
        CHECK_INT(byte, 7);
        e->device->free(e->device, m);
        CHECK_FAILS(e->device->read(e->device, &byte, m, 1), CONVJIT_INVALID, "not memory of the emulated device");
    }
    void *none = emu_alloc(e, 0), *huge = NULL;
    CHECK(none != NULL);
    CHECK_OK(e->device->write(e->device, none, NULL, 0));
    e->device->free(e->device, none);
    CHECK_FAILS(e->device->alloc(e->device, &huge, SIZE_MAX - 5), CONVJIT_NO_MEMORY, "bytes");
    e->device->free(e->device, NULL);
}

static void compiling(emu *e)
{
    cj_blob binary = {0};
    CHECK_FAILS(emu_compile(e, "extern \"C\" __global__ void k(int n)\n{\n    n = nonsense;\n}\n", "n", &binary),
                CONVJIT_COMPILE, "kernel.cu:3:");
    CHECK_FAILS(emu_compile(e, COPY, "inn", &binary), CONVJIT_COMPILE,
                "the parameters of k are not those of the launch table");
    CHECK_FAILS(emu_compile(e, COPY, "io", &binary), CONVJIT_COMPILE, "the parameters of k are not those of the launch table");
    CHECK(binary.data == NULL);
    const char *identity = e->compiler->identity(e->compiler);
    CHECK(identity && !strchr(identity, '/'));
    CHECK_HAS(identity, "emulated device");
    cj_blob first = {0}, second = {0};
    CHECK_OK(emu_compile(e, COPY, "ion", &first));
    CHECK_OK(emu_compile(e, COPY, "ion", &second));
    CHECK(first.size == second.size && memcmp(first.data, second.data, first.size) == 0); /* no path or date inside */
    free(first.data);
    free(second.data);
}

static void no_compiler(void)
{
    static const struct { const char *cxx, *message; } cases[] = {
        {"none", "CONVJIT_CXX is \"none\""},
        {"/nonexistent/c++", "tried /nonexistent/c++ (from CONVJIT_CXX)"},
    };
    const char *before = getenv("CONVJIT_CXX");
    char *saved = before ? strdup(before) : NULL;
    for (size_t i = 0; i < 2; i++) {
        setenv("CONVJIT_CXX", cases[i].cxx, 1);
        emu e = emu_open();
        cj_blob binary = {0};
        CHECK_FAILS(emu_compile(&e, COPY, "ion", &binary), CONVJIT_NO_COMPILER, cases[i].message);
        CHECK(e.compiler->identity(e.compiler) == NULL);
        CHECK_HAS(convjit_errmsg(), cases[i].message);
        if (saved)
            setenv("CONVJIT_CXX", saved, 1);
        else
            unsetenv("CONVJIT_CXX");
        CHECK_OK(emu_compile(&e, COPY, "ion", &binary)); /* found now, so it works now */
        free(binary.data);
        emu_close(&e);
    }
    free(saved);
}

static void damaged_modules(emu *e)
{
    cj_module *m = NULL;
    unsigned char text[] = "nothing", elf[256] = "\177ELF\2\1\1";
    CHECK_FAILS(e->device->load(e->device, 0, &(cj_blob){text, sizeof text}, &m), CONVJIT_CORRUPT, "no ELF file");
    CHECK_FAILS(e->device->load(e->device, 0, &(cj_blob){elf, sizeof elf}, &m), CONVJIT_CORRUPT, "cannot be loaded");
    CHECK(m == NULL);
}

/* Modules come and go without one being taken for another. */
static void many_modules(emu *e)
{
    enum { N = 12 };
    emu_kernel k[N];
    float *y = emu_alloc(e, 4);
    void *args[] = {&y};
    for (int i = 0; i < N; i++) {
        char source[128];
        snprintf(source, sizeof source, "extern \"C\" __global__ void k(float *y) { y[0] = %d; }\n", i);
        k[i] = emu_build(e, source, "o");
        if (i % 3 == 2)
            emu_drop(&k[i - 1]);
    }
    for (int i = 0; i < N; i++)
        if (i % 3 != 1) {
            CHECK_OK(emu_launch(&k[i], 1, 1, 0, args));
            CHECK(y[0] == (float)i);
            emu_drop(&k[i]);
        }
    e->device->free(e->device, y);
}

int main(void)
{
    emu e = emu_open();
    launches(&e);
    settings(&e);
    architectures();
    memory(&e);
    compiling(&e);
    no_compiler();
    damaged_modules(&e);
    many_modules(&e);
    emu_close(&e);
    return check_done("emu/limits");
}
