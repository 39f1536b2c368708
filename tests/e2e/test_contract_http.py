"""The contract of HTTP and of the promises that HTTP can see, sentence by sentence."""
import base64
import http.client
import json
import re
import sqlite3
import subprocess
import urllib.parse
import uuid

import pytest

from lib.broker import BUILD, Broker, wait_for
from lib.probe import Ws, judge_event, strict

JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def broker():
    broker = Broker(["--storage", "memory"])
    broker.start()
    yield broker
    broker.finish()


def problem(answer, status, code=None):
    """RFC 9457, with the members the contract names, and nothing that a cache may keep."""
    assert answer.status == status, answer
    assert answer.headers["Content-Type"] == "application/problem+json", answer
    body = strict(answer.body.decode())
    assert {"type", "title", "status", "detail", "code"} <= set(body) and body["status"] == status, body
    assert all(isinstance(body[m], str) and body[m] for m in ("type", "title", "detail", "code"))
    assert code is None or body["code"] == code, body
    assert status not in (429, 503) or int(answer.headers["Retry-After"]) >= 0
    assert status != 405 or answer.headers["Allow"]
    return body


def post(broker, body, kind="application/json", **headers):
    body = body if isinstance(body, (bytes, str)) else json.dumps(body)
    return broker.request("POST", "/v1/events", body, {"Content-Type": kind, **{n.replace("_", "-"): v for n, v in headers.items()}})


def event_of(broker, answer):
    assert answer.status == 201, answer
    return broker.get(f"/v1/events/{answer.json['seq']}").json


# ---- publish ----


def test_publish_answers(broker):
    """"`201` with `{"seq":…,"message_id":…,"duplicate":false}`, `200` for a duplicate" """
    first = broker.request("POST", "/v1/topics/pub/events", b"x", {"Event-Id": "p1"})
    again = broker.request("POST", "/v1/topics/pub/events", b"x", {"Event-Id": "p1"})
    assert (first.status, again.status) == (201, 200)
    assert set(first.json) == {"seq", "message_id", "duplicate"} and first.json["duplicate"] is False
    assert again.json == {**first.json, "duplicate": True}
    for answer in (first, again):
        assert answer.headers["Content-Type"] == "application/json" and answer.headers["Cache-Control"] == "no-store"


def test_content_types(broker):
    """"Content type `application/x-www-form-urlencoded` … or none: `text/plain` if the body is UTF-8, else `application/octet-stream`" """
    for given, body, kept in ((None, b"x", "text/plain"), (None, b"\xff", "application/octet-stream"), ("application/x-www-form-urlencoded", b"a=b", "text/plain"), (None, b"", "text/plain"),
                              ("application/x-www-form-urlencoded; charset=utf-8", b"\xff", "application/octet-stream"), ("Application/X-WWW-Form-Urlencoded", b"a", "text/plain"), ("", b"x", "text/plain"),
                              ("application/json", b"{", "application/json"), ("text/plain;charset=latin1", b"\xe9", "text/plain;charset=latin1"), ("image/png", b"\x89", "image/png")):  # fmt: skip
        answer = broker.request("POST", "/v1/topics/ct/events", body, {} if given is None else {"Content-Type": given})
        assert event_of(broker, answer)["metadata"]["content_type"] == kept, (given, body)
    for headers in ({"Content-Type": "multipart/form-data; boundary=x"}, {"Content-Type": "Multipart/Mixed"}, {"Content-Encoding": "gzip"}, {"Content-Encoding": "br", "Content-Type": "text/plain"}):
        problem(broker.request("POST", "/v1/topics/ct/events", b"x", headers), 415, "unsupported_media_type")
        problem(broker.request("POST", "/v1/events", b"{}", {**JSON, **headers}), 415, "unsupported_media_type")
    for kind in ("text/plain", "text/html", "application/xml", "application/cloudevents+xml", "application/cloudevents+avro", "*/*", "application/jsonx"):
        problem(post(broker, b"{}", kind), 415, "unsupported_media_type")
    for kind in ("application/json; charset=utf-8", "APPLICATION/JSON", "application/json;x=y"):
        assert post(broker, {"topic": "ct", "payload": ""}, kind).status == 201, kind


