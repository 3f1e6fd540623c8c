/* basics.c: kernels that are right run and give the right values on the emulated device, in every thread order. */
#include "emu_test.h"

static const char *const orders[] = {"forward", "reverse", "seed:1", "seed:2", "seed:3"};
enum { N_ORDERS = sizeof orders / sizeof *orders };

static void vector_add(emu *e)
{
    emu_kernel k = emu_build(e,
        "extern \"C\" __global__ void __launch_bounds__(64) k(const float *__restrict__ a, const float *__restrict__ b,\n"
        "                                                   float *__restrict__ c, int n)\n"
        "{\n"
        "    int i = blockIdx.x * blockDim.x + threadIdx.x;\n"
        "    if (i < n)\n"
        "        c[i] = a[i] + b[i];\n"
        "}\n", "iwon");
    enum { N = 1000 };
    float *a = emu_alloc(e, N * 4), *b = emu_alloc(e, N * 4), *c = emu_alloc(e, N * 4);
    int n = N;
    void *args[] = {&a, &b, &c, &n};
    CHECK(c[0] != c[0] && c[N - 1] != c[N - 1]); /* allocations begin as NaN */
    for (int i = 0; i < N; i++) {
        a[i] = (float)i;
        b[i] = 0.5f * (float)i;
    }
    for (int threads = 1; threads <= 3; threads += 2)
        for (int o = 0; o < N_ORDERS; o++) {
            cj_emu_device_threads(e->device, threads);
            CHECK_OK(cj_emu_device_order(e->device, orders[o]));
            CHECK_OK(e->device->fill(e->device, c, 0xFF, N * 4));
            CHECK_OK(emu_launch(&k, (N + 63) / 64, 64, 0, args));
            int wrong = 0;
            for (int i = 0; i < N; i++)
                wrong += c[i] != 1.5f * (float)i;
            CHECK_INT(wrong, 0);
        }
    cj_emu_device_threads(e->device, 1);
    CHECK_OK(cj_emu_device_order(e->device, NULL));
    e->device->free(e->device, a);
    e->device->free(e->device, b);
    e->device->free(e->device, c);
    emu_drop(&k);
}

int main(void)
{
    emu e = emu_open();
    vector_add(&e);
    emu_close(&e);
    return check_done("emu/basics");
}
