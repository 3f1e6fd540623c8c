/* text.c, status.c, log.c: growing text, JSON, quoted excerpts, floats, error messages, log lines. */
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
#include "check.h"
#include "internal.h"

/* ---- Growing text ---- */

static void test_growth(void)
{
    cj_text t = {0};
    for (int i = 0; i < 10000; i++)
        cj_text_printf(&t, "%d,", i % 10);
    CHECK(!t.failed);
    CHECK_INT(t.length, 20000);
    CHECK_INT(strlen(t.data), 20000);
    bool right = true;
    for (size_t i = 0; i < t.length; i++)
        right = right && t.data[i] == (i % 2 ? ',' : (char)('0' + i / 2 % 10));
    CHECK(right);
    cj_text_free(&t);
    CHECK(t.data == NULL && t.length == 0 && t.capacity == 0);
}

/* One addition of every length around the buffer's first size. */
static void test_boundaries(void)
{
    char line[600];
    memset(line, 'a', sizeof line);
    for (size_t n = 0; n < sizeof line; n++) {
        cj_text added = {0}, printed = {0};
        cj_text_add(&added, line, n);
        cj_text_printf(&printed, "%.*s", (int)n, line);
        CHECK(added.length == n && strlen(added.data) == n);
        CHECK(printed.length == n && strlen(printed.data) == n);
        cj_text_free(&added);
        cj_text_free(&printed);
    }
}

static void test_take(void)
{
    cj_text t = {0};
    char *out = NULL;
    CHECK_OK(cj_text_take(&t, &out));
    CHECK_STR(out, "");
    convjit_free(out);
    cj_text_puts(&t, "one");
    cj_text_add(&t, "\0two", 4);
    CHECK_INT(t.length, 7);
    CHECK_OK(cj_text_take(&t, &out));
    CHECK(memcmp(out, "one\0two", 8) == 0);
    CHECK(t.data == NULL && t.length == 0);
    convjit_free(out);
    out = NULL;
    cj_text_puts(&t, "lost");
    cj_text_add(&t, "x", SIZE_MAX / 2 + 2); /* no machine has this much; nothing is read */
    cj_text_puts(&t, "more");
    CHECK(t.failed);
    CHECK_STR(t.data, "lost"); /* a failed text stays as it was */
    CHECK_FAILS(cj_text_take(&t, &out), CONVJIT_NO_MEMORY, "out of memory");
    CHECK(out == NULL && t.data == NULL && !t.failed);
}

static void check_json(const char *s, const char *expected)
{
    cj_text t = {0};
    cj_text_json(&t, s);
    CHECK_STR(t.data, expected);
    cj_text_free(&t);
}

static void test_json(void)
{
    check_json("", "\"\"");
    check_json("plain", "\"plain\"");
    check_json("a\"b\\c\nd\te\x01\x7F", "\"a\\\"b\\\\c\\nd\\u0009e\\u0001\\u007f\"");
    check_json("\xC2\xB5s \xE2\x82\xAC \xF0\x9F\x98\x80", "\"\xC2\xB5s \xE2\x82\xAC \xF0\x9F\x98\x80\"");
    check_json("\xC2\x80\xDF\xBF", "\"\xC2\x80\xDF\xBF\"");          /* the ends of each range of UTF-8 */
    check_json("\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80", "\"\xE0\xA0\x80\xED\x9F\xBF\xEE\x80\x80\"");
    check_json("\xF0\x90\x80\x80\xF4\x8F\xBF\xBF", "\"\xF0\x90\x80\x80\xF4\x8F\xBF\xBF\"");
    check_json("\xF5\x80\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\"");
    check_json("\xFF", "\"\\ufffd\"");
    check_json("\x80z", "\"\\ufffdz\"");
    check_json("\xC0\x80", "\"\\ufffd\\ufffd\"");                 /* overlong */
    check_json("\xE0\x80\x80", "\"\\ufffd\\ufffd\\ufffd\"");      /* overlong */
    check_json("\xED\xA0\x80", "\"\\ufffd\\ufffd\\ufffd\"");      /* surrogate */
    check_json("\xF4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\""); /* above U+10FFFF */
    check_json("\xE2\x82", "\"\\ufffd\\ufffd\"");                 /* cut short */
    check_json("\xE2\x22", "\"\\ufffd\\\"\"");                    /* cut short by a quote */
}

