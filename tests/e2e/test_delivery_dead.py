"""Dead letters: when an event becomes one, what it carries, that it is told once, and redrive."""
import pytest

from lib.broker import wait_for
from lib.consumer import Consumer, Worker, publish_many, seqs

JOBS = {"patterns": ["job.*"], "from": "all", "ack_wait": 600}


def dead_events(broker, name, count=0):
    """The letters in the log; so many are waited for."""
    return wait_for(lambda: len(found := broker.events(f"$dead.{name}")) >= count and (found,), what=f"{count} letters")[0]


def test_after_max_deliver_deliveries_without_an_ack_it_is_a_dead_letter(broker):
    consumer = Consumer(broker, "c", **JOBS, max_deliver=3)
    publish_many(broker, "job.a", 2)
    for number in (1, 2, 3):
        assert dead_events(broker, "c") == []
        assert [(e["seq"], e["delivery"]) for e in consumer.fetch()] == [(1, number)]
        assert consumer.nack(1) == "ok"
    view = consumer.wait(dead=1)
    assert view["redelivered"] == 2
    assert [e["payload"] for e in dead_events(broker, "c", 1)] == ["0"]
    assert seqs(consumer.fetch(max=10)) == [2]


@pytest.mark.parametrize("how", ["nack", "time", "vanished worker"])
def test_every_way_a_last_delivery_can_fail_ends_in_one(broker, how):
    consumer = Consumer(broker, "c", **{**JOBS, "ack_wait": 0.2 if how == "time" else 600}, max_deliver=1)
    publish_many(broker, "job.a", 1)
    if how == "vanished worker":
        with Worker(broker, "c") as worker:
            worker.next()
    else:
        consumer.fetch()
        if how == "nack":
            consumer.nack(1)
    consumer.wait(dead=1, pending=0, inflight=0)
    assert [e["payload"] for e in dead_events(broker, "c", 1)] == ["0"]
    assert wait_for(lambda: consumer.view()["cursor"] >= 1)


def test_it_carries_the_originals_payload_and_headers_and_says_what_happened(broker):
    consumer = Consumer(broker, "billing", **JOBS, max_deliver=2)
    original = broker.publish("job.a", b"\xffbytes", Event_Header_Colour="red", Content_Type="application/x-job", Event_TTL="3600", traceparent="00-1-2-03")
    consumer.fetch()
    consumer.nack(1)
    consumer.fetch()
    consumer.term(1, reason="cannot be parsed: é")
    consumer.wait(dead=1)
    [letter] = dead_events(broker, "billing", 1)
    [plain] = broker.events("job.a")
    assert letter["topic"] == "$dead.billing" and "ttl" not in letter
    assert letter["message_id"] != original["message_id"] and letter["seq"] > original["seq"]
    assert (letter["payload"], letter["payload_encoding"]) == (plain["payload"], plain["payload_encoding"])
    assert letter["metadata"]["content_type"] == "application/x-job"
    headers = letter["metadata"]["headers"]
    assert headers["colour"] == "red" and headers["traceparent"] == "00-1-2-03"
    assert headers["dead-seq"] == "1" and headers["dead-topic"] == "job.a" and headers["dead-message-id"] == original["message_id"]
    assert headers["dead-deliveries"] == "2" and headers["dead-reason"] == "cannot be parsed: é"


def test_the_reason_is_said_for_each_way(broker):
    """Somebody who reads the queue must see why without the broker's log."""
    consumer = Consumer(broker, "c", **{**JOBS, "ack_wait": 0.2}, max_deliver=1)
    publish_many(broker, "job.a", 3)
    consumer.fetch_all(3)
    consumer.nack(1)
    consumer.term(2)
    consumer.wait(dead=3)
    reasons = {e["metadata"]["headers"]["dead-seq"]: e["metadata"]["headers"].get("dead-reason") for e in dead_events(broker, "c", 3)}
    assert set(reasons) == {"1", "2", "3"} and all(reasons.values()), reasons


