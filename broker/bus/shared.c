/*
 * shared.c - events that several streams read at about the same time, kept in memory so that the log is read about
 * once for all of them.
 *
 * (H1) A block knows what there is between two seqs of its 256: an event, or nothing. It is filled from pages that were
 *      looked at whole (eb_page.whole_from), and by the dispatcher with what it has just announced while somebody lags.
 * (H2) A deletion changes eb_store_deletions, and with it all that is here becomes void; what was read from the log
 *      before it is not taken in any more. Expiry is looked at when an event is given.
 * (H3) What a block knows is not changed but grown, so it is read without the lock, up to the ends seen under it.
 * (H4) Bounded by bytes: the block not used for longest goes. Empty when no stream reads.
 */
#include <errno.h>
#include <stdlib.h>

#include "broker/bus/internal.h"
#include "common/clock.h"

#define BLOCK       256 /* seqs */
#define BUCKETS     256
#define PAGE_BLOCKS 8            /* looked through for one page */
#define NEAR        (64u * 1024) /* who lags by more than that is not helped by what comes now */

struct block {
    atomic_uint refs; /* one for the table, one for each that reads */
    uint64_t number;
    uint64_t from, to;                   /* [H] known; to: first that is not */
    size_t bytes;                        /* [H] */
    struct block *chain, *newer, *older; /* [H] */
    struct eb_event *events[BLOCK];      /* one reference each, or NULL */
};

struct eb_shared {
    struct eb_lock lock; /* EB_RANK_LEAF: all that is [H] */
    size_t max_bytes;    /* [I] */
    uint64_t deletions;  /* [H] the count that the blocks are true for */
    struct block *buckets[BUCKETS], *newest, *oldest; /* [H] */
    atomic_size_t bytes;                              /* [H] to write, [a] to peek */
    _Atomic uint64_t asked; /* [a] end of what lagging streams looked for last */
};

/* What is cut off under the lock and given up after it. */
struct cut {
    struct block *first;
};

int eb_shared_create(size_t max_bytes, struct eb_shared **ret)
{
    struct eb_shared *shared = calloc(1, sizeof(*shared));
    if (shared == NULL)
        return -ENOMEM;
    shared->max_bytes = max_bytes;
    eb_lock_init(&shared->lock, EB_RANK_LEAF);
    *ret = shared;
    return 0;
}

static void block_unref(struct block *block)
{
    if (atomic_fetch_sub_explicit(&block->refs, 1, memory_order_acq_rel) != 1)
        return;
    for (unsigned i = 0; i < BLOCK; i++)
        eb_event_unref(block->events[i]);
    free(block);
}

static void give_up(struct cut *cut)
{
    for (struct block *next, *block = cut->first; block != NULL; block = next) {
        next = block->chain;
        block_unref(block);
    }
}

/* ---- the table ---- */

static void unlist_locked(struct eb_shared *shared, struct block *block)
{
    *(block->newer != NULL ? &block->newer->older : &shared->newest) = block->older;
    *(block->older != NULL ? &block->older->newer : &shared->oldest) = block->newer;
}

static void list_locked(struct eb_shared *shared, struct block *block)
{
    block->newer = NULL;
    block->older = shared->newest;
    *(shared->newest != NULL ? &shared->newest->newer : &shared->oldest) = block;
    shared->newest = block;
}

static void cut_locked(struct eb_shared *shared, struct block *block, struct cut *cut)
{
    struct block **place = &shared->buckets[block->number % BUCKETS];
    while (*place != block)
        place = &(*place)->chain;
    *place = block->chain;
    unlist_locked(shared, block);
    atomic_fetch_sub_explicit(&shared->bytes, block->bytes, memory_order_relaxed);
    block->chain = cut->first;
    cut->first = block;
}

static void bound_locked(struct eb_shared *shared, size_t bytes, struct cut *cut)
{
    while (shared->oldest != NULL && atomic_load(&shared->bytes) > bytes)
        cut_locked(shared, shared->oldest, cut);
}

static struct block *find_locked(struct eb_shared *shared, uint64_t number)
{
    struct block *block = shared->buckets[number % BUCKETS];
    while (block != NULL && block->number != number)
        block = block->chain;
    return block;
}

/* H2. False: what the caller has is of before a deletion. */
static bool true_for_locked(struct eb_shared *shared, uint64_t deletions, struct cut *cut)
{
    if (deletions > shared->deletions) {
        bound_locked(shared, 0, cut);
        shared->deletions = deletions;
    }
    return deletions == shared->deletions;
}

void eb_shared_drop(struct eb_shared *shared)
{
    struct cut cut = {0};
    if (atomic_load_explicit(&shared->bytes, memory_order_relaxed) == 0)
        return;
    eb_lock_take(&shared->lock);
    bound_locked(shared, 0, &cut);
    eb_lock_drop(&shared->lock);
    give_up(&cut);
}

void eb_shared_destroy(struct eb_shared *shared)
{
    if (shared == NULL)
        return;
    eb_shared_drop(shared);
    eb_lock_finish(&shared->lock);
    free(shared);
}

size_t eb_shared_bytes(struct eb_shared *shared)
{
    return atomic_load_explicit(&shared->bytes, memory_order_relaxed);
}

