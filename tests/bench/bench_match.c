/*
 * bench_match.c - how long the topic table takes to say who wants a topic, with 100 subscriptions and with 100,000
 * (half with wildcards), over 100,000 topics: the first time each topic is seen, and once the answer is remembered.
 * One JSON object a line; ./dev bench reads them.
 *
 *   bench_match [SUBSCRIPTIONS]      that many, or without it both
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/bus/internal.h"
#include "common/clock.h"

#define HOT      100 /* topics asked for again and again, each wanted by somebody in both tables */
#define HOT_PASS 1000
#define FEW      100
#define MANY     100000
#define TOPICS   100000

struct topics {
    unsigned count;
    char (*name)[32];
    size_t *len;
};

static void check(int rc, const char *what)
{
    if (rc == 0)
        return;
    fprintf(stderr, "%s: %s\n", what, strerror(-rc));
    exit(1);
}

static void destroy_nothing(struct eb_session *session)
{
}

static const struct eb_session_ops ops = {.destroy = destroy_nothing};

/* Topics "shop7.order1007.paid". */
static void make_topics(struct topics *topics, unsigned count)
{
    *topics = (struct topics){.count = count};
    topics->name = calloc(count, sizeof(*topics->name));
    topics->len = calloc(count, sizeof(*topics->len));
    if (topics->name == NULL || topics->len == NULL)
        check(-12, "topics");
    for (unsigned i = 0; i < count; i++)
        topics->len[i] = (size_t)snprintf(topics->name[i], sizeof(topics->name[i]),
                                          "shop%u.order%u.paid", i % 1000, i);
}

/* Every other one is a topic as it stands; of the rest most have one wildcard behind, some many, a few in front. */
static size_t pattern_text(char *out, size_t size, unsigned i)
{
    if (i % 2 == 0)
        return (size_t)snprintf(out, size, "shop%u.order%u.paid", i % 1000, i);
    if (i % 2000 == 1)
        return (size_t)snprintf(out, size, "#.order%u.#", i);
    if (i % 2000 == 3)
        return (size_t)snprintf(out, size, "*.order%u.*", i);
    if (i % 200 == 5)
        return (size_t)snprintf(out, size, "shop%u.*.paid%u", i % 1000, i);
    return (size_t)snprintf(out, size, i % 4 == 1 ? "shop%u.order%u.*" : "shop%u.order%u.#",
                            i % 1000, i);
}

static void subscribe_all(struct eb_bus *bus, struct eb_session *session, unsigned count,
                          struct eb_sub **subs)
{
    for (unsigned i = 0; i < count; i++) {
        char text[64];
        struct eb_pattern pattern;
        struct eb_error err;
        check(eb_pattern_parse(&pattern, text, pattern_text(text, sizeof(text), i), &err), text);
        subs[i] = eb_sub_create(session, &pattern, 1);
        check(subs[i] != NULL ? eb_table_add(bus->table, subs[i]) : -12, "subscribe");
    }
}

/* Nanoseconds for one topic in both shards it may concern, as the dispatcher asks. */
static double ask(struct eb_bus *bus, const struct topics *topics, unsigned count, unsigned passes,
                  uint64_t *found)
{
    int64_t start = eb_mono_us();

    for (unsigned pass = 0; pass < passes; pass++)
        for (unsigned i = 0; i < count; i++)
            for (int wild = 0; wild < 2; wild++) {
                struct eb_match *match = NULL;
                check(eb_table_match(bus->table, wild, topics->name[i], topics->len[i], &match),
                      "match");
                *found += match != NULL ? match->count : 0;
                eb_match_unref(match);
            }
    return (double)(eb_mono_us() - start) * 1e3 / ((double)count * passes);
}

static void measure(const struct topics *topics, unsigned count)
{
    struct eb_store_config config = {
        .memory_bytes = 1 << 20, .dedupe_max = 1000, .acked_retention_ms = -1};
    struct eb_bus_config bus_config = {.queue_events = 1024, .queue_bytes = 1 << 20};
    struct eb_store *store;
    struct eb_bus *bus;
    struct eb_session *session;
    struct eb_error err;
    uint64_t found = 0, again = 0;
    struct eb_sub **subs = calloc(count, sizeof(struct eb_sub *));

    check(subs != NULL ? eb_store_open(&config, &store, &err) : -12, "store");
    check(eb_bus_create(&bus_config, store, &bus), "bus");
    check(eb_session_create(bus, &ops, NULL, false, &session), "session");
    subscribe_all(bus, session, count, subs);
    double first = ask(bus, topics, topics->count, 1, &found);
    ask(bus, topics, HOT, 1, &again);
    double cached = ask(bus, topics, HOT, HOT_PASS, &again);
    printf("{\"mode\":\"match\",\"subscriptions\":%u,\"topics\":%u,\"matches\":%llu,\"uncached_"
           "ns\":%.0f,"
           "\"cached_ns\":%.0f}\n",
           count, topics->count, (unsigned long long)found, first, cached);
    fflush(stdout);
    for (unsigned i = 0; i < count; i++) {
        eb_table_remove(bus->table, subs[i]);
        eb_sub_unref(subs[i]);
    }
    free(subs);
    eb_session_close(session);
    eb_session_unref(session);
    eb_bus_stop(bus);
    eb_store_close(store);
    eb_bus_destroy(bus);
}

int main(int argc, char **argv)
{
    unsigned count = argc > 1 ? (unsigned)strtoul(argv[1], NULL, 10) : 0;
    struct topics topics;

    if (argc > 2 || (argc == 2 && count < FEW)) {
        fprintf(stderr, "usage: bench_match [SUBSCRIPTIONS]      at least %u\n", FEW);
        return 2;
    }
    make_topics(&topics, TOPICS);
    measure(&topics, count != 0 ? count : FEW);
    if (count == 0)
        measure(&topics, MANY);
    free(topics.name);
    free(topics.len);
    return 0;
}
