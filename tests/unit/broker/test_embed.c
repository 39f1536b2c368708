/* test_embed.c - <eventbus/broker.h> as a program uses it: real files, real threads. */
#include "tests/unit/broker/embed_fixture.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

/* ---- publish ---- */

/* What publish returned is in the log, and still there after a restart. */
static void publish_returns_after_the_commit(void **state)
{
    eb_broker *broker = start(NULL);
    char epoch[40];
    assert_int_equal(publish(broker, "user.created", "one"), 1);
    assert_int_equal(publish(broker, "user.created", "two"), 2);
    assert_int_equal(eb_broker_last_seq(broker), 2);
    snprintf(epoch, sizeof epoch, "%s", eb_broker_epoch(broker));
    eb_broker_stop(broker);
    broker = start(NULL);
    assert_int_equal(eb_broker_last_seq(broker), 2);
    assert_string_equal(eb_broker_epoch(broker), epoch);
    struct seen *seen = seen_make();
    subscribe(broker, "#", 1, seen);
    wait_at_least(seen, &seen->count, 2);
    assert_seqs(seen, 1, 2);
    assert_string_equal(seen->last, "user.created two ");
    eb_broker_stop(broker);
    seen_free(seen);
}

/* The same id twice: the same event is a duplicate with the first seq, another one is refused. */
static void publish_knows_its_duplicates(void **state)
{
    eb_broker *broker = start(NULL);
    eb_broker_publish event = {.topic = "user.created",
                               .payload = "alice",
                               .payload_len = 5,
                               .message_id = "user-1",
                               .ttl_s = -1};
    eb_broker_ack first, second;
    assert_int_equal(eb_broker_publish_event(broker, &event, &first, err), 0);
    assert_false(first.duplicate);
    assert_int_equal(eb_broker_publish_event(broker, &event, &second, err), 0);
    assert_true(second.duplicate);
    assert_int_equal(second.seq, first.seq);
    assert_string_equal(second.message_id, first.message_id);
    event.payload = "mallo";
    assert_int_equal(eb_broker_publish_event(broker, &event, &second, err), -EEXIST);
    assert_int_equal(eb_broker_last_seq(broker), 1);
    eb_broker_stop(broker);
}

/* Each refusal has its errno and says what was wrong; nothing is stored; @err and @ret may be NULL. */
static void publish_refuses_with_errno_and_a_sentence(void **state)
{
    static const char *const settings[] = {"max_payload", "1K", NULL};
    static const char *const odd[] = {"name", NULL};
    static char large[2000];
    static const struct {
        eb_broker_publish event;
        int rc;
        const char *says;
    } cases[] = {
        {{.topic = "user..created"}, -EINVAL, "user..created"},
        {{.topic = NULL}, -EINVAL, "topic"},
        {{.topic = "$dead.x"}, -EPERM, "$"},
        {{.topic = "a", .message_id = ""}, -EINVAL, "id"},
        {{.topic = "a", .headers = odd}, -EINVAL, "pairs"},
        {{.topic = "a", .payload = large, .payload_len = sizeof large}, -EMSGSIZE, "1024"},
    };
    eb_broker *broker = start(settings);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        err[0] = '\0';
        assert_int_equal(eb_broker_publish_event(broker, &cases[i].event, NULL, err), cases[i].rc);
        if (!strstr(err, cases[i].says))
            fail_msg("\"%s\" does not say \"%s\"", err, cases[i].says);
        assert_int_equal(eb_broker_publish_event(broker, &cases[i].event, NULL, NULL), cases[i].rc);
    }
    assert_int_equal(eb_broker_last_seq(broker), 0);
    eb_broker_stop(broker);
}

/* Headers and a content type arrive as they were given. */
static void publish_carries_headers(void **state)
{
    static const char *const headers[] = {"traceparent", "00-1", NULL};
    eb_broker *broker = start(NULL);
    struct seen *seen = seen_make();
    subscribe(broker, "a", EB_BROKER_LIVE, seen);
    eb_broker_publish event = {.topic = "a", .headers = headers, .ttl_s = -1};
    assert_int_equal(eb_broker_publish_event(broker, &event, NULL, NULL), 0);
    wait_at_least(seen, &seen->count, 1);
    assert_string_equal(seen->last, "a  {\"traceparent\":\"00-1\"}");
    eb_broker_stop(broker);
    seen_free(seen);
}

