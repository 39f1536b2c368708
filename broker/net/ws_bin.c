/*
 * ws_bin.c - the binary protocol on a WebSocket: records to the bus, answers back (docs/binary.md).
 *
 * (BP1) A request with an id is answered exactly once: by its `done` when it reached the bus, here when it did not.
 * (BP2) Answers that `done` gives are collected for a segment and leave as one message (eb_ws_bin_answers). Publishes
 *       whose ids and seqs follow each other become one range; an answer of another kind ends it. A failed memory
 *       allocation ends the connection.
 * (BP3) A bad record is answered and harms nothing beside it; what cannot be told apart any more is dropped up to
 *       the end of its message. Nothing here closes the connection.
 * (BP4) Before each record there is room for its answer, also in the middle of a message.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/net/ws_internal.h"
#include "common/event_bin.h"
#include "common/uuid.h"

#define KEEP_ANSWERS 4096
#define FLUSH_BYTES  (16 * 1024)

/* One message while its records are carried out. */
struct turn {
    struct eb_ws_conn *conn;
    struct eb_ws_parser *parser;
    struct eb_buf
        answers; /* given here and not by a `done`; behind EB_WS_HEADROOM once there is one */
};

/* ---- ids: kept in the room that a bus request has for them ---- */

struct id {
    uint64_t number;
    bool uuid; /* its answer says the message ids: one was given as text */
};
_Static_assert(sizeof(struct id) <= EB_WS_ID_INLINE, "an id fits");

static void keep_id(char *room, uint64_t number, bool uuid)
{
    const struct id id = {number, uuid};
    memcpy(room, &id, sizeof(id));
}

static struct id kept_id(const char *room)
{
    struct id id;
    memcpy(&id, room, sizeof(id));
    return id;
}

/* ---- answers given by the connection's thread ---- */

static void flush(struct turn *turn)
{
    struct eb_buf *buf = &turn->answers;
    size_t len;

    if (eb_buf_failed(buf)) {
        eb_ws_answer_lost(turn->conn);
    } else if (buf->len > EB_WS_HEADROOM) {
        char *frame = eb_ws_seal(buf, EB_WS_BINARY, &len);
        eb_session_reply_bytes(turn->conn->session, frame, len);
    }
    eb_buf_finish(buf);
}

static struct eb_buf *open_answers(struct eb_buf *buf)
{
    if (buf->len == 0)
        eb_ws_headroom(buf);
    return buf;
}

static void refuse(struct turn *turn, uint64_t id, const struct eb_error *err)
{
    eb_ws_count(&turn->conn->side->count.bad_requests);
    eb_bin_write_error(open_answers(&turn->answers), id, err);
    if (turn->answers.len >= FLUSH_BYTES)
        flush(turn);
}

/* ---- answers given by `done`, under the commit lock ---- */

/* The range joins the other records: an answer of another kind comes, or one that does not continue it. */
static void end_range(struct eb_ws_conn *conn)
{
    if (conn->answers.count > 0)
        eb_bin_write_acks(open_answers(&conn->answers.records), conn->answers.id, conn->answers.seq,
                          conn->answers.count);
    conn->answers.count = 0;
}

/* Where the next answer is written. */
static struct eb_buf *next_answer(struct eb_ws_conn *conn)
{
    eb_session_answer_later(conn->session);
    end_range(conn);
    return open_answers(&conn->answers.records);
}

static void answer_stored(struct eb_ws_conn *conn, uint64_t id, uint64_t seq)
{
    if (conn->answers.count > 0 && conn->answers.count < UINT32_MAX &&
        id == conn->answers.id + conn->answers.count &&
        seq == conn->answers.seq + conn->answers.count) {
        conn->answers.count++;
        return;
    }
    eb_session_answer_later(conn->session);
    end_range(conn);
    conn->answers.id = id;
    conn->answers.seq = seq;
    conn->answers.count = 1;
}

static void answer_refused(struct eb_ws_conn *conn, uint64_t id, const struct eb_error *err)
{
    eb_ws_count(&conn->side->count.bad_requests);
    eb_bin_write_error(next_answer(conn), id, err);
}

