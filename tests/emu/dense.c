/* dense.c: the schedule `wgmma` on the emulated device, every way it can go: strips, lines and rectangles, one image or several, boxes
 * of pixels and of planes, stages and turns, channels shared by a cluster; all types and layouts; bit for bit on images of random, mostly odd sizes. */
#include "differential.h"

/* Tuples are written with a small image, whose size the test replaces; it draws the layout of the weights. */
static const struct dense {
    const char *tuple, *schedule;
    int unit, widest;   /* unless 0: W must be a multiple, H even; the widest image */
} kernels[] = {
    /* strips of columns, of one image and of several, in boxes and not */
    { "n1c40h1w1k70r3s3_pad1_f16_nhwc_bias_relu", "wgmma:wm=2,tp=9,sq=2,ni=1,cb=128,lw=0,split=1,box=0", 0, 0 },
    { "n1c80h1w1k130r3s3_pad1_bf16_nhwc_residual", "wgmma:wm=2,tp=7,sq=1,ni=2,cb=128,lw=0,split=1,box=1", 0, 0 },
    { "n1c80h1w1k33r3s2_pad2x0x1x3_bf16_residual_silu", "wgmma:wm=1,tp=6,sq=2,ni=2,cb=128,lw=0,split=1,box=0", 0, 0 },
    { "n1c20h9w9k61r5s3_pad2x1_dil2_f16_nhwc_bias", "wgmma:wm=1,tp=12,sq=2,ni=1,cb=64,lw=0,split=1,box=1", 0, 0 },
    { "n1c72h1w1k65r3s3_stride2x3_pad1_tf32", "wgmma:wm=2,tp=5,sq=1,ni=1,cb=128,lw=0,split=1,box=1", 0, 0 },
    { "n1c33h1w1k64r3s3_pad1_bias_gelu", "wgmma:wm=1,tp=4,sq=2,ni=1,cb=128,lw=0,split=1,box=0", 0, 0 },
    /* pixels counted along lines: shared padding, none, slabs of wide images, phases of a stride, images of every second row */
    { "n1c72h1w1k70r3s3_pad1_f16_nhwc_bias_clamp-2x6", "wgmma:wm=2,tp=7,sq=2,ni=1,cb=128,lw=16,split=1,box=0", 0, 0 },
    { "n1c40h1w1k33r3s3_pad1_f16", "wgmma:wm=1,tp=9,sq=2,ni=1,cb=128,lw=16,split=1,box=0", 0, 0 },
    { "n1c40h1w1k36r4s3_pad2x0x1x3_bf16_hardswish_residual", "wgmma:wm=1,tp=11,sq=1,ni=1,cb=128,lw=24,split=1,box=0", 0, 0 },
    { "n1c72h1w1k40r3s5_stride2x1_pad1x3_tf32_residual", "wgmma:wm=1,tp=7,sq=2,ni=1,cb=128,lw=24,split=1,box=0", 0, 0 },
    { "n1c96h1w1k48r3s3_stride2_pad1_f16_nhwc", "wgmma:wm=1,tp=8,sq=2,ni=1,cb=64,lw=24,split=1,box=0", 0, 0 },
    { "n1c72h9w9k70r3s2_pad5x3x7x2_dil4x3_bf16_bias", "wgmma:wm=2,tp=9,sq=2,ni=1,cb=64,lw=16,split=1,box=0", 0, 0 },
    { "n1c40h9w9k36r3s5_stride1x2_pad1x3_dil2_nhwc_bias_tanh", "wgmma:wm=1,tp=5,sq=2,ni=1,cb=128,lw=24,split=1,box=0", 0, 0 },
    /* rectangles: of boxes of pixels, of planes, of whole lines of planes; stored in runs and as boxes */
    { "n1c40h1w1k33r3s3_pad1_f16", "wgmma:wm=1,tp=19,sq=1,ni=1,cb=128,lw=20,split=1,box=1", 0, 0 },
    { "n1c72h1w1k70r3s3_pad1_bf16_bias_leaky_relu", "wgmma:wm=2,tp=11,sq=1,ni=1,cb=128,lw=18,split=1,box=1", 8, 0 },
    { "n1c72h1w1k66r3s3_stride2_pad1_tf32_bias_gelu", "wgmma:wm=1,tp=9,sq=2,ni=1,cb=64,lw=12,split=1,box=1", 0, 0 },
    { "n1c20h1w1k70r3s3_pad1_f16_bias_relu", "wgmma:wm=2,tp=17,sq=1,ni=1,cb=64,lw=18,split=1,box=2", 8, 0 },
    { "n1c76h1w1k40r3s5_stride1x2_pad1x3_bf16_residual", "wgmma:wm=1,tp=8,sq=2,ni=1,cb=64,lw=16,split=1,box=2", 8, 0 },
    { "n1c36h1w1k68r3s2_pad5x3x7x2_dil4x3_tf32", "wgmma:wm=2,tp=13,sq=1,ni=1,cb=128,lw=14,split=1,box=2", 4, 0 },
    { "n1c40h1w1k130r3s3_pad1_tf32_clamp-2x6", "wgmma:wm=2,tp=17,sq=1,ni=1,cb=128,lw=18,split=1,box=2", 4, 0 },
    { "n1c72h1w1k33r3s3_pad1_residual_silu", "wgmma:wm=1,tp=7,sq=2,ni=1,cb=128,lw=14,split=1,box=2", 4, 0 },
    { "n1c40h1w1k70r3s3_pad1_bias", "wgmma:wm=1,tp=5,sq=2,ni=1,cb=128,lw=14,split=1,box=2", 4, 0 },
    { "n1c72h1w1k70r3s3_pad1_f16", "wgmma:wm=2,tp=21,sq=1,ni=1,cb=128,lw=32,split=1,box=3", 4, 28 },
    { "n1c40h1w1k36r3s3_stride2_pad1_tf32_bias", "wgmma:wm=1,tp=3,sq=2,ni=1,cb=64,lw=12,split=1,box=3", 4, 20 },
    { "n1c36h1w1k36r4s3_pad2x0x1x3_hardswish", "wgmma:wm=1,tp=9,sq=2,ni=1,cb=128,lw=32,split=1,box=3", 4, 28 },
    { "n1c17h1w1k16r7s1_pad6x0_bias_gelu", "wgmma:wm=1,tp=2,sq=2,ni=1,cb=128,lw=12,split=1,box=3", 4, 8 },   /* less staged than a pass could be */
    /* channels shared by the blocks of a cluster */
    { "n1c200h1w1k130r3s3_pad1_f16_nhwc_residual", "wgmma:wm=2,tp=9,sq=1,ni=2,cb=128,lw=0,split=3,box=1", 0, 0 },
    { "n1c200h1w1k67r3s3_pad1_f16_bias_silu", "wgmma:wm=1,tp=5,sq=2,ni=1,cb=128,lw=24,split=2,box=0", 0, 0 },
    { "n1c130h1w1k66r3s3_pad1_bias", "wgmma:wm=2,tp=9,sq=1,ni=1,cb=128,lw=24,split=4,box=0", 0, 0 },
    { "n1c200h1w1k67r3s1_pad1x0_tf32_nhwc_leaky_relu", "wgmma:wm=1,tp=9,sq=2,ni=1,cb=128,lw=24,split=7,box=0", 0, 0 },
};
enum { KERNELS = sizeof kernels / sizeof *kernels, SIZES = 2 };

