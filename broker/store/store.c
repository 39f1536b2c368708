/*
 * store.c - the life of the store: open, start, close, what may be asked of it at any time, and the two
 * states it can get into when writes fail.
 *
 *                  -ENOSPC of the disk                        -EIO and the like
 *      disk_full <--------------------- healthy --------------------> read_only
 *          |  a publish was committed,    ^  ^   any write worked         |
 *          `- or the disk has more room --'  `----------------------------'
 *
 * Below min_free (space.c) is not one of them: it is looked up, not remembered.
 */
#include "broker/store/store.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/store/internal.h"
#include "common/clock.h"
#include "common/log.h"

static void tune_from(struct eb_store_tune *tune, const struct eb_store_config *config)
{
    *tune = (struct eb_store_tune){
        .dedupe_window_ms = config->dedupe_window_ms,
        .dedupe_max = config->dedupe_max,
        .retention_age_ms = config->retention_age_ms,
        .retention_bytes = config->retention_bytes,
        .retention_events = config->retention_events,
        .acked_retention_ms = config->acked_retention_ms,
        .min_free = config->min_free,
        .max_scheduled = config->max_scheduled,
    };
}

void eb_store_tune_get(struct eb_store *store, struct eb_store_tune *ret)
{
    eb_lock_take(&store->state_lock);
    *ret = store->tune;
    eb_lock_drop(&store->state_lock);
}

void eb_store_reconfigure(struct eb_store *store, const struct eb_store_config *config)
{
    eb_lock_take(&store->state_lock);
    tune_from(&store->tune, config);
    eb_lock_drop(&store->state_lock);
}

int64_t eb_store_now_locked(struct eb_store *store)
{
    int64_t now = store->env.wall_ms(store->env.ctx);
    return now > store->last_timestamp ? now : store->last_timestamp;
}

/* ---- open and close ---- */

/* An id that says its seq has no place in the table (made.h); those of older files and other eras have. */
static void load_id(void *ctx, const uint8_t id[16], uint64_t seq, int64_t timestamp)
{
    struct eb_store *store = ctx;
    uint64_t max = store->tune.dedupe_max;
    eb_window_add(&store->window, &(struct eb_window_run){seq, seq, timestamp, timestamp});
    if (eb_made_is(&store->made, id, seq, timestamp))
        return;
    eb_dedupe_load(&store->dedupe, id, seq, timestamp);
    eb_dedupe_bound(&store->dedupe, seq > max ? seq - max : 0); /* in seq order: the oldest go */
}

static void load_run(void *ctx, const struct eb_window_run *run)
{
    struct eb_store *store = ctx;
    eb_window_add(&store->window, run);
}

static void load_again(void *ctx)
{
    struct eb_store *store = ctx;
    eb_dedupe_undo(&store->dedupe, 0);
    store->dedupe.evicted = 0;
    store->window = (struct eb_window){.step = store->window.step};
}

static int load_ids(struct eb_store *store)
{
    const struct eb_engine_ids tell = {store, load_id, load_run, load_again};
    int64_t since = eb_store_now_locked(store) - store->tune.dedupe_window_ms;
    eb_window_set(&store->window, store->tune.dedupe_window_ms);
    int rc = store->engine->ops->load_ids(store->engine, since + 1, store->tune.dedupe_max, &tell);
    eb_dedupe_loaded(&store->dedupe);
    eb_store_bound_ids_locked(store, &store->tune);
    return rc;
}

/* Only saves the next start its work: what fails is not said. */
static void save_ids(struct eb_store *store)
{
    const struct eb_store_tune *tune = &store->tune;
    uint64_t has;
    if (!store->engine->ops->save_ids || atomic_load(&store->read_only) ||
        atomic_load(&store->disk_full) || eb_space_low(store, tune->min_free, &has))
        return;
    store->engine->ops->save_ids(store->engine, &store->dedupe, &store->window,
                                 eb_store_now_locked(store) - tune->dedupe_window_ms + 1,
                                 tune->dedupe_max);
}

static void destroy(struct eb_store *store)
{
    eb_dedupe_finish(&store->dedupe);
    eb_tails_finish(&store->group);
    free(store->group.fresh);
    eb_lock_finish(&store->state_lock);
    eb_lock_finish(&store->commit_lock);
    eb_lock_finish(&store->queue_lock);
    pthread_cond_destroy(&store->writer_cond);
    pthread_cond_destroy(&store->janitor_cond);
    free((char *)store->config.path);
    free((char *)store->config.vfs);
    free(store);
}