/* A batch is stored whole with consecutive seqs, or not at all. */
static void batch_is_all_or_none(void **state)
{
    eb_broker *broker = start(NULL);
    eb_broker_publish events[] = {
        {.topic = "a", .message_id = "m1"}, {.topic = "b"}, {.topic = "a", .message_id = "m1"}};
    eb_broker_ack acks[3];
    assert_int_equal(eb_broker_publish_batch(broker, events, 3, acks, err), 0);
    assert_int_equal(acks[0].seq, 1);
    assert_int_equal(acks[1].seq, 2);
    assert_true(acks[2].duplicate);
    assert_int_equal(acks[2].seq, 1);
    events[1].topic = "b..";
    events[0].message_id = NULL;
    assert_int_equal(eb_broker_publish_batch(broker, events, 3, acks, err), -EINVAL);
    assert_int_equal(eb_broker_last_seq(broker), 2);
    assert_int_equal(eb_broker_publish_batch(broker, NULL, 0, NULL, err), 0);
    eb_broker_stop(broker);
}

/* An ack is of something that is there, and may be repeated. */
static void acknowledge_knows_the_end_of_the_log(void **state)
{
    eb_broker *broker = start(NULL);
    publish(broker, "a", "");
    assert_int_equal(eb_broker_acknowledge(broker, 1, err), 0);
    assert_int_equal(eb_broker_acknowledge(broker, 1, err), 0);
    assert_int_equal(eb_broker_acknowledge(broker, 2, err), -ENOENT);
    assert_non_null(strstr(err, "2"));
    assert_int_equal(eb_broker_acknowledge(broker, 2, NULL), -ENOENT);
    eb_broker_stop(broker);
}

/* ---- subscribe ---- */

/* What was there comes first, then `live`, then what is new: in order, once, and only what matches. */
static void subscribe_replays_then_lives(void **state)
{
    eb_broker *broker = start(NULL);
    struct seen *seen = seen_make();
    publish_many(broker, "chat.a", 500);
    subscribe(broker, "chat.*", 1, seen);
    wait_at_least(seen, &seen->lives, 1);
    publish_many(broker, "chat.b", 500);
    wait_at_least(seen, &seen->count, 1000);
    publish(broker, "user.a", "");
    publish(broker, "chat.a", "");
    wait_at_least(seen, &seen->count, 1001);
    assert_int_equal(seen->gaps, 0);
    assert_int_equal(seen->seqs[1000], 1002);
    seen->count = 1000;
    assert_seqs(seen, 1, 1000);
    eb_broker_stop(broker);
    seen_free(seen);
}

/* The newest of each topic that matches, in seq order, then `live`, then what comes. */
static void subscribe_to_the_newest_of_each_topic(void **state)
{
    static const uint64_t want[] = {2, 4, 6};
    eb_broker *broker = start(NULL);
    struct seen *seen = seen_make();
    publish(broker, "t.a", "old");
    publish(broker, "t.b", "");
    publish(broker, "u.a", "");
    publish(broker, "t.a", "new");
    publish(broker, "u.a", "");
    subscribe(broker, "t.*", EB_BROKER_LAST, seen);
    wait_at_least(seen, &seen->lives, 1);
    publish(broker, "t.b", "");
    wait_at_least(seen, &seen->count, 3);
    assert_memory_equal(seen->seqs, want, sizeof want);
    assert_int_equal(seen->gaps, 0);
    eb_broker_stop(broker);
    seen_free(seen);
}

/* Live only: nothing of before. Several patterns: one stream, each event once. */
static void subscribe_live_gives_only_what_is_new(void **state)
{
    static const char *const patterns[] = {"a.*", "a.b", "#", NULL};
    eb_broker *broker = start(NULL);
    struct seen *seen = seen_make();
    eb_broker_subscription *sub;
    publish_many(broker, "a.b", 10);
    assert_int_equal(
        eb_broker_subscribe(broker, patterns, EB_BROKER_LIVE, &remember, seen, &sub, err), 0);
    publish_many(broker, "a.b", 10);
    wait_at_least(seen, &seen->count, 10);
    assert_seqs(seen, 11, 10);
    eb_broker_unsubscribe(sub);
    eb_broker_stop(broker);
    seen_free(seen);
}

