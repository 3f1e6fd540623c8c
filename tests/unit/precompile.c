/* precompile.c: many kernels into a cache directory, with the fake NVRTC and without a driver. */
#include <signal.h>
#include <sys/resource.h>
#include <time.h>
#include "sample.h"
#include "../fake/fake.h"

enum { MANY = 8 };

static convjit *open_context(const char *dir, const char *nvrtc)
{
    convjit_config config = {.size = sizeof config, .cache_dir = dir, .cache_path = "", .verbose = -1};
    convjit *cj = NULL;
    config.driver = "none";
    config.nvrtc = nvrtc ? nvrtc : fake_path("libnvrtc.so");
    CHECK_OK(convjit_open(&cj, &config));
    if (!cj)
        exit(EXIT_FAILURE);
    return cj;
}

static int compiles(void)
{
    static fake_nvrtc_compiles_fn *count;
    if (!count)
        count = (fake_nvrtc_compiles_fn *)fake_symbol("libnvrtc.so", "fake_nvrtc_compiles");
    return count ? count() : -1;
}

/* Problems with `k` output channels each, from 1 up: as many kernels. */
static void make_problems(convjit_problem *problems, int n)
{
    for (int i = 0; i < n; i++) {
        convjit_problem_init(&problems[i]);
        problems[i].h = problems[i].w = 8;
        problems[i].k = i + 1;
    }
}

/* Kernels of a directory, or selections; all of them valid. */
static size_t count(const char *dir, bool selections)
{
    convjit *cj = open_context(dir, NULL);
    cj_cache_entry *e = NULL;
    size_t n = 0, counted = 0;
    CHECK_OK(cj_cache_list(cj_context_cache(cj), &e, &n));
    for (size_t i = 0; i < n; i++) {
        CHECK_INT(e[i].status, CONVJIT_OK);
        counted += e[i].selection == selections;
    }
    cj_cache_list_free(e, n);
    convjit_close(cj);
    return counted;
}

/* ---- What the progress callback saw ---- */

typedef struct seen {
    const convjit_problem *problems;
    size_t calls, origins[3], failures;
    int inside;              /* calls at this moment */
    bool wrong;              /* two at once, or counts out of order */
    convjit_status status[64];
    char message[64][256];   /* by position */
} seen;

static void watch(void *user, size_t done, size_t total, const convjit_problem *problem, convjit_origin origin,
                  convjit_status status)
{
    seen *s = user;
    size_t position = (size_t)(problem - s->problems);
    s->wrong |= __atomic_add_fetch(&s->inside, 1, __ATOMIC_SEQ_CST) != 1 || done != s->calls + 1 || position >= total;
    s->calls++;
    if (status)
        s->failures++;
    else
        s->origins[origin]++;
    s->status[position % 64] = status;
    snprintf(s->message[position % 64], sizeof s->message[0], "%s", status ? convjit_errmsg() : "");
    struct timespec a_while = {0, 1000000};
    nanosleep(&a_while, NULL);
    __atomic_sub_fetch(&s->inside, 1, __ATOMIC_SEQ_CST);
}

static convjit_precompile_options watched(seen *s, const convjit_problem *problems, int jobs)
{
    *s = (seen){.problems = problems};
    convjit_precompile_options o = {.size = sizeof o, .jobs = jobs, .progress = watch, .user = s};
    return o;
}

/* ---- Tests ---- */

static void test_fill_and_find(void)
{
    const char *dir = in_scratch("fill/deeper");
    convjit_problem problems[MANY];
    size_t compiled = 99;
    static seen s;
    make_problems(problems, MANY);
    convjit *cj = open_context(dir, NULL);
    convjit_precompile_options o = watched(&s, problems, 3);
    int before = compiles();
    CHECK_OK(convjit_precompile(cj, problems, MANY, NULL, &o, &compiled));
    CHECK_INT(compiled, MANY);
    CHECK_INT(compiles() - before, MANY);
    CHECK_INT(s.calls, MANY);
    CHECK_INT(s.origins[CONVJIT_COMPILED], MANY);
    CHECK(!s.wrong);
    CHECK_INT(count(dir, false), MANY);
    CHECK_INT(count(dir, true), MANY);
    o = watched(&s, problems, 3); /* again, in the same process */
    CHECK_OK(convjit_precompile(cj, problems, MANY, NULL, &o, &compiled));
    CHECK_INT(compiled, 0);
    CHECK_INT(s.origins[CONVJIT_FROM_MEMORY], MANY);
    convjit_close(cj);
    cj = open_context(dir, NULL); /* and in another */
    o = watched(&s, problems, 0);
    CHECK_OK(convjit_precompile(cj, problems, MANY, NULL, &o, &compiled));
    CHECK_INT(compiled, 0);
    CHECK_INT(s.origins[CONVJIT_FROM_DISK], MANY);
    convjit_close(cj);
    cj = open_context(dir, "none"); /* a full cache needs no compiler */
    CHECK_OK(convjit_precompile(cj, problems, MANY, NULL, NULL, &compiled));
    CHECK_INT(compiled, 0);
    problems[5].c = 3;
    CHECK_FAILS(convjit_precompile(cj, problems, MANY, NULL, NULL, NULL), CONVJIT_NO_COMPILER,
                "problem 6, n1c3h8w8k6r1s1: ");
    convjit_close(cj);
    CHECK_INT(compiles() - before, MANY);
}

