/*
 * stream.c - one reader's turn: a page of the log for a stream that replays or lags. The other half of the
 * seam (session.c, Q1) is here in turn_finish_locked.
 *
 * A turn: begin (lock: may it go on? from where, up to which `visible`) - read the page and encode it with no
 * lock held (B5) - finish (lock: is it still wanted? hand over what fits, then live, next turn, or wait).
 *
 * (R1) No page looks past `visible` as it was at the turn's begin (B3).
 * (R2) A page for the shared stream is for the live subscriptions of one `gen`, with their floors. If the set
 *      changed meanwhile the page is thrown away and read again: what it was filtered by is no longer true.
 * (R3) A replaying subscription that is started afresh or leaves is another object or CLOSED: its page dies.
 * (R4) The cursor moves only over what entered the queue or concerns nobody, so a page cut short by a full
 *      queue is read again from there.
 * (R5) Its `live` notice is made for the seq the page was read up to, and used only when that is still the end.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/internal.h"
#include "common/log.h"

#define READ_RETRY_MS 1000

struct delivery {
    struct eb_frame *frame;
    uint64_t seq;  /* of an event, or a bundle's first; 0: a gap */
    uint64_t upto; /* where the cursor is after it */
    size_t weight;
    uint32_t events;
};

struct turn {
    struct eb_stream *stream;
    struct eb_session *session;
    struct eb_sub *sub; /* NULL: shared */
    struct eb_page_request request;
    struct eb_bundle_bounds bundles;
    struct eb_snapshot *snap; /* shared only */
    struct eb_page page;
    enum eb_ahead_found ahead; /* the page is one that was read ahead */
    struct eb_spoilt_pages spoilt;
    struct delivery *out;
    size_t count, cap;
    struct eb_frame *live;      /* R5 */
    struct eb_selection *spent; /* of a subscription that replays no more, */
    struct eb_last last;        /* with its list */
    int rc;
};

/* ---- snapshots of the live subscriptions ---- */

void eb_snapshot_free(struct eb_snapshot *snap)
{
    if (snap == NULL)
        return;
    for (size_t i = 0; i < snap->count; i++)
        eb_sub_unref(snap->subs[i].sub);
    eb_selection_destroy(snap->selection);
    free(snap);
}

static struct eb_snapshot *snapshot_locked(struct eb_session *session)
{
    struct eb_snapshot *snap = calloc(1, sizeof(*snap) + session->live * sizeof(snap->subs[0]));
    if (snap == NULL)
        return NULL;
    snap->gen = session->gen;
    snap->min_floor = UINT64_MAX;
    for (struct eb_sub *sub = session->subs; sub != NULL; sub = sub->next) {
        if (eb_sub_state(sub) != EB_SUB_LIVE)
            continue;
        snap->subs[snap->count].sub = eb_sub_ref(sub);
        snap->subs[snap->count++].floor = sub->floor;
        if (sub->floor < snap->min_floor)
            snap->min_floor = sub->floor;
        if (sub->floor > snap->max_floor)
            snap->max_floor = sub->floor;
    }
    return snap;
}

static int snapshot_select(struct eb_snapshot *snap)
{
    size_t count = 0, i = 0;
    for (size_t s = 0; s < snap->count; s++)
        count += snap->subs[s].sub->count;
    struct eb_pattern *patterns = malloc((count != 0 ? count : 1) * sizeof(*patterns));
    if (patterns == NULL)
        return -ENOMEM;
    for (size_t s = 0; s < snap->count; s++) {
        for (uint32_t p = 0; p < snap->subs[s].sub->count; p++)
            patterns[i++] = snap->subs[s].sub->entries[p].pattern;
    }
    int rc = eb_selection_create(patterns, count, &snap->selection);
    free(patterns);
    return rc;
}

static bool sub_matches(const struct eb_sub *sub, const struct eb_event *event)
{
    for (uint32_t i = 0; i < sub->count; i++) {
        if (eb_pattern_match(&sub->entries[i].pattern, event->topic, event->topic_len))
            return true;
    }
    return false;
}

