/* block.c: runs blocks, by clusters. Threads take turns: each runs until it waits or returns; what they wait for is decided here. */
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

/* Whole pages, whatever size of page there is. */
enum {
    SHARED_MAPPED = CJ_EMU_MAX_BLOCKS * CJ_EMU_SHARED_STRIDE,
    CLUSTER_THREADS = CJ_EMU_MAX_BLOCKS * CJ_EMU_MAX_THREADS,
    MAX_AGENTS = CJ_EMU_MAX_BLOCKS * (CJ_EMU_MAX_BARRIERS + CJ_EMU_MAX_THREADS / CJ_EMU_WARPGROUP) + CJ_EMU_WARP
};
#define WORDS_BYTES (SHARED_MAPPED / 4 * sizeof(cj_cell))
#define BYTES_BYTES (SHARED_MAPPED * sizeof(cj_cell))
#define PENDING_BYTES (SHARED_MAPPED / 4 * sizeof(uint16_t))

cj_worker *cj_worker_open(void)
{
    cj_worker *w = calloc(1, sizeof *w);
    if (!w)
        return NULL;
    w->threads = calloc(CLUSTER_THREADS, sizeof *w->threads);
    w->states = calloc(CLUSTER_THREADS, sizeof *w->states);
    w->order = calloc(CLUSTER_THREADS, sizeof *w->order);
    w->stacks = calloc(CLUSTER_THREADS, sizeof *w->stacks);
    w->blocks = calloc(CJ_EMU_MAX_BLOCKS, sizeof *w->blocks);
    w->agents = calloc(CLUSTER_THREADS + MAX_AGENTS, sizeof *w->agents);
    w->shared = map_guarded(SHARED_MAPPED);
    w->words = cj_pages_map(WORDS_BYTES);
    w->bytes = cj_pages_map(BYTES_BYTES);
    w->pending = cj_pages_map(PENDING_BYTES);
    w->reads = cj_pages_map(CJ_EMU_MAX_READS * sizeof *w->reads);
    if (w->threads && w->states && w->order && w->stacks && w->blocks && w->agents && w->shared && w->words && w->bytes &&
        w->pending && w->reads)
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
    free(w->blocks);
    free(w->agents);
    cj_async_free(w);
    cj_warpgroups_free(w);
    unmap_guarded(w->shared, SHARED_MAPPED);
    cj_pages_unmap(w->words, WORDS_BYTES);
    cj_pages_unmap(w->bytes, BYTES_BYTES);
    cj_pages_unmap(w->pending, PENDING_BYTES);
    cj_pages_unmap(w->reads, CJ_EMU_MAX_READS * sizeof *w->reads);
    cj_pages_unmap(w->clocks, w->clocks_bytes);
    free(w);
}

/* ---- Mistakes ---- */

/* Where a block of the grid is. */
static cj_emu_index block_index(const cj_run *run, uint64_t block)
{
    const cj_emu_index *grid = &run->grid;
    return (cj_emu_index){(unsigned)(block % grid->x), (unsigned)(block / grid->x % grid->y),
                          (unsigned)(block / grid->x / grid->y)};
}

/* The async proxy's part in what a warpgroup or an mbarrier brings about. */
static void name_agent(const cj_worker *w, unsigned who, char text[96])
{
    for (unsigned r = 0; r < w->run->n_ranks; r++) {
        for (unsigned i = 0; i < w->blocks[r].n_barriers; i++)
            if (w->blocks[r].barriers[i].agent == who)
                snprintf(text, 96, "an asynchronous copy for the mbarrier at offset %u", w->blocks[r].barriers[i].offset);
        for (unsigned i = 0; i < CJ_EMU_MAX_THREADS / CJ_EMU_WARPGROUP; i++)
            if (w->blocks[r].warpgroups[i].agent == who)
                snprintf(text, 96, "a wgmma of warpgroup %u", i);
    }
}

const char *cj_thread_name(const cj_worker *w, unsigned who, char text[96])
{
    const cj_emu_index *dim = &w->run->block;
    if (who >= w->n_ids) {
        name_agent(w, who, text);
        return text;
    }
    unsigned id = who % w->run->row, rank = who / w->run->row;
    int length = snprintf(text, 96, "thread (%u,%u,%u)", id % dim->x, id / dim->x % dim->y, id / dim->x / dim->y);
    if (w->current && w->current->rank != rank) {
        cj_emu_index at = block_index(w->run, w->blocks[rank].number);
        snprintf(text + length, 96 - (size_t)length, " of block (%u,%u,%u)", at.x, at.y, at.z);
    }
    return text;
}

