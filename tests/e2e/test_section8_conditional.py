"""Conditional publish: stored only when the topic's last seq is the one expected."""
import json
import threading
import uuid

import pytest

from lib.broker import wait_for
from lib.consumer import JSON, publish_many
from lib.ws import WebSocket


def put(broker, topic, expected, payload=b"x", **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return broker.request("POST", f"/v1/topics/{topic}/events", payload, {"Expected-Last-Seq": str(expected), **headers})


def test_it_is_stored_when_the_topics_last_seq_is_the_expected_one(broker):
    assert put(broker, "account.1", 0).status == 201
    broker.publish("account.2", b"other topics do not count")
    assert put(broker, "account.1", 1).json["seq"] == 3
    assert put(broker, "account.1", 3).json["seq"] == 4


def test_else_it_is_a_conflict_with_the_true_one(broker):
    broker.publish("account.1", b"x")
    for expected in (0, 2, 77):
        answer = put(broker, "account.1", expected)
        assert (answer.status, answer.json["code"]) == (409, "conflict") and "1" in answer.json["detail"], answer
    answer = put(broker, "new.topic", 1)
    assert answer.status == 409 and "0" in answer.json["detail"]
    assert broker.stats()["last_seq"] == 1
    with WebSocket(broker.port) as ws:
        answer = ws.publish("account.1", "y", data={"expected_last_seq": 0})
        assert (answer["type"], answer["code"]) == ("error", "conflict") and "1" in answer["message"], answer
        assert ws.publish("account.1", "y", data={"expected_last_seq": 1})["seq"] == 2


def test_a_retry_of_ones_own_success_is_a_duplicate(broker):
    """A duplicate is found before the condition."""
    id = str(uuid.uuid4())
    first = put(broker, "account.1", 0, Event_Id=id)
    again = put(broker, "account.1", 0, Event_Id=id)
    assert (again.status, again.json) == (200, {**first.json, "duplicate": True})
    assert put(broker, "account.1", 0, payload=b"other", Event_Id=id).status == 422


def test_members_of_a_batch_see_earlier_ones_and_one_conflict_refuses_all(broker):
    broker.publish("a", b"x")

    def batch(*members):
        messages = [{"topic": topic, "payload": "", **({"expected_last_seq": n} if n is not None else {})} for topic, n in members]
        return broker.request("POST", "/v1/events", json.dumps({"messages": messages}), JSON)

    answer = batch(("b", 0), ("b", 2), ("a", 1), ("b", None), ("b", 5))
    assert answer.status == 201 and [r["seq"] for r in answer.json["results"]] == [2, 3, 4, 5, 6], answer
    answer = batch(("c", 0), ("c", 0))
    assert (answer.status, answer.json["code"], answer.json["index"]) == (409, "conflict", 1), answer
    assert broker.stats()["last_seq"] == 6 and put(broker, "c", 0).status == 201


def test_a_topics_last_seq_outlives_its_event_and_a_kill(broker):
    seq = broker.publish("account.1", b"x", Event_TTL="1")["seq"]
    wait_for(lambda: broker.get(f"/v1/events/{seq}").status == 404 and broker.stats()["events"] == 0, what="its deletion")
    assert put(broker, "account.1", 0).status == 409
    broker.kill()
    broker.start()
    assert put(broker, "account.1", 0).status == 409
    assert put(broker, "account.1", seq).status == 201


def test_it_outlives_retention(start_broker):
    broker = start_broker("--retention-events", "10")
    broker.publish("account.1", b"x")
    for _ in range(3):
        publish_many(broker, "noise", 10)
    wait_for(lambda: broker.stats()["first_seq"] > 1)
    broker.restart()
    assert put(broker, "account.1", 0).status == 409
    assert put(broker, "account.1", 1).status == 201


def test_of_many_at_once_exactly_one_wins_each_round(broker):
    wins = []

    def writer(number):
        with WebSocket(broker.port) as ws:
            for turn in range(25):
                barrier.wait(30)
                answer = ws.publish("account.1", f"{number}", data={"expected_last_seq": turn})
                wins.append((turn, answer["type"], answer.get("code", "conflict")))

    barrier = threading.Barrier(4)
    threads = [threading.Thread(target=writer, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for turn in range(25):
        results = [(type, code) for t, type, code in wins if t == turn]
        assert sorted(type for type, _ in results) == ["error"] * 3 + ["ok"], (turn, results)
        assert {code for _, code in results} == {"conflict"}
    assert [e["seq"] for e in broker.events("account.1")] == list(range(1, 26))


@pytest.mark.parametrize("value", ["-1", "x", "1.5", str(2**53), ""])
def test_a_bad_expectation_is_400(broker, value):
    answer = put(broker, "a", value)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request"), answer
    with WebSocket(broker.port) as ws:
        for bad in (-1, "1", 1.5, True, [1]):
            answer = ws.publish("a", "", data={"expected_last_seq": bad})
            assert (answer["type"], answer["code"]) == ("error", "invalid_request"), bad
    assert broker.stats()["last_seq"] == 0


def test_null_is_no_condition(broker):
    broker.publish("a", b"x")
    with WebSocket(broker.port) as ws:
        assert ws.publish("a", "", data={"expected_last_seq": None})["type"] == "ok"


@pytest.mark.parametrize("storage", ["memory"])
def test_it_works_in_memory_too(start_broker, storage):
    broker = start_broker("--storage", storage, db=None)
    assert put(broker, "a", 0).status == 201
    assert put(broker, "a", 0).status == 409
    assert put(broker, "a", 1).status == 201
