/* reference.c (test): storage conversions, the data, and that the checker finds what is wrong and nothing else. */
#include <math.h>
#include <stdlib.h>
#include "check.h"
#include "internal.h"

/* ---- Storage types ---- */

/* Nearest of all finite numbers of a 16-bit type, ties to even, by trying both neighbours: slow and obvious. */
static uint16_t nearest(float (*widen)(uint16_t), uint16_t below, float f)
{
    double low = (double)widen(below), high = (double)widen((uint16_t)(below + 1)), v = (double)f;
    if (v - low != high - v)
        return v - low < high - v ? below : (uint16_t)(below + 1);
    return below & 1 ? (uint16_t)(below + 1) : below;
}

static void check_narrowing(const char *name, float (*widen)(uint16_t), uint16_t (*narrow)(float), uint16_t infinity)
{
    int wrong_back = 0, wrong_between = 0;
    for (unsigned h = 0; h < infinity; h++) {
        float at = widen((uint16_t)h), next = h + 1 < infinity ? widen((uint16_t)(h + 1)) : 0;
        wrong_back += narrow(at) != h || narrow(-at) != (h | 0x8000);
        for (int i = 1; i < 8 && next > 0; i++) {
            float f = (float)((double)at + ((double)next - (double)at) * i / 8);
            wrong_between += narrow(f) != nearest(widen, (uint16_t)h, f);
        }
    }
    CHECK_THAT(wrong_back == 0, "%s: %d numbers do not come back", name, wrong_back);
    CHECK_THAT(wrong_between == 0, "%s: %d numbers round wrongly", name, wrong_between);
    CHECK_INT(narrow(INFINITY), infinity);
    CHECK_INT(narrow(-INFINITY), infinity | 0x8000);
    CHECK(isinf(widen(infinity)) && isnan(widen((uint16_t)(infinity + 1))));
    CHECK(isnan(widen(narrow(NAN))));
}

static void test_storage(void)
{
    check_narrowing("f16", cj_f16_to_f32, cj_f32_to_f16, 0x7c00);
    check_narrowing("bf16", cj_bf16_to_f32, cj_f32_to_bf16, 0x7f80);
    CHECK_INT(cj_f32_to_f16(65519.99f), 0x7bff);
    CHECK_INT(cj_f32_to_f16(65520.0f), 0x7c00);
    CHECK_INT(cj_f32_to_f16(0x1p-25f), 0);
    CHECK_INT(cj_f32_to_f16(0x1.8p-25f), 1);
}

/* ---- Tensors ---- */

typedef struct data { convjit_problem p; convjit_tensors t; void *tensor[CONVJIT_TENSOR_COUNT]; } data;

static float get(const data *d, convjit_tensor which, int64_t i)
{
    const void *at = d->tensor[which];
    return d->p.math == CONVJIT_F16    ? cj_f16_to_f32(((const uint16_t *)at)[i])
           : d->p.math == CONVJIT_BF16 ? cj_bf16_to_f32(((const uint16_t *)at)[i])
                                       : ((const float *)at)[i];
}

static void put(const data *d, int64_t i, double v)
{
    void *y = d->tensor[CONVJIT_OUTPUT];
    if (d->p.math == CONVJIT_F16)
        ((uint16_t *)y)[i] = cj_f32_to_f16((float)v);
    else if (d->p.math == CONVJIT_BF16)
        ((uint16_t *)y)[i] = cj_f32_to_bf16((float)v);
    else
        ((float *)y)[i] = (float)v;
}

