/* warpgroup.h: a warpgroup, for warpgroup.c and wgmma.c. */
#ifndef CJ_EMU_WARPGROUP_H
#define CJ_EMU_WARPGROUP_H

#include "emu.h"

/* A thread's registers, which are its fibre's stack from an address on, as its warpgroup left them to the tensor cores. */
typedef struct cj_register_image {
    uintptr_t low, high;
    unsigned char *bytes;
    size_t capacity;
} cj_register_image;

typedef struct cj_sums cj_sums;
typedef struct cj_flight cj_flight;

typedef struct cj_warpgroup {
    cj_thread *threads; /* the first of its 128 */
    unsigned arrived, first; /* how many, and who was first, at what they do next: */
    const cj_emu_warpgroup_call *calls[CJ_EMU_WARPGROUP];
    uintptr_t frames[CJ_EMU_WARPGROUP]; /* below all local variables of the kernel */
    /* setmaxnreg */
    unsigned registers; /* of each thread; 0: as at launch */
    unsigned wanted;    /* that it waits for; 0: does not */
    /* wgmma */
    bool fenced;
    unsigned commits;
    cj_register_image images[CJ_EMU_WARPGROUP];
    cj_flight *flights; /* under way, in order */
    unsigned n_flights, max_flights;
    cj_sums *sums, *idle_sums;
} cj_warpgroup;

/* ---- warpgroup.c ---- */

/* realloc, which faults instead of failing. */
void *cj_warpgroup_memory(cj_worker *w, void *before, size_t bytes);

/* ---- wgmma.c: all 128 threads have come, the current one last ---- */

void cj_wgmma_fence(cj_worker *w, cj_warpgroup *g);
void cj_wgmma_issue(cj_worker *w, cj_warpgroup *g, const cj_emu_warpgroup_call *call);
void cj_wgmma_commit(cj_worker *w, cj_warpgroup *g);
void cj_wgmma_wait(cj_worker *w, cj_warpgroup *g, const cj_emu_warpgroup_call *call);
unsigned long long cj_wgmma_descriptor(const void *start, unsigned leading, unsigned stride, unsigned swizzle, unsigned line);
/* Forgets what is under way; frees its memory. */
void cj_wgmma_reset(cj_warpgroup *g);
void cj_wgmma_free(cj_warpgroup *g);

#endif