/* N, H and W alone differ: one kernel, one compilation, also while it is under way. */
static void test_one_kernel_for_all_sizes(void)
{
    convjit_problem problems[MANY];
    cj_cache_entry *e = NULL;
    size_t n = 0, compiled = 99;
    static seen s;
    make_problems(problems, MANY);
    for (int i = 0; i < MANY; i++) {
        problems[i].k = 4;
        problems[i].n = i + 1;
        problems[i].h = 8 + 3 * i;
    }
    convjit *cj = open_context(in_scratch("sizes"), NULL);
    CHECK_OK(convjit_precompile(cj, problems, 1, NULL, NULL, NULL));
    CHECK_OK(cj_cache_list(cj_context_cache(cj), &e, &n));
    convjit_close(cj);
    if (n != 2) /* a kernel and its selection */
        exit(EXIT_FAILURE);
    cj = open_context(in_scratch("sizes-again"), NULL);
    setenv("FAKE_NVRTC_MS", "100", 1);
    convjit_precompile_options o = watched(&s, problems, MANY);
    o.schedule = e[0].schedule; /* every one of them with the same */
    int before = compiles();
    CHECK_OK(convjit_precompile(cj, problems, MANY, NULL, &o, &compiled));
    unsetenv("FAKE_NVRTC_MS");
    CHECK_INT(compiles() - before, 1);
    CHECK_INT(compiled, 1);
    CHECK_INT(s.calls, MANY);
    CHECK_INT(s.origins[CONVJIT_COMPILED], 1);
    CHECK_INT(s.origins[CONVJIT_FROM_MEMORY], MANY - 1);
    CHECK(!s.wrong);
    CHECK_INT(count(in_scratch("sizes-again"), false), 1);
    CHECK_INT(count(in_scratch("sizes-again"), true), MANY); /* each size has its own */
    cj_cache_list_free(e, n);
    convjit_close(cj);
}

