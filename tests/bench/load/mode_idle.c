/*
 * mode_idle.c - connections that subscribe and then do nothing: a line of JSON when all are open, and they stay so
 * until standard input is closed. What the broker holds in memory meanwhile is the caller's to look at.
 */
#include <poll.h>
#include <unistd.h>

#include "load.h"

static bool over;

static void plan(void)
{
    for (unsigned i = 0; i < opt.connections; i++)
        subscriber_init(loop_add(ROLE_SUBSCRIBER, i), 0);
}

static void begin(struct loop *loop)
{
    printf("{\"target\":\"%s\",\"mode\":\"idle\",\"open\":%zu,\"seconds\":%.3f}\n", opt.wire->name,
           loop->ready, (double)(run.start - run.begun) / 1e9);
    fflush(stdout);
}

static uint64_t turn(struct loop *loop)
{
    struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
    char byte;

    if (poll(&input, 1, 0) > 0 && read(STDIN_FILENO, &byte, 1) <= 0)
        over = true;
    return NS / 20;
}

static bool done(struct loop *loop)
{
    return over;
}

const struct mode mode_idle = {"idle", plan, begin, NULL, turn, done, NULL, .waits = true};
