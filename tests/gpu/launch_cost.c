/* launch_cost.c: what calls cost the host: plan_launch beside a bare cuLaunchKernel of the very same kernel, grid and
 * arguments; plan_create cold, from disk and from memory. Prints each number, and fails where one is beyond its bar. */
#include <dlfcn.h>
#include <ftw.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include "check.h"
#include "internal.h"

enum {
    BURST = 200,  /* launches timed together; fewer than the driver queues without waiting for the GPU */
    ROUNDS = 101, /* bursts of each kind, in turn */
    PLANS = 500   /* plans from memory timed together */
};

static const double LAUNCH_BAR_NS = 500, COLD_BAR_MS = 300, DISK_BAR_MS = 2, MEMORY_BAR_US = 2;

/* ---- The driver, bare (CUDA driver API reference; every function returns 0 for success) ---- */

static struct {
    int (*init)(unsigned flags);
    int (*device_get)(int *device, int ordinal);
    int (*context_retain)(void **context, int device);
    int (*context_push)(void *context);
    int (*module_load)(void **module, const void *image);
    int (*module_unload)(void *module);
    int (*function_get)(void **function, void *module, const char *name);
    int (*launch)(void *function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x, unsigned block_y,
                  unsigned block_z, unsigned smem, void *stream, void **args, void **extra);
    int (*synchronize)(void *stream);
} cu;

static bool open_driver(void)
{
    static const struct { const char *name; void *field; } functions[] = {
        { "cuInit", &cu.init }, { "cuDeviceGet", &cu.device_get }, { "cuDevicePrimaryCtxRetain", &cu.context_retain },
        { "cuCtxPushCurrent_v2", &cu.context_push }, { "cuModuleLoadData", &cu.module_load },
        { "cuModuleUnload", &cu.module_unload }, { "cuModuleGetFunction", &cu.function_get },
        { "cuLaunchKernel", &cu.launch }, { "cuStreamSynchronize", &cu.synchronize },
    };
    const char *path = getenv("CONVJIT_DRIVER");
    void *library = dlopen(path && *path ? path : "libcuda.so.1", RTLD_NOW);
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
        void *address = library ? dlsym(library, functions[i].name) : NULL;
        if (!address) {
            fprintf(stderr, "%s\n", dlerror());
            return false;
        }
        memcpy(functions[i].field, &address, sizeof address);
    }
    int device;
    void *context;
    return cu.init(0) == 0 && cu.device_get(&device, 0) == 0 && cu.context_retain(&context, device) == 0 &&
           cu.context_push(context) == 0;
}

/* ---- Clocks ---- */

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, size_t n)
{
    qsort(values, n, sizeof *values, by_value);
    return values[n / 2];
}

/* ---- A plan, and the same launches bare ---- */

typedef struct bare_launch {
    void *function;
    unsigned grid[3], block[3], smem;
    int64_t values[CJ_MAX_ARGS];
    void *args[CJ_MAX_ARGS];
} bare_launch;

typedef struct pair {
    convjit_problem problem;
    convjit_plan *plan;
    convjit_tensors tensors;
    size_t output_bytes;
    void *module;
    int n_launches;
    bare_launch launches[CJ_MAX_LAUNCHES];
} pair;

static int64_t evaluate(const char *expr, const cj_sizes *sizes)
{
    int64_t value = 0;
    CHECK_OK(cj_expr_eval(expr, sizes, &value));
    return value;
}

static int64_t argument(const pair *t, const cj_arg *arg, const cj_sizes *sizes)
{
    switch (arg->kind) {
    case CJ_ARG_INPUT: return (int64_t)(intptr_t)t->tensors.input;
    case CJ_ARG_WEIGHTS: return (int64_t)(intptr_t)t->tensors.weights;
    case CJ_ARG_BIAS: return (int64_t)(intptr_t)t->tensors.bias;
    case CJ_ARG_RESIDUAL: return (int64_t)(intptr_t)t->tensors.residual;
    case CJ_ARG_OUTPUT: return (int64_t)(intptr_t)t->tensors.output;
    case CJ_ARG_WORKSPACE: return (int64_t)(intptr_t)t->tensors.workspace + evaluate(arg->expr, sizes);
    case CJ_ARG_PACKED: /* at the end of the workspace */
        return (int64_t)(intptr_t)t->tensors.workspace + (int64_t)convjit_plan_workspace(t->plan) -
               (int64_t)convjit_plan_packed_size(t->plan) + evaluate(arg->expr, sizes);
    default: return evaluate(arg->expr, sizes); /* little endian: an int is the low half */
    }
}

