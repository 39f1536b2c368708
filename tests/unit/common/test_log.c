/* test_log.c - lines whole, escaped, one write each. */
#include "common/log.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "claim.h"
#include "common/text.h"

static char folder[] = "/tmp/eb-log-XXXXXX";
static char path[64], moved[64];

static int setup(void **state)
{
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof(path), "%s/log", folder);
    snprintf(moved, sizeof(moved), "%s/log.1", folder);
    return 0;
}

static int teardown(void **state)
{
    unlink(path);
    unlink(moved);
    return rmdir(folder);
}

/* Point the log at a fresh file. */
static void start(enum eb_log_level level, bool json)
{
    unlink(path);
    assert_int_equal(eb_log_setup(level, json, path), 0);
}

/* What the file at @name holds; to be freed. */
static char *slurp(const char *name)
{
    FILE *file = fopen(name, "r");
    char *text = NULL;
    size_t size;

    assert_non_null(file);
    ssize_t n = getdelim(&text, &size, '\0', file);
    assert_true(n >= 0 || feof(file));
    if (n <= 0) {
        free(text);
        text = strdup("");
    }
    fclose(file);
    return text;
}

static void assert_file_matches(const char *pattern)
{
    regex_t re;
    char *text = slurp(path);

    assert_int_equal(regcomp(&re, pattern, REG_EXTENDED | REG_NOSUB), 0);
    if (regexec(&re, text, 0, NULL, 0) != 0)
        fail_msg("\"%s\" does not match %s", text, pattern);
    regfree(&re);
    free(text);
}

#define TS "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\\.[0-9]{3}Z"

/* A text line has time, level and id in fixed places, and cannot be broken by what it quotes. */
static void text_line_has_its_form(void **state)
{
    start(EB_LOG_DEBUG, false);
    eb_info("EB-START", "listening on %s", "127.0.0.1:3000");
    assert_file_matches("^" TS " info  \\[EB-START\\] listening on 127\\.0\\.0\\.1:3000\n$");
    start(EB_LOG_DEBUG, false);
    eb_warn(NULL, "a\nb \"q\" \\ \xFF é");
    assert_file_matches("^" TS " warn  a\\\\x0Ab \"q\" \\\\ \\\\xFF é\n$");
}

/* A JSON line is one object with the five members, whatever the message holds. */
static void json_line_has_its_form(void **state)
{
    start(EB_LOG_DEBUG, true);
    eb_error_log("EB-DISK-LOW", "a\nb \"q\" \\ \xFF é\x7f");
    assert_file_matches(
        "^\\{\"ts\":\"" TS "\",\"level\":\"error\",\"id\":\"EB-DISK-LOW\",\"thread\":\"[^\"]+\","
        "\"msg\":\"a\\\\u000ab \\\\\"q\\\\\" \\\\\\\\ \\\\\\\\xFF é\\\\u007f\"\\}\n$");
    start(EB_LOG_DEBUG, true);
    eb_debug("plain");
    assert_file_matches("\"level\":\"debug\",\"id\":null,.*\"msg\":\"plain\"\\}\n$");
}

/* What is below the level is not written, and errno is not touched either way. */
static void level_filters(void **state)
{
    start(EB_LOG_WARN, false);
    errno = ENOSPC;
    eb_info("EB-X", "hidden");
    eb_debug("hidden");
    eb_warn(NULL, "shown: %m");
    assert_int_equal(errno, ENOSPC);
    assert_file_matches("^" TS " warn  shown: No space left on device\n$");
    assert_int_equal(eb_log_level(), EB_LOG_WARN);
}

