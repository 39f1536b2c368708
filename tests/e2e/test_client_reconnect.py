"""libeventbus when the broker is away, comes back, comes back as another, refuses, or is silent."""
import asyncio
import os
import signal
import socket
import time

import pytest

from lib.broker import wait_for
from lib.driver import RESULTS, SANITIZED, Driver
from lib.fake_broker import EPOCH, FakeBroker

QUICK = dict(reconnect_interval=5, reconnect_interval_max=50)


@pytest.fixture(params=["any", "json"])
def driver(request):
    """With a broker of today: the binary protocol, and JSON."""
    driver = Driver(EBC_PROTOCOL=request.param)
    yield driver
    driver.finish()


@pytest.fixture
def fake():
    brokers = []

    def start(*args, **kwargs):
        brokers.append(FakeBroker(*args, **kwargs))
        return brokers[-1]

    yield start
    for broker in brokers:
        broker.finish()


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def numbers(events):
    return [int(bytes.fromhex(event["payload"])) for event in events]


# ---- the real broker goes and comes ----


def test_kill_9_under_load(start_broker, driver, port):
    """Killed three times with publishes in flight, started again on its file: stored once, handed over once, in order."""
    broker = start_broker(listen=f"127.0.0.1:{port}")
    driver.ok("open", url=broker.ws_url, **QUICK)
    driver.ok("subscribe", name="s", pattern="load.#")
    count = 0
    for _ in range(3):
        driver.ok("flood", topic="load.x", count=1500, **{"from": count})
        count += 1500
        driver.wait("done", count - 1400)
        broker.kill()
        driver.ok("flood", topic="load.x", count=100, **{"from": count})
        count += 100
        broker.start()
    driver.ok("flush", timeout=60000)
    assert [line["rc"] for line in driver.wait("done", count)] == [0] * count
    stored = broker.events("load.%23")
    assert [int(event["payload"]) for event in stored] == list(range(count))
    assert numbers(driver.wait("event", count)) == list(range(count))
    assert len(driver.of("event")) == count and len(driver.of("gap")) == 0
    assert driver.states().count("connected") == 4


def test_a_stop_in_order_is_survived(start_broker, driver, port):
    broker = start_broker(listen=f"127.0.0.1:{port}")
    driver.ok("open", url=broker.ws_url, **QUICK)
    driver.ok("subscribe", name="s", pattern="#")
    driver.ok("publish_wait", topic="a", payload="1")
    broker.stop()
    driver.wait("state", state="waiting")
    assert "1001" in driver.last_error()["error"] or "refused" in driver.last_error()["error"]
    driver.ok("publish", topic="a", payload="2", tag="2")
    broker.start()
    assert driver.wait("done")[0]["rc"] == 0
    assert numbers(driver.wait("event", 2)) == [1, 2]


def test_another_log_is_an_epoch_gap(start_broker, driver, port, tmp_path):
    """The database is gone: the cursor falls back, and the new log is read from its start."""
    broker = start_broker(listen=f"127.0.0.1:{port}")
    driver.ok("open", url=broker.ws_url, **QUICK)
    driver.ok("subscribe", name="s", pattern="#")
    driver.ok("subscribe", name="p", pattern="a", pull=1)
    driver.ok("flood", topic="a", count=20, tagged=0)
    driver.ok("flush")
    driver.wait("event", 20)
    for _ in range(20):
        assert driver.next(name="p")["rc"] == 1
    old = driver.position(name="s")
    broker.kill()
    for path in tmp_path.glob("eventbus.db*"):
        path.unlink()
    broker.start()
    broker.publish("a", b"100")
    (gap,) = driver.wait("gap", sub="s")
    assert gap["reason"] == "epoch" and (gap["from_seq"], gap["to_seq"]) == (0, 0)
    assert numbers(driver.wait("event", 21)[20:]) == [100]
    assert numbers([driver.next(name="p")]) == [100]
    assert len(driver.of("gap", sub="p")) == 1
    new = driver.position(name="s")
    assert new["seq"] == 1 and new["epoch"] != old["epoch"] and driver.position(name="p") == {**new}


def test_an_ack_for_another_log_is_not_given(start_broker, driver, port, tmp_path):
    """A seq means nothing in another log: the ack that waited for the connection ends, and marks nothing."""
    broker = start_broker(listen=f"127.0.0.1:{port}")
    driver.ok("open", url=broker.ws_url, **QUICK)
    driver.ok("subscribe", name="s", pattern="#")
    driver.ok("publish_wait", topic="a", payload="1")
    broker.kill()
    for path in tmp_path.glob("eventbus.db*"):
        path.unlink()
    driver.wait("state", state="waiting")
    driver.send("ack", seq=1, timeout=30000)
    broker.start()
    assert driver.answer()["rc"] == RESULTS["disconnected"]


