/* cuda.c: a fake libcuda over host memory for tests; fake.h says what it does and how to steer it.
 *
 * It has exactly the functions that runtime/driver.c calls, and is stricter than the real one: each handle is looked up
 * in the list of those alive, each copy must lie in one allocation, each launch must respect the hardware's limits. */
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>
#include "fake.h"

#define EXPORT(type, name, parameters) \
    type name parameters;              \
    __attribute__((visibility("default"))) type name parameters

/* Driver function: counts the call, and fails if FAKE_CUDA_FAIL or a missing cuInit says so. The body runs locked. */
#define DRIVER(name, parameters, arguments)             \
    static int body_##name parameters;                  \
    EXPORT(int, name, parameters)                       \
    {                                                   \
        pthread_mutex_lock(&lock);                      \
        int result = enter(#name);                      \
        if (result == SUCCESS)                          \
            result = body_##name arguments;             \
        pthread_mutex_unlock(&lock);                    \
        return result;                                  \
    }                                                   \
    static int body_##name parameters

enum {
    SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, INVALID_DEVICE = 101,
    INVALID_IMAGE = 200, INVALID_CONTEXT = 201, NO_BINARY_FOR_GPU = 209, INVALID_HANDLE = 400, NOT_FOUND = 500
};
enum { MAX_DEVICES = 16, MAX_DEPTH = 16, MAX_NAMES = 64, DEFAULT_SMEM = 48 << 10 };
enum { ATTRIBUTE_SMS = 16, ATTRIBUTE_MAJOR = 75, ATTRIBUTE_MINOR = 76, ATTRIBUTE_SMEM_OPTIN = 97 };
enum { FUNCTION_MAX_THREADS, FUNCTION_STATIC_SMEM, FUNCTION_LOCAL = 3, FUNCTION_REGISTERS, FUNCTION_DYNAMIC_SMEM = 8 };

typedef enum kind { CONTEXT, STREAM, MODULE, FUNCTION, EVENT, MEMORY } kind;

typedef struct handle {
    kind kind;
    struct handle *next;
    struct handle *context;    /* all but a context: where it was made */
    int device;                /* context */
    unsigned long long id;     /* context: never used twice */
    char *image;               /* module */
    struct handle *module;     /* function */
    char entry[256];           /* function */
    const char *parameters;    /* function: in its module's image, behind the '(' */
    int dynamic_smem;          /* function */
    double ms;                 /* event: when it was recorded */
    unsigned char *data;       /* memory */
    size_t size;               /* memory */
} handle;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static bool initialized;
static handle *alive;
static unsigned long long next_id;
static size_t memory_used;
static handle *primary[MAX_DEVICES];
static int primary_users[MAX_DEVICES];
static struct { const char *name; int count; } calls[MAX_NAMES];
static fake_launch launches[FAKE_MAX_LAUNCHES];
static int n_launches;
static _Thread_local handle *stack[MAX_DEPTH];
static _Thread_local int depth;

/* ---- what the environment says ---- */

static long long setting(const char *name, long long otherwise)
{
    const char *text = getenv(name);
    return text && *text ? atoll(text) : otherwise;
}

static int devices(void)
{
    return (int)setting("FAKE_CUDA_DEVICES", 1);
}

static void capability(int *major, int *minor)
{
    const char *text = getenv("FAKE_CUDA_ARCH");
    if (!text || sscanf(text, "%d.%d", major, minor) != 2) {
        *major = 9;
        *minor = 0;
    }
}

/* As the CUDA programming guide's table of technical specifications has it. */
static int smem_optin(void)
{
    int major, minor;
    capability(&major, &minor);
    int kib = major >= 9 && major < 12 ? 227 : major == 8 && (minor == 0 || minor == 7) ? 163 : 99;
    return kib << 10;
}

static void count(const char *name)
{
    int i = 0;
    while (i < MAX_NAMES - 1 && calls[i].name && strcmp(calls[i].name, name) != 0)
        i++;
    calls[i].name = name;
    calls[i].count++;
}

static int enter(const char *name)
{
    count(name);
    const char *fail = getenv("FAKE_CUDA_FAIL");
    size_t length = strlen(name);
    if (fail && strncmp(fail, name, length) == 0 && fail[length] == ':')
        return atoi(fail + length + 1);
    bool needs_init = strcmp(name, "cuInit") != 0 && strcmp(name, "cuDriverGetVersion") != 0;
    return needs_init && !initialized ? NOT_INITIALIZED : SUCCESS;
}

/* ---- handles ---- */

static handle *make(kind k, handle *context)
{
    handle *h = calloc(1, sizeof *h);
    if (!h)
        return NULL;
    h->kind = k;
    h->context = context;
    h->next = alive;
    alive = h;
    return h;
}

static bool valid(const handle *h, kind k)
{
    for (const handle *a = alive; a; a = a->next)
        if (a == h)
            return a->kind == k;
    return false;
}

static void drop(handle *h)
{
    for (handle **link = &alive; *link; link = &(*link)->next) {
        if (*link == h) {
            *link = h->next;
            break;
        }
    }
    if (h->kind == MEMORY)
        memory_used -= h->size;
    free(h->data);
    free(h->image);
    free(h);
}

static handle *find_member(const handle *owner)
{
    handle *a = alive;
    while (a && a->context != owner && a->module != owner)
        a = a->next;
    return a;
}

/* Drops everything that belongs to a context or a module, then itself. */
static void drop_with_members(handle *owner)
{
    for (handle *member; (member = find_member(owner)) != NULL;)
        drop(member);
    drop(owner);
}

static handle *current(void)
{
    handle *top = depth ? stack[depth - 1] : NULL;
    return top && valid(top, CONTEXT) ? top : NULL;
}

static handle *new_context(int device)
{
    handle *c = make(CONTEXT, NULL);
    if (c) {
        c->device = device;
        c->id = ++next_id;
    }
    return c;
}

/* The allocation that holds all of [address, address + size). */
static handle *find_memory(uint64_t address, size_t size)
{
    for (handle *a = alive; a; a = a->next) {
        uint64_t start = (uint64_t)(uintptr_t)a->data;
        if (a->kind == MEMORY && address >= start && size <= a->size && address - start <= a->size - size)
            return a;
    }
    return NULL;
}

/* ---- for tests ---- */

EXPORT(int, fake_cuda_launches, (void))
{
    pthread_mutex_lock(&lock);
    int n = n_launches;
    pthread_mutex_unlock(&lock);
    return n;
}

EXPORT(const fake_launch *, fake_cuda_launch, (int i))
{
    return i >= 0 && i < fake_cuda_launches() && i < FAKE_MAX_LAUNCHES ? &launches[i] : NULL;
}

EXPORT(int, fake_cuda_calls, (const char *name))
{
    int n = 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; i < MAX_NAMES && calls[i].name; i++)
        if (!name || strcmp(calls[i].name, name) == 0)
            n += calls[i].count;
    pthread_mutex_unlock(&lock);
    return n;
}

