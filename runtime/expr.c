/* expr.c: evaluates the launch expressions of kernels. One pass over the text by precedence climbing, no allocation;
 * the text may come from a file, so every byte is suspect and the depth of nesting is limited. */
#include <inttypes.h>
#include <string.h>
#include "internal.h"

enum { MAX_DEPTH = 64 };
enum { LOWEST = 0, UNARY = 6 }; /* precedences: of no operator, and that of the tightest binary ones */

typedef struct reader {
    const char *text, *at;
    const cj_sizes *sizes; /* NULL: check the syntax, compute nothing */
    int depth;
    convjit_status status; /* of the first error */
} reader;

/* Reading functions return false once an error is noted. With `live` false they read but compute nothing: for a syntax
 * check, or for the right side of an && or || that its left side has decided. */
static bool read_binary(reader *r, int least, bool live, int64_t *out);

static bool fail(reader *r, convjit_status status, const char *at, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static bool fail(reader *r, convjit_status status, const char *at, const char *format, ...)
{
    char detail[512], quoted[CJ_QUOTE];
    va_list args;
    va_start(args, format);
    cj_vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    cj_quote(quoted, r->text, strlen(r->text));
    r->status = cj_fail(status, "expression %s, column %zu: %s", quoted, (size_t)(at - r->text) + 1, detail);
    return false;
}

static void skip_blanks(reader *r)
{
    while (*r->at == ' ')
        r->at++;
}

/* Skips blanks and, if it comes next, the symbol. */
static bool accept(reader *r, char symbol)
{
    skip_blanks(r);
    if (*r->at != symbol)
        return false;
    r->at++;
    return true;
}

static bool expect(reader *r, char symbol)
{
    return accept(r, symbol) || fail(r, CONVJIT_PARSE, r->at, "expected \"%c\"", symbol);
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static bool is_letter(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/* ---- Arithmetic ---- */

typedef enum operation {
    OR, AND, EQUAL, NOT_EQUAL, LESS_EQUAL, GREATER_EQUAL, LESS, GREATER, ADD, SUBTRACT, MULTIPLY, DIVIDE, MODULO,
    CEILDIV, MIN, MAX
} operation;

/* Division of negative numbers is where languages differ, so there is none. */
static bool divide(reader *r, const char *at, operation op, int64_t a, int64_t b, int64_t *out)
{
    if (b == 0)
        return fail(r, CONVJIT_INVALID, at, "division by zero");
    if (a < 0 || b < 0)
        return fail(r, CONVJIT_INVALID, at, "division of a negative number: %" PRId64 ", %" PRId64, a, b);
    *out = op == MODULO ? a % b : a / b + (op == CEILDIV && a % b != 0);
    return true;
}

static bool apply(reader *r, const char *at, operation op, int64_t a, int64_t b, int64_t *out)
{
    bool fits = true;
    switch (op) {
    case OR: *out = a || b; break;
    case AND: *out = a && b; break;
    case EQUAL: *out = a == b; break;
    case NOT_EQUAL: *out = a != b; break;
    case LESS_EQUAL: *out = a <= b; break;
    case GREATER_EQUAL: *out = a >= b; break;
    case LESS: *out = a < b; break;
    case GREATER: *out = a > b; break;
    case MIN: *out = a < b ? a : b; break;
    case MAX: *out = a > b ? a : b; break;
    case ADD: fits = cj_add64(a, b, out); break;
    case SUBTRACT: fits = !__builtin_sub_overflow(a, b, out); break;
    case MULTIPLY: fits = cj_mul64(a, b, out); break;
    default: return divide(r, at, op, a, b, out);
    }
    return fits || fail(r, CONVJIT_INVALID, at, "the result does not fit in 64 bits");
}

/* ---- Syntax ---- */

static bool read_literal(reader *r, int64_t *out)
{
    const char *start = r->at;
    int64_t v = 0;
    for (; is_digit(*r->at); r->at++)
        if (!cj_mul64(v, 10, &v) || !cj_add64(v, *r->at - '0', &v))
            return fail(r, CONVJIT_PARSE, start, "the number does not fit in 64 bits");
    if (is_letter(*r->at))
        return fail(r, CONVJIT_PARSE, r->at, "expected an operator behind the number");
    *out = v;
    return true;
}

/* name(a, b) */
static bool read_call(reader *r, const char *name, operation op, bool live, int64_t *out)
{
    int64_t a, b;
    bool ok = expect(r, '(') && read_binary(r, LOWEST, live, &a) && expect(r, ',') &&
              read_binary(r, LOWEST, live, &b) && expect(r, ')');
    if (!ok)
        return false;
    return !live || apply(r, name, op, a, b, out);
}

static int64_t variable(const cj_sizes *sizes, char name)
{
    switch (name) {
    case 'N': return sizes->n;
    case 'H': return sizes->h;
    case 'W': return sizes->w;
    case 'P': return sizes->p;
    default: return sizes->q;
    }
}

static bool read_name(reader *r, bool live, int64_t *out)
{
    static const struct { const char *name; operation op; } functions[] = {
        {"ceildiv", CEILDIV}, {"min", MIN}, {"max", MAX},
    };
    const char *start = r->at;
    while (is_letter(*r->at) || is_digit(*r->at))
        r->at++;
    size_t length = (size_t)(r->at - start);
    if (length == 1 && strchr("NHWPQ", *start)) {
        if (live)
            *out = variable(r->sizes, *start);
        return true;
    }
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (strlen(functions[i].name) == length && memcmp(functions[i].name, start, length) == 0)
            return read_call(r, start, functions[i].op, live, out);
    char quoted[CJ_QUOTE];
    cj_quote(quoted, start, length);
    return fail(r, CONVJIT_PARSE, start, "expected N, H, W, P, Q, ceildiv, min or max, not %s", quoted);
}

static bool read_primary(reader *r, bool live, int64_t *out)
{
    skip_blanks(r);
    const char *start = r->at;
    if (is_digit(*start))
        return read_literal(r, out);
    if (is_letter(*start))
        return read_name(r, live, out);
    if (accept(r, '('))
        return read_binary(r, LOWEST, live, out) && expect(r, ')');
    if (!accept(r, '-'))
        return fail(r, CONVJIT_PARSE, start, "expected a number, a variable, a function, \"-\" or \"(\"");
    return read_binary(r, UNARY, live, out) && (!live || apply(r, start, SUBTRACT, 0, *out, out));
}

typedef struct infix { const char *symbol; operation op; int precedence; } infix;

/* The operator that comes next, or NULL. Longer symbols come first in the table. */
static const infix *next_operator(reader *r)
{
    static const infix table[] = {
        {"||", OR, 1}, {"&&", AND, 2}, {"==", EQUAL, 3}, {"!=", NOT_EQUAL, 3}, {"<=", LESS_EQUAL, 4},
        {">=", GREATER_EQUAL, 4}, {"<", LESS, 4}, {">", GREATER, 4}, {"+", ADD, 5}, {"-", SUBTRACT, 5},
        {"*", MULTIPLY, UNARY}, {"/", DIVIDE, UNARY}, {"%", MODULO, UNARY},
    };
    skip_blanks(r);
    for (size_t i = 0; i < sizeof table / sizeof *table; i++)
        if (strncmp(r->at, table[i].symbol, strlen(table[i].symbol)) == 0)
            return &table[i];
    return NULL;
}

/* Operators of a precedence above `least`, all of which group to the left. */
static bool read_operators(reader *r, int least, bool live, int64_t *out)
{
    int64_t right = 0;
    if (!read_primary(r, live, out))
        return false;
    for (const infix *in; (in = next_operator(r)) && in->precedence > least;) {
        const char *start = r->at;
        r->at += strlen(in->symbol);
        bool decided = live && ((in->op == OR && *out != 0) || (in->op == AND && *out == 0));
        if (!read_binary(r, in->precedence, live && !decided, &right))
            return false;
        if (live && !apply(r, start, in->op, *out, decided ? *out : right, out))
            return false;
    }
    return true;
}

static bool read_binary(reader *r, int least, bool live, int64_t *out)
{
    if (r->depth == MAX_DEPTH)
        return fail(r, CONVJIT_PARSE, r->at, "nested deeper than the limit %d", MAX_DEPTH);
    r->depth++;
    *out = 0; /* what nobody computes is still copied about */
    bool ok = read_operators(r, least, live, out);
    r->depth--;
    return ok;
}

/* ---- Entry points ---- */

static convjit_status evaluate(const char *expr, const cj_sizes *sizes, int64_t *out)
{
    reader r = {.text = expr, .at = expr, .sizes = sizes};
    int64_t value;
    if (!read_binary(&r, LOWEST, sizes != NULL, &value))
        return r.status;
    skip_blanks(&r);
    if (*r.at) {
        fail(&r, CONVJIT_PARSE, r.at, "expected an operator or the end");
        return r.status;
    }
    if (out)
        *out = value;
    return CONVJIT_OK;
}

convjit_status cj_expr_eval(const char *expr, const cj_sizes *sizes, int64_t *out)
{
    return evaluate(expr, sizes, out);
}

convjit_status cj_expr_check(const char *expr)
{
    return evaluate(expr, NULL, NULL);
}
