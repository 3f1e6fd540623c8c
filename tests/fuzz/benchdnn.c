/* benchdnn.c: any string is either a descriptor, whose problem may still be refused by the check, or an error. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_string(data, size);
    convjit_problem p;
    convjit_problem_init(&p);
    convjit_status status = cj_benchdnn_parse(&p, text);
    if (status != CONVJIT_OK) {
        REQUIRE(status == CONVJIT_PARSE || status == CONVJIT_INVALID);
        require_message();
    } else if (convjit_problem_check(&p) == CONVJIT_OK) {
        require_round_trip(&p);
    } else {
        require_message();
    }
    free(text);
    return 0;
}
