/* fake_state.c - see fake_world.h: the state beside the log, kept in memory, and `eb-consumer` stepped by hand. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumer_internal.h"
#include "tests/unit/bus/fake_world.h"

#define ROWS 4096

struct consumer_row {
    struct eb_state_consumer row;
    char name[80], settings[8192], stopped[200];
};

struct block_row {
    uint64_t consumer, number;
    uint8_t *data;
    size_t len;
};

static struct {
    struct consumer_row consumers[64];
    size_t consumer_count;
    struct block_row blocks[ROWS];
    size_t block_count;
    struct {
        uint64_t consumer, seq;
    } dead[ROWS];
    size_t dead_count;
    uint64_t mark, held;
    size_t writes;
} disk;

/* ---- writing ---- */

static struct consumer_row *find(uint64_t id)
{
    for (size_t i = 0; i < disk.consumer_count; i++)
        if (disk.consumers[i].row.id == id)
            return &disk.consumers[i];
    return NULL;
}

static void clear_blocks(uint64_t consumer)
{
    size_t kept = 0;
    for (size_t i = 0; i < disk.block_count; i++) {
        if (disk.blocks[i].consumer == consumer)
            free(disk.blocks[i].data);
        else
            disk.blocks[kept++] = disk.blocks[i];
    }
    disk.block_count = kept;
}

static void put_block(const struct eb_state_write *w)
{
    size_t i = 0;
    while (i < disk.block_count &&
           (disk.blocks[i].consumer < w->consumer ||
            (disk.blocks[i].consumer == w->consumer && disk.blocks[i].number < w->block)))
        i++;
    if (i < disk.block_count && disk.blocks[i].consumer == w->consumer &&
        disk.blocks[i].number == w->block) {
        free(disk.blocks[i].data);
        memmove(&disk.blocks[i], &disk.blocks[i + 1],
                (disk.block_count - i - 1) * sizeof(disk.blocks[0]));
        disk.block_count--;
    }
    if (w->len == 0)
        return;
    assert_true(disk.block_count < ROWS);
    memmove(&disk.blocks[i + 1], &disk.blocks[i], (disk.block_count - i) * sizeof(disk.blocks[0]));
    disk.blocks[i] = (struct block_row){w->consumer, w->block, malloc(w->len), w->len};
    memcpy(disk.blocks[i].data, w->data, w->len);
    disk.block_count++;
}

static void put_consumer(const struct eb_state_write *w)
{
    struct consumer_row *row = find(w->consumer);
    if (row == NULL)
        row = &disk.consumers[disk.consumer_count++];
    snprintf(row->name, sizeof(row->name), "%s", w->name);
    snprintf(row->settings, sizeof(row->settings), "%s", w->settings);
    row->row = (struct eb_state_consumer){.id = w->consumer,
                                          .name = row->name,
                                          .settings = row->settings,
                                          .made_ms = w->made_ms,
                                          .next = w->next,
                                          .first_open = w->first_open,
                                          .counts = w->counts};
}

static void put_position(const struct eb_state_write *w)
{
    struct consumer_row *row = find(w->consumer);
    assert_non_null(row);
    row->row.next = w->next;
    row->row.first_open = w->first_open;
    row->row.counts = w->counts;
    row->row.stopped = w->stopped != NULL ? row->stopped : NULL;
    snprintf(row->stopped, sizeof(row->stopped), "%s", w->stopped != NULL ? w->stopped : "");
}

static void drop(uint64_t consumer)
{
    size_t kept = 0;
    clear_blocks(consumer);
    for (size_t i = 0; i < disk.dead_count; i++)
        if (disk.dead[i].consumer != consumer)
            disk.dead[kept++] = disk.dead[i];
    disk.dead_count = kept;
    struct consumer_row *row = find(consumer), *last = &disk.consumers[--disk.consumer_count];
    assert_non_null(row);
    if (row == last)
        return;
    *row = *last;
    row->row.name = row->name;
    row->row.settings = row->settings;
    row->row.stopped = row->row.stopped != NULL ? row->stopped : NULL;
}

static void drop_dead(const struct eb_state_write *w)
{
    size_t kept = 0;
    for (size_t i = 0; i < disk.dead_count; i++)
        if (disk.dead[i].consumer != w->consumer || disk.dead[i].seq != w->seq)
            disk.dead[kept++] = disk.dead[i];
    disk.dead_count = kept;
}

void fake_disk_write(const struct eb_state_write *writes, uint64_t op_seq)
{
    for (const struct eb_state_write *w = writes; w != NULL; w = w->next_write) {
        disk.writes++;
        switch (w->kind) {
        case EB_STATE_CONSUMER:
            put_consumer(w);
            break;
        case EB_STATE_POSITION:
            put_position(w);
            break;
        case EB_STATE_DROP:
            drop(w->consumer);
            break;
        case EB_STATE_BLOCK:
            put_block(w);
            break;
        case EB_STATE_BLOCKS_CLEAR:
            clear_blocks(w->consumer);
            break;
        case EB_STATE_DEAD_ADD:
            disk.dead[disk.dead_count].consumer = w->consumer;
            disk.dead[disk.dead_count++].seq = w->seq != 0 ? w->seq : op_seq;
            break;
        case EB_STATE_DEAD_DROP:
            drop_dead(w);
            break;
        case EB_STATE_MARK:
            disk.mark = w->next;
            break;
        }
    }
}

