/* plan.c: tests of runtime/plan.c: choosing a kernel, evaluating it for N, H and W, launching it. */
#include <time.h>
#include "fake_context.h"

static _Alignas(256) unsigned char memory[6][4096];

static convjit_tensors all_tensors(void)
{
    return (convjit_tensors){.size = sizeof(convjit_tensors), .input = memory[0], .weights = memory[1],
                             .bias = memory[2], .residual = memory[3], .output = memory[4], .workspace = memory[5]};
}

static convjit_plan *create(fake *f, int64_t n, int64_t h, int64_t w)
{
    convjit_problem p = fake_problem(n, h, w);
    convjit_plan *plan = NULL;
    CHECK_OK(convjit_plan_create(&plan, f->cj, &p));
    return plan;
}

/* A plan that must not come about. */
static convjit_status refused(fake *f, int64_t n, int64_t h, int64_t w, const char *schedule)
{
    convjit_problem p = fake_problem(n, h, w);
    convjit_plan *plan = NULL;
    convjit_status status = convjit_plan_create_with(&plan, f->cj, &p, schedule);
    CHECK(status != CONVJIT_OK && !plan);
    return status;
}

static void test_create(fake *f)
{
    convjit_plan *plan = create(f, 2, 20, 10), *again = create(f, 2, 20, 10), *other = create(f, 5, 30, 10), *krsc = NULL;
    convjit_problem p = fake_problem(2, 20, 10);
    p.weights_layout = CONVJIT_KRSC; /* of one tap: no other memory, and no other plan */
    CHECK_OK(convjit_plan_create(&krsc, f->cj, &p));
    CHECK_INT(convjit_plan_origin(krsc), CONVJIT_FROM_MEMORY);
    CHECK_INT(convjit_plan_origin(plan), CONVJIT_COMPILED);
    CHECK_STR(convjit_plan_schedule(plan), "even:x=1");
    CHECK_INT(convjit_plan_workspace(plan), 0);
    CHECK_INT(convjit_plan_alignment(plan), 16);
    CHECK_INT(convjit_plan_origin(again), CONVJIT_FROM_MEMORY);
    CHECK_INT(convjit_plan_origin(other), CONVJIT_FROM_MEMORY);
    CHECK_INT(f->compiles, 1);
    CHECK_INT(f->loads, 1);
    CHECK_INT(f->functions, 2); /* none for a plan that is there already */
    char *text = NULL;
    CHECK_OK(convjit_plan_describe(other, &text));
    CHECK_HAS(text, "problem    n5c3h30w10k4r1s1\n");
    CHECK_HAS(text, "device     GPU, sm_90a, 132 multiprocessors\n");
    CHECK_HAS(text, "schedule   even:x=1\n           made for N 5 on 132\n"); /* not what was said of N 2 */
    CHECK_HAS(text, "kernel     k_even, from memory\n");
    CHECK_HAS(text, "grid 5 x 30 x 2, block 32 x 2 x 1\n");
    CHECK_HAS(text, "99 registers");
    CHECK_HAS(text, "64 bytes of shared");
    convjit_free(text);
    convjit_plan_destroy(plan);
    convjit_plan_destroy(again);
    convjit_plan_destroy(other);
    convjit_plan_destroy(krsc);
    convjit_plan_destroy(NULL);
}

static void test_launch(fake *f)
{
    convjit_plan *plan = create(f, 2, 20, 10);
    convjit_tensors t = all_tensors();
    int stream;
    f->n_launches = 0;
    t.bias = t.residual = t.workspace = NULL; /* not used */
    CHECK_OK(convjit_plan_launch(plan, &t, &stream));
    CHECK_INT(f->n_launches, 1);
    const fake_launch *l = &f->launches[0];
    CHECK_STR(l->entry, "even_main");
    CHECK(l->grid[0] == 2 && l->grid[1] == 20 && l->grid[2] == 2);
    CHECK(l->block[0] == 32 && l->block[1] == 2 && l->block[2] == 1);
    CHECK_INT(l->smem, 64);
    CHECK_INT(l->n_args, 5);
    CHECK(l->stream == &stream);
    CHECK(fake_arg_pointer(l, 0) == t.input && fake_arg_pointer(l, 1) == t.weights);
    CHECK(fake_arg_pointer(l, 2) == t.output);
    CHECK_INT(fake_arg_i32(l, 3), 20);
    CHECK_INT(fake_arg_i64(l, 4), 400);
    f->n_launches = 0;
    f->fail_launch = 1;
    CHECK_FAILS(convjit_plan_launch(plan, &t, NULL), CONVJIT_DRIVER, "launch 1 fails");
    f->fail_launch = 0;
    convjit_plan_destroy(plan);
}

