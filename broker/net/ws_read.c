/*
 * ws_read.c - the receiving side of a WebSocket: bytes to frames (wslay), frames to messages, control frames.
 *
 * (R1) wslay's frame layer reads headers and unmasks; what a sequence of frames may be is judged here. Its event
 *      layer is not used: it answers a wrong frame length with an empty close where 1002 is due, takes a close
 *      body of one byte, skips bytes of a close reason that comes in pieces, and keeps no bound in its
 *      no-buffering mode.
 * (R2) A message is assembled up to max_message; no more is kept of what announces itself larger.
 * (R3) Requests are carried out in order, one complete message at a time. Without room for its answer a message is
 *      held, and only control frames up to the next data frame are read meanwhile.
 * (R4) An idle connection holds neither wslay's context nor buffers: they are made when the first frame comes and
 *      freed when nothing came for a while.
 * (R5) Once the connection is closing, messages are dropped; bytes are read on so that the peer's close frame and
 *      end are seen.
 * (R6) What one read brought is one chunk: its requests go to the store in one push, before the next read.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <wslay/wslay.h>

#include "broker/net/ws_internal.h"
#include "common/text.h"

#define IDLE_FREE_MS  10000
#define KEEP_BYTES    (64 * 1024)
#define MAX_FRAGMENTS 131072
#define HOLD_TICK_MS  50
#define LAST_WORDS_MS 1000 /* for the answers that a closing peer still waits for */
#define CONTROL_MAX   125

/* [T] all of it */
struct eb_ws_reader {
    struct eb_ws_conn *conn;
    wslay_frame_context_ptr ctx;
    struct eb_ws_parser *parser;
    bool eof;                    /* the peer's end, or an error of the socket */
    uint64_t bytes_in, consumed; /* equal: no part of a frame waits inside wslay */

    bool in_frame;
    uint64_t left; /* of the frame's payload */
    int frame_opcode;
    bool frame_fin;
    uint8_t control[CONTROL_MAX];
    size_t control_len;

    int opcode; /* of the message in progress, 0: none */
    unsigned fragments;
    struct eb_buf message;
    size_t checked; /* of a text in fragments: bytes known to be UTF-8 */

    const char *text; /* the complete message: in `message`, or in wslay's own buffer */
    size_t text_len;
    bool ready, in_place;
};

enum step { STEP_AGAIN, STEP_CONTROL, STEP_DATA, STEP_MESSAGE, STEP_END };

void eb_ws_reader_destroy(struct eb_ws_reader *reader)
{
    if (!reader)
        return;
    if (reader->ctx)
        wslay_frame_context_free(reader->ctx);
    eb_ws_parser_destroy(reader->parser);
    eb_buf_finish(&reader->message);
    free(reader);
}

static ssize_t on_recv(uint8_t *buf, size_t len, int flags, void *user)
{
    struct eb_ws_reader *reader = user;
    struct eb_ws_conn *conn = reader->conn;
    ssize_t n;

    eb_session_submit(conn->session); /* R6 */
    if (conn->early_used < conn->early.len) {
        size_t more = conn->early.len - conn->early_used;
        n = (ssize_t)(more < len ? more : len);
        memcpy(buf, conn->early.data + conn->early_used, (size_t)n);
        conn->early_used += (size_t)n;
    } else {
        do
            n = recv(conn->fd, buf, len, MSG_DONTWAIT);
        while (n < 0 && errno == EINTR);
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return -1;
    }
    if (n <= 0) {
        reader->eof = true;
        return -1;
    }
    reader->bytes_in += (uint64_t)n;
    atomic_store_explicit(&conn->received_ms, eb_mono_ms(), memory_order_relaxed);
    atomic_fetch_add_explicit(&conn->side->count.bytes_in, (unsigned long long)n,
                              memory_order_relaxed);
    return n;
}

static ssize_t on_send(const uint8_t *data, size_t len, int flags, void *user)
{
    return -1; /* nothing is sent through wslay */
}

static struct eb_ws_reader *reader_create(struct eb_ws_conn *conn)
{
    const struct wslay_frame_callbacks callbacks = {on_send, on_recv, NULL};
    struct eb_ws_reader *reader = calloc(1, sizeof(*reader));

