/*
 * test_json.c - the reader takes exactly what RFC 8259 and PROTOCOL 2 allow, and the writer's output reads back.
 *
 * Three judges: a table of texts (json_cases.h), a plain recursive reader that is slow and obvious, and
 * json-c where it is right. Every text lies in memory of exactly its size, so that a sanitizer sees a byte too far.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <json-c/json.h>

#include "common/clock.h"
#include "common/json.h"
#include "common/text.h"
#include "tests/unit/common/json_cases.h"
#include "tests/unit/common/json_plain.h"

/* ---- helpers ---- */

static uint64_t rng_state;

static uint32_t rng(uint32_t below)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return (uint32_t)((rng_state >> 16) % below);
}

/* Parse a copy of exactly that size; the copy goes to *ret_copy. */
static int parse_copy(struct eb_json *json, const char *text, size_t len, char **ret_copy,
                      struct eb_error *err)
{
    *ret_copy = malloc(len ? len : 1);
    assert_non_null(*ret_copy);
    if (len)
        memcpy(*ret_copy, text, len);
    memset(err, 0, sizeof(*err));
    return eb_json_parse(json, len ? *ret_copy : NULL, len, err);
}

/* Tokens that must hold whatever the text: nested ranges, indices that only go forward. */
static void check_tokens(const struct eb_json *json)
{
    assert_true(json->count > 0);
    assert_int_equal(json->tokens[0].next, json->count);
    for (uint32_t i = 0; i < json->count; i++) {
        const struct eb_json_token *token = &json->tokens[i];
        assert_true(token->next > i && token->next <= json->count);
        assert_true((size_t)token->start + token->len <= json->len);
        if (token->type != EB_JSON_ARRAY && token->type != EB_JSON_OBJECT)
            assert_int_equal(token->next, i + 1);
    }
}

static void read(struct eb_json *json, const char *text)
{
    struct eb_error err;

    if (eb_json_parse(json, text, strlen(text), &err) < 0)
        fail_msg("%s: %s", text, err.message);
}

static void string_is(struct eb_json *json, uint32_t tok, const char *want, size_t want_len)
{
    size_t len = 0;
    const char *got = eb_json_string(json, tok, &len);

    assert_int_equal(len, want_len);
    assert_memory_equal(got, want, want_len);
}

/* ---- the table ---- */

/* Every text of the table is judged as the table says, by the reader and by the obvious one. */
static void table_is_judged_right(void **state)
{
    struct eb_json json;
    size_t count = sizeof(json_cases) / sizeof(json_cases[0]);

    assert_true(count >= 150);
    eb_json_init(&json);
    for (size_t i = 0; i < count; i++) {
        const struct json_case *c = &json_cases[i];
        struct eb_error err;
        char *copy;
        bool ok = parse_copy(&json, c->text, c->len, &copy, &err) == 0;
        if (ok != c->valid || plain_valid(c->text, c->len) != c->valid)
            fail_msg("case %zu: %.*s: read %d, plain %d, want %d (%s)", i, (int)c->len, c->text, ok,
                     plain_valid(c->text, c->len), c->valid, err.message);
        if (ok) {
            check_tokens(&json);
        } else {
            assert_int_equal(err.code, EB_INVALID_JSON);
            assert_int_equal(json.count, 0);
            assert_true(eb_utf8_valid(err.message, strlen(err.message)));
        }
        free(copy);
    }
    eb_json_finish(&json);
}

/* A text shifted to every place against the 16-byte steps is judged the same. */
static void place_in_the_text_does_not_matter(void **state)
{
    struct eb_json json;
    char padded[4096];

    eb_json_init(&json);
    for (size_t i = 0; i < sizeof(json_cases) / sizeof(json_cases[0]); i++) {
        const struct json_case *c = &json_cases[i];
        if (c->len > 0 && c->text[0] == '\xef' && !c->valid) /* a BOM has its own rule in front */
            continue;
        for (size_t pad = 0; pad < 34; pad++) {
            struct eb_error err;
            char *copy;
            memset(padded, ' ', pad);
            memcpy(padded + pad, c->text, c->len);
            memset(padded + pad + c->len, ' ', 17);
            bool ok =
                parse_copy(&json, padded, pad + c->len + (pad & 1 ? 17 : 0), &copy, &err) == 0;
            if (ok != c->valid)
                fail_msg("case %zu, pad %zu: %.*s", i, pad, (int)c->len, c->text);
            free(copy);
        }
    }
    eb_json_finish(&json);
}

