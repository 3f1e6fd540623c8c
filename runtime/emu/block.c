/* block.c: runs blocks. Threads take turns: each runs until it waits or returns; what they wait for is decided here. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "emu.h"

/* A fibre never leaves its OS thread, so this may be read before a switch and used behind it. */
static _Thread_local cj_worker *current_worker;

cj_worker *cj_worker_current(void)
{
    return current_worker;
}

/* ---- Workers ---- */

/* Page-aligned memory with a guard page on either side. */
static unsigned char *map_guarded(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    unsigned char *pages = mmap(NULL, bytes + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED)
        return NULL;
    if (mprotect(pages + page, bytes, PROT_READ | PROT_WRITE) != 0) {
        munmap(pages, bytes + 2 * page);
        return NULL;
    }
    return pages + page;
}

static void unmap_guarded(unsigned char *memory, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (memory)
        munmap(memory - page, bytes + 2 * page);
}

/* Whole pages, which divide by any page size that there is. */
enum { SHARED_MAPPED = (CJ_EMU_SHARED_BYTES + 65535) / 65536 * 65536 };
#define WORDS_BYTES (CJ_EMU_SHARED_BYTES / 4 * sizeof(cj_cell))
#define BYTES_BYTES (CJ_EMU_SHARED_BYTES * sizeof(cj_cell))
#define SEEN_BYTES ((size_t)CJ_EMU_MAX_THREADS * CJ_EMU_MAX_THREADS * sizeof(uint32_t))

cj_worker *cj_worker_open(void)
{
    cj_worker *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->threads = calloc(CJ_EMU_MAX_THREADS, sizeof *w->threads);
    w->states = calloc(CJ_EMU_MAX_THREADS, sizeof *w->states);
    w->order = calloc(CJ_EMU_MAX_THREADS, sizeof *w->order);
    w->stacks = calloc(CJ_EMU_MAX_THREADS, sizeof *w->stacks);
    w->shared = map_guarded(SHARED_MAPPED);
    w->words = cj_pages_map(WORDS_BYTES);
    w->bytes = cj_pages_map(BYTES_BYTES);
    w->seen = cj_pages_map(SEEN_BYTES);
    if (w->threads && w->states && w->order && w->stacks && w->shared && w->words && w->bytes && w->seen)
        return w;
    cj_worker_close(w);
    return NULL;
}

void cj_worker_close(cj_worker *w)
{
    if (!w)
        return;
    while (w->n_stacks > 0)
        cj_stack_unmap(w->stacks[--w->n_stacks]);
    free(w->threads);
    free(w->states);
    free(w->order);
    free(w->stacks);
    unmap_guarded(w->shared, SHARED_MAPPED);
    cj_pages_unmap(w->words, WORDS_BYTES);
    cj_pages_unmap(w->bytes, BYTES_BYTES);
    cj_pages_unmap(w->seen, SEEN_BYTES);
    free(w);
}

/* ---- Mistakes ---- */

const char *cj_thread_name(const cj_worker *w, unsigned id, char text[48])
{
    const cj_emu_index *dim = &w->run->block;
    snprintf(text, 48, "thread (%u,%u,%u)", id % dim->x, id / dim->x % dim->y, id / dim->x / dim->y);
    return text;
}

void cj_worker_fault(cj_worker *w, const char *format, ...)
{
    cj_fault *fault = &w->fault;
    if (fault->found)
        return;
    memset(fault, 0, sizeof *fault);
    fault->found = true;
    const cj_emu_index *grid = &w->run->grid;
    char name[48] = "";
    int length = snprintf(fault->text, sizeof fault->text, "block (%" PRIu64 ",%" PRIu64 ",%" PRIu64 ")%s%s: ",
                          w->block % grid->x, w->block / grid->x % grid->y, w->block / grid->x / grid->y,
                          w->current ? ", " : "", w->current ? cj_thread_name(w, w->current->id, name) : "");
    va_list args;
    va_start(args, format);
    vsnprintf(fault->text + length, sizeof fault->text - (size_t)length, format, args);
    va_end(args);
}

