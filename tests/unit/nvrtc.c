/* nvrtc.c: tests of finding, loading and calling NVRTC: with the fake one, and with a real one where there is one. */
#include <elf.h>
#include <ftw.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>
#include "../check.h"
#include "../fake/fake.h"
#include "internal.h"

static char scratch[] = "/tmp/convjit-nvrtc-XXXXXX";

static char *in_scratch(char path[512], const char *name)
{
    snprintf(path, 512, "%s/%s", scratch, name);
    return path;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

/* A kernel of two options, the architecture's last; the parts are borrowed. */
static cj_kernel make_kernel(char *source, char *arch, char *arch_option, char *option)
{
    static char name[] = "convjit_test";
    cj_kernel k = {.name = name, .arch = arch, .source = source, .n_options = option ? 2 : 1};
    snprintf(arch_option, 64, "--gpu-architecture=%s", arch);
    k.options[option ? 1 : 0] = arch_option;
    if (option)
        k.options[0] = option;
    return k;
}

static cj_compiler *open_compiler(const char *nvrtc)
{
    convjit_config config = {.size = sizeof config, .nvrtc = nvrtc};
    cj_compiler *c = NULL;
    CHECK_OK(cj_nvrtc_open(&c, &config));
    return c;
}

static convjit_status compile(cj_compiler *c, const char *source, const char *arch, cj_blob *binary)
{
    char source_copy[1024], arch_copy[16], option[64];
    snprintf(source_copy, sizeof source_copy, "%s", source);
    snprintf(arch_copy, sizeof arch_copy, "%s", arch);
    cj_kernel k = make_kernel(source_copy, arch_copy, option, NULL);
    return c->compile(c, &k, binary);
}

/* ---- what is missing ---- */

static void test_absent(void)
{
    static const struct { const char *nvrtc, *says; } cases[] = {
        {"none", "switched off"},
        {"/nowhere/libnvrtc.so", "\"/nowhere/libnvrtc.so\", which is no library file"},
        {"/tmp", "\"/tmp\", which is no library file"},
        {"libnvrtc-no-such-name.so", "which is no library file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        cj_blob binary = {0};
        cj_compiler *c = open_compiler(cases[i].nvrtc);
        CHECK(c->identity(c) == NULL);
        CHECK_HAS(convjit_errmsg(), cases[i].says);
        CHECK_FAILS(compile(c, "", "sm_90a", &binary), CONVJIT_NO_COMPILER, cases[i].says);
        CHECK_HAS(convjit_errmsg(), "kernel convjit_test");
        CHECK(binary.data == NULL);
        cj_text json = {0};
        cj_nvrtc_info(c, &json);
        CHECK_HAS(json.data, "{\"file\":null,\"error\":\"");
        CHECK_HAS(json.data, "\"tried\":[");
        cj_text_free(&json);
        c->close(c);
    }
}

/* A file that is found, and turns out to be no NVRTC when it is loaded. */
static void test_not_nvrtc(void)
{
    char path[512];
    cj_blob binary = {0};
    FILE *f = fopen(in_scratch(path, "libnvrtc.so.7"), "w");
    CHECK(f && fputs("not a library", f) >= 0 && fclose(f) == 0);
    cj_compiler *c = open_compiler(path);
    CHECK_STR(c->identity(c), "libnvrtc.so.7 13");
    CHECK_FAILS(compile(c, "", "sm_90a", &binary), CONVJIT_NO_COMPILER, "cannot load NVRTC");
    c->close(c);

    c = open_compiler(fake_path("libcuda.so"));
    CHECK_FAILS(compile(c, "", "sm_90a", &binary), CONVJIT_NO_COMPILER, "lacks nvrtcVersion");
    c->close(c);
}

/* ---- the fake one ---- */

static void test_identity_without_loading(void)
{
    struct stat st;
    char expected[64];
    cj_compiler *c = open_compiler(fake_path("libnvrtc.so"));
    CHECK_INT(stat(fake_path("libnvrtc.so"), &st), 0);
    snprintf(expected, sizeof expected, "libnvrtc.so %lld", (long long)st.st_size);
    CHECK_STR(c->identity(c), expected);
    CHECK_STR(c->identity(c), expected);
    CHECK(dlopen(fake_path("libnvrtc.so"), RTLD_NOW | RTLD_NOLOAD) == NULL);
    CHECK_STR(c->kind, "cubin");
    c->close(c);
}

static void test_environment(void)
{
    cj_blob binary = {0};
    setenv("CONVJIT_NVRTC", "none", 1);
    cj_compiler *from_environment = open_compiler(NULL), *from_config = open_compiler(fake_path("libnvrtc.so"));
    unsetenv("CONVJIT_NVRTC");
    CHECK_FAILS(compile(from_environment, "x", "sm_90a", &binary), CONVJIT_NO_COMPILER, "switched off");
    CHECK_OK(compile(from_config, "x", "sm_90a", &binary));
    cj_blob_free(&binary);
    from_environment->close(from_environment);
    from_config->close(from_config);
}

static void test_compile(void)
{
    fake_nvrtc_compiles_fn *compiles = (fake_nvrtc_compiles_fn *)fake_symbol("libnvrtc.so", "fake_nvrtc_compiles");
    cj_compiler *c = open_compiler(fake_path("libnvrtc.so"));
    char source[] = "__global__ void f() {}", arch[] = "sm_86", option[64], verbose[] = "--ptxas-options=-v";
    cj_kernel k = make_kernel(source, arch, option, verbose);
    cj_blob binary = {0};
    char *log = NULL;
    int before = compiles();
    CHECK_OK(cj_nvrtc_compile_log(c, &k, &binary, &log));
    CHECK_STR((char *)binary.data, "fakecubin sm_86\n__global__ void f() {}");
    CHECK_INT(binary.size, strlen("fakecubin sm_86\n__global__ void f() {}") + 1);
    CHECK_STR(log, "ptxas info    : fake log of convjit_test.cu for sm_86; defined: nothing\n");
    CHECK_INT(compiles() - before, 1);
    free(log);
    cj_blob_free(&binary);
    c->close(c);
}

/* Each part is compiled, told which one it is, and has a cubin of its own; the log is of all, in order. */
static void test_parts(void)
{
    fake_nvrtc_compiles_fn *compiles = (fake_nvrtc_compiles_fn *)fake_symbol("libnvrtc.so", "fake_nvrtc_compiles");
    cj_compiler *c = open_compiler(fake_path("libnvrtc.so"));
    char source[] = "__global__ void f() {}", failing[] = "FAKE_NVRTC_FAIL", arch[] = "sm_86", option[64];
    cj_kernel k = make_kernel(source, arch, option, NULL);
    cj_blob binary = {0}, parts[CJ_MAX_PARTS];
    char *log = NULL;
    int before = compiles(), n = 0;
    k.parts = 3;
    CHECK_OK(cj_nvrtc_compile_log(c, &k, &binary, &log));
    CHECK_STR(log, "ptxas info    : fake log of convjit_test.cu for sm_86; defined: CONVJIT_PART=0\n"
                   "ptxas info    : fake log of convjit_test.cu for sm_86; defined: CONVJIT_PART=1\n"
                   "ptxas info    : fake log of convjit_test.cu for sm_86; defined: CONVJIT_PART=2\n");
    CHECK_INT(compiles() - before, 3);
    CHECK_OK(cj_parts_split(&binary, parts, &n));
    CHECK_INT(n, 3);
    for (int i = 0; i < n; i++)
        CHECK_STR((char *)parts[i].data, "fakecubin sm_86\n__global__ void f() {}");
    cj_blob_free(&binary);
    free(log);

    k.source = failing; /* a thread's failure is this one's */
    CHECK_FAILS(c->compile(c, &k, &binary), CONVJIT_COMPILE, "convjit_test.cu(1): error: the fake compiler was told to fail");
    CHECK(binary.data == NULL);
    c->close(c);
}

static void test_refusals(void)
{
    cj_compiler *c = open_compiler(fake_path("libnvrtc.so"));
    cj_blob binary = {0};
    CHECK_FAILS(compile(c, "FAKE_NVRTC_FAIL", "sm_90a", &binary), CONVJIT_COMPILE,
                "NVRTC 99.1 refused kernel convjit_test for sm_90a (NVRTC_ERROR_COMPILATION):\n"
                "convjit_test.cu(1): error: the fake compiler was told to fail");
    setenv("FAKE_NVRTC_NEWEST", "86", 1);
    CHECK_FAILS(compile(c, "x", "sm_90a", &binary), CONVJIT_NO_COMPILER, "NVRTC 99.1 (");
    CHECK_HAS(convjit_errmsg(), "cannot compile for sm_90a");
    CHECK(convjit_errmsg()[strlen(convjit_errmsg()) - 1] != '\n');
    unsetenv("FAKE_NVRTC_NEWEST");

    char source[] = "x", arch[] = "sm_90a", option[64], wrong[] = "wrong";
    cj_kernel k = make_kernel(source, arch, option, wrong);
    CHECK_FAILS(c->compile(c, &k, &binary), CONVJIT_COMPILE, "unrecognized option wrong");
    CHECK(binary.data == NULL);
    c->close(c);
}

static void test_info(void)
{
    cj_compiler *c = open_compiler(fake_path("libnvrtc.so"));
    cj_text json = {0};
    cj_nvrtc_info(c, &json);
    CHECK_HAS(json.data, "tests/fake/libnvrtc.so\",\"identity\":\"libnvrtc.so ");
    CHECK_HAS(json.data, "\"version\":\"99.1\"}");
    cj_text_free(&json);
    c->close(c);
}

enum { THREADS = 8, ROUNDS = 20 };

static void *compile_often(void *compiler)
{
    cj_compiler *c = compiler;
    for (int i = 0; i < ROUNDS; i++) {
        char source[32];
        cj_blob binary = {0};
        snprintf(source, sizeof source, "kernel %d", i);
        CHECK(c->identity(c) != NULL);
        CHECK_OK(compile(c, source, "sm_90a", &binary));
        CHECK(binary.data && strstr((char *)binary.data, source));
        cj_blob_free(&binary);
    }
    return NULL;
}

static void test_threads(void)
{
    char count[512];
    struct stat st = {0};
    pthread_t threads[THREADS];
    cj_compiler *c = open_compiler(fake_path("libnvrtc.so"));
    setenv("FAKE_NVRTC_COUNT", in_scratch(count, "count"), 1);
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_create(&threads[i], NULL, compile_often, c), 0);
    for (int i = 0; i < THREADS; i++)
        CHECK_INT(pthread_join(threads[i], NULL), 0);
    unsetenv("FAKE_NVRTC_COUNT");
    CHECK_INT(stat(count, &st), 0);
    CHECK_INT(st.st_size, THREADS * ROUNDS);
    c->close(c);
}

/* ---- the search, with a name that no machine has ---- */

static const char *const names[] = {"libconvjit-test-nvrtc.so.2", "libconvjit-test-nvrtc.so.1", NULL};

/* Makes directories below the scratch directory and, in the last, a file. */
static void plant(const char *directory, const char *name)
{
    char path[512];
    in_scratch(path, directory);
    for (char *slash = path + strlen(scratch) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = 0;
        mkdir(path, 0700);
        *slash = '/';
    }
    mkdir(path, 0700);
    strcat(strcat(path, "/"), name);
    FILE *f = fopen(path, "w");
    CHECK(f && fputs("library", f) >= 0 && fclose(f) == 0);
}

static void check_found(const char *configured, const char *expected)
{
    char *file = NULL, path[512];
    cj_text tried = {0};
    CHECK_OK(cj_nvrtc_find(configured, names, &file, &tried));
    CHECK_STR(file, in_scratch(path, expected));
    CHECK(tried.length > 0);
    cj_text_free(&tried);
    free(file);
}

static void test_search_fails(void)
{
    static const char *const places[] = {
        "/here/lib\n", "/usr/local/lib\n", "/toolkit/home/lib64\n", "/toolkit/home/lib\n", "-linux/lib\n",
        "/toolkit/path/lib64\n", "/usr/local/cuda/lib64\n", "/usr/local/cuda-", "the loader's path", "wheel",
    };
    char *file = NULL;
    cj_text tried = {0};
    setenv("LD_LIBRARY_PATH", ":/here/lib:/here/lib", 1);
    setenv("CUDA_HOME", "/toolkit/home", 1);
    setenv("CUDA_PATH", "/toolkit/path", 1);
    CHECK_FAILS(cj_nvrtc_find(NULL, names, &file, &tried), CONVJIT_NO_COMPILER,
                "no libconvjit-test-nvrtc.so.2, libconvjit-test-nvrtc.so.1; looked in\n  /here/lib\n  /usr/local/lib");
    CHECK(file == NULL);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        CHECK_HAS(tried.data, places[i]);
        char place[64];
        snprintf(place, sizeof place, "%.*s", (int)strcspn(places[i], "\n"), places[i]);
        CHECK_HAS(convjit_errmsg(), place);
    }
    const char *first = tried.data ? strstr(tried.data, "/here/lib\n") : NULL;
    CHECK_THAT(first && !strstr(first + 1, "/here/lib\n"), "a place is listed twice: %s", tried.data);
    cj_text_free(&tried);
}

