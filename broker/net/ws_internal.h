/*
 * ws_internal.h - what the files of the WebSocket side share: one connection, its side, its flusher.
 *
 *   ws.c           the side: upgrades, registry, stop, figures       ws_handshake.c  what a handshake must say
 *   ws_conn.c      one connection: its life and its thread           ws_control.c    control frames to be sent
 *   ws_input.c     socket -> bytes                                   ws_read.c       bytes -> messages
 *   ws_json.c      messages -> requests, answers                     ws_bin.c        the same, binary protocol
 *   ws_answer.c    answers, errors, notices in JSON                  ws_consume.c    workers of durable consumers
 *   ws_request.c   what both protocols ask of the bus
 *   ws_encode.c    events -> frames                                  ws_id.c         a request's `id`, kept as it came
 *   flusher.c      frames -> socket                                  keeper.c        pings, idle, stalled
 */
#pragma once

#include <stdatomic.h>

#include "broker/bus/consumers.h"
#include "broker/net/internal.h"
#include "common/clock.h"
#include "common/ws.h"

struct eb_ws_conn;
struct eb_flusher;

#define EB_WS_PROTOCOL_JSON   "eventbus.json.v1"
#define EB_WS_PROTOCOL_BINARY "eventbus.bin.v1"

/* Close codes of RFC 6455 that we send. */
enum {
    EB_WS_CLOSE_NORMAL = 1000,
    EB_WS_CLOSE_GOING = 1001,
    EB_WS_CLOSE_PROTOCOL = 1002,
    EB_WS_CLOSE_UNSUPPORTED = 1003,
    EB_WS_CLOSE_NO_STATUS = 1005, /* stands for an empty close frame, is never sent */
    EB_WS_CLOSE_NOT_UTF8 = 1007,
    EB_WS_CLOSE_POLICY = 1008,
    EB_WS_CLOSE_TOO_BIG = 1009,
    EB_WS_CLOSE_INTERNAL = 1011,
    EB_WS_CLOSE_LATER = 1013,
};

/* How long a peer may take to end the connection once our close frame is out. */
#define EB_WS_LINGER_MS 5000

/* ---- ws_handshake.c ---- */

enum eb_ws_handshake { EB_HANDSHAKE_OK, EB_HANDSHAKE_BAD, EB_HANDSHAKE_UPGRADE_REQUIRED };

/* The request's header fields; repeated ones joined by ", "; NULL when absent. */
struct eb_ws_offer {
    const char *upgrade, *connection, *version, *key, *protocols;
    unsigned keys; /* how many Sec-WebSocket-Key fields there were */
};
struct eb_ws_agreed {
    bool asked;           /* a subprotocol (a bearer token is none) was asked for */
    const char *protocol; /* the chosen one, or NULL */
    char accept[29];
};
/** RFC 6455 4.2.1 and the subprotocols. What is wrong goes to @why. */
enum eb_ws_handshake eb_ws_handshake(const struct eb_ws_offer *offer, struct eb_ws_agreed *ret,
                                     char *why, size_t why_size);

/* ---- ws_control.c ---- */

#define EB_WS_CONTROL_CAP 2048

/*
 * Control frames waiting to be sent, encoded, one behind the other. Pongs give way when it is full (RFC 6455
 * 5.5.3 lets a server answer only the latest ping); behind a close nothing is taken any more.
 */
struct eb_ws_control {
    uint8_t *bytes; /* EB_WS_CONTROL_CAP of them, made on first use */
    uint16_t len;
    uint16_t head_sent; /* bytes of the first frame that the kernel has */
    bool closing;       /* a close frame was queued (it may be sent by now) */
};
void eb_ws_control_finish(struct eb_ws_control *control);
/** Queue one of at most 125 bytes. False: a close was queued before, or out of memory. */
bool eb_ws_control_push(struct eb_ws_control *control, int opcode, const void *data, size_t len);
/** The bytes to send next; they stay until eb_ws_control_sent. Returns how many were copied to @out. */
size_t eb_ws_control_peek(const struct eb_ws_control *control, uint8_t out[EB_WS_CONTROL_CAP]);
void eb_ws_control_sent(struct eb_ws_control *control, size_t bytes);

/* ---- ws_id.c ---- */

#define EB_WS_ID_INLINE EB_ID_ROOM

