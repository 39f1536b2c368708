"""Scheduled events: durable when answered, enter the log when due, can be taken back; restarts, ids, limits."""
import json
import time
import uuid

import pytest

from lib.broker import wait_for
from lib.consumer import JSON
from lib.ws import WebSocket


def now_ms():
    return int(time.time() * 1000)


def schedule(broker, topic="later.a", payload=b"x", **headers):
    headers = {name.replace("_", "-"): str(value) for name, value in headers.items()}
    return broker.request("POST", f"/v1/topics/{topic}/events", payload, headers)


def listed(broker):
    answer = broker.get("/v1/scheduled?limit=1000")
    assert answer.status == 200, answer
    return answer.json["scheduled"]


def test_a_delay_is_answered_202_without_a_seq_and_the_event_comes_when_it_is_due(broker):
    begin = now_ms()
    answer = schedule(broker, Event_Delay=1, Event_Header_Colour="red", Content_Type="text/x")
    assert answer.status == 202 and answer.json["scheduled"] is True and "seq" not in answer.json, answer
    assert answer.json["duplicate"] is False and uuid.UUID(answer.json["message_id"])
    assert broker.events() == [] and broker.stats()["last_seq"] == 0
    other = broker.publish("soon", b"y")
    [_, event] = wait_for(lambda: len(events := broker.events()) == 2 and events)
    assert event["seq"] == other["seq"] + 1 and event["message_id"] == answer.json["message_id"]
    assert event["topic"] == "later.a" and event["payload"] == "x"
    assert event["metadata"]["headers"]["colour"] == "red" and event["metadata"]["content_type"] == "text/x"
    assert 1000 <= event["metadata"]["timestamp"] - begin < 6000
    assert listed(broker) == []


def test_deliver_at_is_a_time_and_delay_a_number_of_seconds_on_every_transport(broker):
    due = now_ms() + 600
    with WebSocket(broker.port) as ws:
        ws.subscribe("later.*")
        assert schedule(broker, "later.http", Event_Deliver_At=due).status == 202
        for n, more in enumerate(({"deliver_at": due}, {"delay": 0.6}, {"delay": 1})):
            answer = ws.publish("later.ws", str(n), data=more)
            assert answer["type"] == "ok" and answer["scheduled"] is True and "seq" not in answer, answer
        body = json.dumps({"topic": "later.json", "payload": "", "delay": 1})
        assert broker.request("POST", "/v1/events", body, JSON).status == 202
        got = [ws.event() for _ in range(5)]
        assert sorted(e["topic"] for e in got) == ["later.http", "later.json", "later.ws", "later.ws", "later.ws"]
        assert all(e["metadata"]["timestamp"] >= due for e in got)


def test_a_time_that_has_come_already_is_published_soon(broker):
    assert schedule(broker, Event_Deliver_At=now_ms() - 5000).status in (201, 202)
    wait_for(lambda: len(broker.events()) == 1, timeout=5)


@pytest.mark.parametrize("headers", [
    {"Event_Delay": -1}, {"Event_Delay": "soon"}, {"Event_Delay": 366 * 86400 + 1}, {"Event_Deliver_At": "tomorrow"}, {"Event_Deliver_At": -5},
    {"Event_Deliver_At": 10**15}, {"Event_Delay": 5, "Event_Deliver_At": 2000000000000},
])  # fmt: skip
def test_what_is_no_time_within_a_year_is_invalid(broker, headers):
    answer = schedule(broker, **headers)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request"), answer
    assert listed(broker) == []


def test_with_storage_memory_it_is_refused(start_broker):
    broker = start_broker("--storage", "memory", db=None)
    answer = schedule(broker, Event_Delay=5)
    assert (answer.status, answer.json["code"]) == (400, "invalid_request") and "memory" in answer.json["detail"]


def test_it_is_durable_when_answered(broker):
    ids = [schedule(broker, f"later.{n}", Event_Delay=2).json["message_id"] for n in range(5)]
    broker.kill()
    broker.start()
    assert [s["message_id"] for s in listed(broker)] == ids
    events = wait_for(lambda: len(found := broker.events()) == 5 and found)
    assert sorted(e["message_id"] for e in events) == sorted(ids)


def test_what_was_due_while_the_broker_was_down_enters_at_the_start_by_due_time(broker):
    for n, delay in enumerate((1.2, 0.9, 1.5, 1.0)):
        schedule(broker, f"later.{n}", Event_Delay=delay)
    schedule(broker, "later.far", Event_Delay=3600)
    broker.kill()
    due = time.time() + 1.6
    wait_for(lambda: time.time() > due)
    broker.start()
    events = wait_for(lambda: len(found := broker.events()) == 4 and found, timeout=10)
    assert [e["topic"] for e in events] == ["later.1", "later.3", "later.0", "later.2"]
    assert [s["topic"] for s in listed(broker)] == ["later.far"]


def test_kills_around_the_due_time_give_it_once(broker):
    ids = {schedule(broker, f"later.{n}", Event_Delay=0.1 * n).json["message_id"] for n in range(20)}
    for _ in range(4):
        wait = time.time() + 0.3
        wait_for(lambda: time.time() > wait)
        broker.kill()
        broker.start()
    events = wait_for(lambda: len(found := broker.events()) >= 20 and found)
    assert len(events) == 20 and {e["message_id"] for e in events} == ids
    assert listed(broker) == []


