/* device_abi.h: what a compiled kernel module and the emulated device know of each other. C11 and C++17.
 *
 * A module is a shared object made of the kernel text and device.h. It exports one symbol, cj_emu_module_info. The device
 * stores its cj_emu_runtime there and then calls an entry's `call` once for each CUDA thread, each on a fibre of its own.
 */
#ifndef CJ_EMU_DEVICE_ABI_H
#define CJ_EMU_DEVICE_ABI_H

#ifndef __cplusplus
#include <stdbool.h>
#endif

enum {
    CJ_EMU_ABI = 3,               /* changes with anything in this file */
    CJ_EMU_STACK_BYTES = 1 << 18, /* of a fibre; stacks are aligned to this, so that "mine" is one XOR and compare */
    CJ_EMU_NEEDS_FMA = 1          /* cj_emu_module.cpu: compiled for x86-64 with FMA3 */
};

/* Where a CUDA thread is. */
typedef struct cj_emu_index { unsigned x, y, z; } cj_emu_index;
typedef struct cj_emu_place { cj_emu_index thread, block, block_dim, grid_dim; } cj_emu_place;

/* __syncthreads and its reducing forms */
typedef enum cj_emu_barrier_op {
    CJ_EMU_SYNCTHREADS, CJ_EMU_SYNCTHREADS_COUNT, CJ_EMU_SYNCTHREADS_AND, CJ_EMU_SYNCTHREADS_OR, CJ_EMU_BARRIER_OPS
} cj_emu_barrier_op;

/* What the lanes of a warp do together. */
typedef enum cj_emu_warp_op {
    CJ_EMU_SYNCWARP, CJ_EMU_SHFL, CJ_EMU_SHFL_UP, CJ_EMU_SHFL_DOWN, CJ_EMU_SHFL_XOR, CJ_EMU_BALLOT, CJ_EMU_ANY, CJ_EMU_ALL,
    CJ_EMU_REDUCE_ADD, CJ_EMU_REDUCE_MIN, CJ_EMU_REDUCE_MAX, CJ_EMU_REDUCE_UMIN, CJ_EMU_REDUCE_UMAX, CJ_EMU_REDUCE_AND,
    CJ_EMU_REDUCE_OR, CJ_EMU_REDUCE_XOR, CJ_EMU_ELECT,
    /* by all 32 lanes on one line; the value of the call is the address of a cj_emu_fragment: */
    CJ_EMU_LDMATRIX_X1, CJ_EMU_LDMATRIX_X2, CJ_EMU_LDMATRIX_X4,
    CJ_EMU_LDMATRIX_X1_TRANS, CJ_EMU_LDMATRIX_X2_TRANS, CJ_EMU_LDMATRIX_X4_TRANS,
    CJ_EMU_STMATRIX_X1, CJ_EMU_STMATRIX_X2, CJ_EMU_STMATRIX_X4,
    CJ_EMU_STMATRIX_X1_TRANS, CJ_EMU_STMATRIX_X2_TRANS, CJ_EMU_STMATRIX_X4_TRANS,
    CJ_EMU_MMA_M16N8K8_TF32, CJ_EMU_MMA_M16N8K16_F16, CJ_EMU_MMA_M16N8K16_BF16, CJ_EMU_WARP_OPS
} cj_emu_warp_op;

/* One lane's part in it. */
typedef struct cj_emu_warp_call {
    cj_emu_warp_op op;
    unsigned mask;            /* lanes that take part */
    unsigned long long value; /* this lane's operand, zero-extended */
    unsigned lane, width;     /* shuffles: source lane, delta or lane mask; segment size */
    unsigned line;            /* of the kernel text */
} cj_emu_warp_call;

/* A lane's registers, and the row of shared memory that it gives the address of. */
typedef struct cj_emu_fragment {
    const void *row;          /* ldmatrix, stmatrix */
    unsigned *r;
    float *d;                 /* mma */
    const unsigned *a, *b;
} cj_emu_fragment;

/* What the threads of a warpgroup do together. */
typedef enum cj_emu_warpgroup_op {
    CJ_EMU_WGMMA, CJ_EMU_WGMMA_FENCE, CJ_EMU_WGMMA_COMMIT, CJ_EMU_WGMMA_WAIT, CJ_EMU_REGISTERS_INCREASE,
    CJ_EMU_REGISTERS_DECREASE
} cj_emu_warpgroup_op;

typedef enum cj_emu_element { CJ_EMU_F16, CJ_EMU_BF16, CJ_EMU_TF32 } cj_emu_element;

typedef struct cj_emu_wgmma_shape {
    const char *name;
    cj_emu_element element;
    unsigned n, steps;        /* steps: how many along k, one behind another */
    int a_mn, b_mn;           /* that operand is M- or N-major */
} cj_emu_wgmma_shape;

/* Descriptors, and what is added to them from step to step. */
typedef struct cj_emu_wgmma_operands {
    unsigned long long a, b;
    int a_step, b_step;
    int accumulate;
} cj_emu_wgmma_operands;

