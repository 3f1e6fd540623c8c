/* async.c: cp.async, mbarriers, bulk copies, proxy fences and named barriers: right kernels pass in every order and mode, and
 * for each rule a kernel that breaks it is caught in every order and mode, and told what, where and who. */
#include "emu_test.h"

enum { THREADS = 64, FLOATS = 1024, BYTES = FLOATS * 4 };

#define HEAD "extern \"C\" __global__ void __launch_bounds__(64) k(const float *__restrict__ x, float *__restrict__ y, int n)\n"
#define BEGIN                                                            \
    HEAD                                                                 \
    "{\n"                                                                \
    "    float *s = (float *)shared_memory();\n"                         \
    "    unsigned long long *b = (unsigned long long *)(s + 1024);\n"    \
    "    int t = threadIdx.x;\n" /* the next line is line 6 */
#define END "}\n"

typedef struct fixture {
    emu *e;
    emu_kernel k;
    float *x, *y;
} fixture;

static fixture build(emu *e, const char *source)
{
    fixture f = {e, emu_build(e, source, "ion"), emu_alloc(e, BYTES), emu_alloc(e, BYTES)};
    for (int i = 0; i < FLOATS; i++)
        f.x[i] = (float)(i + 1);
    return f;
}

static void drop(fixture *f)
{
    f->e->device->free(f->e->device, f->x);
    f->e->device->free(f->e->device, f->y);
    emu_drop(&f->k);
}

static convjit_status run(fixture *f, int n, int mode)
{
    void *args[] = {&f->x, &f->y, &n};
    emu_set_mode(f->e, mode);
    memset(f->y, 0, BYTES);
    return emu_launch(&f->k, 2, THREADS, 8192, args);
}

/* Two blocks run a kernel of 64 threads; each makes y[0..count) = 2 x, written by block n of them alone (n 0 here). */
static void passes(emu *e, const char *source, int count)
{
    fixture f = build(e, source);
    for (int mode = 0; mode < EMU_MODES; mode++) {
        CHECK_OK(run(&f, 0, mode));
        int wrong = 0;
        for (int i = 0; i < count; i++)
            wrong += f.y[i] != 2 * f.x[i];
        CHECK(wrong == 0);
    }
    drop(&f);
}

/* A kernel that is wrong when n is 1: in every mode, with these words in the first. */
static void caught(emu *e, const char *source, const char *message)
{
    fixture f = build(e, source);
    CHECK_FAILS(run(&f, 1, 0), CONVJIT_EMULATOR, message);
    for (int mode = 1; mode < EMU_MODES; mode++)
        CHECK(run(&f, 1, mode) == CONVJIT_EMULATOR);
    drop(&f);
}

/* ---- cp.async ---- */

