/*
 * reads.c - one-off reads of the log, as the reader pool does them (pool.c) on behalf of HTTP requests and consumers.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/internal.h"

#define READ_TURNS 64 /* pages without an item that one request for a page may go through */

static int add_epoch_gap(struct eb_page *page, uint64_t to)
{
    struct eb_page_item *items = realloc(page->items, (page->count + 1) * sizeof(*items));
    if (items == NULL)
        return -ENOMEM;
    memmove(items + 1, items, page->count * sizeof(*items));
    items[0] = (struct eb_page_item){.from_seq = 0, .to_seq = to, .reason = EB_GAP_EPOCH};
    page->items = items;
    page->cap = ++page->count;
    return 0;
}

static int read_page(struct eb_bus *bus, struct eb_reader *reader, struct eb_read *read)
{
    struct eb_selection *selection = NULL;
    struct eb_start start;
    read->last_seq = eb_bus_visible(bus);
    eb_bus_start_rule(bus, read->has_epoch ? read->epoch : NULL, read->from, read->last_seq,
                      &start);
    struct eb_page_request request = {
        .from = start.from,
        .upto = read->last_seq,
        .all_there_is = start.all_there_is,
        .max_events = read->limit,
        .max_bytes = read->max_bytes,
    };
    int rc = eb_selection_create(read->patterns, read->count, &selection);
    read->page.next = start.from;
    for (int i = 0;
         rc == 0 && i < READ_TURNS && read->page.count == 0 && request.from <= request.upto; i++) {
        eb_page_finish(&read->page);
        read->page = (struct eb_page){.next = request.from};
        rc = eb_reader_page(reader, selection, &request, &read->page);
        eb_count(bus->counters.pages, 1);
        if (rc < 0)
            read->page = (struct eb_page){0};
        request.from = read->page.next;
        request.all_there_is = false;
    }
    eb_selection_destroy(selection);
    if (rc == 0 && start.epoch_gap)
        rc = add_epoch_gap(&read->page, start.gap_to);
    return rc;
}

static int read_topics(struct eb_reader *reader, struct eb_read *read)
{
    read->topics = calloc(read->limit != 0 ? read->limit : 1, sizeof(*read->topics));
    if (read->topics == NULL)
        return -ENOMEM;
    int rc = eb_reader_topics(reader, read->after, read->topics, read->limit);
    if (rc < 0)
        return rc;
    read->topic_count = (size_t)rc;
    return 0;
}

static int read_events(struct eb_reader *reader, struct eb_read *read)
{
    read->events = calloc(read->seq_count + 1, sizeof(struct eb_event *));
    read->errs = calloc(read->seq_count + 1, sizeof(int));
    if (read->events == NULL || read->errs == NULL)
        return -ENOMEM;
    ptrdiff_t count = eb_reader_events(reader, read->seqs, read->seq_count, read->max_bytes,
                                       read->events, read->errs);
    if (count < 0)
        return (int)count;
    read->looked_at = (size_t)count;
    return 0;
}

/* Which of `seqs` are dead letters of the consumer, or the next `limit` of all from `from` on. */
static int read_dead_seqs(struct eb_reader *reader, struct eb_read *read)
{
    size_t max = read->seqs != NULL ? read->seq_count : read->limit;
    uint64_t after = read->from > 0 ? read->from - 1 : 0;
    read->dead_seqs = calloc(max + 1, sizeof(*read->dead_seqs));
    if (read->dead_seqs == NULL)
        return -ENOMEM;
    if (read->seqs == NULL) {
        ptrdiff_t count = eb_reader_dead(reader, read->consumer, after, read->dead_seqs, max);
        read->dead_count = count > 0 ? (size_t)count : 0;
        return count < 0 ? (int)count : 0;
    }
    for (size_t i = 0; i < read->seq_count; i++) {
        uint64_t seq = read->seqs[i], *next = &read->dead_seqs[read->dead_count];
        if (seq == 0)
            continue;
        ptrdiff_t count = eb_reader_dead(reader, read->consumer, seq - 1, next, 1);
        if (count < 0)
            return (int)count;
        read->dead_count += count == 1 && *next == seq;
    }
    return 0;
}

