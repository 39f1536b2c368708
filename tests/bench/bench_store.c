/*
 * bench_store.c - how fast the SQLite engine takes rows: 128-byte events over 100 topics in groups of 1,024,
 * beside the bare SQLite insert of the same rows with the same settings in the same run, and how fast it gives
 * them back. Usage: bench_store [EVENTS [TOPICS [GROUP]]]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "broker/store/engine.h"
#include "broker/store/row.h"
#include "broker/store/schema.h"
#include "common/clock.h"
#include "common/uuid.h"

static unsigned events = 400000, topics = 100, group = 1024;
static char folder[64] = "/tmp/eb-bench-XXXXXX";

static void check(int rc, const char *what)
{
    if (rc == 0)
        return;
    fprintf(stderr, "%s: %s\n", what, strerror(rc < 0 ? -rc : rc));
    exit(1);
}

static struct eb_event **make_group(void)
{
    struct eb_event **made = calloc(group, sizeof(*made));
    char payload[128];

    memset(payload, 'x', sizeof(payload));
    for (unsigned i = 0; i < group; i++) {
        char topic[32];
        struct eb_draft draft = {
            .topic = topic,
            .topic_len = (size_t)snprintf(topic, sizeof(topic), "bench.%u", i * 7919 % topics),
            .payload = payload,
            .payload_len = sizeof(payload),
            .has_id = true};
        eb_uuid_v7(draft.id);
        made[i] = eb_event_create(&draft);
    }
    return made;
}

/* CPU of this process so far: what a busy machine does not change. */
static double cpu_us(void)
{
    struct timespec now;

    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static double rate(int64_t start_us)
{
    return (double)events / ((double)(eb_mono_us() - start_us) / 1e6);
}

static double bare(enum eb_durability durability, struct eb_event **made, double *ret_cpu)
{
    char path[128];
    struct eb_error err;
    struct eb_row row;
    sqlite3_stmt *insert;
    sqlite3 *db;

    snprintf(path, sizeof(path), "%s/bare-%d.db", folder, (int)durability);
    check(eb_db_open(path, NULL, EB_DB_CREATE, &db, &err), path);
    check(eb_schema_create(db), "schema");
    check(eb_db_journal(db, durability == EB_DURABILITY_FSYNC), "journal");
    check(eb_sql_exec(db, "PRAGMA cache_size = -16384"), "cache");
    check(eb_sql_prepare(db, EB_ROW_INSERT, &insert), "prepare");
    int64_t start = eb_mono_us();
    double cpu = cpu_us();
    for (unsigned seq = 1; seq <= events;) {
        check(eb_sql_exec(db, "BEGIN IMMEDIATE"), "begin");
        for (unsigned i = 0; i < group && seq <= events; i++, seq++) {
            made[i]->seq = seq;
            made[i]->timestamp = 1;
            eb_row_from_event(&row, made[i], 1);
            eb_row_bind(insert, &row);
            sqlite3_step(insert);
            sqlite3_reset(insert);
        }
        check(eb_sql_exec(db, "COMMIT"), "commit");
    }
    double result = rate(start);
    *ret_cpu = (cpu_us() - cpu) / events;
    sqlite3_finalize(insert);
    sqlite3_close(db);
    return result;
}

static double read_all(struct eb_engine *engine, const char *text)
{
    struct eb_selection *selection;
    struct eb_pattern pattern;
    struct eb_error err;
    struct eb_page_request request = {
        .from = 1, .upto = events, .max_events = 256, .max_bytes = 1 << 20};
    void *reader;
    unsigned found = 0;

    check(eb_pattern_parse(&pattern, text, strlen(text), &err), text);
    check(eb_selection_create(&pattern, 1, &selection), "selection");
    check(engine->ops->reader_create(engine, &reader), "reader");
    int64_t start = eb_mono_us();
    while (request.from <= events) {
        struct eb_page page = {0};
        check(engine->ops->page(engine, reader, selection, &request, &page), "page");
        found += (unsigned)page.count;
        request.from = page.next;
        eb_page_finish(&page);
    }
    double seconds = (double)(eb_mono_us() - start) / 1e6;
    engine->ops->reader_destroy(engine, reader);
    eb_selection_destroy(selection);
    return found / seconds;
}

static void measure(enum eb_durability durability, struct eb_event **made)
{
    struct eb_engine_counters counters = {0};
    struct eb_engine_start begin;
    struct eb_store_config config = {.durability = durability};
    struct eb_engine *engine;
    struct eb_error err;
    char path[128];

    double base_cpu, base = bare(durability, made, &base_cpu);
    snprintf(path, sizeof(path), "%s/engine-%d.db", folder, (int)durability);
    config.path = path;
    check(eb_engine_sqlite_open(&config, &counters, &engine, &begin, &err), path);
    int64_t start = eb_mono_us(), now = eb_wall_ms();
    double cpu = cpu_us();
    for (unsigned seq = 1; seq <= events;) {
        check(engine->ops->begin(engine), "begin");
        unsigned count = 0;
        for (; count < group && seq <= events; count++, seq++) {
            made[count]->seq = seq;
            made[count]->timestamp = now;
        }
        check(engine->ops->append(engine, made, count), "append");
        check(engine->ops->commit(engine), "commit");
    }
    double ours = rate(start), ours_cpu = (cpu_us() - cpu) / events;
    printf("%s: append %.0f/s, bare SQLite %.0f/s, ratio %.2f; CPU %.2f us an event, bare %.2f; "
           "%llu checkpoints; read '#' "
           "%.0f/s, one topic %.0f/s\n",
           durability == EB_DURABILITY_FSYNC ? "fsync" : "os", ours, base, ours / base, ours_cpu,
           base_cpu, (unsigned long long)counters.checkpoints, read_all(engine, "#"),
           read_all(engine, "bench.1"));
    engine->ops->close(engine, true, now);
}

int main(int argc, char **argv)
{
    char command[128];

    if (argc > 1)
        events = (unsigned)atoi(argv[1]);
    if (argc > 2)
        topics = (unsigned)atoi(argv[2]);
    if (argc > 3)
        group = (unsigned)atoi(argv[3]);
    if (!events || !topics || !group || !mkdtemp(folder))
        return 1;
    printf("%u events of 128 bytes, %u topics, groups of %u\n", events, topics, group);
    struct eb_event **made = make_group();
    measure(EB_DURABILITY_FSYNC, made);
    measure(EB_DURABILITY_OS, made);
    for (unsigned i = 0; i < group; i++)
        eb_event_unref(made[i]);
    free(made);
    snprintf(command, sizeof(command), "rm -rf %s", folder);
    return system(command) == 0 ? 0 : 1;
}
