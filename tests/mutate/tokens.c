/* tokens.c: reads a kernel's text into tokens. It knows the C++ that our kernels use, and not more. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include "tokens.h"

static bool is_name(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

bool token_is(const tokens *t, int i, const char *text)
{
    size_t n = strlen(text);
    return i >= 0 && i < t->n && t->list[i].length == n && memcmp(t->source + t->list[i].at, text, n) == 0;
}

bool token_has(const tokens *t, int i, const char *part)
{
    size_t n = strlen(part);
    if (i < 0 || i >= t->n)
        return false;
    for (size_t k = 0; k + n <= t->list[i].length; k++)
        if (memcmp(t->source + t->list[i].at + k, part, n) == 0)
            return true;
    return false;
}

size_t token_end(const tokens *t, int i)
{
    return t->list[i].at + t->list[i].length;
}

char token_bracket(const tokens *t, int i)
{
    return i >= 0 && i < t->n && t->list[i].match >= 0 ? t->source[t->list[i].at] : 0;
}

/* ---- Characters to tokens ---- */

static size_t skip_line(const char *s, size_t at)
{
    while (s[at] && s[at] != '\n')
        at += s[at] == '\\' && s[at + 1] ? 2 : 1;
    return at;
}

static size_t skip_string(const char *s, size_t at)
{
    char quote = s[at++];
    while (s[at] && s[at] != quote)
        at += s[at] == '\\' && s[at + 1] ? 2 : 1;
    return s[at] ? at + 1 : at;
}

/* Past blanks, comments, strings, and lines of the preprocessor. */
static size_t skip_blank(const char *s, size_t at)
{
    for (;;) {
        if (isspace((unsigned char)s[at]))
            at++;
        else if (s[at] == '#' || (s[at] == '/' && s[at + 1] == '/'))
            at = skip_line(s, at);
        else if (s[at] == '"' || s[at] == '\'')
            at = skip_string(s, at);
        else if (s[at] == '/' && s[at + 1] == '*') {
            const char *end = strstr(s + at + 2, "*/");
            at = end ? (size_t)(end - s) + 2 : at + strlen(s + at);
        } else
            return at;
    }
}

static void read_number(const char *s, token *t)
{
    size_t at = t->at;
    bool hexadecimal = s[at] == '0' && (s[at + 1] == 'x' || s[at + 1] == 'X');
    t->type = TOKEN_INTEGER;
    for (; is_name(s[at]) || s[at] == '.'; at++) {
        bool exponent = strchr(hexadecimal ? "pP" : "eE", s[at]) != NULL;
        if (exponent || s[at] == '.')
            t->type = TOKEN_FLOAT;
        if (exponent && (s[at + 1] == '-' || s[at + 1] == '+'))
            at++;
    }
    t->length = at - t->at;
}

static void read_operator(const char *s, token *t)
{
    static const char *const several[] = {"<<=", ">>=", "...", "<=", ">=", "==", "!=", "&&", "||", "+=", "-=", "*=", "/=", "%=",
                                          "^=", "|=", "&=", "++", "--", "<<", ">>", "->", "::"};
    t->type = TOKEN_OPERATOR;
    t->length = 1;
    for (size_t i = 0; i < sizeof several / sizeof *several; i++)
        if (strncmp(s + t->at, several[i], strlen(several[i])) == 0) {
            t->length = strlen(several[i]);
            return;
        }
}

static token read_token(const char *s, size_t at)
{
    token t = {.type = TOKEN_NAME, .at = at, .match = -1, .level = LEVEL_NONE};
    if (isdigit((unsigned char)s[at]) || (s[at] == '.' && isdigit((unsigned char)s[at + 1])))
        read_number(s, &t);
    else if (is_name(s[at]))
        while (is_name(s[at + t.length]))
            t.length++;
    else
        read_operator(s, &t);
    return t;
}

static bool split(tokens *t, size_t from)
{
    int room = 0;
    unsigned line = 1;
    size_t counted = 0;
    for (size_t at = skip_blank(t->source, from); t->source[at]; at = skip_blank(t->source, at)) {
        if (t->n == room) {
            token *list = realloc(t->list, (size_t)(room = 2 * room + 256) * sizeof *list);
            if (!list)
                return false;
            t->list = list;
        }
        token *next = &t->list[t->n++];
        *next = read_token(t->source, at);
        for (; counted < at; counted++)
            line += t->source[counted] == '\n';
        next->line = line;
        at += next->length;
    }
    return true;
}

