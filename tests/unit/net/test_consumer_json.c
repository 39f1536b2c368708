/* Requests about consumers as JSON: what is read, what is refused and how, and how results and deliveries are written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "broker/net/consumer_json.h"

static struct eb_json json;
static struct eb_consumer_call *call;
static struct eb_error err;

static int parse(enum eb_consumer_verb verb, const char *text)
{
    eb_consumer_call_destroy(call);
    call = eb_consumer_call_create(verb);
    assert_non_null(call);
    assert_int_equal(eb_json_parse(&json, text, strlen(text), &err), 0);
    if (verb == EB_CONSUMER_SEEK)
        return eb_consumer_call_position(call, &json, 0, &err);
    return eb_consumer_call_seqs(call, &json, 0, 3, &err);
}

static int setup(void **state)
{
    eb_json_init(&json);
    call = NULL;
    return 0;
}

static int finish(void **state)
{
    eb_consumer_call_destroy(call);
    eb_json_finish(&json);
    return 0;
}

static void seqs_come_as_a_list_or_alone(void **state)
{
    assert_int_equal(parse(EB_CONSUMER_ACK, "{\"seqs\":[3,1,2]}"), 0);
    assert_int_equal(call->request.count, 3);
    assert_int_equal(call->request.seqs[0], 3);
    assert_int_equal(parse(EB_CONSUMER_ACK, "{\"seq\":9007199254740992}"), 0);
    assert_int_equal(call->request.count, 1);
    assert_int_equal(parse(EB_CONSUMER_REDRIVE, "{}"), 0);
    assert_int_equal(call->request.count, 0);
}

static void what_a_nack_says_is_read(void **state)
{
    assert_int_equal(parse(EB_CONSUMER_NACK, "{\"seq\":1,\"delay\":1.25,\"delivery\":7}"), 0);
    assert_int_equal(call->request.delay_ms, 1250);
    assert_int_equal(call->request.delivery, 7);
    assert_int_equal(parse(EB_CONSUMER_NACK, "{\"seq\":1,\"delay\":null}"), 0);
    assert_int_equal(call->request.delay_ms, -1);
    assert_int_equal(call->request.delivery, EB_ANY_DELIVERY);
    assert_int_equal(parse(EB_CONSUMER_NACK, "{\"seq\":1,\"delay\":0.0009}"), 0);
    assert_int_equal(call->request.delay_ms, 0);
    assert_int_equal(parse(EB_CONSUMER_TERM, "{\"seq\":1,\"reason\":\"no \\u00fcse\"}"), 0);
    assert_string_equal(call->request.reason, "no \xc3\xbcse");
}

static void what_is_wrong_is_named(void **state)
{
    static const struct {
        enum eb_consumer_verb verb;
        const char *text, *says;
        enum eb_code code;
    } bad[] = {
        {EB_CONSUMER_ACK, "{}", "seqs", EB_INVALID_REQUEST},
        {EB_CONSUMER_ACK, "{\"seqs\":[]}", "empty", EB_INVALID_REQUEST},
        {EB_CONSUMER_ACK, "{\"seqs\":5}", "list", EB_INVALID_REQUEST},
        {EB_CONSUMER_ACK, "{\"seqs\":[1,2,3,4]}", "at most 3", EB_LIMIT_EXCEEDED},
        {EB_CONSUMER_ACK, "{\"seqs\":[0]}", "from 1", EB_INVALID_REQUEST},
        {EB_CONSUMER_ACK, "{\"seqs\":[9007199254740993]}", "2^53", EB_INVALID_REQUEST},
        {EB_CONSUMER_ACK, "{\"seqs\":[1],\"seq\":1}", "both", EB_INVALID_REQUEST},
        {EB_CONSUMER_ACK, "{\"seq\":[1]}", "integer", EB_INVALID_REQUEST},
        {EB_CONSUMER_NACK, "{\"seq\":1,\"delay\":1e3}", "seconds", EB_INVALID_REQUEST},
        {EB_CONSUMER_NACK, "{\"seq\":1,\"delay\":99999999999999999999}", "seconds",
         EB_INVALID_REQUEST},
        {EB_CONSUMER_NACK, "{\"seq\":1,\"delivery\":4294967296}", "delivery", EB_INVALID_REQUEST},
        {EB_CONSUMER_TERM, "{\"seq\":1,\"reason\":\"a\\u0000b\"}", "reason", EB_INVALID_REQUEST},
        {EB_CONSUMER_SEEK, "{}", "where", EB_INVALID_REQUEST},
        {EB_CONSUMER_SEEK, "{\"seq\":1,\"time\":2}", "where", EB_INVALID_REQUEST},
        {EB_CONSUMER_SEEK, "{\"time\":\"now\"}", "time", EB_INVALID_REQUEST},
    };

    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_int_equal(parse(bad[i].verb, bad[i].text), -1);
        assert_int_equal(err.code, bad[i].code);
        if (!strstr(err.message, bad[i].says))
            fail_msg("%s: \"%s\" does not say \"%s\"", bad[i].text, err.message, bad[i].says);
    }
}

static void a_position_is_a_seq_or_a_time(void **state)
{
    assert_int_equal(parse(EB_CONSUMER_SEEK, "{\"seq\":0}"), 0);
    assert_false(call->request.by_time);
    assert_int_equal(parse(EB_CONSUMER_SEEK, "{\"time\":1795466615835}"), 0);
    assert_true(call->request.by_time);
    assert_int_equal(call->request.time_ms, 1795466615835);
}

static void results_and_deliveries_are_written(void **state)
{
    struct eb_draft draft = {
        .topic = "a", .topic_len = 1, .payload = "p", .payload_len = 1, .has_id = true};
    struct eb_event *event = eb_event_create(&draft);
    struct eb_buf out = EB_BUF_INIT;

    assert_int_equal(parse(EB_CONSUMER_ACK, "{\"seqs\":[1,2,3]}"), 0);
    call->results[1] = EB_JOB_LATE;
    call->results[2] = EB_JOB_UNKNOWN;
    eb_consumer_write_results(&out, &call->request);
    eb_buf_add(&out, "", 1);
    assert_string_equal(
        out.data, "\"results\":[{\"seq\":1,\"result\":\"ok\"},{\"seq\":2,\"result\":\"late\"},"
                  "{\"seq\":3,\"result\":\"unknown\"}]");
    eb_buf_finish(&out);
    event->seq = 17;
    eb_consumer_write_delivery(&out, event, "event", "c", 2);
    eb_buf_add(&out, "", 1);
    assert_non_null(strstr(out.data, "{\"type\":\"event\",\"seq\":17,"));
    assert_non_null(strstr(out.data, "},\"consumer\":\"c\",\"delivery\":2}"));
    eb_buf_finish(&out);
    eb_event_unref(event);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(seqs_come_as_a_list_or_alone, setup, finish),
        cmocka_unit_test_setup_teardown(what_a_nack_says_is_read, setup, finish),
        cmocka_unit_test_setup_teardown(what_is_wrong_is_named, setup, finish),
        cmocka_unit_test_setup_teardown(a_position_is_a_seq_or_a_time, setup, finish),
        cmocka_unit_test_setup_teardown(results_and_deliveries_are_written, setup, finish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
