// mbarrier.cu: one thread works through a list of operations on one barrier, and notes what it is told.
// in: 2048 words of data; the operations, two words each
// p: their number; arrivals of a phase.   out: 64 words; answers; data; the operations are
//   1: arrive   2 N: expect N bytes, arrive, and copy them   3 P: try_wait   4 P: wait
//   5 N: invalidate, and init for N
extern "C" __global__ void __launch_bounds__(32, 1) k(const unsigned *__restrict__ in, unsigned *__restrict__ out,
                                                      const int *__restrict__ p)
{
    unsigned long long *barrier = (unsigned long long *)shared_memory();
    unsigned char *region = shared_memory() + 1024;
    if (threadIdx.x != 0) return;
    mbarrier_init(barrier, p[1]);
    fence_mbarrier_init();
    unsigned loaded = 0;
    for (int i = 0; i < p[0]; i++) {
        unsigned what = in[2048 + 2 * i], n = in[2049 + 2 * i], answer = 2;
        if (what == 1) mbarrier_arrive(barrier);
        if (what == 2) {
            mbarrier_arrive_expect(barrier, n);
            bulk_load(region + loaded, in + loaded / 4, n, barrier);
            loaded += n;
        }
        if (what == 3) answer = mbarrier_try_wait(barrier, n);
        if (what == 4) {
            answer = 0;
            for (int tries = 0; tries < 1024 && !answer; tries++) answer = mbarrier_try_wait(barrier, n);
        }
        if (what == 5) {
            mbarrier_invalidate(barrier);
            mbarrier_init(barrier, n);
            fence_mbarrier_init();
        }
        out[64 + i] = answer;
    }
    for (unsigned i = 0; i < loaded / 4; i++) out[64 + 256 + i] = ((const unsigned *)region)[i];
    out[0] = 1;
}
