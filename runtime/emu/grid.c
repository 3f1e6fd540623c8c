/* grid.c: a launch that overlaps those before it: until a thread has called grid_wait, they may still be running.
 *
 * In truth they are complete, so that what such a launch reads too early would be right by luck. Therefore what the launches
 * before wrote is kept, from the last one on that overlapped none (and so began when all before it was complete), and no
 * thread may touch that ahead of its grid_wait. What they read is not kept: memory that they read and nobody wrote is the
 * caller's, and of that only the output is ever written.
 */
#include <stdlib.h>
#include "emu.h"

void cj_past_free(cj_past *past)
{
    while (past) {
        cj_past *before = past->before;
        cj_regions_free(past->regions, past->n_regions);
        free(past);
        past = before;
    }
}

cj_past *cj_past_add(cj_past *before, cj_region *regions, size_t n)
{
    cj_past *past = malloc(sizeof *past);
    if (!past) {
        cj_regions_free(regions, n);
        return before; /* less will be caught */
    }
    *past = (cj_past){before, regions, n};
    return past;
}

static bool wrote(const cj_past *past, uintptr_t address, size_t bytes)
{
    const cj_region *region = cj_region_find(past->regions, past->n_regions, address);
    const _Atomic(uint32_t) *writers = region ? atomic_load(&region->writers) : NULL;
    size_t offset = writers ? address - region->base : 0;
    if (!writers || offset >= region->bytes || bytes > region->bytes - offset)
        return false;
    for (size_t unit = offset / 2; unit < (offset + bytes + 1) / 2; unit++)
        if (atomic_load_explicit(&writers[unit], memory_order_relaxed))
            return true;
    return false;
}

bool cj_still_written(const cj_worker *w, uintptr_t address, size_t bytes)
{
    if (w->current->grid_waited)
        return false;
    for (const cj_past *past = w->run->past; past; past = past->before)
        if (wrote(past, address, bytes))
            return true;
    return false;
}

/* Only on an architecture that can overlap launches: the instruction is not in others. */
static cj_thread *enter(const char *primitive, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_enter(w, primitive, line);
    if (!w->run->can_overlap) {
        cj_worker_fault(w, "%s", "this architecture has it not");
        cj_worker_abandon(w);
    }
    w->primitive = NULL;
    return w->current;
}

void cj_grid_wait(unsigned line)
{
    cj_thread *t = enter("grid_wait", line);
    t->grid_waited = true;
    cj_worker_current()->blocks[t->rank].grid_waited = true;
}

void cj_grid_launch_dependents(unsigned line)
{
    (void)enter("grid_launch_dependents", line);
}

void cj_grid_block_ends(cj_worker *w)
{
    if (w->run->overlap && !w->blocks[w->current->rank].grid_waited)
        cj_worker_fault(w, "%s", "the block ends, and no thread of it has called grid_wait: the launch behind would then not wait "
                        "for those before this one");
}
