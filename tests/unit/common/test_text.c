/* test_text.c - UTF-8, Base64 and CRC32C, each against another implementation. */
#include "common/text.h"

#include <nettle/base64.h>
#include <stdlib.h>
#include <string.h>
#include <unistr.h>

#include "claim.h"
#include "common/crc32c.h"

static uint32_t seed = 20240229;

static uint32_t rnd(uint32_t below)
{
    seed = seed * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)seed * below >> 32);
}

static bool reference_utf8(const char *text, size_t len)
{
    return u8_check((const uint8_t *)text, len) == NULL;
}

/* Every sequence of one to three bytes, and every first three of four, is judged as libunistring does. */
static void utf8_agrees_on_all_short_sequences(void **state)
{
    static const unsigned char fourth[] = {0x00, 0x7F, 0x80, 0xBF, 0xC0, 0xFF};
    unsigned char s[4];

    for (uint32_t all = 0; all < 1 << 24; all++) {
        s[0] = (unsigned char)(all >> 16);
        s[1] = (unsigned char)(all >> 8);
        s[2] = (unsigned char)all;
        if (s[0] < 0x80 && s[2] != 0) /* ASCII first: one third byte is enough */
            continue;
        for (size_t len = 1; len <= 3; len++) {
            if (eb_utf8_valid((char *)s, len) != reference_utf8((char *)s, len))
                fail_msg("%02X %02X %02X, length %zu", s[0], s[1], s[2], len);
        }
        for (size_t i = 0; s[0] >= 0xEF && i < sizeof(fourth); i++) {
            s[3] = fourth[i];
            if (eb_utf8_valid((char *)s, 4) != reference_utf8((char *)s, 4))
                fail_msg("%02X %02X %02X %02X", s[0], s[1], s[2], s[3]);
        }
    }
}

/* A bad or a good sequence is found at every place around the strides of eight bytes. */
static void utf8_agrees_at_every_offset(void **state)
{
    static const char *const parts[] = {
        "é", "日", "😀", "\xF4\x8F\xBF\xBF", "\xC0\xAF", "\x80", "\xED\xA0\x80", "\xF0\x9F\x98"};
    char text[64];

    for (size_t part = 0; part < 8; part++) {
        size_t n = strlen(parts[part]);
        for (size_t at = 0; at + n <= 40; at++) {
            memset(text, 'a', sizeof(text));
            memcpy(text + at, parts[part], n);
            for (size_t len = 0; len <= 40; len++)
                assert_int_equal(eb_utf8_valid(text, len), reference_utf8(text, len));
        }
    }
    assert_true(eb_utf8_valid("\0a\0", 3));
    assert_true(eb_utf8_valid(NULL, 0));
}

/* Text of random pieces, good and bad, is judged as libunistring does. */
static void utf8_agrees_on_random_text(void **state)
{
    static const char *const parts[] = {"plain ascii text", "é", "日", "😀", "x", "\xEF\xBF\xBF"};

    for (int n = 0; n < 50000; n++) {
        char text[256];
        size_t len = 0;
        for (uint32_t count = rnd(10); count > 0; count--) {
            const char *part = parts[rnd(6)];
            memcpy(text + len, part, strlen(part));
            len += strlen(part);
        }
        if (len > 0 && rnd(2))
            text[rnd((uint32_t)len)] = (char)rnd(256);
        assert_int_equal(eb_utf8_valid(text, len), reference_utf8(text, len));
    }
}

/* RFC 4648 section 10, both ways. */
static void base64_has_the_vectors_of_the_rfc(void **state)
{
    static const char *const vectors[][2] = {
        {"", ""},
        {"f", "Zg=="},
        {"fo", "Zm8="},
        {"foo", "Zm9v"},
        {"foob", "Zm9vYg=="},
        {"fooba", "Zm9vYmE="},
        {"foobar", "Zm9vYmFy"},
    };

    for (size_t i = 0; i < 7; i++) {
        const char *plain = vectors[i][0], *coded = vectors[i][1];
        char out[16];
        size_t len = eb_base64_encode(out, plain, strlen(plain));
        assert_int_equal(len, strlen(coded));
        assert_int_equal(len, eb_base64_length(strlen(plain)));
        assert_memory_equal(out, coded, len);
        assert_int_equal(eb_base64_decode(out, coded, len), strlen(plain));
        assert_memory_equal(out, plain, strlen(plain));
    }
}

/* Any bytes come back, in place too, and are written as nettle writes them. */
static void base64_round_trips(void **state)
{
    uint8_t data[300], back[400];
    char coded[400], theirs[400], url[400];

    for (size_t len = 0; len < 300; len++) {
        for (size_t i = 0; i < len; i++)
            data[i] = (uint8_t)rnd(256);
        size_t n = eb_base64_encode(coded, data, len);
        base64_encode_raw(theirs, len, data);
        assert_int_equal(n, BASE64_ENCODE_RAW_LENGTH(len));
        assert_memory_equal(coded, theirs, n);
        assert_int_equal(eb_base64_decode(back, coded, n), len);
        assert_memory_equal(back, data, len);

        size_t bare = n;
        while (bare > 0 && coded[bare - 1] == '=')
            bare--;
        for (size_t i = 0; i < bare; i++)
            url[i] = coded[i] == '+' ? '-' : coded[i] == '/' ? '_' : coded[i];
        assert_int_equal(eb_base64url_decode(url, url, bare), len);
        assert_memory_equal(url, data, len);
        assert_int_equal(eb_base64_decode(coded, coded, n), len);
        assert_memory_equal(coded, data, len);
    }
}

