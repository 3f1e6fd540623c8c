/* run.h: runs families of vectors on a device, to record or to compare. A family is a process of its own, which
 * forks one that compiles and then one that runs its cases, and another after a kernel that faulted or hung, so that it
 * takes no other with it. CUDA fails in a child of a process that called cuInit, and NVRTC 13 calls it to compile: so
 * only processes that fork no more compile or use the device.
 *
 * usage: PROGRAM [--device gpu|emu] [--write DIR] [--only FAMILY] [--every N] [--dump DIR CASES] [--jobs N]
 *   --write DIR        draws cases, runs each twice, and writes DIR/FAMILY.txt, instead of comparing with tests/vectors/data
 *   --only FAMILY      only families whose name begins so
 *   --every N          only each N-th case
 *   --dump DIR CASES   writes the outputs of the first CASES cases to DIR/FAMILY.DEVICE.bin: case, bytes (32 bits each), output
 *   --jobs N           processes at a time (default 2)
 */
#ifndef VECTORS_RUN_H
#define VECTORS_RUN_H

#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "check.h"
#include "vectors/families.h"

enum { CASE_SECONDS = 30, MAX_TEXTS = 8, MAX_WORKERS = 20, SHOWN = 2 /* failures that are printed */ };

typedef struct options {
    convjit_device device;
    const char *write, *only, *dump;
    int every, dump_cases, jobs;
} options;

typedef struct line { int number, parameters[VECTOR_PARAMETERS]; uint64_t hash; } line;

/* What came of a case; in memory that processes share. */
typedef struct outcome {
    enum { TO_DO, RUNNING, RAN, FAILED } state;
    uint64_t hash;
    char message[240];
} outcome;

/* A family on its device. */
typedef struct runner {
    const family *f;
    const options *o;
    cj_device *device;
    cj_compiler *compiler;
    char *sources[MAX_TEXTS];
    cj_blob binaries[MAX_TEXTS];
    cj_function *functions[MAX_TEXTS];
    bool has_map;
    int columns;
    uint64_t seed;
    line *lines;                 /* hash: as read */
    int n;
    void *in, *out, *parameters; /* device memory */
    size_t in_capacity, out_capacity;
    FILE *dump;
    int failed;
} runner;

static int count_columns(const char *columns)
{
    int n = 1;
    for (; *columns; columns++) n += *columns == ' ';
    return n;
}

static uint64_t hash_bytes(const unsigned char *bytes, size_t n)
{
    uint64_t hash = n, word;
    for (size_t i = 0; i + 8 <= n; i += 8) {
        memcpy(&word, bytes + i, 8);
        hash = stream_mix((hash ^ word) + 0x9e3779b97f4a7c15u);
    }
    return hash;
}

/* ---- data/FAMILY.txt ---- */

static bool read_lines(runner *r, const char *directory)
{
    char path[512], text[1024];
    snprintf(path, sizeof path, "%s/%s.txt", directory, r->f->name);
    FILE *file = fopen(path, "r");
    unsigned long long hash, seed = 0;
    bool good = file != NULL, named = false;
    while (good && fgets(text, sizeof text, file)) {
        if (*text == '#') continue;
        if (sscanf(text, "seed %llu", &seed) == 1) continue;
        if (strncmp(text, "case ", 5) == 0) {
            named = strncmp(text + 5, r->f->columns, strlen(r->f->columns)) == 0;
            good = named;
            continue;
        }
        if (r->n % 256 == 0) r->lines = realloc(r->lines, (size_t)(r->n + 256) * sizeof *r->lines);
        line *l = &r->lines[r->n];
        int used = 0, step = 0;
        good = named && r->lines && sscanf(text, "%d%n", &l->number, &used) == 1;
        for (int i = 0; good && i < r->columns; i++, used += step)
            good = sscanf(text + used, "%d%n", &l->parameters[i], &step) == 1;
        good = good && sscanf(text + used, "%llx", &hash) == 1;
        l->hash = hash;
        if (good && r->n++ < 0) break;
    }
    if (file) fclose(file);
    r->seed = seed;
    if (!good) printf("%s: %s\n", path, file ? "not as this program writes it" : strerror(errno));
    return good && r->n > 0;
}

