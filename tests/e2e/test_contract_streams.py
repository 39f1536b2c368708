"""The contract of subscriptions, their seams and their gaps on every transport, sentence by sentence."""
import json
import sqlite3
import urllib.parse

import pytest

from lib.broker import wait_for
from lib.probe import Ws, events_of
from lib.sse import Sse

STORAGES = ["sqlite", "memory"]


@pytest.fixture(params=STORAGES)
def broker(request, start_broker):
    return start_broker("--storage", request.param)


@pytest.fixture
def ws(broker):
    with Ws(broker.port) as ws:
        yield ws


def code(answer):
    return answer["type"] if answer["type"] != "error" else answer["code"]


def deliveries(ws, count):
    return [ws.take(lambda m: m["type"] in ("event", "gap", "live")) for _ in range(count)]


def brief(message):
    """What matters of a delivery: ("event", seq, pattern or None) and the like."""
    if message["type"] == "gap":
        return ("gap", message["from_seq"], message["to_seq"], message["reason"])
    return (message["type"], message["seq"], message.get("pattern"))


def fill(ws, topic, count):
    for i in range(count):
        ws.send(type="publish", id=f"{topic}{i}", data={"topic": topic, "payload": str(i)})
    return [ws.answer(f"{topic}{i}")["seq"] for i in range(count)]


# ---- 2.3 ----


def test_starting_seq_first_what_is_retained_then_live(ws):
    """"first every retained, unexpired event with `seq` >= N that matches (0 and 1 mean all), in order, then live events" """
    fill(ws, "a", 5), fill(ws, "b", 5)
    for start in (0, 1):
        answer = ws.sub("a", starting_seq=start)
        assert answer["last_seq"] == 10 and len(answer["epoch"]) == 36
        assert [brief(m) for m in deliveries(ws, 6)] == [("event", i, "a") for i in range(1, 6)] + [("live", 10, "a")]
        ws.ask(type="unsubscribe", pattern="a")
    for start, first in ((3, 3), (5, 5), (6, None), (10, None), (11, None)):
        ws.sub("a", starting_seq=start)
        expected = [("event", i, "a") for i in range(first, 6)] if first else []
        assert [brief(m) for m in deliveries(ws, len(expected) + 1)] == [*expected, ("live", 10, "a")], start
        ws.ask(type="unsubscribe", pattern="a")
    ws.sub("a", starting_seq=6)
    assert [brief(m) for m in deliveries(ws, 1)] == [("live", 10, "a")]
    seq = ws.pub("a", "new")["seq"]
    assert [brief(m) for m in deliveries(ws, 1)] == [("event", seq, None)]


def test_starting_seq_of_every_odd_value(ws):
    for bad in (-1, 1.0, "1", True, [], 2**64, -(2**63), 10**30):
        assert code(ws.ask(type="subscribe", pattern="a", starting_seq=bad)) == "invalid_request", bad
    for beyond in (2, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1):
        answer = ws.ask(type="subscribe", pattern="a", starting_seq=beyond)
        assert code(answer) in ("ok", "invalid_request"), beyond
        if answer["type"] == "ok" and beyond > 1:
            gap, live = deliveries(ws, 2)
            assert (gap["reason"], gap["from_seq"], gap["to_seq"], live["type"]) == ("epoch", 0, 0, "live")
    assert code(ws.ask(type="subscribe", pattern="a")) == "ok"


def test_absent_or_null_live_events_only(ws):
    """"Absent or null: live events only"; "one that began live is live from its `last_seq`" """
    fill(ws, "a", 3)
    assert ws.sub("a")["last_seq"] == 3
    assert ws.sub("a.#", starting_seq=None)["last_seq"] == 3
    ws.pub("a")
    assert brief(deliveries(ws, 1)[0]) == ("event", 4, None)


