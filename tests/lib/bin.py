"""eventbus.bin.v1 in plain Python, written from docs/binary.md and from nothing else: the second implementation that
shows that the page says enough. A record is a dict: `kind` by its name, its other members as the page calls them."""
import struct
import uuid

BIN_V1 = "eventbus.bin.v1"

KINDS = {
    "member": 0x00,
    "publish": 0x01,
    "publish_batch": 0x02,
    "subscribe": 0x03,
    "unsubscribe": 0x04,
    "ack": 0x05,
    "ping": 0x06,
    "json_request": 0x07,
    "acks": 0x81,
    "published": 0x82,
    "batch": 0x83,
    "ok": 0x84,
    "subscribed": 0x85,
    "pong": 0x86,
    "error": 0x87,
    "event": 0x90,
    "live": 0x91,
    "gap": 0x92,
    "json": 0x93,
}
NAMES = {number: name for name, number in KINDS.items()}
MESSAGE_ID, MESSAGE_ID_TEXT, TTL, CONTENT_TYPE, HEADERS, PATTERN, OPTIONS = 1, 2, 4, 8, 16, 32, 128
DUPLICATE = 1 << 63


class Malformed(Exception):
    pass


# ---- writing ----


def _record(kind, body, flags=0, small=0):
    return struct.pack("<IBBH", len(body), KINDS[kind], flags, small) + body


def _text(value):
    return value.encode() if isinstance(value, str) else value


def _short(value):
    value = _text(value)
    return bytes([len(value)]) + value


def _options(record):
    if "options" not in record:
        return 0, b""
    body = b"".join(struct.pack("<BH", tag, len(value)) + value for tag, value in record["options"])
    return OPTIONS, struct.pack("<H", len(body)) + body


def _parts(record):
    """Flags and bytes of the optional parts of an event."""
    flags, out = 0, b""
    if "message_id" in record and record["kind"] != "event":
        flags, out = flags | MESSAGE_ID, out + uuid.UUID(record["message_id"]).bytes
    if "message_id_text" in record:
        flags, out = flags | MESSAGE_ID_TEXT, out + _short(record["message_id_text"])
    if "ttl" in record:
        flags, out = flags | TTL, out + struct.pack("<Q", record["ttl"])
    if "content_type" in record:
        flags, out = flags | CONTENT_TYPE, out + _short(record["content_type"])
    if "headers" in record:
        pairs = record["headers"].items() if isinstance(record["headers"], dict) else record["headers"]
        flags, out = flags | HEADERS, out + struct.pack("<H", len(pairs))
        for name, value in pairs:
            name, value = _text(name), _text(value)
            out += struct.pack("<HH", len(name), len(value)) + name + value
    if "pattern" in record:
        flags, out = flags | PATTERN, out + _short(record["pattern"])
    more, options = _options(record)
    return flags | more, out + options


def _event(record, fixed):
    topic = _text(record["topic"])
    flags, parts = _parts(record)
    return _record(record["kind"], fixed + topic + parts + _text(record.get("payload", b"")), flags, len(topic))


def _batch(record):
    flags, ttl = (TTL, struct.pack("<Q", record["ttl"])) if "ttl" in record else (0, b"")
    more, options = _options(record)
    members = b"".join(_event({"kind": "member", **member}, b"") for member in record["messages"])
    fixed = struct.pack("<QI", record["id"], len(record["messages"]))
    return _record("publish_batch", fixed + ttl + options + members, flags | more)


def _subscribe(record):
    pattern = _text(record["pattern"])
    flags, out = 0, struct.pack("<Q", record["id"]) + pattern
    if "starting_seq" in record:
        flags, out = flags | 1, out + struct.pack("<Q", record["starting_seq"])
    if "epoch" in record:
        flags, out = flags | 2, out + uuid.UUID(record["epoch"]).bytes
    flags |= 4 if record.get("pending_only") else 0
    more, options = _options(record)
    return _record("subscribe", out + options, flags | more, len(pattern))


def _ack(record):
    flags, out = 0, struct.pack("<QQ", record["id"], record["seq"])
    if "message_id" in record:
        flags, out = flags | MESSAGE_ID, out + uuid.UUID(record["message_id"]).bytes
    if "message_id_text" in record:
        flags, out = flags | MESSAGE_ID_TEXT, out + _short(record["message_id_text"])
    more, options = _options(record)
    return _record("ack", out + options, flags | more)


