"""Durable consumers over HTTP (docs/http.md, "Consumers"): each route, its answers and its refusals; a fetch that waits,
ends, is cut off, or is still waiting when the broker goes down."""
import json
import socket
import threading
import time

import pytest

from lib.broker import wait_for


def call(broker, method, path, body=None, **headers):
    return broker.request(method, f"/v1/consumers{path}", None if body is None else json.dumps(body), {"Content-Type": "application/json", **headers})


def put(broker, name="c", **settings):
    answer = call(broker, "PUT", f"/{name}", {"patterns": ["job.*"], "from": "all", **settings})
    assert answer.status in (200, 201), answer
    return answer


def fetch(broker, name="c", max=10, wait=5):
    answer = call(broker, "POST", f"/{name}/fetch", {"max": max, "wait": wait})
    assert answer.status == 200, answer
    return answer.json["events"]


def settle(broker, verb, seqs, name="c", **more):
    answer = call(broker, "POST", f"/{name}/{verb}", {"seqs": seqs, **more})
    assert answer.status == 200, answer
    assert [row["seq"] for row in answer.json["results"]] == seqs
    return [row["result"] for row in answer.json["results"]]


def state(broker, name="c"):
    return call(broker, "GET", f"/{name}").json


@pytest.fixture
def broker(start_broker):
    return start_broker("--storage", "memory", db=None)


# ---- made, shown, ended ----


def test_put_makes_a_consumer_and_then_replaces_its_settings(broker):
    """201 with settings and state, then 200; what is absent has its default; another `from` is refused."""
    made = put(broker, ack_wait=12.5)
    assert made.status == 201
    shown = made.json
    assert shown["name"] == "c" and shown["patterns"] == ["job.*"] and shown["from"] == "all" and shown["ack_wait"] == 12.5
    assert shown["max_inflight"] == 256 and shown["dead_letter"] is True and shown["order"] == "none"
    assert {"cursor", "pending", "inflight", "redelivered", "dead", "lost", "lag", "workers", "state", "created"} <= set(shown)
    assert set(shown["lag"]) == {"events", "seconds"}
    again = put(broker, max_inflight=7)
    assert again.status == 200 and again.json["max_inflight"] == 7 and again.json["ack_wait"] == 30
    other = call(broker, "PUT", "/c", {"patterns": ["job.*"], "from": "new"})
    assert other.status == 409 and other.json["code"] == "conflict"


def test_delete_ends_it(broker):
    put(broker)
    assert call(broker, "DELETE", "/c").status == 204
    assert call(broker, "GET", "/c").status == 404
    assert call(broker, "DELETE", "/c").status == 404


def test_the_list_is_paged_by_name(broker):
    for name in ("b", "a", "d", "c"):
        put(broker, name)
    page = call(broker, "GET", "?limit=3").json
    assert [c["name"] for c in page["consumers"]] == ["a", "b", "c"] and page["next_after"] == "c"
    page = call(broker, "GET", "?limit=3&after=c").json
    assert [c["name"] for c in page["consumers"]] == ["d"] and page["next_after"] is None
    assert page["consumers"][0]["patterns"] == ["job.*"]


@pytest.mark.parametrize("name", ["", "a.b", "a%20b", "ä", "x" * 65, "%zz", "%00"])
def test_a_bad_name_is_refused_with_what_would_be_right(broker, name):
    path = "/" + (name if name.isascii() else "%C3%A4")
    answer = call(broker, "PUT", path, {"patterns": ["a"]})
    assert answer.status in (400, 404 if not name else 400), answer
    assert answer.headers["Content-Type"] == "application/problem+json"
    if name:
        assert "1 to 64" in answer.json["detail"] or "escape" in answer.json["detail"], answer


def test_an_encoded_name_is_the_name(broker):
    put(broker, "ab")
    assert call(broker, "GET", "/%61b").json["name"] == "ab"


