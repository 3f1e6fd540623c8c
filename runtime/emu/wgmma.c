/* wgmma.c: matrix products of a warpgroup: operands as descriptors tell, products under way, and who may touch registers.
 *
 * Operands are read, and products added, when the operation takes effect: at issue, or at the wait that completes it
 * (async.c). A thread's registers are local arrays in its fibre's stack. From issue until the wait, the sums are here
 * (cj_sums) and the arrays hold poison, or, when effects come at issue, a result that nobody may rely on yet.
 *
 * Two rules about registers are checked with a copy of each thread's stack (the image), taken at wgmma_fence and brought up
 * to date with all that wgmma writes. An array of a new wgmma that differs from it was written since the fence, which is
 * then missing; an array of a wgmma under way that does was written too early. That arrays were only read is not seen here:
 * it is the poison that makes the result wrong.
 */
#include <stdlib.h>
#include <string.h>
#include "warpgroup.h"

enum { ROWS = 64, MAX_COLUMNS = 256, MAX_DEPTH = 16, CHUNK = 16 /* bytes: what is contiguous in every layout */ };

/* Accumulators of wgmmas under way. */
struct cj_sums {
    cj_sums *next;
    float *d[CJ_EMU_WARPGROUP]; /* the threads' arrays */
    unsigned columns, depth;    /* of the shape */
    unsigned flights, effects;  /* operations that use it and are under way; and of those, without effect so far */
    const char *name;           /* the latest of them */
    unsigned line;
    float values[ROWS * MAX_COLUMNS];
};

struct cj_flight {
    const char *name;
    unsigned line, commit; /* its group is closed by that commit, counted from 0 */
    cj_sums *sums;
    bool a_in_registers;
    const unsigned *a[CJ_EMU_WARPGROUP];
};

/* ---- Operands in shared memory ---- */

typedef struct operand {
    const char *name;
    bool is_b, mn_major;
    unsigned start, leading, stride, swizzle; /* bytes; start: inside the shared window */
    cj_emu_element element;
    unsigned extent, depth; /* along M or N, and along K */
} operand;

unsigned long long cj_wgmma_descriptor(const void *start, unsigned leading, unsigned stride, unsigned swizzle, unsigned line)
{
    cj_worker *w = cj_worker_current();
    cj_enter(w, "wgmma_descriptor", line);
    size_t offset = cj_shared_range(w, start, CHUNK, CHUNK, "start");
    const char *wrong = NULL;
    if (leading % 16 != 0 || stride % 16 != 0)
        wrong = "leading and stride must be multiples of 16";
    else if (leading >= 1u << 18 || stride >= 1u << 18)
        wrong = "leading and stride must be less than 262144";
    else if (swizzle != 0 && swizzle != 32 && swizzle != 64 && swizzle != 128)
        wrong = "swizzle must be 0, 32, 64 or 128";
    else if (offset / CJ_EMU_SHARED_STRIDE != w->current->rank)
        wrong = "start is in the shared memory of another block";
    if (wrong) {
        cj_worker_fault(w, "%s (leading %u, stride %u, swizzle %u)", wrong, leading, stride, swizzle);
        cj_worker_abandon(w);
    }
    w->primitive = NULL;
    unsigned address = (unsigned)(offset % CJ_EMU_SHARED_STRIDE) + CJ_EMU_SHARED_WINDOW;
    unsigned long long layout = swizzle == 128 ? 1 : swizzle == 64 ? 2 : swizzle == 32 ? 3 : 0;
    return layout << 62 | (unsigned long long)(stride >> 4) << 32 | leading >> 4 << 16 | (address >> 4 & 0x3fff);
}

/* Sums that overflow a field, or a base_offset: on a GPU that gives wrong results. */
static void check_descriptor(cj_worker *w, const char *name, unsigned long long descriptor)
{
    const unsigned long long field = 0x3fff, fields = field | field << 16 | field << 32 | 3ull << 62;
    if (!(descriptor & ~fields))
        return;
    cj_worker_fault(w, "descriptor %s, 0x%llx: bits are set outside of its fields", name, descriptor);
    cj_worker_abandon(w);
}

static unsigned long long descriptor_of(const cj_emu_wgmma_operands *operands, bool is_b, unsigned step)
{
    return (is_b ? operands->b : operands->a) +
           (unsigned long long)(long long)(is_b ? operands->b_step : operands->a_step) * step;
}

