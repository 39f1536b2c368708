/* test_wire.c - requests as JSON, and what the broker says, sound or not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "client/internal.h"

static struct eb_json json;
static struct eb_wire wire;
static const char *why;

static int decode(const char *text)
{
    return eb_wire_decode(&wire, &json, text, strlen(text), &why);
}

#define EVENT(more, payload)                                                                       \
    "{\"type\":\"event\",\"seq\":17,\"message_id\":\"01890a5d-ac96-774b-bcce-b302099a8057\","      \
    "\"topic\":\"user.created\",\"payload\":" payload                                              \
    ",\"metadata\":{\"timestamp\":1700000000000,"                                                  \
    "\"content_type\":\"a/b\",\"headers\":{\"k\":\"v\\n\"}}" more "}"

/* Every member of an event arrives, texts end with NUL, headers stay the JSON they are. */
static void an_event_is_read_whole(void **state)
{
    assert_int_equal(decode(EVENT(",\"ttl\":60,\"new\":[1,{}]", "\"a\\u0000b\"")), 0);
    assert_int_equal(wire.type, EB_WIRE_EVENT);
    assert_null(wire.pattern);
    const eb_message *m = &wire.item->message;
    assert_int_equal(m->seq, 17);
    assert_string_equal(m->message_id, "01890a5d-ac96-774b-bcce-b302099a8057");
    assert_string_equal(m->topic, "user.created");
    assert_int_equal(m->topic_len, 12);
    assert_int_equal(m->payload_len, 3);
    assert_memory_equal(m->payload, "a\0b", 4);
    assert_int_equal(m->timestamp_ms, 1700000000000);
    assert_int_equal(m->ttl_s, 60);
    assert_string_equal(m->content_type, "a/b");
    assert_string_equal(m->headers, "{\"k\":\"v\\n\"}");
    assert_int_equal(m->headers_len, strlen(m->headers));
    eb_item_unref(wire.item);
}

/* Base64 becomes bytes; a replay's pattern stands beside. */
static void bytes_and_pattern_are_read(void **state)
{
    assert_int_equal(
        decode(EVENT(",\"payload_encoding\":\"base64\",\"pattern\":\"user.*\"", "\"/wA=\"")), 0);
    assert_string_equal(wire.pattern, "user.*");
    assert_int_equal(wire.item->message.payload_len, 2);
    assert_memory_equal(wire.item->message.payload, "\xff\0\0", 3);
    eb_item_unref(wire.item);
    assert_int_equal(decode(EVENT("", "\"\"")), 0);
    assert_int_equal(wire.item->message.payload_len, 0);
    assert_non_null(wire.item->message.payload);
    eb_item_unref(wire.item);
}

/* Answers: seq, id, duplicate, last_seq, epoch; a batch's results one by one. */
static void answers_are_read(void **state)
{
    eb_receipt receipt;

    assert_int_equal(
        decode("{\"type\":\"ok\",\"id\":1,\"seq\":5,\"message_id\":\"x\",\"duplicate\":true}"), 0);
    assert_int_equal(wire.type, EB_WIRE_OK);
    assert_true(wire.has_id && wire.has_seq && wire.duplicate);
    assert_int_equal(wire.id, 1);
    assert_string_equal(wire.message_id, "x");
    assert_int_equal(decode("{\"type\":\"ok\",\"id\":3,\"last_seq\":0,\"epoch\":\"e\"}"), 0);
    assert_true(wire.has_last_seq && !wire.has_seq);
    assert_int_equal(
        decode("{\"type\":\"ok\",\"id\":2,\"results\":[{\"seq\":1,\"message_id\":\"a\","
               "\"duplicate\":false},{\"seq\":2}]}"),
        0);
    assert_true(wire.results != 0);
    assert_true(eb_wire_receipt(&json, wire.results + 1, &receipt));
    assert_int_equal(receipt.seq, 1);
    assert_false(eb_wire_receipt(&json, json.tokens[wire.results + 1].next, &receipt));
}

