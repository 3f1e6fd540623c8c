/* mma.c: random dense problems on kernels of `mma`, bit for bit on the emulated device: every type and layout, groups, odd sizes,
 * tiles of all shapes, reductions split within clusters and across launches; in several orders of threads, with asynchronous
 * copies that take effect at once and as late as they may. */
#include "differential.h"

enum { TUPLES = 36, SIZES = 2 };

/* Channels and filters that fill tiles, and that do not; few taps and pixels, because the emulated device is slow. */
static void draw_dense(rng *r, convjit_problem *p)
{
    static const int64_t channels[] = { 8, 16, 17, 24, 32, 33, 64, 72, 130 }, filters[] = { 5, 16, 33, 64, 70, 136 };
    convjit_problem_init(p);
    p->groups = rng_chance(r, 25) ? rng_range(r, 2, 3) : 1;
    int64_t least = p->groups > 1 ? 16 : 1;
    do p->c = channels[rng_range(r, 0, 8)]; while (p->c < least);
    do p->k = filters[rng_range(r, 0, 5)]; while (p->k < least);
    p->c *= p->groups;
    p->k *= p->groups;
    p->r = rng_range(r, 1, 3);
    p->s = rng_chance(r, 50) ? p->r : rng_range(r, 1, 4);
    if (p->c / p->groups * p->r * p->s < 32) p->r = p->s = 3;
    p->stride_h = rng_range(r, 1, 2);
    p->stride_w = rng_chance(r, 60) ? p->stride_h : rng_range(r, 1, 3);
    p->dil_h = rng_chance(r, 70) ? 1 : rng_range(r, 2, 4);
    p->dil_w = rng_chance(r, 70) ? p->dil_h : rng_range(r, 1, 5);
    if (rng_chance(r, 70)) {
        p->pad_top = rng_range(r, 0, p->dil_h * (p->r - 1) + 1), p->pad_bottom = rng_range(r, 0, p->dil_h * (p->r - 1) + 1);
        p->pad_left = rng_range(r, 0, p->dil_w * (p->s - 1) + 1), p->pad_right = rng_range(r, 0, p->dil_w * (p->s - 1) + 1);
    }
    p->math = (convjit_math)rng_range(r, 0, CONVJIT_MATH_COUNT - 1);
    p->layout = (convjit_layout)rng_range(r, 0, CONVJIT_LAYOUT_COUNT - 1);
    p->weights_layout = (convjit_weights_layout)rng_range(r, 0, CONVJIT_WEIGHTS_LAYOUT_COUNT - 1);
    p->bias = rng_chance(r, 40);
    p->residual = rng_chance(r, 30);
    if (rng_chance(r, 30)) p->activation = CONVJIT_RELU;
}

/* Any parameters, of which some are refused. */
static void draw_parameters(rng *r, char *text, size_t size)
{
    static const int tiles[][4] = { { 128, 128, 2, 2 }, { 128, 128, 2, 4 }, { 64, 256, 1, 4 }, { 128, 64, 2, 2 }, { 64, 128, 2, 2 },
                                    { 64, 64, 2, 2 }, { 64, 64, 1, 2 }, { 32, 64, 1, 2 }, { 32, 32, 1, 1 }, { 64, 32, 2, 1 } };
    const int *tile = tiles[rng_range(r, 0, 9)];
    int stages = (int)rng_range(r, 2, 5), split = rng_chance(r, 40) ? 1 : (int)rng_range(r, 2, 6);
    snprintf(text, size, "mma:tk=%d,tp=%d,wk=%d,wp=%d,stages=%d,split=%d,cluster=%d,raw=%d", tile[0], tile[1], tile[2], tile[3],
             stages, split, (int)rng_chance(r, 50), (int)rng_chance(r, 30));
}

/* A plan with parameters that are not refused. */
static convjit_plan *draw_plan(rng *r, convjit *cj, const convjit_problem *p)
{
    convjit_plan *plan = NULL;
    char parameters[128];
    for (int i = 0; !plan && i < 200; i++) {
        draw_parameters(r, parameters, sizeof parameters);
        convjit_status s = convjit_plan_create_with(&plan, cj, p, parameters);
        CHECK_THAT(s == CONVJIT_OK || s == CONVJIT_INVALID, "%s: %s", parameters, convjit_errmsg());
    }
    return plan;
}

static void one_tuple(convjit *cj, uint64_t seed)
{
    rng r = { seed };
    convjit_problem p;
    draw_dense(&r, &p);
    rng parameters = { rng_next(&r) };
    for (int i = 0; i < SIZES; i++) {
        draw_sizes(&r, &p, 600e3);
        rng same = parameters; /* one kernel for all sizes */
        convjit_plan *plan = draw_plan(&same, cj, &p);
        char text[512];
        convjit_problem_format(&p, text, sizeof text);
        cj_check result = { 0 };
        convjit_status s = plan ? run_plan(cj, &p, plan, true, rng_next(&r), 0, &result) : CONVJIT_INVALID;
        CHECK_THAT(s == CONVJIT_OK && result.wrong == 0 && result.of > 0, "seed %llu: %s %s: %s; %llu wrong of %llu: %s",
                   (unsigned long long)seed, text, plan ? convjit_plan_schedule(plan) : "no parameters",
                   s ? convjit_errmsg() : "ran", (unsigned long long)result.wrong, (unsigned long long)result.of, result.first);
        convjit_plan_destroy(plan);
    }
}

int main(void)
{
    static const struct { const char *order, *async; } modes[] = {
        { "forward", "wait" }, { "reverse", "issue" }, { "seed:3", "wait" } };
    enum { MODES = sizeof modes / sizeof *modes };
    uint64_t seed = test_seed();
    printf("seed %llu\n", (unsigned long long)seed);
    for (int m = 0; m < MODES; m++) {
        setenv("CONVJIT_EMU_ORDER", modes[m].order, 1);
        setenv("CONVJIT_EMU_ASYNC", modes[m].async, 1);
        convjit_config config = { .size = sizeof config, .device = CONVJIT_EMU, .cache_dir = "" };
        convjit *cj = NULL;
        CHECK_OK(convjit_open(&cj, &config));
        for (int i = m; cj && i < TUPLES; i += MODES) one_tuple(cj, seed + (uint64_t)i * 0x632be59bd9b4e019u);
        convjit_close(cj);
    }
    return check_done("emu-mma");
}