static operand decode(const cj_emu_wgmma_shape *shape, const cj_emu_wgmma_operands *operands, bool is_b, unsigned step)
{
    static const unsigned swizzles[] = {0, 128, 64, 32};
    unsigned long long d = descriptor_of(operands, is_b, step);
    return (operand){
        .name = is_b ? "b" : "a", .is_b = is_b, .mn_major = is_b ? shape->b_mn : shape->a_mn,
        .start = (unsigned)(d & 0x3fff) << 4, .leading = (unsigned)(d >> 16 & 0x3fff) << 4,
        .stride = (unsigned)(d >> 32 & 0x3fff) << 4, .swizzle = swizzles[d >> 62], .element = shape->element,
        .extent = is_b ? shape->n : ROWS, .depth = 32 / cj_element_bytes(shape->element),
    };
}

/* Where the 16 bytes are that hold element (mn, k) and those behind it along the major dimension ("Shared Memory Matrix
 * Layout" of wgmma). The swizzle exchanges 16-byte columns of absolute addresses: bits 4 to 6 by bits 7 to 9, or fewer. */
static unsigned chunk_address(const operand *o, unsigned mn, unsigned k)
{
    unsigned per_chunk = CHUNK / cj_element_bytes(o->element), row = o->swizzle ? o->swizzle : CHUNK, offset;
    if (!o->mn_major)
        offset = mn % 8 * row + mn / 8 * o->stride + k / per_chunk * (o->swizzle ? CHUNK : o->leading);
    else if (o->swizzle)
        offset = mn * 2 % row + mn * 2 / row * o->leading + k % 8 * row + k / 8 * o->stride;
    else
        offset = mn / 8 * o->stride + k / 8 * o->leading + k % 8 * CHUNK;
    unsigned address = o->start + offset, column_bits = o->swizzle ? o->swizzle - CHUNK : 0;
    return address ^ (address >> 3 & column_bits);
}

typedef void chunk_function(void *user, const operand *o, unsigned mn, unsigned k, unsigned address);

static void for_each_chunk(const operand *o, chunk_function *each, void *user)
{
    unsigned per_chunk = CHUNK / cj_element_bytes(o->element);
    for (unsigned mn = 0; mn < o->extent; mn += o->mn_major ? per_chunk : 1)
        for (unsigned k = 0; k < o->depth; k += o->mn_major ? 1 : per_chunk)
            each(user, o, mn, k, chunk_address(o, mn, k));
}

/* Which 16-byte pieces of the block's shared memory an operand has. */
typedef struct chunk_map {
    cj_worker *w;
    uint64_t used[CJ_EMU_SHARED_BYTES / CHUNK / 64];
} chunk_map;

static void map_chunk(void *user, const operand *o, unsigned mn, unsigned k, unsigned address)
{
    chunk_map *map = user;
    unsigned offset = address - CJ_EMU_SHARED_WINDOW, smem = map->w->run->smem;
    if (address < CJ_EMU_SHARED_WINDOW || offset >= smem || smem - offset < CHUNK) {
        cj_worker_fault(map->w, "out of bounds: %s[%u][%u] is at offset %d of shared memory, which has %u bytes", o->name,
                        o->is_b ? k : mn, o->is_b ? mn : k, (int)offset, smem);
        cj_worker_abandon(map->w);
    }
    map->used[offset / CHUNK / 64] |= 1ull << offset / CHUNK % 64;
}

/* Tells the operation what it reads, in as few pieces as may be. */
static void announce(cj_worker *w, cj_async *op, const cj_emu_warpgroup_call *call, bool is_b, unsigned step)
{
    chunk_map map = {.w = w};
    operand o = decode(&call->shape, &call->operands, is_b, step);
    check_descriptor(w, o.name, descriptor_of(&call->operands, is_b, step));
    for_each_chunk(&o, map_chunk, &map);
    const unsigned char *shared = cj_shared_at(w, w->current->rank, CJ_EMU_SHARED_WINDOW);
    size_t begin = 0, end = 0, n = sizeof map.used / sizeof *map.used * 64;
    for (size_t i = 0; i < n; i++) {
        if (i % 64 == 0 && !map.used[i / 64]) {
            i += 63;
            continue;
        }
        if (!(map.used[i / 64] >> i % 64 & 1))
            continue;
        if (i != end) {
            if (end > begin)
                cj_async_reads(w, op, shared + begin * CHUNK, (end - begin) * CHUNK);
            begin = i;
        }
        end = i + 1;
    }
    if (end > begin)
        cj_async_reads(w, op, shared + begin * CHUNK, (end - begin) * CHUNK);
}

typedef struct chunk_reader {
    const unsigned char *shared; /* the block's first byte */
    float *values;               /* a: rows of the depth; b: one row of columns for each k */
} chunk_reader;

