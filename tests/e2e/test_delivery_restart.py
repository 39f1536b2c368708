"""What a consumer remembers over kill -9, and what that costs: rows, bytes and time that do not grow with what is done."""
import json
import random
import sqlite3
import time

import pytest

from lib.broker import wait_for
from lib.consumer import Consumer, Worker, publish_many, seqs
from lib.procs import is_sanitized

JOBS = {"patterns": ["job.*"], "from": "all", "ack_wait": 600}


def crash(broker):
    broker.kill()
    broker.start()


def test_nothing_acknowledged_comes_again_after_a_kill(broker):
    """Acked in and out of order, in holes; the rest comes, each once more."""
    dice = random.Random(3)
    consumer = Consumer(broker, "c", **JOBS, max_inflight=1000)
    publish_many(broker, "job.a", 500)
    consumer.fetch_all(400)
    acked = set(dice.sample(range(1, 401), 250))
    for seq in sorted(acked, key=lambda _: dice.random()):
        assert consumer.ack(seq) == "ok"
    crash(broker)
    rest = consumer.fetch_all(250)
    assert sorted(seqs(rest)) == sorted(set(range(1, 501)) - acked)
    assert consumer.ack(*sorted(acked)) == ["ok"] * 250
    consumer.wait(inflight=250, pending=0)


def test_an_answered_ack_is_on_disk(broker):
    """The kill follows the answer at once, again and again."""
    consumer = Consumer(broker, "c", **JOBS)
    publish_many(broker, "job.a", 20)
    for seq in range(1, 11):
        assert seqs(consumer.fetch()) == [seq]
        assert consumer.ack(seq) == "ok"
        broker.kill()
        broker.start()
    assert consumer.view()["cursor"] == 10


def test_delivery_counts_survive_a_kill(broker):
    """Kept lazily: a delivery at most the last moment before may be forgotten, one that was answered may not."""
    consumer = Consumer(broker, "c", **JOBS)
    publish_many(broker, "job.a", 1)
    for number in (1, 2, 3):
        assert consumer.fetch()[0]["delivery"] == number
        assert consumer.nack(1, delay=0) == "ok"
    crash(broker)
    assert consumer.fetch()[0]["delivery"] == 4
    assert consumer.view()["redelivered"] == 3


def test_what_was_out_at_the_kill_comes_again_at_once_with_the_next_number(broker):
    consumer = Consumer(broker, "c", **JOBS)
    publish_many(broker, "job.a", 1)
    with Worker(broker, "c") as worker:
        worker.next()
        time.sleep(0.5)  # deliveries are kept lazily, a moment later; nothing shows when
        broker.kill()
    broker.start()
    begin = time.monotonic()
    [event] = consumer.fetch()
    assert (event["seq"], event["delivery"]) == (1, 2)
    assert time.monotonic() - begin < 5


def test_max_deliver_holds_over_kills(broker):
    """A poisonous event that kills the broker each time ends as a dead letter, too."""
    consumer = Consumer(broker, "c", **JOBS, max_deliver=3)
    publish_many(broker, "job.a", 1)
    for _ in range(20):
        if consumer.view()["dead"]:
            break
        if consumer.fetch(wait=0.2):
            time.sleep(0.4)
        crash(broker)
    assert consumer.wait(dead=1)["cursor"] >= 1
    assert len(broker.events("$dead.c")) == 1


def test_a_delay_and_a_backoff_go_on_over_a_restart(broker):
    """Neither at once nor from the start: what has passed counts."""
    consumer = Consumer(broker, "c", **JOBS)
    publish_many(broker, "job.a", 2)
    consumer.fetch_all(2)
    consumer.nack(1, delay=2)
    consumer.nack(2, delay=600)
    begin = time.time()
    crash(broker)
    assert consumer.fetch(wait=0.2) == []
    assert seqs(consumer.fetch()) == [1]
    assert 1.9 < time.time() - begin < 10
    consumer.wait(pending=1, inflight=1)


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_settings_and_counts_survive(broker, how):
    consumer = Consumer(broker, "c", **{**JOBS, "ack_wait": 7}, max_deliver=4, backoff=[1, 2.5], max_inflight=9, order="header:key", order_window=77, dead_letter=False)
    Consumer(broker, "d", patterns=["x", "y.#"])
    publish_many(broker, "job.a", 3)
    consumer.fetch_all(3)
    consumer.nack(1, delay=0)
    consumer.fetch()
    consumer.term(2)
    before = consumer.wait(dead=1, redelivered=1, inflight=2)
    crash(broker) if how == "kill" else broker.restart()
    after = consumer.wait(pending=2)
    for name in ("patterns", "from", "ack_wait", "max_deliver", "backoff", "max_inflight", "order", "order_window", "dead_letter", "dead", "cursor", "lost"):
        assert after[name] == before[name], name
    assert [c["name"] for c in broker.get("/v1/consumers").json["consumers"]] == ["c", "d"]


