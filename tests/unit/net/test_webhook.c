/*
 * test_webhook.c - events posted to URLs (PROTOCOL.md 7): signed as Standard Webhooks says, every answer judged, and
 * a receiver that hangs, dribbles, redirects or sends without end costs its own call and nothing else.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "broker/net/webhook.h"
#include "common/clock.h"

/* ---- a receiver that behaves as the path of the request says ---- */

static int listener;
static int port;
static atomic_int accepted;
static atomic_llong written; /* bytes of the endless answer */
static char request[8192];   /* the last one, whole */

static bool send_text(int fd, const char *text)
{
    size_t len = strlen(text);

    return send(fd, text, len, MSG_NOSIGNAL) == (ssize_t)len;
}

static bool read_request(int fd)
{
    size_t len = 0, want = 0;
    char *body = NULL;

    while (len < sizeof(request) - 1 && (!body || len < want)) {
        ssize_t n = recv(fd, request + len, sizeof(request) - 1 - len, 0);
        if (n <= 0)
            return false;
        len += (size_t)n;
        request[len] = '\0';
        body = strstr(request, "\r\n\r\n");
        const char *size = strstr(request, "Content-Length: ");
        if (body)
            want = (size_t)(body + 4 - request) + (size != NULL ? strtoul(size + 16, NULL, 10) : 0);
    }
    return true;
}

static void endless(int fd)
{
    static const char block[65536];

    send_text(fd, "HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
    for (ssize_t n; (n = send(fd, block, sizeof(block), MSG_NOSIGNAL)) > 0;)
        atomic_fetch_add(&written, n);
}

static void dribble(int fd)
{
    const char *text = "HTTP/1.1 200 OK\r\nX-Slow: ";

    for (size_t i = 0; send(fd, &text[i % strlen(text)], 1, MSG_NOSIGNAL) == 1; i++)
        usleep(5000);
}

static bool answer(int fd)
{
    const char *path = strchr(request, ' ') + 1;

    if (strncmp(path, "/taken", 6) == 0)
        return send_text(fd, "HTTP/1.1 204 No Content\r\n\r\n");
    if (strncmp(path, "/gone", 5) == 0)
        return send_text(fd, "HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n");
    if (strncmp(path, "/busy", 5) == 0)
        return send_text(fd, "HTTP/1.1 503 Busy\r\nRetry-After: 17\r\nContent-Length: 2\r\n\r\nno");
    if (strncmp(path, "/moved", 6) == 0)
        return send_text(fd, "HTTP/1.1 302 Found\r\nLocation: /taken\r\nContent-Length: 0\r\n\r\n");
    if (strncmp(path, "/endless", 8) == 0)
        endless(fd);
    else if (strncmp(path, "/dribble", 8) == 0)
        dribble(fd);
    else if (strncmp(path, "/hang", 5) == 0)
        recv(fd, request, 1, 0); /* until the caller gives up */
    return false;
}

static void *serve(void *arg)
{
    int fd;

    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        atomic_fetch_add(&accepted, 1);
        while (read_request(fd) && answer(fd))
            ;
        close(fd);
    }
    return NULL;
}

static pthread_t server;

static int start_server(void **state)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(address);

    listener = socket(AF_INET, SOCK_STREAM, 0);
    if (bind(listener, (struct sockaddr *)&address, len) < 0 || listen(listener, 16) < 0)
        return -1;
    getsockname(listener, (struct sockaddr *)&address, &len);
    port = ntohs(address.sin_port);
    return pthread_create(&server, NULL, serve, NULL);
}

static int stop_server(void **state)
{
    shutdown(listener, SHUT_RDWR);
    pthread_join(server, NULL);
    close(listener);
    return 0;
}

/* ---- a call, waited for ---- */

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond = PTHREAD_COND_INITIALIZER;

static void done(struct eb_webhook *call)
{
    pthread_mutex_lock(&mutex);
    call->user = call;
    pthread_cond_broadcast(&cond);
    pthread_mutex_unlock(&mutex);
}

static void wait_done(struct eb_webhook *call)
{
    pthread_mutex_lock(&mutex);
    while (!call->user)
        pthread_cond_wait(&cond, &mutex);
    pthread_mutex_unlock(&mutex);
}

static struct eb_webhooks *make(bool allow_loopback)
{
    struct eb_webhooks *hooks;
    struct eb_network *networks;
    struct eb_error err;
    size_t count;

