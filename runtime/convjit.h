/* convjit.h: the public C API of convjit, a code-generating compiler for 2-D convolution.
 *
 * From a problem to a launch:
 *
 *     convjit *cj;  convjit_problem p;  convjit_plan *plan;
 *     convjit_open(&cj, NULL);
 *     convjit_problem_parse(&p, "n8c64h512w256k128r5s7_f16_nhwc_bias_relu");
 *     convjit_plan_create(&plan, cj, &p);                 // generates, compiles or finds in the cache, loads
 *     convjit_plan_launch(plan, &tensors, stream);        // as often as you like, from any thread
 *     convjit_plan_destroy(plan);
 *     convjit_close(cj);
 *
 * What is computed (cross-correlation, as in every deep-learning framework):
 *
 *     y[n,k,p,q] = act( bias[k] + sum over c,r,s of
 *                       x[n, (k / (K/groups)) * (C/groups) + c, p*stride_h + r*dil_h - pad_top,
 *                                                               q*stride_w + s*dil_w - pad_left] * w[k,c,r,s] )
 *                  + residual[n,k,p,q]
 *
 *     P = (H + pad_top + pad_bottom - dil_h*(R-1) - 1) / stride_h + 1,    Q likewise; pixels outside x count as 0.
 *
 * Conventions, true of every function here unless its text says otherwise:
 *   - It returns convjit_status; CONVJIT_OK is 0. On failure the detail is in convjit_errmsg(), nothing is half done,
 *     and out parameters are left as they were.
 *   - It is safe to call from any number of threads at once. A convjit, and a plan, may be shared by threads.
 *   - Handles are opaque and owned by the caller, who destroys them with the function named beside the constructor.
 *     Text that comes back through a char ** is the caller's: free it with convjit_free.
 *   - The library never exits, aborts, or installs a handler, and prints only what CONVJIT_VERBOSE asks for.
 *   - Structs that the caller fills begin with `size`: set it to sizeof the struct, zero the rest, then fill what matters.
 *     (convjit_problem_init and convjit_problem_parse do so.) A larger struct from a newer header is accepted as long as
 *     the fields that this library does not know are zero.
 *
 * Environment: CONVJIT_CACHE_DIR, CONVJIT_CACHE_PATH, CONVJIT_NVRTC, CONVJIT_DRIVER, CONVJIT_VERBOSE. See convjit(1).
 */
#ifndef CONVJIT_H
#define CONVJIT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(CONVJIT_BUILD) && defined(__GNUC__)
#define CONVJIT_API __attribute__((visibility("default")))
#else
#define CONVJIT_API
#endif

#define CONVJIT_VERSION_MAJOR 0
#define CONVJIT_VERSION_MINOR 1
#define CONVJIT_VERSION_PATCH 0

/* ---- Status ------------------------------------------------------------------------------------------------------ */

typedef enum convjit_status {
    CONVJIT_OK = 0,
    CONVJIT_INVALID,      /* an argument or a field of a problem is out of range or contradicts another */
    CONVJIT_PARSE,        /* a string is not of the form that this function reads */
    CONVJIT_UNSUPPORTED,  /* well-formed, but no schedule serves it on this target, or a limit of the device is exceeded */
    CONVJIT_NO_MEMORY,    /* the host allocator, or the device, has none left */
    CONVJIT_NO_COMPILER,  /* a kernel had to be compiled and no NVRTC (for the emulated device: no C++ compiler) was found */
    CONVJIT_NO_DRIVER,    /* the CUDA driver library is not there or too old */
    CONVJIT_NO_DEVICE,    /* no GPU, or not the one that was asked for */
    CONVJIT_COMPILE,      /* the compiler refused generated source: a bug in convjit; the log is in convjit_errmsg */
    CONVJIT_GENERATE,     /* the generator failed or broke its contract: a bug in convjit */
    CONVJIT_DRIVER,       /* a driver call failed */
    CONVJIT_EMULATOR,     /* the emulated device caught a kernel doing something illegal (race, wild access, ...) */
    CONVJIT_IO,           /* a file could not be read or written */
    CONVJIT_CORRUPT,      /* a bundle or cache file is damaged */
    CONVJIT_STATUS_COUNT
} convjit_status;

