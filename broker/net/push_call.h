/*
 * push_call.h - an event as the header lines of a webhook's call: CloudEvents in binary mode (HTTP protocol binding
 * 1.0.2), and the event's own headers as far as they may be ones of HTTP.
 */
#pragma once

#include "common/event.h"

struct eb_push_lines {
    struct eb_buf text;
    const char **lines; /* "name: value", into text */
    size_t count;
};
/** @epoch: of the log. False: out of memory. eb_push_lines_finish in any case. */
bool eb_push_lines_make(struct eb_push_lines *ret, const struct eb_event *event, const char *epoch);
void eb_push_lines_finish(struct eb_push_lines *lines);
/** The event's content type, or application/octet-stream when it could not stand in a header. */
const char *eb_push_content_type(const struct eb_event *event);
