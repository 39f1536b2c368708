/*
 * embed_worker.c - workers of durable consumers inside the process (<eventbus/broker_consumer.h>): what the bus hands out
 * waits in a queue for the worker's threads (`eb-work`), which call the program's handler and answer.
 *
 * (V1) The bus's calls come from `eb-consumer` and only queue. The queue is bounded by max_inflight.
 * (V2) A verdict is a request of its own that frees itself: nobody waits for its commit. eb_broker_stop does, with the
 *      store.
 * (V3) Only its end leaves the bus: first the threads finish what they have begun, then what is left in the queue goes
 *      back uncounted.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/embed.h"
#include "broker/embed_consumer.h"
#include "broker/include/eventbus/broker_consumer.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/uuid.h"

#define THREADS_MAX 256

enum item_kind { ITEM_EVENT, ITEM_GAP, ITEM_RELEASED };

struct item {
    struct item *next;
    enum item_kind kind;
    struct eb_event *event; /* one reference, or NULL */
    uint32_t delivery;
    uint64_t from_seq, to_seq;
    const char *reason; /* static */
};

/* One thread, and what it is at; `at` is guarded by the worker's lock. */
struct hand {
    struct eb_broker_worker *worker;
    pthread_t thread;
    uint64_t at; /* seq of the event whose callback runs; 0: none */
    uint32_t delivery;
};

struct eb_broker_worker {
    struct eb_embed_part part;           /* first */
    char name[EB_CONSUMER_NAME_MAX + 1]; /* [I] */
    eb_broker_worker_handler handler;    /* [I] */
    void *user;                          /* [I] */
    bool in_progress;                    /* [I] */
    int64_t beat_ms;                     /* [I] how often it is told */
    struct eb_consumer_worker *place;    /* [I] */
    struct hand *hands;                  /* [I] */
    unsigned hand_count;                 /* [I] */
    pthread_t beat;                      /* [I] the thread that says in_progress, if asked for */

    struct eb_lock lock; /* EB_RANK_LEAF: what follows */
    pthread_cond_t cond;
    struct item *first, **end;
    bool ending;
};

/* ---- from the bus ---- */

static bool push(struct eb_broker_worker *worker, struct item item)
{
    struct item *copy = malloc(sizeof *copy);
    if (!copy)
        return false;
    *copy = item;
    copy->next = NULL;
    eb_lock_take(&worker->lock);
    *worker->end = copy;
    worker->end = &copy->next;
    pthread_cond_signal(&worker->cond);
    eb_lock_drop(&worker->lock);
    return true;
}

static bool deliver(void *user, struct eb_event *event, uint32_t delivery)
{
    eb_event_ref(event);
    if (push(user, (struct item){.kind = ITEM_EVENT, .event = event, .delivery = delivery}))
        return true;
    eb_event_unref(event);
    return false;
}

static void gap(void *user, uint64_t from_seq, uint64_t to_seq, enum eb_gap_reason reason)
{
    push(user, (struct item){.kind = ITEM_GAP,
                             .from_seq = from_seq,
                             .to_seq = to_seq,
                             .reason = eb_gap_reason_name(reason)});
}

static void released(void *user, const char *reason)
{
    static const char *const reasons[] = {"deleted", "seek", "push", "shutdown"};
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (strcmp(reason, reasons[i]) == 0)
            push(user, (struct item){.kind = ITEM_RELEASED, .reason = reasons[i]});
}

static const struct eb_worker_ops worker_ops = {
    .deliver = deliver, .gap = gap, .released = released};

/* ---- answers ---- */

struct answer {
    struct eb_consumer_request request;
    uint64_t seq;
    enum eb_job_result result;
};

static void answered(struct eb_consumer_request *request)
{
    struct answer *answer = request->user;
    if (request->err.code != EB_OK && request->err.code != EB_NOT_FOUND)
        eb_warn("EB-WORKER-ANSWER", "an answer of consumer %s to event %llu is not kept: %s",
                request->name, (unsigned long long)answer->seq, request->err.message);
    free(answer);
}

/* V2. Without memory for it the event is delivered again after ack_wait, which is allowed. */
static void say(struct eb_broker_worker *worker, enum eb_consumer_verb verb, uint64_t seq,
                const eb_broker_delivery *delivery)
{
    struct answer *answer = calloc(1, sizeof *answer);
    if (!answer)
        return;
    answer->seq = seq;
    answer->request = (struct eb_consumer_request){.verb = verb,
                                                   .seqs = &answer->seq,
                                                   .count = 1,
                                                   .delivery = delivery->number,
                                                   .delay_ms = delivery->delay_ms,
                                                   .results = &answer->result,
                                                   .done = answered,
                                                   .user = answer};
    snprintf(answer->request.name, sizeof answer->request.name, "%s", worker->name);
    snprintf(answer->request.reason, sizeof answer->request.reason, "%s",
             delivery->reason ? delivery->reason : "");
    eb_bus_consumer(worker->part.broker->bus, &answer->request);
}

