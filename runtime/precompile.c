/* precompile.c: fills the cache directory with many kernels at once, on a machine that needs no GPU.
 *
 * Workers take problems in order. Each generates its problem's kernel, which is short and for one worker at a time, and
 * compiles it, which is long and for all at once. Problems that differ in N, H and W alone often need one kernel: the
 * first to come builds it, and a worker that meets it meanwhile leaves its problem with the first, rather than wait.
 * Each problem's selection is kept, too, for a device with the architecture's usual number of multiprocessors.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "internal.h"

enum { MAX_JOBS = 1024, BUCKETS = 1024 };

static const char no_message[] = "out of memory for this failure's message";

/* A problem; of those with one key, the first (the leader) builds the kernel. */
typedef struct item {
    const convjit_problem *problem;
    cj_key key;
    cj_text selection;      /* the key's text of this problem's selection; empty: there is to be none */
    char *schedule, *why;   /* for it */
    struct item *chain;     /* next leader in a bucket */
    struct item *waiting;   /* leader: those that wait for it; of these: the next */
    bool done;              /* leader: status and message are final */
    convjit_status status;
    char *message;
} item;

typedef struct batch {
    convjit *cj;
    const char *arch;
    int sms;
    convjit_precompile_options options;
    size_t n;
    item *items;
    pthread_mutex_t lock;       /* guards what follows, and the leaders */
    size_t next;                /* the first that no worker has taken */
    item *leaders[BUCKETS];
    pthread_mutex_t report;     /* guards what follows, and makes the calls of options.progress one at a time */
    size_t reported, compiled;
    item *failed;               /* the first by position */
    convjit_status failure;
    char *failure_message;
} batch;

/* ---- Selections: so that the first plan of a problem need not run the generator ---- */

/* Whether a plan for the problem would take this kernel. */
static bool serves(const cj_kernel *k, const convjit_problem *p)
{
    const cj_sizes sizes = {p->n, p->h, p->w, convjit_problem_p(p), convjit_problem_q(p)};
    for (int i = 0; i < k->n_requires; i++) {
        int64_t holds = 0;
        if (cj_expr_eval(k->requires[i].expr, &sizes, &holds) != CONVJIT_OK || !holds)
            return false;
    }
    return true;
}

static void prepare_selection(const batch *b, item *it, const cj_kernel *k)
{
    const char *kind = cj_context_compiler(b->cj)->kind;
    it->schedule = strdup(k->schedule);
    it->why = strdup(k->why);
    if (!it->schedule || !it->why || !serves(k, it->problem) ||
        !cj_selection_key(it->problem, kind, b->arch, b->sms, b->options.schedule, &it->selection))
        cj_text_free(&it->selection);
}

/* Once the item's kernel is in the directory. */
static void keep_selection(const batch *b, const item *it)
{
    if (it->selection.data)
        cj_cache_put_selection(cj_context_cache(b->cj), it->selection.data, it->key.source_hex, it->schedule, it->why);
}

static void free_item(item *it)
{
    cj_text_free(&it->selection);
    free(it->schedule);
    free(it->why);
    free(it->message);
}

/* ---- Results ---- */

/* Tells that an item is done. The message is that of a failure, or NULL if there was no memory for it. */
static void report(batch *b, item *it, convjit_origin origin, convjit_status status, const char *message)
{
    if (!status)
        keep_selection(b, it);
    if (status && !message)
        message = no_message;
    pthread_mutex_lock(&b->report);
    b->reported++;
    b->compiled += status == CONVJIT_OK && origin == CONVJIT_COMPILED;
    if (status && (!b->failed || it < b->failed)) {
        free(b->failure_message);
        b->failure_message = strdup(message);
        b->failure = status;
        b->failed = it;
    }
    if (status)
        cj_fail(status, "%s", message); /* the callback may read it, and the one before may have changed it */
    if (b->options.progress)
        b->options.progress(b->options.user, b->reported, b->n, it->problem, origin, status);
    pthread_mutex_unlock(&b->report);
}