EXPORT(int, fake_cuda_live, (void))
{
    int n = 0;
    pthread_mutex_lock(&lock);
    for (handle *a = alive; a; a = a->next)
        n += a->kind != FUNCTION && a->kind != STREAM;
    pthread_mutex_unlock(&lock);
    return n;
}

EXPORT(void *, fake_cuda_context, (int device))
{
    pthread_mutex_lock(&lock);
    handle *c = new_context(device);
    pthread_mutex_unlock(&lock);
    return c;
}

EXPORT(void, fake_cuda_context_destroy, (void *context))
{
    pthread_mutex_lock(&lock);
    if (valid(context, CONTEXT))
        drop_with_members(context);
    pthread_mutex_unlock(&lock);
}

EXPORT(void *, fake_cuda_stream, (void))
{
    pthread_mutex_lock(&lock);
    handle *s = make(STREAM, NULL);
    pthread_mutex_unlock(&lock);
    return s;
}

/* ---- errors ---- */

static const struct { int code; const char *name, *text; } errors[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
};

/* As in the real driver, an unknown code gives NULL and CUDA_ERROR_INVALID_VALUE, and no initialization is needed. */
EXPORT(int, cuGetErrorName, (int code, const char **text))
{
    *text = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code)
            *text = errors[i].name;
    return *text ? SUCCESS : INVALID_VALUE;
}

EXPORT(int, cuGetErrorString, (int code, const char **text))
{
    *text = NULL;
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++)
        if (errors[i].code == code)
            *text = errors[i].text;
    return *text ? SUCCESS : INVALID_VALUE;
}