static void test_quote(void)
{
    char out[CJ_QUOTE], text[400];
    cj_quote(out, "abc", 3);
    CHECK_STR(out, "\"abc\"");
    cj_quote(out, "abc", 0);
    CHECK_STR(out, "\"\"");
    cj_quote(out, " ~", 2);
    CHECK_STR(out, "\" ~\"");
    cj_quote(out, "a\nb\xFF\x7F", 5);
    CHECK_STR(out, "\"a?b?\?\"");
    memset(text, 'x', sizeof text);
    for (size_t n = 0; n < sizeof text; n++) {
        memset(out, 'Z', sizeof out);
        cj_quote(out, text, n);
        size_t length = strlen(out);
        bool whole = n <= CJ_QUOTE - 3;
        CHECK(length == (whole ? n + 2 : CJ_QUOTE - 1) && out[length - 1] == '"');
        CHECK((strstr(out, "...\"") != NULL) == !whole);
    }
}

/* ---- Floats ---- */

static void check_float(float v, const char *expected)
{
    char text[32];
    cj_float_format(v, text);
    CHECK_STR(text, expected);
}

static void test_float_format(void)
{
    check_float(0, "0");
    check_float(-0.0f, "-0");
    check_float(1, "1");
    check_float(-1, "-1");
    check_float(0.01f, "0.01");
    check_float(0.2f, "0.2");
    check_float(-1.5f, "-1.5");
    check_float(6, "6");
    check_float(10, "10");
    check_float(123.25f, "123.25");
    check_float(16777216, "16777216");
    check_float(100000000, "100000000");
    check_float(1e9f, "1e9");
    check_float(1.5e20f, "1.5e20");
    check_float(0.00001f, "0.00001");
    check_float(0.000015f, "0.000015");
    check_float(1e-6f, "1e-6");
    check_float(-1.25e-7f, "-1.25e-7");
    check_float(3.4028235e38f, "3.4028235e38");
    check_float(1.17549435e-38f, "1.1754944e-38");
    check_float(1e-45f, "1e-45");
    check_float(1.0f / 3, "0.33333334");
    check_float(NAN, "nan");
    check_float(INFINITY, "inf");
    check_float(-INFINITY, "-inf");
}

static void test_float_round_trips(void)
{
    uint64_t state = 7;
    int checked = 0;
    for (int i = 0; i < 100000; i++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        uint32_t bits = (uint32_t)(state >> 32), again;
        float v, back = 0;
        char text[32];
        memcpy(&v, &bits, sizeof v);
        if (!isfinite(v))
            continue;
        cj_float_format(v, text);
        bool read = cj_float_parse(text, strlen(text), &back);
        memcpy(&again, &back, sizeof again);
        checked += read && again == bits;
        CHECK_THAT(read && again == bits, "%s is not %a", text, (double)v);
    }
    CHECK(checked > 90000);
}

static void test_float_parse(void)
{
    static const char *const wrong[] = {
        "", "-", "+1", ".", "-.", "e5", ".e5", "1e", "1e+", "1e-", "1.2.3", " 1", "1 ", "0x1", "1f", "inf", "nan",
        "1,5", "1e39", "-1e39", "1e99999999999", "1\0002", "--1",
    };
    float v = 77;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK_THAT(!cj_float_parse(wrong[i], strlen(wrong[i]) + (wrong[i][0] == '1' && wrong[i][1] == 0), &v),
                   "\"%s\" was read as %g", wrong[i], (double)v);
    CHECK(v == 77);
    CHECK(cj_float_parse("1.", 2, &v) && v == 1);
    CHECK(cj_float_parse("-.5", 3, &v) && v == -0.5f);
    CHECK(cj_float_parse("25e-1", 5, &v) && v == 2.5f);
    CHECK(cj_float_parse("1e+2", 4, &v) && v == 100);
    CHECK(cj_float_parse("123456", 3, &v) && v == 123); /* not a byte behind the length */
    CHECK(cj_float_parse("1e-99", 5, &v) && v == 0);
    CHECK(cj_float_parse("0.1000000000000000055511151231257827", 36, &v) && v == 0.1f);
    char digits[200];
    memset(digits, '1', sizeof digits);
    digits[1] = '.';
    CHECK(cj_float_parse(digits, 127, &v) && !cj_float_parse(digits, 128, &v));
}

/* ---- Messages ---- */

static void test_status_names(void)
{
    for (int i = 0; i < CONVJIT_STATUS_COUNT; i++)
        CHECK(strncmp(convjit_strstatus((convjit_status)i), "CONVJIT_", 8) == 0);
    CHECK_STR(convjit_strstatus(CONVJIT_OK), "CONVJIT_OK");
    CHECK_STR(convjit_strstatus(CONVJIT_CORRUPT), "CONVJIT_CORRUPT");
    CHECK_STR(convjit_strstatus(CONVJIT_STATUS_COUNT), "unknown status");
    CHECK_STR(convjit_strstatus((convjit_status)-1), "unknown status");
}