/* A message of any length and content makes one line of at most PIPE_BUF bytes that says it was cut. */
static void long_line_is_cut(void **state)
{
    static const char *const units[] = {"a", "\n", "\xFF", "\"", "日"};
    char *message = malloc(10000);

    for (int json = 0; json < 2; json++) {
        for (size_t u = 0; u < sizeof(units) / sizeof(units[0]); u++) {
            size_t n = strlen(units[u]), len = 0;
            for (; len + n < 9999; len += n)
                memcpy(message + len, units[u], n);
            message[len] = '\0';
            start(EB_LOG_INFO, json);
            eb_info("EB-LONG", "%s", message);
            char *line = slurp(path);
            const char *end = json ? "...\"}\n" : "...\n";
            size_t all = strlen(line);
            assert_true(all <= PIPE_BUF && all > 1000);
            assert_string_equal(line + all - strlen(end), end);
            assert_ptr_equal(strchr(line, '\n'), line + all - 1);
            assert_true(eb_utf8_valid(line, all));
            free(line);
        }
    }
    free(message);
}

/* A file that cannot be opened is refused and the old output stays. */
static void bad_file_keeps_old_output(void **state)
{
    start(EB_LOG_INFO, false);
    assert_int_equal(eb_log_setup(EB_LOG_ERROR, true, "/nonexistent/log"), -ENOENT);
    eb_info("EB-STILL", "here");
    assert_file_matches("^" TS " info  \\[EB-STILL\\] here\n$");
}

/* An output that is full loses the line and leaves the caller and its errno alone. */
static void full_output_stops_nobody(void **state)
{
    assert_int_equal(eb_log_setup(EB_LOG_INFO, false, "/dev/full"), 0);
    errno = EAGAIN;
    eb_info("EB-LOST", "nobody reads this");
    assert_int_equal(errno, EAGAIN);
    start(EB_LOG_INFO, false);
    eb_info(NULL, "again");
    assert_file_matches("^" TS " info  again\n$");
}

/* After a rotation, setting up again writes to a new file of the same name. */
static void setup_again_reopens(void **state)
{
    start(EB_LOG_INFO, false);
    eb_info(NULL, "before");
    assert_int_equal(rename(path, moved), 0);
    eb_info(NULL, "between");
    assert_int_equal(eb_log_setup(EB_LOG_INFO, false, path), 0);
    eb_info(NULL, "after");
    assert_file_matches("^" TS " info  after\n$");
    char *old = slurp(moved);
    assert_non_null(strstr(old, "before\n"));
    assert_non_null(strstr(old, "between\n"));
    free(old);
}

#define WRITERS 4
#define LINES   500

static void *write_lines(void *arg)
{
    for (int i = 0; i < LINES; i++) {
        eb_info("EB-T", "%c%.*s.", *(char *)arg, 100 + i % 50,
                "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
                "xxxxxxx"
                "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
        if (i % 100 == 0)
            eb_log_setup(EB_LOG_INFO, false, path);
    }
    return NULL;
}

/* Many threads, also while the file is opened anew: every line is there and whole. */
static void lines_never_interleave(void **state)
{
    static char names[] = "abcd";
    pthread_t threads[WRITERS];
    regex_t re;
    int count = 0;

    start(EB_LOG_INFO, false);
    for (int i = 0; i < WRITERS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, write_lines, &names[i]), 0);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(regcomp(&re, "^" TS " info  \\[EB-T\\] [a-d]x+\\.$", REG_EXTENDED | REG_NOSUB),
                     0);
    char *text = slurp(path), *rest = text, *line;
    while ((line = strsep(&rest, "\n")) && *line) {
        assert_int_equal(regexec(&re, line, 0, NULL, 0), 0);
        count++;
    }
    assert_int_equal(count, WRITERS * LINES);
    regfree(&re);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLAIM("log/text_line_has_its_form", text_line_has_its_form),
        CLAIM("log/json_line_has_its_form", json_line_has_its_form),
        CLAIM("log/level_filters", level_filters),
        CLAIM("log/long_line_is_cut", long_line_is_cut),
        CLAIM("log/bad_file_keeps_old_output", bad_file_keeps_old_output),
        CLAIM("log/full_output_stops_nobody", full_output_stops_nobody),
        CLAIM("log/setup_again_reopens", setup_again_reopens),
        CLAIM("log/lines_never_interleave", lines_never_interleave),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