static void copies(emu *e)
{
    /* All sizes, zero fill, and a pipeline of two groups. */
    passes(e, BEGIN
           "    cp_async_4(s + t, x + t, 4);\n"
           "    cp_async_commit();\n"
           "    cp_async_wait<0>();\n"
           "    if (blockIdx.x == 0) y[t] = 2 * s[t];\n" END, 64);
    passes(e, BEGIN
           "    cp_async_16(s + 4 * t, x + 4 * t, t % 3 ? 16 : 4 * (t % 4));\n"
           "    cp_async_commit();\n"
           "    cp_async_8(s + 512 + 2 * t, x + 256 + 2 * t, 8);\n"
           "    cp_async_commit();\n"
           "    cp_async_wait<1>();\n"
           "    int got = t % 3 ? 4 : t % 4;\n"
           "    for (int i = 0; i < 4; i++)\n"
           "        if (blockIdx.x == 0) y[4 * t + i] = i < got ? 2 * s[4 * t + i] : 2 * x[4 * t + i] + s[4 * t + i];\n"
           "    cp_async_wait<0>();\n"
           "    __syncthreads();\n"
           "    int u = 63 - t;\n"
           "    if (blockIdx.x == 0) { y[256 + 2 * t] = 2 * s[512 + 2 * t]; y[257 + 2 * u] = 2 * s[513 + 2 * u]; }\n" END, 384);
    caught(e, BEGIN
           "    cp_async_4(s + t, x + t, 4);\n"
           "    cp_async_commit();\n"
           "    if (n != 1) cp_async_wait<0>();\n"
           "    y[t] = s[t];\n" END,
           "block (0,0,0), thread (0,0,0): reads 4 bytes on line 9 at offset 0 of shared memory, which cp_async_4 on line 6 is "
           "still writing");
    caught(e, BEGIN
           "    for (int i = 0; i < 2; i++) { cp_async_4(s + 64 * i + t, x + 64 * i + t, 4); cp_async_commit(); }\n"
           "    cp_async_wait<1>();\n"
           "    y[t] = s[64 * n + t];\n"
           "    cp_async_wait<0>();\n" END,
           "reads 4 bytes on line 8 at offset 256 of shared memory, which cp_async_4 on line 6 is still writing");
    caught(e, BEGIN
           "    cp_async_4(s + t, x + t, 4);\n"
           "    cp_async_wait<0>();\n"
           "    y[t] = s[t];\n" END, "offset 0 of shared memory, which cp_async_4 on line 6 is still writing"); /* no commit */
    caught(e, BEGIN
           "    cp_async_4(s + t, x + t, 4);\n"
           "    cp_async_commit();\n"
           "    cp_async_wait<0>();\n"
           "    if (blockIdx.x == 0) y[t] = s[t ^ n];\n" END, "of shared memory");
    caught(e, BEGIN
           "    cp_async_4(s + t, x + t, 4);\n"
           "    s[t] = 1;\n"
           "    cp_async_wait<0>();\n" END, "writes 4 bytes on line 7 at offset 0 of shared memory, which cp_async_4 on line 6 is");
    caught(e, BEGIN "    cp_async_4(s + t, x + t, 4);\n    cp_async_commit();\n" END,
           "thread (0,0,0): returns while cp_async_4 on line 6 is under way: cp_async_wait is missing");
    caught(e, BEGIN
           "    s[t] = x[t];\n"
           "    cp_async_4(s + (t ^ 1), x + t, 4);\n"
           "    cp_async_commit(); cp_async_wait<0>();\n" END,
           "race: writes 4 bytes on line 6 at offset 4 of shared memory, which thread (0,0,0) wrote on line 7 with no barrier");
    caught(e, BEGIN
           "    s[t] = x[t];\n"
           "    if (n == 0) __syncthreads(); else __shfl_sync(~0u, 0, 0);\n"
           "    cp_async_4(s + (t ^ 1), x + t, 4);\n"
           "    cp_async_commit(); cp_async_wait<0>();\n" END,
           "cp_async_4 on line 8: writes offset 120 of shared memory, which thread (30,0,0) wrote on line 6 with no barrier in between");
    caught(e, BEGIN
           "    s[t] = x[t];\n"
           "    __syncthreads();\n"
           "    float v = s[t ^ 33];\n"
           "    cp_async_4(s + t, x + t, 4);\n"
           "    cp_async_commit(); cp_async_wait<0>();\n"
           "    y[t] = v;\n" END, "of shared memory, which ");
    caught(e, BEGIN "    cp_async_8(s + 2 * t, x + t, 8);\n    cp_async_commit(); cp_async_wait<0>();\n" END,
           "thread (1,0,0): cp_async_8 on line 6: the source must be aligned to 8 bytes, and is at offset 4 of input");
    caught(e, BEGIN "    cp_async_16(s + 4 * t + n, x, 16);\n" END,
           "cp_async_16 on line 6: the destination must be aligned to 16 bytes, and is at offset 4 of shared memory");
    caught(e, BEGIN "    cp_async_4(s + t, x + t, 5);\n" END, "cp_async_4 on line 6: 5 bytes are not between 0 and 4");
    caught(e, BEGIN "    cp_async_4(s + t, x + 1024 * n + t, 4);\n" END,
           "cp_async_4: reads 4 bytes on line 6 out of bounds: at offset 4096 of input, which has 4096 bytes");
    caught(e, BEGIN "    cp_async_4(s + 2048 * n + t, x + t, 4);\n" END,
           "cp_async_4 on line 6: the destination of 4 bytes is out of bounds: at offset 8192 of shared memory");
    caught(e, BEGIN "    cp_async_4((void *)y, x + t, 4);\n" END, "cp_async_4 on line 6: the destination is no shared memory");
}

