/* device_async.h: the twins of the asynchronous primitives: cp.async, mbarriers, bulk and tensor copies, named barriers,
 * clusters. Part of device.h. All of the work is the device's (async.c, mbarrier.c, tensor.c, barrier.c).
 */
#ifndef CJ_EMU_DEVICE_ASYNC_H
#define CJ_EMU_DEVICE_ASYNC_H

/* What a primitive does to memory is hidden from the compiler, which must not keep any in registers meanwhile. */
#define CJ_SERVICE(name, parameters, arguments)                                \
    CJ_UNCHECKED void cj_emu_##name parameters { cj_emu_device->async->name arguments; }

/* ---- cp.async ---- */

CJ_SERVICE(copy_async, (void *shared, const void *global, int bytes, int size, unsigned line), (shared, global, bytes, size, line))
CJ_SERVICE(copy_commit, (unsigned line), (line))
CJ_SERVICE(copy_wait, (unsigned groups, unsigned line), (groups, line))
CJ_SERVICE(copy_arrive, (unsigned long long *barrier, unsigned line), (barrier, line))

CJ_UNCHECKED unsigned shared_address(const void *shared, CJ_LINE) { return cj_emu_device->async->shared_address(shared, line); }
static inline void cp_async_4(void *shared, const void *global, int bytes, CJ_LINE) { cj_emu_copy_async(shared, global, bytes, 4, line); }
static inline void cp_async_8(void *shared, const void *global, int bytes, CJ_LINE) { cj_emu_copy_async(shared, global, bytes, 8, line); }
static inline void cp_async_16(void *shared, const void *global, int bytes, CJ_LINE)
{
    cj_emu_copy_async(shared, global, bytes, 16, line);
}
static inline void cp_async_commit(CJ_LINE) { cj_emu_copy_commit(line); }
template <int N> static inline void cp_async_wait(CJ_LINE) { cj_emu_copy_wait(N, line); }
static inline void cp_async_mbarrier_arrive(unsigned long long *barrier, CJ_LINE) { cj_emu_copy_arrive(barrier, line); }

/* ---- mbarrier ---- */

CJ_SERVICE(mbarrier_init, (unsigned long long *barrier, unsigned arrivals, unsigned line), (barrier, arrivals, line))
CJ_SERVICE(mbarrier_invalidate, (unsigned long long *barrier, unsigned line), (barrier, line))
CJ_SERVICE(mbarrier_arrive, (unsigned long long *barrier, unsigned line), (barrier, line))
CJ_SERVICE(mbarrier_arrive_expect, (unsigned long long *barrier, unsigned bytes, unsigned line), (barrier, bytes, line))
CJ_SERVICE(mbarrier_arrive_cluster, (unsigned long long *barrier, unsigned rank, unsigned line), (barrier, rank, line))
CJ_SERVICE(mbarrier_wait, (unsigned long long *barrier, unsigned parity, unsigned line), (barrier, parity, line))
CJ_SERVICE(fence_mbarrier_init, (unsigned line), (line))
CJ_SERVICE(fence_proxy_async, (unsigned line), (line))
CJ_UNCHECKED bool cj_emu_mbarrier_try_wait(unsigned long long *barrier, unsigned parity, unsigned line)
{
    return cj_emu_device->async->mbarrier_try_wait(barrier, parity, line);
}

