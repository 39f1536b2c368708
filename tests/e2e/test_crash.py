"""kill -9 under load, with an outside ledger: what was acknowledged is there, once, in order, and batches are whole.

Process death only: what the kernel was given survives it, so this says nothing of a power cut (tests/fault does).
"""
import random
import time
import uuid

import pytest

from lib.broker import wait_for
from lib.ledger import Entry, Publisher, Subscriber, check_publishers, check_subscriber
from lib.swarm import matches
from lib.ws import WebSocket

KINDS = ["http", "ws", "bin_batch", "bin", "http_batch", "ws_batch", "http", "bin", "http_batch", "ws_batch"]


def crash_rounds(start_broker, rounds, *options):
    """10 publishers (the last 3 never retry) and 5 resuming subscribers through `rounds` kills."""
    broker = start_broker("--min-free", "1M", *options)
    broker.listen = f"127.0.0.1:{broker.port}"
    publishers = [Publisher(n, kind, broker.port, retry=n < 7) for n, kind in enumerate(KINDS)]
    subscribers = [Subscriber(broker.port, pattern, transport) for pattern, transport in [("#", "ws"), ("#", "bin"), ("#", "sse"), ("crash.*.batch", "ws"), ("crash.*", "sse")]]
    when = random.Random(rounds)
    for thread in publishers + subscribers:
        thread.start()
    for turn in range(rounds):
        wait_for(lambda: all(s.failure or s.sessions > turn for s in subscribers), what="subscribers to come back")
        acked, more = sum(p.acked for p in publishers), when.randint(100, 1500)
        wait_for(lambda: failed(publishers) or sum(p.acked for p in publishers) >= acked + more, what=f"{more} acks")
        assert not failed(publishers), failed(publishers)
        broker.kill()
        broker.start()
    for publisher in publishers:
        publisher.stop_asked = True
    for publisher in publishers:
        publisher.join(60)
        assert not publisher.is_alive(), publisher.name
    log = broker.events()
    check_publishers(publishers, log)
    retried = sum(e.attempts > 1 for p in publishers for e in p.entries)
    assert retried, "no publish was ever sent again: the kills came at the wrong times"
    for subscriber in subscribers:
        matching = [e["seq"] for e in log if matches(subscriber.pattern, e["topic"])]
        try:
            wait_for(lambda: subscriber.failure or subscriber.last >= matching[-1], timeout=30)
        except TimeoutError:
            pass
        subscriber.stop()
        subscriber.join(30)
        check_subscriber(subscriber, log, matching)
        assert subscriber.sessions > rounds, (subscriber.name, subscriber.sessions)
    print(f"{len(log)} events, {retried} sent again, sessions {[s.sessions for s in subscribers]}")
    assert [e["metadata"]["timestamp"] for e in log] == sorted(e["metadata"]["timestamp"] for e in log)
    return broker, log


@pytest.mark.parametrize("harm", ["lost", "half a batch", "twice", "moved", "changed", "stranger"])
def test_the_ledger_sees_each_broken_promise(harm):
    """Trust no gate before seeing it fail: a log with one thing wrong is not let through."""
    publisher = Publisher(0, "http_batch", 0)
    log = []
    for seqs in ([1, 2, 3], [4], [5, 6]):
        group = [Entry("crash.0.batch", str(seq), (0, seqs[0])) for seq in seqs]
        publisher.entries += group
        for entry, seq in zip(group, seqs):
            entry.attempts = 1
            log.append({"seq": seq, "message_id": entry.id, "topic": entry.topic, "payload": entry.payload})
        if seqs != [5, 6]:
            publisher.answered(group, [{"seq": seq, "message_id": entry.id, "duplicate": False} for entry, seq in zip(group, seqs)])
    check_publishers([publisher], log)
    check_publishers([publisher], log[:4])
    if harm == "lost":
        del log[3]
    elif harm == "half a batch":
        del log[5]
    elif harm == "twice":
        log.append({**log[0], "seq": 7})
    elif harm == "moved":
        log[3]["seq"] = 9
    elif harm == "changed":
        log[4]["payload"] = "other"
    else:
        log.append({"seq": 7, "message_id": "x", "topic": "crash.9", "payload": ""})
    with pytest.raises(AssertionError):
        check_publishers([publisher], log)


