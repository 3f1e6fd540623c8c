/* key.c: cache keys: every input of a compilation changes the key, and nothing else does. */
#include "sample.h"

static const char identity[] = "nvrtc 12.4.127";

static cj_key key_of(const cj_kernel *k, const char *kind, const char *compiler)
{
    cj_key key = {"", ""};
    CHECK_OK(cj_key_make(k, kind, compiler, &key, NULL));
    return key;
}

static void change_tuple(cj_kernel *k) { set(&k->tuple, "c64k128r5s7_f16"); }
static void change_schedule(cj_kernel *k) { set(&k->schedule, "direct:kt=64,pt=8"); }
static void change_arch(cj_kernel *k) { set(&k->arch, "sm_80"); }
static void change_source(cj_kernel *k) { k->source[strlen(k->source) - 1] = ' '; }
static void change_option(cj_kernel *k) { set(&k->options[1], "--fmad=true"); }
static void change_workspace(cj_kernel *k) { set(&k->workspace, "N*8"); }
static void change_align(cj_kernel *k) { k->align = 8; }
static void change_require(cj_kernel *k) { set(&k->requires[0].expr, "H >= 6"); }
static void change_grid(cj_kernel *k) { set(&k->launches[0].grid[1], "P*2"); }
static void change_block(cj_kernel *k) { k->launches[0].block[0] = 64; }
static void change_smem(cj_kernel *k) { set(&k->launches[0].smem, "2048"); }
static void change_arg(cj_kernel *k) { k->launches[0].args[4].kind = CJ_ARG_I64; }
static void swap_options(cj_kernel *k)
{
    char *first = k->options[0];
    k->options[0] = k->options[1];
    k->options[1] = first;
}
static void drop_option(cj_kernel *k)
{
    k->n_options = 1;
    set(&k->options[1], "");
}
static void move_option_text(cj_kernel *k) /* the same characters, parted elsewhere */
{
    set(&k->options[0], "--gpu-architecture=sm_90a -");
    set(&k->options[1], "-use_fast_math");
}
static void change_launch_order(cj_kernel *k)
{
    cj_arg first = k->launches[0].args[0];
    k->launches[0].args[0] = k->launches[0].args[1];
    k->launches[0].args[1] = first;
}

static void test_every_input_counts(void)
{
    static const struct { const char *name; void (*change)(cj_kernel *k); } changes[] = {
        {"tuple", change_tuple},         {"schedule", change_schedule},   {"arch", change_arch},
        {"source", change_source},       {"option", change_option},       {"option order", swap_options},
        {"option count", drop_option},   {"option bounds", move_option_text}, {"workspace", change_workspace},
        {"align", change_align},         {"require", change_require},     {"grid", change_grid},
        {"block", change_block},         {"smem", change_smem},           {"argument", change_arg},
        {"argument order", change_launch_order},
    };
    enum { N = sizeof changes / sizeof *changes };
    cj_key keys[N + 1];
    for (int i = 0; i <= N; i++) {
        cj_kernel *k = sample_kernel();
        if (i < N)
            changes[i].change(k);
        keys[i] = key_of(k, "cubin", identity);
        CHECK_STR(keys[i].compiler_hex, keys[0].compiler_hex);
        for (int j = 0; j < i; j++)
            CHECK_THAT(strcmp(keys[i].source_hex, keys[j].source_hex) != 0, "%s and %s have one key",
                       i < N ? changes[i].name : "the sample", changes[j].name);
        cj_kernel_free(k);
    }
}

static void test_compiler_and_kind(void)
{
    cj_kernel *k = sample_kernel();
    char hex[65];
    cj_key a = key_of(k, "cubin", identity), b = key_of(k, "cubin", "nvrtc 12.8.93"), none = key_of(k, "cubin", NULL);
    cj_key host = key_of(k, "host x86-64", NULL);
    cj_sha256_hex(identity, strlen(identity), hex);
    CHECK_STR(a.compiler_hex, hex);
    CHECK_STR(a.source_hex, b.source_hex);
    CHECK_STR(a.source_hex, none.source_hex);
    CHECK_STR(none.compiler_hex, "");
    CHECK(strcmp(a.compiler_hex, b.compiler_hex) != 0);
    CHECK(strcmp(none.source_hex, host.source_hex) != 0);
    cj_kernel_free(k);
}

