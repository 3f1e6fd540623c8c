/* first_plan.c: what a new process pays for its first plan when the kernel is in the cache: by its selection, and with
 * the selection removed, by the generator. A measurement, not a test; on the GPU if there is a driver, and on the
 * emulated device. usage: first_plan [PROBLEM...] */
#include <dirent.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "internal.h"

enum { RUNS = 31 };

static const char *const usual[] = { "n8c64h512w256k128r5s7", "n64c64h56w56k64r3s3_pad1_f16_nhwc" };

typedef struct sample { double open, bind, plan; } sample; /* milliseconds */

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* ---- In the new process ---- */

/* The driver's own start-up is not ours: it is timed for itself. */
static int measure(const char *device, const char *cache, const char *problem)
{
    convjit_config config = { .size = sizeof config, .cache_dir = cache, .cache_path = "" };
    convjit *cj = NULL;
    convjit_plan *plan = NULL;
    convjit_problem p;
    char arch[16];
    int sms;
    uintptr_t binding;
    config.device = *device == 'e' ? CONVJIT_EMU : CONVJIT_GPU;
    double start = now_ms();
    convjit_status status = convjit_open(&cj, &config);
    double opened = now_ms();
    if (!status) status = cj_context_device(cj)->bind(cj_context_device(cj), arch, &sms, &binding);
    double bound = now_ms();
    if (!status) status = convjit_problem_parse(&p, problem);
    if (!status) status = convjit_plan_create(&plan, cj, &p);
    double done = now_ms();
    if (status) {
        fprintf(stderr, "%s: %s\n", problem, convjit_errmsg());
        return 1;
    }
    printf("%.4f %.4f %.4f %d\n", opened - start, bound - opened, done - bound, (int)convjit_plan_origin(plan));
    convjit_plan_destroy(plan);
    convjit_close(cj);
    return 0;
}

/* ---- In the one that starts it ---- */

static bool run(const char *self, const char *device, const char *cache, const char *problem, bool from_disk,
                sample *out)
{
    char command[2048];
    int origin = -1;
    snprintf(command, sizeof command, "'%s' --measure %s '%s' '%s'", self, device, cache, problem);
    FILE *child = popen(command, "r");
    int n = child ? fscanf(child, "%lf %lf %lf %d", &out->open, &out->bind, &out->plan, &origin) : 0;
    bool ended_well = child && pclose(child) == 0;
    return n == 4 && ended_well && (!from_disk || origin == CONVJIT_FROM_DISK);
}

static void remove_selections(const char *cache)
{
    char path[1024];
    DIR *dir = opendir(cache);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        size_t n = strlen(e->d_name);
        snprintf(path, sizeof path, "%s/%s", cache, e->d_name);
        if (n > 4 && strcmp(e->d_name + n - 4, ".cjs") == 0) unlink(path);
    }
    if (dir) closedir(dir);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static bool compare(const char *self, const char *device, const char *cache, const char *problem)
{
    double open[RUNS], selected[RUNS], generated[RUNS];
    sample s, cold;
    if (!run(self, device, cache, problem, false, &cold)) return false;
    for (int i = 0; i < RUNS; i++) {
        if (!run(self, device, cache, problem, true, &s)) return false;
        open[i] = s.open;
        selected[i] = s.plan;
        remove_selections(cache);
        if (!run(self, device, cache, problem, true, &s)) return false;
        generated[i] = s.plan;
    }
    qsort(open, RUNS, sizeof *open, ascending);
    qsort(selected, RUNS, sizeof *selected, ascending);
    qsort(generated, RUNS, sizeof *generated, ascending);
    printf("%-4s %-44s %8.3f %8.3f %8.3f %10.3f %8.1f\n", device, problem, open[RUNS / 2], selected[RUNS / 2],
           selected[RUNS - 1], generated[RUNS / 2], cold.plan);
    fflush(stdout);
    return true;
}

static int remove_one(const char *path, const struct stat *about, int kind, struct FTW *where)
{
    return remove(path);
}

int main(int argc, char **argv)
{
    static const char *const devices[] = { "gpu", "emu" };
    char cache[] = "/tmp/convjit-first-plan-XXXXXX", self[1024];
    if (argc == 5 && strcmp(argv[1], "--measure") == 0) return measure(argv[2], argv[3], argv[4]);
    ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
    if (length < 0 || !mkdtemp(cache)) return 1;
    self[length] = 0;
    printf("%-4s %-44s %8s %8s %8s %10s %8s   (ms; medians of %d processes)\n", "", "", "open", "plan", "worst",
           "generator", "cold", RUNS);
    int measured = 0, n = argc > 1 ? argc - 1 : (int)(sizeof usual / sizeof *usual);
    for (size_t d = 0; d < sizeof devices / sizeof *devices; d++)
        for (int i = 0; i < n; i++)
            measured += compare(self, devices[d], cache, argc > 1 ? argv[i + 1] : usual[i]);
    nftw(cache, remove_one, 8, FTW_DEPTH | FTW_PHYS);
    return measured == 0;
}