def test_headers_of_an_event(broker):
    """"`Event-Header-NAME`, `traceparent`, `tracestate`, `baggage`"; "Header names from HTTP become lower case, values must be UTF-8" """
    connection = http.client.HTTPConnection("127.0.0.1", broker.port, timeout=30)

    def publish(headers):
        connection.putrequest("POST", "/v1/topics/hd/events")
        for name, value in [("Content-Length", b"0"), *headers]:
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        answer.text = answer.read()
        return answer

    answer = publish([("Event-Header-X-Mixed", b"v"), ("EVENT-HEADER-reply_to", "é".encode()), ("traceparent", b"00-1-2-01"), ("TraceState", b"a=1"), ("baggage", b"k=v"), ("X-Other", b"no"), ("Event-Header-Empty", b"")])
    event = broker.get(f"/v1/events/{json.loads(answer.text)['seq']}").json
    headers = event["metadata"]["headers"]
    assert headers == {"x-mixed": "v", "reply_to": "é", "traceparent": "00-1-2-01", "tracestate": "a=1", "baggage": "k=v", "empty": ""}
    answer = publish([("Event-TTL", b"  7 \t"), ("Event-Id", b"padded  "), ("Event-Header-Pad", b" p ")])
    assert answer.status == 201, answer.text
    event = broker.get(f"/v1/events/{json.loads(answer.text)['seq']}").json
    assert event["ttl"] == 7 and event["metadata"]["headers"] == {"pad": "p", "message-id": "padded"}, "white space around a value is no part of it"
    assert publish([("Event-Header-X", b"\xff")]).status == 400
    assert publish([("Event-Header-" + "n" * 242, b"x")]).status == 201
    assert publish([("Event-Header-" + "n" * 243, b"x")]).status == 400, "refused, not left out in silence"
    assert publish([("Event-Header-", b"x")]).status in (201, 400)
    assert publish([("Event-Id", b"\xff")]).status == 400
    answer = publish([("Event-Header-Message-Id", b"mine"), ("Event-Id", b"theirs")])
    assert broker.get(f"/v1/events/{json.loads(answer.text)['seq']}").json["metadata"]["headers"] == {"message-id": "theirs"}
    assert publish([(f"Event-Header-h{i}", b"") for i in range(64)]).status == 201
    assert publish([(f"Event-Header-h{i}", b"") for i in range(65)]).status in (400, 429)
    connection.close()


def test_one_event_as_json(broker):
    """"`application/json`: one event, the members of `data` with `ttl` among them" """
    answer = post(broker, {"topic": "j", "payload": "/w==", "payload_encoding": "base64", "message_id": "j1", "content_type": "a/b", "headers": {"K": "v"}, "ttl": 50})
    event = judge_event(event_of(broker, answer))
    assert event["payload"] == "/w==" and event["payload_encoding"] == "base64" and event["ttl"] == 50
    assert event["metadata"]["content_type"] == "a/b" and event["metadata"]["headers"] == {"K": "v", "message-id": "j1"}
    for body in ([], "x", 1, None, {}, {"topic": "j"}, {"payload": "x"}, {"topic": 1, "payload": "x"}, {"topic": "j", "payload": {}}, {"messages": {}}, {"messages": None}, {"messages": [[]]}, [{"topic": "j", "payload": ""}]):
        problem(post(broker, body), 400)
    for body in (b"", b"{", b"\xff", b'{"topic":"j","payload":"\\ud800"}'):
        problem(post(broker, body), 400, "invalid_json")


def test_ndjson(broker):
    """"`application/x-ndjson`: one event a line, all one batch" """
    line = lambda p: json.dumps({"topic": "nd", "payload": p}).encode()  # noqa: E731
    for body, count in ((line("1"), 1), (line("1") + b"\n", 1), (line("1") + b"\r\n" + line("2") + b"\r\n", 2), (b"\n\n" + line("1") + b"\n\n" + line("2") + b"\n\n", 2),
                        (b"  " + line("1") + b"  \n \t\n" + line("2"), 2), (line("\u2028\u0085") + b"\n", 1)):  # fmt: skip
        answer = post(broker, body, "application/x-ndjson")
        assert answer.status == 201 and len(answer.json["results"]) == count, (body, answer)
    last = broker.stats()["last_seq"]
    for body, index in ((line("1") + b"\nnope\n", 1), (b"\n\n" + line("1") + b"\n{}\n", 1), (line("1") + line("2"), 0), (b'{"topic":\n"nd"}', 0), (line("1") + b"\n[]", 1)):
        answer = post(broker, body, "application/x-ndjson")
        assert problem(answer, 400)["index"] == index, (body, answer)
    assert broker.stats()["last_seq"] == last


# ---- CloudEvents ----

CE = {"specversion": "1.0", "id": "i", "source": "/s", "type": "ce.type"}


