/*
 * consumer_feed.c - what a consumer is fed by: a session of the bus, from its cursor on, and reads by seq for what is
 * delivered again.
 *
 * (F1) Nobody but `eb-consumer` takes from the session; it takes what the worklist wants and no more, so a consumer
 *      without workers holds a bounded queue and a bounded cache.
 * (F2) What came while the consumer was given another position (gen) is dropped: the feed is made afresh from there.
 * (F3) `next` is moved by what came, and where nothing matches by eb_session_served: never past what may still come.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumer_internal.h"
#include "common/log.h"

#define TAKE_MAX 32

struct eb_feed {
    struct eb_consumer *consumer; /* [I] one reference */
    struct eb_session *session;   /* [I] one reference until it is closed */
    uint64_t gen;                 /* [I] */
    struct eb_subscribe subscribe;
    atomic_bool failed; /* it could not be begun */
    struct eb_pattern patterns[EB_CONSUMER_PATTERNS_MAX];
};

/* What a frame without an event carries. */
struct note {
    bool gap; /* else: live */
    uint64_t from_seq, to_seq;
    enum eb_gap_reason reason;
};

/* ---- the session's side: any thread, the commit lock may be held ---- */

static struct eb_frame *frame_event(struct eb_session *session, struct eb_event *event,
                                    const char *pattern)
{
    (void)session, (void)pattern;
    struct eb_frame *frame = eb_frame_create(0);
    if (frame != NULL)
        frame->event = eb_event_ref(event);
    return frame;
}

static struct eb_frame *frame_gap(struct eb_session *session, const struct eb_gap *gap)
{
    (void)session;
    struct note note = {true, gap->from_seq, gap->to_seq, gap->reason};
    return eb_frame_from(&note, sizeof(note));
}

static struct eb_frame *frame_live(struct eb_session *session, const char *pattern, uint64_t seq)
{
    (void)session, (void)pattern;
    struct note note = {.to_seq = seq};
    return eb_frame_from(&note, sizeof(note));
}

static void wake(struct eb_session *session)
{
    struct eb_feed *feed = eb_session_user(session);
    eb_consumer_run(feed->consumer);
}

static void destroy(struct eb_session *session)
{
    struct eb_feed *feed = eb_session_user(session);
    eb_consumer_unref(feed->consumer);
    free(feed);
}

static const struct eb_session_ops feed_ops = {
    .event = frame_event, .gap = frame_gap, .live = frame_live, .wake = wake, .destroy = destroy};

/* ---- which feed there is ---- */

static void subscribed(struct eb_subscribe *subscribe)
{
    struct eb_feed *feed = subscribe->user;
    if (subscribe->err.code == EB_OK)
        return;
    atomic_store(&feed->failed, true);
    eb_consumer_run(feed->consumer);
}

void eb_feed_close(struct eb_consumer *consumer)
{
    eb_lock_take(&consumer->lock);
    struct eb_feed *feed = consumer->feed;
    consumer->feed = NULL;
    eb_lock_drop(&consumer->lock);
    if (feed == NULL)
        return;
    eb_session_close(feed->session);
    eb_session_unref(feed->session); /* may free it */
}

/* False: try again later. */
static bool feed_open(struct eb_consumer *consumer)
{
    struct eb_feed *feed = calloc(1, sizeof(*feed));
    if (feed == NULL)
        return false;
    eb_lock_take(&consumer->lock);
    feed->gen = consumer->gen;
    feed->subscribe = (struct eb_subscribe){
        .patterns = feed->patterns,
        .count = consumer->settings->pattern_count,
        .replay = true,
        .resumes = true,
        .starting_seq = eb_worklist_next(consumer->list),
        .done = subscribed,
        .user = feed,
    };
    memcpy(feed->patterns, consumer->settings->patterns, sizeof(feed->patterns));
    consumer->feed_afresh = false;
    eb_lock_drop(&consumer->lock);
    feed->consumer = eb_consumer_ref(consumer);
    if (eb_session_create(consumer->all->bus, &feed_ops, feed, true, &feed->session) < 0) {
        eb_consumer_unref(consumer);
        free(feed);
        return false;
    }
    eb_session_set_feed(feed->session);
    eb_lock_take(&consumer->lock);
    consumer->feed = feed;
    eb_lock_drop(&consumer->lock);
    eb_bus_subscribe(consumer->all->bus, feed->session, &feed->subscribe);
    return true;
}

