/*
 * stream.c - what the broker sends, to the subscriptions it belongs to: each event once, in order (PROTOCOL 2.3).
 *
 *            ask                ok                    (end)
 *     IDLE ───────> ASKED ─────────────> ACTIVE ───────────────> freed
 *      ^              │ error              │ queue beyond twice its bound, or paused for too long
 *      │              ├───────> DEAD       v
 *      └──────────────┴──────────────── PARKED      any ──connection ends──> IDLE (PARKED stays)
 *
 * (T1) `seen` is the last seq taken in. Nothing at or below it is taken again, and the next request starts above
 *      it: no event twice, none left out, whatever happened to the connection.
 * (T2) An event marked with a pattern belongs to that subscription alone. An unmarked one belongs to every *live*
 *      subscription that matches: one that still replays gets it by its own stream, in its place. For a live one the
 *      shared stream vouches for everything up to its seq, so `seen` follows it also where nothing matches.
 * (T3) Between a request and its answer, what comes for that pattern is left over from an older stream and dropped.
 * (T4) Gaps and `live` take their place in the queue among the events.
 * (T5) A full queue (max_queued events or max_queued_bytes) stops the reading of the socket, as long as that hurts
 *      nobody: no request waits for an answer, no other subscription has room, and not for long (PAUSE_MAX; our
 *      pongs would be missed). Else reading goes on, up to twice the bound; beyond, the subscription is parked: taken back at the
 *      broker, and asked for again, behind `seen`, when half of its queue is free. So no queue grows without
 *      bound, answers are never held up by a slow reader, and nothing is lost.
 * (T6) A gap for another epoch sets `seen` back: what follows is another log's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client/internal.h"

#define PAUSE_MAX 2000

static eb_subscription *find(eb_client *client, const char *pattern)
{
    for (eb_subscription *sub = client->subs; sub; sub = sub->next) {
        if (strcmp(sub->pattern.text, pattern) == 0)
            return sub;
    }
    return NULL;
}

/* ---- the queue ---- */

void eb_stream_notify_locked(eb_subscription *sub)
{
    eb_client *client = sub->client;
    uint64_t one = 1;

    if (sub->options.event) {
        if (!sub->ready && !sub->ended) {
            sub->ready = true;
            sub->refs++;
            sub->ready_next = NULL;
            if (client->ready_last)
                client->ready_last->ready_next = sub;
            else
                client->ready_first = sub;
            client->ready_last = sub;
        }
        eb_callbacks_wake_locked(client);
        return;
    }
    pthread_cond_broadcast(&sub->cond);
    if (sub->fd >= 0 && !sub->fd_set)
        sub->fd_set = write(sub->fd, &one, sizeof(one)) > 0;
}

static bool grow(eb_subscription *sub)
{
    size_t cap = sub->cap ? sub->cap * 2 : 16;
    struct eb_item **queue = malloc(cap * sizeof(struct eb_item *));

    if (!queue)
        return false;
    for (size_t i = 0; i < sub->count; i++)
        queue[i] = sub->queue[(sub->head + i) & (sub->cap - 1)];
    free(sub->queue);
    sub->queue = queue;
    sub->head = 0;
    sub->cap = cap;
    return true;
}

static bool push(eb_subscription *sub, struct eb_item *item)
{
    if (sub->count == sub->cap && !grow(sub))
        return false;
    sub->queue[(sub->head + sub->count++) & (sub->cap - 1)] = eb_item_ref(item);
    sub->bytes += item->cost;
    if (sub->count >= sub->options.max_queued || sub->bytes >= sub->options.max_queued_bytes)
        sub->full = true;
    eb_stream_notify_locked(sub);
    return true;
}

static bool beyond(const eb_subscription *sub)
{
    return sub->count / 2 >= sub->options.max_queued ||
           sub->bytes / 2 >= sub->options.max_queued_bytes;
}

static void unpark_locked(eb_subscription *sub)
{
    if (sub->state != EB_SUB_PARKED || sub->retry_at != 0)
        return;
    sub->state = EB_SUB_IDLE;
    eb_client_wake_locked(sub->client);
}

struct eb_item *eb_stream_pop_locked(eb_subscription *sub)
{
    struct eb_item *item;
    uint64_t count;

    if (sub->count == 0)
        return NULL;
    item = sub->queue[sub->head];
    sub->head = (sub->head + 1) & (sub->cap - 1);
    sub->count--;
    sub->bytes -= item->cost;
    if (sub->full && sub->count <= sub->options.max_queued / 2 &&
        sub->bytes <= sub->options.max_queued_bytes / 2) {
        sub->full = false;
        unpark_locked(sub);
        if (sub->client->paused)
            eb_client_wake_locked(sub->client);
    }
    if (sub->count == 0 && sub->fd_set && sub->state != EB_SUB_DEAD &&
        read(sub->fd, &count, sizeof(count)) > 0)
        sub->fd_set = false;
    return item;
}