def ce(id=None, **more):
    event = {**CE, "id": id or str(uuid.uuid4()), **more}
    return {name: value for name, value in event.items() if value is not None}


def test_cloudevents_structured(broker):
    """"attributes become headers `ce-*`, `datacontenttype` the content type, `data_base64` bytes" """
    kind = "application/cloudevents+json"
    event = event_of(broker, post(broker, ce("s1", data={"a": [1, 2.50]}, subject="sub", time="2020-01-01T00:00:00Z", myext=7, flag=True), kind))
    assert event["topic"] == "ce.type" and json.loads(event["payload"]) == {"a": [1, 2.5]} and event["metadata"]["content_type"] == "application/json"
    headers = event["metadata"]["headers"]
    assert headers["ce-id"] == "s1" and headers["ce-source"] == "/s" and headers["ce-type"] == "ce.type" and headers["ce-specversion"] == "1.0" and headers["ce-subject"] == "sub"
    assert headers["ce-myext"] == "7" and headers["ce-flag"] == "true" and not [h for h in headers if "data" in h]
    event = event_of(broker, post(broker, ce(data="hello", datacontenttype="text/plain"), kind))
    assert (event["payload"], event["metadata"]["content_type"]) == ("hello", "text/plain")
    event = event_of(broker, post(broker, ce(data="hello"), kind))
    assert event["payload"] == '"hello"'
    event = event_of(broker, post(broker, ce(data_base64="/w==", datacontenttype="image/png"), kind))
    assert (event["payload"], event["payload_encoding"], event["metadata"]["content_type"]) == ("/w==", "base64", "image/png")
    assert event_of(broker, post(broker, ce(), kind))["payload"] == ""
    assert event_of(broker, post(broker, ce(topic="by.extension"), kind))["topic"] == "by.extension"
    answer = broker.request("POST", "/v1/topics/by.path/events", json.dumps(ce(topic="by.extension")), {"Content-Type": kind})
    assert event_of(broker, answer)["topic"] == "by.path"
    for bad in (ce(specversion=None), ce(specversion="0.3"), ce(source=None), ce(source=""), ce(type=None), {**CE, "id": ""}, {**CE, "id": 7}, ce(data=1, data_base64="AA=="), ce(data_base64="A"),
                ce(data_base64=7), ce(type="a..b"), ce(topic="a b"), ce(source=7), [], "x", {**CE, "Bad-Name": "x"}, ce(obj={"a": 1}), ce("a\0b"), ce(source="/s\0x"), ce(ext="\0")):  # fmt: skip
        problem(post(broker, bad, kind), 400)
    problem(post(broker, ce(topic="$x"), kind), 403, "forbidden")


def test_cloudevents_binary(broker):
    """"CloudEvents binary mode (`ce-*` headers)", whose values are percent-encoded (HTTP binding 3.1.3.2)"""
    def binary(headers, body=b"x", path="/v1/events", kind="text/plain"):
        return broker.request("POST", path, body, {**({"Content-Type": kind} if kind else {}), **headers})

    head = {"ce-specversion": "1.0", "ce-id": "b1", "ce-source": "/s", "ce-type": "ce.bin"}
    event = event_of(broker, binary({**head, "CE-Subject": "Euro%20%E2%82%AC%20%F0%9F%98%80%22", "ce-odd": "100%", "ce-pct": "%25", "ce-low": "%e2%82%ac", "ce-quoted": '"a \\"b\\\\ %20c"'}))
    headers = event["metadata"]["headers"]
    assert event["topic"] == "ce.bin" and event["payload"] == "x" and headers["ce-id"] == "b1"
    assert headers["ce-subject"] == 'Euro \u20ac \U0001f600"' and headers["ce-pct"] == "%" and headers["ce-low"] == "\u20ac" and headers["ce-odd"] == "100%"
    assert headers["ce-quoted"] == 'a "b\\  c', "quoted-pairs first (RFC 7230 3.2.6), then percent-encodings"
    assert event["message_id"] == str(uuid.uuid5(uuid.uuid5(uuid.NAMESPACE_DNS, "eventbus"), "/s\0b1"))
    again = post(broker, {**CE, "id": "b1", "type": "ce.bin", "datacontenttype": "text/plain", "data": "x"}, "application/cloudevents+json")
    assert again.status == 200 and again.json["seq"] == event["seq"], "the same event in another mode is a duplicate"
    assert event_of(broker, binary({**head, "ce-id": "b2", "ce-topic": "bin.ext"}))["topic"] == "bin.ext"
    assert event_of(broker, binary({**head, "ce-id": "b3"}, path="/v1/topics/bin.path/events"))["topic"] == "bin.path"
    event = event_of(broker, binary({**head, "ce-id": "b4"}, kind=None))
    assert event["payload"] == "x"
    for bad in ({**head, "ce-specversion": "2.0"}, {**head, "ce-id": ""}, {n: v for n, v in head.items() if n != "ce-source"}, {n: v for n, v in head.items() if n != "ce-type"}, {n: v for n, v in head.items() if n != "ce-id"}, {**head, "ce-subject": "%ff%fe"}, {**head, "ce-id": "a%00b"}):
        problem(binary(bad), 400)


