// multicast.cu: one block of a cluster of CLUSTER loads a box for several.
// p: which block, for which, rank, 5 coordinates, place in shared memory, bytes
// in: the tensor.   out: 64 words, of which each block sets one; 20480 bytes of each block's shared memory
extern "C" __global__ void __launch_bounds__(128, 1) k(const unsigned *__restrict__ in, unsigned *__restrict__ out,
                                                       const int *__restrict__ p, const __grid_constant__ TensorMap map)
{
    constexpr int WORDS = 5120;
    const int rank = p[2], t = threadIdx.x;
    const int c0 = p[3], c1 = p[4], c2 = p[5], c3 = p[6], c4 = p[7];
    const unsigned self = cluster_rank();
    const unsigned short blocks = (unsigned short)p[1];
    unsigned long long *barrier = (unsigned long long *)shared_memory();
    unsigned *region = (unsigned *)(shared_memory() + 1024);
    unsigned char *box = shared_memory() + 1024 + p[8];
    for (int i = t; i < WORDS; i += 128) region[i] = 0x5a000000 + i;
    if (t == 0) {
        mbarrier_init(barrier, 1);
        fence_mbarrier_init();
        if (blocks >> self & 1) mbarrier_arrive_expect(barrier, p[9]);
    }
    fence_proxy_async();
    cluster_sync();
    if (self == p[0] && t == 0) {
| for rank = 1, 5 do
|   local at = string.sub("c0, c1, c2, c3, c4", 1, 4 * rank - 2)
        if (rank == ${rank}) tensor_load_multicast_${rank}d(box, map, barrier, ${at}, blocks);
| end
    }
    bool fine = !(blocks >> self & 1) || arrived(barrier, 0);
    for (int i = t; i < WORDS; i += 128) out[64 + self * WORDS + i] = region[i];
    if (t == 0) out[self] = fine;
    cluster_sync();
}
