/* driver_work.c - durable consumers: what their callbacks do, and the commands that make and answer them. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "driver.h"

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
        add_int(line, "rc", eb_client_publish_wait(driver_client, &event, NULL, 10000));
        add_int(line, "close_rc", eb_client_close(driver_client, 0));
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
    rc = eb_consumer_open(driver_client, &o, int_of(cmd, "timeout", 10000), &work->handle);
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

int work_command(const char *op, struct json_object *cmd, struct json_object *line)
{
    if (!strcmp(op, "consume"))
        return do_consume(cmd, line);
    if (!strcmp(op, "work_next"))
        return do_work_next(cmd, line);
    if (!strcmp(op, "work_close"))
        return do_work_close(cmd);
    if (!strcmp(op, "figures"))
        return do_figures(cmd, line);
    return strncmp(op, "work_", 5) == 0 ? do_answer(op, cmd) : -1000;
}

void works_free(void)
{
    while (works) {
        struct work *next = works->next;
        free(works);
        works = next;
    }
}