/* Codes become results; a code of a newer broker counts by its status, or as internal. */
static void errors_become_results(void **state)
{
    static const struct {
        const char *code;
        int result;
    } cases[] = {
        {"invalid_topic", EB_RESULT_INVALID},       {"unauthorized", EB_RESULT_UNAUTHORIZED},
        {"forbidden", EB_RESULT_FORBIDDEN},         {"not_found", EB_RESULT_NOT_FOUND},
        {"payload_too_large", EB_RESULT_TOO_LARGE}, {"message_id_reused", EB_RESULT_ID_REUSED},
        {"rate_limited", EB_RESULT_LIMIT},          {"limit_exceeded", EB_RESULT_LIMIT},
        {"storage_full", EB_RESULT_STORAGE_FULL},   {"unavailable", EB_RESULT_UNAVAILABLE},
        {"timeout", EB_RESULT_UNAVAILABLE},         {"conflict", EB_RESULT_CONFLICT},
        {"internal", EB_RESULT_INTERNAL},           {"from_the_future", EB_RESULT_INTERNAL}};
    char text[200];

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        snprintf(text, sizeof(text),
                 "{\"type\":\"error\",\"id\":null,\"code\":\"%s\",\"message\":\"m\"}",
                 cases[i].code);
        assert_int_equal(decode(text), 0);
        assert_int_equal(wire.result, cases[i].result);
        assert_false(wire.has_id);
        assert_string_equal(wire.text, "m");
    }
    assert_int_equal(decode("{\"type\":\"error\",\"id\":1,\"code\":\"x\",\"status\":403}"), 0);
    assert_int_equal(wire.result, EB_RESULT_FORBIDDEN);
}

/* Gaps of one subscription or several, live notices; a type we do not know is no fault. */
static void gaps_and_live_are_read(void **state)
{
    char buf[EB_TOPIC_MAX + 1];

    assert_int_equal(decode("{\"type\":\"gap\",\"pattern\":\"#\",\"from_seq\":0,\"to_seq\":3,"
                            "\"reason\":\"epoch\",\"epoch\":\"n\"}"),
                     0);
    assert_string_equal(wire.pattern, "#");
    assert_string_equal(wire.epoch, "n");
    assert_int_equal(decode("{\"type\":\"gap\",\"patterns\":[\"a\",\"b\"],\"from_seq\":1,\"to_"
                            "seq\":3,\"reason\":\"new\"}"),
                     0);
    assert_string_equal(eb_wire_pattern(&json, wire.patterns + 2, buf), "b");
    assert_int_equal(decode("{\"type\":\"live\",\"pattern\":\"a\",\"seq\":9}"), 0);
    assert_int_equal(wire.seq, 9);
    assert_int_equal(decode("{\"type\":\"weather\",\"seq\":\"nice\"}"), 0);
    assert_int_equal(wire.type, EB_WIRE_OTHER);
}

static int decode_record(const struct eb_buf *record)
{
    struct eb_bin_record read;
    size_t at = 0;

    assert_int_equal(eb_bin_next((uint8_t *)record->data, record->len, &at, &read), 1);
    return eb_wire_decode_record(&wire, &json, &read, &why);
}

/* A consumer's events, gaps and end; what became of its answers. */
static void consumers_are_heard(void **state)
{
    static const char results[] =
        "{\"type\":\"ok\",\"id\":1,\"results\":[{\"seq\":1,\"result\":\"ok\"},"
        "{\"seq\":2,\"result\":\"late\"},{\"seq\":3,\"result\":"
        "\"unknown\"},{\"seq\":4},{\"result\":\"ok\"},5]}";
    static const int expected[] = {0, EB_RESULT_LATE, EB_RESULT_UNKNOWN};
    uint64_t seq;
    int result;

    assert_int_equal(decode(EVENT(",\"consumer\":\"w\",\"delivery\":3", "\"a\"")), 0);
    assert_string_equal(wire.consumer, "w");
    assert_int_equal(wire.item->delivery, 3);
    eb_item_unref(wire.item);
    assert_int_equal(decode("{\"type\":\"gap\",\"consumer\":\"w\",\"from_seq\":1,\"to_seq\":2,"
                            "\"reason\":\"retention\"}"),
                     0);
    assert_string_equal(wire.consumer, "w");
    assert_int_equal(decode("{\"type\":\"released\",\"consumer\":\"w\",\"reason\":\"seek\"}"), 0);
    assert_int_equal(wire.type, EB_WIRE_RELEASED);
    assert_string_equal(wire.reason, "seek");
    assert_int_equal(decode(results), 0);
    uint32_t tok = wire.results + 1;
    for (uint64_t i = 0; i < 6; i++, tok = json.tokens[tok].next) {
        assert_int_equal(eb_wire_answered(&json, tok, &seq, &result), i < 3);
        if (i < 3) {
            assert_int_equal(seq, i + 1);
            assert_int_equal(result, expected[i]);
        }
    }
}

