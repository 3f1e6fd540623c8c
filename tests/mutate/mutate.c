/* mutate.c: does a wrong kernel get caught? Tries mutants of every kernel on the emulated device and reports the survivors.
 *
 * usage: mutate [--fraction F] [--seed N] [--jobs N] [--kernels NAMES] [--only FILE]
 *               [--equivalent FILE] [--out DIR] [--list] [--verbose]
 *   --fraction F     try this part of the mutants, chosen by the seed (default 1)
 *   --kernels NAMES  only these: names or globs, with commas between them
 *   --only FILE      only mutants that FILE (patterns.h) names, each of which must name one
 *   --equivalent FILE  what explains survivors (default: tests/mutate/equivalent.txt)
 *   --out DIR        where the kernels' texts are written, for the line numbers in the report (default: nowhere)
 *   --list           print the mutants and try none        --verbose  print the verdict on each
 *
 * Exit status 0: every survivor is explained, and at least 95 % were caught. Not counted are those that make no difference:
 * the explained ones, unless the reason begins with "Gap: ", and what the host compiler turns into the very same machine code
 * (only for changes of plain C++); and what it refuses. */
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>
#include "patterns.h"
#include "trial.h"

enum { MAX_JOBS = 64, EXPLAINED = VERDICTS, GAP, COLUMNS /* of the report's table */ };
static const int LEAST_PERCENT = 95;

typedef struct options {
    double fraction;
    unsigned long long seed;
    int jobs;
    const char *kernels, *only, *equivalent, *out;
    bool list, verbose;
} options;

typedef struct campaign {
    options options;
    tools tools;
    patterns equivalent, only;
    int counts[MUTANT_KINDS][COLUMNS];
    int mutants, kernels; /* there are; tried on */
    bool failed;          /* a mutant could not be tried */
} campaign;

/* A child at work. */
typedef struct job { pid_t pid; size_t mutant; } job;

/* ---- One kernel ---- */

/* A number from 0 to 1 that depends on all three: splitmix64 (Steele, Lea, Flood 2014). */
static double draw(unsigned long long seed, const char *name, size_t i)
{
    unsigned long long z = seed * 0x9e3779b97f4a7c15u + i;
    for (; *name; name++)
        z = z * 0x100000001b3u + (unsigned char)*name;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

static bool is_chosen(campaign *c, const subject *s, const mutants *all, size_t i)
{
    if (!c->options.only)
        return draw(c->options.seed, s->name, i) < c->options.fraction;
    char *before = mutant_before(s->kernel->source, &all->list[i]), *after = mutant_after(s->kernel->source, &all->list[i]);
    pattern *p = before && after ? patterns_find(&c->only, s->name, before, after) : NULL;
    if (p)
        p->matched++;
    free(before);
    free(after);
    return p != NULL;
}

static void print_mutant(const campaign *c, const subject *s, const mutant *m, const char *what, const char *detail)
{
    char *before = mutant_before(s->kernel->source, m), *after = mutant_after(s->kernel->source, m);
    const char *folder = c->options.out ? c->options.out : "";
    printf("%s%s%s.cu:%u: %s: %s%s%.*s\n    %s\n    %s\n", folder, *folder ? "/" : "", s->name, m->line, what,
           mutant_kind_name(m->kind), *detail ? ": " : "", (int)strcspn(detail, "\n"), detail, before ? before : "",
           after ? after : "");
    free(before);
    free(after);
}

static const char *explanation(campaign *c, const subject *s, const mutant *m)
{
    char *before = mutant_before(s->kernel->source, m), *after = mutant_after(s->kernel->source, m);
    pattern *p = before && after ? patterns_find(&c->equivalent, s->name, before, after) : NULL;
    if (p)
        p->matched++;
    free(before);
    free(after);
    return p ? p->reason : NULL;
}

static void count(campaign *c, const subject *s, const mutant *m, const trial *t)
{
    const char *why = t->verdict == SURVIVED ? explanation(c, s, m) : NULL;
    bool gap = why && strncmp(why, "Gap: ", strlen("Gap: ")) == 0;
    c->counts[m->kind][gap ? GAP : why ? EXPLAINED : (int)t->verdict]++;
    c->failed |= t->verdict == NOT_TRIED;
    bool harmless = t->verdict == SURVIVED ? why && !gap : t->verdict != NOT_TRIED;
    if (!harmless || c->options.verbose)
        print_mutant(c, s, m, why && !gap ? "explained" : verdict_name(t->verdict), why ? why : t->detail);
}

static pid_t start(const campaign *c, const subject *s, const mutant *m, const trial *original, trial *out)
{
    memset(out, 0, sizeof *out);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        trial_run(&c->tools, s, m, original, out);
    return pid;
}

/* The number of the job that ended, -1 if none can. */
static int wait_for_one(const job *jobs, int n, int *status)
{
    pid_t pid;
    while ((pid = wait(status)) < 0 && errno == EINTR) {
    }
    for (int i = 0; i < n; i++)
        if (pid > 0 && jobs[i].pid == pid) {
            kill(-pid, SIGKILL); /* a compiler that outlives it */
            return i;
        }
    return -1;
}

/* The unchanged kernel must pass. Its trial, in `out`. */
static bool try_original(campaign *c, const subject *s, trial *out)
{
    int status = 0;
    pid_t pid = start(c, s, NULL, NULL, out);
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        perror("fork");
        return false;
    }
    trial_end(out, status);
    if (out->verdict != SURVIVED)
        fprintf(stderr, "%s: the unchanged kernel fails (%s): %s\n", s->name, verdict_name(out->verdict), out->detail);
    return out->verdict == SURVIVED;
}

