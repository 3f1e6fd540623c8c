/* tensor.c: tensor copies against a plain loop over elements, for random tensors, boxes, element strides, swizzles and places;
 * and each limit of maps and copies. */
#include "emu_test.h"

enum { SHARED = 48 * 1024, TENSOR = 64 * 1024, BOXES = 1500 };

static const char source[] =
    "extern \"C\" __global__ void k(const __grid_constant__ TensorMap map, unsigned *y, int what, int c0, int c1, int c2, int c3,\n"
    "                               int c4, int start, int bytes)\n"
    "{\n"
    "    unsigned char *s = shared_memory() + start;\n"
    "    unsigned long long *b = (unsigned long long *)(shared_memory() + 48 * 1024 - 8);\n"
    "    unsigned *words = (unsigned *)s;\n"
    "    if (what < 10) {\n"
    "        if (threadIdx.x == 0) { mbarrier_init(b, 1); fence_mbarrier_init(); tensor_prefetch(map); }\n"
    "        __syncthreads();\n"
    "        if (threadIdx.x == 0) {\n"
    "            mbarrier_arrive_expect(b, bytes);\n"
    "            if (what == 1) tensor_load_1d(s, map, b, c0);\n"
    "            if (what == 2) tensor_load_2d(s, map, b, c0, c1);\n"
    "            if (what == 3) tensor_load_3d(s, map, b, c0, c1, c2);\n"
    "            if (what == 4) tensor_load_4d(s, map, b, c0, c1, c2, c3);\n"
    "            if (what == 5) tensor_load_5d(s, map, b, c0, c1, c2, c3, c4);\n"
    "        }\n"
    "        mbarrier_wait(b, 0);\n"
    "        for (int i = threadIdx.x; i < bytes / 4; i += blockDim.x) y[i] = words[i];\n"
    "    } else {\n"
    "        for (int i = threadIdx.x; i < bytes / 4; i += blockDim.x) words[i] = i * 0x10001u + 0x90000u;\n"
    "        fence_proxy_async();\n"
    "        __syncthreads();\n"
    "        if (threadIdx.x == 0) {\n"
    "            if (what == 11) tensor_store_1d(map, s, c0);\n"
    "            if (what == 12) tensor_store_2d(map, s, c0, c1);\n"
    "            if (what == 13) tensor_store_3d(map, s, c0, c1, c2);\n"
    "            if (what == 14) tensor_store_4d(map, s, c0, c1, c2, c3);\n"
    "            if (what == 15) tensor_store_5d(map, s, c0, c1, c2, c3, c4);\n"
    "            bulk_commit();\n"
    "            bulk_wait<0>();\n"
    "        }\n"
    "    }\n"
    "}\n";

typedef struct copy {
    cj_tensor_map map;
    int at[CJ_MAX_AXES], start, bytes;
} copy;

static uint64_t state = 20240607;

static int draw(int least, int most)
{
    state = state * 6364136223846793005u + 1442695040888963407u;
    return least + (int)((state >> 33) % (uint64_t)(most - least + 1));
}

static int element_bytes(const cj_tensor_map *m)
{
    return m->element == CJ_MAP_F16 || m->element == CJ_MAP_BF16 ? 2 : 4;
}

