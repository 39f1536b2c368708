/*
 * btree.h - nodes, cells, records and walks of SQLite's trees, read from pages that may be damaged.
 *
 * Nothing here trusts a number it reads: every offset, length and page number is checked before it is used.
 */
#pragma once

#include "broker/store/pages.h"
#include "common/buf.h"

enum eb_node_type {
    EB_INDEX_INNER = 2,
    EB_TABLE_INNER = 5,
    EB_INDEX_LEAF = 10,
    EB_TABLE_LEAF = 13
};

struct eb_node {
    const uint8_t *page;
    uint32_t usable;
    uint32_t start; /* 100 on page 1, else 0 */
    uint8_t type;
    bool inner, table;
    uint32_t cells;
    uint32_t array; /* where the cell pointers begin */
    uint32_t right; /* inner: the rightmost child */
};

struct eb_cell {
    uint32_t offset, size; /* in the page */
    uint32_t child;        /* inner */
    int64_t rowid;         /* table */
    uint64_t payload;      /* bytes in all */
    uint32_t local;        /* of it in the page */
    const uint8_t *data;
    uint32_t overflow; /* first page of the rest, 0: none */
};

/** Read a node's header. False if it cannot be one. */
bool eb_node_read(struct eb_node *node, const struct eb_pages *pages, uint32_t pgno,
                  const uint8_t *page);
/** The cell at a byte offset; false if no cell can be there. */
bool eb_cell_at(const struct eb_node *node, uint32_t offset, struct eb_cell *ret);
/** The i-th cell; false if its pointer or the cell makes no sense. */
bool eb_cell_read(const struct eb_node *node, uint32_t i, struct eb_cell *ret);
/**
 * Is every byte of the node accounted for (cells, free blocks, fragments), once? NULL, or what is wrong.
 * @used (usable bytes, may be NULL) is set to 1 where a cell is.
 */
const char *eb_node_check(const struct eb_node *node, uint8_t *used);

/**
 * Gather a cell's whole payload in @buf (emptied first), through its overflow pages. 0, -EBADMSG (the chain is
 * broken), -EIO, -ENOMEM. @seen (may be NULL) is called with each overflow page; false stops with -EBADMSG.
 */
int eb_cell_payload(struct eb_pages *pages, const struct eb_cell *cell, struct eb_buf *buf,
                    bool (*seen)(void *ctx, uint32_t pgno), void *ctx);

enum eb_value_type { EB_V_NULL, EB_V_INT, EB_V_REAL, EB_V_TEXT, EB_V_BLOB };
struct eb_value {
    enum eb_value_type type;
    int64_t i;
    const uint8_t *data;
    uint64_t len;
};
/** The columns of a record; how many (<= max), or -1 if it is none. Values may reach beyond @have: then -1 too. */
int eb_record_read(const uint8_t *record, uint64_t have, struct eb_value *values, int max);
/** The serial types alone, from the record's beginning, however much of the rest is there. */
int eb_record_types(const uint8_t *record, uint64_t have, uint64_t *types, int max);

/* ---- walks: a whole tree in order, around what is broken ---- */

#define EB_WALK_DEPTH 24

struct eb_walk_level {
    uint32_t pgno, next; /* next child to look at */
    int64_t low, high;   /* table: rowids allowed: low < rowid <= high */
    struct eb_node node;
    uint8_t *page;
};

/* What a walk is told to note. A page that is reached twice (by any walk with the same bits) is broken. */
struct eb_walk {
    struct eb_pages *pages;
    uint8_t *bits; /* one bit a page, shared by all walks over a file; may be NULL */
    bool table;
    void *ctx;
    /* A page that is no good node here, with the rowids that are lost behind it (table; low < rowid <= high). */
    void (*broken)(void *ctx, uint32_t pgno, int64_t low, int64_t high, const char *why);
    void (*visit)(void *ctx, uint32_t pgno,
                  uint32_t parent); /* each page that is entered; may be NULL */
    int depth;
    struct eb_walk_level level[EB_WALK_DEPTH];
    uint8_t *buffers;
};

/* A step of the walk: a leaf with all its cells, or (index only) one cell of an inner node. */
struct eb_walk_step {
    const struct eb_node *node;
    uint32_t pgno;
    int64_t low, high;
    bool single;
    struct eb_cell cell; /* if single */
};

/** Begin at @root. 0 or -ENOMEM. Set `bits`, `broken` and `ctx` before. eb_walk_finish in any case. */
int eb_walk_begin(struct eb_walk *walk, struct eb_pages *pages, uint32_t root, bool table);
/** 1 with the next step, 0 at the end, -EIO. */
int eb_walk_next(struct eb_walk *walk, struct eb_walk_step *ret);
void eb_walk_finish(struct eb_walk *walk);
bool eb_bit_set(uint8_t *bits, uint32_t n); /* returns what it was */
bool eb_bit_get(const uint8_t *bits, uint32_t n);
