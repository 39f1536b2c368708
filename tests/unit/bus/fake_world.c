/* fake_world.c - see fake_world.h. It stands in for store.c, the engines and pool.c at link time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "tests/unit/bus/fake_world.h"

#define EPOCH "11111111-2222-4333-8444-555555555555"

struct row {
    struct eb_event *event;
    bool damaged, acked, deleted;
};

static struct {
    struct fake_world *world;
    struct eb_store_hooks hooks;
    struct eb_op *queue, **queue_end;
    size_t alone;
    struct row *rows; /* rows[seq - 1] */
    uint64_t last, deleted_upto, deletions;
    struct eb_stream *run, **run_end, *later;
    struct eb_read *reads, **reads_end;
} fake;

/* ---- the store ---- */

int eb_store_start(struct eb_store *store, const struct eb_store_hooks *hooks)
{
    fake.hooks = *hooks;
    return 0;
}

void eb_store_submit(struct eb_store *store, struct eb_op *first, struct eb_op *last)
{
    *fake.queue_end = first;
    fake.queue_end = &last->next;
}

void eb_store_submit_or_commit(struct eb_store *store, struct eb_op *op)
{
    fake.alone++;
    eb_store_submit(store, op, op);
}

void eb_store_info(struct eb_store *store, struct eb_store_info *ret)
{
    *ret = (struct eb_store_info){.epoch = EPOCH,
                                  .first_seq = fake.deleted_upto + 1,
                                  .last_seq = fake.last,
                                  .deleted_upto = fake.deleted_upto};
}

const char *eb_store_epoch(struct eb_store *store)
{
    return EPOCH;
}

uint64_t eb_store_deletions(struct eb_store *store)
{
    return fake.deletions;
}

bool eb_store_in_memory(struct eb_store *store)
{
    return !fake.world->shares;
}

uint64_t eb_store_last_seq(struct eb_store *store)
{
    return fake.last;
}

static void store_publish(struct eb_op *op)
{
    for (uint32_t i = 0; i < op->count; i++) {
        struct eb_event *event = op->events[i];
        if (op->asks && op->asks[i].due_ms) {
            op->results[i] = (struct eb_op_result){.scheduled = true};
            continue;
        }
        event->seq = ++fake.last;
        if (event->timestamp == 0)
            event->timestamp =
                event->ttl > 0 ? eb_wall_ms() - 1000 * (event->ttl + 1) : eb_wall_ms();
        op->results[i] = (struct eb_op_result){.seq = event->seq};
        fake.rows = realloc(fake.rows, fake.last * sizeof(*fake.rows));
        fake.rows[fake.last - 1] = (struct row){.event = eb_event_ref(event)};
    }
}

size_t fake_commit(struct fake_world *world, size_t ops)
{
    world = fake.world;
    struct eb_op *first = fake.queue, *op = first, **end = &fake.queue;
    size_t count = 0;
    for (; op != NULL && count < ops; op = op->next, count++) {
        op->last_seq = fake.last + world->first_try;
        if (op->collect != NULL)
            op->writes = op->collect(op);
        op->last_seq = fake.last;
        if (world->fail_commit)
            eb_fail(&op->err, EB_STORAGE_FULL, "no room");
        else if (op->kind == EB_OP_PUBLISH || op->kind == EB_OP_DUE)
            store_publish(op);
        else if (op->kind == EB_OP_ACK && op->seq > fake.last)
            eb_fail(&op->err, EB_NOT_FOUND, "no such seq");
        if (op->err.code == EB_OK)
            fake_disk_write(op->writes, fake.last);
        for (uint32_t i = 0; op->kind == EB_OP_AUTO_ACK && i < op->count; i++)
            fake.rows[op->seqs[i] - 1].acked = true;
        end = &op->next;
    }
    if (count == 0)
        return 0;
    world->fail_commit = false;
    world->first_try = 0;
    fake.queue = op;
    if (op == NULL)
        fake.queue_end = &fake.queue;
    *end = NULL;
    fake.hooks.committed(fake.hooks.ctx, first);
    fake.hooks.settled(fake.hooks.ctx);
    return count;
}

