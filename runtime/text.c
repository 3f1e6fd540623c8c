/* text.c: growing text, JSON strings, quoted excerpts, and numbers that look the same in every locale. */
#include <locale.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "internal.h"

/* ---- The "C" locale, whatever the program has set ---- */

static locale_t c_locale;

static void make_c_locale(void)
{
    c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0); /* predefined in every C library: allocates nothing */
}

static locale_t get_c_locale(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, make_c_locale);
    return c_locale;
}

int cj_vsnprintf(char *text, size_t capacity, const char *format, va_list args)
{
    locale_t before = uselocale(get_c_locale());
    int length = vsnprintf(text, capacity, format, args);
    uselocale(before);
    return length;
}

/* ---- Growing text ---- */

/* Makes room for n more bytes and the final 0. */
static bool reserve(cj_text *t, size_t n)
{
    if (t->failed)
        return false;
    if (n < t->capacity - t->length) /* capacity 0 has length 0: then false for every n */
        return true;
    size_t capacity = t->capacity ? t->capacity : 256;
    while (capacity - t->length <= n && capacity <= SIZE_MAX / 2)
        capacity *= 2;
    char *data = capacity - t->length > n ? realloc(t->data, capacity) : NULL;
    if (!data) {
        t->failed = true;
        return false;
    }
    t->data = data;
    t->capacity = capacity;
    return true;
}

void cj_text_add(cj_text *t, const void *bytes, size_t n)
{
    if (!reserve(t, n))
        return;
    if (n)
        memcpy(t->data + t->length, bytes, n);
    t->length += n;
    t->data[t->length] = 0;
}

void cj_text_puts(cj_text *t, const char *s)
{
    cj_text_add(t, s, strlen(s));
}

void cj_text_printf(cj_text *t, const char *format, ...)
{
    va_list args, again;
    va_start(args, format);
    va_copy(again, args);
    if (reserve(t, 0)) {
        int n = cj_vsnprintf(t->data + t->length, t->capacity - t->length, format, args);
        if (n < 0)
            t->failed = true;
        else if ((size_t)n < t->capacity - t->length)
            t->length += (size_t)n;
        else if (reserve(t, (size_t)n))
            t->length += (size_t)cj_vsnprintf(t->data + t->length, t->capacity - t->length, format, again);
        t->data[t->length] = 0; /* a call that failed may have left part of its text */
    }
    va_end(again);
    va_end(args);
}

void cj_text_free(cj_text *t)
{
    free(t->data);
    *t = (cj_text){0};
}

convjit_status cj_text_take(cj_text *t, char **out)
{
    cj_text_add(t, "", 0); /* an empty text has no buffer yet */
    if (t->failed) {
        cj_text_free(t);
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory for text");
    }
    *out = t->data;
    *t = (cj_text){0};
    return CONVJIT_OK;
}

/* ---- JSON ---- */

/* Length of the UTF-8 sequence that begins at s, or 0: no overlong forms, no surrogates, at most U+10FFFF. */
static size_t utf8_length(const unsigned char *s)
{
    size_t n = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : s[0] < 0xF5 ? 4 : 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xC0) != 0x80)
            return 0;
    bool wrong = (s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F) || (s[0] == 0xF0 && s[1] < 0x90) ||
                 (s[0] == 0xF4 && s[1] > 0x8F);
    return wrong ? 0 : n;
}

void cj_text_json(cj_text *t, const char *s)
{
    cj_text_puts(t, "\"");
    for (const unsigned char *at = (const unsigned char *)s; *at;) {
        size_t n = utf8_length(at);
        if (*at == '"' || *at == '\\')
            cj_text_printf(t, "\\%c", *at);
        else if (*at == '\n')
            cj_text_puts(t, "\\n");
        else if (*at < 0x20 || *at == 0x7F)
            cj_text_printf(t, "\\u%04x", *at);
        else if (n == 0)
            cj_text_puts(t, "\\ufffd"); /* paths and compiler logs may hold any byte; JSON may not */
        else
            cj_text_add(t, at, n);
        at += n ? n : 1;
    }
    cj_text_puts(t, "\"");
}

