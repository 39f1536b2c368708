/* test_uuid.c - message ids. */
#include "common/uuid.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include "claim.h"
#include "common/clock.h"

static const uint8_t sample[16] = {0x01, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x7a, 0xbc,
                                   0x9d, 0xef, 0x00, 0x11, 0x22, 0x33, 0x44, 0xff};

static bool parse(uint8_t out[16], const char *text)
{
    return eb_uuid_parse(out, text, strlen(text));
}

/* The usual forms, and only these, mean the same sixteen bytes. */
static void usual_forms_are_read(void **state)
{
    static const char *const forms[] = {
        "0189abcd-ef01-7abc-9def-0011223344ff",
        "0189ABCD-EF01-7ABC-9DEF-0011223344FF",
        "0189abcd-EF01-7abc-9DEF-0011223344fF",
        "0189abcdef017abc9def0011223344ff",
        "{0189abcd-ef01-7abc-9def-0011223344ff}",
        "{0189ABCDEF017ABC9DEF0011223344FF}",
        "urn:uuid:0189abcd-ef01-7abc-9def-0011223344ff",
        "URN:UUID:0189ABCD-ef01-7abc-9def-0011223344ff",
        "00000000-0000-0000-0000-000000000000",
    };
    char text[EB_UUID_TEXT + 1];
    uint8_t id[16];

    for (size_t i = 0; i < 8; i++) {
        memset(id, 0, sizeof(id));
        assert_true(parse(id, forms[i]));
        assert_memory_equal(id, sample, 16);
    }
    assert_true(parse(id, forms[8]));
    eb_uuid_format(text, sample);
    assert_string_equal(text, forms[0]);
}

/* Everything near a usual form is another string, and the output stays untouched. */
static void other_forms_are_refused(void **state)
{
    static const char *const forms[] = {
        "",
        "{}",
        "{",
        "0189abcd-ef01-7abc-9def-0011223344f",
        "0189abcd-ef01-7abc-9def-0011223344fff",
        "0189abcd-ef01-7abc-9def00-11223344ff",
        "0189abcdef01-7abc-9def-0011223344ff",
        "0189abcdef01-7abc-9def-0011223344ff0",
        "0189abcd_ef01_7abc_9def_0011223344ff",
        "0189abcd-ef01-7abc-9def-0011223344fg",
        "0189abcdef017abc9def0011223344f",
        "0189abcdef017abc9def0011223344f-",
        "{0189abcd-ef01-7abc-9def-0011223344ff",
        "0189abcd-ef01-7abc-9def-0011223344ff}",
        "(0189abcd-ef01-7abc-9def-0011223344ff)",
        "{{0189abcdef017abc9def0011223344ff}}",
        "urn:uuid:0189abcdef017abc9def0011223344ff",
        "urn:uuid:{0189abcd-ef01-7abc-9def-0011223344ff}",
        "{urn:uuid:0189abcd-ef01-7abc-9def-0011223344ff}",
        "urn-uuid:0189abcd-ef01-7abc-9def-0011223344ff",
        " 0189abcd-ef01-7abc-9def-0011223344ff",
        "0189abcd-ef01-7abc-9def-0011223344ff\n",
        "0x89abcdef017abc9def0011223344ff",
        "0189abcd-ef01-7abc-9def-00112233\x10\x11\x12\x13",
    };
    uint8_t id[16], before[16];

    memset(before, 0x5A, sizeof(before));
    memcpy(id, before, sizeof(id));
    for (size_t i = 0; i < sizeof(forms) / sizeof(forms[0]); i++) {
        if (parse(id, forms[i]))
            fail_msg("\"%s\" was taken", forms[i]);
        assert_memory_equal(id, before, sizeof(id));
    }
    assert_false(eb_uuid_parse(id, "0189abcdef017abc\0def0011223344ff", 32));
}

/* Of all 256 bytes only hexadecimal digits are digits. */
static void only_hex_digits_are_digits(void **state)
{
    char text[32];
    uint8_t id[16];

    for (int c = 0; c < 256; c++) {
        memset(text, '0', sizeof(text));
        text[17] = (char)c;
        bool digit = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
        assert_int_equal(eb_uuid_parse(id, text, 32), digit);
    }
}

static void check_v5(const void *name, size_t len, const char *want)
{
    char text[EB_UUID_TEXT + 1];
    uint8_t id[16];

    eb_uuid_v5(id, name, len);
    eb_uuid_format(text, id);
    assert_string_equal(text, want);
}

