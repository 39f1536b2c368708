"""Durable consumers by the C client against a real broker, through a network that cuts at every frame: each event is
acknowledged at last, none is acknowledged that was not handled, and close gives back what was not begun."""
import json

import pytest

from lib.broker import wait_for
from lib.driver import RESULTS, Driver
from lib.proxy import Fault, Proxy

QUICK = dict(reconnect_interval=2, reconnect_interval_max=10)
PATTERNS = ["work.#"]
COUNT = 40


@pytest.fixture(params=["any", "json"])
def driver(request):
    """With a broker of today: the binary protocol, and JSON."""
    driver = Driver(EBC_PROTOCOL=request.param)
    yield driver
    driver.finish()


def seqs(lines):
    return [line["seq"] for line in lines]


def state(broker, name="w"):
    answer = broker.get(f"/v1/consumers/{name}")
    assert answer.status == 200, answer
    return answer.json


def settled(broker, name="w"):
    """Everything is handled, as the broker sees it."""

    def look():
        now = state(broker, name)
        now = {**now, **now.get("state", {})} if isinstance(now.get("state"), dict) else now
        return now["pending"] == 0 and now["inflight"] == 0 and now["lag"]["events"] == 0

    wait_for(look, what="an empty consumer")


def publish(broker, count=COUNT, topic="work.x"):
    messages = [{"topic": topic, "payload": str(n)} for n in range(count)]
    answer = broker.request("POST", "/v1/events", json.dumps({"messages": messages}).encode(), headers={"Content-Type": "application/json"})
    assert answer.status == 201, answer
    return [result["seq"] for result in answer.json["results"]]


def test_work_is_done_once(broker, driver):
    driver.ok("open", url=broker.ws_url)
    driver.ok("consume", name="w", patterns=PATTERNS, threads=3)
    wanted = publish(broker, 500)
    driver.wait("answered", 500)
    assert sorted(seqs(driver.of("worked"))) == wanted
    assert {line["epoch"] for line in driver.of("work")} == {broker.stats()["epoch"]}
    assert {(line["verdict"], line["rc"]) for line in driver.of("answered")} == {("ack", 0)}
    settled(broker)


def test_verdicts_mean_what_they_say(broker, driver):
    """Nack: again with the next number. Term: a dead letter with the reason."""
    driver.ok("open", url=broker.ws_url)
    driver.ok("subscribe", name="dead", pattern="$dead.w")
    driver.ok("consume", name="w", patterns=PATTERNS, verdicts="nnt", nack_delay=1)
    (seq,) = publish(broker, 1)
    (letter,) = driver.wait("event", sub="dead")
    headers = json.loads(letter["headers"])
    assert (headers["dead-seq"], headers["dead-deliveries"], headers["dead-reason"]) == (str(seq), "3", "cannot be done")
    assert [line["delivery"] for line in driver.of("work")] == [1, 2, 3]


def test_settings_are_those_of_the_consumer(broker, driver):
    driver.ok("open", url=broker.ws_url)
    assert driver.consume(name="w")["rc"] == RESULTS["not_found"]
    driver.ok("consume", name="w", patterns=PATTERNS, ack_wait=1500, max_deliver=3, backoff=250, order="topic")
    shown = state(broker)
    shown = shown.get("settings", shown)
    assert (shown["patterns"], shown["ack_wait"], shown["max_deliver"], shown["backoff"], shown["order"]) == (PATTERNS, 1.5, 3, [0.25], "topic")
    driver.ok("work_close", name="w")
    driver.ok("consume", name="w")
    driver.ok("work_close", name="w")
    assert driver.consume(name="w", patterns=["other"])["rc"] == RESULTS["conflict"]


def test_in_progress_keeps_a_long_job(broker, driver):
    """Five times ack_wait in one callback, and one waits behind it: each is delivered once."""
    driver.ok("open", url=broker.ws_url)
    driver.ok("consume", name="w", patterns=PATTERNS, ack_wait=300, in_progress=-1, delay_us=1500000)
    publish(broker, 2)
    driver.wait("answered", 2)
    assert [line["delivery"] for line in driver.of("work")] == [1, 1]
    assert {line["rc"] for line in driver.of("answered")} == {0}