static void prepare_bare(pair *t, const cj_kernel *k, const cj_blob *binary)
{
    const convjit_problem *p = &t->problem;
    cj_sizes sizes = { p->n, p->h, p->w, convjit_problem_p(p), convjit_problem_q(p) };
    CHECK_INT(cu.module_load(&t->module, binary->data), 0);
    t->n_launches = k->n_launches;
    for (int i = 0; i < k->n_launches; i++) {
        const cj_launch *from = &k->launches[i];
        bare_launch *to = &t->launches[i];
        CHECK_INT(cu.function_get(&to->function, t->module, from->entry), 0);
        for (int d = 0; d < 3; d++) {
            to->grid[d] = (unsigned)evaluate(from->grid[d], &sizes);
            to->block[d] = (unsigned)from->block[d];
        }
        to->smem = (unsigned)evaluate(from->smem, &sizes);
        for (int a = 0; a < from->n_args; a++) {
            to->values[a] = argument(t, &from->args[a], &sizes);
            to->args[a] = &to->values[a];
        }
    }
}

static void allocate(convjit *cj, pair *t)
{
    void *memory[CONVJIT_TENSOR_COUNT] = { 0 };
    for (int i = 0; i < CONVJIT_TENSOR_COUNT; i++) {
        int64_t elements = convjit_problem_elements(&t->problem, (convjit_tensor)i);
        size_t bytes = (size_t)elements * convjit_element_size(t->problem.math);
        if (bytes == 0) continue;
        void *host = malloc(bytes);
        CHECK_OK(convjit_device_alloc(cj, &memory[i], bytes));
        cj_reference_fill(&t->problem, (convjit_tensor)i, true, 7, host);
        CHECK_OK(convjit_device_write(cj, memory[i], host, bytes));
        free(host);
        if (i == CONVJIT_OUTPUT) t->output_bytes = bytes;
    }
    t->tensors = (convjit_tensors){ .size = sizeof t->tensors, .input = memory[CONVJIT_INPUT],
                                    .weights = memory[CONVJIT_WEIGHTS], .bias = memory[CONVJIT_BIAS],
                                    .residual = memory[CONVJIT_RESIDUAL], .output = memory[CONVJIT_OUTPUT] };
    size_t workspace = convjit_plan_workspace(t->plan);
    if (workspace) CHECK_OK(convjit_device_alloc(cj, &t->tensors.workspace, workspace));
}

static void prepare(convjit *cj, pair *t, const char *problem)
{
    CHECK_OK(convjit_problem_parse(&t->problem, problem));
    /* Its kernels need no attribute, no tensor map and no permission for shared memory: a bare launch can do the same. */
    CHECK_OK(convjit_plan_create_with(&t->plan, cj, &t->problem, "direct"));
    char arch[16];
    int sms;
    uintptr_t binding;
    cj_device *device = cj_context_device(cj);
    CHECK_OK(device->bind(device, arch, &sms, &binding));
    cj_kernel *kernel = NULL;
    cj_built *built = NULL;
    convjit_origin origin;
    CHECK_OK(cj_context_generate(cj, &t->problem, arch, sms, convjit_plan_schedule(t->plan), &kernel));
    CHECK_OK(cj_compile(cj, kernel, false, &built, &origin));
    CHECK_INT(origin, CONVJIT_FROM_MEMORY); /* the plan's own binary */
    allocate(cj, t);
    prepare_bare(t, cj_built_kernel(built), cj_built_binary(built));
}

