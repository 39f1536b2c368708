/* test_engine_sqlite.c - the log in a file: what goes in, what is read, what survives. */
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "broker/store/sqlite_internal.h"
#include "sqlite_fixture.h"

static int setup(void **state)
{
    struct log_fixture *fx = malloc(sizeof(*fx));

    fx_init(fx);
    *state = fx;
    return 0;
}

static int teardown(void **state)
{
    fx_finish(*state);
    free(*state);
    return 0;
}

/* An event comes back as it went in, with all its fields, by seq and by page. */
static void append_gives_back_every_field(void **state)
{
    struct log_fixture *fx = *state;
    struct eb_draft draft = {
        .topic = "user.created",
        .topic_len = 12,
        .payload = "a\0b\xff",
        .payload_len = 4,
        .content_type = "application/json",
        .content_type_len = 16,
        .headers = "{\"a\":\"b\"}",
        .headers_len = 9,
        .ttl = 3600,
        .has_id = true,
        .id = {1, 2, 3},
    };
    struct eb_event *event, *back;

    fx_open(fx);
    event = eb_event_create(&draft);
    event->seq = 1;
    event->timestamp = fx->now;
    fx_begin(fx);
    assert_int_equal(fx->engine->ops->append(fx->engine, &event, 1), 0);
    assert_int_equal(fx->engine->ops->lookup(fx->engine, 1, &back), 0);
    eb_event_unref(back);
    fx_commit(fx);
    assert_int_equal(fx->engine->ops->event(fx->engine, fx->reader, 1, &back), 0);
    assert_int_equal(back->seq, 1);
    assert_int_equal(back->timestamp, fx->now);
    assert_int_equal(back->ttl, 3600);
    assert_memory_equal(back->id, event->id, 16);
    assert_string_equal(back->topic, "user.created");
    assert_string_equal(back->content_type, "application/json");
    assert_string_equal(back->headers, "{\"a\":\"b\"}");
    assert_int_equal(back->payload_len, 4);
    assert_memory_equal(back->payload, "a\0b\xff", 4);
    assert_false(back->payload_utf8);
    eb_event_unref(back);
    eb_event_unref(event);
    assert_int_equal(fx->engine->ops->event(fx->engine, fx->reader, 2, &back), -ENOENT);
}

/* A killed process loses nothing that was committed, and keeps nothing that was not. */
static void open_after_crash_has_what_was_committed(void **state)
{
    struct log_fixture *fx = *state;
    char text[256], epoch[37];
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        fx_open(fx);
        fx_publish(fx, "a", "one", 0);
        fx_publish(fx, "b", "two", 0);
        fx_begin(fx);
        fx_append(fx, "c", "three", 0);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    fx_open(fx);
    assert_int_equal(fx->start.last_seq, 2);
    fx_replay(fx, "#", 1, true, text, sizeof(text));
    assert_string_equal(text, "1 2 ");
    assert_int_equal(fx_figures(fx).events, 2);
    memcpy(epoch, fx->start.epoch, sizeof(epoch));
    fx_close(fx);
    fx_open(fx);
    assert_string_equal(epoch, fx->start.epoch);
    assert_int_equal(strlen(epoch), 36);
}

