/* wgmma.c: products of a warpgroup on the emulated device: every shape, type, form and layout against a plain reference; and
 * every rule, by a kernel that breaks it. */
#include <math.h>
#include <time.h>
#include "emu_test.h"

enum { THREADS = 128, SHARED = 128 * 1024, WORDS = SHARED / 4, ROWS = 64 };

static uint64_t random_state = 7;

static uint32_t random_below(uint32_t n)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % n;
}

/* ---- The reference ---- */

typedef enum type { F16, BF16, TF32 } type;
static const char *const type_names[] = {"f16", "bf16", "tf32"};

/* The k-th integer from -8 to 8 as that element. */
static uint32_t encode(type t, int value)
{
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if (t == TF32)
        return bits | random_below(0x2000); /* the low bits are ignored */
    if (t == BF16)
        return bits >> 16;
    uint32_t magnitude = bits & 0x7fffffff;
    return (bits >> 16 & 0x8000) | (magnitude ? (magnitude >> 13) - (112 << 10) : 0);
}

static int decode(type t, uint32_t bits)
{
    uint32_t magnitude = bits & 0x7fff;
    uint32_t f32 = t == TF32   ? bits & 0xffffe000
                   : t == BF16 ? bits << 16
                               : (bits & 0x8000) << 16 | (magnitude ? (magnitude << 13) + (112u << 23) : 0);
    float f;
    memcpy(&f, &f32, 4);
    return (int)f;
}

/* A matrix in shared memory: offset of its first element, strides in bytes, swizzle. */
typedef struct layout { int start, leading, stride, swizzle, mn_major; } layout;

/* Offset of element (mn, k), by the canonical layouts in the comments of CUTLASS's make_gmma_desc, taken apart: an atom of 8
 * rows (or k) by W 16-byte columns, columns exchanged by the number of the 128-byte line that they are in. */
static int offset_of(const layout *l, type t, int mn, int k)
{
    int size = t == TF32 ? 4 : 2, per = 16 / size, w = l->swizzle ? l->swizzle / 16 : 1, at;
    if (!l->mn_major) { /* ((8, m), (T, 2)) : ((W T, SBO), (1, T or LBO)) */
        int column = k / per * (l->swizzle ? 16 : l->leading);
        at = mn % 8 * w * 16 + mn / 8 * l->stride + column + k % per * size;
    } else if (l->swizzle) { /* ((T, W, m), (8, k)) : ((1, T, LBO), (W T, SBO)) */
        at = mn % per * size + mn / per % w * 16 + mn / per / w * l->leading + k % 8 * w * 16 + k / 8 * l->stride;
    } else { /* ((T, 1, m), (8, k)) : ((1, T, SBO), (T, LBO)) */
        at = mn % per * size + mn / per * l->stride + k % 8 * 16 + k / 8 * l->leading;
    }
    at += l->start;
    int line = at / 128, column = at / 16 % 8, exchanged = column ^ (w > 1 ? line % w : 0);
    return line * 128 + exchanged * 16 + at % 16;
}

static int element_at(const unsigned char *shared, const layout *l, type t, int mn, int k)
{
    uint32_t bits = 0;
    memcpy(&bits, shared + offset_of(l, t, mn, k), t == TF32 ? 4 : 2);
    return decode(t, bits);
}

/* What the threads hold of row, column of d. */
static int register_of(int n, int row, int column)
{
    int warp = row / 16, lane = row % 8 * 4 + column % 8 / 2, i = column / 8 * 4 + row % 16 / 8 * 2 + column % 2;
    return (warp * 32 + lane) * (n / 2) + i;
}

/* ---- Every shape ---- */

/* ss with major-nesses of a and b; rs with b's; four steps with both. */
typedef enum form { SS, RS, X4 } form;
typedef struct variant { form form; int a_mn, b_mn; } variant;
static const variant variants[] = {{SS, 0, 0}, {SS, 0, 1}, {SS, 1, 0}, {SS, 1, 1}, {RS, 0, 0},
                                   {RS, 0, 1}, {X4, 0, 0}, {X4, 0, 1}, {X4, 1, 0}, {X4, 1, 1}};
