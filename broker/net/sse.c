/*
 * sse.c - GET /v1/stream: a subscription as Server-Sent Events.
 *
 * A stream is a session of the bus with one subscription, and a libmicrohttpd response whose reader takes
 * frames from that session. It has no thread: with nothing to send its connection is suspended.
 *
 *              reader finds nothing                     wake: the ticker resumes it
 *   RUNNING ------------------------> SUSPENDED ------------------------------------> RUNNING
 *      |  wake                ^
 *      `--> PENDING --(reader: look again)
 *
 * (E1) `state` moves by compare-and-swap only, so exactly one resume answers each suspend (http.h H3).
 * (E2) The reader clears PENDING before it looks into the queue: what comes after makes it PENDING again.
 * (E3) A frame counts as sent when libmicrohttpd asks for what follows it: by then the kernel has it.
 * (E4) The stream's memory goes with its session's last reference, so a wake that is under way may touch it
 *      though the response is gone.
 */
#include "broker/net/http.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "common/clock.h"
#include "common/event_json.h"
#include "common/json.h"
#include "common/uuid.h"

#define ITEMS       32
#define ITEMS_BYTES (256 * 1024)
#define BLOCK_BYTES (16 * 1024)

enum { RUNNING, PENDING, SUSPENDED };

/* [I] immutable once started   [a] atomic   [T] the thread of its connection   [S] net's streams_lock */
struct eb_sse_stream {
    struct eb_net *net;                /* [I] */
    struct eb_session *session;        /* [I] one reference while the response lives */
    struct eb_http_request *request;   /* until started */
    struct eb_resume resume;           /* whoever resumes it */
    struct eb_sse_stream *prev, *next; /* [S] */
    struct eb_pattern *patterns;       /* [I] */
    size_t pattern_count;              /* [I] */
    struct eb_subscribe subscribe;     /* until done */
    bool with_epoch;                   /* [I] ids are SEQ@EPOCH */
    bool placed, listed;
    char peer[64];                /* [I] */
    int64_t connected_ms;         /* [I] wall clock */
    atomic_int state;             /* [a] */
    atomic_bool comment_due;      /* [a] */
    _Atomic int64_t wrote_ms;     /* [a] monotonic */
    struct eb_out items[ITEMS];   /* [T] taken; those before `at` are written */
    size_t count, at, offset;     /* [T] */
    char prefix[80];              /* [T] goes before the rest of items[at] */
    size_t prefix_len, prefix_at; /* [T] */
};

static const char *epoch_of(struct eb_net *net)
{
    return eb_store_epoch(eb_bus_store(net->bus));
}

/* ---- encoders: on the dispatcher's or a reader's thread ---- */

static struct eb_frame *frame_of(struct eb_buf *buf)
{
    struct eb_frame *frame = eb_buf_failed(buf) ? NULL : eb_frame_from(buf->data, buf->len);
    eb_buf_finish(buf);
    return frame;
}

static struct eb_frame *encode_event(struct eb_session *session, struct eb_event *event,
                                     const char *pattern)
{
    static const struct eb_event_json_style style = {0};
    struct eb_frame *frame = eb_event_cached(event, EB_ENC_SSE);
    if (frame)
        return frame;
    struct eb_buf buf = EB_BUF_INIT;
    eb_buf_printf(&buf, "id: %llu\ndata: ", (unsigned long long)event->seq);
    eb_event_write_json(&buf, event, &style);
    eb_buf_str(&buf, "\n\n");
    frame = frame_of(&buf);
    return frame ? eb_event_cache_frame(event, EB_ENC_SSE, frame) : NULL;
}

static struct eb_frame *encode_gap(struct eb_session *session, const struct eb_gap *gap)
{
    struct eb_sse_stream *stream = eb_session_user(session);
    struct eb_buf buf = EB_BUF_INIT;
    eb_buf_printf(&buf, "event: gap\nid: %llu", (unsigned long long)gap->to_seq);
    if (stream->with_epoch)
        eb_buf_printf(&buf, "@%s", epoch_of(stream->net));
    bool one = gap->pattern_count == 1;
    eb_buf_str(&buf, one ? "\ndata: {\"pattern\":" : "\ndata: {\"patterns\":[");
    for (size_t i = 0; i < gap->pattern_count; i++) {
        if (i > 0)
            eb_buf_add(&buf, ",", 1);
        eb_json_write_string(&buf, gap->patterns[i], strlen(gap->patterns[i]));
    }
    eb_buf_printf(&buf, "%s,\"from_seq\":%llu,\"to_seq\":%llu,\"reason\":\"%s\"", one ? "" : "]",
                  (unsigned long long)gap->from_seq, (unsigned long long)gap->to_seq,
                  eb_gap_reason_name(gap->reason));
    if (gap->reason == EB_GAP_EPOCH)
        eb_buf_printf(&buf, ",\"epoch\":\"%s\"", epoch_of(stream->net));
    eb_buf_str(&buf, "}\n\n");
    return frame_of(&buf);
}