/* ---- mbarriers ---- */

#define INIT(arrivals)                                                                          \
    "    if (t == 0) { for (int i = 0; i < 4; i++) mbarrier_init(b + i, i < 2 ? 1 : " arrivals "); fence_mbarrier_init(); }\n" \
    "    __syncthreads();\n"

static void mbarriers(emu *e)
{
    /* Ordinary writes of one warp for the other, twice through the same buffer: full (0) and empty (1). */
    static const char pipeline[] = BEGIN INIT("32")
        "    for (int i = 0; i < 4; i++) {\n"
        "        if (t < 32) {\n"
        "            if (i > 0) mbarrier_wait(b + 3, (i - 1) % 2);\n"
        "            s[t] = x[32 * i + t];\n"
        "            mbarrier_arrive(b + 2);\n"
        "        } else {\n"
        "            mbarrier_wait(b + 2, i % 2);\n"
        "            if (blockIdx.x == 0) y[32 * i + (t ^ 5) - 32] = 2 * s[(t ^ 5) - 32];\n"
        "            mbarrier_arrive(b + 3);\n"
        "        }\n"
        "    }\n" END;
    passes(e, pipeline, 128);
    /* The usual way round for the first turn: the producer's parity is 1 ahead. And a loop around try_wait. */
    passes(e, BEGIN INIT("32")
           "    for (int i = 0; i < 4; i++) {\n"
           "        if (t < 32) {\n"
           "            while (!mbarrier_try_wait(b + 3, (i + 1) % 2)) {}\n"
           "            s[t] = x[32 * i + t];\n"
           "            mbarrier_arrive(b + 2);\n"
           "        } else {\n"
           "            if (!mbarrier_try_wait(b + 2, i % 2)) mbarrier_wait(b + 2, i % 2);\n"
           "            if (blockIdx.x == 0) y[32 * i + (t ^ 5) - 32] = 2 * s[(t ^ 5) - 32];\n"
           "            mbarrier_arrive(b + 3);\n"
           "        }\n"
           "    }\n" END, 128);
#define PIPELINE(parity, first, wait)                                              \
    BEGIN INIT("32")                                                               \
    "    for (int i = 0; i < 4; i++) {\n"                                          \
    "        if (t < 32) {\n"                                                      \
    "            if (" first ") mbarrier_wait(b + 3, (i + 1) % 2);\n"              \
    "            s[t] = x[32 * i + t];\n"                                          \
    "            mbarrier_arrive(b + 2);\n"                                        \
    "        } else {\n"                                                           \
    "            if (" wait ") mbarrier_wait(b + 2, " parity ");\n"                \
    "            if (blockIdx.x == 0) y[32 * i + (t ^ 5) - 32] = 2 * s[(t ^ 5) - 32];\n" \
    "            mbarrier_arrive(b + 3);\n"                                        \
    "        }\n"                                                                  \
    "    }\n" END
    caught(e, PIPELINE("i % 2", "n == 0", "true"), ""); /* producer does not wait for empty buffers */
    caught(e, PIPELINE("i % 2", "true", "n == 0"), "shared memory"); /* consumer does not wait */
    caught(e, PIPELINE("(i + 1) % 2", "true", "true"), "");   /* wrong parity */
    caught(e, PIPELINE("0", "true", "true"), "");             /* parity that never changes */
    caught(e, PIPELINE("i % 2 + 2 * n", "true", "true"), "mbarrier_wait on line 14: parity 2 is neither 0 nor 1");
    /* Not all of the warp's lanes arrive, and the others have no order with them: lane 0's arrival is only its own. */
    caught(e, BEGIN INIT("1")
           "    if (t < 32) {\n"
           "        s[t] = x[t];\n"
           "        if (n == 0) __syncwarp();\n"
           "        if (t == 0) mbarrier_arrive(b + 2);\n"
           "    } else {\n"
           "        mbarrier_wait(b + 2, 0);\n"
           "        y[t] = s[t - 32];\n"
           "    }\n" END, "shared memory");
    /* A middle reader has not arrived when the buffer is overwritten. */
    caught(e, BEGIN INIT("1")
           "    s[t] = 0;\n"
           "    __syncthreads();\n"
           "    if (t >= 32) {\n"
           "        if (t != 40) y[t] = s[0];\n"
           "        __syncwarp();\n"
           "        if (t == 32) mbarrier_arrive(b);\n"
           "        if (t == 40) y[t] = s[0];\n"
           "    } else if (t == 0) {\n"
           "        mbarrier_wait(b, 0);\n"
           "        s[0] = 1;\n"
           "    }\n" END, "race: ");
    caught(e, BEGIN INIT("2") "    if (t == 0) { mbarrier_arrive(b + 2); mbarrier_wait(b + 2, 0); }\n" END,
           "deadlock: thread (0,0,0) waits in mbarrier_wait on line 8 for parity 0, which nobody completes: the mbarrier is in phase 0, "
           "parity 0, of the mbarrier at offset 4112 (missing: 1 of 2 arrivals)");
    caught(e, BEGIN INIT("1") "    if (t == 0) while (!mbarrier_try_wait(b + 2, 0)) {}\n" END,
           "deadlock: thread (0,0,0) waits in mbarrier_try_wait on line 8 for parity 0, which nobody completes");
    caught(e, BEGIN INIT("1") "    if (t < 2) mbarrier_arrive_expect(b + 2, 16);\n" END,
           "thread (1,0,0): mbarrier_arrive_expect on line 8: one arrival more than the 1 of mbarrier_init on line 6, in phase 0");
    caught(e, BEGIN "    if (t == 0) mbarrier_arrive(b);\n" END,
           "mbarrier_arrive on line 6: there is no mbarrier at offset 4096 of shared memory: mbarrier_init is missing");
    caught(e, BEGIN "    if (t == 0) mbarrier_init(b, 64);\n    mbarrier_arrive(b);\n" END, "mbarrier_arrive on line 7: ");
    caught(e, BEGIN "    if (t == 0) mbarrier_init(b, 1);\n    if (n == 0) __syncthreads();\n    if (t == 1) mbarrier_arrive(b);\n" END,
           "thread (1,0,0): mbarrier_arrive on line 8: race: thread (0,0,0) made the mbarrier at offset 4096 on line 6, with no barrier");
    caught(e, BEGIN "    if (t == 0) { mbarrier_init(b, 1); mbarrier_init(b, 2); }\n" END,
           "mbarrier_init on line 6: there is an mbarrier at offset 4096 already on line 6: mbarrier_invalidate is missing");
    caught(e, BEGIN "    if (t == 0) mbarrier_init((unsigned long long *)(s + 1), 1);\n" END,
           "mbarrier_init on line 6: the mbarrier must be aligned to 8 bytes, and is at offset 4 of shared memory");
    caught(e, BEGIN "    if (t == 0) mbarrier_init(b, 0);\n" END, "mbarrier_init on line 6: 0 arrivals are not between 1 and 1048575");
    caught(e, BEGIN INIT("1") "    if (t == 0) s[1025] = 1;\n" END,
           "writes 4 bytes on line 8 at offset 4100 of shared memory, where an mbarrier is");
    caught(e, BEGIN INIT("1") "    if (t == 0) mbarrier_arrive_expect(b, 1 << 20);\n" END,
           "mbarrier_arrive_expect on line 8: 1048576 bytes are expected, and a phase may have 1048575");
}

