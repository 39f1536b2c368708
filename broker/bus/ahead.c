/*
 * ahead.c - pages of a replay that are read while the one before them is encoded and handed over.
 *
 * A replay that is alone has one reader to itself and leaves the others idle, so that the log is not read while a
 * page is encoded. Here a second reader goes on reading for it; the turn (stream.c) takes what is there.
 *
 * (A1) Only for a subscription that replays alone, whose pages are of use to nobody else: with more streams every
 *      reader has something to do. What is ahead is bounded: PAGES pages of a quarter of the queue's events and an
 *      eighth of its bytes each, so that one of them fits whenever the stream may have a turn.
 * (A2) A subscription's selection is used by one thread: by the turn that reads by itself (`at` is 0 then), or by the
 *      reader ahead (READING). A turn that meets that one, and no page, gives its place up and is kicked afterwards.
 * (A3) Pages are given in order, and only from where the cursor is, while nothing was deleted since they were read
 *      (H2 in shared.c) and nothing in them has expired: a page may wait here for as long as its peer is slow. Else all
 *      that is ahead is void, what is being read too; the reader then stops, lest the turn meet it again and again.
 * (A4) Nothing of it outlives the replay but the empty struct; the reader ahead holds a reference of its own.
 */
#include <stdlib.h>

#include "broker/bus/internal.h"
#include "common/clock.h"

#define PAGES      EB_AHEAD_PAGES
#define EVENTS_MIN 8 /* a shorter page is not worth two threads */

enum state { IDLE, QUEUED, READING };

struct eb_ahead {
    enum state
        state;    /* [Q] QUEUED, READING: it stands in the pool's other list or was taken from it */
    bool awaited; /* [Q] A2: the stream has given up its place */
    bool spoilt;  /* [Q] A3: what is being read is void */
    uint64_t at;  /* [Q] where the next page begins, 0: not known */
    unsigned count; /* [Q] of pages */
    struct {        /* [Q] */
        uint64_t from, upto, deletions;
        struct eb_page page;
    } pages[PAGES];
};

/* ---- what a turn does ---- */

static void void_locked(struct eb_ahead *ahead, struct eb_spoilt_pages *spoilt)
{
    for (unsigned i = 0; i < ahead->count; i++)
        spoilt->pages[spoilt->count++] = ahead->pages[i].page;
    ahead->count = 0;
    ahead->at = 0;
    ahead->spoilt = ahead->state == READING;
}

/* A3. Of a page that is being read only its place is known. */
static bool good_locked(const struct eb_sub *sub, uint64_t from)
{
    const struct eb_ahead *ahead = sub->ahead;
    if (ahead->count == 0)
        return ahead->at == from && !ahead->spoilt;
    const struct eb_page *page = &ahead->pages[0].page;
    if (ahead->pages[0].from != from ||
        ahead->pages[0].deletions != eb_store_deletions(sub->session->bus->store))
        return false;
    int64_t now = eb_wall_ms();
    for (size_t i = 0; i < page->count; i++) {
        if (page->items[i].event != NULL && eb_event_expired(page->items[i].event, now))
            return false;
    }
    return true;
}

enum eb_ahead_found eb_ahead_take_locked(struct eb_sub *sub, struct eb_page_request *request,
                                         struct eb_page *page, struct eb_spoilt_pages *spoilt)
{
    struct eb_ahead *ahead = sub->ahead;
    if (ahead == NULL)
        return EB_AHEAD_NOTHING;
    if (!good_locked(sub, request->from))
        void_locked(ahead, spoilt);
    if (ahead->count > 0) {
        *page = ahead->pages[0].page;
        request->upto = ahead->pages[0].upto;
        ahead->count--;
        for (unsigned i = 0; i < ahead->count; i++)
            ahead->pages[i] = ahead->pages[i + 1];
        return EB_AHEAD_PAGE;
    }
    if (ahead->state == READING) {
        ahead->awaited = true;
        return EB_AHEAD_SOON;
    }
    ahead->at = 0;
    return EB_AHEAD_NOTHING;
}

static size_t page_events(const struct eb_session *session)
{
    size_t events = session->bus->config.queue_events / 4;
    return events < EB_PAGE_EVENTS ? events : EB_PAGE_EVENTS;
}

/* A1. */
static bool worth_it_locked(struct eb_sub *sub)
{
    struct eb_session *session = sub->session;
    return !session->closed && eb_sub_state(sub) == EB_SUB_REPLAYING && !sub->pending_only &&
           session->ops->events != NULL && eb_bus_reads_alone(session->bus) &&
           page_events(session) >= EVENTS_MIN;
}

