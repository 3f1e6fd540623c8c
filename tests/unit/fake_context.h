/* fake_context.h: a context for tests, with a device and a compiler that only take notes, and a small generator whose
 * kernels exercise what plans have to handle. Include it once a program. */
#ifndef FAKE_CONTEXT_H
#define FAKE_CONTEXT_H

#include <dirent.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "check.h"
#include "context.h"

/* ---- The generator: schedules even, two and plain, in this order. Its text is gen/init.lua in the fake's directory.
 *   even    demands an even W
 *   two     demands H > 100; two launches, with partial sums in a workspace
 *   plain   runs into one limit after another as H and W grow */
static const char FAKE_INIT[] =
    "local function schedules(p)\n"
    "  return {\n"
    "    even = { workspace = '0', requires = { { expr = 'W % 2 == 0', why = 'pairs of columns' } },\n"
    "      launches = { { entry = 'even_main', grid = { 'N', 'P', '2' }, block = { 32, 2, 1 }, smem = '64', args = {\n"
    "        { kind = 'input' }, { kind = 'weights' }, { kind = 'output' }, { kind = 'i32', expr = 'H' },\n"
    "        { kind = 'i64', expr = 'N * H * W' } } } } },\n"
    "    two = { workspace = '1024 * N', requires = { { expr = 'H > 100', why = 'enough rows to split' } },\n"
    "      launches = {\n"
    "        { entry = 'two_partial', grid = { 'P', 'Q', '2' }, block = { 64, 1, 1 }, smem = '0', args = {\n"
    "          { kind = 'input' }, { kind = 'weights' }, { kind = 'workspace', expr = '256' } } },\n"
    "        { entry = 'two_sum', grid = { 'N', '1', '1' }, block = { 128, 1, 1 }, smem = '4 * N', args = {\n"
    "          { kind = 'workspace', expr = '4 * W' }, { kind = 'output' } } } } },\n"
    "    plain = { workspace = '0', requires = {},\n"
    "      launches = { { entry = 'plain_main', grid = { 'N', 'H', '1' }, block = { 32, 1, 1 }, smem = 'W', args = {\n"
    "        { kind = 'input' }, { kind = 'weights' }, { kind = 'bias' }, { kind = 'output' },\n"
    "        { kind = 'i32', expr = '10000000 * W * (H > 2000)' }, { kind = 'i64', expr = 'H / (W != 13)' } } } } },\n"
    "    packing = { workspace = '100 * N', packed = '1000', requires = {},\n"
    "      launches = {\n"
    "        { entry = 'packing_first', grid = { '8', '1', '1' }, block = { 32, 1, 1 }, smem = '0', packs = true,\n"
    "          args = { { kind = 'weights' }, { kind = 'packed', expr = '16' } } },\n"
    "        { entry = 'packing_then', grid = { '4', '1', '1' }, block = { 32, 1, 1 }, smem = '0', packs = true, overlap = true,\n"
    "          args = { { kind = 'weights' }, { kind = 'packed', expr = '0' } } },\n"
    "        { entry = 'packing_input', grid = { 'N', '1', '1' }, block = { 32, 1, 1 }, smem = '0', overlap = true,\n"
    "          args = { { kind = 'input' }, { kind = 'workspace', expr = '32' } } },\n"
    "        { entry = 'packing_main', grid = { 'N', '1', '1' }, block = { 32, 1, 1 }, smem = '0', overlap = true,\n"
    "          args = { { kind = 'workspace', expr = '0' }, { kind = 'packed', expr = '0' }, { kind = 'output' } } } } },\n"
    "    mapped = { workspace = '4096', requires = {},\n"
    "      launches = { { entry = 'mapped_main', grid = { 'N', 'H', '1' }, block = { 32, 1, 1 }, cluster = { 1, 2, 1 },\n"
    "        smem = '0', args = { { kind = 'i32', expr = 'W' },\n"
    "        { kind = 'tensor_map', tensor = 'input', element = 'f16', dims = { '64', 'W' }, strides = { '128 * H' },\n"
    "          box = { 64, 8 }, element_strides = { 1, 2 }, swizzle = 128 },\n"
    "        { kind = 'tensor_map', tensor = 'workspace', offset = '8 * N', element = 'f32', dims = { 'H * W' }, strides = {},\n"
    "          box = { 16 } }, { kind = 'output' } } },\n"
    "        { entry = 'mapped_end', grid = { 'N', '1', '1' }, block = { 32, 1, 1 }, overlap = true, smem = '0',\n"
    "          args = { { kind = 'output' } } } } },\n"
    "  }\n"
    "end\n"
    "local order = { 'even', 'two', 'plain' }\n"
    "local function generate(p, t, wanted)\n"
    "  local names = {}\n"
    "  for _, name in ipairs(order) do\n"
    "    if not wanted or wanted == name or wanted == name .. ':x=1' then names[#names + 1] = name end\n"
    "  end\n"
    "  if wanted == 'mapped' or wanted == 'packing' then names = { wanted } end\n" /* nothing chooses them */
    "  if not names[1] then error({ status = 'invalid', message = 'unknown schedule ' .. wanted }) end\n"
    "  if p.c == 7 then error({ status = 'unsupported', message = 'seven channels' }) end\n"
    "  local r = schedules(p)[names[1]]\n"
    "  r.name, r.schedule, r.arch, r.align = 'k_' .. names[1], names[1] .. ':x=1', t.arch, 16\n"
    "  r.tuple = 'c' .. p.c .. 'k' .. p.k .. 'r' .. p.r .. 's' .. p.s\n"
    "  r.why, r.options = 'made for N ' .. p.n .. ' on ' .. t.sms, { '--opt' }\n"
    "  r.source = '// ' .. r.tuple .. ' even_main two_partial two_sum plain_main mapped_main mapped_end'\n"
    "  .. ' packing_first packing_then packing_input packing_main'\n"
    "  r.candidates, r.refused = {}, { { schedule = 'tensor', why = 'no such cores' } }\n"
    "  for i, name in ipairs(names) do\n"
    "    local listed = wanted or i == 1 or p.c ~= 9\n" /* 9 channels: of the others, only the schedules are listed */
    "    r.candidates[i] = { schedule = listed and name .. ':x=1' or name, predicted_us = i, why = 'because' }\n"
    "  end\n"
    "  return r\n"
    "end\n"
    "return { generate = generate }\n";

