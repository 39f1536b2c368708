/*
 * last.c - the newest event of a topic, and the pages of a subscription that begins with that of each (PROTOCOL 8).
 *
 *   seqs of those events, up to the last seq at the subscribe's place | everything behind it, as any replay
 *
 * It is a replay whose first part has a list of seqs in place of the whole log, so the seam is the one of stream.c: the
 * cursor alone says where it is, also in the list.
 *
 * (L1) The list ends at the subscribe's place (`last_upto`), not where the log is when it is made: of what comes after
 *      the `ok` everything is given, however often its topic is written to.
 * (L2) It is made by the first turn, whole, and goes with the last: 8 bytes a topic meanwhile. An event that is gone
 *      when its turn comes is passed over.
 */
#include <errno.h>
#include <stdlib.h>

#include "broker/bus/internal.h"

/* The first place in the list that is not below @seq. */
static size_t place_of(const struct eb_last *last, uint64_t seq)
{
    size_t low = 0, high = last->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (last->seqs[middle] < seq)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* What was read, as items of @page; takes over the references. */
static int add_items(struct eb_page *page, struct eb_event **events, const int *errs,
                     const uint64_t *seqs, size_t count)
{
    page->items = calloc(count != 0 ? count : 1, sizeof(*page->items));
    if (page->items == NULL) {
        for (size_t i = 0; i < count; i++)
            eb_event_unref(events[i]);
        return -ENOMEM;
    }
    page->cap = count;
    for (size_t i = 0; i < count; i++) {
        if (events[i] != NULL)
            page->items[page->count++] = (struct eb_page_item){.event = events[i]};
        else if (errs[i] == -EBADMSG)
            page->items[page->count++] = (struct eb_page_item){
                .from_seq = seqs[i], .to_seq = seqs[i], .reason = EB_GAP_DAMAGED};
    }
    return 0;
}

int eb_last_page(struct eb_sub *sub, struct eb_reader *reader,
                 const struct eb_page_request *request, struct eb_page *page)
{
    struct eb_event *events[EB_PAGE_EVENTS] = {NULL};
    int errs[EB_PAGE_EVENTS] = {0};
    struct eb_last *last = &sub->last;
    if (!last->known) {
        int rc = eb_reader_last_seqs(reader, sub->selection, last->upto, &last->seqs, &last->count);
        if (rc < 0)
            return rc;
        last->known = true;
    }
    size_t at = place_of(last, request->from), count = last->count - at;
    if (count > request->max_events)
        count = request->max_events;
    ptrdiff_t looked = 0;
    if (count > 0)
        looked = eb_reader_events(reader, last->seqs + at, count, request->max_bytes, events, errs);
    if (looked < 0)
        return (int)looked;
    int rc = add_items(page, events, errs, last->seqs + at, (size_t)looked);
    at += (size_t)looked;
    page->next = at < last->count ? last->seqs[at] : last->upto + 1;
    return rc;
}

void eb_last_finish(struct eb_last *last)
{
    free(last->seqs);
    last->seqs = NULL;
    last->count = 0;
}

int eb_read_last(struct eb_reader *reader, struct eb_read *read)
{
    char quoted[300];
    int rc = eb_reader_last(reader, read->topic, read->topic_len, &read->event);
    eb_quote(quoted, sizeof(quoted), read->topic, read->topic_len);
    if (rc == -ENOENT)
        eb_fail(&read->err, EB_NOT_FOUND, "the topic \"%s\" has no event (any more)", quoted);
    else if (rc == -EBADMSG)
        eb_fail(&read->err, EB_NOT_FOUND,
                "the newest event of \"%s\" is damaged in the log and is not delivered", quoted);
    return rc;
}
