/* mutators.c: walks a kernel's tokens and notes every mutant. */
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "mutators.h"
#include "tokens.h"

enum { MAX_NAMES = 128 };

/* Names that may stand for one another: the constants at the top, or the numbers that one kernel is launched with. */
typedef struct names { int tokens[MAX_NAMES]; int n; } names;

typedef struct walk {
    tokens t;
    mutants *out;
    names constants, arguments;
    bool no_memory;
} walk;

const char *mutant_kind_name(mutant_kind kind)
{
    static const char *const kinds[MUTANT_KINDS] = {"barrier", "wait", "fence", "predicate", "phase", "index", "constant"};
    return kinds[kind];
}

/* ---- Noting a mutant ---- */

/* What a call of this name does for the order of threads and of asynchronous work; MUTANT_KINDS: nothing. */
static mutant_kind kind_of_call(const tokens *t, int i)
{
    if (token_has(t, i, "fence"))
        return MUTATE_FENCE;
    if (token_has(t, i, "wait") || token_has(t, i, "commit"))
        return MUTATE_WAIT;
    if (token_has(t, i, "barrier") || token_has(t, i, "arrive") || token_has(t, i, "__sync") || token_has(t, i, "_sync"))
        return MUTATE_BARRIER;
    return MUTANT_KINDS;
}

/* A call in this statement reaches the hardware in a way that the emulated device's twin need not show in its code. */
static bool is_primitive(const tokens *t, int i)
{
    static const char *const families[] = {"async", "matrix", "mma", "barrier", "fence", "bulk", "tensor_", "registers_",
                                           "cluster", "elect", "__shfl", "__ballot", "__any", "__all", "__reduce", "__sync",
                                           "__threadfence", "atomic"};
    for (size_t k = 0; k < sizeof families / sizeof *families; k++)
        if (t->list[i].type == TOKEN_NAME && token_has(t, i, families[k]))
            return true;
    return false;
}

static int statement_end(const tokens *t, int i)
{
    while (i < t->n && !token_is(t, i, ";") && !token_is(t, i, "{") && !token_is(t, i, "}"))
        i++;
    return i;
}

/* The kind of a change of token i: that of the synchronising call it is an argument of, if any. */
static mutant_kind kind_at(const tokens *t, int i, mutant_kind otherwise)
{
    int first = statement_first(t, i);
    mutant_kind kind = first < i && !t->list[first].is_type ? kind_of_call(t, first) : MUTANT_KINDS;
    return kind < MUTANT_KINDS ? kind : otherwise;
}

static bool is_plain(const tokens *t, int i)
{
    for (int k = statement_first(t, i), end = statement_end(t, i); k < end; k++)
        if (is_primitive(t, k))
            return false;
    return true;
}

static bool is_noted(const mutants *m, size_t at, size_t length, const char *text)
{
    for (size_t i = m->n; i-- > 0 && m->list[i].at + 4096 > at;)
        if (m->list[i].at == at && m->list[i].length == length && strcmp(m->list[i].text, text) == 0)
            return true;
    return false;
}

static bool grow(mutants *m)
{
    if (m->n % 256)
        return true;
    mutant *list = realloc(m->list, (m->n + 256) * sizeof *list);
    if (list)
        m->list = list;
    return list != NULL;
}

/* The bytes from..to of the text, where token i is, become the format's text. Newlines stay. */
__attribute__((format(printf, 6, 7)))
static void note(walk *w, int i, mutant_kind kind, size_t from, size_t to, const char *format, ...)
{
    char text[1024];
    va_list args;
    va_start(args, format);
    int length = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    for (size_t k = from; k < to && length < (int)sizeof text - 1; k++)
        if (w->t.source[k] == '\n' && !strchr(text, '\n'))
            length += snprintf(text + length, sizeof text - (size_t)length, "\n");
    if (length >= (int)sizeof text || is_noted(w->out, from, to - from, text))
        return;
    char *copy = strdup(text);
    if (!copy || !grow(w->out)) {
        free(copy);
        w->no_memory = true;
        return;
    }
    w->out->list[w->out->n++] = (mutant){.kind = kind_at(&w->t, i, kind), .at = from, .length = to - from, .text = copy,
                                         .line = w->t.list[i].line, .plain = is_plain(&w->t, i)};
}