void eb_stream_clear_locked(eb_subscription *sub)
{
    while (sub->count > 0) {
        eb_item_unref(sub->queue[sub->head]);
        sub->head = (sub->head + 1) & (sub->cap - 1);
        sub->count--;
    }
    sub->bytes = 0;
    sub->full = false;
    free(sub->queue);
    sub->queue = NULL;
    sub->cap = sub->head = 0;
}

/* ---- taking back ---- */

bool eb_client_control_locked(eb_client *client, struct eb_buf *record)
{
    struct eb_control *control = eb_buf_failed(record) ? NULL : calloc(1, sizeof(*control));

    if (!control) {
        eb_buf_finish(record);
        return false;
    }
    control->text = *record;
    *record = (struct eb_buf)EB_BUF_INIT;
    if (client->control_last)
        client->control_last->next = control;
    else
        client->control_first = control;
    client->control_last = control;
    eb_client_wake_locked(client);
    return true;
}

void eb_stream_park_locked(eb_subscription *sub, int64_t retry_at)
{
    if (sub->state == EB_SUB_ACTIVE) {
        struct eb_buf record = EB_BUF_INIT;
        eb_wire_write_unsubscribe(&record, sub->pattern.text);
        eb_client_control_locked(sub->client,
                                 &record); /* else what the broker goes on sending is dropped */
    }
    sub->state = EB_SUB_PARKED;
    sub->live = false;
    sub->retry_at = retry_at;
}

bool eb_stream_pause_locked(eb_client *client, int64_t now)
{
    bool full = false, hurts = client->inflight.count > 0 || client->draining || client->consumers;

    for (eb_subscription *sub = client->subs; sub; sub = sub->next) {
        if (sub->state == EB_SUB_ACTIVE && sub->full)
            full = true;
        else if (sub->state == EB_SUB_ACTIVE || sub->state == EB_SUB_ASKED)
            hurts = true;
    }
    if (!full || hurts) {
        client->paused_since = 0;
        return false;
    }
    if (client->paused_since == 0)
        client->paused_since = now;
    if (now - client->paused_since < PAUSE_MAX)
        return true;
    for (eb_subscription *sub = client->subs; sub; sub = sub->next) {
        if (sub->state == EB_SUB_ACTIVE && sub->full)
            eb_stream_park_locked(sub, 0);
    }
    client->paused_since = 0;
    return false;
}

void eb_stream_kill_locked(eb_subscription *sub, int result, const char *why)
{
    if (sub->state == EB_SUB_DEAD)
        return;
    sub->state = EB_SUB_DEAD;
    sub->live = false;
    sub->result = result;
    strncpy(sub->why, why, sizeof(sub->why) - 1);
    eb_stream_notify_locked(sub);
    if (sub == sub->client->replies)
        eb_askers_wake_locked(sub->client);
    pthread_cond_broadcast(&sub->client->changed);
}

/* ---- what the broker says ---- */

static void take_in(eb_subscription *sub, struct eb_item *item)
{
    if (sub == sub->client->replies) { /* also while others drain: it is what they wait for */
        eb_asker_replied_locked(sub->client, item);
        sub->seen = item->message.seq;
        return;
    }
    if (sub->client->draining)
        return; /* nothing new is handed over; `seen` stays */
    if (beyond(sub) || !push(sub, item)) {
        eb_stream_park_locked(sub, 0); /* T5; out of memory is a full queue, too */
        if (!sub->full)
            sub->retry_at = eb_mono_ms() + sub->client->options.reconnect_interval;
        return;
    }
    sub->seen = item->message.seq;
}

void eb_stream_event_locked(eb_client *client, struct eb_item *item, const char *pattern)
{
    const eb_message *message = &item->message;

    if (pattern) {
        eb_subscription *sub = find(client, pattern);
        if (sub && sub->state == EB_SUB_ACTIVE && message->seq > sub->seen)
            take_in(sub, item);
        return;
    }
    for (eb_subscription *sub = client->subs; sub; sub = sub->next) {
        if (sub->state != EB_SUB_ACTIVE || !sub->live || message->seq <= sub->seen)
            continue;
        if (eb_pattern_match(&sub->pattern, message->topic, message->topic_len))
            take_in(sub, item);
        else if (!client->draining)
            sub->seen = message->seq; /* T2 */
    }
}

/* A gap or a live notice into the queue. Without memory for it the stream is asked for again, which says it again. */
static bool push_notice(eb_subscription *sub, struct eb_item *item)
{
    bool taken = item && push(sub, item);

    eb_item_unref(item);
    if (!taken)
        eb_stream_park_locked(sub, eb_mono_ms() + sub->client->options.reconnect_interval);
    return taken;
}

