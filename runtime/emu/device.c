/* device.c: the emulated device as a cj_device. A launch runs on the calling OS thread and helpers, and is done on return.
 *
 * CONVJIT_EMU_THREADS   OS threads for a launch (default: one a core)
 * CONVJIT_EMU_ORDER     forward (default), reverse or seed:N: the order of the threads in a block and of the blocks
 * CONVJIT_EMU_ASYNC     when asynchronous operations take effect: wait (default; when a wait makes them) or issue
 * CONVJIT_EMU_TRACE     1: a log line for each wait, whatever CONVJIT_VERBOSE says
 */
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "emu.h"

/* Each worker may hold a stack for every thread of its block; a stack is two mappings of the 65,530 that Linux allows. */
enum { MAX_STACKS = 16384, MAX_WORKERS = 256 };

typedef struct emu_device {
    cj_device base; /* first: the runtime knows only this */
    char arch[16];
    int arch_number;      /* 90 of "sm_90a" */
    cj_heap *heap;
    cj_log log;
    pthread_mutex_t lock; /* guards idle and the settings */
    cj_worker *idle;      /* with their stacks, for the next launch */
    char *order;          /* overrides CONVJIT_EMU_ORDER */
    int threads;          /* overrides CONVJIT_EMU_THREADS */
    char *async;          /* overrides CONVJIT_EMU_ASYNC */
    cj_past *past;        /* what the launches wrote that the owner's next one may overlap; guarded by lock, as is: */
    pthread_t past_owner; /* the OS thread that launched them: a plan's launches are all of one */
} emu_device;

/* Dynamic shared memory that a block may have, in KiB: CUDA C Programming Guide, technical specifications. */
static const struct { const char *arch; int smem_kib; } architectures[] = {
    {"sm_80", 163}, {"sm_86", 99},  {"sm_87", 163},  {"sm_89", 99},  {"sm_90", 227},
    {"sm_90a", 227}, {"sm_100", 227}, {"sm_100a", 227}, {"sm_120", 99}, {"sm_120a", 99},
};

static emu_device *self(cj_device *d)
{
    return (emu_device *)(void *)d;
}

static convjit_status bind_device(cj_device *d, char arch[16], int *sms, uintptr_t *binding)
{
    memcpy(arch, self(d)->arch, 16);
    *sms = 0; /* the architecture's usual number */
    *binding = 0;
    return CONVJIT_OK;
}

static convjit_status load(cj_device *d, uintptr_t binding, const cj_blob *binary, cj_module **out)
{
    return cj_module_load(binary, out);
}

static void unload(cj_device *d, cj_module *m)
{
    cj_module_unload(m);
}

static convjit_status get_function(cj_device *d, cj_module *m, const char *entry, int64_t smem, cj_function **out)
{
    if (smem < 0 || smem > d->smem_limit)
        return cj_fail(CONVJIT_UNSUPPORTED, "%s: %" PRId64 " bytes of shared memory, and a block of %s has at most %" PRId64,
                       entry, smem, self(d)->arch, d->smem_limit);
    return cj_module_function(m, entry, out);
}

static void get_resources(cj_device *d, const cj_function *f, cj_resources *out)
{
    *out = (cj_resources){.max_threads = CJ_EMU_MAX_THREADS};
}

/* ---- Settings ---- */

static convjit_status parse_number(const char *name, const char *text, uint64_t least, uint64_t most, uint64_t *out)
{
    uint64_t value = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9' && value <= (most - (uint64_t)(*at - '0')) / 10; at++)
        value = 10 * value + (uint64_t)(*at - '0');
    if (at == text || *at || value < least || value > most)
        return cj_fail(CONVJIT_INVALID, "%s: \"%s\" is no number from %" PRIu64 " to %" PRIu64, name, text, least, most);
    *out = value;
    return CONVJIT_OK;
}

static convjit_status parse_order(const char *text, cj_emu_order *out)
{
    *out = (cj_emu_order){CJ_EMU_FORWARD, 0};
    if (!text || !*text || strcmp(text, "forward") == 0)
        return CONVJIT_OK;
    if (strncmp(text, "seed:", 5) == 0) {
        out->kind = CJ_EMU_SEEDED;
        return parse_number("CONVJIT_EMU_ORDER", text + 5, 0, UINT64_MAX, &out->seed);
    }
    if (strcmp(text, "reverse") != 0)
        return cj_fail(CONVJIT_INVALID, "CONVJIT_EMU_ORDER: \"%s\" is none of forward, reverse, seed:N", text);
    out->kind = CJ_EMU_REVERSE;
    return CONVJIT_OK;
}

