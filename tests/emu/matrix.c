/* matrix.c: ldmatrix, stmatrix, mma.sync and f32_to_tf32 of the emulated device, against what the PTX ISA says of them. */
#include <math.h>
#include "emu_test.h"

enum { LANES = 32, ROUNDS = 50, SHARED = 4096, ROWS = SHARED / 16 };

static uint64_t random_state = 1;

static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static const char *const orders[] = {"forward", "reverse", "seed:1", "seed:2"};
enum { N_ORDERS = sizeof orders / sizeof *orders };

/* ---- ldmatrix, stmatrix ---- */

typedef struct moves {
    uint32_t *x, *out;
    int32_t *rows; /* numbers of 16-byte rows of shared memory, a set of 32 for each round */
} moves;

/* Distinct rows for the lanes that count, nonsense for the others. */
static void draw_rows(int32_t *rows, int used)
{
    for (int i = 0; i < LANES; i++) {
        bool again = true;
        while (again) {
            rows[i] = (int32_t)(random_bits() % ROWS);
            again = false;
            for (int j = 0; j < i; j++)
                again = again || rows[j] == rows[i];
        }
    }
    for (int i = used; i < LANES; i++)
        rows[i] = -1000000 - i;
}

/* Which row and column of the 8x8 matrix the h-th half of a lane's register is. */
static void place_of(int lane, int h, bool transposed, int *row, int *column)
{
    int major = lane / 4, minor = lane % 4 * 2 + h;
    *row = transposed ? minor : major;
    *column = transposed ? major : minor;
}

static uint16_t *element(void *shared, const int32_t *rows, int matrix, int row, int column)
{
    return (uint16_t *)shared + 8 * rows[8 * matrix + row] + column;
}

static int wrong_loads(const moves *m, int count, bool transposed)
{
    int wrong = 0;
    for (int round = 0; round < ROUNDS; round++)
        for (int lane = 0; lane < LANES; lane++)
            for (int i = 0; i < 2 * count; i++) {
                int row, column;
                place_of(lane, i % 2, transposed, &row, &column);
                const uint16_t *halves = (const uint16_t *)&m->out[(round * LANES + lane) * count];
                wrong += halves[i] != *element(m->x, &m->rows[round * LANES], i / 2, row, column);
            }
    return wrong;
}

/* Each round's words of shared memory begin as the round's number. */
static int wrong_stores(const moves *m, int count, bool transposed)
{
    int wrong = 0;
    for (int round = 0; round < ROUNDS; round++) {
        uint32_t shared[SHARED / 4];
        for (int i = 0; i < SHARED / 4; i++)
            shared[i] = (uint32_t)round;
        for (int lane = 0; lane < LANES; lane++)
            for (int i = 0; i < 2 * count; i++) {
                int row, column;
                place_of(lane, i % 2, transposed, &row, &column);
                const uint16_t *halves = (const uint16_t *)&m->x[(round * LANES + lane) * count];
                *element(shared, &m->rows[round * LANES], i / 2, row, column) = halves[i];
            }
        wrong += memcmp(shared, &m->out[round * SHARED / 4], SHARED) != 0;
    }
    return wrong;
}

