/* kernel.c: the check of every field of a kernel, and its text form, whole and damaged. */
#include <stdlib.h>
#include "check.h"
#include "internal.h"

static char *text_of(const char *s)
{
    char *copy = strdup(s);
    if (!copy)
        abort();
    return copy;
}

static void replace(char **field, const char *s)
{
    free(*field);
    *field = s ? text_of(s) : NULL;
}

static void add_arg(cj_launch *l, cj_arg_kind kind, const char *expr)
{
    l->args[l->n_args++] = (cj_arg){kind, expr ? text_of(expr) : NULL, NULL};
}

/* 64 x 8 x 4 elements of a box, every second row, of a tensor C x W x H */
static void add_map(cj_launch *l)
{
    cj_tensor_arg *map = calloc(1, sizeof *map);
    if (!map)
        abort();
    *map = (cj_tensor_arg){.tensor = CJ_ARG_WORKSPACE, .offset = text_of("256 * N"),
                           .map = {.element = CJ_MAP_F16, .rank = 3, .swizzle = 128, .box = {64, 8, 4},
                                   .element_strides = {1, 1, 2}},
                           .dims = {text_of("64"), text_of("W"), text_of("H")}, .strides = {text_of("128"), text_of("128 * W")}};
    l->args[l->n_args++] = (cj_arg){CJ_ARG_TENSOR_MAP, NULL, map};
}

static void add_launch(cj_kernel *k, const char *entry, const char *grid_x, int block_x)
{
    cj_launch *l = &k->launches[k->n_launches++];
    l->entry = text_of(entry);
    l->grid[0] = text_of(grid_x);
    l->grid[1] = text_of("2");
    l->grid[2] = text_of("N");
    l->block[0] = block_x;
    l->block[1] = 4;
    l->block[2] = 1;
    l->cluster[0] = l->cluster[1] = l->cluster[2] = 1;
    l->smem = text_of("48 * 1024");
}

/* Two launches, every kind of argument, every list in use. */
static cj_kernel *make_kernel(void)
{
    cj_kernel *k = calloc(1, sizeof *k);
    if (!k)
        abort();
    k->name = text_of("conv2d_split_c8k8r3s3");
    k->tuple = text_of("c8k8r3s3_pad1_f16_bias_leaky_relu-0.5_residual");
    k->arch = text_of("sm_90a");
    k->schedule = text_of("split:kt=64,qt=32");
    k->why = text_of("fewest bytes (\xC2\xB5s: 12.5)");
    k->source = text_of("void partial() {}\nvoid sum() {}\n");
    k->options[k->n_options++] = text_of("--gpu-architecture=sm_90a");
    k->options[k->n_options++] = text_of("-D X Y");
    k->workspace = text_of("4 * N * P * Q");
    k->align = 16;
    k->requires[k->n_requires].expr = text_of("W % 4 == 0");
    k->requires[k->n_requires++].why = text_of("rows must be 16-byte aligned");
    add_launch(k, "partial", "ceildiv(P, 4)", 32);
    add_arg(&k->launches[0], CJ_ARG_INPUT, NULL);
    add_arg(&k->launches[0], CJ_ARG_WEIGHTS, NULL);
    add_arg(&k->launches[0], CJ_ARG_WORKSPACE, "0");
    add_arg(&k->launches[0], CJ_ARG_I32, "H * W");
    add_arg(&k->launches[0], CJ_ARG_I64, "N * H * W");
    add_launch(k, "sum", "ceildiv(N * P * Q, 256)", 256);
    add_arg(&k->launches[1], CJ_ARG_WORKSPACE, "0");
    add_arg(&k->launches[1], CJ_ARG_BIAS, NULL);
    add_arg(&k->launches[1], CJ_ARG_RESIDUAL, NULL);
    add_arg(&k->launches[1], CJ_ARG_OUTPUT, NULL);
    k->launches[1].cluster[0] = 2;
    k->launches[1].overlap = true;
    add_map(&k->launches[1]);
    return k;
}

