/*
 * ebc_driver.c - the client library at the end of a string: commands as JSON lines on standard input, results and
 * everything that is called back as JSON lines on standard output. tests/lib/driver.py holds the other end.
 *
 * Every command is answered by {"op":…,"rc":…}; "ev" marks what came by itself. It includes nothing but the public
 * header, so that it also shows that this is enough.
 */
#include <json-c/json.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <eventbus/client.h>

static eb_client *client;
static atomic_bool closed;
static pthread_mutex_t out = PTHREAD_MUTEX_INITIALIZER;

struct sub {
    struct sub *next;
    char name[64];
    eb_subscription *handle;
    int delay_us;      /* each event callback takes so long */
    int end_after;     /* ends itself in the callback of the n-th event; 0: never */
    int ack;           /* acknowledge each event from the callback */
    int republish;     /* publish "echo.<n>" from the callback */
    int reply;         /* answer each event as a request */
    int quiet;         /* count only */
    atomic_int events; /* counted */
    atomic_ullong last;
};
static struct sub *subs;

/* A durable consumer: what its callback does with the n-th delivery of each event. */
struct work {
    struct work *next;
    char name[128];
    eb_consumer *handle;
    int delay_us;       /* each callback takes so long */
    char verdicts[64];  /* "nnta": by delivery, the last one repeats; l: later */
    int64_t nack_delay; /* -1: as the backoff says */
    int quiet;          /* count only */
    int publish;        /* publish "done.<seq>" and wait, from the callback */
    int ack_within;     /* eb_consumer_ack_wait from the callback, then EB_ACK */
    atomic_int calls, at_once, most;
};
static struct work *works;

/* ---- out ---- */

static void emit(struct json_object *line)
{
    if (atomic_load(&closed))
        json_object_object_add(line, "late", json_object_new_boolean(1));
    pthread_mutex_lock(&out);
    puts(json_object_to_json_string_ext(line, JSON_C_TO_STRING_PLAIN));
    fflush(stdout);
    pthread_mutex_unlock(&out);
    json_object_put(line);
}

static struct json_object *event_line(const char *ev)
{
    struct json_object *line = json_object_new_object();

    json_object_object_add(line, "ev", json_object_new_string(ev));
    return line;
}

static void add_text(struct json_object *line, const char *name, const char *text)
{
    json_object_object_add(line, name, text ? json_object_new_string(text) : NULL);
}

static void add_int(struct json_object *line, const char *name, int64_t value)
{
    json_object_object_add(line, name, json_object_new_int64(value));
}

static void add_hex(struct json_object *line, const char *name, const void *data, size_t len)
{
    char *hex = malloc(2 * len + 1);

    for (size_t i = 0; i < len; i++)
        sprintf(hex + 2 * i, "%02x", ((const unsigned char *)data)[i]);
    hex[2 * len] = '\0';
    add_text(line, name, hex);
    free(hex);
}

static void add_message(struct json_object *line, const eb_message *message)
{
    add_int(line, "seq", (int64_t)message->seq);
    add_text(line, "message_id", message->message_id);
    add_text(line, "topic", message->topic);
    add_hex(line, "payload", message->payload, message->payload_len);
    add_int(line, "timestamp", message->timestamp_ms);
    add_int(line, "ttl", message->ttl_s);
    add_text(line, "content_type", message->content_type);
    add_text(line, "headers", message->headers);
}

/* ---- callbacks ---- */

static void on_state(void *user, eb_client_state state, const char *why)
{
    static const char *const names[] = {"idle",    "connecting", "connected",
                                        "waiting", "failed",     "closed"};
    struct json_object *line = event_line("state");

    add_text(line, "state", names[state]);
    add_text(line, "why", why);
    emit(line);
}

