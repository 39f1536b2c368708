/*
 * test_event_json.c - what a publisher's `data` may say, and what a subscriber reads (PROTOCOL 1, 2.1, 2.2).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/clock.h"
#include "common/event_json.h"
#include "common/text.h"
#include "common/uuid.h"

#define ID "0190f5fe-7c00-7abc-8def-0123456789ab"

static struct eb_json json;
static struct eb_draft_memory memory;
static struct eb_error err;
static const struct eb_event_limits limits = {.max_payload = 100, .max_headers = 3};

static int setup(void **state)
{
    eb_json_init(&json);
    eb_draft_memory_init(&memory);
    return 0;
}

static int teardown(void **state)
{
    eb_draft_memory_finish(&memory);
    eb_json_finish(&json);
    return 0;
}

static int read_text(struct eb_draft *draft, const char *text, bool with_ttl)
{
    memset(&err, 0, sizeof(err));
    if (eb_json_parse(&json, text, strlen(text), &err) < 0)
        fail_msg("%s: %s", text, err.message);
    return eb_draft_from_json(draft, &memory, &json, 0, with_ttl, &limits, &err);
}

static void accepted(struct eb_draft *draft, const char *text)
{
    if (read_text(draft, text, true) < 0)
        fail_msg("%s: %s", text, err.message);
}

static void payload_is(const struct eb_draft *draft, const char *want, size_t len)
{
    assert_int_equal(draft->payload_len, len);
    assert_memory_equal(draft->payload, want, len);
}

/* ---- reading ---- */

/* Topic and payload are enough; the rest is absent, also as null; unknown members do not matter. */
static void topic_and_payload_are_enough(void **state)
{
    static const char *const texts[] = {
        "{\"topic\":\"a.b\",\"payload\":\"x\"}",
        "{\"payload\":\"x\",\"message_id\":null,\"content_type\":null,\"headers\":null,"
        "\"payload_encoding\":null,\"ttl\":null,\"topic\":\"a.b\"}",
        "{\"unknown\":[{\"topic\":\"no\"}],\"topic\":\"a.b\",\"payload\":\"x\"}",
        "{\"t\\u006fpic\":\"a.b\",\"payl\\u006fad\":\"\\u0078\"}",
        "{\"topic\":1,\"topic\":\"a.b\",\"payload\":{},\"payload\":\"x\",\"ttl\":-1,\"ttl\":null}",
        "{\"topic\":\"a.b\",\"topic\\u0000\":5,\"payload\":\"x\",\"headers\":{}}",
    };
    struct eb_draft draft;

    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        accepted(&draft, texts[i]);
        assert_int_equal(draft.topic_len, 3);
        assert_memory_equal(draft.topic, "a.b", 3);
        payload_is(&draft, "x", 1);
        assert_null(draft.content_type);
        assert_null(draft.headers);
        assert_int_equal(draft.headers_len, 0);
        assert_false(draft.has_id);
        assert_true(draft.ttl == EB_TTL_UNSET);
    }
}

/* All members at once, and nothing left of them in the next draft from the same memory. */
static void all_members_are_read(void **state)
{
    struct eb_draft draft;
    char id[EB_UUID_TEXT + 1];

    accepted(&draft,
             "{\"topic\":\"a\",\"payload\":\"aGk=\",\"payload_encoding\":\"base64\",\"message_id\":"
             "\"{" ID
             "}\",\"content_type\":\"application/json\",\"headers\":{\"k\":\"v\"},\"ttl\":3600}");
    payload_is(&draft, "hi", 2);
    assert_true(draft.has_id);
    eb_uuid_format(id, draft.id);
    assert_string_equal(id, ID);
    assert_int_equal(draft.content_type_len, 16);
    assert_int_equal(draft.ttl, 3600);
    assert_int_equal(draft.headers_len, 9);
    assert_memory_equal(draft.headers, "{\"k\":\"v\"}", 9); /* a UUID needs no header */
    accepted(&draft, "{\"topic\":\"a\",\"payload\":\"\\u0000\"}");
    payload_is(&draft, "\0", 1);
    assert_null(draft.headers);
    assert_false(draft.has_id);
    assert_int_equal(read_text(&draft, "{\"topic\":\"a\",\"payload\":\"\",\"ttl\":-1}", false), 0);
    assert_true(draft.ttl == EB_TTL_UNSET); /* not asked for */
}

