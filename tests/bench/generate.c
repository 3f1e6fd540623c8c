/* generate.c: how long generation takes: the generator alone, and `convjit dump` as a process. A measurement, not a test.
 * usage: generate [CONVJIT]     (default: build/convjit) */
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <time.h>
#include "internal.h"

extern char **environ;

static const char *const problems[] = {
    "n8c64h512w256k128r5s7",
    "n8c32h512w512k64r5s9_pad2x4_dil2x3_tf32",
    "n64c64h56w56k64r3s3_pad1_f16_nhwc_bias_silu_residual",
    "n16c64h512w512k64r3s3_g64",
    "n64c256h56w56k256r3s3_pad1_g32",
    "n16c64h1024w1024k128r1s1",
    "n1c512h7w7k512r3s3_pad1_bias_relu",
    "n32c256h32w32k256r31s31_pad15_g256",
};
enum { RUNS = 41 };

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double dump_ms(const char *command, const char *problem)
{
    char *argv[] = { (char *)command, (char *)"dump", (char *)problem, NULL };
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
    double start = now_ms();
    pid_t pid;
    int status = 1;
    if (posix_spawn(&pid, command, &actions, NULL, argv, environ) != 0 || waitpid(pid, &status, 0) < 0 || status != 0) {
        fprintf(stderr, "%s dump %s failed\n", command, problem);
        exit(1);
    }
    double elapsed = now_ms() - start;
    posix_spawn_file_actions_destroy(&actions);
    return elapsed;
}

int main(int argc, char **argv)
{
    const char *command = argc > 1 ? argv[1] : "build/convjit";
    cj_script *script = NULL;
    if (cj_script_open(&script, NULL)) {
        fprintf(stderr, "%s\n", convjit_errmsg());
        return 1;
    }
    printf("%-56s %10s %10s %10s   (ms: first, median; dump as a process, median)\n", "problem", "first", "median", "dump");
    for (size_t i = 0; i < sizeof problems / sizeof *problems; i++) {
        convjit_problem p;
        double alone[RUNS], process[RUNS], first = 0;
        if (convjit_problem_parse(&p, problems[i])) return 1;
        for (int j = 0; j < RUNS; j++) {
            cj_kernel *kernel = NULL;
            double start = now_ms();
            if (cj_script_generate(script, &p, "sm_90a", 0, NULL, &kernel, NULL)) {
                fprintf(stderr, "%s\n", convjit_errmsg());
                return 1;
            }
            alone[j] = now_ms() - start;
            if (j == 0) first = alone[0];
            cj_kernel_free(kernel);
            process[j] = dump_ms(command, problems[i]);
        }
        qsort(alone, RUNS, sizeof *alone, ascending);
        qsort(process, RUNS, sizeof *process, ascending);
        printf("%-56s %10.2f %10.2f %10.2f\n", problems[i], first, alone[RUNS / 2], process[RUNS / 2]);
    }
    cj_script_close(script);
    return 0;
}
