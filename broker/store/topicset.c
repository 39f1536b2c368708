/* topicset.c - topics in byte order, counted (topicset.h). Depth is logarithmic whatever the names are. */
#include "broker/store/topicset.h"

#include <stdlib.h>
#include <string.h>

static int compare(const char *a, size_t a_len, const char *b, size_t b_len)
{
    int order = memcmp(a, b, a_len < b_len ? a_len : b_len);
    if (order)
        return order;
    return a_len < b_len ? -1 : a_len > b_len;
}

static uint32_t next_random(struct eb_topicset *set)
{
    uint32_t x = set->random ? set->random : 2463534242u;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return set->random = x;
}

/* Names below @name go to *left, those above to *right; @name itself is not in the tree. */
static void split(struct eb_topic_node *node, const char *name, size_t len,
                  struct eb_topic_node **left, struct eb_topic_node **right)
{
    while (node) {
        if (compare(node->name, node->len, name, len) < 0) {
            *left = node;
            left = &node->right;
            node = node->right;
        } else {
            *right = node;
            right = &node->left;
            node = node->left;
        }
    }
    *left = *right = NULL;
}

struct eb_topic_node *eb_topicset_find(const struct eb_topicset *set, const char *name, size_t len)
{
    for (struct eb_topic_node *node = set->root; node;) {
        int order = compare(name, len, node->name, node->len);
        if (order == 0)
            return node;
        node = order < 0 ? node->left : node->right;
    }
    return NULL;
}

struct eb_topic_node *eb_topicset_add(struct eb_topicset *set, const char *name, size_t len)
{
    struct eb_topic_node *found = eb_topicset_find(set, name, len);
    if (found) {
        found->events++;
        return found;
    }
    struct eb_topic_node *added = malloc(sizeof *added + len + 1);
    if (!added)
        return NULL;
    added->last = 0;
    added->older = added->younger = NULL;
    added->weight = next_random(set);
    added->events = 1;
    added->len = (uint8_t)len;
    memcpy(added->name, name, len);
    added->name[len] = '\0';
    struct eb_topic_node **at = &set->root;
    while (*at && (*at)->weight >= added->weight)
        at = compare(name, len, (*at)->name, (*at)->len) < 0 ? &(*at)->left : &(*at)->right;
    split(*at, name, len, &added->left, &added->right);
    *at = added;
    set->count++;
    return added;
}

void eb_topicset_drop(struct eb_topicset *set, struct eb_topic_node *node)
{
    if (--node->events)
        return;
    struct eb_topic_node **at = &set->root;
    while (*at != node)
        at = compare(node->name, node->len, (*at)->name, (*at)->len) < 0 ? &(*at)->left
                                                                         : &(*at)->right;
    struct eb_topic_node *left = node->left, *right = node->right;
    while (left && right) { /* join the two: the heavier one leads */
        if (left->weight >= right->weight) {
            *at = left;
            at = &left->right;
            left = left->right;
        } else {
            *at = right;
            at = &right->left;
            right = right->left;
        }
    }
    *at = left ? left : right;
    free(node);
    set->count--;
}

const struct eb_topic_node *eb_topicset_next(const struct eb_topicset *set, const char *after,
                                             size_t len)
{
    const struct eb_topic_node *best = NULL;
    for (const struct eb_topic_node *node = set->root; node;) {
        if (!after || compare(node->name, node->len, after, len) > 0) {
            best = node;
            node = node->left;
        } else {
            node = node->right;
        }
    }
    return best;
}