static void release(convjit *cj, pair *t)
{
    CHECK_INT(cu.module_unload(t->module), 0);
    convjit_plan_destroy(t->plan);
    const void *memory[] = { t->tensors.input, t->tensors.weights, t->tensors.bias, t->tensors.residual,
                             t->tensors.output, t->tensors.workspace };
    for (size_t i = 0; i < sizeof memory / sizeof *memory; i++) convjit_device_free(cj, (void *)memory[i]);
}

static int launch_plan(pair *t)
{
    return (int)convjit_plan_launch(t->plan, &t->tensors, NULL);
}

static int launch_bare(pair *t)
{
    int error = 0;
    for (int i = 0; i < t->n_launches && !error; i++) {
        bare_launch *l = &t->launches[i];
        error = cu.launch(l->function, l->grid[0], l->grid[1], l->grid[2], l->block[0], l->block[1], l->block[2],
                          l->smem, NULL, l->args, NULL);
    }
    return error;
}

static double burst_ns(pair *t, int (*launch)(pair *))
{
    int errors = cu.synchronize(NULL) != 0;
    double start = now_ns();
    for (int i = 0; i < BURST; i++) errors += launch(t) != 0;
    double took = now_ns() - start;
    errors += cu.synchronize(NULL) != 0;
    CHECK_INT(errors, 0);
    return took / BURST;
}

/* Both launches must write the whole output, and the same. */
static void check_equal(convjit *cj, pair *t)
{
    unsigned char *outputs[2];
    int (*const launches[2])(pair *) = { launch_plan, launch_bare };
    for (int i = 0; i < 2; i++) {
        outputs[i] = malloc(t->output_bytes);
        memset(outputs[i], 0xff, t->output_bytes); /* NaN */
        CHECK_OK(convjit_device_write(cj, t->tensors.output, outputs[i], t->output_bytes));
        CHECK_INT(launches[i](t), 0);
        CHECK_OK(convjit_device_sync(cj, NULL));
        CHECK_OK(convjit_device_read(cj, outputs[i], t->tensors.output, t->output_bytes));
    }
    CHECK(memcmp(outputs[0], outputs[1], t->output_bytes) == 0);
    const uint32_t *words = (const uint32_t *)(const void *)outputs[0];
    size_t poisoned = 0;
    for (size_t i = 0; i < t->output_bytes / 4; i++) poisoned += words[i] == 0xffffffffu;
    CHECK_INT(poisoned, 0);
    free(outputs[0]);
    free(outputs[1]);
}

static void measure_launch(convjit *cj, const char *problem)
{
    pair t = { 0 };
    int failed_before = check_failed;
    prepare(cj, &t, problem);
    if (check_failed > failed_before) return; /* nothing to time */
    check_equal(cj, &t);
    static double plan[ROUNDS], bare[ROUNDS];
    burst_ns(&t, launch_plan);
    burst_ns(&t, launch_bare);
    for (int i = 0; i < ROUNDS; i++) {
        plan[i] = burst_ns(&t, launch_plan);
        bare[i] = burst_ns(&t, launch_bare);
    }
    double ours = median(plan, ROUNDS), theirs = median(bare, ROUNDS);
    printf("%-32s %d launch%s: plan_launch %.0f ns, cuLaunchKernel %.0f ns, difference %.0f ns\n", problem,
           t.n_launches, t.n_launches > 1 ? "es" : "", ours, theirs, ours - theirs);
    CHECK_THAT(ours - theirs < LAUNCH_BAR_NS, "%s: plan_launch costs %.0f ns above cuLaunchKernel; bar %.0f", problem,
               ours - theirs, LAUNCH_BAR_NS);
    release(cj, &t);
}

/* ---- plan_create ---- */

static const char *const START_UP = "n1c2h8w8k2r2s2"; /* pays for the start-up of compiler, driver and generator */

