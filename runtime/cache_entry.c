/* cache_entry.c: an entry of the kernel cache, as a name and as bytes.
 *
 * The name is "<source>.<compiler>.cjk": the 64 hex digits of the key's source digest and the first 16 of its compiler
 * digest. The bytes, integers little-endian:
 *
 *     offset  size  content
 *          0     8  magic: 89 'C' 'J' 'K' 0d 0a 1a 0a, which no text is, and which a transfer as text would damage
 *          8     4  format version, 1
 *         12     4  K, length of the key text
 *         16     4  D, length of the launch description
 *         20     4  B, length of the binary
 *         24     K  key text (key.c)
 *       24+K     D  launch description (kernel.c)
 *     24+K+D     B  binary: what the compiler made of the source (parts.c)
 *   24+K+D+B    32  SHA-256 of all bytes before it
 *
 * Nothing follows. A reader believes none of it before the checksum, the lengths, the description and the key have been
 * verified; the key must be the one in the file's name.
 */
#include <stdlib.h>
#include <string.h>
#include "cache.h"

static const unsigned char MAGIC[8] = {0x89, 'C', 'J', 'K', '\r', '\n', 0x1a, '\n'};
static const char SUFFIX[] = ".cjk";

enum { VERSION = 1, AT_VERSION = 8, AT_KEY = 12, AT_DESCRIPTION = 16, AT_BINARY = 20, HEAD = 24, CHECKSUM = 32 };

void cj_blob_free(cj_blob *b)
{
    free(b->data);
    *b = (cj_blob){0};
}

void cj_put_le(unsigned char *at, uint64_t value, int bytes)
{
    for (int i = 0; i < bytes; i++)
        at[i] = (unsigned char)(value >> (8 * i));
}

uint64_t cj_get_le(const unsigned char *at, int bytes)
{
    uint64_t value = 0;
    for (int i = 0; i < bytes; i++)
        value |= (uint64_t)at[i] << (8 * i);
    return value;
}

/* ---- Names ---- */

void cj_entry_name(const cj_key *key, char name[CJ_ENTRY_NAME])
{
    memcpy(name, key->source_hex, 64);
    name[64] = '.';
    memcpy(name + 65, key->compiler_hex, CJ_ENTRY_COMPILER);
    memcpy(name + 65 + CJ_ENTRY_COMPILER, SUFFIX, sizeof SUFFIX);
}

bool cj_entry_is_name(const char *name)
{
    static const char hex[] = "0123456789abcdef";
    return strspn(name, hex) == 64 && name[64] == '.' && strspn(name + 65, hex) == CJ_ENTRY_COMPILER &&
           strcmp(name + 65 + CJ_ENTRY_COMPILER, SUFFIX) == 0;
}

bool cj_entry_claims_name(const char *name)
{
    size_t n = strlen(name), suffix = sizeof SUFFIX - 1;
    return n > suffix && strcmp(name + n - suffix, SUFFIX) == 0;
}

/* ---- Writing ---- */

static void checksum(const unsigned char *data, size_t n, unsigned char digest[CHECKSUM])
{
    cj_sha256 h;
    cj_sha256_init(&h);
    cj_sha256_add(&h, data, n);
    cj_sha256_end(&h, digest);
}

static void join(cj_blob *out, const char *key_text, const cj_text *description, const cj_blob *binary)
{
    size_t key_length = strlen(key_text);
    unsigned char *at = out->data;
    memcpy(at, MAGIC, sizeof MAGIC);
    cj_put_le(at + AT_VERSION, VERSION, 4);
    cj_put_le(at + AT_KEY, key_length, 4);
    cj_put_le(at + AT_DESCRIPTION, description->length, 4);
    cj_put_le(at + AT_BINARY, binary->size, 4);
    memcpy(at + HEAD, key_text, key_length);
    memcpy(at + HEAD + key_length, description->data, description->length);
    memcpy(at + HEAD + key_length + description->length, binary->data, binary->size);
    checksum(out->data, out->size - CHECKSUM, out->data + out->size - CHECKSUM);
}