static const char kernel_text[] =
    "convjit-kernel 1\nname conv2d_split_c8k8r3s3\ntuple c8k8r3s3_pad1_f16_bias_leaky_relu-0.5_residual\narch sm_90a\n"
    "schedule split:kt=64,qt=32\nwhy fewest bytes (\xC2\xB5s: 12.5)\noption --gpu-architecture=sm_90a\noption -D X Y\n"
    "workspace 4 * N * P * Q\nalign 16\nrequire W % 4 == 0\nbecause rows must be 16-byte aligned\n"
    "launch partial\ngrid_x ceildiv(P, 4)\ngrid_y 2\ngrid_z N\nblock_x 32\nblock_y 4\nblock_z 1\nsmem 48 * 1024\n"
    "arg input\narg weights\narg workspace 0\narg i32 H * W\narg i64 N * H * W\n"
    "launch sum\ngrid_x ceildiv(N * P * Q, 256)\ngrid_y 2\ngrid_z N\nblock_x 256\nblock_y 4\nblock_z 1\n"
    "cluster_x 2\ncluster_y 1\ncluster_z 1\noverlap\nsmem 48 * 1024\narg workspace 0\narg bias\narg residual\narg output\n"
    "arg tensor_map workspace\nmap_element f16\nmap_swizzle 128\nmap_offset 256 * N\nmap_dim 64\nmap_box 64\nmap_every 1\n"
    "map_dim W\nmap_stride 128\nmap_box 8\nmap_every 1\nmap_dim H\nmap_stride 128 * W\nmap_box 4\nmap_every 2\nend\n";

static void test_write_and_read(void)
{
    cj_kernel *k = make_kernel(), *back = NULL;
    cj_text text = {0}, again = {0};
    CHECK_OK(cj_kernel_check(k, false));
    CHECK_OK(cj_kernel_write(k, &text));
    CHECK_STR(text.data, kernel_text);
    CHECK_OK(cj_kernel_read(text.data, text.length, &back));
    CHECK_STR(back->name, k->name);
    CHECK_STR(back->tuple, k->tuple);
    CHECK_STR(back->arch, k->arch);
    CHECK_STR(back->schedule, k->schedule);
    CHECK_STR(back->why, k->why);
    CHECK(back->source == NULL);
    CHECK_INT(back->n_options, 2);
    CHECK_STR(back->options[1], "-D X Y");
    CHECK_STR(back->workspace, k->workspace);
    CHECK_INT(back->align, 16);
    CHECK_INT(back->n_requires, 1);
    CHECK_STR(back->requires[0].expr, "W % 4 == 0");
    CHECK_STR(back->requires[0].why, "rows must be 16-byte aligned");
    CHECK_INT(back->n_launches, 2);
    CHECK_STR(back->launches[1].entry, "sum");
    CHECK_STR(back->launches[0].grid[0], "ceildiv(P, 4)");
    CHECK_INT(back->launches[1].block[0], 256);
    CHECK_STR(back->launches[0].smem, "48 * 1024");
    CHECK_INT(back->launches[0].n_args, 5);
    CHECK_INT(back->launches[0].args[4].kind, CJ_ARG_I64);
    CHECK_STR(back->launches[0].args[4].expr, "N * H * W");
    CHECK(back->launches[1].args[3].kind == CJ_ARG_OUTPUT && back->launches[1].args[3].expr == NULL);
    CHECK_OK(cj_kernel_write(back, &again));
    CHECK_STR(again.data, kernel_text);
    cj_text_free(&text);
    cj_text_free(&again);
    cj_kernel_free(back);
    cj_kernel_free(k);
    cj_kernel_free(NULL);
}

/* Checks that the change makes the kernel fail with a message that has the part, whether it comes from the generator or
 * from a cache, and that it is not written. */
#define REFUSED(change, part)                                            \
    do {                                                                 \
        cj_kernel *k = make_kernel();                                    \
        cj_launch *l = &k->launches[0];                                  \
        (void)l;                                                         \
        change;                                                          \
        CHECK_FAILS(cj_kernel_check(k, false), CONVJIT_GENERATE, part);  \
        CHECK_FAILS(cj_kernel_check(k, true), CONVJIT_CORRUPT, part);    \
        cj_text text = {0};                                              \
        CHECK_FAILS(cj_kernel_write(k, &text), CONVJIT_GENERATE, part);  \
        CHECK_INT(text.length, 0);                                       \
        cj_kernel_free(k);                                               \
    } while (0)

