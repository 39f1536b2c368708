/*
 * consumer_change.c - making, changing and ending a consumer, seek, stop, redrive: one change after the other.
 *
 *   eb_change_submit --> begin: which consumer? --> its list --> start: may it? reads --> ready --> state op --> end
 *                          `-- none: it is made, MAKING until its first commit; others wait behind it
 *
 * (C1) Changes of one consumer are carried out one by one, in order, begun by `eb-consumer` alone. So nobody else
 *      puts a consumer into the list.
 * (C2) What a change does to the memory it does in `collect` where the place in the log's order matters (making, seek),
 *      or after the commit (settings, deletion, stop): so a refused PUT leaves the old settings.
 * (C3) A seek forgets what is open, save dead letters that were redriven: no position leads to them, so they go back to
 *      the list.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumer_internal.h"
#include "common/clock.h"
#include "common/log.h"

/* ---- life of a change ---- */

void eb_change_finish(struct eb_change *change)
{
    struct eb_consumer_request *request = change->request;
    if (change->err.code != EB_OK)
        request->err = change->err;
    eb_consumer_request_done(request);
    eb_read_finish(&change->read);
    eb_redrive_free(change->redrive);
    free(change->letters);
    eb_buf_finish(&change->text);
    eb_consumer_unref(change->consumer);
    free(change->settings);
    free(change);
}

static void submit(struct eb_change *change)
{
    struct eb_consumers *all = change->all;
    change->next = NULL;
    eb_lock_take(&all->run_lock);
    bool stop = all->stop;
    if (!stop) {
        *all->changes_end = change;
        all->changes_end = &change->next;
        eb_consumers_signal_locked(all);
    }
    eb_lock_drop(&all->run_lock);
    if (!stop)
        return;
    eb_fail(&change->err, EB_UNAVAILABLE, "the broker is going down");
    eb_change_finish(change);
}

void eb_change_submit(struct eb_consumers *all, struct eb_consumer_request *request)
{
    struct eb_change *change = calloc(1, sizeof(*change));
    bool failed = change == NULL;
    if (!failed && request->settings != NULL) {
        change->settings = malloc(sizeof(*change->settings));
        failed = change->settings == NULL;
        if (!failed) {
            *change->settings = *request->settings;
            eb_consumer_settings_write(&change->text, change->settings, true);
            eb_buf_add(&change->text, "", 1);
            failed = eb_buf_failed(&change->text);
        }
    }
    if (failed) {
        eb_fail(&request->err, EB_INTERNAL, "out of memory");
        eb_consumer_request_done(request);
        if (change != NULL) {
            eb_buf_finish(&change->text);
            free(change->settings);
            free(change);
        }
        return;
    }
    change->all = all;
    change->request = request;
    change->err = (struct eb_error){.code = EB_OK, .index = -1};
    submit(change);
}

/* ---- starting one on a consumer that is there ---- */

/* Not under way any more; the consumer's next one may start. */
static void end(struct eb_change *change)
{
    struct eb_consumer *consumer = change->consumer;
    if (consumer != NULL) {
        eb_lock_take(&consumer->lock);
        if (consumer->keep.change == change)
            consumer->keep.change = NULL;
        eb_lock_drop(&consumer->lock);
        eb_consumer_run(consumer);
    }
    eb_change_finish(change);
}

void eb_change_ready(struct eb_change *change)
{
    struct eb_consumer *consumer = change->consumer;
    eb_lock_take(&consumer->lock);
    change->ready = true;
    change->collected = false;
    eb_consumer_keep_locked(consumer);
    eb_lock_drop(&consumer->lock);
}

static int check_push(struct eb_consumers *all, const struct eb_consumer_settings *settings,
                      struct eb_error *err)
{
    if (!settings->has_push)
        return 0;
    const struct eb_push_ops *ops;
    void *ctx;
    if (!eb_push_enter(all, &ops, &ctx))
        return eb_fail(err, EB_INVALID_REQUEST,
                       "push is not possible here: nothing in this broker calls webhooks");
    int rc = ops->check(ctx, settings, err);
    eb_push_leave(all);
    return rc;
}

static bool same_from(const struct eb_consumer_settings *a, const struct eb_consumer_settings *b)
{
    return a->from == b->from && (a->from != EB_FROM_SEQ || a->from_seq == b->from_seq) &&
           (a->from != EB_FROM_TIME || a->from_time_ms == b->from_time_ms);
}

