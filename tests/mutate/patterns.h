/* patterns.h: files that speak of mutants: equivalent.txt, which explains survivors, and smoke.txt, which chooses some.
 *
 * A line without indentation is a reason (or a title) for the indented lines behind it; '#' begins a comment line.
 *     KERNELS: BEFORE => AFTER
 * KERNELS are names, or globs, with commas between them; BEFORE and AFTER are the changed line as the report prints it, and
 * "..." in them stands for any text. A reason in equivalent.txt that begins with "Gap: " is of a mutant that makes a difference
 * and survives all the same. */
#ifndef PATTERNS_H
#define PATTERNS_H

#include <stdbool.h>

typedef struct pattern {
    char *kernels, *before, *after, *reason;
    unsigned line; /* in its file */
    int matched;   /* mutants, so far */
} pattern;

typedef struct patterns { const char *file; pattern *list; int n; } patterns;

/* Says on stderr what is wrong, and returns false. */
bool patterns_read(patterns *p, const char *file);
void patterns_free(patterns *p);
/* The first one that matches, or NULL. */
pattern *patterns_find(const patterns *p, const char *kernel, const char *before, const char *after);
/* `text` is like `form`, in which "..." stands for any text. */
bool pattern_matches(const char *form, const char *text);

#endif