/* Memory of a barrier is ordinary memory again when it is invalidated. */
static void reuse(emu *e)
{
    passes(e, BEGIN INIT("64")
           "    for (int i = 0; i < 2; i++) {\n"
           "        mbarrier_arrive(b + 2);\n"
           "        mbarrier_wait(b + 2, 0);\n"
           "        __syncthreads();\n"
           "        if (t == 0) { mbarrier_invalidate(b + 2); b[2] = 7; if (i == 0) mbarrier_init(b + 2, 64); }\n"
           "        __syncthreads();\n"
           "    }\n"
           "    if (blockIdx.x == 0 && b[2] == 7) y[t] = 2 * x[t];\n" END, 64);
    caught(e, BEGIN INIT("1") "    if (t == 0) { mbarrier_invalidate(b); mbarrier_arrive(b); }\n" END,
           "mbarrier_arrive on line 8: there is no mbarrier at offset 4096 of shared memory: it was invalidated");
    caught(e, BEGIN INIT("2") "    if (t == 0) { mbarrier_arrive(b + 2); mbarrier_invalidate(b + 2); }\n" END,
           "mbarrier_invalidate on line 8: something is under way for it");
}

static void copies_and_mbarriers(emu *e)
{
#define COPY(before, between)                                                  \
    BEGIN INIT("32")                                                           \
    "    if (t < 32) {\n"                                                      \
    "        cp_async_16(s + 4 * t, x + 4 * t, 16);\n"                         \
    "        " before "\n"                                                     \
    "        cp_async_mbarrier_arrive(b + 2);\n"                               \
    "    } else {\n"                                                           \
    "        " between "\n"                                                    \
    "        for (int i = 0; i < 4; i++)\n"                                    \
    "            if (blockIdx.x == 0) y[i + 4 * (t ^ 9) - 128] = 2 * s[i + 4 * (t ^ 9) - 128];\n" \
    "    }\n" END
    passes(e, COPY("", "mbarrier_wait(b + 2, 0);"), 128);
    passes(e, COPY("cp_async_commit(); cp_async_wait<0>();", "mbarrier_wait(b + 2, 0);"), 128);
    caught(e, COPY("", ""), "of shared memory");
    caught(e, COPY("if (t == 7) continue_here: ;", ""), "of shared memory");
    /* An ordinary write behind the copy is not part of what the copy's arrival tells. */
    caught(e, BEGIN INIT("32")
           "    if (t < 32) {\n"
           "        cp_async_4(s + t, x + t, 4);\n"
           "        s[64 + t] = 1;\n"
           "        cp_async_mbarrier_arrive(b + 2);\n"
           "    } else {\n"
           "        mbarrier_wait(b + 2, 0);\n"
           "        y[t] = s[32 + t];\n"
           "    }\n" END, "race: reads 4 bytes on line 14 at offset 256 of shared memory, which thread (0,0,0) wrote on line 10");
}

