/* driver.c: runs a fuzz target over its corpus and over seeded mutations of it, with no libFuzzer.
 *
 * usage: fuzz_NAME             the corpus and FUZZ_RUNS mutations (default 200000) of seed FUZZ_SEED (default 1)
 *        fuzz_NAME FILE...     these inputs only
 * The target runs in a child process, which a sanitizer may kill; then the input that did it is printed, escaped for
 * printf(1). */
#include <dirent.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "fuzz.h"

enum { INPUT_BYTES = 4096, CORPUS_FILES = 64 };

typedef struct input { size_t size; uint8_t data[INPUT_BYTES]; } input;

static input corpus[CORPUS_FILES];
static int corpus_size;

/* What the child is at, for the parent to see. */
typedef struct progress { long runs; input now; } progress;
static progress *shared;

/* ---- Corpus ---- */

static void read_input(const char *path)
{
    FILE *f = fopen(path, "rb");
    REQUIRE(f && corpus_size < CORPUS_FILES);
    input *in = &corpus[corpus_size++];
    in->size = fread(in->data, 1, INPUT_BYTES, f);
    fclose(f);
}

static void read_corpus(const char *directory)
{
    struct dirent **names;
    int n = scandir(directory, &names, NULL, alphasort); /* sorted: the same runs everywhere */
    REQUIRE(n >= 0);
    for (int i = 0; i < n; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/%s", directory, names[i]->d_name);
        if (names[i]->d_name[0] != '.')
            read_input(path);
        free(names[i]);
    }
    free(names);
    REQUIRE(corpus_size > 0);
}

/* ---- Mutations ---- */

static uint64_t random_state;

static size_t below(size_t n)
{
    random_state ^= random_state << 13; /* xorshift64 */
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return n ? (size_t)(random_state % n) : 0;
}

static void insert(input *in, size_t at, const uint8_t *bytes, size_t n)
{
    if (n > INPUT_BYTES - in->size)
        n = INPUT_BYTES - in->size;
    memmove(in->data + at + n, in->data + at, in->size - at);
    memcpy(in->data + at, bytes, n);
    in->size += n;
}

/* A piece of some corpus entry goes in, or a text that has broken parsers before. */
static void insert_piece(input *in)
{
    static const char *const pieces[] = {
        "0", "-", "_", "x", "\n", " ", "(", ")", "1e39", "2147483648", "9223372036854775807", "18446744073709551616",
        "00", ".", "((((((((((((((((", "\x80\xff", "n1",
    };
    if (below(2)) {
        const char *piece = pieces[below(sizeof pieces / sizeof *pieces)];
        insert(in, below(in->size + 1), (const uint8_t *)piece, strlen(piece));
    } else {
        const input *other = &corpus[below((size_t)corpus_size)];
        size_t from = below(other->size + 1);
        insert(in, below(in->size + 1), other->data + from, below(other->size - from + 1));
    }
}

static void delete_piece(input *in)
{
    size_t from = below(in->size + 1), rest = in->size - from, n = below(rest < 16 ? rest + 1 : 16);
    memmove(in->data + from, in->data + from + n, rest - n);
    in->size -= n;
}

static void mutate(input *in)
{
    for (size_t times = 1 + below(4); times > 0; times--) {
        size_t at = below(in->size);
        switch (below(6)) {
        case 0: insert_piece(in); break;
        case 1: delete_piece(in); break;
        case 2: in->size = below(in->size + 1); break;
        case 3: if (in->size) in->data[at] ^= (uint8_t)(1u << below(8)); break;
        case 4: if (in->size) in->data[at] = (uint8_t)('0' + below(10)); break;
        default: if (in->size) in->data[at] = (uint8_t)below(256);
        }
    }
}

/* ---- Running ---- */

static void run(const input *in)
{
    shared->now = *in;
    uint8_t *exact = malloc(in->size ? in->size : 1); /* so that a read behind the end is caught */
    REQUIRE(exact);
    memcpy(exact, in->data, in->size);
    LLVMFuzzerTestOneInput(exact, in->size);
    free(exact);
    shared->runs++;
}

static long setting(const char *variable, long normal)
{
    const char *text = getenv(variable);
    return text ? strtol(text, NULL, 10) : normal;
}

static void run_all(bool mutations)
{
    for (int i = 0; i < corpus_size; i++)
        run(&corpus[i]);
    random_state = (uint64_t)setting("FUZZ_SEED", 1) * 0x9E3779B97F4A7C15u + 1;
    for (long runs = mutations ? setting("FUZZ_RUNS", 200000) : 0; runs > 0; runs--) {
        input in = corpus[below((size_t)corpus_size)];
        mutate(&in);
        run(&in);
    }
}

static void print_culprit(void)
{
    fprintf(stderr, "the input, for printf(1): '");
    for (size_t i = 0; i < shared->now.size; i++)
        fprintf(stderr, "\\%03o", shared->now.data[i]);
    fprintf(stderr, "'\n");
}

int main(int argc, char **argv)
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    REQUIRE(shared != MAP_FAILED);
    for (int i = 1; i < argc; i++)
        read_input(argv[i]);
    if (argc == 1)
        read_corpus("tests/fuzz/corpus/" FUZZ_NAME);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        run_all(argc == 1);
        return 0; /* through exit, where the leak checker runs */
    }
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    bool failed = !WIFEXITED(status) || WEXITSTATUS(status) != 0;
    if (failed)
        print_culprit();
    printf("fuzz_%s: %ld passed, %d failed\n", FUZZ_NAME, shared->runs, failed);
    return failed;
}