def test_live_subscriptions_are_one_stream(ws):
    """"in `seq` order, an event that matches several of them sent once" """
    for pattern in ("a.b", "a.*", "a.#", "*.b", "#", "#.b", "c"):
        ws.sub(pattern)
    for topic in ("a.b", "c", "a.x", "a.b", "z"):
        ws.pub(topic)
    assert [(m["seq"], m["topic"], "pattern" in m) for m in deliveries(ws, 5)] == [(1, "a.b", False), (2, "c", False), (3, "a.x", False), (4, "a.b", False), (5, "z", False)]
    ws.pub("end")
    assert deliveries(ws, 1)[0]["seq"] == 6


def test_a_replay_repeats_what_others_have_sent_and_its_floor_holds(ws):
    """"its events carry `"pattern"` beside … and may repeat what another subscription of the connection has sent …
    The shared stream serves a subscription only with events above the seq at which it became live" """
    ws.sub("a")
    fill(ws, "a", 3)
    assert [brief(m) for m in deliveries(ws, 3)] == [("event", i, None) for i in (1, 2, 3)]
    ws.sub("#", starting_seq=2)
    assert [brief(m) for m in deliveries(ws, 3)] == [("event", 2, "#"), ("event", 3, "#"), ("live", 3, "#")]
    ws.pub("a"), ws.pub("b")
    assert [brief(m) for m in deliveries(ws, 2)] == [("event", 4, None), ("event", 5, None)]


def test_the_same_pattern_again(ws):
    """"The same pattern again with `starting_seq` starts afresh from there, in one step; without, `ok` and nothing changes" """
    fill(ws, "a", 4)
    ws.sub("a")
    assert ws.sub("a")["last_seq"] == 4
    ws.pub("a")
    assert [brief(m) for m in deliveries(ws, 1)] == [("event", 5, None)]
    ws.sub("a", starting_seq=4)
    assert [brief(m) for m in deliveries(ws, 3)] == [("event", 4, "a"), ("event", 5, "a"), ("live", 5, "a")]
    ws.sub("a"), ws.pub("a"), ws.pub("mark")
    ws.sub("mark", starting_seq=6)
    assert [brief(m) for m in deliveries(ws, 3)] == [("event", 6, None), ("event", 7, "mark"), ("live", 7, "mark")]
    assert ws.inbox == []
    assert code(ws.ask(type="unsubscribe", pattern="a")) == "ok"
    assert code(ws.ask(type="unsubscribe", pattern="a")) == "not_found", "one subscription a pattern"


def test_after_unsubscribe_nothing_more_comes(ws):
    """"After `ok` to `unsubscribe` (also while lagging) nothing more comes on its account; an unknown pattern is `not_found`" """
    fill(ws, "a", 3000)
    for _ in range(5):
        ws.sub("a", starting_seq=1)
        assert code(ws.ask(type="unsubscribe", pattern="a")) == "ok"
        ws.inbox.clear()
        ws.sub("mark"), ws.pub("mark")
        assert [m["topic"] for m in events_of(ws.until("mark"))] == ["mark"]
    for unknown in ("b", "a", "#"):
        assert code(ws.ask(type="unsubscribe", pattern=unknown)) == "not_found"


def test_unsubscribe_of_a_lagging_connection(start_broker):
    """The same with a connection that did not read for a while: its socket and queue are full."""
    broker = start_broker("--channel-capacity", "16", "--channel-bytes", "65536")
    with Ws(broker.port, rcvbuf=4096) as slow, Ws(broker.port) as publisher:
        slow.sub("big"), slow.sub("small")
        for i in range(300):
            publisher.send(type="publish", data={"topic": "big", "payload": "x" * 16000})
        last = publisher.pub("small", "kept")["seq"]
        wait_for(lambda: broker.stats()["lagging"] >= 1, what="lag")
        assert code(slow.ask(type="unsubscribe", pattern="big")) == "ok"
        before = len(slow.inbox)
        assert before < 301
        publisher.pub("small", "end")
        rest = [slow.take(lambda m: m["type"] in ("event", "gap") and m not in slow.inbox[:0]) for _ in range(before)]
        assert all(m["topic"] == "big" for m in rest if m["seq"] != last)
        seen = {m["seq"] for m in rest}
        while last + 1 not in seen:
            m = slow.event()
            assert m["topic"] == "small", "an event of an unsubscribed pattern"
            seen.add(m["seq"])
        assert last in seen