/* ---- devices and contexts ---- */

DRIVER(cuInit, (unsigned flags), (flags))
{
    if (flags != 0)
        return INVALID_VALUE;
    if (devices() < 1)
        return NO_DEVICE;
    initialized = true;
    return SUCCESS;
}

DRIVER(cuDriverGetVersion, (int *version), (version))
{
    *version = 13000;
    return SUCCESS;
}

DRIVER(cuDeviceGetCount, (int *n), (n))
{
    *n = devices();
    return SUCCESS;
}

DRIVER(cuDeviceGet, (int *device, int ordinal), (device, ordinal))
{
    if (ordinal < 0 || ordinal >= devices() || ordinal >= MAX_DEVICES)
        return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

DRIVER(cuDeviceGetName, (char *name, int size, int device), (name, size, device))
{
    snprintf(name, (size_t)size, "Fake GPU %d", device);
    return SUCCESS;
}

DRIVER(cuDeviceTotalMem_v2, (size_t *bytes, int device), (bytes, device))
{
    *bytes = (size_t)setting("FAKE_CUDA_MEMORY", 1 << 30);
    return SUCCESS;
}

DRIVER(cuDeviceGetAttribute, (int *value, int attribute, int device), (value, attribute, device))
{
    int major, minor;
    capability(&major, &minor);
    if (device < 0 || device >= devices())
        return INVALID_DEVICE;
    switch (attribute) {
    case ATTRIBUTE_SMS: *value = 132; return SUCCESS;
    case ATTRIBUTE_MAJOR: *value = major; return SUCCESS;
    case ATTRIBUTE_MINOR: *value = minor; return SUCCESS;
    case ATTRIBUTE_SMEM_OPTIN: *value = smem_optin(); return SUCCESS;
    default: return INVALID_VALUE;
    }
}

DRIVER(cuDevicePrimaryCtxRetain, (handle **context, int device), (context, device))
{
    if (device < 0 || device >= devices() || device >= MAX_DEVICES)
        return INVALID_DEVICE;
    if (!primary[device] && !(primary[device] = new_context(device)))
        return OUT_OF_MEMORY;
    primary_users[device]++;
    *context = primary[device];
    return SUCCESS;
}

DRIVER(cuDevicePrimaryCtxRelease_v2, (int device), (device))
{
    if (device < 0 || device >= MAX_DEVICES || primary_users[device] == 0)
        return INVALID_CONTEXT;
    if (--primary_users[device] == 0) {
        drop_with_members(primary[device]);
        primary[device] = NULL;
    }
    return SUCCESS;
}

DRIVER(cuCtxGetCurrent, (handle **context), (context))
{
    *context = current();
    return SUCCESS;
}

DRIVER(cuCtxGetDevice, (int *device), (device))
{
    if (!current())
        return INVALID_CONTEXT;
    *device = current()->device;
    return SUCCESS;
}

DRIVER(cuCtxGetId, (handle *context, unsigned long long *id), (context, id))
{
    if (!valid(context, CONTEXT))
        return INVALID_CONTEXT;
    *id = context->id;
    return SUCCESS;
}

DRIVER(cuCtxPushCurrent_v2, (handle *context), (context))
{
    if (!valid(context, CONTEXT) || depth == MAX_DEPTH)
        return INVALID_CONTEXT;
    stack[depth++] = context;
    return SUCCESS;
}

DRIVER(cuCtxPopCurrent_v2, (handle **context), (context))
{
    if (!depth)
        return INVALID_CONTEXT;
    *context = stack[--depth];
    return SUCCESS;
}

/* ---- modules and functions ---- */

/* Whether a cubin for "sm_86" or "sm_90a" runs here: the same major number and no higher minor one, or with a suffix
 * the very same number. */
static bool runs_here(const char *arch)
{
    int major, minor, number;
    char suffix = 0;
    capability(&major, &minor);
    if (sscanf(arch, "sm_%d%c", &number, &suffix) < 1)
        return false;
    bool exact = suffix == 'a';
    return number / 10 == major && (exact ? number % 10 == minor : number % 10 <= minor);
}

DRIVER(cuModuleLoadData, (handle **module, const void *image), (module, image))
{
    size_t magic = strlen(FAKE_CUBIN_MAGIC);
    if (!current())
        return INVALID_CONTEXT;
    if (!image || strncmp(image, FAKE_CUBIN_MAGIC, magic) != 0)
        return INVALID_IMAGE;
    if (!runs_here((const char *)image + magic))
        return NO_BINARY_FOR_GPU;
    handle *m = make(MODULE, current());
    if (!m)
        return OUT_OF_MEMORY;
    m->image = strdup(image);
    if (!m->image) {
        drop(m);
        return OUT_OF_MEMORY;
    }
    *module = m;
    return SUCCESS;
}

DRIVER(cuModuleUnload, (handle *module), (module))
{
    if (!valid(module, MODULE) || module->context != current())
        return INVALID_HANDLE;
    drop_with_members(module);
    return SUCCESS;
}

/* The text behind "NAME(" where a __global__ function of that name is defined. */
static const char *find_parameters(const char *image, const char *name)
{
    size_t length = strlen(name);
    const char *global = strstr(image, "__global__");
    for (const char *at = global; at && (at = strstr(at, name)) != NULL; at += length)
        if (strchr(" \n*", at[-1]) && at[length] == '(')
            return at + length + 1;
    return NULL;
}

DRIVER(cuModuleGetFunction, (handle **function, handle *module, const char *name), (function, module, name))
{
    if (!valid(module, MODULE) || module->context != current())
        return INVALID_HANDLE;
    const char *parameters = *name ? find_parameters(module->image, name) : NULL;
    if (!parameters)
        return NOT_FOUND;
    handle *f = make(FUNCTION, module->context);
    if (!f)
        return OUT_OF_MEMORY;
    f->module = module;
    f->parameters = parameters;
    f->dynamic_smem = DEFAULT_SMEM;
    snprintf(f->entry, sizeof f->entry, "%s", name);
    *function = f;
    return SUCCESS;
}

DRIVER(cuFuncSetAttribute, (handle *function, int attribute, int value), (function, attribute, value))
{
    if (!valid(function, FUNCTION))
        return INVALID_HANDLE;
    if (attribute != FUNCTION_DYNAMIC_SMEM || value < 0 || value > smem_optin())
        return INVALID_VALUE;
    function->dynamic_smem = value;
    return SUCCESS;
}

DRIVER(cuFuncGetAttribute, (int *value, int attribute, handle *function), (value, attribute, function))
{
    if (!valid(function, FUNCTION))
        return INVALID_HANDLE;
    switch (attribute) {
    case FUNCTION_MAX_THREADS: *value = 1024; return SUCCESS;
    case FUNCTION_STATIC_SMEM: *value = 0; return SUCCESS;
    case FUNCTION_LOCAL: *value = 0; return SUCCESS;
    case FUNCTION_REGISTERS: *value = 40; return SUCCESS;
    case FUNCTION_DYNAMIC_SMEM: *value = function->dynamic_smem; return SUCCESS;
    default: return INVALID_VALUE;
    }
}

/* ---- launches ---- */

/* Reads the arguments as the parameter list in the source says: what has a '*' or is a long long has 8 bytes, else
 * 4; a map begins with the address. */
static void read_arguments(fake_launch *l, const char *parameters, void **arguments)
{
    const char *end = parameters + strcspn(parameters, ")");
    while (parameters < end && l->n_args < FAKE_MAX_ARGS) {
        size_t length = strcspn(parameters, ",)");
        bool map = memmem(parameters, length, "TensorMap", 9);
        bool wide = map || memmem(parameters, length, "*", 1) || memmem(parameters, length, "long long", 9);
        memcpy(&l->args[l->n_args], arguments[l->n_args], wide ? 8 : 4);
        l->n_args++;
        parameters += length + 1;
    }
}

static int record(handle *function, const unsigned grid[3], const unsigned block[3], const unsigned cluster[3], int overlap,
                  unsigned smem, handle *stream, void **arguments, void **extra)
{
    unsigned gx = grid[0], gy = grid[1], gz = grid[2], bx = block[0], by = block[1], bz = block[2];
    if (!current())
        return INVALID_CONTEXT;
    if (!valid(function, FUNCTION) || function->context != current() || (stream && !valid(stream, STREAM)))
        return INVALID_HANDLE;
    bool grid_fits = gx && gy && gz && gx <= 0x7fffffff && gy <= 65535 && gz <= 65535;
    bool block_fits = bx && by && bz && bx <= 1024 && by <= 1024 && bz <= 64 && bx * by * bz <= 1024;
    if (!grid_fits || !block_fits || smem > (unsigned)function->dynamic_smem || extra)
        return INVALID_VALUE;
    if (n_launches < FAKE_MAX_LAUNCHES) {
        fake_launch *l = &launches[n_launches];
        *l = (fake_launch){.grid = {gx, gy, gz}, .block = {bx, by, bz}, .smem = smem, .overlap = overlap, .stream = stream};
        memcpy(l->cluster, cluster, sizeof l->cluster);
        l->context = current();
        memcpy(l->entry, function->entry, sizeof l->entry);
        read_arguments(l, function->parameters, arguments);
    }
    n_launches++;
    return SUCCESS;
}

DRIVER(cuLaunchKernel,
       (handle *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned smem,
        handle *stream, void **arguments, void **extra),
       (function, gx, gy, gz, bx, by, bz, smem, stream, arguments, extra))
{
    const unsigned grid[3] = {gx, gy, gz}, block[3] = {bx, by, bz}, alone[3] = {1, 1, 1};
    return record(function, grid, block, alone, 0, smem, stream, arguments, extra);
}

typedef struct attribute { int id; char pad[4]; unsigned value[3]; char rest[52]; } attribute;
typedef struct launch_config {
    unsigned grid[3], block[3], smem;
    handle *stream;
    attribute *attributes;
    unsigned n_attributes;
} launch_config;
enum { CLUSTER_DIMENSION = 4, PROGRAMMATIC_STREAM_SERIALIZATION = 6 };

static bool cluster_fits(const unsigned cluster[3], const unsigned grid[3])
{
    bool fits = cluster[0] * cluster[1] * cluster[2] >= 1 && cluster[0] * cluster[1] * cluster[2] <= 8;
    for (int i = 0; i < 3 && fits; i++)
        fits = grid[i] % cluster[i] == 0;
    return fits;
}

DRIVER(cuLaunchKernelEx, (const launch_config *config, handle *function, void **arguments, void **extra),
       (config, function, arguments, extra))
{
    unsigned cluster[3] = {1, 1, 1};
    int major, minor, overlap = 0;
    capability(&major, &minor);
    for (unsigned i = 0; i < config->n_attributes; i++) {
        const attribute *a = &config->attributes[i];
        if (major < 9 || (a->id != CLUSTER_DIMENSION && a->id != PROGRAMMATIC_STREAM_SERIALIZATION))
            return INVALID_VALUE;
        if (a->id == CLUSTER_DIMENSION)
            memcpy(cluster, a->value, sizeof cluster);
        else
            overlap = (int)a->value[0];
    }
    return cluster_fits(cluster, config->grid) ? record(function, config->grid, config->block, cluster, overlap, config->smem,
                                                        config->stream, arguments, extra)
                                               : INVALID_VALUE;
}

static bool box_fits(int i, unsigned size, unsigned box, unsigned every)
{
    return box >= 1 && box <= 256 && every >= 1 && every <= 8 && (i > 0 || box * size % 16 == 0);
}

/* The map: its address, and behind it the parameters as 15 words. */
DRIVER(cuTensorMapEncodeTiled,
       (uint64_t *map, int type, unsigned rank, void *address, const uint64_t *dims, const uint64_t *strides, const unsigned *box,
        const unsigned *every, int interleave, int swizzle, int promotion, int fill),
       (map, type, rank, address, dims, strides, box, every, interleave, swizzle, promotion, fill))
{
    unsigned size = type == 6 || type == 9 ? 2 : type == 7 || type == 11 ? 4 : 0;
    bool fits = (uintptr_t)map % 64 == 0 && (uintptr_t)address % 16 == 0 && size && rank >= 1 && rank <= 5 && swizzle >= 0 &&
                swizzle <= 3 && interleave == 0 && fill == 0 && promotion >= 0 && promotion <= 3;
    for (unsigned i = 0; fits && i < rank; i++)
        fits = dims[i] >= 1 && dims[i] <= 1ull << 32 && box_fits((int)i, size, box[i], every[i]) &&
               (i + 1 == rank || (strides[i] % 16 == 0 && strides[i] < 1ull << 40));
    if (!fits || (swizzle && box[0] * size > 16u << swizzle))
        return INVALID_VALUE;
    memset(map, 0, 128);
    map[0] = (uintptr_t)address;
    map[1] = (uint64_t)type << 8 | rank << 4 | (unsigned)swizzle;
    for (unsigned i = 0; i < rank; i++) {
        map[2 + i] = dims[i];
        map[7 + i] = i + 1 < rank ? strides[i] : 0;
        map[12] |= (uint64_t)(box[i] - 1) << 8 * i;
        map[13] |= (uint64_t)every[i] << 8 * i;
    }
    return SUCCESS;
}

/* ---- memory ---- */

DRIVER(cuMemAlloc_v2, (uint64_t *address, size_t bytes), (address, bytes))
{
    if (!current())
        return INVALID_CONTEXT;
    if (bytes == 0)
        return INVALID_VALUE;
    size_t total = (size_t)setting("FAKE_CUDA_MEMORY", 1 << 30);
    if (bytes > total || memory_used > total - bytes)
        return OUT_OF_MEMORY;
    handle *m = make(MEMORY, current());
    if (!m)
        return OUT_OF_MEMORY;
    m->data = aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (!m->data) {
        drop(m);
        return OUT_OF_MEMORY;
    }
    m->size = bytes;
    memory_used += bytes;
    *address = (uint64_t)(uintptr_t)m->data;
    return SUCCESS;
}

DRIVER(cuMemFree_v2, (uint64_t address), (address))
{
    handle *m = find_memory(address, 1);
    if (!current())
        return INVALID_CONTEXT;
    if (!m || (uint64_t)(uintptr_t)m->data != address)
        return INVALID_VALUE;
    drop(m);
    return SUCCESS;
}

DRIVER(cuMemcpyHtoD_v2, (uint64_t device, const void *host, size_t bytes), (device, host, bytes))
{
    if (!current())
        return INVALID_CONTEXT;
    if (!find_memory(device, bytes))
        return INVALID_VALUE;
    memcpy((void *)(uintptr_t)device, host, bytes);
    return SUCCESS;
}

DRIVER(cuMemcpyDtoH_v2, (void *host, uint64_t device, size_t bytes), (host, device, bytes))
{
    if (!current())
        return INVALID_CONTEXT;
    if (!find_memory(device, bytes))
        return INVALID_VALUE;
    memcpy(host, (const void *)(uintptr_t)device, bytes);
    return SUCCESS;
}

DRIVER(cuMemsetD8_v2, (uint64_t device, unsigned char byte, size_t bytes), (device, byte, bytes))
{
    if (!current())
        return INVALID_CONTEXT;
    if (!find_memory(device, bytes))
        return INVALID_VALUE;
    memset((void *)(uintptr_t)device, byte, bytes);
    return SUCCESS;
}

/* ---- streams and events ---- */

DRIVER(cuStreamSynchronize, (handle *stream), (stream))
{
    if (!current())
        return INVALID_CONTEXT;
    return stream && !valid(stream, STREAM) ? INVALID_HANDLE : SUCCESS;
}

DRIVER(cuEventCreate, (handle **event, unsigned flags), (event, flags))
{
    if (!current())
        return INVALID_CONTEXT;
    *event = make(EVENT, current());
    return *event ? SUCCESS : OUT_OF_MEMORY;
}

DRIVER(cuEventRecord, (handle *event, handle *stream), (event, stream))
{
    struct timespec now;
    if (!valid(event, EVENT) || event->context != current())
        return INVALID_HANDLE;
    clock_gettime(CLOCK_MONOTONIC, &now);
    event->ms = (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
    return SUCCESS;
}

DRIVER(cuEventSynchronize, (handle *event), (event))
{
    return valid(event, EVENT) ? SUCCESS : INVALID_HANDLE;
}

DRIVER(cuEventElapsedTime, (float *ms, handle *from, handle *to), (ms, from, to))
{
    if (!valid(from, EVENT) || !valid(to, EVENT) || from->ms == 0 || to->ms == 0)
        return INVALID_HANDLE;
    *ms = (float)(to->ms - from->ms);
    return SUCCESS;
}

DRIVER(cuEventDestroy_v2, (handle *event), (event))
{
    if (!valid(event, EVENT))
        return INVALID_HANDLE;
    drop(event);
    return SUCCESS;
}
