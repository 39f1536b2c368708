/*
 * user_service.c - a service with an HTTP API and a database of its own that embeds the bus.
 *
 * One libmicrohttpd daemon serves both: POST /api/users and GET /api/users are answered here, /ws, /v1 and the
 * probes are handed over to the bus (<eventbus/broker_mhd.h>). A new user is stored in users.db and announced as
 * `user.created`; user_sync.c follows these events.
 *
 *   user_service [--port 3000] [--db users.db] [--bus eventbus.db]
 *   curl -d '{"id":1,"username":"alice"}' http://127.0.0.1:3000/api/users
 *
 * Two files are written, and no transaction spans both. So the event goes into a table of users.db first, in the
 * transaction that stores the user (<eventbus/broker_outbox.h>); a thread of the bus brings it into the log behind that,
 * once, whatever is killed when. There is no moment at which a user is stored and his event can be lost, or the other way
 * round.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <json-c/json.h>
#include <microhttpd.h>
#include <sqlite3.h>

#include <eventbus/broker.h>
#include <eventbus/broker_mhd.h>
#include <eventbus/broker_outbox.h>

enum { BODY_MAX = 64 * 1024, NAME_MAX_BYTES = 64 };
#define ID_MAX ((int64_t)1 << 53)

struct service {
    eb_broker *broker;
    eb_broker_outbox *outbox;
    pthread_mutex_t lock; /* db: a transaction is one thread's */
    sqlite3 *db;
    const char *db_path, *bus_path;
    int port;
};

struct user {
    int64_t id;
    const char *name;
};

/* One request to /api, from its first piece to its completion. */
struct request {
    char body[BODY_MAX + 1];
    size_t len; /* above BODY_MAX: too much came */
};

static int complain(const char *what, const char *why)
{
    fprintf(stderr, "user_service: %s: %s\n", what, why);
    return -1;
}

/* ---- the users ---- */

static int open_users(struct service *service)
{
    char *why = NULL;
    if (sqlite3_open_v2(service->db_path, &service->db,
                        SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX,
                        NULL) != SQLITE_OK)
        return complain(service->db_path, sqlite3_errmsg(service->db));
    sqlite3_extended_result_codes(service->db, 1);
    if (sqlite3_exec(
            service->db,
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;"
            "CREATE TABLE IF NOT EXISTS users(id INTEGER PRIMARY KEY, username TEXT NOT NULL)",
            NULL, NULL, &why) == SQLITE_OK) {
        sqlite3_busy_timeout(service->db,
                             5000); /* the outbox's thread deletes there what it has relayed */
        return 0;
    }
    complain(service->db_path, why);
    sqlite3_free(why);
    return -1;
}

static int exec(struct service *service, const char *sql)
{
    return sqlite3_exec(service->db, sql, NULL, NULL, NULL);
}

static struct json_object *user_json(const struct user *user)
{
    struct json_object *object = json_object_new_object();
    json_object_object_add(object, "id", json_object_new_int64(user->id));
    json_object_object_add(object, "username", json_object_new_string(user->name));
    return object;
}

