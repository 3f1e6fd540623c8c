/* nvrtc.c: NVRTC, which turns CUDA source into a cubin. With driver.c the only file that knows a CUDA type.
 *
 * Two steps, each taken once and when first needed: locating the library (its name and size are part of every cache
 * key) and loading it (only to compile). No CUDA header is used; the declarations below are those of nvrtc.h since
 * CUDA 11.2. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "internal.h"

typedef int nvrtcResult;
typedef struct _nvrtcProgram *nvrtcProgram;
enum {
    NVRTC_SUCCESS = 0,
    NVRTC_ERROR_OUT_OF_MEMORY = 1,
    NVRTC_ERROR_INVALID_OPTION = 5,
    NVRTC_ERROR_BUILTIN_OPERATION_FAILURE = 7
};

typedef struct nvrtc_api {
    nvrtcResult (*Version)(int *major, int *minor);
    const char *(*GetErrorString)(nvrtcResult result);
    nvrtcResult (*CreateProgram)(nvrtcProgram *program, const char *source, const char *name, int n_headers,
                                 const char *const *headers, const char *const *include_names);
    nvrtcResult (*DestroyProgram)(nvrtcProgram *program);
    nvrtcResult (*CompileProgram)(nvrtcProgram program, int n_options, const char *const *options);
    nvrtcResult (*GetCUBINSize)(nvrtcProgram program, size_t *size);
    nvrtcResult (*GetCUBIN)(nvrtcProgram program, char *cubin);
    nvrtcResult (*GetProgramLogSize)(nvrtcProgram program, size_t *size);
    nvrtcResult (*GetProgramLog)(nvrtcProgram program, char *log);
} nvrtc_api;

#define SYMBOL(name) {"nvrtc" #name, offsetof(nvrtc_api, name)}
static const struct { const char *name; size_t offset; } symbols[] = {
    SYMBOL(Version),        SYMBOL(GetErrorString), SYMBOL(CreateProgram),
    SYMBOL(DestroyProgram), SYMBOL(CompileProgram), SYMBOL(GetCUBINSize),
    SYMBOL(GetCUBIN),       SYMBOL(GetProgramLogSize), SYMBOL(GetProgramLog),
};

/* The soname holds the major number only, and did not change between 11.2 and 11.8. */
static const char *const library_names[] = {
    "libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so.11.2", "libnvrtc.so", NULL
};

typedef struct nvrtc {
    cj_compiler base;
    char *configured;    /* from the config or the environment; NULL: search */
    pthread_mutex_t lock;/* guards what follows, which changes once: from unknown to known */
    bool searched;
    char *file, *identity;      /* set when found */
    convjit_status not_found;   /* else why: a search is too slow to repeat at every call */
    char *not_found_message;
    cj_text tried;
    bool loaded;
    nvrtc_api api;
    int major, minor;
} nvrtc;

/* ---- locating ---- */

static convjit_status make_identity(const char *file, char **identity)
{
    struct stat st;
    cj_text text = {0};
    if (stat(file, &st) != 0)
        return cj_fail(CONVJIT_NO_COMPILER, "the NVRTC library %s has disappeared", file);
    const char *slash = strrchr(file, '/');
    cj_text_printf(&text, "%s %lld", slash ? slash + 1 : file, (long long)st.st_size);
    return cj_text_take(&text, identity);
}

static convjit_status search(nvrtc *c)
{
    char *file;
    if (c->configured && strcmp(c->configured, "none") == 0)
        return cj_fail(CONVJIT_NO_COMPILER,
                       "a kernel has to be compiled, and compiling is switched off (NVRTC is \"none\")");
    convjit_status status = cj_nvrtc_find(c->configured, library_names, &file, &c->tried);
    if (status != CONVJIT_OK)
        return status;
    status = make_identity(file, &c->identity);
    if (status == CONVJIT_OK)
        c->file = file;
    else
        free(file);
    return status;
}

/* Under the lock. */
static convjit_status locate(nvrtc *c)
{
    if (!c->searched) {
        c->searched = true;
        c->not_found = search(c);
        if (c->not_found != CONVJIT_OK)
            c->not_found_message = strdup(convjit_errmsg());
    }
    if (c->not_found != CONVJIT_OK)
        return cj_fail(c->not_found, "%s", c->not_found_message ? c->not_found_message : "no NVRTC library found");
    return CONVJIT_OK;
}

