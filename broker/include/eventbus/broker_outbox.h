/*
 * <eventbus/broker_outbox.h> - commit your own tables and an event in one SQLite transaction.
 *
 * A program that embeds the broker (<eventbus/broker.h>) and keeps its data in an SQLite database of its own adds the
 * event to a table of that database, in the transaction that changes its other tables. Once it is committed, a thread
 * of the broker (`eb-outbox`) brings it into the log: each event once, in the order of the commits, whatever is killed
 * when. docs/embedding.md shows it at work, and says why it is a table and not an attached or shared file.
 *
 *   BEGIN; INSERT INTO users …; eb_broker_outbox_add(outbox, db, &event, NULL, err); COMMIT; eb_broker_outbox_wake(outbox);
 *
 * The tables are eventbus_outbox (what waits), eventbus_outbox_refused (what the broker would not take, and why) and
 * eventbus_outbox_state. The program and this library must use the same SQLite (libsqlite3 as a shared library): two copies
 * in one process would undo each other's file locks (https://www.sqlite.org/howtocorrupt.html, 2.2.1).
 */
#ifndef EVENTBUS_BROKER_OUTBOX_H
#define EVENTBUS_BROKER_OUTBOX_H

#include <eventbus/broker.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sqlite3;
typedef struct eb_broker_outbox eb_broker_outbox;

/**
 * Serve the outbox in the database at @path, which is made when it is not there; its tables too. The thread has a
 * connection of its own. @poll_ms: how often it looks by itself (0: 50 ms); eb_broker_outbox_wake makes it look at once.
 * One per database. -EINVAL (not a database, a table of that name has other columns), -EACCES, -EBUSY (locked for 5 s),
 * -EIO, -ENOMEM, -ESHUTDOWN, with a sentence in @err. Threads: any. It ends with eb_broker_outbox_close or the broker.
 */
EB_API int eb_broker_outbox_open(eb_broker *broker, const char *path, int64_t poll_ms,
                                 eb_broker_outbox **ret, char err[EB_BROKER_ERROR]);
/**
 * Add an event, in the open transaction of @db, the program's own connection to that database. It is checked here as by
 * eb_broker_publish_event, with the same errors; `expects_last_seq` is refused (-EINVAL): nobody would be there to be told.
 * Without a message_id it gets one, which is also in @ret_id (may be NULL). The event is relayed if the transaction is
 * committed, and gone if it is rolled back. Of a failure in @db itself: -EBUSY, -ENOSPC, -EIO; then roll back. Threads: the
 * one that uses @db.
 */
EB_API int eb_broker_outbox_add(eb_broker_outbox *outbox, struct sqlite3 *db,
                                const eb_broker_publish *event, char ret_id[37],
                                char err[EB_BROKER_ERROR]);
/** After the COMMIT: relay now, not at the next look. Threads: any; never blocks. */
EB_API void eb_broker_outbox_wake(eb_broker_outbox *outbox);
/**
 * Wait until all that was committed before this call is in the log (or refused). 0, -ETIMEDOUT, -ESHUTDOWN. Threads: any
 * but callbacks of this broker; not within a transaction that has added something.
 */
EB_API int eb_broker_outbox_flush(eb_broker_outbox *outbox, int64_t timeout_ms);

typedef struct eb_broker_outbox_state {
    uint64_t relayed; /* since it was opened */
    uint64_t refused; /* the same: rows in eventbus_outbox_refused */
    bool stuck; /* the database or the log cannot be written or read just now; it is tried again */
    char why[200]; /* stuck: in words */
} eb_broker_outbox_state;
/** Threads: any. */
EB_API void eb_broker_outbox_get_state(eb_broker_outbox *outbox, eb_broker_outbox_state *ret);
/** End the thread. What is not relayed waits for the next start. NULL is fine. Not from a callback of this broker. */
EB_API void eb_broker_outbox_close(eb_broker_outbox *outbox);

#ifdef __cplusplus
}
#endif
#endif