def test_without_it_a_long_job_comes_again_and_its_ack_still_counts(broker, driver):
    driver.ok("open", url=broker.ws_url)
    driver.ok("consume", name="w", patterns=PATTERNS, ack_wait=200, delay_us=700000)
    publish(broker, 1)
    assert driver.wait("answered")[0]["rc"] == 0
    settled(broker)
    assert driver.figures(name="w")["received"] > 1 and len(driver.of("work")) == 1


def test_pulled_by_two_clients_each_event_goes_to_one(broker, driver):
    other = Driver()
    try:
        for one in (driver, other):
            one.ok("open", url=broker.ws_url)
            one.ok("consume", name="w", patterns=PATTERNS, pull=1, max_inflight=2)
        wanted, got = publish(broker, 20), []
        while len(got) < 20:
            for one in (driver, other):
                line = one.work_next(name="w", timeout=50)
                if line["rc"] == 1:
                    got.append((line["seq"], line["delivery"]))
                    one.ok("work_ack_wait", name="w", seq=line["seq"], delivery=line["delivery"])
        assert sorted(got) == [(seq, 1) for seq in wanted]
    finally:
        other.finish()


def test_close_gives_back_what_was_not_begun(broker, driver):
    driver.ok("open", url=broker.ws_url)
    driver.ok("consume", name="w", patterns=PATTERNS, delay_us=300000)
    wanted = publish(broker, 5)
    driver.wait("work")
    driver.ok("work_close", name="w")
    assert seqs(driver.of("worked")) == wanted[:1]
    driver.ok("consume", name="w", quiet=0)
    driver.wait("answered", 5)
    assert seqs(driver.of("work")) == wanted


def test_an_end_by_the_operator_is_told(broker, driver):
    driver.ok("open", url=broker.ws_url)
    driver.ok("consume", name="w", patterns=PATTERNS)
    assert broker.request("DELETE", "/v1/consumers/w").status in (200, 204)
    assert driver.wait("released")[0]["reason"] == "deleted"
    assert driver.wait("work_failed")[0]["rc"] == RESULTS["not_found"]


def test_a_seek_delivers_anew(broker, driver):
    driver.ok("open", url=broker.ws_url)
    driver.ok("consume", name="w", patterns=PATTERNS)
    wanted = publish(broker, 5)
    driver.wait("answered", 5)
    assert broker.request("POST", "/v1/consumers/w/seek", json.dumps({"seq": wanted[3]}).encode(), headers={"Content-Type": "application/json"}).status == 200
    driver.wait("answered", 7)
    assert seqs(driver.of("work")) == wanted + wanted[3:]


# ---- through a network that breaks ----


