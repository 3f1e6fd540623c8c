/* primitives.c: every function of templates/primitives.cuh compiles for each architecture that has it, and for sm_90a
 * to the instructions that it stands for. This needs cuobjdump ($CONVJIT_CUOBJDUMP, PATH, or PyTorch's triton);
 * without it, or without NVRTC, that part is skipped. */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
#include "check.h"
#include "internal.h"

static const char *const architectures[] = { "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120" };
enum { ARCHITECTURES = sizeof architectures / sizeof *architectures };
/* Sets of them: sm_80 and later; sm_90 and later; those with multicast, which NVRTC turns into a trap for sm_120;
 * sm_90a. */
enum { AMPERE = 0x7f, HOPPER = 0x78, CLUSTER = 0x38, HOPPER_A = 0x10 };

/* A kernel's body, a template that may use: unsigned *p in global memory; unsigned char *s and unsigned long long
 * *bar in shared memory; the TensorMap map; int i, not known to the compiler. A few opcodes are known by their
 * operand: 0x654 is mapa's PRMT. */
typedef struct example {
    const char *body;
    unsigned architectures;
    const char *opcodes; /* of SASS, separated by blanks; all must occur */

} example;

#define FRAGMENTS "float d[4] = {}; unsigned a[4] = {p[0], p[1], p[2], p[3]}, b[2] = {p[4], p[5]}; "
#define SHOW_D    " for (float v : d) *p++ = __float_as_uint(v);"
/* All sizes of one wgmma family, or the smallest and the largest. */
#define WGMMA_ENDS(call) WGMMA_EACH("248", call)
#define WGMMA(call) WGMMA_EACH("8", call)
#define WGMMA_EACH(step, call) \
    "| for N = 8, 256, " step " do\n{ float d[${N // 2}]; for (float &v : d) v = __uint_as_float(*p++);\n" \
    "wgmma_fence(); " call \
    " wgmma_commit(); wgmma_wait<0>(); wgmma_hold(d);" SHOW_D " }\n| end\n"
#define WGMMA_DATA \
    "unsigned long long x = wgmma_descriptor(s, 16, 1024, 128), y = wgmma_descriptor(s + i, 16, 1024, 64);\n" \
    "unsigned a[4] = {p[0], p[1], p[2], p[3]};\n"

