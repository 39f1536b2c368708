"""Methods, hosts, tokens, origins, slow and many clients, the page."""
import collections
import concurrent.futures
import pathlib
import re
import socket
import time

import pytest

from lib.broker import wait_for
from lib.rawhttp import RawHttp

from test_http_publish import problem


# ---- methods ----


@pytest.mark.parametrize("path, allow", [
    ("/v1/events", {"GET", "HEAD", "POST", "OPTIONS"}), ("/v1/events/1", {"GET", "HEAD", "OPTIONS"}), ("/v1/topics/a/events", {"POST", "OPTIONS"}),
    ("/v1/stream", {"GET", "HEAD", "OPTIONS"}), ("/v1/stats", {"GET", "HEAD", "OPTIONS"}), ("/metrics", {"GET", "HEAD", "OPTIONS"}),
    ("/ws", {"GET", "OPTIONS"}), ("/", {"GET", "HEAD", "OPTIONS"}),
])  # fmt: skip
def test_other_methods_are_405_with_allow(broker, path, allow):
    answer = broker.request("DELETE", path)
    problem(answer, 405, "method_not_allowed")
    assert set(answer.headers["Allow"].split(", ")) == allow
    answer = broker.request("OPTIONS", path)
    assert answer.status == 204 and set(answer.headers["Allow"].split(", ")) == allow
    assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "CONNECT", "BREW"])
def test_unknown_methods_are_405(broker, method):
    assert broker.request(method, "/v1/events").status == 405


def test_unknown_paths_are_404(broker):
    for path in ("/v1", "/v1/", "/v2/events", "/index.html", "/v1/events/1/2", "//"):
        problem(broker.get(path), 404, "not_found")
    assert broker.request("OPTIONS", "/nothing").status == 404


