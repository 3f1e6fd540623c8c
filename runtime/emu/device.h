/* device.h: CUDA's vocabulary and the twins of templates/primitives.cuh, for kernel text that the host's C++ compiler turns
 * into a module of the emulated device. C++17, included before the kernel text; includes no standard header, for speed.
 *
 * Memory accesses are found by the compiler: with -fsanitize=thread it calls a __tsan_ function before each access to
 * memory that is not provably local; with -fsanitize=alignment a __ubsan_ function when a pointer is misaligned for its
 * type; with -fsanitize=bounds likewise for a subscript of a local array, whose accesses are not checked otherwise. None of
 * the run-time libraries is linked; the functions are defined here and ask the device.
 *
 * Functions that others call with memory of the host (arguments, the device's own tables) must not be checked themselves:
 * they are marked CJ_UNCHECKED and are never inlined into checked code.
 */
#ifndef CJ_EMU_DEVICE_H
#define CJ_EMU_DEVICE_H

#include "device_abi.h"

typedef __SIZE_TYPE__ size_t;

#if defined(__clang__) /* its no_sanitize would still report each function's entry and exit */
#define CJ_NOT_INSTRUMENTED __attribute__((disable_sanitizer_instrumentation))
#else
#define CJ_NOT_INSTRUMENTED __attribute__((no_sanitize("thread"), no_sanitize("alignment")))
#endif
#define CJ_UNCHECKED CJ_NOT_INSTRUMENTED __attribute__((noinline, visibility("hidden")))
#define CJ_LINE unsigned line = __builtin_LINE()

/* ---- Keywords ---- */

#define __global__ __attribute__((noinline, visibility("hidden")))
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __grid_constant__

/* ---- The device's services ---- */

static const cj_emu_runtime *cj_emu_device;

CJ_UNCHECKED __attribute__((const)) cj_emu_index cj_emu_thread() { return cj_emu_device->place()->thread; }
CJ_UNCHECKED __attribute__((const)) cj_emu_index cj_emu_block() { return cj_emu_device->place()->block; }
CJ_UNCHECKED __attribute__((const)) cj_emu_index cj_emu_block_dim() { return cj_emu_device->place()->block_dim; }
CJ_UNCHECKED __attribute__((const)) cj_emu_index cj_emu_grid_dim() { return cj_emu_device->place()->grid_dim; }
CJ_UNCHECKED __attribute__((const)) unsigned char *cj_emu_shared() { return cj_emu_device->shared(); }
CJ_UNCHECKED unsigned cj_emu_barrier(cj_emu_barrier_op op, unsigned value, unsigned line)
{
    return cj_emu_device->barrier(op, value, line);
}
CJ_UNCHECKED unsigned long long cj_emu_warp(cj_emu_warp_op op, unsigned mask, unsigned long long value, unsigned lane,
                                            unsigned width, unsigned line)
{
    cj_emu_warp_call call = {op, mask, value, lane, width, line};
    return cj_emu_device->warp(&call);
}
CJ_UNCHECKED void cj_emu_fence() { cj_emu_device->fence(); }
CJ_UNCHECKED void cj_emu_trap(const char *what, unsigned line) { cj_emu_device->trap(what, line); }

#define threadIdx (cj_emu_thread())
#define blockIdx (cj_emu_block())
#define blockDim (cj_emu_block_dim())
#define gridDim (cj_emu_grid_dim())
#define warpSize 32

/* ---- Memory accesses: what the compiler calls ---- */

#define CJ_HOOK extern "C" CJ_UNCHECKED __attribute__((used))

/* The fibre's own stack is free of checks: it holds the thread's registers and local arrays. */
static inline CJ_NOT_INSTRUMENTED __attribute__((always_inline)) bool cj_emu_own_stack(const void *address)
{
#if defined(__x86_64__)
    unsigned long sp;
    __asm__("mov %%rsp, %0" : "=r"(sp));
#elif defined(__aarch64__)
    unsigned long sp;
    __asm__("mov %0, sp" : "=r"(sp));
#else
    unsigned long sp = (unsigned long)__builtin_frame_address(0);
#endif
    return ((unsigned long)address ^ sp) < CJ_EMU_STACK_BYTES;
}