/* What is not exactly RFC 4648 section 4 is refused. */
static void base64_is_strict(void **state)
{
    static const char *const bad[] = {
        "Z",        "Zg",       "Zg=",     "Zm8",       "Zm9vY", "=",      "==",
        "===",      "====",     "Z===",    "Zg==Zg==",  "Zh==",  "Zm9=",   "Zm8=\n",
        "Zm9v\n",   " Zm9v",    "Zm 9v",   "Zm9v Zm9v", "Zm-_",  "Z=g=",   "Zg=a",
        "Zm9v====", "Zm9vZ===", "\xFFm9v", "=m9v",      "Zm9v=", "Zm9v==", "Zm9v===",
    };
    char out[32];

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (eb_base64_decode(out, bad[i], strlen(bad[i])) != -1)
            fail_msg("\"%s\" was taken", bad[i]);
    }
    assert_int_equal(eb_base64_decode(out, "Zm\0v", 4), -1);
}

/* The URL alphabet has no padding, no letters of the other alphabet, no bits left over. */
static void base64url_is_strict(void **state)
{
    static const char *const bad[] = {"Z", "Zg==", "Zm8=", "Zh", "Zm9", "Zm+/", "Zm9vZ", "Zm9v Zg"};
    char out[32];

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(eb_base64url_decode(out, bad[i], strlen(bad[i])), -1);
    assert_int_equal(eb_base64url_decode(out, "_-8", 3), 2);
    assert_memory_equal(out, "\xFF\xEF", 2);
    assert_int_equal(eb_base64url_decode(out, "", 0), 0);
}

typedef uint32_t (*crc_fn)(uint32_t crc, const void *data, size_t len);

static void check_crc_vectors(crc_fn crc)
{
    static const uint8_t iscsi_read[48] = {0x01, 0xc0, 0, 0,    0,    0, 0, 0,    0,    0, 0,    0,
                                           0,    0,    0, 0,    0x14, 0, 0, 0,    0,    0, 0x04, 0,
                                           0,    0,    0, 0x14, 0,    0, 0, 0x18, 0x28, 0, 0,    0,
                                           0,    0,    0, 0,    0x02, 0, 0, 0,    0,    0, 0,    0};
    uint8_t data[32];

    memset(data, 0, 32);
    assert_int_equal(crc(0, data, 32), 0x8A9136AA);
    memset(data, 0xFF, 32);
    assert_int_equal(crc(0, data, 32), 0x62A8AB43);
    for (int i = 0; i < 32; i++)
        data[i] = (uint8_t)i;
    assert_int_equal(crc(0, data, 32), 0x46DD794E);
    for (int i = 0; i < 32; i++)
        data[i] = (uint8_t)(31 - i);
    assert_int_equal(crc(0, data, 32), 0x113FDB5C);
    assert_int_equal(crc(0, iscsi_read, 48), 0xD9963A56);
    assert_int_equal(crc(0, "123456789", 9), 0xE3069283);
    assert_int_equal(crc(0, NULL, 0), 0);
}

/* RFC 3720 B.4, by each way. */
static void crc32c_has_the_vectors_of_the_rfc(void **state)
{
    check_crc_vectors(eb_crc32c);
    check_crc_vectors(eb_crc32c_tables);
    if (eb_crc32c_has_instruction())
        check_crc_vectors(eb_crc32c_instruction);
}

/* Both ways agree for every length and alignment, also continued from any split. */
static void crc32c_ways_agree(void **state)
{
    uint8_t data[300];

    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)rnd(256);
    for (size_t start = 0; start < 8; start++) {
        for (size_t len = 0; len + start <= 290; len++) {
            uint32_t want = eb_crc32c_tables(0, data + start, len);
            size_t split = rnd((uint32_t)len + 1);
            assert_int_equal(eb_crc32c(0, data + start, len), want);
            uint32_t first = eb_crc32c(0, data + start, split);
            assert_int_equal(eb_crc32c(first, data + start + split, len - split), want);
            first = eb_crc32c_tables(0, data + start, split);
            assert_int_equal(eb_crc32c_tables(first, data + start + split, len - split), want);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLAIM("utf8/agrees_on_all_short_sequences", utf8_agrees_on_all_short_sequences),
        CLAIM("utf8/agrees_at_every_offset", utf8_agrees_at_every_offset),
        CLAIM("utf8/agrees_on_random_text", utf8_agrees_on_random_text),
        CLAIM("base64/has_the_vectors_of_the_rfc", base64_has_the_vectors_of_the_rfc),
        CLAIM("base64/round_trips", base64_round_trips),
        CLAIM("base64/is_strict", base64_is_strict),
        CLAIM("base64url/is_strict", base64url_is_strict),
        CLAIM("crc32c/has_the_vectors_of_the_rfc", crc32c_has_the_vectors_of_the_rfc),
        CLAIM("crc32c/ways_agree", crc32c_ways_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
