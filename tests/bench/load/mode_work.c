/*
 * mode_work.c - workers share out what is stored, or what a paced publisher stores meanwhile, and acknowledge each
 * event: answered acknowledgements a second, and, paced, the time from publish to the worker.
 *
 * Every event is acknowledged by a request of its own whose answer is waited for, many of them open at once: an ack
 * that is only written says nothing. An event that comes again is counted (`again`); the run is over when each was
 * acknowledged once.
 */
#include <stdlib.h>

#include "load.h"

static _Atomic uint8_t *got;            /* a bit an event, by its number */
static uint64_t bits;                   /* events that it has room for */
static _Atomic uint64_t handled, again; /* acknowledged once, and given a second time */
static _Atomic uint64_t published;

static void plan(void)
{
    if (opt.publishers > 1 || (opt.publishers == 0 && !opt.events) || !opt.wire->work)
        die("work: --publishers 1 with --rate, or --publishers 0 with --events that are stored; "
            "%s %s workers",
            opt.wire->name, opt.wire->work ? "has" : "has no");
    if (opt.publishers > 0 && !opt.paced)
        opt.paced = 2000;
    bits = opt.events ? opt.events : (uint64_t)(opt.paced * (opt.warmup + opt.seconds + 60)) + 1000;
    got = calloc(bits / 8 + 1, 1);
    if (!got)
        die("no memory");
    for (unsigned i = 0; i < opt.subscribers; i++) {
        struct conn *c = loop_add(ROLE_WORKER, i);
        memcpy(c->id, "1000000000", ID_TEXT);
    }
    if (opt.publishers > 0)
        publisher_init(loop_add(ROLE_PUBLISHER, 0), opt.events ? opt.events : UINT64_MAX);
}

static void begin(struct loop *loop)
{
    loop->timed = opt.publishers > 0;
    for (size_t i = 0; i < loop->conns_len; i++) {
        if (loop->conns[i]->role != ROLE_WORKER)
            continue;
        opt.wire->work(loop->conns[i]);
        conn_flush(loop->conns[i]);
    }
}

bool conn_job(struct conn *c, const uint8_t *payload, size_t len)
{
    uint64_t number = 0;

    if (len != opt.payload) {
        conn_fail(c, "a payload of %zu bytes, not %zu", len, opt.payload);
        return false;
    }
    for (unsigned i = STAMP_PUBLISHER; i < STAMP_ORDER; i++)
        number = number * 10 + (uint64_t)(payload[i] - '0');
    if (number >= bits) {
        conn_fail_bytes(c, "an event that none of our publishers wrote", payload, STAMP);
        return false;
    }
    c->received++;
    if (atomic_fetch_or(&got[number / 8], (uint8_t)(1U << number % 8)) & 1U << number % 8) {
        atomic_fetch_add(&again, 1);
        return false;
    }
    if (c->loop->timed)
        conn_event_time(c, payload + STAMP_ORDER);
    return true;
}

void conn_job_acked(struct conn *c, uint64_t count)
{
    c->answers += count;
    atomic_fetch_add(&handled, count);
    if (opt.publishers == 0 && c->loop->counting)
        c->loop->measured += count;
}

static uint64_t turn(struct loop *loop)
{
    uint64_t wait = NS / 100, now = now_ns();

    for (size_t i = 0; i < loop->conns_len; i++) {
        struct conn *c = loop->conns[i];
        if (c->role != ROLE_PUBLISHER || loop->stopped)
            continue;
        uint64_t before = c->published;
        publisher_fill(c, UINT64_MAX);
        atomic_fetch_add(&published, c->published - before);
        uint64_t due = publisher_due(c);
        if (due && due < now + wait)
            wait = due > now ? due - now : 0;
    }
    return wait;
}

static bool done(struct loop *loop)
{
    if (opt.publishers == 0)
        return atomic_load(&handled) >= opt.events;
    bool all = opt.events ? atomic_load(&published) >= opt.events : loop->stopped;
    return all && atomic_load(&handled) >= atomic_load(&published);
}

static void report(FILE *out)
{
    fprintf(out, ",\"workers\":%u,\"publishers\":%u,\"window\":%u,\"events\":%llu,\"again\":%llu",
            opt.subscribers, opt.publishers, opt.window, (unsigned long long)atomic_load(&handled),
            (unsigned long long)atomic_load(&again));
}

const struct mode mode_work = {"work", plan, begin, NULL, turn, done, report, .waits = false};
