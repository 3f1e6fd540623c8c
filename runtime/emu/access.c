/* access.c: what a kernel may do with memory. Called before every access that is not to the thread's own stack.
 *
 * Shared memory, by 4-byte word (by byte where smaller accesses were made): the last write, and the reads since. A read of
 * what this block never wrote is an error; so are two accesses by different threads, one of them a write, that no barrier
 * orders. The order is happens-before with vector clocks: a block barrier begins an epoch, which orders everything;
 * __syncwarp joins the clocks of its lanes. Shuffles and votes order nothing, as CUDA says. Of the reads only the first and
 * the latest of an epoch are kept with their time, and of the others their warps: a race with one of those is seen if it
 * crosses warps, which is enough as long as there is no order between warps but the block barrier.
 *
 * Global memory: inside one live allocation. In one launch each 2-byte unit has one writer (blocks run in no order, and no
 * kernel of ours writes an element twice), and no block reads what another wrote unless fences or atomics were used.
 * Atomics are exempt from the race rules. Single-byte accesses are checked for place only.
 */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "emu.h"

static const char *verb(unsigned kind)
{
    return kind & CJ_EMU_ATOMIC ? "updates" : kind & CJ_EMU_WRITE ? "writes" : "reads";
}

/* ---- Names of places, for messages ---- */

/* The i-th of the names that commas separate. */
static void argument_name(const cj_emu_entry *entry, int i, char name[32])
{
    const char *at = entry->args;
    for (; i > 0; i--)
        at = strchr(at, ',') + 1;
    snprintf(name, 32, "%.*s", (int)strcspn(at, ","), at);
}

static bool is_pointer(const char *name)
{
    return strcmp(name, "i32") != 0 && strcmp(name, "i64") != 0;
}

/* The tensor that this part of the region belongs to: the argument that points nearest below the address, else the lowest.
 * An argument that points to the region's end counts too. Returns where it begins. */
static uintptr_t name_tensor(const cj_run *run, const cj_region *region, uintptr_t address, char best[32])
{
    uintptr_t begin = region->base;
    bool found = false;
    snprintf(best, 32, "memory that is no argument");
    for (int i = 0; i < run->entry->n_args; i++) {
        char name[32];
        argument_name(run->entry, i, name);
        if (!is_pointer(name))
            continue;
        uintptr_t pointer;
        memcpy(&pointer, run->args[i], sizeof pointer);
        if (pointer < region->base || pointer - region->base > region->bytes)
            continue;
        bool below = pointer <= address;
        if (!found || (below && (begin > address || pointer > begin)) || (!below && begin > address && pointer < begin)) {
            begin = pointer;
            memcpy(best, name, 32);
        }
        found = true;
    }
    return begin;
}

static uintptr_t distance(uintptr_t address, uintptr_t base, size_t bytes)
{
    return address < base ? base - address : address - base < bytes ? 0 : address - base - bytes;
}

/* "offset 64 of input, which has 64 bytes", by the nearest memory of the device. */
static void name_place(const cj_worker *w, uintptr_t address, char text[160])
{
    const cj_run *run = w->run;
    uintptr_t shared = (uintptr_t)w->shared, least = distance(address, shared, run->smem);
    const cj_region *nearest = NULL;
    for (size_t i = 0; i < run->n_regions; i++) {
        uintptr_t d = distance(address, run->regions[i].base, run->regions[i].bytes);
        if (d <= least) {
            least = d;
            nearest = &run->regions[i];
        }
    }
    const uintptr_t far = (uintptr_t)1 << 36;
    if (least > far) {
        snprintf(text, 160, "address 0x%" PRIxPTR ", far from all memory of the device", address);
    } else if (!nearest) {
        snprintf(text, 160, "offset %" PRIdPTR " of shared memory, which has %u bytes", (intptr_t)(address - shared), run->smem);
    } else {
        char name[32];
        uintptr_t begin = name_tensor(run, nearest, address, name);
        snprintf(text, 160, "offset %" PRIdPTR " of %s, which has %zu bytes", (intptr_t)(address - begin), name,
                 (size_t)(nearest->base + nearest->bytes - begin));
    }
}

/* ---- Mistakes ---- */

static _Noreturn void fail_at(cj_worker *w, uintptr_t pc, uintptr_t other_pc)
{
    w->fault.places[0].pc = pc;
    w->fault.places[1].pc = other_pc;
    cj_worker_abandon(w);
}

static _Noreturn void fail_outside(cj_worker *w, uintptr_t address, size_t bytes, unsigned kind, uintptr_t pc)
{
    char place[160];
    name_place(w, address, place);
    cj_worker_fault(w, "%s %zu bytes\1 out of bounds: at %s", verb(kind), bytes, place);
    fail_at(w, pc, 0);
}

static _Noreturn void fail_shared_race(cj_worker *w, uintptr_t offset, size_t bytes, unsigned kind, uintptr_t pc,
                                       const cj_touch *other, const char *did)
{
    char name[48];
    cj_worker_fault(w, "race: %s %zu bytes\1 at offset %" PRIuPTR " of shared memory, which %s %s\2 with no barrier in between",
                    verb(kind), bytes, offset, cj_thread_name(w, other->thread, name), did);
    fail_at(w, pc, w->run->module_base + other->pc);
}

