/* test_worker.c - <eventbus/broker_consumer.h>: durable consumers, requests, later publishes inside the process. */
#include "tests/unit/broker/embed_fixture.h"

#include "broker/include/eventbus/broker_consumer.h"

#define BILLING "{\"patterns\":[\"order.*\"],\"from\":\"all\",\"ack_wait\":30}"

enum { DESK_MAX = 8192 }; /* more than any test here publishes */

/* What a worker was given, and what it says to it. */
struct desk {
    pthread_mutex_t lock;
    pthread_cond_t cond;
    size_t count, released;
    uint64_t seqs[DESK_MAX];
    uint32_t numbers[DESK_MAX];
    eb_broker_verdict verdict;
    uint64_t odd; /* this seq gets `odd_verdict` at its first delivery */
    eb_broker_verdict odd_verdict;
    char reason[32];
    bool held, inside;
};

static struct desk *desk_make(eb_broker_verdict verdict)
{
    struct desk *desk = calloc(1, sizeof *desk);
    pthread_mutex_init(&desk->lock, NULL);
    pthread_cond_init(&desk->cond, NULL);
    desk->verdict = verdict;
    return desk;
}

static void desk_free(struct desk *desk)
{
    pthread_mutex_destroy(&desk->lock);
    pthread_cond_destroy(&desk->cond);
    free(desk);
}

static eb_broker_verdict on_job(void *user, const eb_message *message, eb_broker_delivery *delivery)
{
    struct desk *desk = user;
    pthread_mutex_lock(&desk->lock);
    desk->inside = true;
    pthread_cond_broadcast(&desk->cond);
    while (desk->held)
        pthread_cond_wait(&desk->cond, &desk->lock);
    desk->inside = false;
    if (desk->count == DESK_MAX)
        abort();
    desk->seqs[desk->count] = message->seq;
    desk->numbers[desk->count++] = delivery->number;
    eb_broker_verdict verdict =
        message->seq == desk->odd && delivery->number == 1 ? desk->odd_verdict : desk->verdict;
    delivery->reason = "not to be paid";
    pthread_cond_broadcast(&desk->cond);
    pthread_mutex_unlock(&desk->lock);
    return verdict;
}

static void on_released(void *user, const char *reason)
{
    struct desk *desk = user;
    pthread_mutex_lock(&desk->lock);
    snprintf(desk->reason, sizeof desk->reason, "%s", reason);
    desk->released++;
    pthread_cond_broadcast(&desk->cond);
    pthread_mutex_unlock(&desk->lock);
}

static const eb_broker_worker_handler hands = {.event = on_job, .released = on_released};

static void desk_wait(struct desk *desk, const size_t *value, size_t want)
{
    struct timespec until;
    int rc = 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += PATIENCE_S;
    pthread_mutex_lock(&desk->lock);
    while (*value < want && rc == 0)
        rc = pthread_cond_timedwait(&desk->cond, &desk->lock, &until);
    size_t is = *value;
    pthread_mutex_unlock(&desk->lock);
    if (is < want)
        fail_msg("waited for %zu, there are %zu", want, is);
}

static void desk_hold(struct desk *desk, bool held)
{
    pthread_mutex_lock(&desk->lock);
    desk->held = held;
    pthread_cond_broadcast(&desk->cond);
    pthread_mutex_unlock(&desk->lock);
}

static void desk_wait_inside(struct desk *desk)
{
    pthread_mutex_lock(&desk->lock);
    while (!desk->inside)
        pthread_cond_wait(&desk->cond, &desk->lock);
    pthread_mutex_unlock(&desk->lock);
}

static void put(eb_broker *broker, const char *settings)
{
    if (eb_broker_consumer_put(broker, "billing", settings, NULL, err) != 0)
        fail_msg("%s", err);
}

static eb_broker_worker *work(eb_broker *broker, const eb_broker_worker_options *options,
                              struct desk *desk)
{
    eb_broker_worker *worker = NULL;
    if (eb_broker_work(broker, "billing", options, &hands, desk, &worker, err) != 0)
        fail_msg("%s", err);
    return worker;
}

static eb_broker_consumer_state state_of(eb_broker *broker)
{
    eb_broker_consumer_state got;
    if (eb_broker_consumer_get(broker, "billing", &got, err) != 0)
        fail_msg("%s", err);
    return got;
}

