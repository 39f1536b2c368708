/*
 * rest_fetch.c - POST /v1/consumers/{name}/fetch: a worker of the consumer for the length of one request.
 *
 *   parsed -> suspended -> attached -> begun ... deliver, deliver, flush -> kept -> resumed -> answered -> sent -> left
 *
 * (F1) `ended` is set once, by whoever comes first: enough events (flush, deliver), the time (expired), the consumer
 *      (released), the broker's end (eb_fetch_stop). Nothing is taken any more then. Whoever is the last at work on it
 *      (`holds`) resumes, once: until then its connection stands.
 * (F2) The worker is left when the request is completed, since only then it is known whether the answer went out:
 *      else what it held goes back uncounted.
 * (F3) A peer that has closed would take no answer; a kernel takes one for it gladly. So its socket is looked at before
 *      an event is taken, and before the answer is given; and the kernel is given no room for a large answer as a whole.
 * (F4) The answer waits for the commit that holds its deliveries: an ack of one is `ok` also if the broker was killed
 *      meanwhile. The first event takes a hold for it; the end of the run (flush), or of the worker, asks for it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "broker/net/rest_consumers.h"
#include "common/clock.h"

#define MAX_DEFAULT  10
#define MAX_MAX      1000
#define WAIT_MS      5000
#define WAIT_MAX_S   60
#define ANSWER_BYTES (4u * 1024 * 1024)
#define SEND_BUFFER  (128 * 1024) /* F3 */

/* [I] immutable once suspended  [F] lock  [N] the net's fetches_lock */
struct eb_fetch {
    struct eb_fetch *next, **link;       /* [N] */
    bool listed;                         /* the request's thread's */
    struct eb_http_request *request;     /* [I] */
    struct eb_consumer_worker *worker;   /* [I] once attached; NULL: it could not be */
    char name[EB_CONSUMER_NAME_MAX + 1]; /* [I] */
    int fd;                              /* [I] -1: not known */
    uint32_t max;                        /* [I] */
    int64_t wait_ms;                     /* [I] */
    struct eb_lock lock;                 /* rank LEAF */
    struct eb_buf events;                /* [F] as they go into the answer */
    uint32_t count;                      /* [F] */
    unsigned holds; /* [F] who are at work on it: nobody resumes before they are through */
    bool ended, resumed, gone;       /* [F] F1; F3 */
    bool unkept;                     /* [F] F4: the hold is there, and nobody has asked yet */
    struct eb_consumer_request keep; /* F4 */
    struct eb_error err;             /* [F] the answer in place of events, unless EB_OK */
};

/* ---- the peer ---- */

