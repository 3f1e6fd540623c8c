/* tensor_map.c: what a tensor map may be. The limits are those of cuTensorMapEncodeTiled (CUDA Driver API). */
#include <inttypes.h>
#include <string.h>
#include "internal.h"

enum { MAX_BOX = 256, MAX_ELEMENT_STRIDE = 8, ALIGNMENT = 16 };
#define MAX_DIM (INT64_C(1) << 32)
#define MAX_STRIDE (INT64_C(1) << 40)

static const struct { const char *name; int bytes; } elements[CJ_MAP_COUNT] = {
    [CJ_MAP_F32] = {"f32", 4}, [CJ_MAP_TF32] = {"tf32", 4}, [CJ_MAP_F16] = {"f16", 2}, [CJ_MAP_BF16] = {"bf16", 2},
};

const char *cj_map_element_name(cj_map_element element)
{
    return elements[element].name;
}

bool cj_map_element_parse(const char *name, size_t length, cj_map_element *out)
{
    for (int i = 0; i < CJ_MAP_COUNT; i++)
        if (strlen(elements[i].name) == length && memcmp(elements[i].name, name, length) == 0) {
            *out = (cj_map_element)i;
            return true;
        }
    return false;
}

int cj_map_element_bytes(cj_map_element element)
{
    return elements[element].bytes;
}

static convjit_status check_range(const char *field, int axis, int64_t value, int64_t least, int64_t most)
{
    if (value >= least && value <= most)
        return CONVJIT_OK;
    return cj_fail(CONVJIT_INVALID, "%s[%d]: %" PRId64 " is not between %" PRId64 " and %" PRId64, field, axis + 1, value,
                   least, most);
}

convjit_status cj_tensor_map_check_box(const cj_tensor_map *map)
{
    if ((unsigned)map->element >= CJ_MAP_COUNT)
        return cj_fail(CONVJIT_INVALID, "element: %d is unknown", (int)map->element);
    if (map->rank < 1 || map->rank > CJ_MAX_AXES)
        return cj_fail(CONVJIT_INVALID, "dims: %d axes are not between 1 and %d", map->rank, CJ_MAX_AXES);
    if (map->swizzle != 0 && map->swizzle != 32 && map->swizzle != 64 && map->swizzle != 128)
        return cj_fail(CONVJIT_INVALID, "swizzle: %d is none of 0, 32, 64, 128", map->swizzle);
    for (int i = 0; i < map->rank; i++) {
        convjit_status status = check_range("element_strides", i, map->element_strides[i], 1, i ? MAX_ELEMENT_STRIDE : 1);
        if (status == CONVJIT_OK) /* the driver's box covers what is skipped, too */
            status = check_range("box", i, map->box[i], 1, MAX_BOX / map->element_strides[i]);
        if (status)
            return status;
    }
    int row = map->box[0] * cj_map_element_bytes(map->element);
    if (row % ALIGNMENT)
        return cj_fail(CONVJIT_INVALID, "box[1]: %d elements are %d bytes, no multiple of %d", map->box[0], row, ALIGNMENT);
    if (map->swizzle && row > map->swizzle)
        return cj_fail(CONVJIT_INVALID, "box[1]: %d elements are %d bytes, above the swizzle's %d", map->box[0], row,
                       map->swizzle);
    return CONVJIT_OK;
}

convjit_status cj_tensor_map_check(const cj_tensor_map *map)
{
    convjit_status status = cj_tensor_map_check_box(map);
    for (int i = 0; !status && i < map->rank; i++)
        status = check_range("dims", i, map->dims[i], 1, MAX_DIM);
    for (int i = 0; !status && i < map->rank - 1; i++) {
        status = check_range("strides", i, map->strides[i], 0, MAX_STRIDE - 1);
        if (!status && map->strides[i] % ALIGNMENT)
            status = cj_fail(CONVJIT_INVALID, "strides[%d]: %" PRId64 " bytes are no multiple of %d", i + 1, map->strides[i],
                             ALIGNMENT);
    }
    return status;
}
