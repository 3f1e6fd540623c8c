/* access.c: what a kernel may do with memory. Called before every access that is not to the thread's own stack.
 *
 * Shared memory, by 4-byte word (by byte where smaller accesses were made): the last write, and the reads since. A read of
 * what this block never wrote is an error; so are two accesses by different threads, one of them a write, that are not
 * ordered (order.c). A block barrier orders everything; __syncwarp its lanes; mbarriers, numbered barriers and the cluster's
 * barrier those that arrive before those that wait. Shuffles and votes order nothing, as CUDA says. As long as a block uses
 * none but the first two, only the first and the latest read of an epoch are kept with their time, and of the others their
 * warps: a race with one of those is seen if it crosses warps, which is enough because nothing but the block barrier orders
 * warps. From the first of the others on, all reads are kept.
 *
 * What asynchronous operations (async.c) read or write is marked from their issue to their completion: nobody may write the
 * former, or touch the latter.
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
    return strcmp(name, "i32") != 0 && strcmp(name, "i64") != 0 && strcmp(name, "tensor_map") != 0;
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

/* Of the shared memory of that rank. */
static void name_shared(const cj_worker *w, unsigned rank, intptr_t offset, char text[160])
{
    bool own = !w->current || rank == w->current->rank;
    char whose[32] = "";
    if (!own)
        snprintf(whose, sizeof whose, " of block %u of the cluster", rank);
    snprintf(text, 160, "offset %" PRIdPTR " of shared memory%s, which has %u bytes", offset, whose, w->run->smem);
}

/* "offset 64 of input, which has 64 bytes", by the nearest memory of the device. */
void cj_place_name(const cj_worker *w, uintptr_t address, char text[160])
{
    const cj_run *run = w->run;
    unsigned rank = w->current ? w->current->rank : 0;
    uintptr_t shared = (uintptr_t)w->shared + (size_t)rank * CJ_EMU_SHARED_STRIDE, least = UINTPTR_MAX;
    for (unsigned r = 0; r < run->n_ranks; r++) {
        uintptr_t base = (uintptr_t)w->shared + (size_t)r * CJ_EMU_SHARED_STRIDE, d = distance(address, base, run->smem);
        if (d < least || (d == least && base == shared)) {
            least = d;
            rank = r;
        }
    }
    shared = (uintptr_t)w->shared + (size_t)rank * CJ_EMU_SHARED_STRIDE;
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
        name_shared(w, rank, (intptr_t)(address - shared), text);
    } else {
        char name[32];
        uintptr_t begin = name_tensor(run, nearest, address, name);
        snprintf(text, 160, "offset %" PRIdPTR " of %s, which has %zu bytes", (intptr_t)(address - begin), name,
                 (size_t)(nearest->base + nearest->bytes - begin));
    }
}

/* ---- Mistakes ---- */

static void set_place(cj_fault *fault, int i, uintptr_t pc)
{
    fault->places[i].pc = pc < CJ_EMU_LINES ? 0 : pc;
    fault->places[i].line = pc < CJ_EMU_LINES ? (unsigned)pc : 0;
}

static _Noreturn void fail_at(cj_worker *w, uintptr_t pc, uintptr_t other_pc)
{
    set_place(&w->fault, 0, pc);
    set_place(&w->fault, 1, other_pc);
    cj_worker_abandon(w);
}

/* Where an earlier access was. */
static uintptr_t place_of(const cj_worker *w, const cj_touch *touch)
{
    return touch->flags & CJ_TOUCH_LINE ? touch->pc : w->run->module_base + touch->pc;
}

static _Noreturn void fail_outside(cj_worker *w, uintptr_t address, size_t bytes, unsigned kind, uintptr_t pc)
{
    char place[160];
    cj_place_name(w, address, place);
    cj_worker_fault(w, "%s %zu bytes\1 out of bounds: at %s", verb(kind), bytes, place);
    fail_at(w, pc, 0);
}