static void test_messages(void)
{
    CHECK_STR(convjit_errmsg(), ""); /* the first test of the program */
    CHECK_INT(cj_fail(CONVJIT_IO, "file %d", 3), CONVJIT_IO);
    CHECK_STR(convjit_errmsg(), "file 3");
    CHECK_INT(cj_fail_in(CONVJIT_PARSE, "reading %s", "it"), CONVJIT_PARSE);
    CHECK_STR(convjit_errmsg(), "reading it: file 3");
    cj_fail(CONVJIT_IO, "%s, quoted", convjit_errmsg());
    CHECK_STR(convjit_errmsg(), "reading it: file 3, quoted");
    cj_fail_in(CONVJIT_IO, "[%s]", convjit_errmsg());
    CHECK_STR(convjit_errmsg(), "[reading it: file 3, quoted]: reading it: file 3, quoted");
    convjit_problem p;
    CHECK_OK(convjit_problem_parse(&p, "n1c1h1w1k1r1s1"));
    CHECK_HAS(convjit_errmsg(), "quoted]"); /* success leaves the message alone */
}

static void test_long_messages(void)
{
    enum { LIMIT = 16384 };
    static char log[2 * LIMIT];
    for (size_t n = LIMIT - 8; n < LIMIT + 8; n++) {
        memset(log, 'e', n);
        log[n] = 0;
        cj_fail(CONVJIT_COMPILE, "%s", log);
        CHECK_INT(strlen(convjit_errmsg()), n < LIMIT ? n : LIMIT - 1);
        CHECK((strstr(convjit_errmsg(), "\n[cut]") != NULL) == (n >= LIMIT));
        cj_fail_in(CONVJIT_COMPILE, "here");
        CHECK(strncmp(convjit_errmsg(), "here: eee", 9) == 0 && strlen(convjit_errmsg()) < LIMIT);
        CHECK((strstr(convjit_errmsg(), "\n[cut]") != NULL) == (n + 6 >= LIMIT));
    }
    memset(log, 'p', sizeof log - 1);
    cj_fail(CONVJIT_IO, "end");
    cj_fail_in(CONVJIT_IO, "%s", log); /* a prefix that fills the message */
    CHECK_INT(strlen(convjit_errmsg()), LIMIT - 1);
    CHECK_HAS(convjit_errmsg(), "ppp\n[cut]");
}

static void *fail_often(void *argument)
{
    int id = *(int *)argument;
    char expected[32];
    snprintf(expected, sizeof expected, "thread %d", id);
    for (int i = 0; i < 2000; i++) {
        cj_fail(CONVJIT_IO, "thread %d", id);
        CHECK_STR(convjit_errmsg(), expected);
    }
    return NULL;
}

