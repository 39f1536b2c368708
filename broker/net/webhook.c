/*
 * webhook.c - the thread that posts (`eb-webhook`): libcurl's multi interface, one transfer a call.
 *
 *   eb_webhooks_call --> waiting [lock] --wakeup--> thread: easy handle, multi_add ... multi_poll ... done(call)
 *
 * The thread owns the multi handle and all transfers; others only append to `waiting`.
 */
#include "broker/net/webhook.h"

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "broker/net/curl_api.h"
#include "common/clock.h"
#include "common/lock.h"

#define ANSWER_BYTES     (64 * 1024)
#define CONNECTIONS      256   /* open at once, over all receivers */
#define IDLE_CONNECTIONS 64    /* kept for reuse */
#define POLL_MS          60000 /* woken before when there is something to do */

/* [I] immutable  [W] lock  [N] the thread's own */
struct eb_webhooks {
    const struct eb_curl *curl;         /* [I] */
    CURLM *multi;                       /* [I]; used by the thread, but for multi_wakeup */
    struct eb_lock lock;                /* rank LEAF */
    struct eb_network *allowed;         /* [W] */
    size_t allowed_count;               /* [W] */
    struct eb_webhook *waiting, **last; /* [W] */
    bool started, stop;                 /* [W] */
    pthread_t thread;                   /* [W] once started */
    struct eb_webhook *active;          /* [N] */
};

/* ---- one transfer ---- */

static void set_error(struct eb_webhook *call, const char *text)
{
    snprintf(call->error, sizeof(call->error), "%s", text);
}

static bool may_call(struct eb_webhooks *hooks, const struct sockaddr *address)
{
    if (eb_address_global(address))
        return true;
    eb_lock_take(&hooks->lock);
    bool allowed = eb_address_in(address, hooks->allowed, hooks->allowed_count);
    eb_lock_drop(&hooks->lock);
    return allowed;
}

static curl_socket_t open_socket(void *user, curlsocktype purpose, struct curl_sockaddr *address)
{
    struct eb_webhook *call = user;

    if (may_call(call->hooks, &address->addr))
        return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
    call->refused = true; /* H2 */
    return CURL_SOCKET_BAD;
}

/* Bytes of the answer, header or body: what they say is not needed, only that they end. */
static size_t take_bytes(char *data, size_t size, size_t count, void *user)
{
    struct eb_webhook *call = user;

    call->received += size * count;
    return call->received > ANSWER_BYTES ? 0 : size * count;
}

static bool add_line(struct eb_webhook *call, const char *line)
{
    const struct eb_curl *curl = call->hooks->curl;
    struct curl_slist *lines = curl->slist_append(call->lines, line);

    if (lines)
        call->lines = lines;
    return lines;
}

static bool add_lines(struct eb_webhook *call)
{
    char line[512], signature[EB_WEBHOOK_SIGNATURE];
    int64_t now = eb_wall_ms() / 1000;

    eb_webhook_sign(signature, call->secret, call->secret_len, call->id, now, call->body,
                    call->len);
    snprintf(line, sizeof(line), "webhook-id: %s", call->id);
    bool ok = add_line(call, line);
    snprintf(line, sizeof(line), "webhook-timestamp: %lld", (long long)now);
    ok = ok && add_line(call, line);
    snprintf(line, sizeof(line), "webhook-signature: %s", signature);
    ok = ok && add_line(call, line);
    snprintf(line, sizeof(line), "Content-Type: %s", call->content_type);
    ok = ok && add_line(call, line) && add_line(call, "Expect:"); /* no 100-continue */
    for (size_t i = 0; ok && i < call->header_count; i++)
        ok = add_line(call, call->headers[i]);
    return ok;
}

static bool set_up(struct eb_webhook *call)
{
    const struct eb_curl *curl = call->hooks->curl;
    CURL *easy = call->easy = curl->easy_init();

    if (!easy || !add_lines(call))
        return false;
    const long timeout = call->timeout_ms;
    CURLcode rc = curl->easy_setopt(easy, CURLOPT_URL, call->url);
    if (rc == CURLE_OK)
        rc = curl->easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl->easy_setopt(easy, CURLOPT_PRIVATE, call);
    curl->easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl->easy_setopt(easy, CURLOPT_PROXY, ""); /* H1, and a proxy would hide the address from H2 */
    curl->easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl->easy_setopt(easy, CURLOPT_TIMEOUT_MS, timeout);
    curl->easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, timeout);
    curl->easy_setopt(easy, CURLOPT_USERAGENT, "eventbus/" EB_VERSION);
    curl->easy_setopt(easy, CURLOPT_POST, 1L);
    curl->easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)call->len);
    curl->easy_setopt(easy, CURLOPT_POSTFIELDS, call->len > 0 ? call->body : "");
    curl->easy_setopt(easy, CURLOPT_HTTPHEADER, call->lines);
    curl->easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, open_socket);
    curl->easy_setopt(easy, CURLOPT_OPENSOCKETDATA, call);
    curl->easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_bytes);
    curl->easy_setopt(easy, CURLOPT_HEADERDATA, call);
    curl->easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_bytes);
    curl->easy_setopt(easy, CURLOPT_WRITEDATA, call);
    return rc == CURLE_OK;
}