/* The last seq outlives its event: after its deletion and a crash the next one is above it. */
static void last_seq_outlives_its_event(void **state)
{
    struct log_fixture *fx = *state;
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        fx_open(fx);
        for (int i = 0; i < 5; i++)
            fx_publish(fx, "a", "x", i == 4 ? 1 : 0);
        fx->now += 2000;
        fx_trim(fx, (struct eb_trim_request){.acked_ms = -1});
        _exit(fx_figures(fx).events == 4 ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    fx_open(fx);
    assert_int_equal(fx->start.last_seq, 5);
    assert_int_equal(fx_figures(fx).events, 4);
}

/* A rolled back transaction leaves nothing: rows, topics, figures; its seqs can be given again. */
static void rollback_takes_all_back(void **state)
{
    struct log_fixture *fx = *state;
    struct eb_engine_figures before, after;
    char text[256];

    fx_open(fx);
    fx_publish(fx, "a", "one", 0);
    before = fx_figures(fx);
    fx_begin(fx);
    fx_append(fx, "new.topic", "two", 5);
    assert_int_equal(fx->engine->ops->ack(fx->engine, 1, fx->now), 0);
    fx->engine->ops->rollback(fx->engine);
    fx->next_seq = 2;
    after = fx_figures(fx);
    assert_memory_equal(&before, &after, sizeof(before));
    fx_publish(fx, "other.topic", "two", 0);
    fx_replay(fx, "other.*", 1, true, text, sizeof(text));
    assert_string_equal(text, "2 ");
    fx_replay(fx, "new.*", 1, true, text, sizeof(text));
    assert_string_equal(text, "");
    assert_int_equal(fx_figures(fx).topics, 2);
}

/* The end of the deleted prefix makes a gap, unless what there is was asked for; deletion alone makes none. */
static void retention_makes_a_gap_and_ttl_none(void **state)
{
    struct log_fixture *fx = *state;
    char text[256];

    fx_open(fx);
    for (int i = 1; i <= 10; i++)
        fx_publish(fx, "a", "x", i == 7 ? 1 : 0);
    fx_trim(fx, (struct eb_trim_request){.acked_ms = -1, .max_events = 6});
    fx_replay(fx, "a", 2, false, text, sizeof(text));
    assert_string_equal(text, "gap(2-4 retention) 5 6 7 8 9 10 ");
    fx_replay(fx, "a", 1, true, text, sizeof(text));
    assert_string_equal(text, "5 6 7 8 9 10 ");
    assert_int_equal(fx_figures(fx).deleted_upto, 4);
    assert_int_equal(fx_figures(fx).first_seq, 5);
    fx->now += 2000;
    fx_trim(fx, (struct eb_trim_request){.acked_ms = -1});
    fx_replay(fx, "a", 5, false, text, sizeof(text));
    assert_string_equal(text, "5 6 8 9 10 ");
    fx_close(fx);
    fx_open(fx);
    fx_replay(fx, "a", 4, false, text, sizeof(text));
    assert_string_equal(text, "gap(4-4 retention) 5 6 8 9 10 ");
    assert_int_equal(fx_figures(fx).events, 5);
    assert_int_equal(fx_figures(fx).deleted_upto, 4);
}

/* The gap of a page never reaches beyond what was asked for. */
static void retention_gap_ends_at_upto(void **state)
{
    struct log_fixture *fx = *state;

    fx_open(fx);
    for (int i = 1; i <= 10; i++)
        fx_publish(fx, "a", "x", 0);
    fx_trim(fx, (struct eb_trim_request){.acked_ms = -1, .max_events = 2});
    struct eb_selection *selection = fx_select("a");
    struct eb_page page = fx_page(
        fx, selection,
        &(struct eb_page_request){.from = 3, .upto = 5, .max_events = 9, .max_bytes = 9999});
    assert_int_equal(page.count, 1);
    assert_int_equal(page.items[0].to_seq, 5);
    assert_int_equal(page.next, 6);
    eb_page_finish(&page);
    eb_selection_destroy(selection);
}

/* Expired events are not read although no janitor has run. */
static void expired_is_never_given(void **state)
{
    struct log_fixture *fx = *state;
    struct eb_event *event;
    char text[256];

    fx_open(fx);
    fx->now -= 5000;
    fx_publish(fx, "a", "x", 1);
    fx_publish(fx, "a", "x", 3600);
    fx_replay(fx, "a", 1, false, text, sizeof(text));
    assert_string_equal(text, "2 ");
    assert_int_equal(fx->engine->ops->event(fx->engine, fx->reader, 1, &event), -ENOENT);
    assert_int_equal(fx->engine->ops->lookup(fx->engine, 1, &event), 0); /* the writer sees it */
    eb_event_unref(event);
}

/* An acknowledged event is passed over by pending_only, deleted by acked_retention, and counted. */
static void acked_is_passed_over_and_deleted(void **state)
{
    struct log_fixture *fx = *state;
    char text[256];

    fx_open(fx);
    for (int i = 1; i <= 4; i++)
        fx_publish(fx, "a", "x", 0);
    fx_begin(fx);
    assert_int_equal(fx->engine->ops->ack(fx->engine, 2, fx->now), 0);
    assert_int_equal(fx->engine->ops->ack(fx->engine, 2, fx->now), 0);
    assert_int_equal(fx->engine->ops->ack(fx->engine, 4, fx->now + 5000), 0);
    fx_commit(fx);
    assert_int_equal(fx_figures(fx).acked, 2);
    struct eb_selection *selection = fx_select("#");
    struct eb_page page = fx_page(
        fx, selection,
        &(struct eb_page_request){
            .from = 1, .upto = 4, .pending_only = true, .max_events = 9, .max_bytes = 9999});
    assert_int_equal(page.count, 2);
    assert_int_equal(page.items[1].event->seq, 3);
    eb_page_finish(&page);
    eb_selection_destroy(selection);
    fx->now += 2000;
    assert_int_equal(fx_trim(fx, (struct eb_trim_request){.acked_ms = 1000}).acked_out, 1);
    fx_replay(fx, "a", 1, false, text, sizeof(text));
    assert_string_equal(text, "1 3 4 ");
    assert_int_equal(fx_figures(fx).acked, 1);
    fx->now += 4000;
    assert_int_equal(fx_trim(fx, (struct eb_trim_request){.acked_ms = 1000}).acked_out, 1);
    fx_close(fx);
    fx_open(fx);
    assert_int_equal(fx_figures(fx).acked, 0);
    assert_int_equal(fx_figures(fx).events, 2);
    assert_int_equal(fx->start.last_seq, 4);
}

static void count_id(void *ctx, const uint8_t id[16], uint64_t seq, int64_t timestamp)
{
    uint64_t *last = ctx;

    assert_true(seq > last[1]);
    last[0]++;
    last[1] = seq;
}

static unsigned ids_since(struct log_fixture *fx, int64_t since)
{
    uint64_t ids[2] = {0, 0};

    const struct eb_engine_ids tell = {.ctx = ids, .id = count_id};
    assert_int_equal(fx->engine->ops->load_ids(fx->engine, since, 1000000, &tell), 0);
    return (unsigned)ids[0];
}

/* What is held stays, whatever retention says, but for its ttl; it goes as soon as it is held no longer. */
static void held_events_stay(void **state)
{
    struct log_fixture *fx = *state;
    struct eb_trim_request request = {.acked_ms = -1, .max_events = 2, .hold_from = 5};

    fx_open(fx);
    for (int i = 1; i <= 10; i++)
        fx_publish(fx, "a", "x", i == 7 ? 1 : 0);
    fx_trim(fx, request);
    assert_int_equal(fx_figures(fx).deleted_upto, 4);
    assert_int_equal(fx_figures(fx).events, 6);
    request = (struct eb_trim_request){.acked_ms = -1, .max_bytes = 1, .age_ms = 1, .hold_from = 6};
    fx->now += 2000; /* the ttl of event 7 ends */
    fx_trim(fx, request);
    assert_int_equal(fx_figures(fx).deleted_upto, 5);
    assert_int_equal(fx_figures(fx).events, 4);
    request.hold_from = 0;
    fx_trim(fx, request);
    assert_int_equal(fx_figures(fx).events, 0);
}

/* The same with what is acknowledged: what becomes free is found again without a look at what stays. */
static void held_acknowledged_events_stay(void **state)
{
    struct log_fixture *fx = *state;
    struct eb_trim_request request = {.acked_ms = 100, .hold_from = 5};

    fx_open(fx);
    for (int i = 1; i <= 10; i++)
        fx_publish(fx, "a", "x", 0);
    fx_begin(fx);
    for (uint64_t seq = 1; seq <= 10; seq++)
        assert_int_equal(fx->engine->ops->ack(fx->engine, seq, fx->now), 0);
    fx_commit(fx);
    fx->now += 200;
    assert_false(fx_trim(fx, request).more);
    assert_int_equal(fx_figures(fx).events, 6);
    assert_false(fx_trim(fx, request).more); /* there is nothing to be done over and over */
    request.hold_from = 8;
    fx_trim(fx, request);
    assert_int_equal(fx_figures(fx).events, 3);
    request.hold_from = 6; /* another one came that wants more */
    fx_trim(fx, request);
    request.hold_from = 9;
    fx_trim(fx, request);
    assert_int_equal(fx_figures(fx).events, 2);
    request.hold_from = 0;
    fx_trim(fx, request);
    assert_int_equal(fx_figures(fx).events, 0);
}

/* The id of a deleted event is remembered for as long as dedupe_window says, then forgotten. */
static void deleted_id_stays_for_the_window(void **state)
{
    struct log_fixture *fx = *state;
    struct eb_trim_request request = {.acked_ms = -1, .max_events = 3, .dedupe_window_ms = 10000};

    fx_open(fx);
    for (int i = 1; i <= 6; i++)
        fx_publish(fx, "a", "x", i == 4 ? 1 : 0);
    fx->now += 2000;
    fx_trim(fx, request);
    assert_int_equal(fx_figures(fx).events, 3);
    assert_int_equal(ids_since(fx, fx->now - 10000), 6);
    fx_close(fx);
    fx_open(fx);
    assert_int_equal(ids_since(fx, fx->now - 10000), 6);
    fx->now += 10000;
    fx_trim(fx, request);
    assert_int_equal(ids_since(fx, 0), 3);
}

/* A row whose bytes changed is a gap, counted once, and nothing else is lost. */
static void damaged_row_is_a_gap(void **state)
{
    struct log_fixture *fx = *state;
    struct eb_event *event;
    char text[256];

    fx_open(fx);
    for (int i = 1; i <= 5; i++)
        fx_publish(fx, i % 2 ? "odd" : "even", "payload", 0);
    fx_sql(fx, "UPDATE log SET payload = x'00' WHERE seq = 3;"
               "UPDATE log SET topic = 77 WHERE seq = 4");
    for (int i = 0; i < 2; i++) {
        fx_replay(fx, "#", 1, true, text, sizeof(text));
        assert_string_equal(text, "1 2 gap(3-4 damaged) 5 ");
    }
    assert_int_equal(atomic_load(&fx->counters.damaged), 2);
    assert_int_equal(fx->engine->ops->event(fx->engine, fx->reader, 3, &event), -EBADMSG);
    assert_int_equal(fx->engine->ops->lookup(fx->engine, 3, &event), -EBADMSG);
    fx_replay(fx, "odd", 1, true, text, sizeof(text));
    assert_string_equal(text, "1 gap(3-4 damaged) 5 ");
    fx_sql(fx, "UPDATE log SET id = 'text' WHERE seq = 1");
    fx_replay(fx, "odd", 1, true, text, sizeof(text));
    assert_string_equal(text, "gap(1-1 damaged) gap(3-4 damaged) 5 ");
}

/* A page is bounded by events and bytes, and gives at least one event. */
static void page_is_bounded(void **state)
{
    struct log_fixture *fx = *state;
    struct eb_selection *selection = fx_select("#");
    struct eb_page page;

    fx_open(fx);
    for (int i = 1; i <= 5; i++)
        fx_publish(fx, "a", "0123456789", 0);
    page = fx_page(
        fx, selection,
        &(struct eb_page_request){.from = 1, .upto = 5, .max_events = 2, .max_bytes = 9999});
    assert_int_equal(page.count, 2);
    assert_int_equal(page.next, 3);
    eb_page_finish(&page);
    page =
        fx_page(fx, selection,
                &(struct eb_page_request){.from = 3, .upto = 5, .max_events = 5, .max_bytes = 1});
    assert_int_equal(page.count, 1);
    assert_int_equal(page.next, 4);
    eb_page_finish(&page);
    eb_selection_destroy(selection);
}

/* Reserved topics are reached only by naming them, by the scan and by the lists. */
static void reserved_topics_are_named(void **state)
{
    struct log_fixture *fx = *state;
    char text[256];

    fx_open(fx);
    fx_publish(fx, "$dead.x", "1", 0);
    fx_publish(fx, "_reply.x", "2", 0);
    fx_publish(fx, "a.x", "3", 0);
    fx_publish(fx, "a", "4", 0);
    fx_replay(fx, "#", 1, true, text, sizeof(text));
    assert_string_equal(text, "3 4 ");
    fx_replay(fx, "*.x", 1, true, text, sizeof(text));
    assert_string_equal(text, "3 ");
    fx_replay(fx, "$dead.#", 1, true, text, sizeof(text));
    assert_string_equal(text, "1 ");
    fx_replay(fx, "a.#", 1, true, text, sizeof(text));
    assert_string_equal(text, "3 4 ");
}

/* The sqlite3 shell reads `messages` and `processed_messages`, beside a running broker. */
static void shell_reads_the_views(void **state)
{
    struct log_fixture *fx = *state;
    char command[512], text[1024], wanted[512], id[37];
    struct eb_event *event;

    fx_open(fx);
    fx_publish(fx, "user.created", "{\"a\":1}", 60);
    fx_begin(fx);
    assert_int_equal(fx->engine->ops->ack(fx->engine, 1, fx->now), 0);
    fx_commit(fx);
    assert_int_equal(fx->engine->ops->event(fx->engine, fx->reader, 1, &event), 0);
    eb_uuid_format(id, event->id);
    eb_event_unref(event);
    snprintf(command, sizeof(command),
             "sqlite3 -readonly %s 'SELECT * FROM messages; SELECT * FROM processed_messages'",
             fx->path);
    fx_shell(command, text, sizeof(text));
    snprintf(wanted, sizeof(wanted),
             "1|user.created|{\"a\":1}|{\"timestamp\":%lld,\"content_type\":\"text/plain\","
             "\"message_id\":\"%s\"}|60|processed\n%s",
             (long long)fx->now, id, id);
    assert_string_equal(text, wanted);
    snprintf(command, sizeof(command),
             "sqlite3 %s 'SELECT name FROM pragma_table_info(\"messages\")' | tr '\\n' ' '",
             fx->path);
    fx_shell(command, text, sizeof(text));
    assert_string_equal(text, "seq topic payload metadata ttl status ");
}

/* A second broker on the same log is told who has it, also through a link; afterwards it gets it. */
static void second_broker_is_refused(void **state)
{
    struct log_fixture *fx = *state;
    struct log_fixture other;
    char link[128];

    fx_init(&other);
    fx_open(fx);
    snprintf(link, sizeof(link), "%s/link.db", other.folder);
    assert_int_equal(symlink(fx->path, link), 0);
    other.config.path = link;
    assert_int_equal(fx_try_open(&other), -EBUSY);
    assert_non_null(strstr(other.err.message, "in use by another broker (process "));
    fx_close(fx);
    fx_open(&other);
    fx_finish(&other);
}

/* A full disk refuses the row, takes nothing apart, and goes on when there is room. */
static void enospc_leaves_no_gap(void **state)
{
    struct log_fixture *fx = *state;
    char *big = malloc(100001);
    struct eb_event *event;
    char text[256];
    int rc;

    memset(big, 'x', 100000);
    big[100000] = '\0';
    fx_open(fx);
    fx_publish(fx, "a", "one", 0);
    assert_int_equal(eb_sql_exec(eb_sqlite_of(fx->engine)->db, "PRAGMA max_page_count = 20"), 0);
    fx_begin(fx);
    event = fx_event(fx, "a", big, 0);
    rc = fx->engine->ops->append(fx->engine, &event, 1);
    eb_event_unref(event);
    if (rc == 0)
        rc = fx->engine->ops->commit(fx->engine);
    assert_int_equal(rc, -ENOSPC);
    assert_non_null(strstr(fx->engine->ops->trouble(fx->engine), "full"));
    fx->engine->ops->rollback(fx->engine);
    fx->next_seq = 2;
    assert_int_equal(
        eb_sql_exec(eb_sqlite_of(fx->engine)->db, "PRAGMA max_page_count = 1073741823"), 0);
    assert_int_equal(fx->engine->ops->probe(fx->engine), 0);
    fx_publish(fx, "b", big, 0);
    fx_replay(fx, "#", 1, true, text, sizeof(text));
    assert_string_equal(text, "1 2 ");
    free(big);
}

/* --new-epoch makes one; so does a restart of the machine after an unclean end under durability = os. */
static void epoch_changes_when_history_may_be_lost(void **state)
{
    struct log_fixture *fx = *state;
    char epoch[37];

    fx_open(fx);
    memcpy(epoch, fx->start.epoch, sizeof(epoch));
    fx_close(fx);
    fx->config.new_epoch = true;
    fx_open(fx);
    assert_string_not_equal(epoch, fx->start.epoch);
    memcpy(epoch, fx->start.epoch, sizeof(epoch));
    fx_close(fx);
    fx->config.new_epoch = false;
    /* unclean under fsync, machine restarted: nothing is lost */
    fx_sql(fx, "UPDATE meta SET value = 0 WHERE key = 'clean';"
               "UPDATE meta SET value = 'other' WHERE key = 'boot_id'");
    fx_open(fx);
    assert_string_equal(epoch, fx->start.epoch);
    fx_close(fx);
    /* unclean under os, the same machine's run: the kernel had it all */
    fx_sql(fx, "UPDATE meta SET value = 0 WHERE key = 'clean';"
               "UPDATE meta SET value = 'os' WHERE key = 'durability'");
    fx_open(fx);
    assert_string_equal(epoch, fx->start.epoch);
    fx_close(fx);
    fx_sql(fx, "UPDATE meta SET value = 0 WHERE key = 'clean';"
               "UPDATE meta SET value = 'os' WHERE key = 'durability';"
               "UPDATE meta SET value = 'other' WHERE key = 'boot_id'");
    fx_open(fx);
    assert_string_not_equal(epoch, fx->start.epoch);
}

/* Topics come in byte order, a page at a time. */
static void topics_are_paged(void **state)
{
    struct log_fixture *fx = *state;
    struct eb_topic_info out[2];

    fx_open(fx);
    fx_publish(fx, "b", "", 0);
    fx_publish(fx, "a", "", 0);
    fx_publish(fx, "c", "", 0);
    assert_int_equal(fx->engine->ops->topics(fx->engine, fx->reader, NULL, out, 2), 2);
    assert_string_equal(out[0].name, "a");
    assert_int_equal(fx->engine->ops->topics(fx->engine, fx->reader, "b", out, 2), 1);
    assert_string_equal(out[0].name, "c");
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(append_gives_back_every_field),
        T(open_after_crash_has_what_was_committed),
        T(last_seq_outlives_its_event),
        T(rollback_takes_all_back),
        T(retention_makes_a_gap_and_ttl_none),
        T(retention_gap_ends_at_upto),
        T(expired_is_never_given),
        T(acked_is_passed_over_and_deleted),
        T(held_events_stay),
        T(held_acknowledged_events_stay),
        T(deleted_id_stays_for_the_window),
        T(damaged_row_is_a_gap),
        T(page_is_bounded),
        T(reserved_topics_are_named),
        T(shell_reads_the_views),
        T(second_broker_is_refused),
        T(enospc_leaves_no_gap),
        T(epoch_changes_when_history_may_be_lost),
        T(topics_are_paged),
    };

    return cmocka_run_group_tests_name("engine_sqlite", tests, NULL, NULL);
}
