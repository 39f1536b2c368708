"""WebSockets out of control: mutated frames, storms of subscriptions and connections. Nobody is harmed, nothing is left behind."""
import concurrent.futures
import json
import os
import random
import socket
import struct
import threading
import time

import pytest

from lib.broker import Broker, wait_for
from lib.probe import Gone, Ws, events_of

from test_abuse_http import assert_idle, sanitized, usage

UPGRADE = b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"


@pytest.fixture(scope="module")
def broker():
    broker = Broker(["--storage", "memory"])
    broker.start()
    yield broker
    broker.finish()


def frame(opcode, payload, fin=True, rsv=0, mask=True, length=None):
    """A frame by hand, wrong in whatever way is asked for."""
    size = len(payload) if length is None else length
    head = bytes([(fin << 7) | (rsv << 4) | opcode])
    bit = 0x80 if mask else 0
    head += bytes([bit | size]) if size < 126 else bytes([bit | 126]) + struct.pack(">H", size) if size < 65536 else bytes([bit | 127]) + struct.pack(">Q", size)
    key = b"\x01\x02\x03\x04" if mask else b""
    return head + key + (bytes(b ^ key[i % 4] for i, b in enumerate(payload)) if mask else payload)


def text(**request):
    return frame(1, json.dumps(request).encode())


def conversation(broker, data, protocol=True, wait=5.0):
    """Upgrade, send, and read to the end: the close code (None: cut without one), or "open" when it goes on."""
    with socket.create_connection(("127.0.0.1", broker.port), 20) as s:
        s.sendall(UPGRADE + (b"Sec-WebSocket-Protocol: eventbus.json.v1\r\n" if protocol else b"") + b"\r\n" + data + text(type="ping", id="still-here"))
        s.settimeout(wait)
        got = b""
        try:
            while b"still-here" not in got and (more := s.recv(65536)):
                got += more
        except (ConnectionResetError, TimeoutError) as error:
            return "silent" if isinstance(error, TimeoutError) else None
        got = got.split(b"\r\n\r\n", 1)[-1]
        if b"still-here" in got:
            return "open"
        at = got.rfind(b"\x88")
        return struct.unpack(">H", got[at + 2 : at + 4])[0] if at >= 0 and len(got) >= at + 4 else None


@pytest.mark.parametrize("data, expected", [
    (b"", "open"), (frame(1, b"{}", mask=False), 1002), (frame(1, b"{}", rsv=4), 1002), (frame(1, b"{}", rsv=1), 1002), (frame(3, b""), 1002), (frame(11, b""), 1002), (frame(0, b"x"), 1002), (frame(9, b"x" * 126), 1002), (frame(9, b"x", fin=False), 1002),
    (frame(1, b"{", fin=False) + frame(1, b"}"), 1002), (frame(1, b"{", fin=False) + frame(9, b"p") + frame(0, b"}"), "open"), (frame(1, b"\xff"), 1007), (frame(1, b"\xc3", fin=False) + frame(0, b"\xa9"), "open"), (frame(8, b""), (1000, 1005, None)),
    (frame(8, b"\x03"), 1002), (frame(8, b"\x03\xe8\xff"), (1002, 1007)), (frame(8, struct.pack(">H", 1000) + b"bye"), 1000), (frame(8, struct.pack(">H", 999)), 1002), (frame(8, struct.pack(">H", 1005)), 1002), (frame(8, struct.pack(">H", 1006)), 1002), (frame(8, struct.pack(">H", 3000)), 3000),
    (frame(1, b"", length=2**62)[:14], 1009), (frame(1, b"", length=2**63)[:14], (1002, 1009)), (frame(2, b"\xff"), "open"), (frame(10, b"unasked"), "open"), (frame(1, b"", fin=False) * 1 + frame(0, b"", fin=False) * 5000 + frame(0, b"{}"), ("open", 1008, 1009)),
])  # fmt: skip
def test_frames_of_every_wrong_form(broker, data, expected):
    """"broken framing does [close], with the close code of RFC 6455 (1002, 1003, 1007, 1009)": JSON that is wrong does not"""
    got = conversation(broker, data)
    assert got in (expected if isinstance(expected, tuple) else (expected,)), got


