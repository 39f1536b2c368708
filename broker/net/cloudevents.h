/*
 * cloudevents.h - CloudEvents 1.0 in HTTP's three modes, as drafts of events (PROTOCOL 4).
 *
 * Attributes become headers `ce-NAME`, `datacontenttype` the content type, `data` the payload. The topic is
 * the path's, else the extension `topic`, else `type`. The message id is the UUIDv5 of source NUL id.
 */
#pragma once

#include "common/event_json.h"

/* What the memory of a draft must outlive: the draft's own pieces that are neither the body nor a header. */
struct eb_cloudevent {
    struct eb_draft_memory memory; /* headers and decoded data_base64 */
    struct eb_buf topic;           /* the path's or the attribute's */
    struct eb_buf content_type;
};
void eb_cloudevent_init(struct eb_cloudevent *event, unsigned max_headers);
void eb_cloudevent_finish(struct eb_cloudevent *event);

/**
 * One attribute: becomes a header, and is remembered if it is one of id, source, type, topic, specversion.
 * Names are lower-case letters and digits.
 */
struct eb_ce_core {
    struct eb_buf id, source, type, topic;
    bool specversion;
};
void eb_ce_core_finish(struct eb_ce_core *core);
int eb_ce_attribute(struct eb_ce_core *core, struct eb_headers *headers, const char *name,
                    size_t name_len, const char *value, size_t value_len, struct eb_error *err);
/** Required attributes, topic (@path_topic NULL: the event's own) and id of the draft. */
int eb_ce_finish_core(struct eb_ce_core *core, struct eb_cloudevent *event, const char *path_topic,
                      size_t path_topic_len, struct eb_draft *draft, struct eb_error *err);

/** A structured event at token @obj. The draft borrows from @json and @event. */
int eb_ce_structured(struct eb_draft *draft, struct eb_cloudevent *event, struct eb_json *json,
                     uint32_t obj, const char *path_topic, size_t path_topic_len,
                     struct eb_error *err);
/** The value of a `ce-*` header in binary mode: quotes and percent-encoding taken off, into @out. */
void eb_ce_header_value(struct eb_buf *out, const char *value, size_t len);
