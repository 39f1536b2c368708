/*
 * fixture.h - a store without threads on an engine that can be told to fail, with clocks that stand still.
 *
 * The engine is the ring in memory, or with `log` set an SQLite file, behind a layer of fault points: the n-th call of
 * those that may fail (begin, append, ack, state, commit, lookup, and what a publish asks beside) returns fault.code, once or
 * from then on.
 */
#pragma once

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/store/internal.h"

struct fault {
    int at;   /* calls to go; < 0: never */
    int code; /* -errno */
    bool lasting;
    unsigned hits;
};

struct fixture {
    struct eb_engine engine; /* first: what the store calls */
    struct eb_engine_ops ops;
    struct eb_engine *inner;
    const char *log; /* path of a file; NULL: memory */
    struct eb_engine_counters counters;
    struct fault fault;
    unsigned begins, commits, probes, writes;
    int trim_fault;     /* -errno of each trim, 0: none */
    int find_fault;     /* the same of each find_id */
    uint64_t hold_from; /* of the last trim */
    int64_t wall, mono;
    uint64_t free;
    struct eb_store_config config;
    uint64_t start_seq;               /* last seq of the log that is opened */
    struct eb_dedupe_entry stored[4]; /* ids it has, in seq order; seq 0 ends them */
    struct eb_store *store;
    unsigned completions; /* ops done so far */
};

static inline int hit(struct fixture *fx)
{
    if (fx->fault.at < 0)
        return 0;
    if (fx->fault.at > 0) {
        fx->fault.at--;
        return 0;
    }
    if (!fx->fault.lasting)
        fx->fault.at = -1;
    fx->fault.hits++;
    return fx->fault.code;
}

#define FX(engine)  ((struct fixture *)(engine))
#define INNER(what) FX(engine)->inner->ops->what
#define TRY()                                                                                      \
    do {                                                                                           \
        int fault_rc = hit(FX(engine));                                                            \
        if (fault_rc)                                                                              \
            return fault_rc;                                                                       \
    } while (0)

