/* run_problem.h: one problem on a device: tensors with guards and poison, a launch, and the comparison with the CPU. */
#ifndef RUN_PROBLEM_H
#define RUN_PROBLEM_H

#include <stdlib.h>
#include <string.h>
#include "internal.h"

enum { GUARD = 4096 }; /* bytes before and behind the output that must stay as they were */

typedef struct run_tensors {
    void *host[CONVJIT_TENSOR_COUNT], *device[CONVJIT_TENSOR_COUNT], *workspace, *packed;
    size_t bytes[CONVJIT_TENSOR_COUNT];
} run_tensors;

static inline void run_free(convjit *cj, run_tensors *t)
{
    for (int i = 0; i < CONVJIT_TENSOR_COUNT; i++) {
        free(t->host[i]);
        convjit_device_free(cj, t->device[i]);
    }
    convjit_device_free(cj, t->workspace);
    convjit_device_free(cj, t->packed);
}

static inline convjit_status run_setup(convjit *cj, const convjit_problem *p, bool exact, uint64_t seed, run_tensors *t)
{
    for (int i = 0; i < CONVJIT_TENSOR_COUNT; i++) {
        t->bytes[i] = (size_t)convjit_problem_elements(p, (convjit_tensor)i) * convjit_element_size(p->math);
        if (!t->bytes[i]) continue;
        size_t guard = i == CONVJIT_OUTPUT ? 2 * GUARD : 0;
        t->host[i] = malloc(t->bytes[i] + guard);
        if (!t->host[i]) return cj_fail(CONVJIT_NO_MEMORY, "test: no memory");
        convjit_status s = convjit_device_alloc(cj, &t->device[i], t->bytes[i] + guard);
        if (s) return s;
        if (i == CONVJIT_OUTPUT) memset(t->host[i], 0xff, t->bytes[i] + guard); /* poison: NaN in every type */
        else cj_reference_fill(p, (convjit_tensor)i, exact, seed, t->host[i]);
        s = convjit_device_write(cj, t->device[i], t->host[i], t->bytes[i] + guard);
        if (s) return s;
    }
    return CONVJIT_OK;
}

static inline bool all_poison(const unsigned char *bytes, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != 0xff) return false;
    return true;
}

/* What the launch needs beside the tensors. Of odd seeds the weights are packed before it, if the kernel packs any. */
static inline convjit_status run_reserve(convjit *cj, const convjit_plan *plan, uint64_t seed, run_tensors *t)
{
    size_t packed = seed & 1 ? convjit_plan_packed_size(plan) : 0, workspace = convjit_plan_workspace(plan) - packed;
    convjit_status s = workspace ? convjit_device_alloc(cj, &t->workspace, workspace) : CONVJIT_OK;
    if (!s && packed) s = convjit_device_alloc(cj, &t->packed, packed);
    if (!s && packed) s = convjit_weights_pack(plan, t->device[CONVJIT_WEIGHTS], t->packed, NULL);
    return s;
}

/* Launches a plan of the problem with data drawn from the seed, and compares. */
static inline convjit_status run_plan(convjit *cj, const convjit_problem *p, const convjit_plan *plan, bool exact,
                                      uint64_t seed, uint64_t max_macs, cj_check *result)
{
    run_tensors t = { 0 };
    convjit_status s = run_setup(cj, p, exact, seed, &t);
    if (!s) s = run_reserve(cj, plan, seed, &t);
    if (!s) {
        convjit_tensors device = { .size = sizeof device, .input = t.device[CONVJIT_INPUT],
                                   .weights = t.packed ? NULL : t.device[CONVJIT_WEIGHTS], .packed = t.packed,
                                   .bias = t.device[CONVJIT_BIAS], .residual = t.device[CONVJIT_RESIDUAL],
                                   .output = (char *)t.device[CONVJIT_OUTPUT] + GUARD, .workspace = t.workspace };
        s = convjit_plan_launch(plan, &device, NULL);
    }
    if (!s) s = convjit_device_sync(cj, NULL);
    unsigned char *y = t.host[CONVJIT_OUTPUT];
    size_t y_bytes = t.bytes[CONVJIT_OUTPUT];
    if (!s) s = convjit_device_read(cj, y, t.device[CONVJIT_OUTPUT], y_bytes + 2 * GUARD);
    if (!s && (!all_poison(y, GUARD) || !all_poison(y + GUARD + y_bytes, GUARD)))
        s = cj_fail(CONVJIT_DRIVER, "bytes before or behind the output were written");
    if (!s) {
        convjit_tensors host = { .size = sizeof host, .input = t.host[CONVJIT_INPUT], .weights = t.host[CONVJIT_WEIGHTS],
                                 .bias = t.host[CONVJIT_BIAS], .residual = t.host[CONVJIT_RESIDUAL], .output = y + GUARD };
        s = cj_reference_check(p, &host, exact, max_macs, seed, result);
    }
    run_free(cj, &t);
    return s;
}

/* The same, of a plan with a schedule (NULL: the predicted best). used receives the schedule's name. */
static inline convjit_status run_problem(convjit *cj, const convjit_problem *p, const char *schedule, bool exact, uint64_t seed,
                                         uint64_t max_macs, cj_check *result, char used[256])
{
    convjit_plan *plan = NULL;
    convjit_status s = convjit_plan_create_with(&plan, cj, p, schedule);
    if (!s) snprintf(used, 256, "%s", convjit_plan_schedule(plan));
    if (!s) s = run_plan(cj, p, plan, exact, seed, max_macs, result);
    convjit_plan_destroy(plan);
    return s;
}

#endif