/* A seq that this log never gave proves another history: a gap, and then everything. */
static void subscribe_tells_a_gap(void **state)
{
    eb_broker *broker = start(NULL);
    struct seen *seen = seen_make();
    publish_many(broker, "a", 3);
    subscribe(broker, "#", 1000, seen);
    wait_at_least(seen, &seen->count, 3);
    assert_int_equal(seen->gaps, 1);
    assert_string_equal(seen->reason, "epoch");
    assert_seqs(seen, 1, 3);
    eb_broker_stop(broker);
    seen_free(seen);
}

/* A bad pattern or none: refused with a sentence, and the handle stays as it was. */
static void subscribe_refuses_with_errno(void **state)
{
    static const char *const bad[] = {"a*", NULL}, *const none[] = {NULL};
    eb_broker *broker = start(NULL);
    eb_broker_subscription *sub = NULL;
    assert_int_equal(eb_broker_subscribe(broker, bad, 1, &remember, NULL, &sub, err), -EINVAL);
    assert_non_null(strstr(err, "a*"));
    assert_int_equal(eb_broker_subscribe(broker, none, 1, &remember, NULL, &sub, err), -EINVAL);
    assert_int_equal(eb_broker_subscribe(broker, NULL, 1, &remember, NULL, &sub, NULL), -EINVAL);
    assert_null(sub);
    eb_broker_unsubscribe(NULL);
    eb_broker_stop(broker);
}

/* A callback that hangs slows neither publishers nor others; when it goes on it is given all, from the log. */
static void slow_callback_lags_and_loses_nothing(void **state)
{
    static const char *const settings[] = {"channel_capacity", "16", NULL};
    eb_broker *broker = start(settings);
    struct seen *slow = seen_make(), *fast = seen_make();
    subscribe(broker, "#", EB_BROKER_LIVE, slow);
    subscribe(broker, "#", EB_BROKER_LIVE, fast);
    hold(slow, true);
    for (int i = 0; i < 30; i++)
        publish_many(broker, "a", 100);
    wait_at_least(fast, &fast->count, 3000);
    assert_int_equal(slow->count, 0);
    hold(slow, false);
    wait_at_least(slow, &slow->count, 3000);
    assert_seqs(slow, 1, 3000);
    assert_seqs(fast, 1, 3000);
    assert_int_equal(slow->gaps + fast->gaps, 0);
    eb_broker_stop(broker);
    seen_free(slow);
    seen_free(fast);
}

/* Without a file a slow callback is told what it has missed. */
static void memory_storage_tells_an_overflow(void **state)
{
    static const char *const settings[] = {
        "storage", "memory", "channel_capacity", "16", "memory_bytes", "1M", NULL};
    static char large[20000];
    eb_broker *broker = start(settings);
    struct seen *slow = seen_make();
    subscribe(broker, "#", EB_BROKER_LIVE, slow);
    hold(slow, true);
    for (int i = 0; i < 200; i++) {
        eb_broker_publish event = {.topic = "a", .payload = large, .payload_len = sizeof large};
        assert_int_equal(eb_broker_publish_event(broker, &event, NULL, err), 0);
    }
    hold(slow, false);
    uint64_t last = publish(broker, "end", "");
    wait_at_least(slow, &slow->gaps, 1);
    pthread_mutex_lock(&slow->lock);
    while (strncmp(slow->last, "end", 3) != 0)
        pthread_cond_wait(&slow->cond, &slow->lock);
    assert_int_equal(slow->seqs[slow->count - 1], last);
    assert_string_equal(slow->reason, "overflow");
    pthread_mutex_unlock(&slow->lock);
    assert_int_not_equal(access(db, F_OK), 0);
    eb_broker_stop(broker);
    seen_free(slow);
}

/* ---- callbacks that call ---- */