void fake_retain(struct fake_world *world, uint64_t deleted_upto)
{
    if (deleted_upto > fake.deleted_upto)
        fake.deleted_upto = deleted_upto;
    fake.deletions++;
}

void fake_delete(struct fake_world *world, uint64_t seq)
{
    fake.rows[seq - 1].deleted = true;
}

void fake_damage(struct fake_world *world, uint64_t seq)
{
    fake.rows[seq - 1].damaged = true;
}

void fake_mark_acked(struct fake_world *world, uint64_t seq)
{
    fake.rows[seq - 1].acked = true;
}

bool fake_acked(struct fake_world *world, uint64_t seq)
{
    return fake.rows[seq - 1].acked;
}

uint64_t fake_last(struct fake_world *world)
{
    return fake.last;
}

struct eb_event *fake_event(struct fake_world *world, uint64_t seq)
{
    return fake.rows[seq - 1].event;
}

const char *fake_topic(struct fake_world *world, uint64_t seq)
{
    return fake.rows[seq - 1].event->topic;
}

/* Linked in front of the real one (--wrap). */
uint64_t __real_eb_bus_visible(struct eb_bus *bus);
uint64_t __wrap_eb_bus_visible(struct eb_bus *bus);

uint64_t __wrap_eb_bus_visible(struct eb_bus *bus)
{
    uint64_t visible = __real_eb_bus_visible(bus);
    void (*after)(struct fake_world *, void *) = fake.world->after_visible;
    if (after != NULL) {
        fake.world->after_visible = NULL;
        after(fake.world, fake.world->ctx);
    }
    return visible;
}

int __real_eb_table_match(struct eb_table *table, bool wild, const char *topic, size_t len,
                          struct eb_match **ret);
int __wrap_eb_table_match(struct eb_table *table, bool wild, const char *topic, size_t len,
                          struct eb_match **ret);

int __wrap_eb_table_match(struct eb_table *table, bool wild, const char *topic, size_t len,
                          struct eb_match **ret)
{
    if (fake.world->fail_matches > 0) {
        fake.world->fail_matches--;
        return -ENOMEM;
    }
    return __real_eb_table_match(table, wild, topic, len, ret);
}

static void add(struct eb_page *page, struct eb_page_item item)
{
    page->items = realloc(page->items, (page->count + 1) * sizeof(item));
    page->items[page->count++] = item;
}

int eb_reader_page(struct eb_reader *reader, struct eb_selection *selection,
                   const struct eb_page_request *request, struct eb_page *ret)
{
    struct fake_world *world = fake.world;
    struct eb_page page = {.next = request->from};
    size_t rows = 0;
    world->pages++;
    world->last_page_upto = request->upto;
    assert_in_range(request->from, 1, request->upto);
    if (world->fail_pages)
        return -EIO;
    if (page.next <= fake.deleted_upto) {
        uint64_t to = fake.deleted_upto < request->upto ? fake.deleted_upto : request->upto;
        if (!request->all_there_is)
            add(&page, (struct eb_page_item){
                           .from_seq = page.next, .to_seq = to, .reason = EB_GAP_RETENTION});
        page.next = to + 1;
    }
    page.whole_from = world->shares ? page.next : 0;
    for (; page.next <= request->upto; page.next++) {
        struct row *row = &fake.rows[page.next - 1];
        if (page.count >= request->max_events ||
            (world->page_rows != 0 && rows++ >= world->page_rows))
            break;
        if (row->deleted ||
            !eb_selection_match(selection, row->event->topic, row->event->topic_len)) {
            page.whole_from = 0;
            continue;
        }
        if (row->damaged || row->event->ttl != 0)
            page.whole_from = 0;
        if (row->damaged)
            add(&page, (struct eb_page_item){
                           .from_seq = page.next, .to_seq = page.next, .reason = EB_GAP_DAMAGED});
        else if (!(request->pending_only && row->acked) && row->event->ttl == 0)
            add(&page, (struct eb_page_item){.event = eb_event_ref(row->event)});
    }
    *ret = page;
    void (*during)(struct fake_world *, void *) = world->during_page;
    world->during_page = NULL;
    if (during != NULL)
        during(world, world->ctx);
    return 0;
}

