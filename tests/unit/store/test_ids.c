/*
 * test_ids.c - the ids of the dedupe window from one run to the next: a snapshot saves the start its work, and is
 * believed only where the log itself would say the same.
 */
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include "broker/store/ops.h"
#include "common/clock.h"
#include "common/text.h"
#include "fixture.h"

#define EVENTS 9000u /* three pieces of a snapshot */

struct ids_fixture {
    char folder[64], path[96];
    struct eb_store_config config;
    struct eb_store *store;
};

static void open_log(struct ids_fixture *fx)
{
    struct eb_error err;
    fx->config.path = fx->path;
    if (eb_store_open(&fx->config, &fx->store, &err) < 0)
        fail_msg("%s", err.message);
}

static void close_log(struct ids_fixture *fx)
{
    eb_store_close(fx->store);
    fx->store = NULL;
}

static void nothing(struct eb_op *op)
{
}

/* The seq that answers a publish of id @n; @ret_duplicate: it was there. */
static uint64_t publish_id(struct ids_fixture *fx, unsigned n, bool *ret_duplicate)
{
    char topic[16];
    struct eb_draft draft = {.topic = topic, .payload = "x", .payload_len = 1, .has_id = true};
    struct eb_op_result result = {0};
    draft.topic_len = (size_t)snprintf(topic, sizeof topic, "t%u", n % 7);
    id_from(draft.id, n);
    struct eb_event *event = eb_event_create(&draft);
    struct eb_op op = {
        .kind = EB_OP_PUBLISH, .count = 1, .events = &event, .results = &result, .done = nothing};
    eb_store_submit(fx->store, &op, &op);
    eb_writer_drain(fx->store);
    assert_int_equal(op.err.code, EB_OK);
    eb_event_unref(event);
    *ret_duplicate = result.duplicate;
    return result.seq;
}

static void publish_new(struct ids_fixture *fx, unsigned from, unsigned upto)
{
    bool duplicate;
    for (unsigned n = from; n <= upto; n++) {
        assert_int_equal(publish_id(fx, n, &duplicate), n);
        assert_false(duplicate);
    }
}

/* Id n has seq n, for all of them: the first, the last, and every 97th. */
static void all_are_known(struct ids_fixture *fx, unsigned from, unsigned upto)
{
    bool duplicate;
    for (unsigned n = from; n <= upto; n = n < upto && n + 97 > upto ? upto : n + 97) {
        assert_int_equal(publish_id(fx, n, &duplicate), n);
        assert_true(duplicate);
    }
}

static int64_t ask(struct ids_fixture *fx, const char *sql)
{
    sqlite3 *db;
    sqlite3_stmt *stmt;
    int64_t value = -1;
    assert_int_equal(sqlite3_open(fx->path, &db), SQLITE_OK);
    if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) != SQLITE_OK)
        fail_msg("%s: %s", sql, sqlite3_errmsg(db));
    if (sqlite3_step(stmt) == SQLITE_ROW)
        value = sqlite3_column_int64(stmt, 0);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
    return value;
}

static bool has_snapshot(struct ids_fixture *fx)
{
    return ask(fx, "SELECT count(*) FROM meta WHERE key = 'saved'") == 1;
}

static void janitor(struct ids_fixture *fx)
{
    for (bool more = true; more;) {
        eb_lock_take(&fx->store->commit_lock);
        eb_janitor_step_locked(fx->store, &more);
        eb_lock_drop(&fx->store->commit_lock);
    }
}

static int setup(void **state)
{
    struct ids_fixture *fx = calloc(1, sizeof *fx);
    snprintf(fx->folder, sizeof fx->folder, "/dev/shm/eb-ids-XXXXXX");
    assert_non_null(mkdtemp(fx->folder));
    snprintf(fx->path, sizeof fx->path, "%s/log.db", fx->folder);
    fx->config = (struct eb_store_config){.durability = EB_DURABILITY_OS,
                                          .dedupe_window_ms = 600000,
                                          .dedupe_max = 1000000,
                                          .acked_retention_ms = -1};
    *state = fx;
    return 0;
}

static int teardown(void **state)
{
    struct ids_fixture *fx = *state;
    char command[96];
    eb_store_close(fx->store);
    snprintf(command, sizeof command, "rm -rf %s", fx->folder);
    assert_int_equal(system(command), 0);
    free(fx);
    return 0;
}