def test_a_deleted_consumer_does_not_come_back(broker):
    consumer = Consumer(broker, "c", **JOBS)
    publish_many(broker, "job.a", 3)
    consumer.fetch_all(2)
    consumer.delete()
    crash(broker)
    assert broker.get("/v1/consumers").json["consumers"] == []
    assert seqs(Consumer(broker, "c", **JOBS).fetch_all(3)) == [1, 2, 3]


def test_a_seek_holds_over_a_kill(broker):
    consumer = Consumer(broker, "c", **JOBS)
    publish_many(broker, "job.a", 10)
    consumer.ack(*seqs(consumer.fetch_all(10)))
    consumer.seek(seq=4)
    crash(broker)
    assert [(e["seq"], e["delivery"]) for e in consumer.fetch_all(7)] == [(n, 1) for n in range(4, 11)]


def test_from_new_stays_where_it_was_made(broker):
    """What came while the broker or the workers were away is not skipped."""
    publish_many(broker, "job.a", 3)
    consumer = Consumer(broker, "c", patterns=["job.*"])
    crash(broker)
    publish_many(broker, "job.a", 2)
    crash(broker)
    assert seqs(consumer.fetch_all(2)) == [4, 5]


def test_order_by_key_holds_over_kills(broker):
    """What is open of a key is found again in seq order, with what was handled left out."""
    consumer = Consumer(broker, "c", **JOBS, order="header:key")
    publish_many(broker, "job.a", 60, headers=lambda i: {"key": f"k{i % 3}"})
    dice, done = random.Random(5), []
    for turn in range(6):
        for _ in range(dice.randint(3, 9)):
            events = consumer.fetch(max=3)
            chosen = dice.choice(events)
            consumer.ack(chosen["seq"])
            done.append(chosen["seq"])
            for event in events:
                if event is not chosen:
                    consumer.nack(event["seq"], delay=0)
        crash(broker)
        consumer.wait(inflight=0)
    while len(done) < 60:
        for event in consumer.fetch(max=3):
            consumer.ack(event["seq"])
            done.append(event["seq"])
    for key in range(3):
        of_key = [seq for seq in done if (seq - 1) % 3 == key]
        assert of_key == sorted(of_key) and len(of_key) == 20


def test_with_storage_memory_consumers_work_and_end_with_the_broker(start_broker):
    broker = start_broker("--storage", "memory", db=None)
    consumer = Consumer(broker, "c", **JOBS, max_deliver=2)
    publish_many(broker, "job.a", 3)
    consumer.fetch_all(3)
    assert consumer.ack(1) == "ok"
    consumer.nack(2)
    assert consumer.fetch()[0]["delivery"] == 2
    consumer.nack(2)
    consumer.wait(dead=1)
    assert [e["payload"] for e in broker.events("$dead.c")] == ["1"]
    consumer.redrive()
    assert consumer.fetch()[0]["payload"] == "1"
    broker.restart()
    assert broker.get("/v1/consumers").json["consumers"] == []


# ---- what it costs ----


def state_bytes(db):
    """Payload of all rows that are not the log's own: which tables hold consumers is for the file to say."""
    with sqlite3.connect(f"file:{db}?mode=ro", uri=True) as file:
        tables = [name for (name,) in file.execute("SELECT name FROM sqlite_schema WHERE type = 'table' AND name LIKE 'consumer%'")]
        assert tables, "no table of consumers"
        total = 0
        for table in tables:
            columns = [row[1] for row in file.execute(f"PRAGMA table_info({table})")]
            sizes = " + ".join(f"coalesce(length(cast({column} AS BLOB)), 0)" for column in columns)
            total += file.execute(f"SELECT coalesce(sum({sizes}), 0) FROM {table}").fetchone()[0]
        return total


