/* mbarrier.c: barriers in shared memory that count arrivals and bytes of asynchronous copies, in phases.
 *
 * What arrives releases what its thread did; what waits for a phase acquires it, and sees what the phase's copies wrote: those
 * carry the barrier as their agent, and the number of the phase as its clock. The eight bytes themselves stay poison.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "emu.h"

enum { BYTES = 8, MAX_COUNT = (1 << 20) - 1 }; /* the second also limits the bytes of a phase */

static _Noreturn void fail_here(cj_worker *w, const cj_mbarrier *b)
{
    cj_fail_on_lines(w, w->current->line, b ? b->line : 0);
}

/* ---- Finding ---- */

static cj_mbarrier *find(cj_worker *w, unsigned rank, unsigned offset)
{
    cj_block *block = &w->blocks[rank];
    for (unsigned i = 0; i < block->n_barriers; i++)
        if (block->barriers[i].offset == offset)
            return &block->barriers[i];
    return NULL;
}

/* An ordinary pointer names the caller's own block's barrier or, by cluster_map, another one's. */
static void check_known(cj_worker *w, const cj_mbarrier *b, bool shown)
{
    char name[96];
    cj_thread_name(w, b->made.who, name);
    if (!cj_ordered(w, &b->made))
        cj_worker_fault(w, "race: %s made the mbarrier at offset %u\2, with no barrier in between", name, b->offset);
    else if (shown && (!b->shown.epoch || !cj_ordered(w, &b->shown)))
        cj_worker_fault(w, "%s made the mbarrier at offset %u\2, and did not show it to %s: fence_mbarrier_init is missing", name,
                        b->offset, b->rank == w->current->rank ? "asynchronous copies" : "other blocks");
    else
        return;
    fail_here(w, b);
}

cj_mbarrier *cj_mbarrier_at(cj_worker *w, const void *barrier, unsigned rank, bool async)
{
    size_t at = cj_shared_range(w, barrier, BYTES, BYTES, "mbarrier") % CJ_EMU_SHARED_STRIDE;
    (void)cj_shared_range(w, w->shared + (size_t)rank * CJ_EMU_SHARED_STRIDE + at, BYTES, BYTES, "mbarrier");
    cj_mbarrier *b = find(w, rank, (unsigned)at);
    if (!b || !b->valid) {
        cj_worker_fault(w, "there is no mbarrier at offset %zu of shared memory: %s", at,
                        b ? "it was invalidated" : "mbarrier_init is missing");
        fail_here(w, NULL);
    }
    check_known(w, b, async || rank != w->current->rank);
    return b;
}

/* The rank that a pointer leads to. */
static unsigned rank_of(cj_worker *w, const void *barrier)
{
    return (unsigned)(cj_shared_range(w, barrier, BYTES, BYTES, "mbarrier") / CJ_EMU_SHARED_STRIDE);
}

/* ---- Making and unmaking ---- */

static cj_mbarrier *new_barrier(cj_worker *w, unsigned rank, unsigned offset)
{
    cj_block *block = &w->blocks[rank];
    cj_mbarrier *b = find(w, rank, offset);
    if (b)
        return b;
    if (block->n_barriers == CJ_EMU_MAX_BARRIERS) {
        cj_worker_fault(w, "more than %d mbarriers in a block", CJ_EMU_MAX_BARRIERS);
        fail_here(w, NULL);
    }
    unsigned i = block->n_barriers++;
    b = &block->barriers[i];
    b->agent = (uint16_t)(w->n_clocks - (w->run->n_ranks - rank) * CJ_EMU_MAX_BARRIERS + i);
    b->arriving = cj_clocks_new(w);
    b->complete = cj_clocks_new(w);
    return b;
}