/* ---- Brackets ---- */

static void pair(tokens *t, int open, int close)
{
    t->list[open].match = close;
    t->list[close].match = open;
}

static void pair_brackets(tokens *t)
{
    int open[256], depth = 0;
    for (int i = 0; i < t->n; i++) {
        char c = t->list[i].length == 1 ? t->source[t->list[i].at] : 0;
        if (c && strchr("([{", c) && depth < 256)
            open[depth++] = i;
        else if (c && strchr(")]}", c) && depth > 0)
            pair(t, open[--depth], i);
    }
}

/* NAME < ... > ( and template < ... >: nothing in between but names, numbers and what joins them. */
static int template_end(const tokens *t, int open)
{
    bool declaration = token_is(t, open - 1, "template"), cast = token_has(t, open - 1, "_cast");
    for (int i = open + 1; i < t->n; i++) {
        if (token_is(t, i, ">"))
            return declaration || cast || token_is(t, i + 1, "(") ? i : -1;
        bool joins = token_is(t, i, "*") || token_is(t, i, ",") || token_is(t, i, "+") || token_is(t, i, "-") ||
                     token_is(t, i, "/") || token_is(t, i, "::") || (declaration && token_is(t, i, "="));
        if (t->list[i].type == TOKEN_OPERATOR && !joins)
            return -1;
    }
    return -1;
}

static void pair_templates(tokens *t)
{
    for (int i = 1; i < t->n; i++) {
        int end = token_is(t, i, "<") && t->list[i - 1].type == TOKEN_NAME ? template_end(t, i) : -1;
        if (end >= 0)
            pair(t, i, end);
    }
}

/* ---- Types ---- */

static bool is_known_type(const tokens *t, int i)
{
    static const char *const known[] = {
        "void", "bool", "char", "short", "int", "long", "float", "double", "signed", "unsigned", "auto", "const", "constexpr",
        "volatile", "static", "extern", "struct", "inline", "__restrict__", "__device__", "__global__", "__shared__",
        "__forceinline__", "__grid_constant__", "float2", "float3", "float4", "int2", "int3", "int4", "uint2", "uint3", "uint4",
        "short2", "ushort2", "ushort4", "char4", "uchar4", "double2", "longlong2", "ulonglong2", "TensorMap"};
    for (size_t k = 0; k < sizeof known / sizeof *known; k++)
        if (token_is(t, i, known[k]))
            return true;
    return false;
}

static bool same_name(const tokens *t, int i, int j)
{
    return t->list[i].length == t->list[j].length &&
           memcmp(t->source + t->list[i].at, t->source + t->list[j].at, t->list[i].length) == 0;
}

/* Known types, and those that the text itself names with typedef, using, struct or as a template's parameter. */
static void mark_types(tokens *t)
{
    for (int i = 0; i < t->n; i++)
        t->list[i].is_type |= t->list[i].type == TOKEN_NAME && is_known_type(t, i);
    for (int i = 0; i + 1 < t->n; i++) {
        int name = token_is(t, i, "using") || token_is(t, i, "struct") || token_is(t, i, "typename") ? i + 1 : -1;
        if (token_is(t, i, "typedef"))
            for (name = i; name + 2 < t->n && !token_is(t, name + 1, ";");)
                name++;
        for (int j = name; name >= 0 && j < t->n; j++)
            t->list[j].is_type |= t->list[j].type == TOKEN_NAME && same_name(t, name, j);
    }
}

/* ---- Operators ---- */

static bool is_cast(const tokens *t, int close)
{
    for (int i = t->list[close].match + 1; i < close; i++)
        if (!t->list[i].is_type && !token_is(t, i, "*"))
            return false;
    return t->list[close].match >= 0 && t->list[close].match + 1 < close;
}

static bool is_keyword(const tokens *t, int i)
{
    return token_is(t, i, "return") || token_is(t, i, "case") || token_is(t, i, "else") || token_is(t, i, "do");
}

