/*
 * push.c - webhooks of durable consumers: one worker a consumer, that may have `concurrency` events out, each of them one
 * call (webhook.h); what the call came to is its ack, its nack, or the consumer's end.
 *
 *   deliver [eb-consumer] -> call -> posted [eb-webhook] -> judged: ack, nack, stop -> done -> freed
 *
 * (P1) A consumer stands in the list while its worker works. Who unlinks it, under the lock, leaves the worker.
 * (P2) A call holds its consumer until its answer is kept, so a late answer finds what it needs.
 * (P3) A call ends by its timeout, which is shorter than the bus's patience (ack_wait is not used for webhooks): its nack
 *      comes first, so no event is posted a second time while it still is the first.
 * (P4) A late answer speaks for the URL that gave it: once its worker is released, a 410 stops nobody, and that of a
 *      deleted consumer says nothing of one that was made again by its name.
 * (P5) A refused event waits as `backoff` says; without one, twice as long each time, from 1 s to 5 minutes.
 */
#include "broker/net/push.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "broker/net/push_call.h"
#include "broker/net/webhook.h"
#include "common/clock.h"
#include "common/log.h"
#include "common/uuid.h"

#define WAIT_FIRST_MS 1000
#define WAIT_MAX_MS   (5 * 60 * 1000)
#define RETRY_MAX_S   (24 * 3600) /* of a Retry-After */

/* [I] immutable  [P] push->lock  [T] `eb-consumer` */
struct target {
    struct target *next; /* [P] P1 */
    struct eb_push *push;
    atomic_uint refs; /* the list, each call */
    char name[EB_CONSUMER_NAME_MAX + 1];
    char url[EB_PUSH_URL_MAX + 1];
    uint8_t secret[EB_WEBHOOK_SECRET_MAX];
    size_t secret_len;
    int64_t timeout_ms;
    bool backs_off;                    /* [I] the consumer has a `backoff` of its own */
    struct eb_consumer_worker *worker; /* [T] */
    atomic_bool failing;               /* said once, until a call is taken again */
    atomic_bool released, deleted;     /* P4 */
};

struct eb_push {
    struct eb_bus *bus;         /* [I] */
    struct eb_lock lock;        /* rank WORKERS */
    pthread_cond_t idle;        /* no call is left */
    struct eb_webhooks *hooks;  /* [P] made with the first URL that is to be called */
    struct eb_network *allowed; /* [P] */
    size_t allowed_count;       /* [P] */
    struct target *targets;     /* [P] */
    unsigned calls;             /* [P] */
    atomic_bool stopping;
    atomic_ullong taken, failed, refused, gone;
};

struct call {
    struct eb_webhook hook;
    struct eb_consumer_request request;
    struct target *target;  /* one reference */
    struct eb_event *event; /* one reference */
    uint32_t delivery;
    uint64_t seq;
    enum eb_job_result result;
    struct eb_push_lines lines;
    char id[EB_UUID_TEXT + 1];
};

/* ---- who is called ---- */

static void target_unref(struct target *target)
{
    if (atomic_fetch_sub(&target->refs, 1) == 1)
        free(target);
}

static bool unlink_locked(struct eb_push *push, const struct target *target)
{
    for (struct target **at = &push->targets; *at; at = &(*at)->next) {
        if (*at == target) {
            *at = target->next;
            return true;
        }
    }
    return false;
}

/* libcurl is opened when it is first needed. NULL with @err. */
static struct eb_webhooks *hooks_of(struct eb_push *push, struct eb_error *err)
{
    eb_lock_take(&push->lock);
    if (!push->hooks &&
        eb_webhooks_create(push->allowed, push->allowed_count, &push->hooks, err) == -ENOMEM)
        eb_fail(err, EB_UNAVAILABLE, "out of memory");
    struct eb_webhooks *hooks = push->hooks;
    eb_lock_drop(&push->lock);
    return hooks;
}

/* ---- one call ---- */

