/*
 * ws_consume.c - durable consumers over a WebSocket: consume, release, ack, nack, term, in_progress, and the deliveries
 * (PROTOCOL 7). On a binary connection the same texts travel in records.
 *
 * (C1) A consumer that the connection works for stands in its list. Whoever unlinks it, under the list's lock, leaves it
 *      and frees it: the connection's thread (release), whoever ends the connection, `eb-consumer` (released).
 * (C2) While `starting`, it is the connection's thread's alone; what ends it meanwhile is noted, and done by that thread.
 * (C3) Deliveries wait in the session's queue as answers do, up to half of what a connection may have there. Then there is
 *      no room, until the flusher finds that half of it has gone.
 * (C4) A consume is carried out before the next request is read: its thread waits for the commit.
 */
#include <stdlib.h>
#include <string.h>

#include "broker/net/consumer_json.h"
#include "broker/net/ws_internal.h"

#define ROOM_BYTES 4096 /* what a delivery is taken for before its size is known */

/* [I] immutable  [W] the list's lock */
struct work {
    struct work *next;                   /* [W] */
    struct eb_ws_conn *conn;             /* [I] held by being linked (C1) */
    struct eb_consumer_worker *worker;   /* [I] once attached */
    char name[EB_CONSUMER_NAME_MAX + 1]; /* [I] */
    bool starting;                       /* [W] C2 */
    const char *reason;                  /* [W] it was released while it started */
};

struct eb_ws_consume {
    struct eb_lock lock; /* rank WORKERS */
    struct work *list;   /* [W] */
    unsigned count;      /* [W] */
    bool closed;         /* [W] the connection ends */
    atomic_bool waits;   /* [a] there was no room (C3) */
    size_t bound;        /* [I] bytes */
};

/* ---- the list ---- */

static struct eb_ws_consume *list_of(struct eb_ws_conn *conn)
{
    return atomic_load_explicit(&conn->consume, memory_order_acquire);
}

/* Made with the first consumer. The connection's thread; NULL: no memory. */
static struct eb_ws_consume *make_list(struct eb_ws_conn *conn)
{
    struct eb_ws_consume *all = list_of(conn);
    size_t queue = eb_bus_config(conn->side->bus)->queue_bytes;
    size_t answers = atomic_load(&conn->side->max_unsent_answers);

    if (all || !(all = calloc(1, sizeof(*all))))
        return all;
    eb_lock_init(&all->lock, EB_RANK_WORKERS);
    all->bound = (queue < answers ? queue : answers) / 2;
    atomic_store_explicit(&conn->consume, all, memory_order_release);
    return all;
}

void eb_ws_consume_free(struct eb_ws_conn *conn)
{
    struct eb_ws_consume *all = list_of(conn);

    if (!all)
        return;
    eb_lock_finish(&all->lock);
    free(all);
}

unsigned eb_ws_consume_count(struct eb_ws_conn *conn)
{
    struct eb_ws_consume *all = list_of(conn);

    if (!all)
        return 0;
    eb_lock_take(&all->lock);
    unsigned count = all->count;
    eb_lock_drop(&all->lock);
    return count;
}

static struct work *find_locked(struct eb_ws_consume *all, const char *name)
{
    struct work *work = all->list;

    while (work && strcmp(work->name, name) != 0)
        work = work->next;
    return work;
}

/* False: somebody else has unlinked it. */
static bool unlink_locked(struct eb_ws_consume *all, const struct work *work)
{
    for (struct work **at = &all->list; *at; at = &(*at)->next) {
        if (*at == work) {
            *at = work->next;
            all->count--;
            return true;
        }
    }
    return false;
}

static void leave(struct work *work)
{
    eb_consumer_leave(work->worker, EB_LEAVE_AGAIN);
    free(work);
}

void eb_ws_consume_end(struct eb_ws_conn *conn)
{
    struct eb_ws_consume *all = list_of(conn);
    struct work *ended = NULL;

    if (!all)
        return;
    eb_lock_take(&all->lock);
    all->closed = true;
    for (struct work **at = &all->list, *work; (work = *at);) {
        if (work->starting) { /* C2 */
            at = &work->next;
            continue;
        }
        *at = work->next;
        all->count--;
        work->next = ended;
        ended = work;
    }
    eb_lock_drop(&all->lock);
    for (struct work *next; ended; ended = next) {
        next = ended->next;
        leave(ended);
    }
}

/* ---- room (C3) ---- */

static size_t waiting_bytes(struct eb_ws_conn *conn, bool *ret_closed)
{
    struct eb_session_state state;

    eb_session_state(conn->session, &state);
    *ret_closed = state.closed || atomic_load(&conn->side->stopping);
    return state.answers_bytes;
}

