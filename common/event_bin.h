/*
 * event_bin.h - events in the binary protocol: a publisher's record into a draft, an event into a delivery
 * (docs/binary.md). The counterpart of event_json.h.
 */
#pragma once

#include "common/bin.h"
#include "common/event_json.h"

/**
 * The draft that @event (read from a publish or a member) asks for. Headers, id and ttl are checked; topic, sizes
 * and content type are eb_draft_check's, which eb_publish_add calls (once is enough: it is a tenth of a publish).
 * The draft borrows from @event's message and from @memory. 0, or -1 with @err.
 */
int eb_draft_from_bin(struct eb_draft *draft, struct eb_draft_memory *memory,
                      const struct eb_bin_event *event, const struct eb_event_limits *limits,
                      struct eb_error *err);
/** A ttl on the wire; above EB_TTL_MAX: EB_INVALID_REQUEST. */
int eb_ttl_from_bin(int64_t *ret, bool has_ttl, uint64_t ttl, struct eb_error *err);

/** Append the record `event`. @pattern: of the subscription that replays, or NULL. */
void eb_event_write_bin(struct eb_buf *out, const struct eb_event *event, const char *pattern);
