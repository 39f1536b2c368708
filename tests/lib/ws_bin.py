"""The binary protocol in the clothes of the JSON one: requests and messages as dicts of docs/protocol.md, records on the
wire. So a test that was written for JSON says the same of eventbus.bin.v1.

What a translation must add: ids become integers; `acks` name no message ids, so each publish is given one (as
docs/binary.md advises), and a range becomes one `ok` for each of its publishes.
"""
import base64
import json
import uuid

from lib import bin
from lib.bin import BIN_V1
from lib.swarm import WsFeed
from lib.ws import BINARY, WebSocket


# Members that have no form of their own there.
JSON_ONLY = ("last", "delay", "deliver_at", "expected_last_seq")


class Translator:
    def __init__(self):
        self.ids = {0: None}  # number on the wire: the id as the test gave it
        self.given = {}  # number on the wire: message ids of what it publishes, in order

    # ---- requests ----
    def event(self, data):
        event = {"topic": data["topic"], "payload": data["payload"].encode()}
        if data.get("payload_encoding"):
            event["payload"] = base64.b64decode(data["payload"])
        if "message_id" in data and data["message_id"] is not None:
            try:
                event["message_id"] = str(uuid.UUID(data["message_id"]))
            except ValueError:
                event["message_id_text"] = data["message_id"]
        else:
            event["message_id"] = str(uuid.uuid4())
        return event | {key: data[key] for key in ("ttl", "content_type", "headers") if data.get(key) is not None}

    def request(self, request):
        """The record for a request. One whose values the form cannot hold raises."""
        number = 0
        if request.get("id") is not None:
            number = len(self.ids)
            self.ids[number] = request["id"]
        kind = request["type"]
        record = {"kind": kind, "id": number}
        events = [request.get("data") or {}, *request.get("messages", [])]
        if kind not in bin.KINDS or "consumer" in request or any(name in part for part in (request, *events) for name in JSON_ONLY):
            return bin.encode({"kind": "json_request", "id": number, "text": json.dumps(request)})
        if kind == "publish":
            record |= self.event({"ttl": request.get("ttl")} | request["data"])
            self.given[number] = [record.get("message_id")]
        elif kind == "publish_batch":
            record["messages"] = [self.event(data) for data in request["messages"]]
            self.given[number] = [event.get("message_id") for event in record["messages"]]
            record |= {"ttl": request["ttl"]} if request.get("ttl") is not None else {}
        else:
            names = ("pattern", "starting_seq", "epoch", "pending_only", "seq")
            record |= {name: request[name] for name in names if request.get(name) is not None}
            if request.get("message_id") is not None:
                record |= {name: value for name, value in self.event({**request, "topic": "", "payload": ""}).items() if name.startswith("message_id")}
        return bin.encode(record)

    # ---- messages ----
    def results(self, record):
        count = record["count"]
        pairs = record.get("results") or [(record["first_seq"] + i, False) for i in range(count)]
        uuids = record.get("message_ids") or self.given[record["id"]]
        return [{"seq": seq, "message_id": id, "duplicate": duplicate} for (seq, duplicate), id in zip(pairs, uuids, strict=True)]

    def delivered(self, record):
        event = {"type": "event", "seq": record["seq"], "message_id": record["message_id"], "topic": record["topic"]}
        try:
            event["payload"] = record["payload"].decode()
        except UnicodeDecodeError:
            event |= {"payload": base64.b64encode(record["payload"]).decode(), "payload_encoding": "base64"}
        event |= {name: record[name] for name in ("pattern", "ttl") if name in record}
        event["metadata"] = {"timestamp": record["timestamp"], "content_type": record.get("content_type", "text/plain")}
        event["metadata"] |= {"headers": record["headers"]} if "headers" in record else {}
        return event

    def message(self, record):
        """One record, which is no range, as the JSON message it stands for."""
        kind = record["kind"]
        if kind == "event":
            return self.delivered(record)
        if kind == "live":
            return {"type": "live", "pattern": record["pattern"], "seq": record["seq"]}
        if kind == "gap":
            gap = {"type": "gap"} | {name: record[name] for name in ("from_seq", "to_seq", "reason", "epoch") if name in record}
            return gap | ({"pattern": record["patterns"][0]} if len(record["patterns"]) == 1 else {"patterns": record["patterns"]})
        if kind == "json":
            message = json.loads(record["text"])
            assert message.get("id") == (record["id"] or None)
            return message | ({"id": self.ids[record["id"]]} if "id" in message else {})
        id = {"id": self.ids[record["id"]]}
        if kind == "error":
            return {"type": "error"} | id | {name: record[name] for name in ("code", "message", "index") if name in record}
        if kind == "pong":
            return {"type": "pong"} | (id if record["id"] else {})
        more = {
            "published": lambda: {name: record[name] for name in ("seq", "message_id", "duplicate")},
            "batch": lambda: {"results": self.results(record)},
            "ok": dict,
            "subscribed": lambda: {"last_seq": record["last_seq"], "epoch": record["epoch"]},
        }[kind]
        return {"type": "ok"} | id | more()

    def messages(self, data):
        found = []
        for record in bin.decode(data):
            if record["kind"] == "acks":
                for i in range(record["count"]):
                    number = record["id"] + i
                    [id] = self.given[number]
                    found.append({"type": "ok", "id": self.ids[number], "seq": record["seq"] + i, "message_id": id, "duplicate": False})
            else:
                found.append(self.message(record))
        return found


class BinaryWebSocket(WebSocket):
    """lib.ws.WebSocket over eventbus.bin.v1."""

    def __init__(self, port, protocol=BIN_V1, **options):
        super().__init__(port, protocol=protocol, **options)
        assert self.headers["sec-websocket-protocol"] == BIN_V1
        self.translator = Translator()
        self.arrived = []

    def send(self, message, opcode=BINARY):
        self.send_frame(opcode, self.translator.request(message) if isinstance(message, dict) else message)

    def send_all(self, requests):
        """Many requests in one message."""
        self.send_frame(BINARY, b"".join(map(self.translator.request, requests)))

    def next(self):
        while not self.arrived:
            self.arrived = self.translator.messages(self.message())
        return self.arrived.pop(0)

    def message(self):
        """The bytes of the next message."""
        return super().next_data(BINARY)


class BinaryWsFeed(WsFeed):
    """lib.swarm.WsFeed over eventbus.bin.v1."""

    OPCODE = BINARY

    def __init__(self, port, name="bin", **options):
        self.translator = Translator()
        super().__init__(port, name, protocol=BIN_V1, **options)

    def encode(self, request):
        return self.translator.request(request)

    def decode(self, payload):
        return self.translator.messages(payload)