static void test_check_names(void)
{
    REFUSED(replace(&k->name, NULL), "name is missing");
    REFUSED(replace(&k->name, ""), "name is missing");
    REFUSED(replace(&k->name, "2fast"), "name \"2fast\" is not a C identifier");
    REFUSED(replace(&k->name, "a b"), "name \"a b\" is not a C identifier");
    REFUSED(replace(&k->name, "0a"), "name \"0a\" is not a C identifier");
    REFUSED(replace(&k->name, "9a"), "name \"9a\" is not a C identifier");
    REFUSED(replace(&k->tuple, NULL), "tuple is missing");
    REFUSED(replace(&k->tuple, "c8/../k8"), "tuple \"c8/../k8\" is not a problem string");
    REFUSED(replace(&k->arch, NULL), "arch is missing");
    REFUSED(replace(&k->arch, "sm_9"), "arch \"sm_9\" is not of the form sm_90a");
    REFUSED(replace(&k->arch, "sm_90aa"), "arch");
    REFUSED(replace(&k->arch, "sm_90A"), "arch");
    REFUSED(replace(&k->arch, "compute_90"), "arch");
    REFUSED(replace(&k->arch, "sm_12345"), "arch");
    REFUSED(replace(&k->arch, "sm_90{"), "arch");
    REFUSED(replace(&k->arch, "s"), "arch");
    REFUSED(replace(&k->schedule, NULL), "schedule is missing");
    REFUSED(replace(&k->schedule, ":kt=1"), "schedule \":kt=1\" is not a name");
    REFUSED(replace(&k->schedule, "direct kt"), "schedule");
    REFUSED(replace(&k->schedule, "direct:kt=1 x"), "schedule");
    REFUSED(replace(&k->schedule, "direct:kt=\xC2\xB5"), "schedule");
    REFUSED(replace(&k->why, NULL), "why is missing");
    REFUSED(replace(&k->why, "two\nlines"), "why holds the control character 0x0a");
    REFUSED(replace(&k->options[1], NULL), "options is missing");
    REFUSED(replace(&k->options[1], "fast"), "options: number 2 does not begin with \"-\"");
    REFUSED(replace(&k->options[1], "-\x7F"), "options holds the control character 0x7f");
    REFUSED(k->n_options = -1, "options: -1 is not between 0 and 16");
    REFUSED(k->n_options = 17, "options: 17 is not between 0 and 16");
}

/* The first and last of every range of characters. */
static void test_accepted_names(void)
{
    static const char *const arches[] = {"sm_75", "sm_90a", "sm_100", "sm_100f", "sm_1234z"};
    cj_kernel *k = make_kernel();
    for (size_t i = 0; i < sizeof arches / sizeof *arches; i++) {
        replace(&k->arch, arches[i]);
        CHECK_OK(cj_kernel_check(k, false));
    }
    replace(&k->name, "_azAZ09");
    replace(&k->tuple, "azAZ09_.-");
    replace(&k->schedule, "azAZ09_");
    CHECK_OK(cj_kernel_check(k, false));
    replace(&k->schedule, "a:!~");
    k->align = 16;
    CHECK_OK(cj_kernel_check(k, false));
    k->align = 256;
    k->launches[0].block[0] = 256;
    k->launches[1].block[2] = 64;
    k->launches[1].block[1] = 16;
    k->launches[1].block[0] = 1;
    CHECK_OK(cj_kernel_check(k, false));
    cj_kernel_free(k);
}

