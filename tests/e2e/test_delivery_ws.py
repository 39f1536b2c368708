"""Durable consumers over WebSocket: consume, deliveries, answers, release, what is shared out to whom, and what happens
to the events of a worker that goes."""
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from lib.broker import wait_for
from lib.consumer import PUSH_LOCAL, Consumer, Worker, publish_many, seqs
from lib.ws import Closed, WebSocket

PUSH = {"url": "http://127.0.0.1:9/hook", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}
JOBS = {"patterns": ["job.*"], "from": "all"}


def refused(ws, **request):
    answer = ws.call(**request)
    assert answer["type"] == "error" and answer["message"], answer
    return answer["code"]


# ---- attaching ----


def test_consume_attaches_and_deliveries_are_events_with_consumer_and_delivery_beside(broker):
    Consumer(broker, "billing", **JOBS)
    broker.publish("job.a", b"hello", Event_Header_Colour="red", Event_TTL="3600")
    [plain] = broker.events()
    with Worker(broker, "billing") as worker:
        assert worker.next() == {"type": "event", "consumer": "billing", "delivery": 1, **plain}
        assert worker.ack(1) == "ok"


def test_consume_needs_a_consumer_that_is_there(broker):
    with WebSocket(broker.port) as ws:
        assert refused(ws, type="consume", consumer="nobody") == "not_found"


def test_with_settings_it_makes_the_consumer_first_if_there_is_none(broker):
    publish_many(broker, "job.a", 1)
    with Worker(broker, "billing", settings={**JOBS, "ack_wait": 7}) as worker:
        assert worker.next()["seq"] == 1
        assert Consumer(broker, "billing", make=False).view()["ack_wait"] == 7
        with Worker(broker, "billing", settings={**JOBS, "ack_wait": 7}), Worker(broker, "billing"):
            pass


def test_other_settings_than_its_own_are_a_conflict_and_change_nothing(broker):
    consumer = Consumer(broker, "billing", **JOBS)
    with WebSocket(broker.port) as ws:
        for other in ({"ack_wait": 7}, {"patterns": ["x"]}, {"from": "new"}, {"order": "topic"}):
            assert refused(ws, type="consume", consumer="billing", settings={**JOBS, **other}) == "conflict"
    assert consumer.view()["ack_wait"] == 30


BAD_REQUESTS = [
    ({"type": "consume"}, "invalid_request"), ({"type": "consume", "consumer": 7}, "invalid_request"),
    ({"type": "consume", "consumer": "a b"}, "invalid_request"), ({"type": "consume", "consumer": "é"}, "invalid_request"),
    ({"type": "consume", "consumer": "c", "max_inflight": 0}, "invalid_request"),
    ({"type": "consume", "consumer": "c", "max_inflight": "9"}, "invalid_request"),
    ({"type": "consume", "consumer": "c", "settings": []}, "invalid_request"),
    ({"type": "consume", "consumer": "d", "settings": {}}, "invalid_request"),
    ({"type": "consume", "consumer": "d", "settings": {"patterns": ["a*"]}}, "invalid_pattern"),
    ({"type": "nack", "seq": 1}, "invalid_request"), ({"type": "term", "consumer": "c"}, "invalid_request"),
    ({"type": "nack", "consumer": "c", "seq": "1"}, "invalid_request"), ({"type": "nack", "consumer": "c", "seqs": [1], "delay": -2}, "invalid_request"),
    ({"type": "ack", "consumer": "nobody", "seq": 1}, "not_found"), ({"type": "in_progress", "consumer": "nobody", "seq": 1}, "not_found"),
    ({"type": "release"}, "invalid_request"), ({"type": "release", "consumer": "c"}, "not_found"),
]  # fmt: skip


def test_a_bad_request_is_told_and_does_not_close(broker):
    Consumer(broker, "c", **JOBS)
    with WebSocket(broker.port) as ws:
        for request, code in BAD_REQUESTS:
            assert refused(ws, **request) == code, request
        assert ws.call(type="ping")["type"] == "pong"
    assert broker.get("/v1/consumers/d").status == 404