enum { N_VARIANTS = sizeof variants / sizeof *variants };

/* Parameters of a launch, as the kernel reads them. */
typedef struct launch {
    int n, variant, accumulate;
    int a[4], b[4]; /* start, leading, stride, swizzle */
    int a_step, b_step;
} launch;

/* A kernel that serves every N and variant of one type. x: the shared memory, then a's registers, then d's. */
static char *kernel_text(type t)
{
    static char text[65536];
    int length = snprintf(text, sizeof text,
        "enum { WORDS = %d };\n"
        "struct launch { int n, variant, accumulate, a[4], b[4], a_step, b_step; };\n"
        "struct operands { unsigned long long a, b; unsigned r[4]; };\n", WORDS);
    for (int n = 8; n <= 256; n += 8) {
        length += snprintf(text + length, sizeof text - (size_t)length,
            "static void product_%d(const launch *p, const operands &o, const float *c, float *out)\n"
            "{\n"
            "    float d[%d];\n"
            "    for (int i = 0; i < %d; i++) d[i] = c[threadIdx.x * %d + i];\n"
            "    wgmma_fence();\n"
            "    switch (p->variant) {\n", n, n / 2, n / 2, n / 2);
        for (int v = 0; v < N_VARIANTS; v++) {
            const variant *at = &variants[v];
            char majors[16] = "", name[32];
            if (t == TF32 && (at->a_mn || at->b_mn))
                continue;
            if (t != TF32)
                snprintf(majors, sizeof majors, at->form == RS ? "<%d>" : "<%d, %d>", at->form == RS ? at->b_mn : at->a_mn, at->b_mn);
            snprintf(name, sizeof name, "wgmma_%s_n%d_%s", type_names[t], n, at->form == SS ? "ss" : at->form == RS ? "rs" : "ss_x4");
            length += snprintf(text + length, sizeof text - (size_t)length, "    case %d: %s%s(d, %s, o.b, %sp->accumulate); break;\n",
                               v, name, majors, at->form == RS ? "o.r" : "o.a", at->form == X4 ? "p->a_step, p->b_step, " : "");
        }
        length += snprintf(text + length, sizeof text - (size_t)length,
            "    }\n"
            "    wgmma_commit();\n"
            "    wgmma_wait<0>();\n"
            "    wgmma_hold(d);\n"
            "    for (int i = 0; i < %d; i++) out[threadIdx.x * %d + i] = d[i];\n"
            "}\n", n / 2, n / 2);
    }
    length += snprintf(text + length, sizeof text - (size_t)length,
        "extern \"C\" __global__ void __launch_bounds__(128) k(const unsigned *x, const launch *p, float *out)\n"
        "{\n"
        "    unsigned *s = (unsigned *)shared_memory();\n"
        "    for (int i = threadIdx.x; i < WORDS; i += 128) s[i] = x[i];\n"
        "    fence_proxy_async();\n"
        "    __syncthreads();\n"
        "    operands o;\n"
        "    o.a = wgmma_descriptor(shared_memory() + p->a[0], p->a[1], p->a[2], p->a[3]);\n"
        "    o.b = wgmma_descriptor(shared_memory() + p->b[0], p->b[1], p->b[2], p->b[3]);\n"
        "    for (int i = 0; i < 4; i++) o.r[i] = x[WORDS + 4 * threadIdx.x + i];\n"
        "    const float *c = (const float *)(x + WORDS + 512);\n"
        "    switch (p->n) {\n");
    for (int n = 8; n <= 256; n += 8)
        length += snprintf(text + length, sizeof text - (size_t)length, "    case %d: product_%d(p, o, c, out); break;\n", n, n);
    snprintf(text + length, sizeof text - (size_t)length, "    }\n}\n");
    return text;
}

typedef struct bench {
    emu *e;
    type t;
    uint32_t *x;  /* WORDS, 512 words of a's registers, 128 * 128 of d's */
    launch *p;
    float *out;
} bench;

