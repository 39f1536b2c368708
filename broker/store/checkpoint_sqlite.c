/*
 * checkpoint_sqlite.c - the thread that brings the WAL into the file while the writer goes on.
 *
 *   IDLE --writer: the WAL is due--> BUSY --thread: passes, until little is left--> READY --writer: the rest--> IDLE
 *
 * A checkpoint writes its pages and syncs twice, and nobody may wait for that. But one
 * beside the writer never ends: when it is through, new pages are there, and the WAL starts again from its
 * beginning only when all of it is in the file. So the thread makes passes, each over what came during the one
 * before, and leaves the last, small one to the writer.
 *
 * (T1) SQLite lets one connection write and another checkpoint at once; the thread has a connection of its own.
 * (T2) A pass that fails says nothing: the writer's own checkpoint meets the same and does.
 * (T3) Who publishes or is delivered to goes first: the thread is nicer than the others by so much that it yields to
 *      them, and by so little that on a machine with other work the writer does not come to wait for it
 *      (docs/decisions/0028-what-a-delivery-waits-for.md).
 */
#include <errno.h>
#include <sys/resource.h>
#include <unistd.h>

#include "broker/store/schema.h"
#include "broker/store/sqlite_internal.h"
#include "common/log.h"

#define PASSES     4
#define NICER      5   /* T3 */
#define FEW_FRAMES 150 /* so many take the writer about as long as a commit */

void eb_checkpointer_init(struct eb_checkpointer *c)
{
    eb_lock_init(&c->lock, EB_RANK_LEAF);
    eb_cond_init(&c->cond);
    atomic_init(&c->frames, 0);
}

void eb_checkpointer_finish(struct eb_checkpointer *c)
{
    pthread_cond_destroy(&c->cond);
    eb_lock_finish(&c->lock);
}

/*
 * SQLite syncs the file only at the end of a pass that leaves nothing; so the writer's would sync what all passes
 * have written. Done here it has its own few pages to sync. With durability = os SQLite syncs nothing, nor does this.
 */
static void sync_file(struct eb_checkpointer *c)
{
    sqlite3_file *file = NULL;

    if (c->syncs &&
        sqlite3_file_control(c->db, "main", SQLITE_FCNTL_FILE_POINTER, &file) == SQLITE_OK &&
        file && file->pMethods)
        file->pMethods->xSync(file, SQLITE_SYNC_NORMAL | SQLITE_SYNC_DATAONLY); /* (T2) */
}

static void make_passes(struct eb_checkpointer *c)
{
    for (int pass = 0; pass < PASSES; pass++) {
        int log = -1, done = -1;
        int rc = sqlite3_wal_checkpoint_v2(c->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &log, &done);
        sync_file(c);
        unsigned now = atomic_load_explicit(&c->frames, memory_order_relaxed);
        if (rc != SQLITE_OK || done < log || now < (unsigned)done + FEW_FRAMES)
            return; /* a failure, a reader in the way, or little left: the writer's turn */
    }
}

static void *run(void *arg)
{
    struct eb_checkpointer *c = arg;
    pthread_setname_np(pthread_self(), "eb-checkpoint");
    setpriority(PRIO_PROCESS, (id_t)gettid(), getpriority(PRIO_PROCESS, 0) + NICER);
    eb_lock_take(&c->lock);
    while (!c->stop) {
        if (c->state != EB_CHECKPOINT_BUSY) {
            eb_cond_wait(&c->cond, &c->lock, -1);
            continue;
        }
        eb_lock_drop(&c->lock);
        make_passes(c);
        eb_lock_take(&c->lock);
        c->state = EB_CHECKPOINT_READY;
        pthread_cond_broadcast(&c->cond);
    }
    eb_lock_drop(&c->lock);
    return NULL;
}

int eb_checkpointer_start(struct eb_engine *engine)
{
    struct eb_sqlite *e = eb_sqlite_of(engine);
    struct eb_checkpointer *c = &e->checkpointer;
    struct eb_error err;
    int result = eb_db_open(e->path, e->vfs, EB_DB_WRITE, &c->db, &err);
    c->syncs = e->durability == EB_DURABILITY_FSYNC;
    if (result == 0)
        result = eb_db_journal(c->db, c->syncs);
    if (result == 0)
        result = -pthread_create(&c->thread, NULL, run, c);
    if (result < 0) {
        sqlite3_close(c->db);
        c->db = NULL;
        return result;
    }
    c->runs = true;
    return 0;
}

void eb_checkpointer_stop(struct eb_sqlite *e)
{
    struct eb_checkpointer *c = &e->checkpointer;
    if (!c->runs)
        return;
    eb_lock_take(&c->lock);
    c->stop = true;
    pthread_cond_broadcast(&c->cond);
    eb_lock_drop(&c->lock);
    pthread_join(c->thread, NULL);
    sqlite3_close(c->db);
    c->runs = false;
}

bool eb_checkpointer_turn(struct eb_sqlite *e)
{
    struct eb_checkpointer *c = &e->checkpointer;
    if (!c->runs)
        return true;
    eb_lock_take(&c->lock);
    if (c->state == EB_CHECKPOINT_IDLE) {
        c->state = EB_CHECKPOINT_BUSY;
        pthread_cond_broadcast(&c->cond);
    }
    while (c->state == EB_CHECKPOINT_BUSY && e->wal_frames >= EB_WAL_FRAMES)
        eb_cond_wait(&c->cond, &c->lock, -1);
    bool ready = c->state == EB_CHECKPOINT_READY;
    if (ready)
        c->state = EB_CHECKPOINT_IDLE;
    eb_lock_drop(&c->lock);
    return ready;
}
