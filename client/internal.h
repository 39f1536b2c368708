/*
 * internal.h - what the client's files share: one client, its requests, its subscriptions.
 *
 *   caller ── publish.c ──> inflight ──> loop.c ── connection.c ══ socket
 *                                          │  wire.c decodes
 *   caller <─ callbacks.c <─ completions <─┤
 *   caller <─ subscribe.c <─ queues <────── stream.c
 *   caller <─ worker.c, consumer.c <─ deliveries.c <─ consume.c   (durable consumers: consumer.h)
 *
 * (L1) One lock (EB_RANK_CLIENT) guards everything marked [C]. It is held for bookkeeping alone: never over a
 *      system call that waits, a callback, or the masking of a message.
 * (L2) The thread `eb-client` owns the connection; it alone frees the text of a request, so it may send what
 *      it picked under the lock without holding it.
 * (L3) A request leaves the in-flight table exactly once, in eb_request_complete_locked.
 * (L4) An item enters a subscription's queue in the order the broker sent it, once, and leaves it by one
 *      reader: the callback thread, or whoever pulls.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include <eventbus/client.h>

#include "common/bin.h"
#include "common/buf.h"
#include "common/clock.h"
#include "common/json.h"
#include "common/lock.h"
#include "common/topic.h"
#include "common/uuid.h"

/* ---- url.c ---- */

struct eb_url {
    char *host;      /* without the brackets of an IPv6 address */
    char *authority; /* host[:port] as it stands in the Host header */
    char *target;    /* path and query, "/ws" if none */
    char port[6];
};

/** Take "ws://host[:port][/path][?query]" apart. Returns NULL, or a static text that says what is wrong. */
const char *eb_url_parse(struct eb_url *ret, const char *text);
void eb_url_finish(struct eb_url *url);

/* ---- reconnect.c ---- */

struct eb_backoff {
    int64_t first, max; /* [I] */
    int64_t next;       /* the wait before jitter */
    int failures;       /* tries in a row without a connection */
};

void eb_backoff_init(struct eb_backoff *backoff, int64_t first, int64_t max);
/** The wait before the next try, with jitter of a quarter either way; @random is any number. */
int64_t eb_backoff_wait(struct eb_backoff *backoff, uint64_t random);
/** A connection was made, and ended after @lived ms: a short one does not bring back the short waits. */
void eb_backoff_connected(struct eb_backoff *backoff, int64_t lived);

/* ---- inflight.c: requests in the order they were handed over ---- */

enum eb_request_kind { EB_REQUEST_PUBLISH, EB_REQUEST_BATCH, EB_REQUEST_ACK };

/* Somebody who waits for one answer; on that thread's stack. */
struct eb_waiter {
    pthread_cond_t cond;
    bool done; /* [C] */
    int result;
    eb_receipt *receipts; /* the caller's room, or NULL */
};

struct eb_request {
    struct eb_request *prev, *next; /* [C] the table's order, or the completions' */
    struct eb_request *hash_next;   /* [C] */
    uint64_t id; /* [C] given when it enters the table: ids rise with the order */
    enum eb_request_kind kind;
    unsigned attempts;  /* [C] connections it was sent on */
    int64_t first_sent; /* [C] eb_mono_ms() */
    struct eb_buf text; /* the request as a record of the binary protocol; freed when answered */
    size_t cost;        /* what it counts against max_pending_bytes */
    eb_publish_fn *done;
    void *user;
    struct eb_waiter *waiter; /* [C] */
    int result;
    size_t count; /* receipts */
    eb_receipt *receipts;
    eb_receipt one;
};

struct eb_inflight {
    struct eb_request *first, *last;
    struct eb_request
        *unsent; /* first that was not sent on this connection; all behind it neither */
    struct eb_request **buckets;
    size_t mask; /* buckets - 1 */
    size_t count, bytes, acks;
};

