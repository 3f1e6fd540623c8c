/* emu.h: what the files of the emulated device share.
 *
 *   device.c   the cj_device: limits, a launch over several OS threads     module.c   loading, entries, lines of an address
 *   block.c    one cluster: its threads in turn, warp collectives          memory.c   allocations between guard pages
 *   barrier.c  barriers of a block and of a cluster                        mbarrier.c barriers in shared memory
 *   access.c   every memory access: bounds, races, never-written memory    fibre.c    stacks and context switches
 *   order.c    what happened before what                                   tensor.c   tensor maps and their copies
 *   matrix.c   ldmatrix, stmatrix, mma.sync; products                      wgmma.c    products of a warpgroup; descriptors
 *   warpgroup.c who takes part in those; setmaxnreg
 *   async.c    operations that go on while their threads do something else  deadlock.c explains why nobody can go on
 *   grid.c     launches that overlap those before them                     device.h   what a kernel is compiled against
 *   compiler.c the host's C++ compiler as a cj_compiler
 *
 * A launch (cj_run) is shared by workers, one an OS thread. A worker runs one cluster at a time, which is a single block
 * unless the launch says otherwise; each CUDA thread of it is a fibre that runs until it waits or returns. Everything below
 * cj_worker belongs to one OS thread and needs no lock.
 */
#ifndef CJ_EMU_H
#define CJ_EMU_H

#include <pthread.h>
#include <stdatomic.h>
#include "device_abi.h"
#include "internal.h"

enum {
    CJ_EMU_MAX_THREADS = 1024, /* of a block */
    CJ_EMU_WARP = 32,
    CJ_EMU_MAX_BLOCKS = 8,     /* of a cluster */
    CJ_EMU_MAX_NAMED = 16,     /* barriers of a block, by number */
    CJ_EMU_MAX_BARRIERS = 64,  /* mbarriers of a block */
    CJ_EMU_WARPGROUP = 128,
    CJ_EMU_MAX_READS = 1 << 21, /* of shared memory that are remembered at a time */
    CJ_EMU_SHARED_BYTES = 228 * 1024,  /* a block's dynamic shared memory: the largest of any architecture */
    CJ_EMU_SHARED_STRIDE = 256 * 1024, /* from one block's to the next one's in a cluster */
    CJ_EMU_SHARED_WINDOW = 1024, /* shared_address() of a block's first byte: the system has the 1024 before, as on sm_90 */
    CJ_EMU_POISON = 0xFF       /* fills memory that was never written: a NaN in every floating-point format */
};

/* ---- fibre.c ---- */

#if !defined(__x86_64__) && !defined(__aarch64__)
#define CJ_FIBRE_UCONTEXT 1
#include <ucontext.h>
#endif

/* A suspended flow of control. */
typedef struct cj_fibre {
#ifdef CJ_FIBRE_UCONTEXT
    ucontext_t context;
#else
    void *sp; /* everything else that must survive is on the stack */
#endif
} cj_fibre;

/* Maps a stack of CJ_EMU_STACK_BYTES, aligned to its size, with a guard page at its low end; NULL if there is no memory. */
void *cj_stack_map(void);
void cj_stack_unmap(void *stack);
/* Makes the fibre one that calls main(), which must not return. color: small number; spreads stacks over cache sets. */
void cj_fibre_prepare(cj_fibre *fibre, void *stack, unsigned color, void (*main)(void));
void cj_fibre_switch(cj_fibre *from, cj_fibre *to);
/* Where a prepared fibre's stack begins: everything of it is below. */
uintptr_t cj_stack_top(const void *stack, unsigned color);

/* ---- memory.c: allocations of a device ---- */

typedef struct cj_heap cj_heap;
cj_heap *cj_heap_open(void);
void cj_heap_close(cj_heap *heap); /* with all that is in it */
convjit_status cj_heap_alloc(cj_heap *heap, void **memory, size_t bytes);
void cj_heap_free(cj_heap *heap, void *memory);
/* CONVJIT_INVALID unless [memory, memory + bytes) is inside one live allocation. */
convjit_status cj_heap_check(cj_heap *heap, const void *memory, size_t bytes, const char *what);

