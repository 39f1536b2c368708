/*
 * topic_ids.c - the writer's memory of topics, their ids and last seqs: a cache of fixed size, so that a flood of
 * topics costs look-ups in the file and not memory. Sets of four; a newcomer takes the place that was taken longest
 * ago.
 */
#include <stdlib.h>
#include <string.h>

#include "broker/store/sqlite_internal.h"

#define SETS 4096
#define WAYS 4

struct entry {
    struct eb_topic_known known;
    uint32_t hash;
    uint8_t len;
    char *name; /* NULL: free */
};

struct eb_topic_ids {
    struct entry entries[SETS][WAYS];
    uint8_t oldest[SETS];
};

static inline uint64_t eight(const char *at)
{
    uint64_t bytes;

    memcpy(&bytes, at, sizeof(bytes));
    return bytes;
}

/* The last eight bytes of a name, or all of it: no two names below eight bytes have the same and are of one length. */
static inline uint64_t tail_of(const char *name, size_t len)
{
    const unsigned char *at = (const unsigned char *)name;
    uint32_t first, last;

    if (len >= 8)
        return eight(name + len - 8);
    if (len < 4)
        return len ? at[0] | at[len / 2] << 8 | at[len - 1] << 16 : 0;
    memcpy(&first, name, sizeof(first));
    memcpy(&last, name + len - 4, sizeof(last));
    return first | (uint64_t)last << 32;
}

/* Names are short, and each event's is looked up: eight bytes at a time. */
static inline uint32_t hash_of(const char *name, size_t len)
{
    uint64_t hash = len;

    for (size_t at = 0; at + 8 < len; at += 8) {
        hash = (hash ^ eight(name + at)) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 32;
    }
    hash = (hash ^ tail_of(name, len)) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(hash >> 32) ^ (uint32_t)(hash >> 15);
}

static inline bool same(const char *a, const char *b, size_t len)
{
    for (size_t at = 0; at + 8 < len; at += 8)
        if (eight(a + at) != eight(b + at))
            return false;
    return tail_of(a, len) == tail_of(b, len);
}

struct eb_topic_ids *eb_topic_ids_create(void)
{
    return calloc(1, sizeof(struct eb_topic_ids));
}

void eb_topic_ids_clear(struct eb_topic_ids *ids)
{
    for (unsigned s = 0; s < SETS; s++)
        for (unsigned w = 0; w < WAYS; w++)
            free(ids->entries[s][w].name);
    memset(ids, 0, sizeof(*ids));
}

void eb_topic_ids_destroy(struct eb_topic_ids *ids)
{
    if (!ids)
        return;
    eb_topic_ids_clear(ids);
    free(ids);
}

static struct entry *find(struct eb_topic_ids *ids, const char *name, size_t len)
{
    uint32_t hash = hash_of(name, len);
    struct entry *set = ids->entries[hash % SETS];

    for (unsigned w = 0; w < WAYS; w++)
        if (set[w].name && set[w].hash == hash && set[w].len == len && same(set[w].name, name, len))
            return &set[w];
    return NULL;
}

struct eb_topic_known *eb_topic_ids_get(struct eb_topic_ids *ids, const char *name, size_t len)
{
    struct entry *entry = find(ids, name, len);

    return entry ? &entry->known : NULL;
}

void eb_topic_ids_drop(struct eb_topic_ids *ids, const char *name, size_t len)
{
    struct entry *entry = find(ids, name, len);

    if (!entry)
        return;
    free(entry->name);
    *entry = (struct entry){.name = NULL};
}

void eb_topic_ids_put(struct eb_topic_ids *ids, const char *name, size_t len,
                      struct eb_topic_known known)
{
    uint32_t hash = hash_of(name, len);
    struct entry *entry = &ids->entries[hash % SETS][ids->oldest[hash % SETS]++ % WAYS];
    char *copy = malloc(len);

    if (!copy)
        return; /* only a cache */
    memcpy(copy, name, len);
    free(entry->name);
    *entry = (struct entry){.known = known, .hash = hash, .len = (uint8_t)len, .name = copy};
}