static const char *text_of(struct json_object *object)
{
    return json_object_to_json_string_ext(object,
                                          JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
}

static int insert(struct service *service, const struct user *user)
{
    sqlite3_stmt *stmt;
    int rc = sqlite3_prepare_v2(service->db, "INSERT INTO users(id, username) VALUES (?1, ?2)", -1,
                                &stmt, NULL);
    if (rc != SQLITE_OK)
        return rc;
    sqlite3_bind_int64(stmt, 1, user->id);
    sqlite3_bind_text(stmt, 2, user->name, -1, SQLITE_STATIC);
    rc = sqlite3_step(stmt);
    sqlite3_finalize(stmt);
    return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

/* The event that announces a user, in the transaction that is open. */
static int announce(struct service *service, const struct user *user)
{
    char message_id[64], err[EB_BROKER_ERROR];
    struct json_object *object = user_json(user);
    const char *payload = text_of(object);
    snprintf(message_id, sizeof message_id, "user_service/user.created/%lld", (long long)user->id);
    eb_broker_publish event = {.topic = "user.created",
                               .payload = payload,
                               .payload_len = strlen(payload),
                               .content_type = "application/json",
                               .message_id = message_id,
                               .ttl_s = -1};
    int rc = eb_broker_outbox_add(service->outbox, service->db, &event, NULL, err);
    json_object_put(object);
    if (rc < 0)
        complain("cannot announce", err);
    return rc < 0 ? SQLITE_ERROR : SQLITE_OK;
}

/* The user and the event: both are there once this has returned SQLITE_OK, else neither. */
static int store(struct service *service, const struct user *user)
{
    pthread_mutex_lock(&service->lock);
    int rc = exec(service, "BEGIN IMMEDIATE");
    if (rc == SQLITE_OK)
        rc = insert(service, user);
    if (rc == SQLITE_OK)
        rc = announce(service, user);
    if (rc == SQLITE_OK)
        rc = exec(service, "COMMIT");
    if (rc == SQLITE_OK)
        eb_broker_outbox_wake(service->outbox);
    else if (!sqlite3_get_autocommit(service->db))
        exec(service, "ROLLBACK");
    pthread_mutex_unlock(&service->lock);
    return rc;
}

/* ---- answers ---- */

static enum MHD_Result answer(struct MHD_Connection *connection, unsigned status, const char *type,
                              struct json_object *object)
{
    const char *text = text_of(object);
    struct MHD_Response *response =
        MHD_create_response_from_buffer(strlen(text), (void *)text, MHD_RESPMEM_MUST_COPY);
    json_object_put(object);
    if (!response)
        return MHD_NO;
    MHD_add_response_header(response, "Content-Type", type);
    if (status == MHD_HTTP_METHOD_NOT_ALLOWED)
        MHD_add_response_header(response, "Allow", "GET, POST");
    if (status == MHD_HTTP_SERVICE_UNAVAILABLE)
        MHD_add_response_header(response, "Retry-After", "1");
    enum MHD_Result result = MHD_queue_response(connection, status, response);
    MHD_destroy_response(response);
    return result;
}

/* An error in the form of RFC 9457. */
static enum MHD_Result problem(struct MHD_Connection *connection, unsigned status,
                               const char *title, const char *detail)
{
    struct json_object *object = json_object_new_object();
    json_object_object_add(object, "type", json_object_new_string("about:blank"));
    json_object_object_add(object, "title", json_object_new_string(title));
    json_object_object_add(object, "status", json_object_new_int((int)status));
    json_object_object_add(object, "detail", json_object_new_string(detail));
    return answer(connection, status, "application/problem+json", object);
}

/* ---- POST /api/users ---- */

static struct json_object *parse(const struct request *request)
{
    struct json_tokener *tokener = json_tokener_new();
    json_tokener_set_flags(tokener, JSON_TOKENER_STRICT | JSON_TOKENER_VALIDATE_UTF8);
    struct json_object *object =
        json_tokener_parse_ex(tokener, request->body, (int)request->len + 1); /* with its NUL */
    if (json_tokener_get_error(tokener) != json_tokener_success ||
        strlen(request->body) != request->len) {
        json_object_put(object);
        object = NULL;
    }
    json_tokener_free(tokener);
    return object;
}

static bool is_name(const char *name, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if ((unsigned char)name[i] < 0x20 || name[i] == 0x7f)
            return false;
    return len >= 1 && len <= NAME_MAX_BYTES;
}

/* NULL, or what is wrong with it. @ret borrows from @object. */
static const char *check(struct json_object *object, struct user *ret)
{
    struct json_object *id = NULL, *name = NULL;
    if (!json_object_is_type(object, json_type_object))
        return "the body must be a JSON object like {\"id\":1,\"username\":\"alice\"}";
    if (!json_object_object_get_ex(object, "id", &id))
        return "\"id\" is missing: it must be an integer from 1";
    if (!json_object_is_type(id, json_type_int) || json_object_get_int64(id) < 1 ||
        json_object_get_int64(id) >= ID_MAX)
        return "\"id\" must be an integer from 1 and below 2^53";
    if (!json_object_object_get_ex(object, "username", &name))
        return "\"username\" is missing: it must be a string";
    if (!json_object_is_type(name, json_type_string) ||
        !is_name(json_object_get_string(name), (size_t)json_object_get_string_len(name)))
        return "\"username\" must be a string of 1 to 64 bytes without control characters";
    *ret = (struct user){json_object_get_int64(id), json_object_get_string(name)};
    return NULL;
}

static enum MHD_Result create_user(struct service *service, struct MHD_Connection *connection,
                                   const struct user *user)
{
    int rc = store(service, user);
    if (rc == SQLITE_CONSTRAINT_PRIMARYKEY)
        return problem(connection, MHD_HTTP_CONFLICT, "Conflict", "there is a user with this id");
    if (rc != SQLITE_OK)
        return problem(connection, MHD_HTTP_INTERNAL_SERVER_ERROR, "Not stored",
                       sqlite3_errstr(rc));
    return answer(connection, MHD_HTTP_CREATED, "application/json", user_json(user));
}

static enum MHD_Result post_user(struct service *service, struct MHD_Connection *connection,
                                 const struct request *request)
{
    struct user user;
    if (request->len > BODY_MAX)
        return problem(connection, MHD_HTTP_CONTENT_TOO_LARGE, "Body too large",
                       "a user has at most 64 KiB");
    struct json_object *object = parse(request);
    if (!object)
        return problem(connection, MHD_HTTP_BAD_REQUEST, "Bad request", "the body is not JSON");
    const char *wrong = check(object, &user);
    enum MHD_Result result = wrong ? problem(connection, MHD_HTTP_BAD_REQUEST, "Bad request", wrong)
                                   : create_user(service, connection, &user);
    json_object_put(object);
    return result;
}

static enum MHD_Result list_users(struct service *service, struct MHD_Connection *connection)
{
    struct json_object *list = json_object_new_array();
    sqlite3_stmt *stmt = NULL;
    pthread_mutex_lock(&service->lock);
    sqlite3_prepare_v2(service->db, "SELECT id, username FROM users ORDER BY id", -1, &stmt, NULL);
    while (sqlite3_step(stmt) == SQLITE_ROW) {
        struct user user = {sqlite3_column_int64(stmt, 0),
                            (const char *)sqlite3_column_text(stmt, 1)};
        json_object_array_add(list, user_json(&user));
    }
    sqlite3_finalize(stmt);
    pthread_mutex_unlock(&service->lock);
    return answer(connection, MHD_HTTP_OK, "application/json", list);
}

/* ---- the daemon ---- */

static enum MHD_Result serve_api(struct service *service, struct MHD_Connection *connection,
                                 const char *url, const char *method, const char *data,
                                 size_t *size, void **req_cls)
{
    struct request *request = *req_cls;
    if (!request) { /* the headers are in */
        *req_cls = calloc(1, sizeof *request);
        return *req_cls ? MHD_YES : MHD_NO;
    }
    if (*size > 0) { /* a piece of the body */
        size_t room = request->len < BODY_MAX ? BODY_MAX - request->len : 0;
        memcpy(request->body + (BODY_MAX - room), data, *size < room ? *size : room);
        request->len += *size;
        *size = 0;
        return MHD_YES;
    }
    if (strcmp(url, "/api/users") != 0)
        return problem(connection, MHD_HTTP_NOT_FOUND, "Not found",
                       "there are /api/users, and the bus at /ws and /v1");
    if (strcmp(method, "POST") == 0)
        return post_user(service, connection, request);
    if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0)
        return list_users(service, connection);
    return problem(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "Method not allowed",
                   "/api/users is answered to GET and POST");
}

static bool is_probe(const char *url)
{
    return strcmp(url, "/healthz") == 0 || strcmp(url, "/readyz") == 0 ||
           strcmp(url, "/metrics") == 0;
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *data,
                              size_t *size, void **req_cls)
{
    struct service *service = cls;
    if (eb_broker_mhd_wants(service->broker, url) || is_probe(url))
        return eb_broker_mhd_handle(service->broker, connection, url, method, version, data, size,
                                    req_cls);
    return serve_api(service, connection, url, method, data, size, req_cls);
}

/* The bus takes what is its own and leaves NULL; what is left is ours. */
static void completed(void *cls, struct MHD_Connection *connection, void **req_cls,
                      enum MHD_RequestTerminationCode why)
{
    struct service *service = cls;
    eb_broker_mhd_completed(service->broker, connection, req_cls, why);
    free(*req_cls);
    *req_cls = NULL;
}

static struct MHD_Daemon *serve(struct service *service)
{
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t)service->port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    return MHD_start_daemon(MHD_USE_POLL_INTERNAL_THREAD | eb_broker_mhd_flags(), 0, NULL, NULL,
                            handle, service, MHD_OPTION_SOCK_ADDR, &address,
                            MHD_OPTION_THREAD_POOL_SIZE, 4u, MHD_OPTION_URI_LOG_CALLBACK,
                            eb_broker_mhd_raw_uri, service->broker, MHD_OPTION_NOTIFY_COMPLETED,
                            completed, service, MHD_OPTION_END);
}

