/* driver.c: the GPU, through the CUDA driver API. With nvrtc.c the only file that knows a CUDA type.
 *
 * The library is opened at first use, and no CUDA header is needed: the declarations below are those of cuda.h, under
 * the versioned names that it maps them to. Of each the one without _ptds or _ptsz is taken, so a NULL stream is the
 * legacy default stream, as in cudart and PyTorch.
 *
 * Contexts. A CUDA context that the calling thread has made current is used, whoever made it; a thread that has none
 * uses the primary context of GPU `ordinal`, which is retained until the device is closed. A module belongs to the
 * context that it was loaded in; calls on it make that context current while they last, unless it already is. */
#include <dlfcn.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "internal.h"

typedef int CUresult;
typedef int CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;

enum {
    CUDA_SUCCESS = 0,
    CUDA_ERROR_OUT_OF_MEMORY = 2,
    CUDA_ERROR_STUB_LIBRARY = 34,
    CUDA_ERROR_NO_DEVICE = 100,
    CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
    CUDA_ERROR_SYSTEM_DRIVER_MISMATCH = 803
};
enum {
    CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT = 16,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR = 75,
    CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR = 76,
    CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97
};
enum {
    CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK = 0,
    CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES = 1,
    CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES = 3,
    CU_FUNC_ATTRIBUTE_NUM_REGS = 4,
    CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES = 8
};
/* Attributes of a launch */
enum { CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION = 4, CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION = 6 };
typedef struct CUlaunchAttribute {
    int id;
    char pad[8 - sizeof(int)];
    union { char pad[64]; struct { unsigned x, y, z; } cluster; int overlap; } value;
} CUlaunchAttribute;
typedef struct CUlaunchConfig {
    unsigned grid[3], block[3], smem;
    CUstream stream;
    CUlaunchAttribute *attributes;
    unsigned n_attributes;
} CUlaunchConfig;
/* Of tensor maps */
enum {
    CU_TENSOR_MAP_DATA_TYPE_FLOAT16 = 6, CU_TENSOR_MAP_DATA_TYPE_FLOAT32 = 7, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 = 9,
    CU_TENSOR_MAP_DATA_TYPE_TFLOAT32 = 11
};
enum {
    CU_TENSOR_MAP_INTERLEAVE_NONE = 0, CU_TENSOR_MAP_L2_PROMOTION_L2_128B = 2, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE = 0
};
enum { CU_EVENT_DEFAULT = 0, DEFAULT_SMEM = 48 << 10 /* dynamic shared memory that needs no permission */ };

typedef struct cuda_api {
    CUresult (*Init)(unsigned flags);
    CUresult (*DriverGetVersion)(int *version);
    CUresult (*GetErrorName)(CUresult result, const char **text);
    CUresult (*GetErrorString)(CUresult result, const char **text);
    CUresult (*DeviceGetCount)(int *n);
    CUresult (*DeviceGet)(CUdevice *device, int ordinal);
    CUresult (*DeviceGetName)(char *name, int size, CUdevice device);
    CUresult (*DeviceTotalMem)(size_t *bytes, CUdevice device);
    CUresult (*DeviceGetAttribute)(int *value, int attribute, CUdevice device);
    CUresult (*DevicePrimaryCtxRetain)(CUcontext *context, CUdevice device);
    CUresult (*DevicePrimaryCtxRelease)(CUdevice device);
    CUresult (*CtxGetCurrent)(CUcontext *context);
    CUresult (*CtxGetDevice)(CUdevice *device);
    CUresult (*CtxGetId)(CUcontext context, unsigned long long *id); /* since CUDA 12.0; else NULL */
    CUresult (*CtxPushCurrent)(CUcontext context);
    CUresult (*CtxPopCurrent)(CUcontext *context);
    CUresult (*ModuleLoadData)(CUmodule *module, const void *image);
    CUresult (*ModuleUnload)(CUmodule module);
    CUresult (*ModuleGetFunction)(CUfunction *function, CUmodule module, const char *name);
    CUresult (*FuncSetAttribute)(CUfunction function, int attribute, int value);
    CUresult (*FuncGetAttribute)(int *value, int attribute, CUfunction function);
    CUresult (*LaunchKernel)(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                             unsigned block_y, unsigned block_z, unsigned smem, CUstream stream, void **args,
                             void **extra);
    CUresult (*LaunchKernelEx)(const CUlaunchConfig *config, CUfunction function, void **args, void **extra); /* CUDA 11.8 */
    CUresult (*TensorMapEncodeTiled)(void *map, int type, unsigned rank, void *base, const unsigned long long *dims,
                                     const unsigned long long *strides, const unsigned *box, const unsigned *element_strides,
                                     int interleave, int swizzle, int l2_promotion, int fill); /* CUDA 12.0 */
    CUresult (*MemAlloc)(CUdeviceptr *memory, size_t bytes);
    CUresult (*MemFree)(CUdeviceptr memory);
    CUresult (*MemcpyHtoD)(CUdeviceptr device, const void *host, size_t bytes);
    CUresult (*MemcpyDtoH)(void *host, CUdeviceptr device, size_t bytes);
    CUresult (*MemsetD8)(CUdeviceptr device, unsigned char byte, size_t bytes);
    CUresult (*StreamSynchronize)(CUstream stream);
    CUresult (*EventCreate)(CUevent *event, unsigned flags);
    CUresult (*EventRecord)(CUevent event, CUstream stream);
    CUresult (*EventSynchronize)(CUevent event);
    CUresult (*EventElapsedTime)(float *ms, CUevent from, CUevent to);
    CUresult (*EventDestroy)(CUevent event);
} cuda_api;