static void on_done(void *user, int result, const eb_receipt *receipts, size_t count)
{
    char *tag = user;
    struct json_object *line = event_line("done"), *list = json_object_new_array();

    add_text(line, "tag", tag);
    add_int(line, "rc", result);
    for (size_t i = 0; i < count; i++) {
        struct json_object *receipt = json_object_new_object();
        add_int(receipt, "seq", (int64_t)receipts[i].seq);
        add_text(receipt, "message_id", receipts[i].message_id);
        json_object_object_add(receipt, "duplicate",
                               json_object_new_boolean(receipts[i].duplicate));
        json_object_array_add(list, receipt);
    }
    json_object_object_add(line, "receipts", list);
    emit(line);
    free(tag);
}

static void nap(int us)
{
    struct timespec ts = {us / 1000000, (us % 1000000) * 1000L};

    nanosleep(&ts, NULL);
}

static void on_event(void *user, eb_subscription *handle, const eb_message *message)
{
    struct sub *sub = user;
    int n = atomic_fetch_add(&sub->events, 1) + 1;

    atomic_store(&sub->last, message->seq);
    if (!sub->quiet) {
        struct json_object *line = event_line("event");
        add_text(line, "sub", sub->name);
        add_message(line, message);
        emit(line);
    }
    if (sub->delay_us)
        nap(sub->delay_us);
    if (sub->ack && eb_client_acknowledge(client, message->seq, 0) != 0)
        emit(event_line("ack_refused"));
    if (sub->reply) {
        struct json_object *line = event_line("replied");
        add_int(line, "rc", eb_reply(client, message, "pong", 4, "x/pong", NULL, NULL));
        emit(line);
    }
    if (sub->republish) {
        eb_publication event = {.topic = "echo",
                                .payload = message->payload,
                                .payload_len = message->payload_len,
                                .ttl_s = EB_TTL_BROKER};
        struct json_object *line = event_line("echo");
        add_int(line, "rc", eb_client_publish(client, &event, NULL, NULL));
        add_int(line, "wait_rc", eb_client_publish_wait(client, &event, NULL, 1000));
        add_int(line, "close_rc", eb_client_close(client, 0));
        add_int(line, "flush_rc", eb_client_flush(client, 0));
        emit(line);
    }
    if (sub->end_after == n) {
        struct json_object *line = event_line("ended");
        add_int(line, "rc", eb_subscription_end(handle));
        emit(line);
    }
}

static void on_gap(void *user, eb_subscription *handle, const eb_gap_info *gap)
{
    struct sub *sub = user;
    struct json_object *line = event_line("gap");

    add_text(line, "sub", sub->name);
    add_text(line, "pattern", gap->pattern);
    add_int(line, "from_seq", (int64_t)gap->from_seq);
    add_int(line, "to_seq", (int64_t)gap->to_seq);
    add_text(line, "reason", gap->reason);
    emit(line);
}

static void on_live(void *user, eb_subscription *handle, uint64_t seq)
{
    struct sub *sub = user;
    struct json_object *line = event_line("live");

    add_text(line, "sub", sub->name);
    add_int(line, "seq", (int64_t)seq);
    emit(line);
}

static void on_failed(void *user, eb_subscription *handle, int result, const char *why)
{
    struct sub *sub = user;
    struct json_object *line = event_line("failed");

    add_text(line, "sub", sub->name);
    add_int(line, "rc", result);
    add_text(line, "why", why);
    emit(line);
}

/* ---- durable consumers ---- */

static void add_delivery(struct json_object *line, const eb_delivery *delivery)
{
    add_message(line, delivery->message);
    add_int(line, "delivery", delivery->number);
    add_text(line, "epoch", delivery->epoch);
}

static void work_within(struct work *work, eb_consumer *handle, const eb_delivery *delivery)
{
    char topic[64];

    if (work->publish) {
        eb_publication event = {.topic = topic, .ttl_s = EB_TTL_BROKER};
        snprintf(topic, sizeof(topic), "done.%llu", (unsigned long long)delivery->message->seq);
        struct json_object *line = event_line("published");
        add_int(line, "rc", eb_client_publish_wait(client, &event, NULL, 10000));
        add_int(line, "close_rc", eb_client_close(client, 0));
        add_int(line, "consumer_close_rc", eb_consumer_close(handle, 0));
        emit(line);
    }
    if (work->ack_within) {
        struct json_object *line = event_line("acked_within");
        add_int(line, "rc",
                eb_consumer_ack_wait(handle, delivery->message->seq, delivery->number, 10000));
        emit(line);
    }
}

