"""POST: one event at its topic's path, one and many at /v1/events."""
import base64
import json
import socket
import threading
import uuid

import pytest

from lib.broker import wait_for
from lib.rawhttp import RawHttp

JSON = {"Content-Type": "application/json"}
NDJSON = {"Content-Type": "application/x-ndjson"}


def problem(answer, status, code):
    """Every refusal has the same form: RFC 9457 with our code."""
    assert answer.status == status, answer
    assert answer.headers["Content-Type"] == "application/problem+json", answer
    body = answer.json
    assert body["status"] == status and body["code"] == code, body
    assert body["type"] and body["title"] and body["detail"]
    return body


def last(broker):
    stats = broker.stats()
    return broker.get(f"/v1/events/{stats['last_seq']}").json


def post(broker, path, body=b"", **headers):
    return broker.request("POST", path, body, {name.replace("_", "-"): value for name, value in headers.items()})


# ---- one event at its topic ----


def test_published_event_is_kept_as_it_came(broker):
    answer = post(broker, "/v1/topics/user.created/events", b'{"id":1}', Content_Type="application/json; charset=utf-8")
    assert answer.status == 201
    assert answer.headers["Cache-Control"] == "no-store"
    made = answer.json
    assert made["duplicate"] is False and made["seq"] == 1
    assert uuid.UUID(made["message_id"]).version == 7
    event = broker.get("/v1/events/1").json
    assert event["topic"] == "user.created" and event["payload"] == '{"id":1}' and event["seq"] == 1
    assert event["message_id"] == made["message_id"]
    assert event["metadata"]["content_type"] == "application/json; charset=utf-8"
    assert "headers" not in event["metadata"] and "ttl" not in event and "type" not in event


def test_seqs_rise_and_an_empty_body_is_an_event(broker):
    assert [broker.publish("a.b")["seq"] for _ in range(3)] == [1, 2, 3]
    assert broker.get("/v1/events/3").json["payload"] == ""


def test_same_id_again_is_a_duplicate_with_200(broker):
    first = post(broker, "/v1/topics/a/events", b"x", Event_Id="order-1")
    again = post(broker, "/v1/topics/a/events", b"x", Event_Id="order-1")
    assert (first.status, again.status) == (201, 200)
    assert again.json == {**first.json, "duplicate": True}


def test_same_id_with_other_content_is_refused(broker):
    post(broker, "/v1/topics/a/events", b"x", Event_Id="order-1")
    body = problem(post(broker, "/v1/topics/a/events", b"y", Event_Id="order-1"), 422, "message_id_reused")
    assert "index" not in body


def test_id_that_is_a_uuid_is_taken_and_any_other_kept_in_a_header(broker):
    given = str(uuid.uuid4())
    assert post(broker, "/v1/topics/a/events", b"", Event_Id=given.upper()).json["message_id"] == given
    assert post(broker, "/v1/topics/a/events", b"", Event_Id="{" + given + "}").json["duplicate"] is True
    answer = post(broker, "/v1/topics/a/events", b"", Event_Id="order-1").json
    assert uuid.UUID(answer["message_id"]).version == 5
    assert last(broker)["metadata"]["headers"] == {"message-id": "order-1"}


def test_idempotency_key_is_an_id_too(broker):
    first = post(broker, "/v1/topics/a/events", b"", Idempotency_Key="k1")
    assert post(broker, "/v1/topics/a/events", b"", Event_Id="k1").json["message_id"] == first.json["message_id"]


@pytest.mark.parametrize("bad", ["", "x" * 256])
def test_bad_event_id_is_refused(broker, bad):
    problem(post(broker, "/v1/topics/a/events", b"", Event_Id=bad), 400, "invalid_message_id")


def test_headers_become_lower_case_headers_of_the_event(broker):
    post(broker, "/v1/topics/a/events", b"", Event_Header_Reply_To="x.y", traceparent="00-1-2-3", tracestate="a=1", baggage="b=2")
    assert last(broker)["metadata"]["headers"] == {"reply-to": "x.y", "traceparent": "00-1-2-3", "tracestate": "a=1", "baggage": "b=2"}


def test_publishers_own_message_id_header_is_the_brokers(broker):
    post(broker, "/v1/topics/a/events", b"", Event_Header_Message_Id="mine")
    assert "headers" not in last(broker)["metadata"]