/* Tokens first..end-1 go, with the blanks before operator i if it is the first of them, else with those behind. */
static void note_dropped(walk *w, int i, mutant_kind kind, int first, int end)
{
    const tokens *t = &w->t;
    if (first == i && first > 0)
        note(w, i, kind, token_end(t, first - 1), token_end(t, end - 1), "%s", "");
    else if (first < end && end < t->n)
        note(w, i, kind, t->list[first].at, t->list[end].at, "%s", "");
}

static void note_replaced(walk *w, int i, mutant_kind kind, const char *text)
{
    note(w, i, kind, w->t.list[i].at, token_end(&w->t, i), "%s", text);
}

/* ---- Calls and updates left out ---- */

static bool begins_statement(const tokens *t, int i)
{
    if (i == 0 || token_is(t, i - 1, ";") || token_is(t, i - 1, "{") || token_is(t, i - 1, "}") || token_is(t, i - 1, "else"))
        return true;
    int open = token_is(t, i - 1, ")") ? t->list[i - 1].match : -1;
    return token_is(t, open - 1, "if") || token_is(t, open - 1, "while") || token_is(t, open - 1, "constexpr") ||
           (token_is(t, open - 1, "for"));
}

/* name(...); or name<...>(...); */
static void leave_out_call(walk *w, int i)
{
    const tokens *t = &w->t;
    mutant_kind kind = kind_of_call(t, i);
    if (kind == MUTANT_KINDS || !begins_statement(t, i))
        return;
    int open = token_bracket(t, i + 1) == '<' ? t->list[i + 1].match + 1 : i + 1;
    if (token_bracket(t, open) == '(' && token_is(t, t->list[open].match + 1, ";"))
        note(w, i, kind, t->list[i].at, token_end(t, t->list[open].match), "%s", "");
}

/* A weaker form of the same wait. */
static void weaken_wait(walk *w, int i)
{
    if (token_is(&w->t, i, "bulk_wait"))
        note_replaced(w, i, MUTATE_WAIT, "bulk_wait_read");
    if (token_is(&w->t, i, "mbarrier_arrive_expect")) {
        int open = i + 1, comma = operand_end(&w->t, open, LEVEL_END);
        if (token_is(&w->t, comma, ","))
            note(w, i, MUTATE_BARRIER, w->t.list[i].at, w->t.list[comma].at, "mbarrier_arrive(%.*s); (void)(0",
                 (int)(w->t.list[comma].at - w->t.list[open + 1].at), w->t.source + w->t.list[open + 1].at);
    }
}

static bool is_phase(const tokens *t, int i)
{
    return t->list[i].type == TOKEN_NAME && !t->list[i].is_type && (token_has(t, i, "phase") || token_has(t, i, "parity"));
}

/* a += b: left out, and with the other sign. */
static void change_update(walk *w, int i)
{
    const tokens *t = &w->t;
    int first = operand_first(t, i, LEVEL_ASSIGN), end = operand_end(t, i, LEVEL_ASSIGN);
    if (t->list[i].level != LEVEL_ASSIGN || token_is(t, i, "=") || first == i)
        return;
    mutant_kind kind = is_phase(t, first) ? MUTATE_PHASE : MUTATE_INDEX;
    if (begins_statement(t, first) && token_is(t, end, ";"))
        note(w, i, kind, t->list[first].at, t->list[end].at, "%s", "");
    if (token_is(t, i, "+=") || token_is(t, i, "-="))
        note_replaced(w, i, kind, token_is(t, i, "+=") ? "-=" : "+=");
}

/* ---- Predicates ---- */

/* Tokens first..end-1 are a condition. */
static void decide(walk *w, int first, int end, bool loops)
{
    const tokens *t = &w->t;
    if (first >= end)
        return;
    size_t from = t->list[first].at, to = token_end(t, end - 1);
    note(w, first, MUTATE_PREDICATE, from, to, "!(%.*s)", (int)(to - from), t->source + from);
    note(w, first, MUTATE_PREDICATE, from, to, "false");
    if (!loops)
        note(w, first, MUTATE_PREDICATE, from, to, "true");
}

