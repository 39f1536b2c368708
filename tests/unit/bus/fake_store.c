/* fake_store.c - a store whose commits are made by hand (fake_world.h). It stands in for store.c at link time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "common/clock.h"
#include "tests/unit/bus/fake_internal.h"

#define EPOCH "11111111-2222-4333-8444-555555555555"

int eb_store_start(struct eb_store *store, const struct eb_store_hooks *hooks)
{
    fake.hooks = *hooks;
    return 0;
}

void eb_store_submit(struct eb_store *store, struct eb_op *first, struct eb_op *last)
{
    *fake.queue_end = first;
    fake.queue_end = &last->next;
}

void eb_store_submit_or_commit(struct eb_store *store, struct eb_op *op)
{
    fake.alone++;
    eb_store_submit(store, op, op);
}

void eb_store_info(struct eb_store *store, struct eb_store_info *ret)
{
    *ret = (struct eb_store_info){.epoch = EPOCH,
                                  .first_seq = fake.deleted_upto + 1,
                                  .last_seq = fake.last,
                                  .deleted_upto = fake.deleted_upto};
}

const char *eb_store_epoch(struct eb_store *store)
{
    return EPOCH;
}

uint64_t eb_store_deletions(struct eb_store *store)
{
    return fake.deletions;
}

bool eb_store_in_memory(struct eb_store *store)
{
    return !fake.world->shares;
}

uint64_t eb_store_last_seq(struct eb_store *store)
{
    return fake.last;
}

static void store_publish(struct eb_op *op)
{
    for (uint32_t i = 0; i < op->count; i++) {
        struct eb_event *event = op->events[i];
        if (op->asks && op->asks[i].due_ms) {
            op->results[i] = (struct eb_op_result){.scheduled = true};
            continue;
        }
        event->seq = ++fake.last;
        if (event->timestamp == 0)
            event->timestamp =
                event->ttl > 0 ? eb_wall_ms() - 1000 * (event->ttl + 1) : eb_wall_ms();
        op->results[i] = (struct eb_op_result){.seq = event->seq};
        fake.rows = realloc(fake.rows, fake.last * sizeof(*fake.rows));
        fake.rows[fake.last - 1] = (struct fake_row){.event = eb_event_ref(event)};
    }
}

size_t fake_commit(struct fake_world *world, size_t ops)
{
    world = fake.world;
    struct eb_op *first = fake.queue, *op = first, **end = &fake.queue;
    size_t count = 0;
    for (; op != NULL && count < ops; op = op->next, count++) {
        op->last_seq = fake.last + world->first_try;
        if (op->collect != NULL)
            op->writes = op->collect(op);
        op->last_seq = fake.last;
        if (world->fail_commit)
            eb_fail(&op->err, EB_STORAGE_FULL, "no room");
        else if (op->kind == EB_OP_PUBLISH || op->kind == EB_OP_DUE)
            store_publish(op);
        else if (op->kind == EB_OP_ACK && op->seq > fake.last)
            eb_fail(&op->err, EB_NOT_FOUND, "no such seq");
        if (op->err.code == EB_OK)
            fake_disk_write(op->writes, fake.last);
        for (uint32_t i = 0; op->kind == EB_OP_AUTO_ACK && i < op->count; i++)
            fake.rows[op->seqs[i] - 1].acked = true;
        end = &op->next;
    }
    if (count == 0)
        return 0;
    void (*during)(struct fake_world *, void *) = world->during_commit;
    world->during_commit = NULL;
    if (during != NULL)
        during(world, world->ctx);
    world->fail_commit = false;
    world->first_try = 0;
    fake.queue = op;
    if (op == NULL)
        fake.queue_end = &fake.queue;
    *end = NULL;
    fake.hooks.committed(fake.hooks.ctx, first);
    fake.hooks.settled(fake.hooks.ctx);
    return count;
}

void fake_retain(struct fake_world *world, uint64_t deleted_upto)
{
    if (deleted_upto > fake.deleted_upto)
        fake.deleted_upto = deleted_upto;
    fake.deletions++;
}

void fake_delete(struct fake_world *world, uint64_t seq)
{
    fake.rows[seq - 1].deleted = true;
    fake.deletions++;
}

void fake_damage(struct fake_world *world, uint64_t seq)
{
    fake.rows[seq - 1].damaged = true;
}

void fake_mark_acked(struct fake_world *world, uint64_t seq)
{
    fake.rows[seq - 1].acked = true;
}

bool fake_acked(struct fake_world *world, uint64_t seq)
{
    return fake.rows[seq - 1].acked;
}

uint64_t fake_last(struct fake_world *world)
{
    return fake.last;
}

struct eb_event *fake_event(struct fake_world *world, uint64_t seq)
{
    return fake.rows[seq - 1].event;
}

const char *fake_topic(struct fake_world *world, uint64_t seq)
{
    return fake.rows[seq - 1].event->topic;
}
