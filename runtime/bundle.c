/* bundle.c: a cache in one file, to ship to machines that have no compiler.
 *
 * Integers little-endian, entries in the order of their names, so that equal caches make equal bundles:
 *
 *     offset  size  content
 *          0     8  magic: 89 'C' 'J' 'B' 0d 0a 1a 0a
 *          8     4  format version, 1
 *         12     4  number of entries
 *     then for each entry
 *                4  L, length of its name
 *                8  B, length of its bytes
 *                L  name, as in a cache directory
 *                B  the entry's file, byte for byte: a kernel (cache_entry.c) or a selection (selection.c)
 *     and at the end
 *               32  SHA-256 of all bytes before it
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "cache.h"

static const unsigned char MAGIC[8] = {0x89, 'C', 'J', 'B', '\r', '\n', 0x1a, '\n'};

enum { VERSION = 1, AT_VERSION = 8, AT_COUNT = 12, HEAD = 16, ENTRY_HEAD = 12, CHECKSUM = 32 };

/* ---- Writing ---- */

/* The file that is to be written: its directory, opened, and its name there. */
typedef struct target { int dir; char *path, *name; } target;

/* A link is followed, so that what it points at is replaced; a device or a directory is not replaced by a file. */
static convjit_status open_target(target *t, const char *file)
{
    struct stat st;
    bool exists = stat(file, &st) == 0;
    if (exists && !S_ISREG(st.st_mode))
        return cj_fail(CONVJIT_IO, "bundle \"%s\" is not a plain file", file);
    t->path = exists ? realpath(file, NULL) : strdup(file);
    if (!t->path)
        return cj_fail(CONVJIT_IO, "bundle \"%s\": %m", file);
    char *slash = strrchr(t->path, '/');
    t->name = slash ? slash + 1 : t->path;
    if (!*t->name) {
        free(t->path);
        return cj_fail(CONVJIT_IO, "bundle \"%s\" names no file", file);
    }
    char first = *t->name;
    *t->name = 0; /* leaves the directory, with its '/' */
    t->dir = open(slash ? t->path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *t->name = first;
    if (t->dir >= 0)
        return CONVJIT_OK;
    cj_fail(CONVJIT_IO, "bundle \"%s\": %m", file);
    free(t->path);
    return CONVJIT_IO;
}

static void close_target(target *t)
{
    close(t->dir);
    free(t->path);
}

/* Bytes on their way into the file and into its checksum. */
typedef struct sink { cj_writer writer; cj_sha256 hash; } sink;

static bool add(sink *s, const void *data, size_t n)
{
    cj_sha256_add(&s->hash, data, n);
    return cj_writer_add(&s->writer, data, n);
}

static bool add_entry(sink *s, const char *name, const cj_blob *bytes)
{
    unsigned char head[ENTRY_HEAD];
    cj_put_le(head, strlen(name), 4);
    cj_put_le(head + 4, bytes->size, 8);
    return add(s, head, sizeof head) && add(s, name, strlen(name)) && add(s, bytes->data, bytes->size);
}

static bool add_head(sink *s, uint32_t count)
{
    unsigned char head[HEAD];
    memcpy(head, MAGIC, sizeof MAGIC);
    cj_put_le(head + AT_VERSION, VERSION, 4);
    cj_put_le(head + AT_COUNT, count, 4);
    return add(s, head, sizeof head);
}

static bool finish(sink *s, const target *t)
{
    unsigned char digest[CHECKSUM];
    cj_sha256_end(&s->hash, digest);
    if (!cj_writer_add(&s->writer, digest, sizeof digest) || !cj_writer_publish(&s->writer, t->name))
        return false;
    /* Whoever exports is told that the bundle is there, so its name is made to last, too, where directories can be. */
    return fsync(t->dir) == 0 || errno == EINVAL;
}

static convjit_status write_entries(sink *s, cj_cache *c, const cj_cache_entry *entries, size_t n, const char *file)
{
    convjit_status status = CONVJIT_OK;
    for (size_t i = 0; !status && i < n; i++) {
        cj_blob bytes = {0};
        if (entries[i].status != CONVJIT_OK)
            continue;
        status = cj_cache_load(c, entries[i].file, &bytes);
        if (status) /* it was fine a moment ago */
            return cj_fail_in(status, "the cache changed while it was exported; try again");
        if (!add_entry(s, entries[i].file, &bytes))
            status = cj_fail(CONVJIT_IO, "cannot write bundle \"%s\": %m", file);
        cj_blob_free(&bytes);
    }
    return status;
}

static convjit_status write_bundle(cj_cache *c, const cj_cache_entry *entries, size_t n, size_t valid, const char *file)
{
    target t = {0};
    sink s = {0};
    convjit_status status = open_target(&t, file);
    if (status)
        return status;
    cj_sha256_init(&s.hash);
    if (!cj_writer_open(&s.writer, t.dir, 0666) || !add_head(&s, (uint32_t)valid))
        status = cj_fail(CONVJIT_IO, "cannot write bundle \"%s\": %m", file);
    if (!status)
        status = write_entries(&s, c, entries, n, file);
    if (!status && !finish(&s, &t))
        status = cj_fail(CONVJIT_IO, "cannot write bundle \"%s\": %m", file);
    if (status)
        cj_writer_discard(&s.writer);
    close_target(&t);
    return status;
}

convjit_status cj_bundle_export(cj_cache *c, const char *file, size_t *entries)
{
    cj_cache_entry *all;
    size_t n, valid = 0;
    convjit_status status = cj_cache_list(c, &all, &n);
    if (status)
        return status;
    for (size_t i = 0; i < n; i++)
        valid += all[i].status == CONVJIT_OK;
    if (valid > UINT32_MAX)
        status = cj_fail(CONVJIT_IO, "%zu entries are more than a bundle holds", valid);
    if (!status)
        status = write_bundle(c, all, n, valid, file);
    cj_cache_list_free(all, n);
    if (!status && entries)
        *entries = valid;
    return status;
}

/* ---- Reading ---- */

static convjit_status read_file(const char *file, cj_blob *bytes)
{
    struct stat st;
    int fd = open(file, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) {
        cj_fail(CONVJIT_IO, "bundle \"%s\": %m", file);
        if (fd >= 0)
            close(fd);
        return CONVJIT_IO;
    }
    convjit_status status = CONVJIT_OK;
    if (!S_ISREG(st.st_mode))
        status = cj_fail(CONVJIT_IO, "bundle \"%s\" is not a plain file", file);
    if (!status)
        status = cj_fd_read(fd, (size_t)st.st_size, bytes);
    close(fd);
    return status && status != CONVJIT_NO_MEMORY ? cj_fail_in(status, "bundle \"%s\"", file) : status;
}

static convjit_status check_whole(const cj_blob *bytes)
{
    cj_sha256 h;
    unsigned char digest[CHECKSUM];
    if (bytes->size < HEAD + CHECKSUM)
        return cj_fail(CONVJIT_CORRUPT, "%zu bytes are too few for a bundle", bytes->size);
    if (memcmp(bytes->data, MAGIC, sizeof MAGIC) != 0)
        return cj_fail(CONVJIT_CORRUPT, "does not begin as a bundle");
    uint64_t version = cj_get_le(bytes->data + AT_VERSION, 4);
    if (version != VERSION)
        return cj_fail(CONVJIT_CORRUPT, "format version %u; this convjit reads %d", (unsigned)version, VERSION);
    cj_sha256_init(&h);
    cj_sha256_add(&h, bytes->data, bytes->size - CHECKSUM);
    cj_sha256_end(&h, digest);
    if (memcmp(digest, bytes->data + bytes->size - CHECKSUM, CHECKSUM) != 0)
        return cj_fail(CONVJIT_CORRUPT, "is damaged: the checksum is wrong");
    return CONVJIT_OK;
}

/* An entry in a bundle's memory. */
typedef struct member { char name[CJ_ENTRY_NAME]; cj_blob bytes; } member;

/* Takes the next entry, at *at of `end` bytes. Its name must be an entry's, and so can lead to no other place. */
static convjit_status next_member(const cj_blob *bundle, size_t end, size_t *at, member *m)
{
    const unsigned char *head = bundle->data + *at;
    if (end - *at < ENTRY_HEAD)
        return cj_fail(CONVJIT_CORRUPT, "ends within an entry");
    uint64_t name_length = cj_get_le(head, 4), size = cj_get_le(head + 4, 8);
    if (name_length >= sizeof m->name)
        return cj_fail(CONVJIT_CORRUPT, "holds an entry whose name is none");
    *at += ENTRY_HEAD;
    if (name_length > end - *at)
        return cj_fail(CONVJIT_CORRUPT, "ends within an entry");
    memcpy(m->name, head + ENTRY_HEAD, name_length);
    m->name[name_length] = 0;
    if (strlen(m->name) != name_length || !cj_cache_is_name(m->name))
        return cj_fail(CONVJIT_CORRUPT, "holds an entry whose name is none");
    *at += name_length;
    if (size > end - *at)
        return cj_fail(CONVJIT_CORRUPT, "ends within entry %s", m->name);
    m->bytes = (cj_blob){bundle->data + *at, size};
    *at += size;
    return CONVJIT_OK;
}

/* Calls `each` for every entry, and checks that there are as many as the head says and nothing else. */
static convjit_status for_each(const cj_blob *bundle, convjit_status (*each)(cj_cache *c, const member *m), cj_cache *c)
{
    size_t at = HEAD, end = bundle->size - CHECKSUM;
    uint64_t count = cj_get_le(bundle->data + AT_COUNT, 4);
    for (uint64_t i = 0; i < count; i++) {
        member m;
        convjit_status status = next_member(bundle, end, &at, &m);
        if (!status)
            status = each(c, &m);
        if (status)
            return status;
    }
    if (at != end)
        return cj_fail(CONVJIT_CORRUPT, "has %zu bytes behind its last entry", end - at);
    return CONVJIT_OK;
}

static convjit_status verify(cj_cache *c, const member *m)
{
    convjit_status status = cj_cache_verify(&m->bytes, m->name);
    return status == CONVJIT_CORRUPT ? cj_fail_in(status, "entry %s", m->name) : status;
}

static convjit_status keep(cj_cache *c, const member *m)
{
    return cj_cache_store(c, m->name, &m->bytes);
}

convjit_status cj_bundle_import(cj_cache *c, const char *file, size_t *entries)
{
    cj_blob bytes = {0};
    convjit_status status = read_file(file, &bytes);
    if (status)
        return status;
    status = check_whole(&bytes);
    if (!status)
        status = for_each(&bytes, verify, c); /* all of it, before anything is added */
    if (status == CONVJIT_CORRUPT)
        status = cj_fail_in(status, "bundle \"%s\"", file);
    if (!status)
        status = cj_cache_ready(c);
    if (!status)
        status = for_each(&bytes, keep, c);
    if (!status && entries)
        *entries = cj_get_le(bytes.data + AT_COUNT, 4);
    cj_blob_free(&bytes);
    return status;
}

/* ---- Public ---- */

static convjit_status check_arguments(const convjit *cj, const char *file)
{
    if (!cj)
        return cj_fail(CONVJIT_INVALID, "the context is NULL");
    if (!file || !*file)
        return cj_fail(CONVJIT_INVALID, "the bundle's file is %s", file ? "\"\"" : "NULL");
    return CONVJIT_OK;
}

convjit_status convjit_cache_export(convjit *cj, const char *file, size_t *entries)
{
    convjit_status status = check_arguments(cj, file);
    return status ? status : cj_bundle_export(cj_context_cache(cj), file, entries);
}

convjit_status convjit_cache_import(convjit *cj, const char *file, size_t *entries)
{
    convjit_status status = check_arguments(cj, file);
    return status ? status : cj_bundle_import(cj_context_cache(cj), file, entries);
}
