// tensor.cu: a tensor load, or a tensor store.
// p: 1 for a store; rank; 5 coordinates; place in shared memory; bytes that a load brings
// in: for a load the tensor, for a store 20480 bytes of shared memory
// out: 64 words; for a load those bytes, for a store the tensor
extern "C" __global__ void __launch_bounds__(128, 1) k(const unsigned *__restrict__ in, unsigned *__restrict__ out,
                                                       const int *__restrict__ p, const __grid_constant__ TensorMap map)
{
    constexpr int WORDS = 5120;
    const int store = p[0], rank = p[1], t = threadIdx.x;
    const int c0 = p[2], c1 = p[3], c2 = p[4], c3 = p[5], c4 = p[6];
    unsigned long long *barrier = (unsigned long long *)shared_memory();
    unsigned *region = (unsigned *)(shared_memory() + 1024);
    unsigned char *box = shared_memory() + 1024 + p[7];
    for (int i = t; i < WORDS; i += 128) region[i] = store ? in[i] : 0x5a000000 + i;
    if (t == 0) {
        tensor_prefetch(map);
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
    }
    fence_proxy_async();
    __syncthreads();
    bool fine = true;
    if (store) {
        if (t == 0) {
| for rank = 1, 5 do
|   local at = string.sub("c0, c1, c2, c3, c4", 1, 4 * rank - 2)
            if (rank == ${rank}) tensor_store_${rank}d(map, box, ${at});
| end
            bulk_commit();
            bulk_wait<0>();
        }
    } else {
        if (t == 0) {
            mbarrier_arrive_expect(barrier, p[8]);
| for rank = 1, 5 do
|   local at = string.sub("c0, c1, c2, c3, c4", 1, 4 * rank - 2)
            if (rank == ${rank}) tensor_load_${rank}d(box, map, barrier, ${at});
| end
        }
        fine = arrived(barrier, 0);
        for (int i = t; i < WORDS; i += 128) out[64 + i] = region[i];
    }
    if (t == 0) out[0] = fine;
}
