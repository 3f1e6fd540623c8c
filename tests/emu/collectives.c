/* collectives.c: values of shuffles, votes, reductions, reducing barriers and atomics on the emulated device. */
#include "emu_test.h"

static const char *const orders[] = {"forward", "reverse", "seed:11"};

/* As the CUDA C Programming Guide words it: the lane that each form reads. */
static int expected_lane(int form, int lane, int operand, int width)
{
    int first = lane / width * width, end = first + width;
    int source = form == 0   ? first + operand % width
                 : form == 1 ? lane - operand
                 : form == 2 ? lane + operand : lane ^ operand;
    bool own = (form == 1 && source < first) || (form == 2 && source >= end) || (form == 3 && source >= end);
    return own ? lane : source;
}

static void shuffles(emu *e)
{
    emu_kernel k = emu_build(e,
        "template <typename T> __device__ T shuffle(int form, T v, int operand, int width)\n"
        "{\n"
        "    switch (form) {\n"
        "    case 0: return __shfl_sync(0xffffffff, v, operand, width);\n"
        "    case 1: return __shfl_up_sync(0xffffffff, v, operand, width);\n"
        "    case 2: return __shfl_down_sync(0xffffffff, v, operand, width);\n"
        "    default: return __shfl_xor_sync(0xffffffff, v, operand, width);\n"
        "    }\n"
        "}\n"
        "extern \"C\" __global__ void k(float *y, int form, int operand, int width)\n"
        "{\n"
        "    int t = threadIdx.x;\n"
        "    float a = shuffle(form, (float)t, operand, width);\n"
        "    double b = shuffle(form, t + 0.25, operand, width);\n"
        "    int c = shuffle(form, -t, operand, width);\n"
        "    long long d = shuffle(form, t + (1ll << 40), operand, width);\n"
        "    y[t] = b == a + 0.25 && c == -(int)a && d - (1ll << 40) == (long long)a ? a : -1;\n"
        "}\n", "onnn");
    float *y = emu_alloc(e, 64 * 4);
    int wrong = 0, runs = 0;
    for (int form = 0; form < 4; form++)
        for (int width = 1; width <= 32; width *= 2)
            for (int operand = 0; operand < 40; operand += operand < 4 ? 1 : 7) {
                void *args[] = {&y, &form, &operand, &width};
                CHECK_OK(cj_emu_device_order(e->device, orders[runs++ % 3]));
                CHECK_OK(e->device->fill(e->device, y, 0xFF, 64 * 4));
                CHECK_OK(emu_launch(&k, 1, 64, 0, args));
                for (int t = 0; t < 64; t++)
                    wrong += y[t] != (float)(t / 32 * 32 + expected_lane(form, t % 32, operand, width));
            }
    CHECK_INT(wrong, 0);
    /* and one row by hand, so that both sides are not wrong in the same way: down by 3 in segments of 8 */
    static const float row[16] = {3, 4, 5, 6, 7, 5, 6, 7, 11, 12, 13, 14, 15, 13, 14, 15};
    int form = 2, operand = 3, width = 8;
    void *args[] = {&y, &form, &operand, &width};
    CHECK_OK(e->device->fill(e->device, y, 0xFF, 64 * 4));
    CHECK_OK(emu_launch(&k, 1, 64, 0, args));
    CHECK(memcmp(y, row, sizeof row) == 0);
    e->device->free(e->device, y);
    emu_drop(&k);
}

/* A lane outside the mask has no value to give: CUDA calls it undefined, here it is a NaN. */
static void masks(emu *e)
{
    emu_kernel k = emu_build(e,
        "extern \"C\" __global__ void k(float *y)\n"
        "{\n"
        "    int t = threadIdx.x;\n"
        "    y[t] = -1;\n"
        "    if (t < 8)\n"
        "        y[t] = __shfl_down_sync(0xff, (float)t, 2);\n"
        "    else if (t % 2)\n"
        "        y[t] = __shfl_sync(0xaaaaaa00, (float)t, t ^ 2);\n"
        "}\n", "o");
    float *y = emu_alloc(e, 32 * 4);
    void *args[] = {&y};
    for (int o = 0; o < 3; o++) {
        CHECK_OK(cj_emu_device_order(e->device, orders[o]));
        CHECK_OK(emu_launch(&k, 1, 32, 0, args));
        for (int t = 0; t < 6; t++)
            CHECK(y[t] == (float)(t + 2));
        CHECK(y[6] != y[6] && y[7] != y[7]);
        for (int t = 8; t < 32; t++)
            CHECK(y[t] == (t % 2 ? (float)(t ^ 2) : -1.0f));
    }
    e->device->free(e->device, y);
    emu_drop(&k);
}