static void device_name(const runner *r, char name[64])
{
    cj_text json = { 0 };
    r->device->info(r->device, &json);
    const char *at = json.data ? strstr(json.data, "\"name\":\"") : NULL;
    snprintf(name, 64, "%.*s", at ? (int)strcspn(at + 8, "\"") : 19, at ? at + 8 : "the emulated device");
    cj_text_free(&json);
}

static bool write_lines(const runner *r, const outcome *outcomes)
{
    char path[512], temporary[544];
    snprintf(path, sizeof path, "%s/%s.txt", r->o->write, r->f->name);
    snprintf(temporary, sizeof temporary, "%s.part", path);
    FILE *file = fopen(temporary, "w");
    if (!file) return printf("%s: %s\n", temporary, strerror(errno)), false;
    char name[64];
    device_name(r, name); /* uses the device: no fork after this */
    fprintf(file, "# Recorded on %s from kernels/%s.cu; tests/vectors/vectors.h explains.\nseed %llu\ncase %s hash\n",
            name, r->f->kernel, (unsigned long long)r->seed, r->f->columns);
    for (int i = 0; i < r->n; i++) {
        if (outcomes[i].state != RAN) continue;
        fprintf(file, "%d", r->lines[i].number);
        for (int p = 0; p < r->columns; p++) fprintf(file, " %d", r->lines[i].parameters[p]);
        fprintf(file, " %016llx\n", (unsigned long long)outcomes[i].hash);
    }
    bool good = !ferror(file);
    good = fclose(file) == 0 && good && rename(temporary, path) == 0;
    if (!good) printf("%s: cannot be written\n", path);
    return good;
}

/* ---- Kernels ---- */

static char *read_text(const char *path)
{
    cj_text text = { 0 };
    char part[4096], *out = NULL;
    FILE *file = fopen(path, "r");
    for (size_t n; file && (n = fread(part, 1, sizeof part, file)) > 0;) cj_text_add(&text, part, n);
    if (file) fclose(file);
    if (!file || cj_text_take(&text, &out)) cj_text_free(&text);
    return out;
}

static convjit_status render(runner *r, cj_script *script, int text)
{
    char path[256], names[256] = "";
    snprintf(path, sizeof path, "tests/vectors/kernels/%s.cu", r->f->kernel);
    char *kernel = read_text(path), *arrived = read_text("tests/vectors/kernels/arrived.cuh"), *template = NULL;
    if (r->f->names) r->f->names(r->f, text, names);
    cj_text t = { 0 };
    convjit_status s = cj_fail(CONVJIT_IO, "%s: %s (run this from the repository's root)", path, strerror(errno));
    if (kernel && arrived) {
        cj_text_printf(&t, "| %s\n%s%s", names, strstr(kernel, "arrived(") ? arrived : "", kernel);
        s = cj_text_take(&t, &template);
    }
    if (!s) s = cj_script_source(script, template, path, &r->sources[text]);
    free(template);
    free(kernel);
    free(arrived);
    return s;
}

typedef struct compilation {
    runner *r;
    int text;
    convjit_status status;
    char message[2000];
    pthread_t thread;
} compilation;

static void *compile(void *user)
{
    compilation *c = user;
    runner *r = c->r;
    cj_kernel k = { .name = (char[]){ "k" }, .arch = (char[]){ "sm_90a" }, .source = r->sources[c->text], .n_options = 3,
                    .options = { (char[]){ "--gpu-architecture=sm_90a" }, (char[]){ "--std=c++17" },
                                 (char[]){ "--fmad=false" } },
                    .n_launches = 1 };
    k.launches[0] = (cj_launch){ .entry = (char[]){ "k" }, .n_args = r->has_map ? 4 : 3,
                                 .args = { { .kind = CJ_ARG_INPUT }, { .kind = CJ_ARG_OUTPUT },
                                           { .kind = CJ_ARG_WEIGHTS }, { .kind = CJ_ARG_TENSOR_MAP } } };
    c->status = r->compiler->compile(r->compiler, &k, &r->binaries[c->text]);
    if (c->status) snprintf(c->message, sizeof c->message, "%s", convjit_errmsg());
    return NULL;
}