static void test_bad_launch(fake *f)
{
    convjit_plan *plan = create(f, 2, 20, 10);
    convjit_tensors good = all_tensors(), t = good;
    f->n_launches = 0;
    CHECK_FAILS(convjit_plan_launch(NULL, &t, NULL), CONVJIT_INVALID, "plan is NULL");
    CHECK_FAILS(convjit_plan_launch(plan, NULL, NULL), CONVJIT_INVALID, "convjit_tensors is NULL");
    t.size = 8;
    CHECK_FAILS(convjit_plan_launch(plan, &t, NULL), CONVJIT_INVALID, "size 8");
    t = good;
    t.input = NULL;
    CHECK_FAILS(convjit_plan_launch(plan, &t, NULL), CONVJIT_INVALID, "input is NULL");
    t = good;
    t.weights = NULL;
    CHECK_FAILS(convjit_plan_launch(plan, &t, NULL), CONVJIT_INVALID, "weights is NULL");
    t = good;
    t.output = NULL;
    CHECK_FAILS(convjit_plan_launch(plan, &t, NULL), CONVJIT_INVALID, "output is NULL");
    t = good;
    t.weights = memory[1] + 8;
    CHECK_FAILS(convjit_plan_launch(plan, &t, NULL), CONVJIT_INVALID, "weights is not aligned to 16 bytes");
    t = good;
    t.output = memory[0];
    CHECK_FAILS(convjit_plan_launch(plan, &t, NULL), CONVJIT_INVALID, "output is also the input");
    t = good;
    t.bias = memory[2] + 1; /* not used, so not looked at */
    CHECK_OK(convjit_plan_launch(plan, &t, NULL));
    CHECK_INT(f->n_launches, 1);
    convjit_plan_destroy(plan);
}

/* An odd W, and H > 100: `two` serves, with two launches and a workspace. */
static void test_two_launches(fake *f)
{
    convjit_plan *plan = create(f, 2, 200, 11);
    convjit_tensors t = all_tensors();
    f->n_launches = 0;
    CHECK_STR(convjit_plan_schedule(plan), "two:x=1");
    CHECK_INT(convjit_plan_workspace(plan), 2048);
    t.workspace = NULL;
    CHECK_FAILS(convjit_plan_launch(plan, &t, NULL), CONVJIT_INVALID, "workspace is NULL");
    t.workspace = memory[5] + 16;
    CHECK_FAILS(convjit_plan_launch(plan, &t, NULL), CONVJIT_INVALID, "workspace is not aligned to 256 bytes");
    CHECK_INT(f->n_launches, 0);
    t.workspace = memory[5];
    CHECK_OK(convjit_plan_launch(plan, &t, NULL));
    CHECK_INT(f->n_launches, 2);
    const fake_launch *l = f->launches;
    CHECK_STR(l[0].entry, "two_partial");
    CHECK(l[0].grid[0] == 200 && l[0].grid[1] == 11 && l[0].grid[2] == 2 && l[0].block[0] == 64);
    CHECK(fake_arg_pointer(&l[0], 2) == memory[5] + 256);
    CHECK_STR(l[1].entry, "two_sum");
    CHECK(l[1].grid[0] == 2 && l[1].block[0] == 128 && l[1].smem == 8);
    CHECK(fake_arg_pointer(&l[1], 0) == memory[5] + 44 && fake_arg_pointer(&l[1], 1) == t.output);
    f->n_launches = 0;
    f->fail_launch = 2;
    CHECK_FAILS(convjit_plan_launch(plan, &t, NULL), CONVJIT_DRIVER, "launch 2 fails");
    f->fail_launch = 0;
    convjit_plan_destroy(plan);
}

