/* rounding.c: no schedule lets tensor cores truncate floats. Truncation passes every bound for a single output, because it is no
 * larger than two roundings, but its errors have one direction and add up over a network's layers. Numbers that lie 3/4 of the
 * way to the next TF32 number tell the two apart: rounded they are 1/4 of the distance off, truncated 3/4. */
#include <math.h>
#include "check.h"
#include "run_problem.h"

/* Without padding, so that all outputs are sums of as many products; the schedules' names alone stand for their best candidates. */
static const struct { const char *tuple, *schedule; } kernels[] = {
    { "n1c64h9w12k64r3s3", "wgmma" },
    { "n1c64h9w12k64r3s3", "wgmma:wm=1,tp=5,sq=2,ni=1,cb=128,lw=0,split=1,box=1" },
    { "n1c64h9w12k64r3s3", "wgmma:wm=1,tp=5,sq=2,ni=1,cb=128,lw=16,split=1,box=0" },
    { "n1c64h9w12k64r3s3", "mma" },
    { "n1c256h4w8k1024r1s1", "mma" },
    { "n1c256h4w8k1024r1s1", "pointwise" },
    { "n8c256h16w16k512r1s1", "pointwise" },
    { "n1c256h4w8k1024r1s1", "gemm" },
    { "n8c256h16w16k512r1s1", "gemm:tk=128,st=3,bq=64,bp=1,bn=1,hold=0,one=0,pairs=0,piece=0" },
    { "n1c3h20w20k16r7s7_stride2", "few_channels" },
    { "n1c16h9w40k64r3s3", "few_channels" },
    { "n2c64h9w12k64r3s3_g8", "grouped" },
    { "n2c64h9w12k64r3s3_g64", "depthwise" },
    { "n1c20h9w12k24r3s3", "direct" },
};
enum { KERNELS = sizeof kernels / sizeof *kernels };

static void fill(float *to, size_t bytes, float value)
{
    for (size_t i = 0; i < bytes / sizeof *to; i++) to[i] = value;
}

/* The largest relative error of the outputs for an x and weights of one value each; -1 after a failure. */
static double worst(convjit *cj, const convjit_problem *p, const convjit_plan *plan, float x, float w)
{
    run_tensors t = { 0 };
    double error = -1, expected = (double)x * w * p->c / p->groups * p->r * p->s;
    convjit_status s = run_setup(cj, p, true, 0, &t);
    if (!s) {
        fill(t.host[CONVJIT_INPUT], t.bytes[CONVJIT_INPUT], x);
        fill(t.host[CONVJIT_WEIGHTS], t.bytes[CONVJIT_WEIGHTS], w);
        s = convjit_device_write(cj, t.device[CONVJIT_INPUT], t.host[CONVJIT_INPUT], t.bytes[CONVJIT_INPUT]);
    }
    if (!s) s = convjit_device_write(cj, t.device[CONVJIT_WEIGHTS], t.host[CONVJIT_WEIGHTS], t.bytes[CONVJIT_WEIGHTS]);
    if (!s) s = run_reserve(cj, plan, 0, &t);
    convjit_tensors device = { .size = sizeof device, .input = t.device[CONVJIT_INPUT], .weights = t.device[CONVJIT_WEIGHTS],
                               .output = t.device[CONVJIT_OUTPUT], .workspace = t.workspace };
    if (!s) s = convjit_plan_launch(plan, &device, NULL);
    if (!s) s = convjit_device_sync(cj, NULL);
    if (!s) s = convjit_device_read(cj, t.host[CONVJIT_OUTPUT], t.device[CONVJIT_OUTPUT], t.bytes[CONVJIT_OUTPUT]);
    CHECK_OK(s);
    const float *y = t.host[CONVJIT_OUTPUT];
    for (size_t i = 0; !s && i < t.bytes[CONVJIT_OUTPUT] / sizeof *y; i++) {
        double off = fabs(y[i] / expected - 1);
        error = off > error || isnan(off) ? off : error;
    }
    run_free(cj, &t);
    return error;
}

static void check_kernel(convjit *cj, const char *tuple, const char *schedule, const char *layout, const char *math, double most)
{
    char text[128];
    convjit_problem p;
    convjit_plan *plan = NULL;
    snprintf(text, sizeof text, "%s%s%s", tuple, math, layout);
    CHECK_OK(convjit_problem_parse(&p, text));
    convjit_status s = convjit_plan_create_with(&plan, cj, &p, schedule);
    if (strstr(schedule, "box=1") && !*math && s) return; /* strict f32 takes no boxes */
    CHECK_THAT(!s, "%s, %s: %s", text, schedule, convjit_errmsg());
    if (s) return;
    const float between = 1 + 3 * 0x1p-12f;
    double of_x = worst(cj, &p, plan, between, 1), of_w = worst(cj, &p, plan, 1, between);
    CHECK_THAT(of_x >= 0 && of_x <= most && of_w >= 0 && of_w <= most, "%s, %s: pixels are %.3g off, weights %.3g; at most %.3g", text,
               schedule, of_x, of_w, most);
    convjit_plan_destroy(plan);
}

int main(void)
{
    convjit_config config = { .size = sizeof config, .device = CONVJIT_EMU, .arch = "sm_90a" };
    convjit *cj = NULL;
    setenv("CONVJIT_CACHE_DIR", "", 1);
    CHECK_OK(convjit_open(&cj, &config));
    for (int i = 0; cj && i < KERNELS; i++)
        for (int layout = 0; layout < 2; layout++) {
            const char *name = layout ? "_nhwc" : "";
            check_kernel(cj, kernels[i].tuple, kernels[i].schedule, name, "_tf32", 0.3 * 0x1p-10);
            check_kernel(cj, kernels[i].tuple, kernels[i].schedule, name, "", 0x1p-20);
        }
    convjit_close(cj);
    return check_done("emu-rounding");
}
