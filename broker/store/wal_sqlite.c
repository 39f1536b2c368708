/*
 * wal_sqlite.c - keeps the WAL short: when checkpoints run, and how readers make room for them.
 *
 * (K1) A thread brings the bulk of the WAL into the file beside the writer (checkpoint_sqlite.c); the writer brings
 *      in the small rest, before a transaction or in an idle moment, never between a commit and its answers.
 * (K2) A PASSIVE checkpoint brings what no reader still needs into the file. The WAL starts again from its
 *      beginning only when all of it is there and no reader stands in it; with readers that overlap for ever
 *      that moment never comes by itself. So from GATE_FRAMES on new pages wait at the gate, those under way
 *      (short: a page is bounded) are waited for, and then the checkpoint gets through.
 * (K3) The WAL is never truncated while it is in use: overwriting syncs faster than appending.
 * (K4) The length of the WAL is counted, and asked of the file only beside a checkpoint or when idle: a file that
 *      was asked for its times gets new ones with its next write (Linux since 6.13), and where ext4 has no
 *      journal the sync then writes the inode too.
 * (K5) From EB_WAL_FRAMES on the writer goes no further before the WAL starts again: it waits for the thread, and then
 *      for readers of other connections (a backup, verify), whose reads are short. So the file stays below
 *      EB_WAL_FRAMES and one transaction. Only who keeps a read open (a forgotten sqlite3 shell) is not waited for
 *      long: that is logged once and counted, and tried again now and then.
 */
#include <errno.h>
#include <inttypes.h>

#include "broker/store/schema.h"
#include "broker/store/sqlite_internal.h"
#include "common/clock.h"
#include "common/log.h"

#define CHECKPOINT_FRAMES 1000 /* p99 of a commit: 4 ms here, 13 at 4,000, 29 at 16,000 */
#define RETRY_FRAMES      500
#define GATE_FRAMES       4000
#define GATE_WAIT_MS      50
#define HELD_WAIT_MS      250  /* for readers of other connections, once EB_WAL_FRAMES is reached */
#define HELD_RETRY_FRAMES 4000 /* after that */
#define VACUUM_PAGES      64   /* of one step, as in the statement */
#define VACUUM_KEEP       256 /* free pages that stay for what comes next, and a twentieth of the file */

/* ---- the gate ---- */

void eb_gate_init(struct eb_gate *gate)
{
    eb_lock_init(&gate->lock, EB_RANK_LEAF);
    eb_cond_init(&gate->cond);
    gate->inside = 0;
    gate->closed = false;
}

void eb_gate_finish(struct eb_gate *gate)
{
    pthread_cond_destroy(&gate->cond);
    eb_lock_finish(&gate->lock);
}

void eb_gate_enter(struct eb_gate *gate)
{
    eb_lock_take(&gate->lock);
    while (gate->closed)
        eb_cond_wait(&gate->cond, &gate->lock, -1);
    gate->inside++;
    eb_lock_drop(&gate->lock);
}

void eb_gate_leave(struct eb_gate *gate)
{
    eb_lock_take(&gate->lock);
    if (--gate->inside == 0 && gate->closed)
        pthread_cond_broadcast(&gate->cond);
    eb_lock_drop(&gate->lock);
}

/* Close it and wait for those inside, but not for long. */
static void gate_close(struct eb_gate *gate)
{
    int64_t deadline = eb_mono_ms() + GATE_WAIT_MS;

    eb_lock_take(&gate->lock);
    gate->closed = true;
    while (gate->inside && eb_cond_wait(&gate->cond, &gate->lock, deadline) != ETIMEDOUT)
        ;
    eb_lock_drop(&gate->lock);
}

static void gate_open(struct eb_gate *gate)
{
    eb_lock_take(&gate->lock);
    gate->closed = false;
    pthread_cond_broadcast(&gate->cond);
    eb_lock_drop(&gate->lock);
}

/* ---- checkpoints ---- */

#define WAL_HEAD       32
#define WAL_FRAME_HEAD 24

static int count_frames(void *ctx, sqlite3 *db, const char *name, int frames)
{
    struct eb_sqlite *e = ctx;

    if ((unsigned)frames < e->wal_frames)
        e->wal_try = CHECKPOINT_FRAMES; /* it started again from its beginning */
    e->wal_frames = (unsigned)frames;
    atomic_store_explicit(&e->checkpointer.frames, e->wal_frames, memory_order_relaxed);
    uint64_t bytes = WAL_HEAD + (uint64_t)e->wal_frames * (uint64_t)(e->page_size + WAL_FRAME_HEAD);
    if (bytes > e->wal_bytes)
        e->wal_bytes = bytes;
    return SQLITE_OK;
}

