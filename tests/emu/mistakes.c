/* mistakes.c: the emulated device catches what is wrong with a kernel, and says what, where and who. */
#include "emu_test.h"

#define HEAD "extern \"C\" __global__ void __launch_bounds__(1024) k(const float *__restrict__ x, float *__restrict__ y, int n)\n"

enum { THREADS = 64, BYTES = 64 * 4 }; /* x and y hold a float a thread */

/* Runs a kernel of x, y, n on one block of 64 threads in the given order. */
static convjit_status run_in(emu *e, const char *source, int n, const char *order)
{
    emu_kernel k = emu_build(e, source, "ion");
    float *x = emu_alloc(e, BYTES), *y = emu_alloc(e, BYTES);
    for (int i = 0; x && i < THREADS; i++)
        x[i] = (float)i;
    void *args[] = {&x, &y, &n};
    CHECK_OK(cj_emu_device_order(e->device, order));
    convjit_status status = emu_launch(&k, 1, THREADS, 1024, args);
    e->device->free(e->device, x);
    e->device->free(e->device, y);
    emu_drop(&k);
    return status;
}

static void expect(emu *e, const char *source, int n, const char *message)
{
    CHECK_FAILS(run_in(e, source, n, "forward"), CONVJIT_EMULATOR, message);
}

static void shared_memory(emu *e)
{
    /* Correct with the barrier on line 5, which the first run proves. */
    static const char with[] = HEAD
        "{\n"
        "    float *s = (float *)shared_memory();\n"
        "    s[threadIdx.x] = x[threadIdx.x];\n"
        "    __syncthreads();\n"
        "    y[threadIdx.x] = s[63 - threadIdx.x];\n"
        "}\n";
    static const char without[] = HEAD
        "{\n"
        "    float *s = (float *)shared_memory();\n"
        "    s[threadIdx.x] = x[threadIdx.x];\n"
        "\n"
        "    y[threadIdx.x] = s[63 - threadIdx.x];\n"
        "}\n";
    CHECK_OK(run_in(e, with, 0, "forward"));
    CHECK_OK(run_in(e, with, 0, "reverse"));
    CHECK_OK(run_in(e, with, 0, "seed:7"));
    CHECK_FAILS(run_in(e, without, 0, "forward"), CONVJIT_EMULATOR,
                "k: block (0,0,0), thread (0,0,0): reads 4 bytes on line 6 at offset 252 of shared memory that no thread");
    /* Both kinds of finding, whatever the order: the partner has not written yet, or has, or has read already. */
    CHECK_FAILS(run_in(e, without, 0, "reverse"), CONVJIT_EMULATOR, "of shared memory that no thread of the block wrote");
    expect(e, HEAD
           "{\n"
           "    float *s = (float *)shared_memory();\n"
           "    s[threadIdx.x] = x[threadIdx.x];\n"
           "    if (threadIdx.x == 40)\n"
           "        y[0] = s[3];\n"
           "}\n", 0,
           "thread (40,0,0): race: reads 4 bytes on line 6 at offset 12 of shared memory, which thread (3,0,0) wrote on line 4 "
           "with no barrier");
    expect(e, HEAD
           "{\n"
           "    float *s = (float *)shared_memory();\n"
           "    s[threadIdx.x] = x[threadIdx.x];\n"
           "    __syncthreads();\n"
           "    if (threadIdx.x == 0) y[0] = s[1];\n"
           "    else s[threadIdx.x] = 0;\n"
           "}\n", 0,
           "thread (1,0,0): race: writes 4 bytes on line 7 at offset 4 of shared memory, which thread (0,0,0) read on line 6");
    expect(e, HEAD "{ ((float *)shared_memory())[5] = x[threadIdx.x]; }\n", 0,
           "thread (1,0,0): race: writes 4 bytes on line 2 at offset 20 of shared memory, which thread (0,0,0) wrote");
    expect(e, HEAD "{ y[threadIdx.x] = ((float *)shared_memory())[threadIdx.x]; }\n", 0,
           "reads 4 bytes on line 2 at offset 0 of shared memory that no thread of the block wrote");
    expect(e, HEAD "{ ((float *)shared_memory())[193 + threadIdx.x] = 1; }\n", 0,
           "thread (63,0,0): writes 4 bytes on line 2 out of bounds: at offset 1024 of shared memory, which has 1024 bytes");
    expect(e, HEAD "{ ((float *)shared_memory())[(int)threadIdx.x - 1] = 1; }\n", 0, "out of bounds: at offset -4 of shared memory");
}

