/*
 * scheduled_row.h - one event that waits as a row of `scheduled`: its columns, its checksum, and the ways into it.
 */
#pragma once

#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "broker/store/btree.h"
#include "common/event.h"

#define EB_SCHEDULED_COLUMNS "place, id, due, made, topic, ttl, content_type, headers, payload, crc"

/* Pointers are borrowed: from a statement until its next step, or from where the row came from. */
struct eb_scheduled_row {
    uint64_t place;
    int64_t due, made;
    struct eb_draft draft; /* the rest; content_type NULL: text/plain */
    uint32_t crc;          /* as stored */
};

/** CRC32C over all fields, as docs/formats/log.md says. */
uint32_t eb_scheduled_crc(const struct eb_scheduled_row *row);
/** The row at which @stmt (EB_SCHEDULED_COLUMNS) stands. -EBADMSG: it is damaged, and only ->place is right. */
int eb_scheduled_row_read(sqlite3_stmt *stmt, struct eb_scheduled_row *ret);
/** The same from the ten columns of a record, below SQLite. */
int eb_scheduled_row_from(const struct eb_value *columns, int64_t rowid,
                          struct eb_scheduled_row *ret);
/** Bind it to ten parameters in the order of the columns; borrowed until it is stepped. */
void eb_scheduled_row_bind(sqlite3_stmt *stmt, const struct eb_scheduled_row *row);