/* May these settings take the place of the old ones? */
static int check_put_locked(const struct eb_consumer *consumer,
                            const struct eb_consumer_settings *settings, struct eb_error *err)
{
    const struct eb_consumer_settings *old = consumer->settings;
    if (consumer->damaged)
        return 0;
    if (!same_from(old, settings))
        return eb_fail(err, EB_CONFLICT,
                       "consumer %s was made with another from: delete it first, or seek",
                       consumer->name);
    if (old->order != settings->order || strcmp(old->order_header, settings->order_header) != 0)
        return eb_fail(err, EB_CONFLICT, "consumer %s was made with another order: delete it first",
                       consumer->name);
    return 0;
}

static void start_put(struct eb_change *change)
{
    struct eb_consumer *consumer = change->consumer;
    eb_lock_take(&consumer->lock);
    int rc = check_put_locked(consumer, change->settings, &change->err);
    eb_lock_drop(&consumer->lock);
    if (rc < 0 || check_push(change->all, change->settings, &change->err) < 0)
        end(change);
    else
        eb_change_ready(change);
}

static void start_ensure(struct eb_change *change)
{
    struct eb_consumer *consumer = change->consumer;
    eb_lock_take(&consumer->lock);
    if (change->settings != NULL &&
        !eb_consumer_settings_equal(consumer->settings, change->settings))
        eb_fail(&change->err, EB_CONFLICT,
                "consumer %s is there with other settings: leave them out, or PUT them",
                consumer->name);
    eb_lock_drop(&consumer->lock);
    end(change);
}

static void time_found(struct eb_read *read)
{
    struct eb_change *change = read->user;
    change->at = read->first_seq;
    change->time_known = true;
    change->err = read->err;
    if (change->consumer == NULL) {
        submit(change); /* of one to be made: begin again */
    } else if (read->err.code != EB_OK) {
        end(change);
    } else {
        eb_change_ready(change);
    }
}

static void find_time(struct eb_change *change, int64_t time_ms)
{
    change->read.kind = EB_READ_FIRST_AT;
    change->read.time_ms = time_ms;
    change->read.done = time_found;
    change->read.user = change;
    eb_bus_read(change->all->bus, &change->read);
}

static void start(struct eb_change *change)
{
    switch (change->request->verb) {
    case EB_CONSUMER_PUT:
        start_put(change);
        break;
    case EB_CONSUMER_ENSURE:
        start_ensure(change);
        break;
    case EB_CONSUMER_SEEK:
        change->at = change->request->seq;
        if (change->request->by_time)
            find_time(change, change->request->time_ms);
        else
            eb_change_ready(change);
        break;
    case EB_CONSUMER_REDRIVE:
    case EB_CONSUMER_TIDY:
        eb_redrive_read(change);
        break;
    default:
        eb_change_ready(change);
        break;
    }
}

void eb_changes_turn(struct eb_consumer *consumer)
{
    struct eb_change *change = NULL, *again = NULL;
    eb_lock_take(&consumer->lock);
    bool goes_on = consumer->keep.change != NULL && consumer->keep.change->again;
    if (goes_on) {
        change = consumer->keep.change;
        change->again = false;
    } else if (consumer->life == EB_CONSUMER_GONE) {
        again = consumer->changes;
        consumer->changes = NULL;
        consumer->changes_end = &consumer->changes;
    } else if (consumer->keep.change == NULL && consumer->changes != NULL && !consumer->stopping) {
        change = consumer->changes;
        consumer->changes = change->next;
        if (consumer->changes == NULL)
            consumer->changes_end = &consumer->changes;
        consumer->keep.change = change;
    }
    eb_lock_drop(&consumer->lock);
    for (struct eb_change *next; again != NULL; again = next) { /* it is gone: from the start */
        next = again->next;
        eb_consumer_unref(again->consumer);
        again->consumer = NULL;
        submit(again);
    }
    if (change != NULL)
        start(change);
}

/* ---- making one ---- */