static _Noreturn void fail_global_race(cj_worker *w, uintptr_t address, size_t bytes, unsigned kind, uintptr_t pc,
                                       uint32_t writer)
{
    const cj_run *run = w->run;
    char place[160], who[96] = "another thread";
    name_place(w, address, place);
    if (run->n_blocks * run->n_threads < UINT32_MAX) {
        uint64_t block = (writer - 1) / run->n_threads;
        char name[48];
        snprintf(who, sizeof who, "%s of block (%" PRIu64 ",%" PRIu64 ",%" PRIu64 ")",
                 cj_thread_name(w, (writer - 1) % run->n_threads, name), block % run->grid.x,
                 block / run->grid.x % run->grid.y, block / run->grid.x / run->grid.y);
    }
    cj_worker_fault(w, "race: %s %zu bytes\1 at %s, which %s wrote in the same launch", verb(kind), bytes, place, who);
    fail_at(w, pc, 0);
}

void cj_misaligned(const void *address, unsigned long alignment, const void *pc)
{
    cj_worker *w = cj_worker_current();
    char place[160];
    name_place(w, (uintptr_t)address, place);
    cj_worker_fault(w, "misaligned access\1: at %s; the address is no multiple of %lu", place, alignment);
    fail_at(w, (uintptr_t)pc, 0);
}

/* ---- Shared memory ---- */

typedef struct shared_access {
    cj_worker *w;
    uintptr_t offset, pc;
    size_t bytes;
    unsigned kind;
    cj_touch now;
} shared_access;

static void check_read(const shared_access *a, cj_cell *cell)
{
    cj_worker *w = a->w;
    if (cell->write.epoch < w->block_epoch) {
        cj_worker_fault(w, "reads %zu bytes\1 at offset %" PRIuPTR " of shared memory that no thread of the block wrote",
                        a->bytes, a->offset);
        fail_at(w, a->pc, 0);
    }
    if (!cj_ordered(w, &cell->write))
        fail_shared_race(w, a->offset, a->bytes, a->kind, a->pc, &cell->write, "wrote");
    uint32_t warp = 1u << a->now.thread / CJ_EMU_WARP;
    if (cell->first_read.epoch != a->now.epoch) {
        cell->first_read = a->now;
        cell->readers = 0;
    } else if (cell->first_read.thread == a->now.thread) {
        cell->first_read = a->now;
    }
    cell->last_read = a->now;
    cell->readers |= warp;
}

static void check_write(const shared_access *a, cj_cell *cell)
{
    cj_worker *w = a->w;
    if (cell->write.epoch >= w->block_epoch && !cj_ordered(w, &cell->write))
        fail_shared_race(w, a->offset, a->bytes, a->kind, a->pc, &cell->write, "wrote");
    if (cell->first_read.epoch == a->now.epoch) {
        if (!cj_ordered(w, &cell->first_read))
            fail_shared_race(w, a->offset, a->bytes, a->kind, a->pc, &cell->first_read, "read");
        if (!cj_ordered(w, &cell->last_read))
            fail_shared_race(w, a->offset, a->bytes, a->kind, a->pc, &cell->last_read, "read");
        uint32_t unknown = cell->readers & ~w->current->known & ~(1u << a->now.thread / CJ_EMU_WARP);
        if (unknown) {
            cj_touch other = cell->last_read;
            other.thread = (uint16_t)(__builtin_ctz(unknown) * CJ_EMU_WARP);
            fail_shared_race(w, a->offset, a->bytes, a->kind, a->pc, &other, "(or another of its warp) read");
        }
    }
    cell->write = a->now;
    cell->first_read = cell->last_read = (cj_touch){0}; /* whoever is ordered behind this write is behind those reads */
}

static void check_cell(const shared_access *a, cj_cell *cell)
{
    if (a->kind & CJ_EMU_READ)
        check_read(a, cell);
    if (a->kind & CJ_EMU_WRITE)
        check_write(a, cell);
}

/* Bytes [from, to) of one word. */
static void check_part(const shared_access *a, size_t word, unsigned from, unsigned to)
{
    cj_cell *cell = &a->w->words[word], *parts = &a->w->bytes[4 * word];
    if (!cell->split) {
        for (int i = 0; i < 4; i++)
            parts[i] = *cell;
        cell->split = true;
    }
    for (unsigned i = from; i < to; i++)
        check_cell(a, &parts[i]);
    if (to - from == 4 && (a->kind & CJ_EMU_WRITE)) { /* all four bytes have one history again */
        *cell = parts[0];
        cell->split = false;
    }
}

