"""eventbus.bin.v1 from outside: what JSON promises, run again over records; then what only records can do or get wrong.

The codec is lib/bin.py, made from docs/binary.md alone.
"""
import json
import random
import struct
import threading
import uuid

import pytest

# Written for JSON, run here with the fixture `ws` below: the same promise in another form.
from test_ws_protocol import (  # noqa: F401
    test_a_batch_gets_consecutive_seqs_and_answers_with_results,
    test_a_members_own_ttl_beats_the_batchs,
    test_a_publish_is_answered_with_seq_and_id_and_delivered_with_all_its_parts,
    test_a_publish_repeated_is_a_duplicate_and_is_not_delivered_again,
    test_a_replay_is_marked_with_its_pattern_in_order_and_ends_with_live,
    test_a_reused_id_inside_a_batch_is_named_by_index,
    test_a_starting_seq_beyond_the_end_proves_another_history,
    test_a_subscribe_takes_effect_behind_the_publishes_before_it,
    test_ack_checks_the_id_and_may_be_repeated,
    test_after_ok_to_unsubscribe_nothing_more_comes,
    test_an_ack_takes_effect_behind_the_publishes_before_it,
    test_an_empty_batch_is_ok,
    test_an_event_that_matches_several_live_patterns_is_sent_once,
    test_another_epoch_is_said_as_a_gap_and_starts_from_the_first,
    test_bytes_travel_as_base64_and_come_back_so_only_when_they_are_not_utf8,
    test_pending_only_passes_over_what_is_acknowledged,
    test_publishes_of_one_connection_get_rising_seqs_and_each_is_answered_once,
    test_repeats_inside_a_batch_are_duplicates,
    test_requests_over_http_and_websocket_meet,
    test_starting_seq_0_and_1_mean_all,
    test_the_same_pattern_again_with_starting_seq_starts_afresh_and_without_changes_nothing,
)
from test_docs_binary import VECTORS

from lib import bin
from lib.bin import BIN_V1
from lib.broker import wait_for
from lib.ws import BINARY, JSON_V1, TEXT, Closed, WebSocket, handshake
from lib.ws_bin import BinaryWebSocket


@pytest.fixture
def broker(start_broker):
    return start_broker("--storage", "memory", db=None)


@pytest.fixture
def ws(broker):
    with BinaryWebSocket(broker.port) as ws:
        yield ws


def records(ws, done):
    """Records as they come, until @done of them all is true."""
    got = []
    while not done(got):
        got += bin.decode(ws.message())
    return got


def answer_ids(got):
    """Every id that was answered, in order; a range counts for each of its ids."""
    found = []
    for record in got:
        if record["kind"] == "acks":
            found += range(record["id"], record["id"] + record["count"])
        elif record["kind"] not in ("event", "live", "gap"):
            found.append(record["id"])
    return found


# ---- connecting ----


@pytest.mark.parametrize(
    "asked, chosen",
    [(BIN_V1, BIN_V1), (f"{BIN_V1}, {JSON_V1}", BIN_V1), (f"{JSON_V1}, {BIN_V1}", JSON_V1), (f"other.v9, {BIN_V1}", BIN_V1), (f"bearer.Zm9v, {BIN_V1}", BIN_V1)],
)
def test_the_first_of_ours_that_is_asked_for_is_spoken(broker, asked, chosen):
    sock, status, headers, _ = handshake(broker.port, f"Sec-WebSocket-Protocol: {asked}")
    sock.close()
    assert (status, headers["sec-websocket-protocol"]) == (101, chosen)


