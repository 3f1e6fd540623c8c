/* selection.c: selections: what is kept comes back, what is damaged or of another key never does, and a plan that
 * follows one is the plan that the generator would have made, without the generator. With the fake NVRTC and driver. */
#include <time.h>
#include "cache.h"
#include "context.h"
#include "sample.h"
#include "../fake/fake.h"

static const char PROBLEM[] = "n2c3h9w11k4r3s3_pad1_bias_relu";
static const char CONTESTED[] = "n2c32h9w11k32r3s3_pad1"; /* several schedules serve it */
static const char WHY[] = "predicted 1.5 us, the least of 3";
static const char SCHEDULE[] = "direct:kt=64,pt=4";

/* ---- Files ---- */

typedef struct log_lines { int n; char last[1024]; } log_lines;

static void take_line(void *user, const char *line)
{
    log_lines *l = user;
    l->n++;
    snprintf(l->last, sizeof l->last, "%s", line);
}

static cj_cache *open_cache(const char *dir, const char *path, log_lines *log)
{
    convjit_config config = {.size = sizeof config, .cache_dir = dir, .cache_path = path, .verbose = log ? 1 : -1};
    cj_cache *c = NULL;
    config.log = take_line;
    config.log_user = log;
    CHECK_OK(cj_cache_open(&c, &config));
    if (!c)
        exit(EXIT_FAILURE);
    return c;
}

static convjit_problem problem(const char *text)
{
    convjit_problem p;
    CHECK_OK(convjit_problem_parse(&p, text));
    return p;
}

/* The key's text; free it. */
static char *key_text(const char *text, const char *kind, const char *arch, int sms, const char *wanted)
{
    cj_text key = {0};
    char *out = NULL;
    convjit_problem p = problem(text);
    CHECK(cj_selection_key(&p, kind, arch, sms, wanted, &key));
    CHECK_OK(cj_text_take(&key, &out));
    return out;
}

static char *usual_key(void)
{
    return key_text(PROBLEM, "cubin", "sm_90a", 132, NULL);
}

static void digest_of(const char *text, char hex[65])
{
    cj_sha256_hex(text, strlen(text), hex);
}

static void put(cj_cache *c, const char *key)
{
    char kernel[65];
    digest_of("a kernel", kernel);
    cj_cache_put_selection(c, key, kernel, SCHEDULE, WHY);
}

static bool is_there(cj_cache *c, const char *key)
{
    cj_selection s;
    bool found = cj_cache_get_selection(c, key, &s);
    if (found)
        cj_selection_free(&s);
    return found;
}

/* The file of a key in a directory. */
static const char *file_of(const char *dir, const char *key)
{
    static char paths[4][700];
    static unsigned turn;
    char name[CJ_SELECTION_NAME], *path = paths[turn++ % 4];
    cj_selection_name(key, name);
    snprintf(path, sizeof paths[0], "%s/%s", dir, name);
    return path;
}

static bool exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

/* What is in a directory. */
typedef struct tally { size_t kernels, selections, damaged; } tally;

static tally count(const char *dir)
{
    cj_cache *c = open_cache(dir, "", NULL);
    cj_cache_entry *e = NULL;
    size_t n = 0;
    tally t = {0};
    CHECK_OK(cj_cache_list(c, &e, &n));
    for (size_t i = 0; i < n; i++) {
        t.damaged += e[i].status != CONVJIT_OK;
        t.kernels += !e[i].selection;
        t.selections += e[i].selection;
    }
    cj_cache_list_free(e, n);
    cj_cache_close(c);
    return t;
}

static void check_count(const char *dir, size_t kernels, size_t selections)
{
    tally t = count(dir);
    CHECK_INT(t.kernels, kernels);
    CHECK_INT(t.selections, selections);
    CHECK_INT(t.damaged, 0);
}