static void make(struct eb_change *change)
{
    struct eb_consumers *all = change->all;
    const struct eb_consumer_settings *settings = change->settings;
    if (change->err.code != EB_OK || check_push(all, settings, &change->err) < 0) {
        end(change);
        return;
    }
    if (settings->from == EB_FROM_TIME && !change->time_known) {
        find_time(change, settings->from_time_ms);
        return;
    }
    struct eb_consumer *consumer = eb_consumer_create(all, change->request->name, all->ids + 1,
                                                      eb_wall_ms(), change->settings, 1);
    int rc = consumer != NULL ? 0 : -ENOMEM;
    if (rc == 0) {
        change->settings = NULL; /* the consumer's now */
        consumer->keep.change = change;
        change->consumer = consumer;
        rc = eb_consumer_list(all, consumer);
    }
    if (rc < 0) {
        if (rc == -ENOSPC)
            eb_fail(&change->err, EB_LIMIT_EXCEEDED,
                    "there are max_consumers (%u) consumers already: delete one first",
                    eb_consumers_max(all));
        else
            eb_fail(&change->err, EB_INTERNAL, "out of memory");
        end(change);
        return;
    }
    all->ids++;
    eb_change_ready(change);
}

static void begin(struct eb_change *change)
{
    struct eb_consumer *consumer = eb_consumer_find(change->all, change->request->name);
    bool there = false;
    if (consumer != NULL) {
        eb_lock_take(&consumer->lock);
        there = consumer->life != EB_CONSUMER_GONE;
        if (there) {
            change->consumer = consumer;
            change->next = NULL;
            *consumer->changes_end = change;
            consumer->changes_end = &change->next;
        }
        eb_lock_drop(&consumer->lock);
        if (there) {
            eb_changes_turn(consumer);
            return;
        }
        eb_consumer_unlist(consumer);
        eb_consumer_unref(consumer);
    }
    if (change->settings != NULL) {
        make(change);
        return;
    }
    eb_fail(&change->err, EB_NOT_FOUND, "there is no consumer %s", change->request->name);
    end(change);
}

void eb_changes_begin(struct eb_consumers *all)
{
    eb_lock_take(&all->run_lock);
    struct eb_change *change = all->changes;
    all->changes = NULL;
    all->changes_end = &all->changes;
    eb_lock_drop(&all->run_lock);
    for (struct eb_change *next; change != NULL; change = next) {
        next = change->next;
        begin(change);
    }
}

void eb_changes_refuse(struct eb_consumers *all, struct eb_consumer *consumer)
{
    struct eb_lock *lock = consumer != NULL ? &consumer->lock : &all->run_lock;
    struct eb_change **first = consumer != NULL ? &consumer->changes : &all->changes;
    eb_lock_take(lock);
    struct eb_change *change = *first;
    *first = NULL;
    if (consumer != NULL && consumer->keep.change != NULL && consumer->keep.change->again) {
        consumer->keep.change->next = change; /* between two steps: it ends here */
        change = consumer->keep.change;
        consumer->keep.change = NULL;
    }
    if (consumer != NULL)
        consumer->changes_end = first;
    else
        all->changes_end = first;
    eb_lock_drop(lock);
    for (struct eb_change *next; change != NULL; change = next) {
        next = change->next;
        eb_fail(&change->err, EB_UNAVAILABLE, "the broker is going down");
        eb_change_finish(change);
    }
}

/* ---- at its place in the order: under the commit lock ---- */

static uint64_t first_retained(struct eb_consumers *all, uint64_t last_seq)
{
    struct eb_store_info info;
    eb_store_info(all->bus->store, &info);
    return info.deleted_upto < last_seq ? info.deleted_upto + 1 : last_seq + 1;
}

/* Where it begins, or 0 with @err. */
static uint64_t place_of(struct eb_consumers *all, const struct eb_change *change,
                         enum eb_consumer_from from, uint64_t seq, uint64_t last_seq,
                         struct eb_error *err)
{
    switch (from) {
    case EB_FROM_NEW:
        return last_seq + 1;
    case EB_FROM_ALL:
        return first_retained(all, last_seq);
    case EB_FROM_TIME:
        return change->at <= last_seq ? change->at : last_seq + 1;
    case EB_FROM_SEQ:
        break;
    }
    if (seq <= last_seq + 1)
        return seq > 0 ? seq : 1; /* with a gap, when it is retained no more */
    eb_fail(err, EB_INVALID_REQUEST, "seq %llu is above the log's end: the next seq will be %llu",
            (unsigned long long)seq, (unsigned long long)last_seq + 1);
    return 0;
}

static void move_locked(struct eb_consumer *consumer, uint64_t next)
{
    eb_worklist_reset(consumer->list, next);
    eb_cache_clear(&consumer->cache);
    eb_reasons_clear_locked(consumer);
    consumer->gen++;
    consumer->untold = (struct eb_untold){0};
    consumer->clear_blocks = true;
    consumer->changed = true;
}