int eb_inflight_init(struct eb_inflight *table);
void eb_inflight_finish(struct eb_inflight *table);
/** Put @request (its id above all others) at the end. */
void eb_inflight_add(struct eb_inflight *table, struct eb_request *request);
struct eb_request *eb_inflight_find(struct eb_inflight *table, uint64_t id);
void eb_inflight_remove(struct eb_inflight *table, struct eb_request *request);
/** The next to send on this connection, counted as sent at @now; NULL: none. */
struct eb_request *eb_inflight_send_next(struct eb_inflight *table, int64_t now);
/** The connection ended: everything unanswered is to be sent again, in the same order. */
void eb_inflight_rewind(struct eb_inflight *table);
/** The first one, if it was sent first at or before @limit (the order of sending is the order of the table). */
struct eb_request *eb_inflight_older(struct eb_inflight *table, int64_t limit);

/* ---- items: what a subscription holds until it is handed over ---- */

enum eb_item_kind { EB_ITEM_EVENT, EB_ITEM_GAP, EB_ITEM_LIVE };

struct eb_item {
    atomic_uint refs; /* one per queue entry, one for who reads it, one for the maker */
    enum eb_item_kind kind;
    uint32_t delivery; /* of a consumer's event, from 1; else 0 */
    size_t cost;
    union {
        eb_message message;
        struct {
            uint64_t from_seq, to_seq;
            char reason[32];
            char epoch[37]; /* of an epoch gap: the new log's; else "" */
        } gap;
        uint64_t live_seq;
    };
    char data[];
};

struct eb_item *eb_item_create(enum eb_item_kind kind, size_t data);
struct eb_item *eb_item_ref(struct eb_item *item);
void eb_item_unref(struct eb_item *item); /* NULL is fine */

/* ---- wire.c: JSON; wire_bin.c: the binary protocol ---- */

enum eb_wire_type {
    EB_WIRE_OTHER, /* a newer broker's; ignored */
    EB_WIRE_OK,
    EB_WIRE_ACKS, /* binary: `bin` says of which requests */
    EB_WIRE_ERROR,
    EB_WIRE_EVENT,
    EB_WIRE_LIVE,
    EB_WIRE_GAP,
    EB_WIRE_RELEASED /* a consumer's attachment ended */
};

#define EB_CONSUMER_NAME_LEN 64

/* One message of the broker. Texts point into the parser and live until the next one. */
struct eb_wire {
    enum eb_wire_type type;
    bool json; /* it came as JSON, so `results` and `patterns` are tokens of the parser */
    bool has_id, has_last_seq, has_seq, duplicate, scheduled;
    uint64_t id, seq, last_seq, from_seq, to_seq;
    char epoch[37];           /* "" if absent */
    char message_id[37];      /* the same */
    const char *pattern;      /* NULL if absent; NUL-terminated */
    const char *consumer;     /* NULL if absent: whose event, gap or end it is */
    const char *reason;       /* of a gap, of a consumer's end */
    const char *text;         /* an error's message */
    int result;               /* an error's code as a result */
    uint32_t results;         /* token of a batch's results, 0: none */
    uint32_t patterns;        /* token of a gap's list, 0: none */
    bool batch;               /* binary: a batch's answer, its results are in `bin` */
    struct eb_bin_answer bin; /* binary, all but events */
    struct eb_item *item;     /* an event, one reference for the caller */
    char pattern_text[EB_TOPIC_MAX + 1];
    char reason_text[32];
    char consumer_text[EB_CONSUMER_NAME_LEN + 1];
    char message_text[256];
};

/** 0, -EPROTO with a sentence in @why, or -ENOMEM. */
int eb_wire_decode(struct eb_wire *ret, struct eb_json *json, const char *text, size_t len,
                   const char **why);
