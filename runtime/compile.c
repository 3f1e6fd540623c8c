/* compile.c: kernel -> binary: from memory, else the disk, else the compiler; once for each key in this process.
 *
 * The table holds an entry a key. The thread that finds none puts one in and builds it, outside the lock; those that
 * come meanwhile wait for it. A failure is reported to all of them and forgotten, so that a later call tries again. */
#include <stdlib.h>
#include <string.h>
#include "context.h"

enum { BUCKETS = 256, KEY_BYTES = 2 * 65 };

typedef enum state { BUILDING, READY, FAILED } state;
typedef enum effort { RECALL, FIND, COMPILE } effort; /* how far a thread goes for a kernel; the first has no source */

struct cj_built {
    struct cj_built *next;
    char key[KEY_BYTES];    /* both digests of a cj_key */
    state state;
    effort effort;          /* of the thread that builds */
    int waiting;            /* threads that will look at a failure; the last of them frees it */
    convjit_status status;  /* FAILED: with what, and the message (NULL if there was no memory for it) */
    char *message;
    cj_kernel *kernel;      /* READY */
    cj_blob binary;
};

struct cj_table {
    pthread_mutex_t lock;
    pthread_cond_t changed; /* some entry is no longer BUILDING */
    cj_built *buckets[BUCKETS];
};

const cj_kernel *cj_built_kernel(const cj_built *b)
{
    return b->kernel;
}

const cj_blob *cj_built_binary(const cj_built *b)
{
    return &b->binary;
}

const char *cj_built_source_hex(const cj_built *b)
{
    return b->key; /* the digest of the compiler follows it */
}

struct cj_table *cj_table_create(void)
{
    struct cj_table *table = calloc(1, sizeof *table);
    if (table) {
        pthread_mutex_init(&table->lock, NULL);
        pthread_cond_init(&table->changed, NULL);
    }
    return table;
}

static void free_entry(cj_built *b)
{
    cj_kernel_free(b->kernel);
    cj_blob_free(&b->binary);
    free(b->message);
    free(b);
}

void cj_table_free(struct cj_table *table)
{
    if (!table)
        return;
    for (int i = 0; i < BUCKETS; i++)
        for (cj_built *b = table->buckets[i], *next; b; b = next) {
            next = b->next;
            free_entry(b);
        }
    pthread_cond_destroy(&table->changed);
    pthread_mutex_destroy(&table->lock);
    free(table);
}

/* ---- Under the table's lock ---- */

/* The place of the pointer to the entry, or that of the NULL where it belongs. */
static cj_built **find(struct cj_table *table, const char key[KEY_BYTES])
{
    unsigned hash = 0;
    for (int i = 0; i < 8; i++) /* the digits of a digest are as good as random */
        hash = hash * 31 + (unsigned char)key[i];
    cj_built **at = &table->buckets[hash % BUCKETS];
    while (*at && memcmp((*at)->key, key, KEY_BYTES) != 0)
        at = &(*at)->next;
    return at;
}

static convjit_status report(const cj_built *b)
{
    return cj_fail(b->status, "%s", b->message ? b->message : "out of memory for this failure's message");
}

/* Waits until an entry is built. It may have been freed when this returns, unless the status is CONVJIT_OK. */
static convjit_status wait_for(struct cj_table *table, cj_built *b)
{
    b->waiting++;
    while (b->state == BUILDING)
        pthread_cond_wait(&table->changed, &table->lock);
    b->waiting--;
    if (b->state == READY)
        return CONVJIT_OK;
    convjit_status status = report(b);
    if (b->waiting == 0)
        free_entry(b);
    return status;
}

/* Finds an entry that is ready, or puts in one that the caller has to build (*mine). */
static convjit_status claim(struct cj_table *table, const char key[KEY_BYTES], effort wish, cj_built **out, bool *mine)
{
    *mine = false;
    for (;;) {
        cj_built **at = find(table, key);
        if (!*at) {
            cj_built *b = *out = *at = calloc(1, sizeof *b);
            if (!b)
                return cj_fail(CONVJIT_NO_MEMORY, "out of memory for a kernel");
            memcpy(b->key, key, KEY_BYTES);
            b->effort = wish;
            *mine = true;
            return CONVJIT_OK;
        }
        *out = *at;
        bool more_than_they = wish > (*at)->effort;
        convjit_status status = wait_for(table, *at);
        if (status != CONVJIT_NO_COMPILER || !more_than_they)
            return status;
        /* the other thread did not try all that this one may */
    }
}

/* Takes a failed entry out of the table, and leaves it to the threads that wait, if any. */
static void give_up(struct cj_table *table, cj_built *b, convjit_status status)
{
    *find(table, b->key) = b->next;
    b->state = FAILED;
    b->status = status;
    b->message = strdup(convjit_errmsg());
    if (b->waiting == 0)
        free_entry(b);
}

/* ---- Building ---- */