def test_acks_are_given_again(start_broker, driver, port):
    broker = start_broker(listen=f"127.0.0.1:{port}")
    driver.ok("open", url=broker.ws_url, **QUICK)
    driver.ok("subscribe", name="s", pattern="#")
    driver.ok("publish_wait", topic="a", payload="1")
    broker.kill()
    driver.send("ack", seq=1, timeout=30000)
    broker.start()
    assert driver.answer()["rc"] == 0


def test_publish_and_subscribe_before_there_is_a_broker(start_broker, driver, port):
    driver.ok("open", url=f"ws://127.0.0.1:{port}/ws", **QUICK)
    driver.ok("subscribe", name="s", pattern="#", timeout=0)
    assert driver.subscribe(name="t", pattern="x", timeout=50)["rc"] == RESULTS["timeout"]
    assert driver.publish_wait(topic="a", payload="1", timeout=50)["rc"] == RESULTS["timeout"]
    driver.ok("publish", topic="a", payload="2", tag="2")
    assert driver.wait_connected(timeout=20)["rc"] == RESULTS["timeout"]
    start_broker(listen=f"127.0.0.1:{port}")
    driver.ok("wait_connected")
    assert numbers(driver.wait("event", 2)) == [1, 2], "what timed out goes on"


def test_a_frozen_broker_is_half_open(start_broker, driver):
    """SIGSTOP: the kernel still takes what is sent. Found by the ping, and survived."""
    broker = start_broker()
    driver.ok("open", url=broker.ws_url, ping_interval=100, connect_timeout=200, **QUICK)
    driver.ok("publish_wait", topic="a", payload="0")
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        driver.ok("flood", topic="a", count=10, **{"from": 1})
        driver.wait("state", state="waiting")
        assert "silent" in driver.of("state", state="waiting")[0]["why"]
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    driver.ok("flush", timeout=30000)
    assert [int(event["payload"]) for event in broker.events()] == list(range(11))


# ---- bounds ----


def test_what_waits_is_bounded_by_count(driver, port):
    driver.ok("open", url=f"ws://127.0.0.1:{port}/ws", max_pending=100, when_full_error=1, **QUICK)
    line = driver.flood(topic="a", count=1000)
    assert (line["taken"], line["rc"]) == (100, RESULTS["full"])
    assert driver.pending()["pending"] == 100
    assert driver.close(timeout=0)["rc"] == RESULTS["timeout"]
    assert [line["rc"] for line in driver.wait("done", 100)] == [RESULTS["closed"]] * 100


def test_what_waits_is_bounded_by_bytes(driver, port):
    """The resident memory follows the bound, however long the broker is away."""
    driver.ok("open", url=f"ws://127.0.0.1:{port}/ws", max_pending_bytes=8 << 20, when_full_error=1, **QUICK)
    before = driver.rss()["kib"]
    line = driver.flood(topic="a", count=100000, pad=1000, tagged=0)
    assert line["rc"] == RESULTS["full"] and 2000 < line["taken"] < 8400, line
    assert SANITIZED or driver.rss()["kib"] - before < 14 * 1024
    assert driver.publish(topic="a", payload_size=9 << 20)["rc"] == RESULTS["too_large"]


def test_a_full_table_blocks_until_there_is_room(start_broker, driver, port):
    driver.ok("open", url=f"ws://127.0.0.1:{port}/ws", max_pending=10, **QUICK)
    driver.send("flood", topic="a", count=500)
    wait_for(lambda: "waiting" in driver.states(), what="a failed try")
    broker = start_broker(listen=f"127.0.0.1:{port}")
    assert driver.answer()["taken"] == 500
    driver.ok("flush", timeout=30000)
    assert [int(event["payload"]) for event in broker.events()] == list(range(500))


def test_publish_wait_for_room_ends_in_time(driver, port):
    driver.ok("open", url=f"ws://127.0.0.1:{port}/ws", max_pending=1, **QUICK)
    driver.ok("publish", topic="a", payload="1")
    assert driver.publish_wait(topic="a", payload="2", timeout=50)["rc"] == RESULTS["full"]
    assert driver.flush(timeout=50)["rc"] == RESULTS["timeout"]


# ---- refused ----