void eb_ws_bin_answers(struct eb_session *session)
{
    struct eb_ws_conn *conn = eb_session_user(session);
    struct eb_buf *buf = &conn->answers.records;
    size_t len;

    end_range(conn);
    if (eb_buf_failed(buf)) {
        eb_ws_answer_lost(conn);
    } else if (buf->len > EB_WS_HEADROOM) {
        char *frame = eb_ws_seal(buf, EB_WS_BINARY, &len);
        eb_session_answer(session, frame, len);
    }
    buf->len = 0;
    if (buf->failed || buf->cap > KEEP_ANSWERS)
        eb_buf_finish(buf);
}

/* ---- publish ---- */

static void publish_done(struct eb_publish *publish)
{
    struct eb_ws_conn *conn = publish->user;
    const struct eb_op_result *result = publish->op.results;
    struct id id = kept_id(publish->id_text);

    if (publish->op.err.code != EB_OK)
        answer_refused(conn, id.number, &publish->op.err);
    else if (id.number != 0 && !result->duplicate && !id.uuid)
        answer_stored(conn, id.number, result->seq);
    else if (id.number != 0)
        eb_bin_write_published(next_answer(conn), id.number, result->seq, publish->op.events[0]->id,
                               result->duplicate);
    eb_publish_destroy(publish);
}

static void write_batch(struct eb_buf *out, const struct eb_publish *publish, struct id id)
{
    const struct eb_op_result *results = publish->op.results;
    uint32_t count = publish->op.count;
    bool list = false;

    for (uint32_t i = 0; i < count && !list; i++)
        list = results[i].duplicate;
    size_t begin =
        eb_bin_begin(out, EB_BIN_BATCH,
                     (list ? EB_BIN_BATCH_LIST : 0u) | (id.uuid ? EB_BIN_BATCH_UUIDS : 0u), 0);
    eb_bin_u64(out, id.number);
    eb_bin_u32(out, count);
    if (!list)
        eb_bin_u64(out, count > 0 ? results[0].seq : 0);
    for (uint32_t i = 0; list && i < count; i++)
        eb_bin_u64(out, results[i].seq | (results[i].duplicate ? EB_BIN_DUPLICATE : 0));
    for (uint32_t i = 0; id.uuid && i < count; i++)
        eb_buf_add(out, publish->op.events[i]->id, 16);
    eb_bin_end(out, begin);
}

static void batch_done(struct eb_publish *publish)
{
    struct eb_ws_conn *conn = publish->user;
    struct id id = kept_id(publish->id_text);

    if (publish->op.err.code != EB_OK)
        answer_refused(conn, id.number, &publish->op.err);
    else if (id.number != 0)
        write_batch(next_answer(conn), publish, id);
    eb_publish_destroy(publish);
}

/* One event into @publish, with @ttl where it has none of its own. */
static int add_event(struct turn *turn, struct eb_publish *publish,
                     const struct eb_bin_event *event, int64_t ttl, struct eb_error *err)
{
    struct eb_bus *bus = turn->conn->side->bus;
    struct eb_draft draft;

    if (eb_draft_from_bin(&draft, &turn->parser->memory, event, &eb_bus_config(bus)->limits, err) <
        0)
        return -1;
    if (draft.ttl == EB_TTL_UNSET)
        draft.ttl = ttl;
    return eb_publish_add(bus, publish, &draft, err);
}

static int do_publish(struct turn *turn, const struct eb_bin_record *record, struct eb_error *err)
{
    struct eb_bin_event event;

    if (eb_bin_read_event(record, &event, err) < 0)
        return -1;
    struct eb_publish *publish = eb_ws_publish_create(turn->conn, 1, publish_done, err);
    if (!publish)
        return -1;
    if (add_event(turn, publish, &event, EB_TTL_UNSET, err) < 0) {
        err->index = -1;
        eb_publish_destroy(publish);
        return -1;
    }
    keep_id(publish->id_text, event.id, event.id_text.data);
    eb_bus_publish(turn->conn->side->bus, publish);
    return 0;
}

/* All members, whose number and kinds were checked. -1 with @err and the index of the refused one. */
static int add_members(struct turn *turn, struct eb_publish *publish,
                       const struct eb_bin_publish_batch *batch, struct eb_error *err)
{
    struct id id = {batch->id, false};
    struct eb_bin_record member;
    struct eb_bin_event event;
    int64_t ttl;
    size_t at = 0;

    if (eb_ttl_from_bin(&ttl, batch->has_ttl, batch->ttl, err) < 0)
        return -1;
    for (int i = 0; eb_bin_next(batch->members, batch->members_len, &at, &member) > 0; i++) {
        if (eb_bin_read_event(&member, &event, err) < 0 ||
            add_event(turn, publish, &event, ttl, err) < 0) {
            err->index = i;
            return -1;
        }
        id.uuid = id.uuid || event.id_text.data;
    }
    keep_id(publish->id_text, id.number, id.uuid);
    return 0;
}