static void test_check_numbers(void)
{
    REFUSED(replace(&k->workspace, NULL), "workspace is missing");
    REFUSED(replace(&k->workspace, "4 *"), "workspace: expression \"4 *\", column 4: expected a number");
    REFUSED(k->align = 0, "align: 0 is not between 1 and 256");
    REFUSED(k->align = 512, "align: 512 is not between 1 and 256");
    REFUSED(k->align = 12, "align: 12 is not a power of two");
    REFUSED(replace(&k->requires[0].expr, "W ="), "requires.expr: expression");
    REFUSED(replace(&k->requires[0].why, NULL), "requires.why is missing");
    REFUSED(k->n_requires = 17, "requires: 17 is not between 0 and 16");
    REFUSED(k->n_launches = 0, "launches: 0 is not between 1 and 8");
    REFUSED(k->n_launches = 9, "launches: 9 is not between 1 and 8");
    REFUSED(k->n_launches = 1, "launches: none of them takes the output");
}

static void test_check_launches(void)
{
    REFUSED(replace(&l->entry, NULL), "launch 1: entry is missing");
    REFUSED(replace(&l->entry, "par tial"), "launch 1: entry \"par tial\" is not a C identifier");
    REFUSED(replace(&l->grid[0], NULL), "launch 1: grid_x is missing");
    REFUSED(replace(&l->grid[1], "K"), "launch 1: grid_y: expression \"K\"");
    REFUSED(replace(&l->grid[2], ""), "launch 1: grid_z is missing");
    REFUSED(l->block[0] = 0, "launch 1: block_x: 0 is not between 1 and 1024");
    REFUSED(l->block[1] = 1025, "launch 1: block_y: 1025 is not between 1 and 1024");
    REFUSED(l->block[2] = 65, "launch 1: block_z: 65 is not between 1 and 64");
    REFUSED(l->cluster[1] = 0, "launch 1: cluster_y: 0 is not between 1 and 8");
    REFUSED(l->cluster[2] = 9, "launch 1: cluster_z: 9 is not between 1 and 8");
    REFUSED(l->overlap = true, "launch 1: overlap: the first launch has none before it in the plan");
    REFUSED((l->cluster[0] = 3, l->cluster[1] = 3), "launch 1: cluster: 3*3*1 blocks are above the limit 8");
#define MAP (k->launches[1].args[4].map)
    REFUSED(MAP->map.box[0] = 0, "launch 2, arg 5: tensor_map: box[1]: 0 is not between 1 and 256");
    REFUSED(MAP->map.rank = 6, "launch 2, arg 5: tensor_map: dims: 6 axes are not between 1 and 5");
    REFUSED(MAP->map.element = CJ_MAP_COUNT, "launch 2, arg 5: tensor_map: element: 4 is unknown");
    REFUSED(MAP->tensor = CJ_ARG_I32, "launch 2, arg 5: the tensor map's memory is no tensor, no workspace and no packed weights");
    REFUSED(replace(&MAP->dims[2], NULL), "launch 2, arg 5: dims is missing");
    REFUSED(replace(&MAP->strides[1], "W *"), "launch 2, arg 5: strides: ");
    REFUSED(replace(&MAP->offset, ""), "launch 2, arg 5: offset is missing");
    REFUSED(k->align = 8, "align: 8 is below 16, which tensor maps need");
#undef MAP
    REFUSED(l->block[0] = 257, "launch 1: block: 257*4*1 threads are above the limit 1024");
    REFUSED(replace(&l->smem, "many"), "launch 1: smem: expression \"many\"");
    REFUSED(k->launches[1].n_args = 0, "launch 2: args: 0 is not between 1 and 32");
    REFUSED(l->n_args = 33, "launch 1: args: 33 is not between 1 and 32");
    REFUSED(l->args[0].kind = CJ_ARG_KIND_COUNT, "launch 1, arg 1: kind 10 is unknown");
    REFUSED(replace(&l->args[1].expr, "0"), "launch 1, arg 2: weights takes no expression");
    REFUSED(replace(&l->args[2].expr, NULL), "launch 1, arg 3: workspace is missing");
    REFUSED(replace(&l->args[3].expr, "N +"), "launch 1, arg 4: i32: expression \"N +\"");
}

