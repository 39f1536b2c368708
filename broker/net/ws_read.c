/*
 * ws_read.c - the receiving side of a WebSocket: bytes to frames, frames to messages, control frames.
 *
 * (R1) A message of one frame is read here: header, unmasking in place, no copy when it lies whole in the input.
 *      All other frames (control frames, fragments, whatever is wrong) go through wslay's frame layer, which is
 *      given the bytes of that one frame and no more. What a sequence of frames may be is judged here. wslay's
 *      event layer is not used: it answers a wrong frame length with an empty close where 1002 is due, takes a
 *      close body of one byte, skips bytes of a close reason that comes in pieces, and keeps no bound in its
 *      no-buffering mode. Why not wslay for all: docs/decisions/0013-reading-websockets.md.
 * (R2) A message is assembled up to max_message; no more is kept of what announces itself larger.
 * (R3) Requests are carried out in order, one complete message at a time. Without room for its answer a message is
 *      held, and only control frames up to the next data frame are read meanwhile.
 * (R4) An idle connection holds neither wslay's context nor buffers: they are made when the first frame comes and
 *      freed when nothing came for a while.
 * (R5) Once the connection is closing, messages are dropped; bytes are read on so that the peer's close frame and
 *      end are seen.
 * (R6) What one read brought is one turn: its requests go to the store in one push, before the next read.
 * (R7) A read that brought little while much of the same connection is open would only add to a queue that is long
 *      already, at the price of a wake-up for each event, which the committing thread then lacks. So it waits until
 *      most of that is answered, and takes what has come meanwhile at once (docs/decisions/0020-reads-gather.md).
 */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <wslay/wslay.h>

#include "broker/net/ws_internal.h"
#include "common/text.h"

#define KEEP_BYTES    (64 * 1024)
#define FRAME_BYTES   1024
#define MAX_FRAGMENTS 131072
#define HOLD_TICK_MS  50
#define LAST_WORDS_MS 1000 /* for the answers that a closing peer still waits for */
#define CONTROL_MAX   125
#define GATHER_OPEN   16 /* requests: fewer are nobody's load */
#define GATHER_TIMES  4  /* as many as the read brought */
#define GATHER_MS     20

/* [T] all of it */
struct eb_ws_reader {
    struct eb_ws_conn *conn;
    struct eb_ws_input in;
    struct eb_ws_parser *parser;
    unsigned messages; /* of this turn */

    wslay_frame_context_ptr ctx; /* made when the first frame for it comes */
    bool odd;                    /* the frame under way is wslay's */
    uint64_t odd_left;           /* bytes of it that wslay was not given yet */

    bool in_frame;
    uint64_t left; /* of the frame's payload */
    unsigned char key[4];
    int frame_opcode;
    bool frame_fin;
    uint8_t control[CONTROL_MAX];
    size_t control_len;

    int opcode; /* of the message in progress, 0: none */
    unsigned fragments;
    struct eb_buf message;
    size_t checked; /* of a text in fragments: bytes known to be UTF-8 */

    const char *text; /* the complete message: in `message`, or in the input */
    size_t text_len;
    bool ready;
};

enum step { STEP_AGAIN, STEP_CONTROL, STEP_DATA, STEP_MESSAGE, STEP_END };

void eb_ws_reader_destroy(struct eb_ws_reader *reader)
{
    if (!reader)
        return;
    if (reader->ctx)
        wslay_frame_context_free(reader->ctx);
    eb_ws_parser_destroy(reader->parser);
    eb_ws_input_finish(&reader->in);
    eb_buf_finish(&reader->message);
    free(reader);
}

static struct eb_ws_reader *reader_create(struct eb_ws_conn *conn)
{
    struct eb_ws_reader *reader = calloc(1, sizeof(*reader));

