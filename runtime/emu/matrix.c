/* matrix.c: ldmatrix, stmatrix and mma.sync: what the lanes of a warp do with 8x8 matrices; and products, for wgmma.c too.
 *
 * Fragments are as the PTX ISA draws them. With g = lane / 4 and t = lane % 4, a lane holds elements 2t and 2t + 1 of row g
 * of each 8x8 matrix of 16-bit elements, and of the 16x8 sums; of 4-byte elements it holds columns t and t + 4.
 */
#include <inttypes.h>
#include <string.h>
#include "emu.h"

static const cj_emu_fragment *fragment_of(const cj_thread *lane)
{
    return (const cj_emu_fragment *)(uintptr_t)lane->call.value;
}

/* ---- Elements ---- */

/* Without branches, as it is done often. */
static inline float f16_value(uint32_t half)
{
    uint32_t bits = (half & 0x7fff) << 13;
    float magnitude;
    memcpy(&magnitude, &bits, 4);
    magnitude *= 0x1p112f; /* 127 - 15, the difference of the exponents' biases; exact, for subnormals too */
    memcpy(&bits, &magnitude, 4);
    bits |= (half & 0x7c00) == 0x7c00 ? 0x7f800000u : 0; /* infinity, NaN */
    bits |= (half & 0x8000) << 16;
    memcpy(&magnitude, &bits, 4);
    return magnitude;
}

