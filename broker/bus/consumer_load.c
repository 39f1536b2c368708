/*
 * consumer_load.c - a start: what the log keeps of the consumers becomes consumers again.
 *
 * (L1) Nothing that is damaged keeps the broker from starting. Settings that cannot be read: the consumer is there, takes
 *      nothing, and waits for a PUT. A block that cannot be read: all that it may have held is delivered again.
 * (L2) A log that has lost its end (repair, an older backup) gives its seqs again: a position beyond is set back.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumer_internal.h"
#include "common/clock.h"
#include "common/log.h"

#define DEAD_PAGE 1024

struct loading {
    struct eb_consumers *all;
    struct eb_consumer *last; /* whose blocks come; the list's reference */
};

/* NULL with *ret_damaged false: no memory. */
static struct eb_consumer_settings *read_settings(const struct eb_state_consumer *row,
                                                  bool *ret_damaged)
{
    struct eb_consumer_settings *settings = calloc(1, sizeof(*settings));
    struct eb_error err;
    struct eb_json json;
    if (settings == NULL)
        return NULL;
    eb_json_init(&json);
    *ret_damaged = row->settings == NULL ||
                   eb_json_parse(&json, row->settings, strlen(row->settings), &err) < 0 ||
                   eb_consumer_settings_read(settings, &json, 0, &err) < 0;
    if (*ret_damaged) {
        eb_warn("EB-CONSUMER-DAMAGED",
                "the settings of consumer %s cannot be read (%s): it takes nothing until it is PUT "
                "again, and goes on at seq %llu then",
                row->name, row->settings != NULL ? err.message : "there are none",
                (unsigned long long)row->next);
        *settings = (struct eb_consumer_settings){
            .ack_wait_ms = 30000, .max_inflight = 256, .order_window = 10000, .dead_letter = true};
    }
    eb_json_finish(&json);
    return settings;
}

/* L2 */
static void set_back(struct eb_consumer *consumer)
{
    uint64_t end = eb_store_last_seq(consumer->all->bus->store) + 1;
    struct eb_worklist_figures figures;
    eb_worklist_figures(consumer->list, &figures);
    if (figures.next <= end)
        return;
    eb_warn("EB-CONSUMER-SET-BACK",
            "consumer %s stood at seq %llu, but the log ends before: it goes on at %llu",
            consumer->name, (unsigned long long)figures.next, (unsigned long long)end);
    eb_worklist_cut(consumer->list, end);
    eb_consumer_changed_locked(consumer);
}

static void finish_last(struct loading *loading)
{
    struct eb_worklist_figures figures;
    if (loading->last == NULL)
        return;
    set_back(loading->last);
    eb_worklist_figures(loading->last->list, &figures);
    loading->last->kept_first = figures.first_open;
    loading->last = NULL;
}

static int load_consumer(void *ctx, const struct eb_state_consumer *row)
{
    struct loading *loading = ctx;
    struct eb_consumers *all = loading->all;
    struct eb_error err;
    bool damaged = false;
    finish_last(loading);
    if (all->ids < row->id)
        all->ids = row->id;
    if (eb_consumer_name_check(row->name, strlen(row->name), &err) < 0) {
        eb_warn("EB-CONSUMER-DAMAGED", "a consumer is left out: %s", err.message);
        return 0;
    }
    struct eb_consumer_settings *settings = read_settings(row, &damaged);
    struct eb_consumer *consumer = settings != NULL
                                       ? eb_consumer_create(all, row->name, row->id, row->made_ms,
                                                            settings, row->next > 0 ? row->next : 1)
                                       : NULL;
    if (consumer == NULL) {
        free(settings);
        return -ENOMEM;
    }
    consumer->life = EB_CONSUMER_THERE;
    consumer->damaged = damaged;
    consumer->counts = row->counts;
    consumer->push_afresh = settings->has_push;
    if (row->stopped != NULL && row->stopped[0] != '\0') {
        snprintf(consumer->stopped, sizeof(consumer->stopped), "%s", row->stopped);
        consumer->was_stopped = true;
    } else if (damaged) {
        snprintf(consumer->stopped, sizeof(consumer->stopped), "its settings cannot be read");
        consumer->was_stopped = true;
    }
    int rc = eb_consumer_list(all, consumer);
    loading->last = rc == 0 ? consumer : NULL;
    eb_consumer_unref(consumer);
    if (rc == 0)
        eb_consumer_run(consumer);
    return rc == -EEXIST ? 0 : rc;
}

static int load_block(void *ctx, uint64_t id, uint64_t number, const uint8_t *data, size_t len)
{
    struct loading *loading = ctx;
    struct eb_consumer *consumer = loading->last;
    if (consumer == NULL || consumer->id != id)
        return 0; /* of one that is not there */
    int rc = eb_worklist_load(consumer->list, number, data, len, eb_wall_ms() - eb_consumers_now());
    if (rc != -EBADMSG)
        return rc;
    uint64_t from = number * EB_WORKLIST_BLOCK, to = from + EB_WORKLIST_BLOCK;
    if (consumer->suspect_to == 0 || from < consumer->suspect_from)
        consumer->suspect_from = from;
    if (to > consumer->suspect_to)
        consumer->suspect_to = to;
    eb_warn("EB-CONSUMER-DAMAGED",
            "what consumer %s had open from seq %llu to %llu cannot be read: all of it that it had "
            "passed is delivered again, also what was acknowledged",
            consumer->name, (unsigned long long)from, (unsigned long long)to - 1);
    return eb_worklist_reopen(consumer->list, number);
}

/* How many dead letters wait for redrive. */
static int count_dead(struct eb_consumers *all)
{
    struct eb_reader *reader;
    uint64_t seqs[DEAD_PAGE];
    ptrdiff_t count = 0;
    int rc = all->count > 0 ? eb_reader_create(all->bus->store, &reader) : -ENOENT;
    if (rc < 0)
        return rc == -ENOENT ? 0 : rc;
    for (size_t i = 0; i < all->count; i++) {
        struct eb_consumer *consumer = all->list[i];
        uint64_t after = 0;
        do {
            count = eb_reader_dead(reader, consumer->id, after, seqs, DEAD_PAGE);
            if (count <= 0)
                break;
            consumer->dead_waiting += (uint64_t)count;
            after = seqs[count - 1];
        } while (count == DEAD_PAGE);
    }
    eb_reader_destroy(reader);
    return 0;
}

int eb_consumers_load(struct eb_consumers *all)
{
    struct loading loading = {.all = all};
    struct eb_state_loader loader = {
        .ctx = &loading, .consumer = load_consumer, .block = load_block};
    uint64_t ids = 0;
    int rc = eb_store_load_state(all->bus->store, &loader);
    finish_last(&loading);
    if (rc == 0)
        rc = eb_store_mark(all->bus->store, "consumers", &ids);
    if (all->ids < ids)
        all->ids = ids;
    if (rc == 0)
        rc = count_dead(all);
    if (rc == 0)
        eb_consumers_hold(all);
    return rc;
}
