/* main_run_all.c: `run --all-schedules`: is the schedule that is predicted to be the best one the best? */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "main_run.h"

typedef struct candidate {
    char *schedule, *failure; /* failure: why it did not run; NULL: it did */
    double predicted_us, us;
    cj_check check;
} candidate;

typedef struct comparison {
    session *s;
    const convjit_problem *p;
    char arch[16];
    int sms;
    candidate *items;   /* as listed, and at the end best measured first, failures last */
    size_t n, capacity;
    char *pick;         /* the first one listed: it has the least predicted time */
    atomic_size_t next; /* to be compiled */
} comparison;

static void comparison_free(comparison *c)
{
    for (size_t i = 0; i < c->n; i++) {
        free(c->items[i].schedule);
        free(c->items[i].failure);
    }
    free(c->items);
    free(c->pick);
}

static convjit_status out_of_memory(void)
{
    return cj_fail(CONVJIT_NO_MEMORY, "out of memory");
}

/* ---- The candidates ---- */

static convjit_status add_candidate(comparison *c, const json *line)
{
    if (c->n == c->capacity) {
        size_t capacity = c->capacity ? 2 * c->capacity : 32;
        candidate *items = realloc(c->items, capacity * sizeof *items);
        if (!items)
            return out_of_memory();
        c->items = items;
        c->capacity = capacity;
    }
    candidate *added = &c->items[c->n];
    *added = (candidate){ .schedule = strdup(json_text(line, "schedule")),
                          .predicted_us = strtod(json_text(line, "predicted_us"), NULL) };
    if (!added->schedule)
        return out_of_memory();
    c->n++;
    return CONVJIT_OK;
}

static bool is_listed(const comparison *c, const char *schedule)
{
    for (size_t i = 0; i < c->n; i++)
        if (strcmp(c->items[i].schedule, schedule) == 0)
            return true;
    return false;
}

/* Adds the candidates of one schedule, or of all (NULL): for those that are not listed, asks for their schedule's own list. */
static convjit_status list_candidates(comparison *c, const char *of)
{
    char *text = NULL;
    convjit_status status = cj_context_schedules(c->s->cj, c->p, c->arch, c->sms, of, &text);
    if (status != CONVJIT_OK)
        return status;
    json *j = json_parse(text);
    convjit_free(text);
    const json *list = j ? json_member(j, "candidates") : NULL;
    for (const json *line = list ? list->child : NULL; line && status == CONVJIT_OK; line = line->next) {
        const char *schedule = json_text(line, "schedule");
        if (!strchr(schedule, ':'))
            status = list_candidates(c, schedule);
        else if (!is_listed(c, schedule))
            status = add_candidate(c, line);
    }
    json_free(j);
    return j ? status : out_of_memory();
}

/* ---- Compiling and timing ---- */

/* A plan is made for its kernel, which the context keeps. What fails here fails again, and is reported, when it runs. */
static void *compile_some(void *user)
{
    comparison *c = user;
    for (size_t i; (i = atomic_fetch_add(&c->next, 1)) < c->n;) {
        convjit_plan *plan = NULL;
        if (convjit_plan_create_with(&plan, c->s->cj, c->p, c->items[i].schedule) == CONVJIT_OK)
            convjit_plan_destroy(plan);
    }
    return NULL;
}

static void compile_all(comparison *c)
{
    enum { MOST = 64 };
    pthread_t threads[MOST];
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    int n = 0;
    while (n < MOST && n + 1 < cores && pthread_create(&threads[n], NULL, compile_some, c) == 0)
        n++;
    compile_some(c);
    while (n > 0)
        pthread_join(threads[--n], NULL);
}

static convjit_status measure_all(comparison *c)
{
    for (size_t i = 0; i < c->n; i++) {
        candidate *each = &c->items[i];
        outcome out = { 0 };
        if (run_problem(c->s, c->p, each->schedule, &out) != CONVJIT_OK) {
            each->failure = strdup(convjit_errmsg());
            if (!each->failure)
                return out_of_memory();
        }
        each->us = out.us;
        each->check = out.check;
        free(out.schedule);
    }
    return CONVJIT_OK;
}

static int by_time(const void *a, const void *b)
{
    const candidate *x = a, *y = b;
    if (!x->failure != !y->failure)
        return x->failure ? 1 : -1;
    return (x->us > y->us) - (x->us < y->us);
}