static convjit_status build(runner *r)
{
    cj_script *script = NULL;
    compilation all[MAX_TEXTS];
    int started = 0;
    convjit_status s = cj_script_open(&script, NULL);
    for (int i = 0; !s && i < r->f->texts; i++) s = render(r, script, i);
    cj_script_close(script);
    for (; !s && started < r->f->texts; started++) {
        all[started] = (compilation){ .r = r, .text = started };
        if (pthread_create(&all[started].thread, NULL, compile, &all[started]))
            s = cj_fail(CONVJIT_NO_MEMORY, "no thread");
    }
    for (int i = 0; i < started; i++) {
        pthread_join(all[i].thread, NULL);
        if (all[i].status) s = cj_fail(all[i].status, "%s", all[i].message);
    }
    return s;
}

static bool send_binary(FILE *to, const cj_blob *b)
{
    return fwrite(&b->size, sizeof b->size, 1, to) == 1 && fwrite(b->data, 1, b->size, to) == b->size;
}

static bool receive_binary(FILE *from, cj_blob *b)
{
    if (fread(&b->size, sizeof b->size, 1, from) != 1) return false;
    b->data = malloc(b->size + 1);
    return b->data && fread(b->data, 1, b->size, from) == b->size;
}

/* The process that compiles. */
static void build_and_send(runner *r, int end)
{
    FILE *to = fdopen(end, "w");
    convjit_status s = build(r);
    if (s) printf("%s: %.600s\n", r->f->name, convjit_errmsg());
    for (int i = 0; !s && to && i < r->f->texts; i++)
        if (!send_binary(to, &r->binaries[i])) break; /* which the reader finds out */
    if (to) fclose(to);
    fflush(stdout);
    _exit(s != CONVJIT_OK);
}

/* Has the family's texts compiled. False after a message. */
static bool build_apart(runner *r)
{
    int ends[2], status = 0;
    fflush(NULL);
    pid_t child = pipe(ends) == 0 ? fork() : -1;
    if (child < 0) return perror("a process that compiles"), false;
    if (child == 0) build_and_send(r, ends[1]);
    close(ends[1]);
    FILE *from = fdopen(ends[0], "r");
    bool good = from != NULL;
    for (int i = 0; good && i < r->f->texts; i++) good = receive_binary(from, &r->binaries[i]);
    if (from) fclose(from);
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    if (!good && !(WIFEXITED(status) && WEXITSTATUS(status) == 1))
        printf("%s: the process that compiles ended with status %d\n", r->f->name, status);
    return good;
}

static convjit_status load(runner *r)
{
    char arch[16];
    int sms;
    uintptr_t binding;
    convjit_status s = r->device->bind(r->device, arch, &sms, &binding);
    for (int i = 0; !s && i < r->f->texts; i++) {
        cj_module *module = NULL;
        s = r->device->load(r->device, binding, &r->binaries[i], &module);
        if (!s) s = r->device->function(r->device, module, "k", 100 * 1024, &r->functions[i]);
    }
    return s ? s : r->device->alloc(r->device, &r->parameters, sizeof ((vector_case *)0)->parameters);
}

/* ---- Cases ---- */

static convjit_status reserve(runner *r, void **memory, size_t *capacity, size_t bytes)
{
    if (bytes <= *capacity) return CONVJIT_OK;
    r->device->free(r->device, *memory);
    *memory = NULL;
    *capacity = bytes;
    return r->device->alloc(r->device, memory, bytes);
}

