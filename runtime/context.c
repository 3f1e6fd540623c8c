/* context.c: what a convjit holds, each part opened when it is first needed; and the calls that need no plan. */
#include <stdlib.h>
#include <string.h>
#include "context.h"

static const char DEFAULT_ARCH[] = "sm_90a";
enum { MAX_ARCH = 15 }; /* characters of an architecture's name: cj_device's bind has room for no more */

/* ---- Opening and closing ---- */

static convjit_status check_config(const convjit_config *config)
{
    convjit_status status = cj_check_struct(config, sizeof *config, "convjit_config");
    if (status != CONVJIT_OK)
        return status;
    if ((unsigned)config->device >= CONVJIT_DEVICE_COUNT)
        return cj_fail(CONVJIT_INVALID, "device %d is neither CONVJIT_GPU nor CONVJIT_EMU", (int)config->device);
    if (config->ordinal < 0)
        return cj_fail(CONVJIT_INVALID, "ordinal %d is negative", config->ordinal);
    if (config->arch && strlen(config->arch) > MAX_ARCH)
        return cj_fail(CONVJIT_INVALID, "arch has %zu characters, above the limit %d", strlen(config->arch), MAX_ARCH);
    return CONVJIT_OK;
}

/* Replaces each string by a copy; after a failure some are NULL, and none is the caller's. */
static convjit_status copy_strings(convjit_config *config)
{
    const char **strings[] = {&config->arch, &config->cache_dir, &config->cache_path, &config->nvrtc, &config->driver};
    convjit_status status = CONVJIT_OK;
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++) {
        const char *given = *strings[i];
        *strings[i] = given ? strdup(given) : NULL;
        if (given && !*strings[i])
            status = cj_fail(CONVJIT_NO_MEMORY, "out of memory for a context");
    }
    return status;
}

static convjit_status open_parts(convjit *cj)
{
    const convjit_config *config = &cj->config;
    bool emulated = config->device == CONVJIT_EMU;
    convjit_status status = emulated ? cj_emu_device_open(&cj->device, config) : cj_driver_open(&cj->device, config);
    if (status == CONVJIT_OK)
        status = emulated ? cj_emu_compiler_open(&cj->compiler, config) : cj_nvrtc_open(&cj->compiler, config);
    if (status == CONVJIT_OK)
        status = cj_cache_open(&cj->cache, config);
    if (status != CONVJIT_OK)
        return status;
    cj->built = cj_table_create();
    cj->plans = cj_plans_create();
    return cj->built && cj->plans ? CONVJIT_OK : cj_fail(CONVJIT_NO_MEMORY, "out of memory for a context");
}

convjit_status convjit_open(convjit **out, const convjit_config *config)
{
    const convjit_config defaults = {.size = sizeof defaults};
    if (!config)
        config = &defaults;
    if (!out)
        return cj_fail(CONVJIT_INVALID, "cj is NULL");
    convjit_status status = check_config(config);
    if (status != CONVJIT_OK)
        return status;
    convjit *cj = calloc(1, sizeof *cj);
    if (!cj)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a context");
    memcpy(&cj->config, config, sizeof cj->config);
    cj->config.size = sizeof cj->config;
    cj_log_init(&cj->log, config);
    pthread_mutex_init(&cj->script_lock, NULL);
    status = copy_strings(&cj->config);
    if (status == CONVJIT_OK)
        status = open_parts(cj);
    if (status != CONVJIT_OK) {
        convjit_close(cj);
        return status;
    }
    *out = cj;
    return CONVJIT_OK;
}

void convjit_close(convjit *cj)
{
    if (!cj)
        return;
    cj_plans_free(cj->plans, cj->device);
    cj_table_free(cj->built);
    cj_script_close(cj->script);
    cj_cache_close(cj->cache);
    if (cj->compiler)
        cj->compiler->close(cj->compiler);
    if (cj->device)
        cj->device->close(cj->device);
    pthread_mutex_destroy(&cj->script_lock);
    const char *strings[] = {cj->config.arch, cj->config.cache_dir, cj->config.cache_path, cj->config.nvrtc,
                             cj->config.driver};
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        free((char *)strings[i]);
    free(cj);
}

/* ---- The parts ---- */

cj_device *cj_context_device(convjit *cj)
{
    return cj->device;
}

cj_compiler *cj_context_compiler(convjit *cj)
{
    return cj->compiler;
}

cj_cache *cj_context_cache(convjit *cj)
{
    return cj->cache;
}