static void run_sizes(convjit *cj, const struct dense *kernel, rng *r)
{
    const char *tuple = kernel->tuple, *schedule = kernel->schedule;
    convjit_problem p;
    CHECK_OK(convjit_problem_parse(&p, tuple));
    p.weights_layout = rng_chance(r, 50) ? CONVJIT_KRSC : CONVJIT_KCRS;
    int64_t least_h = p.dil_h * (p.r - 1) + 1 - p.pad_top - p.pad_bottom, least_w = p.dil_w * (p.s - 1) + 1 - p.pad_left - p.pad_right;
    for (int i = 0; i < SIZES; i++) {
        p.n = rng_range(r, 1, 3);
        p.h = (least_h > 1 ? least_h : 1) + rng_range(r, 0, 14);
        p.w = (least_w > 1 ? least_w : 1) + rng_range(r, 0, i == 0 ? 60 : 17);
        if (kernel->unit) p.w = (p.w + kernel->unit - 1) / kernel->unit * kernel->unit, p.h += p.h % 2;
        if (kernel->widest && p.w > kernel->widest) p.w = kernel->widest;
        char used[256] = "";
        cj_check result = { 0 };
        convjit_status s = run_problem(cj, &p, schedule, true, rng_next(r), 0, &result, used);
        CHECK_THAT(s == CONVJIT_OK && result.wrong == 0 && result.of > 0, "n%dh%dw%d of %s, %s, %s: %s; %llu wrong: %s", (int)p.n, (int)p.h,
                   (int)p.w, tuple, cj_weights_layout_name(p.weights_layout), schedule, s ? convjit_errmsg() : "ran", (unsigned long long)result.wrong, result.first);
    }
}

int main(void)
{
    static const char *const orders[] = { "forward", "reverse", "seed:11" };
    char directory[] = "/tmp/convjit-test-XXXXXX", command[128];
    if (!mkdtemp(directory)) return 1;
    uint64_t seed = test_seed();
    rng r = { seed };
    for (int order = 0; order < 3; order++) {
        setenv("CONVJIT_EMU_ORDER", orders[order], 1);
        convjit_config config = { .size = sizeof config, .device = CONVJIT_EMU, .cache_dir = directory };
        convjit *cj = NULL;
        CHECK_OK(convjit_open(&cj, &config));
        for (int i = order; cj && i < KERNELS; i += order ? 3 : 1) run_sizes(cj, &kernels[i], &r);
        convjit_close(cj);
    }
    if (check_failed) fprintf(stderr, "CONVJIT_TEST_SEED=%llu draws the same sizes\n", (unsigned long long)seed);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (system(command) != 0) fprintf(stderr, "could not remove %s\n", directory);
    return check_done("emu-dense");
}