/* Bytes that may still be queued; with 0 the flusher will tell when there is room. */
static size_t room_bytes(struct eb_ws_conn *conn)
{
    struct eb_ws_consume *all = list_of(conn);
    bool closed;

    for (int looks = 0; looks < 2; looks++) { /* it may have drained before `waits` was seen */
        size_t waiting = waiting_bytes(conn, &closed);
        if (closed)
            return 0;
        if (waiting < all->bound)
            return all->bound - waiting;
        atomic_store(&all->waits, true);
    }
    return 0;
}

void eb_ws_consume_sent(struct eb_ws_conn *conn)
{
    struct eb_ws_consume *all = list_of(conn);
    bool closed;

    if (!all || !atomic_load(&all->waits) || waiting_bytes(conn, &closed) > all->bound / 2 ||
        !atomic_exchange(&all->waits, false))
        return;
    eb_lock_take(&all->lock);
    for (struct work *work = all->list; work; work = work->next)
        if (!work->starting)
            eb_consumer_worker_room(work->worker);
    eb_lock_drop(&all->lock);
}

/* ---- the worker, on `eb-consumer` ---- */

static bool work_deliver(void *user, struct eb_event *event, uint32_t delivery)
{
    struct work *work = user;
    struct eb_ws_conn *conn = work->conn;
    struct eb_buf buf = EB_BUF_INIT;

    if (room_bytes(conn) == 0)
        return false;
    eb_ws_text_begin(conn, &buf, (struct eb_ws_id){0});
    eb_consumer_write_delivery(&buf, event, "event", work->name, delivery);
    eb_ws_text_send(conn, &buf, false);
    return true;
}

static size_t work_room(void *user)
{
    const struct work *work = user;
    size_t bytes = room_bytes(work->conn);

    return (bytes + ROOM_BYTES - 1) / ROOM_BYTES;
}

static void work_gap(void *user, uint64_t from_seq, uint64_t to_seq, enum eb_gap_reason reason)
{
    struct work *work = user;
    struct eb_buf buf = EB_BUF_INIT;

    eb_ws_text_begin(work->conn, &buf, (struct eb_ws_id){0});
    eb_buf_printf(&buf,
                  "{\"type\":\"gap\",\"consumer\":\"%s\",\"from_seq\":%llu,\"to_seq\":%llu,"
                  "\"reason\":\"%s\"}",
                  work->name, (unsigned long long)from_seq, (unsigned long long)to_seq,
                  eb_gap_reason_name(reason));
    eb_ws_text_send(work->conn, &buf, false);
}

static void say_released(const struct work *work, const char *reason)
{
    struct eb_buf buf = EB_BUF_INIT;

    eb_ws_text_begin(work->conn, &buf, (struct eb_ws_id){0});
    eb_buf_printf(&buf, "{\"type\":\"released\",\"consumer\":\"%s\",\"reason\":\"%s\"}", work->name,
                  reason);
    eb_ws_text_send(work->conn, &buf, false);
}

static void work_released(void *user, const char *reason)
{
    struct work *work = user;
    struct eb_ws_conn *conn = work->conn;
    struct eb_ws_consume *all = list_of(conn);

    eb_lock_take(&all->lock);
    bool ours = !work->starting && unlink_locked(all, work);
    if (ours)
        eb_session_ref(conn->session); /* no longer linked: the connection may go */
    else
        work->reason = reason;
    eb_lock_drop(&all->lock);
    if (!ours)
        return;
    say_released(work, reason);
    leave(work);
    eb_session_unref(conn->session);
}

static const struct eb_worker_ops work_ops = {
    .deliver = work_deliver,
    .room = work_room,
    .gap = work_gap,
    .released = work_released,
};

/* ---- consume ---- */

/* Waits for the bus on the connection's thread (C4). */
struct wait {
    struct eb_lock lock;
    pthread_cond_t cond;
    bool done;
};

static void wait_done(struct eb_consumer_request *request)
{
    struct wait *wait = request->user;

    eb_lock_take(&wait->lock);
    wait->done = true;
    pthread_cond_signal(&wait->cond);
    eb_lock_drop(&wait->lock);
}

static void carry_out(struct eb_ws_conn *conn, struct eb_consumer_request *request)
{
    struct wait wait = {.done = false};

    eb_lock_init(&wait.lock, EB_RANK_LEAF);
    eb_cond_init(&wait.cond);
    request->done = wait_done;
    /* cppcheck-suppress autoVariables ; it is used until `done`, which is waited for below */
    request->user = &wait;
    eb_ws_conn_submit(conn); /* what was asked before takes effect before */
    eb_bus_consumer(conn->side->bus, request);
    eb_lock_take(&wait.lock);
    while (!wait.done)
        eb_cond_wait(&wait.cond, &wait.lock, -1);
    eb_lock_drop(&wait.lock);
    pthread_cond_destroy(&wait.cond);
    eb_lock_finish(&wait.lock);
}