def test_cloudevents_batch(broker):
    """One bad member refuses all and is named by its index."""
    kind = "application/cloudevents-batch+json"
    answer = post(broker, [ce("ba"), ce("bb", source="/t"), ce("ba")], kind)
    assert answer.status == 201 and [r["duplicate"] for r in answer.json["results"]] == [False, False, True]
    last = broker.stats()["last_seq"]
    for bad in (ce(type=None), 7, ce(data_base64="!"), ce(type="a..b")):
        assert problem(post(broker, [ce(), ce(), bad, ce()], kind), 400)["index"] == 2
    problem(post(broker, ce(), kind), 400)
    problem(post(broker, [], "application/cloudevents+json"), 400)
    assert broker.stats()["last_seq"] == last


# ---- read ----


def test_replay_pages(start_broker):
    """"`next_seq` is the first seq not looked at, also when nothing matched … the end is `next_seq` > `last_seq`, not an empty page" """
    broker = start_broker()
    with Ws(broker.port) as ws:
        ws.ask(type="publish_batch", messages=[{"topic": "ab"[i % 2], "payload": str(i)} for i in range(250)])
    page = broker.get("/v1/events?pattern=a").json
    assert len(page["events"]) == 100 and {"events", "next_seq", "last_seq", "epoch"} == set(page) and page["last_seq"] == 250
    assert page["epoch"] == broker.stats()["epoch"]
    for limit in (1, 2, 100, 1000):
        seqs, start = [], 1
        while start <= 250:
            page = broker.get(f"/v1/events?pattern=a&starting_seq={start}&limit={limit}").json
            assert len(page["events"]) <= limit and start < page["next_seq"]
            assert all(start <= e["seq"] < page["next_seq"] and judge_event(e) for e in page["events"])
            seqs += [e["seq"] for e in page["events"]]
            start = page["next_seq"]
        assert seqs == list(range(1, 251, 2))
    page = broker.get("/v1/events?pattern=none").json
    assert page["events"] == [] and page["next_seq"] == 251
    assert [e["seq"] for e in broker.get("/v1/events?pattern=a&pattern=b&limit=3").json["events"]] == [1, 2, 3]
    assert [e["seq"] for e in broker.get("/v1/events?pattern=a&pattern=%23&pattern=a&limit=3").json["events"]] == [1, 2, 3]
    page = broker.get("/v1/events?pattern=a&starting_seq=251").json
    assert page["events"] == [] and page["next_seq"] == 251 and "gap" not in page


def test_the_answer_is_at_most_4_mib_but_one_event(broker):
    """"answer at most 4 MiB but at least one event" """
    for _ in range(8):
        broker.publish("mib", b"\xff" * (1 << 20))
    seqs, start = [], 1
    while True:
        answer = broker.get(f"/v1/events?pattern=mib&starting_seq={start}&limit=1000")
        assert len(answer.body) <= 4 << 20
        seqs += [e["seq"] for e in answer.json["events"]]
        start = answer.json["next_seq"]
        if start > answer.json["last_seq"]:
            break
        assert answer.json["events"]
    assert len(seqs) == 8


