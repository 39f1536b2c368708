/*
 * broker.c - a broker's life: start in the order of the rooms from the ground up, stop in the reverse.
 */
#include "broker/broker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/embed.h"
#include "common/log.h"

static void store_config(const struct eb_settings *s, struct eb_store_config *ret)
{
    *ret = (struct eb_store_config){
        .path = strcmp(s->storage, "memory") == 0 ? NULL : s->db,
        .durability = strcmp(s->durability, "os") == 0 ? EB_DURABILITY_OS : EB_DURABILITY_FSYNC,
        .memory_bytes = s->memory_bytes,
        .dedupe_window_ms = (int64_t)s->dedupe_window,
        .dedupe_max = s->dedupe_max,
        .retention_age_ms = (int64_t)s->retention_age,
        .retention_bytes = s->retention_bytes,
        .retention_events = s->retention_events,
        .acked_retention_ms = s->acked_retention,
        .min_free = s->min_free,
        .new_epoch = s->new_epoch,
        .max_scheduled = s->max_scheduled,
    };
}

static void bus_config(const struct eb_settings *s, struct eb_bus_config *ret)
{
    *ret = (struct eb_bus_config){
        .readers = (unsigned)s->readers,
        .default_ttl = (int64_t)s->default_ttl,
        .max_batch = s->max_batch,
        .limits = {.max_payload = s->max_payload, .max_headers = (unsigned)s->max_headers},
        .queue_events = s->channel_capacity,
        .queue_bytes = s->channel_bytes,
        .max_subscriptions = (unsigned)s->max_subscriptions,
        .max_open_bytes = s->max_open_bytes,
        .auto_ack = s->auto_ack,
        .max_consumers = (unsigned)s->max_consumers,
        .retention_holds = s->retention_holds,
    };
}

static void net_config(const struct eb_settings *s, char **tokens, const char *limits_json,
                       struct eb_net_config *ret)
{
    *ret = (struct eb_net_config){
        .ws_path = s->ws_path,
        .max_message = s->max_message,
        .max_body_bytes = s->max_body_bytes,
        .max_connections = (unsigned)s->max_connections,
        .max_http_connections = (unsigned)s->max_http_connections,
        .publish_rate = s->publish_rate,
        .ping_interval_ms = (int64_t)s->ping_interval,
        .idle_timeout_ms = (int64_t)s->idle_timeout,
        .stall_timeout_ms = (int64_t)s->stall_timeout,
        .request_timeout_ms = (int64_t)s->request_timeout,
        .sse_comment_ms = (int64_t)s->sse_comment,
        .max_unsent_answers = s->max_unsent_answers,
        .max_open_requests = (unsigned)s->max_open_requests,
        .allowed_origins = (const char *const *)s->allowed_origins,
        .cors_origins = (const char *const *)s->cors_origins,
        .tokens = (const char *const *)tokens,
        .insecure = s->insecure,
        .pages = s->pages,
        .flushers = (unsigned)s->flushers,
        .webhook_allow = (const char *const *)s->webhook_allow,
        .limits_json = limits_json,
    };
}

static int open_listeners(eb_broker *broker, char *err)
{
    char **listen = broker->settings.listen;
    size_t count = 0;
    bool allow_public = broker->tokens || broker->settings.insecure;
    while (listen[count])
        count++;
    broker->listeners = calloc(count ? count : 1, sizeof *broker->listeners);
    if (!broker->listeners)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        int rc = eb_listener_open(listen[i], allow_public, &broker->listeners[i], err);
        if (rc < 0)
            return rc;
        broker->listener_count++;
    }
    return 0;
}

static int serve_listeners(eb_broker *broker, char *err)
{
    for (size_t i = 0; i < broker->listener_count; i++) {
        struct eb_listener *l = &broker->listeners[i];
        int rc = eb_net_serve(broker->net, l->fd, l->loopback, l->unix_socket);
        if (rc < 0) {
            snprintf(err, EB_BROKER_ERROR, "cannot serve on %s: %s", l->address, strerror(-rc));
            return rc;
        }
        l->fd = -1;
    }
    return 0;
}

/* A copy in which what follows from other settings has its value: what /v1/stats shows is what applies. */
static int take_settings(struct eb_settings *ret, const struct eb_settings *settings)
{
    int rc = eb_settings_copy(ret, settings);
    if (rc == 0 && ret->max_message == 0)
        ret->max_message = 6 * ret->max_payload + 65536;
    return rc;
}

static int say(char *err, const char *what, int rc)
{
    if (rc < 0 && !err[0])
        snprintf(err, EB_BROKER_ERROR, "%s: %s", what, strerror(-rc));
    return rc;
}

static int start_rooms(eb_broker *broker, char *err)
{
    const struct eb_settings *s = &broker->settings;
    struct eb_store_config store;
    struct eb_bus_config bus;
    struct eb_net_config net;
    struct eb_error error = {0};

    store_config(s, &store);
    int rc = eb_store_open(&store, &broker->store, &error);
    if (rc < 0) {
        snprintf(err, EB_BROKER_ERROR, "%s", error.message);
        return say(err, s->db, rc);
    }
    bus_config(s, &bus);
    rc = eb_bus_create(&bus, broker->store, &broker->bus);
    if (rc < 0)
        return say(err, "cannot start the bus", rc);
    net_config(s, broker->tokens, broker->limits_json, &net);
    rc = eb_net_create(&net, broker->bus, &broker->net);
    return say(err, "cannot start the network front", rc);
}

