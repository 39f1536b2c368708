/*
 * connection.c - one WebSocket to the broker: TCP connect, upgrade, frames in and out. Belongs to `eb-client`.
 *
 * (X1) The socket is nonblocking from its first moment. Whatever waits here waits until a deadline, or until the
 *      wake descriptor says that the client is being closed.
 * (X2) wslay frames, masks (getrandom) and answers control frames; its sending goes into `out`, from where one
 *      send() takes many frames. Its reading comes out of `in`, which one recv() fills.
 * (X3) wslay takes a read of 0 for "again" (1.1.1): the end of the stream is flagged in `over`.
 * (X4) No SIGPIPE: every send() has MSG_NOSIGNAL.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <wslay/wslay.h>

#include "client/internal.h"
#include "common/error.h"

#define IN_SIZE       (64 * 1024)
#define READS_A_TURN  4
#define OUT_KEPT      (1024 * 1024) /* a larger buffer is given back when it is empty */
#define MASKS_AT_ONCE 256

struct eb_connection {
    eb_client *client;
    int fd;
    wslay_event_context_ptr ws;
    int (*message)(eb_client *client, const char *text, size_t len);
    bool stop;  /* the turn is over: leave the rest in `in` */
    bool over;  /* X3, or an error */
    bool heard; /* anything was read */
    unsigned reads;
    size_t in_at, in_len;
    struct eb_buf out;
    size_t out_at;
    size_t masks_at;
    unsigned char masks[MASKS_AT_ONCE];
    bool binary;   /* the subprotocol */
    bool in_close; /* the frame being read is a close */
    int close_code;
    size_t close_len;
    unsigned char close_frame[125];
    char why[240];
    char in[IN_SIZE];
};

static void say(struct eb_connection *connection, const char *what, int error)
{
    char text[128];

    if (connection->why[0])
        return;
    if (error)
        snprintf(connection->why, sizeof(connection->why), "%s: %s", what,
                 strerror_r(error, text, sizeof(text)));
    else
        snprintf(connection->why, sizeof(connection->why), "%s", what);
}

/* ---- wslay's callbacks ---- */

/* The next bytes of the kernel into `in`; false if there are none now, or never again. */
static bool fill(struct eb_connection *connection)
{
    ssize_t n;

    if (connection->over || connection->reads == 0)
        return false;
    connection->reads--;
    do
        n = recv(connection->fd, connection->in, IN_SIZE, 0);
    while (n < 0 && errno == EINTR);
    if (n > 0) {
        connection->in_at = 0;
        connection->in_len = (size_t)n;
        connection->heard = true;
        return true;
    }
    if (n == 0) {
        say(connection, "the broker closed the connection", 0);
        connection->over = true;
    } else if (errno != EAGAIN && errno != EWOULDBLOCK) {
        say(connection, "the connection broke", errno);
        connection->over = true;
    }
    connection->reads = 0;
    return false;
}

static ssize_t on_recv(wslay_event_context_ptr ws, uint8_t *buf, size_t len, int flags, void *user)
{
    struct eb_connection *connection = user;
    size_t have;

    if (connection->stop || (connection->in_at == connection->in_len && !fill(connection))) {
        wslay_event_set_error(ws, WSLAY_ERR_WOULDBLOCK);
        return -1;
    }
    have = connection->in_len - connection->in_at;
    if (len > have)
        len = have;
    memcpy(buf, connection->in + connection->in_at, len);
    connection->in_at += len;
    return (ssize_t)len;
}

static ssize_t on_send(wslay_event_context_ptr ws, const uint8_t *data, size_t len, int flags,
                       void *user)
{
    struct eb_connection *connection = user;

    eb_buf_add(&connection->out, data, len);
    if (eb_buf_failed(&connection->out)) {
        wslay_event_set_error(ws, WSLAY_ERR_CALLBACK_FAILURE);
        return -1;
    }
    return (ssize_t)len;
}

