/* barrier.c: barriers that threads wait at together: __syncthreads, a block's barriers by number, and the cluster's. */
#include <string.h>
#include "emu.h"

/* ---- __syncthreads, which is barrier 0 ---- */

static const char *const names[CJ_EMU_BARRIER_OPS] = {
    [CJ_EMU_SYNCTHREADS] = "__syncthreads",
    [CJ_EMU_SYNCTHREADS_COUNT] = "__syncthreads_count",
    [CJ_EMU_SYNCTHREADS_AND] = "__syncthreads_and",
    [CJ_EMU_SYNCTHREADS_OR] = "__syncthreads_or",
};

const char *cj_syncthreads_name(cj_emu_barrier_op op)
{
    return names[op];
}

static void release_block(cj_worker *w, unsigned rank)
{
    cj_block *b = &w->blocks[rank];
    unsigned n = w->run->n_threads, count = b->barrier_count, first = rank * w->run->row;
    unsigned result = b->barrier_op == CJ_EMU_SYNCTHREADS_AND ? count == n
                      : b->barrier_op == CJ_EMU_SYNCTHREADS_OR ? count > 0 : count;
    for (unsigned i = first; i < first + n; i++) {
        w->threads[i].result = result;
        w->states[i] = CJ_READY;
    }
    b->arrived = 0;
    cj_order_block(w, rank);
}

static void check_syncthreads(cj_worker *w, const cj_block *b, cj_emu_barrier_op op, unsigned line)
{
    char name[96];
    if (b->named[0].arrived) {
        cj_worker_fault(w, "%s\1 is barrier 0, which %s waits at by number\2", names[op],
                        cj_thread_name(w, b->named[0].first, name));
        cj_fail_on_lines(w, line, b->named[0].line);
    }
    if (b->arrived == 0 || (op == b->barrier_op && line == b->barrier_line))
        return;
    cj_worker_fault(w, "divergent barrier: reaches %s\1 while %s waits at %s\2", names[op],
                    cj_thread_name(w, b->barrier_first, name), names[b->barrier_op]);
    cj_fail_on_lines(w, line, b->barrier_line);
}

unsigned cj_syncthreads(cj_emu_barrier_op op, unsigned value, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_thread *t = w->current;
    cj_block *b = &w->blocks[t->rank];
    check_syncthreads(w, b, op, line);
    if (b->arrived == 0) {
        b->barrier_op = op;
        b->barrier_line = line;
        b->barrier_count = 0;
        b->barrier_first = (uint16_t)t->id;
    }
    t->line = line;
    t->what = names[op];
    b->barrier_count += value;
    if (++b->arrived < w->run->n_threads) {
        cj_wait(w, CJ_AT_BARRIER);
        return (unsigned)t->result;
    }
    release_block(w, t->rank);
    cj_yield(w);
    return (unsigned)t->result;
}

/* ---- Barriers by number ---- */

static _Noreturn void fail_named(cj_worker *w, const cj_named *barrier)
{
    cj_fail_on_lines(w, w->current->line, barrier->line);
}

static cj_named *named_at(cj_worker *w, unsigned id, unsigned threads)
{
    const cj_thread *t = w->current;
    cj_block *b = &w->blocks[t->rank];
    char name[96];
    if (id >= CJ_EMU_MAX_NAMED)
        cj_worker_fault(w, "barrier %u is none of 0 to %d", id, CJ_EMU_MAX_NAMED - 1);
    else if (threads == 0 || threads % CJ_EMU_WARP || threads > w->run->row)
        cj_worker_fault(w, "%u threads are no multiple of %d up to the block's %u", threads, CJ_EMU_WARP, w->run->n_threads);
    else if (id == 0 && b->arrived)
        cj_worker_fault(w, "barrier 0 is that of __syncthreads, where %s waits", cj_thread_name(w, b->barrier_first, name));
    else if (b->named[id].arrived && b->named[id].threads != threads)
        cj_worker_fault(w, "barrier %u awaits %u threads here, and %u where %s came first\2", id, threads,
                        b->named[id].threads, cj_thread_name(w, b->named[id].first, name));
    else
        return &b->named[id];
    fail_named(w, id < CJ_EMU_MAX_NAMED ? &b->named[id] : &b->named[0]);
}

static void release_named(cj_worker *w, cj_named *barrier)
{
    for (unsigned i = 0; i < w->n_ids; i++)
        if (w->states[i] == CJ_AT_NAMED && w->threads[i].named == barrier) {
            cj_acquire(w, &w->threads[i], &barrier->clocks);
            w->states[i] = CJ_READY;
        }
    barrier->arrived = 0;
    w->events++;
}

