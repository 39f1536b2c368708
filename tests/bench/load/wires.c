/* wires.c - the table of protocols, by the names that --target takes. */
#include "load.h"

extern const struct wire wire_eventbus_json, wire_eventbus_bin, wire_eventbus_http,
    wire_eventbus_sse, wire_nats, wire_nats_ws, wire_jetstream, wire_redis, wire_nchan,
    wire_mosquitto;

const struct wire *const wires[] = {
    &wire_eventbus_json,
    &wire_eventbus_bin,
    &wire_eventbus_http,
    &wire_eventbus_sse,
    &wire_nats,
    &wire_nats_ws,
    &wire_jetstream,
    &wire_redis,
    &wire_nchan,
    &wire_mosquitto,
    NULL,
};
