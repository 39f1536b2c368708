"""A WebSocket client of bare sockets for tests: sends what a good library would refuse to send, and sees every frame."""
import base64
import json
import os
import socket
import struct

from lib.broker import PATIENCE
from lib.rawhttp import connect

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
JSON_V1 = "eventbus.json.v1"


class Closed(Exception):
    """The connection ended: .code of the close frame, or None when it ended without one."""

    def __init__(self, code, reason=b""):
        super().__init__(f"closed: {code} {reason!r}")
        self.code, self.reason = code, reason


def frame(opcode, payload=b"", fin=True, mask=b"\x11\x22\x33\x44", rsv=0):
    """One client frame as bytes. mask=None leaves it unmasked, which RFC 6455 forbids."""
    head = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    bit = 0x80 if mask is not None else 0
    if len(payload) < 126:
        head += bytes([bit | len(payload)])
    elif len(payload) < 65536:
        head += bytes([bit | 126]) + struct.pack(">H", len(payload))
    else:
        head += bytes([bit | 127]) + struct.pack(">Q", len(payload))
    if mask is None:
        return head + payload
    pad = (mask * (len(payload) // 4 + 1))[: len(payload)]
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(pad, "big")).to_bytes(len(payload), "big")


def handshake(port, *lines, path="/ws", defaults=True, key=None, rcvbuf=None):
    """Send an upgrade request; returns (socket, status, headers as a dict of lower-case names, bytes that came after)."""
    sock = connect(port, PATIENCE, rcvbuf)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = key or base64.b64encode(os.urandom(16)).decode()
    request = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}"]
    if defaults:
        request += ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13", f"Sec-WebSocket-Key: {key}"]
    sock.sendall("\r\n".join([*request, *lines, "", ""]).encode())
    data = b""
    while b"\r\n\r\n" not in data:
        more = sock.recv(65536)
        if not more:
            raise Closed(None)
        data += more
    head, rest = data.split(b"\r\n\r\n", 1)
    status_line, *fields = head.decode().split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, value in (field.split(":", 1) for field in fields)}
    return sock, int(status_line.split()[1]), headers, rest


class WebSocket:
    """Blocking; answers no ping by itself. protocol=None asks for no subprotocol (the older client)."""

    def __init__(self, port, protocol=JSON_V1, lines=(), rcvbuf=None):
        lines = [*lines, *([f"Sec-WebSocket-Protocol: {protocol}"] if protocol else [])]
        self.sock, status, self.headers, self.buffer = handshake(port, *lines, rcvbuf=rcvbuf)
        assert status == 101, (status, self.headers)
        self.ids = 0
        self.pending = []  # messages that came while another was waited for

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.sock.close()

    # ---- bytes and frames ----
    def send_frame(self, opcode, payload=b"", **kwargs):
        self.sock.sendall(frame(opcode, payload, **kwargs))

    def read(self, count):
        while len(self.buffer) < count:
            try:
                more = self.sock.recv(1 << 18)
            except ConnectionResetError:
                more = b""
            if not more:
                raise Closed(None)
            self.buffer += more
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def frame(self):
        """The next frame: (opcode, payload). Server frames must be whole and unmasked."""
        head = self.read(2)
        assert head[0] & 0x70 == 0 and head[0] & 0x80 and not head[1] & 0x80, head
        size = head[1]
        if size == 126:
            size = struct.unpack(">H", self.read(2))[0]
            assert size >= 126
        elif size == 127:
            size = struct.unpack(">Q", self.read(8))[0]
            assert size >= 65536
        return head[0] & 15, self.read(size)

    # ---- messages ----
    def send(self, message, opcode=TEXT):
        if isinstance(message, dict):
            message = json.dumps(message)
        self.send_frame(opcode, message.encode() if isinstance(message, str) else message)

    def send_all(self, requests):
        for request in requests:
            self.send(request)

    def next(self):
        """The next JSON message in the order of arrival; pongs and pings are passed over."""
        return json.loads(self.next_data(TEXT))

    def next_data(self, wanted):
        """What the next frame of that opcode holds."""
        while True:
            opcode, payload = self.frame()
            assert opcode not in (TEXT, BINARY) or opcode == wanted, opcode
            if opcode == wanted:
                return payload
            if opcode == CLOSE:
                raise Closed(struct.unpack(">H", payload[:2])[0] if payload else 1005, payload[2:])

    def recv(self):
        return self.pending.pop(0) if self.pending else self.next()

    def call(self, **request):
        """Send a request with a fresh id and return its answer; what else comes is kept for recv()."""
        self.ids += 1
        request.setdefault("id", f"call-{self.ids}")
        self.send(request)
        return self.answer(request["id"])

    def answer(self, id):
        for i, message in enumerate(self.pending):
            if message["type"] in ("ok", "error", "pong") and message.get("id") == id:
                return self.pending.pop(i)
        while True:
            message = self.next()
            if message["type"] in ("ok", "error", "pong") and message.get("id") == id:
                return message
            self.pending.append(message)

    def publish(self, topic, payload="", **request):
        return self.call(type="publish", data={"topic": topic, "payload": payload, **request.pop("data", {})}, **request)

    def subscribe(self, pattern, **request):
        answer = self.call(type="subscribe", pattern=pattern, **request)
        assert answer["type"] == "ok", answer
        return answer

    def event(self):
        """The next event; live notices and answers before it are passed over."""
        while True:
            message = self.recv()
            if message["type"] == "event":
                return message

    def quiet(self):
        """What came up to the answer of a request that takes its place behind all those before."""
        self.ids += 1
        self.send({"type": "subscribe", "id": f"quiet-{self.ids}", "pattern": "quiet.never"})
        got = []
        while True:
            message = self.recv()
            if message.get("id") == f"quiet-{self.ids}":
                return got
            got.append(message)

    def close_code(self):
        """Read to the end of the connection and return the close code that came, or None."""
        code = None
        try:
            while True:
                opcode, payload = self.frame()
                if opcode == CLOSE:
                    code = struct.unpack(">H", payload[:2])[0] if payload else 1005
        except Closed:
            return code