/* ---- Notes ---- */

enum { FAKE_MAX_LAUNCHES = 16, FAKE_MAX_LINES = 64 };

typedef struct fake_launch {
    char entry[32];
    unsigned grid[3], block[3], smem;
    cj_attributes attributes;
    int n_args;
    void *stream;
    unsigned char args[CJ_MAX_ARGS][8]; /* the arguments' bytes */
} fake_launch;

typedef struct fake {
    cj_device device;
    cj_compiler compiler;
    convjit *cj;
    char dir[64];              /* holds gen/ and cache/ */
    int compiles, loads, unloads, functions, n_launches;
    bool no_compiler, fail_compile, fail_load, fail_function;
    int compile_ms;            /* how long a compilation takes */
    int fail_launch;           /* the number, from 1, of the launch that is to fail; 0: none */
    uintptr_t binding;
    cj_tensor_map maps[2];     /* that were encoded, in turn */
    int n_maps;
    bool count_only;           /* launches are not noted, only counted */
    fake_launch launches[FAKE_MAX_LAUNCHES];
    pthread_mutex_t lock;      /* guards lines */
    int n_lines;
    char lines[FAKE_MAX_LINES][256];
} fake;

struct cj_function { char entry[32]; struct cj_function *next; };
struct cj_module { struct cj_function *functions; };

static fake *fake_of_device(cj_device *d)
{
    return (fake *)((char *)d - offsetof(fake, device));
}

static fake *fake_of_compiler(cj_compiler *c)
{
    return (fake *)((char *)c - offsetof(fake, compiler));
}

/* ---- The compiler ---- */

static const char *fake_identity(cj_compiler *c)
{
    if (!fake_of_compiler(c)->no_compiler)
        return "fake compiler 1";
    cj_fail(CONVJIT_NO_COMPILER, "looked in vain for a compiler");
    return NULL;
}

