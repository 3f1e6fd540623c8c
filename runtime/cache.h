/* cache.h: what the files of the kernel cache share. For cache.c, cache_entry.c, cache_dir.c, selection.c, bundle.c and
 * their tests only. */
#ifndef CJ_CACHE_H
#define CJ_CACHE_H

#include "internal.h"

/* ---- cache_entry.c: an entry's name and bytes ---- */

enum {
    CJ_ENTRY_COMPILER = 16,                             /* hex digits of the compiler's digest in a name */
    CJ_ENTRY_NAME = 64 + 1 + CJ_ENTRY_COMPILER + 4 + 1, /* "<source>.<compiler>.cjk" and the final 0 */
    CJ_ENTRY_LIMIT = 256 << 20,                         /* bytes of the largest entry that is written or read */
};
void cj_entry_name(const cj_key *key, char name[CJ_ENTRY_NAME]);
bool cj_entry_is_name(const char *name);    /* exactly of that form */
bool cj_entry_claims_name(const char *name); /* ends as one */
convjit_status cj_entry_encode(const char *key_text, const cj_kernel *k, const cj_blob *binary, cj_blob *out);
/* Verifies all of an entry that was found under `name`, then hands its parts over. Each output may be NULL.
 * CONVJIT_CORRUPT with what is wrong, or CONVJIT_NO_MEMORY. */
convjit_status cj_entry_decode(const cj_blob *bytes, const char *name, cj_key *key, cj_kernel **kernel,
                               cj_blob *binary);

/* ---- selection.c: a selection's name and bytes ---- */

enum {
    CJ_SELECTION_NAME = 64 + 4 + 1, /* "<key>.cjs" and the final 0 */
    CJ_SELECTION_LIMIT = 64 << 10,
};
void cj_selection_name(const char *key_text, char name[CJ_SELECTION_NAME]);
bool cj_selection_is_name(const char *name);
bool cj_selection_claims_name(const char *name);
convjit_status cj_selection_encode(const char *key_text, const char source_hex[65], const char *schedule,
                                   const char *why, cj_blob *out);
/* As cj_entry_decode; s may be NULL. */
convjit_status cj_selection_decode(const cj_blob *bytes, const char *name, cj_selection *s);

/* Little-endian integers, as entries and bundles have them. */
void cj_put_le(unsigned char *at, uint64_t value, int bytes);
uint64_t cj_get_le(const unsigned char *at, int bytes);

/* ---- cache_dir.c: directories and files that can be trusted ---- */

typedef enum cj_dir_use {
    CJ_DIR_READ,   /* must be the user's or root's */
    CJ_DIR_WRITE,  /* must be the user's */
    CJ_DIR_CREATE, /* the same, and is made with its parents when it is missing */
} cj_dir_use;
/* Opens a directory that nobody else may write to. CONVJIT_IO with the reason; *absent, unless NULL, says whether that
 * is that there is none. */
convjit_status cj_dir_open(const char *path, cj_dir_use use, int *fd, bool *absent);

/* Names in a directory that begin with the prefix and that the filter accepts, sorted; free with cj_names_free. */
typedef struct cj_names { char **names; size_t n; } cj_names;
convjit_status cj_dir_names(int dir, const char *prefix, bool (*filter)(const char *name), cj_names *out);
void cj_names_free(cj_names *names);

/* Reads `size` bytes, fewer if there are no more. */
convjit_status cj_fd_read(int fd, size_t size, cj_blob *out);

/* Reads a whole file of a cache. CONVJIT_CORRUPT: not a plain file, another user's, writable by others, or longer than
 * `limit`; CONVJIT_IO: the system refused, and if *absent, because there is none. */
convjit_status cj_file_read(int dir, const char *name, uint64_t limit, cj_blob *out, bool *absent);

/* A file that appears under its name, complete, or not at all. Each returns false with errno set. After a failure, or
 * to give up, cj_writer_discard. */
typedef struct cj_writer { int dir, fd; char temporary[64]; } cj_writer;
bool cj_writer_open(cj_writer *w, int dir, unsigned mode);
bool cj_writer_add(cj_writer *w, const void *data, size_t n);
bool cj_writer_publish(cj_writer *w, const char *name);
bool cj_writer_publish_unsynced(cj_writer *w, const char *name); /* a crash of the machine may leave it damaged */
void cj_writer_discard(cj_writer *w);
bool cj_is_temporary(const char *name); /* a name that a writer uses before it publishes */
/* Its writer is gone; where that cannot be known, it is an hour old. */
bool cj_is_stale_temporary(int dir, const char *name);

/* ---- cache.c ---- */

/* An entry is a kernel or a selection; its name tells. */
bool cj_cache_is_name(const char *name);
/* Verifies an entry that was found under `name`; errors as cj_entry_decode. */
convjit_status cj_cache_verify(const cj_blob *bytes, const char *name);
/* An entry's bytes, verified; errors as cj_file_read and cj_entry_decode. */
convjit_status cj_cache_load(cj_cache *c, const char *name, cj_blob *bytes);
/* Publishes verified bytes unless a valid kernel of that name, or the very same selection, is there. CONVJIT_IO if it
 * cannot be written. */
convjit_status cj_cache_store(cj_cache *c, const char *name, const cj_blob *bytes);

#endif
