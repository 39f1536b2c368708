"""libeventbus against a real broker, in fair weather: what each function promises."""
import json
import time

import pytest

from lib.broker import wait_for
from lib.driver import RESULTS, SANITIZED, Driver
from lib.fake_broker import FakeBroker


@pytest.fixture(params=["any", "json"])
def driver(request):
    """With a broker of today: the binary protocol, and JSON."""
    driver = Driver(EBC_PROTOCOL=request.param)
    yield driver
    driver.finish()


@pytest.fixture
def client(broker, driver):
    driver.ok("open", url=broker.ws_url, connect_now=1)
    return driver


def numbers(events):
    return [int(bytes.fromhex(event["payload"])) for event in events]


# ---- life ----


@pytest.mark.parametrize(
    "options, word",
    [
        (dict(url="http://127.0.0.1:1/ws"), "ws://"), (dict(url=None), "url"), (dict(url="ws://h", token="a b"), "token"),
        (dict(url="ws://h", connect_timeout=0), "connect_timeout"), (dict(url="ws://h", max_retries=-2), "max_retries"),
        (dict(url="ws://h", reconnect_interval=10, reconnect_interval_max=5), "reconnect_interval_max"),
        (dict(url="ws://h", max_pending=0), "max_pending"), (dict(url="ws://h", dedupe_window=0), "dedupe_window"),
    ],
)  # fmt: skip
def test_bad_options_are_refused_with_a_reason(driver, options, word):
    line = driver.open(**options)
    assert line["rc"] == RESULTS["invalid"] and word in line["err"]


def test_it_connects_on_first_use(broker, driver):
    driver.ok("open", url=broker.ws_url)
    assert driver.states() == []
    assert driver.ok("publish_wait", topic="a", payload="x", timeout=10000)["seq"] == 1
    wait_for(lambda: driver.states() == ["connecting", "connected"], what="the states are told")
    driver.ok("close")
    assert driver.states() == ["connecting", "connected", "closed"]


def test_a_client_that_never_did_anything_closes_at_once(driver):
    driver.ok("open", url="ws://127.0.0.1:1/ws")
    driver.ok("flush", timeout=0)
    driver.ok("close", timeout=0)
    assert driver.states() == ["closed"]


# ---- publish ----


def test_an_event_keeps_all_it_has(client, broker):
    client.ok("subscribe", name="s", pattern="#")
    receipt = client.ok("publish_wait", topic="user.created", payload_hex="00ff10", content_type="application/x", ttl=60,
                        headers={"traceparent": "00-ä", "k": "v\n"})  # fmt: skip
    (event,) = client.wait("event")
    assert (event["seq"], event["message_id"], event["topic"]) == (receipt["seq"], receipt["message_id"], "user.created")
    assert (event["payload"], event["content_type"], event["ttl"]) == ("00ff10", "application/x", 60)
    assert json.loads(event["headers"]) == {"traceparent": "00-ä", "k": "v\n"}
    assert abs(event["timestamp"] - time.time() * 1000) < 60000


@pytest.mark.parametrize("payload", ["", "text", "ä \u0001 \" \\ \n", "x" * 100000])
def test_text_payloads_arrive_as_they_were(client, payload):
    client.ok("subscribe", name="s", pattern="#")
    client.ok("publish_wait", topic="a", payload=payload)
    (event,) = client.wait("event")
    assert bytes.fromhex(event["payload"]).decode() == payload


def test_a_repeat_under_the_same_id_is_a_success(client):
    first = client.ok("publish_wait", topic="a", payload="1", message_id="order-7")
    again = client.ok("publish_wait", topic="a", payload="1", message_id="order-7")
    assert (again["seq"], again["message_id"], again["duplicate"]) == (first["seq"], first["message_id"], True)
    assert not first["duplicate"] and len(first["message_id"]) == 36, "the receipt has the broker's id"
    assert client.publish_wait(topic="a", payload="2", message_id="order-7")["rc"] == RESULTS["id_reused"]
    assert "order-7" in client.last_error()["error"] or client.last_error()["error"]


@pytest.mark.parametrize(
    "event, result",
    [
        (dict(topic="a..b"), "invalid"), (dict(topic="a.*"), "invalid"), (dict(topic=""), "invalid"), (dict(topic=None), "invalid"),
        (dict(topic="$sys.x"), "forbidden"), (dict(topic="a", message_id=""), "invalid"), (dict(topic="a", ttl=-7), "invalid"),
        (dict(topic="a", payload_size=2_000_000), "too_large"), (dict(topic="a", message_id="x" * 256), "invalid"),
    ],
)  # fmt: skip
def test_a_refusal_is_said_and_harms_nobody(client, event, result):
    assert client.publish_wait(**event)["rc"] == RESULTS[result]
    assert client.last_error()["error"]
    assert client.ok("publish_wait", topic="a", payload="after")["seq"] == 1


