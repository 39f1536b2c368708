/* driver_sub.c - subscriptions: what their callbacks do, and the commands that make and ask them. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver.h"

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
    if (sub->ack && eb_client_acknowledge(driver_client, message->seq, 0) != 0)
        emit(event_line("ack_refused"));
    if (sub->reply) {
        struct json_object *line = event_line("replied");
        add_int(line, "rc", eb_reply(driver_client, message, "pong", 4, "x/pong", NULL, NULL));
        emit(line);
    }
    if (sub->republish) {
        eb_publication event = {.topic = "echo",
                                .payload = message->payload,
                                .payload_len = message->payload_len,
                                .ttl_s = EB_TTL_BROKER};
        struct json_object *line = event_line("echo");
        add_int(line, "rc", eb_client_publish(driver_client, &event, NULL, NULL));
        add_int(line, "wait_rc", eb_client_publish_wait(driver_client, &event, NULL, 1000));
        add_int(line, "close_rc", eb_client_close(driver_client, 0));
        add_int(line, "flush_rc", eb_client_flush(driver_client, 0));
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
    rc = eb_client_subscribe(driver_client, &o, int_of(cmd, "timeout", 10000), &sub->handle);
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

static int do_position(struct json_object *cmd, struct json_object *line)
{
    char epoch[37];

    add_int(line, "seq", (int64_t)eb_subscription_position(sub_of(cmd)->handle, epoch));
    add_text(line, "epoch", epoch);
    return 0;
}

int sub_command(const char *op, struct json_object *cmd, struct json_object *line)
{
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
    return -1000;
}

void subs_free(void)
{
    while (subs) {
        struct sub *next = subs->next;
        free(subs);
        subs = next;
    }
}
