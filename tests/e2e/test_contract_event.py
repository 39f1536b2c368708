"""The contract of an event, its ids and patterns, sentence by sentence, against the real broker."""
import base64
import json
import re
import time
import urllib.parse
import uuid

import pytest

from lib.broker import Broker, wait_for
from lib.probe import Ws, events_of, strict

NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "eventbus")
V7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")


@pytest.fixture(scope="module")
def broker():
    """One broker for all: each test uses topics of its own. In memory: what is asked here has no disk in it."""
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


def http_publish(broker, topic, payload=b"", **headers):
    return broker.request("POST", "/v1/topics/" + urllib.parse.quote(topic, safe="") + "/events", payload, headers)


# ---- seq ----


def test_seq_outlives_the_newest_event(start_broker):
    """"never reused within one epoch, also across restarts and crashes and when the newest events are deleted" """
    broker = start_broker()
    assert broker.publish("keep", b"1")["seq"] == 1
    assert broker.publish("gone", b"2", Event_TTL="1")["seq"] == 2
    wait_for(lambda: broker.stats()["events"] == 1, what="deletion of the expired event")
    epoch = broker.stats()["epoch"]
    broker.stop()
    broker.start()
    assert broker.publish("next", b"3")["seq"] == 3
    broker.publish("gone", b"4", Event_TTL="1")
    wait_for(lambda: broker.stats()["events"] == 2, what="deletion of the expired event")
    broker.kill()
    broker.start()
    stats = broker.stats()
    assert stats["last_seq"] == 4 and stats["epoch"] == epoch
    assert broker.publish("next", b"5")["seq"] == 5


# ---- topic ----

SPACES = [0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000]
CONTROLS = [*range(0x00, 0x20), *range(0x7F, 0xA0)]


def test_topic_words_take_no_space_control_or_wildcard(ws):
    """"a word is 1 or more bytes, without `.`, `*`, `#`, control characters (U+0000-001F, U+007F-009F) or any White_Space" """
    bad = ["", ".", "..", "a..b", ".a", "a.", "*", "#", "a*", "a.#", "a#b", "x" * 256, "é" * 128]
    bad += ["a" + chr(c) + "b" for c in SPACES + CONTROLS]
    for topic in bad:
        assert code(ws.pub(topic)) == "invalid_topic", repr(topic)
    good = ["x" * 255, "é" * 127, "a.b.c." + "d" * 200, "\u200b", "\u180e", "\ufeff", "\u2060", "a/b", "+", "%", "a,b", "\U0001f600", "\ue000", "\uffff", "_x", "a.$b", "a._b", "~", "a\"b", "a\\b"]
    for topic in good:
        assert code(ws.pub(topic)) == "ok", repr(topic)


def test_topics_over_http_are_the_same(broker):
    """"`{topic}` is one percent-encoded segment (`%2F` is `/`, `+` is itself, `%00` or a bad escape is 400)" """
    for topic in ("a b", "a..b", "*", "x" * 256, "a\u3000b", "a\u0085b"):
        answer = http_publish(broker, topic)
        assert (answer.status, answer.json["code"]) == (400, "invalid_topic"), topic
    for raw, topic in (("a%2Fb", "a/b"), ("a+b", "a+b"), ("%C3%A9", "é"), ("%41.%62", "A.b"), ("a%25b", "a%b"), ("%3f", "?")):
        answer = broker.request("POST", f"/v1/topics/{raw}/events", b"x")
        assert answer.status == 201, raw
        assert broker.get(f"/v1/events/{answer.json['seq']}").json["topic"] == topic
    for raw in ("a%00b", "%", "%2", "%zz", "a%", "%c3%28", "%ff", "%ed%a0%80", "%c0%af", "%f4%90%80%80"):
        answer = broker.request("POST", f"/v1/topics/{raw}/events", b"x")
        assert answer.status == 400, raw
    assert broker.request("POST", "/v1/topics//events", b"x").status == 400
    assert broker.request("POST", "/v1/topics/a/b/events", b"x").status == 404


