/* families.h: how the cases of each family of vectors are drawn, and what their kernels are given. kernels/X.cu says
 * what the parameters and the input of kernel X are. Data are integers wherever arithmetic is done, so that every
 * result is exact. */
#ifndef FAMILIES_H
#define FAMILIES_H

#include <string.h>
#include "vectors.h"

static int minimum(int a, int b) { return a < b ? a : b; }
static int maximum(int a, int b) { return a > b ? a : b; }

/* ---- Data ---- */

static uint32_t *words(unsigned char *bytes) { return (uint32_t *)(void *)bytes; }

static void random_words(stream *r, uint32_t *to, int n)
{
    for (int i = 0; i < n; i += 2) {
        uint64_t bits = stream_next(r);
        to[i] = (uint32_t)bits;
        if (i + 1 < n) to[i + 1] = (uint32_t)(bits >> 32);
    }
}

static uint32_t float_bits(float v)
{
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

/* Words of the type ("f16", "bf16": two a word; "tf32", "f32": one) that are integers of at most that magnitude.
 * dirty: random bits below TF32's mantissa, which the hardware must ignore. */
static void random_integers(stream *r, const char *type, int magnitude, bool dirty, uint32_t *to, int n)
{
    uint32_t table[2 * 128 + 1]; /* conversions are slow */
    bool half = strcmp(type, "f16") == 0, wide = strcmp(type, "f32") == 0 || strcmp(type, "tf32") == 0;
    for (int v = -magnitude; !wide && v <= magnitude; v++)
        table[v + magnitude] = half ? cj_f32_to_f16((float)v) : cj_f32_to_bf16((float)v);
    for (int i = 0; i < n; i++) {
        uint64_t bits = stream_next(r);
        unsigned choices = 2u * (unsigned)magnitude + 1;
        if (wide)
            to[i] = float_bits((float)((int)(bits % choices) - magnitude)) | (dirty ? (uint32_t)(bits >> 51) : 0);
        else
            to[i] = table[bits % choices] | table[(bits >> 32) % choices] << 16;
    }
}

/* n distinct numbers below `of`. */
static void random_slots(stream *r, uint32_t *to, int n, int of)
{
    uint32_t all[1024];
    for (int i = 0; i < of; i++) all[i] = (uint32_t)i;
    for (int i = 0; i < n; i++) {
        int j = stream_range(r, i, of - 1);
        to[i] = all[j];
        all[j] = all[i];
    }
}

static void copy_parameters(vector_case *c, const int *line, int n)
{
    c->n_parameters = n;
    memcpy(c->parameters, line, (size_t)n * sizeof *line);
}

/* ---- cp.async ---- */

static void draw_cp_async(const family *f, stream *r, int *line)
{
    line[0] = 4 << stream_range(r, 0, 2);
    line[1] = stream_range(r, 0, 4);
    line[2] = 16 * stream_range(r, 1, 63);
}

static void prepare_cp_async(const family *f, const int *line, stream *r, vector_case *c)
{
    enum { COPIES = 512, WORDS = 2048 };
    uint32_t slots[COPIES];
    c->blocks = 1, c->threads = 128, c->smem = 1024 + 4 * WORDS;
    vector_memory(c, 4 * (WORDS + 3 * COPIES), 4 * (4 * COPIES + WORDS));
    copy_parameters(c, line, 3);
    random_words(r, words(c->in), WORDS);
    random_slots(r, slots, COPIES, COPIES);
    for (int i = 0; i < COPIES; i++) {
        uint32_t *entry = words(c->in) + WORDS + 3 * i;
        entry[0] = (uint32_t)(line[0] * stream_range(r, 0, 4 * WORDS / line[0] - 1));
        entry[1] = (uint32_t)line[0] * slots[i];
        entry[2] = (uint32_t)(stream_range(r, 0, 1) ? line[0] : stream_range(r, 0, line[0]));
    }
}

/* ---- Matrices ---- */

static void draw_matrix(const family *f, stream *r, int *line)
{
    line[0] = 1 << stream_range(r, 0, 2);
    line[1] = stream_range(r, 0, 1);
}

static void prepare_ldmatrix(const family *f, const int *line, stream *r, vector_case *c)
{
    c->blocks = 1, c->threads = 128, c->smem = 8192;
    vector_memory(c, 4 * (2048 + 128), 4 * 512);
    copy_parameters(c, line, 2);
    random_words(r, words(c->in), 2048);
    for (int i = 0; i < 128; i++) words(c->in)[2048 + i] = (uint32_t)stream_range(r, 0, 511);
}

static void prepare_stmatrix(const family *f, const int *line, stream *r, vector_case *c)
{
    c->blocks = 1, c->threads = 128, c->smem = 8192;
    vector_memory(c, 4 * (128 + 512), 4 * 2048);
    copy_parameters(c, line, 2);
    random_slots(r, words(c->in), 128, 512);
    random_words(r, words(c->in) + 128, 512);
}

static void draw_mma(const family *f, stream *r, int *line)
{
    line[0] = stream_range(r, 0, 2);
    line[1] = line[0] == 0 ? stream_range(r, 0, 1) : 0;
}

static void prepare_mma(const family *f, const int *line, stream *r, vector_case *c)
{
    static const char *const types[] = { "tf32", "f16", "bf16" };
    c->blocks = 1, c->threads = 128;
    vector_memory(c, 4 * 128 * 10, 4 * 128 * 4);
    copy_parameters(c, line, 1);
    for (int i = 0; i < 128; i++) {
        random_integers(r, types[line[0]], 100, line[1], words(c->in) + 10 * i, 6);
        random_integers(r, "f32", 100000, false, words(c->in) + 10 * i + 6, 4);
    }
}

static void draw_convert(const family *f, stream *r, int *line)
{
    line[0] = stream_range(r, 0, 3);
}

/* Any bits; magnitudes that a half has; ties and their neighbours; infinities and NaNs. */
static void prepare_convert(const family *f, const int *line, stream *r, vector_case *c)
{
    static const uint32_t tails[] = { 0x0fff, 0x1000, 0x1001, 0x2fff, 0x3000, 0x3001, 0x7fff, 0x8000, 0x8001 };
    c->blocks = 1, c->threads = 128;
    vector_memory(c, 4 * 1024, 4 * 4096);
    copy_parameters(c, line, 1);
    uint32_t *to = words(c->in);
    random_words(r, to, 1024);
    for (int i = 0; i < 1024; i++) {
        if (line[0] == 1 || line[0] == 2) to[i] = (to[i] & 0x807fffff) | (uint32_t)stream_range(r, 100, 145) << 23;
        if (line[0] == 2) to[i] = (to[i] & 0xffff0000) | tails[stream_range(r, 0, 8)];
        if (line[0] == 3) to[i] = (to[i] & ~(uint32_t)(0x7fffffu >> stream_range(r, 0, 24))) | 0x7f800000u;
    }
}

/* ---- Bulk copies, mbarriers, roles ---- */

static void draw_bulk(const family *f, stream *r, int *line)
{
    line[0] = 16 * stream_range(r, 1, 512);
    line[1] = 16 * stream_range(r, 0, (16384 - line[0]) / 16);
    line[2] = 16 * stream_range(r, 0, (8192 - line[0]) / 16);
    line[3] = 16 * stream_range(r, 1, 512);
    line[4] = 16 * stream_range(r, 0, (16384 - line[3]) / 16);
    line[5] = 16 * stream_range(r, 0, (16384 - line[3]) / 16);
    line[6] = stream_range(r, 0, 1);
}

static void prepare_bulk(const family *f, const int *line, stream *r, vector_case *c)
{
    c->blocks = 1, c->threads = 128, c->smem = 1024 + 16384;
    vector_memory(c, 8192, 2 * 16384);
    copy_parameters(c, line, 7);
    random_words(r, words(c->in), 2048);
}

static void draw_mbarrier(const family *f, stream *r, int *line)
{
    line[0] = stream_range(r, 1, 6);
    line[1] = stream_range(r, 1, 8);
}

/* Phases of that many arrivals, with questions between them whose answers do not depend on time. */
static void prepare_mbarrier(const family *f, const int *line, stream *r, vector_case *c)
{
    c->blocks = 1, c->threads = 32, c->smem = 1024 + 8192;
    vector_memory(c, 4 * (2048 + 512), 4 * (256 + 2048));
    random_words(r, words(c->in), 2048);
    uint32_t *op = words(c->in) + 2048, *end = op + 2 * 200;
    int arrivals = line[0], loaded = 0, parity = 0;
#define OPERATION(what, n) (*op++ = (what), *op++ = (uint32_t)(n))
    for (int phase = 0; phase < line[1] && end - op > 40; phase++, parity ^= 1) {
        for (int i = 0; i < arrivals; i++) {
            if (stream_range(r, 0, 2) == 0) OPERATION(3, stream_range(r, 0, 1));
            int bytes = 16 * stream_range(r, 1, 16);
            if (stream_range(r, 0, 1) && loaded + bytes <= 8192) {
                OPERATION(2, bytes);
                loaded += bytes;
            } else {
                OPERATION(1, 0);
            }
        }
        OPERATION(4, parity);
        OPERATION(3, parity);
        if (stream_range(r, 0, 9) == 0) {
            arrivals = stream_range(r, 1, 6);
            OPERATION(5, arrivals);
            parity = 1; /* the next phase is 0 again */
        }
    }
#undef OPERATION
    c->parameters[0] = (int)(op - (words(c->in) + 2048)) / 2;
    c->parameters[1] = line[0];
    c->n_parameters = 2;
}

static void draw_roles(const family *f, stream *r, int *line)
{
    line[0] = stream_range(r, 1, 14);
    line[1] = stream_range(r, 1, 8);
}

static void prepare_roles(const family *f, const int *line, stream *r, vector_case *c)
{
    c->blocks = 1, c->threads = 384, c->smem = 512;
    vector_memory(c, 4 * 128 * 8, 4 * 256);
    copy_parameters(c, line, 2);
    random_words(r, words(c->in), 128 * 8);
}

static const int cluster_sizes[] = { 2, 4, 8 };

static void draw_cluster(const family *f, stream *r, int *line)
{
    line[0] = cluster_sizes[stream_range(r, 0, 2)];
    line[1] = stream_range(r, 0, line[0] - 1);
    line[2] = stream_range(r, 0, line[0] - 1);
}

static void prepare_cluster(const family *f, const int *line, stream *r, vector_case *c)
{
    c->blocks = (unsigned)line[0], c->threads = 128, c->smem = 1024 + 2048;
    vector_memory(c, 4 * 256 * 8, 4 * 512 * (size_t)line[0]);
    copy_parameters(c, line + 1, 2);
    random_words(r, words(c->in), 256 * 8);
}

/* ---- Tensor copies ---- */

#define TENSOR_COLUMNS "rank type swizzle place d0 d1 d2 d3 d4 s1 s2 s3 s4 b0 b1 b2 b3 b4 e1 e2 e3 e4 c0 c1 c2 c3 c4"
enum { RANK, TYPE, SWIZZLE, PLACE, D, S = D + 5, B = S + 4, E = B + 5, C = E + 4, TENSOR_PARAMETERS = C + 5 };
enum { BOX_BYTES = 16384, TENSOR_BYTES = 98304, REGION_BYTES = 20480 };

static int tensor_step(const int *line, int i) { return i == 0 ? 1 : line[E + i - 1]; }
static int tensor_element(const int *line) { return line[TYPE] < 2 ? 4 : 2; } /* f32, tf32; f16, bf16 */

/* Bytes of shared memory of a box whose rows are that long. */
static int box_rows(const int *line, int row)
{
    for (int i = 1; i < line[RANK]; i++) row *= line[B + i];
    return row;
}

/* Bytes that a copy of the box moves. */
static int box_bytes(const int *line) { return box_rows(line, line[B] * tensor_element(line)); }

/* Bytes of shared memory from its first to its last: swizzled rows are as far apart as the swizzle is long. */
static int box_span(const int *line) { return line[SWIZZLE] ? box_rows(line, line[SWIZZLE]) : box_bytes(line); }

static int tensor_bytes(const int *line)
{
    return line[RANK] == 1 ? (line[D] * tensor_element(line) + 15) / 16 * 16 : line[S + line[RANK] - 2] * line[D + line[RANK] - 1];
}

/* Coordinates are those that the hardware takes: the first a multiple of 16 bytes, and those of a store not negative. */
static void draw_shape(stream *r, bool store, bool steps, int *line)
{
    static const int swizzles[] = { 0, 32, 64, 128 };
    for (int i = 0; i < TENSOR_PARAMETERS; i++) line[i] = i >= D && i < C ? 1 : 0;
    line[RANK] = stream_range(r, steps ? 2 : 1, 5);
    line[TYPE] = stream_range(r, 0, 3);
    line[SWIZZLE] = swizzles[stream_range(r, 0, 3)];
    line[PLACE] = 128 * stream_range(r, 0, 15);
    int element = tensor_element(line), chunks = line[SWIZZLE] ? line[SWIZZLE] / 16 : 16;
    line[B] = 16 / element * (line[SWIZZLE] && stream_range(r, 0, 9) < 7 ? chunks : stream_range(r, 1, chunks));
    line[D] = stream_range(r, 1, line[B] + 32);
    for (int i = 1; i < line[RANK]; i++) {
        if (steps) line[E + i - 1] = stream_range(r, 1, 4);
        line[B + i] = stream_range(r, 1, 24 / line[RANK]);
        line[D + i] = stream_range(r, 1, tensor_step(line, i) * line[B + i] + 4);
        int least = i == 1 ? line[D] * element : line[S + i - 2] * line[D + i - 1];
        line[S + i - 1] = (least + 15) / 16 * 16 + 16 * stream_range(r, 0, 2);
    }
    for (int i = 0; i < line[RANK]; i++) {
        int reach = tensor_step(line, i) * line[B + i];
        line[C + i] = stream_range(r, 0, 1) ? stream_range(r, 0, maximum(0, line[D + i] - reach))
                                            : stream_range(r, -reach - 1, line[D + i] + 1);
    }
    line[C] = line[C] / (16 / element) * (16 / element);
    for (int i = 0; store && i < line[RANK]; i++) line[C + i] = maximum(0, line[C + i]);
}

static void draw_tensor(const family *f, stream *r, int *line)
{
    do draw_shape(r, strcmp(f->type, "store") == 0, strcmp(f->form, "steps") == 0, line);
    while (box_span(line) > BOX_BYTES || tensor_bytes(line) > TENSOR_BYTES);
}

static void describe_tensor(vector_case *c, const int *line)
{
    static const cj_map_element elements[] = { CJ_MAP_F32, CJ_MAP_TF32, CJ_MAP_F16, CJ_MAP_BF16 };
    c->has_map = true;
    c->map = (cj_tensor_map){ .element = elements[line[TYPE]], .rank = line[RANK], .swizzle = line[SWIZZLE] };
    for (int i = 0; i < line[RANK]; i++) {
        c->map.dims[i] = line[D + i];
        if (i) c->map.strides[i - 1] = line[S + i - 1];
        c->map.box[i] = line[B + i];
        c->map.element_strides[i] = tensor_step(line, i);
    }
}

static void prepare_tensor(const family *f, const int *line, stream *r, vector_case *c)
{
    bool store = strcmp(f->type, "store") == 0;
    size_t tensor = (size_t)tensor_bytes(line);
    c->blocks = 1, c->threads = 128, c->smem = 1024 + REGION_BYTES;
    c->map_is_output = store;
    vector_memory(c, store ? REGION_BYTES : tensor, store ? tensor : REGION_BYTES);
    random_words(r, words(c->in), (int)(c->in_bytes / 4));
    if (store) memset(c->out + VECTOR_HEAD, 0x5a, c->out_bytes - VECTOR_HEAD);
    describe_tensor(c, line);
    int parameters[] = { store, line[RANK], line[C], line[C + 1], line[C + 2], line[C + 3], line[C + 4], line[PLACE],
                         box_bytes(line) };
    copy_parameters(c, parameters, 9);
}

static void draw_multicast(const family *f, stream *r, int *line)
{
    line[0] = cluster_sizes[stream_range(r, 0, 2)];
    line[1] = stream_range(r, 0, line[0] - 1);
    line[2] = stream_range(r, 1, (1 << line[0]) - 1);
    draw_tensor(f, r, line + 3);
}

static void prepare_multicast(const family *f, const int *line, stream *r, vector_case *c)
{
    const int *shape = line + 3;
    c->blocks = (unsigned)line[0], c->threads = 128, c->smem = 1024 + REGION_BYTES;
    vector_memory(c, (size_t)tensor_bytes(shape), (size_t)line[0] * REGION_BYTES);
    random_words(r, words(c->in), (int)(c->in_bytes / 4));
    describe_tensor(c, shape);
    int parameters[] = { line[1], line[2], shape[RANK], shape[C], shape[C + 1], shape[C + 2], shape[C + 3],
                         shape[C + 4], shape[PLACE], box_bytes(shape) };
    copy_parameters(c, parameters, 10);
}

/* ---- wgmma ---- */

#define WGMMA_COLUMNS "n a_mn b_mn a_swizzle a_start a_leading a_stride b_swizzle b_start b_leading b_stride " \
                      "accumulate a_step b_step dirty"
enum { WGMMA_SHARED = 65536, WGMMA_TEXT_SIZES = 8 };

static void names_wgmma(const family *f, int text, char lua[256])
{
    snprintf(lua, 256, "local TYPE, FORM, FIRST = '%s', '%s', %d", f->type, f->form, 8 + 8 * WGMMA_TEXT_SIZES * text);
}

/* Where an operand lies: swizzle, start, leading, stride, from `at` on. Half of all are laid out as a tensor copy
 * with that swizzle would write them, but may start at any multiple of 128; the others are any descriptor that stays
 * inside. */
static void draw_operand(stream *r, int rows, bool mn_major, int reach, int *at)
{
    static const int swizzles[] = { 0, 32, 64, 128 }, grains[] = { 1024, 128, 128, 128, 128, 32, 16 };
    int swizzle = swizzles[stream_range(r, 0, 3)], grain = grains[stream_range(r, 0, 6)];
    int groups = mn_major && swizzle ? (2 * rows + swizzle - 1) / swizzle : rows / 8; /* along M or N; two along K */
    int room = WGMMA_SHARED - 2048 - reach;
    at[0] = swizzle;
    at[1] = grain * stream_range(r, 0, minimum(16384, room / 4) / grain);
    int most = (room - at[1]) / (groups + 1);
    if (stream_range(r, 0, 1)) {
        int atom = swizzle ? 8 * swizzle : 128;
        at[2] = minimum(most / 16 * 16, mn_major || !swizzle ? atom * stream_range(r, 1, 3) : 16);
        at[3] = minimum(most / 16 * 16, atom * stream_range(r, 1, 2));
    } else {
        int unit = stream_range(r, 0, 1) ? 128 : 16;
        at[2] = unit * stream_range(r, 0, most / unit);
        at[3] = unit * stream_range(r, 0, most / unit);
    }
}

static void draw_wgmma(const family *f, stream *r, int *line)
{
    bool tf32 = strcmp(f->type, "tf32") == 0, rs = strcmp(f->form, "rs") == 0, x4 = strcmp(f->form, "ss_x4") == 0;
    memset(line, 0, 15 * sizeof *line);
    line[0] = 8 * (stream_range(r, 0, 1) ? stream_range(r, 1, 32) : stream_range(r, 1, 8));
    line[1] = tf32 || rs ? 0 : stream_range(r, 0, 1);
    line[2] = tf32 ? 0 : stream_range(r, 0, 1);
    line[12] = x4 ? stream_range(r, 0, stream_range(r, 0, 1) ? 8 : 256) : 0;
    line[13] = x4 ? stream_range(r, 0, stream_range(r, 0, 1) ? 8 : 256) : 0;
    if (!rs) draw_operand(r, 64, line[1], 3 * 16 * line[12], line + 3);
    draw_operand(r, line[0], line[2], 3 * 16 * line[13], line + 7);
    line[11] = stream_range(r, 0, 3) > 0;
    line[14] = tf32 ? stream_range(r, 0, 1) : 0;
}

static void prepare_wgmma(const family *f, const int *line, stream *r, vector_case *c)
{
    int d = 64 * line[0], n_shared = WGMMA_SHARED / 4;
    c->text = (line[0] / 8 - 1) / WGMMA_TEXT_SIZES;
    c->blocks = 1, c->threads = 128, c->smem = WGMMA_SHARED;
    vector_memory(c, WGMMA_SHARED + 4 * (512 + (size_t)d), 4 * (size_t)d);
    copy_parameters(c, line, 14);
    random_integers(r, f->type, 16, line[14], words(c->in), n_shared + 512);
    random_integers(r, "f32", 100000, false, words(c->in) + n_shared + 512, d);
}

/* ---- All ---- */

#define WGMMA(type, form, n) \
    { "wgmma_" type "_" form, "wgmma", WGMMA_COLUMNS, n, 4, names_wgmma, draw_wgmma, prepare_wgmma, type, form }
#define TENSOR(name, type, form) \
    { name, "tensor", TENSOR_COLUMNS, 1000, 1, NULL, draw_tensor, prepare_tensor, type, form }
static const family families[] = {
    { "cp_async", "cp_async", "bytes left place", 1000, 1, NULL, draw_cp_async, prepare_cp_async, "", "" },
    { "ldmatrix", "ldmatrix", "matrices trans", 1000, 1, NULL, draw_matrix, prepare_ldmatrix, "", "" },
    { "stmatrix", "stmatrix", "matrices trans", 1000, 1, NULL, draw_matrix, prepare_stmatrix, "", "" },
    { "mma", "mma", "type dirty", 1500, 1, NULL, draw_mma, prepare_mma, "", "" },
    { "convert", "convert", "kind", 1000, 1, NULL, draw_convert, prepare_convert, "", "" },
    { "bulk", "bulk", "load to from store from to read", 1000, 1, NULL, draw_bulk, prepare_bulk, "", "" },
    { "mbarrier", "mbarrier", "arrivals phases", 1000, 1, NULL, draw_mbarrier, prepare_mbarrier, "", "" },
    { "roles", "roles", "barrier rounds", 1000, 1, NULL, draw_roles, prepare_roles, "", "" },
    { "cluster", "cluster", "blocks write read", 1000, 1, NULL, draw_cluster, prepare_cluster, "", "" },
    TENSOR("tensor_load", "load", ""),
    TENSOR("tensor_load_steps", "load", "steps"),
    TENSOR("tensor_store", "store", ""),
    TENSOR("tensor_store_steps", "store", "steps"),
    { "multicast", "multicast", "blocks issuer mask " TENSOR_COLUMNS, 1000, 1, NULL, draw_multicast, prepare_multicast,
      "load", "" },
    WGMMA("f16", "ss", 1500), WGMMA("f16", "rs", 1000), WGMMA("f16", "ss_x4", 1000),
    WGMMA("bf16", "ss", 1000), WGMMA("bf16", "rs", 1000), WGMMA("bf16", "ss_x4", 1000),
    WGMMA("tf32", "ss", 1000), WGMMA("tf32", "rs", 1000), WGMMA("tf32", "ss_x4", 1000),
};
enum { FAMILIES = sizeof families / sizeof *families };

#endif