static int on_mask(wslay_event_context_ptr ws, uint8_t *buf, size_t len, void *user)
{
    struct eb_connection *connection = user;

    if (len > MASKS_AT_ONCE - connection->masks_at) {
        if (getrandom(connection->masks, MASKS_AT_ONCE, 0) != MASKS_AT_ONCE) {
            wslay_event_set_error(ws, WSLAY_ERR_CALLBACK_FAILURE);
            return -1;
        }
        connection->masks_at = 0;
    }
    memcpy(buf, connection->masks + connection->masks_at, len);
    connection->masks_at += len;
    return 0;
}

/*
 * A close frame's code and reason, as they come: wslay 1.1.1 takes 1012 to 1014 for broken framing and would not
 * show them, but 1013 is what a busy broker says (PROTOCOL 2.2).
 */
static void on_frame_start(wslay_event_context_ptr ws,
                           const struct wslay_event_on_frame_recv_start_arg *arg, void *user)
{
    struct eb_connection *connection = user;

    connection->in_close = arg->opcode == WSLAY_CONNECTION_CLOSE;
}

static void on_frame_chunk(wslay_event_context_ptr ws,
                           const struct wslay_event_on_frame_recv_chunk_arg *arg, void *user)
{
    struct eb_connection *connection = user;
    size_t room = sizeof(connection->close_frame) - connection->close_len;

    if (!connection->in_close)
        return;
    if (arg->data_length < room)
        room = arg->data_length;
    memcpy(connection->close_frame + connection->close_len, arg->data, room);
    connection->close_len += room;
}

static void on_frame_end(wslay_event_context_ptr ws, void *user)
{
    struct eb_connection *connection = user;
    const unsigned char *frame = connection->close_frame;
    char quoted[300] = "";

    if (!connection->in_close || connection->close_code != 0)
        return;
    connection->close_code =
        connection->close_len >= 2 ? frame[0] << 8 | frame[1] : WSLAY_CODE_NO_STATUS_RCVD;
    if (connection->close_len > 2)
        eb_quote(quoted, sizeof(quoted), (const char *)frame + 2, connection->close_len - 2);
    snprintf(connection->why, sizeof(connection->why),
             "the broker closed the connection with %d%s%.120s", connection->close_code,
             quoted[0] ? ": " : "", quoted);
}

static void on_message(wslay_event_context_ptr ws, const struct wslay_event_on_msg_recv_arg *arg,
                       void *user)
{
    struct eb_connection *connection = user;
    int rc;

    if (connection->over)
        return;
    if (arg->opcode != WSLAY_TEXT_FRAME && arg->opcode != WSLAY_BINARY_FRAME)
        return;
    rc = connection->message(connection->client, (const char *)arg->msg, arg->msg_length);
    if (rc < 0)
        connection->over = true;
    if (rc != 0)
        connection->stop = true;
}

/* ---- opening ---- */

/* Until @fd is ready for @events. 0, -ETIMEDOUT, -ECANCELED (the client is being closed) or -errno. */
static int wait_ready(int fd, short events, int wake_fd, int64_t deadline)
{
    struct pollfd fds[2] = {{fd, events, 0}, {wake_fd, POLLIN, 0}};

    for (;;) {
        int64_t left = deadline - eb_mono_ms();
        int rc;
        if (left <= 0)
            return -ETIMEDOUT;
        rc = poll(fds, 2, (int)left);
        if (rc < 0 && errno != EINTR)
            return -errno;
        if (rc > 0 && fds[1].revents)
            return -ECANCELED;
        if (rc > 0)
            return 0;
    }
}

static int connect_one(const struct addrinfo *address, int wake_fd, int64_t deadline)
{
    int one = 1, rc, error = 0;
    socklen_t len = sizeof(error);
    int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK,
                    address->ai_protocol);

    if (fd < 0)
        return -errno;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    rc = connect(fd, address->ai_addr, address->ai_addrlen) < 0 ? -errno : 0;
    if (rc == -EINPROGRESS || rc == -EINTR) {
        rc = wait_ready(fd, POLLOUT, wake_fd, deadline);
        if (rc == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0)
            rc = -error;
    }
    if (rc < 0) {
        close(fd);
        return rc;
    }
    return fd;
}

