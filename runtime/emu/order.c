/* order.c: happens-before among the threads of a cluster, as vector clocks; emu.h says how they are read. */
#include <string.h>
#include "emu.h"

enum { GROUP = 32 }; /* of clocks: they are valid, and joined, by groups */

static unsigned round_up(unsigned n)
{
    return (n + GROUP - 1) / GROUP * GROUP;
}

bool cj_order_reserve(cj_worker *w, const cj_run *run)
{
    w->n_ids = run->n_ranks * run->row;
    w->n_clocks = w->n_ids + round_up(run->n_ranks * CJ_EMU_MAX_THREADS / CJ_EMU_WARPGROUP) + run->n_ranks * CJ_EMU_MAX_BARRIERS;
    size_t vectors = w->n_ids + run->n_ranks * (2 * CJ_EMU_MAX_BARRIERS + CJ_EMU_MAX_NAMED) + 2;
    size_t bytes = vectors * 2 * w->n_clocks * sizeof(uint32_t);
    if (bytes <= w->clocks_bytes)
        return true;
    cj_pages_unmap(w->clocks, w->clocks_bytes);
    w->clocks = cj_pages_map(bytes);
    w->clocks_bytes = w->clocks ? bytes : 0;
    return w->clocks != NULL;
}

static void begin_epoch(cj_worker *w)
{
    w->epoch++;
    w->nothing = ++w->version;
}

void cj_order_begin(cj_worker *w)
{
    begin_epoch(w);
    w->first_epoch = w->epoch;
    w->latest_join.before = w->latest_sight.before = 0;
    w->clocks_used = 0;
    w->mixed = w->run->n_ranks > 1;
    memset(w->agents + w->n_ids, 0, (w->n_clocks - w->n_ids) * sizeof *w->agents);
}

cj_clocks cj_clocks_new(cj_worker *w)
{
    uint32_t *seen = w->clocks + w->clocks_used;
    w->clocks_used += 2 * (size_t)w->n_clocks;
    return (cj_clocks){.seen = seen, .shown = seen + w->n_clocks};
}

static bool knows(const cj_clocks *c, unsigned group)
{
    return c->known[group / 64] >> (group % 64) & 1;
}

/* Knowledge of another epoch is no knowledge. */
static void refresh(const cj_worker *w, cj_clocks *c)
{
    if (c->epoch == w->epoch)
        return;
    c->epoch = w->epoch;
    c->version = c->contains = w->nothing;
    memset(c->known, 0, sizeof c->known);
}

/* The clocks of who's group become valid. */
static void learn_group(cj_clocks *c, unsigned group)
{
    if (knows(c, group))
        return;
    c->known[group / 64] |= UINT64_C(1) << (group % 64);
    memset(c->seen + GROUP * group, 0, GROUP * sizeof *c->seen);
    memset(c->shown + GROUP * group, 0, GROUP * sizeof *c->shown);
}

typedef int32_t quad __attribute__((vector_size(16), may_alias, aligned(4))); /* clocks are far below 2^31 */

static void take_later(uint32_t *to, const uint32_t *from)
{
    quad *a = (quad *)(void *)to;
    const quad *b = (const quad *)(const void *)from;
    for (unsigned i = 0; i < GROUP * sizeof *to / sizeof *a; i++) {
        quad later = b[i] > a[i];
        a[i] = (b[i] & later) | (a[i] & ~later);
    }
}

static void join(cj_worker *w, cj_clocks *to, const cj_clocks *from)
{
    refresh(w, to);
    if (from->epoch != w->epoch || from->version == to->contains || from->version == to->version)
        return;
    to->contains = from->version;
    to->version = ++w->version;
    for (unsigned i = 0; i < sizeof from->known / sizeof *from->known; i++)
        for (uint64_t left = from->known[i]; left; left &= left - 1) {
            unsigned group = 64 * i + (unsigned)__builtin_ctzll(left);
            learn_group(to, group);
            take_later(to->seen + GROUP * group, from->seen + GROUP * group);
            take_later(to->shown + GROUP * group, from->shown + GROUP * group);
        }
}

void cj_clocks_copy(const cj_worker *w, cj_clocks *to, const cj_clocks *from)
{
    to->epoch = from->epoch;
    to->version = from->version;
    to->contains = from->contains;
    memcpy(to->known, from->known, sizeof to->known);
    for (unsigned i = 0; from->epoch == w->epoch && i < sizeof from->known / sizeof *from->known; i++)
        for (uint64_t left = from->known[i]; left; left &= left - 1) {
            unsigned at = GROUP * (64 * i + (unsigned)__builtin_ctzll(left));
            memcpy(to->seen + at, from->seen + at, GROUP * sizeof *to->seen);
            memcpy(to->shown + at, from->shown + at, GROUP * sizeof *to->shown);
        }
}

/* The thread's own entry, which its vector has no need of. */
static void add_own(cj_worker *w, const cj_thread *t, cj_clocks *to)
{
    refresh(w, to);
    learn_group(to, t->id / GROUP);
    to->version = ++w->version;
    to->seen[t->id] = t->clock;
    if (t->fence.epoch == w->epoch)
        to->shown[t->id] = t->fence.clock;
}

void cj_release(cj_worker *w, cj_thread *t, cj_clocks *to)
{
    join(w, to, &t->clocks);
    add_own(w, t, to);
    t->clock++;
}

