/*
 * wire_bin.c - the binary protocol (docs/binary.md): requests as records, and a broker's records read.
 *
 * (WB1) A request is kept as its record, whatever is spoken: for a connection in JSON it is written anew when it is
 *       sent (eb_wire_json). So what waits for a broker waits for an older one, too.
 * (WB2) What the broker says is checked like anything from the net. Kinds that are not known are a newer broker's.
 */
#include <errno.h>
#include <string.h>

#include "client/internal.h"
#include "common/error.h"
#include "common/event.h"
#include "common/text.h"

#define ID_AT EB_BIN_HEADER /* every request begins with it */

/* ---- requests ---- */

static int check_headers(const char *const *headers, struct eb_error *err)
{
    for (size_t i = 0; headers && headers[i]; i += 2) {
        if (!headers[i + 1])
            return eb_fail(err, EB_INVALID_REQUEST, "headers: the last name has no value");
        if (!headers[i][0] || !eb_utf8_valid(headers[i], strlen(headers[i])) ||
            !eb_utf8_valid(headers[i + 1], strlen(headers[i + 1])))
            return eb_fail(err, EB_INVALID_REQUEST,
                           "headers: names and values must be UTF-8, a name not empty");
        if (strlen(headers[i]) > UINT16_MAX || strlen(headers[i + 1]) > UINT16_MAX ||
            i / 2 >= UINT16_MAX)
            return eb_fail(err, EB_INVALID_REQUEST, "headers: too large; at most 16 KiB for all");
    }
    return 0;
}

static int check_event(const eb_publication *event, struct eb_error *err)
{
    if (!event || !event->topic)
        return eb_fail(err, EB_INVALID_REQUEST, "an event needs a topic");
    if (!event->payload && event->payload_len > 0)
        return eb_fail(err, EB_INVALID_REQUEST, "payload is NULL, but payload_len is not 0");
    if (event->payload_len > INT32_MAX)
        return eb_fail(err, EB_INVALID_REQUEST, "payload is larger than 2 GiB");
    if (event->ttl_s < EB_TTL_BROKER || event->ttl_s > EB_TTL_MAX)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "ttl_s must be 0 (no expiry), seconds, or EB_TTL_BROKER");
    if (eb_topic_check(event->topic, strlen(event->topic), err) < 0)
        return -1;
    if (event->content_type && (!eb_utf8_valid(event->content_type, strlen(event->content_type)) ||
                                strlen(event->content_type) > EB_CONTENT_TYPE_MAX))
        return eb_fail(err, EB_INVALID_REQUEST, "content_type must be 1 to %d bytes of UTF-8",
                       EB_CONTENT_TYPE_MAX);
    if (event->deliver_at_ms < 0 || event->delay_ms < 0 ||
        (event->deliver_at_ms > 0 && event->delay_ms > 0))
        return eb_fail(err, EB_INVALID_REQUEST,
                       "deliver_at_ms and delay_ms must not be negative, and only one of them set");
    if (event->expects_last_seq && event->expected_last_seq >= EB_SEQ_MAX)
        return eb_fail(err, EB_INVALID_REQUEST, "expected_last_seq must be below 2^53");
    return check_headers(event->headers, err);
}

static void put_u16(struct eb_buf *out, size_t value)
{
    const char bytes[2] = {(char)value, (char)(value >> 8)};

    eb_buf_add(out, bytes, sizeof(bytes));
}

static void pack_headers(struct eb_buf *out, const char *const *headers)
{
    for (size_t i = 0; headers && headers[i]; i += 2) {
        put_u16(out, strlen(headers[i]));
        put_u16(out, strlen(headers[i + 1]));
        eb_buf_str(out, headers[i]);
        eb_buf_str(out, headers[i + 1]);
    }
}

/* The id as it is given, or one made here. @room keeps a UUID. */
static int read_id(struct eb_bin_event *ret, uint8_t room[16], const char *text,
                   struct eb_error *err)
{
    bool foreign;

