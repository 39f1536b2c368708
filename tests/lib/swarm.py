"""Many subscribers on one thread: WebSocket and SSE feeds that read, pause and are checked against the log.

A feed keeps every message in the order of arrival; nothing is judged while it reads. The checks (check_feed,
matches) are written from the contract alone and know nothing of the broker's code.
"""
import functools
import json
import re
import selectors
import socket
import struct
import threading

from lib.rawhttp import RawHttp
from lib.ws import CLOSE, JSON_V1, PING, PONG, TEXT, Closed, frame, handshake


@functools.lru_cache(maxsize=1 << 16)
def matches(pattern, topic):
    """The contract's patterns, by brute force. A topic of $ or _ is reached only by naming its first word."""

    def words_match(p, t):
        if not p:
            return not t
        if p[0] == "#":
            return any(words_match(p[1:], t[i:]) for i in range(len(t) + 1))
        return bool(t) and p[0] in ("*", t[0]) and words_match(p[1:], t[1:])

    p, t = pattern.split("."), topic.split(".")
    if t[0][0] in "$_" and p[0] in ("*", "#"):
        return False
    return words_match(p, t)


class Feed:
    """What all feeds share. messages: dicts as in docs/protocol.md, SSE ones in the same form."""

    def __init__(self, sock, name, keep):
        self.sock, self.name, self.keep = sock, name, keep
        self.messages = []
        self.last = 0  # highest seq delivered
        self.last_shared = 0  # the same of what live subscriptions share: events that name no pattern
        self.count = 0  # events delivered
        self.live_at = {}  # what the last `live` of each pattern said; SSE names none
        self.closed = None  # how it ended: a close code, "end" or "reset"
        self.paused = False

    def __repr__(self):
        return f"<{self.name} count={self.count} last={self.last} closed={self.closed}>"

    def take(self, message):
        if message["type"] == "event":
            self.count += 1
            if message["seq"] > self.last:
                self.last = message["seq"]
            if message.get("pattern") is None:
                self.last_shared = message["seq"]
            if not self.keep:
                message = {"type": "event", "seq": message["seq"], "topic": message["topic"], "pattern": message.get("pattern")}
        elif message["type"] == "live":
            self.live_at[message.get("pattern")] = message["seq"]
        self.messages.append(message)

    def events(self, pattern=...):
        """Seqs delivered in the order of arrival; with pattern=None those of the shared stream only."""
        return [m["seq"] for m in list(self.messages) if m["type"] == "event" and (pattern is ... or m.get("pattern") == pattern)]

    def of_type(self, kind):
        return [m for m in list(self.messages) if m["type"] == kind]


class WsFeed(Feed):
    OPCODE = TEXT

    def __init__(self, port, name="ws", rcvbuf=None, keep=False, protocol=JSON_V1):
        lines = [f"Sec-WebSocket-Protocol: {protocol}"] if protocol else []
        sock, status, _, rest = handshake(port, *lines, rcvbuf=rcvbuf)
        assert status == 101, status
        super().__init__(sock, name, keep)
        self.buffer = bytearray(rest)
        self.subs = []  # (pattern, starting_seq or None, id)

    def send(self, **request):
        self.sock.setblocking(True)
        try:
            self.sock.sendall(frame(self.OPCODE, self.encode(request)))
        finally:
            self.sock.setblocking(False)

    def encode(self, request):
        return json.dumps(request).encode()

    def decode(self, payload):
        return [json.loads(payload)]

    def subscribe(self, pattern, starting_seq=None, **more):
        id = f"s{len(self.subs)}"
        self.subs.append((pattern, starting_seq, id))
        self.send(type="subscribe", id=id, pattern=pattern, starting_seq=starting_seq, **more)
        return id

    def answer(self, id):
        for message in list(self.messages):
            if message["type"] in ("ok", "error") and message.get("id") == id:
                return message
        return None

    def feed(self, data):
        self.buffer += data
        buffer, at, size = self.buffer, 0, len(self.buffer)
        while size - at >= 2:
            length, head = buffer[at + 1], 2
            if length == 126:
                if size - at < 4:
                    break
                length, head = struct.unpack_from(">H", buffer, at + 2)[0], 4
            elif length == 127:
                if size - at < 10:
                    break
                length, head = struct.unpack_from(">Q", buffer, at + 2)[0], 10
            if size - at < head + length:
                break
            opcode = buffer[at] & 15
            payload = bytes(buffer[at + head : at + head + length])
            at += head + length
            if opcode == self.OPCODE:
                for message in self.decode(payload):
                    self.take(message)
            elif opcode == CLOSE:
                self.closed = struct.unpack(">H", payload[:2])[0] if payload else 1005
            elif opcode == PING:
                try:
                    self.sock.send(frame(PONG, payload))
                except OSError:
                    pass
        del buffer[:at]