#define SYMBOL(name, suffix, optional) {"cu" #name suffix, offsetof(cuda_api, name), optional}
static const struct { const char *name; size_t offset; bool optional; } symbols[] = {
    SYMBOL(Init, "", false),
    SYMBOL(DriverGetVersion, "", false),
    SYMBOL(GetErrorName, "", false),
    SYMBOL(GetErrorString, "", false),
    SYMBOL(DeviceGetCount, "", false),
    SYMBOL(DeviceGet, "", false),
    SYMBOL(DeviceGetName, "", false),
    SYMBOL(DeviceTotalMem, "_v2", false),
    SYMBOL(DeviceGetAttribute, "", false),
    SYMBOL(DevicePrimaryCtxRetain, "", false),
    SYMBOL(DevicePrimaryCtxRelease, "_v2", false),
    SYMBOL(CtxGetCurrent, "", false),
    SYMBOL(CtxGetDevice, "", false),
    SYMBOL(CtxGetId, "", true),
    SYMBOL(CtxPushCurrent, "_v2", false),
    SYMBOL(CtxPopCurrent, "_v2", false),
    SYMBOL(ModuleLoadData, "", false),
    SYMBOL(ModuleUnload, "", false),
    SYMBOL(ModuleGetFunction, "", false),
    SYMBOL(FuncSetAttribute, "", false),
    SYMBOL(FuncGetAttribute, "", false),
    SYMBOL(LaunchKernel, "", false),
    SYMBOL(LaunchKernelEx, "", true),
    SYMBOL(TensorMapEncodeTiled, "", true),
    SYMBOL(MemAlloc, "_v2", false),
    SYMBOL(MemFree, "_v2", false),
    SYMBOL(MemcpyHtoD, "_v2", false),
    SYMBOL(MemcpyDtoH, "_v2", false),
    SYMBOL(MemsetD8, "_v2", false),
    SYMBOL(StreamSynchronize, "", false),
    SYMBOL(EventCreate, "", false),
    SYMBOL(EventRecord, "", false),
    SYMBOL(EventSynchronize, "", false),
    SYMBOL(EventElapsedTime, "", false),
    SYMBOL(EventDestroy, "_v2", false),
};

/* A context that has been seen, and its GPU. Its address is the `binding` of internal.h. Kept until the device is
 * closed, because modules refer to it. The driver may give a new context the address of a destroyed one; the id tells
 * them apart. */
typedef struct bound {
    struct bound *next;
    CUcontext context;
    unsigned long long id;
    CUdevice gpu;
    char own_arch[16];  /* of the GPU */
    char arch[16];      /* to compile for: the configured one, else the GPU's */
    int sms, smem_limit;
} bound;

typedef struct driver {
    cj_device base;
    char *configured, *arch; /* from config or environment; NULL: libcuda.so.1, and the GPU's own architecture */
    int ordinal;
    pthread_mutex_t lock;    /* for opening the library and for adding contexts; what these made is read without it */
    atomic_bool ready;
    char *file;              /* where the library is */
    cuda_api api;
    _Atomic(bound *) contexts;
    _Atomic(bound *) primary; /* retained; NULL as long as nobody needed it */
} driver;

struct cj_module {
    const bound *home;
    cj_blob cubins[CJ_MAX_PARTS]; /* of the parts of the kernel's text; not its own */
    CUmodule parts[CJ_MAX_PARTS];
    int n_parts;
    pthread_mutex_t lock;   /* guards the list, and the functions' smem */
    cj_function *functions; /* one for each entry that was asked for */
};

struct cj_function {
    CUfunction handle;
    CUcontext context;
    int64_t smem; /* dynamic shared memory that it may have */
    cj_function *next;
    char entry[];
};

/* ---- errors ---- */

static convjit_status status_of(CUresult result)
{
    switch (result) {
    case CUDA_SUCCESS: return CONVJIT_OK;
    case CUDA_ERROR_OUT_OF_MEMORY: return CONVJIT_NO_MEMORY;
    case CUDA_ERROR_NO_DEVICE: return CONVJIT_NO_DEVICE;
    case CUDA_ERROR_STUB_LIBRARY:
    case CUDA_ERROR_SYSTEM_DRIVER_MISMATCH: return CONVJIT_NO_DRIVER;
    default: return CONVJIT_DRIVER;
    }
}

