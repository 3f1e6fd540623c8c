/* memory.c: the emulated device's memory. Each allocation ends just before a guard page and begins behind another. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "emu.h"

enum { ALIGN = 256 }; /* of every allocation, as on the GPU */

typedef struct block {
    char *base;
    size_t bytes;
    char *pages; /* the mapping, guard pages included */
    size_t mapped;
} block;

struct cj_heap {
    pthread_mutex_t lock; /* guards all below */
    block *blocks;        /* by address */
    size_t n, capacity;
};

cj_heap *cj_heap_open(void)
{
    cj_heap *heap = calloc(1, sizeof *heap);
    if (heap)
        pthread_mutex_init(&heap->lock, NULL);
    return heap;
}

void cj_heap_close(cj_heap *heap)
{
    if (!heap)
        return;
    for (size_t i = 0; i < heap->n; i++)
        munmap(heap->blocks[i].pages, heap->blocks[i].mapped);
    free(heap->blocks);
    pthread_mutex_destroy(&heap->lock);
    free(heap);
}

/* The number of blocks at or below the address. */
static size_t count_below(const cj_heap *heap, const void *address)
{
    size_t low = 0, high = heap->n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (heap->blocks[middle].base <= (const char *)address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool insert(cj_heap *heap, const block *b)
{
    if (heap->n == heap->capacity) {
        size_t capacity = heap->capacity ? 2 * heap->capacity : 16;
        block *blocks = realloc(heap->blocks, capacity * sizeof *blocks);
        if (!blocks)
            return false;
        heap->blocks = blocks;
        heap->capacity = capacity;
    }
    size_t at = count_below(heap, b->base);
    memmove(&heap->blocks[at + 1], &heap->blocks[at], (heap->n - at) * sizeof *b);
    heap->blocks[at] = *b;
    heap->n++;
    return true;
}

static bool map_block(block *b, size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (bytes > SIZE_MAX / 2)
        return false;
    size_t slot = bytes ? (bytes + ALIGN - 1) / ALIGN * ALIGN : ALIGN;
    size_t inner = (slot + page - 1) / page * page;
    b->mapped = inner + 2 * page;
    b->pages = mmap(NULL, b->mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (b->pages == MAP_FAILED)
        return false;
    if (mprotect(b->pages + page, inner, PROT_READ | PROT_WRITE) != 0) {
        munmap(b->pages, b->mapped);
        return false;
    }
    b->bytes = bytes;
    b->base = b->pages + page + inner - slot;
    memset(b->base, CJ_EMU_POISON, bytes);
    return true;
}

convjit_status cj_heap_alloc(cj_heap *heap, void **memory, size_t bytes)
{
    block b;
    if (!map_block(&b, bytes))
        return cj_fail(CONVJIT_NO_MEMORY, "the host has no %zu bytes for the emulated device", bytes);
    pthread_mutex_lock(&heap->lock);
    bool inserted = insert(heap, &b);
    pthread_mutex_unlock(&heap->lock);
    if (!inserted) {
        munmap(b.pages, b.mapped);
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory");
    }
    *memory = b.base;
    return CONVJIT_OK;
}

void cj_heap_free(cj_heap *heap, void *memory)
{
    pthread_mutex_lock(&heap->lock);
    size_t at = count_below(heap, memory);
    if (at > 0 && heap->blocks[at - 1].base == memory) {
        munmap(heap->blocks[at - 1].pages, heap->blocks[at - 1].mapped);
        memmove(&heap->blocks[at - 1], &heap->blocks[at], (heap->n - at) * sizeof *heap->blocks);
        heap->n--;
    }
    pthread_mutex_unlock(&heap->lock);
}

convjit_status cj_heap_check(cj_heap *heap, const void *memory, size_t bytes, const char *what)
{
    pthread_mutex_lock(&heap->lock);
    size_t at = count_below(heap, memory), left = 0;
    bool inside = false;
    if (at > 0) {
        size_t offset = (size_t)((const char *)memory - heap->blocks[at - 1].base);
        inside = offset <= heap->blocks[at - 1].bytes;
        left = inside ? heap->blocks[at - 1].bytes - offset : 0;
    }
    pthread_mutex_unlock(&heap->lock);
    if (!inside)
        return cj_fail(CONVJIT_INVALID, "%s: %p is not memory of the emulated device", what, memory);
    if (bytes > left)
        return cj_fail(CONVJIT_INVALID, "%s: %zu bytes at %p, where only %zu are allocated", what, bytes, memory, left);
    return CONVJIT_OK;
}

convjit_status cj_heap_snapshot(cj_heap *heap, cj_region **regions, size_t *n)
{
    pthread_mutex_lock(&heap->lock);
    cj_region *copy = calloc(heap->n + 1, sizeof *copy);
    for (size_t i = 0; copy && i < heap->n; i++) {
        copy[i].base = (uintptr_t)heap->blocks[i].base;
        copy[i].bytes = heap->blocks[i].bytes;
    }
    *n = heap->n;
    pthread_mutex_unlock(&heap->lock);
    if (!copy)
        return cj_fail(CONVJIT_NO_MEMORY, "out of memory");
    *regions = copy;
    return CONVJIT_OK;
}

cj_region *cj_region_find(cj_region *regions, size_t n, uintptr_t address)
{
    size_t low = 0, high = n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (regions[middle].base <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &regions[low - 1] : NULL;
}

static size_t writers_bytes(const cj_region *region)
{
    return (region->bytes + 1) / 2 * sizeof(uint32_t);
}

void cj_regions_free(cj_region *regions, size_t n)
{
    for (size_t i = 0; i < n; i++)
        cj_pages_unmap((void *)atomic_load(&regions[i].writers), writers_bytes(&regions[i]));
    free(regions);
}

_Atomic(uint32_t) *cj_region_writers(cj_region *region)
{
    _Atomic(uint32_t) *writers = atomic_load_explicit(&region->writers, memory_order_acquire);
    if (writers)
        return writers;
    _Atomic(uint32_t) *fresh = cj_pages_map(writers_bytes(region)); /* two OS threads may get here: the second yields */
    if (fresh && !atomic_compare_exchange_strong(&region->writers, &writers, fresh)) {
        cj_pages_unmap((void *)fresh, writers_bytes(region));
        return writers;
    }
    return fresh;
}

void *cj_pages_map(size_t bytes)
{
    void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return pages == MAP_FAILED ? NULL : pages;
}

void cj_pages_unmap(void *pages, size_t bytes)
{
    if (pages)
        munmap(pages, bytes);
}
