/* speed.c: how fast the emulated device is, by the CPU time of its one OS thread and the best of several short runs, so that other
 * programs on the machine make little difference. On an idle one a barrier of 128 threads takes about 2.5 us, a checked access
 * about 12 ns, and a million multiply-adds of the tensor cores 0.5 to 3 ms. */
#include <time.h>
#include "emu_test.h"

enum { THREADS = 128, RUNS = 12 };

static double cpu_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

/* Microseconds for a round of a kernel `k(float *y, int n)` of n rounds: what it takes beyond the same kernel with none. */
static double round_us(emu *e, const char *source, int rounds)
{
    emu_kernel k = emu_build(e, source, "on");
    float *y = emu_alloc(e, THREADS * sizeof *y);
    double best[2] = {1e30, 1e30}; /* without rounds, and with */
    for (int i = 0; i < 2 * RUNS; i++) {
        int n = i % 2 ? rounds : 0;
        void *args[] = {&y, &n};
        double start = cpu_us();
        CHECK_OK(emu_launch(&k, 1, THREADS, 32768, args));
        double us = cpu_us() - start;
        best[i % 2] = us < best[i % 2] ? us : best[i % 2];
    }
    e->device->free(e->device, y);
    emu_drop(&k);
    return (best[1] - best[0]) / rounds;
}

static void threads(emu *e)
{
    double barrier = round_us(e,
        "extern \"C\" __global__ void k(float *y, int n) { for (int i = 0; i < n; i++) __syncthreads(); }\n", 500);
    double shuffle = round_us(e,
        "extern \"C\" __global__ void k(float *y, int n)\n"
        "{ int v = threadIdx.x; for (int i = 0; i < n; i++) v = __shfl_xor_sync(~0u, v, 1); y[threadIdx.x] = v; }\n", 500);
    double update = round_us(e,
        "extern \"C\" __global__ void k(float *y, int n)\n"
        "{\n"
        "    float *s = (float *)shared_memory();\n"
        "    s[threadIdx.x] = 0;\n"
        "    for (int i = 0; i < n; i++) s[threadIdx.x] += 1;\n"
        "}\n", 500);
    double access_ns = 1e3 * update / (2 * THREADS);
    printf("%d threads: barrier %.2f us, shuffle %.2f us; access to shared memory %.1f ns\n", THREADS, barrier, shuffle, access_ns);
#ifndef CJ_FIBRE_UCONTEXT /* which makes two system calls a switch */
    CHECK_THAT(barrier < 10, "a barrier of %d threads takes %.2f us", THREADS, barrier);
#endif
    CHECK_THAT(access_ns < 50, "an access to shared memory takes %.1f ns", access_ns);
}

/* Milliseconds for a million multiply-adds of a loop that does `each` of them in a round. */
static double million_ms(emu *e, const char *declare, const char *loop, int rounds, double each)
{
    char text[2048];
    snprintf(text, sizeof text,
             "extern \"C\" __global__ void __launch_bounds__(128) k(float *y, int n)\n"
             "{\n"
             "    unsigned *s = (unsigned *)shared_memory();\n"
             "    for (int i = threadIdx.x; i < 8192; i += 128) s[i] = 0x3c003c00;\n"
             "    fence_proxy_async();\n"
             "    __syncthreads();\n"
             "    unsigned long long a = wgmma_descriptor(s, 16, 1024, 128);\n"
             "    %s\n"
             "    for (int i = 0; i < n; i++) { %s }\n"
             "    y[threadIdx.x] = d[0];\n"
             "}\n", declare, loop);
    return 1e-3 * round_us(e, text, rounds) * 1e6 / each;
}

static void matrices(emu *e)
{
    static const char *const wide = "wgmma_fence(); wgmma_f16_n256_ss_x4(d, a, a, 2, 2, 1); wgmma_commit(); wgmma_wait<0>();";
    static const char *const narrow = "wgmma_fence(); wgmma_f16_n16_ss(d, a, a, 1); wgmma_commit(); wgmma_wait<0>();";
    static const char *const warps = "mma_m16n8k16_f16(d, f, g);";
    double n256 = million_ms(e, "float d[128] = {};", wide, 16, 64. * 256 * 64);
    double n16 = million_ms(e, "float d[8] = {};", narrow, 128, 64. * 16 * 16);
    double mma = million_ms(e, "float d[4] = {}; unsigned f[4] = {}, g[2] = {};", warps, 256, 4 * 16. * 8 * 16);
    printf("a million multiply-adds: wgmma n256 %.2f ms, n16 %.2f ms, mma m16n8k16 %.2f ms\n", n256, n16, mma);
    CHECK_THAT(n256 < 20 && n16 < 20 && mma < 20, "a million multiply-adds take %.1f, %.1f, %.1f ms", n256, n16, mma);
}

int main(void)
{
    emu e = emu_open();
    threads(&e);
    matrices(&e);
    emu_close(&e);
    return check_done("emu/speed");
}