static convjit_status fail_call(const driver *d, CUresult result, const char *call)
{
    const char *name = NULL, *text = NULL;
    d->api.GetErrorName(result, &name);
    d->api.GetErrorString(result, &text);
    return cj_fail(status_of(result), "%s: %s (%s, error %d)", call, text ? text : "unknown error",
                   name ? name : "no name", result);
}

static inline convjit_status checked(const driver *d, CUresult result, const char *call)
{
    return result == CUDA_SUCCESS ? CONVJIT_OK : fail_call(d, result, call);
}

/* Calls cuNAME and turns its result into a status with a message. */
#define CALL(d, name, ...) checked(d, (d)->api.name(__VA_ARGS__), "cu" #name)

/* ---- opening the library ---- */

static convjit_status bind_symbols(cuda_api *api, void *library, const char *file)
{
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *address = dlsym(library, symbols[i].name);
        if (!address && !symbols[i].optional)
            return cj_fail(CONVJIT_NO_DRIVER, "%s lacks %s: this CUDA driver is too old", file, symbols[i].name);
        memcpy((char *)api + symbols[i].offset, &address, sizeof address);
    }
    return CONVJIT_OK;
}

/* Under the lock. Nothing is remembered of a failure: the next call may have better luck. The library stays loaded. */
static convjit_status open_library(driver *d)
{
    const char *name = d->configured ? d->configured : "libcuda.so.1";
    struct link_map *map;
    if (strcmp(name, "none") == 0)
        return cj_fail(CONVJIT_NO_DRIVER, "a GPU is needed, and its use is switched off (the driver is \"none\")");
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return cj_fail(CONVJIT_NO_DRIVER, "cannot load the CUDA driver: %s", dlerror());
    convjit_status status = bind_symbols(&d->api, library, name);
    if (status != CONVJIT_OK) {
        dlclose(library);
        return status;
    }
    if (!d->file && dlinfo(library, RTLD_DI_LINKMAP, &map) == 0)
        d->file = strdup(map->l_name); /* for info alone: NULL will do */
    return CALL(d, Init, 0);
}

static convjit_status open_once(driver *d)
{
    convjit_status status = CONVJIT_OK;
    if (atomic_load_explicit(&d->ready, memory_order_acquire))
        return CONVJIT_OK;
    pthread_mutex_lock(&d->lock);
    if (!d->ready)
        status = open_library(d);
    if (status == CONVJIT_OK)
        atomic_store_explicit(&d->ready, true, memory_order_release);
    pthread_mutex_unlock(&d->lock);
    return status;
}

/* ---- contexts ---- */

/* Makes a context current unless it is; *pushed says whether leave() has to undo that. */
static convjit_status enter(const driver *d, CUcontext context, bool *pushed)
{
    CUcontext current = NULL;
    *pushed = false;
    convjit_status status = CALL(d, CtxGetCurrent, &current);
    if (status != CONVJIT_OK || current == context)
        return status;
    status = CALL(d, CtxPushCurrent, context);
    *pushed = status == CONVJIT_OK;
    return status;
}

/* Passes a status through. */
static convjit_status leave(const driver *d, bool pushed, convjit_status status)
{
    CUcontext popped;
    if (pushed)
        d->api.CtxPopCurrent(&popped);
    return status;
}

static convjit_status read_arch(const driver *d, CUdevice gpu, char arch[16])
{
    int major, minor;
    convjit_status status = CALL(d, DeviceGetAttribute, &major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, gpu);
    if (status == CONVJIT_OK)
        status = CALL(d, DeviceGetAttribute, &minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, gpu);
    if (status == CONVJIT_OK) /* Hopper's tensor-core and copy instructions are in sm_90a alone */
        snprintf(arch, 16, "sm_%d%d%s", major, minor, major == 9 && minor == 0 ? "a" : "");
    return status;
}

/* Fills in what there is to know of b->context's GPU. */
static convjit_status describe(const driver *d, bound *b)
{
    bool pushed;
    convjit_status status = enter(d, b->context, &pushed);
    if (status == CONVJIT_OK)
        status = leave(d, pushed, CALL(d, CtxGetDevice, &b->gpu));
    if (status == CONVJIT_OK)
        status = read_arch(d, b->gpu, b->own_arch);
    if (status == CONVJIT_OK)
        status = CALL(d, DeviceGetAttribute, &b->sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, b->gpu);
    if (status == CONVJIT_OK)
        status = CALL(d, DeviceGetAttribute, &b->smem_limit, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN,
                      b->gpu);
    snprintf(b->arch, sizeof b->arch, "%s", d->arch ? d->arch : b->own_arch);
    return status;
}