static data make(const char *text, bool exact, uint64_t seed)
{
    data d = { 0 };
    convjit_status status = convjit_problem_parse(&d.p, text);
    CHECK_THAT(status == CONVJIT_OK, "%s: %s", text, convjit_errmsg());
    for (int i = 0; i < CONVJIT_TENSOR_COUNT; i++) {
        d.tensor[i] = malloc((size_t)convjit_problem_elements(&d.p, i) * convjit_element_size(d.p.math) + 1);
        if (i != CONVJIT_OUTPUT && convjit_problem_elements(&d.p, i) > 0)
            cj_reference_fill(&d.p, i, exact, seed, d.tensor[i]);
    }
    d.t = (convjit_tensors){ .size = sizeof d.t, .input = d.tensor[0], .weights = d.tensor[1], .bias = d.tensor[2],
                             .residual = d.tensor[3], .output = d.tensor[4] };
    return d;
}

static void drop(data *d)
{
    for (int i = 0; i < CONVJIT_TENSOR_COUNT; i++)
        free(d->tensor[i]);
}

static int64_t index4(const convjit_problem *p, int64_t n, int64_t c, int64_t h, int64_t w, int64_t C, int64_t H, int64_t W)
{
    return p->layout == CONVJIT_NHWC ? ((n * H + h) * W + w) * C + c : ((n * C + c) * H + h) * W + w;
}

/* The definition in convjit.h, one loop a letter. */
static double pixel(const data *d, int64_t n, int64_t k, int64_t i, int64_t j, double *magnitude)
{
    const convjit_problem *p = &d->p;
    int64_t cg = p->c / p->groups, first = k / (p->k / p->groups) * cg;
    double sum = p->bias ? (double)get(d, CONVJIT_BIAS, k) : 0;
    *magnitude = fabs(sum);
    for (int64_t c = 0; c < cg; c++)
        for (int64_t r = 0; r < p->r; r++)
            for (int64_t s = 0; s < p->s; s++) {
                int64_t h = i * p->stride_h + r * p->dil_h - p->pad_top, w = j * p->stride_w + s * p->dil_w - p->pad_left;
                if (h < 0 || h >= p->h || w < 0 || w >= p->w)
                    continue;
                double x = (double)get(d, CONVJIT_INPUT, index4(p, n, first + c, h, w, p->c, p->h, p->w));
                int64_t at = p->weights_layout == CONVJIT_KRSC ? ((k * p->r + r) * p->s + s) * cg + c
                                                               : ((k * cg + c) * p->r + r) * p->s + s;
                double product = x * (double)get(d, CONVJIT_WEIGHTS, at);
                sum += product;
                *magnitude += fabs(product);
            }
    return sum;
}

static double activated(const convjit_problem *p, double v)
{
    switch (p->activation) {
    case CONVJIT_RELU: return v > 0 ? v : 0;
    case CONVJIT_LEAKY_RELU: return v >= 0 ? v : (double)(p->alpha * (float)v);
    case CONVJIT_SILU: return v / (1 + exp(-v));
    case CONVJIT_GELU: return 0.5 * v * (1 + erf(v / sqrt(2)));
    case CONVJIT_HARDSWISH: return v <= -3 ? 0 : v >= 3 ? v : v * (v + 3) / 6;
    case CONVJIT_SIGMOID: return 1 / (1 + exp(-v));
    case CONVJIT_TANH: return tanh(v);
    case CONVJIT_CLAMP: return v < (double)p->alpha ? (double)p->alpha : v > (double)p->beta ? (double)p->beta : v;
    default: return v;
    }
}

/* Fills y with the right answer; returns the largest sum of |x*w| and addends of any output. */
static double compute(const data *d)
{
    const convjit_problem *p = &d->p;
    int64_t P = convjit_problem_p(p), Q = convjit_problem_q(p);
    double largest = 0, magnitude;
    for (int64_t n = 0; n < p->n; n++)
        for (int64_t k = 0; k < p->k; k++)
            for (int64_t i = 0; i < P; i++)
                for (int64_t j = 0; j < Q; j++) {
                    int64_t at = index4(p, n, k, i, j, p->k, P, Q);
                    double residual = p->residual ? (double)get(d, CONVJIT_RESIDUAL, at) : 0;
                    double v = activated(p, pixel(d, n, k, i, j, &magnitude));
                    put(d, at, (double)((float)v + (float)residual));
                    largest = fmax(largest, magnitude + fabs(residual));
                }
    return largest;
}

