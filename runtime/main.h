/* main.h: what the files of the command line share. Data goes to stdout, messages to stderr; exit status 0 is success,
 * 1 failure (EXIT_FAILURE), 2 wrong use (EXIT_USAGE). */
#ifndef CONVJIT_MAIN_H
#define CONVJIT_MAIN_H

#include <getopt.h>
#include "internal.h"

enum { EXIT_USAGE = 2 };

/* The commands: argv[0] is the command's name. Each returns the exit status. */
int command_dump(int argc, char **argv);
int command_run(int argc, char **argv);
int command_schedules(int argc, char **argv);
int command_precompile(int argc, char **argv);
int command_cache(int argc, char **argv);
int command_info(int argc, char **argv);

/* ---- main.c ---- */

/* Prints "convjit: ..." on stderr. */
void complain(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* The same for wrong use of a command, with a pointer to its help; returns EXIT_USAGE. */
int wrong_use(const char *command, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* complain() with this thread's convjit_errmsg() behind "what: ". */
void complain_errmsg(const char *what);
/* getopt_long, from the option after the command's name. An option that is wrong has been complained about: '?'. */
int next_option(int argc, char **argv, const char *letters, const struct option *options);
/* A whole number of digits alone, at most `limit`. */
bool parse_count(const char *text, uint64_t limit, uint64_t *out);
/* Opens a context, or complains and returns NULL. */
convjit *open_context(const convjit_config *config);
/* "gpu" or "emu" into config->device; false for another word. */
bool parse_device(const char *text, convjit_config *config);
/* Monotonic clock, in seconds. */
double seconds_now(void);

/* ---- main_problems.c: problems from the command line and from manifests ---- */

typedef struct problem_list { convjit_problem *items; size_t n, capacity; } problem_list;
/* Both add to the list, complain about each problem that is wrong, and return 0 or the exit status. Repeated problems are
 * kept. A manifest is a text file ("-": stdin) of one problem a line; '#' starts a comment. */
int problems_from_arguments(problem_list *list, const char *command, int n, char **arguments);
int problems_from_manifest(problem_list *list, const char *file);
void problems_free(problem_list *list);
/* The canonical string, malloc'd; NULL if there is no memory. */
char *problem_text(const convjit_problem *p);

/* ---- main_json.c: reads the library's JSON, to show it to people ---- */

typedef struct json {
    char type;                 /* 'o'bject, 'a'rray, 's'tring, or 'w'ord: a number, true, false, null */
    char *key;                 /* of a member of an object; else NULL */
    char *text;                /* of a string, unescaped, or a word */
    struct json *child, *next; /* first member, and what follows beside this one */
} json;
/* NULL if the text is not JSON or there is no memory. */
json *json_parse(const char *text);
void json_free(json *j);
const json *json_member(const json *object, const char *key); /* NULL if there is none */
const char *json_text(const json *object, const char *key);   /* of a string or word; "" if there is none */
/* One "key: value" a line, indented by depth. */
void json_print(const json *j, int depth);

#endif
