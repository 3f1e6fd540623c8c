/* compile.c: tests of runtime/compile.c: a kernel comes from memory, disk or compiler, which runs once for each. */
#include "fake_context.h"

/* Generates a kernel of the fake and compiles it. */
static convjit_status compile(fake *f, const char *schedule, bool may_compile, cj_built **out, convjit_origin *origin)
{
    convjit_problem p = fake_problem(1, 8, 8);
    cj_kernel *k = NULL;
    CHECK_OK(cj_context_generate(f->cj, &p, "sm_90a", 132, schedule, &k));
    return cj_compile(f->cj, k, may_compile, out, origin);
}

static void test_origins(void)
{
    fake f, later;
    cj_built *b = NULL, *again = NULL;
    convjit_origin origin;
    fake_open(&f, NULL, false, 0);
    CHECK_OK(compile(&f, "even", true, &b, &origin));
    CHECK_INT(origin, CONVJIT_COMPILED);
    CHECK_STR(cj_built_kernel(b)->schedule, "even:x=1");
    CHECK(cj_built_binary(b)->size > 0 && memcmp(cj_built_binary(b)->data, "// c3k4r1s1", 11) == 0);
    CHECK_OK(compile(&f, "even", true, &again, &origin));
    CHECK_INT(origin, CONVJIT_FROM_MEMORY);
    CHECK(again == b);
    CHECK_OK(compile(&f, "plain", true, &again, NULL));
    CHECK(again != b);
    CHECK_INT(f.compiles, 2);
    fake_close(&f);

    fake_open(&later, &f, false, 0);
    CHECK_OK(compile(&later, "even", false, &b, &origin));
    CHECK_INT(origin, CONVJIT_FROM_DISK);
    CHECK_OK(compile(&later, "even", true, &b, &origin));
    CHECK_INT(origin, CONVJIT_FROM_MEMORY);
    CHECK_INT(later.compiles, 0);
    fake_close(&later);
    fake_remove(f.dir);
}

static void test_failures(void)
{
    fake f;
    cj_built *b = NULL;
    convjit_origin origin = CONVJIT_FROM_DISK;
    fake_open(&f, NULL, false, 0);
    CHECK_FAILS(compile(&f, "even", false, &b, &origin), CONVJIT_NO_COMPILER, "this call may not compile");
    f.no_compiler = true;
    CHECK_FAILS(compile(&f, "even", true, &b, &origin), CONVJIT_NO_COMPILER,
                "c3k4r1s1 with schedule even:x=1 for sm_90a is not in the cache (directory: /tmp/convjit-fake-");
    CHECK_HAS(convjit_errmsg(), "looked in vain for a compiler");
    f.no_compiler = false;
    f.fail_compile = true;
    CHECK_FAILS(compile(&f, "even", true, &b, &origin), CONVJIT_COMPILE, "k_even does not compile");
    CHECK(!b && origin == CONVJIT_FROM_DISK); /* as they were */
    f.fail_compile = false;
    CHECK_OK(compile(&f, "even", true, &b, &origin)); /* a failure is forgotten */
    CHECK_INT(f.compiles, 2);
    fake_close(&f);
    fake_remove(f.dir);
}

/* A compiler that comes later does not have what was stored for none, and the other way round it does. */
static void test_without_compiler(void)
{
    fake f, later;
    cj_built *b = NULL;
    convjit_origin origin;
    fake_open(&f, NULL, false, 0);
    CHECK_OK(compile(&f, "two", true, &b, &origin));
    fake_close(&f);
    fake_open(&later, &f, false, 0);
    later.no_compiler = true;
    CHECK_OK(compile(&later, "two", true, &b, &origin));
    CHECK_INT(origin, CONVJIT_FROM_DISK);
    fake_close(&later);
    fake_open(&later, &f, true, 0); /* memory only */
    later.no_compiler = true;
    CHECK_FAILS(compile(&later, "two", true, &b, &origin), CONVJIT_NO_COMPILER, "(directory: ");
    fake_close(&later);
    fake_remove(f.dir);
}

/* ---- Many threads ---- */

enum { THREADS = 8 };

typedef struct job {
    fake *f;
    pthread_barrier_t *start;
    const char *schedule;
    convjit_status status;
    convjit_origin origin;
    cj_built *built;
    char message[128];
} job;

