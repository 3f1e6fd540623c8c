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

enum { MAX_JOBS = 64, EXPLAINED = VERDICTS, GAP, COLUMNS /* of the report's tables */ };
static const int LEAST_PERCENT = 95;

typedef struct options {
    double fraction;
    unsigned long long seed;
    int jobs;
    const char *kernels, *only, *equivalent, *out;
    bool list, verbose;
} options;

/* How many mutants of a kind, or of a schedule's kernels, ended how. */
typedef struct tally { const char *name; int of[COLUMNS]; } tally;

/* A kernel, its mutants, and the numbers of those that are to be tried. */
typedef struct work { const subject *s; mutants all; size_t *chosen, n; } work;

typedef struct campaign {
    options options;
    tools tools;
    patterns equivalent, only;
    subject *subjects;
    work *work; /* one for each subject */
    int n_subjects;
    tally kinds[MUTANT_KINDS], *schedules; /* room for as many as subjects */
    int n_schedules;
    int mutants, kernels; /* there are; tried on */
    bool failed;          /* a mutant could not be tried, or an explanation explains none */
} campaign;

/* A child at work on a mutant, or on the unchanged kernel of that number. */
typedef struct job { pid_t pid; const mutant *mutant; int kernel; } job;

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

/* The pattern that matches a mutant, or NULL. */
static pattern *find_pattern(const patterns *p, const subject *s, const mutant *m)
{
    char *before = mutant_before(s->kernel->source, m), *after = mutant_after(s->kernel->source, m);
    pattern *found = before && after ? patterns_find(p, s->name, before, after) : NULL;
    free(before);
    free(after);
    return found;
}

static bool is_chosen(campaign *c, const subject *s, const mutants *all, size_t i)
{
    if (!c->options.only)
        return draw(c->options.seed, s->name, i) < c->options.fraction;
    pattern *p = find_pattern(&c->only, s, &all->list[i]);
    if (p)
        p->matched++;
    return p != NULL;
}

