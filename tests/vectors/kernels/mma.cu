// mma.cu: four warps, one product each.
// p: type (0 tf32, 1 f16, 2 bf16).   in: of each thread 4 registers of a, 2 of b, 4 of d.
// out: 64 words; d of each thread
extern "C" __global__ void __launch_bounds__(128, 1) k(const unsigned *__restrict__ in, unsigned *__restrict__ out,
                                                       const int *__restrict__ p)
{
    const int t = threadIdx.x;
    const unsigned *from = in + 10 * t;
    unsigned a[4], b[2];
    float d[4];
    for (int i = 0; i < 4; i++) a[i] = from[i];
    for (int i = 0; i < 2; i++) b[i] = from[4 + i];
    for (int i = 0; i < 4; i++) d[i] = __uint_as_float(from[6 + i]);
    if (p[0] == 0) mma_m16n8k8_tf32(d, a, b);
    else if (p[0] == 1) mma_m16n8k16_f16(d, a, b);
    else mma_m16n8k16_bf16(d, a, b);
    for (int i = 0; i < 4; i++) out[64 + 4 * t + i] = __float_as_uint(d[i]);
    if (t == 0) out[0] = 1;
}