/* On a binary connection what has no record of its own comes as JSON in one (docs/binary.md). */
static void json_in_a_record_is_read(void **state)
{
    static const char text[] = "{\"type\":\"ok\",\"id\":14,\"scheduled\":true}";
    struct eb_buf out = EB_BUF_INIT;

    eb_bin_write_json(&out, EB_BIN_JSON, 14, text, sizeof(text) - 1);
    assert_int_equal(decode_record(&out), 0);
    assert_int_equal(wire.type, EB_WIRE_OK);
    assert_int_equal(wire.id, 14);
    assert_true(wire.json && wire.scheduled && !wire.has_seq);
    eb_buf_finish(&out);
}

/* What cannot be understood is said so, and never crashes or leaks. */
static void nonsense_is_refused(void **state)
{
    static const char *const texts[] = {
        "",
        "{",
        "[]",
        "1",
        "{}",
        "{\"type\":1}",
        "{\"type\":\"event\"}",
        "{\"type\":\"live\",\"pattern\":\"a\"}",
        "{\"type\":\"live\",\"pattern\":1,\"seq\":1}",
        "{\"type\":\"gap\",\"pattern\":\"a\",\"from_seq\":-1,\"to_seq\":2}",
        "{\"type\":\"gap\",\"consumer\":7,\"from_seq\":1,\"to_seq\":2}",
        "{\"type\":\"released\",\"reason\":\"seek\"}",
        "{\"type\":\"released\",\"consumer\":7}",
        EVENT(",\"consumer\":\"w\"", "\"a\""),
        EVENT(",\"consumer\":\"w\",\"delivery\":0", "\"a\""),
        EVENT(",\"consumer\":\"w\",\"delivery\":4294967296", "\"a\""),
        EVENT(",\"consumer\":[],\"delivery\":1", "\"a\""),
        EVENT("", "1"),
        EVENT("", "null"),
        EVENT(",\"payload_encoding\":\"base64\"", "\"/w\""),
        EVENT(",\"payload_encoding\":\"rot13\"", "\"a\""),
        EVENT(",\"topic\":\"a..b\"", "\"a\""),
        EVENT(",\"seq\":0", "\"a\""),
        EVENT(",\"seq\":9007199254740992", "\"a\""),
        EVENT(",\"seq\":1.5", "\"a\""),
        EVENT(",\"metadata\":{}", "\"a\""),
        EVENT(",\"pattern\":7", "\"a\""),
        EVENT(",\"ttl\":-1", "\"a\""),
        EVENT(",\"message_id\":\"0123456789012345678901234567890123456789\"", "\"a\""),
        "\xff"};

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        assert_int_equal(decode(texts[i]), -EPROTO);
        assert_non_null(strstr(why, "the broker sent"));
        assert_null(wire.item);
    }
}

/* The record in @record as the JSON that asks for the same. */
static void json_is(const struct eb_buf *record, const char *expected)
{
    struct eb_buf out = EB_BUF_INIT;
    struct eb_bin_record read;
    size_t at = 0;

    assert_int_equal(eb_bin_next((uint8_t *)record->data, record->len, &at, &read), 1);
    assert_int_equal(at, record->len);
    eb_wire_json(&out, &read);
    eb_buf_add(&out, "", 1);
    assert_string_equal(out.data, expected);
    eb_buf_finish(&out);
}