static bool choose(campaign *c, const subject *s, work *out)
{
    out->s = s;
    if (!mutants_of(s->kernel->source, &out->all) || !(out->chosen = calloc(out->all.n + 1, sizeof *out->chosen)))
        return false;
    for (size_t i = 0; i < out->all.n; i++)
        if (is_chosen(c, s, &out->all, i))
            out->chosen[out->n++] = i;
    c->mutants += (int)out->all.n;
    c->kernels += out->n > 0;
    return true;
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

static tally *tally_of_schedule(campaign *c, const char *schedule)
{
    for (int i = 0; i < c->n_schedules; i++)
        if (strcmp(c->schedules[i].name, schedule) == 0)
            return &c->schedules[i];
    c->schedules[c->n_schedules].name = schedule;
    return &c->schedules[c->n_schedules++];
}

static void count(campaign *c, const subject *s, const mutant *m, const trial *t)
{
    pattern *explanation = t->verdict == SURVIVED ? find_pattern(&c->equivalent, s, m) : NULL;
    if (explanation)
        explanation->matched++;
    const char *why = explanation ? explanation->reason : NULL;
    bool gap = why && strncmp(why, "Gap: ", strlen("Gap: ")) == 0;
    int column = gap ? GAP : why ? EXPLAINED : (int)t->verdict;
    c->kinds[m->kind].of[column]++;
    tally_of_schedule(c, s->schedule)->of[column]++;
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

static void show_progress(const subject *s, size_t done, size_t of)
{
    if (isatty(2))
        fprintf(stderr, "\r%s: %zu of %zu mutants%s", s->name, done, of, done == of ? "\n" : "");
}

/* Tries the chosen mutants, several at a time. shared: a trial a job. */
static bool try_mutants(campaign *c, const work *k, const trial *original, trial *shared)
{
    job jobs[MAX_JOBS] = {0};
    size_t next = 0, done = 0;
    while (done < k->n) {
        for (int i = 0; i < c->options.jobs && next < k->n; i++)
            if (!jobs[i].pid) {
                const mutant *m = &k->all.list[k->chosen[next++]];
                jobs[i] = (job){.pid = start(c, k->s, m, original, &shared[i]), .mutant = m};
            }
        int status, i = wait_for_one(jobs, c->options.jobs, &status);
        if (i < 0) {
            perror("wait");
            return false;
        }
        trial_end(&shared[i], status);
        count(c, k->s, jobs[i].mutant, &shared[i]);
        jobs[i].pid = 0;
        show_progress(k->s, ++done, k->n);
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

static bool try_kernel(campaign *c, const work *k, const trial *original, trial *shared)
{
    if (c->options.out && !write_text(c->options.out, k->s))
        return false;
    for (size_t i = 0; c->options.list && i < k->n; i++)
        print_mutant(c, k->s, &k->all.list[k->chosen[i]], "mutant", "");
    return c->options.list || try_mutants(c, k, original, shared);
}

/* ---- Report ---- */

static int caught(const tally *t)
{
    int n = 0;
    for (int v = CAUGHT_EMULATOR; v <= CAUGHT_CRASH; v++)
        n += t->of[v];
    return n;
}

/* Those that were caught and those that should have been. */
static int counted(const tally *t)
{
    return caught(t) + t->of[SURVIVED] + t->of[GAP];
}

static bool is_enough(const tally *t)
{
    return t->of[SURVIVED] == 0 && 100 * caught(t) >= LEAST_PERCENT * counted(t);
}

static void print_tallies(const tally *list, int n)
{
    static const struct { int column; const char *title; } columns[] = {
        {CAUGHT_EMULATOR, "emulator"}, {CAUGHT_WRONG, "wrong"}, {CAUGHT_GUARD, "guard"}, {CAUGHT_TIMEOUT, "timeout"},
        {CAUGHT_CRASH, "crash"}, {SURVIVED, "survived"}, {GAP, "known gap"}, {EXPLAINED, "explained"}, {SAME_CODE, "same code"},
        {CAUGHT_COMPILER, "no compile"}};
    enum { N_COLUMNS = sizeof columns / sizeof *columns };
    printf("%-17s", "");
    for (int i = 0; i < N_COLUMNS; i++)
        printf("%11s", columns[i].title);
    printf("%16s\n", "caught");
    for (int k = 0; k < n; k++) {
        printf("%-17s", list[k].name);
        for (int i = 0; i < N_COLUMNS; i++)
            printf("%11d", list[k].of[columns[i].column]);
        int of = counted(&list[k]);
        printf("%6d of %d%s", caught(&list[k]), of, of ? "" : "\n");
        if (of)
            printf(" (%.1f %%)\n", 100.0 * caught(&list[k]) / of);
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

static tally sum(const campaign *c)
{
    tally all = {0};
    for (int k = 0; k < MUTANT_KINDS; k++)
        for (int i = 0; i < COLUMNS; i++)
            all.of[i] += c->kinds[k].of[i];
    return all;
}

static bool report(const campaign *c)
{
    const tally all = sum(c);
    int uncounted = all.of[EXPLAINED] + all.of[SAME_CODE] + all.of[CAUGHT_COMPILER];
    print_tallies(c->kinds, MUTANT_KINDS);
    print_tallies(c->schedules, c->n_schedules);
    printf("mutate: %d kernels, %d mutants tried of %d (seed %llu): %d of %d caught (%.1f %%), %d survived, "
           "%d known gaps; not counted: %d explained, %d same code, %d do not compile\n",
           c->kernels, counted(&all) + uncounted, c->mutants, c->options.seed, caught(&all), counted(&all),
           counted(&all) ? 100.0 * caught(&all) / counted(&all) : 0.0, all.of[SURVIVED], all.of[GAP], all.of[EXPLAINED],
           all.of[SAME_CODE], all.of[CAUGHT_COMPILER]);
    bool everything = c->options.fraction >= 1 && !c->options.only && !c->options.kernels;
    bool good = check_patterns(c, &c->only, "there is no such mutant") && !c->failed && caught(&all) > 0;
    if (everything)
        good &= check_patterns(c, &c->equivalent, "explains no survivor");
    for (int i = 0; i < c->n_schedules; i++)
        good &= is_enough(&c->schedules[i]);
    return good;
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

/* ---- All kernels ---- */

/* What explains mutants that no kernel has any more is known before hours are spent on those that there are. */
static void check_explanations(campaign *c)
{
    const patterns *p = &c->equivalent;
    bool *matched = calloc((size_t)p->n + 1, sizeof *matched);
    c->failed |= matched == NULL;
    for (int i = 0; matched && i < c->n_subjects; i++)
        for (size_t k = 0; k < c->work[i].all.n; k++) {
            const pattern *found = find_pattern(p, c->work[i].s, &c->work[i].all.list[k]);
            if (found)
                matched[found - p->list] = true;
        }
    for (int i = 0; matched && i < p->n; i++)
        if (!matched[i]) {
            fprintf(stderr, "%s:%u: no kernel has such a mutant that is not explained before\n", p->file, p->list[i].line);
            c->failed = true;
        }
    free(matched);
}

static bool passes(const subject *s, trial *t, int wait_status)
{
    trial_end(t, wait_status);
    if (t->verdict != SURVIVED)
        fprintf(stderr, "%s: the unchanged kernel fails (%s): %s\n", s->name, verdict_name(t->verdict), t->detail);
    return t->verdict == SURVIVED;
}

/* Likewise, kernels that fail unchanged. */
static bool try_originals(const campaign *c, trial *originals)
{
    job jobs[MAX_JOBS] = {0};
    bool good = true;
    for (int next = 0, running = 0; next < c->n_subjects || running > 0;) {
        for (int i = 0; i < c->options.jobs && next < c->n_subjects; i++) {
            while (next < c->n_subjects && c->work[next].n == 0)
                next++;
            if (!jobs[i].pid && next < c->n_subjects) {
                jobs[i] = (job){.pid = start(c, c->work[next].s, NULL, NULL, &originals[next]), .kernel = next};
                next++;
                running++;
            }
        }
        int status, i = running > 0 ? wait_for_one(jobs, c->options.jobs, &status) : -1;
        if (i < 0)
            return good && running == 0;
        good &= passes(c->work[jobs[i].kernel].s, &originals[jobs[i].kernel], status);
        jobs[i].pid = 0;
        running--;
    }
    return good;
}

static bool try_kernels(campaign *c, trial *shared)
{
    trial *originals = shared + c->options.jobs;
    if (!c->options.only && !c->options.kernels)
        check_explanations(c);
    bool good = c->options.list || try_originals(c, originals);
    for (int i = 0; good && i < c->n_subjects; i++)
        good = c->work[i].n == 0 || try_kernel(c, &c->work[i], &originals[i], shared);
    return good;
}

static bool try_all(campaign *c)
{
    cj_compiler *compiler = cj_context_compiler(c->tools.cj);
    if (!compiler->identity(compiler)) { /* found once, here; the children inherit it */
        fprintf(stderr, "mutate: %s\n", convjit_errmsg());
        return false;
    }
    if (!subjects_read(c->tools.cj, &c->subjects, &c->n_subjects))
        return false;
    c->work = calloc((size_t)c->n_subjects + 1, sizeof *c->work);
    c->schedules = calloc((size_t)c->n_subjects + 1, sizeof *c->schedules);
    size_t bytes = (size_t)(c->options.jobs + c->n_subjects) * sizeof(trial);
    trial *shared = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    bool good = c->work && c->schedules && shared != MAP_FAILED;
    for (int i = 0; good && i < c->n_subjects; i++)
        good = !is_wanted(&c->options, &c->subjects[i]) || choose(c, &c->subjects[i], &c->work[i]);
    if (!good)
        perror("mutate");
    good = good && try_kernels(c, shared);
    if (shared != MAP_FAILED)
        munmap(shared, bytes);
    return good;
}

static void close_campaign(campaign *c)
{
    for (int i = 0; c->work && i < c->n_subjects; i++) {
        free(c->work[i].chosen);
        mutants_free(&c->work[i].all);
    }
    free(c->work);
    free(c->schedules);
    subjects_free(c->subjects, c->n_subjects);
    if (c->tools.optimiser)
        c->tools.optimiser->close(c->tools.optimiser);
    convjit_close(c->tools.cj);
    patterns_free(&c->equivalent);
    patterns_free(&c->only);
}

int main(int argc, char **argv)
{
    campaign c = {0};
    for (int k = 0; k < MUTANT_KINDS; k++)
        c.kinds[k].name = mutant_kind_name((mutant_kind)k);
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
    close_campaign(&c);
    nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return good ? 0 : 1;
}