def test_head_is_get_without_the_body(broker):
    broker.publish("a", b"hello")
    for path in ("/v1/events/1", "/v1/events?pattern=%23", "/healthz", "/metrics", "/"):
        with RawHttp(broker.port) as raw:
            raw.send(f"HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\nGET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            head = raw.answer(head_only=True)
            assert head.status == 200 and int(head.headers["content-length"]) > 0
            assert raw.answer().json == {"status": "ok"}
    answer = broker.request("HEAD", "/v1/stream?pattern=%23")
    assert answer.status == 200 and answer.headers["Content-Type"] == "text/event-stream" and answer.body == b""
    assert broker.request("HEAD", "/v1/events/9").status == 404


def test_v1_is_never_cached(broker):
    for path in ("/v1/stats", "/v1/events?pattern=%23", "/v1/events", "/v1/nothing"):
        assert broker.get(path).headers["Cache-Control"] == "no-store"


def test_absolute_form_and_raw_fragment(broker):
    with RawHttp(broker.port) as raw:
        raw.send(f"GET http://127.0.0.1:{broker.port}/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert raw.answer().status == 200
        raw.send("GET /v1/events?pattern=# HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = raw.answer()
        assert answer.status == 400 and "%23" in answer.json["detail"]


def test_http_1_0_is_answered_and_closed(broker):
    with RawHttp(broker.port) as raw:
        raw.send("GET /healthz HTTP/1.0\r\n\r\n")
        assert raw.answer().status == 200 and raw.closed()


def test_get_with_a_body_keeps_the_connection_in_step(broker):
    with RawHttp(broker.port) as raw:
        raw.send("GET /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello")
        assert raw.answer().status in (404, 413)
        raw.send("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello")
        assert raw.answer().status == 415
        raw.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert raw.answer().status == 200


# ---- Host ----


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:3000", "127.0.0.1", "127.0.0.1:80", "127.1.2.3", "[::1]", "[::1]:3000"])
def test_loopback_hosts_are_let_in(broker, host):
    assert broker.get("/v1/stats", Host=host).status == 200


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "10.0.0.1", "[::2]", "localhost:x", "", "1.127.0.0"])
def test_other_hosts_are_forbidden_on_loopback(broker, host):
    for path in ("/v1/stats", "/", "/ws"):
        problem(broker.get(path, Host=host), 403, "forbidden")


def test_insecure_takes_any_host(start_broker):
    assert start_broker("--insecure=true").get("/v1/stats", Host="evil.example").status == 200


# ---- tokens ----


@pytest.fixture
def guarded(start_broker, tmp_path):
    (tmp_path / "tokens").write_text("# ours\nsesame\nsecond-token\n")
    return start_broker("--token-file", tmp_path / "tokens")


def test_without_a_token_only_health_options_and_the_page_answer(guarded):
    for path in ("/v1/stats", "/v1/events?pattern=%23", "/v1/stream?pattern=%23", "/metrics", "/ws", "/nothing"):
        answer = guarded.get(path)
        problem(answer, 401, "unauthorized")
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    problem(guarded.request("POST", "/v1/topics/a/events", b"x"), 401, "unauthorized")
    for path in ("/healthz", "/livez", "/readyz", "/", "/app.js", "/style.css"):
        assert guarded.get(path).status == 200
    assert guarded.request("OPTIONS", "/v1/events").status == 204


@pytest.mark.parametrize("value", ["Bearer sesame", "bearer sesame", "Bearer second-token", "Bearer  sesame"])
def test_a_right_token_is_let_in(guarded, value):
    assert guarded.get("/v1/stats", Authorization=value).status == 200


@pytest.mark.parametrize("value", ["Bearer Sesame", "Bearer sesam", "Bearer sesame1", "Basic sesame", "sesame", "Bearer", "Bearer ", "Bearer # ours"])
def test_a_wrong_token_is_not(guarded, value):
    problem(guarded.get("/v1/stats", Authorization=value), 401, "unauthorized")


def test_with_a_token_any_host_will_do(guarded):
    assert guarded.get("/v1/stats", Host="bus.example", Authorization="Bearer sesame").status == 200


# ---- CORS ----


def test_cors_is_off_by_default(broker):
    answer = broker.get("/v1/stats", Origin="http://app.example")
    assert answer.status == 200 and not [name for name in answer.headers if name.lower().startswith("access-control")]


def test_cors_for_a_listed_origin(start_broker):
    broker = start_broker("--cors-origins", "http://app.example")
    answer = broker.get("/v1/events", Origin="http://app.example")
    assert answer.status == 400 and answer.headers["Access-Control-Allow-Origin"] == "http://app.example" and answer.headers["Vary"] == "Origin"
    assert "Access-Control-Allow-Origin" not in broker.get("/v1/stats", Origin="http://other.example").headers
    answer = broker.request("OPTIONS", "/v1/topics/a/events", headers={
        "Origin": "http://app.example", "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "event-id, event-header-x"})  # fmt: skip
    assert answer.status == 204 and "POST" in answer.headers["Access-Control-Allow-Methods"]
    assert answer.headers["Access-Control-Allow-Headers"] == "event-id, event-header-x"


# ---- slow and many ----


def test_slow_headers_and_slow_bodies_are_cut(start_broker):
    """Slow-loris: a byte now and then must not keep a connection for ever; others are served meanwhile."""
    broker = start_broker("--request-timeout", "1s")
    slow = []
    for head in ("GET /healthz HTTP/1.1\r\n", "POST /v1/topics/a/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 900000\r\n\r\n"):
        for _ in range(10):
            raw = RawHttp(broker.port)
            raw.send(head)
            slow.append(raw)
    gone, end = set(), time.monotonic() + 30
    while len(gone) < len(slow):
        assert time.monotonic() < end, f"{len(slow) - len(gone)} slow connections live on"
        for raw in slow:
            if raw in gone:
                continue
            try:
                raw.send("x")
            except OSError:
                gone.add(raw)
        assert broker.get("/healthz").status == 200
    assert broker.metric("eventbus_http_slow_closed_total") >= 20


def test_an_idle_stream_outlives_the_request_timeout(start_broker):
    from lib.sse import Sse

    broker = start_broker("--request-timeout", "1s")
    with Sse(broker.port, "pattern=%23") as stream:
        time.sleep(2.5)  # nothing to wait for: it is the absence of an end that counts
        broker.publish("a", b"late")
        assert stream.next().json["payload"] == "late"


def test_256_keep_alive_clients_at_once(broker):
    """Guards against an event loop that stalls when many sockets become ready together."""
    raws = [RawHttp(broker.port) for _ in range(256)]
    for round in range(3):
        for raw in raws:
            raw.send("POST /v1/topics/many/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
        assert {raw.answer().status for raw in raws} == {201}
    assert broker.stats()["last_seq"] == 768
    for raw in raws:
        raw.close()


def http_threads(broker):
    """{thread: its CPU so far, ns}. They have their names from their first request on."""
    found = {}
    for task in pathlib.Path(f"/proc/{broker.pid}/task").iterdir():
        if re.fullmatch(r"eb-http-\d+", (task / "comm").read_text().strip()):
            found[task.name] = int((task / "schedstat").read_text().split()[0])
    return found


def test_keep_alive_clients_are_spread_evenly_over_the_threads(broker):
    """Whichever thread wakes first for a connection, none has more of them than another."""
    request = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    raws = [RawHttp(broker.port) for _ in range(8)]
    for raw in raws:
        raw.send(request)
        assert raw.answer().status == 200
    served = collections.Counter()
    for raw in raws:
        before = http_threads(broker)
        for _ in range(50):
            raw.send(request)
            assert raw.answer().status == 200
        after = http_threads(broker)
        served[max(after, key=lambda thread: after[thread] - before[thread])] += 1
    assert sorted(served.values()) == [4, 4]
    for raw in raws:
        raw.close()


def test_waiting_publishes_do_not_hold_up_others(broker):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        publishes = [pool.submit(broker.publish, "busy", b"x") for _ in range(200)]
        health = [pool.submit(broker.get, "/healthz") for _ in range(50)]
        assert all(h.result().status == 200 for h in health)
        assert sorted(p.result()["seq"] for p in publishes) == list(range(1, 201))


@pytest.mark.parametrize("garbage", [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 1000, b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    b"GET /" + b"a" * 100000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: " + b"y" * 100000 + b"\r\n\r\n",
    b"POST /v1/topics/a/events HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /v1/events?" + b"a&" * 2000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
])  # fmt: skip
def test_garbage_harms_nobody(broker, garbage):
    with socket.create_connection(("127.0.0.1", broker.port), 10) as s:
        try:
            s.sendall(garbage)
            s.shutdown(socket.SHUT_WR)
            while s.recv(65536):
                pass
        except OSError:
            pass
    assert broker.get("/healthz").status == 200


def test_request_halves_that_break_off_leave_nothing(broker):
    whole = b"POST /v1/topics/cut/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n0123456789"
    for cut in range(0, len(whole), 7):
        with socket.create_connection(("127.0.0.1", broker.port), 10) as s:
            s.sendall(whole[:cut])
    assert broker.get("/healthz").status == 200
    wait_for(lambda: broker.metric("eventbus_http_requests_active") <= 1, what="end of broken requests")
    assert broker.events("cut") == []


# ---- the page ----


def test_the_page_has_a_strict_policy_and_no_inline_script(broker):
    answer = broker.get("/")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
    text = answer.body.decode()
    assert "<script src=" in text and "<script>" not in text and " on" + "click" not in text and "style=" not in text
    assert "://" not in text
    script = broker.get("/app.js")
    assert script.headers["Content-Type"].startswith("text/javascript") and b"://" not in script.body
    assert broker.get("/style.css").headers["Content-Type"].startswith("text/css")
    assert broker.get("/favicon.ico").status == 204


def test_pages_can_be_turned_off(start_broker):
    broker = start_broker("--pages=false")
    problem(broker.get("/"), 404, "not_found")
    assert broker.get("/healthz").status == 200


def test_stops_with_connections_open(broker):
    raws = [RawHttp(broker.port) for _ in range(20)]
    for raw in raws[:10]:
        raw.send("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        raw.answer()
    assert broker.stop() == 0


# ---- WebSocket: who may ----


def upgrade(broker, *lines):
    with RawHttp(broker.port) as raw:
        raw.send("GET /ws HTTP/1.1\r\n" + "".join(line + "\r\n" for line in (
            f"Host: 127.0.0.1:{broker.port}", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", *lines)) + "\r\n")  # fmt: skip
        return raw.answer()


def test_origin_of_a_websocket(start_broker):
    broker = start_broker("--allowed-origins", "https://app.example")
    for good in (f"http://127.0.0.1:{broker.port}", "https://app.example"):
        assert upgrade(broker, f"Origin: {good}").status == 101
    assert upgrade(broker).status == 101
    for bad in ("http://evil.example", "null", "https://app.example.evil", "http://127.0.0.1:1", "http://app.example"):
        answer = upgrade(broker, f"Origin: {bad}")
        assert answer.status == 403 and answer.json["code"] == "forbidden", bad


def test_browsers_token_as_a_subprotocol(guarded):
    right, wrong = "bearer.c2VzYW1l", "bearer.c2VzYW1"  # base64url of "sesame", and not
    answer = upgrade(guarded, f"Sec-WebSocket-Protocol: eventbus.json.v1, {right}")
    assert answer.status == 101 and answer.headers["sec-websocket-protocol"] == "eventbus.json.v1"
    answer = upgrade(guarded, f"Sec-WebSocket-Protocol: {right},eventbus.json.v1")
    assert answer.status == 101 and answer.headers["sec-websocket-protocol"] == "eventbus.json.v1"
    for lines in ([f"Sec-WebSocket-Protocol: eventbus.json.v1, {wrong}"], ["Sec-WebSocket-Protocol: eventbus.json.v1, bearer."], []):
        assert upgrade(guarded, *lines).status == 401
    assert upgrade(guarded, "Authorization: Bearer sesame").status == 101
    assert guarded.get("/v1/stats", **{"Sec-WebSocket-Protocol": right}).status == 401


def test_tokens_are_reread_on_sighup(guarded, tmp_path):
    import signal

    (tmp_path / "tokens").write_text("other\n")
    guarded.process.send_signal(signal.SIGHUP)
    wait_for(lambda: guarded.get("/v1/stats", Authorization="Bearer other").status == 200, what="the new token")
    assert guarded.get("/v1/stats", Authorization="Bearer sesame").status == 401
