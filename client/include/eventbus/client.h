/*
 * <eventbus/client.h> - talk to an eventbus broker from a C (or C++) program.
 *
 *   eb_client_options options = EB_CLIENT_OPTIONS_INIT;
 *   options.url = "ws://127.0.0.1:3000/ws";
 *   eb_client *client;
 *   eb_client_open(&options, &client, NULL);
 *   eb_publication event = {.topic = "user.created", .payload = "{}", .payload_len = 2, .ttl_s = EB_TTL_BROKER};
 *   eb_client_publish_wait(client, &event, NULL, 5000);
 *   eb_client_close(client, 5000);
 *
 * Work that must not get lost is taken by a durable consumer (eb_consumer_open); questions are eb_request; whoever
 * keeps what it makes of the events in SQLite finds the transaction for it in <eventbus/client_sqlite.h>.
 *
 * The library hides the network: it reconnects with backoff and jitter, subscribes again after the last seq it
 * handed to the caller (with the log's epoch), and sends unanswered publishes again under the same message id, so
 * that each is stored once. What it cannot hide it says: gaps, a publish in doubt, a state.
 *
 * Threads: an open client has one thread `eb-client` that owns the socket. Callbacks run on a second thread,
 * `eb-client-cb`, one at a time, never with a lock of the library held; they may call every function here
 * except those that wait (named below) and eb_client_close. The events of durable consumers come on threads of
 * their own, `eb-worker`, where waiting is allowed. Every function may be called from any thread at any time until
 * eb_client_close. No global state, no signals (SIGPIPE is never raised), no output, no
 * environment read.
 *
 * Results: 0 (or a count) or one of enum eb_result, negative; eb_result_text says it in words, and
 * eb_client_last_error what the broker or the network said last.
 */
#ifndef EVENTBUS_CLIENT_H
#define EVENTBUS_CLIENT_H

#include <stdbool.h>

#include <eventbus/event.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct eb_client eb_client;
typedef struct eb_subscription eb_subscription;

typedef enum eb_result {
    EB_RESULT_OK = 0,
    /* an argument, or what the broker calls an invalid topic, pattern, id or request */
    EB_RESULT_INVALID = -1,
    EB_RESULT_MEMORY = -2,
    /* not done in time; a publish goes on, and is stored once */
    EB_RESULT_TIMEOUT = -3,
    /* the client was closed or drained, or has failed (max_retries, token) */
    EB_RESULT_CLOSED = -4,
    /* the bounds of what may wait are reached (when_full = EB_WHEN_FULL_ERROR, or in a callback) */
    EB_RESULT_FULL = -5,
    /* the connection ended before the answer to a request that must not be repeated */
    EB_RESULT_DISCONNECTED = -6,
    /* a publish stayed unanswered for longer than dedupe_window: stored or not */
    EB_RESULT_IN_DOUBT = -7,
    EB_RESULT_UNAUTHORIZED = -8,
    EB_RESULT_FORBIDDEN = -9,
    EB_RESULT_NOT_FOUND = -10,
    EB_RESULT_TOO_LARGE = -11,
    /* the message id belongs to another event */
    EB_RESULT_ID_REUSED = -12,
    /* limit_exceeded or rate_limited: the request was refused, not the connection */
    EB_RESULT_LIMIT = -13,
    EB_RESULT_STORAGE_FULL = -14,
    EB_RESULT_UNAVAILABLE = -15,
    /* the broker's fault, or an answer that cannot be understood */
    EB_RESULT_INTERNAL = -16,
    EB_RESULT_CONFLICT = -17,
    /* a call that waits, from a callback */
    EB_RESULT_WOULD_DEADLOCK = -18,
    /* a consumer's answer came after its delivery had ended (ack_wait, another delivery, another's answer) */
    EB_RESULT_LATE = -19,
    /* a consumer's answer for an event that was never delivered, or was forgotten by seek */
    EB_RESULT_UNKNOWN = -20
} eb_result;

EB_API const char *eb_result_text(int result);

typedef enum eb_client_state {
    EB_STATE_IDLE, /* nothing was asked for yet */
    EB_STATE_CONNECTING,
    EB_STATE_CONNECTED,
    EB_STATE_WAITING, /* between two tries */
    /* max_retries are used up, or the broker refused for good (token, path); calls return CLOSED */
    EB_STATE_FAILED,
    EB_STATE_CLOSED
} eb_client_state;

