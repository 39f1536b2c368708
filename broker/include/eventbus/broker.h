/*
 * <eventbus/broker.h> - run an eventbus broker inside a C program.
 *
 * A broker is one object: its log, its bus, its network front. Several may live in one process, each with
 * a file of its own. docs/embedding.md walks through it.
 *
 * Threads: a broker runs threads of its own (names in docs/architecture.md) and touches no signal, no
 * environment and no file besides those it was told. Its log lines go where eb_broker_log says (standard error).
 * Errors: functions return 0 or a negative errno value; those with @err write a sentence there.
 */
#ifndef EVENTBUS_BROKER_H
#define EVENTBUS_BROKER_H

#include <stdbool.h>
#include <stdio.h>

#include <eventbus/event.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct eb_broker eb_broker;
typedef struct eb_broker_config eb_broker_config;
typedef struct eb_broker_subscription eb_broker_subscription;

/** Room that @err wants to have. */
#define EB_BROKER_ERROR 512

/* ---- configuration: the daemon's settings by their names (docs/configuration.md) ---- */

/** All defaults, except that `listen` is empty: an embedded broker serves no port unless told. NULL: no memory. */
EB_API eb_broker_config *eb_broker_config_create(void);
EB_API void eb_broker_config_destroy(eb_broker_config *config); /* NULL is fine */
/**
 * Set one: eb_broker_config_set(c, "db", "events.db", err). A list is extended by each call.
 * -EINVAL with a sentence in @err that says what would be right. Threads: one at a time for one config.
 */
EB_API int eb_broker_config_set(eb_broker_config *config, const char *key, const char *value,
                                char err[EB_BROKER_ERROR]);
/** Read an INI file. -errno if it cannot be read, -EINVAL with the first bad line in @err. */
EB_API int eb_broker_config_load(eb_broker_config *config, const char *path,
                                 char err[EB_BROKER_ERROR]);

/* ---- life ---- */

/**
 * Open the log, start the threads, listen. @config is copied.
 * Errors, with a sentence in @err: -EINVAL (settings), -EBUSY (another broker has the file), -EBADMSG
 * (damaged), -EACCES, -EADDRINUSE, -EIO, -ENOMEM. Threads: any.
 */
EB_API int eb_broker_start(const eb_broker_config *config, eb_broker **ret,
                           char err[EB_BROKER_ERROR]);
/**
 * First half of the end: no new connections and calls (they return -ESHUTDOWN from now on), what is in flight is
 * committed and answered, queues are sent within drain_timeout, WebSockets close with 1001, streams end their
 * bodies, nothing is suspended in libmicrohttpd any more. Subscriptions in the process go on. A program whose
 * own daemon serves the bus (<eventbus/broker_mhd.h>) calls it before MHD_stop_daemon; one whose threads
 * publish calls it before it joins them. Again: nothing. NULL is fine. Not from a callback.
 */
EB_API void eb_broker_quiesce(eb_broker *broker);
/**
 * The end: quiesce if that was not done, end the subscriptions that are still open (their handles are gone with
 * it), close the log, free all. Calls under way are waited for; none may begin once this was called.
 * Order with a daemon of the program's own: eb_broker_quiesce, MHD_stop_daemon, eb_broker_stop. NULL is fine. Not
 * from a callback.
 */
EB_API void eb_broker_stop(eb_broker *broker);
/** Address @i that is listened on, as "127.0.0.1:3000" or "unix:PATH" (port 0 resolved); NULL behind the last. Lives as the broker. */
EB_API const char *eb_broker_address(eb_broker *broker, size_t i);
/** Level error|warn|info|debug and format text|json for all brokers of the process; @file NULL: standard error. 0 or -errno. */
EB_API int eb_broker_log(const char *level, const char *format, const char *file);

/* ---- publish and subscribe in-process ---- */