static void test_round_trip(void)
{
    const char *dir = in_scratch("round");
    log_lines log = {0};
    cj_cache *c = open_cache(dir, "", &log), *memory = open_cache("", "", &log);
    char *key = usual_key(), kernel[65];
    struct stat st;
    cj_selection s;
    CHECK(!is_there(c, key));
    CHECK(!exists(dir)); /* looking makes nothing */
    put(c, key);
    digest_of("a kernel", kernel);
    CHECK(cj_cache_get_selection(c, key, &s));
    CHECK_STR(s.problem, PROBLEM);
    CHECK_STR(s.arch, "sm_90a");
    CHECK_STR(s.source_hex, kernel);
    CHECK_STR(s.schedule, SCHEDULE);
    CHECK_STR(s.why, WHY);
    cj_selection_free(&s);
    CHECK(stat(file_of(dir, key), &st) == 0 && (st.st_mode & 07777) == 0600);
    ino_t inode = st.st_ino;
    put(c, key); /* the same: not written again */
    CHECK(stat(file_of(dir, key), &st) == 0 && st.st_ino == inode);
    digest_of("another kernel", kernel);
    cj_cache_put_selection(c, key, kernel, SCHEDULE, "better");
    CHECK(cj_cache_get_selection(c, key, &s));
    CHECK_STR(s.source_hex, kernel);
    CHECK_STR(s.why, "better");
    cj_selection_free(&s);
    check_count(dir, 0, 1);
    put(memory, key); /* nowhere to keep it, and no complaint */
    CHECK(!is_there(memory, key));
    CHECK_INT(log.n, 0);
    free(key);
    cj_cache_close(memory);
    cj_cache_close(c);
}

/* Puts back `bytes`, changed, and expects a miss, a line in the log, and the file gone. */
static bool is_removed_miss(cj_cache *c, const char *file, const char *key, const cj_blob *bytes, log_lines *log)
{
    log->n = 0;
    return file_write(file, bytes->data, bytes->size) && !is_there(c, key) && !exists(file) && log->n == 1 &&
           strncmp(log->last, "convjit,v1,cache,damaged,", 25) == 0;
}

static void test_damage(void)
{
    log_lines log = {0};
    char *key = key_text(PROBLEM, "cubin", "sm_90a", 132, "direct"), file[700];
    cj_cache *c = open_cache(in_scratch("damage"), "", &log);
    put(c, key);
    snprintf(file, sizeof file, "%s", file_of(in_scratch("damage"), key));
    cj_blob whole = file_read(file);
    CHECK_THAT(whole.size > 400, "the selection has %zu bytes", whole.size);
    size_t accepted = 0, n = whole.size;
    for (whole.size = 0; whole.size < n; whole.size++)
        accepted += !is_removed_miss(c, file, key, &whole, &log);
    CHECK_THAT(accepted == 0, "%zu truncated lengths were accepted", accepted);
    for (size_t at = 0; at < n; at++)
        for (int bit = 0; bit < 8; bit++) {
            whole.data[at] ^= (unsigned char)(1 << bit);
            accepted += !is_removed_miss(c, file, key, &whole, &log);
            whole.data[at] ^= (unsigned char)(1 << bit);
        }
    CHECK_THAT(accepted == 0, "%zu flipped bits were accepted", accepted);
    whole.data[whole.size++] = '\n'; /* file_read left room for one more */
    CHECK(is_removed_miss(c, file, key, &whole, &log));
    whole.size--;
    CHECK(file_write(file, whole.data, whole.size) && is_there(c, key));
    CHECK(file_write(file, whole.data, whole.size - 1));
    CHECK_INT(count(in_scratch("damage")).damaged, 1);
    put(c, key); /* replaces it */
    CHECK(is_there(c, key));
    cj_blob_free(&whole);
    free(key);
    cj_cache_close(c);
}