static void judge(struct eb_broker_worker *worker, uint64_t seq, eb_broker_verdict verdict,
                  const eb_broker_delivery *delivery)
{
    if (verdict == EB_BROKER_DONE)
        say(worker, EB_CONSUMER_ACK, seq, delivery);
    else if (verdict == EB_BROKER_AGAIN)
        say(worker, EB_CONSUMER_NACK, seq, delivery);
    else if (verdict == EB_BROKER_GIVE_UP)
        say(worker, EB_CONSUMER_TERM, seq, delivery);
}

/* ---- the threads ---- */

/* The next item, or NULL at the end. */
static struct item *next_item(struct hand *hand)
{
    struct eb_broker_worker *worker = hand->worker;
    eb_lock_take(&worker->lock);
    hand->at = 0;
    while (!worker->first && !worker->ending)
        eb_cond_wait(&worker->cond, &worker->lock, -1);
    struct item *item = worker->ending ? NULL : worker->first;
    if (item) {
        worker->first = item->next;
        if (!worker->first)
            worker->end = &worker->first;
        hand->at = item->event ? item->event->seq : 0;
        hand->delivery = item->delivery;
    }
    eb_lock_drop(&worker->lock);
    return item;
}

static void call_event(struct eb_broker_worker *worker, const struct item *item)
{
    char id[EB_UUID_TEXT + 1];
    eb_message message;
    eb_broker_delivery delivery = {
        .consumer = worker->name, .number = item->delivery, .delay_ms = -1};
    eb_embed_message(item->event, id, &message);
    eb_broker_verdict verdict = worker->handler.event(worker->user, &message, &delivery);
    judge(worker, item->event->seq, verdict, &delivery);
}

static void call(struct eb_broker_worker *worker, const struct item *item)
{
    if (item->kind == ITEM_EVENT)
        call_event(worker, item);
    else if (item->kind == ITEM_GAP && worker->handler.gap)
        worker->handler.gap(worker->user, item->from_seq, item->to_seq, item->reason);
    else if (item->kind == ITEM_RELEASED && worker->handler.released)
        worker->handler.released(worker->user, item->reason);
}

static void *hand_main(void *arg)
{
    struct hand *hand = arg;
    eb_broker *broker = hand->worker->part.broker;
    struct item *item;
    pthread_setname_np(pthread_self(), "eb-work");
    while ((item = next_item(hand))) {
        call(hand->worker, item);
        eb_event_unref(item->event);
        free(item);
    }
    eb_embed_thread_left(broker);
    return NULL;
}

struct held {
    uint64_t seq;
    uint32_t delivery;
};

/* What is with this worker: in its hands, or waiting for one. *ret is malloc'd. */
static size_t take_stock(struct eb_broker_worker *worker, struct held **ret)
{
    size_t count = 0, room = worker->hand_count;
    eb_lock_take(&worker->lock);
    for (const struct item *item = worker->first; item; item = item->next)
        room++;
    struct held *held = malloc(room * sizeof *held);
    for (unsigned i = 0; held && i < worker->hand_count; i++)
        if (worker->hands[i].at > 0)
            held[count++] = (struct held){worker->hands[i].at, worker->hands[i].delivery};
    for (const struct item *item = worker->first; held && item; item = item->next)
        if (item->event)
            held[count++] = (struct held){item->event->seq, item->delivery};
    eb_lock_drop(&worker->lock);
    *ret = held;
    return count;
}

/* in_progress for all of it. */
static void beat(struct eb_broker_worker *worker)
{
    struct held *held;
    size_t count = take_stock(worker, &held);
    for (size_t i = 0; i < count; i++) {
        eb_broker_delivery delivery = {.number = held[i].delivery};
        say(worker, EB_CONSUMER_IN_PROGRESS, held[i].seq, &delivery);
    }
    free(held);
}

static void *beat_main(void *arg)
{
    struct eb_broker_worker *worker = arg;
    eb_broker *broker = worker->part.broker;
    bool ending = false;
    pthread_setname_np(pthread_self(), "eb-work-beat");
    while (!ending) {
        int64_t deadline = eb_mono_ms() + worker->beat_ms;
        eb_lock_take(&worker->lock);
        while (!worker->ending && eb_cond_wait(&worker->cond, &worker->lock, deadline) != ETIMEDOUT)
            ;
        ending = worker->ending;
        eb_lock_drop(&worker->lock);
        if (!ending)
            beat(worker);
    }
    eb_embed_thread_left(broker);
    return NULL;
}

/* ---- life ---- */

static void destroy(struct eb_broker_worker *worker)
{
    for (struct item *next, *item = worker->first; item; item = next) {
        next = item->next;
        eb_event_unref(item->event);
        free(item);
    }
    pthread_cond_destroy(&worker->cond);
    eb_lock_finish(&worker->lock);
    free(worker->hands);
    free(worker);
}

