/*
 * table.c - who wants a topic: patterns in a tree by words, and a bounded cache of answers.
 *
 *   first word --hash--> shard 0..15       patterns that begin with '*' or '#' --> shard 16
 *   shard: tree of words (literal children in one hash table keyed by parent and word, '*' and '#' by pointer)
 *          cache: topic -> immutable array of subscriptions
 *
 * (T1) The tree is walked as a set of places, a word at a time; a place is in the set once (`stamp`). So an
 *      uncached topic costs (words x places alive), whatever the number of '#', and not the number of patterns.
 * (T2) A match array is never changed. Whoever adds or removes a pattern throws the shard's whole cache away
 *      under the lock and frees it after. Why not by generation: a stale array for a topic that never comes
 *      again would hold its subscriptions, and with them closed sessions, for ever. It costs no more than it
 *      cost to fill.
 * (T3) A cache that is full is thrown away too: a flood of topics stays bounded, also where each answer is
 *      long, and what is hot is back at the price of one walk.
 * (T4) References are dropped outside the lock: the last one of a session runs its transport's destroy.
 * (T5) Hashes are keyed by a secret of this table: words and topics are chosen by clients.
 * (T6) Topics with the same answer share one match array, so whoever has two can tell by the pointer that they
 *      are for the same subscriptions, and the arrays need room by their number and not by that of the topics.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "broker/bus/internal.h"
#include "common/clock.h"

/* Bounds of a shard's cache: topics, and the pointers in their answers. */
#define CACHE_TOPICS        8192
#define CACHE_TOPICS_WILD   32768
#define CACHE_POINTERS      ((size_t)128 << 10)
#define CACHE_POINTERS_WILD ((size_t)1 << 20)

struct eb_node {
    struct eb_node *chain; /* in the shard's table of literal children */
    struct eb_node *parent;
    struct eb_node *star, *any; /* children '*' and '#' */
    struct eb_entry *entries;   /* patterns that end here */
    uint64_t stamp;             /* (T1) */
    uint64_t hash;
    uint32_t children;
    bool is_any; /* this node is a '#': it stays for every further word */
    uint8_t len;
    char word[];
};

struct cached {
    struct cached *chain;
    uint64_t hash;
    struct eb_match *match; /* one reference; NULL: nobody wants it */
    uint8_t len;
    char topic[];
};

struct cache {
    struct cached **buckets;
    struct eb_match *
        *kinds;         /* the different answers, by their contents (T6); held by their topics */
    size_t size, count; /* size, of both tables, is a power of two */
    size_t pointers;    /* in all different answers */
};

struct node_set {
    struct eb_node **nodes;
    size_t count, cap;
};

struct shard {
    struct eb_lock lock; /* EB_RANK_SHARD: all below */
    struct eb_node *root;
    struct eb_node **table;
    size_t table_size, nodes, entries;
    struct cache cache;
    size_t max_topics, max_pointers;
    uint64_t stamp;
    struct node_set now, then;
};

struct eb_table {
    struct eb_bus *bus;
    uint64_t secret[2];
    atomic_size_t patterns; /* in the trees, or on their way */
    uint64_t added;         /* [C] */
    struct shard shards[EB_SHARDS + 1];
};

/* ---- hashing (T5) ---- */

static uint64_t mix(uint64_t a, uint64_t b)
{
    __uint128_t wide = (__uint128_t)a * b;
    return (uint64_t)wide ^ (uint64_t)(wide >> 64);
}

static uint64_t hash_bytes(const struct eb_table *table, uint64_t seed, const char *data,
                           size_t len)
{
    uint64_t hash = table->secret[0] ^ mix(seed ^ 0x9e3779b97f4a7c15u, table->secret[1]);
    while (len >= 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        hash = mix(hash ^ word, table->secret[1] ^ 0xbf58476d1ce4e5b9u);
        data += 8;
        len -= 8;
    }
    uint64_t rest = len;
    for (size_t i = 0; i < len; i++)
        rest = rest << 8 | (unsigned char)data[i];
    return mix(hash ^ rest, table->secret[1] ^ 0x94d049bb133111ebu);
}

static struct shard *shard_of(struct eb_table *table, const char *text, size_t len)
{
    return &table->shards[hash_bytes(table, 0, text, eb_first_word(text, len)) % EB_SHARDS];
}