@pytest.mark.parametrize(
    "body, code",
    [
        (b"", "invalid_request"), (b"[]", "invalid_request"), (b"{", "invalid_json"), (b"{}", "invalid_request"),
        (b'{"patterns":[]}', "invalid_request"), (b'{"patterns":["a*"]}', "invalid_pattern"), (b'{"patterns":["a"],"ack_wait":-1}', "invalid_request"),
        (b'{"patterns":["a"],"order":"size"}', "invalid_request"), (b'{"patterns":["a"],"from":{"seq":99}}', "invalid_request"),
        (b'{"patterns":["a"],"push":{"url":"ftp://x/","secret":"whsec_' + b"A" * 32 + b'"}}', "invalid_request"),
        (b'{"patterns":["a"],"push":{"url":"http://x.example/","secret":"hello"}}', "invalid_request"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(broker, body, code):
    answer = broker.request("PUT", "/v1/consumers/c", body, {"Content-Type": "application/json"})
    assert answer.status == 400 and answer.json["code"] == code and answer.json["detail"], answer
    assert call(broker, "GET", "/c").status == 404


@pytest.mark.parametrize(
    "method, path, body",
    [
        ("GET", "/nobody", None), ("DELETE", "/nobody", None), ("POST", "/nobody/fetch", {}), ("POST", "/nobody/ack", {"seqs": [1]}),
        ("POST", "/nobody/nack", {"seqs": [1]}), ("POST", "/nobody/term", {"seqs": [1]}), ("POST", "/nobody/in_progress", {"seqs": [1]}),
        ("POST", "/nobody/seek", {"seq": 1}), ("GET", "/nobody/dead", None), ("POST", "/nobody/dead/redrive", {}),
    ],
)  # fmt: skip
def test_an_unknown_consumer_is_404(broker, method, path, body):
    answer = call(broker, method, path, body)
    assert answer.status == 404 and answer.json["code"] == "not_found" and "nobody" in answer.json["detail"], answer


@pytest.mark.parametrize(
    "path, allow",
    [
        ("/v1/consumers", {"GET", "HEAD", "OPTIONS"}), ("/v1/consumers/c", {"GET", "HEAD", "PUT", "DELETE", "OPTIONS"}), ("/v1/consumers/c/fetch", {"POST", "OPTIONS"}),
        ("/v1/consumers/c/dead", {"GET", "HEAD", "OPTIONS"}), ("/v1/consumers/c/dead/redrive", {"POST", "OPTIONS"}),
    ],
)  # fmt: skip
def test_other_methods_are_405_with_allow(broker, path, allow):
    answer = broker.request("PATCH", path)
    assert answer.status == 405 and set(answer.headers["Allow"].split(", ")) == allow
    answer = broker.request("OPTIONS", path)
    assert answer.status == 204 and set(answer.headers["Allow"].split(", ")) == allow


def test_put_and_delete_are_announced_to_pages_that_may_use_them(start_broker):
    """CORS: a preflight of an allowed origin is told the methods of the path; a foreign page may not PUT."""
    broker = start_broker("--storage", "memory", "--cors-origins", "https://app.example", db=None)
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "PUT", "Access-Control-Request-Headers": "content-type"}
    answer = broker.request("OPTIONS", "/v1/consumers/c", headers=asked)
    assert "PUT" in answer.headers["Access-Control-Allow-Methods"] and "DELETE" in answer.headers["Access-Control-Allow-Methods"]
    assert call(broker, "PUT", "/c", {"patterns": ["a"]}, Origin="https://evil.example").status == 403
    assert call(broker, "PUT", "/c", {"patterns": ["a"]}, Origin="https://app.example").status == 201


def test_a_token_is_asked_for(start_broker, tmp_path):
    (tmp_path / "tokens").write_text("secret\n")
    broker = start_broker("--storage", "memory", "--token-file", tmp_path / "tokens", db=None)
    for method in ("PUT", "GET", "DELETE"):
        assert call(broker, method, "/c", {"patterns": ["a"]} if method == "PUT" else None).status == 401
    assert call(broker, "PUT", "/c", {"patterns": ["a"]}, Authorization="Bearer secret").status == 201


def test_a_body_above_max_message_is_413(start_broker):
    broker = start_broker("--storage", "memory", "--max-payload", "1K", "--max-message", "2K", db=None)
    assert broker.request("PUT", "/v1/consumers/c", b" " * 3000 + b"{}", {}).status == 413
    assert broker.request("DELETE", "/v1/consumers/c", b"x", {}).status == 413


def test_at_max_consumers_another_one_is_refused(start_broker):
    broker = start_broker("--storage", "memory", "--max-consumers", "2", db=None)
    put(broker, "a")
    put(broker, "b")
    answer = call(broker, "PUT", "/c", {"patterns": ["a"]})
    assert answer.status == 429 and answer.json["code"] == "limit_exceeded"
    assert put(broker, "a").status == 200


# ---- fetch ----


def test_fetch_gives_events_with_their_delivery_and_no_type(broker):
    put(broker)
    for i in range(3):
        broker.publish("job.a", f"{i}", Event_Header_x=f"{i}")
    events = fetch(broker, max=2)
    assert [(e["seq"], e["payload"], e["delivery"], e["topic"]) for e in events] == [(1, "0", 1, "job.a"), (2, "1", 1, "job.a")]
    assert events[0]["metadata"]["headers"] == {"x": "0"} and "type" not in events[0] and "message_id" in events[0] and "consumer" not in events[0]
    assert [e["seq"] for e in fetch(broker)] == [3]
    assert state(broker)["inflight"] == 3


def test_fetch_answers_as_soon_as_there_is_one(broker):
    """It waits for the first event and not for `max`."""
    put(broker)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(fetch(broker, wait=50)))
    waiting.start()
    wait_for(lambda: state(broker)["workers"] == 1)
    begun = time.monotonic()
    broker.publish("job.a", "x")
    waiting.join(30)
    assert [e["payload"] for e in answers[0]] == ["x"] and time.monotonic() - begun < 25
    wait_for(lambda: state(broker)["workers"] == 0)


@pytest.mark.parametrize("wait", [0, 0.3])
def test_fetch_is_empty_after_wait(broker, wait):
    put(broker)
    begun = time.monotonic()
    assert fetch(broker, wait=wait) == []
    assert time.monotonic() - begun >= wait


def test_a_fetch_with_wait_0_takes_what_is_there(broker):
    put(broker)
    for i in range(5):
        broker.publish("job.a", f"{i}")
    wait_for(lambda: state(broker)["pending"] == 5)
    assert len(fetch(broker, wait=0)) == 5


def test_an_empty_body_asks_for_the_defaults(broker):
    put(broker)
    for i in range(12):
        broker.publish("job.a", f"{i}")
    answer = broker.request("POST", "/v1/consumers/c/fetch", b"")
    assert answer.status == 200 and 1 <= len(answer.json["events"]) <= 10


@pytest.mark.parametrize("body", [{"max": 0}, {"max": 1001}, {"max": "1"}, {"max": 1.5}, {"wait": 61}, {"wait": -1}, {"wait": "5"}, {"wait": 1e1}, []])
def test_fetch_says_its_limits(broker, body):
    put(broker)
    text = json.dumps(body).replace("10.0", "1e1")
    answer = broker.request("POST", "/v1/consumers/c/fetch", text)
    assert answer.status == 400 and answer.json["code"] == "invalid_request" and answer.json["detail"], answer


def test_an_answer_has_at_most_4_mib_and_at_least_one_event(broker):
    """Counted as JSON: U+0001 takes six bytes. What did not fit is still there, at its first delivery."""
    put(broker)
    for _ in range(7):
        broker.publish("job.a", b"\x01" * 200_000)
    seen = []
    while len(seen) < 7:
        answer = call(broker, "POST", "/c/fetch", {"max": 100})
        assert 0 < len(answer.body) <= 4 << 20
        seen += [(e["seq"], e["delivery"]) for e in answer.json["events"]]
    assert seen == [(seq, 1) for seq in range(1, 8)]
    broker.publish("job.a", b"\x01" * 1_000_000)
    [event] = fetch(broker)
    assert len(event["payload"]) == 1_000_000


def test_bytes_that_are_no_text_come_as_base64(broker):
    put(broker)
    broker.publish("job.a", b"\xff\x00")
    [event] = fetch(broker)
    assert event["payload"] == "/wA=" and event["payload_encoding"] == "base64"


def test_two_fetchers_share_the_work(broker):
    put(broker)
    for i in range(20):
        broker.publish("job.a", f"{i}")
    first, second = fetch(broker, max=10), fetch(broker, max=10)
    assert sorted(e["seq"] for e in first + second) == list(range(1, 21))


def fetch_raw(broker, body='{"max":10,"wait":50}'):
    sock = socket.create_connection(("127.0.0.1", broker.port))
    sock.sendall(f"POST /v1/consumers/c/fetch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    return sock


def test_many_fetches_come_and_go_at_once(broker):
    """They stand beside each other on all threads of the front: each event is had once (what ThreadSanitizer looks at)."""
    put(broker)
    got, failed = [], []

    def fetches():
        try:
            for _ in range(25):
                got.extend(event["seq"] for event in fetch(broker, max=3, wait=0.02))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=fetches) for _ in range(8)]
    for thread in threads:
        thread.start()
    for n in range(100):
        broker.publish("job.a", str(n))
    for thread in threads:
        thread.join()
    assert not failed and len(got) == len(set(got)) and state(broker)["inflight"] == len(got)


