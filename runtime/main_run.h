/* main_run.h: what the files of the command `run` share. */
#ifndef CONVJIT_MAIN_RUN_H
#define CONVJIT_MAIN_RUN_H

#include "main.h"

typedef enum device_choice { DEVICE_AUTO, DEVICE_GPU, DEVICE_EMU } device_choice;

typedef struct run_options {
    device_choice device;
    const char *arch, *schedule, *manifest;
    bool check, random, full, time, json, force, packed, all;
    uint64_t seed;
} run_options;

/* What is open while problems run. */
typedef struct session {
    const run_options *options;
    convjit *cj;
    bool emulated;
    void *flush; /* device memory, allocated at the first measurement */
} session;

typedef struct outcome {
    char *schedule;
    convjit_origin origin;
    double plan_ms, us;
    cj_check check;
} outcome;

/* main_run.c: one launch, as the options say. The outcome's schedule is malloc'd. */
convjit_status run_problem(session *s, const convjit_problem *p, const char *schedule, outcome *out);
double multiply_adds(const convjit_problem *p);

/* main_run_all.c: times all candidates of a problem, and reports. Returns the exit status. */
int run_all_schedules(session *s, const convjit_problem *p);

#endif