typedef enum eb_when_full { EB_WHEN_FULL_BLOCK, EB_WHEN_FULL_ERROR } eb_when_full;

/* How it is spoken with the broker; what is promised is the same (docs/binary.md). */
typedef enum eb_protocol {
    EB_PROTOCOL_ANY, /* binary if the broker has it, else JSON */
    EB_PROTOCOL_JSON,
    EB_PROTOCOL_BINARY
} eb_protocol;

/* Times are milliseconds. Copied by eb_client_open. The defaults are those of EB_CLIENT_OPTIONS_INIT. */
typedef struct eb_client_options {
    /* sizeof(eb_client_options): set by EB_CLIENT_OPTIONS_INIT */
    size_t size;
    /* "ws://host[:port][/path]"; port 80 and path "/ws" if none */
    const char *url;
    /* NULL: none */
    const char *token;
    /* eb_client_open waits for the first connection, up to connect_timeout; else it connects on first use */
    bool connect_now;
    /* 10,000: name, TCP and upgrade of one try */
    int64_t connect_timeout;
    /* 500: the first wait between two tries; it doubles, with jitter of +-25 % … */
    int64_t reconnect_interval;
    /* 15,000: … up to this */
    int64_t reconnect_interval_max;
    /* -1: for ever; n: after a failed try so many more in a row, then the client has failed */
    int max_retries;
    /* 15,000: silence after which we ping, and after as long again reconnect; 0: off */
    int64_t ping_interval;
    /* 65,536 publishes (a batch is one) and acks that wait for an answer, or for their completion to be called */
    size_t max_pending;
    /* 64 MiB of them, as they go over the wire: also while the broker is away. One beyond it alone is TOO_LARGE */
    size_t max_pending_bytes;
    /* block the publisher, or EB_RESULT_FULL */
    eb_when_full when_full;
    /* 600,000: not above the broker's; a publish unanswered for longer since it was first sent ends as in doubt */
    int64_t dedupe_window;
    /* 64 MiB: a larger message from the broker ends the connection */
    size_t max_message;
    /* Each change, in order, on eb-client-cb; @why is "" or what happened. NULL: none */
    void (*state)(void *user, eb_client_state state, const char *why);
    void *user;
    /* EB_PROTOCOL_ANY: to see what goes over the wire, say, ask for JSON */
    eb_protocol protocol;
} eb_client_options;

#define EB_CLIENT_OPTIONS_INIT                                                                     \
    {                                                                                              \
        sizeof(eb_client_options), NULL, NULL, false, 10000, 500, 15000, -1, 15000, 65536,         \
            (size_t)64 << 20, EB_WHEN_FULL_BLOCK, 600000, (size_t)64 << 20, NULL, NULL,            \
            EB_PROTOCOL_ANY                                                                        \
    }

/**
 * Make a client. @err (may be NULL) gets a static text when the result is INVALID.
 *
 * With connect_now it waits; then it returns TIMEOUT when there was no connection in time, UNAUTHORIZED,
 * FORBIDDEN, NOT_FOUND … when the broker refused for good, CLOSED when max_retries were used up, and there is
 * no client.
 */
EB_API int eb_client_open(const eb_client_options *options, eb_client **ret, const char **err);
/**
 * Drain (below) for up to @timeout, close with 1000, end the threads, complete what is open with
 * EB_RESULT_CLOSED, free the client and its subscriptions. No callback runs after this returned. Waits; not
 * from a callback (EB_RESULT_WOULD_DEADLOCK). NULL is fine. Returns 0, or EB_RESULT_TIMEOUT when the drain was cut.
 */
EB_API int eb_client_close(eb_client *client, int64_t timeout);
EB_API eb_client_state eb_client_get_state(eb_client *client);
/** Wait until connected. 0, TIMEOUT, CLOSED. @timeout -1: for ever (here and below). */
EB_API int eb_client_wait_connected(eb_client *client, int64_t timeout);
/** Copy what was said last (broker or network), for people. Returns its length; @buf is always ended by NUL. */
EB_API size_t eb_client_last_error(eb_client *client, char *buf, size_t size);

/* ---- publish ---- */