static eb_verdict on_work(void *user, eb_consumer *handle, eb_delivery *delivery)
{
    struct work *work = user;
    size_t n = strlen(work->verdicts);
    size_t i = delivery->number <= n ? delivery->number - 1 : n - 1;
    int now = atomic_fetch_add(&work->at_once, 1) + 1;

    if (now > atomic_load(&work->most))
        atomic_store(&work->most, now);
    atomic_fetch_add(&work->calls, 1);
    if (!work->quiet) {
        struct json_object *line = event_line("work");
        add_text(line, "consumer", work->name);
        add_delivery(line, delivery);
        emit(line);
    }
    if (work->delay_us)
        nap(work->delay_us);
    work_within(work, handle, delivery);
    delivery->delay = work->nack_delay;
    strcpy(delivery->reason, "cannot be done");
    atomic_fetch_sub(&work->at_once, 1);
    if (!work->quiet) {
        struct json_object *line = event_line("worked");
        add_int(line, "seq", (int64_t)delivery->message->seq);
        emit(line);
    }
    return work->verdicts[i] == 'n'   ? EB_NACK
           : work->verdicts[i] == 't' ? EB_TERM
           : work->verdicts[i] == 'l' ? EB_LATER
                                      : EB_ACK;
}

static void on_answered(void *user, eb_consumer *handle, uint64_t seq, uint32_t delivery,
                        eb_verdict verdict, int result)
{
    static const char *const names[] = {"ack", "nack", "term", "later"};
    struct json_object *line = event_line("answered");

    add_text(line, "consumer", ((struct work *)user)->name);
    add_int(line, "seq", (int64_t)seq);
    add_int(line, "delivery", delivery);
    add_text(line, "verdict", names[verdict]);
    add_int(line, "rc", result);
    emit(line);
}

static void on_work_gap(void *user, eb_consumer *handle, const eb_gap_info *gap)
{
    struct json_object *line = event_line("work_gap");

    add_text(line, "consumer", ((struct work *)user)->name);
    add_int(line, "from_seq", (int64_t)gap->from_seq);
    add_int(line, "to_seq", (int64_t)gap->to_seq);
    add_text(line, "reason", gap->reason);
    emit(line);
}

static void on_released(void *user, eb_consumer *handle, const char *reason)
{
    struct json_object *line = event_line("released");

    add_text(line, "consumer", ((struct work *)user)->name);
    add_text(line, "reason", reason);
    emit(line);
}

static void on_work_failed(void *user, eb_consumer *handle, int result, const char *why)
{
    struct json_object *line = event_line("work_failed");

    add_text(line, "consumer", ((struct work *)user)->name);
    add_int(line, "rc", result);
    add_text(line, "why", why);
    emit(line);
}

/* ---- commands ---- */

static const char *text_of(struct json_object *cmd, const char *name)
{
    struct json_object *value;

    return json_object_object_get_ex(cmd, name, &value) && value ? json_object_get_string(value)
                                                                 : NULL;
}

static int64_t int_of(struct json_object *cmd, const char *name, int64_t otherwise)
{
    struct json_object *value;

    return json_object_object_get_ex(cmd, name, &value) && value ? json_object_get_int64(value)
                                                                 : otherwise;
}

/* "json", "binary" or "any"; without, EBC_PROTOCOL says so for all that is opened. */
static eb_protocol protocol_of(const char *name)
{
    if (!name)
        name = getenv("EBC_PROTOCOL");
    if (name && strcmp(name, "json") == 0)
        return EB_PROTOCOL_JSON;
    return name && strcmp(name, "binary") == 0 ? EB_PROTOCOL_BINARY : EB_PROTOCOL_ANY;
}

