"""CloudEvents 1.0 over HTTP: structured, batched and binary mode."""
import base64
import json

import pytest

from test_http_publish import last, problem

CE = {"Content-Type": "application/cloudevents+json"}
BATCH = {"Content-Type": "application/cloudevents-batch+json"}


def event(**more):
    return {"specversion": "1.0", "id": "1", "source": "/shop", "type": "shop.order.made", **more}


def post(broker, body, path="/v1/events", headers=CE):
    return broker.request("POST", path, json.dumps(body), headers)


def test_structured_event(broker):
    answer = post(broker, event(data={"n": [1, 2.5, "ü"]}, subject="o-1", time="2026-01-02T03:04:05Z", count=3, flag=True))
    assert answer.status == 201
    stored = last(broker)
    assert stored["topic"] == "shop.order.made" and json.loads(stored["payload"]) == {"n": [1, 2.5, "ü"]}
    assert stored["metadata"]["content_type"] == "application/json"
    assert stored["metadata"]["headers"] == {
        "ce-specversion": "1.0", "ce-id": "1", "ce-source": "/shop", "ce-type": "shop.order.made", "ce-subject": "o-1",
        "ce-time": "2026-01-02T03:04:05Z", "ce-count": "3", "ce-flag": "true"}  # fmt: skip


def test_topic_is_the_paths_else_the_extension_else_the_type(broker):
    post(broker, event(topic="by.extension"))
    assert last(broker)["topic"] == "by.extension"
    post(broker, event(topic="by.extension", id="2"), "/v1/topics/by.path/events")
    assert last(broker)["topic"] == "by.path"


@pytest.mark.parametrize("more, payload, content_type", [
    ({"datacontenttype": "text/xml", "data": "<a/>"}, b"<a/>", "text/xml"),
    ({"datacontenttype": "application/json", "data": "text"}, b'"text"', "application/json"),
    ({"datacontenttype": "application/vnd.x+json; v=1", "data": [1]}, b"[1]", "application/vnd.x+json; v=1"),
    ({"data": "text"}, b'"text"', "application/json"),
    ({"datacontenttype": "image/png", "data_base64": base64.b64encode(b"\xff\x00").decode()}, b"\xff\x00", "image/png"),
    ({}, b"", "text/plain"),
])  # fmt: skip
def test_data(broker, more, payload, content_type):
    assert post(broker, event(**more)).status == 201
    stored = last(broker)
    body = base64.b64decode(stored["payload"]) if stored.get("payload_encoding") else stored["payload"].encode()
    assert body == payload and stored["metadata"]["content_type"] == content_type


def test_id_is_made_of_source_and_id_in_every_mode(broker):
    first = post(broker, event(data=1)).json
    binary = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/shop", "ce-type": "shop.order.made", "Content-Type": "application/json",
              "Event-Id": "not-used"}  # fmt: skip
    again = broker.request("POST", "/v1/events", b"1", binary)
    assert again.status == 200 and again.json == {**first, "duplicate": True}
    assert post(broker, event(data=1, source="/other")).json["duplicate"] is False
    assert "message-id" not in broker.get("/v1/events/1").json["metadata"]["headers"]


def test_batch(broker):
    answer = post(broker, [event(data=1), event(id="2", topic="t", data=2), event(data=1)], headers=BATCH)
    assert answer.status == 201 and [r["duplicate"] for r in answer.json["results"]] == [False, False, True]
    assert problem(post(broker, [event(id="3"), {"id": "4"}], headers=BATCH), 400, "invalid_request")["index"] == 1
    assert post(broker, [], headers=BATCH).json == {"results": []}
    problem(post(broker, {}, headers=BATCH), 400, "invalid_request")
    problem(post(broker, [], "/v1/topics/a/events", BATCH), 415, "unsupported_media_type")


def test_binary_mode(broker):
    headers = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/s", "ce-type": "t.u", "ce-subject": "Gr%C3%BC%C3%9Fe%20%22x%22",
               "ce-comexample": "v", "Content-Type": "image/png"}  # fmt: skip
    assert broker.request("POST", "/v1/events", b"\xff", headers).status == 201
    stored = last(broker)
    assert stored["topic"] == "t.u" and base64.b64decode(stored["payload"]) == b"\xff" and stored["metadata"]["content_type"] == "image/png"
    assert stored["metadata"]["headers"]["ce-subject"] == 'Grüße "x"' and stored["metadata"]["headers"]["ce-comexample"] == "v"
    assert broker.request("POST", "/v1/topics/my.topic/events", b"", {**headers, "ce-id": "8"}).status == 201
    assert last(broker)["topic"] == "my.topic"


@pytest.mark.parametrize("broken", [
    {"specversion": None}, {"specversion": "0.3"}, {"id": ""}, {"id": None}, {"source": None}, {"type": None}, {"type": ""}, {"id": {"a": 1}},
    {"bad-name": "x"}, {"Upper": "x"}, {"list": []}, {"data": 1, "data_base64": "MQ=="}, {"data_base64": "?"}, {"datacontenttype": 1},
])  # fmt: skip
def test_bad_events_are_400(broker, broken):
    body = {name: value for name, value in event(**broken).items() if value is not None}
    problem(post(broker, body), 400, "invalid_request")


def test_bad_binary_events_are_400(broker):
    headers = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "/s", "ce-type": "t.u", "Content-Type": "text/plain"}
    for missing in ("ce-specversion", "ce-id", "ce-source", "ce-type"):
        left = {name: value for name, value in headers.items() if name != missing}
        problem(broker.request("POST", "/v1/topics/a/events", b"", left), 400, "invalid_request")


def test_an_attribute_with_an_endless_name_is_refused_not_dropped(broker):
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "/s", "ce-type": "t", "ce-" + "x" * 300: "y"}
    answer = broker.request("POST", "/v1/events", b"x", headers)
    assert answer.status == 400 and "64 letters" in answer.json["detail"]
    assert broker.stats()["last_seq"] == 0


def test_type_that_is_no_topic_is_refused(broker):
    problem(post(broker, event(type="not a topic")), 400, "invalid_topic")
    problem(post(broker, event(type="$sys")), 403, "forbidden")