    ret->uuid = room;
    if (!text) {
        eb_uuid_v7(room);
        return 0;
    }
    if (eb_message_id_parse(room, &foreign, text, strlen(text), err) < 0)
        return -1;
    if (foreign) { /* the broker keeps the text in a header */
        ret->uuid = NULL;
        ret->id_text = (struct eb_bin_bytes){text, strlen(text)};
    }
    return 0;
}

int eb_wire_write_event(struct eb_buf *out, const eb_publication *event, bool member,
                        struct eb_error *err)
{
    struct eb_buf headers = EB_BUF_INIT;
    struct eb_bin_event wire = {0};
    uint8_t id[16];

    if (check_event(event, err) < 0 || read_id(&wire, id, event->message_id, err) < 0)
        return EB_RESULT_INVALID;
    pack_headers(&headers, event->headers);
    wire.topic = (struct eb_bin_bytes){event->topic, strlen(event->topic)};
    wire.payload = (struct eb_bin_bytes){event->payload, event->payload_len};
    wire.headers = (struct eb_bin_bytes){headers.data, headers.len};
    if (event->content_type)
        wire.content_type = (struct eb_bin_bytes){event->content_type, strlen(event->content_type)};
    wire.has_ttl = event->ttl_s != EB_TTL_BROKER;
    wire.ttl = wire.has_ttl ? (uint64_t)event->ttl_s : 0;
    eb_bin_write_publish(out, member, &wire);
    bool failed = eb_buf_failed(out) || eb_buf_failed(&headers);
    eb_buf_finish(&headers);
    return failed ? EB_RESULT_MEMORY : EB_RESULT_OK;
}

void eb_wire_write_subscribe(struct eb_buf *out, uint64_t id, const char *pattern,
                             uint64_t starting_seq, const char *epoch, bool pending_only)
{
    struct eb_bin_call call = {.id = id, .pattern = {pattern, strlen(pattern)}};
    uint8_t uuid[16] = {0}; /* an epoch that is none is another log's in any case */

    if (starting_seq != EB_START_LIVE) {
        call.replay = true;
        call.seq = starting_seq;
        call.pending_only = pending_only;
        if (epoch[0]) {
            eb_uuid_parse(uuid, epoch, strlen(epoch));
            call.epoch = uuid;
        }
    }
    eb_bin_write_call(out, EB_BIN_SUBSCRIBE, &call);
}

void eb_wire_write_unsubscribe(struct eb_buf *out, const char *pattern)
{
    const struct eb_bin_call call = {.pattern = {pattern, strlen(pattern)}};

    eb_bin_write_call(out, EB_BIN_UNSUBSCRIBE, &call);
}

void eb_wire_write_ack(struct eb_buf *out, uint64_t seq)
{
    const struct eb_bin_call call = {.seq = seq};

    eb_bin_write_call(out, EB_BIN_ACK, &call);
}

void eb_wire_set_id(struct eb_buf *record, uint64_t id)
{
    for (int i = 0; i < 8; i++)
        record->data[ID_AT + i] = (char)(id >> 8 * i);
}

/* ---- what became of a request ---- */

static bool message_id_of(const struct eb_bin_record *record, char out[37])
{
    struct eb_bin_event event;
    struct eb_error err;
    uint8_t id[16];
    bool foreign;

    if (eb_bin_read_event(record, &event, &err) < 0)
        return false;
    if (event.uuid)
        memcpy(id, event.uuid, sizeof(id));
    else if (eb_message_id_parse(id, &foreign, event.id_text.data, event.id_text.len, &err) < 0)
        return false;
    eb_uuid_format(out, id);
    return true;
}

static bool batch_receipts(const struct eb_request *request, const struct eb_bin_answer *answer)
{
    struct eb_bin_record record, member;
    struct eb_bin_publish_batch batch;
    struct eb_error err;
    size_t at = 0, member_at = 0;

    if (answer->count != request->count ||
        eb_bin_next((uint8_t *)request->text.data, request->text.len, &at, &record) <= 0 ||
        eb_bin_read_publish_batch(&record, &batch, &err) < 0)
        return false;
    for (uint32_t i = 0; i < answer->count; i++) {
        eb_receipt *receipt = &request->receipts[i];
        receipt->seq = answer->seq + i;
        receipt->duplicate = false;
        if (answer->seqs)
            receipt->seq = eb_bin_listed_seq(answer->seqs, i, &receipt->duplicate);
        if (receipt->seq == 0 || receipt->seq >= EB_SEQ_MAX ||
            eb_bin_next(batch.members, batch.members_len, &member_at, &member) <= 0 ||
            !message_id_of(&member, receipt->message_id))
            return false;
    }
    return true;
}