static int copy_config(struct eb_store *store, const struct eb_store_config *config)
{
    store->config = *config;
    store->config.path = config->path ? strdup(config->path) : NULL;
    store->config.vfs = config->vfs ? strdup(config->vfs) : NULL;
    if (!store->config.group_events)
        store->config.group_events = EB_GROUP_EVENTS;
    if (!store->config.group_bytes)
        store->config.group_bytes = EB_GROUP_BYTES;
    if ((config->path && !store->config.path) || (config->vfs && !store->config.vfs))
        return -ENOMEM;
    return 0;
}

/* All that needs no engine. */
static int create_bare(const struct eb_store_config *config, const struct eb_store_env *env,
                       struct eb_store **ret)
{
    struct eb_store *store = calloc(1, sizeof *store);
    if (!store)
        return -ENOMEM;
    eb_lock_init(&store->queue_lock, EB_RANK_STORE_QUEUE);
    eb_lock_init(&store->commit_lock, EB_RANK_COMMIT);
    eb_lock_init(&store->state_lock, EB_RANK_STORE_STATE);
    eb_cond_init(&store->writer_cond);
    eb_cond_init(&store->janitor_cond);
    eb_space_init(&store->space);
    atomic_init(&store->dedupe_oldest, INT64_MIN);
    atomic_init(&store->next_due, INT64_MAX);
    store->env = env ? *env : eb_store_env_real;
    store->last_timestamp = INT64_MIN;
    tune_from(&store->tune, config);
    int rc = copy_config(store, config);
    if (rc == 0)
        rc = eb_dedupe_init(&store->dedupe);
    if (rc < 0) {
        destroy(store);
        return rc;
    }
    *ret = store;
    return 0;
}

/* Give a bare store its engine; the engine stays the caller's on failure. */
static int adopt(struct eb_store *store, struct eb_engine *engine,
                 const struct eb_engine_start *start)
{
    store->engine = engine;
    memcpy(store->epoch, start->epoch, sizeof store->epoch);
    store->given = start->last_seq;
    atomic_store(&store->last_seq, start->last_seq);
    store->last_timestamp = start->last_timestamp;
    store->made = start->made;
    eb_lock_take(&store->commit_lock);
    int rc = load_ids(store);
    store->group.tails.key = store->dedupe.key[0];
    eb_asked_show(store);
    eb_lock_drop(&store->commit_lock);
    return rc;
}

int eb_store_create(const struct eb_store_config *config, const struct eb_store_env *env,
                    struct eb_engine *engine, const struct eb_engine_start *start,
                    struct eb_store **ret, struct eb_error *err)
{
    struct eb_store *store;
    int rc = create_bare(config, env, &store);
    if (rc < 0) {
        eb_fail(err, EB_INTERNAL, "out of memory");
        return rc;
    }
    rc = adopt(store, engine, start);
    if (rc < 0) {
        eb_fail(err, EB_INTERNAL, "cannot read the log's ids: %s", engine->ops->trouble(engine));
        destroy(store);
        return rc;
    }
    *ret = store;
    return 0;
}

int eb_store_open(const struct eb_store_config *config, struct eb_store **ret, struct eb_error *err)
{
    struct eb_store *store;
    struct eb_engine *engine = NULL;
    struct eb_engine_start start = {.last_timestamp = INT64_MIN};
    int rc = create_bare(config, NULL, &store);
    if (rc < 0) {
        eb_fail(err, EB_INTERNAL, "out of memory");
        return rc;
    }
    if (!config->path)
        rc = eb_engine_memory_open(&store->config, &store->engine_counters, &engine, &start, err);
    else
        rc = eb_engine_sqlite_open(&store->config, &store->engine_counters, &engine, &start, err);
    if (rc < 0)
        goto out_destroy;
    rc = adopt(store, engine, &start);
    if (rc < 0) {
        eb_fail(err, EB_INTERNAL, "cannot read the log's ids: %s", engine->ops->trouble(engine));
        goto out_close;
    }
    *ret = store;
    return 0;

out_close:
    engine->ops->close(engine, false, eb_wall_ms());
out_destroy:
    destroy(store);
    return rc;
}

int eb_store_start(struct eb_store *store, const struct eb_store_hooks *hooks)
{
    if (hooks)
        store->hooks = *hooks;
    int rc = store->engine->ops->start ? store->engine->ops->start(store->engine) : 0;
    if (rc < 0)
        return rc;
    rc = pthread_create(&store->writer, NULL, eb_writer_thread, store);
    if (rc)
        return -rc;
    rc = pthread_create(&store->janitor, NULL, eb_janitor_thread, store);
    if (rc) {
        eb_lock_take(&store->queue_lock);
        store->stopping = true;
        pthread_cond_signal(&store->writer_cond);
        eb_lock_drop(&store->queue_lock);
        pthread_join(store->writer, NULL);
        return -rc;
    }
    store->started = true;
    return 0;
}