typedef struct eb_publication {
    const char *topic; /* NUL-terminated */
    const void *payload;
    size_t payload_len;
    const char *content_type;   /* NULL: text/plain */
    const char *message_id;     /* NULL: a UUIDv7 made here, so that sending again is safe */
    const char *const *headers; /* name, value, …, NULL; or NULL */
    int64_t ttl_s;              /* 0: no expiry; EB_TTL_BROKER: the broker's default */
    /*
     * From here on 0 means: not asked for. So initialise the whole struct, as = {0} or by naming members does.
     * Later: kept by the broker and put into the log when it is due; the receipt has `scheduled` and no seq.
     */
    int64_t deliver_at_ms; /* ms since 1970 */
    int64_t delay_ms;      /* the same, from the broker's now; not both */
    /* Only if its topic's last seq is expected_last_seq (0: the topic is new); else EB_RESULT_CONFLICT. */
    bool expects_last_seq;
    uint64_t expected_last_seq;
} eb_publication;
#define EB_TTL_BROKER (-1)

typedef struct eb_receipt {
    uint64_t seq;   /* 0: it is scheduled */
    bool duplicate; /* the id was known: this is the first one's seq */
    char message_id[37];
    bool scheduled; /* it is kept, and enters the log when it is due */
} eb_receipt;

/**
 * Completion: @result 0 (stored, as safe as the broker's durability), a refusal, IN_DOUBT or CLOSED. Exactly
 * once for each accepted call. @receipts has @count entries when @result is 0; they live as long as the call.
 */
typedef void eb_publish_fn(void *user, int result, const eb_receipt *receipts, size_t count);

/**
 * Hand over one event and return; everything is copied. @done may be NULL. Blocks only when full and
 * when_full = BLOCK (from a callback it then returns FULL). INVALID, MEMORY, FULL, CLOSED.
 */
EB_API int eb_client_publish(eb_client *client, const eb_publication *event, eb_publish_fn *done,
                             void *user);
/**
 * Publish and wait for the answer; also waits for room (when_full = BLOCK), FULL when there was none in time.
 * @ret may be NULL. On TIMEOUT it goes on being sent. Waits.
 */
EB_API int eb_client_publish_wait(eb_client *client, const eb_publication *event, eb_receipt *ret,
                                  int64_t timeout);
/** All of it or none, in one transaction. @rets has room for @count. */
EB_API int eb_client_publish_batch(eb_client *client, const eb_publication *events, size_t count,
                                   eb_publish_fn *done, void *user);
EB_API int eb_client_publish_batch_wait(eb_client *client, const eb_publication *events,
                                        size_t count, eb_receipt *rets, int64_t timeout);
/** Wait until everything handed over before is answered and completed (acks too). 0, TIMEOUT, CLOSED. Waits. */
EB_API int eb_client_flush(eb_client *client, int64_t timeout);
/**
 * The end of the work, before close: no new publishes and subscriptions (they return CLOSED), no new events;
 * what subscriptions with callbacks hold is handed over, then flush. Pulled ones keep what they hold for
 * eb_subscription_next. 0, TIMEOUT or CLOSED. Waits.
 */
EB_API int eb_client_drain(eb_client *client, int64_t timeout);
/** Publishes that wait for an answer now. */
EB_API size_t eb_client_pending(eb_client *client);

/* ---- subscribe ---- */

typedef struct eb_gap_info {
    const char *pattern;
    uint64_t from_seq, to_seq; /* events between may be missing */
    const char
        *reason; /* "retention", "epoch", "damaged", "overflow", "deleted"; others may come */
} eb_gap_info;

#define EB_START_LIVE UINT64_MAX

