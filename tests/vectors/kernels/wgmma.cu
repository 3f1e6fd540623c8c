// wgmma.cu: one product of a warpgroup, or four in a row, for N = FIRST to FIRST + 56 of the family wgmma_TYPE_n*_FORM.
// p: N; is A, B MN-major; swizzle, start, leading, stride of A, of B; accumulate; steps of A, of B
// in: 64 KiB of shared memory; 4 registers of A of each thread; N/2 registers of D of each thread.   out: 64 words; D
template <int N> __device__ __forceinline__ void load(float (&d)[N], const unsigned *from)
{
    for (int i = 0; i < N; i++) d[i] = __uint_as_float(from[128 * i]);
}

template <int N> __device__ __forceinline__ void store(unsigned *to, const float (&d)[N])
{
    for (int i = 0; i < N; i++) to[128 * i] = __float_as_uint(d[i]);
}

| local pairs = { { 0, 0 }, { 0, 1 }, { 1, 0 }, { 1, 1 } }
| local majors = TYPE == "tf32" and { {} } or FORM == "rs" and { { 0 }, { 1 } } or pairs
extern "C" __global__ void __launch_bounds__(128, 1) k(const unsigned *__restrict__ in, unsigned *__restrict__ out,
                                                       const int *__restrict__ p)
{
    constexpr int BYTES = 65536;
    const int t = threadIdx.x, kind = 4 * p[0] + 2 * p[1] + p[2], accumulate = p[11];
    unsigned char *s = shared_memory();
    for (int i = t; i < BYTES / 16; i += 128) ((uint4 *)s)[i] = ((const uint4 *)in)[i];
    fence_proxy_async();
    __syncthreads();
    const unsigned *before = in + BYTES / 4 + 512 + t;
    unsigned *after = out + 64 + t;
| if FORM == "rs" then
    unsigned a[4];
    for (int i = 0; i < 4; i++) a[i] = in[BYTES / 4 + 4 * t + i];
| else
    unsigned long long a = wgmma_descriptor(s + p[4], p[5], p[6], p[3]);
| end
    unsigned long long b = wgmma_descriptor(s + p[8], p[9], p[10], p[7]);
| for N = FIRST, FIRST + 56, 8 do
|   for _, major in ipairs(majors) do
|     local a_mn, b_mn = #major == 2 and major[1] or 0, major[#major] or 0
|     local arguments = #major > 0 and "<" .. table.concat(major, ", ") .. ">" or ""
    if (kind == 4 * ${N} + 2 * ${a_mn} + ${b_mn}) {
        float d[${N // 2}];
        load(d, before);
        wgmma_fence();
        wgmma_${TYPE}_n${N}_${FORM}${arguments}(d, a, b, ${FORM == "ss_x4" and "p[12], p[13], " or ""}accumulate);
        wgmma_commit();
        wgmma_wait<0>();
        wgmma_hold(d);
        store(after, d);
    }
|   end
| end
    if (t == 0) out[0] = 1;
}