def one_open_behind(start_broker, count):
    """(broker, consumer, bytes of its rows before and after) with one event open and count acknowledged behind it."""
    broker = start_broker()
    consumer = Consumer(broker, "c", **JOBS, max_inflight=1000)
    publish_many(broker, "job.a", 1)
    with Worker(broker, "c") as holder:
        assert holder.next()["seq"] == 1
        holder.ws.send({"type": "nack", "consumer": "c", "seq": 1, "delay": 3600})
        consumer.wait(inflight=0, pending=1)
    before = state_bytes(broker.db)
    left = count
    body = json.dumps({"messages": [{"topic": "job.a", "payload": "x"}] * 10000})
    with Worker(broker, "c") as worker:
        while left > 0:
            assert broker.request("POST", "/v1/events", body, {"Content-Type": "application/json"}).status == 201
            for _ in range(19):
                worker.ws.send({"type": "ack", "consumer": "c", "seqs": seqs(worker.take(500))})
            assert set(worker.ack(*seqs(worker.take(500)))) == {"ok"}  # answered: all of them are on disk
            left -= 10000
    consumer.wait(inflight=0, pending=1)
    return broker, consumer, before, state_bytes(broker.db)


def start_seconds(broker, times=5):
    took = []
    for _ in range(times):
        broker.stop()
        begin = time.monotonic()
        broker.start()
        took.append(time.monotonic() - begin)
    return min(took)


def held_against_a_broker_without(start_broker, count):
    broker, consumer, before, after = one_open_behind(start_broker, count)
    assert after - before < 1024, (before, after)
    broker.kill()
    broker.start()
    assert consumer.wait(pending=1)["cursor"] == 0
    assert consumer.ack(1) == "ok"
    assert consumer.wait(pending=0)["cursor"] == count + 1
    consumer.seek(seq=1)
    [event] = consumer.fetch()
    consumer.nack(event["seq"], delay=3600)
    consumer.seek(seq=count + 1)
    consumer.ack(*seqs(consumer.fetch()))
    return broker, consumer, after - before


def test_one_open_event_with_20000_acknowledged_behind_it_costs_under_1_kib(start_broker):
    held_against_a_broker_without(start_broker, 20000)


@pytest.mark.long
def test_one_open_event_with_a_million_acknowledged_behind_it_costs_under_1_kib_and_100_ms(start_broker):
    """The restart is compared with that of the same file when the consumer has gone."""
    broker, consumer, before, after = one_open_behind(start_broker, 1_000_000)
    with_it = start_seconds(broker)
    assert consumer.wait(pending=1)["cursor"] == 0
    consumer.delete()
    without = start_seconds(broker)
    print(f"1,000,000 acknowledged behind one open: {after - before} bytes more, start {with_it * 1e3:.0f} ms, without {without * 1e3:.0f} ms")
    assert after - before < 1024, (before, after)
    assert is_sanitized(broker) or with_it - without < 0.1, (with_it, without)


def test_many_consumers_cost_little_at_the_start(start_broker):
    broker = start_broker()
    for n in range(200):
        Consumer(broker, f"c{n}", patterns=[f"t{n}.*"])
    broker.kill()
    broker.start()
    shown = broker.get("/v1/consumers?limit=1000").json["consumers"]
    assert len(shown) == 200
    broker.publish("t77.x", b"1")
    assert seqs(Consumer(broker, "c77", make=False).fetch()) == [1]


def test_the_deliveries_of_an_answered_fetch_are_known_after_a_kill(broker):
    """A fetch is answered behind the commit that holds its deliveries: killed at once, an ack of one of them is `ok`."""
    consumer = Consumer(broker, "c", patterns=["job.*"], **{"from": "all"})
    for round in range(10):
        seqs = publish_many(broker, "job.a", 3)
        given = [(e["seq"], e["delivery"]) for e in consumer.fetch(max=3, wait=5)]
        broker.kill()
        assert given == [(seq, 1) for seq in seqs]
        broker.start()
        assert consumer.ack(seqs[0]) == "ok"
        assert [(e["seq"], e["delivery"]) for e in consumer.fetch(max=3, wait=5)] == [(seq, 2) for seq in seqs[1:]]
        assert consumer.judge("ack", *seqs[1:]).json["results"] == [{"seq": seq, "result": "ok"} for seq in seqs[1:]]