static const example examples[] = {
    { "p[1] = shared_address(s + i);", AMPERE, "" },
    { "p[0] = f32_to_f16(f16_to_f32(p[1]) + 1);", AMPERE, "HADD2.F32 F2F.F16" },
    { "p[0] = f32_to_bf16(bf16_to_f32(p[1]) + 1);", AMPERE, "BF16" },
    { "p[0] = f32_to_tf32(__uint_as_float(p[1]));", AMPERE, "0xffffe000" },
    { "cp_async_4(s, p, i); cp_async_commit(); cp_async_wait<3>();", AMPERE, "LDGSTS.E LDGDEPBAR DEPBAR.LE" },
    { "cp_async_8(s, p, i); cp_async_commit(); cp_async_wait<1>();", AMPERE, "LDGSTS.E.64" },
    { "cp_async_16(s, p, i); cp_async_commit(); cp_async_wait<0>();", AMPERE, "LDGSTS.E.BYPASS.128" },
    { "cp_async_16(s, p, 16); cp_async_mbarrier_arrive(bar);", AMPERE, "ARRIVES.LDGSTSBAR" },
    { "unsigned r[1]; ldmatrix_x1(r, s + i); p[0] = r[0]; ldmatrix_x1_trans(r, s + i); p[1] = r[0];", AMPERE,
      "LDSM.16.M88 LDSM.16.MT88" },
    { "unsigned r[2]; ldmatrix_x2(r, s + i); p[0] = r[1]; ldmatrix_x2_trans(r, s + i); p[1] = r[1];", AMPERE,
      "LDSM.16.M88.2 LDSM.16.MT88.2" },
    { "unsigned r[4]; ldmatrix_x4(r, s + i); p[0] = r[3]; ldmatrix_x4_trans(r, s + i); p[1] = r[3];", AMPERE,
      "LDSM.16.M88.4 LDSM.16.MT88.4" },
    { "unsigned r[1] = {p[0]}; stmatrix_x1(s + i, r); stmatrix_x1_trans(s + i, r);", HOPPER,
      "STSM.16.M88 STSM.16.MT88" },
    { "unsigned r[2] = {p[0], p[1]}; stmatrix_x2(s + i, r); stmatrix_x2_trans(s + i, r);", HOPPER,
      "STSM.16.M88.2 STSM.16.MT88.2" },
    { "unsigned r[4] = {p[0], p[1], p[2], p[3]}; stmatrix_x4(s + i, r); stmatrix_x4_trans(s + i, r);", HOPPER,
      "STSM.16.M88.4 STSM.16.MT88.4" },
    { FRAGMENTS "mma_m16n8k8_tf32(d, a, b);" SHOW_D, AMPERE, "HMMA.1688.F32.TF32" },
    { FRAGMENTS "mma_m16n8k16_f16(d, a, b);" SHOW_D, AMPERE, "HMMA.16816.F32" },
    { FRAGMENTS "mma_m16n8k16_bf16(d, a, b);" SHOW_D, AMPERE, "HMMA.16816.F32.BF16" },
    { "mbarrier_init(bar, i); fence_mbarrier_init(); mbarrier_arrive(bar); mbarrier_arrive_expect(bar, 64); "
      "mbarrier_wait(bar, 0); "
      "p[0] = mbarrier_try_wait(bar, 1); mbarrier_invalidate(bar);", HOPPER,
      "SYNCS.EXCH.64 SYNCS.ARRIVE.TRANS64.A1T0 SYNCS.ARRIVE.TRANS64 SYNCS.PHASECHK.TRANS64.TRYWAIT SYNCS.CCTL.IV" },
    { "mbarrier_arrive_cluster(bar, i);", HOPPER, "0x654 SYNCS.ARRIVE.TRANS64.RED.A1T0" },
    { "bulk_load(s, p, i, bar); fence_proxy_async(); bulk_store(p, s, i); bulk_commit(); bulk_wait<1>(); bulk_wait_read<0>();",
      HOPPER, "UBLKCP.S.G UBLKCP.G.S FENCE.VIEW.ASYNC UTMACMDFLUSH DEPBAR.LE" },
    { "tensor_prefetch(map);", HOPPER, "UTMACCTL.PF" },
    { "tensor_load_1d(s, map, bar, i);", HOPPER, "UTMALDG.1D" },
    { "tensor_load_2d(s, map, bar, i, 2);", HOPPER, "UTMALDG.2D" },
    { "tensor_load_3d(s, map, bar, i, 2, 3);", HOPPER, "UTMALDG.3D" },
    { "tensor_load_4d(s, map, bar, i, 2, 3, 4);", HOPPER, "UTMALDG.4D" },
    { "tensor_load_5d(s, map, bar, i, 2, 3, 4, 5);", HOPPER, "UTMALDG.5D" },
    { "tensor_load_multicast_1d(s, map, bar, i, 3);", CLUSTER, "UTMALDG.1D.MULTICAST" },
    { "tensor_load_multicast_2d(s, map, bar, i, 2, 3);", CLUSTER, "UTMALDG.2D.MULTICAST" },
    { "tensor_load_multicast_3d(s, map, bar, i, 2, 3, 3);", CLUSTER, "UTMALDG.3D.MULTICAST" },
    { "tensor_load_multicast_4d(s, map, bar, i, 2, 3, 4, 3);", CLUSTER, "UTMALDG.4D.MULTICAST" },
    { "tensor_load_multicast_5d(s, map, bar, i, 2, 3, 4, 5, 3);", CLUSTER, "UTMALDG.5D.MULTICAST" },
    { "tensor_store_1d(map, s, i); bulk_commit();", HOPPER, "UTMASTG.1D" },
    { "tensor_store_2d(map, s, i, 2); bulk_commit();", HOPPER, "UTMASTG.2D" },
    { "tensor_store_3d(map, s, i, 2, 3); bulk_commit();", HOPPER, "UTMASTG.3D" },
    { "tensor_store_4d(map, s, i, 2, 3, 4); bulk_commit();", HOPPER, "UTMASTG.4D" },
    { "tensor_store_5d(map, s, i, 2, 3, 4, 5); bulk_commit();", HOPPER, "UTMASTG.5D" },
    { WGMMA_DATA WGMMA("wgmma_f16_n${N}_ss(d, x, y, i);"), HOPPER_A,
      "HGMMA.64x8x16.F32 HGMMA.64x256x16.F32 WARPGROUP.ARRIVE WARPGROUP.DEPBAR" },
    { WGMMA_DATA WGMMA_ENDS("wgmma_f16_n${N}_ss<1, 1>(d, x, y, 1);"), HOPPER_A,
      "HGMMA.64x8x16.F32 HGMMA.64x256x16.F32 tnspA.tnspB" },
    { WGMMA_DATA WGMMA("wgmma_f16_n${N}_ss<1, 0>(d, x, y, 0);"), HOPPER_A, "HGMMA.64x128x16.F32 tnspA" },
    { WGMMA_DATA WGMMA_ENDS("wgmma_f16_n${N}_rs<1>(d, a, y, i);"), HOPPER_A,
      "HGMMA.64x8x16.F32 HGMMA.64x256x16.F32 tnspB" },
    { WGMMA_DATA WGMMA_ENDS("wgmma_f16_n${N}_ss_x4(d, x, y, 2, 128, i);"), HOPPER_A,
      "HGMMA.64x8x16.F32 HGMMA.64x256x16.F32" },
    { WGMMA_DATA WGMMA_ENDS("wgmma_bf16_n${N}_ss<0, 1>(d, x, y, i);"), HOPPER_A,
      "HGMMA.64x8x16.F32.BF16 HGMMA.64x256x16.F32.BF16 tnspB" },
    { WGMMA_DATA WGMMA("wgmma_bf16_n${N}_rs(d, a, y, i);"), HOPPER_A,
      "HGMMA.64x8x16.F32.BF16 HGMMA.64x256x16.F32.BF16" },
    { WGMMA_DATA WGMMA_ENDS("wgmma_bf16_n${N}_ss_x4<1, 1>(d, x, y, 2, i, 1);"), HOPPER_A,
      "HGMMA.64x256x16.F32.BF16 tnspA.tnspB" },
    { WGMMA_DATA WGMMA_ENDS("wgmma_tf32_n${N}_ss(d, x, y, i);"), HOPPER_A,
      "HGMMA.64x8x8.F32.TF32 HGMMA.64x256x8.F32.TF32" },
    { WGMMA_DATA WGMMA_ENDS("wgmma_tf32_n${N}_rs(d, a, y, i);"), HOPPER_A,
      "HGMMA.64x8x8.F32.TF32 HGMMA.64x256x8.F32.TF32" },
    { WGMMA_DATA WGMMA("wgmma_tf32_n${N}_ss_x4(d, x, y, 2, 2, i);"), HOPPER_A,
      "HGMMA.64x8x8.F32.TF32 HGMMA.64x256x8.F32.TF32" },
    { "if (threadIdx.x < 128) registers_decrease<40>(); else registers_increase<232>();", HOPPER_A,
      "USETMAXREG.DEALLOC USETMAXREG.TRY_ALLOC" },
    { "barrier_sync(1, 64); barrier_arrive(i, 128);", AMPERE, "BAR.SYNC BAR.ARV" },
    { "cluster_arrive(); cluster_wait(); cluster_sync();", HOPPER, "UCGABAR_ARV UCGABAR_WAIT" },
    { "p[0] = cluster_rank() + cluster_blocks(); *cluster_map((unsigned *)s, i) = 1;", HOPPER, "0x654 ST.E" },
    { "grid_launch_dependents(); grid_wait(); p[0] = i;", HOPPER, "PREEXIT ACQBULK" },
    { "if (elect_one()) p[0] = 1;", HOPPER, "ELECT" },
};
enum { EXAMPLES = sizeof examples / sizeof *examples };

