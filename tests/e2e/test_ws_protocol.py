"""The JSON protocol on a WebSocket (docs/protocol.md), statement by statement, from outside."""
import base64
import json
import re
import uuid

import pytest

from lib.broker import wait_for
from lib.ws import BINARY, JSON_V1, TEXT, WebSocket

BAD_IDS = [1.5, True, [], {}, 2**53 + 1, -(2**53) - 1, "x" * 129, 10**30]
GOOD_IDS = ["0", "-0", "-17", str(2**53), str(-(2**53)), '""', '"é"', '"\\u00e9"', '"a\\/b\\n"', '"' + "x" * 128 + '"', '"' + "\\u0001" * 128 + '"']


@pytest.fixture
def broker(start_broker):
    return start_broker("--storage", "memory", db=None)


@pytest.fixture
def ws(broker):
    with WebSocket(broker.port) as ws:
        yield ws


def raw_answer(ws):
    opcode, payload = ws.frame()
    assert opcode == TEXT
    return payload.decode()


# ---- the form of a request ----


@pytest.mark.parametrize("id", GOOD_IDS)
def test_an_id_comes_back_as_it_was_written(ws, id):
    ws.send('{"type":"ping","id":%s}' % id)
    assert raw_answer(ws) == '{"type":"pong","id":%s}' % id
    ws.send('{"type":"publish","id":%s,"data":{"topic":"t","payload":""}}' % id)
    assert raw_answer(ws).startswith('{"type":"ok","id":%s,' % id)
    ws.send('{"type":"subscribe","id":%s,"pattern":"t"}' % id)
    assert raw_answer(ws).startswith('{"type":"ok","id":%s,' % id)
    ws.send('{"type":"unsubscribe","id":%s,"pattern":"t"}' % id)
    assert raw_answer(ws) == '{"type":"ok","id":%s}' % id
    ws.send('{"type":"publish","id":%s}' % id)
    assert raw_answer(ws).startswith('{"type":"error","id":%s,' % id)


@pytest.mark.parametrize("id", BAD_IDS)
def test_an_id_of_another_kind_is_refused_with_id_null(ws, id):
    ws.send({"type": "ping", "id": id})
    answer = ws.recv()
    assert (answer["type"], answer["id"], answer["code"]) == ("error", None, "invalid_request")


def test_an_id_that_is_null_is_absent(ws):
    ws.send('{"type":"ping","id":null}')
    assert raw_answer(ws) == '{"type":"pong"}'


def test_without_an_id_nothing_is_sent_on_success_and_errors_carry_null(broker, ws):
    ws.send({"type": "publish", "data": {"topic": "t", "payload": "1"}})
    ws.send({"type": "publish_batch", "messages": [{"topic": "t", "payload": "2"}]})
    ws.send({"type": "subscribe", "pattern": "other"})
    ws.send({"type": "ack", "seq": 1})
    ws.send({"type": "unsubscribe", "pattern": "other"})
    assert ws.quiet() == []
    assert len(broker.events("t")) == 2
    for bad, code in [({"type": "unsubscribe", "pattern": "other"}, "not_found"), ({"type": "ack", "seq": 99}, "not_found"), ({"type": "publish"}, "invalid_request")]:
        ws.send(bad)
        answer = ws.recv()
        assert (answer["type"], answer["id"], answer["code"]) == ("error", None, code)


def test_the_last_of_a_member_given_twice_counts(ws):
    ws.send('{"type":"zing","id":1,"id":2,"type":"ping"}')
    assert ws.recv() == {"type": "pong", "id": 2}


def test_unknown_members_are_ignored(ws):
    ws.subscribe("t", future={"a": [1]})
    assert ws.publish("t", "x", from_tomorrow=True, data={"novel": None})["type"] == "ok"
    assert ws.event()["payload"] == "x"