void cj_release_until(cj_worker *w, const cj_thread *t, uint32_t clock, cj_clocks *to)
{
    refresh(w, to);
    learn_group(to, t->id / GROUP);
    if (clock > to->seen[t->id])
        to->seen[t->id] = clock;
    to->version = ++w->version;
}

bool cj_knows(const cj_worker *w, const cj_thread *t, unsigned who, uint32_t epoch, uint32_t clock)
{
    if (epoch != w->epoch || who == t->id) /* all threads were at a block's barrier since */
        return true;
    return t->clocks.epoch == w->epoch && knows(&t->clocks, who / GROUP) && t->clocks.seen[who] >= clock;
}

void cj_acquire(cj_worker *w, cj_thread *t, const cj_clocks *from)
{
    cj_clocks *mine = &t->clocks;
    refresh(w, mine);
    if (from->epoch != w->epoch || mine->version == from->version)
        return;
    bool repeated = w->latest_join.before == mine->version && w->latest_join.joined == from->version &&
                    w->latest_join.result->version == w->latest_join.after;
    if (from->contains == mine->version) {
        cj_clocks_copy(w, mine, from);
    } else if (repeated) {
        cj_clocks_copy(w, mine, w->latest_join.result);
    } else {
        w->latest_join.before = mine->version;
        join(w, mine, from);
        w->latest_join.joined = from->version;
        w->latest_join.result = mine;
        w->latest_join.after = mine->version;
    }
}

/* One vector serves for all of them, and is then copied. */
static void order_threads(cj_worker *w, cj_thread *threads, unsigned n, unsigned mask)
{
    cj_clocks *all = NULL;
    for (unsigned i = 0; i < n; i++) {
        cj_thread *t = &threads[i];
        if (!(mask >> i % GROUP & 1))
            continue;
        if (!all) {
            all = &t->clocks;
            refresh(w, all);
            all->contains = all->version;
        } else {
            join(w, all, &t->clocks);
        }
        add_own(w, t, all);
        t->clock++;
    }
    for (unsigned i = 0; i < n; i++)
        if ((mask >> i % GROUP & 1) && &threads[i].clocks != all)
            cj_clocks_copy(w, &threads[i].clocks, all);
}

void cj_order_lanes(cj_worker *w, cj_thread *lanes, unsigned mask)
{
    order_threads(w, lanes, CJ_EMU_WARP, mask);
}

void cj_order_block(cj_worker *w, unsigned rank)
{
    if (w->run->n_ranks == 1)
        begin_epoch(w);
    else
        order_threads(w, &w->threads[rank * w->run->row], w->run->n_threads, ~0u);
}

void cj_observe(cj_worker *w, cj_thread *t, unsigned agent, uint32_t clock)
{
    if (w->agents[agent].epoch != w->epoch) {
        w->agents[agent].older = w->agents[agent].clock;
        w->agents[agent].epoch = w->epoch;
    }
    if (clock > w->agents[agent].clock)
        w->agents[agent].clock = clock;
    refresh(w, &t->clocks);
    learn_group(&t->clocks, agent / GROUP);
    if (clock <= t->clocks.seen[agent])
        return;
    t->clocks.seen[agent] = clock;
    bool repeated = w->latest_sight.before == t->clocks.version && w->latest_sight.agent == agent && w->latest_sight.clock == clock;
    if (!repeated) {
        w->latest_sight.before = t->clocks.version;
        w->latest_sight.agent = agent;
        w->latest_sight.clock = clock;
        w->latest_sight.after = ++w->version;
    }
    t->clocks.version = w->latest_sight.after;
}

void cj_know(cj_worker *w, cj_clocks *c, unsigned agent, uint32_t clock)
{
    refresh(w, c);
    learn_group(c, agent / GROUP);
    c->seen[agent] = clock;
    c->version = ++w->version;
}

void cj_show(cj_worker *w)
{
    cj_thread *t = w->current;
    if (t->fence.epoch != w->epoch) {
        t->older_fence.epoch = t->fence.epoch;
        t->older_fence.clock = t->fence.clock;
        t->fence.epoch = w->epoch;
    }
    t->fence.clock = t->clock++;
}

bool cj_shown_for(const cj_worker *w, const cj_thread *t, const cj_touch *write)
{
    if (write->flags & CJ_TOUCH_ASYNC)
        return true;
    if (write->who >= w->n_ids) /* cp.async, known by an mbarrier: whoever waited for that has to show it */
        return t->fence.epoch && t->fence.clock >= t->waited;
    const cj_thread *writer = &w->threads[write->who];
    bool recent = writer->fence.epoch == w->epoch; /* a fence in this epoch counts if the thread is ordered behind it */
    uint32_t epoch = recent ? writer->older_fence.epoch : writer->fence.epoch;
    uint32_t clock = recent ? writer->older_fence.clock : writer->fence.clock;
    if (epoch > write->epoch || (epoch == write->epoch && clock >= write->clock))
        return true;
    if (!recent)
        return false;
    uint32_t known = cj_clock_of(w, &t->clocks, write->who) ? t->clocks.shown[write->who] : 0;
    uint32_t shown = writer == t ? writer->fence.clock : known;
    return write->epoch < w->epoch ? shown > 0 : shown >= write->clock;
}
