/* cluster.c: blocks that run together: their barrier, each other's shared memory and mbarriers, multicast. Right kernels pass in
 * every order and mode, wrong ones are caught in each. */
#include "emu_test.h"

enum { THREADS = 64, FLOATS = 1024, BYTES = FLOATS * 4 };

#define HEAD "extern \"C\" __global__ void k(const __grid_constant__ TensorMap map, const float *x, float *y, int n)\n"
#define BEGIN                                                                   \
    HEAD                                                                        \
    "{\n"                                                                       \
    "    float *s = (float *)shared_memory();\n"                                \
    "    unsigned long long *b = (unsigned long long *)(s + 1024);\n"           \
    "    int t = threadIdx.x, rank = cluster_rank(), blocks = cluster_blocks();\n" \
    "    float *out = y + 64 * blockIdx.x; const float *in = x + 64 * blockIdx.x;\n" /* the next line is line 7 */
#define END "}\n"

typedef struct fixture {
    emu *e;
    emu_kernel k;
    float *x, *y;
    unsigned char map[CJ_TENSOR_MAP_BYTES] __attribute__((aligned(64)));
} fixture;

/* The map sees x as 16 rows of 64, in boxes of 16 columns by 4 rows. */
static fixture build(emu *e, const char *source)
{
    fixture f = {e, emu_build(e, source, "mion"), emu_alloc(e, BYTES), emu_alloc(e, BYTES), {0}};
    cj_tensor_map map = {.rank = 2, .element = CJ_MAP_F32, .dims = {64, 16}, .strides = {256}, .box = {16, 4},
                         .element_strides = {1, 1}};
    for (int i = 0; i < FLOATS; i++)
        f.x[i] = (float)(i + 1);
    CHECK_OK(e->device->encode(e->device, &map, f.x, f.map));
    return f;
}

static void drop(fixture *f)
{
    f->e->device->free(f->e->device, f->x);
    f->e->device->free(f->e->device, f->y);
    emu_drop(&f->k);
}

static convjit_status run(fixture *f, unsigned cluster, int n, int mode)
{
    void *args[] = {f->map, &f->x, &f->y, &n};
    emu_set_mode(f->e, mode);
    memset(f->y, 0, BYTES);
    return emu_launch_cluster(&f->k, 8, cluster, THREADS, 8192, args);
}

/* 8 blocks in clusters of that many: y = 2 x, 64 floats a block. */
static void passes(emu *e, const char *source, unsigned cluster)
{
    fixture f = build(e, source);
    for (int mode = 0; mode < EMU_MODES; mode++) {
        CHECK_OK(run(&f, cluster, 0, mode));
        int wrong = 0;
        for (int i = 0; i < 512; i++)
            wrong += f.y[i] != 2 * f.x[i];
        CHECK(wrong == 0);
    }
    drop(&f);
}

static void caught(emu *e, const char *source, const char *message)
{
    fixture f = build(e, source);
    CHECK_FAILS(run(&f, 2, 1, 0), CONVJIT_EMULATOR, message);
    for (int mode = 1; mode < EMU_MODES; mode++)
        CHECK(run(&f, 2, 1, mode) == CONVJIT_EMULATOR);
    drop(&f);
}

/* Which block is which. */
static void places(emu *e)
{
    emu_kernel k = emu_build(e, "extern \"C\" __global__ void k(int *y)\n"
                                "{\n"
                                "    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;\n"
                                "    y[block] = cluster_rank() * 100 + cluster_blocks();\n"
                                "}\n", "o");
    int *y = emu_alloc(e, 24 * sizeof *y);
    void *args[] = {&y};
    const unsigned grid[3] = {4, 2, 3}, block[3] = {1, 1, 1};
    const cj_attributes cluster = {.cluster = {2, 2, 1}};
    for (int mode = 0; mode < EMU_MODES; mode++) {
        emu_set_mode(e, mode);
        CHECK_OK(e->device->launch_with(e->device, k.function, grid, block, &cluster, 0, args, 1, NULL));
        for (int i = 0; i < 24; i++)
            CHECK(y[i] == (i % 2 + 2 * (i / 4 % 2)) * 100 + 4);
    }
    const cj_attributes odd = {.cluster = {3, 1, 1}}, many = {.cluster = {4, 1, 3}}, none = {.cluster = {0, 1, 1}};
    CHECK_FAILS(e->device->launch_with(e->device, k.function, grid, block, &odd, 0, args, 1, NULL), CONVJIT_INVALID,
                "cluster.x is 3, and does not divide the grid's 4");
    CHECK_FAILS(e->device->launch_with(e->device, k.function, grid, block, &many, 0, args, 1, NULL), CONVJIT_INVALID,
                "clusters of 4 x 1 x 3 blocks, and 1 to 8 are allowed");
    CHECK_FAILS(e->device->launch_with(e->device, k.function, grid, block, &none, 0, args, 1, NULL), CONVJIT_INVALID,
                "clusters of 0 x 1 x 1 blocks, and 1 to 8 are allowed");
    e->device->free(e->device, y);
    emu_drop(&k);
}

