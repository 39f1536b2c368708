/*
 * test_bin.c - the binary protocol's records against the vectors of docs/binary.md, and cut and bent ones.
 *
 * argv[1]: tests/data/binary/vectors.json.
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

#include "common/event_bin.h"
#include "common/text.h"
#include "common/uuid.h"

static const char *vectors_path;
static struct json_object *vectors;
static const struct eb_event_limits limits = {.max_payload = 1000, .max_headers = 8};

static int setup(void **state)
{
    vectors = json_object_from_file(vectors_path);
    return vectors ? 0 : -1;
}

static int teardown(void **state)
{
    json_object_put(vectors);
    return 0;
}

static struct json_object *member(struct json_object *obj, const char *name)
{
    struct json_object *value = NULL;
    json_object_object_get_ex(obj, name, &value);
    return value;
}

static const char *text(struct json_object *obj, const char *name)
{
    struct json_object *value = member(obj, name);
    return value ? json_object_get_string(value) : NULL;
}

static uint64_t number(struct json_object *obj, const char *name)
{
    struct json_object *value = member(obj, name);
    return value ? (uint64_t)json_object_get_int64(value) : 0;
}

/* The bytes that a hex text stands for, in memory of exactly their size: a sanitizer sees every step beyond. */
static uint8_t *unhex(const char *hex, size_t *ret_len)
{
    size_t len = strlen(hex) / 2;
    uint8_t *bytes = malloc(len ? len : 1);

    assert_non_null(bytes);
    for (size_t i = 0; i < len; i++) {
        unsigned byte;
        assert_int_equal(sscanf(hex + 2 * i, "%2x", &byte), 1);
        bytes[i] = (uint8_t)byte;
    }
    *ret_len = len;
    return bytes;
}

static const uint8_t *uuid_of(uint8_t room[16], const char *uuid)
{
    if (!uuid)
        return NULL;
    assert_true(eb_uuid_parse(room, uuid, strlen(uuid)));
    return room;
}

static void bytes_are(struct eb_bin_bytes got, const char *want)
{
    assert_int_equal(got.len, want ? strlen(want) : 0);
    assert_int_equal(got.data != NULL, want != NULL);
    if (want)
        assert_memory_equal(got.data, want, got.len);
}

static void uuid_is(const uint8_t *got, const char *want)
{
    uint8_t room[16];

    assert_int_equal(got != NULL, want != NULL);
    if (want)
        assert_memory_equal(got, uuid_of(room, want), 16);
}

static void headers_are(struct eb_bin_bytes headers, struct json_object *want)
{
    struct eb_bin_bytes name, value;
    size_t count = 0;

    while (eb_bin_next_header(&headers, &name, &value)) {
        char key[64] = "";
        memcpy(key, name.data, name.len);
        bytes_are(value, text(want, key));
        count++;
    }
    assert_int_equal(count, want ? json_object_object_length(want) : 0);
}

static void event_is(const struct eb_bin_event *got, struct json_object *want)
{
    size_t len;
    uint8_t *payload = unhex(text(want, "payload"), &len);

    assert_int_equal(got->id, number(want, "id"));
    assert_int_equal(got->seq, number(want, "seq"));
    assert_int_equal(got->timestamp, number(want, "timestamp"));
    uuid_is(got->uuid, text(want, "message_id"));
    bytes_are(got->id_text, text(want, "message_id_text"));
    assert_int_equal(got->has_ttl, member(want, "ttl") != NULL);
    assert_int_equal(got->ttl, number(want, "ttl"));
    bytes_are(got->topic, text(want, "topic"));
    bytes_are(got->content_type, text(want, "content_type"));
    bytes_are(got->pattern, text(want, "pattern"));
    headers_are(got->headers, member(want, "headers"));
    assert_int_equal(got->payload.len, len);
    assert_memory_equal(got->payload.data, payload, len);
    free(payload);
}

static void batch_is(const struct eb_bin_record *record, struct json_object *want,
                     struct eb_buf *again)
{
    struct eb_bin_publish_batch batch;
    struct eb_bin_record item;
    struct eb_error err;
    size_t at = 0;

