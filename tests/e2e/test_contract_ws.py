"""The contract of the JSON WebSocket (requests, answers, duplicates, acks), sentence by sentence."""
import base64
import json
import threading
import uuid

import pytest
from websockets.exceptions import InvalidStatus

from lib.broker import Broker, wait_for
from lib.probe import JSON_V1, Ws, events_of


@pytest.fixture(scope="module")
def broker():
    broker = Broker(["--storage", "memory"])
    broker.start()
    yield broker
    broker.finish()


@pytest.fixture
def ws(broker):
    with Ws(broker.port) as ws:
        yield ws


def code(answer):
    return answer["type"] if answer["type"] != "error" else answer["code"]


def fresh(ws, topic, count, **data):
    return [ws.pub(topic, str(i), **data)["seq"] for i in range(count)]


# ---- the upgrade ----


def test_subprotocols(broker):
    """"the same is spoken when none is asked for (then none is named in the 101). Only unknown ones asked for: 400 that lists ours" """
    with Ws(broker.port) as ws:
        assert ws.proto.subprotocol == JSON_V1
    with Ws(broker.port, protocol=None) as ws:
        assert ws.proto.subprotocol is None
        assert ws.ask(type="ping") == {"type": "pong", "id": 1}
    with pytest.raises(InvalidStatus) as refused:
        Ws(broker.port, protocol="chat")
    response = refused.value.response
    assert response.status_code == 400 and response.headers["Content-Type"] == "application/problem+json"
    with Ws(broker.port, protocol="chat, " + JSON_V1) as ws:
        assert ws.proto.subprotocol == JSON_V1


def test_a_binary_frame_with_json_is_taken_and_answers_are_text(broker, ws):
    """"a binary frame holding the same JSON is taken too; answers and deliveries are always text frames" """
    ws.proto.send_binary(b'{"type":"ping","id":"b"}')
    ws._flush()
    assert ws.answer("b")["type"] == "pong"


# ---- JSON ----

BAD_JSON = [
    "", " ", "{", "}", "{]", "nul", "tru", "{\"a\"}", '{"a":}', '{"a":1,}', "{,}", '{"a" 1}', "{'a':1}", '{a:1}', '{"a":1}}', '{"a":1} x', "//x\n{}", "/**/{}",
    '{"a":+1}', '{"a":01}', '{"a":1.}', '{"a":.5}', '{"a":1e}', '{"a":1e+}', '{"a":-}', '{"a":0x1}', '{"a":NaN}', '{"a":Infinity}', '{"a":-Infinity}', '{"a":1_0}', '{"a":00}', '{"a":-01}',
    '{"a":"\t"}', '{"a":"\n"}', '{"a":"\x00"}', '{"a":"\\x"}', '{"a":"\\u12"}', '{"a":"\\u12g4"}', '{"a":"\\ud800"}', '{"a":"\\udc00"}', '{"a":"\\ud800\\u0041"}', '{"a":"\\ud800\\ud800"}',
    '{"a":"\\udc00\\ud800"}', '{"a":"', '{"a":"\\', '{"a":"\\"}', '\ufeff{"type":"ping"}', '{"a":1}\x00', "\x0c{}", "\xa0{}", '{"\\ud800":1}', "[1 2]", '{"a":TRUE}', '{"type":"ping"}{"type":"ping"}',
    "{" * 40, '{"a":' * 33 + "1" + "}" * 33, '{"a":' + "[" * 32 + "]" * 32 + "}", "-", '{"a":"\\U0041"}', '{"a":"\\u+041"}', '{"a":"\\u 041"}',
]  # fmt: skip


@pytest.mark.parametrize("where", ["ws", "http", "ndjson", "cloudevents"])
def test_json_is_exactly_rfc_8259(broker, where):
    """"JSON is exactly RFC 8259 in valid UTF-8, nested at most 32 deep …, without unpaired surrogates; else `invalid_json`" """
    kinds = {"http": "application/json", "ndjson": "application/x-ndjson", "cloudevents": "application/cloudevents+json"}
    with Ws(broker.port) as ws:
        for text in BAD_JSON:
            if where == "ws":
                ws.text(text)
                answer = ws.answer_null()
                assert code(answer) == "invalid_json", text
            else:
                if where == "ndjson" and (not text.strip() or "\n" in text):
                    continue
                answer = broker.request("POST", "/v1/events", text.encode(), {"Content-Type": kinds[where]})
                assert (answer.status, answer.json["code"]) == (400, "invalid_json"), (text, answer)