static void shared_memory_of_others(emu *e)
{
#define EXCHANGE(first, second)                                      \
    BEGIN                                                            \
    "    int other = (rank + 1) % blocks;\n"                         \
    "    s[t] = 0;\n"                                                \
    "    " first "\n"                                                \
    "    cluster_map(s, other)[t] = in[t ^ 21];\n"                   \
    "    " second "\n"                                               \
    "    int from = blockIdx.x - rank + (rank + blocks - 1) % blocks;\n" \
    "    y[64 * from + t] = 2 * s[t ^ 21];\n" END
    passes(e, EXCHANGE("cluster_sync();", "cluster_sync();"), 2);
    passes(e, EXCHANGE("cluster_sync();", "cluster_arrive(); cluster_wait();"), 4);
    passes(e, EXCHANGE("cluster_sync();", "cluster_sync();"), 8);
    passes(e, EXCHANGE("cluster_sync();", "cluster_sync();"), 1);
    caught(e, EXCHANGE("", "cluster_sync();"), "accesses shared memory of block 1 of the cluster on line 10, which may not have begun: "
                                               "cluster_sync is missing");
    caught(e, EXCHANGE("__syncthreads();", "cluster_sync();"), "which may not have begun: cluster_sync is missing");
    caught(e, EXCHANGE("cluster_sync();", ""), "");
    caught(e, EXCHANGE("cluster_sync();", "__syncthreads();"), "");
    caught(e, EXCHANGE("cluster_arrive(); cluster_wait();", "cluster_arrive();"), "");
    caught(e, EXCHANGE("cluster_arrive();", "cluster_wait();"), "");
    /* A block that reads from another one that may have ended. */
#define READ(last) BEGIN "    s[t] = in[t];\n    cluster_sync();\n    out[t] = cluster_map(s, rank ^ 1)[t ^ 7];\n    " last "\n" END
    fixture f = build(e, READ("cluster_sync();"));
    for (int mode = 0; mode < EMU_MODES; mode++)
        CHECK_OK(run(&f, 2, 0, mode));
    CHECK(f.y[0] == f.x[64 + 7]);
    drop(&f);
    caught(e, READ("if (rank == 0) return; for (int i = 0; i < 3; i++) __syncthreads(); out[t] += *cluster_map(s, 0);"), "which has ended");
    caught(e, BEGIN "    s[t] = *cluster_map(s, 2);\n" END, "cluster_map on line 7: rank 2, and the cluster has 2 blocks");
    caught(e, BEGIN "    if (t != 5 || rank) cluster_arrive();\n    cluster_wait();\n" END,
           "thread (5,0,0): cluster_wait on line 8: has not arrived: cluster_arrive is missing");
    caught(e, BEGIN "    cluster_arrive();\n    cluster_arrive();\n    cluster_wait();\n" END,
           "cluster_arrive on line 8: arrives again before cluster_wait");
    caught(e, BEGIN "    mbarrier_init(b + t, 1);\n    if (t || rank) cluster_sync(); else mbarrier_wait(b, 0);\n" END, "");
    caught(e, BEGIN "    if (rank) cluster_sync(); else { __syncwarp(t % 32 == 0 ? 1 : ~0u); __syncwarp(); }\n" END, "missing participant");
}