static _Noreturn void fail_shared_race(cj_worker *w, uintptr_t offset, size_t bytes, unsigned kind, uintptr_t pc,
                                       const cj_touch *other, const char *did)
{
    char name[96];
    cj_worker_fault(w, "race: %s %zu bytes\1 at offset %" PRIuPTR " of shared memory, which %s %s\2 with no barrier in between",
                    verb(kind), bytes, offset % CJ_EMU_SHARED_STRIDE, cj_thread_name(w, other->who, name), did);
    fail_at(w, pc, place_of(w, other));
}

static _Noreturn void fail_global_race(cj_worker *w, uintptr_t address, size_t bytes, unsigned kind, uintptr_t pc,
                                       uint32_t writer)
{
    const cj_run *run = w->run;
    char place[160], who[160] = "another thread";
    cj_place_name(w, address, place);
    if (run->n_blocks * run->n_threads < UINT32_MAX) {
        uint64_t block = (writer - 1) / run->n_threads;
        char name[96];
        unsigned id = w->current->rank * run->row + (writer - 1) % run->n_threads;
        snprintf(who, sizeof who, "%s of block (%" PRIu64 ",%" PRIu64 ",%" PRIu64 ")",
                 cj_thread_name(w, id, name), block % run->grid.x,
                 block / run->grid.x % run->grid.y, block / run->grid.x / run->grid.y);
    }
    cj_worker_fault(w, "race: %s %zu bytes\1 at %s, which %s wrote in the same launch", verb(kind), bytes, place, who);
    fail_at(w, pc, 0);
}

void cj_misaligned(const void *address, unsigned long alignment, const void *pc)
{
    cj_worker *w = cj_worker_current();
    char place[160];
    cj_place_name(w, (uintptr_t)address, place);
    cj_worker_fault(w, "misaligned access\1: at %s; the address is no multiple of %lu", place, alignment);
    fail_at(w, (uintptr_t)pc, 0);
}

/* ---- Shared memory ---- */

typedef struct shared_access { /* offset: over all blocks of the cluster */
    cj_worker *w;
    uintptr_t offset, pc;
    size_t bytes;
    unsigned kind;
    cj_touch now;
} shared_access;

/* ---- Reads that are neither the first nor the latest, in lists of a node for each group of 32 readers ---- */

/* The list of a cell, which is void if it is of another cluster. */
static uint32_t first_reads(const cj_worker *w, const cj_cell *cell)
{
    return cell->first_read.epoch >= w->first_epoch ? cell->more : 0;
}

static void forget_reads(cj_worker *w, cj_cell *cell)
{
    uint32_t first = first_reads(w, cell), last = first;
    cell->more = 0;
    if (!first)
        return;
    while (w->reads[last].next)
        last = w->reads[last].next;
    w->reads[last].next = w->free_reads;
    w->free_reads = first;
}

static cj_reads *add_reads(cj_worker *w, cj_cell *cell, unsigned group)
{
    uint32_t i = w->free_reads ? w->free_reads : w->n_reads;
    if (i == CJ_EMU_MAX_READS) {
        cj_worker_fault(w, "the emulated device cannot remember more than %d reads of shared memory%s", CJ_EMU_MAX_READS, "");
        cj_worker_abandon(w);
    }
    if (w->free_reads)
        w->free_reads = w->reads[i].next;
    else
        w->n_reads++;
    w->reads[i].next = cell->more;
    w->reads[i].lanes = 0;
    w->reads[i].group = (uint16_t)group;
    cell->more = i;
    return &w->reads[i];
}

static void remember_read(cj_worker *w, cj_cell *cell, const cj_touch *read)
{
    unsigned group = read->who / CJ_EMU_WARP, lane = read->who % CJ_EMU_WARP;
    uint32_t i = cell->more;
    while (i && w->reads[i].group != group)
        i = w->reads[i].next;
    cj_reads *reads = i ? &w->reads[i] : add_reads(w, cell, group);
    reads->lanes |= 1u << lane;
    reads->clock[lane] = read->clock;
    reads->pc = read->pc;
    reads->flags = read->flags;
}