static bool is_newest(const struct row *row, uint64_t upto)
{
    for (uint64_t seq = row->event->seq + 1; seq <= upto; seq++) {
        const struct eb_event *other = fake.rows[seq - 1].event;
        if (other->topic_len == row->event->topic_len &&
            memcmp(other->topic, row->event->topic, other->topic_len) == 0)
            return false;
    }
    return true;
}

int eb_reader_last_seqs(struct eb_reader *reader, struct eb_selection *selection, uint64_t upto,
                        uint64_t **ret, size_t *ret_count)
{
    fake.world->lists++;
    if (fake.world->fail_pages)
        return -EIO;
    *ret = malloc((upto + 1) * sizeof(**ret));
    *ret_count = 0;
    for (uint64_t seq = fake.deleted_upto + 1; seq <= upto; seq++) {
        const struct row *row = &fake.rows[seq - 1];
        if (row->event->ttl == 0 && is_newest(row, upto) &&
            eb_selection_match(selection, row->event->topic, row->event->topic_len))
            (*ret)[(*ret_count)++] = seq;
    }
    return 0;
}

int eb_reader_event(struct eb_reader *reader, uint64_t seq, struct eb_event **ret)
{
    if (seq < 1 || seq > fake.last || seq <= fake.deleted_upto || fake.rows[seq - 1].deleted)
        return -ENOENT;
    if (fake.rows[seq - 1].damaged)
        return -EBADMSG;
    *ret = eb_event_ref(fake.rows[seq - 1].event);
    return 0;
}

ptrdiff_t eb_reader_events(struct eb_reader *reader, const uint64_t *seqs, size_t count,
                           size_t max_bytes, struct eb_event **events, int *errs)
{
    size_t bytes = 0, i;
    if (fake.world->fail_pages)
        return -EIO;
    if (count > 0 && seqs[0] == fake.world->fail_seq)
        return -EIO;
    for (i = 0; i < count && (i == 0 || bytes < max_bytes); i++) {
        if (seqs[i] == fake.world->fail_seq)
            break;
        errs[i] = eb_reader_event(reader, seqs[i], &events[i]);
        bytes += errs[i] == 0 ? eb_event_size(events[i]) : 0;
    }
    void (*during)(struct fake_world *, void *) = fake.world->during_page;
    fake.world->during_page = NULL;
    if (during != NULL)
        during(fake.world, fake.world->ctx);
    return (ptrdiff_t)i;
}

int eb_reader_first_at(struct eb_reader *reader, int64_t time_ms, uint64_t *ret)
{
    *ret = fake.deleted_upto + 1;
    while (*ret <= fake.last && fake.rows[*ret - 1].event->timestamp < time_ms)
        ++*ret;
    return 0;
}

int eb_reader_last(struct eb_reader *reader, const char *topic, size_t len, struct eb_event **ret)
{
    return -ENOENT;
}

ptrdiff_t eb_reader_scheduled(struct eb_reader *reader, uint64_t after, struct eb_scheduled *ret,
                              size_t max)
{
    return 0;
}

int eb_reader_topics(struct eb_reader *reader, const char *after, struct eb_topic_info *out,
                     size_t max)
{
    return 0;
}

int eb_reader_create(struct eb_store *store, struct eb_reader **ret)
{
    *ret = NULL;
    return 0;
}

void eb_reader_destroy(struct eb_reader *reader)
{
}

/* ---- what is due: nothing ever is ---- */

int eb_due_create(struct eb_bus *bus, struct eb_due **ret)
{
    return 0;
}

int eb_due_start(struct eb_due *due)
{
    return 0;
}

void eb_due_kick(struct eb_due *due)
{
}

void eb_due_stop(struct eb_due *due)
{
}

void eb_due_destroy(struct eb_due *due)
{
}

/* ---- the pool ---- */