def test_a_message_beyond_what_the_broker_reads_is_too_large_and_not_sent_for_ever(client):
    """It ends the connection (1009); what was sent beside it is sent again and stored."""
    client.ok("publish", topic="a", payload="before", tag="before")
    client.ok("publish", topic="a", payload_size=9_000_000, tag="big")
    client.ok("publish", topic="a", payload="behind", tag="behind")
    client.ok("flush", timeout=30000)
    assert {line["tag"]: line["rc"] for line in client.wait("done", 3)} == {"before": 0, "big": RESULTS["too_large"], "behind": 0}


def test_completions_come_once_each_and_flush_waits_for_them(client):
    client.ok("flood", topic="a", count=5000)
    client.ok("flush", timeout=30000)
    done = client.of("done")
    assert [line["tag"] for line in done] == [str(i) for i in range(5000)]
    assert [line["receipts"][0]["seq"] for line in done] == list(range(1, 5001))
    assert client.pending()["pending"] == 0


def test_a_batch_is_all_or_nothing(client, broker):
    assert client.ok("batch", events=[{"topic": "b", "payload": str(i)} for i in range(3)])["seqs"] == [1, 2, 3]
    bad = client.batch(events=[{"topic": "b", "payload": "x"}, {"topic": "$no", "payload": "y"}])
    assert bad["rc"] == RESULTS["forbidden"]
    assert client.ok("batch", events=[])["seqs"] == []
    assert len(broker.events()) == 3


# ---- subscribe ----


def test_replay_then_live(client):
    client.ok("flood", topic="a.b", count=100)
    client.ok("flush")
    client.ok("subscribe", name="s", pattern="a.*", start=0)
    client.ok("flood", topic="a.b", count=100, **{"from": 100})
    assert numbers(client.wait("event", 200)) == list(range(200))
    assert len(client.wait("live")) == 1


def test_each_subscription_gets_an_event_once(client):
    """Live and replaying ones side by side, with patterns that overlap."""
    client.ok("flood", topic="a.b", count=50)
    client.ok("subscribe", name="live", pattern="a.b", timeout=10000)
    client.ok("subscribe", name="all", pattern="a.#", start=0)
    client.ok("flood", topic="a.b", count=50, **{"from": 50})
    client.ok("subscribe", name="late", pattern="*.b", start=10)
    client.ok("flood", topic="a.b", count=50, **{"from": 100})
    client.ok("publish_wait", topic="a.c", payload="999")
    client.ok("flush")
    assert numbers(client.wait("event", 151, sub="all")) == [*range(150), 999]
    assert numbers(client.wait("event", 100, sub="live")) == list(range(50, 150))
    assert numbers(client.wait("event", 141, sub="late")) == list(range(9, 150))


def test_a_subscription_counts_from_where_its_caller_stood(client):
    """subscribe without waiting goes behind the publishes handed over before it."""
    client.ok("flood", topic="a", count=500)
    client.ok("subscribe", name="s", pattern="a", timeout=0)
    client.ok("flood", topic="a", count=10, **{"from": 500})
    assert numbers(client.wait("event", 10)) == list(range(500, 510))


def test_pulling(client):
    client.ok("subscribe", name="p", pattern="#", pull=1)
    assert client.next(name="p", timeout=0)["rc"] == 0
    assert client.next(name="p", timeout=20)["rc"] == 0
    client.ok("fd", name="p")
    client.ok("flood", topic="a", count=5)
    got = [client.next(name="p") for _ in range(5)]
    assert [line["rc"] for line in got] == [1] * 5 and numbers(got) == list(range(5))
    position = client.position(name="p")
    assert position["seq"] == 5 and len(position["epoch"]) == 36
    assert client.next(name="p", timeout=0)["rc"] == 0
    client.ok("end", name="p")


def test_pulling_and_waiting_for_answers_beside_a_full_queue(client):
    """The loop of every consumer: next, work, acknowledge and wait. A full queue must not hold up the answers."""
    client.ok("flood", topic="a", count=3000, tagged=0)
    client.ok("flush")
    client.ok("subscribe", name="p", pattern="a", start=0, pull=1, max_queued=16)
    for i in range(300):
        assert numbers([client.next(name="p")]) == [i]
        assert client.ok("ack", seq=i + 1, timeout=10000)
    for i in range(300, 3000):
        assert numbers([client.next(name="p")]) == [i]


