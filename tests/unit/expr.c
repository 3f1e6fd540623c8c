/* expr.c: launch expressions: values, precedence, and every refusal. */
#include <stdlib.h>
#include "check.h"
#include "internal.h"

static const cj_sizes sizes = {.n = 8, .h = 512, .w = 256, .p = 508, .q = 250};

static void check_value(const char *expr, int64_t expected)
{
    int64_t v = -999;
    convjit_status status = cj_expr_eval(expr, &sizes, &v);
    CHECK_THAT(status == CONVJIT_OK && v == expected, "%s is %lld (%s), expected %lld", expr, (long long)v,
               status ? convjit_errmsg() : "ok", (long long)expected);
    CHECK_OK(cj_expr_check(expr));
}

static void check_refused(const char *expr, convjit_status expected, const char *part)
{
    int64_t v = -999;
    convjit_status status = cj_expr_eval(expr, &sizes, &v);
    CHECK_THAT(status == expected && strstr(convjit_errmsg(), part), "%s: got %s \"%s\", expected %s with \"%s\"", expr,
               convjit_strstatus(status), status ? convjit_errmsg() : "", convjit_strstatus(expected), part);
    CHECK_INT(v, -999);
    CHECK_INT(cj_expr_check(expr), expected == CONVJIT_PARSE ? CONVJIT_PARSE : CONVJIT_OK);
}

static void test_values(void)
{
    check_value("0", 0);
    check_value("  42  ", 42);
    check_value("9223372036854775807", INT64_MAX);
    check_value("N", 8);
    check_value("H", 512);
    check_value("W", 256);
    check_value("P", 508);
    check_value("Q", 250);
    check_value("ceildiv(P, 4) * ceildiv(Q, 32) * N", 127 * 8 * 8);
    check_value("ceildiv(0, 3)", 0);
    check_value("ceildiv(1,3)", 1);
    check_value("ceildiv(3 , 3)", 1);
    check_value("min(N, 3) + max(N, 3)", 11);
    check_value("min(max(1, 2), ceildiv(7, 2))", 2);
    check_value("7 / 2", 3);
    check_value("7 % 4", 3);
    check_value("-7 + 3", -4);
    check_value("--7", 7);
    check_value("-min(2,3)", -2);
    check_value("-9223372036854775807 - 1", INT64_MIN);
}

static void test_precedence(void)
{
    check_value("2 + 3 * 4", 14);
    check_value("(2 + 3) * 4", 20);
    check_value("20 - 5 - 3", 12);
    check_value("64 / 4 / 2", 8);
    check_value("7 * 9 % 5", 3);
    check_value("-2 * 3", -6);
    check_value("2 - -3", 5);
    check_value("1 + 2 < 4", 1);
    check_value("1 + 2 <= 2", 0);
    check_value("2 > 1", 1);
    check_value("2 >= 3", 0);
    check_value("3 == 1 + 2", 1);
    check_value("3 != 3", 0);
    check_value("1 < 2 == 2 > 1", 1);
    check_value("N < 8", 0);
    check_value("N <= 8", 1);
    check_value("N > 8", 0);
    check_value("N >= 8", 1);
    check_value("8 == N", 1);
    check_value("8 != N", 0);
    check_value("1 || 0 && 0", 1);
    check_value("(1 || 0) && 0", 0);
    check_value("0 || 0", 0);
    check_value("5 && 7", 1);
    check_value("0 || 9", 1);
    check_value("W % 4 == 0 && H >= 8", 1);
}

static void test_short_circuit(void)
{
    check_value("1 || 1 / 0", 1);
    check_value("0 && 1 / 0", 0);
    check_value("0 && (N || 9223372036854775807 * 2 > 1 % 0)", 0);
    check_value("1 || ceildiv(1, 0) || min(1 / 0, 2)", 1);
    check_refused("0 || 1 / 0", CONVJIT_INVALID, "column 8: division by zero");
    check_refused("1 && 1 % 0", CONVJIT_INVALID, "column 8: division by zero");
    check_refused("1 || (", CONVJIT_PARSE, "column 7: expected"); /* what is not computed is still read */
    check_refused("0 && X", CONVJIT_PARSE, "column 6: expected N, H, W, P, Q, ceildiv, min or max, not \"X\"");
}

