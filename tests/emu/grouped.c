/* grouped.c: random problems of groups of a few channels on random parameters of `grouped`, most of them on integers, exactly, the
 * others on numbers with fractions; on the emulated device, in three thread orders, copies at issue and as late as they may. */
#include "differential.h"

enum { KERNELS = 25, SIZES = 3, DRAWS = 200 };

static void draw_grouped(rng *r, convjit_problem *p)
{
    static const int64_t channels[] = { 2, 2, 3, 4, 4, 5, 7, 8, 8, 8, 11, 12, 16, 16, 20, 24, 32, 48, 64 };
    enum { CHANNELS = sizeof channels / sizeof *channels };
    draw_tuple(r, p);
    int64_t c = channels[rng_range(r, 0, CHANNELS - 1)], k = channels[rng_range(r, 0, CHANNELS - 1)];
    if (rng_chance(r, 50)) k = c;
    p->groups = rng_range(r, 2, c + k > 64 ? 3 : 12);
    p->c = c * p->groups;
    p->k = k * p->groups;
    if (p->r * p->s > 60) p->r = 3;
    if (p->s > 12) p->s = 2;
}

static int64_t one_of(rng *r, const int64_t *values, int n) { return values[rng_range(r, 0, n - 1)]; }
#define ONE_OF(r, ...) one_of(r, (const int64_t[]){ __VA_ARGS__ }, (int)(sizeof((const int64_t[]){ __VA_ARGS__ }) / sizeof(int64_t)))

/* Parameters that are often possible; `check` refuses the others. */
static void draw_parameters(rng *r, const convjit_problem *p, char *text, size_t size)
{
    int64_t most = (p->k / p->groups + 7) / 8, kt = rng_chance(r, 70) ? most : rng_range(r, 1, most);
    int64_t gt = ONE_OF(r, 1, 1, 2, 3, 4, 8), gw = gt % 4 == 0 ? ONE_OF(r, 1, 2, 4, 4) : gt == 2 ? rng_range(r, 1, 2) : 1;
    int64_t mt = ONE_OF(r, 1, 2, 2, 3, 4, 7);
    snprintf(text, size, "grouped:gt=%d,kt=%d,gw=%d,nt=%d,mt=%d,rt=%d,tn=%d,tp=%d,tq=%d,warps=%d,vec=%d,stages=%d,wide=%d",
             (int)gt, (int)kt, (int)gw,
             (int)(kt % 4 == 0 ? ONE_OF(r, 1, 2, 4) : kt % 2 == 0 ? 2 : kt % 3 == 0 ? 3 : 1),
             (int)mt, (int)(rng_chance(r, 60) ? p->r : 1), (int)ONE_OF(r, 1, 1, 2, 3), (int)(mt * rng_range(r, 1, 3)),
             (int)ONE_OF(r, 2, 4, 7, 8, 8, 14, 16, 56), (int)ONE_OF(r, 1, 4, 8),
             p->layout == CONVJIT_NHWC ? 1 : (int)ONE_OF(r, 1, 1, 2, 4, 8), (int)rng_range(r, 1, 2), (int)rng_chance(r, 20));
}

/* One kernel on several sizes. Returns 0 if the parameters are none for the tuple. */
static int one_kernel(convjit *cj, rng *r)
{
    convjit_problem p;
    char schedule[256], text[512];
    draw_grouped(r, &p);
    draw_parameters(r, &p, schedule, sizeof schedule);
    const char *vec = strstr(schedule, "vec=");
    for (int i = 0; i < SIZES; i++) {
        draw_sizes(r, &p, 60e3);
        while (p.w % atoi(vec + 4) != 0) p.w++; /* as the kernel requires */
        char used[256] = "";
        cj_check result = { 0 };
        convjit_status s = run_problem(cj, &p, schedule, i < SIZES - 1, rng_next(r), 0, &result, used);
        if (s == CONVJIT_INVALID && strstr(convjit_errmsg(), "schedule grouped")) return 0;
        convjit_problem_format(&p, text, sizeof text);
        CHECK_THAT(!s && result.wrong == 0 && result.of > 0, "%s %s: %s; %llu wrong of %llu: %s", text, schedule,
                   s ? convjit_errmsg() : "ran", (unsigned long long)result.wrong, (unsigned long long)result.of, result.first);
    }
    return 1;
}

int main(void)
{
    static const char *const orders[] = { "forward", "reverse", "seed:3" }, *const async[] = { "wait", "issue", "wait" };
    const char *given = getenv("CONVJIT_TEST_KERNELS");
    int wanted = given ? atoi(given) : KERNELS;
    rng r = { test_seed() };
    printf("seed %llu\n", (unsigned long long)r.state);
    char directory[] = "/tmp/convjit-test-XXXXXX", command[128];
    if (!mkdtemp(directory)) return 1;
    int kernels = 0;
    for (int i = 0; i < 3; i++) {
        setenv("CONVJIT_EMU_ORDER", orders[i], 1);
        setenv("CONVJIT_EMU_ASYNC", async[i], 1);
        convjit_config config = { .size = sizeof config, .device = CONVJIT_EMU, .cache_dir = directory };
        convjit *cj = NULL;
        CHECK_OK(convjit_open(&cj, &config));
        if (!cj) break;
        for (int n = 0, draws = 0; n < wanted && draws < DRAWS * wanted; draws++) {
            int one = one_kernel(cj, &r);
            n += one, kernels += one;
        }
        convjit_close(cj);
    }
    CHECK_THAT(kernels == 3 * wanted, "%d kernels; %d are wanted", kernels, 3 * wanted);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (system(command) != 0) fprintf(stderr, "could not remove %s\n", directory);
    return check_done("emu/grouped");
}