static int fx_begin(struct eb_engine *engine)
{
    TRY();
    FX(engine)->begins++;
    return INNER(begin)(FX(engine)->inner);
}
/* One by one, so that a fault can hit each. */
static int fx_append(struct eb_engine *engine, struct eb_event *const *events, size_t count)
{
    int rc = 0;
    for (size_t i = 0; i < count && rc == 0; i++) {
        TRY();
        rc = INNER(append)(FX(engine)->inner, &events[i], 1);
    }
    return rc;
}
static int fx_ack(struct eb_engine *engine, uint64_t seq, int64_t now)
{
    TRY();
    return INNER(ack)(FX(engine)->inner, seq, now);
}
static int fx_state(struct eb_engine *engine, const struct eb_state_write *write, uint64_t first)
{
    TRY();
    FX(engine)->writes++;
    return INNER(state)(FX(engine)->inner, write, first);
}
static int fx_commit(struct eb_engine *engine)
{
    TRY();
    FX(engine)->commits++;
    return INNER(commit)(FX(engine)->inner);
}
static void fx_rollback(struct eb_engine *engine)
{
    INNER(rollback)(FX(engine)->inner);
}
static int fx_trim(struct eb_engine *engine, const struct eb_trim_request *request,
                   struct eb_trim_result *ret)
{
    FX(engine)->hold_from = request->hold_from;
    return FX(engine)->trim_fault ? FX(engine)->trim_fault
                                  : INNER(trim)(FX(engine)->inner, request, ret);
}
static int fx_probe(struct eb_engine *engine)
{
    FX(engine)->probes++;
    return hit(FX(engine));
}
static int fx_lookup(struct eb_engine *engine, uint64_t seq, struct eb_event **ret)
{
    TRY();
    return INNER(lookup)(FX(engine)->inner, seq, ret);
}
static int fx_load_ids(struct eb_engine *engine, int64_t since, uint64_t max,
                       const struct eb_engine_ids *tell)
{
    if (FX(engine)->log)
        return INNER(load_ids)(FX(engine)->inner, since, max, tell);
    for (size_t i = 0; i < 4 && FX(engine)->stored[i].seq; i++) {
        const struct eb_dedupe_entry *entry = &FX(engine)->stored[i];
        if (entry->timestamp >= since)
            tell->id(tell->ctx, entry->id, entry->seq, entry->timestamp);
    }
    return 0;
}
static int fx_save_ids(struct eb_engine *engine, const struct eb_dedupe *dedupe,
                       const struct eb_window *window, int64_t since, uint64_t max)
{
    return INNER(save_ids) ? INNER(save_ids)(FX(engine)->inner, dedupe, window, since, max) : 0;
}
static int fx_find_id(struct eb_engine *engine, const uint8_t id[16], struct eb_dedupe_entry *ret)
{
    return FX(engine)->find_fault ? FX(engine)->find_fault
                                  : INNER(find_id)(FX(engine)->inner, id, ret);
}
static int fx_topic_last(struct eb_engine *engine, const char *topic, size_t len, uint64_t *ret)
{
    TRY();
    return INNER(topic_last)(FX(engine)->inner, topic, len, ret);
}
static int fx_schedule(struct eb_engine *engine, const struct eb_event *event, int64_t due,
                       int64_t now)
{
    TRY();
    return INNER(schedule)(FX(engine)->inner, event, due, now);
}
static int fx_scheduled_find(struct eb_engine *engine, const uint8_t id[16], struct eb_event **ret)
{
    TRY();
    return INNER(scheduled_find)(FX(engine)->inner, id, ret);
}
static int fx_unschedule(struct eb_engine *engine, const uint8_t id[16])
{
    TRY();
    return INNER(unschedule)(FX(engine)->inner, id);
}
static int fx_due(struct eb_engine *engine, int64_t now, struct eb_event **ret, size_t max,
                  size_t *ret_count, bool *ret_more)
{
    TRY();
    return INNER(due)(FX(engine)->inner, now, ret, max, ret_count, ret_more);
}
static ptrdiff_t fx_scheduled(struct eb_engine *engine, void *reader, uint64_t after,
                              struct eb_scheduled *ret, size_t max)
{
    return INNER(scheduled)(FX(engine)->inner, reader, after, ret, max);
}
static int fx_last(struct eb_engine *engine, void *reader, const char *topic, size_t len,
                   uint64_t upto, struct eb_event **ret)
{
    return INNER(last)(FX(engine)->inner, reader, topic, len, upto, ret);
}
static int fx_last_seqs(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                        uint64_t upto, uint64_t **ret, size_t *ret_count)
{
    return INNER(last_seqs)(FX(engine)->inner, reader, selection, upto, ret, ret_count);
}
static int fx_reader_create(struct eb_engine *engine, void **ret)
{
    return INNER(reader_create)(FX(engine)->inner, ret);
}
static void fx_reader_destroy(struct eb_engine *engine, void *reader)
{
    INNER(reader_destroy)(FX(engine)->inner, reader);
}
static int fx_page(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                   const struct eb_page_request *request, struct eb_page *ret)
{
    return INNER(page)(FX(engine)->inner, reader, selection, request, ret);
}
static int fx_event(struct eb_engine *engine, void *reader, uint64_t seq, struct eb_event **ret)
{
    return INNER(event)(FX(engine)->inner, reader, seq, ret);
}
static int fx_topics(struct eb_engine *engine, void *reader, const char *after,
                     struct eb_topic_info *out, size_t max)
{
    return INNER(topics)(FX(engine)->inner, reader, after, out, max);
}
static int fx_first_at(struct eb_engine *engine, void *reader, int64_t time, uint64_t *ret)
{
    return INNER(first_at)(FX(engine)->inner, reader, time, ret);
}
static int fx_count(struct eb_engine *engine, void *reader, struct eb_selection *selection,
                    uint64_t from, uint64_t upto, uint64_t *ret)
{
    return INNER(count)(FX(engine)->inner, reader, selection, from, upto, ret);
}
static void fx_figures(struct eb_engine *engine, struct eb_engine_figures *ret)
{
    INNER(figures)(FX(engine)->inner, ret);
}
static const char *fx_trouble(struct eb_engine *engine)
{
    return "made to fail";
}
static void fx_close(struct eb_engine *engine, bool clean, int64_t now)
{
    INNER(close)(FX(engine)->inner, clean, now);
}

