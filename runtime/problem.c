/* problem.c: problem strings, and shape arithmetic that is checked before anybody computes with it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "internal.h"

/* Sizes are int in kernels; tensors may have more elements than that. */
static const int64_t SIZE_LIMIT = INT32_MAX;
static const int64_t BYTES_LIMIT = (int64_t)1 << 62;

static const float LEAKY_RELU_SLOPE = 0.01f;

bool cj_mul64(int64_t a, int64_t b, int64_t *out)
{
    return !__builtin_mul_overflow(a, b, out);
}

bool cj_add64(int64_t a, int64_t b, int64_t *out)
{
    return !__builtin_add_overflow(a, b, out);
}

/* ---- Names ---- */

static const char *const math_names[CONVJIT_MATH_COUNT] = {
    [CONVJIT_F32] = "f32", [CONVJIT_TF32] = "tf32", [CONVJIT_F16] = "f16", [CONVJIT_BF16] = "bf16",
};
static const char *const layout_names[CONVJIT_LAYOUT_COUNT] = {[CONVJIT_NCHW] = "nchw", [CONVJIT_NHWC] = "nhwc"};
static const char *const weights_layout_names[CONVJIT_WEIGHTS_LAYOUT_COUNT] = {
    [CONVJIT_KCRS] = "kcrs", [CONVJIT_KRSC] = "krsc",
};
static const char *const activation_names[CONVJIT_ACTIVATION_COUNT] = {
    [CONVJIT_IDENTITY] = "identity",   [CONVJIT_RELU] = "relu", [CONVJIT_LEAKY_RELU] = "leaky_relu",
    [CONVJIT_SILU] = "silu",           [CONVJIT_GELU] = "gelu", [CONVJIT_HARDSWISH] = "hardswish",
    [CONVJIT_SIGMOID] = "sigmoid",     [CONVJIT_TANH] = "tanh", [CONVJIT_CLAMP] = "clamp",
};

const char *cj_math_name(convjit_math m)
{
    return (unsigned)m < CONVJIT_MATH_COUNT ? math_names[m] : "unknown";
}

const char *cj_layout_name(convjit_layout l)
{
    return (unsigned)l < CONVJIT_LAYOUT_COUNT ? layout_names[l] : "unknown";
}

const char *cj_weights_layout_name(convjit_weights_layout l)
{
    return (unsigned)l < CONVJIT_WEIGHTS_LAYOUT_COUNT ? weights_layout_names[l] : "unknown";
}

const char *cj_activation_name(convjit_activation a)
{
    return (unsigned)a < CONVJIT_ACTIVATION_COUNT ? activation_names[a] : "unknown";
}

size_t convjit_element_size(convjit_math math)
{
    return math == CONVJIT_F16 || math == CONVJIT_BF16 ? 2 : 4;
}

void convjit_problem_init(convjit_problem *problem)
{
    memset(problem, 0, sizeof *problem); /* the padding too, so that bytes can be compared */
    problem->size = sizeof *problem;
    problem->n = problem->c = problem->h = problem->w = problem->k = problem->r = problem->s = 1;
    problem->stride_h = problem->stride_w = problem->dil_h = problem->dil_w = problem->groups = 1;
}

/* ---- Checks ---- */

static convjit_status check_range(const char *field, int64_t value, int64_t least)
{
    if (value < least)
        return cj_fail(CONVJIT_INVALID, "%s %" PRId64 " is below %" PRId64, field, value, least);
    if (value > SIZE_LIMIT)
        return cj_fail(CONVJIT_INVALID, "%s %" PRId64 " is above the limit %" PRId64, field, value, SIZE_LIMIT);
    return CONVJIT_OK;
}

