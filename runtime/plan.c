/* plan.c: kernel + device + N, H, W -> launch.
 *
 * All that a launch needs is worked out once, into an immutable `ready` that plans share and that is freed with the
 * last of them. A small table keeps the latest, so that making a plan again costs neither generation nor a disk access.
 * The first plan of a problem in a process asks the cache for a selection, and the generator only if there is none.
 * A launch copies its arguments to the stack, puts the caller's pointers in, and calls the device. */
#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "context.h"

enum {
    SETS = 256, WAYS = 4,           /* of the table of ready plans: 1024 in all */
    MAX_GRID_YZ = 65535,            /* CUDA's limits; x may be INT_MAX */
    WORKSPACE_ALIGNMENT = 256,
    MAP_ALIGNMENT = 16,             /* of a tensor map's memory */
    N_TENSORS = CJ_ARG_WORKSPACE,   /* the kinds before it are the five tensors */
    N_POINTERS = CJ_ARG_PACKED + 1, /* those, the workspace and the packed weights */
    MOST_SELECTIONS = 4096,         /* that a context keeps on disk: sizes that never repeat must not fill it */
    FIELD_BYTES = 48,
    PROBLEM_BYTES = 512
};

/* ---- What a plan is made of ---- */

typedef union value { /* an argument: read through its address, as the kernel's parameter type */
    int32_t i32;
    int64_t i64;
    uintptr_t pointer;
} value;

typedef struct step { /* one launch */
    cj_function *function;
    unsigned grid[3], block[3], smem;
    int n_args;
    uint8_t kinds[CJ_MAX_ARGS];
    value values[CJ_MAX_ARGS]; /* of a tensor: 0, of other memory: an offset; the caller's pointer is added */
    bool special;              /* has attributes, or tensor maps */
    cj_attributes attributes;
    int n_maps;
    struct tensor *maps;       /* of the arguments of that kind, in order */
} step;

typedef struct tensor { /* a tensor map but for its address */
    cj_tensor_map map;
    uint8_t kind;              /* whose memory */
    uintptr_t offset;          /* behind the caller's pointer */
} tensor;

typedef struct plan_key { /* no padding: compared and hashed as bytes */
    int64_t sizes[16];
    int32_t math, layout, activation, bias, residual, weights_layout;
    float alpha, beta;
    uint64_t binding;
} plan_key;

typedef struct ready {
    atomic_int references;
    plan_key key;
    char *wanted;               /* the schedule that was asked for, or NULL */
    convjit_problem problem;
    convjit_device device_kind;
    cj_device *device;
    int sms;
    cj_built *built;
    char *why;                  /* the built kernel's own may speak of another N, H and W */
    size_t workspace, alignment;
    size_t packed;              /* a multiple of WORKSPACE_ALIGNMENT */
    bool used[N_TENSORS], used_packed[N_TENSORS]; /* by a launch; by one that does not pack weights */
    int n_steps, n_packing;     /* the first n_packing of them pack weights */
    step steps[CJ_MAX_LAUNCHES];
} ready;

struct convjit_plan {
    ready *ready;
    convjit_origin origin;
};

typedef struct module { /* a kernel loaded into one CUDA context, until this context is closed */
    struct module *next;
    const cj_built *built;
    uintptr_t binding;
    cj_module *loaded;
} module;

struct cj_plans {
    pthread_mutex_t lock;         /* guards sets and victim */
    ready *sets[SETS][WAYS];
    unsigned victim;
    pthread_mutex_t modules_lock;
    module *modules;
    atomic_uint selections;       /* that were kept */
};

static void drop(ready *r)
{
    if (!r || atomic_fetch_sub_explicit(&r->references, 1, memory_order_acq_rel) > 1)
        return;
    free(r->wanted);
    free(r->why);
    for (int i = 0; i < CJ_MAX_LAUNCHES; i++)
        free(r->steps[i].maps);
    free(r);
}

struct cj_plans *cj_plans_create(void)
{
    struct cj_plans *plans = calloc(1, sizeof *plans);
    if (plans) {
        pthread_mutex_init(&plans->lock, NULL);
        pthread_mutex_init(&plans->modules_lock, NULL);
    }
    return plans;
}

void cj_plans_free(struct cj_plans *plans, cj_device *device)
{
    if (!plans)
        return;
    for (int i = 0; i < SETS * WAYS; i++)
        drop(plans->sets[i / WAYS][i % WAYS]);
    for (module *m = plans->modules, *next; m; m = next) {
        next = m->next;
        device->unload(device, m->loaded);
        free(m);
    }
    pthread_mutex_destroy(&plans->modules_lock);
    pthread_mutex_destroy(&plans->lock);
    free(plans);
}

/* ---- The table of ready plans ---- */

