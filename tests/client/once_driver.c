/*
 * once_driver.c - applies events to a database by <eventbus/client_sqlite.h>, and kills itself where it is told to.
 *
 *   once_driver DB MODE EPOCH FROM TO [POINT SEQ]
 *
 * MODE: cursor or any. Events FROM to TO are applied: a row (epoch, seq) into `applied`, which has no key, so that one
 * applied twice shows. At SEQ, kill -9 at POINT: before, begun, applied, commit (in SQLite's hook, before it is written),
 * after. At the end it prints the position.
 */
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <sqlite3.h>

#include <eventbus/client_sqlite.h>

static const char *point = "", *epoch;
static uint64_t at, now;

static void die_at(const char *here)
{
    if (strcmp(point, here) == 0 && now == at)
        raise(SIGKILL);
}

static int on_commit(void *user)
{
    die_at("commit");
    return 0;
}

static int apply(void *user, sqlite3 *db, const eb_message *message)
{
    char sql[200];

    die_at("begun");
    snprintf(sql, sizeof(sql), "INSERT INTO applied VALUES ('%s', %llu)", epoch,
             (unsigned long long)message->seq);
    if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK)
        return EB_RESULT_INTERNAL;
    die_at("applied");
    return strcmp(point, "refuse") == 0 && now == at ? -77 : 0;
}

int main(int argc, char **argv)
{
    sqlite3 *db;
    eb_once *once;
    char last[37];
    uint64_t from, to;
    bool any;

    if (argc < 6 || sqlite3_open(argv[1], &db) != SQLITE_OK)
        return 2;
    any = strcmp(argv[2], "any") == 0;
    epoch = argv[3];
    from = strtoull(argv[4], NULL, 10);
    to = strtoull(argv[5], NULL, 10);
    if (argc > 7) {
        point = argv[6];
        at = strtoull(argv[7], NULL, 10);
    }
    sqlite3_busy_timeout(db, 20000);
    sqlite3_exec(
        db,
        "PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS applied(epoch TEXT, seq INTEGER)",
        NULL, NULL, NULL);
    if (eb_once_open(db, "test", &once) != 0)
        return 3;
    sqlite3_commit_hook(db, on_commit, NULL);
    for (now = from; now <= to; now++) {
        eb_message message = {.seq = now};
        die_at("before");
        int rc = any ? eb_once_apply_any(once, &message, epoch, apply, NULL)
                     : eb_once_apply(once, &message, epoch, apply, NULL);
        if (rc < 0)
            printf("refused %llu %d\n", (unsigned long long)now, rc);
        die_at("after");
    }
    printf("position %llu", (unsigned long long)eb_once_position(once, last));
    printf(" %s\n", last);
    eb_once_close(once);
    return sqlite3_close(db) == SQLITE_OK ? 0 : 4;
}
