/* vectors.c: the emulated device computes bit for bit what an H200 did, on the committed vectors (tests/vectors/). */
#include "vectors/run.h"

int main(int argc, char **argv)
{
    return vectors_main(argc, argv, CONVJIT_EMU, 1, "emu-vectors");
}