def test_subscribe_by_its_name_or_by_dead_star(broker):
    consumer = Consumer(broker, "c", **JOBS)
    with Worker(broker, "other", settings={"patterns": ["x"]}) as worker:
        for pattern in ("$dead.c", "$dead.*"):
            worker.ws.subscribe(pattern)
        worker.ws.subscribe("#")
        publish_many(broker, "job.a", 1)
        consumer.fetch()
        consumer.term(1)
        got = [worker.ws.event() for _ in range(2)]
        assert [e["topic"] for e in got] == ["job.a", "$dead.c"]


def test_nobody_may_publish_there(broker):
    assert broker.request("POST", "/v1/topics/$dead.c/events", b"x").status == 403


def test_dead_letter_false_only_counts(broker):
    consumer = Consumer(broker, "c", **JOBS, max_deliver=1, dead_letter=False)
    publish_many(broker, "job.a", 2)
    consumer.fetch_all(2)
    consumer.nack(1)
    consumer.term(2)
    consumer.wait(dead=2, pending=0, inflight=0)
    assert dead_events(broker, "c") == [] and consumer.dead() == []
    assert broker.stats()["last_seq"] == 2


def test_an_ack_before_the_end_makes_none_and_after_it_changes_nothing(broker):
    consumer = Consumer(broker, "c", **JOBS, max_deliver=2)
    publish_many(broker, "job.a", 1)
    consumer.fetch()
    consumer.nack(1)
    consumer.fetch()
    assert consumer.ack(1) == "ok"
    consumer.wait(dead=0, cursor=1)
    assert consumer._results("nack", [1], {}) == "late"
    assert dead_events(broker, "c") == []


def test_a_consumer_never_gets_its_own(broker):
    """Also one whose patterns reach $dead.*; others of another name do."""
    a = Consumer(broker, "a", patterns=["job.*", "$dead.#"], from_="all", ack_wait=600)
    b = Consumer(broker, "b", patterns=["$dead.*"], from_="all", ack_wait=600)
    publish_many(broker, "job.a", 1)
    a.fetch()
    a.term(1)
    [letter] = b.fetch()
    assert letter["topic"] == "$dead.a"
    publish_many(broker, "job.a", 1)
    assert [e["topic"] for e in a.fetch(max=10)] == ["job.a"]


def test_what_lies_on_dead_topics_is_never_dead_lettered_again(broker):
    """Given up there, it is counted, and no letter of a letter is made."""
    a = Consumer(broker, "a", **JOBS)
    b = Consumer(broker, "b", patterns=["$dead.*"], from_="all", max_deliver=1, ack_wait=600)
    publish_many(broker, "job.a", 1)
    a.fetch()
    a.term(1)
    [letter] = b.fetch()
    b.nack(letter["seq"])
    b.wait(pending=0, inflight=0, cursor=letter["seq"])
    assert dead_events(broker, "b") == [] and len(broker.events("$dead.%23")) == 1


def test_the_list_shows_the_letters_that_wait(broker):
    consumer = Consumer(broker, "c", **JOBS)
    assert consumer.dead() == []
    publish_many(broker, "job.a", 3)
    consumer.fetch_all(3)
    consumer.term(1, 2, 3)
    consumer.wait(dead=3)
    letters = dead_events(broker, "c", 3)
    assert consumer.dead() == letters and len(letters) == 3
    page = consumer.call("GET", "/dead?limit=2").json
    assert page["events"] == letters[:2]
    assert consumer.call("GET", f"/dead?limit=2&after={page['next_after']}").json["events"] == letters[2:]


def test_redrive_of_all_gives_the_copies_to_that_consumer_alone_with_delivery_1(broker):
    consumer, other = Consumer(broker, "c", **JOBS), Consumer(broker, "other", **JOBS)
    publish_many(broker, "job.a", 3)
    consumer.fetch_all(3)
    consumer.term(1, 2, 3)
    dead_events(broker, "c", 3)
    other.ack(*seqs(other.fetch_all(3)))
    consumer.redrive()
    again = consumer.fetch_all(3)
    assert sorted(e["payload"] for e in again) == ["0", "1", "2"] and {e["delivery"] for e in again} == {1}
    assert consumer.dead() == []
    assert consumer.ack(*seqs(again)) == ["ok"] * 3
    consumer.wait(pending=0, inflight=0)
    assert other.view()["pending"] == 0 and other.fetch(wait=0) == []


