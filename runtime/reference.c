/* reference.c: convolution on the CPU in double precision, and the data to check kernels with.
 *
 * Two kinds of data, and what counts as wrong with each:
 *
 * Exact data. Small integers with a bound on the sum of |x*w| of every output, so that FP32 sums are exact in any order,
 * with any split and with any product precision that holds small integers. One right answer is left, and a single wrong
 * index shows. With identity, relu, clamp and leaky_relu the comparison is for equality with the FP32 epilogue rounded to
 * the storage type (leaky_relu followed by a residual may be one FMA or two operations: either result is right). The other
 * activations go through exp, erf or a division, which compilers are free to approximate: they get the bound below, in
 * which all terms but the epilogue's are zero.
 *
 * Random data. With v the exact sum plus bias, M = sum |x*w| + |bias|, n = C/groups * R * S + 1 terms, an element is wrong if
 *
 *     |y - ref| > L * (e_in + e_acc) * M  +  e_act  +  2^-24 * (|act| + |residual|) +  e_out
 *
 *   e_in   0 for f32, and for f16 and bf16, whose inputs are stored as they are multiplied. tf32 rounds both factors to
 *          10 bits of mantissa: (1 + 2^-11)^2 - 1 = 2^-10 + 2^-22.
 *   e_acc  Whatever the order, each of the n terms takes part in at most n roundings: n*u / (1 - n*u). FP32 FMAs round to
 *          nearest, u = 2^-24. Tensor cores align the terms of one instruction to the largest and cut off what falls below
 *          its last place: each term and the accumulator lose up to 2^-23 of M, so that two such losses for each term,
 *          u = 2^-22, cover instructions of any depth.
 *   L      the activation's Lipschitz constant: an error of v becomes at most L times as large.
 *   e_act  the activation's own evaluation: 2e-6 relative, and 5e-7 * max(1, |v|) because forms like 1 + erf(v) cancel.
 *          0 for the piecewise linear ones.
 *   e_out  rounding to the storage type: half a unit in the last place of (|ref| + all of the above).
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "internal.h"

/* ---- Storage types ---- */