typedef struct eb_subscribe_options {
    size_t size;
    const char *pattern;
    /* EB_START_LIVE, or replay from there (0, 1: all) */
    uint64_t starting_seq;
    /* the log that starting_seq belongs to, or NULL */
    const char *epoch;
    /* the replay passes over what is acknowledged */
    bool pending_only;
    /* A subscription with @event hands over by callback; without, it is pulled (eb_subscription_next). */
    void (*event)(void *user, eb_subscription *subscription, const eb_message *message);
    /* Events may be missing; may be NULL. For a pulled one on the thread that pulls, as is @live. */
    void (*gap)(void *user, eb_subscription *subscription, const eb_gap_info *gap);
    /* A replay (the first, or after a reconnect) has caught up to @seq; may be NULL. */
    void (*live)(void *user, eb_subscription *subscription, uint64_t seq);
    /*
     * The broker refused it (again after a reconnect, say) or the client failed: the subscription is dead and
     * only to be ended. May be NULL, and is not for pulled ones: they learn it from eb_subscription_next.
     */
    void (*failed)(void *user, eb_subscription *subscription, int result, const char *why);
    void *user;
    /*
     * What is held here before it is handed over: 1,024 events and 16 MiB. When one is reached the socket is
     * read no further, as long as nobody else needs it; else up to twice as much is held, and beyond that the
     * events stay at the broker until there is room. Answers and other subscriptions never wait for a slow one.
     */
    size_t max_queued;
    size_t max_queued_bytes;
} eb_subscribe_options;
#define EB_SUBSCRIBE_OPTIONS_INIT                                                                  \
    {                                                                                              \
        sizeof(eb_subscribe_options), NULL, UINT64_MAX, NULL, false, NULL, NULL, NULL, NULL, NULL, \
            1024, (size_t)16 << 20                                                                 \
    }

/**
 * Subscribe; waits up to @timeout for the broker's answer (0: do not wait; `failed` tells a refusal). One
 * subscription a pattern and client: the same pattern again is INVALID. With @timeout != 0 it waits; when it
 * then returns TIMEOUT or a refusal, there is no subscription. It takes effect behind the publishes handed over
 * before. With 0 it may be called before there is a broker.
 */
EB_API int eb_client_subscribe(eb_client *client, const eb_subscribe_options *options,
                               int64_t timeout, eb_subscription **ret);
/**
 * End it and free it: no callback of it begins after this returned, a callback that runs is waited for unless we
 * are in it. Events not handed over are dropped.
 */
EB_API int eb_subscription_end(eb_subscription *subscription);
/**
 * Pull: the next event, waiting up to @timeout (0: look only). 1: *@ret is set and lives until the next call for
 * this subscription. 0: none in time. CLOSED; or the refusal that killed it. A gap is told by `gap` before, on
 * the calling thread. One thread at a time for each subscription. INVALID if it has @event. Waits, but with 0.
 */
EB_API int eb_subscription_next(eb_subscription *subscription, const eb_message **ret,
                                int64_t timeout);
/** Readable while eb_subscription_next has something: for poll and epoll. Do not read or close it. */
EB_API int eb_subscription_fd(eb_subscription *subscription);
/** Last seq handed over (0: none), and the log's epoch as known ("" before the first connection), for a caller that keeps its own cursor. */
EB_API uint64_t eb_subscription_position(eb_subscription *subscription, char epoch[37]);

/* ---- acknowledge ---- */

/**
 * Mark one event of the log as processed. Given again after a reconnect, unless the log became another
 * (DISCONNECTED). @timeout 0: do not wait for the answer; flush and close do. NOT_FOUND, FULL, TIMEOUT, CLOSED …
 */
EB_API int eb_client_acknowledge(eb_client *client, uint64_t seq, int64_t timeout);

/* ---- request and reply ---- */

/**
 * Publish @request with the headers `reply_to` and `correlation_id`, and wait for the first reply to it. 0: *@ret is
 * set, to be freed with eb_reply_free. TIMEOUT: nobody replied in time (nobody may listen); what was published stays
 * published, so give it a ttl_s. A refusal of the publish (or of the subscription that replies come by) is returned
 * at once. Waits; not from a callback on eb-client-cb. The headers of @request must not hold those two themselves.
 */
EB_API int eb_request(eb_client *client, const eb_publication *request, const eb_message **ret,
                      int64_t timeout);
/** NULL is fine. */
EB_API void eb_reply_free(const eb_message *reply);
/**
 * The answering side: publish @payload to where @request says (header `reply_to`, which must be `_reply.…`), with its
 * `correlation_id`. @content_type NULL: text/plain. Completion as for eb_client_publish, @done may be NULL. INVALID
 * when @request is no request.
 */
EB_API int eb_reply(eb_client *client, const eb_message *request, const void *payload, size_t len,
                    const char *content_type, eb_publish_fn *done, void *user);

/* ---- durable consumers ---- */