def test_null_stands_for_absent_in_every_optional_member(ws):
    data = {"message_id": None, "content_type": None, "headers": None, "payload_encoding": None}
    answer = ws.call(type="subscribe", pattern="t", starting_seq=None, epoch=None, pending_only=None)
    assert answer["type"] == "ok"
    assert ws.publish("t", "x", ttl=None, data=data)["type"] == "ok"
    event = ws.event()
    assert event["metadata"]["content_type"] == "text/plain" and "headers" not in event["metadata"] and "ttl" not in event
    assert ws.call(type="ack", seq=event["seq"], message_id=None)["type"] == "ok"


@pytest.mark.parametrize(
    "text",
    ["", "nope", "{", "[1,2", '{"a":1,}', "{'a':1}", '{"a":01}', '{"a":NaN}', '{"a":"\\ud800"}', '{"a":"\x01"}', "\ufeff{}", "{} {}", "[" * 33 + "]" * 33, '{"a":' * 33 + "1" + "}" * 33],
)
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_what_is_not_json_is_invalid_json_and_the_connection_goes_on(ws, text, opcode):
    ws.send(text, opcode)
    answer = ws.recv()
    assert (answer["type"], answer["id"], answer["code"]) == ("error", None, "invalid_json") and answer["message"]
    assert ws.call(type="ping")["type"] == "pong"


def test_json_nested_32_deep_is_read(ws):
    ws.send('{"type":"ping","id":1,"x":' + "[" * 31 + "]" * 31 + "}")
    assert ws.recv() == {"type": "pong", "id": 1}


@pytest.mark.parametrize("text", ["[]", '"ping"', "7", "null", "{}", '{"type":null}', '{"type":7}', '{"type":"zing"}', '{"type":"PING"}', '{"type":"event"}'])
def test_what_is_no_known_request_is_invalid_request(ws, text):
    ws.send(text)
    answer = ws.recv()
    assert (answer["id"], answer["code"]) == (None, "invalid_request") and answer["message"]


def test_a_binary_frame_with_json_is_taken_and_answered_in_text(ws):
    ws.subscribe("t")
    ws.send({"type": "publish", "id": 1, "data": {"topic": "t", "payload": "x"}}, BINARY)
    assert {ws.frame()[0] for _ in range(2)} == {TEXT}


def test_the_same_is_spoken_without_a_subprotocol(broker):
    with WebSocket(broker.port, protocol=None) as ws:
        assert "sec-websocket-protocol" not in ws.headers
        assert ws.call(type="ping")["type"] == "pong"
        assert ws.subscribe("t")["last_seq"] == 0


# ---- publish ----


def test_a_publish_is_answered_with_seq_and_id_and_delivered_with_all_its_parts(broker, ws):
    assert re.fullmatch(r"[0-9a-f-]{36}", ws.subscribe("user.*")["epoch"])
    id = str(uuid.uuid4())
    answer = ws.publish("user.created", '{"é":1}', ttl=3600, data={"message_id": id.upper(), "content_type": "application/json", "headers": {"traceparent": "00-x", "é": ""}})
    assert answer == {"type": "ok", "id": answer["id"], "seq": 1, "message_id": id, "duplicate": False}
    event = ws.event()
    timestamp = event["metadata"].pop("timestamp")
    assert isinstance(timestamp, int) and timestamp > 1_600_000_000_000
    assert event == {
        "type": "event",
        "seq": 1,
        "message_id": id,
        "topic": "user.created",
        "payload": '{"é":1}',
        "ttl": 3600,
        "metadata": {"content_type": "application/json", "headers": {"traceparent": "00-x", "é": ""}},
    }


def test_bytes_travel_as_base64_and_come_back_so_only_when_they_are_not_utf8(ws):
    ws.subscribe("t")
    for payload in (b"", b"\0", b"plain \xc3\xa9", b"\xff\x00\xfe"):
        ws.publish("t", base64.b64encode(payload).decode(), data={"payload_encoding": "base64"})
        event = ws.event()
        if payload == b"\xff\x00\xfe":
            assert event["payload_encoding"] == "base64" and base64.b64decode(event["payload"]) == payload
        else:
            assert "payload_encoding" not in event and event["payload"].encode() == payload


