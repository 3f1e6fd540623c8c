/* threads.c: threads that share a context. All ask for the same kernels at the same time; each kernel is compiled once.
 * usage: threads */
#include <pthread.h>
#include <string.h>
#include "example.h"

enum { THREADS = 8, PROBLEMS = 3 };

static const char *const problems[PROBLEMS] = {
    "n1c4h12w40k8r3s3_pad1",
    "n1c4h12w40k8r5s5_pad2_relu",
    "n1c8h12w40k8r3s3_pad1_g8",
};

typedef struct job {
    convjit *cj;
    int origins[3];       /* how many plans came from memory, disk, the compiler */
    double sum[PROBLEMS]; /* of each output: all threads must agree */
    pthread_t thread;
} job;

static double run(job *j, const char *text)
{
    convjit_problem p;
    convjit_plan *plan;
    TRY(convjit_problem_parse(&p, text));
    TRY(convjit_plan_create(&plan, j->cj, &p));
    j->origins[convjit_plan_origin(plan)]++;

    void *memory[CONVJIT_TENSOR_COUNT] = { NULL }, *workspace = NULL;
    for (int i = 0; i < CONVJIT_TENSOR_COUNT; i++) {
        int64_t elements = convjit_problem_elements(&p, i);
        float *host = allocate((size_t)elements * sizeof *host);
        for (int64_t e = 0; e < elements; e++)
            host[e] = (float)(e % 7) - 3;
        if (elements > 0)
            memory[i] = upload(j->cj, host, tensor_bytes(&p, i));
        free(host);
    }
    if (convjit_plan_workspace(plan) > 0)
        TRY(convjit_device_alloc(j->cj, &workspace, convjit_plan_workspace(plan)));
    convjit_tensors tensors = {
        .size = sizeof tensors, .input = memory[CONVJIT_INPUT], .weights = memory[CONVJIT_WEIGHTS],
        .output = memory[CONVJIT_OUTPUT], .workspace = workspace,
    };
    TRY(convjit_plan_launch(plan, &tensors, NULL));

    int64_t n = convjit_problem_elements(&p, CONVJIT_OUTPUT);
    float *y = allocate((size_t)n * sizeof *y);
    double sum = 0;
    TRY(convjit_device_read(j->cj, y, tensors.output, (size_t)n * sizeof *y));
    for (int64_t i = 0; i < n; i++)
        sum += (double)y[i] * (double)(i % 101 + 1);
    free(y);
    for (int i = 0; i < CONVJIT_TENSOR_COUNT; i++)
        convjit_device_free(j->cj, memory[i]);
    convjit_device_free(j->cj, workspace);
    convjit_plan_destroy(plan);
    return sum;
}

static void *work(void *argument)
{
    job *j = argument;
    for (int i = 0; i < PROBLEMS; i++)
        j->sum[i] = run(j, problems[i]);
    return NULL;
}

int main(void)
{
    static job jobs[THREADS];
    int origins[3] = { 0 };
    const char *device;
    convjit *cj = open_any(&device);
    for (int i = 0; i < THREADS; i++) {
        jobs[i].cj = cj;
        if (pthread_create(&jobs[i].thread, NULL, work, &jobs[i]) != 0) {
            fprintf(stderr, "cannot start a thread\n");
            return 1;
        }
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(jobs[i].thread, NULL);
        for (int from = 0; from < 3; from++)
            origins[from] += jobs[i].origins[from];
        if (memcmp(jobs[i].sum, jobs[0].sum, sizeof jobs[0].sum) != 0) {
            fprintf(stderr, "thread %d has another result than thread 0\n", i);
            return 1;
        }
    }
    convjit_close(cj);
    printf("%d threads, %d kernels, on %s: %d plans compiled their kernel, %d took it from disk, %d from memory\n", THREADS,
           PROBLEMS, device, origins[CONVJIT_COMPILED], origins[CONVJIT_FROM_DISK], origins[CONVJIT_FROM_MEMORY]);
    return 0;
}
