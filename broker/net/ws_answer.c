/*
 * ws_answer.c - what is said to a WebSocket in JSON: answers, errors, notices. As a text frame, or on a binary
 * connection as a record that carries the text (docs/binary.md).
 */
#include <stdlib.h>
#include <string.h>

#include "broker/net/ws_internal.h"
#include "common/bin.h"
#include "common/log.h"

struct eb_ws_id eb_ws_kept_id(const char *room, uint8_t room_len)
{
    struct eb_ws_id id = {.in_done = true};

    id.text = eb_ws_id_get(room, room_len, &id.len);
    return id;
}

/* The number that a binary request has in place of an id. */
static uint64_t number_of(struct eb_ws_id id)
{
    char digits[24] = "";

    if (id.len == 0 || id.len >= sizeof(digits))
        return 0;
    memcpy(digits, id.text, id.len);
    return strtoull(digits, NULL, 10);
}

void eb_ws_text_begin(struct eb_ws_conn *conn, struct eb_buf *buf, struct eb_ws_id id)
{
    eb_ws_headroom(buf);
    if (!conn->binary)
        return;
    eb_bin_begin(buf, EB_BIN_JSON, 0, 0);
    eb_bin_u64(buf, number_of(id));
}

void eb_ws_text_send(struct eb_ws_conn *conn, struct eb_buf *buf, bool in_done)
{
    size_t len;

    if (conn->binary)
        eb_bin_end(buf, EB_WS_HEADROOM);
    if (eb_buf_failed(buf)) {
        eb_ws_answer_lost(conn);
    } else {
        char *frame = eb_ws_seal(buf, conn->binary ? EB_WS_BINARY : EB_WS_TEXT, &len);
        if (in_done)
            eb_session_answer(conn->session, frame, len);
        else
            eb_session_reply_bytes(conn->session, frame, len);
    }
    eb_buf_finish(buf);
}

void eb_ws_answer_begin(struct eb_ws_conn *conn, struct eb_buf *buf, const char *type,
                        struct eb_ws_id id, bool id_always)
{
    eb_ws_text_begin(conn, buf, id);
    eb_buf_str(buf, "{\"type\":\"");
    eb_buf_str(buf, type);
    eb_buf_str(buf, "\"");
    if (id.len > 0) {
        eb_buf_str(buf, ",\"id\":");
        eb_buf_add(buf, id.text, id.len);
    } else if (id_always) {
        eb_buf_str(buf, ",\"id\":null");
    }
}

void eb_ws_answer_send(struct eb_ws_conn *conn, struct eb_buf *buf, struct eb_ws_id id)
{
    eb_buf_str(buf, "}");
    eb_ws_text_send(conn, buf, id.in_done);
}

void eb_ws_answer_error(struct eb_ws_conn *conn, struct eb_ws_id id, const struct eb_error *err)
{
    struct eb_buf buf = EB_BUF_INIT;

    eb_ws_count(&conn->side->count.bad_requests);
    if (atomic_load(&conn->legacy)) {
        eb_ws_count(&conn->side->count.legacy_unsent);
        eb_info(NULL, "older client %s (connection %llu) is not told: %s: %s", conn->peer,
                (unsigned long long)conn->number, eb_code_name(err->code), err->message);
        return;
    }
    eb_ws_answer_begin(conn, &buf, "error", id, true);
    eb_buf_printf(&buf, ",\"code\":\"%s\",\"message\":", eb_code_name(err->code));
    eb_json_write_string(&buf, err->message, strlen(err->message));
    if (err->index >= 0)
        eb_buf_printf(&buf, ",\"index\":%d", err->index);
    if (err->has_last_seq)
        eb_buf_printf(&buf, ",\"last_seq\":%llu", (unsigned long long)err->last_seq);
    eb_ws_answer_send(conn, &buf, id);
}

void eb_ws_answer_memory(struct eb_ws_conn *conn, struct eb_ws_id id)
{
    struct eb_error err;

    eb_fail(&err, EB_INTERNAL, "out of memory");
    eb_ws_answer_error(conn, id, &err);
}
