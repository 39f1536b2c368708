/* A request's id in the room that a bus request has for it, and outside when it is longer. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "broker/net/ws_internal.h"

/* Every length comes back as it was given, on both sides of the room's end. */
static void every_length_comes_back(void **state)
{
    static const size_t lengths[] = {0, 1, 191, 192, 193, 254, 255, 256, 770};
    char text[770];

    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = (char)('a' + i % 26);
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
        char room[EB_WS_ID_INLINE];
        uint8_t room_len = 7;
        size_t len = 99;
        assert_true(eb_ws_id_keep(room, &room_len, text, lengths[i]));
        const char *got = eb_ws_id_get(room, room_len, &len);
        assert_int_equal(len, lengths[i]);
        assert_memory_equal(got, text, len);
        eb_ws_id_drop(room, &room_len);
        assert_int_equal(room_len, 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"id/every_length_comes_back", every_length_comes_back, NULL, NULL, NULL},
    };
    return cmocka_run_group_tests_name("ws_id", tests, NULL, NULL);
}
