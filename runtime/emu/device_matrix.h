/* device_matrix.h: the twins of the matrix primitives: ldmatrix, stmatrix, mma.sync, wgmma, setmaxnreg. Part of device.h.
 *
 * A twin hands its operands to the device by their addresses, and the thread that comes last of the warp or warpgroup makes
 * the device act on all of them (matrix.c, wgmma.c). So arrays such as `d` live in the fibre's stack, never in a register
 * of the host: an address that was given away keeps the compiler from assuming anything about what it points to across the
 * next call. That is what lets wgmma fill them with poison now and with results at a later wgmma_wait.
 */
#ifndef CJ_EMU_DEVICE_MATRIX_H
#define CJ_EMU_DEVICE_MATRIX_H

/* ---- Within a warp ---- */

CJ_UNCHECKED void cj_emu_move_matrix(cj_emu_warp_op op, const void *row, unsigned *r, unsigned line)
{
    cj_emu_fragment fragment = {row, r, nullptr, nullptr, nullptr};
    cj_emu_warp_call call = {op, ~0u, reinterpret_cast<unsigned long long>(&fragment), 0, 32, line};
    cj_emu_device->warp(&call);
}
CJ_UNCHECKED void cj_emu_mma(cj_emu_warp_op op, float *d, const unsigned *a, const unsigned *b, unsigned line)
{
    cj_emu_fragment fragment = {nullptr, nullptr, d, a, b};
    cj_emu_warp_call call = {op, ~0u, reinterpret_cast<unsigned long long>(&fragment), 0, 32, line};
    cj_emu_device->warp(&call);
}

