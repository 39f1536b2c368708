/* test_schema.c - whose file it is: made, recognised, refused, brought forward. */
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

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

/* SHA-256 and names of all in the folder: what a refusal must not change. */
static void folder_state(struct log_fixture *fx, char *out, size_t size)
{
    char command[200];

    snprintf(command, sizeof(command), "cd %s && sha256sum * && stat -c %%Y.%%s *", fx->folder);
    fx_shell(command, out, size);
}

static void refused(struct log_fixture *fx, int result, const char *what)
{
    char before[2000], after[2000];

    folder_state(fx, before, sizeof(before));
    assert_int_equal(fx_try_open(fx), result);
    if (!strstr(fx->err.message, what))
        fail_msg("\"%s\" does not say \"%s\"", fx->err.message, what);
    folder_state(fx, after, sizeof(after));
    assert_string_equal(before, after);
}

static int64_t pragma(struct log_fixture *fx, const char *sql)
{
    sqlite3 *db;
    int64_t value = -1;

    assert_int_equal(sqlite3_open(fx->path, &db), SQLITE_OK);
    assert_int_equal(eb_sql_int(db, sql, 0, &value), 0);
    sqlite3_close(db);
    return value;
}

/* A fresh log has its ids, its page size and its tables, and opens again. */
static void create_makes_this_version(void **state)
{
    struct log_fixture *fx = *state;

    fx_open(fx);
    assert_int_equal(fx->start.last_seq, 0);
    fx_close(fx);
    assert_int_equal(pragma(fx, "PRAGMA application_id"), EB_APPLICATION_ID);
    assert_int_equal(pragma(fx, "PRAGMA user_version"), EB_SCHEMA_VERSION);
    assert_int_equal(pragma(fx, "PRAGMA page_size"), 4096);
    assert_int_equal(pragma(fx, "PRAGMA auto_vacuum"), 2);
    assert_int_equal(pragma(fx, "SELECT count(*) FROM sqlite_schema WHERE type IN ('table','view')"
                                " AND name NOT LIKE 'sqlite_%'"),
                     17);
    assert_int_equal(pragma(fx, "SELECT value FROM meta WHERE key = 'clean'"), 1);
    fx_open(fx);
}

/* An empty file, and a database with nothing in it, become a log. */
static void empty_becomes_a_log(void **state)
{
    struct log_fixture *fx = *state;

    fx_sql(fx,
           "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; CREATE TABLE x(a); DROP TABLE x");
    fx_open(fx);
    fx_publish(fx, "a", "x", 0);
    fx_close(fx);
    assert_int_equal(pragma(fx, "PRAGMA auto_vacuum"), 2);
    fx->path[strlen(fx->path) - 1] = 'x';
    close(open(fx->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0644));
    fx_open(fx);
}

static const char old_schema[] =
    "CREATE TABLE messages(seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload TEXT"
    " NOT NULL, metadata TEXT, ttl INTEGER, status TEXT);"
    "CREATE TABLE processed_messages(message_id TEXT PRIMARY KEY);"
    "INSERT INTO messages(topic, payload, status) VALUES('a', 'x', 'pending')";

/* A file of prk_eventbus is refused with the command that takes it over, and not touched. */
static void old_file_is_refused_with_the_command(void **state)
{
    struct log_fixture *fx = *state;
    char command[300];

    fx_sql(fx, old_schema);
    snprintf(command, sizeof(command), "eventbusd --import %s --db NEW", fx->path);
    refused(fx, -EINVAL, command);
}

/* The same when its tables still lie in a WAL that nobody brought into the file. */
static void old_file_in_its_wal_is_recognised(void **state)
{
    struct log_fixture *fx = *state;
    pid_t pid = fork();
    sqlite3 *db;
    int status;

    if (pid == 0) {
        sqlite3_open(fx->path, &db);
        sqlite3_exec(db, "PRAGMA journal_mode = WAL", NULL, NULL, NULL);
        sqlite3_exec(db, old_schema, NULL, NULL, NULL);
        _exit(0);
    }
    waitpid(pid, &status, 0);
    assert_int_equal(fx_try_open(fx), -EINVAL);
    assert_non_null(strstr(fx->err.message, "--import"));
}

