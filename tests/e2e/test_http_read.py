"""GET: replay, one event, the lists, stats, health and metrics."""
import json
import re

import pytest

from lib.sse import Sse

from test_http_publish import JSON, problem


def fill(broker, count, topic="t", payload="x"):
    body = {"messages": [{"topic": f"{topic}.{i % 3}", "payload": payload} for i in range(count)]}
    assert broker.request("POST", "/v1/events", json.dumps(body), JSON).status == 201


def test_replay_in_pages(broker):
    fill(broker, 250)
    page = broker.get("/v1/events?pattern=%23").json
    assert len(page["events"]) == 100 and page["next_seq"] == 101 and page["last_seq"] == 250 and len(page["epoch"]) == 36
    assert [e["seq"] for e in broker.events()] == list(range(1, 251))
    page = broker.get("/v1/events?pattern=%23&starting_seq=249&limit=1000").json
    assert [e["seq"] for e in page["events"]] == [249, 250] and page["next_seq"] == 251


def test_next_seq_moves_on_when_nothing_matches(broker):
    fill(broker, 30)
    page = broker.get("/v1/events?pattern=nobody.%23").json
    assert page["events"] == [] and page["next_seq"] == 31 and page["last_seq"] == 30 and "gap" not in page


def test_empty_log(broker):
    page = broker.get("/v1/events?pattern=%23").json
    assert page["events"] == [] and page["next_seq"] == 1 and page["last_seq"] == 0


def test_patterns_may_repeat_and_are_one_subscription(broker):
    for topic in ("a.x", "b.x", "c.x", "a.b"):
        broker.publish(topic, b"")
    page = broker.get("/v1/events?pattern=a.*&pattern=*.b&pattern=c.%23").json
    assert [e["topic"] for e in page["events"]] == ["a.x", "c.x", "a.b"]


def test_answer_holds_at_most_4_mib_but_at_least_one_event(broker):
    for i in range(8):
        broker.publish("t", b"\x01" * 1000000)  # six bytes each in JSON
    seen, start = [], 1
    while start <= 8:
        answer = broker.get(f"/v1/events?pattern=%23&starting_seq={start}")
        assert len(answer.json["events"]) == 1 and len(answer.body) > 4 << 20
        seen.append(answer.json["events"][0]["seq"])
        start = answer.json["next_seq"]
    assert seen == list(range(1, 9))
    for i in range(8):
        broker.publish("u", b"y" * 1000000)
    answer = broker.get("/v1/events?pattern=u")
    assert len(answer.json["events"]) == 4 and len(answer.body) <= 4 << 20


def test_another_epoch_is_a_gap_and_counts_from_the_first_retained(broker):
    fill(broker, 3)
    page = broker.get("/v1/events?pattern=%23&starting_seq=3&epoch=00000000-0000-4000-8000-000000000000").json
    assert page["gap"]["reason"] == "epoch" and page["gap"]["from_seq"] == 0 and page["gap"]["to_seq"] == 0
    assert page["gap"]["pattern"] == "#" and page["gap"]["epoch"] == page["epoch"]
    assert [e["seq"] for e in page["events"]] == [1, 2, 3]
    page = broker.get(f"/v1/events?pattern=%23&starting_seq=3&epoch={page['epoch']}").json
    assert "gap" not in page and [e["seq"] for e in page["events"]] == [3]


def test_a_start_above_the_end_proves_another_history(broker):
    fill(broker, 3)
    assert "gap" not in broker.get("/v1/events?pattern=%23&starting_seq=4").json
    page = broker.get("/v1/events?pattern=%23&starting_seq=5").json
    assert page["gap"]["reason"] == "epoch" and [e["seq"] for e in page["events"]] == [1, 2, 3]


def test_absent_pattern_says_that_hash_must_be_escaped(broker):
    assert "%23" in problem(broker.get("/v1/events"), 400, "invalid_request")["detail"]
    assert "%23" in problem(broker.get("/v1/events?pattern="), 400, "invalid_pattern")["detail"]
    assert "%23" in problem(broker.get("/v1/stream"), 400, "invalid_request")["detail"]


