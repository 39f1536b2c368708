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

/* ---- the usual publish, without tokens ---- */

/* What the reader makes of @text as a publish; false when it is none. */
static bool read_publish(struct eb_draft *draft, const char *text, size_t len, const char **ret_id,
                         size_t *ret_id_len)
{
    if (eb_json_parse(&json, text, len, &err) < 0 || json.tokens[0].type != EB_JSON_OBJECT)
        return false;
    uint32_t type = eb_json_member(&json, 0, "type"), data = eb_json_member(&json, 0, "data");
    uint32_t id = eb_json_member(&json, 0, "id");
    int64_t ttl;
    if (!type || !eb_json_equals(&json, type, "publish", 7) || !data)
        return false;
    if (eb_ttl_from_json(&ttl, &json, eb_json_member(&json, 0, "ttl"), &err) < 0 ||
        eb_draft_from_json(draft, &memory, &json, data, true, &limits, &err) < 0)
        return false;
    draft->ttl = draft->ttl == EB_TTL_UNSET ? ttl : draft->ttl;
    bool string = id && json.tokens[id].type == EB_JSON_STRING;
    *ret_id = text + (id ? json.tokens[id].start - string : 0);
    *ret_id_len = id ? json.tokens[id].len + 2u * string : 0;
    return true;
}

static void same_text(const char *a, size_t a_len, const char *b, size_t b_len)
{
    assert_int_equal(a_len, b_len);
    if (a_len > 0)
        assert_memory_equal(a, b, a_len);
}

/* ES1: whatever the scan takes, the reader takes, and both mean the same. True: it took it. */
static bool scan_agrees(const char *text, size_t len)
{
    struct eb_publish_scan scan;
    struct eb_draft draft, *d = &scan.draft;
    struct eb_error ignored;
    const char *id;
    size_t id_len;
    char *copy = malloc(len); /* of the exact size: no byte behind it may be looked at */
    memcpy(copy, text, len);
    bool taken = eb_publish_scan(&scan, copy, len);
    if (taken && eb_draft_check(d, &limits, &ignored) == 0) {
        if (!read_publish(&draft, copy, len, &id, &id_len))
            fail_msg("taken, but refused by the reader: %.*s", (int)len, text);
        same_text(scan.id, scan.id_len, id, id_len);
        same_text(d->topic, d->topic_len, draft.topic, draft.topic_len);
        payload_is(d, draft.payload, draft.payload_len);
        same_text(d->content_type, d->content_type_len, draft.content_type, draft.content_type_len);
        assert_int_equal(d->ttl, draft.ttl);
        assert_int_equal(d->has_id, draft.has_id);
        assert_memory_equal(d->id, draft.id, sizeof(draft.id));
        assert_true(eb_utf8_valid(d->payload, d->payload_len));
        assert_null(draft.headers);
    } else if (taken && eb_json_parse(&json, copy, len, &err) < 0) {
        fail_msg("taken, but no JSON: %.*s", (int)len, text);
    }
    free(copy);
    return taken;
}