/* A constant name such as "CONVJIT_INVALID"; "unknown status" for a number that is none. */
CONVJIT_API const char *convjit_strstatus(convjit_status status);

/* The detail of this thread's last failure, in one or more lines; "" before the first. Valid until this thread's next call
 * of a function of this library. Never NULL. */
CONVJIT_API const char *convjit_errmsg(void);

/* "0.1.0" */
CONVJIT_API const char *convjit_version(void);

/* Frees what came back through a char ** or void ** of this API. NULL is fine. */
CONVJIT_API void convjit_free(void *memory);

/* ---- Problem ----------------------------------------------------------------------------------------------------- */

/* Storage type and arithmetic in one: what benchdnn calls dt and the math mode together. Accumulation is always FP32. */
typedef enum convjit_math {
    CONVJIT_F32 = 0, /* float storage; error no worse than a loop of FP32 FMAs */
    CONVJIT_TF32,    /* float storage; products may be taken of inputs rounded or truncated to TF32 (10-bit mantissa) */
    CONVJIT_F16,     /* IEEE half storage */
    CONVJIT_BF16,    /* bfloat16 storage */
    CONVJIT_MATH_COUNT
} convjit_math;

typedef enum convjit_layout {
    CONVJIT_NCHW = 0, /* x is N,C,H,W and y, residual are N,K,P,Q, last index fastest, no gaps */
    CONVJIT_NHWC,     /* x is N,H,W,C and y, residual are N,P,Q,K (PyTorch's channels_last) */
    CONVJIT_LAYOUT_COUNT
} convjit_layout;

typedef enum convjit_weights_layout {
    CONVJIT_KCRS = 0, /* w is K,C/groups,R,S, last index fastest, no gaps */
    CONVJIT_KRSC,     /* w is K,R,S,C/groups (the weights of PyTorch's channels_last models) */
    CONVJIT_WEIGHTS_LAYOUT_COUNT
} convjit_weights_layout;

typedef enum convjit_activation {
    CONVJIT_IDENTITY = 0,
    CONVJIT_RELU,       /* max(v, 0) */
    CONVJIT_LEAKY_RELU, /* v >= 0 ? v : alpha*v */
    CONVJIT_SILU,       /* v * sigmoid(v) */
    CONVJIT_GELU,       /* v * (1 + erf(v / sqrt 2)) / 2 */
    CONVJIT_HARDSWISH,  /* v * min(max(v + 3, 0), 6) / 6 */
    CONVJIT_SIGMOID,    /* 1 / (1 + exp(-v)) */
    CONVJIT_TANH,
    CONVJIT_CLAMP,      /* min(max(v, alpha), beta) */
    CONVJIT_ACTIVATION_COUNT
} convjit_activation;

/* What to compute. Either layout of the weights goes with either layout of the other tensors; bias has K elements. Every
 * tensor has the storage type of `math`. */
typedef struct convjit_problem {
    size_t size;
    int64_t n, c, h, w; /* input */
    int64_t k, r, s;    /* output channels, filter height and width */
    int64_t stride_h, stride_w;
    int64_t pad_top, pad_left, pad_bottom, pad_right; /* zeros around x; may exceed the filter; not negative */
    int64_t dil_h, dil_w;                             /* 1 is dense */
    int64_t groups;                                   /* divides c and k */
    convjit_math math;
    convjit_layout layout;
    convjit_activation activation;
    float alpha, beta; /* leaky_relu: slope (default 0.01), 0; clamp: lower, upper bound; otherwise 0, 0 */
    int bias;          /* 0 or 1 */
    int residual;      /* 0 or 1: a tensor of y's shape, added last */
    convjit_weights_layout weights_layout;
} convjit_problem;

/* A 1x1 kernel of one channel on one pixel, f32, nchw, kcrs: defaults to overwrite. */
CONVJIT_API void convjit_problem_init(convjit_problem *problem);

/* Reads a problem string such as "n64c256h56w56k256r3s3_stride2_pad1_g32_f16_nhwc_bias_relu", or a benchdnn descriptor
 * such as "mb64_ic256ih56oc256oh28kh3sh2ph1". The fields behind the sizes, joined by '_', in any order, each at most once:
 *     strideA strideAxB     padA padAxB padTxLxBxR     dilA dilAxB     gA     f32 tf32 f16 bf16     nchw nhwc
 *     kcrs krsc   bias   residual   relu leaky_relu leaky_reluSLOPE silu gelu hardswish sigmoid tanh clampLOxHI
 * krsc comes out as kcrs where C/groups or R*S is 1: both are the same memory then, and one kernel serves both.
 * All sizes n c h w k r s are required, in that order. The problem is checked as convjit_problem_check does.
 * Errors: CONVJIT_PARSE with the place and what was expected there; those of convjit_problem_check. */