void eb_bus_read(struct eb_bus *bus, struct eb_read *read)
{
    read->next = NULL;
    *fake.reads_end = read;
    fake.reads_end = &read->next;
}

bool fake_read(struct fake_world *world)
{
    world = fake.world;
    struct eb_read *read = fake.reads;
    if (read == NULL)
        return false;
    fake.reads = read->next;
    if (fake.reads == NULL)
        fake.reads_end = &fake.reads;
    eb_read_do(world->bus, NULL, read);
    return true;
}

int eb_pool_create(struct eb_bus *bus, unsigned readers, struct eb_pool **ret)
{
    return 0;
}

void eb_pool_stop(struct eb_pool *pool)
{
}

void eb_pool_destroy(struct eb_pool *pool)
{
    for (struct eb_stream *next, *stream = fake.run; stream != NULL; stream = next) {
        next = stream->run_next;
        eb_stream_unref_place(stream);
    }
    for (struct eb_stream *next, *stream = fake.later; stream != NULL; stream = next) {
        next = stream->run_next;
        eb_stream_unref_place(stream);
    }
    fake.run = fake.later = NULL;
}

void eb_pool_run(struct eb_pool *pool, struct eb_stream *stream)
{
    stream->run_next = NULL;
    *fake.run_end = stream;
    fake.run_end = &stream->run_next;
}

void eb_pool_run_later(struct eb_pool *pool, struct eb_stream *stream, int64_t delay_ms)
{
    stream->run_next = fake.later;
    fake.later = stream;
}

void eb_pool_autoack_due(struct eb_pool *pool, int64_t due_ms)
{
}

size_t fake_runnable(struct fake_world *world)
{
    size_t count = 0;
    for (struct eb_stream *stream = fake.run; stream != NULL; stream = stream->run_next)
        count++;
    return count;
}

size_t fake_sleeping(struct fake_world *world)
{
    size_t count = 0;
    for (struct eb_stream *stream = fake.later; stream != NULL; stream = stream->run_next)
        count++;
    return count;
}

bool fake_turn(struct fake_world *world)
{
    struct eb_stream *stream = fake.run;
    if (stream == NULL)
        return false;
    fake.run = stream->run_next;
    if (fake.run == NULL)
        fake.run_end = &fake.run;
    eb_stream_turn(stream, NULL);
    return true;
}

void fake_turns(struct fake_world *world)
{
    while (fake_turn(world))
        ;
}

/* ---- the transport: a frame is its word and a NUL, padded to the payload's length ---- */

static struct eb_frame *word(size_t pad, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    int len = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    struct eb_frame *frame = eb_frame_create((size_t)len + 1 > pad ? (size_t)len + 1 : pad);
    memset(frame->data, 0, frame->cap);
    memcpy(frame->data, text, (size_t)len);
    frame->len = frame->cap;
    return frame;
}

static struct eb_frame *on_event(struct eb_session *session, struct eb_event *event,
                                 const char *pattern)
{
    struct fake_box *box = eb_session_user(session);
    void (*during)(struct fake_box *, void *) = pattern == NULL ? box->during_event : NULL;
    eb_lock_assert_none();
    assert_false(eb_session_closed(session));
    assert_true(event->seq <= atomic_load(&box->world->bus->visible)); /* B1, B3 */
    box->made++;
    if (during != NULL) {
        box->during_event = NULL;
        during(box, box->ctx);
    }
    if (pattern != NULL)
        return word(event->payload_len, "R%" PRIu64 "@%s", event->seq, pattern);
    return word(event->payload_len, "E%" PRIu64, event->seq);
}

/* Their words in a row, and as many bytes as they have singly. */
static size_t on_events(struct eb_session *session, struct eb_event *const *events, size_t count,
                        const char *pattern, size_t max_bytes, struct eb_buf *out)
{
    static const char nothing[1024];
    size_t done = 0, pad = 0;
    while (done < count && (done == 0 || out->len + pad < max_bytes)) {
        struct eb_frame *frame = on_event(session, events[done], pattern);
        size_t len = strlen((const char *)frame->data);
        eb_buf_add(out, " ", done > 0);
        eb_buf_add(out, frame->data, len);
        pad += frame->len - len - (done > 0);
        eb_frame_unref(frame);
        done++;
    }
    for (size_t more; pad > 0; pad -= more) {
        more = pad < sizeof(nothing) ? pad : sizeof(nothing);
        eb_buf_add(out, nothing, more);
    }
    return done;
}