def test_deliveries_are_apart_from_the_connections_other_streams(broker):
    """The same event, once for the subscription and once for the consumer; unsubscribe does not touch the latter."""
    with Worker(broker, "c", settings=JOBS) as worker:
        worker.ws.subscribe("job.*")
        publish_many(broker, "job.a", 2)
        got = [worker.ws.recv() for _ in range(4)]
        plain = [m for m in got if "consumer" not in m]
        assert seqs(plain) == [1, 2] and all("delivery" not in m for m in plain)
        assert seqs(m for m in got if m.get("consumer") == "c") == [1, 2]
        worker.ws.call(type="unsubscribe", pattern="job.*")
        publish_many(broker, "job.a", 1)
        assert worker.next()["seq"] == 3


def test_one_connection_may_work_for_several_consumers(broker):
    with Worker(broker, "a", settings=JOBS) as worker:
        assert worker.ws.call(type="consume", consumer="b", settings={**JOBS, "ack_wait": 9})["type"] == "ok"
        publish_many(broker, "job.a", 1)
        got = [worker.ws.recv() for _ in range(2)]
        assert sorted(m["consumer"] for m in got) == ["a", "b"]
        assert worker.ack(1) == "ok"
        assert Consumer(broker, "b", make=False).wait(inflight=1)["pending"] == 0


# ---- answers ----


def test_seq_and_seqs_are_both_taken_and_answered_with_results(broker):
    with Worker(broker, "c", settings=JOBS) as worker:
        publish_many(broker, "job.a", 5)
        worker.take(5)
        answer = worker.ws.call(type="ack", consumer="c", seq=1)
        assert answer == {"type": "ok", "id": answer["id"], "results": [{"seq": 1, "result": "ok"}]}
        answer = worker.ws.call(type="ack", consumer="c", seqs=[2, 99, 3])
        assert answer["results"] == [{"seq": 2, "result": "ok"}, {"seq": 99, "result": "unknown"}, {"seq": 3, "result": "ok"}]
        assert worker.ws.call(type="in_progress", consumer="c", seq=4)["results"] == [{"seq": 4, "result": "ok"}]
        assert worker.ws.call(type="term", consumer="c", seq=4, reason="no")["results"] == [{"seq": 4, "result": "ok"}]
        assert worker.ws.call(type="nack", consumer="c", seq=5, delay=600)["results"] == [{"seq": 5, "result": "ok"}]


def test_without_an_id_nothing_is_said_and_it_is_done_all_the_same(broker):
    with Worker(broker, "c", settings=JOBS) as worker:
        publish_many(broker, "job.a", 2)
        worker.take(2)
        worker.ws.send({"type": "ack", "consumer": "c", "seq": 1})
        worker.ws.send({"type": "ack", "consumer": "c", "seqs": [2]})
        Consumer(broker, "c", make=False).wait(cursor=2, inflight=0)
        assert worker.ws.quiet() == []


def test_a_nacked_event_comes_again_with_the_next_delivery_number(broker):
    with Worker(broker, "c", settings=JOBS) as worker:
        publish_many(broker, "job.a", 1)
        for number in (1, 2, 3):
            event = worker.next()
            assert (event["seq"], event["delivery"]) == (1, number)
            assert worker.nack(1, delivery=number) == "ok"


def test_many_acks_in_flight_are_each_answered_once(broker):
    count = 2000
    with Worker(broker, "c", settings={**JOBS, "max_inflight": count}) as worker:
        publish_many(broker, "job.a", count)
        worker.take(count)
        worker.ws.send_all({"type": "ack", "id": n, "consumer": "c", "seq": n} for n in range(1, count + 1))
        answers = [worker.ws.recv() for _ in range(count)]
        assert sorted(a["id"] for a in answers) == list(range(1, count + 1))
        assert all(a["results"] == [{"seq": a["id"], "result": "ok"}] for a in answers)
    Consumer(broker, "c", make=False).wait(cursor=count, pending=0, inflight=0)


# ---- sharing out ----


def test_each_event_is_out_at_one_worker_at_a_time(broker):
    with Worker(broker, "c", settings={**JOBS, "ack_wait": 600}) as a, Worker(broker, "c") as b:
        publish_many(broker, "job.a", 100)
        consumer = Consumer(broker, "c", make=False)
        consumer.wait(inflight=100, pending=0)
        for worker in (a, b):
            worker.ws.send({"type": "ping", "id": "end"})
        got = []
        for worker in (a, b):
            while (message := worker.ws.recv()).get("id") != "end":
                got.append(message["seq"])
        wait_for(lambda: len(got) == 100 or not [got.extend(seqs(w.waiting())) for w in (a, b)], timeout=1)
        assert sorted(got) == list(range(1, 101))


