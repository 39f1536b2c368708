/*
 * fake_pool.c - turns that are given by hand (fake_world.h), and what a test does in their midst. It stands in for pool.c
 * and due.c at link time, and in front of two functions of the bus (--wrap).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>

#include "tests/unit/bus/fake_internal.h"

void eb_bus_read(struct eb_bus *bus, struct eb_read *read)
{
    read->next = NULL;
    *fake.reads_end = read;
    fake.reads_end = &read->next;
}

bool fake_read(struct fake_world *world)
{
    world = fake.world;
    struct eb_read *read = fake.reads;
    if (read == NULL)
        return false;
    fake.reads = read->next;
    if (fake.reads == NULL)
        fake.reads_end = &fake.reads;
    eb_read_do(world->bus, NULL, read);
    return true;
}

int eb_pool_create(struct eb_bus *bus, unsigned readers, struct eb_pool **ret)
{
    return 0;
}

void eb_pool_stop(struct eb_pool *pool)
{
}

static struct eb_sub *take_ahead(void)
{
    struct eb_sub *sub = fake.ahead;
    if (sub != NULL)
        fake.ahead = sub->ahead_next;
    return sub;
}

void eb_pool_destroy(struct eb_pool *pool)
{
    for (struct eb_stream *next, *stream = fake.run; stream != NULL; stream = next) {
        next = stream->run_next;
        eb_stream_unref_place(stream);
    }
    for (struct eb_stream *next, *stream = fake.later; stream != NULL; stream = next) {
        next = stream->run_next;
        eb_stream_unref_place(stream);
    }
    while (fake.ahead != NULL)
        eb_sub_unref(take_ahead());
    fake.run = fake.later = NULL;
}

void eb_pool_run(struct eb_pool *pool, struct eb_stream *stream)
{
    stream->run_next = NULL;
    *fake.run_end = stream;
    fake.run_end = &stream->run_next;
}

void eb_pool_ahead(struct eb_pool *pool, struct eb_sub *sub)
{
    for (const struct eb_sub *other = fake.ahead; other != NULL; other = other->ahead_next)
        assert_ptr_not_equal(other, sub);
    sub->ahead_next = fake.ahead;
    fake.ahead = sub;
}

void eb_pool_wake(struct eb_pool *pool)
{
}

void eb_pool_run_later(struct eb_pool *pool, struct eb_stream *stream, int64_t delay_ms)
{
    stream->run_next = fake.later;
    fake.later = stream;
}

void eb_pool_autoack_due(struct eb_pool *pool, int64_t due_ms)
{
}

size_t fake_runnable(struct fake_world *world)
{
    size_t count = 0;
    for (struct eb_stream *stream = fake.run; stream != NULL; stream = stream->run_next)
        count++;
    return count;
}

size_t fake_sleeping(struct fake_world *world)
{
    size_t count = 0;
    for (struct eb_stream *stream = fake.later; stream != NULL; stream = stream->run_next)
        count++;
    return count;
}

bool fake_turn(struct fake_world *world)
{
    struct eb_stream *stream = fake.run;
    if (stream == NULL)
        return false;
    fake.run = stream->run_next;
    if (fake.run == NULL)
        fake.run_end = &fake.run;
    eb_stream_turn(stream, NULL);
    return true;
}

bool fake_ahead(struct fake_world *world)
{
    struct eb_sub *sub = take_ahead();
    if (sub != NULL)
        eb_ahead_run(sub, NULL);
    return sub != NULL;
}

void fake_turns(struct fake_world *world)
{
    while (fake_turn(world))
        ;
}

/* ---- what is due: nothing ever is ---- */

int eb_due_create(struct eb_bus *bus, struct eb_due **ret)
{
    return 0;
}

int eb_due_start(struct eb_due *due)
{
    return 0;
}

void eb_due_kick(struct eb_due *due)
{
}

void eb_due_stop(struct eb_due *due)
{
}

void eb_due_destroy(struct eb_due *due)
{
}

/* ---- in front of the real ones ---- */

uint64_t __real_eb_bus_visible(struct eb_bus *bus);
uint64_t __wrap_eb_bus_visible(struct eb_bus *bus);

uint64_t __wrap_eb_bus_visible(struct eb_bus *bus)
{
    uint64_t visible = __real_eb_bus_visible(bus);
    void (*after)(struct fake_world *, void *) = fake.world->after_visible;
    if (after != NULL) {
        fake.world->after_visible = NULL;
        after(fake.world, fake.world->ctx);
    }
    return visible;
}

int __real_eb_table_match(struct eb_table *table, bool wild, const char *topic, size_t len,
                          struct eb_match **ret);
int __wrap_eb_table_match(struct eb_table *table, bool wild, const char *topic, size_t len,
                          struct eb_match **ret);

int __wrap_eb_table_match(struct eb_table *table, bool wild, const char *topic, size_t len,
                          struct eb_match **ret)
{
    if (fake.world->fail_matches > 0) {
        fake.world->fail_matches--;
        return -ENOMEM;
    }
    return __real_eb_table_match(table, wild, topic, len, ret);
}