/* Every address in turn; a silent one does not take the time of those behind it. */
static int connect_any(const struct addrinfo *found, int wake_fd, int64_t deadline)
{
    int left = 0, rc = -EHOSTUNREACH;

    for (const struct addrinfo *a = found; a; a = a->ai_next)
        left++;
    for (const struct addrinfo *a = found; a; a = a->ai_next, left--) {
        int64_t now = eb_mono_ms();
        rc = connect_one(a, wake_fd, now + (deadline - now) / left);
        if (rc >= 0 || rc == -ECANCELED)
            break;
    }
    return rc;
}

static int send_all(int fd, const char *data, size_t len, int wake_fd, int64_t deadline)
{
    while (len > 0) {
        ssize_t n = send(fd, data, len, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            return -errno;
        if (n > 0) {
            data += n;
            len -= (size_t)n;
            continue;
        }
        int rc = wait_ready(fd, POLLOUT, wake_fd, deadline);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int fail(struct eb_connect_error *err, const char *what, int rc)
{
    char text[128];

    snprintf(err->why, sizeof(err->why), "%s: %s", what, strerror_r(-rc, text, sizeof(text)));
    return rc;
}

/* Ask for the upgrade and read its answer; what follows the head stays in `in`. */
static int upgrade(struct eb_connection *connection, int64_t deadline, struct eb_connect_error *err)
{
    eb_client *client = connection->client;
    struct eb_buf request = EB_BUF_INIT;
    struct eb_upgrade answer;
    ptrdiff_t head;
    int rc;

    eb_upgrade_request(&request, &client->url, client->token, client->options.protocol, &answer);
    rc = eb_buf_failed(&request)
             ? -ENOMEM
             : send_all(connection->fd, request.data, request.len, client->wake_fd, deadline);
    eb_buf_finish(&request);
    if (rc < 0)
        return fail(err, "the upgrade could not be asked for", rc);
    for (;;) {
        ssize_t n;
        rc = wait_ready(connection->fd, POLLIN, client->wake_fd, deadline);
        if (rc < 0)
            return fail(err, "the broker did not answer the upgrade", rc);
        n = recv(connection->fd, connection->in + connection->in_len,
                 EB_UPGRADE_MAX - connection->in_len, 0);
        if (n == 0)
            return fail(err, "the broker hung up on the upgrade", -ECONNRESET);
        if (n < 0 && (errno == EAGAIN || errno == EINTR))
            continue;
        if (n < 0)
            return fail(err, "the broker broke off the upgrade", -errno);
        connection->in_len += (size_t)n;
        head = eb_upgrade_check(&answer, connection->in, connection->in_len);
        if (head != 0)
            break;
    }
    if (head < 0) {
        err->status = answer.status == 101 ? 0 : answer.status;
        snprintf(err->why, sizeof(err->why), "%s", answer.why);
        return -EPROTO;
    }
    connection->in_at = (size_t)head;
    connection->binary = answer.binary;
    return 0;
}

static int make_context(struct eb_connection *connection)
{
    static const struct wslay_event_callbacks callbacks = {
        .recv_callback = on_recv,
        .send_callback = on_send,
        .genmask_callback = on_mask,
        .on_frame_recv_start_callback = on_frame_start,
        .on_frame_recv_chunk_callback = on_frame_chunk,
        .on_frame_recv_end_callback = on_frame_end,
        .on_msg_recv_callback = on_message,
    };

    if (wslay_event_context_client_init(&connection->ws, &callbacks, connection) != 0)
        return -ENOMEM;
    wslay_event_config_set_max_recv_msg_length(connection->ws,
                                               connection->client->options.max_message);
    return 0;
}

int eb_connection_open(struct eb_connection **ret, eb_client *client, struct eb_connect_error *err)
{
    int64_t deadline = eb_mono_ms() + client->options.connect_timeout;
    struct eb_connection *connection = NULL;
    struct addrinfo *found;
    int rc;

    *err = (struct eb_connect_error){0};
    rc = eb_lookup(&client->lookup, client->url.host, client->url.port, client->wake_fd, deadline,
                   &found, err->why, sizeof(err->why));
    if (rc < 0)
        return rc;
    rc = connect_any(found, client->wake_fd, deadline);
    freeaddrinfo(found);
    if (rc < 0)
        return fail(err, "no connection to the broker", rc);
    connection = malloc(sizeof(*connection));
    if (!connection) {
        close(rc);
        return fail(err, "no connection to the broker", -ENOMEM);
    }
    memset(connection, 0, offsetof(struct eb_connection, in));
    connection->client = client;
    connection->fd = rc;
    connection->masks_at = MASKS_AT_ONCE;
    rc = upgrade(connection, deadline, err);
    if (rc == 0 && (rc = make_context(connection)) < 0)
        fail(err, "no connection to the broker", rc);
    if (rc < 0) {
        eb_connection_destroy(connection);
        return rc;
    }
    *ret = connection;
    return 0;
}

void eb_connection_destroy(struct eb_connection *connection)
{
    if (!connection)
        return;
    if (connection->ws)
        wslay_event_context_free(connection->ws);
    close(connection->fd);
    eb_buf_finish(&connection->out);
    free(connection);
}

/* ---- using ---- */

int eb_connection_fd(struct eb_connection *connection)
{
    return connection->fd;
}

static int queue(struct eb_connection *connection, int opcode, const char *data, size_t len)
{
    struct wslay_event_msg message = {(uint8_t)opcode, (const uint8_t *)data, len};

    if (wslay_event_queue_msg(connection->ws, &message) != 0 ||
        wslay_event_send(connection->ws) != 0) {
        say(connection, "a request could not be sent", 0);
        return -EPIPE;
    }
    return 0;
}

bool eb_connection_binary(const struct eb_connection *connection)
{
    return connection->binary;
}

int eb_connection_send(struct eb_connection *connection, const char *data, size_t len)
{
    return queue(connection, connection->binary ? WSLAY_BINARY_FRAME : WSLAY_TEXT_FRAME, data, len);
}

int eb_connection_ping(struct eb_connection *connection)
{
    return queue(connection, WSLAY_PING, NULL, 0);
}

int eb_connection_close_frame(struct eb_connection *connection, int code)
{
    if (wslay_event_queue_close(connection->ws, (uint16_t)code, NULL, 0) != 0)
        return -EPIPE;
    return wslay_event_send(connection->ws) == 0 ? 0 : -EPIPE;
}

size_t eb_connection_unsent(const struct eb_connection *connection)
{
    return connection->out.len - connection->out_at;
}

int eb_connection_flush(struct eb_connection *connection)
{
    struct eb_buf *out = &connection->out;

    while (connection->out_at < out->len) {
        ssize_t n = send(connection->fd, out->data + connection->out_at,
                         out->len - connection->out_at, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return 0;
        if (n < 0) {
            int error = errno;
            say(connection, "the connection broke", error);
            return -error;
        }
        connection->out_at += (size_t)n;
    }
    connection->out_at = out->len = 0;
    if (out->cap > OUT_KEPT)
        eb_buf_finish(out);
    return 0;
}

int eb_connection_read(struct eb_connection *connection,
                       int (*message)(eb_client *client, const char *text, size_t len))
{
    int rc;

    connection->message = message;
    connection->stop = false;
    connection->reads = READS_A_TURN;
    rc = wslay_event_recv(connection->ws);
    if (rc != 0)
        say(connection, "the broker broke the WebSocket protocol", 0);
    else if (wslay_event_want_write(connection->ws)) /* pongs, and the answer to a close */
        rc = wslay_event_send(connection->ws);
    if (rc == 0 && !connection->over && wslay_event_get_read_enabled(connection->ws))
        return 0;
    if (connection->close_code == 0 && !connection->why[0])
        say(connection, "the broker sent a frame or message that RFC 6455 or max_message forbids",
            0);
    eb_connection_flush(connection); /* the close frame, if there is one */
    return -ECONNRESET;
}

bool eb_connection_buffered(const struct eb_connection *connection)
{
    return connection->in_at < connection->in_len;
}

const char *eb_connection_why(const struct eb_connection *connection)
{
    return connection->why;
}

int eb_connection_close_code(const struct eb_connection *connection)
{
    return connection->close_code;
}

bool eb_connection_heard(struct eb_connection *connection)
{
    bool heard = connection->heard;

    connection->heard = false;
    return heard;
}