static convjit_status fake_compile(cj_compiler *c, const cj_kernel *k, cj_blob *binary)
{
    fake *f = fake_of_compiler(c);
    __atomic_add_fetch(&f->compiles, 1, __ATOMIC_RELAXED);
    usleep((useconds_t)f->compile_ms * 1000);
    if (f->fail_compile)
        return cj_fail(CONVJIT_COMPILE, "%s does not compile", k->name);
    binary->data = (unsigned char *)strdup(k->source);
    binary->size = strlen(k->source);
    return CONVJIT_OK;
}

static void fake_close_compiler(cj_compiler *c)
{
}

/* ---- The device ---- */

static convjit_status fake_bind(cj_device *d, char arch[16], int *sms, uintptr_t *binding)
{
    strcpy(arch, "sm_90a");
    *sms = 132;
    *binding = fake_of_device(d)->binding;
    return CONVJIT_OK;
}

static convjit_status fake_load(cj_device *d, uintptr_t binding, const cj_blob *binary, cj_module **out)
{
    fake *f = fake_of_device(d);
    __atomic_add_fetch(&f->loads, 1, __ATOMIC_RELAXED);
    if (f->fail_load)
        return cj_fail(CONVJIT_DRIVER, "no room for a module");
    *out = calloc(1, sizeof **out);
    return CONVJIT_OK;
}

static void fake_unload(cj_device *d, cj_module *m)
{
    fake_of_device(d)->unloads++;
    for (cj_function *f = m->functions, *next; f; f = next) {
        next = f->next;
        free(f);
    }
    free(m);
}

static convjit_status fake_function(cj_device *d, cj_module *m, const char *entry, int64_t smem, cj_function **out)
{
    fake *f = fake_of_device(d);
    __atomic_add_fetch(&f->functions, 1, __ATOMIC_RELAXED);
    if (f->fail_function)
        return cj_fail(CONVJIT_DRIVER, "no function %s", entry);
    cj_function *function = calloc(1, sizeof *function);
    snprintf(function->entry, sizeof function->entry, "%s", entry);
    function->next = m->functions;
    m->functions = function;
    *out = function;
    return CONVJIT_OK;
}

static void fake_resources(cj_device *d, const cj_function *f, cj_resources *out)
{
    *out = (cj_resources){.registers = 99, .local_bytes = 0, .static_smem = 0, .max_threads = 1024};
}

static convjit_status fake_run(cj_device *d, const cj_function *function, const unsigned grid[3],
                               const unsigned block[3], unsigned smem, void **args, int n_args, void *stream)
{
    fake *f = fake_of_device(d);
    int number = __atomic_fetch_add(&f->n_launches, 1, __ATOMIC_RELAXED);
    if (number + 1 == f->fail_launch)
        return cj_fail(CONVJIT_DRIVER, "launch %d fails", number + 1);
    if (f->count_only || number >= FAKE_MAX_LAUNCHES)
        return CONVJIT_OK;
    fake_launch *l = &f->launches[number];
    *l = (fake_launch){.smem = smem, .n_args = n_args, .stream = stream};
    strcpy(l->entry, function->entry);
    memcpy(l->grid, grid, sizeof l->grid);
    memcpy(l->block, block, sizeof l->block);
    for (int i = 0; i < n_args; i++)
        memcpy(l->args[i], args[i], 8); /* every argument is a union of 8 bytes in plan.c */
    return CONVJIT_OK;
}

static convjit_status fake_run_with(cj_device *d, const cj_function *function, const unsigned grid[3], const unsigned block[3],
                                    const cj_attributes *attributes, unsigned smem, void **args, int n_args, void *stream)
{
    fake *f = fake_of_device(d);
    int number = f->n_launches;
    convjit_status status = fake_run(d, function, grid, block, smem, args, n_args, stream);
    if (number < FAKE_MAX_LAUNCHES)
        f->launches[number].attributes = *attributes;
    return status;
}

/* The map's bytes begin with its address; the last one is noted. */
static convjit_status fake_encode(cj_device *d, const cj_tensor_map *map, void *base, unsigned char out[CJ_TENSOR_MAP_BYTES])
{
    if ((uintptr_t)out % 64)
        return cj_fail(CONVJIT_DRIVER, "the map is not aligned");
    memset(out, 0, CJ_TENSOR_MAP_BYTES);
    memcpy(out, &base, sizeof base);
    fake_of_device(d)->maps[fake_of_device(d)->n_maps++ % 2] = *map;
    return CONVJIT_OK;
}