/* Does a live subscription want it, above its floor? The selection has said that some pattern matches. */
static bool snapshot_wants(const struct eb_snapshot *snap, const struct eb_event *event)
{
    if (event->seq > snap->max_floor)
        return true;
    for (size_t i = 0; i < snap->count; i++) {
        if (event->seq > snap->subs[i].floor && sub_matches(snap->subs[i].sub, event))
            return true;
    }
    return false;
}

/* ---- what a page becomes ---- */

struct eb_frame *eb_sub_gap_frame(struct eb_sub *sub, uint64_t from, uint64_t to,
                                  enum eb_gap_reason reason)
{
    struct eb_session *session = sub->session;
    const char *one = sub->entries[0].pattern.text, **patterns = &one;
    if (sub->count > 1) {
        patterns = malloc(sub->count * sizeof(*patterns));
        if (patterns == NULL)
            return NULL;
        for (uint32_t i = 0; i < sub->count; i++)
            patterns[i] = sub->entries[i].pattern.text;
    }
    struct eb_gap gap = {from, to, reason, patterns, sub->count};
    struct eb_frame *frame = session->ops->gap(session, &gap); /* copies what it needs */
    eb_count(session->bus->counters.gaps[reason], 1);
    if (patterns != &one)
        free(patterns);
    /* cppcheck-suppress returnDanglingLifetime */
    return frame;
}

/* False: out of memory, the page ends before this item. Takes over the frame. */
static bool deliver(struct turn *turn, struct eb_frame *frame, uint64_t seq, uint64_t upto)
{
    if (turn->count == turn->cap) {
        size_t cap = turn->cap != 0 ? turn->cap * 2 : 64;
        struct delivery *out = realloc(turn->out, cap * sizeof(*out));
        if (out == NULL) {
            eb_frame_unref(frame);
            return false;
        }
        turn->out = out;
        turn->cap = cap;
    }
    size_t weight = frame != NULL ? eb_frame_weight(frame) : 0;
    uint32_t events = frame != NULL ? eb_frame_events(frame) : 0;
    turn->out[turn->count++] = (struct delivery){frame, seq, upto, weight, events};
    return true;
}

static bool deliver_gap(struct turn *turn, const struct eb_page_item *item)
{
    if (turn->sub != NULL) {
        struct eb_frame *frame =
            eb_sub_gap_frame(turn->sub, item->from_seq, item->to_seq, item->reason);
        return deliver(turn, frame, 0, item->to_seq);
    }
    for (size_t i = 0; i < turn->snap->count; i++) {
        uint64_t floor = turn->snap->subs[i].floor;
        if (floor >= item->to_seq)
            continue;
        uint64_t from = item->from_seq > floor ? item->from_seq : floor + 1;
        struct eb_frame *frame =
            eb_sub_gap_frame(turn->snap->subs[i].sub, from, item->to_seq, item->reason);
        if (!deliver(turn, frame, 0, item->to_seq))
            return false;
    }
    return true;
}

/* The pattern that stands beside the events of a replay; one subscription of several needs none. */
static const char *mark_of(const struct turn *turn)
{
    if (turn->sub == NULL || turn->session->one_subscription)
        return NULL;
    return turn->sub->entries[0].pattern.text;
}

/* The wanted ones of the page's events from *at on, up to a gap, as frames. False: see deliver; *at is where. */
static bool deliver_run(struct turn *turn, size_t *at)
{
    struct eb_event *run[EB_PAGE_EVENTS];
    struct eb_page *page = &turn->page;
    size_t places[EB_PAGE_EVENTS];
    uint32_t count = 0, taken = 0;
    size_t i = *at;
    for (; i < page->count && page->items[i].event != NULL && count < EB_PAGE_EVENTS; i++) {
        struct eb_event *event = page->items[i].event;
        if (turn->sub == NULL && !snapshot_wants(turn->snap, event))
            continue;
        places[count] = i;
        run[count++] = event;
    }
    for (uint32_t done = 0; done < count; done += taken) {
        *at = places[done];
        if (eb_session_closed(turn->session))
            return true;
        struct eb_frame *frame = eb_bundle_make(turn->session, run + done, count - done,
                                                mark_of(turn), &turn->bundles, &taken);
        if (frame == NULL && eb_session_closed(turn->session))
            return true;
        if (frame == NULL || !deliver(turn, frame, run[done]->seq, run[done + taken - 1]->seq))
            return false;
    }
    *at = i;
    return true;
}

