/*
 * embed_outbox.c - the thread that brings an outbox into the log (outbox.h).
 *
 *   read rows above the mark -> one publish with the mark in its transaction -> again; nothing there: delete what is
 *   relayed, sleep until woken or poll_ms
 *
 * (Y1) A flush is over when a pass that began after it found nothing to relay.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/embed.h"
#include "broker/outbox.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/uuid.h"

#define POLL_MS  50
#define RETRY_MS 1000

struct eb_broker_outbox {
    struct eb_embed_part part;     /* first */
    char *path;                    /* [I] */
    int64_t poll_ms;               /* [I] */
    pthread_t thread;              /* [I] */
    sqlite3 *db;                   /* [T] the thread's */
    char mark_name[64];            /* [I] */
    int64_t mark;                  /* [T] relayed up to here */
    int64_t forgotten;             /* [T] deleted up to here */
    struct eb_outbox_batch *batch; /* [T] */

    struct eb_lock lock; /* EB_RANK_LEAF: what follows */
    pthread_cond_t cond; /* to the thread, and to those who flush */
    bool woken, ending;
    bool shut;                 /* the broker takes nothing any more */
    uint64_t flushes, flushed; /* asked for, and done of them */
    eb_broker_outbox_state state;
};

/* ---- the mark ---- */

struct mark_op {
    struct eb_op op;
    struct eb_embed_wait wait;
    eb_broker_outbox *outbox;
    uint64_t value;
    int rc;
};

static const struct eb_state_write *collect_mark(struct eb_op *op)
{
    struct mark_op *ask = op->user;
    ask->rc = eb_store_mark(ask->outbox->part.broker->store, ask->outbox->mark_name, &ask->value);
    return NULL;
}

static void marked(struct eb_op *op)
{
    struct mark_op *ask = op->user;
    eb_embed_wait_done(&ask->wait);
}

/* Where the log stands; it is the writer's to ask. */
static int read_mark(eb_broker_outbox *outbox)
{
    struct mark_op ask = {.outbox = outbox,
                          .op = {.kind = EB_OP_STATE, .collect = collect_mark, .done = marked}};
    ask.op.user = &ask;
    eb_embed_wait_init(&ask.wait);
    eb_store_submit(outbox->part.broker->store, &ask.op, &ask.op);
    eb_embed_wait_finish(&ask.wait);
    if (ask.op.err.code != EB_OK)
        return -EIO;
    outbox->mark = (int64_t)ask.value;
    return ask.rc;
}

/* ---- one pass ---- */

struct relay {
    eb_broker_outbox *outbox;
    struct eb_embed_wait wait;
    struct eb_state_write write; /* X2 */
};

static const struct eb_state_write *collect_relay(struct eb_op *op)
{
    struct eb_publish *publish =
        (struct eb_publish *)(void *)((char *)op - offsetof(struct eb_publish, op));
    struct relay *relay = publish->user;
    return &relay->write;
}

static void relayed(struct eb_publish *publish)
{
    struct relay *relay = publish->user;
    eb_embed_wait_done(&relay->wait);
}

/* Is the row itself to blame, so that a later try would fail alike? */
static bool is_refusal(const struct eb_error *error)
{
    int status = eb_code_http(error->code);
    return error->index >= 0 && status >= 400 && status < 500 && error->code != EB_LIMIT_EXCEEDED;
}

/* X4 */
static int refuse(eb_broker_outbox *outbox, const struct eb_error *error)
{
    int64_t place = outbox->batch->rows[error->index].place;
    int rc = eb_outbox_refuse(outbox->db, place, eb_code_name(error->code), error->message);
    if (rc < 0)
        return rc;
    eb_error_log("EB-OUTBOX-REFUSED",
                 "an event of the outbox in %s is refused: %s; it is in eventbus_outbox_refused at "
                 "place %lld",
                 outbox->path, error->message, (long long)place);
    eb_lock_take(&outbox->lock);
    outbox->state.refused++;
    eb_lock_drop(&outbox->lock);
    return 0;
}