static void test_arithmetic_errors(void)
{
    check_refused("1 / 0", CONVJIT_INVALID, "division by zero");
    check_refused("1 % (N - 8)", CONVJIT_INVALID, "division by zero");
    check_refused("ceildiv(1, 0)", CONVJIT_INVALID, "column 1: division by zero");
    check_refused("-1 / 2", CONVJIT_INVALID, "division of a negative number: -1, 2");
    check_refused("1 % -2", CONVJIT_INVALID, "division of a negative number");
    check_refused("ceildiv(-1, 2)", CONVJIT_INVALID, "division of a negative number");
    check_refused("9223372036854775807 + 1", CONVJIT_INVALID, "column 21: the result does not fit in 64 bits");
    check_refused("-9223372036854775807 - 2", CONVJIT_INVALID, "does not fit in 64 bits");
    check_refused("4611686018427387904 * 2", CONVJIT_INVALID, "does not fit in 64 bits");
    check_refused("-(-9223372036854775807 - 1)", CONVJIT_INVALID, "column 1: the result does not fit in 64 bits");
}

static void test_syntax_errors(void)
{
    static const struct { const char *expr, *part; } cases[] = {
        {"", "column 1: expected a number"},
        {"   ", "column 4: expected a number"},
        {"1 +", "column 4: expected a number"},
        {"* 2", "column 1: expected a number"},
        {"(1", "column 3: expected \")\""},
        {"1)", "column 2: expected an operator or the end"},
        {"1 2", "column 3: expected an operator or the end"},
        {"()", "column 2: expected a number"},
        {"12N", "column 3: expected an operator behind the number"},
        {"0x10", "column 2: expected an operator behind the number"},
        {"1.5", "column 2: expected an operator or the end"},
        {"n", "not \"n\""},
        {"NN", "not \"NN\""},
        {"_", "not \"_\""},
        {"A", "not \"A\""},
        {"Z", "not \"Z\""},
        {"a", "not \"a\""},
        {"z", "not \"z\""},
        {"sqrt(4)", "not \"sqrt\""},
        {"min", "column 4: expected \"(\""},
        {"min(1)", "column 6: expected \",\""},
        {"min(1, 2, 3)", "column 9: expected \")\""},
        {"min(1, 2", "column 9: expected \")\""},
        {"1 = 1", "column 3: expected an operator or the end"},
        {"1 & 1", "column 3: expected an operator or the end"},
        {"!1", "column 1: expected a number"},
        {"1\t+ 2", "column 2: expected an operator or the end"},
        {"1\n", "column 2: expected an operator or the end"},
        {"\x80", "expression \"\?\", column 1"},
        {"9223372036854775808", "column 1: the number does not fit in 64 bits"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_refused(cases[i].expr, CONVJIT_PARSE, cases[i].part);
}

/* `depth` times `open`, "1", then `depth` times `close`. Free it. */
static char *nest(const char *open, const char *close, size_t depth)
{
    cj_text t = {0};
    for (size_t i = 0; i < depth; i++)
        cj_text_puts(&t, open);
    cj_text_puts(&t, "1");
    for (size_t i = 0; i < depth; i++)
        cj_text_puts(&t, close);
    char *text = NULL;
    CHECK_OK(cj_text_take(&t, &text));
    return text;
}

/* Depth is limited, length is not. */
static void test_depth(void)
{
    static const char *const forms[][2] = {{"(", ")"}, {"-", ""}, {"min(1,", ")"}, {"1+(", ")"}};
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        char *shallow = nest(forms[i][0], forms[i][1], 20), *deep = nest(forms[i][0], forms[i][1], 200000);
        CHECK_OK(cj_expr_check(shallow));
        CHECK_FAILS(cj_expr_check(deep), CONVJIT_PARSE, "nested deeper than the limit 64");
        free(shallow);
        free(deep);
    }
    char *sum = nest("1+", "", 100000);
    check_value(sum, 100001);
    free(sum);
}

int main(void)
{
    test_values();
    test_precedence();
    test_short_circuit();
    test_arithmetic_errors();
    test_syntax_errors();
    test_depth();
    return check_done("expr");
}