static double seconds_of(const char *dir, const convjit_problem *problems, int n, int jobs)
{
    struct timespec from, to;
    convjit_precompile_options o = {.size = sizeof o, .jobs = jobs};
    convjit *cj = open_context(dir, NULL);
    clock_gettime(CLOCK_MONOTONIC, &from);
    CHECK_OK(convjit_precompile(cj, problems, (size_t)n, NULL, &o, NULL));
    clock_gettime(CLOCK_MONOTONIC, &to);
    convjit_close(cj);
    return (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
}

/* A compilation that sleeps takes no core, so this shows overlap on any machine. */
static void test_overlap(void)
{
    convjit_problem problems[MANY];
    make_problems(problems, MANY);
    setenv("FAKE_NVRTC_MS", "200", 1);
    double alone = seconds_of(in_scratch("alone"), problems, MANY, 1);
    double together = seconds_of(in_scratch("together"), problems, MANY, MANY);
    unsetenv("FAKE_NVRTC_MS");
    CHECK_THAT(alone >= 0.2 * MANY, "%.2f s with one job", alone);
    CHECK_THAT(together < alone / 2, "%.2f s with %d jobs, %.2f s with one", together, MANY, alone);
}

static void test_failures(void)
{
    convjit_problem problems[MANY];
    size_t compiled = 99;
    static seen s;
    make_problems(problems, MANY);
    problems[2].groups = 2;
    problems[6].stride_h = 0;
    convjit *cj = open_context(in_scratch("failures"), NULL);
    convjit_precompile_options o = watched(&s, problems, 4);
    CHECK_FAILS(convjit_precompile(cj, problems, MANY, NULL, &o, &compiled), CONVJIT_INVALID, "problem 3, ");
    CHECK_HAS(convjit_errmsg(), "groups");
    CHECK_INT(compiled, MANY - 2);
    CHECK_INT(s.calls, MANY);
    CHECK_INT(s.failures, 2);
    CHECK_INT(s.status[2], CONVJIT_INVALID);
    CHECK_INT(s.status[6], CONVJIT_INVALID);
    CHECK_HAS(s.message[2], "groups");
    CHECK_HAS(s.message[6], "stride");
    CHECK_INT(count(in_scratch("failures"), false), MANY - 2);
    CHECK_INT(count(in_scratch("failures"), true), MANY - 2);
    make_problems(problems, MANY);
    for (int i = 0; i < MANY; i++)
        problems[i].c = 2;
    problems[1] = problems[5] = problems[0]; /* those that share the leader's kernel share its failure */
    setenv("FAKE_NVRTC_FAIL", "1", 1);
    setenv("FAKE_NVRTC_MS", "50", 1);
    int before = compiles();
    o = watched(&s, problems, MANY);
    CHECK_FAILS(convjit_precompile(cj, problems, MANY, NULL, &o, &compiled), CONVJIT_COMPILE,
                "problem 1, n1c2h8w8k1r1s1: ");
    unsetenv("FAKE_NVRTC_FAIL");
    unsetenv("FAKE_NVRTC_MS");
    CHECK_INT(compiles() - before, MANY - 2);
    CHECK_INT(compiled, 0);
    CHECK_INT(s.failures, MANY);
    for (int i = 0; i < MANY; i++)
        CHECK_HAS(s.message[i], "told to fail");
    CHECK_OK(convjit_precompile(cj, problems, MANY, NULL, NULL, &compiled)); /* a failure is not for ever */
    CHECK_INT(compiled, MANY - 2);
    CHECK_FAILS(convjit_precompile(cj, problems, 1, "sm_42", NULL, NULL), CONVJIT_INVALID, "sm_42");
    convjit_close(cj);
}

/* What is not in the directory afterwards was not precompiled, wherever else it may be. */
static void test_kept(void)
{
    convjit_problem problems[MANY];
    convjit_config config = {.size = sizeof config, .driver = "none", .verbose = -1};
    size_t compiled = 99, removed = 0;
    convjit *cj = open_context(in_scratch("kept"), NULL);
    make_problems(problems, MANY);
    CHECK_OK(convjit_precompile(cj, problems, MANY, NULL, NULL, NULL));
    CHECK_OK(cj_cache_clear(cj_context_cache(cj), &removed));
    CHECK_INT(removed, 2 * MANY);
    CHECK_OK(convjit_precompile(cj, problems, MANY, NULL, NULL, &compiled)); /* in memory, and now on disk again */
    CHECK_INT(compiled, 0);
    CHECK_INT(count(in_scratch("kept"), false), MANY);
    convjit_close(cj);
    config.nvrtc = fake_path("libnvrtc.so");
    config.cache_dir = in_scratch("kept-copy");
    config.cache_path = in_scratch("kept");
    CHECK_OK(convjit_open(&cj, &config));
    CHECK_OK(convjit_precompile(cj, problems, MANY, NULL, NULL, &compiled)); /* from a read-only directory */
    CHECK_INT(compiled, 0);
    CHECK_INT(count(in_scratch("kept-copy"), false), MANY);
    convjit_close(cj);
}

static void test_nowhere_to_keep(void)
{
    convjit_problem p;
    struct rlimit before, limit;
    make_problems(&p, 1);
    int compiles_before = compiles();
    convjit *cj = open_context("", NULL);
    CHECK_FAILS(convjit_precompile(cj, &p, 1, NULL, NULL, NULL), CONVJIT_IO, "memory only");
    convjit_close(cj);
    CHECK(file_write(in_scratch("file"), "", 0));
    cj = open_context(in_scratch("file/cache"), NULL);
    CHECK_FAILS(convjit_precompile(cj, &p, 1, NULL, NULL, NULL), CONVJIT_IO, "Not a directory");
    convjit_close(cj);
    CHECK(mkdir(in_scratch("open"), 0700) == 0 && chmod(in_scratch("open"), 0777) == 0);
    cj = open_context(in_scratch("open"), NULL);
    CHECK_FAILS(convjit_precompile(cj, &p, 1, NULL, NULL, NULL), CONVJIT_IO, "can be written to by other users");
    convjit_close(cj);
    CHECK_INT(compiles(), compiles_before); /* found out before a compiler had to work */
    cj = open_context(in_scratch("full"), NULL);
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    limit = (struct rlimit){100, before.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit); /* as a full disk */
    convjit_status status = convjit_precompile(cj, &p, 1, NULL, NULL, NULL);
    setrlimit(RLIMIT_FSIZE, &before);
    CHECK_FAILS(status, CONVJIT_IO, "could not be kept: cannot write");
    convjit_close(cj);
}

static void check_arch(const char *configured, const char *given, const char *expected)
{
    static int number;
    char name[32], dir[512];
    convjit_problem p;
    cj_cache_entry *e = NULL;
    size_t n = 0;
    snprintf(name, sizeof name, "arch%d", number++);
    snprintf(dir, sizeof dir, "%s", in_scratch(name));
    convjit_config config = {.size = sizeof config, .cache_dir = dir, .cache_path = "", .verbose = -1};
    convjit *cj = NULL;
    config.driver = "none";
    config.arch = configured;
    config.nvrtc = fake_path("libnvrtc.so");
    make_problems(&p, 1);
    CHECK_OK(convjit_open(&cj, &config));
    CHECK_OK(convjit_precompile(cj, &p, 1, given, NULL, NULL));
    CHECK_OK(cj_cache_list(cj_context_cache(cj), &e, &n));
    CHECK_INT(n, 2);
    for (size_t i = 0; i < n; i++)
        CHECK_STR(e[i].arch, expected);
    cj_cache_list_free(e, n);
    convjit_close(cj);
}

/* A caller whose header has a larger problem. */
typedef struct larger_problem { convjit_problem problem; int64_t news; } larger_problem;

static void test_arguments(void)
{
    convjit *cj = open_context(in_scratch("arguments"), NULL);
    convjit_precompile_options o = {.size = sizeof o};
    convjit_problem p[2];
    larger_problem large[3];
    size_t compiled = 99;
    make_problems(p, 2);
    CHECK_OK(convjit_precompile(cj, NULL, 0, NULL, NULL, &compiled));
    CHECK_INT(compiled, 0);
    CHECK_FAILS(convjit_precompile(NULL, p, 1, NULL, NULL, NULL), CONVJIT_INVALID, "cj is NULL");
    CHECK_FAILS(convjit_precompile(cj, NULL, 1, NULL, NULL, NULL), CONVJIT_INVALID, "convjit_problem is NULL");
    o.jobs = -1;
    CHECK_FAILS(convjit_precompile(cj, p, 1, NULL, &o, NULL), CONVJIT_INVALID, "jobs -1");
    o.jobs = 1025;
    CHECK_FAILS(convjit_precompile(cj, p, 1, NULL, &o, NULL), CONVJIT_INVALID, "jobs 1025 is not between 0 and 1024");
    o.jobs = 1024; /* more than there are problems */
    CHECK_OK(convjit_precompile(cj, p, 2, NULL, &o, NULL));
    o.size = 3;
    CHECK_FAILS(convjit_precompile(cj, p, 1, NULL, &o, NULL), CONVJIT_INVALID, "convjit_precompile_options");
    p[1].size = sizeof p[1] + 8;
    CHECK_FAILS(convjit_precompile(cj, p, 2, NULL, NULL, NULL), CONVJIT_INVALID, "problem 2 has size");
    for (int i = 0; i < 3; i++) {
        make_problems(&large[i].problem, 1);
        large[i].problem.size = sizeof large[i];
        large[i].problem.c = 10 + i;
        large[i].news = 0;
    }
    CHECK_OK(convjit_precompile(cj, &large[0].problem, 3, NULL, NULL, &compiled));
    CHECK_INT(compiled, 3);
    large[1].news = 1;
    CHECK_FAILS(convjit_precompile(cj, &large[0].problem, 3, NULL, NULL, NULL), CONVJIT_INVALID, "problem 2, ");
    convjit_close(cj);
    check_arch(NULL, NULL, "sm_90a");
    check_arch("sm_80", NULL, "sm_80");
    check_arch("sm_80", "sm_120", "sm_120");
}

int main(void)
{
    if (!scratch_make())
        return EXIT_FAILURE;
    test_fill_and_find();
    test_one_kernel_for_all_sizes();
    test_overlap();
    test_failures();
    test_kept();
    test_nowhere_to_keep();
    test_arguments();
    return check_done("precompile");
}