static inline void mbarrier_init(unsigned long long *barrier, unsigned arrivals, CJ_LINE)
{
    cj_emu_mbarrier_init(barrier, arrivals, line);
}
static inline void mbarrier_invalidate(unsigned long long *barrier, CJ_LINE) { cj_emu_mbarrier_invalidate(barrier, line); }
static inline void mbarrier_arrive(unsigned long long *barrier, CJ_LINE) { cj_emu_mbarrier_arrive(barrier, line); }
static inline void mbarrier_arrive_expect(unsigned long long *barrier, unsigned bytes, CJ_LINE)
{
    cj_emu_mbarrier_arrive_expect(barrier, bytes, line);
}
static inline void mbarrier_arrive_cluster(unsigned long long *barrier, unsigned rank, CJ_LINE)
{
    cj_emu_mbarrier_arrive_cluster(barrier, rank, line);
}
static inline bool mbarrier_try_wait(unsigned long long *barrier, unsigned parity, CJ_LINE)
{
    return cj_emu_mbarrier_try_wait(barrier, parity, line);
}
static inline void mbarrier_wait(unsigned long long *barrier, unsigned parity, CJ_LINE)
{
    cj_emu_mbarrier_wait(barrier, parity, line);
}
static inline void fence_mbarrier_init(CJ_LINE) { cj_emu_fence_mbarrier_init(line); }
static inline void fence_proxy_async(CJ_LINE) { cj_emu_fence_proxy_async(line); }

/* ---- Bulk copies ---- */

CJ_SERVICE(bulk_load, (void *shared, const void *global, unsigned bytes, unsigned long long *barrier, unsigned line),
           (shared, global, bytes, barrier, line))
CJ_SERVICE(bulk_store, (void *global, const void *shared, unsigned bytes, unsigned line), (global, shared, bytes, line))
CJ_SERVICE(bulk_commit, (unsigned line), (line))
CJ_SERVICE(bulk_wait, (unsigned groups, const char *name, unsigned line), (groups, name, line))

static inline void bulk_load(void *shared, const void *global, unsigned bytes, unsigned long long *barrier, CJ_LINE)
{
    cj_emu_bulk_load(shared, global, bytes, barrier, line);
}
static inline void bulk_store(void *global, const void *shared, unsigned bytes, CJ_LINE)
{
    cj_emu_bulk_store(global, shared, bytes, line);
}
static inline void bulk_commit(CJ_LINE) { cj_emu_bulk_commit(line); }
template <int N> static inline void bulk_wait(CJ_LINE) { cj_emu_bulk_wait(N, "bulk_wait", line); }
template <int N> static inline void bulk_wait_read(CJ_LINE) { cj_emu_bulk_wait(N, "bulk_wait_read", line); }

/* ---- Tensor copies ---- */

/* A kernel gets its copy from the host's memory, which is not to be checked. */
struct __align__(64) TensorMap {
    unsigned long long word[16];
    TensorMap() = default;
    CJ_UNCHECKED TensorMap(const TensorMap &from) { cj_emu_copy(word, from.word, sizeof word); }
};

CJ_SERVICE(tensor_load, (void *shared, const void *map, unsigned long long *barrier, int rank, const int *at, unsigned blocks,
                         const char *name, unsigned line),
           (shared, map, barrier, rank, at, blocks, name, line))
CJ_SERVICE(tensor_store, (const void *map, const void *shared, int rank, const int *at, const char *name, unsigned line),
           (map, shared, rank, at, name, line))
CJ_SERVICE(tensor_prefetch, (const void *map, unsigned line), (map, line))

static inline void tensor_prefetch(const TensorMap &map, CJ_LINE) { cj_emu_tensor_prefetch(&map, line); }

