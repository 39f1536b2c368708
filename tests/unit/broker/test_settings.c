/* test_settings.c - the table of settings: what is read, refused and shown. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "broker/settings.h"

static struct eb_settings s;
static char err[EB_SETTING_ERROR];

static int setup(void **state)
{
    err[0] = '\0';
    return eb_settings_init(&s);
}

static int teardown(void **state)
{
    eb_settings_finish(&s);
    return 0;
}

static int set(const char *key, const char *value)
{
    return eb_settings_set(&s, key, value, EB_FROM_COMMAND_LINE, err);
}

/* Units are those an operator writes; whatever the unit, milliseconds and bytes come out. */
static void values_are_read_in_any_unit(void **state)
{
    assert_int_equal(set("retention_age", "2d"), 0);
    assert_int_equal(s.retention_age, 2 * 86400 * 1000);
    assert_int_equal(set("stall-timeout", "1500ms"), 0);
    assert_int_equal(s.stall_timeout, 1500);
    assert_int_equal(set("max_payload", "2 MiB"), 0);
    assert_int_equal(s.max_payload, 2 << 20);
    assert_int_equal(set("default_ttl", "1h"), 0);
    assert_int_equal(s.default_ttl, 3600);
    assert_int_equal(set("acked_retention", "0"), 0);
    assert_int_equal(s.acked_retention, 0);
    assert_int_equal(set("acked_retention", "off"), 0);
    assert_int_equal(s.acked_retention, -1);
    assert_int_equal(set("auto_ack", "on"), 0);
    assert_true(s.auto_ack);
}

/* A bad value changes nothing, and the message names key, value and what would be right. */
static void a_bad_value_is_refused_with_what_would_be_right(void **state)
{
    static const char *const bad[][3] = {{"max_payload", "lots", "a size"},
                                         {"max_payload", "-1", "a size"},
                                         {"max_payload", "0", "between 1 and 256M"},
                                         {"durability", "maybe", "fsync|os"},
                                         {"readers", "1.5", "a whole number"},
                                         {"readers", "65", "between 1 and 64"},
                                         {"auto_ack", "perhaps", "true or false"},
                                         {"ping_interval", "5 parsecs", "a time"},
                                         {"sse_comment", "30s", "between 100ms and 15s"},
                                         {"max_payload", "0x10", "a size"},
                                         {"publish_rate", "nan", "a number"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(set(bad[i][0], bad[i][1]), -EINVAL);
        assert_non_null(strstr(err, bad[i][0]));
        assert_non_null(strstr(err, bad[i][1]));
        assert_non_null(strstr(err, bad[i][2]));
    }
    assert_int_equal(s.max_payload, 1 << 20);
    assert_int_equal(set("max_paylode", "1"), -EINVAL);
    assert_non_null(strstr(err, "unknown setting \"max_paylode\""));
}

/* --listen is repeatable, and the first one on the command line takes the place of the file's. */
static void a_list_is_extended_within_its_source_and_replaced_by_a_stronger_one(void **state)
{
    assert_int_equal(eb_settings_set(&s, "listen", "127.0.0.1:1, 127.0.0.1:2", EB_FROM_FILE, err),
                     0);
    assert_string_equal(s.listen[1], "127.0.0.1:2");
    assert_int_equal(set("listen", "[::1]:3"), 0);
    assert_int_equal(set("listen", "unix:/tmp/x"), 0);
    assert_string_equal(s.listen[0], "[::1]:3");
    assert_string_equal(s.listen[1], "unix:/tmp/x");
    assert_null(s.listen[2]);
}

/* A file with several mistakes names all of them, each with its line. */
static void a_file_names_each_bad_line(void **state)
{
    char path[] = "/tmp/eventbus-settings-XXXXXX", *text = NULL;
    size_t size = 0;
    FILE *file = fdopen(mkstemp(path), "w"), *out = open_memstream(&text, &size);
    fputs("# a comment\nmax_payload = 2M\nmax_batch = many\n[eventbus]\nno_such = 1\nreaders = "
          "2\n[other]\nflushers = 1\n",
          file);
    for (int i = 0; i < 300; i++)
        fputc('x', file);
    fputs(" = 1\ngarbage\n", file);
    fclose(file);
    int bad = eb_settings_load(&s, path, out);
    fclose(out);
    unlink(path);
    assert_in_range(bad, 4, 6);
    assert_non_null(strstr(text, ":3: max_batch = \"many\""));
    assert_non_null(strstr(text, ":5: unknown setting \"no_such\""));
    assert_non_null(strstr(text, ":8: unknown section [other]"));
    assert_non_null(strstr(text, ":9: line is longer"));
    assert_int_equal(s.max_payload, 2 << 20);
    assert_int_equal(s.readers, 2);
    free(text);
}

/* What --print-config writes, --config reads: nothing is lost on the way. */
static void what_is_printed_can_be_read_back(void **state)
{
    char path[] = "/tmp/eventbus-settings-XXXXXX";
    struct eb_settings back;
    struct eb_setting_about about;
    assert_int_equal(set("retention_age", "90m"), 0);
    assert_int_equal(set("allowed_origins", "https://a.example https://b.example"), 0);
    assert_int_equal(set("acked_retention", "1500ms"), 0);
    FILE *file = fdopen(mkstemp(path), "w");
    eb_settings_print(&s, file);
    fclose(file);
    assert_int_equal(eb_settings_init(&back), 0);
    assert_int_equal(eb_settings_load(&back, path, stderr), 0);
    unlink(path);
    for (size_t i = 0; eb_settings_about(i, &about); i++) {
        char *a = eb_settings_text(&s, i), *b = eb_settings_text(&back, i);
        assert_string_equal(a, b);
        free(a);
        free(b);
    }
    eb_settings_finish(&back);
}

/* Settings that contradict each other are refused before anything is opened. */
static void contradictions_are_found(void **state)
{
    assert_int_equal(eb_settings_check(&s, err), 0);
    assert_int_equal(set("ws_path", "ws"), 0);
    assert_int_equal(eb_settings_check(&s, err), -EINVAL);
    assert_int_equal(set("ws_path", "/v1/ws"), 0);
    assert_int_equal(eb_settings_check(&s, err), -EINVAL);
    assert_int_equal(set("ws_path", "/bus"), 0);
    assert_int_equal(set("max_message", "1K"), 0);
    assert_int_equal(eb_settings_check(&s, err), -EINVAL);
    assert_non_null(strstr(err, "max_payload"));
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(values_are_read_in_any_unit),
        CASE(a_bad_value_is_refused_with_what_would_be_right),
        CASE(a_list_is_extended_within_its_source_and_replaced_by_a_stronger_one),
        CASE(a_file_names_each_bad_line),
        CASE(what_is_printed_can_be_read_back),
        CASE(contradictions_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
