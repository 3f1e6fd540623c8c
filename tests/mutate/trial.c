/* trial.c: runs a mutant. */
#include <elf.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "emu/emu.h"
#include "run_problem.h"
#include "trial.h"

enum {
    MEMORY_GIB = 4,      /* of address space */
    WALL_SECONDS = 300,  /* for all of a trial, on a busy machine */
    LEAST_SECONDS = 1,   /* of CPU, for one run ... */
    TIMES_SLOWER = 8     /* ... and this many times what the unchanged kernel took */
};

const char *verdict_name(verdict v)
{
    static const char *const names[VERDICTS] = {"survived", "compiler", "emulator", "wrong", "guard",
                                                "timeout", "crash", "same", "not tried"};
    return names[v];
}

/* ---- The machine code ---- */

/* Sections of code and constants. Not the debugging information, and not writable data: kernels have none of their own, and
 * the sanitizers' has places of source text in it, to the column. */
static bool counts(const Elf64_Shdr *section, size_t size)
{
    return section->sh_type == SHT_PROGBITS && (section->sh_flags & (SHF_ALLOC | SHF_WRITE)) == SHF_ALLOC &&
           section->sh_offset <= size && section->sh_size <= size - section->sh_offset;
}

static void digest_code(const cj_blob *binary, char hex[65])
{
    static const char digits[] = "0123456789abcdef";
    const Elf64_Ehdr *elf = (const Elf64_Ehdr *)(const void *)binary->data;
    cj_sha256 hash;
    unsigned char digest[32];
    cj_sha256_init(&hash);
    if (binary->size < sizeof *elf || elf->e_shoff > binary->size ||
        elf->e_shnum > (binary->size - elf->e_shoff) / sizeof(Elf64_Shdr)) {
        hex[0] = 0;
        return;
    }
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(const void *)(binary->data + elf->e_shoff);
    for (int i = 0; i < elf->e_shnum; i++)
        if (counts(&sections[i], binary->size))
            cj_sha256_add(&hash, binary->data + sections[i].sh_offset, sections[i].sh_size);
    cj_sha256_end(&hash, digest);
    for (int i = 0; i < 64; i++)
        hex[i] = digits[digest[i / 2] >> (i % 2 ? 0 : 4) & 15];
    hex[64] = 0;
}

/* ---- Limits ---- */

static void limit(int what, rlim_t most)
{
    const struct rlimit r = {most, most};
    setrlimit(what, &r);
}

static void set_limits(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    setpgid(0, 0); /* so that the parent can end a compiler that is left behind */
    limit(RLIMIT_AS, (rlim_t)MEMORY_GIB << 30);
    limit(RLIMIT_CORE, 0);
    alarm(WALL_SECONDS);
}

/* The process dies of SIGPROF when it has used so much CPU from now on; 0: no limit. */
static void limit_run(double seconds)
{
    struct itimerval timer = {{0, 0}, {(time_t)seconds, (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)}};
    setitimer(ITIMER_PROF, &timer, NULL);
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* ---- Running ---- */

static void decide(trial *out, verdict v, const char *order, const convjit_problem *p, const char *message)
{
    char text[512] = "";
    if (p)
        convjit_problem_format(p, text, sizeof text);
    out->verdict = v;
    snprintf(out->detail, sizeof out->detail, "%.120s%s%s%s%s", text, p ? " " : "", order, *order ? ": " : "", message);
}

static verdict verdict_on(convjit_status status)
{
    switch (status) {
    case CONVJIT_COMPILE: return CAUGHT_COMPILER;
    case CONVJIT_EMULATOR: return CAUGHT_EMULATOR;
    case CONVJIT_INVALID: return CAUGHT_EMULATOR; /* a launch that it refuses */
    case CONVJIT_DRIVER: return CAUGHT_GUARD;
    case CONVJIT_NO_MEMORY: return CAUGHT_CRASH;
    default: return NOT_TRIED;
    }
}

/* Runs a plan on integers in every order, with asynchronous operations that take effect as late as they may and once as
 * early, and on other numbers once. false: decided. */
static bool run_orders(convjit *cj, const convjit_problem *p, const convjit_plan *plan, double most, trial *out,
                       double *longest)
{
    static const struct { const char *order, *async; bool exact; } runs[] = {
        {"forward", "wait", true}, {"reverse", "issue", true}, {"seed:7", "wait", true}, {"forward", "wait", false}};
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        const char *order = runs[i].order;
        cj_check result = {0};
        double start = cpu_seconds();
        convjit_status status = cj_emu_device_order(cj_context_device(cj), order);
        if (status == CONVJIT_OK)
            status = cj_emu_device_async(cj_context_device(cj), runs[i].async);
        decide(out, SURVIVED, order, p, "");
        limit_run(most);
        if (status == CONVJIT_OK)
            status = run_plan(cj, p, plan, runs[i].exact, 1, 0, &result);
        limit_run(0);
        double took = cpu_seconds() - start;
        *longest = took > *longest ? took : *longest;
        if (status != CONVJIT_OK)
            decide(out, verdict_on(status), order, p, convjit_errmsg());
        else if (result.wrong || !result.of)
            decide(out, result.wrong ? CAUGHT_WRONG : NOT_TRIED, order, p, result.first);
        if (out->verdict != SURVIVED)
            return false;
    }
    return true;
}

