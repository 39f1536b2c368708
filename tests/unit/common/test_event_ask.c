/*
 * test_event_ask.c - what a publisher may ask beside his event being stored (PROTOCOL 8): a time, a topic's last seq.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/event_ask.h"
#include "common/event_json.h"

#define DAY_MS ((int64_t)24 * 3600 * 1000)

static const struct eb_event_limits limits = {.max_payload = 100, .max_headers = 3};

/* ---- seconds ---- */

/* Seconds may have a fraction and an exponent; what is below a millisecond counts as one. */
static void seconds_become_milliseconds(void **state)
{
    static const struct {
        const char *text;
        int64_t ms;
    } cases[] = {
        {"0", 0},
        {"5", 5000},
        {"0.25", 250},
        {"1.005", 1005},
        {"0.1", 100},
        {"1e3", 1000000},
        {"2.5E-1", 250},
        {"1e-05", 1},
        {"0.0000000001", 1},
        {"0e5", 0},
        {"0.0001", 1},
        {"1.0000", 1000},
        {"31536000", 31536000000},
        {"12E+1", 120000},
        {"1e-999999", 1},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int64_t ms = -1;
        if (!eb_seconds_parse(cases[i].text, strlen(cases[i].text), &ms))
            fail_msg("%s is refused", cases[i].text);
        if (ms != cases[i].ms)
            fail_msg("%s is %lld ms", cases[i].text, (long long)ms);
    }
}

/* However large, a number is a number: it is the bound that refuses it. */
static void huge_seconds_stay_above_every_bound(void **state)
{
    static const char *const texts[] = {"1e300", "1e999999999", "99999999999999999999999999999999",
                                        "999999999999999.99999999999999999999"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        int64_t ms = -1;
        assert_true(eb_seconds_parse(texts[i], strlen(texts[i]), &ms));
        assert_true(ms > EB_DELAY_MAX_MS);
    }
}

static void what_is_no_number_of_seconds_is_refused(void **state)
{
    static const char *const texts[] = {"",    "-1",  "+1",  ".5",    "5.",   "1e",
                                        "1e+", "e5",  "5s",  " 5",    "5 ",   "0x10",
                                        "inf", "nan", "1,5", "1.5.5", "1e5.0"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        int64_t ms;
        if (eb_seconds_parse(texts[i], strlen(texts[i]), &ms))
            fail_msg("\"%s\" is taken as %lld ms", texts[i], (long long)ms);
    }
}

/* ---- members of `data` ---- */

static int read_data(struct eb_draft *draft, const char *members, struct eb_error *err)
{
    char text[512] = "{\"topic\":\"a\",\"payload\":\"\",";
    struct eb_draft_memory memory;
    struct eb_json json;
    *err = (struct eb_error){0};
    strcat(strcat(text, members), "}");
    eb_json_init(&json);
    eb_draft_memory_init(&memory);
    if (eb_json_parse(&json, text, strlen(text), err) < 0)
        fail_msg("%s: %s", text, err->message);
    int rc = eb_draft_from_json(draft, &memory, &json, 0, true, &limits, err);
    eb_draft_memory_finish(&memory);
    eb_json_finish(&json);
    return rc;
}

static void members_are_read(void **state)
{
    struct eb_draft draft;
    struct eb_error err;
    int64_t now = eb_wall_ms();

    assert_int_equal(read_data(&draft, "\"expected_last_seq\":17", &err), 0);
    assert_true(draft.has_expected);
    assert_int_equal(draft.expected, 17);
    assert_int_equal(draft.deliver_at_ms, 0);
    assert_int_equal(read_data(&draft, "\"expected_last_seq\":0", &err), 0);
    assert_true(draft.has_expected && draft.expected == 0);
    assert_int_equal(read_data(&draft, "\"deliver_at\":1795466615835", &err), 0);
    assert_int_equal(draft.deliver_at_ms, 1795466615835);
    assert_false(draft.has_expected);
    assert_int_equal(read_data(&draft, "\"delay\":1.5", &err), 0);
    assert_in_range(draft.deliver_at_ms, now + 1500, eb_wall_ms() + 1500);
    assert_int_equal(
        read_data(&draft, "\"delay\":null,\"deliver_at\":null,\"expected_last_seq\":null", &err),
        0);
    assert_int_equal(draft.deliver_at_ms, 0);
    assert_false(draft.has_expected);
}

