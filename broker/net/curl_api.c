/* curl_api.c - libcurl found, opened and initialised once; it stays open to the end of the process. */
#include "broker/net/curl_api.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdbool.h>

#include "common/lock.h"

static const char *const names[] = {"libcurl.so.4", "libcurl-gnutls.so.4"};

static struct eb_curl curl;
static bool loaded; /* lock: both */
static struct eb_lock lock = EB_LOCK_INIT(EB_RANK_LEAF);

static bool resolve(void *library)
{
#define X(member, function, type, parameters)                                                      \
    *(void **)(&curl.member) = dlsym(library, #function);                                          \
    if (!curl.member)                                                                              \
        return false;
    EB_CURL_FUNCTIONS(X)
#undef X
    return curl.global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK;
}

static bool load_locked(void)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]) && !loaded; i++) {
        void *library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
        loaded = library && resolve(library);
    }
    return loaded;
}

int eb_curl_load(const struct eb_curl **ret, struct eb_error *err)
{
    eb_lock_take(&lock);
    bool ok = load_locked();
    eb_lock_drop(&lock);
    if (!ok) {
        eb_fail(err, EB_UNAVAILABLE, "webhooks need libcurl: install the package libcurl4");
        return -ENOENT;
    }
    *ret = &curl;
    return 0;
}