void cj_worker_abandon(cj_worker *w)
{
    for (;;) /* the scheduler never comes back */
        cj_fibre_switch(&w->current->fibre, &w->scheduler);
}

static _Noreturn void fail_on_lines(cj_worker *w, unsigned line, unsigned other_line)
{
    w->fault.places[0].line = line;
    w->fault.places[1].line = other_line;
    cj_worker_abandon(w);
}

/* ---- Waiting ---- */

static void wait_as(cj_worker *w, cj_thread_state state)
{
    cj_thread *t = w->current;
    w->states[t->id] = (uint8_t)state;
    cj_fibre_switch(&t->fibre, &w->scheduler);
}

static const char *const barrier_names[CJ_EMU_BARRIER_OPS] = {
    [CJ_EMU_SYNCTHREADS] = "__syncthreads",
    [CJ_EMU_SYNCTHREADS_COUNT] = "__syncthreads_count",
    [CJ_EMU_SYNCTHREADS_AND] = "__syncthreads_and",
    [CJ_EMU_SYNCTHREADS_OR] = "__syncthreads_or",
};

static void release_barrier(cj_worker *w)
{
    unsigned n = w->run->n_threads, count = w->barrier_count;
    unsigned result = w->barrier_op == CJ_EMU_SYNCTHREADS_AND ? count == n
                      : w->barrier_op == CJ_EMU_SYNCTHREADS_OR ? count > 0 : count;
    for (unsigned i = 0; i < n; i++) {
        w->threads[i].result = result;
        w->threads[i].known = 0;
        w->states[i] = CJ_READY;
    }
    w->arrived = 0;
    w->epoch++;
}

static unsigned wait_at_barrier(cj_emu_barrier_op op, unsigned value, unsigned line)
{
    cj_worker *w = current_worker;
    cj_thread *t = w->current;
    if (w->arrived == 0) {
        w->barrier_op = op;
        w->barrier_line = line;
        w->barrier_count = 0;
        w->barrier_first = (uint16_t)t->id;
    } else if (op != w->barrier_op || line != w->barrier_line) {
        char name[48];
        cj_worker_fault(w, "divergent barrier: reaches %s\1 while %s waits at %s\2", barrier_names[op],
                        cj_thread_name(w, w->barrier_first, name), barrier_names[w->barrier_op]);
        fail_on_lines(w, line, w->barrier_line);
    }
    t->line = line;
    w->barrier_count += value;
    w->states[t->id] = CJ_AT_BARRIER;
    if (++w->arrived == w->run->n_threads)
        release_barrier(w);
    cj_fibre_switch(&t->fibre, &w->scheduler);
    return (unsigned)t->result;
}

/* ---- Warp collectives ---- */

static const char *const warp_names[CJ_EMU_WARP_OPS] = {
    [CJ_EMU_SYNCWARP] = "__syncwarp",           [CJ_EMU_SHFL] = "__shfl_sync",
    [CJ_EMU_SHFL_UP] = "__shfl_up_sync",        [CJ_EMU_SHFL_DOWN] = "__shfl_down_sync",
    [CJ_EMU_SHFL_XOR] = "__shfl_xor_sync",      [CJ_EMU_BALLOT] = "__ballot_sync",
    [CJ_EMU_ANY] = "__any_sync",                [CJ_EMU_ALL] = "__all_sync",
    [CJ_EMU_REDUCE_ADD] = "__reduce_add_sync",  [CJ_EMU_REDUCE_MIN] = "__reduce_min_sync",
    [CJ_EMU_REDUCE_MAX] = "__reduce_max_sync",  [CJ_EMU_REDUCE_UMIN] = "__reduce_min_sync",
    [CJ_EMU_REDUCE_UMAX] = "__reduce_max_sync", [CJ_EMU_REDUCE_AND] = "__reduce_and_sync",
    [CJ_EMU_REDUCE_OR] = "__reduce_or_sync",    [CJ_EMU_REDUCE_XOR] = "__reduce_xor_sync",
};