static plan_key key_of(const convjit_problem *p, uintptr_t binding)
{
    return (plan_key){
        .sizes = {p->n, p->c, p->h, p->w, p->k, p->r, p->s, p->stride_h, p->stride_w, p->pad_top, p->pad_left,
                  p->pad_bottom, p->pad_right, p->dil_h, p->dil_w, p->groups},
        .math = (int32_t)p->math, .layout = (int32_t)p->layout, .activation = (int32_t)p->activation,
        .bias = p->bias, .residual = p->residual, .weights_layout = (int32_t)cj_weights_layout(p),
        .alpha = p->alpha, .beta = p->beta, .binding = binding,
    };
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 32;
}

static ready **set_of(struct cj_plans *plans, const plan_key *key, const char *wanted)
{
    uint64_t words[sizeof *key / sizeof(uint64_t)], hash = 0;
    _Static_assert(sizeof words == sizeof *key, "plan_key is a whole number of words");
    memcpy(words, key, sizeof words);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        hash = mix(hash, words[i]);
    for (; wanted && *wanted; wanted++)
        hash = mix(hash, (unsigned char)*wanted);
    return plans->sets[hash % SETS];
}

static bool serves(const ready *r, const plan_key *key, const char *wanted)
{
    bool same_wish = r->wanted && wanted ? strcmp(r->wanted, wanted) == 0 : r->wanted == wanted;
    return same_wish && memcmp(&r->key, key, sizeof *key) == 0;
}

/* A new reference, or NULL. */
static ready *recall(struct cj_plans *plans, const plan_key *key, const char *wanted)
{
    ready *found = NULL, **set = set_of(plans, key, wanted);
    pthread_mutex_lock(&plans->lock);
    for (int i = 0; i < WAYS && !found; i++)
        if (set[i] && serves(set[i], key, wanted))
            found = set[i];
    if (found)
        atomic_fetch_add_explicit(&found->references, 1, memory_order_relaxed);
    pthread_mutex_unlock(&plans->lock);
    return found;
}

/* Keeps a reference in place of an empty or some older one. Twice the same, by two threads at once, does no harm. */
static void remember(struct cj_plans *plans, ready *r)
{
    ready **set = set_of(plans, &r->key, r->wanted);
    atomic_fetch_add_explicit(&r->references, 1, memory_order_relaxed);
    pthread_mutex_lock(&plans->lock);
    int i = 0;
    while (i < WAYS && set[i])
        i++;
    if (i == WAYS)
        i = (int)(plans->victim++ % WAYS);
    ready *old = set[i];
    set[i] = r;
    pthread_mutex_unlock(&plans->lock);
    drop(old);
}

/* ---- Evaluating a kernel for one N, H, W ---- */

typedef struct evaluation {
    const cj_kernel *kernel;
    cj_sizes sizes;
} evaluation;

/* The value of a field's expression, which must lie in least..most. */
static convjit_status evaluate(const evaluation *e, const char *field, const char *expr, int64_t least, int64_t most,
                               int64_t *out)
{
    convjit_status status = cj_expr_eval(expr, &e->sizes, out);
    if (status != CONVJIT_OK)
        return cj_fail_in(CONVJIT_UNSUPPORTED, "schedule %s: %s", e->kernel->schedule, field);
    if (*out < least || *out > most)
        return cj_fail(CONVJIT_UNSUPPORTED, "schedule %s: %s is %" PRId64 " (%s), %s the limit %" PRId64,
                       e->kernel->schedule, field, *out, expr, *out < least ? "below" : "above",
                       *out < least ? least : most);
    return CONVJIT_OK;
}

static convjit_status check_requires(const evaluation *e)
{
    for (int i = 0; i < e->kernel->n_requires; i++) {
        const char *expr = e->kernel->requires[i].expr;
        char field[FIELD_BYTES];
        int64_t holds = 0;
        snprintf(field, sizeof field, "requires[%d]", i + 1);
        convjit_status status = evaluate(e, field, expr, INT64_MIN, INT64_MAX, &holds);
        if (status != CONVJIT_OK)
            return status;
        if (!holds)
            return cj_fail(CONVJIT_UNSUPPORTED, "schedule %s requires %s: %s", e->kernel->schedule, expr,
                           e->kernel->requires[i].why);
    }
    return CONVJIT_OK;
}

static convjit_status evaluate_grid(const evaluation *e, int launch, step *out)
{
    const cj_launch *l = &e->kernel->launches[launch];
    for (int i = 0; i < 3; i++) {
        char field[FIELD_BYTES];
        int64_t blocks;
        snprintf(field, sizeof field, "launches[%d].grid[%d]", launch + 1, i + 1);
        convjit_status status = evaluate(e, field, l->grid[i], 1, i == 0 ? INT_MAX : MAX_GRID_YZ, &blocks);
        if (status != CONVJIT_OK)
            return status;
        if (blocks % l->cluster[i])
            return cj_fail(CONVJIT_UNSUPPORTED, "schedule %s: %s is %" PRId64 " (%s), no multiple of the cluster's %d",
                           e->kernel->schedule, field, blocks, l->grid[i], l->cluster[i]);
        out->grid[i] = (unsigned)blocks;
        out->block[i] = (unsigned)l->block[i];
        out->attributes.cluster[i] = (unsigned)l->cluster[i];
        out->special |= l->cluster[i] > 1;
    }
    out->attributes.overlap = l->overlap;
    out->special |= l->overlap;
    return CONVJIT_OK;
}

