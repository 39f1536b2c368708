/* test_buf.c - the growing buffer and the shared frame. */
#include "common/buf.h"

#include <string.h>

#include "claim.h"

/* What is appended in any way comes out joined, whatever growth happens between. */
static void appends_join(void **state)
{
    struct eb_buf buf = EB_BUF_INIT;
    size_t want = 0;

    for (int i = 0; i < 1000; i++) {
        eb_buf_str(&buf, "abc");
        eb_buf_add(&buf, "\0d", 2);
        eb_buf_printf(&buf, "%04d", i);
        want += 9;
    }
    assert_false(eb_buf_failed(&buf));
    assert_int_equal(buf.len, want);
    assert_memory_equal(buf.data, "abc\0d0000abc\0d0001", 18);
    assert_memory_equal(buf.data + want - 9, "abc\0d0999", 9);
    eb_buf_finish(&buf);
    assert_null(buf.data);
}

/* A formatted text is whole when it ends exactly at, before and behind the end of the room. */
static void printf_is_whole_at_each_boundary(void **state)
{
    char text[300];

    memset(text, 'x', sizeof(text));
    for (size_t fill = 250; fill <= 258; fill++) {
        for (int len = 0; len < 10; len++) {
            struct eb_buf buf = EB_BUF_INIT;
            eb_buf_add(&buf, text, fill);
            eb_buf_printf(&buf, "%.*s", len, "0123456789");
            assert_int_equal(buf.len, fill + (size_t)len);
            assert_memory_equal(buf.data + fill, "0123456789", (size_t)len);
            eb_buf_finish(&buf);
        }
    }
}

/* A buffer that cannot grow says so, keeps what it has and ignores what comes after. */
static void failure_sticks(void **state)
{
    struct eb_buf buf = EB_BUF_INIT;

    eb_buf_str(&buf, "kept");
    assert_null(eb_buf_reserve(&buf, SIZE_MAX - 2)); /* len + more wraps */
    assert_true(eb_buf_failed(&buf));
    eb_buf_str(&buf, "more");
    eb_buf_printf(&buf, "more");
    assert_null(eb_buf_reserve(&buf, 1));
    assert_int_equal(buf.len, 4);
    eb_buf_finish(&buf);
    assert_false(eb_buf_failed(&buf));
    eb_buf_str(&buf, "again");
    assert_int_equal(buf.len, 5);
    eb_buf_finish(&buf);
}

/* Nothing may be appended, also to an empty buffer, and room for nothing is a pointer. */
static void nothing_is_fine(void **state)
{
    struct eb_buf buf = EB_BUF_INIT;

    eb_buf_add(&buf, NULL, 0);
    eb_buf_str(&buf, "");
    eb_buf_printf(&buf, "%s", "");
    assert_non_null(eb_buf_reserve(&buf, 0));
    assert_int_equal(buf.len, 0);
    assert_false(eb_buf_failed(&buf));
    eb_buf_finish(&buf);
}

/* A frame holds a copy, also of nothing, and lives until its last holder lets go. */
static void frame_lives_until_its_last_holder(void **state)
{
    char text[] = "abc";
    struct eb_frame *frame = eb_frame_from(text, 3);

    text[0] = 'x';
    assert_int_equal(frame->len, 3);
    assert_ptr_equal(eb_frame_ref(frame), frame);
    eb_frame_unref(frame);
    assert_memory_equal(frame->data, "abc", 3);
    eb_frame_unref(frame);

    frame = eb_frame_from(NULL, 0);
    assert_int_equal(frame->len, 0);
    eb_frame_unref(frame);
    frame = eb_frame_create(10);
    assert_int_equal(frame->len, 0);
    assert_int_equal(frame->cap, 10);
    memset(frame->data, 0, 10);
    eb_frame_unref(frame);
    eb_frame_unref(NULL);
    assert_null(eb_frame_create((size_t)UINT32_MAX + 1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CLAIM("buf/appends_join", appends_join),
        CLAIM("buf/printf_is_whole_at_each_boundary", printf_is_whole_at_each_boundary),
        CLAIM("buf/failure_sticks", failure_sticks),
        CLAIM("buf/nothing_is_fine", nothing_is_fine),
        CLAIM("frame/lives_until_its_last_holder", frame_lives_until_its_last_holder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