def test_topics_are_compared_byte_by_byte(ws):
    """"Compared byte by byte: no normalisation, no case folding" """
    ws.sub("e.\u00e9")
    for topic in ("e.e\u0301", "E.\u00e9", "e.\u00c9", "e.\u00e9"):
        assert code(ws.pub(topic)) == "ok"
    assert [e["topic"] for e in events_of(ws.until("e.\u00e9"))] == ["e.\u00e9"]


def test_dollar_topics_are_the_brokers_own(broker, ws):
    """"Topics whose first word starts with `$` are the broker's own: publishing there is `forbidden`" """
    for topic in ("$x", "$", "$sys.a", "$x.$y"):
        assert code(ws.pub(topic)) == "forbidden"
        answer = http_publish(broker, topic, b"x")
        assert (answer.status, answer.json["code"]) == (403, "forbidden")
    batch = ws.ask(type="publish_batch", messages=[{"topic": "fine", "payload": ""}, {"topic": "$x", "payload": ""}])
    assert (code(batch), batch["index"]) == ("forbidden", 1)
    assert code(ws.pub("a.$x")) == "ok"
    assert code(ws.pub("$x..y")) in ("invalid_topic", "forbidden")


# ---- payload, metadata ----


def test_payload_limits_are_exact(broker, ws):
    """"bytes, at most `max_payload` (1 MiB unless configured); may be empty" """
    mib = 1 << 20
    assert http_publish(broker, "big", b"x" * mib).status == 201
    answer = http_publish(broker, "big", b"x" * (mib + 1))
    assert (answer.status, answer.json["code"]) == (413, "payload_too_large")
    assert code(ws.pub("big", "x" * mib)) == "ok"
    assert code(ws.pub("big", "x" * (mib + 1))) == "payload_too_large"
    assert code(ws.pub("big", "\u00e9" * (mib // 2))) == "ok"
    assert code(ws.pub("big", "\u00e9" * (mib // 2) + "x")) == "payload_too_large"
    for size, expected in ((mib, "ok"), (mib + 1, "payload_too_large")):
        assert code(ws.pub("big", base64.b64encode(b"\xff" * size).decode(), payload_encoding="base64")) == expected
    assert http_publish(broker, "big", b"").status == 201 and code(ws.pub("big", "")) == "ok"


def test_timestamps_and_content_types_are_never_absent(broker, ws):
    """"`metadata.timestamp` … never runs backward along the log … `text/plain` unless the publisher says otherwise" """
    before = time.time() * 1000
    seqs = [ws.pub("meta", "x")["seq"] for _ in range(50)]
    events = [broker.get(f"/v1/events/{seq}").json for seq in seqs]
    stamps = [e["metadata"]["timestamp"] for e in events]
    assert stamps == sorted(stamps) and before - 2000 < stamps[0] <= stamps[-1] < time.time() * 1000 + 2000
    assert all(e["metadata"]["content_type"] == "text/plain" and "headers" not in e["metadata"] for e in events)
    seq = ws.pub("meta", "x", content_type="application/json; charset=utf-8")["seq"]
    assert broker.get(f"/v1/events/{seq}").json["metadata"]["content_type"] == "application/json; charset=utf-8"


def test_headers_count_and_size(broker, ws):
    """"object of strings, absent if none; at most 64, 16 KiB; `message-id` … is replaced, and does not count against the limits" """
    sixty_four = {f"h{i}": "v" for i in range(64)}
    answer = ws.pub("headers", headers=sixty_four)
    assert code(answer) == "ok" and broker.get(f"/v1/events/{answer['seq']}").json["metadata"]["headers"] == sixty_four
    assert code(ws.pub("headers", headers={**sixty_four, "one-more": "v"})) in ("invalid_request", "limit_exceeded")
    answer = ws.pub("headers", headers={**sixty_four, "message-id": "mine" * 10000}, message_id="given")
    assert code(answer) == "ok"
    assert broker.get(f"/v1/events/{answer['seq']}").json["metadata"]["headers"] == {**sixty_four, "message-id": "given"}
    answer = ws.pub("headers", headers={"message-id": "mine"})
    assert code(answer) == "ok" and "message-id" not in broker.get(f"/v1/events/{answer['seq']}").json["metadata"].get("headers", {})
    assert code(ws.pub("headers", headers={"h": "v" * 16000})) == "ok"
    assert code(ws.pub("headers", headers={"h": "v" * 16384})) != "ok"
    answer = ws.pub("headers", headers={})
    assert "headers" not in broker.get(f"/v1/events/{answer['seq']}").json["metadata"]
    for bad in ([], "x", 1, {"a": 1}, {"a": None}, {"a": {}}, {"a": True}):
        assert code(ws.pub("headers", headers=bad)) == "invalid_request", bad
    answer = ws.pub("headers", headers={"X-Mixed": "Ünï", "ce-x": ""})
    assert broker.get(f"/v1/events/{answer['seq']}").json["metadata"]["headers"] == {"X-Mixed": "Ünï", "ce-x": ""}


# ---- ttl ----


def test_ttl_values(broker, ws):
    """"absent or null: `default_ttl`; 0: no expiry; negative: `invalid_request`" """
    for bad in (-1, -(2**53), 1.5, "60", True, [], 2**64, 10**400):
        assert code(ws.ask(type="publish", data={"topic": "ttl", "payload": ""}, ttl=bad)) == "invalid_request", bad
        assert code(ws.ask(type="publish_batch", messages=[{"topic": "ttl", "payload": "", "ttl": bad}])) == "invalid_request", bad
    for good in (0, 1000, 2**31, 10**9):
        seq = ws.ask(type="publish", data={"topic": "ttl", "payload": ""}, ttl=good)["seq"]
        assert broker.get(f"/v1/events/{seq}").json.get("ttl", 0) == good
    for bad in ("-1", "x", "1.5", "", " ", "0x10", "1e3", "99999999999999999999"):
        answer = broker.request("POST", "/v1/topics/ttl/events", b"x", {"Event-TTL": bad})
        assert (answer.status, answer.json["code"]) == (400, "invalid_request"), bad
    for huge in (2**53, 2**62, 2**63 - 1):
        assert code(ws.ask(type="publish", data={"topic": "ttl", "payload": ""}, ttl=huge)) in ("ok", "invalid_request")
    last = broker.stats()["last_seq"]
    assert broker.get(f"/v1/events/{last}").status == 200, "a huge ttl is not one in the past"


def test_default_ttl_and_what_beats_it(start_broker):
    """"absent or null: `default_ttl`; 0: no expiry"; "a member's own `ttl` beats its batch's" """
    broker = start_broker("--storage", "memory", "--default-ttl", "600s", db=None)
    with Ws(broker.port) as ws:
        ttl = lambda seq: broker.get(f"/v1/events/{seq}").json.get("ttl")  # noqa: E731
        assert ttl(ws.pub("a")["seq"]) == 600
        assert ttl(ws.ask(type="publish", data={"topic": "a", "payload": ""}, ttl=None)["seq"]) == 600
        assert ttl(ws.pub("a", ttl=0)["seq"]) is None
        assert ttl(ws.pub("a", ttl=5)["seq"]) == 5
        members = [{"topic": "a", "payload": "", **m} for m in ({}, {"ttl": 7}, {"ttl": None}, {"ttl": 0})]
        results = ws.ask(type="publish_batch", messages=members, ttl=9)["results"]
        assert [ttl(r["seq"]) for r in results] == [9, 7, 9, None]
        results = ws.ask(type="publish_batch", messages=members, ttl=None)["results"]
        assert [ttl(r["seq"]) for r in results] == [600, 7, 600, None]
        body = json.dumps({"messages": members, "ttl": 9})
        results = broker.request("POST", "/v1/events", body, {"Content-Type": "application/json"}).json["results"]
        assert [ttl(r["seq"]) for r in results] == [9, 7, 9, None]
        assert ttl(broker.publish("a", Event_TTL="0")["seq"]) is None
        assert ttl(broker.publish("a")["seq"]) == 600


@pytest.mark.parametrize("storage", ["sqlite", "memory"])
def test_past_its_ttl_an_event_is_never_delivered_again(start_broker, storage):
    """"Checked when the event is read from the log or enters a queue: past it, it is never delivered again, and is deleted" """
    broker = start_broker("--storage", storage)
    with Ws(broker.port) as ws:
        ws.sub("t.#")
        short, long = ws.pub("t.a", "short", ttl=1)["seq"], ws.pub("t.a", "long", ttl=1000)["seq"]
        assert [e["payload"] for e in (ws.event(), ws.event())] == ["short", "long"]
        wait_for(lambda: broker.get(f"/v1/events/{short}").status == 404, what="expiry")
        assert [e["seq"] for e in broker.events("t.%23")] == [long]
        ws.sub("t.*", starting_seq=1)
        assert ws.take(lambda m: m["type"] in ("event", "gap", "live"))["seq"] == long
        assert ws.take(lambda m: m["type"] in ("gap", "live"))["type"] == "live", "expiry makes no gap"
        wait_for(lambda: broker.stats()["events"] == 1, what="deletion")


# ---- message ids ----


def test_ids_made_by_the_broker_are_uuidv7_that_sort_by_time(ws):
    """"a UUIDv7 made by the broker" """
    ids = [ws.pub("ids")["message_id"] for _ in range(20)]
    assert all(V7.fullmatch(i) for i in ids) and len(set(ids)) == 20
    assert [i[:13] for i in ids] == sorted(i[:13] for i in ids)


def test_a_uuid_in_any_usual_form_is_taken_as_it_is(broker, ws):
    """"any case, with or without hyphens, in braces, after `urn:uuid:`" """
    for form in ("{}", "{{{}}}", "urn:uuid:{}"):
        for case in (str.lower, str.upper):
            value = uuid.uuid4()
            answer = ws.pub("ids", message_id=form.format(case(str(value))))
            assert answer["message_id"] == str(value)
            assert "message-id" not in broker.get(f"/v1/events/{answer['seq']}").json["metadata"].get("headers", {})
    value = uuid.uuid4()
    assert ws.pub("ids", message_id=value.hex)["message_id"] == str(value)
    assert ws.pub("ids", message_id=value.hex.upper())["duplicate"] is True
    assert ws.pub("ids", message_id="URN:UUID:" + str(value))["duplicate"] is True
    assert ws.pub("ids", message_id="{" + value.hex + "}")["duplicate"] is True


def test_any_other_string_becomes_its_uuidv5(broker, ws):
    """"any other string becomes its UUIDv5 in the broker's fixed namespace … and is kept in the header `message-id`" """
    odd = ["x", "order-17", "é" * 127, "a" * 255, " ", "\u0001", str(uuid.uuid4())[:-1], str(uuid.uuid4()) + "0", "{" + str(uuid.uuid4()), "urn:uuid:", "a b"]
    for text in odd:
        answer = ws.pub("ids", message_id=text)
        assert answer["message_id"] == str(uuid.uuid5(NAMESPACE, text)), text
        assert broker.get(f"/v1/events/{answer['seq']}").json["metadata"]["headers"] == {"message-id": text}
    for bad in ("", "a" * 256, "é" * 128, 1, 1.5, True, [], {}):
        assert code(ws.pub("ids", message_id=bad)) == "invalid_message_id", bad
    for bad in ("", "a" * 256):
        answer = broker.request("POST", "/v1/topics/ids/events", b"x", {"Event-Id": bad})
        assert (answer.status, answer.json["code"]) == (400, "invalid_message_id")


def test_a_cloudevents_id_is_always_the_uuidv5_of_source_nul_id(broker):
    """"For a CloudEvent it is always the UUIDv5 of `source`, NUL, `id`" """
    for id in ("17", str(uuid.uuid4())):
        event = {"specversion": "1.0", "id": id, "source": "/s", "type": "ce.t"}
        answer = broker.request("POST", "/v1/events", json.dumps(event), {"Content-Type": "application/cloudevents+json"})
        assert answer.json["message_id"] == str(uuid.uuid5(NAMESPACE, "/s\0" + id))


# ---- patterns ----


def matches(pattern, topic):
    """The reference: pattern and topic as lists of words."""
    if not pattern:
        return not topic
    if pattern[0] == "#":
        return any(matches(pattern[1:], topic[i:]) for i in range(len(topic) + 1))
    return bool(topic) and pattern[0] in ("*", topic[0]) and matches(pattern[1:], topic[1:])


def visible(pattern, topic):
    hidden = topic[0] in "$_" and pattern.split(".")[0] != topic.split(".")[0]
    return not hidden and matches(pattern.split("."), topic.split("."))


PATTERNS = ["p.#", "p.*", "*.p", "#", "*", "#.b", "#.#", "p.#.b", "*.*", "*.#", "#.*", "p.*.#.b", "#.b.#", "_x", "_x.*", "_x.#", "*.a", "#.a", "p.a.b", "p"]
TOPICS = ["p", "p.a", "p.b", "p.a.b", "p.a.a.b", "q.p", "b", "b.b", "a", "_x", "_x.a", "_x.a.b", "q._x", "a.$x", "p.b.a", "_y.a"]


def test_patterns_match_alike_live_and_in_replay(broker):
    """"`*` stands for exactly one word, `#` for zero or more … a pattern reaches `$` and `_` only by naming the first word" """
    with Ws(broker.port) as publisher:
        watchers = [(p, Ws(broker.port)) for p in PATTERNS]
        for pattern, ws in watchers:
            ws.sub(pattern)
        start = publisher.pub("before.all")["seq"]
        for topic in TOPICS:
            publisher.pub(topic)
        publisher.pub("mark.end")
        for pattern, ws in watchers:
            expected = [t for t in TOPICS if visible(pattern, t)]
            ws.sub("mark.end", starting_seq=start)
            live = [m["topic"] for m in events_of(ws.until("mark.end")) if m["topic"] in TOPICS]
            assert live == expected, pattern
            page = broker.get(f"/v1/events?pattern={urllib.parse.quote(pattern)}&starting_seq={start}&limit=1000").json
            assert [e["topic"] for e in page["events"] if e["topic"] in TOPICS] == expected, pattern
            ws.close()


def test_patterns_that_are_none(broker, ws):
    """"Patterns, 1 to 255 bytes: … each only as a whole word (`a*` is `invalid_pattern`)" """
    for bad in ("", "a*", "*a", "a#", "##", "a.##", "**", "a..b", ".", "a.", " ", "a\u2003b", "x" * 256, "a.b*.c", "\u0000", "a\u009fb"):
        assert code(ws.ask(type="subscribe", pattern=bad)) == "invalid_pattern", bad
        answer = broker.get("/v1/events?pattern=" + urllib.parse.quote(bad))
        assert answer.status == 400, bad
    for bad in (1, True, [], {}, None):
        assert code(ws.ask(type="subscribe", pattern=bad)) in ("invalid_request", "invalid_pattern")
    assert code(ws.ask(type="subscribe", pattern="x" * 255)) == "ok"
    assert code(ws.ask(type="subscribe", pattern="$dead.*")) == "ok"


def test_many_hashes_cost_linear_time(broker, ws):
    """"Matching costs linear time for any number of `#`" """
    ws.sub(".".join(["#", "a"] * 60 + ["b"]))
    begin = time.monotonic()
    for _ in range(20):
        ws.pub(".".join(["a"] * 127))
    assert time.monotonic() - begin < 10


# ---- epoch ----


def test_epochs(start_broker, tmp_path, build):
    """"`epoch` is a UUID made with the log and kept in it. A new one is made by … `--new-epoch` … each start with `storage = memory`" """
    broker = start_broker()
    epoch = broker.stats()["epoch"]
    assert str(uuid.UUID(epoch)) == epoch
    broker.restart()
    assert broker.stats()["epoch"] == epoch
    broker.kill()
    broker.start()
    assert broker.stats()["epoch"] == epoch, "the broker's death alone is no other history"
    broker.stop()
    broker.options.append("--new-epoch")
    broker.start()
    assert broker.stats()["epoch"] != epoch
    memory = start_broker("--storage", "memory", db=None)
    first = memory.stats()["epoch"]
    memory.restart()
    assert memory.stats()["epoch"] != first