    assert_int_equal(
        eb_networks_parse(&networks, &count, allow_loopback ? "127.0.0.0/8" : "", &err), 0);
    assert_int_equal(eb_webhooks_create(networks, count, &hooks, &err), 0);
    free(networks);
    return hooks;
}

static struct eb_webhook call_to(const char *url, int64_t timeout_ms)
{
    static const char *const headers[] = {"ce-type: test", "X-More: 1"};

    return (struct eb_webhook){
        .url = url,
        .secret = "0123456789abcdef01234567",
        .secret_len = 24,
        .id = "018f3d7a-0000-7000-8000-000000000001",
        .content_type = "text/plain; charset=utf-8",
        .headers = headers,
        .header_count = 2,
        .body = "hello\0there",
        .len = 11,
        .timeout_ms = timeout_ms,
        .done = done,
    };
}

static struct eb_webhook call_path(struct eb_webhooks *hooks, const char *path, int64_t timeout_ms)
{
    char url[128];

    snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", port, path);
    struct eb_webhook call = call_to(url, timeout_ms);
    eb_webhooks_call(hooks, &call);
    wait_done(&call);
    return call;
}

/* ---- */

static void test_signature(void **state)
{
    /* The example of the libraries of Standard Webhooks; the value computed with Python's hmac. */
    uint8_t secret[EB_WEBHOOK_SECRET_MAX];
    char signature[EB_WEBHOOK_SIGNATURE];
    const char *text = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw";
    const char *body = "{\"test\": 2432232314}";
    struct eb_error err;

    ptrdiff_t len = eb_webhook_secret_parse(secret, text, strlen(text), &err);
    assert_int_equal(len, 24);
    eb_webhook_sign(signature, secret, (size_t)len, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330,
                    body, strlen(body));
    assert_string_equal(signature, "v1,q6KMVIJHk4Gs770FfR5f591Ftx7uVJSGl5wHV1ri978=");
}

static void test_secrets(void **state)
{
    static const char *const bad[] = {"",
                                      "whsec_",
                                      "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjSw",
                                      "whsec_AAAA",
                                      "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLjS!",
                                      "whsec_"
                                      "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
                                      "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"};
    uint8_t secret[EB_WEBHOOK_SECRET_MAX];
    struct eb_error err;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert_int_equal(eb_webhook_secret_parse(secret, bad[i], strlen(bad[i]), &err), -1);
        assert_int_equal(err.code, EB_INVALID_REQUEST);
    }
}

static void test_urls(void **state)
{
    static const char *const good[] = {"http://a.example/x", "https://[2606:4700::1]:8443/",
                                       "http://h", "http://1.1.1.1/"};
    static const char *const refused[] = {
        "https://[2001:db8::1]:8443/", "http://127.0.0.1/",       "http://127.1/", "http://[::1]/",
        "http://10.0.0.1:80/",         "http://[fe80::1%25eth0]/"};
    static const char *const bad[] = {"",        "ftp://a.example/", "file:///etc/passwd",
                                      "http://", "a.example",        "http://a b/"};
    struct eb_webhooks *hooks = make(false);
    struct eb_error err;

    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_int_equal(eb_webhook_url_check(hooks, good[i], &err), 0);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(eb_webhook_url_check(hooks, bad[i], &err), -1);
    for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++) {
        assert_int_equal(eb_webhook_url_check(hooks, refused[i], &err), -1);
        assert_int_equal(err.code, EB_FORBIDDEN);
    }
    eb_webhooks_destroy(hooks);
    hooks = make(true);
    assert_int_equal(eb_webhook_url_check(hooks, "http://127.0.0.1/", &err), 0);
    eb_webhooks_destroy(hooks);
}

