"""What is kept, what is deleted, what is said about it; duplicates in races and over restarts; floods of topics."""
import concurrent.futures
import json
import threading
import uuid

import pytest

from lib.broker import wait_for
from lib.load import Load
from lib.procs import is_sanitized, rss_mib
from lib.rawhttp import RawHttp
from lib.sse import Sse
from lib.swarm import SseFeed, Swarm, WsFeed
from lib.ws import WebSocket


def resume_everywhere(broker, pattern, start, epoch=None):
    """What a cursor is told on each transport: (gap or None, seqs) for WebSocket, SSE and GET."""
    told = []
    last = broker.stats()["last_seq"]
    with WebSocket(broker.port) as ws:
        ws.subscribe(pattern, starting_seq=start, **({"epoch": epoch} if epoch else {}))
        gap, seqs = None, []
        while (message := ws.recv())["type"] != "live":
            if message["type"] == "gap":
                assert not seqs, "the gap came after events"
                assert message.pop("pattern") == pattern
                gap = {k: v for k, v in message.items() if k != "type"}
            else:
                assert message["type"] == "event" and message["pattern"] == pattern, message
                seqs.append(message["seq"])
        told.append((gap, seqs))
    query = f"pattern={pattern.replace('#', '%23')}&starting_seq={start}" + (f"&epoch={epoch}" if epoch else "")
    with Sse(broker.port, query) as sse:
        gap, seqs = None, []
        while (event := sse.next()).event != "live":
            if event.event == "gap":
                assert not seqs and int(event.id.split("@")[0]) == event.json["to_seq"], event
                gap = {k: v for k, v in event.json.items() if k != "pattern"}
            else:
                seqs.append(event.json["seq"])
        told.append((gap, seqs))
    gap, seqs, at = None, [], start
    while at <= last:
        page = broker.get(f"/v1/events?pattern={pattern.replace('#', '%23')}&starting_seq={at}&limit=1000" + (f"&epoch={epoch}" if epoch else "")).json
        if page.get("gap"):
            assert gap is None and not seqs
            gap = {k: v for k, v in page["gap"].items() if k != "pattern"}
        seqs += [e["seq"] for e in page["events"]]
        at = page["next_seq"]
    told.append((gap, seqs))
    assert told[0] == told[1] == told[2], told
    return told[0]


# ---- what is deleted, and what is said about it ----


def test_retention_by_events_deletes_the_prefix_and_says_so(start_broker):
    broker = start_broker("--retention-events", "100")
    Load(broker.port, count=500).wait()
    wait_for(lambda: broker.stats()["events"] == 100, timeout=20, what="deletion")
    stats = broker.stats()
    assert (stats["first_seq"], stats["last_seq"]) == (401, 500)
    kept = list(range(401, 501))
    gap = {"from_seq": 17, "to_seq": 400, "reason": "retention"}
    assert resume_everywhere(broker, "load", 17) == (gap, kept)
    assert resume_everywhere(broker, "#", 400) == ({**gap, "from_seq": 400}, kept)
    for start in (0, 1, 401):
        assert resume_everywhere(broker, "load", start) == (None, kept)
    assert resume_everywhere(broker, "load", 450) == (None, kept[49:])
    assert broker.metric('eventbus_gaps_total{reason="retention"}') == 4  # a GET is no subscriber
    assert broker.metric("eventbus_messages_retained_out_total") == 400
    broker.kill()
    broker.start()
    assert resume_everywhere(broker, "load", 17) == (gap, kept)
    assert any("100 events" in line for line in broker.log[:3]), broker.log[:3]


def test_retention_by_bytes_bounds_the_log(start_broker):
    broker = start_broker("--retention-bytes", "200K")
    Load(broker.port, count=600, size=1000).wait()
    wait_for(lambda: broker.stats()["bytes"] <= 200 * 1024, timeout=20, what="deletion")
    stats = broker.stats()
    assert 150 < stats["events"] < 200 and stats["first_seq"] == 601 - stats["events"], stats
    gap, seqs = resume_everywhere(broker, "#", 2)
    assert gap == {"from_seq": 2, "to_seq": stats["first_seq"] - 1, "reason": "retention"} and seqs[0] == stats["first_seq"]


def test_retention_by_age_empties_an_idle_log_and_the_file_gets_shorter(start_broker):
    """Nobody publishes meanwhile: deletion and giving back the space must come of themselves, in many steps."""
    broker = start_broker("--retention-age", "2s")
    Load(broker.port, count=3000, size=4000).wait()
    assert broker.db.stat().st_size > 6 << 20
    wait_for(lambda: broker.stats()["events"] == 0, timeout=20, what="deletion of all")
    assert (broker.stats()["first_seq"], broker.stats()["last_seq"]) == (3001, 3000)
    wait_for(lambda: broker.db.stat().st_size < 4 << 20, timeout=20, what="a shorter file")
    assert resume_everywhere(broker, "load", 5) == ({"from_seq": 5, "to_seq": 3000, "reason": "retention"}, [])
    assert resume_everywhere(broker, "load", 3001) == (None, [])
    broker.restart()
    assert broker.publish("load", b"next")["seq"] == 3001


