/* gemm.c: random problems of 1x1 filters on random parameters of `gemm`, exact on the emulated device in three thread orders, copies
 * at issue and as late as they may; and some on numbers with fractions. */
#include "family.h"

enum { KERNELS = 20, SIZES = 3 };

static void draw_gemm(rng *r, convjit_problem *p)
{
    draw_tuple(r, p);
    p->r = p->s = p->groups = 1;
    p->pad_top = p->pad_left = p->pad_bottom = p->pad_right = 0;
    p->c = ONE_OF(r, 8, 16, 32, 40, 64, 72, 128, 136, 200, 256, 328);
    p->k = p->layout == CONVJIT_NCHW ? ONE_OF(r, 1, 3, 8, 21, 32, 40, 64, 130) : ONE_OF(r, 8, 16, 32, 40, 64, 136, 200);
    if (p->math == CONVJIT_F32 && p->c < 32) p->c += 32;
}

/* Parameters that are often possible; `check` refuses the others. */
static void draw_parameters(rng *r, const convjit_problem *p, char *text, size_t size)
{
    int hold = rng_chance(r, 50), one = p->layout == CONVJIT_NCHW && p->k % 8 == 0 && rng_chance(r, 30);
    int pairs = p->layout == CONVJIT_NCHW && !one && p->stride_h * p->stride_w == 1 && convjit_element_size(p->math) == 2 && rng_chance(r, 50);
    int flat = p->stride_h * p->stride_w == 1, boxed = p->layout == CONVJIT_NCHW && !one && !flat; /* inputs are boxes of planes */
    int piece = boxed ? 1 << (int)rng_range(r, 0, 2) : pairs ? 4 : 0;
    int bq = flat ? 64 : boxed ? 8 * (int)rng_range(r, 1, 4) : (int)rng_range(r, 1, 9);
    int bp = flat ? 1 : (int)rng_range(r, 1, 5), bn = flat || boxed ? 1 : (int)rng_range(r, 1, 3);
    snprintf(text, size, "gemm:tk=%d,st=%d,bq=%d,bp=%d,bn=%d,hold=%d,one=%d,pairs=%d,piece=%d", (int)ONE_OF(r, 32, 64, 128, 192, 256), (int)rng_range(r, 2, 6), bq, bp,
             bn, hold, one, pairs, piece);
}

/* Changes sizes to what the kernel requires. */
static void fit(rng *r, convjit_problem *p, const char *schedule)
{
    if (strstr(schedule, "one=1")) p->h = p->w = 1, p->n = rng_range(r, 1, 300);
    else if (p->layout == CONVJIT_NCHW && !strstr(schedule, "piece=0") && p->stride_h * p->stride_w > 1)
        p->w = p->stride_w * rng_range(r, 1, 3) * 8; /* and Q is a multiple of 8 */
    else if (strstr(schedule, "pairs=1")) p->w = (p->w + 3) / 4 * 4;
    else if (p->layout == CONVJIT_NCHW) p->w = (p->w + 7) / 8 * 8;
}

/* One kernel on several sizes: often no more than one tile, sometimes several. Returns 0 if it cannot be. */
static int one_kernel(convjit *cj, rng *r, bool exact)
{
    convjit_problem p;
    char schedule[256];
    draw_gemm(r, &p);
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
    return family_main("emu/gemm", modes, sizeof modes / sizeof *modes, KERNELS, one_kernel);
}