/* What the answer, or its absence, means. */
static void judge(struct eb_webhook *call, CURLcode rc)
{
    const struct eb_curl *curl = call->hooks->curl;
    curl_off_t retry_after = 0;

    curl->easy_getinfo(call->easy, CURLINFO_RESPONSE_CODE, &call->status);
    curl->easy_getinfo(call->easy, CURLINFO_RETRY_AFTER, &retry_after);
    if (rc == CURLE_WRITE_ERROR && call->status > 0)
        rc = CURLE_OK; /* more than we care to read of an answer whose status is known */
    if (call->refused) {
        call->outcome = EB_WEBHOOK_REFUSED;
        set_error(call, "its address is not global and not among those that webhook_allow names");
    } else if (rc != CURLE_OK) {
        call->status = 0;
        set_error(call, curl->easy_strerror(rc));
    } else if (call->status >= 200 && call->status < 300) {
        call->outcome = EB_WEBHOOK_TAKEN;
    } else {
        call->outcome = call->status == 410 ? EB_WEBHOOK_GONE : EB_WEBHOOK_FAILED;
        if ((call->status == 429 || call->status == 503) && retry_after > 0)
            call->retry_after = retry_after;
        snprintf(call->error, sizeof(call->error), "it answered %ld", call->status);
    }
}

static void give_back(struct eb_webhooks *hooks, struct eb_webhook *call)
{
    for (struct eb_webhook **at = &hooks->active; *at; at = &(*at)->next) {
        if (*at == call) {
            *at = call->next;
            break;
        }
    }
    if (call->easy)
        hooks->curl->easy_cleanup(call->easy);
    hooks->curl->slist_free_all(call->lines);
    call->easy = call->lines = NULL;
    call->done(call);
}

static void begin(struct eb_webhooks *hooks, struct eb_webhook *call)
{
    call->hooks = hooks;
    call->outcome = EB_WEBHOOK_FAILED;
    call->next = hooks->active;
    hooks->active = call;
    if (set_up(call) && hooks->curl->multi_add(hooks->multi, call->easy) == CURLM_OK)
        return;
    set_error(call, "out of memory");
    give_back(hooks, call);
}

/* ---- the thread ---- */

static struct eb_webhook *take_waiting(struct eb_webhooks *hooks, bool *ret_stop)
{
    eb_lock_take(&hooks->lock);
    struct eb_webhook *list = hooks->waiting;
    hooks->waiting = NULL;
    hooks->last = &hooks->waiting;
    *ret_stop = hooks->stop;
    eb_lock_drop(&hooks->lock);
    return list;
}

static void finish_ended(struct eb_webhooks *hooks)
{
    const struct eb_curl *curl = hooks->curl;
    CURLMsg *message;
    int left;

    while ((message = curl->multi_info_read(hooks->multi, &left)) != NULL) {
        struct eb_webhook *call = NULL;
        CURLcode rc = message->data.result;
        CURL *easy = message->easy_handle;
        if (message->msg != CURLMSG_DONE)
            continue;
        curl->easy_getinfo(easy, CURLINFO_PRIVATE, &call);
        judge(call, rc);
        curl->multi_remove(hooks->multi, easy);
        give_back(hooks, call);
    }
}

static void *run(void *arg)
{
    struct eb_webhooks *hooks = arg;
    bool stop = false;
    int running;

    pthread_setname_np(pthread_self(), "eb-webhook");
    while (!stop) {
        struct eb_webhook *call = take_waiting(hooks, &stop), *next;
        for (; call; call = next) {
            next = call->next;
            begin(hooks, call);
        }
        hooks->curl->multi_perform(hooks->multi, &running);
        finish_ended(hooks);
        if (!stop)
            hooks->curl->multi_poll(hooks->multi, NULL, 0, POLL_MS, NULL);
    }
    while (hooks->active) {
        struct eb_webhook *call = hooks->active;
        call->outcome = EB_WEBHOOK_CANCELLED;
        set_error(call, "the broker is going down");
        hooks->curl->multi_remove(hooks->multi, call->easy);
        give_back(hooks, call);
    }
    return NULL;
}

