/* status.c: status names, each thread's error message, and the few functions that belong to no other part. */
#include <stdlib.h>
#include <string.h>
#include "internal.h"

/* Compiler logs go through here, so a message may be long; what does not fit ends in CUT. */
enum { MESSAGE_BYTES = 16384 };
static const char CUT[] = "\n[cut]";

/* Two buffers a thread: a message is written into the idle one, so that its arguments may quote the current one. */
static _Thread_local char messages[2][MESSAGE_BYTES];
static _Thread_local unsigned current;

static const char *const status_names[CONVJIT_STATUS_COUNT] = {
    [CONVJIT_OK] = "CONVJIT_OK",
    [CONVJIT_INVALID] = "CONVJIT_INVALID",
    [CONVJIT_PARSE] = "CONVJIT_PARSE",
    [CONVJIT_UNSUPPORTED] = "CONVJIT_UNSUPPORTED",
    [CONVJIT_NO_MEMORY] = "CONVJIT_NO_MEMORY",
    [CONVJIT_NO_COMPILER] = "CONVJIT_NO_COMPILER",
    [CONVJIT_NO_DRIVER] = "CONVJIT_NO_DRIVER",
    [CONVJIT_NO_DEVICE] = "CONVJIT_NO_DEVICE",
    [CONVJIT_COMPILE] = "CONVJIT_COMPILE",
    [CONVJIT_GENERATE] = "CONVJIT_GENERATE",
    [CONVJIT_DRIVER] = "CONVJIT_DRIVER",
    [CONVJIT_EMULATOR] = "CONVJIT_EMULATOR",
    [CONVJIT_IO] = "CONVJIT_IO",
    [CONVJIT_CORRUPT] = "CONVJIT_CORRUPT",
};

const char *convjit_strstatus(convjit_status status)
{
    unsigned i = (unsigned)status;
    return i < CONVJIT_STATUS_COUNT ? status_names[i] : "unknown status";
}

const char *convjit_errmsg(void)
{
    return messages[current];
}

/* Makes the idle buffer, which holds `length` characters or had to hold more, the current one. */
static void publish(size_t length)
{
    char *text = messages[!current];
    if (length >= MESSAGE_BYTES)
        memcpy(text + MESSAGE_BYTES - sizeof CUT, CUT, sizeof CUT);
    current = !current;
}

/* Adds a string to a message of `length` characters as far as it fits; returns the length that the whole would have. */
static size_t append(char *text, size_t length, const char *more)
{
    size_t n = strlen(more);
    if (length < MESSAGE_BYTES) {
        size_t fits = n < MESSAGE_BYTES - 1 - length ? n : MESSAGE_BYTES - 1 - length;
        memcpy(text + length, more, fits);
        text[length + fits] = 0;
    }
    return length + n;
}

convjit_status cj_fail(convjit_status status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = cj_vsnprintf(messages[!current], MESSAGE_BYTES, format, args);
    va_end(args);
    publish(length < 0 ? 0 : (size_t)length);
    return status;
}

convjit_status cj_fail_in(convjit_status status, const char *format, ...)
{
    char *text = messages[!current];
    va_list args;
    va_start(args, format);
    int prefix = cj_vsnprintf(text, MESSAGE_BYTES, format, args);
    va_end(args);
    size_t length = prefix < 0 ? 0 : (size_t)prefix;
    publish(append(text, append(text, length, ": "), messages[current]));
    return status;
}

convjit_status cj_check_struct(const void *fields, size_t known, const char *type)
{
    /* No version of any struct comes near this; a size above it is an uninitialised field, not a newer header. */
    enum { LARGEST = 4096 };
    if (!fields)
        return cj_fail(CONVJIT_INVALID, "%s is NULL", type);
    size_t size;
    memcpy(&size, fields, sizeof size);
    if (size < known || size > LARGEST)
        return cj_fail(CONVJIT_INVALID, "size %zu is not that of a %s, which has %zu bytes (set `size` to sizeof(%s))",
                       size, type, known, type);
    const unsigned char *bytes = fields;
    for (size_t i = known; i < size; i++)
        if (bytes[i])
            return cj_fail(CONVJIT_INVALID, "size %zu: byte %zu of the %s is set, and this library knows only %zu",
                           size, i, type, known);
    return CONVJIT_OK;
}

#define STRING_OF(x) #x
#define VERSION_STRING(major, minor, patch) STRING_OF(major) "." STRING_OF(minor) "." STRING_OF(patch)

const char *convjit_version(void)
{
    return VERSION_STRING(CONVJIT_VERSION_MAJOR, CONVJIT_VERSION_MINOR, CONVJIT_VERSION_PATCH);
}

void convjit_free(void *memory)
{
    free(memory);
}