static void check_shared(cj_worker *w, uintptr_t offset, size_t bytes, unsigned kind, uintptr_t pc)
{
    if (bytes > w->run->smem || offset > w->run->smem - bytes)
        fail_outside(w, (uintptr_t)w->shared + offset, bytes, kind, pc);
    const cj_thread *t = w->current;
    shared_access a = {w, offset, pc, bytes, kind,
                       {w->epoch, t->clock, (uint32_t)(pc - w->run->module_base), (uint16_t)t->id, 0}};
    for (uintptr_t at = offset, end = offset + bytes; at < end;) {
        size_t word = at / 4;
        uintptr_t next = 4 * (word + 1) < end ? 4 * (word + 1) : end;
        if (next - at == 4 && !w->words[word].split)
            check_cell(&a, &w->words[word]);
        else
            check_part(&a, word, (unsigned)(at % 4), (unsigned)(next - 4 * word));
        at = next;
    }
}

/* An atomic neither races nor orders; but what it updates must have been written. */
static void check_shared_atomic(cj_worker *w, uintptr_t offset, size_t bytes, uintptr_t pc)
{
    if (bytes > w->run->smem || offset > w->run->smem - bytes)
        fail_outside(w, (uintptr_t)w->shared + offset, bytes, CJ_EMU_ATOMIC, pc);
    for (uintptr_t at = offset; at < offset + bytes; at++) {
        const cj_cell *word = &w->words[at / 4], *cell = word->split ? &w->bytes[at] : word;
        if (cell->write.epoch < w->block_epoch) {
            cj_worker_fault(w, "updates %zu bytes\1 at offset %" PRIuPTR " of shared memory that no thread of the block wrote",
                            bytes, offset);
            fail_at(w, pc, 0);
        }
    }
}

/* ---- Global memory ---- */

static cj_region *find_region(const cj_run *run, uintptr_t address)
{
    size_t low = 0, high = run->n_regions;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (run->regions[middle].base <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low ? &run->regions[low - 1] : NULL;
}

static bool inside(const cj_region *region, uintptr_t address, size_t bytes)
{
    uintptr_t offset = address - region->base; /* huge when below */
    return offset < region->bytes && bytes <= region->bytes - offset;
}

static void check_global_write(cj_worker *w, cj_region *region, uintptr_t address, size_t bytes, uintptr_t pc)
{
    _Atomic(uint32_t) *writers = cj_region_writers(region);
    if (!writers) {
        cj_worker_fault(w, "the host has no memory to record who writes%s", "");
        cj_worker_abandon(w);
    }
    uint32_t me = (uint32_t)((w->block * w->run->n_threads + w->current->id) % UINT32_MAX) + 1;
    size_t offset = address - region->base;
    for (size_t unit = (offset + 1) / 2; unit < (offset + bytes) / 2; unit++) {
        uint32_t before = 0;
        if (!atomic_compare_exchange_strong_explicit(&writers[unit], &before, me, memory_order_relaxed,
                                                     memory_order_relaxed) &&
            before != me)
            fail_global_race(w, address, bytes, CJ_EMU_WRITE, pc, before);
    }
}

static void check_global_read(cj_worker *w, const cj_region *region, uintptr_t address, size_t bytes, uintptr_t pc)
{
    const cj_run *run = w->run;
    _Atomic(uint32_t) *writers = atomic_load_explicit(&region->writers, memory_order_acquire);
    if (!writers || atomic_load_explicit(&run->fenced, memory_order_relaxed) ||
        run->n_blocks * run->n_threads >= UINT32_MAX)
        return;
    size_t offset = address - region->base;
    for (size_t unit = (offset + 1) / 2; unit < (offset + bytes) / 2; unit++) {
        uint32_t writer = atomic_load_explicit(&writers[unit], memory_order_relaxed);
        if (writer && (writer - 1) / run->n_threads != w->block)
            fail_global_race(w, address, bytes, CJ_EMU_READ, pc, writer);
    }
}

static void check_global(cj_worker *w, uintptr_t address, size_t bytes, unsigned kind, uintptr_t pc)
{
    cj_region *region = w->recent;
    if (!region || !inside(region, address, bytes)) {
        region = find_region(w->run, address);
        if (!region || !inside(region, address, bytes)) {
            bool own_constant = address >= w->run->module_base && address < w->run->module_end;
            if (kind == CJ_EMU_READ && own_constant)
                return;
            fail_outside(w, address, bytes, kind, pc);
        }
        w->recent = region;
    }
    if (kind & CJ_EMU_ATOMIC) {
        atomic_store_explicit(&w->run->fenced, true, memory_order_relaxed);
        return;
    }
    if (kind & CJ_EMU_READ)
        check_global_read(w, region, address, bytes, pc);
    if (kind & CJ_EMU_WRITE)
        check_global_write(w, region, address, bytes, pc);
}

void cj_access(const void *address, unsigned long bytes, unsigned kind, const void *pc)
{
    if (bytes == 0)
        return;
    cj_worker *w = cj_worker_current();
    uintptr_t at = (uintptr_t)address, offset = at - (uintptr_t)w->shared;
    if (offset >= CJ_EMU_SHARED_BYTES)
        check_global(w, at, bytes, kind, (uintptr_t)pc);
    else if (kind & CJ_EMU_ATOMIC)
        check_shared_atomic(w, offset, bytes, (uintptr_t)pc);
    else
        check_shared(w, offset, bytes, kind, (uintptr_t)pc);
}