    assert_int_equal(eb_bin_read_publish_batch(record, &batch, &err), 0);
    assert_int_equal(batch.id, number(want, "id"));
    assert_int_equal(batch.ttl, number(want, "ttl"));
    assert_int_equal(batch.count, json_object_array_length(member(want, "messages")));
    size_t begin =
        eb_bin_begin(again, EB_BIN_PUBLISH_BATCH, batch.has_ttl ? EB_BIN_PART_TTL : 0, 0);
    eb_bin_u64(again, batch.id);
    eb_bin_u32(again, batch.count);
    if (batch.has_ttl)
        eb_bin_u64(again, batch.ttl);
    for (uint32_t i = 0; i < batch.count; i++) {
        struct eb_bin_event event;
        assert_int_equal(eb_bin_next(batch.members, batch.members_len, &at, &item), 1);
        assert_int_equal(eb_bin_read_event(&item, &event, &err), 0);
        event_is(&event, json_object_array_get_idx(member(want, "messages"), i));
        eb_bin_write_publish(again, true, &event);
    }
    eb_bin_end(again, begin);
}

static void call_is(const struct eb_bin_record *record, struct json_object *want,
                    struct eb_buf *again)
{
    struct eb_bin_call call;
    struct eb_error err;

    assert_int_equal(eb_bin_read_call(record, &call, &err), 0);
    assert_int_equal(call.id, number(want, "id"));
    bytes_are(call.pattern, text(want, "pattern"));
    assert_int_equal(call.seq, number(want, call.replay ? "starting_seq" : "seq"));
    assert_int_equal(call.pending_only, member(want, "pending_only") != NULL);
    uuid_is(call.epoch, text(want, "epoch"));
    uuid_is(call.uuid, text(want, "message_id"));
    bytes_are(call.id_text, text(want, "message_id_text"));
    eb_bin_write_call(again, record->kind, &call);
}

static void json_request_is(const struct eb_bin_record *record, struct json_object *want,
                            struct eb_buf *again)
{
    struct eb_bin_bytes json;
    struct eb_error err;
    uint64_t id;

    assert_int_equal(eb_bin_read_json(record, &id, &json, &err), 0);
    assert_int_equal(id, number(want, "id"));
    bytes_are(json, text(want, "text"));
    eb_bin_write_json(again, EB_BIN_JSON_REQUEST, id, json.data, json.len);
}

/* What the broker writes for these values. */
static void write_answer(struct eb_buf *out, unsigned kind, struct json_object *want)
{
    uint64_t id = number(want, "id"), seq = number(want, "seq");
    uint8_t room[16];

    switch (kind) {
    case EB_BIN_ACKS:
        eb_bin_write_acks(out, id, seq, (uint32_t)number(want, "count"));
        break;
    case EB_BIN_PUBLISHED:
        eb_bin_write_published(out, id, seq, uuid_of(room, text(want, "message_id")),
                               number(want, "duplicate"));
        break;
    case EB_BIN_SUBSCRIBED:
        eb_bin_write_subscribed(out, id, number(want, "last_seq"),
                                uuid_of(room, text(want, "epoch")));
        break;
    case EB_BIN_ERROR: {
        struct eb_error err = {.index = (int)number(want, "index")};
        const char *code = text(want, "code");
        err.code = eb_code_from_name(code, strlen(code));
        assert_int_equal(eb_code_http(err.code), number(want, "status"));
        snprintf(err.message, sizeof(err.message), "%s", text(want, "message"));
        eb_bin_write_error(out, id, &err);
        break;
    }
    case EB_BIN_LIVE:
        eb_bin_write_live(out, text(want, "pattern"), seq);
        break;
    case EB_BIN_GAP: {
        const char *pattern =
            json_object_get_string(json_object_array_get_idx(member(want, "patterns"), 0));
        eb_bin_write_gap(out, number(want, "from_seq"), number(want, "to_seq"),
                         text(want, "reason"), &pattern, 1, uuid_of(room, text(want, "epoch")));
        break;
    }
    case EB_BIN_JSON:
        eb_bin_write_json(out, kind, id, text(want, "text"), strlen(text(want, "text")));
        break;
    default:
        eb_bin_write_plain(out, kind, id);
    }
}

/* The broker writes a batch's answer by hand of begin and end: here as it stands in the vector. */
static void write_batch_answer(struct eb_buf *out, struct json_object *want)
{
    struct json_object *list = member(want, "results"), *uuids = member(want, "message_ids");
    size_t begin = eb_bin_begin(out, EB_BIN_BATCH, (list ? 1u : 0u) | (uuids ? 2u : 0u), 0);
    uint8_t room[16];

    eb_bin_u64(out, number(want, "id"));
    eb_bin_u32(out, (uint32_t)number(want, "count"));
    if (!list)
        eb_bin_u64(out, number(want, "first_seq"));
    for (size_t i = 0; list && i < json_object_array_length(list); i++) {
        struct json_object *pair = json_object_array_get_idx(list, i);
        uint64_t seq = (uint64_t)json_object_get_int64(json_object_array_get_idx(pair, 0));
        bool duplicate = json_object_get_boolean(json_object_array_get_idx(pair, 1));
        eb_bin_u64(out, seq | (duplicate ? EB_BIN_DUPLICATE : 0));
    }
    for (size_t i = 0; uuids && i < json_object_array_length(uuids); i++)
        eb_buf_add(out, uuid_of(room, json_object_get_string(json_object_array_get_idx(uuids, i))),
                   16);
    eb_bin_end(out, begin);
}