/* A leader is done: so are those that waited for it. */
static void finish(batch *b, item *leader, convjit_origin origin, convjit_status status)
{
    pthread_mutex_lock(&b->lock);
    leader->message = status ? strdup(convjit_errmsg()) : NULL;
    leader->status = status;
    leader->done = true;
    item *waiting = leader->waiting;
    pthread_mutex_unlock(&b->lock);
    report(b, leader, origin, status, leader->message);
    for (; waiting; waiting = waiting->waiting)
        report(b, waiting, CONVJIT_FROM_MEMORY, status, leader->message);
}

/* ---- One problem ---- */

static bool same_key(const cj_key *a, const cj_key *b)
{
    return strcmp(a->source_hex, b->source_hex) == 0 && strcmp(a->compiler_hex, b->compiler_hex) == 0;
}

static item *find_leader(const batch *b, size_t bucket, const cj_key *key)
{
    item *it = b->leaders[bucket];
    while (it && !same_key(&it->key, key))
        it = it->chain;
    return it;
}

/* True if the item leads and has to be built. Else its result is reported, now or by its leader. */
static bool lead(batch *b, item *it)
{
    char digits[5] = {it->key.source_hex[0], it->key.source_hex[1], it->key.source_hex[2], it->key.source_hex[3], 0};
    size_t bucket = strtoul(digits, NULL, 16) % BUCKETS;
    pthread_mutex_lock(&b->lock);
    item *leader = find_leader(b, bucket, &it->key);
    bool done = leader && leader->done;
    if (!leader) {
        it->chain = b->leaders[bucket];
        b->leaders[bucket] = it;
    } else if (!done) {
        it->waiting = leader->waiting;
        leader->waiting = it;
    }
    pthread_mutex_unlock(&b->lock);
    if (done)
        report(b, it, CONVJIT_FROM_MEMORY, leader->status, leader->message);
    return !leader;
}

/* Memory, disk or compiler, and then in any case into the directory: the kernel may have come from another one, or been
 * compiled when this one could not be written to. Takes the kernel over. */
static convjit_status build(batch *b, const item *it, cj_kernel *kernel, const char *key_text, convjit_origin *origin)
{
    cj_built *built = NULL;
    bool stored = true;
    convjit_status status = cj_compile(b->cj, kernel, true, &built, origin);
    if (!status && it->key.compiler_hex[0]) /* without a compiler it came from a directory, under a key unknown here */
        status = cj_cache_put(cj_context_cache(b->cj), &it->key, key_text, cj_built_kernel(built),
                              cj_built_binary(built), &stored);
    if (!status && !stored)
        status = cj_fail_in(CONVJIT_IO, "the kernel is compiled, but could not be kept");
    return status;
}

static void process(batch *b, item *it)
{
    cj_compiler *compiler = cj_context_compiler(b->cj);
    cj_kernel *kernel = NULL;
    cj_text key_text = {0};
    convjit_origin origin = CONVJIT_FROM_MEMORY;
    convjit_status status = convjit_problem_check(it->problem);
    if (!status)
        status = cj_context_generate(b->cj, it->problem, b->arch, b->sms, b->options.schedule, &kernel);
    if (!status)
        status = cj_key_make(kernel, compiler->kind, compiler->identity(compiler), &it->key, &key_text);
    if (!status && key_text.failed)
        status = cj_fail(CONVJIT_NO_MEMORY, "out of memory for a key");
    if (!status)
        prepare_selection(b, it, kernel);
    if (status) {
        report(b, it, origin, status, convjit_errmsg());
    } else if (lead(b, it)) {
        status = build(b, it, kernel, key_text.data, &origin);
        kernel = NULL;
        finish(b, it, origin, status);
    }
    cj_kernel_free(kernel);
    cj_text_free(&key_text);
}

/* ---- All of them ---- */

static void *work(void *user)
{
    batch *b = user;
    for (;;) {
        pthread_mutex_lock(&b->lock);
        size_t i = b->next;
        b->next += i < b->n;
        pthread_mutex_unlock(&b->lock);
        if (i == b->n)
            return NULL;
        process(b, &b->items[i]);
    }
}