/* The namespace can be recomputed by anybody, and another implementation gives the same ids. */
static void v5_agrees_with_libuuid(void **state)
{
    uint8_t want[16], id[16];
    uuid_t dns;

    assert_int_equal(uuid_parse("6ba7b810-9dad-11d1-80b4-00c04fd430c8", dns), 0);
    uuid_generate_sha1(want, dns, "eventbus", 8);
    assert_memory_equal(eb_uuid_namespace, want, 16);
    for (size_t len = 0; len < 200; len++) {
        char name[200];
        memset(name, (int)len, sizeof(name));
        uuid_generate_sha1(want, eb_uuid_namespace, name, len);
        eb_uuid_v5(id, name, len);
        assert_memory_equal(id, want, 16);
    }
    check_v5("", 0, "395c9b77-8b72-57c4-97b6-594575762e95");
    check_v5("order-17", 8, "500e8bc6-72f2-5b5b-9583-be844da4c4d7");
    check_v5("hello", 5, "4bbd41b4-6f2f-5adc-b173-5a7e36d8ef64");
    check_v5("日本", 6, "79f8b62e-b1f3-5084-91ea-1a700406fcf6");
    check_v5("src\0id", 6, "bab2679e-1730-5595-ac5d-7886ba5698cd");
}

/* Version, variant and clock of a v7 are where RFC 9562 puts them. */
static void v7_has_its_fields(void **state)
{
    uint8_t id[16];
    int64_t before = eb_wall_ms();
    eb_uuid_v7(id);
    int64_t after = eb_wall_ms(), ms = 0;

    for (int i = 0; i < 6; i++)
        ms = ms << 8 | id[i];
    assert_true(ms >= before && ms <= after);
    assert_int_equal(id[6] >> 4, 7);
    assert_int_equal(id[8] >> 6, 2);
    eb_uuid_v4(id);
    assert_int_equal(id[6] >> 4, 4);
    assert_int_equal(id[8] >> 6, 2);
}

#define THREADS 4
#define EACH    20000

static uint8_t made[THREADS][EACH][16];

static void *make(void *arg)
{
    uint8_t(*ids)[16] = arg;

    for (int i = 0; i < EACH; i++)
        eb_uuid_v7(ids[i]);
    return NULL;
}

static int order(const void *a, const void *b)
{
    return memcmp(a, b, 16);
}

/* Ids rise within each thread, and all threads together never make one twice, nor two of one tick. */
static void v7_rises_and_never_repeats(void **state)
{
    pthread_t threads[THREADS];

    for (int t = 0; t < THREADS; t++)
        assert_int_equal(pthread_create(&threads[t], NULL, make, made[t]), 0);
    for (int t = 0; t < THREADS; t++)
        pthread_join(threads[t], NULL);
    for (int t = 0; t < THREADS; t++) {
        for (int i = 1; i < EACH; i++)
            assert_true(memcmp(made[t][i - 1], made[t][i], 16) < 0);
    }
    uint8_t(*all)[16] = made[0];
    qsort(all, THREADS * EACH, 16, order);
    for (int i = 1; i < THREADS * EACH; i++)
        assert_true(memcmp(all[i - 1], all[i], 8) < 0); /* the first 8 bytes hold the whole tick */
}

/* The random bytes of a v4 have each bit set about half of the time. */
static void v4_is_random(void **state)
{
    int set[128] = {0};

    for (int n = 0; n < 4000; n++) {
        uint8_t id[16];
        eb_uuid_v4(id);
        for (int bit = 0; bit < 128; bit++)
            set[bit] += id[bit / 8] >> (bit % 8) & 1;
    }
    for (int bit = 0; bit < 128; bit++) {
        bool fixed = bit / 8 == 6 ? bit % 8 >= 4 : bit / 8 == 8 && bit % 8 >= 6;
        assert_true(fixed || (set[bit] > 1700 && set[bit] < 2300)); /* 9 standard deviations */
    }
}

/* A forked child does not hand out the random bytes that its parent had in store. */
static void child_makes_other_ids(void **state)
{
    uint8_t mine[16], its[16];
    int fds[2], status;

    eb_uuid_v4(mine); /* fills the store */
    assert_int_equal(pipe(fds), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        eb_uuid_v4(its);
        _exit(write(fds[1], its, 16) == 16 ? 0 : 1);
    }
    eb_uuid_v4(mine);
    assert_int_equal(read(fds[0], its, 16), 16);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_memory_not_equal(mine, its, 16);
    close(fds[0]);
    close(fds[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLAIM("uuid/usual_forms_are_read", usual_forms_are_read),
        CLAIM("uuid/other_forms_are_refused", other_forms_are_refused),
        CLAIM("uuid/only_hex_digits_are_digits", only_hex_digits_are_digits),
        CLAIM("uuid/v5_agrees_with_libuuid", v5_agrees_with_libuuid),
        CLAIM("uuid/v7_has_its_fields", v7_has_its_fields),
        CLAIM("uuid/v7_rises_and_never_repeats", v7_rises_and_never_repeats),
        CLAIM("uuid/v4_is_random", v4_is_random),
        CLAIM("uuid/child_makes_other_ids", child_makes_other_ids),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