struct chain {
    eb_broker *broker;
    eb_broker_subscription *sub;
    struct seen *seen;
    atomic_int calls, after_end;
    int end_at;
    atomic_bool ended;
};

/* Publishes the next link from within the callback of the one before. */
static void next_link(void *user, const eb_message *message)
{
    struct chain *chain = user;
    char payload[16];
    int number = atoi(message->payload);
    if (atomic_load(&chain->ended))
        atomic_fetch_add(&chain->after_end, 1);
    atomic_fetch_add(&chain->calls, 1);
    on_event(chain->seen, message);
    snprintf(payload, sizeof payload, "%d", number + 1);
    eb_broker_publish event = {
        .topic = "chain.link", .payload = payload, .payload_len = strlen(payload)};
    if (number < 100)
        eb_broker_publish_event(chain->broker, &event, NULL, NULL); /* refused once it stops */
    if (chain->end_at == number) {
        eb_broker_unsubscribe(chain->sub);
        atomic_store(&chain->ended, true);
    }
}

static const eb_broker_handler link_handler = {.event = next_link};

/* A callback may publish, also what comes back to itself. */
static void callback_may_publish(void **state)
{
    static const char *const patterns[] = {"chain.*", NULL};
    struct chain chain = {.broker = start(NULL), .seen = seen_make(), .end_at = -1};
    assert_int_equal(
        eb_broker_subscribe(chain.broker, patterns, 1, &link_handler, &chain, &chain.sub, err), 0);
    publish(chain.broker, "chain.link", "1");
    wait_at_least(chain.seen, &chain.seen->count, 100);
    assert_seqs(chain.seen, 1, 100);
    eb_broker_stop(chain.broker);
    seen_free(chain.seen);
}

/* A callback may end its own subscription, with the handle that it was given in time: it is the last one. */
static void callback_may_unsubscribe_itself(void **state)
{
    static const char *const patterns[] = {"chain.*", NULL};
    struct chain chain = {.broker = start(NULL), .seen = seen_make(), .end_at = 1};
    publish(chain.broker, "chain.link", "1"); /* it is called before subscribe has returned */
    assert_int_equal(
        eb_broker_subscribe(chain.broker, patterns, 1, &link_handler, &chain, &chain.sub, err), 0);
    wait_at_least(chain.seen, &chain.seen->count, 1);
    eb_broker_stop(chain.broker); /* also when that callback has not returned yet */
    assert_true(atomic_load(&chain.ended));
    assert_int_equal(chain.calls, 1);
    assert_int_equal(chain.after_end, 0);
    seen_free(chain.seen);
}

static void count_after_end(void *user, const eb_message *message)
{
    struct chain *chain = user;
    atomic_fetch_add(&chain->calls, 1);
    if (atomic_load(&chain->ended))
        atomic_fetch_add(&chain->after_end, 1);
}

static void *publish_until_refused(void *arg)
{
    eb_broker *broker = arg;
    size_t stored = 0;
    eb_broker_publish event = {.topic = "load.a", .payload = "x", .payload_len = 1, .ttl_s = -1};
    int rc;
    while ((rc = eb_broker_publish_event(broker, &event, NULL, NULL)) == 0)
        stored++;
    return rc == -ESHUTDOWN ? (void *)stored : NULL;
}

/* Once unsubscribe has returned no callback runs, however many events are on their way. */
static void unsubscribe_is_the_last_word(void **state)
{
    static const char *const patterns[] = {"load.*", NULL};
    static const eb_broker_handler handler = {.event = count_after_end};
    static const char *const settings[] = {"storage", "memory", NULL};
    eb_broker *broker = start(settings);
    pthread_t publisher;
    assert_int_equal(pthread_create(&publisher, NULL, publish_until_refused, broker), 0);
    for (int round = 0; round < 50; round++) {
        struct chain chain = {.broker = broker};
        assert_int_equal(eb_broker_subscribe(broker, patterns, round % 2 ? 1 : EB_BROKER_LIVE,
                                             &handler, &chain, &chain.sub, err),
                         0);
        while (atomic_load(&chain.calls) < 3)
            sched_yield();
        eb_broker_unsubscribe(chain.sub);
        atomic_store(&chain.ended, true);
        publish(broker, "load.b", "");
        assert_int_equal(chain.after_end, 0);
    }
    eb_broker_quiesce(broker);
    pthread_join(publisher, NULL);
    eb_broker_stop(broker);
}