static void call_free(struct call *call)
{
    struct eb_push *push = call->target->push;

    eb_push_lines_finish(&call->lines);
    eb_event_unref(call->event);
    target_unref(call->target);
    free(call);
    eb_lock_take(&push->lock);
    if (--push->calls == 0)
        pthread_cond_broadcast(&push->idle); /* under the lock: behind it the push may end */
    eb_lock_drop(&push->lock);
}

static void kept(struct eb_consumer_request *request)
{
    call_free(request->user);
}

static void say(struct call *call)
{
    struct target *target = call->target;

    if (call->hook.outcome == EB_WEBHOOK_TAKEN) {
        if (atomic_exchange(&target->failing, false))
            eb_info(NULL, "the webhook of consumer %s takes events again", target->name);
    } else if (call->hook.outcome != EB_WEBHOOK_CANCELLED &&
               !atomic_exchange(&target->failing, true)) {
        eb_warn("EB-WEBHOOK", "the webhook of consumer %s did not take event %llu: %s",
                target->name, (unsigned long long)call->seq, call->hook.error);
    }
}

/* P5, unless the receiver said when. */
static int64_t wait_ms(const struct call *call)
{
    int64_t wait = WAIT_FIRST_MS;

    if (call->hook.retry_after >= 0)
        return (call->hook.retry_after < RETRY_MAX_S ? call->hook.retry_after : RETRY_MAX_S) * 1000;
    if (call->target->backs_off)
        return -1;
    for (uint32_t i = 1; i < call->delivery && wait < WAIT_MAX_MS; i++)
        wait *= 2;
    return wait < WAIT_MAX_MS ? wait : WAIT_MAX_MS;
}

/* Does nobody wait for its answer any more? */
static bool is_past(const struct call *call)
{
    const struct target *target = call->target;
    enum eb_webhook_outcome outcome = call->hook.outcome;

    return outcome == EB_WEBHOOK_CANCELLED || atomic_load(&target->deleted) || /* P4 */
           (outcome == EB_WEBHOOK_GONE && atomic_load(&target->released));
}

/* On the webhook thread. */
static void posted(struct eb_webhook *hook)
{
    struct call *call = hook->user;
    struct eb_push *push = call->target->push;
    struct eb_consumer_request *request = &call->request;

    say(call);
    if (is_past(call)) {
        call_free(call);
        return;
    }
    *request = (struct eb_consumer_request){.seqs = &call->seq,
                                            .results = &call->result,
                                            .count = 1,
                                            .delivery = call->delivery,
                                            .done = kept,
                                            .user = call};
    memcpy(request->name, call->target->name, sizeof(request->name));
    switch (hook->outcome) {
    case EB_WEBHOOK_TAKEN:
        atomic_fetch_add(&push->taken, 1);
        request->verb = EB_CONSUMER_ACK;
        break;
    case EB_WEBHOOK_GONE:
        atomic_fetch_add(&push->gone, 1);
        request->verb = EB_CONSUMER_STOP;
        request->count = 0;
        strcpy(request->reason, "its webhook answered 410 (gone): PUT it again to go on");
        break;
    default:
        atomic_fetch_add(hook->outcome == EB_WEBHOOK_REFUSED ? &push->refused : &push->failed, 1);
        request->verb = EB_CONSUMER_NACK;
        request->delay_ms = wait_ms(call);
    }
    eb_bus_consumer(push->bus, request);
}

static bool fill(struct call *call, struct eb_push *push)
{
    struct eb_event *event = call->event;
    const struct target *target = call->target;

    eb_uuid_format(call->id, event->id);
    call->hook = (struct eb_webhook){
        .url = target->url,
        .secret_len = target->secret_len,
        .id = call->id,
        .content_type = eb_push_content_type(event),
        .body = event->payload,
        .len = event->payload_len,
        .timeout_ms = target->timeout_ms,
        .done = posted,
        .user = call,
    };
    memcpy(call->hook.secret, target->secret, target->secret_len);
    if (!eb_push_lines_make(&call->lines, event, eb_store_epoch(eb_bus_store(push->bus))))
        return false;
    call->hook.headers = call->lines.lines;
    call->hook.header_count = call->lines.count;
    return true;
}

