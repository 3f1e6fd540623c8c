/* primitives.c: every primitive on a GPU against the committed vectors (tests/vectors/), or, with --write DIR, the
 * program that makes them. usage: tests/vectors/run.h */
#include "vectors/run.h"

int main(int argc, char **argv)
{
    return vectors_main(argc, argv, CONVJIT_GPU, 1, "gpu-primitives");
}
