/* sha256.c: SHA-256 (FIPS 180-4), in plain C and, where the CPU has them, with the SHA instructions of x86.
 * Every look-up in the cache digests a whole entry, so the speed of this file is part of the time of a first plan. */
#include <string.h>
#include "internal.h"

static const uint32_t round_constants[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

/* ---- Plain C ---- */

static uint32_t rotate(uint32_t x, int n)
{
    return x >> n | x << (32 - n);
}

static uint32_t read_be32(const unsigned char *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static void expand(uint32_t w[64], const unsigned char *block)
{
    for (int t = 0; t < 16; t++)
        w[t] = read_be32(block + 4 * t);
    for (int t = 16; t < 64; t++) {
        uint32_t s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
        uint32_t s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
}

static void compress_plain(uint32_t state[8], const unsigned char *data, size_t blocks)
{
    for (; blocks > 0; blocks--, data += 64) {
        uint32_t w[64], v[8];
        expand(w, data);
        memcpy(v, state, sizeof v);
        for (int t = 0; t < 64; t++) {
            uint32_t a = v[0], e = v[4];
            uint32_t t1 = v[7] + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & v[5]) ^ (~e & v[6])) +
                          round_constants[t] + w[t];
            uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & v[1]) ^ (a & v[2]) ^ (v[1] & v[2]));
            v[7] = v[6], v[6] = v[5], v[5] = e, v[4] = v[3] + t1;
            v[3] = v[2], v[2] = v[1], v[1] = a, v[0] = t1 + t2;
        }
        for (int i = 0; i < 8; i++)
            state[i] += v[i];
    }
}

/* ---- x86 ---- */

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>
#include <immintrin.h>

static bool cpu_has_sha(void)
{
    unsigned a, b, c, d;
    const unsigned sse = bit_SSSE3 | bit_SSE4_1;
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & sse) != sse)
        return false;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & bit_SHA);
}

/* The instructions hold the state as (a b e f) and (c d g h), and do two rounds each. w holds the last 16 words of the
 * message schedule; the group of four at w[i] is the oldest when it is replaced. */
__attribute__((target("sha,sse4.1,ssse3")))
static void compress_x86(uint32_t state[8], const unsigned char *data, size_t blocks)
{
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i dcba = _mm_loadu_si128((const __m128i *)state), hgfe = _mm_loadu_si128((const __m128i *)(state + 4));
    __m128i cdab = _mm_shuffle_epi32(dcba, 0xb1), efgh = _mm_shuffle_epi32(hgfe, 0x1b);
    __m128i abef = _mm_alignr_epi8(cdab, efgh, 8), cdgh = _mm_blend_epi16(efgh, cdab, 0xf0);
    for (; blocks > 0; blocks--, data += 64) {
        __m128i abef_before = abef, cdgh_before = cdgh, w[4];
        for (int t = 0; t < 64; t += 16) {
            for (int i = 0; i < 4; i++) {
                if (t == 0) {
                    w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)data + i), big_endian);
                } else {
                    __m128i seven_ago = _mm_alignr_epi8(w[(i + 3) % 4], w[(i + 2) % 4], 4);
                    __m128i sum = _mm_add_epi32(_mm_sha256msg1_epu32(w[i], w[(i + 1) % 4]), seven_ago);
                    w[i] = _mm_sha256msg2_epu32(sum, w[(i + 3) % 4]);
                }
                __m128i wk = _mm_add_epi32(w[i], _mm_loadu_si128((const __m128i *)(round_constants + t + 4 * i)));
                cdgh = _mm_sha256rnds2_epu32(cdgh, abef, wk);
                abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(wk, 0x0e));
            }
        }
        abef = _mm_add_epi32(abef, abef_before);
        cdgh = _mm_add_epi32(cdgh, cdgh_before);
    }
    __m128i feba = _mm_shuffle_epi32(abef, 0x1b), dchg = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)state, _mm_blend_epi16(feba, dchg, 0xf0));
    _mm_storeu_si128((__m128i *)(state + 4), _mm_alignr_epi8(dchg, feba, 8));
}

static void compress(uint32_t state[8], const unsigned char *data, size_t blocks)
{
    static int known; /* 0: not asked yet; 1: has them; -1: has not. Threads that race ask twice, with one answer */
    int has = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (has == 0) {
        has = cpu_has_sha() ? 1 : -1;
        __atomic_store_n(&known, has, __ATOMIC_RELAXED);
    }
    if (has > 0)
        compress_x86(state, data, blocks);
    else
        compress_plain(state, data, blocks);
}
#else
static void compress(uint32_t state[8], const unsigned char *data, size_t blocks)
{
    compress_plain(state, data, blocks);
}
#endif

/* ---- Any length, in any pieces ---- */

void cj_sha256_init(cj_sha256 *h)
{
    static const uint32_t start[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(h->state, start, sizeof start);
    h->length = 0;
}

void cj_sha256_add(cj_sha256 *h, const void *data, size_t n)
{
    const unsigned char *bytes = data;
    size_t held = h->length % 64;
    h->length += n;
    if (held) {
        size_t fill = n < 64 - held ? n : 64 - held;
        memcpy(h->block + held, bytes, fill);
        if (held + fill < 64)
            return;
        compress(h->state, h->block, 1);
        bytes += fill;
        n -= fill;
    }
    compress(h->state, bytes, n / 64);
    if (n % 64)
        memcpy(h->block, bytes + n - n % 64, n % 64);
}

void cj_sha256_end(cj_sha256 *h, unsigned char digest[32])
{
    unsigned char padding[72] = {0x80};
    uint64_t bits = h->length * 8;
    size_t zeros = (119 - h->length % 64) % 64; /* so that marker, zeros and the length end a block */
    for (int i = 0; i < 8; i++)
        padding[1 + zeros + (size_t)i] = (unsigned char)(bits >> (56 - 8 * i));
    cj_sha256_add(h, padding, 1 + zeros + 8);
    for (int i = 0; i < 32; i++)
        digest[i] = (unsigned char)(h->state[i / 4] >> (24 - 8 * (i % 4)));
}

void cj_sha256_hex(const void *data, size_t n, char hex[65])
{
    cj_sha256 h;
    unsigned char digest[32];
    cj_sha256_init(&h);
    cj_sha256_add(&h, data, n);
    cj_sha256_end(&h, digest);
    for (int i = 0; i < 64; i++)
        hex[i] = "0123456789abcdef"[digest[i / 2] >> (i % 2 ? 0 : 4) & 15];
    hex[64] = 0;
}
