/* grouped.c: random problems of groups of a few channels on random parameters of `grouped`, most of them on integers, exactly, the
 * others on numbers with fractions; on the emulated device, in three thread orders, copies at issue and as late as they may. */
#include "family.h"

enum { KERNELS = 25, SIZES = 3 };

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

/* One kernel on several sizes, the last of which has numbers with fractions. */
static int one_kernel(convjit *cj, rng *r, bool exact)
{
    convjit_problem p;
    char schedule[256];
    draw_grouped(r, &p);
    draw_parameters(r, &p, schedule, sizeof schedule);
    const char *vec = strstr(schedule, "vec=");
    for (int i = 0; i < SIZES; i++) {
        draw_sizes(r, &p, 60e3);
        while (p.w % atoi(vec + 4) != 0) p.w++; /* as the kernel requires */
        if (!family_check(cj, r, &p, schedule, exact && i < SIZES - 1)) return 0;
    }
    return 1;
}

int main(void)
{
    static const family_mode modes[] = { { "forward", "wait", true }, { "reverse", "issue", true }, { "seed:3", "wait", true } };
    return family_main("emu/grouped", modes, sizeof modes / sizeof *modes, KERNELS, one_kernel);
}