static void move(emu *e, const moves *m, int count, bool load, bool transposed)
{
    static const char *const source =
        "extern \"C\" __global__ void __launch_bounds__(32) k(const unsigned *x, const int *rows, unsigned *out, int n)\n"
        "{\n"
        "    unsigned *s = (unsigned *)shared_memory();\n"
        "    for (int round = 0; round < n; round++) {\n"
        "        unsigned r[%d];\n"
        "        unsigned char *row = shared_memory() + 16 * (long long)rows[32 * round + threadIdx.x];\n"
        "        for (int i = threadIdx.x; i < 1024; i += 32) s[i] = %s;\n"
        "        __syncthreads();\n"
        "%s"
        "        __syncthreads();\n"
        "    }\n"
        "}\n";
    char name[32], body[512], text[2048];
    snprintf(name, sizeof name, "%s_x%d%s", load ? "ldmatrix" : "stmatrix", count, transposed ? "_trans" : "");
    if (load)
        snprintf(body, sizeof body,
                 "        %s(r, row);\n"
                 "        for (int i = 0; i < %d; i++) out[(32 * round + threadIdx.x) * %d + i] = r[i];\n", name, count, count);
    else
        snprintf(body, sizeof body,
                 "        for (int i = 0; i < %d; i++) r[i] = x[(32 * round + threadIdx.x) * %d + i];\n"
                 "        %s(row, r);\n"
                 "        __syncthreads();\n"
                 "        for (int i = threadIdx.x; i < 1024; i += 32) out[1024 * round + i] = s[i];\n", count, count, name);
    snprintf(text, sizeof text, source, count, load ? "x[i]" : "round", body);
    emu_kernel k = emu_build(e, text, "iwon");
    int n = ROUNDS;
    void *args[] = {(void *)(uintptr_t)&m->x, (void *)(uintptr_t)&m->rows, (void *)(uintptr_t)&m->out, &n};
    for (int round = 0; round < ROUNDS; round++)
        draw_rows(&m->rows[LANES * round], 8 * count);
    for (int o = 0; o < N_ORDERS; o++) {
        CHECK_OK(cj_emu_device_order(e->device, orders[o]));
        CHECK_OK(emu_launch(&k, 1, LANES, SHARED, args));
        int wrong = load ? wrong_loads(m, count, transposed) : wrong_stores(m, count, transposed);
        CHECK_THAT(wrong == 0, "%s, order %s: %d wrong", name, orders[o], wrong);
    }
    emu_drop(&k);
}

static void moves_of_matrices(emu *e)
{
    moves m = {emu_alloc(e, ROUNDS * LANES * 16), emu_alloc(e, ROUNDS * SHARED), emu_alloc(e, ROUNDS * LANES * 4)};
    for (int i = 0; i < ROUNDS * LANES * 4; i++)
        m.x[i] = random_bits() << 16 | (random_bits() & 0xffff);
    for (int form = 0; form < 12; form++)
        move(e, &m, 1 << form % 3, form < 6, form / 3 % 2);
    e->device->free(e->device, m.x);
    e->device->free(e->device, m.out);
    e->device->free(e->device, m.rows);
}

/* ---- mma.sync ---- */

/* A small integer as that element. */
static uint32_t encode(const char *type, int value)
{
    float f = (float)value;
    uint32_t bits;
    memcpy(&bits, &f, 4);
    if (strcmp(type, "tf32") == 0)
        return bits | (random_bits() & 0x1fff); /* which the hardware ignores */
    if (strcmp(type, "bf16") == 0)
        return bits >> 16;
    uint32_t magnitude = bits & 0x7fffffff;
    return (bits >> 16 & 0x8000) | (magnitude ? (magnitude >> 13) - (112 << 10) : 0);
}

/* One product: fragments from matrices, by the PTX ISA's formulas for m16n8k8 (tf32) and m16n8k16. */
static void fill_fragments(const char *type, int depth, int a[16][16], int b[16][8], uint32_t *out_a, uint32_t *out_b)
{
    for (int lane = 0; lane < LANES; lane++)
        for (int i = 0; i < 4; i++) {
            int row = lane / 4 + (i % 2 ? 8 : 0);
            if (depth == 8) {
                out_a[4 * lane + i] = encode(type, a[row][lane % 4 + (i / 2 ? 4 : 0)]);
                if (i < 2)
                    out_b[2 * lane + i] = encode(type, b[lane % 4 + (i ? 4 : 0)][lane / 4]);
                continue;
            }
            int column = lane % 4 * 2 + (i / 2 ? 8 : 0), k = lane % 4 * 2 + (i ? 8 : 0);
            out_a[4 * lane + i] = encode(type, a[row][column]) | encode(type, a[row][column + 1]) << 16;
            if (i < 2)
                out_b[2 * lane + i] = encode(type, b[k][lane / 4]) | encode(type, b[k + 1][lane / 4]) << 16;
        }
}

