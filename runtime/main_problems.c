/* main_problems.c: lists of problems, from arguments and from manifest files. */
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "main.h"

static bool add(problem_list *list, const convjit_problem *p)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? 2 * list->capacity : 16;
        convjit_problem *items = realloc(list->items, capacity * sizeof *items);
        if (!items) {
            complain("out of memory");
            return false;
        }
        list->items = items;
        list->capacity = capacity;
    }
    list->items[list->n++] = *p;
    return true;
}

int problems_from_arguments(problem_list *list, const char *command, int n, char **arguments)
{
    int status = EXIT_SUCCESS;
    for (int i = 0; i < n; i++) {
        convjit_problem p;
        if (convjit_problem_parse(&p, arguments[i]) != CONVJIT_OK)
            status = wrong_use(command, "%s: %s", arguments[i], convjit_errmsg());
        else if (!add(list, &p))
            return EXIT_FAILURE;
    }
    return status;
}

/* Cuts a comment and the blanks around what is left. */
static char *trim(char *line)
{
    line[strcspn(line, "#")] = 0;
    while (isspace((unsigned char)*line))
        line++;
    size_t n = strlen(line);
    while (n > 0 && isspace((unsigned char)line[n - 1]))
        n--;
    line[n] = 0;
    return line;
}

static int read_lines(problem_list *list, const char *name, FILE *f)
{
    char *line = NULL;
    size_t capacity = 0;
    int status = EXIT_SUCCESS;
    bool memory = true;
    for (long number = 1; memory && getline(&line, &capacity, f) >= 0; number++) {
        char *text = trim(line);
        convjit_problem p;
        if (!*text)
            continue;
        if (convjit_problem_parse(&p, text) != CONVJIT_OK) {
            complain("%s:%ld: %s", name, number, convjit_errmsg());
            status = EXIT_FAILURE;
        } else {
            memory = add(list, &p);
        }
    }
    if (ferror(f)) {
        complain("%s: %s", name, strerror(errno));
        status = EXIT_FAILURE;
    }
    free(line);
    return memory ? status : EXIT_FAILURE;
}

int problems_from_manifest(problem_list *list, const char *file)
{
    if (strcmp(file, "-") == 0)
        return read_lines(list, "standard input", stdin);
    FILE *f = fopen(file, "r");
    if (!f) {
        complain("%s: %s", file, strerror(errno));
        return EXIT_FAILURE;
    }
    int status = read_lines(list, file, f);
    fclose(f);
    return status;
}

void problems_free(problem_list *list)
{
    free(list->items);
    *list = (problem_list){ 0 };
}

char *problem_text(const convjit_problem *p)
{
    size_t length = convjit_problem_format(p, NULL, 0);
    char *text = malloc(length + 1);
    if (text)
        convjit_problem_format(p, text, length + 1);
    else
        complain("out of memory");
    return text;
}