static void written(const eb_publication *event, const char *expected)
{
    struct eb_buf out = EB_BUF_INIT;
    struct eb_error err;

    assert_int_equal(eb_wire_write_event(&out, event, false, &err), 0);
    eb_wire_set_id(&out, 7);
    json_is(&out, expected);
    eb_buf_finish(&out);
}

/* For an older broker: text goes as text, bytes as base64; what was not said is left to the broker. */
static void events_are_written(void **state)
{
    static const char *const headers[] = {"k\"", "v", "l", "", NULL};

    written(&(eb_publication){.topic = "a.b",
                              .payload = "x\ny",
                              .payload_len = 3,
                              .message_id = "id-1",
                              .ttl_s = EB_TTL_BROKER},
            "{\"type\":\"publish\",\"id\":7,\"data\":{\"topic\":\"a.b\",\"message_id\":\"id-1\","
            "\"payload\":\"x\\ny\"}}");
    written(
        &(eb_publication){
            .topic = "a", .message_id = "i", .content_type = "c", .headers = headers, .ttl_s = 0},
        "{\"type\":\"publish\",\"id\":7,\"data\":{\"topic\":\"a\",\"message_id\":\"i\","
        "\"content_type\":\"c\",\"headers\":{\"k\\\"\":\"v\",\"l\":\"\"},\"payload\":\"\",\"ttl\":"
        "0}}");
    written(&(eb_publication){.topic = "a",
                              .message_id = "01890A5DAC96774BBCCEB302099A8057",
                              .payload = "\xff\0",
                              .payload_len = 2,
                              .ttl_s = 5},
            "{\"type\":\"publish\",\"id\":7,\"data\":{\"topic\":\"a\",\"message_id\":"
            "\"01890a5d-ac96-774b-bcce-b302099a8057\",\"payload\":\"/wA=\","
            "\"payload_encoding\":\"base64\",\"ttl\":5}}");
}

/* A batch's members one behind the other, also none. */
static void batches_are_written(void **state)
{
    struct eb_buf out = EB_BUF_INIT;
    struct eb_error err;

    for (uint32_t count = 0; count <= 2; count++) {
        static const char *const expected[] = {
            "{\"type\":\"publish_batch\",\"id\":8,\"messages\":[]}",
            "{\"type\":\"publish_batch\",\"id\":8,\"messages\":[{\"topic\":\"a\",\"message_id\":"
            "\"i\","
            "\"payload\":\"\",\"ttl\":0}]}",
            "{\"type\":\"publish_batch\",\"id\":8,\"messages\":[{\"topic\":\"a\",\"message_id\":"
            "\"i\","
            "\"payload\":\"\",\"ttl\":0},{\"topic\":\"a\",\"message_id\":\"i\",\"payload\":\"\","
            "\"ttl\":"
            "0}]}"};
        out.len = 0;
        size_t begin = eb_bin_begin(&out, EB_BIN_PUBLISH_BATCH, 0, 0);
        eb_bin_u64(&out, 0);
        eb_bin_u32(&out, count);
        for (uint32_t i = 0; i < count; i++)
            assert_int_equal(eb_wire_write_event(&out,
                                                 &(eb_publication){.topic = "a", .message_id = "i"},
                                                 true, &err),
                             0);
        eb_bin_end(&out, begin);
        eb_wire_set_id(&out, 8);
        json_is(&out, expected[count]);
    }
    eb_buf_finish(&out);
}

