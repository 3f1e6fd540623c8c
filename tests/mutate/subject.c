/* subject.c: reads the lists of kernels and sizes, and the kernels that were written by hand. */
#include <errno.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "subject.h"

#define PROBLEMS "tests/mutate/problems.txt"
#define KERNELS "tests/mutate/kernels/*.cu"

convjit_status subject_kernel(const subject *s, const char *source, cj_kernel **out)
{
    cj_text text = {0};
    convjit_status status = cj_kernel_write(s->kernel, &text);
    if (status == CONVJIT_OK)
        status = cj_kernel_read(text.data, text.length, out);
    cj_text_free(&text);
    if (status == CONVJIT_OK && !((*out)->source = strdup(source))) {
        cj_kernel_free(*out);
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory");
    }
    return status;
}

static convjit_status read_file(const char *file, char **text)
{
    FILE *in = fopen(file, "r");
    if (!in)
        return cj_fail(CONVJIT_IO, "%s: %s", file, strerror(errno));
    cj_text all = {0};
    char bytes[4096];
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, in)) > 0;)
        cj_text_add(&all, bytes, n);
    fclose(in);
    return cj_text_take(&all, text);
}

/* The line of `text` that begins with `name` and a blank: what follows those, malloc'd; NULL if there is none. */
static char *find_line(const char *text, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = text; at && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL)
        if (strncmp(at, name, length) == 0 && at[length] == ' ')
            return strndup(at + length + 1, strcspn(at + length + 1, "\n"));
    return NULL;
}

/* "n1h5w7 n2h9w12": the problem with each N, H and W. */
static convjit_status read_sizes(subject *s, const convjit_problem *problem, const char *text)
{
    for (int used = 0; sscanf(text, " %n", &used) == 0 && text[used]; text += used) {
        text += used;
        long long n, h, w;
        if (sscanf(text, "n%lldh%lldw%lld%n", &n, &h, &w, &used) != 3 || s->n_sizes == MAX_SIZES)
            return cj_fail(CONVJIT_PARSE, "%s: sizes: expected at most %d like n1h5w7 at \"%s\"", s->name, MAX_SIZES, text);
        convjit_problem *p = &s->sizes[s->n_sizes++];
        memcpy(p, problem, sizeof *p);
        p->n = n;
        p->h = h;
        p->w = w;
        convjit_status status = convjit_problem_check(p);
        if (status)
            return cj_fail_in(status, "%s: size %.*s", s->name, used, text);
    }
    return s->n_sizes ? CONVJIT_OK : cj_fail(CONVJIT_PARSE, "%s: no sizes", s->name);
}

/* ---- Generated kernels ---- */

/* A line "NAME PROBLEM ARCH[/MULTIPROCESSORS] SCHEDULE SIZE..." */
static convjit_status read_problem(convjit *cj, const char *line, subject *s)
{
    char name[256], problem[512], arch[32], schedule[512];
    convjit_problem p;
    int used = 0, sms = 0; /* as many as the architecture usually has */
    if (sscanf(line, "%255s %511s %31s %511s%n", name, problem, arch, schedule, &used) != 4)
        return cj_fail(CONVJIT_PARSE, PROBLEMS ": expected NAME PROBLEM ARCH SCHEDULE SIZE...: %s", line);
    char *slash = strchr(arch, '/');
    if (slash && (sscanf(slash, "/%d", &sms) != 1 || sms < 1))
        return cj_fail(CONVJIT_PARSE, PROBLEMS ": %s: expected a number of multiprocessors: %s", name, slash);
    if (slash)
        *slash = 0;
    s->name = strdup(name);
    if (!s->name)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory");
    convjit_status status = convjit_problem_parse(&p, problem);
    if (status == CONVJIT_OK)
        status = cj_context_generate(cj, &p, arch, sms, strcmp(schedule, "-") ? schedule : NULL, &s->kernel);
    if (status == CONVJIT_OK && !(s->schedule = strndup(s->kernel->schedule, strcspn(s->kernel->schedule, ":"))))
        status = cj_fail(CONVJIT_NO_MEMORY, "out of memory");
    return status ? cj_fail_in(status, PROBLEMS ": %s", name) : read_sizes(s, &p, line + used);
}

/* ---- Kernels written by hand ---- */

