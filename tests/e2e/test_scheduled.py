"""Publishing for later: what is answered, when it enters the log, that it does so once, and how it is taken back."""
import json
import time

import pytest

from lib.broker import wait_for
from lib.ws import WebSocket
from lib.ws_bin import BinaryWebSocket

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}
HOUR = 3600


def later(broker, topic, payload=b"", **headers):
    return broker.request("POST", f"/v1/topics/{topic}/events", payload, {name.replace("_", "-"): str(value) for name, value in headers.items()})


def batch(broker, *messages, **more):
    return broker.request("POST", "/v1/events", json.dumps({"messages": messages, **more}), JSON)


def waiting(broker, **query):
    """All that waits, over as many pages as it takes."""
    found, after = [], 0
    while after is not None:
        page = broker.get("/v1/scheduled?" + "&".join(f"{name}={value}" for name, value in {**query, "after": after}.items())).json
        found, after = found + page["scheduled"], page["next_after"]
    return found


# ---- what is answered ----


def test_single_answers_tell_stored_scheduled_and_duplicate_apart(broker):
    first = later(broker, "a", b"x", Event_Delay=HOUR, Event_Id="one")
    assert first.status == 202 and "seq" not in first.json
    assert first.json["scheduled"] is True and first.json["duplicate"] is False
    assert abs(first.json["deliver_at"] - (time.time() + HOUR) * 1000) < 60000
    again = later(broker, "a", b"x", Event_Delay=2 * HOUR, Event_Id="one")
    # The time of a duplicate is the first one's, which is not known here: better none than another one.
    assert again.status == 200 and again.json == {"scheduled": True, "message_id": first.json["message_id"], "duplicate": True}
    plain = later(broker, "a", b"x", Event_Id="one")
    assert plain.status == 200 and plain.json["duplicate"] is True and broker.stats()["last_seq"] == 0
    assert [e["deliver_at"] for e in waiting(broker)] == [first.json["deliver_at"]]


def test_a_batch_is_201_when_one_is_stored_else_202_when_one_was_scheduled_else_200(broker):
    now, then = {"topic": "a", "payload": "now"}, {"topic": "a", "payload": "then", "delay": HOUR}
    mixed = batch(broker, {**now, "message_id": "n"}, {**then, "message_id": "t"})
    assert mixed.status == 201
    stored, scheduled = mixed.json["results"]
    assert stored["seq"] == 1 and "scheduled" not in stored
    assert scheduled["scheduled"] is True and "seq" not in scheduled
    assert batch(broker, {**now, "message_id": "n"}, {**then, "message_id": "t2"}).status == 202
    again = batch(broker, {**now, "message_id": "n"}, {**then, "message_id": "t"})
    assert again.status == 200 and [r["duplicate"] for r in again.json["results"]] == [True, True]


def test_a_refused_batch_schedules_nothing(broker):
    answer = batch(broker, {"topic": "a", "payload": "", "delay": HOUR}, {"topic": "b", "payload": "", "expected_last_seq": 9})
    assert (answer.status, answer.json["index"]) == (409, 1)
    assert waiting(broker) == [] and broker.stats()["scheduled"] == 0


@pytest.mark.parametrize("protocol", [WebSocket, BinaryWebSocket])
def test_what_stands_around_a_batch_or_a_publish_holds_for_those_without_their_own(broker, protocol):
    answer = batch(broker, {"topic": "a", "payload": "1"}, {"topic": "b", "payload": "2", "delay": 2 * HOUR}, delay=HOUR)
    one, two = [r["deliver_at"] for r in answer.json["results"]]
    assert abs(two - one - HOUR * 1000) < 1000
    with protocol(broker.port) as ws:
        assert ws.call(type="publish", data={"topic": "c", "payload": ""}, delay=HOUR)["scheduled"] is True
        assert ws.call(type="publish", data={"topic": "c", "payload": "", "delay": HOUR})["scheduled"] is True
    assert len(waiting(broker)) == 4


def test_headers_that_a_json_body_would_pass_over_are_refused(broker):
    for name in ("Event-Delay", "Event-Deliver-At", "Expected-Last-Seq"):
        for kind in (JSON, NDJSON):
            answer = broker.request("POST", "/v1/events", '{"topic":"a","payload":""}', {**kind, name: "1"})
            assert (answer.status, answer.json["code"]) == (400, "invalid_request") and name in answer.json["detail"]
    assert broker.stats()["last_seq"] == 0 and waiting(broker) == []