/*
 * A named cursor that the broker keeps: it remembers, across connections and crashes, what was handled. All who use
 * the same name share its work. Delivery is at least once: an event comes again until it is acknowledged.
 */
typedef struct eb_consumer eb_consumer;

typedef enum eb_consumer_start {
    EB_CONSUMER_NEW, /* what comes after it was made */
    EB_CONSUMER_ALL, /* all that is kept */
    EB_CONSUMER_SEQ, /* start_at is a seq */
    EB_CONSUMER_TIME /* start_at is a time, ms since 1970 */
} eb_consumer_start;

/* How the consumer is to be made if there is none. Times are milliseconds. Copied. */
typedef struct eb_consumer_settings {
    size_t size;
    const char *const *patterns; /* 1 to 16, NULL at the end */
    eb_consumer_start from;
    int64_t start_at;
    int64_t ack_wait; /* unanswered for so long, an event is delivered again */
    uint32_t
        max_deliver; /* after so many deliveries without an ack it is a dead letter; 0: never */
    const int64_t
        *backoff; /* backoff_count waits before the 2nd, 3rd … delivery; the last repeats */
    size_t backoff_count;
    uint32_t max_inflight; /* out and unanswered, for the whole consumer */
    const char *order;     /* "none", "topic" or "header:NAME": one after the other for each key */
    uint32_t order_window; /* events looked at past the first open one */
    bool dead_letter;      /* false: what is given up is only counted */
} eb_consumer_settings;
#define EB_CONSUMER_SETTINGS_INIT                                                                  \
    {                                                                                              \
        sizeof(eb_consumer_settings), NULL, EB_CONSUMER_NEW, 0, 30000, 0, NULL, 0, 256, NULL,      \
            10000, true                                                                            \
    }

/* One delivery. What is not marked is the library's. */
typedef struct eb_delivery {
    const eb_message *message;
    uint32_t number;   /* of this delivery of the event, from 1: more than 1 is a repetition */
    const char *epoch; /* of the log that its seq belongs to, for eb_once_apply_any */
    /* For the callback to set before it returns EB_NACK: come again after so many ms; EB_DELAY_BACKOFF as it comes */
    int64_t delay;
    /* For the callback to set before it returns EB_TERM; "" as it comes */
    char reason[200];
} eb_delivery;
#define EB_DELAY_BACKOFF (-1)

typedef enum eb_verdict {
    EB_ACK,  /* handled: never again */
    EB_NACK, /* not now: deliver it again, as the backoff says or after `delay` */
    EB_TERM, /* never again, it cannot be handled: a dead letter */
    EB_LATER /* the program answers later: eb_consumer_ack, _nack or _term, from any thread */
} eb_verdict;

#define EB_IN_PROGRESS_AUTO (-1)

typedef struct eb_consumer_options {
    size_t size;
    const char *name; /* 1 to 64 of A-Z a-z 0-9 _ - */
    /* Make it so if there is none (then CONFLICT says that it is there with other settings); NULL: it must be there */
    const eb_consumer_settings *settings;
    /*
     * An event, on one of `threads` threads `eb-worker` of this consumer; waiting is allowed there, closing this
     * consumer or its client is not. Without it the consumer is pulled (eb_consumer_next).
     */
    eb_verdict (*event)(void *user, eb_consumer *consumer, eb_delivery *delivery);
    unsigned threads;      /* 1, at most 256; with `event` only */
    uint32_t max_inflight; /* 64: out here at most, handed over or waiting for a thread */
    /*
     * While a callback runs, and while an event waits here for a thread, tell the broker every so many ms that it
     * is in progress, so that ack_wait does not end it. 0: off. EB_IN_PROGRESS_AUTO: a third of settings->ack_wait.
     */
    int64_t in_progress;
    /*
     * The rest comes on eb-client-cb and may be NULL.
     * What became of an answer: 0, LATE, UNKNOWN, or why it could not be given. Not for those that were waited for.
     */
    void (*answered)(void *user, eb_consumer *consumer, uint64_t seq, uint32_t delivery,
                     eb_verdict verdict, int result);
    /* Events that this consumer may miss; @gap->pattern is NULL. */
    void (*gap)(void *user, eb_consumer *consumer, const eb_gap_info *gap);
    /* The broker ended the attachment: "deleted", "push", "seek", "shutdown". After the last two it is renewed. */
    void (*released)(void *user, eb_consumer *consumer, const char *reason);
    /* Refused (again after a reconnect, say), deleted, or the client failed: nothing comes any more, only close it. */
    void (*failed)(void *user, eb_consumer *consumer, int result, const char *why);
    void *user;
} eb_consumer_options;
#define EB_CONSUMER_OPTIONS_INIT                                                                   \
    {                                                                                              \
        sizeof(eb_consumer_options), NULL, NULL, NULL, 1, 64, 0, NULL, NULL, NULL, NULL, NULL      \
    }