/* ---- the end ---- */

/* Publishers of other threads end with ESHUTDOWN at quiesce; what they were answered is in the log, no more. */
static void quiesce_ends_publishers_and_keeps_what_was_answered(void **state)
{
    eb_broker *broker = start(NULL);
    pthread_t threads[4];
    size_t stored = 0;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, publish_until_refused, broker), 0);
    while (eb_broker_last_seq(broker) < 200)
        sched_yield();
    eb_broker_quiesce(broker);
    for (int i = 0; i < 4; i++) {
        void *count;
        pthread_join(threads[i], &count);
        assert_non_null(count);
        stored += (size_t)count;
    }
    struct seen *seen = seen_make();
    static const char *const all[] = {"#", NULL};
    eb_broker_subscription *sub;
    assert_int_equal(eb_broker_subscribe(broker, all, 1, &remember, seen, &sub, err), -ESHUTDOWN);
    assert_int_equal(eb_broker_acknowledge(broker, 1, err), -ESHUTDOWN);
    eb_broker_quiesce(broker);
    eb_broker_stop(broker);
    broker = start(NULL);
    assert_int_equal(eb_broker_last_seq(broker), stored);
    eb_broker_stop(broker);
    seen_free(seen);
}

static void *stop_broker(void *arg)
{
    eb_broker_stop(arg);
    return NULL;
}

/* Stop with subscriptions open, replaying, live and in the midst of a callback: it waits for that, and frees all. */
static void stop_ends_open_subscriptions(void **state)
{
    eb_broker *broker = start(NULL);
    struct seen *slow = seen_make(), *other = seen_make();
    pthread_t stopper;
    publish_many(broker, "a", 3000);
    subscribe(broker, "#", EB_BROKER_LIVE, slow);
    hold(slow, true);
    publish(broker, "a", "");
    wait_inside(slow);
    for (int i = 0; i < 4; i++)
        subscribe(broker, "#", 1, other);
    assert_int_equal(pthread_create(&stopper, NULL, stop_broker, broker), 0);
    hold(slow, false);
    pthread_join(stopper, NULL);
    size_t count = other->count;
    assert_int_equal(slow->count, 1);
    assert_int_equal(other->count, count);
    seen_free(slow);
    seen_free(other);
    eb_broker_stop(NULL);
    eb_broker_quiesce(NULL);
}

/* ---- several, and starts that fail ---- */

/* Two brokers share nothing; the same file twice is refused, and free again when the first has ended. */
static void two_brokers_share_nothing(void **state)
{
    char second[128];
    eb_broker *a = start(NULL), *b = NULL, *c = NULL;
    struct seen *seen_a = seen_make(), *seen_b = seen_make();
    snprintf(second, sizeof second, "%s/b.db", folder);
    assert_int_equal(try_start(second, NULL, &b), 0);
    assert_int_equal(try_start(NULL, NULL, &c), -EBUSY);
    assert_non_null(strstr(err, db));
    subscribe(a, "#", 1, seen_a);
    subscribe(b, "#", 1, seen_b);
    publish_many(a, "a", 10);
    publish_many(b, "b", 20);
    wait_at_least(seen_a, &seen_a->count, 10);
    wait_at_least(seen_b, &seen_b->count, 20);
    assert_int_equal(eb_broker_last_seq(a), 10);
    assert_int_equal(eb_broker_last_seq(b), 20);
    assert_string_not_equal(eb_broker_epoch(a), eb_broker_epoch(b));
    eb_broker_stop(a);
    publish(b, "b", "still there");
    c = start(NULL);
    eb_broker_stop(c);
    eb_broker_stop(b);
    seen_free(seen_a);
    seen_free(seen_b);
}

static void wait_entries(const char *path, size_t want)
{
    for (int i = 0; entries(path) != want; i++) {
        if (i > PATIENCE_S * 200)
            fail_msg("%s has %zu entries, not %zu", path, entries(path), want);
        usleep(5000);
    }
}