/** Keep @len bytes of JSON text (0: no id) in the room a bus request has for it. False: out of memory. */
bool eb_ws_id_keep(char room[EB_WS_ID_INLINE], uint8_t *room_len, const char *text, size_t len);
const char *eb_ws_id_get(const char room[EB_WS_ID_INLINE], uint8_t room_len, size_t *ret_len);
void eb_ws_id_drop(char room[EB_WS_ID_INLINE], uint8_t *room_len);

/* ---- ws_conn.c ---- */

/*
 * The bits of a connection's `state`: who may use the socket, and who gives it back (W1-W3 in ws_conn.c).
 */
enum {
    EB_CONN_DIRTY =
        1, /* its flusher has it: on the list, being flushed, or waiting for room in the socket */
    EB_CONN_AGAIN = 2, /* something was queued since the flusher looked */
    EB_CONN_DEAD = 4,  /* its thread is through with it */
};

/* [I] immutable once the thread runs  [a] atomic  [L] lock  [C] the side's lock  [T] its thread  [F] its flusher */
struct eb_ws_conn {
    struct eb_ws_side *side;               /* [I] */
    struct eb_session *session;            /* [I] one reference until the socket is given back */
    const char *protocol;                  /* [I] the chosen subprotocol, or NULL */
    struct eb_flusher *flusher;            /* [I] */
    struct eb_ws_conn *next, *prev;        /* [C] the registry */
    int fd;                                /* [I] */
    struct MHD_UpgradeResponseHandle *urh; /* [I] to give a borrowed @fd back; NULL: it is ours */
    uint64_t number;                       /* [I] the session's */
    int64_t connected_ms, born_ms;         /* [I] wall clock, monotonic */
    char peer[64];                         /* [I] */
    bool asked;                            /* [I] for a subprotocol */
    bool binary;                           /* [I] it is EB_WS_PROTOCOL_BINARY */
    struct eb_buf early;                   /* [T] bytes that came with the handshake */
    size_t early_used;                     /* [T] */

    atomic_uint state;             /* [a] EB_CONN_* */
    struct eb_ws_conn *flush_next; /* flusher's lock: its list */

    struct eb_lock lock;          /* rank LEAF */
    struct eb_ws_control control; /* [L] */
    bool fail;           /* [L] shut the socket's sending side as soon as the close frame is out */
    bool close_sent;     /* [L] */
    bool close_received; /* [L] */
    pthread_cond_t closed; /* [L] signalled when the close frame is out */

    atomic_bool legacy;       /* [a] the older client (PROTOCOL 2.5) */
    atomic_bool closing;      /* [a] no request is carried out any more */
    atomic_bool waiting;      /* [a] its thread waits for room: pongs cannot be seen */
    atomic_llong received_ms; /* [a] last bytes from the peer */
    atomic_llong blocked_ms;  /* [a] since when the socket has taken nothing; 0: it takes */
    atomic_llong close_by_ms; /* [a] end of patience once closing; 0: none */
    int64_t pinged_ms;        /* [C] the keeper's: last ping, 0 none since the last answer */
    int64_t next_ping_ms;     /* [C] the keeper's */
    int outq; /* [C] the keeper's: bytes in the kernel when last looked at while blocked */

    bool want_out;   /* [F] waits for EPOLLOUT */
    bool registered; /* [F] known to the flusher's epoll */
    bool have_part;  /* [F] */
    size_t part_off; /* [F] */
    struct {         /* [F] the frame the kernel has a part of */
        struct eb_frame *frame;
        uint64_t seq;
    } part;

    struct {                   /* [C] binary: answers of the segment that is being answered */
        struct eb_buf records; /* all but the range; behind EB_WS_HEADROOM */
        uint64_t id, seq;      /* the first of the range */
        uint32_t count;        /* publishes in it; 0: none */
    } answers;

    _Atomic(struct eb_ws_consume *) consume; /* [a] made with the first consumer, ws_consume.c */

    bool decided;                /* [T] the first request was seen: legacy or not */
    struct eb_rate rate;         /* [T] */
    struct eb_ws_reader *reader; /* [T] made when the first frame comes, ws_read.c */
};

extern const struct eb_session_ops eb_ws_session_ops, eb_ws_binary_session_ops;

