/*
 * event_ask.h - what a publisher asks beside his event being stored (PROTOCOL 8): not before a time, or only when a
 * certain seq is its topic's last. Read alike wherever it stands: members of JSON, headers of HTTP.
 */
#pragma once

#include "common/event.h"
#include "common/json.h"

#define EB_DELAY_MAX_MS ((int64_t)365 * 24 * 3600 * 1000)

/** Seconds from 0, fractions and exponents allowed ("5", "0.25", "1e-3"), as ms, rounded up. False: it is none. */
bool eb_seconds_parse(const char *text, size_t len, int64_t *ret_ms);

/*
 * Each reads the text of a number; @name is what the sentence calls it ("\"delay\"", "Event-Delay"). -1 with
 * EB_INVALID_REQUEST. A time that is over is taken: it means now (eb_publish_add).
 */
int eb_ask_expected(struct eb_draft *draft, const char *name, const char *text, size_t len,
                    struct eb_error *err);
int eb_ask_deliver_at(struct eb_draft *draft, const char *name, const char *text, size_t len,
                      struct eb_error *err);
/** Not together with deliver_at, which is read before. */
int eb_ask_delay(struct eb_draft *draft, const char *name, const char *text, size_t len,
                 struct eb_error *err);
/** The same for what was counted in ms already. @ms: from now on, or with @since_1970 since then. */
int eb_ask_due(struct eb_draft *draft, const char *name, uint64_t ms, bool since_1970,
               struct eb_error *err);

/**
 * The members expected_last_seq, deliver_at and delay at the tokens given (0: absent or null); their kinds are checked.
 */
int eb_asks_from_tokens(struct eb_draft *draft, const struct eb_json *json, uint32_t expected,
                        uint32_t deliver_at, uint32_t delay, struct eb_error *err);
/** The same members of the object @obj, for what stands around an event or a batch; @outer is filled afresh, ttl too. */
int eb_asks_from_json(struct eb_draft *outer, const struct eb_json *json, uint32_t obj,
                      struct eb_error *err);
/** What @draft has not of its own it has from @outer: ttl, time, expected seq. */
void eb_asks_default(struct eb_draft *draft, const struct eb_draft *outer);
