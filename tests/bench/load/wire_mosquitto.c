/*
 * wire_mosquitto.c - MQTT 3.1.1: publish is QoS 1, each answered by its PUBACK, in order; fan-out is QoS 0, which has
 * no answers.
 */
#include <stdlib.h>

#include "load.h"

#define CONNECT   0x10
#define CONNACK   0x20
#define PUBLISH   0x30
#define QOS1      0x02
#define PUBACK    0x40
#define SUBSCRIBE 0x82
#define SUBACK    0x90
#define PACKETS   0x8000 /* packet ids are 1 to this */

static struct tmpl *qos1, *qos0; /* a topic each */
static size_t *packet_at;        /* where the packet id stands in those of QoS 1 */

/* The length of what follows, 7 bits a byte, lowest first. */
static size_t put_length(uint8_t *to, size_t len)
{
    size_t at = 0;

    do {
        to[at] = (uint8_t)(len & 127);
        len >>= 7;
        if (len)
            to[at] |= 128;
        at++;
    } while (len);
    return at;
}

/* Bytes of a packet's head, and what follows it; 0 while the head is not whole. */
static size_t get_length(const uint8_t *data, size_t len, size_t *ret_rest)
{
    size_t rest = 0;

    for (size_t at = 1; at < len && at < 5; at++) {
        rest |= (size_t)(data[at] & 127) << (7 * (at - 1));
        if (!(data[at] & 128)) {
            *ret_rest = rest;
            return at + 1;
        }
    }
    return 0;
}

static void make(struct tmpl *tmpl, unsigned topic, bool answered, size_t *ret_packet_at)
{
    char name[16];
    uint8_t head[5];
    size_t len = (size_t)snprintf(name, sizeof(name), "t.%u", topic);
    size_t rest = 2 + len + (answered ? 2 : 0) + opt.payload, head_len = 1 + put_length(head, rest);

    /* Spaces stand for the bytes that are not text. */
    tmpl_make(tmpl, "%*s%s%s%s", (int)head_len + 2, "", name, answered ? "  " : "",
              opt.payload_text);
    tmpl->bytes[0] = answered ? PUBLISH | QOS1 : PUBLISH;
    memcpy(tmpl->bytes + 1, head, head_len - 1);
    tmpl->bytes[head_len] = 0;
    tmpl->bytes[head_len + 1] = (uint8_t)len;
    *ret_packet_at = head_len + 2 + len;
}

static void prepare(void)
{
    size_t none;

    qos0 = calloc(opt.topics, sizeof(*qos0));
    qos1 = calloc(opt.topics, sizeof(*qos1));
    packet_at = calloc(opt.topics, sizeof(*packet_at));
    if (!qos0 || !qos1 || !packet_at)
        die("no memory");
    if (opt.window > PACKETS / 2)
        die("--window: MQTT has packet ids for %d", PACKETS / 2);
    for (unsigned i = 0; i < opt.topics; i++) {
        make(&qos0[i], i, false, &none);
        make(&qos1[i], i, true, &packet_at[i]);
    }
}

static void put_packet(struct conn *c, unsigned type, const void *body, size_t len)
{
    uint8_t head[5] = {(uint8_t)type};

    conn_put(c, head, 1 + put_length(head + 1, len));
    conn_put(c, body, len);
}

/* A clean session without keep-alive, named by role and number. */
static void open_mqtt(struct conn *c)
{
    static const uint8_t fixed[] = {0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0};
    uint8_t body[64];
    int len = snprintf((char *)body + 12, sizeof(body) - 12, "load-%d-%u-%d", (int)c->role,
                       c->number, c->fd);

    memcpy(body, fixed, sizeof(fixed));
    body[10] = 0;
    body[11] = (uint8_t)len;
    put_packet(c, CONNECT, body, 12 + (size_t)len);
}

