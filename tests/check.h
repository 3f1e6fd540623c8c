/* check.h: the C tests' macros. A failed check is printed and counted, and the test goes on; the program ends with
 * `return check_done("name");`, whose line tests/run adds up. */
#ifndef CHECK_H
#define CHECK_H

#include <stdio.h>
#include <string.h>
#include "convjit.h"

static int check_passed, check_failed;

#define CHECK_THAT(ok, ...)                                                  \
    do {                                                                     \
        if (ok) {                                                            \
            __atomic_add_fetch(&check_passed, 1, __ATOMIC_RELAXED);          \
        } else {                                                             \
            __atomic_add_fetch(&check_failed, 1, __ATOMIC_RELAXED);          \
            fprintf(stderr, "%s:%d: ", __FILE__, __LINE__);                  \
            fprintf(stderr, __VA_ARGS__);                                    \
            fputc('\n', stderr);                                             \
        }                                                                    \
    } while (0)

#define CHECK(condition) CHECK_THAT(condition, "failed: %s", #condition)

#define CHECK_INT(actual, expected)                                                                        \
    do {                                                                                                   \
        long long check_a = (long long)(actual), check_e = (long long)(expected);                          \
        CHECK_THAT(check_a == check_e, "%s is %lld, expected %lld", #actual, check_a, check_e);            \
    } while (0)

#define CHECK_STR(actual, expected)                                                                        \
    do {                                                                                                   \
        const char *check_a = (actual), *check_e = (expected);                                             \
        CHECK_THAT(check_a && strcmp(check_a, check_e) == 0, "%s is \"%s\", expected \"%s\"", #actual,     \
                   check_a ? check_a : "(null)", check_e);                                                 \
    } while (0)

/* The text contains the part. */
#define CHECK_HAS(text, part)                                                                              \
    do {                                                                                                   \
        const char *check_t = (text);                                                                      \
        CHECK_THAT(check_t && strstr(check_t, (part)), "%s is \"%s\", which lacks \"%s\"", #text,          \
                   check_t ? check_t : "(null)", (part));                                                  \
    } while (0)

#define CHECK_OK(call)                                                                                     \
    do {                                                                                                   \
        convjit_status check_s = (call);                                                                   \
        CHECK_THAT(check_s == CONVJIT_OK, "%s: %s: %s", #call, convjit_strstatus(check_s), convjit_errmsg()); \
    } while (0)

/* The call fails with this status and a message that contains the part. */
#define CHECK_FAILS(call, status, part)                                                                    \
    do {                                                                                                   \
        convjit_status check_s = (call);                                                                   \
        CHECK_THAT(check_s == (status) && strstr(convjit_errmsg(), (part)),                                \
                   "%s: got %s \"%s\", expected %s with \"%s\"", #call, convjit_strstatus(check_s),        \
                   check_s ? convjit_errmsg() : "", convjit_strstatus(status), (part));                    \
    } while (0)

static inline int check_done(const char *name)
{
    printf("%s: %d passed, %d failed\n", name, check_passed, check_failed);
    return check_failed != 0 || check_passed == 0;
}

#endif
