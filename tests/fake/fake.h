/* fake.h: how tests steer and question the fake libnvrtc and libcuda, which stand in for NVIDIA's libraries.
 *
 * They are shared objects under $(BUILD)/tests/fake, made by `make fakes`; point CONVJIT_NVRTC and CONVJIT_DRIVER (or
 * the fields of convjit_config) at them. They read these environment variables at each call, so a test may change them.
 *
 *   FAKE_NVRTC_MS=N         each compilation takes N milliseconds (asleep, so many can overlap)
 *   FAKE_NVRTC_COUNT=FILE   each compilation appends one byte to FILE: counts over several processes
 *   FAKE_NVRTC_FAIL=1       every compilation fails, with a log; so does any source that contains FAKE_NVRTC_FAIL
 *   FAKE_NVRTC_NEWEST=86    architectures above this one are refused as an old NVRTC does; default 121
 *
 *   FAKE_CUDA_DEVICES=N     number of GPUs; 0: cuInit reports CUDA_ERROR_NO_DEVICE. Default 1
 *   FAKE_CUDA_ARCH=9.0      compute capability of them all; default 9.0
 *   FAKE_CUDA_MEMORY=N      bytes that a GPU has; more is CUDA_ERROR_OUT_OF_MEMORY. Default 1 GiB
 *   FAKE_CUDA_FAIL=CALL:N   the driver function CALL fails with CUresult N, such as cuInit:999
 *
 * The fake cubin is "fakecubin ARCH\n", the source, and a 0 byte. The fake driver runs no kernel: it checks everything
 * that it is given, and records the launch, with the arguments read as the parameter list in the source says. */
#ifndef FAKE_H
#define FAKE_H

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define FAKE_CUBIN_MAGIC "fakecubin "

enum { FAKE_MAX_ARGS = 32, FAKE_MAX_LAUNCHES = 4096 };

typedef struct fake_launch {
    char entry[256];
    unsigned grid[3], block[3], cluster[3], smem;
    int overlap; /* programmatic stream serialization */
    void *stream, *context;
    int n_args;
    uint64_t args[FAKE_MAX_ARGS]; /* pointers and 64-bit integers whole; narrower ones zero-extended; of a TensorMap
                                   * the address */
} fake_launch;

/* Types of what the fake libnvrtc exports, under the type's name without _fn */
typedef int fake_nvrtc_compiles_fn(void); /* compilations in this process, failed ones included */

/* Of what the fake libcuda exports */
typedef int fake_cuda_launches_fn(void);                  /* how many, since the process began */
typedef const fake_launch *fake_cuda_launch_fn(int i);    /* the i-th from 0; the first FAKE_MAX_LAUNCHES are kept */
typedef int fake_cuda_calls_fn(const char *name);         /* calls of one driver function; NULL: of all */
typedef int fake_cuda_live_fn(void);                      /* contexts, modules, events and allocations that exist */
typedef void *fake_cuda_context_fn(int device);           /* a new context, current to no thread */
typedef void fake_cuda_context_destroy_fn(void *context); /* and all that belongs to it */
typedef void *fake_cuda_stream_fn(void);                  /* a new stream */

/* Path of a fake ("libnvrtc.so", "libcuda.so") below the build directory that the tests run in. */
static inline const char *fake_path(const char *name)
{
    static _Thread_local char path[2][512];
    static _Thread_local int turn;
    const char *build = getenv("BUILD");
    turn = !turn;
    snprintf(path[turn], sizeof path[turn], "%s/tests/fake/%s", build && *build ? build : "build", name);
    return path[turn];
}

/* A function of a fake; loads the fake if need be. NULL, with a line on stderr, when there is none. */
static inline void *fake_symbol(const char *library, const char *symbol)
{
    void *handle = dlopen(fake_path(library), RTLD_NOW | RTLD_LOCAL);
    void *address = handle ? dlsym(handle, symbol) : NULL;
    if (!address)
        fprintf(stderr, "fake: %s\n", dlerror());
    return address;
}

#endif