static convjit_status check_ranges(const convjit_problem *p)
{
    const struct { const char *field; int64_t value, least; } ranges[] = {
        {"n", p->n, 1}, {"c", p->c, 1}, {"h", p->h, 1}, {"w", p->w, 1}, {"k", p->k, 1}, {"r", p->r, 1}, {"s", p->s, 1},
        {"stride_h", p->stride_h, 1}, {"stride_w", p->stride_w, 1},
        {"pad_top", p->pad_top, 0}, {"pad_left", p->pad_left, 0},
        {"pad_bottom", p->pad_bottom, 0}, {"pad_right", p->pad_right, 0},
        {"dil_h", p->dil_h, 1}, {"dil_w", p->dil_w, 1}, {"groups", p->groups, 1},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof *ranges; i++) {
        convjit_status status = check_range(ranges[i].field, ranges[i].value, ranges[i].least);
        if (status)
            return status;
    }
    return CONVJIT_OK;
}

static convjit_status check_choice(const char *field, int64_t value, int64_t last)
{
    if (value >= 0 && value <= last)
        return CONVJIT_OK;
    return cj_fail(CONVJIT_INVALID, "%s %" PRId64 " is not between 0 and %" PRId64, field, value, last);
}

static convjit_status check_choices(const convjit_problem *p)
{
    convjit_status status = check_choice("math", p->math, CONVJIT_MATH_COUNT - 1);
    if (!status)
        status = check_choice("layout", p->layout, CONVJIT_LAYOUT_COUNT - 1);
    if (!status)
        status = check_choice("weights_layout", p->weights_layout, CONVJIT_WEIGHTS_LAYOUT_COUNT - 1);
    if (!status)
        status = check_choice("activation", p->activation, CONVJIT_ACTIVATION_COUNT - 1);
    if (!status)
        status = check_choice("bias", p->bias, 1);
    if (!status)
        status = check_choice("residual", p->residual, 1);
    return status;
}

/* v - v is 0 for finite v alone. */
static bool finite_float(float v)
{
    return v - v == 0;
}

static convjit_status check_parameters(const convjit_problem *p)
{
    const char *name = cj_activation_name(p->activation);
    bool clamp = p->activation == CONVJIT_CLAMP, leaky = p->activation == CONVJIT_LEAKY_RELU;
    char alpha[32], beta[32];
    cj_float_format(p->alpha, alpha);
    cj_float_format(p->beta, beta);
    if (!clamp && !leaky && p->alpha != 0)
        return cj_fail(CONVJIT_INVALID, "alpha %s must be 0: %s has no parameter", alpha, name);
    if (!clamp && p->beta != 0)
        return cj_fail(CONVJIT_INVALID, "beta %s must be 0: only clamp has a second parameter", beta);
    if (!finite_float(p->alpha))
        return cj_fail(CONVJIT_INVALID, "alpha %s of %s is not finite", alpha, name);
    if (!finite_float(p->beta))
        return cj_fail(CONVJIT_INVALID, "beta %s of %s is not finite", beta, name);
    if (clamp && p->alpha > p->beta)
        return cj_fail(CONVJIT_INVALID, "alpha %s is above beta %s: clamp's lower bound exceeds its upper one", alpha,
                       beta);
    return CONVJIT_OK;
}

static convjit_status check_groups(const convjit_problem *p)
{
    if (p->c % p->groups)
        return cj_fail(CONVJIT_INVALID, "groups %" PRId64 " does not divide c %" PRId64, p->groups, p->c);
    if (p->k % p->groups)
        return cj_fail(CONVJIT_INVALID, "groups %" PRId64 " does not divide k %" PRId64, p->groups, p->k);
    return CONVJIT_OK;
}

/* One axis. Every operand is at most 2^31-1, so nothing here overflows 64 bits. */
typedef struct axis { const char *dil, *filter, *length, *pad_before, *pad_after; } axis;
static const axis axis_h = {"dil_h", "r", "height", "pad_top", "pad_bottom"};
static const axis axis_w = {"dil_w", "s", "width", "pad_left", "pad_right"};

