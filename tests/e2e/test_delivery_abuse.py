"""Requests about consumers that nobody should make: whatever comes, the broker answers, says why, and goes on."""
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lib.consumer import JSON, Consumer, Worker, publish_many
from lib.ws import Closed, WebSocket

QUICK = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
STATUS = {400, 404, 405, 409, 413, 415, 429}

numbers = st.one_of(st.integers(-3, 3), st.sampled_from([2**31, 2**32, 2**53 - 1, 2**53, -(2**53), 10**18, 0.5, -0.0, 1e308]))
scalars = st.one_of(st.none(), st.booleans(), numbers, st.text(max_size=8))
anything = st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=3)), max_leaves=6)
SETTINGS = ["patterns", "from", "ack_wait", "max_deliver", "backoff", "max_inflight", "order", "order_window", "dead_letter", "push"]
BODY = ["seqs", "seq", "time", "max", "wait", "delay", "delivery", "reason"]


def members(names, first):
    return st.fixed_dictionaries({}, optional={name: st.one_of(anything, first.get(name, st.none())) for name in names})


puts = members(SETTINGS, {
    "patterns": st.lists(st.sampled_from(["job.*", "#", "a..b", "*", "$dead.#", "x" * 300]), max_size=18), "from": st.sampled_from(["all", "new", {"seq": 1}, {"time": 0}]),
    "ack_wait": numbers, "backoff": st.lists(numbers, max_size=20), "order": st.sampled_from(["none", "topic", "header:k", "header:" + "h" * 300]),
    "push": st.fixed_dictionaries({}, optional={"url": st.sampled_from(["http://127.0.0.1/", "http://[::1]/", "x", "file:///etc/passwd"]), "secret": scalars, "timeout": numbers, "concurrency": numbers}),
})  # fmt: skip
bodies = members(BODY, {"seqs": st.lists(numbers, max_size=5), "seq": numbers, "time": numbers, "max": numbers, "wait": st.sampled_from([0, 0.01, -1, 61, 1e308])})


def alive(broker):
    assert broker.process.poll() is None
    assert broker.get("/healthz").status == 200


def check(answer):
    assert answer.status in (200, 201, 204) or answer.status in STATUS, answer
    if answer.status >= 400:
        assert answer.json["detail"] and answer.json["code"] != "internal", answer


def test_put_with_anything(broker):
    @QUICK
    @given(puts, st.sampled_from(["a", "b", "c"]))
    def run(body, name):
        check(broker.request("PUT", f"/v1/consumers/{name}", json.dumps(body), JSON))

    run()
    alive(broker)
    broker.restart()  # what was taken is read again
    check(broker.get("/v1/consumers"))


def test_every_operation_with_anything(broker):
    Consumer(broker, "a", patterns=["job.*"], from_="all", ack_wait=0.05, max_deliver=3)
    publish_many(broker, "job.a", 50)

    @QUICK
    @given(st.sampled_from(["fetch", "ack", "nack", "term", "in_progress", "seek", "dead/redrive"]), bodies)
    def run(path, body):
        check(broker.request("POST", f"/v1/consumers/a/{path}", json.dumps(body), JSON))

    run()
    alive(broker)
    broker.kill()
    broker.start()
    assert Consumer(broker, "a", make=False).view()["name"] == "a"


def test_websocket_requests_with_anything(broker):
    types = st.sampled_from(["consume", "ack", "nack", "term", "in_progress", "release", "subscribe", "publish"])
    requests = st.builds(
        lambda type, body, more: {"type": type, "id": 1, **body, **more}, types, bodies,
        st.fixed_dictionaries({}, optional={"consumer": st.one_of(st.sampled_from(["a", "b", "é"]), anything), "settings": st.one_of(puts, anything), "max_inflight": numbers,
                                            "pattern": st.just("job.*"), "last": anything, "data": st.fixed_dictionaries({"topic": st.just("job.a"), "payload": st.just("")}, optional={
                                                "expected_last_seq": anything, "delay": anything, "deliver_at": anything})}))  # fmt: skip
    publish_many(broker, "job.a", 20)

    @settings(QUICK, max_examples=25)
    @given(st.lists(requests, min_size=1, max_size=6))
    def run(batch):
        with WebSocket(broker.port) as ws:
            ws.sock.settimeout(20)
            ws.send_all(batch)
            answers = 0
            while answers < len(batch):
                message = ws.recv()
                if message["type"] in ("ok", "error"):
                    answers += 1
                    assert message.get("code") != "internal", (batch, message)

    run()
    alive(broker)
    broker.restart()


