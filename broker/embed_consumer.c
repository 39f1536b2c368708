/*
 * embed_consumer.c - durable consumers from inside the process: make, end, look at, answer. Each call waits for its commit.
 */
#include "broker/embed_consumer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/embed.h"
#include "broker/include/eventbus/broker_consumer.h"

static void done(struct eb_consumer_request *request)
{
    eb_embed_wait_done(request->user);
}

/* Carry out a request whose verb and what belongs to it is set. -1 with @error. */
static int ask(eb_broker *broker, const char *name, struct eb_consumer_request *request,
               struct eb_error *error)
{
    struct eb_embed_wait wait;
    if (eb_consumer_name_check(name, strlen(name), error) < 0)
        return -1;
    snprintf(request->name, sizeof request->name, "%s", name);
    request->done = done;
    /* cppcheck-suppress autoVariables ; it is used until `done`, which is waited for below */
    request->user = &wait;
    eb_embed_wait_init(&wait);
    eb_bus_consumer(broker->bus, request);
    eb_embed_wait_finish(&wait);
    *error = request->err;
    return error->code == EB_OK ? 0 : -1;
}

/* Settings from JSON text; *ret is malloc'd. -1 with @error. */
static int read_settings(const char *text, struct eb_consumer_settings **ret,
                         struct eb_error *error)
{
    struct eb_json json;
    struct eb_consumer_settings *settings = malloc(sizeof *settings);
    if (!settings)
        return eb_fail(error, EB_INTERNAL, "out of memory");
    eb_json_init(&json);
    int rc = eb_json_parse(&json, text, strlen(text), error);
    if (rc == 0)
        rc = eb_consumer_settings_read(settings, &json, 0, error);
    eb_json_finish(&json);
    if (rc < 0)
        free(settings);
    else
        *ret = settings;
    return rc;
}

int eb_embed_consumer_ensure(eb_broker *broker, const char *name, const char *settings,
                             struct eb_error *error)
{
    struct eb_consumer_settings *read = NULL;
    struct eb_consumer_request request = {.verb = EB_CONSUMER_ENSURE};
    if (settings && read_settings(settings, &read, error) < 0)
        return -1;
    request.settings = read;
    int rc = ask(broker, name, &request, error);
    free(read);
    return rc;
}

int eb_broker_consumer_put(eb_broker *broker, const char *name, const char *settings,
                           bool *ret_created, char err[EB_BROKER_ERROR])
{
    struct eb_error error = {.code = EB_OK};
    struct eb_consumer_settings *read = NULL;
    struct eb_consumer_request request = {.verb = EB_CONSUMER_PUT};
    if (!eb_embed_enter(broker, err))
        return -ESHUTDOWN;
    if (read_settings(settings, &read, &error) == 0) {
        request.settings = read;
        if (ask(broker, name, &request, &error) == 0 && ret_created)
            *ret_created = request.created;
        free(read);
    }
    eb_embed_leave(broker);
    return eb_embed_errno(&error, err);
}

int eb_broker_consumer_delete(eb_broker *broker, const char *name, char err[EB_BROKER_ERROR])
{
    struct eb_error error = {.code = EB_OK};
    struct eb_consumer_request request = {.verb = EB_CONSUMER_DELETE};
    if (!eb_embed_enter(broker, err))
        return -ESHUTDOWN;
    ask(broker, name, &request, &error);
    eb_embed_leave(broker);
    return eb_embed_errno(&error, err);
}

int eb_broker_consumer_get(eb_broker *broker, const char *name, eb_broker_consumer_state *ret,
                           char err[EB_BROKER_ERROR])
{
    struct eb_error error = {.code = EB_OK};
    struct eb_consumer_info info;
    if (!eb_embed_enter(broker, err))
        return -ESHUTDOWN;
    if (eb_bus_consumer_info(broker->bus, name, &info)) {
        free(info.settings);
        *ret = (eb_broker_consumer_state){
            .cursor = info.cursor,
            .pending = info.pending,
            .inflight = info.inflight,
            .redelivered = info.redelivered,
            .dead = info.dead,
            .lost = info.lost,
            .lag_events = info.lag_events,
            .lag_ms = info.lag_ms,
            .workers = info.workers,
        };
    } else {
        eb_fail(&error, EB_NOT_FOUND, "there is no consumer of that name");
    }
    eb_embed_leave(broker);
    return eb_embed_errno(&error, err);
}

/* One request for all of @seqs. */
static int answer(eb_broker *broker, const char *name, struct eb_consumer_request *request,
                  bool *late, struct eb_error *error)
{
    request->results = calloc(request->count ? request->count : 1, sizeof *request->results);
    if (!request->results)
        return eb_fail(error, EB_INTERNAL, "out of memory");
    int rc = ask(broker, name, request, error);
    for (uint32_t i = 0; rc == 0 && late && i < request->count; i++)
        late[i] = request->results[i] != EB_JOB_OK;
    free(request->results);
    return rc;
}

int eb_broker_answer(eb_broker *broker, const char *name, eb_broker_verdict verdict,
                     const uint64_t *seqs, size_t count, uint32_t delivery, int64_t delay_ms,
                     const char *reason, bool *late, char err[EB_BROKER_ERROR])
{
    static const enum eb_consumer_verb verbs[] = {[EB_BROKER_DONE] = EB_CONSUMER_ACK,
                                                  [EB_BROKER_AGAIN] = EB_CONSUMER_NACK,
                                                  [EB_BROKER_GIVE_UP] = EB_CONSUMER_TERM};
    struct eb_error error = {.code = EB_OK};
    if (!eb_embed_enter(broker, err))
        return -ESHUTDOWN;
    if ((unsigned)verdict > EB_BROKER_GIVE_UP || count > UINT32_MAX) {
        eb_fail(&error, EB_INVALID_REQUEST,
                "a verdict is EB_BROKER_DONE, EB_BROKER_AGAIN or EB_BROKER_GIVE_UP");
    } else {
        struct eb_consumer_request request = {.verb = verbs[verdict],
                                              .seqs = seqs,
                                              .count = (uint32_t)count,
                                              .delivery = delivery,
                                              .delay_ms = delay_ms};
        snprintf(request.reason, sizeof request.reason, "%s", reason ? reason : "");
        answer(broker, name, &request, late, &error);
    }
    eb_embed_leave(broker);
    return eb_embed_errno(&error, err);
}