/* How far the matrix reaches; its least offset is its start. */
static int end_of(const layout *l, type t, int extent)
{
    int depth = t == TF32 ? 8 : 16, end = 0;
    for (int mn = 0; mn < extent; mn++)
        for (int k = 0; k < depth; k++) {
            int at = offset_of(l, t, mn, k) + 4;
            end = at > end ? at : end;
        }
    return (end + 127) / 128 * 128; /* the swizzle stays in its line of 128 bytes */
}

/* Strides as real kernels have them, or any multiple of 128 (rows of 16 without swizzle); then a start that fits, at any 16
 * bytes of the swizzle's width and any line. */
static layout draw_layout(type t, int extent, int mn_major, int steps, int *step)
{
    static const int swizzles[] = {0, 32, 64, 128};
    layout l = {0, 0, 0, swizzles[random_below(4)], mn_major};
    int width = l.swizzle ? l.swizzle : 128;
    do {
        l.leading = (int)(16 + 16 * random_below(l.swizzle && !mn_major ? 1024 : 160));
        l.stride = (int)(width * (1 + random_below(24)));
        *step = steps > 1 ? (int)random_below(32) + (mn_major ? 64 : 0) : 0; /* 16 bytes each */
    } while (end_of(&l, t, extent) + steps * *step * 16 + 128 > SHARED);
    int room = (SHARED - end_of(&l, t, extent) - steps * *step * 16) / 128;
    l.start = (int)(128 * random_below((uint32_t)room));
    if (steps == 1 && l.swizzle == 128 && !mn_major) /* a step along k inside the swizzled row */
        l.start += (int)(32 * random_below(4));
    return l;
}

static int value_of_a(const bench *b, const layout *l, int row, int k)
{
    if (variants[b->p->variant].form != RS)
        return element_at((const unsigned char *)b->x, l, b->t, row, k);
    /* four registers a thread: rows g and g + 8 of the warp's 16; then 16 more bytes of k */
    int per = b->t == TF32 ? 1 : 2, half = k / (4 * per), i = row % 16 / 8 + 2 * half;
    int thread = row / 16 * 32 + row % 8 * 4 + k % (4 * per) / per;
    uint32_t word = b->x[WORDS + 4 * thread + i];
    return decode(b->t, per == 1 ? word : k % 2 ? word >> 16 : word & 0xffff);
}

static int count_wrong(const bench *b, layout la, layout lb)
{
    const launch *p = b->p;
    int depth = b->t == TF32 ? 8 : 16, wrong = 0, steps = variants[p->variant].form == X4 ? 4 : 1;
    const float *c = (const float *)(b->x + WORDS + 512);
    static int left[4][ROWS][16], right[4][256][16];
    for (int s = 0; s < steps; s++, la.start += 16 * p->a_step, lb.start += 16 * p->b_step)
        for (int k = 0; k < depth; k++) {
            for (int row = 0; row < ROWS; row++)
                left[s][row][k] = value_of_a(b, &la, row, k);
            for (int column = 0; column < p->n; column++)
                right[s][column][k] = element_at((const unsigned char *)b->x, &lb, b->t, column, k);
        }
    for (int row = 0; row < ROWS; row++)
        for (int column = 0; column < p->n; column++) {
            int at = register_of(p->n, row, column), sum = p->accumulate ? (int)c[at] : 0;
            for (int s = 0; s < steps; s++)
                for (int k = 0; k < depth; k++)
                    sum += left[s][row][k] * right[s][column][k];
            wrong += b->out[at] != (float)sum;
        }
    return wrong;
}

