/*
 * webhook.h - events posted to URLs: one thread (`eb-webhook`), connections reused, requests signed as Standard
 * Webhooks (https://www.standardwebhooks.com) says. What an answer means for a consumer is said here; what follows
 * from it is the consumer's.
 *
 * (H1) A receiver costs its own calls and nothing else: every call ends within its timeout, of an answer at most
 *      64 KiB are read, redirects are not followed, proxies of the environment are not used.
 * (H2) An address is judged when it is connected to, so a name that changes its address gains nothing.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/net/address.h"

#define EB_WEBHOOK_SECRET_MIN 24 /* bytes, as Standard Webhooks has it */
#define EB_WEBHOOK_SECRET_MAX 64

struct eb_webhooks;

enum eb_webhook_outcome {
    EB_WEBHOOK_TAKEN,   /* 2xx */
    EB_WEBHOOK_GONE,    /* 410: call it no more */
    EB_WEBHOOK_REFUSED, /* the address is not global and not allowed, or the URL cannot be called */
    EB_WEBHOOK_FAILED,  /* another status, no connection, time over: try again */
    EB_WEBHOOK_CANCELLED /* eb_webhooks_stop */
};

/* One call. The caller's memory, untouched by the caller until `done`. */
struct eb_webhook {
    const char *url;
    uint8_t secret[EB_WEBHOOK_SECRET_MAX];
    size_t secret_len;
    const char *id; /* webhook-id */
    const char *content_type;
    const char *const *headers; /* further ones, "name: value"; count of them */
    size_t header_count;
    const void *body;
    size_t len;
    int64_t timeout_ms;
    void (*done)(struct eb_webhook *call); /* once, no lock held, on the webhook thread (on the
                                              caller's when that could not be made); may free it */
    void *user;
    /* results */
    enum eb_webhook_outcome outcome;
    long status;         /* 0: no answer */
    int64_t retry_after; /* seconds, of a 429 or 503 that named it; else -1 */
    char error[160];     /* for people: why it failed */

    struct eb_webhook *next; /* from here on: the sender's */
    void *easy, *lines;
    size_t received;
    struct eb_webhooks *hooks;
    bool refused;
};

/**
 * @allowed: networks that may be called though they are not global; copied. The thread starts with the first call.
 * 0, -ENOMEM, -ENOENT (no libcurl, @err says so).
 */
int eb_webhooks_create(const struct eb_network *allowed, size_t count, struct eb_webhooks **ret,
                       struct eb_error *err);
/** Other networks from now on; connections that stand are kept. Copied. 0 or -ENOMEM (the old ones hold). Threads: any. */
int eb_webhooks_allow(struct eb_webhooks *hooks, const struct eb_network *allowed, size_t count);
/** Calls under way end as CANCELLED, before this returns. NULL is fine. */
void eb_webhooks_destroy(struct eb_webhooks *hooks);
/** Threads: any. */
void eb_webhooks_call(struct eb_webhooks *hooks, struct eb_webhook *call);

/** Is it an http(s) URL with a host, which if it is an address may be called? 0, or -1 with @err. Threads: any. */
int eb_webhook_url_check(struct eb_webhooks *hooks, const char *url, struct eb_error *err);
/** "whsec_" and base64 of 24 to 64 bytes. Returns the length or -1 with @err. */
ptrdiff_t eb_webhook_secret_parse(uint8_t ret[EB_WEBHOOK_SECRET_MAX], const char *text, size_t len,
                                  struct eb_error *err);
#define EB_WEBHOOK_SIGNATURE 48 /* "v1," and 44 of base64, NUL */
/** HMAC-SHA256 over id, timestamp and body, as `webhook-signature` has it. */
void eb_webhook_sign(char ret[EB_WEBHOOK_SIGNATURE], const uint8_t *secret, size_t secret_len,
                     const char *id, int64_t timestamp, const void *body, size_t len);
