/*
 * client.c - the life of a client: options, open, states, close.
 *
 * (C1) Both threads are started by open and ended by close, with all signals blocked; eb-client waits in them until
 *      something is asked for.
 * (C2) The end: no new publishes and a drain; `closing` ends eb-client; what is still open is completed as CLOSED;
 *      the workers of consumers end behind their callbacks; `cb_stop` ends eb-client-cb after it told that; callers that still wait leave; then the memory goes.
 * (C3) Whoever waits in a function of ours is counted in `inside`: close frees nothing under their feet.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "client/consumer.h"

int64_t eb_deadline(int64_t timeout)
{
    int64_t now = eb_mono_ms();

    return timeout < 0 || timeout > INT64_MAX - now ? -1 : now + timeout;
}

bool eb_client_in_callback(const eb_client *client)
{
    return pthread_equal(pthread_self(), client->cb);
}

void eb_client_leave_locked(eb_client *client)
{
    if (--client->inside == 0 && client->closing)
        pthread_cond_broadcast(&client->changed);
}

static void write_wake(eb_client *client)
{
    uint64_t one = 1;

    if (write(client->wake_fd, &one, sizeof(one)) < 0)
        (void)0; /* full: it is readable, which is all that counts */
}

void eb_client_wake_locked(eb_client *client)
{
    if (!client->io_sleeps)
        return;
    client->io_sleeps = false;
    write_wake(client);
}

void eb_client_set_error_locked(eb_client *client, const char *why)
{
    if (why && why[0])
        snprintf(client->last_error, sizeof(client->last_error), "%s", why);
}

/* Told in order; a program that sleeps in a callback meanwhile misses the oldest of too many. */
void eb_client_set_state_locked(eb_client *client, eb_client_state state, const char *why)
{
    struct eb_state_change *change;

    if (client->state == state)
        return;
    client->state = state;
    pthread_cond_broadcast(&client->changed);
    pthread_cond_broadcast(&client->room);
    if (!client->options.state)
        return;
    if (client->states_count == EB_STATES_KEPT) {
        client->states_head = (client->states_head + 1) % EB_STATES_KEPT;
        client->states_count--;
    }
    change = &client->states[(client->states_head + client->states_count++) % EB_STATES_KEPT];
    change->state = state;
    snprintf(change->why, sizeof(change->why), "%s", why);
    eb_callbacks_wake_locked(client);
}

int eb_client_want_locked(eb_client *client)
{
    if (client->closing || client->draining || client->state == EB_STATE_FAILED)
        return EB_RESULT_CLOSED;
    if (!client->wanted) {
        client->wanted = true;
        eb_client_wake_locked(client);
    }
    return EB_RESULT_OK;
}

/* ---- options ---- */

static const char *check_options(const eb_client_options *options)
{
    if (options->connect_timeout < 1)
        return "connect_timeout must be at least 1 ms";
    if (options->reconnect_interval < 1)
        return "reconnect_interval must be at least 1 ms";
    if (options->reconnect_interval_max < options->reconnect_interval)
        return "reconnect_interval_max must not be below reconnect_interval";
    if (options->max_retries < -1)
        return "max_retries must be -1 (for ever) or a number of retries";
    if (options->ping_interval < 0)
        return "ping_interval must be 0 (off) or milliseconds";
    if (options->max_pending < 1 || options->max_pending_bytes < 1)
        return "max_pending and max_pending_bytes must not be 0";
    if (options->when_full != EB_WHEN_FULL_BLOCK && options->when_full != EB_WHEN_FULL_ERROR)
        return "when_full must be EB_WHEN_FULL_BLOCK or EB_WHEN_FULL_ERROR";
    if (options->dedupe_window < 1)
        return "dedupe_window must be at least 1 ms";
    if (options->max_message < 1024)
        return "max_message must be at least 1,024 bytes";
    if (options->protocol != EB_PROTOCOL_ANY && options->protocol != EB_PROTOCOL_JSON &&
        options->protocol != EB_PROTOCOL_BINARY)
        return "protocol must be EB_PROTOCOL_ANY, EB_PROTOCOL_JSON or EB_PROTOCOL_BINARY";
    for (const char *p = options->token; p && *p; p++) {
        if ((unsigned char)*p <= ' ' || (unsigned char)*p >= 0x7f)
            return "token must be printable ASCII without spaces";
    }
    return NULL;
}