int eb_broker_start_settings(const struct eb_settings *settings, eb_broker **ret,
                             char err[EB_BROKER_ERROR])
{
    err[0] = '\0';
    eb_broker *broker = calloc(1, sizeof *broker);
    if (!broker)
        return say(err, "cannot start", -ENOMEM);
    eb_lock_init(&broker->lock, EB_RANK_BROKER);
    eb_cond_init(&broker->idle);
    eb_broker_mhd_prepare(broker);
    int rc = take_settings(&broker->settings, settings);
    if (rc == 0 && broker->settings.token_file[0])
        rc = eb_tokens_load(broker->settings.token_file, &broker->tokens, err);
    if (rc == 0 && !(broker->limits_json = eb_settings_limits_json(&broker->settings)))
        rc = -ENOMEM;
    /* Listening first: an address that is taken is said before a log is opened or made. */
    if (rc == 0)
        rc = open_listeners(broker, err);
    if (rc == 0)
        rc = start_rooms(broker, err);
    if (rc == 0)
        rc = serve_listeners(broker, err);
    if (rc < 0) {
        say(err, "cannot start", rc);
        eb_broker_stop(broker);
        return rc;
    }
    *ret = broker;
    return 0;
}

void eb_broker_quiesce(eb_broker *broker)
{
    if (!broker)
        return;
    eb_lock_take(&broker->lock);
    bool first = !broker->quiesced;
    int64_t timeout = (int64_t)broker->settings.drain_timeout;
    broker->quiesced = true;
    eb_lock_drop(&broker->lock);
    if (!first || !broker->net)
        return;
    eb_net_set_ready(broker->net, "shutting down");
    eb_net_stop(broker->net, timeout);
}

void eb_broker_stop(eb_broker *broker)
{
    if (!broker)
        return;
    eb_broker_quiesce(broker);
    eb_embed_end(broker);
    eb_net_destroy(broker->net);
    eb_bus_stop(broker->bus);
    eb_store_close(broker->store);
    eb_bus_destroy(broker->bus);
    for (size_t i = 0; i < broker->listener_count; i++)
        eb_listener_finish(&broker->listeners[i]);
    free(broker->listeners);
    eb_tokens_free(broker->tokens);
    free(broker->limits_json);
    eb_settings_finish(&broker->settings);
    pthread_cond_destroy(&broker->idle);
    eb_lock_finish(&broker->lock);
    free(broker);
}

const char *eb_broker_address(eb_broker *broker, size_t i)
{
    return i < broker->listener_count ? broker->listeners[i].address : NULL;
}

static void name_what_needs_a_restart(const struct eb_settings *old,
                                      const struct eb_settings *fresh)
{
    struct eb_setting_about about;
    struct eb_settings wanted;
    if (take_settings(&wanted, fresh) < 0)
        return;
    for (size_t i = 0; eb_settings_about(i, &about); i++) {
        if (eb_settings_reloadable(i))
            continue;
        char *a = eb_settings_text(old, i), *b = eb_settings_text(&wanted, i);
        if (a && b && strcmp(a, b) != 0)
            eb_warn("EB-RELOAD-RESTART", "%s changed from %s to %s: takes effect at the next start",
                    about.key, a, b);
        free(a);
        free(b);
    }
    eb_settings_finish(&wanted);
}

/* The new tokens; without them a broker that has had some would stand open. */
static int reload_tokens(eb_broker *broker, const struct eb_settings *settings, char ***ret,
                         char *err)
{
    if (settings->token_file[0])
        return eb_tokens_load(settings->token_file, ret, err);
    if (!broker->tokens)
        return 0;
    snprintf(err, EB_BROKER_ERROR,
             "token_file is gone from the settings: a restart is needed to serve without tokens");
    return -EINVAL;
}

static int apply(eb_broker *broker, const struct eb_settings *settings, char **tokens,
                 const char *limits)
{
    struct eb_store_config store;
    struct eb_net_config net;
    net_config(settings, tokens, limits, &net);
    int rc = eb_net_reconfigure(broker->net, &net);
    if (rc < 0)
        return rc;
    store_config(settings, &store);
    eb_store_reconfigure(broker->store, &store);
    return 0;
}

int eb_broker_reload(eb_broker *broker, const struct eb_settings *settings,
                     char err[EB_BROKER_ERROR])
{
    struct eb_settings next;
    char **tokens = NULL, *limits = NULL;
    err[0] = '\0';
    int rc = eb_settings_copy(&next, &broker->settings);
    if (rc < 0)
        return say(err, "cannot reload", rc);
    rc = eb_settings_take_reloadable(&next, settings);
    if (rc == 0)
        rc = reload_tokens(broker, settings, &tokens, err);
    if (rc == 0 && !(limits = eb_settings_limits_json(&next)))
        rc = -ENOMEM;
    if (rc == 0)
        rc = apply(broker, &next, tokens, limits);
    if (rc == 0) {
        name_what_needs_a_restart(&broker->settings, settings);
        eb_lock_take(&broker->lock);
        struct eb_settings old = broker->settings;
        char **old_tokens = broker->tokens, *old_limits = broker->limits_json;
        broker->settings = next;
        broker->tokens = tokens;
        broker->limits_json = limits;
        eb_lock_drop(&broker->lock);
        next = old;
        tokens = old_tokens;
        limits = old_limits;
    }
    eb_settings_finish(&next);
    eb_tokens_free(tokens);
    free(limits);
    return say(err, "cannot reload", rc);
}
