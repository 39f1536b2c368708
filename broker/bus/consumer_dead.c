/*
 * consumer_dead.c - events that are given up: each becomes a new event on $dead.NAME, in the transaction that ends it
 * for its consumer (K5).
 *
 *   dying --> its event is read --> publish of the broker's own --collect--> burying, delta, on the list of dead letters
 *                 |                                             `-- acked meanwhile: nothing is published
 *                 `-- gone: done
 *
 * (D1) A dead letter that was redriven and fails again goes back to the list as it is; another consumer's dead letter is
 *      only counted: what lies on $dead.* is not dead-lettered again.
 * (D2) With dead_letter off it is done and counted; the next state op keeps that.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumer_internal.h"
#include "common/clock.h"
#include "common/uuid.h"

/* ---- reasons given by term ---- */

void eb_reason_set_locked(struct eb_consumer *consumer, uint64_t seq, const char *text)
{
    struct eb_reason *reason = malloc(sizeof(*reason));
    if (reason == NULL)
        return; /* then it says "term" */
    reason->seq = seq;
    size_t len = strnlen(text, EB_REASON_MAX);
    memcpy(reason->text, len != 0 ? text : "term", len != 0 ? len : 4);
    reason->text[len != 0 ? len : 4] = '\0';
    reason->next = NULL;
    *consumer->reasons_end = reason; /* they are asked for in about this order */
    consumer->reasons_end = &reason->next;
}

static struct eb_reason *unlink_locked(struct eb_consumer *consumer, uint64_t seq)
{
    struct eb_reason **at = &consumer->reasons;
    while (*at != NULL && (*at)->seq != seq)
        at = &(*at)->next;
    struct eb_reason *reason = *at;
    if (reason == NULL)
        return NULL;
    *at = reason->next;
    if (*at == NULL)
        consumer->reasons_end = at;
    return reason;
}

void eb_reason_drop_locked(struct eb_consumer *consumer, uint64_t seq)
{
    if (consumer->reasons != NULL)
        free(unlink_locked(consumer, seq));
}

void eb_reasons_clear_locked(struct eb_consumer *consumer)
{
    for (struct eb_reason *next, *reason = consumer->reasons; reason != NULL; reason = next) {
        next = reason->next;
        free(reason);
    }
    consumer->reasons = NULL;
    consumer->reasons_end = &consumer->reasons;
}

static void reason_take_locked(struct eb_consumer *consumer, uint64_t seq, char *ret, bool ended)
{
    struct eb_reason *reason = unlink_locked(consumer, seq);
    snprintf(ret, EB_REASON_MAX + 1, "%s",
             reason != NULL ? reason->text
             : ended        ? "term"
                            : "max_deliver");
    free(reason);
}

/* ---- one burial ---- */

struct burial {
    struct burial *next; /* of those that are read together */
    struct eb_consumer *consumer;
    uint64_t gen, seq;
    uint32_t deliveries;
    bool ended; /* by a term, whose reason it is */
    char reason[EB_REASON_MAX + 1];
    struct eb_event *event; /* the dead letter to be; NULL: only the list changes */
    struct eb_op op;
    struct eb_op_result result;
    bool buried, collected, listed;
    struct eb_worklist_delta delta;
    struct eb_state_write *writes;
};

static void burial_free(struct burial *burial)
{
    eb_event_unref(burial->event);
    eb_worklist_delta_finish(&burial->delta);
    free(burial->writes);
    eb_consumer_unref(burial->consumer);
    free(burial);
}

/* It is not to be now: dying again, unless it was acknowledged; after a failure it is asked for a while later. */
static void put_off_locked(struct burial *burial, bool failed)
{
    struct eb_consumer *consumer = burial->consumer;
    if (burial->gen != consumer->gen)
        return;
    if (!burial->buried && !eb_worklist_bury(consumer->list, burial->seq))
        return;
    eb_worklist_buried(consumer->list, burial->seq, false);
    if (burial->ended)
        eb_reason_set_locked(consumer, burial->seq, burial->reason);
    if (failed)
        consumer->bury_ms = eb_consumers_now() + EB_CONSUMER_RETRY_MS;
    eb_consumer_changed_locked(consumer);
}