/* A refusal says at which byte and what was expected there. */
static void errors_give_byte_and_expectation(void **state)
{
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "invalid JSON at byte 0: expected a value, found the end"},
        {"{\"a\" 1}", "invalid JSON at byte 5: expected ':' after a member name, found '1'"},
        {"{\"a\":1,}", "invalid JSON at byte 7: expected a member name in quotes, found '}'"},
        {"[1 2]", "invalid JSON at byte 3: expected ',' or ']', found '2'"},
        {"{\"a\":1", "invalid JSON at byte 6: expected ',' or '}', found the end"},
        {"[01]", "invalid JSON at byte 2: expected a number without leading zeros, found '1'"},
        {"{} x", "invalid JSON at byte 3: expected the end of the text, found 'x'"},
        {"[\"a\n\"]",
         "invalid JSON at byte 3: expected control characters in a string as \\uXXXX, found "
         "byte 0x0a"},
        {"[\"\\ud800\"]",
         "invalid JSON at byte 2: unpaired high surrogate; expected \\uDC00 to \\uDFFF after it"},
        {"[\"\xff\"]", "invalid JSON at byte 2: not valid UTF-8"},
        {"[\"abc", "invalid JSON at byte 1: a string without its closing quote"},
        {"\xef\xbb\xbf{}", "invalid JSON at byte 0: expected a value, found a byte order mark"},
        {"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
         "invalid JSON at byte 32: nested too deep; at most 32 levels"},
    };
    struct eb_json json;

    eb_json_init(&json);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct eb_error err;
        assert_int_equal(eb_json_parse(&json, cases[i].text, strlen(cases[i].text), &err), -1);
        assert_string_equal(err.message, cases[i].message);
    }
    eb_json_finish(&json);
}

/* ---- lookups ---- */

/* The last member of a name counts, also when it is null; null and absent are told apart on request. */
static void last_member_counts(void **state)
{
    struct eb_json json;
    int64_t value;

    eb_json_init(&json);
    read(&json, "{\"a\":1,\"b\":null,\"a\":{\"a\":7},\"c\":1,\"c\":null,\"a\":2}");
    assert_true(eb_json_int64(&json, eb_json_member(&json, 0, "a"), &value));
    assert_int_equal(value, 2);
    assert_int_equal(eb_json_member(&json, 0, "b"), 0);
    assert_int_not_equal(eb_json_member_or_null(&json, 0, "b"), 0);
    assert_int_equal(eb_json_member(&json, 0, "c"), 0);
    assert_int_equal(eb_json_member_or_null(&json, 0, "d"), 0);
    assert_int_equal(eb_json_member(&json, 2, "a"), 0); /* not an object */
    assert_int_equal(eb_json_member(&json, 999, "a"), 0);
    eb_json_finish(&json);
}

/* Names are compared unescaped and whole: U+0000 does not end them. */
static void names_are_compared_unescaped(void **state)
{
    struct eb_json json;

    eb_json_init(&json);
    read(&json, "{\"t\\u006fpic\":1}");
    assert_int_equal(eb_json_member(&json, 0, "topic"), 2);
    read(&json,
         "{\"topic\\u0000\":1,\"to\\u0000pic\":2,\"topi\":3,\"topics\":4,\"topi\\u0063s\":5}");
    assert_int_equal(eb_json_member(&json, 0, "topic"), 0);
    read(&json, "{\"\\ud83d\\ude00\":1,\"\":2}");
    assert_int_equal(eb_json_member(&json, 0, "\xf0\x9f\x98\x80"), 2);
    assert_int_equal(eb_json_member(&json, 0, "\xf0\x9f\x98"), 0);
    assert_int_equal(eb_json_member(&json, 0, ""), 4);
    eb_json_finish(&json);
}

/* The last name is that of the outer object, unescaped, whatever lies deeper. */
static void last_name_is_the_outer_one(void **state)
{
    struct eb_json json;
    size_t len;

    eb_json_init(&json);
    read(&json, "{\"a\":[1,{\"x\":2}],\"t\\u0079pe\":{\"z\":{\"y\":1}}}");
    const char *name = eb_json_last_name(&json, 0, &len);
    assert_int_equal(len, 4);
    assert_memory_equal(name, "type", 4);
    read(&json, "{}");
    assert_null(eb_json_last_name(&json, 0, &len));
    read(&json, "[1]");
    assert_null(eb_json_last_name(&json, 0, &len));
    eb_json_finish(&json);
}