static bool run_size(convjit *cj, const subject *s, int i, const char *source, bool same_counts, const trial *original,
                     trial *out)
{
    cj_kernel *kernel = NULL;
    convjit_plan *plan = NULL;
    convjit_status status = subject_kernel(s, source, &kernel);
    if (status == CONVJIT_OK)
        status = cj_plan_create_kernel(&plan, cj, &s->sizes[i], kernel);
    if (status != CONVJIT_OK) {
        decide(out, verdict_on(status), "", NULL, convjit_errmsg());
        return false;
    }
    if (i == 0)
        digest_code(cj_plan_binary(plan), out->code);
    bool same = same_counts && original && out->code[0] && strcmp(out->code, original->code) == 0;
    if (same)
        out->verdict = SAME_CODE;
    double most = original ? LEAST_SECONDS + TIMES_SLOWER * original->seconds[i] : 0;
    bool more = !same && run_orders(cj, &s->sizes[i], plan, most, out, &out->seconds[i]);
    convjit_plan_destroy(plan);
    return more;
}

/* What the optimiser makes of the source, which knows more of what is equal; "" if it cannot be had. */
static void digest_optimised(const tools *t, const subject *s, const char *source, char hex[65])
{
    cj_kernel *kernel = NULL;
    cj_blob binary = {0};
    hex[0] = 0;
    if (t->optimiser && subject_kernel(s, source, &kernel) == CONVJIT_OK &&
        t->optimiser->compile(t->optimiser, kernel, &binary) == CONVJIT_OK)
        digest_code(&binary, hex);
    cj_blob_free(&binary);
    cj_kernel_free(kernel);
}

_Noreturn void trial_run(const tools *t, const subject *s, const mutant *m, const trial *original, trial *out)
{
    set_limits();
    char *source = m ? mutant_apply(s->kernel->source, m) : strdup(s->kernel->source);
    out->verdict = source ? SURVIVED : NOT_TRIED;
    for (int i = 0; source && i < s->n_sizes; i++)
        if (!run_size(t->cj, s, i, source, m && m->plain, original, out))
            break;
    if (out->verdict == SURVIVED && (!m || m->plain))
        digest_optimised(t, s, source, out->optimised);
    if (m && out->verdict == SURVIVED && out->optimised[0] && strcmp(out->optimised, original->optimised) == 0)
        out->verdict = SAME_CODE;
    _exit(0);
}

void trial_end(trial *t, int wait_status)
{
    if (WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0)
        return;
    int signal = WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0;
    t->verdict = signal == SIGPROF || signal == SIGALRM ? CAUGHT_TIMEOUT : CAUGHT_CRASH;
    size_t length = strlen(t->detail);
    snprintf(t->detail + length, sizeof t->detail - length, "%s", signal ? strsignal(signal) : "the process gave up");
}
