/* fake_reader.c - reading the log of fake_store.c. It stands in for reader.c and the engines at link time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "tests/unit/bus/fake_internal.h"

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
        struct fake_row *row = &fake.rows[page.next - 1];
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

static bool is_newest(const struct fake_row *row, uint64_t upto)
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
        const struct fake_row *row = &fake.rows[seq - 1];
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