/* The rows of the batch as one publish, or as many of them as a batch may have. NULL with @error. */
static struct eb_publish *make_publish(eb_broker_outbox *outbox, struct eb_error *error)
{
    struct eb_bus *bus = outbox->part.broker->bus;
    struct eb_outbox_batch *batch = outbox->batch;
    if (batch->count > eb_bus_config(bus)->max_batch)
        batch->count = (unsigned)eb_bus_config(bus)->max_batch;
    struct eb_publish *publish = eb_publish_create(batch->count);
    if (!publish) {
        eb_fail(error, EB_INTERNAL, "out of memory");
        return NULL;
    }
    publish->batch = true;
    for (unsigned i = 0; i < batch->count; i++) {
        struct eb_draft draft;
        eb_outbox_draft(batch, &batch->rows[i], &draft);
        if (eb_publish_add(bus, publish, &draft, error) < 0) {
            eb_publish_destroy(publish);
            return NULL;
        }
    }
    return publish;
}

/* Into the log, with the mark. 0, or -1 with @error. */
static int relay_batch(eb_broker_outbox *outbox, struct eb_error *error)
{
    struct eb_outbox_batch *batch = outbox->batch;
    struct eb_publish *publish = make_publish(outbox, error);
    if (!publish)
        return -1;
    int64_t last = batch->rows[batch->count - 1].place;
    struct relay relay = {
        .outbox = outbox,
        .write = {.kind = EB_STATE_MARK, .name = outbox->mark_name, .next = (uint64_t)last}};
    eb_embed_wait_init(&relay.wait);
    publish->op.collect = collect_relay;
    publish->done = relayed;
    publish->user = &relay;
    eb_bus_publish(outbox->part.broker->bus, publish);
    eb_embed_wait_finish(&relay.wait);
    *error = publish->op.err;
    eb_publish_destroy(publish);
    if (error->code != EB_OK)
        return -1;
    outbox->mark = last;
    eb_lock_take(&outbox->lock);
    outbox->state.relayed += batch->count;
    eb_lock_drop(&outbox->lock);
    return 0;
}

static void say_stuck(eb_broker_outbox *outbox, const char *why)
{
    eb_lock_take(&outbox->lock);
    bool news = !outbox->state.stuck && why;
    bool again = outbox->state.stuck && !why;
    outbox->state.stuck = why != NULL;
    snprintf(outbox->state.why, sizeof outbox->state.why, "%s", why ? why : "");
    eb_lock_drop(&outbox->lock);
    if (news)
        eb_warn("EB-OUTBOX-STUCK", "the outbox in %s waits: %s; it is tried again every second",
                outbox->path, why);
    else if (again)
        eb_info(NULL, "the outbox in %s goes on", outbox->path);
}

/* All that waits into the log, and what is relayed out of the table. 0: nothing is left; -errno: later. */
static int pass(eb_broker_outbox *outbox)
{
    struct eb_error error = {.code = EB_OK, .index = -1};
    int rc;
    while ((rc = eb_outbox_read(outbox->db, outbox->mark, outbox->batch)) == 0 &&
           outbox->batch->count > 0) {
        if (!eb_embed_enter(outbox->part.broker, NULL))
            return -ESHUTDOWN;
        rc = relay_batch(outbox, &error);
        eb_embed_leave(outbox->part.broker);
        if (rc < 0 && is_refusal(&error))
            rc = refuse(outbox, &error);
        else if (rc < 0)
            return say_stuck(outbox, error.message), -EIO;
        if (rc < 0)
            break;
    }
    if (rc == 0 && outbox->forgotten < outbox->mark) {
        rc = eb_outbox_forget(outbox->db, outbox->mark);
        if (rc == 0)
            outbox->forgotten = outbox->mark;
        else if (rc == -EBUSY)
            return say_stuck(outbox, NULL), 0; /* the program writes: there is no hurry */
    }
    say_stuck(outbox, rc < 0 ? sqlite3_errmsg(outbox->db) : NULL);
    return rc;
}

