/* Control frames that wait to be sent: order, the half-sent one, what gives way, what ends it all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "broker/net/ws_internal.h"

static size_t peek(struct eb_ws_control *control, uint8_t out[EB_WS_CONTROL_CAP])
{
    memset(out, 0, EB_WS_CONTROL_CAP);
    return eb_ws_control_peek(control, out);
}

/* Frames are encoded as RFC 6455 5.5 has them and leave in the order they came. */
static void frames_leave_in_order(void **state)
{
    struct eb_ws_control control = {0};
    uint8_t out[EB_WS_CONTROL_CAP];

    assert_int_equal(peek(&control, out), 0);
    assert_true(eb_ws_control_push(&control, EB_WS_PONG, "ab", 2));
    assert_true(eb_ws_control_push(&control, EB_WS_PING, NULL, 0));
    assert_int_equal(peek(&control, out), 6);
    assert_memory_equal(out,
                        "\x8a\x02"
                        "ab\x89\x00",
                        6);
    eb_ws_control_sent(&control, 6);
    assert_int_equal(peek(&control, out), 0);
    eb_ws_control_finish(&control);
}

/* What the kernel took stays taken, at every place where it may have stopped. */
static void a_half_sent_frame_is_continued(void **state)
{
    for (size_t cut = 0; cut <= 9; cut++) {
        struct eb_ws_control control = {0};
        uint8_t out[EB_WS_CONTROL_CAP];
        eb_ws_control_push(&control, EB_WS_PONG, "abc", 3);
        eb_ws_control_push(&control, EB_WS_PONG, "de", 2);
        eb_ws_control_sent(&control, cut);
        assert_int_equal(peek(&control, out), 9 - cut);
        const char whole[] = "\x8a\x03"
                             "abc\x8a\x02"
                             "de";
        assert_memory_equal(out, whole + cut, 9 - cut);
        eb_ws_control_finish(&control);
    }
}

/* The oldest pongs give way when it is full, but never one of which the peer has a part. */
static void old_pongs_give_way_but_not_the_half_sent(void **state)
{
    struct eb_ws_control control = {0};
    uint8_t out[EB_WS_CONTROL_CAP], body[125] = {0};

    for (int i = 0; i < 100; i++) {
        body[0] = (uint8_t)i;
        assert_true(eb_ws_control_push(&control, EB_WS_PONG, body, sizeof(body)));
        if (i == 0)
            eb_ws_control_sent(&control, 1);
    }
    size_t len = peek(&control, out);
    assert_int_equal(out[0], 125); /* the rest of the first: its header's second byte */
    assert_int_equal(out[1], 0);
    assert_int_equal(out[len - 125], 99); /* the newest is there */
    assert_int_equal((len + 1) % 127, 0); /* and all of them whole */
    eb_ws_control_finish(&control);
}

/* Pings and the close frame are not dropped for pongs; pongs are dropped for them. */
static void a_close_finds_room_and_ends_it(void **state)
{
    struct eb_ws_control control = {0};
    uint8_t out[EB_WS_CONTROL_CAP], body[125] = {0};

    for (int i = 0; i < 40; i++)
        eb_ws_control_push(&control, EB_WS_PONG, body, sizeof(body));
    assert_true(eb_ws_control_push(&control, EB_WS_CLOSE, "\x03\xe8", 2));
    assert_false(eb_ws_control_push(&control, EB_WS_PONG, "late", 4));
    assert_false(eb_ws_control_push(&control, EB_WS_CLOSE, "\x03\xe9", 2));
    size_t len = peek(&control, out);
    assert_memory_equal(out + len - 4, "\x88\x02\x03\xe8", 4);
    eb_ws_control_sent(&control, len);
    assert_true(control.closing);
    assert_int_equal(control.len, 0);
    eb_ws_control_finish(&control);
}

/* A control frame has at most 125 bytes. */
static void a_long_body_is_refused(void **state)
{
    struct eb_ws_control control = {0};
    uint8_t body[126] = {0};

    assert_false(eb_ws_control_push(&control, EB_WS_PONG, body, sizeof(body)));
    eb_ws_control_finish(&control);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"control/frames_leave_in_order", frames_leave_in_order, NULL, NULL, NULL},
        {"control/a_half_sent_frame_is_continued", a_half_sent_frame_is_continued, NULL, NULL,
         NULL},
        {"control/old_pongs_give_way_but_not_the_half_sent",
         old_pongs_give_way_but_not_the_half_sent, NULL, NULL, NULL},
        {"control/a_close_finds_room_and_ends_it", a_close_finds_room_and_ends_it, NULL, NULL,
         NULL},
        {"control/a_long_body_is_refused", a_long_body_is_refused, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("ws_control", tests, NULL, NULL);
}
