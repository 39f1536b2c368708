/* Percent-decoding, the split of a URI, parameters, routes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/net/http.h"

static struct eb_uri uri;
static struct eb_error err;
static char raw[512];

static int split(const char *text)
{
    strcpy(raw, text);
    return eb_uri_split(&uri, raw, &err);
}

static void assert_decodes(const char *text, const char *want)
{
    char out[256];
    ptrdiff_t len = eb_percent_decode(out, text, strlen(text));
    assert_int_equal(len, strlen(want));
    assert_memory_equal(out, want, strlen(want));
}

/* Escapes are bytes, '+' is itself, and a decoded '%' is not decoded again. */
static void decode_gives_the_bytes(void **state)
{
    assert_decodes("", "");
    assert_decodes("a.b", "a.b");
    assert_decodes("a%2Fb%2fc", "a/b/c");
    assert_decodes("a+b", "a+b");
    assert_decodes("%2541", "%41");
    assert_decodes("%c3%BC", "\xc3\xbc");
}

/* What is no escape is refused, and so is U+0000, which no topic or pattern holds. */
static void decode_refuses_bad_escapes_and_nul(void **state)
{
    static const char *const bad[] = {"%",   "%4",    "a%",   "%g1",  "%1g",
                                      "%00", "a%00b", "%%41", "% 41", "%-1"};
    char out[32];
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_int_equal(eb_percent_decode(out, bad[i], strlen(bad[i])), -1);
}

/* Split first, decode after: an escaped separator separates nothing. */
static void split_comes_before_decoding(void **state)
{
    assert_int_equal(split("/v1/events?pattern=a%26b%3Dc&limit=5&x&=y&&pattern=d"), 0);
    assert_string_equal(uri.path, "/v1/events");
    assert_int_equal(uri.param_count, 5);
    assert_string_equal(uri.params[0].value, "a&b=c");
    assert_string_equal(eb_uri_param(&uri, "pattern")->value, "d");
    assert_int_equal(eb_uri_param(&uri, "x")->value_len, 0);
    assert_null(eb_uri_param(&uri, "none"));
    assert_int_equal(split("/a%2Fb%3Fc?"), 0);
    assert_string_equal(uri.path, "/a%2Fb%3Fc");
    assert_int_equal(uri.param_count, 0);
}

/* A proxy's absolute form and a stray fragment leave path and query. */
static void split_takes_absolute_forms_and_drops_fragments(void **state)
{
    assert_int_equal(split("http://h:1/p?pattern=a#x?pattern=b"), 0);
    assert_string_equal(uri.path, "/p");
    assert_string_equal(eb_uri_param(&uri, "pattern")->value, "a");
    assert_int_equal(split("HTTPS://h"), 0);
    assert_string_equal(uri.path, "/");
    assert_int_equal(split("http://h?pattern=a"), 0);
    assert_string_equal(uri.path, "/");
    assert_string_equal(eb_uri_param(&uri, "pattern")->value, "a");
    assert_int_equal(split("http://"), 0);
    assert_string_equal(uri.path, "/");
}

/* Bounded: more parameters than there is room for are an error, not a silent loss. */
static void split_refuses_too_many_parameters_and_bad_escapes(void **state)
{
    strcpy(raw, "/?");
    for (int i = 0; i <= EB_URI_PARAMS; i++)
        strcat(raw, "a&");
    assert_int_equal(eb_uri_split(&uri, raw, &err), -1);
    assert_int_equal(err.code, EB_INVALID_REQUEST);
    assert_int_equal(split("/?a=%zz"), -1);
    assert_int_equal(split("/?%=a"), -1);
}

