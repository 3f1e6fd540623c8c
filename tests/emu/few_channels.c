/* few_channels.c: random problems of 1 to 16 input channels on random parameters of `few_channels`, exact on the emulated device in
 * three thread orders, asynchronous operations at issue and as late as they may; and some on numbers with fractions. */
#include "differential.h"

enum { KERNELS = 45, SIZES = 3, DRAWS = 200 };

static void draw_few_channels(rng *r, convjit_problem *p)
{
    static const int64_t channels[] = { 1, 2, 3, 3, 3, 4, 5, 8, 11, 16, 16 }, filters[] = { 1, 3, 8, 16, 24, 30, 32, 40, 64, 96, 128 };
    enum { CHANNELS = sizeof channels / sizeof *channels, FILTERS = sizeof filters / sizeof *filters };
    draw_tuple(r, p);
    p->groups = 1;
    p->c = channels[rng_range(r, 0, CHANNELS - 1)];
    p->k = rng_chance(r, 80) ? filters[rng_range(r, 0, FILTERS - 1)] : rng_range(r, 1, 300);
    if (p->r > 11) p->r = 2;
    if (p->s > 17) p->s = 4;
    if (rng_chance(r, 10)) p->stride_w = rng_range(r, 5, 17);
}

/* Parameters that are often possible; the schedule refuses the others. */
static void draw_parameters(rng *r, const convjit_problem *p, char *text, size_t size)
{
    int64_t tk = (p->k + 7) / 8 * 8, mi = rng_chance(r, 30) ? 2 : 1;
    while (tk > 256 || (tk > 8 && rng_chance(r, 30))) tk = (tk / 2 + 7) / 8 * 8;
    snprintf(text, size, "few_channels:tk=%d,tp=%d,tq=%d,mi=%d,wg=%d", (int)tk, (int)rng_range(r, 1, 4),
             (int)(64 * mi * rng_range(r, 1, 2)), (int)mi, (int)rng_range(r, 2, 3));
}

/* One kernel on several sizes: often no more than one tile, sometimes several. Returns 0 if it cannot be. */
static int one_kernel(convjit *cj, rng *r, bool exact)
{
    convjit_problem p;
    char schedule[256], text[512];
    draw_few_channels(r, &p);
    draw_parameters(r, &p, schedule, sizeof schedule);
    for (int i = 0; i < SIZES; i++) {
        draw_sizes(r, &p, 60e3);
        if (rng_chance(r, 40)) p.w += rng_range(r, 40, 180) * p.stride_w;
        char used[256] = "";
        cj_check result = { 0 };
        convjit_status s = run_problem(cj, &p, schedule, exact, rng_next(r), 0, &result, used);
        if (s == CONVJIT_INVALID && strstr(convjit_errmsg(), "schedule few_channels")) return 0;
        convjit_problem_format(&p, text, sizeof text);
        CHECK_THAT(!s && result.wrong == 0 && result.of > 0, "%s %s: %s; %llu wrong of %llu: %s", text, schedule,
                   s ? convjit_errmsg() : "ran", (unsigned long long)result.wrong, (unsigned long long)result.of, result.first);
    }
    return 1;
}

int main(void)
{
    static const struct { const char *order, *async; bool exact; } runs[] = { { "forward", "wait", true }, { "reverse", "issue", true },
        { "seed:5", "wait", true }, { "forward", "wait", false } };
    enum { RUNS = sizeof runs / sizeof *runs };
    const char *given = getenv("CONVJIT_TEST_KERNELS");
    int wanted = given ? atoi(given) : KERNELS, kernels = 0;
    rng r = { test_seed() };
    printf("seed %llu\n", (unsigned long long)r.state);
    char directory[] = "/tmp/convjit-test-XXXXXX", command[128];
    if (!mkdtemp(directory)) return 1;
    for (int i = 0; i < RUNS; i++) {
        setenv("CONVJIT_EMU_ORDER", runs[i].order, 1);
        setenv("CONVJIT_EMU_ASYNC", runs[i].async, 1);
        convjit_config config = { .size = sizeof config, .device = CONVJIT_EMU, .cache_dir = directory };
        convjit *cj = NULL;
        CHECK_OK(convjit_open(&cj, &config));
        if (!cj) break;
        for (int n = 0, draws = 0; n < wanted && draws < DRAWS * wanted; draws++) {
            int one = one_kernel(cj, &r, runs[i].exact);
            n += one, kernels += one;
        }
        convjit_close(cj);
    }
    CHECK_THAT(kernels == RUNS * wanted, "%d kernels; %d are wanted", kernels, RUNS * wanted);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (system(command) != 0) fprintf(stderr, "could not remove %s\n", directory);
    return check_done("emu/few_channels");
}
