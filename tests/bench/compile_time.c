/* compile_time.c: how long NVRTC takes for the kernels that problems get, slowest first. Of a kernel in parts, which are compiled
 * side by side, its longest part counts. CPU times, the best of several: other work on the machine does not matter. A measurement,
 * not a test. usage: compile_time [ARCH] < PROBLEMS     (a problem string a line, and behind it a schedule, if one is wanted) */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "internal.h"

enum { MOST = 1000, RUNS = 3 };

typedef struct line { char problem[160], schedule[160]; double ms; } line;

static double cpu_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* The least of several runs; negative after a failure. */
static double compile_ms(cj_compiler *compiler, const cj_kernel *kernel)
{
    double least = -1;
    for (int i = 0; i < RUNS; i++) {
        cj_blob cubin = { 0 };
        double start = cpu_ms();
        if (compiler->compile(compiler, kernel, &cubin)) return -1;
        double took = cpu_ms() - start;
        if (i == 0 || took < least) least = took;
        cj_blob_free(&cubin);
    }
    return least;
}

static double longest_part_ms(cj_compiler *compiler, const cj_kernel *kernel)
{
    double longest = -1;
    for (int part = 0; part < kernel->parts; part++) {
        char define[32];
        cj_kernel alone = *kernel;
        snprintf(define, sizeof define, "-DCONVJIT_PART=%d", part);
        alone.parts = 1;
        alone.options[alone.n_options++] = define;
        double took = compile_ms(compiler, &alone);
        if (took < 0) return -1;
        if (took > longest) longest = took;
    }
    return longest;
}

static bool measure(cj_script *script, cj_compiler *compiler, const char *arch, line *l)
{
    convjit_problem p;
    cj_kernel *kernel = NULL;
    l->ms = -1;
    if (!convjit_problem_parse(&p, l->problem) &&
        !cj_script_generate(script, &p, arch, 0, *l->schedule ? l->schedule : NULL, &kernel, NULL)) {
        snprintf(l->schedule, sizeof l->schedule, "%s", kernel->schedule);
        l->ms = kernel->parts > 1 ? longest_part_ms(compiler, kernel) : compile_ms(compiler, kernel);
    }
    if (l->ms < 0) fprintf(stderr, "%s: %s\n", l->problem, convjit_errmsg());
    cj_kernel_free(kernel);
    return l->ms >= 0;
}

static int slowest_first(const void *a, const void *b)
{
    double x = ((const line *)a)->ms, y = ((const line *)b)->ms;
    return (x < y) - (x > y);
}

int main(int argc, char **argv)
{
    static line lines[MOST];
    char text[400];
    convjit_config config = { .size = sizeof config };
    cj_script *script = NULL;
    cj_compiler *compiler = NULL;
    if (cj_script_open(&script, NULL) || cj_nvrtc_open(&compiler, &config)) {
        fprintf(stderr, "%s\n", convjit_errmsg());
        return 1;
    }
    int n = 0, failed = 0;
    while (n < MOST && fgets(text, sizeof text, stdin)) {
        lines[n] = (line){ 0 };
        if (sscanf(text, "%159s %159s", lines[n].problem, lines[n].schedule) < 1) continue;
        if (measure(script, compiler, argc > 1 ? argv[1] : "sm_90a", &lines[n])) n++;
        else failed++;
    }
    qsort(lines, (size_t)n, sizeof *lines, slowest_first);
    for (int i = 0; i < n; i++) printf("%7.1f ms  %-52s %s\n", lines[i].ms, lines[i].problem, lines[i].schedule);
    compiler->close(compiler);
    cj_script_close(script);
    return failed != 0;
}
