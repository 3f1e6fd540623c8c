/* resources.c: every schedule compiles for every architecture, with all its entry points (a text in parts could lose one), and
 * ptxas reports no spill and no local memory.
 * The tuples are the golden ones and fresh random ones: $CONVJIT_TEST_TUPLES of them (default 8), each with its best schedule
 * and another candidate. Skipped where there is no NVRTC. */
#include "differential.h"

static const char *const architectures[] = { "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120" };
enum { ARCHITECTURES = sizeof architectures / sizeof *architectures };

static const char *const fixed[] = {
    "n8c64h512w256k128r5s7",
    "n8c32h512w512k64r5s9_pad2x4_dil2x3_tf32",
    "n64c64h56w56k64r3s3_pad1_f16_nhwc_bias_silu_residual",
    "n32c128h128w256k128r3s7_g128",
    "n16c256h32w32k256r31s31_pad15_g256_bf16_nhwc",
    "n64c256h14w14k1024r1s1_bias_gelu",
    "n64c256h56w56k256r3s3_pad1_g32_f16",
    "n1c512h7w7k512r3s3_pad1_bias_relu",
    "n1c3h3w14000k3r1s1400_dil9x10_f16",
};

typedef struct job { convjit_problem problem; const char *arch; char *schedule; } job;

static struct {
    cj_script *script;
    cj_compiler *compiler;
    pthread_mutex_t lock;
    job *jobs;
    int n, capacity;
    atomic_int next;
} all = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* True if every line of ptxas' report that counts a kind of local memory counts none of it. */
static bool clean(const char *log)
{
    static const char *const kinds[] = { " bytes stack frame", " bytes spill stores", " bytes spill loads", " bytes cumulative stack size" };
    bool reported = false;
    for (int i = 0; i < 4; i++)
        for (const char *at = strstr(log, kinds[i]); at; at = strstr(at + 1, kinds[i])) {
            reported = true;
            if (at[-1] != '0' || (at > log + 1 && at[-2] >= '0' && at[-2] <= '9')) return false;
        }
    return reported;
}

/* True if each launch finds its kernel in the binary. */
static bool complete(const cj_kernel *kernel, const cj_blob *cubin)
{
    for (int i = 0; i < kernel->n_launches; i++) {
        char section[512];
        int n = snprintf(section, sizeof section, ".text.%s", kernel->launches[i].entry);
        if (!memmem(cubin->data, cubin->size, section, (size_t)n + 1)) return false;
    }
    return true;
}

static void compile(const job *j)
{
    cj_kernel *kernel = NULL;
    cj_blob cubin = { 0 };
    char *log = NULL;
    pthread_mutex_lock(&all.lock);
    convjit_status s = cj_script_generate(all.script, &j->problem, j->arch, 0, j->schedule, &kernel, NULL);
    pthread_mutex_unlock(&all.lock);
    if (!s) {
        kernel->options[kernel->n_options++] = strdup("--ptxas-options=-v");
        s = cj_nvrtc_compile_log(all.compiler, kernel, &cubin, &log);
    }
    char text[512];
    convjit_problem_format(&j->problem, text, sizeof text);
    CHECK_THAT(!s && log && clean(log), "%s for %s with %s: %s\n%s", text, j->arch, kernel ? kernel->schedule : "-",
               s ? convjit_errmsg() : "spills", log ? log : "");
    CHECK_THAT(s || complete(kernel, &cubin), "%s for %s with %s: an entry point is missing", text, j->arch, kernel->schedule);
    free(log);
    cj_blob_free(&cubin);
    cj_kernel_free(kernel);
}

static void *worker(void *unused)
{
    for (int i; (i = atomic_fetch_add(&all.next, 1)) < all.n;) compile(&all.jobs[i]);
    return unused;
}

static void add(const convjit_problem *p, const char *arch, char *schedule)
{
    if (all.n == all.capacity) {
        all.capacity = all.capacity ? 2 * all.capacity : 64;
        all.jobs = realloc(all.jobs, (size_t)all.capacity * sizeof *all.jobs);
    }
    all.jobs[all.n++] = (job){ *p, arch, schedule };
}

int main(void)
{
    const char *given = getenv("CONVJIT_TEST_TUPLES");
    int tuples = given ? atoi(given) : 8;
    convjit_config config = { .size = sizeof config };
    CHECK_OK(cj_script_open(&all.script, NULL));
    CHECK_OK(cj_nvrtc_open(&all.compiler, &config));
    if (!all.script || !all.compiler) return check_done("resources");
    if (!all.compiler->identity(all.compiler)) {
        printf("no NVRTC\nresources: %d passed, %d failed, 1 skipped\n", check_passed, check_failed);
        return check_failed != 0;
    }
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) {
        convjit_problem p;
        CHECK_OK(convjit_problem_parse(&p, fixed[i]));
        for (int a = 0; a < ARCHITECTURES; a++) add(&p, architectures[a], NULL);
    }
    rng r = { test_seed() };
    printf("seed %llu\n", (unsigned long long)r.state);
    for (int i = 0; i < tuples; i++) {
        convjit_problem p;
        draw_tuple(&r, &p);
        draw_sizes(&r, &p, rng_chance(&r, 50) ? 1e6 : 1e10);
        const char *arch = architectures[rng_range(&r, 0, ARCHITECTURES - 1)];
        add(&p, arch, NULL);
        char *schedule = draw_candidate(all.script, &r, &p, arch, NULL);
        CHECK(schedule);
        if (schedule) add(&p, arch, schedule);
    }
    pthread_t threads[64];
    int n = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (n > 64) n = 64;
    for (int i = 0; i < n; i++)
        if (pthread_create(&threads[i], NULL, worker, NULL)) n = i;
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < all.n; i++) free(all.jobs[i].schedule);
    free(all.jobs);
    all.compiler->close(all.compiler);
    cj_script_close(all.script);
    return check_done("resources");
}