def test_max_inflight_of_the_connection_bounds_what_is_out_with_it(broker):
    with Worker(broker, "c", settings=JOBS, max_inflight=3) as worker:
        publish_many(broker, "job.a", 10)
        consumer = Consumer(broker, "c", make=False)
        assert seqs(worker.take(3)) == [1, 2, 3]
        consumer.wait(inflight=3, pending=7)
        worker.ack(2)
        assert worker.next()["seq"] == 4
        consumer.wait(inflight=3, pending=6)


def test_max_inflight_of_the_consumer_bounds_what_is_out_with_all(broker):
    with Worker(broker, "c", settings={**JOBS, "max_inflight": 5}) as a, Worker(broker, "c"):
        publish_many(broker, "job.a", 20)
        consumer = Consumer(broker, "c", make=False)
        consumer.wait(inflight=5)
        assert consumer.fetch(max=10, wait=0) == []
        assert consumer.ack(1, 2) == ["ok", "ok"]
        consumer.wait(inflight=5, cursor=2)
        assert a.ws.call(type="ping")["type"] == "pong"


def test_a_slow_worker_starves_nobody(broker):
    """It takes what it may hold and answers nothing; all the rest goes to the one with room."""
    count = 1000
    with Worker(broker, "c", settings={**JOBS, "ack_wait": 600}, max_inflight=10) as slow, Worker(broker, "c", max_inflight=10) as quick:
        publish_many(broker, "job.a", count)
        held = set(seqs(slow.take(10)))
        handled = set()
        while len(handled) < count - 10:
            event = quick.next()
            handled.add(event["seq"])
            quick.ws.send({"type": "ack", "consumer": "c", "seq": event["seq"]})
        assert handled | held == set(range(1, count + 1)) and not handled & held
        Consumer(broker, "c", make=False).wait(inflight=10, pending=0)


def test_workers_that_are_alike_share_alike(broker):
    """Both answer at once: neither gets nearly all."""
    count = 2000
    with Worker(broker, "c", settings=JOBS, max_inflight=5) as a, Worker(broker, "c", max_inflight=5) as b:
        publish_many(broker, "job.a", count)
        got = {a: 0, b: 0}
        while sum(got.values()) < count:
            for worker in (a, b):
                worker.ws.sock.settimeout(0.2)
                try:
                    for _ in range(5):
                        event = worker.next()
                        got[worker] += 1
                        worker.ws.send({"type": "ack", "consumer": "c", "seq": event["seq"]})
                except TimeoutError:
                    pass
        assert min(got.values()) > count / 5, got


def test_a_worker_that_reads_nothing_holds_only_what_it_may(broker):
    """Its queue fills; the others go on, and what it held comes to them when it goes."""
    count = 400
    with Worker(broker, "c", settings={**JOBS, "max_inflight": 100000, "ack_wait": 600}, rcvbuf=4096, max_inflight=50) as deaf:
        for n in range(count):
            broker.publish("job.a", b"x" * 20000)
        with Worker(broker, "c") as quick:
            handled = set()
            while len(handled) < count - 50:
                handled.add(quick.next()["seq"])
                quick.ws.send({"type": "ack", "consumer": "c", "seq": max(handled)})
            deaf.close()
            while len(handled) < count:
                handled.add(quick.next()["seq"])