static void answer_is(const struct eb_bin_record *record, struct json_object *want)
{
    struct json_object *list = member(want, "results"), *uuids = member(want, "message_ids");
    struct eb_bin_answer answer;

    assert_int_equal(eb_bin_read_answer(record, &answer), 0);
    assert_int_equal(answer.id, number(want, "id"));
    assert_int_equal(answer.seq,
                     number(want, "seq") + number(want, "last_seq") + number(want, "first_seq"));
    assert_int_equal(answer.count, member(want, "patterns") ? 1 : number(want, "count"));
    assert_int_equal(answer.duplicate, number(want, "duplicate"));
    for (uint32_t i = 0; list && i < answer.count; i++) {
        struct json_object *pair = json_object_array_get_idx(list, i);
        bool duplicate;
        assert_int_equal(eb_bin_listed_seq(answer.seqs, i, &duplicate),
                         json_object_get_int64(json_object_array_get_idx(pair, 0)));
        assert_int_equal(duplicate, json_object_get_boolean(json_object_array_get_idx(pair, 1)));
    }
    for (uint32_t i = 0; uuids && i < answer.count; i++)
        uuid_is(answer.uuids + 16 * i, json_object_get_string(json_object_array_get_idx(uuids, i)));
    uuid_is(answer.epoch, text(want, "epoch"));
    assert_int_equal(answer.status, number(want, "status"));
    if (record->kind == EB_BIN_ERROR)
        assert_int_equal(answer.index, member(want, "index") ? (int)number(want, "index") : -1);
    bytes_are(answer.code, text(want, "code"));
    bytes_are(answer.message, text(want, "message"));
    bytes_are(answer.reason, text(want, "reason"));
    bytes_are(answer.json, text(want, "text"));
    assert_int_equal(answer.from_seq, number(want, "from_seq"));
    assert_int_equal(answer.to_seq, number(want, "to_seq"));
}

/* An event of the broker's own, as the vector has it; the pattern stands beside it. */
static void write_event(struct eb_buf *out, const struct eb_bin_event *wire,
                        struct json_object *want)
{
    struct json_object *headers = member(want, "headers");
    struct eb_draft draft = {
        .topic = wire->topic.data,
        .topic_len = wire->topic.len,
        .payload = wire->payload.data,
        .payload_len = wire->payload.len,
        .content_type = wire->content_type.data,
        .content_type_len = wire->content_type.len,
        .ttl = (int64_t)wire->ttl,
        .has_id = true,
    };
    if (headers) {
        draft.headers = json_object_to_json_string_ext(headers, JSON_C_TO_STRING_PLAIN);
        draft.headers_len = strlen(draft.headers);
    }
    memcpy(draft.id, wire->uuid, 16);
    struct eb_event *event = eb_event_create(&draft);
    assert_non_null(event);
    event->seq = wire->seq;
    event->timestamp = (int64_t)wire->timestamp;
    eb_event_write_bin(out, event, text(want, "pattern"));
    eb_event_unref(event);
}

static void vector_holds(const struct eb_bin_record *record, struct json_object *want,
                         struct eb_buf *again)
{
    struct eb_bin_event event;
    struct eb_error err;

    switch (record->kind) {
    case EB_BIN_PUBLISH:
        assert_int_equal(eb_bin_read_event(record, &event, &err), 0);
        event_is(&event, want);
        eb_bin_write_publish(again, false, &event);
        break;
    case EB_BIN_PUBLISH_BATCH:
        batch_is(record, want, again);
        break;
    case EB_BIN_EVENT:
        assert_int_equal(eb_bin_read_event(record, &event, &err), 0);
        event_is(&event, want);
        write_event(again, &event, want);
        break;
    case EB_BIN_BATCH:
        answer_is(record, want);
        write_batch_answer(again, want);
        break;
    case EB_BIN_JSON_REQUEST:
        json_request_is(record, want, again);
        break;
    default:
        if (record->kind < 0x80) {
            call_is(record, want, again);
        } else {
            answer_is(record, want);
            write_answer(again, record->kind, want);
        }
    }
}

