// tiled_product.cu: a matrix product through double-buffered shared memory, with one barrier a stage; a model for more.
//= convjit-kernel 1
//= name tiled_product
//= tuple c20k10r1s1_nhwc
//= arch sm_90a
//= schedule tiled_product
//= why written by hand
//= workspace 0
//= align 4
//= launch tiled_product
//= grid_x ceildiv(N * P * Q, 8)
//= grid_y 2
//= grid_z 1
//= block_x 64
//= block_y 1
//= block_z 1
//= smem 1152
//= arg input
//= arg weights
//= arg output
//= arg i32 N * P * Q
//= end
//= sizes n1h1w1 n1h2w4 n1h3w3 n2h3w5

constexpr int C = 20, K = 10;                    // channels, filters
constexpr int TILE = 8;                          // pixels and filters of a block, and channels of a stage
constexpr int PITCH = 9, STAGE = 2 * TILE * PITCH;   // floats: of a row, and of both operands' tiles

extern "C" __global__ void __launch_bounds__(64) tiled_product(
    const float *__restrict__ x, const float *__restrict__ w, float *__restrict__ y, int pixels)
{
    float *const stages = reinterpret_cast<float *>(shared_memory());
    const int row = threadIdx.x / TILE, lane = threadIdx.x % TILE;
    const int pixel = blockIdx.x * TILE + row, filter = blockIdx.y * TILE + row;   // that this thread loads
    int phase = 0;
    float sum = 0.0f;
    for (int c0 = 0; c0 < C; c0 += TILE) {
        float *const x_tile = stages + phase * STAGE, *const w_tile = x_tile + TILE * PITCH;
        const bool inside = c0 + lane < C;
        x_tile[row * PITCH + lane] = inside && pixel < pixels ? x[pixel * C + c0 + lane] : 0.0f;
        w_tile[row * PITCH + lane] = inside && filter < K ? w[filter * C + c0 + lane] : 0.0f;
        __syncthreads();   // nobody is in the stage before the last any more, since all have passed the barrier after it
        for (int c = 0; c < TILE; c++) sum = fmaf(x_tile[row * PITCH + c], w_tile[lane * PITCH + c], sum);
        phase ^= 1;
    }
    const int output = blockIdx.y * TILE + lane;
    if (pixel < pixels && output < K) y[pixel * K + output] = sum;
}
