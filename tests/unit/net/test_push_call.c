/* The header lines of a webhook's call: attributes of CloudEvents, headers that may pass, and none that may not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "broker/net/push_call.h"

static struct eb_push_lines lines;

static void make(const char *topic, const char *headers, const char *content_type)
{
    struct eb_draft draft = {.topic = topic,
                             .topic_len = strlen(topic),
                             .payload = "x",
                             .payload_len = 1,
                             .headers = headers,
                             .headers_len = headers ? strlen(headers) : 0,
                             .content_type = content_type,
                             .content_type_len = content_type ? strlen(content_type) : 0,
                             .has_id = true};
    memset(draft.id, 0xab, sizeof(draft.id));
    struct eb_event *event = eb_event_create(&draft);
    assert_non_null(event);
    event->timestamp = 1795466615835;
    assert_true(eb_push_lines_make(&lines, event, "E"));
    eb_event_unref(event);
}

static unsigned count(const char *line)
{
    unsigned n = 0;
    for (size_t i = 0; i < lines.count; i++)
        n += strcmp(lines.lines[i], line) == 0;
    return n;
}

static int finish(void **state)
{
    eb_push_lines_finish(&lines);
    return 0;
}

static void an_event_becomes_a_cloudevent(void **state)
{
    make("job.\xc3\xa4%\"x", NULL, NULL);
    assert_int_equal(lines.count, 5);
    assert_int_equal(count("ce-specversion: 1.0"), 1);
    assert_int_equal(count("ce-id: abababab-abab-abab-abab-abababababab"), 1);
    assert_int_equal(count("ce-source: urn:eventbus:E"), 1);
    assert_int_equal(count("ce-type: job.%C3%A4%25%22x"), 1);
    assert_int_equal(count("ce-time: 2026-11-23T20:43:35.835Z"), 1);
}

static void its_own_attributes_come_first(void **state)
{
    make("a", "{\"ce-id\":\"17\",\"ce-type\":\"paid\",\"ce-subject\":\"a b\",\"ce-source\":\"\"}",
         NULL);
    assert_int_equal(count("ce-id: 17"), 1);
    assert_int_equal(count("ce-type: paid"), 1);
    assert_int_equal(count("ce-subject: a%20b"), 1);
    assert_int_equal(count("ce-source: urn:eventbus:E"), 1); /* an empty one is none */
    assert_int_equal(lines.count, 6);
}

static void what_could_rule_the_call_is_left_out(void **state)
{
    make("a",
         "{\"Host\":\"h\",\"content-length\":\"9\",\"Webhook-Id\":\"1\",\"proxy-x\":\"1\",\"a "
         "b\":\"1\","
         "\"\":\"1\",\"x\":\"a\\r\\nb: "
         "c\",\"y\":\"\\u0000\",\"z\":\"\\u007f\",\"ok\":\"v\",\"none\":\"\"}",
         NULL);
    assert_int_equal(lines.count, 7);
    assert_int_equal(count("ok: v"), 1);
    assert_int_equal(count("none;"), 1);
}

static void a_content_type_that_is_no_header_is_octets(void **state)
{
    struct eb_draft draft = {.topic = "a",
                             .topic_len = 1,
                             .payload = "",
                             .content_type = "text/x; a=\xc3\xa4",
                             .content_type_len = 12};
    struct eb_event *event = eb_event_create(&draft);
    assert_string_equal(eb_push_content_type(event), "application/octet-stream");
    eb_event_unref(event);
    draft.content_type = "text/html";
    draft.content_type_len = 9;
    event = eb_event_create(&draft);
    assert_string_equal(eb_push_content_type(event), "text/html");
    eb_event_unref(event);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(an_event_becomes_a_cloudevent, finish),
        cmocka_unit_test_teardown(its_own_attributes_come_first, finish),
        cmocka_unit_test_teardown(what_could_rule_the_call_is_left_out, finish),
        cmocka_unit_test(a_content_type_that_is_no_header_is_octets),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
