/* async.c: operations that go on while their threads do something else: cp.async, bulk and tensor copies, wgmma.
 *
 * From issue to completion the shared memory that an operation reads or writes is marked (access.c). It completes when a
 * thread waits for its group; or, if it belongs to an mbarrier, whenever the device likes. With cj_run.late that is as late
 * as can be: when no thread can go on. Until then its destination is poison. Otherwise it is at once.
 */
#include <stdlib.h>
#include <string.h>
#include "emu.h"

typedef struct range { size_t word, words; bool write; } range;

struct cj_async {
    cj_async *older, *newer; /* of all under way; newer also links the idle ones */
    cj_async *next;          /* in its queue */
    const char *name;
    unsigned line, first, n; /* threads that issued it */
    bool generic;            /* cp.async writes as ordinary stores do, and not through the async proxy */
    uint64_t serial;         /* in order of issue */
    cj_queue *queue;
    unsigned group;          /* of its queue */
    cj_mbarrier *barrier;    /* without a queue */
    unsigned bytes;
    bool arrives;
    range *ranges;
    size_t n_ranges, most_ranges;
    void (*effect)(cj_worker *w, void *data); /* NULL: it took effect */
    void *data;
    size_t most_data;
};

/* ---- Operations ---- */

static _Noreturn void fail_memory(cj_worker *w)
{
    cj_worker_fault(w, "the host has no memory for an asynchronous operation");
    cj_worker_abandon(w);
}

cj_async *cj_async_begin(cj_worker *w, const char *name, unsigned line, unsigned first, unsigned n)
{
    cj_async *op = w->idle;
    if (op)
        w->idle = op->newer;
    else if (!(op = calloc(1, sizeof *op)))
        fail_memory(w);
    *op = (cj_async){.name = name, .line = line, .first = first, .n = n, .serial = w->serial++, .older = w->latest,
                     .ranges = op->ranges, .most_ranges = op->most_ranges, .data = op->data, .most_data = op->most_data};
    *(w->latest ? &w->latest->newer : &w->oldest) = op;
    w->latest = op;
    w->stale = w->run->n_ranks;
    return op;
}

static void unlink_op(cj_worker *w, cj_async *op)
{
    *(op->older ? &op->older->newer : &w->oldest) = op->newer;
    *(op->newer ? &op->newer->older : &w->latest) = op->older;
    op->newer = w->idle;
    w->idle = op;
}

static void add_range(cj_worker *w, cj_async *op, size_t word, size_t words, bool write)
{
    range *last = op->n_ranges ? &op->ranges[op->n_ranges - 1] : NULL;
    if (last && last->write == write && last->word + last->words == word) {
        last->words += words;
        return;
    }
    if (op->n_ranges == op->most_ranges) {
        size_t most = op->most_ranges ? 2 * op->most_ranges : 16;
        range *ranges = realloc(op->ranges, most * sizeof *ranges);
        if (!ranges)
            fail_memory(w);
        op->ranges = ranges;
        op->most_ranges = most;
    }
    op->ranges[op->n_ranges++] = (range){word, words, write};
}

/* Neighbours mostly have one history: that of a word which was found good need not be looked at again. */
static bool is_alike(const cj_worker *w, size_t word, bool write)
{
    const cj_cell *a = &w->words[word - 1], *b = &w->words[word];
    return !w->pending[word] && !a->split && !b->split && memcmp(&a->write, &b->write, sizeof a->write) == 0 &&
           (!write || (b->first_read.epoch == 0 && a->first_read.epoch == 0));
}

static void check_words(cj_worker *w, const cj_async *op, size_t word, size_t words, bool write)
{
    for (size_t i = word; i < word + words; i++) {
        if (i > word && is_alike(w, i, write))
            continue;
        for (unsigned t = op->first; t < op->first + op->n; t += CJ_EMU_WARP)
            cj_word_begin(w, &w->threads[t], i, write, !op->generic);
    }
}

void cj_async_reads(cj_worker *w, cj_async *op, const void *shared, size_t bytes)
{
    size_t word = cj_shared_range(w, shared, bytes, 4, "source") / 4, words = bytes / 4;
    check_words(w, op, word, words, false);
    for (size_t i = word; i < word + words; i++)
        w->pending[i]++;
    add_range(w, op, word, words, false);
}