static void test_threads(void)
{
    pthread_t threads[4];
    int ids[4];
    cj_fail(CONVJIT_IO, "main");
    for (int i = 0; i < 4; i++) {
        ids[i] = i;
        CHECK_INT(pthread_create(&threads[i], NULL, fail_often, &ids[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    CHECK_STR(convjit_errmsg(), "main");
}

static void test_version(void)
{
    char expected[32];
    snprintf(expected, sizeof expected, "%d.%d.%d", CONVJIT_VERSION_MAJOR, CONVJIT_VERSION_MINOR,
             CONVJIT_VERSION_PATCH);
    CHECK_STR(convjit_version(), expected);
    convjit_free(NULL);
}

static void test_check_struct(void)
{
    struct { size_t size; char more[5000]; } s = {sizeof(size_t), {0}};
    CHECK_OK(cj_check_struct(&s, sizeof(size_t), "thing"));
    s.size = 100;
    CHECK_OK(cj_check_struct(&s, 50, "thing"));
    CHECK_FAILS(cj_check_struct(&s, 101, "thing"), CONVJIT_INVALID, "size 100 is not that of a thing, which has 101");
    s.more[100 - sizeof(size_t)] = 1; /* the first byte that does not belong to it */
    CHECK_OK(cj_check_struct(&s, 50, "thing"));
    s.more[99 - sizeof(size_t)] = 1;
    CHECK_FAILS(cj_check_struct(&s, 50, "thing"), CONVJIT_INVALID, "size 100: byte 99 of the thing is set");
    s.size = 4096;
    memset(s.more, 0, sizeof s.more);
    CHECK_OK(cj_check_struct(&s, 50, "thing"));
    s.size = 4097;
    CHECK_FAILS(cj_check_struct(&s, 50, "thing"), CONVJIT_INVALID, "size 4097 is not that of a thing");
    CHECK_FAILS(cj_check_struct(NULL, 50, "thing"), CONVJIT_INVALID, "thing is NULL");
}

/* ---- Log ---- */

typedef struct lines { int count; char last[5000]; } lines;

static void keep(void *user, const char *line)
{
    lines *l = user;
    l->count++;
    snprintf(l->last, sizeof l->last, "%s", line);
    errno = EBADF; /* a callback may do anything to errno */
}

static void test_log_levels(void)
{
    static const struct { int verbose; const char *variable; int level; } cases[] = {
        {0, NULL, 0}, {0, "0", 0}, {0, "1", 1}, {0, "2", 2}, {0, "9", 2}, {0, "", 0}, {0, "yes", 0}, {0, "-1", 0},
        {0, "11", 0}, {1, "2", 1}, {2, NULL, 2}, {-1, "2", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        convjit_config config = {.size = sizeof config, .verbose = cases[i].verbose};
        cj_log log;
        unsetenv("CONVJIT_VERBOSE");
        if (cases[i].variable)
            setenv("CONVJIT_VERBOSE", cases[i].variable, 1);
        cj_log_init(&log, &config);
        CHECK_INT(log.level, cases[i].level);
    }
    cj_log log;
    setenv("CONVJIT_VERBOSE", "1", 1);
    cj_log_init(&log, NULL);
    CHECK_INT(log.level, 1);
    unsetenv("CONVJIT_VERBOSE");
}

static void test_log_callback(void)
{
    lines got = {0};
    convjit_config config = {.size = sizeof config, .verbose = 1, .log = keep, .log_user = &got};
    cj_log log;
    cj_log_init(&log, &config);
    errno = ENOENT;
    cj_log_line(&log, 1, "convjit,v1,%s,%.1f", "plan\nx", 1.5);
    CHECK_INT(errno, ENOENT);
    CHECK_INT(got.count, 1);
    CHECK_STR(got.last, "convjit,v1,plan x,1.5");
    cj_log_line(&log, 2, "more");
    CHECK_INT(got.count, 1);
    static char huge[10000];
    memset(huge, 'h', sizeof huge - 1);
    cj_log_line(&log, 1, "%s", huge);
    CHECK_INT(strlen(got.last), 4095);
    CHECK_HAS(got.last, "hh...");
    cj_log_line(&log, 1, "%.4096s", huge);
    CHECK_HAS(got.last, "hh...");
    cj_log_line(&log, 1, "%.4095s", huge);
    CHECK_STR(got.last + 4090, "hhhhh");
}

static void *log_often(void *argument)
{
    char line[512];
    memset(line, *(char *)argument, sizeof line - 1);
    line[sizeof line - 1] = 0;
    cj_log log = {.level = 1};
    for (int i = 0; i < 20; i++)
        cj_log_line(&log, 1, "%s", line);
    return NULL;
}

/* Four threads write to one stderr: every line is of one thread. */
static void test_log_stderr(void)
{
    int ends[2], saved = dup(STDERR_FILENO);
    static char all[4 * 20 * 512 + 1];
    pthread_t threads[4];
    char letters[4] = {'a', 'b', 'c', 'd'};
    CHECK_INT(pipe(ends), 0);
    dup2(ends[1], STDERR_FILENO); /* 40 KiB: they fit in the pipe */
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, log_often, &letters[i]);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    dup2(saved, STDERR_FILENO);
    close(saved);
    close(ends[1]);
    size_t length = 0;
    for (ssize_t n; (n = read(ends[0], all + length, sizeof all - 1 - length)) > 0;)
        length += (size_t)n;
    close(ends[0]);
    CHECK_INT(length, sizeof all - 1);
    int mixed = 0;
    for (size_t i = 0; i < length; i++)
        mixed += all[i] != (i % 512 == 511 ? '\n' : all[i - i % 512]);
    CHECK_INT(mixed, 0);
}

int main(void)
{
    test_messages();
    test_growth();
    test_boundaries();
    test_take();
    test_json();
    test_quote();
    test_float_format();
    test_float_round_trips();
    test_float_parse();
    test_status_names();
    test_long_messages();
    test_threads();
    test_version();
    test_check_struct();
    test_log_levels();
    test_log_callback();
    test_log_stderr();
    return check_done("text");
}
