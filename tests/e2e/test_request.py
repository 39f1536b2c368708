"""Request and reply in one HTTP call: whose reply it is, what comes back, and every way in which it can end."""
import json
import threading
import time

import pytest

from lib.broker import wait_for
from lib.rawhttp import RawHttp
from lib.ws import WebSocket
from lib.ws_bin import BinaryWebSocket


def ask(broker, topic="svc", body=b"?", timeout=20, **headers):
    headers = {name.replace("__", "-"): str(value) for name, value in headers.items()}
    return broker.request("POST", f"/v1/topics/{topic}/request?timeout={timeout}", body, headers)


class Asking(threading.Thread):
    """A request under way; .answer when it has ended."""

    def __init__(self, *args, **kwargs):
        super().__init__()
        self.args, self.kwargs, self.answer = args, kwargs, None
        self.start()

    def run(self):
        self.answer = ask(*self.args, **self.kwargs)

    def result(self):
        self.join(60)
        return self.answer


@pytest.fixture
def ws(broker):
    with WebSocket(broker.port) as ws:
        ws.subscribe("svc")
        yield ws


def reply(ws, event, payload="!", **headers):
    return ws.publish(event["metadata"]["headers"]["reply_to"], payload, data={"headers": headers})


def test_a_reply_with_another_correlation_id_is_passed_over(broker, ws):
    asking = Asking(broker, Event__Header__correlation_id="mine")
    event = ws.event()
    assert event["metadata"]["headers"]["correlation_id"] == "mine"
    reply(ws, event, "of another", correlation_id="other")
    reply(ws, event, "of this one", correlation_id="mine")
    answer = asking.result()
    assert (answer.status, answer.body) == (200, b"of this one")
    assert answer.headers["Event-Header-correlation_id"] == "mine"


@pytest.mark.parametrize("which", ["made", "message_id", "none"])
def test_the_made_id_the_message_id_or_none_is_taken(broker, ws, which):
    asking = Asking(broker)
    event = ws.event()
    headers = {"made": {"correlation_id": event["metadata"]["headers"]["correlation_id"]}, "message_id": {"correlation_id": event["message_id"]}, "none": {}}
    reply(ws, event, **headers[which])
    assert asking.result().status == 200


def test_a_request_is_an_event_with_what_a_publish_may_have(broker, ws):
    asking = Asking(broker, body=b"{}", Content__Type="application/json", Event__Id="r-1", Event__Header__Colour="red", Event__TTL="60", Event__Header__reply_to="not.this")
    event = ws.event()
    headers = event["metadata"]["headers"]
    assert headers["colour"] == "red" and headers["message-id"] == "r-1" and headers["reply_to"].startswith("_reply.")
    assert event["ttl"] == 60 and event["metadata"]["content_type"] == "application/json"
    reply(ws, event)
    assert asking.result().status == 200
    again = ask(broker, body=b"{}", Content__Type="application/json", Event__Id="r-1")
    assert (again.status, again.json["code"]) == (409, "conflict")  # a repeat would be heard by nobody


def test_replies_have_their_ttl_by_every_way_in(broker):
    """60 seconds whatever was asked; a topic that only looks alike is as others."""
    reply = {"topic": "_reply.x", "payload": "", "ttl": 7}
    ce = {"specversion": "1.0", "id": "1", "source": "/s", "type": "_reply.ce"}
    ways = [
        lambda: broker.publish("_reply.x", b"", Event_TTL="0"),
        lambda: broker.request("POST", "/v1/events", json.dumps({"messages": [reply, reply]}), {"Content-Type": "application/json"}),
        lambda: broker.request("POST", "/v1/events", json.dumps(reply), {"Content-Type": "application/x-ndjson"}),
        lambda: broker.request("POST", "/v1/events", json.dumps(ce), {"Content-Type": "application/cloudevents+json"}),
    ]
    for way in ways:
        way()
    with WebSocket(broker.port) as ws:
        ws.publish("_reply.x", "", ttl=7)
        ws.call(type="publish_batch", messages=[reply], ttl=9)
        ws.publish("_replying.x", "", ttl=7)
    with BinaryWebSocket(broker.port) as ws:
        ws.publish("_reply.x", "", ttl=7)
    events = {e["seq"]: e for e in [broker.get(f"/v1/events/{seq}").json for seq in range(1, broker.stats()["last_seq"] + 1)]}
    assert len(events) == 9
    assert {e["ttl"] for e in events.values() if e["topic"].startswith("_reply.")} == {60}
    assert {e["ttl"] for e in events.values() if e["topic"] == "_replying.x"} == {7}