static convjit_status evaluate_map(const evaluation *e, const char *field, const cj_tensor_arg *arg, ready *r, step *out)
{
    if (!out->maps)
        out->maps = calloc(CJ_MAX_MAPS, sizeof *out->maps);
    if (!out->maps)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a plan");
    tensor *t = &out->maps[out->n_maps++];
    *t = (tensor){.map = arg->map, .kind = (uint8_t)arg->tensor};
    out->special = true;
    int64_t offset = 0;
    convjit_status status = evaluate(e, field, arg->offset, 0, INT64_MAX, &offset);
    for (int i = 0; !status && i < arg->map.rank; i++)
        status = evaluate(e, field, arg->dims[i], 1, INT64_MAX, &t->map.dims[i]);
    for (int i = 0; !status && i < arg->map.rank - 1; i++)
        status = evaluate(e, field, arg->strides[i], 0, INT64_MAX, &t->map.strides[i]);
    t->offset = (uintptr_t)offset;
    if (!status && offset % MAP_ALIGNMENT)
        return cj_fail(CONVJIT_UNSUPPORTED, "schedule %s: %s: the offset %" PRId64 " is no multiple of %d", e->kernel->schedule,
                       field, offset, MAP_ALIGNMENT);
    if (!status && cj_tensor_map_check(&t->map) != CONVJIT_OK)
        return cj_fail_in(CONVJIT_UNSUPPORTED, "schedule %s: %s", e->kernel->schedule, field);
    return status;
}

static convjit_status evaluate_arg(const evaluation *e, int launch, int i, ready *r, step *out)
{
    const cj_arg *arg = &e->kernel->launches[launch].args[i];
    out->kinds[i] = (uint8_t)arg->kind;
    out->values[i] = (value){.i64 = 0};
    int memory = arg->map ? (int)arg->map->tensor : (int)arg->kind;
    if (memory < N_TENSORS) {
        r->used[memory] = true;
        r->used_packed[memory] |= !e->kernel->launches[launch].packs;
    }
    if ((int)arg->kind < N_TENSORS)
        return CONVJIT_OK;
    char field[FIELD_BYTES];
    int64_t least = arg->kind == CJ_ARG_I32 ? INT32_MIN : arg->kind == CJ_ARG_I64 ? INT64_MIN : 0;
    int64_t most = arg->kind == CJ_ARG_I32 ? INT32_MAX : arg->kind == CJ_ARG_I64 ? INT64_MAX
                   : (int64_t)(arg->kind == CJ_ARG_PACKED ? r->packed : r->workspace);
    int64_t number;
    snprintf(field, sizeof field, "launches[%d].args[%d]", launch + 1, i + 1);
    if (arg->kind == CJ_ARG_TENSOR_MAP)
        return evaluate_map(e, field, arg->map, r, out);
    convjit_status status = evaluate(e, field, arg->expr, least, most, &number);
    if (status != CONVJIT_OK)
        return status;
    if (arg->kind == CJ_ARG_I32)
        out->values[i].i32 = (int32_t)number;
    else if (arg->kind == CJ_ARG_I64)
        out->values[i].i64 = number;
    else
        out->values[i].pointer = (uintptr_t)number;
    return CONVJIT_OK;
}

static convjit_status evaluate_launch(const evaluation *e, int launch, ready *r)
{
    const cj_launch *l = &e->kernel->launches[launch];
    step *out = &r->steps[launch];
    char field[FIELD_BYTES];
    int64_t smem;
    snprintf(field, sizeof field, "launches[%d].smem", launch + 1);
    convjit_status status = evaluate_grid(e, launch, out);
    if (status == CONVJIT_OK)
        status = evaluate(e, field, l->smem, 0, __atomic_load_n(&r->device->smem_limit, __ATOMIC_RELAXED), &smem);
    if (status != CONVJIT_OK)
        return status;
    out->smem = (unsigned)smem;
    out->n_args = l->n_args;
    for (int i = 0; i < l->n_args && status == CONVJIT_OK; i++)
        status = evaluate_arg(e, launch, i, r, out);
    return status;
}

static size_t round_up(size_t bytes)
{
    return (bytes + WORKSPACE_ALIGNMENT - 1) / WORKSPACE_ALIGNMENT * WORKSPACE_ALIGNMENT;
}