static convjit_status parse_async(const char *text, bool *late)
{
    *late = !text || !*text || strcmp(text, "wait") == 0;
    if (*late || strcmp(text, "issue") == 0)
        return CONVJIT_OK;
    return cj_fail(CONVJIT_INVALID, "CONVJIT_EMU_ASYNC: \"%s\" is neither wait nor issue", text);
}

typedef struct settings {
    cj_emu_order order;
    bool late;
    unsigned threads;
} settings;

static convjit_status get_settings(emu_device *d, settings *out)
{
    const char *environment = getenv("CONVJIT_EMU_THREADS");
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t number = cores < 1 ? 1 : cores > MAX_WORKERS ? MAX_WORKERS : (uint64_t)cores;
    pthread_mutex_lock(&d->lock);
    convjit_status status = parse_order(d->order ? d->order : getenv("CONVJIT_EMU_ORDER"), &out->order);
    if (status == CONVJIT_OK)
        status = parse_async(d->async ? d->async : getenv("CONVJIT_EMU_ASYNC"), &out->late);
    if (d->threads > 0)
        number = (uint64_t)d->threads;
    else if (status == CONVJIT_OK && environment && *environment)
        status = parse_number("CONVJIT_EMU_THREADS", environment, 1, MAX_WORKERS, &number);
    pthread_mutex_unlock(&d->lock);
    out->threads = (unsigned)number;
    return status;
}

/* Puts a copy of the text in place of what was there. */
static convjit_status replace(emu_device *d, char **setting, const char *text)
{
    char *copy = text ? strdup(text) : NULL;
    if (text && !copy)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory");
    pthread_mutex_lock(&d->lock);
    char *before = *setting;
    *setting = copy;
    pthread_mutex_unlock(&d->lock);
    free(before);
    return CONVJIT_OK;
}

convjit_status cj_emu_device_order(cj_device *d, const char *order)
{
    cj_emu_order parsed;
    convjit_status status = parse_order(order, &parsed);
    return status ? status : replace(self(d), &self(d)->order, order);
}

convjit_status cj_emu_device_async(cj_device *d, const char *mode)
{
    bool late;
    convjit_status status = parse_async(mode, &late);
    return status ? status : replace(self(d), &self(d)->async, mode);
}

void cj_emu_device_threads(cj_device *d, int threads)
{
    pthread_mutex_lock(&self(d)->lock);
    self(d)->threads = threads < MAX_WORKERS ? threads : MAX_WORKERS;
    pthread_mutex_unlock(&self(d)->lock);
}

/* ---- Launch ---- */

static convjit_status check_axis(const char *entry, const char *what, const unsigned size[3], const unsigned limit[3])
{
    for (int i = 0; i < 3; i++)
        if (size[i] < 1 || size[i] > limit[i])
            return cj_fail(CONVJIT_INVALID, "%s: %s.%c is %u, and must be from 1 to %u", entry, what, "xyz"[i], size[i],
                           limit[i]);
    return CONVJIT_OK;
}

static convjit_status check_launch(const emu_device *d, const char *entry, const cj_emu_entry *e, const unsigned grid[3],
                                   const unsigned block[3], unsigned smem, int n_args, void *stream)
{
    static const unsigned grid_limit[3] = {2147483647, 65535, 65535}, block_limit[3] = {1024, 1024, 64};
    convjit_status status = check_axis(entry, "grid", grid, grid_limit);
    if (status == CONVJIT_OK)
        status = check_axis(entry, "block", block, block_limit);
    if (status)
        return status;
    if ((uint64_t)block[0] * block[1] * block[2] > CJ_EMU_MAX_THREADS)
        return cj_fail(CONVJIT_INVALID, "%s: a block of %u x %u x %u threads, and at most %d are allowed", entry, block[0],
                       block[1], block[2], CJ_EMU_MAX_THREADS);
    if (e->bounds[0] > 0 && block[0] * block[1] * block[2] > (unsigned)e->bounds[0])
        return cj_fail(CONVJIT_INVALID, "%s: a block of %u x %u x %u threads, and its __launch_bounds__ allow %d", entry, block[0],
                       block[1], block[2], e->bounds[0]);
    if (smem > d->base.smem_limit)
        return cj_fail(CONVJIT_INVALID, "%s: %u bytes of shared memory, and a block of %s has at most %" PRId64, entry, smem,
                       d->arch, d->base.smem_limit);
    if (n_args != e->n_args)
        return cj_fail(CONVJIT_INVALID, "%s: launched with %d arguments, and takes %d", entry, n_args, e->n_args);
    if (stream)
        return cj_fail(CONVJIT_INVALID, "stream must be NULL: the emulated device has only the default stream");
    return CONVJIT_OK;
}