/* Its first launch packs weights for the second. */
static cj_kernel *make_packing(void)
{
    cj_kernel *k = make_kernel();
    cj_launch *l = &k->launches[0];
    k->packed = text_of("4096 * 2");
    l->packs = true;
    replace(&l->grid[0], "8");
    replace(&l->grid[2], "1");
    l->args[0].kind = CJ_ARG_WEIGHTS;
    l->args[2].kind = CJ_ARG_PACKED;
    replace(&l->args[3].expr, "64");
    replace(&l->args[4].expr, "3");
    k->launches[1].args[4].map->tensor = CJ_ARG_PACKED;
    return k;
}

static void check_packing(cj_kernel *k, const char *message)
{
    CHECK_FAILS(cj_kernel_check(k, false), CONVJIT_GENERATE, message);
    cj_kernel_free(k);
}
#define REFUSED_PACKING(change, message)                \
    do {                                                \
        cj_kernel *k = make_packing();                  \
        cj_launch *l = &k->launches[0];                 \
        (void)l;                                        \
        change;                                         \
        check_packing(k, message);                      \
    } while (0)

static void test_packing(void)
{
    cj_kernel *made = make_packing(), *back = NULL;
    cj_text text = {0};
    CHECK_OK(cj_kernel_write(made, &text));
    CHECK_HAS(text.data, "workspace 4 * N * P * Q\npacked 4096 * 2\nalign 16\n");
    CHECK_HAS(text.data, "block_z 1\npacks\nsmem 48 * 1024\narg weights\narg weights\narg packed 0\n");
    CHECK_HAS(text.data, "arg tensor_map packed\n");
    CHECK_OK(cj_kernel_read(text.data, text.length, &back));
    CHECK(back->launches[0].packs && !back->launches[1].packs);
    CHECK_STR(back->packed, "4096 * 2");
    cj_text_free(&text);
    cj_kernel_free(made);
    cj_kernel_free(back);
    REFUSED_PACKING(replace(&k->packed, "4096 *"), "packed: expression \"4096 *\"");
    REFUSED_PACKING(replace(&k->packed, "4096 * H"), "packed: \"4096 * H\" depends on N, H or W, and packed weights must not");
    REFUSED_PACKING(replace(&k->packed, NULL), "launch 1: packed weights, of which the kernel has none");
    REFUSED_PACKING((l->packs = false, replace(&k->packed, NULL)), "launch 1: packed weights, of which the kernel has none");
    REFUSED_PACKING(l->packs = false, "packed: the first launch does not pack");
    REFUSED_PACKING(replace(&l->grid[0], "Q"), "launch 1: grid_x: \"Q\" depends on");
    REFUSED_PACKING(replace(&l->smem, "W"), "launch 1: smem: \"W\" depends on");
    REFUSED_PACKING(l->args[0].kind = CJ_ARG_INPUT, "launch 1, arg 1: packs: it may take weights, packed weights and numbers, not input");
    REFUSED_PACKING(l->args[2].kind = CJ_ARG_WORKSPACE, "launch 1, arg 3: packs: it may take weights, packed weights and numbers, not workspace");
    REFUSED_PACKING(replace(&l->args[3].expr, "H"), "launch 1, arg 4: expr: \"H\" depends on");
    REFUSED_PACKING(k->launches[1].packs = true, "launch 2: grid_x: \"ceildiv(N * P * Q, 256)\" depends on");
    REFUSED_PACKING((add_launch(k, "sum", "1", 32), k->launches[2].packs = true, add_arg(&k->launches[2], CJ_ARG_WEIGHTS, NULL)),
                    "launch 3: packs: the launch before does not");
}

/* What differs between a kernel of the generator and one from a cache. */
static void test_source(void)
{
    cj_kernel *k = make_kernel();
    replace(&k->source, "void partial() {}");
    CHECK_FAILS(cj_kernel_check(k, false), CONVJIT_GENERATE, "launch 2: entry sum is not in the source");
    replace(&k->source, "");
    CHECK_FAILS(cj_kernel_check(k, false), CONVJIT_GENERATE, "source is missing");
    replace(&k->source, NULL);
    CHECK_FAILS(cj_kernel_check(k, false), CONVJIT_GENERATE, "source is missing");
    CHECK_OK(cj_kernel_check(k, true));
    cj_kernel_free(k);
}

