/* mutators.h: what could be wrong with a kernel: a barrier, wait, fence, predicate, phase or index term, one at a time. */
#ifndef MUTATORS_H
#define MUTATORS_H

#include <stdbool.h>
#include <stddef.h>

typedef enum mutant_kind {
    MUTATE_BARRIER,   /* a call that synchronises threads, or arrives: deleted, or an argument changed */
    MUTATE_WAIT,      /* one that waits for, or commits, asynchronous work, likewise */
    MUTATE_FENCE,     /* likewise */
    MUTATE_PREDICATE, /* a condition negated or decided, a part of it dropped, a comparison shifted by one or reversed */
    MUTATE_PHASE,     /* a phase or parity flipped, or not advanced */
    MUTATE_INDEX,     /* a term or factor dropped, a sign changed, one more or less in a subscript, an update left out */
    MUTATE_CONSTANT,  /* a literal changed by one, or a constant, launch argument or component replaced by another */
    MUTANT_KINDS
} mutant_kind;

/* One change of a kernel's text: `length` bytes at `at` become `text`. */
typedef struct mutant {
    mutant_kind kind;
    size_t at, length;
    char *text;
    unsigned line;  /* of the kernel's text, from 1 */
    bool plain;     /* in a statement of plain C++, where the host compiler's word on what is the same program holds */
} mutant;

typedef struct mutants { mutant *list; size_t n; } mutants;

const char *mutant_kind_name(mutant_kind kind);

/* All mutants of a kernel's text behind its primitives ("#endif  // CONVJIT_EMU"; all of it if there are none), in the order
 * of their places, each once. No line moves. false if memory ran out. */
bool mutants_of(const char *source, mutants *out);
void mutants_free(mutants *m);

/* The whole text with the change made; and the changed line before and after, without comment and superfluous blanks.
 * malloc'd, NULL if memory ran out. */
char *mutant_apply(const char *source, const mutant *m);
char *mutant_before(const char *source, const mutant *m);
char *mutant_after(const char *source, const mutant *m);

#endif