void cj_mbarrier_init(unsigned long long *barrier, unsigned arrivals, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_enter(w, "mbarrier_init", line);
    size_t at = cj_shared_range(w, barrier, BYTES, BYTES, "mbarrier");
    unsigned rank = w->current->rank, offset = (unsigned)(at % CJ_EMU_SHARED_STRIDE);
    cj_mbarrier *b = find(w, rank, offset);
    if (at / CJ_EMU_SHARED_STRIDE != rank)
        cj_worker_fault(w, "the mbarrier is in another block's shared memory");
    else if (arrivals < 1 || arrivals > MAX_COUNT)
        cj_worker_fault(w, "%u arrivals are not between 1 and %d", arrivals, MAX_COUNT);
    else if (b && b->valid)
        cj_worker_fault(w, "there is an mbarrier at offset %u already\2: mbarrier_invalidate is missing", offset);
    if (w->fault.found)
        fail_here(w, b);
    cj_access(barrier, BYTES, CJ_EMU_WRITE, (const void *)(uintptr_t)line);
    b = new_barrier(w, rank, offset);
    uint32_t phase = b->phase; /* goes on, so that the agent's clock does */
    b->made = (cj_touch){w->epoch, w->current->clock, line, (uint16_t)w->current->id, CJ_TOUCH_LINE};
    b->shown = (cj_touch){0};
    b->valid = true;
    b->rank = rank;
    b->offset = offset;
    b->count = b->missing = arrivals;
    b->first_phase = b->phase = phase;
    b->bytes = 0;
    b->line = line;
    w->pending[at / 4] = w->pending[at / 4 + 1] = CJ_WORD_BARRIER;
    w->mixed = true;
    w->stale = w->run->n_ranks;
    w->primitive = NULL;
}

void cj_mbarrier_invalidate(unsigned long long *barrier, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_enter(w, "mbarrier_invalidate", line);
    cj_mbarrier *b = cj_mbarrier_at(w, barrier, w->current->rank, false);
    char state[256];
    cj_mbarrier_state(b, state);
    for (unsigned i = 0; i < w->n_ids; i++)
        if (w->threads[i].barrier == b && (w->states[i] == CJ_AT_MBARRIER || w->states[i] == CJ_AT_TRY)) {
            char name[96];
            cj_worker_fault(w, "%s waits\2 for it: %s", cj_thread_name(w, i, name), state);
            cj_fail_on_lines(w, line, w->threads[i].line);
        }
    if (b->bytes != 0 || b->missing != b->count) {
        cj_worker_fault(w, "something is under way for it: it is in %s", state);
        fail_here(w, b);
    }
    b->valid = false;
    size_t word = cj_shared_offset(w, barrier) / 4;
    w->pending[word] = w->pending[word + 1] = 0;
    cj_access(barrier, BYTES, CJ_EMU_WRITE, (const void *)(uintptr_t)line);
    w->primitive = NULL;
}

void cj_fence_mbarrier_init(unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_thread *t = w->current;
    cj_block *block = &w->blocks[t->rank];
    for (unsigned i = 0; i < block->n_barriers; i++) {
        cj_mbarrier *b = &block->barriers[i];
        if (b->valid && b->made.who == t->id && !b->shown.epoch)
            b->shown = (cj_touch){w->epoch, t->clock, line, (uint16_t)t->id, CJ_TOUCH_LINE};
    }
    t->clock++;
}

/* ---- Phases ---- */

void cj_mbarrier_state(const cj_mbarrier *b, char text[256])
{
    char bytes[96] = "";
    if (b->bytes > 0)
        snprintf(bytes, sizeof bytes, " and %" PRId64 " bytes", b->bytes);
    else if (b->bytes < 0)
        snprintf(bytes, sizeof bytes, " and there are %" PRId64 " bytes more than were expected", -b->bytes);
    snprintf(text, 256, "phase %" PRIu32 ", parity %" PRIu32 ", of the mbarrier at offset %u (missing: %u of %u arrivals%s)",
             b->phase - b->first_phase, (b->phase - b->first_phase) & 1, b->offset, b->missing, b->count, bytes);
}

static void pass(cj_worker *w, cj_thread *t, const cj_mbarrier *b)
{
    cj_acquire(w, t, &b->complete);
    cj_observe(w, t, b->agent, b->phase);
    t->waited = t->clock;
    t->result = true;
}