/* Wait until everything is acknowledged. */
static void wait_done(eb_broker *broker, uint64_t cursor)
{
    struct timespec pause = {.tv_nsec = 2000000};
    for (int i = 0; i < PATIENCE_S * 500 && state_of(broker).cursor < cursor; i++)
        nanosleep(&pause, NULL); /* a state is polled: nothing tells of it */
    assert_true(state_of(broker).cursor >= cursor);
}

/* What was handled is handled over a restart; the rest comes, and what does not match never does. */
static void a_consumer_remembers_over_a_restart(void **state)
{
    eb_broker *broker = start(NULL);
    struct desk *desk = desk_make(EB_BROKER_DONE);
    bool created = false;
    assert_int_equal(eb_broker_consumer_put(broker, "billing", BILLING, &created, err), 0);
    assert_true(created);
    work(broker, NULL, desk);
    publish_many(broker, "order.made", 50);
    publish(broker, "other", "x");
    desk_wait(desk, &desk->count, 50);
    eb_broker_stop(broker); /* ends the worker; its verdicts are kept */
    broker = start(NULL);
    work(broker, NULL, desk);
    publish(broker, "order.made", "y");
    desk_wait(desk, &desk->count, 51);
    assert_int_equal(desk->seqs[50], 52);
    assert_int_equal(desk->numbers[50], 1);
    wait_done(broker, 52);
    assert_int_equal(state_of(broker).redelivered, 0);
    eb_broker_stop(broker);
    desk_free(desk);
}

/* AGAIN brings it back with the next number; GIVE_UP makes a dead letter with the reason. */
static void verdicts_mean_what_they_say(void **state)
{
    eb_broker *broker = start(NULL);
    struct desk *desk = desk_make(EB_BROKER_DONE);
    put(broker, BILLING);
    desk->odd = 2;
    desk->odd_verdict = EB_BROKER_AGAIN;
    eb_broker_worker *worker = work(broker, NULL, desk);
    publish_many(broker, "order.made", 3);
    desk_wait(desk, &desk->count, 4);
    wait_done(broker, 3);
    assert_int_equal(state_of(broker).redelivered, 1);
    desk->odd = 4;
    desk->odd_verdict = EB_BROKER_GIVE_UP;
    struct seen *seen = seen_make();
    subscribe(broker, "$dead.billing", 1, seen);
    publish(broker, "order.made", "z");
    wait_at_least(seen, &seen->count, 1);
    assert_non_null(strstr(seen->last, "\"dead-reason\":\"not to be paid\""));
    assert_int_equal(state_of(broker).dead, 1);
    eb_broker_worker_end(worker);
    eb_broker_stop(broker);
    desk_free(desk);
    seen_free(seen);
}

/* LATER leaves it out until the program answers. */
static void a_later_answer_counts(void **state)
{
    eb_broker *broker = start(NULL);
    struct desk *desk = desk_make(EB_BROKER_LATER);
    put(broker, BILLING);
    work(broker, NULL, desk);
    publish_many(broker, "order.made", 2);
    desk_wait(desk, &desk->count, 2);
    assert_int_equal(state_of(broker).inflight, 2);
    const uint64_t seqs[] = {1, 2, 77};
    bool late[3];
    assert_int_equal(
        eb_broker_answer(broker, "billing", EB_BROKER_DONE, seqs, 3, 0, -1, NULL, late, err), 0);
    assert_false(late[0] || late[1]);
    assert_true(late[2]);
    assert_int_equal(state_of(broker).cursor, 2);
    assert_int_equal(
        eb_broker_answer(broker, "nobody", EB_BROKER_DONE, seqs, 1, 0, -1, NULL, NULL, err),
        -ENOENT);
    eb_broker_stop(broker);
    desk_free(desk);
}

/* What an ended worker had not begun goes to another, uncounted; what it had begun counts. */
static void an_ended_worker_gives_back_what_it_has_not_begun(void **state)
{
    eb_broker *broker = start(NULL);
    struct desk *first = desk_make(EB_BROKER_DONE), *second = desk_make(EB_BROKER_DONE);
    put(broker, BILLING);
    desk_hold(first, true);
    eb_broker_worker *worker = work(broker, NULL, first);
    publish_many(broker, "order.made", 10);
    desk_wait_inside(first);
    work(broker, NULL, second);
    desk_hold(first, false);
    eb_broker_worker_end(worker);
    wait_done(broker, 10);
    assert_int_equal(first->count + second->count, 10);
    for (size_t i = 0; i < second->count; i++)
        assert_int_equal(second->numbers[i], 1);
    eb_broker_stop(broker);
    desk_free(first);
    desk_free(second);
}

