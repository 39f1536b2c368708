"""HTTP that no proper client sends: nobody is harmed, nothing is stored twice or smuggled, nothing is left behind."""
import concurrent.futures
import os
import pathlib
import random
import socket
import time

import pytest

from lib.broker import Broker, wait_for
from lib.rawhttp import RawHttp

HEAD = "POST /v1/topics/abuse/events HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def broker():
    broker = Broker(["--storage", "memory", "--request-timeout", "2s"])
    broker.start()
    yield broker
    broker.finish()


def exchange(broker, data, half_close=True, timeout=20):
    """Send it all, close our half, and return all that came back. A reset counts as an end."""
    got = b""
    with socket.create_connection(("127.0.0.1", broker.port), timeout) as s:
        try:
            s.sendall(data if isinstance(data, bytes) else data.encode())
            if half_close:
                s.shutdown(socket.SHUT_WR)
            while more := s.recv(65536):
                got += more
        except TimeoutError:
            raise
        except OSError:  # reset, also before we could shut down
            pass
    return got


def statuses(data):
    """The status lines of the answers in @data; bodies here never look like one."""
    return [int(line.split()[1]) for line in data.split(b"\n") if line.startswith(b"HTTP/1.")]


def last_seq(broker):
    return broker.stats()["last_seq"]


# ---- bodies ----

BROKEN_BODIES = {
    "shorter than declared": HEAD + "Content-Length: 10\r\n\r\nshort",
    "chunk cut": HEAD + "Transfer-Encoding: chunked\r\n\r\n10\r\nshort",
    "no last chunk": HEAD + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    "chunk size not hex": HEAD + "Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n",
    "chunk size negative": HEAD + "Transfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
    "chunk size huge": HEAD + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    "chunk too long": HEAD + "Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
    "length negative": HEAD + "Content-Length: -5\r\n\r\nhello",
    "length signed": HEAD + "Content-Length: +5\r\n\r\nhello",
    "length hex": HEAD + "Content-Length: 0x5\r\n\r\nhello",
    "length list": HEAD + "Content-Length: 5, 5\r\n\r\nhello",
    "length huge": HEAD + "Content-Length: 99999999999999999999999\r\n\r\nhello",
    "length empty": HEAD + "Content-Length: \r\n\r\nhello",
    "two lengths": HEAD + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "unknown coding": HEAD + "Transfer-Encoding: gzip\r\n\r\nhello",
    "chunked twice": HEAD + "Transfer-Encoding: chunked, chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "chunked not last": HEAD + "Transfer-Encoding: chunked, identity\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
}


@pytest.mark.parametrize("name", BROKEN_BODIES)
def test_a_broken_body_is_no_event(broker, name):
    """What was not wholly received is not stored: answered with a 4xx or cut, never with success."""
    before = last_seq(broker)
    got = statuses(exchange(broker, BROKEN_BODIES[name]))
    assert all(status >= 400 for status in got), (name, got)
    assert last_seq(broker) == before, name


@pytest.mark.parametrize("head", [
    "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "Content-Length: 46\r\nTransfer-Encoding: chunked\r\n",
    "Transfer-Encoding: xchunked\r\nContent-Length: 4\r\n", "Transfer-Encoding : chunked\r\nContent-Length: 4\r\n", "Transfer-Encoding:\tchunked\r\nContent-Length: 4\r\n", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: 4\r\n",
    "Content-Length: 4\r\nContent-Length: 40\r\n", "X: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "Content-Length:\x0b4\r\n",
])  # fmt: skip
def test_a_length_in_doubt_smuggles_nothing(broker, head):
    """Two readers may see two requests here; either there is one answer of doubt, or both ends of it are ours."""
    topic = "smuggled%d" % abs(hash(head))
    smuggled = f"POST /v1/topics/{topic}/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
    data = exchange(broker, HEAD + head + "\r\n0\r\n\r\n" + smuggled)
    got = statuses(data)
    assert len(got) <= 2 and all(s < 500 for s in got), (head, got)
    if any(s >= 400 for s in got):
        assert broker.events(topic) == [], head
    if " Transfer-Encoding" not in head:  # folded into the line before it, which is one reading
        assert got == [400] or (got and got[0] == 400 and "\x0b" in head), (head, got)