static void multiply(emu *e, const char *shape, const char *type, int depth)
{
    char text[1024];
    snprintf(text, sizeof text,
             "extern \"C\" __global__ void __launch_bounds__(32) k(const unsigned *x, float *out, int n)\n"
             "{\n"
             "    for (int i = 0; i < n; i++, x += 192, out += 128) {\n"
             "        unsigned a[4], b[2];\n"
             "        float d[4];\n"
             "        for (int j = 0; j < 4; j++) a[j] = x[4 * threadIdx.x + j];\n"
             "        for (int j = 0; j < 2; j++) b[j] = x[128 + 2 * threadIdx.x + j];\n"
             "        for (int j = 0; j < 4; j++) d[j] = (float)(7 * j) - threadIdx.x;\n"
             "        mma_%s_%s(d, a, b);\n"
             "        mma_%s_%s(d, a, b);\n"
             "        for (int j = 0; j < 4; j++) out[4 * threadIdx.x + j] = d[j];\n"
             "    }\n"
             "}\n", shape, type, shape, type);
    emu_kernel k = emu_build(e, text, "ion");
    uint32_t *x = emu_alloc(e, ROUNDS * 192 * 4);
    float *out = emu_alloc(e, ROUNDS * 128 * 4), expected[ROUNDS][128];
    for (int round = 0; round < ROUNDS; round++) {
        int a[16][16], b[16][8];
        for (int i = 0; i < 256; i++)
            a[i / 16][i % 16] = (int)(random_bits() % 129) - 64;
        for (int i = 0; i < 128; i++)
            b[i / 8][i % 8] = (int)(random_bits() % 129) - 64;
        fill_fragments(type, depth, a, b, &x[192 * round], &x[192 * round + 128]);
        for (int lane = 0; lane < LANES; lane++)
            for (int j = 0; j < 4; j++) {
                int sum = 0;
                for (int i = 0; i < depth; i++)
                    sum += a[lane / 4 + (j < 2 ? 0 : 8)][i] * b[i][lane % 4 * 2 + j % 2];
                expected[round][4 * lane + j] = (float)(7 * j - lane + 2 * sum);
            }
    }
    int n = ROUNDS;
    void *args[] = {&x, &out, &n};
    for (int o = 0; o < N_ORDERS; o++) {
        CHECK_OK(cj_emu_device_order(e->device, orders[o]));
        CHECK_OK(emu_launch(&k, 1, LANES, 0, args));
        CHECK_THAT(memcmp(out, expected, sizeof expected) == 0, "mma_%s_%s is wrong, order %s", shape, type, orders[o]);
    }
    e->device->free(e->device, x);
    e->device->free(e->device, out);
    emu_drop(&k);
}

/* Special values: subnormal, largest and infinite halves; a NaN makes its row NaN. */
static void special_values(emu *e)
{
    emu_kernel k = emu_build(e,
        "extern \"C\" __global__ void __launch_bounds__(32) k(const unsigned *x, float *out)\n"
        "{\n"
        "    unsigned a[4] = {threadIdx.x % 4 == 0 ? x[threadIdx.x / 4] : 0, 0, 0, 0}, b[2] = {threadIdx.x % 4 == 0 ? 0x3c00u : 0u, 0};\n"
        "    float d[4] = {0, 0, 0, 0};\n"
        "    mma_m16n8k16_f16(d, a, b);\n"
        "    if (threadIdx.x % 4 == 0) out[threadIdx.x / 4] = d[0];\n"
        "}\n", "io");
    static const uint32_t halves[8] = {1, 0x3ff, 0x8200, 0x400, 0x7bff, 0xfc00, 0x8000, 0x7c01};
    static const float expected[8] = {0x1p-24f, 1023 * 0x1p-24f, -512 * 0x1p-24f, 0x1p-14f, 65504, -INFINITY, 0, NAN};
    uint32_t *x = emu_alloc(e, sizeof halves);
    float *out = emu_alloc(e, sizeof expected);
    memcpy(x, halves, sizeof halves);
    void *args[] = {&x, &out};
    CHECK_OK(cj_emu_device_order(e->device, NULL));
    CHECK_OK(emu_launch(&k, 1, LANES, 0, args));
    for (int i = 0; i < 8; i++)
        CHECK_THAT(out[i] == expected[i] || (isnan(out[i]) && isnan(expected[i])), "half 0x%x: %g, expected %g", halves[i],
                   (double)out[i], (double)expected[i]);
    e->device->free(e->device, x);
    e->device->free(e->device, out);
    emu_drop(&k);
}