typedef struct job {
    convjit *cj;
    effort effort;
    cj_kernel *kernel;      /* RECALL: NULL until it is found */
    cj_key key;
    cj_text key_text;       /* RECALL: empty */
    const char *identity;   /* NULL: there is no compiler */
    char *no_compiler;      /* why */
} job;

static convjit_status fail_miss(const job *j)
{
    if (j->effort == RECALL)
        return cj_fail(CONVJIT_NO_COMPILER, "kernel %s is not in the cache", j->key.source_hex);
    const char *why_not = NULL, *dir = cj_cache_dir(j->cj->cache, &why_not), *path = cj_cache_search_path(j->cj->cache);
    const char *dir_or_why = dir ? dir : why_not ? why_not : "none";
    const char *reason = j->identity ? "this call may not compile" : j->no_compiler ? j->no_compiler : "no compiler";
    return cj_fail(CONVJIT_NO_COMPILER,
                   "%s with schedule %s for %s is not in the cache (directory: %s; search path: %s), "
                   "and cannot be compiled: %s",
                   j->kernel->tuple, j->kernel->schedule, j->kernel->arch, dir_or_why, *path ? path : "none", reason);
}

/* disk, else compiler */
static convjit_status build(job *j, cj_blob *binary, convjit_origin *origin)
{
    bool found = false;
    cj_kernel *stored = NULL;
    cj_compiler *compiler = j->cj->compiler;
    convjit_status status = cj_cache_get(j->cj->cache, &j->key, &found, &stored, binary);
    if (j->kernel)
        cj_kernel_free(stored); /* the key covers all that is in it */
    else
        j->kernel = stored;
    *origin = CONVJIT_FROM_DISK;
    if (status != CONVJIT_OK || found)
        return status;
    if (!j->identity || j->effort < COMPILE)
        return fail_miss(j);
    *origin = CONVJIT_COMPILED;
    status = compiler->compile(compiler, j->kernel, binary);
    if (status == CONVJIT_OK)
        status = cj_cache_put(j->cj->cache, &j->key, j->key_text.data, j->kernel, binary, NULL);
    return status;
}

/* Builds the entry that this thread has claimed, and wakes those that wait for it. */
static convjit_status build_entry(job *j, cj_built *b, convjit_origin *origin)
{
    struct cj_table *table = j->cj->built;
    cj_blob binary = {0};
    convjit_status status = build(j, &binary, origin);
    pthread_mutex_lock(&table->lock);
    if (status == CONVJIT_OK) {
        b->kernel = j->kernel;
        b->binary = binary;
        b->state = READY;
        j->kernel = NULL;
    } else {
        cj_blob_free(&binary);
        give_up(table, b, status);
    }
    pthread_cond_broadcast(&table->changed);
    pthread_mutex_unlock(&table->lock);
    return status;
}

static convjit_status make_key(job *j)
{
    if (j->effort == RECALL)
        return CONVJIT_OK; /* the caller has */
    convjit_status status = cj_key_make(j->kernel, j->cj->compiler->kind, j->identity, &j->key, &j->key_text);
    return status == CONVJIT_OK && j->key_text.failed ? cj_fail(CONVJIT_NO_MEMORY, "out of memory for a key") : status;
}

static convjit_status run(job *j, cj_built **out, convjit_origin *origin)
{
    struct cj_table *table = j->cj->built;
    char key[KEY_BYTES] = {0};
    bool mine = false;
    cj_built *b = NULL;
    convjit_status status = make_key(j);
    if (status != CONVJIT_OK)
        return status;
    memcpy(key, j->key.source_hex, sizeof j->key.source_hex);
    memcpy(key + KEY_BYTES / 2, j->key.compiler_hex, sizeof j->key.compiler_hex);
    pthread_mutex_lock(&table->lock);
    status = claim(table, key, j->effort, &b, &mine);
    pthread_mutex_unlock(&table->lock);
    *origin = CONVJIT_FROM_MEMORY;
    if (mine)
        status = build_entry(j, b, origin);
    if (status == CONVJIT_OK)
        *out = b;
    return status;
}

convjit_status cj_compile(convjit *cj, cj_kernel *kernel, bool allow_compile, cj_built **out, convjit_origin *origin)
{
    convjit_origin from;
    job j = {.cj = cj, .effort = allow_compile ? COMPILE : FIND, .kernel = kernel};
    j.identity = cj->compiler->identity(cj->compiler);
    if (!j.identity)
        j.no_compiler = strdup(convjit_errmsg());
    convjit_status status = run(&j, out, &from);
    if (status == CONVJIT_OK && origin)
        *origin = from;
    cj_kernel_free(j.kernel);
    cj_text_free(&j.key_text);
    free(j.no_compiler);
    return status;
}

convjit_status cj_recall(convjit *cj, const char source_hex[65], cj_built **out, convjit_origin *origin)
{
    job j = {.cj = cj, .effort = RECALL, .identity = cj->compiler->identity(cj->compiler)};
    cj_key_of_source(source_hex, j.identity, &j.key);
    convjit_status status = run(&j, out, origin);
    cj_kernel_free(j.kernel);
    return status;
}