/* From the last place to the first: each one planted must win over those before. */
static void test_search_order(void)
{
    char path[512], link[512], python[512];
    FILE *f;

    /* A Python whose module path holds two directories with wheels, of CUDA 12 and 13, behind one with none. */
    plant("old/nvidia/cuda_nvrtc/lib", names[1]);
    plant("new/nvidia/cu13/lib", names[0]);
    plant("bin", "python3");
    f = fopen(in_scratch(python, "bin/python3"), "w");
    CHECK(f && fprintf(f, "#!/bin/sh\nprintf '\\n%s/none\\n%s/old\\n%s/new\\n'\n", scratch, scratch, scratch) > 0);
    CHECK(f && fclose(f) == 0 && chmod(python, 0700) == 0);
    setenv("PATH", in_scratch(path, "bin"), 1);
    check_found(NULL, "old/nvidia/cuda_nvrtc/lib/libconvjit-test-nvrtc.so.1");
    remove(in_scratch(path, "old/nvidia/cuda_nvrtc/lib/libconvjit-test-nvrtc.so.1"));
    check_found(NULL, "new/nvidia/cu13/lib/libconvjit-test-nvrtc.so.2");

    plant("path/lib64", names[1]);
    setenv("CUDA_PATH", in_scratch(path, "path"), 1);
    check_found(NULL, "path/lib64/libconvjit-test-nvrtc.so.1");

#if defined(__aarch64__)
    plant("home/targets/sbsa-linux/lib", names[1]);
    setenv("CUDA_HOME", in_scratch(path, "home"), 1);
    check_found(NULL, "home/targets/sbsa-linux/lib/libconvjit-test-nvrtc.so.1");
#else
    plant("home/targets/x86_64-linux/lib", names[1]);
    setenv("CUDA_HOME", in_scratch(path, "home"), 1);
    check_found(NULL, "home/targets/x86_64-linux/lib/libconvjit-test-nvrtc.so.1");
#endif
    plant("home/lib", names[1]);
    check_found(NULL, "home/lib/libconvjit-test-nvrtc.so.1");

    /* Of two names in one directory the preferred one; a link leads to the name with the full version. */
    plant("loader", names[1]);
    plant("loader", "libconvjit-test-nvrtc.so.2.7.3");
    CHECK_INT(symlink("libconvjit-test-nvrtc.so.2.7.3", in_scratch(link, "loader/libconvjit-test-nvrtc.so.2")), 0);
    snprintf(path, sizeof path, "/nowhere:%s/loader", scratch);
    setenv("LD_LIBRARY_PATH", path, 1);
    check_found(NULL, "loader/libconvjit-test-nvrtc.so.2.7.3");

    /* A configured file wins over everything. */
    check_found(in_scratch(path, "home/lib/libconvjit-test-nvrtc.so.1"), "home/lib/libconvjit-test-nvrtc.so.1");
}