convjit_status cj_entry_encode(const char *key_text, const cj_kernel *k, const cj_blob *binary, cj_blob *out)
{
    cj_text description = {0};
    convjit_status status = cj_kernel_write(k, &description);
    if (!status && (binary->size == 0 || binary->size > CJ_ENTRY_LIMIT / 2))
        status = cj_fail(CONVJIT_COMPILE, "kernel %s: a binary of %zu bytes; the cache keeps 1 to %d", k->name,
                         binary->size, CJ_ENTRY_LIMIT / 2);
    if (!status) {
        out->size = HEAD + strlen(key_text) + description.length + binary->size + CHECKSUM;
        out->data = malloc(out->size);
        if (out->data)
            join(out, key_text, &description, binary);
        else
            status = cj_fail(CONVJIT_NO_MEMORY, "out of memory for a cache entry of %zu bytes", out->size);
    }
    cj_text_free(&description);
    return status;
}

/* ---- Reading ---- */

typedef struct parts {
    const unsigned char *key, *description, *binary;
    size_t key_length, description_length, binary_size;
} parts;

static convjit_status split(const cj_blob *bytes, parts *p)
{
    const unsigned char *at = bytes->data;
    unsigned char digest[CHECKSUM];
    if (bytes->size < HEAD + CHECKSUM)
        return cj_fail(CONVJIT_CORRUPT, "%zu bytes are too few for an entry", bytes->size);
    if (memcmp(at, MAGIC, sizeof MAGIC) != 0)
        return cj_fail(CONVJIT_CORRUPT, "does not begin as an entry");
    uint64_t version = cj_get_le(at + AT_VERSION, 4);
    if (version != VERSION)
        return cj_fail(CONVJIT_CORRUPT, "format version %u; this convjit reads %d", (unsigned)version, VERSION);
    p->key_length = cj_get_le(at + AT_KEY, 4);
    p->description_length = cj_get_le(at + AT_DESCRIPTION, 4);
    p->binary_size = cj_get_le(at + AT_BINARY, 4);
    uint64_t whole = (uint64_t)HEAD + p->key_length + p->description_length + p->binary_size + CHECKSUM;
    if (whole != bytes->size)
        return cj_fail(CONVJIT_CORRUPT, "has %zu bytes, expected %llu", bytes->size, (unsigned long long)whole);
    checksum(at, bytes->size - CHECKSUM, digest);
    if (memcmp(digest, at + bytes->size - CHECKSUM, CHECKSUM) != 0)
        return cj_fail(CONVJIT_CORRUPT, "checksum is wrong");
    if (p->binary_size == 0)
        return cj_fail(CONVJIT_CORRUPT, "has no binary");
    p->key = at + HEAD;
    p->description = p->key + p->key_length;
    p->binary = p->description + p->description_length;
    return CONVJIT_OK;
}

static convjit_status check_key(const parts *p, const char *name, cj_key *key)
{
    char expected[CJ_ENTRY_NAME];
    if (!cj_key_parse((const char *)p->key, p->key_length, key))
        return cj_fail(CONVJIT_CORRUPT, "key text is not well formed");
    if (!key->compiler_hex[0])
        return cj_fail(CONVJIT_CORRUPT, "key text names no compiler");
    cj_entry_name(key, expected);
    if (strcmp(name, expected) != 0)
        return cj_fail(CONVJIT_CORRUPT, "name is not that of its key, which is %s", expected);
    return CONVJIT_OK;
}

convjit_status cj_entry_decode(const cj_blob *bytes, const char *name, cj_key *key, cj_kernel **kernel,
                               cj_blob *binary)
{
    parts p = {0};
    cj_key its_key = {0};
    cj_kernel *k = NULL;
    convjit_status status = split(bytes, &p);
    if (!status)
        status = check_key(&p, name, &its_key);
    if (!status)
        status = cj_kernel_read((const char *)p.description, p.description_length, &k);
    if (!status && binary) {
        binary->data = malloc(p.binary_size);
        if (binary->data) {
            memcpy(binary->data, p.binary, p.binary_size);
            binary->size = p.binary_size;
        } else {
            status = cj_fail(CONVJIT_NO_MEMORY, "out of memory for a binary of %zu bytes", p.binary_size);
        }
    }
    if (!status && key)
        *key = its_key;
    if (!status && kernel)
        *kernel = k;
    else
        cj_kernel_free(k);
    return status;
}