static void *compile_job(void *user)
{
    job *j = user;
    pthread_barrier_wait(j->start);
    j->status = compile(j->f, j->schedule, true, &j->built, &j->origin);
    snprintf(j->message, sizeof j->message, "%s", convjit_errmsg());
    return NULL;
}

/* Each thread compiles schedule number i % n. */
static void run_jobs(fake *f, job jobs[THREADS], const char *const *schedules, int n)
{
    pthread_t threads[THREADS];
    pthread_barrier_t start;
    pthread_barrier_init(&start, NULL, THREADS);
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (job){.f = f, .start = &start, .schedule = schedules[i % n]};
        CHECK(pthread_create(&threads[i], NULL, compile_job, &jobs[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&start);
}

static void test_threads(void)
{
    static const char *const one[] = {"even"}, *const three[] = {"even", "two", "plain"};
    fake f;
    job jobs[THREADS];
    fake_open(&f, NULL, false, 0);
    f.compile_ms = 200;
    f.fail_compile = true;
    run_jobs(&f, jobs, one, 1);
    CHECK_INT(f.compiles, 1); /* the failure reaches those that waited */
    for (int i = 0; i < THREADS; i++) {
        CHECK_INT(jobs[i].status, CONVJIT_COMPILE);
        CHECK_STR(jobs[i].message, "k_even does not compile");
    }
    f.fail_compile = false;
    f.compiles = 0;
    run_jobs(&f, jobs, three, 3);
    CHECK_INT(f.compiles, 3);
    int compiled = 0;
    for (int i = 0; i < THREADS; i++) {
        CHECK_INT(jobs[i].status, CONVJIT_OK);
        CHECK(jobs[i].built == jobs[i % 3].built);
        compiled += jobs[i].origin == CONVJIT_COMPILED;
    }
    CHECK_INT(compiled, 3); /* the others' came from memory */
    fake_close(&f);
    fake_remove(f.dir);
}

/* A thread that may compile is not content with the failure of one that may not. */
static void *permission_job(void *user)
{
    job *j = user;
    convjit_problem p = fake_problem(1, 8, 8);
    bool may_compile = j->schedule != NULL;
    for (p.k = 1; p.k <= 100; p.k++) {
        cj_kernel *k = NULL;
        if (cj_context_generate(j->f->cj, &p, "sm_90a", 132, "even", &k) != CONVJIT_OK)
            return NULL;
        pthread_barrier_wait(j->start);
        convjit_status status = cj_compile(j->f->cj, k, may_compile, &j->built, NULL);
        if (may_compile ? status != CONVJIT_OK : status != CONVJIT_OK && status != CONVJIT_NO_COMPILER)
            j->status = status;
    }
    return NULL;
}

/* Gives the context a cache whose search path is so long that a look at the disk takes its time. */
static void slow_down_cache(fake *f)
{
    cj_text path = {0};
    convjit_config config = {.size = sizeof config, .cache_dir = ""};
    for (int i = 0; i < 400; i++)
        cj_text_printf(&path, "%s%s/gen", i ? ":" : "", f->dir);
    config.cache_path = path.data;
    cj_cache_close(f->cj->cache);
    CHECK_OK(cj_cache_open(&f->cj->cache, &config));
    cj_text_free(&path);
}

static void test_permission(void)
{
    fake f;
    job jobs[4];
    pthread_t threads[4];
    pthread_barrier_t start;
    fake_open(&f, NULL, true, 0);
    slow_down_cache(&f);
    pthread_barrier_init(&start, NULL, 4);
    for (int i = 0; i < 4; i++) {
        jobs[i] = (job){.f = &f, .start = &start, .schedule = i == 0 ? "may compile" : NULL};
        CHECK(pthread_create(&threads[i], NULL, permission_job, &jobs[i]) == 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        CHECK_INT(jobs[i].status, CONVJIT_OK);
    }
    pthread_barrier_destroy(&start);
    CHECK_INT(f.compiles, 100);
    fake_close(&f);
    fake_remove(f.dir);
}

int main(void)
{
    test_origins();
    test_failures();
    test_without_compiler();
    test_threads();
    test_permission();
    return check_done("compile");
}