/* Halves of one word belong to different threads without a race; and are seen as such. */
static void half_words(emu *e)
{
    static const char halves[] = HEAD
        "{\n"
        "    unsigned short *s = (unsigned short *)shared_memory();\n"
        "    s[threadIdx.x] = (unsigned short)threadIdx.x;\n"
        "    __syncthreads();\n"
        "    unsigned pair = ((unsigned *)shared_memory())[threadIdx.x / 2];\n"
        "    y[threadIdx.x] = (float)(pair >> 16);\n"
        "    __syncthreads();\n"
        "    ((float *)shared_memory())[threadIdx.x] = 1;\n"
        "    __syncthreads();\n"
        "    s[threadIdx.x + n] = 2;\n"
        "    if (n == 1) __syncthreads();\n"
        "    y[threadIdx.x] += s[threadIdx.x + n % 2];\n"
        "}\n";
    CHECK_OK(run_in(e, halves, 0, "forward"));
    CHECK_OK(run_in(e, halves, 1, "seed:3"));
    static const char race[] = HEAD
        "{\n"
        "    unsigned short *s = (unsigned short *)shared_memory();\n"
        "    s[threadIdx.x] = 0;\n"
        "    if (threadIdx.x == 9) y[0] = (float)*(unsigned *)(s + 8);\n"
        "}\n";
    expect(e, race, 0, "thread (9,0,0): race: reads 4 bytes on line 5 at offset 16 of shared memory, which thread (8,0,0) wrote on line 4");
}

static void global_memory(emu *e)
{
    static const char source[] = HEAD
        "{\n"
        "    int i = threadIdx.x;\n"
        "    y[i + n % 2] = x[i + n / 2];\n"
        "}\n";
    CHECK_OK(run_in(e, source, 0, "forward"));
    expect(e, source, 2, "thread (63,0,0): reads 4 bytes on line 4 out of bounds: at offset 256 of input, which has 256 bytes");
    expect(e, source, -2, "thread (0,0,0): reads 4 bytes on line 4 out of bounds: at offset -4 of input");
    expect(e, source, 1, "thread (63,0,0): writes 4 bytes on line 4 out of bounds: at offset 256 of output");
    expect(e, source, -1, "thread (0,0,0): writes 4 bytes on line 4 out of bounds: at offset -4 of output");
    expect(e, HEAD "{ *(float *)0 = 1; }\n", 0, "writes 4 bytes on line 2 out of bounds: at address 0x0, far from all memory");
    expect(e, HEAD "{ y[threadIdx.x / 2] = 1; }\n", 0,
           "thread (1,0,0): race: writes 4 bytes on line 2 at offset 0 of output, which has 256 bytes, which thread (0,0,0) of "
           "block (0,0,0) wrote");
    expect(e, HEAD
           "{\n"
           "    unsigned short *h = (unsigned short *)y;\n"
           "    h[threadIdx.x] = 1;\n"
           "    if (threadIdx.x == 5) h[4] = 1;\n"
           "}\n", 0, "thread (5,0,0): race: writes 2 bytes on line 5 at offset 8 of output");
    expect(e, HEAD "{ if (threadIdx.x == 2) *(float4 *)(y + 4 * n + 1) = make_float4(1, 2, 3, 4); }\n", 0,
           "thread (2,0,0): misaligned access on line 2: at offset 4 of output, which has 256 bytes; the address is no multiple of 16");
    expect(e, HEAD "{ float2 v = *(const float2 *)(x + n); y[threadIdx.x] = v.x + v.y; }\n", 3,
           "misaligned access on line 2: at offset 12 of input");
    expect(e, HEAD "{ y[threadIdx.x] = *(const float *)((const char *)x + n); }\n", 2, "misaligned access on line 2: at offset 2");
    expect(e, HEAD "{ ((float4 *)y)[threadIdx.x] = ((const float4 *)x)[threadIdx.x]; }\n", 0,
           " bytes on line 2 out of bounds: at offset 256 of ");
}

/* Arrays in registers: their accesses are not looked at, their subscripts are. */
static void local_arrays(emu *e)
{
    static const char source[] = HEAD
        "{\n"
        "    float v[4] = {};\n"
        "    v[threadIdx.x % 4 + n] = 1;\n"
        "    y[threadIdx.x] = v[0] + v[3];\n"
        "}\n";
    CHECK_OK(run_in(e, source, 0, "forward"));
    expect(e, source, 1, "thread (3,0,0): a subscript outside of its array on line 4");
    expect(e, source, -1, "thread (0,0,0): a subscript outside of its array on line 4");
}