/* ---- taking in ---- */

static struct block *add_block_locked(struct eb_shared *shared, uint64_t number, uint64_t from)
{
    struct block *block = calloc(1, sizeof(*block));
    if (block == NULL)
        return NULL;
    atomic_init(&block->refs, 1);
    block->number = number;
    block->from = block->to = from;
    block->bytes = sizeof(*block);
    block->chain = shared->buckets[number % BUCKETS];
    shared->buckets[number % BUCKETS] = block;
    list_locked(shared, block);
    atomic_fetch_add_explicit(&shared->bytes, block->bytes, memory_order_relaxed);
    return block;
}

/* What is known from @from to @to of one block; what is not joined to it is left out. */
static void grow_locked(struct eb_shared *shared, uint64_t from, uint64_t to,
                        struct eb_event *const *events, size_t count)
{
    struct block *block = find_locked(shared, from / BLOCK);
    if (block == NULL)
        block = add_block_locked(shared, from / BLOCK, from);
    if (block == NULL || from > block->to || to <= block->to)
        return;
    size_t bytes = 0;
    for (size_t i = 0; i < count; i++) {
        uint64_t seq = events[i]->seq;
        if (seq < block->to || seq >= to)
            continue;
        block->events[seq % BLOCK] = eb_event_ref(events[i]);
        bytes += eb_event_size(events[i]);
    }
    block->to = to;
    block->bytes += bytes;
    atomic_fetch_add_explicit(&shared->bytes, bytes, memory_order_relaxed);
}

void eb_shared_add(struct eb_shared *shared, uint64_t deletions, uint64_t from, uint64_t to,
                   struct eb_event *const *events, size_t count)
{
    struct cut cut = {0};
    eb_lock_take(&shared->lock);
    if (true_for_locked(shared, deletions, &cut)) {
        for (size_t done = 0, taken; from < to; done += taken) {
            uint64_t end = (from / BLOCK + 1) * BLOCK;
            end = end < to ? end : to;
            for (taken = 0; done + taken < count && events[done + taken]->seq < end;)
                taken++;
            grow_locked(shared, from, end, events + done, taken);
            from = end;
        }
        bound_locked(shared, shared->max_bytes, &cut);
    }
    eb_lock_drop(&shared->lock);
    give_up(&cut);
}

void eb_shared_lags(struct eb_shared *shared, uint64_t upto)
{
    atomic_store_explicit(&shared->asked, upto, memory_order_relaxed);
}

bool eb_shared_near(struct eb_shared *shared, uint64_t seq)
{
    return seq <= atomic_load_explicit(&shared->asked, memory_order_relaxed) + NEAR;
}

/* ---- giving ---- */

struct part {
    struct block *block; /* one reference */
    uint64_t to;
};

static unsigned find_parts(struct eb_shared *shared, uint64_t deletions, uint64_t from,
                           uint64_t upto, struct part parts[PAGE_BLOCKS])
{
    struct cut cut = {0};
    unsigned count = 0;
    eb_lock_take(&shared->lock);
    bool good = true_for_locked(shared, deletions, &cut);
    while (good && count < PAGE_BLOCKS && from <= upto) {
        struct block *block = find_locked(shared, from / BLOCK);
        if (block == NULL || from < block->from || from >= block->to)
            break;
        unlist_locked(shared, block);
        list_locked(shared, block);
        atomic_fetch_add_explicit(&block->refs, 1, memory_order_relaxed);
        uint64_t to = block->to <= upto ? block->to : upto + 1;
        parts[count++] = (struct part){block, to};
        from = to;
    }
    eb_lock_drop(&shared->lock);
    give_up(&cut);
    return count;
}

/* False: the page ends at page->next. */
static bool take_part(const struct part *part, struct eb_selection *selection,
                      const struct eb_page_request *request, size_t *bytes, struct eb_page *page)
{
    int64_t now = eb_wall_ms();
    for (; page->next < part->to; page->next++) {
        struct eb_event *event = part->block->events[page->next % BLOCK];
        if (event == NULL || !eb_selection_match(selection, event->topic, event->topic_len) ||
            eb_event_expired(event, now))
            continue;
        size_t size = eb_event_size(event);
        if (page->count >= request->max_events ||
            (page->count > 0 && *bytes + size > request->max_bytes))
            return false;
        page->items[page->count++] = (struct eb_page_item){.event = eb_event_ref(event)};
        *bytes += size;
    }
    return true;
}

bool eb_shared_take(struct eb_shared *shared, uint64_t deletions, struct eb_selection *selection,
                    const struct eb_page_request *request, struct eb_page *page)
{
    struct part parts[PAGE_BLOCKS];
    size_t bytes = 0;
    bool more = true;
    unsigned count = find_parts(shared, deletions, request->from, request->upto, parts);
    struct eb_page_item *items = count > 0 ? malloc(request->max_events * sizeof(*items)) : NULL;
    if (items != NULL)
        *page = (struct eb_page){.items = items, .cap = request->max_events, .next = request->from};
    for (unsigned i = 0; i < count; i++) {
        if (items != NULL && more)
            more = take_part(&parts[i], selection, request, &bytes, page);
        block_unref(parts[i].block);
    }
    return items != NULL;
}