static int start_bus(struct service *service)
{
    char err[EB_BROKER_ERROR] = "out of memory";
    eb_broker_config *config = eb_broker_config_create();
    int rc = -ENOMEM;
    if (config)
        rc = eb_broker_config_set(config, "db", service->bus_path, err);
    if (rc == 0)
        rc = eb_broker_start(config, &service->broker, err);
    eb_broker_config_destroy(config);
    if (rc == 0)
        rc = eb_broker_outbox_open(service->broker, service->db_path, 0, &service->outbox, err);
    return rc < 0 ? complain("cannot start the bus", err) : 0;
}

/* Serve until SIGINT or SIGTERM. */
static int serve_until_the_end(struct service *service, const sigset_t *signals)
{
    int signal_number;
    struct MHD_Daemon *daemon = serve(service);
    if (!daemon)
        return complain("cannot serve", "is the port taken?");
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
    printf("user_service: http://127.0.0.1:%u/api/users\n",
           info && info->port ? info->port : (unsigned)service->port);
    fflush(stdout);
    sigwait(signals, &signal_number);
    eb_broker_quiesce(service->broker); /* before the daemon: nothing is suspended any more */
    MHD_stop_daemon(daemon);
    return 0;
}

static int parse_arguments(int argc, char **argv, struct service *service)
{
    static const struct option options[] = {{"port", required_argument, NULL, 'p'},
                                            {"db", required_argument, NULL, 'd'},
                                            {"bus", required_argument, NULL, 'b'},
                                            {0}};
    int opt;
    while ((opt = getopt_long(argc, argv, "", options, NULL)) != -1) {
        char *end;
        if (opt == 'p' && (service->port = (int)strtol(optarg, &end, 10),
                           *end == '\0' && service->port >= 0 && service->port <= 65535))
            continue;
        if (opt == 'd')
            service->db_path = optarg;
        else if (opt == 'b')
            service->bus_path = optarg;
        else
            return -1;
    }
    return optind == argc ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct service service = {.db_path = "users.db",
                              .bus_path = "eventbus.db",
                              .port = 3000,
                              .lock = PTHREAD_MUTEX_INITIALIZER};
    sigset_t signals;
    if (parse_arguments(argc, argv, &service) < 0) {
        fprintf(stderr, "usage: user_service [--port N] [--db FILE] [--bus FILE]\n");
        return 2;
    }
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before any thread is made */
    signal(SIGPIPE, SIG_IGN);
    eb_broker_log("warn", "text", NULL);
    int rc = open_users(&service);
    if (rc == 0)
        rc = start_bus(&service);
    if (rc == 0)
        rc = serve_until_the_end(&service, &signals);
    eb_broker_stop(
        service.broker); /* ends the outbox; what it has not relayed waits in its table */
    sqlite3_close(service.db);
    return rc < 0 ? 1 : 0;
}
