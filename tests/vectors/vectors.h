/* vectors.h: test vectors of the primitives: small kernels (kernels/), each run on many random inputs, on a GPU once
 * to record what it does (data/), and on the GPU and on the emulated device ever after to compare.
 *
 * A family is one kernel text and a way to draw its cases; families.h lists them. data/FAMILY.txt has a line a case:
 * its number, its parameters, and a hash of all bytes that the kernel wrote. What the kernel reads is not kept: it is
 * drawn from splitmix64 (Steele, Lea, Flood 2014) that starts at seed + (number << 32), and its outputs are exact, so
 * that 64 bits stand for up to 64 KiB. To see the bytes of a case on either device: --dump.
 */
#ifndef VECTORS_H
#define VECTORS_H

#include <stdlib.h>
#include "internal.h"

/* ---- Random numbers ---- */

typedef struct stream { uint64_t state; } stream;

static inline uint64_t stream_mix(uint64_t z)
{
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static inline uint64_t stream_next(stream *r)
{
    return stream_mix(r->state += 0x9e3779b97f4a7c15u);
}

static inline int stream_range(stream *r, int least, int most)
{
    return least + (int)(stream_next(r) % (uint64_t)(most - least + 1));
}

/* ---- Families ---- */

enum {
    VECTOR_PARAMETERS = 40,
    VECTOR_HEAD = 256 /* bytes of the output before the results: one word a block, 1 if all went well */
};

/* What one case gives to its kernel. */
typedef struct vector_case {
    int text;                      /* which of the family's texts */
    unsigned blocks, threads, smem;/* the blocks are one cluster */
    int parameters[VECTOR_PARAMETERS], n_parameters;
    size_t in_bytes, out_bytes;    /* multiples of 8 */
    unsigned char *in, *out;       /* what the kernel reads; what the output is before */
    bool has_map, map_is_output;   /* the map's tensor begins behind the output's head, or with the input */
    cj_tensor_map map;
} vector_case;

typedef struct family {
    const char *name, *kernel;     /* data/NAME.txt, kernels/KERNEL.cu */
    const char *columns;           /* the parameters of a line */
    int cases, texts;
    /* The names that text number `text` is rendered with, as Lua: "local TYPE = 'f16'". NULL: none. */
    void (*names)(const struct family *f, int text, char lua[256]);
    /* Draws a line's parameters. */
    void (*draw)(const struct family *f, stream *r, int *line);
    /* Makes a case of a line: sizes first, then vector_memory, then fills c->in (zeroed) and c->out from the stream. */
    void (*prepare)(const struct family *f, const int *line, stream *r, vector_case *c);
    const char *type, *form;       /* for draw and prepare */
} family;

/* Allocates input and output, zeroed. Exits without memory: this is a test program. */
static inline void vector_memory(vector_case *c, size_t in_bytes, size_t out_bytes)
{
    c->in_bytes = (in_bytes + 7) / 8 * 8;
    c->out_bytes = (VECTOR_HEAD + out_bytes + 7) / 8 * 8;
    c->in = calloc(1, c->in_bytes);
    c->out = calloc(1, c->out_bytes);
    if (!c->in || !c->out) abort();
}

#endif
