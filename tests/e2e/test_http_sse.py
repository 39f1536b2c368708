"""GET /v1/stream: Server-Sent Events."""
import json
import time

import pytest

from lib.broker import wait_for
from lib.sse import Sse

from test_http_publish import JSON, problem


def test_opens_with_retry_and_open(broker):
    broker.publish("a", b"")
    with Sse(broker.port, "pattern=%23") as stream:
        assert stream.retry == 2000
        assert stream.open == {"epoch": broker.stats()["epoch"], "last_seq": 1}
        assert stream.headers["content-type"] == "text/event-stream"
        assert stream.headers["cache-control"] == "no-cache, no-transform" and stream.headers["x-accel-buffering"] == "no"


def test_live_events_have_their_seq_as_id(broker):
    broker.publish("before", b"")
    with Sse(broker.port, "pattern=user.*&pattern=b.%23") as stream:
        broker.publish("user.created", "ü\n\r\n\u2028".encode())
        broker.publish("other", b"")
        broker.publish("b", b"\xff")
        first, second = stream.next(), stream.next()
        assert (first.event, first.id) == ("message", "2") and first.json == broker.get("/v1/events/2").json
        assert first.json["payload"] == "ü\n\r\n\u2028"
        assert second.id == "4" and second.json["payload_encoding"] == "base64"


def test_replay_then_live_without_gap_or_repeat(broker):
    for i in range(300):
        broker.publish("t", str(i).encode())
    with Sse(broker.port, "pattern=%23&starting_seq=1") as stream:
        for i in range(300, 320):
            broker.publish("t", str(i).encode())
        seqs, live = [], []
        while len(seqs) < 320 or not live:
            event = stream.next()
            if event.event == "live":
                live.append(event)
            else:
                assert event.event == "message" and "pattern" not in event.json
                seqs.append(int(event.id))
        assert seqs == list(range(1, 321))
        assert len(live) == 1 and live[0].id is None and 300 <= live[0].json["seq"] <= 320


def test_last_event_id_resumes_after_it_and_beats_starting_seq(broker):
    for i in range(10):
        broker.publish("t", b"")
    for query, headers in (("last_event_id=7", ()), ("", [("Last-Event-ID", "7")]), ("starting_seq=1", [("Last-Event-ID", "7")])):
        with Sse(broker.port, f"pattern=%23&{query}", headers) as stream:
            events = stream.until("live")
            assert [e.id for e in events[:-1]] == ["8", "9", "10"]


def test_ids_carry_the_epoch_when_the_query_has_it_and_are_judged_by_it(broker):
    for i in range(5):
        broker.publish("t", b"")
    epoch = broker.stats()["epoch"]
    with Sse(broker.port, f"pattern=%23&starting_seq=4&epoch={epoch}") as stream:
        assert [e.id for e in stream.until("live")[:-1]] == [f"4@{epoch}", f"5@{epoch}"]
    with Sse(broker.port, "pattern=%23", [("Last-Event-ID", f"4@{epoch}")]) as stream:
        assert [e.id for e in stream.until("live")[:-1]] == ["5"]
    other = "00000000-0000-4000-8000-000000000000"
    with Sse(broker.port, f"pattern=%23&epoch={epoch}", [("Last-Event-ID", f"4@{other}")]) as stream:
        gap, *events, live = stream.until("live")
        assert gap.event == "gap" and gap.json["reason"] == "epoch" and gap.json["from_seq"] == 0
        assert gap.id == f"{gap.json['to_seq']}@{epoch}" and gap.json["epoch"] == epoch
        assert [e.json["seq"] for e in events] == [1, 2, 3, 4, 5]


def test_gap_has_its_to_seq_as_id(broker):
    for i in range(3):
        broker.publish("t", b"")
    with Sse(broker.port, "pattern=t&pattern=u&starting_seq=99") as stream:
        gap = stream.next()
        assert gap.event == "gap" and gap.id == str(gap.json["to_seq"]) and gap.json["patterns"] == ["t", "u"]


