/*
 * loop.c - the thread `eb-client`: connect, serve one connection until it ends, wait, connect again.
 *
 *     IDLE ──wanted──> CONNECTING ──────ok─────> CONNECTED
 *                       ^      │ refused for good     │ ended
 *                       │      ├──> FAILED            │
 *                       └── WAITING <─────────────────┘        any ──close──> CLOSED
 *
 * (P1) A turn: pick under the lock, frame and mask without it, flush, poll, read. Nothing waits but poll().
 * (P2) The wake descriptor is written only while we sleep (io_sleeps), or to close.
 * (P3) Requests go out in the order of the table, many in a message where the binary protocol is spoken, on every connection from its front (inflight.c, F3). A
 *      subscription's first request goes behind the publishes that were handed over before it.
 * (P4) A publish that is older than dedupe_window when its answer is still missing ends as in doubt. One that was
 *      sent twice may still lie in a buffer on its way: then the connection goes too, so that it does not arrive
 *      after the broker forgot the first.
 * (P5) The socket is not read while a queue is full and nobody is hurt by it (stream.c).
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "client/consumer.h"

#define OUT_HIGH     (256 * 1024) /* framed and not sent: then no more is framed */
#define PICK         256          /* requests a hold of the lock */
#define JOIN_MAX     (32 * 1024) /* bytes of requests that share a message; a larger one goes alone */
#define GOODBYE_MS   1000        /* to send what is left and hear the answer to our close */
#define DOUBT_MARGIN 5000