static convjit_plan *create_mapped(fake *f, int64_t n, int64_t h, int64_t w)
{
    convjit_problem p = fake_problem(n, h, w);
    convjit_plan *plan = NULL;
    CHECK_OK(convjit_plan_create_with(&plan, f->cj, &p, "mapped"));
    return plan;
}

/* Tensor maps are made at each launch, of the launch's pointers; clusters and overlap are attributes. */
static void test_maps(fake *f)
{
    convjit_plan *plan = create_mapped(f, 2, 20, 10);
    convjit_tensors t = all_tensors();
    char *text = NULL;
    f->n_launches = f->n_maps = 0;
    CHECK_OK(convjit_plan_launch(plan, &t, NULL));
    const fake_launch *l = &f->launches[0];
    CHECK_STR(l->entry, "mapped_main");
    CHECK(l->attributes.cluster[0] == 1 && l->attributes.cluster[1] == 2 && l->attributes.cluster[2] == 1);
    CHECK(!l->attributes.overlap && l[1].attributes.overlap && l[1].attributes.cluster[1] == 1);
    CHECK(fake_arg_i32(l, 0) == 10 && fake_arg_pointer(l, 1) == memory[0] && fake_arg_pointer(l, 3) == memory[4]);
    CHECK(fake_arg_pointer(l, 2) == memory[5] + 16);
    const cj_tensor_map *m = f->maps;
    CHECK(m[0].rank == 2 && m[0].element == CJ_MAP_F16 && m[0].dims[0] == 64 && m[0].dims[1] == 10);
    CHECK(m[0].strides[0] == 128 * 20 && m[0].box[1] == 8 && m[0].element_strides[1] == 2 && m[0].swizzle == 128);
    CHECK(m[1].rank == 1 && m[1].element == CJ_MAP_F32 && m[1].dims[0] == 200 && m[1].swizzle == 0);
    t.input = memory[1];
    CHECK_OK(convjit_plan_launch(plan, &t, NULL));
    CHECK(fake_arg_pointer(&f->launches[2], 1) == memory[1]);
    t.input = NULL;
    CHECK_FAILS(convjit_plan_launch(plan, &t, NULL), CONVJIT_INVALID, "input is NULL");
    CHECK_OK(convjit_plan_describe(plan, &text));
    CHECK_HAS(text, "grid 2 x 20 x 1, block 32 x 1 x 1, cluster 1 x 2 x 1\n");
    CHECK_HAS(text, "grid 2 x 1 x 1, block 32 x 1 x 1, overlaps the one before\n");
    convjit_free(text);
    convjit_plan_destroy(plan);
    CHECK_INT(refused(f, 2, 21, 10, "mapped"), CONVJIT_UNSUPPORTED);
    CHECK_HAS(convjit_errmsg(), "launches[1].grid[2] is 21 (H), no multiple of the cluster's 2");
    CHECK_INT(refused(f, 1, 20, 10, "mapped"), CONVJIT_UNSUPPORTED);
    CHECK_HAS(convjit_errmsg(), "launches[1].args[3]: the offset 8 is no multiple of 16");
    CHECK_INT(refused(f, 2, 65534, 1 << 17, "mapped"), CONVJIT_UNSUPPORTED);
    CHECK_HAS(convjit_errmsg(), "launches[1].args[3]: dims[1]: 8589672448 is not between 1 and 4294967296");
}