static void votes(emu *e)
{
    enum { THREADS = 64, RESULTS = 16 };
    emu_kernel k = emu_build(e,
        "extern \"C\" __global__ void k(float *output)\n"
        "{\n"
        "    int t = threadIdx.x, i = 0;\n"
        "    unsigned *y = (unsigned *)output + 16 * t;\n"
        "    y[i++] = __ballot_sync(0xffffffff, t % 3 == 0);\n"
        "    y[i++] = __any_sync(0xffffffff, t == 5);\n"
        "    y[i++] = __all_sync(0xffffffff, t < 32);\n"
        "    y[i++] = __reduce_add_sync(0xffffffff, t);\n"
        "    y[i++] = __reduce_min_sync(0xffffffff, 10 - t);\n"
        "    y[i++] = __reduce_max_sync(0xffffffff, 10 - t);\n"
        "    y[i++] = __reduce_min_sync(0xffffffff, (unsigned)(10 - t));\n"
        "    y[i++] = __reduce_max_sync(0xffffffff, (unsigned)(10 - t));\n"
        "    y[i++] = __reduce_and_sync(0xffffffff, (unsigned)t | 256);\n"
        "    y[i++] = __reduce_or_sync(0xffffffff, (unsigned)t);\n"
        "    y[i++] = __reduce_xor_sync(0xffffffff, 1u << (t & 30));\n"
        "    y[i++] = t % 32 < 4 ? __ballot_sync(0xf, t % 2) : 0;\n"
        "    y[i++] = __syncthreads_count(t % 5 == 0);\n"
        "    y[i++] = __syncthreads_and(t >= 0);\n"
        "    y[i++] = __syncthreads_or(t == 64);\n"
        "    y[i++] = __syncthreads_and(t != 63);\n"
        "}\n", "o");
    static const unsigned warp0[RESULTS] = {0x49249249, 1, 1, 496, (unsigned)-21, 10, 0, 0xffffffff, 256, 31, 0, 0xa, 13, 1, 0, 0};
    static const unsigned warp1[RESULTS] = {0x92492492, 0, 0, 1520, (unsigned)-53, (unsigned)-22, (unsigned)-53, (unsigned)-22,
                                            256 | 32, 63, 0, 0xa, 13, 1, 0, 0};
    unsigned *y = emu_alloc(e, THREADS * RESULTS * 4);
    void *args[] = {&y};
    for (int o = 0; o < 3; o++) {
        CHECK_OK(cj_emu_device_order(e->device, orders[o]));
        CHECK_OK(e->device->fill(e->device, y, 0xFF, THREADS * RESULTS * 4));
        CHECK_OK(emu_launch(&k, 1, THREADS, 0, args));
        for (int t = 0; t < THREADS; t++)
            for (int i = 0; i < RESULTS; i++) {
                unsigned expected = i == 11 && t % 32 >= 4 ? 0 : (t < 32 ? warp0 : warp1)[i];
                CHECK_THAT(y[RESULTS * t + i] == expected, "thread %d, result %d: %u, expected %u", t, i, y[RESULTS * t + i],
                           expected);
            }
    }
    e->device->free(e->device, y);
    emu_drop(&k);
}

/* A tree of shuffles in each warp, one barrier, one more tree; in every order the same sum. */
static void block_sum(emu *e)
{
    emu_kernel k = emu_build(e,
        "extern \"C\" __global__ void __launch_bounds__(256) k(const float *__restrict__ x, float *__restrict__ y)\n"
        "{\n"
        "    float *s = (float *)shared_memory(), v = x[threadIdx.x];\n"
        "    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(0xffffffff, v, d);\n"
        "    if (threadIdx.x % 32 == 0) s[threadIdx.x / 32] = v;\n"
        "    __syncthreads();\n"
        "    if (threadIdx.x < 8) {\n"
        "        v = s[threadIdx.x];\n"
        "        for (int d = 4; d > 0; d /= 2) v += __shfl_down_sync(0xff, v, d, 8);\n"
        "        if (threadIdx.x == 0) y[0] = v;\n"
        "    }\n"
        "}\n", "io");
    float *x = emu_alloc(e, 256 * 4), *y = emu_alloc(e, 4);
    for (int i = 0; i < 256; i++)
        x[i] = (float)i;
    void *args[] = {&x, &y};
    for (int o = 0; o < 3; o++) {
        CHECK_OK(cj_emu_device_order(e->device, orders[o]));
        y[0] = 0;
        CHECK_OK(emu_launch(&k, 1, 256, 32, args));
        CHECK(y[0] == 255 * 128);
    }
    e->device->free(e->device, x);
    e->device->free(e->device, y);
    emu_drop(&k);
}

/* Atomics of many blocks on several OS threads at once lose nothing. */
static void atomics(emu *e)
{
    emu_kernel k = emu_build(e,
        "extern \"C\" __global__ void k(float *y)\n"
        "{\n"
        "    int *i = (int *)y, t = blockIdx.x * blockDim.x + threadIdx.x;\n"
        "    atomicAdd(&i[0], 1);\n"
        "    atomicAdd(&y[1], 2.0f);\n"
        "    atomicMax(&i[2], t);\n"
        "    atomicMin(&i[3], -t);\n"
        "    atomicOr(&i[4], 1 << t % 20);\n"
        "    int *s = (int *)shared_memory();\n"
        "    if (threadIdx.x == 0) s[0] = 0;\n"
        "    __syncthreads();\n"
        "    atomicAdd(&s[0], (int)threadIdx.x);\n"
        "    __syncthreads();\n"
        "    if (threadIdx.x == 0 && s[0] != 31 * 16) __trap();\n"
        "}\n", "o");
    int *i = emu_alloc(e, 32);
    void *args[] = {&i};
    CHECK_OK(e->device->fill(e->device, i, 0, 32));
    cj_emu_device_threads(e->device, 4);
    CHECK_OK(emu_launch(&k, 500, 32, 4, args));
    cj_emu_device_threads(e->device, 1);
    float sum;
    memcpy(&sum, &i[1], 4);
    CHECK_INT(i[0], 16000);
    CHECK(sum == 32000.0f);
    CHECK_INT(i[2], 15999);
    CHECK_INT(i[3], -15999);
    CHECK_INT(i[4], (1 << 20) - 1);
    e->device->free(e->device, i);
    emu_drop(&k);
}

int main(void)
{
    emu e = emu_open();
    shuffles(&e);
    masks(&e);
    votes(&e);
    block_sum(&e);
    atomics(&e);
    emu_close(&e);
    return check_done("emu/collectives");
}
