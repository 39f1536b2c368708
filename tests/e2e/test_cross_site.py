"""A page of another site must not change anything at a broker that only its loopback address guards."""
import http.client

import pytest

from lib.broker import wait_for

FOREIGN = ["http://evil.example", "null", "https://evil.example:3000", "http://localhost.evil.example", "http://127.0.0.1:1", "", "http://"]


def ask(broker, method, path, origin, body=b"x", **headers):
    """One request with exactly these headers; urllib and browsers would add their own."""
    connection = http.client.HTTPConnection("127.0.0.1", broker.port, timeout=30)
    connection.putrequest(method, path)
    for name, value in {"Content-Length": str(len(body)), **headers, **({} if origin is None else {"Origin": origin})}.items():
        connection.putheader(name, value)
    connection.endheaders(body)
    answer = connection.getresponse()
    answer.text = answer.read()
    connection.close()
    return answer


@pytest.mark.parametrize("origin", FOREIGN)
def test_a_foreign_pages_post_is_refused_before_it_has_any_effect(broker, origin):
    """The simple request that a browser sends without asking: text/plain, no preflight."""
    for path, kind in (("/v1/topics/a/events", "text/plain"), ("/v1/events", "text/plain"), ("/v1/events", "application/json"), ("/v1/nothing", "text/plain")):
        answer = ask(broker, "POST", path, origin, b'{"topic":"a","payload":""}', **{"Content-Type": kind})
        assert answer.status == 403 and b'"code":"forbidden"' in answer.text, (path, answer.status, answer.text)
        assert answer.headers["Content-Type"] == "application/problem+json"
    for method in ("PUT", "DELETE", "PATCH"):
        assert ask(broker, method, "/v1/events", origin).status == 403
    assert broker.stats()["last_seq"] == 0
    for method in ("GET", "HEAD", "OPTIONS"):
        assert ask(broker, method, "/v1/events/1", origin, b"").status in (204, 404), "what changes nothing is CORS's to hide"
    wait_for(lambda: 'eventbus_http_requests_total{status="403"} 7' in broker.get("/metrics").body.decode(), what="the count of refusals")


def test_its_own_page_a_program_and_listed_pages_may(start_broker):
    broker = start_broker("--cors-origins", "http://cors.example", "--allowed-origins", "https://allowed.example")
    port = broker.port
    for origin, host in ((None, f"127.0.0.1:{port}"), (f"http://127.0.0.1:{port}", f"127.0.0.1:{port}"), (f"http://localhost:{port}", f"localhost:{port}"),
                         (f"http://[::1]:{port}", f"[::1]:{port}"), (f"HTTP://LOCALHOST:{port}", f"localhost:{port}"), ("http://localhost", "localhost"),
                         ("http://cors.example", "localhost"), ("https://allowed.example", "localhost")):  # fmt: skip
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        connection.putrequest("POST", "/v1/topics/a/events", skip_host=True)
        for name, value in (("Host", host), ("Content-Length", "1"), *([("Origin", origin)] if origin else [])):
            connection.putheader(name, value)
        connection.endheaders(b"x")
        assert connection.getresponse().status == 201, (origin, host)
        connection.close()
    assert ask(broker, "POST", "/v1/topics/a/events", f"http://localhost:{port}").status == 403, "localhost and 127.0.0.1 are two origins"
    assert ask(broker, "POST", "/v1/topics/a/events", "http://allowed.example").status == 403, "the scheme counts"


@pytest.mark.parametrize("options", [["--cors-origins", "*"], ["--allowed-origins", "*"], ["--insecure=true"]])
def test_any_page_may_when_it_is_said(start_broker, options):
    assert ask(start_broker(*options), "POST", "/v1/topics/a/events", "http://evil.example").status == 201


def test_where_a_token_guards_the_origin_does_not(start_broker, tmp_path):
    """A browser does not send a token by itself, so a page that has one was given it."""
    (tmp_path / "tokens").write_text("sesame\n")
    broker = start_broker("--token-file", tmp_path / "tokens")
    assert ask(broker, "POST", "/v1/topics/a/events", "http://evil.example").status == 401
    assert ask(broker, "POST", "/v1/topics/a/events", "http://evil.example", Authorization="Bearer sesame").status == 201
