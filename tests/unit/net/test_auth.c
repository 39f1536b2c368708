/* Hosts, origins, tokens. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "broker/net/http.h"

/* DNS rebinding: only what can never be somebody else's name is a loopback host. */
static void host_is_loopback_only_by_a_loopback_name(void **state)
{
    static const char *const yes[] = {
        "localhost", "LocalHost:1", "localhost.", "127.0.0.1", "127.0.0.1:3000",
        "127.9.8.7", "[::1]",       "[::1]:3000", "[0:0::1]",  "[::ffff:127.0.0.1]"};
    static const char *const no[] = {"",
                                     "example",
                                     "localhost.example",
                                     "127.0.0.1.example",
                                     "10.0.0.1",
                                     "[::2]",
                                     "[::1",
                                     "::1",
                                     "[::1]x",
                                     "localhost:port",
                                     "localhost:1:2",
                                     "127.1",
                                     "[127.0.0.1]",
                                     "128.0.0.1",
                                     "localhost/",
                                     " localhost"};
    for (size_t i = 0; i < sizeof(yes) / sizeof(*yes); i++)
        assert_true(eb_host_is_loopback(yes[i]));
    for (size_t i = 0; i < sizeof(no) / sizeof(*no); i++)
        assert_false(eb_host_is_loopback(no[i]));
}

/* The page's own origin: same name and port, where an absent port is the scheme's. */
static void origin_is_host_by_name_and_port(void **state)
{
    assert_true(eb_origin_is_host("http://a.example:3000", "a.example:3000"));
    assert_true(eb_origin_is_host("http://A.example", "a.example"));
    assert_true(eb_origin_is_host("http://a.example", "a.example:80"));
    assert_true(eb_origin_is_host("https://a.example", "a.example:443"));
    assert_true(eb_origin_is_host("https://a.example", "a.example"));
    assert_true(eb_origin_is_host("http://[::1]:3000", "[::1]:3000"));
    assert_false(eb_origin_is_host("http://a.example:3000", "a.example:3001"));
    assert_false(eb_origin_is_host("http://a.example.evil", "a.example"));
    assert_false(eb_origin_is_host("http://a.example", "a.example.evil"));
    assert_false(eb_origin_is_host("null", "a.example"));
    assert_false(eb_origin_is_host("", ""));
    assert_false(eb_origin_is_host("http://", ""));
    assert_false(eb_origin_is_host("http://a.example/path", "a.example"));
    assert_false(eb_origin_is_host("http://a.example", NULL));
}

/* Whole tokens only; a policy with an empty list lets nobody in. */
static void token_must_be_one_of_the_policys(void **state)
{
    static const char *const tokens[] = {"sesame", "second", NULL}, *const none[] = {NULL};
    struct eb_net_config config = {.tokens = tokens};
    struct eb_policy *policy;
    assert_int_equal(eb_policy_create(&config, &policy), 0);
    assert_true(policy->tokens);
    assert_true(eb_policy_token(policy, "sesame", 6));
    assert_true(eb_policy_token(policy, "second", 6));
    assert_false(eb_policy_token(policy, "sesam", 5));
    assert_false(eb_policy_token(policy, "sesame\0", 7));
    assert_false(eb_policy_token(policy, "", 0));
    eb_policy_unref(policy);
    config.tokens = none;
    assert_int_equal(eb_policy_create(&config, &policy), 0);
    assert_true(policy->tokens);
    assert_false(eb_policy_token(policy, "", 0));
    eb_policy_unref(policy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(host_is_loopback_only_by_a_loopback_name),
        cmocka_unit_test(origin_is_host_by_name_and_port),
        cmocka_unit_test(token_must_be_one_of_the_policys),
    };
    return cmocka_run_group_tests_name("auth", tests, NULL, NULL);
}
