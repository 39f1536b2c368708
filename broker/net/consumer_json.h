/*
 * consumer_json.h - requests about durable consumers as JSON, and what is said back: shared by HTTP and WebSocket
 * (PROTOCOL 7). Reading checks kinds and bounds with errors that say what would be right; what a request means is the bus's.
 */
#pragma once

#include "broker/bus/consumers.h"

#define EB_CONSUMER_DELAY_MAX_S (366 * 86400)

/* One request with the memory that it borrows from. */
struct eb_consumer_call {
    struct eb_consumer_request request; /* first: `done` finds the whole by it */
    struct eb_consumer_settings *settings;
    uint64_t *seqs;
    enum eb_job_result *results;
};
/** Zeroed, with @verb; NULL when out of memory. */
struct eb_consumer_call *eb_consumer_call_create(enum eb_consumer_verb verb);
/** NULL is fine. The kept id of a WebSocket's request is not its business. */
void eb_consumer_call_destroy(struct eb_consumer_call *call);

/** Checked and kept. 0, or -1 with @err. */
int eb_consumer_call_name(struct eb_consumer_call *call, const char *name, size_t len,
                          struct eb_error *err);
/** The settings at token @obj (an object). 0, or -1 with @err. */
int eb_consumer_call_settings(struct eb_consumer_call *call, struct eb_json *json, uint32_t obj,
                              struct eb_error *err);
/**
 * What ack, nack, term, in_progress and redrive say beside the consumer's name: "seqs" or "seq" (redrive: may be absent),
 * "delivery", "delay", "reason". At most @max seqs.
 */
int eb_consumer_call_seqs(struct eb_consumer_call *call, struct eb_json *json, uint32_t obj,
                          size_t max, struct eb_error *err);
/** Seek: "seq" or "time". */
int eb_consumer_call_position(struct eb_consumer_call *call, const struct eb_json *json,
                              uint32_t obj, struct eb_error *err);

/** A member that is an integer from @min to @max; absent or null: *ret stays. */
int eb_consumer_read_int(const struct eb_json *json, uint32_t obj, const char *name, int64_t min,
                         int64_t max, int64_t *ret, struct eb_error *err);
/** A member that is a number of seconds from 0 to @max_s, with a fraction or without; absent or null: *ret_ms stays. */
int eb_consumer_read_seconds(const struct eb_json *json, uint32_t obj, const char *name,
                             int64_t max_s, int64_t *ret_ms, struct eb_error *err);

/** `"results":[{"seq":17,"result":"ok"},…]` of a request that was done. */
void eb_consumer_write_results(struct eb_buf *out, const struct eb_consumer_request *request);
/** The event of 2.2 with @type and @consumer first unless NULL, and "delivery" last. */
void eb_consumer_write_delivery(struct eb_buf *out, const struct eb_event *event, const char *type,
                                const char *consumer, uint32_t delivery);
/** Settings and state as one object. */
void eb_consumer_write_info(struct eb_buf *out, const struct eb_consumer_info *info);