static bound *find(const driver *d, CUcontext context, unsigned long long id)
{
    bound *b = atomic_load_explicit(&d->contexts, memory_order_acquire);
    while (b && (b->context != context || b->id != id))
        b = b->next;
    return b;
}

/* Under the lock. */
static convjit_status add(driver *d, CUcontext context, unsigned long long id, const bound **out)
{
    bound *b = calloc(1, sizeof *b);
    if (!b)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a CUDA context's description");
    b->context = context;
    b->id = id;
    convjit_status status = describe(d, b);
    if (status != CONVJIT_OK) {
        free(b);
        return status;
    }
    /* One number for all GPUs of this device object: the least; function() checks the GPU's own. */
    if (!d->contexts || b->smem_limit < d->base.smem_limit)
        __atomic_store_n(&d->base.smem_limit, b->smem_limit, __ATOMIC_RELAXED);
    b->next = d->contexts;
    atomic_store_explicit(&d->contexts, b, memory_order_release);
    *out = b;
    return CONVJIT_OK;
}

/* Under the lock, or with no wish to add: what is known of a context. */
static convjit_status look_up(driver *d, CUcontext context, bool may_add, const bound **out)
{
    unsigned long long id = 0;
    convjit_status status = d->api.CtxGetId ? CALL(d, CtxGetId, context, &id) : CONVJIT_OK;
    if (status != CONVJIT_OK)
        return status;
    *out = find(d, context, id);
    return *out || !may_add ? CONVJIT_OK : add(d, context, id, out);
}

static convjit_status retain_primary(driver *d, const bound **out)
{
    int count;
    CUdevice gpu;
    CUcontext context;
    convjit_status status = CALL(d, DeviceGetCount, &count);
    if (status != CONVJIT_OK)
        return status;
    if (d->ordinal < 0 || d->ordinal >= count)
        return cj_fail(CONVJIT_NO_DEVICE, "GPU %d was asked for, and the driver counts %d, from 0", d->ordinal, count);
    status = CALL(d, DeviceGet, &gpu, d->ordinal);
    if (status == CONVJIT_OK)
        status = CALL(d, DevicePrimaryCtxRetain, &context, gpu);
    if (status != CONVJIT_OK)
        return cj_fail_in(status, "GPU %d of %d", d->ordinal, count);
    status = look_up(d, context, true, out);
    if (status != CONVJIT_OK)
        d->api.DevicePrimaryCtxRelease(gpu);
    return status;
}

/* What this thread is to use; adds a context that has not been seen. */
static convjit_status choose_slowly(driver *d, CUcontext current, const bound **out)
{
    convjit_status status = CONVJIT_OK;
    pthread_mutex_lock(&d->lock);
    if (current) {
        status = look_up(d, current, true, out);
    } else if (d->primary) {
        *out = d->primary;
    } else {
        status = retain_primary(d, out);
        if (status == CONVJIT_OK)
            atomic_store_explicit(&d->primary, (bound *)*out, memory_order_release);
    }
    pthread_mutex_unlock(&d->lock);
    return status;
}

/* The same without a lock if all of it has been seen before. */
static convjit_status choose(driver *d, const bound **out, bool *is_current)
{
    CUcontext current = NULL;
    const bound *b = NULL;
    convjit_status status = open_once(d);
    if (status == CONVJIT_OK)
        status = CALL(d, CtxGetCurrent, &current);
    if (status == CONVJIT_OK && current)
        status = look_up(d, current, false, &b);
    else if (status == CONVJIT_OK)
        b = atomic_load_explicit(&d->primary, memory_order_acquire);
    if (status == CONVJIT_OK && !b)
        status = choose_slowly(d, current, &b);
    *out = b;
    *is_current = current != NULL;
    return status;
}

static convjit_status bind(cj_device *base, char arch[16], int *sms, uintptr_t *binding)
{
    const bound *b;
    bool is_current;
    convjit_status status = choose((driver *)base, &b, &is_current);
    if (status != CONVJIT_OK)
        return status;
    memcpy(arch, b->arch, sizeof b->arch);
    *sms = b->sms;
    *binding = (uintptr_t)b;
    return CONVJIT_OK;
}

/* For calls that are about no module: makes sure that this thread has a context. leave() ends what this begins. */
static convjit_status enter_any(driver *d, bool *pushed)
{
    const bound *b;
    bool is_current;
    *pushed = false;
    convjit_status status = choose(d, &b, &is_current);
    if (status != CONVJIT_OK || is_current)
        return status;
    return enter(d, b->context, pushed);
}

/* ---- modules and functions ---- */

static convjit_status fail_load(const driver *d, const bound *home, CUresult result)
{
    char name[128] = "?";
    if (result != CUDA_ERROR_NO_BINARY_FOR_GPU)
        return fail_call(d, result, "cuModuleLoadData");
    d->api.DeviceGetName(name, sizeof name, home->gpu);
    return cj_fail(CONVJIT_UNSUPPORTED, "a kernel compiled for %s does not run on GPU %d, %s, which is %s", home->arch,
                   home->gpu, name, home->own_arch);
}