/* K4. What was written and rolled back is in the file too. */
static void measure(struct eb_sqlite *e)
{
    sqlite3_file *file = NULL;
    sqlite3_int64 size = 0;

    if (sqlite3_file_control(e->db, "main", SQLITE_FCNTL_JOURNAL_POINTER, &file) == SQLITE_OK &&
        file && file->pMethods && file->pMethods->xFileSize(file, &size) == SQLITE_OK)
        e->wal_bytes = (uint64_t)size;
}

void eb_wal_watch(struct eb_sqlite *e)
{
    e->wal_try = CHECKPOINT_FRAMES;
    sqlite3_wal_hook(e->db, count_frames, e);
    measure(e);
}

/* K5: @rc of a checkpoint that was to wait for readers. */
static void note_held(struct eb_sqlite *e, int rc)
{
    bool held = rc == SQLITE_BUSY;

    if (held) {
        atomic_fetch_add_explicit(&e->counters->checkpoints_held, 1, memory_order_relaxed);
        e->wal_try = e->wal_frames + HELD_RETRY_FRAMES;
    }
    if (held && !e->wal_held)
        eb_warn("EB-WAL-HELD",
                "%s-wal grows (%" PRIu64 " MiB): a reader of another process keeps it", e->path,
                e->wal_bytes >> 20);
    if (e->wal_held && rc == SQLITE_OK)
        eb_info("EB-WAL-FREE", "%s-wal starts again: no reader keeps it any more", e->path);
    e->wal_held = held || (e->wal_held && rc != SQLITE_OK);
}

/* 0 also when something is left; what failed is noted: the commits that follow will say it louder. */
static int checkpoint(struct eb_sqlite *e)
{
    bool gated = e->wal_frames >= GATE_FRAMES, full = e->wal_frames >= EB_WAL_FRAMES;
    int log = -1, done = -1, rc;

    if (gated)
        gate_close(&e->gate);
    if (full)
        sqlite3_busy_timeout(e->db, HELD_WAIT_MS);
    rc = sqlite3_wal_checkpoint_v2(
        e->db, NULL, full ? SQLITE_CHECKPOINT_RESTART : SQLITE_CHECKPOINT_PASSIVE, &log, &done);
    if (full)
        sqlite3_busy_timeout(e->db, EB_DB_BUSY_MS);
    if (gated)
        gate_open(&e->gate);
    e->wal_try = e->wal_frames + RETRY_FRAMES;
    if (full)
        note_held(e, rc);
    if (rc == SQLITE_BUSY)
        return 0; /* readers, or another process checkpoints */
    if (rc != SQLITE_OK)
        return eb_sqlite_failed(e, rc, "bringing the WAL into the file");
    atomic_fetch_add_explicit(&e->counters->checkpoints, 1, memory_order_relaxed);
    e->wal_owed = log > done ? (unsigned)(log - done) : 0;
    e->wal_shrinks = e->wal_shrinks && e->wal_owed;
    measure(e);
    return 0;
}

void eb_wal_before_transaction(struct eb_sqlite *e)
{
    if (e->wal_frames >= e->wal_try && eb_checkpointer_turn(e))
        checkpoint(e);
}

/* ---- giving space back ---- */

static int vacuum_step(struct eb_sqlite *e, bool *ret_more)
{
    int64_t freed = 0, pages = 0;
    int result = eb_sql_int(e->db, "PRAGMA freelist_count", 0, &freed);

    if (result == 0)
        result = eb_sql_int(e->db, "PRAGMA page_count", 0, &pages);
    if (result < 0)
        return eb_sqlite_failed(e, sqlite3_errcode(e->db), "counting free pages");
    int64_t keep = VACUUM_KEEP + pages / 20;
    if (freed <= keep)
        return 0;
    eb_wal_before_transaction(e);
    int rc = sqlite3_exec(e->db,
                          freed - keep < VACUUM_PAGES ? "PRAGMA incremental_vacuum(16)"
                                                      : "PRAGMA incremental_vacuum(64)",
                          NULL, NULL, NULL);
    if (rc != SQLITE_OK)
        return eb_sqlite_failed(e, rc, "giving free pages back");
    e->wal_shrinks = true;
    *ret_more = freed - VACUUM_PAGES > keep;
    return 0;
}

int eb_wal_tidy(struct eb_engine *engine, bool *ret_more)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    bool more = false;
    int result = 0;

    if (e->wal_frames >= e->wal_try && eb_checkpointer_turn(e))
        result = checkpoint(e);
    if (result == 0)
        result = vacuum_step(e, &more);
    if (result == 0 && !more && e->wal_shrinks)
        result = checkpoint(e); /* only now the file gets shorter: min_free may wait for it */
    if (result < 0)
        return result;
    measure(e);
    eb_sqlite_show(e);
    *ret_more = more;
    return 0;
}
