/* test_url.c - URLs taken apart, and refused with a reason. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "client/internal.h"

static void check(const char *text, const char *host, const char *port, const char *authority,
                  const char *target)
{
    struct eb_url url;

    assert_null(eb_url_parse(&url, text));
    assert_string_equal(url.host, host);
    assert_string_equal(url.port, port);
    assert_string_equal(url.authority, authority);
    assert_string_equal(url.target, target);
    eb_url_finish(&url);
}

/* Port and path have defaults; what is given stays as it is. */
static void parts_are_found(void **state)
{
    check("ws://localhost", "localhost", "80", "localhost", "/ws");
    check("ws://localhost:3000", "localhost", "3000", "localhost:3000", "/ws");
    check("WS://127.0.0.1:3000/", "127.0.0.1", "3000", "127.0.0.1:3000", "/");
    check("ws://a.b:1/x/y?z=1", "a.b", "1", "a.b:1", "/x/y?z=1");
    check("ws://a?z=1", "a", "80", "a", "/ws?z=1");
    check("ws://[::1]:65535/ws", "::1", "65535", "[::1]:65535", "/ws");
    check("ws://[fe80::1]", "fe80::1", "80", "[fe80::1]", "/ws");
}

/* Everything else is refused with a sentence that says what would be right. */
static void nonsense_is_refused(void **state)
{
    static const char *const texts[] = {
        "",          "http://a/ws", "wss://a/ws",   "ws://",       "ws:///ws",     "ws://:3000",
        "ws://a:0",  "ws://a:",     "ws://a:65536", "ws://a:80x",  "ws://a:-1",    "ws://::1/ws",
        "ws://[::1", "ws://[]:1",   "ws://[::1]x",  "ws://u:p@h/", "ws://a/b c",   "ws://a/ws#x",
        "ws://a/\n", "ws://a\r\nX", "ws://a:1:2",   "ws://a/\x7f", "ws://a:999999"};
    struct eb_url url = {0};

    assert_non_null(eb_url_parse(&url, NULL));
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        const char *why = eb_url_parse(&url, texts[i]);
        assert_non_null(why);
        assert_non_null(strstr(why, "url: "));
        assert_null(url.host);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"url/parts_are_found", parts_are_found},
        {"url/nonsense_is_refused", nonsense_is_refused},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
