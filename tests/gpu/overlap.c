/* overlap.c: plans whose launches overlap, launched again and again with one workspace and no pause: on a GPU, whatever began
 * too early, or ended before what it depends on, then meets the tensors of another launch. */
#include "check.h"
#include "run_problem.h"

enum { SETS = 3, ROUNDS = 60 };

static const char *const problems[] = {
    "n8c64h14w14k64r3s3_pad1_f16", "n8c64h14w14k64r3s3_pad1_f16_nhwc", "n2c70h9w11k130r3s3_pad1_bf16", "n4c128h28w28k128r3s3_pad1",
    "n4c128h28w28k64r3s3_pad1_tf32_bias_relu", "n1c256h7w7k512r3s3_pad1_f16_nhwc_residual", "n32c33h17w15k40r2s5_tf32_nhwc",
    "n16c256h28w28k512r1s1_f16",
};

typedef struct runs { convjit *cj; convjit_problem p; convjit_plan *plan; run_tensors sets[SETS]; void *workspace, *packed; } runs;

static convjit_tensors tensors_of(const runs *r, int i)
{
    const run_tensors *t = &r->sets[i];
    return (convjit_tensors){
        .size = sizeof(convjit_tensors), .input = t->device[CONVJIT_INPUT], .weights = t->device[CONVJIT_WEIGHTS],
        .bias = t->device[CONVJIT_BIAS], .residual = t->device[CONVJIT_RESIDUAL],
        .output = (char *)t->device[CONVJIT_OUTPUT] + GUARD, .workspace = r->workspace,
    };
}

/* Packed: the weights of the next set are packed where the launch before may still have read its own. */
static void launch_all(runs *r, bool packed)
{
    for (int i = 0; i < SETS * ROUNDS && check_failed == 0; i++) {
        convjit_tensors t = tensors_of(r, i % SETS);
        if (packed) {
            CHECK_OK(convjit_weights_pack(r->plan, t.weights, r->packed, NULL));
            t.packed = r->packed;
        }
        CHECK_OK(convjit_plan_launch(r->plan, &t, NULL));
    }
    CHECK_OK(convjit_device_sync(r->cj, NULL));
}

static void compare(runs *r, const char *problem)
{
    for (int i = 0; i < SETS; i++) {
        run_tensors *t = &r->sets[i];
        unsigned char *y = t->host[CONVJIT_OUTPUT];
        cj_check result = {0};
        CHECK_OK(convjit_device_read(r->cj, y, t->device[CONVJIT_OUTPUT], t->bytes[CONVJIT_OUTPUT] + 2 * GUARD));
        convjit_tensors host = {.size = sizeof host, .input = t->host[CONVJIT_INPUT], .weights = t->host[CONVJIT_WEIGHTS],
                                .bias = t->host[CONVJIT_BIAS], .residual = t->host[CONVJIT_RESIDUAL], .output = y + GUARD};
        CHECK_OK(cj_reference_check(&r->p, &host, true, 0, 1, &result));
        CHECK_THAT(result.wrong == 0 && result.of > 0, "%s, set %d: %llu wrong: %s", problem, i, (unsigned long long)result.wrong,
                   result.first);
    }
}

static void run(convjit *cj, const char *problem)
{
    runs r = {.cj = cj};
    CHECK_OK(convjit_problem_parse(&r.p, problem));
    CHECK_OK(convjit_plan_create_with(&r.plan, cj, &r.p, "wgmma"));
    if (!r.plan)
        return;
    for (int i = 0; i < SETS; i++)
        CHECK_OK(run_setup(cj, &r.p, true, (uint64_t)i + 1, &r.sets[i]));
    CHECK_OK(convjit_device_alloc(cj, &r.workspace, convjit_plan_workspace(r.plan)));
    CHECK_OK(convjit_device_alloc(cj, &r.packed, convjit_plan_packed_size(r.plan)));
    for (int packed = 0; packed < 2 && check_failed == 0; packed++) {
        launch_all(&r, packed);
        compare(&r, problem);
    }
    for (int i = 0; i < SETS; i++)
        run_free(cj, &r.sets[i]);
    convjit_device_free(cj, r.workspace);
    convjit_device_free(cj, r.packed);
    convjit_plan_destroy(r.plan);
}

int main(void)
{
    convjit *cj = NULL;
    CHECK_OK(convjit_open(&cj, NULL));
    for (size_t i = 0; cj && i < sizeof problems / sizeof *problems; i++)
        run(cj, problems[i]);
    convjit_close(cj);
    return check_done("overlap");
}
