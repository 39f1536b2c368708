/* embed.h - what embed.c and embed_subscribe.c share: waiting for a commit, errors as errno. */
#pragma once

#include "common/error.h"
#include "common/lock.h"

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