/* Fills in all of r that depends on the kernel and on N, H, W. CONVJIT_UNSUPPORTED if the kernel cannot serve them. */
static convjit_status evaluate_kernel(const cj_kernel *kernel, ready *r)
{
    const convjit_problem *p = &r->problem;
    const evaluation e = {kernel, {p->n, p->h, p->w, convjit_problem_p(p), convjit_problem_q(p)}};
    const int64_t most = INT64_MAX / 4; /* so that their sum can be rounded up */
    int64_t workspace = 0, packed = 0;
    convjit_status status = check_requires(&e);
    if (status == CONVJIT_OK)
        status = evaluate(&e, "workspace", kernel->workspace, 0, most, &workspace);
    if (status == CONVJIT_OK && kernel->packed)
        status = evaluate(&e, "packed", kernel->packed, 0, most, &packed);
    r->workspace = (size_t)workspace;
    r->packed = round_up((size_t)packed);
    r->alignment = (size_t)kernel->align;
    r->n_steps = kernel->n_launches;
    for (int i = 0; i < kernel->n_launches && status == CONVJIT_OK; i++) {
        r->n_packing += kernel->launches[i].packs;
        status = evaluate_launch(&e, i, r);
    }
    return status;
}

/* ---- Loading ---- */

/* Under modules_lock. */
static convjit_status load_module(struct cj_plans *plans, cj_device *device, const cj_built *built, uintptr_t binding,
                                  cj_module **out)
{
    module *m = plans->modules;
    while (m && (m->built != built || m->binding != binding))
        m = m->next;
    if (!m) {
        m = calloc(1, sizeof *m);
        if (!m)
            return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a module");
        *m = (module){.next = plans->modules, .built = built, .binding = binding};
        convjit_status status = device->load(device, binding, cj_built_binary(built), &m->loaded);
        if (status != CONVJIT_OK) {
            free(m);
            return cj_fail_in(status, "kernel %s", cj_built_kernel(built)->name);
        }
        plans->modules = m;
    }
    *out = m->loaded;
    return CONVJIT_OK;
}

static convjit_status load_functions(struct cj_plans *plans, ready *r)
{
    cj_module *loaded = NULL;
    pthread_mutex_lock(&plans->modules_lock);
    convjit_status status = load_module(plans, r->device, r->built, (uintptr_t)r->key.binding, &loaded);
    for (int i = 0; i < r->n_steps && status == CONVJIT_OK; i++)
        status = r->device->function(r->device, loaded, cj_built_kernel(r->built)->launches[i].entry, r->steps[i].smem,
                                     &r->steps[i].function);
    pthread_mutex_unlock(&plans->modules_lock);
    return status;
}

/* ---- Choosing a kernel ---- */

typedef struct choice {
    convjit *cj;
    const convjit_problem *problem;
    const char *wanted;
    char arch[16];
    int sms;
    uintptr_t binding;
    char *first;            /* the schedule that was tried first */
    bool lacks_compiler;    /* some kernel was not in the cache and could not be compiled */
    char *no_compiler;      /* the first message that said so */
    cj_text unsuited;       /* why those that were tried cannot serve this N, H and W */
    cj_text selection;      /* the key's text; incomplete if `selects` is false */
    bool selects;
} choice;

static ready *new_ready(const choice *c)
{
    ready *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->references = 1;
    r->key = key_of(c->problem, c->binding);
    memcpy(&r->problem, c->problem, sizeof r->problem);
    r->problem.size = sizeof r->problem;
    r->device_kind = c->cj->config.device;
    r->device = c->cj->device;
    r->sms = c->sms;
    r->wanted = c->wanted ? strdup(c->wanted) : NULL;
    if (c->wanted && !r->wanted) {
        drop(r);
        return NULL;
    }
    return r;
}

/* Notes why a schedule does not serve, for the end: "A; B; C". */
static void note_unsuited(choice *c)
{
    cj_text_printf(&c->unsuited, "%s%s", c->unsuited.length ? "; " : "", convjit_errmsg());
}

static void note_no_compiler(choice *c)
{
    if (!c->lacks_compiler)
        c->no_compiler = strdup(convjit_errmsg());
    c->lacks_compiler = true;
}

/* Evaluates, compiles and loads a kernel, which it takes over. *another: the failure is one that another schedule may
 * not have. */
static convjit_status prepare(choice *c, cj_kernel *kernel, ready *r, convjit_origin *origin, bool *another)
{
    convjit_status status = evaluate_kernel(kernel, r);
    r->why = strdup(kernel->why);
    if (status == CONVJIT_OK && !r->why)
        status = cj_fail(CONVJIT_NO_MEMORY, "out of memory for a plan");
    if (status != CONVJIT_OK) {
        *another = status == CONVJIT_UNSUPPORTED;
        if (*another)
            note_unsuited(c);
        cj_kernel_free(kernel);
        return status;
    }
    status = cj_compile(c->cj, kernel, !c->lacks_compiler, &r->built, origin);
    *another = status == CONVJIT_NO_COMPILER;
    if (*another)
        note_no_compiler(c);
    return status == CONVJIT_OK ? load_functions(c->cj->plans, r) : status;
}