#define CJ_CHECK(address, bytes, kind)                                                            \
    do {                                                                                          \
        if (!cj_emu_own_stack(address))                                                           \
            cj_emu_device->access(address, bytes, kind, __builtin_return_address(0));             \
    } while (0)

#define CJ_HOOKS(bytes)                                                                              \
    CJ_HOOK void __tsan_read##bytes(void *p) { CJ_CHECK(p, bytes, CJ_EMU_READ); }                    \
    CJ_HOOK void __tsan_write##bytes(void *p) { CJ_CHECK(p, bytes, CJ_EMU_WRITE); }                  \
    CJ_HOOK void __tsan_unaligned_read##bytes(void *p) { CJ_CHECK(p, bytes, CJ_EMU_READ); }          \
    CJ_HOOK void __tsan_unaligned_write##bytes(void *p) { CJ_CHECK(p, bytes, CJ_EMU_WRITE); }        \
    CJ_HOOK void __tsan_read_write##bytes(void *p) { CJ_CHECK(p, bytes, CJ_EMU_READ | CJ_EMU_WRITE); } \
    CJ_HOOK void __tsan_unaligned_read_write##bytes(void *p) { CJ_CHECK(p, bytes, CJ_EMU_READ | CJ_EMU_WRITE); }
CJ_HOOKS(1)
CJ_HOOKS(2)
CJ_HOOKS(4)
CJ_HOOKS(8)
CJ_HOOKS(16)
CJ_HOOK void __tsan_read_range(void *p, size_t bytes) { CJ_CHECK(p, bytes, CJ_EMU_READ); }
CJ_HOOK void __tsan_write_range(void *p, size_t bytes) { CJ_CHECK(p, bytes, CJ_EMU_WRITE); }
CJ_HOOK void __tsan_func_entry(void *) {}
CJ_HOOK void __tsan_func_exit() {}
CJ_HOOK void __tsan_init() {}

/* Clang copies structs, and both compilers clear large arrays, by calls of the C library. */
static inline CJ_NOT_INSTRUMENTED __attribute__((always_inline)) void *cj_emu_copy(void *to, const void *from,
                                                                                  size_t n)
{
    char *d = static_cast<char *>(to);
    const char *s = static_cast<const char *>(from);
    for (size_t i = 0; i < n; i++) {
        size_t at = d <= s ? i : n - 1 - i; /* overlapping memory: in the direction that reads before it writes */
        d[at] = s[at];
        __asm__ volatile("" ::: "memory"); /* or the loop is recognised and becomes a call of itself */
    }
    return to;
}
CJ_HOOK void *memcpy(void *to, const void *from, size_t n)
{
    CJ_CHECK(from, n, CJ_EMU_READ);
    CJ_CHECK(to, n, CJ_EMU_WRITE);
    return cj_emu_copy(to, from, n);
}
CJ_HOOK void *memmove(void *to, const void *from, size_t n)
{
    CJ_CHECK(from, n, CJ_EMU_READ);
    CJ_CHECK(to, n, CJ_EMU_WRITE);
    return cj_emu_copy(to, from, n);
}
CJ_HOOK void *memset(void *to, int byte, size_t n)
{
    CJ_CHECK(to, n, CJ_EMU_WRITE);
    for (size_t i = 0; i < n; i++) {
        static_cast<char *>(to)[i] = static_cast<char>(byte);
        __asm__ volatile("" ::: "memory");
    }
    return to;
}
#define CJ_SAME_AS(name) __attribute__((visibility("hidden"), alias(name)))
extern "C" CJ_SAME_AS("memcpy") void *__tsan_memcpy(void *, const void *, size_t);
extern "C" CJ_SAME_AS("memmove") void *__tsan_memmove(void *, const void *, size_t);
extern "C" CJ_SAME_AS("memset") void *__tsan_memset(void *, int, size_t);
#undef CJ_SAME_AS