static convjit_status launch(runner *r, vector_case *c)
{
    cj_device *d = r->device;
    _Alignas(64) unsigned char map[CJ_TENSOR_MAP_BYTES];
    void *args[] = { &r->in, &r->out, &r->parameters, map };
    const unsigned grid[3] = { c->blocks, 1, 1 }, block[3] = { c->threads, 1, 1 };
    convjit_status s = reserve(r, &r->in, &r->in_capacity, c->in_bytes);
    if (!s) s = reserve(r, &r->out, &r->out_capacity, c->out_bytes);
    if (!s) s = d->write(d, r->in, c->in, c->in_bytes);
    if (!s) s = d->write(d, r->out, c->out, c->out_bytes);
    if (!s) s = d->write(d, r->parameters, c->parameters, sizeof c->parameters);
    void *tensor = c->map_is_output ? (unsigned char *)r->out + VECTOR_HEAD : r->in;
    if (!s && c->has_map) s = d->encode(d, &c->map, tensor, map);
    const cj_function *f = r->functions[c->text];
    int n_args = c->has_map ? 4 : 3;
    const cj_attributes attributes = {.cluster = {c->blocks, 1, 1}};
    if (!s)
        s = c->blocks > 1 ? d->launch_with(d, f, grid, block, &attributes, c->smem, args, n_args, NULL)
                          : d->launch(d, f, grid, block, c->smem, args, n_args, NULL);
    if (!s) s = d->sync(d, NULL);
    return s ? s : d->read(d, c->out, r->out, c->out_bytes);
}

static void dump(const runner *r, const line *l, const vector_case *c)
{
    uint32_t head[2] = { (uint32_t)l->number, (uint32_t)c->out_bytes };
    fwrite(head, 1, sizeof head, r->dump);
    fwrite(c->out, 1, c->out_bytes, r->dump);
    fflush(r->dump);
}

/* Runs a case. False if the device cannot be used any more. */
static bool run_case(runner *r, const line *l, outcome *o)
{
    vector_case c = { 0 };
    stream s = { r->seed + ((uint64_t)l->number << 32) };
    r->f->prepare(r->f, l->parameters, &s, &c);
    convjit_status status = launch(r, &c);
    o->state = status ? FAILED : RAN;
    o->hash = hash_bytes(c.out, c.out_bytes);
    if (status) snprintf(o->message, sizeof o->message, "%s", convjit_errmsg());
    for (unsigned b = 0; !status && b < c.blocks; b++) {
        if (words(c.out)[b] == 1) continue;
        o->state = FAILED;
        snprintf(o->message, sizeof o->message, "block %u waited in vain", b);
    }
    if (o->state == RAN && r->dump && l->number < r->o->dump_cases) dump(r, l, &c);
    free(c.in);
    free(c.out);
    return !status || r->o->device == CONVJIT_EMU;
}

/* A process that runs what is still to do, from either end. */
static void work(runner *r, outcome *outcomes, bool reverse)
{
    convjit_status s = load(r);
    for (int i = 0; i < r->n; i++) {
        int at = reverse ? r->n - 1 - i : i;
        if (outcomes[at].state != TO_DO) continue;
        outcomes[at].state = RUNNING;
        alarm(CASE_SECONDS); /* whose signal ends the process */
        if (s) {
            outcomes[at].state = FAILED;
            snprintf(outcomes[at].message, sizeof outcomes[at].message, "%s", convjit_errmsg());
        } else if (!run_case(r, &r->lines[at], &outcomes[at])) {
            _exit(1);
        }
    }
    _exit(0);
}

static outcome *run_cases(runner *r, bool reverse)
{
    size_t bytes = (size_t)r->n * sizeof(outcome);
    outcome *outcomes = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (outcomes == MAP_FAILED) abort();
    bool left = true;
    for (int workers = 0; left && workers < MAX_WORKERS; workers++) {
        fflush(NULL);
        pid_t child = fork();
        if (child == 0) work(r, outcomes, reverse);
        while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR) {}
        left = false;
        for (int i = 0; i < r->n; i++) {
            if (outcomes[i].state == RUNNING) {
                outcomes[i].state = FAILED;
                snprintf(outcomes[i].message, sizeof outcomes[i].message, "its process ended, perhaps after %d seconds",
                         CASE_SECONDS);
            }
            left |= outcomes[i].state == TO_DO;
        }
    }
    for (int i = 0; i < r->n; i++) {
        if (outcomes[i].state != TO_DO) continue;
        outcomes[i].state = FAILED;
        snprintf(outcomes[i].message, sizeof outcomes[i].message, "not run: too many failed");
    }
    return outcomes;
}