def test_cloudevents_are_scheduled_by_the_headers_of_their_request(broker):
    binary = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t", "Event-Delay": str(HOUR)}
    assert broker.request("POST", "/v1/events", b"x", binary).status == 202
    structured = {"Content-Type": "application/cloudevents+json", "Event-Delay": str(HOUR)}
    event = {"specversion": "1.0", "id": "2", "source": "/s", "type": "t", "data": 1}
    assert broker.request("POST", "/v1/topics/a.b/events", json.dumps(event), structured).status == 202
    assert [e["topic"] for e in waiting(broker)] == ["t", "a.b"]


def test_a_time_together_with_a_condition_or_with_another_time_is_refused(broker):
    for headers in ({"Event_Delay": 1, "Event_Deliver_At": 1795466615835}, {"Event_Delay": 1, "Expected_Last_Seq": 0}):
        answer = later(broker, "a", b"", **headers)
        assert (answer.status, answer.json["code"]) == (400, "invalid_request") and "both" in answer.json["detail"]


def test_in_memory_the_refusal_says_why(start_broker):
    broker = start_broker("--storage", "memory", db=None)
    answer = later(broker, "a", b"", Event_Delay=5)
    assert answer.status == 400 and "memory" in answer.json["detail"]
    assert broker.get("/v1/scheduled").json == {"scheduled": [], "next_after": None}
    assert broker.stats()["next_due"] is None


def test_what_waits_is_seen_by_nobody_and_hides_nothing(broker):
    with WebSocket(broker.port) as ws:
        ws.subscribe("#")
        broker.publish("a", b"1")
        later(broker, "a", b"then", Event_Delay=HOUR)
        assert broker.get("/v1/events/1").status == 200 and len(broker.events()) == 1
        assert batch(broker, {"topic": "a", "payload": "2"}, {"topic": "a", "payload": "then", "delay": HOUR}).status == 201
        assert broker.get("/v1/events/2").status == 200 and len(broker.events()) == 2
        broker.publish("a", b"3")
        assert [ws.event()["payload"] for _ in range(3)] == ["1", "2", "3"] and ws.quiet() == []


# ---- when it enters ----


def test_it_enters_when_it_is_due_and_not_before_and_is_delivered_live(broker):
    with WebSocket(broker.port) as ws:
        ws.subscribe("a")
        due = later(broker, "a", b"x", Event_Delay=0.4).json["deliver_at"]
        assert broker.stats()["next_due"] == due
        event = ws.event()
    assert event["payload"] == "x" and event["metadata"]["timestamp"] >= due
    assert event["metadata"]["timestamp"] - due < 20000  # late under load, but by itself
    assert waiting(broker) == [] and broker.stats()["scheduled"] == 0
    assert broker.metric("eventbus_scheduled_due_total") == 1


def test_one_that_is_due_earlier_is_not_held_up_by_one_that_is_due_later(broker):
    later(broker, "late", b"", Event_Delay=HOUR)
    later(broker, "soon", b"", Event_Delay=0.2)
    wait_for(lambda: broker.events("soon"), timeout=30, what="the earlier one")
    assert broker.events("late") == []