def _results(record):
    flags, out = 0, struct.pack("<QI", record["id"], record["count"])
    if "results" in record:
        flags |= 1
        out += b"".join(struct.pack("<Q", seq | (DUPLICATE if duplicate else 0)) for seq, duplicate in record["results"])
    else:
        out += struct.pack("<Q", record["first_seq"])
    if "message_ids" in record:
        flags, out = flags | 2, out + b"".join(uuid.UUID(id).bytes for id in record["message_ids"])
    more, options = _options(record)
    return _record("batch", out + options, flags | more)


def _error(record):
    flags, out = 0, struct.pack("<QH", record["id"], record["status"]) + _text(record["code"])
    if "index" in record:
        flags, out = flags | 1, out + struct.pack("<I", record["index"])
    more, options = _options(record)
    return _record("error", out + options + _text(record["message"]), flags | more, len(record["code"]))


def _gap(record):
    out = struct.pack("<QQ", record["from_seq"], record["to_seq"]) + _short(record["reason"])
    out += b"".join(map(_short, record["patterns"]))
    flags = 0
    if "epoch" in record:
        flags, out = flags | 1, out + uuid.UUID(record["epoch"]).bytes
    more, options = _options(record)
    return _record("gap", out + options, flags | more, len(record["patterns"]))


def _plain(record, fixed, flags=0, text=""):
    more, options = _options(record)
    return _record(record["kind"], fixed + _text(text) + options, flags | more, len(_text(text)))


def _acks(record):
    return _plain(record, struct.pack("<QQI", record["id"], record["seq"], record["count"]))


def _published(record):
    fixed = struct.pack("<QQ", record["id"], record["seq"]) + uuid.UUID(record["message_id"]).bytes
    return _plain(record, fixed, int(record["duplicate"]))


def _subscribed(record):
    return _plain(record, struct.pack("<QQ", record["id"], record["last_seq"]) + uuid.UUID(record["epoch"]).bytes)


def _delivery(record):
    fixed = struct.pack("<QQ", record["seq"], record["timestamp"]) + uuid.UUID(record["message_id"]).bytes
    return _event(record, fixed)


def _json(record):
    return _record(record["kind"], struct.pack("<Q", record["id"]) + _text(record["text"]))


WRITERS = {
    "member": lambda r: _event(r, b""),
    "publish": lambda r: _event(r, struct.pack("<Q", r["id"])),
    "publish_batch": _batch,
    "subscribe": _subscribe,
    "unsubscribe": lambda r: _plain(r, struct.pack("<Q", r["id"]), 0, r["pattern"]),
    "ack": _ack,
    "ping": lambda r: _plain(r, struct.pack("<Q", r["id"])),
    "acks": _acks,
    "published": _published,
    "batch": _results,
    "ok": lambda r: _plain(r, struct.pack("<Q", r["id"])),
    "subscribed": _subscribed,
    "pong": lambda r: _plain(r, struct.pack("<Q", r["id"])),
    "error": _error,
    "event": _delivery,
    "live": lambda r: _plain(r, struct.pack("<Q", r["seq"]), 0, r["pattern"]),
    "gap": _gap,
    "json_request": _json,
    "json": _json,
}


def encode(*records):
    """The bytes of one message that holds these records."""
    return b"".join(WRITERS[record["kind"]](record) for record in records)


# ---- reading ----


