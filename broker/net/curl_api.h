/*
 * curl_api.h - libcurl, opened when the first webhook is called: its libraries take 6 MB and 10 ms, which a broker
 * without webhooks does not pay.
 */
#pragma once

#include <curl/curl.h>

#include "common/error.h"

/* X(member, function, type of result, parameters) */
#define EB_CURL_FUNCTIONS(X)                                                                       \
    X(global_init, curl_global_init, CURLcode, (long flags))                                       \
    X(easy_init, curl_easy_init, CURL *, (void))                                                   \
    X(easy_reset, curl_easy_reset, void, (CURL * easy))                                            \
    X(easy_cleanup, curl_easy_cleanup, void, (CURL * easy))                                        \
    X(easy_setopt, curl_easy_setopt, CURLcode, (CURL * easy, CURLoption option, ...))              \
    X(easy_getinfo, curl_easy_getinfo, CURLcode, (CURL * easy, CURLINFO info, ...))                \
    X(easy_strerror, curl_easy_strerror, const char *, (CURLcode code))                            \
    X(multi_init, curl_multi_init, CURLM *, (void))                                                \
    X(multi_cleanup, curl_multi_cleanup, CURLMcode, (CURLM * multi))                               \
    X(multi_setopt, curl_multi_setopt, CURLMcode, (CURLM * multi, CURLMoption option, ...))        \
    X(multi_add, curl_multi_add_handle, CURLMcode, (CURLM * multi, CURL * easy))                   \
    X(multi_remove, curl_multi_remove_handle, CURLMcode, (CURLM * multi, CURL * easy))             \
    X(multi_perform, curl_multi_perform, CURLMcode, (CURLM * multi, int *running))                 \
    X(multi_poll, curl_multi_poll, CURLMcode,                                                      \
      (CURLM * multi, struct curl_waitfd * extra, unsigned count, int timeout_ms, int *ready))     \
    X(multi_wakeup, curl_multi_wakeup, CURLMcode, (CURLM * multi))                                 \
    X(multi_info_read, curl_multi_info_read, CURLMsg *, (CURLM * multi, int *left))                \
    X(slist_append, curl_slist_append, struct curl_slist *,                                        \
      (struct curl_slist * list, const char *line))                                                \
    X(slist_free_all, curl_slist_free_all, void, (struct curl_slist * list))                       \
    X(url, curl_url, CURLU *, (void))                                                              \
    X(url_cleanup, curl_url_cleanup, void, (CURLU * url))                                          \
    X(url_set, curl_url_set, CURLUcode,                                                            \
      (CURLU * url, CURLUPart part, const char *text, unsigned flags))                             \
    X(url_get, curl_url_get, CURLUcode, (CURLU * url, CURLUPart part, char **ret, unsigned flags)) \
    X(free, curl_free, void, (void *text))

struct eb_curl {
#define X(member, function, type, parameters) type(*member) parameters;
    EB_CURL_FUNCTIONS(X)
#undef X
};

/** The same table at each call, from the first that succeeds. -ENOENT with @err: libcurl 7.85 or newer is not here. Threads: any. */
int eb_curl_load(const struct eb_curl **ret, struct eb_error *err);
