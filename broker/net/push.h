/* push.h - consumers that call webhooks: between the bus, which hands out, and webhook.h, which posts. */
#pragma once

#include <stdatomic.h>

#include "broker/bus/consumers.h"
#include "broker/net/net.h"

struct eb_push;

struct eb_push_counters {
    uint64_t taken, failed, refused, gone;
    uint64_t under_way;
};

/** Takes the webhooks of @bus on. 0, -ENOMEM, -EINVAL (webhook_allow). */
int eb_push_create(struct eb_bus *bus, const struct eb_net_config *config, struct eb_push **ret);
/** webhook_allow anew. */
int eb_push_reconfigure(struct eb_push *push, const struct eb_net_config *config);
/** No further call begins. */
void eb_push_quiesce(struct eb_push *push);
/** Give those under way until @deadline_ms, then end them. The bus still runs. NULL is fine. */
void eb_push_stop(struct eb_push *push, int64_t deadline_ms);
void eb_push_destroy(struct eb_push *push); /* NULL is fine */
void eb_push_counters(struct eb_push *push, struct eb_push_counters *ret);