def test_what_ttl_ends_makes_no_gap_and_is_never_delivered_late(start_broker):
    broker = start_broker()
    short = [broker.publish("t", b"x", Event_TTL="1")["seq"] for _ in range(3)]
    kept = broker.publish("t", b"x")["seq"]
    with WebSocket(broker.port) as live:
        live.subscribe("t")
        wait_for(lambda: broker.get(f"/v1/events/{short[-1]}").status == 404, timeout=20)
        assert resume_everywhere(broker, "t", 1) == (None, [kept])
        assert resume_everywhere(broker, "t", 2) == (None, [kept])
        wait_for(lambda: broker.stats()["events"] == 1, timeout=20, what="deletion")
        assert resume_everywhere(broker, "#", 2) == (None, [kept])
        assert live.quiet() == []
    assert broker.stats()["first_seq"] == kept
    assert broker.metric("eventbus_messages_expired_total") == 3


def test_default_ttl_and_a_ttl_of_zero(start_broker):
    broker = start_broker("--default-ttl", "1s")
    broker.publish("t", b"x")
    for_ever = broker.publish("t", b"x", Event_TTL="0")["seq"]
    wait_for(lambda: broker.stats()["events"] == 1, timeout=20, what="deletion")
    assert [e["seq"] for e in broker.events("t")] == [for_ever]


def test_acked_retention_takes_the_acknowledged_only_and_makes_no_gap(start_broker):
    broker = start_broker("--acked-retention", "0")
    seqs = [broker.publish("t", b"x")["seq"] for _ in range(6)]
    with WebSocket(broker.port) as ws:
        for seq in (2, 3, 6):
            assert ws.call(type="ack", seq=seq)["type"] == "ok"
        wait_for(lambda: broker.stats()["events"] == 3, timeout=20, what="deletion of the acknowledged")
        assert resume_everywhere(broker, "t", 2) == (None, [4, 5])
        assert ws.call(type="ack", seq=2)["type"] == "ok"
    assert broker.get("/v1/events/6").status == 404 and broker.stats()["last_seq"] == 6
    broker.kill()
    broker.start()
    assert broker.publish("t", b"x")["seq"] == seqs[-1] + 1


def test_a_subscriber_that_lags_behind_retention_is_told_before_what_follows(start_broker):
    """The prefix goes while a stopped reader stands in it."""
    broker = start_broker("--retention-events", "200", "--channel-capacity", "16", "--channel-bytes", "16K")
    with Swarm() as swarm:
        feeds = [swarm.add(WsFeed(broker.port, "ws", rcvbuf=4096)), swarm.add(SseFeed(broker.port, "pattern=load", "sse", rcvbuf=4096))]
        feeds[0].subscribe("load")
        wait_for(lambda: feeds[0].answer("s0"))
        for feed in feeds:
            swarm.pause(feed)
        Load(broker.port, count=3000, size=2000).wait()
        wait_for(lambda: broker.stats()["events"] == 200, timeout=30, what="deletion")
        for feed in feeds:
            swarm.resume(feed)
        wait_for(lambda: all(feed.last == 3000 for feed in feeds), timeout=30)
        for feed in feeds:
            at = 0
            for message in feed.messages:
                if message["type"] == "event":
                    assert message["seq"] == at + 1, (feed, at, message)
                    at += 1
                elif message["type"] == "gap":
                    assert message["reason"] == "retention" and message["from_seq"] == at + 1 <= message["to_seq"], (feed, at, message)
                    at = message["to_seq"]
            gaps = feed.of_type("gap")
            assert at == 3000 and gaps and gaps[-1]["to_seq"] <= 2800, gaps


# ---- duplicates ----