/* Every fault has its code, and the sentence names the member. */
static void faults_have_their_codes(void **state)
{
#define DATA(members) "{\"topic\":\"a\",\"payload\":\"\"," members "}"
    static const struct {
        const char *text;
        enum eb_code code;
        const char *says;
    } cases[] = {
        {"[]", EB_INVALID_REQUEST, "object"},
        {"{}", EB_INVALID_REQUEST, "topic"},
        {"{\"topic\":\"a\"}", EB_INVALID_REQUEST, "payload"},
        {"{\"topic\":null,\"payload\":\"\"}", EB_INVALID_REQUEST, "topic"},
        {"{\"topic\":\"a\",\"payload\":null}", EB_INVALID_REQUEST, "payload"},
        {"{\"topic\":7,\"payload\":\"\"}", EB_INVALID_REQUEST,
         "\"topic\" must be a string, not a number"},
        {"{\"topic\":\"a\",\"payload\":{}}", EB_INVALID_REQUEST,
         "\"payload\" must be a string, not an object"},
        {"{\"topic\":\"\",\"payload\":\"\"}", EB_INVALID_TOPIC, ""},
        {"{\"topic\":\"a..b\",\"payload\":\"\"}", EB_INVALID_TOPIC, ""},
        {"{\"topic\":\"a.*\",\"payload\":\"\"}", EB_INVALID_TOPIC, ""},
        {"{\"topic\":\"a\\u0000\",\"payload\":\"\"}", EB_INVALID_TOPIC, ""},
        {"{\"topic\":\"$dead.x\",\"payload\":\"\"}", EB_FORBIDDEN, "$dead.x"},
        {DATA("\"payload_encoding\":\"hex\""), EB_INVALID_REQUEST, "\"hex\""},
        {DATA("\"payload_encoding\":\"BASE64\""), EB_INVALID_REQUEST, "base64"},
        {DATA("\"payload_encoding\":64"), EB_INVALID_REQUEST, "payload_encoding"},
        {DATA("\"payload\":\"aGk\",\"payload_encoding\":\"base64\""), EB_INVALID_REQUEST, "base64"},
        {DATA("\"payload\":\"aGk=\\n\",\"payload_encoding\":\"base64\""), EB_INVALID_REQUEST,
         "base64"},
        {DATA("\"payload\":\"aG-_\",\"payload_encoding\":\"base64\""), EB_INVALID_REQUEST,
         "base64"},
        {DATA("\"payload\":\"aGl=\",\"payload_encoding\":\"base64\""), EB_INVALID_REQUEST,
         "base64"},
        {DATA("\"content_type\":\"\""), EB_INVALID_REQUEST, "content type"},
        {DATA("\"content_type\":1"), EB_INVALID_REQUEST, "content_type"},
        {DATA("\"content_type\":\"a\\nb\""), EB_INVALID_REQUEST, "control"},
        {DATA("\"content_type\":\"a\\u007f\""), EB_INVALID_REQUEST, "control"},
        {DATA("\"content_type\":\"a\\u0085\""), EB_INVALID_REQUEST, "control"},
        {DATA("\"headers\":[]"), EB_INVALID_REQUEST, "headers"},
        {DATA("\"headers\":{\"k\":1}"), EB_INVALID_REQUEST,
         "the header \"k\" must be a string, not a number"},
        {DATA("\"headers\":{\"k\":null}"), EB_INVALID_REQUEST, "\"k\""},
        {DATA("\"headers\":{\"message-id\":{}}"), EB_INVALID_REQUEST, "message-id"},
        {DATA("\"headers\":{\"\":\"v\"}"), EB_INVALID_REQUEST, "empty name"},
        {DATA("\"headers\":{\"a\":\"\",\"b\":\"\",\"c\":\"\",\"d\":\"\"}"), EB_LIMIT_EXCEEDED, "3"},
        {DATA("\"message_id\":1"), EB_INVALID_MESSAGE_ID, "message_id"},
        {DATA("\"message_id\":\"\""), EB_INVALID_MESSAGE_ID, "empty"},
        {DATA("\"message_id\":[]"), EB_INVALID_MESSAGE_ID, "array"},
        {DATA("\"ttl\":-1"), EB_INVALID_REQUEST, "ttl"},
        {DATA("\"ttl\":1.0"), EB_INVALID_REQUEST, "ttl"},
        {DATA("\"ttl\":1e3"), EB_INVALID_REQUEST, "ttl"},
        {DATA("\"ttl\":\"60\""), EB_INVALID_REQUEST, "ttl"},
        {DATA("\"ttl\":9007199254740992"), EB_INVALID_REQUEST, "ttl"},
        {DATA("\"ttl\":99999999999999999999"), EB_INVALID_REQUEST, "ttl"},
    };
    struct eb_draft draft;

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (read_text(&draft, cases[i].text, true) == 0)
            fail_msg("accepted: %s", cases[i].text);
        if (err.code != cases[i].code || !strstr(err.message, cases[i].says))
            fail_msg("%s: %s: %s", cases[i].text, eb_code_name(err.code), err.message);
        assert_int_equal(err.index, -1);
    }
    accepted(&draft, DATA("\"ttl\":9007199254740991"));
    accepted(&draft, DATA("\"ttl\":0"));
    assert_int_equal(draft.ttl, 0);
