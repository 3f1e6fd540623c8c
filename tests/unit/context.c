/* context.c: tests of runtime/context.c: opening, generated text, information; with neither GPU nor NVRTC. */
#include <stdlib.h>
#include "check.h"
#include "internal.h"

static convjit_config config_without_gpu(void)
{
    return (convjit_config){.size = sizeof(convjit_config), .cache_dir = "", .nvrtc = "none", .driver = "none"};
}

static void test_open(void)
{
    convjit *cj = NULL;
    convjit_config config = config_without_gpu();
    CHECK_FAILS(convjit_open(NULL, &config), CONVJIT_INVALID, "cj is NULL");
    config.size = 12;
    CHECK_FAILS(convjit_open(&cj, &config), CONVJIT_INVALID, "size 12");
    config = config_without_gpu();
    config.device = (convjit_device)7;
    CHECK_FAILS(convjit_open(&cj, &config), CONVJIT_INVALID, "device 7 is neither");
    config = config_without_gpu();
    config.ordinal = -1;
    CHECK_FAILS(convjit_open(&cj, &config), CONVJIT_INVALID, "ordinal -1");
    config = config_without_gpu();
    config.arch = "sm_90a_and_more_of_it";
    CHECK_FAILS(convjit_open(&cj, &config), CONVJIT_INVALID, "arch has 21 characters, above the limit 15");
    CHECK(!cj);
    convjit_close(NULL);
    CHECK_OK(convjit_open(&cj, NULL)); /* the defaults; touches nothing */
    convjit_close(cj);
}

/* The strings of a configuration are copied. */
static void test_generate(void)
{
    char arch[] = "sm_80";
    convjit *cj = NULL;
    convjit_config config = config_without_gpu();
    convjit_problem p;
    char *text = NULL, *again = NULL;
    config.arch = arch;
    CHECK_OK(convjit_open(&cj, &config));
    strcpy(arch, "xxxx");
    CHECK_OK(convjit_problem_parse(&p, "n2c8h20w24k16r3s5_pad1x2"));
    CHECK_OK(convjit_generate(cj, &p, NULL, NULL, &text));
    CHECK_HAS(text, "// target    sm_80\n");
    CHECK_OK(convjit_generate(cj, &p, "sm_80", NULL, &again));
    CHECK_STR(again, text);
    convjit_free(again);
    convjit_free(text);
    CHECK_OK(convjit_generate(cj, &p, "sm_90a", "direct", &text));
    CHECK_HAS(text, "// target    sm_90a\n");
    convjit_free(text);
    CHECK_OK(convjit_generate_torch(cj, &p, NULL, NULL, &text));
    CHECK_HAS(text, "class ModelNew");
    convjit_free(text);
    CHECK_OK(convjit_schedules(cj, &p, "sm_90a", &text));
    CHECK_HAS(text, "{\"problem\":\"n2c8h20w24k16r3s5_pad1x2\",\"arch\":\"sm_90a\",\"candidates\":[{");
    convjit_free(text);
    text = NULL;
    CHECK_FAILS(convjit_generate(cj, &p, "sm_1", NULL, &text), CONVJIT_INVALID, "sm_1");
    CHECK_FAILS(convjit_generate(cj, &p, NULL, "none", &text), CONVJIT_INVALID, "none");
    CHECK_FAILS(convjit_generate(cj, &p, NULL, NULL, NULL), CONVJIT_INVALID, "NULL");
    CHECK_FAILS(convjit_generate(NULL, &p, NULL, NULL, &text), CONVJIT_INVALID, "cj is NULL");
    CHECK_FAILS(convjit_generate_torch(cj, NULL, NULL, NULL, &text), CONVJIT_INVALID, "NULL");
    p.groups = 3;
    CHECK_FAILS(convjit_schedules(cj, &p, NULL, &text), CONVJIT_INVALID, "groups 3");
    CHECK(!text);
    convjit_close(cj);
}

/* A context with neither says what it lacks when it is needed, and not before. */
static void test_without_gpu(void)
{
    convjit *cj = NULL;
    convjit_config config = config_without_gpu();
    convjit_problem p;
    convjit_plan *plan = NULL;
    void *memory = NULL;
    char *json = NULL, byte = 0;
    CHECK_OK(convjit_open(&cj, &config));
    CHECK_OK(convjit_problem_parse(&p, "n1c1h8w8k1r3s3"));
    CHECK_FAILS(convjit_plan_create(&plan, cj, &p), CONVJIT_NO_DRIVER, "none");
    CHECK_FAILS(convjit_device_alloc(cj, &memory, 16), CONVJIT_NO_DRIVER, "none");
    CHECK_FAILS(convjit_device_alloc(cj, NULL, 16), CONVJIT_INVALID, "memory is NULL");
    CHECK_FAILS(convjit_device_write(cj, NULL, &byte, 1), CONVJIT_INVALID, "device is NULL");
    CHECK_FAILS(convjit_device_read(cj, NULL, &byte, 1), CONVJIT_INVALID, "host is NULL");
    CHECK_FAILS(convjit_device_sync(NULL, NULL), CONVJIT_INVALID, "cj is NULL");
    convjit_device_free(cj, NULL);
    CHECK_OK(convjit_info(cj, &json));
    CHECK_HAS(json, "{\"version\":\"0.1.0\",\"generator\":\"");
    CHECK_HAS(json, cj_script_digest());
    CHECK_HAS(json, "\"cache\":{\"dir\":null,\"why_not\":\"");
    CHECK_HAS(json, "\"nvrtc\":{\"file\":null,\"error\":\"");
    CHECK_HAS(json, "\"driver\":{\"file\":null,\"error\":\"");
    CHECK_HAS(json, "\"emulator\":{\"device\":{");
    convjit_free(json);
    CHECK_FAILS(convjit_info(cj, NULL), CONVJIT_INVALID, "json is NULL");
    convjit_close(cj);
}

int main(void)
{
    unsetenv("CONVJIT_GEN_DIR");
    test_open();
    test_generate();
    test_without_gpu();
    return check_done("context");
}
