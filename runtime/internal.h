/* internal.h: what the runtime's files share. Read it top to bottom to see how a problem becomes a launch:
 *
 *   problem.c    strings and checked shape arithmetic        script.c   the generator (Lua): problem -> cj_kernel
 *   expr.c       launch expressions in N, H, W               kernel.c   cj_kernel: checks, text form
 *   key.c        cache keys, of sha256.c's digests           cache.c    one file an entry     bundle.c  many in one file
 *   selection.c  problem -> key, as it was the last time: a short cut past the generator
 *   nvrtc.c      source -> cubins; parts.c: as one binary    emu/       source -> shared object, and the device that runs it
 *   driver.c     the GPU                                     context.c  all of these, opened when first needed
 *   compile.c    key -> binary, once a process               plan.c     kernel + device + N, H, W -> launch
 *
 * Names: cj_ is internal, convjit_ is public. A function that returns convjit_status has called cj_fail when it fails.
 */
#ifndef CJ_INTERNAL_H
#define CJ_INTERNAL_H

#include <stdarg.h>
#include <stdbool.h>
#include "convjit.h"

/* ---- status.c ---- */

/* Sets this thread's message and returns `status`. */
convjit_status cj_fail(convjit_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Puts "context: " before this thread's message and returns `status`: for callers that know more. */
convjit_status cj_fail_in(convjit_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Checks a struct of the caller's that begins with its size: `known` bytes or more, and nothing set behind those. */
convjit_status cj_check_struct(const void *fields, size_t known, const char *type);

/* ---- text.c: growing text, JSON strings, numbers; none of it depends on the locale ---- */

/* vsnprintf with '.' as the decimal point. */
int cj_vsnprintf(char *text, size_t capacity, const char *format, va_list args) __attribute__((format(printf, 3, 0)));

typedef struct cj_text { char *data; size_t length, capacity; bool failed; } cj_text; /* {0} is empty; data ends in 0 */
void cj_text_add(cj_text *t, const void *bytes, size_t n);
void cj_text_puts(cj_text *t, const char *s);
void cj_text_printf(cj_text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
void cj_text_json(cj_text *t, const char *s); /* quoted and escaped */
void cj_text_free(cj_text *t);
/* Hands the text over as a malloc'd string and resets t; CONVJIT_NO_MEMORY if any addition failed. */
convjit_status cj_text_take(cj_text *t, char **out);
/* The text in double quotes, for a message: unprintable bytes as '?', and cut with "..." when it is long. */
enum { CJ_QUOTE = 160 };
void cj_quote(char out[CJ_QUOTE], const char *text, size_t length);
/* The shortest text that reads back as the same float, and its reader (whole string; false if not a finite decimal). */
void cj_float_format(float v, char text[32]);
bool cj_float_parse(const char *text, size_t length, float *out);

/* ---- problem.c ---- */

bool cj_mul64(int64_t a, int64_t b, int64_t *out); /* false on overflow */
bool cj_add64(int64_t a, int64_t b, int64_t *out);
const char *cj_math_name(convjit_math m);                 /* "f32" ... */
const char *cj_layout_name(convjit_layout l);             /* "nchw" ... */
const char *cj_weights_layout_name(convjit_weights_layout l); /* "kcrs" ... */
const char *cj_activation_name(convjit_activation a);     /* "identity" ... */
/* The layout of the weights; kcrs where krsc is the same memory. All that tells problems apart goes by this. */
convjit_weights_layout cj_weights_layout(const convjit_problem *problem);

/* ---- benchdnn.c: oneDNN's descriptors, "g32mb64_ic256ih56_oc256oh56_kh3ph1_n\"name\"" ---- */

bool cj_is_benchdnn(const char *text); /* begins like one, and not like a problem string */
/* Fills the sizes of an initialised problem; the caller checks it. CONVJIT_PARSE with the place, or CONVJIT_INVALID. */
convjit_status cj_benchdnn_parse(convjit_problem *problem, const char *text);

/* ---- expr.c: integer expressions of N, H, W, P, Q ----
 * Text such as "ceildiv(P, 4) * ceildiv(Q, 32) * N". Non-negative literals; variables N H W P Q; + - * / % (division
 * truncates, operands non-negative), comparisons < <= > >= == != and && || giving 0 or 1, unary -, parentheses,
 * functions ceildiv(a,b) min(a,b) max(a,b). Checked 64-bit: overflow and division by zero are errors. */
typedef struct cj_sizes { int64_t n, h, w, p, q; } cj_sizes;
convjit_status cj_expr_eval(const char *expr, const cj_sizes *sizes, int64_t *out);
convjit_status cj_expr_check(const char *expr); /* the syntax alone */

/* ---- kernel.c: what the generator returns, checked; and its text form in cache entries ---- */

enum {
    CJ_MAX_LAUNCHES = 8, CJ_MAX_ARGS = 32, CJ_MAX_REQUIRES = 16, CJ_MAX_OPTIONS = 16, CJ_MAX_CLUSTER = 8, CJ_MAX_MAPS = 8
};

typedef enum cj_arg_kind { /* names in Lua and in the text form: */
    CJ_ARG_INPUT, CJ_ARG_WEIGHTS, CJ_ARG_BIAS, CJ_ARG_RESIDUAL, CJ_ARG_OUTPUT, /* "input" ... "output": device pointer */
    CJ_ARG_WORKSPACE, /* "workspace": device pointer + the expression's bytes */
    CJ_ARG_PACKED,    /* "packed": likewise, of the packed weights */
    CJ_ARG_I32,       /* "i32": int, the expression's value; an error if it does not fit */
    CJ_ARG_I64,       /* "i64": long long */
    CJ_ARG_TENSOR_MAP, /* "tensor_map": a map of 128 bytes, by value (`const __grid_constant__ TensorMap`) */
    CJ_ARG_KIND_COUNT
} cj_arg_kind;

/* A tensor map: how tensor copies (TMA) see a piece of memory. Axes are counted from the fastest; of a box all elements are
 * copied, or along an axis each element_strides-th. Unlike cuTensorMapEncodeTiled, box counts what is copied. */
enum { CJ_MAX_AXES = 5, CJ_TENSOR_MAP_BYTES = 128 };
typedef enum cj_map_element { CJ_MAP_F32, CJ_MAP_TF32, CJ_MAP_F16, CJ_MAP_BF16, CJ_MAP_COUNT } cj_map_element;
typedef struct cj_tensor_map {
    cj_map_element element;
    int rank;
    int swizzle;                        /* 0, 32, 64, 128 bytes */
    int64_t dims[CJ_MAX_AXES];          /* elements */
    int64_t strides[CJ_MAX_AXES - 1];   /* bytes from one to the next along axis 1, 2, ... */
    int box[CJ_MAX_AXES], element_strides[CJ_MAX_AXES];
} cj_tensor_map;
/* The same in a launch table: dims, strides and the offset behind the tensor's start, in bytes, are expressions. */
typedef struct cj_tensor_arg {
    cj_arg_kind tensor;                 /* a tensor, the workspace or the packed weights */
    cj_tensor_map map;                  /* without dims and strides */
    char *offset, *dims[CJ_MAX_AXES], *strides[CJ_MAX_AXES - 1];
} cj_tensor_arg;

typedef struct cj_arg {
    cj_arg_kind kind;
    char *expr;           /* NULL for the five tensors and for maps */
    cj_tensor_arg *map;   /* NULL but for maps */
} cj_arg;

typedef struct cj_launch {
    char *entry;       /* extern "C" name in the source */
    char *grid[3];     /* expressions, each >= 1 and within the hardware's limits when evaluated */
    int block[3];
    int cluster[3];    /* blocks of a cluster, at most CJ_MAX_CLUSTER; divides the grid */
    bool packs;        /* reads weights and writes packed weights, nothing else; before all launches that do not */
    bool overlap;      /* may begin while the launch before it still runs; calls grid_wait() (sm_90). Not of the first */
    char *smem;        /* expression: dynamic shared memory in bytes */
    int n_args;
    cj_arg args[CJ_MAX_ARGS];
} cj_launch;

typedef struct cj_kernel {
    char *name;        /* names the tuple and the schedule; a C identifier */
    char *tuple;       /* canonical problem string without n, h, w: "c64k128r5s7_f16" */
    char *arch;        /* "sm_90a" */
    char *schedule;    /* full specification, "direct:kt=64,..." ; the part before ':' is the schedule's name */
    char *why;         /* one line for people; may depend on N, H, W */
    char *source;      /* CUDA; NULL in a kernel that came from a cache entry */
    int parts;         /* of the source, each with entry points of its own: where CONVJIT_PART is defined it is 0, 1, ..., and the
                          others drop out. 0, 1: not in parts. Not in the text form: only who compiles asks */
    int n_options;
    char *options[CJ_MAX_OPTIONS]; /* compiler options in order */
    char *workspace;   /* expression: bytes */
    char *packed;      /* expression, the same for all N, H and W: bytes of the packed weights. NULL: it packs none */
    int align;         /* bytes to which tensors must be aligned: power of two, 1..256 */
    int n_requires;
    struct { char *expr, *why; } requires[CJ_MAX_REQUIRES]; /* facts of N, H, W without which this kernel must not run */
    int n_launches;
    cj_launch launches[CJ_MAX_LAUNCHES]; /* enqueued in order on one stream */
} cj_kernel;

const char *cj_arg_kind_name(cj_arg_kind kind);
bool cj_arg_kind_parse(const char *name, size_t length, cj_arg_kind *out); /* false: no such kind */
/* What a kernel is specialised on: the canonical problem string without n, h, w, "c64k128r5s7_pad2_f16". As snprintf does. */
size_t cj_kernel_tuple(const convjit_problem *problem, char *text, size_t capacity);
void cj_kernel_free(cj_kernel *k); /* its parts and itself; NULL is fine */
/* Every field present, expressions well-formed, block <= 1024 threads, smem and names sane; CONVJIT_GENERATE or, told so
 * by `from_cache`, CONVJIT_CORRUPT, naming the field. */
convjit_status cj_kernel_check(const cj_kernel *k, bool from_cache);
/* All but source, as lines of text; the reader checks as above. */
convjit_status cj_kernel_write(const cj_kernel *k, cj_text *out);
convjit_status cj_kernel_read(const char *text, size_t length, cj_kernel **out);

/* ---- tensor_map.c ---- */

const char *cj_map_element_name(cj_map_element element); /* "f32" ... */
bool cj_map_element_parse(const char *name, size_t length, cj_map_element *out);
int cj_map_element_bytes(cj_map_element element);
/* The limits of the hardware, as cuTensorMapEncodeTiled has them. CONVJIT_INVALID, naming the field and the limit. The first
 * is about what does not depend on N, H, W: rank, swizzle, box, element strides. */
convjit_status cj_tensor_map_check_box(const cj_tensor_map *map);
convjit_status cj_tensor_map_check(const cj_tensor_map *map);

/* ---- embed.lua: gen/, templates/ and the emulated device's headers as data, sorted by name ("gen/init.lua") ---- */

struct cj_embedded { const char *name, *text; size_t length; }; /* text ends in a 0 that length does not count */
extern const struct cj_embedded cj_embedded_files[];
extern const size_t cj_embedded_count;
extern const char cj_embedded_digest[65]; /* hex SHA-256 over names and texts, each behind its length as 8 bytes, LE */

/* ---- script.c: the only file that knows Lua ---- */

typedef struct cj_script cj_script;
convjit_status cj_script_open(cj_script **out, const convjit_config *config);
void cj_script_close(cj_script *s);
/* gen/init.lua's generate(problem, target, schedule). target: arch and multiprocessors (0: the arch's usual number).
 * Any of the outputs may be NULL. candidates: JSON arrays' text, as convjit_schedules shows them (see gen/init.lua).
 * One thread at a time (context.c locks). */
convjit_status cj_script_generate(cj_script *s, const convjit_problem *p, const char *arch, int sms, const char *schedule,
                                  cj_kernel **kernel, char **schedules_json);
/* Specifications of the candidates, best first: malloc'd array of malloc'd strings. A schedule's name alone stands for those of
 * its candidates that are not in the list: ask for them with that name as `schedule`, which is else NULL. */
convjit_status cj_script_candidates(cj_script *s, const convjit_problem *p, const char *arch, int sms, const char *schedule,
                                    char ***specs, size_t *n);
/* "SCHEDULE: why" for each schedule that was refused, likewise. */
convjit_status cj_script_refusals(cj_script *s, const convjit_problem *p, const char *arch, int sms, char ***lines,
                                  size_t *n);
convjit_status cj_script_torch(cj_script *s, const convjit_problem *p, const char *arch, const char *schedule, char **out);
/* true if gen/target.lua knows it */
bool cj_script_knows_arch(cj_script *s, const char *arch);
/* Hex SHA-256 of everything embedded. */
const char *cj_script_digest(void);
/* Whether scripts are those that the digest is of, and not read from CONVJIT_GEN_DIR. */
bool cj_script_embedded(void);
/* The number of multiprocessors that an architecture is generated for when none is given. */
convjit_status cj_script_usual_sms(cj_script *s, const char *arch, int *sms);
/* For tests: a kernel text that is no schedule's, rendered as a template that errors call `chunk`, with the primitives that it
 * names in front, as a generated text has them. Free *source. */
convjit_status cj_script_source(cj_script *s, const char *template, const char *chunk, char **source);
/* For tests: runs a script in the generator's sandbox with one more name, check(name, ok), which calls `check`. */
convjit_status cj_script_run(cj_script *s, const char *text, size_t length, const char *chunk,
                             void (*check)(void *user, const char *name, bool ok), void *user);

/* ---- sha256.c ---- */

typedef struct cj_sha256 { uint32_t state[8]; uint64_t length; unsigned char block[64]; } cj_sha256;
void cj_sha256_init(cj_sha256 *h);
void cj_sha256_add(cj_sha256 *h, const void *data, size_t n);
void cj_sha256_end(cj_sha256 *h, unsigned char digest[32]);
void cj_sha256_hex(const void *data, size_t n, char hex[65]);

/* ---- key.c ---- */

/* A key's text: length-prefixed fields of tuple, schedule, arch, options in order, source, format version ("source key"),
 * and the compiler's identity. Two digests, because a machine with no compiler looks an entry up by its source key alone. */
typedef struct cj_key {
    char source_hex[65];   /* SHA-256 of all but the compiler's identity */
    char compiler_hex[65]; /* SHA-256 of the compiler's identity; "" if no compiler is known */
} cj_key;
/* kind: the compiler's (cj_compiler.kind), so that a machine with no compiler never takes a host's shared object for a cubin.
 * identity: NULL if there is no compiler. text, unless NULL, receives the full key text (the source as its digest and length). */
convjit_status cj_key_make(const cj_kernel *k, const char *kind, const char *identity, cj_key *key, cj_text *text);
/* The key that a full key text stands for; false if the text is not well formed. */
bool cj_key_parse(const char *text, size_t length, cj_key *key);
/* The key of a kernel of which only the source digest is known. */
void cj_key_of_source(const char source_hex[65], const char *identity, cj_key *key);
/* The lines that keys and selections are made of: "NAME LENGTH VALUE\n". The reader: false if there is none at `at`. */
typedef struct cj_field { const char *value, *next; size_t name_length, length; } cj_field;
void cj_field_add(cj_text *t, const char *name, const char *value);
bool cj_field_read(const char *at, const char *end, cj_field *f);

/* ---- selection.c: which kernel the generator picks for a problem, kept so that a later process need not ask it ---- */

typedef struct cj_selection {
    char *problem, *arch;  /* what was asked; the problem with its n, h and w */
    char source_hex[65];   /* the picked kernel: its key's source digest */
    char *schedule, *why;  /* as in cj_kernel */
} cj_selection;
void cj_selection_free(cj_selection *s); /* its parts */
/* The key's text: all that the generator's choice depends on. sms: 0 if not known; wanted: the schedule that was asked
 * for, or NULL. false if there can be no selection: the generator is not the embedded one, or there is no memory. */
bool cj_selection_key(const convjit_problem *p, const char *kind, const char *arch, int sms, const char *wanted,
                      cj_text *key);

/* ---- cache.c, bundle.c ---- */

typedef struct cj_blob { unsigned char *data; size_t size; } cj_blob; /* malloc'd; {0} is none */
void cj_blob_free(cj_blob *b);

typedef struct cj_cache cj_cache;
/* Resolves the directories (config, then environment). Creates nothing yet. A directory that cannot be used counts as
 * absent; the first time, the reason is logged. */
convjit_status cj_cache_open(cj_cache **out, const convjit_config *config);
void cj_cache_close(cj_cache *c);
/* Finds a verified entry: *found says whether. Never fails because of the disk: damage and absence are misses (a damaged
 * file in the writable directory is removed). key->compiler_hex "" : any compiler's entry, the newest by modification
 * time, of those the first by name; read-only directories are searched first.
 * The description that comes back has no source. */
convjit_status cj_cache_get(cj_cache *c, const cj_key *key, bool *found, cj_kernel **kernel, cj_blob *binary);
/* Publishes atomically. Failure to write is logged and otherwise ignored: returns CONVJIT_OK unless memory ran out;
 * *stored, unless NULL, says whether it is in the writable directory now; if not, this thread's message says why. */
convjit_status cj_cache_put(cj_cache *c, const cj_key *key, const char *key_text, const cj_kernel *k, const cj_blob *binary,
                            bool *stored);
/* A verified selection by its key's text, likewise; false if there is none, for whatever reason. */
bool cj_cache_get_selection(cj_cache *c, const char *key_text, cj_selection *s);
/* Publishes one, in place of another under the same key. Failure to write is logged and otherwise ignored. */
void cj_cache_put_selection(cj_cache *c, const char *key_text, const char source_hex[65], const char *schedule,
                            const char *why);
/* Makes the writable directory now, if need be. CONVJIT_IO with the reason if nothing can be kept. */
convjit_status cj_cache_ready(cj_cache *c);
/* The directory in use (which may not be there yet), or NULL and the reason, which lasts until this thread's next failure. */
const char *cj_cache_dir(const cj_cache *c, const char **why_not);
const char *cj_cache_search_path(const cj_cache *c); /* read-only directories, colon-separated; "" if none */
typedef struct cj_cache_entry {
    char *file;                    /* name in the directory */
    bool selection;                /* a selection, else a kernel */
    char *tuple, *schedule, *arch; /* NULL if the entry is damaged; of a selection the whole problem, not its tuple */
    char source_hex[65];           /* of the kernel, or of the one that was selected; "" if the entry is damaged */
    uint64_t bytes;
    int64_t mtime;
    convjit_status status;         /* OK, CORRUPT, or IO if the system refused to read it */
    char *damage;                  /* what is wrong, or NULL */
} cj_cache_entry;
/* Every file of the writable directory that is, or claims to be, an entry, sorted by name. */
convjit_status cj_cache_list(cj_cache *c, cj_cache_entry **entries, size_t *n);
void cj_cache_list_free(cj_cache_entry *entries, size_t n);
/* Removes damaged entries, selections whose kernel is gone, stale temporary files, and then oldest entries until at most
 * max_bytes are left (0: no limit). */
convjit_status cj_cache_prune(cj_cache *c, uint64_t max_bytes, size_t *removed);
convjit_status cj_cache_clear(cj_cache *c, size_t *removed);
/* bundle.c */
convjit_status cj_bundle_export(cj_cache *c, const char *file, size_t *entries);
convjit_status cj_bundle_import(cj_cache *c, const char *file, size_t *entries);

/* ---- parts.c: the cubins of a source in parts, as one binary ---- */

enum { CJ_MAX_PARTS = 4 };
convjit_status cj_parts_join(const cj_blob parts[], int n, cj_blob *binary); /* a copy of them */
/* The parts lie in the binary. */
convjit_status cj_parts_split(const cj_blob *binary, cj_blob parts[CJ_MAX_PARTS], int *n);
/* The index of the part that has an entry point; 0 if none says so. */
int cj_parts_find(const cj_blob parts[], int n, const char *entry);

/* ---- compilers: nvrtc.c and emu/compiler.c ---- */

typedef struct cj_compiler {
    /* What its binaries are, known with or without a compiler: "cubin"; "host x86-64" for the emulated device. In the key. */
    const char *kind;
    /* Identity of the compiler (no path in it), or NULL with this thread's message set. May be called by any thread.
     * For NVRTC found without loading the library: the library file's resolved base name and size. */
    const char *(*identity)(struct cj_compiler *c);
    /* Source to binary. Several threads at once. On a compiler's refusal CONVJIT_COMPILE with its log. */
    convjit_status (*compile)(struct cj_compiler *c, const cj_kernel *k, cj_blob *binary);
    void (*close)(struct cj_compiler *c);
} cj_compiler;
convjit_status cj_nvrtc_open(cj_compiler **out, const convjit_config *config); /* looks for nothing yet */
convjit_status cj_emu_compiler_open(cj_compiler **out, const convjit_config *config);
/* NVRTC's compile that also hands out its log (malloc'd; with --ptxas-options=-v what ptxas tells; log NULL: none). */
convjit_status cj_nvrtc_compile_log(cj_compiler *c, const cj_kernel *k, cj_blob *binary, char **log);
/* nvrtc_find.c: the file of the NVRTC library, resolved and malloc'd. configured: a path, or a name for the loader;
 * NULL: any of `names` (preferred first, NULL ends them) in the usual places. tried receives each place looked at, one
 * a line. Loads the library only if nothing but the loader knows it. */
convjit_status cj_nvrtc_find(const char *configured, const char *const names[], char **file, cj_text *tried);
/* JSON object for convjit info: where it was found, or every place tried. */
void cj_nvrtc_info(cj_compiler *c, cj_text *json);
void cj_emu_compiler_info(cj_compiler *c, cj_text *json);

/* ---- devices: driver.c and emu/device.c ---- */

typedef struct cj_function cj_function; /* one entry point of a loaded binary, owned by its module */
typedef struct cj_module cj_module;
typedef struct cj_resources { int registers, local_bytes, static_smem, max_threads; } cj_resources;
/* What Hopper and later add to a launch. overlap: it may begin while the launch before it in the stream still runs
 * (programmatic dependent launch); a driver that cannot do this runs one after the other. */
typedef struct cj_attributes { unsigned cluster[3]; bool overlap; } cj_attributes;

typedef struct cj_device {
    /* Opens the library and picks the device for this thread; cheap when done before. Fills arch ("sm_90a"), SM count.
     * *binding identifies the CUDA context in use (0 for the emulated device): modules belong to one. */
    convjit_status (*bind)(struct cj_device *d, char arch[16], int *sms, uintptr_t *binding);
    /* The binary's bytes must stay until the module is unloaded. */
    convjit_status (*load)(struct cj_device *d, uintptr_t binding, const cj_blob *binary, cj_module **out);
    void (*unload)(struct cj_device *d, cj_module *m);
    /* Looks an entry up, and allows it `smem` bytes of dynamic shared memory. */
    convjit_status (*function)(struct cj_device *d, cj_module *m, const char *entry, int64_t smem, cj_function **out);
    void (*resources)(struct cj_device *d, const cj_function *f, cj_resources *out);
    /* The hot path: no allocation, lock or synchronisation on the GPU. args: array of pointers to the arguments. */
    convjit_status (*launch)(struct cj_device *d, const cj_function *f, const unsigned grid[3], const unsigned block[3],
                             unsigned smem, void **args, int n_args, void *stream);
    /* The same with attributes. */
    convjit_status (*launch_with)(struct cj_device *d, const cj_function *f, const unsigned grid[3], const unsigned block[3],
                                  const cj_attributes *attributes, unsigned smem, void **args, int n_args, void *stream);
    /* Makes a tensor map for kernels of this device, of one that cj_tensor_map_check accepts; base: aligned to 16 bytes. On a
     * GPU it needs a driver of CUDA 12. No allocation, lock or synchronisation. */
    convjit_status (*encode)(struct cj_device *d, const cj_tensor_map *map, void *base, unsigned char out[CJ_TENSOR_MAP_BYTES]);
    convjit_status (*alloc)(struct cj_device *d, void **memory, size_t bytes);
    void (*free)(struct cj_device *d, void *memory);
    convjit_status (*write)(struct cj_device *d, void *device, const void *host, size_t bytes);
    convjit_status (*read)(struct cj_device *d, void *host, const void *device, size_t bytes);
    convjit_status (*fill)(struct cj_device *d, void *device, uint8_t byte, size_t bytes); /* default stream */
    convjit_status (*sync)(struct cj_device *d, void *stream);
    /* Milliseconds of device time of `body(user)` on the default stream, by events (emulated device: host clock). */
    convjit_status (*time)(struct cj_device *d, convjit_status (*body)(void *user), void *user, double *ms);
    int64_t smem_limit; /* bytes of dynamic shared memory a block may ask for, set by bind */
    void (*info)(struct cj_device *d, cj_text *json);
    void (*close)(struct cj_device *d);
} cj_device;
convjit_status cj_driver_open(cj_device **out, const convjit_config *config); /* opens no library yet */
convjit_status cj_emu_device_open(cj_device **out, const convjit_config *config);

/* ---- log.c ---- */

typedef struct cj_log { int level; void (*fn)(void *, const char *); void *user; } cj_log;
void cj_log_init(cj_log *log, const convjit_config *config); /* config, then $CONVJIT_VERBOSE */
void cj_log_line(const cj_log *log, int level, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* ---- context.c, compile.c ---- */

typedef struct cj_built cj_built; /* a kernel that is compiled: description and binary; lives as long as its context */
const cj_kernel *cj_built_kernel(const cj_built *b);
const cj_blob *cj_built_binary(const cj_built *b);
const char *cj_built_source_hex(const cj_built *b); /* its key's */

struct convjit; /* defined in context.h, which only context.c, compile.c and plan.c include */
cj_device *cj_context_device(convjit *cj);
cj_compiler *cj_context_compiler(convjit *cj);
cj_cache *cj_context_cache(convjit *cj);
const cj_log *cj_context_log(convjit *cj);
/* The architecture to generate for: the given one, else the context's, else sm_90a. */
const char *cj_context_arch(const convjit *cj, const char *arch);
/* Generates under the context's lock. sms 0: the arch's usual number. */
convjit_status cj_context_generate(convjit *cj, const convjit_problem *p, const char *arch, int sms, const char *schedule,
                                   cj_kernel **kernel);
/* What convjit_schedules writes, for that many multiprocessors, of one schedule if it is not NULL. */
convjit_status cj_context_schedules(convjit *cj, const convjit_problem *p, const char *arch, int sms, const char *schedule,
                                    char **json);
/* The SM count that a device of this architecture is expected to report, for kernels that are made without one. */
convjit_status cj_context_usual_sms(convjit *cj, const char *arch, int *sms);
/* compile.c: memory, disk, compiler, in that order, once for each key in this process. Takes the kernel over.
 * allow_compile false: CONVJIT_NO_COMPILER on a miss. */
convjit_status cj_compile(convjit *cj, cj_kernel *kernel, bool allow_compile, cj_built **out, convjit_origin *origin);
/* The same for a kernel of which only the source digest is known: memory or disk; CONVJIT_NO_COMPILER on a miss. What
 * comes from disk has no source. */
convjit_status cj_recall(convjit *cj, const char source_hex[65], cj_built **out, convjit_origin *origin);

/* ---- plan.c ---- */

/* A plan of a kernel that is given, and taken over, in place of the generator's choice. For tests. */
convjit_status cj_plan_create_kernel(convjit_plan **plan, convjit *cj, const convjit_problem *problem, cj_kernel *kernel);
/* What the plan's kernel was compiled to; lives as long as the context. */
const cj_blob *cj_plan_binary(const convjit_plan *plan);

/* ---- reference.c: convolution on the CPU in double precision, to check kernels against; used by `run --check` and tests ---- */

/* Host tensors in the problem's storage type and layout. Compares y against the reference element by element: rows of
 * outputs (fixed n, k, p) at random by `seed` until max_macs multiply-adds are spent (0: all of it), with all cores.
 * An element is wrong if |y - ref| > bound(ref, sum|x*w|) or is NaN when the reference is not; relative to exact == true: if
 * it is not the reference rounded to the storage type. */
typedef struct cj_check { uint64_t wrong, of; char first[160]; /* "n=0 k=3 p=1 q=7: 12.5, expected 12" */ double max_error; } cj_check;
convjit_status cj_reference_check(const convjit_problem *p, const convjit_tensors *host, bool exact, uint64_t max_macs,
                                  uint64_t seed, cj_check *result);
/* Fills a host tensor. exact: small integers such that every partial sum and every output is exact in FP32 and in the
 * storage type (activations that are not piecewise linear are compared with a bound); else normal-like values. */
void cj_reference_fill(const convjit_problem *p, convjit_tensor which, bool exact, uint64_t seed, void *host);
float cj_f16_to_f32(uint16_t h);
uint16_t cj_f32_to_f16(float f); /* round to nearest even */
float cj_bf16_to_f32(uint16_t h);
uint16_t cj_f32_to_bf16(float f);

#endif
