// ldmatrix.cu: four warps load matrices whose rows lie anywhere in 8192 bytes.
// p: matrices (1, 2, 4); transposed or not.   in: 8192 bytes; each thread's row in units of 16 bytes
// out: 64 words; registers
extern "C" __global__ void __launch_bounds__(128, 1) k(const unsigned *__restrict__ in, unsigned *__restrict__ out,
                                                       const int *__restrict__ p)
{
    constexpr int WORDS = 2048;
    const int t = threadIdx.x;
    unsigned *region = (unsigned *)shared_memory();
    for (int i = t; i < WORDS; i += 128) region[i] = in[i];
    __syncthreads();
    const void *row = region + 4 * in[WORDS + t];
    unsigned *to = out + 64 + 4 * t;
| for _, x in ipairs { 1, 2, 4 } do
|   for _, trans in ipairs { "", "_trans" } do
    if (p[0] == ${x} && p[1] == ${trans == "" and 0 or 1}) {
        unsigned r[${x}];
        ldmatrix_x${x}${trans}(r, row);
        for (int i = 0; i < ${x}; i++) to[i] = r[i];
    }
|   end
| end
    if (t == 0) out[0] = 1;
}