/* While a callback runs, in_progress keeps the event with it, however short ack_wait is. */
static void in_progress_holds_what_is_being_done(void **state)
{
    eb_broker *broker = start(NULL);
    struct desk *desk = desk_make(EB_BROKER_DONE);
    eb_broker_worker_options options = {
        .settings = "{\"patterns\":[\"order.*\"],\"from\":\"all\",\"ack_wait\":0.3}",
        .in_progress = true,
        .threads = 2};
    desk_hold(desk, true);
    work(broker, &options, desk);
    publish(broker, "order.made", "long");
    desk_wait_inside(desk);
    struct timespec three = {.tv_sec = 1};
    nanosleep(&three, NULL); /* three times ack_wait: that time passes is what is tried here */
    assert_int_equal(state_of(broker).redelivered, 0);
    desk_hold(desk, false);
    wait_done(broker, 1);
    assert_int_equal(desk->count, 1);
    eb_broker_stop(broker);
    desk_free(desk);
}

/* So is what waits for a thread: it is with this worker too, and comes to it once. */
static void in_progress_holds_what_waits_for_a_thread(void **state)
{
    eb_broker *broker = start(NULL);
    struct desk *desk = desk_make(EB_BROKER_DONE);
    eb_broker_worker_options options = {
        .settings = "{\"patterns\":[\"order.*\"],\"from\":\"all\",\"ack_wait\":0.3}",
        .in_progress = true};
    desk_hold(desk, true);
    work(broker, &options, desk);
    publish_many(broker, "order.made", 5);
    desk_wait_inside(desk);
    struct timespec three = {.tv_sec = 1};
    nanosleep(&three, NULL); /* three times ack_wait: that time passes is what is tried here */
    assert_int_equal(state_of(broker).redelivered, 0);
    desk_hold(desk, false);
    wait_done(broker, 5);
    assert_int_equal(desk->count, 5);
    eb_broker_stop(broker);
    desk_free(desk);
}

/* The end of a consumer is told to its workers; what is wrong has its errno and a sentence. */
static void refusals_and_the_end(void **state)
{
    eb_broker *broker = start(NULL);
    struct desk *desk = desk_make(EB_BROKER_DONE);
    eb_broker_worker *worker = NULL;
    eb_broker_consumer_state got;
    assert_int_equal(eb_broker_work(broker, "billing", NULL, &hands, desk, &worker, err), -ENOENT);
    assert_int_equal(eb_broker_consumer_get(broker, "billing", &got, err), -ENOENT);
    assert_int_equal(eb_broker_consumer_delete(broker, "billing", err), -ENOENT);
    assert_int_equal(eb_broker_consumer_put(broker, "a b", BILLING, NULL, err), -EINVAL);
    assert_int_equal(eb_broker_consumer_put(broker, "billing", "{", NULL, err), -EINVAL);
    assert_int_equal(eb_broker_consumer_put(broker, "billing", "{\"ack_wait\":-1}", NULL, err),
                     -EINVAL);
    put(broker, BILLING);
    eb_broker_worker_options options = {.settings = "{\"patterns\":[\"else.*\"]}"};
    assert_int_equal(eb_broker_work(broker, "billing", &options, &hands, desk, &worker, err),
                     -ESTALE);
    worker = work(broker, NULL, desk);
    assert_int_equal(eb_broker_consumer_delete(broker, "billing", err), 0);
    desk_wait(desk, &desk->released, 1);
    assert_string_equal(desk->reason, "deleted");
    eb_broker_worker_end(worker);
    eb_broker_stop(broker);
    desk_free(desk);
}

/* Many threads, many events: each is handled once when nothing fails. */
static void many_threads_share_the_work(void **state)
{
    eb_broker *broker = start(NULL);
    struct desk *desk = desk_make(EB_BROKER_DONE);
    eb_broker_worker_options options = {.threads = 8, .max_inflight = 32};
    static bool met[5001];
    put(broker, BILLING);
    work(broker, &options, desk);
    for (int i = 0; i < 10; i++)
        publish_many(broker, "order.made", 500);
    desk_wait(desk, &desk->count, 5000);
    wait_done(broker, 5000);
    for (size_t i = 0; i < desk->count; i++)
        met[desk->seqs[i]] = true;
    for (size_t seq = 1; seq <= 5000; seq++)
        assert_true(met[seq]);
    assert_int_equal(desk->count, 5000);
    eb_broker_stop(broker);
    desk_free(desk);
}

