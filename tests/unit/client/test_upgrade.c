/* test_upgrade.c - the handshake's answer is believed only when all of it is right. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "client/internal.h"

#define BOTH "eventbus.bin.v1, eventbus.json.v1"

static struct eb_upgrade upgrade;

#define OK                                                                                         \
    "HTTP/1.1 101 Switching Protocols\r\nupgrade: WebSocket\r\nConnection: keep-alive, "           \
    "Upgrade\r\n"                                                                                  \
    "Sec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Protocol: eventbus.json.v1\r\n\r\n"

static ptrdiff_t check(const char *text)
{
    upgrade = (struct eb_upgrade){.accept = "ACCEPT", .offer = BOTH};
    return eb_upgrade_check(&upgrade, text, strlen(text));
}

/* A sound 101 is taken, and what follows its head is left. */
static void a_sound_answer_is_taken(void **state)
{
    assert_int_equal(check(OK), strlen(OK));
    assert_int_equal(check(OK "\x81\x02{}"), strlen(OK));
    assert_false(upgrade.binary);
}

#define CHOSE(protocol)                                                                            \
    "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"                              \
    "Sec-WebSocket-Accept: ACCEPT\r\nSec-WebSocket-Protocol: " protocol "\r\n\r\n"

/* The broker's choice is taken, if it was offered. */
static void the_protocol_is_the_brokers_choice(void **state)
{
    assert_true(check(CHOSE("eventbus.bin.v1")) > 0 && upgrade.binary);
    assert_true(check(CHOSE("eventbus.json.v1")) > 0 && !upgrade.binary);
    assert_int_equal(check(CHOSE("eventbus.bin.v2")), -1);
    assert_int_equal(check(CHOSE("eventbus.")), -1);
    upgrade = (struct eb_upgrade){.accept = "ACCEPT", .offer = "eventbus.json.v1"};
    assert_int_equal(
        eb_upgrade_check(&upgrade, CHOSE("eventbus.bin.v1"), strlen(CHOSE("eventbus.bin.v1"))), -1);
}

/* As long as it may still become one, more is asked for: cut anywhere. */
static void a_part_is_waited_for(void **state)
{
    for (size_t len = 1; len < strlen(OK); len++) {
        upgrade = (struct eb_upgrade){.accept = "ACCEPT", .offer = BOTH};
        assert_int_equal(eb_upgrade_check(&upgrade, OK, len), 0);
    }
}

/* Each thing that RFC 6455 or we demand, left out or wrong. */
static void anything_else_is_refused(void **state)
{
    static const char *const lines[] = {
        "upgrade: WebSocket\r\n", "Connection: keep-alive, Upgrade\r\n",
        "Sec-WebSocket-Accept: ACCEPT\r\n", "Sec-WebSocket-Protocol: eventbus.json.v1\r\n"};
    char text[600];

    for (size_t i = 0; i < 4; i++) {
        const char *at = strstr(OK, lines[i]);
        snprintf(text, sizeof(text), "%.*s%s", (int)(at - OK), OK, at + strlen(lines[i]));
        assert_int_equal(check(text), -1);
        assert_true(upgrade.why[0] != '\0');
    }
    assert_int_equal(check("HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: "
                           "Upgrade\r\nSec-WebSocket-Accept: OTHER\r\n"
                           "Sec-WebSocket-Protocol: eventbus.json.v1\r\n\r\n"),
                     -1);
    assert_int_equal(check("HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: "
                           "Upgrade\r\nSec-WebSocket-Accept: ACCEPT\r\n"
                           "Sec-WebSocket-Protocol: eventbus.json.v1\r\nSec-WebSocket-Extensions: "
                           "permessage-deflate\r\n\r\n"),
                     -1);
    assert_int_equal(check("SSH-2.0-OpenSSH_9\r\n"), -1);
    assert_int_equal(check("HTTP/2 200\r\n\r\n"), -1);
    assert_int_equal(check("\r\n\r\n"), -1);
}

/* A refusal keeps its status, and shows its line without control characters. */
static void a_refusal_keeps_its_status(void **state)
{
    assert_int_equal(check("HTTP/1.1 401 Unautho\x1brized\r\nContent-Length: 0\r\n\r\n"), -1);
    assert_int_equal(upgrade.status, 401);
    assert_string_equal(upgrade.why, "the broker refused the connection: 401 Unautho?rized");
    assert_int_equal(check("HTTP/1.1 503 Service Unavailable\r\n\r\n"), -1);
    assert_int_equal(upgrade.status, 503);
}

/* An endless head ends. */
static void an_endless_head_is_refused(void **state)
{
    static char text[EB_UPGRADE_MAX + 1];

    memset(text, 'x', EB_UPGRADE_MAX);
    memcpy(text, "HTTP/1.1 101 x\r\n", 16);
    assert_int_equal(check(text), -1);
}

/* Target, host and token stand in the request; its key makes the expected answer, another one each time. */
static void the_request_says_who_and_where(void **state)
{
    struct eb_url url = {0};
    struct eb_buf out = EB_BUF_INIT;
    char first[29];

    assert_null(eb_url_parse(&url, "ws://h:81/x?y"));
    eb_upgrade_request(&out, &url, "s3cret", EB_PROTOCOL_ANY, &upgrade);
    eb_buf_add(&out, "", 1);
    assert_int_equal(strncmp(out.data, "GET /x?y HTTP/1.1\r\nHost: h:81\r\n", 31), 0);
    assert_non_null(strstr(out.data, "Authorization: Bearer s3cret\r\n"));
    assert_non_null(strstr(out.data, "Sec-WebSocket-Protocol: " BOTH "\r\n"));
    assert_int_equal(strlen(upgrade.accept), 28);
    strcpy(first, upgrade.accept);
    out.len = 0;
    eb_upgrade_request(&out, &url, NULL, EB_PROTOCOL_JSON, &upgrade);
    eb_buf_add(&out, "", 1);
    assert_null(strstr(out.data, "Authorization"));
    assert_non_null(strstr(out.data, "Sec-WebSocket-Protocol: eventbus.json.v1\r\n"));
    assert_string_not_equal(first, upgrade.accept);
    eb_buf_finish(&out);
    eb_url_finish(&url);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        {"upgrade/a_sound_answer_is_taken", a_sound_answer_is_taken},
        {"upgrade/the_protocol_is_the_brokers_choice", the_protocol_is_the_brokers_choice},
        {"upgrade/a_part_is_waited_for", a_part_is_waited_for},
        {"upgrade/anything_else_is_refused", anything_else_is_refused},
        {"upgrade/a_refusal_keeps_its_status", a_refusal_keeps_its_status},
        {"upgrade/an_endless_head_is_refused", an_endless_head_is_refused},
        {"upgrade/the_request_says_who_and_where", the_request_says_who_and_where},
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
