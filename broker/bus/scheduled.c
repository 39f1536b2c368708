/* scheduled.c - what waits until it is due: listed and taken back (PROTOCOL 8). due.c lets it into the log. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/internal.h"

#define ROWS_AT_ONCE                                                                               \
    16 /* so that what is in memory is bounded by bytes and not by rows of any size */

static int room(struct eb_read *read, size_t *cap)
{
    if (read->scheduled_count + ROWS_AT_ONCE <= *cap)
        return 0;
    size_t more = *cap != 0 ? *cap * 2 : 4 * ROWS_AT_ONCE;
    struct eb_scheduled *rows = realloc(read->scheduled, more * sizeof(*rows));
    if (rows == NULL)
        return -ENOMEM;
    read->scheduled = rows;
    *cap = more;
    return 0;
}

int eb_read_scheduled(struct eb_reader *reader, struct eb_read *read)
{
    uint64_t after = read->from;
    size_t cap = 0, bytes = 0;
    read->more = true;
    while (read->more && read->scheduled_count < read->limit && bytes < read->max_bytes) {
        size_t left = read->limit - read->scheduled_count;
        size_t wanted = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
        int rc = room(read, &cap);
        if (rc < 0)
            return rc;
        struct eb_scheduled *rows = read->scheduled + read->scheduled_count;
        ptrdiff_t got = eb_reader_scheduled(reader, after, rows, wanted);
        if (got < 0)
            return (int)got;
        for (ptrdiff_t i = 0; i < got; i++)
            bytes += eb_event_size(rows[i].event);
        read->scheduled_count += (size_t)got;
        read->more = (size_t)got == wanted;
        if (got > 0)
            after = rows[got - 1].place;
    }
    return 0;
}

void eb_read_finish_scheduled(struct eb_read *read)
{
    for (size_t i = 0; i < read->scheduled_count; i++)
        eb_event_unref(read->scheduled[i].event);
    free(read->scheduled);
    read->scheduled = NULL;
    read->scheduled_count = 0;
}