static void turn_encode(struct turn *turn)
{
    for (size_t i = 0; i < turn->page.count;) {
        struct eb_page_item *item = &turn->page.items[i];
        if (eb_session_closed(turn->session))
            return;
        bool taken = item->event == NULL ? deliver_gap(turn, item) : deliver_run(turn, &i);
        if (!taken) {
            item = &turn->page.items[i];
            turn->page.next = item->event != NULL ? item->event->seq : item->from_seq;
            turn->rc = -ENOMEM;
            return;
        }
        i += item->event == NULL;
    }
    if (turn->sub != NULL && turn->page.next > turn->request.upto)
        turn->live = turn->session->ops->live(turn->session, mark_of(turn), turn->page.next - 1);
}

/* ---- the turn ---- */

static bool still_wanted_locked(const struct turn *turn)
{
    if (turn->session->closed)
        return false;
    if (turn->sub != NULL)
        return eb_sub_state(turn->sub) == EB_SUB_REPLAYING;
    return turn->session->lagging;
}

static size_t at_least_one(size_t bound, size_t used, size_t most)
{
    size_t left = bound > used ? bound - used : 1;
    return left < most ? left : most;
}

bool eb_bus_reads_alone(struct eb_bus *bus)
{
    return atomic_load_explicit(&bus->counters.lagging, memory_order_relaxed) +
               atomic_load_explicit(&bus->counters.replaying, memory_order_relaxed) <
           2;
}

/* False: nothing is to be read now; the stream is out of the pool. */
static bool turn_begin(struct turn *turn)
{
    struct eb_session *session = turn->session;
    struct eb_stream *stream = turn->stream;
    size_t events, bytes;
    bool go = false;

    struct eb_snapshot *stale = NULL;
    eb_lock_take(&session->lock);
    stream->sched = EB_SCHED_IDLE;
    if (!still_wanted_locked(turn))
        goto out;
    if (!eb_queue_has_room_locked(session)) {
        eb_stream_kick_locked(stream); /* waits */
        goto out;
    }
    stream->sched = EB_SCHED_RUNNING;
    if (turn->sub == NULL) {
        turn->snap = session->snap;
        session->snap = NULL;
        if (turn->snap == NULL || turn->snap->gen != session->gen) {
            stale = turn->snap;
            turn->snap = snapshot_locked(session);
        }
        if (turn->snap != NULL && turn->snap->min_floor > stream->cursor)
            stream->cursor = turn->snap->min_floor; /* below it nobody is served */
    }
    eb_queue_bounds(session, turn->sub != NULL ? EB_FIT_REPLAY : EB_FIT_LIVE, &events, &bytes);
    turn->request = (struct eb_page_request){
        .from = stream->cursor + 1,
        .upto = eb_bus_visible(session->bus),
        .pending_only = turn->sub != NULL && turn->sub->pending_only,
        .all_there_is = turn->sub != NULL && turn->sub->all_there_is,
        .passing = session->ops->events != NULL && eb_bus_reads_alone(session->bus),
        .max_events = at_least_one(events, session->events, EB_PAGE_EVENTS),
        .max_bytes = at_least_one(bytes, session->event_bytes, EB_PAGE_BYTES),
    };
    if (turn->sub != NULL)
        turn->ahead = eb_ahead_take_locked(turn->sub, &turn->request, &turn->page, &turn->spoilt);
    go = turn->ahead != EB_AHEAD_SOON;
    if (!go)
        stream->sched = EB_SCHED_IDLE;
out:
    eb_lock_drop(&session->lock);
    eb_snapshot_free(stale);
    return go;
}