/* A random copy that fits into TENSOR and SHARED bytes. Swizzled rows are as long as the swizzle: tests/vectors has others. */
static copy draw_copy(void)
{
    static const int swizzles[] = {0, 32, 64, 128};
    static const cj_map_element elements[] = {CJ_MAP_F32, CJ_MAP_F16, CJ_MAP_BF16};
    copy c;
    int64_t tensor, bytes;
    do {
        cj_tensor_map *m = &c.map;
        *m = (cj_tensor_map){.rank = draw(1, 5), .element = elements[draw(0, 2)], .swizzle = swizzles[draw(0, 3)]};
        int size = element_bytes(m);
        bytes = size;
        int64_t pitch = size;
        for (int i = 0; i < m->rank; i++) {
            m->element_strides[i] = i && draw(0, 2) == 0 ? draw(1, 3) : 1;
            m->box[i] = i ? draw(1, 8) : m->swizzle ? m->swizzle / size : 16 / size * draw(1, 8);
            m->dims[i] = draw(1, i ? 9 : 80);
            c.at[i] = draw(-3, (int)m->dims[i] + 1) - draw(0, 1) * m->box[i] / 2;
            if (i == 0)
                c.at[0] = c.at[0] / (16 / size) * (16 / size);
            if (i > 0)
                m->strides[i - 1] = pitch;
            pitch = (pitch * m->dims[i] + 15) / 16 * 16 + (i ? 0 : 16 * draw(0, 1));
            bytes *= m->box[i];
        }
        tensor = pitch;
        c.bytes = (int)bytes;
        c.start = 128 * draw(0, 20);
    } while (tensor > TENSOR || c.start + bytes > SHARED - 256 || (c.map.swizzle && bytes % 128)); /* whole lines are easier to compare */
    return c;
}

/* Where element `i` of the box is: its byte in shared memory, and in the tensor (-1: outside). To a store, what ends the last
 * 16 bytes of a row is the tensor's. */
static void place(const copy *c, int64_t i, bool store, int64_t *shared, int64_t *tensor)
{
    const cj_tensor_map *m = &c->map;
    int64_t address = c->start + i * element_bytes(m), line = address / 128, unit = address / 16 % 8;
    unit ^= m->swizzle ? line % (m->swizzle / 16) : 0;
    *shared = 128 * line + 16 * unit + address % 16 - c->start;
    bool inside = true;
    *tensor = 0;
    for (int axis = 0; axis < m->rank; i /= m->box[axis], axis++) {
        int64_t at = c->at[axis] + i % m->box[axis] * m->element_strides[axis];
        int64_t grain = store && axis == 0 ? 16 / element_bytes(m) : 1;
        inside = inside && at >= 0 && at < (m->dims[axis] + grain - 1) / grain * grain;
        *tensor += at * (axis ? m->strides[axis - 1] : element_bytes(m));
    }
    *tensor = inside ? *tensor : -1;
}

static convjit_status run(const emu_kernel *k, copy *c, void *tensor, void **y, bool store, int threads)
{
    unsigned char map[CJ_TENSOR_MAP_BYTES] __attribute__((aligned(64)));
    int what = c->map.rank + (store ? 10 : 0);
    void *args[] = {map, y, &what, &c->at[0], &c->at[1], &c->at[2], &c->at[3], &c->at[4], &c->start, &c->bytes};
    convjit_status status = k->e->device->encode(k->e->device, &c->map, tensor, map);
    return status ? status : emu_launch(k, 1, (unsigned)threads, SHARED, args);
}

static int wrong_loads(const copy *c, const unsigned char *tensor, const unsigned char *y)
{
    int wrong = 0, size = element_bytes(&c->map);
    for (int64_t i = 0; i < c->bytes / size; i++) {
        static const unsigned char zero[4];
        int64_t in_shared, in_tensor;
        place(c, i, false, &in_shared, &in_tensor);
        wrong += memcmp(y + in_shared, in_tensor < 0 ? zero : tensor + in_tensor, (size_t)size) != 0;
    }
    return wrong;
}

/* The tensor's bytes must be those of the box where that is, and 0xEE elsewhere. */
static int wrong_stores(const copy *c, const unsigned char *tensor)
{
    static unsigned char expected[TENSOR];
    int size = element_bytes(&c->map);
    memset(expected, 0xEE, sizeof expected);
    for (int64_t i = 0; i < c->bytes / size; i++) {
        int64_t in_shared, in_tensor;
        place(c, i, true, &in_shared, &in_tensor);
        uint32_t word = (uint32_t)(in_shared / 4) * 0x10001u + 0x90000u;
        if (in_tensor >= 0)
            memcpy(expected + in_tensor, (unsigned char *)&word + in_shared % 4, (size_t)size);
    }
    return memcmp(expected, tensor, TENSOR) != 0;
}

