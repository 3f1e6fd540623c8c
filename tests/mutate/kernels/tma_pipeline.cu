// tma_pipeline.cu: a matrix product of tiles that one warp loads by tensor copies, with mbarriers, and two others use up.
//= convjit-kernel 1
//= name tma_pipeline
//= tuple c72k12r1s1_nhwc
//= arch sm_90a
//= schedule tma_pipeline
//= why written by hand
//= workspace 0
//= align 16
//= launch tma_pipeline
//= grid_x ceildiv(N * P * Q, 16)
//= grid_y 2
//= grid_z 1
//= block_x 96
//= block_y 1
//= block_z 1
//= smem 3616
//= arg tensor_map input
//= map_element f32
//= map_swizzle 64
//= map_offset 0
//= map_dim 72
//= map_box 16
//= map_every 1
//= map_dim N * P * Q
//= map_stride 288
//= map_box 16
//= map_every 1
//= arg tensor_map weights
//= map_element f32
//= map_swizzle 64
//= map_offset 0
//= map_dim 72
//= map_box 16
//= map_every 1
//= map_dim 12
//= map_stride 288
//= map_box 8
//= map_every 1
//= arg tensor_map output
//= map_element f32
//= map_offset 0
//= map_dim 12
//= map_box 8
//= map_every 1
//= map_dim N * P * Q
//= map_stride 48
//= map_box 16
//= map_every 1
//= end
//= sizes n1h1w1 n1h4w4 n1h5w5 n2h5w7

constexpr int C = 72;                              // channels
constexpr int DEPTH = 16;                          // channels of a stage: rows of 64 bytes, swizzled
constexpr int TILE_M = 16, TILE_N = 8;             // pixels and filters of a block
constexpr int STAGES = 2, STAGE = (TILE_M + TILE_N) * DEPTH;   // floats
constexpr int CONSUMERS = 64;                      // threads

extern "C" __global__ void __launch_bounds__(96) tma_pipeline(
    const __grid_constant__ TensorMap x, const __grid_constant__ TensorMap w, const __grid_constant__ TensorMap y)
{
    float *const stages = reinterpret_cast<float *>(shared_memory()), *const y_tile = stages + STAGES * STAGE;
    unsigned long long *const full = reinterpret_cast<unsigned long long *>(y_tile + TILE_M * TILE_N), *const empty = full + STAGES;
    const int pixel0 = blockIdx.x * TILE_M, filter0 = blockIdx.y * TILE_N;
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            mbarrier_init(full + i, 1);
            mbarrier_init(empty + i, CONSUMERS / 32);
        }
        fence_mbarrier_init();
    }
    __syncthreads();
    if (threadIdx.x >= CONSUMERS) {                // the producer
        if (elect_one())
            for (int c0 = 0, step = 0; c0 < C; c0 += DEPTH, step++) {
                const int stage = step % STAGES;
                float *const x_tile = stages + stage * STAGE, *const w_tile = x_tile + TILE_M * DEPTH;
                mbarrier_wait(empty + stage, (step / STAGES + 1) % 2);   // passes at once the first time
                mbarrier_arrive_expect(full + stage, STAGE * 4);
                tensor_load_2d(x_tile, x, full + stage, c0, pixel0);
                tensor_load_2d(w_tile, w, full + stage, c0, filter0);
            }
        return;
    }
    const int row = threadIdx.x / 4, column = threadIdx.x % 4 * 2;       // a pixel and two filters
    float sum0 = 0.0f, sum1 = 0.0f;
    for (int c0 = 0, step = 0; c0 < C; c0 += DEPTH, step++) {
        const int stage = step % STAGES;
        const float *const x_tile = stages + stage * STAGE, *const w_tile = x_tile + TILE_M * DEPTH;
        mbarrier_wait(full + stage, step / STAGES % 2);
        for (int c = 0; c < DEPTH; c++) {
            const float value = x_tile[row * DEPTH + ((c / 4) ^ (row / 2 % 4)) * 4 + c % 4];
            const int unit = ((c / 4) ^ (column / 2 % 4)) * 4 + c % 4;   // of both filters: column is even
            sum0 = fmaf(value, w_tile[column * DEPTH + unit], sum0);
            sum1 = fmaf(value, w_tile[(column + 1) * DEPTH + unit], sum1);
        }
        __syncwarp();
        if (threadIdx.x % 32 == 0) mbarrier_arrive(empty + stage);
    }
    y_tile[row * TILE_N + column] = sum0;
    y_tile[row * TILE_N + column + 1] = sum1;
    fence_proxy_async();
    barrier_sync(1, CONSUMERS);
    if (threadIdx.x == 0) {
        tensor_store_2d(y, y_tile, filter0, pixel0);
        bulk_commit();
        bulk_wait_read<0>();
    }
}