/* Weights are packed in each launch, behind the workspace; or once, where the caller says. */
static void test_packing(fake *f)
{
    convjit_problem p = fake_problem(3, 20, 10);
    convjit_plan *plan = NULL, *plain = create(f, 2, 20, 11);
    convjit_tensors t = all_tensors();
    char *text = NULL;
    const fake_launch *l = f->launches;
    CHECK_OK(convjit_plan_create_with(&plan, f->cj, &p, "packing"));
    CHECK_INT(convjit_plan_packed_size(plan), 1024); /* a multiple of 256, as is where it begins */
    CHECK_INT(convjit_plan_workspace(plan), 512 + 1024);
    f->n_launches = 0;
    CHECK_OK(convjit_plan_launch(plan, &t, NULL));
    CHECK_INT(f->n_launches, 4);
    CHECK_STR(l[0].entry, "packing_first");
    CHECK(fake_arg_pointer(&l[0], 0) == memory[1] && fake_arg_pointer(&l[0], 1) == memory[5] + 512 + 16);
    CHECK(fake_arg_pointer(&l[2], 1) == memory[5] + 32 && fake_arg_pointer(&l[3], 1) == memory[5] + 512);
    CHECK(!l[0].attributes.overlap && l[1].attributes.overlap && l[2].attributes.overlap && l[3].attributes.overlap);

    f->n_launches = 0;
    CHECK_OK(convjit_weights_pack(plan, memory[1], memory[2], NULL));
    CHECK_INT(f->n_launches, 2);
    CHECK_STR(l[1].entry, "packing_then");
    CHECK(fake_arg_pointer(&l[0], 1) == memory[2] + 16 && !l[0].attributes.overlap && l[1].attributes.overlap);

    t.packed = memory[2];
    t.weights = NULL; /* nobody reads them */
    f->n_launches = 0;
    CHECK_OK(convjit_plan_launch(plan, &t, NULL));
    CHECK_INT(f->n_launches, 2);
    CHECK_STR(l[0].entry, "packing_input");
    CHECK(!l[0].attributes.overlap && l[1].attributes.overlap); /* what ran before may write what it reads */
    CHECK(fake_arg_pointer(&l[1], 0) == memory[5] && fake_arg_pointer(&l[1], 1) == memory[2]);

    f->n_launches = 0;
    t.size = offsetof(convjit_tensors, packed); /* as it was before there was `packed` */
    CHECK_FAILS(convjit_plan_launch(plan, &t, NULL), CONVJIT_INVALID, "weights is NULL");
    t.weights = memory[1];
    CHECK_OK(convjit_plan_launch(plan, &t, NULL));
    CHECK_INT(f->n_launches, 4);
    t.size = sizeof t;
    t.packed = memory[2] + 16;
    CHECK_FAILS(convjit_plan_launch(plan, &t, NULL), CONVJIT_INVALID, "packed is not aligned to 256 bytes");
    CHECK_FAILS(convjit_weights_pack(plan, memory[1], NULL, NULL), CONVJIT_INVALID, "packed is NULL");
    CHECK_FAILS(convjit_weights_pack(plan, NULL, memory[2], NULL), CONVJIT_INVALID, "weights is NULL");
    CHECK_FAILS(convjit_weights_pack(plan, memory[1] + 1, memory[2], NULL), CONVJIT_INVALID, "weights is not aligned to 16 bytes");
    CHECK_FAILS(convjit_weights_pack(NULL, memory[1], memory[2], NULL), CONVJIT_INVALID, "plan is NULL");
    CHECK_OK(convjit_plan_describe(plan, &text));
    CHECK_HAS(text, "workspace  1536 bytes, of which 1024 for packed weights\n");
    convjit_free(text);

    f->n_launches = 0;
    CHECK_INT(convjit_plan_packed_size(plain), 0);
    CHECK_OK(convjit_weights_pack(plain, memory[1], NULL, NULL)); /* nothing to do */
    CHECK_INT(f->n_launches, 0);
    CHECK_OK(convjit_plan_launch(plain, &t, NULL)); /* ignores `packed` */
    convjit_plan_destroy(plain);
    convjit_plan_destroy(plan);
}

static void test_candidates(fake *f)
{
    convjit_plan *plan = create(f, 2, 20, 11), *named = NULL;
    convjit_problem p = fake_problem(2, 20, 10);
    CHECK_STR(convjit_plan_schedule(plan), "plain:x=1"); /* even and two are not for an odd W and few rows */
    convjit_plan_destroy(plan);
    CHECK_OK(convjit_plan_create_with(&named, f->cj, &p, "plain"));
    CHECK_STR(convjit_plan_schedule(named), "plain:x=1"); /* asked for, although even would serve */
    convjit_plan_destroy(named);
    CHECK_OK(convjit_plan_create_with(&named, f->cj, &p, "plain:x=1"));
    convjit_plan_destroy(named);
    CHECK_INT(refused(f, 2, 20, 10, "nonsense"), CONVJIT_INVALID);
    CHECK_HAS(convjit_errmsg(), "unknown schedule nonsense");
    CHECK_INT(refused(f, 2, 20, 11, "even"), CONVJIT_UNSUPPORTED);
    CHECK_HAS(convjit_errmsg(), "schedule even:x=1 requires W % 2 == 0: pairs of columns");
    CHECK_INT(refused(f, 2, 20, 11, "even:x=1"), CONVJIT_UNSUPPORTED);
    p.c = 7;
    CHECK_FAILS(convjit_plan_create(&plan, f->cj, &p), CONVJIT_UNSUPPORTED, "seven channels");
    p = fake_problem(2, 20, 11);
    p.c = 9; /* two and plain were not looked at, and now they are */
    CHECK_OK(convjit_plan_create(&plan, f->cj, &p));
    CHECK_STR(convjit_plan_schedule(plan), "plain:x=1");
    convjit_plan_destroy(plan);
    p.h = 65536;
    p.w = 1001;
    CHECK_FAILS(convjit_plan_create(&plan, f->cj, &p), CONVJIT_UNSUPPORTED, "; schedule two:x=1: launches[2].args[1]");
    CHECK_HAS(convjit_errmsg(), "; schedule plain:x=1: launches[1].");
}