/* rank: of the map; the coordinates' parameters, and their names */
#define CJ_TENSOR_COPIES(rank, parameters, ...)                                                                            \
    static inline void tensor_load_##rank##d(void *shared, const TensorMap &map, unsigned long long *barrier, CJ_OF parameters, \
                                             CJ_LINE)                                                                      \
    {                                                                                                                      \
        const int at[] = {__VA_ARGS__};                                                                                    \
        cj_emu_tensor_load(shared, &map, barrier, rank, at, 0, "tensor_load_" #rank "d", line);                            \
    }                                                                                                                      \
    static inline void tensor_load_multicast_##rank##d(void *shared, const TensorMap &map, unsigned long long *barrier,    \
                                                       CJ_OF parameters, unsigned short blocks, CJ_LINE)                   \
    {                                                                                                                      \
        const int at[] = {__VA_ARGS__};                                                                                    \
        cj_emu_tensor_load(shared, &map, barrier, rank, at, CJ_EMU_MULTICAST | blocks, "tensor_load_multicast_" #rank "d", line); \
    }                                                                                                                      \
    static inline void tensor_store_##rank##d(const TensorMap &map, const void *shared, CJ_OF parameters, CJ_LINE)         \
    {                                                                                                                      \
        const int at[] = {__VA_ARGS__};                                                                                    \
        cj_emu_tensor_store(&map, shared, rank, at, "tensor_store_" #rank "d", line);                                      \
    }
#define CJ_OF(...) __VA_ARGS__
CJ_TENSOR_COPIES(1, (int c0), c0)
CJ_TENSOR_COPIES(2, (int c0, int c1), c0, c1)
CJ_TENSOR_COPIES(3, (int c0, int c1, int c2), c0, c1, c2)
CJ_TENSOR_COPIES(4, (int c0, int c1, int c2, int c3), c0, c1, c2, c3)
CJ_TENSOR_COPIES(5, (int c0, int c1, int c2, int c3, int c4), c0, c1, c2, c3, c4)
#undef CJ_TENSOR_COPIES
#undef CJ_OF

/* ---- Named barriers, clusters, grids ---- */

CJ_SERVICE(barrier_sync, (unsigned id, unsigned threads, unsigned line), (id, threads, line))
CJ_SERVICE(barrier_arrive, (unsigned id, unsigned threads, unsigned line), (id, threads, line))
CJ_SERVICE(cluster_arrive, (unsigned line), (line))
CJ_SERVICE(cluster_wait, (unsigned line), (line))
CJ_SERVICE(grid_wait, (unsigned line), (line))
CJ_SERVICE(grid_launch_dependents, (unsigned line), (line))
CJ_UNCHECKED __attribute__((const)) unsigned cj_emu_cluster_rank() { return cj_emu_device->async->cluster_rank(); }
CJ_UNCHECKED __attribute__((const)) unsigned cj_emu_cluster_blocks() { return cj_emu_device->async->cluster_blocks(); }
CJ_UNCHECKED void *cj_emu_cluster_map(void *shared, unsigned rank, unsigned line)
{
    return cj_emu_device->async->cluster_map(shared, rank, line);
}
CJ_UNCHECKED unsigned cj_emu_elected_lane() { return cj_emu_device->async->elected_lane(); }

static inline void barrier_sync(unsigned id, unsigned threads, CJ_LINE) { cj_emu_barrier_sync(id, threads, line); }
static inline void barrier_arrive(unsigned id, unsigned threads, CJ_LINE) { cj_emu_barrier_arrive(id, threads, line); }
static inline void cluster_arrive(CJ_LINE) { cj_emu_cluster_arrive(line); }
static inline void cluster_wait(CJ_LINE) { cj_emu_cluster_wait(line); }
static inline void cluster_sync(CJ_LINE)
{
    cj_emu_cluster_arrive(line);
    cj_emu_cluster_wait(line);
}
static inline void grid_wait(CJ_LINE) { cj_emu_grid_wait(line); }
static inline void grid_launch_dependents(CJ_LINE) { cj_emu_grid_launch_dependents(line); }
static inline unsigned cluster_rank() { return cj_emu_cluster_rank(); }
static inline unsigned cluster_blocks() { return cj_emu_cluster_blocks(); }
template <typename T> static inline T *cluster_map(T *shared, unsigned rank, CJ_LINE)
{
    return static_cast<T *>(cj_emu_cluster_map(const_cast<void *>(static_cast<const void *>(shared)), rank, line));
}
/* The vote only brings the warp together. */
static inline bool elect_one(CJ_LINE)
{
    cj_emu_warp(CJ_EMU_ELECT, ~0u, 0, 0, 32, line);
    cj_emu_index t = threadIdx, n = blockDim;
    return ((t.z * n.y + t.y) * n.x + t.x) % 32 == cj_emu_elected_lane();
}

#undef CJ_SERVICE

#endif