@pytest.mark.parametrize("query, code", [
    ("limit=abc", "invalid_request"), ("limit=0", "invalid_request"), ("limit=1001", "invalid_request"), ("limit=", "invalid_request"),
    ("starting_seq=-1", "invalid_request"), ("starting_seq=1e3", "invalid_request"), ("starting_seq=99999999999999999999", "invalid_request"),
    ("pattern=a*", "invalid_pattern"), ("pattern=a..b", "invalid_pattern"), ("pattern=%zz", "invalid_request"), ("pattern=%00", "invalid_request"),
])  # fmt: skip
def test_bad_parameters_are_400(broker, query, code):
    problem(broker.get(f"/v1/events?pattern=%23&{query}"), 400, code)


def test_unknown_parameters_are_ignored(broker):
    assert broker.get("/v1/events?pattern=%23&future=1&x").status == 200


def test_plus_is_itself_in_a_query(broker):
    broker.publish("a+b", b"")
    assert len(broker.events("a+b")) == 1


def test_one_event(broker):
    broker.publish("a", b"hello")
    assert broker.get("/v1/events/1").json["payload"] == "hello"
    problem(broker.get("/v1/events/2"), 404, "not_found")
    for bad in ("0", "x", "-1", "1.0", "9007199254740992"):
        problem(broker.get(f"/v1/events/{bad}"), 400, "invalid_request")


def test_topics_are_paged_in_byte_order(broker):
    body = {"messages": [{"topic": f"t.{i:03}", "payload": ""} for i in range(250)]}
    broker.request("POST", "/v1/events", json.dumps(body), JSON)
    found, after = [], ""
    while True:
        page = broker.get(f"/v1/topics?limit=100&after={after}").json
        found += [t["topic"] for t in page["topics"]]
        after = page["next_after"]
        if after is None:
            break
    assert found == [f"t.{i:03}" for i in range(250)]


def test_subscriptions_and_connections_show_a_stream(broker):
    with Sse(broker.port, "pattern=a.*&pattern=b.%23"):
        rows = broker.get("/v1/subscriptions").json["subscriptions"]
        assert {r["pattern"] for r in rows} >= {"a.*"} and all(r["state"] == "live" for r in rows)
        connections = broker.get("/v1/connections").json["connections"]
        assert [c["transport"] for c in connections] == ["sse"]
        assert connections[0]["id"] == rows[0]["connection"] and connections[0]["peer"].startswith("127.0.0.1:")


def test_stats_has_what_the_contract_names(broker):
    fill(broker, 6)
    stats = broker.stats()
    for name in ("version", "epoch", "storage", "durability", "uptime_s", "first_seq", "last_seq", "events", "bytes", "wal_bytes", "topics",
                 "connections", "streams", "subscriptions", "lagging", "dedupe_ids", "dedupe_oldest_s", "limits"):  # fmt: skip
        assert name in stats, name
    assert stats["last_seq"] == 6 and stats["events"] == 6 and stats["topics"] == 3 and stats["dedupe_ids"] == 6
    assert stats["limits"]["max_payload"] == 1048576


def test_health(broker):
    for path in ("/healthz", "/livez", "/readyz"):
        assert broker.get(path).status == 200


def test_metrics_are_well_formed(broker):
    broker.publish("a", b"")
    answer = broker.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    typed, helped = {}, set()
    for line in answer.body.decode().splitlines():
        if line.startswith("# HELP "):
            helped.add(line.split()[2])
        elif line.startswith("# TYPE "):
            name, kind = line.split()[2:4]
            assert name not in typed, f"{name} is declared twice"
            typed[name] = kind
        else:
            match = re.fullmatch(r'([a-z_]+)(\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\})? (-?[0-9.e+]+)', line)
            assert match, line
            family = match[1] if match[1] in typed else re.sub("_(bucket|sum|count)$", "", match[1])
            assert family in typed and family in helped, line
            if typed[family] == "counter":
                assert family.endswith("_total")
    assert broker.metric("eventbus_messages_published_total") == 1
    assert broker.metric("eventbus_publish_duration_seconds_count") == 1


def test_histogram_buckets_rise_to_the_count(broker):
    for _ in range(5):
        broker.publish("a", b"")
    text = broker.get("/metrics").body.decode()
    counts = [int(m[1]) for m in re.finditer(r'eventbus_publish_duration_seconds_bucket\{.*\} (\d+)', text)]
    assert counts == sorted(counts) and counts[-1] == 5