/** The thread's whole life: read until the end, then give the connection up. @conn is not to be used afterwards. */
void eb_ws_conn_run(struct eb_ws_conn *conn);
/** Hand the requests of a turn to the store; what is answered at once is sent by this thread. Its thread only. */
unsigned eb_ws_conn_submit(struct eb_ws_conn *conn);
/** Something is to be sent: hand it to the flusher unless it has it already. Threads: any. */
void eb_ws_conn_wake(struct eb_ws_conn *conn);
/** Queue a control frame and wake. False when a close was queued before. */
bool eb_ws_conn_control(struct eb_ws_conn *conn, int opcode, const void *data, size_t len);
/**
 * Begin to close with @code (EB_WS_CLOSE_NO_STATUS: an empty close frame): no further request is carried out, the
 * close frame overtakes what is queued. @fail: do not wait for the peer's own close frame. The keeper cuts the
 * connection after @patience_ms. Only the first call counts.
 */
void eb_ws_conn_close(struct eb_ws_conn *conn, int code, const char *reason, bool fail,
                      int64_t patience_ms);
/** The socket failed: both directions end. For the thread and the flusher (holders of the socket). */
void eb_ws_conn_break(struct eb_ws_conn *conn);
/** Give the socket back to libmicrohttpd and leave. Exactly once, by the last holder (W3). */
void eb_ws_conn_give_back(struct eb_ws_conn *conn);

/* ---- ws_input.c ---- */

struct eb_ws_input { /* of zeros at first */
    char *data;
    size_t cap, start, end; /* what is not used yet: from start to end */
    unsigned small_reads;   /* in a row */
    bool filled;            /* the last read took all the room there was */
    bool eof;               /* the peer's end, an error of the socket, or (data NULL) no memory */
};
void eb_ws_input_finish(struct eb_ws_input *in);
/**
 * Get more bytes behind those that are left, which may move. With @wait until some come or the receive timeout is
 * over (EB_WS_IDLE_FREE_MS). False: none came, or the end. Thread: the connection's.
 */
bool eb_ws_input_fill(struct eb_ws_input *in, struct eb_ws_conn *conn, bool wait);

/* ---- ws_read.c ---- */

#define EB_WS_IDLE_FREE_MS                                                                         \
    100 /* silent for so long, a connection holds nothing to read with (0011) */

struct eb_ws_reader;
void eb_ws_reader_destroy(struct eb_ws_reader *reader);
/** Read until the connection is to end. */
void eb_ws_read(struct eb_ws_conn *conn);

/* ---- ws_json.c ---- */

struct eb_ws_parser { /* what parsing needs; kept between messages, freed when idle */
    struct eb_json json;
    struct eb_draft_memory memory;
};
struct eb_ws_parser *eb_ws_parser_create(void);
void eb_ws_parser_destroy(struct eb_ws_parser *parser);
/** Carry out one message. 0, or the close code that it earned. */
int eb_ws_json_message(struct eb_ws_conn *conn, struct eb_ws_parser *parser, const char *text,
                       size_t len, bool binary);
/** One request that came as JSON in a record of a binary connection, with the record's @number as its id (0: none). */
void eb_ws_json_record(struct eb_ws_conn *conn, struct eb_ws_parser *parser, const char *text,
                       size_t len, uint64_t number);

/* ---- ws_answer.c ---- */

/* A request's id as JSON text; len 0: none. On a binary connection the digits of its number. */
struct eb_ws_id {
    const char *text;
    size_t len;
    bool
        in_done; /* the answer is given by its `done`, on the committing thread: with others of its segment */
};
/** The id that was kept (ws_id.c), for an answer from within `done` on the committing thread. */
struct eb_ws_id eb_ws_kept_id(const char *room, uint8_t room_len);
/** Begin an answer in an empty buffer: its type and its id (@id_always: null where there is none). */
void eb_ws_answer_begin(struct eb_ws_conn *conn, struct eb_buf *buf, const char *type,
                        struct eb_ws_id id, bool id_always);
/** End it and send it; the buffer is empty afterwards. */
void eb_ws_answer_send(struct eb_ws_conn *conn, struct eb_buf *buf, struct eb_ws_id id);
void eb_ws_answer_error(struct eb_ws_conn *conn, struct eb_ws_id id, const struct eb_error *err);
void eb_ws_answer_memory(struct eb_ws_conn *conn, struct eb_ws_id id);
/** The same for a JSON text that is written whole by the caller: a delivery, a notice. */
void eb_ws_text_begin(struct eb_ws_conn *conn, struct eb_buf *buf, struct eb_ws_id id);
void eb_ws_text_send(struct eb_ws_conn *conn, struct eb_buf *buf, bool in_done);