/* The compilers' own record of a check (version 1 of its form): place, type, log2 of the alignment, kind of access. */
struct cj_emu_type_mismatch {
    const char *file;
    unsigned line, column;
    const void *type;
    unsigned char log_alignment, kind;
};
CJ_HOOK void __ubsan_handle_type_mismatch_v1(const cj_emu_type_mismatch *check, void *p)
{
    cj_emu_device->misaligned(p, 1ul << check->log_alignment, __builtin_return_address(0));
}

/* And of a subscript that is outside of its array. */
struct cj_emu_out_of_bounds { const char *file; unsigned line, column; };
CJ_HOOK void __ubsan_handle_out_of_bounds(const cj_emu_out_of_bounds *check, unsigned long)
{
    cj_emu_device->trap("a subscript outside of its array", check->line);
}

/* ---- Vector types ---- */

/* Clang checks the alignment of whole structs only where a function of theirs is called, so there they get some. */
#if defined(__clang__)
#define CJ_COPIED2(type, name)                                                                                  \
    name() = default;                                                                                           \
    name(type vx, type vy) : x(vx), y(vy) {}                                                                    \
    name(const name &v) : x(v.x), y(v.y) {}                                                                     \
    name &operator=(const name &v) { x = v.x, y = v.y; return *this; }
#define CJ_COPIED4(type, name)                                                                                  \
    name() = default;                                                                                           \
    name(type vx, type vy, type vz, type vw) : x(vx), y(vy), z(vz), w(vw) {}                                    \
    name(const name &v) : x(v.x), y(v.y), z(v.z), w(v.w) {}                                                     \
    name &operator=(const name &v) { x = v.x, y = v.y, z = v.z, w = v.w; return *this; }
#else
#define CJ_COPIED2(type, name)
#define CJ_COPIED4(type, name)
#endif

#define CJ_VECTORS(type, name, align2, align4)                                                                  \
    struct name##1 { type x; };                                                                                 \
    struct alignas(align2) name##2 { type x, y; CJ_COPIED2(type, name##2) };                                    \
    struct name##3 { type x, y, z; };                                                                           \
    struct alignas(align4) name##4 { type x, y, z, w; CJ_COPIED4(type, name##4) };                              \
    static inline name##1 make_##name##1(type x) { return {x}; }                                                \
    static inline name##2 make_##name##2(type x, type y) { return {x, y}; }                                     \
    static inline name##3 make_##name##3(type x, type y, type z) { return {x, y, z}; }                          \
    static inline name##4 make_##name##4(type x, type y, type z, type w) { return {x, y, z, w}; }
CJ_VECTORS(signed char, char, 2, 4)
CJ_VECTORS(unsigned char, uchar, 2, 4)
CJ_VECTORS(short, short, 4, 8)
CJ_VECTORS(unsigned short, ushort, 4, 8)
CJ_VECTORS(int, int, 8, 16)
CJ_VECTORS(unsigned, uint, 8, 16)
CJ_VECTORS(long long, longlong, 16, 16)
CJ_VECTORS(unsigned long long, ulonglong, 16, 16)
CJ_VECTORS(float, float, 8, 16)
CJ_VECTORS(double, double, 16, 16)
#undef CJ_VECTORS

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned vx = 1, unsigned vy = 1, unsigned vz = 1) : x(vx), y(vy), z(vz) {}
};

/* ---- Arithmetic ---- */