/* One of the remembered reads that is not ordered before what the thread does now. */
static bool find_unordered(const cj_worker *w, const cj_thread *t, const cj_cell *cell, cj_touch *out)
{
    for (uint32_t i = first_reads(w, cell); i; i = w->reads[i].next) {
        const cj_reads *reads = &w->reads[i];
        for (uint32_t left = reads->lanes; left; left &= left - 1) {
            unsigned lane = (unsigned)__builtin_ctz(left);
            *out = (cj_touch){w->epoch, reads->clock[lane], reads->pc, (uint16_t)(reads->group * CJ_EMU_WARP + lane), reads->flags};
            if (!cj_ordered_for(w, t, out))
                return true;
        }
    }
    return false;
}

/* A read is added to what is known of the cell. Those of earlier epochs are of no interest any more. */
static void note_read(cj_worker *w, cj_cell *cell, const cj_touch *now)
{
    if (cell->first_read.epoch != now->epoch) {
        forget_reads(w, cell);
        cell->first_read = *now;
        cell->readers = 0;
    } else if (cell->first_read.who == now->who) {
        cell->first_read = *now;
    } else if (w->mixed && cell->last_read.who != now->who && cell->last_read.who != cell->first_read.who) {
        remember_read(w, cell, &cell->last_read);
    }
    cell->last_read = *now;
    if (!w->mixed)
        cell->readers |= 1u << now->who / CJ_EMU_WARP;
}

static void note_write(cj_worker *w, cj_cell *cell, const cj_touch *now)
{
    forget_reads(w, cell);
    cell->write = *now;
    cell->first_read = cell->last_read = (cj_touch){0}; /* whoever is ordered behind this write is behind those reads */
    cell->readers = 0;
}

/* A read since the last write that is not ordered before what the thread does now. */
static bool races_with_read(const cj_worker *w, const cj_thread *t, const cj_cell *cell, cj_touch *out, const char **did)
{
    *did = "read";
    if (cell->first_read.epoch != w->epoch)
        return false;
    *out = cell->first_read;
    if (!cj_ordered_for(w, t, out))
        return true;
    *out = cell->last_read;
    if (!cj_ordered_for(w, t, out) || find_unordered(w, t, cell, out))
        return true;
    uint32_t known = t->clocks.epoch == w->epoch ? (uint32_t)t->clocks.known[0] : 0;
    uint32_t unknown = cell->readers & ~known & ~(1u << t->id / CJ_EMU_WARP % 32);
    if (!unknown)
        return false;
    *out = cell->last_read;
    out->who = (uint16_t)(__builtin_ctz(unknown) * CJ_EMU_WARP);
    *did = "(or another of its warp) read";
    return true;
}

/* ---- Ordinary accesses ---- */

static inline void check_read(const shared_access *a, cj_cell *cell)
{
    cj_worker *w = a->w;
    if (cell->last_read.epoch == a->now.epoch && cell->last_read.who == a->now.who && cell->last_read.clock == a->now.clock)
        return; /* nothing has happened since this thread's last look, as a write would have cleared it */
    if (cell->write.epoch < w->first_epoch) {
        cj_worker_fault(w, "reads %zu bytes\1 at offset %" PRIuPTR " of shared memory that no thread of the block wrote",
                        a->bytes, a->offset % CJ_EMU_SHARED_STRIDE);
        fail_at(w, a->pc, 0);
    }
    if (!cj_ordered(w, &cell->write))
        fail_shared_race(w, a->offset, a->bytes, a->kind, a->pc, &cell->write, "wrote");
    note_read(w, cell, &a->now);
}

static void check_write(const shared_access *a, cj_cell *cell)
{
    cj_worker *w = a->w;
    cj_touch other;
    const char *did;
    if (cell->write.epoch >= w->first_epoch && !cj_ordered(w, &cell->write))
        fail_shared_race(w, a->offset, a->bytes, a->kind, a->pc, &cell->write, "wrote");
    if (races_with_read(w, w->current, cell, &other, &did))
        fail_shared_race(w, a->offset, a->bytes, a->kind, a->pc, &other, did);
    note_write(w, cell, &a->now);
}

