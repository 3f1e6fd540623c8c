/* main_json.c: a small JSON reader, so that commands can lay out for people what the library says as JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "main.h"

enum { MAX_DEPTH = 32 };

static void skip_blanks(const char **at)
{
    *at += strspn(*at, " \t\r\n");
}

static void add_utf8(cj_text *t, unsigned code)
{
    char bytes[3];
    if (code < 0x80) {
        bytes[0] = (char)code;
        cj_text_add(t, bytes, 1);
    } else if (code < 0x800) {
        bytes[0] = (char)(0xc0 | code >> 6);
        bytes[1] = (char)(0x80 | (code & 0x3f));
        cj_text_add(t, bytes, 2);
    } else {
        bytes[0] = (char)(0xe0 | code >> 12);
        bytes[1] = (char)(0x80 | (code >> 6 & 0x3f));
        bytes[2] = (char)(0x80 | (code & 0x3f));
        cj_text_add(t, bytes, 3);
    }
}

/* What stands behind a backslash; the library writes no surrogate pairs. */
static bool parse_escape(const char **at, cj_text *t)
{
    static const char letters[] = "\"\\/bfnrt", meanings[] = "\"\\/\b\f\n\r\t";
    const char *letter = **at ? strchr(letters, **at) : NULL;
    unsigned code;
    int length = 0;
    if (letter) {
        cj_text_add(t, &meanings[letter - letters], 1);
        ++*at;
        return true;
    }
    if (sscanf(*at, "u%4x%n", &code, &length) != 1 || length != 5 || code == 0)
        return false;
    add_utf8(t, code);
    *at += length;
    return true;
}

/* A string at its opening quote; NULL if it is none. */
static char *parse_string(const char **at)
{
    cj_text t = { 0 };
    char *out;
    if (**at != '"')
        return NULL;
    ++*at;
    cj_text_puts(&t, "");
    while (**at != '"') {
        size_t plain = strcspn(*at, "\"\\");
        cj_text_add(&t, *at, plain);
        *at += plain;
        if (!**at || (**at == '\\' && (++*at, !parse_escape(at, &t)))) {
            cj_text_free(&t);
            return NULL;
        }
    }
    ++*at;
    return cj_text_take(&t, &out) == CONVJIT_OK ? out : NULL;
}

static json *parse_value(const char **at, int depth);

/* The members up to the closing bracket, from behind the opening one. */
static bool parse_members(const char **at, json *parent, int depth)
{
    char close = parent->type == 'o' ? '}' : ']';
    json **end = &parent->child;
    skip_blanks(at);
    if (**at == close)
        return ++*at, true;
    for (;;) {
        char *key = NULL;
        skip_blanks(at);
        if (parent->type == 'o') {
            key = parse_string(at);
            skip_blanks(at);
            if (!key || **at != ':') {
                free(key);
                return false;
            }
            ++*at;
        }
        *end = parse_value(at, depth + 1);
        if (!*end) {
            free(key);
            return false;
        }
        (*end)->key = key;
        end = &(*end)->next;
        skip_blanks(at);
        if (**at == close)
            return ++*at, true;
        if (**at != ',')
            return false;
        ++*at;
    }
}

static json *parse_value(const char **at, int depth)
{
    json *j = depth < MAX_DEPTH ? calloc(1, sizeof *j) : NULL;
    if (!j)
        return NULL;
    skip_blanks(at);
    bool ok;
    if (**at == '{' || **at == '[') {
        j->type = *(*at)++ == '{' ? 'o' : 'a';
        ok = parse_members(at, j, depth);
    } else if (**at == '"') {
        j->type = 's';
        ok = (j->text = parse_string(at)) != NULL;
    } else {
        size_t length = strspn(*at, "+-.0123456789abcdefghijklmnopqrstuvwxyzE");
        j->type = 'w';
        ok = length > 0 && (j->text = strndup(*at, length)) != NULL;
        *at += length;
    }
    if (ok)
        return j;
    json_free(j);
    return NULL;
}

json *json_parse(const char *text)
{
    json *j = parse_value(&text, 0);
    skip_blanks(&text);
    if (j && *text) {
        json_free(j);
        return NULL;
    }
    return j;
}

void json_free(json *j)
{
    while (j) {
        json *next = j->next;
        json_free(j->child);
        free(j->key);
        free(j->text);
        free(j);
        j = next;
    }
}

const json *json_member(const json *object, const char *key)
{
    const json *j = object ? object->child : NULL;
    while (j && !(j->key && strcmp(j->key, key) == 0))
        j = j->next;
    return j;
}

const char *json_text(const json *object, const char *key)
{
    const json *j = json_member(object, key);
    return j && j->text ? j->text : "";
}

/* Text of several lines continues under its first column. */
static void print_text(const char *text, int indent)
{
    for (const char *line = text;; line++) {
        size_t length = strcspn(line, "\n");
        printf("%.*s\n", (int)length, line);
        line += length;
        if (!*line || !line[1])
            return;
        printf("%*s", indent, "");
    }
}

void json_print(const json *j, int depth)
{
    for (const json *m = j->child; m; m = m->next) {
        int indent = 2 * depth;
        if (m->key)
            indent += printf("%*s%s:%s", indent, "", m->key, m->text ? " " : "") - indent;
        else
            printf("%*s", indent, "");
        if (m->text) {
            bool nothing = !*m->text || (m->type == 'w' && strcmp(m->text, "null") == 0);
            print_text(nothing ? "none" : m->text, indent);
            continue;
        }
        puts(m->child ? "" : " none");
        json_print(m, depth + 1);
    }
}