const cj_log *cj_context_log(convjit *cj)
{
    return &cj->log;
}

/* Locks the generator, and opens it at first use. unlock_script also after a failure. */
static convjit_status lock_script(convjit *cj)
{
    pthread_mutex_lock(&cj->script_lock);
    return cj->script ? CONVJIT_OK : cj_script_open(&cj->script, &cj->config);
}

static convjit_status unlock_script(convjit *cj, convjit_status status)
{
    pthread_mutex_unlock(&cj->script_lock);
    return status;
}

convjit_status cj_context_generate(convjit *cj, const convjit_problem *p, const char *arch, int sms,
                                   const char *schedule, cj_kernel **kernel)
{
    convjit_status status = lock_script(cj);
    if (status == CONVJIT_OK)
        status = cj_script_generate(cj->script, p, arch, sms, schedule, kernel, NULL);
    return unlock_script(cj, status);
}

/* The emulated device has no multiprocessors to count, and says 0. */
convjit_status cj_context_usual_sms(convjit *cj, const char *arch, int *sms)
{
    *sms = 0;
    if (cj->config.device == CONVJIT_EMU)
        return CONVJIT_OK;
    convjit_status status = lock_script(cj);
    if (status == CONVJIT_OK)
        status = cj_script_usual_sms(cj->script, arch, sms);
    return unlock_script(cj, status);
}

convjit_status cj_context_candidates(convjit *cj, const convjit_problem *p, const char *arch, int sms, const char *schedule,
                                     char ***specs, size_t *n)
{
    convjit_status status = lock_script(cj);
    if (status == CONVJIT_OK)
        status = cj_script_candidates(cj->script, p, arch, sms, schedule, specs, n);
    return unlock_script(cj, status);
}

convjit_status cj_context_refusals(convjit *cj, const convjit_problem *p, const char *arch, int sms, char ***lines,
                                   size_t *n)
{
    convjit_status status = lock_script(cj);
    if (status == CONVJIT_OK)
        status = cj_script_refusals(cj->script, p, arch, sms, lines, n);
    return unlock_script(cj, status);
}

void cj_strings_free(char **strings, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(strings[i]);
    free(strings);
}

/* ---- Generated text ---- */

const char *cj_context_arch(const convjit *cj, const char *arch)
{
    return arch ? arch : cj->config.arch ? cj->config.arch : DEFAULT_ARCH;
}

/* What the three calls below have in common. */
static convjit_status check_call(const convjit *cj, const convjit_problem *problem, char **text)
{
    if (!cj || !text)
        return cj_fail(CONVJIT_INVALID, "%s is NULL", cj ? "the pointer for the text" : "cj");
    return convjit_problem_check(problem);
}

convjit_status convjit_generate(convjit *cj, const convjit_problem *problem, const char *arch, const char *schedule,
                                char **source)
{
    cj_kernel *kernel = NULL;
    convjit_status status = check_call(cj, problem, source);
    if (status == CONVJIT_OK)
        status = cj_context_generate(cj, problem, cj_context_arch(cj, arch), 0, schedule, &kernel);
    if (status != CONVJIT_OK)
        return status;
    *source = kernel->source;
    kernel->source = NULL;
    cj_kernel_free(kernel);
    return CONVJIT_OK;
}

convjit_status convjit_generate_torch(convjit *cj, const convjit_problem *problem, const char *arch,
                                      const char *schedule, char **source)
{
    convjit_status status = check_call(cj, problem, source);
    if (status != CONVJIT_OK)
        return status;
    status = lock_script(cj);
    if (status == CONVJIT_OK)
        status = cj_script_torch(cj->script, problem, cj_context_arch(cj, arch), schedule, source);
    return unlock_script(cj, status);
}

convjit_status cj_context_schedules(convjit *cj, const convjit_problem *p, const char *arch, int sms, const char *schedule,
                                    char **json)
{
    convjit_status status = lock_script(cj);
    if (status == CONVJIT_OK)
        status = cj_script_generate(cj->script, p, arch, sms, schedule, NULL, json);
    return unlock_script(cj, status);
}

convjit_status convjit_schedules(convjit *cj, const convjit_problem *problem, const char *arch, char **json)
{
    convjit_status status = check_call(cj, problem, json);
    return status == CONVJIT_OK ? cj_context_schedules(cj, problem, cj_context_arch(cj, arch), 0, NULL, json) : status;
}

/* ---- Device memory ---- */

