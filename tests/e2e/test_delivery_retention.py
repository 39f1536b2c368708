"""What happens to a consumer's events when retention or their own ttl ends them."""
import pytest

from lib.broker import wait_for
from lib.consumer import Consumer, Worker, publish_many, seqs

JOBS = {"patterns": ["job.*"], "from": "all", "ack_wait": 600}


def first_seq(broker):
    return broker.stats()["first_seq"]


def test_retention_does_not_wait_and_what_it_deletes_unhandled_is_counted_and_said(start_broker):
    """Each seq that is passed over lies in a gap that was said before, and all of them are counted."""
    broker = start_broker("--retention-events", "10")
    consumer = Consumer(broker, "c", **JOBS, max_inflight=1)
    with Worker(broker, "c") as worker:
        for _ in range(10):
            publish_many(broker, "job.a", 200)
        wait_for(lambda: first_seq(broker) == 1991, what="retention")
        given, told = [], set()
        while len(given) == 0 or given[-1] < 2000:
            message = worker.ws.recv()
            if message["type"] == "gap":
                assert message["consumer"] == "c" and message["reason"] == "retention", message
                told |= set(range(message["from_seq"], message["to_seq"] + 1))
            elif message["type"] == "event":
                given.append(message["seq"])
                worker.ws.send({"type": "ack", "consumer": "c", "seq": message["seq"]})
    missed = set(range(1, 2001)) - set(given)
    assert missed and missed <= told, "events were passed over in silence"
    view = consumer.wait(inflight=0, pending=0)
    assert view["lost"] == len(missed), (view, len(missed))
    assert broker.said("EB-CONSUMER-LOST", "consumer c:")


def test_a_consumer_made_with_from_before_the_first_retained_begins_there_with_a_gap(start_broker):
    broker = start_broker("--retention-events", "10")
    for _ in range(5):
        publish_many(broker, "job.a", 10)
    wait_for(lambda: first_seq(broker) == 41, what="retention")
    Consumer(broker, "c", patterns=["job.*"], from_={"seq": 3})
    with Worker(broker, "c") as worker:
        assert worker.next("gap")["to_seq"] == 40
        assert seqs(worker.take(10)) == list(range(41, 51))
    all_ = Consumer(broker, "all", **JOBS)
    assert seqs(all_.fetch_all(10)) == list(range(41, 51))
    assert all_.view()["lost"] == 0


def test_with_retention_holds_nothing_unhandled_is_deleted(start_broker):
    """Neither what is out (3), nor what waits (4), nor what was never delivered (5, 6), over a kill too."""
    broker = start_broker("--retention-events", "10", "--retention-holds")
    consumer = Consumer(broker, "c", **JOBS)
    publish_many(broker, "job.a", 6)
    consumer.fetch_all(4)
    consumer.nack(4, delay=600)
    assert consumer.ack(1, 2) == ["ok"] * 2
    consumer.wait(cursor=2)
    for _ in range(4):
        publish_many(broker, "x.a", 10)
    wait_for(lambda: first_seq(broker) == 3, timeout=30, what="what was handled to go")
    broker.kill()
    broker.start()
    assert sorted(seqs(consumer.fetch_all(3))) == [3, 5, 6]
    assert first_seq(broker) == 3 and consumer.view()["lost"] == 0
    assert consumer.ack(3, 4, 5, 6) == ["ok"] * 4
    wait_for(lambda: first_seq(broker) == 37, timeout=30, what="retention to go on")


def test_delete_of_the_consumer_lets_retention_go_on(start_broker):
    broker = start_broker("--retention-events", "10", "--retention-holds")
    consumer = Consumer(broker, "c", **JOBS)
    for _ in range(4):
        publish_many(broker, "job.a", 10)
    consumer.wait(pending=40)
    assert first_seq(broker) == 1
    consumer.delete()
    publish_many(broker, "x", 1)
    wait_for(lambda: first_seq(broker) >= 31, timeout=20)


def test_an_event_that_expires_while_it_is_out_is_not_redelivered_and_no_dead_letter(broker):
    consumer = Consumer(broker, "c", **JOBS, max_deliver=1)
    broker.publish("job.a", b"x", Event_TTL="1")
    broker.publish("job.a", b"y", Event_TTL="1")
    broker.publish("job.a", b"z")
    consumer.fetch_all(3)
    wait_for(lambda: broker.get("/v1/events/1").status == 404 and broker.get("/v1/events/2").status == 404, what="the end of their ttl")
    assert consumer.ack(1) == "ok"
    assert consumer.nack(2) in ("ok", "late")
    consumer.wait(inflight=1, pending=0)
    assert consumer.ack(2) == "ok" and consumer.ack(3) == "ok"
    view = consumer.wait(cursor=3)
    assert (view["dead"], view["lost"]) == (0, 0)
    assert broker.events("$dead.c") == []


def test_an_event_that_expires_while_it_waits_is_never_delivered_again(broker):
    consumer = Consumer(broker, "c", **JOBS)
    broker.publish("job.a", b"x", Event_TTL="1")
    consumer.fetch()
    consumer.nack(1, delay=1.5)
    wait_for(lambda: broker.get("/v1/events/1").status == 404)
    broker.publish("job.a", b"y")
    assert seqs(consumer.fetch()) == [2]
    assert consumer.fetch(wait=1.5) == []
    consumer.wait(pending=0, inflight=1, dead=0)


def test_an_event_that_expired_before_it_was_given_is_no_gap_and_not_lost(broker):
    consumer = Consumer(broker, "c", **JOBS)
    broker.publish("job.a", b"x", Event_TTL="1")
    broker.publish("job.a", b"y")
    wait_for(lambda: broker.get("/v1/events/1").status == 404)
    assert seqs(consumer.fetch(max=10)) == [2]
    assert consumer.view()["lost"] == 0


def test_seek_before_the_first_retained_begins_there(start_broker):
    broker = start_broker("--retention-events", "10")
    consumer = Consumer(broker, "c", **JOBS)
    for _ in range(3):
        publish_many(broker, "job.a", 10)
    wait_for(lambda: first_seq(broker) == 21, what="retention")
    consumer.seek(seq=5)
    assert seqs(consumer.fetch_all(10)) == list(range(21, 31))


def test_dead_letters_live_by_the_rules_of_the_log(start_broker):
    """Retention by number takes them like others, and the list shows no letter that is gone."""
    broker = start_broker("--retention-events", "5")
    consumer = Consumer(broker, "c", **JOBS)
    publish_many(broker, "job.a", 2)
    consumer.fetch_all(2)
    consumer.term(1, 2)
    consumer.wait(dead=2)
    for _ in range(3):
        publish_many(broker, "x", 10)
    wait_for(lambda: broker.events("$dead.c") == [], what="retention")
    assert consumer.dead() == []
    consumer.redrive()
    assert consumer.fetch(wait=0) == []
    consumer.wait(pending=0, inflight=0)