/* A library that only the loader knows: one that is loaded already is found by its soname. */
static void test_loader(void)
{
    static const char *const by_soname[] = {"libnvrtc-fake.so", NULL};
    char *file = NULL, *expected = realpath(fake_path("libnvrtc.so"), NULL);
    cj_text tried = {0};
    CHECK(fake_symbol("libnvrtc.so", "fake_nvrtc_compiles") != NULL);
    CHECK_OK(cj_nvrtc_find(NULL, by_soname, &file, &tried));
    CHECK_STR(file, expected);
    free(file);
    file = NULL;
    CHECK_OK(cj_nvrtc_find("libnvrtc-fake.so", names, &file, &tried));
    CHECK_STR(file, expected);
    cj_text_free(&tried);
    free(file);
    free(expected);
}

/* A Python that fails is as good as none. */
static void test_bad_python(void)
{
    char python[512], *file = NULL;
    cj_text tried = {0};
    FILE *f = fopen(in_scratch(python, "bin/python3"), "w");
    CHECK(f && fputs("#!/bin/sh\nexit 1\n", f) >= 0 && fclose(f) == 0);
    CHECK_FAILS(cj_nvrtc_find(NULL, names, &file, &tried), CONVJIT_NO_COMPILER, "looked in");
    remove(python);
    CHECK_FAILS(cj_nvrtc_find(NULL, names, &file, &tried), CONVJIT_NO_COMPILER, "looked in");
    cj_text_free(&tried);
}