static const struct eb_state_write *writes_locked(struct burial *burial)
{
    struct eb_consumer *consumer = burial->consumer;
    burial->writes = calloc(EB_KEEP_WRITES(&burial->delta) + 1, sizeof(*burial->writes));
    if (burial->writes == NULL)
        return NULL;
    consumer->burying++;
    size_t count = eb_keep_writes(consumer, &burial->delta, burial->writes);
    if (burial->listed)
        burial->writes[count++] =
            (struct eb_state_write){.kind = EB_STATE_DEAD_ADD,
                                    .consumer = consumer->id,
                                    .seq = burial->event != NULL ? 0 : burial->seq};
    for (size_t i = 0; i + 1 < count; i++)
        burial->writes[i].next_write = &burial->writes[i + 1];
    return burial->writes;
}

/* Its deletion stands before us in this transaction: what we would write were nobody's. */
static bool ends_locked(const struct eb_consumer *consumer)
{
    const struct eb_change *change = consumer->keep.change;
    return consumer->life != EB_CONSUMER_THERE ||
           (change != NULL && change->collected && change->request->verb == EB_CONSUMER_DELETE);
}

static const struct eb_state_write *bury_collect(struct eb_op *op)
{
    struct burial *burial = eb_container(op, struct burial, op);
    struct eb_consumer *consumer = burial->consumer;
    const struct eb_state_write *writes = NULL;
    eb_lock_take(&consumer->lock);
    if (burial->gen == consumer->gen && !ends_locked(consumer))
        burial->buried = eb_worklist_bury(consumer->list, burial->seq);
    if (burial->buried)
        burial->collected = eb_worklist_collect(consumer->list, eb_wall_ms() - eb_consumers_now(),
                                                &burial->delta) == 0;
    if (burial->collected)
        writes = writes_locked(burial);
    eb_lock_drop(&consumer->lock);
    if (writes == NULL)
        op->count = 0;
    return writes;
}

static void bury_done(struct eb_op *op)
{
    struct burial *burial = eb_container(op, struct burial, op);
    struct eb_consumer *consumer = burial->consumer;
    bool ok = op->err.code == EB_OK && burial->writes != NULL;
    eb_lock_take(&consumer->lock);
    consumer->burials--;
    consumer->burying -= burial->writes != NULL;
    bool current = burial->gen == consumer->gen;
    if (ok) {
        consumer->counts.dead++;
        consumer->dead_waiting += burial->listed;
        if (current) /* else a seek came behind it */
            eb_worklist_buried(consumer->list, burial->seq, true);
        eb_consumer_changed_locked(consumer);
    } else {
        if (burial->collected && current)
            eb_worklist_uncollect(consumer->list, &burial->delta);
        put_off_locked(burial, true);
    }
    eb_lock_drop(&consumer->lock);
    if (ok && burial->event != NULL)
        eb_count(consumer->all->bus->counters.published, 1);
    eb_consumer_run(consumer);
    burial_free(burial);
}

static void bury(struct burial *burial)
{
    burial->op = (struct eb_op){
        .kind = burial->event != NULL ? EB_OP_PUBLISH : EB_OP_STATE,
        .count = burial->event != NULL,
        .events = &burial->event,
        .results = &burial->result,
        .bytes = burial->event != NULL ? eb_event_size(burial->event) : 0,
        .collect = bury_collect,
        .internal = true,
        .err = {.code = EB_OK, .index = -1},
        .done = bury_done,
    };
    eb_store_submit(burial->consumer->all->bus->store, &burial->op, &burial->op);
}

/* ---- the dead letter ---- */

static const char *const own_names[] = {"dead-seq", "dead-topic", "dead-message-id",
                                        "dead-deliveries", "dead-reason"};

static bool is_own(const struct eb_json *json, uint32_t tok)
{
    for (size_t i = 0; i < sizeof(own_names) / sizeof(own_names[0]); i++) {
        if (eb_json_equals(json, tok, own_names[i], strlen(own_names[i])))
            return true;
    }
    return false;
}

