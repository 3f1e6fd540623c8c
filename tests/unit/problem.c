/* problem.c: problem strings, benchdnn descriptors, and the checks of shapes. */
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include "check.h"
#include "internal.h"

static const char *canonical(const char *text)
{
    static char out[512];
    convjit_problem p;
    CHECK_OK(convjit_problem_parse(&p, text));
    convjit_problem_format(&p, out, sizeof out);
    return out;
}

static void test_canonical(void)
{
    static const char *const pairs[][2] = {
        {"n8c64h512w256k128r5s7", "n8c64h512w256k128r5s7"},
        {"n008c1h5w5k1r1s1", "n8c1h5w5k1r1s1"},
        {"n8c64h9w9k8r1s1_stride1_pad0_dil1_g1_f32_nchw", "n8c64h9w9k8r1s1"},
        {"n8c64h9w9k8r1s1_stride2x2_pad1x1_dil3x3", "n8c64h9w9k8r1s1_stride2_pad1_dil3"},
        {"n8c64h9w9k8r1s1_stride1x2_pad0x1_dil3x1", "n8c64h9w9k8r1s1_stride1x2_pad0x1_dil3x1"},
        {"n8c64h9w9k8r1s1_pad2x2x2x2", "n8c64h9w9k8r1s1_pad2"},
        {"n8c64h9w9k8r1s1_pad1x2x1x2", "n8c64h9w9k8r1s1_pad1x2"},
        {"n8c64h9w9k8r1s1_pad1x2x3x2", "n8c64h9w9k8r1s1_pad1x2x3x2"},
        {"n8c64h9w9k8r1s1_pad0x0x0x1", "n8c64h9w9k8r1s1_pad0x0x0x1"},
        {"n8c64h9w9k8r1s1_residual_gelu_bias_nhwc_bf16_g8_dil2_pad1_stride3",
         "n8c64h9w9k8r1s1_stride3_pad1_dil2_g8_bf16_nhwc_bias_gelu_residual"},
        {"n1c1h9w9k1r1s1_leaky_relu", "n1c1h9w9k1r1s1_leaky_relu"},
        {"n1c1h9w9k1r1s1_leaky_relu0.01", "n1c1h9w9k1r1s1_leaky_relu"},
        {"n1c1h9w9k1r1s1_leaky_relu0.20_tf32", "n1c1h9w9k1r1s1_tf32_leaky_relu0.2"},
        {"n1c1h9w9k1r1s1_leaky_relu-1e-7_bias", "n1c1h9w9k1r1s1_bias_leaky_relu-1e-7"},
        {"n1c1h9w9k1r1s1_clamp0x6", "n1c1h9w9k1r1s1_clamp0x6"},
        {"n1c1h9w9k1r1s1_clamp-1x1", "n1c1h9w9k1r1s1_clamp-1x1"},
        {"n1c1h9w9k1r1s1_clamp-.50x1e2", "n1c1h9w9k1r1s1_clamp-0.5x100"},
        {"n1c1h9w9k1r1s1_clamp3x3_f16", "n1c1h9w9k1r1s1_f16_clamp3x3"},
        {"n1c1h9w9k1r1s1_silu", "n1c1h9w9k1r1s1_silu"},
        {"n1c1h9w9k1r1s1_hardswish", "n1c1h9w9k1r1s1_hardswish"},
        {"n1c1h9w9k1r1s1_sigmoid", "n1c1h9w9k1r1s1_sigmoid"},
        {"n1c1h9w9k1r1s1_tanh", "n1c1h9w9k1r1s1_tanh"},
        {"n1c1h9w9k1r1s1_relu", "n1c1h9w9k1r1s1_relu"},
        {"n1c2h9w9k1r1s3_krsc_bias_nhwc", "n1c2h9w9k1r1s3_nhwc_krsc_bias"},
        {"n1c2h9w9k1r3s1_krsc", "n1c2h9w9k1r3s1_krsc"},
        {"n1c2h9w9k1r3s3_kcrs", "n1c2h9w9k1r3s3"},
        {"n1c4h9w9k2r1s1_krsc", "n1c4h9w9k2r1s1"},          /* one tap, or one channel a group: the same memory */
        {"n1c4h9w9k4r3s3_krsc_g4", "n1c4h9w9k4r3s3_g4"},
        {"n1c4h9w9k4r3s3_g2_krsc", "n1c4h9w9k4r3s3_g2_krsc"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        CHECK_THAT(strcmp(canonical(pairs[i][0]), pairs[i][1]) == 0, "%s became %s, expected %s", pairs[i][0],
                   canonical(pairs[i][0]), pairs[i][1]);
}

static void test_fields(void)
{
    convjit_problem p;
    CHECK_OK(convjit_problem_parse(
        &p, "n2c6h7w8k9r3s2_stride2x3_pad1x2x3x4_dil2x5_g3_bf16_nhwc_krsc_bias_clamp-1x2.5_residual"));
    CHECK_INT(p.size, sizeof p);
    CHECK(p.n == 2 && p.c == 6 && p.h == 7 && p.w == 8 && p.k == 9 && p.r == 3 && p.s == 2);
    CHECK(p.stride_h == 2 && p.stride_w == 3 && p.dil_h == 2 && p.dil_w == 5 && p.groups == 3);
    CHECK(p.pad_top == 1 && p.pad_left == 2 && p.pad_bottom == 3 && p.pad_right == 4);
    CHECK(p.math == CONVJIT_BF16 && p.layout == CONVJIT_NHWC && p.activation == CONVJIT_CLAMP);
    CHECK(p.weights_layout == CONVJIT_KRSC);
    CHECK(p.alpha == -1 && p.beta == 2.5f && p.bias == 1 && p.residual == 1);
    CHECK_INT(convjit_problem_p(&p), (7 + 1 + 3 - 2 * 2 - 1) / 2 + 1);
    CHECK_INT(convjit_problem_q(&p), (8 + 2 + 4 - 5 * 1 - 1) / 3 + 1);
    CHECK_INT(convjit_problem_elements(&p, CONVJIT_INPUT), 2 * 6 * 7 * 8);
    CHECK_INT(convjit_problem_elements(&p, CONVJIT_WEIGHTS), 9 * 2 * 3 * 2);
    CHECK_INT(convjit_problem_elements(&p, CONVJIT_BIAS), 9);
    CHECK_INT(convjit_problem_elements(&p, CONVJIT_OUTPUT), 2 * 9 * 4 * 3);
    CHECK_INT(convjit_problem_elements(&p, CONVJIT_RESIDUAL), 2 * 9 * 4 * 3);
    CHECK_INT(convjit_element_size(p.math), 2);
    CHECK_OK(convjit_problem_parse(&p, "n2c6h7w8k9r3s2"));
    CHECK_INT(convjit_problem_elements(&p, CONVJIT_BIAS), 0);
    CHECK_INT(convjit_problem_elements(&p, CONVJIT_RESIDUAL), 0);
    CHECK_INT(convjit_problem_elements(&p, CONVJIT_TENSOR_COUNT), 0);
    CHECK_INT(convjit_element_size(CONVJIT_TF32), 4);
    /* the output of a 1x1 convolution with exactly 2^31 elements */
    CHECK_OK(convjit_problem_parse(&p, "n16c64h1024w1024k128r1s1"));
    CHECK_INT(convjit_problem_elements(&p, CONVJIT_OUTPUT), 1LL << 31);
}

static void test_format_lengths(void)
{
    convjit_problem p;
    char text[64];
    static const char whole[] = "n2c6h7w8k9r3s2_stride2x3";
    CHECK_OK(convjit_problem_parse(&p, whole));
    CHECK_INT(convjit_problem_format(&p, NULL, 0), sizeof whole - 1);
    for (size_t capacity = 1; capacity <= sizeof whole; capacity++) {
        memset(text, '#', sizeof text);
        CHECK_INT(convjit_problem_format(&p, text, capacity), sizeof whole - 1);
        CHECK_INT(strlen(text), capacity - 1);
        CHECK(strncmp(text, whole, capacity - 1) == 0);
        CHECK_INT(text[capacity], '#');
    }
}

static void check_refused(const char *text, convjit_status status, const char *part)
{
    convjit_problem p, before;
    memset(&p, 0x77, sizeof p);
    before = p;
    convjit_status got = convjit_problem_parse(&p, text);
    CHECK_THAT(got == status && strstr(convjit_errmsg(), part), "\"%s\": got %s \"%s\", expected %s with \"%s\"", text,
               convjit_strstatus(got), convjit_errmsg(), convjit_strstatus(status), part);
    CHECK_THAT(memcmp(&p, &before, sizeof p) == 0, "\"%s\" changed the problem", text);
}

static void test_parse_errors(void)
{
    static const struct { const char *text, *part; } cases[] = {
        {"", "column 1: expected \"n\""},
        {" n1c1h1w1k1r1s1", "column 1: expected \"n\""},
        {"hello", "column 1: expected \"n\""},
        {"n1", "column 3: expected \"c\""},
        {"nc1", "column 2: expected a number for n"},
        {"n-1c1h1w1k1r1s1", "column 2: expected a number for n"},
        {"n+1c1h1w1k1r1s1", "column 2: expected a number for n"},
        {"n1c1h1w1k1r1", "column 13: expected \"s\""},
        {"n1h1c1w1k1r1s1", "column 3: expected \"c\""},
        {"n1c1h1w1k1r1s1x", "column 15: expected \"_\""},
        {"n1c1h1w1k1r1s1 ", "column 15: expected \"_\""},
        {"n1c1h1w1k1r1s1_", "column 16: expected a field"},
        {"n1c1h1w1k1r1s1__bias", "column 16: expected a field"},
        {"n1c1h1w1k1r1s1_fast", "not \"fast\""},
        {"n1c1h1w1k1r1s1_identity", "not \"identity\""},
        {"n1c1h1w1k1r1s1_f64", "not \"f64\""},
        {"n1c1h1w1k1r1s1_biased", "not \"biased\""},
        {"n1c1h1w1k1r1s1_gelu2", "not \"gelu2\""},
        {"n1c1h1w1k1r1s1_RELU", "not \"RELU\""},
        {"n1c1h1w1k1r1s1_bi\x01\xff", "not \"bi\?\?\""},
        {"n1c1h1w1k1r1s1_leaky", "not \"leaky\""},
        {"n1c1h1w1k1r1s1_leaky_", "not \"leaky_\""},
        {"n1c1h1w1k1r1s1_leaky__relu", "not \"leaky_\""},
        {"n1c1h1w1k1r1s1_stride", "column 22: expected a number for stride"},
        {"n1c1h1w1k1r1s1_stride1x", "column 24: expected a number for stride"},
        {"n1c1h1w1k1r1s1_stride1x2x3", "column 25: expected the end of stride, which has at most 2 numbers"},
        {"n1c1h1w1k1r1s1_pad1x2x3", "column 24: expected \"x\" and the fourth number"},
        {"n1c1h1w1k1r1s1_pad1x2x3x4x5", "column 26: expected the end of pad"},
        {"n1c1h1w1k1r1s1_pad-1", "column 19: expected a number for pad"},
        {"n1c1h1w1k1r1s1_dil2.5", "column 20: expected \"_\""},
        {"n1c1h1w1k1r1s1_g", "column 17: expected a number for g"},
        {"n1c1h1w1k1r1s1_g1x2", "column 18: expected the end of g, which has at most 1 number"},
        {"n1c1h1w1k1r1s1_leaky_reluu", "column 26: expected a finite number for leaky_relu's slope"},
        {"n1c1h1w1k1r1s1_leaky_relunan", "expected a finite number"},
        {"n1c1h1w1k1r1s1_leaky_relu1e39", "expected a finite number"},
        {"n1c1h1w1k1r1s1_clamp", "column 21: expected LOxHI"},
        {"n1c1h1w1k1r1s1_clamp1", "column 21: expected LOxHI"},
        {"n1c1h1w1k1r1s1_clampx1", "column 21: expected a finite number for clamp's lower bound"},
        {"n1c1h1w1k1r1s1_clamp1x", "column 23: expected a finite number for clamp's upper bound"},
        {"n1c1h1w1k1r1s1_clamp0xinf", "column 23: expected a finite number"},
        {"n1c1h1w1k1r1s1_clamp0x1x2", "column 23: expected a finite number"},
        {"n1c1h1w1k1r1s1_clamp0x1,5", "column 23: expected a finite number"},
        {"n1c1h1w1k1r1s1_bias_bias", "column 21: expected at most one bias, but \"bias\" comes after \"bias\""},
        {"n1c1h1w1k1r1s1_relu_gelu", "at most one activation, but \"gelu\" comes after \"relu\""},
        {"n1c1h1w1k1r1s1_clamp0x6_leaky_relu1", "but \"leaky_relu1\" comes after \"clamp0x6\""},
        {"n1c1h1w1k1r1s1_nchw_nhwc", "at most one layout, but \"nhwc\" comes after \"nchw\""},
        {"n1c1h1w1k1r1s1_krsc_kcrs", "at most one layout of the weights, but \"kcrs\" comes after \"krsc\""},
        {"n1c1h1w1k1r1s1_f16_g1_f32", "at most one math mode, but \"f32\" comes after \"f16\""},
        {"n1c1h1w1k1r1s1_stride1_stride2x3", "at most one stride, but \"stride2x3\" comes after \"stride1\""},
        {"n1c1h1w1k1r1s1_pad1_pad1", "at most one padding"},
        {"n1c1h1w1k1r1s1_dil1_dil1", "at most one dilation"},
        {"n1c1h1w1k1r1s1_g1_g1", "at most one number of groups"},
        {"n1c1h1w1k1r1s1_residual_residual", "at most one residual"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_refused(cases[i].text, CONVJIT_PARSE, cases[i].part);
    check_refused("n1c1h1w1k1r99999999999999999999s1", CONVJIT_INVALID,
                  "r \"99999999999999999999\" is above the limit");
    check_refused("n1c1h1w1k1r1s1_dil1x9223372036854775808", CONVJIT_INVALID, "dil \"9223372036854775808\" is above");
    convjit_problem p;
    CHECK_FAILS(convjit_problem_parse(NULL, "n1c1h1w1k1r1s1"), CONVJIT_INVALID, "problem is NULL");
    CHECK_FAILS(convjit_problem_parse(&p, NULL), CONVJIT_INVALID, "text is NULL");
    char *huge = malloc(100001); /* the message quotes only its beginning */
    CHECK(huge != NULL);
    memset(huge, 'n', 100000);
    huge[100000] = 0;
    CHECK_FAILS(convjit_problem_parse(&p, huge), CONVJIT_PARSE, "nnn...\"");
    CHECK(strlen(convjit_errmsg()) < 500);
    free(huge);
}

static void test_check_by_string(void)
{
    static const struct { const char *text, *part; } cases[] = {
        {"n0c1h1w1k1r1s1", "n 0 is below 1"},
        {"n1c1h1w1k1r0s1", "r 0 is below 1"},
        {"n1c1h1w1k1r1s0", "s 0 is below 1"},
        {"n1c1h4294967296w1k1r1s1", "h 4294967296 is above the limit 2147483647"},
        {"n2147483648c1h1w1k1r1s1", "n 2147483648 is above the limit 2147483647"},
        {"n1c1h1w1k1r1s1_stride0", "stride_h 0 is below 1"},
        {"n1c1h1w1k1r1s1_stride1x0", "stride_w 0 is below 1"},
        {"n1c1h1w1k1r1s1_dil0", "dil_h 0 is below 1"},
        {"n1c1h1w1k1r1s1_g0", "groups 0 is below 1"},
        {"n1c64h1w1k64r1s1_g3", "groups 3 does not divide c 64"},
        {"n1c63h1w1k64r1s1_g3", "groups 3 does not divide k 64"},
        {"n1c1h7w7k1r5s1_dil2x1", "filter: dil_h*(r-1)+1 = 9 is larger than the padded height 7"},
        {"n1c1h7w2k1r5s5_pad1", "filter: dil_w*(s-1)+1 = 5 is larger than the padded width 4"},
        {"n1c1h2147483647w1k1r1s1_pad1x0", "pad_top, pad_bottom: the padded height 2147483649 is above the limit"},
        {"n1c1h1w1k1r1s1_pad0x0x0x2147483647", "pad_left, pad_right: the padded width 2147483648 is above the limit"},
        {"n1c1h65536w65536k1r65536s32768", "r*s*(c/groups) = 65536*32768*1 is above the limit 2147483647"},
        {"n1c2097152h32w32k1r32s32", "r*s*(c/groups) = 32*32*2097152 is above the limit"},
        {"n1073741824c1073741824h1w1k1r1s1", "input: n*c*h*w elements have 2^62 bytes or more"}, /* 2^62 exactly */
        {"n2147483647c2147483647h1w1k1r1s1", "input: n*c*h*w elements have 2^62 bytes or more"},
        {"n2147483647c1h1w1k2147483647r1s1", "output: n*k*p*q elements have 2^62 bytes or more"},
        {"n1c2147483647h1w1k2147483647r1s1", "weights: k*(c/groups)*r*s elements have 2^62 bytes or more"},
        {"n2147483647c2147483647h2147483647w2147483647k1r1s1", "input: n*c*h*w"},
        {"n1c1h1w1k1r1s1_clamp1x0", "alpha 1 is above beta 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_refused(cases[i].text, CONVJIT_INVALID, cases[i].part);
    /* just inside each limit */
    CHECK_STR(canonical("n1c1h7w7k1r4s7_dil2x1"), "n1c1h7w7k1r4s7_dil2x1");
    CHECK_STR(canonical("n1c1h2147483647w1k1r1s1"), "n1c1h2147483647w1k1r1s1");
    CHECK_STR(canonical("n1c1h2147483645w1k1r1s1_pad1x0"), "n1c1h2147483645w1k1r1s1_pad1x0");
    CHECK_STR(canonical("n1c1h65535w32769k1r65535s32768"), "n1c1h65535w32769k1r65535s32768");
    CHECK_STR(canonical("n1c2147483647h1w1k536870912r1s1"), "n1c2147483647h1w1k536870912r1s1");
    check_refused("n1c2147483647h1w1k536870913r1s1", CONVJIT_INVALID, "weights");
    CHECK_STR(canonical("n1c2147483647h1w1k1073741824r1s1_f16"), "n1c2147483647h1w1k1073741824r1s1_f16");
}

/* Values that no string can express. */
static void test_check_by_struct(void)
{
#define REFUSED(change, part)                                                      \
    do {                                                                           \
        convjit_problem p;                                                         \
        convjit_problem_init(&p);                                                  \
        CHECK_OK(convjit_problem_check(&p));                                       \
        change;                                                                    \
        CHECK_FAILS(convjit_problem_check(&p), CONVJIT_INVALID, part);             \
    } while (0)
    REFUSED(p.c = -3, "c -3 is below 1");
    REFUSED(p.h = INT64_MIN, "h -9223372036854775808 is below 1");
    REFUSED(p.w = INT64_MAX, "w 9223372036854775807 is above the limit 2147483647");
    REFUSED(p.k = 0, "k 0 is below 1");
    REFUSED(p.stride_w = -1, "stride_w -1 is below 1");
    REFUSED(p.pad_top = -1, "pad_top -1 is below 0");
    REFUSED(p.pad_left = -1, "pad_left -1 is below 0");
    REFUSED(p.pad_bottom = INT64_MAX, "pad_bottom 9223372036854775807 is above");
    REFUSED(p.pad_right = -2, "pad_right -2 is below 0");
    REFUSED(p.dil_w = -1, "dil_w -1 is below 1");
    REFUSED(p.math = CONVJIT_MATH_COUNT, "math 4 is not between 0 and 3");
    REFUSED(p.layout = CONVJIT_LAYOUT_COUNT, "layout 2 is not between 0 and 1");
    REFUSED(p.weights_layout = CONVJIT_WEIGHTS_LAYOUT_COUNT, "weights_layout 2 is not between 0 and 1");
    REFUSED(p.activation = CONVJIT_ACTIVATION_COUNT, "activation 9 is not between 0 and 8");
    REFUSED(p.bias = 2, "bias 2 is not between 0 and 1");
    REFUSED(p.residual = -1, "residual -1 is not between 0 and 1");
    REFUSED(p.alpha = 1, "alpha 1 must be 0: identity has no parameter");
    REFUSED(p.alpha = NAN, "alpha nan must be 0");
    REFUSED(p.beta = 2, "beta 2 must be 0");
    REFUSED((p.activation = CONVJIT_LEAKY_RELU, p.beta = 1), "beta 1 must be 0");
    REFUSED((p.activation = CONVJIT_LEAKY_RELU, p.alpha = INFINITY), "alpha inf of leaky_relu is not finite");
    REFUSED((p.activation = CONVJIT_CLAMP, p.beta = NAN), "beta nan of clamp is not finite");
    REFUSED(p.size = 0, "size 0 is not that of a convjit_problem");
    REFUSED(p.size = sizeof p - 1, "set `size` to sizeof(convjit_problem)");
    REFUSED(p.size = (size_t)-1, "is not that of a convjit_problem");
#undef REFUSED
    CHECK_FAILS(convjit_problem_check(NULL), CONVJIT_INVALID, "convjit_problem is NULL");

    struct { convjit_problem p; char more[16]; } newer;
    memset(&newer, 0, sizeof newer);
    convjit_problem_init(&newer.p);
    newer.p.size = sizeof newer;
    CHECK_OK(convjit_problem_check(&newer.p));
    newer.more[15] = 1;
    CHECK_FAILS(convjit_problem_check(&newer.p), CONVJIT_INVALID, "size");
    CHECK_HAS(convjit_errmsg(), "is set, and this library knows only");
}

static uint64_t state = 42;

static int64_t pick(int64_t least, int64_t most)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return least + (int64_t)((state >> 33) % (uint64_t)(most - least + 1));
}

static float pick_float(void)
{
    uint32_t bits = (uint32_t)pick(0, 0x7FFFFFFF) * 2u + (uint32_t)pick(0, 1);
    float v;
    memcpy(&v, &bits, sizeof v);
    return isfinite(v) ? v : 0.5f;
}

static void pick_activation(convjit_problem *p)
{
    p->activation = (convjit_activation)pick(0, CONVJIT_ACTIVATION_COUNT - 1);
    if (p->activation == CONVJIT_LEAKY_RELU) {
        p->alpha = pick(0, 3) ? pick_float() : 0.01f;
    } else if (p->activation == CONVJIT_CLAMP) {
        float a = pick_float(), b = pick_float();
        p->alpha = a < b ? a : b;
        p->beta = a < b ? b : a;
    }
}

static void test_random_round_trips(void)
{
    for (int i = 0; i < 20000; i++) {
        convjit_problem p, q;
        convjit_problem_init(&p);
        p.groups = pick(1, 4);
        p.n = pick(1, 1000), p.c = p.groups * pick(1, 100), p.k = p.groups * pick(1, 100);
        p.r = pick(1, 9), p.s = pick(1, 9), p.dil_h = pick(1, 3), p.dil_w = pick(1, 3);
        p.h = pick(p.dil_h * (p.r - 1) + 1, 4096), p.w = pick(p.dil_w * (p.s - 1) + 1, 4096);
        p.stride_h = pick(1, 3), p.stride_w = pick(1, 3);
        p.pad_top = pick(0, 2), p.pad_left = pick(0, 2), p.pad_bottom = pick(0, 2), p.pad_right = pick(0, 2);
        p.math = (convjit_math)pick(0, CONVJIT_MATH_COUNT - 1);
        p.layout = (convjit_layout)pick(0, 1);
        p.weights_layout = (convjit_weights_layout)pick(0, 1);
        p.weights_layout = cj_weights_layout(&p);
        p.bias = (int)pick(0, 1), p.residual = (int)pick(0, 1);
        pick_activation(&p);
        char text[512], again[512];
        CHECK(convjit_problem_format(&p, text, sizeof text) < sizeof text);
        CHECK_OK(convjit_problem_parse(&q, text));
        CHECK_THAT(memcmp(&p, &q, sizeof p) == 0, "%s reads back as another problem", text);
        convjit_problem_format(&q, again, sizeof again);
        CHECK_STR(again, text);
    }
}

static void test_benchdnn(void)
{
    static const char *const pairs[][2] = {
        {"g32mb64_ic256ih56iw56_oc256oh56ow56_kh3kw3_sh1sw1_ph1pw1_dh0dw0_n\"name\"", "n64c256h56w56k256r3s3_pad1_g32"},
        {"g32mb64ic256ih56iw56oc256oh56ow56kh3kw3sh1sw1ph1pw1dh0dw0nresnext:conv_2*3",
         "n64c256h56w56k256r3s3_pad1_g32"},
        {"mb64_ic256ih56oc256oh28kh3sh2ph1", "n64c256h56w56k256r3s3_stride2_pad1"},
        {"ic3ih227iw227_oc96oh55ow55_kh11kw11_sh4sw4ph0pw0_n\"alexnet:conv1\"", "n2c3h227w227k96r11s11_stride4"},
        {"kh3kw5iw20ih10oc8ic4", "n2c4h10w20k8r3s5"},           /* any order */
        {"ic4ih10oc8kh3dh1", "n2c4h10w10k8r3s3_dil2"},            /* dilation counts from 0; square */
        {"ic4ih10iw10oc8kh3kw3dh1", "n2c4h10w10k8r3s3_dil2x1"},   /* both axes described: each has its own defaults */
        {"ic4ih10iw10oc8kh3kw3sh2", "n2c4h10w10k8r3s3_stride2x1"},
        {"ic4iw10oc8kw3pw1", "n2c4h1w10k8r1s3_pad0x1"},           /* a 1-D convolution */
        {"ic4ih10oh10oc8kh3", "n2c4h10w10k8r3s3_pad1"},           /* trivial padding */
        {"ic4ih10oh8oc8kh3", "n2c4h10w10k8r3s3"},                 /* ... of none */
        {"ic4ih10oh10oc8kh4", "n2c4h10w10k8r4s4_pad1x1x2x2"},     /* ... of which the smaller half is in front */
        {"ic4ih10oh6oc8kh2sh2ph1", "n2c4h10w10k8r2s2_stride2_pad1"},
        {"ic4ih10oh6oc8kh2sh2ph0", "n2c4h10w10k8r2s2_stride2_pad0x0x2x2"},
        {"ic4ih5oh1oc8kh7sh4ph0", "n2c4h5w5k8r7s7_stride4_pad0x0x2x2"},
        {"ic64ih56oc128oh28kh1sh2ph0", "n2c64h56w56k128r1s1_stride2"},  /* the last row is not read: nothing to pad */
        {"ic4ih7oc8oh2kh1sh4ph1", "n2c4h7w7k8r1s1_stride4_pad1x1x0x0"},
        {"ic4id1ih5oc4od1kd1kh3sd1pd0dd0", "n2c4h5w5k4r3s3"},
        {"ic1ih2147483647iw9oc1kh1kw9", "n2c1h2147483647w9k1r1s9"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        CHECK_THAT(strcmp(canonical(pairs[i][0]), pairs[i][1]) == 0, "%s became %s, expected %s", pairs[i][0],
                   canonical(pairs[i][0]), pairs[i][1]);
}

static void test_benchdnn_errors(void)
{
    static const struct { const char *text; convjit_status status; const char *part; } cases[] = {
        {"mb8", CONVJIT_PARSE, "column 4: expected ic"},
        {"mb8ic3", CONVJIT_PARSE, "expected oc"},
        {"ic3oc4", CONVJIT_PARSE, "expected ih and kh"},
        {"ic3oc4ih5", CONVJIT_PARSE, "expected kh"},
        {"ic3oc4kh5", CONVJIT_PARSE, "expected ih"},
        {"ic3oc4ih5kh3sw2", CONVJIT_PARSE, "expected iw"},
        {"ic3oc4ih5kh3iw5", CONVJIT_PARSE, "expected kw"},
        {"ic3oc4ih5kh", CONVJIT_PARSE, "column 12: expected a number for kh"},
        {"ic3oc4ih-5kh3", CONVJIT_PARSE, "column 9: expected a number for ih"},
        {"ic3oc4ih5kh3zz2", CONVJIT_PARSE, "column 13: expected a key"},
        {"ic3oc4ih5kh3_f16", CONVJIT_PARSE, "column 14: expected a key"},
        {"ic3oc4ih5kh3ih6", CONVJIT_PARSE, "column 13: ih is given twice"},
        {"ic0oc4ih5kh3", CONVJIT_INVALID, "ic 0 is below 1"},
        {"ic3oc4ih5kh3sh0", CONVJIT_INVALID, "sh 0 is below 1"},
        {"ic3oc4ih99999999999999999999kh3", CONVJIT_INVALID, "ih is above the limit 2147483647"},
        {"ic3oc4id2ih5kh3", CONVJIT_INVALID, "id 2 is not 1"},
        {"ic3oc4ih5kh3kd3", CONVJIT_INVALID, "kd 3 is not 1"},
        {"ic3oc4ih5kh3pd1", CONVJIT_INVALID, "pd 1 is not 0"},
        {"ic3oc4ih5oh3kh3ph1", CONVJIT_INVALID, "oh 3 needs a padding of -1 behind"},
        {"ic3oc4ih57oh19kh1sh3", CONVJIT_INVALID, "oh 19 needs a padding of -1 in front"},
        {"g3ic4oc6ih5kh3", CONVJIT_INVALID, "groups 3 does not divide c 4"},
        {"ic3oc4ih5kh7", CONVJIT_INVALID, "filter: dil_h*(r-1)+1 = 7"},
        {"ic3oc4ih2147483647oh2147483647kh2147483647sh2147483647", CONVJIT_INVALID, "is above the limit"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_refused(cases[i].text, cases[i].status, cases[i].part);
    CHECK(cj_is_benchdnn("g9") && cj_is_benchdnn("mb8_") && cj_is_benchdnn("ic3") && cj_is_benchdnn("dw0"));
    CHECK(!cj_is_benchdnn("n1c1") && !cj_is_benchdnn("") && !cj_is_benchdnn("g") && !cj_is_benchdnn("gelu"));
    CHECK(!cj_is_benchdnn("ic") && !cj_is_benchdnn("k3"));
}

static void test_names(void)
{
    CHECK_STR(cj_math_name(CONVJIT_TF32), "tf32");
    CHECK_STR(cj_layout_name(CONVJIT_NHWC), "nhwc");
    CHECK_STR(cj_activation_name(CONVJIT_IDENTITY), "identity");
    CHECK_STR(cj_math_name(CONVJIT_MATH_COUNT), "unknown");
    CHECK_STR(cj_layout_name(CONVJIT_LAYOUT_COUNT), "unknown");
    CHECK_STR(cj_weights_layout_name(CONVJIT_KRSC), "krsc");
    CHECK_STR(cj_weights_layout_name(CONVJIT_WEIGHTS_LAYOUT_COUNT), "unknown");
    CHECK_STR(cj_activation_name(CONVJIT_ACTIVATION_COUNT), "unknown");
}

/* With a decimal comma in force, if this machine has such a locale. */
static void test_locale(void)
{
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "nl_NL.UTF-8"};
    for (size_t i = 0; i < sizeof names / sizeof *names && !setlocale(LC_ALL, names[i]); i++)
        ;
    CHECK_STR(canonical("n1c1h9w9k1r1s1_clamp-0.125x1.5"), "n1c1h9w9k1r1s1_clamp-0.125x1.5");
    setlocale(LC_ALL, "C");
}

int main(void)
{
    test_canonical();
    test_fields();
    test_format_lengths();
    test_parse_errors();
    test_check_by_string();
    test_check_by_struct();
    test_random_round_trips();
    test_benchdnn();
    test_benchdnn_errors();
    test_names();
    test_locale();
    return check_done("problem");
}