/* The lane that a shuffle reads: its own, where the source is beyond its segment. */
static unsigned source_lane(const cj_emu_warp_call *call, unsigned lane)
{
    unsigned first = lane & ~(call->width - 1), last = first + call->width - 1;
    switch (call->op) {
    case CJ_EMU_SHFL:
        return first + (call->lane & (call->width - 1));
    case CJ_EMU_SHFL_UP:
        return call->lane <= lane - first ? lane - call->lane : lane;
    case CJ_EMU_SHFL_DOWN:
        return call->lane <= last - lane ? lane + call->lane : lane;
    default: /* xor: an earlier segment may be read, a later one not */
        return (lane ^ call->lane) <= last ? lane ^ call->lane : lane;
    }
}

static uint32_t reduce(cj_emu_warp_op op, uint32_t a, uint32_t b)
{
    switch (op) {
    case CJ_EMU_REDUCE_ADD:
        return a + b;
    case CJ_EMU_REDUCE_MIN:
        return (int32_t)a < (int32_t)b ? a : b;
    case CJ_EMU_REDUCE_MAX:
        return (int32_t)a > (int32_t)b ? a : b;
    case CJ_EMU_REDUCE_UMIN:
        return a < b ? a : b;
    case CJ_EMU_REDUCE_UMAX:
        return a > b ? a : b;
    case CJ_EMU_REDUCE_AND:
        return a & b;
    case CJ_EMU_REDUCE_OR:
        return a | b;
    default:
        return a ^ b;
    }
}

/* What every lane gets from a vote or a reduction. */
static unsigned long long common_result(const cj_thread *lanes, unsigned mask, cj_emu_warp_op op)
{
    unsigned ballot = 0;
    uint32_t reduced = 0;
    for (unsigned i = 0, first = 1; i < CJ_EMU_WARP; i++) {
        if (!(mask >> i & 1))
            continue;
        uint32_t value = (uint32_t)lanes[i].call.value;
        ballot |= value ? 1u << i : 0;
        reduced = first ? value : reduce(op, reduced, value);
        first = 0;
    }
    return op == CJ_EMU_BALLOT ? ballot : op == CJ_EMU_ANY ? ballot != 0 : op == CJ_EMU_ALL ? ballot == mask : reduced;
}

/* Everything that a lane of the mask did is now ordered before what any of them does next. */
static void join_clocks(const cj_worker *w, cj_thread *lanes, unsigned mask)
{
    uint32_t known = 1u << lanes->id / CJ_EMU_WARP;
    for (unsigned i = 0; i < CJ_EMU_WARP; i++)
        known |= mask >> i & 1 ? lanes[i].known : 0;
    for (uint32_t left = known; left; left &= left - 1) {
        unsigned warp = (unsigned)__builtin_ctz(left), base = warp * CJ_EMU_WARP;
        uint32_t joined[CJ_EMU_WARP] = {0};
        for (unsigned i = 0; i < CJ_EMU_WARP; i++) {
            const uint32_t *seen = lanes[i].seen + base;
            if (!(mask >> i & 1))
                continue;
            for (unsigned j = 0; (lanes[i].known >> warp & 1) && j < CJ_EMU_WARP; j++)
                joined[j] = seen[j] > joined[j] ? seen[j] : joined[j];
            if (warp == lanes[i].id / CJ_EMU_WARP)
                joined[i] = lanes[i].clock;
        }
        for (unsigned i = 0; i < CJ_EMU_WARP; i++)
            if (mask >> i & 1)
                memcpy(lanes[i].seen + base, joined, sizeof joined);
    }
    for (unsigned i = 0; i < CJ_EMU_WARP; i++)
        if (mask >> i & 1) {
            lanes[i].known = known;
            lanes[i].clock++;
        }
}