/* An allocation as a launch sees it. */
typedef struct cj_region {
    uintptr_t base;
    size_t bytes;
    /* Who wrote each 2-byte unit in this launch: global thread number + 1, modulo 2^32 - 1; NULL before the first write. */
    _Atomic(_Atomic(uint32_t) *) writers;
} cj_region;
/* Copies the live allocations, by address, into a malloc'd array. */
convjit_status cj_heap_snapshot(cj_heap *heap, cj_region **regions, size_t *n);
void cj_regions_free(cj_region *regions, size_t n);
/* The last one that begins at the address or below; NULL if there is none. */
cj_region *cj_region_find(cj_region *regions, size_t n, uintptr_t address);
/* The 2-byte units' writers, mapped when first asked for; NULL if there is no memory. */
_Atomic(uint32_t) *cj_region_writers(cj_region *region);
void *cj_pages_map(size_t bytes); /* zeroed, not reserved; NULL if there is no memory */
void cj_pages_unmap(void *pages, size_t bytes);

/* ---- module.c ---- */

struct cj_function {
    const cj_emu_entry *entry;
    cj_module *module;
};
convjit_status cj_module_load(const cj_blob *binary, cj_module **out);
void cj_module_unload(cj_module *m);
convjit_status cj_module_function(cj_module *m, const char *name, cj_function **out);
/* The bytes of code and constants that the module occupies. */
void cj_module_range(const cj_module *m, uintptr_t *base, uintptr_t *end);
/* Line of the kernel text at a code address, 0 if it cannot be found. Slow: runs addr2line. */
unsigned cj_module_line(const cj_module *m, uintptr_t pc);

/* ---- A launch ---- */

typedef enum cj_emu_order_kind { CJ_EMU_FORWARD, CJ_EMU_REVERSE, CJ_EMU_SEEDED } cj_emu_order_kind;
/* In which order the threads of a block, and the blocks, run. */
typedef struct cj_emu_order { cj_emu_order_kind kind; uint64_t seed; } cj_emu_order;

/* A mistake of the kernel, as first found. In text, '\1' and '\2' stand for " on line N" of places[0] and [1]. */
typedef struct cj_fault {
    bool found;
    char text[1024];
    struct { uintptr_t pc; unsigned line; } places[2]; /* a line, or a code address to find it from */
} cj_fault;

/* What a launch wrote, and those before it that the next one may overlap. */
typedef struct cj_past {
    struct cj_past *before;
    cj_region *regions;
    size_t n_regions;
} cj_past;

typedef struct cj_run {
    const cj_emu_entry *entry;
    const cj_module *module;
    uintptr_t module_base, module_end;
    void **args;
    cj_emu_index grid, block, cluster; /* cluster: in blocks */
    unsigned n_threads; /* of a block */
    unsigned row;       /* the same, rounded up to warps: how far the threads of a cluster's blocks are apart */
    unsigned n_ranks;   /* blocks of a cluster */
    unsigned smem;
    uint64_t n_blocks, n_clusters;
    cj_emu_order order;
    bool late;          /* asynchronous operations take effect when they must, and not when they are issued */
    bool can_overlap;   /* the architecture's launches */
    bool overlap;       /* this one begins while those before it may still run */
    const cj_past *past; /* what those wrote; NULL: none */
    const cj_log *trace; /* who waits for what; NULL: nobody wants to know */
    cj_region *regions; /* sorted by address */
    size_t n_regions;
    atomic_uint_fast64_t next_cluster;
    atomic_bool stop;   /* a fault was found */
    atomic_bool fenced; /* a block used a fence or an atomic: blocks may talk to each other through memory */
    pthread_mutex_t lock;
    cj_fault fault;     /* guarded by lock */
} cj_run;

