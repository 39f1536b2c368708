/* deadlist.c - a sorted list of (consumer, seq), with what the open transaction changed in it. */
#include "broker/store/deadlist.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void eb_deadlist_finish(struct eb_deadlist *dead)
{
    free(dead->list);
    free(dead->changes);
    *dead = (struct eb_deadlist){0};
}

/* The first place that is not below (consumer, seq). */
static size_t place_of(const struct eb_deadlist *dead, uint64_t consumer, uint64_t seq)
{
    size_t low = 0, high = dead->count;

    while (low < high) {
        size_t half = low + (high - low) / 2;
        const struct eb_dead *d = &dead->list[half];
        if (d->consumer < consumer || (d->consumer == consumer && d->seq < seq))
            low = half + 1;
        else
            high = half;
    }
    return low;
}

static int there(const struct eb_deadlist *dead, size_t at, uint64_t consumer, uint64_t seq)
{
    return at < dead->count && dead->list[at].consumer == consumer && dead->list[at].seq == seq;
}

static int insert(struct eb_deadlist *dead, size_t at, struct eb_dead d)
{
    if (dead->count == dead->cap) {
        size_t cap = dead->cap ? 2 * dead->cap : 64;
        struct eb_dead *list = realloc(dead->list, cap * sizeof(*list));
        if (!list)
            return -ENOMEM;
        dead->list = list;
        dead->cap = cap;
    }
    memmove(&dead->list[at + 1], &dead->list[at], (dead->count - at) * sizeof(*dead->list));
    dead->list[at] = d;
    dead->count++;
    return 0;
}

static void take_out(struct eb_deadlist *dead, size_t at)
{
    dead->count--;
    memmove(&dead->list[at], &dead->list[at + 1], (dead->count - at) * sizeof(*dead->list));
}

/* Room for one more note: before the change, so that it can always be taken back. */
static int note_room(struct eb_deadlist *dead)
{
    if (dead->change_count < dead->change_cap)
        return 0;
    size_t cap = dead->change_cap ? 2 * dead->change_cap : 16;
    struct eb_deadlist_change *changes = realloc(dead->changes, cap * sizeof(*changes));
    if (!changes)
        return -ENOMEM;
    dead->changes = changes;
    dead->change_cap = cap;
    return 0;
}

static void note(struct eb_deadlist *dead, struct eb_dead d, int added)
{
    dead->changes[dead->change_count++] = (struct eb_deadlist_change){d, added};
}

void eb_deadlist_begin(struct eb_deadlist *dead)
{
    dead->change_count = 0;
}

/* What was dropped finds the room that it had, and what was added goes: nothing here needs memory. */
void eb_deadlist_undo(struct eb_deadlist *dead)
{
    while (dead->change_count) {
        const struct eb_deadlist_change *c = &dead->changes[--dead->change_count];
        size_t at = place_of(dead, c->dead.consumer, c->dead.seq);
        if (c->added)
            take_out(dead, at);
        else
            insert(dead, at, c->dead);
    }
}

int eb_deadlist_add(struct eb_deadlist *dead, uint64_t consumer, uint64_t seq)
{
    struct eb_dead d = {consumer, seq};
    size_t at = place_of(dead, consumer, seq);

    if (there(dead, at, consumer, seq))
        return 0;
    if (note_room(dead) < 0 || insert(dead, at, d) < 0)
        return -ENOMEM;
    note(dead, d, 1);
    return 0;
}

int eb_deadlist_drop(struct eb_deadlist *dead, uint64_t consumer, uint64_t seq)
{
    size_t at = place_of(dead, consumer, seq);

    if (!there(dead, at, consumer, seq))
        return 0;
    if (note_room(dead) < 0)
        return -ENOMEM;
    note(dead, dead->list[at], 0);
    take_out(dead, at);
    return 0;
}

int eb_deadlist_clear(struct eb_deadlist *dead, uint64_t consumer)
{
    size_t from = place_of(dead, consumer, 0), to = from;

    for (; to < dead->count && dead->list[to].consumer == consumer; to++) {
        if (note_room(dead) < 0) {
            dead->change_count -= to - from; /* nothing was taken out yet */
            return -ENOMEM;
        }
        note(dead, dead->list[to], 0);
    }
    if (from == to) /* maybe there is no list at all */
        return 0;
    memmove(&dead->list[from], &dead->list[to], (dead->count - to) * sizeof(*dead->list));
    dead->count -= to - from;
    return 0;
}

size_t eb_deadlist_read(const struct eb_deadlist *dead, uint64_t consumer, uint64_t after,
                        uint64_t *ret, size_t max)
{
    size_t count = 0;

    for (size_t at = place_of(dead, consumer, after + 1);
         count < max && at < dead->count && dead->list[at].consumer == consumer; at++)
        ret[count++] = dead->list[at].seq;
    return count;
}
