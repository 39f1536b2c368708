"""Last value: over HTTP, and as the beginning of a subscription."""
import pytest

from lib.broker import wait_for
from lib.consumer import publish_many, seqs
from lib.ws import WebSocket


def test_the_newest_event_of_a_topic_is_given_acknowledged_or_not(broker):
    for n in range(3):
        broker.publish("state.a", str(n).encode())
    broker.publish("state.b", b"other", Event_Header_Colour="red", Event_TTL="3600")
    answer = broker.get("/v1/topics/state.a/last")
    assert answer.status == 200 and answer.json == broker.get("/v1/events/3").json
    assert broker.get("/v1/topics/state.b/last").json == broker.get("/v1/events/4").json
    with WebSocket(broker.port) as ws:
        ws.call(type="ack", seq=3)
    assert broker.get("/v1/topics/state.a/last").json["seq"] == 3


@pytest.mark.parametrize("topic", ["nothing.here", "state", "state.a.b"])
def test_a_topic_without_events_is_404(broker, topic):
    broker.publish("state.a", b"x")
    answer = broker.get(f"/v1/topics/{topic}/last")
    assert (answer.status, answer.json["code"]) == (404, "not_found")


def test_a_topic_that_is_none_is_400(broker):
    for topic in ("a..b", "a.*", "%00"):
        answer = broker.get(f"/v1/topics/{topic}/last")
        assert answer.status == 400, answer


def test_it_passes_over_what_has_expired(broker):
    broker.publish("state.a", b"kept")
    broker.publish("state.a", b"short", Event_TTL="1")
    assert broker.get("/v1/topics/state.a/last").json["payload"] == "short"
    wait_for(lambda: broker.get("/v1/topics/state.a/last").json["payload"] == "kept", what="the older one")
    broker.publish("state.b", b"short", Event_TTL="1")
    wait_for(lambda: broker.get("/v1/topics/state.b/last").status == 404)


def test_it_survives_kills_and_retention(start_broker):
    broker = start_broker("--retention-events", "10")
    broker.publish("state.a", b"x")
    publish_many(broker, "state.b", 10)
    wait_for(lambda: broker.get("/v1/topics/state.a/last").status == 404, what="retention")
    broker.kill()
    broker.start()
    assert broker.get("/v1/topics/state.b/last").json["payload"] == "9"


@pytest.mark.parametrize("storage", ["sqlite", "memory"])
def test_subscribe_with_last_gives_the_newest_of_each_matching_topic_in_seq_order_then_live(start_broker, storage):
    broker = start_broker("--storage", storage, **({} if storage == "sqlite" else {"db": None}))
    for topic in ("s.c", "s.a", "s.b", "s.a", "other", "s.c", "s.x.y"):
        broker.publish(topic, b"x")
    with WebSocket(broker.port) as ws:
        assert ws.subscribe("s.*", last=True)["last_seq"] == 7
        got = [ws.recv() for _ in range(3)]
        assert [(e["type"], e["topic"], e["seq"]) for e in got] == [("event", "s.b", 3), ("event", "s.a", 4), ("event", "s.c", 6)]
        broker.publish("s.a", b"live")
        event = ws.event()
        assert (event["seq"], event["payload"]) == (8, "live")


def test_there_is_no_gap_and_no_repeat_at_its_seam(broker):
    """While one publishes to few topics, subscribers come: the newest at that moment, then each later one, once."""
    import threading

    stop = threading.Event()

    def publish():
        n = 0
        while not stop.is_set():
            broker.publish(f"s.{n % 5}", b"x")
            n += 1

    thread = threading.Thread(target=publish)
    thread.start()
    try:
        for _ in range(20):
            with WebSocket(broker.port) as ws:
                last_seq = ws.subscribe("s.*", last=True)["last_seq"]
                got = [ws.event()["seq"] for _ in range(20)]
                replayed = [seq for seq in got if seq <= last_seq]
                assert len(replayed) == min(5, last_seq) and replayed == sorted(replayed), (last_seq, got)
                assert replayed == list(range(last_seq - len(replayed) + 1, last_seq + 1)), (last_seq, got)
                live = [seq for seq in got if seq > last_seq]
                assert live == list(range(last_seq + 1, last_seq + 1 + len(live))), (last_seq, got)
    finally:
        stop.set()
        thread.join()


def test_last_that_is_not_for_it(broker):
    with WebSocket(broker.port) as ws:
        for more in ({"last": True, "starting_seq": 1}, {"last": "yes"}, {"last": 1}):
            answer = ws.call(type="subscribe", pattern="s.*", **more)
            assert (answer["type"], answer["code"]) == ("error", "invalid_request"), answer
        assert ws.call(type="subscribe", pattern="s.*", last=False)["type"] == "ok"
        assert ws.call(type="subscribe", pattern="s.*", last=None)["type"] == "ok"


def test_with_nothing_there_it_is_live_at_once(broker):
    with WebSocket(broker.port) as ws:
        ws.subscribe("s.*", last=True)
        assert seqs([broker.publish("s.a", b"x")]) == [ws.event()["seq"]]


def test_one_of_many_topics_is_found_without_reading_the_log(broker):
    """100 topics, one of them old: rows read for it do not grow with what came behind."""
    broker.publish("old.a", b"x")
    for _ in range(3):
        publish_many(broker, "noise", 10000)
    before = broker.metric("eventbus_rows_read_total")
    assert broker.get("/v1/topics/old.a/last").json["seq"] == 1
    with WebSocket(broker.port) as ws:
        ws.subscribe("old.*", last=True)
        assert ws.event()["seq"] == 1
    assert broker.metric("eventbus_rows_read_total") - before < 2000
