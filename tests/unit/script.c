/* script.c: tests of the generator's sandbox and of the boundary between C and Lua (runtime/script.c, embed.lua). */
#include <locale.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "check.h"
#include "internal.h"

static const char PROBLEM[] = "n2c8h20w24k16r3s5_pad1x2_bias_leaky_relu0.25";

static convjit_problem parse(const char *text)
{
    convjit_problem p;
    CHECK_OK(convjit_problem_parse(&p, text));
    return p;
}

/* ---- The embedded files ---- */

static void add_sized(cj_sha256 *h, const void *data, size_t n)
{
    unsigned char length[8];
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)((uint64_t)n >> (8 * i));
    cj_sha256_add(h, length, sizeof length);
    cj_sha256_add(h, data, n);
}

static void test_embedded(void)
{
    cj_sha256 h;
    unsigned char digest[32];
    char hex[65];
    bool sorted = true, ended = true, has_init = false;
    cj_sha256_init(&h);
    for (size_t i = 0; i < cj_embedded_count; i++) {
        const struct cj_embedded *file = &cj_embedded_files[i];
        add_sized(&h, file->name, strlen(file->name));
        add_sized(&h, file->text, file->length);
        sorted &= i == 0 || strcmp(file[-1].name, file->name) < 0;
        ended &= file->text[file->length] == 0;
        has_init |= strcmp(file->name, "gen/init.lua") == 0;
    }
    cj_sha256_end(&h, digest);
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    CHECK(sorted && ended && has_init);
    CHECK_STR(cj_script_digest(), hex);
}

/* ---- The real generator ---- */

static void generate_text(cj_script *s, const convjit_problem *p, char **source, char **json)
{
    cj_kernel *k = NULL;
    *source = *json = NULL;
    CHECK_OK(cj_script_generate(s, p, "sm_90a", 132, NULL, &k, json));
    if (k)
        *source = strdup(k->source);
    cj_kernel_free(k);
}

/* Same input, same bytes: in one state, in another, and in a locale with a decimal comma (where one is installed). */
static void test_pure(void)
{
    static const char *const comma[] = {"de_DE.UTF-8", "de_DE", "fr_FR.UTF-8", "fr_FR", "nl_NL.UTF-8", "pt_BR.UTF-8"};
    convjit_problem p = parse(PROBLEM);
    char *source[4], *json[4];
    cj_script *one = NULL, *two = NULL;
    CHECK_OK(cj_script_open(&one, NULL));
    CHECK_OK(cj_script_open(&two, NULL));
    generate_text(one, &p, &source[0], &json[0]);
    generate_text(one, &p, &source[1], &json[1]);
    generate_text(two, &p, &source[2], &json[2]);
    const char *found = NULL;
    for (size_t i = 0; i < sizeof comma / sizeof *comma && !found; i++)
        found = setlocale(LC_ALL, comma[i]);
    if (found)
        CHECK_STR(localeconv()->decimal_point, ",");
    else
        fprintf(stderr, "script: no locale with a decimal comma is installed; its test ran in the C locale\n");
    generate_text(two, &p, &source[3], &json[3]);
    setlocale(LC_ALL, "C");
    for (int i = 0; i < 4; i++) {
        CHECK(source[0] && source[i] && strcmp(source[0], source[i]) == 0);
        CHECK(json[0] && json[i] && strcmp(json[0], json[i]) == 0);
    }
    for (int i = 0; i < 4; i++) {
        free(source[i]);
        free(json[i]);
    }
    cj_script_close(one);
    cj_script_close(two);
}

