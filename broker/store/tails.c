/*
 * tails.c - the topics of the events of a group that is being built: which of them is a topic's last?
 *
 * An open hash table of places in group->fresh; before[i] is the place it took over from. What is taken back goes in the
 * reverse order, which undoes each step exactly and leaves no hole in a probe's way. Filled only when somebody asks.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/internal.h"

#define START_SLOTS 256u

static uint64_t mix(uint64_t hash, uint64_t word)
{
    return (hash ^ word ^ hash >> 29) * 0x9e3779b97f4a7c15u;
}

/* @key is secret: clients choose the topics. */
static uint64_t hash_of(uint64_t key, const char *topic, size_t len)
{
    uint64_t hash = mix(key, len), word;

    for (; len >= 8; topic += 8, len -= 8) {
        memcpy(&word, topic, 8);
        hash = mix(hash, word);
    }
    word = 0;
    memcpy(&word, topic, len);
    hash = mix(hash, word);
    return hash ^ hash >> 32;
}

/* The slot of the topic, or the empty one where it would be. */
static uint32_t *slot_of(const struct eb_group *group, const char *topic, size_t len)
{
    const struct eb_tails *tails = &group->tails;
    uint64_t at = hash_of(tails->key, topic, len);

    for (;; at++) {
        uint32_t *slot = &tails->slots[at & (tails->cap - 1)];
        if (!*slot)
            return slot;
        const struct eb_event *event = group->fresh[*slot - 1];
        if (event->topic_len == len && memcmp(event->topic, topic, len) == 0)
            return slot;
    }
}

static void take_in(struct eb_group *group)
{
    struct eb_tails *tails = &group->tails;

    for (; tails->known < group->count; tails->known++) {
        const struct eb_event *event = group->fresh[tails->known];
        uint32_t *slot = slot_of(group, event->topic, event->topic_len);
        tails->before[tails->known] = *slot;
        *slot = (uint32_t)tails->known + 1;
    }
}

static int reserve(struct eb_group *group)
{
    struct eb_tails *tails = &group->tails;
    uint32_t cap = tails->cap ? tails->cap : START_SLOTS;

    while (cap < 2 * (uint64_t)group->count)
        cap *= 2;
    if (cap == tails->cap)
        return 0;
    uint32_t *slots = calloc(cap, sizeof(*slots));
    uint32_t *before = malloc(cap / 2 * sizeof(*before));
    if (!slots || !before) {
        free(slots);
        free(before);
        return -ENOMEM;
    }
    free(tails->slots);
    free(tails->before);
    *tails = (struct eb_tails){.slots = slots, .before = before, .cap = cap, .key = tails->key};
    return 0;
}

int eb_tails_find(struct eb_group *group, const char *topic, size_t len, uint64_t *ret)
{
    int rc = reserve(group);

    if (rc < 0)
        return rc;
    take_in(group);
    uint32_t slot = *slot_of(group, topic, len);
    *ret = slot ? group->base + slot : 0;
    return 0;
}

void eb_tails_cut(struct eb_group *group, size_t count)
{
    struct eb_tails *tails = &group->tails;

    while (tails->known > count) {
        const struct eb_event *event = group->fresh[tails->known - 1];
        *slot_of(group, event->topic, event->topic_len) = tails->before[tails->known - 1];
        tails->known--;
    }
}

void eb_tails_clear(struct eb_group *group)
{
    struct eb_tails *tails = &group->tails;

    if (!tails->known)
        return;
    memset(tails->slots, 0, tails->cap * sizeof(*tails->slots));
    tails->known = 0;
}

void eb_tails_finish(struct eb_group *group)
{
    free(group->tails.slots);
    free(group->tails.before);
}