def test_mutated_conversations(broker, request):
    """Seeded mutations of whole good conversations, at the level of bytes and of frames: the broker outlives them all."""
    rng = random.Random(20261123)
    before = usage(broker)["fds"]
    good = [
        text(type="subscribe", id=1, pattern="m.#", starting_seq=1), text(type="publish", id=2, data={"topic": "m.a", "payload": "x" * 50, "message_id": "m", "headers": {"k": "v"}}, ttl=5), text(type="publish_batch", id=3, messages=[{"topic": "m.b", "payload": "eA==", "payload_encoding": "base64"}] * 3),
        text(type="ack", id=4, seq=1), text(type="unsubscribe", id=5, pattern="m.#"), text(type="ping", id=6), frame(9, b"ping"), frame(1, b'{"type":"ping"', fin=False) + frame(0, b"}"), frame(2, b'{"type":"ping","id":7}'), frame(8, struct.pack(">H", 1000)),
    ]  # fmt: skip
    end = time.monotonic() + (120 if request.config.getoption("--long") else 5)
    rounds = 0
    while time.monotonic() < end:
        rounds += 1
        frames = [rng.choice(good) for _ in range(rng.randint(1, 12))]
        data = bytearray(b"".join(frames))
        for _ in range(rng.choice((0, 1, 1, 2, 5, 20))):
            at = rng.randrange(len(data))
            action = rng.randrange(4)
            if action == 0:
                data[at] ^= 1 << rng.randrange(8)
            elif action == 1 and len(data) > 20:
                del data[at : at + rng.randint(1, 10)]
            elif action == 2:
                data[at:at] = rng.randbytes(rng.randint(1, 10))
            else:
                data[at:at] = data[at : at + rng.randint(1, 60)]
        with socket.create_connection(("127.0.0.1", broker.port), 10) as s:
            s.settimeout(0.01)
            try:
                s.sendall(UPGRADE + rng.choice((b"", b"Sec-WebSocket-Protocol: eventbus.json.v1\r\n")) + b"\r\n")
                for piece in range(0, len(data), size := rng.choice((1, 7, 100, 100000))):
                    s.sendall(data[piece : piece + size])
                    if piece > 200:
                        break
                s.recv(65536)
                if rng.randrange(2):
                    s.recv(65536)
            except OSError:
                pass
    assert rounds > 20
    with Ws(broker.port) as ws:
        assert ws.pub("after.all")["type"] == "ok"
    wait_for(lambda: broker.stats()["connections"] == 0 and usage(broker)["fds"] <= before + 4, what="end of all connections")
    assert_idle(broker)


def test_mutated_json(broker, request):
    """Good requests with members swapped for values of every kind: each is answered, once, and none closes the connection."""
    rng = random.Random(7)
    values = [None, True, 0, -1, 1, 2**53, 2**64, 1.5, "", "x", "a.b", "#", "\0", "é" * 200, [], {}, [1], {"a": None}, [[[]]], "base64", "00000000-0000-4000-8000-000000000000"]
    names = ["type", "id", "data", "topic", "payload", "pattern", "seq", "message_id", "ttl", "messages", "starting_seq", "epoch", "headers", "content_type", "payload_encoding", "pending_only", "x"]
    kinds = ["publish", "publish_batch", "subscribe", "unsubscribe", "ack", "ping", "consume", "nack", "event", ""]

    def anything(depth=0):
        if depth > 2 or rng.random() < 0.6:
            return rng.choice(values)
        return {rng.choice(names): anything(depth + 1) for _ in range(rng.randint(0, 6))} if rng.random() < 0.7 else [anything(depth + 1) for _ in range(rng.randint(0, 4))]

    with Ws(broker.port) as ws:
        for i in range(5000 if request.config.getoption("--long") else 1500):
            asked = {name: anything() for name in rng.sample(names, rng.randint(0, 8)) if name not in ("id", "type")}
            if rng.random() < 0.3:
                asked["data"] = {"topic": "j.x", "payload": "", **(asked.get("data") if isinstance(asked.get("data"), dict) else {})}
            asked.update(type=rng.choice(kinds), id=f"j{i}")
            ws.send(**asked)
            answer = ws.answer(f"j{i}")
            assert answer["type"] in ("ok", "error", "pong") and answer.get("code") != "internal", (asked, answer)
            ws.inbox.clear()


def test_storms_of_subscriptions(broker):
    """Subscribe, resubscribe and unsubscribe while others publish: at the end every subscription sees exactly what it must."""
    stop = threading.Event()

    def publish():
        with Ws(broker.port) as ws:
            for i in range(100):
                ws.ask(type="publish_batch", messages=[{"topic": f"st.{n % 7}", "payload": str(i)} for n in range(20)])
                if stop.wait(0.01):
                    break

    def churn(seed):
        rng = random.Random(seed)
        with Ws(broker.port) as ws:
            patterns = [f"st.{n}" for n in range(7)] + ["st.*", "#", "*.3", "st.#"]
            for _ in range(40):
                pattern = rng.choice(patterns)
                if rng.random() < 0.4:
                    ws.ask(type="unsubscribe", pattern=pattern)
                elif rng.random() < 0.5:
                    ws.sub(pattern)
                else:
                    ws.sub(pattern, starting_seq=rng.choice((0, 1, 5)), **({"pending_only": True} if rng.random() < 0.3 else {}))
                if rng.random() < 0.2:
                    for p in patterns:
                        ws.ask(type="unsubscribe", pattern=p)
            for p in patterns:
                ws.ask(type="unsubscribe", pattern=p)
            ws.inbox.clear()
            last = ws.sub("st.3", starting_seq=1)["last_seq"]
            replayed, live = [], None
            while live is None:
                m = ws.next()
                if m["type"] == "event":
                    assert m["pattern"] == "st.3" and m["topic"] == "st.3"
                    replayed.append(m["seq"])
                elif m["type"] == "live":
                    live = m["seq"]
            assert replayed == sorted(set(replayed)) and live >= last
            return replayed

    publisher = threading.Thread(target=publish)
    publisher.start()
    try:
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            for replayed in pool.map(churn, range(6)):
                assert replayed
    finally:
        stop.set()
        publisher.join()
    whole = [e["seq"] for e in broker.events("st.3")]
    assert replayed == whole[: len(replayed)]
    wait_for(lambda: broker.stats()["subscriptions"] == 0, what="end of the subscriptions")