def test_events_for_a_fetcher_that_vanished_while_it_waited_go_back_uncounted(broker):
    """The connection is closed before anything came: the next fetcher gets the event at once, as delivery 1."""
    put(broker)
    sock = fetch_raw(broker)
    wait_for(lambda: state(broker)["workers"] == 1)
    sock.close()
    broker.publish("job.a", "x")
    [event] = fetch(broker, wait=20)
    assert event["delivery"] == 1
    wait_for(lambda: state(broker)["workers"] == 0)


def test_events_of_an_answer_that_cannot_be_written_go_back_uncounted(broker):
    """The answer is larger than the socket takes, and its reader closes in the middle: nothing waits for ack_wait."""
    put(broker, ack_wait=600)
    for i in range(30):
        broker.publish("job.a", b"x" * 100_000)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect(("127.0.0.1", broker.port))
    body = '{"max":30,"wait":5}'
    sock.sendall(f"POST /v1/consumers/c/fetch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    assert sock.recv(100).startswith(b"HTTP/1.1 200")
    inflight = wait_for(lambda: state(broker)["inflight"])
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()
    wait_for(lambda: state(broker)["inflight"] == 0)
    events = []
    while len(events) < inflight:
        events += fetch(broker, max=30)
    assert {e["delivery"] for e in events} == {1}


def test_a_waiting_fetch_is_answered_when_the_broker_goes_down(broker):
    """At once, empty; the end does not wait for its 50 s."""
    put(broker)
    sock = fetch_raw(broker)
    wait_for(lambda: state(broker)["workers"] == 1)
    begun = time.monotonic()
    stopping = threading.Thread(target=broker.stop)
    stopping.start()
    data = b""
    while more := sock.recv(4096):
        data += more
    assert data.startswith(b"HTTP/1.1 200") and b'{"events":[]}' in data
    stopping.join(30)
    assert time.monotonic() - begun < 20 and broker.process.returncode == 0


def test_a_waiting_fetch_is_told_when_its_consumer_is_deleted(broker):
    put(broker)
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(call(broker, "POST", "/c/fetch", {"wait": 50})))
    waiting.start()
    wait_for(lambda: state(broker)["workers"] == 1)
    assert call(broker, "DELETE", "/c").status == 204
    waiting.join(30)
    assert answers[0].status == 404 and "deleted" in answers[0].json["detail"]