static void one_product(bench *b, const emu_kernel *k, int n, int v)
{
    int steps = variants[v].form == X4 ? 4 : 1;
    launch *p = b->p;
    layout la = draw_layout(b->t, ROWS, variants[v].a_mn, steps, &p->a_step);
    layout lb = draw_layout(b->t, n, variants[v].b_mn, steps, &p->b_step);
    p->n = n;
    p->variant = v;
    p->accumulate = random_below(3) != 0;
    memcpy(p->a, (int[]){la.start, la.leading, la.stride, la.swizzle}, sizeof p->a);
    memcpy(p->b, (int[]){lb.start, lb.leading, lb.stride, lb.swizzle}, sizeof p->b);
    void *args[] = {&b->x, &b->p, &b->out};
    static const char *const orders[] = {"forward", "reverse", "seed:1"};
    CHECK_OK(cj_emu_device_order(b->e->device, orders[random_below(3)]));
    CHECK_OK(cj_emu_device_async(b->e->device, random_below(2) ? "issue" : "wait"));
    CHECK_OK(emu_launch(k, 1, THREADS, SHARED, args));
    int wrong = count_wrong(b, la, lb);
    CHECK_THAT(wrong == 0, "%s n%d variant %d: %d wrong; a %d %d %d %d step %d, b %d %d %d %d step %d", type_names[b->t], n, v,
               wrong, la.start, la.leading, la.stride, la.swizzle, p->a_step, lb.start, lb.leading, lb.stride, lb.swizzle,
               p->b_step);
}

static void every_shape(emu *e, type t)
{
    bench b = {e, t, emu_alloc(e, (WORDS + 512 + 128 * 128) * 4), emu_alloc(e, sizeof(launch)), emu_alloc(e, 128 * 128 * 4)};
    emu_kernel k = emu_build(e, kernel_text(t), "iwo");
    for (int i = 0; i < WORDS + 512; i++) {
        int low = (int)random_below(17) - 8, high = (int)random_below(17) - 8;
        b.x[i] = t == TF32 ? encode(t, low) : encode(t, low) | encode(t, high) << 16;
    }
    for (int i = 0; i < 128 * 128; i++)
        ((float *)b.x)[WORDS + 512 + i] = (float)random_below(1000);
    for (int n = 8; n <= 256; n += 8)
        for (int v = 0; v < N_VARIANTS; v++)
            if (t != TF32 || !(variants[v].a_mn || variants[v].b_mn))
                one_product(&b, &k, n, v);
    e->device->free(e->device, b.x);
    e->device->free(e->device, b.p);
    e->device->free(e->device, b.out);
    emu_drop(&k);
}

/* ---- Rules ---- */

/* A correct kernel, line by line: all elements are 1, and d of 64 x 32 begins as 0 and becomes 16. */
enum { LINES = 16, OUTPUTS = 128 * 16 };
static const char *const correct[LINES] = {
    "extern \"C\" __global__ void __launch_bounds__(256) k(float *y, int n)",
    "{",
    "    unsigned *s = (unsigned *)shared_memory();",
    "    for (int i = threadIdx.x; i < 1024; i += blockDim.x) s[i] = 0x3c003c00;",
    "    fence_proxy_async();",
    "    __syncthreads();",
    "    unsigned long long a = wgmma_descriptor(s, 128, 256, 0), b = wgmma_descriptor(s + 512, 128, 256, 0);",
    "    float d[16], e[16];",
    "    for (int i = 0; i < 16; i++) d[i] = e[i] = 0;",
    "    wgmma_fence();",
    "    wgmma_f16_n32_ss(d, a, b, 1);",
    "    wgmma_commit();",
    "    wgmma_wait<0>();",
    "    wgmma_hold(d);",
    "    for (int i = 0; i < 16; i++) y[threadIdx.x * 16 + i] = d[i];",
    "}",
};

/* The kernel with one line (from 1; 0: none) replaced. */
static emu_kernel build_with(emu *e, int line, const char *instead)
{
    char text[4096] = "";
    for (int i = 1; i <= LINES; i++) {
        strcat(text, i == line ? instead : correct[i - 1]);
        strcat(text, "\n");
    }
    return emu_build(e, text, "on");
}

static convjit_status run_once(const emu_kernel *k, const char *mode, const char *order, unsigned threads, float *y)
{
    cj_device *d = k->e->device;
    float *out = emu_alloc(k->e, OUTPUTS * 4);
    int n = 0;
    void *args[] = {&out, &n};
    CHECK_OK(cj_emu_device_async(d, mode));
    CHECK_OK(cj_emu_device_order(d, order));
    convjit_status status = emu_launch(k, 1, threads, 4096, args);
    memcpy(y, out, OUTPUTS * 4);
    d->free(d, out);
    return status;
}