static void complete_collective(cj_worker *w, cj_thread *lanes, const cj_emu_warp_call *call)
{
    bool shuffle = call->op >= CJ_EMU_SHFL && call->op <= CJ_EMU_SHFL_XOR;
    unsigned long long common = shuffle ? 0 : common_result(lanes, call->mask, call->op);
    for (unsigned i = 0; i < CJ_EMU_WARP; i++) {
        if (!(call->mask >> i & 1))
            continue;
        unsigned source = shuffle ? source_lane(&lanes[i].call, i) : i;
        bool there = call->mask >> source & 1; /* else CUDA says undefined: a NaN here */
        lanes[i].result = !shuffle ? common : there ? lanes[source].call.value : ~0ull;
        w->states[lanes[i].id] = CJ_READY;
    }
    if (call->op == CJ_EMU_SYNCWARP)
        join_clocks(w, lanes, call->mask);
}

static bool takes_part(const cj_worker *w, const cj_thread *t, const cj_emu_warp_call *call)
{
    return w->states[t->id] == CJ_AT_COLLECTIVE && t->call.op == call->op && t->call.mask == call->mask;
}

static void check_call(cj_worker *w, const cj_thread *t, const cj_emu_warp_call *call)
{
    unsigned lane = t->id % CJ_EMU_WARP, in_block = w->run->n_threads - (t->id - lane);
    unsigned lanes = in_block >= CJ_EMU_WARP ? ~0u : (1u << in_block) - 1;
    if (!(call->mask >> lane & 1))
        cj_worker_fault(w, "%s\1: mask 0x%08x lacks the caller's own lane %u", warp_names[call->op], call->mask, lane);
    else if (call->mask & ~lanes)
        cj_worker_fault(w, "%s\1: missing participant: mask 0x%08x names lane %d, and this warp has only %u threads",
                        warp_names[call->op], call->mask, __builtin_ctz(call->mask & ~lanes), in_block);
    else if (call->width == 0 || call->width > CJ_EMU_WARP || (call->width & (call->width - 1)))
        cj_worker_fault(w, "%s\1: width %u is no power of two from 1 to 32", warp_names[call->op], call->width);
    if (w->fault.found)
        fail_on_lines(w, call->line, 0);
}

static unsigned long long join_collective(const cj_emu_warp_call *call)
{
    cj_worker *w = current_worker;
    cj_thread *t = w->current, *lanes = t - t->id % CJ_EMU_WARP;
    check_call(w, t, call);
    t->call = *call;
    t->line = call->line;
    w->states[t->id] = CJ_AT_COLLECTIVE;
    for (unsigned i = 0; i < CJ_EMU_WARP; i++)
        if ((call->mask >> i & 1) && !takes_part(w, &lanes[i], call)) {
            wait_as(w, CJ_AT_COLLECTIVE);
            return t->result;
        }
    complete_collective(w, lanes, &t->call);
    return t->result;
}

/* ---- Deadlock ---- */

/* "has returned", "waits at __syncthreads on line 12", ... */
static void name_state(const cj_worker *w, const cj_thread *t, char text[96])
{
    switch (w->states[t->id]) {
    case CJ_RETURNED:
        snprintf(text, 96, "has returned");
        break;
    case CJ_AT_BARRIER:
        snprintf(text, 96, "waits at %s\2", barrier_names[w->barrier_op]);
        break;
    default:
        snprintf(text, 96, "waits in %s\2 with mask 0x%08x", warp_names[t->call.op], t->call.mask);
    }
}

