// copy_loop.cu: a matrix product in a loop over stages that cp.async fills while the one before is used up.
//= convjit-kernel 1
//= name copy_loop
//= tuple c40k20r1s1_nhwc
//= arch sm_80
//= schedule copy_loop
//= why written by hand
//= workspace 0
//= align 16
//= launch copy_loop
//= grid_x ceildiv(N * P * Q, 16)
//= grid_y 2
//= grid_z 1
//= block_x 64
//= block_y 1
//= block_z 1
//= smem 5120
//= arg input
//= arg weights
//= arg output
//= arg i32 N * P * Q
//= end
//= sizes n1h1w1 n1h4w4 n1h5w5 n2h5w7

constexpr int C = 40, K = 20;            // channels, filters
constexpr int DEPTH = 16, TILE = 16;     // channels of a stage; pixels and filters of a block
constexpr int PITCH = 20;                // floats: of a row in shared memory, a multiple of 16 bytes
constexpr int STAGE = 2 * TILE * PITCH;

// Starts the copies of both tiles: 16 bytes each, zeros outside of the operands.
__device__ __forceinline__ void load(float *stage, const float *x, const float *w, int pixel0, int filter0, int pixels, int c0)
{
    for (int i = threadIdx.x; i < 2 * TILE * DEPTH / 4; i += 64) {
        const int row = i / (DEPTH / 4), c = i % (DEPTH / 4) * 4, pixel = pixel0 + row, filter = filter0 + row - TILE;
        const bool inside = c0 + c < C && (row < TILE ? pixel < pixels : filter < K);
        const float *const source = row < TILE ? x + pixel * C + c0 + c : w + filter * C + c0 + c;
        cp_async_16(stage + row * PITCH + c, inside ? source : x, inside ? 16 : 0);
    }
    cp_async_commit();
}

extern "C" __global__ void __launch_bounds__(64) copy_loop(
    const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, int pixels)
{
    float *const stages = reinterpret_cast<float *>(shared_memory());
    const int pixel0 = blockIdx.x * TILE, filter0 = blockIdx.y * TILE;
    const int row = threadIdx.x / 4, column = threadIdx.x % 4;   // a pixel; every fourth filter
    float sum[4] = {};
    load(stages, x, w, pixel0, filter0, pixels, 0);
    for (int c0 = 0, step = 0; c0 < C; c0 += DEPTH, step++) {
        if (c0 + DEPTH < C) {
            load(stages + (step + 1) % 2 * STAGE, x, w, pixel0, filter0, pixels, c0 + DEPTH);
            cp_async_wait<1>();
        } else {
            cp_async_wait<0>();
        }
        __syncthreads();
        const float *const x_tile = stages + step % 2 * STAGE, *const w_tile = x_tile + TILE * PITCH;
        for (int c = 0; c < DEPTH; c++)
            for (int i = 0; i < 4; i++) sum[i] = fmaf(x_tile[row * PITCH + c], w_tile[(column + 4 * i) * PITCH + c], sum[i]);
        __syncthreads();
    }
    for (int i = 0; i < 4; i++) {
        const int pixel = pixel0 + row, filter = filter0 + column + 4 * i;
        if (pixel < pixels && filter < K) y[pixel * K + filter] = sum[i];
    }
}