/* Every vector reads as what it stands for, and is written again byte for byte (options are never written). */
static void vectors_are_read_and_written(void **state)
{
    struct json_object *records = member(vectors, "records");
    size_t total = json_object_array_length(records);

    assert_true(total > 20);
    for (size_t i = 0; i < total; i++) {
        struct json_object *vector = json_object_array_get_idx(records, i);
        struct eb_buf again = EB_BUF_INIT;
        struct eb_bin_record record;
        size_t len, at = 0;
        uint8_t *bytes = unhex(text(vector, "hex"), &len);

        assert_int_equal(eb_bin_next(bytes, len, &at, &record), 1);
        assert_int_equal(at, len);
        vector_holds(&record, member(vector, "record"), &again);
        if (!(record.flags & EB_BIN_PART_OPTIONS)) {
            assert_int_equal(again.len, len);
            assert_memory_equal(again.data, bytes, len);
        }
        eb_buf_finish(&again);
        free(bytes);
    }
}

/* As a broker or a client does: 0 or above it was understood, -1 it was refused. */
static int read_any(const struct eb_bin_record *record)
{
    struct eb_bin_publish_batch batch;
    struct eb_bin_answer answer;
    struct eb_bin_event event;
    struct eb_bin_bytes json;
    struct eb_bin_call call;
    struct eb_error err = {.code = EB_OK};
    uint64_t id;
    int rc;

    if (record->kind == EB_BIN_MEMBER || record->kind == EB_BIN_PUBLISH ||
        record->kind == EB_BIN_EVENT)
        rc = eb_bin_read_event(record, &event, &err);
    else if (record->kind == EB_BIN_PUBLISH_BATCH)
        rc = eb_bin_read_publish_batch(record, &batch, &err);
    else if (record->kind <= EB_BIN_PING)
        rc = eb_bin_read_call(record, &call, &err);
    else if (record->kind == EB_BIN_JSON_REQUEST)
        rc = eb_bin_read_json(record, &id, &json, &err);
    else
        return eb_bin_read_answer(record, &answer);
    assert_int_equal(rc < 0, err.code != EB_OK);
    return rc;
}

/* A message that ends early is no record; a record whose body ends early is refused or shorter, never read beyond. */
static void what_is_cut_is_not_read_beyond(void **state)
{
    struct json_object *records = member(vectors, "records");

    for (size_t i = 0; i < json_object_array_length(records); i++) {
        size_t len;
        uint8_t *bytes = unhex(text(json_object_array_get_idx(records, i), "hex"), &len);
        for (size_t cut = 0; cut < len; cut++) {
            struct eb_bin_record record;
            size_t at = 0;
            uint8_t *part = malloc(cut ? cut : 1);
            assert_non_null(part);
            memcpy(part, bytes, cut);
            assert_int_equal(eb_bin_next(part, cut, &at, &record), cut ? -1 : 0);
            if (cut >= EB_BIN_HEADER) {
                size_t body = cut - EB_BIN_HEADER;
                for (int b = 0; b < 4; b++)
                    part[b] = (uint8_t)(body >> 8 * b);
                assert_int_equal(eb_bin_next(part, cut, &at, &record), 1);
                int rc = read_any(&record);
                if (body < 8) /* not even an id */
                    assert_int_equal(rc, -1);
            }
            free(part);
        }
        free(bytes);
    }
}

/* Each refused vector: the codec or the check behind it says the code that is to be answered. */
static void what_the_vectors_refuse_is_refused(void **state)
{
    struct json_object *refused = member(vectors, "refused");
    struct eb_draft_memory memory;

    eb_draft_memory_init(&memory);
    for (size_t i = 0; i < json_object_array_length(refused); i++) {
        struct json_object *vector = json_object_array_get_idx(refused, i);
        struct json_object *answers = member(vector, "answers");
        struct json_object *last =
            json_object_array_get_idx(answers, json_object_array_length(answers) - 1);
        struct eb_bin_record record = {0};
        struct eb_error err = {.code = EB_OK};
        size_t len, at = 0;
        uint8_t *bytes = unhex(text(vector, "hex"), &len);
        int rc = eb_bin_next(bytes, len, &at, &record);

        if (rc == 1 && at < len) /* the second is no record */
            rc = eb_bin_next(bytes, len, &at, &record);
        if (rc == 1 && record.kind == EB_BIN_PUBLISH) {
            struct eb_bin_event event;
            struct eb_draft draft;
            rc = eb_bin_read_event(&record, &event, &err);
            if (rc == 0)
                rc = eb_draft_from_bin(&draft, &memory, &event, &limits, &err);
            if (rc == 0)
                rc = eb_draft_check(&draft, &limits, &err);
            assert_int_equal(rc, -1);
            assert_string_equal(eb_code_name(err.code), text(last, "code"));
        } else if (rc == 1 && record.kind == EB_BIN_PUBLISH_BATCH) {
            assert_int_equal(read_any(&record), -1);
        }
        if (rc != -1 || record.body)
            assert_int_equal(rc == -1 && at < len ? 0 : eb_bin_request_id(&record),
                             number(last, "id"));
        free(bytes);
    }
    eb_draft_memory_finish(&memory);
}