CONVJIT_API convjit_status convjit_problem_parse(convjit_problem *problem, const char *text);

/* Writes the canonical string, as snprintf does: at most `capacity` bytes with the final 0, and returns the length that
 * the whole string has without it. parse(format(p)) == p, but for a krsc that is also kcrs, and format(parse(s)) is
 * canonical. */
CONVJIT_API size_t convjit_problem_format(const convjit_problem *problem, char *text, size_t capacity);

/* CONVJIT_OK, or CONVJIT_INVALID and a message that names the field and the limit: sizes below 1, groups that do not
 * divide c and k, a filter larger than the padded input, any tensor of 2^62 bytes or more, unknown enum values. */
CONVJIT_API convjit_status convjit_problem_check(const convjit_problem *problem);

/* Output height and width. The problem must be one that convjit_problem_check accepts. */
CONVJIT_API int64_t convjit_problem_p(const convjit_problem *problem);
CONVJIT_API int64_t convjit_problem_q(const convjit_problem *problem);

/* Elements of each tensor, and bytes of one element. Same condition. */
typedef enum convjit_tensor {
    CONVJIT_INPUT = 0, CONVJIT_WEIGHTS, CONVJIT_BIAS, CONVJIT_RESIDUAL, CONVJIT_OUTPUT, CONVJIT_TENSOR_COUNT
} convjit_tensor;
CONVJIT_API int64_t convjit_problem_elements(const convjit_problem *problem, convjit_tensor tensor); /* 0: not used */
CONVJIT_API size_t convjit_element_size(convjit_math math);                                          /* 4 or 2 */

/* ---- Context ----------------------------------------------------------------------------------------------------- */

typedef struct convjit convjit;

typedef enum convjit_device {
    CONVJIT_GPU = 0, /* a CUDA device, through the driver API */
    CONVJIT_EMU,     /* the emulated device: the same kernel text on the CPU. For tests and for reading; slow */
    CONVJIT_DEVICE_COUNT
} convjit_device;

/* Where a kernel came from. */
typedef enum convjit_origin { CONVJIT_FROM_MEMORY = 0, CONVJIT_FROM_DISK, CONVJIT_COMPILED } convjit_origin;

typedef struct convjit_config {
    size_t size;
    convjit_device device; /* what plans run on */
    int ordinal;           /* GPU number as the driver counts, when the calling thread has no current CUDA context; a
                              current context always wins */
    const char *arch;      /* "sm_80" ... "sm_120"; NULL: the GPU's own, for the emulated device sm_90a */
    const char *cache_dir; /* NULL: $CONVJIT_CACHE_DIR, else $XDG_CACHE_HOME/convjit, else ~/.cache/convjit; "": memory only */
    const char *cache_path;/* colon-separated read-only directories searched first; NULL: $CONVJIT_CACHE_PATH */
    const char *nvrtc;     /* path of the NVRTC library; "none": never compile; NULL: $CONVJIT_NVRTC, else searched for */
    const char *driver;    /* path of the CUDA driver library; "none"; NULL: $CONVJIT_DRIVER, else libcuda.so.1 */
    int verbose;           /* 0: $CONVJIT_VERBOSE; 1: a line an event; 2: also why each other schedule was refused; -1: none */
    void (*log)(void *user, const char *line); /* receives those lines, without newline, from any thread; NULL: stderr */
    void *log_user;
    /* Memory of the generator's Lua state: realloc semantics, with the old size; new_size 0 frees. NULL: the C library's.
     * Called by one thread at a time. */
    void *(*alloc)(void *user, void *memory, size_t old_size, size_t new_size);
    void *alloc_user;
} convjit_config;

/* Opens a context. NULL for the defaults. Touches no device, compiler or file yet: each is opened when first needed, and
 * its absence is the error of the call that needed it. The strings are copied. Destroy with convjit_close. */
