/* device_abi.h: what a compiled kernel module and the emulated device know of each other. C11 and C++17.
 *
 * A module is a shared object made of the kernel text and device.h. It exports one symbol, cj_emu_module_info. The device
 * stores its cj_emu_runtime there and then calls an entry's `call` once for each CUDA thread, each on a fibre of its own.
 */
#ifndef CJ_EMU_DEVICE_ABI_H
#define CJ_EMU_DEVICE_ABI_H

enum {
    CJ_EMU_ABI = 1,               /* changes with anything in this file */
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
    CJ_EMU_REDUCE_OR, CJ_EMU_REDUCE_XOR, CJ_EMU_WARP_OPS
} cj_emu_warp_op;

/* One lane's part in it. */
typedef struct cj_emu_warp_call {
    cj_emu_warp_op op;
    unsigned mask;            /* lanes that take part */
    unsigned long long value; /* this lane's operand, zero-extended */
    unsigned lane, width;     /* shuffles: source lane, delta or lane mask; segment size */
    unsigned line;            /* of the kernel text */
} cj_emu_warp_call;

typedef enum cj_emu_access { CJ_EMU_READ = 1, CJ_EMU_WRITE = 2, CJ_EMU_ATOMIC = 4 } cj_emu_access;

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
} cj_emu_runtime;

typedef struct cj_emu_entry {
    const char *name;
    const char *args;               /* what each argument is, as in the launch table: "input,weights,output,i32,i64" */
    int n_args;
    void (*call)(void **args);      /* pointers to the arguments, as cuLaunchKernel takes them */
} cj_emu_entry;

typedef struct cj_emu_module {
    unsigned abi;                   /* CJ_EMU_ABI; first, in every version */
    unsigned cpu;                   /* CJ_EMU_NEEDS_ bits */
    const cj_emu_entry *entries;
    int n_entries;
    const cj_emu_runtime **runtime; /* where the module wants it */
} cj_emu_module;

#endif
