/*
 * user_sync.c - a service that keeps its own copy of the users, exactly once, by following "user.*".
 *
 * The whole trick: the cursor (seq and epoch of the last event it handled) lives in the same SQLite file as the
 * users and is moved in the same transaction, by <eventbus/client_sqlite.h>. After a crash it asks for what comes
 * behind the cursor; an event is therefore applied once, however often either side is killed. GET /users on port 5000 shows the copy, and how
 * many events were applied to each user.
 *
 *   user_sync [--url ws://127.0.0.1:3000/ws] [--db users_copy.db] [--port 5000]
 */
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <json-c/json.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sqlite3.h>

#include <eventbus/client_sqlite.h>

struct sync {
    const char *url, *path;
    int port;
    sqlite3 *db; /* the main thread's; each request opens its own */
    eb_once *once;
};

static volatile sig_atomic_t ending;

static void end(int sig)
{
    (void)sig;
    ending = 1;
}

static int complain(const char *what, const char *why)
{
    fprintf(stderr, "user_sync: %s: %s\n", what, why);
    return -1;
}

static int run_sql(sqlite3 *db, const char *sql)
{
    char *why = NULL;
    if (sqlite3_exec(db, sql, NULL, NULL, &why) == SQLITE_OK)
        return 0;
    complain(sql, why);
    sqlite3_free(why);
    return -1;
}

static int open_copy(struct sync *sync)
{
    if (sqlite3_open(sync->path, &sync->db) != SQLITE_OK)
        return complain(sync->path, sqlite3_errmsg(sync->db));
    if (run_sql(sync->db,
                "PRAGMA journal_mode = WAL;"
                "PRAGMA synchronous = FULL;"
                "CREATE TABLE IF NOT EXISTS users(id INTEGER PRIMARY KEY, username TEXT NOT NULL,"
                "                                 events INTEGER NOT NULL DEFAULT 1);") < 0)
        return -1;
    int rc = eb_once_open(sync->db, "users", &sync->once);
    return rc < 0 ? complain("the cursor", eb_result_text(rc)) : 0;
}

/* One statement with an integer and a text. */
static int run_bound(sqlite3 *db, const char *sql, int64_t number, const char *text)
{
    sqlite3_stmt *stmt;
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK)
        return complain(sql, sqlite3_errmsg(db));
    sqlite3_bind_int64(stmt, 1, number);
    if (text)
        sqlite3_bind_text(stmt, 2, text, -1, SQLITE_STATIC);
    int rc = sqlite3_step(stmt) == SQLITE_DONE ? 0 : complain(sql, sqlite3_errmsg(db));
    sqlite3_finalize(stmt);
    return rc;
}

/* What the event means for the copy. One that we cannot read is said and passed over: it will not get better. */
static int apply(void *user_data, sqlite3 *db, const eb_message *message)
{
    (void)user_data;
    struct json_object *user = json_tokener_parse(message->payload), *id = NULL, *name = NULL;
    int rc = 0;
    json_object_object_get_ex(user, "id", &id);
    json_object_object_get_ex(user, "username", &name);
    if (!json_object_is_type(id, json_type_int))
        complain(message->topic, "event without an integer id, passed over");
    else if (strcmp(message->topic, "user.deleted") == 0)
        rc = run_bound(db, "DELETE FROM users WHERE id = ?", json_object_get_int64(id), NULL);
    else if (!json_object_is_type(name, json_type_string))
        complain(message->topic, "event without a username, passed over");
    else
        rc = run_bound(db,
                       "INSERT INTO users(id, username) VALUES (?, ?) ON CONFLICT(id) DO UPDATE "
                       "SET username = excluded.username, events = events + 1",
                       json_object_get_int64(id), json_object_get_string(name));
    json_object_put(user);
    return rc;
}

static void on_gap(void *user, eb_subscription *subscription, const eb_gap_info *gap)
{
    (void)user, (void)subscription;
    fprintf(stderr, "user_sync: events %" PRIu64 " to %" PRIu64 " of %s may be missing (%s)\n",
            gap->from_seq, gap->to_seq, gap->pattern, gap->reason);
}

static void on_state(void *user, eb_client_state state, const char *why)
{
    (void)user;
    if (state == EB_STATE_CONNECTED)
        fprintf(stderr, "user_sync: connected\n");
    else if (state == EB_STATE_WAITING)
        fprintf(stderr, "user_sync: disconnected (%s), trying again\n", why ? why : "");
}

static int follow(struct sync *sync, eb_subscription *subscription)
{
    const eb_message *message;
    char epoch[37];
    while (!ending) {
        int rc = eb_subscription_next(subscription, &message, 200);
        if (rc < 0)
            return complain("subscription", eb_result_text(rc));
        if (rc == 0)
            continue;
        eb_subscription_position(subscription, epoch);
        /* The event and the cursor in one transaction. When it fails, the next start takes it up again. */
        rc = eb_once_apply(sync->once, message, epoch, apply, NULL);
        if (rc < 0)
            return complain("an event was not applied", sqlite3_errmsg(sync->db));
    }
    return 0;
}