void cj_worker_fault(cj_worker *w, const char *format, ...)
{
    cj_fault *fault = &w->fault;
    if (fault->found)
        return;
    memset(fault, 0, sizeof *fault);
    fault->found = true;
    cj_emu_index at = block_index(w->run, w->blocks[w->current ? w->current->rank : 0].number);
    char name[96] = "";
    int length = snprintf(fault->text, sizeof fault->text, "block (%u,%u,%u)%s%s: %s%s", at.x, at.y, at.z,
                          w->current ? ", " : "", w->current ? cj_thread_name(w, w->current->id, name) : "",
                          w->primitive ? w->primitive : "", !w->primitive ? "" : strchr(format, '\1') ? ": " : "\1: ");
    fault->places[0].line = w->current ? w->current->line : 0;
    va_list args;
    va_start(args, format);
    vsnprintf(fault->text + length, sizeof fault->text - (size_t)length, format, args);
    va_end(args);
}

void cj_trace(const cj_worker *w, const char *format, ...)
{
    char text[512], name[96];
    if (!w->run->trace)
        return;
    cj_emu_index at = block_index(w->run, w->blocks[w->current ? w->current->rank : 0].number);
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    cj_log_line(w->run->trace, 0, "convjit,v1,trace,block (%u,%u,%u)%s%s: %s", at.x, at.y, at.z, w->current ? ", " : "",
                w->current ? cj_thread_name(w, w->current->id, name) : "", text);
}

void cj_worker_abandon(cj_worker *w)
{
    for (;;) /* the scheduler never comes back */
        cj_fibre_switch(&w->current->fibre, &w->scheduler);
}

void cj_fail_on_lines(cj_worker *w, unsigned line, unsigned other_line)
{
    w->fault.places[0].line = line;
    w->fault.places[1].line = other_line;
    cj_worker_abandon(w);
}

/* ---- Waiting ---- */

static void trace_wait(const cj_worker *w, cj_thread_state state)
{
    const cj_thread *t = w->current;
    char of[320], phase[256];
    if (!w->run->trace || state == CJ_AT_TRY)
        return;
    of[0] = 0;
    if (state == CJ_AT_MBARRIER) {
        cj_mbarrier_state(t->barrier, phase);
        snprintf(of, sizeof of, " for parity %u, in %s", t->parity, phase);
    } else if (state == CJ_AT_NAMED) {
        snprintf(of, sizeof of, " at barrier %u, where %u of %u threads are",
                 (unsigned)(t->named - w->blocks[t->rank].named), t->named->arrived, t->named->threads);
    }
    cj_trace(w, "waits in %s on line %u%s", t->what, t->line, of);
}

/* Lets the next thread go on, if it is one that waited, and else the scheduler. From thread to thread takes one switch instead of
 * two, and returns to where the processor expects it, since most threads left by the same calls. */
static void give_turn(cj_worker *w)
{
    cj_thread *t = w->current;
    w->primitive = NULL;
    while (w->turn < w->n_ids && w->states[w->order[w->turn]] != CJ_READY && w->states[w->order[w->turn]] != CJ_NEW)
        w->turn++;
    if (w->fault.found || w->turn == w->n_ids || w->states[w->order[w->turn]] == CJ_NEW) {
        cj_fibre_switch(&t->fibre, &w->scheduler);
    } else {
        w->current = &w->threads[w->order[w->turn++]];
        cj_fibre_switch(&t->fibre, &w->current->fibre);
    }
}

void cj_wait(cj_worker *w, cj_thread_state state)
{
    cj_thread *t = w->current;
    w->states[t->id] = (uint8_t)state;
    w->events += state != CJ_AT_TRY;
    trace_wait(w, state);
    give_turn(w);
    if (state != CJ_AT_TRY)
        cj_trace(w, "goes on behind %s on line %u", t->what, t->line);
}