def test_those_due_at_once_enter_by_due_time_whatever_their_number(broker):
    """More than one turn of the thread takes, scheduled in another order."""
    due = int(time.time() * 1000) + 1500
    order = [(n * 7919) % 1000 for n in range(1000)]
    answer = batch(broker, *({"topic": "t", "payload": str(n), "deliver_at": due + n // 10} for n in order))
    assert answer.status == 202
    wait_for(lambda: len(broker.events("t")) == 1000, what="all of them")
    entered = [int(e["payload"]) // 10 for e in broker.events("t")]
    assert entered == sorted(entered)


def test_a_time_that_is_over_means_now(broker):
    for headers in ({"Event_Deliver_At": 0}, {"Event_Deliver_At": 1600000000000}, {"Event_Delay": 0}):
        answer = later(broker, "a", b"x", **headers)
        assert answer.status == 201 and answer.json["seq"] >= 1 and "scheduled" not in answer.json


# ---- kill -9 ----


def test_kills_while_they_enter_give_each_exactly_once(start_broker):
    broker = start_broker()
    broker.listen = f"127.0.0.1:{broker.port}"
    due = int(time.time() * 1000) + 800
    ids = []
    for part in range(10):
        answer = batch(broker, *({"topic": "t", "payload": f"{part}.{n}", "deliver_at": due} for n in range(200)))
        assert answer.status == 202
        ids += [r["message_id"] for r in answer.json["results"]]
    for _ in range(4):
        seen = broker.stats()["last_seq"]
        wait_for(lambda: broker.stats()["last_seq"] > seen or broker.stats()["scheduled"] == 0, what="some of them")
        broker.kill()
        broker.start()
    wait_for(lambda: broker.stats()["scheduled"] == 0, what="the rest")
    assert sorted(e["message_id"] for e in broker.events("t")) == sorted(ids)


def test_overdue_ones_enter_at_the_start_by_due_time_and_a_repeat_is_a_duplicate_then(broker):
    now = int(time.time() * 1000)
    for n, after in enumerate((900, 300, 600)):
        assert later(broker, "t", str(after).encode(), Event_Deliver_At=now + after, Event_Id=f"id-{n}").status == 202
    broker.kill()
    wait_for(lambda: time.time() * 1000 > now + 1000)
    broker.start()
    wait_for(lambda: len(broker.events("t")) == 3)
    assert [e["payload"] for e in broker.events("t")] == ["300", "600", "900"]
    again = later(broker, "t", b"900", Event_Deliver_At=now + 900, Event_Id="id-0")
    assert again.status == 200 and again.json["duplicate"] is True and again.json["seq"] == 3


def test_the_end_does_not_wait_for_what_is_scheduled(broker):
    later(broker, "a", b"x", Event_Delay=HOUR)
    begin = time.monotonic()
    assert broker.stop() == 0
    assert time.monotonic() - begin < 30
    broker.start()
    assert [e["payload"] for e in waiting(broker)] == ["x"]


# ---- the list, and taking back ----


def test_the_list_has_pages_in_the_order_of_scheduling(broker):
    topics = [f"t.{n}" for n in range(25)]
    for n, topic in enumerate(topics):
        later(broker, topic, b"\xff", Event_Delay=HOUR - n, Event_Header_Colour="red", Event_TTL=60)
    page = broker.get("/v1/scheduled?limit=10").json
    assert [e["topic"] for e in page["scheduled"]] == topics[:10] and page["next_after"] is not None
    assert [e["topic"] for e in waiting(broker, limit=10)] == topics
    event = page["scheduled"][0]
    assert "seq" not in event and "timestamp" not in event["metadata"]
    assert event["payload"] == "/w==" and event["payload_encoding"] == "base64" and event["ttl"] == 60
    assert event["metadata"]["headers"] == {"colour": "red"}
    assert 0 < event["deliver_at"] - event["scheduled_at"] <= HOUR * 1000


def test_a_page_of_large_events_is_bounded_in_bytes(broker):
    for _ in range(12):
        later(broker, "big", b"x" * 1000000, Event_Delay=HOUR)
    answer = broker.get("/v1/scheduled?limit=1000")
    assert len(answer.body) < 6 << 20 and answer.json["next_after"] is not None
    assert len(waiting(broker, limit=1000)) == 12


def test_what_was_taken_back_is_gone_and_its_id_free_again(broker):
    made = later(broker, "a", b"x", Event_Delay=HOUR, Event_Id="order/1 x").json
    assert broker.request("DELETE", "/v1/scheduled/order%2F1%20x").status == 204
    assert waiting(broker) == []
    assert broker.request("DELETE", f"/v1/scheduled/{made['message_id']}").status == 404
    again = later(broker, "a", b"y", Event_Id="order/1 x")
    assert again.status == 201 and again.json["message_id"] == made["message_id"]
    late = broker.request("DELETE", f"/v1/scheduled/{made['message_id'].upper()}")
    assert (late.status, late.json["code"]) == (409, "conflict")


@pytest.mark.parametrize("id", ["", "%zz", "%00", "x" * 256])
def test_an_id_that_is_none_is_told(broker, id):
    answer = broker.request("DELETE", f"/v1/scheduled/{id}")
    assert answer.status in (400, 404), answer


def test_other_methods_are_told_which_there_are(broker):
    answer = broker.request("GET", "/v1/scheduled/some-id")
    assert answer.status == 405 and answer.headers["Allow"] == "DELETE, OPTIONS"


def test_the_bound_is_counted_and_free_again_when_one_goes(start_broker):
    broker = start_broker("--max-scheduled", "2")
    assert broker.stats()["limits"]["max_scheduled"] == 2
    for n in range(2):
        assert later(broker, "a", b"", Event_Delay=HOUR, Event_Id=f"id-{n}").status == 202
    refused = later(broker, "a", b"", Event_Delay=HOUR)
    assert (refused.status, refused.json["code"]) == (429, "limit_exceeded") and "max_scheduled" in refused.json["detail"]
    assert broker.metric('eventbus_publish_refused_total{code="limit_exceeded"}') == 1 or broker.metric("eventbus_publish_refused_total") >= 1
    assert later(broker, "a", b"").status == 201
    assert broker.request("DELETE", "/v1/scheduled/id-0").status == 204
    assert later(broker, "a", b"", Event_Delay=HOUR).status == 202
