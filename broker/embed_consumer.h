/* embed_consumer.h - what embed_consumer.c (requests about consumers) and embed_worker.c share. */
#pragma once

#include "broker/broker.h"
#include "broker/bus/consumers.h"

/** Is it there, or with @settings (JSON, or NULL) made? Waits for its commit. 0, or -1 with @error. */
int eb_embed_consumer_ensure(eb_broker *broker, const char *name, const char *settings,
                             struct eb_error *error);