static inline float bits_value(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

unsigned cj_element_bytes(cj_emu_element element)
{
    return element == CJ_EMU_TF32 ? 4 : 2;
}

void cj_elements_to_float(cj_emu_element element, const void *from, float *to, unsigned n)
{
    const unsigned char *bytes = from;
    for (unsigned i = 0; i < n; i++) {
        uint16_t half;
        uint32_t word;
        switch (element) {
        case CJ_EMU_F16:
            memcpy(&half, bytes + 2 * (size_t)i, 2);
            to[i] = f16_value(half);
            break;
        case CJ_EMU_BF16:
            memcpy(&half, bytes + 2 * (size_t)i, 2);
            to[i] = bits_value((uint32_t)half << 16);
            break;
        default: /* the hardware does not look at the low 13 bits */
            memcpy(&word, bytes + 4 * (size_t)i, 4);
            to[i] = bits_value(word & 0xffffe000u);
        }
    }
}

/* Eight columns at a time, whose sums stay in registers. Sums are taken in the order of k: the hardware's is not known, and
 * for the integers that tests use it does not matter. */
void cj_multiply_add(float *d, const float *a, const float *b, unsigned rows, unsigned columns, unsigned depth)
{
    enum { TILE = 8 };
    for (unsigned row = 0; row < rows; row++)
        for (unsigned column = 0; column < columns; column += TILE) {
            float sums[TILE], *at = &d[row * columns + column];
            memcpy(sums, at, sizeof sums);
            for (unsigned k = 0; k < depth; k++) {
                const float left = a[row * depth + k], *right = &b[k * columns + column];
                for (unsigned i = 0; i < TILE; i++)
                    sums[i] += left * right[i];
            }
            memcpy(at, sums, sizeof sums);
        }
}

/* ---- mma.sync ---- */

void cj_fragment_a(cj_emu_element element, const unsigned a[4], unsigned lane, float *rows)
{
    unsigned pair = 4 / cj_element_bytes(element), depth = 8 * pair, g = lane / 4, t = lane % 4;
    for (unsigned i = 0; i < 4; i++)
        cj_elements_to_float(element, &a[i], &rows[(g + i % 2 * 8) * depth + i / 2 * 4 * pair + t * pair], pair);
}

static void fragment_b(cj_emu_element element, const unsigned b[2], unsigned lane, float *rows)
{
    unsigned pair = 4 / cj_element_bytes(element), g = lane / 4, t = lane % 4;
    float values[2];
    for (unsigned i = 0; i < 2; i++) {
        cj_elements_to_float(element, &b[i], values, pair);
        for (unsigned j = 0; j < pair; j++)
            rows[(i * 4 * pair + t * pair + j) * 8 + g] = values[j];
    }
}

static void multiply(const cj_thread *lanes, cj_emu_element element)
{
    float a[16 * 16], b[16 * 8], d[16 * 8];
    for (unsigned lane = 0; lane < CJ_EMU_WARP; lane++) {
        const cj_emu_fragment *f = fragment_of(&lanes[lane]);
        cj_fragment_a(element, f->a, lane, a);
        fragment_b(element, f->b, lane, b);
        for (unsigned i = 0; i < 4; i++)
            d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = f->d[i];
    }
    cj_multiply_add(d, a, b, 16, 8, 32 / cj_element_bytes(element));
    for (unsigned lane = 0; lane < CJ_EMU_WARP; lane++)
        for (unsigned i = 0; i < 4; i++)
            fragment_of(&lanes[lane])->d[i] = d[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2];
}

/* ---- ldmatrix, stmatrix ---- */

/* A row's address is given by one lane, and its elements are some other lanes': those are who reads or writes them. */
static void access_as(cj_worker *w, cj_thread *lane, const void *address, unsigned kind)
{
    cj_thread *me = w->current;
    w->current = lane;
    cj_access(address, 4, kind, (const void *)(uintptr_t)lane->call.line);
    w->current = me;
}

/* Faults unless the row that the current thread gives is shared memory of its own block. */
static void check_row(cj_worker *w, const char *name)
{
    cj_enter(w, name, w->current->call.line);
    size_t offset = cj_shared_range(w, fragment_of(w->current)->row, 16, 16, "row");
    if (offset / CJ_EMU_SHARED_STRIDE == w->current->rank)
        return;
    cj_worker_fault(w, "row is in the shared memory of another block");
    cj_worker_abandon(w);
}

/* Matrix m's row, columns 2c and 2c + 1: which lanes hold them, and in which half of r[m]. */
static void move_pair(cj_worker *w, cj_thread *lanes, unsigned m, unsigned row, unsigned c, bool load, bool transposed)
{
    unsigned char *pair = (unsigned char *)(uintptr_t)fragment_of(&lanes[8 * m + row])->row + 4 * c;
    unsigned kind = load ? CJ_EMU_READ : CJ_EMU_WRITE;
    if (!transposed) {
        cj_thread *lane = &lanes[4 * row + c];
        unsigned *r = &fragment_of(lane)->r[m];
        access_as(w, lane, pair, kind);
        memcpy(load ? (void *)r : pair, load ? (const void *)pair : r, 4);
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        cj_thread *lane = &lanes[4 * (2 * c + i) + row / 2];
        unsigned char *half = (unsigned char *)&fragment_of(lane)->r[m] + row % 2 * 2, *element = pair + 2 * i;
        if (load || i == 0) /* a word is written once */
            access_as(w, lane, pair, kind);
        memcpy(load ? half : element, load ? element : half, 2);
    }
}

static void move(cj_worker *w, cj_thread *lanes, const char *name, unsigned count, bool load, bool transposed)
{
    cj_thread *me = w->current;
    for (unsigned lane = 0; lane < 8 * count; lane++) {
        w->current = &lanes[lane];
        check_row(w, name);
    }
    w->current = me;
    for (unsigned m = 0; m < count; m++)
        for (unsigned row = 0; row < 8; row++)
            for (unsigned c = 0; c < 4; c++)
                move_pair(w, lanes, m, row, c, load, transposed);
}

void cj_matrix_collective(cj_worker *w, cj_thread *lanes, const char *name)
{
    cj_emu_warp_op op = lanes->call.op;
    switch (op) {
    case CJ_EMU_MMA_M16N8K8_TF32:
        multiply(lanes, CJ_EMU_TF32);
        break;
    case CJ_EMU_MMA_M16N8K16_F16:
        multiply(lanes, CJ_EMU_F16);
        break;
    case CJ_EMU_MMA_M16N8K16_BF16:
        multiply(lanes, CJ_EMU_BF16);
        break;
    default: {
        bool load = op < CJ_EMU_STMATRIX_X1;
        unsigned form = op - (load ? CJ_EMU_LDMATRIX_X1 : CJ_EMU_STMATRIX_X1);
        move(w, lanes, name, 1u << form % 3, load, form >= 3);
    }
    }
    w->primitive = NULL;
}
