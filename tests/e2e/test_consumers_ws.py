"""Durable consumers over a WebSocket (docs/protocol.md, "Consumers"): consume, settle, release; what a slow worker, a
vanished one, a deleted consumer and the broker's end look like. test_consumers_binary.py runs the same over records."""
import json
import time

import pytest

from lib.broker import wait_for
from lib.ws import Closed, WebSocket


@pytest.fixture
def broker(start_broker):
    return start_broker("--storage", "memory", db=None)


@pytest.fixture
def connect(broker):
    """connect(broker=broker, **options) -> WebSocket; all are closed with the test."""
    opened = []

    def connect(to=broker, **options):
        opened.append(WebSocket(to.port, **options))
        return opened[-1]

    yield connect
    for ws in opened:
        ws.__exit__()


SETTINGS = {"patterns": ["job.*"], "from": "all"}


def make(broker, name="c", **settings):
    answer = broker.request("PUT", f"/v1/consumers/{name}", json.dumps({**SETTINGS, **settings}))
    assert answer.status in (200, 201), answer


def state(broker, name="c"):
    return broker.get(f"/v1/consumers/{name}").json


def consume(ws, name="c", **more):
    answer = ws.call(type="consume", consumer=name, **more)
    assert answer["type"] == "ok", answer
    return answer


def settle(ws, verb, name="c", **more):
    answer = ws.call(type=verb, consumer=name, **more)
    assert answer["type"] == "ok", answer
    return [(row["seq"], row["result"]) for row in answer["results"]]


def brief(event):
    return event["seq"], event["delivery"]


def test_deliveries_name_their_consumer_and_come_behind_the_ok(broker, connect):
    """The answer is there before the first event; the event has consumer and delivery beside."""
    make(broker)
    broker.publish("job.a", "x", Event_Header_k="v")
    ws = connect()
    ws.send({"type": "consume", "id": 7, "consumer": "c", "max_inflight": 64})
    first, second = ws.next(), ws.next()
    assert (first["type"], first["id"], first["consumer"], first["created"]) == ("ok", 7, "c", False)
    assert (second["type"], second["consumer"], second["delivery"], second["seq"], second["payload"]) == ("event", "c", 1, 1, "x")
    assert second["metadata"]["headers"] == {"k": "v"} and "pattern" not in second
    assert settle(ws, "ack", seq=1) == [(1, "ok")]
    wait_for(lambda: state(broker)["cursor"] == 1)


def test_consume_with_settings_makes_the_consumer_first(broker, connect):
    ws = connect()
    assert consume(ws, settings=SETTINGS)["created"] is True
    broker.publish("job.a", "x")
    assert brief(ws.event()) == (1, 1)
    other = connect()
    assert consume(other, settings=SETTINGS)["created"] is False
    refused = other.call(type="consume", consumer="c", settings={**SETTINGS, "ack_wait": 5})
    assert refused["type"] == "error" and refused["code"] == "conflict"


def test_a_consumer_that_is_not_there_is_not_found(connect):
    answer = connect().call(type="consume", consumer="nobody")
    assert (answer["type"], answer["code"]) == ("error", "not_found") and "nobody" in answer["message"]


@pytest.mark.parametrize(
    "request_",
    [
        {"type": "consume"}, {"type": "consume", "consumer": 5}, {"type": "consume", "consumer": "a.b"}, {"type": "consume", "consumer": ""},
        {"type": "consume", "consumer": "c", "max_inflight": 0}, {"type": "consume", "consumer": "c", "settings": []}, {"type": "consume", "consumer": "n", "settings": {}},
        {"type": "nack", "seq": 1}, {"type": "term", "seq": 1}, {"type": "in_progress", "seq": 1}, {"type": "nack", "consumer": "c"}, {"type": "ack", "consumer": "c", "seqs": []},
        {"type": "nack", "consumer": "c", "seq": 1, "delay": -1}, {"type": "release"}, {"type": "ack", "consumer": 7, "seq": 1},
    ],
    ids=json.dumps,
)  # fmt: skip
def test_bad_requests_are_answered_and_close_nothing(broker, connect, request_):
    make(broker)
    ws = connect()
    answer = ws.call(**request_)
    assert answer["type"] == "error" and answer["code"] == "invalid_request" and answer["message"], answer
    assert ws.call(type="ping")["type"] == "pong"


