/*
 * <eventbus/broker_consumer.h> - durable consumers and request/reply inside the process that runs the broker.
 *
 * A consumer is a named cursor that the broker keeps in the log's file: it remembers, across restarts and crashes, what was
 * handled (docs/delivery.md). The workers of one name share its events, those in the process with those that come over
 * WebSocket, HTTP or the client library. Delivery is at least once.
 *
 *   eb_broker_consumer_put(broker, "billing", "{\"patterns\":[\"order.*\"],\"ack_wait\":10}", NULL, err);
 *   eb_broker_work(broker, "billing", NULL, &handler, user, &worker, err);
 */
#ifndef EVENTBUS_BROKER_CONSUMER_H
#define EVENTBUS_BROKER_CONSUMER_H

#include <eventbus/broker.h>

#ifdef __cplusplus
extern "C" {
#endif

/**
 * Make the consumer @name, or replace all its settings. @settings: a JSON object as `PUT /v1/consumers/{name}` takes it, with
 * at least "patterns". @ret_created may be NULL. Returns after its commit.
 * -EINVAL (name, settings: @err names the member), -ESTALE (it is there with another `from` or `order`), -EMFILE
 * (max_consumers), -ENOSPC, -EIO, -ESHUTDOWN. Threads: any; from a callback it works too.
 */
EB_API int eb_broker_consumer_put(eb_broker *broker, const char *name, const char *settings,
                                  bool *ret_created, char err[EB_BROKER_ERROR]);
/** End it: what it remembers goes, its workers are released. -ENOENT; else as above. */
EB_API int eb_broker_consumer_delete(eb_broker *broker, const char *name,
                                     char err[EB_BROKER_ERROR]);

typedef struct eb_broker_consumer_state {
    uint64_t cursor;   /* all up to here is done, or does not match */
    uint64_t pending;  /* known to be open, and with no worker just now */
    uint64_t inflight; /* out with workers */
    uint64_t redelivered, dead, lost;
    uint64_t lag_events; /* of the log behind the cursor: an upper bound of what is to be done */
    int64_t lag_ms;      /* age of the oldest event that is not done; 0: none */
    uint32_t workers;
} eb_broker_consumer_state;
/** -ENOENT. Threads: any. */
EB_API int eb_broker_consumer_get(eb_broker *broker, const char *name,
                                  eb_broker_consumer_state *ret, char err[EB_BROKER_ERROR]);

/* ---- workers ---- */

typedef struct eb_broker_worker eb_broker_worker;

typedef enum eb_broker_verdict {
    EB_BROKER_DONE, /* acknowledge: never delivered again */
    EB_BROKER_AGAIN, /* not now: delivered again after delivery->delay_ms, or as the consumer's backoff says */
    EB_BROKER_GIVE_UP, /* never again: a dead letter with delivery->reason */
    EB_BROKER_LATER, /* the program answers with eb_broker_answer; until then it is out, at most ack_wait */
} eb_broker_verdict;

typedef struct eb_broker_delivery {
    const char *consumer;
    uint32_t number;    /* from 1: the how many-eth time this event is delivered to this consumer */
    int64_t delay_ms;   /* the callback may set it; -1 (as it comes): as the backoff says */
    const char *reason; /* the callback may set it; copied when it returns */
} eb_broker_delivery;

typedef struct eb_broker_worker_handler {
    /* One event; both lives as long as the call. On one of the worker's threads `eb-work`. */
    eb_broker_verdict (*event)(void *user, const eb_message *message, eb_broker_delivery *delivery);
    /* Events from @from_seq to @to_seq may never be delivered: @reason as in PROTOCOL 2.4. May be NULL. */
    void (*gap)(void *user, uint64_t from_seq, uint64_t to_seq, const char *reason);
    /* It gets nothing any more, not asked for: @reason is "deleted", "seek" or "push". End it. May be NULL. */
    void (*released)(void *user, const char *reason);
} eb_broker_worker_handler;

typedef struct eb_broker_worker_options {
    unsigned threads;      /* callbacks at a time; 0: 1 */
    uint32_t max_inflight; /* out with this worker; 0: as many as the consumer allows */
    const char *
        settings; /* JSON: the consumer is made if there is none; other settings than its own: -ESTALE. Or NULL */
    bool
        in_progress; /* the broker is told what runs or waits for a thread: ack_wait does not end under it */
} eb_broker_worker_options;

/**
 * Take events of a consumer. @options may be NULL. *@ret is set before the first callback. -ENOENT (no such consumer),
 * -ESTALE (its settings are others, or it calls a webhook), -EINVAL, -ENOMEM, -ESHUTDOWN. Threads: any.
 */
EB_API int eb_broker_work(eb_broker *broker, const char *name,
                          const eb_broker_worker_options *options,
                          const eb_broker_worker_handler *handler, void *user,
                          eb_broker_worker **ret, char err[EB_BROKER_ERROR]);
/**
 * End it: callbacks under way run to their end and their verdicts count; what they have not begun goes to other workers,
 * uncounted. No callback runs after this returned. Not from a callback. NULL is fine; eb_broker_stop does it for those open.
 */
EB_API void eb_broker_worker_end(eb_broker_worker *worker);

/**
 * Answer deliveries (after EB_BROKER_LATER, or of any worker): @verdict EB_BROKER_DONE, AGAIN or GIVE_UP for @count @seqs.
 * @delivery: its number, 0: the current one. @late (may be NULL, else room for @count): true where it was no longer this
 * delivery's to say, or nothing is known of that seq. Returns after its commit. -ENOENT (consumer), -EINVAL, -ENOSPC, -EIO,
 * -ESHUTDOWN.
 */
EB_API int eb_broker_answer(eb_broker *broker, const char *name, eb_broker_verdict verdict,
                            const uint64_t *seqs, size_t count, uint32_t delivery, int64_t delay_ms,
                            const char *reason, bool *late, char err[EB_BROKER_ERROR]);

/* ---- request and reply ---- */

typedef struct eb_broker_reply eb_broker_reply;

/**
 * Publish @event as a request and wait for its reply (PROTOCOL 8): the event gets the headers reply_to and
 * correlation_id, and the first event on that topic is the reply, from wherever it comes. *@ret is the caller's, free it.
 * -EHOSTUNREACH (nobody listens to the topic: nothing is stored), -ETIMEDOUT; else as eb_broker_publish_event.
 * Threads: any; not from a callback that would have to answer it.
 */
EB_API int eb_broker_request(eb_broker *broker, const eb_broker_publish *event, int64_t timeout_ms,
                             eb_broker_reply **ret, char err[EB_BROKER_ERROR]);
/** The reply as an event; lives as long as @reply. */
EB_API const eb_message *eb_broker_reply_message(const eb_broker_reply *reply);
EB_API void eb_broker_reply_free(eb_broker_reply *reply); /* NULL is fine */
/**
 * Answer @request, a message with the header reply_to: publish @answer, whose topic is not looked at, with the request's
 * correlation_id. -EINVAL when it asks for no reply; else as eb_broker_publish_event. Threads: any, callbacks too.
 */
EB_API int eb_broker_answer_request(eb_broker *broker, const eb_message *request,
                                    const eb_broker_publish *answer, char err[EB_BROKER_ERROR]);

#ifdef __cplusplus
}
#endif
#endif
