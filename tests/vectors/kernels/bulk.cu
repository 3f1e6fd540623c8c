// bulk.cu: a bulk load, a look at shared memory, a bulk store.
// p: bytes, to, from of the load; bytes, from, to of the store; 1 if the store is waited for with bulk_wait_read
// in: 8192 bytes.   out: 64 words; 16384 bytes of shared memory; 16384 bytes that the store goes to
extern "C" __global__ void __launch_bounds__(128, 1) k(const unsigned *__restrict__ in, unsigned *__restrict__ out,
                                                       const int *__restrict__ p)
{
    constexpr int WORDS = 4096;
    const int t = threadIdx.x;
    unsigned long long *barrier = (unsigned long long *)shared_memory();
    unsigned char *region = shared_memory() + 1024;
    for (int i = t; i < WORDS; i += 128) ((unsigned *)region)[i] = 0x5a000000 + i;
    if (t == 0) {
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
    }
    fence_proxy_async();
    __syncthreads();
    if (t == 0) {
        mbarrier_arrive_expect(barrier, p[0]);
        bulk_load(region + p[1], (const unsigned char *)in + p[2], p[0], barrier);
    }
    bool fine = arrived(barrier, 0);
    for (int i = t; i < WORDS; i += 128) out[64 + i] = ((const unsigned *)region)[i];
    __syncthreads();
    if (t == 0) {
        bulk_store((unsigned char *)(out + 64 + WORDS) + p[5], region + p[4], p[3]);
        bulk_commit();
        if (p[6]) bulk_wait_read<0>();
        else bulk_wait<0>();
        out[0] = fine;
    }
}