QUERIES = {
    "": 400, "pattern=": 400, "pattern=a&starting_seq=": 400, "pattern=a&starting_seq=+1": 400, "pattern=a&starting_seq=%2B1": 400, "pattern=a&starting_seq=-0": 400, "pattern=a&starting_seq=-1": 400,
    "pattern=a&starting_seq=1e3": 400, "pattern=a&starting_seq=1.0": 400, "pattern=a&starting_seq=0x1": 400, "pattern=a&starting_seq=9007199254740992": (200, 400), "pattern=a&starting_seq=9007199254740993": 400, "pattern=a&starting_seq=18446744073709551616": 400,
    "pattern=a&starting_seq=99999999999999999999999": 400, "pattern=a&starting_seq=%201": 400, "pattern=a&starting_seq=%31": 200, "pattern=a&limit=0": 400, "pattern=a&limit=1001": 400, "pattern=a&limit=-1": 400,
    "pattern=a&limit=": 400, "pattern=a&limit=x": 400, "pattern=a&limit=1000": 200, "pattern=%23": 200, "pattern=%2A": 200, "pattern=a%2Eb": 200, "pattern=%zz": 400, "pattern=%": 400, "pattern=a%00b": 400,
    "pattern=%ff": 400, "pattern=a+b": 200, "pattern=a%20b": 400, "pattern=a%26b": 200, "pattern=a&unknown=x": 200, "Pattern=a": 400, "pattern": 400, "&&pattern=a&&": 200, "pattern=a=b": 200,
    "pattern=" + "x" * 255: 200, "pattern=" + "x" * 256: 400, "&".join(["pattern=a"] * 16): 200, "pattern=a&starting_seq=0": 200, "pattern=a&starting_seq=00": (200, 400), "pattern=a&starting_seq=007": (200, 400),
    "pattern=a&epoch=": 200, "pattern=a&epoch=x": (200, 400), "pattern=a&epoch=" + "x" * 5000: (200, 400), "pattern=a&starting_seq=1&starting_seq=2": (200, 400), "x&" * 200 + "pattern=a": (200, 400),
    "&".join(f"pattern=p{i}" for i in range(17)): (200, 400, 429), "&".join(f"pattern=p{i}" for i in range(60)): (200, 400, 429), "&".join(f"pattern=p{i}" for i in range(300)): (200, 400, 414, 429),
}  # fmt: skip


@pytest.mark.parametrize("path", ["/v1/events", "/v1/stream"])
def test_odd_queries(broker, path):
    """"in a query `#` must be `%23`: an absent `pattern` is a 400 that says so": what is not a number is not taken for one"""
    for query, expected in QUERIES.items():
        if path == "/v1/stream" and "limit" in query:
            continue
        answer = broker.request("HEAD" if path == "/v1/stream" else "GET", f"{path}?{query}")
        assert answer.status in (expected if isinstance(expected, tuple) else (expected,)), (query[:100], answer)
        if answer.status >= 400 and path == "/v1/events":
            problem(answer, answer.status)
    assert "%23" in problem(broker.get(path), 400)["detail"]


def test_one_event(broker):
    """"`GET /v1/events/{seq}` one event" """
    seq = broker.publish("one", b"1")["seq"]
    assert broker.get(f"/v1/events/{seq}").json["payload"] == "1"
    for bad, status in (("0", (400, 404)), (str(seq + 1000), (404,)), ("x", (400, 404)), ("-1", (400, 404)), ("+1", (400, 404)), ("1.0", (400, 404)), (str(2**53), (400, 404)), (str(2**64), (400, 404)), ("%31%00", (400, 404)), ("", (400, 404)), ("1/", (404,)), ("1e0", (400, 404))):
        assert problem(broker.get(f"/v1/events/{bad}"), broker.get(f"/v1/events/{bad}").status)["status"] in status, bad


def test_lists_are_paged(start_broker):
    """"`GET /v1/topics`, `/v1/subscriptions`, `/v1/connections` … as JSON, paged by `after` and `limit`" """
    broker = start_broker()
    names = sorted(f"t.{i:03}" for i in range(150)) + ["é", "%", "a&b", "$".join("xy")]
    for name in names:
        broker.publish(urllib.parse.quote(name), b"")
    sockets = [Ws(broker.port) for _ in range(5)]
    for i, ws in enumerate(sockets):
        ws.sub(f"p{i}"), ws.sub("shared.#")
    for path, member, key, count in (("/v1/topics", "topics", "topic", len(names)), ("/v1/subscriptions", "subscriptions", None, 10), ("/v1/connections", "connections", None, 5)):
        for limit in (1, 3, 1000):
            found, after = [], None
            while True:
                page = broker.get(f"{path}?limit={limit}" + (f"&after={urllib.parse.quote(str(after))}" if after is not None else "")).json
                assert len(page[member]) <= limit
                found += page[member]
                after = page["next_after"]
                if after is None:
                    break
                assert len(found) <= count
            assert len(found) == count, (path, limit)
            if key:
                assert sorted(item[key] for item in found) == sorted(names)
        for bad in ("limit=0", "limit=x", "limit=-1", "limit=1e3", "limit=18446744073709551616"):
            problem(broker.get(f"{path}?{bad}"), 400, "invalid_request")
    listed = broker.get("/v1/subscriptions?limit=1000").json["subscriptions"]
    assert {s["pattern"] for s in listed} == {f"p{i}" for i in range(5)} | {"shared.#"}
    [ws.close() for ws in sockets]
    wait_for(lambda: broker.get("/v1/connections").json["connections"] == [], what="end of the connections")


