/*
 * bin.h - eventbus.bin.v1: records to bytes and back (docs/binary.md says what each byte means).
 *
 * Reading allocates nothing: what comes out points into the message and lives as long as it. Nothing is read
 * beyond the message, whatever is in it. Records that a client sends (kinds below 0x80) are judged strictly, with
 * an error that may be answered; those of a broker leniently, so that older clients understand newer brokers.
 *
 * Writing appends whole records to a buffer; out of memory shows in eb_buf_failed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/buf.h"
#include "common/error.h"

#define EB_BIN_HEADER    8
#define EB_BIN_ID        8                   /* every request's body begins with its id */
#define EB_BIN_DUPLICATE ((uint64_t)1 << 63) /* beside a seq in the list of a batch's answer */

enum eb_bin_kind {
    EB_BIN_MEMBER = 0x00,
    EB_BIN_PUBLISH = 0x01,
    EB_BIN_PUBLISH_BATCH = 0x02,
    EB_BIN_SUBSCRIBE = 0x03,
    EB_BIN_UNSUBSCRIBE = 0x04,
    EB_BIN_ACK = 0x05,
    EB_BIN_PING = 0x06,
    EB_BIN_JSON_REQUEST = 0x07,
    EB_BIN_ACKS = 0x81,
    EB_BIN_PUBLISHED = 0x82,
    EB_BIN_BATCH = 0x83,
    EB_BIN_OK = 0x84,
    EB_BIN_SUBSCRIBED = 0x85,
    EB_BIN_PONG = 0x86,
    EB_BIN_ERROR = 0x87,
    EB_BIN_EVENT = 0x90,
    EB_BIN_LIVE = 0x91,
    EB_BIN_GAP = 0x92,
    EB_BIN_JSON = 0x93,
};

/* Flags of an event's optional parts, in the order of their bytes. */
enum {
    EB_BIN_PART_UUID = 0x01,
    EB_BIN_PART_ID_TEXT = 0x02,
    EB_BIN_PART_TTL = 0x04,
    EB_BIN_PART_CONTENT_TYPE = 0x08,
    EB_BIN_PART_HEADERS = 0x10,
    EB_BIN_PART_PATTERN = 0x20,
    EB_BIN_PART_OPTIONS = 0x80,
};

/* Flags of a batch's answer. */
enum { EB_BIN_BATCH_LIST = 0x01, EB_BIN_BATCH_UUIDS = 0x02 };

/* Bytes inside a message, or to be put into one. */
struct eb_bin_bytes {
    const char *data; /* NULL: absent */
    size_t len;
};

struct eb_bin_record {
    uint8_t kind, flags;
    uint16_t small;
    const uint8_t *body;
    size_t len;
};
/** The record at *@at, which moves behind it. 1; 0 at the end; -1 if the rest of the message is no record. */
int eb_bin_next(const uint8_t *message, size_t len, size_t *at, struct eb_bin_record *ret);
/** The request id that a refusal of this record answers to; 0 if it has none. */
uint64_t eb_bin_request_id(const struct eb_bin_record *record);

/* member, publish, event: fields that the kind does not have are 0. */
struct eb_bin_event {
    uint64_t id;             /* publish */
    uint64_t seq, timestamp; /* event */
    const uint8_t *uuid;     /* 16 bytes, or NULL */
    struct eb_bin_bytes id_text;
    bool has_ttl;
    uint64_t ttl;
    struct eb_bin_bytes topic, content_type, pattern, payload;
    struct eb_bin_bytes headers; /* for eb_bin_next_header; checked */
};
/** @record must be of one of these kinds. */
int eb_bin_read_event(const struct eb_bin_record *record, struct eb_bin_event *ret,
                      struct eb_error *err);
/** Headers one by one off the front of @headers; false at the end. */
bool eb_bin_next_header(struct eb_bin_bytes *headers, struct eb_bin_bytes *name,
                        struct eb_bin_bytes *value);

struct eb_bin_publish_batch {
    uint64_t id;
    uint32_t count;
    bool has_ttl;
    uint64_t ttl;
    const uint8_t *members; /* for eb_bin_next: exactly `count` of kind member, checked */
    size_t members_len;
};
int eb_bin_read_publish_batch(const struct eb_bin_record *record, struct eb_bin_publish_batch *ret,
                              struct eb_error *err);

