/*
 * repeats.c - is this publish a repeat (PROTOCOL 2.2, duplicates)? Each id that is remembered is known in one place:
 *
 *   given by a publisher    the table of ids (dedupe.h); of an earlier run, the file (engine.h, find_id)
 *   made by the broker      nowhere: it says its own seq (made.h)
 *   of an event that waits  `scheduled` (asks.c, A3)
 *
 * (R1) An id that says a seq is compared with the event that has it. Another id there: it is a publisher's like any other.
 *      No event there any more: it was deleted, so a repeat it is, as with an id of the table.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "broker/store/internal.h"
#include "common/uuid.h"

const char *eb_group_difference(const struct eb_event *a, const struct eb_event *b)
{
    if (a->topic_len != b->topic_len || memcmp(a->topic, b->topic, a->topic_len) != 0)
        return "topic";
    if (a->payload_len != b->payload_len || memcmp(a->payload, b->payload, a->payload_len) != 0)
        return "payload";
    if (a->content_type_len != b->content_type_len ||
        memcmp(a->content_type, b->content_type, a->content_type_len) != 0)
        return "content type";
    return NULL;
}

/* The event with @seq, of this group (*ret_stored NULL) or of the log (a reference in both). 0 or lookup's -errno. */
static int find_event(struct eb_store *store, uint64_t seq, struct eb_event **ret,
                      struct eb_event **ret_stored)
{
    int rc = 0;
    *ret_stored = NULL;
    *ret = eb_group_fresh(&store->group, seq);
    if (!*ret) {
        rc = store->engine->ops->lookup(store->engine, seq, ret_stored);
        *ret = rc == 0 ? *ret_stored : NULL;
    }
    return rc;
}

static bool nothing_left(int rc)
{
    return rc == -ENOENT || rc == -EBADMSG;
}

static void refuse(struct eb_store *store, struct eb_op *op, uint32_t i, uint64_t seq,
                   const char *what)
{
    char id[EB_UUID_TEXT + 1];
    eb_uuid_format(id, op->events[i]->id);
    eb_fail(&op->err, EB_MESSAGE_ID_REUSED,
            "message_id %s was used by event %" PRIu64
            " with another %s: a new event needs an id of its own",
            id, seq, what);
    op->err.index = (int)i;
    store->group.reused++;
}

/* The lowest mode does not fail (W3). */
static int cannot_read(struct eb_store *store, struct eb_op *op, uint32_t i, int rc)
{
    if (store->group.mode != EB_GROUP_NO_WRITE)
        return rc;
    eb_group_refuse(op, &store->group, (int)i);
    return 1;
}

/*
 * Compare with the event @seq, which has this id. 1: refused, op->err says why; 0: a repeat; -errno of the disk.
 * @ret_other: the id itself said the seq; set if that event has another (R1).
 */
static int compare(struct eb_store *store, struct eb_op *op, uint32_t i, uint64_t seq,
                   bool *ret_other)
{
    struct eb_event *first, *stored;
    int rc = find_event(store, seq, &first, &stored);
    if (nothing_left(rc))
        return 0;
    if (rc < 0)
        return cannot_read(store, op, i, rc);
    bool other = ret_other && memcmp(first->id, op->events[i]->id, 16) != 0;
    const char *what = other ? NULL : eb_group_difference(first, op->events[i]);
    if (ret_other)
        *ret_other = other;
    if (what)
        refuse(store, op, i, seq, what);
    eb_event_unref(stored);
    return what ? 1 : 0;
}

/* The seq that @id says, if it was made here and is inside the window; 0: it was not. */
static uint64_t made_seq(struct eb_store *store, const uint8_t id[16])
{
    int64_t timestamp;
    uint64_t seq = eb_made_seq(&store->made, id, store->window.bound, store->given, &timestamp);
    return seq && timestamp > store->dedupe.expired_upto ? seq : 0;
}

/* The seq that has @id among those that are kept where they lie (engine.h, find_id). 0 with *ret 0: none; -errno. */
static int saved_seq(struct eb_store *store, const uint8_t id[16], uint64_t *ret)
{
    struct eb_dedupe_entry entry;
    *ret = 0;
    if (!store->engine->ops->find_id)
        return 0;
    int rc = store->engine->ops->find_id(store->engine, id, &entry);
    if (rc == 0 && entry.timestamp > store->dedupe.expired_upto && entry.seq > store->window.bound)
        *ret = entry.seq;
    return rc == -ENOENT ? 0 : rc;
}

/* What was put last is not a new id after all. */
static void forget_last(struct eb_store *store)
{
    eb_dedupe_undo(&store->dedupe, eb_dedupe_mark(&store->dedupe) - 1);
}

static int is_repeat(const struct eb_store *store, struct eb_op_result *ret, uint64_t seq,
                     size_t op_first)
{
    *ret = (struct eb_op_result){
        .seq = seq,
        .duplicate = true,
        .fresh = seq > store->group.base + op_first,
    };
    return 0;
}

int eb_repeat_check(struct eb_store *store, struct eb_op *op, uint32_t i, size_t op_first,
                    bool *ret_repeat)
{
    const uint8_t *id = op->events[i]->id;
    bool said = false, other = false;
    uint64_t seq = 0;
    int rc = 0;
    *ret_repeat = false;
    if (op->events[i]->make_id)
        return 0;
    const struct eb_dedupe_entry *found =
        eb_dedupe_put(&store->dedupe, id, op->results[i].hash, store->given + 1, store->group.now);
    if (found)
        seq = found->seq;
    else
        rc = saved_seq(store, id, &seq);
    if (rc < 0)
        return cannot_read(store, op, i, rc);
    if (!seq)
        said = (seq = made_seq(store, id)) != 0;
    if (!seq)
        return 0;
    rc = compare(store, op, i, seq, said ? &other : NULL);
    if (rc || other)
        return rc;
    if (!found)
        forget_last(store);
    *ret_repeat = true;
    return is_repeat(store, &op->results[i], seq, op_first);
}

uint64_t eb_repeat_seq(struct eb_store *store, const uint8_t id[16])
{
    struct eb_event *event, *stored = NULL;
    uint32_t hash = eb_dedupe_ahead(&store->dedupe, id);
    const struct eb_dedupe_entry *found =
        eb_dedupe_put(&store->dedupe, id, hash, store->given + 1, store->group.now);
    if (found)
        return found->seq;
    forget_last(store);
    uint64_t seq;
    if (saved_seq(store, id, &seq) < 0 || seq)
        return seq;
    seq = made_seq(store, id);
    if (seq && find_event(store, seq, &event, &stored) == 0 && memcmp(event->id, id, 16) != 0)
        seq = 0;
    eb_event_unref(stored);
    return seq;
}