@pytest.mark.parametrize("pull", [0, 1])
def test_a_pattern_twice_or_wrong_is_invalid(client, pull):
    client.ok("subscribe", name="a", pattern="x.*", pull=pull)
    assert client.subscribe(name="b", pattern="x.*", pull=pull)["rc"] == RESULTS["invalid"]
    assert client.subscribe(name="b", pattern="a*", pull=pull)["rc"] == RESULTS["invalid"]
    assert client.subscribe(name="b", pattern="x", epoch="no", pull=pull)["rc"] == RESULTS["invalid"]


def test_the_broker_refuses_a_subscription(start_broker, driver):
    broker = start_broker("--max-subscriptions", 1)
    driver.ok("open", url=broker.ws_url)
    driver.ok("subscribe", name="a", pattern="a")
    assert driver.subscribe(name="b", pattern="b")["rc"] == RESULTS["limit"]
    driver.ok("subscribe", name="c", pattern="c", timeout=0)
    (line,) = driver.wait("failed")
    assert line["sub"] == "c" and line["rc"] == RESULTS["limit"] and line["why"]
    driver.ok("end", name="a")
    driver.ok("subscribe", name="b", pattern="b")


def test_an_ended_subscription_is_silent(client):
    client.ok("subscribe", name="s", pattern="a", delay_us=500)
    client.ok("flood", topic="a", count=200, tagged=0)
    client.wait("event", 5)
    client.ok("end", name="s")
    seen = len(client.of("event"))
    client.ok("publish_wait", topic="a", payload="x")
    client.ok("subscribe", name="again", pattern="a")
    client.ok("publish_wait", topic="a", payload="7")
    assert numbers(client.wait("event", sub="again")) == [7]
    assert len(client.of("event", sub="s")) == seen


def test_a_subscription_ends_itself_in_its_callback(client):
    client.ok("subscribe", name="s", pattern="a", end_after=3)
    client.ok("flood", topic="a", count=50, tagged=0)
    assert client.wait("ended")[0]["rc"] == 0
    client.ok("flush")
    client.ok("subscribe", name="t", pattern="a")
    client.ok("publish_wait", topic="a", payload="7")
    client.wait("event", sub="t")
    assert len(client.of("event", sub="s")) == 3


def test_what_waits_is_refused_in_a_callback(client):
    client.ok("subscribe", name="s", pattern="a", republish=1)
    client.ok("publish_wait", topic="a", payload="x")
    (line,) = client.wait("echo")
    would_deadlock = RESULTS["would_deadlock"]
    assert (line["rc"], line["wait_rc"], line["close_rc"], line["flush_rc"]) == (0, would_deadlock, would_deadlock, would_deadlock)
    client.ok("flush")


def test_acknowledge(client, broker):
    client.ok("flood", topic="a", count=3)
    client.ok("flush")
    assert client.ack(seq=2)["rc"] == 0
    assert client.ack(seq=2)["rc"] == 0
    assert client.ack(seq=99)["rc"] == RESULTS["not_found"]
    assert client.ack(seq=0)["rc"] == RESULTS["invalid"]
    client.ok("subscribe", name="s", pattern="a", start=0, pending_only=1)
    client.wait("live")
    assert [event["seq"] for event in client.wait("event", 2)] == [1, 3]


def test_acks_given_without_waiting_are_not_lost_by_close(client, broker, driver):
    client.ok("flood", topic="a", count=500, tagged=0)
    client.ok("flush")
    client.ok("subscribe", name="s", pattern="a", start=0, ack=1)
    client.wait("event", 500)
    client.ok("close")
    other = Driver()
    try:
        other.ok("open", url=broker.ws_url)
        other.ok("subscribe", name="s", pattern="a", start=0, pending_only=1)
        other.wait("live")
        assert other.of("event") == []
    finally:
        other.finish()


# ---- slow ones ----


def test_a_slow_subscription_holds_up_nobody_and_misses_nothing(client):
    """max_queued 8 and 1 ms an event, beside publishes with answers and a fast subscription."""
    client.ok("subscribe", name="slow", pattern="a", max_queued=8, delay_us=1000)
    client.ok("subscribe", name="fast", pattern="#", pull=1)
    client.ok("flood", topic="a", count=1500, tagged=0)
    client.ok("flush", timeout=30000)
    for i in range(1500):
        assert numbers([client.next(name="fast")]) == [i]
    assert numbers(client.wait("event", 1500, sub="slow")) == list(range(1500))