static cj_worker *take_worker(emu_device *d)
{
    pthread_mutex_lock(&d->lock);
    cj_worker *w = d->idle;
    if (w)
        d->idle = w->next_idle;
    pthread_mutex_unlock(&d->lock);
    return w ? w : cj_worker_open();
}

static void give_worker(emu_device *d, cj_worker *w)
{
    pthread_mutex_lock(&d->lock);
    w->next_idle = d->idle;
    d->idle = w;
    pthread_mutex_unlock(&d->lock);
}

typedef struct helper {
    emu_device *device;
    cj_run *run;
    convjit_status status;
    pthread_t thread;
} helper;

static void *help(void *user)
{
    helper *h = user;
    cj_worker *w = take_worker(h->device);
    h->status = CONVJIT_NO_MEMORY;
    if (w) {
        h->status = cj_worker_run(w, h->run);
        give_worker(h->device, w);
    }
    return NULL;
}

/* Runs all blocks: the calling thread and up to n - 1 helpers. A helper that cannot start is done without. */
static convjit_status run_blocks(emu_device *d, cj_run *run, unsigned n)
{
    helper helpers[MAX_WORKERS];
    unsigned started = 1;
    helpers[0] = (helper){.device = d, .run = run};
    for (; started < n; started++) {
        helpers[started] = helpers[0];
        if (pthread_create(&helpers[started].thread, NULL, help, &helpers[started]) != 0)
            break;
    }
    help(&helpers[0]);
    convjit_status status = helpers[0].status;
    for (unsigned i = 1; i < started; i++) {
        pthread_join(helpers[i].thread, NULL);
        status = status ? status : helpers[i].status;
    }
    return status ? cj_fail(status, "the host has no memory for the threads of %s", run->entry->name) : CONVJIT_OK;
}

static unsigned worker_count(const cj_run *run, unsigned threads)
{
    unsigned most = MAX_STACKS / (run->n_ranks * run->n_threads), n = threads < most ? threads : most;
    return run->n_clusters < n ? (unsigned)run->n_clusters : n;
}

/* The fault as this thread's message, with '\1' and '\2' written out. */
static convjit_status fail_with(const cj_run *run)
{
    cj_text text = {0};
    cj_text_printf(&text, "%s: ", run->entry->name);
    for (const char *at = run->fault.text; *at; at++) {
        if (*at != '\1' && *at != '\2') {
            cj_text_add(&text, at, 1);
            continue;
        }
        uintptr_t pc = run->fault.places[*at - 1].pc;
        unsigned line = pc ? cj_module_line(run->module, pc) : run->fault.places[*at - 1].line;
        if (line)
            cj_text_printf(&text, " on line %u", line);
        else
            cj_text_printf(&text, " at code offset 0x%" PRIxPTR, pc - run->module_base);
    }
    convjit_status status = cj_fail(CONVJIT_EMULATOR, "%s", text.failed ? run->fault.text : text.data);
    cj_text_free(&text);
    return status;
}

static bool can_overlap(const emu_device *d)
{
    return d->arch_number >= 90;
}

static convjit_status check_cluster(const emu_device *d, const char *entry, const unsigned grid[3], const unsigned cluster[3])
{
    uint64_t blocks = (uint64_t)cluster[0] * cluster[1] * cluster[2];
    if (blocks < 1 || blocks > CJ_EMU_MAX_BLOCKS)
        return cj_fail(CONVJIT_INVALID, "%s: clusters of %u x %u x %u blocks, and 1 to %d are allowed", entry, cluster[0],
                       cluster[1], cluster[2], CJ_EMU_MAX_BLOCKS);
    for (int i = 0; i < 3; i++)
        if (grid[i] % cluster[i])
            return cj_fail(CONVJIT_INVALID, "%s: cluster.%c is %u, and does not divide the grid's %u", entry, "xyz"[i],
                           cluster[i], grid[i]);
    if (blocks > 1 && d->arch_number < 90)
        return cj_fail(CONVJIT_INVALID, "%s: clusters of %u x %u x %u blocks, and %s has none", entry, cluster[0], cluster[1],
                       cluster[2], d->arch);
    return CONVJIT_OK;
}

