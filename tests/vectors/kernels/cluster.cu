// cluster.cu: the blocks of a cluster write and read each other's shared memory and arrive at each other's barriers.
// p: how far on the block is that one writes to; how far on that one reads from
// in: 256 words for each block
// out: 64 words, of which each block sets one; of each block what it was sent, and what it read
extern "C" __global__ void __launch_bounds__(128, 1) k(const unsigned *__restrict__ in, unsigned *__restrict__ out,
                                                       const int *__restrict__ p)
{
    const int t = threadIdx.x;
    const unsigned self = cluster_rank(), blocks = cluster_blocks();
    unsigned long long *barrier = (unsigned long long *)shared_memory();
    unsigned *mine = (unsigned *)(shared_memory() + 1024), *sent = mine + 256;
    for (int i = t; i < 256; i += 128) mine[i] = in[self * 256 + i];
    if (t == 0) {
        mbarrier_init(barrier, blocks);
        fence_mbarrier_init();
    }
    cluster_sync();
    unsigned *there = cluster_map(sent, (self + p[0]) % blocks);
    for (int i = t; i < 256; i += 128) there[i] = in[self * 256 + i] * 3 + self;
    cluster_arrive();
    const unsigned *other = cluster_map(mine, (self + p[1]) % blocks);
    for (int i = t; i < 256; i += 128) out[64 + self * 512 + 256 + i] = other[i] + blocks;
    cluster_wait();
    for (int i = t; i < 256; i += 128) out[64 + self * 512 + i] = sent[i];
    if ((unsigned)t < blocks) mbarrier_arrive_cluster(barrier, t);
    bool fine = arrived(barrier, 0);
    if (t == 0) out[self] = fine;
    cluster_sync();
}
