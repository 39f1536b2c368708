"""Consumers when something else goes wrong: no room on the disk, the broker goes down or the consumer ends while a fetch
waits, settings change under the workers, the older client is beside."""
import signal
import threading
import time

import pytest

from lib.broker import wait_for
from lib.consumer import Consumer, Worker, publish_many, seqs
from lib.ws import WebSocket

JOBS = {"patterns": ["job.*"], "from": "all", "ack_wait": 600}


class Waiting(threading.Thread):
    """A fetch that waits; .answer when it has come."""

    def __init__(self, consumer, **body):
        super().__init__(daemon=True)
        self.consumer, self.body, self.answer = consumer, {"max": 10, "wait": 60, **body}, None
        self.start()
        wait_for(lambda: consumer.view()["workers"] >= 1, what="the fetch to wait")

    def run(self):
        self.answer = self.consumer.try_fetch(**self.body)

    def end(self):
        self.join(20)
        assert not self.is_alive(), "the fetch still waits"
        return self.answer


def test_without_room_for_publishes_work_goes_on(start_broker):
    """Acks, deliveries, dead letters, redrive and due events go on to the real end of the disk; nothing of it is refused."""
    broker = start_broker()
    consumer = Consumer(broker, "c", **JOBS, max_deliver=3)
    publish_many(broker, "job.a", 6)
    assert broker.request("POST", "/v1/topics/job.late/events", b"due", {"Event-Delay": "1"}).status == 202
    broker.stop()
    broker.options = ["--min-free", "1000000G"]
    broker.start()
    assert broker.request("POST", "/v1/topics/job.a/events", b"x").status == 507
    consumer.fetch_all(3)
    assert consumer.ack(1) == "ok"
    assert consumer.term(2, reason="no") == "ok"
    assert consumer.nack(3) == "ok"
    [letter] = wait_for(lambda: broker.events("$dead.c"), what="the letter")
    consumer.redrive()
    payloads = [e["payload"] for e in consumer.fetch_all(6)]
    assert sorted(payloads) == ["1", "2", "3", "4", "5", "due"]
    broker.kill()
    broker.start()
    assert consumer.ack(1) == "ok" and consumer.view()["dead"] == 1
    made = Consumer(broker, "other", make=False).put(patterns=["x"])
    assert made.status in (201, 507), made


def test_a_fetch_that_waits_is_answered_when_the_broker_goes_down(broker):
    waiting = Waiting(Consumer(broker, "c", **JOBS))
    broker.process.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    answer = waiting.end()
    assert time.monotonic() - begin < 8
    assert answer.status == 503 or answer.json["events"] == [], answer
    broker.stop()


def test_a_fetch_that_waits_is_answered_when_its_consumer_ends_or_moves(start_broker):
    broker = start_broker("--webhook-allow", "127.0.0.0/8")
    consumer = Consumer(broker, "c", **JOBS)
    waiting = Waiting(consumer)
    consumer.delete()
    assert waiting.end().status == 404
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="new")
    waiting = Waiting(consumer)
    consumer.seek(seq=1)
    publish_many(broker, "job.a", 1)
    answer = waiting.end()
    assert answer.status in (200, 409), answer
    left = consumer.fetch_all(1 - len(answer.json.get("events", []))) if answer.status == 200 else consumer.fetch()
    assert len(left) + len(answer.json.get("events", [])) == 1


def test_other_patterns_hold_from_the_next_delivery(broker):
    consumer = Consumer(broker, "c", **JOBS)
    with Worker(broker, "c") as worker:
        broker.publish("job.a", b"1")
        assert worker.next()["seq"] == 1
        assert consumer.put(**{**JOBS, "patterns": ["task.*"]}).status == 200
        broker.publish("job.a", b"2")
        broker.publish("task.a", b"3")
        assert worker.next()["payload"] == "3"
        assert worker.ack(1, 3) == ["ok", "ok"]
        consumer.wait(cursor=3, inflight=0, pending=0)


def test_a_smaller_max_inflight_holds_from_the_next_delivery(broker):
    consumer = Consumer(broker, "c", **JOBS, max_inflight=10)
    with Worker(broker, "c") as worker:
        publish_many(broker, "job.a", 30)
        got = seqs(worker.take(10))
        assert consumer.put(**JOBS, max_inflight=2).status == 200
        assert set(worker.ack(*got[:8])) == {"ok"}
        consumer.wait(inflight=2)
        assert worker.ack(got[8]) == "ok"
        assert worker.next()["seq"] == 11
        consumer.wait(inflight=2)


def test_subscriptions_replays_and_consumers_do_not_hold_each_other_up(broker):
    """A consumer nobody works for, a blocked key and a deaf worker cost the live ones nothing."""
    Consumer(broker, "idle", patterns=["#"], from_="all")
    Consumer(broker, "stuck", patterns=["#"], from_="all", order="topic", order_window=10, ack_wait=600).try_fetch(max=1, wait=0)
    with Worker(broker, "deaf", settings={"patterns": ["#"], "from": "all"}, rcvbuf=4096), WebSocket(broker.port) as ws, Worker(broker, "c", settings=JOBS) as worker:
        ws.subscribe("job.*")
        for n in range(200):
            broker.publish("job.a", b"x" * 5000)
        for n in range(1, 201):
            assert ws.event()["seq"] == n
        got = []
        while len(got) < 200:
            got.append(worker.next()["seq"])
            worker.ws.send({"type": "ack", "consumer": "c", "seq": got[-1]})
        assert got == list(range(1, 201))


@pytest.mark.long
def test_a_consumer_that_nobody_works_for_is_logged(broker):
    """Once it lags: the operator must not have to look at every consumer to find the one that stalls."""
    Consumer(broker, "forgotten", **JOBS)
    publish_many(broker, "job.a", 10)
    wait_for(lambda: any("forgotten" in line for line in broker.log), timeout=90, what="a line about it")


@pytest.mark.parametrize("durability", ["os"])
def test_the_promises_hold_with_durability_os_through_a_kill(start_broker, durability):
    broker = start_broker("--durability", durability)
    consumer = Consumer(broker, "c", **JOBS)
    publish_many(broker, "job.a", 50)
    consumer.fetch_all(50)
    assert set(consumer.ack(*range(1, 50, 2))) == {"ok"}
    broker.kill()
    broker.start()
    assert seqs(consumer.fetch_all(25)) == list(range(2, 51, 2))