def test_the_list_shows_what_waits_and_when_it_is_due(broker):
    before = now_ms()
    first = schedule(broker, "later.a", b"one", Event_Delay=3600).json["message_id"]
    schedule(broker, "later.b", Event_Delay=60)
    found = listed(broker)
    assert {s["topic"] for s in found} == {"later.a", "later.b"}
    [one] = [s for s in found if s["message_id"] == first]
    assert before + 3600_000 <= one["deliver_at"] <= now_ms() + 3600_000
    assert broker.stats()["scheduled"] == 2
    page = broker.get("/v1/scheduled?limit=1").json
    assert len(page["scheduled"]) == 1
    rest = broker.get(f"/v1/scheduled?limit=1&after={page['next_after']}").json
    assert {s["topic"] for s in page["scheduled"] + rest["scheduled"]} == {"later.a", "later.b"}


def test_delete_takes_it_back_and_is_409_when_it_was_already_due(broker):
    id = schedule(broker, Event_Delay=3600).json["message_id"]
    assert broker.request("DELETE", f"/v1/scheduled/{id}").status in (200, 204)
    assert broker.request("DELETE", f"/v1/scheduled/{id}").status == 404
    assert listed(broker) == []
    id = schedule(broker, Event_Delay=0.3).json["message_id"]
    wait_for(lambda: broker.events())
    answer = broker.request("DELETE", f"/v1/scheduled/{id}")
    assert (answer.status, answer.json["code"]) == (409, "conflict"), answer
    assert broker.request("DELETE", f"/v1/scheduled/{uuid.uuid4()}").status == 404


def test_what_was_taken_back_does_not_come_after_a_kill(broker):
    id = schedule(broker, Event_Delay=1).json["message_id"]
    broker.request("DELETE", f"/v1/scheduled/{id}")
    broker.kill()
    broker.start()
    schedule(broker, "later.b", Event_Delay=1)
    assert [e["topic"] for e in wait_for(broker.events)] == ["later.b"]


def test_its_id_is_taken_when_it_is_scheduled(broker):
    """A repeat is a duplicate while it waits and after it came; with other content it is refused."""
    id = str(uuid.uuid4())
    assert schedule(broker, Event_Id=id, Event_Delay=1).status == 202
    answer = schedule(broker, Event_Id=id, Event_Delay=1)
    assert answer.json["duplicate"] is True and answer.status in (200, 202) and "seq" not in answer.json
    assert schedule(broker, payload=b"other", Event_Id=id).status == 422
    broker.kill()
    broker.start()
    assert schedule(broker, Event_Id=id).json["duplicate"] is True
    wait_for(broker.events)
    answer = schedule(broker, Event_Id=id)
    assert answer.status == 200 and answer.json == {"seq": 1, "message_id": id, "duplicate": True}
    assert len(broker.events()) == 1


def test_its_id_is_held_until_dedupe_window_after_it_is_due(start_broker):
    broker = start_broker("--dedupe-window", "1")
    id = str(uuid.uuid4())
    schedule(broker, Event_Id=id, Event_Delay=2)
    due = time.time() + 1.7
    wait_for(lambda: time.time() > due)  # past the window from when it was scheduled
    assert schedule(broker, Event_Id=id).json["duplicate"] is True
    wait_for(broker.events)
    wait_for(lambda: schedule(broker, Event_Id=id).status == 201, what="the id to be free")


def test_its_ttl_counts_from_entering_the_log(broker):
    schedule(broker, Event_Delay=1.5, Event_TTL=1)
    [event] = wait_for(broker.events)
    assert event["ttl"] == 1
    wait_for(lambda: broker.get(f"/v1/events/{event['seq']}").status == 404)


def test_max_scheduled_is_a_limit_that_is_told(start_broker):
    broker = start_broker("--max-scheduled", "2")
    ids = [schedule(broker, Event_Delay=3600).json["message_id"] for _ in range(2)]
    answer = schedule(broker, Event_Delay=3600)
    assert (answer.status, answer.json["code"]) == (429, "limit_exceeded") and "max_scheduled" in answer.json["detail"], answer
    assert broker.stats()["limits"]["max_scheduled"] == 2
    broker.request("DELETE", f"/v1/scheduled/{ids[0]}")
    assert schedule(broker, Event_Delay=3600).status == 202


def test_scheduled_events_reach_consumers_and_subscribers_like_others(broker):
    from lib.consumer import Consumer

    consumer = Consumer(broker, "c", patterns=["later.*"])
    schedule(broker, Event_Delay=0.5)
    [event] = consumer.fetch()
    assert event["topic"] == "later.a" and event["delivery"] == 1


def test_a_batch_with_one_that_is_later(broker):
    """Either the whole is taken, the later ones scheduled, or nothing is; never a part."""
    with WebSocket(broker.port) as ws:
        messages = [{"topic": "now", "payload": ""}, {"topic": "later.a", "payload": "", "delay": 1}]
        answer = ws.call(type="publish_batch", messages=messages)
        if answer["type"] == "error":
            assert broker.events() == [] and listed(broker) == []
            return
        assert answer["results"][0]["seq"] == 1 and answer["results"][1]["scheduled"] is True
        wait_for(lambda: [e["topic"] for e in broker.events()] == ["now", "later.a"])


def test_many_scheduled_cost_no_scan_when_one_is_due(broker):
    """20,000 that are far; one that is near enters without their rows being read."""
    for _ in range(2):
        body = json.dumps({"messages": [{"topic": "far", "payload": "", "delay": 86400}] * 10000})
        assert broker.request("POST", "/v1/events", body, JSON).status == 202
    before = broker.metric("eventbus_rows_read_total")
    begin = time.monotonic()
    schedule(broker, "near", Event_Delay=0.5)
    [event] = wait_for(broker.events, timeout=10)
    assert event["topic"] == "near" and time.monotonic() - begin < 5
    assert broker.metric("eventbus_rows_read_total") - before < 1000