/* An id is made where none is given; what the broker would refuse by form is refused at once. */
static void events_are_checked(void **state)
{
    static const char *const odd[] = {"k", NULL}, *const bad[] = {"k", "\xff", NULL},
                             *const empty[] = {"", "v", NULL};
    char long_id[300], *huge = malloc(70001);
    const char *const large[] = {"k", huge, NULL};
    struct eb_buf out = EB_BUF_INIT;
    struct eb_error err;

    memset(long_id, 'x', 299);
    long_id[299] = '\0';
    assert_non_null(huge);
    memset(huge, 'x', 70000);
    huge[70000] = '\0';
    const eb_publication wrong[] = {{0},
                                    {.topic = "a..b"},
                                    {.topic = "a.*"},
                                    {.topic = ""},
                                    {.topic = "a", .payload_len = 1},
                                    {.topic = "a", .ttl_s = -2},
                                    {.topic = "a", .message_id = ""},
                                    {.topic = "a", .message_id = long_id},
                                    {.topic = "a", .message_id = "\xff"},
                                    {.topic = "a", .content_type = "\xff"},
                                    {.topic = "a", .content_type = long_id},
                                    {.topic = "a", .headers = large},
                                    {.topic = "a", .headers = odd},
                                    {.topic = "a", .headers = bad},
                                    {.topic = "a", .headers = empty}};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        assert_int_equal(eb_wire_write_event(&out, &wrong[i], true, &err), EB_RESULT_INVALID);
        assert_true(err.message[0] != '\0');
        assert_int_equal(out.len, 0);
    }
    assert_int_equal(eb_wire_write_event(&out, NULL, true, &err), EB_RESULT_INVALID);
    assert_int_equal(eb_wire_write_event(&out, &(eb_publication){.topic = "a"}, false, &err), 0);
    struct eb_bin_record record;
    struct eb_bin_event wire_event;
    size_t at = 0;
    assert_int_equal(eb_bin_next((uint8_t *)out.data, out.len, &at, &record), 1);
    assert_int_equal(eb_bin_read_event(&record, &wire_event, &err), 0);
    assert_non_null(wire_event.uuid);
    assert_int_equal(wire_event.uuid[6] >> 4, 7);
    eb_buf_finish(&out);
    free(huge);
}

/* Members of a subscribe: only what applies; an epoch that is no UUID becomes one that no log has. */
static void the_other_requests_are_written(void **state)
{
    struct eb_buf out = EB_BUF_INIT;

    eb_wire_write_subscribe(&out, 7, "a.*", EB_START_LIVE, "e", true);
    json_is(&out, "{\"type\":\"subscribe\",\"id\":7,\"pattern\":\"a.*\"}");
    out.len = 0;
    eb_wire_write_subscribe(&out, 8, "#", 0, "", false);
    json_is(&out, "{\"type\":\"subscribe\",\"id\":8,\"pattern\":\"#\",\"starting_seq\":0}");
    out.len = 0;
    eb_wire_write_subscribe(&out, 9, "#", 5, "01890a5d-ac96-774b-bcce-b302099a8057", true);
    json_is(&out, "{\"type\":\"subscribe\",\"id\":9,\"pattern\":\"#\",\"starting_seq\":5,\"epoch\":"
                  "\"01890a5d-ac96-774b-bcce-b302099a8057\",\"pending_only\":true}");
    out.len = 0;
    eb_wire_write_subscribe(&out, 9, "#", 5, "e", false);
    json_is(&out, "{\"type\":\"subscribe\",\"id\":9,\"pattern\":\"#\",\"starting_seq\":5,\"epoch\":"
                  "\"00000000-0000-0000-0000-000000000000\"}");
    out.len = 0;
    eb_wire_write_unsubscribe(&out, "a\"b");
    json_is(&out, "{\"type\":\"unsubscribe\",\"pattern\":\"a\\\"b\"}");
    out.len = 0;
    eb_wire_write_ack(&out, 17);
    eb_wire_set_id(&out, 3);
    json_is(&out, "{\"type\":\"ack\",\"id\":3,\"seq\":17}");
    eb_buf_finish(&out);
}