static const char *const TUPLES[] = {
    "n8c64h512w256k128r5s7", "n8c32h512w512k64r5s9", "n8c32h512w512k64r5s9_pad2x4_dil2x3_tf32",
    "n64c64h56w56k64r3s3_pad1_f16_nhwc", "n64c256h56w56k256r3s3_pad1_g32_bf16", "n16c64h512w512k64r3s3_g64",
    "n256c3h224w224k96r11s11_stride4_pad2",
};
enum { N_TUPLES = sizeof TUPLES / sizeof *TUPLES };

static convjit *open_context(const char *cache)
{
    convjit_config config = { .size = sizeof config, .cache_dir = cache, .cache_path = "" };
    convjit *cj = NULL;
    CHECK_OK(convjit_open(&cj, &config));
    return cj;
}

static double create_ms(convjit *cj, const char *text, convjit_origin origin)
{
    convjit_problem p;
    convjit_plan *plan = NULL;
    CHECK_OK(convjit_problem_parse(&p, text));
    double start = now_ns();
    CHECK_OK(convjit_plan_create(&plan, cj, &p));
    double took = now_ns() - start;
    if (plan) CHECK_INT(convjit_plan_origin(plan), origin);
    convjit_plan_destroy(plan);
    return took / 1e6;
}

/* The first plan of each tuple, from `origin`. */
static void measure_first(convjit *cj, convjit_origin origin, const char *what, double bar_ms)
{
    create_ms(cj, START_UP, origin);
    double took[N_TUPLES];
    int slowest = 0;
    for (int i = 0; i < N_TUPLES; i++) {
        took[i] = create_ms(cj, TUPLES[i], origin);
        if (took[i] > took[slowest]) slowest = i;
    }
    double middle = median(took, N_TUPLES), worst = took[N_TUPLES - 1];
    printf("plan_create %-10s median %.3f ms, worst %.3f ms, of %d tuples\n", what, middle, worst, N_TUPLES);
    CHECK_THAT(worst < bar_ms, "plan_create %s takes up to %.3f ms, for %s; bar %g", what, worst, TUPLES[slowest], bar_ms);
}

static void measure_memory(convjit *cj)
{
    static convjit_plan *plans[PLANS];
    convjit_problem p;
    CHECK_OK(convjit_problem_parse(&p, TUPLES[0]));
    double took[9];
    for (size_t round = 0; round < sizeof took / sizeof *took; round++) {
        int errors = 0;
        double start = now_ns();
        for (int i = 0; i < PLANS; i++) errors += convjit_plan_create(&plans[i], cj, &p) != CONVJIT_OK;
        took[round] = (now_ns() - start) / PLANS / 1e3;
        CHECK_INT(errors, 0);
        if (errors) return;
        CHECK_INT(convjit_plan_origin(plans[PLANS - 1]), CONVJIT_FROM_MEMORY);
        for (int i = 0; i < PLANS; i++) convjit_plan_destroy(plans[i]);
    }
    double middle = median(took, sizeof took / sizeof *took);
    printf("plan_create %-10s %.2f us\n", "memory", middle);
    CHECK_THAT(middle < MEMORY_BAR_US, "plan_create from memory takes %.2f us; bar %g", middle, MEMORY_BAR_US);
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    (void)about, (void)kind, (void)where;
    return remove(path);
}

int main(void)
{
    setenv("CUDA_CACHE_DISABLE", "1", 1); /* the driver keeps no compiled code either */
    CHECK_THAT(open_driver(), "no CUDA driver, or no GPU");
    char cache[] = "/tmp/convjit-launch-cost-XXXXXX";
    if (check_failed || !mkdtemp(cache)) return check_done("launch_cost");

    convjit *cj = open_context(cache);
    measure_first(cj, CONVJIT_COMPILED, "cold", COLD_BAR_MS);
    convjit_close(cj);
    cj = open_context(cache);
    measure_first(cj, CONVJIT_FROM_DISK, "from disk", DISK_BAR_MS);
    measure_memory(cj);
    measure_launch(cj, "n1c8h16w16k8r3s3_pad1");
    measure_launch(cj, "n1c512h7w7k64r3s3_pad1"); /* a split reduction: two launches and a workspace */
    convjit_close(cj);
    nftw(cache, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return check_done("launch_cost");
}