static void test_limits(fake *f)
{
    CHECK_INT(refused(f, 1, 65536, 1, "plain"), CONVJIT_UNSUPPORTED);
    CHECK_HAS(convjit_errmsg(), "schedule plain:x=1: launches[1].grid[2] is 65536 (H), above the limit 65535");
    CHECK_INT(refused(f, 1, 1, 1001, "plain"), CONVJIT_UNSUPPORTED);
    CHECK_HAS(convjit_errmsg(), "launches[1].smem is 1001 (W), above the limit 1000");
    CHECK_INT(refused(f, 1, 3000, 999, "plain"), CONVJIT_UNSUPPORTED);
    CHECK_HAS(convjit_errmsg(), "launches[1].args[5] is 9990000000 (10000000 * W * (H > 2000)), ");
    CHECK_HAS(convjit_errmsg(), "above the limit 2147483647");
    CHECK_INT(refused(f, 1, 1, 13, "plain"), CONVJIT_UNSUPPORTED);
    CHECK_HAS(convjit_errmsg(), "schedule plain:x=1: launches[1].args[6]");
    CHECK_HAS(convjit_errmsg(), "division by zero");
    CHECK_INT(refused(f, 1, 200, 301, "two"), CONVJIT_UNSUPPORTED);
    CHECK_HAS(convjit_errmsg(), "launches[2].args[1] is 1204 (4 * W), above the limit 1024");
    CHECK_INT(refused(f, 1, 65536, 1001, NULL), CONVJIT_UNSUPPORTED); /* all reasons */
    CHECK_HAS(convjit_errmsg(), "schedule even:x=1 requires W % 2 == 0");
    CHECK_HAS(convjit_errmsg(), "; schedule two:x=1: launches[2].args[1]");
    CHECK_HAS(convjit_errmsg(), "; schedule plain:x=1: launches[1].");
    CHECK_INT(refused(f, 1, 200, INT64_C(1) << 30, "two"), CONVJIT_UNSUPPORTED);
}

static void test_bad_arguments(fake *f)
{
    convjit_problem p = fake_problem(1, 8, 8);
    convjit_plan *plan = NULL;
    char *text;
    CHECK_FAILS(convjit_plan_create(NULL, f->cj, &p), CONVJIT_INVALID, "plan is NULL");
    CHECK_FAILS(convjit_plan_create(&plan, NULL, &p), CONVJIT_INVALID, "cj is NULL");
    CHECK_FAILS(convjit_plan_create(&plan, f->cj, NULL), CONVJIT_INVALID, "convjit_problem is NULL");
    CHECK_FAILS(convjit_plan_describe(NULL, &text), CONVJIT_INVALID, "plan is NULL");
    p.size = 8;
    CHECK_FAILS(convjit_plan_create(&plan, f->cj, &p), CONVJIT_INVALID, "size 8");
    p = fake_problem(0, 8, 8);
    CHECK_FAILS(convjit_plan_create(&plan, f->cj, &p), CONVJIT_INVALID, "n 0");
    CHECK(!plan);
}