extern "C" {
float sqrtf(float) noexcept; float cbrtf(float) noexcept;
float expf(float) noexcept; float exp2f(float) noexcept; float expm1f(float) noexcept;
float logf(float) noexcept; float log2f(float) noexcept; float log10f(float) noexcept; float log1pf(float) noexcept;
float sinf(float) noexcept; float cosf(float) noexcept; float tanf(float) noexcept; float tanhf(float) noexcept;
float erff(float) noexcept; float erfcf(float) noexcept; float powf(float, float) noexcept;
float fmodf(float, float) noexcept; float truncf(float) noexcept; float roundf(float) noexcept; float rintf(float) noexcept;
float floorf(float) noexcept; float ceilf(float) noexcept; float fabsf(float) noexcept; float copysignf(float, float) noexcept;
float fmaf(float, float, float) noexcept; float fminf(float, float) noexcept; float fmaxf(float, float) noexcept;
double sqrt(double) noexcept; double fma(double, double, double) noexcept; double fabs(double) noexcept;
double fmin(double, double) noexcept; double fmax(double, double) noexcept; double exp(double) noexcept;
}

template <typename A, typename B> static inline auto min(A a, B b) -> decltype(true ? a : b) { return b < a ? b : a; }
template <typename A, typename B> static inline auto max(A a, B b) -> decltype(true ? a : b) { return a < b ? b : a; }
static inline float min(float a, float b) { return fminf(a, b); } /* CUDA's: the number, when one is NaN */
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }
static inline int abs(int a) { return a < 0 ? -a : a; }
static inline bool isnan(float a) { return a != a; }
static inline bool isinf(float a) { return fabsf(a) == __builtin_inff(); }

static inline float rsqrtf(float a) { return 1.0f / sqrtf(a); }
/* The fast forms have wider error bounds on the GPU; here they are exact, and tests allow for the difference. */
static inline float __expf(float a) { return expf(a); }
static inline float __exp2f(float a) { return exp2f(a); }
static inline float __logf(float a) { return logf(a); }
static inline float __log2f(float a) { return log2f(a); }
static inline float __sinf(float a) { return sinf(a); }
static inline float __cosf(float a) { return cosf(a); }
static inline float __powf(float a, float b) { return powf(a, b); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __frcp_rn(float a) { return 1.0f / a; }
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __saturatef(float a) { return fminf(fmaxf(a, 0.0f), 1.0f); }

template <typename To, typename From> static inline To cj_emu_bits(From from)
{
    static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
    To to;
    __builtin_memcpy(&to, &from, sizeof to);
    return to;
}
static inline unsigned __float_as_uint(float a) { return cj_emu_bits<unsigned>(a); }
static inline int __float_as_int(float a) { return cj_emu_bits<int>(a); }
static inline float __uint_as_float(unsigned a) { return cj_emu_bits<float>(a); }
static inline float __int_as_float(int a) { return cj_emu_bits<float>(a); }
static inline float __int2float_rn(int a) { return static_cast<float>(a); }
static inline float __uint2float_rn(unsigned a) { return static_cast<float>(a); }
static inline int __float2int_rn(float a) { return static_cast<int>(rintf(a)); }
static inline int __float2int_rz(float a) { return static_cast<int>(a); }

static inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(1ull * a * b >> 32); }
static inline int __mulhi(int a, int b) { return static_cast<int>(1ll * a * b >> 32); }
static inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b)
{
    return static_cast<unsigned long long>(static_cast<unsigned __int128>(a) * b >> 64);
}
static inline int __popc(unsigned a) { return __builtin_popcount(a); }
static inline int __popcll(unsigned long long a) { return __builtin_popcountll(a); }
static inline int __clz(int a) { return a ? __builtin_clz(static_cast<unsigned>(a)) : 32; }
static inline int __clzll(long long a) { return a ? __builtin_clzll(static_cast<unsigned long long>(a)) : 64; }
static inline int __ffs(int a) { return __builtin_ffs(a); }
static inline unsigned __brev(unsigned a)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++)
        r |= (a >> i & 1) << (31 - i);
    return r;
}
static inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift)
{
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) >> (shift & 31));
}
static inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift)
{
    return static_cast<unsigned>((static_cast<unsigned long long>(high) << 32 | low) << (shift & 31) >> 32);
}

