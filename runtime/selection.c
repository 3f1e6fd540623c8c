/* selection.c: which kernel the generator picks for a problem, as a file of the kernel cache.
 *
 * The generator is a pure function, so what it picked once can be kept. A process that finds a problem's selection
 * takes the kernel from the cache and never starts the generator, which would cost it some milliseconds. A selection is
 * text, a line with the format's version and then fields as in a key (key.c), in this order:
 *
 *     convjit-selection 1
 *     library 5 0.1.0                  [the version of the code around the generator]
 *     generator 64 SHA-256             [of its scripts and templates]
 *     kind 5 cubin                     [of the compiler's binaries]
 *     problem 21 n8c64h512w256k128r5s7
 *     arch 6 sm_90a
 *     multiprocessors 3 132            [0: not known]
 *     wanted 6 direct                  [only if a schedule was asked for]
 *     kernel 64 SHA-256                [the source digest of the kernel's key]
 *     schedule 13 direct:kt=128
 *     why 34 predicted 5350.1 us, the least of 52
 *     checksum 64 SHA-256              [of all bytes before this line]
 *
 * The lines before `kernel` are the selection's key; the file's name is their SHA-256 and ".cjs". The kernel may have
 * been removed since, or may never have been there for this compiler: then the selection says nothing, and the
 * generator is asked.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "cache.h"

static const char HEADER[] = "convjit-selection 1\n";
static const char SUFFIX[] = ".cjs";
static const char CHECKSUM[] = "checksum 64 ";
static const char HEX[] = "0123456789abcdef";

enum { CHECKSUM_LINE = sizeof CHECKSUM - 1 + 64 + 1, PROBLEM_BYTES = 512 };

void cj_selection_free(cj_selection *s)
{
    free(s->problem);
    free(s->arch);
    free(s->schedule);
    free(s->why);
    *s = (cj_selection){0};
}

/* ---- Names ---- */

static void name_of(const char *key_text, size_t length, char name[CJ_SELECTION_NAME])
{
    cj_sha256_hex(key_text, length, name);
    memcpy(name + 64, SUFFIX, sizeof SUFFIX);
}

void cj_selection_name(const char *key_text, char name[CJ_SELECTION_NAME])
{
    name_of(key_text, strlen(key_text), name);
}

bool cj_selection_is_name(const char *name)
{
    return strspn(name, HEX) == 64 && strcmp(name + 64, SUFFIX) == 0;
}

bool cj_selection_claims_name(const char *name)
{
    size_t n = strlen(name), suffix = sizeof SUFFIX - 1;
    return n > suffix && strcmp(name + n - suffix, SUFFIX) == 0;
}

/* ---- Writing ---- */

bool cj_selection_key(const convjit_problem *p, const char *kind, const char *arch, int sms, const char *wanted,
                      cj_text *key)
{
    char problem[PROBLEM_BYTES], multiprocessors[16];
    if (!cj_script_embedded() || convjit_problem_format(p, problem, sizeof problem) >= sizeof problem)
        return false;
    snprintf(multiprocessors, sizeof multiprocessors, "%d", sms);
    cj_text_puts(key, HEADER);
    cj_field_add(key, "library", convjit_version());
    cj_field_add(key, "generator", cj_script_digest());
    cj_field_add(key, "kind", kind);
    cj_field_add(key, "problem", problem);
    cj_field_add(key, "arch", arch);
    cj_field_add(key, "multiprocessors", multiprocessors);
    if (wanted)
        cj_field_add(key, "wanted", wanted);
    return !key->failed;
}

convjit_status cj_selection_encode(const char *key_text, const char source_hex[65], const char *schedule,
                                   const char *why, cj_blob *out)
{
    cj_text t = {0};
    char digest[65], *text = NULL;
    cj_text_puts(&t, key_text);
    cj_field_add(&t, "kernel", source_hex);
    cj_field_add(&t, "schedule", schedule);
    cj_field_add(&t, "why", why);
    if (!t.failed) {
        cj_sha256_hex(t.data, t.length, digest);
        cj_text_printf(&t, "%s%s\n", CHECKSUM, digest);
    }
    size_t length = t.length;
    convjit_status status = cj_text_take(&t, &text);
    if (!status)
        *out = (cj_blob){(unsigned char *)text, length};
    return status;
}