static inline void check_cell(const shared_access *a, cj_cell *cell)
{
    if (a->kind & CJ_EMU_READ)
        check_read(a, cell);
    if (a->kind & CJ_EMU_WRITE)
        check_write(a, cell);
}

static void split_word(cj_worker *w, size_t word)
{
    cj_cell *cell = &w->words[word], *parts = &w->bytes[4 * word];
    if (cell->split)
        return;
    for (int i = 0; i < 4; i++) {
        forget_reads(w, &parts[i]);
        parts[i] = *cell;
        parts[i].more = 0;
        for (uint32_t r = first_reads(w, cell); r; r = w->reads[r].next) {
            cj_reads *copy = add_reads(w, &parts[i], w->reads[r].group);
            uint32_t next = copy->next;
            *copy = w->reads[r];
            copy->next = next;
        }
    }
    cell->split = true;
}

/* Bytes [from, to) of one word. */
static void check_part(const shared_access *a, size_t word, unsigned from, unsigned to)
{
    cj_cell *cell = &a->w->words[word], *parts = &a->w->bytes[4 * word];
    split_word(a->w, word);
    for (unsigned i = from; i < to; i++)
        check_cell(a, &parts[i]);
    if (to - from == 4 && (a->kind & CJ_EMU_WRITE)) { /* all four bytes have one history again */
        forget_reads(a->w, cell);
        *cell = parts[0];
        cell->split = false;
    }
}

/* An asynchronous operation has to do with this word, or an mbarrier is there. */
static void check_pending(const shared_access *a, size_t word)
{
    cj_worker *w = a->w;
    unsigned pending = w->pending[word], line = 0;
    bool written = pending & CJ_WORD_WRITTEN;
    if (pending & CJ_WORD_BARRIER)
        cj_worker_fault(w, "%s %zu bytes\1 at offset %" PRIuPTR " of shared memory, where an mbarrier is", verb(a->kind), a->bytes,
                        a->offset % CJ_EMU_SHARED_STRIDE);
    else if (written || a->kind & CJ_EMU_WRITE)
        cj_worker_fault(w, "%s %zu bytes\1 at offset %" PRIuPTR " of shared memory, which %s\2 %s", verb(a->kind), a->bytes,
                        a->offset % CJ_EMU_SHARED_STRIDE, cj_async_name(w, word, written, &line),
                        written ? "is still writing" : "still reads");
    if (w->fault.found)
        fail_at(w, a->pc, line);
}

/* Other blocks of the cluster: they must have begun, which only a barrier of the cluster tells, and not have ended. */
static void check_remote(cj_worker *w, unsigned rank, uintptr_t pc)
{
    const cj_run *run = w->run;
    unsigned group = rank * run->row / CJ_EMU_WARP;
    bool begun = w->current->clocks.known[group / 64] >> (group % 64) & 1;
    if (begun && w->blocks[rank].returned < run->n_threads)
        return;
    cj_worker_fault(w, "accesses shared memory of block %u of the cluster\1, which %s", rank,
                    begun ? "has ended" : "may not have begun: cluster_sync is missing");
    fail_at(w, pc, 0);
}

/* offset: over all blocks of the cluster */
static void check_shared_place(cj_worker *w, uintptr_t offset, size_t bytes, unsigned kind, uintptr_t pc)
{
    unsigned rank = (unsigned)(offset / CJ_EMU_SHARED_STRIDE);
    uintptr_t inside = offset % CJ_EMU_SHARED_STRIDE;
    if (rank >= w->run->n_ranks || bytes > w->run->smem || inside > w->run->smem - bytes)
        fail_outside(w, (uintptr_t)w->shared + offset, bytes, kind, pc);
    if (rank != w->current->rank)
        check_remote(w, rank, pc);
}