template <typename T> static inline T __ldg(const T *p) { return *p; }
template <typename T> static inline T __ldcs(const T *p) { return *p; }
template <typename T> static inline T __ldcg(const T *p) { return *p; }
template <typename T> static inline T __ldca(const T *p) { return *p; }
template <typename T> static inline void __stcs(T *p, T value) { *p = value; }
template <typename T> static inline void __stcg(T *p, T value) { *p = value; }

/* ---- Barriers, fences, warp collectives ---- */

static inline void __syncthreads(CJ_LINE) { cj_emu_barrier(CJ_EMU_SYNCTHREADS, 0, line); }
static inline int __syncthreads_count(int p, CJ_LINE) { return (int)cj_emu_barrier(CJ_EMU_SYNCTHREADS_COUNT, p != 0, line); }
static inline int __syncthreads_and(int p, CJ_LINE) { return (int)cj_emu_barrier(CJ_EMU_SYNCTHREADS_AND, p != 0, line); }
static inline int __syncthreads_or(int p, CJ_LINE) { return (int)cj_emu_barrier(CJ_EMU_SYNCTHREADS_OR, p != 0, line); }
static inline void __threadfence() { cj_emu_fence(); }
static inline void __threadfence_system() { cj_emu_fence(); }
static inline void __threadfence_block() {}
static inline void __trap(CJ_LINE) { cj_emu_trap("__trap()", line); }
#define assert(condition) ((condition) ? (void)0 : cj_emu_trap("assert(" #condition ")", __builtin_LINE()))

static inline void __syncwarp(unsigned mask = 0xffffffff, CJ_LINE) { cj_emu_warp(CJ_EMU_SYNCWARP, mask, 0, 0, 32, line); }
static inline unsigned __ballot_sync(unsigned mask, int p, CJ_LINE)
{
    return static_cast<unsigned>(cj_emu_warp(CJ_EMU_BALLOT, mask, p != 0, 0, 32, line));
}
static inline int __any_sync(unsigned mask, int p, CJ_LINE)
{
    return static_cast<int>(cj_emu_warp(CJ_EMU_ANY, mask, p != 0, 0, 32, line));
}
static inline int __all_sync(unsigned mask, int p, CJ_LINE)
{
    return static_cast<int>(cj_emu_warp(CJ_EMU_ALL, mask, p != 0, 0, 32, line));
}

template <typename T>
static inline T cj_emu_shuffle(cj_emu_warp_op op, unsigned mask, T value, unsigned lane, int width, unsigned line)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "a shuffle moves 4 or 8 bytes");
    unsigned long long bits = 0;
    __builtin_memcpy(&bits, &value, sizeof value);
    bits = cj_emu_warp(op, mask, bits, lane, static_cast<unsigned>(width), line);
    __builtin_memcpy(&value, &bits, sizeof value);
    return value;
}
template <typename T> static inline T __shfl_sync(unsigned mask, T value, int lane, int width = 32, CJ_LINE)
{
    return cj_emu_shuffle(CJ_EMU_SHFL, mask, value, static_cast<unsigned>(lane), width, line);
}
template <typename T> static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CJ_LINE)
{
    return cj_emu_shuffle(CJ_EMU_SHFL_UP, mask, value, delta, width, line);
}
template <typename T> static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CJ_LINE)
{
    return cj_emu_shuffle(CJ_EMU_SHFL_DOWN, mask, value, delta, width, line);
}
template <typename T> static inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32, CJ_LINE)
{
    return cj_emu_shuffle(CJ_EMU_SHFL_XOR, mask, value, static_cast<unsigned>(lanes), width, line);
}