/* Numbers are digits within bounds; nothing is clamped. */
static void numbers_are_exact(void **state)
{
    uint64_t value = 7;
    bool given;
    assert_int_equal(split("/?a=10&b=-1&c=&d=1e3&e=18446744073709551616&f=0x1&g=0010"), 0);
    assert_int_equal(eb_uri_number(&uri, "none", 1, 9, &value, &given, &err), 0);
    assert_int_equal(value, 7);
    assert_false(given);
    assert_int_equal(eb_uri_number(&uri, "a", 1, 10, &value, &given, &err), 0);
    assert_int_equal(value, 10);
    assert_true(given);
    assert_int_equal(eb_uri_number(&uri, "g", 1, 10, &value, &given, &err), 0);
    assert_int_equal(eb_uri_number(&uri, "a", 1, 9, &value, &given, &err), -1);
    assert_int_equal(eb_uri_number(&uri, "a", 11, 99, &value, &given, &err), -1);
    static const char *const bad[] = {"b", "c", "d", "e", "f"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_int_equal(eb_uri_number(&uri, bad[i], 0, EB_SEQ_MAX, &value, NULL, &err), -1);
        assert_int_equal(err.code, EB_INVALID_REQUEST);
    }
}

/* An absent or empty pattern says what to write for '#'. */
static void patterns_say_how_to_write_a_hash(void **state)
{
    struct eb_pattern *patterns;
    size_t count;
    assert_int_equal(split("/?limit=1"), 0);
    assert_int_equal(eb_uri_patterns(&uri, &patterns, &count, &err), -1);
    assert_int_equal(err.code, EB_INVALID_REQUEST);
    assert_non_null(strstr(err.message, "%23"));
    assert_int_equal(split("/?pattern=#"), 0);
    assert_int_equal(eb_uri_patterns(&uri, &patterns, &count, &err), -1);
    assert_int_equal(err.code, EB_INVALID_PATTERN);
    assert_non_null(strstr(err.message, "%23"));
    assert_int_equal(split("/?pattern=a.*&pattern=%23"), 0);
    assert_int_equal(eb_uri_patterns(&uri, &patterns, &count, &err), 0);
    assert_int_equal(count, 2);
    assert_string_equal(patterns[1].text, "#");
    free(patterns);
}

/* A segment is what stands between two slashes, also an empty one; nothing may follow the route's end. */
static void routes_match_whole_paths(void **state)
{
    const char *segment = NULL;
    size_t len = 0;
    const struct eb_route *route = eb_route_find("/v1/topics/a%2Fb/events", true, &segment, &len);
    assert_non_null(route);
    assert_int_equal(len, 5);
    assert_memory_equal(segment, "a%2Fb", 5);
    assert_non_null(eb_route_find("/v1/topics//events", true, &segment, &len));
    assert_int_equal(len, 0);
    assert_ptr_not_equal(eb_route_find("/v1/events", true, &segment, &len),
                         eb_route_find("/v1/events/1", true, &segment, &len));
    static const char *const none[] = {"",
                                       "/v1",
                                       "/v1/events/1/2",
                                       "/v1/topics/a/b/events",
                                       "/v1/topics/a/events/",
                                       "/V1/events",
                                       "v1/events",
                                       "//"};
    for (size_t i = 0; i < sizeof(none) / sizeof(*none); i++)
        assert_null(eb_route_find(none[i], true, &segment, &len));
    assert_non_null(eb_route_find("/", true, &segment, &len));
    assert_null(eb_route_find("/", false, &segment, &len));
}

/* The longest list of methods fits, and HEAD stands beside GET. */
static void allow_names_the_methods(void **state)
{
    char allow[64];
    eb_route_allow(EB_METHOD_GET | EB_METHOD_POST | EB_METHOD_PUT | EB_METHOD_DELETE, allow);
    assert_string_equal(allow, "GET, HEAD, PUT, POST, DELETE, OPTIONS");
    eb_route_allow(EB_METHOD_DELETE, allow);
    assert_string_equal(allow, "DELETE, OPTIONS");
}

static int finish(void **state)
{
    eb_uri_finish(&uri);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(decode_gives_the_bytes),
        cmocka_unit_test(decode_refuses_bad_escapes_and_nul),
        cmocka_unit_test(split_comes_before_decoding),
        cmocka_unit_test(split_takes_absolute_forms_and_drops_fragments),
        cmocka_unit_test(split_refuses_too_many_parameters_and_bad_escapes),
        cmocka_unit_test(numbers_are_exact),
        cmocka_unit_test(patterns_say_how_to_write_a_hash),
        cmocka_unit_test(routes_match_whole_paths),
        cmocka_unit_test(allow_names_the_methods),
    };
    return cmocka_run_group_tests_name("uri", tests, NULL, finish);
}