void cj_async_writes(cj_worker *w, cj_async *op, void *shared, size_t bytes)
{
    size_t word = cj_shared_range(w, shared, bytes, 4, "destination") / 4, words = bytes / 4;
    check_words(w, op, word, words, true);
    for (size_t i = word; i < word + words; i++)
        w->pending[i] |= CJ_WORD_WRITTEN;
    if (w->run->late)
        memset(shared, CJ_EMU_POISON, bytes);
    add_range(w, op, word, words, true);
}

static void start(cj_worker *w, cj_async *op, void (*effect)(cj_worker *w, void *data), const void *data, size_t size)
{
    if (size > op->most_data) {
        void *grown = realloc(op->data, size);
        if (!grown)
            fail_memory(w);
        op->data = grown;
        op->most_data = size;
    }
    if (size)
        memcpy(op->data, data, size);
    op->effect = effect;
    if (!w->run->late && effect) {
        op->effect = NULL;
        effect(w, op->data);
    }
    w->events++;
}

/* It is done, and whoever is ordered behind that touch sees it. */
static void complete(cj_worker *w, cj_async *op, const cj_touch *touch)
{
    if (op->effect)
        op->effect(w, op->data);
    for (size_t r = 0; r < op->n_ranges; r++) {
        const range *part = &op->ranges[r];
        for (size_t i = part->word; i < part->word + part->words; i++) {
            w->pending[i] = (uint16_t)(part->write ? w->pending[i] & ~CJ_WORD_WRITTEN : w->pending[i] - 1);
            cj_word_end(w, i, part->write, touch);
        }
    }
    unlink_op(w, op);
    w->events++;
}

const char *cj_async_name(const cj_worker *w, size_t word, bool write, unsigned *line)
{
    for (const cj_async *op = w->latest; op; op = op->older)
        for (size_t r = 0; r < op->n_ranges; r++)
            if (op->ranges[r].write == write && word - op->ranges[r].word < op->ranges[r].words) {
                *line = op->line;
                return op->name;
            }
    *line = 0;
    return "an asynchronous operation";
}

/* ---- Queues ---- */

void cj_async_issue(cj_worker *w, cj_async *op, cj_queue *queue, void (*effect)(cj_worker *w, void *data), const void *data,
                    size_t size)
{
    op->queue = queue;
    op->group = queue->committed;
    *(queue->last ? &queue->last->next : &queue->first) = op;
    queue->last = op;
    queue->open++;
    if (queue->agent)
        w->mixed = true;
    start(w, op, effect, data, size);
}

void cj_queue_commit(cj_worker *w, cj_queue *q)
{
    q->committed++;
    q->open = 0;
    w->events++;
}

static void complete_first(cj_worker *w, cj_queue *q, const cj_touch *touch)
{
    cj_async *op = q->first;
    q->first = op->next;
    if (!q->first)
        q->last = NULL;
    complete(w, op, touch);
}

void cj_queue_wait(cj_worker *w, cj_queue *q, unsigned n)
{
    cj_thread *t = w->current;
    unsigned before = q->committed > n ? q->committed - n : 0;
    while (q->first && q->first->group < before) {
        const cj_async *op = q->first;
        uint16_t async = op->generic ? 0 : CJ_TOUCH_ASYNC;
        cj_touch touch = {w->epoch, t->clock, op->line, (uint16_t)t->id, CJ_TOUCH_LINE | async};
        if (q->agent) {
            touch.clock = op->group + 1;
            touch.who = q->agent;
        }
        complete_first(w, q, &touch);
    }
    if (q->agent)
        cj_observe(w, t, q->agent, before);
}

cj_queue *cj_warpgroup_queue(cj_worker *w)
{
    const cj_thread *t = w->current;
    return &w->blocks[t->rank].warpgroups[t->local / CJ_EMU_WARPGROUP];
}

/* ---- Operations that an mbarrier tells of ---- */

/* cp_async_mbarrier_arrive: all earlier copies of its thread are done. */
static void complete_copies(cj_worker *w, const cj_async *op, const cj_touch *touch)
{
    cj_thread *t = &w->threads[op->first];
    while (t->copies.first && t->copies.first->serial < op->serial)
        complete_first(w, &t->copies, touch);
    cj_release_until(w, t, t->copied, &op->barrier->arriving);
}

