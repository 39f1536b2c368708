/*
 * fuzz_bin.c - any bytes as a binary message: nothing is read beyond it, what a publish is let through with may be
 * stored, and its delivery reads back as the same event.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common/event_bin.h"
#include "common/text.h"
#include "common/topic.h"

#define CHECK(cond)                                                                                \
    do {                                                                                           \
        if (!(cond))                                                                               \
            abort();                                                                               \
    } while (0)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct eb_draft_memory memory; /* kept from input to input, as a connection does */
static struct eb_buf out;
static const struct eb_event_limits limits = {.max_payload = 4096, .max_headers = 8};
static volatile unsigned char seen;

/* Touch every byte of what was read. */
static void touch(struct eb_bin_bytes bytes)
{
    for (size_t i = 0; i < bytes.len; i++)
        seen ^= (unsigned char)bytes.data[i];
}

static void touch_uuids(const uint8_t *uuids, size_t count)
{
    if (uuids)
        touch((struct eb_bin_bytes){(const char *)uuids, 16 * count});
}

static void touch_event(struct eb_bin_event event)
{
    struct eb_bin_bytes name, value;

    touch_uuids(event.uuid, 1);
    touch(event.topic);
    touch(event.id_text);
    touch(event.content_type);
    touch(event.pattern);
    touch(event.payload);
    while (eb_bin_next_header(&event.headers, &name, &value)) {
        touch(name);
        touch(value);
    }
}

/* What is stored is delivered as it was. */
static void check_delivery(const struct eb_draft *draft)
{
    struct eb_event *event = eb_event_create(draft);
    struct eb_bin_record record;
    struct eb_bin_event back;
    struct eb_error err;
    size_t at = 0;

    CHECK(event);
    out.len = 0;
    eb_event_write_bin(&out, event, NULL);
    CHECK(!eb_buf_failed(&out));
    CHECK(eb_bin_next((uint8_t *)out.data, out.len, &at, &record) == 1 && at == out.len);
    CHECK(eb_bin_read_event(&record, &back, &err) == 0);
    CHECK(back.topic.len == draft->topic_len &&
          memcmp(back.topic.data, draft->topic, back.topic.len) == 0);
    CHECK(back.payload.len == draft->payload_len &&
          memcmp(back.payload.data, draft->payload, back.payload.len) == 0);
    CHECK((draft->headers != NULL) == (back.headers.len > 0));
    touch_event(back);
    eb_event_unref(event);
}

static void check_publish(const struct eb_bin_event *event)
{
    struct eb_error err = {.code = EB_OK};
    struct eb_draft draft;

    if (eb_draft_from_bin(&draft, &memory, event, &limits, &err) < 0 ||
        eb_draft_check(&draft, &limits, &err) < 0) {
        CHECK(err.code != EB_OK && err.code != EB_INTERNAL && err.code != EB_UNAVAILABLE);
        CHECK(eb_utf8_valid(err.message, strlen(err.message)));
        return;
    }
    CHECK(eb_topic_check(draft.topic, draft.topic_len, &err) == 0 && draft.topic[0] != '$');
    CHECK(draft.payload_len <= limits.max_payload);
    CHECK(draft.ttl == EB_TTL_UNSET || (draft.ttl >= 0 && draft.ttl <= EB_TTL_MAX));
    check_delivery(&draft);
}

static void check_event(const struct eb_bin_record *record)
{
    struct eb_bin_event event;
    struct eb_error err;

    if (eb_bin_read_event(record, &event, &err) < 0)
        return;
    touch_event(event);
    if (record->kind != EB_BIN_EVENT)
        check_publish(&event);
}

static void check_batch(const struct eb_bin_record *record)
{
    struct eb_bin_publish_batch batch;
    struct eb_bin_record member;
    struct eb_error err;
    size_t at = 0;

    if (eb_bin_read_publish_batch(record, &batch, &err) < 0)
        return;
    for (uint32_t i = 0; i < batch.count; i++) {
        CHECK(eb_bin_next(batch.members, batch.members_len, &at, &member) == 1);
        check_event(&member);
    }
    CHECK(at == batch.members_len);
}

static void check_call(const struct eb_bin_record *record)
{
    struct eb_bin_call call;
    struct eb_error err;

    if (eb_bin_read_call(record, &call, &err) < 0)
        return;
    touch(call.pattern);
    touch(call.id_text);
    touch_uuids(call.epoch, 1);
    touch_uuids(call.uuid, 1);
}

static void check_json(const struct eb_bin_record *record)
{
    struct eb_bin_bytes text;
    struct eb_error err;
    uint64_t id;

    if (eb_bin_read_json(record, &id, &text, &err) == 0)
        touch(text);
}

static void check_answer(const struct eb_bin_record *record)
{
    struct eb_bin_answer answer;
    bool duplicate;

    if (eb_bin_read_answer(record, &answer) != 0)
        return;
    touch(answer.code);
    touch(answer.message);
    touch(answer.pattern);
    touch(answer.reason);
    touch(answer.json);
    touch_uuids(answer.epoch, 1);
    touch_uuids(answer.uuids, record->kind == EB_BIN_BATCH ? answer.count : 1);
    for (uint32_t i = 0; answer.seqs && i < answer.count; i++)
        seen ^= (unsigned char)eb_bin_listed_seq(answer.seqs, i, &duplicate);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct eb_bin_record record;
    size_t at = 0;

    while (eb_bin_next(data, size, &at, &record) > 0) {
        (void)eb_bin_request_id(&record);
        if (record.kind == EB_BIN_MEMBER || record.kind == EB_BIN_PUBLISH ||
            record.kind == EB_BIN_EVENT)
            check_event(&record);
        else if (record.kind == EB_BIN_PUBLISH_BATCH)
            check_batch(&record);
        else if (record.kind <= EB_BIN_PING)
            check_call(&record);
        else if (record.kind == EB_BIN_JSON_REQUEST)
            check_json(&record);
        else
            check_answer(&record);
    }
    return 0;
}
