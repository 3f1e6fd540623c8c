// primitives.cuh: every piece of inline PTX that a kernel may use, one function each, and nothing else.
//
// runtime/emu/ has a twin of each for the emulated device. gen/cuda.lua copies those that a kernel names into its
// text: a function begins at a line "//: name" and ends before the next one. A name with choices in braces is a
// family, such as "//: ldmatrix_x{X=1,2,4}{T=,_trans}": its text is a template (gen/template.lua) in which each
// choice has the given name, and only those members are written out that the kernel names. "8,16..256" is an
// arithmetic progression.
//
// A pointer called shared, row or barrier is a generic pointer into shared memory. A function is for single threads,
// unless it is "by a warp" (its 32 threads call it together, converged) or "by a warpgroup" (the same of four warps
// in a row, the first of which is a multiple of four). In parentheses: what the PTX ISA calls the instruction, and
// the first architecture.

//: shared_memory
// This block's dynamic shared memory, aligned to 1024 bytes.
__device__ __forceinline__ unsigned char *shared_memory()
{
    extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
    return dynamic_shared_memory;
}

//: shared_address
// The address inside the shared window, as instructions and descriptors take it (cvta.to.shared).
__device__ __forceinline__ unsigned shared_address(const void *shared)
{
    return (unsigned)__cvta_generic_to_shared(shared);
}

// ---- Conversions ----

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

//: f32_to_tf32
// Float to TF32, to nearest, ties away from zero; the bits of a float whose low 13 are zero (cvt.rna.tf32.f32,
// sm_80).
__device__ __forceinline__ unsigned f32_to_tf32(float value)
{
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
    return bits;
}

// ---- cp.async: copies from global to shared memory that a thread waits for in groups (sm_80) ----

//: cp_async_{B=4,8,16}
// Starts a copy of `bytes` (0 to ${B}) bytes and fills the rest of the ${B} with zeros; both addresses are multiples
// of ${B}. The thread sees the result after cp_async_wait, others after a barrier behind that (cp.async).
| local cache = B == 16 and "cg" or "ca"
__device__ __forceinline__ void cp_async_${B}(void *shared, const void *global, int bytes)
{
    asm volatile("cp.async.${cache}.shared.global [%0], [%1], ${B}, %2;"
                 :: "r"(shared_address(shared)), "l"(global), "r"(bytes) : "memory");
}

//: cp_async_commit
// Makes a group of this thread's copies since the last commit (cp.async.commit_group).
__device__ __forceinline__ void cp_async_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}

//: cp_async_wait
// Waits until at most the N latest of this thread's groups are under way (cp.async.wait_group).
template <int N> __device__ __forceinline__ void cp_async_wait()
{
    asm volatile("cp.async.wait_group %0;" :: "n"(N) : "memory");
}

//: cp_async_mbarrier_arrive
// Arrives at the barrier when all copies that this thread has started are done; it is one of the arrivals that
// mbarrier_init counted (cp.async.mbarrier.arrive.noinc).
__device__ __forceinline__ void cp_async_mbarrier_arrive(unsigned long long *barrier)
{
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" :: "r"(shared_address(barrier)) : "memory");
}

// ---- Matrices in registers ----

//: ldmatrix_x{X=1,2,4}{T=,_trans}
// By a warp: loads ${X} matrices of 8x8 16-bit elements. Thread 8i + j gives the address of row j of matrix i, a
// multiple of 16 bytes; r[i] is elements 2(t%4) and 2(t%4) + 1 of row t/4 in thread t; _trans: of the transposed
// matrix (ldmatrix, sm_80).
__device__ __forceinline__ void ldmatrix_x${X}${T}(unsigned (&r)[${X}], const void *row)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x${X}${string.gsub(T, "_", ".")}.shared.b16 "
                 "{${list("%%%d", 0, X - 1)}}, [%${X}];"
                 : ${list('"=r"(r[%d])', 0, X - 1)} : "r"(shared_address(row)) : "memory");
}

//: stmatrix_x{X=1,2,4}{T=,_trans}
// By a warp: stores ${X} matrices; registers and addresses as of ldmatrix (stmatrix, sm_90).
__device__ __forceinline__ void stmatrix_x${X}${T}(void *row, const unsigned (&r)[${X}])
{
    asm volatile("stmatrix.sync.aligned.m8n8.x${X}${string.gsub(T, "_", ".")}.shared.b16 [%0], {${list("%%%d", 1, X)}};"
                 :: "r"(shared_address(row)), ${list('"r"(r[%d])', 0, X - 1)} : "memory");
}

