/*
 * test_consumer_settings.c - the settings of a durable consumer from JSON and back (PROTOCOL 7): defaults, limits, and
 * errors that name the member and say what would be right.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumers.h"

static int read_text(struct eb_consumer_settings *ret, const char *text, struct eb_error *err)
{
    struct eb_json json;
    eb_json_init(&json);
    assert_int_equal(eb_json_parse(&json, text, strlen(text), err), 0);
    int rc = eb_consumer_settings_read(ret, &json, 0, err);
    eb_json_finish(&json);
    return rc;
}

static struct eb_consumer_settings taken(const char *text)
{
    struct eb_consumer_settings settings;
    struct eb_error err = {0};
    if (read_text(&settings, text, &err) < 0)
        fail_msg("%s: %s", text, err.message);
    return settings;
}

/* Refused, with a sentence that has @word in it. */
static void refused(const char *text, const char *word)
{
    struct eb_consumer_settings settings;
    struct eb_error err = {0};
    assert_int_equal(read_text(&settings, text, &err), -1);
    assert_true(err.code == EB_INVALID_REQUEST || err.code == EB_INVALID_PATTERN);
    if (strstr(err.message, word) == NULL)
        fail_msg("\"%s\" does not name %s", err.message, word);
}

/* What is absent or null has its default; unknown members do not matter. */
static void absent_members_have_their_defaults(void **state)
{
    struct eb_consumer_settings s =
        taken("{\"patterns\":[\"a.#\"],\"ack_wait\":null,\"push\":null,\"colour\":1}");
    assert_int_equal(s.pattern_count, 1);
    assert_int_equal(s.from, EB_FROM_NEW);
    assert_int_equal(s.ack_wait_ms, 30000);
    assert_int_equal(s.max_deliver, 0);
    assert_int_equal(s.backoff_count, 0);
    assert_int_equal(s.max_inflight, 256);
    assert_int_equal(s.order, EB_ORDER_NONE);
    assert_int_equal(s.order_window, 10000);
    assert_true(s.dead_letter);
    assert_false(s.has_push);
}

/* Seconds may have a fraction, in any form JSON has for it. */
static void seconds_may_have_a_fraction(void **state)
{
    static const struct {
        const char *text;
        int64_t ms;
    } cases[] = {{"0.5", 500},    {"1e1", 10000},   {"2.5E-1", 250}, {"0.0001", 1},
                 {"3", 3000},     {"1.0015", 1002}, {"0.1e1", 1000}, {"31536000", 31536000000},
                 {"100e-2", 1000}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char text[100];
        snprintf(text, sizeof(text), "{\"patterns\":[\"#\"],\"ack_wait\":%s}", cases[i].text);
        assert_int_equal(taken(text).ack_wait_ms, cases[i].ms);
    }
    struct eb_consumer_settings s =
        taken("{\"patterns\":[\"#\"],\"backoff\":[0,0.25,1],\"max_deliver\":5}");
    assert_int_equal(s.backoff_count, 3);
    assert_int_equal(s.backoff_ms[0], 0);
    assert_int_equal(s.backoff_ms[1], 250);
}