/* The original's headers but those that are set anew. False: no memory. */
static bool copy_headers(struct eb_buf *out, const struct eb_event *event)
{
    struct eb_json json;
    struct eb_error err;
    if (event->headers_len == 0)
        return true;
    eb_json_init(&json);
    bool read = eb_json_parse(&json, event->headers, event->headers_len, &err) == 0;
    for (uint32_t tok = 1; read && tok < json.tokens[0].next; tok = json.tokens[tok + 1].next) {
        if (is_own(&json, tok))
            continue;
        const struct eb_json_token *name = &json.tokens[tok], *value = &json.tokens[tok + 1];
        eb_buf_add(out, "\"", 1);
        eb_buf_add(out, json.text + name->start, name->len);
        eb_buf_add(out, "\":\"", 3);
        eb_buf_add(out, json.text + value->start, value->len);
        eb_buf_add(out, "\",", 2);
    }
    eb_json_finish(&json);
    return read;
}

static void add_header(struct eb_buf *out, const char *name, const char *value, size_t len)
{
    eb_json_write_string(out, name, strlen(name));
    eb_buf_add(out, ":", 1);
    eb_json_write_string(out, value, len);
}

static bool write_headers(struct eb_buf *out, const struct burial *burial,
                          const struct eb_event *event)
{
    char text[EB_UUID_TEXT + 1];
    eb_buf_add(out, "{", 1);
    if (!copy_headers(out, event))
        return false;
    int len = snprintf(text, sizeof(text), "%llu", (unsigned long long)event->seq);
    add_header(out, "dead-seq", text, (size_t)len);
    eb_buf_add(out, ",", 1);
    add_header(out, "dead-topic", event->topic, event->topic_len);
    eb_buf_add(out, ",", 1);
    eb_uuid_format(text, event->id);
    add_header(out, "dead-message-id", text, EB_UUID_TEXT);
    eb_buf_add(out, ",", 1);
    len = snprintf(text, sizeof(text), "%u", burial->deliveries);
    add_header(out, "dead-deliveries", text, (size_t)len);
    eb_buf_add(out, ",", 1);
    add_header(out, "dead-reason", burial->reason, strlen(burial->reason));
    eb_buf_add(out, "}", 1);
    return !eb_buf_failed(out);
}

static struct eb_event *dead_letter(const struct burial *burial, const struct eb_event *event)
{
    const char *topic = burial->consumer->dead_topic;
    struct eb_buf headers = EB_BUF_INIT;
    struct eb_event *ret = NULL;
    if (write_headers(&headers, burial, event)) {
        struct eb_draft draft = {
            .topic = topic,
            .topic_len = strlen(topic),
            .payload = event->payload,
            .payload_len = event->payload_len,
            .payload_utf8 = event->payload_utf8,
            .content_type = event->content_type,
            .content_type_len = event->content_type_len,
            .headers = headers.data,
            .headers_len = headers.len,
        };
        ret = eb_event_create(&draft);
    }
    eb_buf_finish(&headers);
    return ret;
}

/* ---- reading what is dying ---- */

struct funeral {
    struct eb_read read;
    struct burial *burials[EB_CONSUMER_BURIALS];
    uint64_t seqs[EB_CONSUMER_BURIALS];
    size_t count;
};

/* Its event is there: make the dead letter. False: no memory. */
static bool prepare(struct burial *burial, const struct eb_event *event)
{
    const char *own = burial->consumer->dead_topic;
    if (strcmp(event->topic, own) == 0) { /* D1 */
        burial->listed = true;
        return true;
    }
    if (strncmp(event->topic, "$dead.", 6) == 0)
        return true;
    burial->listed = true;
    burial->event = dead_letter(burial, event);
    return burial->event != NULL;
}

/* What is no more needs no burial. */
static void drop_gone(struct eb_consumer *consumer, uint64_t gen, const struct eb_read *read)
{
    struct eb_store_info info;
    eb_store_info(consumer->all->bus->store, &info);
    eb_lock_take(&consumer->lock);
    if (gen == consumer->gen)
        eb_consumer_gone_locked(consumer, read, info.deleted_upto);
    eb_lock_drop(&consumer->lock);
}