/**
 * Consume. Waits up to @timeout for the broker's answer (0: do not wait; `failed` tells a refusal); when it then
 * returns TIMEOUT or a refusal, there is no consumer here. CONFLICT: it is there with other settings, or is a
 * webhook's. INVALID also when this client consumes by that name already, or the broker is older than consumers
 * (eb_client_last_error says so). With 0 it may be called before there is a broker. After a reconnect it consumes
 * again by itself.
 */
EB_API int eb_consumer_open(eb_client *client, const eb_consumer_options *options, int64_t timeout,
                            eb_consumer **ret);
/**
 * Stop in order: nothing more is handed over; callbacks run to their end; what was handed over (EB_LATER, pulled) is
 * waited for until it is answered, and the answers until the broker took them; then the rest goes back to the broker
 * for others. Frees the consumer; no callback of it runs after this returned. 0, or TIMEOUT when @timeout ended the
 * waiting: what was unanswered then will be delivered again. A callback that runs is waited for in any case. Not from a
 * callback, its own or on eb-client-cb (WOULD_DEADLOCK). NULL is fine.
 */
EB_API int eb_consumer_close(eb_consumer *consumer, int64_t timeout);
/**
 * Pull: the next event, waiting up to @timeout (0: look only, -1: for ever). 1: *@ret is set, and lives until it is
 * answered or the consumer is closed. 0: none in time. CLOSED; or the refusal that ended it. Any number of threads.
 * INVALID if it has `event`. Waits, but with 0.
 */
EB_API int eb_consumer_next(eb_consumer *consumer, const eb_delivery **ret, int64_t timeout);
/**
 * Answer a delivery: EB_LATER's, a pulled one's, also one of a connection that ended or of an earlier run. They go out
 * together, many in one request, and again after a reconnect until the broker answered them (unless the log became
 * another: DISCONNECTED). An ack counts whoever has the event; the others only for that @delivery (0: whichever it is).
 * 0; INVALID; CONFLICT when it was answered otherwise before; FULL (max_pending of them wait); CLOSED. What became
 * of it `answered` tells.
 */
EB_API int eb_consumer_ack(eb_consumer *consumer, uint64_t seq, uint32_t delivery);
/** @delay in ms, or EB_DELAY_BACKOFF. */
EB_API int eb_consumer_nack(eb_consumer *consumer, uint64_t seq, uint32_t delivery, int64_t delay);
/** @reason may be NULL; at most 199 bytes of it are kept. */
EB_API int eb_consumer_term(eb_consumer *consumer, uint64_t seq, uint32_t delivery,
                            const char *reason);
/** Count ack_wait anew. Sent once and not repeated; no answer is told. */
EB_API int eb_consumer_in_progress(eb_consumer *consumer, uint64_t seq, uint32_t delivery);
/**
 * Acknowledge and wait until the broker committed it: 0 (it never comes again), LATE, UNKNOWN, TIMEOUT (it goes on being
 * sent), CLOSED … Waits.
 */
EB_API int eb_consumer_ack_wait(eb_consumer *consumer, uint64_t seq, uint32_t delivery,
                                int64_t timeout);

typedef struct eb_consumer_figures {
    size_t size;       /* sizeof(eb_consumer_figures), set by the caller */
    bool attached;     /* the broker answered the consume of this connection */
    size_t held;       /* waiting here for a thread or for eb_consumer_next */
    size_t handed;     /* with the program, unanswered */
    size_t answers;    /* given by the program, not answered by the broker yet */
    uint64_t received; /* deliveries so far */
} eb_consumer_figures;
EB_API int eb_consumer_get_figures(eb_consumer *consumer, eb_consumer_figures *ret);

#ifdef __cplusplus
}
#endif
#endif