/* ---- ws_consume.c ---- */

void eb_ws_do_consume(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id);
void eb_ws_do_release(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id);
/** ack (one that names a consumer), nack, term, in_progress. */
void eb_ws_do_settle(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id,
                     enum eb_consumer_verb verb);
/** Work for no consumer any more, at once; what was out goes to others. No lock held but the commit lock. Any thread. */
void eb_ws_consume_end(struct eb_ws_conn *conn);
/** Something was sent: consumers that waited for room are told. Cheap without any. */
void eb_ws_consume_sent(struct eb_ws_conn *conn);
unsigned eb_ws_consume_count(struct eb_ws_conn *conn);
void eb_ws_consume_free(struct eb_ws_conn *conn);

/* ---- ws_bin.c ---- */

/**
 * Carry out the records at the front of @data as far as there is room for their answers; @ret_used bytes are done
 * with, all of them unless room is missing.
 */
void eb_ws_bin_message(struct eb_ws_conn *conn, struct eb_ws_parser *parser, const void *data,
                       size_t len, size_t *ret_used);
/** The session's `answers`: what was given since the last time becomes one message. */
void eb_ws_bin_answers(struct eb_session *session);

/* ---- ws_request.c ---- */

struct eb_ws_subscribe {
    struct eb_subscribe call; /* first: `done` frees the whole by it */
    struct eb_pattern pattern;
};
/** Is there room for one more request and its answer? As eb_session_wait_room. */
int eb_ws_wait_room(struct eb_ws_conn *conn, int64_t deadline_ms);
/** A publish for @max events of @conn, within publish_rate; NULL with @err. */
struct eb_publish *eb_ws_publish_create(struct eb_ws_conn *conn, size_t max,
                                        void (*done)(struct eb_publish *publish),
                                        struct eb_error *err);
/** A subscription to its `pattern`, which the caller fills in; NULL when out of memory. */
struct eb_ws_subscribe *eb_ws_subscribe_create(struct eb_ws_conn *conn,
                                               void (*done)(struct eb_subscribe *call));
/** An unsubscribe or ack; NULL when out of memory. */
struct eb_request *eb_ws_request_create(struct eb_ws_conn *conn,
                                        void (*done)(struct eb_request *request));
/** Are requests still carried out? -1 with @err when the broker goes down. */
int eb_ws_check_open(const struct eb_ws_conn *conn, struct eb_error *err);
/** An answer found no memory: the connection ends, as no answer is dropped. */
void eb_ws_answer_lost(struct eb_ws_conn *conn);

/* ---- ws_encode.c ---- */

#define EB_WS_HEADROOM EB_WS_HEADER_MAX
/**
 * A frame of @opcode out of what was written to @buf behind EB_WS_HEADROOM spare bytes: puts the header into them.
 * Returns where the frame begins and its length.
 */
char *eb_ws_seal(struct eb_buf *buf, int opcode, size_t *ret_len);
void eb_ws_headroom(struct eb_buf *buf);
struct eb_frame *eb_ws_encode_event(struct eb_session *session, struct eb_event *event,
                                    const char *pattern);
size_t eb_ws_encode_events(struct eb_session *session, struct eb_event *const *events, size_t count,
                           const char *pattern, size_t max_bytes, struct eb_buf *out);
struct eb_frame *eb_ws_encode_gap(struct eb_session *session, const struct eb_gap *gap);
struct eb_frame *eb_ws_encode_live(struct eb_session *session, const char *pattern, uint64_t seq);
/** The same as binary frames. */
struct eb_frame *eb_ws_encode_event_bin(struct eb_session *session, struct eb_event *event,
                                        const char *pattern);
size_t eb_ws_encode_events_bin(struct eb_session *session, struct eb_event *const *events,
                               size_t count, const char *pattern, size_t max_bytes,
                               struct eb_buf *out);
struct eb_frame *eb_ws_encode_gap_bin(struct eb_session *session, const struct eb_gap *gap);
struct eb_frame *eb_ws_encode_live_bin(struct eb_session *session, const char *pattern,
                                       uint64_t seq);
/** The texts behind them, for tests: the event of 2.2 as a whole text frame. */
struct eb_frame *eb_ws_event_frame(const struct eb_event *event, const char *pattern,
                                   bool payload_array);