static struct eb_frame *on_gap(struct eb_session *session, const struct eb_gap *gap)
{
    char list[512] = "";
    eb_lock_assert_none();
    if (eb_session_legacy(session))
        return NULL;
    for (size_t i = 0; i < gap->pattern_count; i++) {
        strcat(list, i != 0 ? "," : "");
        strcat(list, gap->patterns[i]);
    }
    return word(0, "G%" PRIu64 "-%" PRIu64 "@%s:%s", gap->from_seq, gap->to_seq, list,
                eb_gap_reason_name(gap->reason));
}

static struct eb_frame *on_live(struct eb_session *session, const char *pattern, uint64_t seq)
{
    eb_lock_assert_none();
    if (eb_session_legacy(session))
        return NULL;
    return word(0, "L%" PRIu64 "@%s", seq, pattern != NULL ? pattern : "");
}

static void on_wake(struct eb_session *session)
{
    struct fake_box *box = eb_session_user(session);
    eb_lock_assert_none();
    box->wakes++;
}

static void on_destroy(struct eb_session *session)
{
    eb_lock_assert_none();
    free(eb_session_user(session));
}

static const struct eb_session_ops session_ops = {on_event, on_gap, on_live, on_wake, on_destroy};
static const struct eb_session_ops bundle_ops = {.event = on_event,
                                                 .gap = on_gap,
                                                 .live = on_live,
                                                 .wake = on_wake,
                                                 .destroy = on_destroy,
                                                 .events = on_events};

const char *fake_drain(struct fake_box *box, size_t max)
{
    struct eb_out item;
    char *at = box->text;
    *at = '\0';
    for (size_t i = 0; i < max && eb_session_take(box->session, &item, 1, SIZE_MAX) == 1; i++) {
        at += snprintf(at, sizeof(box->text) - (size_t)(at - box->text), "%s%s", i != 0 ? " " : "",
                       (const char *)item.frame->data);
        eb_session_sent(box->session, &item, 1);
    }
    return box->text;
}

const char *fake_drain_all(struct fake_box *box)
{
    char *all = calloc(1, sizeof(box->text));
    size_t len = 0;
    for (;;) {
        fake_turns(box->world);
        const char *more = fake_drain(box, ALL);
        if (*more == '\0')
            break;
        len +=
            (size_t)snprintf(all + len, sizeof(box->text) - len, "%s%s", len != 0 ? " " : "", more);
    }
    strcpy(box->text, all);
    free(all);
    return box->text;
}

/* ---- requests ---- */

static void answer(struct fake_box *box, const struct eb_error *err, const char *ok)
{
    if (err->code != EB_OK)
        eb_session_reply(box->session, word(0, "error:%s", eb_code_name(err->code)));
    else
        eb_session_reply(box->session, word(0, "%s", ok));
}

static void published(struct eb_publish *publish)
{
    char text[64];
    struct fake_box *box = publish->user;
    if (box != NULL && publish->op.err.code == EB_OK && publish->op.count > 0) {
        uint64_t last = publish->op.results[publish->op.count - 1].seq;
        assert_true(eb_bus_visible(box->world->bus) >= last); /* D3 */
        snprintf(text, sizeof(text), "ok=%" PRIu64, last);
        answer(box, &publish->op.err, text);
    } else if (box != NULL) {
        answer(box, &publish->op.err, "ok=");
    }
    eb_publish_destroy(publish);
}

static const char *next_headers; /* of the next publish */