static const char *identity(cj_compiler *base)
{
    nvrtc *c = (nvrtc *)base;
    pthread_mutex_lock(&c->lock);
    convjit_status status = locate(c);
    pthread_mutex_unlock(&c->lock);
    return status == CONVJIT_OK ? c->identity : NULL;
}

/* ---- loading ---- */

static convjit_status bind_symbols(nvrtc *c, void *library)
{
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *address = dlsym(library, symbols[i].name);
        if (!address)
            return cj_fail(CONVJIT_NO_COMPILER, "%s lacks %s; convjit needs NVRTC 11.2 or newer", c->file,
                           symbols[i].name);
        memcpy((char *)&c->api + symbols[i].offset, &address, sizeof address);
    }
    nvrtcResult result = c->api.Version(&c->major, &c->minor);
    return result == NVRTC_SUCCESS ? CONVJIT_OK : cj_fail(CONVJIT_NO_COMPILER, "nvrtcVersion of %s failed", c->file);
}

/* Under the lock. The library is never unloaded: the next context finds it warm. */
static convjit_status load(nvrtc *c)
{
    convjit_status status = locate(c);
    if (status != CONVJIT_OK || c->loaded)
        return status;
    void *library = dlopen(c->file, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return cj_fail(CONVJIT_NO_COMPILER, "cannot load NVRTC: %s", dlerror());
    status = bind_symbols(c, library);
    c->loaded = status == CONVJIT_OK;
    return status;
}

static convjit_status load_once(nvrtc *c)
{
    pthread_mutex_lock(&c->lock);
    convjit_status status = load(c);
    pthread_mutex_unlock(&c->lock);
    return status;
}

/* ---- compiling ---- */

static convjit_status fail_call(const nvrtc *c, const char *call, nvrtcResult result)
{
    convjit_status status = result == NVRTC_ERROR_OUT_OF_MEMORY ? CONVJIT_NO_MEMORY : CONVJIT_COMPILE;
    return cj_fail(status, "%s: %s (NVRTC %d.%d, %s)", call, c->api.GetErrorString(result), c->major, c->minor,
                   c->file);
}

static convjit_status get_log(const nvrtc *c, nvrtcProgram program, char **log)
{
    size_t size = 0;
    nvrtcResult result = c->api.GetProgramLogSize(program, &size);
    if (result != NVRTC_SUCCESS)
        return fail_call(c, "nvrtcGetProgramLogSize", result);
    char *text = calloc(size + 1, 1);
    if (!text)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a compiler log of %zu bytes", size);
    result = size ? c->api.GetProgramLog(program, text) : NVRTC_SUCCESS;
    if (result != NVRTC_SUCCESS) {
        free(text);
        return fail_call(c, "nvrtcGetProgramLog", result);
    }
    *log = text;
    return CONVJIT_OK;
}

/* Turns NVRTC's refusal into a status: is it the source, or is this NVRTC not up to the task? */
static convjit_status fail_compile(const nvrtc *c, const cj_kernel *k, nvrtcResult result, char *log)
{
    const char *reason = c->api.GetErrorString(result);
    for (size_t n = strlen(log); n > 0 && log[n - 1] == '\n'; n--)
        log[n - 1] = 0;
    if (result == NVRTC_ERROR_OUT_OF_MEMORY)
        return cj_fail(CONVJIT_NO_MEMORY, "NVRTC ran out of memory compiling %s", k->name);
    if (result == NVRTC_ERROR_INVALID_OPTION && strstr(log, "architecture"))
        return cj_fail(CONVJIT_NO_COMPILER,
                       "NVRTC %d.%d (%s) cannot compile for %s: another version is needed. It says: %s", c->major,
                       c->minor, c->file, k->arch, log);
    if (result == NVRTC_ERROR_BUILTIN_OPERATION_FAILURE)
        return cj_fail(CONVJIT_NO_COMPILER, "NVRTC %d.%d (%s) is installed in part (%s): %s", c->major, c->minor,
                       c->file, reason, log);
    return cj_fail(CONVJIT_COMPILE, "NVRTC %d.%d refused kernel %s for %s (%s):\n%s", c->major, c->minor, k->name,
                   k->arch, reason, log);
}

static convjit_status get_cubin(const nvrtc *c, const cj_kernel *k, nvrtcProgram program, cj_blob *binary)
{
    cj_blob cubin = {0};
    nvrtcResult result = c->api.GetCUBINSize(program, &cubin.size);
    if (result != NVRTC_SUCCESS)
        return fail_call(c, "nvrtcGetCUBINSize", result);
    if (cubin.size == 0) /* what NVRTC does for a virtual architecture such as compute_90 */
        return cj_fail(CONVJIT_COMPILE,
                       "NVRTC made no cubin for kernel %s: are its options for a real architecture (sm_NN)?", k->name);
    cubin.data = malloc(cubin.size);
    if (!cubin.data)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a cubin of %zu bytes", cubin.size);
    result = c->api.GetCUBIN(program, (char *)cubin.data);
    if (result != NVRTC_SUCCESS) {
        free(cubin.data);
        return fail_call(c, "nvrtcGetCUBIN", result);
    }
    *binary = cubin;
    return CONVJIT_OK;
}

/* Compiles one part of a kernel's text; part -1: the text as it is. */
static convjit_status compile_program(const nvrtc *c, const cj_kernel *k, int part, nvrtcProgram program, cj_blob *binary,
                                      char **log)
{
    char *text = NULL, define[32];
    const char *options[CJ_MAX_OPTIONS + 1];
    int n = k->n_options;
    memcpy(options, k->options, sizeof *options * (size_t)n);
    if (part >= 0) {
        snprintf(define, sizeof define, "-DCONVJIT_PART=%d", part);
        options[n++] = define;
    }
    nvrtcResult result = c->api.CompileProgram(program, n, options);
    convjit_status status = get_log(c, program, &text);
    if (status != CONVJIT_OK)
        return status;
    status = result == NVRTC_SUCCESS ? get_cubin(c, k, program, binary) : fail_compile(c, k, result, text);
    if (status == CONVJIT_OK)
        *log = text;
    else
        free(text);
    return status;
}

static convjit_status compile_part(const nvrtc *c, const cj_kernel *k, int part, cj_blob *binary, char **log)
{
    cj_text name = {0};
    nvrtcProgram program;
    cj_text_printf(&name, "%s.cu", k->name);
    if (name.failed)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a file name");
    nvrtcResult result = c->api.CreateProgram(&program, k->source, name.data, 0, NULL, NULL);
    cj_text_free(&name);
    if (result != NVRTC_SUCCESS)
        return fail_call(c, "nvrtcCreateProgram", result);
    convjit_status status = compile_program(c, k, part, program, binary, log);
    c->api.DestroyProgram(&program);
    return status;
}

/* A part of a kernel that a thread compiles. */
typedef struct job {
    const nvrtc *c;
    const cj_kernel *k;
    int part;
    pthread_t thread;
    bool threaded;          /* by a thread of its own */
    cj_blob cubin;
    char *log;
    convjit_status status;
    char *message;          /* of the failure: messages belong to threads */
} job;

static void *work(void *argument)
{
    job *j = argument;
    j->status = compile_part(j->c, j->k, j->part, &j->cubin, &j->log);
    if (j->status != CONVJIT_OK)
        j->message = strdup(convjit_errmsg());
    return NULL;
}

/* NVRTC takes about as long for several parts at once as for the longest of them. */
static void compile_parts(job *jobs, int n)
{
    for (int i = n - 1; i >= 0; i--) {
        jobs[i].threaded = i > 0 && pthread_create(&jobs[i].thread, NULL, work, &jobs[i]) == 0;
        if (!jobs[i].threaded)
            work(&jobs[i]);
    }
    for (int i = 0; i < n; i++)
        if (jobs[i].threaded)
            pthread_join(jobs[i].thread, NULL);
}

/* One binary and one log of all parts, or the first failure. */
static convjit_status collect(const job *jobs, int n, cj_blob *binary, char **log)
{
    cj_blob cubins[CJ_MAX_PARTS];
    cj_text all = {0};
    for (int i = 0; i < n; i++) {
        const job *j = &jobs[i];
        if (j->status != CONVJIT_OK)
            return cj_fail(j->status, "%s", j->message ? j->message : "out of memory for this failure's message");
        cubins[i] = j->cubin;
    }
    convjit_status status = cj_parts_join(cubins, n, binary);
    if (status != CONVJIT_OK || !log)
        return status;
    for (int i = 0; i < n; i++)
        cj_text_puts(&all, jobs[i].log);
    status = cj_text_take(&all, log);
    if (status != CONVJIT_OK)
        cj_blob_free(binary);
    return status;
}

convjit_status cj_nvrtc_compile_log(cj_compiler *base, const cj_kernel *k, cj_blob *binary, char **log)
{
    nvrtc *c = (nvrtc *)base;
    job jobs[CJ_MAX_PARTS];
    int n = k->parts > 1 ? k->parts : 1;
    convjit_status status = load_once(c);
    if (status != CONVJIT_OK)
        return cj_fail_in(status, "kernel %s", k->name);
    for (int i = 0; i < n; i++)
        jobs[i] = (job){.c = c, .k = k, .part = n > 1 ? i : -1};
    compile_parts(jobs, n);
    status = collect(jobs, n, binary, log);
    for (int i = 0; i < n; i++) {
        cj_blob_free(&jobs[i].cubin);
        free(jobs[i].log);
        free(jobs[i].message);
    }
    return status;
}

static convjit_status compile(cj_compiler *base, const cj_kernel *k, cj_blob *binary)
{
    return cj_nvrtc_compile_log(base, k, binary, NULL);
}

/* ---- the compiler object ---- */

static void write_tried(const nvrtc *c, cj_text *json)
{
    char *lines = c->tried.data ? strdup(c->tried.data) : NULL, *rest = NULL;
    const char *separator = "";
    cj_text_puts(json, "\"tried\":[");
    for (char *line = lines ? strtok_r(lines, "\n", &rest) : NULL; line; line = strtok_r(NULL, "\n", &rest)) {
        cj_text_puts(json, separator);
        cj_text_json(json, line);
        separator = ",";
    }
    cj_text_puts(json, "]");
    free(lines);
}

void cj_nvrtc_info(cj_compiler *base, cj_text *json)
{
    nvrtc *c = (nvrtc *)base;
    pthread_mutex_lock(&c->lock);
    convjit_status status = load(c); /* a library that is there but does not load is what info is asked about */
    cj_text_puts(json, "{\"file\":");
    if (c->file)
        cj_text_json(json, c->file);
    else
        cj_text_puts(json, "null");
    if (status == CONVJIT_OK) {
        cj_text_puts(json, ",\"identity\":");
        cj_text_json(json, c->identity);
        cj_text_printf(json, ",\"version\":\"%d.%d\"", c->major, c->minor);
    } else {
        cj_text_puts(json, ",\"error\":");
        cj_text_json(json, convjit_errmsg());
        cj_text_puts(json, ",");
        write_tried(c, json);
    }
    cj_text_puts(json, "}");
    pthread_mutex_unlock(&c->lock);
}

static void close_compiler(cj_compiler *base)
{
    nvrtc *c = (nvrtc *)base;
    if (!c)
        return;
    pthread_mutex_destroy(&c->lock);
    cj_text_free(&c->tried);
    free(c->configured);
    free(c->file);
    free(c->identity);
    free(c->not_found_message);
    free(c);
}

convjit_status cj_nvrtc_open(cj_compiler **out, const convjit_config *config)
{
    const char *configured = config->nvrtc ? config->nvrtc : secure_getenv("CONVJIT_NVRTC");
    nvrtc *c = calloc(1, sizeof *c);
    if (!c)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a compiler");
    c->base = (cj_compiler){.kind = "cubin", .identity = identity, .compile = compile, .close = close_compiler};
    if (configured && *configured && !(c->configured = strdup(configured))) {
        free(c);
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a path");
    }
    pthread_mutex_init(&c->lock, NULL);
    *out = &c->base;
    return CONVJIT_OK;
}