void eb_webhooks_call(struct eb_webhooks *hooks, struct eb_webhook *call)
{
    call->easy = call->lines = NULL;
    call->received = 0;
    call->refused = false;
    call->status = 0;
    call->retry_after = -1;
    call->error[0] = '\0';
    call->next = NULL;
    eb_lock_take(&hooks->lock);
    if (!hooks->started)
        hooks->started = pthread_create(&hooks->thread, NULL, run, hooks) == 0;
    bool started = hooks->started;
    if (started) {
        *hooks->last = call;
        hooks->last = &call->next;
    }
    eb_lock_drop(&hooks->lock);
    if (started) {
        hooks->curl->multi_wakeup(hooks->multi);
        return;
    }
    call->outcome = EB_WEBHOOK_FAILED;
    set_error(call, "no thread could be made");
    call->done(call);
}

/* ---- life ---- */

int eb_webhooks_allow(struct eb_webhooks *hooks, const struct eb_network *allowed, size_t count)
{
    struct eb_network *copy = calloc(count + 1, sizeof(*copy));

    if (!copy)
        return -ENOMEM;
    if (count > 0)
        memcpy(copy, allowed, count * sizeof(*copy));
    eb_lock_take(&hooks->lock);
    struct eb_network *old = hooks->allowed;
    hooks->allowed = copy;
    hooks->allowed_count = count;
    eb_lock_drop(&hooks->lock);
    free(old);
    return 0;
}

int eb_webhooks_create(const struct eb_network *allowed, size_t count, struct eb_webhooks **ret,
                       struct eb_error *err)
{
    const struct eb_curl *curl;
    int rc = eb_curl_load(&curl, err);

    if (rc < 0)
        return rc;
    struct eb_webhooks *hooks = calloc(1, sizeof(*hooks));
    if (!hooks)
        return -ENOMEM;
    hooks->curl = curl;
    hooks->last = &hooks->waiting;
    hooks->multi = curl->multi_init();
    eb_lock_init(&hooks->lock, EB_RANK_LEAF);
    if (!hooks->multi || eb_webhooks_allow(hooks, allowed, count) < 0) {
        eb_webhooks_destroy(hooks);
        return -ENOMEM;
    }
    curl->multi_setopt(hooks->multi, CURLMOPT_MAX_TOTAL_CONNECTIONS, (long)CONNECTIONS);
    curl->multi_setopt(hooks->multi, CURLMOPT_MAXCONNECTS, (long)IDLE_CONNECTIONS);
    *ret = hooks;
    return 0;
}

void eb_webhooks_destroy(struct eb_webhooks *hooks)
{
    if (!hooks)
        return;
    eb_lock_take(&hooks->lock);
    hooks->stop = true;
    bool started = hooks->started;
    eb_lock_drop(&hooks->lock);
    if (started) {
        hooks->curl->multi_wakeup(hooks->multi);
        pthread_join(hooks->thread, NULL);
    }
    if (hooks->multi)
        hooks->curl->multi_cleanup(hooks->multi);
    eb_lock_finish(&hooks->lock);
    free(hooks->allowed);
    free(hooks);
}

/* A host that is written as an address is judged at once; one that is a name, when it is called (H2). */
static int check_host(struct eb_webhooks *hooks, const char *host, struct eb_error *err)
{
    struct sockaddr_in v4 = {.sin_family = AF_INET};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6};
    char text[64] = "";
    const struct sockaddr *address = NULL;

    if (host[0] == '[' && strlen(host) < sizeof(text))
        memcpy(text, host + 1, strcspn(host + 1, "]%"));
    if (inet_pton(AF_INET, host, &v4.sin_addr) == 1)
        address = (const struct sockaddr *)&v4;
    else if (inet_pton(AF_INET6, text, &v6.sin6_addr) == 1)
        address = (const struct sockaddr *)&v6;
    if (!address || may_call(hooks, address))
        return 0;
    return eb_fail(err, EB_FORBIDDEN,
                   "the webhook's address %s is not global: name its network in webhook_allow if "
                   "it is to be called",
                   host);
}

int eb_webhook_url_check(struct eb_webhooks *hooks, const char *url, struct eb_error *err)
{
    const struct eb_curl *curl = hooks->curl;
    CURLU *parsed = curl->url();
    char *scheme = NULL, *host = NULL;
    int rc = -1;

    if (parsed && curl->url_set(parsed, CURLUPART_URL, url, 0) == CURLUE_OK &&
        curl->url_get(parsed, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
        curl->url_get(parsed, CURLUPART_HOST, &host, 0) == CURLUE_OK &&
        (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0) && host[0] != '\0')
        rc = check_host(hooks, host, err);
    else
        eb_fail(err, EB_INVALID_REQUEST, "the URL of a webhook is http://HOST/… or https://HOST/…");
    curl->free(scheme);
    curl->free(host);
    curl->url_cleanup(parsed);
    return rc;
}