static inline unsigned cj_emu_reduce(cj_emu_warp_op op, unsigned mask, unsigned value, unsigned line)
{
    return static_cast<unsigned>(cj_emu_warp(op, mask, value, 0, 32, line));
}
#define CJ_REDUCE(name, type, op) \
    static inline type name(unsigned mask, type v, CJ_LINE) { return (type)cj_emu_reduce(op, mask, (unsigned)v, line); }
CJ_REDUCE(__reduce_add_sync, unsigned, CJ_EMU_REDUCE_ADD)
CJ_REDUCE(__reduce_add_sync, int, CJ_EMU_REDUCE_ADD)
CJ_REDUCE(__reduce_min_sync, unsigned, CJ_EMU_REDUCE_UMIN)
CJ_REDUCE(__reduce_min_sync, int, CJ_EMU_REDUCE_MIN)
CJ_REDUCE(__reduce_max_sync, unsigned, CJ_EMU_REDUCE_UMAX)
CJ_REDUCE(__reduce_max_sync, int, CJ_EMU_REDUCE_MAX)
CJ_REDUCE(__reduce_and_sync, unsigned, CJ_EMU_REDUCE_AND)
CJ_REDUCE(__reduce_or_sync, unsigned, CJ_EMU_REDUCE_OR)
CJ_REDUCE(__reduce_xor_sync, unsigned, CJ_EMU_REDUCE_XOR)
#undef CJ_REDUCE

/* ---- Atomics: checked for place and alignment, exempt from the race rules ---- */

