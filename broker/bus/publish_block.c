/*
 * publish_block.c - the memory of publishes: those of one event that a session makes in one chunk lie together.
 *
 *   its thread:   open_block --> places are filled --> the chunk is over ------.
 *        ^                                                                     v
 *        '-- back: its memory is used again <-- the last place is left (committing thread)
 *
 * (M1) A block holds the session for all its publishes, and goes when the last of them is over, with their events.
 * (M2) The thread that has committed frees nothing that another one allocated: it would touch memory that is in the
 *      other's cache, event by event, and wait for the lock of its arena. The block goes back to the session, whose
 *      thread fills it again: each event takes the memory of the one that was in its place, if nobody has that,
 *      and what no publish came for goes when the block is over. As much comes back as it makes.
 * (M3) What waits to be taken up is bounded (BACK_BYTES), and there is nothing while the thread rests: from
 *      eb_session_rest until it makes the next publish, `back` is closed and who leaves last frees the block himself.
 */
#include <stdlib.h>

#include "broker/bus/publish_internal.h"

#define BLOCK_MAX  64
#define LINES      128 /* two of the cache, which the processor fetches together */
#define BACK_BYTES ((size_t)4 << 20)

_Static_assert(offsetof(struct publish, pub.op) == EB_PUBLISH_FRONT &&
                   offsetof(struct publish, pub.op.err.message) <= EB_PUBLISH_FRONT + LINES,
               "what each publish needs stands together");

struct place {
    _Alignas(LINES) struct publish publish;
};

struct eb_block {
    atomic_uint
        refs; /* places that are in use or may still be, and the session's while it has it */
    unsigned used, cap;         /* the requests' thread's */
    unsigned left;              /* the same: so many places still have what was there before (M2) */
    struct eb_session *session; /* one reference until it is over */
    struct eb_block *next;      /* of those that came back */
    size_t bytes;               /* of its places and their events, once it is over */
    struct place *places;       /* behind this */
};

static struct eb_block closed; /* M3: its address is what `back` holds then */

void eb_block_session_init(struct eb_session *session)
{
    atomic_init(&session->back, &closed);
}

/* The event of a publish that is over, or the older one that it did not need. */
static struct eb_event *event_in(const struct place *place)
{
    return place->publish.pub.op.event1;
}

static void give_up(struct eb_block *block)
{
    for (unsigned i = 0; i < block->used; i++)
        eb_event_unref(event_in(&block->places[i]));
    free(block);
}

/* It ends with the places that were used this time; what the others still have goes. */
static void forget_rest(struct eb_block *block)
{
    for (unsigned i = block->used; i < block->left; i++)
        eb_event_unref(event_in(&block->places[i]));
    block->left = 0;
}

/* M2. False: its session does not want it. */
static bool send_back(struct eb_session *session, struct eb_block *block)
{
    struct eb_block *head = atomic_load_explicit(&session->back, memory_order_relaxed);
    if (head == &closed ||
        atomic_load_explicit(&session->back_bytes, memory_order_relaxed) + block->bytes >
            BACK_BYTES)
        return false;
    atomic_fetch_add_explicit(&session->back_bytes, block->bytes, memory_order_relaxed);
    do {
        block->next = head;
        if (head == &closed) { /* meanwhile */
            atomic_fetch_sub_explicit(&session->back_bytes, block->bytes, memory_order_relaxed);
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&session->back, &head, block,
                                                    memory_order_release, memory_order_relaxed));
    return true;
}

static void leave(struct eb_block *block, unsigned places)
{
    if (atomic_fetch_sub_explicit(&block->refs, places, memory_order_acq_rel) != places)
        return;
    struct eb_session *session = block->session;
    block->bytes = block->used * sizeof(block->places[0]);
    for (unsigned i = 0; i < block->used; i++)
        block->bytes += block->places[i].publish.pub.op.bytes;
    if (!send_back(session, block))
        give_up(block);
    eb_session_unref(session);
}

void eb_block_leave(struct eb_block *block)
{
    leave(block, 1);
}

void eb_publish_end_block(struct eb_session *session)
{
    struct eb_block *block = session->block;
    session->block = NULL;
    if (block == NULL)
        return;
    session->block_cap = block->used; /* as many as last time, for a start */
    forget_rest(block);
    leave(block, block->cap - block->used + 1);
}

/* What came back goes on the list of the spare ones, and @then takes its place. */
static void take_up(struct eb_session *session, struct eb_block *then)
{
    struct eb_block *back = atomic_exchange_explicit(&session->back, then, memory_order_acquire);
    for (struct eb_block *next; back != NULL && back != &closed; back = next) {
        next = back->next;
        back->next = session->spare;
        session->spare = back;
    }
}

/* One that came back; NULL when there is none or it is too small. */
static struct eb_block *use_again(struct eb_session *session, unsigned cap)
{
    if (session->spare == NULL)
        take_up(session, NULL);
    struct eb_block *block = session->spare;
    if (block == NULL)
        return NULL;
    session->spare = block->next;
    atomic_fetch_sub_explicit(&session->back_bytes, block->bytes, memory_order_relaxed);
    if (block->cap >= cap) {
        block->left = block->used;
        return block;
    }
    give_up(block);
    return NULL;
}

static struct eb_block *new_block(unsigned cap)
{
    struct eb_block *block = malloc(sizeof(*block) + LINES - 1 + cap * sizeof(block->places[0]));
    if (block == NULL)
        return NULL;
    uintptr_t places = ((uintptr_t)(block + 1) + LINES - 1) & ~(uintptr_t)(LINES - 1);
    block->places = (struct place *)(void *)places;
    block->cap = cap;
    block->left = 0;
    return block;
}

/* A block with a place free, or NULL. The first of a chunk is as large as the last chunk's, each more twice that. */
static struct eb_block *open_block(struct eb_session *session)
{
    struct eb_block *block = session->block;
    if (block != NULL && block->used < block->cap)
        return block;
    unsigned cap = block != NULL ? 2 * block->cap : session->block_cap;
    cap = cap < 1 ? 1 : cap > BLOCK_MAX ? BLOCK_MAX : cap;
    eb_publish_end_block(session);
    block = use_again(session, cap);
    if (block == NULL)
        block = new_block(cap);
    if (block == NULL)
        return NULL;
    atomic_init(&block->refs, block->cap + 1);
    block->used = 0;
    block->session = eb_session_ref(session);
    return session->block = block;
}

struct publish *eb_block_place(struct eb_session *session, struct eb_block **ret_block)
{
    struct eb_block *block = open_block(session);
    if (block == NULL)
        return NULL;
    *ret_block = block;
    struct place *place = &block->places[block->used];
    if (block->used++ >= block->left)
        place->publish.pub.op.event1 = NULL;
    return &place->publish;
}

void eb_session_rest(struct eb_session *session)
{
    take_up(session, &closed);
    for (struct eb_block *block; (block = session->spare) != NULL;) {
        session->spare = block->next;
        atomic_fetch_sub_explicit(&session->back_bytes, block->bytes, memory_order_relaxed);
        give_up(block);
    }
}