/* ---- match arrays and the cache ---- */

void eb_match_unref(struct eb_match *match)
{
    if (match == NULL || atomic_fetch_sub_explicit(&match->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (uint32_t i = 0; i < match->count; i++)
        eb_sub_unref(match->subs[i]);
    free(match);
}

static struct cache cache_steal(struct shard *shard)
{
    struct cache old = shard->cache;
    shard->cache = (struct cache){0};
    return old;
}

/* No lock held (T4). */
static void cache_free(struct cache *cache)
{
    for (size_t i = 0; i < cache->size; i++) {
        for (struct cached *next, *item = cache->buckets[i]; item != NULL; item = next) {
            next = item->chain;
            eb_match_unref(item->match);
            free(item);
        }
    }
    free(cache->buckets);
    free(cache->kinds);
}

static struct cached *cache_find(const struct cache *cache, uint64_t hash, const char *topic,
                                 size_t len)
{
    if (cache->size == 0)
        return NULL;
    for (struct cached *item = cache->buckets[hash & (cache->size - 1)]; item != NULL;
         item = item->chain) {
        if (item->hash == hash && item->len == len && memcmp(item->topic, topic, len) == 0)
            return item;
    }
    return NULL;
}

static bool cache_grow(struct cache *cache)
{
    size_t size = cache->size != 0 ? cache->size * 2 : 64;
    struct cached **buckets = calloc(size, sizeof(struct cached *));
    struct eb_match **kinds = calloc(size, sizeof(struct eb_match *));
    if (buckets == NULL || kinds == NULL) {
        free(buckets);
        free(kinds);
        return false;
    }
    for (size_t i = 0; i < cache->size; i++) {
        for (struct cached *next, *item = cache->buckets[i]; item != NULL; item = next) {
            next = item->chain;
            item->chain = buckets[item->hash & (size - 1)];
            buckets[item->hash & (size - 1)] = item;
        }
    }
    for (size_t i = 0; i < cache->size; i++) {
        for (struct eb_match *next, *match = cache->kinds[i]; match != NULL; match = next) {
            next = match->chain;
            match->chain = kinds[match->hash & (size - 1)];
            kinds[match->hash & (size - 1)] = match;
        }
    }
    free(cache->buckets);
    free(cache->kinds);
    cache->buckets = buckets;
    cache->kinds = kinds;
    cache->size = size;
    return true;
}

/* Remember an answer. Without memory it is not remembered, which is no harm. */
static void cache_put(struct cache *cache, uint64_t hash, const char *topic, size_t len,
                      struct eb_match *match)
{
    if (cache->count >= cache->size && !cache_grow(cache) && cache->size == 0)
        return;
    struct cached *item = malloc(sizeof(*item) + len);
    if (item == NULL)
        return;
    item->hash = hash;
    item->len = (uint8_t)len;
    memcpy(item->topic, topic, len);
    item->match = match;
    if (match != NULL)
        atomic_fetch_add_explicit(&match->refs, 1, memory_order_relaxed);
    if (match != NULL && !match->listed) {
        match->listed = true;
        match->chain = cache->kinds[match->hash & (cache->size - 1)];
        cache->kinds[match->hash & (cache->size - 1)] = match;
        cache->pointers += match->count;
    }
    item->chain = cache->buckets[hash & (cache->size - 1)];
    cache->buckets[hash & (cache->size - 1)] = item;
    cache->count++;
}

/* ---- the tree ---- */

static struct eb_node *node_find(const struct eb_table *table, const struct shard *shard,
                                 const struct eb_node *parent, const char *word, size_t len)
{
    if (shard->table_size == 0)
        return NULL;
    uint64_t hash = hash_bytes(table, (uintptr_t)parent, word, len);
    for (struct eb_node *node = shard->table[hash & (shard->table_size - 1)]; node != NULL;
         node = node->chain) {
        if (node->hash == hash && node->parent == parent && node->len == len &&
            memcmp(node->word, word, len) == 0)
            return node;
    }
    return NULL;
}

static bool nodes_grow(struct shard *shard)
{
    size_t size = shard->table_size != 0 ? shard->table_size * 2 : 64;
    struct eb_node **table = calloc(size, sizeof(struct eb_node *));
    if (table == NULL)
        return false;
    for (size_t i = 0; i < shard->table_size; i++) {
        for (struct eb_node *next, *node = shard->table[i]; node != NULL; node = next) {
            next = node->chain;
            node->chain = table[node->hash & (size - 1)];
            table[node->hash & (size - 1)] = node;
        }
    }
    free(shard->table);
    shard->table = table;
    shard->table_size = size;
    return true;
}

static bool is_word(const char *word, size_t len, char sign)
{
    return len == 1 && word[0] == sign;
}

/* Where the tree keeps the child for a wildcard word, NULL for a literal one. */
static struct eb_node **wild_place(struct eb_node *parent, const char *word, size_t len)
{
    if (is_word(word, len, '*'))
        return &parent->star;
    return is_word(word, len, '#') ? &parent->any : NULL;
}

static struct eb_node *node_get(struct eb_table *table, struct shard *shard, struct eb_node *parent,
                                const char *word, size_t len)
{
    struct eb_node **wild = wild_place(parent, word, len);
    struct eb_node *node = wild != NULL ? *wild : node_find(table, shard, parent, word, len);
    if (node != NULL)
        return node;
    if (wild == NULL && shard->nodes >= shard->table_size && !nodes_grow(shard) &&
        shard->table_size == 0)
        return NULL;
    node = calloc(1, sizeof(*node) + len);
    if (node == NULL)
        return NULL;
    node->parent = parent;
    node->len = (uint8_t)len;
    memcpy(node->word, word, len);
    if (wild != NULL) {
        node->is_any = word[0] == '#';
        *wild = node;
    } else {
        node->hash = hash_bytes(table, (uintptr_t)parent, word, len);
        node->chain = shard->table[node->hash & (shard->table_size - 1)];
        shard->table[node->hash & (shard->table_size - 1)] = node;
        shard->nodes++;
    }
    parent->children++;
    return node;
}

/* Take off what nothing stands on any more, from the leaf to the root. */
static void node_prune(struct shard *shard, struct eb_node *node)
{
    while (node->parent != NULL && node->entries == NULL && node->children == 0) {
        struct eb_node *parent = node->parent;
        struct eb_node **place = wild_place(parent, node->word, node->len);
        if (place == NULL) {
            place = &shard->table[node->hash & (shard->table_size - 1)];
            while (*place != node)
                place = &(*place)->chain;
            *place = node->chain;
            shard->nodes--;
        } else {
            *place = NULL;
        }
        parent->children--;
        free(node);
        node = parent;
    }
}

static int entry_add(struct eb_table *table, struct shard *shard, struct eb_entry *entry)
{
    struct eb_node *node = shard->root;
    const char *at = entry->pattern.text, *end = at + entry->pattern.len;
    while (at < end) {
        size_t len = eb_first_word(at, (size_t)(end - at));
        struct eb_node *child = node_get(table, shard, node, at, len);
        if (child == NULL) {
            node_prune(shard, node);
            return -ENOMEM;
        }
        node = child;
        at += len + 1;
    }
    entry->node = node;
    entry->prev = NULL;
    entry->next = node->entries;
    if (node->entries != NULL)
        node->entries->prev = entry;
    node->entries = entry;
    shard->entries++;
    return 0;
}

static void entry_remove(struct shard *shard, struct eb_entry *entry)
{
    struct eb_node *node = entry->node;
    if (entry->prev != NULL)
        entry->prev->next = entry->next;
    else
        node->entries = entry->next;
    if (entry->next != NULL)
        entry->next->prev = entry->prev;
    entry->node = NULL;
    shard->entries--;
    node_prune(shard, node);
}

static struct shard *entry_shard(struct eb_table *table, const struct eb_entry *entry)
{
    if (entry->pattern.lead_hash)
        return &table->shards[EB_SHARDS];
    return shard_of(table, entry->pattern.text, entry->pattern.len);
}

static void remove_first(struct eb_table *table, struct eb_sub *sub, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++) {
        struct shard *shard = entry_shard(table, &sub->entries[i]);
        eb_lock_take(&shard->lock);
        entry_remove(shard, &sub->entries[i]);
        struct cache old = cache_steal(shard);
        eb_lock_drop(&shard->lock);
        cache_free(&old);
    }
    atomic_fetch_sub_explicit(&table->patterns, count, memory_order_relaxed);
}

int eb_table_add(struct eb_table *table, struct eb_sub *sub)
{
    table->added++;
    atomic_fetch_add_explicit(&table->patterns, sub->count, memory_order_relaxed);
    for (uint32_t i = 0; i < sub->count; i++) {
        struct shard *shard = entry_shard(table, &sub->entries[i]);
        eb_lock_take(&shard->lock);
        int rc = entry_add(table, shard, &sub->entries[i]);
        struct cache old = cache_steal(shard);
        eb_lock_drop(&shard->lock);
        cache_free(&old);
        if (rc < 0) {
            atomic_fetch_sub_explicit(&table->patterns, sub->count - i, memory_order_relaxed);
            remove_first(table, sub, i);
            return rc;
        }
    }
    eb_sub_ref(sub);
    return 0;
}

void eb_table_remove(struct eb_table *table, struct eb_sub *sub)
{
    remove_first(table, sub, sub->count);
    eb_sub_unref(sub);
}

/* ---- matching ---- */

static bool set_room(struct node_set *set, size_t more)
{
    if (set->count + more <= set->cap)
        return true;
    size_t cap = set->cap != 0 ? set->cap * 2 : 32;
    struct eb_node **nodes = realloc(set->nodes, cap * sizeof(struct eb_node *));
    if (nodes == NULL)
        return false;
    set->nodes = nodes;
    set->cap = cap;
    return true;
}

/* A place and what is reached from it without a word: a '#' stands for zero words too. */
static bool set_add(struct shard *shard, struct node_set *set, struct eb_node *node)
{
    for (; node != NULL && node->stamp != shard->stamp; node = node->any) {
        if (!set_room(set, 1))
            return false;
        node->stamp = shard->stamp;
        set->nodes[set->count++] = node;
    }
    return true;
}

/* (T1) Leaves the places where the whole topic ends in shard->now. */
static bool walk_locked(struct eb_table *table, struct shard *shard, const char *topic, size_t len)
{
    const char *at = topic, *end = topic + len;
    shard->now.count = 0;
    shard->stamp++;
    if (!set_add(shard, &shard->now, shard->root))
        return false;
    while (at < end && shard->now.count > 0) {
        size_t word = eb_first_word(at, (size_t)(end - at));
        shard->then.count = 0;
        shard->stamp++;
        for (size_t i = 0; i < shard->now.count; i++) {
            struct eb_node *node = shard->now.nodes[i];
            struct eb_node *literal =
                node->children != 0 ? node_find(table, shard, node, at, word) : NULL;
            if ((node->is_any && !set_add(shard, &shard->then, node)) ||
                !set_add(shard, &shard->then, literal) || !set_add(shard, &shard->then, node->star))
                return false;
        }
        struct node_set swap = shard->now;
        shard->now = shard->then;
        shard->then = swap;
        at += word + 1;
    }
    return true;
}

/* One that the cache has with the same contents (T6), with a reference, or NULL. */
static struct eb_match *same_match(const struct cache *cache, const struct eb_match *like)
{
    if (cache->size == 0)
        return NULL;
    for (struct eb_match *match = cache->kinds[like->hash & (cache->size - 1)]; match != NULL;
         match = match->chain) {
        if (match->hash == like->hash && match->count == like->count &&
            memcmp(match->subs, like->subs, like->count * sizeof(like->subs[0])) == 0) {
            atomic_fetch_add_explicit(&match->refs, 1, memory_order_relaxed);
            return match;
        }
    }
    return NULL;
}

static int match_locked(struct eb_table *table, struct shard *shard, const char *topic, size_t len,
                        struct eb_match **ret)
{
    if (!walk_locked(table, shard, topic, len))
        return -ENOMEM;
    size_t count = 0;
    for (size_t i = 0; i < shard->now.count; i++) {
        for (struct eb_entry *entry = shard->now.nodes[i]->entries; entry != NULL;
             entry = entry->next)
            count++;
    }
    if (count == 0) {
        *ret = NULL;
        return 0;
    }
    struct eb_match *match = malloc(sizeof(*match) + count * sizeof(match->subs[0]));
    if (match == NULL)
        return -ENOMEM;
    *match = (struct eb_match){.hash = 0};
    for (size_t i = 0; i < shard->now.count; i++) {
        for (struct eb_entry *entry = shard->now.nodes[i]->entries; entry != NULL;
             entry = entry->next) {
            match->hash = mix(match->hash ^ (uintptr_t)entry->sub, table->secret[1]);
            match->subs[match->count++] = entry->sub;
        }
    }
    *ret = same_match(&shard->cache, match);
    if (*ret != NULL) {
        free(match);
        return 0;
    }
    for (uint32_t i = 0; i < match->count; i++)
        eb_sub_ref(match->subs[i]);
    atomic_init(&match->refs, 1);
    *ret = match;
    return 0;
}

int eb_table_match(struct eb_table *table, bool wild, const char *topic, size_t len,
                   struct eb_match **ret)
{
    struct shard *shard = wild ? &table->shards[EB_SHARDS] : shard_of(table, topic, len);
    struct eb_match *match = NULL;
    struct cache old = {0};
    int rc = 0;

    /* A leading wildcard reaches neither the broker's own topics nor the hidden ones (PROTOCOL 1). */
    if (wild && (topic[0] == '$' || topic[0] == '_')) {
        *ret = NULL;
        return 0;
    }
    uint64_t hash = hash_bytes(table, 1, topic, len);
    eb_lock_take(&shard->lock);
    struct cached *found = cache_find(&shard->cache, hash, topic, len);
    bool hit = found != NULL;
    if (hit) {
        match = found->match;
        if (match != NULL)
            atomic_fetch_add_explicit(&match->refs, 1, memory_order_relaxed);
    } else if (shard->entries > 0) { /* an empty shard remembers nothing */
        if (shard->cache.count >= shard->max_topics || shard->cache.pointers >= shard->max_pointers)
            old = cache_steal(shard);
        rc = match_locked(table, shard, topic, len, &match);
        if (rc == 0)
            cache_put(&shard->cache, hash, topic, len, match);
    }
    eb_lock_drop(&shard->lock);
    cache_free(&old);
    if (hit)
        eb_count(table->bus->counters.match_hits, 1);
    else
        eb_count(table->bus->counters.match_misses, 1);
    if (rc == 0)
        *ret = match;
    return rc;
}

bool eb_table_empty(const struct eb_table *table)
{
    return atomic_load_explicit(&table->patterns, memory_order_relaxed) == 0;
}

uint64_t eb_table_added(const struct eb_table *table)
{
    return table->added;
}

size_t eb_table_cached(struct eb_table *table, size_t *ret_pointers)
{
    size_t count = 0, pointers = 0;
    for (size_t i = 0; i <= EB_SHARDS; i++) {
        eb_lock_take(&table->shards[i].lock);
        count += table->shards[i].cache.count;
        pointers += table->shards[i].cache.pointers;
        eb_lock_drop(&table->shards[i].lock);
    }
    *ret_pointers = pointers;
    return count;
}

/* ---- life ---- */

int eb_table_create(struct eb_bus *bus, struct eb_table **ret)
{
    struct eb_table *table = calloc(1, sizeof(*table));
    if (table == NULL)
        return -ENOMEM;
    table->bus = bus;
    if (getrandom(table->secret, sizeof(table->secret), 0) != (ssize_t)sizeof(table->secret))
        table->secret[0] = (uint64_t)eb_mono_us() ^ (uintptr_t)table;
    table->secret[1] |= 1;
    for (size_t i = 0; i <= EB_SHARDS; i++)
        eb_lock_init(&table->shards[i].lock, EB_RANK_SHARD);
    for (size_t i = 0; i <= EB_SHARDS; i++) {
        struct shard *shard = &table->shards[i];
        shard->max_topics = i == EB_SHARDS ? CACHE_TOPICS_WILD : CACHE_TOPICS;
        shard->max_pointers = i == EB_SHARDS ? CACHE_POINTERS_WILD : CACHE_POINTERS;
        shard->root = calloc(1, sizeof(struct eb_node));
        if (shard->root == NULL) {
            eb_table_destroy(table);
            return -ENOMEM;
        }
    }
    *ret = table;
    return 0;
}

/* Every subscription has left by then. */
void eb_table_destroy(struct eb_table *table)
{
    if (table == NULL)
        return;
    for (size_t i = 0; i <= EB_SHARDS; i++) {
        struct shard *shard = &table->shards[i];
        cache_free(&shard->cache);
        free(shard->table);
        free(shard->root);
        free(shard->now.nodes);
        free(shard->then.nodes);
        eb_lock_finish(&shard->lock);
    }
    free(table);
}