/* The janitor first: it may be waiting for a turn that only the writer gives. */
static void stop_threads(struct eb_store *store)
{
    eb_lock_take(&store->queue_lock);
    store->janitor_stop = true;
    pthread_cond_signal(&store->janitor_cond);
    eb_lock_drop(&store->queue_lock);
    pthread_join(store->janitor, NULL);
    eb_lock_take(&store->queue_lock);
    store->stopping = true;
    pthread_cond_signal(&store->writer_cond);
    eb_lock_drop(&store->queue_lock);
    pthread_join(store->writer, NULL);
}

void eb_store_close(struct eb_store *store)
{
    if (!store)
        return;
    if (store->started)
        stop_threads(store);
    eb_writer_drain(store);
    save_ids(store);
    store->engine->ops->close(store->engine, !atomic_load(&store->read_only),
                              eb_store_now_locked(store));
    destroy(store);
}

/* ---- failing and recovering ---- */

void eb_store_failed_locked(struct eb_store *store, int rc)
{
    if (rc == -ENOMEM)
        return; /* says nothing about the log */
    const char *why = store->engine->ops->trouble(store->engine);
    bool first;
    store->retry_at = store->env.mono_ms(store->env.ctx) + EB_RETRY_MS;
    eb_lock_take(&store->state_lock);
    snprintf(store->trouble, sizeof store->trouble, "%s", why ? why : strerror(-rc));
    eb_lock_drop(&store->state_lock);
    if (rc == -ENOSPC) {
        first = !atomic_exchange(&store->disk_full, true);
        if (first)
            eb_warn("EB-DISK-FULL", "the log's disk is full (%s): publishes are refused",
                    store->trouble);
        store->full_free = eb_space_free(store);
        return;
    }
    first = !atomic_exchange(&store->read_only, true);
    if (first)
        eb_error_log("EB-LOG-READONLY", "the log cannot be written (%s): trying again every second",
                     store->trouble);
}

void eb_store_recovered_locked(struct eb_store *store, bool published)
{
    bool was_full = published && atomic_exchange(&store->disk_full, false);
    bool was_read_only = atomic_exchange(&store->read_only, false);
    if (!was_full && !was_read_only)
        return;
    if (!atomic_load(&store->disk_full)) {
        eb_lock_take(&store->state_lock);
        store->trouble[0] = '\0';
        eb_lock_drop(&store->state_lock);
    }
    eb_info(was_read_only ? "EB-LOG-OK" : "EB-DISK-OK", "the log is written again");
}

/* ---- what may be asked at any time ---- */

void eb_store_expire_ids_locked(struct eb_store *store, const struct eb_store_tune *tune,
                                int64_t now)
{
    eb_dedupe_expire(&store->dedupe, now - tune->dedupe_window_ms);
    eb_window_set(&store->window, tune->dedupe_window_ms);
    eb_window_expire(&store->window, now - tune->dedupe_window_ms);
}

void eb_store_bound_ids_locked(struct eb_store *store, const struct eb_store_tune *tune)
{
    struct eb_window *window = &store->window;
    eb_window_bound(window, tune->dedupe_max);
    eb_dedupe_bound(&store->dedupe, window->bound);
    atomic_store_explicit(&store->stats.ids_evicted, window->evicted + store->dedupe.evicted,
                          memory_order_relaxed);
    atomic_store_explicit(&store->dedupe_ids, eb_window_count(window), memory_order_relaxed);
    atomic_store_explicit(&store->dedupe_oldest, eb_window_oldest(window), memory_order_relaxed);
}

const char *eb_store_epoch(struct eb_store *store)
{
    return store->epoch;
}

uint64_t eb_store_last_seq(struct eb_store *store)
{
    return atomic_load_explicit(&store->last_seq, memory_order_acquire);
}

