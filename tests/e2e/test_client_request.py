"""eb_request and eb_reply, publishes that are due later, publishes under a condition: the client's side (PROTOCOL 8), against a
broker that does what it is told."""

import pytest

from lib.driver import RESULTS, Driver
from lib.fake_broker import FakeBroker

QUICK = dict(reconnect_interval=5, reconnect_interval_max=50)


@pytest.fixture
def driver():
    driver = Driver()
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


def replying(fake, replies):
    """A broker that answers each publish with replies(its headers) -> [(topic, correlation id, payload)], sent by hand."""
    broker = fake()

    async def answer(request, send, connection):
        await broker.be_good(request, send, connection)
        if request["type"] != "publish":
            return
        for n, (topic, correlation, payload) in enumerate(replies(request["data"]["headers"])):
            broker.seq += 1
            event = broker.event(broker.seq, topic, payload)
            event["metadata"] = {"timestamp": 1, "content_type": "x/reply", "headers": {"correlation_id": correlation}}
            await send(event)

    broker.answer = answer
    return broker


def test_a_request_gets_its_reply(fake, driver):
    """The right one of several: told by its correlation id; what is not for us is dropped."""
    broker = replying(fake, lambda h: [(h["reply_to"], "other", "no"), (h["reply_to"], h["correlation_id"], "yes"), (h["reply_to"], h["correlation_id"], "late")])
    driver.ok("open", url=broker.url)
    for _ in range(3):
        reply = driver.ok("request", topic="ask", payload="?", headers={"a": "b"})
        assert (bytes.fromhex(reply["payload"]), reply["content_type"]) == (b"yes", "x/reply")
    subscribes = [r for r in broker.requests if r["type"] == "subscribe"]
    assert len(subscribes) == 1 and subscribes[0]["pattern"].startswith("_reply."), "one subscription a client"
    publishes = [r["data"]["headers"] for r in broker.requests if r["type"] == "publish"]
    assert {h["reply_to"] for h in publishes} == {subscribes[0]["pattern"]} and {h["a"] for h in publishes} == {"b"}
    assert len({h["correlation_id"] for h in publishes}) == 3
    assert [r["type"] for r in broker.requests][:2] == ["subscribe", "publish"], "it listens before it asks"


def test_nobody_answers(fake, driver):
    broker = fake()
    driver.ok("open", url=broker.url)
    assert driver.request(topic="ask", payload="?", timeout=50)["rc"] == RESULTS["timeout"]


def test_a_refused_question_ends_at_once(fake, driver):
    async def answer(request, send, connection):
        if request["type"] == "publish":
            return await send({"type": "error", "id": request["id"], "code": "payload_too_large", "message": "large"})
        await broker.be_good(request, send, connection)

    broker = fake(answer)
    driver.ok("open", url=broker.url)
    assert driver.request(topic="ask", payload="?", timeout=20000)["rc"] == RESULTS["too_large"]


def test_a_refused_subscription_ends_it_and_the_next_tries_anew(fake, driver):
    async def answer(request, send, connection):
        if request["type"] == "subscribe":
            return await send({"type": "error", "id": request["id"], "code": "limit_exceeded", "message": "too many"})
        await broker.be_good(request, send, connection)

    broker = fake(answer)
    driver.ok("open", url=broker.url)
    for _ in range(2):
        assert driver.request(topic="ask", payload="?", timeout=20000)["rc"] == RESULTS["limit"]
    assert len([r for r in broker.requests if r["type"] == "subscribe"]) == 2


def test_a_reply_that_came_while_the_connection_was_lost_is_heard(fake, driver):
    """It is asked for again from behind the last event, as any subscription."""
    broker = fake()
    asked = {}

    async def answer(request, send, connection):
        if request["type"] == "publish" and not asked:
            asked.update(request["data"]["headers"])
            await broker.be_good(request, send, connection)
            return connection.transport.abort()
        await broker.be_good(request, send, connection)
        if request["type"] == "subscribe" and request.get("starting_seq") is not None:
            event = broker.event(9, asked["reply_to"], "pong", pattern=request["pattern"])
            event["metadata"]["headers"] = {"correlation_id": asked["correlation_id"]}
            await send(event)

    broker.answer = answer
    driver.ok("open", url=broker.url, **QUICK)
    assert bytes.fromhex(driver.ok("request", topic="ask", payload="?", timeout=20000)["payload"]) == b"pong"


def test_its_own_headers_are_the_librarys(fake, driver):
    driver.ok("open", url=fake().url)
    assert driver.request(topic="ask", payload="?", headers={"reply_to": "x"})["rc"] == RESULTS["invalid"]
    assert "reply_to" in driver.last_error()["error"]