/* ---- Bulk copies ---- */

static void bulk_loads(emu *e)
{
    /* Stages are filled ahead; each is read by all, and given back by an arrival of each warp. */
#define STAGES(expect, empty, wait)                                                                        \
    BEGIN                                                                                                  \
    "    if (t == 0) { for (int i = 0; i < 2; i++) { mbarrier_init(b + i, 1); mbarrier_init(b + 2 + i, 2); } fence_mbarrier_init(); }\n" \
    "    __syncthreads();\n"                                                                               \
    "    for (int i = 0; i < 8; i++) {\n"                                                                  \
    "        if (t == 0)\n"                                                                                \
    "            for (int j = i ? i + 1 : 0; j < 8 && j <= i + 1; j++) {\n"                                \
    "                " empty "\n"                                                                          \
    "                mbarrier_arrive_expect(b + j % 2, " expect ");\n"                                     \
    "                bulk_load(s + 64 * (j % 2), x + 64 * j, 128, b + j % 2);\n"                           \
    "                bulk_load(s + 64 * (j % 2) + 32, x + 64 * j + 32, 128, b + j % 2);\n"                 \
    "            }\n"                                                                                      \
    "        " wait "\n"                                                                                   \
    "        if (blockIdx.x == 0) y[64 * i + (t ^ 40)] = 2 * s[64 * (i % 2) + (t ^ 40)];\n"                \
    "        __syncwarp();\n"                                                                              \
    "        if (t % 32 == 0) mbarrier_arrive(b + 2 + i % 2);\n"                                           \
    "    }\n" END
#define EMPTY "mbarrier_wait(b + 2 + j % 2, (j / 2 + 1) % 2);"
#define FULL "mbarrier_wait(b + i % 2, i / 2 % 2);"
    passes(e, STAGES("256", EMPTY, FULL), 512);
    caught(e, STAGES("256", "", FULL), "bulk_load on line 13: writes offset 0 of shared memory, which thread ");
    caught(e, STAGES("256", EMPTY, ""), "of shared memory, which bulk_load on line 14 is still writing");
    caught(e, STAGES("128", EMPTY, FULL), "");
    caught(e, STAGES("512", EMPTY, FULL), "and 256 bytes)");
    caught(e, STAGES("0", EMPTY, FULL), "");
    caught(e, STAGES("256", EMPTY, "mbarrier_wait(b + i % 2, 0);"), "");
    caught(e, STAGES("256", EMPTY, "mbarrier_wait(b + i % 2, (i / 2 + 1) % 2);"), "");
    caught(e, STAGES("256", EMPTY, "if (t < 32) mbarrier_wait(b + i % 2, i / 2 % 2);"), "shared memory");
#define ONE(call) BEGIN INIT("1") "    if (t == 0) { " call " }\n    __syncthreads();\n" END
    caught(e, ONE("bulk_load(s, x, 24, b);"), "bulk_load on line 8: 24 bytes are no multiple of 16 between 16 and 1048575");
    caught(e, ONE("bulk_load(s + 2, x, 16, b);"), "bulk_load on line 8: the destination must be aligned to 16 bytes, and is at offset 8");
    caught(e, ONE("bulk_load(s, x + 2, 16, b);"), "bulk_load on line 8: the source must be aligned to 16 bytes, and is at offset 8 of");
    caught(e, ONE("bulk_load(s, x + 1020, 32, b);"), "bulk_load: reads 32 bytes on line 8 out of bounds: at offset 4080 of input");
    caught(e, ONE("bulk_load(s, x, 16, b + 5);"), "bulk_load on line 8: there is no mbarrier at offset 4136");
    caught(e, ONE("bulk_load(s + 1020, x, 32, b);"), "bulk_load on line 8: writes offset 4096 of shared memory, where an mbarrier is");
    caught(e, BEGIN
           "    if (t == 0) mbarrier_init(b, 1);\n"
           "    __syncthreads();\n"
           "    if (t == 0) { mbarrier_arrive_expect(b, 16); bulk_load(s, x, 16, b); mbarrier_wait(b, 0); }\n" END,
           "bulk_load on line 8: thread (0,0,0) made the mbarrier at offset 4096 on line 6, and did not show it to asynchronous copies: "
           "fence_mbarrier_init is missing");
    /* What ordinary stores wrote is not to be overtaken. */
    caught(e, BEGIN INIT("1")
           "    s[t] = 0;\n"
           "    __syncthreads();\n"
           "    if (t == 0) { mbarrier_arrive_expect(b, 256); bulk_load(s, x, 256, b); }\n"
           "    mbarrier_wait(b, 0);\n" END,
           "bulk_load on line 10: writes offset 0 of shared memory, which thread (0,0,0) wrote on line 8 and did not show to the async "
           "proxy: fence_proxy_async is missing");
}