#undef DATA
}

/* max_payload counts the payload's bytes: those of the text unescaped, those of base64 decoded. */
static void payload_bound_counts_decoded_bytes(void **state)
{
    char text[2048], base64[300];
    struct eb_draft draft;
    uint8_t bytes[103];

    memset(bytes, 0xff, sizeof(bytes));
    for (size_t len = 97; len <= 103; len++) {
        base64[eb_base64_encode(base64, bytes, len)] = '\0';
        snprintf(text, sizeof(text),
                 "{\"topic\":\"a\",\"payload_encoding\":\"base64\",\"payload\":\"%s\"}", base64);
        assert_int_equal(read_text(&draft, text, false), len <= 100 ? 0 : -1);
        if (len <= 100)
            payload_is(&draft, (const char *)bytes, len);
        else
            assert_int_equal(err.code, EB_PAYLOAD_TOO_LARGE);
    }
    for (int count = 99; count <= 101; count++) { /* six bytes of text for one */
        size_t at = (size_t)snprintf(text, sizeof(text), "{\"topic\":\"a\",\"payload\":\"");
        for (int i = 0; i < count; i++, at += 6)
            memcpy(text + at, "\\u0041", 6);
        memcpy(text + at, "\"}", 3);
        assert_int_equal(read_text(&draft, text, false), count <= 100 ? 0 : -1);
    }
    assert_int_equal(err.code, EB_PAYLOAD_TOO_LARGE);
}

/* Base64 with escaped slashes, as some writers write it, is the same base64. */
static void base64_may_come_escaped(void **state)
{
    struct eb_draft draft;

    accepted(&draft, "{\"topic\":\"a\",\"payload\":\"\\/\\/79\",\"payload_encoding\":\"base64\"}");
    payload_is(&draft, "\xff\xfe\xfd", 3);
    accepted(&draft, "{\"topic\":\"a\",\"payload\":\"\",\"payload_encoding\":\"base64\"}");
    payload_is(&draft, "", 0);
}