static bool peer_gone(const struct eb_fetch *fetch)
{
    char byte;

    if (fetch->fd < 0)
        return false;
    ssize_t got = recv(fetch->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    return got == 0 || (got < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR);
}

/* ---- the end of taking (F1) ---- */

/* True: the caller resumes. */
static bool resumes_locked(struct eb_fetch *fetch)
{
    bool first = fetch->ended && fetch->holds == 0 && !fetch->resumed;

    fetch->resumed |= first;
    return first;
}

static void resume(struct eb_fetch *fetch, bool first)
{
    if (first)
        eb_http_resume_soon(fetch->request);
}

static void end(struct eb_fetch *fetch)
{
    eb_lock_take(&fetch->lock);
    fetch->ended = true;
    bool first = resumes_locked(fetch);
    eb_lock_drop(&fetch->lock);
    resume(fetch, first);
}

/* ---- the worker, on `eb-consumer` ---- */

/* False: it does not fit behind those that are there. */
static bool add_locked(struct eb_fetch *fetch, const struct eb_event *event, uint32_t delivery)
{
    struct eb_buf *out = &fetch->events;
    size_t before = out->len;

    if (fetch->count > 0)
        eb_buf_str(out, ",");
    eb_consumer_write_delivery(out, event, NULL, NULL, delivery);
    if (eb_buf_failed(out) || (fetch->count > 0 && out->len > ANSWER_BYTES - 512)) {
        out->len = before;
        return false;
    }
    if (fetch->count++ == 0) { /* F4 */
        fetch->unkept = true;
        fetch->holds++;
    }
    return true;
}

/* Held and not ended: its connection stands, and may be looked at (F3). */
static bool hold(struct eb_fetch *fetch)
{
    eb_lock_take(&fetch->lock);
    bool going = !fetch->ended;
    fetch->holds += going;
    eb_lock_drop(&fetch->lock);
    return going;
}

static bool fetch_deliver(void *user, struct eb_event *event, uint32_t delivery)
{
    struct eb_fetch *fetch = user;
    bool taken = false;

    if (!hold(fetch))
        return false;
    bool gone = peer_gone(fetch);
    eb_lock_take(&fetch->lock);
    fetch->holds--;
    if (!fetch->ended) {
        fetch->gone = gone;
        taken = !gone && add_locked(fetch, event, delivery);
        fetch->ended = !taken;
    }
    bool first = resumes_locked(fetch);
    eb_lock_drop(&fetch->lock);
    resume(fetch, first);
    return taken;
}

/* Also when it could not be kept: then a crash gives these events once more. */
static void kept(struct eb_consumer_request *keep)
{
    struct eb_fetch *fetch = keep->user;

    eb_lock_take(&fetch->lock);
    fetch->holds--;
    bool first = resumes_locked(fetch);
    eb_lock_drop(&fetch->lock);
    resume(fetch, first);
}

/* F4. No lock held. */
static void ask_to_keep(struct eb_fetch *fetch)
{
    eb_lock_take(&fetch->lock);
    bool ask = fetch->unkept;
    fetch->unkept = false;
    eb_lock_drop(&fetch->lock);
    if (!ask)
        return;
    fetch->keep =
        (struct eb_consumer_request){.verb = EB_CONSUMER_KEEP, .done = kept, .user = fetch};
    memcpy(fetch->keep.name, fetch->name, sizeof(fetch->name));
    eb_bus_consumer(fetch->request->net->bus, &fetch->keep);
}

static void fetch_flush(void *user)
{
    struct eb_fetch *fetch = user;

    eb_lock_take(&fetch->lock);
    fetch->ended |= fetch->count > 0;
    bool first = resumes_locked(fetch);
    eb_lock_drop(&fetch->lock);
    resume(fetch, first);
    if (!first)
        ask_to_keep(fetch);
}

static size_t fetch_room(void *user)
{
    struct eb_fetch *fetch = user;

    eb_lock_take(&fetch->lock);
    size_t room = fetch->ended ? 0 : fetch->max - fetch->count;
    eb_lock_drop(&fetch->lock);
    return room;
}

static void fetch_released(void *user, const char *reason)
{
    struct eb_fetch *fetch = user;

    eb_lock_take(&fetch->lock);
    bool empty = !fetch->ended && fetch->count == 0;
    fetch->ended = true;
    bool first = resumes_locked(fetch);
    if (empty && strcmp(reason, "deleted") == 0)
        eb_fail(&fetch->err, EB_NOT_FOUND, "consumer %s was deleted", fetch->name);
    if (empty && strcmp(reason, "push") == 0)
        eb_fail(&fetch->err, EB_CONFLICT, "consumer %s calls a webhook from now on", fetch->name);
    eb_lock_drop(&fetch->lock);
    resume(fetch, first);
    if (!first)
        ask_to_keep(fetch);
}

static void fetch_expired(void *user)
{
    end(user);
}

static const struct eb_worker_ops fetch_ops = {
    .deliver = fetch_deliver,
    .flush = fetch_flush,
    .room = fetch_room,
    .released = fetch_released,
    .expired = fetch_expired,
};

/* ---- the fetches of a net, for its end ---- */

static void enlist(struct eb_net *net, struct eb_fetch *fetch)
{
    eb_lock_take(&net->fetches_lock);
    fetch->next = net->fetches;
    fetch->link = &net->fetches;
    if (fetch->next)
        fetch->next->link = &fetch->next;
    net->fetches = fetch;
    eb_lock_drop(&net->fetches_lock);
}

static void delist(struct eb_net *net, struct eb_fetch *fetch)
{
    eb_lock_take(&net->fetches_lock);
    *fetch->link = fetch->next;
    if (fetch->next)
        fetch->next->link = fetch->link;
    eb_lock_drop(&net->fetches_lock);
}

void eb_fetch_stop(struct eb_net *net)
{
    eb_lock_take(&net->fetches_lock);
    for (struct eb_fetch *fetch = net->fetches; fetch; fetch = fetch->next)
        end(fetch);
    eb_lock_drop(&net->fetches_lock);
}

/* ---- the request ---- */

static void fetch_free(void *job)
{
    struct eb_fetch *fetch = job;
    struct eb_net *net = fetch->request->net;

    if (fetch->listed)
        delist(net, fetch);
    if (fetch->worker) /* F2 */
        eb_consumer_leave(fetch->worker, fetch->request->sent ? EB_LEAVE_OUT : EB_LEAVE_RETURN);
    eb_buf_finish(&fetch->events);
    eb_lock_finish(&fetch->lock);
    free(fetch);
}

static enum MHD_Result answer(struct eb_http_request *request)
{
    struct eb_fetch *fetch = request->job;
    struct eb_buf body = EB_BUF_INIT;

    eb_lock_take(&fetch->lock);
    struct eb_buf events = fetch->events;
    struct eb_error err = fetch->err;
    bool gone = fetch->gone;
    fetch->events = (struct eb_buf)EB_BUF_INIT;
    eb_lock_drop(&fetch->lock);
    if (err.code == EB_OK && !gone && !peer_gone(fetch)) {
        eb_buf_str(&body, "{\"events\":[");
        eb_buf_add(&body, events.data, events.len);
        eb_buf_str(&body, "]}");
    }
    eb_buf_finish(&events);
    if (err.code != EB_OK)
        return eb_http_fail(request, &err);
    return body.len > 0 ? eb_http_json(request, 200, &body) : MHD_NO;
}

static int read_fetch(struct eb_http_request *request, struct eb_fetch *fetch, struct eb_error *err)
{
    struct eb_json json;
    int64_t max = MAX_DEFAULT;

    eb_json_init(&json);
    int rc = eb_rest_json_body(request, &json, err);
    if (rc == 0)
        rc = eb_consumer_read_int(&json, 0, "max", 1, MAX_MAX, &max, err);
    if (rc == 0)
        rc = eb_consumer_read_seconds(&json, 0, "wait", WAIT_MAX_S, &fetch->wait_ms, err);
    eb_json_finish(&json);
    fetch->max = (uint32_t)max;
    return rc;
}

static struct eb_fetch *new_fetch(struct eb_http_request *request)
{
    struct eb_fetch *fetch = calloc(1, sizeof(*fetch));
    if (!fetch)
        return NULL;
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(request->connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    fetch->fd = info ? info->connect_fd : -1;
    if (fetch->fd >= 0)
        (void)setsockopt(fetch->fd, SOL_SOCKET, SO_SNDBUF, &(int){SEND_BUFFER}, sizeof(int));
    fetch->request = request;
    fetch->wait_ms = WAIT_MS;
    fetch->holds = 1; /* until attach is through */
    eb_lock_init(&fetch->lock, EB_RANK_LEAF);
    request->job = fetch;
    request->job_free = fetch_free;
    return fetch;
}

/* Suspended: from here on it is ended by a resume, which waits until this is through. */
static void attach(struct eb_fetch *fetch)
{
    struct eb_net *net = fetch->request->net;
    struct eb_error err = {.code = EB_OK};
    int64_t until = eb_mono_ms() + fetch->wait_ms + (fetch->wait_ms > 0); /* the clock is cut */

    if (eb_consumer_attach(net->bus, fetch->name, &fetch_ops, fetch, fetch->max, until, false,
                           &fetch->worker, &err) == 0) {
        fetch->listed = true;
        enlist(net, fetch);
        eb_consumer_begin(fetch->worker);
    }
    eb_lock_take(&fetch->lock);
    if (err.code != EB_OK)
        fetch->err = err;
    if (err.code != EB_OK || atomic_load(&net->stopping))
        fetch->ended = true;
    fetch->holds--;
    bool first = resumes_locked(fetch);
    eb_lock_drop(&fetch->lock);
    resume(fetch, first);
}

enum MHD_Result eb_rest_consumer_fetch(struct eb_http_request *request)
{
    struct eb_error *err = &request->refused;
    struct eb_fetch *fetch = new_fetch(request);

    if (!fetch)
        eb_fail(err, EB_UNAVAILABLE, "out of memory");
    else if (eb_rest_consumer_name(request, fetch->name, err) == 0 &&
             read_fetch(request, fetch, err) == 0 && !eb_http_suspend(request, answer))
        eb_fail(err, EB_UNAVAILABLE, "the broker is stopping");
    if (err->code != EB_OK)
        return eb_http_fail(request, err);
    attach(fetch);
    return MHD_YES;
}