static void show_progress(const subject *s, size_t done, size_t of)
{
    if (isatty(2))
        fprintf(stderr, "\r%s: %zu of %zu mutants%s", s->name, done, of, done == of ? "\n" : "");
}

/* Tries the chosen mutants, several at a time. shared: a trial a job and one for the unchanged kernel. */
static bool try_mutants(campaign *c, const subject *s, const mutants *all, const size_t *chosen, size_t n, trial *shared)
{
    job jobs[MAX_JOBS] = {0};
    const trial *original = &shared[c->options.jobs];
    size_t next = 0, done = 0;
    while (done < n) {
        for (int i = 0; i < c->options.jobs && next < n; i++)
            if (!jobs[i].pid) {
                jobs[i] = (job){start(c, s, &all->list[chosen[next]], original, &shared[i]), chosen[next]};
                next++;
            }
        int status, i = wait_for_one(jobs, c->options.jobs, &status);
        if (i < 0) {
            perror("wait");
            return false;
        }
        trial_end(&shared[i], status);
        count(c, s, &all->list[jobs[i].mutant], &shared[i]);
        jobs[i].pid = 0;
        show_progress(s, ++done, n);
    }
    return true;
}

static bool write_text(const char *folder, const subject *s)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s.cu", folder, s->name);
    FILE *out = fopen(path, "w");
    bool written = out && fputs(s->kernel->source, out) >= 0;
    if ((out && fclose(out) != 0) || !written) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return false;
    }
    return true;
}

static bool try_kernel(campaign *c, const subject *s, trial *shared)
{
    mutants all;
    size_t n = 0;
    if (!mutants_of(s->kernel->source, &all))
        return false;
    size_t *chosen = calloc(all.n + 1, sizeof *chosen);
    for (size_t i = 0; chosen && i < all.n; i++)
        if (is_chosen(c, s, &all, i))
            chosen[n++] = i;
    c->mutants += (int)all.n;
    c->kernels += n > 0;
    bool good = chosen != NULL && (!c->options.out || write_text(c->options.out, s));
    if (c->options.list)
        for (size_t i = 0; good && i < n; i++)
            print_mutant(c, s, &all.list[chosen[i]], "mutant", "");
    else if (n > 0)
        good = good && try_original(c, s, &shared[c->options.jobs]) && try_mutants(c, s, &all, chosen, n, shared);
    free(chosen);
    mutants_free(&all);
    return good;
}