    if (!reader)
        return NULL;
    reader->conn = conn;
    reader->parser = eb_ws_parser_create();
    if (!reader->parser) {
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
    if (op == EB_WS_TEXT && reader->conn->binary) {
        *why = EB_WS_PROTOCOL_BINARY " is spoken in binary messages";
        return EB_WS_CLOSE_UNSUPPORTED;
    }
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

static void begin_frame(struct eb_ws_reader *reader, const struct wslay_frame_iocb *frame)
{
    reader->in_frame = true;
    reader->left = frame->payload_length;
    reader->frame_opcode = frame->opcode;
    reader->frame_fin = frame->fin;
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

/* What was assembled is complete. */
static enum step end_message(struct eb_ws_reader *reader)
{
    reader->ready = true;
    reader->text = reader->message.data ? reader->message.data : "";
    reader->text_len = reader->message.len;
    return STEP_MESSAGE;
}

static enum step end_data(struct eb_ws_reader *reader)
{
    if (reader->frame_fin)
        return end_message(reader);
    return fragment_valid(reader) ? STEP_DATA
                                  : fail(reader, EB_WS_CLOSE_NOT_UTF8, "text is not UTF-8");
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
    }
    if (is_control(reader->frame_opcode)) {
        memcpy(reader->control + reader->control_len, frame->data, frame->data_length);
        reader->control_len += frame->data_length;
    } else {
        eb_buf_add(&reader->message, frame->data, frame->data_length);
        if (eb_buf_failed(&reader->message))
            return fail(reader, EB_WS_CLOSE_INTERNAL, "out of memory");
    }
    reader->left -= frame->data_length;
    if (reader->left > 0)
        return is_control(reader->frame_opcode) ? STEP_CONTROL : STEP_DATA;
    reader->in_frame = reader->odd = false;
    return is_control(reader->frame_opcode) ? end_control(reader) : end_data(reader);
}

/* wslay takes its frame's bytes out of the input, no more (R1). */
static ssize_t on_recv(uint8_t *buf, size_t len, int flags, void *user)
{
    struct eb_ws_reader *reader = user;
    struct eb_ws_input *in = &reader->in;
    size_t n = in->end - in->start;

    if (n > len)
        n = len;
    if (n > reader->odd_left)
        n = (size_t)reader->odd_left;
    if (n == 0)
        return -1;
    memcpy(buf, in->data + in->start, n);
    in->start += n;
    reader->odd_left -= n;
    return (ssize_t)n;
}

static ssize_t on_send(const uint8_t *data, size_t len, int flags, void *user)
{
    return -1; /* nothing is sent through wslay */
}

static enum step odd_step(struct eb_ws_reader *reader)
{
    const struct wslay_frame_callbacks callbacks = {on_send, on_recv, NULL};
    struct wslay_frame_iocb frame = {0};

    if (!reader->ctx && wslay_frame_context_init(&reader->ctx, &callbacks, reader) != 0) {
        reader->ctx = NULL;
        return fail(reader, EB_WS_CLOSE_INTERNAL, "out of memory");
    }
    ssize_t n = wslay_frame_recv(reader->ctx, &frame);
    if (n >= 0)
        return on_piece(reader, &frame);
    return n == WSLAY_ERR_WANT_READ ? STEP_AGAIN
                                    : fail(reader, EB_WS_CLOSE_PROTOCOL, "invalid frame header");
}

/* ---- messages of one frame ---- */

enum look { LOOK_SHORT, LOOK_PLAIN, LOOK_ODD };

struct head {
    size_t size;  /* of the header */
    uint64_t len; /* of the payload */
};

/*
 * What the next frame is. Odd is all that is not a whole message in one masked frame of the right size; what wslay
 * refuses for its header alone gets no bytes but that.
 */
static enum look look(const struct eb_ws_reader *reader, struct head *ret)
{
    const unsigned char *at = (const unsigned char *)reader->in.data + reader->in.start;
    size_t have = reader->in.end - reader->in.start;

    if (have < 2)
        return LOOK_SHORT;
    unsigned len = at[1] & 0x7f;
    size_t extended = len < 126 ? 0 : len == 126 ? 2 : 8;
    *ret = (struct head){.size = 2};
    if (is_control(at[0]) && (len > CONTROL_MAX || !(at[0] & 0x80)))
        return LOOK_ODD;
    ret->size = 2 + extended + (at[1] & 0x80 ? 4 : 0);
    if (have < ret->size)
        return LOOK_SHORT;
    uint64_t length = extended ? 0 : len;
    for (size_t i = 0; i < extended; i++)
        length = length << 8 | at[2 + i];
    if ((extended == 2 && length < 126) ||
        (extended == 8 && (length <= UINT16_MAX || length > INT64_MAX)))
        return LOOK_ODD;
    ret->len = length;
    bool plain = (at[0] == (0x80 | EB_WS_BINARY) ||
                  (at[0] == (0x80 | EB_WS_TEXT) && !reader->conn->binary)) &&
                 at[1] & 0x80 && reader->opcode == 0;
    size_t max = atomic_load_explicit(&reader->conn->side->max_message, memory_order_relaxed);
    return plain && length <= max ? LOOK_PLAIN : LOOK_ODD;
}

/* Of a frame that is not whole in the input: collect what is there. */
static enum step plain_piece(struct eb_ws_reader *reader)
{
    struct eb_ws_input *in = &reader->in;
    struct eb_buf *message = &reader->message;
    size_t n = in->end - in->start, at = message->len;

    if (n == 0)
        return STEP_AGAIN;
    if (n > reader->left)
        n = (size_t)reader->left;
    eb_buf_add(message, in->data + in->start, n);
    if (eb_buf_failed(message))
        return fail(reader, EB_WS_CLOSE_INTERNAL, "out of memory");
    eb_ws_mask(message->data + at, n, reader->key, at);
    in->start += n;
    reader->left -= n;
    if (reader->left > 0)
        return STEP_DATA;
    reader->in_frame = false;
    return end_message(reader);
}

static enum step plain_frame(struct eb_ws_reader *reader, const struct head *head)
{
    struct eb_ws_input *in = &reader->in;
    char *at = in->data + in->start;

    reader->opcode = at[0] & 0x0f;
    memcpy(reader->key, at + head->size - 4, 4);
    in->start += head->size;
    if (head->len > in->end - in->start) {
        reader->in_frame = true;
        reader->left = head->len;
        return in->start < in->end ? plain_piece(reader) : STEP_DATA;
    }
    reader->text = in->data + in->start;
    reader->text_len = (size_t)head->len;
    reader->ready = true;
    eb_ws_mask(in->data + in->start, reader->text_len, reader->key, 0);
    in->start += reader->text_len;
    return STEP_MESSAGE;
}

/* One step with the bytes that are there. STEP_AGAIN: more are needed. */
static enum step step(struct eb_ws_reader *reader)
{
    struct head head;

    if (reader->odd)
        return odd_step(reader);
    if (reader->in_frame)
        return plain_piece(reader);
    switch (look(reader, &head)) {
    case LOOK_SHORT:
        return STEP_AGAIN;
    case LOOK_PLAIN:
        return plain_frame(reader, &head);
    default:
        reader->odd = true;
        reader->odd_left = head.size + head.len;
        return odd_step(reader);
    }
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

    while (!*data_seen && (s == STEP_CONTROL || s == STEP_AGAIN)) {
        s = step(reader);
        *data_seen = s == STEP_DATA || s == STEP_MESSAGE;
        if (s == STEP_AGAIN && !eb_ws_input_fill(&reader->in, reader->conn, false))
            return !reader->in.eof;
    }
    return s != STEP_END;
}

/*
 * Carry out a message, in the binary protocol as far as there is room for answers; @ret_used bytes are done with.
 * 0, or a close code.
 */
static int carry_out(struct eb_ws_reader *reader, const char *text, size_t len, int opcode,
                     size_t *ret_used)
{
    *ret_used = len;
    if (atomic_load(&reader->conn->closing))
        return 0; /* R5 */
    if (!reader->conn->binary)
        return eb_ws_json_message(reader->conn, reader->parser, text, len, opcode == EB_WS_BINARY);
    eb_ws_bin_message(reader->conn, reader->parser, text, len, ret_used);
    return 0;
}

/* There is no room for more answers: hold what is left of the message until there is. False: the connection ends. */
static bool hold(struct eb_ws_reader *reader, size_t used)
{
    struct eb_ws_conn *conn = reader->conn;
    struct eb_buf held = EB_BUF_INIT;
    int opcode = reader->opcode, rc, code = 0;
    bool data_seen = false, alive = true;
    size_t at = 0, n;

    eb_buf_add(&held, reader->text + used, reader->text_len - used);
    message_done(reader);
    if (eb_buf_failed(&held)) {
        fail(reader, EB_WS_CLOSE_INTERNAL, "out of memory");
        return false;
    }
    atomic_store(&conn->waiting, true);
    eb_session_rest(conn->session);
    do { /* a peer that sent this and then its end is still served */
        alive = alive && (data_seen || read_controls(reader, &data_seen));
        rc = eb_ws_wait_room(conn, eb_mono_ms() + HOLD_TICK_MS);
        if (rc == 0) {
            code = carry_out(reader, held.data + at, held.len - at, opcode, &n);
            at += n;
        }
    } while (rc == -ETIMEDOUT || (rc == 0 && code == 0 && at < held.len));
    atomic_store(&conn->received_ms, eb_mono_ms()); /* what came meanwhile was not looked at */
    atomic_store(&conn->waiting, false);
    eb_buf_finish(&held);
    if (code)
        fail(reader, code, "text is not UTF-8");
    return alive && !code;
}

/* The message that is ready. False: the connection ends. */
static bool take_message(struct eb_ws_reader *reader)
{
    size_t used = 0;
    int code = 0;

    if (!atomic_load(&reader->conn->closing)) {
        reader->messages++;
        if (eb_ws_wait_room(reader->conn, 0) == -ETIMEDOUT)
            return hold(reader, 0);
    }
    code = carry_out(reader, reader->text, reader->text_len, reader->opcode, &used);
    if (used < reader->text_len)
        return hold(reader, used);
    message_done(reader);
    if (code)
        fail(reader, code, "text is not UTF-8");
    return !code;
}

/* ---- the connection's loop ---- */

/* Until bytes are there, however long that is. */
static void wait_input(struct eb_ws_conn *conn)
{
    struct pollfd fd = {.fd = conn->fd, .events = POLLIN};

    if (conn->early_used < conn->early.len)
        return;
    while (poll(&fd, 1, -1) < 0 && errno == EINTR)
        ;
}

static bool at_rest(const struct eb_ws_reader *reader)
{
    return !reader->in_frame && !reader->odd && reader->opcode == 0 &&
           reader->in.start == reader->in.end;
}

/* R6. Returns how many requests it brought. */
static unsigned end_turn(struct eb_ws_reader *reader)
{
    if (reader->messages > 0)
        atomic_fetch_add_explicit(&reader->conn->side->count.messages_in, reader->messages,
                                  memory_order_relaxed);
    reader->messages = 0;
    return eb_ws_conn_submit(reader->conn);
}

/* R7 */
static void let_gather(struct eb_ws_reader *reader, unsigned requests)
{
    unsigned many = requests * GATHER_TIMES;

    if (requests == 0 || reader->in.small_reads == 0)
        return;
    eb_session_wait_room(reader->conn->session, many < GATHER_OPEN ? GATHER_OPEN : many, SIZE_MAX,
                         eb_mono_ms() + GATHER_MS);
}

/* Read and forget until the peer ends or the keeper's patience does. Keeps W5. */
static void discard(struct eb_ws_conn *conn)
{
    char bytes[4096];
    ssize_t n;

    do {
        wait_input(conn);
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
        if (s != STEP_AGAIN)
            continue;
        let_gather(reader, end_turn(reader));
        if (eb_ws_input_fill(&reader->in, conn, true))
            continue;
        if (reader->in.eof) {
            if (!reader->in.data)
                fail(reader, EB_WS_CLOSE_INTERNAL, "out of memory");
            return;
        }
        eb_session_rest(conn->session); /* R4, here and below */
        if (!at_rest(reader))
            continue;
        eb_ws_reader_destroy(reader);
        *reader_at = NULL;
        return;
    }
}

/*
 * R4: what a commit or a deep request has touched of this thread's stack, below the page in use. Four pages a
 * connection, where one is enough to wait.
 */
__attribute__((noinline)) static void give_back_stack(void)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    pthread_attr_t attr;
    void *low = NULL;
    size_t size = 0;

    if (pthread_getattr_np(pthread_self(), &attr) != 0)
        return;
    /* Below all of this function's frame, and what the next call of it needs. */
    uintptr_t end = ((uintptr_t)__builtin_frame_address(0) - FRAME_BYTES) & ~(page - 1);
    if (pthread_attr_getstack(&attr, &low, &size) == 0 && end > (uintptr_t)low)
        madvise(low, end - (uintptr_t)low, MADV_DONTNEED);
    pthread_attr_destroy(&attr);
}

void eb_ws_read(struct eb_ws_conn *conn)
{
    bool over = false;

    while (!over) {
        wait_input(conn);
        conn->reader = reader_create(conn);
        if (!conn->reader) {
            eb_ws_conn_close(conn, EB_WS_CLOSE_INTERNAL, "out of memory", true, EB_WS_LINGER_MS);
            break;
        }
        read_frames(&conn->reader);
        over = conn->reader;
        if (over)
            end_turn(conn->reader);
        else
            give_back_stack();
    }
    if (!conn->reader || !conn->reader->in.eof)
        discard(conn);
}