static void unload_parts(const driver *d, cj_module *m)
{
    while (m->n_parts > 0)
        d->api.ModuleUnload(m->parts[--m->n_parts]);
}

/* In the module's context. */
static convjit_status load_parts(const driver *d, const bound *home, const cj_blob *binary, cj_module *m)
{
    int n = 0;
    convjit_status status = cj_parts_split(binary, m->cubins, &n);
    while (status == CONVJIT_OK && m->n_parts < n) {
        CUresult result = d->api.ModuleLoadData(&m->parts[m->n_parts], m->cubins[m->n_parts].data);
        if (result == CUDA_SUCCESS)
            m->n_parts++;
        else
            status = fail_load(d, home, result);
    }
    if (status != CONVJIT_OK)
        unload_parts(d, m);
    return status;
}

static convjit_status load(cj_device *base, uintptr_t binding, const cj_blob *binary, cj_module **out)
{
    driver *d = (driver *)base;
    const bound *home = (const bound *)binding;
    bool pushed;
    cj_module *m = calloc(1, sizeof *m);
    if (!m)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a module");
    convjit_status status = enter(d, home->context, &pushed);
    if (status == CONVJIT_OK)
        status = leave(d, pushed, load_parts(d, home, binary, m));
    if (status != CONVJIT_OK) {
        free(m);
        return status;
    }
    m->home = home;
    pthread_mutex_init(&m->lock, NULL);
    *out = m;
    return CONVJIT_OK;
}

static void unload(cj_device *base, cj_module *m)
{
    driver *d = (driver *)base;
    bool pushed;
    if (!m)
        return;
    /* A context that was destroyed has taken its modules along. */
    if (enter(d, m->home->context, &pushed) == CONVJIT_OK) {
        unload_parts(d, m);
        leave(d, pushed, CONVJIT_OK);
    }
    while (m->functions) {
        cj_function *f = m->functions;
        m->functions = f->next;
        free(f);
    }
    pthread_mutex_destroy(&m->lock);
    free(m);
}

/* Asks no part but the one that has the entry point: a call that fails is an error to tools that watch all calls, such as
 * compute-sanitizer. */
static convjit_status find_entry(const driver *d, const cj_module *m, const char *entry, CUfunction *out)
{
    const int part = cj_parts_find(m->cubins, m->n_parts, entry);
    convjit_status status = CALL(d, ModuleGetFunction, out, m->parts[part], entry);
    return status == CONVJIT_OK ? CONVJIT_OK : cj_fail_in(status, "entry point %s", entry);
}

/* Under the module's lock, in its context. */
static convjit_status get_function(const driver *d, cj_module *m, const char *entry, cj_function **out)
{
    for (cj_function *f = m->functions; f; f = f->next) {
        if (strcmp(f->entry, entry) == 0) {
            *out = f;
            return CONVJIT_OK;
        }
    }
    size_t length = strlen(entry) + 1;
    cj_function *f = calloc(1, sizeof *f + length);
    if (!f)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a function");
    convjit_status status = find_entry(d, m, entry, &f->handle);
    if (status != CONVJIT_OK) {
        free(f);
        return status;
    }
    memcpy(f->entry, entry, length);
    f->context = m->home->context;
    f->smem = DEFAULT_SMEM;
    f->next = m->functions;
    m->functions = f;
    *out = f;
    return CONVJIT_OK;
}

/* Under the module's lock, in its context. Never lowers the limit: another plan may count on it. */
static convjit_status allow_smem(const driver *d, cj_function *f, int64_t smem)
{
    if (smem <= f->smem)
        return CONVJIT_OK;
    convjit_status status =
        CALL(d, FuncSetAttribute, f->handle, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, (int)smem);
    if (status != CONVJIT_OK)
        return cj_fail_in(status, "%s, %lld bytes of dynamic shared memory", f->entry, (long long)smem);
    f->smem = smem;
    return CONVJIT_OK;
}

static convjit_status function(cj_device *base, cj_module *m, const char *entry, int64_t smem, cj_function **out)
{
    const driver *d = (const driver *)base;
    cj_function *f = NULL;
    bool pushed;
    if (smem < 0 || smem > m->home->smem_limit)
        return cj_fail(CONVJIT_UNSUPPORTED,
                       "%s asks for %lld bytes of dynamic shared memory; GPU %d (%s) has %d a block", entry,
                       (long long)smem, m->home->gpu, m->home->own_arch, m->home->smem_limit);
    convjit_status status = enter(d, m->home->context, &pushed);
    if (status != CONVJIT_OK)
        return status;
    pthread_mutex_lock(&m->lock);
    status = get_function(d, m, entry, &f);
    if (status == CONVJIT_OK)
        status = allow_smem(d, f, smem);
    pthread_mutex_unlock(&m->lock);
    if (status == CONVJIT_OK)
        *out = f;
    return leave(d, pushed, status);
}