    if (!reader)
        return NULL;
    reader->conn = conn;
    reader->parser = eb_ws_parser_create();
    if (!reader->parser || wslay_frame_context_init(&reader->ctx, &callbacks, reader) != 0) {
        eb_ws_reader_destroy(reader);
        return NULL;
    }
    return reader;
}

/* ---- frames ---- */

static enum step fail(struct eb_ws_reader *reader, int code, const char *reason)
{
    eb_ws_count(&reader->conn->side->count.protocol_errors);
    eb_ws_conn_close(reader->conn, code, reason, true, EB_WS_LINGER_MS);
    return STEP_END;
}

static bool is_control(int opcode)
{
    return opcode & 8;
}

/* May a frame that begins like this come now? 0, or the close code and why not. */
static int check_frame(const struct eb_ws_reader *reader, const struct wslay_frame_iocb *frame,
                       const char **why)
{
    int op = frame->opcode;

    *why = NULL;
    if (frame->rsv != 0)
        *why = "reserved bit set";
    else if (!frame->mask)
        *why = "client frames must be masked";
    else if (op > EB_WS_BINARY && (op < EB_WS_CLOSE || op > EB_WS_PONG))
        *why = "reserved opcode";
    else if (op == 0 && reader->opcode == 0)
        *why = "continuation of nothing";
    else if ((op == EB_WS_TEXT || op == EB_WS_BINARY) && reader->opcode != 0)
        *why = "new message inside a fragmented one";
    if (*why)
        return EB_WS_CLOSE_PROTOCOL;
    if (is_control(op))
        return 0;
    size_t max = atomic_load_explicit(&reader->conn->side->max_message, memory_order_relaxed);
    if (frame->payload_length > max || reader->message.len > max - frame->payload_length) {
        *why = "message larger than max_message";
        return EB_WS_CLOSE_TOO_BIG;
    }
    if (reader->fragments >= MAX_FRAGMENTS) {
        *why = "message in too many fragments";
        return EB_WS_CLOSE_POLICY;
    }
    return 0;
}

static size_t header_size(const struct wslay_frame_iocb *frame)
{
    size_t extended = frame->payload_length < 126 ? 0 : frame->payload_length <= UINT16_MAX ? 2 : 8;

    return 2 + extended + 4;
}

static void begin_frame(struct eb_ws_reader *reader, const struct wslay_frame_iocb *frame)
{
    reader->in_frame = true;
    reader->left = frame->payload_length;
    reader->frame_opcode = frame->opcode;
    reader->frame_fin = frame->fin;
    reader->consumed += header_size(frame) + frame->payload_length;
    if (is_control(frame->opcode)) {
        reader->control_len = 0;
        return;
    }
    reader->fragments++;
    if (frame->opcode != 0)
        reader->opcode = frame->opcode;
}

/* Length of @text without a code point that is cut off at its end. */
static size_t whole_points(const char *text, size_t len)
{
    for (size_t back = 1; back <= 3 && back <= len; back++) {
        unsigned char byte = (unsigned char)text[len - back];
        if (byte >= 0xc0) {
            size_t need = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : 2;
            return need > back ? len - back : len;
        }
        if (byte < 0x80)
            return len;
    }
    return len;
}

/* A fragment of a text that goes on: bad UTF-8 is found now and not after megabytes. */
static bool fragment_valid(struct eb_ws_reader *reader)
{
    const struct eb_buf *message = &reader->message;

    if (reader->opcode != EB_WS_TEXT || message->len == reader->checked)
        return true;
    const char *from = message->data + reader->checked;
    size_t len = whole_points(from, message->len - reader->checked);
    reader->checked += len;
    return eb_utf8_valid(from, len);
}

static bool close_code_valid(int code)
{
    return (code >= 1000 && code <= 1003) || (code >= 1007 && code <= 1014) ||
           (code >= 3000 && code <= 4999);
}

/* The peer closes: its open requests are answered first, then it gets its close frame. */
static enum step on_close(struct eb_ws_reader *reader)
{
    struct eb_ws_conn *conn = reader->conn;
    size_t len = reader->control_len;
    int code = len >= 2 ? reader->control[0] << 8 | reader->control[1] : EB_WS_CLOSE_NO_STATUS;

