/* warpgroup.c: what the 128 threads of a warpgroup do together: who takes part; setmaxnreg and the pool that it draws from.
 *
 * A block's registers at its launch are what __launch_bounds__ leaves to each thread, as ptxas gives them to a kernel with
 * setmaxnreg: all of a multiprocessor, in eights. What warpgroups give back goes to the block's pool; an increase waits until
 * there is enough in it.
 */
#include <stdlib.h>
#include <string.h>
#include "emu.h"
#include "warpgroup.h"

enum { REGISTERS = 65536, MAX_REGISTERS = 256, MIN_REGISTERS = 24 };

struct cj_warpgroups {
    cj_warpgroup *groups[CJ_EMU_MAX_BLOCKS][CJ_EMU_MAX_THREADS / CJ_EMU_WARPGROUP]; /* NULL: never needed */
    unsigned pool[CJ_EMU_MAX_BLOCKS]; /* registers that nobody has */
};

static const char *const names[] = {
    [CJ_EMU_WGMMA_FENCE] = "wgmma_fence",
    [CJ_EMU_WGMMA_COMMIT] = "wgmma_commit",
    [CJ_EMU_WGMMA_WAIT] = "wgmma_wait",
    [CJ_EMU_REGISTERS_INCREASE] = "registers_increase",
    [CJ_EMU_REGISTERS_DECREASE] = "registers_decrease",
};

static const char *name_of(const cj_emu_warpgroup_call *call)
{
    return call->op == CJ_EMU_WGMMA ? call->shape.name : names[call->op];
}

/* ---- Memory ---- */

void cj_warpgroups_begin(cj_worker *w)
{
    if (!w->warpgroups)
        return;
    for (unsigned rank = 0; rank < CJ_EMU_MAX_BLOCKS; rank++)
        for (unsigned i = 0; i < CJ_EMU_MAX_THREADS / CJ_EMU_WARPGROUP; i++)
            if (w->warpgroups->groups[rank][i]) {
                cj_warpgroup *g = w->warpgroups->groups[rank][i];
                cj_wgmma_reset(g);
                g->arrived = g->registers = g->wanted = 0;
            }
    memset(w->warpgroups->pool, 0, sizeof w->warpgroups->pool);
}

void cj_warpgroups_free(cj_worker *w)
{
    if (!w->warpgroups)
        return;
    for (unsigned rank = 0; rank < CJ_EMU_MAX_BLOCKS; rank++)
        for (unsigned i = 0; i < CJ_EMU_MAX_THREADS / CJ_EMU_WARPGROUP; i++)
            if (w->warpgroups->groups[rank][i]) {
                cj_wgmma_free(w->warpgroups->groups[rank][i]);
                free(w->warpgroups->groups[rank][i]);
            }
    free(w->warpgroups);
    w->warpgroups = NULL;
}

void *cj_warpgroup_memory(cj_worker *w, void *before, size_t bytes)
{
    void *memory = realloc(before, bytes);
    if (memory)
        return memory;
    cj_worker_fault(w, "the host has no memory for the registers of a warpgroup");
    cj_worker_abandon(w);
}

/* The current thread's; faults if the block has no 128 threads for it. */
static cj_warpgroup *own_group(cj_worker *w)
{
    const cj_thread *t = w->current;
    unsigned index = t->local / CJ_EMU_WARPGROUP, first = index * CJ_EMU_WARPGROUP;
    if (w->run->n_threads - first < CJ_EMU_WARPGROUP) {
        cj_worker_fault(w, "missing participant: it takes a warpgroup of %d threads, and from thread %u on the block has %u",
                        CJ_EMU_WARPGROUP, first, w->run->n_threads - first);
        cj_worker_abandon(w);
    }
    if (!w->warpgroups) {
        w->warpgroups = cj_warpgroup_memory(w, NULL, sizeof *w->warpgroups);
        memset(w->warpgroups, 0, sizeof *w->warpgroups);
    }
    cj_warpgroup **at = &w->warpgroups->groups[t->rank][index];
    if (!*at) {
        *at = cj_warpgroup_memory(w, NULL, sizeof **at);
        memset(*at, 0, sizeof **at);
    }
    (*at)->threads = &w->threads[t->id - t->local % CJ_EMU_WARPGROUP];
    return *at;
}

