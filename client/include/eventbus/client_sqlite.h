/*
 * <eventbus/client_sqlite.h> - apply each event to your own SQLite database exactly once.
 *
 *   eb_once *once;
 *   eb_once_open(db, "users", &once);
 *   eb_once_resume(once, &options);              (eb_subscribe_options: where to go on)
 *   eb_client_subscribe(client, &options, 0, &subscription);
 *   while (eb_subscription_next(subscription, &message, -1) == 1) {
 *       eb_subscription_position(subscription, epoch);
 *       eb_once_apply(once, message, epoch, apply, NULL);
 *   }
 *
 * What an event changes and the note that it was applied are one transaction of your database, so that a crash at any
 * point leaves both or neither, and the event that comes again is passed over. The notes are in the tables eventbus_once
 * and eventbus_once_seen, which are made when they are not there.
 *
 * For a subscription, whose events come in seq order, the note is a cursor (begin, commit, apply). For a durable consumer,
 * whose events may come in any order, each event is noted (apply_any) and forgotten after a time (forget).
 *
 * Link with libeventbus-sqlite (pkg-config eventbus-sqlite) and the program's own libsqlite3. Threads: those that may use
 * @db, one at a time. Results are those of <eventbus/client.h>: INVALID, MEMORY, UNAVAILABLE (the database is locked),
 * STORAGE_FULL, INTERNAL (sqlite3_errmsg tells). After a negative one nothing of the event is in the database.
 */
#ifndef EVENTBUS_CLIENT_SQLITE_H
#define EVENTBUS_CLIENT_SQLITE_H

#include <eventbus/client.h>

#ifdef __cplusplus
extern "C" {
#endif

struct sqlite3;
typedef struct eb_once eb_once;

/**
 * Keep notes in @db under @name (1 to 255 bytes): one name for each stream that is applied to this database. @db is the
 * program's and stays open until eb_once_close. Not within a transaction.
 */
EB_API int eb_once_open(struct sqlite3 *db, const char *name, eb_once **ret);
/** NULL is fine. A transaction that is open is rolled back. */
EB_API void eb_once_close(eb_once *once);

/** The seq that was applied last (0: none), and its log's epoch ("" if none). */
EB_API uint64_t eb_once_position(eb_once *once, char epoch[37]);
/** Set starting_seq and epoch so that the subscription goes on behind it. Their texts live as long as @once. */
EB_API void eb_once_resume(eb_once *once, eb_subscribe_options *options);

/**
 * Begin a transaction for the event @seq of the log @epoch (eb_subscription_position tells it). 1: apply it in @db, then
 * commit or roll back. 0: it was applied before, there is no transaction. An event of another log than the last one is
 * new, whatever its seq.
 */
EB_API int eb_once_begin(eb_once *once, uint64_t seq, const char *epoch);
/** Note it and commit. When it fails, all is rolled back. */
EB_API int eb_once_commit(eb_once *once);
EB_API void eb_once_rollback(eb_once *once);

/** What an event means for the program's tables. 0, or negative: roll back. It neither commits nor rolls back itself. */
typedef int eb_once_fn(void *user, struct sqlite3 *db, const eb_message *message);
/** All three in one. 1: applied now. 0: it was before. Negative: a result, or what @apply returned. */
EB_API int eb_once_apply(eb_once *once, const eb_message *message, const char *epoch,
                         eb_once_fn *apply, void *user);
/**
 * The same for events in any order, of a durable consumer: call it in its callback with the delivery's epoch, and
 * acknowledge on 0 and 1.
 */
EB_API int eb_once_apply_any(eb_once *once, const eb_message *message, const char *epoch,
                             eb_once_fn *apply, void *user);
/**
 * Forget what apply_any noted more than @seconds ago: to be called now and then, with much more than the consumer's
 * ack_wait. An event that is delivered again after that is applied again. Returns 0 or negative.
 */
EB_API int eb_once_forget(eb_once *once, int64_t seconds);

#ifdef __cplusplus
}
#endif
#endif