    if (len == 1 || (len >= 2 && !close_code_valid(code)))
        return fail(reader, EB_WS_CLOSE_PROTOCOL, "invalid close frame");
    if (len > 2 && !eb_utf8_valid((const char *)reader->control + 2, len - 2))
        return fail(reader, EB_WS_CLOSE_NOT_UTF8, "close reason is not UTF-8");
    if (!atomic_load(&conn->closing))
        eb_session_wait_room(conn->session, 1, 1, eb_mono_ms() + LAST_WORDS_MS);
    eb_lock_take(&conn->lock);
    conn->close_received = true;
    bool shut = conn->close_sent;
    eb_lock_drop(&conn->lock);
    if (shut)
        shutdown(conn->fd, SHUT_WR);
    eb_ws_conn_close(conn, code, NULL, false, EB_WS_LINGER_MS);
    return STEP_END;
}

static enum step end_control(struct eb_ws_reader *reader)
{
    if (reader->frame_opcode == EB_WS_CLOSE)
        return on_close(reader);
    if (reader->frame_opcode == EB_WS_PING)
        eb_ws_conn_control(reader->conn, EB_WS_PONG, reader->control, reader->control_len);
    return STEP_CONTROL;
}

static enum step end_data(struct eb_ws_reader *reader, const struct wslay_frame_iocb *frame)
{
    if (!reader->frame_fin)
        return fragment_valid(reader) ? STEP_DATA
                                      : fail(reader, EB_WS_CLOSE_NOT_UTF8, "text is not UTF-8");
    reader->ready = true;
    if (reader->in_place) {
        reader->text = (const char *)frame->data;
        reader->text_len = frame->data_length;
    } else {
        reader->text = reader->message.data ? reader->message.data : "";
        reader->text_len = reader->message.len;
    }
    return STEP_MESSAGE;
}

/* Take in what wslay gave: a piece of a frame, often a whole one. */
static enum step on_piece(struct eb_ws_reader *reader, const struct wslay_frame_iocb *frame)
{
    if (!reader->in_frame) {
        const char *why;
        int code = check_frame(reader, frame, &why);
        if (code)
            return fail(reader, code, why);
        begin_frame(reader, frame);
        /* A message of one frame that is there at once needs no copy. */
        reader->in_place = !is_control(frame->opcode) && frame->opcode != 0 && frame->fin &&
                           frame->data_length == frame->payload_length;
    }
    if (is_control(reader->frame_opcode)) {
        memcpy(reader->control + reader->control_len, frame->data, frame->data_length);
        reader->control_len += frame->data_length;
    } else if (!reader->in_place) {
        eb_buf_add(&reader->message, frame->data, frame->data_length);
        if (eb_buf_failed(&reader->message))
            return fail(reader, EB_WS_CLOSE_INTERNAL, "out of memory");
    }
    reader->left -= frame->data_length;
    if (reader->left > 0)
        return is_control(reader->frame_opcode) ? STEP_CONTROL : STEP_DATA;
    reader->in_frame = false;
    return is_control(reader->frame_opcode) ? end_control(reader) : end_data(reader, frame);
}

static enum step step(struct eb_ws_reader *reader)
{
    struct wslay_frame_iocb frame = {0};
    ssize_t n = wslay_frame_recv(reader->ctx, &frame);

    if (n >= 0)
        return on_piece(reader, &frame);
    if (n != WSLAY_ERR_WANT_READ)
        return fail(reader, EB_WS_CLOSE_PROTOCOL, "invalid frame header");
    return reader->eof ? STEP_END : STEP_AGAIN;
}

/* ---- messages ---- */

static void message_done(struct eb_ws_reader *reader)
{
    reader->ready = false;
    reader->opcode = 0;
    reader->fragments = 0;
    reader->checked = 0;
    reader->message.len = 0;
    if (reader->message.cap > KEEP_BYTES)
        eb_buf_finish(&reader->message);
}

/* Until the next data frame begins, control frames are read while a message is held (R3). */
static bool read_controls(struct eb_ws_reader *reader, bool *data_seen)
{
    enum step s = STEP_CONTROL;

    while (!*data_seen && s == STEP_CONTROL) {
        s = step(reader);
        *data_seen = s == STEP_DATA || s == STEP_MESSAGE;
    }
    return s != STEP_END;
}

static int wait_room(struct eb_ws_conn *conn, int64_t deadline_ms)
{
    return eb_session_wait_room(conn->session, atomic_load(&conn->side->max_open_requests),
                                atomic_load(&conn->side->max_unsent_answers), deadline_ms);
}