static int do_open(struct json_object *cmd, struct json_object *line)
{
    eb_client_options o = EB_CLIENT_OPTIONS_INIT;
    const char *err = NULL;
    int rc;

    o.url = text_of(cmd, "url");
    o.token = text_of(cmd, "token");
    o.connect_now = int_of(cmd, "connect_now", 0) != 0;
    o.connect_timeout = int_of(cmd, "connect_timeout", o.connect_timeout);
    o.reconnect_interval = int_of(cmd, "reconnect_interval", o.reconnect_interval);
    o.reconnect_interval_max = int_of(cmd, "reconnect_interval_max", o.reconnect_interval_max);
    o.max_retries = (int)int_of(cmd, "max_retries", o.max_retries);
    o.ping_interval = int_of(cmd, "ping_interval", o.ping_interval);
    o.max_pending = (size_t)int_of(cmd, "max_pending", (int64_t)o.max_pending);
    o.max_pending_bytes = (size_t)int_of(cmd, "max_pending_bytes", (int64_t)o.max_pending_bytes);
    o.when_full = int_of(cmd, "when_full_error", 0) ? EB_WHEN_FULL_ERROR : EB_WHEN_FULL_BLOCK;
    o.dedupe_window = int_of(cmd, "dedupe_window", o.dedupe_window);
    o.max_message = (size_t)int_of(cmd, "max_message", (int64_t)o.max_message);
    o.protocol = protocol_of(text_of(cmd, "protocol"));
    o.state = on_state;
    rc = eb_client_open(&o, &client, &err);
    add_text(line, "err", err);
    return rc;
}

/* An event from the command; *ret_payload is to be freed. */
static eb_publication event_of(struct json_object *cmd, void **ret_payload, const char *headers[33])
{
    eb_publication event = {.ttl_s = int_of(cmd, "ttl", EB_TTL_BROKER)};
    const char *hex = text_of(cmd, "payload_hex"), *text = text_of(cmd, "payload");
    struct json_object *object;
    size_t n = 0;

    *ret_payload = NULL;
    event.topic = text_of(cmd, "topic");
    event.message_id = text_of(cmd, "message_id");
    event.content_type = text_of(cmd, "content_type");
    event.deliver_at_ms = int_of(cmd, "deliver_at_ms", 0);
    event.delay_ms = int_of(cmd, "delay_ms", 0);
    event.expects_last_seq = int_of(cmd, "expected_last_seq", -1) >= 0;
    event.expected_last_seq =
        event.expects_last_seq ? (uint64_t)int_of(cmd, "expected_last_seq", 0) : 0;
    if (hex) {
        unsigned char *bytes = malloc(strlen(hex) / 2 + 1);
        for (event.payload_len = 0; hex[2 * event.payload_len]; event.payload_len++)
            sscanf(hex + 2 * event.payload_len, "%2hhx", &bytes[event.payload_len]);
        event.payload = *ret_payload = bytes;
    } else if (int_of(cmd, "payload_size", 0) > 0) {
        event.payload_len = (size_t)int_of(cmd, "payload_size", 0);
        *ret_payload = malloc(event.payload_len);
        event.payload = memset(*ret_payload, 'x', event.payload_len);
    } else if (text) {
        event.payload = text;
        event.payload_len = strlen(text);
    }
    if (json_object_object_get_ex(cmd, "headers", &object)) {
        json_object_object_foreach(object, name, value)
        {
            if (n < 32) {
                headers[n++] = name;
                headers[n++] = json_object_get_string(value);
            }
        }
        headers[n] = NULL;
        event.headers = headers;
    }
    return event;
}