# ---- answers to deliveries ----


def test_ack_nack_term_and_in_progress_say_what_became_of_each(broker):
    put(broker, dead_letter=False)
    for i in range(6):
        broker.publish("job.a", f"{i}")
    seqs = []
    while len(seqs) < 5:
        seqs += [e["seq"] for e in fetch(broker, max=5 - len(seqs))]
    assert settle(broker, "ack", [1, 1, 2, 6, 99]) == ["ok", "ok", "ok", "unknown", "unknown"]
    assert settle(broker, "in_progress", [3]) == ["ok"]
    assert settle(broker, "nack", [3], delay=0) == ["ok"]
    assert settle(broker, "nack", [4], delivery=2) == ["late"]
    assert settle(broker, "term", [4], reason="no use") == ["ok"]
    assert settle(broker, "nack", [1]) == ["late"]
    events = fetch(broker, max=1) + fetch(broker, max=1)
    assert {(e["seq"], e["delivery"]) for e in events} == {(3, 2), (6, 1)}
    shown = wait_for(lambda: (s := state(broker))["dead"] == 1 and s)
    assert shown["redelivered"] == 1 and shown["inflight"] == 3


def test_an_event_nacked_with_a_delay_comes_after_it(broker):
    put(broker)
    broker.publish("job.a", "x")
    fetch(broker)
    begun = time.monotonic()
    assert settle(broker, "nack", [1], delay=0.5) == ["ok"]
    [event] = fetch(broker, wait=20)
    assert event["delivery"] == 2 and time.monotonic() - begun >= 0.45


@pytest.mark.parametrize(
    "verb, body, code",
    [
        ("ack", {}, 400), ("ack", {"seqs": []}, 400), ("ack", {"seqs": 1}, 400), ("ack", {"seqs": [0]}, 400), ("ack", {"seqs": ["1"]}, 400),
        ("ack", {"seqs": [1], "seq": 1}, 400), ("nack", {"seqs": [1], "delay": -1}, 400), ("nack", {"seqs": [1], "delay": "5"}, 400),
        ("nack", {"seqs": [1], "delivery": 0}, 400), ("term", {"seqs": [1], "reason": 5}, 400), ("term", {"seqs": [1], "reason": "x" * 200}, 400),
        ("ack", {"seqs": list(range(1, 10002))}, 429), ("seek", {}, 400), ("seek", {"seq": 1, "time": 1}, 400), ("seek", {"seq": -1}, 400),
        ("dead/redrive", {"seqs": "all"}, 400),
    ],
)  # fmt: skip
def test_bad_answers_are_refused(broker, verb, body, code):
    put(broker)
    answer = call(broker, "POST", f"/c/{verb}", body)
    assert answer.status == code and answer.json["detail"], answer


