/*
 * test_address.c - the broker connects by itself to nothing inside the operator's network that was not allowed
 * (PROTOCOL.md 7, webhooks).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "broker/net/address.h"

static const struct sockaddr *at(const char *text)
{
    static struct sockaddr_in6 v6;
    static struct sockaddr_in v4;

    v4 = (struct sockaddr_in){.sin_family = AF_INET};
    v6 = (struct sockaddr_in6){.sin6_family = AF_INET6};
    if (inet_pton(AF_INET, text, &v4.sin_addr) == 1)
        return (const struct sockaddr *)(const void *)&v4;
    assert_int_equal(inet_pton(AF_INET6, text, &v6.sin6_addr), 1);
    return (const struct sockaddr *)(const void *)&v6;
}

static void test_special_addresses_are_not_global(void **state)
{
    static const char *const special[] = {"0.0.0.0",
                                          "10.1.2.3",
                                          "100.64.0.1",
                                          "100.127.255.255",
                                          "127.0.0.1",
                                          "127.255.255.254",
                                          "169.254.169.254",
                                          "172.16.0.1",
                                          "172.31.255.255",
                                          "192.0.0.1",
                                          "192.0.2.1",
                                          "192.168.255.255",
                                          "198.18.0.1",
                                          "198.19.255.255",
                                          "198.51.100.7",
                                          "203.0.113.9",
                                          "224.0.0.1",
                                          "240.0.0.1",
                                          "255.255.255.255",
                                          "::",
                                          "::1",
                                          "::127.0.0.1",
                                          "::ffff:127.0.0.1",
                                          "::ffff:10.0.0.1",
                                          "64:ff9b::7f00:1",
                                          "64:ff9b:1::1",
                                          "100::1",
                                          "2001::1",
                                          "2001:db8::1",
                                          "2002:7f00:1::",
                                          "fc00::1",
                                          "fdff::1",
                                          "fe80::1",
                                          "febf::1",
                                          "fec0::1",
                                          "ff02::1"};
    static const char *const global[] = {
        "1.1.1.1",         "9.255.255.255",   "11.0.0.1",
        "100.63.255.255",  "100.128.0.1",     "126.0.0.1",
        "128.0.0.1",       "169.253.0.1",     "172.15.0.1",
        "172.32.0.1",      "192.167.0.1",     "198.17.0.1",
        "198.20.0.1",      "223.255.255.255", "2001:4860:4860::8888",
        "2606:4700::1111", "2a00:1450::1",    "::ffff:8.8.8.8"};

    for (size_t i = 0; i < sizeof(special) / sizeof(special[0]); i++)
        if (eb_address_global(at(special[i])))
            fail_msg("%s is taken for global", special[i]);
    for (size_t i = 0; i < sizeof(global) / sizeof(global[0]); i++)
        if (!eb_address_global(at(global[i])))
            fail_msg("%s is not taken for global", global[i]);
    const struct sockaddr local = {.sa_family = AF_UNIX};
    assert_false(eb_address_global(&local));
}

static void test_networks_that_are_allowed(void **state)
{
    struct eb_network *list;
    struct eb_error err;
    size_t count;

    assert_int_equal(
        eb_networks_parse(&list, &count, " 10.0.0.0/9, 127.0.0.1 fd00::/8,192.168.1.0/28 ", &err),
        0);
    assert_int_equal(count, 4);
    assert_true(eb_address_in(at("10.127.0.1"), list, count));
    assert_false(eb_address_in(at("10.128.0.1"), list, count));
    assert_true(eb_address_in(at("127.0.0.1"), list, count));
    assert_true(eb_address_in(at("::ffff:127.0.0.1"), list, count));
    assert_false(eb_address_in(at("127.0.0.2"), list, count));
    assert_true(eb_address_in(at("fd12::1"), list, count));
    assert_false(eb_address_in(at("fe80::1"), list, count));
    assert_true(eb_address_in(at("192.168.1.15"), list, count));
    assert_false(eb_address_in(at("192.168.1.16"), list, count));
    free(list);
    assert_int_equal(eb_networks_parse(&list, &count, " ", &err), 0);
    assert_int_equal(count, 0);
    assert_null(list);
}

static void test_bad_networks_are_named(void **state)
{
    static const char *const bad[] = {"10.0.0.0/33", "10.0.0/8",  "::/129",
                                      "x",           "10.0.0.0/", "10.0.0.0/-1",
                                      "10.0.0.0/8x", "/8",        "10.0.0.0/99999999999"};
    struct eb_network *list;
    struct eb_error err;
    size_t count;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        char text[64] = "127.0.0.1,";
        strcat(text, bad[i]);
        assert_int_equal(eb_networks_parse(&list, &count, text, &err), -1);
        assert_int_equal(err.code, EB_INVALID_REQUEST);
        assert_non_null(strstr(err.message, bad[i]));
        assert_null(list);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_special_addresses_are_not_global),
        cmocka_unit_test(test_networks_that_are_allowed),
        cmocka_unit_test(test_bad_networks_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
