/*
 * metrics.c - /metrics in the Prometheus text format 0.0.4.
 *
 * Names end in their unit, counters in _total. Labels are error codes, gap reasons, HTTP statuses: never
 * anything a client chooses.
 */
#include "broker/net/http.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "broker/net/push.h"
#include "common/clock.h"

static void head(struct eb_buf *out, const char *name, const char *type, const char *help)
{
    eb_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void counter(struct eb_buf *out, const char *name, uint64_t value, const char *help)
{
    head(out, name, "counter", help);
    eb_buf_printf(out, "%s %" PRIu64 "\n", name, value);
}

static void gauge(struct eb_buf *out, const char *name, double value, const char *help)
{
    head(out, name, "gauge", help);
    eb_buf_printf(out, "%s %.15g\n", name, value);
}

/* ---- histograms ---- */

void eb_histogram_add(struct eb_histogram *histogram, int64_t us)
{
    unsigned i = 0;
    while (i + 1 < EB_HTTP_BUCKETS && us > 50LL << i)
        i++;
    atomic_fetch_add_explicit(&histogram->bucket[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->sum_us, us > 0 ? (uint64_t)us : 0, memory_order_relaxed);
    atomic_fetch_add_explicit(&histogram->count, 1, memory_order_relaxed);
}

static void write_buckets(struct eb_buf *out, const char *name, const char *labels,
                          const uint64_t *bucket, unsigned count, double first_us, uint64_t sum_us)
{
    uint64_t total = 0;
    const char *comma = *labels ? "," : "";
    for (unsigned i = 0; i + 1 < count; i++) {
        total += bucket[i];
        eb_buf_printf(out, "%s_bucket{%s%sle=\"%.9g\"} %" PRIu64 "\n", name, labels, comma,
                      first_us * (double)(1ull << i) / 1e6, total);
    }
    total += bucket[count - 1];
    eb_buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRIu64 "\n", name, labels, comma, total);
    const char *open = *labels ? "{" : "", *close = *labels ? "}" : "";
    eb_buf_printf(out, "%s_sum%s%s%s %.6f\n%s_count%s%s%s %" PRIu64 "\n", name, open, labels, close,
                  (double)sum_us / 1e6, name, open, labels, close, total);
}

void eb_histogram_write(struct eb_buf *out, const char *name, const char *labels,
                        struct eb_histogram *histogram)
{
    uint64_t bucket[EB_HTTP_BUCKETS];
    for (unsigned i = 0; i < EB_HTTP_BUCKETS; i++)
        bucket[i] = atomic_load_explicit(&histogram->bucket[i], memory_order_relaxed);
    write_buckets(out, name, labels, bucket, EB_HTTP_BUCKETS, 50,
                  atomic_load_explicit(&histogram->sum_us, memory_order_relaxed));
}

/* ---- the groups ---- */

static void write_bus(struct eb_buf *out, struct eb_bus *bus)
{
    struct eb_bus_counters c;
    eb_bus_counters(bus, &c);
    counter(out, "eventbus_messages_published_total", c.published, "Events accepted and stored.");
    counter(out, "eventbus_messages_delivered_total", c.delivered,
            "Events handed to subscribers' sockets.");
    counter(out, "eventbus_messages_acknowledged_total", c.acked, "Plain acknowledgements.");
    head(out, "eventbus_publish_refused_total", "counter",
         "Publishes refused by the bus, by error code.");
    for (int code = EB_OK + 1; code < EB_CODE_COUNT; code++)
        eb_buf_printf(out, "eventbus_publish_refused_total{code=\"%s\"} %" PRIu64 "\n",
                      eb_code_name((enum eb_code)code), c.publish_refused[code]);
    head(out, "eventbus_gaps_total", "counter", "Gaps told to subscribers, by reason.");
    for (int reason = EB_GAP_NONE + 1; reason <= EB_GAP_DELETED; reason++)
        eb_buf_printf(out, "eventbus_gaps_total{reason=\"%s\"} %" PRIu64 "\n",
                      eb_gap_reason_name((enum eb_gap_reason)reason), c.gaps[reason]);
    gauge(out, "eventbus_subscriptions", (double)c.subscriptions, "Subscriptions now.");
    gauge(out, "eventbus_sessions", (double)c.sessions, "Sessions on the bus now.");
    gauge(out, "eventbus_sessions_lagging", (double)c.lagging,
          "Sessions that are fed from the log now.");
    counter(out, "eventbus_sessions_lagged_total", c.lagged_total,
            "Times a session's queue was full.");
    counter(out, "eventbus_replays_total", c.replays_total,
            "Subscriptions that asked for a replay.");
    counter(out, "eventbus_match_cache_hits_total", c.match_hits,
            "Topics found in the match cache.");
    counter(out, "eventbus_match_cache_misses_total", c.match_misses, "Topics matched anew.");
    counter(out, "eventbus_shared_page_hits_total", c.shared_hits,
            "Pages for subscribers found in memory.");
    counter(out, "eventbus_shared_page_misses_total", c.shared_misses,
            "Pages for subscribers not found there.");
    gauge(out, "eventbus_shared_page_bytes", (double)c.shared_bytes,
          "Events kept for subscribers that read the log.");
    counter(out, "eventbus_scheduled_due_total", c.due,
            "Events that waited until they were due and entered the log.");
    counter(out, "eventbus_reader_pages_total", c.pages, "Pages of the log read for subscribers.");
}

static double late_seconds(int64_t next_due)
{
    int64_t now = eb_wall_ms();
    return next_due < now ? (double)(now - next_due) / 1e3 : 0;
}

static void write_store(struct eb_buf *out, struct eb_store *store)
{
    struct eb_store_info i;
    struct eb_store_counters c;
    eb_store_info(store, &i);
    eb_store_counters(store, &c);
    gauge(out, "eventbus_log_first_seq", (double)i.first_seq, "First retained seq.");
    gauge(out, "eventbus_log_last_seq", (double)i.last_seq, "Last committed seq.");
    gauge(out, "eventbus_log_events", (double)i.events, "Events in the log.");
    gauge(out, "eventbus_log_bytes", (double)i.bytes, "Size of the log.");
    gauge(out, "eventbus_log_wal_bytes", (double)i.wal_bytes, "Size of the write-ahead log.");
    gauge(out, "eventbus_log_topics", (double)i.topics, "Topics in the log.");
    gauge(out, "eventbus_disk_free_bytes", (double)i.free_bytes,
          "Free disk, less what the WAL still has to bring.");
    gauge(out, "eventbus_storage_full", i.full, "1 while publishes are refused for want of room.");
    gauge(out, "eventbus_storage_read_only", i.read_only,
          "1 after an I/O error stopped the writer.");
    gauge(out, "eventbus_dedupe_ids", (double)i.dedupe_ids, "Message ids remembered.");
    gauge(out, "eventbus_dedupe_oldest_seconds", (double)i.dedupe_oldest_ms / 1e3,
          "Age of the oldest remembered id.");
    gauge(out, "eventbus_scheduled", (double)i.scheduled, "Events that wait until they are due.");
    gauge(out, "eventbus_scheduled_late_seconds", late_seconds(eb_store_next_due(store)),
          "How long the first of them has been due; more than a second or two: it cannot enter.");
    counter(out, "eventbus_commits_total", c.commits, "Transactions committed.");
    counter(out, "eventbus_commit_failures_total", c.commit_failures, "Transactions that failed.");
    counter(out, "eventbus_messages_stored_total", c.stored, "Events written to the log.");
    counter(out, "eventbus_messages_duplicate_total", c.duplicates,
            "Publishes answered as duplicates.");
    counter(out, "eventbus_message_ids_reused_total", c.ids_reused,
            "Publishes refused for a reused message id.");
    counter(out, "eventbus_dedupe_evicted_total", c.ids_evicted,
            "Ids forgotten before dedupe_window (dedupe_max).");
    counter(out, "eventbus_messages_expired_total", c.expired, "Events deleted by their ttl.");
    counter(out, "eventbus_messages_retained_out_total", c.retained_out,
            "Events deleted by retention.");
    counter(out, "eventbus_messages_damaged_total", c.damaged,
            "Events that failed their checksum.");
    counter(out, "eventbus_publish_refused_full_total", c.refused_full,
            "Publishes refused for want of room.");
    counter(out, "eventbus_checkpoints_total", c.checkpoints,
            "Checkpoints of the write-ahead log.");
    counter(out, "eventbus_checkpoints_held_total", c.checkpoints_held,
            "Checkpoints that a reader of another process kept from emptying the write-ahead log.");
    counter(out, "eventbus_log_pages_read_total", c.pages_read, "Pages of the database read.");
    counter(out, "eventbus_log_rows_read_total", c.rows_read, "Rows of the log read.");
    head(out, "eventbus_commit_duration_seconds", "histogram",
         "Time of one commit, its sync included.");
    write_buckets(out, "eventbus_commit_duration_seconds", "", c.commit_us_bucket,
                  sizeof(c.commit_us_bucket) / sizeof(*c.commit_us_bucket), 25, c.commit_us_sum);
}

static void write_websocket(struct eb_buf *out, struct eb_net *net)
{
    struct eb_ws_counters c = {0};
    eb_ws_counters(net->ws, &c);
    gauge(out, "eventbus_websocket_connections", (double)c.connections, "WebSockets open now.");
    counter(out, "eventbus_websocket_connections_total", c.connections_total,
            "WebSockets ever opened.");
    counter(out, "eventbus_websocket_refused_total", c.refused_total, "Upgrades refused.");
    counter(out, "eventbus_websocket_messages_received_total", c.messages_in, "Messages received.");
    counter(out, "eventbus_websocket_binary_connections_total", c.binary_connections,
            "Of them those that spoke the binary protocol.");
    counter(out, "eventbus_websocket_records_received_total", c.records_in,
            "Records in the messages of binary connections.");
    counter(out, "eventbus_websocket_received_bytes_total", c.bytes_in, "Bytes received.");
    counter(out, "eventbus_websocket_frames_sent_total", c.frames_out, "Frames sent.");
    counter(out, "eventbus_websocket_sent_bytes_total", c.bytes_out, "Bytes sent.");
    counter(out, "eventbus_websocket_sends_total", c.sends, "Calls of sendmsg.");
    counter(out, "eventbus_websocket_pings_total", c.pings, "Pings sent.");
    counter(out, "eventbus_websocket_pong_timeouts_total", c.pong_timeouts,
            "Connections closed for a missing pong.");
    counter(out, "eventbus_websocket_idle_closed_total", c.idle_closed,
            "Connections closed as idle.");
    counter(out, "eventbus_websocket_stall_closed_total", c.stall_closed,
            "Connections closed as stalled.");
    counter(out, "eventbus_websocket_bad_requests_total", c.bad_requests, "Requests refused.");
    counter(out, "eventbus_websocket_legacy_connections_total", c.legacy_connections,
            "Older clients seen.");
    counter(out, "eventbus_websocket_legacy_unsent_total", c.legacy_unsent,
            "Answers an older client was not sent.");
    counter(out, "eventbus_websocket_protocol_errors_total", c.protocol_errors,
            "Connections closed for bad framing.");
    counter(out, "eventbus_websocket_rate_limited_total", c.rate_limited,
            "Publishes over publish_rate.");
}

static void write_http(struct eb_buf *out, struct eb_net *net)
{
    head(out, "eventbus_http_requests_total", "counter", "HTTP answers, by status.");
    for (unsigned status = 200; status < 600; status++) {
        uint64_t count = atomic_load_explicit(&net->status[status], memory_order_relaxed);
        if (count > 0 || status == 200)
            eb_buf_printf(out, "eventbus_http_requests_total{status=\"%u\"} %" PRIu64 "\n", status,
                          count);
    }
    head(out, "eventbus_http_request_duration_seconds", "histogram",
         "Time of a request, streams left out.");
    eb_histogram_write(out, "eventbus_http_request_duration_seconds", "", &net->request_duration);
    head(out, "eventbus_publish_duration_seconds", "histogram",
         "Time of an HTTP publish until its commit.");
    eb_histogram_write(out, "eventbus_publish_duration_seconds", "transport=\"http\"",
                       &net->publish_duration);
    eb_lock_take(&net->streams_lock);
    unsigned streams = net->stream_count;
    eb_lock_drop(&net->streams_lock);
    gauge(out, "eventbus_http_requests_active", atomic_load(&net->active),
          "Requests being answered, streams included.");
    counter(out, "eventbus_http_received_bytes_total", atomic_load(&net->bytes_in),
            "Bytes of request bodies.");
    counter(out, "eventbus_http_slow_closed_total", atomic_load(&net->slow_closed),
            "Connections closed for a request that took longer than request_timeout.");
    gauge(out, "eventbus_streams", streams, "SSE streams open now.");
    counter(out, "eventbus_requests_total", atomic_load(&net->calls_total),
            "Requests published by POST /v1/topics/{topic}/request.");
    counter(out, "eventbus_requests_timeout_total", atomic_load(&net->calls_timeout),
            "Of them those that nobody answered in time.");
    counter(out, "eventbus_requests_unheard_total", atomic_load(&net->calls_unheard),
            "Requests that were not published, as nobody listened.");
    eb_lock_take(&net->calls_lock);
    unsigned calls = net->call_count;
    eb_lock_drop(&net->calls_lock);
    gauge(out, "eventbus_requests_waiting", calls, "Requests that wait for their reply now.");
    counter(out, "eventbus_streams_total", atomic_load(&net->sse_total),
            "SSE streams ever opened.");
    counter(out, "eventbus_stream_messages_total", atomic_load(&net->sse_events),
            "Events sent on SSE streams.");
    gauge(out, "eventbus_connection_places_taken", atomic_load(&net->places),
          "WebSockets and streams together.");
    gauge(out, "eventbus_connection_places", net->max_connections, "max_connections.");
    counter(out, "eventbus_connections_refused_total", atomic_load(&net->refused_places),
            "WebSockets and streams refused at max_connections.");
}

/* ---- durable consumers ---- */

/* Labels are consumers' names, which are few (max_consumers) and need no escape. */
struct consumer_metric {
    const char *name, *type, *help;
    double (*value)(const struct eb_consumer_info *info);
};

#define VALUE(function, expression)                                                                \
    static double function(const struct eb_consumer_info *info)                                    \
    {                                                                                              \
        return (double)(expression);                                                               \
    }
VALUE(lag_events, info->lag_events)
VALUE(lag_seconds, (double)info->lag_ms / 1e3)
VALUE(inflight, info->inflight)
VALUE(pending, info->pending)
VALUE(workers, info->workers)
VALUE(stopped, info->stopped[0] != 0)
VALUE(dead_waiting, info->dead_waiting)
VALUE(redelivered, info->redelivered)
VALUE(dead, info->dead)
VALUE(lost, info->lost)
VALUE(delivered, info->delivered)
VALUE(acked, info->acked)

static const struct consumer_metric consumer_metrics[] = {
    {"eventbus_consumer_lag_events", "gauge", "Events of the log behind its cursor.", lag_events},
    {"eventbus_consumer_lag_seconds", "gauge", "Age of the oldest event that is not done.",
     lag_seconds},
    {"eventbus_consumer_inflight", "gauge", "Events out and unanswered.", inflight},
    {"eventbus_consumer_pending", "gauge", "Events open and not out.", pending},
    {"eventbus_consumer_workers", "gauge", "Workers attached.", workers},
    {"eventbus_consumer_stopped", "gauge", "1 while it takes nothing until it is PUT again.",
     stopped},
    {"eventbus_consumer_dead_waiting", "gauge", "Dead letters that may be redriven.", dead_waiting},
    {"eventbus_consumer_redelivered_total", "counter", "Deliveries after the first.", redelivered},
    {"eventbus_consumer_dead_total", "counter", "Events given up.", dead},
    {"eventbus_consumer_lost_total", "counter", "Events deleted before they were done.", lost},
    {"eventbus_consumer_delivered_total", "counter", "Deliveries since the start.", delivered},
    {"eventbus_consumer_acked_total", "counter", "Events acknowledged since the start.", acked},
};

static void write_consumers(struct eb_buf *out, struct eb_bus *bus)
{
    struct eb_consumer_info *infos = NULL;
    size_t count = eb_bus_consumers(bus, NULL, SIZE_MAX, false, &infos);

    gauge(out, "eventbus_consumers", (double)count, "Durable consumers.");
    for (size_t m = 0; count > 0 && m < sizeof(consumer_metrics) / sizeof(*consumer_metrics); m++) {
        const struct consumer_metric *metric = &consumer_metrics[m];
        head(out, metric->name, metric->type, metric->help);
        for (size_t i = 0; i < count; i++)
            eb_buf_printf(out, "%s{consumer=\"%s\"} %.15g\n", metric->name, infos[i].name,
                          metric->value(&infos[i]));
    }
    eb_consumer_infos_finish(infos, count);
}

static void write_webhooks(struct eb_buf *out, struct eb_push *push)
{
    struct eb_push_counters c;
    eb_push_counters(push, &c);
    head(out, "eventbus_webhook_calls_total", "counter",
         "Calls of webhooks, by what came of them.");
    eb_buf_printf(out, "eventbus_webhook_calls_total{outcome=\"taken\"} %" PRIu64 "\n", c.taken);
    eb_buf_printf(out, "eventbus_webhook_calls_total{outcome=\"failed\"} %" PRIu64 "\n", c.failed);
    eb_buf_printf(out, "eventbus_webhook_calls_total{outcome=\"refused\"} %" PRIu64 "\n",
                  c.refused);
    eb_buf_printf(out, "eventbus_webhook_calls_total{outcome=\"gone\"} %" PRIu64 "\n", c.gone);
    gauge(out, "eventbus_webhook_calls_active", (double)c.under_way, "Calls under way.");
}

static unsigned count_files(void)
{
    DIR *dir = opendir("/proc/self/fd");
    unsigned count = 0;
    if (!dir)
        return 0;
    while (readdir(dir))
        count++;
    closedir(dir);
    return count > 3 ? count - 3 : 0; /* ".", ".." and the folder itself */
}

static void write_process(struct eb_buf *out, struct eb_net *net)
{
    struct timespec cpu;
    unsigned long size = 0, resident = 0;
    FILE *statm = fopen("/proc/self/statm", "re");
    if (statm) {
        if (fscanf(statm, "%lu %lu", &size, &resident) != 2)
            resident = 0;
        fclose(statm);
    }
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
    head(out, "process_cpu_seconds_total", "counter", "CPU time of the process.");
    eb_buf_printf(out, "process_cpu_seconds_total %.3f\n",
                  (double)cpu.tv_sec + (double)cpu.tv_nsec / 1e9);
    gauge(out, "process_resident_memory_bytes", (double)resident * (double)sysconf(_SC_PAGESIZE),
          "Resident memory.");
    gauge(out, "process_open_fds", count_files(), "Open file descriptors.");
    gauge(out, "process_start_time_seconds",
          (double)(eb_wall_ms() - (eb_mono_ms() - net->started_ms)) / 1e3,
          "Start, seconds since 1970.");
    head(out, "eventbus_build_info", "gauge", "The version, as a label.");
    eb_buf_printf(out, "eventbus_build_info{version=\"%s\"} 1\n", EB_VERSION);
    gauge(out, "eventbus_uptime_seconds", (double)(eb_mono_ms() - net->started_ms) / 1e3,
          "Seconds since the start.");
}

enum MHD_Result eb_rest_metrics(struct eb_http_request *request)
{
    struct eb_buf body = EB_BUF_INIT;
    write_process(&body, request->net);
    write_bus(&body, request->net->bus);
    write_store(&body, eb_bus_store(request->net->bus));
    write_websocket(&body, request->net);
    write_http(&body, request->net);
    write_consumers(&body, request->net->bus);
    write_webhooks(&body, request->net->push);
    return eb_http_reply(request, 200, "text/plain; version=0.0.4; charset=utf-8", &body);
}
