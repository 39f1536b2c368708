/* test_threads.c - the writer's and the janitor's threads beside many submitters and readers. */
#include "fixture.h"

#include <sched.h>

#include "broker/store/segments.h"
#include "common/clock.h"

#define SUBMITTERS 32
#define EACH       200
#define IDS        500

struct run {
    struct eb_store *store;
    pthread_mutex_t lock; /* order of completion */
    pthread_cond_t cond;
    unsigned open;
    uint64_t first_seq[IDS]; /* [lock] what the id was stored as */
    unsigned stored[IDS];
    uint64_t last_new; /* [lock] seqs of new events rise along the completions */
    bool early;        /* [lock] something was read before its hook */
    _Atomic uint64_t handed;
};

struct job {
    struct eb_op op;
    struct run *run;
    struct eb_event *event;
    struct eb_op_result result;
    unsigned id;
    unsigned submitter, nth;
};

static unsigned last_nth[SUBMITTERS]; /* under run->lock */

static void job_done(struct eb_op *op)
{
    struct job *job = op->user;
    struct run *run = job->run;
    pthread_mutex_lock(&run->lock);
    assert_int_equal(EB_OK, op->err.code);
    assert_true(job->nth > last_nth[job->submitter]); /* what one thread submits stays in order */
    last_nth[job->submitter] = job->nth;
    if (!job->result.duplicate) {
        assert_true(job->result.seq > run->last_new);
        run->last_new = job->result.seq;
        run->first_seq[job->id] = job->result.seq;
        run->stored[job->id]++;
    }
    /* The first one's completion comes first, so its seq is known here. */
    assert_int_equal(run->first_seq[job->id], job->result.seq);
    assert_true(eb_store_last_seq(run->store) >= job->result.seq);
    if (--run->open == 0)
        pthread_cond_signal(&run->cond);
    pthread_mutex_unlock(&run->lock);
    eb_event_unref(job->event);
    free(job);
}

struct submitter {
    struct run *run;
    unsigned number;
};

static void *submit_many(void *arg)
{
    struct submitter *self = arg;
    unsigned seed = self->number;
    for (unsigned n = 1; n <= EACH; n++) {
        struct job *job = calloc(1, sizeof *job);
        job->run = self->run;
        job->submitter = self->number;
        job->nth = n;
        job->id = (unsigned)rand_r(&seed) % IDS;
        job->event = event_new(job->id, "race", "the same");
        job->op = (struct eb_op){.kind = EB_OP_PUBLISH,
                                 .count = 1,
                                 .events = &job->event,
                                 .results = &job->result,
                                 .done = job_done,
                                 .user = job};
        if (self->number % 2)
            eb_store_submit(self->run->store, &job->op, &job->op);
        else
            eb_store_submit_or_commit(self->run->store, &job->op);
    }
    return NULL;
}

static atomic_bool reading;

/* Every page is in order and holds nothing that was not committed when it was asked for. */
static void *read_all_the_time(void *arg)
{
    struct run *run = arg;
    struct eb_pattern pattern;
    struct eb_selection *selection;
    struct eb_reader *reader;
    struct eb_error err;
    assert_int_equal(0, eb_pattern_parse(&pattern, "race", 4, &err));
    assert_int_equal(0, eb_selection_create(&pattern, 1, &selection));
    assert_int_equal(0, eb_reader_create(run->store, &reader));
    uint64_t next = 1;
    while (atomic_load(&reading)) {
        struct eb_page page;
        struct eb_page_request request = {
            .from = next, .upto = UINT64_MAX, .max_events = 50, .max_bytes = 1 << 20};
        assert_int_equal(0, eb_reader_page(reader, selection, &request, &page));
        uint64_t last = eb_store_last_seq(run->store);
        for (size_t i = 0; i < page.count; i++)
            assert_true(page.items[i].event->seq >= next && page.items[i].event->seq <= last);
        next = page.next > last ? 1 : page.next;
        eb_page_finish(&page);
    }
    eb_reader_destroy(reader);
    eb_selection_destroy(selection);
    return NULL;
}

static void committed(void *ctx, struct eb_op *ops)
{
    struct run *run = ctx;
    for (struct eb_op *next; ops; ops = next) {
        next = ops->next;
        run->handed++;
        ops->done(ops);
    }
}