def round_trip(broker, driver, faults, **options):
    """COUNT events through a connection with faults, one after the other: judged by the broker and by what was handled."""
    proxy = Proxy(broker.port, faults)
    try:
        driver.ok("open", url=proxy.url, **{**QUICK, **options})
        driver.ok("consume", name="w", patterns=PATTERNS, timeout=0, threads=2, max_inflight=4, verdicts="a")
        driver.wait("state", state="connected")
        wait_for(lambda: broker.get("/v1/consumers/w").status == 200, what="the consumer")
        wanted = []
        for _ in range(8):
            wanted += publish(broker, COUNT // 8)
        for seq in wanted:
            driver.wait("answered", seq=seq, rc=0)
        settled(broker)
        assert set(seqs(driver.of("worked"))) == set(wanted), "none acknowledged that was not handled"
        driver.ok("work_close", name="w")
        driver.ok("close")
        return proxy
    finally:
        proxy.close()


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("kind", ["cut", "halve", "after"])
@pytest.mark.parametrize("frame", [0, 1, 2, 3, 4, 6, 9, 14])
def test_a_broken_connection_loses_no_work(broker, driver, direction, kind, frame):
    proxy = round_trip(broker, driver, [Fault(direction, frame, kind)])
    assert proxy.hits == 0 or proxy.connections >= 2


@pytest.mark.long
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("kind", ["cut", "halve", "after", "stall", "split"])
@pytest.mark.parametrize("frame", range(40))
def test_every_frame_of_work(broker, driver, direction, kind, frame):
    round_trip(broker, driver, [Fault(direction, frame, kind)], connect_timeout=300, ping_interval=150)


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("frame", [1, 2, 5])
def test_a_half_open_peer_loses_no_work(broker, driver, direction, frame):
    round_trip(broker, driver, [Fault(direction, frame, "stall")], connect_timeout=300, ping_interval=200)


def test_connections_that_break_again_and_again(broker, driver):
    faults = [Fault("up" if i % 2 else "down", 1 + i % 7, ["cut", "halve", "after"][i % 3]) for i in range(30)]
    proxy = round_trip(broker, driver, faults)
    assert proxy.hits >= 3


def test_cuts_under_load(broker, driver):
    """Hundreds under way, cut at any moment; nacks and later answers among them."""
    proxy = Proxy(broker.port)
    try:
        driver.ok("open", url=proxy.url, **QUICK)
        driver.ok("consume", name="w", patterns=PATTERNS, threads=4, verdicts="na", delay_us=200, max_inflight=64)
        wanted = []
        for _ in range(10):
            wanted += publish(broker, 60)
            wait_for(lambda: proxy.pairs, what="a connection to cut")
            proxy.cut()
        settled(broker)
        driver.ok("flush", timeout=30000)
        assert set(seqs(driver.of("worked"))) == set(wanted)
        acked = {line["seq"] for line in driver.of("answered", verdict="ack", rc=0)}
        assert acked == set(wanted)
        assert proxy.connections > 5
        driver.ok("close")
    finally:
        proxy.close()


def test_the_broker_killed_and_started_again(start_broker, driver):
    """With work under way: all of it is done in the end, and an ack that was answered ok is no more delivered."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    broker = start_broker(listen=f"127.0.0.1:{port}")
    driver.ok("open", url=broker.ws_url, **QUICK)
    driver.ok("consume", name="w", patterns=PATTERNS, threads=2, delay_us=500, max_inflight=16)
    wanted = []
    for _ in range(3):
        wanted += publish(broker, 100)
        driver.wait("answered", len(wanted) - 90)
        broker.kill()
        broker.start()
    for seq in wanted:
        driver.wait("answered", seq=seq, rc=0)
    settled(broker)
    assert set(seqs(driver.of("worked"))) == set(wanted)


def test_two_workers_that_vanish_in_turn_lose_nothing(broker):
    """kill -9 of a process with work in hand: the other one does it."""
    done = set()
    survivor = Driver()
    try:
        survivor.ok("open", url=broker.ws_url)
        survivor.ok("consume", name="w", patterns=PATTERNS, delay_us=1000, max_inflight=8)
        wanted = []
        for _ in range(3):
            victim = Driver()
            victim.ok("open", url=broker.ws_url)
            victim.ok("consume", name="w", delay_us=20000, max_inflight=8)
            wanted += publish(broker, 40)
            victim.wait("worked")
            victim.process.kill()
            victim.process.wait()
            victim.threads[0].join(20)
            done |= set(seqs(victim.of("worked")))  # what it said before it was killed
        settled(broker)
        assert done | set(seqs(survivor.of("worked"))) == set(wanted)
        survivor.ok("close")
    finally:
        survivor.finish()


def test_another_log_is_not_acknowledged(start_broker, driver, tmp_path):
    """Work in hand while the broker comes back with a new epoch: its answer is void, and nothing of the new log is marked."""
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    old = start_broker(listen=f"127.0.0.1:{port}")
    driver.ok("open", url=old.ws_url, **QUICK)
    driver.ok("consume", name="w", patterns=PATTERNS, verdicts="l")
    seq, gone = publish(old, 2)
    driver.wait("work", 2)
    old.kill()
    new = start_broker(listen=f"127.0.0.1:{port}", db=tmp_path / "new.db")
    wait_for(lambda: new.get("/v1/consumers/w").status == 200, what="the consumer, made anew")
    (other,) = publish(new, 1)
    driver.wait("work", 3)
    assert seq == other, "the same seq, another event"
    driver.ok("work_ack", name="w", seq=gone, delivery=1)
    assert driver.wait("answered", seq=gone)[0]["rc"] == RESULTS["disconnected"]
    driver.ok("work_ack", name="w", seq=other, delivery=1)
    assert driver.wait("answered", seq=other)[0]["rc"] == 0
    settled(new)