def failed_at_last(driver):
    """States are told on the callback thread, later than the call that ended because of one."""
    wait_for(lambda: driver.states()[-1:] == ["failed"], what="the state failed is told")


def test_the_token_is_needed(start_broker, driver, tmp_path):
    (tmp_path / "tokens").write_text("sesame\n")
    broker = start_broker("--token-file", tmp_path / "tokens")
    driver.ok("open", url=broker.ws_url, token="sesame")
    driver.ok("wait_connected")
    other = Driver()
    try:
        other.ok("open", url=broker.ws_url, token="mistaken")
        assert other.publish_wait(topic="a", payload="x", timeout=20000)["rc"] == RESULTS["closed"]
        assert other.publish(topic="a", payload="x")["rc"] == RESULTS["closed"]
        failed_at_last(other)
        assert other.states() == ["connecting", "failed"] and "401" in other.last_error()["error"]
        other.ok("close")
    finally:
        other.finish()
    third = Driver()
    try:
        assert third.open(url=broker.ws_url, connect_now=1)["rc"] == RESULTS["unauthorized"]
    finally:
        third.finish()


@pytest.mark.parametrize("status, result", [(401, "unauthorized"), (403, "forbidden"), (404, "not_found"), (301, "internal")])
def test_a_refusal_for_good_fails_at_once(fake, driver, status, result):
    broker = fake(status=status)
    driver.ok("open", url=broker.url, **QUICK)
    driver.ok("subscribe", name="s", pattern="a", timeout=0)
    (line,) = driver.wait("failed")
    assert line["rc"] == RESULTS[result] and str(status) in line["why"]
    failed_at_last(driver)
    assert driver.states() == ["connecting", "failed"] and broker.upgrades == 1
    assert driver.wait_connected()["rc"] == RESULTS["closed"]
    assert driver.flush()["rc"] == RESULTS["closed"]
    driver.ok("close")


@pytest.mark.parametrize("status", [503, 429, 500, 408])
def test_a_refusal_for_now_is_tried_again(fake, driver, status):
    broker = fake(status=lambda n: status if n < 3 else None)
    driver.ok("open", url=broker.url, **QUICK)
    driver.ok("publish_wait", topic="a", payload="x", timeout=20000)
    assert broker.upgrades == 3


def test_max_retries(driver, port):
    driver.ok("open", url=f"ws://127.0.0.1:{port}/ws", max_retries=2, **QUICK)
    assert driver.publish_wait(topic="a", payload="x", timeout=20000)["rc"] == RESULTS["closed"]
    failed_at_last(driver)
    assert driver.states() == ["connecting", "waiting", "connecting", "waiting", "connecting", "failed"]
    assert "refused" in driver.last_error()["error"]


def test_a_name_that_is_none(driver):
    driver.ok("open", url="ws://no-such-host.invalid:1/ws", max_retries=0, connect_timeout=8000)
    assert driver.wait_connected(timeout=20000)["rc"] == RESULTS["closed"]
    assert "no-such-host.invalid" in driver.last_error()["error"]


def test_connect_now_ends_in_time(driver, port):
    start = time.monotonic()
    assert driver.open(url=f"ws://127.0.0.1:{port}/ws", connect_now=1, connect_timeout=200, **QUICK)["rc"] == RESULTS["timeout"]
    assert time.monotonic() - start < 20


# ---- odd brokers ----


def test_a_broker_that_never_answers_the_upgrade(fake, driver):
    broker = fake(silent=True)
    driver.ok("open", url=broker.url, connect_timeout=100, **QUICK)
    assert driver.wait_connected(timeout=1000)["rc"] == RESULTS["timeout"]
    wait_for(lambda: broker.upgrades >= 2, what="a second try")


def test_close_while_it_connects(fake, driver):
    """Nobody has to wait for connect_timeout."""
    broker = fake(silent=True)
    driver.ok("open", url=broker.url, connect_timeout=60000)
    driver.ok("publish", topic="a", payload="x", tag="x")
    wait_for(lambda: broker.upgrades == 1, what="the upgrade")
    start = time.monotonic()
    assert driver.close(timeout=0)["rc"] == RESULTS["timeout"]
    assert time.monotonic() - start < 10
    assert driver.wait("done")[0]["rc"] == RESULTS["closed"]


def test_something_else_answers(fake, driver):
    broker = fake(subprotocol=None)
    driver.ok("open", url=broker.url, max_retries=1, **QUICK)
    assert driver.wait_connected(timeout=20000)["rc"] == RESULTS["closed"]
    assert "subprotocol" in driver.last_error()["error"]


