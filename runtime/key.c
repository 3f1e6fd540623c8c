/* key.c: cache keys. A key's text has a first line with the format's version, and then one field a line, each with its
 * length, so that no two lists of fields have one text:
 *
 *     convjit-key 1
 *     kind 5 cubin
 *     tuple 11 c64k128r5s7
 *     schedule 13 direct:kt=128
 *     arch 6 sm_90a
 *     option 25 --gpu-architecture=sm_90a       [one an option, in order]
 *     launch 64 SHA-256                         [of the description of the launches, without `why`]
 *     source 70 SHA-256 LENGTH
 *     compiler 14 nvrtc 12.4.127                [only if there is a compiler]
 *
 * `why` is left out because it may speak of N, H and W, which must not tell kernels apart. The other lines of the
 * description are in: an entry brings its own launch expressions, so it must not outlive a change of them.
 */
#include <stdio.h>
#include <string.h>
#include "internal.h"

static const char HEADER[] = "convjit-key 1\n";
static const char COMPILER[] = "compiler";

void cj_field_add(cj_text *t, const char *name, const char *value)
{
    cj_text_printf(t, "%s %zu %s\n", name, strlen(value), value);
}

static convjit_status add_launch(cj_text *t, const cj_kernel *k)
{
    cj_text description = {0};
    char digest[65], no_reason[] = "-";
    cj_kernel same = *k; /* borrows k's strings */
    same.why = no_reason;
    convjit_status status = cj_kernel_write(&same, &description);
    if (!status) {
        cj_sha256_hex(description.data, description.length, digest);
        cj_field_add(t, "launch", digest);
    }
    cj_text_free(&description);
    return status;
}

static void add_source(cj_text *t, const char *source)
{
    char digest[65], value[96];
    size_t length = strlen(source);
    cj_sha256_hex(source, length, digest);
    snprintf(value, sizeof value, "%s %zu", digest, length);
    cj_field_add(t, "source", value);
}

convjit_status cj_key_make(const cj_kernel *k, const char *kind, const char *identity, cj_key *key, cj_text *text)
{
    cj_text t = {0};
    if (!k->source)
        return cj_fail(CONVJIT_GENERATE, "kernel %s has no source, so it has no key", k->name);
    cj_text_puts(&t, HEADER);
    cj_field_add(&t, "kind", kind);
    cj_field_add(&t, "tuple", k->tuple);
    cj_field_add(&t, "schedule", k->schedule);
    cj_field_add(&t, "arch", k->arch);
    for (int i = 0; i < k->n_options; i++)
        cj_field_add(&t, "option", k->options[i]);
    convjit_status status = add_launch(&t, k);
    if (!status) {
        add_source(&t, k->source);
        if (identity)
            cj_field_add(&t, COMPILER, identity);
        if (t.failed)
            status = cj_fail(CONVJIT_NO_MEMORY, "out of memory for a cache key");
    }
    if (!status && !cj_key_parse(t.data, t.length, key))
        status = cj_fail(CONVJIT_GENERATE, "kernel %s: a field of its cache key has no bytes", k->name);
    if (!status && text)
        cj_text_add(text, t.data, t.length);
    cj_text_free(&t);
    return status;
}

/* ---- Reading ---- */

bool cj_field_read(const char *name, const char *end, cj_field *f)
{
    const char *blank = memchr(name, ' ', (size_t)(end - name)), *at;
    if (!blank || blank == name)
        return false;
    size_t length = 0, digits = 0;
    for (at = blank + 1; at < end && *at >= '0' && *at <= '9' && digits < 9; at++, digits++)
        length = length * 10 + (size_t)(*at - '0');
    if (digits == 0 || at == end || *at++ != ' ' || length == 0 || (size_t)(end - at) <= length || at[length] != '\n')
        return false;
    f->name_length = (size_t)(blank - name);
    f->value = at;
    f->length = length;
    f->next = at + length + 1;
    return true;
}

void cj_key_of_source(const char source_hex[65], const char *identity, cj_key *key)
{
    memcpy(key->source_hex, source_hex, sizeof key->source_hex);
    key->compiler_hex[0] = 0;
    if (identity)
        cj_sha256_hex(identity, strlen(identity), key->compiler_hex);
}

bool cj_key_parse(const char *text, size_t length, cj_key *key)
{
    const char *at = text + sizeof HEADER - 1, *end = text + length;
    if (length < sizeof HEADER || memcmp(text, HEADER, sizeof HEADER - 1) != 0)
        return false;
    for (cj_field f; at < end; at = f.next) {
        if (!cj_field_read(at, end, &f))
            return false;
        bool last = f.next == end;
        bool compiler = f.name_length == sizeof COMPILER - 1 && memcmp(at, COMPILER, f.name_length) == 0;
        if (compiler && !last)
            return false;
        if (compiler)
            cj_sha256_hex(f.value, f.length, key->compiler_hex);
        else if (last)
            key->compiler_hex[0] = 0;
        if (last)
            cj_sha256_hex(text, (size_t)((compiler ? at : end) - text), key->source_hex);
    }
    return true;
}