/* What was redriven and is still open is a dead letter again (C3). -1 with the change's error. */
static int keep_letters_locked(struct eb_consumer *consumer, struct eb_change *change)
{
    size_t count = eb_worklist_extra(consumer->list, NULL, 0);
    if (count == 0)
        return 0;
    change->letters = malloc(count * sizeof(*change->letters));
    if (change->letters == NULL)
        return eb_fail(&change->err, EB_INTERNAL, "out of memory");
    change->letter_count = eb_worklist_extra(consumer->list, change->letters, count);
    return 0;
}

void eb_change_collect_locked(struct eb_consumer *consumer, struct eb_change *change,
                              uint64_t last_seq)
{
    const struct eb_consumer_settings *settings = consumer->settings;
    uint64_t at = 0;
    change->collected = true;
    memcpy(change->stopped, consumer->stopped, sizeof(change->stopped));
    if (consumer->life == EB_CONSUMER_MAKING) {
        at = place_of(consumer->all, change, settings->from, settings->from_seq, last_seq,
                      &change->err);
        if (at != 0)
            eb_worklist_reset(consumer->list, at);
    } else if (change->request->verb == EB_CONSUMER_SEEK) {
        at = place_of(consumer->all, change, change->request->by_time ? EB_FROM_TIME : EB_FROM_SEQ,
                      change->at, last_seq, &change->err);
        if (at == 0 || keep_letters_locked(consumer, change) < 0)
            return;
        eb_workers_release_locked(consumer, "seek");
        move_locked(consumer, at);
        change->moved = true;
    } else if (change->redrive != NULL) {
        eb_redrive_collect_locked(consumer, change->redrive);
    }
    change->at = at;
}

size_t eb_change_room(const struct eb_change *change)
{
    return 3 + change->letter_count +
           (change->redrive != NULL ? eb_redrive_room(change->redrive) : 0);
}

size_t eb_change_writes_locked(struct eb_consumer *consumer, struct eb_change *change,
                               struct eb_state_write *at)
{
    size_t count = 0;
    switch (change->request->verb) {
    case EB_CONSUMER_PUT:
    case EB_CONSUMER_ENSURE:
        at[count++] = (struct eb_state_write){
            .kind = EB_STATE_CONSUMER,
            .consumer = consumer->id,
            .name = consumer->name,
            .settings = change->text.data,
            .made_ms = consumer->made_ms,
            .next = eb_worklist_next(consumer->list),
            .first_open = eb_worklist_next(consumer->list),
            .counts = eb_keep_counts_locked(consumer),
        };
        consumer->stopped[0] = '\0'; /* a PUT starts it again */
        if (consumer->life == EB_CONSUMER_MAKING)
            at[count++] = (struct eb_state_write){
                .kind = EB_STATE_MARK, .name = "consumers", .next = consumer->id};
        break;
    case EB_CONSUMER_DELETE:
        at[count++] = (struct eb_state_write){.kind = EB_STATE_DROP, .consumer = consumer->id};
        break;
    case EB_CONSUMER_STOP:
        snprintf(consumer->stopped, sizeof(consumer->stopped), "%s",
                 change->request->reason[0] != '\0' ? change->request->reason : "stopped");
        break;
    case EB_CONSUMER_REDRIVE:
    case EB_CONSUMER_TIDY:
        count = eb_redrive_writes(consumer, change->redrive, at);
        break;
    case EB_CONSUMER_SEEK:
        for (; count < change->letter_count; count++)
            at[count] = (struct eb_state_write){
                .kind = EB_STATE_DEAD_ADD, .consumer = consumer->id, .seq = change->letters[count]};
        break;
    default:
        break;
    }
    return count;
}

/* ---- after the commit ---- */

/* The group was tried again without some of its publishes: it must not stand beyond what comes in their place. */
static void pull_back_locked(struct eb_consumer *consumer, const struct eb_change *change,
                             uint64_t last_seq)
{
    if (change->at <= last_seq + 1)
        return;
    move_locked(consumer, last_seq + 1);
    eb_consumer_changed_locked(consumer);
}

static void sought_locked(struct eb_consumer *consumer, struct eb_change *change, bool ok,
                          uint64_t last_seq)
{
    static const struct eb_order_key none = {.present = false};
    pull_back_locked(consumer, change, last_seq);
    if (ok)
        consumer->dead_waiting += change->letter_count;
    for (size_t i = 0; !ok && i < change->letter_count; i++) /* they stay where they were */
        eb_worklist_insert(consumer->list, change->letters[i], none);
}