/* Strings may be asked for in any order and repeatedly; what was given stays where it is. */
static void strings_stay_until_the_next_parse(void **state)
{
    struct eb_json json;
    size_t len;

    eb_json_init(&json);
    read(&json,
         "[\"a\\nb\",\"\\u0000\",\"plain\",\"\\ud83d\\ude00\\u00e9\\\\\\/\\\"\\b\\f\\r\\t\"]");
    const char *first = eb_json_string(&json, 1, &len);
    for (int turn = 0; turn < 100; turn++) {
        string_is(&json, 4, "\xf0\x9f\x98\x80\xc3\xa9\\/\"\b\f\r\t", 13);
        string_is(&json, 3, "plain", 5);
        string_is(&json, 2, "\0", 1);
        string_is(&json, 1, "a\nb", 3);
    }
    assert_ptr_equal(first, eb_json_string(&json, 1, &len));
    eb_json_finish(&json);
}

/* Unescaping one string never touches another that was given before it, however the two lie. */
static void unescaping_leaves_other_strings_alone(void **state)
{
    const char *plain = "0123456789012345678901234567890123456789";
    struct eb_json json;
    char text[256];

    eb_json_init(&json);
    for (int pad = 0; pad < 40; pad++) {
        size_t len;
        snprintf(text, sizeof(text), "[\"%.*s\\n%.*s\",\"\\t!\"]", pad, plain, 39 - pad, plain);
        read(&json, text);
        const char *second = eb_json_string(&json, 2, &len);
        const char *first = eb_json_string(&json, 1, &len);
        assert_true(len == 40 && first[pad] == '\n');
        assert_memory_equal(second, "\t!", 2);
    }
    eb_json_finish(&json);
}

/* Integers only, never clamped, never rounded. */
static void int64_is_exact_or_refused(void **state)
{
    static const struct {
        const char *text;
        bool ok;
        int64_t value;
    } cases[] = {
        {"0", true, 0},
        {"-0", true, 0},
        {"42", true, 42},
        {"-42", true, -42},
        {"9223372036854775807", true, INT64_MAX},
        {"-9223372036854775808", true, INT64_MIN},
        {"9223372036854775808", false, 0},
        {"-9223372036854775809", false, 0},
        {"18446744073709551615", false, 0},
        {"18446744073709551617", false, 0},
        {"99999999999999999999999999", false, 0},
        {"9999999999999999999", false, 0},
        {"1.0", false, 0},
        {"1e3", false, 0},
        {"1E0", false, 0},
        {"-0.0", false, 0},
        {"0e0", false, 0},
        {"\"1\"", false, 0},
        {"null", false, 0},
        {"true", false, 0},
        {"[1]", false, 0},
        {"{}", false, 0},
    };
    struct eb_json json;

    eb_json_init(&json);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t value = 77;
        read(&json, cases[i].text);
        assert_int_equal(eb_json_int64(&json, 0, &value), cases[i].ok);
        assert_true(value == (cases[i].ok ? cases[i].value : 77));
    }
    eb_json_finish(&json);
}

/* ---- properties ---- */

struct text {
    char data[8192];
    size_t len;
};

static void put(struct text *out, const char *bytes, size_t len)
{
    if (out->len + len <= sizeof(out->data)) {
        memcpy(out->data + out->len, bytes, len);
        out->len += len;
    }
}

static void put_random_string(struct text *out)
{
    static const char *const pieces[] = {"a",
                                         "topic",
                                         "0123456789abcdefghij",
                                         "\\n",
                                         "\\\"",
                                         "\\\\",
                                         "\\/",
                                         "\\u0000",
                                         "\\u00e9",
                                         "\\uD83D\\uDE00",
                                         "\xc3\xa9",
                                         "\xe2\x82\xac",
                                         "\xf0\x9f\x98\x80",
                                         " ",
                                         "\x7f",
                                         "\\u0041"};

    put(out, "\"", 1);
    for (uint32_t n = rng(6); n > 0; n--) {
        const char *piece = pieces[rng(sizeof(pieces) / sizeof(pieces[0]))];
        put(out, piece, strlen(piece));
    }
    put(out, "\"", 1);
}

