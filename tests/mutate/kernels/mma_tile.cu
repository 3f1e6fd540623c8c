// mma_tile.cu: a matrix product by mma.sync: operands through ldmatrix, the result through stmatrix.
//= convjit-kernel 1
//= name mma_tile
//= tuple c40k24r1s1_f16_nhwc
//= arch sm_90a
//= schedule mma_tile
//= why written by hand
//= workspace 0
//= align 4
//= launch mma_tile
//= grid_x ceildiv(N * P * Q, 32)
//= grid_y 2
//= grid_z 1
//= block_x 64
//= block_y 1
//= block_z 1
//= smem 2304
//= arg input
//= arg weights
//= arg output
//= arg i32 N * P * Q
//= end
//= sizes n1h1w1 n1h4w8 n1h5w7 n2h9w5

constexpr int C = 40, K = 24;               // channels, filters
constexpr int DEPTH = 16;                   // channels of a stage
constexpr int TILE_M = 32, TILE_N = 16;     // pixels and filters of a block; each of its two warps has 16 pixels
constexpr int PITCH = 24;                   // halves: of a row in shared memory, a multiple of 16 bytes

extern "C" __global__ void __launch_bounds__(64) mma_tile(
    const unsigned *__restrict__ x, const unsigned *__restrict__ w, unsigned *__restrict__ y, int pixels)
{
    unsigned short *const x_tile = reinterpret_cast<unsigned short *>(shared_memory()), *const w_tile = x_tile + TILE_M * PITCH;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const int pixel0 = blockIdx.x * TILE_M, filter0 = blockIdx.y * TILE_N;
    float d0[4] = {}, d1[4] = {};
    for (int c0 = 0; c0 < C; c0 += DEPTH) {
        for (int i = threadIdx.x; i < (TILE_M + TILE_N) * DEPTH / 2; i += 64) {   // two halves each
            const int row = i / (DEPTH / 2), column = i % (DEPTH / 2) * 2, pixel = pixel0 + row, filter = filter0 + row - TILE_M;
            unsigned value = 0;
            if (c0 + column < C && row < TILE_M && pixel < pixels) value = x[(pixel * C + c0 + column) / 2];
            if (c0 + column < C && row >= TILE_M && filter < K) value = w[(filter * C + c0 + column) / 2];
            *reinterpret_cast<unsigned *>(x_tile + row * PITCH + column) = value;
        }
        __syncthreads();
        unsigned a[4], b[4];
        ldmatrix_x4(a, x_tile + (warp * 16 + lane % 16) * PITCH + lane / 16 * 8);
        ldmatrix_x4(b, w_tile + (lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8);
        const unsigned b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
        mma_m16n8k16_f16(d0, a, b0);
        mma_m16n8k16_f16(d1, a, b1);
        __syncthreads();
    }
    unsigned r[4];
    for (int i = 0; i < 2; i++) {
        r[i] = f32_to_f16(d0[2 * i]) | (unsigned)f32_to_f16(d0[2 * i + 1]) << 16;
        r[2 + i] = f32_to_f16(d1[2 * i]) | (unsigned)f32_to_f16(d1[2 * i + 1]) << 16;
    }
    stmatrix_x4(x_tile + (warp * 16 + lane % 16) * PITCH + lane / 16 * 8, r);
    __syncwarp();
    for (int i = lane; i < 16 * TILE_N / 2; i += 32) {
        const int row = warp * 16 + i / (TILE_N / 2), column = i % (TILE_N / 2) * 2;
        if (pixel0 + row < pixels && filter0 + column < K)
            y[((pixel0 + row) * K + filter0 + column) / 2] = *reinterpret_cast<const unsigned *>(x_tile + row * PITCH + column);
    }
}