/* Counts a case as failed, and prints the first few: the parameters that are not 0, and what happened. */
static void fail(runner *r, const line *l, outcome *o, const char *what)
{
    o->state = FAILED;
    if (r->failed++ >= SHOWN) return;
    printf("%s: case %d:", r->f->name, l->number);
    char columns[1024], *rest = NULL;
    snprintf(columns, sizeof columns, "%s", r->f->columns);
    char *name = strtok_r(columns, " ", &rest);
    for (int i = 0; i < r->columns && name; i++, name = strtok_r(NULL, " ", &rest))
        if (l->parameters[i]) printf(" %s %d", name, l->parameters[i]);
    printf(": %s\n", what);
}

static void compare(runner *r)
{
    outcome *o = run_cases(r, false);
    for (int i = 0; i < r->n; i++)
        if (o[i].state != RAN) fail(r, &r->lines[i], &o[i], o[i].message);
        else if (o[i].hash != r->lines[i].hash) fail(r, &r->lines[i], &o[i], "the output differs");
}

/* Draws cases and runs them, and then once more in reverse order: what differs read something that no case defines. */
static void record(runner *r)
{
    r->n = r->f->cases;
    r->lines = calloc((size_t)r->n, sizeof *r->lines);
    if (!r->lines) abort();
    for (int i = 0; i < r->n; i++) {
        stream s = { ~r->seed + ((uint64_t)i << 32) };
        r->lines[i].number = i;
        r->f->draw(r->f, &s, r->lines[i].parameters);
    }
    outcome *first = run_cases(r, false);
    r->o = &(options){ .device = r->o->device, .write = r->o->write }; /* one dump is enough */
    outcome *second = run_cases(r, true);
    for (int i = 0; i < r->n; i++)
        if (first[i].state != RAN) fail(r, &r->lines[i], &first[i], first[i].message);
        else if (second[i].state != RAN || second[i].hash != first[i].hash)
            fail(r, &r->lines[i], &first[i],
                 second[i].state == RAN ? "another output the second time" : second[i].message);
    if (r->failed < r->n && !write_lines(r, first)) r->failed++;
}

static void keep_every(runner *r, int every)
{
    int n = 0;
    for (int i = 0; i < r->n; i++)
        if (r->lines[i].number % every == 0) r->lines[n++] = r->lines[i];
    r->n = n;
}

/* Opens no library: that is left to the process that needs it. */
static convjit_status open_runner(runner *r)
{
    convjit_config config = { .size = sizeof config, .device = r->o->device, .arch = "sm_90a" };
    char path[512];
    bool gpu = r->o->device == CONVJIT_GPU;
    convjit_status s = gpu ? cj_driver_open(&r->device, &config) : cj_emu_device_open(&r->device, &config);
    if (!s) s = gpu ? cj_nvrtc_open(&r->compiler, &config) : cj_emu_compiler_open(&r->compiler, &config);
    if (!s && r->o->dump) {
        snprintf(path, sizeof path, "%s/%s.%s.bin", r->o->dump, r->f->name, gpu ? "gpu" : "emu");
        r->dump = fopen(path, "wb");
        if (!r->dump) s = cj_fail(CONVJIT_IO, "%s: %s", path, strerror(errno));
    }
    return s;
}

static uint64_t seed_of(const family *f)
{
    unsigned char name[64] = { 0 };
    memcpy(name, f->name, strlen(f->name));
    return hash_bytes(name, sizeof name);
}

typedef struct result { int passed, failed; } result;

/* In a process of its own, which frees what is left. */
static result run_family(const family *f, const options *o)
{
    runner r = { .f = f, .o = o, .columns = count_columns(f->columns), .has_map = strstr(f->columns, "rank") != NULL,
                 .seed = seed_of(f) };
    if (!o->write) {
        if (!read_lines(&r, "tests/vectors/data")) return (result){ 0, 1 };
        keep_every(&r, o->every);
    }
    if (open_runner(&r)) {
        printf("%s: %s\n", f->name, convjit_errmsg());
        return (result){ 0, 1 };
    }
    if (!build_apart(&r)) return (result){ 0, 1 };
    if (o->write) record(&r);
    else compare(&r);
    return (result){ maximum(0, r.n - r.failed), r.failed };
}