/* 32 threads publish the same 500 ids at once: each is stored once, all others get its seq. */
static void race_for_the_same_ids(void **state)
{
    struct eb_store_config config = {
        .memory_bytes = 64 << 20,
        .dedupe_window_ms = 600000,
        .dedupe_max = 100000,
        .acked_retention_ms = -1,
        .group_events = 64,
    };
    struct run run = {.lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER};
    struct submitter submitters[SUBMITTERS];
    pthread_t threads[SUBMITTERS], reader;
    struct eb_store_hooks hooks = {.ctx = &run, .committed = committed};
    struct eb_error err;
    memset(last_nth, 0, sizeof last_nth);
    run.open = SUBMITTERS * EACH;
    assert_int_equal(0, eb_store_open(&config, &run.store, &err));
    assert_int_equal(0, eb_store_start(run.store, &hooks));
    atomic_store(&reading, true);
    assert_int_equal(0, pthread_create(&reader, NULL, read_all_the_time, &run));
    for (unsigned i = 0; i < SUBMITTERS; i++) {
        submitters[i] = (struct submitter){&run, i};
        assert_int_equal(0, pthread_create(&threads[i], NULL, submit_many, &submitters[i]));
    }
    for (unsigned i = 0; i < SUBMITTERS; i++)
        pthread_join(threads[i], NULL);
    pthread_mutex_lock(&run.lock);
    while (run.open)
        pthread_cond_wait(&run.cond, &run.lock);
    pthread_mutex_unlock(&run.lock);
    atomic_store(&reading, false);
    pthread_join(reader, NULL);
    uint64_t stored = 0;
    for (unsigned i = 0; i < IDS; i++) {
        assert_true(run.stored[i] <= 1);
        stored += run.stored[i];
    }
    assert_int_equal(stored, eb_store_last_seq(run.store));
    assert_int_equal(SUBMITTERS * EACH, run.handed);
    eb_store_close(run.store);
}

/* ---- last values ---- */

#define BATCH 500
#define WORDS 50

static struct eb_event *last_event(uint64_t number)
{
    char topic[32];
    struct eb_draft draft = {.topic = topic, .payload = "x", .payload_len = 1, .has_id = true};
    if (number % 10)
        snprintf(topic, sizeof(topic), "t.%u", (unsigned)(number % WORDS));
    else
        snprintf(topic, sizeof(topic), "_reply.%u", (unsigned)number);
    draft.topic_len = strlen(topic);
    draft.ttl = number % 10 ? 0 : 1;
    id_from(draft.id, (unsigned)number);
    struct eb_event *event = eb_event_create(&draft);
    assert_non_null(event);
    return event;
}

static void batch_done(struct eb_op *op)
{
    assert_int_equal(EB_OK, op->err.code);
    atomic_store((atomic_bool *)op->user, true);
}

static void publish_batch(struct eb_store *store, uint64_t from)
{
    static struct eb_event *events[BATCH];
    static struct eb_op_result results[BATCH];
    atomic_bool is_done = false;
    struct eb_op op = {.kind = EB_OP_PUBLISH,
                       .count = BATCH,
                       .events = events,
                       .results = results,
                       .done = batch_done,
                       .user = &is_done};
    for (unsigned i = 0; i < BATCH; i++)
        events[i] = last_event(from + i);
    eb_store_submit(store, &op, &op);
    while (!atomic_load(&is_done))
        sched_yield();
    for (unsigned i = 0; i < BATCH; i++)
        eb_event_unref(events[i]);
}

static void *read_last_values(void *arg)
{
    struct eb_store *store = arg;
    struct eb_pattern pattern;
    struct eb_selection *selection;
    struct eb_reader *reader;
    struct eb_error err;
    uint64_t before = 0;
    assert_int_equal(0, eb_pattern_parse(&pattern, "t.*", 3, &err));
    assert_int_equal(0, eb_selection_create(&pattern, 1, &selection));
    assert_int_equal(0, eb_reader_create(store, &reader));
    while (atomic_load(&reading)) {
        uint64_t *seqs = NULL, upto = eb_store_last_seq(store);
        struct eb_event *event = NULL;
        size_t count = 0;
        assert_int_equal(0, eb_reader_last_seqs(reader, selection, upto, &seqs, &count));
        assert_true(count <= WORDS);
        for (size_t i = 0; i < count; i++)
            assert_true(seqs[i] <= upto && (i == 0 || seqs[i - 1] < seqs[i]));
        free(seqs);
        int rc = eb_reader_last(reader, "t.7", 3, &event);
        assert_true(rc == 0 || rc == -ENOENT);
        if (rc == 0) {
            assert_true(event->seq >= before);
            before = event->seq;
        }
        eb_event_unref(event);
    }
    assert_true(before > 0);
    eb_reader_destroy(reader);
    eb_selection_destroy(selection);
    return NULL;
}

/* Last values are read while segments close, retention and ttl delete, and topics of replies go. */
static void last_values_beside_the_writer(void **state)
{
    char folder[] = "/tmp/eb-threads-XXXXXX", path[64], command[64];
    struct eb_store_config config = {.path = path,
                                     .durability = EB_DURABILITY_OS,
                                     .dedupe_max = 1000,
                                     .retention_events = 20000,
                                     .acked_retention_ms = -1};
    pthread_t readers[2];
    struct eb_store *store;
    struct eb_error err;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof(path), "%s/eventbus.db", folder);
    assert_int_equal(0, eb_store_open(&config, &store, &err));
    assert_int_equal(0, eb_store_start(store, NULL));
    publish_batch(store, 1);
    atomic_store(&reading, true);
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(0, pthread_create(&readers[i], NULL, read_last_values, store));
    for (uint64_t next = 1 + BATCH; next < EB_SEGMENT_SEQS + 5000; next += BATCH)
        publish_batch(store, next);
    atomic_store(&reading, false);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(readers[i], NULL);
    eb_store_close(store);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    assert_int_equal(system(command), 0);
}