static convjit_status try_schedule(choice *c, const char *schedule, ready **out, convjit_origin *origin, bool *another)
{
    cj_kernel *kernel = NULL;
    *another = false;
    convjit_status status = cj_context_generate(c->cj, c->problem, c->arch, c->sms, schedule, &kernel);
    if (status != CONVJIT_OK)
        return status;
    if (!c->first)
        c->first = strdup(kernel->schedule); /* NULL: it will be tried again, no harm */
    ready *r = new_ready(c);
    if (!r) {
        cj_kernel_free(kernel);
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a plan");
    }
    status = prepare(c, kernel, r, origin, another);
    if (status == CONVJIT_OK)
        *out = r;
    else
        drop(r);
    return status;
}

static convjit_status fail_choice(const choice *c)
{
    if (c->lacks_compiler)
        return cj_fail(CONVJIT_NO_COMPILER, "%s", c->no_compiler ? c->no_compiler : "no kernel in the cache serves");
    return cj_fail(CONVJIT_UNSUPPORTED, "%s", c->unsuited.failed ? "no schedule serves" : c->unsuited.data);
}

/* The best candidate may not run for this N, H and W, or may not be in the cache of a machine that cannot compile: then
 * the next one that can serves. *left: all that were tried have failed in such a way. */
static convjit_status try_others(choice *c, const char *wanted, ready **out, convjit_origin *origin, bool *left)
{
    char **specs = NULL;
    size_t n = 0;
    convjit_status status = cj_context_candidates(c->cj, c->problem, c->arch, c->sms, wanted, &specs, &n);
    *left = status == CONVJIT_OK;
    for (size_t i = 0; i < n && *left; i++) {
        if (!strchr(specs[i], ':')) /* a schedule's other candidates */
            status = try_others(c, specs[i], out, origin, left);
        else if (!c->first || strcmp(specs[i], c->first) != 0)
            status = try_schedule(c, specs[i], out, origin, left);
    }
    cj_strings_free(specs, n);
    return status;
}

static convjit_status ask_generator(choice *c, ready **out, convjit_origin *origin)
{
    bool another, exact = c->wanted && strchr(c->wanted, ':');
    convjit_status status = try_schedule(c, c->wanted, out, origin, &another);
    if (status == CONVJIT_OK || !another || exact)
        return status;
    status = try_others(c, c->wanted, out, origin, &another);
    return another ? fail_choice(c) : status;
}

/* ---- Selections: what the generator picked for the same problem before, most likely in another process ---- */

static bool is_selected(const choice *c, const cj_selection *s, const cj_kernel *k)
{
    char tuple[PROBLEM_BYTES];
    cj_kernel_tuple(c->problem, tuple, sizeof tuple);
    return strcmp(k->tuple, tuple) == 0 && strcmp(k->arch, c->arch) == 0 && strcmp(k->schedule, s->schedule) == 0;
}

/* Finds the plan without the generator. false, whatever the reason: then the generator has to be asked, and if there is
 * an error it will be found again there. */
static bool follow_selection(choice *c, ready **out, convjit_origin *origin)
{
    cj_selection s;
    c->selects = cj_selection_key(c->problem, c->cj->compiler->kind, c->arch, c->sms, c->wanted, &c->selection);
    if (!c->selects || !cj_cache_get_selection(c->cj->cache, c->selection.data, &s))
        return false;
    ready *r = new_ready(c);
    bool ok = r && cj_recall(c->cj, s.source_hex, &r->built, origin) == CONVJIT_OK &&
              is_selected(c, &s, cj_built_kernel(r->built)) &&
              evaluate_kernel(cj_built_kernel(r->built), r) == CONVJIT_OK &&
              load_functions(c->cj->plans, r) == CONVJIT_OK;
    if (ok) {
        r->why = s.why;
        s.why = NULL;
        *out = r;
    } else {
        drop(r);
    }
    cj_selection_free(&s);
    return ok;
}

/* What serves for want of a compiler is not the generator's choice. */
static void keep_selection(choice *c, const ready *r)
{
    if (c->selects && !c->lacks_compiler && atomic_fetch_add(&c->cj->plans->selections, 1) < MOST_SELECTIONS)
        cj_cache_put_selection(c->cj->cache, c->selection.data, cj_built_source_hex(r->built),
                               cj_built_kernel(r->built)->schedule, r->why);
}

static convjit_status choose(choice *c, ready **out, convjit_origin *origin)
{
    convjit_status status = CONVJIT_OK;
    if (!follow_selection(c, out, origin)) {
        status = ask_generator(c, out, origin);
        if (status == CONVJIT_OK)
            keep_selection(c, *out);
    }
    free(c->first);
    free(c->no_compiler);
    cj_text_free(&c->unsuited);
    cj_text_free(&c->selection);
    return status;
}