static const struct eb_engine_ops fx_ops = {
    .close = fx_close,
    .begin = fx_begin,
    .append = fx_append,
    .ack = fx_ack,
    .state = fx_state,
    .commit = fx_commit,
    .rollback = fx_rollback,
    .save_ids = fx_save_ids,
    .trim = fx_trim,
    .probe = fx_probe,
    .lookup = fx_lookup,
    .load_ids = fx_load_ids,
    .find_id = fx_find_id,
    .topic_last = fx_topic_last,
    .schedule = fx_schedule,
    .scheduled_find = fx_scheduled_find,
    .unschedule = fx_unschedule,
    .due = fx_due,
    .scheduled = fx_scheduled,
    .last = fx_last,
    .last_seqs = fx_last_seqs,
    .reader_create = fx_reader_create,
    .reader_destroy = fx_reader_destroy,
    .page = fx_page,
    .event = fx_event,
    .topics = fx_topics,
    .first_at = fx_first_at,
    .count = fx_count,
    .figures = fx_figures,
    .trouble = fx_trouble,
};

static int64_t fx_wall(void *ctx)
{
    return ((struct fixture *)ctx)->wall;
}
static int64_t fx_mono(void *ctx)
{
    return ((struct fixture *)ctx)->mono;
}
static int fx_free(void *ctx, const char *path, uint64_t *ret)
{
    *ret = ((struct fixture *)ctx)->free;
    return 0;
}

/* Fill in what the test did not set, then open. A path makes the store ask for free space, nothing else. */
static inline void fx_open(struct fixture *fx)
{
    struct eb_error err;
    struct eb_engine_start start;
    struct eb_store_env env = {fx, fx_wall, fx_mono, fx_free};
    struct eb_store_config *config = &fx->config;
    if (!config->memory_bytes)
        config->memory_bytes = 16 << 20;
    if (!config->dedupe_window_ms)
        config->dedupe_window_ms = 600000;
    if (!config->dedupe_max)
        config->dedupe_max = 1000;
    if (!config->acked_retention_ms)
        config->acked_retention_ms = -1;
    if (!fx->wall)
        fx->wall = 1700000000000;
    fx->mono = 1000000;
    fx->ops = fx_ops;
    fx->engine.ops = &fx->ops;
    fx->fault.at = -1;
    if (fx->log) {
        config->path = fx->log;
        if (eb_engine_sqlite_open(config, &fx->counters, &fx->inner, &start, &err) < 0)
            fail_msg("open: %s", err.message);
    } else {
        fx->ops.find_id = NULL;
        fx->ops.schedule = NULL;
        fx->ops.scheduled_find = NULL;
        fx->ops.unschedule = NULL;
        fx->ops.due = NULL;
        fx->ops.scheduled = NULL;
        assert_int_equal(0, eb_engine_memory_open(config, &fx->counters, &fx->inner, &start, &err));
        start.last_seq = fx->start_seq;
    }
    assert_int_equal(0, eb_store_create(config, &env, &fx->engine, &start, &fx->store, &err));
}

/* ---- operations ---- */

struct act {
    struct eb_op op;
    struct fixture *fx;
    struct eb_event *events[8];
    struct eb_op_result results[8];
    uint64_t seqs[8];
    unsigned done; /* place among the completions, from 1 */
};

static void act_done(struct eb_op *op)
{
    struct act *act = op->user;
    assert_int_equal(0, act->done);
    act->done = ++act->fx->completions;
}