@pytest.mark.parametrize("protocol", ["json", "binary"])
def test_request_and_reply_between_two_clients(broker, driver, protocol):
    """With a real broker: the answering side knows nothing but the event."""
    other = Driver()
    try:
        other.ok("open", url=broker.ws_url, protocol=protocol)
        other.ok("subscribe", name="s", pattern="ask.*", reply=1)
        driver.ok("open", url=broker.ws_url, protocol=protocol)
        for _ in range(5):
            reply = driver.ok("request", topic="ask.x", payload="ping")
            assert (bytes.fromhex(reply["payload"]), reply["content_type"]) == (b"pong", "x/pong")
            assert reply["topic"].startswith("_reply.")
        assert {line["rc"] for line in other.of("replied")} == {0}
    finally:
        other.finish()


def test_a_reply_to_no_request_is_refused(broker, driver):
    """No header, or one that would send the reply to any topic."""
    driver.ok("open", url=broker.ws_url)
    driver.ok("subscribe", name="s", pattern="ask", reply=1)
    driver.ok("publish", topic="ask", payload="x")
    driver.ok("publish", topic="ask", payload="x", headers={"reply_to": "orders.paid"})
    assert [line["rc"] for line in driver.wait("replied", 2)] == [RESULTS["invalid"]] * 2


# ---- later, and under a condition ----


@pytest.fixture
def asked(fake):
    """A broker that schedules and knows last seqs."""

    async def answer(request, send, connection):
        data = request.get("data", {})
        if data.get("expected_last_seq", 0) != 0:
            return await send({"type": "error", "id": request["id"], "code": "conflict", "message": "the topic's last seq is 0"})
        if "deliver_at" in data or "delay" in data:
            return await send({"type": "ok", "id": request["id"], "message_id": data["message_id"], "scheduled": True})
        if request["type"] == "publish_batch":
            results = [{"scheduled": True, "message_id": m["message_id"]} for m in request["messages"]]
            return await send({"type": "ok", "id": request["id"], "results": results})
        await broker.be_good(request, send, connection)

    broker = fake(answer)
    return broker


def test_a_publish_may_be_due_later(asked, driver):
    driver.ok("open", url=asked.url)
    receipt = driver.ok("publish_wait", topic="a", payload="x", deliver_at_ms=1700000000123)
    assert (receipt["scheduled"], receipt["seq"]) == (True, 0)
    driver.ok("publish_wait", topic="a", payload="\n", delay_ms=1500, ttl=9)
    one, two = [r["data"] for r in asked.requests]
    assert one["deliver_at"] == 1700000000123 and "delay" not in one
    assert (two["delay"], two["ttl"], two["payload"]) == (1.5, 9, "\n")
    assert driver.ok("publish_wait", topic="a", payload="x")["scheduled"] is False


def test_a_publish_may_have_a_condition(asked, driver):
    driver.ok("open", url=asked.url)
    driver.ok("publish_wait", topic="a", payload="x", expected_last_seq=0)
    assert driver.publish_wait(topic="a", payload="x", expected_last_seq=7)["rc"] == RESULTS["conflict"]
    assert [r["data"]["expected_last_seq"] for r in asked.requests] == [0, 7]
    assert "last seq" in driver.last_error()["error"]


def test_a_batch_may_hold_both(asked, driver):
    driver.ok("open", url=asked.url)
    driver.ok("batch", events=[{"topic": "a", "payload": "1", "delay_ms": 10}, {"topic": "b", "payload": "2"}])
    one, two = asked.requests[0]["messages"]
    assert one["delay"] == 0.01 and "delay" not in two and two["payload"] == "2"


@pytest.mark.parametrize("event", [{"delay_ms": -1}, {"deliver_at_ms": -1}, {"delay_ms": 1, "deliver_at_ms": 1}, {"expected_last_seq": 1 << 53}])
def test_what_cannot_be_asked_is_refused(asked, driver, event):
    driver.ok("open", url=asked.url)
    assert driver.publish_wait(topic="a", payload="x", **event)["rc"] == RESULTS["invalid"]
    assert asked.requests == []


@pytest.mark.parametrize("protocol", ["json", "binary"])
def test_the_broker_does_what_is_asked_of_it(broker, driver, protocol):
    """The same against the real one: later, under a condition, both in a batch."""
    driver.ok("open", url=broker.ws_url, protocol=protocol)
    assert driver.ok("publish_wait", topic="a", payload="now", expected_last_seq=0)["scheduled"] is False
    assert driver.publish_wait(topic="a", payload="no", expected_last_seq=0)["rc"] == RESULTS["conflict"]
    assert driver.ok("publish_wait", topic="a", payload="later", delay_ms=3600000)["scheduled"] is True
    driver.ok("batch", events=[{"topic": "b", "payload": "later", "delay_ms": 3600000}, {"topic": "b", "payload": "now"}])
    assert [e["payload"] for e in broker.get("/v1/scheduled").json["scheduled"]] == ["later", "later"]
    assert [(e["topic"], e["payload"]) for e in broker.events()] == [("a", "now"), ("b", "now")]