static cj_touch touch_now(const cj_worker *w, uintptr_t pc)
{
    const cj_thread *t = w->current;
    bool line = pc < CJ_EMU_LINES;
    return (cj_touch){w->epoch, t->clock, (uint32_t)(line ? pc : pc - w->run->module_base), (uint16_t)t->id,
                      line ? CJ_TOUCH_LINE : 0};
}

static void check_shared(cj_worker *w, uintptr_t offset, size_t bytes, unsigned kind, uintptr_t pc)
{
    check_shared_place(w, offset, bytes, kind, pc);
    shared_access a = {w, offset, pc, bytes, kind, touch_now(w, pc)};
    for (uintptr_t at = offset, end = offset + bytes; at < end;) {
        size_t word = at / 4;
        uintptr_t next = 4 * (word + 1) < end ? 4 * (word + 1) : end;
        if (w->pending[word])
            check_pending(&a, word);
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
    check_shared_place(w, offset, bytes, CJ_EMU_ATOMIC, pc);
    shared_access a = {w, offset, pc, bytes, CJ_EMU_ATOMIC | CJ_EMU_WRITE, touch_now(w, pc)};
    for (uintptr_t at = offset; at < offset + bytes; at++) {
        const cj_cell *word = &w->words[at / 4], *cell = word->split ? &w->bytes[at] : word;
        if (w->pending[at / 4])
            check_pending(&a, at / 4);
        if (cell->write.epoch < w->first_epoch) {
            cj_worker_fault(w, "updates %zu bytes\1 at offset %" PRIuPTR " of shared memory that no thread of the block wrote",
                            bytes, offset % CJ_EMU_SHARED_STRIDE);
            fail_at(w, pc, 0);
        }
    }
}

/* ---- Asynchronous operations, which begin with all checks, and are noted when they are complete ---- */

size_t cj_shared_range(cj_worker *w, const void *address, size_t bytes, size_t alignment, const char *what)
{
    uintptr_t offset = cj_shared_offset(w, address), inside = offset % CJ_EMU_SHARED_STRIDE;
    unsigned rank = (unsigned)(offset / CJ_EMU_SHARED_STRIDE);
    bool shared = offset < (uintptr_t)w->run->n_ranks * CJ_EMU_SHARED_STRIDE;
    bool fits = bytes <= w->run->smem && inside <= w->run->smem - bytes;
    if (!shared || !fits || inside % alignment) {
        char place[160];
        cj_place_name(w, (uintptr_t)address, place);
        if (!shared)
            cj_worker_fault(w, "the %s is no shared memory: %s", what, place);
        else if (!fits)
            cj_worker_fault(w, "the %s of %zu bytes is out of bounds: at %s", what, bytes, place);
        else
            cj_worker_fault(w, "the %s must be aligned to %zu bytes, and is at %s", what, alignment, place);
        fail_at(w, w->current->line, 0);
    }
    if (rank != w->current->rank)
        check_remote(w, rank, w->current->line);
    return offset;
}

static _Noreturn void fail_begin(cj_worker *w, size_t word, const char *does, const char *who, const char *did, uintptr_t place)
{
    cj_worker_fault(w, "%s offset %zu of shared memory, which %s %s", does, 4 * word % CJ_EMU_SHARED_STRIDE, who, did);
    fail_at(w, w->current->line, place);
}

static void begin_beside_others(cj_worker *w, size_t word, bool write)
{
    const char *does = write ? "writes" : "reads";
    unsigned line = 0;
    if (w->pending[word] & CJ_WORD_BARRIER) {
        cj_worker_fault(w, "%s offset %zu of shared memory, where an mbarrier is", does, 4 * word % CJ_EMU_SHARED_STRIDE);
        fail_at(w, w->current->line, 0);
    }
    if (w->pending[word] & CJ_WORD_WRITTEN) {
        const char *name = cj_async_name(w, word, true, &line);
        fail_begin(w, word, does, name, "is still writing\2", line);
    }
    if (write && w->pending[word] & CJ_WORD_READ) {
        const char *name = cj_async_name(w, word, false, &line);
        fail_begin(w, word, does, name, "still reads\2", line);
    }
}

/* What somebody did to the word stands in the way. */
static _Noreturn void fail_behind(cj_worker *w, size_t word, const char *does, const cj_touch *other, const char *did)
{
    char name[96];
    fail_begin(w, word, does, cj_thread_name(w, other->who, name), did, place_of(w, other));
}

static void begin_on_cell(cj_worker *w, const cj_thread *t, const cj_cell *cell, size_t word, bool write, bool async)
{
    const char *does = write ? "writes" : "reads", *did;
    cj_touch other;
    bool written = cell->write.epoch >= w->first_epoch;
    if (!write && !written) {
        cj_worker_fault(w, "reads offset %zu of shared memory that no thread of the block wrote", 4 * word % CJ_EMU_SHARED_STRIDE);
        fail_at(w, w->current->line, 0);
    }
    if (written && !cj_ordered_for(w, t, &cell->write))
        fail_behind(w, word, does, &cell->write, "wrote\2 with no barrier in between");
    if (written && async && !cj_shown_for(w, t, &cell->write))
        fail_behind(w, word, does, &cell->write, "wrote\2 and did not show to the async proxy: fence_proxy_async is missing");
    if (write && races_with_read(w, t, cell, &other, &did))
        fail_behind(w, word, does, &other, "read\2 with no barrier in between");
}

void cj_word_begin(cj_worker *w, const cj_thread *t, size_t word, bool write, bool async)
{
    const cj_cell *cell = &w->words[word];
    if (w->pending[word])
        begin_beside_others(w, word, write);
    if (!cell->split)
        begin_on_cell(w, t, cell, word, write, async);
    for (unsigned i = 0; cell->split && i < 4; i++)
        begin_on_cell(w, t, &w->bytes[4 * word + i], word, write, async);
}

void cj_word_end(cj_worker *w, size_t word, bool write, const cj_touch *touch)
{
    cj_cell *cell = &w->words[word];
    if (write) {
        cell->split = false;
        note_write(w, cell, touch);
        return;
    }
    if (!cell->split)
        note_read(w, cell, touch);
    for (unsigned i = 0; cell->split && i < 4; i++)
        note_read(w, &w->bytes[4 * word + i], touch);
}

/* ---- Global memory ---- */

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
    uint32_t me = (uint32_t)((w->blocks[w->current->rank].number * w->run->n_threads + w->current->local) % UINT32_MAX) + 1;
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
        if (writer && (writer - 1) / run->n_threads != w->blocks[w->current->rank].number)
            fail_global_race(w, address, bytes, CJ_EMU_READ, pc, writer);
    }
}

