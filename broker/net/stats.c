/* stats.c - /v1/stats, and the health of the broker: /healthz, /livez, /readyz. */
#include "broker/net/http.h"

#include <stdlib.h>
#include <string.h>

#include "broker/bus/consumers.h"
#include "common/clock.h"
#include "common/json.h"

static void member(struct eb_buf *out, const char *name, uint64_t value)
{
    eb_buf_printf(out, ",\"%s\":%llu", name, (unsigned long long)value);
}

static void write_log(struct eb_buf *out, const struct eb_store_info *info, int64_t next_due)
{
    eb_buf_printf(out, ",\"epoch\":\"%s\",\"storage\":\"%s\",\"durability\":\"%s\"", info->epoch,
                  info->memory ? "memory" : "sqlite",
                  info->memory                              ? "none"
                  : info->durability == EB_DURABILITY_FSYNC ? "fsync"
                                                            : "os");
    member(out, "first_seq", info->first_seq);
    member(out, "last_seq", info->last_seq);
    member(out, "events", info->events);
    member(out, "bytes", info->bytes);
    member(out, "wal_bytes", info->wal_bytes);
    member(out, "free_bytes", info->free_bytes);
    member(out, "topics", info->topics);
    member(out, "acknowledged", info->acked);
    member(out, "deleted_upto", info->deleted_upto);
    member(out, "dedupe_ids", info->dedupe_ids);
    member(out, "dedupe_oldest_s", (uint64_t)info->dedupe_oldest_ms / 1000);
    member(out, "scheduled", info->scheduled);
    if (next_due == INT64_MAX)
        eb_buf_str(out, ",\"next_due\":null");
    else
        member(out, "next_due", (uint64_t)next_due);
    eb_buf_printf(out, ",\"storage_full\":%s,\"read_only\":%s", info->full ? "true" : "false",
                  info->read_only ? "true" : "false");
    if (info->trouble[0]) {
        eb_buf_str(out, ",\"trouble\":");
        eb_json_write_string(out, info->trouble, strnlen(info->trouble, sizeof(info->trouble)));
    }
}

static void write_consumers(struct eb_buf *out, struct eb_bus *bus)
{
    struct eb_consumer_info *infos = NULL;
    size_t count = eb_bus_consumers(bus, NULL, SIZE_MAX, false, &infos);
    uint64_t inflight = 0, workers = 0, stopped = 0;
    for (size_t i = 0; i < count; i++) {
        inflight += infos[i].inflight;
        workers += infos[i].workers;
        stopped += infos[i].stopped[0] != 0;
    }
    eb_consumer_infos_finish(infos, count);
    member(out, "consumers", count);
    member(out, "consumers_stopped", stopped);
    member(out, "workers", workers);
    member(out, "inflight", inflight);
}

enum MHD_Result eb_rest_stats(struct eb_http_request *request)
{
    struct eb_net *net = request->net;
    struct eb_store_info info;
    struct eb_bus_counters bus;
    struct eb_ws_counters ws = {0};
    struct eb_buf body = EB_BUF_INIT;
    eb_store_info(eb_bus_store(net->bus), &info);
    eb_bus_counters(net->bus, &bus);
    eb_ws_counters(net->ws, &ws);
    eb_lock_take(&net->streams_lock);
    unsigned streams = net->stream_count;
    eb_lock_drop(&net->streams_lock);

    eb_buf_printf(&body, "{\"version\":\"%s\",\"uptime_s\":%lld", EB_VERSION,
                  (long long)(eb_mono_ms() - net->started_ms) / 1000);
    write_log(&body, &info, eb_store_next_due(eb_bus_store(net->bus)));
    member(&body, "connections", ws.connections);
    member(&body, "streams", streams);
    member(&body, "subscriptions", bus.subscriptions);
    member(&body, "lagging", bus.lagging);
    write_consumers(&body, net->bus);
    member(&body, "published", bus.published);
    member(&body, "delivered", bus.delivered);
    eb_buf_printf(&body, ",\"limits\":%s}", request->policy->limits_json);
    return eb_http_json(request, 200, &body);
}

enum MHD_Result eb_rest_healthz(struct eb_http_request *request)
{
    struct eb_buf body = EB_BUF_INIT;
    eb_buf_str(&body, "{\"status\":\"ok\"}");
    return eb_http_json(request, 200, &body);
}

enum MHD_Result eb_rest_readyz(struct eb_http_request *request)
{
    struct eb_net *net = request->net;
    const char *why_not = atomic_load(&net->not_ready);
    struct eb_store_info info;
    eb_store_info(eb_bus_store(net->bus), &info);
    if (!why_not && !info.read_only) {
        struct eb_buf body = EB_BUF_INIT;
        eb_buf_str(&body, "{\"status\":\"ready\"}");
        return eb_http_json(request, 200, &body);
    }
    eb_fail(&request->refused, EB_UNAVAILABLE, "not ready: %s",
            why_not           ? why_not
            : info.trouble[0] ? info.trouble
                              : "the log is read-only after an I/O error");
    return eb_http_fail(request, &request->refused);
}
