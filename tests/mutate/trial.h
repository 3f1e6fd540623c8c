/* trial.h: one mutant in a process of its own, with limits: compiled, run on every size in every thread order, compared. */
#ifndef TRIAL_H
#define TRIAL_H

#include "mutators.h"
#include "subject.h"

typedef enum verdict {
    SURVIVED,
    CAUGHT_COMPILER,  /* it does not compile */
    CAUGHT_EMULATOR,  /* the emulated device found it doing something illegal */
    CAUGHT_WRONG,     /* an element differs from the reference */
    CAUGHT_GUARD,     /* bytes around the output were written */
    CAUGHT_TIMEOUT,   /* a run took much longer than the unchanged kernel's */
    CAUGHT_CRASH,     /* the process died otherwise, or ran out of memory */
    SAME_CODE,        /* the host's compiler makes the same machine code of it, perhaps optimised: nothing to catch */
    NOT_TRIED,        /* the trial itself failed */
    VERDICTS
} verdict;

typedef struct trial {
    verdict verdict;
    char detail[320];           /* the message of what was caught */
    double seconds[MAX_SIZES];  /* of CPU, the longest of the orders; of the unchanged kernel */
    char code[65];              /* digest of the machine code */
    char optimised[65];         /* and of what the optimiser makes of it, if the kernel passed */
} trial;

/* What trials work with, opened by the parent. */
typedef struct tools {
    convjit *cj;                /* on the emulated device */
    cj_compiler *optimiser;     /* the same compiler, without sanitizers; NULL if it cannot be had */
} tools;

const char *verdict_name(verdict v);

/* Runs in the child, and fills `out`, which lies in memory shared with the parent; ends the process. `original` is the
 * unchanged kernel's trial, NULL for that one itself. m: the mutant, NULL likewise. */
_Noreturn void trial_run(const tools *t, const subject *s, const mutant *m, const trial *original, trial *out);

/* In the parent: the verdict on a child that ended with this wait status. */
void trial_end(trial *t, int wait_status);

#endif