/* A delivered record has every member of an event, with the headers as JSON. */
static void a_binary_event_is_read_whole(void **state)
{
    static const uint8_t id[16] = {0x01, 0x89, 0x0a, 0x5d, 0xac, 0x96, 0x77, 0x4b,
                                   0xbc, 0xce, 0xb3, 0x02, 0x09, 0x9a, 0x80, 0x57};
    struct eb_buf out = EB_BUF_INIT;

    size_t begin = eb_bin_begin(
        &out, EB_BIN_EVENT,
        EB_BIN_PART_TTL | EB_BIN_PART_CONTENT_TYPE | EB_BIN_PART_HEADERS | EB_BIN_PART_PATTERN, 12);
    eb_bin_u64(&out, 17);
    eb_bin_u64(&out, 1700000000000);
    eb_buf_add(&out, id, sizeof(id));
    eb_buf_str(&out, "user.created");
    eb_bin_u64(&out, 60);
    eb_buf_add(&out, "\3a/b\1\0\1\0\2\0kv\n\6user.*a\0b", 23);
    eb_bin_end(&out, begin);
    assert_int_equal(decode_record(&out), 0);
    assert_int_equal(wire.type, EB_WIRE_EVENT);
    assert_string_equal(wire.pattern, "user.*");
    const eb_message *m = &wire.item->message;
    assert_int_equal(m->seq, 17);
    assert_string_equal(m->message_id, "01890a5d-ac96-774b-bcce-b302099a8057");
    assert_string_equal(m->topic, "user.created");
    assert_int_equal(m->payload_len, 3);
    assert_memory_equal(m->payload, "a\0b", 4);
    assert_int_equal(m->timestamp_ms, 1700000000000);
    assert_int_equal(m->ttl_s, 60);
    assert_string_equal(m->content_type, "a/b");
    assert_string_equal(m->headers, "{\"k\":\"v\\n\"}");
    eb_item_unref(wire.item);
    eb_buf_finish(&out);
}

/* What cannot be in a sound record is refused, and nothing is left behind. */
static void binary_nonsense_is_refused(void **state)
{
    struct eb_buf out = EB_BUF_INIT;
    size_t begin;

    for (int i = 0; i < 4; i++) { /* seq 0, a seq too high, a bad topic, bytes that are no UTF-8 */
        out.len = 0;
        begin = eb_bin_begin(&out, EB_BIN_EVENT, i == 3 ? EB_BIN_PART_HEADERS : 0, 3);
        eb_bin_u64(&out, i == 0 ? 0 : i == 1 ? (uint64_t)1 << 53 : 1);
        eb_bin_u64(&out, 1);
        eb_buf_add(&out, "0123456789abcdef", 16);
        eb_buf_str(&out, i == 2 ? "a.*" : "a.b");
        if (i == 3)
            eb_buf_add(&out, "\1\0\1\0\1\0k\xff", 8);
        eb_bin_end(&out, begin);
        assert_int_equal(decode_record(&out), -EPROTO);
        assert_null(wire.item);
    }
    out.len = 0;
    eb_bin_write_acks(&out, 1, 0, 1);
    assert_int_equal(decode_record(&out), -EPROTO);
    out.len = 0;
    begin = eb_bin_begin(&out, EB_BIN_LIVE, 0, 9);
    eb_bin_u64(&out, 1);
    eb_bin_end(&out, begin);
    assert_int_equal(decode_record(&out), -EPROTO);
    out.len = 0;
    begin = eb_bin_begin(&out, 0xf7, 0xff, 0);
    eb_bin_end(&out, begin);
    assert_int_equal(decode_record(&out), 0);
    assert_int_equal(wire.type, EB_WIRE_OTHER);
    eb_buf_finish(&out);
}

static int setup(void **state)
{
    eb_json_init(&json);
    return 0;
}

static int teardown(void **state)
{
    eb_json_finish(&json);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"wire/an_event_is_read_whole", an_event_is_read_whole},
        {"wire/bytes_and_pattern_are_read", bytes_and_pattern_are_read},
        {"wire/answers_are_read", answers_are_read},
        {"wire/errors_become_results", errors_become_results},
        {"wire/gaps_and_live_are_read", gaps_and_live_are_read},
        {"wire/consumers_are_heard", consumers_are_heard},
        {"wire/json_in_a_record_is_read", json_in_a_record_is_read},
        {"wire/nonsense_is_refused", nonsense_is_refused},
        {"wire/events_are_written", events_are_written},
        {"wire/events_are_checked", events_are_checked},
        {"wire/batches_are_written", batches_are_written},
        {"wire/the_other_requests_are_written", the_other_requests_are_written},
        {"wire/a_binary_event_is_read_whole", a_binary_event_is_read_whole},
        {"wire/binary_nonsense_is_refused", binary_nonsense_is_refused},
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
