/* direct.c: 1,000 random problems on at least 250 kernels of `direct`, exact on the emulated device in three thread orders; and
 * some on numbers with fractions, of which an activation may be wrong where it is right for integers. */
#include "differential.h"

enum { TUPLES = 270, SIZES = 4 };

int main(void)
{
    static const struct { const char *order; int tuples; bool exact; } runs[] = { { "forward", TUPLES / 3, true },
        { "reverse", TUPLES / 3, true }, { "seed:7", TUPLES / 3, true }, { "forward", 30, false } };
    char directory[] = "/tmp/convjit-test-XXXXXX", command[128];
    if (!mkdtemp(directory)) return 1;
    setenv("CONVJIT_EMU_THREADS", "1", 1); /* the problems run side by side instead */
    uint64_t seed = test_seed();
    int kernels = 0;
    for (int i = 0; i < (int)(sizeof runs / sizeof *runs); i++) {
        setenv("CONVJIT_EMU_ORDER", runs[i].order, 1);
        convjit_config config = { .size = sizeof config, .device = CONVJIT_EMU, .cache_dir = directory };
        convjit *cj = NULL;
        CHECK_OK(convjit_open(&cj, &config));
        if (!cj) break;
        campaign c = { .cj = cj, .arch = "sm_90a", .seed = seed + (uint64_t)i, .tuples = runs[i].tuples, .sizes = SIZES,
                       .macs = 60e3, .exact = runs[i].exact, .threads = (int)sysconf(_SC_NPROCESSORS_ONLN) };
        kernels += campaign_run(&c);
        convjit_close(cj);
    }
    CHECK_THAT(kernels >= 250, "%d kernels; at least 250 are wanted", kernels);
    snprintf(command, sizeof command, "rm -rf %s", directory);
    if (system(command) != 0) fprintf(stderr, "could not remove %s\n", directory);
    return check_done("emu-direct");
}