def test_thousands_of_subscriptions(broker):
    """1,000 patterns on each of 5 connections: each event once a connection, all gone with them, memory given back for the next round."""
    sizes = []
    for _ in range(3):
        sockets = [Ws(broker.port) for _ in range(5)]
        for ws in sockets:
            for i in range(1000):
                ws.send(type="subscribe", id=i, pattern=f"many.{i}.#" if i % 2 else f"*.{i}")
            for i in range(1000):
                assert ws.answer(i)["type"] == "ok"
        assert broker.stats()["subscriptions"] == 5000
        sockets[0].pub("many.7.x"), sockets[0].pub("many.8"), sockets[0].pub("many.none")
        for ws in sockets:
            assert [m["topic"] for m in (ws.event(), ws.event())] == ["many.7.x", "many.8"]
        [ws.close() for ws in sockets]
        wait_for(lambda: broker.stats()["subscriptions"] == 0 and broker.stats()["connections"] == 0, what="their end")
        sizes.append(usage(broker)["rss"])
    assert sanitized(broker) or sizes[2] < sizes[0] + (8 << 20), sizes


def test_connection_storms(broker):
    """Hundreds of connections that come, say something and go, in every way: places, descriptors and threads come back."""
    before = usage(broker)["fds"]

    def storm(number):
        for i in range(40):
            ws = Ws(broker.port, protocol="eventbus.json.v1" if i % 3 else None)
            if i % 2:
                ws.send(type="subscribe", id=1, pattern="storm.#", starting_seq=1)
            if i % 4 == 1:
                ws.send(type="publish", id=2, data={"topic": "storm.x", "payload": "y" * 100})
            if i % 5 == 0:
                ws.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            ws.close()

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(storm, range(16)))
    wait_for(lambda: broker.stats()["connections"] == 0 and usage(broker)["fds"] <= before + 4, what="end of the storm")
    wait_for(lambda: broker.metric("eventbus_connection_places_taken") == 0, what="all places given back")
    assert broker.stats()["subscriptions"] == 0
    assert_idle(broker)


def test_a_reader_that_stops_costs_nobody_anything(broker):
    """"It never slows down the others, nor the publishers"; its queue is bounded, and memory with it"""
    with Ws(broker.port, rcvbuf=4096) as stopped, Ws(broker.port) as other, Ws(broker.port) as publisher:
        stopped.sub("stop.#"), other.sub("stop.#")
        before = usage(broker)["rss"]
        for i in range(1500):
            publisher.send(type="publish", data={"topic": "stop.a", "payload": "x" * 10000})
            if i % 100 == 99:
                publisher.pub("stop.sync", str(i))
                other.until("stop.sync", str(i))
        assert sanitized(broker) or usage(broker)["rss"] - before < 3 * 15 << 20, "the ring of 15 MB, and not much beside"
        publisher.pub("stop.end")
        got = events_of(stopped.until("stop.end"))
        assert [m["seq"] for m in got] == list(range(got[0]["seq"], got[0]["seq"] + 1516))


def test_unread_answers_hold_back_their_own_connection_only(broker):
    """"Answers are never dropped: above a bound of unsent answers a connection's requests are not read until it drains" """
    ws = Ws(broker.port, rcvbuf=4096)
    ws.sock.settimeout(0.5)
    sent = 0
    try:
        while sent < 200000:
            ws.proto.send_text(b"".join([b'{"type":"ping","id":"', str(sent).zfill(120).encode(), b'"}']))
            ws._flush()
            sent += 1
    except TimeoutError:
        pass
    assert sent < 200000, "a flood that nobody reads was swallowed whole"
    with Ws(broker.port) as other:
        assert other.ask(type="ping")["type"] == "pong"
    ws.close()
    assert os.path.exists(f"/proc/{broker.pid}")


def test_gone_peers_are_noticed(broker):
    with pytest.raises(Gone):
        with Ws(broker.port) as ws:
            ws.proto.send_close(1000)
            ws._flush()
            while True:
                ws._fill()