/* Bad values are refused with the member's name. */
static void bad_values_are_refused_by_name(void **state)
{
    refused("[]", "object");
    refused("{}", "patterns");
    refused("{\"patterns\":[]}", "patterns");
    refused("{\"patterns\":\"#\"}", "patterns");
    refused("{\"patterns\":[7]}", "patterns[0]");
    refused("{\"patterns\":[\"a*\"]}", "a*");
    refused("{\"patterns\":[\"1\",\"2\",\"3\",\"4\",\"5\",\"6\",\"7\",\"8\",\"9\",\"10\",\"11\","
            "\"12\",\"13\",\"14\",\"15\",\"16\",\"17\"]}",
            "patterns");
    refused("{\"patterns\":[\"#\"],\"from\":\"start\"}", "from");
    refused("{\"patterns\":[\"#\"],\"from\":{\"seq\":-1}}", "from");
    refused("{\"patterns\":[\"#\"],\"from\":{\"seq\":1,\"time\":1}}", "from");
    refused("{\"patterns\":[\"#\"],\"from\":{}}", "from");
    refused("{\"patterns\":[\"#\"],\"ack_wait\":0}", "ack_wait");
    refused("{\"patterns\":[\"#\"],\"ack_wait\":-1}", "ack_wait");
    refused("{\"patterns\":[\"#\"],\"ack_wait\":\"1\"}", "ack_wait");
    refused("{\"patterns\":[\"#\"],\"ack_wait\":1e300}", "ack_wait");
    refused("{\"patterns\":[\"#\"],\"max_deliver\":-1}", "max_deliver");
    refused("{\"patterns\":[\"#\"],\"max_inflight\":0}", "max_inflight");
    refused("{\"patterns\":[\"#\"],\"max_inflight\":100001}", "100000");
    refused("{\"patterns\":[\"#\"],\"max_inflight\":1.5}", "max_inflight");
    refused("{\"patterns\":[\"#\"],\"backoff\":3}", "backoff");
    refused("{\"patterns\":[\"#\"],\"backoff\":[1,\"x\"]}", "backoff");
    refused("{\"patterns\":[\"#\"],\"backoff\":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]}", "backoff");
    refused("{\"patterns\":[\"#\"],\"order\":\"key\"}", "order");
    refused("{\"patterns\":[\"#\"],\"order\":\"header:\"}", "order");
    refused("{\"patterns\":[\"#\"],\"order_window\":0}", "order_window");
    refused("{\"patterns\":[\"#\"],\"dead_letter\":1}", "dead_letter");
    refused("{\"patterns\":[\"#\"],\"push\":\"http://x\"}", "push");
    refused("{\"patterns\":[\"#\"],\"push\":{\"secret\":\"whsec_x\"}}", "push.url");
    refused("{\"patterns\":[\"#\"],\"push\":{\"url\":\"http://x\"}}", "push.secret");
    refused("{\"patterns\":[\"#\"],\"push\":{\"url\":\"http://x\",\"secret\":\"s\",\"timeout\":0}}",
            "push.timeout");
    refused(
        "{\"patterns\":[\"#\"],\"push\":{\"url\":\"http://x\",\"secret\":\"s\",\"concurrency\":0}}",
        "concurrency");
}

/* What is written is read back as the same; a secret is only shown when asked for. */
static void what_is_written_is_read_back(void **state)
{
    static const char *const texts[] = {
        "{\"patterns\":[\"#\"]}",
        "{\"patterns\":[\"a\\\"b\",\"c.*\"],\"from\":\"all\",\"ack_wait\":0.05,\"max_deliver\":3,"
        "\"backoff\":[0.5,10],\"max_inflight\":7,\"order\":\"header:X-Key\",\"order_window\":9,"
        "\"dead_letter\":false}",
        "{\"patterns\":[\"#\"],\"from\":{\"seq\":12},\"order\":\"topic\"}",
        "{\"patterns\":[\"#\"],\"from\":{\"time\":1700000000000},\"push\":{\"url\":\"http://x/"
        "\\u00fc\",\"secret\":\"whsec_y\",\"timeout\":2.5,\"concurrency\":9}}"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        struct eb_consumer_settings s = taken(texts[i]), again;
        struct eb_buf out = EB_BUF_INIT;
        eb_consumer_settings_write(&out, &s, true);
        eb_buf_add(&out, "", 1);
        again = taken(out.data);
        assert_true(eb_consumer_settings_equal(&s, &again));
        again.max_inflight++;
        assert_false(eb_consumer_settings_equal(&s, &again));
        eb_buf_finish(&out);
        eb_consumer_settings_write(&out, &s, false);
        eb_buf_add(&out, "", 1);
        assert_null(strstr(out.data, "whsec_"));
        eb_buf_finish(&out);
    }
}

/* A consumer's name is 1 to 64 of A-Z a-z 0-9 _ -. */
static void names_are_checked(void **state)
{
    struct eb_error err;
    char name[66];
    memset(name, 'a', sizeof(name));
    assert_int_equal(eb_consumer_name_check("A-z_09", 6, &err), 0);
    assert_int_equal(eb_consumer_name_check(name, 64, &err), 0);
    assert_int_equal(eb_consumer_name_check(name, 65, &err), -1);
    assert_int_equal(eb_consumer_name_check("", 0, &err), -1);
    assert_int_equal(eb_consumer_name_check("a.b", 3, &err), -1);
    assert_int_equal(eb_consumer_name_check("a\0b", 3, &err), -1);
    assert_int_equal(err.code, EB_INVALID_REQUEST);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absent_members_have_their_defaults),
        cmocka_unit_test(seconds_may_have_a_fraction),
        cmocka_unit_test(bad_values_are_refused_by_name),
        cmocka_unit_test(what_is_written_is_read_back),
        cmocka_unit_test(names_are_checked),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