static void test_search(void)
{
    static const char *const variables[] = {"PATH", "LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH"};
    char *saved[4];
    for (int i = 0; i < 4; i++)
        saved[i] = getenv(variables[i]) ? strdup(getenv(variables[i])) : NULL;
    test_search_fails();
    for (int i = 1; i < 4; i++)
        unsetenv(variables[i]);
    test_search_order();
    for (int i = 1; i < 4; i++)
        unsetenv(variables[i]);
    test_bad_python();
    test_loader();
    for (int i = 0; i < 4; i++) {
        if (saved[i])
            setenv(variables[i], saved[i], 1);
        else
            unsetenv(variables[i]);
        free(saved[i]);
    }
}

/* ---- a real one ---- */

static const char real_source[] =
    "extern \"C\" __global__ void __launch_bounds__(128) f(const float *__restrict__ x, float *__restrict__ y, int n)\n"
    "{\n"
    "    int i = blockIdx.x * blockDim.x + threadIdx.x;\n"
    "    if (i < n) y[i] = 2 * x[i];\n"
    "}\n";

static void check_real_cubin(cj_compiler *c, const char *arch)
{
    cj_blob binary = {0};
    Elf64_Ehdr head = {0};
    CHECK_OK(compile(c, real_source, arch, &binary));
    CHECK_THAT(binary.size > sizeof head, "the cubin for %s has %zu bytes", arch, binary.size);
    if (binary.size > sizeof head) {
        memcpy(&head, binary.data, sizeof head);
        CHECK(memcmp(head.e_ident, ELFMAG, SELFMAG) == 0);
        CHECK_INT(head.e_machine, EM_CUDA);
        CHECK(memmem(binary.data, binary.size, ".text.f", 7) != NULL);
    }
    cj_blob_free(&binary);
}