def test_max_subscriptions_is_per_connection(start_broker):
    """"`max_subscriptions` is per connection (`limit_exceeded`)" """
    broker = start_broker("--storage", "memory", "--max-subscriptions", "3")
    for _ in range(2):
        with Ws(broker.port) as ws:
            assert [code(ws.ask(type="subscribe", pattern=f"p{i}")) for i in range(5)] == ["ok"] * 3 + ["limit_exceeded"] * 2
            assert code(ws.ask(type="subscribe", pattern="p1")) == "ok", "the same again is no other"
            ws.ask(type="unsubscribe", pattern="p0")
            assert code(ws.ask(type="subscribe", pattern="p9")) == "ok"


# ---- 2.4: epochs ----


def gaps_everywhere(broker, start, epoch=None, pattern="a"):
    """The gap that each transport tells for the same cursor, as (from, to, reason, epoch) or None, and the seqs that follow."""
    found = []
    with Ws(broker.port) as ws:
        ws.sub(pattern, starting_seq=start, **({"epoch": epoch} if epoch else {}))
        got = [ws.take(lambda m: m["type"] in ("event", "gap", "live"))]
        while got[-1]["type"] != "live":
            got.append(ws.take(lambda m: m["type"] in ("event", "gap", "live")))
        gaps = [m for m in got if m["type"] == "gap"]
        assert all(m["pattern"] == pattern for m in gaps) and len(gaps) <= 1 and (not gaps or got[0]["type"] == "gap")
        found.append((gaps[0] if gaps else None, [m["seq"] for m in got if m["type"] == "event"]))
    query = f"pattern={urllib.parse.quote(pattern)}&starting_seq={start}" + (f"&epoch={epoch}" if epoch else "")
    page = broker.get("/v1/events?limit=1000&" + query).json
    found.append((page.get("gap"), [e["seq"] for e in page["events"]]))
    with Sse(broker.port, query) as stream:
        events = stream.until("live")
        gaps = [e for e in events if e.event == "gap"]
        assert len(gaps) <= 1 and (not gaps or (events[0] is gaps[0]))
        if gaps:
            assert gaps[0].id.split("@")[0] == str(gaps[0].json["to_seq"])
        assert events[-1].id is None
        found.append((gaps[0].json if gaps else None, [e.json["seq"] for e in events if e.event == "message"]))
    flat = [(gap and (gap["from_seq"], gap["to_seq"], gap["reason"], gap.get("epoch")), seqs) for gap, seqs in found]
    assert flat[0] == flat[1] == flat[2], flat
    return flat[0]


def test_epoch_gaps_on_all_transports(broker, ws):
    """"`epoch` (the client's `epoch` is another log's, or `starting_seq` is above the last seq + 1 …: delivery starts from the
    first retained event; `from_seq` 0, `to_seq` the first retained seq - 1, the broker's `epoch` beside)" """
    fill(ws, "a", 4)
    epoch, other = broker.stats()["epoch"], "00000000-0000-4000-8000-000000000000"
    assert gaps_everywhere(broker, 2, epoch) == (None, [2, 3, 4])
    assert gaps_everywhere(broker, 5, epoch) == (None, [])
    assert gaps_everywhere(broker, 5) == (None, []), "last + 1 is fine"
    for start, given in ((2, other), (5, other), (6, epoch), (6, None), (10**15, None)):
        assert gaps_everywhere(broker, start, given) == ((0, 0, "epoch", epoch), [1, 2, 3, 4]), (start, given)
    for start in (0, 1):
        gap, seqs = gaps_everywhere(broker, start, other)
        assert seqs == [1, 2, 3, 4] and (gap is None or gap[2] == "epoch")


