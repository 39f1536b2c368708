/* test_ws.c - the lines of RFC 6455 that are ours. */
#include "common/ws.h"

#include <string.h>

#include "claim.h"

/* Each length takes the shortest of the three forms, as RFC 6455 5.2 demands. */
static void header_is_shortest(void **state)
{
    unsigned char out[EB_WS_HEADER_MAX];

    assert_int_equal(eb_ws_header(out, EB_WS_TEXT, 0), 2);
    assert_memory_equal(out, "\x81\x00", 2);
    assert_int_equal(eb_ws_header(out, EB_WS_BINARY, 125), 2);
    assert_memory_equal(out, "\x82\x7d", 2);
    assert_int_equal(eb_ws_header(out, EB_WS_TEXT, 126), 4);
    assert_memory_equal(out, "\x81\x7e\x00\x7e", 4);
    assert_int_equal(eb_ws_header(out, EB_WS_TEXT, 65535), 4);
    assert_memory_equal(out, "\x81\x7e\xff\xff", 4);
    assert_int_equal(eb_ws_header(out, EB_WS_TEXT, 65536), 10);
    assert_memory_equal(out, "\x81\x7f\0\0\0\0\0\x01\0\0", 10);
    assert_int_equal(eb_ws_header(out, EB_WS_TEXT, 0x0102030405060708), 10);
    assert_memory_equal(out, "\x81\x7f\x01\x02\x03\x04\x05\x06\x07\x08", 10);
    assert_int_equal(eb_ws_header(out, EB_WS_PONG, 5), 2);
    assert_memory_equal(out, "\x8a\x05", 2);
}

/* The example of RFC 6455 5.7. */
static void masking_is_that_of_the_rfc(void **state)
{
    char text[] = "\x7f\x9f\x4d\x51\x58";

    eb_ws_mask(text, 5, (const unsigned char *)"\x37\xfa\x21\x3d", 0);
    assert_string_equal(text, "Hello");
}

/* A payload unmasked in two pieces, cut anywhere, at any alignment, is the payload unmasked byte by byte. */
static void masking_in_pieces_is_masking_at_once(void **state)
{
    static const unsigned char key[4] = {0x81, 0x02, 0x7d, 0xff};
    unsigned char expected[64], room[80];

    for (unsigned i = 0; i < 64; i++)
        expected[i] = (unsigned char)(i * 7) ^ key[i & 3];
    for (unsigned len = 0; len <= 64; len++) {
        for (unsigned cut = 0; cut <= len; cut++) {
            unsigned char *at = room + (len & 7);
            memset(room, 0xee, sizeof(room));
            for (unsigned i = 0; i < len; i++)
                at[i] = (unsigned char)(i * 7);
            eb_ws_mask(at, cut, key, 0);
            eb_ws_mask(at + cut, len - cut, key, cut);
            assert_memory_equal(at, expected, len);
            assert_int_equal(at[len], 0xee);
        }
    }
}

/* The example of RFC 6455 1.3. */
static void accept_is_that_of_the_rfc(void **state)
{
    static const char key[] = "dGhlIHNhbXBsZSBub25jZQ==";
    char out[29];

    eb_ws_accept(out, key, strlen(key));
    assert_string_equal(out, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLAIM("ws/header_is_shortest", header_is_shortest),
        CLAIM("ws/masking_is_that_of_the_rfc", masking_is_that_of_the_rfc),
        CLAIM("ws/masking_in_pieces_is_masking_at_once", masking_in_pieces_is_masking_at_once),
        CLAIM("ws/accept_is_that_of_the_rfc", accept_is_that_of_the_rfc),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