static int do_publish(struct json_object *cmd, struct json_object *line)
{
    const char *headers[33], *tag = text_of(cmd, "tag");
    void *payload;
    eb_publication event = event_of(cmd, &payload, headers);
    char *copy = tag ? strdup(tag) : NULL;
    int rc = eb_client_publish(client, &event, tag ? on_done : NULL, copy);

    if (rc < 0)
        free(copy);
    free(payload);
    return rc;
}

static int do_publish_wait(struct json_object *cmd, struct json_object *line)
{
    const char *headers[33];
    void *payload;
    eb_publication event = event_of(cmd, &payload, headers);
    eb_receipt receipt = {0};
    int rc = eb_client_publish_wait(client, &event, &receipt, int_of(cmd, "timeout", -1));

    add_int(line, "seq", (int64_t)receipt.seq);
    add_text(line, "message_id", receipt.message_id);
    json_object_object_add(line, "duplicate", json_object_new_boolean(receipt.duplicate));
    json_object_object_add(line, "scheduled", json_object_new_boolean(receipt.scheduled));
    free(payload);
    return rc;
}

static int do_batch(struct json_object *cmd, struct json_object *line)
{
    struct json_object *list = NULL;
    size_t count;
    int rc;

    json_object_object_get_ex(cmd, "events", &list);
    count = json_object_array_length(list);
    eb_publication *events = calloc(count + 1, sizeof(*events));
    const char *(*headers)[33] = calloc(count + 1, sizeof(*headers));
    void **payloads = calloc(count + 1, sizeof(*payloads));
    for (size_t i = 0; i < count; i++)
        events[i] = event_of(json_object_array_get_idx(list, i), &payloads[i], headers[i]);
    if (text_of(cmd, "tag")) {
        char *tag = strdup(text_of(cmd, "tag"));
        rc = eb_client_publish_batch(client, events, count, on_done, tag);
        if (rc < 0)
            free(tag);
    } else {
        eb_receipt *receipts = calloc(count + 1, sizeof(*receipts));
        struct json_object *seqs = json_object_new_array();
        rc = eb_client_publish_batch_wait(client, events, count, receipts,
                                          int_of(cmd, "timeout", -1));
        for (size_t i = 0; i < count && rc == 0; i++)
            json_object_array_add(seqs, json_object_new_int64((int64_t)receipts[i].seq));
        json_object_object_add(line, "seqs", seqs);
        free(receipts);
    }
    for (size_t i = 0; i < count; i++)
        free(payloads[i]);
    free(payloads);
    free(headers);
    free(events);
    return rc;
}

/* "from".."from"+"count"-1 as payloads; each completion tagged with its number. Says how many were taken. */
static int do_flood(struct json_object *cmd, struct json_object *line)
{
    int64_t from = int_of(cmd, "from", 0), count = int_of(cmd, "count", 1), taken = 0;
    size_t pad = (size_t)int_of(cmd, "pad", 0);
    char *payload = malloc(pad + 32);
    int rc = 0;

    memset(payload, ' ', pad + 32);
    for (int64_t i = from; i < from + count && rc == 0; i++, taken += rc == 0) {
        eb_publication event = {
            .topic = text_of(cmd, "topic"), .payload = payload, .ttl_s = EB_TTL_BROKER};
        int len = snprintf(payload, 32, "%lld", (long long)i);
        char *tag = int_of(cmd, "tagged", 1) ? strdup(payload) : NULL;
        if (pad) {
            payload[len] = ' ';
            len += (int)pad;
        }
        event.payload_len = (size_t)len;
        rc = eb_client_publish(client, &event, tag ? on_done : NULL, tag);
        if (rc < 0)
            free(tag);
    }
    add_int(line, "taken", taken);
    free(payload);
    return rc;
}

static struct sub *sub_of(struct json_object *cmd)
{
    const char *name = text_of(cmd, "name");
    struct sub *sub = subs;

    while (sub && strcmp(sub->name, name) != 0)
        sub = sub->next;
    return sub;
}