/* Who comes first must come behind those who used the barrier before, or else they might meet there. One warp alone meets nobody. */
static void check_order(cj_worker *w, const cj_named *barrier, unsigned threads)
{
    char name[96];
    if (threads == CJ_EMU_WARP || cj_knows(w, w->current, barrier->last.thread, barrier->last.epoch, barrier->last.clock))
        return;
    cj_worker_fault(w, "race: barrier %u was used by others, such as %s\2, and nothing orders this behind it",
                    (unsigned)(barrier - w->blocks[w->current->rank].named), cj_thread_name(w, barrier->last.thread, name));
    cj_fail_on_lines(w, w->current->line, barrier->last.line);
}

/* One more has arrived; true if that was the last. */
static bool arrive_named(cj_worker *w, cj_named *barrier, unsigned threads)
{
    cj_thread *t = w->current;
    w->mixed = true;
    if (barrier->arrived == 0) {
        check_order(w, barrier, threads);
        barrier->threads = threads;
        barrier->first = (uint16_t)t->id;
        barrier->line = t->line;
        barrier->clocks.epoch = 0; /* what the last ones knew is not these ones' */
    }
    barrier->last.epoch = w->epoch;
    barrier->last.clock = t->clock;
    barrier->last.line = t->line;
    barrier->last.thread = (uint16_t)t->id;
    cj_release(w, t, &barrier->clocks);
    return ++barrier->arrived == threads;
}

void cj_barrier_sync(unsigned id, unsigned threads, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_thread *t = w->current;
    cj_enter(w, "barrier_sync", line);
    t->named = named_at(w, id, threads);
    if (arrive_named(w, t->named, threads)) {
        cj_acquire(w, t, &t->named->clocks);
        release_named(w, t->named);
        w->primitive = NULL;
    } else {
        cj_wait(w, CJ_AT_NAMED);
    }
}

void cj_barrier_arrive(unsigned id, unsigned threads, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_enter(w, "barrier_arrive", line);
    cj_named *barrier = named_at(w, id, threads);
    if (arrive_named(w, barrier, threads))
        release_named(w, barrier);
    w->primitive = NULL;
}

/* ---- The cluster's barrier: for all of its threads that have not returned ---- */

static void release_cluster(cj_worker *w)
{
    cj_clocks_copy(w, &w->cluster_complete, &w->cluster_arriving);
    w->cluster_arrived = 0;
    w->cluster_phase++;
    for (unsigned i = 0; i < w->n_ids; i++) {
        if (w->states[i] == CJ_AT_CLUSTER)
            w->states[i] = CJ_READY;
        if (w->states[i] == CJ_RETURNED && w->threads[i].in_cluster_barrier) {
            w->threads[i].in_cluster_barrier = false;
            w->cluster_gone++;
        }
    }
    w->events++;
}

static void release_cluster_if_complete(cj_worker *w)
{
    if (w->cluster_arrived && w->cluster_arrived + w->cluster_gone == w->run->n_ranks * w->run->n_threads)
        release_cluster(w);
}

void cj_cluster_arrive(unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_thread *t = w->current;
    cj_enter(w, "cluster_arrive", line);
    if (t->in_cluster_barrier) {
        cj_worker_fault(w, "arrives again before cluster_wait");
        cj_worker_abandon(w);
    }
    w->mixed = true;
    t->in_cluster_barrier = true;
    t->cluster_phase = w->cluster_phase;
    cj_release(w, t, &w->cluster_arriving);
    w->cluster_arrived++;
    release_cluster_if_complete(w);
    w->primitive = NULL;
}

void cj_cluster_wait(unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_thread *t = w->current;
    cj_enter(w, "cluster_wait", line);
    if (!t->in_cluster_barrier) {
        cj_worker_fault(w, "has not arrived: cluster_arrive is missing");
        cj_worker_abandon(w);
    }
    if (w->cluster_phase == t->cluster_phase)
        cj_wait(w, CJ_AT_CLUSTER);
    t->in_cluster_barrier = false;
    cj_acquire(w, t, &w->cluster_complete);
    w->primitive = NULL;
}

void cj_cluster_leave(cj_worker *w)
{
    w->cluster_gone += !w->current->in_cluster_barrier;
    release_cluster_if_complete(w);
}
