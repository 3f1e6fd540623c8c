/* main_run.c: the command `run`: launches problems on a device, checks the results and measures time. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "main_run.h"

static const char run_help[] =
    "usage: convjit run PROBLEM... [options]\n"
    "Compiles each problem or takes it from the cache, launches it, and says what happened. With a wrong result or an error\n"
    "the exit status is 1.\n"
    "\n"
    "  --manifest FILE       also the problems in this file, one a line; '-': standard input\n"
    "  --device auto|gpu|emu the emulated device runs the same kernel on the CPU, slowly (default: auto, a GPU if there is one)\n"
    "  --arch ARCH           target architecture (default: the GPU's own; on the emulated device sm_90a)\n"
    "  --schedule NAME       a schedule's name or full specification (default: the one with the least predicted time)\n"
    "  --packed              pack the weights once, before the launches, and not in each\n"
    "  --check[=WORDS]       compare with a double-precision reference. Words, joined by commas: exact (integer data,\n"
    "                        compared for equality; the default), random (normal data, compared within an error bound),\n"
    "                        full (every element; otherwise a sample when there are very many)\n"
    "  --time                measure device time: the median of many launches, on a GPU with the L2 cache flushed before each\n"
    "  --all-schedules       time the 20 best predicted candidates of each schedule, and not only the pick; prints a table\n"
    "  --seed N              of the data and the sample (default: 1)\n"
    "  --json                one JSON object a problem, on one line\n"
    "  --trace               on the emulated device, say which thread waits for what, and who completes it (on stderr)\n"
    "  --force               also run what would take the emulated device very long\n"
    "  -h, --help            print this\n";

/* Above this many multiply-adds the emulated device refuses: minutes of waiting are not what was meant. */
#define EMU_LIMIT 2e9
/* A check of more multiply-adds than this samples rows: a few seconds on two cores. */
#define CHECK_LIMIT 8000000000u
enum { FLUSH_BYTES = 256 << 20 }; /* larger than any GPU's second-level cache */

/* ---- Arguments ---- */

static bool parse_check(char *words, run_options *o)
{
    char *rest = NULL;
    o->check = true;
    for (char *word = words ? strtok_r(words, ",", &rest) : NULL; word; word = strtok_r(NULL, ",", &rest)) {
        if (strcmp(word, "random") == 0)
            o->random = true;
        else if (strcmp(word, "full") == 0)
            o->full = true;
        else if (strcmp(word, "exact") == 0)
            o->random = false;
        else
            return wrong_use("run", "--check takes exact, random and full, not '%s'", word), false;
    }
    return true;
}

static bool parse_choice(const char *text, device_choice *out)
{
    static const char *const names[] = { "auto", "gpu", "emu" };
    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0)
            return *out = (device_choice)i, true;
    return wrong_use("run", "--device is auto, gpu or emu, not '%s'", text), false;
}

/* 0 and the options, or -1 to go no further, with the exit status in *status. */
static int run_arguments(int argc, char **argv, run_options *o, int *status)
{
    static const struct option options[] = {
        { "manifest", required_argument, NULL, 'm' }, { "device", required_argument, NULL, 'd' },
        { "arch", required_argument, NULL, 'a' },     { "schedule", required_argument, NULL, 's' },
        { "check", optional_argument, NULL, 'c' },    { "time", no_argument, NULL, 't' },
        { "seed", required_argument, NULL, 'r' },     { "json", no_argument, NULL, 'j' },
        { "force", no_argument, NULL, 'f' },          { "trace", no_argument, NULL, 'T' },
        { "packed", no_argument, NULL, 'p' },         { "all-schedules", no_argument, NULL, 'A' },
        { "help", no_argument, NULL, 'h' },
        { 0 },
    };
    *o = (run_options){ .seed = 1 };
    bool ok = true;
    for (int c; ok && (c = next_option(argc, argv, "h", options)) != -1;)
        switch (c) {
        case 'm': o->manifest = optarg; break;
        case 'd': ok = parse_choice(optarg, &o->device); break;
        case 'a': o->arch = optarg; break;
        case 's': o->schedule = optarg; break;
        case 'c': ok = parse_check(optarg, o); break;
        case 't': o->time = true; break;
        case 'j': o->json = true; break;
        case 'f': o->force = true; break;
        case 'p': o->packed = true; break;
        case 'A': o->all = true; break;
        case 'T': setenv("CONVJIT_EMU_TRACE", "1", 1); break;
        case 'r':
            ok = parse_count(optarg, UINT64_MAX, &o->seed);
            if (!ok)
                wrong_use("run", "--seed is a whole number, not '%s'", optarg);
            break;
        case 'h':
            fputs(run_help, stdout);
            *status = EXIT_SUCCESS;
            return -1;
        default: ok = false;
        }
    if (ok && optind == argc && !o->manifest)
        ok = (wrong_use("run", "no problem given"), false);
    if (ok && o->all && (!o->time || o->schedule))
        ok = (wrong_use("run", "--all-schedules needs --time, and no --schedule"), false);
    *status = EXIT_USAGE;
    return ok ? 0 : -1;
}

