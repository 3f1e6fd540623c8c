/* tensor.c: tensor maps, and the copies of boxes that they describe (TMA, tiled mode).
 *
 * A box is dense in shared memory, axis 0 fastest. With a swizzle of 128, 64 or 32 bytes, bits 4 to 6, 4 to 5, or 4 of the
 * address of each 16 bytes are XORed with as many bits from bit 7 on: bits of absolute addresses, not of places in the box.
 */
#include <inttypes.h>
#include <string.h>
#include "emu.h"

enum { UNIT = 16, LINE = 128 /* bytes; shared addresses of boxes are multiples of it */ };
static const uint64_t MAGIC = 0x70616d2d756d6563; /* "cemu-map" */

/* What is in the 128 bytes of a map. */
typedef struct packed {
    uint64_t magic, base;
    int64_t dims[CJ_MAX_AXES], strides[CJ_MAX_AXES - 1];
    uint16_t box[CJ_MAX_AXES];
    uint8_t element_strides[CJ_MAX_AXES], rank, element, swizzle;
} packed;
_Static_assert(sizeof(packed) <= CJ_TENSOR_MAP_BYTES, "a map has 128 bytes");

convjit_status cj_tensor_map_encode(const cj_tensor_map *map, void *base, unsigned char out[CJ_TENSOR_MAP_BYTES])
{
    convjit_status status = cj_tensor_map_check(map);
    if (status)
        return status;
    packed p = {.magic = MAGIC, .base = (uintptr_t)base, .rank = (uint8_t)map->rank, .element = (uint8_t)map->element,
                .swizzle = (uint8_t)map->swizzle};
    for (int i = 0; i < map->rank; i++) {
        p.dims[i] = map->dims[i];
        p.box[i] = (uint16_t)map->box[i];
        p.element_strides[i] = (uint8_t)map->element_strides[i];
        if (i > 0)
            p.strides[i - 1] = map->strides[i - 1];
    }
    memset(out, 0, CJ_TENSOR_MAP_BYTES);
    memcpy(out, &p, sizeof p);
    return CONVJIT_OK;
}

/* ---- A box, row by row ---- */

typedef struct box {
    packed map;
    unsigned char *shared;
    int at[CJ_MAX_AXES];
    bool store;
} box;

typedef struct row {
    int64_t skipped, used; /* elements outside the tensor before, and elements inside */
    unsigned char *global; /* of the first one inside */
} row;

static size_t element_bytes(const box *b)
{
    return (size_t)cj_map_element_bytes((cj_map_element)b->map.element);
}

static size_t row_bytes(const box *b)
{
    return b->map.box[0] * element_bytes(b);
}

/* From one row in shared memory to the next: swizzled rows begin where the swizzle's own rows do, even if they are shorter. */
static size_t row_pitch(const box *b)
{
    return b->map.swizzle ? b->map.swizzle : row_bytes(b);
}

static size_t count_rows(const box *b)
{
    size_t rows = 1;
    for (int i = 1; i < b->map.rank; i++)
        rows *= b->map.box[i];
    return rows;
}

/* Bytes of shared memory from the box's first to behind its last. */
static size_t span(const box *b)
{
    return count_rows(b) * row_pitch(b);
}

/* Which part of row `i` of the box is inside the tensor, and where. A store writes whole units of 16 bytes, also where the
 * tensor's row ends within one. */
static row find_row(const box *b, size_t i)
{
    const packed *m = &b->map;
    int64_t offset = 0, first = b->at[0], last = first + m->box[0];
    bool inside = true;
    for (int axis = 1; axis < m->rank; i /= m->box[axis], axis++) {
        int64_t c = b->at[axis] + (int64_t)(i % m->box[axis]) * m->element_strides[axis];
        inside = inside && c >= 0 && c < m->dims[axis];
        offset += inside ? c * m->strides[axis - 1] : 0;
    }
    size_t size = element_bytes(b);
    int64_t unit = UNIT / (int64_t)size, end = b->store ? (m->dims[0] + unit - 1) / unit * unit : m->dims[0];
    int64_t from = first < 0 ? 0 : first, to = last < end ? last : end;
    if (!inside || from >= to)
        return (row){0};
    return (row){from - first, to - from, (unsigned char *)(uintptr_t)m->base + offset + from * (int64_t)size};
}

