/*
 * join_race.h - one turn of a reader whose stream joins at the very moment when the next commit is dispatched: the reader
 * has seen the log's old end and holds the session's lock, the dispatcher of one more event (of topic "a") has looked at
 * the stream's state and comes to that lock.
 */
#pragma once

#include <pthread.h>
#include <sched.h>

#include "tests/unit/bus/fake_world.h"

static pthread_t race_committer;

static void *race_commit(void *world)
{
    fake_commit(world, ALL);
    return NULL;
}

/* glibc's word of a mutex is 2 when somebody waits for it. */
static void race_up_to_the_lock(struct fake_world *w, void *ctx)
{
    struct fake_box *box = ctx;
    fake_publish(w, "a");
    pthread_create(&race_committer, NULL, race_commit, w);
    while (__atomic_load_n(&box->session->lock.mutex.__data.__lock, __ATOMIC_RELAXED) != 2)
        sched_yield();
}

static void race_after_visible(struct fake_world *w, void *ctx)
{
    w->after_visible = race_up_to_the_lock;
}

static void turn_that_joins_while_one_is_dispatched(struct fake_world *w, struct fake_box *box)
{
    w->during_page = race_after_visible;
    w->ctx = box;
    assert_true(fake_turn(w));
    pthread_join(race_committer, NULL);
}
