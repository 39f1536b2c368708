/* test_error.c - codes, and messages that quote what came from outside. */
#include "common/error.h"

#include <string.h>

#include "claim.h"
#include "common/text.h"

/* Each code's wire name leads back to it; a name from a newer broker is an internal error. */
static void names_round_trip(void **state)
{
    for (int code = 0; code < EB_CODE_COUNT; code++) {
        const char *name = eb_code_name(code);
        assert_int_equal(eb_code_from_name(name, strlen(name)), code);
        assert_true(eb_code_http(code) >= 200 && eb_code_http(code) < 600);
        assert_true(strlen(eb_code_title(code)) > 0);
    }
    assert_int_equal(eb_code_from_name("quota_exceeded", 14), EB_INTERNAL);
    assert_int_equal(eb_code_from_name("not_found_x", 9), EB_NOT_FOUND);
    assert_int_equal(eb_code_http(EB_STORAGE_FULL), 507);
    assert_string_equal(eb_code_name((enum eb_code)999), "internal");
}

/* A failure returns -1, belongs to no batch member yet, and may quote the message it replaces. */
static void fail_may_quote_itself(void **state)
{
    struct eb_error err = {.index = 7};

    assert_int_equal(eb_fail(&err, EB_NOT_FOUND, "no seq %d", 5), -1);
    assert_int_equal(err.code, EB_NOT_FOUND);
    assert_int_equal(err.index, -1);
    eb_fail(&err, EB_INVALID_REQUEST, "line 3: %s", err.message);
    assert_string_equal(err.message, "line 3: no seq 5");
    assert_int_equal(eb_fail(NULL, EB_INTERNAL, "nobody asks"), -1);
}

/* A message that is too long is cut between two code points, wherever these begin. */
static void long_message_is_cut_between_points(void **state)
{
    static const char *const points[] = {"x", "é", "日", "😀"};
    struct eb_error err;

    for (int shift = 0; shift < 4; shift++) {
        for (int p = 0; p < 4; p++) {
            char text[1000];
            size_t len = 0, n = strlen(points[p]);
            for (; len < (size_t)shift; len++)
                text[len] = 'a';
            for (; len + n < sizeof(text); len += n)
                memcpy(text + len, points[p], n);
            text[len] = '\0';
            eb_fail(&err, EB_INTERNAL, "%s", text);
            assert_true(eb_utf8_valid(err.message, strlen(err.message)));
            assert_true(strlen(err.message) > sizeof(err.message) - 1 - n);
        }
    }
}

static void check_quote(const char *in, size_t len, const char *want)
{
    char buf[300];

    assert_ptr_equal(eb_quote(buf, sizeof(buf), in, len), buf);
    assert_string_equal(buf, want);
}

/* Printable text stays; what could forge or garble a line is shown as its bytes. */
static void quote_escapes_what_cannot_be_shown(void **state)
{
    check_quote("user..created", 13, "user..created");
    check_quote("", 0, "");
    check_quote("a\nb\0c\x7f", 6, "a\\x0Ab\\x00c\\x7F");
    check_quote("日本 é 😀", strlen("日本 é 😀"), "日本 é 😀");
    check_quote("\xC2\x85|\xC2\xA0", 5, "\\xC2\\x85|\xC2\xA0"); /* U+0085 is a control character */
    check_quote("\xED\xA0\x80", 3, "\\xED\\xA0\\x80");          /* a surrogate */
    check_quote("\xE6\x97", 2, "\\xE6\\x97");                   /* cut short */
    check_quote("\xFF\xC0\xAF", 3, "\\xFF\\xC0\\xAF");
}

/* 64 bytes of input are shown whole, the 65th makes a cut; a point is never split. */
static void quote_is_cut_at_64_bytes(void **state)
{
    char in[80], want[80];

    memset(in, 'a', sizeof(in));
    memset(want, 'a', sizeof(want));
    want[64] = '\0';
    check_quote(in, 64, want);
    strcpy(want + 64, "...");
    check_quote(in, 65, want);
    memcpy(in + 63, "日", 3);
    strcpy(want + 63, "...");
    check_quote(in, 70, want);
}

/* Whatever the size of the result's room, it ends in a NUL inside it and is UTF-8. */
static void quote_fits_any_room(void **state)
{
    static const char in[] = "日\n本é\xFF😀abc";
    char buf[64];

    for (size_t size = 1; size < sizeof(buf); size++) {
        memset(buf, '!', sizeof(buf));
        eb_quote(buf, size, in, sizeof(in) - 1);
        size_t len = strnlen(buf, sizeof(buf));
        assert_true(len < size);
        assert_int_equal(buf[size], '!');
        assert_true(eb_utf8_valid(buf, len));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLAIM("error/names_round_trip", names_round_trip),
        CLAIM("error/fail_may_quote_itself", fail_may_quote_itself),
        CLAIM("error/long_message_is_cut_between_points", long_message_is_cut_between_points),
        CLAIM("error/quote_escapes_what_cannot_be_shown", quote_escapes_what_cannot_be_shown),
        CLAIM("error/quote_is_cut_at_64_bytes", quote_is_cut_at_64_bytes),
        CLAIM("error/quote_fits_any_room", quote_fits_any_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
