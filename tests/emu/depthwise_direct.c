/* depthwise_direct.c: random depthwise problems on random parameters of `depthwise_direct`, most of them on integers, exactly, the
 * others on numbers with fractions; on the emulated device, in three thread orders. */
#include "family.h"

enum { KERNELS = 25, SIZES = 3 };

static void draw_thin(rng *r, convjit_problem *p)
{
    do draw_tuple(r, p);
    while (p->s * p->dil_w > 50 || p->r * p->dil_h > 60 || p->r * p->s > 100);
    p->groups = rng_chance(r, 50) ? 8 * rng_range(r, 1, 5) : rng_range(r, 2, 40);
    p->c = p->groups;
    p->k = p->groups * (rng_chance(r, 70) ? 1 : rng_range(r, 2, 3));
}

/* Parameters that are often possible; `check` refuses the others. */
static void draw_parameters(rng *r, const convjit_problem *p, char *text, size_t size)
{
    int64_t vec = p->math == CONVJIT_F32 || p->math == CONVJIT_TF32 ? ONE_OF(r, 4, 4, 8, 16) : ONE_OF(r, 2, 2, 4, 8, 16);
    snprintf(text, size, "depthwise_direct:tp=%d,tq=%d,lc=%d,lq=%d,lp=%d,vec=%d,wide=%d", (int)ONE_OF(r, 1, 2, 3, 4),
             (int)ONE_OF(r, 1, 2, 4, 5, 8), (int)ONE_OF(r, 1, 2, 3, 8), (int)ONE_OF(r, 1, 2, 5, 8),
             (int)ONE_OF(r, 1, 2, 3), (int)vec, (int)rng_chance(r, 20));
}

/* One kernel on several sizes, the last of which has numbers with fractions. */
static int one_kernel(convjit *cj, rng *r, bool exact)
{
    convjit_problem p;
    char schedule[256];
    draw_thin(r, &p);
    draw_parameters(r, &p, schedule, sizeof schedule);
    int64_t unit = p.layout == CONVJIT_NCHW ? atoi(strstr(schedule, "vec=") + 4) / (int64_t)convjit_element_size(p.math) : 1;
    for (int i = 0; i < SIZES; i++) {
        draw_sizes(r, &p, 60e3);
        p.w = (p.w + unit - 1) / unit * unit; /* as the kernel requires */
        if (!family_check(cj, r, &p, schedule, exact && i < SIZES - 1)) return 0;
    }
    return 1;
}

int main(void)
{
    static const family_mode modes[] = { { "forward", "wait", true }, { "reverse", "wait", true }, { "seed:3", "wait", true } };
    return family_main("emu/depthwise_direct", modes, sizeof modes / sizeof *modes, KERNELS, one_kernel);
}