static void random_copies(emu *e)
{
    emu_kernel k = emu_build(e, source, "monnnnnnnn");
    unsigned char *tensor = emu_alloc(e, TENSOR), *y = emu_alloc(e, SHARED);
    for (int i = 0, mode = 0; i < BOXES; i++, mode = (mode + 1) % EMU_MODES) {
        copy c = draw_copy();
        emu_set_mode(e, mode);
        for (int j = 0; j < TENSOR; j++)
            tensor[j] = (unsigned char)(j * 7 + j / 256 * 13 + i);
        CHECK_OK(run(&k, &c, tensor, (void **)&y, false, 32));
        CHECK(wrong_loads(&c, tensor, y) == 0);
        bool once = true; /* an element that two of the box's would write is not for stores */
        for (int axis = 1; axis < c.map.rank; axis++)
            once = once && c.map.strides[axis - 1] > 0;
        if (i % 2 || !once)
            continue;
        for (int axis = 0; axis < c.map.rank; axis++)
            c.at[axis] = c.at[axis] < 0 ? 0 : c.at[axis];
        memset(tensor, 0xEE, TENSOR);
        CHECK_OK(run(&k, &c, tensor, (void **)&y, true, 32));
        CHECK(wrong_stores(&c, tensor) == 0);
    }
    e->device->free(e->device, tensor);
    e->device->free(e->device, y);
    emu_drop(&k);
}

/* A map that may be changed in one place. */
static copy plain(void)
{
    return (copy){.map = {.rank = 2, .element = CJ_MAP_F32, .dims = {64, 64}, .strides = {256}, .box = {32, 8},
                          .element_strides = {1, 1}, .swizzle = 128}, .bytes = 1024};
}

#define REFUSES(change, message)                                                            \
    do {                                                                                    \
        copy c = plain();                                                                   \
        change;                                                                             \
        CHECK_FAILS(run(&k, &c, tensor, (void **)&y, false, 32), CONVJIT_INVALID, message); \
    } while (0)
#define FAULTS(change, store, message)                                                       \
    do {                                                                                     \
        copy c = plain();                                                                    \
        change;                                                                              \
        CHECK_FAILS(run(&k, &c, tensor, (void **)&y, store, 32), CONVJIT_EMULATOR, message); \
    } while (0)