/* ---- order.c: happens-before in a cluster, as vector clocks ----
 * Every thread has a clock, which counts its releases; so have some things that are no threads (agents): the phases of an
 * mbarrier, and the groups of a warpgroup's wgmmas. A block barrier begins an epoch, which orders all that was before it,
 * so that vectors are only about the time since (in a cluster of several blocks there is one epoch). */

/* How far somebody's knowledge reaches: `seen[who]`, valid if `known` has who's group of 32, is the last of who's clocks whose
 * accesses are ordered before his own. shown[who]: likewise, of what who has shown to the async proxy. */
typedef struct cj_clocks {
    uint32_t epoch;    /* in another one, nothing is known */
    uint64_t version;  /* vectors of one version are alike (0: never used) */
    uint64_t contains; /* all that a vector of this version knows is known here, too */
    uint64_t known[5]; /* a bit for each group of 32 */
    uint32_t *seen, *shown;
} cj_clocks;

/* One access to shared memory. epoch: the worker's; 0: none. */
typedef struct cj_touch {
    uint32_t epoch, clock;
    uint32_t pc;     /* less the module's base, or a line (CJ_TOUCH_LINE) */
    uint16_t who;    /* a thread of the cluster, or an agent */
    uint16_t flags;
} cj_touch;
enum { CJ_TOUCH_LINE = 1, CJ_TOUCH_ASYNC = 2 /* by the async proxy */ };

/* What is known of a word, or a byte, of shared memory. Reads: the first and the latest of this epoch; of the others, as
 * long as a block's barriers are the only order between warps, which warps; else, all (`more`, a list of cj_reads). */
typedef struct cj_cell { cj_touch write, first_read, last_read; uint32_t readers, more; bool split; } cj_cell;
typedef struct cj_reads { uint32_t next, lanes, clock[CJ_EMU_WARP], pc; uint16_t group, flags; } cj_reads;

/* Of each word: an asynchronous operation writes it, an mbarrier is there, and how many asynchronous operations read it. */
enum { CJ_WORD_WRITTEN = 0x8000, CJ_WORD_BARRIER = 0x4000, CJ_WORD_READ = 0x3fff };

/* ---- A cluster ---- */

typedef enum cj_thread_state {
    CJ_NEW, CJ_READY, CJ_AT_BARRIER, CJ_AT_COLLECTIVE, CJ_AT_WARPGROUP, CJ_AT_REGISTERS, CJ_AT_NAMED, CJ_AT_CLUSTER,
    CJ_AT_MBARRIER, CJ_AT_TRY, CJ_RETURNED
} cj_thread_state;

/* Asynchronous operations that complete in the order of their groups, because somebody waits for groups. */
typedef struct cj_async cj_async;
typedef struct cj_queue {
    cj_async *first, *last; /* under way */
    unsigned committed;     /* groups so far */
    unsigned open;          /* operations issued since the last commit */
    uint32_t clock;         /* agent's: operations that have completed */
    uint16_t agent;         /* 0: a thread's own */
} cj_queue;

typedef struct cj_mbarrier {
    bool valid;
    unsigned rank, offset;  /* in that block's shared memory */
    unsigned count, missing; /* arrivals of a phase; of this phase */
    int64_t bytes;          /* of this phase: expected, less those that came */
    uint32_t phase, first_phase; /* that is under way; of this barrier, which may not be the first one in this place */
    uint16_t agent;
    unsigned line;          /* of mbarrier_init */
    cj_touch made, shown;   /* mbarrier_init; a fence behind it, by the same thread (epoch 0: none) */
    cj_clocks arriving, complete; /* what the arrivals so far know; what those of all complete phases knew */
} cj_mbarrier;

typedef struct cj_named {
    unsigned arrived, threads, line; /* threads: that it awaits; line: of the first of them */
    uint16_t first;
    cj_clocks clocks;
    struct { uint32_t epoch, clock; unsigned line; uint16_t thread; } last; /* who completed the barrier the last time */
} cj_named;