/* CPUs that this process may run on. */
static int count_cpus(void)
{
    cpu_set_t set;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        online = CPU_COUNT(&set);
    return online < 1 ? 1 : online > MAX_JOBS ? MAX_JOBS : (int)online;
}

/* The calling thread is one of the workers; if the system grants fewer threads than wanted, those do it all. */
static void work_together(batch *b)
{
    pthread_t threads[MAX_JOBS];
    sigset_t all, before;
    size_t wanted = (size_t)(b->options.jobs ? b->options.jobs : count_cpus()), started = 0;
    if (wanted > b->n)
        wanted = b->n;
    sigfillset(&all); /* the program's signal handlers are not for threads that it does not know */
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started + 1 < wanted && pthread_create(&threads[started], NULL, work, b) == 0)
        started++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    work(b);
    for (size_t i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
}

static convjit_status run(batch *b)
{
    pthread_mutex_init(&b->lock, NULL);
    pthread_mutex_init(&b->report, NULL);
    work_together(b);
    pthread_mutex_destroy(&b->report);
    pthread_mutex_destroy(&b->lock);
    for (size_t i = 0; i < b->n; i++)
        free_item(&b->items[i]);
    if (!b->failed)
        return CONVJIT_OK;
    char name[512];
    convjit_problem_format(b->failed->problem, name, sizeof name);
    convjit_status status = cj_fail(b->failure, "problem %zu, %s: %s", (size_t)(b->failed - b->items) + 1, name,
                                    b->failure_message ? b->failure_message : no_message);
    free(b->failure_message);
    return status;
}

/* The caller's structs may be larger than ours, so the distance between two of them is the size that they give. */
static convjit_status set_problems(batch *b, const convjit_problem *problems, size_t n)
{
    const char *at = (const char *)problems;
    convjit_status status = n ? cj_check_struct(problems, sizeof *problems, "convjit_problem") : CONVJIT_OK;
    if (status)
        return status;
    b->n = n;
    b->items = calloc(n ? n : 1, sizeof *b->items);
    if (!b->items)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for %zu problems", n);
    for (size_t i = 0; i < n; i++, at += problems->size) {
        b->items[i].problem = (const convjit_problem *)at;
        if (b->items[i].problem->size != problems->size)
            return cj_fail(CONVJIT_INVALID, "problem %zu has size %zu, and the first has %zu", i + 1,
                           b->items[i].problem->size, problems->size);
    }
    return CONVJIT_OK;
}

static convjit_status set_options(batch *b, const convjit_precompile_options *options)
{
    convjit_status status = CONVJIT_OK;
    if (options)
        status = cj_check_struct(options, sizeof *options, "convjit_precompile_options");
    if (!status && options)
        memcpy(&b->options, options, sizeof b->options);
    if (!status && (b->options.jobs < 0 || b->options.jobs > MAX_JOBS))
        status = cj_fail(CONVJIT_INVALID, "jobs %d is not between 0 and %d", b->options.jobs, MAX_JOBS);
    return status;
}

convjit_status convjit_precompile(convjit *cj, const convjit_problem *problems, size_t n, const char *arch,
                                  const convjit_precompile_options *options, size_t *compiled)
{
    if (!cj)
        return cj_fail(CONVJIT_INVALID, "cj is NULL");
    batch *b = calloc(1, sizeof *b);
    if (!b)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for precompiling");
    b->cj = cj;
    b->arch = cj_context_arch(cj, arch);
    convjit_status status = set_options(b, options);
    if (!status)
        status = set_problems(b, problems, n);
    if (!status)
        status = cj_cache_ready(cj_context_cache(cj));
    if (!status)
        status = cj_context_usual_sms(cj, b->arch, &b->sms);
    if (!status) {
        status = run(b);
        if (compiled)
            *compiled = b->compiled;
    }
    free(b->items);
    free(b);
    return status;
}