void eb_feed_follow(struct eb_consumer *consumer)
{
    int64_t now = eb_consumers_now();
    struct eb_feed *feed = consumer->feed;
    eb_lock_take(&consumer->lock);
    bool wanted = consumer->life == EB_CONSUMER_THERE && !consumer->stopping &&
                  consumer->stopped[0] == '\0' && !consumer->damaged;
    bool afresh = feed != NULL && (consumer->feed_afresh || feed->gen != consumer->gen ||
                                   atomic_load(&feed->failed) || eb_session_closed(feed->session));
    bool failed = feed != NULL && afresh && !consumer->feed_afresh && feed->gen == consumer->gen;
    if (failed)
        consumer->feed_ms = now + EB_CONSUMER_RETRY_MS;
    bool open = wanted && consumer->feed_ms <= now;
    eb_lock_drop(&consumer->lock);
    if (!wanted || afresh)
        eb_feed_close(consumer);
    if (!open || consumer->feed != NULL || feed_open(consumer))
        return;
    eb_lock_take(&consumer->lock);
    consumer->feed_ms = now + EB_CONSUMER_RETRY_MS;
    eb_lock_drop(&consumer->lock);
}

/* ---- what comes ---- */

void eb_consumer_lost_locked(struct eb_consumer *consumer, uint64_t from, uint64_t to,
                             uint64_t lost, enum eb_gap_reason reason)
{
    struct eb_untold *untold = &consumer->untold;
    consumer->counts.lost += lost;
    eb_consumer_changed_locked(consumer);
    if (untold->to_seq == 0)
        *untold = (struct eb_untold){from, to, reason};
    if (untold->from_seq > from)
        untold->from_seq = from;
    if (untold->to_seq < to)
        untold->to_seq = to;
    untold->reason = reason;
    eb_warn(
        "EB-CONSUMER-LOST",
        "consumer %s: the events from seq %llu to %llu are gone (%s) before it handled them: at "
        "most %llu are lost",
        consumer->name, (unsigned long long)from, (unsigned long long)to,
        eb_gap_reason_name(reason), (unsigned long long)lost);
}

static void take_note_locked(struct eb_consumer *consumer, const struct note *note)
{
    struct eb_worklist *list = consumer->list;
    struct eb_worklist_figures figures;
    if (note->gap && note->reason != EB_GAP_EPOCH) {
        eb_worklist_figures(list, &figures);
        uint32_t open = figures.open;
        uint64_t from = note->from_seq > figures.next ? note->from_seq : figures.next;
        uint64_t lost = note->to_seq >= from ? note->to_seq - from + 1 : 0;
        eb_worklist_passed(list, note->to_seq);
        lost += open - eb_worklist_open(list); /* known from before a restart */
        eb_consumer_lost_locked(consumer, note->from_seq, note->to_seq, lost, note->reason);
        return;
    }
    eb_worklist_passed(list, note->to_seq);
    eb_consumer_changed_locked(consumer);
}

/* False: not now, for want of memory. */
static bool take_event_locked(struct eb_consumer *consumer, struct eb_event *event,
                              struct eb_order_key key)
{
    struct eb_worklist *list = consumer->list;
    if (strcmp(event->topic, consumer->dead_topic) == 0) { /* never its own dead letters */
        eb_worklist_passed(list, event->seq);
        return true;
    }
    if (eb_worklist_offer(list, event->seq, key) < 0)
        return false;
    eb_worklist_stamp(list, event->seq, event->timestamp);
    if (eb_worklist_has(list, event->seq)) /* else a restart has offered what is done */
        eb_cache_put(&consumer->cache, event, false);
    eb_consumer_changed_locked(consumer);
    return true;
}

/* How many events are wanted just now. */
static size_t wanted_locked(const struct eb_consumer *consumer)
{
    uint32_t ready = eb_worklist_ready_count(consumer->list);
    if (!eb_worklist_wants(consumer->list))
        return 0;
    return ready < EB_CONSUMER_AHEAD ? EB_CONSUMER_AHEAD - ready : 0;
}

/* Returns how many of the items were taken in. */
static size_t take_items_locked(struct eb_consumer *consumer, const struct eb_out *items,
                                const struct eb_order_key *keys, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        struct note note;
        const struct eb_frame *frame = items[i].frame;
        if (frame->event != NULL &&
            (wanted_locked(consumer) == 0 || !take_event_locked(consumer, frame->event, keys[i])))
            return i;
        if (frame->event == NULL) {
            memcpy(&note, frame->data, sizeof(note));
            take_note_locked(consumer, &note);
        }
    }
    return count;
}