static int do_publish_batch(struct turn *turn, const struct eb_bin_record *record,
                            struct eb_error *err)
{
    size_t max = eb_bus_config(turn->conn->side->bus)->max_batch;
    struct eb_bin_publish_batch batch;

    if (eb_bin_read_publish_batch(record, &batch, err) < 0)
        return -1;
    if (batch.count > max)
        return eb_fail(err, EB_LIMIT_EXCEEDED, "a batch of %u events; at most %zu are allowed",
                       batch.count, max);
    struct eb_publish *publish = eb_ws_publish_create(turn->conn, batch.count, batch_done, err);
    if (!publish)
        return -1;
    publish->batch = true;
    if (add_members(turn, publish, &batch, err) < 0) {
        eb_publish_destroy(publish);
        return -1;
    }
    eb_bus_publish(turn->conn->side->bus, publish);
    return 0;
}

/* ---- subscribe, unsubscribe, ack, ping ---- */

static void subscribe_done(struct eb_subscribe *call)
{
    struct eb_ws_conn *conn = call->user;
    uint64_t id = kept_id(call->id_text).number;
    uint8_t epoch[16];

    if (call->err.code != EB_OK) {
        answer_refused(conn, id, &call->err);
    } else if (id != 0) {
        eb_uuid_parse(epoch, eb_store_epoch(eb_bus_store(conn->side->bus)), EB_UUID_TEXT);
        eb_bin_write_subscribed(next_answer(conn), id, call->last_seq, epoch);
    }
    free((struct eb_ws_subscribe *)call); /* its first member */
}

static void request_done(struct eb_request *request)
{
    struct eb_ws_conn *conn = request->user;
    uint64_t id = kept_id(request->id_text).number;

    if (request->err.code != EB_OK)
        answer_refused(conn, id, &request->err);
    else if (id != 0)
        eb_bin_write_plain(next_answer(conn), EB_BIN_OK, id);
    free(request);
}

static int check_seq(uint64_t seq, uint64_t min, struct eb_error *err)
{
    if (seq < min || seq > EB_SEQ_MAX)
        return eb_fail(err, EB_INVALID_REQUEST, "seq %llu is not from %llu to 2^53",
                       (unsigned long long)seq, (unsigned long long)min);
    return 0;
}

static int do_subscribe(struct turn *turn, const struct eb_bin_record *record, struct eb_error *err)
{
    struct eb_bin_call asked;
    struct eb_pattern pattern;

    if (eb_bin_read_call(record, &asked, err) < 0 ||
        eb_pattern_parse(&pattern, asked.pattern.data, asked.pattern.len, err) < 0 ||
        check_seq(asked.seq, 0, err) < 0)
        return -1;
    struct eb_ws_subscribe *subscribe = eb_ws_subscribe_create(turn->conn, subscribe_done);
    if (!subscribe)
        return eb_fail(err, EB_INTERNAL, "out of memory");
    struct eb_subscribe *call = &subscribe->call;
    subscribe->pattern = pattern;
    call->replay = asked.replay;
    call->starting_seq = asked.seq;
    call->pending_only = asked.pending_only;
    if (asked.epoch) {
        call->has_epoch = true;
        eb_uuid_format(call->epoch, asked.epoch);
    }
    keep_id(call->id_text, asked.id, false);
    eb_bus_subscribe(turn->conn->side->bus, turn->conn->session, call);
    return 0;
}

static int read_request(struct eb_request *ret, const struct eb_bin_record *record,
                        const struct eb_bin_call *asked, struct eb_error *err)
{
    bool foreign;

    if (record->kind == EB_BIN_UNSUBSCRIBE)
        return eb_pattern_parse(&ret->pattern, asked->pattern.data, asked->pattern.len, err);
    if (check_seq(asked->seq, 1, err) < 0)
        return -1;
    ret->op.seq = asked->seq;
    ret->op.has_id = asked->uuid || asked->id_text.data;
    if (asked->uuid)
        memcpy(ret->op.id, asked->uuid, sizeof(ret->op.id));
    else if (asked->id_text.data)
        return eb_message_id_parse(ret->op.id, &foreign, asked->id_text.data, asked->id_text.len,
                                   err);
    return 0;
}