/* The offset, over all blocks, at which 16 bytes of shared memory are found. */
static uintptr_t swizzle(const box *b, uintptr_t offset)
{
    return offset ^ ((offset >> 7 & (b->map.swizzle / 16u - (b->map.swizzle > 0))) << 4);
}

/* To TF32, to nearest, ties to even; infinities stay what they are, and every NaN becomes the same one. */
static void round_to_tf32(unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i += 4) {
        uint32_t bits;
        memcpy(&bits, bytes + i, 4);
        if ((bits & 0x7f800000u) != 0x7f800000u)
            bits = (bits + 0xfffu + (bits >> 13 & 1)) & ~0x1fffu;
        else if (bits & 0x7fffffu)
            bits = 0x7fffe000u;
        memcpy(bytes + i, &bits, 4);
    }
}

static void load_row(cj_worker *w, const box *b, size_t i)
{
    unsigned char line[256 * 4] = {0}; /* a box's row is no longer */
    size_t size = element_bytes(b), bytes = row_bytes(b);
    row r = find_row(b, i);
    if (r.used)
        memcpy(line + (size_t)r.skipped * size, r.global, (size_t)r.used * size);
    if (b->map.element == CJ_MAP_TF32)
        round_to_tf32(line, bytes);
    uintptr_t start = cj_shared_offset(w, b->shared) + i * row_pitch(b);
    for (size_t at = 0; at < bytes; at += UNIT)
        memcpy(w->shared + swizzle(b, start + at), line + at, UNIT);
}

static void store_row(cj_worker *w, const box *b, size_t i)
{
    unsigned char line[256 * 4];
    size_t size = element_bytes(b), bytes = row_bytes(b);
    row r = find_row(b, i);
    uintptr_t start = cj_shared_offset(w, b->shared) + i * row_pitch(b);
    for (size_t at = 0; at < bytes; at += UNIT)
        memcpy(line + at, w->shared + swizzle(b, start + at), UNIT);
    if (r.used)
        memcpy(r.global, line + (size_t)r.skipped * size, (size_t)r.used * size);
}

static void copy_box(cj_worker *w, void *data)
{
    const box *b = data;
    for (size_t i = 0, rows = count_rows(b); i < rows; i++)
        (b->store ? store_row : load_row)(w, b, i);
}

/* ---- Checks ---- */

static packed get_map(cj_worker *w, const void *map, int rank)
{
    packed p;
    memcpy(&p, map, sizeof p);
    if (p.magic != MAGIC)
        cj_worker_fault(w, "the tensor map is none that the runtime made");
    else if (p.rank != rank)
        cj_worker_fault(w, "%d coordinates, and the tensor map has %d axes", rank, p.rank);
    else
        return p;
    cj_worker_abandon(w);
}

/* The whole of the box's part of global memory. */
static void check_global(cj_worker *w, const box *b, unsigned line)
{
    for (size_t i = 0, rows = count_rows(b); i < rows; i++) {
        row r = find_row(b, i);
        if (r.used)
            cj_access(r.global, (size_t)r.used * element_bytes(b), b->store ? CJ_EMU_WRITE : CJ_EMU_READ,
                      (const void *)(uintptr_t)line);
    }
}

/* The 16-byte units of row i that the tensor has a part in: a store does not read the others. */
static void mark_stored(cj_worker *w, cj_async *op, const box *b, size_t i)
{
    size_t size = element_bytes(b);
    row r = find_row(b, i);
    uintptr_t start = cj_shared_offset(w, b->shared) + i * row_pitch(b);
    size_t from = (size_t)r.skipped * size / UNIT * UNIT, to = (size_t)(r.skipped + r.used) * size;
    for (size_t at = from; r.used && at < to; at += UNIT)
        cj_async_reads(w, op, w->shared + swizzle(b, start + at), UNIT);
}