static struct eb_frame *encode_live(struct eb_session *session, const char *pattern, uint64_t seq)
{
    struct eb_buf buf = EB_BUF_INIT;
    eb_buf_printf(&buf, "event: live\ndata: {\"seq\":%llu}\n\n", (unsigned long long)seq);
    return frame_of(&buf);
}

static struct eb_frame *encode_open(struct eb_sse_stream *stream, uint64_t last_seq)
{
    struct eb_buf buf = EB_BUF_INIT;
    eb_buf_printf(&buf, "retry: 2000\nevent: open\ndata: {\"epoch\":\"%s\",\"last_seq\":%llu}\n\n",
                  epoch_of(stream->net), (unsigned long long)last_seq);
    return frame_of(&buf);
}

/* Any thread that has put something into the queue. Only while the session is open. */
static void wake(struct eb_session *session)
{
    struct eb_sse_stream *stream = eb_session_user(session);
    int state = atomic_load(&stream->state);
    while (state != PENDING) {
        int next = state == SUSPENDED ? RUNNING : PENDING;
        if (!atomic_compare_exchange_weak(&stream->state, &state, next))
            continue;
        if (next == RUNNING)
            eb_tick_resume(stream->net, &stream->resume);
        return;
    }
}

static void destroy(struct eb_session *session)
{
    struct eb_sse_stream *stream = eb_session_user(session);
    free(stream->patterns);
    free(stream);
}

static const struct eb_session_ops OPS = {.event = encode_event,
                                          .gap = encode_gap,
                                          .live = encode_live,
                                          .wake = wake,
                                          .destroy = destroy};

/* ---- the list of streams ---- */

static void list_add(struct eb_sse_stream *stream)
{
    struct eb_net *net = stream->net;
    uint64_t number = eb_session_number(stream->session);
    eb_lock_take(&net->streams_lock);
    struct eb_sse_stream *before = net->streams_tail;
    while (before && eb_session_number(before->session) > number)
        before = before->prev;
    stream->prev = before;
    stream->next = before ? before->next : net->streams;
    *(before ? &before->next : &net->streams) = stream;
    *(stream->next ? &stream->next->prev : &net->streams_tail) = stream;
    net->stream_count++;
    stream->listed = true;
    eb_lock_drop(&net->streams_lock);
}

static void list_remove(struct eb_sse_stream *stream)
{
    struct eb_net *net = stream->net;
    if (!stream->listed)
        return;
    eb_lock_take(&net->streams_lock);
    *(stream->prev ? &stream->prev->next : &net->streams) = stream->next;
    *(stream->next ? &stream->next->prev : &net->streams_tail) = stream->prev;
    net->stream_count--;
    stream->listed = false;
    eb_lock_drop(&net->streams_lock);
}

void eb_sse_stop(struct eb_net *net)
{
    eb_lock_take(&net->streams_lock);
    for (struct eb_sse_stream *stream = net->streams; stream; stream = stream->next)
        wake(stream->session);
    eb_lock_drop(&net->streams_lock);
}

void eb_sse_tick(struct eb_net *net, int64_t now_ms)
{
    eb_lock_take(&net->streams_lock);
    for (struct eb_sse_stream *stream = net->streams; stream; stream = stream->next) {
        if (now_ms - atomic_load(&stream->wrote_ms) < net->sse_comment_ms - 2 * net->tick_ms)
            continue;
        atomic_store(&stream->comment_due, true);
        wake(stream->session);
    }
    eb_lock_drop(&net->streams_lock);
}