/* An id that is no UUID becomes its UUIDv5 and is kept in the header, against any header of that name. */
static void foreign_id_is_kept_in_its_header(void **state)
{
    struct eb_draft draft;
    uint8_t want[16];

    accepted(&draft,
             "{\"topic\":\"a\",\"payload\":\"\",\"message_id\":\"order \\\"17\\\"\",\"headers\":"
             "{\"Message-Id\":\"mine\",\"a\":\"\",\"b\":\"\",\"c\":\"\"}}");
    eb_uuid_v5(want, "order \"17\"", 10);
    assert_memory_equal(draft.id, want, 16);
    static const char headers[] =
        "{\"a\":\"\",\"b\":\"\",\"c\":\"\",\"message-id\":\"order \\\"17\\\"\"}";
    assert_int_equal(draft.headers_len, strlen(headers));
    assert_memory_equal(draft.headers, headers, strlen(headers));
}

/* Headers are judged by what is left when the last of each name counts. */
static void headers_are_judged_at_the_end(void **state)
{
    struct eb_buf text = EB_BUF_INIT;
    struct eb_draft draft;

    for (int again = 1; again >= 0; again--) {
        text.len = 0;
        eb_buf_str(&text, "{\"topic\":\"a\",\"payload\":\"\",\"headers\":{\"a\":\"");
        for (int i = 0; i < 2000; i++)
            eb_buf_str(&text, "0123456789");
        eb_buf_str(&text, again ? "\",\"b\":\"\",\"a\":\"\"}}" : "\",\"b\":\"\"}}");
        eb_buf_add(&text, "", 1);
        assert_int_equal(read_text(&draft, text.data, false), again ? 0 : -1);
    }
    assert_int_equal(err.code, EB_LIMIT_EXCEEDED);
    eb_buf_finish(&text);
}

/* A request full of repeated headers or members is read in linear time and bounded memory. */
static void repeated_members_are_no_attack(void **state)
{
    struct eb_buf text = EB_BUF_INIT;
    struct eb_draft draft;

    eb_buf_str(&text, "{\"topic\":\"a\",\"payload\":\"\",\"headers\":{\"b\":\"\",\"c\":\"\"");
    for (int i = 0; i < 200000; i++)
        eb_buf_str(&text, ",\"a\":\"0123456789\"");
    eb_buf_str(&text, "}");
    for (int i = 0; i < 200000; i++)
        eb_buf_str(&text, ",\"topic\":\"b\"");
    eb_buf_str(&text, "}");
    eb_buf_add(&text, "", 1);
    int64_t start = eb_mono_ms();
    accepted(&draft, text.data);
    assert_true(eb_mono_ms() - start < 5000); /* some 30 ms; quadratic would be minutes */
    assert_memory_equal(draft.topic, "b", 1);
    assert_true(memory.headers.raw.cap <= 8 * EB_HEADERS_MAX_BYTES);
    eb_buf_finish(&text);
}

/* ---- writing ---- */

static struct eb_event *event_of(const char *payload, size_t len, const char *headers, int64_t ttl)
{
    struct eb_draft draft = {.topic = "a.\xc3\xa9",
                             .topic_len = 4,
                             .payload = payload,
                             .payload_len = len,
                             .headers = headers,
                             .headers_len = headers ? strlen(headers) : 0,
                             .ttl = ttl,
                             .has_id = true};
    assert_true(eb_uuid_parse(draft.id, ID, 36));
    struct eb_event *event = eb_event_create(&draft);

    assert_non_null(event);
    event->seq = 17;
    event->timestamp = 1700000000123;
    return event;
}

static void written_is(struct eb_event *event, const struct eb_event_json_style *style,
                       const char *want)
{
    struct eb_buf out = EB_BUF_INIT;

    eb_event_write_json(&out, event, style);
    assert_false(eb_buf_failed(&out));
    eb_buf_add(&out, "", 1);
    assert_string_equal(out.data, want);
    assert_int_equal(eb_json_parse(&json, out.data, out.len - 1, &err), 0);
    eb_buf_finish(&out);
    eb_event_unref(event);
}