static void fake_close_device(cj_device *d)
{
}

static inline void *fake_arg_pointer(const fake_launch *l, int i)
{
    void *p;
    memcpy(&p, l->args[i], sizeof p);
    return p;
}

static inline int64_t fake_arg_i64(const fake_launch *l, int i)
{
    int64_t v;
    memcpy(&v, l->args[i], sizeof v);
    return v;
}

static inline int32_t fake_arg_i32(const fake_launch *l, int i)
{
    int32_t v;
    memcpy(&v, l->args[i], sizeof v);
    return v;
}

/* ---- The context ---- */

static void fake_log(void *user, const char *line)
{
    fake *f = user;
    pthread_mutex_lock(&f->lock);
    if (f->n_lines < FAKE_MAX_LINES)
        snprintf(f->lines[f->n_lines++], sizeof f->lines[0], "%s", line);
    pthread_mutex_unlock(&f->lock);
}

static void fake_write_init(const fake *f)
{
    char path[128];
    snprintf(path, sizeof path, "%s/gen", f->dir);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/gen/init.lua", f->dir);
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(FAKE_INIT, file) >= 0 && fclose(file) == 0);
}

/* Opens a context over a new directory, or over that of `other`, whose cache it then shares. memory_only: no cache. */
static void fake_open(fake *f, const fake *other, bool memory_only, int verbose)
{
    *f = (fake){.binding = 1, .lock = PTHREAD_MUTEX_INITIALIZER};
    f->device = (cj_device){
        .bind = fake_bind, .load = fake_load, .unload = fake_unload, .function = fake_function,
        .resources = fake_resources, .launch = fake_run, .launch_with = fake_run_with, .encode = fake_encode, .close = fake_close_device,
        .smem_limit = 1000,
    };
    f->compiler = (cj_compiler){.kind = "fake", .identity = fake_identity, .compile = fake_compile,
                                .close = fake_close_compiler};
    strcpy(f->dir, other ? other->dir : "/tmp/convjit-fake-XXXXXX");
    if (!other)
        CHECK(mkdtemp(f->dir));
    fake_write_init(f);
    char cache[128];
    snprintf(cache, sizeof cache, "%s/cache", f->dir);
    setenv("CONVJIT_GEN_DIR", f->dir, 1);
    unsetenv("CONVJIT_CACHE_PATH");
    f->cj = calloc(1, sizeof *f->cj);
    f->cj->config = (convjit_config){.size = sizeof f->cj->config, .verbose = verbose, .log = fake_log, .log_user = f};
    convjit_config for_cache = f->cj->config;
    for_cache.cache_dir = memory_only ? "" : cache;
    cj_log_init(&f->cj->log, &f->cj->config);
    pthread_mutex_init(&f->cj->script_lock, NULL);
    f->cj->device = &f->device;
    f->cj->compiler = &f->compiler;
    f->cj->built = cj_table_create();
    f->cj->plans = cj_plans_create();
    CHECK(f->cj->built && f->cj->plans);
    CHECK_OK(cj_cache_open(&f->cj->cache, &for_cache));
}

static void fake_close(fake *f)
{
    convjit_close(f->cj);
    CHECK_INT(f->unloads, f->loads - f->fail_load);
    f->cj = NULL;
}

/* Removes a directory and what is in it. */
static void fake_remove(const char *path)
{
    char inner[512];
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(inner, sizeof inner, "%s/%s", path, e->d_name);
        if (unlink(inner) != 0)
            fake_remove(inner);
    }
    if (dir)
        closedir(dir);
    CHECK(rmdir(path) == 0);
}

static convjit_problem fake_problem(int64_t n, int64_t h, int64_t w)
{
    convjit_problem p;
    convjit_problem_init(&p);
    p.n = n;
    p.c = 3;
    p.h = h;
    p.w = w;
    p.k = 4;
    p.r = p.s = 1;
    return p;
}

#endif