/* ---- The device ---- */

/* Whether there is a GPU to run on: *none then says that there is not, as opposed to one that fails. */
static convjit_status probe_gpu(convjit *cj, bool *none)
{
    char arch[16];
    int sms;
    uintptr_t binding;
    cj_device *d = cj_context_device(cj);
    convjit_status status = d->bind(d, arch, &sms, &binding);
    *none = status == CONVJIT_NO_DRIVER || status == CONVJIT_NO_DEVICE;
    return status;
}

/* The first line of the message is enough for a note. */
static void note_no_gpu(void)
{
    const char *message = convjit_errmsg();
    complain("no GPU, using the emulated device, which is slow (%.*s)", (int)strcspn(message, "\n"), message);
}

static bool open_session(session *s, const run_options *o)
{
    convjit_config config = { .size = sizeof config, .arch = o->arch };
    *s = (session){ .options = o };
    if (o->device != DEVICE_EMU) {
        bool none;
        s->cj = open_context(&config);
        if (!s->cj)
            return false;
        if (o->device == DEVICE_GPU || probe_gpu(s->cj, &none) == CONVJIT_OK)
            return true;
        if (!none) {
            complain("%s", convjit_errmsg());
            return false;
        }
        note_no_gpu();
        convjit_close(s->cj);
    }
    config.device = CONVJIT_EMU;
    s->emulated = true;
    s->cj = open_context(&config);
    return s->cj != NULL;
}

static void close_session(session *s)
{
    if (s->flush)
        convjit_device_free(s->cj, s->flush);
    convjit_close(s->cj);
}

/* ---- Tensors ---- */

typedef struct memory { void *host[CONVJIT_TENSOR_COUNT], *device[CONVJIT_TENSOR_COUNT], *workspace, *packed; } memory;

static size_t tensor_bytes(const convjit_problem *p, convjit_tensor which)
{
    return (size_t)convjit_problem_elements(p, which) * convjit_element_size(p->math);
}

static void memory_free(convjit *cj, memory *m)
{
    for (int i = 0; i < CONVJIT_TENSOR_COUNT; i++) {
        free(m->host[i]);
        if (m->device[i])
            convjit_device_free(cj, m->device[i]);
    }
    convjit_device_free(cj, m->workspace);
    convjit_device_free(cj, m->packed);
}

/* One tensor on both sides. Inputs are filled; the output starts as NaN, so that an element never written shows. */
static convjit_status tensor_make(const session *s, const convjit_problem *p, convjit_tensor which, memory *m)
{
    size_t bytes = tensor_bytes(p, which);
    cj_device *d = cj_context_device(s->cj);
    m->host[which] = malloc(bytes);
    if (!m->host[which])
        return cj_fail(CONVJIT_NO_MEMORY, "no memory for a tensor of %zu bytes", bytes);
    convjit_status status = convjit_device_alloc(s->cj, &m->device[which], bytes);
    if (status != CONVJIT_OK)
        return status;
    if (which == CONVJIT_OUTPUT)
        return d->fill(d, m->device[which], 0xff, bytes);
    cj_reference_fill(p, which, s->options->check && !s->options->random, s->options->seed, m->host[which]);
    return convjit_device_write(s->cj, m->device[which], m->host[which], bytes);
}

static convjit_status memory_make(const session *s, const convjit_problem *p, const convjit_plan *plan, memory *m)
{
    for (int i = 0; i < CONVJIT_TENSOR_COUNT; i++) {
        convjit_status status = tensor_bytes(p, i) > 0 ? tensor_make(s, p, i, m) : CONVJIT_OK;
        if (status != CONVJIT_OK)
            return status;
    }
    size_t packed = s->options->packed ? convjit_plan_packed_size(plan) : 0;
    size_t workspace = convjit_plan_workspace(plan) - packed;
    convjit_status status = workspace > 0 ? convjit_device_alloc(s->cj, &m->workspace, workspace) : CONVJIT_OK;
    if (status == CONVJIT_OK && packed > 0)
        status = convjit_device_alloc(s->cj, &m->packed, packed);
    if (status == CONVJIT_OK && packed > 0)
        status = convjit_weights_pack(plan, m->device[CONVJIT_WEIGHTS], m->packed, NULL);
    return status;
}