def test_one_id_from_32_threads_over_http_and_websocket_is_stored_once(start_broker):
    """All send the same at once, many times over: one 201, everybody else the same seq as a duplicate."""
    broker = start_broker()
    barrier = threading.Barrier(32)
    rounds = [str(uuid.uuid4()) for _ in range(15)]

    def http():
        got = []
        with RawHttp(broker.port, 60) as connection:
            for id in rounds:
                barrier.wait(60)
                connection.send(f"POST /v1/topics/race/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/plain\r\nContent-Length: 4\r\nEvent-Id: {id}\r\n\r\nsame")
                answer = connection.answer()
                assert answer.status == (200 if answer.json["duplicate"] else 201), answer
                got.append(answer.json)
        return got

    def websocket(batch):
        got = []
        with WebSocket(broker.port) as ws:
            for n, id in enumerate(rounds):
                barrier.wait(60)
                data = {"topic": "race", "payload": "same", "message_id": id.upper() if n % 2 else id}
                if batch:
                    got.append(ws.call(type="publish_batch", messages=[data, data])["results"][n % 2])
                else:
                    got.append(ws.call(type="publish", data=data))
        return got

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        jobs = [pool.submit(http) for _ in range(16)] + [pool.submit(websocket, n % 2) for n in range(16)]
        answers = [job.result(120) for job in jobs]
    for n, id in enumerate(rounds):
        mine = [answer[n] for answer in answers]
        assert {a["seq"] for a in mine} == {n + 1} and {a["message_id"] for a in mine} == {id}
        firsts = sum(not a["duplicate"] for a in mine)
        assert firsts <= 1, mine  # 0: the first one's answer was that of a batch's other member
    assert [e["message_id"] for e in broker.events("race")] == rounds


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_ids_are_remembered_over_an_end_and_over_deletion(start_broker, end):
    """A retry after a restart is a duplicate, also when retention or ttl took the event; other content is refused."""
    broker = start_broker("--retention-events", "5")
    ids = [f"order-{n}" for n in range(10)]
    first = [broker.publish("o", id.encode(), Event_Id=id) for id in ids]
    brief = broker.publish("brief", b"x", Event_Id="brief", Event_TTL="1")
    wait_for(lambda: broker.stats()["events"] <= 5 and broker.get(f"/v1/events/{brief['seq']}").status == 404, timeout=20, what="deletion")
    for turn in range(2):
        for id, was in zip(ids, first):
            again = broker.publish("o", id.encode(), Event_Id=id)
            assert again == {**was, "duplicate": True}
        assert broker.publish("brief", b"x", Event_Id="brief")["seq"] == brief["seq"]
        for topic, body, kind in [("other", b"order-9", "text/plain"), ("o", b"else", "text/plain"), ("o", b"order-9", "text/html")]:
            answer = broker.request("POST", f"/v1/topics/{topic}/events", body, {"Event-Id": "order-9", "Content-Type": kind})
            assert (answer.status, answer.json["code"]) == (422, "message_id_reused"), answer
        # nothing is left to compare with: a duplicate whatever it holds
        assert broker.request("POST", "/v1/topics/o/events", b"else", {"Event-Id": "order-0"}).json["duplicate"] is True
        assert broker.stats()["last_seq"] == brief["seq"]
        if turn == 0:
            broker.stop() if end == "stop" else broker.kill()
            broker.start()


def test_an_id_is_free_again_after_the_window_also_over_a_kill(start_broker):
    broker = start_broker("--dedupe-window", "2s")
    first = broker.publish("t", b"x", Event_Id="again")
    broker.kill()
    broker.start()
    new = wait_for(lambda: (a := broker.publish("t", b"x", Event_Id="again")) and not a["duplicate"] and a, timeout=20, what="the end of the window")
    assert new["seq"] == first["seq"] + 1
    wait_for(lambda: broker.stats()["dedupe_ids"] <= 1)


def test_dedupe_max_lets_the_oldest_go_and_counts_them(start_broker):
    broker = start_broker("--dedupe-max", "1000")
    broker.publish("t", b"x", Event_Id="oldest")
    Load(broker.port, count=1500).wait()
    assert broker.stats()["dedupe_ids"] == 1000
    assert broker.metric("eventbus_dedupe_evicted_total") == 501
    assert broker.publish("t", b"x", Event_Id="oldest")["duplicate"] is False


# ---- many topics, many that resume ----


def topic_flood(start_broker, count, bound_mib):
    broker = start_broker()
    sanitized = is_sanitized(broker)
    with Swarm() as swarm:
        stars = swarm.add(WsFeed(broker.port))
        stars.subscribe("flood.7")
        stars.subscribe("*.99.#")
        Load(broker.port, count=2000, topic_flood="warm", window=1024).wait()
        before = rss_mib(broker)
        Load(broker.port, count=count, topic_flood="flood", window=4096, size=10).wait(600)
        wait_for(lambda: stars.last, what="the one topic of interest")
        grown = rss_mib(broker) - before
        print(f"{count} topics: {before:.0f} MiB and {grown:.0f} more")
        assert broker.stats()["topics"] == count + 2000
        seventh = [e["seq"] for e in broker.events("flood.7")]
        wait_for(lambda: stars.count >= 2)
        assert len(seventh) == 1 and seventh[0] in stars.events()
        page = broker.get("/v1/topics?limit=1000").json
        assert len(json.dumps(page)) < 1 << 20
        if not sanitized:
            assert grown < bound_mib, f"{grown:.0f} MiB for {count} topics"


def test_100k_topics_cost_a_bounded_amount_of_memory(start_broker):
    """Each topic costs its name and an id, and the caches above them have bounds of their own. dedupe_max ids and
    the open segment's lists are in it too."""
    topic_flood(start_broker, 100_000, 80)


@pytest.mark.long
def test_a_million_topics_cost_a_bounded_amount_of_memory(start_broker):
    topic_flood(start_broker, 1_000_000, 500)