static void complete_to_barrier(cj_worker *w, cj_async *op)
{
    cj_mbarrier *b = op->barrier;
    uint16_t async = op->arrives ? 0 : CJ_TOUCH_ASYNC;
    cj_touch touch = {w->epoch, b->phase + 1, op->line, b->agent, CJ_TOUCH_LINE | async};
    unsigned bytes = op->bytes;
    bool arrives = op->arrives;
    if (arrives)
        complete_copies(w, op, &touch);
    cj_trace(w, "%s on line %u completes", op->name, op->line);
    complete(w, op, &touch);
    cj_mbarrier_complete(w, b, bytes, arrives);
}

void cj_async_issue_to(cj_worker *w, cj_async *op, cj_mbarrier *barrier, unsigned bytes, bool arrives,
                       void (*effect)(cj_worker *w, void *data), const void *data, size_t size)
{
    op->barrier = barrier;
    op->bytes = bytes;
    op->arrives = arrives;
    start(w, op, effect, data, size);
    if (!w->run->late)
        complete_to_barrier(w, op);
}

/* They complete in any order; the launch's order of threads says in which. */
static cj_async *choose(cj_worker *w)
{
    cj_async *chosen = NULL;
    unsigned seen = 0;
    for (cj_async *op = w->oldest; op; op = op->newer) {
        if (op->queue)
            continue;
        cj_emu_order_kind kind = w->run->order.kind;
        if (!chosen || kind == CJ_EMU_REVERSE || (kind == CJ_EMU_SEEDED && cj_random(&w->random) % (seen + 1) == 0))
            chosen = op;
        seen++;
    }
    return chosen;
}

bool cj_async_advance(cj_worker *w)
{
    cj_async *op = choose(w);
    if (!op)
        return false;
    cj_thread *t = &w->threads[op->first];
    const char *what = t->what;
    unsigned line = t->line;
    w->current = t; /* messages are about the thread that issued it */
    w->advancing = true;
    cj_enter(w, op->name, op->line);
    complete_to_barrier(w, op);
    t->what = what;
    t->line = line;
    w->current = NULL;
    w->primitive = NULL;
    w->advancing = false;
    return true;
}

/* ---- Ends ---- */

static _Noreturn void fail_unfinished(cj_worker *w, const cj_async *op, const char *missing)
{
    w->primitive = NULL;
    cj_worker_fault(w, "returns while %s\1 is under way: %s is missing", op->name, missing);
    cj_fail_on_lines(w, op->line, 0);
}

/* The serial number of the thread's last cp_async_mbarrier_arrive that is under way: it takes care of earlier copies. */
static uint64_t last_arrival(const cj_worker *w)
{
    for (const cj_async *op = w->latest; op; op = op->older)
        if (op->arrives && op->first == w->current->id)
            return op->serial;
    return 0;
}

void cj_async_thread_ends(cj_worker *w)
{
    const cj_thread *t = w->current;
    const cj_queue *group = cj_warpgroup_queue(w);
    if (t->copies.last && t->copies.last->serial >= last_arrival(w))
        fail_unfinished(w, t->copies.last, "cp_async_wait");
    if (t->stores.first)
        fail_unfinished(w, t->stores.first, "bulk_commit or bulk_wait");
    if (group->first)
        fail_unfinished(w, group->first, "wgmma_commit or wgmma_wait");
}

void cj_async_cluster_ends(cj_worker *w)
{
    const cj_async *op = w->oldest;
    if (!op)
        return;
    cj_worker_fault(w, "all threads have returned while %s\1 is under way: nobody waits for its mbarrier", op->name);
    w->fault.places[0].line = op->line;
}

void cj_async_reset(cj_worker *w)
{
    while (w->oldest)
        unlink_op(w, w->oldest);
}

void cj_async_free(cj_worker *w)
{
    cj_async_reset(w);
    while (w->idle) {
        cj_async *op = w->idle;
        w->idle = op->newer;
        free(op->ranges);
        free(op->data);
        free(op);
    }
}

/* ---- cp.async ---- */

typedef struct copy { void *to; const void *from; size_t bytes, size; } copy; /* the rest of `size` becomes zero */

