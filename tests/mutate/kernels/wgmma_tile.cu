// wgmma_tile.cu: a matrix product by wgmma: one warpgroup fills the next stage while the tensor cores work on the last one.
//= convjit-kernel 1
//= name wgmma_tile
//= tuple c136k40r1s1_f16_nhwc
//= arch sm_90a
//= schedule wgmma_tile
//= why written by hand
//= workspace 0
//= align 4
//= launch wgmma_tile
//= grid_x ceildiv(N * P * Q, 64)
//= grid_y 2
//= grid_z 1
//= block_x 128
//= block_y 1
//= block_z 1
//= smem 24576
//= arg input
//= arg weights
//= arg output
//= arg i32 N * P * Q
//= end
//= sizes n1h1w1 n1h8w8 n1h9w7 n2h13w5

constexpr int C = 136, K = 40;             // channels, filters
constexpr int DEPTH = 64;                  // channels of a stage: a row of 128 bytes, swizzled
constexpr int TILE_M = 64, TILE_N = 32;    // pixels and filters of a block
constexpr int ROW = 2 * DEPTH, STAGE = (TILE_M + TILE_N) * ROW;   // bytes

extern "C" __global__ void __launch_bounds__(128) wgmma_tile(
    const unsigned *__restrict__ x, const unsigned *__restrict__ w, unsigned *__restrict__ y, int pixels)
{
    const int pixel0 = blockIdx.x * TILE_M, filter0 = blockIdx.y * TILE_N;
    float d[TILE_N / 2];
    for (int c0 = 0; c0 < C; c0 += DEPTH) {
        unsigned char *const x_tile = shared_memory() + c0 / DEPTH % 2 * STAGE, *const w_tile = x_tile + TILE_M * ROW;
        for (int i = threadIdx.x; i < STAGE / 4; i += 128) {   // two channels each
            const int row = i / (ROW / 4), column = i % (ROW / 4) * 2, pixel = pixel0 + row, filter = filter0 + row - TILE_M;
            unsigned value = 0;
            if (c0 + column < C && row < TILE_M && pixel < pixels) value = x[(pixel * C + c0 + column) / 2];
            if (c0 + column < C && row >= TILE_M && filter < K) value = w[(filter * C + c0 + column) / 2];
            *reinterpret_cast<unsigned *>(x_tile + row * ROW + ((column / 8) ^ (row % 8)) * 16 + column % 8 * 2) = value;
        }
        fence_proxy_async();
        __syncthreads();
        const unsigned long long a = wgmma_descriptor(x_tile, 16, 8 * ROW, 128), b = wgmma_descriptor(w_tile, 16, 8 * ROW, 128);
        wgmma_hold(d);
        wgmma_fence();
        wgmma_f16_n32_ss_x4(d, a, b, 2, 2, c0 > 0);
        wgmma_commit();
        wgmma_wait<1>();   // the stage before this one is free
    }
    wgmma_wait<0>();
    wgmma_hold(d);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int i = 0; i < TILE_N / 2; i += 2) {
        const int pixel = pixel0 + warp * 16 + lane / 4 + i / 2 % 2 * 8, filter = filter0 + i / 4 * 8 + lane % 4 * 2;
        if (pixel < pixels && filter < K)
            y[(pixel * K + filter) / 2] = f32_to_f16(d[i]) | (unsigned)f32_to_f16(d[i + 1]) << 16;
    }
}