static void foreign_database_is_refused(void **state)
{
    struct log_fixture *fx = *state;

    fx_sql(fx, "CREATE TABLE users(id INTEGER)");
    refused(fx, -EINVAL, "another program");
    fx_sql(fx, "DROP TABLE users; PRAGMA application_id = 7");
    refused(fx, -EINVAL, "another program");
}

/* A newer schema is refused by its number. */
static void newer_schema_is_refused_by_number(void **state)
{
    struct log_fixture *fx = *state;

    fx_open(fx);
    fx_close(fx);
    fx_sql(fx, "PRAGMA user_version = 17");
    refused(fx, -EINVAL, "schema version 17");
}

static void text_is_no_database(void **state)
{
    struct log_fixture *fx = *state;
    FILE *file = fopen(fx->path, "we");

    for (int i = 0; i < 1000; i++)
        fputs("this is a letter, not a log\n", file);
    fclose(file);
    refused(fx, -EINVAL, "is not a database");
}

/* A log whose header was overwritten is damaged, not foreign: it is said how to bring it back. */
static void damaged_header_is_said(void **state)
{
    struct log_fixture *fx = *state;
    char zeroes[100] = {0};
    int fd;

    fx_open(fx);
    for (int i = 0; i < 100; i++)
        fx_publish(fx, "a", "payload", 0);
    fx_close(fx);
    fd = open(fx->path, O_WRONLY | O_CLOEXEC);
    assert_int_equal(pwrite(fd, zeroes, sizeof(zeroes), 0), sizeof(zeroes));
    close(fd);
    refused(fx, -EBADMSG, "--repair NEW");
}

static void folder_is_no_log(void **state)
{
    struct log_fixture *fx = *state;

    assert_int_equal(mkdir(fx->path, 0755), 0);
    assert_int_equal(fx_try_open(fx), -EISDIR);
    assert_non_null(strstr(fx->err.message, "is a folder"));
}

static void missing_folder_is_said(void **state)
{
    struct log_fixture *fx = *state;
    char path[200];

    snprintf(path, sizeof(path), "%s/no/such/eventbus.db", fx->folder);
    fx->config.path = path;
    assert_int_equal(fx_try_open(fx), -ENOENT);
    assert_non_null(strstr(fx->err.message, "mkdir -p"));
    fx->config.path = fx->path;
}

/* Run as a user who may not write; 77: cannot become one. */
static int open_as_nobody(struct log_fixture *fx, const char *what)
{
    int status;
    pid_t pid = fork();

    if (pid == 0) {
        if (geteuid() == 0 && setresuid(65534, 65534, 65534) < 0)
            _exit(77);
        int rc = fx_try_open(fx);
        if (rc == 0)
            _exit(0);
        _exit(strstr(fx->err.message, what) ? -rc : 99);
    }
    waitpid(pid, &status, 0);
    return WEXITSTATUS(status);
}

/* A file or a folder that may not be written is refused with what to do. */
static void read_only_is_said(void **state)
{
    struct log_fixture *fx = *state;
    char lock[128];
    int rc;

    fx_open(fx);
    fx_close(fx);
    snprintf(lock, sizeof(lock), "%s.lock", fx->path);
    chmod(fx->folder, 0777);
    chmod(lock, 0666);
    chmod(fx->path, 0444);
    rc = open_as_nobody(fx, "read-only");
    if (rc == 77)
        skip();
    assert_int_equal(rc, EROFS);
    chmod(fx->folder, 0555);
    chmod(fx->path, 0666);
    remove(lock);
    assert_int_equal(open_as_nobody(fx, "must be able to write"), EACCES);
    chmod(fx->folder, 0777);
    chmod(fx->path, 0000);
    assert_int_equal(open_as_nobody(fx, "no permission"), EACCES);
}

