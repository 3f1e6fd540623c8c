/* overlap.c: launches that overlap those before them: what they may touch ahead of grid_wait, and that they wait at all. */
#include "emu_test.h"

enum { BLOCKS = 3, THREADS = 64, N = BLOCKS * THREADS };
#define KERNEL(body)                                                                                                      \
    "extern \"C\" __global__ void k(const float *x, float *y)\n"                                                            \
    "{\n"                                                                                                                 \
    "    int i = blockIdx.x * blockDim.x + threadIdx.x;\n" body "}\n"

static const cj_attributes plain = {.cluster = {1, 1, 1}}, overlap = {.cluster = {1, 1, 1}, .overlap = true};

static convjit_status run(const emu_kernel *k, const cj_attributes *attributes, const float *x, float *y)
{
    const unsigned grid[3] = {BLOCKS, 1, 1}, block[3] = {THREADS, 1, 1};
    void *args[] = {&x, &y};
    return k->e->device->launch_with(k->e->device, k->function, grid, block, attributes, 0, args, 2, NULL);
}

typedef struct chain { emu_kernel doubles, last; float *x, *middle, *y; } chain;

/* middle = 2 * x, and then the kernel `source` from middle to y. */
static chain begin(emu *e, const char *source)
{
    chain c = {.doubles = emu_build(e, KERNEL("grid_launch_dependents(); y[i] = 2 * x[i];\n"), "io"), .last = emu_build(e, source, "io")};
    c.x = emu_alloc(e, N * sizeof *c.x);
    c.middle = emu_alloc(e, N * sizeof *c.x);
    c.y = emu_alloc(e, N * sizeof *c.x);
    for (int i = 0; i < N; i++)
        c.x[i] = (float)i;
    CHECK_OK(run(&c.doubles, &plain, c.x, c.middle));
    return c;
}

static void end(emu *e, chain *c)
{
    e->device->free(e->device, c->x);
    e->device->free(e->device, c->middle);
    e->device->free(e->device, c->y);
    emu_drop(&c->doubles);
    emu_drop(&c->last);
}

static void passes(emu *e, const char *source)
{
    chain c = begin(e, source);
    for (int mode = 0; mode < EMU_MODES; mode++) {
        emu_set_mode(e, mode);
        CHECK_OK(run(&c.doubles, &plain, c.x, c.middle));
        CHECK_OK(run(&c.last, &overlap, c.middle, c.y));
        for (int i = 0; i < N; i++)
            CHECK(c.y[i] == (float)(2 * i + 1));
        CHECK_OK(run(&c.last, &overlap, c.x, c.middle)); /* a chain of three: all that the first two wrote is behind */
        CHECK_OK(run(&c.last, &overlap, c.middle, c.y));
        for (int i = 0; i < N; i++)
            CHECK(c.y[i] == (float)(i + 2));
    }
    end(e, &c);
}

static void caught(emu *e, const char *source, const char *message)
{
    chain c = begin(e, source);
    for (int mode = 0; mode < EMU_MODES; mode++) {
        emu_set_mode(e, mode);
        CHECK_OK(run(&c.doubles, &plain, c.x, c.middle));
        CHECK_FAILS(run(&c.last, &overlap, c.middle, c.y), CONVJIT_EMULATOR, message);
    }
    CHECK_OK(run(&c.doubles, &plain, c.x, c.middle));
    CHECK_OK(run(&c.last, &plain, c.middle, c.y)); /* behind it, all is well */
    end(e, &c);
}

/* The second of three writes what nobody reads; the third must not touch what the first wrote either. */
static void two_back(emu *e)
{
    chain c = begin(e, KERNEL("y[i] = x[i]; grid_wait();\n"));
    CHECK_OK(run(&c.last, &overlap, c.x, c.y));
    CHECK_FAILS(run(&c.last, &overlap, c.middle, c.x), CONVJIT_EMULATOR, "a launch before this one wrote: grid_wait is missing");
    CHECK_OK(run(&c.last, &plain, c.y, c.x));
    CHECK_OK(run(&c.last, &overlap, c.middle, c.y)); /* the first of those is forgotten: the plain one began behind it */
    end(e, &c);
}

static void only_on_hopper(void)
{
    emu e = {0};
    const convjit_config config = {.size = sizeof config, .arch = "sm_80"};
    CHECK_OK(cj_emu_compiler_open(&e.compiler, NULL));
    CHECK_OK(cj_emu_device_open(&e.device, &config));
    float *y = emu_alloc(&e, N * sizeof *y);
    emu_kernel waits = emu_build(&e, KERNEL("grid_wait(); y[i] = 1;\n"), "io");
    CHECK_FAILS(run(&waits, &overlap, y, y), CONVJIT_INVALID, "overlaps the launch before it, which sm_80 cannot");
    CHECK_FAILS(run(&waits, &plain, y, y), CONVJIT_EMULATOR, "grid_wait on line 4: this architecture has it not");
    e.device->free(e.device, y);
    emu_drop(&waits);
    emu_close(&e);
}

int main(void)
{
    emu e = emu_open();
    passes(&e, KERNEL("grid_wait(); y[i] = x[i] + 1;\n"));
    passes(&e, KERNEL("int one = threadIdx.x < 64; grid_wait(); y[i] = x[i] + one;\n"));
    caught(&e, KERNEL("y[i] = x[i] + 1; grid_wait();\n"),
           "of input, which has 768 bytes, which a launch before this one wrote: grid_wait is missing");
    caught(&e, KERNEL("float v = x[i]; grid_wait(); y[i] = v;\n"), "reads 4 bytes on line 4");
    caught(&e, KERNEL("if (threadIdx.x != 5) grid_wait();\n y[i] = x[i] + 1;\n"), "thread (5,0,0): reads 4 bytes on line 5");
    caught(&e, KERNEL("((float *)x)[i] = 3; grid_wait();\n"), "writes 4 bytes on line 4");
    caught(&e, KERNEL("y[i] = 1;\n"), "the block ends, and no thread of it has called grid_wait");
    caught(&e, KERNEL("if (blockIdx.x > 0) grid_wait();\n"), "block (0,0,0), thread");
    two_back(&e);
    emu_close(&e);
    only_on_hopper();
    return check_done("overlap");
}
