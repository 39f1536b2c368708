/* test_handover.c - <eventbus/broker_mhd.h>: a program's own libmicrohttpd daemon serves the bus, over real sockets. */
#include "tests/unit/broker/embed_fixture.h"

#include <arpa/inet.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "broker/include/eventbus/broker_mhd.h"

/* A program with a handler of its own beside the bus. */
struct host {
    eb_broker *broker;
    struct MHD_Daemon *daemon;
    bool hand_everything, spoil;
    atomic_int own, foreign_cls, completed;
};

static enum MHD_Result answer_own(struct host *host, struct MHD_Connection *connection,
                                  void **req_cls)
{
    static int mark;
    static char text[] = "own";
    if (!*req_cls) { /* first call of the program's own request */
        *req_cls = &mark;
        return MHD_YES;
    }
    if (*req_cls != &mark)
        atomic_fetch_add(&host->foreign_cls, 1);
    atomic_fetch_add(&host->own, 1);
    struct MHD_Response *response =
        MHD_create_response_from_buffer(3, text, MHD_RESPMEM_PERSISTENT);
    enum MHD_Result result = MHD_queue_response(connection, 200, response);
    MHD_destroy_response(response);
    return result;
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *data,
                              size_t *size, void **req_cls)
{
    struct host *host = cls;
    static int spoilt;
    if (host->spoil)
        *req_cls = &spoilt;
    if (host->hand_everything || eb_broker_mhd_wants(host->broker, url))
        return eb_broker_mhd_handle(host->broker, connection, url, method, version, data, size,
                                    req_cls);
    return answer_own(host, connection, req_cls);
}

static void completed(void *cls, struct MHD_Connection *connection, void **req_cls,
                      enum MHD_RequestTerminationCode why)
{
    struct host *host = cls;
    void *before = *req_cls;
    eb_broker_mhd_completed(host->broker, connection, req_cls, why);
    if (before && before == *req_cls)
        atomic_fetch_add(&host->completed, 1);
}

static void serve(struct host *host, unsigned flags, struct MHD_OptionItem *options)
{
    struct MHD_OptionItem none[] = {{MHD_OPTION_END, 0, NULL}};
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    host->daemon = MHD_start_daemon(flags, 0, NULL, NULL, handle, host, MHD_OPTION_SOCK_ADDR, &sin,
                                    MHD_OPTION_ARRAY, options ? options : none, MHD_OPTION_END);
    assert_non_null(host->daemon);
}

static void host_start(struct host *host, const char *const *settings)
{
    *host = (struct host){.broker = start(settings)};
    serve(host, MHD_USE_POLL_INTERNAL_THREAD | eb_broker_mhd_flags(),
          eb_broker_mhd_options(host->broker));
}

static void host_stop(struct host *host)
{
    eb_broker_quiesce(host->broker);
    MHD_stop_daemon(host->daemon);
    eb_broker_stop(host->broker);
}

/* ---- a client, by hand ---- */

static int dial(const struct host *host)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(host->daemon, MHD_DAEMON_INFO_BIND_PORT);
    struct sockaddr_in sin = {.sin_family = AF_INET,
                              .sin_port = htons(info->port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = PATIENCE_S};
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    assert_int_equal(connect(fd, (struct sockaddr *)&sin, sizeof sin), 0);
    return fd;
}

/* Send, then read until @until is in what came, or the end. The text is static. */
static const char *talk(int fd, const char *request, const char *until)
{
    static _Thread_local char text[65536];
    size_t len = 0;
    ssize_t got = 1;
    assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
    text[0] = '\0';
    while (!(until && strstr(text, until)) && len + 1 < sizeof text && got > 0) {
        got = recv(fd, text + len, sizeof text - 1 - len, 0);
        len += got > 0 ? (size_t)got : 0;
        text[len] = '\0';
    }
    return text;
}

/* One request on a connection of its own. */
static const char *ask(const struct host *host, const char *head, const char *body)
{
    char request[4096];
    int fd = dial(host);
    snprintf(request, sizeof request,
             "%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
             head, strlen(body), body);
    const char *answer = talk(fd, request, NULL);
    close(fd);
    return answer;
}

static void assert_says(const char *answer, const char *status, const char *word)
{
    if (!strstr(answer, status) || !strstr(answer, word))
        fail_msg("not \"%s\" with \"%s\" but: %s", status, word, answer);
}

#define UPGRADE                                                                                    \
    "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"         \
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"