/* ---- Making and destroying plans ---- */

static const char *origin_name(convjit_origin origin)
{
    static const char *const names[] = {"memory", "disk", "compiled"};
    return names[origin];
}

static double milliseconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static const char *schedule_of(const ready *r)
{
    return cj_built_kernel(r->built)->schedule;
}

static void log_plan(convjit *cj, const convjit_plan *plan, double ms)
{
    char problem[PROBLEM_BYTES];
    convjit_problem_format(&plan->ready->problem, problem, sizeof problem);
    cj_log_line(&cj->log, 1, "convjit,v1,plan,%s,%s,%s,%.3f", problem, schedule_of(plan->ready),
                origin_name(plan->origin), ms);
}

/* At level 2: why each other schedule was refused. Costs a generation, so not for a plan that was recalled. */
static void log_refusals(const choice *c)
{
    char problem[PROBLEM_BYTES], **lines = NULL;
    size_t n = 0;
    convjit_problem_format(c->problem, problem, sizeof problem);
    if (cj_context_refusals(c->cj, c->problem, c->arch, c->sms, &lines, &n) != CONVJIT_OK)
        return;
    for (size_t i = 0; i < n; i++)
        cj_log_line(&c->cj->log, 2, "convjit,v1,refused,%s,%s", problem, lines[i]);
    cj_strings_free(lines, n);
}

static convjit_status find_ready(choice *c, ready **out, convjit_origin *origin)
{
    plan_key key = key_of(c->problem, c->binding);
    *origin = CONVJIT_FROM_MEMORY;
    *out = recall(c->cj->plans, &key, c->wanted);
    if (*out)
        return CONVJIT_OK;
    convjit_status status = convjit_problem_check(c->problem); /* what is recalled has been checked before */
    if (status == CONVJIT_OK)
        status = choose(c, out, origin);
    if (status != CONVJIT_OK)
        return status;
    remember(c->cj->plans, *out);
    if (c->cj->log.level >= 2)
        log_refusals(c);
    return CONVJIT_OK;
}

convjit_status convjit_plan_create_with(convjit_plan **out, convjit *cj, const convjit_problem *problem,
                                        const char *schedule)
{
    if (!out || !cj)
        return cj_fail(CONVJIT_INVALID, "%s is NULL", out ? "cj" : "plan");
    double start = cj->log.level ? milliseconds() : 0;
    choice c = {.cj = cj, .problem = problem, .wanted = schedule};
    convjit_status status = cj_check_struct(problem, sizeof *problem, "convjit_problem");
    if (status == CONVJIT_OK)
        status = cj->device->bind(cj->device, c.arch, &c.sms, &c.binding);
    if (status != CONVJIT_OK)
        return status;
    convjit_plan *plan = calloc(1, sizeof *plan);
    if (!plan)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a plan");
    status = find_ready(&c, &plan->ready, &plan->origin);
    if (status != CONVJIT_OK) {
        free(plan);
        return status;
    }
    if (cj->log.level)
        log_plan(cj, plan, milliseconds() - start);
    *out = plan;
    return CONVJIT_OK;
}

convjit_status cj_plan_create_kernel(convjit_plan **out, convjit *cj, const convjit_problem *problem, cj_kernel *kernel)
{
    choice c = {.cj = cj, .problem = problem};
    bool another;
    convjit_status status = cj->device->bind(cj->device, c.arch, &c.sms, &c.binding);
    convjit_plan *plan = calloc(1, sizeof *plan);
    ready *r = status == CONVJIT_OK ? new_ready(&c) : NULL;
    if (!plan || !r) {
        free(plan);
        if (r)
            drop(r);
        cj_kernel_free(kernel);
        return status ? status : cj_fail(CONVJIT_NO_MEMORY, "out of memory for a plan");
    }
    status = prepare(&c, kernel, r, &plan->origin, &another);
    free(c.no_compiler);
    cj_text_free(&c.unsuited);
    if (status != CONVJIT_OK) {
        drop(r);
        free(plan);
        return status;
    }
    plan->ready = r;
    *out = plan;
    return CONVJIT_OK;
}

convjit_status convjit_plan_create(convjit_plan **plan, convjit *cj, const convjit_problem *problem)
{
    return convjit_plan_create_with(plan, cj, problem, NULL);
}

const cj_blob *cj_plan_binary(const convjit_plan *plan)
{
    return cj_built_binary(plan->ready->built);
}

void convjit_plan_destroy(convjit_plan *plan)
{
    if (!plan)
        return;
    drop(plan->ready);
    free(plan);
}

/* ---- Launching ---- */

static const char *const pointer_names[N_POINTERS] = {"input", "weights", "bias", "residual", "output", "workspace", "packed"};

/* What a call is about: all launches, those behind the packing of weights, or the packing alone. */
typedef struct call {
    const ready *r;
    uintptr_t pointers[N_POINTERS];
    int first, end;           /* of the launches */
    const bool *used;         /* which tensors */
    size_t workspace, packed; /* bytes of each that the caller has to give */
} call;