def test_without_an_id_nothing_is_answered_but_errors(broker, connect):
    make(broker)
    broker.publish("job.a", "x")
    ws = connect()
    ws.send({"type": "consume", "consumer": "c"})
    assert ws.next()["type"] == "event"
    ws.send({"type": "ack", "consumer": "c", "seq": 1})
    ws.send({"type": "ack", "consumer": "nobody", "seq": 1})
    ws.send({"type": "release", "consumer": "c"})
    error = ws.next()
    assert error["type"] == "error" and error["id"] is None and error["code"] == "not_found"
    assert ws.quiet() == []


def test_an_ack_without_consumer_stays_the_plain_one(broker, connect):
    """It marks the log and changes nothing for a consumer."""
    make(broker)
    broker.publish("job.a", "x")
    ws = connect()
    consume(ws)
    ws.event()
    assert "results" not in ws.call(type="ack", seq=1)
    assert state(broker)["inflight"] == 1
    assert settle(ws, "ack", seqs=[1]) == [(1, "ok")]


def test_each_answer_says_what_became_of_each_seq(broker, connect):
    make(broker)
    for i in range(4):
        broker.publish("job.a", f"{i}")
    ws = connect()
    consume(ws)
    assert sorted(brief(ws.event()) for _ in range(4)) == [(1, 1), (2, 1), (3, 1), (4, 1)]
    assert settle(ws, "ack", seqs=[1, 1, 9]) == [(1, "ok"), (1, "ok"), (9, "unknown")]
    assert settle(ws, "in_progress", seq=2, delivery=1) == [(2, "ok")]
    assert settle(ws, "nack", seq=2, delivery=5) == [(2, "late")]
    assert settle(ws, "nack", seq=2, delivery=1, delay=0) == [(2, "ok")]
    assert brief(ws.event()) == (2, 2)
    assert settle(ws, "term", seq=3, reason="no use") == [(3, "ok")]
    assert wait_for(lambda: state(broker)["dead"]) == 1


def test_one_connection_works_for_several_consumers(broker, connect):
    make(broker, "a")
    make(broker, "b", patterns=["job.#"])
    ws = connect()
    consume(ws, "a")
    consume(ws, "b")
    broker.publish("job.x", "1")
    broker.publish("job.x.y", "2")
    got = sorted((e["consumer"], *brief(e)) for e in (ws.event() for _ in range(3)))
    assert got == [("a", 1, 1), ("b", 1, 1), ("b", 2, 1)]
    assert settle(ws, "ack", "a", seq=1) == [(1, "ok")] and settle(ws, "ack", "b", seqs=[1, 2]) == [(1, "ok"), (2, "ok")]
    [row] = broker.get("/v1/connections").json["connections"]
    assert row["consumers"] == 2


def test_deliveries_stand_beside_the_connections_own_streams(broker, connect):
    make(broker)
    ws = connect()
    ws.subscribe("job.*")
    consume(ws)
    broker.publish("job.a", "x")
    events = [ws.event(), ws.event()]
    assert sorted("consumer" in e for e in events) == [False, True]


def test_max_inflight_bounds_what_is_out_with_the_connection_and_may_change(broker, connect):
    """Consume again is ok, keeps what is out, and brings a new bound."""
    make(broker)
    for i in range(10):
        broker.publish("job.a", f"{i}")
    ws = connect()
    consume(ws, max_inflight=2)
    first = [ws.event(), ws.event()]
    assert ws.quiet() == [] and state(broker)["inflight"] == 2
    assert settle(ws, "ack", seq=first[0]["seq"]) == [(first[0]["seq"], "ok")]
    ws.event()
    assert ws.quiet() == []
    consume(ws, max_inflight=5)
    more = [ws.event() for _ in range(3)]
    assert ws.quiet() == [] and state(broker)["inflight"] == 5 and state(broker)["workers"] == 1
    assert {e["delivery"] for e in more} == {1}


