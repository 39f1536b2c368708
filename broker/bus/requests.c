/*
 * requests.c - a session's requests on their way: collected into chunks, settled and answered in groups.
 *
 *   its thread:    publish, subscribe, ack … --> chunk ----eb_session_submit----> the store's queue (one push)
 *   committing:    done --> answers, settled ----end of the segment's answers---> its queue (one lock, one wake)
 *
 * (C1) A chunk belongs to the thread that makes the session's requests. It keeps their order, holds all kinds of
 *      them, and is handed over before that thread waits for anything: nobody else would.
 *      Of a chunk of one small request, with none open before it, the peer probably waits for the answer: then the
 *      thread may commit it by itself. More is the writer's: so that the next is read while it is synced.
 * (C2) What is collected counts as open for eb_session_wait_room, so no bound is passed by collecting.
 * (C3) Answers that `done` gives are put into the queue together: behind the last `done` of a segment, before
 *      anything of it is pushed (D3), and before a subscription begins (its `ok` comes first).
 * (C4) A request is open until its answer is in the queue: who finds none open finds all answers there.
 * (C5) Where the answer is to the only open request, its peer probably waits, and waking another thread to send it
 *      costs more than sending it. So the transport may do that itself when the group is over (eb_bus_answered), for
 *      ALONE_MAX of a group. A group that goes on for another segment is not waited for: then it is a wake as ever.
 */
#include <errno.h>
#include <string.h>

#include "broker/bus/internal.h"

#define CHUNK_OPS    1024
#define CHUNK_BYTES  (1024 * 1024)
#define ALONE_BYTES  (16 * 1024)
#define ALONE_MAX    64
#define ANSWERS_MIN  256
#define ANSWERS_FULL (64 * 1024)

/* ---- to the store ---- */

void eb_session_collect(struct eb_session *session)
{
    session->collects = true;
}

unsigned eb_session_submit(struct eb_session *session)
{
    struct eb_op *first = session->chunk.first, *last = session->chunk.last;
    unsigned ops = session->chunk.ops;
    eb_publish_end_block(session);
    if (first == NULL)
        return 0;
    atomic_fetch_add(&session->open_bytes, session->chunk.bytes);
    bool alone = atomic_fetch_add(&session->open, ops) == 0 && session->collects && ops == 1 &&
                 session->chunk.bytes <= ALONE_BYTES;
    session->chunk.first = session->chunk.last = NULL;
    session->chunk.ops = 0;
    session->chunk.bytes = 0;
    if (alone)
        eb_store_submit_or_commit(session->bus->store, first);
    else
        eb_store_submit(session->bus->store, first, last);
    return ops;
}

void eb_session_request(struct eb_session *session, struct eb_op *op, size_t bytes)
{
    struct eb_op **recent = &session->chunk.recent[session->chunk.ops % EB_AHEAD];
    op->next = op->ahead = NULL;
    if (session->chunk.last != NULL)
        session->chunk.last->next = op;
    else
        session->chunk.first = op;
    if (session->chunk.ops >= EB_AHEAD)
        (*recent)->ahead = op;
    *recent = session->chunk.last = op;
    session->chunk.ops++;
    session->chunk.bytes += bytes;
    if (!session->collects || session->chunk.ops >= CHUNK_OPS ||
        session->chunk.bytes >= CHUNK_BYTES)
        eb_session_submit(session);
}

/* ---- those that go another way ---- */

void eb_session_open(struct eb_session *session)
{
    eb_session_ref(session);
    atomic_fetch_add(&session->open, 1);
}

void eb_session_over(struct eb_session *session)
{
    eb_lock_take(&session->lock);
    atomic_fetch_sub(&session->open, 1);
    if (session->waiters > 0)
        pthread_cond_broadcast(&session->room);
    eb_lock_drop(&session->lock);
    eb_session_unref(session);
}

/* ---- and back: under the commit lock ---- */

/* Put it on the list of those that have something to be settled. */
static void touch(struct eb_session *session)
{
    if (session->settling)
        return;
    session->settling = true;
    session->settle_next = session->bus->settling;
    session->bus->settling = eb_session_ref(session);
}

void eb_session_settle(struct eb_session *session, size_t bytes)
{
    touch(session);
    session->settled++;
    session->settled_bytes += bytes;
}

void eb_session_answer_later(struct eb_session *session)
{
    touch(session);
}

