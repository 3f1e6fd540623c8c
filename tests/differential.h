/* differential.h: random problems on a device against the reference on the CPU; tests/emu/direct.c and
 * tests/gpu/differential.c say how many of what. Every run draws fresh data unless $CONVJIT_TEST_SEED repeats an earlier one. */
#ifndef DIFFERENTIAL_H
#define DIFFERENTIAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include "check.h"
#include "internal.h"
#include "run_problem.h"

/* ---- random numbers: splitmix64 (Steele, Lea, Flood 2014), one stream a tuple ---- */

typedef struct rng { uint64_t state; } rng;

static uint64_t rng_next(rng *r)
{
    uint64_t z = r->state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static int64_t rng_range(rng *r, int64_t least, int64_t most)
{
    return least + (int64_t)(rng_next(r) % (uint64_t)(most - least + 1));
}

static bool rng_chance(rng *r, int percent) { return rng_range(r, 1, 100) <= percent; }

static uint64_t test_seed(void)
{
    const char *given = getenv("CONVJIT_TEST_SEED");
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return given ? strtoull(given, NULL, 0) : (uint64_t)now.tv_sec * 1000003u + (uint64_t)now.tv_nsec + (uint64_t)getpid();
}

/* ---- problems ---- */

/* A tuple over all fields: small and odd sizes are likely, large ones possible. */
static void draw_tuple(rng *r, convjit_problem *p)
{
    static const int64_t channels[] = { 1, 1, 2, 3, 3, 4, 5, 7, 8, 8, 11, 13, 16, 16, 17, 23, 32, 33, 64 };
    static const int64_t taps[] = { 1, 1, 1, 2, 3, 3, 3, 3, 4, 5, 5, 7, 9, 11 };
    enum { CHANNELS = sizeof channels / sizeof *channels, TAPS = sizeof taps / sizeof *taps };
    convjit_problem_init(p);
    p->r = taps[rng_range(r, 0, TAPS - 1)];
    p->s = rng_chance(r, 60) ? p->r : taps[rng_range(r, 0, TAPS - 1)];
    if (rng_chance(r, 3)) p->s = rng_range(r, 12, 40);
    if (rng_chance(r, 3)) p->r = rng_range(r, 12, 40);
    int64_t c = channels[rng_range(r, 0, CHANNELS - 1)], k = channels[rng_range(r, 0, CHANNELS - 1)];
    if (rng_chance(r, 35)) { /* grouped: groups x few channels each; depthwise with a multiplier among them */
        p->groups = rng_chance(r, 50) ? rng_range(r, 2, 40) : 8 << rng_range(r, 0, 3);
        if (rng_chance(r, 50)) c = 1;
        if (rng_chance(r, 50)) k = rng_range(r, 1, 3);
        while (c * p->groups > 128) c = (c + 1) / 2, p->groups = (p->groups + 1) / 2;
        if (k > 16) k = 16;
    }
    p->c = c * p->groups;
    p->k = k * p->groups;
    p->stride_h = rng_chance(r, 60) ? 1 : rng_range(r, 1, 4);
    p->stride_w = rng_chance(r, 70) ? p->stride_h : rng_range(r, 1, 5);
    p->dil_h = rng_chance(r, 75) ? 1 : rng_range(r, 1, 5);
    p->dil_w = rng_chance(r, 75) ? p->dil_h : rng_range(r, 1, 13);
    if (rng_chance(r, 60)) {
        int64_t most_h = p->dil_h * (p->r - 1) + 2, most_w = p->dil_w * (p->s - 1) + 3; /* more than the filter, sometimes */
        p->pad_top = p->pad_bottom = rng_range(r, 0, most_h);
        p->pad_left = p->pad_right = rng_range(r, 0, most_w);
        if (rng_chance(r, 30)) {
            p->pad_bottom = rng_range(r, 0, most_h);
            p->pad_right = rng_range(r, 0, most_w);
        }
    }
    p->math = (convjit_math)rng_range(r, 0, CONVJIT_MATH_COUNT - 1);
    p->layout = (convjit_layout)rng_range(r, 0, CONVJIT_LAYOUT_COUNT - 1);
    p->weights_layout = rng_chance(r, 30) ? CONVJIT_KRSC : CONVJIT_KCRS;
    p->bias = rng_chance(r, 40);
    p->residual = rng_chance(r, 25);
    if (rng_chance(r, 50)) p->activation = (convjit_activation)rng_range(r, 0, CONVJIT_ACTIVATION_COUNT - 1);
    if (p->activation == CONVJIT_LEAKY_RELU) p->alpha = rng_chance(r, 50) ? 0.01f : 0.25f;
    if (p->activation == CONVJIT_CLAMP) p->alpha = -(float)rng_range(r, 0, 8), p->beta = (float)rng_range(r, 0, 8);
}

/* Makes a dense tuple of the size that tensor-core schedules are for. */
static void widen(rng *r, convjit_problem *p)
{
    static const int64_t channels[] = { 16, 20, 32, 33, 48, 64, 64, 65, 72, 96, 100, 128, 130, 192, 256 };
    enum { CHANNELS = sizeof channels / sizeof *channels };
    p->groups = 1;
    p->c = channels[rng_range(r, 0, CHANNELS - 1)];
    p->k = channels[rng_range(r, 0, CHANNELS - 1)];
}

/* N, H and W for a tuple: at most about `macs` multiply-adds, outputs of 1x1 among them. */
static void draw_sizes(rng *r, convjit_problem *p, double macs)
{
    int64_t least_h = p->dil_h * (p->r - 1) + 1 - p->pad_top - p->pad_bottom;
    int64_t least_w = p->dil_w * (p->s - 1) + 1 - p->pad_left - p->pad_right;
    if (least_h < 1) least_h = 1;
    if (least_w < 1) least_w = 1;
    double each = (double)(p->c / p->groups) * (double)(p->r * p->s) * (double)p->k; /* one output pixel */
    double pixels = macs / each;
    int64_t side = 1;
    while ((double)((side + 1) * (side + 1)) <= pixels && side < 200) side++;
    p->n = rng_chance(r, 60) ? 1 : rng_range(r, 1, 5);
    p->h = least_h + rng_range(r, 0, side) * p->stride_h + rng_range(r, 0, p->stride_h - 1);
    p->w = least_w + rng_range(r, 0, side) * p->stride_w + rng_range(r, 0, p->stride_w - 1);
    if (rng_chance(r, 8)) p->h = least_h, p->w = least_w;
    while (p->n > 1 && each * (double)p->n * (double)(convjit_problem_p(p) * convjit_problem_q(p)) > 2 * macs) p->n--;
}

/* ---- many problems ---- */

enum { MOST_DRAWS = 500 /* of tuples, until one is what a schedule is for */ };

typedef struct campaign {
    convjit *cj;
    const char *arch;       /* for the list of candidates */
    uint64_t seed;
    int tuples, sizes;      /* problems = tuples * sizes */
    double macs;            /* of a problem, about */
    bool exact;
    const char *const *schedules; /* take turns; NULL: whichever is predicted best, or any other */
    int n_schedules;
    int threads;
    atomic_int next, problems;
    pthread_mutex_t lock;
    char **kernels;         /* distinct tuple + schedule */
    int n_kernels;
    cj_script *script;      /* under lock */
} campaign;

static void count_kernel(campaign *c, const convjit_problem *p, const char *schedule)
{
    char name[1024];
    size_t n = cj_kernel_tuple(p, name, sizeof name);
    snprintf(name + n, sizeof name - n, " %s", schedule);
    pthread_mutex_lock(&c->lock);
    int i = 0;
    while (i < c->n_kernels && strcmp(c->kernels[i], name) != 0) i++;
    if (i == c->n_kernels) {
        c->kernels = realloc(c->kernels, (size_t)(i + 1) * sizeof *c->kernels);
        c->kernels[c->n_kernels++] = strdup(name);
    }
    pthread_mutex_unlock(&c->lock);
}

/* One of the candidates; where that is a whole schedule, one of its own. NULL if there is none. */
static char *draw_candidate(cj_script *script, rng *r, const convjit_problem *p, const char *arch, const char *of)
{
    char **specs = NULL, *chosen = NULL;
    size_t n = 0;
    if (cj_script_candidates(script, p, arch, 0, of, &specs, &n)) return NULL;
    size_t pick = (size_t)rng_range(r, 0, (int64_t)n - 1);
    for (size_t i = 0; i < n; i++) {
        if (i == pick) chosen = specs[i];
        else free(specs[i]);
    }
    free(specs);
    if (strchr(chosen, ':')) return chosen;
    char *inner = draw_candidate(script, r, p, arch, chosen);
    free(chosen);
    return inner;
}

/* Sometimes another candidate than the best, and variants that no candidate list holds for small images: 64-bit offsets. */
static char *draw_schedule(campaign *c, rng *r, const convjit_problem *p)
{
    if (rng_chance(r, 40)) return NULL;
    pthread_mutex_lock(&c->lock);
    char *chosen = draw_candidate(c->script, r, p, c->arch, NULL);
    pthread_mutex_unlock(&c->lock);
    if (!chosen) return NULL; /* the plan fails for the same reason, and reports it */
    char *wide = strstr(chosen, "wide=0");
    if (wide && rng_chance(r, 15)) wide[5] = '1';
    return chosen;
}

/* A problem that this schedule serves, and its name or one of its candidates; NULL if none of many was served. */
static char *draw_problem_of(campaign *c, rng *r, convjit_problem *p, const char *schedule)
{
    char *chosen = NULL;
    for (int draws = 0; draws < MOST_DRAWS && !chosen; draws++) {
        draw_tuple(r, p);
        if (draws % 2 == 0) widen(r, p); /* what wants few channels or groups gets them next time */
        draw_sizes(r, p, c->macs);
        pthread_mutex_lock(&c->lock);
        chosen = draw_candidate(c->script, r, p, c->arch, schedule);
        pthread_mutex_unlock(&c->lock);
    }
    if (chosen && rng_chance(r, 40)) chosen[strcspn(chosen, ":")] = '\0'; /* its best */
    return chosen;
}

/* A problem with its first sizes, and a schedule for it; NULL: the best of all. */
static char *draw_problem(campaign *c, int tuple, rng *r, convjit_problem *p)
{
    if (c->schedules) {
        const char *name = c->schedules[tuple % c->n_schedules];
        char *chosen = draw_problem_of(c, r, p, name);
        CHECK_THAT(chosen, "seed %llu: schedule %s refused %d problems", (unsigned long long)c->seed, name, MOST_DRAWS);
        return chosen;
    }
    draw_tuple(r, p);
    draw_sizes(r, p, c->macs);
    return draw_schedule(c, r, p);
}

static void *campaign_thread(void *user)
{
    campaign *c = user;
    for (int i; (i = atomic_fetch_add(&c->next, 1)) < c->tuples;) {
        rng r = { c->seed + (uint64_t)i * 0x632be59bd9b4e019u };
        convjit_problem p;
        char *schedule = draw_problem(c, i, &r, &p);
        for (int j = 0; j < c->sizes; j++) {
            if (j > 0) draw_sizes(&r, &p, c->macs);
            char text[512], used[256] = "";
            convjit_problem_format(&p, text, sizeof text);
            cj_check result = { 0 };
            uint64_t seed = rng_next(&r);
            convjit_status s = run_problem(c->cj, &p, schedule, c->exact, seed, 0, &result, used);
            /* a schedule may demand facts of N, H and W: another serves the rest */
            if (s == CONVJIT_UNSUPPORTED && schedule && (j > 0 || strstr(convjit_errmsg(), " requires ")))
                s = run_problem(c->cj, &p, NULL, c->exact, seed, 0, &result, used);
            CHECK_THAT(s == CONVJIT_OK && result.wrong == 0 && result.of > 0,
                       "seed %llu tuple %d: %s %s: %s; %llu wrong of %llu: %s", (unsigned long long)c->seed, i, text,
                       used[0] ? used : schedule ? schedule : "", s ? convjit_errmsg() : "ran",
                       (unsigned long long)result.wrong, (unsigned long long)result.of, result.first);
            if (!s) count_kernel(c, &p, used);
            atomic_fetch_add(&c->problems, 1);
        }
        free(schedule);
    }
    return NULL;
}

/* Runs all problems and prints how many there were. Returns the number of distinct kernels. */
static inline int campaign_run(campaign *c)
{
    pthread_t threads[64];
    pthread_mutex_init(&c->lock, NULL);
    CHECK_OK(cj_script_open(&c->script, NULL));
    if (!c->script) return 0;
    int n = c->threads > 64 ? 64 : c->threads;
    for (int i = 0; i < n; i++)
        if (pthread_create(&threads[i], NULL, campaign_thread, c)) { n = i; break; }
    if (n == 0) campaign_thread(c);
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    printf("%d problems (%s data) on %d kernels, seed %llu\n", atomic_load(&c->problems), c->exact ? "integer" : "random",
           c->n_kernels, (unsigned long long)c->seed);
    int kernels = c->n_kernels;
    for (int i = 0; i < c->n_kernels; i++) free(c->kernels[i]);
    free(c->kernels);
    cj_script_close(c->script);
    pthread_mutex_destroy(&c->lock);
    return kernels;
}

#endif
