/* problem.c: any string is either a problem that its canonical string gives back, or an error with a message. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = fuzz_string(data, size);
    convjit_problem p, before;
    memset(&p, 0x5A, sizeof p);
    before = p;
    convjit_status status = convjit_problem_parse(&p, text);
    if (status == CONVJIT_OK) {
        require_round_trip(&p);
    } else {
        REQUIRE(status == CONVJIT_PARSE || status == CONVJIT_INVALID);
        require_message();
        REQUIRE(memcmp(&p, &before, sizeof p) == 0);
    }
    free(text);
    return 0;
}
