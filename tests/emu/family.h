/* family.h: random problems on random parameters of one schedule, on the emulated device, in several thread orders and with
 * asynchronous operations at issue or as late as they may. A test draws the problems and the parameters. */
#ifndef FAMILY_H
#define FAMILY_H

#include "differential.h"

enum { FAMILY_DRAWS = 200 /* for each kernel that is wanted: of random parameters many are refused */ };

typedef struct family_mode { const char *order, *async; bool exact; /* integers, bit for bit */ } family_mode;

/* Runs one kernel of random parameters on some sizes. Returns 0 if the schedule refuses the parameters. */
typedef int family_kernel(convjit *cj, rng *r, bool exact);

static inline int64_t one_of(rng *r, const int64_t *values, int n) { return values[rng_range(r, 0, n - 1)]; }
#define ONE_OF(r, ...) one_of(r, (const int64_t[]){ __VA_ARGS__ }, (int)(sizeof((const int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)))

/* Runs and compares one problem; false if the schedule, a full specification, is refused. */
static inline bool family_check(convjit *cj, rng *r, const convjit_problem *p, const char *schedule, bool exact)
{
    char text[512], used[256] = "", refusal[64];
    cj_check result = { 0 };
    snprintf(refusal, sizeof refusal, "schedule %.*s", (int)strcspn(schedule, ":"), schedule);
    convjit_status s = run_problem(cj, p, schedule, exact, rng_next(r), 0, &result, used);
    if (s == CONVJIT_INVALID && strstr(convjit_errmsg(), refusal)) return false;
    convjit_problem_format(p, text, sizeof text);
    CHECK_THAT(!s && result.wrong == 0 && result.of > 0, "%s %s: %s; %llu wrong of %llu: %s", text, schedule,
               s ? convjit_errmsg() : "ran", (unsigned long long)result.wrong, (unsigned long long)result.of, result.first);
    return true;
}

/* The whole test: that many kernels in each mode. The environment's CONVJIT_TEST_KERNELS asks for another number. */
static inline int family_main(const char *title, const family_mode *modes, int n_modes, int kernels, family_kernel *one_kernel)
{
    const char *given = getenv("CONVJIT_TEST_KERNELS");
    int wanted = given ? atoi(given) : kernels, ran = 0;
    rng r = { test_seed() };
    printf("seed %llu\n", (unsigned long long)r.state);
    char directory[] = "/tmp/convjit-test-XXXXXX", command[128];
    if (!mkdtemp(directory)) return 1;
    for (int i = 0; i < n_modes; i++) {
        setenv("CONVJIT_EMU_ORDER", modes[i].order, 1);
        setenv("CONVJIT_EMU_ASYNC", modes[i].async, 1);
        convjit_config config = { .size = sizeof config, .device = CONVJIT_EMU, .cache_dir = directory };
        convjit *cj = NULL;
        CHECK_OK(convjit_open(&cj, &config));
        if (!cj) break;
        for (int n = 0, draws = 0; n < wanted && draws < FAMILY_DRAWS * wanted; draws++) {
            int one = one_kernel(cj, &r, modes[i].exact);
            n += one, ran += one;
        }
        convjit_close(cj);
    }
    CHECK_THAT(ran == n_modes * wanted, "%d kernels; %d are wanted", ran, n_modes * wanted);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (system(command) != 0) fprintf(stderr, "could not remove %s\n", directory);
    return check_done(title);
}

#endif