bool eb_wire_receipts(const struct eb_request *request, const struct eb_wire *wire)
{
    struct eb_bin_record record;
    size_t at = 0;

    if (request->kind == EB_REQUEST_BATCH)
        return wire->batch && batch_receipts(request, &wire->bin);
    if (!wire->has_seq ||
        eb_bin_next((uint8_t *)request->text.data, request->text.len, &at, &record) <= 0)
        return false;
    request->receipts[0].seq = wire->seq;
    request->receipts[0].duplicate = wire->duplicate;
    return message_id_of(&record, request->receipts[0].message_id);
}

/* ---- what the broker says ---- */

static int bad(const char **why, const char *what)
{
    *why = what;
    return -EPROTO;
}

/* A text of at most @size - 1 bytes without NUL, copied. */
static bool copy_text(char *out, size_t size, struct eb_bin_bytes text)
{
    if (text.len == 0 || text.len >= size || memchr(text.data, '\0', text.len))
        return false;
    memcpy(out, text.data, text.len);
    out[text.len] = '\0';
    return true;
}

static bool headers_as_json(struct eb_buf *out, struct eb_bin_bytes headers)
{
    struct eb_bin_bytes name, value;
    const char *before = "{";

    while (eb_bin_next_header(&headers, &name, &value)) {
        if (!eb_utf8_valid(name.data, name.len) || !eb_utf8_valid(value.data, value.len))
            return false;
        eb_buf_str(out, before);
        eb_json_write_string(out, name.data, name.len);
        eb_buf_str(out, ":");
        eb_json_write_string(out, value.data, value.len);
        before = ",";
    }
    eb_buf_str(out, "}");
    return true;
}

static int read_event(struct eb_wire *ret, const struct eb_bin_record *record, const char **why)
{
    static const char not_understood[] = "the broker sent an event that cannot be understood";
    struct eb_wire_parts parts = {.content_type = EB_CONTENT_TYPE_DEFAULT,
                                  .content_type_len = sizeof(EB_CONTENT_TYPE_DEFAULT) - 1};
    struct eb_buf headers = EB_BUF_INIT;
    struct eb_bin_event event;
    struct eb_error err;
    int rc;

    if (eb_bin_read_event(record, &event, &err) < 0 || event.seq == 0 || event.seq >= EB_SEQ_MAX ||
        event.timestamp > INT64_MAX || event.ttl > (uint64_t)EB_TTL_MAX ||
        eb_topic_check(event.topic.data, event.topic.len, &err) < 0)
        return bad(why, not_understood);
    if (event.pattern.data &&
        !copy_text(ret->pattern_text, sizeof(ret->pattern_text), event.pattern))
        return bad(why, "the broker sent an event with an unsound pattern");
    ret->pattern = event.pattern.data ? ret->pattern_text : NULL;
    parts.seq = event.seq;
    parts.timestamp = (int64_t)event.timestamp;
    parts.ttl = (int64_t)event.ttl;
    eb_uuid_format(parts.message_id, event.uuid);
    parts.topic = event.topic.data;
    parts.topic_len = event.topic.len;
    parts.payload = event.payload.data;
    parts.payload_len = event.payload.len;
    if (event.content_type.data) {
        parts.content_type = event.content_type.data;
        parts.content_type_len = event.content_type.len;
    }
    if (event.headers.len > 0) {
        if (!headers_as_json(&headers, event.headers)) {
            eb_buf_finish(&headers);
            return bad(why, not_understood);
        }
        parts.headers = headers.data;
        parts.headers_len = headers.len;
    }
    rc = eb_buf_failed(&headers) ? -ENOMEM : eb_wire_make_event(&ret->item, &parts);
    eb_buf_finish(&headers);
    return rc;
}

