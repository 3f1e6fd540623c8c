// stmatrix.cu: four warps store matrices to rows anywhere in 8192 bytes.
// p: matrices (1, 2, 4); transposed or not.   in: each thread's row in units of 16 bytes; four registers of each
// out: 64 words; 8192 bytes
extern "C" __global__ void __launch_bounds__(128, 1) k(const unsigned *__restrict__ in, unsigned *__restrict__ out,
                                                       const int *__restrict__ p)
{
    constexpr int WORDS = 2048;
    const int t = threadIdx.x;
    unsigned *region = (unsigned *)shared_memory();
    for (int i = t; i < WORDS; i += 128) region[i] = 0x5a000000 + i;
    __syncthreads();
    void *row = region + 4 * in[t];
    const unsigned *from = in + 128 + 4 * t;
| for _, x in ipairs { 1, 2, 4 } do
|   for _, trans in ipairs { "", "_trans" } do
    if (p[0] == ${x} && p[1] == ${trans == "" and 0 or 1}) {
        unsigned r[${x}];
        for (int i = 0; i < ${x}; i++) r[i] = from[i];
        stmatrix_x${x}${trans}(row, r);
    }
|   end
| end
    __syncthreads();
    for (int i = t; i < WORDS; i += 128) out[64 + i] = region[i];
    if (t == 0) out[0] = 1;
}
