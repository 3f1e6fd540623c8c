/* few_channels.c: random problems of 1 to 16 input channels on random parameters of `few_channels`, exact on the emulated device in
 * three thread orders, asynchronous operations at issue and as late as they may; and some on numbers with fractions. */
#include "family.h"

enum { KERNELS = 45, SIZES = 3 };

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
    if (rng_chance(r, 15)) p->stride_w = 4;   /* windows of up to 3 floats a pixel are packed */
}

/* Parameters that are often possible; the schedule refuses the others. */
static void draw_parameters(rng *r, const convjit_problem *p, char *text, size_t size)
{
    int64_t tk = (p->k + 7) / 8 * 8, mi = rng_chance(r, 30) ? 2 : 1, columns = 64 * mi, nq = 0;
    while (tk > 256 || (tk > 8 && rng_chance(r, 30))) tk = (tk / 2 + 7) / 8 * 8;
    if (p->layout == CONVJIT_NCHW && rng_chance(r, 60)) {
        tk = 64 * mi * rng_range(r, 1, 2);
        columns = nq = 8 * rng_range(r, 1, rng_chance(r, 30) ? 32 : 16);
    }
    snprintf(text, size, "few_channels:tk=%d,tp=%d,tq=%d,mi=%d,wg=%d,lg=%d,nq=%d", (int)tk, (int)rng_range(r, 1, 9),
             (int)(columns * rng_range(r, 1, 2)), (int)mi, (int)rng_range(r, 2, 3), (int)rng_range(r, 1, 2), (int)nq);
}

/* One kernel on several sizes: often no more than one tile, sometimes several. Returns 0 if it cannot be. */
static int one_kernel(convjit *cj, rng *r, bool exact)
{
    convjit_problem p;
    char schedule[256];
    draw_few_channels(r, &p);
    draw_parameters(r, &p, schedule, sizeof schedule);
    for (int i = 0; i < SIZES; i++) {
        draw_sizes(r, &p, 60e3);
        if (rng_chance(r, 40)) p.w += rng_range(r, 40, 180) * p.stride_w;
        if (!family_check(cj, r, &p, schedule, exact)) return 0;
    }
    return 1;
}

int main(void)
{
    static const family_mode modes[] = { { "forward", "wait", true }, { "reverse", "issue", true }, { "seed:5", "wait", true },
                                         { "forward", "wait", false } };
    return family_main("emu/few_channels", modes, sizeof modes / sizeof *modes, KERNELS, one_kernel);
}
