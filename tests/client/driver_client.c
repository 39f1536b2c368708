/* driver_client.c - the client itself: open, publish, request, flush, close. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "driver.h"

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
    rc = eb_client_open(&o, &driver_client, &err);
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
    int rc = eb_client_publish(driver_client, &event, tag ? on_done : NULL, copy);

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
    int rc = eb_client_publish_wait(driver_client, &event, &receipt, int_of(cmd, "timeout", -1));

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
        rc = eb_client_publish_batch(driver_client, events, count, on_done, tag);
        if (rc < 0)
            free(tag);
    } else {
        eb_receipt *receipts = calloc(count + 1, sizeof(*receipts));
        struct json_object *seqs = json_object_new_array();
        rc = eb_client_publish_batch_wait(driver_client, events, count, receipts,
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
        rc = eb_client_publish(driver_client, &event, tag ? on_done : NULL, tag);
        if (rc < 0)
            free(tag);
    }
    add_int(line, "taken", taken);
    free(payload);
    return rc;
}

static int do_request(struct json_object *cmd, struct json_object *line)
{
    const char *headers[33];
    void *payload;
    eb_publication event = event_of(cmd, &payload, headers);
    const eb_message *reply = NULL;
    int rc = eb_request(driver_client, &event, &reply, int_of(cmd, "timeout", 10000));

    if (rc == 0)
        add_message(line, reply);
    eb_reply_free(reply);
    free(payload);
    return rc;
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

static int do_close(int64_t timeout, struct json_object *line)
{
    int rc = eb_client_close(driver_client, timeout);

    add_int(line, "rc", rc);
    add_text(line, "op", "close");
    emit(json_object_get(line));
    atomic_store(&driver_closed, true);
    driver_client = NULL;
    return rc;
}

int client_command(const char *op, struct json_object *cmd, struct json_object *line)
{
    int64_t timeout = int_of(cmd, "timeout", 10000);
    char error[256];

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
    if (!strcmp(op, "ack"))
        return eb_client_acknowledge(driver_client, (uint64_t)int_of(cmd, "seq", 0), timeout);
    if (!strcmp(op, "request"))
        return do_request(cmd, line);
    if (!strcmp(op, "wait_connected"))
        return eb_client_wait_connected(driver_client, timeout);
    if (!strcmp(op, "flush"))
        return eb_client_flush(driver_client, timeout);
    if (!strcmp(op, "drain"))
        return eb_client_drain(driver_client, timeout);
    if (!strcmp(op, "close"))
        return do_close(timeout, line);
    if (!strcmp(op, "pending")) {
        add_int(line, "pending", (int64_t)eb_client_pending(driver_client));
    } else if (!strcmp(op, "last_error")) {
        eb_client_last_error(driver_client, error, sizeof(error));
        add_text(line, "error", error);
    } else if (!strcmp(op, "rss")) {
        add_int(line, "kib", rss_kib());
    } else {
        return -1000;
    }
    return 0;
}