/* Takes what the launches before wrote: all of those that the run may overlap. What another OS thread launched in between is
 * none of its business, and may have been in memory that is another tensor's by now. */
static cj_past *take_past(emu_device *d, bool overlap)
{
    cj_past *past = NULL;
    pthread_mutex_lock(&d->lock);
    if (d->past && pthread_equal(d->past_owner, pthread_self())) {
        past = d->past;
        d->past = NULL;
    }
    pthread_mutex_unlock(&d->lock);
    if (overlap)
        return past;
    cj_past_free(past);
    return NULL;
}

static void give_past(emu_device *d, cj_past *past)
{
    pthread_mutex_lock(&d->lock);
    cj_past *other = d->past; /* of another OS thread: there it will be missed, and less is caught */
    d->past = past;
    d->past_owner = pthread_self();
    pthread_mutex_unlock(&d->lock);
    cj_past_free(other);
}

static convjit_status run_launch(emu_device *d, cj_run *run, unsigned threads)
{
    convjit_status status = cj_heap_snapshot(d->heap, &run->regions, &run->n_regions);
    if (status)
        return status;
    cj_past *past = take_past(d, run->overlap);
    run->past = past;
    pthread_mutex_init(&run->lock, NULL);
    status = run_blocks(d, run, worker_count(run, threads));
    if (run->fault.found)
        status = fail_with(run);
    pthread_mutex_destroy(&run->lock);
    give_past(d, cj_past_add(past, run->regions, run->n_regions));
    return status;
}

static convjit_status check_attributes(const emu_device *d, const char *entry, const unsigned grid[3], const cj_attributes *a)
{
    if (a->overlap && !can_overlap(d))
        return cj_fail(CONVJIT_INVALID, "%s: overlaps the launch before it, which %s cannot", entry, d->arch);
    return check_cluster(d, entry, grid, a->cluster);
}

static convjit_status launch_with(cj_device *base, const cj_function *f, const unsigned grid[3], const unsigned block[3],
                                  const cj_attributes *attributes, unsigned smem, void **args, int n_args, void *stream)
{
    emu_device *d = self(base);
    settings s;
    convjit_status status = check_launch(d, f->entry->name, f->entry, grid, block, smem, n_args, stream);
    if (status == CONVJIT_OK)
        status = check_attributes(d, f->entry->name, grid, attributes);
    if (status == CONVJIT_OK)
        status = get_settings(d, &s);
    if (status)
        return status;
    const char *trace = getenv("CONVJIT_EMU_TRACE");
    const unsigned n_threads = block[0] * block[1] * block[2], *cluster = attributes->cluster;
    cj_run run = {
        .entry = f->entry, .module = f->module, .args = args, .order = s.order, .late = s.late, .smem = smem,
        .can_overlap = can_overlap(d), .overlap = attributes->overlap,
        .trace = trace && strcmp(trace, "1") == 0 ? &d->log : NULL, .grid = {grid[0], grid[1], grid[2]},
        .block = {block[0], block[1], block[2]}, .cluster = {cluster[0], cluster[1], cluster[2]}, .n_threads = n_threads,
        .row = (n_threads + CJ_EMU_WARP - 1) / CJ_EMU_WARP * CJ_EMU_WARP, .n_ranks = cluster[0] * cluster[1] * cluster[2],
        .n_blocks = (uint64_t)grid[0] * grid[1] * grid[2],
    };
    run.n_clusters = run.n_blocks / run.n_ranks;
    cj_module_range(f->module, &run.module_base, &run.module_end);
    return run_launch(d, &run, s.threads);
}

static convjit_status launch(cj_device *base, const cj_function *f, const unsigned grid[3], const unsigned block[3],
                             unsigned smem, void **args, int n_args, void *stream)
{
    static const cj_attributes usual = {.cluster = {1, 1, 1}};
    return launch_with(base, f, grid, block, &usual, smem, args, n_args, stream);
}

