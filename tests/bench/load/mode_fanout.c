/*
 * mode_fanout.c - publishers and the subscribers of all they publish: deliveries a second (fanout) and the time
 * from publish to delivery (latency), in one program that sees both ends.
 *
 * Flat out, what is published but not yet with the slowest subscriber is bounded by the window, so that the broker
 * is measured and neither its queues nor its way to treat slow subscribers. Paced, an event's time counts from when
 * it was due, not from when it was sent: a stall is felt by every event that had to wait behind it.
 */
#include <stdlib.h>

#include "load.h"

/* What each subscriber has seen, in events; its own loop writes, those that publish read. */
static _Atomic uint64_t *seen;
static _Atomic uint64_t published;

#define POLL_OTHERS 50000 /* ns: how often a loop looks at what other loops' subscribers have got */

static void plan(void)
{
    seen = calloc(opt.subscribers + 1, sizeof(*seen));
    if (!seen)
        die("no memory");
    if (opt.events && opt.publishers == 0)
        die("--events: there are no publishers");
    for (unsigned i = 0; i < opt.subscribers + opt.stalled; i++)
        subscriber_init(loop_add(ROLE_SUBSCRIBER, i), opt.publishers);
    for (unsigned i = 0; i < opt.publishers; i++) {
        uint64_t quota = UINT64_MAX;
        if (opt.events)
            quota = opt.events / opt.publishers + (i < opt.events % opt.publishers);
        publisher_init(loop_add(ROLE_FEEDER, i), quota);
    }
    if (strcmp(opt.mode, "latency") == 0 && !opt.paced)
        opt.paced = 10000;
}

static bool stalled(const struct conn *c)
{
    return c->role == ROLE_SUBSCRIBER && c->number >= opt.subscribers;
}

static void begin(struct loop *loop)
{
    loop->timed = true;
    for (size_t i = 0; i < loop->conns_len; i++)
        if (stalled(loop->conns[i]))
            conn_deafen(loop->conns[i]);
}

static void progress(struct conn *c)
{
    if (c->role == ROLE_SUBSCRIBER && !stalled(c))
        atomic_store_explicit(&seen[c->number], c->received + c->dropped, memory_order_relaxed);
}

static uint64_t slowest(void)
{
    uint64_t least = UINT64_MAX;

    for (unsigned i = 0; i < opt.subscribers; i++) {
        uint64_t has = atomic_load_explicit(&seen[i], memory_order_relaxed);
        least = has < least ? has : least;
    }
    return opt.subscribers ? least : atomic_load(&published);
}

/* Share what the window leaves among this loop's publishers; those of other loops may do the same at once. */
static void feed(struct loop *loop)
{
    for (size_t i = 0; i < loop->conns_len; i++) {
        struct conn *c = loop->conns[i];
        if (c->role != ROLE_FEEDER || c->quota == 0)
            continue;
        uint64_t on_way = atomic_load(&published) - slowest();
        uint64_t room = on_way < opt.window ? opt.window - on_way : 0;
        if (opt.paced)
            room = UINT64_MAX;
        else if (room < opt.refill)
            break;
        uint64_t before = c->published, share = room / opt.publishers;
        publisher_fill(c, share < opt.batch ? opt.batch : share);
        atomic_fetch_add(&published, c->published - before);
    }
}

static uint64_t next_due(const struct loop *loop)
{
    uint64_t now = now_ns(), wait = run.loops_len > 1 && !opt.paced ? POLL_OTHERS : NS / 100;

    for (size_t i = 0; i < loop->conns_len && opt.paced; i++) {
        uint64_t due = loop->conns[i]->role == ROLE_FEEDER ? publisher_due(loop->conns[i]) : 0;
        if (due && due < now + wait)
            wait = due > now ? due - now : 0;
    }
    return wait;
}

static uint64_t turn(struct loop *loop)
{
    if (!loop->stopped)
        feed(loop);
    return next_due(loop);
}

static bool published_all(const struct loop *loop)
{
    if (!opt.events)
        return loop->stopped;
    return atomic_load(&published) >= opt.events;
}

/* Nothing more comes from here, and everything has come to each subscriber. */
static bool done(struct loop *loop)
{
    if (!published_all(loop))
        return false;
    for (size_t i = 0; i < loop->conns_len; i++) {
        const struct conn *c = loop->conns[i];
        if (c->role == ROLE_FEEDER && c->open > 0)
            return false;
        if (opt.publishers > 0 && c->role == ROLE_SUBSCRIBER && !stalled(c) &&
            c->received + c->dropped < atomic_load(&published))
            return false;
    }
    return true;
}

static void report(FILE *out)
{
    uint64_t deliveries = 0, dropped = 0, gaps = 0;

    for (unsigned i = 0; i < run.loops_len; i++) {
        gaps += run.loops[i].gaps;
        for (size_t j = 0; j < run.loops[i].conns_len; j++) {
            const struct conn *c = run.loops[i].conns[j];
            if (c->role == ROLE_SUBSCRIBER && !stalled(c)) {
                deliveries += c->received;
                dropped += c->dropped;
            }
        }
    }
    fprintf(out,
            ",\"subscribers\":%u,\"publishers\":%u,\"stalled\":%u,\"window\":%u,\"batch\":%u,"
            "\"events\":%llu,"
            "\"deliveries\":%llu,\"dropped\":%llu,\"gaps\":%llu",
            opt.subscribers, opt.publishers, opt.stalled, opt.window, opt.batch,
            (unsigned long long)atomic_load(&published), (unsigned long long)deliveries,
            (unsigned long long)dropped, (unsigned long long)gaps);
}

const struct mode mode_fanout = {"fanout", plan, begin,  progress,
                                 turn,     done, report, .waits = false};
const struct mode mode_latency = {"latency", plan, begin,  progress,
                                  turn,      done, report, .waits = false};