static int do_subscribe(struct json_object *cmd, struct json_object *line)
{
    eb_subscribe_options o = EB_SUBSCRIBE_OPTIONS_INIT;
    struct sub *sub = calloc(1, sizeof(*sub));
    int rc;

    snprintf(sub->name, sizeof(sub->name), "%s", text_of(cmd, "name"));
    sub->delay_us = (int)int_of(cmd, "delay_us", 0);
    sub->end_after = (int)int_of(cmd, "end_after", 0);
    sub->ack = (int)int_of(cmd, "ack", 0);
    sub->republish = (int)int_of(cmd, "republish", 0);
    sub->quiet = (int)int_of(cmd, "quiet", 0);
    sub->reply = (int)int_of(cmd, "reply", 0);
    o.pattern = text_of(cmd, "pattern");
    o.starting_seq = (uint64_t)int_of(cmd, "start", -1);
    o.epoch = text_of(cmd, "epoch");
    o.pending_only = int_of(cmd, "pending_only", 0) != 0;
    o.max_queued = (size_t)int_of(cmd, "max_queued", (int64_t)o.max_queued);
    o.max_queued_bytes = (size_t)int_of(cmd, "max_queued_bytes", (int64_t)o.max_queued_bytes);
    o.gap = on_gap;
    o.live = on_live;
    o.user = sub;
    if (!int_of(cmd, "pull", 0)) {
        o.event = on_event;
        o.failed = on_failed;
    }
    sub->next = subs;
    subs = sub;
    rc = eb_client_subscribe(client, &o, int_of(cmd, "timeout", 10000), &sub->handle);
    if (rc < 0) {
        subs = sub->next;
        free(sub);
    }
    return rc;
}

static int do_next(struct json_object *cmd, struct json_object *line)
{
    const eb_message *message;
    int rc = eb_subscription_next(sub_of(cmd)->handle, &message, int_of(cmd, "timeout", 10000));

    if (rc == 1)
        add_message(line, message);
    return rc;
}

/* "patterns" of the command, NULL behind them. */
static void patterns_of(struct json_object *cmd, const char *ret[17])
{
    struct json_object *list;
    size_t n = 0;

    if (json_object_object_get_ex(cmd, "patterns", &list)) {
        for (; n < json_object_array_length(list) && n < 16; n++)
            ret[n] = json_object_get_string(json_object_array_get_idx(list, n));
    }
    ret[n] = NULL;
}

static int do_consume(struct json_object *cmd, struct json_object *line)
{
    eb_consumer_options o = EB_CONSUMER_OPTIONS_INIT;
    eb_consumer_settings s = EB_CONSUMER_SETTINGS_INIT;
    struct work *work = calloc(1, sizeof(*work));
    const char *patterns[17], *verdicts = text_of(cmd, "verdicts");
    int64_t backoff = int_of(cmd, "backoff", -1);
    int rc;

    snprintf(work->name, sizeof(work->name), "%s", text_of(cmd, "name"));
    snprintf(work->verdicts, sizeof(work->verdicts), "%s", verdicts ? verdicts : "a");
    work->delay_us = (int)int_of(cmd, "delay_us", 0);
    work->nack_delay = int_of(cmd, "nack_delay", EB_DELAY_BACKOFF);
    work->quiet = (int)int_of(cmd, "quiet", 0);
    work->publish = (int)int_of(cmd, "publish", 0);
    work->ack_within = (int)int_of(cmd, "ack_within", 0);
    patterns_of(cmd, patterns);
    s.patterns = patterns;
    s.from = (eb_consumer_start)int_of(cmd, "from", EB_CONSUMER_ALL);
    s.start_at = int_of(cmd, "start_at", 0);
    s.ack_wait = int_of(cmd, "ack_wait", s.ack_wait);
    s.max_deliver = (uint32_t)int_of(cmd, "max_deliver", 0);
    s.order = text_of(cmd, "order");
    if (backoff >= 0) {
        s.backoff = &backoff;
        s.backoff_count = 1;
    }
    o.name = work->name;
    o.settings = patterns[0] ? &s : NULL;
    o.threads = (unsigned)int_of(cmd, "threads", 1);
    o.max_inflight = (uint32_t)int_of(cmd, "max_inflight", o.max_inflight);
    o.in_progress = int_of(cmd, "in_progress", 0);
    o.event = int_of(cmd, "pull", 0) ? NULL : on_work;
    o.answered = int_of(cmd, "untold", 0) ? NULL : on_answered;
    o.gap = on_work_gap;
    o.released = on_released;
    o.failed = on_work_failed;
    o.user = work;
    work->next = works;
    works = work;
    rc = eb_consumer_open(client, &o, int_of(cmd, "timeout", 10000), &work->handle);
    if (rc < 0)
        work->name[0] = '\0';
    return rc;
}