/* One block may not read what another wrote, unless fences or atomics say that they know. */
static void between_blocks(emu *e)
{
    static const char *const sources[] = {
        "extern \"C\" __global__ void k(float *y) { y[blockIdx.x] = blockIdx.x ? y[blockIdx.x - 1] : 1.0f; }\n",
        "extern \"C\" __global__ void k(float *y)\n"
        "{ __threadfence(); y[blockIdx.x] = blockIdx.x ? y[blockIdx.x - 1] : 1.0f; }\n",
        "extern \"C\" __global__ void k(float *y) { atomicAdd(&y[0], 1.0f); }\n"};
    for (int i = 0; i < 3; i++) {
        emu_kernel k = emu_build(e, sources[i], "o");
        float *y = emu_alloc(e, 16);
        void *args[] = {&y};
        CHECK_OK(e->device->fill(e->device, y, 0, 16));
        convjit_status status = emu_launch(&k, 4, 1, 0, args);
        if (i == 0)
            CHECK_FAILS(status, CONVJIT_EMULATOR,
                        "block (1,0,0), thread (0,0,0): race: reads 4 bytes on line 1 at offset 0 of output, which has 16 bytes, "
                        "which thread (0,0,0) of block (0,0,0) wrote");
        else
            CHECK_OK(status);
        CHECK(i != 2 || y[0] == 4);
        e->device->free(e->device, y);
        emu_drop(&k);
    }
}

static void barriers(emu *e)
{
    expect(e, HEAD
           "{\n"
           "    if (threadIdx.x == 17) return;\n"
           "    __syncthreads();\n"
           "}\n", 0, "deadlock: missing participant: 63 of 64 threads, such as thread (0,0,0), wait at __syncthreads on line 4, "
           "and thread (17,0,0) has returned");
    expect(e, HEAD
           "{\n"
           "    if (threadIdx.x < 32)\n"
           "        __syncthreads();\n"
           "    else\n"
           "        __syncthreads();\n"
           "}\n", 0,
           "thread (32,0,0): divergent barrier: reaches __syncthreads on line 6 while thread (0,0,0) waits at __syncthreads on line 4");
    expect(e, HEAD
           "{\n"
           "    for (int i = 0; i < (int)threadIdx.x / 32 + 1; i++)\n"
           "        __syncthreads();\n"
           "}\n", 0, "missing participant: 32 of 64 threads, such as thread (32,0,0), wait at __syncthreads on line 4");
    expect(e, HEAD "{ __trap(); }\n", 0, "thread (0,0,0): __trap() on line 2");
    expect(e, HEAD "{\n assert(threadIdx.x < 3); }\n", 0, "thread (3,0,0): assert(threadIdx.x < 3) on line 3");
}

static void collectives(emu *e)
{
    expect(e, HEAD
           "{\n"
           "    float v = x[threadIdx.x];\n"
           "    if (threadIdx.x != 35)\n"
           "        v = __shfl_down_sync(0xffffffff, v, 1);\n"
           "    y[threadIdx.x] = v;\n"
           "}\n", 0,
           "deadlock: missing participant: thread (32,0,0) waits in __shfl_down_sync on line 5 with mask 0xffffffff for thread "
           "(35,0,0), which has returned");
    expect(e, HEAD
           "{\n"
           "    if (threadIdx.x % 2)\n"
           "        __syncwarp();\n"
           "    __syncthreads();\n"
           "}\n", 0, "deadlock: missing participant: thread (1,0,0) waits in __syncwarp on line 4 with mask 0xffffffff for thread "
           "(0,0,0), which waits at __syncthreads on line 5");
    expect(e, HEAD
           "{\n"
           "    if (threadIdx.x % 2)\n"
           "        y[threadIdx.x] = __shfl_sync(0xffffffff, 1.0f, 0);\n"
           "    else\n"
           "        y[threadIdx.x] = __shfl_xor_sync(0xffffffff, 1.0f, 1);\n"
           "}\n", 0, "thread (0,0,0) waits in __shfl_xor_sync on line 6 with mask 0xffffffff for thread (1,0,0), which waits in "
           "__shfl_sync on line 4 with mask 0xffffffff");
    expect(e, HEAD "{ __syncwarp(2); }\n", 0, "thread (0,0,0): __syncwarp on line 2: mask 0x00000002 lacks the caller's own lane 0");
    expect(e, HEAD "{ y[0] = __shfl_sync(~0u, 1.0f, 0, 12); }\n", 0, "__shfl_sync on line 2: width 12 is no power of two");
    emu_kernel k = emu_build(e, HEAD "{ __syncwarp(); }\n", "ion");
    float *none = NULL;
    int n = 0;
    void *args[] = {&none, &none, &n};
    CHECK_OK(emu_launch(&k, 1, 64, 0, args));
    CHECK_FAILS(emu_launch(&k, 1, 48, 0, args), CONVJIT_EMULATOR,
                "thread (32,0,0): __syncwarp on line 2: missing participant: mask 0xffffffff names lane 16, and this warp has only "
                "16 threads");
    emu_drop(&k);
}