/* ---- flusher.c ---- */

int eb_flusher_create(struct eb_ws_side *side, unsigned number, struct eb_flusher **ret);
/** No connection may be left. NULL is fine. */
void eb_flusher_destroy(struct eb_flusher *flusher);
/** @conn has just become dirty. */
void eb_flusher_push(struct eb_flusher *flusher, struct eb_ws_conn *conn);
/** Send for it on this thread, which has just made the connection dirty; what does not go at once is the flusher's. */
void eb_flusher_send(struct eb_flusher *flusher, struct eb_ws_conn *conn);
/**
 * The same by one call that does not wait, also under the commit lock: whatever it leaves to be done, be it an error, is
 * the flusher's.
 */
void eb_flusher_send_once(struct eb_flusher *flusher, struct eb_ws_conn *conn);
/** Forget the socket: before it is given back. */
void eb_flusher_forget(struct eb_flusher *flusher, struct eb_ws_conn *conn);
void eb_flusher_counters(const struct eb_flusher *flusher, struct eb_ws_counters *ret);

/* ---- keeper.c ---- */

struct eb_keeper;
int eb_keeper_create(struct eb_ws_side *side, struct eb_keeper **ret);
void eb_keeper_destroy(struct eb_keeper *keeper);

/* ---- ws.c ---- */

/*
 * An upgrade whose 101 is under way: the connection's thread is there and parked. libmicrohttpd does not say when
 * the client vanishes before its 101 is out, and then never calls the upgrade handler: after a while the thread is
 * let go, and the object stays behind for much longer than libmicrohttpd keeps a silent connection.
 */
enum eb_ws_pending_state {
    EB_PENDING_WAITS,
    EB_PENDING_GO,
    EB_PENDING_REFUSED,
    EB_PENDING_ABANDONED
};
struct eb_ws_pending {
    struct eb_ws_pending *next, *prev; /* [C] */
    struct eb_ws_side *side;           /* [I] */
    struct eb_ws_conn *conn;           /* [C] NULL once the thread has left */
    enum eb_ws_pending_state state;    /* [C] */
    int64_t since_ms;                  /* [I] */
    pthread_cond_t cond;               /* [C] the state has changed */
};

struct eb_ws_side {
    struct eb_net *net;           /* [I] */
    struct eb_bus *bus;           /* [I] */
    struct eb_flusher **flushers; /* [I] */
    unsigned flusher_count;       /* [I] */
    bool answers_itself;          /* [I] the committing thread sends what is waited for (W6) */
    atomic_uint next_flusher;     /* [a] */
    struct eb_keeper *keeper;     /* [I] */

    struct eb_lock lock; /* rank CONNECTIONS: the registry and what is pending */
    struct eb_ws_conn *first,
        *last;        /* [C] running connections, by session number; their sockets are valid */
    unsigned running; /* [C] */
    struct eb_ws_pending *pending; /* [C] */
    atomic_bool stopping;          /* [a] */

    struct eb_lock count_lock; /* rank LEAF */
    pthread_cond_t none;       /* signalled when `alive` falls to 0 */
    unsigned
        alive; /* [count_lock] connections whose memory is there: from upgrade to last reference */

    /* Limits, which may change at run time. [a] */
    atomic_size_t max_message, max_unsent_answers;
    atomic_uint max_open_requests;
    _Atomic double publish_rate;
    atomic_llong ping_interval_ms, idle_timeout_ms, stall_timeout_ms;

    struct { /* [a] */
        atomic_ullong connections_total, refused, messages_in, bytes_in, pings, pong_timeouts,
            idle_closed, stall_closed, bad_requests, legacy_connections, legacy_unsent,
            protocol_errors, rate_limited, binary_connections, records_in;
    } count;
};

static inline void eb_ws_count(atomic_ullong *counter)
{
    atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
}
/** A connection of the registry leaves it; its socket stays valid until it is given back. */
void eb_ws_side_leave(struct eb_ws_side *side, struct eb_ws_conn *conn);
/** A connection's memory goes: the last that it does with its side. */
void eb_ws_side_gone(struct eb_ws_side *side);
/** Let go the threads of upgrades that never came (all of them: @all). The side's lock is held. */
void eb_ws_pending_tick_locked(struct eb_ws_side *side, int64_t now_ms, bool all);
