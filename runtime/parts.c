/* parts.c: several cubins as one binary. The entry points of a kernel's text may lie in parts that are compiled beside one
 * another (nvrtc.c) and loaded as modules of their own (driver.c); caches and bundles see one run of bytes.
 *
 * A text of one part has its cubin for a binary. Else, integers little-endian:
 *
 *     offset  size  content
 *          0     8  magic: "CJPARTS" and a 0 byte, which no cubin begins with
 *          8     8  N, number of parts
 *         16   8*N  bytes of each
 *      16+8N        the cubins, each at a multiple of 16
 *
 * Which entry points a part has is not written beside it: a cubin, an ELF file, names the section of each one's instructions
 * ".text." and the entry point. */
#include <stdlib.h>
#include <string.h>
#include "cache.h"

static const char MAGIC[8] = "CJPARTS";

enum { AT_COUNT = 8, AT_SIZES = 16, ALIGNMENT = 16 };

static size_t aligned(size_t offset)
{
    return (offset + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void write_head(const cj_blob parts[], int n, unsigned char *data)
{
    memcpy(data, MAGIC, sizeof MAGIC);
    cj_put_le(data + AT_COUNT, (uint64_t)n, 8);
    for (int i = 0; i < n; i++)
        cj_put_le(data + AT_SIZES + 8 * i, parts[i].size, 8);
}

convjit_status cj_parts_join(const cj_blob parts[], int n, cj_blob *binary)
{
    const size_t head = n > 1 ? AT_SIZES + 8 * (size_t)n : 0;
    size_t size = head, at = head;
    for (int i = 0; i < n; i++)
        size = aligned(size) + parts[i].size;
    unsigned char *data = calloc(1, size);
    if (!data)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a binary of %zu bytes", size);
    if (n > 1)
        write_head(parts, n, data);
    for (int i = 0; i < n; i++) {
        at = aligned(at);
        memcpy(data + at, parts[i].data, parts[i].size);
        at += parts[i].size;
    }
    *binary = (cj_blob){.data = data, .size = size};
    return CONVJIT_OK;
}

convjit_status cj_parts_split(const cj_blob *binary, cj_blob parts[CJ_MAX_PARTS], int *n)
{
    if (binary->size < AT_SIZES || memcmp(binary->data, MAGIC, sizeof MAGIC) != 0) {
        parts[0] = *binary;
        *n = 1;
        return CONVJIT_OK;
    }
    uint64_t count = cj_get_le(binary->data + AT_COUNT, 8);
    if (count < 1 || count > CJ_MAX_PARTS || binary->size < AT_SIZES + 8 * count)
        return cj_fail(CONVJIT_CORRUPT, "a binary of %llu parts; 1 to %d", (unsigned long long)count, CJ_MAX_PARTS);
    size_t at = AT_SIZES + 8 * (size_t)count;
    for (int i = 0; i < (int)count; i++) {
        uint64_t size = cj_get_le(binary->data + AT_SIZES + 8 * i, 8);
        at = aligned(at);
        if (at > binary->size || size > binary->size - at)
            return cj_fail(CONVJIT_CORRUPT, "part %d of a binary ends behind its last byte", i + 1);
        parts[i] = (cj_blob){.data = binary->data + at, .size = (size_t)size};
        at += (size_t)size;
    }
    *n = (int)count;
    return CONVJIT_OK;
}

/* Whether a string that ends with ".text." and the entry point lies in a part. */
static bool has_entry(const cj_blob *part, const char *entry)
{
    static const char SECTION[] = ".text.";
    const size_t prefix = sizeof SECTION - 1, length = strlen(entry) + 1; /* with the 0 byte */
    const unsigned char *at = part->data, *end = part->data + part->size;
    while ((size_t)(end - at) >= prefix + length) {
        at = memmem(at, (size_t)(end - at), SECTION, prefix);
        if (!at)
            return false;
        at += prefix;
        if ((size_t)(end - at) >= length && memcmp(at, entry, length) == 0)
            return true;
    }
    return false;
}

int cj_parts_find(const cj_blob parts[], int n, const char *entry)
{
    for (int i = 0; i < n; i++)
        if (has_entry(&parts[i], entry))
            return i;
    return 0;
}