@pytest.mark.parametrize("path", ["", "/", "//", "/a/", "/a/ack/", "/a//ack", "/a/dead/", "/a/dead/redrive/x", "/a/nothing", "/../stats", "/%2e%2e", "/a?limit=x", "/" + "a" * 5000])
def test_odd_paths_are_answered(broker, path):
    Consumer(broker, "a", patterns=["job.*"])
    for method in ("GET", "PUT", "POST", "DELETE"):
        answer = broker.request(method, "/v1/consumers" + path, "{}", JSON)
        assert answer.status < 500, (method, answer)
    alive(broker)


def test_many_seqs_in_one_request_are_bounded_and_told(broker):
    consumer = Consumer(broker, "a", patterns=["job.*"])
    for count in (10_000, 1_000_000):
        answer = consumer.judge("ack", *range(1, count + 1))
        assert answer.status in (200, 400, 413, 429), answer
        if answer.status == 200:
            assert len(answer.json["results"]) == count
    alive(broker)


def test_a_reason_of_any_length_is_kept_or_refused_and_never_breaks_a_letter(broker):
    consumer = Consumer(broker, "a", patterns=["job.*"], from_="all")
    publish_many(broker, "job.a", 5)
    consumer.fetch_all(5)
    for seq, reason in enumerate(["", "x" * 5000, "\0\n\"\\", "é" * 300, "\U0001f600" * 100], 1):
        answer = consumer.judge("term", seq, reason=reason)
        assert answer.status in (200, 400), answer
        if answer.status == 400:
            assert consumer.term(seq) == "ok"
    consumer.wait(dead=5)
    for letter in consumer.dead():
        letter["metadata"]["headers"].get("dead-reason", "").encode()


def test_a_letter_of_an_event_with_full_headers_is_made_all_the_same(broker):
    """64 headers and 16 KiB are an event's bound; what the broker adds does not count."""
    consumer = Consumer(broker, "a", patterns=["job.*"], from_="all")
    publish_many(broker, "job.a", 1, headers=lambda _: {f"h{n}": "x" * 200 for n in range(64)})
    consumer.fetch()
    assert consumer.term(1, reason="r" * 100) == "ok"
    consumer.wait(dead=1)
    [letter] = consumer.dead()
    assert len(letter["metadata"]["headers"]) >= 64 + 5


def test_the_number_of_consumers_is_a_limit_that_is_told(start_broker):
    broker = start_broker("--max-consumers", "3")
    for name in "abc":
        Consumer(broker, name, patterns=["job.*"])
    answer = Consumer(broker, "d", make=False).put(patterns=["job.*"])
    assert (answer.status, answer.json["code"]) == (429, "limit_exceeded") and "max_consumers" in answer.json["detail"], answer
    with WebSocket(broker.port) as ws:
        answer = ws.call(type="consume", consumer="d", settings={"patterns": ["job.*"]})
        assert (answer["type"], answer["code"]) == ("error", "limit_exceeded"), answer
        assert ws.call(type="consume", consumer="a", settings={"patterns": ["job.*"]})["type"] == "ok"
    assert broker.stats()["limits"]["max_consumers"] == 3
    Consumer(broker, "a", make=False).delete()
    Consumer(broker, "d", patterns=["job.*"])


def test_many_consumers_and_workers_end_without_a_trace(broker):
    workers = [Worker(broker, f"c{n % 20}", settings={"patterns": ["job.*"], "from": "all"}) for n in range(60)]
    publish_many(broker, "job.a", 10)
    for worker in workers[::2]:
        worker.close()
    for n in range(20):
        Consumer(broker, f"c{n}", make=False).delete()
    for worker in workers[1::2]:
        try:
            while worker.ws.recv()["type"] != "released":
                pass
        except Closed:
            raise AssertionError("a worker's connection was closed")
        worker.close()
    alive(broker)
    assert broker.get("/v1/consumers").json["consumers"] == []
