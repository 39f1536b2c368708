"""Limits and neighbours: stopped and slow subscribers, too few descriptors, too many connections, many that resume."""
import json
import os
import resource
import signal
import socket
import time

import pytest

from lib.broker import Broker, wait_for
from lib.load import Load
from lib.procs import cpu_seconds, is_sanitized, open_files, rss_mib
from lib.rawhttp import RawHttp
from lib.reader import Reader
from lib.sse import Sse
from lib.swarm import CountFeed, SseFeed, Swarm, WsFeed, assert_same
from lib.ws import Closed, WebSocket, handshake


@pytest.fixture
def start_reader():
    readers = []

    def start(*args):
        readers.append(Reader(*args))
        return readers[-1]

    yield start
    for reader in readers:
        reader.finish()


def crowd(broker, swarm, count):
    """count feeds that only count, every second one SSE, all live before this returns."""
    feeds = []
    for n in range(count):
        if n % 2:
            feed = SseFeed(broker.port, "pattern=load", f"sse-{n}")
        else:
            feed = WsFeed(broker.port, f"ws-{n}")
            feed.subscribe("load")
        feeds.append(swarm.add(CountFeed(feed)))
    wait_for(lambda: broker.stats()["subscriptions"] >= count, what="subscriptions")
    return feeds


