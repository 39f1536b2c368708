/* problem.c - errors as application/problem+json (RFC 9457), with the headers that some of them need. */
#include "broker/net/http.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/json.h"
#include "common/text.h"

static void write_text(struct eb_buf *out, const char *text)
{
    size_t len = strlen(text);
    if (!eb_utf8_valid(text, len)) {
        text = "(the text of this error is not valid UTF-8)";
        len = strlen(text);
    }
    eb_json_write_string(out, text, len);
}

void eb_problem_write(struct eb_buf *out, const struct eb_error *err)
{
    eb_buf_printf(out, "{\"type\":\"urn:eventbus:problem:%s\",\"title\":", eb_code_name(err->code));
    write_text(out, eb_code_title(err->code));
    eb_buf_printf(out, ",\"status\":%d,\"detail\":", eb_code_http(err->code));
    write_text(out, err->message);
    eb_buf_printf(out, ",\"code\":\"%s\"", eb_code_name(err->code));
    if (err->index >= 0)
        eb_buf_printf(out, ",\"index\":%d", err->index);
    if (err->has_last_seq)
        eb_buf_printf(out, ",\"last_seq\":%llu", (unsigned long long)err->last_seq);
    eb_buf_str(out, "}\n");
}

enum MHD_Result eb_problem_queue(struct eb_net *net, struct MHD_Connection *connection,
                                 const struct eb_policy *policy, const struct eb_error *err,
                                 const char *allow)
{
    struct eb_buf body = EB_BUF_INIT;
    eb_problem_write(&body, err);
    if (eb_buf_failed(&body)) {
        eb_buf_finish(&body);
        return MHD_NO;
    }
    struct MHD_Response *response =
        MHD_create_response_from_buffer(body.len, body.data, MHD_RESPMEM_MUST_FREE);
    if (!response) {
        eb_buf_finish(&body);
        return MHD_NO;
    }
    unsigned status = (unsigned)eb_code_http(err->code);
    MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, "application/problem+json");
    if (allow)
        MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, allow);
    if (status == 429 || status == 503)
        MHD_add_response_header(response, MHD_HTTP_HEADER_RETRY_AFTER, "1");
    if (status == 401)
        MHD_add_response_header(response, MHD_HTTP_HEADER_WWW_AUTHENTICATE,
                                "Bearer realm=\"eventbus\"");
    return eb_http_queue(net, connection, policy, status, response, true);
}

enum MHD_Result eb_http_problem(struct eb_net *net, struct MHD_Connection *connection,
                                enum eb_code code, const char *detail, ...)
{
    struct eb_error err = {.code = code, .index = -1};
    va_list args;
    va_start(args, detail);
    vsnprintf(err.message, sizeof(err.message), detail, args);
    va_end(args);
    struct eb_policy *policy = eb_net_policy(net);
    enum MHD_Result result = eb_problem_queue(net, connection, policy, &err, NULL);
    eb_policy_unref(policy);
    return result;
}

enum MHD_Result eb_http_fail(struct eb_http_request *request, const struct eb_error *err)
{
    char allow[64];
    bool with_allow = err->code == EB_METHOD_NOT_ALLOWED;
    if (with_allow)
        eb_route_allow(request->websocket ? 0 : request->route->methods, allow);
    if (with_allow && request->websocket)
        strcpy(allow, "GET, OPTIONS");
    return eb_problem_queue(request->net, request->connection, request->policy, err,
                            with_allow ? allow : NULL);
}
