/* subscriber.c - whether each event came, once and in order, and how long it was on its way. */
#include <stdlib.h>

#include "load.h"

/* A replay reads what unknown publishers wrote; elsewhere their number is known. */
void subscriber_init(struct conn *c, unsigned publishers)
{
    char text[32];

    c->orders = calloc(publishers > 0 ? publishers : 1, sizeof(*c->orders));
    if (!c->orders)
        die("no memory");
    for (unsigned i = 0; i < publishers; i++) {
        snprintf(text, sizeof(text), "%04u0000000000", i % PUBLISHERS_MAX);
        memcpy(c->orders[i].text, text, STAMP_ORDER);
    }
}

static uint64_t number(const char *text, size_t len)
{
    uint64_t value = 0;

    for (size_t i = 0; i < len; i++) {
        if (text[i] < '0' || text[i] > '9')
            return UINT64_MAX;
        value = value * 10 + (uint64_t)(text[i] - '0');
    }
    return value;
}

/* The event is not the next of the first publisher: of another one, or something is wrong. */
void conn_event_odd(struct conn *c, const uint8_t *payload, size_t len)
{
    unsigned publishers = c->role == ROLE_REPLAY ? PUBLISHERS_MAX : opt.publishers;
    uint64_t who, has, wants;
    struct order *order;

    if (len != opt.payload) {
        conn_fail(c, "a payload of %zu bytes, not %zu", len, opt.payload);
        return;
    }
    who = number((const char *)payload, STAMP_PUBLISHER);
    has = number((const char *)payload + STAMP_PUBLISHER, STAMP_NUMBER);
    if (publishers == 0 && c->role == ROLE_SUBSCRIBER)
        return; /* watches others' publishers, from somewhere in the middle */
    if (who >= publishers || has == UINT64_MAX) {
        conn_fail_bytes(c, "a payload that none of our publishers wrote", payload, STAMP);
        return;
    }
    order = &c->orders[who];
    wants = number(order->text + STAMP_PUBLISHER, STAMP_NUMBER);
    if (has > wants) {
        c->dropped += has - wants;
        if (!c->wire->may_drop)
            conn_fail(c, "event %llu of publisher %llu came, %llu did not", (unsigned long long)has,
                      (unsigned long long)who, (unsigned long long)wants);
    } else if (has < wants && !(c->role == ROLE_REPLAY && has == 0)) {
        /* In a replay a publisher that starts at 0 again is one of another run. */
        conn_fail(c, "event %llu of publisher %llu came again, or late (%llu was next)",
                  (unsigned long long)has, (unsigned long long)who, (unsigned long long)wants);
    }
    memcpy(order->text, payload, STAMP_ORDER);
    text_next(order->text + STAMP_PUBLISHER, STAMP_NUMBER);
}

static uint64_t hex(const uint8_t *text)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < STAMP_TIME; i++)
        value = value << 4 | (uint64_t)(text[i] <= '9' ? text[i] - '0' : text[i] - 'a' + 10);
    return value;
}

void conn_event_time(struct conn *c, const uint8_t *time)
{
    struct loop *loop = c->loop;

    if (!loop->counting)
        return;
    /* Events that were written in one go have the same time: read it once. */
    if (memcmp(time, loop->time_text, STAMP_TIME) != 0) {
        memcpy(loop->time_text, time, STAMP_TIME);
        loop->time_value = hex(time);
    }
    loop->measured++;
    hist_add(&loop->latency, loop->now > loop->time_value ? loop->now - loop->time_value : 0);
}