CONVJIT_API convjit_status convjit_open(convjit **cj, const convjit_config *config);

/* Closes a context. Destroy its plans first. No other thread may still use it. NULL is fine. */
CONVJIT_API void convjit_close(convjit *cj);

/* ---- Generated source, schedules: no CUDA needed ------------------------------------------------------------------- */

/* The CUDA source of a problem's kernel, byte for byte what NVRTC would see. `arch` NULL: the context's (without one:
 * sm_90a). `schedule` NULL: the one with the least predicted time; a name ("direct"): the best of that schedule; a full
 * specification as the head of a dumped source has it: exactly that one. Free *source with convjit_free.
 * Errors: CONVJIT_UNSUPPORTED with the reasons; CONVJIT_INVALID for an unknown arch or schedule. */
CONVJIT_API convjit_status convjit_generate(convjit *cj, const convjit_problem *problem, const char *arch,
                                            const char *schedule, char **source);

/* The same kernel as a self-contained Python file for PyTorch (load_inline and a ModelNew). */
CONVJIT_API convjit_status convjit_generate_torch(convjit *cj, const convjit_problem *problem, const char *arch,
                                                  const char *schedule, char **source);

/* Every schedule considered for a problem, as JSON:
 * {"problem","arch","candidates":[{"schedule","predicted_us","why"}, ...best first],"refused":[{"schedule","why"}]}
 * A candidate whose schedule is a name alone ("direct") stands for candidates of that schedule that are not listed, none of
 * which is predicted to take less. */
CONVJIT_API convjit_status convjit_schedules(convjit *cj, const convjit_problem *problem, const char *arch, char **json);

/* ---- Precompiling and the cache: no GPU needed --------------------------------------------------------------------- */

typedef struct convjit_precompile_options {
    size_t size;
    int jobs;             /* threads; 0: one a core */
    const char *schedule; /* as in convjit_generate */
    /* Called after each problem, one call at a time, from some thread: how many are done, of how many, where this one's
     * kernel came from, or with what status it failed (message in convjit_errmsg during the call). NULL: none. */
    void (*progress)(void *user, size_t done, size_t total, const convjit_problem *problem, convjit_origin origin,
                     convjit_status status);
    void *user;
} convjit_precompile_options;

/* Compiles the kernels of n problems for `arch` into the cache directory, with several threads; what is there already is
 * not compiled again. Goes on past a problem that fails, and returns the first failure by position (CONVJIT_OK: none).
 * *compiled, unless NULL, receives how many kernels were compiled. */
CONVJIT_API convjit_status convjit_precompile(convjit *cj, const convjit_problem *problems, size_t n, const char *arch,
                                              const convjit_precompile_options *options, size_t *compiled);

/* Writes every valid entry of the cache directory into one bundle file (atomically), or adds a bundle's entries to the
 * cache directory. An entry is a kernel, or a selection: which kernel serves one problem. A damaged bundle is
 * CONVJIT_CORRUPT and adds nothing. *entries, unless NULL, receives the count. */
CONVJIT_API convjit_status convjit_cache_export(convjit *cj, const char *file, size_t *entries);
CONVJIT_API convjit_status convjit_cache_import(convjit *cj, const char *file, size_t *entries);

/* ---- Plans --------------------------------------------------------------------------------------------------------- */

typedef struct convjit_plan convjit_plan;

/* Device pointers of a launch (host pointers from convjit_device_alloc on the emulated device). Each must be aligned to
 * convjit_plan_alignment bytes. A tensor that the problem does not use is ignored. The output may be the residual, but may
 * otherwise overlap no other tensor. */
typedef struct convjit_tensors {
    size_t size;
    const void *input, *weights, *bias, *residual;
    void *output;
    void *workspace; /* convjit_plan_workspace bytes, 256-byte aligned; NULL if that is 0 */
    const void *packed; /* NULL, or what convjit_weights_pack made; ignored by a plan that packs nothing */
} convjit_tensors;

/* Makes a plan for the problem on the context's device: picks a schedule, takes its kernel from memory, disk or the
 * compiler, loads it. May compile (0.1 to 1 s), the first time for a tuple; never for another N, H or W with the same
 * schedule. When several threads want one kernel, one compiles and the others wait. With no compiler, the fastest
 * schedule whose kernel is in the cache serves. Destroy with convjit_plan_destroy. */