static void read_error(struct eb_wire *ret)
{
    const struct eb_bin_answer *bin = &ret->bin;
    struct eb_bin_bytes text = bin->message.len > 0 ? bin->message : bin->code;
    size_t len = text.len < sizeof(ret->message_text) ? text.len : sizeof(ret->message_text) - 1;

    ret->result = eb_result_from_code(bin->code.data, bin->code.len);
    if (ret->result == EB_RESULT_INTERNAL && bin->status >= 400 && bin->status < 600)
        ret->result = eb_result_from_status(bin->status);
    memcpy(ret->message_text, text.data, len);
    ret->message_text[len] = '\0';
    ret->text = ret->message_text;
}

static int read_notice(struct eb_wire *ret, const char **why)
{
    const struct eb_bin_answer *bin = &ret->bin;

    if (!copy_text(ret->pattern_text, sizeof(ret->pattern_text), bin->pattern))
        return bad(why, "the broker sent a gap or live notice without a sound pattern");
    ret->pattern = ret->pattern_text;
    ret->seq = bin->seq;
    ret->from_seq = bin->from_seq;
    ret->to_seq = bin->to_seq;
    if (bin->seq >= EB_SEQ_MAX || bin->from_seq >= EB_SEQ_MAX || bin->to_seq >= EB_SEQ_MAX)
        return bad(why, "the broker sent a gap or live notice with an unsound seq");
    if (!copy_text(ret->reason_text, sizeof(ret->reason_text), bin->reason))
        strcpy(ret->reason_text, "unknown");
    ret->reason = ret->reason_text;
    return 0;
}

static int read_answer(struct eb_wire *ret, unsigned kind, const char **why)
{
    const struct eb_bin_answer *bin = &ret->bin;

    ret->type = EB_WIRE_OK;
    ret->id = bin->id;
    ret->has_id = bin->id != 0;
    if (bin->epoch)
        eb_uuid_format(ret->epoch, bin->epoch);
    switch (kind) {
    case EB_BIN_ACKS:
        ret->type = EB_WIRE_ACKS;
        if (bin->seq == 0 || bin->seq >= EB_SEQ_MAX || bin->count > EB_SEQ_MAX - bin->seq)
            return bad(why, "the broker sent an answer with an unsound seq");
        break;
    case EB_BIN_PUBLISHED:
        ret->has_seq = bin->seq > 0 && bin->seq < EB_SEQ_MAX;
        ret->seq = bin->seq;
        ret->duplicate = bin->duplicate;
        break;
    case EB_BIN_BATCH:
        ret->batch = true;
        break;
    case EB_BIN_SUBSCRIBED:
        ret->has_last_seq = bin->seq < EB_SEQ_MAX;
        ret->last_seq = bin->seq;
        break;
    case EB_BIN_ERROR:
        ret->type = EB_WIRE_ERROR;
        read_error(ret);
        break;
    case EB_BIN_LIVE:
        ret->type = EB_WIRE_LIVE;
        return read_notice(ret, why);
    case EB_BIN_GAP:
        ret->type = EB_WIRE_GAP;
        return read_notice(ret, why);
    case EB_BIN_PONG:
        ret->type = EB_WIRE_OTHER;
        break;
    default:
        break;
    }
    return 0;
}

int eb_wire_decode_record(struct eb_wire *ret, struct eb_json *json,
                          const struct eb_bin_record *record, const char **why)
{
    int rc;

    if (record->kind == EB_BIN_JSON && record->len >= EB_BIN_ID)
        return eb_wire_decode(ret, json, (const char *)record->body + EB_BIN_ID,
                              record->len - EB_BIN_ID, why);

    *ret = (struct eb_wire){.type = EB_WIRE_OTHER};
    if (record->kind == EB_BIN_EVENT) {
        ret->type = EB_WIRE_EVENT;
        return read_event(ret, record, why);
    }
    rc = eb_bin_read_answer(record, &ret->bin);
    if (rc < 0)
        return bad(why, "the broker sent a record that is too short for what it says");
    return rc > 0 ? 0 : read_answer(ret, record->kind, why);
}
