/* parts.c: tests of several cubins as one binary. */
#include <stdlib.h>
#include "../check.h"
#include "cache.h"

static cj_blob text(const char *s)
{
    return (cj_blob){.data = (unsigned char *)(uintptr_t)s, .size = strlen(s)};
}

static void check_part(const cj_blob *part, const char *expected)
{
    CHECK_INT(part->size, strlen(expected));
    CHECK(memcmp(part->data, expected, strlen(expected)) == 0);
    CHECK_INT((uintptr_t)part->data % 16, 0);
}

/* A lone part is the binary. */
static void test_one(void)
{
    cj_blob part = text("a cubin"), binary, parts[CJ_MAX_PARTS];
    int n = 0;
    CHECK_OK(cj_parts_join(&part, 1, &binary));
    check_part(&binary, "a cubin");
    CHECK_OK(cj_parts_split(&binary, parts, &n));
    CHECK_INT(n, 1);
    check_part(&parts[0], "a cubin");
    cj_blob_free(&binary);
}

static void test_several(void)
{
    static const char *const texts[CJ_MAX_PARTS] = {"the first", "a second of 17 by", "", "last"};
    for (int count = 2; count <= CJ_MAX_PARTS; count++) {
        cj_blob given[CJ_MAX_PARTS], parts[CJ_MAX_PARTS], binary;
        int n = 0;
        for (int i = 0; i < count; i++)
            given[i] = text(texts[i]);
        CHECK_OK(cj_parts_join(given, count, &binary));
        CHECK_OK(cj_parts_split(&binary, parts, &n));
        CHECK_INT(n, count);
        for (int i = 0; i < n; i++)
            check_part(&parts[i], texts[i]);
        cj_blob_free(&binary);
    }
}

/* Cut anywhere, or with another number of parts, it is refused; nothing outside is read, which the sanitizers would tell. */
static void test_damage(void)
{
    cj_blob given[2] = {text("the first"), text("the second")}, parts[CJ_MAX_PARTS], binary;
    int n = 0;
    CHECK_OK(cj_parts_join(given, 2, &binary));
    for (size_t size = 16; size < binary.size; size++) {
        cj_blob cut = {.data = malloc(size), .size = size};
        memcpy(cut.data, binary.data, size);
        CHECK_FAILS(cj_parts_split(&cut, parts, &n), CONVJIT_CORRUPT, size < 32 ? "a binary of 2 parts" : "ends behind its last byte");
        cj_blob_free(&cut);
    }
    static const uint64_t counts[] = {0, CJ_MAX_PARTS + 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        cj_put_le(binary.data + 8, counts[i], 8);
        CHECK_FAILS(cj_parts_split(&binary, parts, &n), CONVJIT_CORRUPT, "parts; 1 to 4");
    }
    cj_put_le(binary.data + 8, 2, 8);
    cj_put_le(binary.data + 16, UINT64_MAX - 8, 8);
    CHECK_FAILS(cj_parts_split(&binary, parts, &n), CONVJIT_CORRUPT, "part 1 of a binary ends behind its last byte");
    cj_blob_free(&binary);
}

/* A name is found as a whole, in whichever part, and nothing behind a part's end is read. */
static void test_find(void)
{
    static const char first[] = "ELF\0.text.f\0.rela.text.f_pack2\0x", second[] = "f_pack\0.text..text.f_pack\0.text.f2";
    const cj_blob parts[] = {{.data = (unsigned char *)(uintptr_t)first, .size = sizeof first},
                             {.data = (unsigned char *)(uintptr_t)second, .size = sizeof second}};
    CHECK_INT(cj_parts_find(parts, 2, "f"), 0);
    CHECK_INT(cj_parts_find(parts, 2, "f_pack"), 1);
    CHECK_INT(cj_parts_find(parts, 2, "f_pack2"), 0);
    CHECK_INT(cj_parts_find(parts, 2, "f2"), 1);
    CHECK_INT(cj_parts_find(parts, 1, "f2"), 0);
    CHECK_INT(cj_parts_find(parts, 2, "pack"), 0);
    for (size_t size = 0; size < sizeof second; size++) {
        cj_blob cut[] = {parts[0], {.data = malloc(size ? size : 1), .size = size}};
        memcpy(cut[1].data, second, size);
        CHECK_INT(cj_parts_find(cut, 2, "f2"), 0);
        cj_blob_free(&cut[1]);
    }
}

int main(void)
{
    test_one();
    test_several();
    test_damage();
    test_find();
    return check_done("parts");
}
