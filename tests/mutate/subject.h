/* subject.h: the kernels whose mutants are tried, and the images that they run on.
 *
 * Every line of tests/mutate/problems.txt is a problem, with its architecture and schedule ("-": the best), and sizes:
 *     NAME PROBLEM ARCH SCHEDULE SIZE...             a SIZE is an N, H and W to run on, like n2h5w7
 * ARCH may end in "/3", a number of multiprocessors: blocks that stay and take tile after tile are then so few that small
 * images give each of them several.
 * And every tests/mutate/kernels/NAME.cu, a kernel that somebody wrote by hand. It computes a convolution like any other, so
 * that the same reference on the CPU says what is right (a matrix product is one of 1x1). Its head describes it:
 *     // NAME.cu: what it shows.
 *     //= convjit-kernel 1          lines in "//= " are a description as cache entries have it (runtime/kernel.c),
 *     //= name NAME                 with the tuple, launches, grid, shared memory and arguments
 *     //= ...
 *     //= end
 *     //= sizes SIZE...             and then the sizes
 * What follows is the kernel's text with no primitives: those that it names are put in front, as in generated text.
 *
 * Sizes stand in order of cost, since most mutants are found out by the first. Choose them so that they have an image of one
 * pixel, tiles that lie within the image and tiles that touch each border, more than one tile along each axis, and n > 1. */
#ifndef SUBJECT_H
#define SUBJECT_H

#include "internal.h"

enum { MAX_SIZES = 16 };

typedef struct subject {
    char *name, *schedule;            /* "by hand": by none */
    cj_kernel *kernel;                /* with its source */
    convjit_problem sizes[MAX_SIZES]; /* the problem with each N, H, W */
    int n_sizes;
} subject;

/* All of them. Paths are relative to the repository's root. `cj` generates. What is wrong with any of them - a schedule that is no
 * more, a problem that it refuses now - is said on stderr, and then it returns false. */
bool subjects_read(convjit *cj, subject **list, int *n);
void subjects_free(subject *list, int n);

/* A copy of its kernel with another source. */
convjit_status subject_kernel(const subject *s, const char *source, cj_kernel **out);

#endif