@pytest.mark.parametrize("code", [1001, 1013, 1000, 1011])
def test_a_close_is_not_the_end(fake, driver, code):
    async def answer(request, send, connection):
        if broker.connections == 1:
            await connection.close(code, "see you")
        else:
            await broker.be_good(request, send, connection)

    broker = fake(answer)
    driver.ok("open", url=broker.url, **QUICK)
    driver.ok("publish_wait", topic="a", payload="x", timeout=20000)
    assert f"{code}: see you" in driver.of("state", state="waiting")[0]["why"]
    first, second = [request for request in broker.requests if request["type"] == "publish"]
    assert first == second, "the same request, the same id"


@pytest.mark.parametrize(
    "nonsense", ["{", "[]", '{"type":"event"}', '{"type":"live"}', b"\xff\xff", '{"type":"gap","pattern":"a","from_seq":1}']
)
def test_nonsense_ends_the_connection_alone(fake, driver, nonsense):
    async def on_open(send, connection):
        if broker.connections == 1:
            await send(nonsense)

    broker = fake(on_open=on_open)
    driver.ok("open", url=broker.url, **QUICK)
    driver.ok("wait_connected")
    wait_for(lambda: broker.connections == 2, what="a second connection")
    driver.ok("publish_wait", topic="a", payload="x", timeout=20000)
    assert "the broker sent" in driver.of("state", state="waiting")[0]["why"]


def test_what_a_newer_broker_says_is_ignored(fake, driver):
    async def on_open(send, connection):
        await send({"type": "weather", "id": 1})
        await send({"type": "ok", "id": "text"})
        await send({"type": "ok", "id": 123456})
        await send({"type": "error", "id": None, "code": "from_the_future", "message": "?"})
        await send({"type": "gap", "pattern": "nobody.has.it", "from_seq": 1, "to_seq": 2, "reason": "new"})

    broker = fake(on_open=on_open)
    driver.ok("open", url=broker.url, **QUICK)
    driver.ok("publish_wait", topic="a", payload="x", timeout=20000)
    assert broker.connections == 1


def test_a_message_beyond_max_message_ends_the_connection(fake, driver):
    async def on_open(send, connection):
        if broker.connections == 1:
            await send(broker.event(1, payload="x" * 5000))

    broker = fake(on_open=on_open)
    driver.ok("open", url=broker.url, max_message=2000, **QUICK)
    driver.ok("wait_connected")
    wait_for(lambda: broker.connections == 2, what="a second connection")


def test_unanswered_for_longer_than_the_window_is_in_doubt(fake, driver):
    """A broker that takes publishes and says nothing: in doubt at the end of the window, and not sent again."""

    async def answer(request, send, connection):
        if request["type"] == "publish" and request["data"]["topic"] == "lost":
            return
        await broker.be_good(request, send, connection)

    broker = fake(answer)
    driver.ok("open", url=broker.url, dedupe_window=300, **QUICK)
    start = time.monotonic()
    assert driver.publish_wait(topic="lost", payload="x", timeout=20000)["rc"] == RESULTS["in_doubt"]
    assert time.monotonic() - start >= 0.3
    driver.ok("publish_wait", topic="a", payload="x", timeout=20000)
    assert len([r for r in broker.requests if r["data"]["topic"] == "lost"]) == 1 and broker.connections == 1


def test_in_doubt_while_the_broker_is_away(fake, driver):
    """Sent once, then nobody is there until the window is over. What was never sent is not in doubt, and goes on waiting."""

    async def answer(request, send, connection):
        if broker.connections == 1:
            broker.status = 503
            connection.transport.abort()
        else:
            await broker.be_good(request, send, connection)

    broker = fake(answer)
    driver.ok("open", url=broker.url, dedupe_window=400, **QUICK)
    driver.ok("publish", topic="a", payload="x", tag="sent")
    driver.wait("state", state="waiting")
    driver.ok("publish", topic="a", payload="y", tag="waits")
    assert driver.wait("done", tag="sent")[0]["rc"] == RESULTS["in_doubt"]
    assert driver.of("done", tag="waits") == []
    broker.status = None
    assert driver.wait("done", tag="waits")[0]["rc"] == 0
    assert [r["data"]["payload"] for r in broker.requests] == ["x", "y"]


