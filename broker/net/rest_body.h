/*
 * rest_body.h - a request to publish as drafts: what its headers say (rest_headers.c), what its body holds (rest_body.c).
 *
 * All of it runs on the request's thread and borrows from the request; each int is 0, or -1 with @err.
 */
#pragma once

#include "broker/net/cloudevents.h"
#include "broker/net/http.h"

enum eb_body_kind {
    EB_BODY_RAW,
    EB_BODY_JSON,
    EB_BODY_NDJSON,
    EB_BODY_CE,
    EB_BODY_CE_BATCH,
    EB_BODY_NONE, /* nothing that /v1/events takes */
};

/* ---- rest_body.c; eb_rest_publish_build stands in http.h ---- */

/** By Content-Type and headers, at /v1/events. */
enum eb_body_kind eb_rest_body_kind(struct eb_http_request *request);
/** The body at /v1/events as a publish. *ret is the caller's, also after a failure (or NULL). */
int eb_rest_events_build(struct eb_http_request *request, struct eb_publish **ret,
                         struct eb_error *err);

/* ---- rest_headers.c ---- */

/** Is it a CloudEvent in binary mode? */
bool eb_rest_is_ce_binary(struct eb_http_request *request);
/** Event-Header-*, tracing, and (binary mode) ce-* into @core, or NULL; where a reply is to go. */
int eb_rest_event_headers(struct eb_http_request *request, struct eb_headers *headers,
                          struct eb_ce_core *core, struct eb_error *err);
int eb_rest_header_ttl(struct eb_http_request *request, int64_t *ret, struct eb_error *err);
/** Expected-Last-Seq, Event-Deliver-At, Event-Delay into @draft … */
int eb_rest_header_asks(struct eb_http_request *request, struct eb_draft *draft,
                        struct eb_error *err);
/** … and where each event says it by itself: that none is there. */
int eb_rest_no_header_asks(struct eb_http_request *request, struct eb_error *err);
/** Event-Id, else Idempotency-Key. */
int eb_rest_header_id(struct eb_http_request *request, struct eb_draft *draft,
                      struct eb_headers *headers, struct eb_error *err);
/** The Content-Type of a body that is the payload. */
void eb_rest_raw_content_type(struct eb_http_request *request, struct eb_draft *draft);
