"""WebSockets by the thousand, silent, stalled, vanished and at the end of the broker."""
import json
import os
import re
import resource
import select
import signal
import socket
import struct
import threading
import time

import pytest

from lib.broker import BUILD, PATIENCE, wait_for
from lib.rawhttp import connect
from lib.ws import CLOSE, JSON_V1, PING, PONG, TEXT, Closed, WebSocket, frame, handshake

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


def memory(*options):
    return ("--storage", "memory", *options)


def resident(pid):
    return int(re.search(r"VmRSS:\s+(\d+) kB", open(f"/proc/{pid}/status").read()).group(1)) * 1024


def threads(pid):
    return len(os.listdir(f"/proc/{pid}/task"))


def sanitized():
    """A sanitizer's shadow memory says nothing about ours, and bears no limit on address space."""
    program = (BUILD / "broker" / "eventbusd").read_bytes()
    return b"__asan_init" in program or b"__tsan_init" in program


def connections(broker):
    return broker.stats()["connections"]


@pytest.fixture
def many_files():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard < 5000:
        pytest.skip("needs 5,000 open files")
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- many ----


def test_2000_idle_connections_and_load_beside_them(start_broker, many_files):
    """Idle ones cost little, hear what they subscribed to, and do not slow down who works."""
    broker = start_broker(*memory(), db=None)
    before = resident(broker.pid)
    idle = [WebSocket(broker.port) for _ in range(2000)]
    try:
        wait_for(lambda: connections(broker) == 2000, what="2,000 connections")
        per_connection = (resident(broker.pid) - before) / 2000
        print(f"resident per idle connection: {per_connection:.0f} bytes")
        for ws in idle[:1000]:
            ws.send({"type": "subscribe", "pattern": "all"})
        with WebSocket(broker.port) as busy:
            busy.subscribe("load")
            for i in range(5000):
                busy.send({"type": "publish", "data": {"topic": "load", "payload": str(i)}})
            assert [busy.event()["payload"] for _ in range(5000)] == [str(i) for i in range(5000)]
            wait_for(lambda: broker.stats()["subscriptions"] == 1001, what="1,001 subscriptions")
            busy.publish("all", "to everyone")
        for ws in idle[:1000]:
            assert ws.event()["payload"] == "to everyone"
        assert all(ws.call(type="ping")["type"] == "pong" for ws in idle[1000::50])
        if not sanitized():
            assert per_connection < 14_000  # docs/decisions/0003-connection-threads.md
        assert broker.stop() == 0  # cleanly, with all of them open
        assert all(ws.close_code() == 1001 for ws in idle)
    finally:
        for ws in idle:
            ws.sock.close()


def test_threads_and_places_come_back(start_broker):
    broker = start_broker(*memory("--max-connections", "40"), db=None)
    before = threads(broker.pid)
    for _ in range(5):
        open_ = [WebSocket(broker.port) for _ in range(40)]
        _, status, headers, _ = handshake(broker.port)
        assert status == 503 and "retry-after" in headers
        assert broker.get("/healthz").status == 200 and broker.get("/readyz").status == 200
        for i, ws in enumerate(open_):
            if i % 2:
                ws.send_frame(CLOSE)
            ws.sock.close()
        wait_for(lambda: connections(broker) == 0, what="no connection")
    wait_for(lambda: threads(broker.pid) <= before + 2, what="no thread left over")


def descriptors(pid):
    return sorted(int(fd) for fd in os.listdir(f"/proc/{pid}/fd"))


def test_1000_upgrades_leave_no_descriptor_and_no_thread(start_broker):
    """Each ends in another way: closed properly, cut off, reset, or refused for a bad handshake."""
    broker = start_broker(*memory(), db=None)
    broker.stats()
    before, threads_before = len(descriptors(broker.pid)), threads(broker.pid)
    for i in range(1000):
        if i % 4 == 3:
            sock, status, _, _ = handshake(broker.port, "Upgrade: websocket", defaults=False)
            assert status == 400
        else:
            sock = WebSocket(broker.port).sock
        if i % 4 == 0:
            sock.sendall(frame(CLOSE))
        elif i % 4 == 2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
    wait_for(lambda: connections(broker) == 0, what="no connection")
    wait_for(lambda: len(descriptors(broker.pid)) <= before, what="no descriptor left over")
    wait_for(lambda: threads(broker.pid) <= threads_before, what="no thread left over")


