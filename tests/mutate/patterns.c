/* patterns.c: reads files of patterns, and matches. */
#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "internal.h"
#include "patterns.h"

bool pattern_matches(const char *form, const char *text)
{
    const char *gap = strstr(form, "...");
    size_t head = gap ? (size_t)(gap - form) : strlen(form);
    if (strncmp(form, text, head) != 0)
        return false;
    if (!gap)
        return text[head] == 0;
    for (text += head;; text++) {
        if (pattern_matches(gap + 3, text))
            return true;
        if (!*text)
            return false;
    }
}

static bool names_kernel(const char *kernels, const char *kernel)
{
    char name[256];
    for (const char *at = kernels; *at;) {
        at += strspn(at, ", ");
        size_t length = strcspn(at, ", ");
        snprintf(name, sizeof name, "%.*s", (int)length, at);
        if (length && fnmatch(name, kernel, 0) == 0)
            return true;
        at += length;
    }
    return false;
}

pattern *patterns_find(const patterns *p, const char *kernel, const char *before, const char *after)
{
    for (int i = 0; i < p->n; i++)
        if (names_kernel(p->list[i].kernels, kernel) && pattern_matches(p->list[i].before, before) &&
            pattern_matches(p->list[i].after, after))
            return &p->list[i];
    return NULL;
}

static bool add(patterns *p, char *text, const char *reason, unsigned line)
{
    char *colon = strstr(text, ": "), *arrow = colon ? strstr(colon, " => ") : NULL;
    if (!arrow || !*reason) {
        fprintf(stderr, "%s:%u: %s\n", p->file, line, arrow ? "no reason before it" : "expected KERNELS: BEFORE => AFTER");
        return false;
    }
    pattern *list = realloc(p->list, (size_t)(p->n + 1) * sizeof *list);
    if (!list)
        return false;
    p->list = list;
    *colon = *arrow = 0;
    list[p->n++] = (pattern){.kernels = strdup(text), .before = strdup(colon + 2), .after = strdup(arrow + 4),
                             .reason = strdup(reason), .line = line};
    const pattern *last = &list[p->n - 1];
    return last->kernels && last->before && last->after && last->reason;
}

bool patterns_read(patterns *p, const char *file)
{
    *p = (patterns){.file = file};
    FILE *in = fopen(file, "r");
    if (!in) {
        fprintf(stderr, "%s: %s\n", file, strerror(errno));
        return false;
    }
    char text[2048];
    cj_text reason = {0};
    bool good = true, was_pattern = true;
    for (unsigned line = 1; good && fgets(text, sizeof text, in); line++) {
        size_t length = strcspn(text, "\n"), indent = strspn(text, " ");
        text[length] = 0;
        if (indent == length || text[0] == '#')
            continue;
        if (indent > 0)
            good = add(p, text + indent, reason.data ? reason.data : "", line);
        else if (was_pattern)
            cj_text_free(&reason);
        if (indent == 0)
            cj_text_printf(&reason, "%s%s", reason.length ? " " : "", text);
        was_pattern = indent > 0;
    }
    cj_text_free(&reason);
    fclose(in);
    return good;
}

void patterns_free(patterns *p)
{
    for (int i = 0; i < p->n; i++) {
        free(p->list[i].kernels);
        free(p->list[i].before);
        free(p->list[i].after);
        free(p->list[i].reason);
    }
    free(p->list);
    *p = (patterns){0};
}