//: mma_{F=m16n8k8_tf32,m16n8k16_f16,m16n8k16_bf16}
// By a warp: d += a * b with a row-major (16 rows), b column-major (8 columns), FP32 accumulation; fragments as the
// PTX ISA draws them under "Matrix Fragments" of this shape (mma.sync, sm_80).
| local shape, type = string.match(F, "(.*)_(.*)")
__device__ __forceinline__ void mma_${F}(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2])
{
    asm volatile("mma.sync.aligned.${shape}.row.col.f32.${type}.${type}.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// ---- mbarrier: a barrier in shared memory that counts arrivals and bytes; 8 bytes, aligned to 8 (sm_90) ----

//: mbarrier_init
// Makes a barrier whose every phase awaits `arrivals`. Others may use it after a block barrier, asynchronous copies
// and other blocks of the cluster after fence_mbarrier_init and a barrier (mbarrier.init).
__device__ __forceinline__ void mbarrier_init(unsigned long long *barrier, unsigned arrivals)
{
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" :: "r"(shared_address(barrier)), "r"(arrivals) : "memory");
}

//: mbarrier_invalidate
// Ends a barrier, so that its memory may be used for something else (mbarrier.inval).
__device__ __forceinline__ void mbarrier_invalidate(unsigned long long *barrier)
{
    asm volatile("mbarrier.inval.shared.b64 [%0];" :: "r"(shared_address(barrier)) : "memory");
}

//: mbarrier_arrive
// One arrival; releases this thread's earlier writes to those that wait (mbarrier.arrive).
__device__ __forceinline__ void mbarrier_arrive(unsigned long long *barrier)
{
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" :: "r"(shared_address(barrier)) : "memory");
}

//: mbarrier_arrive_expect
// One arrival, and the phase awaits that many bytes of asynchronous copies more (mbarrier.arrive.expect_tx).
__device__ __forceinline__ void mbarrier_arrive_expect(unsigned long long *barrier, unsigned bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;"
                 :: "r"(shared_address(barrier)), "r"(bytes) : "memory");
}

//: mbarrier_try_wait
// Whether the phase of that parity is complete; the first phase has parity 0. May block for a while
// (mbarrier.try_wait).
__device__ __forceinline__ bool mbarrier_try_wait(unsigned long long *barrier, unsigned parity)
{
    unsigned complete;
    asm volatile("{ .reg .pred p; mbarrier.try_wait.parity.shared.b64 p, [%1], %2; selp.u32 %0, 1, 0, p; }"
                 : "=r"(complete) : "r"(shared_address(barrier)), "r"(parity) : "memory");
    return complete;
}

//: mbarrier_wait
// Waits until the phase of that parity is complete, and then sees what was written before its arrivals and by its
// copies.
__device__ __forceinline__ void mbarrier_wait(unsigned long long *barrier, unsigned parity)
{
    while (!mbarrier_try_wait(barrier, parity)) {}
}

//: mbarrier_arrive_cluster
// One arrival at the barrier of the same offset in another block of the cluster: enough to give a buffer back. It
// does not hand over writes to memory; that takes cluster_arrive and cluster_wait (mbarrier.arrive on mapa's
// address).
__device__ __forceinline__ void mbarrier_arrive_cluster(unsigned long long *barrier, unsigned rank)
{
    asm volatile("{ .reg .u32 there; mapa.shared::cluster.u32 there, %0, %1; "
                 "mbarrier.arrive.shared::cluster.b64 _, [there]; }"
                 :: "r"(shared_address(barrier)), "r"(rank) : "memory");
}

//: fence_mbarrier_init
// Shows barriers that this thread made to asynchronous copies and to the cluster (fence.mbarrier_init, sm_90).
__device__ __forceinline__ void fence_mbarrier_init()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

//: fence_proxy_async
// Orders this thread's accesses to shared memory before later ones of the async proxy: bulk and tensor copies, wgmma.
// Those of other threads: each calls this, then a barrier (fence.proxy.async, sm_90).
__device__ __forceinline__ void fence_proxy_async()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- Bulk copies (sm_90) ----

//: bulk_load
// Starts a copy from global memory and completes `bytes` at the barrier; addresses and bytes are multiples of 16
// (cp.async.bulk).
__device__ __forceinline__ void bulk_load(void *shared, const void *global, unsigned bytes, unsigned long long *barrier)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 :: "r"(shared_address(shared)), "l"(global), "r"(bytes), "r"(shared_address(barrier)) : "memory");
}

