/* ws_control.c - the control frames (ping, pong, close) that wait to be sent on one connection. */
#include <stdlib.h>
#include <string.h>

#include "broker/net/ws_internal.h"

#define HEADER  2 /* control frames have at most 125 bytes: always the short header */
#define OPCODE  0x0f
#define MAX_LEN 125

void eb_ws_control_finish(struct eb_ws_control *control)
{
    free(control->bytes);
    memset(control, 0, sizeof(*control));
}

static size_t frame_size(const uint8_t *frame)
{
    return HEADER + (size_t)frame[1];
}

static void cut(struct eb_ws_control *control, size_t at, size_t size)
{
    memmove(control->bytes + at, control->bytes + at + size, control->len - at - size);
    control->len = (uint16_t)(control->len - size);
}

/* Drop the oldest pong of which nothing was sent yet. False: there is none. */
static bool drop_pong(struct eb_ws_control *control)
{
    size_t at = control->head_sent > 0 ? frame_size(control->bytes) : 0;

    while (at < control->len) {
        if ((control->bytes[at] & OPCODE) == EB_WS_PONG) {
            cut(control, at, frame_size(control->bytes + at));
            return true;
        }
        at += frame_size(control->bytes + at);
    }
    return false;
}

bool eb_ws_control_push(struct eb_ws_control *control, int opcode, const void *data, size_t len)
{
    if (control->closing || len > MAX_LEN)
        return false;
    if (!control->bytes && !(control->bytes = malloc(EB_WS_CONTROL_CAP)))
        return false;
    while (control->len + HEADER + len > EB_WS_CONTROL_CAP)
        if (!drop_pong(control))
            return false;
    unsigned char header[EB_WS_HEADER_MAX];
    size_t size = eb_ws_header(header, opcode, len);
    memcpy(control->bytes + control->len, header, size);
    if (len > 0)
        memcpy(control->bytes + control->len + size, data, len);
    control->len = (uint16_t)(control->len + size + len);
    control->closing = opcode == EB_WS_CLOSE;
    return true;
}

size_t eb_ws_control_peek(const struct eb_ws_control *control, uint8_t out[EB_WS_CONTROL_CAP])
{
    size_t len = (size_t)(control->len - control->head_sent);

    if (len > 0)
        memcpy(out, control->bytes + control->head_sent, len);
    return len;
}

void eb_ws_control_sent(struct eb_ws_control *control, size_t bytes)
{
    size_t sent = control->head_sent + bytes, whole = 0;

    while (whole < control->len && whole + frame_size(control->bytes + whole) <= sent)
        whole += frame_size(control->bytes + whole);
    if (whole > 0)
        cut(control, 0, whole);
    control->head_sent = (uint16_t)(sent - whole);
}