/* Says which of the pointers is wrong. */
static convjit_status fail_pointers(const call *c)
{
    for (int i = 0; i < N_POINTERS; i++) {
        bool used = i < N_TENSORS ? c->used[i] : (i == CJ_ARG_PACKED ? c->packed : c->workspace) > 0;
        size_t alignment = i < N_TENSORS ? c->r->alignment : WORKSPACE_ALIGNMENT;
        if (used && !c->pointers[i])
            return cj_fail(CONVJIT_INVALID, "%s is NULL", pointer_names[i]);
        if (used && c->pointers[i] % alignment)
            return cj_fail(CONVJIT_INVALID, "%s is not aligned to %zu bytes", pointer_names[i], alignment);
    }
    return cj_fail(CONVJIT_INVALID, "output is also the input, the weights or the bias");
}

static bool fits(size_t bytes, uintptr_t pointer)
{
    return bytes == 0 || (pointer && pointer % WORKSPACE_ALIGNMENT == 0);
}

static bool check_pointers(const call *c)
{
    uintptr_t all = 0, output = c->pointers[CJ_ARG_OUTPUT];
    bool ok = fits(c->workspace, c->pointers[CJ_ARG_WORKSPACE]) && fits(c->packed, c->pointers[CJ_ARG_PACKED]);
    for (int i = 0; i < N_TENSORS; i++) {
        all |= c->used[i] ? c->pointers[i] : 0;
        ok &= !c->used[i] || c->pointers[i];
    }
    for (int i = CJ_ARG_INPUT; i <= CJ_ARG_BIAS; i++)
        ok &= !c->used[i] || c->pointers[i] != output;
    return ok && (all & (c->r->alignment - 1)) == 0;
}

/* With tensor maps, which are made here because they hold addresses, or attributes. */
static convjit_status launch_special(const call *c, int i_step, void *stream)
{
    _Alignas(64) unsigned char maps[CJ_MAX_MAPS][CJ_TENSOR_MAP_BYTES];
    const ready *r = c->r;
    const step *s = &r->steps[i_step];
    value values[CJ_MAX_ARGS];
    void *args[CJ_MAX_ARGS];
    int n_maps = 0;
    for (int i = 0; i < s->n_args; i++) {
        values[i] = s->values[i];
        args[i] = &values[i];
        if (s->kinds[i] < N_POINTERS)
            values[i].pointer += c->pointers[s->kinds[i]];
        if (s->kinds[i] != CJ_ARG_TENSOR_MAP)
            continue;
        const tensor *t = &s->maps[n_maps];
        void *base = (void *)(c->pointers[t->kind] + t->offset);
        convjit_status status = r->device->encode(r->device, &t->map, base, maps[n_maps]);
        if (status != CONVJIT_OK)
            return status;
        args[i] = maps[n_maps++];
    }
    cj_attributes attributes = s->attributes;
    attributes.overlap &= i_step > c->first; /* what ran before this call knows nothing of it */
    return r->device->launch_with(r->device, s->function, s->grid, s->block, &attributes, s->smem, args, s->n_args, stream);
}

static convjit_status launch_step(const call *c, int i_step, void *stream)
{
    const ready *r = c->r;
    const step *s = &r->steps[i_step];
    value values[CJ_MAX_ARGS];
    void *args[CJ_MAX_ARGS];
    for (int i = 0; i < s->n_args; i++) {
        values[i] = s->values[i];
        if (s->kinds[i] < N_POINTERS)
            values[i].pointer += c->pointers[s->kinds[i]];
        args[i] = &values[i];
    }
    return r->device->launch(r->device, s->function, s->grid, s->block, s->smem, args, s->n_args, stream);
}

static convjit_status launch_all(const call *c, void *stream)
{
    convjit_status status = CONVJIT_OK;
    for (int i = c->first; i < c->end && status == CONVJIT_OK; i++)
        status = (c->r->steps[i].special ? launch_special : launch_step)(c, i, stream);
    return status;
}

/* A caller that was built before there was `packed` gives a shorter struct. */
static convjit_status check_tensors(const convjit_tensors *t)
{
    bool old = t && t->size < sizeof *t;
    return cj_check_struct(t, old ? offsetof(convjit_tensors, packed) : sizeof *t, "convjit_tensors");
}

/* Of a launch that packs the weights itself: they lie behind the kernel's own. */
static size_t plan_workspace(const ready *r)
{
    return r->packed ? round_up(r->workspace) + r->packed : r->workspace;
}