/* Every input of the choice makes a key of its own. */
static void test_keys(void)
{
    cj_cache *c = open_cache(in_scratch("keys"), "", NULL);
    char *keys[] = {
        usual_key(),
        key_text("n3c3h9w11k4r3s3_pad1_bias_relu", "cubin", "sm_90a", 132, NULL),
        key_text("n2c3h9w12k4r3s3_pad1_bias_relu", "cubin", "sm_90a", 132, NULL),
        key_text("n2c3h9w11k4r3s3_pad1_relu", "cubin", "sm_90a", 132, NULL),
        key_text(PROBLEM, "host x86-64", "sm_90a", 132, NULL),
        key_text(PROBLEM, "cubin", "sm_90", 132, NULL),
        key_text(PROBLEM, "cubin", "sm_90a", 114, NULL),
        key_text(PROBLEM, "cubin", "sm_90a", 132, "direct"),
        key_text(PROBLEM, "cubin", "sm_90a", 132, SCHEDULE),
    };
    size_t n = sizeof keys / sizeof *keys;
    for (size_t i = 0; i < n; i++) {
        CHECK(!is_there(c, keys[i]));
        put(c, keys[i]);
        CHECK(is_there(c, keys[i]));
    }
    check_count(in_scratch("keys"), 0, n);
    CHECK(rename(file_of(in_scratch("keys"), keys[1]), file_of(in_scratch("keys"), keys[0])) == 0);
    CHECK(!is_there(c, keys[0])); /* intact, but of another key */
    CHECK(!exists(file_of(in_scratch("keys"), keys[0])));
    for (size_t i = 0; i < n; i++)
        free(keys[i]);
    cj_cache_close(c);
}

/* A library whose generator differs asks for another file; and this one's name does not make another's content good. */
static void test_generator(void)
{
    const char *dir = in_scratch("generator");
    log_lines log = {0};
    cj_cache *c = open_cache(dir, "", &log);
    char *key = usual_key(), *other = usual_key();
    CHECK_HAS(key, cj_script_digest());
    CHECK_HAS(key, convjit_version());
    char *digest = strstr(other, cj_script_digest());
    digest[0] = digest[0] == '0' ? '1' : '0';
    put(c, other);
    CHECK(is_there(c, other));
    CHECK(!is_there(c, key));
    CHECK(rename(file_of(dir, other), file_of(dir, key)) == 0);
    CHECK(!is_there(c, key));
    CHECK_HAS(log.last, "name is not that of its key");
    cj_text none = {0};
    convjit_problem p = problem(PROBLEM);
    setenv("CONVJIT_GEN_DIR", "/tmp", 1); /* scripts that have no digest */
    CHECK(!cj_selection_key(&p, "cubin", "sm_90a", 132, NULL, &none));
    setenv("CONVJIT_GEN_DIR", "", 1); /* as if it were not set */
    CHECK(cj_selection_key(&p, "cubin", "sm_90a", 132, NULL, &none));
    unsetenv("CONVJIT_GEN_DIR");
    cj_text_free(&none);
    free(key);
    free(other);
    cj_cache_close(c);
}

/* Files whose checksum is right, but not what it is of. */
static void check_forged(const char *key, const char *choice, const char *says)
{
    char name[CJ_SELECTION_NAME], digest[65];
    cj_text t = {0};
    cj_text_printf(&t, "%s%s", key, choice);
    digest_of(t.data, digest);
    cj_text_printf(&t, "checksum 64 %s\n", digest);
    cj_selection_name(key, name);
    cj_blob bytes = {(unsigned char *)t.data, t.length};
    cj_selection s;
    if (says)
        CHECK_FAILS(cj_selection_decode(&bytes, name, &s), CONVJIT_CORRUPT, says);
    else
        CHECK_OK(cj_selection_decode(&bytes, name, NULL));
    cj_text_free(&t);
}

static void test_forged(void)
{
    char *key = usual_key(), kernel[65], choice[512], hex[65];
    digest_of("a kernel", kernel);
    snprintf(choice, sizeof choice, "kernel 64 %s\nschedule 1 s\nwhy 1 w\n", kernel);
    check_forged(key, choice, NULL);
    check_forged(key, "", "field kernel is missing");
    check_forged(key, "kernel 1 a\nschedule 1 s\nwhy 1 w\n", "field kernel is not a digest");
    memcpy(hex, kernel, sizeof hex);
    hex[63] = 'g';
    snprintf(choice, sizeof choice, "kernel 64 %s\nschedule 1 s\nwhy 1 w\n", hex);
    check_forged(key, choice, "field kernel is not a digest");
    snprintf(choice, sizeof choice, "kernel 64 %s\nwhy 1 w\nschedule 1 s\n", kernel);
    check_forged(key, choice, "field schedule is missing");
    snprintf(choice, sizeof choice, "kernel 64 %s\nschedule 1 s\nwhy 999999999 w\n", kernel);
    check_forged(key, choice, "field why is missing or not well formed");
    snprintf(choice, sizeof choice, "kernel 64 %s\nschedule 1 s\nwhy 1 w\nmore 1 m\n", kernel);
    check_forged(key, choice, "a field too many");
    key[strlen(key) - 1] = ' '; /* the last field of the key no longer ends */
    snprintf(choice, sizeof choice, "kernel 64 %s\nschedule 1 s\nwhy 1 w\n", kernel);
    check_forged(key, choice, "field multiprocessors is missing");
    key[strlen("convjit-selection ")] = '2';
    check_forged(key, choice, "that this convjit reads");
    free(key);
}