/** Receipt @i of a batch's answer; false if it is none. */
bool eb_wire_receipt(struct eb_json *json, uint32_t tok, eb_receipt *ret);
/** What became of one seq of an ack, nack or term: 0, LATE, UNKNOWN; false if @tok is no such thing. */
bool eb_wire_answered(struct eb_json *json, uint32_t tok, uint64_t *ret_seq, int *ret_result);
/** The pattern at @tok, NUL-terminated in @buf; NULL if it is none. */
const char *eb_wire_pattern(struct eb_json *json, uint32_t tok, char buf[EB_TOPIC_MAX + 1]);

/* What an event is made of, borrowed from the message. */
struct eb_wire_parts {
    const char *topic, *payload, *content_type;
    size_t topic_len, payload_len, content_type_len;
    const char *headers; /* JSON text */
    size_t headers_len;
    bool base64;
    char message_id[37];
    uint64_t seq;
    int64_t timestamp, ttl;
};
/** 0, -ENOMEM, or -EPROTO if the payload is not the base64 that it is said to be. */
int eb_wire_make_event(struct eb_item **ret, const struct eb_wire_parts *parts);

/** One record of the broker, as eb_wire_decode. */
int eb_wire_decode_record(struct eb_wire *ret, struct eb_json *json,
                          const struct eb_bin_record *record, const char **why);
/** The receipts of a publish or batch out of its binary answer and its own record. False: they do not fit. */
bool eb_wire_receipts(const struct eb_request *request, const struct eb_wire *wire);

/** Check @event and append it as a publish, or as a member of a batch. 0 or a result, INVALID with @err. */
int eb_wire_write_event(struct eb_buf *out, const eb_publication *event, bool member,
                        struct eb_error *err);
/** Does one of them ask for what only JSON has a form for (a time to deliver at, an expected seq)? */
bool eb_wire_asks_more(const eb_publication *events, size_t count);
/** As eb_wire_write_event for those: one publish, or a batch with all its members. */
int eb_wire_write_more(struct eb_buf *out, const eb_publication *events, size_t count, bool batch,
                       struct eb_error *err);
void eb_wire_write_subscribe(struct eb_buf *out, uint64_t id, const char *pattern,
                             uint64_t starting_seq, const char *epoch, bool pending_only);
void eb_wire_write_unsubscribe(struct eb_buf *out, const char *pattern);
void eb_wire_write_ack(struct eb_buf *out, uint64_t seq);
/** Give the request that @record begins with its id. */
void eb_wire_set_id(struct eb_buf *record, uint64_t id);
/** A request's record as the JSON text that asks for the same. */
void eb_wire_json(struct eb_buf *out, const struct eb_bin_record *record);

/* ---- result.c ---- */

int eb_result_from_code(const char *code, size_t len);
int eb_result_from_status(int status);

/* ---- upgrade.c: the HTTP side of the handshake ---- */

#define EB_UPGRADE_MAX 16384 /* bytes of the answer's head */

struct eb_upgrade {
    int status;        /* of the answer */
    char accept[29];   /* what the broker must say */
    const char *offer; /* the subprotocols that were asked for */
    bool binary;       /* the broker chose the binary one */
    char why[200];     /* what was wrong */
};

void eb_upgrade_request(struct eb_buf *out, const struct eb_url *url, const char *token,
                        eb_protocol protocol, struct eb_upgrade *ret);
/**
 * Look at @len bytes of the answer. Length of the head when it is whole and a sound 101, 0 when more is
 * needed, -1 when it is anything else (then ->why, and ->status if there was one).
 */
ptrdiff_t eb_upgrade_check(struct eb_upgrade *upgrade, const char *data, size_t len);

/* ---- resolve.c: names, without waiting for them longer than asked ---- */

struct eb_lookup;
struct addrinfo;
/** Look up; waits until @deadline, the answer, or data on @wake_fd (-ECANCELED). 0 or -errno with @why. */
int eb_lookup(struct eb_lookup **kept, const char *host, const char *port, int wake_fd,
              int64_t deadline, struct addrinfo **ret, char *why, size_t size);