static void complete_if_all_came(cj_worker *w, cj_mbarrier *b)
{
    w->events++;
    if (b->missing || b->bytes)
        return;
    b->phase++;
    b->missing = b->count;
    cj_know(w, &b->arriving, b->agent, b->phase);
    cj_clocks_copy(w, &b->complete, &b->arriving);
    cj_trace(w, "completes phase %" PRIu32 " of the mbarrier at offset %u", b->phase - b->first_phase - 1, b->offset);
    for (unsigned i = 0; i < w->n_ids; i++)
        if (w->threads[i].barrier == b && (w->states[i] == CJ_AT_MBARRIER || w->states[i] == CJ_AT_TRY)) {
            pass(w, &w->threads[i], b);
            w->states[i] = CJ_READY;
        }
}

static void count_arrival(cj_worker *w, cj_mbarrier *b)
{
    if (b->missing == 0) {
        char state[256];
        cj_mbarrier_state(b, state);
        cj_worker_fault(w, "one arrival more than the %u of mbarrier_init\2, in %s", b->count, state);
        if (w->advancing)
            return;
        fail_here(w, b);
    }
    b->missing--;
}

static void arrive(cj_worker *w, cj_mbarrier *b, unsigned bytes)
{
    if (bytes > MAX_COUNT || b->bytes + bytes > MAX_COUNT) {
        cj_worker_fault(w, "%u bytes are expected, and a phase may have %d", bytes, MAX_COUNT);
        fail_here(w, b);
    }
    cj_release(w, w->current, &b->arriving);
    b->bytes += bytes;
    count_arrival(w, b);
    complete_if_all_came(w, b);
    w->primitive = NULL;
}

void cj_mbarrier_arrive(unsigned long long *barrier, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_enter(w, "mbarrier_arrive", line);
    arrive(w, cj_mbarrier_at(w, barrier, rank_of(w, barrier), false), 0);
}

void cj_mbarrier_arrive_expect(unsigned long long *barrier, unsigned bytes, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_enter(w, "mbarrier_arrive_expect", line);
    arrive(w, cj_mbarrier_at(w, barrier, rank_of(w, barrier), false), bytes);
}

void cj_mbarrier_arrive_cluster(unsigned long long *barrier, unsigned rank, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_enter(w, "mbarrier_arrive_cluster", line);
    if (rank >= w->run->n_ranks) {
        cj_worker_fault(w, "rank %u, and the cluster has %u blocks", rank, w->run->n_ranks);
        fail_here(w, NULL);
    }
    arrive(w, cj_mbarrier_at(w, barrier, rank, false), 0);
}

void cj_mbarrier_complete(cj_worker *w, cj_mbarrier *b, unsigned bytes, bool arrives)
{
    b->bytes -= bytes;
    if (arrives)
        count_arrival(w, b);
    complete_if_all_came(w, b);
}

/* ---- Waiting ---- */

static cj_mbarrier *begin_wait(cj_worker *w, unsigned long long *barrier, unsigned parity)
{
    if (parity > 1) {
        cj_worker_fault(w, "parity %u is neither 0 nor 1", parity);
        fail_here(w, NULL);
    }
    unsigned rank = rank_of(w, barrier);
    cj_mbarrier *b = cj_mbarrier_at(w, barrier, rank, false);
    if (rank != w->current->rank) {
        cj_worker_fault(w, "the mbarrier is in another block's shared memory: only its own threads may wait for it");
        fail_here(w, b);
    }
    w->current->barrier = b;
    w->current->parity = parity;
    return b;
}

/* Whether the phase that was under way when it was the turn of that parity is complete. */
static bool is_complete(const cj_mbarrier *b, unsigned parity)
{
    return ((b->phase - b->first_phase) & 1) != parity;
}

bool cj_mbarrier_try_wait(unsigned long long *barrier, unsigned parity, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_thread *t = w->current;
    cj_enter(w, "mbarrier_try_wait", line);
    cj_mbarrier *b = begin_wait(w, barrier, parity);
    if (is_complete(b, parity))
        pass(w, t, b);
    else
        cj_wait(w, CJ_AT_TRY);
    w->primitive = NULL;
    return t->result;
}

void cj_mbarrier_wait(unsigned long long *barrier, unsigned parity, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_enter(w, "mbarrier_wait", line);
    cj_mbarrier *b = begin_wait(w, barrier, parity);
    if (is_complete(b, parity))
        pass(w, w->current, b);
    else
        cj_wait(w, CJ_AT_MBARRIER);
    w->primitive = NULL;
}
