/*
 * topicset.h - the topics of the events in the ring, counted and in byte order: a treap.
 *
 * A topic is there as long as an event has it, so that a flood of topics is bounded by the ring.
 * Not thread-safe: guarded by the memory engine's lock.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

struct eb_topic_node {
    struct eb_topic_node *left, *right;
    uint32_t weight; /* heap order: a parent's is not below its children's */
    uint32_t events;
    uint64_t last;                         /* the user's: its last seq */
    struct eb_topic_node *older, *younger; /* the user's: a list of its own */
    uint8_t len;
    char name[];
};

struct eb_topicset {
    struct eb_topic_node *root;
    uint64_t count;
    uint32_t random;
};

/** The topic with one event more; NULL when out of memory. It lives until that event is dropped. */
struct eb_topic_node *eb_topicset_add(struct eb_topicset *set, const char *name, size_t len);
struct eb_topic_node *eb_topicset_find(const struct eb_topicset *set, const char *name, size_t len);
/** One event less; the last one takes the topic with it. */
void eb_topicset_drop(struct eb_topicset *set, struct eb_topic_node *node);
/** The first topic behind @after in byte order (NULL: the first of all); NULL at the end. */
const struct eb_topic_node *eb_topicset_next(const struct eb_topicset *set, const char *after,
                                             size_t len);
