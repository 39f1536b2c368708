/* embed.h - what the files of the embedding API share: calls that count, waiting for a commit, errors as errno. */
#pragma once

#include "broker/include/eventbus/broker.h"
#include "common/error.h"
#include "common/event.h"
#include "common/lock.h"

/**
 * Around every call that works on the bus: eb_broker_stop waits until none is under way. False, with @err unless
 * it is NULL: the broker is stopping (-ESHUTDOWN).
 */
bool eb_embed_enter(eb_broker *broker, char *err);
void eb_embed_leave(eb_broker *broker);
/*
 * Something of a program's that has a thread with its broker: a subscription, a worker, an outbox. It is on the broker's
 * list until it is ended, once, by the program or by eb_broker_stop: who takes it off the list ends it. eb_broker_stop waits
 * for its threads until they touch nothing of the broker any more.
 */
struct eb_embed_part {
    struct eb_broker *broker;                /* [I] set before its threads are made */
    struct eb_embed_part *prev, *next;       /* [B] */
    bool open;                               /* [B] on the list */
    void (*end)(struct eb_embed_part *part); /* [I] off the list: end its threads, free it */
};
/**
 * Onto the list, with so many threads, which are there already. Within a call (eb_embed_enter): so it is not ended before
 * that is over.
 */
void eb_embed_add(struct eb_embed_part *part, unsigned threads,
                  void (*end)(struct eb_embed_part *part));
/** So many threads more, for a part that counts them before it is added (then with 0). */
void eb_embed_threads_come(eb_broker *broker, unsigned threads);
/** The last thing a part's thread does with the broker. */
void eb_embed_thread_left(eb_broker *broker);
/** True for the one caller that ends it. */
bool eb_embed_take(struct eb_embed_part *part);
/** End the parts that are still open, wait for calls and callbacks under way. After eb_broker_quiesce. */
void eb_embed_end(eb_broker *broker);
/** Fill broker->mhd_options. */
void eb_broker_mhd_prepare(eb_broker *broker);

struct eb_embed_wait {
    struct eb_lock lock; /* EB_RANK_LEAF: done */
    pthread_cond_t cond;
    bool done;
};
void eb_embed_wait_init(struct eb_embed_wait *wait);
void eb_embed_wait_done(struct eb_embed_wait *wait);   /* from the committing thread */
void eb_embed_wait_finish(struct eb_embed_wait *wait); /* waits until done, then takes it apart */

/**
 * What a program wants to publish as a draft; it borrows from @event and @headers, which the caller finishes. -1 with @error.
 */
int eb_embed_draft(const eb_broker_publish *event, struct eb_headers *headers, struct eb_draft *ret,
                   struct eb_error *error);

/** eb_broker_publish_event with further headers: name, value, …, NULL. */
int eb_embed_publish_with(eb_broker *broker, const eb_broker_publish *event,
                          const char *const *more, char *err);
/** Was eb_broker_quiesce called? */
bool eb_embed_stops(eb_broker *broker);
/** An event as the program sees it: borrows from @event and @id. */
void eb_embed_message(const struct eb_event *event, char id[37], eb_message *ret);

/** 0 or the negative errno that <eventbus/broker.h> promises for the code; the sentence into @err unless NULL. */
int eb_embed_errno(const struct eb_error *error, char *err);
