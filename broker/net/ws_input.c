/*
 * ws_input.c - the bytes that a WebSocket's socket has brought and that are not used yet.
 *
 * (I1) One recv a turn: it takes what there is, up to the buffer's size, and waits in the kernel when there is
 *      nothing. No look before it (poll), none after it (a second recv only to be told EAGAIN).
 * (I2) The buffer is small until a read fills it, then large; small again after a run of small reads. So a stream
 *      of events costs one call for hundreds of them, and a chat no more memory than its messages.
 * (I3) What is left of the last turn is moved to the front before the next: less than a frame's header.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "broker/net/ws_internal.h"

#define SMALL       (4 * 1024)
#define LARGE       (64 * 1024)
#define SMALL_READS 64 /* in a row, until a large buffer is given back */

void eb_ws_input_finish(struct eb_ws_input *in)
{
    free(in->data);
    *in = (struct eb_ws_input){0};
}

/* Another size, if there is the memory; what is left fits into it. */
static bool resize(struct eb_ws_input *in, size_t cap)
{
    char *data = realloc(in->data, cap);

    if (!data)
        return in->data != NULL;
    in->data = data;
    in->cap = cap;
    return true;
}

/* I2, I3. False: out of memory. */
static bool make_room(struct eb_ws_input *in)
{
    size_t left = in->end - in->start;

    if (left > 0 && in->start > 0)
        memmove(in->data, in->data + in->start, left);
    in->start = 0;
    in->end = left;
    if (in->cap == 0 || (in->cap > SMALL && in->small_reads >= SMALL_READS && left < SMALL))
        return resize(in, SMALL);
    return !in->filled || in->cap == LARGE || resize(in, LARGE);
}

static ssize_t take_early(struct eb_ws_conn *conn, char *out, size_t room)
{
    size_t left = conn->early.len - conn->early_used;
    size_t n = left < room ? left : room;

    memcpy(out, conn->early.data + conn->early_used, n);
    conn->early_used += n;
    return (ssize_t)n;
}

static ssize_t take(struct eb_ws_conn *conn, char *out, size_t room, bool wait)
{
    ssize_t n;

    if (conn->early_used < conn->early.len)
        return take_early(conn, out, room);
    do
        n = recv(conn->fd, out, room, wait ? 0 : MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    return n;
}

bool eb_ws_input_fill(struct eb_ws_input *in, struct eb_ws_conn *conn, bool wait)
{
    if (!make_room(in)) {
        in->eof = true;
        return false;
    }
    size_t room = in->cap - in->end;
    ssize_t n = take(conn, in->data + in->end, room, wait);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        return false;
    if (n <= 0) {
        in->eof = true;
        return false;
    }
    in->end += (size_t)n;
    in->filled = (size_t)n == room;
    in->small_reads = (size_t)n > SMALL ? 0 : in->small_reads + 1;
    atomic_store_explicit(&conn->received_ms, eb_mono_ms(), memory_order_relaxed);
    atomic_fetch_add_explicit(&conn->side->count.bytes_in, (unsigned long long)n,
                              memory_order_relaxed);
    return true;
}
