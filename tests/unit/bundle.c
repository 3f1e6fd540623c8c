/* bundle.c: export and import: what goes in comes out, byte for byte, and a damaged bundle adds nothing. */
#include "sample.h"

enum { ENTRIES = 3, HEAD = 16, ENTRY_HEAD = 12, NAME = 85, CHECKSUM = 32 };

static cj_cache *open_cache(const char *dir)
{
    convjit_config config = {.size = sizeof config, .cache_dir = dir, .cache_path = "", .verbose = -1};
    cj_cache *c = NULL;
    CHECK_OK(cj_cache_open(&c, &config));
    if (!c)
        exit(EXIT_FAILURE);
    return c;
}

static void fill(cj_cache *c, int n)
{
    for (int i = 0; i < n; i++) {
        cj_kernel *k = sample_kernel();
        cj_key key;
        cj_text text = {0};
        char tuple[32], binary[32];
        bool stored = false;
        snprintf(tuple, sizeof tuple, "c%dk1r1s1", i + 1);
        snprintf(binary, sizeof binary, "binary %d", i);
        set(&k->tuple, tuple);
        CHECK_OK(cj_key_make(k, "cubin", "nvrtc 12.4.127", &key, &text));
        CHECK_OK(cj_cache_put(c, &key, text.data, k, &(cj_blob){(unsigned char *)binary, strlen(binary)}, &stored));
        CHECK(stored);
        cj_text_free(&text);
        cj_kernel_free(k);
    }
}

static size_t count(cj_cache *c)
{
    cj_cache_entry *entries = NULL;
    size_t n = 0, valid = 0;
    CHECK_OK(cj_cache_list(c, &entries, &n));
    for (size_t i = 0; i < n; i++)
        valid += entries[i].status == CONVJIT_OK;
    CHECK_INT(valid, n);
    cj_cache_list_free(entries, n);
    return n;
}

/* Every file of one directory is in the other, with the same bytes. */
static void check_same_entries(cj_cache *c, const char *a, const char *b)
{
    cj_cache_entry *entries = NULL;
    size_t n = 0;
    CHECK_OK(cj_cache_list(c, &entries, &n));
    for (size_t i = 0; i < n; i++) {
        char path_a[700], path_b[700];
        snprintf(path_a, sizeof path_a, "%s/%s", a, entries[i].file);
        snprintf(path_b, sizeof path_b, "%s/%s", b, entries[i].file);
        cj_blob x = file_read(path_a), y = file_read(path_b);
        CHECK(x.size > 0 && x.size == y.size && memcmp(x.data, y.data, x.size) == 0);
        cj_blob_free(&x);
        cj_blob_free(&y);
    }
    cj_cache_list_free(entries, n);
}

static void test_round_trip(void)
{
    cj_cache *from = open_cache(in_scratch("from")), *to = open_cache(in_scratch("to/new"));
    const char *file = in_scratch("bundle");
    size_t n = 9;
    fill(from, ENTRIES);
    CHECK(file_write(in_scratch("from/damaged.cjk"), "x", 1)); /* not exported */
    CHECK_OK(cj_bundle_export(from, file, &n));
    CHECK_INT(n, ENTRIES);
    CHECK_OK(cj_bundle_import(to, file, &n));
    CHECK_INT(n, ENTRIES);
    CHECK_INT(count(to), ENTRIES);
    check_same_entries(to, in_scratch("from"), in_scratch("to/new"));
    CHECK_OK(cj_bundle_import(to, file, NULL)); /* again: all there */
    CHECK_OK(cj_bundle_export(to, in_scratch("bundle2"), NULL));
    cj_blob a = file_read(file), b = file_read(in_scratch("bundle2"));
    CHECK(a.size > 0 && a.size == b.size && memcmp(a.data, b.data, a.size) == 0); /* equal caches, equal bundles */
    cj_blob_free(&a);
    cj_blob_free(&b);
    cj_cache_close(from);
    cj_cache_close(to);
}