static int function_attribute(const driver *d, const cj_function *f, int attribute)
{
    int value = 0;
    return d->api.FuncGetAttribute(&value, attribute, f->handle) == CUDA_SUCCESS ? value : 0;
}

static void resources(cj_device *base, const cj_function *f, cj_resources *out)
{
    const driver *d = (const driver *)base;
    bool pushed;
    *out = (cj_resources){0};
    if (enter(d, f->context, &pushed) != CONVJIT_OK)
        return;
    out->registers = function_attribute(d, f, CU_FUNC_ATTRIBUTE_NUM_REGS);
    out->local_bytes = function_attribute(d, f, CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES);
    out->static_smem = function_attribute(d, f, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES);
    out->max_threads = function_attribute(d, f, CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK);
    leave(d, pushed, CONVJIT_OK);
}

static convjit_status fail_launch(const driver *d, const cj_function *f, const unsigned grid[3],
                                  const unsigned block[3], unsigned smem, CUresult result)
{
    fail_call(d, result, "cuLaunchKernel");
    return cj_fail_in(status_of(result), "%s, grid %ux%ux%u, block %ux%ux%u, %u bytes of shared memory", f->entry,
                      grid[0], grid[1], grid[2], block[0], block[1], block[2], smem);
}

/* In a thread that has the function's context current, cuCtxGetCurrent is all that this adds to cuLaunchKernel. */
static convjit_status launch(cj_device *base, const cj_function *f, const unsigned grid[3], const unsigned block[3],
                             unsigned smem, void **args, int n_args, void *stream)
{
    const driver *d = (const driver *)base;
    bool pushed;
    convjit_status status = enter(d, f->context, &pushed);
    if (status != CONVJIT_OK)
        return status;
    CUresult result = d->api.LaunchKernel(f->handle, grid[0], grid[1], grid[2], block[0], block[1], block[2], smem,
                                          (CUstream)stream, args, NULL);
    return leave(d, pushed, result == CUDA_SUCCESS ? CONVJIT_OK : fail_launch(d, f, grid, block, smem, result));
}

/* The driver's words for the attributes that are not as usual; returns how many. */
static unsigned list_attributes(const cj_attributes *a, CUlaunchAttribute list[2])
{
    unsigned n = 0;
    if (a->cluster[0] * a->cluster[1] * a->cluster[2] > 1)
        list[n++] = (CUlaunchAttribute){.id = CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
                                        .value.cluster = {a->cluster[0], a->cluster[1], a->cluster[2]}};
    if (a->overlap)
        list[n++] = (CUlaunchAttribute){.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, .value.overlap = 1};
    return n;
}

static convjit_status launch_with(cj_device *base, const cj_function *f, const unsigned grid[3], const unsigned block[3],
                                  const cj_attributes *a, unsigned smem, void **args, int n_args, void *stream)
{
    const driver *d = (const driver *)base;
    CUlaunchAttribute attributes[2];
    bool pushed, clustered = a->cluster[0] * a->cluster[1] * a->cluster[2] > 1;
    unsigned n = list_attributes(a, attributes);
    if (clustered && !d->api.LaunchKernelEx)
        return cj_fail(CONVJIT_UNSUPPORTED, "%s runs in clusters of blocks, and this CUDA driver has no cuLaunchKernelEx",
                       f->entry);
    if (n == 0 || !d->api.LaunchKernelEx)
        return launch(base, f, grid, block, smem, args, n_args, stream);
    CUlaunchConfig config = {.grid = {grid[0], grid[1], grid[2]}, .block = {block[0], block[1], block[2]}, .smem = smem,
                             .stream = (CUstream)stream, .attributes = attributes, .n_attributes = n};
    convjit_status status = enter(d, f->context, &pushed);
    if (status != CONVJIT_OK)
        return status;
    CUresult result = d->api.LaunchKernelEx(&config, f->handle, args, NULL);
    if (result != CUDA_SUCCESS) {
        fail_call(d, result, "cuLaunchKernelEx");
        status = cj_fail_in(status_of(result), "%s, grid %ux%ux%u, block %ux%ux%u, cluster %ux%ux%u, %u bytes of shared memory",
                            f->entry, grid[0], grid[1], grid[2], block[0], block[1], block[2], a->cluster[0], a->cluster[1],
                            a->cluster[2], smem);
    }
    return leave(d, pushed, status);
}