/* ---- Plans ---- */

/* Counts the allocations of the generator: 0 if it was never started. */
static void *count_allocations(void *user, void *memory, size_t old_size, size_t new_size)
{
    ++*(size_t *)user;
    if (new_size)
        return realloc(memory, new_size);
    free(memory);
    return NULL;
}

typedef struct result { convjit_origin origin; bool generated; char *text; char schedule[256]; } result;

/* A plan of a new context, which stands for a new process. nvrtc NULL: the fake. */
static convjit_status plan(const char *text, const char *dir, const char *path, const char *nvrtc, result *r)
{
    size_t allocations = 0;
    convjit_config config = {.size = sizeof config, .cache_dir = dir, .cache_path = path, .verbose = -1};
    convjit *cj = NULL;
    convjit_plan *made = NULL;
    convjit_problem p = problem(text);
    config.nvrtc = nvrtc ? nvrtc : fake_path("libnvrtc.so");
    config.driver = fake_path("libcuda.so");
    config.alloc = count_allocations;
    config.alloc_user = &allocations;
    *r = (result){0};
    CHECK_OK(convjit_open(&cj, &config));
    convjit_status status = convjit_plan_create(&made, cj, &p);
    if (!status) {
        r->origin = convjit_plan_origin(made);
        r->generated = allocations > 0;
        snprintf(r->schedule, sizeof r->schedule, "%s", convjit_plan_schedule(made));
        CHECK_OK(convjit_plan_describe(made, &r->text));
    }
    convjit_plan_destroy(made);
    convjit_close(cj);
    return status;
}

/* Expects a plan from `origin`, with or without the generator. */
static void check_plan(const char *dir, const char *path, const char *nvrtc, convjit_origin origin, bool generated)
{
    result r;
    CHECK_OK(plan(PROBLEM, dir, path, nvrtc, &r));
    CHECK_INT(r.origin, origin);
    CHECK_INT(r.generated, generated);
    convjit_free(r.text);
}

/* The description without where the kernel came from. */
static void drop_origin(char *text)
{
    char *from = text ? strstr(text, ", from ") : NULL;
    CHECK(from != NULL);
    if (from)
        memmove(from, strchr(from, '\n'), strlen(strchr(from, '\n')) + 1);
}

static void test_follow(void)
{
    const char *dir = in_scratch("follow");
    result first, second, third;
    CHECK_OK(plan(PROBLEM, dir, "", NULL, &first));
    CHECK_INT(first.origin, CONVJIT_COMPILED);
    CHECK(first.generated);
    check_count(dir, 1, 1);
    CHECK_OK(plan(PROBLEM, dir, "", NULL, &second));
    CHECK_INT(second.origin, CONVJIT_FROM_DISK);
    CHECK(!second.generated);
    drop_origin(first.text);
    drop_origin(second.text);
    CHECK_STR(second.text, first.text);
    check_count(dir, 1, 1);
    CHECK_OK(plan("n5c3h9w11k4r3s3_pad1_bias_relu", dir, "", NULL, &third)); /* another N, the same kernel or not */
    CHECK(third.generated);
    CHECK_INT(count(dir).selections, 2);
    convjit_free(third.text);
    convjit_free(second.text);
    convjit_free(first.text);
    check_plan(dir, "", "none", CONVJIT_FROM_DISK, false); /* with no compiler, any compiler's */
    check_plan(in_scratch("own"), dir, NULL, CONVJIT_FROM_DISK, false); /* from a read-only directory */
    CHECK(!exists(in_scratch("own")));
    check_plan("", dir, NULL, CONVJIT_FROM_DISK, false); /* and with none to write to */
    check_plan("", "", NULL, CONVJIT_COMPILED, true);
    setenv("CONVJIT_GEN_DIR", ".", 1); /* the very same scripts, but who knows */
    check_plan(dir, "", NULL, CONVJIT_FROM_DISK, true);
    check_plan(in_scratch("scripts"), "", NULL, CONVJIT_COMPILED, true);
    unsetenv("CONVJIT_GEN_DIR");
    check_count(in_scratch("scripts"), 1, 0);
}

