/* main_source.c: the commands that show what the generator makes: dump and schedules. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "main.h"

/* ---- dump ---- */

static const char dump_help[] =
    "usage: convjit dump PROBLEM [options]\n"
    "Prints the CUDA source of the problem's kernel, byte for byte what the compiler sees.\n"
    "\n"
    "  --arch ARCH          target architecture, sm_80 to sm_120 (default: sm_90a)\n"
    "  --schedule NAME      a schedule's name, or a full specification as 'convjit schedules' lists them\n"
    "  --format cuda|torch  torch: a Python file with the source and a ModelNew module for PyTorch (default: cuda)\n"
    "  -o, --output FILE    write there instead of to standard output\n"
    "  -h, --help           print this\n";

typedef struct dump_options { const char *arch, *schedule, *output; bool torch; } dump_options;

/* 0 and the options, or -1 to go no further, with the exit status in *status. */
static int dump_arguments(int argc, char **argv, dump_options *o, int *status)
{
    static const struct option options[] = {
        { "arch", required_argument, NULL, 'a' },   { "schedule", required_argument, NULL, 's' },
        { "format", required_argument, NULL, 'f' }, { "output", required_argument, NULL, 'o' },
        { "help", no_argument, NULL, 'h' },         { 0 },
    };
    *o = (dump_options){ .arch = "sm_90a" };
    for (int c; (c = next_option(argc, argv, "o:h", options)) != -1;)
        switch (c) {
        case 'a': o->arch = optarg; break;
        case 's': o->schedule = optarg; break;
        case 'o': o->output = optarg; break;
        case 'f':
            o->torch = strcmp(optarg, "torch") == 0;
            if (o->torch || strcmp(optarg, "cuda") == 0)
                break;
            *status = wrong_use("dump", "--format is cuda or torch, not '%s'", optarg);
            return -1;
        case 'h':
            fputs(dump_help, stdout);
            *status = EXIT_SUCCESS;
            return -1;
        default: *status = EXIT_USAGE; return -1;
        }
    if (argc - optind == 1)
        return 0;
    *status = wrong_use("dump", argc == optind ? "no problem given" : "dump takes one problem");
    return -1;
}

static int write_text(const char *file, const char *text)
{
    if (!file)
        return fputs(text, stdout) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
    FILE *f = fopen(file, "w");
    bool ok = f && fputs(text, f) >= 0;
    if (f && fclose(f) != 0)
        ok = false;
    if (!ok)
        complain("%s: %s", file, strerror(errno));
    return ok ? EXIT_SUCCESS : EXIT_FAILURE;
}

static int dump(const dump_options *o, const convjit_problem *p, const char *name)
{
    convjit *cj = open_context(NULL);
    char *source = NULL;
    if (!cj)
        return EXIT_FAILURE;
    int status = EXIT_FAILURE;
    if ((o->torch ? convjit_generate_torch : convjit_generate)(cj, p, o->arch, o->schedule, &source) == CONVJIT_OK)
        status = write_text(o->output, source);
    else
        complain_errmsg(name);
    convjit_free(source);
    convjit_close(cj);
    return status;
}

int command_dump(int argc, char **argv)
{
    dump_options o;
    problem_list list = { 0 };
    int status;
    if (dump_arguments(argc, argv, &o, &status) != 0)
        return status;
    status = problems_from_arguments(&list, "dump", 1, argv + optind);
    if (status == EXIT_SUCCESS)
        status = dump(&o, &list.items[0], argv[optind]);
    problems_free(&list);
    return status;
}

/* ---- schedules ---- */

static const char schedules_help[] =
    "usage: convjit schedules PROBLEM... [options]\n"
    "Lists the schedules that could compute a problem, best first, with predicted times, and why the others cannot.\n"
    "\n"
    "  --arch ARCH          target architecture, sm_80 to sm_120 (default: sm_90a)\n"
    "  --json               one JSON object a problem, on one line\n"
    "  -h, --help           print this\n";

static int column(const json *list, const char *key)
{
    size_t width = strlen(key);
    for (const json *j = list ? list->child : NULL; j; j = j->next)
        width = strlen(json_text(j, key)) > width ? strlen(json_text(j, key)) : width;
    return (int)width;
}

static void print_table(const json *j)
{
    const json *candidates = json_member(j, "candidates"), *refused = json_member(j, "refused");
    int width = column(candidates, "schedule");
    printf("%s for %s\n", json_text(j, "problem"), json_text(j, "arch"));
    printf("%12s  %-*s  %s\n", "predicted us", width, "schedule", "why");
    for (const json *c = candidates ? candidates->child : NULL; c; c = c->next)
        printf("%12.1f  %-*s  %s\n", strtod(json_text(c, "predicted_us"), NULL), width, json_text(c, "schedule"),
               json_text(c, "why"));
    if (!refused || !refused->child)
        return;
    puts("refused");
    width = column(refused, "schedule");
    for (const json *r = refused->child; r; r = r->next)
        printf("%12s  %-*s  %s\n", "", width, json_text(r, "schedule"), json_text(r, "why"));
}

static int show_schedules(convjit *cj, const convjit_problem *p, const char *name, const char *arch, bool as_json)
{
    char *text;
    if (convjit_schedules(cj, p, arch, &text) != CONVJIT_OK) {
        complain_errmsg(name);
        return EXIT_FAILURE;
    }
    if (as_json) {
        puts(text);
        convjit_free(text);
        return EXIT_SUCCESS;
    }
    json *j = json_parse(text);
    convjit_free(text);
    if (!j) {
        complain("%s: the list of schedules cannot be read", name);
        return EXIT_FAILURE;
    }
    print_table(j);
    json_free(j);
    return EXIT_SUCCESS;
}

int command_schedules(int argc, char **argv)
{
    static const struct option options[] = {
        { "arch", required_argument, NULL, 'a' },
        { "json", no_argument, NULL, 'j' },
        { "help", no_argument, NULL, 'h' },
        { 0 },
    };
    const char *arch = "sm_90a";
    bool as_json = false;
    for (int c; (c = next_option(argc, argv, "h", options)) != -1;)
        switch (c) {
        case 'a': arch = optarg; break;
        case 'j': as_json = true; break;
        case 'h': fputs(schedules_help, stdout); return EXIT_SUCCESS;
        default: return EXIT_USAGE;
        }
    if (optind == argc)
        return wrong_use("schedules", "no problem given");
    problem_list list = { 0 };
    int status = problems_from_arguments(&list, "schedules", argc - optind, argv + optind);
    convjit *cj = status == EXIT_SUCCESS ? open_context(NULL) : NULL;
    if (!cj && status == EXIT_SUCCESS)
        status = EXIT_FAILURE;
    for (size_t i = 0; cj && i < list.n; i++)
        if (show_schedules(cj, &list.items[i], argv[optind + (int)i], arch, as_json) != EXIT_SUCCESS)
            status = EXIT_FAILURE;
    convjit_close(cj);
    problems_free(&list);
    return status;
}
