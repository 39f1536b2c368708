"""Request and reply: by hand over topics, and in one HTTP call."""
import threading
import time
import uuid

import pytest

from lib.broker import wait_for
from lib.ws import WebSocket


class Responder:
    """Answers each request on its topics with reply(event) -> publish data, until it is closed."""

    def __init__(self, broker, pattern, reply):
        self.ws = WebSocket(broker.port)
        self.ws.subscribe(pattern)
        self.requests = []
        self.reply = reply
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        try:
            while True:
                event = self.ws.event()
                self.requests.append(event)
                data = self.reply(event)
                if data is not None:
                    headers = {"correlation_id": event["message_id"], **data.pop("headers", {})}
                    self.ws.send({"type": "publish", "data": {"topic": event["metadata"]["headers"]["reply_to"], "payload": "", "headers": headers, **data}})
        except Exception:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ws.sock.shutdown(2)
        self.thread.join(10)
        self.ws.sock.close()


def ask(broker, topic="svc.add", body=b"1+1", timeout=5, **headers):
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    return broker.request("POST", f"/v1/topics/{topic}/request?timeout={timeout}", body, headers)


def test_one_call_answers_200_with_the_replys_payload_content_type_and_headers(broker):
    with Responder(broker, "svc.*", lambda e: {"payload": e["payload"] + "=2", "content_type": "text/sum", "headers": {"colour": "red"}}) as responder:
        answer = ask(broker, Content_Type="text/question", Event_Header_Lang="en")
        assert (answer.status, answer.body) == (200, b"1+1=2"), answer
        assert answer.headers["Content-Type"] == "text/sum" and answer.headers["Event-Header-colour"] == "red"
        [request] = responder.requests
        assert request["topic"] == "svc.add" and request["metadata"]["content_type"] == "text/question"
        headers = request["metadata"]["headers"]
        assert headers["lang"] == "en" and headers["reply_to"].startswith("_reply.")
        assert uuid.UUID(headers["reply_to"].split(".", 1)[1])


def test_bytes_come_back_as_they_are(broker):
    with Responder(broker, "svc.*", lambda e: {"payload": "/wABAg==", "payload_encoding": "base64"}):
        assert ask(broker).body == b"\xff\x00\x01\x02"


def test_nobody_listens_is_503_at_once(broker):
    begin = time.monotonic()
    answer = ask(broker, timeout=30)
    assert (answer.status, answer.json["code"]) == (503, "unavailable"), answer
    assert time.monotonic() - begin < 10
    with WebSocket(broker.port) as ws:
        ws.subscribe("other.*")
        assert ask(broker, timeout=30).status == 503


def test_nobody_answers_in_time_is_504(broker):
    with Responder(broker, "svc.*", lambda e: None) as responder:
        begin = time.monotonic()
        answer = ask(broker, timeout=1)
        assert (answer.status, answer.json["code"]) == (504, "timeout"), answer
        assert time.monotonic() - begin >= 0.95 and responder.requests


def test_a_consumer_with_a_worker_is_somebody_who_listens(broker):
    from lib.consumer import Worker

    with Worker(broker, "c", settings={"patterns": ["svc.*"]}) as worker:
        answers = []
        thread = threading.Thread(target=lambda: answers.append(ask(broker, timeout=20)))
        thread.start()
        event = worker.next()
        reply = {"topic": event["metadata"]["headers"]["reply_to"], "payload": "from a worker", "headers": {"correlation_id": event["message_id"]}}
        worker.ws.send({"type": "publish", "data": reply})
        thread.join(20)
        assert answers[0].body == b"from a worker"


def test_many_at_once_get_each_its_own(broker):
    with Responder(broker, "svc.*", lambda e: {"payload": "re " + e["payload"]}):
        answers = {}

        def one(n):
            answers[n] = ask(broker, body=str(n).encode(), timeout=20)

        threads = [threading.Thread(target=one, args=(n,)) for n in range(40)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert {n: a.body for n, a in answers.items()} == {n: f"re {n}".encode() for n in range(40)}


def test_only_the_first_reply_counts(broker):
    def twice(event):
        to = event["metadata"]["headers"]["reply_to"]
        broker.publish(to, b"first", Event_Header_correlation_id=event["message_id"])
        return {"payload": "second"}

    with Responder(broker, "svc.*", twice):
        assert ask(broker).body == b"first"


@pytest.mark.parametrize("timeout", ["0", "-1", "soon", "100000"])
def test_a_bad_timeout_is_400(broker, timeout):
    with Responder(broker, "svc.*", lambda e: None):
        answer = broker.request("POST", f"/v1/topics/svc.a/request?timeout={timeout}", b"")
        assert (answer.status, answer.json["code"]) == (400, "invalid_request") and "timeout" in answer.json["detail"], answer


@pytest.mark.parametrize("ttl", [None, "0", "5", "3600"])
def test_reply_topics_get_ttl_60_whatever_was_asked(broker, ttl):
    topic = f"_reply.{uuid.uuid4()}"
    event = broker.publish(topic, b"x", **({"Event_TTL": ttl} if ttl is not None else {}))
    assert broker.get(f"/v1/events/{event['seq']}").json["ttl"] == 60


def test_by_hand_a_request_and_its_reply_are_events_like_others(broker):
    topic = f"_reply.{uuid.uuid4()}"
    with Responder(broker, "svc.*", lambda e: {"payload": "yes"}), WebSocket(broker.port) as ws:
        ws.subscribe(topic)
        sent = ws.publish("svc.a", "?", data={"headers": {"reply_to": topic}})
        event = ws.event()
        assert event["payload"] == "yes" and event["metadata"]["headers"]["correlation_id"] == sent["message_id"]


def test_hash_does_not_reach_replies(broker):
    with Responder(broker, "svc.*", lambda e: {"payload": "yes"}), WebSocket(broker.port) as ws:
        ws.subscribe("#")
        assert ask(broker).status == 200
        assert ws.event()["topic"] == "svc.add"
        broker.publish("end")
        assert ws.event()["topic"] == "end"


@pytest.mark.long
def test_replies_leave_no_topic_behind(broker):
    """Once they have expired, after a minute; a topic each would fill the table in a week."""
    with Responder(broker, "svc.*", lambda e: {"payload": "yes"}):
        for _ in range(5):
            ask(broker)

    def replies():
        return [t["topic"] for t in broker.get("/v1/topics?limit=1000").json["topics"] if t["topic"].startswith("_reply.")]

    wait_for(lambda: not replies() and broker.stats()["topics"] == 1, timeout=120, what="the topics of the replies to go")


def test_a_client_that_goes_leaves_nothing_waiting(broker):
    from lib.rawhttp import RawHttp

    with Responder(broker, "svc.*", lambda e: None) as responder:
        http = RawHttp(broker.port)
        http.send("POST /v1/topics/svc.a/request?timeout=1 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
        wait_for(lambda: responder.requests)
        http.close()
        assert broker.get("/healthz").status == 200
