/*
 * known.c - what the dispatcher has just heard from the topic table, by topic: most events need no more than this.
 *
 * (N1) That nobody wants a topic stays true until a pattern is added (eb_table_added): who leaves takes nobody in. It
 *      holds no reference to anything, so it may be remembered for as long as that.
 * (N2) That somebody wants it is remembered as the group of the events gathered now (dispatch.c, D4), which holds the
 *      references, and is forgotten with it: what stays longer would hold subscriptions that have left (table.c, T2).
 * (N3) A topic has one place, by its hash, and the last one there wins. A hash without a secret will do: who makes
 *      topics meet has made each of them cost one look into the table.
 * (N4) Topics are compared by name: ids are the store's, may be given again, and with storage = memory there are none.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/internal.h"

#define PLACES    1024 /* 64 KiB, of which those in use are touched */
#define TOPIC_MAX 51   /* longer ones are not remembered */

struct place {
    uint64_t until; /* N1: eb_table_added then; N2: the round of the group */
    uint16_t group;
    bool wanted;
    uint8_t len; /* 0: empty */
    char topic[TOPIC_MAX + 1];
};
_Static_assert(sizeof(struct place) == 64, "a place is as large as a line of the cache");

struct eb_known {
    uint64_t round;
    struct place places[PLACES];
};

int eb_known_create(struct eb_known **ret)
{
    *ret = calloc(1, sizeof(**ret));
    return *ret != NULL ? 0 : -ENOMEM;
}

void eb_known_destroy(struct eb_known *known)
{
    free(known);
}

static uint64_t mix(uint64_t hash, uint64_t word)
{
    return (hash ^ word ^ hash >> 29) * 0x9e3779b97f4a7c15u;
}

static struct place *place_of(struct eb_known *known, const char *topic, size_t len)
{
    uint64_t hash = len, word = 0;
    size_t at = 0;
    for (; len - at >= sizeof(word); at += sizeof(word)) {
        memcpy(&word, topic + at, sizeof(word));
        hash = mix(hash, word);
    }
    for (word = 0; at < len; at++)
        word = word << 8 | (unsigned char)topic[at];
    return &known->places[mix(hash, word) >> 32 & (PLACES - 1)];
}

int eb_known_find(struct eb_known *known, uint64_t added, const char *topic, size_t len)
{
    const struct place *place = place_of(known, topic, len);
    if (place->len != len || memcmp(place->topic, topic, len) != 0)
        return EB_KNOWN_NOT;
    if (place->wanted)
        return place->until == known->round ? place->group : EB_KNOWN_NOT;
    return place->until == added ? EB_KNOWN_NOBODY : EB_KNOWN_NOT;
}

void eb_known_put(struct eb_known *known, uint64_t added, const char *topic, size_t len, int group)
{
    if (len > TOPIC_MAX)
        return;
    struct place *place = place_of(known, topic, len);
    place->wanted = group != EB_KNOWN_NOBODY;
    place->until = place->wanted ? known->round : added;
    place->group = place->wanted ? (uint16_t)group : 0;
    place->len = (uint8_t)len;
    memcpy(place->topic, topic, len);
}

void eb_known_next_round(struct eb_known *known)
{
    known->round++;
}