convjit_status convjit_plan_launch(const convjit_plan *plan, const convjit_tensors *t, void *stream)
{
    if (!plan)
        return cj_fail(CONVJIT_INVALID, "plan is NULL");
    convjit_status status = check_tensors(t);
    if (status != CONVJIT_OK)
        return status;
    const ready *r = plan->ready;
    const uintptr_t workspace = (uintptr_t)t->workspace, packed = t->size < sizeof *t ? 0 : (uintptr_t)t->packed;
    call c = {
        .r = r, .end = r->n_steps, .used = r->used, .workspace = plan_workspace(r),
        .pointers = {
            [CJ_ARG_INPUT] = (uintptr_t)t->input, [CJ_ARG_WEIGHTS] = (uintptr_t)t->weights,
            [CJ_ARG_BIAS] = (uintptr_t)t->bias, [CJ_ARG_RESIDUAL] = (uintptr_t)t->residual,
            [CJ_ARG_OUTPUT] = (uintptr_t)t->output, [CJ_ARG_WORKSPACE] = workspace,
            [CJ_ARG_PACKED] = workspace + round_up(r->workspace), /* packed by this call */
        },
    };
    if (r->packed && packed) {
        c.first = r->n_packing;
        c.used = r->used_packed;
        c.workspace = r->workspace;
        c.packed = r->packed;
        c.pointers[CJ_ARG_PACKED] = packed;
    }
    return check_pointers(&c) ? launch_all(&c, stream) : fail_pointers(&c);
}

convjit_status convjit_weights_pack(const convjit_plan *plan, const void *weights, void *packed, void *stream)
{
    static const bool used[N_TENSORS] = {[CJ_ARG_WEIGHTS] = true};
    if (!plan)
        return cj_fail(CONVJIT_INVALID, "plan is NULL");
    const ready *r = plan->ready;
    const call c = {
        .r = r, .end = r->n_packing, .used = used, .packed = r->packed,
        .pointers = {[CJ_ARG_WEIGHTS] = (uintptr_t)weights, [CJ_ARG_PACKED] = (uintptr_t)packed},
    };
    return check_pointers(&c) ? launch_all(&c, stream) : fail_pointers(&c);
}

/* ---- Facts about a plan ---- */

size_t convjit_plan_workspace(const convjit_plan *plan)
{
    return plan_workspace(plan->ready);
}

size_t convjit_plan_packed_size(const convjit_plan *plan)
{
    return plan->ready->packed;
}

size_t convjit_plan_alignment(const convjit_plan *plan)
{
    return plan->ready->alignment;
}

const char *convjit_plan_schedule(const convjit_plan *plan)
{
    return schedule_of(plan->ready);
}

convjit_origin convjit_plan_origin(const convjit_plan *plan)
{
    return plan->origin;
}

static void describe_step(const ready *r, int i, cj_text *out)
{
    const step *s = &r->steps[i];
    cj_resources used = {0};
    r->device->resources(r->device, s->function, &used);
    cj_text_printf(out, "launch     %s\n", cj_built_kernel(r->built)->launches[i].entry);
    cj_text_printf(out, "           grid %u x %u x %u, block %u x %u x %u", s->grid[0], s->grid[1], s->grid[2],
                   s->block[0], s->block[1], s->block[2]);
    const unsigned *cluster = s->attributes.cluster;
    if (cluster[0] * cluster[1] * cluster[2] > 1)
        cj_text_printf(out, ", cluster %u x %u x %u", cluster[0], cluster[1], cluster[2]);
    cj_text_puts(out, s->attributes.overlap ? ", overlaps the one before\n" : "\n");
    cj_text_printf(out, "           %d registers and %d bytes of local memory a thread, %u bytes of shared a block\n",
                   used.registers, used.local_bytes, s->smem + (unsigned)used.static_smem);
}

convjit_status convjit_plan_describe(const convjit_plan *plan, char **text)
{
    if (!plan || !text)
        return cj_fail(CONVJIT_INVALID, "%s is NULL", plan ? "text" : "plan");
    const ready *r = plan->ready;
    const cj_kernel *kernel = cj_built_kernel(r->built);
    char problem[PROBLEM_BYTES];
    cj_text out = {0};
    convjit_problem_format(&r->problem, problem, sizeof problem);
    cj_text_printf(&out, "problem    %s\n", problem);
    cj_text_printf(&out, "device     %s, %s, %d multiprocessors\n", r->device_kind == CONVJIT_EMU ? "emulated" : "GPU",
                   kernel->arch, r->sms);
    cj_text_printf(&out, "schedule   %s\n           %s\n", kernel->schedule, r->why);
    cj_text_printf(&out, "kernel     %s, from %s\n", kernel->name,
                   plan->origin == CONVJIT_COMPILED ? "the compiler" : origin_name(plan->origin));
    for (int i = 0; i < r->n_steps; i++)
        describe_step(r, i, &out);
    cj_text_printf(&out, "workspace  %zu bytes", plan_workspace(r));
    if (r->packed)
        cj_text_printf(&out, ", of which %zu for packed weights", r->packed);
    cj_text_printf(&out, "\nalignment  %zu bytes\n", r->alignment);
    return cj_text_take(&out, text);
}