static int fail(const char **err, const char *why)
{
    if (err)
        *err = why;
    return EB_RESULT_INVALID;
}

/* A caller built with an older header gives less: the rest keeps its default. */
static int read_options(eb_client *client, const eb_client_options *options, const char **err)
{
    eb_client_options defaults = EB_CLIENT_OPTIONS_INIT;
    const char *why;

    if (!options || options->size < offsetof(eb_client_options, user) + sizeof(void *))
        return fail(err, "options: start from EB_CLIENT_OPTIONS_INIT");
    client->options = defaults;
    memcpy(&client->options, options,
           options->size < sizeof(defaults) ? options->size : sizeof(defaults));
    why = check_options(&client->options);
    if (!why)
        why = eb_url_parse(&client->url, client->options.url);
    if (why)
        return fail(err, why);
    if (client->options.token && client->options.token[0]) {
        client->token = strdup(client->options.token);
        if (!client->token)
            return EB_RESULT_MEMORY;
    }
    client->options.url = client->options.token = NULL;
    return EB_RESULT_OK;
}

/* ---- open ---- */

static void destroy(eb_client *client)
{
    eb_url_finish(&client->url);
    free(client->token);
    if (client->wake_fd >= 0)
        close(client->wake_fd);
    eb_lookup_drop(client->lookup);
    eb_inflight_finish(&client->inflight);
    eb_json_finish(&client->json);
    eb_buf_finish(&client->message);
    pthread_cond_destroy(&client->changed);
    pthread_cond_destroy(&client->room);
    pthread_cond_destroy(&client->work);
    eb_lock_finish(&client->lock);
    free(client);
}

static eb_client *create(void)
{
    eb_client *client = calloc(1, sizeof(*client));

    if (!client)
        return NULL;
    eb_lock_init(&client->lock, EB_RANK_CLIENT);
    eb_cond_init(&client->changed);
    eb_cond_init(&client->room);
    eb_cond_init(&client->work);
    eb_json_init(&client->json);
    client->flush_mark = UINT64_MAX;
    client->joins = true;
    client->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (client->wake_fd >= 0 && eb_inflight_init(&client->inflight) == 0)
        return client;
    destroy(client);
    return NULL;
}

/* C1. Under the lock, so that the threads find `io` and `cb` set. */
static int start_threads(eb_client *client)
{
    sigset_t all, before;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    eb_lock_take(&client->lock);
    rc = pthread_create(&client->cb, NULL, eb_client_cb_thread, client);
    if (rc == 0 && (rc = pthread_create(&client->io, NULL, eb_client_io_thread, client)) != 0) {
        client->cb_stop = true;
        eb_lock_drop(&client->lock);
        pthread_join(client->cb, NULL);
        eb_lock_take(&client->lock);
    }
    eb_lock_drop(&client->lock);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc == 0 ? EB_RESULT_OK : EB_RESULT_MEMORY;
}

EB_API int eb_client_open(const eb_client_options *options, eb_client **ret, const char **err)
{
    eb_client *client;
    int rc;

    if (!ret)
        return fail(err, "there is no place for the client (ret is NULL)");
    client = create();
    if (!client)
        return EB_RESULT_MEMORY;
    rc = read_options(client, options, err);
    eb_backoff_init(&client->backoff, client->options.reconnect_interval,
                    client->options.reconnect_interval_max);
    if (rc == 0)
        rc = start_threads(client);
    if (rc < 0) {
        destroy(client);
        return rc;
    }
    if (client->options.connect_now) {
        rc = eb_client_wait_connected(client, client->options.connect_timeout);
        if (rc < 0) {
            eb_lock_take(&client->lock);
            if (client->state == EB_STATE_FAILED)
                rc = client->failed_result;
            eb_lock_drop(&client->lock);
            eb_client_close(client, 0);
            return rc;
        }
    }
    *ret = client;
    return EB_RESULT_OK;
}