typedef struct job { const example *of; int architecture; char *source; } job;
static struct {
    cj_compiler *compiler;
    char *cuobjdump;
    pthread_mutex_t lock;
    job jobs[EXAMPLES * ARCHITECTURES];
    int n, next;
} all = { .lock = PTHREAD_MUTEX_INITIALIZER };

/* ---- SASS ---- */

static char *output_of(const char *command)
{
    FILE *pipe = popen(command, "r");
    cj_text text = { 0 };
    char part[4096], *out = NULL;
    for (size_t n; pipe && (n = fread(part, 1, sizeof part, pipe)) > 0;) cj_text_add(&text, part, n);
    bool worked = pipe && pclose(pipe) == 0;
    if (!worked || cj_text_take(&text, &out)) cj_text_free(&text);
    return out;
}

static char *find_cuobjdump(void)
{
    char *path = output_of(
        "echo \"${CONVJIT_CUOBJDUMP:-$(command -v cuobjdump || python3 -c 'import importlib.util as u, os; "
        "print(os.path.join(os.path.dirname(u.find_spec(\"triton\").origin), \"backends/nvidia/bin/cuobjdump\"))' "
        "2>/dev/null)}\"");
    if (path) path[strcspn(path, "\n")] = 0;
    if (path && access(path, X_OK) != 0) free(path), path = NULL;
    return path;
}