static void publish(struct conn *c, unsigned events)
{
    unsigned topic = conn_topic(c);
    bool answered = c->role == ROLE_PUBLISHER;
    const struct tmpl *tmpl = answered ? &qos1[topic] : &qos0[topic];
    uint8_t *to = conn_reserve(c, tmpl->len);
    unsigned packet = (unsigned)(c->requests % PACKETS) + 1;

    (void)events; /* one */
    tmpl_put(tmpl, c, to);
    if (answered) {
        to[packet_at[topic]] = (uint8_t)(packet >> 8);
        to[packet_at[topic] + 1] = (uint8_t)packet;
    }
    conn_wrote(c, tmpl->len);
}

/* Every topic: the words of MQTT are separated by another character than ours. */
static void subscribe(struct conn *c)
{
    static const uint8_t all[] = {0, 1, 0, 1, '#', 0}, one[] = {0, 1, 0, 3, 't', '.', '0', 0};

    if (opt.topics > 1)
        put_packet(c, SUBSCRIBE, all, sizeof(all));
    else
        put_packet(c, SUBSCRIBE, one, sizeof(one));
}

static void on_puback(struct conn *c, const uint8_t *body)
{
    unsigned packet = (unsigned)body[0] << 8 | body[1];

    if (packet != c->oldest % PACKETS + 1)
        conn_fail(c, "packet %u was answered, %u is the oldest", packet,
                  (unsigned)(c->oldest % PACKETS) + 1);
    else
        conn_ack_next(c);
}

static void on_packet(struct conn *c, const uint8_t *data, const uint8_t *body, size_t len)
{
    size_t topic = 2 + (len >= 2 ? (size_t)body[0] << 8 | body[1] : 0);

    if ((data[0] & 0xf6) == PUBLISH && topic <= len)
        conn_event(c, body + topic, len - topic);
    else if (data[0] == PUBACK && len == 2)
        on_puback(c, body);
    else if (data[0] == CONNACK && len == 2 && body[1] == 0 && c->role == ROLE_SUBSCRIBER)
        subscribe(c);
    else if ((data[0] == CONNACK && len == 2 && body[1] == 0) ||
             (data[0] == SUBACK && len == 3 && body[2] < 3))
        conn_ready(c);
    else
        conn_fail(c, "a packet of type 0x%02x that is no success", data[0]);
}

static size_t parse(struct conn *c, uint8_t *data, size_t len)
{
    size_t used = 0, head, rest;

    while ((head = get_length(data + used, len - used, &rest)) > 0 && rest <= len - used - head) {
        on_packet(c, data + used, data + used + head, rest);
        used += head + rest;
    }
    return used;
}

/* ---- the sink: a PUBACK for each of QoS 1, those of QoS 0 as they are to all who subscribed ---- */

static void sink_packet(struct conn *c, const uint8_t *data, size_t head, size_t rest)
{
    const uint8_t *body = data + head;
    uint8_t answer[5] = {0, 2, 0, 0, 0};

    if (data[0] == PUBLISH) {
        memcpy(sink_reserve(head + rest), data, head + rest);
        sink_wrote(head + rest);
        return;
    }
    if (data[0] == (PUBLISH | QOS1)) {
        answer[0] = PUBACK;
        memcpy(answer + 2, body + 2 + body[1], 2);
    } else if (data[0] == CONNECT) {
        answer[0] = CONNACK;
    } else if (data[0] == SUBSCRIBE) {
        answer[0] = SUBACK;
        answer[1] = 3;
        answer[3] = 1;
        sink_subscribe(c);
    } else
        return;
    conn_put(c, answer, 2 + (size_t)answer[1]);
}

static size_t serve(struct conn *c, uint8_t *data, size_t len)
{
    size_t used = 0, head, rest;

    while ((head = get_length(data + used, len - used, &rest)) > 0 && rest <= len - used - head) {
        sink_packet(c, data + used, head, rest);
        used += head + rest;
    }
    return used;
}

const struct wire wire_mosquitto = {
    .name = "mosquitto",
    .may_drop = true,
    .batch_max = 1,
    .prepare = prepare,
    .open = open_mqtt,
    .publish = publish,
    .parse = parse,
    .serve = serve,
};
