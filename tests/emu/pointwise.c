/* pointwise.c: random problems of 1x1 filters on random parameters of `pointwise`, exact on the emulated device in three thread
 * orders, copies at issue and as late as they may; and some on numbers with fractions. */
#include "family.h"

enum { KERNELS = 30, SIZES = 3, PLANE = 60 /* pixels of images that are fetched whole */ };

static void draw_pointwise(rng *r, convjit_problem *p)
{
    draw_tuple(r, p);
    p->r = p->s = 1;
    p->groups = p->layout == CONVJIT_NHWC && rng_chance(r, 25) ? rng_range(r, 2, 4) : 1;
    p->pad_top = p->pad_left = p->pad_bottom = p->pad_right = 0;
    p->c = p->groups * ONE_OF(r, 1, 2, 3, 8, 16, 20, 32, 33, 36, 40, 64, 65, 72, 128, 130, 200, 256);
    p->k = p->groups * ONE_OF(r, 1, 3, 4, 8, 16, 21, 32, 40, 64, 66, 96, 128, 150);
}

/* Parameters that are often possible; `check` refuses the others. */
static void draw_parameters(rng *r, const convjit_problem *p, char *text, size_t size)
{
    int64_t tk = 16 << rng_range(r, 0, 3), tp = 16 << rng_range(r, 0, 3);
    int64_t wk = tk / ONE_OF(r, 16, 32, 64), wp = tp / ONE_OF(r, 16, 32, 64);
    bool one = p->layout == CONVJIT_NCHW && rng_chance(r, 20) /* images are of one pixel */;
    bool nhwc = p->layout == CONVJIT_NHWC || one, wgmma = rng_chance(r, 40);
    if (wgmma) { /* warpgroups along the rows of the product */
        int64_t groups = rng_range(r, 1, 2), rows = 64 * groups * rng_range(r, 1, 2);
        if (nhwc || convjit_element_size(p->math) == 4) wk = 1, wp = 4 * groups, tp = rows;
        else wk = 4 * groups, wp = 1, tk = rows;
    }
    int images = !nhwc && rng_chance(r, 30) ? (int)rng_range(r, 1, 3) : 0;
    int split = rng_chance(r, 75) ? 1 : 1 << rng_range(r, 1, 3);
    snprintf(text, size, "pointwise:tk=%d,tp=%d,wk=%d,wp=%d,cb=%d,st=%d,pv=%d,hold=%d,wg=%d,sp=%d,ni=%d,pl=%d", (int)tk, (int)tp, (int)wk, (int)wp,
             (int)ONE_OF(r, 64, 128, 128), (int)rng_range(r, 2, 5),
             nhwc ? 1 : 1 << rng_range(r, 0, images ? 1 : convjit_element_size(p->math) == 2 ? 3 : 2), split == 1 && rng_chance(r, 50), wgmma, split, images,
             images ? PLANE : one);
}

/* Changes height and width to what the kernel requires. */
static void fit(rng *r, convjit_problem *p, const char *schedule)
{
    if (strstr(schedule, "ni=0,pl=1")) {
        p->h = p->w = 1, p->n = rng_range(r, 1, 200);
        return;
    }
    const int pv = atoi(strstr(schedule, "pv=") + 3), images = atoi(strstr(schedule, "ni=") + 3), tp = atoi(strstr(schedule, "tp=") + 3);
    if (images) {
        if (pv > 1) p->h = p->stride_h + 1; /* two rows of outputs */
        while (p->h > 1 && pv == 1 && (p->h * p->w > PLANE || images * convjit_problem_p(p) * convjit_problem_q(p) > tp)) p->h--;
        while (p->w > 1 && (p->h * p->w > PLANE || images * convjit_problem_p(p) * convjit_problem_q(p) > tp)) p->w--;
    }
    while (convjit_problem_p(p) * convjit_problem_q(p) % pv != 0) p->w++;
}

/* One kernel on several sizes: often no more than one tile, sometimes several. Returns 0 if it cannot be. */
static int one_kernel(convjit *cj, rng *r, bool exact)
{
    convjit_problem p;
    char schedule[256];
    draw_pointwise(r, &p);
    draw_parameters(r, &p, schedule, sizeof schedule);
    for (int i = 0; i < SIZES; i++) {
        draw_sizes(r, &p, i ? 300e3 : 60e3);
        if (rng_chance(r, 30)) p.n = rng_range(r, 2, 9);
        fit(r, &p, schedule);
        if (!family_check(cj, r, &p, schedule, exact)) return 0;
    }
    return 1;
}

int main(void)
{
    static const family_mode modes[] = { { "forward", "wait", true }, { "reverse", "issue", true }, { "seed:5", "wait", true },
                                         { "forward", "wait", false } };
    return family_main("emu/pointwise", modes, sizeof modes / sizeof *modes, KERNELS, one_kernel);
}