#define META "\"metadata\":{\"timestamp\":1700000000123,\"content_type\":\"text/plain\"}"
#define HEAD "\"seq\":17,\"message_id\":\"" ID "\",\"topic\":\"a.\xc3\xa9\","

/* The frame of PROTOCOL 2.2, member by member, in each style. */
static void frames_are_as_the_protocol_says(void **state)
{
    const struct eb_event_json_style http = {0}, ws = {.type = "event"},
                                     older = {.type = "event", .payload_array = true},
                                     replay = {.type = "event", .pattern = "a.*"};

    written_is(event_of("hi", 2, NULL, 0), &http, "{" HEAD "\"payload\":\"hi\"," META "}");
    written_is(event_of("hi", 2, NULL, 0), &ws,
               "{\"type\":\"event\"," HEAD "\"payload\":\"hi\"," META "}");
    written_is(event_of("hi", 2, NULL, 0), &older,
               "{\"type\":\"event\"," HEAD "\"payload\":\"hi\"," META "}");
    written_is(event_of("", 0, NULL, 60), &replay,
               "{\"type\":\"event\"," HEAD "\"pattern\":\"a.*\",\"payload\":\"\",\"ttl\":60," META
               "}");
    written_is(event_of("\xff\0", 2, NULL, 0), &ws,
               "{\"type\":\"event\"," HEAD
               "\"payload\":\"/wA=\",\"payload_encoding\":\"base64\"," META "}");
    written_is(event_of("\xff\0\x0a\x64", 4, NULL, 0), &older,
               "{\"type\":\"event\"," HEAD "\"payload\":[255,0,10,100]," META "}");
    written_is(event_of("\0\"", 2, "{\"k\":\"v\"}", 0), &http,
               "{" HEAD "\"payload\":\"\\u0000\\\"\",\"metadata\":{\"timestamp\":1700000000123,"
               "\"content_type\":\"text/plain\",\"headers\":{\"k\":\"v\"}}}");
}

/* Whatever was published comes out again: any bytes, through JSON both ways. */
static void payloads_survive_the_way_through(void **state)
{
    const struct eb_event_json_style style = {.type = "event"};
    const struct eb_event_limits wide = {.max_payload = 1 << 20, .max_headers = 64};
    struct eb_buf out = EB_BUF_INIT;
    uint64_t x = 88172645463325252u;

    for (int turn = 0; turn < 2000; turn++) {
        char payload[300];
        size_t len = (size_t)(turn % 300);
        for (size_t i = 0; i < len; i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            payload[i] = (char)(turn % 2 ? x >> 24 : x >> 24 & 0x7f);
        }
        struct eb_event *event = event_of(payload, len, NULL, 0);
        struct eb_draft draft;
        out.len = 0;
        eb_event_write_json(&out, event, &style);
        assert_int_equal(eb_json_parse(&json, out.data, out.len, &err), 0);
        assert_int_equal(eb_draft_from_json(&draft, &memory, &json, 0, true, &wide, &err), 0);
        payload_is(&draft, payload, len);
        assert_memory_equal(draft.id, event->id, 16);
        eb_event_unref(event);
    }
    eb_buf_finish(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"draft/topic_and_payload_are_enough", topic_and_payload_are_enough},
        {"draft/all_members_are_read", all_members_are_read},
        {"draft/faults_have_their_codes", faults_have_their_codes},
        {"draft/payload_bound_counts_decoded_bytes", payload_bound_counts_decoded_bytes},
        {"draft/base64_may_come_escaped", base64_may_come_escaped},
        {"draft/foreign_id_is_kept_in_its_header", foreign_id_is_kept_in_its_header},
        {"draft/headers_are_judged_at_the_end", headers_are_judged_at_the_end},
        {"draft/repeated_members_are_no_attack", repeated_members_are_no_attack},
        {"write/frames_are_as_the_protocol_says", frames_are_as_the_protocol_says},
        {"write/payloads_survive_the_way_through", payloads_survive_the_way_through},
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