static convjit_status check_axis(const axis *a, int64_t size, int64_t before, int64_t after, int64_t filter,
                                 int64_t dil)
{
    int64_t padded = size + before + after, extent = dil * (filter - 1) + 1;
    if (padded > SIZE_LIMIT)
        return cj_fail(CONVJIT_INVALID, "%s, %s: the padded %s %" PRId64 " is above the limit %" PRId64, a->pad_before,
                       a->pad_after, a->length, padded, SIZE_LIMIT);
    if (extent > padded)
        return cj_fail(CONVJIT_INVALID, "filter: %s*(%s-1)+1 = %" PRId64 " is larger than the padded %s %" PRId64,
                       a->dil, a->filter, extent, a->length, padded);
    return CONVJIT_OK;
}

static bool product4(const int64_t f[4], int64_t *out)
{
    return cj_mul64(f[0], f[1], out) && cj_mul64(*out, f[2], out) && cj_mul64(*out, f[3], out);
}

static void tensor_shape(const convjit_problem *p, convjit_tensor tensor, int64_t shape[4])
{
    int64_t h = convjit_problem_p(p), w = convjit_problem_q(p);
    switch (tensor) {
    case CONVJIT_INPUT: memcpy(shape, (int64_t[]){p->n, p->c, p->h, p->w}, 4 * sizeof *shape); break;
    case CONVJIT_WEIGHTS: memcpy(shape, (int64_t[]){p->k, p->c / p->groups, p->r, p->s}, 4 * sizeof *shape); break;
    case CONVJIT_BIAS: memcpy(shape, (int64_t[]){p->bias != 0, p->k, 1, 1}, 4 * sizeof *shape); break;
    case CONVJIT_RESIDUAL: memcpy(shape, (int64_t[]){p->residual ? p->n : 0, p->k, h, w}, 4 * sizeof *shape); break;
    case CONVJIT_OUTPUT: memcpy(shape, (int64_t[]){p->n, p->k, h, w}, 4 * sizeof *shape); break;
    default: memset(shape, 0, 4 * sizeof *shape);
    }
}

static convjit_status check_products(const convjit_problem *p)
{
    static const struct { convjit_tensor tensor; const char *name, *fields; } tensors[] = {
        {CONVJIT_INPUT, "input", "n*c*h*w"},
        {CONVJIT_WEIGHTS, "weights", "k*(c/groups)*r*s"},
        {CONVJIT_OUTPUT, "output", "n*k*p*q"},
    };
    int64_t size;
    if (!product4((int64_t[]){p->r, p->s, p->c / p->groups, 1}, &size) || size > SIZE_LIMIT)
        return cj_fail(CONVJIT_INVALID,
                       "r*s*(c/groups) = %" PRId64 "*%" PRId64 "*%" PRId64 " is above the limit %" PRId64, p->r, p->s,
                       p->c / p->groups, SIZE_LIMIT);
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
        int64_t shape[4];
        tensor_shape(p, tensors[i].tensor, shape);
        bool fits = product4(shape, &size) && cj_mul64(size, (int64_t)convjit_element_size(p->math), &size);
        if (!fits || size >= BYTES_LIMIT)
            return cj_fail(CONVJIT_INVALID, "%s: %s elements have 2^62 bytes or more", tensors[i].name,
                           tensors[i].fields);
    }
    return CONVJIT_OK;
}

convjit_status convjit_problem_check(const convjit_problem *p)
{
    convjit_status status = cj_check_struct(p, sizeof *p, "convjit_problem");
    if (!status)
        status = check_ranges(p);
    if (!status)
        status = check_choices(p);
    if (!status)
        status = check_parameters(p);
    if (!status)
        status = check_groups(p);
    if (!status)
        status = check_axis(&axis_h, p->h, p->pad_top, p->pad_bottom, p->r, p->dil_h);
    if (!status)
        status = check_axis(&axis_w, p->w, p->pad_left, p->pad_right, p->s, p->dil_w);
    if (!status)
        status = check_products(p);
    return status;
}