def test_expect_continue(broker):
    with RawHttp(broker.port) as raw:
        raw.send(HEAD + "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert raw.head()[0] == 100
        raw.send("hello")
        assert raw.answer().status == 201
    with RawHttp(broker.port) as raw:
        raw.send(HEAD + "Content-Length: 99999999\r\nExpect: 100-continue\r\n\r\n")
        answer = raw.answer()
        assert answer.status == 413, "refused before it is sent"
    with RawHttp(broker.port) as raw:
        raw.send(HEAD + "Content-Length: 5\r\nExpect: something-else\r\n\r\nhello")
        assert raw.answer().status in (100, 201, 417)


def test_chunked_bodies_in_small_writes(broker):
    body = b"The quick brown fox"
    with RawHttp(broker.port) as raw:
        raw.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in (HEAD + "Transfer-Encoding: chunked\r\n\r\n").encode():
            raw.send(bytes([byte]))
        for i in range(len(body)):
            raw.send(b"1;ext=" + b"y" * 10 + b"\r\n" + body[i : i + 1] + b"\r\n")
        raw.send(b"0\r\nTrailer-Field: x\r\n\r\n")
        answer = raw.answer()
        assert answer.status == 201
        raw.send("GET /v1/events/%d HTTP/1.1\r\nHost: localhost\r\n\r\n" % answer.json["seq"])
        assert raw.answer().json["payload"].encode() == body


def test_pipelined_publishes_are_answered_in_order(broker):
    one = HEAD + "Content-Length: 3\r\n\r\n%03d"
    with RawHttp(broker.port) as raw:
        raw.send("".join(one % i for i in range(300)))
        seqs = [raw.answer().json["seq"] for _ in range(300)]
    assert seqs == sorted(set(seqs))
    stored = {e["seq"]: e["payload"] for e in broker.events("abuse", seqs[0])}
    assert [stored[seq] for seq in seqs] == [f"{i:03}" for i in range(300)]


def test_a_chunked_body_without_end_is_cut(broker):
    """Past the limit the answer is 413 and the connection ends; memory does not follow."""
    with RawHttp(broker.port) as raw:
        raw.send(HEAD + "Transfer-Encoding: chunked\r\n\r\n")
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        try:
            for _ in range(400):
                raw.send(piece)
        except OSError:
            pass
        try:
            assert raw.head()[0] == 413
        except (EOFError, ConnectionResetError):
            pass
        assert raw.closed()


# ---- lines and headers ----


@pytest.mark.parametrize("request_line, expected", [
    ("GET http://localhost/v1/stats HTTP/1.1", {200}), ("GET http://127.0.0.1:1/v1/stats?x=http://y HTTP/1.1", {200}), ("GET HTTP://LOCALHOST/v1/stats HTTP/1.1", {200, 404}), ("GET http://evil.example/v1/stats HTTP/1.1", {200, 403, 400}),
    ("GET * HTTP/1.1", {400, 404}), ("OPTIONS * HTTP/1.1", {200, 204}), ("GET v1/stats HTTP/1.1", {400, 404}), ("GET  /v1/stats HTTP/1.1", {200, 400, 404}), ("GET /v1/stats", {200, 400}), ("GET /v1/stats HTTP/1.0", {200}),
    ("GET /v1/stats HTTP/2.0", {400, 505}), ("GET /v1/stats HTTP/1.2", {200, 400, 505}), ("GET /v1/stats http/1.1", {400, 505}), ("GET /v1/sta ts HTTP/1.1", {400, 404}), ("GET /v1/stats?\x00 HTTP/1.1", {200, 400}), ("G\x00T /v1/stats HTTP/1.1", {400, 405, 501}),
    ("GET /v1/\xff HTTP/1.1", {400, 404}), ("GET http:// HTTP/1.1", {200, 400, 404}), ("GET http://localhost HTTP/1.1", {200, 400, 404}), ("GET http://localhost?x HTTP/1.1", {200, 400, 404}), ("CONNECT localhost:80 HTTP/1.1", {400, 404, 405, 501}), ("TRACE / HTTP/1.1", {405, 501}),
    ("GET //v1/stats HTTP/1.1", {400, 404}), ("GET /v1/./stats HTTP/1.1", {400, 404}), ("GET /v1/stats#frag HTTP/1.1", {200, 400, 404}), ("GET /v1/stats? HTTP/1.1", {200}),
])  # fmt: skip
def test_odd_request_lines(broker, request_line, expected):
    got = statuses(exchange(broker, request_line.encode("latin1") + b"\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    assert (not got and len(expected) > 1) or (got and got[0] in expected), got


@pytest.mark.parametrize("headers", [
    "", "Host: localhost\r\nHost: evil.example\r\n", "Host: evil.example\r\nHost: localhost\r\n", "Host: localhost, evil.example\r\n", "Host : localhost\r\n", "Host:\r\n", "Host: user@localhost\r\n", "Host: localhost/evil\r\n", "Host: localhost:99999999\r\n",
])  # fmt: skip
def test_odd_hosts(broker, headers):
    """No Host in HTTP/1.1 is 400; two hosts are never taken for the good one of them alone"""
    got = statuses(exchange(broker, f"GET /v1/stats HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"))
    assert not got or got[0] in (400, 403) or headers == "Host: localhost:99999999\r\n", (headers, got)


def test_a_peer_that_has_shut_down_its_side_is_answered(start_broker):
    """A FIN right behind the request (nc, HTTP/1.0 clients) is no reason to keep silent about what was done."""
    for options in (["--storage", "memory"], []):
        broker = start_broker(*options)
        for number in range(1, 101):
            data = exchange(broker, HEAD + "Content-Length: 2\r\n\r\nhi")
            assert statuses(data) == [201] and b'"seq":%d,' % number in data
        for path in ("/v1/events?pattern=%23", "/v1/events/1", "/v1/topics", "/v1/stats", "/metrics"):
            for _ in range(20):
                assert statuses(exchange(broker, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")) == [200], path


def test_http_1_0_without_host_is_served(broker):
    assert statuses(exchange(broker, "GET /healthz HTTP/1.0\r\n\r\n")) == [200]
    assert statuses(exchange(broker, "POST /v1/topics/abuse/events HTTP/1.0\r\nContent-Length: 2\r\n\r\nhi")) == [201]


@pytest.mark.parametrize("garbage", [
    "X: " + "y" * 60000, "\r\n".join(f"X-{i}: y" for i in range(5000)), "Y" * 60000 + ": x", "X: y\x00z", "\x00: y", "no colon", ": no name", "X: y\r\n folded: z", "X:\r\n\t", "Cookie: " + "a=b; " * 4000, "Event-Header-X: " + "y" * 17000,
    "Event-Id: " + "y" * 5000, "Event-TTL: " + "9" * 5000, "Content-Type: " + "a" * 8000, "Content-Type: \x01", "Content-Type: a\x7fb", "Event-Header-" + "N" * 8000 + ": x",
])  # fmt: skip
def test_odd_and_huge_headers(broker, garbage):
    got = statuses(exchange(broker, (HEAD + garbage + "\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx").encode("latin1")))
    assert all(status < 500 and status != 200 or status in (505,) for status in got), got
    assert broker.get("/healthz").status == 200


def test_connection_end_at_every_byte(broker):
    """A request cut at each of its bytes, with a FIN or a RST, stores nothing unless it was whole."""
    whole = (HEAD + "Event-Id: cut-%d\r\nContent-Length: 2\r\n\r\nok").encode()
    before = last_seq(broker)
    for cut in range(len(whole) - 1):
        s = socket.create_connection(("127.0.0.1", broker.port), 10)
        s.sendall(whole[:cut].replace(b"%d", b"%03d" % cut)[:cut])
        if cut % 2:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.close()
    wait_for(lambda: broker.metric("eventbus_http_requests_active") <= 1, what="end of the cut requests")
    assert last_seq(broker) == before


def test_random_bytes_and_mutations(broker, request):
    """Seeded mutations of good requests: whatever the answer, the broker goes on."""
    random.seed(20261123)
    good = [(HEAD + "Content-Type: application/json\r\nContent-Length: 2\r\n\r\nhi").encode(), b"GET /v1/events?pattern=a.%23&starting_seq=1&limit=5 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 30\r\n\r\n" + b'{"topic":"a","payload":"xyzzy"}'[:30],
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
            (HEAD + "Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").encode()]  # fmt: skip
    end = time.monotonic() + (60 if request.config.getoption("--long") else 4)
    while time.monotonic() < end:
        data = bytearray(random.choice(good))
        for _ in range(random.randint(1, 6)):
            at = random.randrange(len(data))
            action = random.randrange(4)
            if action == 0:
                data[at] = random.randrange(256)
            elif action == 1:
                del data[at : at + random.randint(1, 8)]
            elif action == 2:
                data[at:at] = bytes(random.choices(b"\r\n\0 :;%#/?&=\xff0123456789abcdef", k=random.randint(1, 8)))
            else:
                data[at:at] = data[at : at + random.randint(1, 40)]
            if not data:
                break
        with socket.create_connection(("127.0.0.1", broker.port), 10) as s:
            s.settimeout(0.02)
            try:
                s.sendall(data)
                s.shutdown(socket.SHUT_WR)
                s.recv(65536)
            except OSError:
                pass
    assert broker.get("/healthz").status == 200


# ---- storms, and what is left of them ----


def usage(broker):
    proc = pathlib.Path("/proc") / str(broker.pid)
    ticks = (proc / "stat").read_text().rsplit(")", 1)[1].split()
    return {"fds": len(os.listdir(proc / "fd")), "threads": int(ticks[17]), "cpu": int(ticks[11]) + int(ticks[12]), "rss": int((proc / "statm").read_text().split()[1]) * 4096}


def sanitized(broker):
    """A sanitizer keeps freed memory for a while: sizes say nothing then."""
    maps = pathlib.Path(f"/proc/{broker.pid}/maps").read_text()
    return "libasan" in maps or "libtsan" in maps


def assert_idle(broker, seconds=1.0, ticks=8):
    """An idle broker's CPU stands (nearly) still: no busy loop was left behind."""
    before = usage(broker)["cpu"]
    time.sleep(seconds)  # what is measured is the absence of work in that time
    spent = usage(broker)["cpu"] - before
    assert spent <= ticks, f"{spent} ticks of CPU in {seconds} s of idleness"


def test_storms_leave_nothing_behind(start_broker):
    """Connections of every kind and end; then descriptors, threads, requests and CPU are what they were."""
    broker = start_broker("--request-timeout", "2s", "--sse-comment", "500ms")
    broker.publish("warm", b"x")
    before = usage(broker)
    upgrade = "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    kinds = ["", "GET /hea", "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", upgrade, "GET /v1/stream?pattern=%23&starting_seq=1 HTTP/1.1\r\nHost: localhost\r\n\r\n", HEAD + "Content-Length: 10\r\n\r\nabc", HEAD + "Content-Length: 3\r\n\r\nabc",
             HEAD + "Content-Length: 3\r\nExpect: 100-continue\r\n\r\n", upgrade + "\x81", upgrade + "\x88\x80\0\0\0\0", HEAD + "Content-Length: 99999999\r\n\r\n" + "x" * 1000, "\x16\x03\x01", "GET /v1/events?pattern=%23 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20]  # fmt: skip

    def storm(number):
        for i in range(40):
            with socket.create_connection(("127.0.0.1", broker.port), 20) as s:
                s.sendall(kinds[(number + i) % len(kinds)].encode("latin1"))
                if i % 3 == 0:
                    s.settimeout(0.05)
                    try:
                        s.recv(100)
                    except OSError:
                        pass
                if i % 3 == 0:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(storm, range(16)))
    wait_for(lambda: usage(broker)["fds"] <= before["fds"] + 2 and usage(broker)["threads"] <= before["threads"] + 8, 40, f"descriptors and threads as before: {before} {usage(broker)}")
    wait_for(lambda: [broker.stats()[name] for name in ("connections", "streams", "subscriptions")] == [0, 0, 0], what="end of all")
    wait_for(lambda: broker.metric("eventbus_connection_places_taken") == 0, what="all places given back")
    assert_idle(broker)