static void explain_collective(cj_worker *w, const cj_thread *t)
{
    const cj_thread *lanes = t - t->id % CJ_EMU_WARP, *missing = lanes;
    while (!(t->call.mask >> (missing - lanes) & 1) || takes_part(w, missing, &t->call))
        missing++;
    char name[48], other[48], state[96];
    name_state(w, missing, state);
    cj_worker_fault(w, "deadlock: missing participant: %s waits in %s\1 with mask 0x%08x for %s, which %s",
                    cj_thread_name(w, t->id, name), warp_names[t->call.op], t->call.mask,
                    cj_thread_name(w, missing->id, other), state);
    w->fault.places[0].line = t->line;
    w->fault.places[1].line = missing->line;
}

/* All live threads wait: says for whom. */
static void explain_deadlock(cj_worker *w)
{
    unsigned returned = 0;
    for (unsigned i = 0; i < w->run->n_threads; i++) {
        if (w->states[i] == CJ_AT_COLLECTIVE) {
            explain_collective(w, &w->threads[i]);
            return;
        }
        if (w->states[i] == CJ_RETURNED)
            returned = i;
    }
    char name[48], other[48];
    cj_worker_fault(w, "deadlock: missing participant: %u of %u threads, such as %s, wait at %s\1, and %s has returned",
                    w->arrived, w->run->n_threads, cj_thread_name(w, w->barrier_first, name), barrier_names[w->barrier_op],
                    cj_thread_name(w, returned, other));
    w->fault.places[0].line = w->barrier_line;
}

/* ---- The scheduler ---- */

static void thread_main(void)
{
    cj_worker *w = current_worker;
    w->run->entry->call(w->run->args);
    w->states[w->current->id] = CJ_RETURNED;
    w->returned++;
    cj_worker_abandon(w);
}

/* Lets a thread run until it waits or returns. A thread that never waits borrows a stack that the next one can have. */
static bool run_thread(cj_worker *w, cj_thread *t)
{
    if (w->states[t->id] == CJ_NEW) {
        t->stack = w->n_stacks > 0 ? w->stacks[--w->n_stacks] : cj_stack_map();
        if (!t->stack)
            return false;
        cj_fibre_prepare(&t->fibre, t->stack, t->id, thread_main);
    }
    w->current = t;
    cj_fibre_switch(&w->scheduler, &t->fibre);
    w->current = NULL;
    if (w->states[t->id] == CJ_RETURNED) {
        w->stacks[w->n_stacks++] = t->stack;
        t->stack = NULL;
    }
    return true;
}

static uint64_t next_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Seeded: another order each time that the threads get their turn. */
static void shuffle_order(cj_worker *w)
{
    for (unsigned i = w->run->n_threads - 1; i > 0; i--) {
        unsigned j = (unsigned)(next_random(&w->random) % (i + 1));
        uint16_t other = w->order[j];
        w->order[j] = w->order[i];
        w->order[i] = other;
    }
}

static convjit_status run_threads(cj_worker *w)
{
    const cj_run *run = w->run;
    while (w->returned < run->n_threads && !w->fault.found && !atomic_load_explicit(&run->stop, memory_order_relaxed)) {
        bool progress = false;
        if (run->order.kind == CJ_EMU_SEEDED)
            shuffle_order(w);
        for (unsigned i = 0; i < run->n_threads && !w->fault.found; i++) {
            unsigned id = w->order[i];
            if (w->states[id] != CJ_NEW && w->states[id] != CJ_READY)
                continue;
            progress = true;
            if (!run_thread(w, &w->threads[id]))
                return cj_fail(CONVJIT_NO_MEMORY, "the host has no memory for the stack of an emulated thread");
        }
        if (!progress)
            explain_deadlock(w);
    }
    return CONVJIT_OK;
}