convjit_status convjit_device_alloc(convjit *cj, void **memory, size_t bytes)
{
    if (!cj || !memory)
        return cj_fail(CONVJIT_INVALID, "%s is NULL", cj ? "memory" : "cj");
    return cj->device->alloc(cj->device, memory, bytes);
}

void convjit_device_free(convjit *cj, void *memory)
{
    if (cj && memory)
        cj->device->free(cj->device, memory);
}

static convjit_status check_copy(const convjit *cj, const void *device, const void *host, size_t bytes)
{
    if (!cj)
        return cj_fail(CONVJIT_INVALID, "cj is NULL");
    if (bytes && (!device || !host))
        return cj_fail(CONVJIT_INVALID, "%s is NULL", device ? "host" : "device");
    return CONVJIT_OK;
}

convjit_status convjit_device_write(convjit *cj, void *device, const void *host, size_t bytes)
{
    convjit_status status = check_copy(cj, device, host, bytes);
    return status == CONVJIT_OK && bytes ? cj->device->write(cj->device, device, host, bytes) : status;
}

convjit_status convjit_device_read(convjit *cj, void *host, const void *device, size_t bytes)
{
    convjit_status status = check_copy(cj, device, host, bytes);
    return status == CONVJIT_OK && bytes ? cj->device->read(cj->device, host, device, bytes) : status;
}

convjit_status convjit_device_sync(convjit *cj, void *stream)
{
    return cj ? cj->device->sync(cj->device, stream) : cj_fail(CONVJIT_INVALID, "cj is NULL");
}

/* ---- Information ---- */

static void write_string(cj_text *json, const char *name, const char *value)
{
    cj_text_printf(json, "\"%s\":", name);
    if (value)
        cj_text_json(json, value);
    else
        cj_text_puts(json, "null");
}

static void write_cache(convjit *cj, cj_text *json)
{
    const char *why_not = NULL;
    cj_text_puts(json, ",\"cache\":{");
    const char *dir = cj_cache_dir(cj->cache, &why_not);
    write_string(json, "dir", dir);
    if (!dir) {
        cj_text_puts(json, ",");
        write_string(json, "why_not", why_not);
    }
    cj_text_puts(json, ",");
    write_string(json, "search_path", cj_cache_search_path(cj->cache));
    cj_text_puts(json, "}");
}

/* The value of a part that could not even be set up. */
static void write_failure(cj_text *json)
{
    cj_text_puts(json, "{");
    write_string(json, "error", convjit_errmsg());
    cj_text_puts(json, "}");
}

/* A compiler or device that is not the context's is opened for the occasion. */
static void write_compiler(convjit *cj, convjit_device device, cj_text *json)
{
    bool own = cj->config.device == device, emulated = device == CONVJIT_EMU;
    cj_compiler *c = own ? cj->compiler : NULL;
    if (!c && (emulated ? cj_emu_compiler_open(&c, &cj->config) : cj_nvrtc_open(&c, &cj->config)) != CONVJIT_OK) {
        write_failure(json);
        return;
    }
    (emulated ? cj_emu_compiler_info : cj_nvrtc_info)(c, json);
    if (!own)
        c->close(c);
}

static void write_device(convjit *cj, convjit_device device, cj_text *json)
{
    bool own = cj->config.device == device, emulated = device == CONVJIT_EMU;
    cj_device *d = own ? cj->device : NULL;
    if (!d && (emulated ? cj_emu_device_open(&d, &cj->config) : cj_driver_open(&d, &cj->config)) != CONVJIT_OK) {
        write_failure(json);
        return;
    }
    d->info(d, json);
    if (!own)
        d->close(d);
}

convjit_status convjit_info(convjit *cj, char **out)
{
    if (!cj || !out)
        return cj_fail(CONVJIT_INVALID, "%s is NULL", cj ? "json" : "cj");
    cj_text json = {0};
    cj_text_puts(&json, "{");
    write_string(&json, "version", convjit_version());
    cj_text_puts(&json, ",");
    write_string(&json, "generator", cj_script_digest());
    write_cache(cj, &json);
    cj_text_puts(&json, ",\"nvrtc\":");
    write_compiler(cj, CONVJIT_GPU, &json);
    cj_text_puts(&json, ",\"driver\":");
    write_device(cj, CONVJIT_GPU, &json);
    cj_text_puts(&json, ",\"emulator\":{\"device\":");
    write_device(cj, CONVJIT_EMU, &json);
    cj_text_puts(&json, ",\"compiler\":");
    write_compiler(cj, CONVJIT_EMU, &json);
    cj_text_puts(&json, "}}");
    return cj_text_take(&json, out);
}
