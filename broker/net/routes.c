/* routes.c - which path is answered by whom, and with which methods. */
#include "broker/net/http.h"
#include "broker/net/rest_consumers.h"

#include <stdio.h>
#include <string.h>

static const struct eb_route ROUTES[] = {
    {"/v1/topics/{}/events", EB_METHOD_POST, .post = eb_rest_publish,
     .post_begin = eb_rest_publish_begin},
    {"/v1/topics/{}/request", EB_METHOD_POST, .post = eb_rest_request,
     .post_begin = eb_rest_publish_begin},
    {"/v1/topics/{}/last", EB_METHOD_GET, .get = eb_rest_last},
    {"/v1/events", EB_METHOD_GET | EB_METHOD_POST, .get = eb_rest_events,
     .post = eb_rest_publish_events, .post_begin = eb_rest_publish_events_begin},
    {"/v1/events/{}", EB_METHOD_GET, .get = eb_rest_event},
    {"/v1/stream", EB_METHOD_GET, .get = eb_sse_handle},
    {"/v1/scheduled", EB_METHOD_GET, .get = eb_rest_scheduled},
    {"/v1/scheduled/{}", EB_METHOD_DELETE, .remove = eb_rest_unschedule},
    {"/v1/consumers", EB_METHOD_GET, .get = eb_rest_consumers},
    {"/v1/consumers/{}", EB_METHOD_GET | EB_METHOD_PUT | EB_METHOD_DELETE, .get = eb_rest_consumer,
     .put = eb_rest_consumer_put, .remove = eb_rest_consumer_delete,
     .post_begin = eb_rest_consumers_begin},
    {"/v1/consumers/{}/fetch", EB_METHOD_POST, .post = eb_rest_consumer_fetch,
     .post_begin = eb_rest_consumers_begin},
    {"/v1/consumers/{}/ack", EB_METHOD_POST, .post = eb_rest_consumer_ack,
     .post_begin = eb_rest_consumers_begin},
    {"/v1/consumers/{}/nack", EB_METHOD_POST, .post = eb_rest_consumer_nack,
     .post_begin = eb_rest_consumers_begin},
    {"/v1/consumers/{}/term", EB_METHOD_POST, .post = eb_rest_consumer_term,
     .post_begin = eb_rest_consumers_begin},
    {"/v1/consumers/{}/in_progress", EB_METHOD_POST, .post = eb_rest_consumer_in_progress,
     .post_begin = eb_rest_consumers_begin},
    {"/v1/consumers/{}/seek", EB_METHOD_POST, .post = eb_rest_consumer_seek,
     .post_begin = eb_rest_consumers_begin},
    {"/v1/consumers/{}/dead", EB_METHOD_GET, .get = eb_rest_consumer_dead},
    {"/v1/consumers/{}/dead/redrive", EB_METHOD_POST, .post = eb_rest_consumer_redrive,
     .post_begin = eb_rest_consumers_begin},
    {"/v1/topics", EB_METHOD_GET, .get = eb_rest_topics},
    {"/v1/subscriptions", EB_METHOD_GET, .get = eb_rest_subscriptions},
    {"/v1/connections", EB_METHOD_GET, .get = eb_rest_connections},
    {"/v1/stats", EB_METHOD_GET, .get = eb_rest_stats},
    {"/metrics", EB_METHOD_GET, .get = eb_rest_metrics},
    {"/healthz", EB_METHOD_GET, .open = true, .get = eb_rest_healthz},
    {"/livez", EB_METHOD_GET, .open = true, .get = eb_rest_healthz},
    {"/readyz", EB_METHOD_GET, .open = true, .get = eb_rest_readyz},
    {"/", EB_METHOD_GET, .open = true, .page = true, .get = eb_page_handle},
    {"/app.js", EB_METHOD_GET, .open = true, .page = true, .get = eb_page_handle},
    {"/style.css", EB_METHOD_GET, .open = true, .page = true, .get = eb_page_handle},
    {"/favicon.ico", EB_METHOD_GET, .open = true, .page = true, .get = eb_page_handle},
};

static bool matches(const char *route, const char *path, const char **ret_segment, size_t *ret_len)
{
    while (*route) {
        if (route[0] == '{') {
            size_t len = strcspn(path, "/");
            *ret_segment = path;
            *ret_len = len;
            route += 2;
            path += len;
        } else if (*route++ != *path++) {
            return false;
        }
    }
    return *path == 0;
}

const struct eb_route *eb_route_find(const char *path, bool pages, const char **ret_segment,
                                     size_t *ret_len)
{
    for (size_t i = 0; i < sizeof(ROUTES) / sizeof(*ROUTES); i++) {
        if (ROUTES[i].page && !pages)
            continue;
        if (matches(ROUTES[i].path, path, ret_segment, ret_len))
            return &ROUTES[i];
    }
    return NULL;
}

void eb_route_allow(unsigned methods, char out[64])
{
    snprintf(out, 64, "%s%s%s%sOPTIONS", methods & EB_METHOD_GET ? "GET, HEAD, " : "",
             methods & EB_METHOD_PUT ? "PUT, " : "", methods & EB_METHOD_POST ? "POST, " : "",
             methods & EB_METHOD_DELETE ? "DELETE, " : "");
}