def test_header_value_must_be_utf8(broker):
    with RawHttp(broker.port) as raw:
        raw.send(b"POST /v1/topics/a/events HTTP/1.1\r\nHost: localhost\r\nEvent-Header-X: \xff\xfe\r\nContent-Length: 0\r\n\r\n")
        assert raw.answer().status == 400
    answer = broker.request("POST", "/v1/topics/a/events", b"", {"Event-Header-X": "grün".encode()})
    assert answer.status == 201 and last(broker)["metadata"]["headers"] == {"x": "grün"}


def test_sixteen_kib_of_headers_fit_and_more_are_refused(broker):
    fits = {f"Event-Header-h{i:02}": "v" * 253 for i in range(64)}
    usual = {f"X-Forwarded-{i}": "w" * 100 for i in range(16)}
    assert broker.request("POST", "/v1/topics/a/events", b"x" * 100000, {**fits, **usual}).status == 201
    assert len(last(broker)["payload"]) == 100000 and len(last(broker)["metadata"]["headers"]) == 64
    problem(broker.request("POST", "/v1/topics/a/events", b"", {**fits, "Event-Header-h00": "v" * 254}), 429, "limit_exceeded")
    many = {f"Event-Header-h{i:02}": "v" for i in range(65)}
    problem(broker.request("POST", "/v1/topics/a/events", b"", many), 429, "limit_exceeded")


def test_ttl_in_seconds(broker):
    assert post(broker, "/v1/topics/a/events", b"", Event_TTL="60").status == 201
    assert last(broker)["ttl"] == 60
    assert post(broker, "/v1/topics/a/events", b"", Event_TTL="0").status == 201
    assert "ttl" not in last(broker)
    for bad in ("-1", "1.5", "soon", ""):
        problem(post(broker, "/v1/topics/a/events", b"", Event_TTL=bad), 400, "invalid_request")


@pytest.mark.parametrize("given, body, kept", [
    ("application/x-www-form-urlencoded", b"hello", "text/plain"),
    ("application/x-www-form-urlencoded", b"\xff", "application/octet-stream"),
    (None, "grün".encode(), "text/plain"),
    (None, b"\xff\x00", "application/octet-stream"),
    ("image/png", b"\xff\x00", "image/png"),
])  # fmt: skip
def test_content_type(broker, given, body, kept):
    with RawHttp(broker.port) as raw:
        line = f"Content-Type: {given}\r\n" if given else ""
        raw.send(f"POST /v1/topics/a/events HTTP/1.1\r\nHost: localhost\r\n{line}Content-Length: {len(body)}\r\n\r\n")
        raw.send(body)
        assert raw.answer().status == 201
    event = last(broker)
    assert event["metadata"]["content_type"] == kept
    if event.get("payload_encoding") == "base64":
        assert base64.b64decode(event["payload"]) == body
    else:
        assert event["payload"].encode() == body


@pytest.mark.parametrize("headers", [{"Content-Type": "multipart/form-data; boundary=x"}, {"Content-Encoding": "gzip"}])
def test_multipart_and_encoded_bodies_are_415(broker, headers):
    problem(broker.request("POST", "/v1/topics/a/events", b"x", headers), 415, "unsupported_media_type")


# ---- the topic in the path ----


@pytest.mark.parametrize("segment, topic", [
    ("a%2Fb", "a/b"), ("a+b", "a+b"), ("%C3%BC.x", "ü.x"), ("a%252e", "a%2e"), ("x%3Fy", "x?y"),
])  # fmt: skip
def test_topic_is_one_percent_encoded_segment(broker, segment, topic):
    broker.publish(segment, b"")
    assert last(broker)["topic"] == topic


@pytest.mark.parametrize("segment", ["a%00b", "a%zz", "a%2", "a%", "a..b", ".a", "a.", "a.*", "a.%23", "a%20b", "a%0Ab", "%FF", "a%C2%A0b", "x" * 256])
def test_bad_topic_is_400(broker, segment):
    problem(post(broker, f"/v1/topics/{segment}/events"), 400, "invalid_topic")


def test_topic_of_255_bytes_fits_also_fully_escaped(broker):
    broker.publish("%61" * 255, b"")
    assert last(broker)["topic"] == "a" * 255