static char *disassemble(const cj_blob *cubin)
{
    char file[] = "/tmp/convjit-cubin-XXXXXX", command[4096];
    int fd = mkstemp(file);
    if (fd < 0 || write(fd, cubin->data, cubin->size) != (ssize_t)cubin->size) return NULL;
    close(fd);
    /* nvdisasm, which cuobjdump starts, lies beside it */
    snprintf(command, sizeof command, "PATH=\"$(dirname '%s'):$PATH\" '%s' -sass %s 2>&1", all.cuobjdump, all.cuobjdump,
             file);
    char *sass = output_of(command);
    unlink(file);
    return sass;
}

static bool has_opcodes(const char *sass, const char *opcodes)
{
    char word[64];
    for (int n; sscanf(opcodes, "%63s%n", word, &n) == 1; opcodes += n)
        if (!strstr(sass, word)) return false;
    return true;
}

/* ---- Jobs ---- */

static void compile(const job *j)
{
    char option[64];
    const char *arch = architectures[j->architecture];
    snprintf(option, sizeof option, "--gpu-architecture=%s", arch);
    cj_kernel k = { .name = (char[]){ "k" }, .arch = (char *)(uintptr_t)arch, .source = j->source, .n_options = 3,
                    .options = { option, (char[]){ "--std=c++17" }, (char[]){ "--fmad=false" } } };
    cj_blob cubin = { 0 };
    char *log = NULL;
    convjit_status s = cj_nvrtc_compile_log(all.compiler, &k, &cubin, &log);
    CHECK_THAT(!s, "%s: %s: %s", arch, j->of->body, convjit_errmsg());
    bool looked_at = !s && all.cuobjdump && strcmp(arch, "sm_90a") == 0;
    char *sass = looked_at ? disassemble(&cubin) : NULL;
    if (looked_at)
        CHECK_THAT(sass && has_opcodes(sass, j->of->opcodes), "%s: %s: not all of \"%s\" in\n%s", arch, j->of->body,
                   j->of->opcodes, sass ? sass : "(no SASS)");
    free(sass);
    free(log);
    cj_blob_free(&cubin);
}

