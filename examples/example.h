/* example.h: what the examples share: stop at the first error, and a context on the GPU or else on the emulated device. */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <stdio.h>
#include <stdlib.h>
#include <convjit.h>

/* Every function of the library returns a status; the detail of a failure is in convjit_errmsg(). */
#define TRY(call)                                                                                            \
    do {                                                                                                     \
        convjit_status try_status = (call);                                                                  \
        if (try_status != CONVJIT_OK) {                                                                      \
            fprintf(stderr, "%s: %s: %s\n", #call, convjit_strstatus(try_status), convjit_errmsg());         \
            exit(1);                                                                                         \
        }                                                                                                    \
    } while (0)

static inline void *allocate(size_t bytes)
{
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) {
        fprintf(stderr, "out of memory\n");
        exit(1);
    }
    return memory;
}

/* A context on the GPU, or on the emulated device if there is no GPU. */
static inline convjit *open_any(const char **device)
{
    convjit *cj;
    convjit_config config = { .size = sizeof config };
    void *memory;
    TRY(convjit_open(&cj, &config));
    convjit_status status = convjit_device_alloc(cj, &memory, 1); /* the first call that needs the device */
    if (status == CONVJIT_NO_DRIVER || status == CONVJIT_NO_DEVICE) {
        convjit_close(cj);
        config.device = CONVJIT_EMU;
        TRY(convjit_open(&cj, &config));
        *device = "the emulated device";
        return cj;
    }
    TRY(status);
    convjit_device_free(cj, memory);
    *device = "the GPU";
    return cj;
}

/* A copy of host data in device memory. */
static inline void *upload(convjit *cj, const void *host, size_t bytes)
{
    void *device;
    TRY(convjit_device_alloc(cj, &device, bytes));
    TRY(convjit_device_write(cj, device, host, bytes));
    return device;
}

static inline size_t tensor_bytes(const convjit_problem *p, convjit_tensor which)
{
    return (size_t)convjit_problem_elements(p, which) * convjit_element_size(p->math);
}

#endif