/* What the page has looked at whole, for the others that read (shared.c). What only passes would keep its neighbours. */
static void share_page(struct turn *turn, uint64_t deletions)
{
    struct eb_page *page = &turn->page;
    struct eb_bus *bus = turn->session->bus;
    struct eb_event *events[EB_PAGE_EVENTS];
    uint64_t to = page->next <= turn->request.upto ? page->next : turn->request.upto + 1;
    uint32_t count = 0;
    if (turn->request.passing || page->whole_from == 0 || page->whole_from >= to ||
        eb_bus_reads_alone(bus))
        return;
    for (size_t i = 0; i < page->count && count < EB_PAGE_EVENTS; i++) {
        if (page->items[i].event != NULL && page->items[i].event->seq >= page->whole_from)
            events[count++] = page->items[i].event;
    }
    eb_shared_add(bus->shared, deletions, page->whole_from, to, events, count);
}

static int turn_page(struct turn *turn, struct eb_reader *reader, struct eb_selection *selection)
{
    struct eb_bus *bus = turn->session->bus;
    uint64_t deletions = eb_store_deletions(bus->store);
    if (turn->sub != NULL && turn->request.from <= turn->sub->last.upto) {
        eb_count(bus->counters.pages, 1);
        return eb_last_page(turn->sub, reader, &turn->request, &turn->page);
    }
    if (turn->sub == NULL)
        eb_shared_lags(bus->shared, turn->request.upto);
    if (!turn->request.pending_only &&
        eb_shared_take(bus->shared, deletions, selection, &turn->request, &turn->page)) {
        eb_count(bus->counters.shared_hits, 1);
        return 0;
    }
    int rc = eb_reader_page(reader, selection, &turn->request, &turn->page);
    eb_count(bus->counters.pages, 1);
    eb_count(bus->counters.shared_misses, 1);
    if (rc == 0 && !turn->request.pending_only)
        share_page(turn, deletions);
    return rc;
}

/* The page, by itself or as it was read ahead. False: there is none. */
static bool turn_read(struct turn *turn, struct eb_reader *reader)
{
    struct eb_selection *selection = turn->sub != NULL ? turn->sub->selection : NULL;
    if (turn->ahead == EB_AHEAD_PAGE)
        return true;
    turn->page.next = turn->request.from;
    if (turn->sub == NULL) {
        if (turn->snap == NULL ||
            (turn->snap->selection == NULL && snapshot_select(turn->snap) < 0)) {
            turn->rc = -ENOMEM;
            return false;
        }
        selection = turn->snap->selection;
    }
    if (turn->request.from <= turn->request.upto) {
        turn->rc = turn_page(turn, reader, selection);
        if (turn->rc < 0) {
            eb_warn("EB-READ-FAILED",
                    "cannot read the log from seq %llu: %s; trying again in a second",
                    (unsigned long long)turn->request.from, strerrordesc_np(-turn->rc));
            return false;
        }
        if (turn->page.next > turn->request.upto + 1)
            turn->page.next = turn->request.upto + 1; /* R1, whatever the engine knows */
    }
    return true;
}

enum outcome { HANDED_OVER, FULL, OUT_OF_MEMORY };

/* R4. Frames that entered the queue are taken out of the turn. */
static enum outcome hand_over_locked(struct turn *turn, bool *ret_pushed)
{
    struct eb_stream *stream = turn->stream;
    enum eb_fit fit = turn->sub != NULL ? EB_FIT_REPLAY : EB_FIT_LIVE;
    for (size_t i = 0; i < turn->count; i++) {
        struct delivery *d = &turn->out[i];
        if (d->frame != NULL) {
            if (d->seq != 0 && !eb_queue_fits_locked(turn->session, d->events, d->weight, fit)) {
                stream->cursor = d->seq - 1;
                return FULL;
            }
            if (eb_queue_push_locked(turn->session, d->frame, d->seq) < 0) {
                if (d->seq != 0)
                    stream->cursor = d->seq - 1;
                return OUT_OF_MEMORY;
            }
            d->frame = NULL;
            *ret_pushed = true;
        }
        stream->cursor = d->upto;
    }
    stream->cursor = turn->page.next - 1;
    return turn->rc == -ENOMEM ? OUT_OF_MEMORY : HANDED_OVER;
}

