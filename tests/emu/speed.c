/* speed.c: a barrier of 128 threads takes about 5 us and a checked access about 10 ns on an idle machine; best of five, one OS
 * thread. The bounds leave room for a machine that others use, too. */
#include <time.h>
#include "emu_test.h"

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static double best_us(const emu_kernel *k, unsigned threads, void **args)
{
    double best = 1e30;
    for (int i = 0; i < 5; i++) {
        double start = now_us();
        CHECK_OK(emu_launch(k, 1, threads, 4096, args));
        double us = now_us() - start;
        best = us < best ? us : best;
    }
    return best;
}

int main(void)
{
    emu e = emu_open();
    float *y = emu_alloc(&e, 4096);
    int n = 2000;
    void *args[] = {&y, &n};
    emu_kernel barrier = emu_build(&e,
        "extern \"C\" __global__ void k(float *y, int n) { for (int i = 0; i < n; i++) __syncthreads(); }\n", "on");
    emu_kernel shuffle = emu_build(&e,
        "extern \"C\" __global__ void k(float *y, int n)\n"
        "{ int v = threadIdx.x; for (int i = 0; i < n; i++) v = __shfl_xor_sync(~0u, v, 1); y[threadIdx.x] = v; }\n", "on");
    emu_kernel access = emu_build(&e,
        "extern \"C\" __global__ void k(float *y, int n)\n"
        "{\n"
        "    float *s = (float *)shared_memory();\n"
        "    s[threadIdx.x] = 0;\n"
        "    for (int i = 0; i < n; i++) s[threadIdx.x] += 1;\n"
        "}\n", "on");
    double barrier_us = best_us(&barrier, 128, args) / n, shuffle_us = best_us(&shuffle, 128, args) / n;
    double access_ns = best_us(&access, 128, args) * 1e3 / (2.0 * n * 128);
    printf("128 threads: barrier %.2f us, shuffle %.2f us; access to shared memory %.1f ns\n", barrier_us, shuffle_us, access_ns);
#ifndef CJ_FIBRE_UCONTEXT /* which makes two system calls a switch */
    CHECK_THAT(barrier_us < 40, "a barrier of 128 threads takes %.2f us", barrier_us);
#endif
    CHECK_THAT(access_ns < 200, "an access to shared memory takes %.1f ns", access_ns);
    emu_drop(&barrier);
    emu_drop(&shuffle);
    emu_drop(&access);
    e.device->free(e.device, y);
    emu_close(&e);
    return check_done("emu/speed");
}