static void test_empty(void)
{
    cj_cache *c = open_cache(in_scratch("empty"));
    size_t n = 9;
    CHECK_OK(cj_bundle_export(c, in_scratch("empty-bundle"), &n));
    CHECK_INT(n, 0);
    n = 9;
    CHECK_OK(cj_bundle_import(c, in_scratch("empty-bundle"), &n));
    CHECK_INT(n, 0);
    cj_cache_close(c);
}

/* The import is refused as it should be, with the file's name. */
static bool import_fails(cj_cache *c, const char *file)
{
    size_t entries = 77;
    return cj_bundle_import(c, file, &entries) == CONVJIT_CORRUPT && entries == 77 && strstr(convjit_errmsg(), file);
}

/* The same of these bytes, written as a bundle. */
static bool is_refused(cj_cache *c, const unsigned char *bytes, size_t n)
{
    const char *file = in_scratch("bad");
    return file_write(file, bytes, n) && import_fails(c, file);
}

static void seal(cj_blob *b)
{
    cj_sha256 h;
    cj_sha256_init(&h);
    cj_sha256_add(&h, b->data, b->size - CHECKSUM);
    cj_sha256_end(&h, b->data + b->size - CHECKSUM);
}

static void test_damage(void)
{
    cj_cache *from = open_cache(in_scratch("damage-from")), *to = open_cache(in_scratch("damage-to"));
    fill(from, ENTRIES);
    CHECK_OK(cj_bundle_export(from, in_scratch("whole"), NULL));
    cj_blob b = file_read(in_scratch("whole"));
    const char *file = in_scratch("bad");
    size_t accepted = 0;
    CHECK(file_write(file, b.data, b.size));
    int fd = open(file, O_WRONLY | O_CLOEXEC);
    for (size_t at = 0; at < b.size; at++) {
        unsigned char wrong = b.data[at] ^ 0x40;
        accepted += pwrite(fd, &wrong, 1, (off_t)at) != 1 || !import_fails(to, file);
        CHECK(pwrite(fd, &b.data[at], 1, (off_t)at) == 1);
    }
    CHECK_THAT(accepted == 0, "%zu flipped bytes were accepted", accepted);
    for (size_t n = b.size; n-- > 0;)
        accepted += ftruncate(fd, (off_t)n) != 0 || !import_fails(to, file);
    CHECK_THAT(accepted == 0, "%zu truncated lengths were accepted", accepted);
    close(fd);
    CHECK(is_refused(to, b.data, b.size + 1)); /* file_read left room for one more */
    CHECK_INT(count(to), 0);
    CHECK_OK(cj_bundle_import(to, in_scratch("whole"), NULL));
    cj_blob_free(&b);
    cj_cache_close(from);
    cj_cache_close(to);
}

