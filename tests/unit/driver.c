/* driver.c: tests of the GPU device over the fake CUDA driver, which checks handles and records launches. */
#include <pthread.h>
#include <time.h>
#include "../check.h"
#include "../fake/fake.h"
#include "internal.h"

static fake_cuda_launches_fn *launches;
static fake_cuda_launch_fn *launch_record;
static fake_cuda_calls_fn *calls;
static fake_cuda_live_fn *live;
static fake_cuda_context_fn *new_context;
static fake_cuda_context_destroy_fn *destroy_context;
static fake_cuda_stream_fn *new_stream;
static int (*push)(void *context), (*pop)(void **context), (*get_current)(void **context);

static cj_device *open_device_as(const char *library, int ordinal, const char *arch)
{
    convjit_config config = {.size = sizeof config, .driver = library, .ordinal = ordinal, .arch = arch};
    cj_device *d = NULL;
    CHECK_OK(cj_driver_open(&d, &config));
    return d;
}

static cj_device *open_device(void)
{
    return open_device_as(fake_path("libcuda.so"), 0, NULL);
}

static convjit_status bind(cj_device *d, char arch[16], uintptr_t *binding)
{
    int sms;
    return d->bind(d, arch, &sms, binding);
}

static void *current_context(void)
{
    void *context = NULL;
    get_current(&context);
    return context;
}

static cj_blob make_cubin(const char *arch)
{
    static _Thread_local char text[512];
    int n = snprintf(text, sizeof text,
                     FAKE_CUBIN_MAGIC "%s\nextern \"C\" __global__ void __launch_bounds__(64)\n"
                     "conv(const float *__restrict__ x, float *y, int n, long long m, float alpha)\n{\n}\n"
                     "extern \"C\" __global__ void sum(float *y)\n{\n}\n", arch);
    return (cj_blob){(unsigned char *)text, (size_t)n + 1};
}

/* ---- opening ---- */

