/*
 * load.h - what the parts of eventbus-load share: options, connections, the table of a protocol's functions.
 *
 *   main.c ── mode_*.c ── loop.c ── wire_*.c        a mode plans connections and says when they may send;
 *      │          └─ publisher.c                     the loop moves bytes; a wire alone knows what they mean
 *      └─ sink.c (the other end, for the loader's own ceiling)
 *
 * One loop a thread, and nothing shared between loops while they run but what says so: a connection, its buffers
 * and its counters belong to its loop. The options are written once, before any thread starts.
 *
 * Every payload begins with a stamp, so that a subscriber can tell a lost, repeated or disordered event and how
 * long it was on its way: 4 digits publisher, 10 digits number of its event, 16 hexadecimal digits of
 * CLOCK_MONOTONIC in nanoseconds (when it was due if the rate is paced, else when it was written).
 */
#ifndef LOAD_H
#define LOAD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>

#include "hist.h"
#include "stalls.h"

#define ID_TEXT         10 /* a request's id always has so many digits: it is patched, not printed */
#define ID_FIRST        1000000000ULL
#define ID_MARK         "@@@@@@@@@@"
#define STAMP_PUBLISHER 4
#define STAMP_NUMBER    10
#define STAMP_ORDER     (STAMP_PUBLISHER + STAMP_NUMBER)
#define STAMP_TIME      16
#define STAMP           (STAMP_ORDER + STAMP_TIME)
#define PAYLOAD_MIN     32
#define PUBLISHERS_MAX  10000
#define NS              1000000000ULL

struct wire;

struct options {
    const char *mode, *host;
    const struct wire *wire; /* of the target */
    unsigned port;
    unsigned connections, threads;
    unsigned window; /* events unanswered (publish) or not yet with every subscriber (fanout) */
    unsigned refill; /* so much of the window must be free before more is sent */
    unsigned batch;  /* events a request */
    unsigned frame;  /* requests a WebSocket frame, where the protocol lets many stand in one */
    unsigned topics;
    size_t payload;
    char *payload_text; /* of that many bytes, with room for the stamp marked at its start */
    uint64_t events;    /* 0: run for seconds */
    double seconds, warmup;
    double paced; /* events a second of all publishers together, 0: as fast as it goes */
    uint64_t
        tick; /* ns: paced events leave at multiples of it, all that fell due since the last one; 0: each when due */
    unsigned subscribers, publishers, stalled;
    bool mask_zero;
};

extern struct options opt;

enum role {
    ROLE_PUBLISHER, /* each request is answered, and the answer is what is measured */
    ROLE_FEEDER,    /* publishes for subscribers: answers are not asked for */
    ROLE_SUBSCRIBER,
    ROLE_REPLAY, /* subscriber from the start of the log */
    ROLE_WORKER, /* takes part in the work of a durable consumer, and acknowledges */
    ROLE_SERVED, /* a connection of the sink */
};

struct request {
    uint64_t at;     /* when it was written, or due */
    uint32_t events; /* 0: the slot is free */
};

struct order {
    char text[STAMP_ORDER]; /* the stamp that has to come next from this publisher */
};

struct loop;

struct conn {
    const struct wire *wire;
    struct loop *loop;
    int fd;
    enum role role;
    unsigned number; /* among those of its role */
    bool ready, wants_out;
    int step;        /* the wire's: how far its opening is */
    size_t hint;     /* the wire's: where the payload was the last time */
    uint64_t left;   /* the wire's: bytes or events still to come of what has begun */
    size_t carry;    /* the wire's: bytes of the rest that are unframed already */
    char cursor[48]; /* the wire's: from where to read on */
    uint32_t key;    /* of the last masked frame */

    uint8_t *rest; /* received, not yet whole */
    size_t rest_len, rest_cap;
    uint8_t *out; /* from..to is still to be sent */
    size_t out_from, out_to, out_cap;

    char id[ID_TEXT]; /* of the next request */
    char stamp[STAMP];
    unsigned topic;
    uint64_t quota; /* events it may still publish */
    uint64_t published, requests, answers;
    uint64_t open; /* events unanswered */
    struct request *ring;
    size_t ring_mask;
    uint64_t oldest; /* request: none before it is open */

    struct order *orders; /* of each publisher */
    uint64_t received, dropped;
};