/* ---- state ---- */

EB_API eb_client_state eb_client_get_state(eb_client *client)
{
    eb_client_state state;

    eb_lock_take(&client->lock);
    state = client->state;
    eb_lock_drop(&client->lock);
    return state;
}

EB_API int eb_client_wait_connected(eb_client *client, int64_t timeout)
{
    int64_t deadline = eb_deadline(timeout);
    int rc;

    if (timeout != 0 && eb_client_in_callback(client))
        return EB_RESULT_WOULD_DEADLOCK;
    eb_lock_take(&client->lock);
    rc = eb_client_want_locked(client);
    client->inside++;
    while (rc == 0 && client->state != EB_STATE_CONNECTED) {
        if (client->closing || client->state == EB_STATE_FAILED)
            rc = EB_RESULT_CLOSED;
        else if (eb_cond_wait(&client->changed, &client->lock, deadline) == ETIMEDOUT)
            rc = EB_RESULT_TIMEOUT;
    }
    eb_client_leave_locked(client);
    eb_lock_drop(&client->lock);
    return rc;
}

EB_API size_t eb_client_last_error(eb_client *client, char *buf, size_t size)
{
    size_t len;

    eb_lock_take(&client->lock);
    len = strlen(client->last_error);
    if (size > 0)
        snprintf(buf, size, "%s", client->last_error);
    eb_lock_drop(&client->lock);
    return len;
}

/* ---- close ---- */

/* Everybody who waits looks again. */
static void wake_all_locked(eb_client *client)
{
    pthread_cond_broadcast(&client->changed);
    pthread_cond_broadcast(&client->room);
    for (eb_subscription *sub = client->subs; sub; sub = sub->next)
        pthread_cond_broadcast(&sub->cond);
    eb_askers_wake_locked(client);
    eb_consumers_wake_locked(client);
}

/* Everybody who waits is told to leave, and gone. */
static void see_out_locked(eb_client *client)
{
    wake_all_locked(client);
    while (client->inside > 0)
        eb_cond_wait(&client->changed, &client->lock, -1);
}

static void free_subscriptions_locked(eb_client *client)
{
    while (client->ready_first) {
        eb_subscription *sub = client->ready_first;
        client->ready_first = sub->ready_next;
        eb_subscription_unref_locked(sub);
    }
    while (client->subs) {
        eb_subscription *sub = client->subs;
        eb_subscription_unlink_locked(sub);
        eb_subscription_unref_locked(sub);
    }
}

EB_API int eb_client_close(eb_client *client, int64_t timeout)
{
    int rc;

    if (!client)
        return EB_RESULT_OK;
    if (eb_client_in_callback(client) || eb_client_in_worker(client))
        return EB_RESULT_WOULD_DEADLOCK;
    rc = eb_client_drain(client, timeout); /* C2 */
    eb_lock_take(&client->lock);
    client->closing = true;
    write_wake(client);
    eb_lock_drop(&client->lock);
    pthread_join(client->io, NULL);

    eb_lock_take(&client->lock);
    eb_request_complete_all_locked(client, EB_RESULT_CLOSED);
    eb_stream_disconnected_locked(client);
    eb_client_set_state_locked(client, EB_STATE_CLOSED, "");
    wake_all_locked(client);
    eb_lock_drop(&client->lock);
    eb_consumers_stop(client);

    eb_lock_take(&client->lock);
    client->cb_stop = true;
    pthread_cond_signal(&client->work);
    eb_lock_drop(&client->lock);
    pthread_join(client->cb, NULL);

    eb_lock_take(&client->lock);
    see_out_locked(client);
    free_subscriptions_locked(client);
    eb_consumers_free_locked(client);
    eb_lock_drop(&client->lock);
    destroy(client);
    return rc == EB_RESULT_TIMEOUT ? rc : EB_RESULT_OK;
}
