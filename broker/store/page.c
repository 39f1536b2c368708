/* page.c - a page of the log: events and gaps in seq order, shared by both engines. */
#include <errno.h>
#include <stdlib.h>

#include "broker/store/engine.h"

const char *eb_gap_reason_name(enum eb_gap_reason reason)
{
    switch (reason) {
    case EB_GAP_RETENTION:
        return "retention";
    case EB_GAP_EPOCH:
        return "epoch";
    case EB_GAP_DAMAGED:
        return "damaged";
    case EB_GAP_OVERFLOW:
        return "overflow";
    case EB_GAP_DELETED:
        return "deleted";
    case EB_GAP_NONE:
        break;
    }
    return "none";
}

static struct eb_page_item *add_item(struct eb_page *page)
{
    if (page->count == page->cap) {
        size_t cap = page->cap ? page->cap * 2 : 32;
        struct eb_page_item *items = realloc(page->items, cap * sizeof *items);
        if (!items)
            return NULL;
        page->items = items;
        page->cap = cap;
    }
    struct eb_page_item *item = &page->items[page->count++];
    *item = (struct eb_page_item){0};
    return item;
}

int eb_page_add_event(struct eb_page *page, struct eb_event *event)
{
    struct eb_page_item *item = add_item(page);
    if (!item) {
        eb_event_unref(event);
        return -ENOMEM;
    }
    item->event = event;
    return 0;
}

int eb_page_add_gap(struct eb_page *page, uint64_t from, uint64_t to, enum eb_gap_reason reason)
{
    if (page->count) {
        struct eb_page_item *last = &page->items[page->count - 1];
        if (!last->event && last->reason == reason && last->to_seq + 1 >= from) {
            if (to > last->to_seq)
                last->to_seq = to;
            return 0;
        }
    }
    struct eb_page_item *item = add_item(page);
    if (!item)
        return -ENOMEM;
    item->from_seq = from;
    item->to_seq = to;
    item->reason = reason;
    return 0;
}

void eb_page_finish(struct eb_page *page)
{
    for (size_t i = 0; i < page->count; i++)
        eb_event_unref(page->items[i].event);
    free(page->items);
    *page = (struct eb_page){0};
}