/* A year is the most, and is taken; what is over means now, and is not the same as not asked. */
static void bounds_of_time(void **state)
{
    struct eb_draft draft;
    struct eb_error err;
    char text[80];

    assert_int_equal(read_data(&draft, "\"delay\":31536000", &err), 0);
    assert_int_equal(read_data(&draft, "\"deliver_at\":0", &err), 0);
    assert_int_equal(draft.deliver_at_ms, 1);
    assert_int_equal(read_data(&draft, "\"delay\":0", &err), 0);
    assert_true(draft.deliver_at_ms > 0);
    snprintf(text, sizeof(text), "\"deliver_at\":%lld", (long long)(eb_wall_ms() + 364 * DAY_MS));
    assert_int_equal(read_data(&draft, text, &err), 0);
    snprintf(text, sizeof(text), "\"deliver_at\":%lld", (long long)(eb_wall_ms() + 366 * DAY_MS));
    assert_int_equal(read_data(&draft, text, &err), -1);
    assert_int_equal(err.code, EB_INVALID_REQUEST);
    assert_non_null(strstr(err.message, "year"));
}

/* Every fault is invalid_request, and the sentence names the member. */
static void faults_are_named(void **state)
{
    static const struct {
        const char *members, *says;
    } cases[] = {
        {"\"expected_last_seq\":-1", "\"expected_last_seq\" is -1"},
        {"\"expected_last_seq\":1.0", "expected_last_seq"},
        {"\"expected_last_seq\":\"1\"", "\"expected_last_seq\" must be a number"},
        {"\"expected_last_seq\":9007199254740992", "2^53"},
        {"\"expected_last_seq\":1e400", "expected_last_seq"},
        {"\"deliver_at\":-1", "\"deliver_at\" is -1"},
        {"\"deliver_at\":1.5", "milliseconds"},
        {"\"deliver_at\":\"tomorrow\"", "\"deliver_at\" must be a number"},
        {"\"deliver_at\":true", "deliver_at"},
        {"\"deliver_at\":99999999999999999999", "deliver_at"},
        {"\"delay\":-0.5", "\"delay\" is -0.5"},
        {"\"delay\":\"5\"", "\"delay\" must be a number"},
        {"\"delay\":[5]", "delay"},
        {"\"delay\":31536000.001", "year"},
        {"\"delay\":1e300", "year"},
        {"\"delay\":5,\"deliver_at\":1795466615835", "both given"},
        {"\"delay\":5,\"expected_last_seq\":1", "both given"},
        {"\"deliver_at\":5,\"expected_last_seq\":0", "both given"},
    };
    struct eb_draft draft;
    struct eb_error err;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (read_data(&draft, cases[i].members, &err) == 0)
            fail_msg("%s is taken", cases[i].members);
        assert_int_equal(err.code, EB_INVALID_REQUEST);
        if (strstr(err.message, cases[i].says) == NULL)
            fail_msg("%s: %s", cases[i].members, err.message);
    }
}

/* The one-pass reader knows none of them, so it leaves such a publish to the one that does. */
static void the_scanner_leaves_them_to_the_reader(void **state)
{
    static const char *const members[] = {"\"expected_last_seq\":1", "\"delay\":1",
                                          "\"deliver_at\":1", "\"delay\":null"};
    for (size_t i = 0; i < sizeof(members) / sizeof(members[0]); i++) {
        struct eb_publish_scan scan;
        char text[200];
        int len = snprintf(text, sizeof(text),
                           "{\"type\":\"publish\",\"data\":{\"topic\":\"a\",\"payload\":\"\",%s}}",
                           members[i]);
        assert_false(eb_publish_scan(&scan, text, (size_t)len));
        len = snprintf(text, sizeof(text),
                       "{\"type\":\"publish\",\"data\":{\"topic\":\"a\",\"payload\":\"\"},%s}",
                       members[i]);
        assert_false(eb_publish_scan(&scan, text, (size_t)len));
    }
}

/* What stands around an event or a batch holds for what has none of its own. */
static void what_stands_around_is_the_default(void **state)
{
    struct eb_draft outer = {.ttl = 60, .deliver_at_ms = 5, .has_expected = true, .expected = 9};
    struct eb_draft own = {.ttl = 0, .deliver_at_ms = 7, .has_expected = true, .expected = 0};
    struct eb_draft none = {.ttl = EB_TTL_UNSET};
    eb_asks_default(&own, &outer);
    assert_true(own.ttl == 0 && own.deliver_at_ms == 7 && own.expected == 0);
    eb_asks_default(&none, &outer);
    assert_true(none.ttl == 60 && none.deliver_at_ms == 5 && none.has_expected &&
                none.expected == 9);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(seconds_become_milliseconds),
        cmocka_unit_test(huge_seconds_stay_above_every_bound),
        cmocka_unit_test(what_is_no_number_of_seconds_is_refused),
        cmocka_unit_test(members_are_read),
        cmocka_unit_test(bounds_of_time),
        cmocka_unit_test(faults_are_named),
        cmocka_unit_test(the_scanner_leaves_them_to_the_reader),
        cmocka_unit_test(what_stands_around_is_the_default),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