/* In one context: what a selection has brought into memory serves the next plan, and the generator's, too. */
static void test_one_context(void)
{
    convjit_config config = {.size = sizeof config, .cache_dir = in_scratch("follow"), .cache_path = "", .verbose = -1};
    convjit *cj = NULL;
    convjit_plan *plans[3] = {0};
    convjit_problem p = problem(PROBLEM);
    size_t allocations = 0;
    config.nvrtc = fake_path("libnvrtc.so");
    config.driver = fake_path("libcuda.so");
    config.alloc = count_allocations;
    config.alloc_user = &allocations;
    CHECK_OK(convjit_open(&cj, &config));
    CHECK_OK(convjit_plan_create(&plans[0], cj, &p));
    CHECK_INT(convjit_plan_origin(plans[0]), CONVJIT_FROM_DISK);
    CHECK_OK(convjit_plan_create(&plans[1], cj, &p));
    CHECK_INT(convjit_plan_origin(plans[1]), CONVJIT_FROM_MEMORY);
    CHECK_INT(allocations, 0);
    /* by the generator, which finds the kernel that the selection has brought into memory */
    CHECK_OK(convjit_plan_create_with(&plans[2], cj, &p, convjit_plan_schedule(plans[0])));
    CHECK_INT(convjit_plan_origin(plans[2]), CONVJIT_FROM_MEMORY);
    CHECK(allocations > 0);
    for (int i = 0; i < 3; i++)
        convjit_plan_destroy(plans[i]);
    convjit_close(cj);
}

/* The kernel's file in a directory that has one. */
static const char *kernel_file(const char *dir)
{
    static char path[700];
    cj_cache *c = open_cache(dir, "", NULL);
    cj_cache_entry *e = NULL;
    size_t n = 0;
    path[0] = 0;
    CHECK_OK(cj_cache_list(c, &e, &n));
    for (size_t i = 0; i < n; i++)
        if (!e[i].selection)
            snprintf(path, sizeof path, "%s/%s", dir, e[i].file);
    cj_cache_list_free(e, n);
    cj_cache_close(c);
    return path;
}

/* Whatever becomes of kernel or selection, the plan comes about, and both are right afterwards. */
static void test_stale(void)
{
    const char *dir = in_scratch("stale");
    char *key = usual_key(), other_kernel[65];
    check_plan(dir, "", NULL, CONVJIT_COMPILED, true);
    CHECK(unlink(kernel_file(dir)) == 0);
    check_plan(dir, "", NULL, CONVJIT_COMPILED, true);
    check_plan(dir, "", NULL, CONVJIT_FROM_DISK, false);
    CHECK(truncate(kernel_file(dir), 100) == 0);
    check_plan(dir, "", NULL, CONVJIT_COMPILED, true);
    check_plan(dir, "", NULL, CONVJIT_FROM_DISK, false);
    CHECK(truncate(file_of(dir, key), 100) == 0);
    check_plan(dir, "", NULL, CONVJIT_FROM_DISK, true);
    check_plan(dir, "", NULL, CONVJIT_FROM_DISK, false);
    CHECK(unlink(file_of(dir, key)) == 0);
    CHECK(mkdir(file_of(dir, key), 0700) == 0); /* nor can it be replaced */
    check_plan(dir, "", NULL, CONVJIT_FROM_DISK, true);
    check_plan(dir, "", NULL, CONVJIT_FROM_DISK, true);
    CHECK(rmdir(file_of(dir, key)) == 0);
    check_plan(dir, "", NULL, CONVJIT_FROM_DISK, true);
    /* well-formed selections of kernels that are not there, and of another problem's */
    cj_cache *c = open_cache(dir, "", NULL);
    put(c, key);
    check_plan(dir, "", NULL, CONVJIT_FROM_DISK, true);
    check_plan(dir, "", NULL, CONVJIT_FROM_DISK, false);
    result r;
    CHECK_OK(plan("n2c5h9w11k4r3s3_pad1_bias_relu", dir, "", NULL, &r));
    char *others = key_text("n2c5h9w11k4r3s3_pad1_bias_relu", "cubin", "sm_90a", 132, NULL);
    cj_selection s;
    CHECK(cj_cache_get_selection(c, others, &s));
    memcpy(other_kernel, s.source_hex, sizeof other_kernel);
    cj_cache_put_selection(c, key, other_kernel, s.schedule, s.why);
    cj_selection_free(&s);
    check_plan(dir, "", NULL, CONVJIT_FROM_DISK, true);
    check_plan(dir, "", NULL, CONVJIT_FROM_DISK, false);
    check_count(dir, 2, 2);
    convjit_free(r.text);
    free(others);
    free(key);
    cj_cache_close(c);
}