@pytest.mark.parametrize("bad", ["x", "-1", "1@", "1@x", "1@@", "1.0", "@", "99999999999999999"])
def test_another_form_of_last_event_id_is_400(broker, bad):
    problem(broker.get(f"/v1/stream?pattern=%23&last_event_id={bad}"), 400, "invalid_request")
    problem(broker.request("GET", "/v1/stream?pattern=%23", headers={"Last-Event-ID": bad}), 400, "invalid_request")


def test_silence_is_broken_by_comments(start_broker):
    broker = start_broker("--sse-comment", "200ms")
    with Sse(broker.port, "pattern=nothing") as stream:
        begin = time.monotonic()
        for _ in range(5):
            assert stream.next(comments=True) is True
        assert time.monotonic() - begin < 10


def test_large_events_pass_whole(broker):
    big = "x" * 1000000
    with Sse(broker.port, "pattern=%23") as stream:
        for _ in range(5):
            broker.publish("big", big.encode())
        for _ in range(5):
            assert stream.next().json["payload"] == big


def test_body_ends_properly_at_shutdown(broker):
    streams = [Sse(broker.port, "pattern=%23") for _ in range(20)]
    broker.publish("last", b"word")
    assert broker.stop() == 0
    for stream in streams:
        events = []
        while (event := stream.next()) is not None:
            events.append(event)
        assert stream.ended and events[-1].json["payload"] == "word"
        stream.close()


def test_max_connections_counts_streams_and_health_still_answers(start_broker):
    broker = start_broker("--max-connections", "5")
    streams = [Sse(broker.port, "pattern=%23") for _ in range(5)]
    answer = broker.get("/v1/stream?pattern=%23")
    problem(answer, 503, "unavailable")
    assert answer.headers["Retry-After"]
    assert broker.get("/healthz").status == 200 and broker.get("/readyz").status == 200
    streams.pop().close()
    broker.publish("wake", b"")  # a closed peer is noticed when something is written

    def again():
        broker.publish("wake", b"")
        stream = Sse(broker.port, "pattern=%23")
        streams.append(stream)
        return stream.status == 200

    wait_for(again, what="a place for another stream")
    [stream.close() for stream in streams]


def test_closed_peers_are_found_while_nothing_happens(start_broker):
    broker = start_broker("--sse-comment", "200ms")
    for _ in range(10):
        Sse(broker.port, "pattern=nothing").close()
    wait_for(lambda: broker.stats()["streams"] == 0, what="end of closed streams")
    assert broker.stats()["subscriptions"] == 0


def test_a_slow_reader_gets_everything_in_order(broker):
    """It lags, is fed from the log, and does not slow down anybody."""
    body = json.dumps({"messages": [{"topic": "s", "payload": "y" * 10000}] * 500})
    with Sse(broker.port, "pattern=s") as slow, Sse(broker.port, "pattern=s") as fast:
        for _ in range(6):
            assert broker.request("POST", "/v1/events", body, JSON).status == 201
        for stream in (fast, slow):
            seqs = []
            while len(seqs) < 3000:
                event = stream.next()
                if event.event == "message":
                    seqs.append(int(event.id))
            assert seqs == list(range(1, 3001))


def test_1000_streams(broker):
    streams = [Sse(broker.port, f"pattern=room.{i % 10}&pattern=all") for i in range(1000)]
    assert broker.stats()["streams"] == 1000
    begin = time.monotonic()
    for i in range(10):
        broker.publish("all", str(i).encode())
    for i in range(10):
        broker.publish(f"room.{i}", b"")
    for i, stream in enumerate(streams):
        events = [stream.next() for _ in range(11)]
        assert [e.json["seq"] for e in events] == list(range(1, 11)) + [11 + i % 10]
    assert time.monotonic() - begin < 60
    threads = len(list((__import__("pathlib").Path(f"/proc/{broker.pid}/task")).iterdir()))
    assert threads < 60, "streams must not cost a thread each"
    [stream.close() for stream in streams]


def test_a_stop_without_patience_aborts_nothing(start_broker):
    """libmicrohttpd aborts when it is stopped while a stream is suspended: with no time to drain, none may be."""
    for _ in range(3):
        broker = start_broker("--drain-timeout", "0")
        streams = [Sse(broker.port, "pattern=%23") for _ in range(40)]
        broker.publish("a", b"x")
        assert broker.stop() == 0
        [stream.close() for stream in streams]
