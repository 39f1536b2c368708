"""Webhooks of durable consumers (docs/delivery of events to URLs: docs/http.md, "Webhooks"): what a call says, who signed
it, what each answer means, and that a receiver that misbehaves costs its own deliveries and nothing else."""
import json
import socket
import threading
import time

import pytest

from lib.broker import wait_for
from lib.page import ROOT
from lib.receiver import SECRET, SECRET_BYTES, Receiver, answered, verify_with_node


@pytest.fixture
def broker(start_broker):
    return start_broker("--storage", "memory", "--webhook-allow", "127.0.0.1", db=None)


@pytest.fixture
def receiver():
    """receiver(answer) -> Receiver; all are closed with the test."""
    opened = []

    def make(answer=None, **options):
        opened.append(Receiver(answer, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def put(broker, url, name="c", push=None, expect=(200, 201), **settings):
    body = {"patterns": ["job.#"], "from": "all", "push": {"url": url, "secret": SECRET, **(push or {})}, **settings}
    answer = broker.request("PUT", f"/v1/consumers/{name}", json.dumps(body))
    assert answer.status in expect, answer
    return answer


def state(broker, name="c"):
    return broker.get(f"/v1/consumers/{name}").json


def acked(broker, count, name="c"):
    return wait_for(lambda: (s := state(broker, name))["cursor"] >= count and s["inflight"] == 0 and s, what=f"{count} events done: {state(broker, name)}")


# ---- what a call says ----


def test_a_call_is_the_event_signed_with_cloudevents_attributes_beside(broker, receiver):
    """Body and content type are the event's own, its headers are ones of the request, CloudEvents in binary mode."""
    hook = receiver()
    put(broker, hook.url("/in?x=1"))
    made = broker.publish("job.ä x".replace(" ", "_").replace("ä", "%C3%A4"), '{"n":1}', Content_Type="application/json", Event_Header_x_trace="7", traceparent="00-abc")
    [call] = hook.wait(1)
    assert (call.method, call.path, call.body) == ("POST", "/in?x=1", b'{"n":1}')
    assert call.headers["content-type"] == "application/json" and call.headers["x-trace"] == "7" and call.headers["traceparent"] == "00-abc"
    assert call.id == made["message_id"] and abs(int(call.headers["webhook-timestamp"]) - time.time()) < 60
    assert call.signed_by(SECRET_BYTES) and not call.signed_by(b"x" * 32)
    assert call.headers["ce-specversion"] == "1.0" and call.headers["ce-id"] == made["message_id"] and call.headers["ce-type"] == "job.%C3%A4_x"
    assert call.headers["ce-source"] == f"urn:eventbus:{broker.stats()['epoch']}" and call.headers["ce-time"].startswith("20") and call.headers["ce-time"].endswith("Z")
    assert "expect" not in call.headers and call.headers["user-agent"].startswith("eventbus/")
    acked(broker, 1)


def test_the_signatures_are_those_of_standard_webhooks(broker, receiver):
    """Checked by the npm package `standardwebhooks`, which is not ours: text, empty, large, and UTF-8 bodies."""
    hook = receiver()
    put(broker, hook.url(), order="topic")
    for body in (b"hello", b"", b'{"a":1}', "größe ✓".encode(), b"x" * 500_000):
        broker.publish("job.a", body)
    calls = hook.wait(5)
    assert all(call.signed_by(SECRET_BYTES) for call in calls)
    verdicts = verify_with_node(ROOT, calls, SECRET)
    if verdicts is None:
        pytest.skip("the npm package standardwebhooks is not installed: ./dev test does it")
    assert verdicts == [True] * 5
    calls[0].body += b"!"
    assert "No matching signature" in verify_with_node(ROOT, calls[:1], SECRET)[0]


def test_a_cloudevents_own_attributes_are_given_as_they_came(broker, receiver):
    hook = receiver()
    put(broker, hook.url())
    headers = {"ce-specversion": "1.0", "ce-id": "17", "ce-source": "/orders", "ce-type": "job.paid", "ce-subject": "a%20b%C3%A9", "Content-Type": "application/json"}
    assert broker.request("POST", "/v1/events", b"{}", headers).status == 201
    [call] = hook.wait(1)
    given = {name: value for name, value in call.headers.items() if name.startswith("ce-")}
    time_of_it = given.pop("ce-time")
    assert given == {"ce-specversion": "1.0", "ce-id": "17", "ce-source": "/orders", "ce-type": "job.paid", "ce-subject": "a%20b%C3%A9"} and time_of_it
    assert len([line for line in call.lines if line.lower().startswith("ce-id")]) == 1


def test_headers_that_rule_the_connection_or_are_none_are_left_out(broker, receiver):
    """What a publisher names Content-Length, Host or webhook-id, and what is no header of HTTP, does not reach the wire."""
    hook = receiver()
    put(broker, hook.url())
    headers = {
        "content-length": "999", "host": "evil", "transfer-encoding": "chunked", "webhook-id": "forged", "webhook-signature": "forged", "connection": "close",
        "a b": "no token", "c:d": "no token", "line": "two\r\nx-injected: 1", "tab": "a\tb", "nul": "a\u0000b", "ok": "fine", "empty": "", "utf8": "é",
    }  # fmt: skip
    event = {"topic": "job.a", "payload": "x", "headers": headers, "content_type": "text/plain; a=é"}
    assert broker.request("POST", "/v1/events", json.dumps(event), {"Content-Type": "application/json"}).status == 201
    [call] = hook.wait(1)
    assert call.headers["content-length"] == "1" and call.headers["host"] == f"127.0.0.1:{hook.port}" and call.body == b"x" and call.signed_by(SECRET_BYTES)
    assert call.headers["ok"] == "fine" and call.headers["empty"] == "" and call.headers["utf8"] == "Ã©"
    assert not {"transfer-encoding", "connection", "a b", "c", "line", "tab", "nul", "x-injected"} & set(call.headers)
    assert call.headers["content-type"] == "application/octet-stream"
    assert len([line for line in call.lines if line.lower().startswith("webhook-")]) == 3


def test_connections_are_reused(broker, receiver):
    hook = receiver()
    put(broker, hook.url(), push={"concurrency": 1})
    for i in range(20):
        broker.publish("job.a", f"{i}")
    hook.wait(20)
    assert hook.connections <= 2
    assert [call.body for call in hook.calls] == [f"{i}".encode() for i in range(20)]


def test_at_most_concurrency_calls_are_under_way(broker, receiver):
    """Three calls hang: the fourth begins when one of them has been answered."""
    gate = threading.Semaphore(0)
    hook = receiver(lambda call, connection: gate.acquire() and answered(200))
    put(broker, hook.url(), push={"concurrency": 3, "timeout": 50})
    for i in range(5):
        broker.publish("job.a", f"{i}")
    hook.wait(3)
    assert state(broker)["inflight"] == 3
    time.sleep(0.2)
    assert len(hook.calls) == 3
    gate.release()
    hook.wait(4)
    for _ in range(4):
        gate.release()
    acked(broker, 5)


# ---- what an answer means ----


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_2xx_is_the_ack(broker, receiver, status):
    hook = receiver(lambda call, connection: answered(status))
    put(broker, hook.url())
    broker.publish("job.a", "x")
    assert acked(broker, 1)["redelivered"] == 0
    assert broker.metric('eventbus_webhook_calls_total{outcome="taken"}') == 1 or "outcome" in broker.get("/metrics").body.decode()


@pytest.mark.parametrize("status", [301, 302, 307, 400, 404, 500])
def test_anything_else_is_tried_again_by_backoff(broker, receiver, status):
    """Redirects too: they are not followed."""
    elsewhere = receiver()
    hook = receiver(lambda call, connection: answered(status if len(hook.calls) < 3 else 200, f"Location: {elsewhere.url()}"))
    put(broker, hook.url(), backoff=[0.05])
    broker.publish("job.a", "x")
    shown = acked(broker, 1)
    assert len(hook.calls) == 3 and shown["redelivered"] == 2 and elsewhere.calls == []
    assert len({call.id for call in hook.calls}) == 1


def test_without_backoff_a_failing_receiver_is_given_time(broker, receiver):
    """1 s before the second call: no storm."""
    hook = receiver(lambda call, connection: answered(500 if len(hook.calls) < 2 else 200))
    put(broker, hook.url())
    broker.publish("job.a", "x")
    hook.wait(1)
    begun = time.monotonic()
    hook.wait(2)
    assert time.monotonic() - begun > 0.8


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_obeyed(broker, receiver, status):
    """It beats a shorter backoff."""
    hook = receiver(lambda call, connection: answered(status, "Retry-After: 1") if len(hook.calls) < 2 else answered(200))
    put(broker, hook.url(), backoff=[0.01])
    broker.publish("job.a", "x")
    hook.wait(1)
    begun = time.monotonic()
    hook.wait(2)
    assert time.monotonic() - begun > 0.8
    acked(broker, 1)


def test_410_stops_the_consumer_until_it_is_put_again(broker, receiver):
    hook = receiver(lambda call, connection: answered(410 if len(hook.calls) < 2 else 200))
    put(broker, hook.url())
    broker.publish("job.a", "x")
    hook.wait(1)
    shown = wait_for(lambda: (s := state(broker))["state"] == "stopped" and s)
    assert "410" in shown["stopped"]
    broker.publish("job.a", "y")
    time.sleep(0.3)
    assert len(hook.calls) == 1
    put(broker, hook.url())
    shown = acked(broker, 2)
    assert "stopped" not in shown and {call.body for call in hook.calls[1:]} == {b"x", b"y"}


def test_after_max_deliver_an_event_is_a_dead_letter(broker, receiver):
    hook = receiver(lambda call, connection: answered(500))
    put(broker, hook.url(), backoff=[0.01], max_deliver=3)
    broker.publish("job.a", "x")
    wait_for(lambda: state(broker)["dead"] == 1)
    assert len(hook.calls) == 3
    [dead] = broker.get("/v1/consumers/c/dead").json["events"]
    assert dead["payload"] == "x" and dead["metadata"]["headers"]["dead-deliveries"] == "3"


# ---- receivers that misbehave ----


def test_a_receiver_that_hangs_is_given_timeout_and_called_once_at_a_time(broker, receiver):
    """`timeout` ends the call, the backoff begins behind it, and no second call is made while the first still hangs."""
    active, most = [], []

    def hang(call, connection):
        active.append(call)
        most.append(len(active))
        if len(hook.calls) >= 3:
            active.remove(call)
            return answered(200)
        connection.settimeout(20)
        connection.recv(1)  # until the broker gives up
        active.remove(call)
        return None

    hook = receiver(hang)
    put(broker, hook.url(), push={"timeout": 0.4}, backoff=[0.05])
    begun = time.monotonic()
    broker.publish("job.a", "x")
    shown = acked(broker, 1)
    assert max(most) == 1 and len(hook.calls) == 3 and shown["redelivered"] == 2
    assert time.monotonic() - begun > 0.7


def test_a_receiver_that_answers_byte_by_byte_is_given_timeout(broker, receiver):
    def dribble(call, connection):
        if len(hook.calls) > 1:
            return answered(200)
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)
        return None

    hook = receiver(dribble)
    put(broker, hook.url(), push={"timeout": 0.4}, backoff=[0.05])
    broker.publish("job.a", "x")
    assert acked(broker, 1)["redelivered"] == 1


def test_of_an_endless_answer_64_kib_are_read(broker, receiver):
    """2xx is known by then, so it is the ack; the connection is not read on, nor reused."""
    sent = []

    def endless(call, connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
        try:
            for _ in range(16384):
                connection.sendall(b"x" * 65536)
                sent.append(65536)
        except OSError:
            pass
        return None

    hook = receiver(endless)
    put(broker, hook.url())
    broker.publish("job.a", "x")
    acked(broker, 1)
    assert len(hook.calls) == 1
    wait_for(lambda: not hook.open)
    assert sum(sent) < 64 << 20


def test_a_receiver_that_closes_without_an_answer_is_tried_again(broker, receiver):
    hook = receiver(lambda call, connection: None if len(hook.calls) < 2 else answered(204))
    put(broker, hook.url(), backoff=[0.01])
    broker.publish("job.a", "x")
    assert acked(broker, 1)["redelivered"] == 1


def test_nobody_there_is_tried_again(broker, receiver):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    put(broker, f"http://127.0.0.1:{port}/", backoff=[0.05])
    broker.publish("job.a", "x")
    wait_for(lambda: state(broker)["redelivered"] >= 2)
    assert broker.said("EB-WEBHOOK")
    hook = receiver()
    put(broker, hook.url(), backoff=[0.05])
    acked(broker, 1)


def test_a_receiver_that_hangs_holds_up_no_other(broker, receiver):
    """Neither another consumer's calls, nor fetchers, nor publishers."""
    hang = receiver(lambda call, connection: connection.recv(1) and None)
    quick = receiver()
    put(broker, hang.url(), "hang", push={"timeout": 50})
    put(broker, quick.url(), "quick")
    for i in range(50):
        broker.publish("job.a", f"{i}")
    acked(broker, 50, "quick")
    assert len(quick.calls) == 50 and len(hang.calls) <= 4
    assert broker.stop() == 0


# ---- what may be called ----


def test_addresses_that_are_not_global_are_refused_unless_allowed(start_broker, receiver):
    """One that is written as an address at PUT; a name when it is called, whatever it says then."""
    broker = start_broker("--storage", "memory", db=None)
    hook = receiver()
    for host in ("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254", "[::1]", "[fe80::1]", "0x7f000001", "127.1", "[::ffff:127.0.0.1]"):
        answer = put(broker, f"http://{host}:{hook.port}/", expect=(403,))
        assert answer.json["code"] == "forbidden" and "webhook_allow" in answer.json["detail"], host
    put(broker, hook.url(host="localhost"), backoff=[0.05])
    broker.publish("job.a", "x")
    wait_for(lambda: state(broker)["redelivered"] >= 1)
    assert hook.connections == 0
    assert broker.said("EB-WEBHOOK", "webhook_allow")
    assert 'eventbus_webhook_calls_total{outcome="refused"}' in broker.get("/metrics").body.decode()


def test_webhook_allow_is_read_again_on_sighup(start_broker, receiver, tmp_path):
    config = tmp_path / "eventbus.ini"
    config.write_text("storage = memory\n")
    broker = start_broker("--config", config, db=None)
    hook = receiver()
    put(broker, hook.url(), expect=(403,))
    config.write_text("storage = memory\nwebhook_allow = 127.0.0.0/8\n")
    broker.process.send_signal(1)
    wait_for(lambda: broker.request("PUT", "/v1/consumers/c", json.dumps({"patterns": ["job.#"], "from": "all", "push": {"url": hook.url(), "secret": SECRET}})).status == 201)
    broker.publish("job.a", "x")
    hook.wait(1)


def test_a_bad_network_ends_the_start(start_broker):
    with pytest.raises(RuntimeError, match="webhook_allow"):
        start_broker("--webhook-allow", "10.0.0.0/99")


@pytest.mark.parametrize(
    "push, code",
    [
        ({"url": "ftp://127.0.0.1/"}, 400), ({"url": "127.0.0.1"}, 400), ({"url": "http://"}, 400), ({"url": 5}, 400), ({"url": None}, 400),
        ({"secret": "hello"}, 400), ({"secret": "whsec_AAAA"}, 400), ({"secret": "whsec_****"}, 400), ({"secret": True}, 400), ({"secret": None}, 400),
        ({"timeout": 0}, 400), ({"concurrency": 0}, 400), ({"concurrency": 1e9}, 400),
    ],
    ids=str,
)  # fmt: skip
def test_a_push_that_cannot_work_is_refused_at_put(broker, push, code):
    answer = put(broker, "http://127.0.0.1:9/", push=push, expect=(code,))
    assert answer.json["detail"]
    assert broker.get("/v1/consumers/c").status == 404


def test_the_secret_is_never_shown_again(broker, receiver):
    answer = put(broker, receiver().url())
    for text in (answer.body, broker.get("/v1/consumers/c").body, broker.get("/v1/consumers").body, "".join(broker.log).encode()):
        assert SECRET[6:].encode() not in text
    assert answer.json["push"]["secret"] is True and answer.json["push"]["concurrency"] == 4 and answer.json["push"]["timeout"] == 10


# ---- changes and ends ----


def test_a_new_url_holds_from_the_next_call(broker, receiver):
    first, second = receiver(), receiver()
    put(broker, first.url())
    broker.publish("job.a", "x")
    first.wait(1)
    put(broker, second.url())
    broker.publish("job.a", "y")
    second.wait(1)
    assert second.calls[0].body == b"y" and len(first.calls) == 1


def held_back(status):
    """answer, go: a receiver's answer that waits until go is set."""
    go = threading.Event()

    def answer(call, connection):
        go.wait(30)
        return answered(status)

    return answer, go


def test_a_late_410_of_an_old_url_does_not_stop_the_new_one(broker, receiver):
    """The old URL answers when the consumer has another one: it speaks for itself alone."""
    answer, go = held_back(410)
    old, new = receiver(answer), receiver()
    put(broker, old.url())
    broker.publish("job.a", b"x")
    old.wait(1)
    put(broker, new.url())
    new.wait(1)
    go.set()
    acked(broker, 1)
    wait_for(lambda: broker.metric("eventbus_webhook_calls_active") == 0, what="the late answer")
    assert state(broker)["state"] != "stopped"
    broker.publish("job.a", b"y")
    new.wait(2)


def test_a_late_answer_of_a_deleted_consumer_says_nothing_of_its_successor(broker, receiver):
    """Deleted and made again by the same name: the new one's events are its own receiver's to take."""
    answer, go = held_back(200)
    old, refuses = receiver(answer), receiver(lambda call, connection: answered(500))
    put(broker, old.url())
    broker.publish("job.a", b"x")
    old.wait(1)
    assert broker.request("DELETE", "/v1/consumers/c").status == 204
    put(broker, refuses.url(), backoff=[0.1])
    refuses.wait(1)
    go.set()
    refuses.wait(8)
    assert state(broker)["acked"] == 0


def test_a_deleted_consumer_calls_no_more_and_one_without_push_is_fetched_from(broker, receiver):
    hook = receiver()
    put(broker, hook.url(), "gone")
    put(broker, hook.url(), "kept")
    assert broker.request("DELETE", "/v1/consumers/gone").status == 204
    assert broker.request("PUT", "/v1/consumers/kept", json.dumps({"patterns": ["job.#"], "from": "all"})).status == 200
    broker.publish("job.a", "x")
    answer = broker.request("POST", "/v1/consumers/kept/fetch", b"{}")
    assert [event["payload"] for event in answer.json["events"]] == ["x"]
    assert hook.calls == []


def test_after_a_restart_the_calls_go_on(start_broker, receiver):
    """What was not taken is called again, what was is not."""
    broker = start_broker("--webhook-allow", "127.0.0.1")
    taken = []
    hook = receiver(lambda call, connection: answered(200) if call.body == b"good" or len(taken) else answered(500))
    put(broker, hook.url(), backoff=[0.2])
    broker.publish("job.a", "good")
    broker.publish("job.a", "bad")
    wait_for(lambda: state(broker)["redelivered"] >= 1 and state(broker)["acked"] == 1)
    broker.restart()
    taken.append(True)
    acked(broker, 2)
    assert [call.body for call in hook.calls].count(b"good") == 1


def test_the_end_waits_for_a_call_that_is_being_answered(start_broker, receiver):
    """Its ack is kept: after the start it is not called again."""
    broker = start_broker("--webhook-allow", "127.0.0.1")
    going = threading.Event()

    def slow(call, connection):
        going.set()
        time.sleep(0.5)
        return answered(200)

    hook = receiver(slow)
    put(broker, hook.url())
    broker.publish("job.a", "x")
    assert going.wait(30)
    assert broker.stop() == 0
    broker.start()
    acked(broker, 1)
    assert len(hook.calls) == 1