VANISHING = """
import sys; sys.path.insert(0, {path!r})
from lib.ws import Closed, WebSocket
ws = WebSocket({port})
ws.call(type="consume", consumer="c")
got = 0
while got < {count}:
    got += ws.recv()["type"] == "event"
print("has", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("way", ["killed", "closed", "released"])
def test_what_a_vanished_worker_had_is_handed_on_within_a_second(broker, way):
    consumer = Consumer(broker, "c", **JOBS, ack_wait=600)
    publish_many(broker, "job.a", 20)
    script = VANISHING.format(path=os.path.dirname(os.path.dirname(os.path.abspath(__file__))), port=broker.port, count=20)
    if way == "killed":
        process = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "has\n"
    else:
        first = Worker(broker, "c")
        first.take(20)
    with Worker(broker, "c") as second:
        consumer.wait(inflight=20, pending=0)
        begin = time.monotonic()
        if way == "killed":
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdin.close()
        elif way == "closed":
            first.close()
        else:
            first.release()
        got = second.take(20)
        assert time.monotonic() - begin < 1
        assert sorted(seqs(got)) == list(range(1, 21)) and {e["delivery"] for e in got} == {2}
        if way == "released":
            publish_many(broker, "job.a", 1)
            assert second.next()["seq"] == 21
            assert first.ws.call(type="ping")["type"] == "pong" and first.waiting() == []
            first.close()


def test_workers_that_come_and_go_lose_nothing(broker):
    """A hundred short lives, each of which handles a few and drops the rest."""
    dice = random.Random(7)
    count = 300
    publish_many(broker, "job.a", count)
    consumer = Consumer(broker, "c", **JOBS, ack_wait=600)
    handled = set()
    for _ in range(100):
        with Worker(broker, "c", max_inflight=dice.randint(1, 20)) as worker:
            for event in worker.take(1) if len(handled) < count else []:
                if dice.random() < 0.8:
                    assert worker.ack(event["seq"]) == "ok"
                    assert event["seq"] not in handled
                    handled.add(event["seq"])
    while len(handled) < count:
        event = consumer.fetch()[0]
        assert event["seq"] not in handled
        handled.add(event["seq"])
        consumer.ack(event["seq"])
    consumer.wait(cursor=count, pending=0, inflight=0)


# ---- ends that were not asked for ----


@pytest.mark.parametrize("reason", ["deleted", "seek", "push"])
def test_an_end_that_was_not_asked_for_is_said(start_broker, reason):
    broker = start_broker(*PUSH_LOCAL)
    consumer = Consumer(broker, "c", **JOBS)
    with Worker(broker, "c") as worker:
        if reason == "deleted":
            consumer.delete()
        elif reason == "seek":
            consumer.seek(seq=1)
        else:
            assert consumer.put(**JOBS, push=PUSH).status == 200
        assert worker.next("released") == {"type": "released", "consumer": "c", "reason": reason}
        assert refused(worker.ws, type="release", consumer="c") == "not_found"
        publish_many(broker, "job.a", 1)
        assert worker.ws.quiet() == []


def test_release_and_a_second_consume_go_on_where_it_was(broker):
    with Worker(broker, "c", settings=JOBS) as worker:
        publish_many(broker, "job.a", 3)
        worker.take(3)
        assert worker.ack(1) == "ok"
        worker.release()
        assert worker.ack(2) == "ok"  # an ack needs no attachment
        assert worker.ws.call(type="consume", consumer="c")["type"] == "ok"
        event = worker.next()
        assert (event["seq"], event["delivery"]) == (3, 2)
        worker.ack(3)
        Consumer(broker, "c", make=False).wait(cursor=3)


def test_a_stop_of_the_broker_closes_with_1001_and_what_was_out_comes_again(broker):
    with Worker(broker, "c", settings=JOBS) as worker:
        publish_many(broker, "job.a", 2)
        worker.take(2)
        assert worker.ack(1) == "ok"
        broker.process.terminate()
        with pytest.raises(Closed) as closed:
            while True:
                worker.ws.recv()
        assert closed.value.code == 1001
    broker.stop()
    broker.start()
    with Worker(broker, "c") as worker:
        event = worker.next()
        assert (event["seq"], event["delivery"]) == (2, 2)


def test_a_million_bytes_are_delivered_like_any_other(broker):
    with Worker(broker, "c", settings=JOBS) as worker:
        broker.publish("job.a", b"x" * (1 << 20))
        event = worker.next()
        assert len(event["payload"]) == 1 << 20
        assert worker.nack(1) == "ok"
        assert worker.next()["payload"] == event["payload"]


def test_bytes_that_are_no_text_come_as_base64(broker):
    with Worker(broker, "c", settings=JOBS) as worker:
        broker.publish("job.a", b"\xff\x00")
        event = worker.next()
        assert (event["payload"], event["payload_encoding"]) == ("/wA=", "base64")