/* ---- setmaxnreg ---- */

static unsigned launch_registers(const cj_run *run)
{
    unsigned threads = (unsigned)run->entry->bounds[0], blocks = (unsigned)run->entry->bounds[1];
    unsigned warps = (threads + CJ_EMU_WARP - 1) / CJ_EMU_WARP * (blocks ? blocks : 1);
    unsigned registers = warps ? REGISTERS / (warps * CJ_EMU_WARP) / 8 * 8 : 0;
    return registers < MAX_REGISTERS ? registers : MAX_REGISTERS;
}

static void check_registers(cj_worker *w, const cj_warpgroup *g, const cj_emu_warpgroup_call *call)
{
    unsigned n = call->number;
    if (n < MIN_REGISTERS || n > MAX_REGISTERS || n % 8 != 0)
        cj_worker_fault(w, "%u is no multiple of 8 from %d to %d", n, MIN_REGISTERS, MAX_REGISTERS);
    else if (!g->registers)
        cj_worker_fault(w, "the kernel has no __launch_bounds__, which say how many registers a thread has at first");
    else if (call->op == CJ_EMU_REGISTERS_INCREASE ? n < g->registers : n > g->registers)
        cj_worker_fault(w, "to %u registers, and a thread of this warpgroup has %u", n, g->registers);
    else
        return;
    cj_worker_abandon(w);
}

/* Gives the group what it waits for, if the pool has it. */
static bool take_registers(cj_worker *w, cj_warpgroup *g)
{
    unsigned *pool = &w->warpgroups->pool[g->threads->rank];
    unsigned needed = (g->wanted - g->registers) * CJ_EMU_WARPGROUP;
    if (needed > *pool)
        return false;
    *pool -= needed;
    g->registers = g->wanted;
    g->wanted = 0;
    return true;
}

static void wake(cj_worker *w, const cj_warpgroup *g)
{
    for (unsigned i = 0; i < CJ_EMU_WARPGROUP; i++)
        w->states[g->threads[i].id] = CJ_READY;
    w->events++;
}

/* Some registers have come back: those that wait for more get them, in their order. */
static void distribute_registers(cj_worker *w, unsigned rank)
{
    for (unsigned i = 0; i < CJ_EMU_MAX_THREADS / CJ_EMU_WARPGROUP; i++) {
        cj_warpgroup *g = w->warpgroups->groups[rank][i];
        if (g && g->wanted && take_registers(w, g))
            wake(w, g);
    }
}

/* Returns whether the warpgroup may go on. */
static bool change_registers(cj_worker *w, cj_warpgroup *g, const cj_emu_warpgroup_call *call)
{
    unsigned rank = w->current->rank;
    if (!g->registers)
        g->registers = launch_registers(w->run);
    check_registers(w, g, call);
    g->wanted = call->number;
    if (call->op == CJ_EMU_REGISTERS_INCREASE)
        return take_registers(w, g);
    w->warpgroups->pool[rank] += (g->registers - g->wanted) * CJ_EMU_WARPGROUP;
    g->registers = g->wanted;
    g->wanted = 0;
    distribute_registers(w, rank);
    return true;
}

/* ---- Taking part ---- */

static bool is_same(const cj_emu_warpgroup_call *a, const cj_emu_warpgroup_call *b)
{
    return a->op == b->op && a->line == b->line && a->number == b->number &&
           (a->op != CJ_EMU_WGMMA || strcmp(a->shape.name, b->shape.name) == 0);
}