static void begin_block(cj_worker *w, uint64_t block)
{
    const cj_run *run = w->run;
    const cj_emu_index *dim = &run->block, *grid = &run->grid;
    cj_emu_index at = {(unsigned)(block % grid->x), (unsigned)(block / grid->x % grid->y),
                       (unsigned)(block / grid->x / grid->y)};
    unsigned row = (run->n_threads + CJ_EMU_WARP - 1) / CJ_EMU_WARP * CJ_EMU_WARP;
    for (unsigned i = 0; i < run->n_threads; i++) {
        cj_thread *t = &w->threads[i];
        t->place = (cj_emu_place){{i % dim->x, i / dim->x % dim->y, i / dim->x / dim->y}, at, *dim, *grid};
        t->id = i;
        t->clock = 1;
        t->known = 0;
        t->seen = w->seen + (size_t)i * row;
        w->states[i] = CJ_NEW;
        w->order[i] = (uint16_t)(run->order.kind == CJ_EMU_REVERSE ? run->n_threads - 1 - i : i);
    }
    w->block = block;
    w->random = run->order.seed ^ block * 0xD1342543DE82EF95u;
    w->returned = w->arrived = 0;
    w->block_epoch = ++w->epoch;
    memset(w->shared, CJ_EMU_POISON, run->smem);
}

/* Fibres that a fault left behind are forgotten; their stacks are as good as new. */
static void end_block(cj_worker *w)
{
    for (unsigned i = 0; i < w->run->n_threads; i++)
        if (w->threads[i].stack) {
            w->stacks[w->n_stacks++] = w->threads[i].stack;
            w->threads[i].stack = NULL;
        }
}

/* The i-th block in the launch's order. */
static uint64_t block_at(const cj_run *run, uint64_t i)
{
    if (run->order.kind == CJ_EMU_FORWARD)
        return i;
    if (run->order.kind == CJ_EMU_REVERSE)
        return run->n_blocks - 1 - i;
    uint64_t random = run->order.seed, step = next_random(&random) % run->n_blocks, a = step, b = run->n_blocks;
    while (b != 1) { /* a step with no common divisor visits every block once */
        a = ++step;
        b = run->n_blocks;
        while (a % b != 0) {
            uint64_t rest = a % b;
            a = b;
            b = rest;
        }
    }
    unsigned __int128 at = (unsigned __int128)i * step + next_random(&random);
    return (uint64_t)(at % run->n_blocks);
}

static void report(cj_run *run, const cj_fault *fault)
{
    pthread_mutex_lock(&run->lock);
    if (!run->fault.found)
        run->fault = *fault;
    pthread_mutex_unlock(&run->lock);
    atomic_store(&run->stop, true);
}

convjit_status cj_worker_run(cj_worker *w, cj_run *run)
{
    cj_worker *outer = current_worker;
    current_worker = w;
    w->run = run;
    w->recent = NULL;
    w->fault.found = false;
    if (w->epoch > UINT32_MAX / 2) { /* epochs must not come round within a launch */
        memset(w->words, 0, WORDS_BYTES);
        memset(w->bytes, 0, BYTES_BYTES);
        w->epoch = 0;
    }
    convjit_status status = CONVJIT_OK;
    while (status == CONVJIT_OK && !atomic_load(&run->stop)) {
        uint64_t i = atomic_fetch_add(&run->next_block, 1);
        if (i >= run->n_blocks)
            break;
        begin_block(w, block_at(run, i));
        status = run_threads(w);
        end_block(w);
        if (w->fault.found || status)
            report(run, &w->fault);
    }
    current_worker = outer;
    return status;
}

/* ---- What kernels call ---- */

static const cj_emu_place *get_place(void)
{
    return &current_worker->current->place;
}

static unsigned char *get_shared(void)
{
    return current_worker->shared;
}

static void fence(void)
{
    atomic_store_explicit(&current_worker->run->fenced, true, memory_order_relaxed);
}

static void trap(const char *what, unsigned line)
{
    cj_worker *w = current_worker;
    cj_worker_fault(w, "%s\1", what);
    fail_on_lines(w, line, 0);
}

const cj_emu_runtime cj_emu_services = {
    .access = cj_access,
    .misaligned = cj_misaligned,
    .place = get_place,
    .shared = get_shared,
    .barrier = wait_at_barrier,
    .warp = join_collective,
    .fence = fence,
    .trap = trap,
};