static int read_name(struct eb_consumer_call *call, struct eb_json *json, struct eb_error *err)
{
    uint32_t tok = eb_json_member(json, 0, "consumer");
    size_t len;

    if (!tok || json->tokens[tok].type != EB_JSON_STRING)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "\"consumer\" is missing or not a string: the consumer's name");
    const char *name = eb_json_string(json, tok, &len);
    return eb_consumer_call_name(call, name, len, err);
}

static int read_consume(struct eb_consumer_call *call, struct eb_json *json,
                        uint32_t *ret_max_inflight, struct eb_error *err)
{
    uint32_t settings = eb_json_member(json, 0, "settings");
    int64_t max_inflight = 0;

    if (read_name(call, json, err) < 0 ||
        eb_consumer_read_int(json, 0, "max_inflight", 1, UINT32_MAX, &max_inflight, err) < 0)
        return -1;
    *ret_max_inflight = (uint32_t)max_inflight;
    if (!settings)
        return 0;
    if (json->tokens[settings].type != EB_JSON_OBJECT)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "\"settings\" must be an object, as PUT /v1/consumers/NAME takes it");
    return eb_consumer_call_settings(call, json, settings, err);
}

static void answer_consume(struct eb_ws_conn *conn, struct eb_ws_id id,
                           const struct eb_consumer_request *request)
{
    struct eb_buf buf = EB_BUF_INIT;

    if (id.len == 0)
        return;
    eb_ws_answer_begin(conn, &buf, "ok", id, false);
    /* The log's epoch, so that nobody acknowledges here what another log gave him. */
    eb_buf_printf(&buf, ",\"consumer\":\"%s\",\"created\":%s,\"epoch\":\"%s\"", request->name,
                  request->created ? "true" : "false",
                  eb_store_epoch(eb_bus_store(conn->side->bus)));
    eb_ws_answer_send(conn, &buf, id);
}

/* Does it work for it already? Then the new max_inflight is all that is new. */
static bool again(struct eb_ws_consume *all, const char *name, uint32_t max_inflight)
{
    eb_lock_take(&all->lock);
    struct work *work = find_locked(all, name);
    if (work)
        eb_consumer_worker_limit(work->worker, max_inflight);
    eb_lock_drop(&all->lock);
    return work;
}

/* Into the list, `starting`. NULL with @err. */
static struct work *attach(struct eb_ws_conn *conn, const char *name, uint32_t max_inflight,
                           struct eb_error *err)
{
    struct eb_ws_consume *all = list_of(conn);
    unsigned max = eb_bus_config(conn->side->bus)->max_subscriptions;
    struct work *work = calloc(1, sizeof(*work));

    if (!work) {
        eb_fail(err, EB_INTERNAL, "out of memory");
        return NULL;
    }
    work->conn = conn;
    work->starting = true;
    memcpy(work->name, name, strlen(name) + 1);
    eb_lock_take(&all->lock);
    bool full = all->count >= max;
    if (!full) {
        work->next = all->list;
        all->list = work;
        all->count++;
    }
    eb_lock_drop(&all->lock);
    if (full)
        eb_fail(err, EB_LIMIT_EXCEEDED,
                "this connection works for %u consumers; more are not allowed (max_subscriptions)",
                max);
    else if (eb_consumer_attach(conn->side->bus, name, &work_ops, work, max_inflight, -1, false,
                                &work->worker, err) == 0)
        return work;
    eb_lock_take(&all->lock);
    unlink_locked(all, work);
    eb_lock_drop(&all->lock);
    free(work);
    return NULL;
}

/* The answer is out: deliveries may come. */
static void begin(struct eb_ws_consume *all, struct work *work)
{
    eb_consumer_begin(work->worker);
    eb_lock_take(&all->lock);
    work->starting = false;
    const char *reason = work->reason;
    bool end = reason || all->closed;
    if (end)
        unlink_locked(all, work);
    else /* what was said of room meanwhile passed it by */
        eb_consumer_worker_room(work->worker);
    eb_lock_drop(&all->lock);
    if (!end)
        return;
    if (reason)
        say_released(work, reason);
    leave(work);
}