static void test_absent(void)
{
    char arch[16];
    uintptr_t binding;
    static const struct { const char *library, *says; } cases[] = {
        {"none", "switched off"},
        {"/nowhere/libcuda.so.1", "cannot load the CUDA driver: /nowhere/libcuda.so.1"},
        {"libcuda-no-such-name.so", "cannot load the CUDA driver: libcuda-no-such-name.so"},
        {"libm.so.6", "libm.so.6 lacks cuInit: this CUDA driver is too old"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        void *memory = NULL;
        cj_device *d = open_device_as(cases[i].library, 0, NULL);
        CHECK_FAILS(bind(d, arch, &binding), CONVJIT_NO_DRIVER, cases[i].says);
        CHECK_FAILS(d->alloc(d, &memory, 16), CONVJIT_NO_DRIVER, cases[i].says);
        cj_text json = {0};
        d->info(d, &json);
        CHECK_HAS(json.data, "{\"file\":null,\"error\":\"");
        cj_text_free(&json);
        d->close(d);
    }
    setenv("CONVJIT_DRIVER", "none", 1);
    cj_device *from_environment = open_device_as(NULL, 0, NULL), *from_config = open_device();
    unsetenv("CONVJIT_DRIVER");
    CHECK_FAILS(bind(from_environment, arch, &binding), CONVJIT_NO_DRIVER, "switched off");
    CHECK_OK(bind(from_config, arch, &binding));
    from_environment->close(from_environment);
    from_config->close(from_config);
}

/* What cuInit says is passed on, and a later call may succeed. */
static void test_init_fails(void)
{
    static const struct { const char *name, *value; convjit_status status; const char *says; } cases[] = {
        {"FAKE_CUDA_DEVICES", "0", CONVJIT_NO_DEVICE, "cuInit: no CUDA-capable device is detected (CUDA_ERROR"},
        {"FAKE_CUDA_FAIL", "cuInit:999", CONVJIT_DRIVER, "cuInit: unknown error (no name, error 999)"},
        {"FAKE_CUDA_FAIL", "cuInit:34", CONVJIT_NO_DRIVER, "cuInit: "},
        {"FAKE_CUDA_FAIL", "cuInit:803", CONVJIT_NO_DRIVER, "cuInit: "},
        {"FAKE_CUDA_FAIL", "cuDevicePrimaryCtxRetain:2", CONVJIT_NO_MEMORY,
         "GPU 0 of 1: cuDevicePrimaryCtxRetain: out of memory"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char arch[16];
        uintptr_t binding;
        cj_device *d = open_device();
        setenv(cases[i].name, cases[i].value, 1);
        CHECK_FAILS(bind(d, arch, &binding), cases[i].status, cases[i].says);
        unsetenv(cases[i].name);
        CHECK_OK(bind(d, arch, &binding));
        d->close(d);
    }
}

static void test_ordinal(void)
{
    char arch[16];
    uintptr_t binding;
    setenv("FAKE_CUDA_DEVICES", "2", 1);
    static const int wrong[] = {2, 7, -1};
    for (int i = 0; i < 3; i++) {
        char says[64];
        cj_device *d = open_device_as(fake_path("libcuda.so"), wrong[i], NULL);
        snprintf(says, sizeof says, "GPU %d was asked for, and the driver counts 2", wrong[i]);
        CHECK_FAILS(bind(d, arch, &binding), CONVJIT_NO_DEVICE, says);
        d->close(d);
    }
    cj_device *d = open_device_as(fake_path("libcuda.so"), 1, NULL);
    CHECK_OK(bind(d, arch, &binding));
    d->close(d);
    unsetenv("FAKE_CUDA_DEVICES");
}

/* ---- binding ---- */

static void test_arch(void)
{
    static const struct { const char *capability, *configured, *arch; int smem; } cases[] = {
        {"9.0", NULL, "sm_90a", 227 << 10}, {"8.0", NULL, "sm_80", 163 << 10},      {"8.6", NULL, "sm_86", 99 << 10},
        {"8.9", NULL, "sm_89", 99 << 10},   {"10.0", NULL, "sm_100", 227 << 10},    {"12.0", NULL, "sm_120", 99 << 10},
        {"8.6", "sm_80", "sm_80", 99 << 10}, {"9.0", "sm_90", "sm_90", 227 << 10},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char arch[16] = "";
        int sms = 0;
        uintptr_t binding = 0;
        setenv("FAKE_CUDA_ARCH", cases[i].capability, 1);
        cj_device *d = open_device_as(fake_path("libcuda.so"), 0, cases[i].configured);
        CHECK_OK(d->bind(d, arch, &sms, &binding));
        CHECK_STR(arch, cases[i].arch);
        CHECK_INT(sms, 132);
        CHECK_INT(d->smem_limit, cases[i].smem);
        CHECK(binding != 0);
        d->close(d);
    }
    unsetenv("FAKE_CUDA_ARCH");
}

static void test_bind_again_is_cheap(void)
{
    char arch[16];
    uintptr_t first, second, third;
    cj_device *d = open_device();
    CHECK_OK(bind(d, arch, &first));
    CHECK(current_context() == NULL);
    int before = calls(NULL);
    CHECK_OK(bind(d, arch, &second));
    CHECK_INT(calls(NULL) - before, 1); /* cuCtxGetCurrent */
    CHECK(first == second);

    void *mine = new_context(0);
    push(mine);
    CHECK_OK(bind(d, arch, &first));
    CHECK(first != second);
    before = calls(NULL);
    CHECK_OK(bind(d, arch, &third));
    CHECK_INT(calls(NULL) - before, 2); /* cuCtxGetCurrent, cuCtxGetId */
    CHECK(first == third);
    pop(&mine);
    destroy_context(mine);
    d->close(d);
}

/* A current context wins over the ordinal, is left current, and nothing is retained. */
static void test_current_context_wins(void)
{
    char arch[16];
    uintptr_t binding;
    cj_module *m = NULL;
    cj_blob cubin = make_cubin("sm_90a");
    void *mine = new_context(0);
    int before = live(), retained = calls("cuDevicePrimaryCtxRetain");
    push(mine);
    cj_device *d = open_device_as(fake_path("libcuda.so"), 5, NULL);
    CHECK_OK(bind(d, arch, &binding));
    CHECK_OK(d->load(d, binding, &cubin, &m));
    CHECK_INT(live() - before, 1);
    d->unload(d, m);
    CHECK(current_context() == mine);
    CHECK_INT(calls("cuDevicePrimaryCtxRetain") - retained, 0);
    d->close(d);
    pop(&mine);
    destroy_context(mine);
}

/* A context made after another was destroyed is a new binding, even where it got the same address. */
static void test_context_reborn(void)
{
    char arch[16];
    uintptr_t old, young;
    cj_module *m = NULL;
    cj_blob cubin = make_cubin("sm_90a");
    cj_device *d = open_device();
    void *mine = new_context(0);
    push(mine);
    CHECK_OK(bind(d, arch, &old));
    CHECK_OK(d->load(d, old, &cubin, &m));
    pop(&mine);
    destroy_context(mine);
    mine = new_context(0);
    push(mine);
    CHECK_OK(bind(d, arch, &young));
    CHECK(old != young);
    d->unload(d, m);
    pop(&mine);
    destroy_context(mine);
    d->close(d);
}

/* With GPUs that differ, the limit is the least of them. */
static void test_two_gpus(void)
{
    char arch[16];
    uintptr_t binding;
    cj_device *d = open_device();
    CHECK_OK(bind(d, arch, &binding));
    CHECK_INT(d->smem_limit, 227 << 10);
    setenv("FAKE_CUDA_ARCH", "8.6", 1);
    void *mine = new_context(0);
    push(mine);
    CHECK_OK(bind(d, arch, &binding));
    CHECK_STR(arch, "sm_86");
    CHECK_INT(d->smem_limit, 99 << 10);
    pop(&mine);
    destroy_context(mine);
    unsetenv("FAKE_CUDA_ARCH");
    d->close(d);
}

/* ---- modules ---- */

static void test_load_refusals(void)
{
    static char garbage[] = "no cubin";
    char arch[16];
    uintptr_t binding;
    cj_module *m = NULL;
    cj_function *f = NULL;
    cj_blob cubin = make_cubin("sm_80"), wrong = {(unsigned char *)garbage, sizeof garbage};
    cj_device *d = open_device_as(fake_path("libcuda.so"), 0, "sm_80");
    CHECK_OK(bind(d, arch, &binding));
    CHECK_FAILS(d->load(d, binding, &cubin, &m), CONVJIT_UNSUPPORTED,
                "a kernel compiled for sm_80 does not run on GPU 0, Fake GPU 0, which is sm_90a");
    CHECK_FAILS(d->load(d, binding, &wrong, &m), CONVJIT_DRIVER,
                "cuModuleLoadData: device kernel image is invalid (CUDA_ERROR_INVALID_IMAGE, error 200)");
    CHECK(m == NULL);
    cubin = make_cubin("sm_90a");
    CHECK_OK(d->load(d, binding, &cubin, &m));
    CHECK_FAILS(d->function(d, m, "absent", 0, &f), CONVJIT_DRIVER,
                "entry point absent: cuModuleGetFunction: named symbol not found");
    CHECK_FAILS(d->function(d, m, "conv", (227 << 10) + 1, &f), CONVJIT_UNSUPPORTED,
                "conv asks for 232449 bytes of dynamic shared memory; GPU 0 (sm_90a) has 232448 a block");
    CHECK_FAILS(d->function(d, m, "conv", -1, &f), CONVJIT_UNSUPPORTED, "conv asks for -1 bytes");
    CHECK(f == NULL);
    CHECK(current_context() == NULL);
    d->unload(d, m);
    d->unload(d, NULL);
    d->close(d);
}

/* The parts of a binary are modules of their own, and an entry point is in one of them. */
static void test_parts(void)
{
    static char second[] = FAKE_CUBIN_MAGIC "sm_90a\nextern \"C\" __global__ void late(float *y)\n{\n}\n\0.text.late";
    char arch[16];
    uintptr_t binding;
    cj_module *m = NULL;
    cj_function *f = NULL;
    cj_blob parts[] = {make_cubin("sm_90a"), {(unsigned char *)second, sizeof second}}, binary;
    cj_device *d = open_device();
    CHECK_OK(bind(d, arch, &binding));
    int before = live();
    CHECK_OK(cj_parts_join(parts, 2, &binary));
    CHECK_OK(d->load(d, binding, &binary, &m));
    CHECK_INT(live() - before, 2);
    int looked_up = calls("cuModuleGetFunction");
    CHECK_OK(d->function(d, m, "late", 0, &f));
    CHECK_OK(d->function(d, m, "conv", 0, &f));
    CHECK_INT(calls("cuModuleGetFunction") - looked_up, 2); /* the part that has it, and no other */
    CHECK_FAILS(d->function(d, m, "absent", 0, &f), CONVJIT_DRIVER, "entry point absent: cuModuleGetFunction: named symbol not found");
    d->unload(d, m);
    CHECK_INT(live() - before, 0);
    cj_blob_free(&binary);

    m = NULL;
    second[0] = '?'; /* what was loaded before it goes */
    CHECK_OK(cj_parts_join(parts, 2, &binary));
    CHECK_FAILS(d->load(d, binding, &binary, &m), CONVJIT_DRIVER, "CUDA_ERROR_INVALID_IMAGE");
    CHECK(m == NULL);
    CHECK_INT(live() - before, 0);
    binary.size -= sizeof second + 1;
    CHECK_FAILS(d->load(d, binding, &binary, &m), CONVJIT_CORRUPT, "ends behind its last byte");
    CHECK_INT(live() - before, 0);
    cj_blob_free(&binary);
    d->close(d);
}

/* The permission is asked for above 48 KiB only, and never taken back. */
static void test_dynamic_smem(void)
{
    char arch[16];
    uintptr_t binding;
    cj_module *m = NULL;
    cj_function *f = NULL, *again = NULL, *other = NULL;
    cj_blob cubin = make_cubin("sm_90a");
    unsigned grid[3] = {1, 1, 1}, block[3] = {64, 1, 1};
    int n = 1;
    long long wide = 1;
    void *pointer = NULL, *args[] = {&pointer, &pointer, &n, &wide, &n};
    cj_device *d = open_device();
    CHECK_OK(bind(d, arch, &binding));
    CHECK_OK(d->load(d, binding, &cubin, &m));
    int before = calls("cuFuncSetAttribute");
    CHECK_OK(d->function(d, m, "conv", 48 << 10, &f));
    CHECK_INT(calls("cuFuncSetAttribute") - before, 0);
    CHECK_FAILS(d->launch(d, f, grid, block, 100 << 10, args, 5, NULL), CONVJIT_DRIVER,
                "conv, grid 1x1x1, block 64x1x1, 102400 bytes of shared memory: cuLaunchKernel: invalid argument");
    CHECK_OK(d->function(d, m, "conv", 100 << 10, &again));
    CHECK(again == f);
    CHECK_INT(calls("cuFuncSetAttribute") - before, 1);
    CHECK_OK(d->function(d, m, "conv", 60 << 10, &again));
    CHECK_INT(calls("cuFuncSetAttribute") - before, 1);
    CHECK_OK(d->launch(d, f, grid, block, 100 << 10, args, 5, NULL));
    CHECK_OK(d->function(d, m, "sum", 0, &other));
    CHECK(other != f);
    cj_resources r;
    d->resources(d, f, &r);
    CHECK_INT(r.registers, 40);
    CHECK_INT(r.local_bytes, 0);
    CHECK_INT(r.static_smem, 0);
    CHECK_INT(r.max_threads, 1024);
    d->unload(d, m);
    d->close(d);
}

/* ---- launches ---- */

static void check_record(const fake_launch *l, void *stream, const float *x)
{
    CHECK(l != NULL);
    if (!l)
        return;
    CHECK_STR(l->entry, "conv");
    CHECK_INT(l->grid[0], 5);
    CHECK_INT(l->grid[1], 6);
    CHECK_INT(l->grid[2], 7);
    CHECK_INT(l->block[0], 32);
    CHECK_INT(l->block[1], 4);
    CHECK_INT(l->block[2], 2);
    CHECK_INT(l->smem, 4096);
    CHECK(l->stream == stream);
    CHECK_INT(l->n_args, 5);
    CHECK_INT(l->args[0], (uintptr_t)x);
    CHECK_INT(l->args[1], (uintptr_t)(x + 1));
    CHECK_INT(l->args[2], 42);
    CHECK_INT(l->args[3], 1LL << 40);
    CHECK_INT(l->args[4], 0x3f800000); /* 1.0f */
}

typedef struct launcher { cj_device *d; cj_function *f; void *stream; const float *x; } launcher;

static convjit_status launch_conv(void *user)
{
    launcher *l = user;
    unsigned grid[3] = {5, 6, 7}, block[3] = {32, 4, 2};
    const float *x = l->x, *y = l->x + 1;
    int n = 42;
    long long m = 1LL << 40;
    float alpha = 1;
    void *args[] = {&x, &y, &n, &m, &alpha};
    return l->d->launch(l->d, l->f, grid, block, 4096, args, 5, l->stream);
}

static void *launch_in_thread(void *user)
{
    CHECK(current_context() == NULL);
    CHECK_OK(launch_conv(user));
    CHECK(current_context() == NULL);
    return NULL;
}

static void test_launch(void)
{
    static const float x[2] = {1, 2};
    char arch[16];
    uintptr_t binding;
    pthread_t thread;
    cj_module *m = NULL;
    cj_blob cubin = make_cubin("sm_90a");
    void *mine = new_context(0), *other = new_context(0);
    launcher l = {.d = open_device(), .stream = new_stream(), .x = x};
    push(mine);
    CHECK_OK(bind(l.d, arch, &binding));
    CHECK_OK(l.d->load(l.d, binding, &cubin, &m));
    CHECK_OK(l.d->function(l.d, m, "conv", 4096, &l.f));

    int first = launches(), before = calls(NULL);
    CHECK_OK(launch_conv(&l));
    CHECK_INT(calls(NULL) - before, 2); /* cuCtxGetCurrent and cuLaunchKernel: fit for graph capture */
    check_record(launch_record(first), l.stream, x);

    push(other);
    CHECK_OK(launch_conv(&l));
    CHECK(current_context() == other);
    pop(&other);

    pop(&mine);
    CHECK_INT(pthread_create(&thread, NULL, launch_in_thread, &l), 0);
    CHECK_INT(pthread_join(thread, NULL), 0);
    CHECK_INT(launches() - first, 3);
    for (int i = first; i < first + 3; i++)
        CHECK(launch_record(i) && launch_record(i)->context == mine);

    setenv("FAKE_CUDA_FAIL", "cuLaunchKernel:719", 1);
    CHECK_FAILS(launch_conv(&l), CONVJIT_DRIVER,
                "conv, grid 5x6x7, block 32x4x2, 4096 bytes of shared memory: "
                "cuLaunchKernel: unspecified launch failure (CUDA_ERROR_LAUNCH_FAILED, error 719)");
    unsetenv("FAKE_CUDA_FAIL");
    CHECK(current_context() == NULL);
    l.d->unload(l.d, m);
    l.d->close(l.d);
    destroy_context(mine);
    destroy_context(other);
}

static void test_attributes(void)
{
    char arch[16];
    uintptr_t binding;
    cj_module *m = NULL;
    cj_function *f = NULL;
    cj_blob cubin = make_cubin("sm_90a");
    cj_device *d = open_device();
    CHECK_OK(bind(d, arch, &binding));
    CHECK_OK(d->load(d, binding, &cubin, &m));
    CHECK_OK(d->function(d, m, "conv", 0, &f));
    unsigned grid[3] = {4, 6, 1}, block[3] = {64, 1, 1};
    cj_attributes cluster = {.cluster = {2, 3, 1}}, plain = {.cluster = {1, 1, 1}}, overlap = {.cluster = {1, 1, 1}, .overlap = true};
    const float *x = NULL, *y = NULL;
    int n = 1;
    long long big = 2;
    float alpha = 1;
    void *args[] = {&x, &y, &n, &big, &alpha};
    int first = launches(), before = calls("cuLaunchKernelEx");
    CHECK_OK(d->launch_with(d, f, grid, block, &cluster, 0, args, 5, NULL));
    CHECK_INT(launch_record(first)->cluster[0], 2);
    CHECK_INT(launch_record(first)->cluster[1], 3);
    CHECK_INT(launch_record(first)->grid[1], 6);
    CHECK_INT(launch_record(first)->args[3], 2);
    CHECK_INT(calls("cuLaunchKernelEx") - before, 1);
    CHECK_OK(d->launch_with(d, f, grid, block, &plain, 0, args, 5, NULL));
    CHECK_INT(calls("cuLaunchKernelEx") - before, 1); /* the plain call */
    CHECK(!launch_record(first)->overlap && !launch_record(first + 1)->overlap);
    CHECK_OK(d->launch_with(d, f, grid, block, &overlap, 0, args, 5, NULL));
    CHECK(launch_record(first + 2)->overlap && launch_record(first + 2)->cluster[0] == 1);
    cluster.overlap = true;
    CHECK_OK(d->launch_with(d, f, grid, block, &cluster, 0, args, 5, NULL));
    CHECK(launch_record(first + 3)->overlap && launch_record(first + 3)->cluster[0] == 2);
    CHECK_INT(calls("cuLaunchKernelEx") - before, 3);
    cluster.cluster[0] = 3;
    CHECK_FAILS(d->launch_with(d, f, grid, block, &cluster, 0, args, 5, NULL), CONVJIT_DRIVER,
                "conv, grid 4x6x1, block 64x1x1, cluster 3x3x1, 0 bytes of shared memory: cuLaunchKernelEx: invalid argument");
    d->unload(d, m);
    d->close(d);
}

/* What the fake driver is told, in the words of its maps (tests/fake/cuda.c). */
static void test_encode(void)
{
    _Alignas(64) uint64_t map[CJ_TENSOR_MAP_BYTES / 8];
    cj_device *d = open_device();
    cj_tensor_map t = {.element = CJ_MAP_BF16, .rank = 3, .swizzle = 64, .dims = {100, 7, INT64_C(1) << 32},
                       .strides = {208, INT64_C(1) << 39}, .box = {32, 8, 4}, .element_strides = {1, 1, 3}};
    CHECK_OK(d->encode(d, &t, (void *)(uintptr_t)0x7000, (unsigned char *)map));
    CHECK_INT(map[0], 0x7000);
    CHECK_INT(map[1], 9 << 8 | 3 << 4 | 2);
    CHECK(map[2] == 100 && map[3] == 7 && map[4] == UINT64_C(1) << 32 && map[7] == 208 && map[8] == UINT64_C(1) << 39);
    CHECK_INT(map[12], 31 | 7 << 8 | 11 << 16); /* 4 of every third: a box of 12 */
    CHECK_INT(map[13], 1 | 1 << 8 | 3 << 16);
    static const int types[] = {[CJ_MAP_F32] = 7, [CJ_MAP_TF32] = 11, [CJ_MAP_F16] = 6, [CJ_MAP_BF16] = 9};
    static const int swizzles[] = {0, 32, 64, 128};
    for (int i = 0; i < CJ_MAP_COUNT; i++) {
        cj_tensor_map one = {.element = (cj_map_element)i, .rank = 1, .swizzle = swizzles[i], .dims = {64}, .box = {8},
                             .element_strides = {1}};
        if (swizzles[i] && 8 * cj_map_element_bytes(one.element) > swizzles[i])
            continue;
        CHECK_OK(d->encode(d, &one, NULL, (unsigned char *)map));
        CHECK_INT(map[1], types[i] << 8 | 1 << 4 | i);
    }
    CHECK_FAILS(d->encode(d, &t, (void *)(uintptr_t)0x7008, (unsigned char *)map), CONVJIT_DRIVER,
                "cuTensorMapEncodeTiled: invalid argument");
    d->close(d);
}

/* ---- memory and time ---- */

static void test_memory(void)
{
    unsigned char host[64], back[64];
    void *memory = NULL, *more = NULL;
    cj_device *d = open_device();
    for (int i = 0; i < 64; i++)
        host[i] = (unsigned char)(3 * i);
    CHECK_OK(d->alloc(d, &memory, sizeof host));
    CHECK_INT((uintptr_t)memory % 256, 0);
    CHECK_OK(d->write(d, memory, host, sizeof host));
    CHECK_OK(d->fill(d, (char *)memory + 8, 0xff, 8));
    CHECK_OK(d->read(d, back, memory, sizeof back));
    memset(host + 8, 0xff, 8);
    CHECK(memcmp(host, back, sizeof host) == 0);
    CHECK_FAILS(d->write(d, memory, host, sizeof host + 1), CONVJIT_DRIVER, "cuMemcpyHtoD: invalid argument");
    CHECK_FAILS(d->read(d, back, (char *)memory + 1, sizeof back), CONVJIT_DRIVER, "cuMemcpyDtoH: invalid argument");
    CHECK_FAILS(d->fill(d, memory, 0, sizeof host + 1), CONVJIT_DRIVER, "cuMemsetD8: invalid argument");

    setenv("FAKE_CUDA_MEMORY", "1000", 1);
    CHECK_FAILS(d->alloc(d, &more, 937), CONVJIT_NO_MEMORY, "937 bytes of device memory: cuMemAlloc: out of memory");
    CHECK(more == NULL);
    CHECK_OK(d->alloc(d, &more, 936));
    unsetenv("FAKE_CUDA_MEMORY");
    d->free(d, more);
    CHECK_OK(d->alloc(d, &more, 0));
    d->free(d, more);
    d->free(d, NULL);
    d->free(d, memory);
    CHECK(current_context() == NULL);
    d->close(d);
}

static convjit_status fail_body(void *user)
{
    return cj_fail(CONVJIT_INVALID, "the body failed");
}

static convjit_status rest(void *user)
{
    struct timespec ms = {0, 5000000};
    nanosleep(&ms, NULL);
    return CONVJIT_OK;
}

static void test_time(void)
{
    char arch[16];
    double ms = -1;
    uintptr_t binding;
    cj_device *d = open_device();
    CHECK_OK(bind(d, arch, &binding));
    int before = live();
    CHECK_FAILS(d->time(d, fail_body, NULL, &ms), CONVJIT_INVALID, "the body failed");
    CHECK(ms == -1);
    CHECK_OK(d->time(d, rest, NULL, &ms));
    CHECK_THAT(ms >= 5 && ms < 5000, "5 ms of rest took %g ms", ms);
    CHECK_INT(live() - before, 0);
    CHECK_OK(d->sync(d, NULL));
    CHECK_OK(d->sync(d, new_stream()));
    CHECK_FAILS(d->sync(d, d), CONVJIT_DRIVER, "cuStreamSynchronize: invalid resource handle");
    d->close(d);
}

/* ---- every call that can fail ---- */

/* Everything that a device does, once. */
static convjit_status do_everything(cj_device *d)
{
    static const float x[2] = {1, 2};
    char arch[16], byte = 0;
    double ms;
    uintptr_t binding;
    cj_module *m = NULL;
    void *memory = NULL;
    launcher l = {.d = d, .x = x};
    cj_blob cubin = make_cubin("sm_90a");
    convjit_status status = bind(d, arch, &binding);
    if (status == CONVJIT_OK)
        status = d->load(d, binding, &cubin, &m);
    if (status == CONVJIT_OK)
        status = d->function(d, m, "conv", 60 << 10, &l.f);
    if (status == CONVJIT_OK)
        status = d->time(d, launch_conv, &l, &ms);
    if (status == CONVJIT_OK)
        status = d->alloc(d, &memory, 16);
    if (status == CONVJIT_OK)
        status = d->write(d, memory, &byte, 1);
    if (status == CONVJIT_OK)
        status = d->fill(d, memory, 0, 16);
    if (status == CONVJIT_OK)
        status = d->read(d, &byte, memory, 1);
    if (status == CONVJIT_OK)
        status = d->sync(d, NULL);
    d->free(d, memory);
    d->unload(d, m);
    return status;
}

static void test_each_call_fails(void)
{
    static const char *const names[] = {
        "cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain",
        "cuCtxGetCurrent", "cuCtxGetDevice", "cuCtxGetId", "cuCtxPushCurrent_v2", "cuModuleLoadData",
        "cuModuleGetFunction", "cuFuncSetAttribute", "cuLaunchKernel", "cuMemAlloc_v2", "cuMemcpyHtoD_v2",
        "cuMemcpyDtoH_v2", "cuMemsetD8_v2", "cuStreamSynchronize", "cuEventCreate", "cuEventRecord",
        "cuEventSynchronize", "cuEventElapsedTime",
    };
    int before = live();
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char fail[64], says[64];
        cj_device *d = open_device();
        snprintf(fail, sizeof fail, "%s:1", names[i]);
        snprintf(says, sizeof says, "%.*s: invalid argument", (int)strcspn(names[i], "_"), names[i]);
        setenv("FAKE_CUDA_FAIL", fail, 1);
        CHECK_FAILS(do_everything(d), CONVJIT_DRIVER, says);
        unsetenv("FAKE_CUDA_FAIL");
        d->close(d);
        CHECK_THAT(live() == before, "a failing %s leaks %d objects", names[i], live() - before);
    }
    cj_device *d = open_device();
    CHECK_OK(do_everything(d));
    d->close(d);
    CHECK_INT(live() - before, 0);
    CHECK(current_context() == NULL);
}

/* ---- threads, info ---- */

enum { THREADS = 8, ROUNDS = 25 };

static void *work(void *device)
{
    for (int i = 0; i < ROUNDS; i++)
        CHECK_OK(do_everything(device));
    return NULL;
}

static void test_threads(void)
{
    pthread_t threads[THREADS];
    int first = launches(), retained = calls("cuDevicePrimaryCtxRetain");
    cj_device *d = open_device();
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_create(&threads[i], NULL, work, d), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_join(threads[i], NULL), 0);
    CHECK_INT(launches() - first, THREADS * ROUNDS);
    CHECK_INT(calls("cuDevicePrimaryCtxRetain") - retained, 1);
    d->close(d);
}

