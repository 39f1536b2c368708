/*
 * embed_subscribe.c - a subscription inside the process: a session of the bus whose transport is a thread
 * (`eb-sub`) that calls the program's handler.
 *
 * (S1) The handler runs with no lock held. While it is slow the session's queue fills and the stream lags, as
 *      any other's does: the log feeds it.
 * (S2) The session holds the subscription, and two hold the session: the program and the thread.
 * (S3) Its thread is waited for until it touches nothing of the broker any more (embed.h), so eb_broker_stop
 *      outlives a callback that has ended its own subscription.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "broker/broker.h"
#include "broker/embed.h"
#include "common/uuid.h"

enum note_kind { NOTE_GAP, NOTE_LIVE };

/* What a frame without an event carries. */
struct note {
    enum note_kind kind;
    uint64_t from_seq, to_seq;
    enum eb_gap_reason reason;
};

struct eb_broker_subscription {
    struct eb_embed_part part;  /* first */
    struct eb_session *session; /* [I] one reference */
    eb_broker_handler handler;  /* [I] */
    void *user;                 /* [I] */
    pthread_t thread;           /* [I] */
    struct eb_lock lock;        /* EB_RANK_LEAF: ready, ending */
    pthread_cond_t cond;
    bool ready, ending;
};

/* ---- the session's side: any thread ---- */

static struct eb_frame *frame_event(struct eb_session *session, struct eb_event *event,
                                    const char *pattern)
{
    (void)session, (void)pattern;
    struct eb_frame *frame = eb_frame_create(0);
    if (frame) {
        frame->event = eb_event_ref(event);
        frame->len = 0;
    }
    return frame;
}

static struct eb_frame *frame_note(const struct note *note)
{
    return eb_frame_from(note, sizeof *note);
}

static struct eb_frame *frame_gap(struct eb_session *session, const struct eb_gap *gap)
{
    (void)session;
    return frame_note(&(struct note){NOTE_GAP, gap->from_seq, gap->to_seq, gap->reason});
}

static struct eb_frame *frame_live(struct eb_session *session, const char *pattern, uint64_t seq)
{
    (void)session, (void)pattern;
    return frame_note(&(struct note){.kind = NOTE_LIVE, .to_seq = seq});
}

static void wake(struct eb_session *session)
{
    eb_broker_subscription *sub = eb_session_user(session);
    eb_lock_take(&sub->lock);
    sub->ready = true;
    pthread_cond_signal(&sub->cond);
    eb_lock_drop(&sub->lock);
}

static void destroy(struct eb_session *session)
{
    eb_broker_subscription *sub = eb_session_user(session);
    pthread_cond_destroy(&sub->cond);
    eb_lock_finish(&sub->lock);
    free(sub);
}

static const struct eb_session_ops session_ops = {
    .event = frame_event, .gap = frame_gap, .live = frame_live, .wake = wake, .destroy = destroy};

/* ---- the thread ---- */

static _Thread_local const eb_broker_subscription *own; /* whose thread this is */

static void call_event(const eb_broker_subscription *sub, const struct eb_event *event)
{
    char id[EB_UUID_TEXT + 1];
    eb_message message;
    eb_embed_message(event, id, &message);
    sub->handler.event(sub->user, &message);
}

static void call(const eb_broker_subscription *sub, const struct eb_frame *frame)
{
    struct note note;
    if (frame->event) {
        call_event(sub, frame->event);
        return;
    }
    memcpy(&note, frame->data, sizeof note);
    if (note.kind == NOTE_GAP && sub->handler.gap)
        sub->handler.gap(sub->user, note.from_seq, note.to_seq, eb_gap_reason_name(note.reason));
    else if (note.kind == NOTE_LIVE && sub->handler.live)
        sub->handler.live(sub->user, note.to_seq);
}

static bool is_ending(eb_broker_subscription *sub)
{
    eb_lock_take(&sub->lock);
    bool ending = sub->ending;
    eb_lock_drop(&sub->lock);
    return ending;
}

/* False when it is to end. */
static bool wait_ready(eb_broker_subscription *sub)
{
    eb_lock_take(&sub->lock);
    while (!sub->ready && !sub->ending)
        eb_cond_wait(&sub->cond, &sub->lock, -1);
    sub->ready = false;
    bool go_on = !sub->ending;
    eb_lock_drop(&sub->lock);
    return go_on;
}

/* Hand over one item at a time: what is behind it stays counted, and can be given back, if the callback ends us. */
static void deliver(eb_broker_subscription *sub)
{
    struct eb_out out;
    while (!is_ending(sub) && eb_session_take(sub->session, &out, 1, SIZE_MAX) == 1) {
        call(sub, out.frame);
        eb_session_sent(sub->session, &out, 1);
    }
}

static void *thread_main(void *arg)
{
    eb_broker_subscription *sub = arg;
    struct eb_session *session = sub->session;
    eb_broker *broker = sub->part.broker;
    pthread_setname_np(pthread_self(), "eb-sub");
    own = sub;
    while (wait_ready(sub))
        deliver(sub);
    eb_session_unref(session);    /* the thread's */
    eb_embed_thread_left(broker); /* S3 */
    return NULL;
}

/* ---- the program's side ---- */