void eb_feed_passed_locked(struct eb_consumer *consumer)
{
    struct eb_feed *feed = consumer->feed;
    if (feed == NULL || feed->gen != consumer->gen || consumer->feed_afresh)
        return;
    uint64_t served = eb_session_served(feed->session);
    if (served < eb_worklist_next(consumer->list))
        return;
    eb_worklist_passed(consumer->list, served);
    eb_consumer_changed_locked(consumer);
}

int64_t eb_feed_oldest_locked(const struct eb_consumer *consumer)
{
    return consumer->feed != NULL ? eb_session_oldest(consumer->feed->session) : 0;
}

bool eb_feed_take_in(struct eb_consumer *consumer)
{
    struct eb_feed *feed = consumer->feed;
    struct eb_out items[TAKE_MAX];
    struct eb_order_key keys[TAKE_MAX];
    size_t count, taken = 0;
    if (feed == NULL)
        return false;
    eb_lock_take(&consumer->lock);
    size_t wanted = feed->gen == consumer->gen ? wanted_locked(consumer) : 0;
    enum eb_consumer_order order = consumer->settings->order;
    char header[EB_ORDER_HEADER_MAX + 1];
    memcpy(header, consumer->settings->order_header, sizeof(header));
    eb_lock_drop(&consumer->lock);
    if (wanted == 0)
        return false;
    count = eb_session_take(feed->session, items, wanted < TAKE_MAX ? wanted : TAKE_MAX, SIZE_MAX);
    for (size_t i = 0; i < count; i++) {
        if (items[i].frame->event != NULL)
            keys[i] = eb_order_key(consumer, items[i].frame->event, order, header);
    }
    eb_lock_take(&consumer->lock);
    bool current = feed->gen == consumer->gen && !consumer->feed_afresh; /* F2 */
    taken = current ? take_items_locked(consumer, items, keys, count) : count;
    eb_lock_drop(&consumer->lock);
    eb_session_putback(feed->session, items + taken, count - taken);
    eb_session_sent(feed->session, items, taken);
    return taken > 0;
}

/* ---- reads by seq: what is ready and not at hand ---- */

struct fetch {
    struct eb_read read;
    struct eb_consumer *consumer; /* one reference */
    uint64_t gen;
    uint64_t seqs[EB_CONSUMER_FETCH];
};

bool eb_consumer_matches(const struct eb_consumer_settings *settings, const char *topic, size_t len)
{
    for (unsigned i = 0; i < settings->pattern_count; i++) {
        if (eb_pattern_match(&settings->patterns[i], topic, len))
            return true;
    }
    return false;
}

/* What is found to be no more, in one line of the log for each reason. */
struct losses {
    uint64_t from, to, count;
};

static void lose(struct losses *losses, uint64_t seq)
{
    if (losses->count == 0 || seq < losses->from)
        losses->from = seq;
    if (seq > losses->to)
        losses->to = seq;
    losses->count++;
}

/* It is no more: done. It is lost unless its own ttl ended it. */
static void gone_locked(struct eb_consumer *consumer, uint64_t seq, struct losses *losses)
{
    uint32_t open = eb_worklist_open(consumer->list);
    eb_worklist_gone(consumer->list, seq);
    if (open == eb_worklist_open(consumer->list))
        return;
    eb_consumer_changed_locked(consumer);
    if (losses != NULL)
        lose(losses, seq);
}

/* A damaged block has open what may never have matched. */
static bool is_suspect(const struct eb_consumer *consumer, const struct eb_event *event)
{
    return event->seq >= consumer->suspect_from && event->seq < consumer->suspect_to &&
           strcmp(event->topic, consumer->dead_topic) != 0 &&
           !eb_consumer_matches(consumer->settings, event->topic, event->topic_len);
}

void eb_consumer_gone_locked(struct eb_consumer *consumer, const struct eb_read *read,
                             uint64_t deleted_upto)
{
    struct losses retained_out = {0}, damaged = {0};
    for (size_t i = 0; i < read->looked_at; i++) {
        uint64_t seq = read->seqs[i];
        if (read->events[i] == NULL && read->errs[i] == -EBADMSG)
            gone_locked(consumer, seq, &damaged);
        else if (read->events[i] == NULL)
            gone_locked(consumer, seq, seq <= deleted_upto ? &retained_out : NULL);
    }
    if (retained_out.count > 0)
        eb_consumer_lost_locked(consumer, retained_out.from, retained_out.to, retained_out.count,
                                EB_GAP_RETENTION);
    if (damaged.count > 0)
        eb_consumer_lost_locked(consumer, damaged.from, damaged.to, damaged.count, EB_GAP_DAMAGED);
}