/* ---- reading ---- */

int eb_store_load_state(struct eb_store *store, const struct eb_state_loader *loader)
{
    for (size_t i = 0; i < disk.consumer_count; i++) {
        const struct eb_state_consumer *row = &disk.consumers[i].row;
        int rc = loader->consumer(loader->ctx, row);
        for (size_t b = 0; rc == 0 && b < disk.block_count; b++)
            if (disk.blocks[b].consumer == row->id)
                rc = loader->block(loader->ctx, row->id, disk.blocks[b].number, disk.blocks[b].data,
                                   disk.blocks[b].len);
        if (rc < 0)
            return rc;
    }
    return 0;
}

int eb_store_mark(struct eb_store *store, const char *name, uint64_t *ret)
{
    *ret = strcmp(name, "consumers") == 0 ? disk.mark : 0;
    return 0;
}

void eb_store_hold(struct eb_store *store, uint64_t seq)
{
    disk.held = seq;
}

uint64_t fake_held(void)
{
    return disk.held;
}

ptrdiff_t eb_reader_dead(struct eb_reader *reader, uint64_t consumer, uint64_t after, uint64_t *ret,
                         size_t max)
{
    size_t count = 0;
    while (count < max) {
        uint64_t best = UINT64_MAX;
        for (size_t i = 0; i < disk.dead_count; i++)
            if (disk.dead[i].consumer == consumer && disk.dead[i].seq > after &&
                disk.dead[i].seq < best)
                best = disk.dead[i].seq;
        if (best == UINT64_MAX)
            break;
        ret[count++] = after = best;
    }
    return (ptrdiff_t)count;
}

/* ---- for tests ---- */

void fake_disk_clear(void)
{
    for (size_t i = 0; i < disk.block_count; i++)
        free(disk.blocks[i].data);
    memset(&disk, 0, sizeof(disk));
}

size_t fake_disk_blocks(size_t *ret_bytes)
{
    size_t bytes = 0;
    for (size_t i = 0; i < disk.block_count; i++)
        bytes += disk.blocks[i].len;
    if (ret_bytes != NULL)
        *ret_bytes = bytes;
    return disk.block_count;
}

size_t fake_disk_writes(void)
{
    size_t writes = disk.writes;
    disk.writes = 0;
    return writes;
}

void fake_disk_damage_block(void)
{
    assert_true(disk.block_count > 0);
    disk.blocks[0].data[0] ^= 0x55;
}

static struct consumer_row *by_name(const char *name)
{
    for (size_t i = 0; i < disk.consumer_count; i++)
        if (strcmp(disk.consumers[i].name, name) == 0)
            return &disk.consumers[i];
    return NULL;
}

void fake_disk_damage_settings(const char *name)
{
    by_name(name)->settings[0] = '?';
}

uint64_t fake_disk_next(const char *name)
{
    struct consumer_row *row = by_name(name);
    return row != NULL ? row->row.next : 0;
}

/* ---- the thread: there is none ---- */

int64_t fake_now;
static _Thread_local bool in_round;

int64_t eb_consumers_now(void)
{
    return fake_now;
}

bool eb_consumers_thread(void)
{
    return in_round;
}

void eb_consumers_signal_locked(struct eb_consumers *all)
{
}

int eb_consumers_start(struct eb_consumers *all)
{
    return 0;
}

void eb_consumers_go(struct eb_consumers *all)
{
    all->started = true;
}

/* With the lock: a test may have a thread that leaves. */
static bool waits(struct eb_consumers *all)
{
    eb_lock_take(&all->run_lock);
    bool any = all->run != NULL || all->changes != NULL || all->push_seen != all->push_round;
    eb_lock_drop(&all->run_lock);
    return any || (all->heap_count > 0 && all->heap[0]->due_ms <= fake_now);
}

void fake_round(struct fake_world *world)
{
    in_round = true;
    eb_consumers_round(world->bus->consumers);
    in_round = false;
}

void fake_consume(struct fake_world *world)
{
    bool more = true;
    for (int i = 0; more; i++) {
        assert_true(i < 100000);
        more = waits(world->bus->consumers);
        if (more)
            fake_round(world);
        while (fake_commit(world, ALL) > 0 || fake_read(world) || fake_turn(world))
            more = true;
    }
}

void eb_consumers_halt(struct eb_consumers *all)
{
    bool over;
    if (all == NULL || !all->started || all->stop)
        return;
    all->stop = true;
    do {
        in_round = true;
        over = eb_consumers_end(all);
        in_round = false;
        fake_commit(NULL, ALL);
        while (fake_read(NULL))
            ;
    } while (!over);
}
