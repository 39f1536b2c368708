/*
 * tick.c - the thread `eb-http-tick`: resumes what waits in libmicrohttpd, and looks at the clock for the
 * HTTP side (comments of streams, slow requests, lingering closes).
 *
 * (T1) What one commit completes is resumed together, on the committing thread (eb_tick_settled): each
 *      resume makes libmicrohttpd walk its connections once, so a thousand single ones would be a thousand
 *      walks. Everything else is resumed by the ticker, many at a time for the same reason.
 * (T2) `held` counts what libmicrohttpd holds suspended, streams too: up before the suspend, down when
 *      MHD_resume_connection has returned. The end waits for it to be 0 (net.c N4), so after that nobody is
 *      on the way to a connection that MHD_stop_daemon is about to free, and nobody touches the net on its account.
 * (T3) The ticker is woken under the lock: behind it the net may end, since what was resumed was the last.
 */
#include "broker/net/http.h"

#include <errno.h>

#include "common/clock.h"

#define LINGER_MS 20

static void resume_all(struct eb_net *net, struct eb_resume *list)
{
    while (list) {
        struct eb_resume *next = list->next;
        MHD_resume_connection(list->connection);
        atomic_fetch_sub(&net->held, 1); /* T2 */
        list = next;
    }
}

void eb_tick_resume(struct eb_net *net, struct eb_resume *resume)
{
    eb_lock_take(&net->resume_lock);
    resume->next = net->resume_soon;
    net->resume_soon = resume;
    bool wake = net->tick_sleeps;
    net->tick_sleeps = false;
    if (wake) /* under the lock (T3) */
        pthread_cond_broadcast(&net->resume_cond);
    eb_lock_drop(&net->resume_lock);
}

bool eb_http_suspend(struct eb_http_request *request,
                     enum MHD_Result (*resumed)(struct eb_http_request *))
{
    struct eb_net *net = request->net;
    eb_lock_take(&net->resume_lock);
    bool may = !net->gate;
    if (may)
        atomic_fetch_add(&net->held, 1);
    eb_lock_drop(&net->resume_lock);
    if (!may)
        return false;
    request->resumed = resumed;
    request->resume.connection = request->connection;
    MHD_suspend_connection(request->connection);
    return true;
}

void eb_http_resume_settled(struct eb_http_request *request)
{
    struct eb_net *net = request->net;
    eb_lock_take(&net->resume_lock);
    request->resume.next = net->resume_settled;
    net->resume_settled = &request->resume;
    eb_lock_drop(&net->resume_lock);
}

void eb_http_resume_soon(struct eb_http_request *request)
{
    eb_tick_resume(request->net, &request->resume);
}

void eb_tick_settled(void *ctx)
{
    struct eb_net *net = ctx;
    eb_lock_take(&net->resume_lock);
    struct eb_resume *list = net->resume_settled;
    net->resume_settled = NULL;
    eb_lock_drop(&net->resume_lock);
    resume_all(net, list);
}

void eb_tick_call_at(struct eb_net *net, int64_t at_ms)
{
    eb_lock_take(&net->resume_lock);
    if (at_ms < net->calls_due_ms) {
        net->calls_due_ms = at_ms;
        net->tick_sleeps = false;
        pthread_cond_broadcast(&net->resume_cond);
    }
    eb_lock_drop(&net->resume_lock);
}

/* True: eb_calls_tick is to be called now. */
static bool calls_due_locked(struct eb_net *net, int64_t now)
{
    bool due = net->calls_due_ms <= now;
    if (due)
        net->calls_due_ms = INT64_MAX;
    return due;
}

static void look_at_the_clock(struct eb_net *net)
{
    int64_t now = eb_mono_ms();
    eb_peer_tick(net, now);
    eb_sse_tick(net, now);
}

static void *tick_main(void *ctx)
{
    struct eb_net *net = ctx;
    pthread_setname_np(pthread_self(), "eb-http-tick");
    int64_t next_ms = eb_mono_ms() + net->tick_ms;
    bool lingering = false;
    eb_lock_take(&net->resume_lock);
    while (!net->tick_stop) {
        struct eb_resume *list = net->resume_soon;
        net->resume_soon = NULL;
        lingering |= net->tick_linger;
        net->tick_linger = false;
        int64_t now = eb_mono_ms();
        int64_t wake_ms = net->calls_due_ms < next_ms ? net->calls_due_ms : next_ms;
        if (!list && now < wake_ms) {
            int64_t until = lingering && now + LINGER_MS < wake_ms ? now + LINGER_MS : wake_ms;
            net->tick_sleeps = true;
            eb_cond_wait(&net->resume_cond, &net->resume_lock, until);
            net->tick_sleeps = false;
            if (!lingering)
                continue;
        }
        bool calls = calls_due_locked(net, now);
        eb_lock_drop(&net->resume_lock);
        resume_all(net, list);
        if (calls)
            eb_tick_call_at(net, eb_calls_tick(net, now));
        lingering = eb_linger_tick(net, now);
        if (now >= next_ms) {
            look_at_the_clock(net);
            eb_tick_settled(
                net); /* nobody should be there; a completion without a commit would wait for ever */
            next_ms = now + net->tick_ms;
        }
        eb_lock_take(&net->resume_lock);
    }
    eb_lock_drop(&net->resume_lock);
    return NULL;
}

int eb_tick_start(struct eb_net *net)
{
    int rc = pthread_create(&net->tick, NULL, tick_main, net);
    if (rc != 0)
        return -rc;
    net->tick_started = true;
    return 0;
}

void eb_tick_stop(struct eb_net *net)
{
    if (!net->tick_started)
        return;
    eb_lock_take(&net->resume_lock);
    net->tick_stop = true;
    pthread_cond_broadcast(&net->resume_cond);
    eb_lock_drop(&net->resume_lock);
    pthread_join(net->tick, NULL);
    net->tick_started = false;
}