static void test_info(void)
{
    cj_text json = {0};
    int retained = calls("cuDevicePrimaryCtxRetain");
    cj_device *d = open_device();
    setenv("FAKE_CUDA_DEVICES", "2", 1);
    d->info(d, &json);
    CHECK_HAS(json.data,
              "tests/fake/libcuda.so\",\"version\":\"13.0\",\"gpus\":["
              "{\"name\":\"Fake GPU 0\",\"arch\":\"sm_90a\",\"multiprocessors\":132,\"memory\":1073741824},"
              "{\"name\":\"Fake GPU 1\",\"arch\":\"sm_90a\",\"multiprocessors\":132,\"memory\":1073741824}]}");
    CHECK_INT(calls("cuDevicePrimaryCtxRetain") - retained, 0);
    unsetenv("FAKE_CUDA_DEVICES");
    cj_text_free(&json);
    setenv("FAKE_CUDA_FAIL", "cuDeviceGetName:1", 1);
    d->info(d, &json);
    CHECK_HAS(json.data, "libcuda.so\",\"error\":"
                         "\"cuDeviceGetName: invalid argument (CUDA_ERROR_INVALID_VALUE, error 1)\"}");
    unsetenv("FAKE_CUDA_FAIL");
    cj_text_free(&json);
    d->close(d);
}

int main(void)
{
    static const struct { const char *name; void *slot; } symbols[] = {
        {"fake_cuda_launches", &launches}, {"fake_cuda_launch", &launch_record},
        {"fake_cuda_calls", &calls},       {"fake_cuda_live", &live},
        {"fake_cuda_context", &new_context}, {"fake_cuda_context_destroy", &destroy_context},
        {"fake_cuda_stream", &new_stream}, {"cuCtxPushCurrent_v2", &push},
        {"cuCtxPopCurrent_v2", &pop},      {"cuCtxGetCurrent", &get_current},
    };
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *address = fake_symbol("libcuda.so", symbols[i].name);
        if (!address)
            return 1;
        memcpy(symbols[i].slot, &address, sizeof address);
    }
    test_absent();
    test_init_fails();
    test_ordinal();
    test_arch();
    test_bind_again_is_cheap();
    test_current_context_wins();
    test_context_reborn();
    test_two_gpus();
    test_load_refusals();
    test_parts();
    test_dynamic_smem();
    test_launch();
    test_attributes();
    test_encode();
    test_memory();
    test_time();
    test_each_call_fails();
    test_threads();
    test_info();
    CHECK_INT(live(), 0); /* every context, module, event and allocation has been given back */
    return check_done("driver");
}