static convjit_status compare(comparison *c)
{
    uintptr_t binding;
    cj_device *device = cj_context_device(c->s->cj);
    convjit_status status = device->bind(device, c->arch, &c->sms, &binding);
    if (status == CONVJIT_OK)
        status = list_candidates(c, NULL);
    if (status != CONVJIT_OK)
        return status;
    c->pick = strdup(c->items[0].schedule);
    if (!c->pick)
        return out_of_memory();
    compile_all(c);
    status = measure_all(c);
    qsort(c->items, c->n, sizeof *c->items, by_time);
    return status;
}

/* ---- Reports ---- */

/* The pick's place, from 0. */
static size_t rank_of_pick(const comparison *c)
{
    size_t rank = 0;
    while (strcmp(c->items[rank].schedule, c->pick) != 0)
        rank++;
    return rank;
}

static void print_text(const comparison *c, const char *name)
{
    size_t rank = rank_of_pick(c);
    const candidate *best = &c->items[0], *pick = &c->items[rank];
    printf("%s on %s\n%12s %12s %8s  %s\n", name, c->s->emulated ? "the emulated device" : "the GPU", "measured us", "predicted us",
           "to best", "schedule");
    for (size_t i = 0; i < c->n; i++) {
        const candidate *each = &c->items[i];
        if (each->failure)
            printf("%12s %12.1f %8s  %s: %s\n", "-", each->predicted_us, "-", each->schedule, each->failure);
        else
            printf("%12.2f %12.1f %8.3f  %s%s%s\n", each->us, each->predicted_us, each->us / best->us, each->schedule,
                   i == rank ? "   <- picked" : "", each->check.wrong ? "   WRONG" : "");
    }
    if (!pick->failure)
        printf("picked: number %zu of %zu, %.3f times the best\n", rank + 1, c->n, pick->us / best->us);
}

static void add_json(const comparison *c, const candidate *each, cj_text *t)
{
    cj_text_puts(t, "{\"schedule\": ");
    cj_text_json(t, each->schedule);
    cj_text_printf(t, ", \"predicted_us\": %.3f", each->predicted_us);
    if (each->failure) {
        cj_text_puts(t, ", \"error\": ");
        cj_text_json(t, each->failure);
    } else {
        cj_text_printf(t, ", \"time_us\": %.3f", each->us);
    }
    if (!each->failure && c->s->options->check)
        cj_text_printf(t, ", \"check\": {\"wrong\": %llu, \"of\": %llu}", (unsigned long long)each->check.wrong,
                       (unsigned long long)each->check.of);
    cj_text_puts(t, "}");
}

static void print_json(const comparison *c, const char *name)
{
    cj_text t = { 0 };
    cj_text_puts(&t, "{\"problem\": ");
    cj_text_json(&t, name);
    cj_text_printf(&t, ", \"device\": \"%s\", \"picked\": ", c->s->emulated ? "emu" : "gpu");
    cj_text_json(&t, c->pick);
    cj_text_puts(&t, ", \"candidates\": [");
    for (size_t i = 0; i < c->n; i++) {
        cj_text_puts(&t, i ? ", " : "");
        add_json(c, &c->items[i], &t);
    }
    cj_text_puts(&t, "]}\n");
    fputs(t.failed ? "{}\n" : t.data, stdout);
    cj_text_free(&t);
}

/* Candidates that cannot serve this problem are no failure as long as one can; a wrong result is. */
static int complain_about(const comparison *c, const char *name)
{
    int status = EXIT_SUCCESS;
    if (c->items[0].failure) {
        complain("%s: no candidate could be launched: %s", name, c->items[0].failure);
        status = EXIT_FAILURE;
    }
    for (size_t i = 0; i < c->n; i++)
        if (c->items[i].check.wrong) {
            complain("%s, %s: wrong result, first at %s", name, c->items[i].schedule, c->items[i].check.first);
            status = EXIT_FAILURE;
        }
    return status;
}

int run_all_schedules(session *s, const convjit_problem *p)
{
    comparison c = { .s = s, .p = p };
    char *name = problem_text(p);
    int status = EXIT_FAILURE;
    if (name && compare(&c) == CONVJIT_OK) {
        (s->options->json ? print_json : print_text)(&c, name);
        fflush(stdout);
        status = complain_about(&c, name);
    } else if (name) {
        complain_errmsg(name);
    }
    comparison_free(&c);
    free(name);
    return status;
}