/* Steps run one after the other, each with its version; a broken one leaves the last good version. */
static void migrations_run_in_order(void **state)
{
    struct log_fixture *fx = *state;
    static const struct eb_migration good[] = {
        {3, "CREATE TABLE three(a)"}, {4, "ALTER TABLE three ADD COLUMN b"}, {0, NULL}};
    static const struct eb_migration bad[] = {{5, "CREATE TABLE five(a); NONSENSE"}, {0, NULL}};
    sqlite3 *db;
    int version = 0;

    fx_open(fx);
    fx_close(fx);
    assert_int_equal(eb_db_open(fx->path, NULL, EB_DB_WRITE, &db, &fx->err), 0);
    assert_int_equal(eb_schema_migrate(db, good, 5), 0);
    assert_int_equal(eb_schema_version(db, &version), 0);
    assert_int_equal(version, 5);
    assert_int_equal(eb_sql_exec(db, "SELECT a, b FROM three"), 0);
    assert_true(eb_schema_migrate(db, bad, 6) < 0);
    assert_int_equal(eb_schema_version(db, &version), 0);
    assert_int_equal(version, 5);
    assert_true(eb_sql_exec(db, "SELECT a FROM five") < 0);
    assert_int_equal(eb_schema_migrate(db, good, 9), -EINVAL);
    sqlite3_close(db);
}

/* A process killed anywhere while it makes a log leaves something that opens. */
static void crash_while_creating_is_harmless(void **state)
{
    struct log_fixture *fx = *state;

    for (int us = 0; us < 20000; us += 1500) {
        pid_t pid = fork();
        int status;
        if (pid == 0) {
            fx_try_open(fx);
            pause();
        }
        usleep((useconds_t)us); /* the moment is the point here, not a condition */
        kill(pid, SIGKILL);
        waitpid(pid, &status, 0);
        fx_open(fx);
        fx_publish(fx, "a", "x", 0);
        fx_close(fx);
        remove(fx->path);
    }
}

/* The checksum is the documented one: each number eight bytes, each text with its length. */
static void crc_is_as_documented(void **state)
{
    const uint8_t id[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    struct eb_row row = {
        .seq = 1, .ts = 1700000000000, .ttl = 60, .id = id, .payload = "hello", .payload_len = 5};

    assert_int_equal(eb_row_crc(&row, "a.b", 3), 0x94e86984u);
    row.content_type = "application/json";
    row.content_type_len = 16;
    row.headers = "{\"k\":\"v\"}";
    row.headers_len = 9;
    assert_int_equal(eb_row_crc(&row, "a.b", 3), 0xaade94c7u);
}

/* It does not depend on the processor: with the instruction it is what it is without, whatever the lengths. */
static void crc_is_the_same_on_any_processor(void **state)
{
    char bytes[512];

    for (size_t i = 0; i < sizeof(bytes); i++)
        bytes[i] = (char)(i * 37 + i / 7);
    for (size_t len = 0; len < 200; len++) {
        const size_t topic_len = 1 + len * 5 % EB_TOPIC_MAX;
        struct eb_row row = {
            .seq = 1 + len * 0x1234567,
            .ts = 1700000000000 + (int64_t)len,
            .ttl = (int64_t)len * 3,
            .id = (const uint8_t *)bytes + len,
            .payload = len ? bytes + len / 2 : NULL,
            .payload_len = len,
        };
        assert_int_equal(eb_row_crc(&row, bytes + 1, topic_len),
                         eb_row_crc_pieces(&row, bytes + 1, topic_len));
        row.content_type = bytes + 3;
        row.content_type_len = 1 + len % 100;
        row.headers = bytes + 5;
        row.headers_len = 1 + len * 2;
        assert_int_equal(eb_row_crc(&row, bytes + 1, topic_len),
                         eb_row_crc_pieces(&row, bytes + 1, topic_len));
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(create_makes_this_version),
        T(empty_becomes_a_log),
        T(old_file_is_refused_with_the_command),
        T(old_file_in_its_wal_is_recognised),
        T(foreign_database_is_refused),
        T(newer_schema_is_refused_by_number),
        T(text_is_no_database),
        T(damaged_header_is_said),
        T(folder_is_no_log),
        T(missing_folder_is_said),
        T(read_only_is_said),
        T(migrations_run_in_order),
        T(crash_while_creating_is_harmless),
        cmocka_unit_test(crc_is_as_documented),
        cmocka_unit_test(crc_is_the_same_on_any_processor),
    };

    return cmocka_run_group_tests_name("schema", tests, NULL, NULL);
}