//: bulk_store
// Starts a copy to global memory; addresses and bytes are multiples of 16. It is part of the group of the next
// bulk_commit.
__device__ __forceinline__ void bulk_store(void *global, const void *shared, unsigned bytes)
{
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;"
                 :: "l"(global), "r"(shared_address(shared)), "r"(bytes) : "memory");
}

//: bulk_commit
// Makes a group of this thread's bulk and tensor stores since the last commit (cp.async.bulk.commit_group).
__device__ __forceinline__ void bulk_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

//: bulk_wait{R=,_read}
| if R == "_read" then
// Waits until at most the N latest of this thread's groups still read shared memory (cp.async.bulk.wait_group.read).
| else
// Waits until at most the N latest of this thread's groups are under way (cp.async.bulk.wait_group).
| end
template <int N> __device__ __forceinline__ void bulk_wait${R}()
{
    asm volatile("cp.async.bulk.wait_group${string.gsub(R, "_", ".")} %0;" :: "n"(N) : "memory");
}

// ---- Tensor copies: boxes of a tensor that a map describes (sm_90) ----

//: TensorMap
// What the runtime encodes of a tensor. A kernel takes it as a parameter `const __grid_constant__ TensorMap map`.
struct __align__(64) TensorMap {
    unsigned long long word[16];
};

//: tensor_prefetch
// Fetches a map ahead of the first copy that uses it (prefetch.tensormap).
__device__ __forceinline__ void tensor_prefetch(const TensorMap &map)
{
    asm volatile("prefetch.tensormap [%0];" :: "l"(&map) : "memory");
}

//: tensor_load_{R=1..5}d
// Starts a copy of the box at those coordinates to shared memory, aligned to 128 bytes, and completes all bytes of
// the box at the barrier. c0 counts along the fastest dimension, in multiples of 16 bytes: an H200 ends a kernel that
// gives another c0 with an illegal instruction. What lies outside the tensor reads as zero. Rows of the box are behind
// one another, those of a swizzled box as far apart as the swizzle is long (cp.async.bulk.tensor.${R}d).
__device__ __forceinline__ void tensor_load_${R}d(void *shared, const TensorMap &map, unsigned long long *barrier,
                                               ${list("int c%d", 0, R - 1)})
{
    asm volatile("cp.async.bulk.tensor.${R}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {${list("%%%d", 3, R + 2)}}], [%2];"
                 :: "r"(shared_address(shared)), "l"(&map), "r"(shared_address(barrier)),
                    ${list('"r"(c%d)', 0, R - 1)} : "memory");
}

//: tensor_load_multicast_{R=1..5}d
// As tensor_load_${R}d, to the same offset of every block of the cluster whose bit is set in `blocks`, and completes
// the bytes at the barrier of the same offset there (cp.async.bulk.tensor.${R}d with .multicast::cluster; not
// sm_120).
__device__ __forceinline__ void tensor_load_multicast_${R}d(void *shared, const TensorMap &map,
                                                         unsigned long long *barrier,
                                                         ${list("int c%d", 0, R - 1)}, unsigned short blocks)
{
    asm volatile("cp.async.bulk.tensor.${R}d.shared::cluster.global.tile.mbarrier::complete_tx::bytes"
                 ".multicast::cluster "
                 "[%0], [%1, {${list("%%%d", 4, R + 3)}}], [%2], %3;"
                 :: "r"(shared_address(shared)), "l"(&map), "r"(shared_address(barrier)), "h"(blocks),
                    ${list('"r"(c%d)', 0, R - 1)} : "memory");
}

//: tensor_store_{R=1..5}d
// Starts a copy of a box, laid out as by a load, from shared memory; c0 is a multiple of 16 bytes, and no coordinate is
// negative. What lies outside the tensor is left out, but for the last 16 bytes of a row that the tensor has a part of:
// they are written whole. It is part of the group of the next bulk_commit (cp.async.bulk.tensor.${R}d).
__device__ __forceinline__ void tensor_store_${R}d(const TensorMap &map, const void *shared,
                                                ${list("int c%d", 0, R - 1)})
{
    asm volatile("cp.async.bulk.tensor.${R}d.global.shared::cta.tile.bulk_group "
                 "[%0, {${list("%%%d", 2, R + 1)}}], [%1];"
                 :: "l"(&map), "r"(shared_address(shared)), ${list('"r"(c%d)', 0, R - 1)} : "memory");
}