static void read_done(struct eb_read *read)
{
    struct funeral *funeral = read->user;
    size_t first = read->err.code != EB_OK; /* the one that cannot be read waits behind the rest */
    drop_gone(funeral->burials[0]->consumer, funeral->burials[0]->gen, read);
    for (size_t n = 0; n < funeral->count; n++) {
        size_t i = (n + first) % funeral->count;
        struct burial *burial = funeral->burials[i];
        struct eb_consumer *consumer = burial->consumer;
        struct eb_event *event = i < read->looked_at ? read->events[i] : NULL;
        if (event != NULL && prepare(burial, event)) {
            bury(burial);
            continue;
        }
        eb_lock_take(&consumer->lock);
        consumer->burials--;
        put_off_locked(burial, read->err.code != EB_OK || event != NULL);
        eb_lock_drop(&consumer->lock);
        eb_consumer_run(consumer);
        burial_free(burial);
    }
    eb_read_finish(read);
    free(funeral);
}

static struct burial *burial_locked(struct eb_consumer *consumer, const struct eb_job_view *view)
{
    struct burial *burial = calloc(1, sizeof(*burial));
    if (burial == NULL)
        return NULL;
    burial->consumer = eb_consumer_ref(consumer);
    burial->gen = consumer->gen;
    burial->seq = view->seq;
    burial->deliveries = view->delivery;
    burial->ended = view->ended;
    reason_take_locked(consumer, view->seq, burial->reason, view->ended);
    consumer->burials++;
    return burial;
}

/* D2 */
static void count_only_locked(struct eb_consumer *consumer)
{
    struct eb_job_view view;
    char reason[EB_REASON_MAX + 1];
    while (eb_worklist_dying(consumer->list, &view)) {
        reason_take_locked(consumer, view.seq, reason, view.ended);
        eb_worklist_gone(consumer->list, view.seq);
        consumer->counts.dead++;
        eb_consumer_changed_locked(consumer);
    }
}

static void gather_locked(struct eb_consumer *consumer, struct funeral *funeral)
{
    struct eb_job_view view;
    while (consumer->burials < EB_CONSUMER_BURIALS && eb_worklist_dying(consumer->list, &view)) {
        struct burial *burial = burial_locked(consumer, &view);
        if (burial == NULL) {
            if (eb_worklist_bury(consumer->list, view.seq))
                eb_worklist_buried(consumer->list, view.seq, false);
            consumer->bury_ms = eb_consumers_now() + EB_CONSUMER_RETRY_MS;
            break;
        }
        funeral->seqs[funeral->count] = view.seq;
        funeral->burials[funeral->count++] = burial;
    }
}

void eb_consumer_bury(struct eb_consumer *consumer)
{
    struct eb_worklist_figures figures;
    eb_lock_take(&consumer->lock);
    bool due = !consumer->stopping && consumer->life == EB_CONSUMER_THERE &&
               consumer->bury_ms <= eb_consumers_now();
    if (due && !consumer->settings->dead_letter)
        count_only_locked(consumer);
    eb_worklist_figures(consumer->list, &figures);
    due = due && consumer->settings->dead_letter && figures.dying > consumer->burials;
    eb_lock_drop(&consumer->lock);
    struct funeral *funeral = due ? calloc(1, sizeof(*funeral)) : NULL;
    if (funeral == NULL)
        return;
    eb_lock_take(&consumer->lock);
    gather_locked(consumer, funeral);
    eb_lock_drop(&consumer->lock);
    if (funeral->count == 0) {
        free(funeral);
        return;
    }
    funeral->read = (struct eb_read){.kind = EB_READ_EVENTS,
                                     .seqs = funeral->seqs,
                                     .seq_count = funeral->count,
                                     .max_bytes = EB_CONSUMER_FETCH_BYTES,
                                     .done = read_done,
                                     .user = funeral};
    eb_bus_read(consumer->all->bus, &funeral->read);
}