/* Runs in both modes, and all outputs are that value. */
static void gives(emu *e, int line, const char *instead, float value)
{
    static const char *const modes[] = {"wait", "issue"}, *const orders[] = {"forward", "reverse", "seed:5"};
    emu_kernel k = build_with(e, line, instead);
    for (int i = 0; i < 6; i++) {
        float y[OUTPUTS];
        CHECK_OK(run_once(&k, modes[i % 2], orders[i % 3], THREADS, y));
        int wrong = 0;
        for (int j = 0; j < OUTPUTS; j++)
            wrong += y[j] != value;
        CHECK_THAT(wrong == 0, "\"%s\", %s: %d outputs are not %g, the first is %g", instead, modes[i % 2], wrong, (double)value,
                   (double)y[0]);
    }
    emu_drop(&k);
}

/* Fails in both modes, with that message. */
static void fails(emu *e, int line, const char *instead, unsigned threads, const char *message)
{
    emu_kernel k = build_with(e, line, instead);
    float y[OUTPUTS];
    CHECK_FAILS(run_once(&k, "issue", "forward", threads, y), CONVJIT_EMULATOR, message);
    CHECK_FAILS(run_once(&k, "wait", "forward", threads, y), CONVJIT_EMULATOR, message);
    emu_drop(&k);
}

/* Registers that are read too early are poison, where effects are late. */
static void poisons(emu *e, int line, const char *instead)
{
    emu_kernel k = build_with(e, line, instead);
    float y[OUTPUTS];
    CHECK_OK(run_once(&k, "wait", "forward", THREADS, y));
    int numbers = 0;
    for (int i = 0; i < OUTPUTS; i++)
        numbers += !isnan(y[i]);
    CHECK_THAT(numbers == 0, "\"%s\": %d outputs are numbers", instead, numbers);
    emu_drop(&k);
}

static void right_uses(emu *e)
{
    gives(e, 0, "", 16);
    gives(e, 11, "wgmma_f16_n32_ss(d, a, b, 0); wgmma_f16_n32_ss(d, a, b, 1);", 32);
    gives(e, 11, "wgmma_bf16_n32_ss(d, a, b, 0); wgmma_f16_n32_ss(d, a, b, 0);", 16);
    /* Two groups under way, of different registers; the second is still going on when the first is used. */
    gives(e, 11, "wgmma_f16_n32_ss(d, a, b, 0); wgmma_commit(); wgmma_f16_n32_ss(e, a, b, 1); wgmma_commit(); wgmma_wait<1>();"
          " for (int i = 0; i < 16; i++) y[threadIdx.x * 16 + i] = d[i];", 16);
    /* Registers that nobody touched need no other fence; those that somebody did need one. */
    gives(e, 12, "wgmma_commit(); wgmma_wait<0>(); wgmma_f16_n32_ss(d, a, b, 1); wgmma_commit();", 32);
    gives(e, 12, "wgmma_commit(); wgmma_wait<0>(); d[0] += 0; wgmma_fence(); wgmma_f16_n32_ss(d, a, b, 1); wgmma_commit();", 32);
    gives(e, 10, "unsigned r[4] = {0x3c003c00, 0x3c003c00, 0x3c003c00, 0x3c003c00}; wgmma_fence(); wgmma_f16_n32_rs(d, r, b, 1);", 32);
}

