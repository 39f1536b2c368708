/*
 * consumer_world.h - workers and requests for the tests of durable consumers, over the world of fake_world.h.
 *
 *   make(w, "billing", "{\"patterns\":[\"#\"]}");   PUT
 *   struct hand *a = attach(w, "billing", 0);       a worker; what it was given: a->text, "1 2 3:2" (seq:delivery)
 *   ack(w, "billing", 1)                            "ok", "late", "unknown" or an error's code
 */
#pragma once

#include "broker/bus/consumer_internal.h"
#include "tests/unit/bus/fake_world.h"

struct hand {
    struct fake_world *world;
    struct eb_consumer_worker *worker;
    char text[65536]; /* since it was last read */
    size_t count;     /* in all */
    size_t room;      /* SIZE_MAX: any number */
    unsigned refuse;  /* so many of the next are not taken */
    unsigned flushes, expired;
    char released[32];
    void (*during)(struct hand *hand, uint64_t seq); /* once, in deliver, */
    void (*refusing)(struct hand *hand);             /* and in one that takes nothing */
    void *ctx;
    struct eb_event *last; /* one reference */
};

struct hand *attach_with(struct fake_world *world, const char *name, uint32_t max_inflight,
                         int64_t until_ms, bool pushes, const char *refused);
struct hand *attach(struct fake_world *world, const char *name, uint32_t max_inflight);
/** It leaves (if it has not) and is freed. */
void leave(struct hand *hand, enum eb_leave how);
/** The program ends without it leaving first: to be called before fake_restart, which releases it. */
void leave_quietly(struct hand *hand);
/** What it was given since the last call. */
const char *given(struct hand *hand);

/** All of them run the world until it is at rest, and return the answer: "ok", a result, or the code. */
const char *request(struct fake_world *world, struct eb_consumer_request *request);
const char *put(struct fake_world *world, const char *name, const char *settings);
void make(struct fake_world *world, const char *name,
          const char *settings); /* put, which must be ok */
const char *ensure(struct fake_world *world, const char *name, const char *settings);
const char *ack(struct fake_world *world, const char *name, uint64_t seq);
const char *nack(struct fake_world *world, const char *name, uint64_t seq, int64_t delay_ms);
const char *term(struct fake_world *world, const char *name, uint64_t seq, const char *reason);
const char *seek(struct fake_world *world, const char *name, uint64_t seq);
const char *end(struct fake_world *world, const char *name); /* delete */
const char *redrive(struct fake_world *world, const char *name, uint64_t *ret_count);
void read_done(
    struct eb_read *read); /* for an eb_read that is looked at when fake_read has returned */
struct eb_consumer_info info_of(struct fake_world *world, const char *name);

/** A request that is not waited for: its answer stands in `text` when it has come. */
struct asked_consumer {
    struct eb_consumer_request request;
    uint64_t seq;
    enum eb_job_result result;
    char text[32];
};
void ask(struct fake_world *world, struct asked_consumer *asked);
void ask_ack(struct fake_world *world, const char *name, uint64_t seq,
             struct asked_consumer *asked);
