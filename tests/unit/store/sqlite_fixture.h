/*
 * sqlite_fixture.h - a log in a folder of its own, driven through its engine operations: no threads, and time
 * is an argument.
 */
#pragma once

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <sqlite3.h>

#include "broker/store/engine.h"
#include "broker/store/row.h"
#include "broker/store/schema.h"
#include "broker/store/segments.h"
#include "common/clock.h"
#include "common/uuid.h"

struct log_fixture {
    char folder[64], path[96];
    struct eb_store_config config;
    struct eb_engine_counters counters;
    struct eb_engine *engine;
    struct eb_engine_start start;
    struct eb_error err;
    void *reader;
    uint64_t next_seq;
    int64_t now;
};

static inline void fx_init(struct log_fixture *fx)
{
    memset(fx, 0, sizeof(*fx));
    strcpy(fx->folder, "/tmp/eb-log-XXXXXX");
    assert_non_null(mkdtemp(fx->folder));
    snprintf(fx->path, sizeof(fx->path), "%s/eventbus.db", fx->folder);
    fx->config.path = fx->path;
    fx->config.durability = EB_DURABILITY_FSYNC;
    fx->now = eb_wall_ms();
}

static inline int fx_try_open(struct log_fixture *fx)
{
    int rc = eb_engine_sqlite_open(&fx->config, &fx->counters, &fx->engine, &fx->start, &fx->err);

    if (rc == 0) {
        fx->next_seq = fx->start.last_seq + 1;
        assert_int_equal(fx->engine->ops->reader_create(fx->engine, &fx->reader), 0);
    }
    return rc;
}

static inline void fx_open(struct log_fixture *fx)
{
    int rc = fx_try_open(fx);

    if (rc < 0)
        fail_msg("open: %d %s", rc, fx->err.message);
}

static inline void fx_close(struct log_fixture *fx)
{
    if (!fx->engine)
        return;
    fx->engine->ops->reader_destroy(fx->engine, fx->reader);
    fx->engine->ops->close(fx->engine, true, fx->now);
    fx->engine = NULL;
    fx->reader = NULL;
}

static inline void fx_finish(struct log_fixture *fx)
{
    char command[128];

    fx_close(fx);
    snprintf(command, sizeof(command), "rm -rf %s", fx->folder);
    assert_int_equal(system(command), 0);
}

static inline struct eb_event *fx_event(struct log_fixture *fx, const char *topic,
                                        const char *payload, int64_t ttl)
{
    struct eb_draft draft = {
        .topic = topic,
        .topic_len = strlen(topic),
        .payload = payload,
        .payload_len = strlen(payload),
        .ttl = ttl,
        .has_id = true,
    };
    struct eb_event *event;

    eb_uuid_v7(draft.id);
    event = eb_event_create(&draft);
    assert_non_null(event);
    event->seq = fx->next_seq++;
    event->timestamp = fx->now;
    return event;
}

static inline void fx_begin(struct log_fixture *fx)
{
    assert_int_equal(fx->engine->ops->begin(fx->engine), 0);
}

static inline void fx_commit(struct log_fixture *fx)
{
    int rc = fx->engine->ops->commit(fx->engine);

    if (rc < 0)
        fail_msg("commit: %d %s", rc, fx->engine->ops->trouble(fx->engine));
}

/* Inside a transaction. Returns its seq. */
static inline uint64_t fx_append(struct log_fixture *fx, const char *topic, const char *payload,
                                 int64_t ttl)
{
    struct eb_event *event = fx_event(fx, topic, payload, ttl);
    uint64_t seq = event->seq;
    int rc = fx->engine->ops->append(fx->engine, &event, 1);

    if (rc < 0)
        fail_msg("append: %d %s", rc, fx->engine->ops->trouble(fx->engine));
    eb_event_unref(event);
    return seq;
}

static inline uint64_t fx_publish(struct log_fixture *fx, const char *topic, const char *payload,
                                  int64_t ttl)
{
    fx_begin(fx);
    uint64_t seq = fx_append(fx, topic, payload, ttl);
    fx_commit(fx);
    return seq;
}

static inline struct eb_selection *fx_select(const char *pattern)
{
    struct eb_selection *selection;
    struct eb_pattern parsed;
    struct eb_error err;

    assert_int_equal(eb_pattern_parse(&parsed, pattern, strlen(pattern), &err), 0);
    assert_int_equal(eb_selection_create(&parsed, 1, &selection), 0);
    return selection;
}

static inline struct eb_page fx_page(struct log_fixture *fx, struct eb_selection *selection,
                                     const struct eb_page_request *request)
{
    struct eb_page page = {0};

    assert_int_equal(fx->engine->ops->page(fx->engine, fx->reader, selection, request, &page), 0);
    return page;
}

/* All pages of @pattern from @from on as text: "1 2 gap(3-4 damaged) 5 ". */
static inline void fx_replay(struct log_fixture *fx, const char *pattern, uint64_t from,
                             bool all_there_is, char *out, size_t size)
{
    struct eb_selection *selection = fx_select(pattern);
    struct eb_page_request request = {
        .from = from,
        .upto = fx->next_seq - 1,
        .all_there_is = all_there_is,
        .max_events = 100,
        .max_bytes = 1 << 20,
    };
    size_t len = 0;

    out[0] = '\0';
    while (request.from <= request.upto) {
        struct eb_page page = fx_page(fx, selection, &request);
        for (size_t i = 0; i < page.count; i++) {
            const struct eb_page_item *item = &page.items[i];
            if (item->event)
                len += (size_t)snprintf(out + len, size - len, "%llu ",
                                        (unsigned long long)item->event->seq);
            else
                len += (size_t)snprintf(
                    out + len, size - len, "gap(%llu-%llu %s) ", (unsigned long long)item->from_seq,
                    (unsigned long long)item->to_seq, eb_gap_reason_name(item->reason));
            assert_true(len < size);
        }
        assert_true(page.next >= request.from);
        request.from = page.next;
        eb_page_finish(&page);
    }
    eb_selection_destroy(selection);
}

/* Statements on the file by another connection, as the sqlite3 shell would. */
static inline void fx_sql(struct log_fixture *fx, const char *sql)
{
    sqlite3 *db;
    char *message = NULL;

    assert_int_equal(sqlite3_open(fx->path, &db), SQLITE_OK);
    if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK)
        fail_msg("%s: %s", sql, message);
    sqlite3_close(db);
}

/* Output of a shell command, trailing newline cut. */
static inline void fx_shell(const char *command, char *out, size_t size)
{
    FILE *pipe = popen(command, "r");
    size_t n;

    assert_non_null(pipe);
    n = fread(out, 1, size - 1, pipe);
    out[n] = '\0';
    if (n && out[n - 1] == '\n')
        out[n - 1] = '\0';
    pclose(pipe);
}

static inline struct eb_trim_result fx_trim(struct log_fixture *fx, struct eb_trim_request request)
{
    struct eb_trim_result result = {0};

    if (!request.max_rows)
        request.max_rows = 1000;
    request.now_ms = fx->now;
    fx_begin(fx);
    int rc = fx->engine->ops->trim(fx->engine, &request, &result);
    if (rc < 0)
        fail_msg("trim: %d %s", rc, fx->engine->ops->trouble(fx->engine));
    fx_commit(fx);
    return result;
}

static inline struct eb_engine_figures fx_figures(struct log_fixture *fx)
{
    struct eb_engine_figures figures;

    fx->engine->ops->figures(fx->engine, &figures);
    return figures;
}