/* A valid text of at most @room levels. */
static void put_random_value(struct text *out, int room)
{
    static const char *const scalars[] = {"null",
                                          "true",
                                          "false",
                                          "0",
                                          "-1",
                                          "12.5e-3",
                                          "4711",
                                          "1e5",
                                          "9007199254740993",
                                          "-9223372036854775808",
                                          " 7 "};
    uint32_t kind = rng(room > 0 && out->len < 3000 ? 4 : 2);

    if (kind == 0) {
        const char *scalar = scalars[rng(sizeof(scalars) / sizeof(scalars[0]))];
        put(out, scalar, strlen(scalar));
    } else if (kind == 1) {
        put_random_string(out);
    } else {
        put(out, kind == 2 ? "[" : "{", 1);
        for (uint32_t n = rng(5), i = 0; i < n; i++) {
            if (i)
                put(out, ", ", 1 + rng(2));
            if (kind == 3) {
                put_random_string(out);
                put(out, ":", 1);
            }
            put_random_value(out, room - 1);
        }
        put(out, kind == 2 ? "]" : "}", 1);
    }
}

/* Token @tok and json-c's value are the same, all the way down. Returns the token behind. */
static uint32_t compare(struct eb_json *json, uint32_t tok, struct json_object *other)
{
    static const enum json_type types[] = {json_type_null,  json_type_boolean, json_type_boolean,
                                           json_type_null,  json_type_string,  json_type_array,
                                           json_type_object};
    struct eb_json_token token = json->tokens[tok];
    enum json_type type = json_object_get_type(other);
    int64_t value;

    if (token.type == EB_JSON_NUMBER) {
        if (eb_json_int64(json, tok, &value)) {
            assert_int_equal(type, json_type_int);
            assert_true(json_object_get_int64(other) == value);
        } else {
            assert_int_equal(type, json_type_double);
        }
        return token.next;
    }
    assert_int_equal(type, types[token.type]);
    if (token.type == EB_JSON_STRING) {
        string_is(json, tok, json_object_get_string(other),
                  (size_t)json_object_get_string_len(other));
    } else if (token.type == EB_JSON_ARRAY) {
        uint32_t i = tok + 1;
        for (size_t n = 0; n < json_object_array_length(other); n++)
            i = compare(json, i, json_object_array_get_idx(other, n));
        assert_int_equal(i, token.next);
    } else if (token.type == EB_JSON_OBJECT) {
        json_object_object_foreach(other, key, member)
        {
            uint32_t i = eb_json_member_or_null(json, tok, key);
            assert_int_not_equal(i, 0);
            compare(json, i, member);
        }
    }
    return token.next;
}

/* On generated valid texts (names without U+0000, which json-c cuts) json-c sees what we see. */
static void valid_texts_mean_what_json_c_says(void **state)
{
    struct json_tokener *tokener = json_tokener_new_ex(64);
    struct eb_json json;

    rng_state = 20240607;
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    eb_json_init(&json);
    for (int turn = 0; turn < 5000; turn++) {
        struct text text = {.len = 0};
        struct eb_error err;
        char *copy;

        put_random_value(&text, 8);
        if (parse_copy(&json, text.data, text.len, &copy, &err) < 0)
            fail_msg("turn %d: %.*s: %s", turn, (int)text.len, text.data, err.message);
        check_tokens(&json);
        bool cut = false;
        for (uint32_t i = 0; i < json.count; i++) /* a name or not: json-c is not asked */
            cut |= json.tokens[i].escaped &&
                   memmem(copy + json.tokens[i].start, json.tokens[i].len, "\\u0000", 6);
        if (!cut) {
            json_tokener_reset(tokener);
            struct json_object *root = json_tokener_parse_ex(tokener, copy, (int)text.len);
            if (!root && json_tokener_get_error(tokener) == json_tokener_continue)
                root = json_tokener_parse_ex(tokener, "", 1); /* a number at the end */
            assert_int_equal(json_tokener_get_error(tokener), json_tokener_success);
            compare(&json, 0, root);
            json_object_put(root);
        }
        free(copy);
    }
    eb_json_finish(&json);
    json_tokener_free(tokener);
}

static void mutate(struct text *text)
{
    static const char odd[] =
        "\"\\{}[]:,0-1.eEu \n\t\x00\x1f\x7f\x80\xbf\xc3\xe2\xed\xa0\xf0\xf4\xff"
        "dD8c";

    for (uint32_t n = 1 + rng(3); n > 0 && text->len > 0; n--) {
        size_t at = rng((uint32_t)text->len);
        switch (rng(5)) {
        case 0:
            text->data[at] = odd[rng(sizeof(odd) - 1)];
            break;
        case 1:
            text->data[at] ^= (char)(1 << rng(8));
            break;
        case 2:
            text->len = at;
            break;
        case 3:
            memmove(text->data + at, text->data + at + 1, text->len - at - 1);
            text->len--;
            break;
        default:
            if (text->len < sizeof(text->data)) {
                memmove(text->data + at + 1, text->data + at, text->len - at);
                text->data[at] = odd[rng(sizeof(odd) - 1)];
                text->len++;
            }
        }
    }
}