/* ---- the worker, on `eb-consumer` ---- */

static bool target_deliver(void *user, struct eb_event *event, uint32_t delivery)
{
    struct target *target = user;
    struct eb_push *push = target->push;
    struct call *call = atomic_load(&push->stopping) ? NULL : calloc(1, sizeof(*call));

    if (!call)
        return false;
    atomic_fetch_add(&target->refs, 1);
    call->target = target;
    call->event = eb_event_ref(event);
    call->seq = event->seq;
    call->delivery = delivery;
    eb_lock_take(&push->lock);
    push->calls++;
    struct eb_webhooks *hooks = push->hooks;
    eb_lock_drop(&push->lock);
    if (!fill(call, push)) {
        call_free(call);
        return false;
    }
    eb_webhooks_call(hooks, &call->hook);
    return true;
}

static size_t target_room(void *user)
{
    const struct target *target = user;

    return atomic_load(&target->push->stopping) ? 0 : SIZE_MAX;
}

static void target_released(void *user, const char *reason)
{
    struct target *target = user;
    struct eb_push *push = target->push;

    eb_lock_take(&push->lock);
    bool ours = unlink_locked(push, target);
    eb_lock_drop(&push->lock);
    atomic_store(&target->deleted, strcmp(reason, "deleted") == 0);
    atomic_store(&target->released, true);
    if (!ours)
        return;
    eb_consumer_leave(target->worker, EB_LEAVE_AGAIN);
    target_unref(target);
}

static const struct eb_worker_ops target_ops = {
    .deliver = target_deliver,
    .room = target_room,
    .released = target_released,
};

/* ---- what the bus asks (eb_push_ops) ---- */

static int check(void *ctx, const struct eb_consumer_settings *settings, struct eb_error *err)
{
    struct eb_push *push = ctx;
    uint8_t secret[EB_WEBHOOK_SECRET_MAX];
    const char *text = settings->push.secret;
    struct eb_webhooks *hooks = hooks_of(push, err);

    if (!hooks)
        return -1;
    if (eb_webhook_url_check(hooks, settings->push.url, err) < 0 ||
        eb_webhook_secret_parse(secret, text, strlen(text), err) < 0)
        return -1;
    return 0;
}

static struct target *new_target(struct eb_push *push, const char *name,
                                 const struct eb_consumer_settings *settings, struct eb_error *err)
{
    struct target *target = calloc(1, sizeof(*target));
    const char *text = settings->push.secret;

    if (!target) {
        eb_fail(err, EB_UNAVAILABLE, "out of memory");
        return NULL;
    }
    ptrdiff_t len = eb_webhook_secret_parse(target->secret, text, strlen(text), err);
    if (len < 0) {
        free(target);
        return NULL;
    }
    target->push = push;
    target->refs = 1;
    target->secret_len = (size_t)len;
    target->timeout_ms = settings->push.timeout_ms;
    target->backs_off = settings->backoff_count > 0;
    memcpy(target->name, name, strlen(name) + 1);
    memcpy(target->url, settings->push.url, sizeof(target->url));
    return target;
}

static void start(void *ctx, const char *name, const struct eb_consumer_settings *settings)
{
    struct eb_push *push = ctx;
    struct eb_error err;
    struct target *target = NULL;

    if (hooks_of(push, &err))
        target = new_target(push, name, settings, &err);
    if (target &&
        eb_consumer_attach(push->bus, name, &target_ops, target, settings->push.concurrency, -1,
                           true, &target->worker, &err) < 0) {
        target_unref(target);
        target = NULL;
    }
    if (!target) {
        eb_warn("EB-WEBHOOK", "the webhook of consumer %s cannot be called: %s", name, err.message);
        return;
    }
    eb_lock_take(&push->lock);
    target->next = push->targets;
    push->targets = target;
    eb_lock_drop(&push->lock);
    eb_consumer_begin(target->worker);
}