def test_a_bearer_token_stands_beside_it(start_broker, tmp_path):
    """As a browser must do it: the token is a subprotocol that is never chosen; without it there is a 401."""
    tokens = tmp_path / "tokens"
    tokens.write_text("secret-token-of-some-length\n")
    tokens.chmod(0o600)
    broker = start_broker("--token-file", str(tokens))
    with BinaryWebSocket(broker.port, protocol=f"bearer.c2VjcmV0LXRva2VuLW9mLXNvbWUtbGVuZ3Ro, {BIN_V1}") as ws:
        assert ws.publish("t", "x")["seq"] == 1
    sock, status, *_ = handshake(broker.port, f"Sec-WebSocket-Protocol: {BIN_V1}")
    sock.close()
    assert status == 401


def test_a_text_message_ends_it_with_1003(ws):
    """Whole or in fragments, JSON or not; the requests before it took effect."""
    ws.send({"type": "publish", "data": {"topic": "t", "payload": ""}})
    ws.send_frame(TEXT, b'{"type":"ping"}')
    with pytest.raises(Closed) as closed:
        ws.next()
    assert closed.value.code == 1003


def test_the_first_fragment_of_a_text_message_is_enough_for_1003(ws):
    ws.send_frame(TEXT, b"{", fin=False)
    assert ws.close_code() == 1003


def test_connections_and_records_are_counted(broker, ws):
    ws.send_all([{"type": "ping", "id": i} for i in range(10)])
    assert [ws.next()["type"] for _ in range(10)] == ["pong"] * 10
    [row] = broker.get("/v1/connections").json["connections"]
    assert row["protocol"] == BIN_V1
    assert broker.metric("eventbus_websocket_binary_connections_total") == 1
    assert broker.metric("eventbus_websocket_records_received_total") == 10
    assert broker.metric("eventbus_websocket_messages_received_total") == 1


# ---- many records in a message ----


def test_records_of_every_kind_in_one_message_take_effect_in_order(broker, ws):
    """publish, subscribe, publish, unsubscribe, publish: only what stands between is delivered."""
    publish = lambda id, payload: {"type": "publish", "id": id, "data": {"topic": "t", "payload": payload}}  # noqa: E731
    ws.send_all(
        [
            publish("a", "before"),
            {"type": "subscribe", "id": "s", "pattern": "t"},
            publish("b", "live"),
            {"type": "publish_batch", "id": "c", "messages": [{"topic": "t", "payload": "batch"}]},
            {"type": "unsubscribe", "id": "u", "pattern": "t"},
            publish("d", "after"),
            {"type": "ack", "id": "k", "seq": 4},
            {"type": "ping", "id": "p"},
        ]
    )
    got = []
    while len([m for m in got if m["type"] != "event"]) < 8:
        got.append(ws.next())
    got += ws.quiet()
    answers = {m["id"]: m for m in got if m["type"] != "event"}
    assert {id: answers[id]["seq"] for id in "abd"} == {"a": 1, "b": 2, "d": 4}
    assert answers["s"]["last_seq"] == 1 and answers["c"]["results"][0]["seq"] == 3
    assert {answers[id]["type"] for id in "uk"} == {"ok"} and answers["p"]["type"] == "pong"
    assert [m["payload"] for m in got if m["type"] == "event"] == ["live", "batch"]


def test_a_thousand_publishes_in_a_message_are_answered_by_few_ranges(broker, ws):
    """Consecutive ids and seqs: nothing but `acks`, far fewer than publishes, each id once, seqs in the ids' order."""
    total = 5000
    ws.send_frame(BINARY, bin.encode(*({"kind": "publish", "id": 1000 + i, "topic": "t", "payload": b"x"} for i in range(total))))
    got = records(ws, lambda got: len(answer_ids(got)) >= total)
    assert {record["kind"] for record in got} == {"acks"}
    assert len(got) < total / 50, [(r["id"], r["count"]) for r in got][:20]
    seqs = {r["id"] + i: r["seq"] + i for r in got for i in range(r["count"])}
    assert seqs == {1000 + i: 1 + i for i in range(total)}
    assert [e["seq"] for e in broker.events("t")] == list(range(1, total + 1))


