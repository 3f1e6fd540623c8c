/* concurrency: 16 processes of 8 threads ask for 100 kernels through one cold cache directory. None fails, no process
 * compiles a kernel twice, and the directory is left with 100 kernels and their selections and nothing else. The same
 * again over the warm directory: no process compiles, or reads a kernel twice. */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "sample.h"
#include "../fake/fake.h"

enum { PROCESSES = 16, THREADS = 8, KEYS = 100 };

/* What a process has to tell, in memory that it shares with its parent. */
typedef struct tally {
    int errors, compiles;                   /* compiles: by the fake's own count */
    int origins[KEYS][CONVJIT_COMPILED + 1]; /* plans of each kernel, by where it came from */
    char message[512];                      /* of an error */
} tally;

typedef struct worker { convjit *cj; tally *tally; int process, number; pthread_barrier_t *start; } worker;

/* Half of the threads go through the keys in one order and so meet at each; the others begin elsewhere, backwards. */
static int nth_key(const worker *w, int i)
{
    return w->number % 2 == 0 ? i : (KEYS - i + 13 * (w->number + w->process)) % KEYS;
}

static void make_plan(const worker *w, int key)
{
    convjit_problem p;
    convjit_plan *plan = NULL;
    convjit_problem_init(&p);
    p.k = key + 1;
    convjit_status status = convjit_plan_create(&plan, w->cj, &p);
    if (status) {
        __atomic_add_fetch(&w->tally->errors, 1, __ATOMIC_RELAXED);
        snprintf(w->tally->message, sizeof w->tally->message, "%s: %s", convjit_strstatus(status), convjit_errmsg());
        return;
    }
    __atomic_add_fetch(&w->tally->origins[key][convjit_plan_origin(plan)], 1, __ATOMIC_RELAXED);
    convjit_plan_destroy(plan);
}

static void *work(void *user)
{
    const worker *w = user;
    pthread_barrier_wait(w->start);
    for (int i = 0; i < KEYS; i++)
        make_plan(w, nth_key(w, i));
    return NULL;
}

static int run_process(int number, tally *t)
{
    convjit_config config = {.size = sizeof config, .cache_dir = in_scratch("cache"), .cache_path = "", .verbose = -1};
    convjit *cj = NULL;
    pthread_t threads[THREADS];
    worker workers[THREADS];
    pthread_barrier_t start;
    config.nvrtc = fake_path("libnvrtc.so");
    config.driver = fake_path("libcuda.so");
    if (convjit_open(&cj, &config) != CONVJIT_OK)
        return EXIT_FAILURE;
    pthread_barrier_init(&start, NULL, THREADS);
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (worker){cj, t, number, i, &start};
        if (pthread_create(&threads[i], NULL, work, &workers[i]) != 0)
            return EXIT_FAILURE;
    }
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&start);
    convjit_close(cj);
    fake_nvrtc_compiles_fn *compiles = (fake_nvrtc_compiles_fn *)fake_symbol("libnvrtc.so", "fake_nvrtc_compiles");
    t->compiles = compiles ? compiles() : -1;
    return EXIT_SUCCESS;
}

static void run_all(tally *tallies)
{
    pid_t children[PROCESSES];
    for (int i = 0; i < PROCESSES; i++) {
        children[i] = fork();
        if (children[i] == 0)
            _exit(run_process(i, &tallies[i])); /* _exit: the scratch directory is the parent's to remove */
    }
    for (int i = 0; i < PROCESSES; i++) {
        int status = -1;
        CHECK(children[i] > 0 && waitpid(children[i], &status, 0) == children[i]);
        CHECK_INT(status, 0);
    }
}

/* Returns the compilations of a process. */
static int check_process(const tally *t)
{
    int compiled = 0, twice = 0, plans = 0;
    CHECK_THAT(t->errors == 0, "%d errors, such as %s", t->errors, t->message);
    for (int key = 0; key < KEYS; key++) {
        const int *origins = t->origins[key];
        twice += origins[CONVJIT_COMPILED] > 1;
        compiled += origins[CONVJIT_COMPILED];
        plans += origins[CONVJIT_COMPILED] + origins[CONVJIT_FROM_DISK] + origins[CONVJIT_FROM_MEMORY];
    }
    CHECK_INT(twice, 0);
    CHECK_INT(t->compiles, compiled);
    CHECK_INT(plans, THREADS * KEYS);
    return compiled;
}

/* A process over the warm directory. */
static void check_warm(const tally *t)
{
    int compiled = check_process(t), from_disk = 0;
    for (int key = 0; key < KEYS; key++)
        from_disk += t->origins[key][CONVJIT_FROM_DISK];
    CHECK_INT(compiled, 0);
    CHECK_INT(from_disk, KEYS);
}

static void check_directory(void)
{
    convjit_config config = {.size = sizeof config, .cache_dir = in_scratch("cache"), .cache_path = "", .verbose = -1};
    cj_cache *c = NULL;
    cj_cache_entry *e = NULL;
    size_t n = 0, damaged = 0, selections = 0, removed = 0;
    CHECK_OK(cj_cache_open(&c, &config));
    CHECK_OK(cj_cache_list(c, &e, &n));
    for (size_t i = 0; i < n; i++) {
        damaged += e[i].status != CONVJIT_OK;
        selections += e[i].selection;
    }
    CHECK_INT(n, 2 * KEYS);
    CHECK_INT(selections, KEYS);
    CHECK_INT(damaged, 0);
    cj_cache_list_free(e, n);
    CHECK_OK(cj_cache_clear(c, &removed));
    cj_cache_close(c);
    CHECK_THAT(rmdir(in_scratch("cache")) == 0, "something is left in the directory: %m");
}

int main(void)
{
    if (!scratch_make())
        return EXIT_FAILURE;
    size_t bytes = PROCESSES * sizeof(tally);
    tally *tallies = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (tallies == MAP_FAILED)
        return EXIT_FAILURE;
    setenv("FAKE_NVRTC_COUNT", in_scratch("count"), 1);
    setenv("FAKE_NVRTC_MS", "20", 1); /* long enough for others to want the same kernel meanwhile */
    run_all(tallies);
    int compiled = 0;
    for (int i = 0; i < PROCESSES; i++)
        compiled += check_process(&tallies[i]);
    cj_blob counted = file_read(in_scratch("count"));
    CHECK_INT(counted.size, compiled);
    CHECK_THAT(compiled >= KEYS && compiled <= PROCESSES * KEYS, "%d compilations", compiled);
    cj_blob_free(&counted);
    memset(tallies, 0, bytes);
    run_all(tallies);
    for (int i = 0; i < PROCESSES; i++)
        check_warm(&tallies[i]);
    munmap(tallies, bytes);
    check_directory();
    return check_done("concurrency");
}