/* A value may end with token i, so that the operator behind it is a binary one. */
static bool ends_value(const tokens *t, int i)
{
    if (i < 0 || t->list[i].is_type || is_keyword(t, i))
        return false;
    return t->list[i].type != TOKEN_OPERATOR || token_is(t, i, "]") || (token_is(t, i, ")") && !is_cast(t, i));
}

static int level_of(const tokens *t, int i)
{
    static const struct { const char *text; int level; bool also_unary; } operators[] = {
        {";", LEVEL_END, false}, {",", LEVEL_END, false}, {"=", LEVEL_ASSIGN, false}, {"+=", LEVEL_ASSIGN, false},
        {"-=", LEVEL_ASSIGN, false}, {"*=", LEVEL_ASSIGN, false}, {"/=", LEVEL_ASSIGN, false}, {"%=", LEVEL_ASSIGN, false},
        {"^=", LEVEL_ASSIGN, false}, {"|=", LEVEL_ASSIGN, false}, {"&=", LEVEL_ASSIGN, false}, {"<<=", LEVEL_ASSIGN, false},
        {">>=", LEVEL_ASSIGN, false}, {"?", LEVEL_CONDITION, false}, {":", LEVEL_CONDITION, false}, {"||", LEVEL_OR, false},
        {"&&", LEVEL_AND, false}, {"|", LEVEL_BIT_OR, false}, {"^", LEVEL_BIT_XOR, false}, {"&", LEVEL_BIT_AND, true},
        {"==", LEVEL_EQUAL, false}, {"!=", LEVEL_EQUAL, false}, {"<", LEVEL_LESS, false}, {"<=", LEVEL_LESS, false},
        {">", LEVEL_LESS, false}, {">=", LEVEL_LESS, false}, {"<<", LEVEL_SHIFT, false}, {">>", LEVEL_SHIFT, false},
        {"+", LEVEL_SUM, true}, {"-", LEVEL_SUM, true}, {"*", LEVEL_PRODUCT, true}, {"/", LEVEL_PRODUCT, false},
        {"%", LEVEL_PRODUCT, false}};
    if (is_keyword(t, i))
        return LEVEL_END;
    if (t->list[i].type != TOKEN_OPERATOR || t->list[i].match >= 0)
        return LEVEL_NONE;
    for (size_t k = 0; k < sizeof operators / sizeof *operators; k++)
        if (token_is(t, i, operators[k].text))
            return operators[k].also_unary && !ends_value(t, i - 1) ? LEVEL_NONE : operators[k].level;
    return LEVEL_NONE;
}

bool tokens_read(tokens *t, const char *source, size_t from)
{
    *t = (tokens){.source = source};
    if (!split(t, from)) {
        tokens_free(t);
        return false;
    }
    pair_brackets(t);
    pair_templates(t);
    mark_types(t);
    for (int i = 0; i < t->n; i++)
        t->list[i].level = level_of(t, i);
    return true;
}

void tokens_free(tokens *t)
{
    free(t->list);
    *t = (tokens){0};
}

/* ---- Parts of the text ---- */

/* '}' ends a statement, unless it ends a value's braces; so does a bracket that opened around it. */
static bool opens(const tokens *t, int i)
{
    return t->list[i].match > i;
}

int operand_first(const tokens *t, int i, int level)
{
    int first = i;
    for (int k = i - 1; k >= 0; k--) {
        if (t->list[k].level <= level || opens(t, k) || token_is(t, k, "}"))
            break;
        if (t->list[k].match >= 0)
            k = t->list[k].match;
        first = k;
    }
    return first;
}

int operand_end(const tokens *t, int i, int level)
{
    int k = i + 1;
    while (k < t->n && t->list[k].level > level && !token_is(t, k, "{") && (t->list[k].match < 0 || opens(t, k)))
        k = opens(t, k) ? t->list[k].match + 1 : k + 1;
    return k;
}

int statement_first(const tokens *t, int i)
{
    while (i > 0 && !token_is(t, i - 1, ";") && !token_is(t, i - 1, "{") && !token_is(t, i - 1, "}")) {
        i--;
        if (token_is(t, i, ")") && t->list[i].match >= 0)
            i = t->list[i].match;
    }
    return i;
}