static int open_ws(const struct host *host)
{
    int fd = dial(host);
    assert_says(talk(fd, UPGRADE, "\r\n\r\n"), "101", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    return fd;
}

static int open_stream(const struct host *host)
{
    int fd = dial(host);
    const char *answer =
        talk(fd, "GET /v1/stream?pattern=%23 HTTP/1.1\r\nHost: localhost\r\n\r\n", "event: open");
    assert_says(answer, "200", "event: open");
    return fd;
}

/* ---- what is served ---- */

/* Publish, read, stream and WebSocket through the program's daemon; %2F in a topic stays a byte of it. */
static void bus_is_served_by_the_hosts_daemon(void **state)
{
    struct host host;
    host_start(&host, NULL);
    int stream = open_stream(&host), ws = open_ws(&host);
    assert_says(ask(&host, "POST /v1/topics/a%2Fb/events", "hello"), "201", "\"seq\":1");
    assert_says(talk(stream, "", "hello"), "a/b", "hello");
    assert_says(ask(&host, "GET /v1/events/1", ""), "200", "\"topic\":\"a/b\"");
    assert_says(ask(&host, "GET /v1/nothing", ""), "404", "problem+json");
    assert_says(ask(&host, "GET /%77s", ""), "404", "not_found");
    assert_says(ask(&host, "GET http://localhost/v1/stats", ""), "200", "\"streams\":1");
    close(stream);
    close(ws);
    host_stop(&host);
}

/* The program's own URLs: *req_cls comes as NULL, and no callback of the bus touches it. */
static void own_requests_are_the_hosts(void **state)
{
    struct host host = {.broker = start(NULL)};
    struct MHD_OptionItem options[] = {
        {MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)eb_broker_mhd_raw_uri, host.broker},
        {MHD_OPTION_NOTIFY_COMPLETED, (intptr_t)completed, &host},
        {MHD_OPTION_END, 0, NULL}};
    serve(&host, MHD_USE_POLL_INTERNAL_THREAD | eb_broker_mhd_flags(), options);
    static const char *const urls[] = {"GET /",    "GET /healthz",      "GET /v2",
                                       "GET /v11", "GET /api/v1/users", "GET /wss"};
    for (size_t i = 0; i < sizeof urls / sizeof *urls; i++)
        assert_says(ask(&host, urls[i], ""), "200", "own");
    int fd = dial(&host); /* one connection, in turn ours and theirs */
    for (int i = 0; i < 3; i++) {
        assert_says(talk(fd, "GET /own HTTP/1.1\r\nHost: localhost\r\n\r\n", "own"), "200", "own");
        assert_says(talk(fd, "GET /v1/topics HTTP/1.1\r\nHost: localhost\r\n\r\n", "]"), "200",
                    "topics");
    }
    close(fd);
    host_stop(&host);
    assert_int_equal(host.own, 9);
    assert_int_equal(host.completed, 9);
    assert_int_equal(host.foreign_cls, 0);
}

/* What the bus does not claim it answers when it is handed over. */
static void host_may_hand_over_more(void **state)
{
    struct host host;
    host_start(&host, NULL);
    host.hand_everything = true;
    assert_says(ask(&host, "GET /healthz", ""), "200", "");
    assert_says(ask(&host, "GET /readyz", ""), "200", "");
    assert_says(ask(&host, "GET /metrics", ""), "200", "eventbus_");
    assert_says(ask(&host, "GET /elsewhere", ""), "404", "not_found");
    host_stop(&host);
}

/* A WebSocket is none of the daemon's connections once it has its 101: more of them than the daemon may have. */
static void websockets_leave_the_hosts_daemon(void **state)
{
    enum { LIMIT = 3, SOCKETS = 10 };
    struct host host = {.broker = start(NULL)};
    struct MHD_OptionItem options[] = {eb_broker_mhd_options(host.broker)[0],
                                       eb_broker_mhd_options(host.broker)[1],
                                       {MHD_OPTION_CONNECTION_LIMIT, LIMIT, NULL},
                                       {MHD_OPTION_END, 0, NULL}};
    int sockets[SOCKETS];
    serve(&host, MHD_USE_POLL_INTERNAL_THREAD | eb_broker_mhd_flags(), options);
    for (int i = 0; i < SOCKETS; i++)
        sockets[i] = open_ws(&host);
    assert_says(ask(&host, "GET /own", ""), "200", "own");
    assert_says(ask(&host, "GET /v1/stats", ""), "200", "\"connections\":10");
    for (int i = 0; i < SOCKETS; i++)
        assert_says(talk(sockets[i], "\x89\x80\1\1\1\1", "\x8a"), "\x8a", ""); /* ping, pong */
    for (int i = 0; i < SOCKETS; i++)
        close(sockets[i]);
    while (!strstr(ask(&host, "GET /v1/stats", ""), "\"connections\":0,"))
        sched_yield();
    host_stop(&host);
}