/* Bundles whose checksum is right, made by somebody who means harm or by a program that is wrong. */
static void test_forged(void)
{
    cj_cache *from = open_cache(in_scratch("forged-from")), *to = open_cache(in_scratch("forged-to"));
    fill(from, 2);
    CHECK_OK(cj_bundle_export(from, in_scratch("honest"), NULL));
    cj_blob b = file_read(in_scratch("honest"));
    unsigned char *name = b.data + HEAD + ENTRY_HEAD, saved[NAME];
    memcpy(saved, name, NAME);
    static const char *const names[] = {"../../../../tmp/convjit-evil", "/tmp/convjit-evil", "", "a.cjk"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        memset(name, 0, NAME);
        memcpy(name, names[i], strlen(names[i]));
        seal(&b);
        CHECK(is_refused(to, b.data, b.size));
        CHECK_HAS(convjit_errmsg(), "whose name is none");
    }
    memcpy(name, saved, NAME);
    name[3] = name[3] == '0' ? '1' : '0'; /* a name as it should be, of another key */
    seal(&b);
    CHECK(is_refused(to, b.data, b.size));
    CHECK_HAS(convjit_errmsg(), "name is not that of its key");
    memcpy(name, saved, NAME);
    name[NAME + 100] ^= 1; /* an entry that is damaged inside a bundle that is not */
    seal(&b);
    CHECK(is_refused(to, b.data, b.size));
    CHECK_HAS(convjit_errmsg(), "checksum is wrong");
    name[NAME + 100] ^= 1;
    static const struct { size_t at; unsigned char value; const char *says; } fields[] = {
        {8, 2, "format version 2"}, {12, 3, "ends within"}, {12, 1, "behind its last entry"}, {15, 0x80, "ends within"},
        {HEAD, 84, "whose name is none"}, {HEAD + 11, 0x80, "ends within"}, {HEAD + 8, 1, "ends within"},
    };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
        unsigned char before = b.data[fields[i].at];
        b.data[fields[i].at] = fields[i].value;
        seal(&b);
        CHECK(is_refused(to, b.data, b.size));
        CHECK_HAS(convjit_errmsg(), fields[i].says);
        b.data[fields[i].at] = before;
    }
    CHECK_INT(count(to), 0);
    seal(&b);
    CHECK(file_write(in_scratch("honest"), b.data, b.size));
    CHECK_OK(cj_bundle_import(to, in_scratch("honest"), NULL)); /* the forging above has been undone */
    CHECK_INT(count(to), 2);
    cj_blob_free(&b);
    cj_cache_close(from);
    cj_cache_close(to);
}

static void test_files(void)
{
    cj_cache *c = open_cache(in_scratch("files")), *none = open_cache("");
    struct stat st;
    fill(c, 1);
    CHECK_FAILS(cj_bundle_import(c, in_scratch("nowhere"), NULL), CONVJIT_IO, "No such file");
    CHECK_FAILS(cj_bundle_import(c, scratch, NULL), CONVJIT_IO, "not a plain file");
    CHECK_FAILS(cj_bundle_import(c, "/dev/null", NULL), CONVJIT_IO, "not a plain file");
    CHECK_FAILS(cj_bundle_export(c, "/dev/null", NULL), CONVJIT_IO, "not a plain file");
    CHECK_FAILS(cj_bundle_export(c, scratch, NULL), CONVJIT_IO, "not a plain file");
    CHECK_FAILS(cj_bundle_export(c, in_scratch("nowhere/bundle"), NULL), CONVJIT_IO, "No such file");
    CHECK_FAILS(cj_bundle_export(c, in_scratch("new/"), NULL), CONVJIT_IO, "names no file");
    CHECK_FAILS(cj_bundle_export(none, in_scratch("none"), NULL), CONVJIT_IO, "memory only");
    CHECK(stat(in_scratch("none"), &st) != 0);
    CHECK(symlink("target", in_scratch("a-link")) == 0 && file_write(in_scratch("target"), "old", 3));
    CHECK_OK(cj_bundle_export(c, in_scratch("a-link"), NULL));
    CHECK(lstat(in_scratch("a-link"), &st) == 0 && S_ISLNK(st.st_mode)); /* what it points at was replaced */
    CHECK_OK(cj_bundle_import(c, in_scratch("target"), NULL));
    CHECK(stat(in_scratch("target"), &st) == 0);
    CHECK_INT(st.st_mode & 0777, 0640); /* 0666 and the umask: made to be shipped */
    CHECK_FAILS(cj_bundle_import(none, in_scratch("target"), NULL), CONVJIT_IO, "memory only");
    cj_cache_close(c);
    cj_cache_close(none);
}

int main(void)
{
    umask(0026);
    if (!scratch_make())
        return EXIT_FAILURE;
    test_round_trip();
    test_empty();
    test_damage();
    test_forged();
    test_files();
    return check_done("bundle");
}