def test_path_with_more_segments_is_404(broker):
    problem(post(broker, "/v1/topics/a/b/events"), 404, "not_found")
    problem(post(broker, "/v1/topics//events"), 400, "invalid_topic")
    problem(post(broker, "/v1/topics/a/events/"), 404, "not_found")


def test_the_brokers_own_topics_are_forbidden(broker):
    problem(post(broker, "/v1/topics/$sys.x/events"), 403, "forbidden")
    broker.publish("_internal", b"")


# ---- sizes ----


def test_largest_payload_fits_and_one_byte_more_is_413(start_broker):
    broker = start_broker("--max-payload", "2000")
    assert post(broker, "/v1/topics/a/events", b"x" * 2000).status == 201
    body = problem(post(broker, "/v1/topics/a/events", b"x" * 2001), 413, "payload_too_large")
    assert "2000" in body["detail"]


def test_a_body_far_too_large_is_answered_without_reading_it_all(broker):
    with RawHttp(broker.port) as raw:
        raw.send(f"POST /v1/topics/a/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: {1 << 40}\r\n\r\n")
        raw.send(b"x" * 100000)
        answer = raw.answer()
        assert answer.status == 413 and answer.json["code"] == "payload_too_large"


def test_a_client_that_sends_all_before_it_reads_gets_the_413(broker):
    """The answer must not be overtaken by a reset, though most of the body is never read by a handler."""
    with RawHttp(broker.port) as raw:
        length = 8 << 20
        raw.send(f"POST /v1/topics/a/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n")
        raw.send(b"x" * length)
        answer = raw.answer()
        assert answer.status == 413 and answer.json["code"] == "payload_too_large"