static uint32_t bits_of(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

static float float_of(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

float cj_f16_to_f32(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, magnitude = h & 0x7fff;
    if (magnitude >= 0x7c00)
        return float_of(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
    if (magnitude < 0x400) { /* subnormal or zero: units of 2^-24 */
        float f = (float)magnitude * 0x1p-24f;
        return sign ? -f : f;
    }
    return float_of(sign | ((magnitude << 13) + ((127 - 15) << 23)));
}

uint16_t cj_f32_to_f16(float f)
{
    uint32_t u = bits_of(f), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
    if (magnitude > 0x7f800000)
        return (uint16_t)(sign | 0x7e00);
    if (magnitude >= 0x477ff000) /* 65520, halfway to the first number that is too large, rounds to infinity */
        return (uint16_t)(sign | 0x7c00);
    if (magnitude < 0x38800000) { /* below 2^-14: adding 0.5 rounds to units of 2^-24, to nearest even */
        float shifted = float_of(magnitude) + 0.5f;
        return (uint16_t)(sign | (bits_of(shifted) - bits_of(0.5f)));
    }
    magnitude += 0xfff + (magnitude >> 13 & 1); /* to nearest even at bit 13 */
    return (uint16_t)(sign | ((magnitude - ((127 - 15) << 23)) >> 13));
}

float cj_bf16_to_f32(uint16_t h)
{
    return float_of((uint32_t)h << 16);
}

uint16_t cj_f32_to_bf16(float f)
{
    uint32_t u = bits_of(f);
    if ((u & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static float load(convjit_math math, const void *tensor, int64_t i)
{
    switch (math) {
    case CONVJIT_F16: return cj_f16_to_f32(((const uint16_t *)tensor)[i]);
    case CONVJIT_BF16: return cj_bf16_to_f32(((const uint16_t *)tensor)[i]);
    default: return ((const float *)tensor)[i];
    }
}

static void store(convjit_math math, void *tensor, int64_t i, float v)
{
    switch (math) {
    case CONVJIT_F16: ((uint16_t *)tensor)[i] = cj_f32_to_f16(v); break;
    case CONVJIT_BF16: ((uint16_t *)tensor)[i] = cj_f32_to_bf16(v); break;
    default: ((float *)tensor)[i] = v;
    }
}

static float rounded(convjit_math math, float v)
{
    switch (math) {
    case CONVJIT_F16: return cj_f16_to_f32(cj_f32_to_f16(v));
    case CONVJIT_BF16: return cj_bf16_to_f32(cj_f32_to_bf16(v));
    default: return v;
    }
}

/* ---- Threads ---- */

enum { MAX_WORKERS = 256 };

/* Runs worker(shared) on as many threads as this process has cores, this one included, and waits for all. A thread that
 * cannot be had is done without: workers take their work from a common counter. */
static void run_workers(void *(*worker)(void *), void *shared)
{
    pthread_t threads[MAX_WORKERS];
    cpu_set_t set;
    int cores = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    int started = 0;
    while (started < cores - 1 && started < MAX_WORKERS &&
           pthread_create(&threads[started], NULL, worker, shared) == 0)
        started++;
    worker(shared);
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
}

/* ---- Data ---- */

/* A well-mixed 64-bit number for each (seed, counter): the finaliser of splitmix64. */
static uint64_t mix(uint64_t seed, uint64_t counter)
{
    uint64_t z = seed * 0xd1342543de82ef95u + counter * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* About normal: the sum of four uniform numbers, with mean 0 and variance 1. */
static float normal_like(uint64_t random)
{
    int64_t sum = 0;
    for (int i = 0; i < 4; i++)
        sum += (int64_t)(random >> 16 * i & 0xffff);
    return (float)((double)(sum - 2 * 65535) * (1.7320508075688772 / 65536));
}

/* -limit .. limit without 0 */
static float small_integer(uint64_t random, int limit)
{
    int v = (int)(random % (unsigned)limit) + 1;
    return (float)(random >> 63 ? -v : v);
}

enum { X_LIMIT = 4, W_LIMIT = 3, ADDEND_LIMIT = 8 }; /* largest exact input, weight, and bias or residual */

/* Largest integer up to which every integer is exact in the storage type: the bound on every exact output. */
static int64_t exact_limit(convjit_math math)
{
    return math == CONVJIT_BF16 ? 1 << 8 : math == CONVJIT_F16 ? 1 << 11 : 1 << 24;
}

static int64_t filter_size(const convjit_problem *p)
{
    return p->c / p->groups * p->r * p->s;
}

typedef struct fill {
    const convjit_problem *problem;
    convjit_tensor which;
    bool exact;
    uint64_t seed;
    void *host;
    int64_t elements, unit; /* elements of the tensor, and of one piece of work: for weights, one filter */
    float scale;            /* of random values */
    _Atomic int64_t next;
} fill;

static int64_t common_divisor(int64_t a, int64_t b)
{
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* An exact filter: at most `taps` of its `size` weights are not zero, so that sum |x*w| is bounded. The filters of a group
 * walk the positions in one long stride that is prime to the size, each starting where the one before it stopped: no
 * position is left out as long as the group has enough filters, and the seed moves the start. */
static void fill_exact_filter(const fill *f, int64_t k)
{
    const convjit_problem *p = f->problem;
    int64_t size = filter_size(p);
    int64_t taps = (exact_limit(p->math) - 2 * ADDEND_LIMIT) / (X_LIMIT * W_LIMIT);
    if (taps > size)
        taps = size;
    int64_t stride = size * 5 / 8 + 1;
    while (common_divisor(stride, size) != 1)
        stride++;
    size_t element = convjit_element_size(p->math);
    memset((char *)f->host + (size_t)(k * size) * element, 0, (size_t)size * element);
    uint64_t step = (uint64_t)(k % (p->k / p->groups)) * (uint64_t)taps + f->seed % (uint64_t)size;
    uint64_t position = (uint64_t)((unsigned __int128)step * (uint64_t)stride % (uint64_t)size);
    for (int64_t i = 0; i < taps; i++) {
        int64_t at = k * size + (int64_t)position;
        store(p->math, f->host, at, small_integer(mix(f->seed, (uint64_t)at), W_LIMIT));
        position = (position + (uint64_t)stride) % (uint64_t)size;
    }
}

static void fill_range(const fill *f, int64_t first, int64_t last)
{
    convjit_math math = f->problem->math;
    int limit = f->which == CONVJIT_INPUT ? X_LIMIT : ADDEND_LIMIT;
    for (int64_t i = first; i < last; i++) {
        uint64_t random = mix(f->seed, (uint64_t)i);
        store(math, f->host, i, f->exact ? small_integer(random, limit) : f->scale * normal_like(random));
    }
}

static void *fill_worker(void *argument)
{
    fill *f = argument;
    for (;;) {
        int64_t first = atomic_fetch_add(&f->next, f->unit);
        if (first >= f->elements)
            return NULL;
        if (f->exact && f->which == CONVJIT_WEIGHTS)
            fill_exact_filter(f, first / f->unit);
        else
            fill_range(f, first, first + f->unit < f->elements ? first + f->unit : f->elements);
    }
}

void cj_reference_fill(const convjit_problem *p, convjit_tensor which, bool exact, uint64_t seed, void *host)
{
    bool filters = exact && which == CONVJIT_WEIGHTS;
    fill f = {
        .problem = p, .which = which, .exact = exact, .host = host,
        .seed = mix(seed, (uint64_t)which + 1),
        .elements = convjit_problem_elements(p, which),
        .unit = filters ? filter_size(p) : 1 << 16,
        .scale = which == CONVJIT_WEIGHTS ? (float)(1 / sqrt((double)filter_size(p))) : 1.0f, /* outputs of order 1 */
    };
    if (f.elements <= f.unit)
        fill_worker(&f);
    else
        run_workers(fill_worker, &f);
}

/* ---- Sums of products ---- */

/* Rows of outputs are computed in blocks of this many doubles, held in registers while all taps of a channel are added. */
enum { BLOCK = 16, LANES = 4, VECTORS = BLOCK / LANES };
typedef double vector __attribute__((vector_size(8 * LANES), aligned(8), may_alias));
typedef int64_t vector_bits __attribute__((vector_size(8 * LANES), aligned(8), may_alias));

typedef struct tap { const double *x; double w; } tap; /* x: the input of output 0; that of output q lies q further */

/* sum[q] += w * x[q] for all taps and q < length, a multiple of BLOCK */
static inline __attribute__((always_inline)) void sum_body(double *sum, int64_t length, const tap *taps, int64_t n_taps)
{
    for (int64_t q = 0; q < length; q += BLOCK) {
        vector acc[VECTORS];
        for (int v = 0; v < VECTORS; v++)
            acc[v] = *(const vector *)(sum + q + v * LANES);
        for (int64_t t = 0; t < n_taps; t++)
            for (int v = 0; v < VECTORS; v++)
                acc[v] += taps[t].w * *(const vector *)(taps[t].x + q + v * LANES);
        for (int v = 0; v < VECTORS; v++)
            *(vector *)(sum + q + v * LANES) = acc[v];
    }
}

/* The same, and magnitude[q] += |w * x[q]| */
static inline __attribute__((always_inline)) void both_body(double *sum, double *magnitude, int64_t length,
                                                            const tap *taps, int64_t n_taps)
{
    enum { HALF = VECTORS / 2 }; /* two accumulators for each output: half a block fits the registers */
    for (int64_t q = 0; q < length; q += BLOCK / 2) {
        vector acc[HALF], mag[HALF];
        for (int v = 0; v < HALF; v++) {
            acc[v] = *(const vector *)(sum + q + v * LANES);
            mag[v] = *(const vector *)(magnitude + q + v * LANES);
        }
        for (int64_t t = 0; t < n_taps; t++)
            for (int v = 0; v < HALF; v++) {
                vector product = taps[t].w * *(const vector *)(taps[t].x + q + v * LANES);
                acc[v] += product;
                mag[v] += (vector)((vector_bits)product & INT64_MAX);
            }
        for (int v = 0; v < HALF; v++) {
            *(vector *)(sum + q + v * LANES) = acc[v];
            *(vector *)(magnitude + q + v * LANES) = mag[v];
        }
    }
}

typedef void sums_fn(double *sum, double *magnitude, int64_t length, const tap *taps, int64_t n_taps);

static void sums_plain(double *sum, double *magnitude, int64_t length, const tap *taps, int64_t n_taps)
{
    if (magnitude)
        both_body(sum, magnitude, length, taps, n_taps);
    else
        sum_body(sum, length, taps, n_taps);
}

#if defined(__x86_64__)
__attribute__((target("avx2,fma"))) static void sums_avx2(double *sum, double *magnitude, int64_t length,
                                                          const tap *taps, int64_t n_taps)
{
    if (magnitude)
        both_body(sum, magnitude, length, taps, n_taps);
    else
        sum_body(sum, length, taps, n_taps);
}
#endif

static sums_fn *choose_sums(void)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        return sums_avx2;
#endif
    return sums_plain;
}

/* ---- Which rows are checked ---- */

typedef struct unit { int64_t n, p, k, count; } unit; /* rows of outputs (n, k .. k+count-1, p), all of one group */

typedef struct checker {
    const convjit_problem *problem;
    const convjit_tensors *host;
    bool exact;
    uint64_t seed;
    sums_fn *sums;
    int64_t p, q, kg, cg;         /* P, Q, K/groups, C/groups */
    int64_t length;               /* Q rounded up to BLOCK */
    int64_t phases, phase_length; /* see read_row */
    int64_t batch;                /* most rows in a unit */
    int64_t rows, samples;        /* rows there are, and rows drawn besides the borders; 0: all are checked */
    int64_t units;
    _Atomic int64_t next;
    pthread_mutex_t lock;         /* guards what follows */
    struct findings { cj_check check; int64_t first[4]; /* n, k, p, q of check.first */ } found;
} checker;
typedef struct findings findings;

static bool at_border(int64_t i, int64_t size)
{
    return i == 0 || i == size - 1;
}

/* Units of a full check, in order: n, p, group, batch of filters. */
static unit full_unit(const checker *c, int64_t i)
{
    int64_t batches = (c->kg + c->batch - 1) / c->batch, first = i % batches * c->batch;
    i /= batches;
    unit u = { .k = i % c->problem->groups * c->kg + first };
    u.count = c->kg - first < c->batch ? c->kg - first : c->batch;
    i /= c->problem->groups;
    u.p = i % c->p;
    u.n = i / c->p;
    return u;
}

/* Units of a sampled check: the eight corners of (n, k, p) first, then one row at random out of each of `samples` equal
 * parts of all rows. False for one that another unit has already. */
static bool sampled_unit(const checker *c, int64_t i, unit *u)
{
    int64_t n = c->problem->n, k = c->problem->k;
    if (i < 8) {
        *u = (unit){ i & 1 ? n - 1 : 0, i & 2 ? c->p - 1 : 0, i & 4 ? k - 1 : 0, 1 };
        return !(i & 1 && n == 1) && !(i & 2 && c->p == 1) && !(i & 4 && k == 1);
    }
    i -= 8;
    int64_t span = c->rows / c->samples, rest = c->rows % c->samples;
    int64_t first = i * span + (i < rest ? i : rest), size = span + (i < rest);
    int64_t row = first + (int64_t)(mix(c->seed, (uint64_t)i) % (uint64_t)size);
    *u = (unit){ row / k / c->p, row / k % c->p, row % k, 1 };
    return !(at_border(u->n, n) && at_border(u->p, c->p) && at_border(u->k, k));
}

/* ---- One unit ---- */

typedef struct scratch {
    double *x;                          /* R rows of input, see read_row */
    double *sum, *magnitude;            /* batch * length; magnitude only with random data */
    tap *taps;                          /* at most R*S */
    bool *inside;                       /* of R rows: not in the padding */
} scratch;

static void scratch_free(scratch *s)
{
    free(s->x);
    free(s->sum);
    free(s->magnitude);
    free(s->taps);
    free(s->inside);
}

/* calloc, since the padding around each row is never written afterwards. */
static bool scratch_make(const checker *c, scratch *s)
{
    const convjit_problem *p = c->problem;
    int64_t row, x, sums, taps;
    *s = (scratch){ 0 };
    if (!cj_mul64(c->phases, c->phase_length, &row) || !cj_mul64(row, p->r, &x) || !cj_mul64(c->batch, c->length, &sums) ||
        !cj_mul64(p->r, p->s, &taps))
        return false;
    s->x = calloc((size_t)x, sizeof *s->x);
    s->sum = calloc((size_t)sums, sizeof *s->sum);
    s->magnitude = c->exact ? NULL : calloc((size_t)sums, sizeof *s->magnitude);
    s->taps = calloc((size_t)taps, sizeof *s->taps);
    s->inside = calloc((size_t)p->r, sizeof *s->inside);
    if (s->x && s->sum && (s->magnitude || c->exact) && s->taps && s->inside)
        return true;
    scratch_free(s);
    return false;
}

/* Input row (n, c, h) as doubles between its zeros of padding. Column j of the padded row goes to
 * [j % stride][j / stride], so that whatever the stride, the inputs of neighbouring outputs are neighbours. */
static void read_row(const checker *ck, int64_t n, int64_t c, int64_t h, double *row)
{
    const convjit_problem *p = ck->problem;
    bool nhwc = p->layout == CONVJIT_NHWC;
    int64_t at = nhwc ? (n * p->h + h) * p->w * p->c + c : ((n * p->c + c) * p->h + h) * p->w;
    int64_t step = nhwc ? p->c : 1;
    int64_t phase = p->pad_left % p->stride_w, i = p->pad_left / p->stride_w;
    for (int64_t w = 0; w < p->w; w++, at += step) {
        row[phase * ck->phase_length + i] = (double)load(p->math, ck->host->input, at);
        if (++phase == p->stride_w) {
            phase = 0;
            i++;
        }
    }
}

/* The weights of (k, c) that are not zero, each with the input that it meets. */
static int64_t list_taps(const checker *ck, int64_t k, int64_t c, const scratch *s)
{
    const convjit_problem *p = ck->problem;
    bool krsc = p->weights_layout == CONVJIT_KRSC;
    int64_t n_taps = 0, step = krsc ? ck->cg : 1;
    int64_t at = krsc ? k * ck->cg * p->r * p->s + c : (k * ck->cg + c) * p->r * p->s;
    for (int64_t r = 0; r < p->r; r++) {
        const double *row = s->x + r * ck->phases * ck->phase_length;
        for (int64_t j = 0; j < p->s; j++, at += step) {
            double w = (double)load(p->math, ck->host->weights, at);
            int64_t column = j * p->dil_w;
            if (s->inside[r] && w != 0)
                s->taps[n_taps++] = (tap){ row + column % p->stride_w * ck->phase_length + column / p->stride_w, w };
        }
    }
    return n_taps;
}

static void sum_unit(const checker *ck, const unit *u, const scratch *s)
{
    const convjit_problem *p = ck->problem;
    size_t bytes = (size_t)(u->count * ck->length) * sizeof *s->sum;
    int64_t group = u->k / ck->kg;
    memset(s->sum, 0, bytes);
    if (s->magnitude)
        memset(s->magnitude, 0, bytes);
    for (int64_t c = 0; c < ck->cg; c++) {
        for (int64_t r = 0; r < p->r; r++) {
            int64_t h = u->p * p->stride_h + r * p->dil_h - p->pad_top;
            s->inside[r] = h >= 0 && h < p->h;
            if (s->inside[r])
                read_row(ck, u->n, group * ck->cg + c, h, s->x + r * ck->phases * ck->phase_length);
        }
        for (int64_t i = 0; i < u->count; i++)
            ck->sums(s->sum + i * ck->length, s->magnitude ? s->magnitude + i * ck->length : NULL, ck->length, s->taps,
                     list_taps(ck, u->k + i, c, s));
    }
}

/* ---- Comparing ---- */

static double activate(const convjit_problem *p, double v)
{
    switch (p->activation) {
    case CONVJIT_RELU: return fmax(v, 0);
    case CONVJIT_LEAKY_RELU: return v >= 0 ? v : (double)p->alpha * v;
    case CONVJIT_SILU: return v / (1 + exp(-v));
    case CONVJIT_GELU: return v * erfc(-v * 0.70710678118654752440) / 2;
    case CONVJIT_HARDSWISH: return v * fmin(fmax(v + 3, 0), 6) / 6;
    case CONVJIT_SIGMOID: return 1 / (1 + exp(-v));
    case CONVJIT_TANH: return tanh(v);
    case CONVJIT_CLAMP: return fmin(fmax(v, (double)p->alpha), (double)p->beta);
    default: return v;
    }
}

/* Largest slope, rounded up. */
static double lipschitz(const convjit_problem *p)
{
    switch (p->activation) {
    case CONVJIT_LEAKY_RELU: return fmax(1, fabs((double)p->alpha));
    case CONVJIT_SILU: return 1.1;
    case CONVJIT_GELU: return 1.13;
    case CONVJIT_HARDSWISH: return 1.5;
    case CONVJIT_SIGMOID: return 0.25;
    default: return 1;
    }
}

static bool piecewise_linear(convjit_activation a)
{
    return a == CONVJIT_IDENTITY || a == CONVJIT_RELU || a == CONVJIT_LEAKY_RELU || a == CONVJIT_CLAMP;
}

static double accumulation_error(const convjit_problem *p)
{
    double u = p->math == CONVJIT_F32 ? 0x1p-24 : 0x1p-22, n = (double)filter_size(p) + 1;
    double input = p->math == CONVJIT_TF32 ? 0x1p-10 + 0x1p-22 : 0;
    return n * u < 0.5 ? input + n * u / (1 - n * u) * (1 + input) : INFINITY;
}

/* Half the distance between numbers of the storage type near v. */
static double storage_rounding(convjit_math math, double v)
{
    switch (math) {
    case CONVJIT_F16: return fmax(v * 0x1p-11, 0x1p-25);
    case CONVJIT_BF16: return fmax(v * 0x1p-8, 0x1p-134);
    default: return fmax(v * 0x1p-24, 0x1p-150);
    }
}

/* A number beyond the storage type's range is infinity there. */
static double storage_limit(convjit_math math)
{
    return math == CONVJIT_F16 ? 65520.0 : (double)3.4028234e38f;
}

/* Whether y is the right answer to exact data with a piecewise linear activation; *expected is one right answer. All
 * values are exact in FP32 up to the activation, so this is the kernel's own arithmetic. */
static bool equals_exactly(const convjit_problem *p, double v, float residual, float y, double *expected)
{
    float a = (float)activate(p, v), contracted = a;
    if (p->activation == CONVJIT_LEAKY_RELU && v < 0) {
        a = p->alpha * (float)v;
        contracted = fmaf(p->alpha, (float)v, residual);
    } else if (p->residual) {
        contracted = a + residual;
    }
    float right = rounded(p->math, p->residual ? a + residual : a);
    *expected = (double)right;
    return y == right || (p->residual && y == rounded(p->math, contracted));
}

/* Whether y is within the bound at the top of this file. */
static bool within_bound(const checker *c, double v, double magnitude, double residual, double y, double *expected)
{
    const convjit_problem *p = c->problem;
    double act = activate(p, v), ref = act + residual;
    double bound = c->exact ? 0 : lipschitz(p) * accumulation_error(p) * magnitude;
    if (!piecewise_linear(p->activation))
        bound += 2e-6 * fabs(act) + 5e-7 * fmax(1, fabs(v));
    bound += 0x1p-24 * (fabs(act) + fabs(residual));
    bound += storage_rounding(p->math, fabs(ref) + bound);
    *expected = ref;
    if (isinf(y))
        return fabs(ref) + bound >= storage_limit(p->math) && (y > 0) == (ref > 0);
    return fabs(y - ref) <= bound; /* false for NaN */
}

static bool earlier(const int64_t a[4], const int64_t b[4])
{
    for (int i = 0; i < 4; i++)
        if (a[i] != b[i])
            return a[i] < b[i];
    return false;
}

/* Counts a wrong element, and keeps the first by position, whichever thread finds it when. */
static void note_wrong(findings *found, const int64_t at[4], double y, double expected)
{
    if (found->check.wrong++ > 0 && !earlier(at, found->first))
        return;
    memcpy(found->first, at, sizeof found->first);
    snprintf(found->check.first, sizeof found->check.first, "n=%lld k=%lld p=%lld q=%lld: %.9g, expected %.9g",
             (long long)at[0], (long long)at[1], (long long)at[2], (long long)at[3], y, expected);
}

static void merge(checker *c, const findings *found)
{
    cj_check *all = &c->found.check;
    pthread_mutex_lock(&c->lock);
    if (found->check.wrong > 0 && (all->wrong == 0 || earlier(found->first, c->found.first))) {
        memcpy(all->first, found->check.first, sizeof all->first);
        memcpy(c->found.first, found->first, sizeof c->found.first);
    }
    all->wrong += found->check.wrong;
    all->of += found->check.of;
    all->max_error = fmax(all->max_error, found->check.max_error);
    pthread_mutex_unlock(&c->lock);
}

static void compare_row(const checker *c, int64_t n, int64_t k, int64_t p, const double *sum, const double *magnitude,
                        findings *found)
{
    const convjit_problem *pr = c->problem;
    const convjit_tensors *host = c->host;
    bool nhwc = pr->layout == CONVJIT_NHWC, equality = c->exact && piecewise_linear(pr->activation);
    int64_t at = nhwc ? (n * c->p + p) * c->q * pr->k + k : ((n * pr->k + k) * c->p + p) * c->q;
    double bias = pr->bias ? (double)load(pr->math, host->bias, k) : 0;
    for (int64_t q = 0; q < c->q; q++, at += nhwc ? pr->k : 1) {
        double v = sum[q] + bias, expected;
        float y = load(pr->math, host->output, at);
        float residual = pr->residual ? load(pr->math, host->residual, at) : 0;
        bool right = equality ? equals_exactly(pr, v, residual, y, &expected)
                              : within_bound(c, v, magnitude ? magnitude[q] + fabs(bias) : 0, (double)residual, (double)y,
                                             &expected);
        found->check.of++;
        found->check.max_error = fmax(found->check.max_error, fabs((double)y - expected)); /* fmax drops NaN */
        if (!right)
            note_wrong(found, (int64_t[4]){ n, k, p, q }, (double)y, expected);
    }
}

/* A worker that gets no memory leaves its share to the others. */
static void *check_worker(void *argument)
{
    checker *c = argument;
    scratch s;
    findings found = { 0 };
    if (!scratch_make(c, &s))
        return NULL;
    for (;;) {
        int64_t i = atomic_fetch_add(&c->next, 1);
        if (i >= c->units)
            break;
        unit u;
        if (c->samples == 0)
            u = full_unit(c, i);
        else if (!sampled_unit(c, i, &u))
            continue;
        sum_unit(c, &u, &s);
        for (int64_t j = 0; j < u.count; j++)
            compare_row(c, u.n, u.k + j, u.p, s.sum + j * c->length, s.magnitude ? s.magnitude + j * c->length : NULL,
                        &found);
    }
    scratch_free(&s);
    merge(c, &found);
    return NULL;
}

/* Sizes of the scratch, and how many rows max_macs pays for. */
static void plan_check(checker *c, uint64_t max_macs)
{
    const convjit_problem *p = c->problem;
    c->p = convjit_problem_p(p);
    c->q = convjit_problem_q(p);
    c->kg = p->k / p->groups;
    c->cg = p->c / p->groups;
    c->length = (c->q + BLOCK - 1) / BLOCK * BLOCK;
    int64_t padded = p->pad_left + p->w + p->pad_right;
    c->phases = p->stride_w < padded ? p->stride_w : padded;
    c->phase_length = padded / p->stride_w + 1 + BLOCK;
    c->rows = p->n * c->p * p->k;
    double row_macs = (double)filter_size(p) * (double)c->q;
    if (max_macs != 0 && row_macs * (double)c->rows > (double)max_macs) {
        double samples = (double)max_macs / row_macs;
        c->samples = samples < 1 ? 1 : (int64_t)samples < c->rows ? (int64_t)samples : c->rows;
        c->units = c->samples + 8;
        c->batch = 1;
        return;
    }
    int64_t fits = (128 << 10) / (c->length * (int64_t)sizeof(double)); /* the sums stay in the second-level cache */
    c->batch = fits < 1 ? 1 : fits < c->kg ? fits : c->kg;
    c->units = p->n * c->p * p->groups * ((c->kg + c->batch - 1) / c->batch);
}

convjit_status cj_reference_check(const convjit_problem *p, const convjit_tensors *host, bool exact, uint64_t max_macs,
                                  uint64_t seed, cj_check *result)
{
    checker c = { .problem = p, .host = host, .exact = exact, .seed = mix(seed, 0), .sums = choose_sums() };
    plan_check(&c, max_macs);
    pthread_mutex_init(&c.lock, NULL);
    run_workers(check_worker, &c);
    pthread_mutex_destroy(&c.lock);
    if (c.next == 0) /* no worker had the memory to begin */
        return cj_fail(CONVJIT_NO_MEMORY, "no memory for the reference convolution's rows of %lld columns",
                       (long long)(p->pad_left + p->w + p->pad_right));
    *result = c.found.check;
    return CONVJIT_OK;
}