static void registers(emu *e)
{
    fails(e, 10, "", THREADS, "wgmma_f16_n32_ss on line 11: no wgmma_fence before the first wgmma of this warpgroup");
    fails(e, 10, "wgmma_fence(); d[3] += 1;", THREADS, "wgmma_f16_n32_ss on line 11: d[3] was written since the last wgmma_fence");
    fails(e, 10, "wgmma_fence(); if (threadIdx.x == 70) d[15] = 1;", THREADS,
          "thread (70,0,0): wgmma_f16_n32_ss on line 11: d[15] was written since the last wgmma_fence");
    fails(e, 12, "wgmma_commit(); wgmma_wait<0>(); d[1] = 2; wgmma_f16_n32_ss(d, a, b, 1); wgmma_commit();", THREADS,
          "wgmma_f16_n32_ss on line 12: d[1] was written since the last wgmma_fence");
    fails(e, 12, "wgmma_commit(); d[2] = 5;", THREADS,
          "wgmma_wait on line 13: d[2] of wgmma_f16_n32_ss on line 11 was changed before a wgmma_wait for that");
    fails(e, 12, "wgmma_commit(); d[2] = 5; wgmma_fence();", THREADS,
          "wgmma_fence on line 12: d[2] of wgmma_f16_n32_ss on line 11 was changed before a wgmma_wait for that");
    fails(e, 11, "unsigned r[4] = {1, 2, 3, 4}; wgmma_f16_n32_rs(d, r, b, 1);", THREADS,
          "wgmma_f16_n32_rs on line 11: a["); /* one of them may have had that value */
    fails(e, 10, "unsigned r[4] = {}; wgmma_fence(); wgmma_f16_n32_rs(d, r, b, 1); r[2] = 1;", THREADS,
          "wgmma_f16_n32_ss on line 11: a[2] of wgmma_f16_n32_rs on line 10 was changed before a wgmma_wait for that");
    fails(e, 11, "wgmma_f16_n32_ss(d, a, b, 1); wgmma_tf32_n32_ss(d, a, b, 1);", THREADS,
          "wgmma_tf32_n32_ss on line 11: registers of d belong to wgmma_f16_n32_ss on line 11, which is under way");
    fails(e, 11, "wgmma_f16_n32_ss(d, a, b, 1); wgmma_f16_n16_ss(*(float (*)[8])&d[4], a, b, 1);", THREADS,
          "wgmma_f16_n16_ss on line 11: registers of d belong to wgmma_f16_n32_ss on line 11");
    fails(e, 11, "wgmma_f16_n32_ss(d, a, b, 1); wgmma_f16_n32_rs(e, *(unsigned (*)[4])&d[4], b, 1);", THREADS,
          "wgmma_f16_n32_rs on line 11: registers of a belong to wgmma_f16_n32_ss on line 11");
    poisons(e, 12, "wgmma_commit(); for (int i = 0; i < 16; i++) y[threadIdx.x * 16 + i] = d[i]; wgmma_wait<0>(); return;");
    poisons(e, 13, "wgmma_wait<1>(); for (int i = 0; i < 16; i++) y[threadIdx.x * 16 + i] = d[i]; wgmma_wait<0>(); return;");
}

static void participants(emu *e)
{
    fails(e, 11, "if (threadIdx.x < 96) wgmma_f16_n32_ss(d, a, b, 1);", THREADS,
          "thread (96,0,0): wgmma_commit on line 12: divergent warpgroup: thread (0,0,0) waits in wgmma_f16_n32_ss on line 11");
    fails(e, 10, "if (threadIdx.x >= 96) return; wgmma_fence();", THREADS,
          "deadlock: missing participant: thread (0,0,0) waits in wgmma_fence on line 10 for 32 threads of its warpgroup, such as "
          "thread (96,0,0), which has returned");
    fails(e, 0, "", 96, "wgmma_fence on line 10: missing participant: it takes a warpgroup of 128 threads, and from thread 0 on "
          "the block has 96");
    fails(e, 10, "b += threadIdx.x == 77; wgmma_fence();", THREADS,
          "thread (77,0,0): wgmma_f16_n32_ss on line 11: the descriptors of a warpgroup must be equal: a 0x");
    fails(e, 11, "wgmma_f16_n32_ss(d, a, b, threadIdx.x < 64);", THREADS,
          "thread (64,0,0): wgmma_f16_n32_ss on line 11: accumulate must be the same for a warpgroup: 0, and 1 of thread (0,0,0)");
    fails(e, 11, "if (threadIdx.x < 64) wgmma_f16_n32_ss<0, 0>(d, a, b, 1); else wgmma_f16_n32_ss<0, 1>(d, a, b, 1);", THREADS,
          "divergent warpgroup: thread (0,0,0) has another major-ness");
}

