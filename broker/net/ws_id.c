/*
 * ws_id.c - a request's `id`, kept as the JSON text it came as until its answer.
 *
 * Nearly all fit into the room that a bus request has. A string of 128 bytes may be six times as long when
 * written in escapes: then the room holds a pointer to a copy.
 */
#include <stdlib.h>
#include <string.h>

#include "broker/net/ws_internal.h"

#define ELSEWHERE 255 /* as room_len: above any inline length */

struct outside {
    char *text;
    size_t len;
};

bool eb_ws_id_keep(char room[EB_WS_ID_INLINE], uint8_t *room_len, const char *text, size_t len)
{
    if (len <= EB_WS_ID_INLINE) {
        if (len > 0)
            memcpy(room, text, len);
        *room_len = (uint8_t)len;
        return true;
    }
    struct outside out = {malloc(len), len};
    if (!out.text)
        return false;
    memcpy(out.text, text, len);
    memcpy(room, &out, sizeof(out));
    *room_len = ELSEWHERE;
    return true;
}

const char *eb_ws_id_get(const char room[EB_WS_ID_INLINE], uint8_t room_len, size_t *ret_len)
{
    if (room_len != ELSEWHERE) {
        *ret_len = room_len;
        return room;
    }
    struct outside out;
    memcpy(&out, room, sizeof(out));
    *ret_len = out.len;
    return out.text;
}

void eb_ws_id_drop(char room[EB_WS_ID_INLINE], uint8_t *room_len)
{
    if (*room_len == ELSEWHERE) {
        struct outside out;
        memcpy(&out, room, sizeof(out));
        free(out.text);
    }
    *room_len = 0;
}
