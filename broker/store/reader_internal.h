/*
 * reader_internal.h - a reader of the SQLite engine from inside: what read_sqlite.c, seek_sqlite.c, newest_sqlite.c and
 * select_sqlite.c share.
 * All of it belongs to one thread at a time.
 */
#pragma once

#include <sqlite3.h>

#include "broker/store/row.h"
#include "broker/store/sqlite_internal.h"

#define EB_NAMES 4096 /* topic names a reader remembers: one for each value of id % EB_NAMES */

struct walk;

struct eb_sqlite_reader {
    struct eb_sqlite *e;
    sqlite3 *db;
    struct walk *walk;    /* the page under way, for `scan` */
    struct eb_slab *slab; /* of events that pass */
    sqlite3_stmt *begin, *commit, *scan, *rows, *get, *is_acked, *deleted_upto;
    sqlite3_stmt *topic_name, *topic_id, *topic_top, *topics_above, *topics_between, *topics_after;
    sqlite3_stmt *list, *lists, *list_bytes, *segment_events, *reserved, *last_row, *dead,
        *scheduled;
    sqlite3_stmt *nearest, *scan_topic, *segment_below, *topic_known, *known_above, *known_between;
    struct {
        uint32_t id; /* 0: free */
        uint8_t len;
        bool matches;   /* the selection with this number, */
        uint64_t asked; /* 0: none was asked */
        char *text;
    } names[EB_NAMES];
};

#define EB_FEW_MAX 4096 /* more matching topics than that are not listed */
#define EB_SPARSE_MAX                                                                              \
    4096 /* more matching events in a segment than that, and it is read row by row */

/* What a selection keeps from page to page (its engine_state). */
struct eb_chosen {
    bool no_range; /* too many topics share the patterns' beginnings: they are gone through by id */
    bool dense;    /* of `segment`: read it row by row */
    uint64_t segment; /* whose offsets these are; UINT64_MAX: none */
    uint32_t count;
    uint16_t offsets[EB_SPARSE_MAX];
};

/* ---- select_sqlite.c ---- */

/**
 * Bring the selection's topic ids up to what is committed. 0: all are known, or are too many to list
 * (->many); 1: more are left for the next page; -ENOMEM.
 */
int eb_chosen_topics(struct eb_sqlite_reader *r, struct eb_selection *selection);
bool eb_chosen_has(const struct eb_selection *selection, uint32_t topic);
/** Where the chosen topics occur in the closed @segment: fills selection's struct eb_chosen. */
int eb_chosen_offsets(struct eb_sqlite_reader *r, struct eb_selection *selection, uint64_t segment);

/* ---- read_sqlite.c ---- */

/* Around whatever a reader asks of the file: inside the gate (wal_sqlite.c, K2). */
void eb_sqlite_reader_enter(struct eb_sqlite_reader *r);
void eb_sqlite_reader_leave(struct eb_sqlite_reader *r);
/** -ENOMEM or -EIO. */
int eb_sqlite_reader_errno(struct eb_sqlite_reader *r, int rc);
/** Read and check the row that @stmt stands at. -EBADMSG: damaged; the seq is right all the same. */
int eb_sqlite_whole_row(struct eb_sqlite_reader *r, sqlite3_stmt *stmt, struct eb_row *ret,
                        const char **ret_topic, size_t *ret_len);
/** One event, inside the gate. As eb_reader_event. */
int eb_sqlite_read_one(struct eb_sqlite_reader *r, uint64_t seq, struct eb_event **ret);
/** The open segment as of the last commit, one reference. Take it before the transaction: see eb_sqlite_page. */
struct eb_segment *eb_sqlite_open_segment(struct eb_sqlite *e);

/** May reading go on behind this SQLite error (a page that cannot be read), or is it one of ours? */
bool eb_sqlite_damage(int rc);
