/*
 * golden.h - logs whose every row is known: made by the test, so that nothing has to be remembered.
 *
 * What a row holds follows from its seq alone: golden_row_is says whether a row is what was written. Which seqs
 * are there follows from the golden's figures: golden_live.
 */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>

#include "broker/store/row.h"

struct golden {
    uint64_t first,
        last; /* seqs given: from `first` on; the prefix up to `deleted` is deleted again */
    uint64_t deleted;
    uint64_t wal_from; /* rows from here on lie in the WAL only; 0: no WAL is left */
    bool with_free;    /* leave pages on the freelist */
};

/** Was it there when the golden was done? Every 37th is deleted singly; with_free: 600 in a row. */
bool golden_live(const struct golden *g, uint64_t seq);
bool golden_acked(uint64_t seq);
/** Make it at @path (and @path-wal). */
void golden_make(const struct golden *g, const char *path);
/** Is the row exactly what golden_make wrote under its seq? */
bool golden_row_is(const struct eb_row *row, const char *topic, size_t topic_len);
/** Walk all rows of the log at @path through SQLite; stops the test when one is not what was written. Sets bits. */
uint64_t golden_read(const char *path, uint8_t *present, uint64_t bits);
int golden_topic(char out[64], uint64_t seq);