static void check_global(cj_worker *w, uintptr_t address, size_t bytes, unsigned kind, uintptr_t pc)
{
    cj_region *region = w->recent;
    if (!region || !inside(region, address, bytes)) {
        region = cj_region_find(w->run->regions, w->run->n_regions, address);
        if (!region || !inside(region, address, bytes)) {
            bool own_constant = address >= w->run->module_base && address < w->run->module_end;
            if (kind == CJ_EMU_READ && own_constant)
                return;
            fail_outside(w, address, bytes, kind, pc);
        }
        w->recent = region;
    }
    if (w->run->past && cj_still_written(w, address, bytes)) {
        char place[160];
        cj_place_name(w, address, place);
        cj_worker_fault(w, "%s %zu bytes\1 at %s, which a launch before this one wrote: grid_wait is missing", verb(kind), bytes, place);
        fail_at(w, pc, 0);
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
    if (offset >= (uintptr_t)w->run->n_ranks * CJ_EMU_SHARED_STRIDE)
        check_global(w, at, bytes, kind, (uintptr_t)pc);
    else if (kind & CJ_EMU_ATOMIC)
        check_shared_atomic(w, offset, bytes, (uintptr_t)pc);
    else
        check_shared(w, offset, bytes, kind, (uintptr_t)pc);
}