static convjit_tensors tensors_of(void *const at[CONVJIT_TENSOR_COUNT], void *workspace, const void *packed)
{
    return (convjit_tensors){
        .size = sizeof(convjit_tensors), .input = at[CONVJIT_INPUT], .weights = at[CONVJIT_WEIGHTS],
        .bias = at[CONVJIT_BIAS], .residual = at[CONVJIT_RESIDUAL], .output = at[CONVJIT_OUTPUT],
        .workspace = workspace, .packed = packed,
    };
}

/* ---- Time ---- */

typedef struct launch { const convjit_plan *plan; const convjit_tensors *tensors; } launch;

static convjit_status launch_once(void *user)
{
    const launch *l = user;
    return convjit_plan_launch(l->plan, l->tensors, NULL);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One launch that finds the input in memory, not in the second-level cache. The flush is still running when the launch is
 * enqueued, so that the host's part of a launch is not measured. */
static convjit_status time_once(session *s, launch *l, double *ms)
{
    cj_device *d = cj_context_device(s->cj);
    if (!s->emulated) {
        convjit_status status = s->flush ? CONVJIT_OK : convjit_device_alloc(s->cj, &s->flush, FLUSH_BYTES);
        if (status == CONVJIT_OK)
            status = d->fill(d, s->flush, 0, FLUSH_BYTES);
        if (status != CONVJIT_OK)
            return status;
    }
    return d->time(d, launch_once, l, ms);
}

/* The median of as many launches as half a second holds, within limits. The launch before was the warm-up. */
static convjit_status measure(session *s, const convjit_plan *plan, const convjit_tensors *device, double *us)
{
    enum { MOST = 200 };
    launch l = { plan, device };
    double ms[MOST], total = 0;
    int least = s->emulated ? 1 : 11, n = 0;
    while (n < MOST && (n < least || total < 500)) {
        convjit_status status = time_once(s, &l, &ms[n]);
        if (status != CONVJIT_OK)
            return status;
        total += ms[n++];
    }
    qsort(ms, (size_t)n, sizeof *ms, compare_doubles);
    *us = 1e3 * (n % 2 ? ms[n / 2] : (ms[n / 2 - 1] + ms[n / 2]) / 2);
    return CONVJIT_OK;
}

/* ---- One problem ---- */

double multiply_adds(const convjit_problem *p)
{
    return (double)convjit_problem_elements(p, CONVJIT_OUTPUT) * (double)(p->c / p->groups) * (double)(p->r * p->s);
}

static double traffic(const convjit_problem *p)
{
    double bytes = 0;
    for (int i = 0; i < CONVJIT_TENSOR_COUNT; i++)
        bytes += (double)tensor_bytes(p, i);
    return bytes;
}

static convjit_status launch_and_check(session *s, const convjit_problem *p, const convjit_plan *plan, memory *m,
                                       outcome *out)
{
    const run_options *o = s->options;
    convjit_tensors device = tensors_of(m->device, m->workspace, m->packed), host = tensors_of(m->host, NULL, NULL);
    convjit_status status = convjit_plan_launch(plan, &device, NULL);
    if (status == CONVJIT_OK)
        status = convjit_device_sync(s->cj, NULL);
    if (status == CONVJIT_OK && o->check)
        status = convjit_device_read(s->cj, host.output, device.output, tensor_bytes(p, CONVJIT_OUTPUT));
    if (status == CONVJIT_OK && o->check)
        status = cj_reference_check(p, &host, !o->random, o->full ? 0 : CHECK_LIMIT, o->seed, &out->check);
    if (status == CONVJIT_OK && o->time)
        status = measure(s, plan, &device, &out->us);
    return status;
}

convjit_status run_problem(session *s, const convjit_problem *p, const char *schedule, outcome *out)
{
    convjit_plan *plan = NULL;
    memory m = { .workspace = NULL };
    if (s->emulated && !s->options->force && multiply_adds(p) > EMU_LIMIT)
        return cj_fail(CONVJIT_UNSUPPORTED,
                       "%.2g multiply-adds are too many for the emulated device (limit %.2g): make n, h or w smaller, which "
                       "does not change the kernel, or say --force",
                       multiply_adds(p), EMU_LIMIT);
    double start = seconds_now();
    convjit_status status = convjit_plan_create_with(&plan, s->cj, p, schedule);
    if (status != CONVJIT_OK)
        return status;
    out->plan_ms = 1e3 * (seconds_now() - start);
    out->origin = convjit_plan_origin(plan);
    out->schedule = strdup(convjit_plan_schedule(plan));
    if (!out->schedule)
        status = cj_fail(CONVJIT_NO_MEMORY, "out of memory");
    if (status == CONVJIT_OK)
        status = memory_make(s, p, plan, &m);
    if (status == CONVJIT_OK)
        status = launch_and_check(s, p, plan, &m, out);
    memory_free(s->cj, &m);
    convjit_plan_destroy(plan);
    return status;
}

/* ---- Reports ---- */

static const char *origin_name(convjit_origin origin)
{
    return origin == CONVJIT_COMPILED ? "compiled" : origin == CONVJIT_FROM_DISK ? "disk" : "memory";
}

static void report_json(const session *s, const convjit_problem *p, const char *name, convjit_status status,
                        const outcome *out)
{
    const run_options *o = s->options;
    cj_text t = { 0 };
    cj_text_puts(&t, "{\"problem\": ");
    cj_text_json(&t, name);
    cj_text_printf(&t, ", \"device\": \"%s\"", s->emulated ? "emu" : "gpu");
    if (status != CONVJIT_OK) {
        cj_text_printf(&t, ", \"error\": {\"status\": \"%s\", \"message\": ", convjit_strstatus(status));
        cj_text_json(&t, convjit_errmsg());
        cj_text_puts(&t, "}}\n");
    } else {
        cj_text_puts(&t, ", \"schedule\": ");
        cj_text_json(&t, out->schedule);
        cj_text_printf(&t, ", \"from\": \"%s\", \"plan_ms\": %.3f", origin_name(out->origin), out->plan_ms);
        if (o->check) {
            cj_text_printf(&t, ", \"check\": {\"wrong\": %llu, \"of\": %llu, \"max_error\": %.6g, \"first\": ",
                           (unsigned long long)out->check.wrong, (unsigned long long)out->check.of, out->check.max_error);
            cj_text_json(&t, out->check.first);
            cj_text_puts(&t, "}");
        }
        if (o->time)
            cj_text_printf(&t, ", \"time_us\": %.3f, \"tflops\": %.4g, \"gbps\": %.4g", out->us,
                           2e-6 * multiply_adds(p) / out->us, 1e-3 * traffic(p) / out->us);
        cj_text_puts(&t, "}\n");
    }
    fputs(t.failed ? "{}\n" : t.data, stdout);
    cj_text_free(&t);
}

static void report_text(const session *s, const convjit_problem *p, const char *name, const outcome *out)
{
    const run_options *o = s->options;
    printf("%s: ", name);
    if (o->check) {
        unsigned long long of = out->check.of, all = (unsigned long long)convjit_problem_elements(p, CONVJIT_OUTPUT);
        printf("%llu wrong of %llu", (unsigned long long)out->check.wrong, of);
        if (of < all)
            printf(" sampled from %llu", all);
        if (o->random)
            printf(", largest error %.3g", out->check.max_error);
        fputs("; ", stdout);
    }
    if (o->time)
        printf("%.*f us, %.3g TFLOP/s, %.3g GB/s; ", out->us < 1000 ? 2 : 0, out->us, 2e-6 * multiply_adds(p) / out->us,
               1e-3 * traffic(p) / out->us);
    printf("%s; %s %s %.*f ms on %s\n", out->schedule, out->origin == CONVJIT_COMPILED ? "compiled" : "from",
           out->origin == CONVJIT_COMPILED ? "in" : out->origin == CONVJIT_FROM_DISK ? "disk in" : "memory in",
           out->plan_ms < 10 ? 2 : 0, out->plan_ms, s->emulated ? "the emulated device" : "the GPU");
}

static int run_and_report(session *s, const convjit_problem *p)
{
    outcome out = { 0 };
    char *name = problem_text(p);
    if (!name)
        return EXIT_FAILURE;
    convjit_status status = run_problem(s, p, s->options->schedule, &out);
    if (s->options->json)
        report_json(s, p, name, status, &out);
    else if (status == CONVJIT_OK)
        report_text(s, p, name, &out);
    fflush(stdout); /* so that a reader sees each problem when it is done */
    if (status != CONVJIT_OK)
        complain_errmsg(name);
    else if (out.check.wrong > 0)
        complain("%s: wrong result, first at %s", name, out.check.first);
    free(out.schedule);
    free(name);
    return status == CONVJIT_OK && out.check.wrong == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

int command_run(int argc, char **argv)
{
    run_options o;
    problem_list list = { 0 };
    session s;
    int status;
    if (run_arguments(argc, argv, &o, &status) != 0)
        return status;
    status = problems_from_arguments(&list, "run", argc - optind, argv + optind);
    if (status == EXIT_SUCCESS && o.manifest)
        status = problems_from_manifest(&list, o.manifest);
    if (status == EXIT_SUCCESS) {
        if (open_session(&s, &o)) {
            for (size_t i = 0; i < list.n; i++)
                if ((o.all ? run_all_schedules : run_and_report)(&s, &list.items[i]) != EXIT_SUCCESS)
                    status = EXIT_FAILURE;
        } else {
            status = EXIT_FAILURE;
        }
        close_session(&s);
    }
    problems_free(&list);
    return status;
}