static void change_condition(walk *w, int i)
{
    const tokens *t = &w->t;
    bool loops = token_is(t, i, "while");
    int open = token_is(t, i + 1, "constexpr") ? i + 2 : i + 1;
    if ((loops || token_is(t, i, "if")) && token_bracket(t, open) == '(')
        decide(w, open + 1, t->list[open].match, loops);
    if (token_is(t, i, "?"))
        decide(w, operand_first(t, i, LEVEL_CONDITION), i, false);
}

/* One side of && and || goes. */
static void drop_side(walk *w, int i)
{
    int level = w->t.list[i].level, first = operand_first(&w->t, i, level);
    if (level != LEVEL_AND && level != LEVEL_OR)
        return;
    if (first == 0 || w->t.list[first - 1].level != level) /* else it is the right side of the one before */
        note_dropped(w, i, MUTATE_PREDICATE, first, i + 1);
    note_dropped(w, i, MUTATE_PREDICATE, i, operand_end(&w->t, i, level));
}

static void change_comparison(walk *w, int i)
{
    static const char *const other[][2] = {{"<", "<="}, {"<=", "<"}, {">", ">="}, {">=", ">"}, {"==", "!="}, {"!=", "=="}};
    if (w->t.list[i].level != LEVEL_LESS && w->t.list[i].level != LEVEL_EQUAL)
        return;
    for (size_t k = 0; k < sizeof other / sizeof *other; k++)
        if (token_is(&w->t, i, other[k][0]))
            note_replaced(w, i, MUTATE_PREDICATE, other[k][1]);
}

/* ---- Phases ---- */

static bool is_declared_or_assigned(const tokens *t, int i)
{
    return (i > 0 && t->list[i - 1].is_type) || (i + 1 < t->n && t->list[i + 1].level == LEVEL_ASSIGN);
}

static void flip_phase(walk *w, int i)
{
    const tokens *t = &w->t;
    if (!is_phase(t, i) || is_declared_or_assigned(t, i) || token_is(t, i + 1, "("))
        return;
    int end = token_bracket(t, i + 1) == '[' ? t->list[i + 1].match : i;
    note(w, i, MUTATE_PHASE, t->list[i].at, token_end(t, end), "(%.*s ^ 1)", (int)(token_end(t, end) - t->list[i].at),
         t->source + t->list[i].at);
}

/* ---- Terms ---- */

/* a + b, a - b, a * b, a / b, a % b: without b; for the first of a chain of sums or products, without a; + and - swapped. */
static void drop_term(walk *w, int i)
{
    const tokens *t = &w->t;
    int level = t->list[i].level;
    if (level != LEVEL_SUM && level != LEVEL_PRODUCT && level != LEVEL_BIT_XOR && level != LEVEL_SHIFT)
        return;
    int first = operand_first(t, i, level);
    note_dropped(w, i, MUTATE_INDEX, i, operand_end(t, i, level));
    if ((token_is(t, i, "+") || token_is(t, i, "*")) && (first == 0 || t->list[first - 1].level != level))
        note_dropped(w, i, MUTATE_INDEX, first, i + 1);
    if (level == LEVEL_SUM)
        note_replaced(w, i, MUTATE_INDEX, token_is(t, i, "+") ? "-" : "+");
}

/* [...] of a declaration says how many there are, and not which. One more is no mistake, and one less a subscript too large. */
static bool declares(const tokens *t, int open)
{
    int i = open - 1;
    while (token_bracket(t, i) == ']')
        i = t->list[i].match - 1;
    if (i > 0 && token_is(t, i - 1, ",")) { /* float a[2], b[2]; */
        int first = statement_first(t, i);
        for (int k = first; k < i; k++)
            if (t->list[k].match > i)
                return false;
        return t->list[first].is_type;
    }
    bool behind_type = i > 0 && (t->list[i - 1].is_type || (t->list[i - 1].type == TOKEN_NAME && !token_is(t, i - 1, "return") &&
                                                            !token_is(t, i - 1, "else"))); /* a type's name, or our own one's */
    return i < 1 || behind_type || token_is(t, i - 1, "&") || t->list[i].type != TOKEN_NAME;
}