@pytest.mark.parametrize("count", [1, 200])
def test_requests_right_behind_the_handshake_are_carried_out(start_broker, count):
    """A client that does not wait for its 101: what libmicrohttpd read with the handshake is the WebSocket's."""
    broker = start_broker(*memory(), db=None)
    requests = b"".join(frame(TEXT, json.dumps({"type": "ping", "id": i}).encode()) for i in range(count))
    with connect(broker.port, PATIENCE) as sock:
        sock.sendall(UPGRADE + requests)
        data = b""
        while data.count(b'"pong"') < count:
            data += sock.recv(65536)
        head, frames = data.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 101 ")
    assert [int(id) for id in re.findall(rb'"id":(\d+)', frames)] == list(range(count))


def test_without_a_spare_descriptor_a_websocket_works_as_well(start_broker):
    """The broker takes the socket over by a duplicate; when there is none, it works on libmicrohttpd's own."""
    broker = start_broker(*memory("--max-connections", "2"), db=None)
    soft, hard = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)
    alone = len(descriptors(broker.pid))
    with connect(broker.port, PATIENCE) as sock, WebSocket(broker.port) as other:
        sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")  # accepted: its descriptor is there
        wait_for(lambda: len(descriptors(broker.pid)) == alone + 2, what="one descriptor for each")
        full = next(n for n, fd in enumerate([*descriptors(broker.pid), -1]) if n != fd)  # the first free number
        resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (full, hard))
        sock.sendall(UPGRADE)
        data = b""
        while b"\r\n\r\n" not in data:
            data += sock.recv(65536)
        assert data.startswith(b"HTTP/1.1 101 ")
        sock.sendall(frame(TEXT, b'{"type":"subscribe","id":1,"pattern":"t"}'))
        assert b'"ok"' in sock.recv(65536)
        other.publish("t", "to the one without")
        assert b"to the one without" in sock.recv(65536)
        resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (soft, hard))
        assert len(broker.get("/v1/connections").json["connections"]) == 2
        assert handshake(broker.port)[1] == 503  # both places are taken
        sock.sendall(frame(CLOSE))
        while sock.recv(65536):
            pass
    wait_for(lambda: connections(broker) == 0, what="both places free")
    for _ in range(2):
        with WebSocket(broker.port) as one, WebSocket(broker.port) as two:
            assert one.call(type="ping")["type"] == two.call(type="ping")["type"] == "pong"
            assert handshake(broker.port)[1] == 503
        wait_for(lambda: connections(broker) == 0, what="both places free again")
    assert broker.stop() == 0