def test_a_range_ends_where_ids_or_seqs_do_not_follow(ws):
    """Ids that jump, publishes without an id, duplicates, refusals and other answers between: each id is answered once."""
    known = str(uuid.uuid4())
    sent, number, wanted = [], 0, {}
    rand = random.Random(4)
    for i in range(2000):
        kind = rand.choice(["publish"] * 12 + ["jump", "silent", "again", "bad", "ack", "batch", "text"])
        number += rand.randint(2, 9) if kind == "jump" else 1
        record = {"kind": "publish", "id": number, "topic": "t", "payload": str(i).encode()}
        if kind == "silent":
            record["id"] = 0
        elif kind == "again":
            record |= {"topic": "known", "payload": b"same", "message_id": known}
        elif kind == "bad":
            record["topic"] = "a..b"
        elif kind == "ack":
            record = {"kind": "ack", "id": number, "seq": 1}
        elif kind == "batch":
            record = {"kind": "publish_batch", "id": number, "messages": [{"topic": "t", "payload": b""}] * 3}
        elif kind == "text":
            record["message_id_text"] = f"text-{i}"
        sent.append(record)
        if kind != "silent":
            wanted[number] = kind
    for at in range(0, 2000, 250):
        ws.send_frame(BINARY, bin.encode(*sent[at : at + 250]))
    got = records(ws, lambda got: len(answer_ids(got)) >= len(wanted))
    ids = answer_ids(got)
    assert sorted(ids) == sorted(wanted)
    by_id = {record["id"]: record for record in got if record["kind"] != "acks"}
    plain = {"publish", "jump"}
    firsts = 0
    for id, kind in wanted.items():
        if kind in plain:
            assert id not in by_id, by_id.get(id)
        elif kind == "again":
            firsts += id not in by_id
            assert id not in by_id or (by_id[id]["kind"], by_id[id]["duplicate"]) == ("published", True)
        else:
            assert by_id[id]["kind"] == {"bad": "error", "ack": "ok", "batch": "batch", "text": "published"}[kind]
    assert firsts == 1, "the first of its id is stored, the others are duplicates"


def test_an_id_given_as_text_is_answered_with_its_uuid(ws):
    """Alone and in a batch; the text itself is kept among the headers."""
    namespace = uuid.UUID("39f5ce6a-4ead-540a-9b0b-139eb792e64f")
    ws.subscribe("t")
    answer = ws.publish("t", "x", data={"message_id": "order-17"})
    assert (answer["message_id"], answer["duplicate"]) == (str(uuid.uuid5(namespace, "order-17")), False)
    assert ws.event()["metadata"]["headers"] == {"message-id": "order-17"}
    given = str(uuid.uuid4())
    results = ws.call(type="publish_batch", messages=[{"topic": "t", "payload": "", "message_id": id} for id in ("order-17", "order-18", given)])
    assert results["code"] == "message_id_reused" and results["index"] == 0
    results = ws.call(type="publish_batch", messages=[{"topic": "t", "payload": "x", "message_id": id} for id in ("order-17", "order-18", given)])["results"]
    assert [(r["message_id"], r["duplicate"]) for r in results] == [(str(uuid.uuid5(namespace, "order-17")), True), (str(uuid.uuid5(namespace, "order-18")), False), (given, False)]


def test_options_that_are_not_known_are_passed_over(ws):
    """In each kind of request; only one whose tag says that it must be known is refused, by its id."""
    options = [(0x7F, b"xyz"), (0, b"")]
    requests = [
        {"kind": "publish", "topic": "t", "payload": b"x"},
        {"kind": "publish_batch", "messages": [{"topic": "t", "payload": b"x", "options": options}]},
        {"kind": "subscribe", "pattern": "t"},
        {"kind": "unsubscribe", "pattern": "t"},
        {"kind": "ack", "seq": 1},
        {"kind": "ping"},
    ]
    ws.send_frame(BINARY, bin.encode(*({**r, "id": 10 + i, "options": options} for i, r in enumerate(requests))))
    got = records(ws, lambda got: len(answer_ids(got)) == 6)
    assert {r["id"]: r["kind"] for r in got if r["kind"] != "event"} == {10: "acks", 11: "batch", 12: "subscribed", 13: "ok", 14: "ok", 15: "pong"}
    ws.send_frame(BINARY, bin.encode(*({**r, "id": 20 + i, "options": [*options, (0x80, b"")]} for i, r in enumerate(requests))))
    got = records(ws, lambda got: len(got) == 6)
    assert sorted((r["id"], r["code"]) for r in got) == [(20 + i, "invalid_request") for i in range(6)]