static int consume(struct eb_ws_conn *conn, struct eb_json *json, struct eb_consumer_call *call,
                   struct eb_ws_id id, struct eb_error *err)
{
    struct eb_consumer_request *request = &call->request;
    struct eb_ws_consume *all = make_list(conn);
    uint32_t max_inflight;

    if (!all)
        return eb_fail(err, EB_INTERNAL, "out of memory");
    if (read_consume(call, json, &max_inflight, err) < 0)
        return -1;
    carry_out(conn, request);
    if (request->err.code != EB_OK) {
        *err = request->err;
        return -1;
    }
    if (again(all, request->name, max_inflight)) {
        answer_consume(conn, id, request);
        return 0;
    }
    struct work *work = attach(conn, request->name, max_inflight, err);
    if (!work)
        return -1;
    answer_consume(conn, id, request);
    begin(all, work);
    return 0;
}

void eb_ws_do_consume(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id)
{
    struct eb_consumer_call *call = eb_consumer_call_create(EB_CONSUMER_ENSURE);
    struct eb_error err;

    if (!call)
        eb_ws_answer_memory(conn, id);
    else if (consume(conn, &parser->json, call, id, &err) < 0)
        eb_ws_answer_error(conn, id, &err);
    eb_consumer_call_destroy(call);
}

/* ---- release ---- */

static int release(struct eb_ws_conn *conn, struct eb_json *json, struct eb_error *err)
{
    struct eb_ws_consume *all = list_of(conn);
    struct eb_consumer_call *call = eb_consumer_call_create(EB_CONSUMER_ENSURE);
    struct work *work = NULL;

    if (!call)
        return eb_fail(err, EB_INTERNAL, "out of memory");
    int rc = read_name(call, json, err);
    if (rc == 0 && all) {
        eb_lock_take(&all->lock);
        work = find_locked(all, call->request.name);
        if (work)
            unlink_locked(all, work);
        eb_lock_drop(&all->lock);
    }
    if (work)
        leave(work);
    else if (rc == 0)
        rc = eb_fail(err, EB_NOT_FOUND, "this connection does not consume %s", call->request.name);
    eb_consumer_call_destroy(call);
    return rc;
}

void eb_ws_do_release(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id)
{
    struct eb_buf buf = EB_BUF_INIT;
    struct eb_error err;

    if (release(conn, &parser->json, &err) < 0) {
        eb_ws_answer_error(conn, id, &err);
    } else if (id.len > 0) {
        eb_ws_answer_begin(conn, &buf, "ok", id, false);
        eb_ws_answer_send(conn, &buf, id);
    }
}

/* ---- ack, nack, term, in_progress ---- */

static void answered(struct eb_consumer_request *request)
{
    struct eb_ws_conn *conn = request->user;
    struct eb_session *session = conn->session;
    struct eb_ws_id id = eb_ws_kept_id(request->id_text, request->id_len);
    struct eb_buf buf = EB_BUF_INIT;

    id.in_done = false; /* not always on the committing thread */
    if (request->err.code != EB_OK) {
        eb_ws_answer_error(conn, id, &request->err);
    } else if (id.len > 0) {
        eb_ws_answer_begin(conn, &buf, "ok", id, false);
        eb_buf_str(&buf, ",");
        eb_consumer_write_results(&buf, request);
        eb_ws_answer_send(conn, &buf, id);
    }
    eb_ws_id_drop(request->id_text, &request->id_len);
    eb_consumer_call_destroy((struct eb_consumer_call *)request); /* its first member */
    eb_session_unref(session);
}

void eb_ws_do_settle(struct eb_ws_conn *conn, struct eb_ws_parser *parser, struct eb_ws_id id,
                     enum eb_consumer_verb verb)
{
    struct eb_consumer_call *call = eb_consumer_call_create(verb);
    size_t max = eb_bus_config(conn->side->bus)->max_batch;
    struct eb_error err;

    if (!call) {
        eb_ws_answer_memory(conn, id);
        return;
    }
    struct eb_consumer_request *request = &call->request;
    if (read_name(call, &parser->json, &err) < 0 ||
        eb_consumer_call_seqs(call, &parser->json, 0, max, &err) < 0) {
        eb_ws_answer_error(conn, id, &err);
        eb_consumer_call_destroy(call);
        return;
    }
    if (!eb_ws_id_keep(request->id_text, &request->id_len, id.text, id.len)) {
        eb_ws_answer_memory(conn, id);
        eb_consumer_call_destroy(call);
        return;
    }
    request->done = answered;
    request->user = conn;
    request->session = eb_session_ref(conn->session); /* W4 */
    eb_ws_conn_submit(conn); /* a publish before an ack is committed before it */
    eb_bus_consumer(conn->side->bus, request);
}
