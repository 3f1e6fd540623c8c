// roles.cu: a warpgroup that gives registers back and hands data to two that take them, through named barriers.
// p: number of the first of two barriers; rounds.   in: 128 words a round
// out: 64 words; what each of 256 threads made of them
extern "C" __global__ void __launch_bounds__(384, 1) k(const unsigned *__restrict__ in, unsigned *__restrict__ out,
                                                       const int *__restrict__ p)
{
    const unsigned t = threadIdx.x, full = p[0], empty = p[0] + 1;
    unsigned *buffer = (unsigned *)shared_memory();
    if (t < 128) {
        registers_decrease<40>();
        for (int round = 0; round < p[1]; round++) {
            if (round) barrier_sync(empty, 384);
            buffer[t] = in[128 * round + t];
            barrier_arrive(full, 384);
        }
    } else {
        registers_increase<224>();
        unsigned sum = t;
        for (int round = 0; round < p[1]; round++) {
            barrier_sync(full, 384);
            for (int i = 0; i < 128; i++) sum = sum * 5 + buffer[(i + t) % 128];
            if (round + 1 < p[1]) barrier_arrive(empty, 384);
        }
        out[64 + t - 128] = sum;
    }
    unsigned elected = __popc(__ballot_sync(0xffffffff, elect_one()));
    if (t % 32 == 0) out[1 + t / 32] = elected;
    if (t == 0) out[0] = 1;
}
