/*
 * asks.c - what a publish may ask beside being stored now (PROTOCOL 8): a condition on its topic's last seq, or to be
 * kept until it is due; and how what is due enters the log.
 *
 * (A1) A repeat is found before anything else is judged, also one of an id that waits: `scheduled` is looked at only
 *      when there is something in it.
 * (A2) A scheduled member has no seq and no place among the group's events; its row is written when it is judged, so
 *      that members and ops behind it find its id there. If its op is refused after all, the row is deleted again.
 * (A3) An id that waits is not in the dedupe table: it comes there with its event's seq when it enters the log, in the
 *      same transaction that deletes its row. So an id is in one place or in the other.
 */
#include <errno.h>
#include <inttypes.h>

#include "broker/store/internal.h"
#include "common/uuid.h"

/* The id just put into the dedupe table has no seq after all. */
static void forget_id(struct eb_store *store)
{
    eb_dedupe_undo(&store->dedupe, eb_dedupe_mark(&store->dedupe) - 1);
}

static int refuse_member(struct eb_op *op, uint32_t i)
{
    op->err.index = (int)i;
    return 1;
}

/* ---- ids that wait (A1) ---- */

static int refuse_id(struct eb_op *op, uint32_t i, const char *what)
{
    char id[EB_UUID_TEXT + 1];
    eb_uuid_format(id, op->events[i]->id);
    if (what)
        eb_fail(&op->err, EB_MESSAGE_ID_REUSED,
                "message_id %s was used by a scheduled event with another %s: a new event needs an "
                "id of its own",
                id, what);
    else
        eb_fail(&op->err, EB_MESSAGE_ID_REUSED,
                "message_id %s was used by a scheduled event that is damaged: publish it with "
                "another id",
                id);
    return refuse_member(op, i);
}

/* Does its id wait? *ret_done: then it is judged. 0, 1 (refused), -errno. */
static int look_among_waiting(struct eb_store *store, struct eb_op *op, uint32_t i, bool *ret_done)
{
    struct eb_event *waiting = NULL;
    int rc = store->engine->ops->scheduled_find(store->engine, op->events[i]->id, &waiting);
    if (rc == -ENOENT)
        return 0;
    if (rc == -EBADMSG)
        return refuse_id(op, i, NULL);
    if (rc < 0 && store->group.mode == EB_GROUP_NO_WRITE) {
        eb_group_refuse(op, &store->group, (int)i); /* the lowest mode does not fail */
        return 1;
    }
    if (rc < 0)
        return rc;
    const char *what = eb_group_difference(waiting, op->events[i]);
    eb_event_unref(waiting);
    if (what) {
        store->group.reused++;
        return refuse_id(op, i, what);
    }
    forget_id(store);
    op->results[i] = (struct eb_op_result){.duplicate = true, .scheduled = true};
    *ret_done = true;
    return 0;
}

/* ---- conditions ---- */

static int check_expected(struct eb_store *store, struct eb_op *op, uint32_t i)
{
    const struct eb_event *event = op->events[i];
    uint64_t last = 0, expected = op->asks[i].expected;
    char topic[300];
    int rc = eb_tails_find(&store->group, event->topic, event->topic_len, &last);
    if (rc == 0 && last == 0)
        rc = store->engine->ops->topic_last(store->engine, event->topic, event->topic_len, &last);
    if (rc < 0 || last == expected)
        return rc;
    eb_quote(topic, sizeof topic, event->topic, event->topic_len);
    eb_fail(&op->err, EB_CONFLICT,
            "topic \"%s\" has last seq %" PRIu64 ", not %" PRIu64
            ": read what is new and try again",
            topic, last, expected);
    op->err.has_last_seq = true;
    op->err.last_seq = last;
    return refuse_member(op, i);
}

/* ---- scheduling ---- */

static int schedule(struct eb_store *store, struct eb_op *op, uint32_t i)
{
    struct eb_group *group = &store->group;
    const struct eb_engine_ops *ops = store->engine->ops;
    if (!ops->schedule) {
        eb_fail(&op->err, EB_INVALID_REQUEST,
                "scheduled events need storage = sqlite: this broker keeps its log in memory");
        return refuse_member(op, i);
    }
    if (store->scheduled >= group->max_scheduled) {
        eb_fail(&op->err, EB_LIMIT_EXCEEDED,
                "%" PRIu64 " events are scheduled already: max_scheduled is %" PRIu64,
                store->scheduled, group->max_scheduled);
        return refuse_member(op, i);
    }
    int rc = eb_group_begin(store);
    if (rc == 0)
        rc = ops->schedule(store->engine, op->events[i], op->asks[i].due_ms, group->now);
    if (rc < 0)
        return rc;
    forget_id(store);
    store->scheduled++;
    group->waiting++;
    group->schedule_moved = true;
    op->results[i] = (struct eb_op_result){.scheduled = true};
    return 0;
}