static struct work *work_of(struct json_object *cmd)
{
    const char *name = text_of(cmd, "name");
    struct work *work = works;

    while (work && strcmp(work->name, name) != 0)
        work = work->next;
    return work;
}

static int do_work_next(struct json_object *cmd, struct json_object *line)
{
    const eb_delivery *delivery;
    int rc = eb_consumer_next(work_of(cmd)->handle, &delivery, int_of(cmd, "timeout", 10000));

    if (rc == 1)
        add_delivery(line, delivery);
    return rc;
}

static int do_answer(const char *op, struct json_object *cmd)
{
    eb_consumer *handle = work_of(cmd)->handle;
    uint64_t seq = (uint64_t)int_of(cmd, "seq", 0);
    uint32_t delivery = (uint32_t)int_of(cmd, "delivery", 0);

    if (!strcmp(op, "work_ack"))
        return eb_consumer_ack(handle, seq, delivery);
    if (!strcmp(op, "work_nack"))
        return eb_consumer_nack(handle, seq, delivery, int_of(cmd, "delay", EB_DELAY_BACKOFF));
    if (!strcmp(op, "work_term"))
        return eb_consumer_term(handle, seq, delivery, text_of(cmd, "reason"));
    if (!strcmp(op, "work_in_progress"))
        return eb_consumer_in_progress(handle, seq, delivery);
    return eb_consumer_ack_wait(handle, seq, delivery, int_of(cmd, "timeout", 10000));
}

static int do_work_close(struct json_object *cmd)
{
    struct work *work = work_of(cmd);
    int rc = eb_consumer_close(work->handle, int_of(cmd, "timeout", 10000));

    if (rc != EB_RESULT_WOULD_DEADLOCK)
        work->name[0] = '\0';
    return rc;
}

static int do_figures(struct json_object *cmd, struct json_object *line)
{
    struct work *work = work_of(cmd);
    eb_consumer_figures f = {.size = sizeof(f)};
    int rc = eb_consumer_get_figures(work->handle, &f);

    add_int(line, "attached", f.attached);
    add_int(line, "held", (int64_t)f.held);
    add_int(line, "handed", (int64_t)f.handed);
    add_int(line, "answers", (int64_t)f.answers);
    add_int(line, "received", (int64_t)f.received);
    add_int(line, "calls", atomic_load(&work->calls));
    add_int(line, "most", atomic_load(&work->most));
    return rc;
}

static int do_request(struct json_object *cmd, struct json_object *line)
{
    const char *headers[33];
    void *payload;
    eb_publication event = event_of(cmd, &payload, headers);
    const eb_message *reply = NULL;
    int rc = eb_request(client, &event, &reply, int_of(cmd, "timeout", 10000));

    if (rc == 0)
        add_message(line, reply);
    eb_reply_free(reply);
    free(payload);
    return rc;
}

static int do_position(struct json_object *cmd, struct json_object *line)
{
    char epoch[37];

    add_int(line, "seq", (int64_t)eb_subscription_position(sub_of(cmd)->handle, epoch));
    add_text(line, "epoch", epoch);
    return 0;
}