def test_a_replay_into_a_small_queue_is_not_asked_for_again_and_again(broker, client):
    """Binary events come many in a message: what has no room waits here, a queue is not parked for it each time."""
    for i in range(10):
        client.ok("flood", topic="a", count=200, tagged=0, **{"from": 200 * i})
    client.ok("flush", timeout=30000)
    client.ok("subscribe", name="s", pattern="a", start=0, max_queued=64, delay_us=100)
    assert numbers(client.wait("event", 2000, sub="s")) == list(range(2000))
    assert broker.metric("eventbus_replays_total") < 5


def test_the_memory_of_a_queue_is_bounded(client):
    """15 MB wait at the broker for one who does not pull: no more than a part of it comes here."""
    client.ok("subscribe", name="p", pattern="a", pull=1, max_queued_bytes=1 << 20)
    before = client.rss()["kib"]
    for _ in range(30):
        client.ok("publish_wait", topic="a", payload_size=500_000, timeout=30000)
    grown = client.rss()["kib"] - before
    assert SANITIZED or grown < 10 * 1024, f"{grown} KiB"
    assert [client.next(name="p")["seq"] for _ in range(30)] == list(range(1, 31))


def test_drain_ends_publishing_and_hands_over(client):
    client.ok("subscribe", name="s", pattern="a", delay_us=500)
    client.ok("flood", topic="a", count=100, tagged=0)
    client.ok("flush")
    client.wait("event", 1)
    client.ok("drain", timeout=30000)
    assert client.publish_wait(topic="a", payload="x")["rc"] == RESULTS["closed"]
    assert client.subscribe(name="t", pattern="b")["rc"] == RESULTS["closed"]
    seen = len(client.of("event"))
    client.ok("close")
    assert len(client.of("event")) == seen


def test_two_clients_see_each_other(client, broker):
    client.ok("subscribe", name="s", pattern="chat.*")
    other = Driver()
    try:
        other.ok("open", url=broker.ws_url)
        other.ok("publish_wait", topic="chat.a", payload="1")
    finally:
        other.finish()
    assert numbers(wait_for(lambda: client.of("event"))) == [1]


# ---- the protocol ----


@pytest.mark.parametrize("asked, spoken", [("any", "eventbus.bin.v1"), ("binary", "eventbus.bin.v1"), ("json", "eventbus.json.v1")])
def test_binary_is_spoken_unless_json_is_asked_for(broker, driver, asked, spoken):
    driver.ok("open", url=broker.ws_url, connect_now=1, protocol=asked)
    [row] = broker.get("/v1/connections").json["connections"]
    assert row["protocol"] == spoken


def test_a_broker_without_the_one_protocol_that_is_asked_for_is_none(driver):
    """Only binary was wanted, and an older broker has it not."""
    fake = FakeBroker()
    try:
        driver.ok("open", url=fake.url, protocol="binary", max_retries=0)
        driver.publish(topic="a", payload="x")
        driver.wait("state", state="failed")
    finally:
        fake.finish()


def test_publishes_that_wait_share_messages(broker, driver):
    """Far fewer messages than requests, each answered and stored once, in order."""
    driver.ok("open", url=broker.ws_url, connect_now=1, protocol="binary")
    driver.ok("flood", topic="load", count=20000)
    driver.ok("flush", timeout=60000)
    assert broker.metric("eventbus_websocket_records_received_total") == 20000
    assert broker.metric("eventbus_websocket_messages_received_total") < 10000
    done = driver.wait("done", 20000)
    assert [line["receipts"][0]["seq"] for line in sorted(done, key=lambda line: int(line["tag"]))] == list(range(1, 20001))


def test_sharing_ends_where_the_broker_reads_small_messages_only(start_broker, driver):
    """What was joined is too large for it, though no publish is: none is refused for it, and one that is too large is."""
    broker = start_broker("--max-payload", "500", "--max-message", "900")
    driver.ok("open", url=broker.ws_url, connect_now=1, protocol="binary", reconnect_interval=2, reconnect_interval_max=10)
    driver.ok("flood", topic="load", count=500)
    driver.ok("publish", topic="load", payload_size=850, tag="big")
    driver.ok("flush", timeout=60000)
    done = {line["tag"]: line["rc"] for line in driver.wait("done", 501)}
    assert done.pop("big") == RESULTS["too_large"]
    assert set(done.values()) == {0} and len(done) == 500
    assert len(broker.events("load")) == 500
