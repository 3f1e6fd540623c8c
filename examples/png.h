/* png.h: writes an RGB picture as a PNG file, without compression. */
#ifndef PNG_H
#define PNG_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* CRC-32 as PNG uses it, of more bytes after those that made `crc` (0 at first). */
static inline uint32_t png_crc(uint32_t crc, const unsigned char *bytes, size_t n)
{
    crc = ~crc;
    for (size_t i = 0; i < n; i++) {
        crc ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (crc & 1 ? 0xedb88320u : 0);
    }
    return ~crc;
}

static inline uint32_t png_adler(const unsigned char *bytes, size_t n)
{
    uint32_t a = 1, b = 0;
    for (size_t i = 0; i < n; i++) {
        a = (a + bytes[i]) % 65521;
        b = (b + a) % 65521;
    }
    return b << 16 | a;
}

static inline void png_put32(unsigned char *at, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        at[i] = (unsigned char)(v >> (24 - 8 * i));
}

static inline int png_chunk(FILE *f, const char *type, const unsigned char *data, size_t n)
{
    unsigned char head[8], tail[4];
    png_put32(head, (uint32_t)n);
    memcpy(head + 4, type, 4);
    png_put32(tail, png_crc(png_crc(0, head + 4, 4), data, n));
    return fwrite(head, 1, 8, f) == 8 && fwrite(data, 1, n, f) == n && fwrite(tail, 1, 4, f) == 4;
}

/* The scan lines, each behind a filter byte of 0, as a zlib stream of stored blocks. malloc'd; NULL if out of memory. */
static inline unsigned char *png_stream(int width, int height, const unsigned char *rgb, size_t *size)
{
    enum { BLOCK = 65535 };
    size_t row = 3 * (size_t)width + 1, raw = row * (size_t)height, blocks = (raw + BLOCK - 1) / BLOCK;
    unsigned char *lines = malloc(raw), *stream = malloc(2 + raw + 5 * blocks + 4), *at = stream;
    if (lines && stream) {
        for (int y = 0; y < height; y++) {
            lines[(size_t)y * row] = 0;
            memcpy(lines + (size_t)y * row + 1, rgb + (size_t)y * (row - 1), row - 1);
        }
        *at++ = 0x78; /* deflate, 32 KiB window */
        *at++ = 0x01;
        for (size_t done = 0; done < raw; done += BLOCK) {
            size_t n = raw - done < BLOCK ? raw - done : BLOCK;
            unsigned char head[5] = { done + n == raw, n & 255, (unsigned char)(n >> 8), ~n & 255, (unsigned char)(~n >> 8) };
            memcpy(at, head, 5);
            memcpy(at + 5, lines + done, n);
            at += 5 + n;
        }
        png_put32(at, png_adler(lines, raw));
        *size = (size_t)(at + 4 - stream);
    } else {
        free(stream);
        stream = NULL;
    }
    free(lines);
    return stream;
}

/* 0, or -1 if the file could not be written. rgb: width*height pixels of 3 bytes, row by row from the top. */
static inline int png_write(const char *file, int width, int height, const unsigned char *rgb)
{
    unsigned char header[13] = { 0, 0, 0, 0, 0, 0, 0, 0, 8, 2 }; /* 8 bits, RGB */
    size_t size = 0;
    unsigned char *stream = png_stream(width, height, rgb, &size);
    FILE *f = stream ? fopen(file, "wb") : NULL;
    png_put32(header, (uint32_t)width);
    png_put32(header + 4, (uint32_t)height);
    int ok = f && fwrite("\x89PNG\r\n\x1a\n", 1, 8, f) == 8 && png_chunk(f, "IHDR", header, 13) &&
             png_chunk(f, "IDAT", stream, size) && png_chunk(f, "IEND", header, 0);
    if (f && fclose(f) != 0)
        ok = 0;
    free(stream);
    return ok ? 0 : -1;
}

#endif
