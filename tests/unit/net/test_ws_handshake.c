/* The handshake's header fields: lists, tokens, the key, and which subprotocol is chosen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "broker/net/ws_internal.h"

#define KEY "dGhlIHNhbXBsZSBub25jZQ=="

static enum eb_ws_handshake shake(struct eb_ws_offer offer, struct eb_ws_agreed *agreed)
{
    char why[160] = "";
    memset(agreed, 0, sizeof(*agreed));
    enum eb_ws_handshake result = eb_ws_handshake(&offer, agreed, why, sizeof(why));
    assert_int_equal(result == EB_HANDSHAKE_OK, why[0] == '\0');
    return result;
}

static struct eb_ws_offer good(void)
{
    return (struct eb_ws_offer){"websocket", "Upgrade", "13", KEY, NULL, 1};
}

/* The example of RFC 6455 1.3. */
static void the_example_of_the_rfc(void **state)
{
    struct eb_ws_agreed agreed;

    assert_int_equal(shake(good(), &agreed), EB_HANDSHAKE_OK);
    assert_string_equal(agreed.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    assert_null(agreed.protocol);
    assert_false(agreed.asked);
}

/* Fields that are lists are read as lists: case, white space and empty elements do not matter. */
static void lists_are_read_as_lists(void **state)
{
    static const char *const yes[] = {"WebSocket", "h2c , websocket", ",\t websocket ,",
                                      "a,websocket,b"};
    static const char *const no[] = {"websockets", "web socket", "x-websocket", ",", "websocket/1"};
    struct eb_ws_agreed agreed;
    struct eb_ws_offer offer = good();

    for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++) {
        offer.upgrade = yes[i];
        assert_int_equal(shake(offer, &agreed), EB_HANDSHAKE_OK);
    }
    for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++) {
        offer.upgrade = no[i];
        assert_int_equal(shake(offer, &agreed), EB_HANDSHAKE_UPGRADE_REQUIRED);
    }
}

/* Each field that is absent or wrong is refused, and what a client may do about it decides how. */
static void each_field_is_needed(void **state)
{
    struct eb_ws_agreed agreed;
    struct eb_ws_offer offer = good();

    offer.version = "8";
    assert_int_equal(shake(offer, &agreed), EB_HANDSHAKE_UPGRADE_REQUIRED);
    offer.version = NULL;
    assert_int_equal(shake(offer, &agreed), EB_HANDSHAKE_UPGRADE_REQUIRED);
    offer = good();
    offer.connection = "keep-alive";
    assert_int_equal(shake(offer, &agreed), EB_HANDSHAKE_BAD);
    offer = good();
    offer.keys = 2;
    assert_int_equal(shake(offer, &agreed), EB_HANDSHAKE_BAD);
    static const char *const keys[] = {
        NULL, "", "c2hvcnQ=", KEY KEY, "dGhlIHNhbXBsZSBub25jZQ", "!!!!!!!!!!!!!!!!!!!!!!!!"};
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++) {
        offer = good();
        offer.key = keys[i];
        assert_int_equal(shake(offer, &agreed), EB_HANDSHAKE_BAD);
    }
}

/* The first of ours is chosen wherever it stands; a bearer token is no protocol; only unknown ones are refused. */
static void the_subprotocol_is_negotiated(void **state)
{
    static const struct {
        const char *list;
        bool ok, asked;
        const char *chosen;
    } cases[] = {
        {"eventbus.json.v1", true, true, "eventbus.json.v1"},
        {"x, eventbus.json.v1 ,y", true, true, "eventbus.json.v1"},
        {"bearer.abc, eventbus.json.v1", true, true, "eventbus.json.v1"},
        {"eventbus.bin.v1", true, true, "eventbus.bin.v1"},
        {"eventbus.bin.v1, eventbus.json.v1", true, true, "eventbus.bin.v1"},
        {"x, eventbus.json.v1, eventbus.bin.v1", true, true, "eventbus.json.v1"},
        {"bearer.abc", true, false, NULL},
        {"bearer.abc, x", false, true, NULL},
        {"x", false, true, NULL},
        {"eventbus.json.v1x", false, true, NULL},
        {"Eventbus.json.v1", false, true, NULL},
        {"eventbus.bin.v2", false, true, NULL},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct eb_ws_agreed agreed;
        struct eb_ws_offer offer = good();
        offer.protocols = cases[i].list;
        assert_int_equal(shake(offer, &agreed) == EB_HANDSHAKE_OK, cases[i].ok);
        if (!cases[i].ok)
            continue;
        assert_int_equal(agreed.asked, cases[i].asked);
        assert_int_equal(agreed.protocol != NULL, cases[i].chosen != NULL);
        if (cases[i].chosen)
            assert_string_equal(agreed.protocol, cases[i].chosen);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"handshake/the_example_of_the_rfc", the_example_of_the_rfc, NULL, NULL, NULL},
        {"handshake/lists_are_read_as_lists", lists_are_read_as_lists, NULL, NULL, NULL},
        {"handshake/each_field_is_needed", each_field_is_needed, NULL, NULL, NULL},
        {"handshake/the_subprotocol_is_negotiated", the_subprotocol_is_negotiated, NULL, NULL,
         NULL},
    };
    return cmocka_run_group_tests_name("ws_handshake", tests, NULL, NULL);
}