/* `why` may speak of N, H and W; the kernel of another size must have the same key. */
static void test_reasons_do_not_count(void)
{
    cj_kernel *k = sample_kernel();
    cj_key before = key_of(k, "cubin", identity);
    set(&k->why, "99 us for 1x8x8");
    cj_key after = key_of(k, "cubin", identity);
    CHECK_STR(after.source_hex, before.source_hex);
    cj_kernel_free(k);
}

static void test_text(void)
{
    cj_kernel *k = sample_kernel();
    cj_key key, parsed, without;
    cj_text text = {0};
    CHECK_OK(cj_key_make(k, "cubin", identity, &key, &text));
    CHECK_HAS(text.data, "convjit-key 1\nkind 5 cubin\ntuple 11 c64k128r5s7\nschedule 17 direct:kt=64,pt=4\n"
                         "arch 6 sm_90a\n"
                         "option 25 --gpu-architecture=sm_90a\noption 15 --use_fast_math\nlaunch 64 ");
    CHECK_HAS(text.data, "\ncompiler 14 nvrtc 12.4.127\n");
    CHECK(strstr(text.data, "__global__") == NULL); /* the source is in as its digest */
    CHECK(cj_key_parse(text.data, text.length, &parsed));
    CHECK_STR(parsed.source_hex, key.source_hex);
    CHECK_STR(parsed.compiler_hex, key.compiler_hex);
    size_t compiler = (size_t)(strstr(text.data, "compiler ") - text.data);
    int accepted = 0;
    for (size_t n = 0; n < text.length; n++) /* a shorter text is another key, or none */
        if (cj_key_parse(text.data, n, &parsed))
            accepted += strcmp(parsed.source_hex, key.source_hex) == 0 && parsed.compiler_hex[0] != 0;
    CHECK_INT(accepted, 0);
    CHECK(cj_key_parse(text.data, compiler, &without));
    CHECK_STR(without.source_hex, key.source_hex);
    CHECK_STR(without.compiler_hex, "");
    cj_text_free(&text);
    cj_kernel_free(k);
}

static void test_bad_text(void)
{
    static const char *const bad[] = {
        "", "convjit-key 1\n", "convjit-key 2\nkind 5 cubin\n", "kind 5 cubin\n", "convjit-key 1\nkind 4 cubin\n",
        "convjit-key 1\nkind 6 cubin\n", "convjit-key 1\nkind -5 cubin\n", "convjit-key 1\nkind  cubin\n",
        "convjit-key 1\nkind 0 \n", "convjit-key 1\n 5 cubin\n", "convjit-key 1\nkind 5cubin\n",
        "convjit-key 1\nkind 99999999999999999999 cubin\n", "convjit-key 1\nkind 5 cubin",
        "convjit-key 1\ncompiler 1 a\nkind 5 cubin\n", "convjit-key 1\ncompiler 1 a\ncompiler 1 b\n",
    };
    cj_key key;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK_THAT(!cj_key_parse(bad[i], strlen(bad[i]), &key), "accepted: %s", bad[i]);
    CHECK(cj_key_parse("convjit-key 1\nkind 5 cubin\n", 27, &key));
}

static void test_refusals(void)
{
    cj_kernel *k = sample_kernel();
    cj_key key;
    CHECK_FAILS(cj_key_make(k, "cubin", "", &key, NULL), CONVJIT_GENERATE, "has no bytes");
    set(&k->workspace, "N*");
    CHECK_FAILS(cj_key_make(k, "cubin", identity, &key, NULL), CONVJIT_GENERATE, "workspace");
    set(&k->workspace, "N");
    free(k->source);
    k->source = NULL;
    CHECK_FAILS(cj_key_make(k, "cubin", identity, &key, NULL), CONVJIT_GENERATE, "no source");
    cj_kernel_free(k);
}

int main(void)
{
    test_every_input_counts();
    test_compiler_and_kind();
    test_reasons_do_not_count();
    test_text();
    test_bad_text();
    test_refusals();
    return check_done("key");
}
