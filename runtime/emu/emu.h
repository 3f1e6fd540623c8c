/* emu.h: what the files of the emulated device share.
 *
 *   device.c   the cj_device: limits, a launch over several OS threads     module.c   loading, entries, lines of an address
 *   block.c    one block: its threads in turn, barriers, collectives       memory.c   allocations between guard pages
 *   access.c   every memory access: bounds, races, never-written memory    fibre.c    stacks and context switches
 *   compiler.c the host's C++ compiler as a cj_compiler                    device.h   what a kernel is compiled against
 *
 * A launch (cj_run) is shared by workers, one an OS thread. A worker runs one block at a time; each CUDA thread of the block
 * is a fibre that runs until it waits or returns. Everything below cj_worker belongs to one OS thread and needs no lock.
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
    CJ_EMU_MAX_WARPS = CJ_EMU_MAX_THREADS / CJ_EMU_WARP,
    CJ_EMU_SHARED_BYTES = 228 * 1024, /* a block's dynamic shared memory: the largest of any architecture */
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
    char text[768];
    struct { uintptr_t pc; unsigned line; } places[2]; /* a line, or a code address to find it from */
} cj_fault;

typedef struct cj_run {
    const cj_emu_entry *entry;
    const cj_module *module;
    uintptr_t module_base, module_end;
    void **args;
    cj_emu_index grid, block;
    unsigned n_threads; /* of a block */
    unsigned smem;
    uint64_t n_blocks;
    cj_emu_order order;
    cj_region *regions; /* sorted by address */
    size_t n_regions;
    atomic_uint_fast64_t next_block;
    atomic_bool stop;   /* a fault was found */
    atomic_bool fenced; /* a block used a fence or an atomic: blocks may talk to each other through memory */
    pthread_mutex_t lock;
    cj_fault fault;     /* guarded by lock */
} cj_run;

typedef enum cj_thread_state { CJ_NEW, CJ_READY, CJ_AT_BARRIER, CJ_AT_COLLECTIVE, CJ_RETURNED } cj_thread_state;

/* A CUDA thread of the block that a worker runs. */
typedef struct cj_thread {
    cj_emu_place place; /* what the kernel sees */
    unsigned id;        /* linear in the block */
    void *stack;        /* NULL before it runs and after it returned */
    cj_fibre fibre;
    unsigned line;      /* where it waits */
    cj_emu_warp_call call; /* CJ_AT_COLLECTIVE */
    unsigned long long result;
    /* Order of memory accesses between two block barriers, as vector clocks: clock counts this thread's releases;
     * seen[t], valid if `known` has t's warp, is the last of thread t's clocks whose accesses are ordered before ours. */
    uint32_t clock, known;
    uint32_t *seen;
} cj_thread;

/* One access to shared memory. epoch: the worker's count of block barriers; 0: none. */
typedef struct cj_touch { uint32_t epoch, clock, pc; uint16_t thread, unused; } cj_touch;
/* What is known of a word, or a byte, of shared memory. Reads: the first and the latest of this epoch, and which warps. */
typedef struct cj_cell { cj_touch write, first_read, last_read; uint32_t readers; bool split; } cj_cell;

typedef struct cj_worker {
    cj_run *run;
    struct cj_worker *next_idle;
    /* the block */
    cj_thread *threads;  /* CJ_EMU_MAX_THREADS */
    uint8_t *states;     /* cj_thread_state of each, dense because the scheduler scans it */
    uint16_t *order;
    uint64_t random;
    uint64_t block;      /* linear */
    unsigned returned;
    cj_thread *current;
    cj_fibre scheduler;
    uint32_t *seen;      /* the threads' vectors, one behind another */
    void **stacks;       /* idle ones */
    unsigned n_stacks;
    /* __syncthreads */
    unsigned arrived, barrier_line, barrier_count;
    cj_emu_barrier_op barrier_op;
    uint16_t barrier_first; /* thread that arrived first */
    /* shared memory */
    unsigned char *shared;
    cj_cell *words;      /* one a 4-byte word; those that are `split` are described byte by byte in: */
    cj_cell *bytes;
    uint32_t epoch, block_epoch; /* of now; at the start of this block: older writes are of other blocks */
    cj_region *recent;   /* where the last access to global memory was */
    cj_fault fault;
} cj_worker;

/* ---- block.c ---- */

cj_worker *cj_worker_open(void); /* NULL: no memory */
void cj_worker_close(cj_worker *w);
/* Runs blocks until none is left or a fault was found, and then copies that to w->run. On the calling OS thread.
 * CONVJIT_NO_MEMORY if stacks could not be mapped. */
convjit_status cj_worker_run(cj_worker *w, cj_run *run);
/* The functions that kernels call; they act on the worker of the calling OS thread. */
extern const cj_emu_runtime cj_emu_services;
cj_worker *cj_worker_current(void);
/* "thread (3,0,0)" */
const char *cj_thread_name(const cj_worker *w, unsigned id, char text[48]);
/* Records a mistake, unless there is one already. */
void cj_worker_fault(cj_worker *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Leaves the current fibre for good, after cj_worker_fault. */
_Noreturn void cj_worker_abandon(cj_worker *w);
/* Happens-before inside a block: is what that thread did at that time ordered before what the current one does now? */
static inline bool cj_ordered(const cj_worker *w, const cj_touch *earlier)
{
    const cj_thread *t = w->current;
    unsigned them = earlier->thread;
    return earlier->epoch < w->epoch || them == t->id ||
           ((t->known >> (them / CJ_EMU_WARP) & 1) && t->seen[them] >= earlier->clock);
}

/* ---- access.c ---- */

void cj_access(const void *address, unsigned long bytes, unsigned kind, const void *pc);
void cj_misaligned(const void *address, unsigned long alignment, const void *pc);

/* ---- device.c, for tests ---- */

/* Overrides CONVJIT_EMU_ORDER: "forward", "reverse", "seed:N"; NULL: the environment decides again, at each launch. */
convjit_status cj_emu_device_order(cj_device *d, const char *order);
/* Overrides CONVJIT_EMU_THREADS; 0: the environment, else the number of cores. */
void cj_emu_device_threads(cj_device *d, int threads);

#endif