static void test_generate(void)
{
    convjit_problem p = parse(PROBLEM);
    cj_script *s = NULL;
    cj_kernel *k = NULL, *again = NULL;
    char *json = NULL, **specs = NULL, *torch = NULL;
    size_t n = 0;
    CHECK_OK(cj_script_open(&s, NULL));
    CHECK_OK(cj_script_generate(s, &p, "sm_90a", 132, NULL, &k, &json));
    CHECK_OK(cj_script_candidates(s, &p, "sm_90a", 132, NULL, &specs, &n));
    CHECK_STR(k->tuple, "c8k16r3s5_pad1x2_bias_leaky_relu0.25");
    CHECK_STR(k->arch, "sm_90a");
    CHECK_STR(k->options[0], "--gpu-architecture=sm_90a");
    CHECK(n >= 1 && strcmp(specs[0], k->schedule) == 0);
    CHECK_HAS(json, "{\"problem\":\"n2c8h20w24k16r3s5_pad1x2_bias_leaky_relu0.25\",\"arch\":\"sm_90a\",");
    CHECK_HAS(json, ",\"candidates\":[{\"schedule\":\"");
    CHECK_HAS(json, "\"predicted_us\":");
    CHECK_HAS(json, "],\"refused\":[");
    for (size_t i = 0; i < n && i < 4; i++) {
        CHECK_OK(cj_script_generate(s, &p, "sm_90a", 132, specs[i], &again, NULL));
        CHECK_STR(again->schedule, specs[i]);
        cj_kernel_free(again);
    }
    CHECK_OK(cj_script_torch(s, &p, "sm_90a", NULL, &torch));
    CHECK_HAS(torch, "class ModelNew");
    CHECK_FAILS(cj_script_generate(s, &p, "sm_90a", 0, "nonsense", &again, NULL), CONVJIT_INVALID, "nonsense");
    CHECK_FAILS(cj_script_generate(s, &p, "sm_1", 0, NULL, &again, NULL), CONVJIT_INVALID, "sm_1");
    CHECK(cj_script_knows_arch(s, "sm_80") && !cj_script_knows_arch(s, "sm_1"));
    int sms = 0;
    CHECK_OK(cj_script_usual_sms(s, "sm_80", &sms));
    CHECK_INT(sms, 108);
    CHECK_FAILS(cj_script_usual_sms(s, "sm_1", &sms), CONVJIT_INVALID, "unknown architecture 'sm_1'");
    CHECK_INT(sms, 108);
    for (size_t i = 0; i < n; i++)
        free(specs[i]);
    free(specs);
    free(json);
    free(torch);
    cj_kernel_free(k);
    cj_script_close(s);
}

/* ---- Scripts of a developer's directory: here, ones that break the contract ---- */

static char dir[] = "/tmp/convjit-script-XXXXXX";

static void write_file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "w");
    CHECK(file && fputs(text, file) >= 0 && fclose(file) == 0);
}

static void remove_file(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    CHECK(remove(path) == 0);
}

static const char VALID[] =
    "local r = { name = 'k', tuple = 'c1k1r1s1', arch = 'sm_90a', schedule = 'direct:a=1', why = 'the only one',\n"
    "  source = 'extern \"C\" __global__ void k() {}', options = { '--a' }, workspace = '4*N', align = 16,\n"
    "  requires = { { expr = 'W > 0', why = 'because' } }, launches = { { entry = 'k', grid = { 'P', 'Q', '1' },\n"
    "  block = { 32, 1, 1 }, smem = '0', args = { { kind = 'output' }, { kind = 'i32', expr = 'H' } } } },\n"
    "  candidates = { { schedule = 'direct:a=1', predicted_us = 1.5, why = 'fast' } },\n"
    "  refused = { { schedule = 'other', why = 'slow' } } }\n"
    "local function map()\n"
    "  local m = { kind = 'tensor_map', tensor = 'output', element = 'f16', dims = { '64', 'W' }, strides = { '128' },\n"
    "    box = { 64, 8 }, swizzle = 128 }\n"
    "  local args = r.launches[1].args\n"
    "  if args[1].kind == 'output' then args[1] = m end\n"
    "  return args[1]\n"
    "end\n";

/* Generates with an init.lua that changes a valid result by `change`. */
static convjit_status generate_changed(const char *change)
{
    char text[2048];
    snprintf(text, sizeof text, "%s%s\nreturn { generate = function() return r end }", VALID, change);
    write_file("gen/init.lua", text);
    convjit_problem p = parse("n1c1h1w1k1r1s1");
    cj_script *s = NULL;
    cj_kernel *k = NULL;
    convjit_status status = cj_script_open(&s, NULL);
    if (status == CONVJIT_OK)
        status = cj_script_generate(s, &p, "sm_90a", 0, NULL, &k, NULL);
    cj_kernel_free(k);
    cj_script_close(s);
    return status;
}