/* A page of them as events; what is damaged is passed over. */
static int read_dead(struct eb_reader *reader, struct eb_read *read)
{
    read->limit++; /* one more, to see whether there is */
    int rc = read_dead_seqs(reader, read);
    read->limit--;
    if (rc < 0)
        return rc;
    size_t found = read->dead_count, count = found < read->limit ? found : read->limit;
    read->dead_count = 0;
    read->dead_next = found > count ? read->dead_seqs[count] : 0;
    read->seqs = read->dead_seqs;
    read->seq_count = count;
    rc = read_events(reader, read);
    read->dead = calloc(count + 1, sizeof(struct eb_event *));
    if (rc < 0 || read->dead == NULL)
        return rc < 0 ? rc : -ENOMEM;
    if (read->looked_at < count)
        read->dead_next = read->seqs[read->looked_at];
    for (size_t i = 0; i < read->looked_at; i++) {
        if (read->events[i] != NULL)
            read->dead[read->dead_count++] = eb_event_ref(read->events[i]);
    }
    return 0;
}

static int read_event(struct eb_bus *bus, struct eb_reader *reader, struct eb_read *read)
{
    unsigned long long seq = read->from;
    int rc =
        read->from > read->last_seq ? -ENOENT : eb_reader_event(reader, read->from, &read->event);
    if (rc == -ENOENT)
        eb_fail(&read->err, EB_NOT_FOUND, "there is no event with seq %llu (any more)", seq);
    else if (rc == -EBADMSG)
        eb_fail(&read->err, EB_NOT_FOUND, "event %llu is damaged in the log and is not delivered",
                seq);
    return rc;
}

void eb_read_do(struct eb_bus *bus, struct eb_reader *reader, struct eb_read *read)
{
    int rc = 0;
    read->next = NULL;
    read->err = (struct eb_error){.code = EB_OK, .index = -1};
    read->last_seq = eb_bus_visible(bus);
    switch (read->kind) {
    case EB_READ_PAGE:
        rc = read_page(bus, reader, read);
        break;
    case EB_READ_EVENT:
        rc = read_event(bus, reader, read);
        break;
    case EB_READ_TOPICS:
        rc = read_topics(reader, read);
        break;
    case EB_READ_LAST:
        rc = eb_read_last(reader, read);
        break;
    case EB_READ_SCHEDULED:
        rc = eb_read_scheduled(reader, read);
        break;
    case EB_READ_EVENTS:
        rc = read_events(reader, read);
        break;
    case EB_READ_FIRST_AT:
        rc = eb_reader_first_at(reader, read->time_ms, &read->first_seq);
        break;
    case EB_READ_DEAD:
        rc = read_dead(reader, read);
        break;
    case EB_READ_DEAD_SEQS:
        rc = read_dead_seqs(reader, read);
        break;
    }
    if (rc < 0 && read->err.code == EB_OK)
        eb_fail(&read->err, EB_INTERNAL, "the log cannot be read: %s", strerrordesc_np(-rc));
    read->done(read);
}

static void free_events(struct eb_event **events, size_t count)
{
    for (size_t i = 0; i < count; i++)
        eb_event_unref(events[i]);
    free(events);
}

void eb_read_finish(struct eb_read *read)
{
    eb_page_finish(&read->page);
    eb_event_unref(read->event);
    free(read->topics);
    free_events(read->events, read->events != NULL ? read->looked_at : 0);
    free_events(read->dead, read->dead != NULL ? read->dead_count : 0);
    eb_read_finish_scheduled(read);
    free(read->errs);
    free(read->dead_seqs);
    read->event = NULL;
    read->topics = NULL;
    read->events = read->dead = NULL;
    read->errs = NULL;
    read->dead_seqs = NULL;
    read->topic_count = read->dead_count = read->looked_at = 0;
}