/* Each failure of compiler or device is reported, and the next call tries again. */
static void test_failures(void)
{
    fake f;
    fake_open(&f, NULL, true, 0);
    f.fail_compile = true;
    CHECK_INT(refused(&f, 1, 8, 8, NULL), CONVJIT_COMPILE);
    CHECK_HAS(convjit_errmsg(), "k_even does not compile");
    f.fail_compile = false;
    f.fail_load = true;
    CHECK_INT(refused(&f, 1, 8, 8, NULL), CONVJIT_DRIVER);
    CHECK_HAS(convjit_errmsg(), "kernel k_even: no room for a module");
    f.fail_load = false;
    f.loads = 0;
    f.fail_function = true;
    CHECK_INT(refused(&f, 1, 8, 8, NULL), CONVJIT_DRIVER);
    CHECK_HAS(convjit_errmsg(), "no function even_main");
    f.fail_function = false;
    convjit_plan_destroy(create(&f, 1, 8, 8));
    CHECK_INT(f.compiles, 2);
    CHECK_INT(f.loads, 1);
    fake_close(&f);
    fake_remove(f.dir);
}

/* Another CUDA context: the same binary, loaded once more. */
static void test_bindings(void)
{
    fake f;
    fake_open(&f, NULL, true, 0);
    convjit_plan *one = create(&f, 1, 8, 8);
    f.binding = 2;
    convjit_plan *two = create(&f, 1, 8, 8), *again = create(&f, 1, 8, 8);
    CHECK_INT(f.compiles, 1);
    CHECK_INT(f.loads, 2);
    convjit_plan_destroy(one);
    convjit_plan_destroy(two);
    convjit_plan_destroy(again);
    fake_close(&f);
    fake_remove(f.dir);
}

/* With no compiler the best schedule that is in the cache serves. */
static void test_no_compiler(void)
{
    fake with, without;
    fake_open(&with, NULL, false, 0);
    convjit_problem p = fake_problem(1, 200, 10);
    convjit_plan *plan = NULL;
    CHECK_OK(convjit_plan_create_with(&plan, with.cj, &p, "plain"));
    convjit_plan_destroy(plan);
    fake_close(&with);

    fake_open(&without, &with, false, 0);
    without.no_compiler = true;
    plan = create(&without, 3, 300, 20);
    CHECK_STR(convjit_plan_schedule(plan), "plain:x=1");
    CHECK_INT(convjit_plan_origin(plan), CONVJIT_FROM_DISK);
    convjit_plan_destroy(plan);
    CHECK_INT(refused(&without, 3, 300, 20, "even"), CONVJIT_NO_COMPILER);
    CHECK_HAS(convjit_errmsg(), "c3k4r1s1 with schedule even:x=1 for sm_90a is not in the cache (directory: ");
    CHECK_HAS(convjit_errmsg(), without.dir);
    CHECK_HAS(convjit_errmsg(), "looked in vain");
    p.k = 5; /* none of its kernels is in the cache: the message is about the best */
    CHECK_FAILS(convjit_plan_create(&plan, without.cj, &p), CONVJIT_NO_COMPILER, "c3k5r1s1 with schedule even:x=1");
    p.w = 11; /* odd */
    CHECK_FAILS(convjit_plan_create(&plan, without.cj, &p), CONVJIT_NO_COMPILER, "c3k5r1s1 with schedule two:x=1");
    fake_close(&without);
    fake_remove(with.dir);
}

static void test_log(void)
{
    fake f;
    fake_open(&f, NULL, true, 1);
    convjit_plan_destroy(create(&f, 1, 8, 8));
    convjit_plan_destroy(create(&f, 1, 8, 8));
    CHECK_INT(f.n_lines, 2);
    CHECK_HAS(f.lines[0], "convjit,v1,plan,n1c3h8w8k4r1s1,even:x=1,compiled,");
    CHECK_HAS(f.lines[1], "convjit,v1,plan,n1c3h8w8k4r1s1,even:x=1,memory,");
    fake_close(&f);
    fake_remove(f.dir);
    fake_open(&f, NULL, true, 2);
    convjit_plan_destroy(create(&f, 1, 8, 8));
    convjit_plan_destroy(create(&f, 1, 8, 8));
    CHECK_INT(f.n_lines, 3);
    CHECK_STR(f.lines[0], "convjit,v1,refused,n1c3h8w8k4r1s1,tensor: no such cores");
    fake_close(&f);
    fake_remove(f.dir);
}