def test_work_is_shared_and_a_slow_worker_starves_nobody(broker, connect):
    """One worker never answers: the others get all the rest."""
    make(broker)
    slow, quick = connect(), connect()
    consume(slow, max_inflight=3)
    consume(quick, max_inflight=3)
    for i in range(30):
        broker.publish("job.a", f"{i}")
    held = [slow.event()["seq"] for _ in range(3)]
    done = []
    while len(done) < 27:
        done.append(quick.event()["seq"])
        settle(quick, "ack", seq=done[-1])
    assert sorted(held + done) == list(range(1, 31))


def test_released_events_go_to_others_at_once(broker, connect):
    make(broker, ack_wait=600)
    for i in range(3):
        broker.publish("job.a", f"{i}")
    first, second = connect(), connect()
    consume(first)
    for _ in range(3):
        first.event()
    consume(second)
    assert first.call(type="release", consumer="c")["type"] == "ok"
    assert sorted(brief(second.event()) for _ in range(3)) == [(1, 2), (2, 2), (3, 2)]
    again = first.call(type="release", consumer="c")
    assert (again["type"], again["code"]) == ("error", "not_found")
    assert state(broker)["workers"] == 1
    consume(first)
    assert state(broker)["workers"] == 2


def test_a_vanished_workers_events_go_to_others_within_a_second(broker, connect):
    make(broker, ack_wait=600)
    broker.publish("job.a", "x")
    first, second = connect(), connect()
    consume(first)
    first.event()
    consume(second)
    first.sock.close()
    begun = time.monotonic()
    assert brief(second.event()) == (1, 2)
    assert time.monotonic() - begun < 5  # a sanitizer's build is slow


def test_unanswered_for_ack_wait_an_event_comes_again_and_in_progress_extends_it(broker, connect):
    make(broker, ack_wait=0.6)
    broker.publish("job.a", "x")
    ws = connect()
    consume(ws)
    begun = time.monotonic()
    ws.event()
    for _ in range(4):
        time.sleep(0.3)
        assert settle(ws, "in_progress", seq=1, delivery=1) == [(1, "ok")]
    assert brief(ws.event()) == (1, 2)
    assert time.monotonic() - begun > 1.6


def test_the_end_of_a_consumer_is_said(broker, connect):
    make(broker)
    ws = connect()
    consume(ws)
    assert broker.request("DELETE", "/v1/consumers/c").status == 204
    assert ws.recv() == {"type": "released", "consumer": "c", "reason": "deleted"}
    assert ws.call(type="ack", consumer="c", seq=1)["code"] == "not_found"
    make(broker)
    consume(ws)


def test_a_seek_is_said_and_the_work_goes_on_after_consume(broker, connect):
    make(broker)
    for i in range(2):
        broker.publish("job.a", f"{i}")
    ws = connect()
    consume(ws)
    assert {ws.event()["seq"], ws.event()["seq"]} == {1, 2}
    assert broker.request("POST", "/v1/consumers/c/seek", b'{"seq":2}').status == 200
    assert ws.recv() == {"type": "released", "consumer": "c", "reason": "seek"}
    consume(ws)
    assert brief(ws.event()) == (2, 1)