/* The generator's choice for CONTESTED, of all schedules or of one. */
static void best(const char *schedule, char spec[256])
{
    convjit_config config = {.size = sizeof config, .cache_dir = "", .cache_path = "", .driver = "none", .verbose = -1};
    convjit *cj = NULL;
    char **specs = NULL;
    size_t n = 0;
    convjit_problem p = problem(CONTESTED);
    CHECK_OK(convjit_open(&cj, &config));
    CHECK_OK(cj_context_candidates(cj, &p, "sm_90a", 132, schedule, &specs, &n));
    CHECK(n >= 1);
    snprintf(spec, 256, "%s", n > 0 ? specs[0] : "");
    cj_strings_free(specs, n);
    convjit_close(cj);
}

static void precompile(const char *text, const char *dir, const char *schedule)
{
    convjit_config config = {.size = sizeof config, .cache_dir = dir, .cache_path = "", .driver = "none"};
    convjit_precompile_options o = {.size = sizeof o, .schedule = schedule};
    convjit *cj = NULL;
    convjit_problem p = problem(text);
    config.nvrtc = fake_path("libnvrtc.so");
    CHECK_OK(convjit_open(&cj, &config));
    CHECK_OK(convjit_precompile(cj, &p, 1, NULL, &o, NULL));
    convjit_close(cj);
}

static void test_precompile(void)
{
    char first[256], second[256];
    const char *dir = in_scratch("precompiled");
    result r;
    precompile(PROBLEM, dir, NULL);
    check_count(dir, 1, 1);
    check_plan(dir, "", NULL, CONVJIT_FROM_DISK, false); /* the fake GPU has the usual number of multiprocessors */
    /* What serves for want of a compiler is not kept as the choice. */
    best(NULL, first);
    best(strncmp(first, "direct:", 7) == 0 ? "mma" : "direct", second);
    dir = in_scratch("second");
    precompile(CONTESTED, dir, second);
    check_count(dir, 1, 1);
    CHECK_OK(plan(CONTESTED, dir, "", "none", &r));
    CHECK_STR(r.schedule, second);
    CHECK(r.generated);
    convjit_free(r.text);
    check_count(dir, 1, 1);
    CHECK_OK(plan(CONTESTED, dir, "", NULL, &r));
    CHECK_STR(r.schedule, first);
    CHECK_INT(r.origin, CONVJIT_COMPILED);
    convjit_free(r.text);
    check_count(dir, 2, 2);
}

static void test_bundle(void)
{
    cj_cache *from = open_cache(in_scratch("precompiled"), "", NULL);
    cj_cache *to = open_cache(in_scratch("imported"), "", NULL);
    char bundle[512];
    size_t n = 0, accepted = 0;
    snprintf(bundle, sizeof bundle, "%s", in_scratch("bundle"));
    CHECK_OK(cj_bundle_export(from, bundle, &n));
    CHECK_INT(n, 2);
    cj_blob b = file_read(bundle);
    for (size_t at = 0; at < b.size; at += 7) {
        b.data[at] ^= 0x10;
        accepted += !file_write(in_scratch("bad"), b.data, b.size) ||
                    cj_bundle_import(to, in_scratch("bad"), NULL) != CONVJIT_CORRUPT;
        b.data[at] ^= 0x10;
        accepted += !file_write(in_scratch("bad"), b.data, at) ||
                    cj_bundle_import(to, in_scratch("bad"), NULL) != CONVJIT_CORRUPT;
    }
    CHECK_THAT(accepted == 0, "%zu damaged bundles were accepted", accepted);
    CHECK(!exists(in_scratch("imported")));
    CHECK_OK(cj_bundle_import(to, bundle, &n));
    CHECK_INT(n, 2);
    check_count(in_scratch("imported"), 1, 1);
    check_plan(in_scratch("imported"), "", "none", CONVJIT_FROM_DISK, false);
    cj_blob_free(&b);
    cj_cache_close(from);
    cj_cache_close(to);
}

