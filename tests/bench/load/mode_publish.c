/* mode_publish.c - publishers that wait for their answers: acknowledged events a second, and how long one takes. */
#include "load.h"

static void plan(void)
{
    for (unsigned i = 0; i < opt.connections; i++) {
        uint64_t quota = UINT64_MAX;
        if (opt.events)
            quota = opt.events / opt.connections + (i < opt.events % opt.connections);
        publisher_init(loop_add(ROLE_PUBLISHER, i), quota);
    }
}

static void begin(struct loop *loop)
{
    if (opt.tick)
        loop->stalls = stalls_new();
    for (size_t i = 0; i < loop->conns_len; i++)
        publisher_fill(loop->conns[i], UINT64_MAX);
}

static void progress(struct conn *c)
{
    publisher_fill(c, UINT64_MAX);
}

static uint64_t turn(struct loop *loop)
{
    uint64_t wait = NS / 10, now = now_ns();

    if (!opt.paced)
        return wait;
    if (loop->stalls)
        stalls_sample(loop->stalls, now);
    for (size_t i = 0; i < loop->conns_len; i++) {
        uint64_t due = publisher_due(loop->conns[i]);
        if (due && due <= now) {
            publisher_fill(loop->conns[i], UINT64_MAX);
            due = publisher_due(loop->conns[i]);
        }
        if (due && due < now + wait)
            wait = due > now ? due - now : 0;
    }
    return wait;
}

static bool done(struct loop *loop)
{
    for (size_t i = 0; i < loop->conns_len; i++)
        if (loop->conns[i]->open > 0 || (!loop->stopped && loop->conns[i]->quota > 0))
            return false;
    return true;
}

static void report(FILE *out)
{
    uint64_t events = 0;

    for (unsigned i = 0; i < run.loops_len; i++)
        for (size_t j = 0; j < run.loops[i].conns_len; j++)
            events += run.loops[i].conns[j]->received;
    fprintf(out, ",\"connections\":%u,\"window\":%u,\"batch\":%u,\"events\":%llu", opt.connections,
            opt.window, opt.batch, (unsigned long long)events);
    if (run.loops[0].stalls)
        stalls_print(run.loops[0].stalls, run.start, out);
}

const struct mode mode_publish = {"publish", plan, begin,  progress,
                                  turn,      done, report, .waits = false};