def test_endless_chunks_are_cut_with_413(broker):
    with RawHttp(broker.port) as raw:
        raw.send("POST /v1/topics/a/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        try:
            for _ in range(100):
                raw.send(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        assert raw.answer().status == 413
    broker.publish("still.here", b"")


def test_chunked_body_is_a_body(broker):
    with RawHttp(broker.port) as raw:
        raw.send("POST /v1/topics/a/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        raw.send("3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n")
        assert raw.answer().status == 201
    assert last(broker)["payload"] == "abcdefg"


def test_100_continue_is_said_before_the_body_and_not_to_a_refused_request(broker):
    with RawHttp(broker.port) as raw:
        raw.send("POST /v1/topics/a/events HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert raw.answer().status == 100
        raw.send("abc")
        assert raw.answer().status == 201
    with RawHttp(broker.port) as raw:
        raw.send(f"POST /v1/topics/a/events HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: {9 << 20}\r\n\r\n")
        assert raw.answer().status == 413


# ---- /v1/events ----


def test_one_event_as_json(broker):
    event = {"topic": "a.b", "payload": base64.b64encode(b"\xff\x00").decode(), "payload_encoding": "base64", "content_type": "x/y",
             "headers": {"K": "v"}, "message_id": "m1", "ttl": 7}  # fmt: skip
    answer = broker.request("POST", "/v1/events", json.dumps(event), JSON)
    assert answer.status == 201 and answer.json["duplicate"] is False
    stored = last(broker)
    assert stored["payload_encoding"] == "base64" and base64.b64decode(stored["payload"]) == b"\xff\x00"
    assert stored["ttl"] == 7 and stored["metadata"]["headers"] == {"K": "v", "message-id": "m1"}
    assert broker.request("POST", "/v1/events", json.dumps(event), JSON).status == 200


def test_batch_as_json_with_a_ttl_that_a_member_beats(broker):
    body = {"messages": [{"topic": "a", "payload": "1"}, {"topic": "b", "payload": "2", "ttl": 9}, {"topic": "c", "payload": "3", "ttl": 0}], "ttl": 5}
    answer = broker.request("POST", "/v1/events", json.dumps(body), JSON)
    assert answer.status == 201 and [r["seq"] for r in answer.json["results"]] == [1, 2, 3]
    assert [e.get("ttl") for e in broker.events()] == [5, 9, None]


def test_batch_of_known_ids_is_200_and_one_new_makes_it_201(broker):
    one = {"topic": "a", "payload": "1", "message_id": "one"}
    two = {"topic": "a", "payload": "2", "message_id": "two"}
    assert broker.request("POST", "/v1/events", json.dumps({"messages": [one]}), JSON).status == 201
    assert broker.request("POST", "/v1/events", json.dumps({"messages": [one]}), JSON).status == 200
    answer = broker.request("POST", "/v1/events", json.dumps({"messages": [one, two, two]}), JSON)
    assert answer.status == 201 and [r["duplicate"] for r in answer.json["results"]] == [True, False, True]


def test_empty_batch_is_ok(broker):
    answer = broker.request("POST", "/v1/events", '{"messages":[]}', JSON)
    assert answer.status == 200 and answer.json == {"results": []}
    answer = broker.request("POST", "/v1/events", "", NDJSON)
    assert answer.status == 200 and answer.json == {"results": []}


def test_a_refused_member_refuses_all_and_is_named(broker):
    body = {"messages": [{"topic": "a", "payload": "1"}, {"topic": "a..b", "payload": "2"}]}
    assert problem(broker.request("POST", "/v1/events", json.dumps(body), JSON), 400, "invalid_topic")["index"] == 1
    assert broker.stats()["last_seq"] == 0


def test_ndjson_is_one_batch(broker):
    lines = "".join(json.dumps({"topic": "n.d", "payload": str(i)}) + "\n" for i in range(100))
    answer = broker.request("POST", "/v1/events", lines.rstrip("\n"), NDJSON)
    assert answer.status == 201 and [r["seq"] for r in answer.json["results"]] == list(range(1, 101))
    bad = lines + "{]\n"
    assert problem(broker.request("POST", "/v1/events", bad, NDJSON), 400, "invalid_json")["index"] == 100
    assert broker.stats()["last_seq"] == 100


def test_more_than_max_batch_is_limit_exceeded(start_broker):
    broker = start_broker("--max-batch", "3")
    lines = '{"topic":"a","payload":""}\n' * 4
    answer = broker.request("POST", "/v1/events", lines, NDJSON)
    problem(answer, 429, "limit_exceeded")
    assert answer.headers["Retry-After"]
    assert broker.request("POST", "/v1/events", '{"topic":"a","payload":""}\n' * 3, NDJSON).status == 201


@pytest.mark.parametrize("body, code", [
    (b"{", "invalid_json"), (b'{"topic":"a","payload":"\xff"}', "invalid_json"), (b'{"topic":"a","payload":"\\ud800"}', "invalid_json"),
    (b"[]", "invalid_request"), (b'{"topic":"a"}', "invalid_request"), (b'{"payload":"a"}', "invalid_request"),
    (b'{"topic":1,"payload":""}', "invalid_request"), (b'{"topic":"a","payload":1}', "invalid_request"),
    (b'{"topic":"a","payload":"","ttl":-1}', "invalid_request"), (b'{"topic":"a","payload":"!","payload_encoding":"base64"}', "invalid_request"),
    (b'{"messages":{}}', "invalid_request"), (b'{"messages":[1]}', "invalid_request"), (b'{"messages":[],"ttl":"x"}', "invalid_request"),
    (b'{"topic":"a","payload":"","message_id":""}', "invalid_message_id"), (b'{"topic":"a","payload":"","message_id":7}', "invalid_message_id"),
])  # fmt: skip
def test_bad_json_bodies(broker, body, code):
    problem(broker.request("POST", "/v1/events", body, JSON), 400, code)


@pytest.mark.parametrize("given", ["text/plain", "application/x-www-form-urlencoded", "application/xml"])
def test_other_types_at_v1_events_are_415(broker, given):
    assert "application/json" in problem(broker.request("POST", "/v1/events", b"{}", {"Content-Type": given}), 415, "unsupported_media_type")["detail"]


def test_json_body_over_max_message_is_413(start_broker):
    broker = start_broker("--max-payload", "1000", "--max-message", "70000")
    many = {"messages": [{"topic": "a", "payload": "x" * 900}] * 70}
    assert broker.request("POST", "/v1/events", json.dumps(many), JSON).status == 201
    many = {"messages": [{"topic": "a", "payload": "x" * 900}] * 80}
    problem(broker.request("POST", "/v1/events", json.dumps(many), JSON), 413, "payload_too_large")
    big = {"topic": "a", "payload": "x" * 1001}
    problem(broker.request("POST", "/v1/events", json.dumps(big), JSON), 413, "payload_too_large")


def test_publish_rate_is_per_connection(start_broker):
    broker = start_broker("--publish-rate", "3")
    statuses = set()
    with RawHttp(broker.port) as raw:
        for _ in range(20):
            raw.send("POST /v1/topics/a/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n")
            answer = raw.answer()
            statuses.add(answer.status)
            if answer.status == 429:
                assert answer.json["code"] == "rate_limited" and answer.headers["retry-after"]
    assert statuses == {201, 429}
    assert post(broker, "/v1/topics/a/events").status == 201


# ---- a publish that waits ----


def test_a_waiting_publish_whose_client_vanishes_harms_nobody(broker):
    """Suspended requests whose peers are gone: the events are stored, the broker goes on."""
    for _ in range(50):
        raw = RawHttp(broker.port)
        raw.send("POST /v1/topics/gone/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
        raw.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        raw.close()
    broker.publish("after", b"")
    wait_for(lambda: broker.metric("eventbus_http_requests_active") <= 1, what="end of the abandoned requests")


def test_each_answer_of_a_connection_is_its_own(start_broker):
    """A connection's answers are written one over the other: of one length or another, 201, 200 or an error between."""
    broker = start_broker()
    one = b"POST /v1/topics/t/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
    again = b"POST /v1/topics/t/events HTTP/1.1\r\nHost: localhost\r\nEvent-Id: %s\r\nContent-Length: 1\r\n\r\nx"
    batch = b'{"messages":[{"topic":"t","payload":"1"},{"topic":"t","payload":"2"}]}'
    many = b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(batch), batch)
    wrong = b"POST /v1/topics/t..u/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
    health = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    id = str(uuid.uuid4()).encode()
    with RawHttp(broker.port) as http, RawHttp(broker.port) as other:
        seq, ids = 0, set()
        for turn in range(12):  # over the step from one digit to two
            http.send(one + one + again % id + many + wrong + health + one)
            answers = [http.answer() for _ in range(7)]
            assert [a.status for a in answers] == [201, 201, 200 if turn else 201, 201, 400, 200, 201]
            assert {a.headers["x-content-type-options"] for a in answers} == {"nosniff"}
            assert {a.headers["cache-control"] for a in answers} == {"no-store"}
            first, second, repeat, results, bad, healthy, last = (a.json if a.headers["content-type"].endswith("json") else None for a in answers)
            step = 0 if turn else 1
            assert [first["seq"], second["seq"], last["seq"]] == [seq + 1, seq + 2, seq + 5 + step]
            assert repeat == {"seq": 3, "message_id": id.decode(), "duplicate": bool(turn)}
            assert [r["seq"] for r in results["results"]] == [seq + 3 + step, seq + 4 + step]
            assert bad["code"] == "invalid_topic"
            ids |= {first["message_id"], second["message_id"], last["message_id"]}
            assert len(ids) == 3 * (turn + 1)
            seq += 5 + step
            other.send(one)
            assert other.answer().json["seq"] == seq + 1
            seq += 1


def test_pipelined_publishes_are_answered_in_order(broker):
    with RawHttp(broker.port) as raw:
        raw.send("POST /v1/topics/p/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx" * 50)
        seqs = [raw.answer().json["seq"] for _ in range(50)]
    assert seqs == sorted(seqs) and len(set(seqs)) == 50


def test_32_threads_racing_with_one_id_store_it_once(broker):
    answers = []
    barrier = threading.Barrier(32)

    def run():
        barrier.wait()
        answers.append(post(broker, "/v1/topics/race/events", b"x", Event_Id="same"))

    threads = [threading.Thread(target=run) for _ in range(32)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert sorted(a.status for a in answers) == [200] * 31 + [201]
    assert len({a.json["seq"] for a in answers}) == 1


def test_publishes_in_flight_are_answered_at_shutdown(broker):
    raws = [RawHttp(broker.port) for _ in range(8)]
    for raw in raws:
        raw.send("POST /v1/topics/p/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx" * 20)
    first = [raw.answer().status for raw in raws]
    assert broker.stop() == 0
    assert first == [201] * 8