/* ---- request and reply ---- */

static void on_question(void *user, const eb_message *message)
{
    eb_broker *broker = *(eb_broker **)user;
    char text[64], why[EB_BROKER_ERROR] = "";
    snprintf(text, sizeof text, "you said %.*s", (int)message->payload_len,
             (const char *)message->payload);
    eb_broker_publish answer = {
        .payload = text, .payload_len = strlen(text), .content_type = "text/x", .ttl_s = -1};
    if (message->payload_len > 0)
        eb_broker_answer_request(broker, message, &answer, why);
}

/* A request is answered by who listens; nobody there is said at once, nobody answering in time. */
static void a_request_has_its_reply(void **state)
{
    static const eb_broker_handler answering = {.event = on_question};
    static const char *const patterns[] = {"ask.*", NULL};
    eb_broker *broker = start(NULL);
    eb_broker_subscription *sub;
    eb_broker_reply *reply = NULL;
    eb_broker_publish question = {
        .topic = "ask.it", .payload = "hello", .payload_len = 5, .ttl_s = -1};
    assert_int_equal(eb_broker_request(broker, &question, 1000, &reply, err), -EHOSTUNREACH);
    assert_int_equal(eb_broker_last_seq(broker), 0);
    assert_int_equal(
        eb_broker_subscribe(broker, patterns, EB_BROKER_LIVE, &answering, &broker, &sub, err), 0);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(eb_broker_request(broker, &question, PATIENCE_S * 1000, &reply, err), 0);
        const eb_message *got = eb_broker_reply_message(reply);
        assert_string_equal((const char *)got->payload, "you said hello");
        assert_string_equal(got->content_type, "text/x");
        assert_int_equal(got->ttl_s, 60);
        eb_broker_reply_free(reply);
    }
    question.payload_len = 0; /* not answered */
    assert_int_equal(eb_broker_request(broker, &question, 50, &reply, err), -ETIMEDOUT);
    eb_message plain = {.topic = "x"};
    assert_int_equal(eb_broker_answer_request(broker, &plain, &question, err), -EINVAL);
    eb_broker_stop(broker);
}

/* What is to come later comes when it is due, also over a restart; a condition that does not hold is told. */
static void later_and_conditional_publishes(void **state)
{
    eb_broker *broker = start(NULL);
    eb_broker_ack ack;
    eb_broker_publish event = {
        .topic = "t.x", .payload = "p", .payload_len = 1, .ttl_s = -1, .delay_ms = 200};
    assert_int_equal(eb_broker_publish_event(broker, &event, &ack, err), 0);
    assert_true(ack.scheduled);
    assert_int_equal(ack.seq, 0);
    eb_broker_stop(broker);
    broker = start(NULL);
    struct seen *seen = seen_make();
    subscribe(broker, "t.x", 1, seen);
    wait_at_least(seen, &seen->count, 1);
    event.delay_ms = 0;
    event.expects_last_seq = true;
    event.expected_last_seq = 7;
    assert_int_equal(eb_broker_publish_event(broker, &event, &ack, err), -ESTALE);
    assert_non_null(strstr(err, "1"));
    event.expected_last_seq = 1;
    assert_int_equal(eb_broker_publish_event(broker, &event, &ack, err), 0);
    assert_int_equal(ack.seq, 2);
    assert_false(ack.scheduled);
    eb_broker_stop(broker);
    seen_free(seen);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, folder_make, folder_remove)
    const struct CMUnitTest tests[] = {
        TEST(a_consumer_remembers_over_a_restart),
        TEST(verdicts_mean_what_they_say),
        TEST(a_later_answer_counts),
        TEST(an_ended_worker_gives_back_what_it_has_not_begun),
        TEST(in_progress_holds_what_is_being_done),
        TEST(in_progress_holds_what_waits_for_a_thread),
        TEST(refusals_and_the_end),
        TEST(many_threads_share_the_work),
        TEST(a_request_has_its_reply),
        TEST(later_and_conditional_publishes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