def test_stats_has_its_members(broker):
    """"`stats` has at least …" """
    stats = broker.stats()
    wanted = "version epoch storage durability uptime_s first_seq last_seq events bytes wal_bytes topics connections streams subscriptions lagging dedupe_ids dedupe_oldest_s limits".split()
    assert set(wanted) <= set(stats)
    assert {"max_payload", "max_message", "max_batch", "max_headers", "max_connections", "max_subscriptions", "dedupe_window", "dedupe_max"} <= set(stats["limits"])
    assert stats["storage"] == "memory"


# ---- every path, every method ----

PATHS = {
    "/v1/topics/a/events": "POST", "/v1/events": "GET HEAD POST", "/v1/events/1": "GET HEAD", "/v1/stream": "GET HEAD", "/v1/topics": "GET HEAD", "/v1/subscriptions": "GET HEAD", "/v1/connections": "GET HEAD",
    "/v1/stats": "GET HEAD", "/healthz": "GET HEAD", "/livez": "GET HEAD", "/readyz": "GET HEAD", "/metrics": "GET HEAD", "/": "GET HEAD", "/app.js": "GET HEAD", "/style.css": "GET HEAD", "/ws": "GET",
}  # fmt: skip


@pytest.mark.parametrize("path", PATHS)
def test_every_method_on_every_path(broker, path):
    """"405 with `Allow`"; HEAD is GET without its body; OPTIONS says what is allowed"""
    allowed = set(PATHS[path].split()) | {"OPTIONS"}
    for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "get", "FOO", "CONNECT"):
        if path == "/v1/stream" and method == "GET" or path == "/" and method == "CONNECT":
            continue
        answer = broker.request(method, path, b"" if method in ("POST", "PUT") else None)
        if method in allowed:
            assert answer.status != 405 and answer.status < 500, (method, answer)
            if method == "OPTIONS":
                assert answer.status == 204 and {m.strip() for m in answer.headers["Allow"].split(",")} == allowed
        elif method == "HEAD":
            assert answer.status == 405 and answer.headers["Allow"]
        else:
            problem(answer, 405, "method_not_allowed")
            assert {m.strip() for m in answer.headers["Allow"].split(",")} == allowed
    if path.startswith("/v1") and path != "/v1/stream":
        assert broker.get(path).headers["Cache-Control"] == "no-store", "`/v1` answers `Cache-Control: no-store`"


def test_unknown_paths_are_problems(broker):
    for path in ("/v1", "/v1/", "/v1/event", "/V1/stats", "/v1/stats/", "/v1//stats", "/v1/%73tats/x", "/ws/", "/wsx", "/metrics/", "/../v1/stats", "/v1/topics/a", "/v1/topics/a/events/", "/x" * 500, "/%", "/%00", "//", "/;", "/v1/stats;x", "/.git/config", "/healthz%00"):
        answer = broker.get(path)
        assert answer.status in (400, 404), path
        problem(answer, answer.status)
        for method in ("POST", "DELETE"):
            problem(broker.request(method, path, b""), answer.status if answer.status == 404 else broker.request(method, path, b"").status)


def test_health(start_broker):
    broker = start_broker("--storage", "memory", "--max-connections", "2")
    sockets = [Ws(broker.port) for _ in range(2)]
    for path in ("/healthz", "/livez", "/readyz"):
        assert broker.get(path).status == 200, "At `max_connections` … `/healthz` and `/readyz` still answer"
    raw = broker.request("GET", "/ws", headers={"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": base64.b64encode(b"0" * 16).decode()})
    problem(raw, 503, "unavailable")
    problem(broker.get("/v1/stream?pattern=a"), 503, "unavailable")
    [ws.close() for ws in sockets]
    wait_for(lambda: broker.stats()["connections"] == 0, what="room again")
    with Ws(broker.port) as ws:
        assert ws.ask(type="ping")["type"] == "pong"


# ---- metrics ----

SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (-?[0-9.e+-]+|NaN|[+-]Inf)')