static inline void id_from(uint8_t id[16], unsigned n)
{
    memset(id, 0, 16);
    memcpy(id, &n, sizeof n);
}

static inline struct act *act_new(struct fixture *fx, enum eb_op_kind kind)
{
    struct act *act = calloc(1, sizeof *act);
    assert_non_null(act);
    act->fx = fx;
    act->op = (struct eb_op){.kind = kind,
                             .events = act->events,
                             .results = act->results,
                             .seqs = act->seqs,
                             .done = act_done,
                             .user = act};
    return act;
}

static inline struct eb_event *event_new(unsigned id, const char *topic, const char *payload)
{
    struct eb_draft draft = {
        .topic = topic,
        .topic_len = strlen(topic),
        .payload = payload,
        .payload_len = strlen(payload),
        .ttl = 0,
        .has_id = true,
    };
    id_from(draft.id, id);
    struct eb_event *event = eb_event_create(&draft);
    assert_non_null(event);
    return event;
}

static inline struct act *add(struct act *act, unsigned id, const char *topic, const char *payload)
{
    struct eb_event *event = event_new(id, topic, payload);
    act->op.bytes += eb_event_size(event);
    act->events[act->op.count++] = event;
    return act;
}

static inline struct act *publish(struct fixture *fx, unsigned id, const char *topic,
                                  const char *payload)
{
    return add(act_new(fx, EB_OP_PUBLISH), id, topic, payload);
}

static inline struct act *submit(struct act *act)
{
    eb_store_submit(act->fx->store, &act->op, &act->op);
    return act;
}

static inline struct act *run(struct act *act)
{
    submit(act);
    eb_writer_drain(act->fx->store);
    assert_int_not_equal(0, act->done);
    return act;
}

static inline struct act *ack_new(struct fixture *fx, uint64_t seq)
{
    struct act *act = act_new(fx, EB_OP_ACK);
    act->op.seq = seq;
    return act;
}

static inline void act_free(struct act *act)
{
    for (uint32_t i = 0; act->op.kind == EB_OP_PUBLISH && i < act->op.count; i++)
        eb_event_unref(act->events[i]);
    free(act);
}

/* Run, give the code, free. */
static inline enum eb_code code_of(struct act *act)
{
    run(act);
    enum eb_code code = act->op.err.code;
    act_free(act);
    return code;
}

/* Run a single publish that must work; its seq. */
static inline uint64_t seq_of(struct act *act)
{
    run(act);
    assert_int_equal(EB_OK, act->op.err.code);
    uint64_t seq = act->results[0].seq;
    act_free(act);
    return seq;
}

static inline struct eb_store_info info_of(struct fixture *fx)
{
    struct eb_store_info info;
    eb_store_info(fx->store, &info);
    return info;
}

static inline void step_janitor(struct fixture *fx)
{
    bool more;
    eb_lock_take(&fx->store->commit_lock);
    eb_janitor_step_locked(fx->store, &more);
    eb_lock_drop(&fx->store->commit_lock);
}

static inline struct eb_page page_of(struct fixture *fx, const char *text,
                                     struct eb_page_request request)
{
    struct eb_pattern pattern;
    struct eb_selection *selection;
    struct eb_reader *reader;
    struct eb_page page;
    struct eb_error err;
    if (!request.max_events)
        request.max_events = 1000;
    if (!request.max_bytes)
        request.max_bytes = 1 << 20;
    if (!request.upto)
        request.upto = UINT64_MAX;
    assert_int_equal(0, eb_pattern_parse(&pattern, text, strlen(text), &err));
    assert_int_equal(0, eb_selection_create(&pattern, 1, &selection));
    assert_int_equal(0, eb_reader_create(fx->store, &reader));
    assert_int_equal(0, eb_reader_page(reader, selection, &request, &page));
    eb_reader_destroy(reader);
    eb_selection_destroy(selection);
    return page;
}