static int64_t earlier(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

/* Sleep until @until, something on @fd, or a wake. Returns the events of @fd. */
static short sleep_until(eb_client *client, int fd, short events, int64_t until)
{
    struct pollfd fds[2] = {{client->wake_fd, POLLIN, 0}, {fd, events, 0}};
    int64_t left = until - eb_mono_ms();
    uint64_t count;
    int rc;

    rc = poll(fds, fd >= 0 ? 2 : 1, left <= 0 ? 0 : left > 60000 ? 60000 : (int)left);
    eb_lock_take(&client->lock);
    client->io_sleeps = false;
    eb_lock_drop(&client->lock);
    if (rc > 0 && fds[0].revents && read(client->wake_fd, &count, sizeof(count)) < 0)
        (void)0; /* another read took it: not possible, and no harm */
    return rc > 0 ? fds[1].revents : 0;
}

/* ---- what we say ---- */

struct picked {
    struct eb_request *requests[PICK];
    size_t count;
    struct eb_control *controls;
    struct eb_buf subscribes; /* records */
};

static void pick_subscribe_locked(eb_client *client, eb_subscription *sub, struct eb_buf *out)
{
    uint64_t from = eb_stream_resume_from(sub);

    sub->request = ++client->last_id;
    sub->asked_live = from == EB_START_LIVE;
    sub->live = false;
    sub->state = EB_SUB_ASKED;
    eb_wire_write_subscribe(out, sub->request, sub->pattern.text, from, sub->epoch,
                            sub->options.pending_only && !sub->was_live);
    if (eb_buf_failed(out))
        sub->state = EB_SUB_IDLE; /* the next turn tries again */
}

/* Those that are to be asked for and whose turn it is (P3). */
static void pick_subscribes_locked(eb_client *client, struct eb_buf *out, int64_t now)
{
    for (eb_subscription *sub = client->subs; sub; sub = sub->next) {
        struct eb_request *unsent = client->inflight.unsent;
        if (sub->state == EB_SUB_PARKED && sub->retry_at != 0 && sub->retry_at <= now)
            sub->state = EB_SUB_IDLE;
        if (sub->state != EB_SUB_IDLE)
            continue;
        if (!sub->answered && unsent && unsent->id <= sub->after && !client->hold)
            continue;
        pick_subscribe_locked(client, sub, out);
    }
}

/* Is there a subscription whose answer will tell the log's epoch? It may have been ended meanwhile. */
static bool asking_locked(const eb_client *client)
{
    for (const eb_subscription *sub = client->subs; sub; sub = sub->next) {
        if (sub->state == EB_SUB_IDLE || sub->state == EB_SUB_ASKED)
            return true;
    }
    return false;
}

/* The last request that goes in front of a subscription which was asked for meanwhile (P3). */
static uint64_t barrier_locked(const eb_client *client)
{
    uint64_t barrier = UINT64_MAX, consume = eb_consume_barrier_locked(client);

    for (const eb_subscription *sub = client->subs; sub; sub = sub->next) {
        if (sub->state == EB_SUB_IDLE && !sub->answered && sub->after < barrier)
            barrier = sub->after;
    }
    return barrier < consume ? barrier : consume;
}

static void pick_locked(eb_client *client, struct picked *picked)
{
    int64_t now = eb_mono_ms();
    uint64_t barrier;

    picked->controls = client->control_first;
    client->control_first = client->control_last = NULL;
    pick_subscribes_locked(client, &picked->subscribes, now);
    eb_consume_pick_locked(client, &picked->subscribes, now);
    client->hold = client->hold && asking_locked(client);
    if (client->hold)
        return;
    barrier = barrier_locked(client);
    for (size_t bytes = 0; picked->count < PICK && bytes < OUT_HIGH;) {
        if (client->inflight.unsent && client->inflight.unsent->id > barrier)
            break;
        struct eb_request *request = eb_inflight_send_next(&client->inflight, now);
        if (!request)
            break;
        if (request->attempts == 1)
            eb_wire_set_id(&request->text, request->id);
        bytes += request->text.len;
        picked->requests[picked->count++] = request;
    }
}

/* What was joined so far becomes a message. */
static int send_joined(eb_client *client)
{
    struct eb_buf *message = &client->message;
    int rc = 0;

    if (message->len > 0)
        rc = eb_connection_send(client->connection, message->data, message->len);
    message->len = 0;
    return rc;
}

/* One record into the message under way, or as a text of its own. @len: of @data, which may hold more records. */
static int send_record(eb_client *client, const char *data, size_t len)
{
    struct eb_buf *message = &client->message;
    struct eb_bin_record record;
    size_t at = 0;
    int rc = 0;

    if (eb_connection_binary(client->connection)) {
        if (message->len > 0 && (!client->joins || message->len + len > JOIN_MAX))
            rc = send_joined(client);
        if (rc == 0 && len >= JOIN_MAX && message->len == 0)
            return eb_connection_send(client->connection, data, len);
        client->joined = client->joined || message->len > 0;
        eb_buf_add(message, data, len);
    } else if (eb_bin_next((const uint8_t *)data, len, &at, &record) > 0) {
        eb_wire_json(message, &record);
    }
    if (eb_buf_failed(message)) {
        eb_buf_finish(message);
        return -ENOMEM;
    }
    if (rc == 0 && !eb_connection_binary(client->connection))
        rc = send_joined(client);
    return rc;
}

static int send_picked(eb_client *client, struct picked *picked)
{
    const char *subscribes = picked->subscribes.data;
    struct eb_bin_record record;
    size_t at = 0, before = 0;
    int rc = 0;

    while (picked->controls) {
        struct eb_control *control = picked->controls;
        picked->controls = control->next;
        if (rc == 0)
            rc = send_record(client, control->text.data, control->text.len);
        eb_buf_finish(&control->text);
        free(control);
    }
    while (rc == 0 && !eb_buf_failed(&picked->subscribes) &&
           eb_bin_next((const uint8_t *)subscribes, picked->subscribes.len, &at, &record) > 0) {
        rc = send_record(client, subscribes + before, at - before);
        before = at;
    }
    for (size_t i = 0; rc == 0 && i < picked->count; i++) { /* L2: nobody else frees them */
        const struct eb_buf *text = &picked->requests[i]->text;
        rc = send_record(client, text->data, text->len);
    }
    return rc == 0 ? send_joined(client) : rc;
}

/* Frame what waits, as far as the out buffer takes it, and give it to the kernel. */
static int pump(eb_client *client)
{
    struct eb_connection *connection = client->connection;
    int rc = eb_connection_flush(connection);

    while (rc == 0 && eb_connection_unsent(connection) < OUT_HIGH) {
        struct picked picked = {.count = 0};
        bool any;
        eb_lock_take(&client->lock);
        pick_locked(client, &picked);
        eb_lock_drop(&client->lock);
        any = picked.count > 0 || picked.controls || picked.subscribes.len > 0;
        rc = send_picked(client, &picked);
        eb_buf_finish(&picked.subscribes);
        if (rc == 0)
            rc = eb_connection_flush(connection);
        if (!any)
            break;
    }
    return rc;
}

/* ---- time ---- */

/*
 * Publishes that nobody can vouch for any more (P4). @margin: what is that close to the end of the window is not
 * sent again. Returns whether one of them was sent more than once.
 */
static bool expire_locked(eb_client *client, int64_t now, int64_t margin)
{
    int64_t limit = now - client->options.dedupe_window + margin;
    struct eb_request *request;
    bool twice = false;

    while ((request = eb_inflight_older(&client->inflight, limit))) {
        twice |= request->attempts > 1;
        eb_client_set_error_locked(client,
                                   "a publish stayed unanswered for longer than dedupe_window");
        eb_request_complete_locked(client, request, EB_RESULT_IN_DOUBT);
    }
    return twice;
}

static int64_t next_expiry_locked(const eb_client *client)
{
    const struct eb_request *first = client->inflight.first;

    return first && first->attempts > 0 ? first->first_sent + client->options.dedupe_window + 1
                                        : INT64_MAX;
}

static int64_t next_retry_locked(const eb_client *client)
{
    int64_t next = INT64_MAX;

    for (const eb_subscription *sub = client->subs; sub; sub = sub->next) {
        if (sub->state == EB_SUB_PARKED && sub->retry_at != 0)
            next = earlier(next, sub->retry_at);
    }
    return next;
}

static int64_t doubt_margin(const eb_client *client)
{
    return earlier(client->options.dedupe_window / 10, DOUBT_MARGIN);
}

/* ---- one connection ---- */

struct heartbeat {
    int64_t heard; /* when anything came last */
    bool pinged;
};

/* Ping after a silence; give up after as long again. Returns when to look next, or -1: half-open. */
static int64_t beat(eb_client *client, struct heartbeat *beat, int64_t now)
{
    int64_t interval = client->options.ping_interval;

    if (eb_connection_heard(client->connection) || client->paused_since != 0) {
        beat->heard = now;
        beat->pinged = false;
    }
    if (interval <= 0)
        return INT64_MAX;
    if (!beat->pinged && now - beat->heard >= interval) {
        beat->pinged = true;
        if (eb_connection_ping(client->connection) < 0 ||
            eb_connection_flush(client->connection) < 0)
            return -1;
    }
    if (now - beat->heard >= 2 * interval)
        return -1;
    return beat->heard + (beat->pinged ? 2 * interval : interval);
}

static void give_up(eb_client *client, const char *why)
{
    snprintf(client->broken, sizeof(client->broken), "%s", why);
}

/* What time does, and until when to sleep. -1: the connection is given up. */
static int64_t timers(eb_client *client, struct heartbeat *heart, bool *ret_paused)
{
    int64_t now = eb_mono_ms(), until;
    bool twice;

    eb_lock_take(&client->lock);
    twice = expire_locked(client, now, 0);
    client->paused = eb_stream_pause_locked(client, now);
    *ret_paused = client->paused;
    until = earlier(next_expiry_locked(client), next_retry_locked(client));
    until = earlier(until, eb_consume_next_locked(client));
    if (client->paused)
        until = earlier(until, now + 500);
    eb_lock_drop(&client->lock);
    if (twice) {
        give_up(client, "a publish sent twice stayed unanswered for longer than dedupe_window");
        return -1;
    }
    int64_t next = beat(client, heart, now);
    if (next < 0) {
        give_up(client, "the broker is silent");
        return -1;
    }
    return earlier(until, next);
}

/* Is there nothing left to frame? Then we may sleep, and must be woken. */
static bool fall_asleep(eb_client *client)
{
    bool idle = client->control_first == NULL && !client->closing &&
                (client->inflight.unsent == NULL || client->hold) &&
                !eb_consume_wants_locked(client, eb_mono_ms());

    for (eb_subscription *sub = client->subs; sub && idle; sub = sub->next)
        idle = sub->state != EB_SUB_IDLE;
    client->io_sleeps = true;
    return idle;
}

/* Is there something to look at that poll() does not know of? */
static bool something_read(eb_client *client)
{
    return client->rest.len > 0 || eb_connection_buffered(client->connection);
}

/* Look at what was read and not yet looked at, then read. Negative: the connection is over. */
static int hear(eb_client *client)
{
    int rc = eb_answers_rest(client);

    return rc != 0 ? rc : eb_connection_read(client->connection, eb_answers_take);
}

/* Serve the connection until it ends; true: because the client is being closed. */
static bool serve(eb_client *client)
{
    struct eb_connection *connection = client->connection;
    struct heartbeat heart = {.heard = eb_mono_ms()};
    bool closing = false;

    for (;;) {
        bool paused, idle, blocked;
        int64_t until;
        short events;
        if (pump(client) < 0)
            return false;
        until = timers(client, &heart, &paused);
        if (until < 0)
            return false;
        blocked = eb_connection_unsent(connection) > 0;
        eb_lock_take(&client->lock);
        closing = client->closing;
        idle = fall_asleep(client) || blocked;
        eb_lock_drop(&client->lock);
        if (closing)
            return true;
        if (!idle || (!paused && something_read(client)))
            until = 0;
        events = sleep_until(client, eb_connection_fd(connection),
                             (short)((paused ? 0 : POLLIN) | (blocked ? POLLOUT : 0)), until);
        if (paused && (events & (POLLERR | POLLHUP))) {
            give_up(client, "the connection broke");
            return false;
        }
        if (!paused && ((events & (POLLIN | POLLERR | POLLHUP)) || something_read(client)) &&
            hear(client) < 0)
            return false;
    }
}

static int on_goodbye(eb_client *client, const char *text, size_t len)
{
    return 0;
}

/* Our close: send what is left and wait a little for the broker's. */
static void say_goodbye(eb_client *client)
{
    struct eb_connection *connection = client->connection;
    int64_t deadline = eb_mono_ms() + GOODBYE_MS;
    int64_t now;

    eb_connection_close_frame(connection, 1000);
    while (eb_connection_flush(connection) == 0 && (now = eb_mono_ms()) < deadline) {
        struct pollfd fd = {eb_connection_fd(connection),
                            (short)(POLLIN | (eb_connection_unsent(connection) ? POLLOUT : 0)), 0};
        if (!eb_connection_buffered(connection) && poll(&fd, 1, (int)(deadline - now)) <= 0)
            continue;
        if ((fd.revents & ~POLLOUT || eb_connection_buffered(connection)) &&
            eb_connection_read(connection, on_goodbye) < 0)
            break;
    }
}

/* ---- between connections ---- */

/*
 * The broker hung up on a message beyond its max_message: that is the largest one, for if any is too large, it is.
 * It was not read, so it is not stored; sent again it would end every connection.
 */
static void drop_too_large_locked(eb_client *client)
{
    struct eb_request *largest = NULL;

    for (struct eb_request *r = client->inflight.first; r && r != client->inflight.unsent;
         r = r->next) {
        if (!largest || r->text.len > largest->text.len)
            largest = r;
    }
    if (largest)
        eb_request_complete_locked(client, largest, EB_RESULT_TOO_LARGE);
}

static void disconnected(eb_client *client, int64_t since)
{
    struct eb_connection *connection = client->connection;
    int64_t now = eb_mono_ms();
    const char *why = client->broken[0] ? client->broken : eb_connection_why(connection);

    eb_lock_take(&client->lock);
    eb_client_set_error_locked(client, why);
    if (eb_connection_close_code(connection) == 1009 && client->joined)
        client->joins = false; /* it may be what we made of several: from now on each goes alone */
    else if (eb_connection_close_code(connection) == 1009)
        drop_too_large_locked(client);
    eb_inflight_rewind(&client->inflight);
    eb_stream_disconnected_locked(client);
    eb_consume_disconnected_locked(client);
    client->paused = false;
    eb_lock_drop(&client->lock);
    eb_backoff_connected(&client->backoff, now - since);
}

static void connected_locked(eb_client *client)
{
    client->hold = client->inflight.acks > 0 && client->epoch[0] && asking_locked(client);
    expire_locked(client, eb_mono_ms(), doubt_margin(client));
    eb_client_set_state_locked(client, EB_STATE_CONNECTED, "");
}

/* One try. 0: a connection was served and ended; else the failure, with @err. */
static int try_once(eb_client *client, struct eb_connect_error *err, bool *ret_closing)
{
    int64_t since;
    int rc = eb_connection_open(&client->connection, client, err);

    if (rc < 0)
        return rc;
    since = eb_mono_ms();
    client->broken[0] = '\0';
    client->paused_since = 0;
    client->joined = false;
    client->message.len = 0;
    eb_lock_take(&client->lock);
    connected_locked(client);
    eb_lock_drop(&client->lock);
    *ret_closing = serve(client);
    eb_answers_forget(client);
    if (*ret_closing)
        say_goodbye(client);
    disconnected(client, since);
    snprintf(err->why, sizeof(err->why), "%s",
             client->broken[0] ? client->broken : eb_connection_why(client->connection));
    eb_connection_destroy(client->connection);
    client->connection = NULL;
    return 0;
}

/* Refused for good: the token, the path, or not a broker at all. What may pass (5xx, 408, 429) is tried again. */
static bool for_good(const struct eb_connect_error *err)
{
    int status = err->status;

    return status != 0 && status < 500 && status != 408 && status != 429;
}

static void failed_locked(eb_client *client, int result, const char *why)
{
    client->failed_result = result;
    eb_client_set_error_locked(client, why);
    eb_client_set_state_locked(client, EB_STATE_FAILED, why);
    eb_request_complete_all_locked(client, EB_RESULT_CLOSED);
    for (eb_subscription *sub = client->subs; sub; sub = sub->next)
        eb_stream_kill_locked(sub, result, why);
    for (eb_consumer *consumer = client->consumers; consumer; consumer = consumer->next)
        eb_consume_kill_locked(consumer, result, why);
}

/* Wait @wait ms, doing what time does; true: the client is being closed. */
static bool wait_between(eb_client *client, int64_t wait)
{
    int64_t until = eb_mono_ms() + wait;

    for (;;) {
        int64_t next, now = eb_mono_ms();
        bool closing;
        eb_lock_take(&client->lock);
        closing = client->closing;
        expire_locked(client, now, 0);
        next = earlier(until, next_expiry_locked(client));
        eb_lock_drop(&client->lock);
        if (closing || now >= until)
            return closing;
        sleep_until(client, -1, 0, next);
    }
}

/* Until somebody wants a connection; false: the client is being closed. */
static bool wait_wanted(eb_client *client)
{
    for (;;) {
        bool closing, wanted;
        eb_lock_take(&client->lock);
        closing = client->closing;
        wanted = client->wanted;
        client->io_sleeps = !closing && !wanted;
        eb_lock_drop(&client->lock);
        if (closing || wanted)
            return !closing;
        sleep_until(client, -1, 0, INT64_MAX);
    }
}

/* After a try: wait and go on, or not. True: try again. */
static bool go_on(eb_client *client, int rc, const struct eb_connect_error *err)
{
    int64_t wait;
    uint64_t random = 0;
    bool over;

    if (rc < 0)
        client->backoff.failures++;
    over = rc < 0 && (for_good(err) || (client->options.max_retries >= 0 &&
                                        client->backoff.failures > client->options.max_retries));
    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) < 0)
        random = (uint64_t)eb_mono_us();
    wait = eb_backoff_wait(&client->backoff, random);
    eb_lock_take(&client->lock);
    if (over)
        failed_locked(client, for_good(err) ? eb_result_from_status(err->status) : EB_RESULT_CLOSED,
                      err->why);
    else
        eb_client_set_state_locked(client, EB_STATE_WAITING, err->why);
    eb_client_set_error_locked(client, err->why);
    eb_lock_drop(&client->lock);
    return !over && !wait_between(client, wait);
}

void *eb_client_io_thread(void *arg)
{
    eb_client *client = arg;
    bool closing = false;

    pthread_setname_np(pthread_self(), "eb-client");
    if (!wait_wanted(client))
        return NULL;
    for (;;) {
        struct eb_connect_error err;
        int rc;
        eb_lock_take(&client->lock);
        closing = client->closing;
        if (!closing)
            eb_client_set_state_locked(client, EB_STATE_CONNECTING, "");
        eb_lock_drop(&client->lock);
        if (closing)
            break;
        rc = try_once(client, &err, &closing);
        if (closing || rc == -ECANCELED || !go_on(client, rc, &err))
            break;
    }
    return NULL;
}
