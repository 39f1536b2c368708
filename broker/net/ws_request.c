/* ws_request.c - what the JSON and the binary protocol both ask of the bus: limits, and requests ready to be filled. */
#include <stdlib.h>

#include "broker/net/ws_internal.h"
#include "common/log.h"

struct eb_ws_parser *eb_ws_parser_create(void)
{
    struct eb_ws_parser *parser = malloc(sizeof(*parser));

    if (!parser)
        return NULL;
    eb_json_init(&parser->json);
    eb_draft_memory_init(&parser->memory);
    return parser;
}

void eb_ws_parser_destroy(struct eb_ws_parser *parser)
{
    if (!parser)
        return;
    eb_json_finish(&parser->json);
    eb_draft_memory_finish(&parser->memory);
    free(parser);
}

int eb_ws_wait_room(struct eb_ws_conn *conn, int64_t deadline_ms)
{
    return eb_session_wait_room(conn->session, atomic_load(&conn->side->max_open_requests),
                                atomic_load(&conn->side->max_unsent_answers), deadline_ms);
}

int eb_ws_check_open(const struct eb_ws_conn *conn, struct eb_error *err)
{
    if (atomic_load(&conn->side->stopping))
        return eb_fail(err, EB_UNAVAILABLE, "the broker is going down");
    return 0;
}

struct eb_publish *eb_ws_publish_create(struct eb_ws_conn *conn, size_t max,
                                        void (*done)(struct eb_publish *publish),
                                        struct eb_error *err)
{
    double rate = atomic_load(&conn->side->publish_rate);

    if (!eb_rate_take(&conn->rate, rate, (double)max)) {
        eb_ws_count(&conn->side->count.rate_limited);
        eb_fail(err, EB_RATE_LIMITED, "above publish_rate (%g events a second); publish slower",
                rate);
        return NULL;
    }
    struct eb_publish *publish = eb_publish_create_on(conn->session, max);
    if (!publish) {
        eb_fail(err, EB_INTERNAL, "out of memory");
        return NULL;
    }
    publish->user = conn;
    publish->done = done;
    return publish;
}

struct eb_ws_subscribe *eb_ws_subscribe_create(struct eb_ws_conn *conn,
                                               void (*done)(struct eb_subscribe *call))
{
    struct eb_ws_subscribe *subscribe = calloc(1, sizeof(*subscribe));

    if (!subscribe)
        return NULL;
    subscribe->call.patterns = &subscribe->pattern;
    subscribe->call.count = 1;
    subscribe->call.done = done;
    subscribe->call.user = conn;
    return subscribe;
}

struct eb_request *eb_ws_request_create(struct eb_ws_conn *conn,
                                        void (*done)(struct eb_request *request))
{
    struct eb_request *request = calloc(1, sizeof(*request));

    if (!request)
        return NULL;
    request->done = done;
    request->user = conn;
    return request;
}

void eb_ws_answer_lost(struct eb_ws_conn *conn)
{
    eb_warn(NULL, "a WebSocket of %s is closed: no memory for an answer", conn->peer);
    eb_ws_conn_close(conn, EB_WS_CLOSE_INTERNAL, "out of memory", true, 1000);
}
