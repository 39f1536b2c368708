/* embed_fixture.h - a broker on a file of its own, and a subscriber that remembers what it was given. */
#pragma once

#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "broker/include/eventbus/broker.h"
#include "tests/unit/common/claim.h"

enum { PATIENCE_S = 60 };

struct seen {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    size_t count, gaps, lives;
    uint64_t *seqs; /* count of them, in room for seqs_room: a fast machine is asked no limit */
    size_t seqs_room;
    uint64_t gap_to, live_at;
    char reason[32], last[256];
    bool held; /* callbacks wait while it is set */
    bool inside;
};

static char folder[64], db[96], err[EB_BROKER_ERROR];

static inline int folder_make(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/eventbus-embed-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(db, sizeof db, "%s/a.db", folder);
    err[0] = '\0';
    eb_broker_log("error", "text", NULL);
    return 0;
}

static inline int folder_remove(void **state)
{
    (void)state;
    DIR *dir = opendir(folder);
    char path[512];
    for (struct dirent *entry; (entry = readdir(dir));) {
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        unlink(path);
    }
    closedir(dir);
    return rmdir(folder);
}

/* Start with @settings (key, value, …, NULL); @path NULL: the fixture's file. */
static inline int try_start(const char *path, const char *const *settings, eb_broker **ret)
{
    eb_broker_config *config = eb_broker_config_create();
    assert_non_null(config);
    assert_int_equal(eb_broker_config_set(config, "db", path ? path : db, err), 0);
    for (; settings && *settings; settings += 2)
        if (eb_broker_config_set(config, settings[0], settings[1], err) != 0)
            fail_msg("%s", err);
    int rc = eb_broker_start(config, ret, err);
    eb_broker_config_destroy(config);
    return rc;
}

static inline eb_broker *start(const char *const *settings)
{
    eb_broker *broker = NULL;
    if (try_start(NULL, settings, &broker) != 0)
        fail_msg("%s", err);
    return broker;
}

static inline uint64_t publish(eb_broker *broker, const char *topic, const char *payload)
{
    eb_broker_publish event = {
        .topic = topic, .payload = payload, .payload_len = strlen(payload), .ttl_s = -1};
    eb_broker_ack ack;
    if (eb_broker_publish_event(broker, &event, &ack, err) != 0)
        fail_msg("%s", err);
    return ack.seq;
}

/* @count events on @topic in one batch. */
static inline void publish_many(eb_broker *broker, const char *topic, size_t count)
{
    eb_broker_publish *events = calloc(count, sizeof *events);
    for (size_t i = 0; i < count; i++)
        events[i] = (eb_broker_publish){
            .topic = topic, .payload = "0123456789", .payload_len = 10, .ttl_s = -1};
    if (eb_broker_publish_batch(broker, events, count, NULL, err) != 0)
        fail_msg("%s", err);
    free(events);
}

/* ---- what a subscriber has seen ---- */

static inline struct seen *seen_make(void)
{
    struct seen *seen = calloc(1, sizeof *seen);
    pthread_mutex_init(&seen->lock, NULL);
    pthread_cond_init(&seen->cond, NULL);
    return seen;
}

static inline void seen_free(struct seen *seen)
{
    pthread_mutex_destroy(&seen->lock);
    pthread_cond_destroy(&seen->cond);
    free(seen->seqs);
    free(seen);
}

static inline void on_event(void *user, const eb_message *message)
{
    struct seen *seen = user;
    pthread_mutex_lock(&seen->lock);
    seen->inside = true;
    pthread_cond_broadcast(&seen->cond);
    while (seen->held)
        pthread_cond_wait(&seen->cond, &seen->lock);
    if (seen->count == seen->seqs_room) {
        seen->seqs_room = seen->seqs_room ? 2 * seen->seqs_room : 64;
        seen->seqs = realloc(seen->seqs, seen->seqs_room * sizeof *seen->seqs);
        if (!seen->seqs)
            abort();
    }
    seen->seqs[seen->count++] = message->seq;
    snprintf(seen->last, sizeof seen->last, "%s %.*s %s", message->topic, (int)message->payload_len,
             (const char *)message->payload, message->headers ? message->headers : "");
    seen->inside = false;
    pthread_cond_broadcast(&seen->cond);
    pthread_mutex_unlock(&seen->lock);
}

static inline void on_gap(void *user, uint64_t from_seq, uint64_t to_seq, const char *reason)
{
    struct seen *seen = user;
    (void)from_seq;
    pthread_mutex_lock(&seen->lock);
    seen->gaps++;
    seen->gap_to = to_seq;
    snprintf(seen->reason, sizeof seen->reason, "%s", reason);
    pthread_cond_broadcast(&seen->cond);
    pthread_mutex_unlock(&seen->lock);
}

static inline void on_live(void *user, uint64_t seq)
{
    struct seen *seen = user;
    pthread_mutex_lock(&seen->lock);
    seen->lives++;
    seen->live_at = seq;
    pthread_cond_broadcast(&seen->cond);
    pthread_mutex_unlock(&seen->lock);
}

static const eb_broker_handler remember = {on_event, on_gap, on_live};

/* Wait until *@value >= @want. */
static inline void wait_at_least(struct seen *seen, const size_t *value, size_t want)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_S;
    pthread_mutex_lock(&seen->lock);
    int rc = 0;
    while (*value < want && rc == 0)
        rc = pthread_cond_timedwait(&seen->cond, &seen->lock, &until);
    size_t is = *value;
    pthread_mutex_unlock(&seen->lock);
    if (is < want)
        fail_msg("waited for %zu, there are %zu", want, is);
}

static inline void wait_inside(struct seen *seen)
{
    pthread_mutex_lock(&seen->lock);
    while (!seen->inside)
        pthread_cond_wait(&seen->cond, &seen->lock);
    pthread_mutex_unlock(&seen->lock);
}

static inline void hold(struct seen *seen, bool held)
{
    pthread_mutex_lock(&seen->lock);
    seen->held = held;
    pthread_cond_broadcast(&seen->cond);
    pthread_mutex_unlock(&seen->lock);
}

static inline eb_broker_subscription *subscribe(eb_broker *broker, const char *pattern,
                                                uint64_t starting_seq, struct seen *seen)
{
    const char *patterns[] = {pattern, NULL};
    eb_broker_subscription *sub = NULL;
    if (eb_broker_subscribe(broker, patterns, starting_seq, &remember, seen, &sub, err) != 0)
        fail_msg("%s", err);
    return sub;
}

static inline void assert_seqs(const struct seen *seen, uint64_t first, size_t count)
{
    assert_int_equal(seen->count, count);
    for (size_t i = 0; i < count; i++)
        assert_int_equal(seen->seqs[i], first + i);
}

static inline size_t entries(const char *path)
{
    size_t count = 0;
    DIR *dir = opendir(path);
    while (readdir(dir))
        count++;
    closedir(dir);
    return count;
}