/* ---- Processes ---- */

typedef struct child { pid_t pid; int pipe; const family *f; } child;

static child start(const family *f, const options *o)
{
    int ends[2];
    child c = { .f = f };
    fflush(stdout);
    if (pipe(ends) != 0 || (c.pid = fork()) < 0) {
        perror("a process for a family");
        exit(1);
    }
    if (c.pid == 0) {
        result done = run_family(f, o);
        fflush(stdout);
        _exit(write(ends[1], &done, sizeof done) != (ssize_t)sizeof done);
    }
    close(ends[1]);
    c.pipe = ends[0];
    return c;
}

static void finish(const child *c)
{
    result done = { 0, 1 };
    int status = 0;
    ssize_t n = read(c->pipe, &done, sizeof done);
    while (waitpid(c->pid, &status, 0) < 0 && errno == EINTR) {}
    close(c->pipe);
    if (n != (ssize_t)sizeof done) {
        done = (result){ 0, 1 };
        printf("%s: its process ended with status %d\n", c->f->name, status);
    }
    printf("%-20s %5d passed, %d failed\n", c->f->name, done.passed, done.failed);
    fflush(stdout);
    check_passed += done.passed;
    check_failed += done.failed;
}

static bool parse(int argc, char **argv, options *o)
{
    static const struct option names[] = {
        { "device", 1, NULL, 'd' }, { "write", 1, NULL, 'w' }, { "only", 1, NULL, 'o' }, { "every", 1, NULL, 'e' },
        { "dump", 1, NULL, 'u' }, { "jobs", 1, NULL, 'j' }, { NULL, 0, NULL, 0 },
    };
    for (int name; (name = getopt_long(argc, argv, "", names, NULL)) != -1;) {
        if (name == 'd') o->device = strcmp(optarg, "emu") == 0 ? CONVJIT_EMU : CONVJIT_GPU;
        else if (name == 'w') o->write = optarg;
        else if (name == 'o') o->only = optarg;
        else if (name == 'e') o->every = maximum(1, atoi(optarg));
        else if (name == 'u') o->dump = optarg;
        else if (name == 'j') o->jobs = maximum(1, atoi(optarg));
        else return false;
    }
    if (o->dump) o->dump_cases = optind < argc ? atoi(argv[optind++]) : 10;
    return optind == argc;
}

/* Families that no GPU has recorded yet are skipped, and said to be. */
static bool recorded(const family *f)
{
    char path[512];
    snprintf(path, sizeof path, "tests/vectors/data/%s.txt", f->name);
    return access(path, R_OK) == 0;
}

/* The whole of a test program. */
static int vectors_main(int argc, char **argv, convjit_device device, int every, const char *title)
{
    enum { MAX_JOBS = 64 };
    options o = { .device = device, .every = every, .jobs = 2 };
    child running[MAX_JOBS];
    int n = 0, oldest = 0, skipped = 0;
    if (!parse(argc, argv, &o)) {
        fprintf(stderr, "usage: %s [--device gpu|emu] [--write DIR] [--only FAMILY] [--every N] [--dump DIR CASES] "
                "[--jobs N]\n", argv[0]);
        return 2;
    }
    int jobs = minimum(o.jobs, MAX_JOBS);
    for (int i = 0; i < FAMILIES; i++) {
        if (o.only && strncmp(families[i].name, o.only, strlen(o.only)) != 0) continue;
        if (!o.write && !recorded(&families[i])) {
            printf("%-20s not recorded on a GPU yet: skipped\n", families[i].name);
            skipped++;
            continue;
        }
        if (n - oldest == jobs) finish(&running[oldest++ % MAX_JOBS]);
        running[n++ % MAX_JOBS] = start(&families[i], &o);
    }
    while (oldest < n) finish(&running[oldest++ % MAX_JOBS]);
    printf("%s: %d passed, %d failed, %d skipped\n", title, check_passed, check_failed, skipped);
    return check_failed != 0 || check_passed == 0;
}

#endif