/* ---- Derived sizes ---- */

int64_t convjit_problem_p(const convjit_problem *p)
{
    return (p->h + p->pad_top + p->pad_bottom - p->dil_h * (p->r - 1) - 1) / p->stride_h + 1;
}

int64_t convjit_problem_q(const convjit_problem *p)
{
    return (p->w + p->pad_left + p->pad_right - p->dil_w * (p->s - 1) - 1) / p->stride_w + 1;
}

convjit_weights_layout cj_weights_layout(const convjit_problem *p)
{
    bool same = p->c == p->groups || (p->r == 1 && p->s == 1);
    return same ? CONVJIT_KCRS : p->weights_layout;
}

int64_t convjit_problem_elements(const convjit_problem *problem, convjit_tensor tensor)
{
    int64_t shape[4];
    tensor_shape(problem, tensor, shape);
    return shape[0] * shape[1] * shape[2] * shape[3]; /* checked by convjit_problem_check */
}

/* ---- Writing ---- */

/* Text into a buffer that may be too small, counting all of it. */
typedef struct sink { char *text; size_t capacity, length; } sink;

static void put(sink *s, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void put(sink *s, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    bool room = s->length < s->capacity;
    int n = vsnprintf(room ? s->text + s->length : NULL, room ? s->capacity - s->length : 0, format, args);
    va_end(args);
    s->length += n > 0 ? (size_t)n : 0;
}

static void put_pair(sink *s, const char *field, int64_t h, int64_t w, int64_t normal)
{
    if (h == normal && w == normal)
        return;
    if (h == w)
        put(s, "_%s%" PRId64, field, h);
    else
        put(s, "_%s%" PRId64 "x%" PRId64, field, h, w);
}

static void put_padding(sink *s, const convjit_problem *p)
{
    if (p->pad_top == p->pad_bottom && p->pad_left == p->pad_right)
        put_pair(s, "pad", p->pad_top, p->pad_left, 0);
    else
        put(s, "_pad%" PRId64 "x%" PRId64 "x%" PRId64 "x%" PRId64, p->pad_top, p->pad_left, p->pad_bottom,
            p->pad_right);
}

static void put_activation(sink *s, const convjit_problem *p)
{
    char alpha[32], beta[32];
    cj_float_format(p->alpha, alpha);
    cj_float_format(p->beta, beta);
    if (p->activation == CONVJIT_IDENTITY)
        return;
    put(s, "_%s", cj_activation_name(p->activation));
    if (p->activation == CONVJIT_CLAMP)
        put(s, "%sx%s", alpha, beta);
    else if (p->activation == CONVJIT_LEAKY_RELU && p->alpha != LEAKY_RELU_SLOPE)
        put(s, "%s", alpha);
}

size_t convjit_problem_format(const convjit_problem *p, char *text, size_t capacity)
{
    sink s = {text, capacity, 0};
    put(&s, "n%" PRId64 "c%" PRId64 "h%" PRId64 "w%" PRId64 "k%" PRId64 "r%" PRId64 "s%" PRId64, p->n, p->c, p->h, p->w,
        p->k, p->r, p->s);
    put_pair(&s, "stride", p->stride_h, p->stride_w, 1);
    put_padding(&s, p);
    put_pair(&s, "dil", p->dil_h, p->dil_w, 1);
    if (p->groups != 1)
        put(&s, "_g%" PRId64, p->groups);
    if (p->math != CONVJIT_F32)
        put(&s, "_%s", cj_math_name(p->math));
    if (p->layout != CONVJIT_NCHW)
        put(&s, "_%s", cj_layout_name(p->layout));
    if (cj_weights_layout(p) != CONVJIT_KCRS)
        put(&s, "_%s", cj_weights_layout_name(p->weights_layout));
    if (p->bias)
        put(&s, "_bias");
    put_activation(&s, p);
    if (p->residual)
        put(&s, "_residual");
    return s.length;
}

/* ---- Reading ---- */

/* What a field is about. A problem string has at most one of each. */
typedef enum topic {
    STRIDE, PAD, DIL, GROUPS, MATH, LAYOUT, WEIGHTS_LAYOUT, BIAS, ACTIVATION, RESIDUAL, TOPIC_COUNT
} topic;
static const char *const topic_names[TOPIC_COUNT] = {
    "stride", "padding", "dilation", "number of groups", "math mode", "layout", "layout of the weights", "bias",
    "activation", "residual",
};
static const char FIELD_FORMS[] = "strideA padA dilA gA f32 tf32 f16 bf16 nchw nhwc kcrs krsc bias residual relu "
                                  "leaky_reluSLOPE silu gelu hardswish sigmoid tanh clampLOxHI";

typedef struct reader {
    const char *text, *at;
    convjit_problem *p;
    struct { const char *start; size_t length; } seen[TOPIC_COUNT];
} reader;

static convjit_status wrong(const reader *r, const char *at, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
static convjit_status wrong(const reader *r, const char *at, const char *format, ...)
{
    char detail[512], quoted[CJ_QUOTE];
    va_list args;
    va_start(args, format);
    cj_vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    cj_quote(quoted, r->text, strlen(r->text));
    return cj_fail(CONVJIT_PARSE, "problem %s, column %zu: %s", quoted, (size_t)(at - r->text) + 1, detail);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* A decimal number at *at. `field` names it. */
static convjit_status read_number(reader *r, const char *field, int64_t *out)
{
    int64_t v = 0;
    const char *start = r->at;
    if (!is_digit(*start))
        return wrong(r, start, "expected a number for %s", field);
    for (; is_digit(*r->at); r->at++) {
        if (!cj_mul64(v, 10, &v) || !cj_add64(v, *r->at - '0', &v)) {
            char digits[CJ_QUOTE];
            cj_quote(digits, start, strspn(start, "0123456789"));
            return cj_fail(CONVJIT_INVALID, "%s %s is above the limit %" PRId64, field, digits, SIZE_LIMIT);
        }
    }
    *out = v;
    return CONVJIT_OK;
}

/* n8c64h512w256k128r5s7 */
static convjit_status read_sizes(reader *r)
{
    convjit_problem *p = r->p;
    const struct { const char *letter; int64_t *value; } sizes[] = {
        {"n", &p->n}, {"c", &p->c}, {"h", &p->h}, {"w", &p->w}, {"k", &p->k}, {"r", &p->r}, {"s", &p->s},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        if (*r->at != *sizes[i].letter)
            return wrong(r, r->at, "expected \"%s\" and a number (the sizes are n c h w k r s, in this order)",
                         sizes[i].letter);
        r->at++;
        convjit_status status = read_number(r, sizes[i].letter, sizes[i].value);
        if (status)
            return status;
    }
    return CONVJIT_OK;
}

/* Up to `most` numbers joined by 'x'; *count says how many there were. */
static convjit_status read_numbers(reader *r, const char *field, int64_t values[4], int most, int *count)
{
    for (*count = 0;;) {
        convjit_status status = read_number(r, field, &values[*count]);
        if (status)
            return status;
        ++*count;
        if (*r->at != 'x')
            return CONVJIT_OK;
        if (*count == most)
            return wrong(r, r->at, "expected the end of %s, which has at most %d number%s", field, most,
                         most > 1 ? "s" : "");
        r->at++;
    }
}

static convjit_status read_pair(reader *r, const char *field, int64_t *h, int64_t *w)
{
    int64_t v[4];
    int count;
    convjit_status status = read_numbers(r, field, v, 2, &count);
    if (status)
        return status;
    *h = v[0];
    *w = v[count - 1];
    return CONVJIT_OK;
}

static convjit_status read_padding(reader *r)
{
    int64_t v[4];
    int count;
    convjit_status status = read_numbers(r, "pad", v, 4, &count);
    if (status)
        return status;
    if (count == 3)
        return wrong(r, r->at, "expected \"x\" and the fourth number of padTOPxLEFTxBOTTOMxRIGHT");
    r->p->pad_top = v[0];
    r->p->pad_left = v[count > 1];
    r->p->pad_bottom = v[count == 4 ? 2 : 0];
    r->p->pad_right = v[count == 4 ? 3 : count > 1];
    return CONVJIT_OK;
}

/* A number at *at that ends before `end`. */
static convjit_status read_float(reader *r, const char *what, const char *end, float *out)
{
    if (!cj_float_parse(r->at, (size_t)(end - r->at), out))
        return wrong(r, r->at, "expected a finite number for %s", what);
    r->at = end;
    return CONVJIT_OK;
}

static convjit_status read_clamp(reader *r, const char *end)
{
    const char *x = memchr(r->at, 'x', (size_t)(end - r->at));
    if (!x)
        return wrong(r, r->at, "expected LOxHI, the bounds of clamp");
    convjit_status status = read_float(r, "clamp's lower bound", x, &r->p->alpha);
    if (status)
        return status;
    r->at = x + 1;
    return read_float(r, "clamp's upper bound", end, &r->p->beta);
}

/* Fields that are one word: {word, topic, value}. */
static bool match_word(const char *start, size_t length, topic *t, int *value)
{
    static const struct { const char *word; topic t; int value; } words[] = {
        {"f32", MATH, CONVJIT_F32}, {"tf32", MATH, CONVJIT_TF32}, {"f16", MATH, CONVJIT_F16},
        {"bf16", MATH, CONVJIT_BF16}, {"nchw", LAYOUT, CONVJIT_NCHW}, {"nhwc", LAYOUT, CONVJIT_NHWC},
        {"kcrs", WEIGHTS_LAYOUT, CONVJIT_KCRS}, {"krsc", WEIGHTS_LAYOUT, CONVJIT_KRSC},
        {"bias", BIAS, 1}, {"residual", RESIDUAL, 1},
        {"relu", ACTIVATION, CONVJIT_RELU}, {"leaky_relu", ACTIVATION, CONVJIT_LEAKY_RELU},
        {"silu", ACTIVATION, CONVJIT_SILU}, {"gelu", ACTIVATION, CONVJIT_GELU},
        {"hardswish", ACTIVATION, CONVJIT_HARDSWISH}, {"sigmoid", ACTIVATION, CONVJIT_SIGMOID},
        {"tanh", ACTIVATION, CONVJIT_TANH},
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        if (strlen(words[i].word) == length && memcmp(words[i].word, start, length) == 0) {
            *t = words[i].t;
            *value = words[i].value;
            return true;
        }
    }
    return false;
}

/* Fields that are a word and numbers; *length receives the word's. "g" is last, for it begins other words. */
static bool match_prefix(const char *start, size_t field_length, topic *t, int *value, size_t *length)
{
    static const struct { const char *word; topic t; int value; } prefixes[] = {
        {"stride", STRIDE, 0}, {"pad", PAD, 0}, {"dil", DIL, 0}, {"clamp", ACTIVATION, CONVJIT_CLAMP},
        {"leaky_relu", ACTIVATION, CONVJIT_LEAKY_RELU}, {"g", GROUPS, 0},
    };
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        *length = strlen(prefixes[i].word);
        if (field_length >= *length && memcmp(prefixes[i].word, start, *length) == 0) {
            *t = prefixes[i].t;
            *value = prefixes[i].value;
            return *t != GROUPS || field_length == 1 || is_digit(start[1]);
        }
    }
    return false;
}

static void set_word(convjit_problem *p, topic t, int value)
{
    switch (t) {
    case MATH: p->math = (convjit_math)value; break;
    case LAYOUT: p->layout = (convjit_layout)value; break;
    case WEIGHTS_LAYOUT: p->weights_layout = (convjit_weights_layout)value; break;
    case BIAS: p->bias = value; break;
    case RESIDUAL: p->residual = value; break;
    default:
        p->activation = (convjit_activation)value;
        p->alpha = value == CONVJIT_LEAKY_RELU ? LEAKY_RELU_SLOPE : 0;
    }
}

static convjit_status set_numbers(reader *r, topic t, int value, const char *end)
{
    convjit_problem *p = r->p;
    int count;
    int64_t v[4];
    convjit_status status;
    switch (t) {
    case STRIDE: return read_pair(r, "stride", &p->stride_h, &p->stride_w);
    case PAD: return read_padding(r);
    case DIL: return read_pair(r, "dil", &p->dil_h, &p->dil_w);
    case GROUPS:
        status = read_numbers(r, "g", v, 1, &count);
        if (!status)
            p->groups = v[0];
        return status;
    default:
        set_word(p, t, value);
        return value == CONVJIT_CLAMP ? read_clamp(r, end) : read_float(r, "leaky_relu's slope", end, &p->alpha);
    }
}

/* A field ends before the next '_', but leaky_relu has one inside. */
static const char *end_of_field(const char *start)
{
    static const char inside[] = "leaky_";
    bool has = strncmp(start, inside, sizeof inside - 1) == 0;
    start += has ? sizeof inside - 1 : 0;
    return start + strcspn(start, "_");
}

/* Notes that the field at r->at is about t; a second one is an error. */
static convjit_status note_topic(reader *r, topic t, size_t length)
{
    if (r->seen[t].start) {
        char first[CJ_QUOTE], second[CJ_QUOTE];
        cj_quote(first, r->seen[t].start, r->seen[t].length);
        cj_quote(second, r->at, length);
        return wrong(r, r->at, "expected at most one %s, but %s comes after %s", topic_names[t], second, first);
    }
    r->seen[t].start = r->at;
    r->seen[t].length = length;
    return CONVJIT_OK;
}

static convjit_status read_field(reader *r)
{
    const char *start = r->at, *end = end_of_field(start);
    size_t length = (size_t)(end - start), prefix = 0;
    topic t;
    int value;
    bool word = match_word(start, length, &t, &value);
    if (!word && !match_prefix(start, length, &t, &value, &prefix)) {
        char quoted[CJ_QUOTE];
        cj_quote(quoted, start, length);
        return wrong(r, start, "expected a field (%s), not %s", FIELD_FORMS, quoted);
    }
    convjit_status status = note_topic(r, t, length);
    if (status)
        return status;
    if (word) {
        set_word(r->p, t, value);
        r->at = end;
        return CONVJIT_OK;
    }
    r->at = start + prefix;
    return set_numbers(r, t, value, end);
}

static convjit_status read_problem(reader *r)
{
    convjit_status status = read_sizes(r);
    while (!status && *r->at == '_') {
        r->at++;
        status = read_field(r);
    }
    if (!status && *r->at)
        status = wrong(r, r->at, "expected \"_\" and a field, or the end");
    return status;
}

convjit_status convjit_problem_parse(convjit_problem *problem, const char *text)
{
    if (!problem || !text)
        return cj_fail(CONVJIT_INVALID, "%s is NULL", problem ? "text" : "problem");
    convjit_problem parsed;
    convjit_problem_init(&parsed);
    reader r = {.text = text, .at = text, .p = &parsed};
    convjit_status status = cj_is_benchdnn(text) ? cj_benchdnn_parse(&parsed, text) : read_problem(&r);
    if (!status)
        status = convjit_problem_check(&parsed);
    if (status)
        return status;
    parsed.weights_layout = cj_weights_layout(&parsed);
    memcpy(problem, &parsed, sizeof parsed); /* with its padding */
    return CONVJIT_OK;
}