static void test_contract(void)
{
    static const struct { const char *change, *message; } cases[] = {
        {"r = nil", "result: it is missing"},
        {"r = 'text'", "result: it is a string, expected a table"},
        {"r.name = nil", "result: name is missing"},
        {"r.source = 5", "result: source is a number, expected a string"},
        {"r.source = 'a\\0b'", "result: source contains a zero byte"},
        {"r.extra = 1", "has an unknown field 'extra'"},
        {"r[1] = 1", "has a key that is a number"},
        {"r.align = 16.5", "result: align is 16.5, expected an integer of 0 to 2147483647"},
        {"r.align = -1", "result: align is -1"},
        {"r.align = 1 << 40", "result: align is 1099511627776"},
        {"r.align = '16'", "result: align is a string, expected a number"},
        {"r.align = 24", "align"},
        {"r.options[3] = 'x'", "result: options has holes"},
        {"r.options.x = 'x'", "result: options has holes"},
        {"for i = 1, 17 do r.options[i] = '--a' end", "result: options has 17 elements, expected 0 to 16"},
        {"r.options[1] = true", "result: options[1] is a boolean, expected a string"},
        {"r.workspace = 0", "result: workspace is a number, expected a string"},
        {"r.workspace = '4 *'", "workspace"},
        {"r.requires = nil", "result: requires is missing"},
        {"r.requires[1].expr = nil", "result: requires[1].expr is missing"},
        {"r.requires[1].because = ''", "result: requires[1] has an unknown field 'because'"},
        {"r.launches = {}", "result: launches has 0 elements, expected 1 to 8"},
        {"r.launches[1].grid[2] = {}", "result: launches[1].grid[2] is a table, expected a string"},
        {"r.launches[1].grid[3] = nil", "result: launches[1].grid has 2 elements, expected 3 to 3"},
        {"r.launches[1].block[2] = 'x'", "result: launches[1].block[2] is a string, expected a number"},
        {"r.launches[1].block[2] = 64", "block"},
        {"r.launches[1].entry = nil", "result: launches[1].entry is missing"},
        {"r.launches[1].smem = nil", "result: launches[1].smem is missing"},
        {"r.launches[1].args[2].kind = 'f32'", "result: launches[1].args[2].kind is 'f32', which is no kind"},
        {"r.launches[1].args[2].kind = nil", "result: launches[1].args[2].kind is missing"},
        {"r.launches[1].args[2].expr = nil", "result: launches[1].args[2].expr is missing"},
        {"r.launches[1].args[1].expr = '0'", "result: launches[1].args[1].expr is given for a tensor"},
        {"r.launches[1].args[1].x = '0'", "result: launches[1].args[1] has an unknown field 'x'"},
        {"r.launches[1].cluster = { 2, 1 }", "result: launches[1].cluster has 2 elements, expected 3 to 3"},
        {"r.launches[1].cluster = { 2, 1, 8 }", "cluster: 2*1*8 blocks are above the limit 8"},
        {"r.packed = 4096", "result: packed is a number, expected a string"},
        {"r.packed = '4096'", "packed: the first launch does not pack"},
        {"r.launches[1].packs = 'yes'", "result: launches[1].packs is a string, expected a boolean"},
        {"r.launches[1].packs = true", "launch 1: packed weights, of which the kernel has none"},
        {"r.launches[1].overlap = 1", "result: launches[1].overlap is a number, expected a boolean"},
        {"r.launches[1].overlap = true", "launch 1: overlap: the first launch has none before it in the plan"},
        {"map().tensor = 'i32'", "args[1].tensor is 'i32', which is no tensor, not the workspace and not packed weights"},
        {"map().tensor = nil", "args[1].tensor is missing"},
        {"map().element = 'f64'", "args[1].element is 'f64', which is no element of a tensor map"},
        {"map().dims = {}", "args[1].dims has 0 elements, expected 1 to 5"},
        {"map().dims[1] = 7", "args[1].dims[1] is a number, expected a string"},
        {"map().strides = {}", "args[1].strides has 0 elements, expected 1 to 1"},
        {"map().box = { 64 }", "args[1].box has 1 elements, expected 2 to 2"},
        {"map().box[1] = '64'", "args[1].box[1] is a string, expected a number"},
        {"map().element_strides = { 1 }", "args[1].element_strides has 1 elements, expected 2 to 2"},
        {"map().swizzle = '128'", "args[1].swizzle is a string, expected a number"},
        {"map().swizzle = 16", "tensor_map: swizzle: 16 is none of 0, 32, 64, 128"},
        {"map().expr = '0'", "args[1] has an unknown field 'expr'"},
        {"map(); r.align = 8", "align: 8 is below 16"},
        {"r.candidates = {}", "result: candidates has 0 elements"},
        {"r.candidates[1].predicted_us = 0/0", "result: candidates[1].predicted_us is no time"},
        {"r.candidates[1].predicted_us = nil", "result: candidates[1].predicted_us is missing"},
        {"r.candidates[1].why = nil", "result: candidates[1].why is missing"},
        {"r.refused[1].predicted_us = 1", "result: refused[1] has an unknown field 'predicted_us'"},
        {"r.refused[1].schedule = false", "result: refused[1].schedule is a boolean"},
    };
    CHECK_OK(generate_changed(""));
    CHECK_OK(generate_changed("r.launches[1].cluster = { 2, 2, 2 }"));
    CHECK_OK(generate_changed("r.launches[1].overlap = false"));
    CHECK_OK(generate_changed("map()"));
    CHECK_OK(generate_changed("map().offset, map().element_strides, map().swizzle = 'N', { 1, 2 }, 0"));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK_FAILS(generate_changed(cases[i].change), CONVJIT_GENERATE, cases[i].message);
}