/* A CUDA thread of the cluster that a worker runs. */
typedef struct cj_thread {
    cj_emu_place place; /* what the kernel sees */
    unsigned id;        /* in the cluster; each block's threads begin at a multiple of 32 */
    unsigned rank, local; /* which block, and linear in it */
    void *stack;        /* NULL before it runs and after it returned */
    cj_fibre fibre;
    const char *what;   /* the primitive that it waits in */
    unsigned line;      /* and where that is */
    cj_emu_warp_call call; /* CJ_AT_COLLECTIVE */
    unsigned long long result;
    uint32_t clock;
    cj_clocks clocks;
    struct { uint32_t epoch, clock; } fence, older_fence; /* the last one, and the last in an epoch before that one's */
    cj_mbarrier *barrier; /* CJ_AT_MBARRIER, CJ_AT_TRY */
    unsigned parity;
    uint64_t tried;     /* CJ_AT_TRY: w->events when it was last told that the phase is not complete */
    cj_named *named;    /* CJ_AT_NAMED */
    cj_queue copies, stores; /* cp.async; bulk and tensor stores */
    uint32_t waited;    /* clock at the last wait for an mbarrier */
    uint32_t copied;    /* clock at the last wait for copies: what those wrote is part of cp_async_mbarrier_arrive */
    bool in_cluster_barrier; /* has arrived there, and not waited */
    uint32_t cluster_phase; /* in which it did */
    bool grid_waited;
} cj_thread;

/* A block of the cluster. */
typedef struct cj_block {
    uint64_t number;     /* linear in the grid */
    unsigned returned;
    bool grid_waited;    /* one of its threads */
    /* __syncthreads */
    unsigned arrived, barrier_line, barrier_count;
    cj_emu_barrier_op barrier_op;
    uint16_t barrier_first; /* thread that arrived first */
    cj_named named[CJ_EMU_MAX_NAMED];
    unsigned n_barriers;
    cj_mbarrier barriers[CJ_EMU_MAX_BARRIERS];
    cj_queue warpgroups[CJ_EMU_MAX_THREADS / CJ_EMU_WARPGROUP]; /* wgmma */
} cj_block;

typedef struct cj_worker {
    cj_run *run;
    struct cj_worker *next_idle;
    /* the cluster */
    cj_thread *threads;  /* CJ_EMU_MAX_BLOCKS * CJ_EMU_MAX_THREADS */
    uint8_t *states;     /* cj_thread_state of each, dense because the scheduler scans it */
    uint16_t *order;     /* in which threads get their turn ... */
    unsigned turn;       /* ... and whose it is when the current one waits */
    unsigned n_ids;      /* threads of the cluster, padding included */
    unsigned returned;
    cj_block *blocks;    /* CJ_EMU_MAX_BLOCKS */
    unsigned stale;      /* blocks in whose shared memory words may be pending from a cluster before */
    uint64_t random;
    uint64_t events;     /* counts what may let others go on */
    cj_thread *current;
    const char *primitive; /* that the current thread is in, for messages; NULL: none */
    cj_fibre scheduler;
    void **stacks;       /* idle ones */
    unsigned n_stacks;
    /* cluster barrier */
    unsigned cluster_arrived, cluster_gone; /* gone: returned, and did not arrive before */
    uint32_t cluster_phase;
    cj_clocks cluster_arriving, cluster_complete;
    /* order */
    uint32_t *clocks;    /* memory of all vectors */
    size_t clocks_bytes, clocks_used;
    unsigned n_clocks;   /* of a vector */
    uint32_t epoch, first_epoch; /* of now; at the start of this cluster: older writes are of others */
    bool mixed;          /* block barriers are not the only order between warps */
    uint64_t version, nothing; /* of the vector that was changed last; of those that know nothing in this epoch */
    struct { uint64_t before, joined; const cj_clocks *result; uint64_t after; } latest_join; /* of a thread's, in cj_acquire */
    struct { uint64_t before, after; unsigned agent; uint32_t clock; } latest_sight; /* likewise, in cj_observe */
    struct { uint32_t epoch, clock, older; } *agents; /* the last of an agent's clocks that anybody saw; before that epoch */
    /* shared memory */
    unsigned char *shared; /* of all blocks, CJ_EMU_SHARED_STRIDE apart; so are: */
    cj_cell *words;      /* one a 4-byte word; those that are `split` are described byte by byte in: */
    cj_cell *bytes;
    uint16_t *pending;   /* CJ_WORD_ bits, a word */
    cj_reads *reads;     /* CJ_EMU_MAX_READS, of which [1, n_reads) were in use, and those from free_reads on are idle again */
    uint32_t n_reads, free_reads;
    /* asynchronous operations */
    cj_async *oldest, *latest; /* all that are under way, as issued */
    cj_async *idle;      /* for the next one */
    uint64_t serial;
    bool advancing;      /* no thread runs: a fault is only recorded */
    struct cj_warpgroups *warpgroups; /* warpgroup.c's; NULL: never needed */
    cj_region *recent;   /* where the last access to global memory was */
    cj_fault fault;
} cj_worker;