class SseFeed(Feed):
    def __init__(self, port, query, name="sse", rcvbuf=None, keep=False, headers=()):
        http = RawHttp(port, rcvbuf=rcvbuf)
        lines = "".join(f"{key}: {value}\r\n" for key, value in headers)
        http.send(f"GET /v1/stream?{query} HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n")
        status, fields = http.head()
        assert status == 200, (status, fields)
        super().__init__(http.socket, name, keep)
        self.raw = bytearray(http.buffer)
        self.text = bytearray()
        self.open = None
        self.last_id = None
        self.feed(b"")

    def feed(self, data):
        self.raw += data
        raw, at = self.raw, 0
        while True:  # chunks
            end = raw.find(b"\r\n", at)
            if end < 0:
                break
            length = int(raw[at:end], 16)
            if len(raw) < end + 2 + length + 2:
                break
            self.text += raw[end + 2 : end + 2 + length]
            at = end + 2 + length + 2
            if length == 0:
                self.closed = "end"
                break
        del raw[:at]
        while (end := self.text.find(b"\n\n")) >= 0:
            block = self.text[:end].decode()
            del self.text[: end + 2]
            self.block(block)

    def block(self, block):
        kind, id, data = "message", None, []
        for line in block.split("\n"):
            field, _, value = line.partition(": ")
            if field == "event":
                kind = value
            elif field == "id":
                id = value
            elif field == "data":
                data.append(value)
        if not data:
            return
        message = json.loads("\n".join(data))
        if id is not None:
            self.last_id = id
        if kind == "message":
            assert id is not None and int(id.split("@")[0]) == message["seq"], block[:200]
            message["type"] = "event"
        else:
            message["type"] = kind
            if kind == "open":
                self.open = message
        self.take(message)


class CountFeed(Feed):
    """Reads as fast as it can and keeps only the seqs: for fan-out to many. Either transport."""

    SEQ = re.compile(rb'\{(?:"type":"event",)?"seq":(\d+),"message_id"')

    def __init__(self, other):
        super().__init__(other.sock, other.name, False)
        self.seqs = []
        self.tail = b""
        self.feed(bytes(getattr(other, "buffer", b"")))

    def feed(self, data):
        data = self.tail + data
        end = 0
        for match in self.SEQ.finditer(data):
            self.seqs.append(int(match.group(1)))
            end = match.end()
        self.tail = data[max(end, len(data) - 64) :]
        if self.seqs:
            self.last = self.seqs[-1]
            self.count = len(self.seqs)

    def events(self, pattern=...):
        return list(self.seqs)