/* After an orderly end every id and every figure is what it was, and the snapshot no longer counts. */
static void clean_stop_keeps_all(void **state)
{
    struct ids_fixture *fx = *state;
    struct eb_store_info before, after;
    open_log(fx);
    publish_new(fx, 1, EVENTS);
    eb_store_info(fx->store, &before);
    close_log(fx);
    assert_true(has_snapshot(fx));
    /* The log itself is not asked: an id that only the snapshot has is known. */
    ask(fx, "DELETE FROM log WHERE seq = 4000");
    open_log(fx);
    assert_false(has_snapshot(fx));
    eb_store_info(fx->store, &after);
    assert_int_equal(after.dedupe_ids, EVENTS);
    assert_int_equal(after.events, before.events);
    assert_int_equal(after.bytes, before.bytes);
    assert_int_equal(after.topics, before.topics);
    all_are_known(fx, 1, EVENTS);
    all_are_known(fx, 4000, 4000);
    janitor(fx); /* its pieces stay for as long as their ids are inside the window, and then go */
    all_are_known(fx, 1, EVENTS);
    fx->config.dedupe_window_ms = 0;
    eb_store_reconfigure(fx->store, &fx->config);
    usleep(2000);
    janitor(fx);
    assert_int_equal(ask(fx, "SELECT count(*) FROM ids"), 0);
}

