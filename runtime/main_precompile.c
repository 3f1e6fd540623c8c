/* main_precompile.c: the command `precompile`: fills the cache, for machines that have no compiler or no time for one. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "main.h"

static const char precompile_help[] =
    "usage: convjit precompile [PROBLEM...] [options]\n"
    "Compiles the kernels of problems into the cache. Needs no GPU. What is in the cache already is not compiled again.\n"
    "\n"
    "  --manifest FILE      also the problems in this file, one a line, '#' starts a comment; '-': standard input\n"
    "  --arch A[,A...]      target architectures, sm_80 to sm_120; native: that of the GPU here (default: sm_90a)\n"
    "  --schedule NAME      a schedule's name or full specification (default: the one with the least predicted time)\n"
    "  --jobs N             compile N kernels at a time (default: one a core)\n"
    "  --device gpu|emu     what the kernels will run on (default: gpu)\n"
    "  -h, --help           print this\n";

enum { MAX_JOBS = 1024, BAR_WIDTH = 40 };

typedef struct precompile_options {
    char *archs;
    const char *manifest, *schedule;
    int jobs;
    convjit_config config;
} precompile_options;

typedef struct tally {
    bool terminal; /* stderr is one: draw a bar */
    size_t compiled, found, failed;
} tally;

static int parse_jobs(const char *text, int *jobs)
{
    uint64_t n;
    if (!parse_count(text, MAX_JOBS, &n) || n == 0)
        return wrong_use("precompile", "--jobs is a number from 1 to %d, not '%s'", MAX_JOBS, text);
    *jobs = (int)n;
    return EXIT_SUCCESS;
}

/* 0 and the options, or -1 to go no further, with the exit status in *status. */
static int precompile_arguments(int argc, char **argv, precompile_options *o, int *status)
{
    static char default_archs[] = "sm_90a";
    static const struct option options[] = {
        { "manifest", required_argument, NULL, 'm' }, { "arch", required_argument, NULL, 'a' },
        { "schedule", required_argument, NULL, 's' }, { "jobs", required_argument, NULL, 'J' },
        { "device", required_argument, NULL, 'd' },   { "help", no_argument, NULL, 'h' },
        { 0 },
    };
    *o = (precompile_options){ .archs = default_archs, .config = { .size = sizeof o->config } };
    *status = EXIT_SUCCESS;
    for (int c; *status == EXIT_SUCCESS && (c = next_option(argc, argv, "h", options)) != -1;)
        switch (c) {
        case 'm': o->manifest = optarg; break;
        case 'a': o->archs = optarg; break;
        case 's': o->schedule = optarg; break;
        case 'J': *status = parse_jobs(optarg, &o->jobs); break;
        case 'd':
            if (!parse_device(optarg, &o->config))
                *status = wrong_use("precompile", "--device is gpu or emu, not '%s'", optarg);
            break;
        case 'h': fputs(precompile_help, stdout); return -1;
        default: *status = EXIT_USAGE;
        }
    if (*status == EXIT_SUCCESS && optind == argc && !o->manifest)
        *status = wrong_use("precompile", "no problem and no manifest given");
    return *status == EXIT_SUCCESS ? 0 : -1;
}

/* ---- Progress ---- */

static void draw_bar(size_t done, size_t total)
{
    int full = (int)(BAR_WIDTH * done / total);
    fprintf(stderr, "\r[%.*s%*s] %zu/%zu ", full, "########################################", BAR_WIDTH - full, "", done,
            total);
}

static void clear_bar(void)
{
    fputs("\r\033[K", stderr);
}

static void on_progress(void *user, size_t done, size_t total, const convjit_problem *p, convjit_origin origin,
                        convjit_status status)
{
    tally *t = user;
    if (status != CONVJIT_OK) {
        char name[512];
        convjit_problem_format(p, name, sizeof name);
        if (t->terminal)
            clear_bar();
        complain_errmsg(name);
        t->failed++;
    } else if (origin == CONVJIT_COMPILED) {
        t->compiled++;
    } else {
        t->found++;
    }
    if (t->terminal)
        draw_bar(done, total);
}

/* ---- One architecture ---- */

static int precompile(convjit *cj, const problem_list *list, const char *arch, const precompile_options *o)
{
    tally t = { .terminal = isatty(STDERR_FILENO) };
    convjit_precompile_options options = {
        .size = sizeof options, .jobs = o->jobs, .schedule = o->schedule, .progress = on_progress, .user = &t,
    };
    double start = seconds_now();
    if (t.terminal)
        draw_bar(0, list->n);
    convjit_status status = convjit_precompile(cj, list->items, list->n, arch, &options, NULL);
    if (t.terminal)
        clear_bar();
    if (status != CONVJIT_OK && t.failed == 0) /* a failure that no single problem has */
        complain_errmsg(arch);
    printf("%zu problems for %s: %zu compiled, %zu already there, %zu failed, %.1f s\n", list->n, arch, t.compiled, t.found,
           t.failed, seconds_now() - start);
    fflush(stdout);
    return status == CONVJIT_OK ? EXIT_SUCCESS : EXIT_FAILURE;
}

/* The architecture's name, or for "native" that of the device here; NULL after a complaint. */
static const char *resolve_arch(convjit *cj, const char *arch, char native[16])
{
    cj_device *d = cj_context_device(cj);
    int sms;
    uintptr_t binding;
    if (strcmp(arch, "native") != 0)
        return arch;
    if (d->bind(d, native, &sms, &binding) == CONVJIT_OK)
        return native;
    complain_errmsg("--arch native");
    return NULL;
}

/* Without a directory to keep them, kernels would be compiled for nothing. */
static bool can_keep(convjit *cj)
{
    const char *why = NULL;
    if (cj_cache_dir(cj_context_cache(cj), &why))
        return true;
    complain("no cache directory: %s", why ? why : "set CONVJIT_CACHE_DIR");
    return false;
}

static int precompile_all(const problem_list *list, const precompile_options *o)
{
    convjit *cj = open_context(&o->config);
    bool ready = cj && can_keep(cj);
    int status = ready ? EXIT_SUCCESS : EXIT_FAILURE;
    char *rest = NULL;
    for (char *word = ready ? strtok_r(o->archs, ",", &rest) : NULL; word; word = strtok_r(NULL, ",", &rest)) {
        char native[16];
        const char *arch = resolve_arch(cj, word, native);
        if (!arch || precompile(cj, list, arch, o) != EXIT_SUCCESS)
            status = EXIT_FAILURE;
    }
    convjit_close(cj);
    return status;
}

int command_precompile(int argc, char **argv)
{
    precompile_options o;
    problem_list list = { 0 };
    int status;
    if (precompile_arguments(argc, argv, &o, &status) != 0)
        return status;
    status = problems_from_arguments(&list, "precompile", argc - optind, argv + optind);
    if (status == EXIT_SUCCESS && o.manifest)
        status = problems_from_manifest(&list, o.manifest);
    if (status == EXIT_SUCCESS && list.n == 0) {
        complain("%s: no problem in it", o.manifest);
        status = EXIT_FAILURE;
    }
    if (status == EXIT_SUCCESS)
        status = precompile_all(&list, &o);
    problems_free(&list);
    return status;
}