static void do_copy(cj_worker *w, void *data)
{
    const copy *c = data;
    if (c->bytes)
        memcpy(c->to, c->from, c->bytes);
    memset((char *)c->to + c->bytes, 0, c->size - c->bytes);
}

static void check_global_alignment(cj_worker *w, const void *global, size_t alignment, const char *what)
{
    if ((uintptr_t)global % alignment == 0)
        return;
    char place[160];
    cj_place_name(w, (uintptr_t)global, place);
    cj_worker_fault(w, "the %s must be aligned to %zu bytes, and is at %s", what, alignment, place);
    cj_worker_abandon(w);
}

static const void *line_place(unsigned line)
{
    return (const void *)(uintptr_t)line;
}

static void copy_async(void *shared, const void *global, int bytes, int size, unsigned line)
{
    static const char *const names[] = {[4] = "cp_async_4", [8] = "cp_async_8", [16] = "cp_async_16"};
    cj_worker *w = cj_worker_current();
    cj_thread *t = w->current;
    cj_enter(w, names[size], line);
    if (bytes < 0 || bytes > size) {
        cj_worker_fault(w, "%d bytes are not between 0 and %d", bytes, size);
        cj_worker_abandon(w);
    }
    check_global_alignment(w, global, (size_t)size, "source");
    (void)cj_shared_range(w, shared, (size_t)size, (size_t)size, "destination");
    cj_access(global, (unsigned long)bytes, CJ_EMU_READ, line_place(line));
    cj_async *op = cj_async_begin(w, names[size], line, t->id, 1);
    op->generic = true;
    cj_async_writes(w, op, shared, (size_t)size);
    copy c = {shared, global, (size_t)bytes, (size_t)size};
    cj_async_issue(w, op, &t->copies, do_copy, &c, sizeof c);
    w->primitive = NULL;
}

static void copy_commit(unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_queue_commit(w, &w->current->copies);
}

static void copy_wait(unsigned groups, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_thread *t = w->current;
    cj_enter(w, "cp_async_wait", line);
    cj_queue_wait(w, &t->copies, groups);
    t->copied = t->clock++;
    w->primitive = NULL;
}

static void copy_arrive(unsigned long long *barrier, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_thread *t = w->current;
    cj_enter(w, "cp_async_mbarrier_arrive", line);
    cj_mbarrier *b = cj_mbarrier_at(w, barrier, t->rank, false);
    cj_async *op = cj_async_begin(w, "cp_async_mbarrier_arrive", line, t->id, 1);
    cj_async_issue_to(w, op, b, 0, true, NULL, NULL, 0);
    w->primitive = NULL;
}

/* ---- Bulk copies ---- */

enum { BULK_UNIT = 16, MAX_BULK = (1 << 20) - 1 };

static void check_bulk(cj_worker *w, const void *global, unsigned bytes, const char *what)
{
    if (bytes == 0 || bytes % BULK_UNIT || bytes > MAX_BULK) {
        cj_worker_fault(w, "%u bytes are no multiple of %d between %d and %d", bytes, BULK_UNIT, BULK_UNIT, MAX_BULK);
        cj_worker_abandon(w);
    }
    check_global_alignment(w, global, BULK_UNIT, what);
}

static void bulk_load(void *shared, const void *global, unsigned bytes, unsigned long long *barrier, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_thread *t = w->current;
    cj_enter(w, "bulk_load", line);
    check_bulk(w, global, bytes, "source");
    cj_check_own(w, shared, bytes, BULK_UNIT, "destination");
    cj_access(global, bytes, CJ_EMU_READ, line_place(line));
    cj_mbarrier *b = cj_mbarrier_at(w, barrier, t->rank, true);
    cj_async *op = cj_async_begin(w, "bulk_load", line, t->id, 1);
    cj_async_writes(w, op, shared, bytes);
    copy c = {shared, global, bytes, bytes};
    cj_async_issue_to(w, op, b, bytes, false, do_copy, &c, sizeof c);
    w->primitive = NULL;
}

