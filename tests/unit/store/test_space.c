/* test_space.c - how much room is left, and saying when that crosses min_free. */
#include "fixture.h"

#include "common/log.h"

/* The folder of the log is asked, whatever form its path has. */
static void any_form_of_path(void **state)
{
    const char *const paths[] = {"eventbus.db", "./eventbus.db", "/eventbus.db",
                                 "/tmp/eventbus.db"};
    for (size_t i = 0; i < 4; i++) {
        uint64_t bytes = 0;
        assert_int_equal(0, eb_store_env_real.free_bytes(NULL, paths[i], &bytes));
        assert_true(bytes > 0);
    }
    uint64_t bytes = 7;
    assert_int_equal(-ENOENT, eb_store_env_real.free_bytes(NULL, "/no such folder/x.db", &bytes));
    assert_int_equal(7, bytes);
}

static uint64_t wal_pending;

static void pending_figures(struct eb_engine *engine, struct eb_engine_figures *ret)
{
    *ret = (struct eb_engine_figures){.wal_pending_bytes = wal_pending};
}

/* What the WAL still brings into the file is not free, and never less than nothing is. */
static void pending_checkpoints_count(void **state)
{
    static struct eb_engine_ops ops;
    struct fixture *fx = calloc(1, sizeof *fx);
    fx->config.path = "folder/eventbus.db";
    fx->free = 1000000;
    fx_open(fx);
    ops = fx_ops;
    ops.figures = pending_figures;
    fx->engine.ops = &ops;
    wal_pending = 400000;
    assert_int_equal(600000, eb_space_free(fx->store));
    wal_pending = 2000000;
    assert_int_equal(600000, eb_space_free(fx->store)); /* believed for a moment */
    fx->mono += EB_SPACE_CACHE_MS;
    assert_int_equal(0, eb_space_free(fx->store));
    eb_store_close(fx->store);
    free(fx);
}

/* A burst that may have used up the room is noticed although the last look is recent. */
static void burst_is_noticed(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    char payload[4001];
    memset(payload, 'x', 4000);
    payload[4000] = '\0';
    fx->config.path = "folder/eventbus.db";
    fx->config.min_free = 64 << 20;
    fx->free = fx->config.min_free + 100000;
    fx_open(fx);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", payload)));
    fx->free = fx->config.min_free - 1; /* somebody else's doing: not noticed at once */
    unsigned n = 2;
    while (code_of(publish(fx, n, "a", payload)) == EB_OK)
        n++;
    assert_in_range(n, 3, 12); /* a quarter of the room: 25,000 bytes */
    eb_store_close(fx->store);
    free(fx);
}

/* With exactly min_free left there is no room for a burst at all: the next publish looks again. */
static void the_last_byte_is_noticed(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    fx->config.path = "folder/eventbus.db";
    fx->config.min_free = 64 << 20;
    fx->free = fx->config.min_free;
    fx_open(fx);
    assert_int_equal(1, seq_of(publish(fx, 1, "a", "x")));
    fx->free = fx->config.min_free - 1;
    assert_int_equal(EB_STORAGE_FULL, code_of(publish(fx, 2, "a", "x")));
    eb_store_close(fx->store);
    free(fx);
}

static int fails(void *ctx, const char *path, uint64_t *ret)
{
    return -EACCES;
}

/* A disk that does not say is not taken for full. */
static void unknown_is_not_low(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    uint64_t bytes;
    fx->config.path = "folder/eventbus.db";
    fx_open(fx);
    fx->store->env.free_bytes = fails;
    assert_false(eb_space_low(fx->store, 64 << 20, &bytes));
    eb_store_close(fx->store);
    free(fx);
}

/* Crossing min_free is logged once each way. */
static void crossing_is_logged_once(void **state)
{
    struct fixture *fx = calloc(1, sizeof *fx);
    char name[] = "/tmp/eb-test-space-XXXXXX", line[500];
    int fd = mkstemp(name);
    uint64_t bytes;
    assert_true(fd >= 0);
    assert_int_equal(0, eb_log_setup(EB_LOG_INFO, false, name));
    fx->config.path = "folder/eventbus.db";
    fx_open(fx);
    const unsigned mib[] = {100, 10, 11, 90, 91};
    for (size_t i = 0; i < 5; i++) {
        fx->free = (uint64_t)mib[i] << 20;
        fx->mono += EB_SPACE_CACHE_MS;
        assert_int_equal(mib[i] < 64, eb_space_low(fx->store, 64 << 20, &bytes));
        assert_int_equal(fx->free, bytes);
    }
    eb_store_close(fx->store);
    free(fx);
    assert_int_equal(0, eb_log_setup(EB_LOG_INFO, false, NULL));
    FILE *file = fdopen(fd, "r");
    assert_non_null(fgets(line, sizeof line, file));
    assert_non_null(strstr(line, "EB-DISK-LOW"));
    assert_non_null(strstr(line, "10.0 MiB"));
    assert_non_null(strstr(line, "64.0 MiB"));
    assert_non_null(fgets(line, sizeof line, file));
    assert_non_null(strstr(line, "EB-DISK-OK"));
    assert_null(fgets(line, sizeof line, file));
    fclose(file);
    remove(name);
}

/* Sizes as a person reads them. */
static void sizes_are_readable(void **state)
{
    char buf[32];
    assert_string_equal("0 bytes", eb_space_text(buf, sizeof buf, 0));
    assert_string_equal("1023 bytes", eb_space_text(buf, sizeof buf, 1023));
    assert_string_equal("1.0 KiB", eb_space_text(buf, sizeof buf, 1024));
    assert_string_equal("12.5 MiB", eb_space_text(buf, sizeof buf, 12 * 1048576 + 524288));
    assert_string_equal("2048.0 TiB", eb_space_text(buf, sizeof buf, (uint64_t)1 << 51));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"space/any_form_of_path", any_form_of_path, NULL, NULL, NULL},
        {"space/pending_checkpoints_count", pending_checkpoints_count, NULL, NULL, NULL},
        {"space/burst_is_noticed", burst_is_noticed, NULL, NULL, NULL},
        {"space/the_last_byte_is_noticed", the_last_byte_is_noticed, NULL, NULL, NULL},
        {"space/unknown_is_not_low", unknown_is_not_low, NULL, NULL, NULL},
        {"space/crossing_is_logged_once", crossing_is_logged_once, NULL, NULL, NULL},
        {"space/sizes_are_readable", sizes_are_readable, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("space", tests, NULL, NULL);
}