def test_an_empty_log_and_the_edges(broker):
    epoch = broker.stats()["epoch"]
    assert gaps_everywhere(broker, 0) == (None, []) and gaps_everywhere(broker, 1) == (None, [])
    assert gaps_everywhere(broker, 2) == ((0, 0, "epoch", epoch), [])


def test_retention_gaps_on_all_transports(start_broker):
    """"`retention` (the prefix deleted by age or size before delivery …)"; "`starting_seq` 0 or 1 asks for what there is and gets no retention gap" """
    broker = start_broker("--retention-events", "10")
    with Ws(broker.port) as ws:
        fill(ws, "a", 100)
        wait_for(lambda: broker.stats()["events"] <= 10, what="retention")
        first = broker.stats()["first_seq"]
        kept = list(range(first, 101))
        assert gaps_everywhere(broker, 0) == (None, kept) and gaps_everywhere(broker, 1) == (None, kept)
        assert gaps_everywhere(broker, 2) == ((2, first - 1, "retention", None), kept)
        assert gaps_everywhere(broker, first - 1) == ((first - 1, first - 1, "retention", None), kept)
        assert gaps_everywhere(broker, first) == (None, kept) and gaps_everywhere(broker, 101) == (None, [])
        epoch = broker.stats()["epoch"]
        assert gaps_everywhere(broker, 102) == ((0, first - 1, "epoch", epoch), kept)
        assert gaps_everywhere(broker, 2, pattern="other") == ((2, first - 1, "retention", None), []), "matching events may be missing"
        assert broker.get("/v1/events/1").status == 404
        page = broker.get("/v1/events?pattern=a&starting_seq=2&limit=1").json
        assert [e["seq"] for e in page["events"]] == [first] and page["next_seq"] == first + 1


def test_overflow_gaps_of_memory(start_broker):
    """"`overflow` (no storage …)"; "With storage off it gets a `gap` (`overflow`) in place of what it missed" """
    broker = start_broker("--storage", "memory", "--memory-bytes", "1M", "--channel-capacity", "8", "--channel-bytes", "16384")
    with Ws(broker.port) as ws, Ws(broker.port, rcvbuf=4096) as slow:
        slow.sub("a")
        for i in range(600):
            ws.send(type="publish", data={"topic": "a", "payload": f"{i} " + "x" * 8000})
        last = ws.pub("a", "last")["seq"]
        first = broker.stats()["first_seq"]
        assert first > 300
        for start in (0, 1, 2):
            gap, seqs = gaps_everywhere(broker, start)
            assert seqs == list(range(broker.stats()["first_seq"], last + 1))
            assert gap == (None if start < 2 else (2, first - 1, "overflow", None)), (start, gap)
        got = slow.until("a", "last")
        seqs, expected = [], 1
        for message in got:
            if message["type"] == "gap":
                assert message["reason"] == "overflow" and message["from_seq"] == expected, (message, expected)
                expected = message["to_seq"] + 1
            else:
                assert message["seq"] == expected, "a loss that was not said"
                expected += 1
                seqs.append(message["seq"])
        assert any(m["type"] == "gap" for m in got) and seqs[-1] == last