@pytest.mark.parametrize(
    "request_, code",
    [
        ({"data": None}, "invalid_request"),
        ({"data": []}, "invalid_request"),
        ({"data": {"topic": "t"}}, "invalid_request"),
        ({"data": {"payload": "x"}}, "invalid_request"),
        ({"data": {"topic": 5, "payload": "x"}}, "invalid_request"),
        ({"data": {"topic": "t", "payload": 5}}, "invalid_request"),
        ({"data": {"topic": "t", "payload": {"a": 1}}}, "invalid_request"),
        ({"data": {"topic": "t", "payload": "!", "payload_encoding": "base64"}}, "invalid_request"),
        ({"data": {"topic": "t", "payload": "eA", "payload_encoding": "base64"}}, "invalid_request"),
        ({"data": {"topic": "t", "payload": "x", "payload_encoding": "hex"}}, "invalid_request"),
        ({"data": {"topic": "t", "payload": "x", "headers": {"a": 1}}}, "invalid_request"),
        ({"data": {"topic": "t", "payload": "x", "headers": []}}, "invalid_request"),
        ({"data": {"topic": "t", "payload": "x", "content_type": 1}}, "invalid_request"),
        ({"data": {"topic": "t", "payload": "x"}, "ttl": -1}, "invalid_request"),
        ({"data": {"topic": "t", "payload": "x"}, "ttl": "60"}, "invalid_request"),
        ({"data": {"topic": "t", "payload": "x"}, "ttl": 1.5}, "invalid_request"),
        ({"data": {"topic": "user..created", "payload": "x"}}, "invalid_topic"),
        ({"data": {"topic": "", "payload": "x"}}, "invalid_topic"),
        ({"data": {"topic": "a.*", "payload": "x"}}, "invalid_topic"),
        ({"data": {"topic": "x" * 256, "payload": "x"}}, "invalid_topic"),
        ({"data": {"topic": "$sys", "payload": "x"}}, "forbidden"),
        ({"data": {"topic": "t", "payload": "x", "message_id": ""}}, "invalid_message_id"),
        ({"data": {"topic": "t", "payload": "x", "message_id": 7}}, "invalid_message_id"),
        ({"data": {"topic": "t", "payload": "x", "message_id": "x" * 256}}, "invalid_message_id"),
        ({"data": {"topic": "t", "payload": "x", "headers": {str(i): "" for i in range(65)}}}, "limit_exceeded"),
    ],
)
def test_a_bad_publish_is_refused_by_name_stores_nothing_and_stops_nobody(broker, ws, request_, code):
    answer = ws.call(type="publish", **request_)
    assert (answer["type"], answer["code"]) == ("error", code) and answer["message"] and "index" not in answer
    assert ws.publish("t", "next")["seq"] == 1


def test_a_publish_repeated_is_a_duplicate_and_is_not_delivered_again(ws):
    ws.subscribe("#")
    first = ws.publish("t", "x", data={"message_id": "order 17"})
    again = ws.publish("t", "x", data={"message_id": "order 17"})
    assert again["duplicate"] and (again["seq"], again["message_id"]) == (first["seq"], first["message_id"])
    reused = ws.publish("t", "y", data={"message_id": "order 17"})
    assert reused["code"] == "message_id_reused" and "index" not in reused
    assert [m["type"] for m in ws.quiet()] == ["event"]


def test_publishes_of_one_connection_get_rising_seqs_and_each_is_answered_once(ws):
    for i in range(500):
        ws.send({"type": "publish", "id": i, "data": {"topic": "t", "payload": str(i)}})
    answers = {}
    while len(answers) < 500:
        answer = ws.recv()
        assert answer["id"] not in answers
        answers[answer["id"]] = answer["seq"]
    assert [answers[i] for i in range(500)] == list(range(1, 501))


