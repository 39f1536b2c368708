/* embed_mhd.c - the hand-over of <eventbus/broker_mhd.h>; the work is in net/host.c. */
#include "broker/broker.h"
#include "broker/embed.h"
#include "broker/include/eventbus/broker_mhd.h"

unsigned eb_broker_mhd_flags(void)
{
    return (unsigned)MHD_ALLOW_SUSPEND_RESUME | (unsigned)MHD_ALLOW_UPGRADE;
}

void eb_broker_mhd_prepare(eb_broker *broker)
{
    struct MHD_OptionItem *items = broker->mhd_options;
    items[0] = (struct MHD_OptionItem){MHD_OPTION_URI_LOG_CALLBACK, (intptr_t)eb_broker_mhd_raw_uri,
                                       broker};
    items[1] = (struct MHD_OptionItem){MHD_OPTION_NOTIFY_COMPLETED,
                                       (intptr_t)eb_broker_mhd_completed, broker};
    items[2] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
}

struct MHD_OptionItem *eb_broker_mhd_options(eb_broker *broker)
{
    return broker->mhd_options;
}

bool eb_broker_mhd_wants(eb_broker *broker, const char *url)
{
    return eb_net_host_wants(broker->net, url);
}

enum MHD_Result eb_broker_mhd_handle(eb_broker *broker, struct MHD_Connection *connection,
                                     const char *url, const char *method, const char *version,
                                     const char *upload_data, size_t *upload_data_size,
                                     void **req_cls)
{
    return eb_net_host_handle(broker->net, connection, url, method, version, upload_data,
                              upload_data_size, req_cls);
}

void *eb_broker_mhd_raw_uri(void *broker, const char *uri, struct MHD_Connection *connection)
{
    return eb_net_host_raw_uri(((eb_broker *)broker)->net, uri, connection);
}

void eb_broker_mhd_completed(void *broker, struct MHD_Connection *connection, void **req_cls,
                             enum MHD_RequestTerminationCode why)
{
    eb_net_host_completed(((eb_broker *)broker)->net, connection, req_cls, why);
}
