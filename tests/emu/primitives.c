/* primitives.c: the emulated device's twins of templates/primitives.cuh: conversions to and from 16-bit formats. */
#include <math.h>
#include "emu_test.h"

static float as_float(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static uint32_t as_bits(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

/* The value of a 16-bit float with that many mantissa bits, by the definition of the format. Infinity counts as the next
 * power of two, so that rounding to it follows the same rule as all other rounding. */
static double value_of(unsigned half, int mantissa_bits)
{
    int bias = (1 << (14 - mantissa_bits)) - 1;
    int exponent = (int)(half & 0x7fff) >> mantissa_bits, mantissa = half & ((1 << mantissa_bits) - 1);
    double magnitude = exponent == 0 ? ldexp(mantissa, 1 - bias - mantissa_bits)
                                     : ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits);
    return half & 0x8000 ? -magnitude : magnitude;
}

/* The nearest 16-bit float, ties to the even one, by bisection over all of them. */
static unsigned nearest(float f, int mantissa_bits)
{
    unsigned sign = signbit(f) ? 0x8000 : 0, infinity = 0x7fff & ~((1u << mantissa_bits) - 1);
    double magnitude = fabs((double)f);
    unsigned low = 0, high = infinity; /* value_of(low) <= magnitude, value_of(high) > magnitude unless beyond */
    if (magnitude >= value_of(infinity, mantissa_bits))
        return sign | infinity;
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        if (value_of(middle, mantissa_bits) <= magnitude)
            low = middle;
        else
            high = middle;
    }
    double below = magnitude - value_of(low, mantissa_bits), above = value_of(high, mantissa_bits) - magnitude;
    return sign | (below < above || (below == above && low % 2 == 0) ? low : high);
}

enum { FLOATS = 1 << 18 };

/* Every half's value, the midpoint to the next, and both neighbours of that; then random bits. */
static void fill_floats(float *x, int mantissa_bits)
{
    uint64_t random = 12345;
    for (unsigned i = 0; i < FLOATS; i++) {
        unsigned half = i / 4;
        float value = (float)value_of(half, mantissa_bits);
        float middle = (float)((value_of(half, mantissa_bits) + value_of((half & 0x8000) | ((half + 1) & 0x7fff), mantissa_bits)) / 2);
        x[i] = i % 4 == 0   ? value
               : i % 4 == 1 ? middle
               : i % 4 == 2 ? nextafterf(middle, INFINITY) : nextafterf(middle, -INFINITY);
        random = random * 6364136223846793005u + 1442695040888963407u;
        if (i % 16 == 15)
            x[i] = as_float((uint32_t)(random >> 32));
    }
}

static void to_half(emu *e, const char *source, int mantissa_bits)
{
    emu_kernel k = emu_build(e, source, "io");
    float *x = emu_alloc(e, FLOATS * sizeof(float));
    uint16_t *y = emu_alloc(e, FLOATS * sizeof(uint16_t));
    fill_floats(x, mantissa_bits);
    void *args[] = {&x, &y};
    CHECK_OK(emu_launch(&k, FLOATS / 256, 256, 0, args));
    int wrong = 0;
    for (int i = 0; i < FLOATS; i++) {
        unsigned expected = isnan(x[i]) ? 0x7fff : nearest(x[i], mantissa_bits);
        if (y[i] != expected && wrong++ < 3)
            fprintf(stderr, "%a (0x%08x): 0x%04x, expected 0x%04x\n", (double)x[i], as_bits(x[i]), y[i], expected);
    }
    CHECK_INT(wrong, 0);
    e->device->free(e->device, x);
    e->device->free(e->device, y);
    emu_drop(&k);
}

static void from_half(emu *e, const char *source, int mantissa_bits)
{
    enum { HALVES = 65536 };
    emu_kernel k = emu_build(e, source, "io");
    uint16_t *x = emu_alloc(e, HALVES * sizeof(uint16_t));
    float *y = emu_alloc(e, HALVES * sizeof(float));
    for (int i = 0; i < HALVES; i++)
        x[i] = (uint16_t)i;
    void *args[] = {&x, &y};
    CHECK_OK(emu_launch(&k, HALVES / 256, 256, 0, args));
    int wrong = 0;
    for (unsigned i = 0; i < HALVES; i++) {
        unsigned infinity = 0x7fff & ~((1u << mantissa_bits) - 1), magnitude = i & 0x7fff;
        bool right = magnitude > infinity    ? isnan(y[i])
                     : magnitude == infinity ? isinf(y[i]) && !signbit(y[i]) == !(i & 0x8000)
                                             : as_bits(y[i]) == as_bits((float)value_of(i, mantissa_bits));
        wrong += !right;
    }
    CHECK_INT(wrong, 0);
    e->device->free(e->device, x);
    e->device->free(e->device, y);
    emu_drop(&k);
}

int main(void)
{
    emu e = emu_open();
#define TO(name) "extern \"C\" __global__ void k(const float *x, unsigned short *y)\n" \
                 "{ int i = blockIdx.x * 256 + threadIdx.x; y[i] = " name "(x[i]); }\n"
#define FROM(name) "extern \"C\" __global__ void k(const unsigned short *x, float *y)\n" \
                   "{ int i = blockIdx.x * 256 + threadIdx.x; y[i] = " name "(x[i]); }\n"
    to_half(&e, TO("f32_to_f16"), 10);
    to_half(&e, TO("f32_to_bf16"), 7);
    from_half(&e, FROM("f16_to_f32"), 10);
    from_half(&e, FROM("bf16_to_f32"), 7);
    emu_close(&e);
    return check_done("emu/primitives");
}