def test_redrive_of_some_leaves_the_rest(broker):
    consumer = Consumer(broker, "c", **JOBS)
    publish_many(broker, "job.a", 3)
    consumer.fetch_all(3)
    consumer.term(1, 2, 3)
    dead_events(broker, "c", 3)
    letters = consumer.dead()
    consumer.redrive(letters[1]["seq"])
    [event] = consumer.fetch(max=10)
    assert (event["payload"], event["delivery"]) == (letters[1]["payload"], 1)
    assert consumer.dead() == [letters[0], letters[2]]


def test_a_redriven_one_that_fails_again_waits_again_and_is_lost_by_nobody(broker):
    """What lies on $dead.* is never dead-lettered again: the kept copy is the letter, and stays to be redriven."""
    consumer = Consumer(broker, "c", **JOBS, max_deliver=1)
    publish_many(broker, "job.a", 1)
    consumer.fetch()
    consumer.nack(1)
    dead_events(broker, "c", 1)
    consumer.redrive()
    [event] = consumer.fetch()
    consumer.nack(event["seq"])
    consumer.wait(pending=0, inflight=0)
    wait_for(lambda: len(consumer.dead()) == 1, timeout=10, what="the letter to be there again")
    assert len(dead_events(broker, "c")) == 1
    consumer.redrive()
    [event] = consumer.fetch()
    assert consumer.ack(event["seq"]) == "ok"
    assert consumer.dead() == []


@pytest.mark.parametrize("body", [{"seqs": "all"}, {"seqs": ["1"]}, {"seqs": [-1]}])
def test_a_bad_redrive_is_400(broker, body):
    assert Consumer(broker, "c", **JOBS).call("POST", "/dead/redrive", body).status == 400


def test_redrive_of_a_seq_that_is_no_letter_of_it_redrives_nothing(broker):
    consumer = Consumer(broker, "c", **JOBS)
    publish_many(broker, "job.a", 2)
    consumer.fetch_all(2)
    consumer.term(1)
    consumer.wait(dead=1)
    assert consumer.call("POST", "/dead/redrive", {"seqs": [1, 2, 99]}).status in (200, 404)
    assert consumer.fetch(max=10, wait=0) == [] and len(consumer.dead()) == 1


def test_letters_and_redrive_survive_kills(broker):
    """A letter and the end of its original are one transaction; a redriven one is out, or waits, never both or neither."""
    consumer = Consumer(broker, "c", **JOBS, max_deliver=1)
    publish_many(broker, "job.a", 4)
    consumer.fetch_all(4)
    consumer.nack(1, 2, 3)
    dead_events(broker, "c", 3)
    broker.kill()
    broker.start()
    # what was out at the kill had its one delivery: 4 is given up too
    assert sorted(e["metadata"]["headers"]["dead-seq"] for e in dead_events(broker, "c", 4)) == ["1", "2", "3", "4"]
    letters = wait_for(lambda: len(found := consumer.dead()) == 4 and found)
    consumer.redrive(letters[0]["seq"])
    broker.kill()
    broker.start()
    assert consumer.dead() == letters[1:]
    [event] = consumer.fetch(max=10)
    assert event["payload"] == letters[0]["payload"]
    assert consumer.ack(event["seq"]) == "ok"
    consumer.wait(pending=0, inflight=0, dead=4)
    assert len(dead_events(broker, "c")) == 4


def test_delete_of_the_consumer_leaves_its_letters_in_the_log(broker):
    """They are events like others; only the list of what may be redriven ends."""
    consumer = Consumer(broker, "c", **JOBS)
    publish_many(broker, "job.a", 1)
    consumer.fetch()
    consumer.term(1)
    dead_events(broker, "c", 1)
    consumer.delete()
    assert len(dead_events(broker, "c")) == 1
    assert Consumer(broker, "c", **JOBS).dead() == []
