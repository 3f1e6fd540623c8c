/* context.h: what a convjit holds. For context.c, compile.c and plan.c only. */
#ifndef CJ_CONTEXT_H
#define CJ_CONTEXT_H

#include <pthread.h>
#include "internal.h"

struct convjit {
    convjit_config config;      /* strings are copies */
    cj_log log;
    cj_device *device;
    cj_compiler *compiler;      /* the device's own: NVRTC, or the host's C++ compiler */
    cj_cache *cache;
    pthread_mutex_t script_lock;/* guards script: Lua is single-threaded */
    cj_script *script;          /* opened at first use */
    struct cj_table *built;     /* compile.c: key -> kernel, with its own lock */
    struct cj_plans *plans;     /* plan.c: problem -> ready plan, so that a repeated plan costs no generation */
};

/* compile.c, plan.c: their parts of a context; NULL if memory ran out. Free the plans first; NULL is fine. */
struct cj_table *cj_table_create(void);
void cj_table_free(struct cj_table *table);
struct cj_plans *cj_plans_create(void);
void cj_plans_free(struct cj_plans *plans, cj_device *device);

/* context.c: script.c's lists, under the context's lock. Free each string and the array. */
convjit_status cj_context_candidates(convjit *cj, const convjit_problem *p, const char *arch, int sms, const char *schedule,
                                     char ***specs, size_t *n);
convjit_status cj_context_refusals(convjit *cj, const convjit_problem *p, const char *arch, int sms, char ***lines,
                                   size_t *n);
void cj_strings_free(char **strings, size_t n);

#endif