/* ---- The checker ---- */

static const char *const problems[] = {
    "n2c4h9w11k6r3s3",
    "n1c3h7w70k5r5s7_pad2x3_bias",
    "n2c6h8w9k4r3s2_stride2x3_pad1x0x2x3_dil2x1_g2_nhwc_bias_relu_residual",
    "n1c8h6w6k16r3s3_pad1_g8_f16_silu",
    "n2c10h8w9k4r3s2_stride1x2_pad1_dil1x2_g2_krsc_bias",
    "n1c16h5w20k8r2s5_pad0x4_f16_nhwc_krsc",
    "n3c5h1w1k7r1s1_bf16_bias_leaky_relu0.1_residual",
    "n1c2h3w3k2r3s3_pad5_tf32_gelu",
    "n1c16h5w40k8r2s9_pad0x4_f16_nhwc_bias_clamp-3x7",
    "n2c64h4w33k32r3s3_pad1_bf16_residual",
    "n1c2h2w2k3r2s2_stride5x7_pad4x9_dil3_hardswish",
    "n1c4h6w5k4r2s2_sigmoid_bf16_nhwc",
    "n1c4h6w5k4r2s2_bias_tanh",
};
enum { N_PROBLEMS = sizeof problems / sizeof *problems };

static void test_right_answers(void)
{
    for (int i = 0; i < 2 * N_PROBLEMS; i++) {
        bool exact = i % 2;
        data d = make(problems[i / 2], exact, (uint64_t)i);
        cj_check full = { 0 }, sampled = { 0 };
        double largest = compute(&d);
        CHECK_OK(cj_reference_check(&d.p, &d.t, exact, 0, 1, &full));
        CHECK_THAT(full.wrong == 0, "%s exact=%d: %s", problems[i / 2], exact, full.first);
        CHECK_INT(full.of, convjit_problem_elements(&d.p, CONVJIT_OUTPUT));
        CHECK_OK(cj_reference_check(&d.p, &d.t, exact, 1, 1, &sampled));
        CHECK_THAT(sampled.wrong == 0 && sampled.of > 0 && sampled.of <= full.of, "%s: %s", problems[i / 2], sampled.first);
        if (exact) {
            double limit = d.p.math == CONVJIT_BF16 ? 0x1p8 : d.p.math == CONVJIT_F16 ? 0x1p11 : 0x1p24;
            CHECK_THAT(largest <= limit && largest > 0, "%s: sums reach %g", problems[i / 2], largest);
        }
        drop(&d);
    }
}

/* Each element in turn is made wrong by little; all are found, one at a time, with their place. */
static void test_wrong_answers(void)
{
    for (int i = 0; i < 2 * N_PROBLEMS; i++) {
        bool exact = i % 2;
        data d = make(problems[i / 2], exact, 7);
        compute(&d);
        int64_t elements = convjit_problem_elements(&d.p, CONVJIT_OUTPUT), missed = 0;
        for (int64_t e = 0; e < elements; e += elements > 500 ? 97 : 1) {
            float right = get(&d, CONVJIT_OUTPUT, e);
            cj_check found = { 0 };
            put(&d, e, (double)right + (exact ? 0.015 + fabs((double)right) / 100 : 0.25 + fabs((double)right) / 10));
            CHECK_OK(cj_reference_check(&d.p, &d.t, exact, 0, 1, &found));
            missed += found.wrong != 1 || !found.first[0];
            put(&d, e, NAN);
            CHECK_OK(cj_reference_check(&d.p, &d.t, exact, 0, 1, &found));
            missed += found.wrong != 1;
            put(&d, e, (double)right);
        }
        CHECK_THAT(missed == 0, "%s exact=%d: %lld wrong elements missed", problems[i / 2], exact, (long long)missed);
        drop(&d);
    }
}