/* ---- Report ---- */

static int sum(const campaign *c, int column)
{
    int n = 0;
    for (int k = 0; k < MUTANT_KINDS; k++)
        n += c->counts[k][column];
    return n;
}

static void print_table(const campaign *c)
{
    static const int columns[] = {CAUGHT_EMULATOR, CAUGHT_WRONG, CAUGHT_GUARD, CAUGHT_TIMEOUT, CAUGHT_CRASH, SURVIVED, GAP,
                                  EXPLAINED, SAME_CODE, CAUGHT_COMPILER};
    static const char *const titles[] = {"emulator", "wrong", "guard", "timeout", "crash", "survived", "known gap", "explained",
                                         "same code", "no compile"};
    printf("%-10s", "");
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        printf("%11s", titles[i]);
    printf("\n");
    for (int k = 0; k < MUTANT_KINDS; k++) {
        printf("%-10s", mutant_kind_name((mutant_kind)k));
        for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
            printf("%11d", c->counts[k][columns[i]]);
        printf("\n");
    }
}

/* What `--only` names must exist, and when everything was tried, what is explained must have survived. */
static bool check_patterns(const campaign *c, const patterns *p, const char *complaint)
{
    bool good = true;
    for (int i = 0; i < p->n; i++)
        if (!p->list[i].matched) {
            fprintf(stderr, "%s:%u: %s\n", p->file, p->list[i].line, complaint);
            good = false;
        }
    return good;
}

static bool report(const campaign *c)
{
    int caught = 0, survived = sum(c, SURVIVED), gaps = sum(c, GAP), explained = sum(c, EXPLAINED), same = sum(c, SAME_CODE);
    for (int v = CAUGHT_EMULATOR; v <= CAUGHT_CRASH; v++)
        caught += sum(c, v);
    int counted = caught + survived + gaps;
    print_table(c);
    printf("mutate: %d kernels, %d mutants tried of %d (seed %llu): %d of %d caught (%.1f %%), %d survived, "
           "%d known gaps; not counted: %d explained, %d same code, %d do not compile\n",
           c->kernels, counted + explained + same + sum(c, CAUGHT_COMPILER), c->mutants, c->options.seed, caught, counted,
           counted ? 100.0 * caught / counted : 0.0, survived, gaps, explained, same, sum(c, CAUGHT_COMPILER));
    bool all = c->options.fraction >= 1 && !c->options.only && !c->options.kernels;
    bool good = check_patterns(c, &c->only, "there is no such mutant");
    if (all)
        good &= check_patterns(c, &c->equivalent, "explains no survivor");
    return good && !c->failed && survived == 0 && caught > 0 && 100 * caught >= LEAST_PERCENT * counted;
}

/* ---- Options, set-up ---- */

static bool parse(int argc, char **argv, options *o)
{
    *o = (options){.fraction = 1, .seed = 1, .equivalent = "tests/mutate/equivalent.txt",
                   .jobs = (int)sysconf(_SC_NPROCESSORS_ONLN)};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        char *end = NULL;
        bool good = true;
        if (strcmp(argv[i], "--list") == 0 || strcmp(argv[i], "--verbose") == 0) {
            o->list |= argv[i][2] == 'l';
            o->verbose |= argv[i][2] == 'v';
            continue;
        }
        if (strcmp(argv[i], "--fraction") == 0)
            o->fraction = strtod(value, &end);
        else if (strcmp(argv[i], "--seed") == 0)
            o->seed = strtoull(value, &end, 10);
        else if (strcmp(argv[i], "--jobs") == 0)
            o->jobs = (int)strtol(value, &end, 10);
        else if (strcmp(argv[i], "--kernels") == 0)
            o->kernels = value;
        else if (strcmp(argv[i], "--only") == 0)
            o->only = value;
        else if (strcmp(argv[i], "--equivalent") == 0)
            o->equivalent = value;
        else if (strcmp(argv[i], "--out") == 0)
            o->out = value;
        else
            good = false;
        if (!good || !*value || (end && *end)) {
            fprintf(stderr, "mutate: %s%s\n", argv[i], good ? " needs a value" : ": no such option; see tests/mutate/mutate.c");
            return false;
        }
        i++;
    }
    o->jobs = o->jobs < 1 ? 1 : o->jobs > MAX_JOBS ? MAX_JOBS : o->jobs;
    return true;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *place)
{
    return remove(path);
}