/** Let go of a lookup that never ended; its thread frees it. */
void eb_lookup_drop(struct eb_lookup *lookup);

/* ---- connection.c: one WebSocket; owned by eb-client ---- */

struct eb_connection;

struct eb_connect_error {
    int status; /* HTTP status of a refused upgrade, 0: none */
    char why[240];
};

int eb_connection_open(struct eb_connection **ret, eb_client *client, struct eb_connect_error *err);
void eb_connection_destroy(struct eb_connection *connection);
int eb_connection_fd(struct eb_connection *connection);
/** The binary protocol is spoken on it. */
bool eb_connection_binary(const struct eb_connection *connection);
/** Frame and mask one message of that protocol into the out buffer. 0 or -errno. */
int eb_connection_send(struct eb_connection *connection, const char *data, size_t len);
int eb_connection_ping(struct eb_connection *connection);
int eb_connection_close_frame(struct eb_connection *connection, int code);
/** Bytes not yet taken by the kernel. */
size_t eb_connection_unsent(const struct eb_connection *connection);
/** Give the kernel what it takes. 0 or -errno. */
int eb_connection_flush(struct eb_connection *connection);
/**
 * Read what is there and hand each message to @message, until it returns non-zero or a turn's share is
 * read. 0, -EAGAIN when nothing is left, else the connection is over and why is said.
 */
int eb_connection_read(struct eb_connection *connection,
                       int (*message)(eb_client *client, const char *text, size_t len));
/** Bytes that were read from the kernel and not looked at yet. */
bool eb_connection_buffered(const struct eb_connection *connection);
const char *eb_connection_why(const struct eb_connection *connection);
int eb_connection_close_code(const struct eb_connection *connection); /* the broker's, 0: none */
bool eb_connection_heard(struct eb_connection *connection); /* anything since the last call? */

/* ---- the subscription ---- */

enum eb_sub_state {
    EB_SUB_IDLE,   /* to be asked for on the next turn */
    EB_SUB_ASKED,  /* asked for: what comes until the answer is an older stream's */
    EB_SUB_ACTIVE, /* answered */
    EB_SUB_PARKED, /* taken back: its queue is full, or the broker wants us later */
    EB_SUB_DEAD
};

struct eb_subscription {
    eb_client *client;            /* [I] */
    eb_subscription *prev, *next; /* [C] of the client */
    eb_subscription *ready_next;  /* [C] */
    unsigned refs;                /* [C] one for the client's list, one per thread inside */
    struct eb_pattern pattern;    /* [I] */
    eb_subscribe_options options; /* [I] its texts are not ours */
    enum eb_sub_state state;      /* [C] */
    bool ended;                   /* [C] by its owner: nothing is handed over any more */
    bool ready;                   /* [C] in the callback thread's list */
    bool told;                    /* [C] `failed` was called */
    bool in_callback;             /* [C] */
    bool live, was_live;          /* [C] on this connection; ever */
    bool answered;                /* [C] the broker said ok once */
    bool asked_live;              /* [C] the open request has no starting_seq */
    bool full;                    /* [C] from max_queued down to half of it */
    uint64_t request;             /* [C] id of the open request */
    uint64_t after;         /* [C] the first request goes behind the publishes up to this id */
    uint64_t seen;          /* [C] everything up to it was taken in: drop what comes again */
    uint64_t gap_to;        /* [C] a gap reaches to here: resume behind it */
    int64_t retry_at;       /* [C] parked by the broker: when to ask again; 0: when there is room */
    uint64_t handed;        /* [C] last seq handed over */
    char epoch[37];         /* [C] of `seen`, "" while unknown */
    char handed_epoch[37];  /* [C] of `handed` */
    int result;             /* [C] why it is dead */
    char why[240];          /* [C] */
    struct eb_item **queue; /* [C] ring */
    size_t head, count, cap, bytes; /* [C] */
    struct eb_item *current;        /* [C] what eb_subscription_next gave last */
    pthread_cond_t cond;            /* who pulls; who waits for the end of a callback */
    int fd;                         /* [C] eventfd, -1 until asked for */
    bool fd_set;                    /* [C] */
};