#define CJ_MOVE_MATRIX(suffix, SUFFIX, count)                                                                          \
    static inline void ldmatrix_##suffix(unsigned (&r)[count], const void *row, CJ_LINE)                               \
    {                                                                                                                  \
        cj_emu_move_matrix(CJ_EMU_LDMATRIX_##SUFFIX, row, r, line);                                                    \
    }                                                                                                                  \
    static inline void stmatrix_##suffix(void *row, const unsigned (&r)[count], CJ_LINE)                               \
    {                                                                                                                  \
        cj_emu_move_matrix(CJ_EMU_STMATRIX_##SUFFIX, row, const_cast<unsigned *>(r), line);                            \
    }
CJ_MOVE_MATRIX(x1, X1, 1)
CJ_MOVE_MATRIX(x2, X2, 2)
CJ_MOVE_MATRIX(x4, X4, 4)
CJ_MOVE_MATRIX(x1_trans, X1_TRANS, 1)
CJ_MOVE_MATRIX(x2_trans, X2_TRANS, 2)
CJ_MOVE_MATRIX(x4_trans, X4_TRANS, 4)
#undef CJ_MOVE_MATRIX

#define CJ_MMA(shape, SHAPE)                                                                                           \
    static inline void mma_##shape(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], CJ_LINE)             \
    {                                                                                                                  \
        cj_emu_mma(CJ_EMU_MMA_##SHAPE, d, a, b, line);                                                                 \
    }
CJ_MMA(m16n8k8_tf32, M16N8K8_TF32)
CJ_MMA(m16n8k16_f16, M16N8K16_F16)
CJ_MMA(m16n8k16_bf16, M16N8K16_BF16)
#undef CJ_MMA

/* To nearest, ties away from zero: half a unit of the 10-bit mantissa is added to the magnitude, and the rest cut off. */
static inline unsigned f32_to_tf32(float value)
{
    /* What an H200 was recorded to do (tests/vectors, family convert): a NaN only loses its 13 low bits. */
    unsigned bits = __float_as_uint(value);
    return (isnan(value) ? bits : bits + 0x1000u) & ~0x1fffu;
}

/* ---- wgmma ---- */

CJ_UNCHECKED void cj_emu_warpgroup(cj_emu_warpgroup_op op, unsigned number, unsigned line)
{
    cj_emu_warpgroup_call call = {op, line, number};
    cj_emu_device->matrix->warpgroup(&call);
}

static inline void wgmma_fence(CJ_LINE) { cj_emu_warpgroup(CJ_EMU_WGMMA_FENCE, 0, line); }
static inline void wgmma_commit(CJ_LINE) { cj_emu_warpgroup(CJ_EMU_WGMMA_COMMIT, 0, line); }
template <int N> static inline void wgmma_wait(CJ_LINE)
{
    static_assert(N >= 0 && N <= 7, "wgmma_wait leaves 0 to 7 groups under way");
    cj_emu_warpgroup(CJ_EMU_WGMMA_WAIT, N, line);
}
/* For the GPU's compiler, which does not know what this one does: that the array may have changed. */
template <int M> static inline void wgmma_hold(float (&)[M]) {}

template <unsigned N> static inline void registers_increase(CJ_LINE)
{
    cj_emu_warpgroup(CJ_EMU_REGISTERS_INCREASE, N, line);
}
template <unsigned N> static inline void registers_decrease(CJ_LINE)
{
    cj_emu_warpgroup(CJ_EMU_REGISTERS_DECREASE, N, line);
}

CJ_UNCHECKED unsigned long long wgmma_descriptor(const void *start, unsigned leading, unsigned stride, unsigned swizzle,
                                                 CJ_LINE)
{
    return cj_emu_device->matrix->descriptor(start, leading, stride, swizzle, line);
}

CJ_UNCHECKED void cj_emu_wgmma(const cj_emu_wgmma_shape &shape, const cj_emu_wgmma_operands &operands, float *d,
                               const unsigned *a_registers, unsigned line)
{
    cj_emu_warpgroup_call call = {CJ_EMU_WGMMA, line, 0, shape, operands, d, a_registers};
    cj_emu_device->matrix->warpgroup(&call);
}

/* The forms for one type and one N; `two` and `one`: what introduces a template of both major-nesses, and of b's alone. */
#define CJ_WGMMA_FORMS(name, element, N, two, one, a_mn, b_mn)                                                         \
    two static inline void name##_ss(float (&d)[N / 2], unsigned long long a, unsigned long long b, int accumulate,    \
                                     CJ_LINE)                                                                          \
    {                                                                                                                  \
        cj_emu_wgmma({#name "_ss", element, N, 1, a_mn, b_mn}, {a, b, 0, 0, accumulate != 0}, d, nullptr, line);       \
    }                                                                                                                  \
    one static inline void name##_rs(float (&d)[N / 2], const unsigned (&a)[4], unsigned long long b, int accumulate,  \
                                     CJ_LINE)                                                                          \
    {                                                                                                                  \
        cj_emu_wgmma({#name "_rs", element, N, 1, 0, b_mn}, {0, b, 0, 0, accumulate != 0}, d, a, line);                \
    }                                                                                                                  \
    two static inline void name##_ss_x4(float (&d)[N / 2], unsigned long long a, unsigned long long b, int a_step,     \
                                        int b_step, int accumulate, CJ_LINE)                                           \
    {                                                                                                                  \
        cj_emu_wgmma({#name "_ss_x4", element, N, 4, a_mn, b_mn}, {a, b, a_step, b_step, accumulate != 0}, d, nullptr, \
                     line);                                                                                            \
    }
#define CJ_TWO_MAJORS template <int A_MN = 0, int B_MN = 0>
#define CJ_ONE_MAJOR template <int B_MN = 0>
#define CJ_WGMMA(N)                                                                                                    \
    CJ_WGMMA_FORMS(wgmma_f16_n##N, CJ_EMU_F16, N, CJ_TWO_MAJORS, CJ_ONE_MAJOR, A_MN, B_MN)                             \
    CJ_WGMMA_FORMS(wgmma_bf16_n##N, CJ_EMU_BF16, N, CJ_TWO_MAJORS, CJ_ONE_MAJOR, A_MN, B_MN)                           \
    CJ_WGMMA_FORMS(wgmma_tf32_n##N, CJ_EMU_TF32, N, , , 0, 0)
CJ_WGMMA(8)   CJ_WGMMA(16)  CJ_WGMMA(24)  CJ_WGMMA(32)  CJ_WGMMA(40)  CJ_WGMMA(48)  CJ_WGMMA(56)  CJ_WGMMA(64)
CJ_WGMMA(72)  CJ_WGMMA(80)  CJ_WGMMA(88)  CJ_WGMMA(96)  CJ_WGMMA(104) CJ_WGMMA(112) CJ_WGMMA(120) CJ_WGMMA(128)
CJ_WGMMA(136) CJ_WGMMA(144) CJ_WGMMA(152) CJ_WGMMA(160) CJ_WGMMA(168) CJ_WGMMA(176) CJ_WGMMA(184) CJ_WGMMA(192)
CJ_WGMMA(200) CJ_WGMMA(208) CJ_WGMMA(216) CJ_WGMMA(224) CJ_WGMMA(232) CJ_WGMMA(240) CJ_WGMMA(248) CJ_WGMMA(256)
#undef CJ_WGMMA
#undef CJ_WGMMA_FORMS
#undef CJ_TWO_MAJORS
#undef CJ_ONE_MAJOR

#endif