void cj_yield(cj_worker *w)
{
    w->events++;
    give_turn(w);
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
    [CJ_EMU_ELECT] = "elect_one",
    [CJ_EMU_LDMATRIX_X1] = "ldmatrix_x1",       [CJ_EMU_LDMATRIX_X1_TRANS] = "ldmatrix_x1_trans",
    [CJ_EMU_LDMATRIX_X2] = "ldmatrix_x2",       [CJ_EMU_LDMATRIX_X2_TRANS] = "ldmatrix_x2_trans",
    [CJ_EMU_LDMATRIX_X4] = "ldmatrix_x4",       [CJ_EMU_LDMATRIX_X4_TRANS] = "ldmatrix_x4_trans",
    [CJ_EMU_STMATRIX_X1] = "stmatrix_x1",       [CJ_EMU_STMATRIX_X1_TRANS] = "stmatrix_x1_trans",
    [CJ_EMU_STMATRIX_X2] = "stmatrix_x2",       [CJ_EMU_STMATRIX_X2_TRANS] = "stmatrix_x2_trans",
    [CJ_EMU_STMATRIX_X4] = "stmatrix_x4",       [CJ_EMU_STMATRIX_X4_TRANS] = "stmatrix_x4_trans",
    [CJ_EMU_MMA_M16N8K8_TF32] = "mma_m16n8k8_tf32",   [CJ_EMU_MMA_M16N8K16_F16] = "mma_m16n8k16_f16",
    [CJ_EMU_MMA_M16N8K16_BF16] = "mma_m16n8k16_bf16",
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

static void complete_collective(cj_worker *w, cj_thread *lanes, const cj_emu_warp_call *call)
{
    bool shuffle = call->op >= CJ_EMU_SHFL && call->op <= CJ_EMU_SHFL_XOR, matrix = call->op >= CJ_EMU_LDMATRIX_X1;
    unsigned long long common = shuffle || matrix ? 0 : common_result(lanes, call->mask, call->op);
    if (matrix)
        cj_matrix_collective(w, lanes, warp_names[call->op]);
    for (unsigned i = 0; i < CJ_EMU_WARP; i++) {
        if (!(call->mask >> i & 1))
            continue;
        unsigned source = shuffle ? source_lane(&lanes[i].call, i) : i;
        bool there = call->mask >> source & 1; /* else CUDA says undefined: a NaN here */
        lanes[i].result = !shuffle ? common : there ? lanes[source].call.value : ~0ull;
        w->states[lanes[i].id] = CJ_READY;
    }
    if (call->op == CJ_EMU_SYNCWARP)
        cj_order_lanes(w, lanes, call->mask);
}

static void check_call(cj_worker *w, const cj_thread *t, const cj_emu_warp_call *call)
{
    unsigned lane = t->id % CJ_EMU_WARP, in_block = w->run->n_threads - (t->local - lane);
    unsigned lanes = in_block >= CJ_EMU_WARP ? ~0u : (1u << in_block) - 1;
    if (!(call->mask >> lane & 1))
        cj_worker_fault(w, "%s\1: mask 0x%08x lacks the caller's own lane %u", warp_names[call->op], call->mask, lane);
    else if (call->mask & ~lanes)
        cj_worker_fault(w, "%s\1: missing participant: mask 0x%08x names lane %d, and this warp has only %u threads",
                        warp_names[call->op], call->mask, __builtin_ctz(call->mask & ~lanes), in_block);
    else if (call->width == 0 || call->width > CJ_EMU_WARP || (call->width & (call->width - 1)))
        cj_worker_fault(w, "%s\1: width %u is no power of two from 1 to 32", warp_names[call->op], call->width);
    if (w->fault.found)
        cj_fail_on_lines(w, call->line, 0);
}

static unsigned long long join_collective(const cj_emu_warp_call *call)
{
    cj_worker *w = current_worker;
    cj_thread *t = w->current, *lanes = t - t->id % CJ_EMU_WARP;
    check_call(w, t, call);
    t->call = *call;
    t->line = call->line;
    t->what = warp_names[call->op];
    w->states[t->id] = CJ_AT_COLLECTIVE;
    for (unsigned i = 0; i < CJ_EMU_WARP; i++)
        if ((call->mask >> i & 1) && !cj_takes_part(w, &lanes[i], call)) {
            cj_wait(w, CJ_AT_COLLECTIVE);
            return t->result;
        }
    complete_collective(w, lanes, &t->call);
    return t->result;
}

/* ---- The scheduler ---- */

static void thread_main(void)
{
    cj_worker *w = current_worker;
    w->run->entry->call(w->run->args);
    cj_async_thread_ends(w);
    w->states[w->current->id] = CJ_RETURNED;
    cj_cluster_leave(w);
    if (++w->blocks[w->current->rank].returned == w->run->n_threads)
        cj_grid_block_ends(w);
    w->returned++;
    w->events++;
    cj_worker_abandon(w);
}

/* Lets a thread run, and those behind it that waited, until one of them returns or it is the turn of one that has not begun. A
 * thread that never waits borrows a stack that the next one can have. */
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
    t = w->current; /* the last of them */
    w->current = NULL;
    w->primitive = NULL;
    if (w->states[t->id] == CJ_RETURNED) {
        w->stacks[w->n_stacks++] = t->stack;
        t->stack = NULL;
    }
    return true;
}

