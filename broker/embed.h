/* embed.h - what the files of the embedding API share: calls that count, waiting for a commit, errors as errno. */
#pragma once

#include "broker/include/eventbus/broker.h"
#include "common/error.h"
#include "common/lock.h"

/**
 * Around every call that works on the bus: eb_broker_stop waits until none is under way. False, with @err unless
 * it is NULL: the broker is stopping (-ESHUTDOWN).
 */
bool eb_embed_enter(eb_broker *broker, char *err);
void eb_embed_leave(eb_broker *broker);
/** End the subscriptions that are still open, wait for calls and callbacks under way. After eb_broker_quiesce. */
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

/** 0 or the negative errno that <eventbus/broker.h> promises for the code; the sentence into @err unless NULL. */
int eb_embed_errno(const struct eb_error *error, char *err);