def test_a_condition_holds_for_a_request_and_a_time_does_not_go_with_it(broker, ws):
    assert ask(broker, Expected__Last__Seq=9).status == 409
    refused = ask(broker, Event__Delay=5)
    assert (refused.status, refused.json["code"]) == (400, "invalid_request")
    assert broker.get("/v1/scheduled").json["scheduled"] == []


def test_headers_that_http_cannot_say_are_left_out_and_the_payload_still_comes(broker, ws):
    asking = Asking(broker)
    event = ws.event()
    ws.publish(event["metadata"]["headers"]["reply_to"], "ok", data={"headers": {"two words": "x", "line": "a\nb", "long": "x" * 9000, "fine": "é"}})
    answer = asking.result()
    assert (answer.status, answer.body) == (200, b"ok")
    assert answer.headers["Event-Header-fine"].encode("latin-1").decode() == "é"
    assert not any(name in answer.headers for name in ("Event-Header-line", "Event-Header-long"))


def test_an_empty_and_a_large_reply_come_whole(broker, ws):
    for payload in ("", "x" * 900000):
        asking = Asking(broker)
        reply(ws, ws.event(), payload)
        answer = asking.result()
        assert answer.status == 200 and answer.body == payload.encode()


def test_nothing_is_published_when_nobody_listens(broker):
    answer = ask(broker, topic="nobody")
    assert (answer.status, answer.json["code"]) == (503, "unavailable") and "nobody listens" in answer.json["detail"]
    assert broker.stats()["last_seq"] == 0
    assert broker.metric("eventbus_requests_unheard_total") == 1


def test_a_listener_that_has_left_does_not_count_and_one_to_everything_does(broker, ws):
    assert ws.call(type="unsubscribe", pattern="svc")["type"] == "ok"
    assert ask(broker).status == 503
    ws.subscribe("#")
    answer = ask(broker, timeout=0.2)
    assert (answer.status, answer.json["code"]) == (504, "timeout")
    assert broker.metric("eventbus_requests_timeout_total") == 1


def test_the_time_is_kept_to_the_fraction_for_many_at_once(broker, ws):
    begin = time.monotonic()
    asking = [Asking(broker, timeout=0.3 + n / 50) for n in range(20)]
    assert {a.result().status for a in asking} == {504}
    assert 0.3 <= time.monotonic() - begin < 20


def test_a_reply_after_the_time_harms_nobody(broker, ws):
    assert ask(broker, timeout=0.1).status == 504
    event = ws.event()
    assert reply(ws, event)["type"] == "ok"
    asking = Asking(broker)
    reply(ws, ws.event(), "in time")
    assert asking.result().body == b"in time"


def test_at_the_end_of_the_broker_those_that_wait_get_503_at_once(broker, ws):
    asking = [Asking(broker, timeout=60) for _ in range(5)]
    for _ in asking:
        ws.event()
    begin = time.monotonic()
    ws.sock.close()
    assert broker.stop() == 0
    assert {a.result().status for a in asking} == {503}
    assert time.monotonic() - begin < 40


def test_a_client_that_goes_away_is_cleaned_up(broker, ws):
    for _ in range(3):
        http = RawHttp(broker.port)
        http.send("POST /v1/topics/svc/request?timeout=0.5 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n?")
        ws.event()
        http.close()
    wait_for(lambda: broker.metric("eventbus_requests_waiting") == 0, what="the end of those requests")
    wait_for(lambda: not any(s["pattern"].startswith("_reply.") for s in broker.get("/v1/subscriptions").json["subscriptions"]))


def test_structured_cloudevents_may_ask_too(broker, ws):
    event = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": "what"}
    asking = Asking(broker, body=json.dumps(event).encode(), Content__Type="application/cloudevents+json")
    got = ws.event()
    assert got["metadata"]["headers"]["ce-id"] == "1"
    reply(ws, got)
    assert asking.result().status == 200