def test_one_seq_may_be_named_alone(broker):
    put(broker)
    broker.publish("job.a", "x")
    fetch(broker)
    assert call(broker, "POST", "/c/ack", {"seq": 1}).json == {"results": [{"seq": 1, "result": "ok"}]}


# ---- seek, dead letters ----


def test_seek_begins_again_from_there(broker):
    put(broker)
    for i in range(4):
        broker.publish("job.a", f"{i}")
    fetch(broker, max=4)
    answer = call(broker, "POST", "/c/seek", {"seq": 3})
    assert answer.status == 200 and answer.json["name"] == "c"
    assert [(e["seq"], e["delivery"]) for e in fetch(broker) + fetch(broker, wait=0)] == [(3, 1), (4, 1)]
    assert call(broker, "POST", "/c/seek", {"time": 0}).status == 200
    assert fetch(broker)[0]["seq"] == 1


def test_dead_letters_are_listed_paged_and_redriven(start_broker):
    broker = start_broker()
    put(broker, max_deliver=1)
    for i in range(3):
        broker.publish("job.a", f"{i}", Event_Header_x=f"{i}")
    seqs = []
    while len(seqs) < 3:
        seqs += [e["seq"] for e in fetch(broker)]
    settle(broker, "term", [1], reason="bad input")
    settle(broker, "nack", [2, 3])
    wait_for(lambda: state(broker)["dead"] == 3)
    page = call(broker, "GET", "/c/dead?limit=2").json
    assert len(page["events"]) == 2 and page["next_after"]
    rest = call(broker, "GET", f"/c/dead?limit=2&after={page['next_after']}").json
    events = page["events"] + rest["events"]
    assert len(events) == 3 and rest["next_after"] is None
    by_seq = {e["metadata"]["headers"]["dead-seq"]: e for e in events}
    first = by_seq["1"]
    assert first["topic"] == "$dead.c" and first["payload"] == "0" and "ttl" not in first
    headers = first["metadata"]["headers"]
    assert headers["x"] == "0" and headers["dead-topic"] == "job.a" and headers["dead-reason"] == "bad input" and headers["dead-deliveries"] == "1"
    answer = call(broker, "POST", "/c/dead/redrive", {"seqs": [first["seq"]]})
    assert answer.status == 200 and answer.json["redriven"] == 1, answer
    [event] = fetch(broker)
    assert event["payload"] == "0" and event["delivery"] == 1
    answer = call(broker, "POST", "/c/dead/redrive")
    assert answer.json["redriven"] == 2, answer
    assert call(broker, "GET", "/c/dead").json["events"] == []


# ---- what an operator sees ----


def test_metrics_and_stats_show_each_consumer(broker):
    put(broker, "a")
    put(broker, "b")
    for i in range(3):
        broker.publish("job.a", f"{i}")
    got = fetch(broker, "a", max=2)
    while len(got) < 2:
        got += fetch(broker, "a", max=1)
    settle(broker, "ack", [1], "a")
    stats = broker.stats()
    assert stats["consumers"] == 2 and stats["limits"]["max_consumers"] == 1000
    text = broker.get("/metrics").body.decode()
    for name in ("lag_events", "lag_seconds", "inflight", "pending", "workers", "redelivered_total", "dead_total", "lost_total", "delivered_total", "acked_total"):
        for consumer in "ab":
            assert f'eventbus_consumer_{name}{{consumer="{consumer}"}} ' in text, name
    assert 'eventbus_consumer_acked_total{consumer="a"} 1\n' in text and 'eventbus_consumer_delivered_total{consumer="a"} 2\n' in text
    shown = state(broker, "a")
    assert shown["cursor"] == 1 and shown["inflight"] == 1 and shown["lag"]["events"] == 2 and shown["lag"]["seconds"] >= 0


def test_settings_and_state_survive_a_restart(start_broker):
    broker = start_broker()
    put(broker, ack_wait=17, backoff=[1, 5], order="header:key")
    for i in range(3):
        broker.publish("job.a", f"{i}")
    got = []
    while len(got) < 3:
        got += fetch(broker)
    settle(broker, "ack", [1, 3])
    before = state(broker)
    broker.restart()
    after = state(broker)
    for member in ("patterns", "from", "ack_wait", "backoff", "order", "created", "cursor"):
        assert after[member] == before[member], member
    [event] = fetch(broker)
    assert (event["seq"], event["delivery"]) == (2, 2)
