/* kernel.c: any bytes are either a kernel's description, which is written as those same bytes, or an error. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy = malloc(size ? size : 1); /* not terminated: the reader has to mind the length */
    REQUIRE(copy);
    memcpy(copy, data, size);
    cj_kernel *k = NULL;
    convjit_status status = cj_kernel_read((const char *)copy, size, &k);
    if (status == CONVJIT_OK) {
        cj_text again = {0};
        REQUIRE(cj_kernel_write(k, &again) == CONVJIT_OK);
        REQUIRE(again.length == size && memcmp(again.data, data, size) == 0);
        cj_text_free(&again);
    } else {
        REQUIRE(status == CONVJIT_CORRUPT && k == NULL);
        require_message();
    }
    cj_kernel_free(k);
    free(copy);
    return 0;
}
