"""An examiner's own eyes: WebSocket through the sans-I/O half of python3-websockets, JSON that forgives nothing.

It shares nothing with lib.ws, so that a fault common to the broker and to that client does not go unseen: frames are
judged by another's code, every text frame must be JSON without repeated members, and its members are held against what
the contract says of each kind of message.
"""
import itertools
import json
import socket

from websockets.client import ClientConnection
from websockets.frames import Opcode
from websockets.uri import parse_uri

from lib.broker import PATIENCE

JSON_V1 = "eventbus.json.v1"
KINDS = {"ok", "error", "event", "live", "gap", "pong"}


def strict(text):
    """JSON without NaN and without a member given twice."""

    def members(pairs):
        assert len(dict(pairs)) == len(pairs), f"a member twice: {text[:300]}"
        return dict(pairs)

    def constant(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, object_pairs_hook=members, parse_constant=constant)


def judge_event(event):
    """What every event must look like in every answer (PROTOCOL 1, 2.2)."""
    assert type(event["seq"]) is int and 1 <= event["seq"] < 2**53
    assert isinstance(event["payload"], str) and event.get("payload_encoding", "base64") == "base64"
    meta = event["metadata"]
    assert type(meta["timestamp"]) is int and isinstance(meta["content_type"], str)
    assert "headers" not in meta or (meta["headers"] and all(isinstance(v, str) for v in meta["headers"].values()))
    assert "ttl" not in event or (type(event["ttl"]) is int and event["ttl"] > 0)
    assert str(event["message_id"]) == event["message_id"].lower() and len(event["message_id"]) == 36
    return event


class Gone(Exception):
    """The broker ended the connection: .code of its close frame, or None."""

    def __init__(self, code):
        super().__init__(f"gone: {code}")
        self.code = code


class Ws:
    def __init__(self, port, protocol=JSON_V1, path="/ws", headers=(), rcvbuf=None):
        self.sock = socket.socket()
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.proto = ClientConnection(parse_uri(f"ws://127.0.0.1:{port}{path}"), subprotocols=protocol.split(", ") if protocol else None, max_size=None)
        request = self.proto.connect()
        for name, value in headers:
            request.headers[name] = value
        self.proto.send_request(request)
        self._flush()
        self.inbox = []  # judged messages nobody took yet
        self.ids = itertools.count(1)
        self.code = None
        while not self.proto.handshake_exc and self.proto.state.name == "CONNECTING":
            self._fill()
        if self.proto.handshake_exc:
            raise self.proto.handshake_exc

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    def close(self):
        self.sock.close()

    def _flush(self):
        for data in self.proto.data_to_send():
            if data:
                self.sock.sendall(data)

    def _fill(self):
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        if data:
            self.proto.receive_data(data)
        else:
            self.proto.receive_eof()
        for event in self.proto.events_received():
            if getattr(event, "opcode", None) is Opcode.TEXT:
                message = strict(event.data.decode())
                assert message["type"] in KINDS, message
                if message["type"] == "event":
                    judge_event(message)
                self.inbox.append(message)
            else:
                assert getattr(event, "opcode", None) is not Opcode.BINARY, "a binary frame on the JSON protocol"
        try:
            self._flush()  # pongs, and the echo of a close
        except OSError:
            pass
        if not data:
            received = self.proto.close_rcvd
            raise Gone(received.code if received else None)

    # ---- requests ----
    def text(self, text):
        self.proto.send_text(text.encode() if isinstance(text, str) else text)
        self._flush()

    def send(self, **request):
        self.text(json.dumps(request))

    def ask(self, **request):
        """Send with an id of its own and return the answer; exactly one may come for it."""
        id = request.setdefault("id", next(self.ids))
        self.send(**request)
        return self.answer(id)

    def answer(self, id):
        return self.take(lambda m: m["type"] in ("ok", "error", "pong") and m.get("id") == id and type(m.get("id")) is type(id))

    def answer_null(self):
        """The next error of a request whose id was not given or not readable."""
        return self.take(lambda m: m["type"] == "error" and m["id"] is None)

    def pub(self, topic, payload="", ttl=None, **data):
        request = {"type": "publish", "data": {"topic": topic, "payload": payload, **data}}
        return self.ask(**request, **({} if ttl is None else {"ttl": ttl}))

    def sub(self, pattern, **more):
        answer = self.ask(type="subscribe", pattern=pattern, **more)
        assert answer["type"] == "ok", answer
        return answer

    # ---- what comes ----
    def take(self, wanted):
        """The first message for which wanted(message); those before it stay."""
        seen = 0
        while True:
            for i in range(seen, len(self.inbox)):
                if wanted(self.inbox[i]):
                    return self.inbox.pop(i)
            seen = len(self.inbox)
            self._fill()

    def next(self):
        while not self.inbox:
            self._fill()
        return self.inbox.pop(0)

    def event(self):
        return self.take(lambda m: m["type"] == "event")

    def until(self, topic, payload=None):
        """All that was delivered (events, gaps, live) up to and with the event on @topic, in order."""
        found = []
        while True:
            message = self.take(lambda m: m["type"] in ("event", "gap", "live"))
            found.append(message)
            if message["type"] == "event" and message["topic"] == topic and payload in (None, message["payload"]):
                return found

    def closed(self):
        """Wait for the end; the close code the broker gave, or None."""
        try:
            while True:
                self._fill()
        except Gone as gone:
            return gone.code


def events_of(messages):
    return [m for m in messages if m["type"] == "event"]
