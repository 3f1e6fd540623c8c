/* log.c: the lines that CONVJIT_VERBOSE asks for, to the program's callback or to stderr. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "internal.h"

enum { LINE_BYTES = 4096, MAX_LEVEL = 2 };

/* $CONVJIT_VERBOSE is one digit; anything else means silence, for a library must not complain of its environment. */
static int level_from_environment(void)
{
    const char *v = getenv("CONVJIT_VERBOSE");
    if (!v || v[0] < '0' || v[0] > '9' || v[1])
        return 0;
    return v[0] - '0' < MAX_LEVEL ? v[0] - '0' : MAX_LEVEL;
}

void cj_log_init(cj_log *log, const convjit_config *config)
{
    int level = config ? config->verbose : 0;
    *log = (cj_log){.level = level > 0 ? level : level < 0 ? 0 : level_from_environment()};
    if (config && config->log) {
        log->fn = config->log;
        log->user = config->log_user;
    }
}

/* One write for the whole line, so that threads and processes do not mix theirs. What cannot be written is lost. */
static void write_stderr(const char *line, size_t length)
{
    ssize_t n;
    do
        n = write(STDERR_FILENO, line, length);
    while (n < 0 && errno == EINTR);
}

void cj_log_line(const cj_log *log, int level, const char *format, ...)
{
    if (log->level < level)
        return;
    int saved = errno;
    char line[LINE_BYTES + 1]; /* and the newline */
    va_list args;
    va_start(args, format);
    int whole = cj_vsnprintf(line, LINE_BYTES, format, args);
    va_end(args);
    if (whole >= LINE_BYTES)
        memcpy(line + LINE_BYTES - 4, "...", 4);
    size_t length = whole < 0 ? 0 : strlen(line);
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)line[i] < 0x20)
            line[i] = ' '; /* a compiler's message may have several lines; one event is one */
    if (log->fn) {
        line[length] = 0;
        log->fn(log->user, line);
    } else {
        line[length] = '\n';
        write_stderr(line, length + 1);
    }
    errno = saved;
}
