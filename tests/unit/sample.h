/* sample.h: what the tests of keys, cache and bundles share: a kernel to store, scratch directories, whole files. */
#ifndef SAMPLE_H
#define SAMPLE_H

#include <fcntl.h>
#include <ftw.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include "../check.h"
#include "internal.h"

static char scratch[64] = "/tmp/convjit-test-XXXXXX";

static inline int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    return remove(path);
}

static inline void scratch_remove(void)
{
    nftw(scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* Makes the scratch directory, which goes when the program ends. */
static inline bool scratch_make(void)
{
    if (!mkdtemp(scratch)) {
        perror(scratch);
        return false;
    }
    atexit(scratch_remove);
    return true;
}

/* A path below the scratch directory; eight may be in use at once. */
static inline const char *in_scratch(const char *name)
{
    static char paths[8][512];
    static unsigned turn;
    char *path = paths[turn++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", scratch, name);
    return path;
}

static inline bool file_write(const char *path, const void *data, size_t n)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool ok = fd >= 0 && write(fd, data, n) == (ssize_t)n;
    if (fd >= 0)
        close(fd);
    return ok;
}

/* A whole file, malloc'd; size 0 if there is none. */
static inline cj_blob file_read(const char *path)
{
    cj_blob b = {0};
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0 && fstat(fd, &st) == 0 && (b.data = malloc((size_t)st.st_size + 1)))
        b.size = read(fd, b.data, (size_t)st.st_size) == st.st_size ? (size_t)st.st_size : 0;
    if (fd >= 0)
        close(fd);
    return b;
}

/* Has the parts of which a description can have several. Free with cj_kernel_free. */
static inline cj_kernel *sample_kernel(void)
{
    static const char description[] =
        "convjit-kernel 1\nname conv2d_sample\ntuple c64k128r5s7\narch sm_90a\nschedule direct:kt=64,pt=4\n"
        "why 12 us for 8x256x512\noption --gpu-architecture=sm_90a\noption --use_fast_math\nworkspace N*4\nalign 16\n"
        "require H >= 5\nbecause the filter has 5 rows\n"
        "launch conv2d_sample\ngrid_x ceildiv(Q, 32)\ngrid_y P\ngrid_z N\nblock_x 128\nblock_y 1\nblock_z 1\n"
        "smem 1024\n"
        "arg input\narg weights\narg output\narg workspace N*4\narg i32 H\nend\n";
    cj_kernel *k = NULL;
    CHECK_OK(cj_kernel_read(description, sizeof description - 1, &k));
    if (!k || !(k->source = strdup("extern \"C\" __global__ void conv2d_sample() {}\n")))
        exit(EXIT_FAILURE);
    return k;
}

/* Replaces a string of a kernel. */
static inline void set(char **field, const char *value)
{
    free(*field);
    *field = strdup(value);
}

#endif