/* ---- the thread ---- */

/* Sleep until there is a reason to look; after a failure for the whole time, whoever asks. False: it is to end. */
static bool sleep_until(eb_broker_outbox *outbox, int64_t ms, bool failed)
{
    int64_t deadline = eb_mono_ms() + ms;
    eb_lock_take(&outbox->lock);
    while (!outbox->ending && (failed || (!outbox->woken && outbox->flushed == outbox->flushes)) &&
           eb_cond_wait(&outbox->cond, &outbox->lock, deadline) != ETIMEDOUT)
        ;
    outbox->woken = false;
    bool go_on = !outbox->ending;
    eb_lock_drop(&outbox->lock);
    return go_on;
}

static void tell_flushers(eb_broker_outbox *outbox, uint64_t asked, int rc)
{
    eb_lock_take(&outbox->lock);
    outbox->shut = rc == -ESHUTDOWN;
    if (rc == 0)
        outbox->flushed = asked; /* Y1 */
    pthread_cond_broadcast(&outbox->cond);
    eb_lock_drop(&outbox->lock);
}

static uint64_t flushes_asked(eb_broker_outbox *outbox)
{
    eb_lock_take(&outbox->lock);
    uint64_t asked = outbox->flushes;
    eb_lock_drop(&outbox->lock);
    return asked;
}

static void *thread_main(void *arg)
{
    eb_broker_outbox *outbox = arg;
    eb_broker *broker = outbox->part.broker;
    int rc;
    pthread_setname_np(pthread_self(), "eb-outbox");
    do {
        uint64_t asked = flushes_asked(outbox);
        rc = pass(outbox);
        tell_flushers(outbox, asked, rc);
    } while (sleep_until(outbox, rc < 0 ? RETRY_MS : outbox->poll_ms, rc < 0));
    eb_embed_thread_left(broker); /* the last that is touched of it */
    return NULL;
}

/* ---- the program's side ---- */

static void destroy(eb_broker_outbox *outbox)
{
    sqlite3_close(outbox->db);
    if (outbox->batch)
        eb_buf_finish(&outbox->batch->texts);
    free(outbox->batch);
    pthread_cond_destroy(&outbox->cond);
    eb_lock_finish(&outbox->lock);
    free(outbox->path);
    free(outbox);
}

static void end(struct eb_embed_part *part)
{
    eb_broker_outbox *outbox = (eb_broker_outbox *)(void *)part; /* its first member */
    eb_lock_take(&outbox->lock);
    outbox->ending = true;
    pthread_cond_broadcast(&outbox->cond);
    eb_lock_drop(&outbox->lock);
    pthread_join(outbox->thread, NULL);
    destroy(outbox);
}

static int start(eb_broker_outbox *outbox, char *err)
{
    char id[EB_UUID_TEXT + 1];
    int rc = eb_outbox_db_open(outbox->path, &outbox->db, id, err);
    if (rc < 0)
        return rc;
    snprintf(outbox->mark_name, sizeof outbox->mark_name, "outbox:%s", id);
    rc = read_mark(outbox);
    if (rc == 0) /* X1: also for a database that is older than the log */
        rc = eb_outbox_forget(outbox->db, outbox->mark);
    if (rc < 0) {
        snprintf(err, EB_BROKER_ERROR, "cannot open the outbox in %s: %s", outbox->path,
                 strerror(-rc));
        return rc;
    }
    outbox->forgotten = outbox->mark;
    rc = -pthread_create(&outbox->thread, NULL, thread_main, outbox);
    if (rc == 0)
        eb_embed_add(&outbox->part, 1, end);
    else
        snprintf(err, EB_BROKER_ERROR, "cannot start the outbox's thread: %s", strerror(-rc));
    return rc;
}