/* Swizzling moves data within lines of 128 bytes, so that rows as long as the swizzle fill whole lines but the last. */
static void mark_loaded(cj_worker *w, cj_async *op, const box *b)
{
    size_t rows = count_rows(b), bytes = row_bytes(b), pitch = row_pitch(b);
    size_t whole = pitch > bytes ? 0 : b->map.swizzle ? rows * pitch / LINE * LINE : rows * pitch;
    uintptr_t start = cj_shared_offset(w, b->shared);
    if (whole)
        cj_async_writes(w, op, b->shared, whole);
    for (size_t i = whole / pitch; i < rows; i++)
        for (size_t at = i * pitch; at < i * pitch + bytes; at += UNIT)
            cj_async_writes(w, op, w->shared + swizzle(b, start + at), UNIT);
}

/* What the hardware answers with an illegal instruction (tests/vectors: seen on an H200). */
static void check_coordinates(cj_worker *w, const box *b, int rank)
{
    int unit = UNIT / (int)element_bytes(b);
    if (b->at[0] % unit != 0) {
        cj_worker_fault(w, "coordinate c0 is %d: a copy begins at a multiple of %d elements, %d bytes", b->at[0], unit, UNIT);
        cj_worker_abandon(w);
    }
    for (int i = 0; b->store && i < rank; i++)
        if (b->at[i] < 0) {
            cj_worker_fault(w, "coordinate c%d is %d: those of a store are not negative", i, b->at[i]);
            cj_worker_abandon(w);
        }
}

static box begin(cj_worker *w, const void *map, const void *shared, int rank, const int *at, bool store, unsigned line)
{
    box b = {.map = get_map(w, map, rank), .shared = (unsigned char *)(uintptr_t)shared, .store = store};
    memcpy(b.at, at, (size_t)rank * sizeof *at);
    check_coordinates(w, &b, rank);
    cj_check_own(w, shared, span(&b), LINE, store ? "source" : "destination");
    check_global(w, &b, line);
    return b;
}

/* ---- What kernels call ---- */

static void load_to(cj_worker *w, const box *b, unsigned rank, const void *barrier, const char *name, unsigned line)
{
    size_t stride = (size_t)CJ_EMU_SHARED_STRIDE;
    box copy = *b;
    copy.shared += rank * stride - w->current->rank * stride;
    unsigned bytes = (unsigned)(count_rows(b) * row_bytes(b));
    (void)cj_shared_range(w, copy.shared, span(&copy), LINE, "destination");
    cj_mbarrier *to = cj_mbarrier_at(w, barrier, rank, true);
    cj_async *op = cj_async_begin(w, name, line, w->current->id, 1);
    mark_loaded(w, op, &copy);
    cj_async_issue_to(w, op, to, bytes, false, copy_box, &copy, sizeof copy);
}

void cj_tensor_load(void *shared, const void *map, unsigned long long *barrier, int rank, const int *at, unsigned blocks,
                    const char *name, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_enter(w, name, line);
    unsigned ranks = blocks & CJ_EMU_MULTICAST ? blocks & ~(unsigned)CJ_EMU_MULTICAST : 1u << w->current->rank;
    if (ranks == 0 || ranks >> w->run->n_ranks) {
        cj_worker_fault(w, "blocks 0x%x, and the cluster has %u", ranks, w->run->n_ranks);
        cj_worker_abandon(w);
    }
    box b = begin(w, map, shared, rank, at, false, line);
    for (unsigned r = 0; r < w->run->n_ranks; r++)
        if (ranks >> r & 1)
            load_to(w, &b, r, barrier, name, line);
    w->primitive = NULL;
}

void cj_tensor_store(const void *map, const void *shared, int rank, const int *at, const char *name, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_thread *t = w->current;
    cj_enter(w, name, line);
    box b = begin(w, map, shared, rank, at, true, line);
    cj_async *op = cj_async_begin(w, name, line, t->id, 1);
    for (size_t i = 0, rows = count_rows(&b); i < rows; i++)
        mark_stored(w, op, &b, i);
    cj_async_issue(w, op, &t->stores, copy_box, &b, sizeof b);
    w->primitive = NULL;
}

void cj_tensor_prefetch(const void *map, unsigned line)
{
    cj_worker *w = cj_worker_current();
    packed p;
    cj_enter(w, "tensor_prefetch", line);
    memcpy(&p, map, sizeof p);
    (void)get_map(w, map, p.rank);
    w->primitive = NULL;
}
