/* emu_test.h: compiles a kernel text and launches it on the emulated device, through the two vtables alone. */
#ifndef EMU_TEST_H
#define EMU_TEST_H

#include <stdlib.h>
#include "check.h"
#include "emu/emu.h"

typedef struct emu {
    cj_compiler *compiler;
    cj_device *device;
} emu;

static inline emu emu_open(void)
{
    emu e = {0};
    CHECK_OK(cj_emu_compiler_open(&e.compiler, NULL));
    CHECK_OK(cj_emu_device_open(&e.device, NULL));
    cj_emu_device_threads(e.device, 1); /* the first mistake that is found is then always the same */
    return e;
}

static inline void emu_close(emu *e)
{
    e->compiler->close(e->compiler);
    e->device->close(e->device);
}

/* A compiled kernel text with one entry point `k`. */
typedef struct emu_kernel {
    emu *e;
    cj_module *module;
    cj_function *function;
    int n_args;
} emu_kernel;

/* args: a letter an argument, i input, w weights, o output, n int, m tensor map, l long long. */
static inline convjit_status emu_compile(emu *e, const char *source, const char *args, cj_blob *binary)
{
    cj_kernel k = {.name = (char[]){"k"}, .source = (char *)(uintptr_t)source, .n_launches = 1};
    k.launches[0].entry = (char[]){"k"};
    k.launches[0].n_args = (int)strlen(args);
    for (int i = 0; args[i]; i++)
        k.launches[0].args[i].kind = args[i] == 'i'   ? CJ_ARG_INPUT
                                     : args[i] == 'w' ? CJ_ARG_WEIGHTS
                                     : args[i] == 'o' ? CJ_ARG_OUTPUT
                                     : args[i] == 'n' ? CJ_ARG_I32
                                     : args[i] == 'm' ? CJ_ARG_TENSOR_MAP : CJ_ARG_I64;
    return e->compiler->compile(e->compiler, &k, binary);
}

static inline emu_kernel emu_build(emu *e, const char *source, const char *args)
{
    emu_kernel k = {.e = e, .n_args = (int)strlen(args)};
    cj_blob binary = {0};
    CHECK_OK(emu_compile(e, source, args, &binary));
    if (!binary.data)
        return k;
    CHECK_OK(e->device->load(e->device, 0, &binary, &k.module));
    free(binary.data);
    if (k.module)
        CHECK_OK(e->device->function(e->device, k.module, "k", 0, &k.function));
    return k;
}

static inline void emu_drop(emu_kernel *k)
{
    if (k->module)
        k->e->device->unload(k->e->device, k->module);
    *k = (emu_kernel){0};
}

static inline convjit_status emu_launch(const emu_kernel *k, unsigned blocks, unsigned threads, unsigned smem, void **args)
{
    const unsigned grid[3] = {blocks, 1, 1}, block[3] = {threads, 1, 1};
    if (!k->function)
        return cj_fail(CONVJIT_INVALID, "the kernel was not built");
    return k->e->device->launch(k->e->device, k->function, grid, block, smem, args, k->n_args, NULL);
}

static inline convjit_status emu_launch_cluster(const emu_kernel *k, unsigned blocks, unsigned cluster, unsigned threads,
                                                unsigned smem, void **args)
{
    const unsigned grid[3] = {blocks, 1, 1}, block[3] = {threads, 1, 1};
    const cj_attributes attributes = {.cluster = {cluster, 1, 1}};
    if (!k->function)
        return cj_fail(CONVJIT_INVALID, "the kernel was not built");
    return k->e->device->launch_with(k->e->device, k->function, grid, block, &attributes, smem, args, k->n_args, NULL);
}

/* Every order of threads with every time at which asynchronous operations take effect. */
static const struct emu_mode { const char *order, *async; } emu_modes[] = {
    {"forward", "wait"}, {"reverse", "wait"}, {"seed:1", "wait"}, {"seed:2", "wait"}, {"seed:33", "wait"},
    {"forward", "issue"}, {"reverse", "issue"}, {"seed:1", "issue"}, {"seed:2", "issue"}, {"seed:33", "issue"},
};
enum { EMU_MODES = sizeof emu_modes / sizeof *emu_modes };

static inline void emu_set_mode(emu *e, int i)
{
    CHECK_OK(cj_emu_device_order(e->device, emu_modes[i].order));
    CHECK_OK(cj_emu_device_async(e->device, emu_modes[i].async));
}

static inline void *emu_alloc(emu *e, size_t bytes)
{
    void *memory = NULL;
    CHECK_OK(e->device->alloc(e->device, &memory, bytes));
    return memory;
}

#endif