int eb_broker_outbox_open(eb_broker *broker, const char *path, int64_t poll_ms,
                          eb_broker_outbox **ret, char err[EB_BROKER_ERROR])
{
    char unused[EB_BROKER_ERROR];
    err = err ? err : unused;
    if (!eb_embed_enter(broker, err))
        return -ESHUTDOWN;
    eb_broker_outbox *outbox = calloc(1, sizeof *outbox);
    int rc = -ENOMEM;
    snprintf(err, EB_BROKER_ERROR, "out of memory");
    if (outbox) {
        eb_lock_init(&outbox->lock, EB_RANK_LEAF);
        eb_cond_init(&outbox->cond);
        outbox->part.broker = broker;
        outbox->poll_ms = poll_ms > 0 ? poll_ms : POLL_MS;
        outbox->path = strdup(path);
        outbox->batch = calloc(1, sizeof *outbox->batch);
        if (outbox->path && outbox->batch)
            rc = start(outbox, err);
        if (rc < 0)
            destroy(outbox);
        else
            *ret = outbox;
    }
    eb_embed_leave(broker);
    return rc;
}

int eb_broker_outbox_add(eb_broker_outbox *outbox, struct sqlite3 *db,
                         const eb_broker_publish *event, char ret_id[37], char err[EB_BROKER_ERROR])
{
    struct eb_error error = {.code = EB_OK};
    struct eb_headers headers;
    struct eb_draft draft;
    char unused[EB_BROKER_ERROR];
    err = err ? err : unused;
    eb_headers_init(&headers, (unsigned)outbox->part.broker->settings.max_headers);
    int rc = eb_embed_draft(event, &headers, &draft, &error);
    if (rc == 0 && draft.has_expected)
        rc = eb_fail(&error, EB_INVALID_REQUEST,
                     "expected_last_seq cannot be asked for in an outbox: nobody would be told");
    if (rc == 0)
        rc = eb_draft_check(&draft, &eb_bus_config(outbox->part.broker->bus)->limits, &error);
    if (rc == 0) {
        if (!draft.has_id)
            eb_uuid_v7(draft.id);
        if (ret_id)
            eb_uuid_format(ret_id, draft.id);
        rc = eb_outbox_insert(db, &draft, err);
    } else {
        rc = eb_embed_errno(&error, err);
    }
    eb_headers_finish(&headers);
    return rc;
}

void eb_broker_outbox_wake(eb_broker_outbox *outbox)
{
    eb_lock_take(&outbox->lock);
    outbox->woken = true;
    pthread_cond_broadcast(&outbox->cond);
    eb_lock_drop(&outbox->lock);
}

int eb_broker_outbox_flush(eb_broker_outbox *outbox, int64_t timeout_ms)
{
    int64_t deadline = eb_mono_ms() + timeout_ms;
    int rc = 0;
    eb_lock_take(&outbox->lock);
    uint64_t mine = ++outbox->flushes;
    pthread_cond_broadcast(&outbox->cond);
    while (rc == 0 && outbox->flushed < mine) {
        if (outbox->ending || outbox->shut)
            rc = -ESHUTDOWN;
        else if (eb_cond_wait(&outbox->cond, &outbox->lock, deadline) == ETIMEDOUT)
            rc = -ETIMEDOUT;
    }
    eb_lock_drop(&outbox->lock);
    return rc;
}

void eb_broker_outbox_get_state(eb_broker_outbox *outbox, eb_broker_outbox_state *ret)
{
    eb_lock_take(&outbox->lock);
    *ret = outbox->state;
    eb_lock_drop(&outbox->lock);
}

void eb_broker_outbox_close(eb_broker_outbox *outbox)
{
    if (outbox && eb_embed_take(&outbox->part))
        end(&outbox->part);
}
