/* depthwise.c: random depthwise problems, with random schedules of every kind and with those that the generator picks, exact on
 * the emulated device in three thread orders; and some on numbers with fractions, of which an activation may be wrong where it is
 * right for integers. */
#include "differential.h"

enum { TUPLES = 24, PICKS = 5, SIZES = 3, DRAWS = 40 };

static int64_t pick(rng *r, const int64_t *values, int n) { return values[rng_range(r, 0, n - 1)]; }

/* What a kernel may be made of: the parameters mm and copy of the schedule. */
typedef struct kind { int mm, copy; } kind;
static const kind kinds[] = { { 0, 0 }, { 0, 1 }, { 0, 2 }, { 0, 3 }, { 1, 0 }, { 1, 1 }, { 1, 2 }, { 1, 3 }, { 2, 0 }, { 2, 1 },
                              { 0, 4 }, { 1, 4 } };
enum { KINDS = sizeof kinds / sizeof *kinds };

/* As draw_tuple, with one input channel and up to three filters a group, and of a type and layout that the kind serves. */
static void draw_depthwise(rng *r, const kind *k, convjit_problem *p)
{
    do draw_tuple(r, p);
    while (p->s * p->dil_w > 60 || p->r * p->dil_h > 80);
    p->groups = k->copy == 2 || rng_chance(r, 50) ? 8 * rng_range(r, 1, 5) : rng_range(r, 2, 40);
    p->c = p->groups;
    p->k = p->groups * (k->mm == 2 || rng_chance(r, 70) ? 1 : rng_range(r, 2, 3));
    bool first = rng_chance(r, 50);
    p->math = k->mm == 0 ? first ? CONVJIT_F32 : CONVJIT_TF32 : first ? CONVJIT_F16 : CONVJIT_BF16;
    bool nhwc = k->mm == 2 || (k->copy < 2 && rng_chance(r, 50) && (k->mm == 0 || k->copy == 0));
    p->layout = nhwc ? CONVJIT_NHWC : CONVJIT_NCHW;
}

/* A specification of that kind, possibly one that the generator refuses. */
static void draw_schedule_text(rng *r, const kind *k, const convjit_problem *p, int *vec, char *spec, size_t size)
{
    static const int64_t powers[] = { 1, 2, 4, 8, 16, 32 }, rows[] = { 1, 2, 3, 4, 7, 8, 14, 16 };
    bool nhwc = p->layout == CONVJIT_NHWC;
    int bytes = (int)convjit_element_size(p->math);
    do *vec = k->copy % 2 == 1 || k->copy == 4 ? 16 : (int)pick(r, powers + 1, 4);
    while (*vec < bytes || (k->copy == 0 && nhwc && p->c * bytes % *vec != 0));
    int64_t rt = k->mm == 1 ? 16 : pick(r, rows, k->mm == 0 ? 4 : 6);
    int64_t ct = k->mm == 0 ? 4 * rng_range(r, 1, 3) : 8 * pick(r, powers, k->mm == 1 ? 4 : 2);
    int64_t tp = k->mm == 1 ? pick(r, rows, 8) : rng_range(r, 1, 3) * rt * (k->mm == 2 ? 16 / ct : 1);
    int64_t tq = ct * rng_range(r, 1, 3);
    if (k->copy == 2) /* a tile holds whole planes */
        tp = (convjit_problem_p(p) + (k->mm == 0 ? rt : 1) - 1) / (k->mm == 0 ? rt : 1) * (k->mm == 0 ? rt : 1);
    if (k->copy >= 2) /* or whole rows */
        tq = (convjit_problem_q(p) + ct - 1) / ct * ct;
    snprintf(spec, size, "depthwise:mm=%d,copy=%d,tc=%d,ni=%d,tp=%d,tq=%d,rt=%d,ct=%d,warps=%d,vec=%d,stages=%d,wide=%d",
             k->mm, k->copy, (int)pick(r, powers, 6), rng_chance(r, 60) ? 1 : (int)rng_range(r, 2, 4), (int)tp, (int)tq, (int)rt, (int)ct,
             (int)rng_range(r, 1, 4), *vec, k->mm == 1 && nhwc ? 1 : (int)rng_range(r, 1, 3), rng_chance(r, 15));
}