static void test_place(void)
{
    data d = make("n2c2h6w7k3r2s2_nhwc", true, 3);
    compute(&d);
    cj_check found;
    for (int64_t k = 2; k >= 1; k--)
        put(&d, index4(&d.p, 1, k, 2, 5, 3, 5, 6), 1000);
    CHECK_OK(cj_reference_check(&d.p, &d.t, true, 0, 1, &found));
    CHECK_INT(found.wrong, 2);
    CHECK_HAS(found.first, "n=1 k=1 p=2 q=5: 1000, expected ");
    drop(&d);
}

/* However small the budget, the corners of (n, k, p) are looked at, and a larger one looks at more. */
static void test_samples(void)
{
    data d = make("n3c8h20w24k9r3s3", true, 5);
    compute(&d);
    for (int corner = 0; corner < 8; corner++) {
        int64_t at = index4(&d.p, corner & 1 ? 2 : 0, corner & 2 ? 8 : 0, corner & 4 ? 17 : 0, 11, 9, 18, 22);
        float right = get(&d, CONVJIT_OUTPUT, at);
        cj_check found;
        put(&d, at, (double)right + 1);
        CHECK_OK(cj_reference_check(&d.p, &d.t, true, 1, (uint64_t)corner, &found));
        CHECK_INT(found.wrong, 1);
        put(&d, at, (double)right);
    }
    cj_check few, many;
    CHECK_OK(cj_reference_check(&d.p, &d.t, true, 10 * 22 * 72, 1, &few));
    CHECK_OK(cj_reference_check(&d.p, &d.t, true, 100 * 22 * 72, 1, &many));
    CHECK_THAT(few.of >= 10 * 22 && few.of <= 18 * 22, "%llu elements", (unsigned long long)few.of);
    CHECK_THAT(many.of >= 95 * 22 && many.of <= 108 * 22, "%llu elements", (unsigned long long)many.of);
    drop(&d);
}

/* With too few taps for all positions, the filters of a group together still use every one. */
static void test_coverage(void)
{
    data d = make("n1c64h3w3k96r3s3_g2_bf16", true, 11);
    static int used[2][32 * 9];
    int most = 0, missed = 0, zero_inputs = 0;
    for (int64_t k = 0; k < 96; k++) {
        int taps = 0;
        for (int64_t i = 0; i < 32 * 9; i++) {
            bool is = get(&d, CONVJIT_WEIGHTS, k * 32 * 9 + i) != 0;
            taps += is;
            used[k / 48][i] += is;
        }
        most = taps > most ? taps : most;
    }
    for (int i = 0; i < 2 * 32 * 9; i++)
        missed += used[i / (32 * 9)][i % (32 * 9)] == 0;
    for (int64_t i = 0; i < 64 * 9; i++)
        zero_inputs += get(&d, CONVJIT_INPUT, i) == 0;
    CHECK_INT(most, 20); /* 20 taps * 4 * 3 + 2 * 8 = 256 */
    CHECK_INT(missed, 0);
    CHECK_INT(zero_inputs, 0);
    drop(&d);
}

/* Either rounding of alpha*v + residual is right, a third number is not. */
static void test_contraction(void)
{
    data d = make("n1c1h1w1k1r1s1_leaky_relu0.1_residual", true, 0);
    cj_check found;
    *(float *)d.tensor[0] = -3;
    *(float *)d.tensor[1] = 1;
    *(float *)d.tensor[3] = 7;
    float separate = 0.1f * -3 + 7.0f, fused = fmaf(0.1f, -3, 7);
    float answers[] = { separate, fused, nextafterf(fmaxf(separate, fused), 100) };
    for (int i = 0; i < 3; i++) {
        *(float *)d.tensor[4] = answers[i];
        CHECK_OK(cj_reference_check(&d.p, &d.t, true, 0, 1, &found));
        CHECK_INT(found.wrong, i == 2);
    }
    drop(&d);
}