def test_a_worker_that_does_not_read_costs_a_bounded_queue(start_broker, connect):
    """50 MB wait for it; the connection holds no more than its queue, another worker gets the rest, and it goes on when
    it reads again."""
    broker = start_broker("--storage", "memory", "--memory-bytes", "128M", db=None)
    make(broker, max_inflight=10000, ack_wait=600)
    slow = connect(broker, rcvbuf=4096)
    consume(slow, max_inflight=5000)
    for _ in range(50):
        broker.publish("job.a", b"x" * 1_000_000)
    wait_for(lambda: state(broker)["pending"] > 10)
    [row] = broker.get("/v1/connections").json["connections"]
    assert row["queued_bytes"] < 4 << 20
    held = state(broker)["inflight"]
    assert 0 < held < 10
    other = connect(broker)
    consume(other)
    seqs = {other.event()["seq"] for _ in range(50 - held)}
    assert settle(other, "ack", seqs=sorted(seqs)) == [(seq, "ok") for seq in sorted(seqs)]
    rest = {slow.event()["seq"] for _ in range(held)}
    assert rest | seqs == set(range(1, 51))
    other.call(type="release", consumer="c")
    for _ in range(5):
        broker.publish("job.a", b"y" * 1_000_000)
    assert [slow.event()["payload"][0] for _ in range(5)] == ["y"] * 5


def test_a_gap_names_its_consumer(start_broker, connect):
    """What the ring lost before it was delivered is said, and counted as lost."""
    broker = start_broker("--storage", "memory", "--memory-bytes", "1M", db=None)
    make(broker)
    ws = connect(broker)
    for _ in range(40):
        broker.publish("job.a", b"x" * 100_000)
    consume(ws)
    broker.publish("job.a", b"y")
    seen = []
    while not (seen and seen[-1].get("payload") == "y"):
        seen.append(ws.recv())
    gaps = [m for m in seen if m["type"] == "gap"]
    assert gaps and gaps[0]["consumer"] == "c" and gaps[0]["reason"] in ("overflow", "retention") and 1 <= gaps[0]["from_seq"] <= gaps[0]["to_seq"] < 41
    assert wait_for(lambda: state(broker)["lost"]) > 0


def test_a_publish_before_an_ack_is_stored_before_it(start_broker, connect):
    """Result first, then the ack, sent in one go: both are there after a kill, whenever the ack was answered."""
    broker = start_broker()
    make(broker)
    broker.publish("job.a", "x")
    ws = connect(broker)
    consume(ws)
    ws.event()
    ws.send({"type": "publish", "data": {"topic": "result.a", "payload": "done"}})
    assert settle(ws, "ack", seq=1) == [(1, "ok")]
    broker.kill()
    broker.start()
    assert [e["payload"] for e in broker.events("result.a")] == ["done"]
    assert broker.get("/v1/consumers/c").json["cursor"] >= 1


def test_at_the_brokers_end_workers_are_closed_and_their_events_are_kept(start_broker, connect):
    broker = start_broker()
    make(broker)
    broker.publish("job.a", "x")
    ws = connect(broker)
    consume(ws)
    ws.event()
    broker.process.terminate()
    with pytest.raises(Closed) as closed:
        while ws.next()["type"] != "event":
            pass
    assert closed.value.code == 1001
    ws.sock.close()
    assert broker.process.wait(60) == 0
    broker.start()
    ws = connect(broker)
    consume(ws)
    assert brief(ws.event()) == (1, 2)


def test_consume_is_refused_by_a_consumer_that_calls_a_webhook(start_broker, connect):
    broker = start_broker("--storage", "memory", "--webhook-allow", "127.0.0.1", db=None)
    ws = connect(broker)
    make(broker)
    consume(ws)
    make(broker, push={"url": "http://127.0.0.1:9/", "secret": "whsec_" + "A" * 32})
    assert ws.recv() == {"type": "released", "consumer": "c", "reason": "push"}
    answer = ws.call(type="consume", consumer="c")
    assert (answer["type"], answer["code"]) == ("error", "conflict")
    assert broker.request("POST", "/v1/consumers/c/fetch", b"{}").status == 409


def test_at_max_subscriptions_a_connection_works_for_no_further_consumer(start_broker, connect):
    broker = start_broker("--storage", "memory", "--max-subscriptions", "2", db=None)
    ws = connect(broker)
    for name in "abc":
        make(broker, name)
    consume(ws, "a")
    consume(ws, "b")
    assert ws.call(type="consume", consumer="c")["code"] == "limit_exceeded"
    consume(ws, "a")
    ws.call(type="release", consumer="a")
    consume(ws, "c")
