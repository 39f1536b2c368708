/* CloudEvents as drafts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "broker/net/cloudevents.h"
#include "common/uuid.h"

struct fixture {
    struct eb_json json;
    struct eb_cloudevent event;
    struct eb_draft draft;
    struct eb_error err;
};

static int read_event(struct fixture *fx, const char *text, const char *path)
{
    eb_json_init(&fx->json);
    eb_cloudevent_init(&fx->event, 64);
    if (eb_json_parse(&fx->json, text, strlen(text), &fx->err) < 0)
        return -1;
    return eb_ce_structured(&fx->draft, &fx->event, &fx->json, 0, path, path ? strlen(path) : 0,
                            &fx->err);
}

static void finish(struct fixture *fx)
{
    eb_cloudevent_finish(&fx->event);
    eb_json_finish(&fx->json);
}

/* JSON data is the payload byte for byte, not written anew. */
static void json_data_is_kept_byte_for_byte(void **state)
{
    struct fixture fx;
    assert_int_equal(
        read_event(&fx,
                   "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\",\"type\":\"t.u\","
                   "\"data\": { \"a\" : 1.50 } }",
                   NULL),
        0);
    assert_int_equal(fx.draft.payload_len, strlen("{ \"a\" : 1.50 }"));
    assert_memory_equal(fx.draft.payload, "{ \"a\" : 1.50 }", fx.draft.payload_len);
    assert_memory_equal(fx.draft.topic, "t.u", 3);
    assert_memory_equal(fx.draft.content_type, "application/json", fx.draft.content_type_len);
    finish(&fx);
}

/* The id is the UUIDv5 of source NUL id: the same event sent again is a duplicate, in whatever mode. */
static void id_is_uuid5_of_source_nul_id(void **state)
{
    struct fixture fx;
    uint8_t want[16];
    assert_int_equal(
        read_event(&fx, "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/s\",\"type\":\"t\"}",
                   "path.topic"),
        0);
    eb_uuid_v5(want, "/s\0001", 4);
    assert_true(fx.draft.has_id);
    assert_memory_equal(fx.draft.id, want, 16);
    assert_memory_equal(fx.draft.topic, "path.topic", fx.draft.topic_len);
    finish(&fx);
}

/* An attribute that is null is absent; so one that is required and null is missing. */
static void null_attributes_are_absent(void **state)
{
    struct fixture fx;
    assert_int_equal(read_event(&fx,
                                "{\"specversion\":\"1.0\",\"id\":\"1\",\"source\":\"/"
                                "s\",\"type\":\"t\",\"subject\":null,"
                                "\"data\":null}",
                                NULL),
                     0);
    assert_int_equal(fx.draft.payload_len, 0);
    assert_null(fx.draft.content_type);
    assert_null(memmem(fx.draft.headers, fx.draft.headers_len, "subject", 7));
    finish(&fx);
    assert_int_equal(
        read_event(&fx, "{\"specversion\":\"1.0\",\"id\":null,\"source\":\"/s\",\"type\":\"t\"}",
                   NULL),
        -1);
    assert_int_equal(fx.err.code, EB_INVALID_REQUEST);
    finish(&fx);
}

static void assert_value(const char *given, const char *want)
{
    struct eb_buf out = EB_BUF_INIT;
    eb_ce_header_value(&out, given, strlen(given));
    assert_int_equal(out.len, strlen(want));
    assert_memory_equal(out.data ? out.data : "", want, out.len);
    eb_buf_finish(&out);
}

/* The binding percent-encodes what headers cannot carry; what is no escape stays as it is. */
static void binary_values_are_decoded(void **state)
{
    assert_value("plain", "plain");
    assert_value("\"quoted\"", "quoted");
    assert_value("Gr%C3%bc", "Gr\xc3\xbc");
    assert_value("100%", "100%");
    assert_value("%zz%4", "%zz%4");
    assert_value("%25", "%");
    assert_value("\"", "\"");
    assert_value("", "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(json_data_is_kept_byte_for_byte),
        cmocka_unit_test(id_is_uuid5_of_source_nul_id),
        cmocka_unit_test(null_attributes_are_absent),
        cmocka_unit_test(binary_values_are_decoded),
    };
    return cmocka_run_group_tests_name("cloudevents", tests, NULL, NULL);
}
