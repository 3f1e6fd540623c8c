/* vectors.c: the emulated device computes bit for bit what an H200 did, on the committed vectors (tests/vectors/): on all of them
 * with asynchronous operations that take effect as late as they may, and on every fourth with those that do so at once. */
#include "vectors/run.h"

int main(int argc, char **argv)
{
    static const struct { const char *async; int every; } runs[] = { { "wait", 1 }, { "issue", 4 } };
    int failed = 0;
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        optind = 1; /* the options are read again */
        setenv("CONVJIT_EMU_ASYNC", runs[i].async, 1);
        failed |= vectors_main(argc, argv, CONVJIT_EMU, runs[i].every, "emu-vectors"); /* counts go on */
    }
    return failed;
}