CONVJIT_API convjit_status convjit_plan_create(convjit_plan **plan, convjit *cj, const convjit_problem *problem);

/* The same with a schedule's name or specification, as in convjit_generate. */
CONVJIT_API convjit_status convjit_plan_create_with(convjit_plan **plan, convjit *cj, const convjit_problem *problem,
                                                    const char *schedule);

/* Bytes of workspace a launch needs; 0 if none. A launch with `packed` needs convjit_plan_packed_size bytes less. */
CONVJIT_API size_t convjit_plan_workspace(const convjit_plan *plan);

/* Weights that stay the same from launch to launch, as in inference, can be packed once, into the order in which the plan's
 * kernel reads them; else every launch does this anew. Bytes of the packed weights; 0 if the kernel takes them as they are. */
CONVJIT_API size_t convjit_plan_packed_size(const convjit_plan *plan);

/* Enqueues the packing of `weights` into `packed`, which is memory of the caller's, convjit_plan_packed_size bytes, 256-byte
 * aligned. Does nothing if that is 0. Like convjit_plan_launch it never allocates, compiles, locks or synchronises, may be
 * captured, and may be called by any number of threads, each with its own `packed`.
 * Launches may take `packed` once the packing is done: on the same stream, or behind an event of it. They only read it, so any
 * number of them may share it, in any number of threads. It serves every plan of the same problem but for N, H and W, whose
 * convjit_plan_schedule is the same on a GPU of the same architecture. It knows nothing of later changes of `weights`: whoever
 * changes them packs again, when no launch reads `packed` any more. Such launches read no `weights`, which may be NULL. */
CONVJIT_API convjit_status convjit_weights_pack(const convjit_plan *plan, const void *weights, void *packed, void *stream);

/* Bytes to which every tensor of a launch must be aligned. */
CONVJIT_API size_t convjit_plan_alignment(const convjit_plan *plan);

/* Enqueues the convolution on a CUstream (cudaStream_t; NULL is the default stream). Never allocates, compiles, locks or
 * synchronises; may be captured into a CUDA graph. The tensors must live until the work is done; the plan must live until
 * the last launch has returned. Any number of threads may launch one plan, each with its own workspace. On the emulated
 * device the work is done when the call returns, and `stream` must be NULL. */
CONVJIT_API convjit_status convjit_plan_launch(const convjit_plan *plan, const convjit_tensors *tensors, void *stream);

/* Several lines for people: problem, device, schedule and why it won, launches, registers, shared memory, workspace. */
CONVJIT_API convjit_status convjit_plan_describe(const convjit_plan *plan, char **text);

/* The specification of the plan's schedule (valid as long as the plan), and where its kernel came from. */
CONVJIT_API const char *convjit_plan_schedule(const convjit_plan *plan);
CONVJIT_API convjit_origin convjit_plan_origin(const convjit_plan *plan);

/* NULL is fine. Does not synchronise; kernels that are still running are not disturbed. */
CONVJIT_API void convjit_plan_destroy(convjit_plan *plan);

/* ---- Device memory, for programs that have no other way ------------------------------------------------------------ */

/* Memory of the context's device, 256-byte aligned. On the emulated device it stands before a guard page.
 * Contents are undefined (the emulated device fills it with NaN patterns). Free with convjit_device_free, for which
 * NULL is fine. */
CONVJIT_API convjit_status convjit_device_alloc(convjit *cj, void **memory, size_t bytes);
CONVJIT_API void convjit_device_free(convjit *cj, void *memory);

/* Blocking copies, ordered behind all earlier work on the default stream. */
CONVJIT_API convjit_status convjit_device_write(convjit *cj, void *device, const void *host, size_t bytes);
CONVJIT_API convjit_status convjit_device_read(convjit *cj, void *host, const void *device, size_t bytes);

/* Waits for a stream and reports what went wrong on it. */
CONVJIT_API convjit_status convjit_device_sync(convjit *cj, void *stream);

/* JSON about this installation: version, generator digest, cache directories, NVRTC and driver found (or every place that
 * was searched), device, emulator's compiler. Never fails for a thing that is missing. */
CONVJIT_API convjit_status convjit_info(convjit *cj, char **json);

#ifdef __cplusplus
}
#endif
#endif