static void test_the_request_and_its_connection(void **state)
{
    struct eb_webhooks *hooks = make(true);
    int before = atomic_load(&accepted);

    for (int i = 0; i < 3; i++) {
        struct eb_webhook call = call_path(hooks, "/taken?a=1", 60000);
        assert_int_equal(call.outcome, EB_WEBHOOK_TAKEN);
        assert_int_equal(call.status, 204);
    }
    assert_int_equal(atomic_load(&accepted) - before, 1); /* reused */
    assert_ptr_equal(strstr(request, "POST /taken?a=1 HTTP/1.1\r\n"), request);
    assert_non_null(strstr(request, "\r\nwebhook-id: 018f3d7a-0000-7000-8000-000000000001\r\n"));
    assert_non_null(strstr(request, "\r\nContent-Type: text/plain; charset=utf-8\r\n"));
    assert_non_null(strstr(request, "\r\nce-type: test\r\n"));
    assert_non_null(strstr(request, "\r\nContent-Length: 11\r\n"));
    assert_memory_equal(strstr(request, "\r\n\r\n") + 4, "hello\0there", 11);
    char expected[EB_WEBHOOK_SIGNATURE];
    long long stamp = strtoll(strstr(request, "webhook-timestamp: ") + 19, NULL, 10);
    assert_in_range(stamp, eb_wall_ms() / 1000 - 60, eb_wall_ms() / 1000);
    eb_webhook_sign(expected, (const uint8_t *)"0123456789abcdef01234567", 24,
                    "018f3d7a-0000-7000-8000-000000000001", stamp, "hello\0there", 11);
    assert_memory_equal(strstr(request, "webhook-signature: ") + 19, expected, strlen(expected));
    eb_webhooks_destroy(hooks);
}

static void test_answers(void **state)
{
    struct eb_webhooks *hooks = make(true);

    struct eb_webhook call = call_path(hooks, "/gone", 60000);
    assert_int_equal(call.outcome, EB_WEBHOOK_GONE);
    call = call_path(hooks, "/busy", 60000);
    assert_int_equal(call.outcome, EB_WEBHOOK_FAILED);
    assert_int_equal(call.status, 503);
    assert_int_equal(call.retry_after, 17);
    assert_non_null(strstr(call.error, "503"));
    call = call_path(hooks, "/moved", 60000);
    assert_int_equal(call.outcome, EB_WEBHOOK_FAILED); /* not followed */
    assert_int_equal(call.status, 302);
    assert_int_equal(call.retry_after, -1);
    call = call_path(hooks, "/closes", 60000);
    assert_int_equal(call.outcome, EB_WEBHOOK_FAILED);
    assert_int_equal(call.status, 0);
    eb_webhooks_destroy(hooks);
}

static void test_receivers_that_waste_time(void **state)
{
    struct eb_webhooks *hooks = make(true);

    struct eb_webhook call = call_path(hooks, "/hang", 200);
    assert_int_equal(call.outcome, EB_WEBHOOK_FAILED);
    call = call_path(hooks, "/dribble", 200);
    assert_int_equal(call.outcome, EB_WEBHOOK_FAILED);
    assert_int_equal(call.status, 0);
    call = call_path(hooks, "/endless", 60000);
    assert_int_equal(call.outcome,
                     EB_WEBHOOK_TAKEN); /* its status is known; the rest is not read */
    assert_true(call.received <= 64 * 1024 + 128 * 1024);
    eb_webhooks_destroy(hooks);
}

static void test_addresses_are_refused_by_default(void **state)
{
    struct eb_webhooks *hooks = make(false);
    int before = atomic_load(&accepted);
    char url[64];

    struct eb_webhook call = call_path(hooks, "/taken", 60000);
    assert_int_equal(call.outcome, EB_WEBHOOK_REFUSED);
    snprintf(url, sizeof(url), "http://localhost:%d/taken", port); /* through a name, too */
    call = call_to(url, 60000);
    eb_webhooks_call(hooks, &call);
    wait_done(&call);
    assert_int_equal(call.outcome, EB_WEBHOOK_REFUSED);
    assert_non_null(strstr(call.error, "webhook_allow"));
    assert_int_equal(atomic_load(&accepted), before);
    eb_webhooks_destroy(hooks);
}

static void test_the_end_cancels(void **state)
{
    struct eb_webhooks *hooks = make(true);
    char url[64];

    snprintf(url, sizeof(url), "http://127.0.0.1:%d/hang", port);
    struct eb_webhook a = call_to(url, 60000), b = call_to(url, 60000);
    eb_webhooks_call(hooks, &a);
    eb_webhooks_call(hooks, &b);
    eb_webhooks_destroy(hooks);
    assert_int_equal(a.outcome, EB_WEBHOOK_CANCELLED);
    assert_int_equal(b.outcome, EB_WEBHOOK_CANCELLED);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_signature),
        cmocka_unit_test(test_secrets),
        cmocka_unit_test(test_urls),
        cmocka_unit_test(test_the_request_and_its_connection),
        cmocka_unit_test(test_answers),
        cmocka_unit_test(test_receivers_that_waste_time),
        cmocka_unit_test(test_addresses_are_refused_by_default),
        cmocka_unit_test(test_the_end_cancels),
    };
    return cmocka_run_group_tests(tests, start_server, stop_server);
}