static convjit_status run_init(const char *text)
{
    write_file("gen/init.lua", text);
    cj_script *s = NULL;
    convjit_problem p = parse("n1c1h1w1k1r1s1");
    CHECK_OK(cj_script_open(&s, NULL));
    convjit_status first = cj_script_generate(s, &p, "sm_90a", 0, NULL, NULL, NULL);
    CHECK_INT(cj_script_generate(s, &p, "sm_90a", 0, NULL, NULL, NULL), first); /* nothing of the failure has stayed */
    cj_script_close(s);
    return first;
}

static void test_errors(void)
{
    CHECK_FAILS(run_init("return {"), CONVJIT_GENERATE, "gen/init.lua:1: unexpected symbol near <eof>");
    CHECK_FAILS(run_init("return nil"), CONVJIT_GENERATE, "gen/init.lua returns nothing");
    CHECK_FAILS(run_init("return {}"), CONVJIT_GENERATE, "gen/init.lua has no function 'generate'");
    CHECK_FAILS(run_init("return 'x'"), CONVJIT_GENERATE, "gen/init.lua has no function 'generate'");
    CHECK_FAILS(run_init("return {\n generate = function()\n local x = nil + 1 end }"), CONVJIT_GENERATE,
                "gen/init.lua:3: attempt to perform arithmetic on a nil value\nstack traceback:");
    CHECK_FAILS(run_init("return { generate = function() error({ status = 'unsupported', message = 'no' }) end }"),
                CONVJIT_UNSUPPORTED, "no");
    CHECK_STR(convjit_errmsg(), "no"); /* a verdict has no traceback */
    CHECK_FAILS(run_init("return { generate = function() error({ status = 'invalid', message = 'bad' }) end }"),
                CONVJIT_INVALID, "bad");
    CHECK_FAILS(run_init("error({ status = 'other', message = 'bad' })"), CONVJIT_GENERATE, "the error is a table");
    CHECK_FAILS(run_init("error({ status = 'invalid' })"), CONVJIT_GENERATE, "the error is a table");
    CHECK_FAILS(run_init("error()"), CONVJIT_GENERATE, "the error is a nil");
    CHECK_FAILS(run_init("return pairs"), CONVJIT_GENERATE, "gen/init.lua:1: undefined name 'pairs'");
    CHECK_FAILS(run_init("x = 1"), CONVJIT_GENERATE, "gen/init.lua:1: assignment to the global name 'x'");
    CHECK_FAILS(run_init("return require 'init'"), CONVJIT_GENERATE, "module 'init' requires itself");
    CHECK_FAILS(run_init("return require 'a.none'"), CONVJIT_GENERATE, "no gen/a/none.lua");
    CHECK_FAILS(run_init("return require 'x.cu'"), CONVJIT_GENERATE, "no gen/x/cu.lua");
    write_file("templates/t.cu.in", "a\nb = = 1\n");
    CHECK_FAILS(run_init("host.load(host.template 't.cu.in', '@templates/t.cu.in', {})"), CONVJIT_GENERATE,
                "templates/t.cu.in:2: ");
    remove_file("templates/t.cu.in");
    CHECK_FAILS(run_init("\033Lua"), CONVJIT_GENERATE, "attempt to load a binary chunk");
    remove_file("gen/init.lua");
    cj_script *s = NULL;
    CHECK_OK(cj_script_open(&s, NULL));
    CHECK(!cj_script_knows_arch(s, "sm_90a"));
    CHECK_HAS(convjit_errmsg(), "module 'init' not found: no gen/init.lua");
    cj_script_close(s);
}

static void with_dir(void (*test)(void))
{
    char path[128];
    setenv("CONVJIT_GEN_DIR", dir, 1);
    test();
    unsetenv("CONVJIT_GEN_DIR");
    snprintf(path, sizeof path, "%s/gen/init.lua", dir);
    remove(path);
}

