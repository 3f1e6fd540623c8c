/* module.c: loads a compiled kernel module into the process, and finds lines of the kernel text in its debug information. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "emu.h"

extern char **environ;

struct cj_module {
    void *library;
    const cj_emu_module *info;
    cj_function *functions; /* one an entry */
    uintptr_t base, end;
    cj_blob image;          /* a copy, for cj_module_line: debug information is not loaded */
};

static bool write_all(int fd, const void *data, size_t n)
{
    for (const char *at = data; n > 0;) {
        ssize_t written = write(fd, at, n);
        if (written < 0 && errno != EINTR)
            return false;
        at += written > 0 ? written : 0;
        n -= written > 0 ? (size_t)written : 0;
    }
    return true;
}

/* ---- Loading ---- */

/* A path of an open file that dlopen has not seen. It takes a path that it knows for the library that it knows, and file
 * numbers come back; so the number of this load, in binary, goes into the path as "/" and "/.". */
static void unique_path(char path[192], int fd)
{
    static atomic_uint loads;
    int length = snprintf(path, 192, "/proc/self/fd");
    for (unsigned n = atomic_fetch_add(&loads, 1) + 1; n > 0; n /= 2)
        length += snprintf(path + length, 192 - (size_t)length, n % 2 ? "/." : "/");
    snprintf(path + length, 192 - (size_t)length, "/%d", fd);
}

static void *open_in_memory(const cj_blob *image)
{
    int fd = memfd_create("convjit-kernel", MFD_CLOEXEC);
    if (fd < 0)
        return NULL;
    void *library = NULL;
    if (write_all(fd, image->data, image->size)) {
        char path[192];
        unique_path(path, fd);
        library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    }
    close(fd);
    return library;
}

/* For systems whose policy forbids code in anonymous files. */
static void *open_in_directory(const cj_blob *image)
{
    const char *directory = getenv("TMPDIR");
    char path[4096];
    int length = snprintf(path, sizeof path, "%s/convjit-XXXXXX", directory && *directory ? directory : "/tmp");
    if (length < 0 || (size_t)length >= sizeof path)
        return NULL;
    int fd = mkstemp(path);
    if (fd < 0)
        return NULL;
    bool written = write_all(fd, image->data, image->size);
    close(fd);
    void *library = written ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
    unlink(path);
    return library;
}

typedef struct range { uintptr_t inside, base, end; } range;

static int find_range(struct dl_phdr_info *info, size_t size, void *user)
{
    range *r = user;
    uintptr_t base = UINTPTR_MAX, end = 0;
    for (int i = 0; i < info->dlpi_phnum; i++)
        if (info->dlpi_phdr[i].p_type == PT_LOAD) {
            uintptr_t from = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr;
            base = from < base ? from : base;
            end = from + info->dlpi_phdr[i].p_memsz > end ? from + info->dlpi_phdr[i].p_memsz : end;
        }
    if (r->inside < base || r->inside >= end)
        return 0;
    r->base = info->dlpi_addr;
    r->end = end;
    return 1;
}

static bool host_has(unsigned cpu)
{
#if defined(__x86_64__)
    return !(cpu & CJ_EMU_NEEDS_FMA) || __builtin_cpu_supports("fma");
#else
    return cpu == 0;
#endif
}

static convjit_status check_info(const cj_emu_module *info)
{
    if (!info)
        return cj_fail(CONVJIT_CORRUPT, "not a module of the emulated device: it has no cj_emu_module_info");
    if (info->abi != CJ_EMU_ABI)
        return cj_fail(CONVJIT_CORRUPT, "a module of another version of the emulated device: %u, expected %d", info->abi,
                       CJ_EMU_ABI);
    if (!host_has(info->cpu))
        return cj_fail(CONVJIT_UNSUPPORTED, "the module was compiled for a CPU with FMA instructions, and this one has none");
    return CONVJIT_OK;
}

static convjit_status bind_module(cj_module *m)
{
    m->info = dlsym(m->library, "cj_emu_module_info");
    convjit_status status = check_info(m->info);
    if (status)
        return status;
    range r = {.inside = (uintptr_t)m->info};
    dl_iterate_phdr(find_range, &r);
    m->base = r.base;
    m->end = r.end;
    m->functions = calloc((size_t)m->info->n_entries + 1, sizeof *m->functions);
    if (!m->functions)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory");
    for (int i = 0; i < m->info->n_entries; i++)
        m->functions[i] = (cj_function){&m->info->entries[i], m};
    *m->info->runtime = &cj_emu_services;
    return CONVJIT_OK;
}