static void remote_arrivals(emu *e)
{
    /* Each block writes into the other's memory, and tells it by an arrival there. */
#define TELL(init, arrive)                                                                        \
    BEGIN                                                                                         \
    "    if (t == 0) { mbarrier_init(b, 64); " init " }\n"                                        \
    "    cluster_sync();\n"                                                                       \
    "    cluster_map(s, rank ^ 1)[t] = in[t];\n"                                                  \
    "    " arrive "\n"                                                                            \
    "    mbarrier_wait(b, 0);\n"                                                                  \
    "    y[64 * (blockIdx.x ^ 1) + (t ^ 13)] = 2 * s[t ^ 13];\n"                                  \
    "    cluster_sync();\n" END
    passes(e, TELL("fence_mbarrier_init();", "mbarrier_arrive_cluster(b, rank ^ 1);"), 2);
    passes(e, TELL("fence_mbarrier_init();", "mbarrier_arrive(cluster_map(b, rank ^ 1));"), 2);
    caught(e, TELL("fence_mbarrier_init();", "mbarrier_arrive_cluster(b, rank);"), "");
    caught(e, TELL("fence_mbarrier_init();", "if (t) mbarrier_arrive_cluster(b, rank ^ 1);"), "deadlock");
    caught(e, TELL("", "mbarrier_arrive_cluster(b, rank ^ 1);"),
           "of block (0,0,0) made the mbarrier at offset 4096 on line 7, and did not "
           "show it to other blocks: fence_mbarrier_init is missing");
    caught(e, TELL("fence_mbarrier_init();", "mbarrier_arrive_cluster(b, 2);"),
           "mbarrier_arrive_cluster on line 10: rank 2, and the cluster has 2 blocks");
    caught(e, TELL("fence_mbarrier_init();", "mbarrier_arrive_cluster(b, rank ^ 1); mbarrier_wait(cluster_map(b, rank ^ 1), 0);"),
           "mbarrier_wait on line 10: the mbarrier is in another block's shared memory: only its own threads may wait for it");
}

/* Each block loads its part of a tile that both use, and gives the buffer back to both before the next turn. */
#define MULTICAST(blocks, expect, empty, release)                                                                        \
    BEGIN                                                                                                                \
    "    unsigned char *tile = (unsigned char *)s;\n"                                                                    \
    "    if (t == 0) { mbarrier_init(b, 1); mbarrier_init(b + 1, 2); fence_mbarrier_init(); }\n"                         \
    "    cluster_sync();\n"                                                                                              \
    "    for (int i = 0; i < 4; i++) {\n"                                                                                \
    "        int pair = blockIdx.x / 2;\n"                                                                               \
    "        if (t == 0) {\n"                                                                                            \
    "            if (i > 0) { " empty " }\n"                                                                             \
    "            mbarrier_arrive_expect(b, " expect ");\n"                                                               \
    "            tensor_load_multicast_2d(tile + 256 * rank, map, b, 16 * (2 * (i % 2) + rank), 4 * (i / 2), " blocks ");\n" \
    "        }\n"                                                                                                        \
    "        mbarrier_wait(b, i % 2);\n"                                                                                 \
    "        float left = s[t % 64], right = s[64 + t % 64];\n"                                                          \
    "        int row = 4 * (i / 2) + t / 16, column = 32 * (i % 2) + t % 16;\n"                                          \
    "        if (pair == 0 && row / 4 == i / 2) y[64 * row + column + 16 * rank] = 2 * (rank ? right : left);\n"          \
    "        __syncthreads();\n"                                                                                         \
    "        if (t == 0) { " release " }\n"                                                                              \
    "    }\n"                                                                                                            \
    "    cluster_sync();\n" END
#define EMPTY "mbarrier_wait(b + 1, (i - 1) % 2);"
#define RELEASE "for (int r = 0; r < 2; r++) mbarrier_arrive_cluster(b + 1, r);"

static void multicast(emu *e)
{
    fixture f = build(e, MULTICAST("3", "512", EMPTY, RELEASE));
    for (int mode = 0; mode < EMU_MODES; mode++) {
        CHECK_OK(run(&f, 2, 0, mode));
        int wrong = 0;
        for (int i = 0; i < 512; i++)
            wrong += f.y[i] != 2 * f.x[i];
        CHECK(wrong == 0);
    }
    drop(&f);
    caught(e, MULTICAST("3", "512", "", RELEASE), "");
    caught(e, MULTICAST("3", "512", EMPTY, "mbarrier_arrive(b + 1); mbarrier_arrive(b + 1);"), "");
    caught(e, MULTICAST("3", "256", EMPTY, RELEASE), "");
    caught(e, MULTICAST("1 << rank", "512", EMPTY, RELEASE), "and 256 bytes)");
    caught(e, MULTICAST("7", "512", EMPTY, RELEASE), "tensor_load_multicast_2d on line 15: blocks 0x7, and the cluster has 2");
    caught(e, MULTICAST("0", "512", EMPTY, RELEASE), "tensor_load_multicast_2d on line 15: blocks 0x0, and the cluster has 2");
}

int main(void)
{
    emu e = emu_open();
    places(&e);
    shared_memory_of_others(&e);
    remote_arrivals(&e);
    multicast(&e);
    emu_close(&e);
    return check_done("emu/cluster");
}