static void made_locked(struct eb_consumer *consumer, struct eb_change *change, bool ok,
                        uint64_t last_seq)
{
    consumer->life = ok ? EB_CONSUMER_THERE : EB_CONSUMER_GONE;
    change->request->created = ok;
    consumer->push_afresh = consumer->settings->has_push;
    if (ok)
        pull_back_locked(consumer, change, last_seq);
}

static bool same_push(const struct eb_consumer_settings *a, const struct eb_consumer_settings *b)
{
    return a->has_push == b->has_push &&
           (!a->has_push ||
            (strcmp(a->push.url, b->push.url) == 0 && strcmp(a->push.secret, b->push.secret) == 0 &&
             a->push.timeout_ms == b->push.timeout_ms &&
             a->push.concurrency == b->push.concurrency));
}

/* A worklist cannot change its order: another one with what is open. No worker is attached. */
static void order_again_locked(struct eb_consumer *consumer,
                               const struct eb_worklist_config *config)
{
    struct eb_worklist *list;
    if (eb_worklist_copy(consumer->list, config, &list) < 0) {
        eb_warn("EB-CONSUMER-DAMAGED",
                "out of memory: the order of consumer %s holds from the next start on",
                consumer->name);
        return;
    }
    eb_worklist_destroy(consumer->list);
    consumer->list = list;
    consumer->gen++;
    eb_consumer_changed_locked(consumer);
}

static void replaced_locked(struct eb_consumer *consumer, struct eb_change *change)
{
    struct eb_consumer_settings *old = consumer->settings;
    struct eb_worklist_config config;
    consumer->settings = change->settings;
    change->settings = old;
    eb_consumer_config(consumer->settings, &config);
    eb_worklist_configure(consumer->list, &config);
    if (consumer->damaged) /* whether there was an order was not known */
        order_again_locked(consumer, &config);
    consumer->feed_afresh = true;
    if (!same_push(old, consumer->settings) || consumer->was_stopped) {
        eb_workers_release_locked(consumer, "push");
        consumer->push_afresh = true;
    }
    consumer->was_stopped = consumer->damaged = false;
}

static void deleted_locked(struct eb_consumer *consumer)
{
    consumer->life = EB_CONSUMER_GONE;
    consumer->push_afresh = true;
    eb_workers_release_locked(consumer, "deleted");
    move_locked(consumer, 1);
    consumer->changed = consumer->clear_blocks = false;
}

static void stopped_locked(struct eb_consumer *consumer)
{
    consumer->was_stopped = consumer->push_afresh = true;
    eb_workers_release_locked(consumer, "push");
    eb_warn("EB-CONSUMER-STOPPED", "consumer %s takes no events until it is PUT again: %s",
            consumer->name, consumer->stopped);
}

struct eb_change *eb_change_committed_locked(struct eb_consumer *consumer, struct eb_change *change,
                                             const struct eb_error *err, uint64_t last_seq)
{
    enum eb_consumer_verb verb = change->request->verb;
    if (change->err.code == EB_OK)
        change->err = *err;
    bool ok = change->err.code == EB_OK, more = false;
    if (consumer->life == EB_CONSUMER_MAKING)
        made_locked(consumer, change, ok, last_seq);
    else if ((verb == EB_CONSUMER_REDRIVE || verb == EB_CONSUMER_TIDY) && change->collected)
        more = eb_redrive_committed_locked(consumer, change->redrive, ok, change->request);
    else if (verb == EB_CONSUMER_SEEK && change->moved)
        sought_locked(consumer, change, ok, last_seq);
    else if (ok && verb == EB_CONSUMER_PUT)
        replaced_locked(consumer, change);
    else if (ok && verb == EB_CONSUMER_DELETE)
        deleted_locked(consumer);
    else if (ok && verb == EB_CONSUMER_STOP)
        stopped_locked(consumer);
    change->ready = change->collected = change->moved = false;
    atomic_store(&consumer->all->hold_afresh, true);
    if (!ok && (verb == EB_CONSUMER_PUT || verb == EB_CONSUMER_STOP))
        memcpy(consumer->stopped, change->stopped, sizeof(change->stopped));
    if (more && ok && !consumer->stopping) {
        change->again = true; /* eb_changes_turn goes on */
        return NULL;
    }
    consumer->keep.change = NULL;
    return change;
}
