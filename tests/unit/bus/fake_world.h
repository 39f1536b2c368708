/*
 * fake_world.h - a bus on one thread: a store whose commits are stepped by hand, a pool whose turns are
 * stepped by hand, and a transport whose frames are words. So every interleaving of the seam can be played.
 *
 *   fake_publish(w, "a.b");      queued, as all operations are
 *   fake_commit(w, ALL);         one transaction: dispatch runs here
 *   fake_turn(w);                one reader's turn; w->during_page runs while its page is "being read"
 *   fake_drain(box, ALL)         what the transport took and sent: "ok#0 E1 E2 R3@a.* L3@a.* G1-2@a.*:retention"
 */
#pragma once

#include "broker/bus/internal.h"

#define ALL SIZE_MAX

struct fake_world {
    struct eb_bus *bus;
    struct eb_bus_config config; /* set before fake_open */
    bool fail_commit;            /* the next one */
    uint64_t
        first_try; /* events that the next commit's operations are asked behind, and that are refused after all */
    bool fail_pages;       /* every page: -EIO */
    uint64_t fail_seq;     /* reading this event by its seq: -EIO */
    unsigned fail_matches; /* so many look-ups in the topic table: -ENOMEM */
    bool bundles;     /* of boxes made from now on: a frame may hold the words of several events */
    size_t page_rows; /* rows looked at in one page; 0: no bound */
    void (*during_page)(struct fake_world *world, void *ctx); /* once, after the page was read */
    /* Once, when a commit has collected what it holds and is not committed yet. */
    void (*during_commit)(struct fake_world *world, void *ctx);
    /* Once, after somebody has looked at eb_bus_visible and before he acts on it: maybe under a session's lock. */
    void (*after_visible)(struct fake_world *world, void *ctx);
    void *ctx;
    bool shares;           /* pages and announced events are kept for others that read (shared.c) */
    unsigned pages, lists; /* reads of events, lists of the newest ones made */
    uint64_t last_page_upto; /* what the last page was asked to look at */
};

struct fake_box { /* a session and what happened to it */
    struct fake_world *world;
    struct eb_session *session;
    atomic_uint wakes, made; /* calls of wake, frames of events made */
    void (*during_event)(struct fake_box *box,
                         void *ctx); /* once, while a live frame is made, no lock held */
    void *ctx;
    char text[65536]; /* fake_drain's */
};

/** A world with a queue of 8 events, 1000 bytes; @change may alter the configuration. */
struct fake_world *fake_open(void (*change)(struct eb_bus_config *config));
void fake_close(struct fake_world *world);
struct fake_box *fake_box(struct fake_world *world, bool one_subscription);
void fake_box_close(struct fake_box *box);

/* The log. Answers are queued as "ok" or "error:CODE" words on the box's session. */
void fake_publish(struct fake_world *world, const char *topic);
void fake_publish_headers(struct fake_world *world, const char *topic, const char *headers);
void fake_publish_on(struct fake_box *box, const char *topic);
void fake_publish_large(struct fake_world *world, const char *topic, size_t bytes);
void fake_publish_batch(struct fake_box *box, const char *topic, size_t count);
void fake_publish_expired(struct fake_world *world, const char *topic);
void fake_schedule(struct fake_box *box, const char *topic); /* as a publish that waits */
void fake_due(struct fake_world *world, const char *topic,
              size_t count); /* what waited, at most 8 */
size_t fake_commit(struct fake_world *world, size_t ops);
size_t fake_alone(
    struct fake_world *world); /* ops since the last call that might have been committed at once */
void fake_retain(struct fake_world *world, uint64_t deleted_upto);
void fake_damage(struct fake_world *world, uint64_t seq);
void fake_mark_acked(struct fake_world *world, uint64_t seq);
bool fake_acked(struct fake_world *world, uint64_t seq);
uint64_t fake_last(struct fake_world *world);
struct eb_event *fake_event(struct fake_world *world, uint64_t seq);
const char *fake_topic(struct fake_world *world, uint64_t seq);

void fake_delete(struct fake_world *world, uint64_t seq); /* by its ttl, or singly */
/** The broker ends and starts again; what was committed is there. */
void fake_restart(struct fake_world *world);
/** The same, and the log has lost its end in between. */
void fake_restart_cut(struct fake_world *world, uint64_t last);

/* The state that is kept beside the log (fake_state.c). */
void fake_disk_write(const struct eb_state_write *writes, uint64_t op_seq);
void fake_disk_clear(void);
size_t fake_disk_blocks(size_t *ret_bytes); /* rows of open events, and their bytes */
size_t fake_disk_writes(void);              /* rows written since the last call */
void fake_disk_damage_block(void);          /* the first one */
void fake_disk_damage_settings(const char *name);
uint64_t fake_disk_next(const char *name); /* its position, 0: there is none */
uint64_t fake_held(void);                  /* eb_store_hold */

/* `eb-consumer`, and its clock. */
extern int64_t fake_now; /* ms */
void fake_consume(struct fake_world *
                      world); /* rounds, commits, reads and turns until nothing is left to do now */
void fake_round(struct fake_world *world); /* one round of all that is due */

#define LIVE   UINT64_MAX       /* @from: no starting_seq */
#define NEWEST (UINT64_MAX - 1) /* "last": the newest event of each topic first */
void fake_subscribe(struct fake_box *box, const char *pattern, uint64_t from);
void fake_subscribe_epoch(struct fake_box *box, const char *pattern, uint64_t from,
                          const char *epoch);
void fake_subscribe_list(struct fake_box *box, const char *const *patterns, size_t count,
                         uint64_t from);
void fake_unsubscribe(struct fake_box *box, const char *pattern);
void fake_ack(struct fake_box *box, uint64_t seq);

/* The pool. */
size_t fake_runnable(struct fake_world *world); /* streams in the run list */
size_t fake_sleeping(struct fake_world *world);
bool fake_read(struct fake_world *world);  /* one that waits; false: there is none */
bool fake_turn(struct fake_world *world);  /* false: there is none */
bool fake_ahead(struct fake_world *world); /* pages ahead of a turn; false: nobody asked for any */
void fake_turns(struct fake_world *world); /* until none is left */

/** Take and send up to @max items; returns their words. */
const char *fake_drain(struct fake_box *box, size_t max);
/** Turns and drains until nothing more comes. */
const char *fake_drain_all(struct fake_box *box);
