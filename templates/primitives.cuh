// primitives.cuh: every piece of inline PTX that a kernel may use, one function each, and nothing else.
// runtime/emu/device.h has a twin of each for the emulated device. gen/cuda.lua copies those that a kernel names into its
// text: a function begins at a line "//: name" and ends before the next one.

//: shared_memory
// This block's dynamic shared memory, aligned to 1024 bytes.
__device__ __forceinline__ unsigned char *shared_memory()
{
    extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
    return dynamic_shared_memory;
}

//: f16_to_f32
// IEEE half to float: exact.
__device__ __forceinline__ float f16_to_f32(unsigned short half)
{
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(half));
    return value;
}

//: f32_to_f16
// Float to IEEE half, to nearest, ties to even; beyond the range to infinity.
__device__ __forceinline__ unsigned short f32_to_f16(float value)
{
    unsigned short half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}

//: bf16_to_f32
// bfloat16 to float: exact; a bfloat16 is the upper half of a float.
__device__ __forceinline__ float bf16_to_f32(unsigned short half)
{
    return __uint_as_float((unsigned)half << 16);
}

//: f32_to_bf16
// Float to bfloat16, to nearest, ties to even (PTX ISA: cvt.rn.bf16.f32, sm_80 and later).
__device__ __forceinline__ unsigned short f32_to_bf16(float value)
{
    unsigned short half;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(half) : "f"(value));
    return half;
}