/* Nobody waits: seen only where copies take their time. */
static void forgotten(emu *e)
{
    fixture f = build(e, ONE("mbarrier_arrive_expect(b, 16); bulk_load(s, x, 16, b);"));
    CHECK_FAILS(run(&f, 1, 0), CONVJIT_EMULATOR,
                "all threads have returned while bulk_load on line 8 is under way: nobody waits for its mbarrier");
    drop(&f);
}

static void bulk_stores(emu *e)
{
#define STORE(fence, barrier, wait, after)                                     \
    BEGIN                                                                      \
    "    for (int i = 0; i < 4; i++) {\n"                                      \
    "        s[t] = 2 * x[64 * i + t];\n"                                      \
    "        " fence "\n"                                                      \
    "        " barrier "\n"                                                    \
    "        if (t == 0) {\n"                                                  \
    "            if (blockIdx.x == 0) bulk_store(y + 64 * i, s, 256);\n"       \
    "            bulk_commit();\n"                                             \
    "            " wait "\n"                                                   \
    "        }\n"                                                              \
    "        " after "\n"                                                      \
    "    }\n" END
#define FENCE "fence_proxy_async();"
#define SYNC "__syncthreads();"
    passes(e, STORE(FENCE, SYNC, "bulk_wait_read<0>();", SYNC), 256);
    passes(e, STORE(FENCE, "barrier_sync(1, 64);", "bulk_wait<0>();", "barrier_sync(1, 64);"), 256);
    caught(e, STORE("", SYNC, "bulk_wait_read<0>();", SYNC),
           "bulk_store on line 11: reads offset 0 of shared memory, which thread (0,0,0) wrote on line 7 and did not show to the async "
           "proxy: fence_proxy_async is missing");
    caught(e, STORE("if (t < 40 || n != 1) fence_proxy_async();", SYNC, "bulk_wait_read<0>();", SYNC),
           "reads offset 160 of shared memory, which thread (40,0,0) wrote");
    caught(e, STORE("", "__syncthreads(); fence_proxy_async();", "bulk_wait_read<0>();", SYNC), "fence_proxy_async is missing");
    caught(e, STORE("", "barrier_sync(1, 64); fence_proxy_async();", "bulk_wait_read<0>();", "barrier_sync(1, 64);"),
           "fence_proxy_async is missing");
    caught(e, STORE(FENCE, "", "bulk_wait_read<0>();", SYNC), "");
    caught(e, STORE(FENCE, SYNC, "bulk_wait_read<1>();", SYNC), "of shared memory, which bulk_store on line 11 still reads");
    caught(e, STORE(FENCE, SYNC, "bulk_wait_read<0>();", ""), "of shared memory, which ");
    caught(e, STORE(FENCE, SYNC, "", ""), "which bulk_store on line 11 still reads");
    caught(e, BEGIN "    if (t == 0) { s[0] = s[1] = s[2] = s[3] = 1; fence_proxy_async(); bulk_store(y, s, 16); bulk_commit(); }\n" END,
           "thread (0,0,0): returns while bulk_store on line 6 is under way: bulk_commit or bulk_wait is missing");
    caught(e, BEGIN "    if (t == 0) { bulk_store(y, s, 16); bulk_commit(); bulk_wait<0>(); }\n" END,
           "bulk_store on line 6: reads offset 0 of shared memory that no thread of the block wrote");
    /* Both blocks write the same. */
    caught(e, BEGIN
           "    s[t] = 1;\n"
           "    fence_proxy_async();\n"
           "    __syncthreads();\n"
           "    if (t == 0) { bulk_store(y, s, 256); bulk_commit(); bulk_wait<0>(); }\n" END, "bulk_store: race: writes 256 bytes on line 9");
}