static int parse_patterns(const char *const *patterns, struct eb_pattern **ret, size_t *ret_count,
                          struct eb_error *error)
{
    size_t count = 0;
    while (patterns && patterns[count])
        count++;
    if (count == 0)
        return eb_fail(error, EB_INVALID_PATTERN,
                       "no pattern was given: name at least one, \"#\" for every topic");
    struct eb_pattern *list = calloc(count, sizeof *list);
    if (!list)
        return eb_fail(error, EB_INTERNAL, "out of memory");
    for (size_t i = 0; i < count; i++) {
        if (eb_pattern_parse(&list[i], patterns[i], strlen(patterns[i]), error) < 0) {
            free(list);
            return -1;
        }
    }
    *ret = list;
    *ret_count = count;
    return 0;
}

struct asked {
    struct eb_embed_wait wait;
    eb_broker_subscription *sub, **ret;
};

/* Before the first event: a callback may want the handle. */
static void subscribed(struct eb_subscribe *subscribe)
{
    struct asked *asked = subscribe->user;
    if (subscribe->err.code == EB_OK)
        *asked->ret = asked->sub;
    eb_embed_wait_done(&asked->wait);
}

static void ask(eb_broker *broker, eb_broker_subscription *sub, const struct eb_pattern *patterns,
                size_t count, uint64_t starting_seq, eb_broker_subscription **ret,
                struct eb_error *error)
{
    struct asked asked = {.sub = sub, .ret = ret};
    bool replay = starting_seq != EB_BROKER_LIVE && starting_seq != EB_BROKER_LAST;
    struct eb_subscribe subscribe = {
        .patterns = patterns,
        .count = count,
        .replay = replay,
        .starting_seq = replay ? starting_seq : 0,
        .last = starting_seq == EB_BROKER_LAST,
        .done = subscribed,
        .user = &asked,
    };
    eb_embed_wait_init(&asked.wait);
    eb_bus_subscribe(broker->bus, sub->session, &subscribe);
    eb_embed_wait_finish(&asked.wait);
    *error = subscribe.err;
}

/* It is off the list: end it. */
static void end(struct eb_embed_part *part)
{
    eb_broker_subscription *sub = (eb_broker_subscription *)(void *)part; /* its first member */
    struct eb_session *session = sub->session;
    eb_session_close(session);
    eb_lock_take(&sub->lock);
    sub->ending = true;
    pthread_cond_signal(&sub->cond);
    eb_lock_drop(&sub->lock);
    if (own == sub)
        pthread_detach(pthread_self()); /* from its own callback: it ends when that has returned */
    else
        pthread_join(sub->thread, NULL);
    eb_session_unref(session); /* the program's */
}

/* NULL with *ret_rc when it cannot be made. */
static eb_broker_subscription *make(eb_broker *broker, const eb_broker_handler *handler, void *user,
                                    int *ret_rc)
{
    eb_broker_subscription *sub = calloc(1, sizeof *sub);
    *ret_rc = -ENOMEM;
    if (!sub)
        return NULL;
    sub->part.broker = broker;
    sub->handler = *handler;
    sub->user = user;
    eb_lock_init(&sub->lock, EB_RANK_LEAF);
    eb_cond_init(&sub->cond);
    *ret_rc = eb_session_create(broker->bus, &session_ops, sub, true, &sub->session);
    if (*ret_rc < 0) {
        pthread_cond_destroy(&sub->cond);
        eb_lock_finish(&sub->lock);
        free(sub);
        return NULL;
    }
    struct eb_session *session = eb_session_ref(sub->session); /* the thread's */
    *ret_rc = -pthread_create(&sub->thread, NULL, thread_main, sub);
    if (*ret_rc == 0) {
        eb_embed_add(&sub->part, 1, end);
        return sub;
    }
    eb_session_close(session);
    eb_session_unref(session);
    eb_session_unref(session); /* frees sub */
    return NULL;
}

static int subscribe(eb_broker *broker, const struct eb_pattern *patterns, size_t count,
                     uint64_t starting_seq, const eb_broker_handler *handler, void *user,
                     eb_broker_subscription **ret, char *err)
{
    struct eb_error error = {.code = EB_OK};
    int rc;
    eb_broker_subscription *sub = make(broker, handler, user, &rc);
    if (!sub) {
        if (err)
            snprintf(err, EB_BROKER_ERROR, "cannot subscribe: %s", strerror(-rc));
        return rc;
    }
    ask(broker, sub, patterns, count, starting_seq, ret, &error);
    if (error.code != EB_OK)
        eb_broker_unsubscribe(sub);
    return eb_embed_errno(&error, err);
}

int eb_broker_subscribe(eb_broker *broker, const char *const *patterns, uint64_t starting_seq,
                        const eb_broker_handler *handler, void *user, eb_broker_subscription **ret,
                        char err[EB_BROKER_ERROR])
{
    struct eb_error error = {.code = EB_OK};
    struct eb_pattern *list = NULL;
    size_t count = 0;
    if (parse_patterns(patterns, &list, &count, &error) < 0)
        return eb_embed_errno(&error, err);
    int rc = -ESHUTDOWN;
    if (eb_embed_enter(broker, err)) {
        rc = subscribe(broker, list, count, starting_seq, handler, user, ret, err);
        eb_embed_leave(broker);
    }
    free(list);
    return rc;
}

void eb_broker_unsubscribe(eb_broker_subscription *sub)
{
    if (sub && eb_embed_take(&sub->part))
        end(&sub->part);
}