/* The lines in "//= ", without that. */
static convjit_status read_head(const char *text, char **head)
{
    cj_text all = {0};
    for (const char *at = text; at && *at; at = strchr(at, '\n') ? strchr(at, '\n') + 1 : NULL)
        if (strncmp(at, "//= ", 4) == 0)
            cj_text_add(&all, at + 4, strcspn(at + 4, "\n") + 1);
    return all.data ? cj_text_take(&all, head) : cj_fail(CONVJIT_PARSE, "it has no lines in \"//= \"");
}

/* "c64k128r5s7_f16" as the string of a problem of some n, h, w, which read_sizes replaces. */
static convjit_status parse_tuple(const char *tuple, convjit_problem *p)
{
    char text[512];
    const char *k = strchr(tuple, 'k');
    if (!k || snprintf(text, sizeof text, "n1%.*sh99999w99999%s", (int)(k - tuple), tuple, k) >= (int)sizeof text)
        return cj_fail(CONVJIT_PARSE, "no tuple: %s", tuple);
    return convjit_problem_parse(p, text);
}

static convjit_status describe(subject *s, char *head)
{
    char *sizes = find_line(head, "sizes"), *end = strstr(head, "\nend\n");
    convjit_problem p;
    convjit_status status = end && sizes ? cj_kernel_read(head, (size_t)(end - head) + strlen("\nend\n"), &s->kernel)
                                         : cj_fail(CONVJIT_PARSE, "its head lacks %s", end ? "sizes" : "end");
    if (status == CONVJIT_OK)
        status = parse_tuple(s->kernel->tuple, &p);
    if (status == CONVJIT_OK)
        status = read_sizes(s, &p, sizes);
    free(sizes);
    return status;
}

static convjit_status read_by_hand(cj_script *script, const char *file, subject *s)
{
    const char *base = strrchr(file, '/') + 1;
    char *text = NULL, *head = NULL;
    s->name = strndup(base, strlen(base) - 3);
    s->schedule = strdup("by hand");
    convjit_status status = s->name && s->schedule ? read_file(file, &text) : cj_fail(CONVJIT_NO_MEMORY, "out of memory");
    if (status == CONVJIT_OK)
        status = read_head(text, &head);
    if (status == CONVJIT_OK)
        status = describe(s, head);
    if (status == CONVJIT_OK)
        status = cj_script_source(script, text, base, &s->kernel->source);
    free(text);
    free(head);
    return status ? cj_fail_in(status, "%s", file) : status;
}

/* ---- All ---- */

static subject *add(subject **list, int *n)
{
    subject *grown = realloc(*list, (size_t)(*n + 1) * sizeof *grown);
    if (!grown)
        return NULL;
    *list = grown;
    grown[*n] = (subject){0};
    return &grown[(*n)++];
}

static bool succeeds(convjit_status status)
{
    if (status)
        fprintf(stderr, "mutate: %s\n", convjit_errmsg());
    return status == CONVJIT_OK;
}

static bool read_all_problems(convjit *cj, subject **list, int *n)
{
    char *problems = NULL;
    bool good = succeeds(read_file(PROBLEMS, &problems));
    char *rest = problems;
    for (char *line; (line = strsep(&rest, "\n"));) {
        if (!*line || *line == '#')
            continue;
        subject *s = add(list, n);
        good &= succeeds(s ? read_problem(cj, line, s) : cj_fail(CONVJIT_NO_MEMORY, "out of memory"));
    }
    free(problems);
    return good;
}

static bool read_all_by_hand(subject **list, int *n)
{
    glob_t files = {0};
    cj_script *script = NULL;
    bool good = succeeds(cj_script_open(&script, NULL));
    if (good && glob(KERNELS, 0, NULL, &files) == 0)
        for (size_t i = 0; i < files.gl_pathc; i++) {
            subject *s = add(list, n);
            good &= succeeds(s ? read_by_hand(script, files.gl_pathv[i], s) : cj_fail(CONVJIT_NO_MEMORY, "out of memory"));
        }
    globfree(&files);
    cj_script_close(script);
    return good;
}

bool subjects_read(convjit *cj, subject **list, int *n)
{
    *list = NULL;
    *n = 0;
    bool good = read_all_problems(cj, list, n);
    return read_all_by_hand(list, n) && good;
}

void subjects_free(subject *list, int n)
{
    for (int i = 0; i < n; i++) {
        free(list[i].name);
        free(list[i].schedule);
        cj_kernel_free(list[i].kernel);
    }
    free(list);
}