// ---- wgmma: matrix products of a warpgroup (sm_90a) ----

//: wgmma_descriptor
// Describes an operand in shared memory: start (a multiple of 16), two strides in bytes (multiples of 16), and the
// swizzle, 0, 32, 64 or 128 bytes, which acts on bits of absolute addresses ("Matrix Descriptor" of wgmma).
// - K-major: rows of `swizzle` bytes, 8 of them behind one another, `stride` from one 8 to the next. Without swizzle,
//   rows of 16 bytes, and `leading` from the first 8 or 4 elements along K to the next.
// - MN-major: 8 k-rows of `swizzle` bytes behind one another, `leading` from these to the next along M or N, `stride`
//   to the next along K. Without swizzle, 8 k-rows of 16 bytes, `stride` along M or N, and `leading` along K.
__device__ __forceinline__ unsigned long long wgmma_descriptor(const void *start, unsigned leading, unsigned stride,
                                                               unsigned swizzle)
{
    unsigned long long layout = swizzle == 128 ? 1 : swizzle == 64 ? 2 : swizzle == 32 ? 3 : 0;
    return layout << 62 | (unsigned long long)(stride >> 4 & 0x3fff) << 32 | (leading >> 4 & 0x3fff) << 16 |
           (shared_address(start) >> 4 & 0x3fff);
}

//: wgmma_fence
// By a warpgroup: before its first wgmma, and whenever registers of one were touched by other instructions
// (wgmma.fence).
__device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

//: wgmma_commit
// By a warpgroup: makes a group of its wgmmas since the last commit (wgmma.commit_group).
__device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

//: wgmma_wait
// By a warpgroup: waits until at most the N latest of its groups are under way. Then wgmma_hold what they wrote
// (wgmma.wait_group).
template <int N> __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
}

//: wgmma_hold
// Keeps the compiler, which does not know that wgmma writes its registers late, from moving uses of them across this
// place: called behind wgmma_wait and before wgmma_fence. No instruction.
template <int M> __device__ __forceinline__ void wgmma_hold(float (&d)[M])
{
    for (int i = 0; i < M; i++) asm volatile("" : "+f"(d[i]) :: "memory");
}

//: wgmma_{T=f16,bf16,tf32}_n{N=8,16..256}_{F=ss,rs,ss_x4}
| local K, R, steps = T == "tf32" and 8 or 16, N // 2, F == "ss_x4" and 4 or 1
| local majors = T == "tf32" and {} or F == "rs" and { "B_MN" } or { "A_MN", "B_MN" }
// By a warpgroup: starts d = a * b, or d += a * b if accumulate is not 0, where d is 64 x ${N}, a 64 x ${K} and b
// ${K} x ${N}.
| if F == "rs" then
// a is in registers, each warp's 16 rows as mma's; b is a descriptor; d as under "Register Fragments" of wgmma.
| elseif F == "ss" then
// a and b are descriptors; d as under "Register Fragments" of wgmma.
| else
// Four in a row; a and b are descriptors, whose start addresses move on by a_step and b_step times 16 bytes.
| end
| if #majors > 0 then
// ${table.concat(majors, ", ")}: 0 if that operand is K-major, 1 if it is M- or N-major (wgmma.mma_async, sm_90a).
template <int ${table.concat(majors, " = 0, int ")} = 0>
| else
// Operands are K-major (wgmma.mma_async, sm_90a).
| end
| local a_type = F == "rs" and "const unsigned (&a)[4]" or "unsigned long long a"
| local step_types = F == "ss_x4" and "int a_step, int b_step, " or ""
| local major = #majors > 0 and ", " .. list("%%%d", R + 1, R + #majors) or ""
__device__ __forceinline__ void wgmma_${T}_n${N}_${F}(float (&d)[${R}], ${a_type}, unsigned long long b,
                                                ${step_types}int accumulate)
{
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %${R}, 0;"
| local operand = R + 1 + #majors
| for step = 1, steps do
|   local a = F == "rs" and "{" .. list("%%%d", operand, operand + 3) .. "}" or "%" .. operand
|   local b = operand + (F == "rs" and 4 or 1)
|   operand = b + 1
                 "wgmma.mma_async.sync.aligned.m64n${N}k${K}.f32.${T}.${T} "
                 "{${list("%%%d", 0, R - 1, '"\n                 "')}}, "
                 "${a}, %${b}, ${step == 1 and "p" or "1"}, 1, 1${major};"
| end
                 "}"
                 : ${list('"+f"(d[%d])', 0, R - 1, "\n                   ")}
                 : "r"(accumulate)${#majors > 0 and ', "n"(' .. table.concat(majors, '), "n"(') .. ")" or ""},
| if F == "rs" then
                   ${list('"r"(a[%d])', 0, 3)}, "l"(b));
| else
|   for step = 1, steps do
|     local plus = step > 1 and string.format(" + %d * ", step - 1)
                   "l"(a${plus and plus .. "a_step" or ""}), "l"(b${plus and plus .. "b_step" or ""})${step == steps and ");" or ","}
|   end
| end
}