static convjit_status encode(cj_device *d, const cj_tensor_map *map, void *base, unsigned char out[CJ_TENSOR_MAP_BYTES])
{
    return cj_tensor_map_encode(map, base, out);
}

/* ---- Memory, time ---- */

static convjit_status alloc_memory(cj_device *d, void **memory, size_t bytes)
{
    return cj_heap_alloc(self(d)->heap, memory, bytes);
}

static void free_memory(cj_device *d, void *memory)
{
    cj_heap_free(self(d)->heap, memory);
}

static convjit_status write_memory(cj_device *d, void *device, const void *host, size_t bytes)
{
    convjit_status status = cj_heap_check(self(d)->heap, device, bytes, "write");
    if (status == CONVJIT_OK && bytes)
        memcpy(device, host, bytes);
    return status;
}

static convjit_status read_memory(cj_device *d, void *host, const void *device, size_t bytes)
{
    convjit_status status = cj_heap_check(self(d)->heap, device, bytes, "read");
    if (status == CONVJIT_OK && bytes)
        memcpy(host, device, bytes);
    return status;
}

static convjit_status fill_memory(cj_device *d, void *device, uint8_t byte, size_t bytes)
{
    convjit_status status = cj_heap_check(self(d)->heap, device, bytes, "fill");
    if (status == CONVJIT_OK && bytes)
        memset(device, byte, bytes);
    return status;
}

static convjit_status sync_stream(cj_device *d, void *stream)
{
    return stream ? cj_fail(CONVJIT_INVALID, "stream must be NULL: the emulated device has only the default stream")
                  : CONVJIT_OK;
}

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e3 * (double)t.tv_sec + 1e-6 * (double)t.tv_nsec;
}

static convjit_status time_body(cj_device *d, convjit_status (*body)(void *user), void *user, double *ms)
{
    double start = now_ms();
    convjit_status status = body(user);
    if (status == CONVJIT_OK)
        *ms = now_ms() - start;
    return status;
}

/* ---- Open, close ---- */

static void add_info(cj_device *d, cj_text *json)
{
    cj_text_puts(json, "{\"kind\":\"emulated\",\"arch\":");
    cj_text_json(json, self(d)->arch);
    cj_text_printf(json, ",\"shared_memory\":%" PRId64 "}", d->smem_limit);
}

static void close_device(cj_device *base)
{
    emu_device *d = self(base);
    while (d->idle) {
        cj_worker *w = d->idle;
        d->idle = w->next_idle;
        cj_worker_close(w);
    }
    cj_past_free(d->past);
    cj_heap_close(d->heap);
    pthread_mutex_destroy(&d->lock);
    free(d->order);
    free(d->async);
    free(d);
}

static convjit_status find_arch(const char *arch, int64_t *smem_limit)
{
    for (size_t i = 0; i < sizeof architectures / sizeof *architectures; i++)
        if (strcmp(architectures[i].arch, arch) == 0) {
            *smem_limit = (int64_t)architectures[i].smem_kib * 1024;
            return CONVJIT_OK;
        }
    return cj_fail(CONVJIT_INVALID, "arch \"%s\" is none that the emulated device knows", arch);
}

convjit_status cj_emu_device_open(cj_device **out, const convjit_config *config)
{
    const char *arch = config && config->arch ? config->arch : "sm_90a";
    int64_t smem_limit = 0;
    convjit_status status = find_arch(arch, &smem_limit);
    if (status)
        return status;
    emu_device *d = calloc(1, sizeof *d);
    cj_heap *heap = cj_heap_open();
    if (!d || !heap) {
        free(d);
        cj_heap_close(heap);
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory");
    }
    d->base = (cj_device){
        .bind = bind_device, .load = load, .unload = unload, .function = get_function, .resources = get_resources,
        .launch = launch, .launch_with = launch_with, .encode = encode, .alloc = alloc_memory, .free = free_memory,
        .write = write_memory, .read = read_memory, .fill = fill_memory, .sync = sync_stream, .time = time_body, .smem_limit = smem_limit, .info = add_info,
        .close = close_device,
    };
    snprintf(d->arch, sizeof d->arch, "%s", arch);
    d->arch_number = atoi(arch + 3);
    cj_log_init(&d->log, config);
    d->heap = heap;
    pthread_mutex_init(&d->lock, NULL);
    *out = &d->base;
    return CONVJIT_OK;
}