static void read_chunk(void *user, const operand *o, unsigned mn, unsigned k, unsigned address)
{
    const chunk_reader *r = user;
    unsigned n = CHUNK / cj_element_bytes(o->element), mn_stride = o->is_b ? 1 : o->depth, k_stride = o->is_b ? o->extent : 1;
    float values[8], *at = &r->values[mn * mn_stride + k * k_stride];
    cj_elements_to_float(o->element, r->shared + (address - CJ_EMU_SHARED_WINDOW), values, n);
    for (unsigned i = 0, stride = o->mn_major ? mn_stride : k_stride; i < n; i++)
        at[i * stride] = values[i];
}

/* ---- Registers ---- */

/* Where element i of a thread's part of d is: as under "Register Fragments" of wgmma. */
static unsigned place_in_sums(unsigned thread, unsigned i, unsigned columns)
{
    unsigned lane = thread % CJ_EMU_WARP, row = thread / CJ_EMU_WARP * 16 + lane / 4 + i / 2 % 2 * 8;
    return row * columns + i / 4 * 8 + lane % 4 * 2 + i % 2;
}

/* The thread's registers, copied; what of the image is older keeps its bytes. */
static void extend_image(cj_worker *w, cj_register_image *image, uintptr_t low)
{
    size_t bytes = image->high - low, kept = image->high - image->low;
    if (image->capacity < bytes) {
        image->bytes = cj_warpgroup_memory(w, image->bytes, bytes);
        image->capacity = bytes;
    }
    memmove(image->bytes + (bytes - kept), image->bytes, kept);
    memcpy(image->bytes, (const void *)low, bytes - kept);
    image->low = low;
}

static unsigned char *in_image(const cj_register_image *image, const void *registers, size_t bytes)
{
    uintptr_t at = (uintptr_t)registers;
    return at >= image->low && at <= image->high && image->high - at >= bytes ? image->bytes + (at - image->low) : NULL;
}

static void write_registers(cj_warpgroup *g, unsigned thread, void *registers, const void *values, size_t bytes)
{
    memcpy(registers, values, bytes);
    unsigned char *copy = in_image(&g->images[thread], registers, bytes);
    if (copy)
        memcpy(copy, values, bytes);
}

/* Faults, in the name of the thread, if its registers are not as in the image. user: the wgmma under way that they belong to,
 * and its line; NULL: none. */
static void check_registers(cj_worker *w, const cj_warpgroup *g, unsigned thread, const char *array, const void *registers,
                            unsigned n, const char *user, unsigned user_line)
{
    const unsigned char *now = registers, *then = in_image(&g->images[thread], registers, 4 * (size_t)n);
    if (!then || memcmp(now, then, 4 * (size_t)n) == 0)
        return;
    unsigned i = 0;
    while (memcmp(now + 4 * (size_t)i, then + 4 * (size_t)i, 4) == 0)
        i++;
    w->current = &g->threads[thread];
    if (user)
        cj_worker_fault(w, "%s[%u] of %s\2 was changed before a wgmma_wait for that", array, i, user);
    else
        cj_worker_fault(w, "%s[%u] was written since the last wgmma_fence", array, i);
    cj_fail_on_lines(w, w->current->line, user_line);
}

/* Nobody has touched the registers of wgmmas under way. */
static void check_flights(cj_worker *w, cj_warpgroup *g)
{
    for (const cj_sums *s = g->sums; s; s = s->next)
        for (unsigned t = 0; t < CJ_EMU_WARPGROUP; t++)
            check_registers(w, g, t, "d", s->d[t], s->columns / 2, s->name, s->line);
    for (unsigned i = 0; i < g->n_flights; i++)
        for (unsigned t = 0; g->flights[i].a_in_registers && t < CJ_EMU_WARPGROUP; t++)
            check_registers(w, g, t, "a", g->flights[i].a[t], 4, g->flights[i].name, g->flights[i].line);
}

/* ---- Sums ---- */

static bool overlap(const void *a, size_t a_bytes, const void *b, size_t b_bytes)
{
    return (uintptr_t)a < (uintptr_t)b + b_bytes && (uintptr_t)b < (uintptr_t)a + a_bytes;
}

