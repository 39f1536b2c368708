/*
 * <eventbus/broker_mhd.h> - serve an embedded bus from the program's own libmicrohttpd daemon.
 *
 *   struct MHD_Daemon *daemon = MHD_start_daemon(
 *       MHD_USE_POLL_INTERNAL_THREAD | eb_broker_mhd_flags(), 3000, NULL, NULL, handle, app,
 *       MHD_OPTION_ARRAY, eb_broker_mhd_options(broker), MHD_OPTION_END);
 *
 *   and first thing in `handle`, before *req_cls is looked at:
 *
 *       if (eb_broker_mhd_wants(broker, url))
 *           return eb_broker_mhd_handle(broker, connection, url, method, version, data, size, req_cls);
 *
 *   The end:  eb_broker_quiesce(broker);  MHD_stop_daemon(daemon);  eb_broker_stop(broker);
 *
 * MHD_stop_daemon aborts the process if a request is suspended, and frees sockets under WebSockets that are
 * open: hence quiesce first. eb_broker_stop frees what the daemon still calls: hence last.
 *
 * The bus wants of the daemon: MHD_ALLOW_SUSPEND_RESUME (a publish waits for its commit), MHD_ALLOW_UPGRADE
 * (WebSockets), MHD_OPTION_URI_LOG_CALLBACK (the URI before it is decoded: %2F in a topic) and
 * MHD_OPTION_NOTIFY_COMPLETED. A request handed over without one of them is answered 500, naming it. Not
 * MHD_USE_THREAD_PER_CONNECTION. MHD_USE_POLL_INTERNAL_THREAD is the one to take: the epoll loop of
 * libmicrohttpd 0.9.75 stalls when 128 events come at once.
 * A program that uses one of the two callbacks itself calls eb_broker_mhd_raw_uri and
 * eb_broker_mhd_completed from its own, in place of eb_broker_mhd_options.
 *
 * The program's own requests are its own: for a URL the bus does not want, *req_cls is NULL at the first call
 * and no callback of the bus touches it.
 */
#ifndef EVENTBUS_BROKER_MHD_H
#define EVENTBUS_BROKER_MHD_H

#include <microhttpd.h>

#include <eventbus/broker.h>

#ifdef __cplusplus
extern "C" {
#endif

/** MHD_ALLOW_SUSPEND_RESUME and MHD_ALLOW_UPGRADE: to be or-ed into the flags of MHD_start_daemon. */
EB_API unsigned eb_broker_mhd_flags(void);
/** For MHD_OPTION_ARRAY: the two callbacks, and the end. Belongs to the broker, lives as it does. */
EB_API struct MHD_OptionItem *eb_broker_mhd_options(eb_broker *broker);

/**
 * Is @url (as the daemon tells its handler) the bus's: ws_path (/ws), /v1 and what is below? Those must be handed
 * over. Others the bus can answer too if the program hands them over: /healthz, /livez, /readyz, /metrics,
 * and with `pages` the chat page (/, /app.js, /style.css).
 */
EB_API bool eb_broker_mhd_wants(eb_broker *broker, const char *url);
/**
 * Hand one request over, with the arguments of the daemon's handler, every time the handler is called for it.
 * The bus answers it; its rules of who may (token_file, Host, Origin) apply. A daemon that listens beyond
 * loopback is answered 403 unless token_file or insecure is set. After eb_broker_quiesce: 503.
 * Threads: those of the daemon.
 */
EB_API enum MHD_Result eb_broker_mhd_handle(eb_broker *broker, struct MHD_Connection *connection,
                                            const char *url, const char *method,
                                            const char *version, const char *upload_data,
                                            size_t *upload_data_size, void **req_cls);

/** What MHD_OPTION_URI_LOG_CALLBACK is to return: the bus's record of the request, NULL for the program's own. @broker: eb_broker. */
EB_API void *eb_broker_mhd_raw_uri(void *broker, const char *uri,
                                   struct MHD_Connection *connection);
/** For MHD_OPTION_NOTIFY_COMPLETED. Leaves requests alone that are not the bus's. @broker: eb_broker. */
EB_API void eb_broker_mhd_completed(void *broker, struct MHD_Connection *connection, void **req_cls,
                                    enum MHD_RequestTerminationCode why);

#ifdef __cplusplus
}
#endif
#endif
