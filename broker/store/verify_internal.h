/*
 * verify_internal.h - one verify at work: what its parts share (verify.c, verify_lists.c, verify_tables.c,
 * verify_kept.c).
 */
#pragma once

#include "broker/store/ops.h"
#include "broker/store/salvage.h"

#define LINES_MAX 200 /* of one kind: the rest is counted */
#define OPEN_END  UINT64_MAX

struct range {
    uint64_t from, to;
};
struct ranges {
    struct range *list;
    size_t count, cap;
};

struct pair {
    uint32_t topic, offset;
};

/* The lists of `postings`, pulled one by one in their order. */
struct lists {
    struct eb_walk walk;
    struct eb_walk_step step;
    uint32_t next;
    bool in_step, there;
    uint64_t segment;
    uint32_t topic;
    struct eb_buf buf;
    int count; /* offsets, -1: the list is broken */
    const uint8_t *blob;
};

/* A growing list of numbers; the memory is kept when count goes back to 0. */
struct eb_seq_list {
    uint64_t *items;
    size_t count, cap;
};
/** 0 or -ENOMEM. */
int eb_seq_list_add(struct eb_seq_list *list, uint64_t value);

struct verify {
    const struct eb_ops *ops;
    struct eb_ops_summary *sum;
    struct eb_pages pages;
    struct eb_roots roots;
    struct eb_salvage salvage;
    struct eb_page_map *map;
    uint8_t *bits; /* pages that belong to a tree, to a chain of its own, or are free */
    uint8_t *free_bits;
    struct ranges lost, found;
    int oom;
    const char *tree; /* at work on */
    bool broken;      /* some page of some tree is: what it led to cannot be counted as its own */
    uint64_t last, deleted_upto; /* whole row before, end of what retention deleted */
    struct eb_seq_list seqs;     /* of the leaf at hand */
    bool bad_cells;
    bool second_look;
    struct pair *pairs; /* of the segment at hand */
    uint32_t pair_count;
    uint64_t segment;
    struct eb_seq_list closed; /* segments with a row in `segments`, rising */
    struct lists lists;
    uint64_t expiry_rows, expiry_sum, ttl_rows, ttl_sum;
    struct eb_seq_list consumers, positions; /* their ids, rising, and `next` of each */
    uint64_t consumer_names, scheduled_rows, scheduled_ids, scheduled_dues;
    uint64_t said_block, said_dead; /* consumers whose absence was said */
    int64_t told_ms;
};

void eb_verify_line(struct verify *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define PROBLEM(v, ...)                                                                            \
    do {                                                                                           \
        if (++(v)->sum->problems <= LINES_MAX)                                                     \
            eb_verify_line(v, __VA_ARGS__);                                                        \
        else if ((v)->sum->problems == LINES_MAX + 1)                                              \
            eb_verify_line(v, "there is more: it is counted, not shown");                          \
    } while (0)

/* ---- verify.c: what every walk over a tree is given ---- */

void eb_verify_broken(void *ctx, uint32_t pgno, int64_t low, int64_t high, const char *why);
void eb_verify_visit(void *ctx, uint32_t pgno, uint32_t parent);

/* ---- verify_lists.c: postings against the rows of the log ---- */

/** Note an overflow page; false if it is used twice. */
bool eb_verify_chain_page(void *ctx, uint32_t pgno);
/** Move on to the next list; lists.there is false at the end. */
int eb_verify_next_list(struct verify *v);
/** All rows of a segment were seen: is each in the list of its topic? */
int eb_verify_end_segment(struct verify *v);

/* ---- verify_tables.c: the small tables ---- */

int eb_verify_tree(struct verify *v, enum eb_tree tree, uint32_t root, const char *name,
                   bool table);
int eb_verify_others(struct verify *v);
/** The table of topics and its index must say the same. */
void eb_verify_names(struct verify *v);

/* ---- verify_kept.c: what is kept beside the events ---- */

/** One entry of its tables. False if it cannot be one. */
bool eb_verify_kept_entry(struct verify *v, enum eb_tree tree, const struct eb_cell *cell,
                          const struct eb_value *c, int n);
/** All was seen: does it fit together and to the log? */
void eb_verify_kept(struct verify *v);