/* ---- the client ---- */

#define EB_STATES_KEPT 16

struct eb_state_change {
    eb_client_state state;
    char why[240];
};

struct eb_control {
    struct eb_control *next;
    struct eb_buf text; /* a record */
};

struct eb_client {
    struct eb_lock lock;
    pthread_cond_t
        changed;         /* state, answers, completions: whoever waits for the client as a whole */
    pthread_cond_t room; /* publishers that wait for room */
    pthread_cond_t work; /* the callback thread */

    eb_client_options options; /* [I] its texts are in url and token */
    struct eb_url url;         /* [I] */
    char *token;               /* [I] */
    int wake_fd;               /* [I] eventfd: something to do for eb-client */
    pthread_t io, cb;          /* [I] */

    eb_client_state state;  /* [C] */
    int failed_result;      /* [C] why the state is FAILED */
    bool wanted;            /* [C] somebody asked for something: connect */
    bool draining;          /* [C] no new publishes, no new events */
    bool closing;           /* [C] eb-client ends */
    bool cb_stop;           /* [C] eb-client-cb ends when its lists are empty */
    bool io_sleeps;         /* [C] eb-client must be woken */
    bool cb_sleeps;         /* [C] */
    bool paused;            /* [C] the socket is not read: a queue is full */
    bool hold;              /* [C] acks wait until the log's epoch is known again */
    unsigned inside;        /* [C] callers that wait in a function of ours */
    unsigned blocked;       /* [C] of those, publishers */
    int64_t close_deadline; /* [C] */
    char last_error[256];   /* [C] */
    char epoch[37];         /* [C] of the log, "" while unknown */

    uint64_t last_id;            /* [C] */
    struct eb_inflight inflight; /* [C] */
    size_t open; /* [C] publishes whose completion did not run yet: bounded by max_pending */
    struct eb_request *done_first, *done_last; /* [C] completions to run */
    uint64_t done_queued, done_run;            /* [C] */
    uint64_t flush_mark; /* [C] lowest id that somebody flushes up to; UINT64_MAX: nobody */

    struct eb_notice *notice_first, *notice_last; /* [C] what consumers tell the program */
    uint64_t notices_queued, notices_run;         /* [C] */
    eb_consumer *consumers;                       /* [C] */
    eb_subscription *replies;                     /* [C] of eb_request; NULL until the first */
    struct eb_asker *askers;                      /* [C] who waits for a reply */

    eb_subscription *subs;                     /* [C] */
    eb_subscription *ready_first, *ready_last; /* [C] with something for the callback thread */
    struct eb_control *control_first, *control_last; /* [C] unsubscribes */
    struct eb_state_change states[EB_STATES_KEPT];   /* [C] ring */
    unsigned states_head, states_count;              /* [C] */

    /* eb-client's own */
    struct eb_connection *connection;
    struct eb_backoff backoff;
    struct eb_lookup *lookup;
    struct eb_json json;
    struct eb_buf rest; /* of a message whose events found a queue full */
    size_t rest_at;
    struct eb_buf message; /* requests on their way into one message */
    bool joins;            /* several requests may share a message */
    bool joined;           /* they did, on this connection */
    int64_t paused_since;
    char broken[240]; /* why the connection is given up, said by a message's handler */
};