void eb_store_info(struct eb_store *store, struct eb_store_info *ret)
{
    struct eb_engine_figures figures;
    struct eb_store_info info = {
        .memory = !store->config.path,
        .durability = store->config.durability,
        .last_seq = eb_store_last_seq(store),
        .free_bytes = eb_space_free(store),
        .dedupe_ids = atomic_load(&store->dedupe_ids),
        .full = atomic_load(&store->disk_full) || atomic_load(&store->space.low),
        .read_only = atomic_load(&store->read_only),
    };
    memcpy(info.epoch, store->epoch, sizeof info.epoch);
    store->engine->ops->figures(store->engine, &figures);
    info.first_seq = figures.first_seq;
    info.deleted_upto = figures.deleted_upto;
    info.events = figures.events;
    info.bytes = figures.bytes;
    info.wal_bytes = figures.wal_bytes;
    info.topics = figures.topics;
    info.acked = figures.acked;
    info.scheduled = figures.scheduled;
    int64_t oldest = atomic_load(&store->dedupe_oldest);
    int64_t now = store->env.wall_ms(store->env.ctx);
    if (oldest != INT64_MIN && now > oldest)
        info.dedupe_oldest_ms = now - oldest;
    eb_lock_take(&store->state_lock);
    memcpy(info.trouble, store->trouble, sizeof info.trouble);
    eb_lock_drop(&store->state_lock);
    *ret = info;
}

#define READ(field) .field = atomic_load_explicit(&store->stats.field, memory_order_relaxed)
#define READ_ENGINE(field)                                                                         \
    .field = atomic_load_explicit(&store->engine_counters.field, memory_order_relaxed)

void eb_store_counters(struct eb_store *store, struct eb_store_counters *ret)
{
    *ret = (struct eb_store_counters){
        READ(commits),
        READ(commit_failures),
        READ(stored),
        READ(duplicates),
        READ(ids_reused),
        READ(ids_evicted),
        READ(acked),
        READ(expired),
        READ(retained_out),
        READ(refused_full),
        READ(commit_us_sum),
        READ_ENGINE(damaged),
        READ_ENGINE(pages_read),
        READ_ENGINE(rows_read),
        READ_ENGINE(checkpoints),
        READ_ENGINE(checkpoints_held),
    };
    for (size_t i = 0; i < sizeof ret->commit_us_bucket / sizeof *ret->commit_us_bucket; i++)
        ret->commit_us_bucket[i] =
            atomic_load_explicit(&store->stats.commit_us_bucket[i], memory_order_relaxed);
}

/* ---- readers: the engine's, kept from looking past what is committed ---- */

int eb_reader_create(struct eb_store *store, struct eb_reader **ret)
{
    struct eb_reader *reader = calloc(1, sizeof *reader);
    if (!reader)
        return -ENOMEM;
    reader->store = store;
    int rc = store->engine->ops->reader_create(store->engine, &reader->impl);
    if (rc < 0) {
        free(reader);
        return rc;
    }
    *ret = reader;
    return 0;
}

void eb_reader_destroy(struct eb_reader *reader)
{
    if (!reader)
        return;
    struct eb_engine *engine = reader->store->engine;
    engine->ops->reader_destroy(engine, reader->impl);
    free(reader);
}

uint64_t eb_store_deletions(struct eb_store *store)
{
    return atomic_load(&store->deletions);
}

int64_t eb_store_next_due(struct eb_store *store)
{
    return atomic_load_explicit(&store->next_due, memory_order_acquire);
}

bool eb_store_in_memory(struct eb_store *store)
{
    return !store->config.path;
}

int eb_reader_page(struct eb_reader *reader, struct eb_selection *selection,
                   const struct eb_page_request *request, struct eb_page *ret)
{
    struct eb_engine *engine = reader->store->engine;
    struct eb_page_request within = *request;
    struct eb_page page = {0};
    uint64_t last = eb_store_last_seq(reader->store);
    if (within.from < 1)
        within.from = 1;
    if (within.upto > last)
        within.upto = last;
    page.next = within.from;
    if (within.from <= within.upto) {
        int rc = engine->ops->page(engine, reader->impl, selection, &within, &page);
        if (rc < 0) {
            eb_page_finish(&page);
            *ret = page;
            return rc;
        }
    }
    *ret = page;
    return 0;
}

int eb_reader_event(struct eb_reader *reader, uint64_t seq, struct eb_event **ret)
{
    struct eb_engine *engine = reader->store->engine;
    if (seq < 1 || seq > eb_store_last_seq(reader->store))
        return -ENOENT;
    return engine->ops->event(engine, reader->impl, seq, ret);
}

int eb_reader_topics(struct eb_reader *reader, const char *after, struct eb_topic_info *out,
                     size_t max)
{
    struct eb_engine *engine = reader->store->engine;
    return engine->ops->topics(engine, reader->impl, after, out, max);
}
