"""The newest event of each topic: asked for by name, and as the beginning of a WebSocket's or an SSE subscription."""
import threading

import pytest

from lib.broker import wait_for
from lib.sse import Sse
from lib.ws import WebSocket
from lib.ws_bin import BinaryWebSocket


def fill(broker):
    """Newest: s.b 3, s.a 4, s.c 6."""
    for topic in ("s.c", "s.a", "s.b", "s.a", "other", "s.c"):
        broker.publish(topic, topic.encode())


@pytest.mark.parametrize("protocol", [WebSocket, BinaryWebSocket])
def test_live_notice_ends_the_list_and_events_stand_beside_their_pattern(broker, protocol):
    fill(broker)
    with protocol(broker.port) as ws:
        assert ws.subscribe("s.*", last=True)["last_seq"] == 6
        assert [(m["type"], m["pattern"], m["seq"]) for m in [ws.recv() for _ in range(4)]] == [("event", "s.*", 3), ("event", "s.*", 4), ("event", "s.*", 6), ("live", "s.*", 6)]
        broker.publish("s.a")
        event = ws.recv()
        assert event["seq"] == 7 and "pattern" not in event


def test_the_same_pattern_with_last_again_starts_afresh(broker):
    fill(broker)
    with WebSocket(broker.port) as ws:
        ws.subscribe("s.*")
        for _ in range(2):
            ws.subscribe("s.*", last=True)
            assert [ws.recv()["seq"] for _ in range(4)] == [3, 4, 6, 6]


def test_sse_begins_with_the_newest_and_goes_on_from_last_event_id(broker):
    fill(broker)
    with Sse(broker.port, "pattern=s.*&pattern=other&last=true") as sse:
        assert [sse.next().json["seq"] for _ in range(4)] == [3, 4, 5, 6]
        assert sse.next().event == "live"
        broker.publish("s.a")
        assert sse.next().json["seq"] == 7
    broker.publish("s.a")
    broker.publish("s.a")
    # What a browser sends when it comes again: the same URL and where it was. That wins.
    with Sse(broker.port, "pattern=s.*&pattern=other&last=true", headers=[("Last-Event-ID", "7")]) as sse:
        assert [sse.next().json["seq"] for _ in range(2)] == [8, 9]


@pytest.mark.parametrize("query", ["last=yes", "last=", "last=1", "last=true&starting_seq=1"])
def test_sse_refuses_what_does_not_go_together(broker, query):
    answer = broker.get(f"/v1/stream?pattern=s.*&{query}")
    assert (answer.status, answer.json["code"]) == (400, "invalid_request")


def test_last_goes_without_starting_seq_and_pending_only(broker):
    with WebSocket(broker.port) as ws:
        for more in ({"starting_seq": 0}, {"pending_only": True}):
            answer = ws.call(type="subscribe", pattern="s.*", last=True, **more)
            assert (answer["type"], answer["code"]) == ("error", "invalid_request") and "last" in answer["message"]


def test_a_topic_is_one_encoded_segment(broker):
    broker.publish("a%2Fb.%C3%A9", b"x")
    assert broker.get("/v1/topics/a%2Fb.%C3%A9/last").json["topic"] == "a/b.é"
    assert broker.get("/v1/topics/" + "x" * 800 + "/last").status == 400


def test_thousands_of_topics_under_a_busy_publisher_no_gap_and_no_repeat(broker):
    """The list takes many pages while its topics are written to: the newest up to the `ok`, then all above it."""
    topics = [f"t.{n}" for n in range(3000)]
    with WebSocket(broker.port) as ws:
        for at in range(0, len(topics), 1000):
            ws.call(type="publish_batch", messages=[{"topic": topic, "payload": ""} for topic in topics[at : at + 1000]])
    stop = threading.Event()

    def publish():
        with WebSocket(broker.port) as ws:
            n = 0
            while not stop.is_set():
                ws.call(type="publish_batch", messages=[{"topic": topics[(n + i) * 7 % 3000], "payload": ""} for i in range(20)])
                n += 20

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        with WebSocket(broker.port) as ws:
            last = ws.subscribe("t.*", last=True)["last_seq"]
            got = [ws.event() for _ in range(4000)]
    finally:
        stop.set()
        thread.join()
    old, new = [e for e in got if e["seq"] <= last], [e["seq"] for e in got if e["seq"] > last]
    assert new == list(range(last + 1, last + 1 + len(new)))
    assert sorted(e["topic"] for e in old) == sorted(topics)
    assert [e["seq"] for e in old] == sorted(e["seq"] for e in old)
    newest = {e["topic"]: e["seq"] for e in broker.events("t.*") if e["seq"] <= last}
    assert {e["topic"]: e["seq"] for e in old} == newest


def test_an_event_that_expires_while_it_waits_in_the_list_is_passed_over(broker):
    broker.publish("s.a", b"", Event_TTL="1")
    broker.publish("s.b")
    wait_for(lambda: broker.get("/v1/topics/s.a/last").status == 404, what="the end of its ttl")
    with WebSocket(broker.port) as ws:
        ws.subscribe("s.*", last=True)
        assert ws.event()["topic"] == "s.b"