static void publish_later(struct fake_world *world, struct fake_box *box, const char *topic,
                          size_t bytes, size_t count, int64_t ttl, int64_t deliver_at_ms)
{
    struct eb_publish *publish = eb_publish_create(count);
    char *payload = calloc(1, bytes + 1);
    struct eb_draft draft = {.topic = topic,
                             .topic_len = strlen(topic),
                             .payload = payload,
                             .payload_len = bytes,
                             .headers = next_headers,
                             .headers_len = next_headers != NULL ? strlen(next_headers) : 0,
                             .ttl = ttl,
                             .deliver_at_ms = deliver_at_ms};
    struct eb_error err;
    next_headers = NULL;
    publish->batch = count != 1;
    for (size_t i = 0; i < count; i++)
        assert_int_equal(eb_publish_add(world->bus, publish, &draft, &err), 0);
    free(payload);
    publish->done = published;
    publish->user = box;
    if (box != NULL)
        publish->session = eb_session_ref(box->session);
    eb_bus_publish(world->bus, publish);
}

static void publish(struct fake_world *world, struct fake_box *box, const char *topic, size_t bytes,
                    size_t count, int64_t ttl)
{
    publish_later(world, box, topic, bytes, count, ttl, 0);
}

void fake_schedule(struct fake_box *box, const char *topic)
{
    publish_later(box->world, box, topic, 1, 1, 0, eb_wall_ms() + 60000);
}

struct due {
    struct eb_op op;
    struct eb_event *events[8];
    struct eb_op_result results[8];
};

static void due_done(struct eb_op *op)
{
    for (uint32_t i = 0; i < op->count; i++)
        eb_event_unref(op->events[i]);
    free(op->user);
}

void fake_due(struct fake_world *world, const char *topic, size_t count)
{
    struct due *due = calloc(1, sizeof(*due));
    struct eb_draft draft = {
        .topic = topic, .topic_len = strlen(topic), .payload = "x", .payload_len = 1};
    assert_non_null(due);
    due->op = (struct eb_op){.kind = EB_OP_DUE,
                             .count = (uint32_t)count,
                             .room = 8,
                             .events = due->events,
                             .results = due->results,
                             .done = due_done,
                             .user = due};
    for (size_t i = 0; i < count; i++)
        assert_non_null(due->events[i] = eb_event_create(&draft));
    eb_store_submit(world->bus->store, &due->op, &due->op);
}

void fake_publish(struct fake_world *world, const char *topic)
{
    publish(world, NULL, topic, 1, 1, 0);
}

void fake_publish_headers(struct fake_world *world, const char *topic, const char *headers)
{
    next_headers = headers;
    publish(world, NULL, topic, 1, 1, 0);
}

void fake_publish_on(struct fake_box *box, const char *topic)
{
    publish(box->world, box, topic, 1, 1, 0);
}

void fake_publish_large(struct fake_world *world, const char *topic, size_t bytes)
{
    publish(world, NULL, topic, bytes, 1, 0);
}

void fake_publish_batch(struct fake_box *box, const char *topic, size_t count)
{
    publish(box->world, box, topic, 1, count, 0);
}

void fake_publish_expired(struct fake_world *world, const char *topic)
{
    publish(world, NULL, topic, 1, 1, 5);
}

struct asked {
    struct eb_subscribe subscribe;
    struct fake_box *box;
    struct eb_pattern patterns[];
};

static void subscribed(struct eb_subscribe *subscribe)
{
    struct asked *asked = subscribe->user;
    char text[400];
    snprintf(text, sizeof(text), "ok#%" PRIu64, subscribe->last_seq);
    answer(asked->box, &subscribe->err, text);
    free(asked);
}

static void do_subscribe(struct fake_box *box, const char *const *patterns, size_t count,
                         uint64_t from, const char *epoch)
{
    struct asked *asked = calloc(1, sizeof(*asked) + count * sizeof(asked->patterns[0]));
    struct eb_error err;
    for (size_t i = 0; i < count; i++)
        assert_int_equal(
            eb_pattern_parse(&asked->patterns[i], patterns[i], strlen(patterns[i]), &err), 0);
    asked->box = box;
    asked->subscribe = (struct eb_subscribe){.patterns = asked->patterns,
                                             .count = count,
                                             .replay = from != LIVE && from != NEWEST,
                                             .last = from == NEWEST,
                                             .done = subscribed,
                                             .user = asked};
    if (asked->subscribe.replay)
        asked->subscribe.starting_seq = from;
    if (epoch != NULL) {
        asked->subscribe.has_epoch = true;
        snprintf(asked->subscribe.epoch, sizeof(asked->subscribe.epoch), "%s", epoch);
    }
    eb_bus_subscribe(box->world->bus, box->session, &asked->subscribe);
}