/* ---- Named barriers ---- */

/* Two groups of warps that use one barrier, each for itself, might meet there, even where one is through before the other comes. */
static void shared_barrier(emu *e)
{
    fixture f = build(e, "extern \"C\" __global__ void k(const float *x, float *y, int n)\n"
                         "{\n"
                         "    int t = threadIdx.x;\n"
                         "    if (n < 2 || t < 64) barrier_sync(n == 0 ? 1 + t / 64 : 1, 64);\n"
                         "    __syncthreads();\n"
                         "    if (n == 2 && t >= 64) barrier_sync(1, 64);\n"
                         "}\n");
    for (int mode = 0; mode < EMU_MODES; mode++)
        for (int n = 0; n < 3; n++) {
            void *args[] = {&f.x, &f.y, &n};
            emu_set_mode(e, mode);
            convjit_status status = emu_launch(&f.k, 2, 2 * THREADS, 8192, args);
            if (n == 1)
                CHECK_FAILS(status, CONVJIT_EMULATOR, "barrier_sync on line 4: race: barrier 1 was used by others, such as thread (");
            else
                CHECK_OK(status);
        }
    drop(&f);
}

static void named_barriers(emu *e)
{
    passes(e, BEGIN
           "    for (int i = 0; i < 4; i++) {\n"
           "        if (t < 32) {\n"
           "            if (i > 0) barrier_sync(2, 64);\n"
           "            s[t] = x[32 * i + t];\n"
           "            barrier_arrive(1, 64);\n"
           "        } else {\n"
           "            barrier_sync(1, 64);\n"
           "            if (blockIdx.x == 0) y[32 * i + (t ^ 3) - 32] = 2 * s[(t ^ 3) - 32];\n"
           "            if (i < 3) barrier_arrive(2, 64);\n"
           "        }\n"
           "    }\n" END, 128);
    /* A barrier of one warpgroup says nothing about another one's. */
    caught(e, BEGIN
           "    s[t] = x[t];\n"
           "    if (n == 1) barrier_sync(1 + t / 32, 32); else barrier_sync(1, 64);\n"
           "    y[t] = s[t ^ 32];\n" END, "shared memory");
    caught(e, BEGIN "    if (t < 32) barrier_sync(3, 64);\n" END,
           "deadlock: missing participant: 32 of the 64 threads that barrier 3 awaits, such as thread (0,0,0), have arrived in "
           "barrier_sync on line 6");
    caught(e, BEGIN "    barrier_sync(16, 64);\n" END, "barrier_sync on line 6: barrier 16 is none of 0 to 15");
    caught(e, BEGIN "    barrier_sync(1, 40);\n" END, "barrier_sync on line 6: 40 threads are no multiple of 32 up to the block's 64");
    caught(e, BEGIN "    barrier_sync(1, 96);\n" END, "barrier_sync on line 6: 96 threads are no multiple of 32 up to the block's 64");
    caught(e, BEGIN "    barrier_sync(1, t < 32 ? 64 : 32);\n" END,
           "barrier_sync on line 6: barrier 1 awaits 32 threads here, and 64 where thread (0,0,0) came first on line 6");
    caught(e, BEGIN "    if (t < 32) __syncthreads(); else barrier_sync(0, 64);\n" END,
           "barrier_sync on line 6: barrier 0 is that of __syncthreads, where thread (0,0,0) waits");
}