/* One thread's part in it. Only d and a_registers may differ between the threads. */
typedef struct cj_emu_warpgroup_call {
    cj_emu_warpgroup_op op;
    unsigned line;
    unsigned number;          /* wait: groups; increase and decrease: registers */
    cj_emu_wgmma_shape shape; /* wgmma, as all that follows */
    cj_emu_wgmma_operands operands;
    float *d;
    const unsigned *a_registers; /* nullptr: a is a descriptor */
} cj_emu_warpgroup_call;

typedef struct cj_emu_matrix_services {
    void (*warpgroup)(const cj_emu_warpgroup_call *call);
    unsigned long long (*descriptor)(const void *start, unsigned leading, unsigned stride, unsigned swizzle, unsigned line);
} cj_emu_matrix_services;

typedef enum cj_emu_access { CJ_EMU_READ = 1, CJ_EMU_WRITE = 2, CJ_EMU_ATOMIC = 4 } cj_emu_access;

/* Asynchronous copies, mbarriers, named barriers, clusters: the twins in device_async.h. shared, barrier: addresses in shared
 * memory; line: of the kernel text. Blocks: CJ_EMU_MULTICAST and a bit for each rank of the cluster; 0: the caller's own. */
enum { CJ_EMU_MULTICAST = 0x10000 };
typedef struct cj_emu_async_services {
    unsigned (*shared_address)(const void *shared, unsigned line);
    void (*copy_async)(void *shared, const void *global, int bytes, int size, unsigned line);
    void (*copy_commit)(unsigned line);
    void (*copy_wait)(unsigned groups, unsigned line);
    void (*copy_arrive)(unsigned long long *barrier, unsigned line);
    void (*mbarrier_init)(unsigned long long *barrier, unsigned arrivals, unsigned line);
    void (*mbarrier_invalidate)(unsigned long long *barrier, unsigned line);
    void (*mbarrier_arrive)(unsigned long long *barrier, unsigned line);
    void (*mbarrier_arrive_expect)(unsigned long long *barrier, unsigned bytes, unsigned line);
    void (*mbarrier_arrive_cluster)(unsigned long long *barrier, unsigned rank, unsigned line);
    bool (*mbarrier_try_wait)(unsigned long long *barrier, unsigned parity, unsigned line);
    void (*mbarrier_wait)(unsigned long long *barrier, unsigned parity, unsigned line);
    void (*fence_mbarrier_init)(unsigned line);
    void (*fence_proxy_async)(unsigned line);
    void (*bulk_load)(void *shared, const void *global, unsigned bytes, unsigned long long *barrier, unsigned line);
    void (*bulk_store)(void *global, const void *shared, unsigned bytes, unsigned line);
    void (*bulk_commit)(unsigned line);
    void (*bulk_wait)(unsigned groups, const char *name, unsigned line);
    void (*tensor_load)(void *shared, const void *map, unsigned long long *barrier, int rank, const int *at, unsigned blocks,
                        const char *name, unsigned line);
    void (*tensor_store)(const void *map, const void *shared, int rank, const int *at, const char *name, unsigned line);
    void (*tensor_prefetch)(const void *map, unsigned line);
    void (*barrier_sync)(unsigned id, unsigned threads, unsigned line);
    void (*barrier_arrive)(unsigned id, unsigned threads, unsigned line);
    void (*cluster_arrive)(unsigned line);
    void (*cluster_wait)(unsigned line);
    unsigned (*cluster_rank)(void);
    unsigned (*cluster_blocks)(void);
    void *(*cluster_map)(void *shared, unsigned rank, unsigned line);
    unsigned (*elected_lane)(void);
    void (*grid_wait)(unsigned line);
    void (*grid_launch_dependents)(unsigned line);
} cj_emu_async_services;

/* What the device does for a kernel. Functions that find a mistake do not return: the launch ends there.
 * pc: a return address in the kernel, from which the line is found. */
typedef struct cj_emu_runtime {
    /* Before every access that is not to the fibre's own stack. kind: bits of cj_emu_access. */
    void (*access)(const void *address, unsigned long bytes, unsigned kind, const void *pc);
    void (*misaligned)(const void *address, unsigned long alignment, const void *pc);
    const cj_emu_place *(*place)(void);
    unsigned char *(*shared)(void);
    unsigned (*barrier)(cj_emu_barrier_op op, unsigned value, unsigned line);
    unsigned long long (*warp)(const cj_emu_warp_call *call);
    void (*fence)(void);            /* __threadfence and wider: other blocks may read what this one wrote */
    void (*trap)(const char *what, unsigned line);
    const cj_emu_async_services *async;
    const cj_emu_matrix_services *matrix;
} cj_emu_runtime;

typedef struct cj_emu_entry {
    const char *name;
    const char *args;               /* what each argument is, as in the launch table: "input,weights,output,i32,i64" */
    int n_args;
    void (*call)(void **args);      /* pointers to the arguments, as cuLaunchKernel takes them */
    int bounds[3];                  /* __launch_bounds__: threads of a block, blocks of a multiprocessor; 0: not given */
} cj_emu_entry;

typedef struct cj_emu_module {
    unsigned abi;                   /* CJ_EMU_ABI; first, in every version */
    unsigned cpu;                   /* CJ_EMU_NEEDS_ bits */
    const cj_emu_entry *entries;
    int n_entries;
    const cj_emu_runtime **runtime; /* where the module wants it */
} cj_emu_module;

#endif