# ---- publish_batch ----


def test_a_batch_gets_consecutive_seqs_and_answers_with_results(ws):
    ws.subscribe("b.#")
    answer = ws.call(type="publish_batch", messages=[{"topic": f"b.{i}", "payload": str(i)} for i in range(5)])
    assert [r["seq"] for r in answer["results"]] == [1, 2, 3, 4, 5] and not any(r["duplicate"] for r in answer["results"])
    assert [ws.event()["topic"] for _ in range(5)] == [f"b.{i}" for i in range(5)]


def test_an_empty_batch_is_ok(ws):
    assert ws.call(type="publish_batch", messages=[])["results"] == []


def test_one_bad_member_refuses_the_batch_and_is_named_by_index(broker, ws):
    good = {"topic": "t", "payload": ""}
    for bad, code in [({"topic": "a..b", "payload": ""}, "invalid_topic"), (7, "invalid_request"), ({"topic": "t"}, "invalid_request"), ({**good, "ttl": -1}, "invalid_request")]:
        answer = ws.call(type="publish_batch", messages=[good, good, bad, good])
        assert (answer["code"], answer["index"]) == (code, 2)
    assert broker.events("%23") == []


def test_a_reused_id_inside_a_batch_is_named_by_index(broker, ws):
    ws.publish("t", "x", data={"message_id": "k"})
    answer = ws.call(type="publish_batch", messages=[{"topic": "t", "payload": "new"}, {"topic": "t", "payload": "other", "message_id": "k"}])
    assert (answer["code"], answer["index"]) == ("message_id_reused", 1)
    assert len(broker.events("%23")) == 1


def test_repeats_inside_a_batch_are_duplicates(ws):
    ws.publish("t", "x", data={"message_id": "k"})
    messages = [{"topic": "t", "payload": p, "message_id": k} for p, k in [("x", "k"), ("y", "l"), ("y", "l"), ("z", "m")]]
    results = ws.call(type="publish_batch", messages=messages)["results"]
    assert [(r["seq"], r["duplicate"]) for r in results] == [(1, True), (2, False), (2, True), (3, False)]


def test_a_members_own_ttl_beats_the_batchs(ws):
    ws.subscribe("t")
    ws.call(type="publish_batch", ttl=60, messages=[{"topic": "t", "payload": ""}, {"topic": "t", "payload": "", "ttl": 5}, {"topic": "t", "payload": "", "ttl": 0}])
    assert [ws.event().get("ttl") for _ in range(3)] == [60, 5, None]


@pytest.mark.parametrize("messages", [None, {}, "x", 5])
def test_a_batch_without_an_array_is_invalid(ws, messages):
    assert ws.call(type="publish_batch", messages=messages)["code"] == "invalid_request"


def test_a_batch_above_max_batch_is_refused(start_broker):
    broker = start_broker("--storage", "memory", "--max-batch", "3", db=None)
    with WebSocket(broker.port) as ws:
        message = {"topic": "t", "payload": ""}
        assert ws.call(type="publish_batch", messages=[message] * 4)["code"] == "limit_exceeded"
        assert len(ws.call(type="publish_batch", messages=[message] * 3)["results"]) == 3


def test_publish_rate_refuses_what_is_above_it(start_broker):
    broker = start_broker("--storage", "memory", "--publish-rate", "5", db=None)
    with WebSocket(broker.port) as ws, WebSocket(broker.port) as other:
        answers = [ws.publish("t") for _ in range(20)]
        assert [a["type"] for a in answers[:5]] == ["ok"] * 5
        refused = [a for a in answers if a["type"] == "error"]
        assert refused and {a["code"] for a in refused} == {"rate_limited"}
        assert other.publish("t")["type"] == "ok"  # the rate is each connection's own


# ---- subscribe, unsubscribe ----