def test_damaged_events_are_never_delivered(start_broker):
    """"`damaged` (a stored event failed its checksum: it is never delivered)", said on every transport, counted"""
    broker = start_broker()
    with Ws(broker.port) as ws:
        for i in range(10):
            ws.pub("a", f"needle-{i}-needle")
        for _ in range(20):  # the check at start refuses damage near the end: this is to lie before it
            ws.ask(type="publish_batch", messages=[{"topic": "b", "payload": "x" * 1000}] * 200)
    broker.stop()
    data = broker.db.read_bytes()
    assert data.count(b"needle-4-needle") == 1
    broker.db.write_bytes(data.replace(b"needle-4-needle", b"nEEdle-4-needle"))
    broker.start()
    with Ws(broker.port) as ws:
        ws.sub("a", starting_seq=1)
        got = deliveries(ws, 11)
        assert [brief(m) for m in got] == [("event", i, "a") for i in range(1, 5)] + [("gap", 5, 5, "damaged")] + [("event", i, "a") for i in range(6, 11)] + [("live", 4010, "a")]
    with Sse(broker.port, "pattern=a&starting_seq=1") as stream:
        assert [(e.event, e.id) for e in stream.until("live")] == [("message", str(i)) for i in range(1, 5)] + [("gap", "5")] + [("message", str(i)) for i in range(6, 11)] + [("live", None)]
    seqs, gaps, start = [], [], 1
    while start <= 4010:
        page = broker.get(f"/v1/events?pattern=a&starting_seq={start}").json
        seqs += [e["seq"] for e in page["events"]]
        gaps += [page["gap"]] if "gap" in page else []
        assert page["next_seq"] > start
        start = page["next_seq"]
    assert seqs == [1, 2, 3, 4, 6, 7, 8, 9, 10] and [(g["from_seq"], g["to_seq"], g["reason"]) for g in gaps] == [(5, 5, "damaged")]
    answer = broker.get("/v1/events/5")
    assert answer.status in (404, 500) and answer.headers["Content-Type"] == "application/problem+json"
    assert [line for line in broker.get("/metrics").body.decode().splitlines() if "damaged" in line and not line.startswith("#") and float(line.split()[-1]) > 0]


def test_a_slow_subscriber_under_retention_is_told(start_broker):
    """"said as soon as the broker knows, and before any later event of that subscription" """
    broker = start_broker("--retention-events", "50", "--channel-capacity", "8", "--channel-bytes", "16384")
    with Ws(broker.port) as ws, Ws(broker.port, rcvbuf=4096) as slow:
        slow.sub("a"), slow.sub("b")
        for i in range(600):
            ws.send(type="publish", data={"topic": "ab"[i % 2], "payload": "x" * 8000})
        ws.pub("a", "last")
        wait_for(lambda: broker.stats()["events"] <= 50, what="retention")
        expected = 1
        for message in slow.until("a", "last"):
            if message["type"] == "gap":
                assert message["reason"] == "retention" and sorted(message.get("patterns", [message.get("pattern")])) in (["a", "b"], ["a"], ["b"])
                expected = max(expected, message["to_seq"] + 1)
            else:
                assert message["seq"] == expected, "a loss that was not said"
                expected += 1
        assert expected == 602


def test_auto_ack_marks_what_the_kernel_took(start_broker):
    """"`auto_ack` marks an event once the kernel took its whole frame for the first plain subscriber (WebSocket, SSE …), never for … `GET /v1/events`" """
    broker = start_broker("--auto-ack")
    with Ws(broker.port) as ws:
        ws.pub("seen"), ws.pub("unseen"), ws.pub("sse")
        broker.get("/v1/events?pattern=%23")
        ws.sub("seen", starting_seq=1)
        ws.event()
        with Sse(broker.port, "pattern=sse&starting_seq=1") as stream:
            stream.until("live")

            def pending():
                with Ws(broker.port) as other:
                    other.sub("#", starting_seq=1, pending_only=True)
                    other.take(lambda m: m["type"] == "live")
                    return [m["topic"] for m in other.inbox if m["type"] == "event"]

            first = pending()
            assert "unseen" in first
    broker.stop()
    with sqlite3.connect(broker.db) as db:
        assert ("seen", "processed") in db.execute("SELECT topic, status FROM messages").fetchall()


# ---- SSE ----