/* A start that fails, early or late, says why and leaves no thread, descriptor, lock or socket behind. */
static void failed_start_leaves_nothing(void **state)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof sin;
    char taken[32], lost[128];
    eb_broker_stop(start(NULL)); /* what the process keeps for good is there now */
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sin, len), 0);
    assert_int_equal(listen(fd, 1), 0);
    getsockname(fd, (struct sockaddr *)&sin, &len);
    snprintf(taken, sizeof taken, "127.0.0.1:%d", ntohs(sin.sin_port));
    snprintf(lost, sizeof lost, "%s/no/such/folder/x.db", folder);
    size_t fds = entries("/proc/self/fd"), threads = entries("/proc/self/task");
    const char *const busy[] = {"listen", "127.0.0.1:0", "listen", taken, NULL};
    const char *const beyond[] = {"listen", "127.0.0.1:0", "listen", "0.0.0.0:0", NULL};
    const char *const tokens[] = {"token_file", lost, NULL};
    const char *const served[] = {"listen", "127.0.0.1:0", NULL};
    eb_broker *broker = NULL;
    assert_int_equal(try_start(NULL, busy, &broker), -EADDRINUSE);
    assert_non_null(strstr(err, taken));
    assert_int_equal(try_start(NULL, beyond, &broker), -EPERM);
    assert_int_equal(try_start(NULL, tokens, &broker), -ENOENT);
    assert_int_equal(try_start(lost, served, &broker), -ENOENT);
    assert_int_equal(try_start(folder, served, &broker) < 0, true);
    assert_null(broker);
    wait_entries("/proc/self/fd", fds);
    wait_entries("/proc/self/task", threads);
    broker = start(served);
    assert_non_null(strstr(eb_broker_address(broker, 0), "127.0.0.1:"));
    assert_null(eb_broker_address(broker, 1));
    eb_broker_stop(broker);
    wait_entries("/proc/self/fd", fds);
    wait_entries("/proc/self/task", threads);
    close(fd);
}

/* Settings are the daemon's, by name; a bad one says what would be right. */
static void config_refuses_what_the_daemon_refuses(void **state)
{
    eb_broker_config *config = eb_broker_config_create();
    assert_int_equal(eb_broker_config_set(config, "readers", "many", err), -EINVAL);
    assert_non_null(strstr(err, "whole number"));
    assert_int_equal(eb_broker_config_set(config, "no_such", "1", err), -EINVAL);
    assert_int_equal(eb_broker_config_load(config, "/no/such/file.ini", err), -ENOENT);
    assert_non_null(strstr(err, "/no/such/file.ini"));
    eb_broker_config_destroy(config);
    eb_broker_config_destroy(NULL);
    assert_int_equal(eb_broker_log("loud", "text", NULL), -EINVAL);
}

int main(void)
{
#define CASE(f) cmocka_unit_test_setup_teardown(f, folder_make, folder_remove)
    const struct CMUnitTest tests[] = {
        CASE(publish_returns_after_the_commit),
        CASE(publish_knows_its_duplicates),
        CASE(publish_refuses_with_errno_and_a_sentence),
        CASE(publish_carries_headers),
        CASE(batch_is_all_or_none),
        CASE(acknowledge_knows_the_end_of_the_log),
        CASE(subscribe_replays_then_lives),
        CASE(subscribe_to_the_newest_of_each_topic),
        CASE(subscribe_live_gives_only_what_is_new),
        CASE(subscribe_tells_a_gap),
        CASE(subscribe_refuses_with_errno),
        CASE(slow_callback_lags_and_loses_nothing),
        CASE(memory_storage_tells_an_overflow),
        CASE(callback_may_publish),
        CASE(callback_may_unsubscribe_itself),
        CASE(unsubscribe_is_the_last_word),
        CASE(quiesce_ends_publishers_and_keeps_what_was_answered),
        CASE(stop_ends_open_subscriptions),
        CASE(two_brokers_share_nothing),
        CASE(failed_start_leaves_nothing),
        CASE(config_refuses_what_the_daemon_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