/* The sums of the same registers that wgmmas under way have; NULL if there are none. */
static cj_sums *find_sums(cj_worker *w, const cj_warpgroup *g, const cj_emu_warpgroup_call *call, unsigned depth)
{
    cj_sums *found = NULL;
    for (cj_sums *s = g->sums; s; s = s->next) {
        const char *shared = NULL;
        bool same = s->columns == call->shape.n && s->depth == depth;
        for (unsigned t = 0; t < CJ_EMU_WARPGROUP; t++) {
            same = same && s->d[t] == g->calls[t]->d;
            if (overlap(s->d[t], 2 * s->columns, g->calls[t]->d, 2 * call->shape.n))
                shared = "d";
            if (call->a_registers && overlap(s->d[t], 2 * s->columns, g->calls[t]->a_registers, 16))
                shared = "a";
        }
        if (same)
            found = s;
        else if (shared) {
            cj_worker_fault(w, "registers of %s belong to %s\2, which is under way and not of the same shape and place",
                            shared, s->name);
            cj_fail_on_lines(w, call->line, s->line);
        }
    }
    return found;
}

static cj_sums *new_sums(cj_worker *w, cj_warpgroup *g, const cj_emu_warpgroup_call *call, unsigned depth)
{
    cj_sums *s = g->idle_sums;
    if (s)
        g->idle_sums = s->next;
    else
        s = cj_warpgroup_memory(w, NULL, sizeof *s);
    s->next = g->sums;
    g->sums = s;
    s->columns = call->shape.n;
    s->depth = depth;
    s->flights = s->effects = 0;
    for (unsigned t = 0; t < CJ_EMU_WARPGROUP; t++) {
        s->d[t] = g->calls[t]->d;
        for (unsigned i = 0; i < s->columns / 2; i++)
            s->values[place_in_sums(t, i, s->columns)] = s->d[t][i];
    }
    return s;
}

static void store_sums(cj_warpgroup *g, const cj_sums *s)
{
    float values[MAX_COLUMNS / 2];
    for (unsigned t = 0; t < CJ_EMU_WARPGROUP; t++) {
        for (unsigned i = 0; i < s->columns / 2; i++)
            values[i] = s->values[place_in_sums(t, i, s->columns)];
        write_registers(g, t, s->d[t], values, 2 * s->columns);
    }
}

static void poison_sums(cj_warpgroup *g, const cj_sums *s)
{
    unsigned char poison[2 * MAX_COLUMNS];
    memset(poison, CJ_EMU_POISON, sizeof poison);
    for (unsigned t = 0; t < CJ_EMU_WARPGROUP; t++)
        write_registers(g, t, s->d[t], poison, 2 * s->columns);
}

static void end_flight(cj_warpgroup *g, const cj_flight *flight)
{
    cj_sums *s = flight->sums, **at = &g->sums;
    if (--s->flights > 0)
        return;
    while (*at != s)
        at = &(*at)->next;
    *at = s->next;
    s->next = g->idle_sums;
    g->idle_sums = s;
}

/* ---- The product ---- */

typedef struct product {
    cj_warpgroup *group;
    cj_sums *sums;
    cj_emu_wgmma_shape shape;
    cj_emu_wgmma_operands operands;
    const unsigned char *shared;
    bool a_in_registers;
    const unsigned *a[CJ_EMU_WARPGROUP];
} product;

static void read_operand(const product *p, bool is_b, unsigned step, float *values)
{
    operand o = decode(&p->shape, &p->operands, is_b, step);
    chunk_reader reader = {p->shared, values};
    for_each_chunk(&o, read_chunk, &reader);
}

static void take_effect(cj_worker *w, void *data)
{
    const product *p = data;
    cj_sums *s = p->sums;
    float a[ROWS * MAX_DEPTH], b[MAX_DEPTH * MAX_COLUMNS];
    if (!p->operands.accumulate)
        memset(s->values, 0, sizeof *s->values * ROWS * s->columns);
    for (unsigned step = 0; step < p->shape.steps; step++) {
        for (unsigned t = 0; p->a_in_registers && t < CJ_EMU_WARPGROUP; t++)
            cj_fragment_a(p->shape.element, p->a[t], t % CJ_EMU_WARP, &a[t / CJ_EMU_WARP * 16 * s->depth]);
        if (!p->a_in_registers)
            read_operand(p, false, step, a);
        read_operand(p, true, step, b);
        cj_multiply_add(s->values, a, b, ROWS, s->columns, s->depth);
    }
    if (--s->effects == 0)
        store_sums(p->group, s);
}

/* ---- What a warpgroup does ---- */

void cj_wgmma_fence(cj_worker *w, cj_warpgroup *g)
{
    check_flights(w, g);
    g->fenced = true;
    for (unsigned t = 0; t < CJ_EMU_WARPGROUP; t++) {
        cj_register_image *image = &g->images[t];
        image->low = image->high = cj_stack_top(g->threads[t].stack, g->threads[t].id);
        extend_image(w, image, g->frames[t]);
    }
}