/* Carry out one message, taken off the reader's state. 0, or a close code. */
static int carry_out(struct eb_ws_reader *reader, const char *text, size_t len, int opcode)
{
    if (atomic_load(&reader->conn->closing))
        return 0; /* R5 */
    eb_ws_count(&reader->conn->side->count.messages_in);
    return eb_ws_json_message(reader->conn, reader->parser, text, len, opcode == EB_WS_BINARY);
}

/* There is no room for more answers: hold the message until there is. False: the connection ends. */
static bool hold(struct eb_ws_reader *reader)
{
    struct eb_ws_conn *conn = reader->conn;
    struct eb_buf held = EB_BUF_INIT;
    int opcode = reader->opcode, rc;
    bool data_seen = false, alive = true;

    eb_buf_add(&held, reader->text, reader->text_len);
    message_done(reader);
    if (eb_buf_failed(&held)) {
        fail(reader, EB_WS_CLOSE_INTERNAL, "out of memory");
        return false;
    }
    atomic_store(&conn->waiting, true);
    do {
        alive = data_seen || read_controls(reader, &data_seen);
        rc = alive ? wait_room(conn, eb_mono_ms() + HOLD_TICK_MS) : -ECANCELED;
    } while (rc == -ETIMEDOUT);
    atomic_store(&conn->received_ms, eb_mono_ms()); /* what came meanwhile was not looked at */
    atomic_store(&conn->waiting, false);
    /* A peer that sent this and then closed is still served. */
    int code = rc == 0 || !alive ? carry_out(reader, held.data, held.len, opcode) : 0;
    eb_buf_finish(&held);
    if (code)
        fail(reader, code, "text is not UTF-8");
    return alive && !code;
}

/* The message that is ready. False: the connection ends. */
static bool take_message(struct eb_ws_reader *reader)
{
    if (!atomic_load(&reader->conn->closing) && wait_room(reader->conn, 0) == -ETIMEDOUT)
        return hold(reader);
    int code = carry_out(reader, reader->text, reader->text_len, reader->opcode);
    message_done(reader);
    if (code)
        fail(reader, code, "text is not UTF-8");
    return !code;
}

/* ---- the connection's loop ---- */

/* Until bytes are there or @timeout_ms are over. False: time is over. */
static bool wait_input(struct eb_ws_conn *conn, int timeout_ms)
{
    struct pollfd fd = {.fd = conn->fd, .events = POLLIN};
    int n;

    if (conn->early_used < conn->early.len)
        return true;
    do
        n = poll(&fd, 1, timeout_ms);
    while (n < 0 && errno == EINTR);
    return n != 0;
}

static bool at_rest(const struct eb_ws_reader *reader)
{
    return !reader->in_frame && reader->opcode == 0 && reader->bytes_in == reader->consumed;
}

/* Read and forget until the peer ends or the keeper's patience does. Keeps W5. */
static void discard(struct eb_ws_conn *conn)
{
    char bytes[4096];
    ssize_t n;

    do {
        wait_input(conn, -1);
        n = recv(conn->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
    } while (n > 0 || (n < 0 && (errno == EINTR || errno == EAGAIN)));
}

static void read_frames(struct eb_ws_reader **reader_at)
{
    struct eb_ws_conn *conn = (*reader_at)->conn;

    for (;;) {
        struct eb_ws_reader *reader = *reader_at;
        enum step s = reader->ready ? STEP_MESSAGE : step(reader);

        if (s == STEP_END || (s == STEP_MESSAGE && !take_message(reader)))
            return;
        if (s != STEP_AGAIN || wait_input(conn, IDLE_FREE_MS) || !at_rest(reader))
            continue;
        eb_ws_reader_destroy(reader); /* R4 */
        *reader_at = NULL;
        return;
    }
}

void eb_ws_read(struct eb_ws_conn *conn)
{
    bool over = false;

    while (!over) {
        wait_input(conn, -1);
        conn->reader = reader_create(conn);
        if (!conn->reader) {
            eb_ws_conn_close(conn, EB_WS_CLOSE_INTERNAL, "out of memory", true, EB_WS_LINGER_MS);
            break;
        }
        read_frames(&conn->reader);
        eb_session_submit(conn->session); /* R6 */
        over = conn->reader;
    }
    if (!conn->reader || !conn->reader->eof)
        discard(conn);
}