def stop_one_of_100(start_broker, start_reader, transport, count, size):
    """99 go on, one is stopped. Returns (broker, the stopped one, all seqs)."""
    broker = start_broker()
    with Swarm() as swarm:
        feeds = crowd(broker, swarm, 99)
        stopped = start_reader(broker.port, transport, "load", 1)
        wait_for(lambda: stopped.of_type("live"), timeout=15)
        stopped.signal(signal.SIGSTOP)
        before = rss_mib(broker)
        Load(broker.port, count=count // 2, size=size).wait()
        half = rss_mib(broker)
        Load(broker.port, count=count - count // 2, size=size).wait()
        wait_for(lambda: all(feed.last == count for feed in feeds), what="all events at the others")
        every = list(range(1, count + 1))
        for feed in feeds:
            assert_same(feed.events(), every, repr(feed))
        grown, late = rss_mib(broker) - before, rss_mib(broker) - half
        print(f"{transport}: {len(stopped.seqs)} before the stop, memory grew by {grown:.1f} MiB, {late:.1f} of it in the second half")
        if not is_sanitized(broker):
            # each of the 100 may hold its queue (1 MiB); what more is published must not show
            assert grown < 256 and late < 48, (grown, late)
        assert len(stopped.seqs) < count
        lagging = [c for c in broker.get("/v1/connections?limit=1000").json["connections"] if c["lagging"]]
        assert len(lagging) == 1 and lagging[0]["queued_bytes"] <= (1 << 20) + 2 * size, lagging
        stopped.signal(signal.SIGCONT)
        wait_for(lambda: stopped.seqs[-1:] == [count], what="the stopped one to catch up")
        assert_same(stopped.seqs, every, "the stopped one")
        assert not stopped.of_type("gap")


@pytest.mark.parametrize("transport", ["ws", "sse"])
def test_one_of_100_stopped_holds_up_nobody_and_loses_nothing(start_broker, start_reader, transport):
    stop_one_of_100(start_broker, start_reader, transport, 1500, 3000)


@pytest.mark.long
@pytest.mark.parametrize("transport", ["ws", "sse"])
def test_one_of_100_stopped_for_long(start_broker, start_reader, transport):
    stop_one_of_100(start_broker, start_reader, transport, 20000, 3000)


def test_a_stopped_websocket_is_closed_with_1013_and_resumes_from_its_cursor(start_broker, start_reader):
    """stall_timeout passes while an event waits; what the kernel had taken for it still arrives, then the close."""
    broker = start_broker("--stall-timeout", "1s")
    stopped = start_reader(broker.port, "ws", "load", 1)
    wait_for(lambda: stopped.of_type("live"), timeout=15)
    stopped.signal(signal.SIGSTOP)
    count = 1500
    Load(broker.port, count=count, size=3000).wait()
    wait_for(lambda: broker.metric("eventbus_websocket_stall_closed_total") == 1, timeout=20, what="the stall to be seen")
    stopped.signal(signal.SIGCONT)
    wait_for(lambda: stopped.of_type("closed"), timeout=40)
    assert stopped.of_type("closed") == [["1013"]], stopped.lines[-3:]
    seen = stopped.seqs
    assert seen == list(range(1, len(seen) + 1)) and len(seen) < count
    again = start_reader(broker.port, "ws", "load", len(seen) + 1, stopped.of_type("ok")[0][0])
    wait_for(lambda: again.seqs[-1:] == [count])
    assert_same(seen + again.seqs, list(range(1, count + 1)), "both together")
    assert not again.of_type("gap")


def test_a_stopped_stream_is_closed_after_stall_timeout_and_resumes(start_broker, start_reader):
    broker = start_broker("--stall-timeout", "1s")
    stopped = start_reader(broker.port, "sse", "load", 1)
    wait_for(lambda: stopped.of_type("live"), timeout=15)
    stopped.signal(signal.SIGSTOP)
    count = 2000
    Load(broker.port, count=count, size=4000).wait()
    wait_for(lambda: broker.stats()["streams"] == 0, timeout=20, what="the stall to be seen")
    stopped.signal(signal.SIGCONT)
    wait_for(lambda: stopped.of_type("closed"), timeout=40)
    seen = stopped.seqs
    assert seen == list(range(1, len(seen) + 1)) and len(seen) < count
    again = start_reader(broker.port, "sse", "load", len(seen) + 1, stopped.of_type("ok")[0][0])
    wait_for(lambda: again.seqs[-1:] == [count])
    assert_same(seen + again.seqs, list(range(1, count + 1)), "both together")


@pytest.mark.parametrize("transport", ["ws", "sse"])
def test_the_memory_of_many_slow_subscribers_is_bounded(start_broker, transport):
    """30 that read nothing: each may cost its queue (channel_bytes) and no more, however much is published.

    Events are shared between queues, so the bound holds for what stands still at different places too: they are
    paused one after the other.
    """
    broker = start_broker("--channel-bytes", "128K", "--channel-capacity", "256")
    with Swarm() as swarm:
        feeds = []
        for n in range(30):
            if transport == "ws":
                feed = WsFeed(broker.port, f"ws-{n}", rcvbuf=16384)
                feed.subscribe("load")
            else:
                feed = SseFeed(broker.port, "pattern=load", f"sse-{n}", rcvbuf=16384)
            feeds.append(swarm.add(CountFeed(feed)))
        wait_for(lambda: broker.stats()["subscriptions"] == 30)
        before = rss_mib(broker)
        total = 0
        for feed in feeds:
            swarm.pause(feed)
            total += Load(broker.port, count=100, size=4000).wait() if feed in feeds[::6] else 0
        total += Load(broker.port, count=400 if is_sanitized(broker) else 1200, size=4000).wait()
        grown = rss_mib(broker) - before
        print(f"{transport}: 30 stopped readers, {total * 4000 >> 20} MiB published, memory grew by {grown:.1f} MiB")
        if not is_sanitized(broker):
            assert grown < 40, grown
        for feed in feeds:
            swarm.resume(feed)
        wait_for(lambda: all(feed.last == total for feed in feeds), what="all to catch up")
        for feed in feeds:
            assert_same(feed.events(), list(range(1, total + 1)), repr(feed))


def test_a_client_that_never_reads_its_answers_costs_a_bounded_amount(start_broker):
    """Answers are never dropped, so the broker stops reading that connection; others publish on."""
    broker = start_broker("--max-unsent-answers", "64K", "--max-open-requests", "256")
    from lib.ws import TEXT, frame

    with WebSocket(broker.port, rcvbuf=4096) as ws, WebSocket(broker.port) as other:
        before = rss_mib(broker)
        one = b"".join(frame(TEXT, b'{"type":"publish","id":%d,"data":{"topic":"t","payload":""}}' % n, mask=b"\0\0\0\0") for n in range(100, 200))
        ws.sock.settimeout(1)
        sent = 0
        try:
            while sent < 400_000:
                ws.sock.sendall(one)
                sent += 100
        except TimeoutError:
            pass
        assert sent < 400_000, "the broker reads on, whatever waits to be sent"
        assert other.publish("t", "x")["type"] == "ok"
        grown = rss_mib(broker) - before
        print(f"stopped reading after {sent} requests, memory grew by {grown:.1f} MiB")
        if not is_sanitized(broker):
            assert grown < 32, grown
        ws.sock.settimeout(30)
        answers = [ws.next() for _ in range(sent)]
        assert {a["type"] for a in answers} == {"ok"}
        seqs = [a["seq"] for a in answers]
        assert seqs == sorted(seqs), "answers of one connection's publishes out of order"


# ---- descriptors and connections ----


def quiet_cpu(broker, seconds=1.0):
    """Processor seconds a second over a stretch of time in which nothing happens."""
    before, start = cpu_seconds(broker), time.monotonic()
    time.sleep(seconds)  # what is measured is time itself
    return (cpu_seconds(broker) - before) / (time.monotonic() - start)


@pytest.mark.parametrize("how", ["at start", "while it runs"])
def test_without_descriptors_it_survives_does_not_spin_and_serves_again(tmp_path, how):
    """Hundreds connect where only some find a descriptor: no crash, no busy loop, and health after they are gone."""
    wrapper = ["sh", "-c", 'ulimit -n 200; exec "$0" "$@"'] if how == "at start" else []
    broker = Broker(db=tmp_path / "x.db", wrapper=wrapper)
    connections = []
    try:
        broker.start()
        seq = broker.publish("t", b"x")["seq"]
        if how == "while it runs":
            limit = len(open_files(broker)) + 20
            resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (limit, limit))
        for n in range(400):
            sock = socket.create_connection(("127.0.0.1", broker.port), timeout=5)
            sock.settimeout(5)
            connections.append(sock)
            if n % 3 == 0:
                sock.sendall(b"GET /v1/stream?pattern=t HTTP/1.1\r\nHost: localhost\r\n\r\n")
            elif n % 3 == 1:
                sock.sendall(b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
        used = quiet_cpu(broker)
        assert broker.process.poll() is None
        if how == "while it runs":
            assert broker.said("EB-NO-FILES")
        print(f"{how}: {len(open_files(broker))} descriptors, {used * 100:.0f} % of a processor")
        if not is_sanitized(broker):
            assert used < 0.5, f"it spins: {used:.2f}"
        for sock in connections:
            sock.close()
        connections.clear()
        wait_for(lambda: healthy(broker), timeout=10, what="health after the crowd is gone")
        assert broker.publish("t", b"y")["seq"] == seq + 1
        wait_for(lambda: broker.stats()["connections"] + broker.stats()["streams"] == 0, timeout=10, what="free places")
        with WebSocket(broker.port) as ws:
            ws.subscribe("t", starting_seq=0)
            assert [ws.event()["seq"] for _ in range(2)] == [seq, seq + 1]
    finally:
        for sock in connections:
            sock.close()
        broker.finish()


def healthy(broker):
    try:
        return broker.request("GET", "/healthz", timeout=2).status == 200
    except OSError:
        return False


def test_at_max_connections_an_upgrade_gets_503_and_health_answers(start_broker):
    broker = start_broker("--max-connections", "20")
    open_ones = [WebSocket(broker.port) for _ in range(15)] + [Sse(broker.port, "pattern=t") for _ in range(5)]
    try:
        sock, status, headers, _ = handshake(broker.port)
        sock.close()
        assert status == 503 and headers["retry-after"].isdigit() and headers["content-type"] == "application/problem+json"
        answer = broker.get("/v1/stream?pattern=t")
        assert answer.status == 503 and answer.json["code"] == "unavailable" and "Retry-After" in answer.headers
        for path in ("/healthz", "/livez", "/readyz", "/metrics", "/v1/stats"):
            assert broker.get(path).status == 200, path
        assert broker.publish("t", b"x")["seq"] == 1
        assert open_ones[-1].next().json["seq"] == 1
        assert broker.metric("eventbus_connections_refused_total") == 2
        open_ones.pop(0).sock.close()

        def upgraded():
            sock, status, _, _ = handshake(broker.port)
            sock.close()
            return status == 101

        wait_for(upgraded, timeout=20, what="a free place")
    finally:
        for one in open_ones:
            (one.sock if isinstance(one, WebSocket) else one.http).close()


# ---- many that resume, and rare topics ----


def resume_many(start_broker, clients, common):
    """All come back at once to a log that has rare events among many common ones, and each asks for its own topic."""
    broker = start_broker("--readers", "3")
    rare = 8
    base = len([f for f in open_files(broker) if f.endswith(".db")])
    for n in range(rare):
        Load(broker.port, count=common // rare, size=50).wait()
        for client in range(0, clients, 500):
            with WebSocket(broker.port) as ws:
                batch = [{"topic": f"rare.{c}", "payload": str(n)} for c in range(client, min(client + 500, clients))]
                assert ws.call(type="publish_batch", messages=batch)["type"] == "ok"
    wanted = {}
    for event in broker.events("rare.*"):
        wanted.setdefault(event["topic"], []).append(event["seq"])
    rows = broker.metric("eventbus_log_rows_read_total")
    with Swarm() as swarm:
        publisher = Load(broker.port, rate=2000, topics=["load"])
        most, last = 0, broker.metric("eventbus_log_last_seq")
        wait_for(lambda: broker.metric("eventbus_log_last_seq") > last, what="the publisher to run")
        feeds = []
        for n in range(clients):
            feed = WsFeed(broker.port, f"rare.{n}") if n % 4 else SseFeed(broker.port, f"pattern=rare.{n}&starting_seq=1", f"rare.{n}")
            if n % 4:
                feed.subscribe(f"rare.{n}", 1)
            feeds.append(swarm.add(feed))
            if n % 50 == 0:
                most = max(most, sum(f.endswith(".db") for f in open_files(broker)))
        wait_for(lambda: all(feed.of_type("live") for feed in feeds), timeout=120, what="all live")
        most = max(most, sum(f.endswith(".db") for f in open_files(broker)))
        publisher.process.stdin.close()
        publisher.process.stdin = None
        assert publisher.wait() > 0
        for feed in feeds:
            assert_same(feed.events(), wanted[feed.name], feed.name)
        read = broker.metric("eventbus_log_rows_read_total") - rows
        print(f"{clients} resumed: {most} descriptors of the log (at first {base}), {read:.0f} rows read for {clients * rare} events, {publisher.result}")
        assert most <= base + 3 and base <= 1 + 3 + 2, (base, most)
        assert read < 20 * clients * rare, "rare topics are found by reading the common events between"


def test_300_clients_that_resume_at_once_share_the_readers(start_broker):
    resume_many(start_broker, 300, 4000)


@pytest.mark.long
def test_2000_clients_that_resume_at_once_share_the_readers(start_broker):
    resume_many(start_broker, 2000, 400_000)


def test_256_keep_alive_clients_at_once(start_broker):
    """All requests arrive together, many times over: nobody hangs."""
    broker = start_broker()
    clients = [RawHttp(broker.port) for _ in range(256)]
    try:
        for turn in range(4):
            for n, client in enumerate(clients):
                body = f"{turn}.{n}"
                client.send(f"POST /v1/topics/k/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n{body}")
            assert {client.answer().status for client in clients} == {201}
    finally:
        for client in clients:
            client.close()
    assert broker.stats()["last_seq"] == 1024


def test_a_half_open_peer_is_found_by_a_missing_pong(start_broker):
    """It answers no ping: closed after two intervals with 1013, its place is free."""
    broker = start_broker("--ping-interval", "200ms")
    with WebSocket(broker.port) as ws:
        ws.subscribe("t")
        with pytest.raises(Closed) as closed:
            ws.next()
        assert closed.value.code == 1013
    wait_for(lambda: broker.stats()["connections"] == 0)
    assert json.loads(broker.get("/v1/connections").body)["connections"] == []
    assert os.path.exists(f"/proc/{broker.pid}")
