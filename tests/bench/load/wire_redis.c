/*
 * wire_redis.c - redis over RESP2: publish is XADD to a stream a topic, each one command, pipelined by the window;
 * fan-out is PUBLISH and SUBSCRIBE; a replay reads one stream by XREAD, 1,000 entries at a time, a page asked for
 * when the one before has come. Workers share a consumer group: XREADGROUP, an XACK for each entry, and the next
 * XREADGROUP behind them.
 */
#include <stdlib.h>

#include "load.h"

#define PAGE "1000"

static struct tmpl *adds, *publishes;

/* The templates' arguments are the number and the payload: the lengths of both are made text here. */
static struct tmpl *commands(const char *words, const char *field)
{
    struct tmpl *tmpls = calloc(opt.topics, sizeof(*tmpls));

    for (unsigned i = 0; tmpls && i < opt.topics; i++) {
        char topic[16];
        int len = snprintf(topic, sizeof(topic), "t.%u", i);
        tmpl_make(&tmpls[i], "%s$%d\r\n%s\r\n%s$%zu\r\n%s\r\n", words, len, topic, field,
                  opt.payload, opt.payload_text);
    }
    return tmpls;
}

static void prepare(void)
{
    adds = commands("*5\r\n$4\r\nXADD\r\n", "$1\r\n*\r\n$1\r\np\r\n");
    publishes = commands("*3\r\n$7\r\nPUBLISH\r\n", "");
}

static void read_page(struct conn *c)
{
    conn_printf(c,
                "*6\r\n$5\r\nXREAD\r\n$5\r\nCOUNT\r\n$4\r\n" PAGE
                "\r\n$7\r\nSTREAMS\r\n$3\r\nt.0\r\n$%zu\r\n%s\r\n",
                strlen(c->cursor), c->cursor);
}

static void open_redis(struct conn *c)
{
    if (c->role == ROLE_SUBSCRIBER && opt.topics > 1)
        conn_printf(c, "*2\r\n$10\r\nPSUBSCRIBE\r\n$3\r\nt.*\r\n");
    else if (c->role == ROLE_SUBSCRIBER)
        conn_printf(c, "*2\r\n$9\r\nSUBSCRIBE\r\n$3\r\nt.0\r\n");
    else
        conn_printf(c, "*1\r\n$4\r\nPING\r\n");
    snprintf(c->cursor, sizeof(c->cursor), "0-0");
}

static void publish(struct conn *c, unsigned events)
{
    struct tmpl *tmpls = c->role == ROLE_PUBLISHER ? adds : publishes;
    const struct tmpl *tmpl = &tmpls[conn_topic(c)];

    (void)events; /* one */
    tmpl_put(tmpl, c, conn_reserve(c, tmpl->len));
    conn_wrote(c, tmpl->len);
}

/* A line's number after its first byte, and where the line ends; NULL while it is not whole. */
static uint8_t *line(uint8_t *data, uint8_t *end, int64_t *ret_number)
{
    int64_t value = 0;
    uint8_t *p = data + 1;

    *ret_number = -1;
    if (p < end && *p != '-') {
        while (p < end && *p >= '0' && *p <= '9')
            value = value * 10 + (*p++ - '0');
        *ret_number = value;
    }
    uint8_t *nl = p < end ? memchr(p, '\n', (size_t)(end - p)) : NULL;
    return nl ? nl + 1 : NULL;
}

/* Bulk texts of a subscriber: only what is as long as a payload and begins with a digit can be one. */
static void on_push(struct conn *c, const uint8_t *bulk, size_t len)
{
    if (!c->ready && len >= 9 && memmem(bulk, len, "subscribe", 9))
        conn_ready(c);
    else if (len == opt.payload)
        conn_event(c, bulk, len);
}

static void on_replay(struct conn *c, const uint8_t *bulk, size_t len)
{
    if (len == opt.payload)
        conn_event(c, bulk, len);
    else if (len < sizeof(c->cursor) && memchr(bulk, '-', len)) {
        memcpy(c->cursor, bulk, len);
        c->cursor[len] = '\0';
    }
}

/* The entries of a page are counted by their payloads; the last one asks for the next page. */
static void page_over(struct conn *c)
{
    if (c->left == c->received && c->received < opt.events)
        conn_fail(c, "the stream ended after %llu entries", (unsigned long long)c->received);
    else if (c->received < opt.events)
        read_page(c);
    c->left = c->received;
}

/* ---- a worker ---- */

#define GROUP_WAIT                                                                                 \
    "100" /* ms that XREADGROUP blocks: nothing else on the connection is read meanwhile */

static void read_group(struct conn *c)
{
    char name[16], count[16];
    int name_len = snprintf(name, sizeof(name), "w%u", c->number);
    int count_len = snprintf(count, sizeof(count), "%u", opt.window);

    conn_printf(c,
                "*11\r\n$10\r\nXREADGROUP\r\n$5\r\nGROUP\r\n$4\r\nload\r\n$%d\r\n%s\r\n"
                "$5\r\nCOUNT\r\n$%d\r\n%s\r\n$5\r\nBLOCK\r\n$3\r\n" GROUP_WAIT
                "\r\n$7\r\nSTREAMS\r\n$3\r\nt.0\r\n$1\r\n>\r\n",
                name_len, name, count_len, count);
}

static void work(struct conn *c)
{
    conn_printf(c, "*6\r\n$6\r\nXGROUP\r\n$6\r\nCREATE\r\n$3\r\nt.0\r\n$4\r\nload\r\n$1\r\n0\r\n"
                   "$8\r\nMKSTREAM\r\n");
    read_group(c);
}