/* V3 */
static void end_threads(struct eb_broker_worker *worker, unsigned hands, bool beats)
{
    eb_lock_take(&worker->lock);
    worker->ending = true;
    pthread_cond_broadcast(&worker->cond);
    eb_lock_drop(&worker->lock);
    for (unsigned i = 0; i < hands; i++)
        pthread_join(worker->hands[i].thread, NULL);
    if (beats)
        pthread_join(worker->beat, NULL);
}

static void end(struct eb_embed_part *part)
{
    struct eb_broker_worker *worker =
        (struct eb_broker_worker *)(void *)part; /* its first member */
    end_threads(worker, worker->hand_count, worker->in_progress);
    eb_consumer_leave(worker->place, EB_LEAVE_RETURN);
    destroy(worker);
}

static struct eb_broker_worker *make(eb_broker *broker, const char *name,
                                     const eb_broker_worker_options *options,
                                     const eb_broker_worker_handler *handler, void *user)
{
    struct eb_broker_worker *worker = calloc(1, sizeof *worker);
    unsigned threads = options && options->threads ? options->threads : 1;
    if (!worker)
        return NULL;
    worker->hand_count = threads < THREADS_MAX ? threads : THREADS_MAX;
    worker->hands = calloc(worker->hand_count, sizeof *worker->hands);
    worker->part.broker = broker;
    worker->handler = *handler;
    worker->user = user;
    worker->in_progress = options && options->in_progress;
    worker->end = &worker->first;
    snprintf(worker->name, sizeof worker->name, "%s", name);
    eb_lock_init(&worker->lock, EB_RANK_LEAF);
    eb_cond_init(&worker->cond);
    if (worker->hands)
        return worker;
    destroy(worker);
    return NULL;
}

/* All of its threads or none. */
static int start_threads(struct eb_broker_worker *worker)
{
    unsigned started = 0;
    int rc = 0;
    for (; started < worker->hand_count && rc == 0; started += rc == 0) {
        worker->hands[started].worker = worker;
        rc = -pthread_create(&worker->hands[started].thread, NULL, hand_main,
                             &worker->hands[started]);
    }
    if (rc == 0 && worker->in_progress)
        rc = -pthread_create(&worker->beat, NULL, beat_main, worker);
    eb_embed_threads_come(worker->part.broker,
                          started + (unsigned)(rc == 0 && worker->in_progress));
    if (rc < 0)
        end_threads(worker, started, false);
    return rc;
}

/* The consumer's ack_wait says how often in_progress is due: three times within it. */
static int attach(struct eb_broker_worker *worker, const eb_broker_worker_options *options,
                  struct eb_error *error)
{
    struct eb_bus *bus = worker->part.broker->bus;
    struct eb_consumer_info info;
    if (eb_consumer_attach(bus, worker->name, &worker_ops, worker,
                           options ? options->max_inflight : 0, -1, false, &worker->place,
                           error) < 0)
        return -1;
    worker->beat_ms = 1000;
    if (worker->in_progress && eb_bus_consumer_info(bus, worker->name, &info)) {
        if (info.settings && info.settings->ack_wait_ms / 3 < worker->beat_ms)
            worker->beat_ms = info.settings->ack_wait_ms / 3 + 1;
        free(info.settings);
    }
    return 0;
}

static int work(eb_broker *broker, const char *name, const eb_broker_worker_options *options,
                const eb_broker_worker_handler *handler, void *user, eb_broker_worker **ret,
                struct eb_error *error)
{
    if (eb_embed_consumer_ensure(broker, name, options ? options->settings : NULL, error) < 0)
        return -1;
    struct eb_broker_worker *worker = make(broker, name, options, handler, user);
    if (!worker)
        return eb_fail(error, EB_INTERNAL, "out of memory");
    if (attach(worker, options, error) < 0) {
        destroy(worker);
        return -1;
    }
    int rc = start_threads(worker);
    if (rc < 0) {
        eb_consumer_leave(worker->place, EB_LEAVE_RETURN);
        destroy(worker);
        return eb_fail(error, EB_INTERNAL, "cannot start a worker's thread: %s", strerror(-rc));
    }
    *ret = worker;
    eb_embed_add(&worker->part, 0, end);
    eb_consumer_begin(worker->place);
    return 0;
}

int eb_broker_work(eb_broker *broker, const char *name, const eb_broker_worker_options *options,
                   const eb_broker_worker_handler *handler, void *user, eb_broker_worker **ret,
                   char err[EB_BROKER_ERROR])
{
    struct eb_error error = {.code = EB_OK};
    if (!eb_embed_enter(broker, err))
        return -ESHUTDOWN;
    work(broker, name, options, handler, user, ret, &error);
    eb_embed_leave(broker);
    return eb_embed_errno(&error, err);
}

void eb_broker_worker_end(eb_broker_worker *worker)
{
    if (worker && eb_embed_take(&worker->part))
        end(&worker->part);
}