/* The driver's box covers what element strides skip, too. */
static convjit_status encode(cj_device *base, const cj_tensor_map *map, void *memory, unsigned char out[CJ_TENSOR_MAP_BYTES])
{
    static const int types[CJ_MAP_COUNT] = {
        [CJ_MAP_F32] = CU_TENSOR_MAP_DATA_TYPE_FLOAT32, [CJ_MAP_TF32] = CU_TENSOR_MAP_DATA_TYPE_TFLOAT32,
        [CJ_MAP_F16] = CU_TENSOR_MAP_DATA_TYPE_FLOAT16, [CJ_MAP_BF16] = CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    };
    driver *d = (driver *)base;
    unsigned long long dims[CJ_MAX_AXES], strides[CJ_MAX_AXES];
    unsigned box[CJ_MAX_AXES], element_strides[CJ_MAX_AXES];
    convjit_status status = open_once(d);
    if (status != CONVJIT_OK)
        return status;
    if (!d->api.TensorMapEncodeTiled)
        return cj_fail(CONVJIT_UNSUPPORTED, "tensor maps: this CUDA driver has no cuTensorMapEncodeTiled");
    for (int i = 0; i < map->rank; i++) {
        dims[i] = (unsigned long long)map->dims[i];
        strides[i] = i + 1 < map->rank ? (unsigned long long)map->strides[i] : 0;
        element_strides[i] = (unsigned)map->element_strides[i];
        box[i] = (unsigned)map->box[i] * element_strides[i];
    }
    int swizzle = map->swizzle == 128 ? 3 : map->swizzle / 32; /* CU_TENSOR_MAP_SWIZZLE_: none, 32B, 64B, 128B */
    bool pushed;
    status = enter_any(d, &pushed); /* the driver wants a current context for it */
    if (status != CONVJIT_OK)
        return status;
    status = CALL(d, TensorMapEncodeTiled, out, types[map->element], (unsigned)map->rank, memory, dims, strides, box,
                  element_strides, CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                  CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return leave(d, pushed, status);
}

/* ---- memory ---- */

static CUdeviceptr pointer(const void *memory)
{
    return (CUdeviceptr)(uintptr_t)memory;
}

static convjit_status device_alloc(cj_device *base, void **memory, size_t bytes)
{
    driver *d = (driver *)base;
    CUdeviceptr address = 0;
    bool pushed;
    convjit_status status = enter_any(d, &pushed);
    if (status == CONVJIT_OK)
        status = leave(d, pushed, CALL(d, MemAlloc, &address, bytes ? bytes : 1)); /* the driver refuses 0 */
    if (status != CONVJIT_OK)
        return cj_fail_in(status, "%zu bytes of device memory", bytes);
    *memory = (void *)(uintptr_t)address;
    return CONVJIT_OK;
}

static void device_free(cj_device *base, void *memory)
{
    driver *d = (driver *)base;
    bool pushed;
    if (!memory || enter_any(d, &pushed) != CONVJIT_OK)
        return;
    d->api.MemFree(pointer(memory));
    leave(d, pushed, CONVJIT_OK);
}

static convjit_status device_write(cj_device *base, void *device, const void *host, size_t bytes)
{
    driver *d = (driver *)base;
    bool pushed;
    convjit_status status = enter_any(d, &pushed);
    if (status == CONVJIT_OK)
        status = CALL(d, MemcpyHtoD, pointer(device), host, bytes);
    return leave(d, pushed, status);
}

static convjit_status device_read(cj_device *base, void *host, const void *device, size_t bytes)
{
    driver *d = (driver *)base;
    bool pushed;
    convjit_status status = enter_any(d, &pushed);
    if (status == CONVJIT_OK)
        status = CALL(d, MemcpyDtoH, host, pointer(device), bytes);
    return leave(d, pushed, status);
}

static convjit_status device_fill(cj_device *base, void *device, uint8_t byte, size_t bytes)
{
    driver *d = (driver *)base;
    bool pushed;
    convjit_status status = enter_any(d, &pushed);
    if (status == CONVJIT_OK)
        status = CALL(d, MemsetD8, pointer(device), byte, bytes);
    return leave(d, pushed, status);
}

/* ---- waiting and timing ---- */

static convjit_status device_sync(cj_device *base, void *stream)
{
    driver *d = (driver *)base;
    bool pushed;
    convjit_status status = enter_any(d, &pushed);
    if (status == CONVJIT_OK)
        status = CALL(d, StreamSynchronize, (CUstream)stream);
    return leave(d, pushed, status);
}

static convjit_status time_between(const driver *d, CUevent from, CUevent to, convjit_status (*body)(void *user),
                                   void *user, double *ms)
{
    float elapsed = 0;
    convjit_status status = CALL(d, EventRecord, from, NULL);
    if (status == CONVJIT_OK)
        status = body(user);
    if (status == CONVJIT_OK)
        status = CALL(d, EventRecord, to, NULL);
    if (status == CONVJIT_OK)
        status = CALL(d, EventSynchronize, to);
    if (status == CONVJIT_OK)
        status = CALL(d, EventElapsedTime, &elapsed, from, to);
    if (status == CONVJIT_OK)
        *ms = elapsed;
    return status;
}

static convjit_status device_time(cj_device *base, convjit_status (*body)(void *user), void *user, double *ms)
{
    driver *d = (driver *)base;
    CUevent from = NULL, to = NULL;
    bool pushed;
    convjit_status status = enter_any(d, &pushed);
    if (status != CONVJIT_OK)
        return status;
    status = CALL(d, EventCreate, &from, CU_EVENT_DEFAULT);
    if (status == CONVJIT_OK)
        status = CALL(d, EventCreate, &to, CU_EVENT_DEFAULT);
    if (status == CONVJIT_OK)
        status = time_between(d, from, to, body, user, ms);
    if (to)
        d->api.EventDestroy(to);
    if (from)
        d->api.EventDestroy(from);
    return leave(d, pushed, status);
}

/* ---- the device object ---- */

/* Makes no context: that would take a second and 400 MB for a question. */
static convjit_status write_gpu(const driver *d, int ordinal, cj_text *json)
{
    CUdevice gpu;
    char name[128] = "", arch[16];
    int sms = 0;
    size_t bytes = 0;
    convjit_status status = CALL(d, DeviceGet, &gpu, ordinal);
    if (status == CONVJIT_OK)
        status = CALL(d, DeviceGetName, name, sizeof name, gpu);
    if (status == CONVJIT_OK)
        status = read_arch(d, gpu, arch);
    if (status == CONVJIT_OK)
        status = CALL(d, DeviceGetAttribute, &sms, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, gpu);
    if (status == CONVJIT_OK)
        status = CALL(d, DeviceTotalMem, &bytes, gpu);
    if (status != CONVJIT_OK)
        return status;
    cj_text_puts(json, "{\"name\":");
    cj_text_json(json, name);
    cj_text_printf(json, ",\"arch\":\"%s\",\"multiprocessors\":%d,\"memory\":%zu}", arch, sms, bytes);
    return CONVJIT_OK;
}

static convjit_status write_gpus(const driver *d, cj_text *json)
{
    int count = 0;
    convjit_status status = CALL(d, DeviceGetCount, &count);
    cj_text_puts(json, "[");
    for (int i = 0; status == CONVJIT_OK && i < count; i++) {
        if (i)
            cj_text_puts(json, ",");
        status = write_gpu(d, i, json);
    }
    cj_text_puts(json, "]");
    return status;
}

static void info(cj_device *base, cj_text *json)
{
    driver *d = (driver *)base;
    int version = 0;
    cj_text gpus = {0};
    convjit_status status = open_once(d);
    if (status == CONVJIT_OK)
        status = CALL(d, DriverGetVersion, &version);
    if (status == CONVJIT_OK)
        status = write_gpus(d, &gpus);
    cj_text_puts(json, "{\"file\":");
    pthread_mutex_lock(&d->lock); /* after a failure, another thread may be opening the library now */
    if (d->file)
        cj_text_json(json, d->file);
    else
        cj_text_puts(json, "null");
    pthread_mutex_unlock(&d->lock);
    if (status == CONVJIT_OK) {
        cj_text_printf(json, ",\"version\":\"%d.%d\",\"gpus\":", version / 1000, version % 1000 / 10);
        cj_text_add(json, gpus.data, gpus.length);
    } else {
        cj_text_puts(json, ",\"error\":");
        cj_text_json(json, convjit_errmsg());
    }
    cj_text_puts(json, "}");
    json->failed |= gpus.failed;
    cj_text_free(&gpus);
}

static void close_driver(cj_device *base)
{
    driver *d = (driver *)base;
    if (!d)
        return;
    if (d->primary)
        d->api.DevicePrimaryCtxRelease(d->primary->gpu);
    while (d->contexts) {
        bound *b = d->contexts;
        d->contexts = b->next;
        free(b);
    }
    pthread_mutex_destroy(&d->lock);
    free(d->file);
    free(d->configured);
    free(d->arch);
    free(d);
}

convjit_status cj_driver_open(cj_device **out, const convjit_config *config)
{
    /* secure_getenv: a program with more rights than its user takes no code from where that user says. */
    const char *configured = config->driver ? config->driver : secure_getenv("CONVJIT_DRIVER");
    bool has_name = configured && *configured;
    driver *d = calloc(1, sizeof *d);
    if (d) {
        d->configured = has_name ? strdup(configured) : NULL;
        d->arch = config->arch ? strdup(config->arch) : NULL;
    }
    if (!d || (has_name && !d->configured) || (config->arch && !d->arch)) {
        if (d) {
            free(d->configured);
            free(d->arch);
            free(d);
        }
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a device");
    }
    d->ordinal = config->ordinal;
    pthread_mutex_init(&d->lock, NULL);
    d->base = (cj_device){
        .bind = bind, .load = load, .unload = unload, .function = function, .resources = resources, .launch = launch,
        .launch_with = launch_with, .encode = encode,
        .alloc = device_alloc, .free = device_free, .write = device_write, .read = device_read, .fill = device_fill,
        .sync = device_sync, .time = device_time, .info = info, .close = close_driver,
    };
    *out = &d->base;
    return CONVJIT_OK;
}