static void bulk_store(void *global, const void *shared, unsigned bytes, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_thread *t = w->current;
    cj_enter(w, "bulk_store", line);
    check_bulk(w, global, bytes, "destination");
    cj_check_own(w, shared, bytes, BULK_UNIT, "source");
    cj_access(global, bytes, CJ_EMU_WRITE, line_place(line));
    cj_async *op = cj_async_begin(w, "bulk_store", line, t->id, 1);
    cj_async_reads(w, op, shared, bytes);
    copy c = {global, shared, bytes, bytes};
    cj_async_issue(w, op, &t->stores, do_copy, &c, sizeof c);
    w->primitive = NULL;
}

static void bulk_commit(unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_queue_commit(w, &w->current->stores);
}

static void bulk_wait(unsigned groups, const char *name, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_enter(w, name, line);
    cj_queue_wait(w, &w->current->stores, groups);
    w->primitive = NULL;
}

void cj_check_own(cj_worker *w, const void *shared, size_t bytes, size_t alignment, const char *what)
{
    size_t offset = cj_shared_range(w, shared, bytes, alignment, what);
    if (offset / CJ_EMU_SHARED_STRIDE == w->current->rank)
        return;
    cj_worker_fault(w, "the %s is in another block's shared memory", what);
    cj_worker_abandon(w);
}

/* ---- Fences, addresses, clusters ---- */

static void fence_proxy_async(unsigned line)
{
    cj_show(cj_worker_current());
}

static unsigned shared_address(const void *shared, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_enter(w, "shared_address", line);
    cj_check_own(w, shared, 0, 1, "address");
    w->primitive = NULL;
    return CJ_EMU_SHARED_WINDOW + (unsigned)(cj_shared_offset(w, shared) % CJ_EMU_SHARED_STRIDE);
}

static unsigned cluster_rank(void)
{
    return cj_worker_current()->current->rank;
}

static unsigned cluster_blocks(void)
{
    return cj_worker_current()->run->n_ranks;
}

static void *cluster_map(void *shared, unsigned rank, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_enter(w, "cluster_map", line);
    cj_check_own(w, shared, 0, 1, "address");
    if (rank >= w->run->n_ranks) {
        cj_worker_fault(w, "rank %u, and the cluster has %u blocks", rank, w->run->n_ranks);
        cj_worker_abandon(w);
    }
    w->primitive = NULL;
    return w->shared + (size_t)rank * CJ_EMU_SHARED_STRIDE + cj_shared_offset(w, shared) % CJ_EMU_SHARED_STRIDE;
}

/* PTX does not say which lane is elected, only that it is always the same. */
static unsigned elected_lane(void)
{
    const cj_run *run = cj_worker_current()->run;
    return run->order.kind == CJ_EMU_SEEDED ? (unsigned)(run->order.seed % CJ_EMU_WARP) : 0;
}

const cj_emu_async_services cj_emu_async = {
    .shared_address = shared_address,
    .copy_async = copy_async,
    .copy_commit = copy_commit,
    .copy_wait = copy_wait,
    .copy_arrive = copy_arrive,
    .mbarrier_init = cj_mbarrier_init,
    .mbarrier_invalidate = cj_mbarrier_invalidate,
    .mbarrier_arrive = cj_mbarrier_arrive,
    .mbarrier_arrive_expect = cj_mbarrier_arrive_expect,
    .mbarrier_arrive_cluster = cj_mbarrier_arrive_cluster,
    .mbarrier_try_wait = cj_mbarrier_try_wait,
    .mbarrier_wait = cj_mbarrier_wait,
    .fence_mbarrier_init = cj_fence_mbarrier_init,
    .fence_proxy_async = fence_proxy_async,
    .bulk_load = bulk_load,
    .bulk_store = bulk_store,
    .bulk_commit = bulk_commit,
    .bulk_wait = bulk_wait,
    .tensor_load = cj_tensor_load,
    .tensor_store = cj_tensor_store,
    .tensor_prefetch = cj_tensor_prefetch,
    .barrier_sync = cj_barrier_sync,
    .barrier_arrive = cj_barrier_arrive,
    .cluster_arrive = cj_cluster_arrive,
    .cluster_wait = cj_cluster_wait,
    .cluster_rank = cluster_rank,
    .cluster_blocks = cluster_blocks,
    .cluster_map = cluster_map,
    .elected_lane = elected_lane,
    .grid_wait = cj_grid_wait,
    .grid_launch_dependents = cj_grid_launch_dependents,
};