/* It is at hand from now on, in its place. */
static void found_locked(struct eb_consumer *consumer, struct eb_event *event)
{
    const struct eb_consumer_settings *settings = consumer->settings;
    struct eb_worklist *list = consumer->list;
    if (!eb_worklist_has(list, event->seq)) /* acknowledged meanwhile */
        return;
    if (eb_worklist_wants_key(list, event->seq) &&
        eb_worklist_key(list, event->seq,
                        eb_order_key(consumer, event, settings->order, settings->order_header)) < 0)
        return; /* it is read again */
    eb_worklist_stamp(list, event->seq, event->timestamp);
    eb_cache_put(&consumer->cache, event, true);
}

static void fetched_locked(struct eb_consumer *consumer, const struct eb_read *read,
                           uint64_t deleted_upto)
{
    for (size_t i = 0; i < read->looked_at; i++) {
        if (read->events[i] != NULL && is_suspect(consumer, read->events[i]))
            gone_locked(consumer, read->seqs[i], NULL);
        else if (read->events[i] != NULL)
            found_locked(consumer, read->events[i]);
    }
    eb_consumer_gone_locked(consumer, read, deleted_upto);
}

/* The first one cannot be read, maybe for a bad sector: it is tried again, and holds up no other. */
static void unread_locked(struct eb_consumer *consumer, const struct fetch *fetch)
{
    int64_t then = eb_consumers_now() + EB_CONSUMER_RETRY_MS;
    consumer->fetch_ms = then;
    if (fetch->gen != consumer->gen)
        return;
    eb_worklist_put_off(consumer->list, fetch->seqs[0], then);
    eb_consumer_changed_locked(consumer);
}

static void fetched(struct eb_read *read)
{
    struct fetch *fetch = read->user;
    struct eb_consumer *consumer = fetch->consumer;
    struct eb_store_info info;
    eb_store_info(consumer->all->bus->store, &info);
    eb_lock_take(&consumer->lock);
    consumer->fetching = false;
    if (read->err.code != EB_OK)
        unread_locked(consumer, fetch);
    else if (fetch->gen == consumer->gen)
        fetched_locked(consumer, read, info.deleted_upto);
    eb_lock_drop(&consumer->lock);
    eb_read_finish(read);
    eb_consumer_run(consumer);
    eb_consumer_unref(consumer);
    free(fetch);
}

void eb_feed_fetch(struct eb_consumer *consumer)
{
    uint64_t ready[EB_CONSUMER_FETCH];
    size_t wanted = 0, count = 0;
    int64_t now = eb_consumers_now();
    eb_lock_take(&consumer->lock);
    if (!consumer->fetching && consumer->fetch_ms <= now && consumer->worker_count > 0 &&
        !consumer->stopping && eb_worklist_ready(consumer->list))
        count = eb_worklist_peek(consumer->list, ready, EB_CONSUMER_FETCH);
    while (wanted < count && eb_cache_has(&consumer->cache, ready[wanted]))
        wanted++;
    if (wanted > 0 && consumer->cache.bytes >= EB_CONSUMER_CACHE_BYTES) /* until these are taken */
        wanted = count;
    eb_lock_drop(&consumer->lock);
    if (wanted == count) /* all are at hand, as far as one looks ahead */
        return;
    struct fetch *fetch = calloc(1, sizeof(*fetch));
    eb_lock_take(&consumer->lock);
    if (fetch == NULL) {
        consumer->fetch_ms = now + EB_CONSUMER_RETRY_MS;
        eb_lock_drop(&consumer->lock);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        if (!eb_cache_has(&consumer->cache, ready[i]))
            fetch->seqs[fetch->read.seq_count++] = ready[i];
    }
    fetch->consumer = eb_consumer_ref(consumer);
    fetch->gen = consumer->gen;
    fetch->read.kind = EB_READ_EVENTS;
    fetch->read.seqs = fetch->seqs;
    fetch->read.max_bytes = EB_CONSUMER_FETCH_BYTES;
    fetch->read.done = fetched;
    fetch->read.user = fetch;
    consumer->fetching = true;
    eb_lock_drop(&consumer->lock);
    eb_bus_read(consumer->all->bus, &fetch->read);
}