/* On damaged texts the reader and the obvious one agree; nothing is read past the end. For two seconds at most. */
static void damaged_texts_are_judged_like_the_plain_reader(void **state)
{
    int64_t deadline = eb_mono_ms() + 2000;
    unsigned valid = 0, turns = 0;
    struct eb_json json;

    rng_state = 987654321;
    eb_json_init(&json);
    for (; turns < 200000 && (turns % 256 != 0 || eb_mono_ms() < deadline); turns++) {
        struct text text = {.len = 0};
        struct eb_error err;
        char *copy;

        put_random_value(&text, 34);
        mutate(&text);
        bool ok = parse_copy(&json, text.data, text.len, &copy, &err) == 0;
        if (ok != plain_valid(text.data, text.len))
            fail_msg("turn %u: %.*s: read %d (%s)", turns, (int)text.len, text.data, ok,
                     err.message);
        if (ok) {
            check_tokens(&json);
            for (uint32_t i = 0; i < json.count; i++) {
                if (json.tokens[i].type != EB_JSON_STRING)
                    continue;
                size_t len;
                const char *string = eb_json_string(&json, i, &len);
                assert_true(eb_utf8_valid(string, len));
            }
            valid++;
        }
        free(copy);
    }
    assert_true(turns > 500);
    assert_in_range(valid, turns / 50, turns - turns / 50);
    eb_json_finish(&json);
}

/* What json-c lets through and we must not: the reason of decision 0002. */
static void json_c_lets_through_what_we_refuse(void **state)
{
    struct json_tokener *tokener = json_tokener_new();
    static const char lone[] = "[\"\\ud800\"]", huge[] = "[99999999999999999999999]",
                      cut[] = "{\"topic\\u0000x\":1}";
    struct json_object *root, *value;
    struct eb_json json;
    struct eb_error err;
    int64_t number;

    eb_json_init(&json);
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    root = json_tokener_parse_ex(tokener, lone, (int)strlen(lone));
    assert_non_null(root);
    json_object_put(root);
    assert_int_equal(eb_json_parse(&json, lone, strlen(lone), &err), -1);

    json_tokener_reset(tokener);
    root = json_tokener_parse_ex(tokener, huge, (int)strlen(huge));
    assert_true(json_object_get_int64(json_object_array_get_idx(root, 0)) == INT64_MAX);
    json_object_put(root);
    read(&json, huge);
    assert_false(eb_json_int64(&json, 1, &number));

    json_tokener_reset(tokener);
    root = json_tokener_parse_ex(tokener, cut, (int)strlen(cut));
    assert_true(json_object_object_get_ex(root, "topic", &value));
    json_object_put(root);
    read(&json, cut);
    assert_int_equal(eb_json_member(&json, 0, "topic"), 0);
    json_tokener_free(tokener);
    eb_json_finish(&json);
}

/* The arrays are reused from parse to parse; what one large text needed is given back after it. */
static void tokens_and_scratch_are_kept_but_not_for_ever(void **state)
{
    struct eb_json json;
    struct eb_error err;
    struct eb_buf text = EB_BUF_INIT;

    eb_json_init(&json);
    eb_buf_str(&text, "[1");
    for (int i = 0; i < 500000; i++)
        eb_buf_str(&text, ",1");
    eb_buf_str(&text, "]");
    assert_int_equal(eb_json_parse(&json, text.data, text.len, &err), 0);
    assert_int_equal(json.count, 500002);
    uint32_t cap = json.cap;
    assert_int_equal(eb_json_parse(&json, text.data, text.len, &err), 0);
    assert_int_equal(json.cap, cap); /* the same text again allocates nothing */
    read(&json, "[1,\"\\n\"]");
    assert_true(json.cap <= 4096); /* one large request does not stay with its connection */
    struct eb_json_token *tokens = json.tokens;
    read(&json, "[1,\"\\n\",3,4,5,6]");
    assert_ptr_equal(tokens, json.tokens);
    eb_buf_finish(&text);
    eb_json_finish(&json);
}

/* ---- writing ---- */

static void expect_written(const char *text, size_t len, const char *want)
{
    struct eb_buf out = EB_BUF_INIT;

    eb_json_write_string(&out, text, len);
    assert_false(eb_buf_failed(&out));
    assert_int_equal(out.len, strlen(want));
    assert_memory_equal(out.data, want, out.len);
    eb_buf_finish(&out);
}

