/*
 * outbox.h - the outbox of an embedding program from inside: the tables in its database (outbox_table.c) and the thread
 * that relays them (embed_outbox.c). <eventbus/broker_outbox.h> is the contract.
 *
 * (X1) A row's place rises with the commits: SQLite lets one writer at a time in. It also never comes again: it is above
 *      every place there was (`top`), above what the log knows to be relayed (raised when the outbox is opened, for a
 *      database that was brought back from a backup), and not below the clock in microseconds.
 * (X2) What the log has of the outbox is one number, a mark that is set in the transaction of the events (state.h). Rows
 *      at or below it are relayed and go later; rows above it are not. So it does not matter when anybody is killed.
 * (X3) The mark is named after the outbox's own id: another database is another outbox.
 * (X4) A row that the broker refuses for what it is stands in nobody's way: it goes to eventbus_outbox_refused with the
 *      reason, in the program's database. What fails for other reasons (no room, no lock) is tried again, in order.
 */
#pragma once

#include <sqlite3.h>

#include "broker/broker.h"
#include "broker/include/eventbus/broker_outbox.h"
#include "common/buf.h"

#define EB_OUTBOX_ROWS  1000 /* relayed in one commit of the log at most */
#define EB_OUTBOX_BYTES (4 * 1024 * 1024)

/* One row: where its texts lie in the batch's buffer. */
struct eb_outbox_row {
    int64_t place;
    uint8_t id[16];
    int64_t ttl, deliver_at;
    size_t topic, topic_len, content_type, content_type_len, headers, headers_len, payload,
        payload_len;
};

struct eb_outbox_batch {
    struct eb_outbox_row rows[EB_OUTBOX_ROWS];
    unsigned count;
    struct eb_buf texts;
};

/** Open the relay's own connection, make the tables, read the outbox's id. 0 or -errno with @err. */
int eb_outbox_db_open(const char *path, sqlite3 **ret, char ret_id[37], char err[EB_BROKER_ERROR]);
/** Insert a draft that was checked, in @db's open transaction. 0, -EBUSY, -ENOSPC, -EIO with @err. */
int eb_outbox_insert(sqlite3 *db, const struct eb_draft *draft, char err[EB_BROKER_ERROR]);
/** Rows above @after, in order. 0 or -errno. */
int eb_outbox_read(sqlite3 *db, int64_t after, struct eb_outbox_batch *ret);
/** The draft of a row; it borrows from the batch. */
void eb_outbox_draft(const struct eb_outbox_batch *batch, const struct eb_outbox_row *row,
                     struct eb_draft *ret);
/** Rows up to @upto are relayed: they go, and no place at or below it comes again. 0 or -errno. */
int eb_outbox_forget(sqlite3 *db, int64_t upto);
/** Move one row to eventbus_outbox_refused. 0 or -errno. */
int eb_outbox_refuse(sqlite3 *db, int64_t place, const char *code, const char *why);
/** -errno of an SQLite code, its text into @err unless NULL. */
int eb_outbox_failed(sqlite3 *db, int rc, char *err);