def test_json_that_is_rfc_8259_is_read(ws):
    """Spaces, escapes, numbers of every legal form, 32 levels: nothing legal is refused."""
    for i, text in enumerate([
        ' \t\r\n{ "type" : "ping" , "id" : %d } \r\n', '{"\\u0074ype":"\\u0070ing","id":%d}', '{"type":"ping","x":[1,-0,0.5,1e5,1E-400,-1.5e+3,123456789012345678901234567890],"id":%d}',
        '{"x":' + "[" * 31 + "]" * 31 + ',"type":"ping","id":%d}', '{"x":' + '{"a":' * 30 + "{}" + "}" * 30 + ',"type":"ping","id":%d}', '{"type":"ping","x":"\\ud83d\\ude00\\u0000\\/\\b","id":%d}',
        '{"type":"pong","type":"ping","id":7,"id":%d}', '{"":1,"":2,"type":"ping","id":%d}', '{"type":"ping","x":"\x7f\u2028","id":%d}', '{"type":"ping","id":%d,"x":1e999999}',
    ]):  # fmt: skip
        ws.text(text % (1000 + i))
        assert ws.next() == {"type": "pong", "id": 1000 + i}, text


def test_invalid_utf8_in_json(broker, ws):
    """"in valid UTF-8": a text frame of other bytes is broken framing (1007), a binary one or a body is `invalid_json`"""
    bad = [b"\xff", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80", b"\xf8\x88\x80\x80\x80"]
    for data in bad:
        text = b'{"type":"ping","id":1,"x":"' + data + b'"}'
        ws.proto.send_binary(text)
        ws._flush()
        assert code(ws.answer_null()) == "invalid_json"
        assert broker.request("POST", "/v1/events", text, {"Content-Type": "application/json"}).json["code"] == "invalid_json"
        with Ws(broker.port) as other:
            other.proto.send_text(text)
            other._flush()
            assert other.closed() == 1007


def test_nul_in_a_payload_is_legal(broker, ws):
    """"U+0000 in a payload is legal" """
    ws.sub("nul")
    ws.pub("nul", "a\0b")
    assert ws.event()["payload"] == "a\0b"


def test_message_size(start_broker):
    """"A message of up to `max_message` bytes (default 6 x `max_payload` + 64 KiB) is read whole …; above it the connection closes with 1009" """
    broker = start_broker("--storage", "memory", "--max-payload", "1024", db=None)
    limit = 6 * 1024 + 65536
    assert broker.stats()["limits"]["max_message"] == limit
    with Ws(broker.port) as ws:
        head = '{"type":"publish","id":1,"data":{"topic":"a","payload":"'
        ws.text(head + "x" * (limit - len(head) - 3) + '"}}')
        assert code(ws.answer(1)) == "payload_too_large"
        ws.text(head + "\\u0001" * 1024 + '"}}')
        assert code(ws.answer(1)) == "ok", "escapes do not count, the payload's bytes do"
        ws.text(head + "x" * (limit - len(head) - 2) + '"}}')
        assert ws.closed() == 1009


# ---- ids ----


def test_ids_come_back_as_they_came(ws):
    """"`id` (an integer within ±2^53 or a string up to 128 bytes) … gives it back as it came" """
    for id in (0, 1, -1, 2**53, -(2**53), "", "x" * 128, "é" * 64, "1", "null", "\u0000", "\U0001f600", "\"\\/\n"):
        assert ws.ask(type="ping", id=id) == {"type": "pong", "id": id}
    for id in (2**53 + 1, -(2**53) - 1, 10**40, 1.0, 1.5, 1e3, True, False, [], {}, [1], "x" * 129, "é" * 64 + "x"):
        for kind in ("ping", "publish", "subscribe", "unsubscribe", "ack", "publish_batch"):
            ws.send(type=kind, id=id, pattern="a", seq=1, data={"topic": "badid", "payload": ""}, messages=[])
            answer = ws.next()
            assert (answer["type"], answer["id"], answer["code"]) == ("error", None, "invalid_request"), (kind, id)


def test_a_refused_id_has_no_effect(broker, ws):
    """"An `id` of another kind is `invalid_request`": refused is not done"""
    ws.send(type="publish", id=1.5, data={"topic": "bad.id.effect", "payload": ""})
    assert code(ws.next()) == "invalid_request"
    assert broker.events("bad.id.effect") == []


def test_without_an_id_nothing_is_sent_on_success(broker, ws):
    """"without it nothing is sent on success (a ping without `id` is answered `{"type":"pong"}`)" """
    ws.send(type="publish", data={"topic": "noid", "payload": ""})
    ws.send(type="publish_batch", messages=[{"topic": "noid", "payload": ""}])
    ws.send(type="subscribe", pattern="noid")
    ws.send(type="ack", seq=1)
    ws.send(type="unsubscribe", pattern="noid")
    ws.send(type="ping")
    ws.sub("sentinel")
    assert ws.next() == {"type": "pong"} and ws.inbox == []
    assert len(broker.events("noid")) == 2
    for bad in ({"type": "publish", "data": {"topic": "", "payload": ""}}, {"type": "unsubscribe", "pattern": "noid"}, {"type": "nope"}, {}):
        ws.send(**bad)
        assert ws.next()["id"] is None


def test_members_of_every_wrong_kind_are_refused(ws):
    """"Bad input: clear error": each member with each kind it must not have"""
    kinds = [None, True, False, 0, -1, 1.5, 10**30, "", "x", [], {}, [[]], {"a": 1}, "\u0000"]
    data = {"topic": "kinds", "payload": "p"}
    right = {
        ("type",): (str,), ("data",): (dict,), ("data", "topic"): (str,), ("data", "payload"): (str,), ("data", "message_id"): (str, None), ("data", "content_type"): (str, None),
        ("data", "headers"): (dict, None), ("data", "payload_encoding"): (str, None), ("ttl",): (int, None),
    }  # fmt: skip
    for path, allowed in right.items():
        for value in kinds:
            if any((value is None) if kind is None else type(value) is kind for kind in allowed) or (path == ("ttl",) and value == 0 and value is not False):
                continue
            request = {"type": "publish", "id": "k", "data": dict(data)}
            target = request
            for step in path[:-1]:
                target = target[step]
            target[path[-1]] = value
            ws.send(**request)
            answer = ws.answer("k")
            assert answer["type"] == "error" and answer["code"].startswith("invalid_") and answer["message"], (path, value, answer)
    for request, member, allowed in (("subscribe", "starting_seq", int), ("subscribe", "epoch", str), ("subscribe", "pending_only", bool), ("ack", "message_id", str), ("ack", "seq", int),
                                  ("unsubscribe", "pattern", str), ("publish_batch", "messages", list)):  # fmt: skip
        for value in kinds:
            if value is None and (request, member) not in (("ack", "seq"), ("unsubscribe", "pattern"), ("publish_batch", "messages")):
                continue
            if value.__class__ is allowed:
                continue
            answer = ws.ask(**{"type": request, "pattern": "kinds", "seq": 1, member: value})
            assert answer["type"] == "error" and answer["code"] in ("invalid_request", "invalid_pattern", "invalid_message_id"), (request, member, value, answer)


def test_base64_is_rfc_4648_section_4_padded(broker, ws):
    """"`payload_encoding` `base64` (RFC 4648 section 4, padded)" """
    for text, data in (("", b""), ("AA==", b"\0"), ("/+8=", b"\xff\xef"), ("////", b"\xff\xff\xff"), ("aGVsbG8=", b"hello")):
        seq = ws.pub("b64", text, payload_encoding="base64")["seq"]
        event = broker.get(f"/v1/events/{seq}").json
        got = base64.b64decode(event["payload"]) if "payload_encoding" in event else event["payload"].encode()
        assert got == data
    for bad in ("A", "AA", "AAA", "AA=", "AA===", "====", "A=AA", "-_8=", "AA==AA==", "aGVs bG8=", "aGVsbG8=\n", "AB==", "AAB=", "é===", "AA=\u0000"):
        answer = ws.pub("b64", bad, payload_encoding="base64")
        assert code(answer) == "invalid_request", (bad, answer)
    for bad in ("BASE64", "base64url", "hex", "", "utf-8"):
        assert code(ws.pub("b64", "AA==", payload_encoding=bad)) == "invalid_request"


def test_a_payload_that_is_not_utf8_is_delivered_as_base64(broker, ws):
    """"delivered as base64 with `"payload_encoding":"base64"` beside it; a `ttl` other than 0 is shown beside it too" """
    ws.sub("bytes")
    for data in (b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"ok\xc3\xa9", b"\xef\xbf\xbf", b"\x00\x01"):
        broker.publish("bytes", data, Event_TTL="77")
        event = ws.event()
        try:
            data.decode()
            assert "payload_encoding" not in event and event["payload"].encode() == data
        except UnicodeDecodeError:
            assert event["payload_encoding"] == "base64" and base64.b64decode(event["payload"]) == data
        assert event["ttl"] == 77


# ---- order ----


def test_requests_of_one_connection_take_effect_in_the_order_sent(ws):
    """"its publishes get rising seqs … `last_seq` includes them, and they are not live for it" """
    for round in range(20):
        topic = f"order.{round}"
        for i in range(10):
            ws.send(type="publish", id=f"{round}.{i}", data={"topic": topic, "payload": str(i)})
        ws.send(type="publish_batch", id=f"{round}.b", messages=[{"topic": topic, "payload": "b"}] * 3)
        ws.send(type="subscribe", id=f"{round}.s", pattern=topic)
        ws.send(type="publish", id=f"{round}.live", data={"topic": topic, "payload": "live"})
        ws.send(type="unsubscribe", id=f"{round}.u", pattern=topic)
        ws.send(type="publish", id=f"{round}.after", data={"topic": topic, "payload": "after"})
    for round in range(20):
        seqs = [ws.answer(f"{round}.{i}")["seq"] for i in range(10)] + [r["seq"] for r in ws.answer(f"{round}.b")["results"]]
        assert seqs == sorted(set(seqs))
        assert ws.answer(f"{round}.s")["last_seq"] >= seqs[-1]
        live, after = ws.answer(f"{round}.live")["seq"], ws.answer(f"{round}.after")["seq"]
        assert seqs[-1] < live < after
        assert code(ws.answer(f"{round}.u")) == "ok"
    ws.sub("order.mark")
    ws.pub("order.mark")
    delivered = events_of(ws.until("order.mark"))[:-1]
    assert [e["payload"] for e in delivered if e["payload"] != "live"] == []


def test_a_refused_publish_does_not_stop_later_ones(broker, ws):
    """"A refused publish does not stop later ones; use a batch for that" """
    for i, topic in enumerate(["later", "bad..one", "later", "$x", "later"]):
        ws.send(type="publish", id=i, data={"topic": topic, "payload": ""})
    assert [code(ws.answer(i)) for i in range(5)] == ["ok", "invalid_topic", "ok", "forbidden", "ok"]


def test_ack_takes_effect_after_the_publishes_sent_before_it(ws):
    """"A subscribe, unsubscribe or ack takes effect after the commit of the publishes sent before it" """
    last = ws.pub("ack.order")["seq"]
    for i in range(50):
        ws.send(type="publish", id=f"p{i}", data={"topic": "ack.order", "payload": ""})
        ws.send(type="ack", id=f"a{i}", seq=last + 1 + i)
    assert {code(ws.answer(f"a{i}")) for i in range(50)} == {"ok"}


# ---- batches ----


def test_a_batch_is_all_or_none(broker, ws):
    """"any refused member refuses all … an error of a batch carries `index`, from 0" """
    good = {"topic": "batch", "payload": ""}
    for bad, expected in (({"topic": "a..b", "payload": ""}, "invalid_topic"), ({"topic": "$x", "payload": ""}, "forbidden"), ({"payload": ""}, "invalid_request"),
                          ({"topic": "batch"}, "invalid_request"), (1, "invalid_request"), (None, "invalid_request"), ({**good, "message_id": ""}, "invalid_message_id"), ({**good, "ttl": -1}, "invalid_request"),
                          ({**good, "payload": "x" * (1 << 20) + "x"}, "payload_too_large")):  # fmt: skip
        before = broker.stats()["last_seq"]
        answer = ws.ask(type="publish_batch", messages=[good, good, bad, good])
        assert (code(answer), answer["index"]) == (expected, 2), (bad, answer)
        http = broker.request("POST", "/v1/events", json.dumps({"messages": [good, bad]}), {"Content-Type": "application/json"})
        assert (http.json["code"], http.json["index"]) == (expected, 1)
        assert broker.stats()["last_seq"] == before
    results = ws.ask(type="publish_batch", messages=[good] * 100)["results"]
    assert [r["seq"] for r in results] == list(range(results[0]["seq"], results[0]["seq"] + 100))
    assert ws.ask(type="publish_batch", id="e", messages=[]) == {"type": "ok", "id": "e", "results": []}
    http = broker.request("POST", "/v1/events", '{"messages":[]}', {"Content-Type": "application/json"})
    assert http.status == 200 and http.json["results"] == []
    for kind, body in (("application/x-ndjson", b""), ("application/x-ndjson", b"\n\n"), ("application/cloudevents-batch+json", b"[]")):
        http = broker.request("POST", "/v1/events", body, {"Content-Type": kind})
        assert http.status == 200 and http.json["results"] == [], (kind, body, http)


def test_max_batch(broker, ws):
    """"`max_batch` is 10,000 unless configured"; "more than `max_batch` events, `limit_exceeded`" """
    assert broker.stats()["limits"]["max_batch"] == 10000
    event = {"topic": "mb", "payload": ""}
    assert len(ws.ask(type="publish_batch", messages=[event] * 10000)["results"]) == 10000
    assert code(ws.ask(type="publish_batch", messages=[event] * 10001)) == "limit_exceeded"
    line = json.dumps(event).encode() + b"\n"
    http = broker.request("POST", "/v1/events", line * 10001, {"Content-Type": "application/x-ndjson"})
    assert (http.status, http.json["code"]) == (429, "limit_exceeded") and "Retry-After" in http.headers


# ---- duplicates ----


def test_duplicates_in_all_forms(broker, ws):
    """"with the same topic, payload and content type is answered `"duplicate":true` with the first one's `seq` … with another it is refused" """
    ws.sub("dup.#")
    first = ws.pub("dup.a", "x", message_id="one", headers={"h": "1"}, ttl=100)
    assert first["duplicate"] is False
    for same in ({}, {"headers": {"h": "2"}}, {"headers": {}}, {"ttl": 5}, {"content_type": "text/plain"}, {"payload_encoding": "base64"}):
        payload = "eA==" if "payload_encoding" in same else "x"
        again = ws.pub("dup.a", payload, message_id="one", **same)
        assert (again["seq"], again["duplicate"], again["message_id"]) == (first["seq"], True, first["message_id"]), same
    for other in ({"topic": "dup.b"}, {"payload": "y"}, {"content_type": "application/json"}, {"content_type": "Text/Plain"}):
        answer = ws.ask(type="publish", data={"topic": "dup.a", "payload": "x", "message_id": "one", **other})
        assert code(answer) == "message_id_reused", other
    for headers, status in (({"Event-Id": "one", "Content-Type": "text/plain"}, 200), ({"Idempotency-Key": "one"}, 200), ({"Idempotency-Key": '"one"'}, 200), ({"Event-Id": "one", "Content-Type": "text/html"}, 422)):
        answer = broker.request("POST", "/v1/topics/dup.a/events", b"x", headers)
        assert answer.status == status, (headers, answer)
        assert status != 200 or answer.json == {"seq": first["seq"], "message_id": first["message_id"], "duplicate": True}
    ws.pub("dup.mark")
    assert [e["topic"] for e in events_of(ws.until("dup.mark"))] == ["dup.a", "dup.mark"]
    assert len(broker.events("dup.a")) == 1


def test_duplicates_in_a_batch(broker, ws):
    """"ids already stored or repeated inside it are answered as duplicates, the new ones get consecutive seqs; any refused member refuses all" """
    m = lambda id, payload="x": {"topic": "db", "payload": payload, **({"message_id": id} if id else {})}  # noqa: E731
    stored = ws.pub("db", "x", message_id="stored")["seq"]
    results = ws.ask(type="publish_batch", messages=[m("n1"), m("stored"), m("n2"), m("n1"), m(None), m("n2"), m("stored")])["results"]
    base = results[0]["seq"]
    assert [(r["seq"], r["duplicate"]) for r in results] == [(base, False), (stored, True), (base + 1, False), (base, True), (base + 2, False), (base + 1, True), (stored, True)]
    for messages, index in (([m("n9"), m("n9", "other")], 1), ([m("n8"), m("stored", "other"), m("n7")], 1)):
        last = broker.stats()["last_seq"]
        answer = ws.ask(type="publish_batch", messages=messages)
        assert (code(answer), answer["index"]) == ("message_id_reused", index)
        assert broker.stats()["last_seq"] == last
    assert ws.pub("db", "other", message_id="n9")["duplicate"] is False, "what was refused took no id"
    all_known = ws.ask(type="publish_batch", messages=[m("n1"), m("n2")])["results"]
    assert [r["duplicate"] for r in all_known] == [True, True]
    http = broker.request("POST", "/v1/events", json.dumps({"messages": [m("n1")]}), {"Content-Type": "application/json"})
    assert http.status == 200 and http.json["results"][0]["duplicate"] is True
    http = broker.request("POST", "/v1/events", json.dumps({"messages": [m("n1"), m("n11")]}), {"Content-Type": "application/json"})
    assert http.status == 201


def test_a_race_of_the_same_id_stores_one(broker):
    """"is answered … after the first one's commit, and is neither stored nor delivered again" """
    answers = []

    def one():
        with Ws(broker.port) as ws:
            for i in range(50):
                ws.send(type="publish", id=i, data={"topic": "race", "payload": "x", "message_id": f"race-{i}"})
            answers.append([ws.answer(i) for i in range(50)])

    threads = [threading.Thread(target=one) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for i in range(50):
        assert len({a[i]["seq"] for a in answers}) == 1 and sum(not a[i]["duplicate"] for a in answers) == 1
    assert len(broker.events("race")) == 50


def test_dedupe_survives_restart_kill_and_deletion(start_broker):
    """"deletion does not shorten it … All that survives restarts … A repeat of an id whose event was deleted meanwhile is a duplicate" """
    broker = start_broker()
    kept = broker.publish("a", b"x", Event_Id="kept")
    gone = broker.publish("a", b"x", Event_Id="gone", Event_TTL="1")
    wait_for(lambda: broker.stats()["events"] == 1, what="deletion")
    for end in (lambda: None, broker.stop, broker.kill):
        end()
        if broker.process.poll() is not None:
            broker.start()
        assert broker.publish("a", b"x", Event_Id="kept") == {**kept, "duplicate": True}
        assert broker.publish("a", b"x", Event_Id="gone") == {**gone, "duplicate": True}
        assert broker.publish("other", b"y", Event_Id="gone") == {**gone, "duplicate": True}, "nothing is left to compare"
        assert broker.request("POST", "/v1/topics/b/events", b"x", {"Event-Id": "kept"}).status == 422
        assert broker.stats()["dedupe_ids"] == 2 and broker.stats()["dedupe_oldest_s"] >= 0


def test_dedupe_window_ends(start_broker):
    """"inside `dedupe_window` (… counted from acceptance; acknowledging does not prolong it …)"; "at most `dedupe_max` …, beyond it the oldest go early, counted" """
    broker = start_broker("--storage", "memory", "--dedupe-window", "1s", db=None)
    first = broker.publish("a", b"x", Event_Id="i")["seq"]
    with Ws(broker.port) as ws:
        assert code(ws.ask(type="ack", seq=first)) == "ok"
    wait_for(lambda: not broker.publish("a", b"x", Event_Id="i")["duplicate"], what="end of the window")
    broker = start_broker("--storage", "memory", "--dedupe-max", "10", db=None)
    seqs = [broker.publish("a", b"x", Event_Id=f"i{i}")["seq"] for i in range(30)]
    assert broker.publish("a", b"x", Event_Id="i29") == {"seq": seqs[29], "message_id": broker.get(f"/v1/events/{seqs[29]}").json["message_id"], "duplicate": True}
    assert broker.publish("a", b"x", Event_Id="i0")["duplicate"] is False
    assert broker.stats()["dedupe_ids"] <= 10
    assert [line for line in broker.get("/metrics").body.decode().splitlines() if "dedupe" in line and "total" in line and not line.startswith("#") and float(line.split()[-1]) > 0]


# ---- acks ----


@pytest.mark.parametrize("storage", ["sqlite", "memory"])
def test_acks_in_all_forms(start_broker, storage):
    """"`message_id` is optional, and when given must be that seq's; repeated, or of a deleted event: `ok`; a seq above the last: `not_found`" """
    broker = start_broker("--storage", storage)
    with Ws(broker.port) as ws:
        a, b = ws.pub("a", message_id="mine"), ws.pub("a")
        assert ws.ask(type="ack", id="x", seq=a["seq"]) == {"type": "ok", "id": "x"}
        for given in (a["message_id"], a["message_id"].upper(), "mine", None):
            assert code(ws.ask(type="ack", seq=a["seq"], message_id=given)) == "ok", given
        for wrong in (b["message_id"], str(uuid.uuid4()), "other"):
            assert code(ws.ask(type="ack", seq=a["seq"], message_id=wrong)) in ("conflict", "invalid_message_id", "invalid_request", "not_found"), wrong
        assert code(ws.ask(type="ack", seq=b["seq"] + 1)) == "not_found"
        for bad in (0, -1, 1.0, "1", None, True, 2**53, 2**64):
            assert code(ws.ask(type="ack", seq=bad)) in ("invalid_request", "not_found"), bad
        gone = ws.pub("gone", ttl=1)["seq"]
        wait_for(lambda: broker.stats()["events"] == 2, what="deletion")
        assert code(ws.ask(type="ack", seq=gone)) == "ok"
        ws.sub("a", starting_seq=1, pending_only=True)
        assert [m["seq"] for m in (ws.take(lambda m: m["type"] in ("event", "live")),)] == [b["seq"]]


def test_pending_only_passes_over_what_is_acknowledged(ws):
    """"the replay passes over what is acknowledged when it is read. Nothing else ever does" """
    seqs = fresh(ws, "pend", 6)
    for seq in seqs[::2]:
        assert code(ws.ask(type="ack", seq=seq)) == "ok"
    ws.sub("pend", starting_seq=seqs[0], pending_only=True)
    got = [ws.take(lambda m: m["type"] in ("event", "live")) for _ in range(4)]
    assert [m["seq"] for m in got[:3]] == seqs[1::2] and got[3]["type"] == "live"
    ws.sub("pend", starting_seq=seqs[0])
    got = [ws.take(lambda m: m["type"] in ("event", "live")) for _ in range(7)]
    assert [m["seq"] for m in got[:6]] == seqs and got[6]["type"] == "live"


# ---- the end ----


def test_a_broker_going_down_closes_with_1001(start_broker):
    """"A broker going down closes with 1001": and what was in flight is answered"""
    broker = start_broker()
    with Ws(broker.port) as ws, Ws(broker.port, protocol=None) as plain:
        for i in range(200):
            ws.send(type="publish", id=i, data={"topic": "last", "payload": str(i)})
        ws.answer(0)
        broker.process.terminate()
        assert (ws.closed(), plain.closed()) == (1001, 1001)
        acked = {m["id"] for m in ws.inbox if m["type"] == "ok"} | {0}
    assert broker.process.wait(30) == 0, broker.log
    broker.start()
    stored = [int(e["payload"]) for e in broker.events("last")]
    assert stored == sorted(stored) and acked <= set(stored)
    assert len(stored) <= len(acked), "stored but not answered although the end was orderly"


def test_the_token_statuses_of_an_upgrade(start_broker, tmp_path):
    """"names the subprotocol `bearer.<base64url of TOKEN, unpadded>` beside `eventbus.json.v1` (only the latter is echoed)" """
    token = "sesame~?>/+{}"
    (tmp_path / "tokens").write_text(token + "\n")
    broker = start_broker("--token-file", tmp_path / "tokens")
    right = "bearer." + base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    for protocol, status in ((f"{JSON_V1}, {right}", 101), (f"{right}, {JSON_V1}", 101), (right, 101), (f"{JSON_V1}, bearer.AAAA", 401), (JSON_V1, 401), (None, 401), (f"{JSON_V1}, bearer.", 401)):
        try:
            with Ws(broker.port, protocol=protocol) as ws:
                got = 101
                assert ws.proto.subprotocol == (JSON_V1 if JSON_V1 in (protocol or "") else None)
        except InvalidStatus as refused:
            got = refused.response.status_code
        assert got == status, (protocol, got)