/* ---- what the daemon lacks ---- */

/* Each thing that is missing is named in a 500; nothing is suspended, so nothing aborts. */
static void what_the_daemon_lacks_is_named(void **state)
{
    struct host host = {.broker = start(NULL)};
    struct MHD_OptionItem *both = eb_broker_mhd_options(host.broker);
    const unsigned poll = MHD_USE_POLL_INTERNAL_THREAD;
    const struct {
        unsigned flags;
        struct MHD_OptionItem *options;
        const char *names;
    } cases[] = {
        {poll, both, "MHD_ALLOW_SUSPEND_RESUME"},
        {poll | MHD_USE_ITC, both, "MHD_ALLOW_SUSPEND_RESUME"},
        {poll | MHD_ALLOW_SUSPEND_RESUME, both, "MHD_ALLOW_UPGRADE"},
        {poll | eb_broker_mhd_flags(), both + 1, "MHD_OPTION_URI_LOG_CALLBACK"},
        {poll | eb_broker_mhd_flags(), NULL, "MHD_OPTION_URI_LOG_CALLBACK"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        serve(&host, cases[i].flags, cases[i].options);
        assert_says(ask(&host, "POST /v1/topics/a/events", "x"), "500", cases[i].names);
        assert_says(ask(&host, "GET /v1/stream?pattern=a", ""), "500", cases[i].names);
        int fd = dial(&host);
        assert_says(talk(fd, UPGRADE, "}\n"), "500", cases[i].names);
        close(fd);
        assert_says(ask(&host, "GET /own", ""), "200", "own");
        MHD_stop_daemon(host.daemon);
    }
    assert_int_equal(eb_broker_last_seq(host.broker), 0);
    eb_broker_stop(host.broker);
}

/* A missing completion callback shows when a connection goes on: from then on that daemon is refused. */
static void missing_completion_is_found_out(void **state)
{
    static const char *const settings[] = {"drain_timeout", "100ms", NULL};
    struct host host = {.broker = start(settings)};
    struct MHD_OptionItem options[] = {eb_broker_mhd_options(host.broker)[0],
                                       {MHD_OPTION_END, 0, NULL}};
    static const char *const request = "GET /v1/topics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    serve(&host, MHD_USE_POLL_INTERNAL_THREAD | eb_broker_mhd_flags(), options);
    int fd = dial(&host);
    assert_says(talk(fd, request, "]"), "200", "topics");
    assert_says(talk(fd, request, "}\n"), "500", "MHD_OPTION_NOTIFY_COMPLETED");
    close(fd);
    assert_says(ask(&host, "GET /v1/topics", ""), "500", "MHD_OPTION_NOTIFY_COMPLETED");
    assert_says(ask(&host, "GET /own", ""), "200", "own");
    host_stop(&host);
}

/* A handler that has put something of its own into *req_cls is told so; it is not mistaken for ours. */
static void spoilt_req_cls_is_not_believed(void **state)
{
    struct host host;
    host_start(&host, NULL);
    host.spoil = true;
    assert_says(ask(&host, "POST /v1/topics/a/events", "x"), "500", "req_cls");
    host_stop(&host);
}

/* A request that libmicrohttpd refuses by itself is announced and never handed over: it holds up no end. */
static void refused_by_the_daemon_holds_up_nothing(void **state)
{
    static char large[70000];
    struct host host;
    host_start(&host, NULL);
    strcpy(large, "GET /v1/topics HTTP/1.1\r\nHost: localhost\r\nX: ");
    memset(large + strlen(large), 'x', sizeof large - strlen(large) - 1);
    for (int i = 0; i < 3; i++) {
        int fd = dial(&host);
        char answer[256] = "";
        send(fd, large, sizeof large - 1, MSG_NOSIGNAL);
        recv(fd, answer, sizeof answer - 1, 0);
        close(fd);
        assert_says(ask(&host, "GET /v1/topics", ""), "200", "topics");
    }
    time_t before = time(NULL);
    host_stop(&host); /* drain_timeout is 10 s */
    assert_true(time(NULL) - before < 8);
}

/* ---- the end ---- */

static void *publish_over_http(void *arg)
{
    size_t stored = 0;
    int fd = dial(arg);
    static const char request[] =
        "POST /v1/topics/a/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx";
    char answer[2048];
    for (ssize_t got = 1; got > 0;) {
        if (send(fd, request, sizeof request - 1, MSG_NOSIGNAL) < 0)
            break;
        size_t len = 0;
        do {
            got = recv(fd, answer + len, sizeof answer - 1 - len, 0);
            len += got > 0 ? (size_t)got : 0;
            answer[len] = '\0';
        } while (got > 0 && !strstr(answer, "}\n"));
        stored += strstr(answer, " 201 ") != NULL;
        if (strstr(answer, " 503 "))
            break;
    }
    close(fd);
    return (void *)stored;
}

/*
 * Quiesce, stop the daemon, stop the broker: with streams and WebSockets open and publishers at work. Streams end
 * their bodies, WebSockets get 1001, every 201 is in the log, later requests get 503, and nothing aborts.
 */
static void end_under_load(const char *const *settings, bool orderly)
{
    enum { STREAMS = 12, SOCKETS = 4, PUBLISHERS = 3 };
    struct host host;
    int streams[STREAMS], sockets[SOCKETS];
    pthread_t publishers[PUBLISHERS];
    size_t stored = 0;
    host_start(&host, settings);
    for (int i = 0; i < STREAMS; i++)
        streams[i] = open_stream(&host);
    for (int i = 0; i < SOCKETS; i++)
        sockets[i] = open_ws(&host);
    for (int i = 0; i < PUBLISHERS; i++)
        pthread_create(&publishers[i], NULL, publish_over_http, &host);
    while (eb_broker_last_seq(host.broker) < 50)
        sched_yield();
    eb_broker_quiesce(host.broker);
    assert_says(ask(&host, "POST /v1/topics/a/events", "x"), "503", "unavailable");
    int fd = dial(&host);
    assert_says(talk(fd, UPGRADE, "}\n"), "503", "unavailable");
    close(fd);
    MHD_stop_daemon(host.daemon);
    for (int i = 0; i < PUBLISHERS; i++) {
        void *count;
        pthread_join(publishers[i], &count);
        stored += (size_t)count;
    }
    if (orderly)
        assert_int_equal(eb_broker_last_seq(host.broker), stored);
    else
        assert_true(eb_broker_last_seq(host.broker) >= stored);
    eb_broker_stop(host.broker);
    for (int i = 0; i < STREAMS; i++) {
        const char *rest = talk(streams[i], "", NULL);
        if (orderly)
            assert_non_null(strstr(rest, "\r\n0\r\n\r\n"));
        close(streams[i]);
    }
    for (int i = 0; i < SOCKETS; i++) {
        unsigned char close_frame[4] = {0};
        assert_int_equal(recv(sockets[i], close_frame, 4, MSG_WAITALL), 4);
        assert_memory_equal(close_frame, "\x88\x02\x03\xe9", 4);
        close(sockets[i]);
    }
}

static void end_is_orderly_under_load(void **state)
{
    /* the WebSockets here never answer a close frame: they are waited for as long */
    static const char *const settings[] = {"drain_timeout", "3s", NULL};
    end_under_load(settings, true);
}

/* Without any patience the end is abrupt for the peers, never for the process. */
static void end_without_patience_aborts_nothing(void **state)
{
    static const char *const settings[] = {"drain_timeout", "0", NULL};
    for (int i = 0; i < 2; i++) {
        end_under_load(settings, false);
        folder_remove(NULL);
        folder_make(NULL);
    }
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, folder_make, folder_remove)
    const struct CMUnitTest tests[] = {
        CASE(bus_is_served_by_the_hosts_daemon), CASE(websockets_leave_the_hosts_daemon),
        CASE(own_requests_are_the_hosts),        CASE(host_may_hand_over_more),
        CASE(what_the_daemon_lacks_is_named),    CASE(missing_completion_is_found_out),
        CASE(spoilt_req_cls_is_not_believed),    CASE(refused_by_the_daemon_holds_up_nothing),
        CASE(end_is_orderly_under_load),         CASE(end_without_patience_aborts_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
