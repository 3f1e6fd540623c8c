/* differential.c: a GPU against the reference: 3,000 random problems of all kinds, 2,000 dense ones on tensor cores and every
 * corner with integer data, bit for bit; random data against float64 within the bound that runtime/reference.c derives.
 * usage: differential [TUPLES [SCHEDULE...]]     four problems a tuple; 750 tuples if not given. Fewer than 100 leave the
 * corners and the dense ones out. With schedules, only these run, by turns, each on tuples that it is for: two small problems
 * a tuple, on one thread, as compute-sanitizer wants it. */
#include "differential.h"

static const char *const small_corners[] = {
    "n1c3h5w5k7r5s5",                           /* 1x1 output */
    "n1c1h1w1k1r1s1",
    "n2c5h4w4k6r3s3_pad5",                      /* padding larger than the filter: outputs that touch no input */
    "n1c4h9w2k5r3s7_pad1x4",                    /* W < S */
    "n2c3h1w1k4r3s3_pad1",
    "n2c37h13w11k41r3s3_pad1",                  /* prime C and K */
    "n1c97h7w7k89r1s1",
    "n3c6h17w19k9r4s2_stride3x2_pad0x1x2x3_dil2x1_g3",
    "n2c64h11w13k192r3s3_pad1_g64",             /* depthwise with a multiplier */
    "n2c193h9w9k193r5s5_pad2_g193",             /* a prime number of groups */
    "n1c2h40w40k3r31s31_pad15",
    "n1c1h220w230k2r200s210",                   /* a filter of 42,000 taps */
    "n1c3h3w14000k3r1s1400_dil9x10",            /* a patch that no shared memory holds */
    "n1c2h4100w30k2r2s2_dil4000x3",
    "n1c3h600w600k4r3s3_stride257x129_pad1",
    "n50000c1h2w2k1r2s2",                       /* more images than gridDim.y or z could count */
    "n1c3h4w4k70001r1s1",
    "n1c12000h2w2k3r1s1",
    "n1c512h7w7k64r3s3_pad1",                   /* few outputs: a split reduction */
};

/* Sizes at and beyond 2^31 elements; rows are sampled. */
static const char *const large_corners[] = {
    "n16c64h1024w1024k128r1s1",                 /* an output of exactly 2^31 elements */
    "n16c64h1024w1024k128r1s1_f16_nhwc_bias_relu",
    "n1c1h46500w46500k1r3s3_pad1_f16",          /* an image of more than 2^31 */
    "n1c3h27000w27000k1r1s1_bf16_nhwc",
    "n36c64h1024w1024k2r3s3_stride2_pad1_bf16", /* an input of more than 2^31, images below */
};

static void run_corner(convjit *cj, const char *text, int math, int layout, uint64_t seed)
{
    convjit_problem p;
    CHECK_OK(convjit_problem_parse(&p, text));
    if (math >= 0) p.math = (convjit_math)math, p.layout = (convjit_layout)layout;
    cj_check result = { 0 };
    char used[256] = "", name[512];
    convjit_problem_format(&p, name, sizeof name);
    convjit_status s = run_problem(cj, &p, NULL, true, seed, 3000000000u, &result, used);
    CHECK_THAT(s == CONVJIT_OK && result.wrong == 0 && result.of > 0, "%s %s: %s; %llu wrong of %llu: %s", name, used,
               s ? convjit_errmsg() : "ran", (unsigned long long)result.wrong, (unsigned long long)result.of, result.first);
}

static void run_corners(convjit *cj, uint64_t seed)
{
    enum { SMALL = sizeof small_corners / sizeof *small_corners, LARGE = sizeof large_corners / sizeof *large_corners };
    for (int i = 0; i < SMALL; i++)
        for (int math = 0; math < CONVJIT_MATH_COUNT; math++)
            for (int layout = 0; layout < CONVJIT_LAYOUT_COUNT; layout++)
                run_corner(cj, small_corners[i], math, layout, seed + (uint64_t)i);
    for (int i = 0; i < LARGE; i++) run_corner(cj, large_corners[i], -1, 0, seed + (uint64_t)i);
    printf("%d corners in every dtype and layout, %d of 2^31 elements and more\n", SMALL, LARGE);
}

/* Everything: fractions in a fifth as many tuples as integers, dense problems in two thirds as many. */
static void run_all(const campaign *like)
{
    static const char *const dense_schedules[] = { "wgmma", "mma" };
    campaign exact = *like, random = *like, dense = *like;
    campaign_run(&exact);
    random.seed++, random.tuples = like->tuples / 5 + 1, random.exact = false;
    campaign_run(&random);
    if (like->tuples < 100) return;
    dense.seed += 2, dense.tuples = like->tuples * 2 / 3, dense.macs *= 8; /* several tiles of many channels */
    dense.schedules = dense_schedules, dense.n_schedules = sizeof dense_schedules / sizeof *dense_schedules;
    campaign_run(&dense);
    run_corners(like->cj, like->seed);
}

int main(int argc, char **argv)
{
    convjit_config config = { .size = sizeof config, .device = CONVJIT_GPU, .cache_dir = "" };
    convjit *cj = NULL;
    CHECK_OK(convjit_open(&cj, &config));
    if (!cj) return check_done("gpu-differential");
    campaign c = { .cj = cj, .arch = "sm_90a", .seed = test_seed(), .tuples = argc > 1 ? atoi(argv[1]) : 750, .sizes = 4,
                   .macs = 30e6, .exact = true, .threads = (int)sysconf(_SC_NPROCESSORS_ONLN) };
    if (argc > 2) {
        c.schedules = (const char *const *)argv + 2, c.n_schedules = argc - 2;
        c.sizes = 2, c.macs = 1e6, c.threads = 1;
        campaign_run(&c);
    } else {
        run_all(&c);
    }
    convjit_close(cj);
    return check_done("gpu-differential");
}
