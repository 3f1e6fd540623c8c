/* expr.c: the syntax check and the evaluation agree on every string, and evaluation has one result. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const cj_sizes all[] = {
        {1, 1, 1, 1, 1}, {8, 512, 256, 508, 250}, {INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX, INT32_MAX},
    };
    char *text = fuzz_string(data, size);
    convjit_status syntax = cj_expr_check(text);
    REQUIRE(syntax == CONVJIT_OK || syntax == CONVJIT_PARSE);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        int64_t a = 0, b = 0;
        convjit_status status = cj_expr_eval(text, &all[i], &a);
        if (syntax == CONVJIT_OK)
            REQUIRE(status == CONVJIT_OK || status == CONVJIT_INVALID);
        else /* an error of arithmetic may come before the syntax error in the text */
            REQUIRE(status == CONVJIT_PARSE || status == CONVJIT_INVALID);
        if (status != CONVJIT_OK)
            require_message();
        REQUIRE(cj_expr_eval(text, &all[i], &b) == status && a == b);
    }
    free(text);
    return 0;
}