/* Replaces *p by next(*p), and returns what was there. Several OS threads run blocks, so this is atomic on the host too. */
template <typename T, typename Next> CJ_UNCHECKED T cj_emu_atomic(T *p, Next next)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "an atomic acts on 4 or 8 bytes");
    const void *pc = __builtin_return_address(0);
    if (reinterpret_cast<__UINTPTR_TYPE__>(p) % sizeof(T) != 0)
        cj_emu_device->misaligned(p, sizeof(T), pc);
    cj_emu_device->access(p, sizeof(T), CJ_EMU_READ | CJ_EMU_WRITE | CJ_EMU_ATOMIC, pc);
    T before, after;
    __atomic_load(p, &before, __ATOMIC_SEQ_CST);
    do
        after = next(before);
    while (!__atomic_compare_exchange(p, &before, &after, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    return before;
}
#define CJ_ATOMIC(name, expression)                                                                    \
    template <typename T> struct cj_emu_##name {                                                       \
        T value;                                                                                       \
        CJ_NOT_INSTRUMENTED __attribute__((always_inline)) T operator()(T old) const { return expression; } \
    };                                                                                                 \
    template <typename T, typename V> static inline T name(T *p, V value)                              \
    {                                                                                                  \
        return cj_emu_atomic(p, cj_emu_##name<T>{static_cast<T>(value)});                              \
    }
CJ_ATOMIC(atomicAdd, old + value)
CJ_ATOMIC(atomicSub, old - value)
CJ_ATOMIC(atomicExch, value)
CJ_ATOMIC(atomicMin, value < old ? value : old)
CJ_ATOMIC(atomicMax, old < value ? value : old)
CJ_ATOMIC(atomicAnd, old & value)
CJ_ATOMIC(atomicOr, old | value)
CJ_ATOMIC(atomicXor, old ^ value)
CJ_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
#undef CJ_ATOMIC

/* ---- Twins of templates/primitives.cuh, by name ---- */

static inline unsigned char *shared_memory() { return cj_emu_shared(); }

/* NaN becomes the canonical one, as PTX says of conversions between formats; everything else is exact. */
static inline float f16_to_f32(unsigned short half)
{
    unsigned sign = (half & 0x8000u) << 16, exponent = half >> 10 & 31, mantissa = half & 0x3ffu;
    if (exponent == 31)
        return __uint_as_float(mantissa ? 0x7fffffffu : sign | 0x7f800000u);
    if (exponent == 0) /* zero or subnormal: mantissa * 2^-24 */
        return __uint_as_float(sign | __float_as_uint(static_cast<float>(mantissa) * 0x1p-24f));
    return __uint_as_float(sign | (exponent + 112) << 23 | mantissa << 13);
}

/* To nearest, ties to even. */
static inline unsigned short f32_to_f16(float value)
{
    unsigned bits = __float_as_uint(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u)
        return 0x7fff;
    if (magnitude >= 0x477ff000u) /* 65520, halfway between the largest half and 2^16, and all above */
        return static_cast<unsigned short>(sign | 0x7c00u);
    if (magnitude < 0x38800000u) { /* below 2^-14: adding 0.5 leaves multiples of 2^-24 in the mantissa, rounded */
        float shifted = __uint_as_float(magnitude) + 0.5f;
        return static_cast<unsigned short>(sign | (__float_as_uint(shifted) - 0x3f000000u));
    }
    unsigned odd = magnitude >> 13 & 1;
    return static_cast<unsigned short>(sign | (magnitude - (112u << 23) + 0xfffu + odd) >> 13);
}

static inline float bf16_to_f32(unsigned short half) { return __uint_as_float(static_cast<unsigned>(half) << 16); }

/* To nearest, ties to even. */
static inline unsigned short f32_to_bf16(float value)
{
    unsigned bits = __float_as_uint(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return 0x7fff;
    return static_cast<unsigned short>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
}

#include "device_async.h"
#include "device_matrix.h"

/* ---- Entry points: compiler.c puts a table of them behind the kernel text ---- */

/* One letter an argument, as compiler.c writes them from the launch table: p device pointer, i int, l long long, t TensorMap. */
template <typename T> struct cj_emu_letter { static constexpr char value = '?'; };
template <typename T> struct cj_emu_letter<T *> { static constexpr char value = 'p'; };
template <> struct cj_emu_letter<int> { static constexpr char value = 'i'; };
template <> struct cj_emu_letter<unsigned> { static constexpr char value = 'i'; };
template <> struct cj_emu_letter<long long> { static constexpr char value = 'l'; };
template <> struct cj_emu_letter<long> { static constexpr char value = 'l'; };
template <> struct cj_emu_letter<unsigned long long> { static constexpr char value = 'l'; };
template <> struct cj_emu_letter<TensorMap> { static constexpr char value = 't'; };

template <typename... Args> struct cj_emu_call {
    CJ_UNCHECKED cj_emu_call(void (*kernel)(Args...), Args... args) { kernel(args...); }
};

template <auto kernel> struct cj_emu_kernel;
template <typename... Args, void (*kernel)(Args...)> struct cj_emu_kernel<kernel> {
    static constexpr int count = sizeof...(Args);
    static constexpr bool takes(const char *letters)
    {
        const char mine[] = {cj_emu_letter<Args>::value..., 0};
        for (int i = 0; i <= count; i++)
            if (mine[i] != letters[i])
                return false;
        return true;
    }
    CJ_UNCHECKED static void call(void **args)
    {
        int i = 0;
        cj_emu_call<Args...>{kernel, *static_cast<Args *>(args[i++])...}; /* braces: evaluated from left to right */
    }
};

/* What follows the arguments: those of __launch_bounds__. */
#define CJ_EMU_ENTRY(kernel, args, ...) \
    {#kernel, args, cj_emu_kernel<kernel>::count, cj_emu_kernel<kernel>::call, {__VA_ARGS__}}

#if defined(__x86_64__) && defined(__FMA__)
#define CJ_EMU_CPU CJ_EMU_NEEDS_FMA
#else
#define CJ_EMU_CPU 0
#endif
#define CJ_EMU_MODULE(entries, count)                                                                 \
    extern "C" __attribute__((visibility("default"), used)) const cj_emu_module cj_emu_module_info = {  \
        CJ_EMU_ABI, CJ_EMU_CPU, entries, count, &cj_emu_device};

#endif