static void shift_subscript(walk *w, int i)
{
    const tokens *t = &w->t;
    if (token_bracket(t, i) != '[' || (declares(t, i) && !token_is(t, i - 1, ")")))
        return;
    size_t from = t->list[i + 1].at, to = t->list[t->list[i].match].at;
    for (int k = 0; k < 2; k++)
        note(w, i, MUTATE_INDEX, from, to, "(%.*s) %c 1", (int)(to - from), t->source + from, "+-"[k]);
}

/* ---- Constants ---- */

static void change_number(walk *w, int i)
{
    const tokens *t = &w->t;
    const char *text = t->source + t->list[i].at;
    if (t->list[i].type == TOKEN_FLOAT)
        note(w, i, MUTATE_CONSTANT, t->list[i].at, token_end(t, i), "(%.*s + 1.0f)", (int)t->list[i].length, text);
    if (t->list[i].type != TOKEN_INTEGER)
        return;
    char *suffix;
    unsigned long long value = strtoull(text, &suffix, 0);
    int length = (int)(text + t->list[i].length - suffix);
    note(w, i, MUTATE_CONSTANT, t->list[i].at, token_end(t, i), "%llu%.*s", value + 1, length, suffix);
    if (value > 0)
        note(w, i, MUTATE_CONSTANT, t->list[i].at, token_end(t, i), "%llu%.*s", value - 1, length, suffix);
}

static int find_name(const tokens *t, const names *list, int i)
{
    for (int k = 0; k < list->n; k++) {
        const token *name = &t->list[list->tokens[k]];
        if (name->length == t->list[i].length && memcmp(t->source + name->at, t->source + t->list[i].at, name->length) == 0)
            return k;
    }
    return -1;
}

/* A use of one of the names becomes the next of them. */
static void swap_name(walk *w, const names *list, int i)
{
    const tokens *t = &w->t;
    int k = t->list[i].type == TOKEN_NAME ? find_name(t, list, i) : -1;
    if (k < 0 || list->n < 2 || list->tokens[k] == i || token_is(t, i - 1, ".") || is_declared_or_assigned(t, i))
        return;
    const token *next = &t->list[list->tokens[(k + 1) % list->n]];
    note(w, i, MUTATE_CONSTANT, t->list[i].at, token_end(t, i), "%.*s", (int)next->length, t->source + next->at);
}

/* .x becomes .y, and so on; of a thread's or block's place, .x and .y for one another. */
static void swap_component(walk *w, int i)
{
    static const char *const next[][2] = {{"x", "y"}, {"y", "z"}, {"z", "w"}, {"w", "x"}};
    if (!token_is(&w->t, i - 1, "."))
        return;
    bool place = token_has(&w->t, i - 2, "Idx") || token_has(&w->t, i - 2, "Dim");
    for (size_t k = 0; k < 4; k++)
        if (token_is(&w->t, i, next[k][0]))
            note_replaced(w, i, MUTATE_CONSTANT, place && k > 0 ? "x" : next[k][1]);
}

/* ---- Names ---- */

/* constexpr int A = ..., B = ...; outside of functions. */
static void add_constants(walk *w, int i)
{
    const tokens *t = &w->t;
    for (int k = i + 1; k < t->n && !token_is(t, k, ";"); k++) {
        if (token_is(t, k + 1, "=") && w->constants.n < MAX_NAMES)
            w->constants.tokens[w->constants.n++] = k;
        k = t->list[k].match > k ? t->list[k].match : k;
    }
}

/* The parameters of type int and long long of the kernel whose list opens at token i. */
static void set_arguments(walk *w, int i)
{
    const tokens *t = &w->t;
    w->arguments.n = 0;
    for (int k = i + 1; k < t->list[i].match; k++)
        if ((token_is(t, k + 1, ",") || token_is(t, k + 1, ")")) && w->arguments.n < MAX_NAMES &&
            (token_is(t, k - 1, "int") || token_is(t, k - 1, "long") || token_is(t, k - 1, "unsigned")))
            w->arguments.tokens[w->arguments.n++] = k;
}