static void test_long_line(void)
{
    cj_kernel *k = make_kernel();
    char line[4098];
    memset(line, 'y', sizeof line - 1);
    line[4097] = 0;
    replace(&k->why, line);
    CHECK_FAILS(cj_kernel_check(k, false), CONVJIT_GENERATE, "why has 4097 bytes, above the limit 4096");
    line[4096] = 0;
    replace(&k->why, line);
    CHECK_OK(cj_kernel_check(k, false));
    cj_kernel_free(k);
}

static void check_damaged(const char *text, size_t length, const char *part)
{
    cj_kernel *k = NULL;
    char *exact = malloc(length + !length); /* no final 0: a read behind the end is caught by valgrind or a sanitizer */
    if (!exact)
        abort();
    memcpy(exact, text, length);
    CHECK_FAILS(cj_kernel_read(exact, length, &k), CONVJIT_CORRUPT, part);
    CHECK(k == NULL);
    free(exact);
}

/* kernel_text with one occurrence of `from` as `to`. */
static void check_edited(const char *from, const char *to, const char *part)
{
    char text[2048];
    const char *at = strstr(kernel_text, from);
    if (!at)
        abort();
    int n = snprintf(text, sizeof text, "%.*s%s%s", (int)(at - kernel_text), kernel_text, to, at + strlen(from));
    check_damaged(text, (size_t)n, part);
}

static void test_damage(void)
{
    check_edited("cluster_x 2", "cluster_x 1", "a cluster of one block is not written");
    check_edited("overlap\n", "overlap 1\n", "expected \"smem\" and a value");
    check_edited("cluster_y 1\n", "", "expected \"cluster_y\" and a value");
    check_edited("map_element f16", "map_element f15", "map_element is unknown");
    check_edited("arg tensor_map workspace", "arg tensor_map i32", "expected the name of a tensor, workspace or packed");
    check_edited("arg tensor_map workspace", "arg tensor_map", "expected the kind of an argument, and its expression");
    check_edited("map_stride 128\n", "", "expected \"map_stride\" and a value");
    check_edited("map_swizzle 128", "map_swizzle 16", "swizzle: 16 is none of 0, 32, 64, 128");
    for (size_t length = 0; length < sizeof kernel_text - 1; length++)
        check_damaged(kernel_text, length, "kernel description, line");
    check_edited("convjit-kernel 1", "convjit-kernel 2", "line 1: expected \"convjit-kernel 1\"");
    check_edited("name ", "nome ", "line 2: expected \"name\"");
    check_edited("name ", "name  ", "name \" conv2d_split_c8k8r3s3\" is not a C identifier");
    check_edited("arch sm_90a\n", "", "line 4: expected \"arch\"");
    check_edited("align 16", "align 016", "line 10: align is not a number");
    check_edited("align 16", "align +16", "line 10: align is not a number");
    check_edited("align 16", "align 12", "align: 12 is not a power of two");
    check_edited("align 16", "align 4294967312", "line 10: align is not a number");
    check_edited("because ", "why ", "line 12: expected \"because\"");
    check_edited("block_x 32", "block_x 0", "line 17: block_x is not a number");
    check_edited("block_x 32", "block_x 999999", "block_x: 999999 is not between");
    check_edited("block_x 32", "block_x 1000000", "block_x is not a number");
    check_edited("block_x 32", "block_x 2000", "block_x: 2000 is not between 1 and 1024");
    check_edited("arg input", "arg inputs", "line 21: expected the kind of an argument");
    check_edited("arg input", "arg input 0", "expected the kind of an argument");
    check_edited("arg i32 H * W", "arg i32", "expected the kind of an argument");
    check_edited("arg i32 H * W", "arg i32 ", "i32 is missing");
    check_edited("arg i32 H * W", "arg i32 H * X", "launch 1, arg 4: i32: expression");
    check_edited("end\n", "end\n\n", "expected nothing behind \"end\"");
    check_edited("end\n", "end\r\n", "expected \"end\"");
    check_edited("workspace",
                 "option x\noption x\noption x\noption x\noption x\noption x\noption x\noption x\noption x\n"
                 "option x\noption x\noption x\noption x\noption x\noption x\nworkspace",
                 "line 23: \"option\" comes more often than the limit 16");
    char zero[sizeof kernel_text];
    memcpy(zero, kernel_text, sizeof zero);
    zero[strstr(zero, "fewest") - zero] = 0;
    check_damaged(zero, sizeof zero - 1, "line 6: why holds a zero byte");
}