class Swarm:
    """Reads all its feeds on one thread until closed."""

    def __init__(self):
        self.selector = selectors.DefaultSelector()
        self.feeds = []
        self.lock = threading.Lock()
        self.stopping = False
        self.error = None
        self.wake, wake = socket.socketpair()
        self.selector.register(wake, selectors.EVENT_READ, None)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.stopping = True
        self.wake.send(b"x")
        self.thread.join(30)
        for feed in self.feeds:
            feed.sock.close()
        if kind is None and self.error:
            raise self.error

    def add(self, feed):
        feed.sock.setblocking(False)
        self.feeds.append(feed)
        if isinstance(feed, WsFeed):
            feed.feed(b"")
        with self.lock:
            self.selector.register(feed.sock, selectors.EVENT_READ, feed)
        return feed

    def pause(self, feed):
        with self.lock:
            if not feed.paused and feed.closed is None:
                self.selector.unregister(feed.sock)
                feed.paused = True

    def resume(self, feed):
        with self.lock:
            if feed.paused and feed.closed is None:
                self.selector.register(feed.sock, selectors.EVENT_READ, feed)
                feed.paused = False

    def drop(self, feed):
        """Close it from this side, without a goodbye."""
        self.pause(feed)
        feed.closed = feed.closed or "dropped"
        feed.sock.close()

    def check(self):
        if self.error:
            raise self.error

    def _run(self):
        while not self.stopping:
            ready = self.selector.select(0.2)
            for key, _ in ready:
                feed = key.data
                if feed is None or feed.paused:
                    continue
                with self.lock:
                    if feed.paused:
                        continue
                    try:
                        self._read(feed)
                    except Exception as error:  # noqa: BLE001: shown by the test's thread
                        self.error = error
                        self.selector.unregister(feed.sock)
                        feed.closed = feed.closed or "error"
                        feed.paused = True

    def _read(self, feed):
        try:
            data = feed.sock.recv(1 << 18)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data, feed.closed = b"", feed.closed or "reset"
        if data:
            feed.feed(data)
        if not data or feed.closed is not None:
            feed.closed = feed.closed if feed.closed is not None else "eof"
            self.selector.unregister(feed.sock)
            feed.paused = True


def check_ws(feed, log):
    """One connection's whole conversation against the log [(seq, topic)], all its subscriptions still there.

    Returns what it saw as a dict for the test's own claims. Assumes that every pattern was subscribed once.
    """
    live_at = {}
    for pattern, starting_seq, id in feed.subs:
        answer = feed.answer(id)
        assert answer and answer["type"] == "ok", (feed, pattern, answer)
        lives = [m["seq"] for m in feed.of_type("live") if m["pattern"] == pattern]
        if starting_seq is None:
            assert lives == [], (feed, pattern, lives)
            live_at[pattern] = answer["last_seq"]
            continue
        assert len(lives) == 1, (feed, pattern, lives)
        live_at[pattern] = lives[0]
        replay = feed.events(pattern)
        wanted = [seq for seq, topic in log if starting_seq <= seq <= lives[0] and matches(pattern, topic)]
        assert_same(replay, wanted, f"{feed}: replay of {pattern} from {starting_seq} to {lives[0]}")
        where = next(i for i, m in enumerate(feed.messages) if m["type"] == "live" and m["pattern"] == pattern)
        late = [m for m in feed.messages[where:] if m["type"] == "event" and m.get("pattern") == pattern]
        assert not late, (feed, pattern, late[:3])
    shared = feed.events(None)
    wanted = [seq for seq, topic in log if any(seq > at and matches(pattern, topic) for pattern, at in live_at.items())]
    assert_same(shared, wanted, f"{feed}: shared stream")
    assert not feed.of_type("gap") and not feed.of_type("error"), feed.messages[:50]
    return live_at


def check_sse(feed, log, patterns, starting_seq):
    """starting_seq None: live from what `open` said."""
    lives = [m["seq"] for m in feed.of_type("live")]
    first = feed.open["last_seq"] + 1 if starting_seq is None else starting_seq
    assert len(lives) == (0 if starting_seq is None else 1), (feed, lives)
    wanted = [seq for seq, topic in log if seq >= first and any(matches(p, topic) for p in patterns)]
    assert_same(feed.events(), wanted, f"{feed}: {patterns} from {first}")
    assert not feed.of_type("gap"), feed.of_type("gap")


def assert_same(got, wanted, what):
    """Equal lists of seqs, or a short account of how they differ."""
    if got == wanted:
        return
    missing, extra = sorted(set(wanted) - set(got)), sorted(set(got) - set(wanted))
    twice = sorted({seq for i, seq in enumerate(got) if i and seq <= got[i - 1]})
    raise AssertionError(
        f"{what}: got {len(got)}, wanted {len(wanted)}; missing {len(missing)}: {missing[:10]}; extra {len(extra)}: {extra[:10]}; "
        f"repeated or out of order {len(twice)}: {twice[:10]}"
    )


__all__ = ["Closed", "CountFeed", "Feed", "SseFeed", "Swarm", "WsFeed", "assert_same", "check_sse", "check_ws", "matches"]
