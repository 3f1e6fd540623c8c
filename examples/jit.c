/* jit.c: from a problem string to a result through the C API.
 * usage: jit      no arguments; uses the GPU if there is one */
#include <string.h>
#include "example.h"

/* Runs the problem on data of ones, whose result is easy to know: each output is the number of taps inside the image. */
static void convolve_ones(convjit *cj, const char *text)
{
    convjit_problem p;
    convjit_plan *plan;
    TRY(convjit_problem_parse(&p, text));
    TRY(convjit_plan_create(&plan, cj, &p)); /* generates, and compiles or finds the kernel in the cache */

    int64_t n_x = convjit_problem_elements(&p, CONVJIT_INPUT), n_w = convjit_problem_elements(&p, CONVJIT_WEIGHTS);
    int64_t n_y = convjit_problem_elements(&p, CONVJIT_OUTPUT);
    float *ones = allocate((size_t)(n_x > n_w ? n_x : n_w) * sizeof *ones), *y = allocate((size_t)n_y * sizeof *y);
    for (int64_t i = 0; i < (n_x > n_w ? n_x : n_w); i++)
        ones[i] = 1;
    void *dx = upload(cj, ones, tensor_bytes(&p, CONVJIT_INPUT)), *dw = upload(cj, ones, tensor_bytes(&p, CONVJIT_WEIGHTS));
    void *dy, *workspace = NULL;
    TRY(convjit_device_alloc(cj, &dy, tensor_bytes(&p, CONVJIT_OUTPUT)));
    if (convjit_plan_workspace(plan) > 0)
        TRY(convjit_device_alloc(cj, &workspace, convjit_plan_workspace(plan)));

    convjit_tensors tensors = { .size = sizeof tensors, .input = dx, .weights = dw, .output = dy, .workspace = workspace };
    TRY(convjit_plan_launch(plan, &tensors, NULL));                                     /* enqueues */
    TRY(convjit_device_read(cj, y, dy, tensor_bytes(&p, CONVJIT_OUTPUT)));               /* waits */

    static const char *const from[] = { "memory", "disk", "the compiler" };
    int64_t P = convjit_problem_p(&p), Q = convjit_problem_q(&p);
    float corner = y[0], middle = y[P / 2 * Q + Q / 2];
    printf("%-28s kernel from %-12s  corner %g, middle %g\n", text, from[convjit_plan_origin(plan)], (double)corner,
           (double)middle);
    if (corner != (float)(p.c * (p.r - 1) * (p.s - 1)) || middle != (float)(p.c * p.r * p.s)) {
        fprintf(stderr, "wrong result\n");
        exit(1);
    }
    convjit_device_free(cj, dx);
    convjit_device_free(cj, dw);
    convjit_device_free(cj, dy);
    convjit_device_free(cj, workspace);
    convjit_plan_destroy(plan);
    free(ones);
    free(y);
}

/* What the plan is made of, for people. */
static void describe(convjit *cj, const char *text)
{
    convjit_problem p;
    convjit_plan *plan;
    char *description;
    TRY(convjit_problem_parse(&p, text));
    TRY(convjit_plan_create(&plan, cj, &p));
    TRY(convjit_plan_describe(plan, &description));
    printf("\n%s\n", description);
    convjit_free(description);
    convjit_plan_destroy(plan);
}

int main(void)
{
    const char *device;
    convjit *cj = open_any(&device);
    printf("on %s\n", device);
    convolve_ones(cj, "n1c3h20w24k8r3s3_pad1");
    convolve_ones(cj, "n2c3h33w57k8r3s3_pad1"); /* another n, h and w: the same kernel */
    describe(cj, "n2c3h33w57k8r3s3_pad1");
    convjit_close(cj);
    return 0;
}