static void operands(emu *e)
{
    fails(e, 7, "unsigned long long a = wgmma_descriptor(s, 128, 256, 0), b = wgmma_descriptor(s + 896, 128, 256, 0);", THREADS,
          "wgmma_f16_n32_ss on line 11: out of bounds: b[0][16] is at offset 4096 of shared memory, which has 4096 bytes");
    fails(e, 7, "unsigned long long a = wgmma_descriptor(s, 128, 1024, 0), b = a;", THREADS, "out of bounds: a[32][0] is at offset 4096");
    fails(e, 7, "unsigned long long a = wgmma_descriptor(s + 2, 128, 256, 0), b = a;", THREADS,
          "wgmma_descriptor on line 7: the start ");
    fails(e, 7, "unsigned long long a = wgmma_descriptor(s, 8, 256, 0), b = a;", THREADS,
          "wgmma_descriptor on line 7: leading and stride must be multiples of 16 (leading 8, stride 256, swizzle 0)");
    fails(e, 7, "unsigned long long a = wgmma_descriptor(s, 128, 1 << 18, 0), b = a;", THREADS, "must be less than 262144");
    fails(e, 7, "unsigned long long a = wgmma_descriptor(s, 128, 256, 48), b = a;", THREADS, "swizzle must be 0, 32, 64 or 128");
    fails(e, 7, "unsigned long long a = wgmma_descriptor(y, 128, 256, 0), b = a;", THREADS,
          "wgmma_descriptor on line 7: the start ");
    fails(e, 10, "a -= 1024; wgmma_fence();", THREADS, "wgmma_f16_n32_ss on line 11: descriptor a, 0x");
    fails(e, 10, "b |= 1ull << 49; wgmma_fence();", THREADS, "wgmma_f16_n32_ss on line 11: descriptor b, 0x2");
    fails(e, 4, "for (int i = threadIdx.x; i < 512; i += blockDim.x) s[i] = 0x3c003c00;", THREADS, "wgmma_f16_n32_ss on line 11: ");
    /* Written by ordinary stores and not shown to the async proxy; or with no barrier behind. */
    fails(e, 5, "", THREADS, "fence_proxy_async");
    fails(e, 6, "", THREADS, "wgmma_f16_n32_ss on line 11");
    /* Overwritten while it is read, by this warpgroup and by another one. */
    fails(e, 12, "wgmma_commit(); if (threadIdx.x == 3) s[0] = 0;", THREADS, "wgmma_f16_n32_ss on line 11 still reads");
    gives(e, 13, "wgmma_wait<0>(); if (threadIdx.x == 3) s[0] = 0;", 16);
    fails(e, 12, "", THREADS, "wgmma_f16_n32_ss on line 11");
    fails(e, 13, "", THREADS, "wgmma_f16_n32_ss on line 11");
}

/* Another warpgroup overwrites an operand: behind the wait and a barrier; behind the barrier only; behind nothing. */
static void two_warpgroups(emu *e)
{
    static const char *const product = "if (threadIdx.x < 128) { wgmma_fence(); wgmma_f16_n32_ss(d, a, b, 1); wgmma_commit(); ";
    static const char *const overwrite = "if (threadIdx.x == 200) s[700] = 0; ";
    char text[512];
    float y[OUTPUTS];
    snprintf(text, sizeof text, "%s wgmma_wait<0>(); } __syncthreads(); %s return;", product, overwrite);
    emu_kernel k = build_with(e, 10, text);
    CHECK_OK(run_once(&k, "wait", "forward", 256, y));
    CHECK_OK(run_once(&k, "issue", "reverse", 256, y));
    emu_drop(&k);
    snprintf(text, sizeof text, "%s } __syncthreads(); %s if (threadIdx.x < 128) wgmma_wait<0>(); return;", product, overwrite);
    fails(e, 10, text, 256, "thread (200,0,0): writes 4 bytes on line 10 at offset 2800 of shared memory, which wgmma_f16_n32_ss on "
          "line 10 still reads");
    snprintf(text, sizeof text, "%s wgmma_wait<0>(); } %s return;", product, overwrite);
    k = build_with(e, 10, text);
    CHECK_FAILS(run_once(&k, "wait", "forward", 256, y), CONVJIT_EMULATOR, "wgmma_f16_n32_ss on line 10");
    CHECK_FAILS(run_once(&k, "wait", "reverse", 256, y), CONVJIT_EMULATOR, "wgmma_f16_n32_ss on line 10: reads offset 2800");
    emu_drop(&k);
}