static void test_real_refusals(cj_compiler *c)
{
    cj_blob binary = {0};
    CHECK_FAILS(compile(c, "__global__ void f() { undeclared = 1; }", "sm_90", &binary), CONVJIT_COMPILE,
                "convjit_test.cu(1): error: identifier \"undeclared\" is undefined");
    CHECK_FAILS(compile(c, real_source, "sm_999", &binary), CONVJIT_NO_COMPILER, "cannot compile for sm_999");
    CHECK_FAILS(compile(c, real_source, "compute_90", &binary), CONVJIT_COMPILE, "made no cubin");
    CHECK(binary.data == NULL);
}

static void test_real_log(cj_compiler *c)
{
    char source[1024], arch[] = "sm_90a", option[64], verbose[] = "--ptxas-options=-v", *log = NULL;
    cj_blob binary = {0};
    snprintf(source, sizeof source, "%s", real_source);
    cj_kernel k = make_kernel(source, arch, option, verbose);
    CHECK_OK(cj_nvrtc_compile_log(c, &k, &binary, &log));
    CHECK_HAS(log, "registers");
    CHECK_HAS(log, "0 bytes spill stores");
    cj_blob_free(&binary);
    free(log);
}

/* Each part has its entry point, and no other's. */
static void test_real_parts(cj_compiler *c)
{
    static const char *const entries[] = {"first", "second"};
    char arch[] = "sm_90a", option[64], source[] =
        "__device__ float twice(float v) { return 2 * v; }\n"
        "#if !defined(CONVJIT_PART) || CONVJIT_PART == 0\n"
        "extern \"C\" __global__ void first(float *y) { *y = twice(*y); }\n"
        "#endif\n"
        "#if !defined(CONVJIT_PART) || CONVJIT_PART == 1\n"
        "extern \"C\" __global__ void second(float *y) { *y = twice(twice(*y)); }\n"
        "#endif\n";
    cj_kernel k = make_kernel(source, arch, option, NULL);
    cj_blob binary = {0}, parts[CJ_MAX_PARTS];
    int n = 0;
    k.parts = 2;
    CHECK_OK(c->compile(c, &k, &binary));
    CHECK_OK(cj_parts_split(&binary, parts, &n));
    CHECK_INT(n, 2);
    for (int entry = 0; entry < 2; entry++) {
        char section[16];
        int length = snprintf(section, sizeof section, ".text.%s", entries[entry]);
        for (int part = 0; part < n; part++)
            CHECK_INT(memmem(parts[part].data, parts[part].size, section, (size_t)length) != NULL, part == entry);
        CHECK_INT(cj_parts_find(parts, n, entries[entry]), entry);
    }
    cj_blob_free(&binary);
}