def test_sse_head_and_forms(broker, ws):
    """"first `retry: 2000` and `event: open` …; then default events whose `data:` is the event … on one line, `id:` its seq … `live` without `id:`" """
    fill(ws, "a", 2)
    ws.pub("a", "line\r\nline\nline\u2028 \u0000 end")
    with Sse(broker.port, "pattern=a&starting_seq=2") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-cache, no-transform" and stream.headers["x-accel-buffering"] == "no"
        assert stream.retry == 2000 and stream.open == {"epoch": broker.stats()["epoch"], "last_seq": 3}
        got = stream.until("live")
        assert [(e.event, e.id) for e in got] == [("message", "2"), ("message", "3"), ("live", None)]
        assert got[1].json["payload"] == "line\r\nline\nline\u2028 \u0000 end" and "type" not in got[1].json
        assert got[1].json == broker.get("/v1/events/3").json
    with Sse(broker.port, "pattern=a&starting_seq=3&epoch=") as stream:
        assert stream.next().id == "3@" + broker.stats()["epoch"]


def test_sse_resumes(broker, ws):
    """"`Last-Event-ID` (or `last_event_id` in the query) resumes after it, beats `starting_seq`, and is judged by the epoch in it, if any; another form is 400" """
    fill(ws, "a", 5)
    epoch, other = broker.stats()["epoch"], "00000000-0000-4000-8000-000000000000"

    def resume(query="", **headers):
        with Sse(broker.port, "pattern=a" + query, headers=[(n.replace("_", "-"), v) for n, v in headers.items()]) as stream:
            if stream.status != 200:
                return stream.status
            return [int(e.id.split("@")[0]) if e.event == "message" else "gap" for e in stream.until("live")[:-1]]

    assert resume(Last_Event_ID="3") == resume("&last_event_id=3") == resume("&starting_seq=1", Last_Event_ID="3") == [4, 5]
    assert resume("&last_event_id=1", Last_Event_ID="3") == [4, 5]
    assert resume(Last_Event_ID=f"3@{epoch}") == [4, 5] and resume(Last_Event_ID="5") == [] and resume(Last_Event_ID="0") == [1, 2, 3, 4, 5]
    assert resume(Last_Event_ID=f"3@{other}") == ["gap", 1, 2, 3, 4, 5] == resume(Last_Event_ID="6")
    assert resume(f"&epoch={other}", Last_Event_ID=f"3@{epoch}") == [4, 5]
    for bad in ("x", "-1", "+1", "1.0", "3@", "3@x", f"@{epoch}", f"3 @{epoch}", "3@" + epoch + "0", "18446744073709551616", "1e3", "0x1", "3,4"):
        assert resume(Last_Event_ID=bad) == 400, bad
        assert resume("&last_event_id=" + urllib.parse.quote(bad)) == 400, bad


def test_sse_several_patterns_are_one_subscription(broker, ws):
    with Sse(broker.port, "pattern=a.*&pattern=%23&pattern=a.b") as stream:
        ws.pub("a.b"), ws.pub("c")
        assert [stream.next().json["seq"], stream.next().json["seq"]] == [1, 2]
        ws.pub("c")
        assert stream.next().json["seq"] == 3


def test_sse_ends_properly_at_shutdown(broker):
    """"at shutdown the body ends properly" """
    broker.publish("a", b"x")
    with Sse(broker.port, "pattern=a&starting_seq=1") as stream:
        stream.until("live")
        broker.process.terminate()
        assert stream.next() is None and stream.ended, "the last chunk came"
    assert broker.process.wait(30) == 0


def test_sse_events_are_the_frames_of_the_websocket(broker, ws):
    """"Every event in an HTTP answer is the frame of 2.2 without `type`" """
    ws.sub("a")
    with Sse(broker.port, "pattern=a") as stream:
        ws.pub("a", "\u0000é\u2028\\\"/\x7f", ttl=60, headers={"ce-id": "1", "é": "ü"}, content_type="x/y", message_id="odd")
        frame = ws.event()
        assert frame.pop("type") == "event"
        assert stream.next().json == frame == broker.get("/v1/events/1").json == broker.get("/v1/events?pattern=a").json["events"][0]
        assert json.dumps(frame)
