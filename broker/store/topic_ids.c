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

static uint32_t hash_of(const char *name, size_t len)
{
    uint32_t hash = 2166136261u;

    for (size_t i = 0; i < len; i++)
        hash = (hash ^ (unsigned char)name[i]) * 16777619u;
    return hash ^ hash >> 15;
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
        if (set[w].name && set[w].hash == hash && set[w].len == len &&
            memcmp(set[w].name, name, len) == 0)
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