/* ---- block.c ---- */

cj_worker *cj_worker_open(void); /* NULL: no memory */
void cj_worker_close(cj_worker *w);
/* Runs clusters until none is left or a fault was found, and then copies that to w->run. On the calling OS thread.
 * CONVJIT_NO_MEMORY if stacks could not be mapped. */
convjit_status cj_worker_run(cj_worker *w, cj_run *run);
/* The functions that kernels call; they act on the worker of the calling OS thread. */
extern const cj_emu_runtime cj_emu_services;
cj_worker *cj_worker_current(void);
/* "thread (3,0,0)"; of another block than the current thread's, "thread (3,0,0) of block (1,0,0)"; "a copy ..." of an agent. */
const char *cj_thread_name(const cj_worker *w, unsigned who, char text[96]);
/* Records a mistake of the current thread, unless there is one already. */
void cj_worker_fault(cj_worker *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Leaves the current fibre for good, after cj_worker_fault. */
_Noreturn void cj_worker_abandon(cj_worker *w);
/* The same with the lines that '\1' and '\2' of the text stand for. */
_Noreturn void cj_fail_on_lines(cj_worker *w, unsigned line, unsigned other_line);
/* Says which primitive the current thread is in. */
static inline void cj_enter(cj_worker *w, const char *primitive, unsigned line)
{
    w->primitive = w->current->what = primitive;
    w->current->line = line;
}
/* Does the lane wait with that call for the others of its mask? Matrices are moved and multiplied on one line by all. */
static inline bool cj_takes_part(const cj_worker *w, const cj_thread *lane, const cj_emu_warp_call *call)
{
    return w->states[lane->id] == CJ_AT_COLLECTIVE && lane->call.op == call->op && lane->call.mask == call->mask &&
           (call->op < CJ_EMU_LDMATRIX_X1 || lane->call.line == call->line);
}
/* Suspends the current thread in that state, until somebody makes it CJ_READY. */
void cj_wait(cj_worker *w, cj_thread_state state);
/* The next number of a sequence that any state begins. */
uint64_t cj_random(uint64_t *state);
/* Lets others have their turn first. */
void cj_yield(cj_worker *w);
/* A line of CONVJIT_EMU_TRACE about the current thread. */
void cj_trace(const cj_worker *w, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- deadlock.c ---- */

/* All live threads wait, and nothing else is under way: says for whom. */
void cj_explain_deadlock(cj_worker *w);

/* ---- order.c ---- */

/* Vectors are joined at every barrier, and mostly are alike: threads that waited for the same knew the same before, and know
 * the same now. Versions tell, so that one join and many copies do.
 *
 * Makes the worker's vectors long and many enough for the run's clusters; false if there is no memory. */
bool cj_order_reserve(cj_worker *w, const cj_run *run);
/* Forgets everything: at the start of a cluster. */
void cj_order_begin(cj_worker *w);
/* A vector that knows nothing. */
cj_clocks cj_clocks_new(cj_worker *w);
/* What the thread did so far is now known to `to`, too; what it does from now on is not. */
void cj_release(cj_worker *w, cj_thread *t, cj_clocks *to);
/* The same for what the thread alone did, and up to that clock only. */
void cj_release_until(cj_worker *w, const cj_thread *t, uint32_t clock, cj_clocks *to);
/* Whether the thread knows what `who`, a thread, did up to that clock of that epoch. */
bool cj_knows(const cj_worker *w, const cj_thread *t, unsigned who, uint32_t epoch, uint32_t clock);
/* What is known to `from` is now known to the thread. */
void cj_acquire(cj_worker *w, cj_thread *t, const cj_clocks *from);
void cj_clocks_copy(const cj_worker *w, cj_clocks *to, const cj_clocks *from);
/* Everything that any of the lanes did is ordered before what any of them does next. */
void cj_order_lanes(cj_worker *w, cj_thread *lanes, unsigned mask);
/* The same for all threads of a block. */
void cj_order_block(cj_worker *w, unsigned rank);
/* The thread has seen an agent's clock. */
void cj_observe(cj_worker *w, cj_thread *t, unsigned agent, uint32_t clock);
/* Whoever acquires the vector has seen it. */
void cj_know(cj_worker *w, cj_clocks *c, unsigned agent, uint32_t clock);
/* fence.proxy.async by the current thread. */
void cj_show(cj_worker *w);
/* Whether that write has been shown to the async proxy, as far as the thread knows. */
bool cj_shown_for(const cj_worker *w, const cj_thread *t, const cj_touch *write);
/* What the vector knows of `who`: a clock, 0 if nothing in this epoch. */
static inline uint32_t cj_clock_of(const cj_worker *w, const cj_clocks *c, unsigned who)
{
    return c->epoch == w->epoch && c->known[who / 2048] >> (who / 32 % 64) & 1 ? c->seen[who] : 0;
}
/* Is what was done then ordered before what the thread does now? */
static inline bool cj_ordered_for(const cj_worker *w, const cj_thread *t, const cj_touch *earlier)
{
    unsigned who = earlier->who;
    if (who == t->id)
        return true;
    if (who < w->n_ids)
        return earlier->epoch < w->epoch || cj_clock_of(w, &t->clocks, who) >= earlier->clock;
    uint32_t before = w->agents[who].epoch < w->epoch ? w->agents[who].clock : w->agents[who].older;
    return earlier->clock <= before || cj_clock_of(w, &t->clocks, who) >= earlier->clock;
}
static inline bool cj_ordered(const cj_worker *w, const cj_touch *earlier)
{
    return cj_ordered_for(w, w->current, earlier);
}

/* ---- access.c ---- */

/* Before every access. pc: a code address, or below CJ_EMU_LINES a line. */
enum { CJ_EMU_LINES = 1 << 24 };
void cj_access(const void *address, unsigned long bytes, unsigned kind, const void *pc);
void cj_misaligned(const void *address, unsigned long alignment, const void *pc);
/* Names the place of an address: "offset 64 of input, which has 64 bytes". */
void cj_place_name(const cj_worker *w, uintptr_t address, char text[160]);
/* Offset of an address over the shared memory of all blocks of the cluster; huge when it is elsewhere. */
static inline uintptr_t cj_shared_offset(const cj_worker *w, const void *address)
{
    return (uintptr_t)address - (uintptr_t)w->shared;
}
/* What shared_address() says of an address in that block, turned back. */
static inline unsigned char *cj_shared_at(const cj_worker *w, unsigned rank, unsigned address)
{
    return w->shared + (size_t)rank * CJ_EMU_SHARED_STRIDE + (address - CJ_EMU_SHARED_WINDOW);
}
/* Faults unless it is all shared memory of one block of the cluster, and aligned; returns its offset over all blocks.
 * what: "destination", for the message. */
size_t cj_shared_range(cj_worker *w, const void *address, size_t bytes, size_t alignment, const char *what);
/* An asynchronous operation begins to read or to write a word: faults unless that is ordered, for the thread, behind what was
 * done to it; async: by the async proxy. */
void cj_word_begin(cj_worker *w, const cj_thread *t, size_t word, bool write, bool async);
/* It has done so. */
void cj_word_end(cj_worker *w, size_t word, bool write, const cj_touch *touch);

/* ---- barrier.c ---- */

unsigned cj_syncthreads(cj_emu_barrier_op op, unsigned value, unsigned line);
const char *cj_syncthreads_name(cj_emu_barrier_op op);
void cj_barrier_sync(unsigned id, unsigned threads, unsigned line);
void cj_barrier_arrive(unsigned id, unsigned threads, unsigned line);
void cj_cluster_arrive(unsigned line);
void cj_cluster_wait(unsigned line);
/* The current thread returns. */
void cj_cluster_leave(cj_worker *w);

/* ---- grid.c ---- */

void cj_grid_wait(unsigned line);
void cj_grid_launch_dependents(unsigned line);
/* Launches before may still be writing what the current thread touches. */
bool cj_still_written(const cj_worker *w, uintptr_t address, size_t bytes);
/* The last thread of the current thread's block returns: faults if the block overlaps others and never waited for them. */
void cj_grid_block_ends(cj_worker *w);
/* Puts what one more launch wrote, which it takes over, before the rest. */
cj_past *cj_past_add(cj_past *before, cj_region *regions, size_t n);
void cj_past_free(cj_past *past);

/* ---- mbarrier.c ---- */

void cj_mbarrier_init(unsigned long long *barrier, unsigned arrivals, unsigned line);
void cj_mbarrier_invalidate(unsigned long long *barrier, unsigned line);
void cj_mbarrier_arrive(unsigned long long *barrier, unsigned line);
void cj_mbarrier_arrive_expect(unsigned long long *barrier, unsigned bytes, unsigned line);
void cj_mbarrier_arrive_cluster(unsigned long long *barrier, unsigned rank, unsigned line);
bool cj_mbarrier_try_wait(unsigned long long *barrier, unsigned parity, unsigned line);
void cj_mbarrier_wait(unsigned long long *barrier, unsigned parity, unsigned line);
void cj_fence_mbarrier_init(unsigned line);
/* The barrier at an address, in the block of that rank: faults unless it is one and the current thread may know of it. For the
 * async proxy it must have been shown. */
cj_mbarrier *cj_mbarrier_at(cj_worker *w, const void *barrier, unsigned rank, bool async);
/* An asynchronous operation is done: counts its bytes, and an arrival if it is one. */
void cj_mbarrier_complete(cj_worker *w, cj_mbarrier *b, unsigned bytes, bool arrives);
/* "phase 3 of the mbarrier at offset 64 (1 of 2 arrivals and 4096 bytes are missing)" */
void cj_mbarrier_state(const cj_mbarrier *b, char text[256]);

/* ---- async.c ---- */

/* Begins an operation that `n` threads from `first` on issue at `line`; its name goes into messages. */
cj_async *cj_async_begin(cj_worker *w, const char *name, unsigned line, unsigned first, unsigned n);
/* It will read or write that range of shared memory: whole words of one block. Any number of times. */
void cj_async_reads(cj_worker *w, cj_async *op, const void *shared, size_t bytes);
void cj_async_writes(cj_worker *w, cj_async *op, void *shared, size_t bytes);
/* Starts it. effect(w, data), on a copy of `size` bytes, is called once: now, or when it completes (cj_run.late). In a queue,
 * operations complete, and take effect, in order, when cj_queue_wait says so. */
void cj_async_issue(cj_worker *w, cj_async *op, cj_queue *queue, void (*effect)(cj_worker *w, void *data), const void *data,
                    size_t size);
/* Without a queue: it completes whenever it likes, and then counts at the barrier `bytes` and, if it is that, an arrival. */
void cj_async_issue_to(cj_worker *w, cj_async *op, cj_mbarrier *barrier, unsigned bytes, bool arrives,
                       void (*effect)(cj_worker *w, void *data), const void *data, size_t size);
/* The current thread (warpgroup) closes a group; it waits until all but the n latest are complete, and sees what they did. */
void cj_queue_commit(cj_worker *w, cj_queue *q);
void cj_queue_wait(cj_worker *w, cj_queue *q, unsigned n);
/* Of the current thread's warpgroup. */
cj_queue *cj_warpgroup_queue(cj_worker *w);
/* No thread can go on: completes one operation that needs nobody, if there is one. */
bool cj_async_advance(cj_worker *w);
/* An operation under way that reads (or writes) the word, for messages. */
const char *cj_async_name(const cj_worker *w, size_t word, bool write, unsigned *line);
/* The current thread returns; the whole cluster has returned: faults if something is under way. */
void cj_async_thread_ends(cj_worker *w);
void cj_async_cluster_ends(cj_worker *w);
/* Forgets all operations, after a fault. */
void cj_async_reset(cj_worker *w);
void cj_async_free(cj_worker *w);
/* cj_shared_range, and faults unless it is the current thread's own block's. */
void cj_check_own(cj_worker *w, const void *shared, size_t bytes, size_t alignment, const char *what);
extern const cj_emu_async_services cj_emu_async;

/* ---- matrix.c ---- */

/* ldmatrix, stmatrix or mma.sync, when all lanes have come. name: the primitive's. */
void cj_matrix_collective(cj_worker *w, cj_thread *lanes, const char *name);
unsigned cj_element_bytes(cj_emu_element element);
/* The values of n elements, as the tensor cores see them. */
void cj_elements_to_float(cj_emu_element element, const void *from, float *to, unsigned n);
/* A lane's part of a 16-row fragment, of 32 bytes a row. */
void cj_fragment_a(cj_emu_element element, const unsigned a[4], unsigned lane, float *rows);
/* d += a * b, row by row: d is rows x columns, a rows x depth, b depth x columns; columns: a multiple of 8. */
void cj_multiply_add(float *d, const float *a, const float *b, unsigned rows, unsigned columns, unsigned depth);

/* ---- warpgroup.c, wgmma.c ---- */

void cj_warpgroups_begin(cj_worker *w); /* of a cluster */
void cj_warpgroups_free(cj_worker *w);
/* For the explanation of a deadlock. CJ_AT_WARPGROUP: how many threads of the warpgroup are missing, and the first of them.
 * CJ_AT_REGISTERS: how many it waits for, and how many the block's pool has. */
const cj_thread *cj_warpgroup_missing(const cj_worker *w, const cj_thread *t, unsigned *n);
void cj_warpgroup_registers(const cj_worker *w, const cj_thread *t, unsigned *needed, unsigned *pool);
extern const cj_emu_matrix_services cj_emu_matrix;

/* ---- tensor.c ---- */

/* Fills in a tensor map for kernels of this device. The same limits as cuTensorMapEncodeTiled has. */
convjit_status cj_tensor_map_encode(const cj_tensor_map *map, void *base, unsigned char out[128]);
void cj_tensor_load(void *shared, const void *map, unsigned long long *barrier, int rank, const int *at, unsigned blocks,
                    const char *name, unsigned line);
void cj_tensor_prefetch(const void *map, unsigned line);
void cj_tensor_store(const void *map, const void *shared, int rank, const int *at, const char *name, unsigned line);

/* ---- device.c, for tests ---- */

/* Overrides CONVJIT_EMU_ORDER: "forward", "reverse", "seed:N"; NULL: the environment decides again, at each launch. */
convjit_status cj_emu_device_order(cj_device *d, const char *order);
/* Overrides CONVJIT_EMU_THREADS; 0: the environment, else the number of cores. */
void cj_emu_device_threads(cj_device *d, int threads);
/* Overrides CONVJIT_EMU_ASYNC: "issue", "wait"; NULL: the environment. */
convjit_status cj_emu_device_async(cj_device *d, const char *mode);

#endif