static void election(emu *e)
{
    passes(e, BEGIN "    bool me = elect_one();\n"
           "    int lanes = __popc(__ballot_sync(~0u, me));\n"
           "    if (blockIdx.x == 0) y[t] = 2 * x[t] + lanes - 1;\n" END, 64);
    caught(e, BEGIN "    if (t != 3) y[t] = elect_one();\n" END, "thread (0,0,0) waits in elect_one on line 6 with mask 0xffffffff for thread "
           "(3,0,0), which has returned");
}

static void addresses(emu *e)
{
    passes(e, BEGIN "    unsigned a = shared_address(s + t);\n"
           "    if (blockIdx.x == 0) y[t] = 2 * x[t] + (a % 1024 == 4 * t ? 0 : 1);\n" END, 64);
    caught(e, BEGIN "    y[t] = shared_address(x);\n" END, "shared_address on line 6: the address is no shared memory: offset 0 of input");
}

/* ---- The trace, and settings ---- */

static int n_lines;
static void count_line(void *user, const char *line)
{
    n_lines += strstr(line, "waits in mbarrier_wait on line 14") != NULL;
}

static void trace(void)
{
    emu e = {0};
    const convjit_config config = {.size = sizeof config, .log = count_line};
    CHECK_OK(cj_emu_compiler_open(&e.compiler, NULL));
    CHECK_OK(cj_emu_device_open(&e.device, &config));
    cj_emu_device_threads(e.device, 1);
    fixture f = build(&e, PIPELINE("i % 2", "true", "true"));
    CHECK_OK(run(&f, 0, 0));
    CHECK(n_lines == 0);
    setenv("CONVJIT_EMU_TRACE", "1", 1);
    CHECK_OK(run(&f, 0, 0));
    CHECK(n_lines > 0);
    unsetenv("CONVJIT_EMU_TRACE");
    CHECK_FAILS(cj_emu_device_async(e.device, "later"), CONVJIT_INVALID, "CONVJIT_EMU_ASYNC: \"later\" is neither wait nor issue");
    drop(&f);
    emu_close(&e);
}

int main(void)
{
    emu e = emu_open();
    copies(&e);
    mbarriers(&e);
    reuse(&e);
    copies_and_mbarriers(&e);
    bulk_loads(&e);
    forgotten(&e);
    bulk_stores(&e);
    named_barriers(&e);
    shared_barrier(&e);
    election(&e);
    addresses(&e);
    trace();
    emu_close(&e);
    return check_done("emu/async");
}