int eb_asked_member(struct eb_store *store, struct eb_op *op, uint32_t i, bool *ret_done)
{
    const struct eb_op_ask *ask = op->asks ? &op->asks[i] : NULL;
    bool given = !op->events[i]->make_id; /* what waits has told its id: none is made with a seq */
    int rc = store->scheduled && given ? look_among_waiting(store, op, i, ret_done) : 0;
    if (rc || *ret_done || !ask)
        return rc;
    rc = ask->has_expected || ask->due_ms > 0 ? eb_group_check_new(store, op, i) : 0;
    if (rc == 0 && ask->has_expected)
        rc = check_expected(store, op, i);
    if (rc == 0 && ask->due_ms > 0) {
        rc = schedule(store, op, i);
        *ret_done = true;
    }
    return rc;
}

int eb_asked_take_back(struct eb_store *store, struct eb_op *op, uint32_t count)
{
    for (uint32_t i = 0; op->asks && i < count; i++) {
        if (!op->results[i].scheduled || op->results[i].duplicate)
            continue;
        int rc = store->engine->ops->unschedule(store->engine, op->events[i]->id);
        if (rc < 0)
            return rc;
        store->scheduled--;
        store->group.waiting--;
    }
    return 0;
}

/* ---- taking back ---- */

/* Nothing waits under this id: has it entered the log? */
static void say_not_waiting(struct eb_store *store, struct eb_op *op)
{
    char id[EB_UUID_TEXT + 1];
    uint64_t seq = eb_repeat_seq(store, op->id);
    eb_uuid_format(id, op->id);
    if (seq) {
        eb_fail(&op->err, EB_CONFLICT,
                "event %s is in the log already, with seq %" PRIu64 ": it cannot be taken back", id,
                seq);
        return;
    }
    eb_fail(&op->err, EB_NOT_FOUND, "no event %s is scheduled", id);
}

int eb_asked_unschedule(struct eb_store *store, struct eb_op *op)
{
    const struct eb_engine_ops *ops = store->engine->ops;
    int rc = -ENOENT;
    if (store->scheduled && store->group.mode == EB_GROUP_NO_WRITE) {
        eb_group_refuse(op, &store->group, -1);
        return 0;
    }
    if (store->scheduled)
        rc = eb_group_begin(store);
    if (rc == 0)
        rc = ops->unschedule(store->engine, op->id);
    if (rc == -ENOENT) {
        say_not_waiting(store, op);
        return 0;
    }
    if (rc < 0)
        return rc;
    store->scheduled--;
    store->group.schedule_moved = true;
    return 0;
}

/* ---- what is due ---- */

/* Give what was taken off the table its place in the log; one whose id is there already does not enter again (A3). */
static void enter(struct eb_store *store, struct eb_op *op, size_t count)
{
    struct eb_group *group = &store->group;
    for (size_t i = 0; i < count; i++) {
        struct eb_event *event = op->events[i];
        if (eb_repeat_seq(store, event->id)) {
            eb_event_unref(event);
            continue;
        }
        uint32_t hash = eb_dedupe_ahead(&store->dedupe, event->id);
        eb_dedupe_put(&store->dedupe, event->id, hash, store->given + 1, group->now);
        eb_group_add(store, event);
        op->results[op->count] = (struct eb_op_result){.seq = event->seq};
        op->events[op->count++] = event;
    }
}

int eb_asked_due(struct eb_store *store, struct eb_op *op)
{
    const struct eb_engine_ops *ops = store->engine->ops;
    struct eb_group *group = &store->group;
    size_t count = 0;
    while (op->count > 0) /* of a try that failed */
        eb_event_unref(op->events[--op->count]);
    op->more = false;
    if (!store->scheduled || !op->room)
        return 0;
    if (group->mode == EB_GROUP_NO_WRITE) {
        eb_group_refuse(op, group, -1);
        return 0;
    }
    if (store->given + op->room + 1 >= EB_SEQ_MAX) {
        eb_fail(&op->err, EB_INTERNAL,
                "the log has given its last seq: start the broker with --new-epoch");
        return 0;
    }
    int rc = eb_group_room(group, op->room);
    if (rc == 0)
        rc = eb_group_begin(store);
    if (rc == 0)
        rc = ops->due(store->engine, store->env.wall_ms(store->env.ctx), op->events, op->room,
                      &count, &op->more);
    if (rc == -EBADMSG) {
        eb_fail(&op->err, EB_INTERNAL, "what is scheduled cannot be read: %.160s",
                ops->trouble(store->engine));
        return 0;
    }
    if (rc < 0)
        return rc;
    store->scheduled -= count < store->scheduled ? count : store->scheduled;
    group->schedule_moved = true; /* also when nothing came: what is damaged is passed over */
    enter(store, op, count);
    return 0;
}

void eb_asked_show(struct eb_store *store)
{
    struct eb_engine_figures figures;
    if (!store->engine->ops->schedule)
        return;
    store->engine->ops->figures(store->engine, &figures);
    store->scheduled = figures.scheduled;
    atomic_store_explicit(&store->next_due, figures.next_due_ms, memory_order_release);
}