typedef struct eb_broker_publish {
    const char *topic;   /* NUL-terminated UTF-8; "$…" is refused */
    const void *payload; /* may be NULL when payload_len is 0 */
    size_t payload_len;
    const char *content_type;   /* NULL: text/plain */
    const char *message_id;     /* NULL: the broker makes one; else the key of deduplication */
    const char *const *headers; /* name, value, name, value, …, NULL; or NULL */
    int64_t ttl_s;              /* -1: default_ttl; 0: no expiry */
    /* From here on 0 means: not asked for (PROTOCOL 8). */
    int64_t deliver_at_ms; /* ms since 1970: it enters the log then */
    int64_t delay_ms;      /* the same, from now; not both */
    bool
        expects_last_seq; /* stored only if its topic's last seq is expected_last_seq (0: the topic is new) */
    uint64_t expected_last_seq;
} eb_broker_publish;

typedef struct eb_broker_ack {
    uint64_t seq; /* 0: it is scheduled */
    bool duplicate;
    char message_id[37];
    bool scheduled; /* it is kept and enters the log when it is due */
} eb_broker_ack;

/**
 * Store one event; returns after its commit (as safe as `durability` says). @ret may be NULL.
 * Errors, with a sentence in @err (which may be NULL): -EINVAL (topic, id, headers, ttl), -EPERM ($ topic),
 * -EMSGSIZE (payload), -EEXIST (id used for another event), -ESTALE (expected_last_seq: another is the topic's last), -ENOSPC (disk), -EIO, -ESHUTDOWN (stopping), -ENOMEM.
 * Threads: any but a subscription's callback may wait here; from a callback it works too.
 */
EB_API int eb_broker_publish_event(eb_broker *broker, const eb_broker_publish *event,
                                   eb_broker_ack *ret, char err[EB_BROKER_ERROR]);
/** All of @count events or none, with consecutive seqs. @rets has room for @count, or is NULL. As above. */
EB_API int eb_broker_publish_batch(eb_broker *broker, const eb_broker_publish *events, size_t count,
                                   eb_broker_ack *rets, char err[EB_BROKER_ERROR]);
/** Acknowledge (PROTOCOL 2.2): -ENOENT when @seq is above the last one. Returns after its commit. */
EB_API int eb_broker_acknowledge(eb_broker *broker, uint64_t seq, char err[EB_BROKER_ERROR]);

typedef struct eb_broker_handler {
    /* One event; @message lives as long as the call. On the subscription's own thread `eb-sub`, in seq order. */
    void (*event)(void *user, const eb_message *message);
    /* Events between @from_seq and @to_seq may be missing; @reason as in PROTOCOL 2.4. May be NULL. */
    void (*gap)(void *user, uint64_t from_seq, uint64_t to_seq, const char *reason);
    /* The replay has caught up, up to @seq. May be NULL. */
    void (*live)(void *user, uint64_t seq);
} eb_broker_handler;

#define EB_BROKER_LIVE UINT64_MAX       /* starting_seq: live events only */
#define EB_BROKER_LAST (UINT64_MAX - 1) /* the newest event of each topic first, then what comes */

/**
 * Subscribe to a NULL-terminated list of patterns as one stream. @starting_seq as in PROTOCOL 2.3,
 * EB_BROKER_LIVE or EB_BROKER_LAST. Returns when it stands; *@ret is set before the first callback. A slow callback is fed from the
 * log, it loses nothing and slows nobody. A callback may publish, acknowledge and subscribe; @err may be NULL.
 * -EINVAL (pattern), -ENOMEM, -ESHUTDOWN.
 */
EB_API int eb_broker_subscribe(eb_broker *broker, const char *const *patterns,
                               uint64_t starting_seq, const eb_broker_handler *handler, void *user,
                               eb_broker_subscription **ret, char err[EB_BROKER_ERROR]);
/** End it. No callback runs after this returned (from the callback itself: after that callback). NULL is fine. */
EB_API void eb_broker_unsubscribe(eb_broker_subscription *subscription);

/** The last committed seq, and the log's epoch (lives as the broker). */
EB_API uint64_t eb_broker_last_seq(eb_broker *broker);
EB_API const char *eb_broker_epoch(eb_broker *broker);

#ifdef __cplusplus
}
#endif
#endif