def test_sent_twice_and_still_unanswered_gives_up_the_connection(fake, driver):
    """The second sending may lie in a buffer: it must not arrive after the broker forgot the first."""

    async def answer(request, send, connection):
        if broker.connections == 1:
            connection.transport.abort()

    broker = fake(answer)
    driver.ok("open", url=broker.url, dedupe_window=400, **QUICK)
    assert driver.publish_wait(topic="a", payload="x", timeout=20000)["rc"] == RESULTS["in_doubt"]
    wait_for(lambda: broker.connections == 3, what="a third connection")


@pytest.mark.parametrize("code, result", [("storage_full", "storage_full"), ("rate_limited", "limit"), ("nobody_knows_it", "internal")])
def test_codes_become_results(fake, driver, code, result):
    async def answer(request, send, connection):
        await send({"type": "error", "id": request["id"], "code": code, "message": "because"})

    driver.ok("open", url=fake(answer).url)
    assert driver.publish_wait(topic="a", payload="x")["rc"] == RESULTS[result]
    assert driver.last_error()["error"] == "because"


# ---- the stream's rules, played by hand ----


def stream(fake, script):
    """A broker that plays script(send, request) after each subscribe's ok; publishes are ok."""

    async def answer(request, send, connection):
        if request["type"] != "subscribe":
            return await broker.be_good(request, send, connection)
        await script(send, request, connection)

    broker = fake(answer)
    return broker


def test_an_event_of_the_shared_stream_is_for_live_ones_only(fake, driver):
    """B replays 1 to 5 while the shared stream is at 5 and 6 already: B gets all of it in order, A only its own."""

    async def script(send, request, connection):
        ok = {"type": "ok", "id": request["id"], "last_seq": 4, "epoch": EPOCH}
        await send(ok)
        if request["pattern"] == "b.*":
            await send(broker.event(1, "b.x", "1", pattern="b.*"))
            await send(broker.event(5, "b.x", "5"))
            await send(broker.event(2, "b.x", "2", pattern="b.*"))
            await send(broker.event(5, "b.x", "5", pattern="b.*"))
            await send({"type": "live", "pattern": "b.*", "seq": 5})
            await send(broker.event(5, "b.x", "5"))
            await send(broker.event(6, "b.x", "6"))
            await send(broker.event(7, "a", "7"))

    broker = stream(fake, script)
    driver.ok("open", url=broker.url)
    driver.ok("subscribe", name="a", pattern="#")
    driver.ok("subscribe", name="b", pattern="b.*", start=0)
    assert numbers(driver.wait("event", 3, sub="a")) == [5, 6, 7]
    assert numbers(driver.wait("event", 4, sub="b")) == [1, 2, 5, 6]
    driver.ok("publish_wait", topic="z", payload="", timeout=20000)
    assert len(driver.of("event")) == 7
    assert [line["seq"] for line in driver.of("live", sub="b")] == [5]


def test_resume_asks_behind_the_last_event_with_the_epoch(fake, driver):
    """Behind what the shared stream has passed, too, and behind a gap."""

    async def script(send, request, connection):
        await send({"type": "ok", "id": request["id"], "last_seq": 10, "epoch": EPOCH})
        if broker.connections == 1:
            if request["pattern"] == "a":
                await send(broker.event(11, "a", "11"))
                await send(broker.event(12, "b", "12"))
            if request["pattern"] == "c":
                await send({"type": "gap", "patterns": ["a", "c"], "from_seq": 13, "to_seq": 20, "reason": "deleted"})
                await send(broker.event(21, "c", "21"))
                connection.transport.abort()
        else:
            await send({"type": "live", "pattern": request["pattern"], "seq": 30})

    broker = stream(fake, script)
    driver.ok("open", url=broker.url, **QUICK)
    driver.ok("subscribe", name="a", pattern="a")
    driver.wait("event", sub="a")
    driver.ok("subscribe", name="c", pattern="c")
    driver.wait("live", sub="c")
    driver.wait("live", sub="a")
    asked = [request for request in broker.requests if request.get("starting_seq") is not None]
    assert {request["pattern"]: (request["starting_seq"], request["epoch"]) for request in asked} == {"a": (22, EPOCH), "c": (22, EPOCH)}
    assert [(line["sub"], line["from_seq"], line["to_seq"], line["reason"]) for line in driver.of("gap")] == [
        ("a", 13, 20, "deleted"), ("c", 13, 20, "deleted")]  # fmt: skip
    assert numbers(driver.of("event", sub="c")) == [21]


