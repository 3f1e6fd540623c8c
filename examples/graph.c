/* graph.c: a chain of convolutions captured into a CUDA graph, which launches them all with one call.
 * usage: graph      needs a GPU, and says so where there is none. The driver API is loaded at run time, as convjit itself
 * does, so that this builds without CUDA. */
#include <dlfcn.h>
#include <math.h>
#include <string.h>
#include <time.h>
#include "example.h"

enum { LAYERS = 16, REPEATS = 100 };

/* The part of the driver API that is used here; every function returns 0 for success. */
static struct driver {
    int (*init)(unsigned flags);
    int (*device_get)(int *device, int ordinal);
    int (*context_retain)(void **context, int device);
    int (*context_release)(int device);
    int (*set_current)(void *context);
    int (*stream_create)(void **stream, unsigned flags);
    int (*stream_destroy)(void *stream);
    int (*stream_synchronize)(void *stream);
    int (*begin_capture)(void *stream, int mode);
    int (*end_capture)(void *stream, void **graph);
    int (*instantiate)(void **executable, void *graph, unsigned long long flags);
    int (*launch)(void *executable, void *stream);
    int (*executable_destroy)(void *executable);
    int (*graph_destroy)(void *graph);
} cu;

static int load_driver(void)
{
    static const struct { const char *name; size_t at; } functions[] = {
        { "cuInit", offsetof(struct driver, init) },
        { "cuDeviceGet", offsetof(struct driver, device_get) },
        { "cuDevicePrimaryCtxRetain", offsetof(struct driver, context_retain) },
        { "cuDevicePrimaryCtxRelease_v2", offsetof(struct driver, context_release) },
        { "cuCtxSetCurrent", offsetof(struct driver, set_current) },
        { "cuStreamCreate", offsetof(struct driver, stream_create) },
        { "cuStreamDestroy_v2", offsetof(struct driver, stream_destroy) },
        { "cuStreamSynchronize", offsetof(struct driver, stream_synchronize) },
        { "cuStreamBeginCapture_v2", offsetof(struct driver, begin_capture) },
        { "cuStreamEndCapture", offsetof(struct driver, end_capture) },
        { "cuGraphInstantiateWithFlags", offsetof(struct driver, instantiate) },
        { "cuGraphLaunch", offsetof(struct driver, launch) },
        { "cuGraphExecDestroy", offsetof(struct driver, executable_destroy) },
        { "cuGraphDestroy", offsetof(struct driver, graph_destroy) },
    };
    void *library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library)
        return 0;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *function = dlsym(library, functions[i].name);
        if (!function)
            return 0;
        memcpy((char *)&cu + functions[i].at, &function, sizeof function);
    }
    return cu.init(0) == 0;
}

