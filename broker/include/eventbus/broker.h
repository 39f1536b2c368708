/*
 * <eventbus/broker.h> - run an eventbus broker inside a C program.
 *
 * Written by the embedding room; see docs/embedding.md.
 */
#ifndef EVENTBUS_BROKER_H
#define EVENTBUS_BROKER_H
#endif