def parse_metrics(text):
    """Prometheus text format 0.0.4, each line: {family: (kind, [(name, labels, value)])}."""
    families, helps, family = {}, set(), None
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family, text = line[7:].split(" ", 1)
            assert family not in helps and text, line
            helps.add(family)
        elif line.startswith("# TYPE "):
            name, kind = line[7:].split(" ")
            assert kind in ("counter", "gauge", "histogram", "summary", "untyped") and name not in families and name in helps, line
            families[name] = (kind, [])
            family = name
        else:
            sample = SAMPLE.fullmatch(line)
            assert sample, line
            base = re.sub(r"_(bucket|sum|count)$", "", sample[1]) if families[family][0] == "histogram" else sample[1]
            assert base == family, f"{line} outside of its family {family}"
            families[family][1].append((sample[1], sample[3] or "", float(sample[4])))
    return families


def test_metrics_are_prometheus_text(broker):
    """"Prometheus text format" with conventional names and units"""
    answer = broker.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    families = parse_metrics(answer.body.decode())
    for name, (kind, samples) in families.items():
        assert name.startswith(("eventbus_", "process_")), name
        assert (kind == "counter") == name.endswith("_total"), (name, kind)
        assert samples or kind != "gauge", name
        assert len({(n, labels) for n, labels, _ in samples}) == len(samples), name
        if "duration" in name or "seconds" in name:
            assert re.search(r"_seconds(_total)?$", name), name
        if kind == "histogram":
            buckets = [(labels, value) for n, labels, value in samples if n.endswith("_bucket")]
            series = {}
            for labels, value in buckets:
                rest = re.sub(r'le="[^"]*",?', "", labels)
                series.setdefault(rest, []).append((float(re.search(r'le="([^"]*)"', labels)[1].replace("+Inf", "inf")), value))
            for points in series.values():
                assert points == sorted(points) and points[-1][0] == float("inf")
                assert [v for _, v in points] == sorted(v for _, v in points)
    assert {"eventbus_messages_published_total", "eventbus_publish_duration_seconds"} <= set(families)


def counted(broker):
    return {(n, labels): v for kind, samples in parse_metrics(broker.get("/metrics").body.decode()).values() if kind == "counter" for n, labels, v in samples}


def test_every_refusal_is_counted(start_broker):
    """"**Never silent**: what the broker refuses, drops, expires or cannot store is answered, counted in `/metrics` and logged" """
    broker = start_broker("--storage", "memory", "--max-subscriptions", "1", "--publish-rate", "50", "--max-payload", "1000")

    def grows(what, action):
        before = counted(broker)
        action()
        after = counted(broker)
        grown = {key for key in after if after[key] > before.get(key, 0) and (re.search(r'status="[45]', key[1]) or re.search("refused|bad_requests|limited", key[0]))}
        assert grown, f"{what} is counted nowhere"

    with Ws(broker.port) as ws:
        ws.sub("a")
        for what, request in {
            "invalid topic": {"type": "publish", "data": {"topic": "", "payload": ""}}, "forbidden": {"type": "publish", "data": {"topic": "$x", "payload": ""}}, "unknown type": {"type": "nope"},
            "pattern": {"type": "subscribe", "pattern": "a*"}, "limit": {"type": "subscribe", "pattern": "b"}, "ack": {"type": "ack", "seq": 99}, "unsubscribe": {"type": "unsubscribe", "pattern": "zz"},
            "payload": {"type": "publish", "data": {"topic": "a", "payload": "x" * 1001}}, "id": {"type": "ping", "id": 1.5}, "message id": {"type": "publish", "data": {"topic": "a", "payload": "", "message_id": ""}},
            "batch": {"type": "publish_batch", "messages": [{"topic": "a..b", "payload": ""}]},
        }.items():  # fmt: skip
            grows(what, lambda: (ws.send(**request), ws.answer_null()))
        grows("json", lambda: (ws.text("{"), ws.answer_null()))
        grows("rate", lambda: [ws.pub("a") for _ in range(120)])
    for what, path, body, headers in (("http topic", "/v1/topics/a..b/events", b"", {}), ("http size", "/v1/topics/a/events", b"x" * 1001, {}), ("http type", "/v1/events", b"", {"Content-Type": "x/y"}),
                                      ("host", "/v1/events", b"", {"Host": "evil.example"}), ("origin", "/v1/events", b"", {"Origin": "http://evil.example"})):  # fmt: skip
        grows(what, lambda: broker.request("POST", path, body, headers))


# ---- 6: at the command line ----