/* Killed right after a start with a snapshot, and after publishes of that run: nothing of it is forgotten. */
static void killed_after_the_start(void **state)
{
    struct ids_fixture *fx = *state;
    int status;
    open_log(fx);
    publish_new(fx, 1, EVENTS);
    close_log(fx);
    for (unsigned more = 0; more <= 10; more += 10) {
        pid_t child = fork();
        if (child == 0) {
            open_log(fx);
            if (more)
                publish_new(fx, EVENTS + 1, EVENTS + more);
            _exit(0);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
        assert_false(has_snapshot(fx));
        open_log(fx);
        all_are_known(fx, 1, EVENTS + more);
        close_log(fx);
        assert_true(has_snapshot(fx));
    }
}

/* A snapshot that is damaged, of another epoch, or of a log that went on: the log is read instead. */
static void not_believed(void **state)
{
    struct ids_fixture *fx = *state;
    const char *const harm[] = {
        "UPDATE ids SET entries = zeroblob(length(entries)) WHERE part = -2", /* the runs */
        "DELETE FROM ids WHERE part = -2",
        "DELETE FROM ids WHERE part = -3",                                    /* the filter */
        "UPDATE ids SET entries = zeroblob(length(entries)) WHERE part < -3", /* the buckets */
        "DELETE FROM ids WHERE part < -3",
        "UPDATE ids SET entries = zeroblob(length(entries)) WHERE part = -3",
        "UPDATE ids SET entries = zeroblob(length(entries)) WHERE part = -1",
        "DELETE FROM ids WHERE part = -4",
        "UPDATE ids SET entries = substr(entries, 33) WHERE part = -4",
        "UPDATE meta SET value = '0190aaaa-bbbb-4ccc-8ddd-eeeeffff0001' WHERE key = 'epoch'",
        "UPDATE meta SET value = replace(value, ' 9000 ', ' 8999 ') WHERE key = 'saved'",
        "UPDATE meta SET value = 'nonsense' WHERE key = 'saved'",
    };
    open_log(fx);
    publish_new(fx, 1, EVENTS);
    for (size_t i = 0; i < sizeof harm / sizeof *harm; i++) {
        struct eb_store_info info;
        close_log(fx);
        assert_true(has_snapshot(fx));
        ask(fx, harm[i]);
        open_log(fx);
        eb_store_info(fx->store, &info);
        assert_int_equal(info.dedupe_ids, EVENTS);
        assert_int_equal(info.events, EVENTS);
        all_are_known(fx, 1, EVENTS);
    }
}

/* Ids that the broker made: of events without one. Seqs @from to @upto; their ids go into @ret. */
static void publish_plain(struct ids_fixture *fx, unsigned from, unsigned upto, uint8_t (*ret)[16])
{
    for (unsigned n = from; n <= upto; n++) {
        struct eb_draft draft = {.topic = "t", .topic_len = 1, .payload = "x", .payload_len = 1};
        struct eb_op_result result = {0};
        struct eb_event *event = eb_event_create(&draft);
        struct eb_op op = {.kind = EB_OP_PUBLISH,
                           .count = 1,
                           .events = &event,
                           .results = &result,
                           .done = nothing};
        eb_store_submit(fx->store, &op, &op);
        eb_writer_drain(fx->store);
        assert_int_equal(op.err.code, EB_OK);
        assert_int_equal(result.seq, n);
        memcpy(ret[n], event->id, 16);
        eb_event_unref(event);
    }
}

/* What a publish with @id repeats; 0: nothing, it is stored. */
static uint64_t repeat_of(struct ids_fixture *fx, const uint8_t id[16])
{
    struct eb_draft draft = {
        .topic = "t", .topic_len = 1, .payload = "x", .payload_len = 1, .has_id = true};
    struct eb_op_result result = {0};
    memcpy(draft.id, id, 16);
    struct eb_event *event = eb_event_create(&draft);
    struct eb_op op = {
        .kind = EB_OP_PUBLISH, .count = 1, .events = &event, .results = &result, .done = nothing};
    eb_store_submit(fx->store, &op, &op);
    eb_writer_drain(fx->store);
    assert_int_equal(op.err.code, EB_OK);
    eb_event_unref(event);
    return result.duplicate ? result.seq : 0;
}

static void made_are_known(struct ids_fixture *fx, unsigned from, unsigned upto, uint8_t (*ids)[16])
{
    for (unsigned n = from; n <= upto; n = n < upto && n + 97 > upto ? upto : n + 97)
        assert_int_equal(repeat_of(fx, ids[n]), n);
}

static void killed_after(struct ids_fixture *fx, void (*work)(struct ids_fixture *fx))
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        open_log(fx);
        work(fx);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void no_work(struct ids_fixture *fx)
{
}

static uint8_t (*made_ids(void))[16]
{
    static uint8_t ids[EVENTS + 100][16];
    return ids;
}

/* Ids that were made need no place: neither in the snapshot nor, after a kill, in the table; and all are known. */
static void made_ids_need_no_place(void **state)
{
    struct ids_fixture *fx = *state;
    uint8_t(*ids)[16] = made_ids();
    struct eb_store_info info;
    bool duplicate;
    open_log(fx);
    publish_plain(fx, 1, EVENTS, ids);
    assert_int_equal(publish_id(fx, 77, &duplicate), EVENTS + 1);
    for (int killed = 0; killed < 2; killed++) {
        close_log(fx);
        assert_int_equal(ask(fx, "SELECT count(*) FROM ids WHERE part < -1"), 3);
        if (killed)
            killed_after(fx, no_work);
        open_log(fx);
        assert_int_equal(eb_dedupe_count(&fx->store->dedupe), killed);
        eb_store_info(fx->store, &info);
        assert_int_equal(info.dedupe_ids, EVENTS + 1);
        made_are_known(fx, 1, EVENTS, ids);
        assert_int_equal(publish_id(fx, 77, &duplicate), EVENTS + 1);
        assert_true(duplicate);
    }
}

/* Given ids stay in the file: a start loads none, however often, and each is known and compared, as are those that came since. */
static void given_ids_stay_in_the_file(void **state)
{
    struct ids_fixture *fx = *state;
    bool duplicate;
    unsigned last = 0;
    for (int round = 0; round < 4; round++) {
        open_log(fx);
        assert_int_equal(eb_dedupe_count(&fx->store->dedupe), 0);
        all_are_known(fx, 1, last);
        for (unsigned n = EVENTS + 1; n < EVENTS + 3000; n++) { /* and no other is */
            struct eb_dedupe_entry entry;
            uint8_t id[16];
            id_from(id, n);
            assert_int_equal(fx->store->engine->ops->find_id(fx->store->engine, id, &entry),
                             -ENOENT);
        }
        publish_new(fx, last + 1, last + 2000);
        last += 2000;
        all_are_known(fx, 1, last);
        close_log(fx);
    }
    open_log(fx);
    for (unsigned n = 1; n <= last; n++) {
        assert_int_equal(publish_id(fx, n, &duplicate), n);
        assert_true(duplicate);
    }
    assert_int_equal(eb_dedupe_count(&fx->store->dedupe), 0);
}

/* Those that are pushed out by number or by age are known no more, and are not saved again. */
static void given_ids_in_the_file_are_bounded(void **state)
{
    struct ids_fixture *fx = *state;
    bool duplicate;
    fx->config.dedupe_max = 1000;
    open_log(fx);
    publish_new(fx, 1, 2000);
    close_log(fx);
    open_log(fx);
    all_are_known(fx, 1001, 2000);
    assert_int_equal(publish_id(fx, 1000, &duplicate), 2001);
    assert_false(duplicate);
    assert_int_equal(publish_id(fx, 1001, &duplicate), 2002); /* by that one */
    assert_false(duplicate);
    all_are_known(fx, 1003, 2000);
    close_log(fx);
    assert_int_equal(ask(fx, "SELECT sum(length(entries) - 4) / 32 FROM ids WHERE part < -3"),
                     1000);
    fx->config.dedupe_window_ms = 1;
    usleep(3000);
    open_log(fx);
    assert_int_equal(publish_id(fx, 1500, &duplicate), 2003);
    assert_false(duplicate);
}

/* A file that retention has cut: ids of deleted events are in the buckets, and in the lists for the time after a kill. */
static void deleted_ids_survive_many_ends(void **state)
{
    struct ids_fixture *fx = *state;
    fx->config.retention_events = 10;
    open_log(fx);
    publish_new(fx, 1, 600);
    janitor(fx);
    for (int round = 0; round < 3; round++) {
        close_log(fx);
        open_log(fx);
        janitor(fx);
        all_are_known(fx, 1, 600);
        close_log(fx);
        killed_after(fx, janitor);
        open_log(fx);
        all_are_known(fx, 1, 600);
    }
}

/* A row deleted by retention leaves no list of ids that were made, and they are known, also after a kill. */
static void made_ids_of_deleted_events(void **state)
{
    struct ids_fixture *fx = *state;
    uint8_t(*ids)[16] = made_ids();
    struct eb_store_info info;
    fx->config.retention_events = 100;
    fx->config.acked_retention_ms = 0;
    open_log(fx);
    publish_plain(fx, 1, EVENTS, ids);
    struct eb_op ack = {.kind = EB_OP_ACK, .seq = EVENTS - 5, .done = nothing};
    eb_store_submit(fx->store, &ack, &ack);
    eb_writer_drain(fx->store);
    usleep(2000);
    janitor(fx);
    assert_true(ask(fx, "SELECT count(*) FROM log") <= 100);
    assert_int_equal(ask(fx, "SELECT count(*) FROM log WHERE seq = 8995"), 0);
    assert_int_equal(ask(fx, "SELECT count(*) FROM ids WHERE part > 0"), 0);
    close_log(fx);
    open_log(fx);
    eb_store_info(fx->store, &info);
    assert_int_equal(info.dedupe_ids, EVENTS);
    close_log(fx);
    killed_after(fx, no_work);
    open_log(fx);
    made_are_known(fx, 1, EVENTS, ids);
    assert_int_equal(repeat_of(fx, ids[EVENTS - 5]), EVENTS - 5);
}

static void new_epoch(struct ids_fixture *fx)
{
    close_log(fx);
    fx->config.new_epoch = true;
    open_log(fx);
    fx->config.new_epoch = false;
}

/*
 * The newest events were lost with a power cut, the epoch is new: their seqs are given again, their ids are not known, and
 * those of the events that are left, or were deleted, are.
 */
static void ids_of_lost_events(void **state)
{
    struct ids_fixture *fx = *state;
    uint8_t(*ids)[16] = made_ids(), lost[16], more[20][16];
    open_log(fx);
    publish_plain(fx, 1, 12, ids);
    memcpy(lost, ids[11], 16);
    close_log(fx);
    ask(fx, "DELETE FROM log WHERE seq > 10");
    ask(fx, "DELETE FROM log WHERE seq = 4"); /* deleted, say, by its ttl */
    ask(fx, "UPDATE meta SET value = 10 WHERE key = 'last_seq'");
    fx->config.new_epoch = true;
    open_log(fx);
    fx->config.new_epoch = false;
    new_epoch(fx);
    made_are_known(fx, 1, 10, ids);
    assert_int_equal(repeat_of(fx, ids[4]), 4);
    publish_plain(fx, 11, 11, more);
    assert_memory_not_equal(more[11], lost, 16);
    assert_int_equal(repeat_of(fx, more[11]), 11);
    assert_int_equal(repeat_of(fx, lost), 0); /* it is stored at last, as 12 */
    assert_int_equal(repeat_of(fx, lost), 12);
    close_log(fx);
    killed_after(fx, no_work);
    open_log(fx);
    assert_int_equal(repeat_of(fx, lost), 12);
    assert_int_equal(repeat_of(fx, more[11]), 11);
    made_are_known(fx, 1, 10, ids);
}

/* Without its secret, or with one that is damaged, a start takes the ids of the rows like publishers', and makes a new one. */
static void the_secret_is_lost(void **state)
{
    struct ids_fixture *fx = *state;
    uint8_t(*ids)[16] = made_ids();
    const char *const harm[] = {
        "DELETE FROM meta WHERE key = 'id_key'",
        "UPDATE meta SET value = '0' || substr(value, 2) WHERE key = 'id_key'"
        " AND value NOT LIKE '0%'",
        "UPDATE meta SET value = 7 WHERE key = 'id_key'",
    };
    unsigned last = 0;
    open_log(fx);
    for (size_t i = 0; i < sizeof harm / sizeof *harm; i++) {
        publish_plain(fx, last + 1, last + 50, ids);
        last += 50;
        close_log(fx);
        ask(fx, harm[i]);
        open_log(fx);
        made_are_known(fx, 1, last, ids);
        assert_int_equal(repeat_of(fx, ids[last]), last);
    }
}

/* A backup and what is restored of it know the ids of their events, and of those that were deleted. */
static void a_backup_knows_them(void **state)
{
    struct ids_fixture *fx = *state;
    uint8_t(*ids)[16] = made_ids();
    char copy[128], restored[128];
    struct eb_ops_summary sum;
    struct eb_error err;
    fx->config.retention_events = 60;
    open_log(fx);
    publish_plain(fx, 1, 100, ids);
    janitor(fx);
    snprintf(copy, sizeof copy, "%s/copy.db", fx->folder);
    snprintf(restored, sizeof restored, "%s/new.db", fx->folder);
    assert_int_equal(eb_store_backup(fx->path, copy, NULL, &sum, &err), 0);
    publish_plain(fx, 101, 102, ids); /* not in the copy */
    close_log(fx);
    assert_int_equal(eb_store_restore(copy, restored, NULL, &sum, &err), 0);
    assert_int_equal(eb_store_verify(restored, NULL, &sum, &err), 0);
    snprintf(fx->path, sizeof fx->path, "%s/new.db", fx->folder);
    open_log(fx);
    made_are_known(fx, 1, 100, ids);
    assert_int_equal(repeat_of(fx, ids[101]), 0);
    assert_int_equal(repeat_of(fx, ids[101]), 101);
}

/* Ids @from to @upto as an older broker's snapshot had them. */
static void older_piece(struct ids_fixture *fx, int64_t part, unsigned from, unsigned upto)
{
    unsigned char blob[4096 * 32 + 4] = {0}, *at = blob;
    int64_t now = eb_wall_ms();
    sqlite3 *db;
    sqlite3_stmt *stmt;
    for (uint64_t n = from; n <= upto; n++, at += 32) { /* little-endian, as this machine */
        id_from(at, (unsigned)n);
        memcpy(at + 16, &n, 8);
        memcpy(at + 24, &now, 8);
    }
    uint32_t crc = eb_crc32c(eb_crc32c(0, &part, 8), blob, (size_t)(at - blob));
    memcpy(at, &crc, 4);
    assert_int_equal(sqlite3_open(fx->path, &db), SQLITE_OK);
    assert_int_equal(
        sqlite3_prepare_v2(db, "INSERT INTO ids VALUES(?1, ?2, ?3, ?4)", -1, &stmt, NULL),
        SQLITE_OK);
    sqlite3_bind_int64(stmt, 1, part);
    sqlite3_bind_int64(stmt, 2, upto);
    sqlite3_bind_int64(stmt, 3, now);
    sqlite3_bind_blob(stmt, 4, blob, (int)(at - blob) + 4, SQLITE_STATIC);
    assert_int_equal(sqlite3_step(stmt), SQLITE_DONE);
    sqlite3_finalize(stmt);
    sqlite3_close(db);
}

/* What an older broker left: a snapshot with all ids and without runs, and a file without a secret. */
static void an_older_snapshot(void **state)
{
    struct ids_fixture *fx = *state;
    struct eb_store_info info;
    open_log(fx);
    publish_new(fx, 1, EVENTS);
    close_log(fx);
    ask(fx, "UPDATE meta SET value = substr(value, 3) WHERE key = 'saved'");
    ask(fx, "DELETE FROM meta WHERE key = 'id_key'");
    ask(fx, "DELETE FROM ids WHERE part < -1");
    for (unsigned first = 1; first <= EVENTS; first += 4096)
        older_piece(fx, -2 - (int64_t)first / 4096, first,
                    first + 4095 < EVENTS ? first + 4095 : EVENTS);
    ask(fx, "DELETE FROM log WHERE seq = 4000"); /* only the snapshot has it */
    open_log(fx);
    eb_store_info(fx->store, &info);
    assert_int_equal(info.dedupe_ids, EVENTS);
    all_are_known(fx, 1, EVENTS);
    all_are_known(fx, 4000, 4000);
}

/* Settings that ask for more than the snapshot has are answered from the log; for less, from the snapshot. */
static void settings_change(void **state)
{
    struct ids_fixture *fx = *state;
    struct eb_store_info info;
    bool duplicate;
    fx->config.dedupe_max = 100;
    open_log(fx);
    publish_new(fx, 1, 1000);
    close_log(fx);
    fx->config.dedupe_max = 500;
    open_log(fx);
    all_are_known(fx, 501, 1000);
    eb_store_info(fx->store, &info);
    assert_int_equal(info.dedupe_ids, 500);
    close_log(fx);
    fx->config.dedupe_max = 50;
    open_log(fx);
    all_are_known(fx, 951, 1000);
    assert_int_equal(publish_id(fx, 949, &duplicate), 1001);
    assert_false(duplicate);
    close_log(fx);
    fx->config.dedupe_max = 1000;
    fx->config.dedupe_window_ms = 3600000;
    open_log(fx);
    all_are_known(fx, 500, 900);
}

/* What retention deletes inside the window is known after an orderly end and after a kill. */
static void deleted_ids_are_known(void **state)
{
    struct ids_fixture *fx = *state;
    int status;
    fx->config.retention_events = 100;
    open_log(fx);
    publish_new(fx, 1, EVENTS);
    janitor(fx);
    close_log(fx);
    assert_int_equal(ask(fx, "SELECT count(*) FROM log"), 100);
    pid_t child = fork();
    if (child == 0) {
        open_log(fx);
        all_are_known(fx, 1, EVENTS);
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    open_log(fx);
    all_are_known(fx, 1, EVENTS);
}

/* An id that the bound has pushed out is not kept in the file either, and lists whose time is over go. */
static void lists_are_bounded(void **state)
{
    struct ids_fixture *fx = *state;
    fx->config.retention_events = 100;
    fx->config.dedupe_max = 1000;
    open_log(fx);
    for (unsigned n = 1; n < 5000; n += 500) {
        publish_new(fx, n, n + 499);
        janitor(fx);
    }
    assert_true(ask(fx, "SELECT sum(length(entries)) / 32 FROM ids") <= 1500);
    fx->config.dedupe_window_ms = 0;
    eb_store_reconfigure(fx->store, &fx->config);
    usleep(2000);
    janitor(fx);
    assert_int_equal(ask(fx, "SELECT count(*) FROM ids"), 0);
}

/* Retention that is behind goes on with each group of publishes, in its commit, until it has caught up. */
static void groups_delete_while_behind(void **state)
{
    struct ids_fixture *fx = *state;
    struct eb_store_counters before, after;
    struct eb_store_info info;
    bool more;
    open_log(fx);
    publish_new(fx, 1, 1000);
    fx->config.retention_events = 500;
    eb_store_reconfigure(fx->store, &fx->config);
    eb_lock_take(&fx->store->commit_lock);
    eb_janitor_step_locked(fx->store, &more);
    eb_lock_drop(&fx->store->commit_lock);
    assert_true(more);
    eb_store_counters(fx->store, &before);
    publish_new(fx, 1001, 1001);
    eb_store_counters(fx->store, &after);
    assert_int_equal(after.commits, before.commits + 1);
    assert_true(after.retained_out >= before.retained_out + 2);
    publish_new(fx, 1002, 1400);
    eb_store_info(fx->store, &info);
    assert_int_equal(info.events, 500);
    assert_int_equal(info.deleted_upto, 900);
    all_are_known(fx, 1, 1400);
    close_log(fx);
    open_log(fx);
    all_are_known(fx, 1, 1400);
}

#define T(name)                                                                                    \
    {                                                                                              \
        "ids/" #name, name, setup, teardown, NULL                                                  \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(clean_stop_keeps_all),
        T(killed_after_the_start),
        T(not_believed),
        T(settings_change),
        T(deleted_ids_are_known),
        T(lists_are_bounded),
        T(groups_delete_while_behind),
        T(given_ids_stay_in_the_file),
        T(given_ids_in_the_file_are_bounded),
        T(deleted_ids_survive_many_ends),
        T(made_ids_need_no_place),
        T(made_ids_of_deleted_events),
        T(ids_of_lost_events),
        T(the_secret_is_lost),
        T(a_backup_knows_them),
        T(an_older_snapshot),
    };
    return cmocka_run_group_tests_name("ids", tests, NULL, NULL);
}