/*
 * One protocol. Each function runs on the connection's loop. What cannot be done is told by conn_fail().
 */
struct wire {
    const char *name;
    bool may_drop; /* the broker may lose events on the way to a subscriber, and does not say so */
    bool always_answers; /* a feeder's requests are answered too */
    bool websocket;      /* for what speaks the same with and without frames */
    unsigned window_max; /* requests it can have open on a connection, 0: any */
    unsigned batch_max;  /* events it can put into one request, 0: any */
    unsigned topics_max; /* topics one subscriber can ask for, 0: any */
    /* Make what all connections share. Before any thread starts. */
    void (*prepare)(void);
    /* What publishes for this one's subscribers, if it only subscribes. */
    const struct wire *feeder;
    /* The connection stands: write what comes first. It is ready when conn_ready() was called. */
    void (*open)(struct conn *c);
    /* Ask a ready ROLE_REPLAY connection's broker for all that is stored. NULL: it stores nothing. */
    void (*replay)(struct conn *c);
    /*
     * A ready ROLE_WORKER connection begins: the consumer is made if there is none. Each event goes to conn_job(); if
     * that says so, the wire asks for its ack, and tells the answers by conn_job_acked(). NULL: it has no such thing.
     */
    void (*work)(struct conn *c);
    /* Append one request with that many events. */
    void (*publish)(struct conn *c, unsigned events);
    /* No more is published in this turn: finish what was begun. May be NULL. */
    void (*published)(struct conn *c);
    /* Read what came; how many bytes of it are done with (the rest is given again, with more). */
    size_t (*parse)(struct conn *c, uint8_t *data, size_t len);
    /* The sink's side: what it says first (or NULL), and its answers to what came. */
    void (*greet)(struct conn *c);
    size_t (*serve)(struct conn *c, uint8_t *data, size_t len);
};

extern const struct wire *const wires[];

/* What a mode does in a loop. */
struct mode {
    const char *name;
    void (*plan)(void);               /* loop_add() the connections */
    void (*begin)(struct loop *loop); /* all connections of all loops are ready */
    void (*progress)(struct conn *c); /* its bytes were read, or its socket takes more */
    uint64_t (*turn)(
        struct loop *loop); /* after each round; returns how long to wait at most, in ns */
    bool (*done)(struct loop *loop);
    void (*report)(FILE *out);
    bool
        waits; /* nothing need come for as long as it likes, and it says itself what there is to say */
};

extern const struct mode mode_publish, mode_fanout, mode_latency, mode_replay, mode_idle, mode_work;

struct loop {
    int epoll;
    unsigned number;
    pthread_t thread;
    const struct mode *mode;
    struct conn **conns;
    size_t conns_len, opened, ready;
    uint8_t *scratch;
    uint64_t now;      /* when the bytes that are being read were there */
    bool timed;        /* subscribers look at the time in the stamps */
    bool begun;        /* all are connected: before, nothing is published */
    bool counting;     /* the time that is measured has begun and is not over */
    bool stopped;      /* nothing more is published */
    uint64_t progress; /* when something came last */
    uint64_t measured, gaps, late_max;
    char time_text[STAMP_TIME]; /* the time read last, and its value */
    uint64_t time_value;
    struct hist latency, late;
    struct stalls *stalls; /* NULL: not asked for */
};

/* ---- loop.c ---- */

struct run {
    struct loop *loops;
    unsigned loops_len;
    uint64_t begun, start, measure, end; /* end: UINT64_MAX when events are counted */
    atomic_bool failed;
    atomic_ulong errors;
    double seconds, cpu_s;
};

extern struct run run;