static void limits(emu *e)
{
    emu_kernel k = emu_build(e, source, "monnnnnnnn");
    unsigned char *tensor = emu_alloc(e, 64 * 256), *y = emu_alloc(e, SHARED);
    copy good = plain();
    CHECK_OK(run(&k, &good, tensor, (void **)&y, false, 32));
    REFUSES(c.map.rank = 6, "dims: 6 axes are not between 1 and 5");
    REFUSES(c.map.rank = 0, "dims: 0 axes are not between 1 and 5");
    REFUSES(c.map.swizzle = 16, "swizzle: 16 is none of 0, 32, 64, 128");
    REFUSES(c.map.swizzle = 64, "box[1]: 32 elements are 128 bytes, above the swizzle's 64");
    REFUSES(c.map.box[0] = 3, "box[1]: 3 elements are 12 bytes, no multiple of 16");
    REFUSES(c.map.box[1] = 257, "box[2]: 257 is not between 1 and 256");
    REFUSES(c.map.box[1] = 0, "box[2]: 0 is not between 1 and 256");
    REFUSES((c.map.element_strides[1] = 2, c.map.box[1] = 129), "box[2]: 129 is not between 1 and 128");
    REFUSES(c.map.element_strides[1] = 9, "element_strides[2]: 9 is not between 1 and 8");
    REFUSES(c.map.element_strides[0] = 2, "element_strides[1]: 2 is not between 1 and 1");
    REFUSES(c.map.dims[1] = 0, "dims[2]: 0 is not between 1 and 4294967296");
    REFUSES(c.map.strides[0] = 8, "strides[1]: 8 bytes are no multiple of 16");
    REFUSES(c.map.strides[0] = INT64_C(1) << 40, "strides[1]: 1099511627776 is not between 0 and 1099511627775");
    FAULTS(c.start = 64, false, "tensor_load_2d on line 13: the destination must be aligned to 128 bytes, and is at offset 64 of");
    FAULTS(c.start = 64, true, "tensor_store_2d on line 26: the source must be aligned to 128 bytes, and is at offset 64 of");
    FAULTS(c.start = 48 * 1024 - 128, false, "tensor_load_2d on line 13: the destination of 1024 bytes is out of bounds");
    FAULTS(c.at[0] = 3, false, "tensor_load_2d on line 13: coordinate c0 is 3: a copy begins at a multiple of 4 elements, 16 bytes");
    FAULTS(c.at[1] = -2, true, "tensor_store_2d on line 26: coordinate c1 is -2: those of a store are not negative");
    FAULTS((c.map.dims[1] = 65, c.at[1] = 60), false, "tensor_load_2d: reads 128 bytes on line 13 out of bounds: at offset 16384");
    FAULTS((c.map.dims[1] = 65, c.at[1] = 60), true, "tensor_store_2d: writes 128 bytes on line 26 out of bounds: at offset 16384");
    FAULTS(c.bytes = 1008, false, "there are 16 bytes more than were expected");
    FAULTS(c.bytes = 1040, false, "and 16 bytes)");
    FAULTS(c.bytes = 1000, true, "tensor_store_2d on line 26: reads offset 1008 of shared memory that no thread of the block wrote");
    unsigned char none[CJ_TENSOR_MAP_BYTES] __attribute__((aligned(64))) = {0};
    int what = 2, zero = 0, bytes = 1024, three = 3;
    void *args[] = {none, &y, &what, &zero, &zero, &zero, &zero, &zero, &zero, &bytes};
    CHECK_FAILS(emu_launch(&k, 1, 32, SHARED, args), CONVJIT_EMULATOR, "tensor_prefetch on line 8: the tensor map is none that");
    CHECK_OK(e->device->encode(e->device, &good.map, tensor, none));
    args[2] = &three;
    CHECK_FAILS(emu_launch(&k, 1, 32, SHARED, args), CONVJIT_EMULATOR,
                "tensor_load_3d on line 14: 3 coordinates, and the tensor map has 2 axes");
    e->device->free(e->device, tensor);
    e->device->free(e->device, y);
    emu_drop(&k);
}

/* TF32 elements are rounded on their way. */
static void rounding(emu *e)
{
    emu_kernel k = emu_build(e, source, "monnnnnnnn");
    static const uint32_t bits[][2] = { /* to nearest, ties to even */
        {0x3f800fff, 0x3f800000}, {0x3f801000, 0x3f800000}, {0x3f801001, 0x3f802000}, {0x3f803000, 0x3f804000},
        {0xbfffffff, 0xc0000000}, {0x7f800000, 0x7f800000}, {0x00000001, 0x00000000}, {0x42280000, 0x42280000}};
    uint32_t *tensor = emu_alloc(e, 32), *y = emu_alloc(e, SHARED);
    for (int i = 0; i < 8; i++)
        tensor[i] = bits[i][0];
    copy c = {.map = {.rank = 1, .element = CJ_MAP_TF32, .dims = {8}, .box = {8}, .element_strides = {1}}, .bytes = 32};
    CHECK_OK(run(&k, &c, tensor, (void **)&y, false, 32));
    for (int i = 0; i < 8; i++)
        CHECK(y[i] == bits[i][1]);
    e->device->free(e->device, tensor);
    e->device->free(e->device, y);
    emu_drop(&k);
}

int main(void)
{
    emu e = emu_open();
    random_copies(&e);
    limits(&e);
    rounding(&e);
    emu_close(&e);
    return check_done("emu/tensor");
}