/* ---- f32_to_tf32 ---- */

static float nearest_tf32(float value)
{
    if (isnan(value) || isinf(value))
        return value;
    int exponent;
    double fraction = frexp(fabs((double)value), &exponent); /* in [0.5, 1) */
    int unit = exponent - 11 < -136 ? -136 : exponent - 11;  /* subnormals end at 2^-126 * 2^-10 */
    double steps = ldexp(fraction, exponent - unit);
    return (float)copysign(ldexp(floor(steps + 0.5), unit), (double)value);
}

static void conversion(emu *e)
{
    enum { N = 1 << 16 };
    emu_kernel k = emu_build(e,
        "extern \"C\" __global__ void __launch_bounds__(64) k(const float *x, unsigned *y, int n)\n"
        "{\n"
        "    for (int i = threadIdx.x; i < n; i += 64) y[i] = f32_to_tf32(x[i]);\n"
        "}\n", "ion");
    float *x = emu_alloc(e, N * 4), *y = emu_alloc(e, N * 4);
    for (int i = 0; i < N; i++) {
        uint32_t bits = random_bits() << 16 ^ random_bits();
        if (i % 4 == 0) /* ties */
            bits = (bits & 0xffffe000) | 0x1000;
        memcpy(&x[i], &bits, 4);
    }
    int n = N, wrong = 0;
    void *args[] = {&x, &y, &n};
    CHECK_OK(emu_launch(&k, 1, 64, 0, args));
    for (int i = 0; i < N; i++) {
        float expected = nearest_tf32(x[i]);
        uint32_t bits, nan;
        memcpy(&bits, &y[i], 4);
        memcpy(&nan, &x[i], 4); /* a NaN only loses bits, which may make it infinite */
        wrong += isnan(expected) ? bits != (nan & 0xffffe000) : y[i] != expected || (bits & 0x1fff);
    }
    CHECK_INT(wrong, 0);
    e->device->free(e->device, x);
    e->device->free(e->device, y);
    emu_drop(&k);
}

/* ---- Mistakes ---- */

#define HEAD "extern \"C\" __global__ void k(float *y, int n)\n"
#define FILL "    for (int i = threadIdx.x; i < 128; i += blockDim.x) ((float *)shared_memory())[i] = i;\n"

static convjit_status run(emu *e, const char *source, unsigned threads, int n)
{
    emu_kernel k = emu_build(e, source, "on");
    float *y = emu_alloc(e, 4096);
    void *args[] = {&y, &n};
    CHECK_OK(cj_emu_device_order(e->device, "forward"));
    convjit_status status = emu_launch(&k, 1, threads, 512, args);
    e->device->free(e->device, y);
    emu_drop(&k);
    return status;
}