def test_a_subscribe_takes_effect_behind_the_publishes_before_it(ws):
    for i in range(3):
        ws.send({"type": "publish", "data": {"topic": "t", "payload": str(i)}})
    assert ws.subscribe("t")["last_seq"] == 3
    ws.publish("t", "live")
    assert ws.event()["payload"] == "live"


def test_an_event_that_matches_several_live_patterns_is_sent_once(ws):
    for pattern in ("a.*", "a.b", "#", "*.b"):
        ws.subscribe(pattern)
    ws.publish("a.b", "x")
    assert [m["type"] for m in ws.quiet()] == ["event"]


def test_a_replay_is_marked_with_its_pattern_in_order_and_ends_with_live(ws):
    for i in range(5):
        ws.publish("t", str(i))
    assert ws.subscribe("t", starting_seq=3)["last_seq"] == 5
    replayed = [ws.recv() for _ in range(3)]
    assert [(e["seq"], e["pattern"]) for e in replayed] == [(3, "t"), (4, "t"), (5, "t")]
    assert ws.recv() == {"type": "live", "pattern": "t", "seq": 5}
    ws.publish("t", "live")
    event = ws.event()
    assert event["seq"] == 6 and "pattern" not in event


@pytest.mark.parametrize("start", [0, 1])
def test_starting_seq_0_and_1_mean_all(ws, start):
    ws.publish("t", "a")
    ws.publish("t", "b")
    ws.subscribe("t", starting_seq=start)
    assert [ws.event()["payload"] for _ in range(2)] == ["a", "b"]


def test_the_same_pattern_again_with_starting_seq_starts_afresh_and_without_changes_nothing(ws):
    ws.publish("t", "a")
    ws.subscribe("t", starting_seq=1)
    assert ws.event()["payload"] == "a"
    ws.subscribe("t")
    ws.subscribe("t", starting_seq=1)
    assert ws.event()["payload"] == "a"
    ws.publish("t", "b")
    assert [m["payload"] for m in ws.quiet() if m["type"] == "event"] == ["b"]


def test_after_ok_to_unsubscribe_nothing_more_comes(ws):
    ws.subscribe("t")
    ws.publish("t", "before")
    assert ws.event()["payload"] == "before"
    assert ws.call(type="unsubscribe", pattern="t")["type"] == "ok"
    ws.publish("t", "after")
    assert ws.quiet() == []
    assert ws.call(type="unsubscribe", pattern="t")["code"] == "not_found"


@pytest.mark.parametrize(
    "request_, code",
    [
        ({}, "invalid_request"),
        ({"pattern": 5}, "invalid_request"),
        ({"pattern": ""}, "invalid_pattern"),
        ({"pattern": "a*"}, "invalid_pattern"),
        ({"pattern": "a..b"}, "invalid_pattern"),
        ({"pattern": "t", "starting_seq": -1}, "invalid_request"),
        ({"pattern": "t", "starting_seq": "1"}, "invalid_request"),
        ({"pattern": "t", "starting_seq": 1.5}, "invalid_request"),
        ({"pattern": "t", "pending_only": 1}, "invalid_request"),
        ({"pattern": "t", "epoch": 1}, "invalid_request"),
    ],
)
def test_a_bad_subscribe_is_refused_by_name(ws, request_, code):
    assert ws.call(type="subscribe", **request_)["code"] == code


def test_max_subscriptions_is_per_connection(start_broker):
    broker = start_broker("--storage", "memory", "--max-subscriptions", "3", db=None)
    with WebSocket(broker.port) as ws, WebSocket(broker.port) as other:
        for i in range(3):
            ws.subscribe(f"t.{i}")
        assert ws.call(type="subscribe", pattern="t.3")["code"] == "limit_exceeded"
        other.subscribe("t.3")
        ws.call(type="unsubscribe", pattern="t.0")
        ws.subscribe("t.3")