static void test_developer_dir(void)
{
    char gen[128], templates[128];
    if (!mkdtemp(dir)) {
        CHECK_THAT(false, "cannot make %s", dir);
        return;
    }
    snprintf(gen, sizeof gen, "%s/gen", dir);
    snprintf(templates, sizeof templates, "%s/templates", dir);
    CHECK(mkdir(gen, 0700) == 0 && mkdir(templates, 0700) == 0);
    with_dir(test_contract);
    with_dir(test_errors);
    CHECK(rmdir(gen) == 0 && rmdir(templates) == 0 && rmdir(dir) == 0);
}

/* ---- Runaway scripts ---- */

static void no_check(void *user, const char *name, bool ok)
{
    *(int *)user += ok;
}

static int checks;

static convjit_status run_text(cj_script *s, const char *text)
{
    return cj_script_run(s, text, strlen(text), "@test", no_check, &checks);
}

static void test_limits(void)
{
    cj_script *s = NULL;
    CHECK_OK(cj_script_open(&s, NULL));
    CHECK_FAILS(run_text(s, "while true do end"), CONVJIT_GENERATE, "its limit of 200 million instructions");
    CHECK_HAS(convjit_errmsg(), "test:1: ");
    CHECK_FAILS(run_text(s, "while true do pcall(function() while true do end end) end"), CONVJIT_GENERATE,
                "its limit of 200 million instructions");
    CHECK_FAILS(run_text(s, "local t = {} while true do t[#t + 1] = string.rep('x', 1 << 20) end"), CONVJIT_GENERATE,
                "its limit of 256 MiB of memory");
    CHECK_FAILS(run_text(s, "local s = 'x' while true do s = s .. s end"), CONVJIT_GENERATE, "256 MiB");
    CHECK_FAILS(run_text(s, "local function f() return 1 + f() end f()"), CONVJIT_GENERATE, "stack overflow");
    CHECK_FAILS(run_text(s, "local t = setmetatable({}, {}) getmetatable(t).__index = t return t.x"), CONVJIT_GENERATE,
                "__index");
    checks = 0;
    CHECK_OK(run_text(s, "check('alive', true) check('alive', string.rep('ab', 2) == 'abab')"));
    CHECK_INT(checks, 2);
    CHECK_FAILS(run_text(s, "check('x', 1)"), CONVJIT_GENERATE, "boolean expected");
    CHECK_FAILS(run_text(s, "\033Lua"), CONVJIT_GENERATE, "binary chunk");
    cj_script_close(s);
}

/* ---- The caller's allocator ---- */

typedef struct heap { size_t used, calls, fail_from; } heap;

static void *heap_alloc(void *user, void *memory, size_t old_size, size_t new_size)
{
    heap *h = user;
    if (new_size > old_size && ++h->calls >= h->fail_from)
        return NULL;
    void *result = new_size ? realloc(memory, new_size) : NULL;
    if (new_size == 0)
        free(memory);
    h->used += new_size - old_size;
    return result;
}

/* Memory that runs out at any allocation is an error that leaves nothing behind. */
static void test_allocator(void)
{
    convjit_problem p = parse("n1c1h4w4k1r1s1");
    heap h = {.fail_from = SIZE_MAX};
    convjit_config config = {.size = sizeof config, .alloc = heap_alloc, .alloc_user = &h};
    cj_script *s = NULL;
    CHECK_OK(cj_script_open(&s, &config));
    CHECK_OK(cj_script_generate(s, &p, "sm_90a", 132, NULL, NULL, NULL));
    CHECK(h.used > 100000);
    cj_script_close(s);
    CHECK_INT(h.used, 0);
    size_t total = h.calls, failures = 0;
    for (size_t n = 1; n < total; n += 1 + n / 16) {
        h = (heap){.fail_from = n};
        s = NULL;
        convjit_status status = cj_script_open(&s, &config);
        if (status == CONVJIT_OK)
            status = cj_script_generate(s, &p, "sm_90a", 132, NULL, NULL, NULL);
        CHECK_THAT(status == CONVJIT_NO_MEMORY, "allocation %zu failed: %s %s", n, convjit_strstatus(status),
                   convjit_errmsg());
        h.fail_from = SIZE_MAX;
        if (s)
            CHECK_OK(cj_script_generate(s, &p, "sm_90a", 132, NULL, NULL, NULL));
        cj_script_close(s);
        CHECK_INT(h.used, 0);
        failures++;
    }
    CHECK(failures > 50);
}

int main(void)
{
    unsetenv("CONVJIT_GEN_DIR");
    test_embedded();
    test_pure();
    test_generate();
    test_developer_dir();
    test_limits();
    test_allocator();
    return check_done("script");
}