/* ---- setmaxnreg ---- */

/* Three warpgroups, the first of which does the one thing and the others the other. */
static convjit_status exchange(emu *e, const char *bounds, const char *first, const char *others)
{
    char text[1024];
    snprintf(text, sizeof text,
             "extern \"C\" __global__ void %s k(float *y, int n)\n"
             "{\n"
             "    if (threadIdx.x < 128) { %s }\n"
             "    else { %s }\n"
             "    y[threadIdx.x] = 1;\n"
             "}\n", bounds, first, others);
    emu_kernel k = emu_build(e, text, "on");
    float *y = emu_alloc(e, 384 * 4);
    int n = 0;
    void *args[] = {&y, &n};
    convjit_status status = emu_launch(&k, 1, 384, 1024, args);
    e->device->free(e->device, y);
    emu_drop(&k);
    return status;
}

static void setmaxnreg(emu *e)
{
    static const char *const bounds = "__launch_bounds__(384, 1)"; /* 168 registers a thread */
    static const char *const orders[] = {"forward", "reverse", "seed:9"};
    for (int i = 0; i < 3; i++) {
        CHECK_OK(cj_emu_device_order(e->device, orders[i]));
        CHECK_OK(exchange(e, bounds, "registers_decrease<40>();", "registers_increase<232>();"));
    }
    CHECK_OK(cj_emu_device_order(e->device, "forward"));
    CHECK_FAILS(exchange(e, bounds, "registers_decrease<40>();", "registers_increase<240>();"), CONVJIT_EMULATOR,
                "wait in registers_increase on line 4 for 9216 registers, and the block's pool has 7168");
    CHECK_FAILS(exchange(e, bounds, "", "registers_increase<232>();"), CONVJIT_EMULATOR,
                "deadlock: thread (128,0,0) and its warpgroup wait in registers_increase on line 4 for 8192 registers, and the block's "
                "pool has 0");
    CHECK_FAILS(exchange(e, "__launch_bounds__(384)", "registers_decrease<176>();", ""), CONVJIT_EMULATOR,
                "registers_decrease on line 3: to 176 registers, and a thread of this warpgroup has 168");
    CHECK_FAILS(exchange(e, bounds, "registers_increase<160>();", ""), CONVJIT_EMULATOR,
                "registers_increase on line 3: to 160 registers, and a thread of this warpgroup has 168");
    CHECK_FAILS(exchange(e, bounds, "registers_decrease<36>();", ""), CONVJIT_EMULATOR, "36 is no multiple of 8 from 24 to 256");
    CHECK_FAILS(exchange(e, bounds, "registers_decrease<16>();", ""), CONVJIT_EMULATOR, "16 is no multiple of 8 from 24 to 256");
    CHECK_FAILS(exchange(e, "", "registers_decrease<40>();", ""), CONVJIT_EMULATOR, "the kernel has no __launch_bounds__");
    CHECK_FAILS(exchange(e, bounds, "if (threadIdx.x != 9) registers_decrease<40>();", ""), CONVJIT_EMULATOR,
                "waits in registers_decrease on line 3 for 1 threads of its warpgroup, such as thread (9,0,0)");
    CHECK_FAILS(exchange(e, "__launch_bounds__(256)", "", ""), CONVJIT_INVALID, "and its __launch_bounds__ allow 256");
}

int main(void)
{
    emu e = emu_open();
    for (type t = F16; t <= TF32; t++)
        every_shape(&e, t);
    right_uses(&e);
    registers(&e);
    participants(&e);
    operands(&e);
    two_warpgroups(&e);
    setmaxnreg(&e);
    emu_close(&e);
    return check_done("emu/wgmma");
}