def run(*arguments):
    return subprocess.run([str(BUILD / "broker" / "eventbusd"), *map(str, arguments)], capture_output=True, text=True, timeout=60)


def shell(db, sql):
    answer = subprocess.run(["sqlite3", "-readonly", str(db), sql], capture_output=True, text=True, timeout=30)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def test_the_log_in_the_sqlite3_shell(start_broker):
    """"`SELECT * FROM messages` shows `seq, topic, payload, metadata, ttl, status` (`pending` or `processed` …), and `processed_messages` holds the acknowledged ids" """
    broker = start_broker()
    with Ws(broker.port) as ws:
        one = ws.pub("a.b", "hello", headers={"k": "v"}, ttl=600)
        ws.pub("a.c", "/w==", payload_encoding="base64", content_type="x/y")
        ws.ask(type="ack", seq=one["seq"])
    assert shell(broker.db, "PRAGMA integrity_check").strip() == "ok"
    broker.stop()
    with sqlite3.connect(broker.db) as db:
        cursor = db.execute("SELECT * FROM messages ORDER BY seq")
        assert {"seq", "topic", "payload", "metadata", "ttl", "status"} <= {column[0] for column in cursor.description}
        rows = db.execute("SELECT seq, topic, payload, metadata, ttl, status FROM messages ORDER BY seq").fetchall()
        assert [(r[0], r[1], r[5]) for r in rows] == [(1, "a.b", "processed"), (2, "a.c", "pending")]
        assert rows[0][4] == 600 and json.loads(rows[0][3])["headers"] == {"k": "v"} and json.loads(rows[1][3])["content_type"] == "x/y"
        assert db.execute("SELECT message_id FROM processed_messages").fetchall() == [(one["message_id"],)]
        assert db.execute("PRAGMA application_id").fetchone()[0] != 0 and db.execute("PRAGMA user_version").fetchone()[0] >= 1


def test_the_actions_of_the_command_line(start_broker, tmp_path):
    """"each ends by itself, 0 when it worked" """
    broker = start_broker()
    with Ws(broker.port) as ws:
        ws.ask(type="publish_batch", messages=[{"topic": "a", "payload": f"needle-{i}-needle", "message_id": f"m{i}"} for i in range(500)])
        ws.ask(type="ack", seq=7)
    epoch, copy, new = broker.stats()["epoch"], tmp_path / "copy.db", tmp_path / "new.db"
    assert run("--backup", copy, "--db", broker.db).returncode == 0, "beside a running broker"
    assert run("--backup", copy, "--db", broker.db).returncode != 0, "a copy is not overwritten"
    assert run("--verify", "--db", copy).returncode == 0
    before = broker.events("a")
    broker.stop()
    assert run("--verify", "--db", broker.db).returncode == 0
    assert run("--restore", copy, "--db", new).returncode == 0
    assert run("--restore", copy, "--db", new).returncode != 0
    restored = start_broker(db=new)
    assert restored.events("a") == before and restored.stats()["epoch"] != epoch
    assert restored.publish("a", b"needle-3-needle", Event_Id="m3")["duplicate"] is True
    restored.stop()
    bad = tmp_path / "bad.db"
    bad.write_bytes(new.read_bytes().replace(b"needle-250-needle", b"nEEdle-250-needle"))
    answer = run("--verify", "--db", bad)
    assert answer.returncode != 0 and "251" in answer.stdout + answer.stderr
    repaired = tmp_path / "repaired.db"
    image = bad.read_bytes()
    answer = run("--repair", repaired, "--db", bad)
    assert repaired.exists() and bad.read_bytes() == image, "the old file is kept"
    again = start_broker(db=repaired)
    assert [e["seq"] for e in again.events("a")] == [s for s in range(1, 501) if s != 251]
    assert again.stats()["epoch"] not in (epoch,)
    assert again.publish("a", b"x")["seq"] > 500
    text = tmp_path / "text.db"
    text.write_text("no database\n" * 1000)
    for arguments in (("--verify", "--db", tmp_path / "nothing.db"), ("--backup", copy, "--db", tmp_path / "nothing.db"), ("--restore", tmp_path / "nothing.db", "--db", tmp_path / "x.db"), ("--import", tmp_path / "no.db", "--db", tmp_path / "y.db"), ("--nope",), ("--verify", "--db", text)):
        answer = run(*arguments)
        assert answer.returncode not in (0, -6, -11) and answer.stderr.strip(), arguments
    assert not (tmp_path / "nothing.db").exists() and not (tmp_path / "x.db").exists() and not (tmp_path / "y.db").exists()