/* Q1: at the end of what is visible, under the lock, and only there. */
static void join_locked(struct turn *turn, bool *ret_pushed)
{
    struct eb_session *session = turn->session;
    if (turn->sub == NULL) {
        eb_session_catch_up_locked(session, turn->stream->cursor);
        return;
    }
    if (turn->live != NULL && eb_queue_push_locked(session, turn->live, 0) == 0) {
        turn->live = NULL;
        *ret_pushed = true;
    }
    turn->sub->floor = turn->stream->cursor;
    eb_sub_move_locked(turn->sub, EB_SUB_LIVE);
}

/* Returns whether something entered the queue; the stream goes back to the pool, waits, or is live. */
static bool turn_finish_locked(struct turn *turn, int64_t *ret_later)
{
    struct eb_session *session = turn->session;
    struct eb_stream *stream = turn->stream;
    bool pushed = false;
    bool valid = still_wanted_locked(turn) && (turn->rc == 0 || turn->rc == -ENOMEM) &&
                 (turn->sub != NULL || (turn->snap != NULL && turn->snap->gen == session->gen));
    enum outcome outcome = turn->rc == 0 ? HANDED_OVER : OUT_OF_MEMORY;

    stream->sched = EB_SCHED_IDLE;
    if (valid) {
        uint64_t before = stream->cursor;
        outcome = hand_over_locked(turn, &pushed);
        if (turn->sub != NULL &&
            stream->cursor > before) /* begun: what is deleted ahead of it now is missing */
            turn->sub->all_there_is = false;
        if (outcome == HANDED_OVER && stream->cursor >= eb_bus_visible(session->bus))
            join_locked(turn, &pushed);
    }
    if (!still_wanted_locked(turn)) { /* for good: nobody else reads by it */
        if (turn->sub != NULL) {
            eb_ahead_over_locked(turn->sub, &turn->spoilt);
            if (!eb_ahead_reads_locked(turn->sub)) {
                turn->spent = turn->sub->selection;
                turn->sub->selection = NULL;
            }
            turn->last = turn->sub->last;
            turn->sub->last = (struct eb_last){0};
        }
        return pushed;
    }
    if (outcome == OUT_OF_MEMORY) {
        stream->sched = EB_SCHED_QUEUED;
        *ret_later = READ_RETRY_MS;
    } else if (outcome == FULL) { /* an event waits unsent, so eb_session_sent will come (Q4) */
        stream->waits_room = true;
        session->waiting++;
    } else {
        eb_stream_kick_locked(stream);
    }
    return pushed;
}

void eb_stream_turn(struct eb_stream *stream, struct eb_reader *reader)
{
    struct turn turn = {.stream = stream,
                        .session = stream->session,
                        .sub = stream->sub,
                        .bundles = eb_bundle_bounds(stream->session)};
    struct eb_session *session = turn.session;
    int64_t later = -1;
    bool pushed = false;

    if (turn_begin(&turn)) {
        if (turn_read(&turn, reader)) {
            if (turn.sub != NULL && turn.page.next > turn.sub->last.upto)
                eb_ahead_go_on(turn.sub, turn.page.next);
            turn_encode(&turn);
        }
        eb_lock_take(&session->lock);
        pushed = turn_finish_locked(&turn, &later);
        if (turn.sub == NULL && session->lagging && !session->closed && turn.snap != NULL &&
            turn.snap->gen == session->gen && session->snap == NULL) {
            session->snap = turn.snap;
            turn.snap = NULL;
        }
        eb_lock_drop(&session->lock);
    }
    if (pushed && !eb_session_closed(session))
        eb_session_wake(session);
    eb_page_finish(&turn.page);
    eb_spoilt_pages_finish(&turn.spoilt);
    for (size_t i = 0; i < turn.count; i++)
        eb_frame_unref(turn.out[i].frame);
    free(turn.out);
    eb_frame_unref(turn.live);
    eb_snapshot_free(turn.snap);
    eb_selection_destroy(turn.spent);
    eb_last_finish(&turn.last);
    eb_bus_share_rest(session->bus);
    if (later >= 0)
        eb_pool_run_later(session->bus->pool, stream, later); /* keeps the place's reference */
    else
        eb_stream_unref_place(stream);
}