def test_payloads_are_bytes_of_any_kind_and_meet_json(broker, ws):
    """What JSON shows as text or base64 is here as it is, both ways round."""
    with WebSocket(broker.port) as json_ws:
        json_ws.subscribe("t")
        ws.subscribe("t")
        for payload in (b"", b"\0", b"\xff\xfe", "é\"\\".encode(), bytes(range(256)) * 100):
            ws.send_frame(BINARY, bin.encode({"kind": "publish", "id": 0, "topic": "t", "payload": payload}))
            [event] = records(ws, bool)
            assert event["payload"] == payload and "content_type" not in event
            assert broker.get(f"/v1/events/{event['seq']}").json == {key: value for key, value in json_ws.event().items() if key != "type"}
        json_ws.publish("t", "é", data={"content_type": "text/x", "headers": {"h": "\"é\n"}}, ttl=9)
        [event] = records(ws, bool)
        assert (event["payload"].decode(), event["content_type"], event["headers"], event["ttl"]) == ("é", "text/x", {"h": "\"é\n"}, 9)


# ---- limits and bad input ----


@pytest.mark.parametrize("vector", VECTORS["refused"], ids=lambda vector: vector["name"])
def test_what_the_page_refuses_is_answered_and_harms_nothing_beside_it(ws, vector):
    """The vectors' own bytes with a request before them, alone in their message; the connection goes on."""
    bad = bytes.fromhex(vector["hex"])
    ws.send_frame(BINARY, bin.encode({"kind": "publish", "id": 77, "topic": "t", "payload": b""}) + bad)
    ws.send_frame(BINARY, bin.encode({"kind": "publish", "id": 78, "topic": "t", "payload": b""}))
    wanted = [(a["kind"], a["id"], a.get("code")) for a in vector["answers"]]
    got = records(ws, lambda got: len(answer_ids(got)) >= 2 + len(wanted))
    assert [(r["kind"], r["id"], r.get("code")) for r in got if r["kind"] != "acks"] == wanted
    assert [id for id in answer_ids(got) if id >= 77] == [77, 78]


def test_a_bad_record_between_good_ones_is_passed_over(ws):
    good = bin.encode({"kind": "publish", "id": 5, "topic": "t", "payload": b""})
    bad = struct.pack("<IBBH", 12, 0x3F, 0, 0) + struct.pack("<Q", 6) + b"more"
    ws.send_frame(BINARY, good + bad + good.replace(b"\x05", b"\x07", 1))
    got = records(ws, lambda got: len(answer_ids(got)) == 3)
    assert sorted(answer_ids(got)) == [5, 6, 7]