/* ---- Excerpts for messages ---- */

void cj_quote(char out[CJ_QUOTE], const char *text, size_t length)
{
    size_t room = CJ_QUOTE - 3, used = 0; /* two quotes and the final 0 */
    bool cut = length > room;
    size_t shown = cut ? room - 3 : length;
    out[used++] = '"';
    for (size_t i = 0; i < shown; i++)
        out[used++] = text[i] >= 0x20 && text[i] < 0x7F ? text[i] : '?';
    for (int i = 0; cut && i < 3; i++)
        out[used++] = '.';
    out[used++] = '"';
    out[used] = 0;
}

/* ---- Floats ---- */

static size_t count_digits(const char *text, size_t length)
{
    size_t n = 0;
    while (n < length && text[n] >= '0' && text[n] <= '9')
        n++;
    return n;
}

/* [-] digits [. digits] [e [+-] digits], with digits on one side of the point at least. */
static bool is_decimal(const char *text, size_t length)
{
    size_t i = length > 0 && text[0] == '-';
    size_t whole = count_digits(text + i, length - i), fraction = 0;
    i += whole;
    if (i < length && text[i] == '.') {
        fraction = count_digits(text + i + 1, length - i - 1);
        i += 1 + fraction;
    }
    if (whole + fraction == 0)
        return false;
    if (i < length && text[i] == 'e') {
        i++;
        i += i < length && (text[i] == '-' || text[i] == '+');
        size_t exponent = count_digits(text + i, length - i);
        if (exponent == 0)
            return false;
        i += exponent;
    }
    return i == length;
}

bool cj_float_parse(const char *text, size_t length, float *out)
{
    char copy[128];
    if (length >= sizeof copy || !is_decimal(text, length))
        return false;
    memcpy(copy, text, length);
    copy[length] = 0;
    float v = strtof_l(copy, NULL, get_c_locale());
    if (!isfinite(v))
        return false;
    *out = v;
    return true;
}

static void print(char text[32], const char *format, ...) __attribute__((format(printf, 2, 3)));
static void print(char text[32], const char *format, ...)
{
    va_list args;
    va_start(args, format);
    cj_vsnprintf(text, 32, format, args);
    va_end(args);
}

/* Rewrites "-1.25e-02" as "-0.0125", and "1.5e+20" as "1.5e20": what a person would type. */
static void tidy(char text[32])
{
    char digits[16], *e = strchr(text, 'e');
    int n = 0, exponent = (int)strtol(e + 1, NULL, 10);
    const char *sign = text[0] == '-' ? "-" : "";
    for (const char *c = text; c < e; c++)
        if (*c >= '0' && *c <= '9')
            digits[n++] = *c;
    while (n > 1 && digits[n - 1] == '0')
        n--;
    digits[n] = 0;
    if (exponent < -5 || exponent > 8)
        print(text, "%s%c%s%se%d", sign, digits[0], n > 1 ? "." : "", digits + 1, exponent);
    else if (exponent < 0)
        print(text, "%s0.%.*s%s", sign, -exponent - 1, "00000", digits);
    else if (n > exponent + 1)
        print(text, "%s%.*s.%s", sign, exponent + 1, digits, digits + exponent + 1);
    else
        print(text, "%s%s%.*s", sign, digits, exponent + 1 - n, "00000000");
}

void cj_float_format(float v, char text[32])
{
    if (!isfinite(v)) {
        print(text, "%s", isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
        return;
    }
    float back = 0;
    for (int digits = 0; digits < 9; digits++) { /* nine significant digits tell any two floats apart */
        print(text, "%.*e", digits, (double)v);
        tidy(text);
        if (cj_float_parse(text, strlen(text), &back) && back == v)
            return;
    }
}