def test_after_an_epoch_gap_the_first_wish_is_void(fake, driver):
    """Asked for from 100 on in a log that is gone; cut before the new log's first event came."""

    async def script(send, request, connection):
        await send({"type": "ok", "id": request["id"], "last_seq": 3, "epoch": EPOCH})
        if broker.connections == 1:
            await send({"type": "gap", "pattern": "a", "from_seq": 0, "to_seq": 1, "reason": "epoch", "epoch": EPOCH})
            await connection.close(1001)
        else:
            await send({"type": "live", "pattern": "a", "seq": 3})

    broker = stream(fake, script)
    driver.ok("open", url=broker.url, **QUICK)
    driver.ok("subscribe", name="s", pattern="a", start=100, epoch="00000000-0000-4000-8000-000000000009")
    driver.wait("live")
    assert [(r["starting_seq"], r["epoch"][-1]) for r in broker.requests] == [(100, "9"), (2, "1")]
    position = driver.position(name="s")
    assert (position["seq"], position["epoch"]) == (1, EPOCH)


def test_acks_do_not_wait_for_a_subscription_that_ended(fake, driver):
    """They are held until the epoch is known again; with nobody left to tell it they go."""

    async def answer(request, send, connection):
        if request["type"] == "ack" and broker.connections == 1:
            connection.transport.abort()
        elif request["type"] == "subscribe" and broker.connections == 2:
            return
        else:
            await broker.be_good(request, send, connection)

    broker = fake(answer)
    driver.ok("open", url=broker.url, **QUICK)
    driver.ok("subscribe", name="s", pattern="a")
    driver.ok("ack", seq=1, timeout=0)
    wait_for(lambda: len([r for r in broker.requests if r["type"] == "subscribe"]) == 2, what="the second subscribe")
    driver.ok("end", name="s")
    driver.ok("flush", timeout=20000)
    assert [r["type"] for r in broker.requests] == ["subscribe", "ack", "subscribe", "unsubscribe", "ack"]


def test_a_resubscription_that_is_refused_is_dead(fake, driver):
    async def script(send, request, connection):
        if broker.connections == 1:
            await send({"type": "ok", "id": request["id"], "last_seq": 0, "epoch": EPOCH})
            connection.transport.abort()
        else:
            await send({"type": "error", "id": request["id"], "code": "forbidden", "message": "not any more"})

    broker = stream(fake, script)
    driver.ok("open", url=broker.url, **QUICK)
    driver.ok("subscribe", name="s", pattern="a")
    driver.ok("subscribe", name="p", pattern="b", pull=1, timeout=0)
    (line,) = driver.wait("failed")
    assert (line["sub"], line["rc"], line["why"]) == ("s", RESULTS["forbidden"], "not any more")
    assert driver.next(name="p")["rc"] == RESULTS["forbidden"]


def test_a_resubscription_that_is_refused_for_now_is_asked_for_again(fake, driver):
    async def script(send, request, connection):
        if broker.connections == 1:
            await send({"type": "ok", "id": request["id"], "last_seq": 0, "epoch": EPOCH})
            connection.transport.abort()
        elif len(broker.requests) < 4:
            await send({"type": "error", "id": request["id"], "code": "unavailable", "message": "later"})
        else:
            await send({"type": "ok", "id": request["id"], "last_seq": 0, "epoch": EPOCH})
            await send({"type": "live", "pattern": "a", "seq": 0})

    broker = stream(fake, script)
    driver.ok("open", url=broker.url, **QUICK)
    driver.ok("subscribe", name="s", pattern="a")
    driver.wait("live")
    assert broker.connections == 2 and len(broker.requests) == 4


def test_what_is_left_of_an_ended_subscription_is_dropped(fake, driver):
    """The same pattern again: events of the older stream, sent before the answer, are not the new one's."""

    async def script(send, request, connection):
        if len([r for r in broker.requests if r["type"] == "subscribe"]) == 2:
            await send(broker.event(1, "a", "1", pattern="a"))
            await send(broker.event(2, "a", "2"))
            await asyncio.sleep(0.05)
        await send({"type": "ok", "id": request["id"], "last_seq": 2, "epoch": EPOCH})
        await send(broker.event(3, "a", "3"))

    broker = stream(fake, script)
    driver.ok("open", url=broker.url)
    driver.ok("subscribe", name="s", pattern="a")
    driver.wait("event", sub="s")
    driver.ok("end", name="s")
    driver.ok("subscribe", name="t", pattern="a")
    assert numbers(driver.wait("event", sub="t")) == [3]
    assert [r["type"] for r in broker.requests] == ["subscribe", "unsubscribe", "subscribe"]
