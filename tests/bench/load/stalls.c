/*
 * stalls.c - the longest waits for an answer of a paced run: when each was, how late the loader itself was in it, and
 * what a virtual machine's host took of the cores meanwhile. One that the host had no part in is a stall of what runs
 * on the machine; the longest of these is kept apart.
 */
#include "stalls.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "load.h"

#define EVERY   (NS / 200) /* between two looks at /proc/stat */
#define SAMPLES 1024       /* five seconds of them */
#define KEPT    8
#define SHORT                                                                                      \
    (NS /                                                                                          \
     40) /* less is no stall, and counts whatever the host did: stalls are rare, so they do not run together */
#define APART                                                                                      \
    (NS /                                                                                          \
     10) /* of two stalls, at least: what has to be caught up with behind one is a part of it */

struct sample {
    uint64_t time, stolen, late; /* stolen: ticks so far; late: the most since the sample before */
};

/* All times in ns. */
struct stall {
    uint64_t first,
        last; /* from when the first of its events was due until the answer of the last */
    uint64_t from, until;  /* the longest wait in it */
    uint64_t late, stolen; /* from first to until */
};

struct stalls {
    int stat; /* /proc/stat */
    uint64_t late;
    struct sample samples[SAMPLES];
    uint64_t taken;          /* samples so far */
    struct stall now;        /* under way, or the last one */
    struct stall kept[KEPT]; /* the longest, the longest first */
    unsigned len;
    struct stall own;  /* the longest without the host */
    uint64_t no_stall; /* the longest wait that was none */
    uint64_t aside;    /* how long those with the host were, in all */
};

struct stalls *stalls_new(void)
{
    struct stalls *stalls = calloc(1, sizeof(*stalls));

    if (!stalls)
        die("no memory");
    stalls->stat = open("/proc/stat", O_RDONLY | O_CLOEXEC);
    return stalls;
}

/* Ticks that the host had of all cores so far: the eighth figure of the first line (proc(5)). */
static uint64_t stolen_ticks(const struct stalls *stalls)
{
    char text[256], *at = text;
    ssize_t len = stalls->stat < 0 ? -1 : pread(stalls->stat, text, sizeof(text) - 1, 0);

    if (len <= 0)
        return 0;
    text[len] = '\0';
    for (int i = 0; i < 8 && (at = strchr(at, ' ')); i++)
        at += strspn(at, " ");
    return at ? strtoull(at, NULL, 10) : 0;
}

void stalls_sample(struct stalls *stalls, uint64_t now)
{
    if (stalls->taken > 0 && now < stalls->samples[(stalls->taken - 1) % SAMPLES].time + EVERY)
        return;
    stalls->samples[stalls->taken++ % SAMPLES] =
        (struct sample){now, stolen_ticks(stalls), stalls->late};
    stalls->late = 0;
}

void stalls_late(struct stalls *stalls, uint64_t late)
{
    if (late > stalls->late)
        stalls->late = late;
}

/* What the machine did since the stall's begin. */
static void account(const struct stalls *stalls, struct stall *stall)
{
    uint64_t ticks = stolen_ticks(stalls), before = ticks;
    uint64_t oldest = stalls->taken > SAMPLES ? stalls->taken - SAMPLES : 0;

    stall->late = stalls->late;
    for (uint64_t i = stalls->taken; i > oldest; i--) {
        const struct sample *sample = &stalls->samples[(i - 1) % SAMPLES];
        before = sample->stolen;
        if (sample->time <= stall->first)
            break;
        if (sample->late > stall->late)
            stall->late = sample->late;
    }
    stall->stolen = (ticks - before) * NS / (uint64_t)sysconf(_SC_CLK_TCK);
}

static uint64_t wait_of(const struct stall *stall)
{
    return stall->until - stall->from;
}

static int longer_first(const void *a, const void *b)
{
    uint64_t x = wait_of(a), y = wait_of(b);

    return x < y ? 1 : x > y ? -1 : 0;
}

/* The one under way is over. */
static void keep(struct stalls *stalls)
{
    const struct stall *stall = &stalls->now;

    if (stalls->len < KEPT)
        stalls->kept[stalls->len++] = *stall;
    else if (wait_of(stall) > wait_of(&stalls->kept[KEPT - 1]))
        stalls->kept[KEPT - 1] = *stall;
    qsort(stalls->kept, stalls->len, sizeof(stalls->kept[0]), longer_first);
    if (stall->stolen > 0)
        stalls->aside += stall->last - stall->first;
    else if (wait_of(stall) > wait_of(&stalls->own))
        stalls->own = *stall;
}

void stalls_wait(struct stalls *stalls, uint64_t from, uint64_t now)
{
    struct stall *stall = &stalls->now;

    if (now - from <= SHORT) {
        if (now - from > stalls->no_stall)
            stalls->no_stall = now - from;
        return;
    }
    if (stall->until > 0 && from > stall->last + APART) {
        keep(stalls);
        memset(stall, 0, sizeof(*stall));
    }
    if (stall->until == 0)
        stall->first = from;
    stall->last = now;
    if (now - from > wait_of(stall)) {
        stall->from = from;
        stall->until = now;
        account(stalls, stall);
    }
}

static void print_one(const struct stall *stall, uint64_t start, FILE *out)
{
    fprintf(out, "{\"at_s\":%.3f,\"us\":%.1f,\"late_us\":%.1f,\"stolen_ms\":%.0f}",
            (double)(stall->from - start) / 1e9, (double)wait_of(stall) / 1e3,
            (double)stall->late / 1e3, (double)stall->stolen / 1e6);
}

void stalls_print(struct stalls *stalls, uint64_t start, FILE *out)
{
    if (stalls->now.until > 0)
        keep(stalls);
    uint64_t own = wait_of(&stalls->own);
    fprintf(out, ",\"own_max_us\":%.1f,\"own_late_us\":%.1f,\"aside_s\":%.3f,\"stalls\":[",
            (double)(own > 0 ? own : stalls->no_stall) / 1e3, (double)stalls->own.late / 1e3,
            (double)stalls->aside / 1e9);
    for (unsigned i = 0; i < stalls->len; i++) {
        fputs(i ? "," : "", out);
        print_one(&stalls->kept[i], start, out);
    }
    fputs("]", out);
}