static void stop(void *ctx, const char *name)
{
    (void)ctx, (void)name; /* its worker was released before, and with it went all there is */
}

static const struct eb_push_ops push_ops = {.check = check, .start = start, .stop = stop};

/* ---- life ---- */

static int read_allowed(const struct eb_net_config *config, struct eb_network **ret,
                        size_t *ret_count)
{
    const char *const *texts = config->webhook_allow;
    struct eb_error err;
    size_t count = 0;

    while (texts && texts[count])
        count++;
    struct eb_network *networks = calloc(count + 1, sizeof(*networks));
    if (!networks)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++) {
        if (eb_network_parse(&networks[i], texts[i], strlen(texts[i]), &err) < 0) {
            free(networks);
            return -EINVAL;
        }
    }
    *ret = networks;
    *ret_count = count;
    return 0;
}

int eb_push_create(struct eb_bus *bus, const struct eb_net_config *config, struct eb_push **ret)
{
    struct eb_push *push = calloc(1, sizeof(*push));

    if (!push)
        return -ENOMEM;
    push->bus = bus;
    eb_lock_init(&push->lock, EB_RANK_WORKERS);
    eb_cond_init(&push->idle);
    int rc = read_allowed(config, &push->allowed, &push->allowed_count);
    if (rc < 0) {
        eb_push_destroy(push);
        return rc;
    }
    eb_bus_on_push(bus, &push_ops, push);
    *ret = push;
    return 0;
}

int eb_push_reconfigure(struct eb_push *push, const struct eb_net_config *config)
{
    struct eb_network *allowed, *old;
    size_t count;
    int rc = read_allowed(config, &allowed, &count);

    if (rc < 0)
        return rc;
    eb_lock_take(&push->lock);
    old = push->allowed;
    push->allowed = allowed;
    push->allowed_count = count;
    if (push->hooks)
        rc = eb_webhooks_allow(push->hooks, allowed, count);
    eb_lock_drop(&push->lock);
    free(old);
    return rc;
}

void eb_push_quiesce(struct eb_push *push)
{
    atomic_store(&push->stopping, true);
}

/* Until the calls are through; those that webhook.h still has end with it. */
static void wait_idle(struct eb_push *push, int64_t deadline_ms)
{
    eb_lock_take(&push->lock);
    while (push->calls > 0 && eb_cond_wait(&push->idle, &push->lock, deadline_ms) == 0)
        ;
    eb_lock_drop(&push->lock);
}

void eb_push_stop(struct eb_push *push, int64_t deadline_ms)
{
    if (!push)
        return;
    eb_push_quiesce(push);
    eb_bus_on_push(push->bus, NULL, NULL);
    wait_idle(push, deadline_ms);
    for (;;) {
        eb_lock_take(&push->lock);
        struct target *target = push->targets;
        if (target)
            push->targets = target->next;
        eb_lock_drop(&push->lock);
        if (!target)
            break;
        eb_consumer_leave(target->worker, EB_LEAVE_AGAIN);
        target_unref(target);
    }
    eb_webhooks_destroy(push->hooks);
    push->hooks = NULL;
    wait_idle(push, -1);
}

void eb_push_destroy(struct eb_push *push)
{
    if (!push)
        return;
    free(push->allowed);
    pthread_cond_destroy(&push->idle);
    eb_lock_finish(&push->lock);
    free(push);
}

void eb_push_counters(struct eb_push *push, struct eb_push_counters *ret)
{
    *ret = (struct eb_push_counters){
        .taken = atomic_load(&push->taken),
        .failed = atomic_load(&push->failed),
        .refused = atomic_load(&push->refused),
        .gone = atomic_load(&push->gone),
    };
    eb_lock_take(&push->lock);
    ret->under_way = push->calls;
    eb_lock_drop(&push->lock);
}