uint64_t now_ns(void);
void die(const char *format, ...) __attribute__((format(printf, 1, 2), noreturn));
/* Give a connection to one of the loops. */
struct conn *loop_add(enum role role, unsigned number);
/* Open all connections, run the mode until every loop is done. False: something was wrong, and was said. */
bool loop_run(const struct mode *mode);
/* Make an epoll loop of this thread's connections alone; for the sink. */
void loop_init(struct loop *loop);
void loop_attach(struct loop *loop, struct conn *c, int fd);
/* Read no more from it, as a stopped process would. */
void conn_deafen(struct conn *c);
/* Read what a connection has to say. False: its peer has closed. */
bool conn_read(struct conn *c, size_t (*parse)(struct conn *, uint8_t *, size_t));
/* Send what was written; the rest follows when the socket takes it. */
void conn_flush(struct conn *c);
/* Room for len bytes behind what was written; conn_wrote() says how many it were. */
uint8_t *conn_reserve(struct conn *c, size_t len);
static inline void conn_wrote(struct conn *c, size_t len)
{
    c->out_to += len;
}
void conn_put(struct conn *c, const void *bytes, size_t len);
void conn_printf(struct conn *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The whole run has failed; said once, counted always. */
void conn_fail(struct conn *c, const char *format, ...) __attribute__((format(printf, 2, 3)));
void conn_fail_bytes(struct conn *c, const char *what, const void *bytes, size_t len);
/* The opening is over. */
void conn_ready(struct conn *c);

/* ---- publisher.c ---- */

void publisher_init(struct conn *c, uint64_t quota);
/* Write what may be written now, at most so many events, and send it. */
void publisher_fill(struct conn *c, uint64_t allowance);
/* When the next event is due, 0 when that is not what it waits for. */
uint64_t publisher_due(const struct conn *c);
/* A request was answered: that of the id, the oldest, or so many from the one of that number (from 0) on. */
void conn_ack(struct conn *c, const uint8_t *id);
void conn_ack_next(struct conn *c);
void conn_ack_numbers(struct conn *c, uint64_t first, uint64_t count);

/* ---- subscriber.c ---- */

void subscriber_init(struct conn *c, unsigned publishers);
void conn_event_odd(struct conn *c, const uint8_t *payload, size_t len);
void conn_event_time(struct conn *c, const uint8_t *time);

/* One decimal number in text, one up. */
static inline void text_next(char *text, size_t len)
{
    char *p = text + len;

    while (++*--p > '9')
        *p = '0';
}

/* An event has come to a subscriber. */
static inline void conn_event(struct conn *c, const uint8_t *payload, size_t len)
{
    c->received++;
    if (len == opt.payload && memcmp(payload, c->orders[0].text, STAMP_ORDER) == 0)
        text_next(c->orders[0].text + STAMP_PUBLISHER, STAMP_NUMBER);
    else
        conn_event_odd(c, payload, len);
    if (c->loop->timed)
        conn_event_time(c, payload + STAMP_ORDER);
}

/* Stamp the next event of a publisher. */
static inline void conn_stamp(struct conn *c, uint8_t *at)
{
    memcpy(at, c->stamp, STAMP);
    text_next(c->stamp + STAMP_PUBLISHER, STAMP_NUMBER);
}

static inline unsigned conn_topic(struct conn *c)
{
    unsigned topic = c->topic;

    c->topic = topic + 1 == opt.topics ? 0 : topic + 1;
    return topic;
}

/* ---- mode_work.c ---- */

/* An event has come to a worker. False: it came before, or is wrong (told). */
bool conn_job(struct conn *c, const uint8_t *payload, size_t len);
/* So many acknowledgements were answered. */
void conn_job_acked(struct conn *c, uint64_t count);

/* ---- tmpl.c: bytes of a request made once, of which only the id and the stamp change ---- */

struct tmpl {
    uint8_t *bytes;
    size_t len, id_at, stamp_at; /* SIZE_MAX: has none */
};

/* From text with ID_MARK and opt.payload_text in it. */
void tmpl_make(struct tmpl *tmpl, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* One for each topic: the format's arguments are the topic's number and the payload. */
struct tmpl *tmpl_topics(const char *format);

static inline uint8_t *tmpl_put(const struct tmpl *tmpl, struct conn *c, uint8_t *to)
{
    memcpy(to, tmpl->bytes, tmpl->len);
    if (tmpl->id_at != SIZE_MAX)
        memcpy(to + tmpl->id_at, c->id, ID_TEXT);
    if (tmpl->stamp_at != SIZE_MAX)
        conn_stamp(c, to + tmpl->stamp_at);
    return to + tmpl->len;
}

/* ---- sink.c ---- */

int sink_main(void);
/* To every subscriber of the sink, when this round of reading is over. */
uint8_t *sink_reserve(size_t len);
void sink_wrote(size_t len);
void sink_subscribe(struct conn *c);

#endif