static int64_t rss_kib(void)
{
    FILE *file = fopen("/proc/self/statm", "r");
    long size = 0, resident = 0;

    if (fscanf(file, "%ld %ld", &size, &resident) != 2)
        resident = -1;
    fclose(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static int run(const char *op, struct json_object *cmd, struct json_object *line)
{
    int64_t timeout = int_of(cmd, "timeout", 10000);
    char error[256];
    int rc = 0;

    if (!strcmp(op, "open"))
        return do_open(cmd, line);
    if (!strcmp(op, "publish"))
        return do_publish(cmd, line);
    if (!strcmp(op, "publish_wait"))
        return do_publish_wait(cmd, line);
    if (!strcmp(op, "batch"))
        return do_batch(cmd, line);
    if (!strcmp(op, "flood"))
        return do_flood(cmd, line);
    if (!strcmp(op, "subscribe"))
        return do_subscribe(cmd, line);
    if (!strcmp(op, "next"))
        return do_next(cmd, line);
    if (!strcmp(op, "fd"))
        return eb_subscription_fd(sub_of(cmd)->handle) >= 0 ? 0 : -1;
    if (!strcmp(op, "end"))
        return eb_subscription_end(sub_of(cmd)->handle);
    if (!strcmp(op, "position"))
        return do_position(cmd, line);
    if (!strcmp(op, "counted")) {
        add_int(line, "events", atomic_load(&sub_of(cmd)->events));
        add_int(line, "last", (int64_t)atomic_load(&sub_of(cmd)->last));
        return 0;
    }
    if (!strcmp(op, "ack"))
        return eb_client_acknowledge(client, (uint64_t)int_of(cmd, "seq", 0), timeout);
    if (!strcmp(op, "consume"))
        return do_consume(cmd, line);
    if (!strcmp(op, "work_next"))
        return do_work_next(cmd, line);
    if (!strcmp(op, "work_close"))
        return do_work_close(cmd);
    if (!strcmp(op, "figures"))
        return do_figures(cmd, line);
    if (!strncmp(op, "work_", 5))
        return do_answer(op, cmd);
    if (!strcmp(op, "request"))
        return do_request(cmd, line);
    if (!strcmp(op, "wait_connected"))
        return eb_client_wait_connected(client, timeout);
    if (!strcmp(op, "flush"))
        return eb_client_flush(client, timeout);
    if (!strcmp(op, "drain"))
        return eb_client_drain(client, timeout);
    if (!strcmp(op, "pending")) {
        add_int(line, "pending", (int64_t)eb_client_pending(client));
    } else if (!strcmp(op, "last_error")) {
        eb_client_last_error(client, error, sizeof(error));
        add_text(line, "error", error);
    } else if (!strcmp(op, "rss")) {
        add_int(line, "kib", rss_kib());
    } else if (!strcmp(op, "close")) {
        rc = eb_client_close(client, timeout);
        add_int(line, "rc", rc);
        add_text(line, "op", op);
        emit(json_object_get(line));
        atomic_store(&closed, true);
        client = NULL;
        return rc;
    } else {
        rc = -1000;
    }
    return rc;
}

int main(void)
{
    char *text = NULL;
    size_t size = 0;

    while (getline(&text, &size, stdin) > 0) {
        struct json_object *cmd = json_tokener_parse(text), *line = json_object_new_object();
        const char *op = cmd ? text_of(cmd, "op") : NULL;
        if (!op)
            return 2;
        bool close = strcmp(op, "close") == 0;
        int rc = run(op, cmd, line);
        if (!close) {
            add_text(line, "op", op);
            add_int(line, "rc", rc);
            emit(line);
        } else {
            json_object_put(line);
        }
        json_object_put(cmd);
    }
    eb_client_close(client, 0);
    while (subs) {
        struct sub *next = subs->next;
        free(subs);
        subs = next;
    }
    while (works) {
        struct work *next = works->next;
        free(works);
        works = next;
    }
    free(text);
    return 0;
}