/* Newer architectures than a library knows are left out: `since` is 100 * major + minor of the first that knows it. */
static void test_real(void)
{
    static const struct { const char *arch; int since; } archs[] = {
        {"sm_80", 1102},  {"sm_86", 1102},  {"sm_89", 1108},  {"sm_90", 1108},
        {"sm_90a", 1200}, {"sm_100", 1208}, {"sm_120", 1208},
    };
    cj_compiler *c = open_compiler(NULL);
    cj_text json = {0};
    int major, minor;
    cj_nvrtc_info(c, &json);
    const char *version = json.data ? strstr(json.data, "\"version\":\"") : NULL;
    if (version && sscanf(version, "\"version\":\"%d.%d", &major, &minor) == 2) {
        for (size_t i = 0; i < sizeof archs / sizeof *archs; i++)
            if (major * 100 + minor >= archs[i].since)
                check_real_cubin(c, archs[i].arch);
        test_real_refusals(c);
        test_real_log(c);
        test_real_parts(c);
    } else {
        fprintf(stderr, "nvrtc: no NVRTC on this machine; it was tested with the fake one alone\n");
    }
    cj_text_free(&json);
    c->close(c);
}

int main(void)
{
    if (!mkdtemp(scratch)) {
        perror(scratch);
        return 1;
    }
    test_identity_without_loading(); /* first: nothing may have loaded the fake */
    test_absent();
    test_not_nvrtc();
    test_environment();
    test_compile();
    test_parts();
    test_refusals();
    test_info();
    test_threads();
    test_search();
    test_real();
    nftw(scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return check_done("nvrtc");
}
