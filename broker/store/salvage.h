/*
 * salvage.h - which rows of the log are whole, in pages that may not be.
 *
 * A row is whole when its cell, its overflow pages and its record can be read and its CRC32C matches with a
 * name that its topic's id has somewhere in the file. Nothing else is ever taken for an event.
 */
#pragma once

#include <stddef.h>

#include "broker/store/btree.h"
#include "broker/store/row.h"

/** What a record's serial types say of the table it can only be from. */
enum eb_shape {
    EB_SHAPE_NONE,
    EB_SHAPE_LOG,
    EB_SHAPE_TOPIC,
    EB_SHAPE_ACKED,
    EB_SHAPE_SEGMENT,
    EB_SHAPE_IDS,
    EB_SHAPE_CONSUMER,
    EB_SHAPE_SCHEDULED
};
enum eb_shape eb_table_shape(const struct eb_cell *cell);

/* Names that topic ids have in the table or its index: several for one id, where one of them is damaged. */
struct eb_name {
    uint32_t id, at; /* at: in `text` */
    uint8_t len;
    bool indexed;  /* from the index */
    bool tabled;   /* from the table */
    bool taken;    /* repair: it is in the target */
    uint64_t last; /* topics.last_seq */
};
struct eb_names {
    struct eb_name *list;
    size_t count, cap;
    struct eb_buf text;
    bool sorted;
};
int eb_names_add(struct eb_names *names, int64_t id, const void *text, uint64_t len, bool indexed);
void eb_names_sort(struct eb_names *names);
/** First of those with @id; *ret_count of them. Sorted before. */
struct eb_name *eb_names_find(struct eb_names *names, uint32_t id, size_t *ret_count);
static inline const char *eb_name_text(const struct eb_names *names, const struct eb_name *name)
{
    return names->text.data + name->at;
}
void eb_names_finish(struct eb_names *names);

/* Reads rows out of leaves. */
struct eb_salvage {
    struct eb_pages *pages;
    struct eb_names names;
    struct eb_buf payload; /* of the row at hand */
    uint8_t *chains;       /* bits: overflow pages of rows that were whole */
    void *ctx;
    /* A whole row. <0 stops. */
    int (*row)(void *ctx, const struct eb_row *row, struct eb_name *name);
    /* A cell that is no whole row; @seq as it stands there, 0 if it cannot be read. May be NULL. */
    void (*bad)(void *ctx, uint64_t seq, const char *why);
    uint32_t chain[64], chain_count; /* of the row at hand, the first pages */
};

int eb_salvage_init(struct eb_salvage *s, struct eb_pages *pages);
void eb_salvage_finish(struct eb_salvage *s);
/**
 * Every row of a leaf of the log, by its cell pointers, and where those or the rest of the page make no
 * sense, by looking for cells at every byte that no whole row occupies. @ret_why: what is wrong with the page.
 */
int eb_salvage_leaf(struct eb_salvage *s, uint32_t pgno, const uint8_t *page, const char **ret_why);
/** Names of topics in a page of the table `topics` or of its index; anything else in it is passed over. */
int eb_salvage_names(struct eb_salvage *s, const struct eb_node *node);

/* Where the tables of a log begin, by name from the schema or, where that cannot be read, by their shape. */
enum eb_tree {
    EB_TREE_META,
    EB_TREE_TOPICS,
    EB_TREE_TOPICS_INDEX,
    EB_TREE_LOG,
    EB_TREE_EXPIRY,
    EB_TREE_ACKED,
    EB_TREE_GONE,
    EB_TREE_SEGMENTS,
    EB_TREE_POSTINGS,
    EB_TREE_IDS,       /* from version 2 on */
    EB_TREE_CONSUMERS, /* from version 3 on, and all that follow */
    EB_TREE_CONSUMERS_INDEX,
    EB_TREE_BLOCKS,
    EB_TREE_DEAD,
    EB_TREE_MARKS,
    EB_TREE_SCHEDULED,
    EB_TREE_SCHEDULED_IDS,
    EB_TREE_SCHEDULED_DUE,
    EB_TREE_REPLIES,
    EB_TREE_COUNT
};
extern const char *const eb_tree_names[EB_TREE_COUNT];
bool eb_tree_is_table(enum eb_tree tree);
/** Must a log of this schema version have it? */
static inline bool eb_tree_expected(enum eb_tree tree, uint32_t version)
{
    return tree < EB_TREE_IDS || version >= (tree == EB_TREE_IDS ? 2 : 3);
}

struct eb_roots {
    uint32_t root[EB_TREE_COUNT]; /* 0: not found */
    uint32_t others[32];          /* of tables that are not ours to know */
    uint8_t other_table[32];
    unsigned other_count;
    bool old_bus; /* the tables of prk_eventbus 0.1 */
    bool views;   /* `messages` is a view here, as it should be */
};
/** Read the schema on page 1. 0, or -EBADMSG with what is wrong in @ret_why. */
int eb_roots_read(struct eb_pages *pages, uint8_t *bits, struct eb_roots *ret,
                  const char **ret_why);
/** Is there at least one page that can only be of a log? Looks at the first @max pages and the WAL's. */
bool eb_looks_like_log(struct eb_pages *pages, uint32_t max);
/** Find the roots of `log` and `topics` by shape. */
void eb_roots_guess(struct eb_pages *pages, struct eb_roots *ret);
/**
 * Mark the freelist's pages in @bits; *ret_count of them. -EBADMSG with @ret_why if it makes no sense.
 * @deadline_ms (eb_mono_ms; 0: none): stop there.
 */
int eb_freelist_read(struct eb_pages *pages, uint8_t *bits, int64_t deadline_ms,
                     uint64_t *ret_count, const char **ret_why);