static const char *const usual[] = {
    "{\"type\":\"publish\",\"id\":1,\"data\":{\"topic\":\"a.b\",\"payload\":\"x\"}}",
    "{\"type\": \"publish\", \"id\": \"one\", \"data\": {\"topic\": \"a.b\", \"payload\": \"\"}}\n",
    "{\"data\":{\"message_id\":\"" ID
    "\",\"payload\":\"\xc3\xa9 \xf0\x9f\x98\x80\",\"topic\":\"a\"},"
    "\"ttl\":60,\"type\":\"publish\"}",
    "{\"type\":\"publish\",\"data\":{\"topic\":\"a\",\"payload\":\"x\",\"content_type\":\"text/"
    "html\"},"
    "\"id\":900719925474099}",
};
static const char *const odd[] = {
    "{\"type\":\"publish\",\"id\":1,\"data\":{\"topic\":\"a\",\"payload\":\"\\n\"}}",
    "{\"type\":\"publish\",\"id\":1,\"data\":{\"topic\":\"a\",\"payload\":\"x\",\"headers\":{}}}",
    "{\"type\":\"publish\",\"id\":1,\"data\":{\"topic\":\"a\",\"topic\":\"b\",\"payload\":\"x\"}}",
    "{\"type\":\"publish\",\"id\":01,\"data\":{\"topic\":\"a\",\"payload\":\"x\"}}",
    "{\"type\":\"publish\",\"id\":1.5,\"data\":{\"topic\":\"a\",\"payload\":\"x\"}}",
    "{\"type\":\"publish\",\"id\":9007199254740993,\"data\":{\"topic\":\"a\",\"payload\":\"x\"}}",
    "{\"type\":\"publish\",\"id\":null,\"data\":{\"topic\":\"a\",\"payload\":\"x\"}}",
    "{\"type\":\"publish\",\"ttl\":-1,\"data\":{\"topic\":\"a\",\"payload\":\"x\"}}",
    "{\"type\":\"publish\",\"data\":{\"topic\":\"a\",\"payload\":\"x\",\"message_id\":\"mine\"}}",
    "{\"type\":\"publish\",\"data\":{\"topic\":\"a\",\"payload\":\"\xc3\"}}",
    "{\"type\":\"publish\",\"data\":{\"topic\":\"a\",\"payload\":\"x\"}}}",
    "{\"type\":\"publish\",\"data\":{\"topic\":\"a\",\"payload\":\"x\",}}",
    "{\"type\":\"publish\",\"data\":{\"topic\":\"a\"}}",
    "{\"type\":\"publish\",\"other\":1,\"data\":{\"topic\":\"a\",\"payload\":\"x\"}}",
    "{\"type\":\"ack\",\"data\":{\"topic\":\"a\",\"payload\":\"x\"}}",
    "\xef\xbb\xbf{\"type\":\"publish\",\"data\":{\"topic\":\"a\",\"payload\":\"x\"}}",
};

static void the_usual_publish_is_scanned(void **state)
{
    char text[300];

    for (size_t i = 0; i < sizeof(usual) / sizeof(usual[0]); i++)
        if (!scan_agrees(usual[i], strlen(usual[i])))
            fail_msg("not taken: %s", usual[i]);
    for (size_t i = 0; i < sizeof(odd) / sizeof(odd[0]); i++)
        if (scan_agrees(odd[i], strlen(odd[i])))
            fail_msg("taken: %s", odd[i]);
    for (int len = EB_REQUEST_ID_MAX; len <= EB_REQUEST_ID_MAX + 1; len++) {
        snprintf(
            text, sizeof(text),
            "{\"type\":\"publish\",\"id\":\"%0*d\",\"data\":{\"topic\":\"a\",\"payload\":\"x\"}}",
            len, 0);
        assert_int_equal(scan_agrees(text, strlen(text)), len == EB_REQUEST_ID_MAX);
    }
}

/* The usual publishes with a few bytes changed, cut out or moved: scan and reader never disagree. */
static void the_scan_and_the_reader_agree(void **state)
{
    static const char bytes[] = "{}[]\",:\\ 0129-.eE+nutx\x01\x7f\x80\xc3\xa9\xed\xf0";
    unsigned taken = 0;
    char text[256];

    srand(7);
    for (int round = 0; round < 200000; round++) {
        const char *from = usual[rand() % 4];
        size_t len = strlen(from);
        memcpy(text, from, len);
        for (int changes = rand() % 3; changes >= 0; changes--) {
            size_t at = (size_t)rand() % len, n = (size_t)rand() % 4;
            if (rand() % 3 == 0) {
                n = n < len - at ? n : len - at - 1;
                memmove(text + at, text + at + n, len - at - n);
                len -= n;
            } else if (rand() % 2) {
                text[at] = text[(size_t)rand() % len];
            } else {
                text[at] = bytes[(size_t)rand() % (sizeof(bytes) - 1)];
            }
        }
        taken += scan_agrees(text, len);
    }
    assert_in_range(taken, 1000, 199000); /* both ways were gone */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"scan/the_usual_publish_is_scanned", the_usual_publish_is_scanned},
        {"scan/the_scan_and_the_reader_agree", the_scan_and_the_reader_agree},
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