/* Everything about a wgmma but the registers must be the same for all threads. */
static void check_same(cj_worker *w, const cj_warpgroup *g, const cj_emu_warpgroup_call *call)
{
    const cj_emu_warpgroup_call *first = g->calls[g->first];
    const cj_emu_wgmma_operands *mine = &call->operands, *theirs = &first->operands;
    bool same = is_same(call, first), wgmma = call->op == CJ_EMU_WGMMA;
    bool majors = !wgmma || (call->shape.a_mn == first->shape.a_mn && call->shape.b_mn == first->shape.b_mn);
    bool descriptors = !wgmma || (mine->a == theirs->a && mine->b == theirs->b && mine->a_step == theirs->a_step &&
                                  mine->b_step == theirs->b_step);
    if (same && majors && descriptors && (!wgmma || mine->accumulate == theirs->accumulate))
        return;
    char name[96];
    const char *other = cj_thread_name(w, g->threads[g->first].id, name);
    if (!same)
        cj_worker_fault(w, "divergent warpgroup: %s waits in %s\2", other, name_of(first));
    else if (!majors)
        cj_worker_fault(w, "divergent warpgroup: %s has another major-ness", other);
    else if (!descriptors)
        cj_worker_fault(w, "the descriptors of a warpgroup must be equal: a 0x%llx, step %d, b 0x%llx, step %d; those of %s: "
                        "a 0x%llx, step %d, b 0x%llx, step %d", mine->a, mine->a_step, mine->b, mine->b_step, other, theirs->a,
                        theirs->a_step, theirs->b, theirs->b_step);
    else
        cj_worker_fault(w, "accumulate must be the same for a warpgroup: %d, and %d of %s", mine->accumulate,
                        theirs->accumulate, other);
    cj_fail_on_lines(w, call->line, first->line);
}

/* All threads are here; the current one came last. Returns whether they may go on. */
static bool act(cj_worker *w, cj_warpgroup *g, const cj_emu_warpgroup_call *call)
{
    switch (call->op) {
    case CJ_EMU_WGMMA:
        cj_wgmma_issue(w, g, call);
        break;
    case CJ_EMU_WGMMA_FENCE:
        cj_wgmma_fence(w, g);
        break;
    case CJ_EMU_WGMMA_COMMIT:
        cj_wgmma_commit(w, g);
        break;
    case CJ_EMU_WGMMA_WAIT:
        cj_wgmma_wait(w, g, call);
        break;
    default:
        return change_registers(w, g, call);
    }
    return true;
}

static void join(const cj_emu_warpgroup_call *call)
{
    cj_worker *w = cj_worker_current();
    cj_thread *t = w->current;
    unsigned i = t->local % CJ_EMU_WARPGROUP;
    cj_enter(w, name_of(call), call->line);
    cj_warpgroup *g = own_group(w);
    if (g->arrived == 0)
        g->first = i;
    else
        check_same(w, g, call);
    g->calls[i] = call;
    g->frames[i] = (uintptr_t)__builtin_frame_address(0);
    if (++g->arrived < CJ_EMU_WARPGROUP) {
        cj_wait(w, CJ_AT_WARPGROUP);
        return;
    }
    g->arrived = 0;
    if (act(w, g, call)) {
        wake(w, g);
        cj_yield(w); /* so that threads go on in their order */
    } else {
        for (unsigned other = 0; other < CJ_EMU_WARPGROUP; other++)
            w->states[g->threads[other].id] = CJ_AT_REGISTERS;
        cj_wait(w, CJ_AT_REGISTERS);
    }
}

const cj_thread *cj_warpgroup_missing(const cj_worker *w, const cj_thread *t, unsigned *n)
{
    const cj_warpgroup *g = w->warpgroups->groups[t->rank][t->local / CJ_EMU_WARPGROUP];
    const cj_thread *first = NULL;
    *n = 0;
    for (unsigned i = CJ_EMU_WARPGROUP; i-- > 0;)
        if (w->states[g->threads[i].id] != CJ_AT_WARPGROUP) {
            first = &g->threads[i];
            ++*n;
        }
    return first;
}

void cj_warpgroup_registers(const cj_worker *w, const cj_thread *t, unsigned *needed, unsigned *pool)
{
    const cj_warpgroup *g = w->warpgroups->groups[t->rank][t->local / CJ_EMU_WARPGROUP];
    *needed = (g->wanted - g->registers) * CJ_EMU_WARPGROUP;
    *pool = w->warpgroups->pool[t->rank];
}

const cj_emu_matrix_services cj_emu_matrix = {.warpgroup = join, .descriptor = cj_wgmma_descriptor};