/* The id of an entry comes before its payload. */
static void on_job(struct conn *c, const uint8_t *bulk, size_t len)
{
    if (len != opt.payload) {
        on_replay(c, bulk, len);
        return;
    }
    c->left++;
    if (!conn_job(c, bulk, len))
        return;
    conn_printf(c, "*4\r\n$4\r\nXACK\r\n$3\r\nt.0\r\n$4\r\nload\r\n$%zu\r\n%s\r\n",
                strlen(c->cursor), c->cursor);
    c->requests++;
}

/* Not an error: another worker made the group before. */
static bool group_is_there(const struct conn *c, const uint8_t *data, size_t len)
{
    return c->role == ROLE_WORKER && memmem(data, len, "BUSYGROUP", 9);
}

/* One element of what came, a line or a bulk text. Bytes it takes, 0 while it is not whole. */
static size_t element(struct conn *c, uint8_t *data, uint8_t *end)
{
    int64_t number;
    uint8_t *next = line(data, end, &number);

    if (!next)
        return 0;
    if (*data == '-' && !group_is_there(c, data, (size_t)(next - data))) {
        conn_fail_bytes(c, "an error", data, (size_t)(next - data));
        return (size_t)(next - data);
    }
    if (*data == '$' && number >= 0) {
        if (end - next < number + 2)
            return 0;
        if (c->role == ROLE_SUBSCRIBER)
            on_push(c, next, (size_t)number);
        else if (c->role == ROLE_REPLAY)
            on_replay(c, next, (size_t)number);
        else if (c->role == ROLE_WORKER)
            on_job(c, next, (size_t)number);
        next += number + 2;
    }
    if (c->role == ROLE_PUBLISHER || c->role == ROLE_FEEDER || !c->ready) {
        if (c->ready)
            conn_ack_next(c);
        else if (*data == '+')
            conn_ready(c);
    }
    return (size_t)(next - data);
}

/*
 * A page is *1 *2 name *N and N entries of *2 id *2 field payload: it is over with the N-th payload, or at once
 * when it is *-1. step counts what was read of it: 1 after *1, 2 after *2, 3 after *N.
 */
static void replay_step(struct conn *c, const uint8_t *data, uint8_t *end)
{
    int64_t number = 0;

    if (!c->ready || *data != '*' || c->step >= 3 ||
        !line((uint8_t *)(uintptr_t)data, end, &number))
        return;
    c->step = number < 0 ? 3 : c->step + 1;
    if (c->step == 3)
        c->carry = number < 0 ? 0 : (size_t)number;
}

/* As replay_step; *-1 is a page without entries, :1 the answer to an XACK. */
static void work_step(struct conn *c, uint8_t *data, uint8_t *end)
{
    if (c->ready && *data == ':')
        conn_job_acked(c, 1);
    replay_step(c, data, end);
    if (c->step == 3 && c->left == c->carry) {
        c->step = 0;
        c->left = 0;
        read_group(c);
    }
}

static size_t parse(struct conn *c, uint8_t *data, size_t len)
{
    uint8_t *p = data, *end = data + len;
    size_t took;

    while (p < end && (took = element(c, p, end)) > 0) {
        if (c->role == ROLE_REPLAY)
            replay_step(c, p, end);
        else if (c->role == ROLE_WORKER)
            work_step(c, p, end);
        p += took;
        if (c->role == ROLE_REPLAY && c->step == 3 && c->received - c->left == c->carry) {
            c->step = 0;
            page_over(c);
        }
    }
    return (size_t)(p - data);
}

/* ---- the sink: an id for each XADD; PUBLISH goes to all who subscribed ---- */

static void sink_event(const uint8_t *payload)
{
    char head[64];
    int len =
        snprintf(head, sizeof(head), "*3\r\n$7\r\nmessage\r\n$3\r\nt.0\r\n$%zu\r\n", opt.payload);
    uint8_t *to = sink_reserve((size_t)len + opt.payload + 2);

    memcpy(to, head, (size_t)len);
    memcpy(to + len, payload, opt.payload);
    memcpy(to + (size_t)len + opt.payload, "\r\n", 2);
    sink_wrote((size_t)len + opt.payload + 2);
}

static void sink_command(struct conn *c, const uint8_t *command, size_t len)
{
    static const char added[] = "$15\r\n1700000000000-0\r\n",
                      subscribed[] = "*3\r\n$9\r\nsubscribe\r\n$3\r\nt.0\r\n:1\r\n";

    switch (command[8]) {
    case 'X':
        conn_put(c, added, sizeof(added) - 1);
        break;
    case 'P':
        if (command[9] == 'I')
            conn_put(c, "+PONG\r\n", 7);
        else {
            conn_put(c, ":1\r\n", 4);
            sink_event(command + len - opt.payload - 2);
        }
        break;
    default:
        conn_put(c, subscribed, sizeof(subscribed) - 1);
        sink_subscribe(c);
    }
}

/* The bytes of a whole command, 0 while it is not whole. */
static size_t command_len(uint8_t *data, uint8_t *end)
{
    int64_t words, len;
    uint8_t *p = line(data, end, &words);

    for (; p && p < end && words > 0; words--) {
        p = line(p, end, &len);
        if (!p || end - p < len + 2)
            return 0;
        p += len + 2;
    }
    return p && words == 0 ? (size_t)(p - data) : 0;
}

static size_t serve(struct conn *c, uint8_t *data, size_t len)
{
    size_t used = 0, took;

    while (used < len && (took = command_len(data + used, data + len)) > 0) {
        sink_command(c, data + used, took);
        used += took;
    }
    return used;
}

const struct wire wire_redis = {
    .name = "redis",
    .may_drop = true,
    .always_answers = true,
    .batch_max = 1,
    .prepare = prepare,
    .open = open_redis,
    .replay = read_page,
    .work = work,
    .publish = publish,
    .parse = parse,
    .serve = serve,
};