static int sync_users(struct sync *sync)
{
    eb_client_options options = EB_CLIENT_OPTIONS_INIT;
    eb_subscribe_options subscribe = EB_SUBSCRIBE_OPTIONS_INIT;
    eb_client *client = NULL;
    eb_subscription *subscription = NULL;
    const char *why = NULL;

    options.url = sync->url;
    options.state = on_state;
    int rc = eb_client_open(&options, &client, &why);
    if (rc < 0)
        return complain(sync->url, why ? why : eb_result_text(rc));
    subscribe.pattern = "user.*";
    eb_once_resume(sync->once, &subscribe);
    fprintf(stderr, "user_sync: going on behind seq %" PRIu64 "\n", subscribe.starting_seq - 1);
    subscribe.gap = on_gap;
    rc = eb_client_subscribe(client, &subscribe, 0, &subscription);
    if (rc < 0)
        complain("subscribe", eb_result_text(rc));
    else
        rc = follow(sync, subscription);
    eb_client_close(client, 1000);
    return rc;
}

/* ---- GET /users ---- */

static struct json_object *list_users(const char *path)
{
    sqlite3 *db = NULL;
    sqlite3_stmt *stmt = NULL;
    struct json_object *list = json_object_new_array();
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READONLY, NULL) == SQLITE_OK &&
        sqlite3_prepare_v2(db, "SELECT id, username, events FROM users ORDER BY id", -1, &stmt,
                           NULL) == SQLITE_OK) {
        while (sqlite3_step(stmt) == SQLITE_ROW) {
            struct json_object *user = json_object_new_object();
            json_object_object_add(user, "id",
                                   json_object_new_int64(sqlite3_column_int64(stmt, 0)));
            json_object_object_add(
                user, "username",
                json_object_new_string((const char *)sqlite3_column_text(stmt, 1)));
            json_object_object_add(user, "events",
                                   json_object_new_int64(sqlite3_column_int64(stmt, 2)));
            json_object_array_add(list, user);
        }
    }
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return list;
}

static enum MHD_Result answer(void *cls, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_size, void **req_cls)
{
    const struct sync *sync = cls;
    (void)version, (void)upload, (void)upload_size, (void)req_cls;
    if (strcmp(method, "GET") != 0 || strcmp(url, "/users") != 0) {
        static char nothing[] =
            "{\"title\":\"Not found\",\"status\":404,\"detail\":\"there is only GET /users\"}";
        struct MHD_Response *response =
            MHD_create_response_from_buffer(strlen(nothing), nothing, MHD_RESPMEM_PERSISTENT);
        MHD_add_response_header(response, "Content-Type", "application/problem+json");
        enum MHD_Result rc = MHD_queue_response(connection, MHD_HTTP_NOT_FOUND, response);
        MHD_destroy_response(response);
        return rc;
    }
    struct json_object *users = list_users(sync->path);
    const char *text = json_object_to_json_string_ext(users, JSON_C_TO_STRING_PLAIN);
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_MUST_COPY);
    MHD_add_response_header(response, "Content-Type", "application/json");
    enum MHD_Result rc = MHD_queue_response(connection, MHD_HTTP_OK, response);
    MHD_destroy_response(response);
    json_object_put(users);
    return rc;
}

static struct MHD_Daemon *serve(struct sync *sync)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)sync->port),
                                  .sin_addr = {htonl(INADDR_LOOPBACK)}};
    return MHD_start_daemon(MHD_USE_POLL_INTERNAL_THREAD, 0, NULL, NULL, answer, sync,
                            MHD_OPTION_SOCK_ADDR, &address, MHD_OPTION_END);
}

static int parse_arguments(int argc, char **argv, struct sync *sync)
{
    static const struct option options[] = {{"url", required_argument, NULL, 'u'},
                                            {"db", required_argument, NULL, 'd'},
                                            {"port", required_argument, NULL, 'p'},
                                            {0}};
    int opt;
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        char *rest;
        if (opt == 'p' && (sync->port = (int)strtol(optarg, &rest, 10), *rest == '\0') &&
            sync->port >= 0 && sync->port <= 65535)
            continue;
        if (opt == 'u')
            sync->url = optarg;
        else if (opt == 'd')
            sync->path = optarg;
        else
            return -1;
    }
    return optind == argc ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct sync sync = {.url = "ws://127.0.0.1:3000/ws", .path = "users_copy.db", .port = 5000};
    if (parse_arguments(argc, argv, &sync) < 0) {
        fprintf(stderr, "usage: user_sync [--url URL] [--db FILE] [--port N]\n");
        return 2;
    }
    signal(SIGINT, end);
    signal(SIGTERM, end);
    if (open_copy(&sync) < 0)
        return 1;
    struct MHD_Daemon *daemon = serve(&sync);
    if (!daemon)
        return complain("cannot serve", "is the port taken?"), 1;
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
    printf("user_sync: http://127.0.0.1:%u/users\n", info ? info->port : (unsigned)sync.port);
    fflush(stdout);
    int rc = sync_users(&sync);
    MHD_stop_daemon(daemon);
    eb_once_close(sync.once);
    sqlite3_close(sync.db);
    return rc < 0 ? 1 : 0;
}