/* ---- the end ---- */

static _Atomic unsigned ended;

static void count_done(struct eb_op *op)
{
    assert_int_equal(EB_OK, op->err.code);
    ended++;
}

/* Close commits what was queued just before it, with threads and without. */
static void close_commits_what_is_queued(void **state)
{
    for (int started = 0; started < 2; started++) {
        struct eb_store_config config = {.memory_bytes = 1 << 20, .acked_retention_ms = -1};
        struct eb_op fences[100];
        struct eb_store *store;
        struct eb_error err;
        ended = 0;
        assert_int_equal(0, eb_store_open(&config, &store, &err));
        if (started)
            assert_int_equal(0, eb_store_start(store, NULL));
        for (size_t i = 0; i < 100; i++) {
            fences[i] = (struct eb_op){.kind = EB_OP_FENCE, .done = count_done};
            eb_store_submit(store, &fences[i], &fences[i]);
        }
        eb_store_close(store);
        assert_int_equal(100, ended);
    }
}

/* ---- turns ---- */

/* An engine that counts its steps, and whose steps always ask for more. */
struct turns {
    struct fixture fx;
    _Atomic unsigned groups, steps;
    unsigned steps_before; /* the writer's: steps when the last group was done */
};

static int turns_trim(struct eb_engine *engine, const struct eb_trim_request *request,
                      struct eb_trim_result *ret)
{
    ((struct turns *)engine)->steps++;
    for (int64_t end = eb_mono_us() + 100; eb_mono_us() < end;)
        ; /* a step is long beside the time between two */
    *ret = (struct eb_trim_result){.more = true};
    return 0;
}

static void turns_done(struct eb_op *op)
{
    struct turns *turns = op->user;
    turns->steps_before = turns->steps;
    turns->groups++;
}

/*
 * However much there is to delete, a publish waits for the step under way and for no other; and under
 * constant publishing the steps go on.
 */
static void publish_waits_for_one_step(void **state)
{
    static struct eb_engine_ops ops;
    struct turns *turns = calloc(1, sizeof *turns);
    fx_open(&turns->fx);
    ops = fx_ops;
    ops.trim = turns_trim;
    turns->fx.engine.ops = &ops;
    assert_int_equal(0, eb_store_start(turns->fx.store, NULL));
    for (unsigned i = 0; turns->steps < 2500; i++) {
        struct eb_op fence = {.kind = EB_OP_FENCE, .done = turns_done, .user = turns};
        if (i % 2)
            eb_store_submit(turns->fx.store, &fence, &fence);
        else
            eb_store_submit_or_commit(turns->fx.store, &fence);
        unsigned steps = turns->steps;
        while (turns->groups == i)
            sched_yield();
        assert_true((int)(turns->steps_before - steps) <= 1);
    }
    eb_store_close(turns->fx.store);
    free(turns);
}

/* ---- committing by itself ---- */

struct lone {
    struct eb_op op;
    pthread_t done_on;
    atomic_bool done;
};

static void lone_done(struct eb_op *op)
{
    struct lone *lone = op->user;
    lone->done_on = pthread_self();
    atomic_store(&lone->done, true);
}

/* Who finds nobody at work is answered on its own thread before the call is over; and so again and again. */
static void a_lone_submitter_commits_by_itself(void **state)
{
    struct eb_store_config config = {.memory_bytes = 1 << 20, .acked_retention_ms = -1};
    struct eb_store *store;
    struct eb_error err;
    assert_int_equal(0, eb_store_open(&config, &store, &err));
    assert_int_equal(0, eb_store_start(store, NULL));
    for (unsigned own = 0; own < 100;) {
        struct lone lone = {.op = {.kind = EB_OP_FENCE, .done = lone_done, .user = &lone}};
        eb_store_submit_or_commit(store, &lone.op);
        bool at_once = atomic_load(&lone.done);
        while (!atomic_load(&lone.done))
            sched_yield();
        bool here = pthread_equal(lone.done_on, pthread_self());
        assert_true(at_once || !here);
        own += here;
    }
    eb_store_close(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"threads/race_for_the_same_ids", race_for_the_same_ids, NULL, NULL, NULL},
        {"threads/last_values_beside_the_writer", last_values_beside_the_writer, NULL, NULL, NULL},
        {"threads/close_commits_what_is_queued", close_commits_what_is_queued, NULL, NULL, NULL},
        {"threads/a_lone_submitter_commits_by_itself", a_lone_submitter_commits_by_itself, NULL,
         NULL, NULL},
        {"threads/publish_waits_for_one_step", publish_waits_for_one_step, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("threads", tests, NULL, NULL);
}