#define CUDA(call)                                                        \
    do {                                                                  \
        int cuda_status = (call);                                         \
        if (cuda_status != 0) {                                           \
            fprintf(stderr, "%s: CUDA error %d\n", #call, cuda_status);   \
            exit(1);                                                      \
        }                                                                 \
    } while (0)

/* LAYERS convolutions, each of the one before: what a network's forward pass enqueues. */
typedef struct chain { convjit_plan *plan; void *buffer[2], *weights, *workspace; } chain;

static void enqueue(const chain *c, void *stream)
{
    for (int i = 0; i < LAYERS; i++) {
        convjit_tensors t = { .size = sizeof t, .input = c->buffer[i % 2], .weights = c->weights,
                              .output = c->buffer[1 - i % 2], .workspace = c->workspace };
        TRY(convjit_plan_launch(c->plan, &t, stream));
    }
}

static chain make_chain(convjit *cj, const convjit_problem *p)
{
    chain c = { 0 };
    int64_t n_w = convjit_problem_elements(p, CONVJIT_WEIGHTS);
    float *w = allocate((size_t)n_w * sizeof *w);
    for (int64_t i = 0; i < n_w; i++)
        w[i] = sinf((float)i) * 0.1f;
    TRY(convjit_plan_create(&c.plan, cj, p));
    c.weights = upload(cj, w, tensor_bytes(p, CONVJIT_WEIGHTS));
    for (int i = 0; i < 2; i++)
        TRY(convjit_device_alloc(cj, &c.buffer[i], tensor_bytes(p, CONVJIT_INPUT)));
    if (convjit_plan_workspace(c.plan) > 0)
        TRY(convjit_device_alloc(cj, &c.workspace, convjit_plan_workspace(c.plan)));
    free(w);
    return c;
}

/* The same start for each way of launching. */
static void reset(convjit *cj, const convjit_problem *p, const chain *c)
{
    int64_t n = convjit_problem_elements(p, CONVJIT_INPUT);
    float *x = allocate((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++)
        x[i] = cosf((float)i);
    TRY(convjit_device_write(cj, c->buffer[0], x, tensor_bytes(p, CONVJIT_INPUT)));
    free(x);
}

static void *capture(const chain *c, void *stream)
{
    void *graph, *executable;
    CUDA(cu.begin_capture(stream, 1)); /* CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
    enqueue(c, stream);
    CUDA(cu.end_capture(stream, &graph));
    CUDA(cu.instantiate(&executable, graph, 0));
    CUDA(cu.graph_destroy(graph));
    return executable;
}

/* Microseconds of one pass through the chain, launch by launch or, with an executable graph, at once. */
static double time_chain(const chain *c, void *executable, void *stream)
{
    struct timespec start, end;
    CUDA(cu.stream_synchronize(stream));
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int i = 0; i < REPEATS; i++) {
        if (executable)
            CUDA(cu.launch(executable, stream));
        else
            enqueue(c, stream);
    }
    CUDA(cu.stream_synchronize(stream));
    clock_gettime(CLOCK_MONOTONIC, &end);
    return ((double)(end.tv_sec - start.tv_sec) * 1e6 + (double)(end.tv_nsec - start.tv_nsec) * 1e-3) / REPEATS;
}

static void compare_ways(convjit *cj, void *stream)
{
    convjit_problem p;
    TRY(convjit_problem_parse(&p, "n1c32h28w28k32r3s3_pad1_tanh"));
    chain c = make_chain(cj, &p);
    size_t bytes = tensor_bytes(&p, CONVJIT_OUTPUT);
    float *launched = allocate(bytes), *replayed = allocate(bytes);

    reset(cj, &p, &c);
    enqueue(&c, stream);
    CUDA(cu.stream_synchronize(stream));
    TRY(convjit_device_read(cj, launched, c.buffer[0], bytes));

    void *executable = capture(&c, stream);
    reset(cj, &p, &c);
    CUDA(cu.launch(executable, stream));
    CUDA(cu.stream_synchronize(stream));
    TRY(convjit_device_read(cj, replayed, c.buffer[0], bytes));
    if (memcmp(launched, replayed, bytes) != 0) {
        fprintf(stderr, "the graph has another result than the launches\n");
        exit(1);
    }
    double apart = time_chain(&c, NULL, stream), at_once = time_chain(&c, executable, stream);
    printf("%d layers: %.1f us launched one by one, %.1f us as a graph; same result\n", LAYERS, apart, at_once);
    CUDA(cu.executable_destroy(executable));
    for (int i = 0; i < 2; i++)
        convjit_device_free(cj, c.buffer[i]);
    convjit_device_free(cj, c.weights);
    convjit_device_free(cj, c.workspace);
    convjit_plan_destroy(c.plan);
    free(launched);
    free(replayed);
}

int main(void)
{
    int device;
    void *context, *stream;
    convjit *cj;
    if (!load_driver() || cu.device_get(&device, 0) != 0) {
        puts("graph: needs a GPU");
        return 0;
    }
    CUDA(cu.context_retain(&context, device));
    CUDA(cu.set_current(context)); /* convjit uses the context that is current */
    CUDA(cu.stream_create(&stream, 1)); /* CU_STREAM_NON_BLOCKING */
    TRY(convjit_open(&cj, NULL));
    compare_ways(cj, stream);
    convjit_close(cj);
    CUDA(cu.stream_destroy(stream));
    CUDA(cu.context_release(device));
    return 0;
}