void eb_stream_live_locked(eb_client *client, const char *pattern, uint64_t seq)
{
    eb_subscription *sub = find(client, pattern);
    struct eb_item *item;

    if (!sub || sub->state != EB_SUB_ACTIVE || client->draining)
        return;
    if (sub->options.live) {
        item = eb_item_create(EB_ITEM_LIVE, 0);
        if (item)
            item->live_seq = seq;
        if (!push_notice(sub, item))
            return;
    }
    sub->live = sub->was_live = true;
    if (seq > sub->seen)
        sub->seen = seq;
}

void eb_stream_gap_locked(eb_client *client, const char *pattern, const struct eb_wire *gap)
{
    eb_subscription *sub = find(client, pattern);
    bool epoch = strcmp(gap->reason, "epoch") == 0;
    struct eb_item *item;

    if (!sub || client->draining || (sub->state != EB_SUB_ACTIVE && sub->state != EB_SUB_ASKED))
        return;
    if (sub->options.gap || epoch) {
        item = eb_item_create(EB_ITEM_GAP, 0);
        if (item) {
            item->gap.from_seq = gap->from_seq;
            item->gap.to_seq = gap->to_seq;
            strncpy(item->gap.reason, gap->reason, sizeof(item->gap.reason) - 1);
            memcpy(item->gap.epoch, gap->epoch, sizeof(item->gap.epoch));
        }
        if (!push_notice(sub, item))
            return;
    }
    if (epoch) { /* T6 */
        sub->seen = gap->to_seq;
        sub->gap_to = 0;
        sub->options.starting_seq = gap->to_seq + 1; /* what was asked for was another log's */
        if (gap->epoch[0])
            memcpy(sub->epoch, gap->epoch, sizeof(sub->epoch));
    } else if (sub->state == EB_SUB_ACTIVE && gap->to_seq > sub->gap_to) {
        sub->gap_to = gap->to_seq;
    }
}

/* Acks name a seq of the log they were made for: in another they would mark what nobody has seen. */
static void drop_acks_locked(eb_client *client)
{
    struct eb_request *request = client->inflight.first, *next;

    for (; request; request = next) {
        next = request->next;
        if (request->kind == EB_REQUEST_ACK)
            eb_request_complete_locked(client, request, EB_RESULT_DISCONNECTED);
    }
}

void eb_stream_learn_epoch_locked(eb_client *client, const char *epoch)
{
    if (client->epoch[0] && strcmp(client->epoch, epoch) != 0 && client->hold)
        drop_acks_locked(client);
    strcpy(client->epoch, epoch);
}

static void subscribed_locked(eb_client *client, eb_subscription *sub, const struct eb_wire *answer)
{
    sub->state = EB_SUB_ACTIVE;
    sub->answered = true;
    if (answer->epoch[0])
        eb_stream_learn_epoch_locked(client, answer->epoch);
    if (!sub->epoch[0]) {
        memcpy(sub->epoch, answer->epoch, sizeof(sub->epoch));
        memcpy(sub->handed_epoch, answer->epoch, sizeof(sub->handed_epoch));
    }
    if (sub->asked_live) {
        sub->live = sub->was_live = true;
        if (answer->has_last_seq && answer->last_seq > sub->seen)
            sub->seen = answer->last_seq;
    }
}

static bool comes_back(int result)
{
    return result == EB_RESULT_UNAVAILABLE || result == EB_RESULT_INTERNAL;
}

bool eb_stream_answer_locked(eb_client *client, const struct eb_wire *answer)
{
    eb_subscription *sub = client->subs;

    while (sub && (sub->state != EB_SUB_ASKED || sub->request != answer->id))
        sub = sub->next;
    if (!sub)
        return false;
    if (answer->type == EB_WIRE_OK) {
        subscribed_locked(client, sub, answer);
    } else {
        eb_client_set_error_locked(client, answer->text);
        if (sub->answered && comes_back(answer->result))
            eb_stream_park_locked(sub, eb_mono_ms() + client->options.reconnect_interval_max);
        else
            eb_stream_kill_locked(sub, answer->result, answer->text);
    }
    client->hold = false;
    pthread_cond_broadcast(&client->changed);
    return true;
}

void eb_stream_disconnected_locked(eb_client *client)
{
    while (client->control_first) {
        struct eb_control *control = client->control_first;
        client->control_first = control->next;
        eb_buf_finish(&control->text);
        free(control);
    }
    client->control_last = NULL;
    client->hold = false;
    for (eb_subscription *sub = client->subs; sub; sub = sub->next) {
        if (sub->state == EB_SUB_ASKED || sub->state == EB_SUB_ACTIVE)
            sub->state = EB_SUB_IDLE;
        sub->live = false;
    }
}

uint64_t eb_stream_resume_from(const eb_subscription *sub)
{
    uint64_t upto = sub->seen > sub->gap_to ? sub->seen : sub->gap_to;

    if (!sub->answered && sub->seen == 0)
        return sub->options.starting_seq;
    if (sub->options.starting_seq != EB_START_LIVE && upto < sub->options.starting_seq &&
        !sub->was_live)
        return sub->options.starting_seq; /* nothing came yet */
    return upto + 1;
}