/* subscribe, unsubscribe, ack, ping: fields that the kind does not have are 0. */
struct eb_bin_call {
    uint64_t id;
    struct eb_bin_bytes pattern;
    bool replay, pending_only;
    uint64_t seq;         /* starting_seq, or the seq to acknowledge */
    const uint8_t *epoch; /* 16 bytes, or NULL */
    const uint8_t *uuid;  /* ack: 16 bytes, or NULL */
    struct eb_bin_bytes id_text;
};
/** @record must be of one of these kinds. */
int eb_bin_read_call(const struct eb_bin_record *record, struct eb_bin_call *ret,
                     struct eb_error *err);

/** A request in JSON: its id and its text, which nobody has looked at. @record must be of that kind. */
int eb_bin_read_json(const struct eb_bin_record *record, uint64_t *ret_id,
                     struct eb_bin_bytes *ret_text, struct eb_error *err);

/* Everything a broker says but events: fields that the kind does not have are 0. */
struct eb_bin_answer {
    uint64_t id;
    uint64_t seq;         /* acks, batch: the first; published; subscribed: the last; live */
    uint32_t count;       /* acks, batch; gap: of patterns */
    bool duplicate;       /* published */
    const uint8_t *seqs;  /* batch: the list, for eb_bin_listed_seq; NULL: they follow each other */
    const uint8_t *uuids; /* published: one; batch: `count`, or NULL */
    const uint8_t *epoch; /* subscribed; gap: or NULL */
    uint16_t status;      /* error, and below */
    int32_t index;        /* -1: none */
    struct eb_bin_bytes code, message;
    struct eb_bin_bytes pattern; /* live; gap: the first one, the others behind it as short texts */
    struct eb_bin_bytes reason;  /* gap, and below */
    uint64_t from_seq, to_seq;
    struct eb_bin_bytes json; /* json: the whole text */
};
/** 0; 1 if the kind is none of these (to be passed over); -1 if it is too short for what it says. */
int eb_bin_read_answer(const struct eb_bin_record *record, struct eb_bin_answer *ret);
uint64_t eb_bin_listed_seq(const uint8_t *seqs, uint32_t i, bool *ret_duplicate);

/* ---- writing ---- */

/** A publish, or with @member a member of a batch; pattern, seq and timestamp are not looked at. */
void eb_bin_write_publish(struct eb_buf *out, bool member, const struct eb_bin_event *event);
/**
 * Begin a record whose body is appended by the caller; returns where it begins, for eb_bin_end. The body of a batch
 * begins with id, count and, with flag 0x04, ttl; its members follow.
 */
size_t eb_bin_begin(struct eb_buf *out, enum eb_bin_kind kind, unsigned flags, unsigned small);
void eb_bin_end(struct eb_buf *out, size_t begin);
void eb_bin_u32(struct eb_buf *out, uint32_t value);
void eb_bin_u64(struct eb_buf *out, uint64_t value);
/** subscribe, unsubscribe, ack or ping. */
void eb_bin_write_call(struct eb_buf *out, enum eb_bin_kind kind, const struct eb_bin_call *call);

/** A request in JSON, or with EB_BIN_JSON what a broker says so. */
void eb_bin_write_json(struct eb_buf *out, enum eb_bin_kind kind, uint64_t id, const char *text,
                       size_t len);

void eb_bin_write_acks(struct eb_buf *out, uint64_t first_id, uint64_t first_seq, uint32_t count);
void eb_bin_write_published(struct eb_buf *out, uint64_t id, uint64_t seq, const uint8_t uuid[16],
                            bool duplicate);
/** ok or pong. */
void eb_bin_write_plain(struct eb_buf *out, enum eb_bin_kind kind, uint64_t id);
void eb_bin_write_subscribed(struct eb_buf *out, uint64_t id, uint64_t last_seq,
                             const uint8_t epoch[16]);
void eb_bin_write_error(struct eb_buf *out, uint64_t id, const struct eb_error *err);
void eb_bin_write_live(struct eb_buf *out, const char *pattern, uint64_t seq);
/** @epoch: 16 bytes, or NULL. */
void eb_bin_write_gap(struct eb_buf *out, uint64_t from_seq, uint64_t to_seq, const char *reason,
                      const char *const *patterns, size_t count, const uint8_t *epoch);