def test_without_a_thread_the_upgrade_is_refused_before_its_101(start_broker):
    """A limit on address space lets no more stacks be made: 503, and what is open goes on."""
    if sanitized():
        pytest.skip("a sanitizer dies of a limit on address space")
    broker = start_broker(*memory(), db=None)
    with WebSocket(broker.port) as first:
        size = int(re.search(r"VmSize:\s+(\d+) kB", open(f"/proc/{broker.pid}/status").read()).group(1)) * 1024
        resource.prlimit(broker.pid, resource.RLIMIT_AS, (size + 1_000_000, resource.RLIM_INFINITY))
        refused, open_ = None, []
        for _ in range(50):
            sock, status, _, _ = handshake(broker.port)
            open_.append(sock)
            if status != 101:
                refused = status
                break
        resource.prlimit(broker.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert refused == 503
        assert first.call(type="ping")["type"] == "pong"
        with WebSocket(broker.port) as after:
            assert after.call(type="ping")["type"] == "pong"


def test_connections_that_come_and_go_under_load_lose_nothing_for_others(start_broker):
    broker = start_broker(*memory(), db=None)
    over = threading.Event()

    def churn():
        while not over.is_set():
            with WebSocket(broker.port) as ws:
                ws.send({"type": "subscribe", "pattern": "load"})
                ws.send({"type": "publish", "data": {"topic": "other", "payload": ""}})
                if ws.ids == 0:
                    ws.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    churners = [threading.Thread(target=churn) for _ in range(4)]
    for thread in churners:
        thread.start()
    try:
        with WebSocket(broker.port) as ws:
            ws.subscribe("load")
            for i in range(3000):
                ws.send({"type": "publish", "data": {"topic": "load", "payload": str(i)}})
            assert [ws.event()["payload"] for _ in range(3000)] == [str(i) for i in range(3000)]
    finally:
        over.set()
        for thread in churners:
            thread.join()
    wait_for(lambda: connections(broker) == 0, what="no connection")


# ---- silent and vanished peers ----


def test_a_missing_pong_closes_and_a_pong_keeps(start_broker):
    broker = start_broker(*memory("--ping-interval", "200ms"), db=None)
    with WebSocket(broker.port) as silent, WebSocket(broker.port) as alive:
        closed = []
        while not closed:
            opcode, payload = alive.frame()
            assert opcode == PING
            alive.send_frame(PONG, payload)
            if select.select([silent.sock], [], [], 0)[0] and silent.frame()[0] == CLOSE:
                closed.append(True)
        assert alive.call(type="ping")["type"] == "pong"
        wait_for(lambda: connections(broker) == 1, what="one connection left")


def test_whatever_a_peer_sends_proves_that_it_lives(start_broker):
    broker = start_broker(*memory("--ping-interval", "150ms"), db=None)
    with WebSocket(broker.port) as talker:
        pings = 0
        while pings < 5:
            opcode, _ = talker.frame()
            pings += opcode == PING
            talker.send({"type": "publish", "data": {"topic": "t", "payload": ""}})
        assert talker.call(type="ping")["type"] == "pong"


def test_idle_timeout_closes_who_sends_nothing(start_broker):
    broker = start_broker(*memory("--ping-interval", "0", "--idle-timeout", "200ms"), db=None)
    with WebSocket(broker.port) as ws, WebSocket(broker.port, protocol=None) as older:
        ws.subscribe("t")
        assert ws.close_code() == 1013
        older.send({"type": "ping", "id": 1})
        assert older.recv() == {"type": "pong", "id": 1}


def test_a_peer_that_vanished_with_a_reset_is_forgotten(start_broker):
    broker = start_broker(*memory(), db=None)
    for _ in range(20):
        ws = WebSocket(broker.port)
        ws.send({"type": "subscribe", "pattern": "#"})
        ws.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        ws.sock.close()
    wait_for(lambda: connections(broker) == 0, what="no connection")
    wait_for(lambda: broker.stats()["subscriptions"] == 0, what="no subscription")


def test_a_peer_that_never_answers_a_close_is_cut_off(start_broker):
    broker = start_broker(*memory("--drain-timeout", "300ms"), db=None)
    ws = WebSocket(broker.port)
    ws.subscribe("t")
    started = time.monotonic()
    assert broker.stop() == 0
    assert time.monotonic() - started < 10
    assert ws.close_code() == 1001


# ---- slow and stalled peers ----


def fill(broker, publisher, count=200, size=60000):
    for i in range(count):
        publisher.send({"type": "publish", "data": {"topic": "big", "payload": str(i).ljust(size)}})


@pytest.mark.parametrize("protocol", [JSON_V1, None])
def test_a_stopped_reader_is_closed_with_1013_and_the_others_go_on(start_broker, protocol):
    broker = start_broker(*memory("--stall-timeout", "1100ms", "--ping-interval", "0"), db=None)
    with WebSocket(broker.port, protocol=protocol) as stopped, WebSocket(broker.port) as reader, WebSocket(broker.port) as publisher:
        stopped.subscribe("big")
        reader.subscribe("big")
        fill(broker, publisher)
        assert [int(reader.event()["payload"]) for _ in range(200)] == list(range(200))
        wait_for(lambda: any("EB-STALLED" in line for line in broker.log), what="the stalled one is closed")
        assert publisher.publish("big", "on")["type"] == "ok" and reader.event()["payload"] == "on"
        seen = []
        with pytest.raises(Closed) as closed:
            while True:
                seen.append(stopped.next()["payload"])
        assert closed.value.code == 1013
        assert [int(p) for p in seen] == list(range(len(seen))) and len(seen) < 200
        stopped.sock.close()
        wait_for(lambda: connections(broker) == 2, what="the stalled one is gone")


def test_a_lone_publisher_is_not_held_up_by_subscribers_that_do_not_read(start_broker):
    """Its thread sends to the first two itself (W6): what their sockets do not take is a flusher's, and nothing is lost."""
    broker = start_broker("--stall-timeout", "60s", "--channel-capacity", "100")
    stopped = [WebSocket(broker.port, rcvbuf=4096) for _ in range(2)]
    reader = WebSocket(broker.port)
    for ws in (*stopped, reader):
        ws.subscribe("lone")
    payload = "x" * 8192
    with WebSocket(broker.port) as publisher:
        for seq in range(1, 301):
            assert publisher.publish("lone", payload)["seq"] == seq
            assert reader.event()["seq"] == seq
    assert broker.metric("eventbus_sessions_lagging") == 2
    for ws in stopped:
        assert [ws.event()["seq"] for _ in range(300)] == list(range(1, 301))
    for ws in (*stopped, reader):
        ws.__exit__()


def test_a_slow_reader_that_takes_a_little_is_not_stalled(start_broker):
    broker = start_broker(*memory("--stall-timeout", "1100ms", "--ping-interval", "0"), db=None)
    with WebSocket(broker.port) as slow, WebSocket(broker.port) as publisher:
        slow.subscribe("big")
        fill(broker, publisher, count=100)
        end = time.monotonic() + 3
        while time.monotonic() < end:  # paced by the clock on purpose: this is what slow means
            slow.buffer += slow.sock.recv(20000)
            time.sleep(0.05)
        assert [int(slow.event()["payload"]) for _ in range(100)] == list(range(100))


def test_waiting_for_no_event_is_not_stalling(start_broker):
    broker = start_broker(*memory("--stall-timeout", "1100ms", "--ping-interval", "0"), db=None)
    with WebSocket(broker.port, protocol=None) as quiet, WebSocket(broker.port) as stalled, WebSocket(broker.port) as publisher:
        quiet.subscribe("other")
        stalled.subscribe("big")
        fill(broker, publisher)
        wait_for(lambda: any("EB-STALLED" in line for line in broker.log), what="the stalled one is closed")
        assert quiet.call(type="ping")["type"] == "pong"


def test_a_publisher_that_does_not_read_its_answers_is_not_read_and_loses_none(start_broker):
    """Answers are never dropped: above the bound requests wait in the socket. Control frames before them are answered."""
    broker = start_broker(*memory("--max-unsent-answers", "4K", "--max-payload", "1M"), db=None)
    count = 30000
    with WebSocket(broker.port, rcvbuf=65536) as ws:  # else the kernel has room for nearly all, on both ways
        ws.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        sent = threading.Event()

        def send():
            for i in range(count):
                ws.send({"type": "publish", "id": i, "data": {"topic": "t", "payload": "x" * 100}})
            sent.set()

        sender = threading.Thread(target=send)
        sender.start()
        assert not sent.wait(1.0)  # it was made to wait
        stored = broker.stats()["last_seq"]
        assert 0 < stored < count
        answers = [ws.recv() for _ in range(count)]
        sender.join()
        assert sorted(a["id"] for a in answers) == list(range(count))
        assert [a["seq"] for a in sorted(answers, key=lambda a: a["id"])] == list(range(1, count + 1))


def test_a_connection_that_waits_for_room_still_notices_its_peers_end(start_broker):
    broker = start_broker(*memory("--max-unsent-answers", "4K"), db=None)
    ws = WebSocket(broker.port)
    ws.sock.settimeout(0.5)
    with pytest.raises(socket.timeout):
        while True:
            ws.send({"type": "publish", "id": "x" * 100, "data": {"topic": "t", "payload": "x" * 100}})
    ws.sock.close()
    wait_for(lambda: connections(broker) == 0, what="no connection")


def test_control_frames_are_answered_while_requests_wait_for_room(start_broker):
    broker = start_broker(*memory("--max-open-requests", "1"), db=None)
    with WebSocket(broker.port) as ws:
        frames = []
        for i in range(200):
            frames.append(frame(TEXT, json.dumps({"type": "publish", "id": i, "data": {"topic": "t", "payload": ""}}).encode()))
            frames.append(frame(PING, b"%d" % i))
        ws.sock.sendall(b"".join(frames))
        pongs, answers = [], []
        while len(pongs) < 200 or len(answers) < 200:
            opcode, payload = ws.frame()
            (pongs if opcode == PONG else answers).append(payload)
        assert pongs == [b"%d" % i for i in range(200)]
        assert [json.loads(a)["id"] for a in answers] == list(range(200))


# ---- the end ----


def test_a_stop_answers_what_is_in_flight_flushes_and_closes_with_1001(start_broker):
    broker = start_broker()
    with WebSocket(broker.port) as ws, WebSocket(broker.port) as subscriber:
        subscriber.subscribe("t")
        for i in range(2000):
            ws.send({"type": "publish", "id": i, "data": {"topic": "t", "payload": str(i)}})
        wait_for(lambda: select.select([ws.sock], [], [], 0)[0], what="the first answer")
        broker.process.send_signal(signal.SIGTERM)
        answers = []
        with pytest.raises(Closed) as closed:
            while True:
                answers.append(ws.next())
        assert closed.value.code == 1001
        accepted = [a["id"] for a in answers if a["type"] == "ok"]
        refused = [a for a in answers if a["type"] == "error"]
        assert accepted == list(range(len(accepted))) and {a["code"] for a in refused} <= {"unavailable"}
        seen = []
        with pytest.raises(Closed) as closed:
            while True:
                seen.append(subscriber.next()["payload"])
        assert closed.value.code == 1001 and seen == [str(i) for i in accepted]
    assert broker.process.wait(20) == 0


def test_a_second_signal_ends_it_at_once(start_broker):
    broker = start_broker(*memory("--drain-timeout", "60s", "--stall-timeout", "60s"), db=None)
    with WebSocket(broker.port) as stuck, WebSocket(broker.port) as publisher:
        stuck.subscribe("big")
        fill(broker, publisher)
        publisher.call(type="ping")
        broker.process.send_signal(signal.SIGTERM)
        wait_for(lambda: any("ending" in line for line in broker.log), what="the end begins")
        broker.process.send_signal(signal.SIGTERM)
        broker.process.wait(10)
