/* fuzz.h: what the fuzz targets share. A target is libFuzzer's function; driver.c runs it where libFuzzer is not. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "internal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A property that must hold of every input. */
#define REQUIRE(condition)                                                                        \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);        \
            abort();                                                                              \
        }                                                                                         \
    } while (0)

/* The input as a string of its own, so that a read behind its end is caught. Free it. */
static inline char *fuzz_string(const uint8_t *data, size_t size)
{
    char *s = malloc(size + 1);
    REQUIRE(s);
    memcpy(s, data, size);
    s[size] = 0;
    return s;
}

/* A message is there, and is fit for a terminal whatever the input was. */
static inline void require_message(void)
{
    const char *m = convjit_errmsg();
    REQUIRE(*m);
    for (; *m; m++)
        REQUIRE(*m >= 0x20 && *m < 0x7F);
}

/* A valid problem: its canonical string gives it back. */
static inline void require_round_trip(const convjit_problem *p)
{
    char text[512], again[512];
    convjit_problem q;
    REQUIRE(convjit_problem_check(p) == CONVJIT_OK);
    REQUIRE(convjit_problem_p(p) >= 1 && convjit_problem_q(p) >= 1);
    REQUIRE(convjit_problem_elements(p, CONVJIT_OUTPUT) >= 1);
    REQUIRE(convjit_problem_format(p, text, sizeof text) < sizeof text);
    REQUIRE(convjit_problem_parse(&q, text) == CONVJIT_OK);
    REQUIRE(memcmp(p, &q, sizeof q) == 0);
    convjit_problem_format(&q, again, sizeof again);
    REQUIRE(strcmp(text, again) == 0);
}

#endif