static void check_issue(cj_worker *w, cj_warpgroup *g, const cj_emu_warpgroup_call *call)
{
    if (!g->fenced) {
        cj_worker_fault(w, "no wgmma_fence before the first wgmma of this warpgroup");
        cj_worker_abandon(w);
    }
    check_flights(w, g);
    for (unsigned t = 0; t < CJ_EMU_WARPGROUP; t++) {
        check_registers(w, g, t, "d", g->calls[t]->d, call->shape.n / 2, NULL, 0);
        if (call->a_registers)
            check_registers(w, g, t, "a", g->calls[t]->a_registers, 4, NULL, 0);
        if (g->frames[t] < g->images[t].low) /* local variables of a function that was called since the fence */
            extend_image(w, &g->images[t], g->frames[t]);
    }
}

static void add_flight(cj_worker *w, cj_warpgroup *g, const cj_emu_warpgroup_call *call, cj_sums *s)
{
    if (g->n_flights == g->max_flights) {
        unsigned more = g->max_flights ? 2 * g->max_flights : 16;
        g->flights = cj_warpgroup_memory(w, g->flights, more * sizeof *g->flights);
        g->max_flights = more;
    }
    cj_flight *flight = &g->flights[g->n_flights++];
    flight->name = s->name = call->shape.name;
    flight->line = s->line = call->line;
    flight->commit = g->commits;
    flight->sums = s;
    flight->a_in_registers = call->a_registers != NULL;
    for (unsigned t = 0; t < CJ_EMU_WARPGROUP; t++)
        flight->a[t] = g->calls[t]->a_registers;
    s->flights++;
    s->effects++;
}

void cj_wgmma_issue(cj_worker *w, cj_warpgroup *g, const cj_emu_warpgroup_call *call)
{
    unsigned depth = 32 / cj_element_bytes(call->shape.element);
    check_issue(w, g, call);
    cj_sums *s = find_sums(w, g, call, depth);
    if (!s)
        s = new_sums(w, g, call, depth);
    cj_async *op = cj_async_begin(w, call->shape.name, call->line, g->threads->id, CJ_EMU_WARPGROUP);
    for (unsigned step = 0; step < call->shape.steps; step++) {
        if (!call->a_registers)
            announce(w, op, call, false, step);
        announce(w, op, call, true, step);
    }
    add_flight(w, g, call, s);
    const unsigned char *shared = cj_shared_at(w, w->current->rank, CJ_EMU_SHARED_WINDOW);
    product p = {g, s, call->shape, call->operands, shared, call->a_registers != NULL, {NULL}};
    for (unsigned t = 0; t < CJ_EMU_WARPGROUP; t++)
        p.a[t] = g->calls[t]->a_registers;
    if (w->run->late)
        poison_sums(g, s);
    cj_async_issue(w, op, cj_warpgroup_queue(w), take_effect, &p, sizeof p);
}

void cj_wgmma_commit(cj_worker *w, cj_warpgroup *g)
{
    cj_queue_commit(w, cj_warpgroup_queue(w));
    g->commits++;
}

void cj_wgmma_wait(cj_worker *w, cj_warpgroup *g, const cj_emu_warpgroup_call *call)
{
    check_flights(w, g);
    cj_thread *last = w->current;
    for (unsigned t = 0; t < CJ_EMU_WARPGROUP; t++) {
        w->current = &g->threads[t];
        cj_queue_wait(w, cj_warpgroup_queue(w), call->number);
    }
    w->current = last;
    unsigned done = 0;
    while (done < g->n_flights && g->flights[done].commit + call->number < g->commits)
        end_flight(g, &g->flights[done++]);
    g->n_flights -= done;
    memmove(g->flights, g->flights + done, g->n_flights * sizeof *g->flights);
}

void cj_wgmma_reset(cj_warpgroup *g)
{
    while (g->sums) {
        cj_sums *next = g->sums->next;
        g->sums->next = g->idle_sums;
        g->idle_sums = g->sums;
        g->sums = next;
    }
    g->n_flights = g->commits = 0;
    g->fenced = false;
}

void cj_wgmma_free(cj_warpgroup *g)
{
    cj_wgmma_reset(g);
    for (unsigned t = 0; t < CJ_EMU_WARPGROUP; t++)
        free(g->images[t].bytes);
    while (g->idle_sums) {
        cj_sums *next = g->idle_sums->next;
        free(g->idle_sums);
        g->idle_sums = next;
    }
    free(g->flights);
}