// ---- Registers, barriers, clusters ----

//: registers_{C=increase,decrease}
// By a warpgroup: changes the number of registers of each of its threads to N, a multiple of 8 from 24 to 256; an
// increase waits until others have given enough back. The kernel needs __launch_bounds__(threads, 1) (setmaxnreg,
// sm_90a).
template <unsigned N> __device__ __forceinline__ void registers_${C}()
{
    asm volatile("setmaxnreg.${string.sub(C, 1, 3)}.sync.aligned.u32 %0;" :: "n"(N));
}

//: barrier_sync
// By each of threads / 32 warps: waits at barrier `id` (0 to 15; __syncthreads is 0) until that many threads of the
// block have come to it, and sees what they wrote before (bar.sync).
__device__ __forceinline__ void barrier_sync(unsigned id, unsigned threads)
{
    asm volatile("bar.sync %0, %1;" :: "r"(id), "r"(threads) : "memory");
}

//: barrier_arrive
// By a warp: counts as having come to barrier `id`, and does not wait (bar.arrive).
__device__ __forceinline__ void barrier_arrive(unsigned id, unsigned threads)
{
    asm volatile("bar.arrive %0, %1;" :: "r"(id), "r"(threads) : "memory");
}

//: cluster_arrive
// By every warp: tells the cluster that it has come this far, and shows it what was written (barrier.cluster.arrive,
// sm_90).
__device__ __forceinline__ void cluster_arrive()
{
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}

//: cluster_wait
// By every warp, after cluster_arrive: waits until all threads of the cluster have arrived (barrier.cluster.wait).
__device__ __forceinline__ void cluster_wait()
{
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

//: cluster_sync
// By every warp: a barrier of all threads of the cluster.
__device__ __forceinline__ void cluster_sync()
{
    cluster_arrive();
    cluster_wait();
}

//: cluster_rank
// The number of this block in its cluster (%cluster_ctarank, sm_90).
__device__ __forceinline__ unsigned cluster_rank()
{
    unsigned rank;
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

//: cluster_blocks
// How many blocks the cluster has (%cluster_nctarank, sm_90).
__device__ __forceinline__ unsigned cluster_blocks()
{
    unsigned blocks;
    asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(blocks));
    return blocks;
}

//: cluster_map
// The same place in the shared memory of another block of the cluster, which must not have ended (mapa, sm_90).
template <typename T> __device__ __forceinline__ T *cluster_map(T *shared, unsigned rank)
{
    T *there;
    asm("mapa.u64 %0, %1, %2;" : "=l"(there) : "l"(shared), "r"(rank));
    return there;
}

//: grid_wait
// Waits until the launches before this one in the stream, which it may overlap, are complete, and sees what they wrote, but
// not through a pointer to const that is __restrict__: the compiler may read that earlier. In a launch that overlaps none it
// does nothing (griddepcontrol.wait, sm_90).
__device__ __forceinline__ void grid_wait()
{
    asm volatile("griddepcontrol.wait;" ::: "memory");
}

//: grid_launch_dependents
// Lets a launch behind this one that overlaps it begin, as soon as all blocks have come here or ended. That one sees what this
// one writes only behind its grid_wait. It costs a launch some 0.5 ns a block, one after the other: nothing for launches of
// tens of thousands of short blocks (griddepcontrol.launch_dependents, sm_90).
__device__ __forceinline__ void grid_launch_dependents()
{
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

//: elect_one
// By a warp: true in one thread, always the same one (elect.sync, sm_90).
__device__ __forceinline__ bool elect_one()
{
    unsigned elected;
    asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p; }" : "=r"(elected));
    return elected;
}