/* The bound on random data is of the size that the derivation says: what is far inside passes, what is outside does not. */
static void test_bound(void)
{
    data d = make("n1c100h1w1k1r1s1_tf32", false, 1);
    for (int i = 0; i < 100; i++)
        ((float *)d.tensor[0])[i] = ((float *)d.tensor[1])[i] = 1;
    static const struct { double y; int wrong; } cases[] = { { 100.09, 0 }, { 99.91, 0 }, { 100.11, 1 }, { 99.89, 1 } };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cj_check found;
        *(float *)d.tensor[4] = (float)cases[i].y;
        CHECK_OK(cj_reference_check(&d.p, &d.t, false, 0, 1, &found));
        CHECK_INT(found.wrong, cases[i].wrong);
    }
    drop(&d);
    d = make("n1c100h1w1k1r1s1_f16", false, 1);
    for (int i = 0; i < 100; i++)
        ((uint16_t *)d.tensor[0])[i] = ((uint16_t *)d.tensor[1])[i] = cj_f32_to_f16(64);
    cj_check found;
    *(uint16_t *)d.tensor[4] = cj_f32_to_f16(INFINITY); /* 409600 is beyond f16 */
    CHECK_OK(cj_reference_check(&d.p, &d.t, false, 0, 1, &found));
    CHECK_INT(found.wrong, 0);
    *(uint16_t *)d.tensor[4] = cj_f32_to_f16(-INFINITY);
    CHECK_OK(cj_reference_check(&d.p, &d.t, false, 0, 1, &found));
    CHECK_INT(found.wrong, 1);
    drop(&d);
}

/* Rows that no address space holds are an error, not a crash. */
static void test_no_memory(void)
{
    convjit_problem p;
    CHECK_OK(convjit_problem_parse(&p, "n1c1h1w1k1r1000s1_pad999x0x999x2147483646_stride999x2147483647"));
    float x = 1, w[1000] = { 1 }, y[9] = { 1 };
    convjit_tensors t = { .size = sizeof t, .input = &x, .weights = w, .output = y };
    cj_check found;
    CHECK_FAILS(cj_reference_check(&p, &t, true, 0, 1, &found), CONVJIT_NO_MEMORY, "no memory for the reference");
}

static void test_determinism(void)
{
    data a = make("n2c8h40w300k64r3s3_f16_bias", false, 42), b = make("n2c8h40w300k64r3s3_f16_bias", false, 42);
    data c = make("n2c8h40w300k64r3s3_f16_bias", false, 43);
    for (int i = 0; i < 3; i++) {
        size_t bytes = (size_t)convjit_problem_elements(&a.p, i) * 2;
        CHECK(memcmp(a.tensor[i], b.tensor[i], bytes) == 0);
        CHECK(memcmp(a.tensor[i], c.tensor[i], bytes) != 0);
    }
    double sum = 0, squares = 0;
    int64_t n = convjit_problem_elements(&a.p, CONVJIT_INPUT);
    for (int64_t i = 0; i < n; i++) {
        double v = (double)get(&a, CONVJIT_INPUT, i);
        sum += v;
        squares += v * v;
    }
    CHECK_THAT(fabs(sum / (double)n) < 0.01, "mean %g", sum / (double)n);
    CHECK_THAT(fabs(squares / (double)n - 1) < 0.02, "variance %g", squares / (double)n);
    drop(&a);
    drop(&b);
    drop(&c);
}

int main(void)
{
    test_storage();
    test_right_answers();
    test_wrong_answers();
    test_place();
    test_samples();
    test_coverage();
    test_contraction();
    test_bound();
    test_no_memory();
    test_determinism();
    return check_done("reference");
}