convjit_status cj_module_load(const cj_blob *binary, cj_module **out)
{
    if (binary->size < 4 || memcmp(binary->data, "\177ELF", 4) != 0)
        return cj_fail(CONVJIT_CORRUPT, "not a module of the emulated device: no ELF file");
    cj_module *m = calloc(1, sizeof *m);
    if (m)
        m->image.data = malloc(binary->size);
    if (!m || !m->image.data) {
        free(m);
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory");
    }
    memcpy(m->image.data, binary->data, binary->size);
    m->image.size = binary->size;
    m->library = open_in_memory(binary);
    if (!m->library)
        m->library = open_in_directory(binary);
    const char *why = m->library ? NULL : dlerror();
    convjit_status status = m->library ? bind_module(m)
                                       : cj_fail(CONVJIT_CORRUPT, "the module cannot be loaded: %s",
                                                 why ? why : "neither memory nor TMPDIR takes a file");
    if (status) {
        cj_module_unload(m);
        return status;
    }
    *out = m;
    return CONVJIT_OK;
}

void cj_module_unload(cj_module *m)
{
    if (!m)
        return;
    if (m->library)
        dlclose(m->library);
    free(m->functions);
    free(m->image.data);
    free(m);
}

convjit_status cj_module_function(cj_module *m, const char *name, cj_function **out)
{
    for (int i = 0; i < m->info->n_entries; i++)
        if (strcmp(m->info->entries[i].name, name) == 0) {
            *out = &m->functions[i];
            return CONVJIT_OK;
        }
    return cj_fail(CONVJIT_INVALID, "the module has no kernel %s", name);
}

void cj_module_range(const cj_module *m, uintptr_t *base, uintptr_t *end)
{
    *base = m->base;
    *end = m->end;
}

/* ---- Lines ---- */

/* Starts a program with /dev/null as input and errors, and its output in a pipe. */
static bool start(const char *program, char *const argv[], pid_t *child, int *output)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    posix_spawn_file_actions_t actions;
    bool started = posix_spawn_file_actions_init(&actions) == 0;
    if (started) {
        started = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) == 0 &&
                  posix_spawn_file_actions_adddup2(&actions, ends[1], 1) == 0 &&
                  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0) == 0 &&
                  posix_spawnp(child, program, &actions, NULL, argv, environ) == 0;
        posix_spawn_file_actions_destroy(&actions);
    }
    close(ends[1]);
    if (!started)
        close(ends[0]);
    *output = ends[0];
    return started;
}

/* addr2line -i prints "file:line" of the address and then of each place that it was inlined into. The first one in the
 * kernel text, and not in device.h, is what a reader wants to know. */
static unsigned first_kernel_line(FILE *lines)
{
    char text[512];
    unsigned line = 0;
    while (fgets(text, sizeof text, lines)) {
        const char *place = strstr(text, "kernel.cu:");
        if (place && !line)
            line = (unsigned)strtoul(place + strlen("kernel.cu:"), NULL, 10);
    }
    return line;
}

unsigned cj_module_line(const cj_module *m, uintptr_t pc)
{
    static const char *const tools[] = {"addr2line", "llvm-addr2line"};
    int fd = memfd_create("convjit-kernel", MFD_CLOEXEC);
    if (fd < 0)
        return 0;
    char file[64], address[32];
    snprintf(file, sizeof file, "/proc/%ld/fd/%d", (long)getpid(), fd);
    snprintf(address, sizeof address, "0x%lx", (unsigned long)(pc - m->base - 1)); /* in the call, not behind it */
    unsigned line = 0;
    bool written = write_all(fd, m->image.data, m->image.size);
    for (size_t i = 0; written && !line && i < sizeof tools / sizeof *tools; i++) {
        char tool[32];
        snprintf(tool, sizeof tool, "%s", tools[i]);
        char *argv[] = {tool, (char[]){"-i"}, (char[]){"-e"}, file, address, NULL};
        pid_t child;
        int output;
        if (!start(tools[i], argv, &child, &output))
            continue;
        FILE *lines = fdopen(output, "r");
        if (lines) {
            line = first_kernel_line(lines);
            fclose(lines);
        } else {
            close(output);
        }
        while (waitpid(child, NULL, 0) < 0 && errno == EINTR) {
        }
    }
    close(fd);
    return line;
}