/* ---- The walk ---- */

static void mutate_token(walk *w, int i)
{
    leave_out_call(w, i);
    weaken_wait(w, i);
    change_update(w, i);
    change_condition(w, i);
    drop_side(w, i);
    change_comparison(w, i);
    flip_phase(w, i);
    drop_term(w, i);
    shift_subscript(w, i);
    change_number(w, i);
    swap_name(w, &w->constants, i);
    swap_name(w, &w->arguments, i);
    swap_component(w, i);
}

/* Past what is no part of the computation: heads of functions, template parameters, typedefs, sizes of arrays. Else i. */
static int skip_declaration(walk *w, int i)
{
    const tokens *t = &w->t;
    if (token_bracket(t, i) == '[' && declares(t, i) && !token_is(t, i - 1, ")"))
        return t->list[i].match;
    if (token_is(t, i, "template") && token_bracket(t, i + 1) == '<')
        return t->list[i + 1].match + 1;
    if (token_is(t, i, "typedef") || token_is(t, i, "extern"))
        while (i < t->n && !token_is(t, i, ";") && !token_is(t, i, "__global__"))
            i++;
    bool device = token_is(t, i, "__device__"), global = token_is(t, i, "__global__");
    if (!device && !global)
        return i;
    int close = i; /* of the parameters: the last parenthesis before the body */
    for (i++; i < t->n && !token_is(t, i, "{") && !token_is(t, i, ";"); i++)
        close = token_is(t, i, ")") ? i : close;
    if (global && t->list[close].match >= 0)
        set_arguments(w, t->list[close].match);
    return i;
}

static void walk_tokens(walk *w)
{
    for (int i = 0; i < w->t.n; i++) {
        i = skip_declaration(w, i);
        if (i < w->t.n)
            mutate_token(w, i);
    }
}

static void find_constants(walk *w)
{
    int depth = 0;
    for (int i = 0; i < w->t.n; i++) {
        depth += token_is(&w->t, i, "{") - token_is(&w->t, i, "}");
        if (depth == 0 && token_is(&w->t, i, "constexpr") && token_is(&w->t, i + 1, "int"))
            add_constants(w, i);
    }
}

bool mutants_of(const char *source, mutants *out)
{
    const char *behind = strstr(source, "#endif  // CONVJIT_EMU");
    walk w = {.out = out};
    *out = (mutants){0};
    if (!tokens_read(&w.t, source, behind ? (size_t)(behind - source) : 0))
        return false;
    find_constants(&w);
    walk_tokens(&w);
    tokens_free(&w.t);
    if (w.no_memory)
        mutants_free(out);
    return !w.no_memory;
}

void mutants_free(mutants *m)
{
    for (size_t i = 0; i < m->n; i++)
        free(m->list[i].text);
    free(m->list);
    *m = (mutants){0};
}

/* ---- Making a change ---- */

char *mutant_apply(const char *source, const mutant *m)
{
    size_t length = strlen(source), added = strlen(m->text);
    char *out = malloc(length - m->length + added + 1);
    if (!out)
        return NULL;
    memcpy(out, source, m->at);
    memcpy(out + m->at, m->text, added);
    strcpy(out + m->at + added, source + m->at + m->length);
    return out;
}

/* The line that offset `at` is in, without its comment and superfluous blanks. */
static char *line_at(const char *text, size_t at)
{
    while (at > 0 && text[at - 1] != '\n')
        at--;
    size_t length = strcspn(text + at, "\n"), n = 0;
    char *line = malloc(length + 1);
    for (size_t i = 0; line && i < length && strncmp(text + at + i, "//", 2) != 0; i++)
        if (text[at + i] != ' ' || (n > 0 && line[n - 1] != ' '))
            line[n++] = text[at + i];
    while (line && n > 0 && line[n - 1] == ' ')
        n--;
    if (line)
        line[n] = 0;
    return line;
}

char *mutant_before(const char *source, const mutant *m)
{
    return line_at(source, m->at);
}

char *mutant_after(const char *source, const mutant *m)
{
    char *text = mutant_apply(source, m), *line = text ? line_at(text, m->at) : NULL;
    free(text);
    return line;
}
