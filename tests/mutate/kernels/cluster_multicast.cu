// cluster_multicast.cu: a matrix product by clusters of two blocks, which load halves of a tile for both.
//= convjit-kernel 1
//= name cluster_multicast
//= tuple c72k12r1s1_nhwc
//= arch sm_90a
//= schedule cluster_multicast
//= why written by hand
//= workspace 0
//= align 16
//= launch cluster_multicast
//= grid_x ceildiv(N * P * Q, 16)
//= grid_y 2
//= grid_z 1
//= block_x 64
//= block_y 1
//= block_z 1
//= cluster_x 1
//= cluster_y 2
//= cluster_z 1
//= smem 3104
//= arg tensor_map input
//= map_element f32
//= map_offset 0
//= map_dim 72
//= map_box 16
//= map_every 1
//= map_dim N * P * Q
//= map_stride 288
//= map_box 8
//= map_every 1
//= arg tensor_map weights
//= map_element f32
//= map_offset 0
//= map_dim 72
//= map_box 16
//= map_every 1
//= map_dim 12
//= map_stride 288
//= map_box 8
//= map_every 1
//= arg output
//= arg i32 N * P * Q
//= end
//= sizes n1h1w1 n1h4w4 n1h5w5 n2h5w7

constexpr int C = 72, K = 12;                      // channels, filters
constexpr int DEPTH = 16;                          // channels of a stage
constexpr int TILE_M = 16, TILE_N = 8;             // pixels of a cluster, filters of each of its two blocks
constexpr int STAGES = 2, STAGE = (TILE_M + TILE_N) * DEPTH;   // floats

extern "C" __global__ void __launch_bounds__(64) cluster_multicast(
    const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, float *__restrict__ y, int pixels)
{
    float *const stages = reinterpret_cast<float *>(shared_memory());
    unsigned long long *const full = reinterpret_cast<unsigned long long *>(stages + STAGES * STAGE), *const empty = full + STAGES;
    const int rank = cluster_rank(), pixel0 = blockIdx.x * TILE_M, filter0 = blockIdx.y * TILE_N;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(full + i, 1);
            mbarrier_init(empty + i, 4);           // two warps of each block
        }
        fence_mbarrier_init();
    }
    cluster_sync();
    const int row = threadIdx.x / 4, column = threadIdx.x % 4 * 2;       // a pixel and two filters
    float sum0 = 0.0f, sum1 = 0.0f;
    for (int c0 = 0, step = 0; c0 < C; c0 += DEPTH, step++) {
        const int stage = step % STAGES;
        float *const x_tile = stages + stage * STAGE, *const w_tile = x_tile + TILE_M * DEPTH;
        if (threadIdx.x == 0) {
            mbarrier_wait(empty + stage, (step / STAGES + 1) % 2);       // of both blocks; passes at once the first time
            mbarrier_arrive_expect(full + stage, STAGE * 4);
            tensor_load_multicast_2d(x_tile + rank * (TILE_M / 2 * DEPTH), x, full + stage, c0, pixel0 + rank * (TILE_M / 2), 3);
            tensor_load_2d(w_tile, w, full + stage, c0, filter0);
        }
        mbarrier_wait(full + stage, step / STAGES % 2);
        for (int c = 0; c < DEPTH; c++) {
            const float value = x_tile[row * DEPTH + c];
            sum0 = fmaf(value, w_tile[column * DEPTH + c], sum0);
            sum1 = fmaf(value, w_tile[(column + 1) * DEPTH + c], sum1);
        }
        __syncwarp();
        if (threadIdx.x % 32 < 2) mbarrier_arrive_cluster(empty + stage, threadIdx.x % 32);   // lane 0 tells block 0, lane 1 block 1
    }
    const int pixel = pixel0 + row, filter = filter0 + column;
    if (pixel < pixels && filter < K) {            // K is even
        y[pixel * K + filter] = sum0;
        y[pixel * K + filter + 1] = sum1;
    }
    cluster_sync();                                // nobody leaves while the other may still write here
}
