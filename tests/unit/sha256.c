/* sha256.c: SHA-256 against published values, and the two implementations against each other. */
#include "../../runtime/sha256.c" /* for the parts that the CPU at hand would not choose */
#include "check.h"

static void check_digest(const char *data, size_t n, const char *expected)
{
    char hex[65];
    cj_sha256_hex(data, n, hex);
    CHECK_STR(hex, expected);
}

/* The examples of FIPS 180-4 and NIST's example page. */
static void check_published(void)
{
    static char million[1000000];
    memset(million, 'a', sizeof million);
    check_digest("", 0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    check_digest("abc", 3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    check_digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq", 56,
                 "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    check_digest(million, sizeof million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* Every length up to three blocks, cut into two pieces at every place, gives what one piece gives. */
static void check_pieces(void)
{
    unsigned char data[192], whole[32], cut[32];
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)(i * 37 + 11);
    int wrong = 0;
    for (size_t n = 0; n <= sizeof data; n++) {
        cj_sha256 h;
        cj_sha256_init(&h);
        cj_sha256_add(&h, data, n);
        cj_sha256_end(&h, whole);
        for (size_t first = 0; first <= n; first++) {
            cj_sha256_init(&h);
            cj_sha256_add(&h, data, first);
            cj_sha256_add(&h, data + first, n - first);
            cj_sha256_end(&h, cut);
            wrong += memcmp(whole, cut, 32) != 0;
        }
    }
    CHECK_INT(wrong, 0);
}

/* Plain C, whatever the CPU has: the one block of "abc". */
static void check_plain(void)
{
    unsigned char block[64] = "abc\x80";
    cj_sha256 h;
    cj_sha256_init(&h);
    block[63] = 24;
    compress_plain(h.state, block, 1);
    CHECK_INT(h.state[0], 0xba7816bf);
    CHECK_INT(h.state[7], 0xf20015ad);
}

static void check_x86(void)
{
#if defined(__x86_64__) && defined(__GNUC__)
    uint32_t a[8], b[8], seed = 1;
    unsigned char data[64 * 7];
    for (int round = 0; cpu_has_sha() && round < 200; round++) {
        for (size_t i = 0; i < sizeof data; i++)
            data[i] = (unsigned char)((seed = seed * 1664525 + 1013904223) >> 24);
        for (int i = 0; i < 8; i++)
            a[i] = b[i] = seed = seed * 1664525 + 1013904223;
        compress_plain(a, data, 7);
        compress_x86(b, data, 7);
        CHECK(memcmp(a, b, sizeof a) == 0);
    }
#endif
}

int main(void)
{
    check_published();
    check_pieces();
    check_plain();
    check_x86();
    return check_done("sha256");
}
