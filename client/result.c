/*
 * result.c - results in words, and the broker's codes as results.
 */
#include <eventbus/client.h>

#include "client/internal.h"
#include "common/error.h"

EB_API const char *eb_result_text(int result)
{
    if (result > 0)
        return "ok";
    switch ((enum eb_result)result) {
    case EB_RESULT_OK:
        return "ok";
    case EB_RESULT_INVALID:
        return "invalid argument";
    case EB_RESULT_MEMORY:
        return "out of memory";
    case EB_RESULT_TIMEOUT:
        return "not done in time";
    case EB_RESULT_CLOSED:
        return "the client is closed";
    case EB_RESULT_FULL:
        return "too many publishes wait for an answer";
    case EB_RESULT_DISCONNECTED:
        return "the connection ended before the answer";
    case EB_RESULT_IN_DOUBT:
        return "unanswered for longer than the broker knows duplicates: stored or not";
    case EB_RESULT_UNAUTHORIZED:
        return "the broker wants a valid token";
    case EB_RESULT_FORBIDDEN:
        return "forbidden";
    case EB_RESULT_NOT_FOUND:
        return "not found";
    case EB_RESULT_TOO_LARGE:
        return "too large";
    case EB_RESULT_ID_REUSED:
        return "the message id belongs to another event";
    case EB_RESULT_LIMIT:
        return "a limit of the broker is reached";
    case EB_RESULT_STORAGE_FULL:
        return "the broker's disk is full";
    case EB_RESULT_UNAVAILABLE:
        return "the broker cannot do it now";
    case EB_RESULT_INTERNAL:
        return "the broker failed, or its answer cannot be understood";
    case EB_RESULT_CONFLICT:
        return "conflict";
    case EB_RESULT_WOULD_DEADLOCK:
        return "a call that waits is not allowed in a callback";
    case EB_RESULT_LATE:
        return "the delivery had ended before the answer";
    case EB_RESULT_UNKNOWN:
        return "the event was not delivered to this consumer, or a seek forgot it";
    }
    return "unknown result";
}

int eb_result_from_status(int status)
{
    switch (status) {
    case 401:
        return EB_RESULT_UNAUTHORIZED;
    case 403:
        return EB_RESULT_FORBIDDEN;
    case 404:
        return EB_RESULT_NOT_FOUND;
    case 409:
        return EB_RESULT_CONFLICT;
    case 413:
        return EB_RESULT_TOO_LARGE;
    case 422:
        return EB_RESULT_ID_REUSED;
    case 429:
        return EB_RESULT_LIMIT;
    case 502:
    case 503:
    case 504:
        return EB_RESULT_UNAVAILABLE;
    case 507:
        return EB_RESULT_STORAGE_FULL;
    default:
        return status >= 400 && status < 500 ? EB_RESULT_INVALID : EB_RESULT_INTERNAL;
    }
}

/* A code that this version does not know counts as the broker's fault, as its neighbours of 500 do. */
int eb_result_from_code(const char *code, size_t len)
{
    return eb_result_from_status(eb_code_http(eb_code_from_name(code, len)));
}