static bool is_wanted(const options *o, const subject *s)
{
    const patterns one = {.list = &(pattern){.kernels = (char *)(uintptr_t)o->kernels, .before = (char[]){""},
                                             .after = (char[]){""}}, .n = 1};
    return !o->kernels || patterns_find(&one, s->name, "", "");
}

/* The emulated device's compiler behind a script in `folder` that turns the sanitizers off and the optimiser on. */
static cj_compiler *open_optimiser(const char *folder)
{
    const char *chosen = getenv("CONVJIT_CXX");
    char path[4096], *before = chosen ? strdup(chosen) : NULL;
    snprintf(path, sizeof path, "%s/optimise", folder);
    FILE *script = fopen(path, "w");
    if (!script)
        return NULL;
    fprintf(script, "#!/bin/sh\nexec '%s' \"$@\" -O2 -g0 -fno-sanitize=all\n", before && *before ? before : "c++");
    bool written = fclose(script) == 0 && chmod(path, 0700) == 0;
    cj_compiler *compiler = NULL;
    setenv("CONVJIT_CXX", path, 1);
    if (written && cj_emu_compiler_open(&compiler, NULL) == CONVJIT_OK && !compiler->identity(compiler)) {
        compiler->close(compiler);
        compiler = NULL;
    }
    if (before)
        setenv("CONVJIT_CXX", before, 1);
    else
        unsetenv("CONVJIT_CXX");
    free(before);
    return compiler;
}

static bool try_all(campaign *c)
{
    subject *subjects = NULL;
    int n = 0;
    size_t bytes = (size_t)(c->options.jobs + 1) * sizeof(trial);
    trial *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cj_compiler *compiler = cj_context_compiler(c->tools.cj);
    convjit_status status = subjects_read(c->tools.cj, &subjects, &n);
    if (status || shared == MAP_FAILED || !compiler->identity(compiler)) { /* found once, here; the children inherit it */
        fprintf(stderr, "mutate: %s\n", convjit_errmsg());
        return false;
    }
    bool good = true;
    for (int i = 0; good && i < n; i++)
        good = !is_wanted(&c->options, &subjects[i]) || try_kernel(c, &subjects[i], shared);
    subjects_free(subjects, n);
    munmap(shared, bytes);
    return good;
}

int main(int argc, char **argv)
{
    campaign c = {0};
    char folder[] = "/tmp/convjit-mutate-XXXXXX";
    if (!parse(argc, argv, &c.options))
        return 2;
    if (!patterns_read(&c.equivalent, c.options.equivalent) || (c.options.only && !patterns_read(&c.only, c.options.only)))
        return 1;
    if (!mkdtemp(folder) || (c.options.out && mkdir(c.options.out, 0777) != 0 && errno != EEXIST)) {
        perror("mutate");
        return 1;
    }
    setenv("TMPDIR", folder, 1);
    setenv("CONVJIT_EMU_THREADS", "1", 1); /* mutants run side by side instead */
    const convjit_config config = {.size = sizeof config, .device = CONVJIT_EMU, .cache_dir = ""};
    bool good = convjit_open(&c.tools.cj, &config) == CONVJIT_OK;
    c.tools.optimiser = open_optimiser(folder);
    good = good && try_all(&c);
    if (good && !c.options.list)
        good = report(&c);
    if (c.tools.optimiser)
        c.tools.optimiser->close(c.tools.optimiser);
    convjit_close(c.tools.cj);
    patterns_free(&c.equivalent);
    patterns_free(&c.only);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return good ? 0 : 1;
}