static void describe(const struct eb_sse_stream *stream, struct eb_connection_info *info)
{
    struct eb_session_state state;
    eb_session_state(stream->session, &state);
    *info = (struct eb_connection_info){
        .session = eb_session_number(stream->session),
        .transport = "sse",
        .protocol = "text/event-stream",
        .connected_ms = stream->connected_ms,
        .subscriptions = state.subscriptions,
        .delivered = state.delivered,
        .queued_events = state.queued_events,
        .queued_bytes = state.queued_bytes,
        .lagging = state.lagging,
    };
    memcpy(info->peer, stream->peer, sizeof(info->peer));
}

size_t eb_sse_connections(struct eb_net *net, uint64_t after, size_t max,
                          struct eb_connection_info **ret)
{
    size_t count = 0;
    struct eb_connection_info *rows = calloc(max ? max : 1, sizeof(*rows));
    if (!rows)
        return 0;
    eb_lock_take(&net->streams_lock);
    for (struct eb_sse_stream *stream = net->streams; stream && count < max; stream = stream->next)
        if (eb_session_number(stream->session) > after)
            describe(stream, &rows[count++]);
    eb_lock_drop(&net->streams_lock);
    *ret = rows;
    return count;
}

void eb_peer_name(struct MHD_Connection *connection, char out[64])
{
    const union MHD_ConnectionInfo *info =
        MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
    struct sockaddr_storage addr;
    socklen_t len = sizeof(addr);
    char host[48], port[8];
    strcpy(out, "unix");
    if (!info || getpeername(info->connect_fd, (struct sockaddr *)&addr, &len) < 0 ||
        (addr.ss_family != AF_INET && addr.ss_family != AF_INET6))
        return;
    if (getnameinfo((struct sockaddr *)&addr, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        snprintf(out, 64, addr.ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

/* ---- the response's reader: on the thread of its connection ---- */

/* Start on items[at]: an id with epoch stands in place of the shared frame's first line. */
static void begin_item(struct eb_sse_stream *stream)
{
    const struct eb_out *item = &stream->items[stream->at];
    const char *data = (const char *)item->frame->data;
    stream->offset = stream->prefix_at = stream->prefix_len = 0;
    if (!stream->with_epoch || item->seq == 0 || item->frame->len < 4 ||
        memcmp(data, "id: ", 4) != 0)
        return;
    int len = snprintf(stream->prefix, sizeof(stream->prefix), "id: %llu@%s\n",
                       (unsigned long long)item->seq, epoch_of(stream->net));
    stream->prefix_len = (size_t)len;
    stream->offset = (size_t)((const char *)memchr(data, '\n', item->frame->len) - data) + 1;
}

static size_t copy_part(char *out, size_t room, const void *from, size_t len, size_t *at)
{
    size_t n = len - *at < room ? len - *at : room;
    memcpy(out, (const char *)from + *at, n);
    *at += n;
    return n;
}

static size_t copy_items(struct eb_sse_stream *stream, char *out, size_t room)
{
    size_t n = 0;
    while (stream->at < stream->count && n < room) {
        const struct eb_frame *frame = stream->items[stream->at].frame;
        n += copy_part(out + n, room - n, stream->prefix, stream->prefix_len, &stream->prefix_at);
        n += copy_part(out + n, room - n, frame->data, frame->len, &stream->offset);
        if (stream->prefix_at < stream->prefix_len || stream->offset < frame->len)
            break;
        stream->at++;
        if (stream->at < stream->count)
            begin_item(stream);
    }
    return n;
}

/* What was written before is in the kernel now (E3). */
static void settle_items(struct eb_sse_stream *stream)
{
    if (stream->at == 0)
        return;
    for (size_t i = 0; i < stream->at; i++)
        if (stream->items[i].seq > 0)
            atomic_fetch_add_explicit(&stream->net->sse_events, 1, memory_order_relaxed);
    eb_session_sent(stream->session, stream->items, stream->at);
    stream->count -= stream->at;
    memmove(stream->items, stream->items + stream->at, stream->count * sizeof(*stream->items));
    stream->at = 0;
}

static size_t fill(struct eb_sse_stream *stream, char *out, size_t room)
{
    settle_items(stream);
    if (stream->count == 0) {
        stream->count = eb_session_take(stream->session, stream->items, ITEMS, ITEMS_BYTES);
        if (stream->count > 0)
            begin_item(stream);
    }
    size_t n = copy_items(stream, out, room);
    if (n == 0 && atomic_exchange(&stream->comment_due, false) && room >= 3) {
        memcpy(out, ":\n\n", 3);
        n = 3;
    }
    if (n > 0) {
        atomic_store(&stream->wrote_ms, eb_mono_ms());
        atomic_store(&stream->comment_due, false);
    }
    return n;
}

static bool is_over(struct eb_sse_stream *stream)
{
    struct eb_session_state state;
    if (atomic_load(&stream->net->stopping))
        return true;
    eb_session_state(stream->session, &state);
    return state.closed;
}

static ssize_t read_stream(void *ctx, uint64_t position, char *out, size_t room)
{
    struct eb_sse_stream *stream = ctx;
    for (;;) {
        atomic_store(&stream->state,
                     RUNNING); /* E2; only this thread leaves PENDING, nobody else is in RUNNING */
        if (atomic_load(&stream->net->streams_cut))
            return MHD_CONTENT_READER_END_OF_STREAM;
        size_t n = fill(stream, out, room);
        if (n > 0)
            return (ssize_t)n;
        if (is_over(stream))
            return MHD_CONTENT_READER_END_OF_STREAM;
        if (atomic_load(&stream->state) == PENDING)
            continue;
        int expected = RUNNING;
        struct eb_net *net = stream->net;
        atomic_fetch_add(&net->held, 1); /* tick.c T2 */
        MHD_suspend_connection(stream->resume.connection);
        if (!atomic_compare_exchange_strong(&stream->state, &expected, SUSPENDED)) {
            MHD_resume_connection(stream->resume.connection);
            atomic_fetch_sub(&net->held, 1);
        }
        return 0;
    }
}

/* The end of a stream, started or not. */
static void stream_end(void *ctx)
{
    struct eb_sse_stream *stream = ctx;
    struct eb_net *net = stream->net;
    list_remove(stream);
    settle_items(stream);
    if (stream->count > 0)
        eb_session_putback(stream->session, stream->items, stream->count);
    stream->count = 0;
    if (stream->placed)
        eb_net_place_give(net);
    struct eb_session *session = stream->session;
    eb_session_close(session);
    eb_session_unref(session);
}

/* ---- the request ---- */

/* "SEQ" or "SEQ@EPOCH". */
static int parse_event_id(struct eb_subscribe *subscribe, const char *text, size_t len,
                          struct eb_error *err)
{
    const char *at = memchr(text, '@', len);
    size_t digits = at ? (size_t)(at - text) : len, epoch_len = at ? len - digits - 1 : 0;
    uint64_t seq;
    uint8_t uuid[16];
    char quoted[80];
    if (!eb_parse_u64(text, digits, EB_SEQ_MAX - 1, &seq) ||
        (at && (epoch_len >= sizeof(subscribe->epoch) || !eb_uuid_parse(uuid, at + 1, epoch_len))))
        return eb_fail(err, EB_INVALID_REQUEST,
                       "the last event id is \"%s\": it must be SEQ or SEQ@EPOCH",
                       eb_quote(quoted, sizeof(quoted), text, len));
    subscribe->replay = true;
    subscribe->starting_seq = seq + 1;
    if (at) {
        subscribe->has_epoch = true;
        memcpy(subscribe->epoch, at + 1, epoch_len);
        subscribe->epoch[epoch_len] = 0;
    }
    return 0;
}

/* `last=true`: first the newest event of each topic. */
static int parse_last(struct eb_http_request *request, struct eb_subscribe *subscribe,
                      struct eb_error *err)
{
    const struct eb_param *param = eb_uri_param(&request->uri, "last");
    char quoted[80];
    if (!param || strcmp(param->value, "false") == 0)
        return 0;
    if (strcmp(param->value, "true") != 0)
        return eb_fail(err, EB_INVALID_REQUEST, "last is \"%s\": it must be true or false",
                       eb_quote(quoted, sizeof(quoted), param->value, param->value_len));
    if (subscribe->replay)
        return eb_fail(err, EB_INVALID_REQUEST,
                       "last and starting_seq are both given: one of them says where to begin");
    subscribe->last = true;
    return 0;
}

static int parse(struct eb_http_request *request, struct eb_sse_stream *stream)
{
    struct eb_error *err = &request->refused;
    struct eb_subscribe *subscribe = &stream->subscribe;
    size_t len = 0;
    if (eb_uri_patterns(&request->uri, &stream->patterns, &stream->pattern_count, err) < 0 ||
        eb_uri_number(&request->uri, "starting_seq", 0, EB_SEQ_MAX, &subscribe->starting_seq,
                      &subscribe->replay, err) < 0)
        return -1;
    const struct eb_param *epoch = eb_uri_param(&request->uri, "epoch");
    stream->with_epoch = epoch != NULL;
    if (epoch && epoch->value_len > 0) {
        subscribe->has_epoch = true;
        strncpy(subscribe->epoch, epoch->value, sizeof(subscribe->epoch) - 1);
    }
    const char *last = eb_http_header(request, "Last-Event-ID", &len);
    const struct eb_param *param = eb_uri_param(&request->uri, "last_event_id");
    if ((!last || len == 0) && param) {
        last = param->value;
        len = param->value_len;
    }
    if (last && len > 0)
        return parse_event_id(subscribe, last, len, err); /* a reconnection: it goes on */
    return parse_last(request, subscribe, err);
}

static struct MHD_Response *head_response(struct MHD_Response *response)
{
    if (!response)
        return NULL;
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "text/event-stream");
    MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache, no-transform");
    MHD_add_response_header(response, "X-Accel-Buffering", "no");
    return response;
}

static enum MHD_Result answer(struct eb_http_request *request)
{
    struct eb_sse_stream *stream = request->job;
    struct eb_net *net = request->net;
    if (stream->subscribe.err.code != EB_OK)
        return eb_http_fail(request, &stream->subscribe.err);
    struct MHD_Response *response = head_response(MHD_create_response_from_callback(
        MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_stream, stream, stream_end));
    if (!response)
        return MHD_NO;
    request->job = NULL; /* the response's now */
    request->job_free = NULL;
    request->counted = true;
    atomic_fetch_add(&net->sse_total, 1);
    atomic_store(&stream->wrote_ms, eb_mono_ms());
    list_add(stream);
    MHD_set_connection_option(request->connection, MHD_CONNECTION_OPTION_TIMEOUT,
                              (unsigned)((request->policy->stall_timeout_ms + 999) / 1000));
    return eb_http_queue(net, request->connection, request->policy, 200, response, false);
}

/* On the committing thread, before the first event. */
static void subscribed(struct eb_subscribe *subscribe)
{
    struct eb_sse_stream *stream = subscribe->user;
    if (subscribe->err.code == EB_OK) {
        struct eb_frame *frame = encode_open(stream, subscribe->last_seq);
        if (frame)
            eb_session_reply(stream->session, frame);
    }
    eb_http_resume_settled(stream->request);
}

static int open_stream(struct eb_http_request *request, struct eb_sse_stream *stream)
{
    struct eb_net *net = request->net;
    struct eb_error *err = &request->refused;
    if (!eb_net_place_take(net))
        return eb_fail(err, EB_UNAVAILABLE, "all %u places (max_connections) are taken",
                       net->max_connections);
    if (eb_session_create(net->bus, &OPS, stream, true, &stream->session) < 0) {
        eb_net_place_give(net);
        return eb_fail(err, EB_UNAVAILABLE, "out of memory");
    }
    stream->placed = true;
    stream->request = request;
    stream->resume.connection = request->connection;
    stream->connected_ms = eb_wall_ms();
    eb_peer_name(request->connection, stream->peer);
    stream->subscribe.patterns = stream->patterns;
    stream->subscribe.count = stream->pattern_count;
    stream->subscribe.user = stream;
    stream->subscribe.done = subscribed;
    request->job = stream;
    request->job_free = stream_end;
    return 0;
}

enum MHD_Result eb_sse_handle(struct eb_http_request *request)
{
    struct eb_sse_stream *stream = calloc(1, sizeof(*stream));
    if (!stream)
        return MHD_NO;
    stream->net = request->net;
    if (parse(request, stream) < 0 ||
        (request->method == EB_METHOD_GET && open_stream(request, stream) < 0)) {
        free(stream->patterns);
        free(stream);
        return eb_http_fail(request, &request->refused);
    }
    if (request->method == EB_METHOD_HEAD) {
        free(stream->patterns);
        free(stream);
        return eb_http_queue(
            request->net, request->connection, request->policy, 200,
            head_response(MHD_create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT)), false);
    }
    if (!eb_http_suspend(request, answer)) {
        eb_fail(&request->refused, EB_UNAVAILABLE, "the broker is stopping");
        return eb_http_fail(request, &request->refused);
    }
    eb_bus_subscribe(request->net->bus, stream->session, &stream->subscribe);
    return MHD_YES;
}
