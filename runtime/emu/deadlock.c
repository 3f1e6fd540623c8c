/* deadlock.c: explains why no thread of a cluster can go on. Told is what most likely came first: others wait because of it. */
#include <stdio.h>
#include <string.h>
#include "emu.h"

/* "has returned", "waits in __syncwarp on line 12 with mask ..." */
static void name_state(const cj_worker *w, const cj_thread *t, char text[128])
{
    if (w->states[t->id] == CJ_RETURNED)
        snprintf(text, 128, "has returned");
    else if (w->states[t->id] == CJ_AT_COLLECTIVE)
        snprintf(text, 128, "waits in %s\2 with mask 0x%08x", t->what, t->call.mask);
    else
        snprintf(text, 128, "waits at %s\2", t->what);
}

static void explain_collective(cj_worker *w, const cj_thread *t)
{
    const cj_thread *lanes = t - t->id % CJ_EMU_WARP, *missing = lanes;
    while (!(t->call.mask >> (missing - lanes) & 1) || cj_takes_part(w, missing, &t->call))
        missing++;
    char name[96], other[96], state[128];
    name_state(w, missing, state);
    cj_worker_fault(w, "deadlock: missing participant: %s waits in %s\1 with mask 0x%08x for %s, which %s",
                    cj_thread_name(w, t->id, name), t->what, t->call.mask, cj_thread_name(w, missing->id, other), state);
    w->fault.places[0].line = t->line;
    w->fault.places[1].line = missing->line;
}

static void explain_warpgroup(cj_worker *w, const cj_thread *t)
{
    unsigned n;
    const cj_thread *missing = cj_warpgroup_missing(w, t, &n);
    char name[96], other[96], state[128];
    name_state(w, missing, state);
    cj_worker_fault(w, "deadlock: missing participant: %s waits in %s\1 for %u threads of its warpgroup, such as %s, which %s",
                    cj_thread_name(w, t->id, name), t->what, n, cj_thread_name(w, missing->id, other), state);
    w->fault.places[0].line = t->line;
    w->fault.places[1].line = missing->line;
}

static void explain_registers(cj_worker *w, const cj_thread *t)
{
    unsigned needed, pool;
    cj_warpgroup_registers(w, t, &needed, &pool);
    char name[96];
    cj_worker_fault(w, "deadlock: %s and its warpgroup wait in %s\1 for %u registers, and the block's pool has %u",
                    cj_thread_name(w, t->id, name), t->what, needed, pool);
    w->fault.places[0].line = t->line;
}

static void explain_mbarrier(cj_worker *w, const cj_thread *t)
{
    char name[96], state[256];
    cj_mbarrier_state(t->barrier, state);
    cj_worker_fault(w, "deadlock: %s waits in %s\1 for parity %u, which nobody completes: the mbarrier is in %s",
                    cj_thread_name(w, t->id, name), t->what, t->parity, state);
    w->fault.places[0].line = t->line;
}

static void explain_named(cj_worker *w, const cj_thread *t)
{
    const cj_named *barrier = t->named;
    char name[96];
    cj_worker_fault(w, "deadlock: missing participant: %u of the %u threads that barrier %u awaits, such as %s, have arrived "
                    "in %s\1", barrier->arrived, barrier->threads, (unsigned)(barrier - w->blocks[t->rank].named),
                    cj_thread_name(w, t->id, name), t->what);
    w->fault.places[0].line = t->line;
}

/* A thread that is in none of these states, for a barrier of all: one that has returned, if there is. */
static const cj_thread *find_missing(const cj_worker *w, unsigned first, unsigned n, cj_thread_state state)
{
    const cj_thread *missing = NULL;
    for (unsigned i = first; i < first + n; i++) {
        bool padding = w->threads[i].local >= w->run->n_threads;
        if (!padding && w->states[i] != state && (!missing || w->states[i] == CJ_RETURNED))
            missing = &w->threads[i];
    }
    return missing;
}

static void explain_cluster(cj_worker *w, const cj_thread *t)
{
    const cj_thread *missing = find_missing(w, 0, w->n_ids, CJ_AT_CLUSTER);
    char name[96], other[96], state[128];
    name_state(w, missing, state);
    cj_worker_fault(w, "deadlock: missing participant: %u of %u threads of the cluster have arrived; %s waits in %s\1 for %s, "
                    "which %s", w->cluster_arrived, w->run->n_ranks * w->run->n_threads, cj_thread_name(w, t->id, name), t->what,
                    cj_thread_name(w, missing->id, other), state);
    w->fault.places[0].line = t->line;
    w->fault.places[1].line = missing->line;
}

static void explain_barrier(cj_worker *w, const cj_thread *t)
{
    const cj_block *b = &w->blocks[t->rank];
    const cj_thread *missing = find_missing(w, t->rank * w->run->row, w->run->row, CJ_AT_BARRIER);
    char name[96], other[96], state[128];
    name_state(w, missing, state);
    cj_worker_fault(w, "deadlock: missing participant: %u of %u threads, such as %s, wait at %s\1, and %s %s", b->arrived,
                    w->run->n_threads, cj_thread_name(w, b->barrier_first, name), t->what,
                    cj_thread_name(w, missing->id, other), state);
    w->fault.places[0].line = b->barrier_line;
    w->fault.places[1].line = missing->line;
}

void cj_explain_deadlock(cj_worker *w)
{
    static const struct { cj_thread_state state; void (*explain)(cj_worker *w, const cj_thread *t); } causes[] = {
        {CJ_AT_REGISTERS, explain_registers}, {CJ_AT_MBARRIER, explain_mbarrier}, {CJ_AT_TRY, explain_mbarrier},
        {CJ_AT_COLLECTIVE, explain_collective}, {CJ_AT_WARPGROUP, explain_warpgroup}, {CJ_AT_NAMED, explain_named},
        {CJ_AT_CLUSTER, explain_cluster}, {CJ_AT_BARRIER, explain_barrier},
    };
    for (size_t cause = 0; cause < sizeof causes / sizeof *causes; cause++)
        for (unsigned i = 0; i < w->n_ids; i++)
            if (w->states[i] == causes[cause].state) {
                causes[cause].explain(w, &w->threads[i]);
                return;
            }
}