static void mistakes(emu *e)
{
    static const char load[] = HEAD
        "{\n"
        FILL
        "    __syncthreads();\n"
        "    unsigned r[4];\n"
        "    ldmatrix_x4(r, shared_memory() + 16 * threadIdx.x + n);\n"
        "    y[threadIdx.x] = r[3];\n"
        "}\n";
    CHECK_OK(run(e, load, 32, 0));
    CHECK_FAILS(run(e, load, 32, 8), CONVJIT_EMULATOR,
                "thread (0,0,0): ldmatrix_x4 on line 6: the row must be aligned to 16 bytes, and is at offset 8");
    CHECK_FAILS(run(e, load, 32, 16), CONVJIT_EMULATOR, 
                "thread (31,0,0): ldmatrix_x4 on line 6: the row of 16 bytes is out of bounds: at offset 512 of shared memory");
    CHECK_FAILS(run(e, load, 31, 0), CONVJIT_EMULATOR, "ldmatrix_x4 on line 6: missing participant");
    CHECK_FAILS(run(e, HEAD
                    "{\n"
                    "    unsigned r[1];\n"
                    "    ldmatrix_x1(r, y);\n"
                    "}\n", 32, 0),
                CONVJIT_EMULATOR, "thread (0,0,0): ldmatrix_x1 on line 4: the row is no shared memory: offset 0 of output");
    /* A barrier is missing before the load, and behind it. */
    CHECK_FAILS(run(e, HEAD
                    "{\n"
                    FILL
                    "    unsigned r[4];\n"
                    "    ldmatrix_x4(r, shared_memory() + 16 * (threadIdx.x ^ 1));\n"
                    "}\n", 32, 0),
                CONVJIT_EMULATOR, "race: reads 4 bytes on line 5");
    CHECK_FAILS(run(e, HEAD
                    "{\n"
                    FILL
                    "    __syncwarp();\n"
                    "    unsigned r[4];\n"
                    "    ldmatrix_x4_trans(r, shared_memory() + 16 * threadIdx.x);\n"
                    "    if (n == 0) ((unsigned *)shared_memory())[4 * threadIdx.x] = 1;\n"
                    "}\n", 32, 0),
                CONVJIT_EMULATOR, "race: writes 4 bytes on line 7");
    CHECK_FAILS(run(e, HEAD
                    "{\n"
                    "    unsigned r[1];\n"
                    "    ldmatrix_x1(r, shared_memory() + 16 * threadIdx.x);\n"
                    "}\n", 32, 0),
                CONVJIT_EMULATOR, "reads 4 bytes on line 4 at offset 0 of shared memory that no thread");
    CHECK_FAILS(run(e, HEAD
                    "{\n"
                    "    unsigned r[2] = {1, 2};\n"
                    "    stmatrix_x2(shared_memory() + 16 * (threadIdx.x < 8 ? threadIdx.x : 15 - threadIdx.x), r);\n"
                    "}\n", 32, 0),
                CONVJIT_EMULATOR, "race: writes 4 bytes on line 4"); /* both matrices in one place */
    CHECK_FAILS(run(e, HEAD
                    "{\n"
                    "    unsigned a[4] = {}, b[2] = {};\n"
                    "    float d[4] = {};\n"
                    "    if (threadIdx.x != 5) mma_m16n8k8_tf32(d, a, b);\n"
                    "}\n", 32, 0),
                CONVJIT_EMULATOR,
                "deadlock: missing participant: thread (0,0,0) waits in mma_m16n8k8_tf32 on line 5 with mask 0xffffffff for thread "
                "(5,0,0), which has returned");
    CHECK_FAILS(run(e, HEAD
                    "{\n"
                    "    unsigned a[4] = {}, b[2] = {};\n"
                    "    float d[4] = {};\n"
                    "    if (threadIdx.x < 16)\n"
                    "        mma_m16n8k16_f16(d, a, b);\n"
                    "    else\n"
                    "        mma_m16n8k16_f16(d, a, b);\n"
                    "}\n", 32, 0),
                CONVJIT_EMULATOR, "waits in mma_m16n8k16_f16 on line 6 with mask 0xffffffff for thread (16,0,0), which waits in "
                "mma_m16n8k16_f16 on line 8");
}

int main(void)
{
    emu e = emu_open();
    moves_of_matrices(&e);
    multiply(&e, "m16n8k8", "tf32", 8);
    multiply(&e, "m16n8k16", "f16", 16);
    multiply(&e, "m16n8k16", "bf16", 16);
    special_values(&e);
    conversion(&e);
    mistakes(&e);
    emu_close(&e);
    return check_done("emu/matrix");
}