@pytest.mark.parametrize(
    "record, code",
    [
        ({"kind": "publish", "topic": "a..b"}, "invalid_topic"),
        ({"kind": "publish", "topic": "x" * 256}, "invalid_topic"),
        ({"kind": "publish", "topic": b"\xff"}, "invalid_topic"),
        ({"kind": "publish", "topic": "$sys"}, "forbidden"),
        ({"kind": "publish", "topic": "t", "payload": bytes(2**20 + 1)}, "payload_too_large"),
        ({"kind": "publish", "topic": "t", "message_id_text": b"\xff"}, "invalid_message_id"),
        ({"kind": "publish", "topic": "t", "content_type": ""}, "invalid_request"),
        ({"kind": "publish", "topic": "t", "content_type": "a\nb"}, "invalid_request"),
        ({"kind": "publish", "topic": "t", "headers": {str(i): "" for i in range(65)}}, "limit_exceeded"),
        ({"kind": "publish", "topic": "t", "headers": {"a": "x" * 16384}}, "limit_exceeded"),
        ({"kind": "publish", "topic": "t", "headers": {"": "x"}}, "invalid_request"),
        ({"kind": "publish", "topic": "t", "headers": {"a": b"\xff"}}, "invalid_request"),
        ({"kind": "publish_batch", "messages": [{"topic": "t"}] * 10001}, "limit_exceeded"),
        ({"kind": "publish_batch", "messages": [], "ttl": 2**53}, "invalid_request"),
        ({"kind": "subscribe", "pattern": ""}, "invalid_pattern"),
        ({"kind": "subscribe", "pattern": "x" * 256}, "invalid_pattern"),
        ({"kind": "subscribe", "pattern": "t", "starting_seq": 2**53 + 1}, "invalid_request"),
        ({"kind": "unsubscribe", "pattern": "never"}, "not_found"),
        ({"kind": "ack", "seq": 9}, "not_found"),
        ({"kind": "ack", "seq": 1, "message_id_text": ""}, "invalid_message_id"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join([value["kind"], *list(value)[1:]]),
)
def test_what_is_refused_is_refused_as_in_json(broker, ws, record, code):
    for id in (0, 9):
        ws.send_frame(BINARY, bin.encode({**record, "id": id}))
        [answer] = records(ws, bool)
        assert (answer["kind"], answer["id"], answer["code"]) == ("error", id, code) and answer["message"] and "index" not in answer
        assert 400 <= answer["status"] < 500
    assert broker.events("%23") == []


def test_a_refused_member_refuses_its_batch_and_is_named(broker, ws):
    good = {"topic": "t", "payload": b"x"}
    for bad, code in [({"topic": "a..b"}, "invalid_topic"), ({**good, "ttl": 2**63}, "invalid_request"), ({**good, "message_id_text": ""}, "invalid_message_id"), ({**good, "pattern": "#"}, "invalid_request")]:
        ws.send_frame(BINARY, bin.encode({"kind": "publish_batch", "id": 3, "messages": [good, good, bad, good]}))
        [answer] = records(ws, bool)
        assert (answer["kind"], answer["id"], answer["code"], answer["index"]) == ("error", 3, code, 2)
    assert broker.events("%23") == []


def test_publish_rate_counts_records_and_not_messages(start_broker):
    broker = start_broker("--storage", "memory", "--publish-rate", "5", db=None)
    with BinaryWebSocket(broker.port) as ws:
        ws.send_frame(BINARY, bin.encode(*({"kind": "publish", "id": i, "topic": "t"} for i in range(1, 31))))
        got = records(ws, lambda got: len(answer_ids(got)) == 30)
        refused = [r for r in got if r["kind"] == "error"]
        assert {r["code"] for r in refused} == {"rate_limited"} and 20 <= len(refused) <= 25


def test_a_message_above_max_message_ends_it_with_1009(start_broker):
    broker = start_broker("--storage", "memory", "--max-message", "70000", "--max-payload", "1000", db=None)
    with BinaryWebSocket(broker.port) as ws:
        assert ws.call(type="ping")["type"] == "pong"
        ws.send_frame(BINARY, b"\0" * 70001)
        assert ws.close_code() == 1009


@pytest.mark.parametrize("window", ["--max-open-requests", "--max-unsent-answers"])
def test_one_message_of_very_many_requests_is_carried_out_as_there_is_room(start_broker, window):
    """No answer is lost, none is given twice, and no bound is passed that a message of many records could pass: a
    client that does not read is not carried out further."""
    broker = start_broker("--storage", "memory", window, "64" if "open" in window else "4K", db=None)
    total = 100000
    with BinaryWebSocket(broker.port, rcvbuf=4096) as ws:
        # refusals: the answers are longer than the requests
        message = b"".join(struct.pack("<IBBHQ", 8, 0x3F, 0, 0, i) for i in range(1, total + 1))
        sender = threading.Thread(target=ws.send_frame, args=(BINARY, message), daemon=True)
        sender.start()
        if "unsent" in window:
            wait_for(lambda: broker.metric("eventbus_websocket_bad_requests_total") > 0, what="the first refusal")
            rows = broker.get("/v1/connections").json["connections"]
            assert rows[0]["queued_bytes"] < 64 * 1024
            assert broker.metric("eventbus_websocket_bad_requests_total") < total
        got = records(ws, lambda got: len(got) >= total)
        assert [r["id"] for r in got] == list(range(1, total + 1))
        sender.join(30)
        ws.send_frame(BINARY, bin.encode(*({"kind": "publish", "id": i, "topic": "t"} for i in range(1, 5001))))
        got = records(ws, lambda got: len(answer_ids(got)) >= 5000)
        assert sorted(answer_ids(got)) == list(range(1, 5001))


def test_control_frames_are_answered_while_a_message_waits_for_room(start_broker):
    """A ping gets its pong though the message before it is only half carried out."""
    broker = start_broker("--storage", "memory", "--max-unsent-answers", "4K", db=None)
    with BinaryWebSocket(broker.port, rcvbuf=4096) as ws:
        message = b"".join(struct.pack("<IBBHQ", 8, 0x3F, 0, 0, i) for i in range(1, 30001))
        ws.send_frame(BINARY, message)
        ws.send_frame(9, b"alive?")
        refusals, ponged_at = 0, None
        while refusals < 30000:
            opcode, payload = ws.frame()
            if opcode == BINARY:
                refusals += len(bin.decode(payload))
            elif opcode == 10:
                ponged_at = refusals
        assert ponged_at is not None and ponged_at < 30000  # it may overtake the first answers, too


def test_messages_in_fragments_and_single_bytes_are_joined(ws):
    """Records may lie across fragments; control frames stand between."""
    data = bin.encode(*({"kind": "publish", "id": i, "topic": "t", "payload": bytes([i]) * i} for i in range(1, 20)))
    ws.send_frame(BINARY, data[:1], fin=False)
    for i in range(1, len(data) - 1):
        ws.send_frame(0, data[i : i + 1], fin=False)
    ws.send_frame(9, b"between")
    ws.send_frame(0, data[-1:])
    got = records(ws, lambda got: len(answer_ids(got)) == 19)
    assert sorted(answer_ids(got)) == list(range(1, 20))


def test_an_empty_message_is_nothing(ws):
    ws.send_frame(BINARY, b"")
    assert ws.call(type="ping")["type"] == "pong"


@pytest.mark.parametrize("seed", range(4))
def test_bent_bytes_are_survived_and_every_whole_request_is_answered(broker, seed):
    """Vectors with bytes changed, cut, joined and doubled: the broker answers or passes over, never closes, never dies."""
    rand = random.Random(seed)
    whole = [bytes.fromhex(v["hex"]) for v in VECTORS["records"] if v["from"] == "client"] + [bytes.fromhex(v["hex"]) for v in VECTORS["refused"]]
    with BinaryWebSocket(broker.port) as ws:
        for _ in range(150):
            message = bytearray(b"".join(rand.choices(whole, k=rand.randint(1, 6))))
            for _ in range(rand.randint(0, 6)):
                at = rand.randrange(len(message))
                how = rand.randrange(4)
                if how == 0:
                    message[at] = rand.randrange(256)
                elif how == 1:
                    message[at : at + rand.randint(1, 9)] = b""
                elif how == 2:
                    message[at:at] = rand.randbytes(rand.randint(1, 9))
                else:
                    message[at] ^= 1 << rand.randrange(8)
                if not message:
                    message = bytearray(b"\0")
            ws.send_frame(BINARY, bytes(message))
            ws.send_frame(BINARY, bin.encode({"kind": "ping", "id": 2**64 - 1}))
            got = records(ws, lambda got: any(r["kind"] == "pong" and r["id"] == 2**64 - 1 for r in got))
            assert got
    assert broker.get("/readyz").status == 200


# ---- deliveries ----


def test_a_live_subscriber_and_a_replaying_one_are_given_the_same(broker, ws):
    """Every part of an event; the replay has the pattern beside."""
    ws.subscribe("#")
    sent = [
        {"kind": "publish", "id": 0, "topic": f"a.{i}", "payload": bytes([i] * i), "message_id": str(uuid.uuid4()), "ttl": 1000 + i, "content_type": f"x/{i}", "headers": {"n": str(i), "e": ""}}
        for i in range(50)
    ]
    ws.send_frame(BINARY, bin.encode(*sent))
    live = records(ws, lambda got: len(got) == 50)
    for given, event in zip(sent, live):
        assert {key: event[key] for key in given if key not in ("kind", "id")} == {key: given[key] for key in given if key not in ("kind", "id")}
    with BinaryWebSocket(broker.port) as other:
        other.subscribe("a.*", starting_seq=1)
        replayed = records(other, lambda got: got and got[-1]["kind"] == "live")
        assert [{**event, "pattern": "a.*"} for event in live] == replayed[:-1]


def test_a_stop_answers_what_is_in_flight_and_closes_with_1001(start_broker):
    """Every publish that was answered is in the log; the end is a close frame."""
    broker = start_broker()
    with BinaryWebSocket(broker.port) as ws:
        ws.send_frame(BINARY, bin.encode(*({"kind": "publish", "id": i, "topic": "t", "payload": b"x"} for i in range(1, 2001))))
        got = records(ws, bool)
        broker.stop()
        with pytest.raises(Closed) as closed:
            while True:
                got += bin.decode(ws.message())
        assert closed.value.code == 1001
    stored = {r["id"] + i: r["seq"] + i for r in got if r["kind"] == "acks" for i in range(r["count"])}
    broker.start()
    assert [e["seq"] for e in broker.events("t")][: len(stored)] == sorted(stored.values())


def test_any_request_may_be_asked_as_json_and_is_answered_as_json(ws):
    """What has no binary form can be asked all the same: a publish, a subscribe and an error as docs/binary.md says,
    their answers under the record's id whatever the text has for one; deliveries stay binary."""

    def ask(number, **request):
        ws.send_frame(BINARY, bin.encode({"kind": "json_request", "id": number, "text": json.dumps(request)}))

    ask(7, type="subscribe", pattern="a.*", id="not looked at")
    ask(8, type="publish", data={"topic": "a.b", "payload": "x"})
    ask(9, type="fly")
    ask(0, type="publish", data={"topic": "a.b", "payload": "y"})
    ws.send_frame(BINARY, bin.encode({"kind": "json_request", "id": 10, "text": "{"}))
    got = records(ws, lambda got: len([r for r in got if r["kind"] == "event"]) == 2 and len([r for r in got if r["kind"] == "json"]) == 4)
    answers = {record["id"]: json.loads(record["text"]) for record in got if record["kind"] == "json"}
    assert {id: (answer["type"], answer["id"]) for id, answer in answers.items()} == {7: ("ok", 7), 8: ("ok", 8), 9: ("error", 9), 10: ("error", 10)}
    assert answers[7]["last_seq"] == 0 and answers[8]["seq"] == 1 and answers[8]["duplicate"] is False
    assert answers[9]["code"] == "invalid_request" and answers[10]["code"] == "invalid_json"
    assert [event["payload"] for event in got if event["kind"] == "event"] == [b"x", b"y"]
