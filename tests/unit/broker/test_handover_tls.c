/*
 * test_handover_tls.c - a program's daemon with TLS: libmicrohttpd then serves a WebSocket's bytes through a socket
 * pair of its own, so the bus must not take that over (broker/net/ws_upgrade.c U3).
 */
#include "tests/unit/broker/embed_fixture.h"

#include <arpa/inet.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "broker/include/eventbus/broker_mhd.h"

static enum MHD_Result handle(void *broker, struct MHD_Connection *connection, const char *url,
                              const char *method, const char *version, const char *data,
                              size_t *size, void **req_cls)
{
    return eb_broker_mhd_handle(broker, connection, url, method, version, data, size, req_cls);
}

/* A key and a certificate that it signed itself, as PEM; gnutls_free'd by the caller. */
static void make_certificate(gnutls_datum_t *ret_key, gnutls_datum_t *ret_certificate)
{
    gnutls_x509_privkey_t key;
    gnutls_x509_crt_t certificate;
    gnutls_x509_privkey_init(&key);
    gnutls_x509_crt_init(&certificate);
    assert_int_equal(gnutls_x509_privkey_generate(
                         key, GNUTLS_PK_ECDSA, GNUTLS_CURVE_TO_BITS(GNUTLS_ECC_CURVE_SECP256R1), 0),
                     0);
    gnutls_x509_crt_set_version(certificate, 3);
    gnutls_x509_crt_set_serial(certificate, "\1", 1);
    gnutls_x509_crt_set_dn(certificate, "CN=localhost", NULL);
    gnutls_x509_crt_set_activation_time(certificate, time(NULL) - 3600);
    gnutls_x509_crt_set_expiration_time(certificate, time(NULL) + 3600);
    gnutls_x509_crt_set_key(certificate, key);
    assert_int_equal(gnutls_x509_crt_sign2(certificate, certificate, key, GNUTLS_DIG_SHA256, 0), 0);
    gnutls_x509_privkey_export2(key, GNUTLS_X509_FMT_PEM, ret_key);
    gnutls_x509_crt_export2(certificate, GNUTLS_X509_FMT_PEM, ret_certificate);
    gnutls_x509_crt_deinit(certificate);
    gnutls_x509_privkey_deinit(key);
}

static struct MHD_Daemon *serve(eb_broker *broker)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    gnutls_datum_t key, certificate;
    make_certificate(&key, &certificate);
    struct MHD_Daemon *daemon = MHD_start_daemon(
        MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_TLS | eb_broker_mhd_flags(), 0, NULL, NULL, handle,
        broker, MHD_OPTION_SOCK_ADDR, &sin, MHD_OPTION_HTTPS_MEM_KEY, key.data,
        MHD_OPTION_HTTPS_MEM_CERT, certificate.data, MHD_OPTION_ARRAY,
        eb_broker_mhd_options(broker), MHD_OPTION_END);
    assert_non_null(daemon);
    gnutls_free(key.data);
    gnutls_free(certificate.data);
    return daemon;
}

/* ---- a client, by hand; its certificate is not looked at ---- */

struct client {
    gnutls_certificate_credentials_t credentials;
    gnutls_session_t session;
    int fd;
};

static void client_open(struct client *client, struct MHD_Daemon *daemon)
{
    const union MHD_DaemonInfo *info = MHD_get_daemon_info(daemon, MHD_DAEMON_INFO_BIND_PORT);
    struct sockaddr_in sin = {.sin_family = AF_INET,
                              .sin_port = htons(info->port),
                              .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct timeval patience = {.tv_sec = PATIENCE_S};
    client->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(client->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    assert_int_equal(connect(client->fd, (struct sockaddr *)&sin, sizeof sin), 0);
    gnutls_certificate_allocate_credentials(&client->credentials);
    gnutls_init(&client->session, GNUTLS_CLIENT);
    gnutls_set_default_priority(client->session);
    gnutls_credentials_set(client->session, GNUTLS_CRD_CERTIFICATE, client->credentials);
    gnutls_transport_set_int(client->session, client->fd);
    int rc;
    do
        rc = gnutls_handshake(client->session);
    while (rc < 0 && !gnutls_error_is_fatal(rc));
    assert_int_equal(rc, 0);
}

static void client_close(struct client *client)
{
    gnutls_deinit(client->session);
    gnutls_certificate_free_credentials(client->credentials);
    close(client->fd);
}

/* Send, then read until @until is in what came, or the end; zero bytes are passed over. The text is static. */
static const char *talk(struct client *client, const void *bytes, size_t size, const char *until)
{
    static char text[4096];
    size_t len = 0;
    ssize_t got = 1;
    assert_int_equal(gnutls_record_send(client->session, bytes, size), size);
    text[0] = '\0';
    while (!strstr(text, until) && len + 1 < sizeof text && got > 0) {
        got = gnutls_record_recv(client->session, text + len, sizeof text - 1 - len);
        for (ssize_t i = 0; i < got; i++)
            text[len + (size_t)i] = text[len + (size_t)i] ? text[len + (size_t)i] : ' ';
        len += got > 0 ? (size_t)got : 0;
        text[len] = '\0';
    }
    return text;
}

/* A frame whose mask is all zero bits. */
static const char *talk_frame(struct client *client, const char *json, const char *until)
{
    char frame[132] = {(char)0x81, (char)(0x80 | strlen(json)), 0, 0, 0, 0};
    memcpy(frame + 6, json, strlen(json));
    return talk(client, frame, 6 + strlen(json), until);
}

static const char UPGRADE[] =
    "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
static const char PUBLISH[] = "POST /v1/topics/t/events HTTP/1.1\r\nHost: localhost\r\n"
                              "Content-Length: 5\r\n\r\nhello";

/* What is said through a TLS daemon is encrypted after the upgrade as before; one is closed by its peer, one by the end. */
static void websockets_work_through_a_tls_daemon(void **state)
{
    static const char *const settings[] = {"drain_timeout", "1s", NULL};
    eb_broker *broker = start(settings);
    struct MHD_Daemon *daemon = serve(broker);
    struct client sockets[2], publisher;
    for (int i = 0; i < 2; i++) {
        client_open(&sockets[i], daemon);
        assert_non_null(strstr(talk(&sockets[i], UPGRADE, sizeof UPGRADE - 1, "\r\n\r\n"), "101"));
        assert_non_null(
            strstr(talk_frame(&sockets[i], "{\"type\":\"subscribe\",\"id\":1,\"pattern\":\"t\"}",
                              "\"ok\""),
                   "\"ok\""));
    }
    client_open(&publisher, daemon);
    assert_non_null(strstr(talk(&publisher, PUBLISH, sizeof PUBLISH - 1, "}\n"), " 201 "));
    for (int i = 0; i < 2; i++)
        assert_non_null(
            strstr(talk_frame(&sockets[i], "{\"type\":\"ping\",\"id\":2}", "hello"), "hello"));
    client_close(&sockets[0]);
    client_close(&publisher);
    eb_broker_quiesce(broker);
    MHD_stop_daemon(daemon);
    eb_broker_stop(broker);
    client_close(&sockets[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(websockets_work_through_a_tls_daemon, folder_make,
                                        folder_remove),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
