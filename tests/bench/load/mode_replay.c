/* mode_replay.c - one subscriber reads what is stored from the start: events a second until it has --events. */
#include "load.h"

static void plan(void)
{
    if (!opt.events || !opt.wire->replay)
        die("replay: --events says how many are stored, and %s %s", opt.wire->name,
            opt.wire->replay ? "has them" : "stores none");
    subscriber_init(loop_add(ROLE_REPLAY, 0), PUBLISHERS_MAX);
}

static struct conn *reader(void)
{
    return run.loops[0].conns[0];
}

static void begin(struct loop *loop)
{
    opt.wire->replay(reader());
    conn_flush(reader());
}

static uint64_t turn(struct loop *loop)
{
    loop->measured = reader()->received;
    return NS / 10;
}

static bool done(struct loop *loop)
{
    return reader()->received >= opt.events;
}

static void report(FILE *out)
{
    fprintf(out, ",\"events\":%llu,\"gaps\":%llu", (unsigned long long)reader()->received,
            (unsigned long long)run.loops[0].gaps);
}

const struct mode mode_replay = {"replay", plan, begin, NULL, turn, done, report, .waits = false};