void eb_ahead_go_on(struct eb_sub *sub, uint64_t at)
{
    struct eb_session *session = sub->session;
    struct eb_ahead *made = sub->ahead == NULL ? calloc(1, sizeof(*made)) : NULL;
    eb_lock_take(&session->lock);
    if (sub->ahead == NULL && made != NULL && worth_it_locked(sub)) {
        sub->ahead = made;
        made = NULL;
    }
    struct eb_ahead *ahead = sub->ahead;
    if (ahead != NULL && ahead->at == 0)
        ahead->at = at;
    if (ahead != NULL && ahead->state == IDLE && ahead->count < PAGES && worth_it_locked(sub) &&
        ahead->at <= eb_bus_visible(session->bus)) {
        ahead->state = QUEUED;
        eb_pool_ahead(session->bus->pool, eb_sub_ref(sub));
    }
    eb_lock_drop(&session->lock);
    free(made);
}

void eb_ahead_over_locked(struct eb_sub *sub, struct eb_spoilt_pages *spoilt)
{
    if (sub->ahead != NULL)
        void_locked(sub->ahead, spoilt);
}

bool eb_ahead_reads_locked(const struct eb_sub *sub)
{
    return sub->ahead != NULL && sub->ahead->state == READING;
}

void eb_spoilt_pages_finish(struct eb_spoilt_pages *spoilt)
{
    for (unsigned i = 0; i < spoilt->count; i++)
        eb_page_finish(&spoilt->pages[i]);
}

void eb_ahead_destroy(struct eb_ahead *ahead)
{
    if (ahead == NULL)
        return;
    for (unsigned i = 0; i < ahead->count; i++)
        eb_page_finish(&ahead->pages[i].page);
    free(ahead);
}

/* ---- what the reader ahead does ---- */

/* False: there is nothing to be read at present, and it is IDLE. */
static bool begin_locked(struct eb_sub *sub, struct eb_page_request *request)
{
    struct eb_session *session = sub->session;
    struct eb_ahead *ahead = sub->ahead;
    uint64_t visible = eb_bus_visible(session->bus);
    size_t bytes = session->bus->config.queue_bytes / 8; /* as text they may be twice as long */

    if (ahead->at == 0 || ahead->at > visible || ahead->count == PAGES || !worth_it_locked(sub)) {
        ahead->state = IDLE;
        return false;
    }
    ahead->state = READING;
    *request = (struct eb_page_request){
        .from = ahead->at,
        .upto = visible,
        .passing = true,
        .max_events = page_events(session),
        .max_bytes = bytes < EB_PAGE_BYTES ? bytes : EB_PAGE_BYTES,
    };
    return true;
}

/* A failure is met again, and told, by the turn that then reads by itself. */
static void finish_locked(struct eb_sub *sub, int rc, const struct eb_page_request *request,
                          uint64_t deletions, struct eb_page *page)
{
    struct eb_ahead *ahead = sub->ahead;
    if (rc == 0 && page->next > request->upto + 1)
        page->next = request->upto + 1;
    if (rc < 0 || ahead->spoilt) {
        ahead->at = 0;
    } else {
        ahead->pages[ahead->count].from = request->from;
        ahead->pages[ahead->count].upto = request->upto;
        ahead->pages[ahead->count].deletions = deletions;
        ahead->pages[ahead->count++].page = *page;
        *page = (struct eb_page){0};
        ahead->at = ahead->pages[ahead->count - 1].page.next;
    }
    ahead->spoilt = false;
    ahead->state = QUEUED; /* nobody reads by the selection, and the reference is still held */
    if (ahead->awaited)
        eb_stream_kick_locked(&sub->stream);
}

void eb_ahead_run(struct eb_sub *sub, struct eb_reader *reader)
{
    struct eb_session *session = sub->session;
    struct eb_page_request request;

    eb_lock_take(&session->lock);
    while (begin_locked(sub, &request)) {
        struct eb_page page = {.next = request.from};
        eb_lock_drop(&session->lock);
        uint64_t deletions = eb_store_deletions(session->bus->store);
        int rc = eb_reader_page(reader, sub->selection, &request, &page);
        eb_count(session->bus->counters.pages, 1);
        eb_lock_take(&session->lock);
        finish_locked(sub, rc, &request, deletions, &page);
        bool awaited = sub->ahead->awaited;
        sub->ahead->awaited = false;
        eb_lock_drop(&session->lock);
        eb_page_finish(&page);
        if (awaited) /* this reader goes on here, so another takes the turn */
            eb_pool_wake(session->bus->pool);
        eb_lock_take(&session->lock);
    }
    eb_lock_drop(&session->lock);
    eb_sub_unref(sub);
}