/* A plan with a random schedule of that kind; NULL if no draw could be. */
static convjit_plan *draw_plan(convjit *cj, rng *r, const kind *k, convjit_problem *p)
{
    convjit_plan *plan = NULL;
    for (int i = 0; i < DRAWS && !plan; i++) {
        int vec;
        char spec[256];
        draw_schedule_text(r, k, p, &vec, spec, sizeof spec);
        int64_t unit = p->layout == CONVJIT_NCHW ? vec / (int64_t)convjit_element_size(p->math) : 1;
        p->w = (p->w + unit - 1) / unit * unit; /* the tile's loads divide the rows */
        if (convjit_plan_create_with(&plan, cj, p, spec)) plan = NULL;
    }
    return plan;
}

static void check_tuple(convjit *cj, rng *r, const kind *k, bool exact)
{
    convjit_problem p;
    convjit_plan *plan = NULL;
    for (int i = 0; i < DRAWS && !plan; i++) { /* wide dilated filters have few tiles */
        draw_depthwise(r, k, &p);
        draw_sizes(r, &p, 60e3);
        plan = draw_plan(cj, r, k, &p);
    }
    CHECK_THAT(plan != NULL, "mm %d, copy %d: no plan: %s", k->mm, k->copy, convjit_errmsg());
    char schedule[256] = "", text[512];
    if (plan) snprintf(schedule, sizeof schedule, "%s", convjit_plan_schedule(plan));
    for (int i = 0; i < SIZES && plan; i++) {
        cj_check result = { 0 };
        convjit_problem_format(&p, text, sizeof text);
        convjit_status s = run_plan(cj, &p, plan, exact, rng_next(r), 0, &result);
        CHECK_THAT(s == CONVJIT_OK && result.wrong == 0 && result.of > 0, "%s %s: %s; %llu wrong of %llu: %s", text, schedule,
                   s ? convjit_errmsg() : "ran", (unsigned long long)result.wrong, (unsigned long long)result.of, result.first);
        convjit_plan_destroy(plan);
        plan = NULL;
        int64_t w = p.w;
        if (k->copy == 2) {
            p.n = rng_range(r, 1, 9);
        } else {
            draw_sizes(r, &p, 60e3);
            p.w = w * (k->copy >= 3 ? 1 : rng_range(r, 1, 2)); /* what the loads divide still */
        }
        if (i + 1 < SIZES) CHECK_OK(convjit_plan_create_with(&plan, cj, &p, schedule));
    }
    convjit_plan_destroy(plan);
}

/* What the generator picks, for sizes of which each may have another pick. */
static void check_picks(convjit *cj, rng *r)
{
    convjit_problem p;
    draw_depthwise(r, &kinds[rng_range(r, 0, KINDS - 1)], &p);
    for (int i = 0; i < SIZES; i++) {
        char text[512], used[256] = "";
        cj_check result = { 0 };
        draw_sizes(r, &p, 60e3);
        if (rng_chance(r, 50)) p.w += 8 - p.w % 8;
        convjit_problem_format(&p, text, sizeof text);
        convjit_status s = run_problem(cj, &p, NULL, true, rng_next(r), 0, &result, used);
        CHECK_THAT(s == CONVJIT_OK && result.wrong == 0 && result.of > 0, "%s %s: %s; %llu wrong of %llu: %s", text, used,
                   s ? convjit_errmsg() : "ran", (unsigned long long)result.wrong, (unsigned long long)result.of, result.first);
    }
}

int main(void)
{
    static const struct { const char *order; bool exact; } runs[] = {
        { "forward", true }, { "reverse", true }, { "seed:7", true }, { "forward", false } };
    char directory[] = "/tmp/convjit-test-XXXXXX", command[128];
    if (!mkdtemp(directory)) return 1;
    rng r = { test_seed() };
    printf("seed %llu\n", (unsigned long long)r.state);
    for (int i = 0; i < (int)(sizeof runs / sizeof *runs); i++) {
        setenv("CONVJIT_EMU_ORDER", runs[i].order, 1);
        convjit_config config = { .size = sizeof config, .device = CONVJIT_EMU, .cache_dir = directory };
        convjit *cj = NULL;
        CHECK_OK(convjit_open(&cj, &config));
        for (int j = 0; j < TUPLES && cj; j++) check_tuple(cj, &r, &kinds[j % KINDS], runs[i].exact);
        for (int j = 0; j < PICKS && cj; j++) check_picks(cj, &r);
        convjit_close(cj);
    }
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (system(command) != 0) fprintf(stderr, "could not remove %s\n", directory);
    return check_done("emu-depthwise");
}