def failed(publishers):
    return [p.failure for p in publishers if p.failure]


def test_nothing_acked_is_lost_through_kills_under_load(start_broker):
    """The default durability; resuming subscribers see no gap and no repeat."""
    broker, log = crash_rounds(start_broker, 4)
    assert broker.stats()["last_seq"] >= log[-1]["seq"]


def test_the_same_with_durability_os(start_broker):
    """Without fsync an ack still outlives the broker's process; the epoch stays, for the machine did not restart."""
    crash_rounds(start_broker, 2, "--durability", "os")


@pytest.mark.long
@pytest.mark.parametrize("durability", ["fsync", "os"])
def test_nothing_acked_is_lost_through_25_kills(start_broker, durability):
    crash_rounds(start_broker, 25, "--durability", durability)


def test_small_queues_lag_and_resume_through_kills(start_broker):
    """Subscribers that are fed from the log when the kill comes resume as well as live ones."""
    crash_rounds(start_broker, 2, "--channel-capacity", "8", "--channel-bytes", "4K", "--readers", "1")


def test_the_last_seq_outlives_its_event_and_a_kill(start_broker):
    """The newest event expires and is deleted; neither a kill nor a stop makes the broker give its seq again."""
    broker = start_broker()
    first = broker.publish("keep", b"x")["seq"]
    gone = broker.publish("gone", b"x", Event_TTL="1")["seq"]
    wait_for(lambda: broker.get(f"/v1/events/{gone}").status == 404 and broker.stats()["events"] == 1, what="deletion of the newest")
    broker.kill()
    broker.start()
    assert broker.stats()["last_seq"] == gone
    second = broker.publish("keep", b"y")["seq"]
    assert (first, gone, second) == (1, 2, 3)
    gone = broker.publish("gone", b"x", Event_TTL="1")["seq"]
    wait_for(lambda: broker.stats()["events"] == 2, what="deletion of the newest")
    broker.restart()
    assert broker.stats()["last_seq"] == gone
    assert broker.publish("keep", b"z")["seq"] == gone + 1


def test_a_kill_in_the_midst_of_a_huge_batch_leaves_it_whole_or_absent(start_broker):
    """One batch takes long enough to be read, written and committed that kills fall into each part of it."""
    broker = start_broker("--max-batch", "20000")
    broker.listen = f"127.0.0.1:{broker.port}"
    size, took, outcomes = 4000, 0.0, []
    for n, part in enumerate([None, 0.5, 0.8, 0.95, 1.1]):
        batch = [{"topic": f"huge.{n}", "payload": str(i) + "y" * 100, "message_id": str(uuid.uuid4())} for i in range(size)]
        before = broker.stats()["last_seq"]
        whole = list(range(before + 1, before + 1 + size))
        with WebSocket(broker.port) as ws:
            start = time.monotonic()
            ws.send({"type": "publish_batch", "id": 1, "messages": batch})
            if part is None:
                ws.next()
                took = time.monotonic() - start
            else:
                time.sleep(max(0, took * part - (time.monotonic() - start)))
            broker.kill()
        broker.start()
        stored = [e["seq"] for e in broker.events(f"huge.{n}")]
        outcomes.append(len(stored))
        assert stored in ([], whole), (len(stored), stored[:3], before)
        with WebSocket(broker.port) as ws:
            results = ws.call(type="publish_batch", messages=batch)["results"]
        assert [r["seq"] for r in results] == whole
        assert {r["duplicate"] for r in results} == {bool(stored)}
    assert outcomes[0] == size
    print(f"a batch takes {took:.3f} s; stored at the kill: {outcomes}")