/* Its answers into its queue, and with @all what is settled off its count (C4). True: there is something to send. */
static bool put_answers(struct eb_session *session, bool all)
{
    struct eb_frame *frame = session->answers;
    int rc = 0;
    session->answers = NULL;
    eb_lock_take(&session->lock);
    bool closed = session->closed;
    if (frame != NULL && !closed)
        rc = eb_queue_answer_locked(session, frame);
    if (all) {
        atomic_fetch_sub(&session->open_bytes, session->settled_bytes);
        atomic_fetch_sub(&session->open, session->settled);
        session->settled = 0;
        session->settled_bytes = 0;
        if (session->waiters > 0)
            pthread_cond_broadcast(&session->room);
    }
    eb_lock_drop(&session->lock);
    if (frame == NULL)
        return false;
    if (closed || rc < 0)
        eb_frame_unref(frame);
    if (rc < 0) /* an answer is never dropped: the connection goes instead */
        eb_session_close(session);
    return !closed;
}

void eb_session_answer(struct eb_session *session, const void *data, size_t len)
{
    touch(session);
    if (eb_session_closed(session))
        return;
    size_t room = len > ANSWERS_MIN ? len : ANSWERS_MIN;
    struct eb_frame *frame = eb_frame_reserve(session->answers, session->answers ? len : room);
    if (frame == NULL) {
        eb_session_close(session);
        eb_session_wake(session);
        return;
    }
    memcpy(frame->data + frame->len, data, len);
    frame->len += (uint32_t)len;
    session->answers = frame;
    if (frame->len >= ANSWERS_FULL && put_answers(session, false))
        eb_session_wake(session);
}

/* Those that were answered alone are told, by @tell or with NULL by their own way. */
static void tell_answered(struct eb_bus *bus, void (*tell)(struct eb_session *session))
{
    struct eb_session *session;
    while ((session = bus->answered) != NULL) {
        bus->answered = session->settle_next;
        session->settling = false;
        (tell != NULL ? tell : session->ops->answered)(session);
        eb_session_unref(session);
    }
}

void eb_bus_answered(struct eb_bus *bus)
{
    tell_answered(bus, NULL);
    bus->answered_count = 0;
}

/* C5. It stays in the list, so that nothing else puts it into one: it has nothing open, and this group is cut. */
static bool answered_alone(struct eb_bus *bus, struct eb_session *session, unsigned settled)
{
    if (settled != 1 || session->ops->answered == NULL || bus->answered_count >= ALONE_MAX ||
        atomic_load(&session->open) > 0)
        return false;
    bus->answered_count++;
    session->settle_next = bus->answered;
    bus->answered = session;
    return true;
}

void eb_bus_settle(struct eb_bus *bus)
{
    struct eb_session *session;
    tell_answered(bus, eb_session_wake);
    while ((session = bus->settling) != NULL) {
        unsigned settled = session->settled;
        bus->settling = session->settle_next;
        if (session->ops->answers != NULL)
            session->ops->answers(session);
        bool to_send = put_answers(session, true);
        if (to_send && answered_alone(bus, session, settled))
            continue;
        session->settling = false;
        if (to_send)
            eb_session_wake(session);
        eb_session_unref(session);
    }
}

/* ---- the bound of what is open ---- */

static bool has_room(struct eb_session *session, unsigned max_open, size_t max_bytes)
{
    size_t open_bytes = session->bus->config.max_open_bytes;
    return atomic_load(&session->open) + session->chunk.ops < max_open &&
           atomic_load(&session->answer_bytes) < max_bytes &&
           (open_bytes == 0 ||
            atomic_load(&session->open_bytes) + session->chunk.bytes < open_bytes);
}

/*
 * The pair with put_answers and eb_session_sent, which take off and look for waiters under the lock. Usually there
 * is room, and no lock is taken to see it.
 */
int eb_session_wait_room(struct eb_session *session, unsigned max_open, size_t max_bytes,
                         int64_t deadline_ms)
{
    int rc = 0;
    if (!eb_session_closed(session) && has_room(session, max_open, max_bytes))
        return 0;
    eb_session_submit(session); /* C1 */
    eb_lock_take(&session->lock);
    session->waiters++;
    while (!session->closed && !has_room(session, max_open, max_bytes)) {
        if (eb_cond_wait(&session->room, &session->lock, deadline_ms) == ETIMEDOUT) {
            rc = -ETIMEDOUT;
            break;
        }
    }
    if (session->closed)
        rc = -ECANCELED;
    session->waiters--;
    eb_lock_drop(&session->lock);
    return rc;
}