static void age(const char *path, long seconds)
{
    struct timespec times[2] = {{time(NULL) - seconds, 0}, {time(NULL) - seconds, 0}};
    CHECK(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW) == 0);
}

static size_t prune(const char *dir, const char *path, uint64_t max_bytes)
{
    cj_cache *c = open_cache(dir, path, NULL);
    size_t removed = 0;
    CHECK_OK(cj_cache_prune(c, max_bytes, &removed));
    cj_cache_close(c);
    return removed;
}

static void test_prune(void)
{
    const char *dir = in_scratch("pruned");
    char *key = usual_key();
    struct stat kernel, selection;
    result r;
    precompile(PROBLEM, dir, NULL);
    CHECK_INT(prune(dir, "", 0), 0);
    CHECK(stat(kernel_file(dir), &kernel) == 0 && stat(file_of(dir, key), &selection) == 0);
    CHECK_INT(prune(dir, "", (uint64_t)(kernel.st_size + selection.st_size)), 0); /* selections count */
    age(file_of(dir, key), 100);
    CHECK_INT(prune(dir, "", (uint64_t)(kernel.st_size + selection.st_size - 1)), 1);
    check_count(dir, 1, 0);
    precompile(PROBLEM, dir, NULL);
    age(kernel_file(dir), 100);
    CHECK_INT(prune(dir, "", (uint64_t)kernel.st_size), 2); /* with the kernel, which is older, goes its selection */
    check_count(dir, 0, 0);
    precompile(PROBLEM, dir, NULL);
    CHECK_OK(plan("n2c5h9w11k4r3s3_pad1_bias_relu", dir, "", NULL, &r)); /* one that stays */
    convjit_free(r.text);
    cj_selection s;
    cj_cache *c = open_cache(dir, "", NULL);
    CHECK(cj_cache_get_selection(c, key, &s));
    char command[700];
    snprintf(command, sizeof command, "rm %s/%s.*.cjk", dir, s.source_hex);
    CHECK(system(command) == 0);
    CHECK_INT(prune(dir, in_scratch("precompiled"), 0), 0); /* the kernel is in a directory that is searched */
    CHECK_INT(prune(dir, in_scratch("nowhere"), 0), 1);
    CHECK(!exists(file_of(dir, key)));
    check_count(dir, 1, 1);
    size_t removed = 0;
    CHECK_OK(cj_cache_clear(c, &removed));
    CHECK_INT(removed, 2);
    check_count(dir, 0, 0);
    cj_selection_free(&s);
    free(key);
    cj_cache_close(c);
}

/* A cache that cannot be written to makes no plan fail. */
static void test_unwritable(void)
{
    CHECK(file_write(in_scratch("file"), "", 0));
    check_plan(in_scratch("file/cache"), "", NULL, CONVJIT_COMPILED, true);
    CHECK(mkdir(in_scratch("open"), 0700) == 0 && chmod(in_scratch("open"), 0777) == 0);
    check_plan(in_scratch("open"), "", NULL, CONVJIT_COMPILED, true);
    CHECK(rmdir(in_scratch("open")) == 0); /* nothing is in it */
}

int main(void)
{
    unsetenv("CONVJIT_GEN_DIR");
    umask(0002); /* modes must not depend on it */
    if (!scratch_make())
        return EXIT_FAILURE;
    test_round_trip();
    test_damage();
    test_keys();
    test_generator();
    test_forged();
    test_follow();
    test_one_context();
    test_stale();
    test_precompile();
    test_bundle();
    test_prune();
    test_unwritable();
    return check_done("selection");
}