/* A delivery with a flag, an option or bytes that nobody knows yet is read all the same: clients may be older. */
static void a_client_reads_what_newer_brokers_add(void **state)
{
    static const uint8_t live[] = {12, 0, 0, 0, 0x91, 0xc0, 1,   0, 9, 0,
                                   0,  0, 0, 0, 0,    0,    '#', 0, 0, 'z'};
    static const uint8_t unknown[] = {1, 0, 0, 0, 0xf0, 0xff, 0xff, 0xff, 7};
    struct eb_bin_answer answer;
    struct eb_bin_record record;
    size_t at = 0;

    assert_int_equal(eb_bin_next(live, sizeof(live), &at, &record), 1);
    assert_int_equal(eb_bin_read_answer(&record, &answer), 0);
    assert_int_equal(answer.seq, 9);
    bytes_are(answer.pattern, "#");
    at = 0;
    assert_int_equal(eb_bin_next(unknown, sizeof(unknown), &at, &record), 1);
    assert_int_equal(eb_bin_read_answer(&record, &answer), 1);
    assert_int_equal(eb_bin_next(unknown, sizeof(unknown), &at, &record), 0);
}

/* Headers go through the draft's canonical JSON and come out as they were, a text id beside them. */
static void headers_and_a_text_id_survive_the_broker(void **state)
{
    static const char value[] = "q\"\\\x01\xc3\xa9";
    struct eb_bin_event wire = {.id = 1, .topic = {"t", 1}, .payload = {"", 0}}, back;
    struct eb_buf pairs = EB_BUF_INIT, request = EB_BUF_INIT, delivery = EB_BUF_INIT;
    const uint8_t lengths[] = {1, 0, sizeof(value) - 1, 0};
    struct eb_draft_memory memory;
    struct eb_bin_record record;
    struct eb_bin_bytes name, got;
    struct eb_draft draft;
    struct eb_error err;
    size_t at = 0;

    eb_draft_memory_init(&memory);
    eb_buf_add(&pairs, lengths, sizeof(lengths));
    eb_buf_str(&pairs, "k");
    eb_buf_add(&pairs, value, sizeof(value) - 1);
    wire.headers = (struct eb_bin_bytes){pairs.data, pairs.len};
    wire.id_text = (struct eb_bin_bytes){"order-17", 8};
    eb_bin_write_publish(&request, false, &wire);
    assert_int_equal(eb_bin_next((uint8_t *)request.data, request.len, &at, &record), 1);
    assert_int_equal(eb_bin_read_event(&record, &back, &err), 0);
    assert_int_equal(eb_draft_from_bin(&draft, &memory, &back, &limits, &err), 0);
    struct eb_event *event = eb_event_create(&draft);
    assert_non_null(event);
    eb_event_write_bin(&delivery, event, NULL);
    at = 0;
    assert_int_equal(eb_bin_next((uint8_t *)delivery.data, delivery.len, &at, &record), 1);
    assert_int_equal(eb_bin_read_event(&record, &back, &err), 0);
    assert_true(eb_bin_next_header(&back.headers, &name, &got));
    bytes_are(name, "k");
    bytes_are(got, value);
    assert_true(eb_bin_next_header(&back.headers, &name, &got));
    bytes_are(name, "message-id");
    bytes_are(got, "order-17");
    assert_false(eb_bin_next_header(&back.headers, &name, &got));
    eb_event_unref(event);
    eb_buf_finish(&pairs);
    eb_buf_finish(&request);
    eb_buf_finish(&delivery);
    eb_draft_memory_finish(&memory);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(vectors_are_read_and_written),
        cmocka_unit_test(what_is_cut_is_not_read_beyond),
        cmocka_unit_test(what_the_vectors_refuse_is_refused),
        cmocka_unit_test(a_client_reads_what_newer_brokers_add),
        cmocka_unit_test(headers_and_a_text_id_survive_the_broker),
    };

    if (argc < 2)
        return 2;
    vectors_path = argv[1];
    return cmocka_run_group_tests(tests, setup, teardown);
}