class _Body:
    """Takes a body apart from its front."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if count > len(self.data) - self.at:
            raise Malformed(f"{count} bytes wanted, {len(self.data) - self.at} are left")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, form):
        return struct.unpack("<" + form, self.take(struct.calcsize("<" + form)))[0]

    def text(self, count):
        return self.take(count).decode()

    def short(self):
        return self.text(self.number("B"))

    def uuid(self):
        return str(uuid.UUID(bytes=self.take(16)))

    def rest(self):
        return self.take(len(self.data) - self.at)

    def options(self, record, flags):
        if not flags & OPTIONS:
            return
        inner = _Body(self.take(self.number("H")))
        record["options"] = []
        while inner.at < len(inner.data):
            tag = inner.number("B")
            record["options"].append((tag, inner.take(inner.number("H"))))


def _read_parts(body, record, flags):
    if flags & MESSAGE_ID:
        record["message_id"] = body.uuid()
    if flags & MESSAGE_ID_TEXT:
        record["message_id_text"] = body.short()
    if flags & TTL:
        record["ttl"] = body.number("Q")
    if flags & CONTENT_TYPE:
        record["content_type"] = body.short()
    if flags & HEADERS:
        record["headers"] = {}
        for _ in range(body.number("H")):
            name_len, value_len = body.number("H"), body.number("H")
            name = body.text(name_len)
            record["headers"][name] = body.text(value_len)
    if flags & PATTERN:
        record["pattern"] = body.short()
    body.options(record, flags)
    record["payload"] = body.rest()


def _read_event(body, record, flags, small):
    record["topic"] = body.text(small)
    _read_parts(body, record, flags)


def _read_publish(body, record, flags, small):
    record["id"] = body.number("Q")
    _read_event(body, record, flags, small)


def _read_batch(body, record, flags, small):
    record["id"], count = body.number("Q"), body.number("I")
    if flags & TTL:
        record["ttl"] = body.number("Q")
    body.options(record, flags)
    record["messages"] = decode(body.rest())
    if len(record["messages"]) != count or any(m["kind"] != "member" for m in record["messages"]):
        raise Malformed("not the members that the batch announces")
    for member in record["messages"]:
        del member["kind"]


def _read_subscribe(body, record, flags, small):
    record["id"] = body.number("Q")
    record["pattern"] = body.text(small)
    if flags & 1:
        record["starting_seq"] = body.number("Q")
    if flags & 2:
        record["epoch"] = body.uuid()
    if flags & 4:
        record["pending_only"] = True
    body.options(record, flags)


def _read_ack(body, record, flags, small):
    record["id"], record["seq"] = body.number("Q"), body.number("Q")
    if flags & MESSAGE_ID:
        record["message_id"] = body.uuid()
    if flags & MESSAGE_ID_TEXT:
        record["message_id_text"] = body.short()
    body.options(record, flags)


def _read_results(body, record, flags, small):
    record["id"], record["count"] = body.number("Q"), body.number("I")
    if flags & 1:
        seqs = [body.number("Q") for _ in range(record["count"])]
        record["results"] = [(seq & ~DUPLICATE, bool(seq & DUPLICATE)) for seq in seqs]
    else:
        record["first_seq"] = body.number("Q")
    if flags & 2:
        record["message_ids"] = [body.uuid() for _ in range(record["count"])]
    body.options(record, flags)


def _read_error(body, record, flags, small):
    record["id"], record["status"] = body.number("Q"), body.number("H")
    record["code"] = body.text(small)
    if flags & 1:
        record["index"] = body.number("I")
    body.options(record, flags)
    record["message"] = body.rest().decode()


def _read_gap(body, record, flags, small):
    record["from_seq"], record["to_seq"] = body.number("Q"), body.number("Q")
    record["reason"] = body.short()
    record["patterns"] = [body.short() for _ in range(small)]
    if flags & 1:
        record["epoch"] = body.uuid()
    body.options(record, flags)


def _fields(*fields):
    """A reader of fixed fields, then `small` bytes of text if the last field is `pattern`."""

    def read(body, record, flags, small):
        for name, form in fields:
            record[name] = body.uuid() if form == "uuid" else body.text(small) if form == "text" else body.number(form)
        if record["kind"] == "published":
            record["duplicate"] = bool(flags & 1)
        body.options(record, flags)

    return read


def _read_delivery(body, record, flags, small):
    record["seq"], record["timestamp"] = body.number("Q"), body.number("Q")
    record["message_id"] = body.uuid()
    _read_event(body, record, flags, small)


def _read_json(body, record, flags, small):
    record["id"], record["text"] = body.number("Q"), body.rest().decode()


READERS = {
    "member": _read_event,
    "publish": _read_publish,
    "publish_batch": _read_batch,
    "subscribe": _read_subscribe,
    "unsubscribe": _fields(("id", "Q"), ("pattern", "text")),
    "ack": _read_ack,
    "ping": _fields(("id", "Q")),
    "acks": _fields(("id", "Q"), ("seq", "Q"), ("count", "I")),
    "published": _fields(("id", "Q"), ("seq", "Q"), ("message_id", "uuid")),
    "batch": _read_results,
    "ok": _fields(("id", "Q")),
    "subscribed": _fields(("id", "Q"), ("last_seq", "Q"), ("epoch", "uuid")),
    "pong": _fields(("id", "Q")),
    "error": _read_error,
    "event": _read_delivery,
    "live": _fields(("seq", "Q"), ("pattern", "text")),
    "gap": _read_gap,
    "json_request": _read_json,
    "json": _read_json,
}


def decode(message):
    """The records of a message. Kinds that are not known are passed over, as the page asks of a client."""
    records, at = [], 0
    while at < len(message):
        if len(message) - at < 8:
            raise Malformed("the message ends inside a header")
        length, kind, flags, small = struct.unpack_from("<IBBH", message, at)
        if length > len(message) - at - 8:
            raise Malformed("a record reaches beyond its message")
        body = _Body(message[at + 8 : at + 8 + length])
        at += 8 + length
        if kind in NAMES:
            record = {"kind": NAMES[kind]}
            READERS[NAMES[kind]](body, record, flags, small)
            records.append(record)
    return records