/* Warp-synchronous code: __syncwarp orders its warp's accesses, and only those; shuffles order nothing. */
static void warp_synchronous(emu *e)
{
#define EXCHANGE(sync, partner)                                            \
    HEAD                                                                   \
        "{\n"                                                              \
        "    float *s = (float *)shared_memory();\n"                       \
        "    for (int i = 0; i < 3; i++) {\n"                              \
        "        s[threadIdx.x] = x[threadIdx.x] + i;\n"                   \
        "        " sync "\n"                                               \
        "        y[threadIdx.x] = s[threadIdx.x ^ " partner "];\n"         \
        "        " sync "\n"                                               \
        "    }\n"                                                          \
        "}\n"
    static const char *const kept[] = {"forward", "reverse", "seed:5", "seed:6"};
    for (int i = 0; i < 4; i++) {
        CHECK_OK(run_in(e, EXCHANGE("__syncwarp();", "7"), 0, kept[i]));
        CHECK_OK(run_in(e, EXCHANGE("__syncwarp(0xffu << (threadIdx.x & 24));", "7"), 0, kept[i]));
        CHECK_FAILS(run_in(e, EXCHANGE("__syncwarp();", "32"), 0, kept[i]), CONVJIT_EMULATOR, "shared memory");
        CHECK_FAILS(run_in(e, EXCHANGE("__syncwarp(0xffu << (threadIdx.x & 24));", "8"), 0, kept[i]), CONVJIT_EMULATOR,
                    "shared memory");
        CHECK_FAILS(run_in(e, EXCHANGE("__shfl_sync(~0u, 0, 0);", "7"), 0, kept[i]), CONVJIT_EMULATOR, "race");
    }
    /* Only the second __syncwarp is missing: the next round's write races with this round's read. */
    expect(e, HEAD
           "{\n"
           "    float *s = (float *)shared_memory();\n"
           "    for (int i = 0; i < 2; i++) {\n"
           "        s[threadIdx.x] = x[threadIdx.x] + i;\n"
           "        __syncwarp();\n"
           "        y[threadIdx.x] = s[threadIdx.x ^ 7];\n"
           "    }\n"
           "}\n", 0, "race: ");
}

/* A fault leaves the device usable, and other launches unharmed. */
static void goes_on(emu *e)
{
    emu_kernel k = emu_build(e, HEAD "{ if (threadIdx.x == 30) y[n] = 1; __syncthreads(); }\n", "ion");
    float *x = NULL, *y = emu_alloc(e, BYTES);
    int n = 1000;
    void *args[] = {&x, &y, &n};
    for (int i = 0; i < 20; i++)
        CHECK_FAILS(emu_launch(&k, 1, 1024, 0, args), CONVJIT_EMULATOR, "at offset 4000 of output");
    n = 0;
    CHECK_OK(emu_launch(&k, 1, 1024, 0, args));
    e->device->free(e->device, y);
    emu_drop(&k);
    CHECK_OK(run_in(e, HEAD "{ y[threadIdx.x] = x[threadIdx.x]; }\n", 0, "forward"));
}

int main(void)
{
    emu e = emu_open();
    shared_memory(&e);
    half_words(&e);
    global_memory(&e);
    local_arrays(&e);
    between_blocks(&e);
    barriers(&e);
    collectives(&e);
    warp_synchronous(&e);
    goes_on(&e);
    emu_close(&e);
    return check_done("emu/mistakes");
}