/* Only what RFC 8259 demands is escaped, in its short form if there is one. */
static void writer_escapes_only_what_it_must(void **state)
{
    expect_written("", 0, "\"\"");
    expect_written("a/b'<>&", 7, "\"a/b'<>&\"");
    expect_written("\"\\\b\f\n\r\t", 7, "\"\\\"\\\\\\b\\f\\n\\r\\t\"");
    expect_written("\0\x01\x1f\x7f", 4, "\"\\u0000\\u0001\\u001f\x7f\"");
    expect_written("\xc3\xa9\xe2\x80\xa8\xf0\x9f\x98\x80", 9,
                   "\"\xc3\xa9\xe2\x80\xa8\xf0\x9f\x98\x80\"");
    expect_written("0123456789abcdef\n0123456789abcdef\"", 34,
                   "\"0123456789abcdef\\n0123456789abcdef\\\"\"");
}

/* Whatever valid UTF-8 is written reads back as the same bytes, at every length around the blocks. */
static void written_strings_read_back(void **state)
{
    static const char *const pieces[] = {"a",        "\"",
                                         "\\",       "\n",
                                         "\xc3\xa9", "\xf0\x9f\x98\x80",
                                         "\x7f",     "0123456789abcdefghijklmnop"};
    struct eb_buf out = EB_BUF_INIT;
    struct eb_json json;
    struct eb_error err;

    rng_state = 1234567;
    eb_json_init(&json);
    for (int turn = 0; turn < 4000; turn++) {
        struct text text = {.len = 0};
        size_t want = turn % 10 == 0 ? 1000 + rng(3000) : rng(70);
        while (text.len < want) {
            if (rng(8) == 0) {
                char c = (char)rng(0x80);
                put(&text, &c, 1);
            } else {
                const char *piece = pieces[rng(turn % 3 ? 8 : 1)];
                put(&text, piece, strlen(piece));
            }
        }
        out.len = 0;
        eb_json_write_string(&out, text.data, text.len);
        assert_int_equal(eb_json_parse(&json, out.data, out.len, &err), 0);
        string_is(&json, 0, text.data, text.len);
    }
    eb_buf_finish(&out);
    eb_json_finish(&json);
}

/* The ends of the ranges are written whole. */
static void integers_are_written_whole(void **state)
{
    struct eb_buf out = EB_BUF_INIT;

    eb_json_write_u64(&out, 0);
    eb_buf_str(&out, " ");
    eb_json_write_u64(&out, UINT64_MAX);
    eb_buf_str(&out, " ");
    eb_json_write_i64(&out, INT64_MIN);
    eb_buf_str(&out, " ");
    eb_json_write_i64(&out, INT64_MAX);
    eb_buf_str(&out, " ");
    eb_json_write_i64(&out, -7);
    eb_buf_add(&out, "", 1);
    assert_string_equal(out.data,
                        "0 18446744073709551615 -9223372036854775808 9223372036854775807 -7");
    eb_buf_finish(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"read/table_is_judged_right", table_is_judged_right},
        {"read/place_in_the_text_does_not_matter", place_in_the_text_does_not_matter},
        {"read/errors_give_byte_and_expectation", errors_give_byte_and_expectation},
        {"read/last_member_counts", last_member_counts},
        {"read/names_are_compared_unescaped", names_are_compared_unescaped},
        {"read/last_name_is_the_outer_one", last_name_is_the_outer_one},
        {"read/strings_stay_until_the_next_parse", strings_stay_until_the_next_parse},
        {"read/unescaping_leaves_other_strings_alone", unescaping_leaves_other_strings_alone},
        {"read/int64_is_exact_or_refused", int64_is_exact_or_refused},
        {"read/valid_texts_mean_what_json_c_says", valid_texts_mean_what_json_c_says},
        {"read/damaged_texts_are_judged_like_the_plain_reader",
         damaged_texts_are_judged_like_the_plain_reader},
        {"read/json_c_lets_through_what_we_refuse", json_c_lets_through_what_we_refuse},
        {"read/tokens_and_scratch_are_kept_but_not_for_ever",
         tokens_and_scratch_are_kept_but_not_for_ever},
        {"write/escapes_only_what_it_must", writer_escapes_only_what_it_must},
        {"write/strings_read_back", written_strings_read_back},
        {"write/integers_are_written_whole", integers_are_written_whole},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