void fake_subscribe(struct fake_box *box, const char *pattern, uint64_t from)
{
    do_subscribe(box, &pattern, 1, from, NULL);
}

void fake_subscribe_epoch(struct fake_box *box, const char *pattern, uint64_t from,
                          const char *epoch)
{
    do_subscribe(box, &pattern, 1, from, epoch);
}

void fake_subscribe_list(struct fake_box *box, const char *const *patterns, size_t count,
                         uint64_t from)
{
    do_subscribe(box, patterns, count, from, NULL);
}

static void request_done(struct eb_request *request)
{
    answer(request->user, &request->err, request->op.kind == EB_OP_ACK ? "acked" : "bye");
    free(request);
}

void fake_unsubscribe(struct fake_box *box, const char *pattern)
{
    struct eb_request *request = calloc(1, sizeof(*request));
    struct eb_error err;
    assert_int_equal(eb_pattern_parse(&request->pattern, pattern, strlen(pattern), &err), 0);
    request->done = request_done;
    request->user = box;
    eb_bus_unsubscribe(box->world->bus, box->session, request);
}

void fake_ack(struct fake_box *box, uint64_t seq)
{
    struct eb_request *request = calloc(1, sizeof(*request));
    request->op.seq = seq;
    request->done = request_done;
    request->user = box;
    eb_bus_ack(box->world->bus, box->session, request);
}

/* ---- life ---- */

struct fake_world *fake_open(void (*change)(struct eb_bus_config *config))
{
    struct fake_world *world = calloc(1, sizeof(*world));
    world->config = (struct eb_bus_config){
        .readers = 1,
        .max_batch = 10000,
        .limits = {.max_payload = 1 << 20, .max_headers = 64},
        .queue_events = 8,
        .queue_bytes = 1000,
        .max_subscriptions = 4,
    };
    if (change != NULL)
        change(&world->config);
    memset(&fake, 0, sizeof(fake));
    fake_disk_clear();
    fake.world = world;
    fake.queue_end = &fake.queue;
    fake.run_end = &fake.run;
    fake.reads_end = &fake.reads;
    assert_int_equal(eb_bus_create(&world->config, NULL, &world->bus), 0);
    return world;
}

static void stop(struct fake_world *world)
{
    eb_bus_stop(world->bus);
    while (fake_read(world) || fake_commit(world, ALL) > 0)
        ;
    eb_bus_destroy(world->bus);
}

void fake_restart(struct fake_world *world)
{
    fake_restart_cut(world, UINT64_MAX);
}

void fake_restart_cut(struct fake_world *world, uint64_t last)
{
    stop(world);
    while (fake.last > last)
        eb_event_unref(fake.rows[--fake.last].event);
    assert_int_equal(eb_bus_create(&world->config, NULL, &world->bus), 0);
}

void fake_close(struct fake_world *world)
{
    stop(world);
    fake_disk_clear();
    for (uint64_t i = 0; i < fake.last; i++)
        eb_event_unref(fake.rows[i].event);
    free(fake.rows);
    free(world);
}

struct fake_box *fake_box(struct fake_world *world, bool one_subscription)
{
    struct fake_box *box = calloc(1, sizeof(*box));
    box->world = world;
    assert_int_equal(eb_session_create(world->bus, world->bundles ? &bundle_ops : &session_ops, box,
                                       one_subscription, &box->session),
                     0);
    return box;
}

void fake_box_close(struct fake_box *box)
{
    struct eb_session *session = box->session;
    eb_session_close(session);
    eb_session_unref(session);
}

size_t fake_alone(struct fake_world *world)
{
    size_t alone = fake.alone;
    fake.alone = 0;
    return alone;
}