/* A whole cj_kernel's worth of each list is read; one more is refused. */
static void test_full_lists(void)
{
    cj_kernel *k = make_kernel();
    while (k->n_options < CJ_MAX_OPTIONS)
        k->options[k->n_options++] = text_of("-x");
    for (; k->n_requires < CJ_MAX_REQUIRES; k->n_requires++) {
        k->requires[k->n_requires].expr = text_of("1");
        k->requires[k->n_requires].why = text_of("always");
    }
    while (k->n_launches < CJ_MAX_LAUNCHES)
        add_launch(k, "sum", "1", 1);
    for (int i = 0; i < CJ_MAX_LAUNCHES; i++)
        while (k->launches[i].n_args < CJ_MAX_ARGS)
            add_arg(&k->launches[i], CJ_ARG_I32, "1");
    cj_text text = {0};
    cj_kernel *back = NULL;
    CHECK_OK(cj_kernel_write(k, &text));
    CHECK_OK(cj_kernel_read(text.data, text.length, &back));
    CHECK_INT(back ? back->n_launches : 0, CJ_MAX_LAUNCHES);
    cj_kernel_free(back);
    text.length -= strlen("end\n");
    size_t length = text.length;
    cj_text_puts(&text, "arg i32 1\nend\n");
    check_damaged(text.data, text.length, "\"arg\" comes more often than the limit 32");
    text.length = length;
    cj_text_puts(&text, "launch sum\nend\n");
    check_damaged(text.data, text.length, "\"launch\" comes more often than the limit 8");
    cj_text_free(&text);
    cj_kernel_free(k);
}

static void test_tuple(void)
{
    static const char *const pairs[][2] = {
        {"n8c64h512w256k128r5s7", "c64k128r5s7"},
        {"n8c64h512w256k128r5s7_f16_pad2", "c64k128r5s7_pad2_f16"},
        {"n1c2147483647h1w1k1r1s1_nhwc_leaky_relu-1.17549435e-38", "c2147483647k1r1s1_nhwc_leaky_relu-1.1754944e-38"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        convjit_problem p;
        char text[256];
        CHECK_OK(convjit_problem_parse(&p, pairs[i][0]));
        CHECK_INT(cj_kernel_tuple(&p, text, sizeof text), strlen(pairs[i][1]));
        CHECK_STR(text, pairs[i][1]);
        CHECK_INT(cj_kernel_tuple(&p, text, 5), strlen(pairs[i][1]));
        CHECK_INT(strlen(text), 4);
    }
}

static void test_kind_names(void)
{
    cj_arg_kind kind = CJ_ARG_INPUT;
    for (int i = 0; i < CJ_ARG_KIND_COUNT; i++) {
        const char *name = cj_arg_kind_name((cj_arg_kind)i);
        CHECK(cj_arg_kind_parse(name, strlen(name), &kind));
        CHECK_INT(kind, i);
    }
    CHECK(!cj_arg_kind_parse("i3", 2, &kind));
    CHECK(!cj_arg_kind_parse("i322", 4, &kind));
    CHECK(!cj_arg_kind_parse("", 0, &kind));
    CHECK_STR(cj_arg_kind_name(CJ_ARG_KIND_COUNT), "unknown");
}

int main(void)
{
    test_write_and_read();
    test_check_names();
    test_accepted_names();
    test_check_numbers();
    test_check_launches();
    test_packing();
    test_source();
    test_long_line();
    test_damage();
    test_full_lists();
    test_tuple();
    test_kind_names();
    return check_done("kernel");
}
