/*
 * item.c - what a subscription holds until it is handed over: immutable, shared by every subscription it belongs to.
 */
#include <stdlib.h>
#include <string.h>

#include "client/internal.h"

struct eb_item *eb_item_create(enum eb_item_kind kind, size_t data)
{
    struct eb_item *item = malloc(sizeof(*item) + data);

    if (!item)
        return NULL;
    memset(item, 0, sizeof(*item));
    atomic_init(&item->refs, 1);
    item->kind = kind;
    item->cost = sizeof(*item) + data;
    return item;
}

struct eb_item *eb_item_ref(struct eb_item *item)
{
    atomic_fetch_add_explicit(&item->refs, 1, memory_order_relaxed);
    return item;
}

void eb_item_unref(struct eb_item *item)
{
    if (item && atomic_fetch_sub_explicit(&item->refs, 1, memory_order_acq_rel) == 1)
        free(item);
}