static void *worker(void *unused)
{
    for (;;) {
        pthread_mutex_lock(&all.lock);
        int i = all.next++;
        pthread_mutex_unlock(&all.lock);
        if (i >= all.n) return unused;
        compile(&all.jobs[i]);
    }
}

static void add_jobs(cj_script *script)
{
    for (int e = 0; e < EXAMPLES; e++) {
        cj_text text = { 0 };
        cj_text_printf(&text, "extern \"C\" __global__ void __launch_bounds__(256, 1) k(unsigned *p, int i%s)\n{\n"
                       "unsigned char *s = shared_memory() + 1024;\n"
                       "unsigned long long *bar = (unsigned long long *)shared_memory();\n%s\n}\n",
                       strstr(examples[e].body, "map") ? ", const __grid_constant__ TensorMap map" : "",
                       examples[e].body);
        for (int a = 0; a < ARCHITECTURES; a++) {
            if (!(examples[e].architectures >> a & 1)) continue;
            job *j = &all.jobs[all.n++];
            *j = (job){ &examples[e], a, NULL };
            CHECK_OK(cj_script_source(script, text.data, "example.cu", &j->source));
        }
        cj_text_free(&text);
    }
}

/* ---- The generator's part ---- */

static int count(const char *text, const char *part)
{
    int n = 0;
    for (; (text = strstr(text, part)); text++) n++;
    return n;
}

static void members(cj_script *script)
{
    char *source = NULL;
    CHECK_OK(cj_script_source(script, "wgmma_f16_n24_ss(); wgmma_f16_n24_ss(); wgmma_tf32_n8_rs(); // ldmatrix_x1\n", "x",
                              &source));
    CHECK_INT(count(source, "void wgmma_f16_n24_ss("), 1);
    CHECK_INT(count(source, "void wgmma_tf32_n8_rs("), 1);
    CHECK_INT(count(source, "__forceinline__ void "), 2); /* nothing for what a comment names */
    CHECK_INT(count(source, "|"), 0);
    CHECK_INT(count(source, "${"), 0);
    free(source);
    CHECK_OK(cj_script_source(script, "tensor_load_2d(); wgmma_f16_n12_ss(); bulk_wait<0>();\n", "x", &source));
    CHECK_INT(count(source, "void bulk_wait("), 1);
    CHECK_INT(count(source, "bulk_wait_read"), 0);
    CHECK_INT(count(source, "struct __align__(64) TensorMap"), 1);
    CHECK_INT(count(source, "unsigned shared_address("), 1);
    CHECK_INT(count(source, "void wgmma_f16_n12_ss("), 0); /* 12 is no N */
    free(source);
    CHECK_FAILS(cj_script_source(script, "\n| if then\n", "x", &source), CONVJIT_GENERATE, "x:2:");
}

int main(void)
{
    cj_script *script = NULL;
    convjit_config config = { .size = sizeof config };
    CHECK_OK(cj_script_open(&script, NULL));
    CHECK_OK(cj_nvrtc_open(&all.compiler, &config));
    if (!script || !all.compiler) return check_done("primitives");
    members(script);
    all.cuobjdump = find_cuobjdump();
    bool compiles = all.compiler->identity(all.compiler) != NULL;
    if (compiles) add_jobs(script);
    pthread_t threads[64];
    int n = (int)sysconf(_SC_NPROCESSORS_ONLN);
    if (n > 64) n = 64;
    for (int i = 0; i < n; i++)
        if (pthread_create(&threads[i], NULL, worker, NULL)) n = i;
    for (int i = 0; i < n; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < all.n; i++) free(all.jobs[i].source);
    all.compiler->close(all.compiler);
    cj_script_close(script);
    int skipped = !compiles + !(compiles && all.cuobjdump);
    free(all.cuobjdump);
    if (skipped) {
        printf("primitives: %d passed, %d failed, %d skipped\n", check_passed, check_failed, skipped);
        return check_failed != 0;
    }
    return check_done("primitives");
}
