/* publisher.c - when a publisher may send, what it stamps its events with, and which of its requests are open. */
#include <stdlib.h>

#include "load.h"

#define OUT_HIGH ((size_t)256 * 1024) /* so much written and unsent is enough */

void publisher_init(struct conn *c, uint64_t quota)
{
    size_t slots = 64;
    char text[STAMP_PUBLISHER + 1];

    /* Answers may come in another order: room for some that wait longer than a window. */
    while (slots < 4 * (size_t)opt.window)
        slots *= 2;
    c->ring = calloc(slots, sizeof(*c->ring));
    if (!c->ring)
        die("no memory");
    c->ring_mask = slots - 1;
    c->quota = quota;
    c->topic = c->number % opt.topics;
    memcpy(c->id, "1000000000", ID_TEXT);
    snprintf(text, sizeof(text), "%04u", c->number % PUBLISHERS_MAX);
    memcpy(c->stamp, text, STAMP_PUBLISHER);
}

static void stamp_time(struct conn *c, uint64_t time)
{
    static const char digits[] = "0123456789abcdef";

    for (int i = STAMP_TIME - 1; i >= 0; i--, time >>= 4)
        c->stamp[STAMP_ORDER + i] = digits[time & 15];
}

/* The k-th event of all is due k/rate after the start; the publishers take turns. */
static uint64_t due_of_next(const struct conn *c)
{
    unsigned of = c->role == ROLE_PUBLISHER ? opt.connections : opt.publishers;
    uint64_t turn = c->published / opt.batch * of + c->number;

    return run.start + (uint64_t)((double)turn * opt.batch * 1e9 / opt.paced);
}

/* When an event that is due then may leave: at the end of its tick. */
static uint64_t leaves(uint64_t due)
{
    uint64_t since = due - run.start;

    return opt.tick ? run.start + (since + opt.tick - 1) / opt.tick * opt.tick : due;
}

static bool answered(const struct conn *c)
{
    return c->role == ROLE_PUBLISHER || c->wire->always_answers;
}

/* Open events count against the window of one connection; what subscribers have not got is the mode's to count. */
static uint64_t window_of(const struct conn *c)
{
    uint64_t most = opt.window;

    if (c->wire->window_max && most > (uint64_t)c->wire->window_max * opt.batch)
        most = (uint64_t)c->wire->window_max * opt.batch;
    return most < opt.batch ? opt.batch : most;
}

static uint64_t window_free(const struct conn *c)
{
    if (!answered(c))
        return UINT64_MAX;
    return c->open < window_of(c) ? window_of(c) - c->open : 0;
}

static void publish_one(struct conn *c, unsigned events, uint64_t at)
{
    struct request *slot = &c->ring[c->requests & c->ring_mask];

    c->wire->publish(c, events);
    text_next(c->id, ID_TEXT);
    c->requests++;
    c->published += events;
    c->quota -= events;
    if (answered(c)) {
        c->open += events;
        *slot = (struct request){at, events};
    }
}

void publisher_fill(struct conn *c, uint64_t allowance)
{
    uint64_t now = now_ns(), room = window_free(c);

    if (!c->ready || c->loop->stopped || (!opt.paced && room < opt.refill && room < window_of(c)))
        return;
    if (allowance > room)
        allowance = room;
    if (!opt.paced)
        stamp_time(c, now);
    while (allowance > 0 && c->quota > 0 && c->out_to - c->out_from < OUT_HIGH) {
        unsigned events = c->quota < opt.batch ? (unsigned)c->quota : opt.batch;
        uint64_t at = now;
        if (allowance < events || (answered(c) && c->ring[c->requests & c->ring_mask].events))
            break;
        if (opt.paced) {
            at = due_of_next(c);
            if (leaves(at) > now || at >= run.end)
                break;
            stamp_time(c, at);
            if (c->loop->counting)
                hist_add(&c->loop->late, now - at);
            if (c->loop->stalls)
                stalls_late(c->loop->stalls, now - at);
        }
        publish_one(c, events, at);
        allowance -= events;
        c->loop->progress = now;
    }
    if (c->wire->published)
        c->wire->published(c);
    conn_flush(c);
}

uint64_t publisher_due(const struct conn *c)
{
    if (!opt.paced || !c->ready || c->loop->stopped || c->quota == 0 || window_free(c) < opt.batch)
        return 0;
    return leaves(due_of_next(c));
}

static void answer(struct conn *c, uint64_t request)
{
    struct request *slot = &c->ring[request & c->ring_mask];
    struct loop *loop = c->loop;

    if (request >= c->requests || request < c->oldest || slot->events == 0) {
        conn_fail(c, "answered a request that is not open");
        return;
    }
    c->answers++;
    c->open -= slot->events;
    c->received += slot->events;
    /* Beside workers it is their time that is measured, and no answer's. */
    if (c->role == ROLE_PUBLISHER && loop->counting && loop->mode != &mode_work) {
        loop->measured += slot->events;
        hist_add(&loop->latency, loop->now - slot->at);
        if (loop->stalls)
            stalls_wait(loop->stalls, slot->at, loop->now);
    }
    slot->events = 0;
    while (c->oldest < c->requests && c->ring[c->oldest & c->ring_mask].events == 0)
        c->oldest++;
}

void conn_ack(struct conn *c, const uint8_t *id)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < ID_TEXT; i++) {
        unsigned digit = (unsigned)id[i] - '0';
        if (digit > 9) {
            conn_fail_bytes(c, "an answer without one of our ids", id, ID_TEXT);
            return;
        }
        value = value * 10 + digit;
    }
    answer(c, value - ID_FIRST);
}

void conn_ack_next(struct conn *c)
{
    answer(c, c->oldest);
}

void conn_ack_numbers(struct conn *c, uint64_t first, uint64_t count)
{
    for (uint64_t i = 0; i < count && !atomic_load_explicit(&run.failed, memory_order_relaxed); i++)
        answer(c, first + i);
}