uint64_t cj_random(uint64_t *state) /* splitmix64 */
{
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Seeded: another order each time that the threads get their turn. */
static void shuffle_order(cj_worker *w)
{
    for (unsigned i = w->n_ids - 1; i > 0; i--) {
        unsigned j = (unsigned)(cj_random(&w->random) % (i + 1));
        uint16_t other = w->order[j];
        w->order[j] = w->order[i];
        w->order[i] = other;
    }
}

/* A thread that tries to wait is told that the phase is not complete; but not again before something has happened. */
static bool answer_tries(cj_worker *w)
{
    bool answered = false;
    for (unsigned i = 0; i < w->n_ids; i++)
        if (w->states[i] == CJ_AT_TRY && w->threads[i].tried != w->events) {
            w->threads[i].tried = w->events;
            w->threads[i].result = false;
            w->states[i] = CJ_READY;
            answered = true;
        }
    return answered;
}

static convjit_status run_threads(cj_worker *w)
{
    const cj_run *run = w->run;
    unsigned all = run->n_ranks * run->n_threads;
    while (w->returned < all && !w->fault.found && !atomic_load_explicit(&run->stop, memory_order_relaxed)) {
        bool progress = false;
        if (run->order.kind == CJ_EMU_SEEDED)
            shuffle_order(w);
        for (w->turn = 0; w->turn < w->n_ids && !w->fault.found;) {
            unsigned id = w->order[w->turn++];
            if (w->states[id] != CJ_NEW && w->states[id] != CJ_READY)
                continue;
            progress = true;
            if (!run_thread(w, &w->threads[id]))
                return cj_fail(CONVJIT_NO_MEMORY, "the host has no memory for the stack of an emulated thread");
        }
        if (!progress && !answer_tries(w) && !cj_async_advance(w))
            cj_explain_deadlock(w);
    }
    return CONVJIT_OK;
}

/* The block of that rank of the i-th cluster, linear in the grid. */
static uint64_t block_number(const cj_run *run, uint64_t i, unsigned rank)
{
    const cj_emu_index *size = &run->cluster;
    uint64_t across = run->grid.x / size->x, down = run->grid.y / size->y;
    uint64_t x = i % across * size->x + rank % size->x, y = i / across % down * size->y + rank / size->x % size->y;
    uint64_t z = i / across / down * size->z + rank / size->x / size->y;
    return (z * run->grid.y + y) * run->grid.x + x;
}

static void begin_thread(cj_worker *w, unsigned id, const cj_emu_place *block)
{
    const cj_run *run = w->run;
    const cj_emu_index *dim = &run->block;
    cj_thread *t = &w->threads[id];
    unsigned rank = id / run->row, i = id % run->row;
    *t = (cj_thread){.place = *block, .id = id, .rank = rank, .local = i, .clock = 1, .clocks = cj_clocks_new(w)};
    t->place.thread = (cj_emu_index){i % dim->x, i / dim->x % dim->y, i / dim->x / dim->y};
    w->states[id] = i < run->n_threads ? CJ_NEW : CJ_RETURNED;
    w->order[id] = (uint16_t)(run->order.kind == CJ_EMU_REVERSE ? w->n_ids - 1 - id : id);
}

static void begin_block(cj_worker *w, unsigned rank, uint64_t number)
{
    const cj_run *run = w->run;
    cj_block *b = &w->blocks[rank];
    memset(b, 0, sizeof *b);
    b->number = number;
    for (unsigned i = 0; i < CJ_EMU_MAX_NAMED; i++)
        b->named[i].clocks = cj_clocks_new(w);
    unsigned warpgroups = CJ_EMU_MAX_THREADS / CJ_EMU_WARPGROUP;
    for (unsigned i = 0; i < warpgroups; i++)
        b->warpgroups[i].agent = (uint16_t)(w->n_ids + rank * warpgroups + i);
    cj_emu_place place = {{0, 0, 0}, block_index(run, number), run->block, run->grid};
    for (unsigned i = 0; i < run->row; i++)
        begin_thread(w, rank * run->row + i, &place);
    size_t start = (size_t)rank * CJ_EMU_SHARED_STRIDE;
    memset(w->shared + start, CJ_EMU_POISON, run->smem);
}

static void begin_cluster(cj_worker *w, uint64_t i)
{
    cj_order_begin(w);
    w->cluster_arriving = cj_clocks_new(w);
    w->cluster_complete = cj_clocks_new(w);
    w->cluster_arrived = w->cluster_gone = w->cluster_phase = w->returned = 0;
    w->n_reads = 1;
    w->free_reads = 0;
    for (unsigned rank = 0; rank < w->stale; rank++) /* a fault left operations under way, or a kernel its mbarriers */
        memset(w->pending + (size_t)rank * CJ_EMU_SHARED_STRIDE / 4, 0, CJ_EMU_SHARED_BYTES / 4 * sizeof *w->pending);
    w->stale = 0;
    for (unsigned rank = 0; rank < w->run->n_ranks; rank++)
        begin_block(w, rank, block_number(w->run, i, rank));
    cj_warpgroups_begin(w);
    w->advancing = false;
    w->random = w->run->order.seed ^ i * 0xD1342543DE82EF95u;
}

/* Fibres that a fault left behind are forgotten; their stacks are as good as new. */
static void end_cluster(cj_worker *w)
{
    if (!w->fault.found && w->returned == w->run->n_ranks * w->run->n_threads)
        cj_async_cluster_ends(w);
    cj_async_reset(w);
    for (unsigned i = 0; i < w->n_ids; i++)
        if (w->threads[i].stack) {
            w->stacks[w->n_stacks++] = w->threads[i].stack;
            w->threads[i].stack = NULL;
        }
}

/* The i-th cluster in the launch's order. */
static uint64_t cluster_at(const cj_run *run, uint64_t i)
{
    if (run->order.kind == CJ_EMU_FORWARD)
        return i;
    if (run->order.kind == CJ_EMU_REVERSE)
        return run->n_clusters - 1 - i;
    uint64_t random = run->order.seed, step = cj_random(&random) % run->n_clusters, a = step, b = run->n_clusters;
    while (b != 1) { /* a step with no common divisor visits every cluster once */
        a = ++step;
        b = run->n_clusters;
        while (a % b != 0) {
            uint64_t rest = a % b;
            a = b;
            b = rest;
        }
    }
    unsigned __int128 at = (unsigned __int128)i * step + cj_random(&random);
    return (uint64_t)(at % run->n_clusters);
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
    convjit_status status = cj_order_reserve(w, run) ? CONVJIT_OK : CONVJIT_NO_MEMORY;
    while (status == CONVJIT_OK && !atomic_load(&run->stop)) {
        uint64_t i = atomic_fetch_add(&run->next_cluster, 1);
        if (i >= run->n_clusters)
            break;
        begin_cluster(w, cluster_at(run, i));
        status = run_threads(w);
        end_cluster(w);
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
    return current_worker->shared + (size_t)current_worker->current->rank * CJ_EMU_SHARED_STRIDE;
}

static void fence(void)
{
    atomic_store_explicit(&current_worker->run->fenced, true, memory_order_relaxed);
}

static void trap(const char *what, unsigned line)
{
    cj_worker *w = current_worker;
    cj_worker_fault(w, "%s\1", what);
    cj_fail_on_lines(w, line, 0);
}

const cj_emu_runtime cj_emu_services = {
    .access = cj_access,
    .misaligned = cj_misaligned,
    .place = get_place,
    .shared = get_shared,
    .barrier = cj_syncthreads,
    .warp = join_collective,
    .fence = fence,
    .trap = trap,
    .async = &cj_emu_async,
    .matrix = &cj_emu_matrix,
};