/* More plans than the table of ready ones has room for; some outlive their place in it. */
static void test_many(fake *f)
{
    enum { MANY = 1500 };
    static convjit_plan *plans[MANY];
    for (int i = 0; i < MANY; i++)
        plans[i] = create(f, 1 + i, 8, 8);
    convjit_tensors t = all_tensors();
    int wrong = 0;
    for (int i = 0; i < MANY; i++) {
        f->n_launches = 0;
        wrong += convjit_plan_launch(plans[i], &t, NULL) != CONVJIT_OK || f->launches[0].grid[0] != (unsigned)(1 + i);
    }
    CHECK_INT(wrong, 0);
    for (int i = 0; i < MANY; i++)
        convjit_plan_destroy(plans[i]);
    CHECK_INT(f->loads, 6); /* one for each of the six kernels that f has used */
}

/* ---- Many threads ---- */

enum { THREADS = 8, ROUNDS = 200 };

typedef struct job {
    fake *f;
    pthread_barrier_t *start;
    int failures;
} job;

static void *plan_job(void *user)
{
    job *j = user;
    convjit_tensors t = all_tensors();
    pthread_barrier_wait(j->start);
    for (int i = 0; i < ROUNDS; i++) {
        convjit_problem p = fake_problem(1 + i % 5, 8, 8);
        convjit_plan *plan = NULL;
        if (convjit_plan_create(&plan, j->f->cj, &p) != CONVJIT_OK || convjit_plan_launch(plan, &t, NULL) != CONVJIT_OK)
            j->failures++;
        convjit_plan_destroy(plan);
    }
    return NULL;
}

static void test_threads(void)
{
    fake f;
    job jobs[THREADS];
    pthread_t threads[THREADS];
    pthread_barrier_t start;
    fake_open(&f, NULL, false, 0);
    f.count_only = true;
    f.compile_ms = 100;
    pthread_barrier_init(&start, NULL, THREADS);
    for (int i = 0; i < THREADS; i++) {
        jobs[i] = (job){.f = &f, .start = &start};
        CHECK(pthread_create(&threads[i], NULL, plan_job, &jobs[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK_INT(jobs[i].failures, 0);
    }
    pthread_barrier_destroy(&start);
    CHECK_INT(f.compiles, 1);
    CHECK_INT(f.loads, 1);
    CHECK_INT(f.n_launches, THREADS * ROUNDS);
    fake_close(&f);
    fake_remove(f.dir);
}

/* ---- Speed ---- */

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* Printed; the check is lax, for machines that are busy. */
static void test_speed(fake *f)
{
    enum { CALLS = 100000 };
    convjit_problem p = fake_problem(2, 200, 11);
    convjit_tensors t = all_tensors();
    convjit_plan *plan = create(f, 2, 200, 11);
    f->count_only = true;
    double start = seconds();
    for (int i = 0; i < CALLS; i++) {
        convjit_plan *again = NULL;
        if (convjit_plan_create(&again, f->cj, &p) != CONVJIT_OK)
            break;
        convjit_plan_destroy(again);
    }
    double create_us = (seconds() - start) / CALLS * 1e6;
    f->n_launches = 0;
    start = seconds();
    for (int i = 0; i < CALLS; i++)
        if (convjit_plan_launch(plan, &t, NULL) != CONVJIT_OK)
            break;
    double launch_us = (seconds() - start) / CALLS * 1e6;
    CHECK_INT(f->n_launches, 2 * CALLS);
    printf("plan: created again and destroyed in %.3f us; a plan of two launches launched in %.3f us\n", create_us,
           launch_us);
    CHECK(create_us < 20 && launch_us < 5);
    convjit_plan_destroy(plan);
}

int main(void)
{
    fake f;
    fake_open(&f, NULL, false, 0);
    test_create(&f);
    test_launch(&f);
    test_bad_launch(&f);
    test_maps(&f);
    test_packing(&f);
    test_two_launches(&f);
    test_candidates(&f);
    test_limits(&f);
    test_bad_arguments(&f);
    test_many(&f);
    test_speed(&f);
    fake_close(&f);
    fake_remove(f.dir);
    test_failures();
    test_bindings();
    test_no_compiler();
    test_log();
    test_threads();
    return check_done("plan");
}