/* ---- Reading ---- */

/* The fields that are left. */
typedef struct reader { const char *at, *end; } reader;

static bool next_is(const reader *r, const char *name, cj_field *f)
{
    return r->at < r->end && cj_field_read(r->at, r->end, f) && f->name_length == strlen(name) &&
           memcmp(r->at, name, f->name_length) == 0;
}

/* Reads the field that must come next. */
static convjit_status take(reader *r, const char *name, cj_field *f)
{
    if (!next_is(r, name, f))
        return cj_fail(CONVJIT_CORRUPT, "field %s is missing or not well formed", name);
    r->at = f->next;
    return CONVJIT_OK;
}

static convjit_status take_string(reader *r, const char *name, char **out)
{
    cj_field f;
    convjit_status status = take(r, name, &f);
    if (status)
        return status;
    *out = strndup(f.value, f.length);
    return *out ? CONVJIT_OK : cj_fail(CONVJIT_NO_MEMORY, "out of memory for a selection");
}

static convjit_status check_whole(const char *text, size_t length)
{
    char digest[65];
    if (length < sizeof HEADER + CHECKSUM_LINE)
        return cj_fail(CONVJIT_CORRUPT, "%zu bytes are too few for a selection", length);
    if (memcmp(text, HEADER, sizeof HEADER - 1) != 0)
        return cj_fail(CONVJIT_CORRUPT, "does not begin as a selection that this convjit reads");
    const char *line = text + length - CHECKSUM_LINE, *sum = line + sizeof CHECKSUM - 1;
    cj_sha256_hex(text, length - CHECKSUM_LINE, digest);
    if (memcmp(line, CHECKSUM, sizeof CHECKSUM - 1) != 0 || memcmp(sum, digest, 64) != 0 || sum[64] != '\n')
        return cj_fail(CONVJIT_CORRUPT, "checksum is wrong");
    return CONVJIT_OK;
}

/* The fields of the key, of which a list of the cache shows two. */
static convjit_status take_key(reader *r, cj_selection *s)
{
    cj_field f;
    convjit_status status = take(r, "library", &f);
    if (!status)
        status = take(r, "generator", &f);
    if (!status)
        status = take(r, "kind", &f);
    if (!status)
        status = take_string(r, "problem", &s->problem);
    if (!status)
        status = take_string(r, "arch", &s->arch);
    if (!status)
        status = take(r, "multiprocessors", &f);
    if (!status && next_is(r, "wanted", &f))
        r->at = f.next;
    return status;
}

static convjit_status take_choice(reader *r, cj_selection *s)
{
    cj_field kernel;
    convjit_status status = take(r, "kernel", &kernel);
    if (!status && (kernel.length != 64 || strspn(kernel.value, HEX) != 64))
        status = cj_fail(CONVJIT_CORRUPT, "field kernel is not a digest");
    if (status)
        return status;
    memcpy(s->source_hex, kernel.value, 64);
    status = take_string(r, "schedule", &s->schedule);
    if (!status)
        status = take_string(r, "why", &s->why);
    if (!status && r->at != r->end)
        status = cj_fail(CONVJIT_CORRUPT, "has a field too many");
    return status;
}

static convjit_status decode(const char *text, size_t length, const char *name, cj_selection *s)
{
    char expected[CJ_SELECTION_NAME];
    convjit_status status = check_whole(text, length);
    if (status)
        return status;
    reader r = {text + sizeof HEADER - 1, text + length - CHECKSUM_LINE};
    status = take_key(&r, s);
    if (status)
        return status;
    name_of(text, (size_t)(r.at - text), expected);
    if (strcmp(name, expected) != 0)
        return cj_fail(CONVJIT_CORRUPT, "name is not that of its key, which is %s", expected);
    return take_choice(&r, s);
}

convjit_status cj_selection_decode(const cj_blob *bytes, const char *name, cj_selection *s)
{
    cj_selection read = {0};
    convjit_status status = decode((const char *)bytes->data, bytes->size, name, &read);
    if (status || !s)
        cj_selection_free(&read);
    else
        *s = read;
    return status;
}
