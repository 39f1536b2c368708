/*
 * once_worker.c - a worker of a durable consumer that applies each event to its own database by eb_once_apply_any, and is
 * killed by itself, at any point of one event in three.
 *
 *   once_worker URL DB [steady]
 *
 * Ends with 0 when nothing came for a second.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sqlite3.h>

#include <eventbus/client_sqlite.h>

static eb_once *once;
static int odds;

static void maybe_die(void)
{
    if (odds > 0 && random() % odds == 0)
        raise(SIGKILL);
}

static int on_commit(void *user)
{
    maybe_die();
    return 0;
}

static int apply(void *user, sqlite3 *db, const eb_message *message)
{
    char sql[64];

    snprintf(sql, sizeof(sql), "INSERT INTO applied VALUES (%llu)",
             (unsigned long long)message->seq);
    maybe_die();
    return sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : EB_RESULT_INTERNAL;
}

static int work(eb_consumer *consumer)
{
    const eb_delivery *delivery;
    int rc;

    while ((rc = eb_consumer_next(consumer, &delivery, 1000)) == 1) {
        rc = eb_once_apply_any(once, delivery->message, delivery->epoch, apply, NULL);
        maybe_die();
        if (rc < 0)
            eb_consumer_nack(consumer, delivery->message->seq, delivery->number, 0);
        else if (eb_consumer_ack_wait(consumer, delivery->message->seq, delivery->number, 10000) <
                 0)
            return -1;
    }
    return rc;
}

int main(int argc, char **argv)
{
    const char *const patterns[] = {"once.#", NULL};
    eb_client_options options = EB_CLIENT_OPTIONS_INIT;
    eb_consumer_options consume = EB_CONSUMER_OPTIONS_INIT;
    eb_consumer_settings settings = EB_CONSUMER_SETTINGS_INIT;
    eb_consumer *consumer;
    eb_client *client;
    sqlite3 *db;

    if (argc < 3 || sqlite3_open(argv[2], &db) != SQLITE_OK)
        return 2;
    odds = argc > 3 ? 0 : 12;
    srandom((unsigned)getpid());
    sqlite3_busy_timeout(db, 20000);
    sqlite3_exec(db, "PRAGMA journal_mode = WAL; CREATE TABLE IF NOT EXISTS applied(seq INTEGER)",
                 NULL, NULL, NULL);
    options.url = argv[1];
    settings.patterns = patterns;
    settings.from = EB_CONSUMER_ALL;
    consume.name = "once";
    consume.settings = &settings;
    if (eb_once_open(db, "once", &once) != 0 || eb_client_open(&options, &client, NULL) != 0 ||
        eb_consumer_open(client, &consume, 20000, &consumer) != 0)
        return 3;
    sqlite3_commit_hook(db, on_commit, NULL);
    int rc = work(consumer);
    eb_consumer_close(consumer, 10000);
    eb_client_close(client, 10000);
    eb_once_close(once);
    sqlite3_close(db);
    return rc == 0 ? 0 : 1;
}