def test_another_epoch_is_said_as_a_gap_and_starts_from_the_first(ws):
    ws.publish("t", "a")
    epoch = ws.subscribe("t", starting_seq=7, epoch=str(uuid.uuid4()))["epoch"]
    assert ws.recv() == {"type": "gap", "pattern": "t", "from_seq": 0, "to_seq": 0, "reason": "epoch", "epoch": epoch}
    assert ws.event()["payload"] == "a"


def test_a_starting_seq_beyond_the_end_proves_another_history(ws):
    ws.publish("t", "a")
    ws.subscribe("t", starting_seq=3)
    assert ws.recv()["reason"] == "epoch"
    ws.subscribe("u", starting_seq=2)
    first = next(m for m in iter(ws.recv, None) if m.get("pattern") == "u")  # its page is a reader's, in its own time
    assert first["type"] == "live"
    assert not [m for m in ws.quiet() if m.get("pattern") == "u"]


def test_pending_only_passes_over_what_is_acknowledged(ws):
    for i in range(4):
        ws.publish("t", str(i))
    for seq in (1, 3):
        assert ws.call(type="ack", seq=seq)["type"] == "ok"
    ws.subscribe("t", starting_seq=0, pending_only=True)
    assert [ws.event()["seq"] for _ in range(2)] == [2, 4]


# ---- ack ----


def test_ack_checks_the_id_and_may_be_repeated(ws):
    id = ws.publish("t", "x")["message_id"]
    assert ws.call(type="ack", seq=1, message_id=str(uuid.uuid4()))["type"] == "error"
    assert ws.call(type="ack", seq=1, message_id=id)["type"] == "ok"
    assert ws.call(type="ack", seq=1)["type"] == "ok"
    assert ws.call(type="ack", seq=2)["code"] == "not_found"


@pytest.mark.parametrize("request_, code", [({}, "invalid_request"), ({"seq": "1"}, "invalid_request"), ({"seq": 0}, "invalid_request"), ({"seq": -1}, "invalid_request"), ({"seq": 1, "message_id": 5}, "invalid_message_id")])
def test_a_bad_ack_is_refused_by_name(ws, request_, code):
    assert ws.call(type="ack", **request_)["code"] == code


def test_an_ack_takes_effect_behind_the_publishes_before_it(ws):
    ws.send({"type": "publish", "data": {"topic": "t", "payload": ""}})
    assert ws.call(type="ack", seq=1)["type"] == "ok"


# ---- many connections ----


def test_requests_over_http_and_websocket_meet(broker, ws):
    ws.subscribe("chat.*")
    broker.publish("chat.alice", b"hello")
    assert ws.event()["payload"] == "hello"
    ws.publish("chat.bob", "hi")
    assert [e["payload"] for e in broker.events("chat.*")] == ["hello", "hi"]


def test_connections_are_listed(broker, ws):
    ws.subscribe("t")
    with WebSocket(broker.port, protocol=None):
        rows = wait_for(lambda: (lambda rows: rows if len(rows) == 2 else None)(broker.get("/v1/connections").json["connections"]), what="two connections")
    assert rows[0]["protocol"] == JSON_V1 and rows[0]["subscriptions"] == 1


def test_a_client_written_with_a_library_is_served(broker):
    """python3-websockets with its defaults: it offers compression and answers pings by itself."""
    import asyncio

    import websockets

    async def main():
        async with websockets.connect(broker.ws_url, subprotocols=[JSON_V1]) as client:
            assert client.subprotocol == JSON_V1
            await client.send(json.dumps({"type": "subscribe", "id": 1, "pattern": "#"}))
            assert json.loads(await client.recv())["type"] == "ok"
            await client.send(json.dumps({"type": "publish", "data": {"topic": "t", "payload": "x" * 100000}}))
            assert len(json.loads(await client.recv())["payload"]) == 100000
            await (await client.ping())
        assert client.close_code == 1000

    asyncio.run(main())