/* Unsubscribe and ack. */
static int do_request(struct turn *turn, const struct eb_bin_record *record, struct eb_error *err)
{
    struct eb_ws_conn *conn = turn->conn;
    struct eb_bin_call asked;

    if (eb_bin_read_call(record, &asked, err) < 0)
        return -1;
    struct eb_request *request = eb_ws_request_create(conn, request_done);
    if (!request)
        return eb_fail(err, EB_INTERNAL, "out of memory");
    if (read_request(request, record, &asked, err) < 0) {
        free(request);
        return -1;
    }
    keep_id(request->id_text, asked.id, false);
    if (record->kind == EB_BIN_ACK)
        eb_bus_ack(conn->side->bus, conn->session, request);
    else
        eb_bus_unsubscribe(conn->side->bus, conn->session, request);
    return 0;
}

static int do_ping(struct turn *turn, const struct eb_bin_record *record, struct eb_error *err)
{
    struct eb_bin_call asked;

    if (eb_bin_read_call(record, &asked, err) < 0)
        return -1;
    eb_bin_write_plain(open_answers(&turn->answers), EB_BIN_PONG, asked.id);
    if (turn->answers.len >= FLUSH_BYTES)
        flush(turn);
    return 0;
}

/* What has no form of its own here: any request, as JSON would have it. */
static int do_json(struct turn *turn, const struct eb_bin_record *record, struct eb_error *err)
{
    struct eb_bin_bytes text;
    uint64_t id;

    if (eb_bin_read_json(record, &id, &text, err) < 0)
        return -1;
    eb_ws_json_record(turn->conn, turn->parser, text.data, text.len, id);
    return 0;
}

/* ---- the message ---- */

static int (*const requests[])(struct turn *turn, const struct eb_bin_record *record,
                               struct eb_error *err) = {
    [EB_BIN_PUBLISH] = do_publish,     [EB_BIN_PUBLISH_BATCH] = do_publish_batch,
    [EB_BIN_SUBSCRIBE] = do_subscribe, [EB_BIN_UNSUBSCRIBE] = do_request,
    [EB_BIN_ACK] = do_request,         [EB_BIN_PING] = do_ping,
    [EB_BIN_JSON_REQUEST] = do_json,
};
#define REQUESTS (sizeof(requests) / sizeof(requests[0]))

static void carry_out(struct turn *turn, const struct eb_bin_record *record)
{
    struct eb_error err;
    int rc;

    if (record->kind >= REQUESTS || !requests[record->kind])
        rc = eb_fail(&err, EB_INVALID_REQUEST,
                     "kind 0x%02x is no request that this broker knows; known are 0x01 to 0x07",
                     record->kind);
    else if ((rc = eb_ws_check_open(turn->conn, &err)) == 0)
        rc = requests[record->kind](turn, record, &err);
    if (rc < 0)
        refuse(turn, eb_bin_request_id(record), &err);
}

/* BP3 */
static void refuse_rest(struct turn *turn, size_t at, size_t len)
{
    struct eb_error err;

    eb_fail(&err, EB_INVALID_REQUEST,
            "no whole record at byte %zu of a message of %zu; the rest of it is dropped", at, len);
    refuse(turn, 0, &err);
}

void eb_ws_bin_message(struct eb_ws_conn *conn, struct eb_ws_parser *parser, const void *data,
                       size_t len, size_t *ret_used)
{
    struct turn turn = {.conn = conn, .parser = parser};
    struct eb_bin_record record;
    unsigned records = 0;
    size_t at = 0;
    int rc = 0;

    while (at < len && !atomic_load(&conn->closing)) {
        if (eb_ws_wait_room(conn, 0) == -ETIMEDOUT) /* BP4 */
            break;
        rc = eb_bin_next(data, len, &at, &record);
        if (rc < 0) {
            refuse_rest(&turn, at, len);
            break;
        }
        carry_out(&turn, &record);
        records++;
    }
    flush(&turn);
    atomic_fetch_add_explicit(&conn->side->count.records_in, records, memory_order_relaxed);
    *ret_used = rc < 0 || atomic_load(&conn->closing) ? len : at;
}
