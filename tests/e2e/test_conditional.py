"""Conditional publish: an append that says what it was made from, on every way in, with the true seq in each refusal."""
import json
import threading

import pytest

from lib.ws import WebSocket
from lib.ws_bin import BinaryWebSocket

JSON = {"Content-Type": "application/json"}


def append(broker, topic, expected, payload=b"x", **headers):
    headers = {"Expected-Last-Seq": str(expected), **{name.replace("_", "-"): value for name, value in headers.items()}}
    return broker.request("POST", f"/v1/topics/{topic}/events", payload, headers)


@pytest.mark.parametrize("protocol", [WebSocket, BinaryWebSocket])
def test_a_conflict_names_the_true_last_seq_for_people_and_for_machines(broker, protocol):
    assert append(broker, "a", 0).json["seq"] == 1
    broker.publish("b")
    refused = append(broker, "a", 0)
    assert (refused.status, refused.json["code"], refused.json["last_seq"]) == (409, "conflict", 1)
    assert "last seq 1" in refused.json["detail"]
    assert append(broker, "new", 7).json["last_seq"] == 0
    with protocol(broker.port) as ws:
        answer = ws.publish("a", data={"expected_last_seq": 5})
        assert (answer["type"], answer["code"], answer["last_seq"]) == ("error", "conflict", 1)
        assert ws.publish("a", data={"expected_last_seq": 1})["seq"] == 3
        assert ws.call(type="publish", data={"topic": "a", "payload": ""}, expected_last_seq=0)["code"] == "conflict"


def test_other_errors_have_no_last_seq(broker):
    with WebSocket(broker.port) as ws:
        ws.publish("a", data={"expected_last_seq": 5})
        assert "last_seq" not in ws.publish("a..b")
        assert "last_seq" not in ws.publish("$sys")
    assert "last_seq" not in broker.request("POST", "/v1/topics/a..b/events", b"").json


def test_a_batch_tells_which_member_and_the_seq_that_its_own_members_made(broker):
    event = {"topic": "a", "payload": ""}
    good = [{**event, "expected_last_seq": n} for n in range(3)]
    assert broker.request("POST", "/v1/events", json.dumps({"messages": good}), JSON).status == 201
    bad = [{**event, "expected_last_seq": 3}, {**event, "expected_last_seq": 3}]
    refused = broker.request("POST", "/v1/events", json.dumps({"messages": bad}), JSON)
    assert (refused.status, refused.json["index"], refused.json["last_seq"]) == (409, 1, 4)
    assert broker.stats()["last_seq"] == 3  # nothing of it was stored


def test_a_duplicate_is_found_before_the_condition(broker):
    first = append(broker, "a", 0, Event_Id="mine")
    again = append(broker, "a", 0, Event_Id="mine")
    assert (first.status, again.status) == (201, 200) and again.json == {**first.json, "duplicate": True}
    assert append(broker, "a", 0, Event_Id="other").status == 409


def test_the_condition_holds_across_kills_and_whatever_was_deleted(start_broker):
    broker = start_broker("--retention-events", "5")
    append(broker, "stream", 0)
    for _ in range(30):
        broker.publish("noise")
    for _ in range(2):
        broker.kill()
        broker.start()
        refused = append(broker, "stream", 0)
        assert (refused.status, refused.json["last_seq"]) == (409, 1)
    assert append(broker, "stream", 1).status == 201


@pytest.mark.parametrize("storage", ["sqlite", "memory"])
def test_writers_that_race_make_one_line_of_appends(start_broker, storage):
    """Each reads the last seq that it was told, appends, and on a conflict tries again from the true one: the events of
    the topic then form one chain, without a fork."""
    broker = start_broker("--storage", storage, **({} if storage == "sqlite" else {"db": None}))

    def write(name):
        last = 0
        with WebSocket(broker.port) as ws:
            done = 0
            while done < 25:
                answer = ws.publish("stream", f"{last}", data={"expected_last_seq": last})
                done += answer["type"] == "ok"
                last = answer["seq"] if answer["type"] == "ok" else answer["last_seq"]

    threads = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    events = broker.events("stream")
    assert len(events) == 150
    assert [int(e["payload"]) for e in events] == [0] + [e["seq"] for e in events][:-1]