/* client.c */
void eb_client_set_state_locked(eb_client *client, eb_client_state state, const char *why);
void eb_client_set_error_locked(eb_client *client, const char *why);
/** Wake eb-client if it sleeps. */
void eb_client_wake_locked(eb_client *client);
/** The client is needed: connect. CLOSED if it is not to be had any more. */
int eb_client_want_locked(eb_client *client);
/** A caller that waited goes: eb_client_close may wait for it. */
void eb_client_leave_locked(eb_client *client);
bool eb_client_in_callback(const eb_client *client);
/** Put a record among the controls: sent before all else, and forgotten with the connection. False: no memory. */
bool eb_client_control_locked(eb_client *client, struct eb_buf *record);
int64_t eb_deadline(int64_t timeout);

/* publish.c */
/** The answer is known: complete it (L3). */
void eb_request_complete_locked(eb_client *client, struct eb_request *request, int result);
void eb_request_destroy(struct eb_request *request);
/** A publish, checked and encoded, not taken yet. 0 or a result. No lock held. */
int eb_request_make_publish(eb_client *client, const eb_publication *event,
                            struct eb_request **ret);
/** Into the table, or freed. The room is waited for until @deadline. */
int eb_request_take_locked(eb_client *client, struct eb_request *request, int64_t deadline);
/** Everything open ends with @result. */
void eb_request_complete_all_locked(eb_client *client, int result);

/* request.c */
/** Who waits for a reply looks again. */
void eb_askers_wake_locked(eb_client *client);
/** An event on the topic of our replies. */
void eb_asker_replied_locked(eb_client *client, struct eb_item *item);

/* stream.c: what the broker says, to the subscriptions it concerns */
void eb_stream_event_locked(eb_client *client, struct eb_item *item, const char *pattern);
void eb_stream_live_locked(eb_client *client, const char *pattern, uint64_t seq);
void eb_stream_gap_locked(eb_client *client, const char *pattern, const struct eb_wire *gap);
/** The answer to a subscribe; false if no subscription waits for this id. */
bool eb_stream_answer_locked(eb_client *client, const struct eb_wire *answer);
/** The broker said which log it has; acks that were made for another end. */
void eb_stream_learn_epoch_locked(eb_client *client, const char *epoch);
/** The connection ended: all that live ask again on the next one. */
void eb_stream_disconnected_locked(eb_client *client);
/** Where @sub goes on: EB_START_LIVE or a seq. */
uint64_t eb_stream_resume_from(const eb_subscription *sub);
/** Take @sub back from the broker until it has room (@retry_at 0) or until then. */
void eb_stream_park_locked(eb_subscription *sub, int64_t retry_at);
/** May the socket be left unread at @now? Parks what held it up for too long. */
bool eb_stream_pause_locked(eb_client *client, int64_t now);
/** Take the first item out; its reference is the caller's. NULL: none. */
struct eb_item *eb_stream_pop_locked(eb_subscription *sub);
void eb_stream_clear_locked(eb_subscription *sub);
void eb_stream_kill_locked(eb_subscription *sub, int result, const char *why);
/** Tell whoever reads @sub that there is something. */
void eb_stream_notify_locked(eb_subscription *sub);

/* subscribe.c */
/** A subscription of our own to the replies of eb_request; the list's reference is its only one. */
int eb_subscription_listen_locked(eb_client *client, const char *pattern, eb_subscription **ret);
void eb_subscription_unref_locked(eb_subscription *sub);
void eb_subscription_unlink_locked(eb_subscription *sub);

/**
 * answers.c: take one message of the broker. 0; 1 to end the reading turn (a queue is full); negative: the
 * connection is given up, and ->broken says why.
 */
int eb_answers_take(eb_client *client, const char *text, size_t len);
/** What is left of a message that filled a queue, if anything is: as eb_answers_take. */
int eb_answers_rest(eb_client *client);
/** Its connection ended. */
void eb_answers_forget(eb_client *client);

/* loop.c, callbacks.c: the threads */
void *eb_client_io_thread(void *client);
void *eb_client_cb_thread(void *client);
void eb_callbacks_wake_locked(eb_client *client);
/** @item is handed over: the position moves. */
void eb_subscription_moved_locked(eb_subscription *sub, const struct eb_item *item);
