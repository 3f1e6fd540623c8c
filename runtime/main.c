/* main.c: the convjit command: picks the subcommand, and what all of them share. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "main.h"

static const char help[] =
    "usage: convjit COMMAND ...       compiles 2-D convolutions\n"
    "\n"
    "  dump PROBLEM                   print the CUDA source of a problem's kernel\n"
    "  run PROBLEM...                 run problems; check results and measure time\n"
    "  schedules PROBLEM...           list the candidate schedules and why others were refused\n"
    "  precompile [PROBLEM...]        fill the kernel cache; needs no GPU\n"
    "  cache ls|verify|prune|clear|export FILE|import FILE\n"
    "  info                           what is installed and found\n"
    "\n"
    "A problem is a string such as n8c64h512w256k128r5s7 or n64c256h56w56k256r3s3_stride2_pad1_g32_f16_nhwc_bias_relu.\n"
    "'convjit COMMAND --help' lists a command's options. 'man convjit' has the rest.\n";

static const struct command { const char *name; int (*run)(int argc, char **argv); } commands[] = {
    { "dump", command_dump },           { "run", command_run },     { "schedules", command_schedules },
    { "precompile", command_precompile }, { "cache", command_cache }, { "info", command_info },
};

void complain(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("convjit: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

int wrong_use(const char *command, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("convjit: ", stderr);
    vfprintf(stderr, format, args);
    fprintf(stderr, "\nTry 'convjit%s%s --help'.\n", *command ? " " : "", command);
    va_end(args);
    return EXIT_USAGE;
}

void complain_errmsg(const char *what)
{
    complain("%s: %s", what, convjit_errmsg());
}

int next_option(int argc, char **argv, const char *letters, const struct option *options)
{
    static char name[] = "convjit"; /* getopt begins its messages with argv[0] */
    char *command = argv[0];
    argv[0] = name;
    int c = getopt_long(argc, argv, letters, options, NULL);
    argv[0] = command;
    if (c == '?')
        fprintf(stderr, "Try 'convjit %s --help'.\n", command);
    return c;
}

bool parse_count(const char *text, uint64_t limit, uint64_t *out)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || v > limit)
        return false;
    *out = v;
    return true;
}

convjit *open_context(const convjit_config *config)
{
    convjit *cj;
    if (convjit_open(&cj, config) == CONVJIT_OK)
        return cj;
    complain("%s", convjit_errmsg());
    return NULL;
}

bool parse_device(const char *text, convjit_config *config)
{
    if (strcmp(text, "gpu") != 0 && strcmp(text, "emu") != 0)
        return false;
    config->device = *text == 'g' ? CONVJIT_GPU : CONVJIT_EMU;
    return true;
}

double seconds_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int run_command(int argc, char **argv)
{
    if (argc < 2)
        return wrong_use("", "no command given");
    if (strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "--help") == 0) {
        fputs(help, stdout);
        return EXIT_SUCCESS;
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("convjit %s\n", convjit_version());
        return EXIT_SUCCESS;
    }
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
        if (strcmp(argv[1], commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1);
    return wrong_use("", "unknown command '%s'", argv[1]);
}

int main(int argc, char **argv)
{
    int status = run_command(argc, argv);
    errno = 0;
    if (fflush(stdout) != 0 || ferror(stdout)) { /* a full disk must not pass for success */
        complain("cannot write standard output%s%s", errno ? ": " : "", errno ? strerror(errno) : "");
        return EXIT_FAILURE;
    }
    return status;
}
