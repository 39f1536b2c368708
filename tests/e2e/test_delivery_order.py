"""Order by key: never two of one key out at once, never out of seq order, whatever the workers do; the window."""
import random
import threading

import pytest

from lib.broker import wait_for
from lib.consumer import Consumer, Worker, publish_many, seqs

ORDERED = {"patterns": ["job.#"], "from": "all", "ack_wait": 600}


def by_header(n, keys):
    return lambda i: {"key": f"k{i % keys}"}


def test_of_one_topic_only_the_oldest_is_out(broker):
    consumer = Consumer(broker, "c", **ORDERED, order="topic")
    for n in range(3):
        for topic in ("job.a", "job.b"):
            broker.publish(topic, str(n).encode())
    consumer.wait(pending=6)
    assert sorted(e["topic"] for e in consumer.fetch(max=10)) == ["job.a", "job.b"]
    assert consumer.fetch(max=10, wait=0) == []
    assert consumer.ack(1) == "ok"
    assert seqs(consumer.fetch(max=10)) == [3]


def test_of_one_header_value_only_the_oldest_is_out_and_header_names_have_no_case(broker):
    consumer = Consumer(broker, "c", **ORDERED, order="header:Key")
    publish_many(broker, "job.a", 6, headers=by_header(6, 2))
    consumer.wait(pending=6)
    assert seqs(consumer.fetch(max=10)) == [1, 2]
    consumer.ack(2)
    assert seqs(consumer.fetch(max=10)) == [4]
    consumer.ack(1)
    assert seqs(consumer.fetch(max=10)) == [3]


def test_without_the_header_there_is_no_order(broker):
    consumer = Consumer(broker, "c", **ORDERED, order="header:key")
    publish_many(broker, "job.a", 5)
    consumer.wait(pending=5)
    assert seqs(consumer.fetch(max=10)) == [1, 2, 3, 4, 5]


def test_an_empty_value_is_a_key_like_any_other(broker):
    consumer = Consumer(broker, "c", **ORDERED, order="header:key")
    publish_many(broker, "job.a", 3, headers=lambda i: {"key": ""})
    consumer.wait(pending=3)
    assert seqs(consumer.fetch(max=10)) == [1]


@pytest.mark.parametrize("how", ["nacked", "delayed", "timed out"])
def test_what_waits_for_its_redelivery_blocks_its_key_only(broker, how):
    consumer = Consumer(broker, "c", **{**ORDERED, "ack_wait": 0.3 if how == "timed out" else 600}, order="header:key", backoff=[600])
    publish_many(broker, "job.a", 4, headers=by_header(4, 2))
    consumer.wait(pending=4)
    assert seqs(consumer.fetch(max=1)) == [1]
    if how == "nacked":
        consumer.nack(1)
    elif how == "delayed":
        consumer.nack(1, delay=500)
    consumer.wait(inflight=0)
    assert seqs(consumer.fetch(max=10)) == [2]
    consumer.ack(2)
    assert seqs(consumer.fetch(max=10)) == [4]
    assert consumer.ack(1) == "ok"
    assert seqs(consumer.fetch(max=10)) == [3]


@pytest.mark.parametrize("how", ["ack", "term", "dead letter"])
def test_ack_term_and_dead_letter_free_the_key(broker, how):
    consumer = Consumer(broker, "c", **ORDERED, order="topic", max_deliver=1)
    publish_many(broker, "job.a", 2)
    consumer.fetch()
    {"ack": consumer.ack, "term": consumer.term, "dead letter": consumer.nack}[how](1)
    assert seqs(consumer.fetch(max=10)) == [2]
    assert consumer.wait(inflight=1)["dead"] == (0 if how == "ack" else 1)


def test_a_delayed_event_comes_before_the_later_ones_of_its_key(broker):
    consumer = Consumer(broker, "c", **ORDERED, order="topic")
    publish_many(broker, "job.a", 3)
    order = []
    for n in range(5):
        event = consumer.fetch()[0]
        order.append((event["seq"], event["delivery"]))
        if n in (0, 2):
            consumer.nack(event["seq"], delay=0.1)
        else:
            consumer.ack(event["seq"])
    assert order == [(1, 1), (1, 2), (2, 1), (2, 2), (3, 1)]


def test_a_vanished_workers_key_goes_on_with_its_oldest(broker):
    consumer = Consumer(broker, "c", **ORDERED, order="topic")
    publish_many(broker, "job.a", 3)
    with Worker(broker, "c") as worker:
        assert worker.next()["seq"] == 1
    event = consumer.fetch()[0]
    assert (event["seq"], event["delivery"]) == (1, 2)


def test_beyond_the_order_window_it_waits_and_its_state_shows_it(broker):
    """One blocked key: so many past the first open event are looked at, no more; then all goes on."""
    consumer = Consumer(broker, "c", **ORDERED, order="header:key", order_window=50, max_inflight=1000)
    publish_many(broker, "job.a", 1, headers=lambda i: {"key": "stuck"})
    publish_many(broker, "job.a", 200, headers=lambda i: {"key": f"free{i}"})
    assert seqs(consumer.fetch(max=1)) == [1]
    got = []
    while len(got) < 50:
        got += seqs(consumer.fetch(max=1000, wait=2)) or pytest.fail(f"only {got}")
        consumer.ack(*got)
    assert got[-1] <= 52
    view = wait_for(lambda: (v := consumer.view()) and "window_full" in str(v) and v)
    assert view["inflight"] == 1, view
    assert consumer.fetch(max=1000, wait=0) == []
    consumer.ack(1)
    more = []
    while len(got) + len(more) < 200:
        batch = seqs(consumer.fetch(max=1000))
        consumer.ack(*batch)
        more += batch
    assert sorted(got + more) == list(range(2, 202))
    consumer.wait(cursor=201)


def test_a_long_queue_behind_one_key_costs_no_more_than_the_window(broker):
    """20,000 behind a key that is stuck: others that lie within the window are served, memory has its bound."""
    consumer = Consumer(broker, "c", **ORDERED, order="topic", order_window=1000)
    publish_many(broker, "job.stuck", 1)
    assert seqs(consumer.fetch()) == [1]
    for _ in range(2):
        publish_many(broker, "job.stuck", 10000)
    publish_many(broker, "job.free", 1)
    view = wait_for(lambda: (v := consumer.view()) and "window_full" in str(v) and v)
    assert view["pending"] <= 1001, view
    handled = 0
    while handled < 20001:
        handled += 1
        consumer.ack(handled)
        if handled == 300:
            break
        assert consumer.fetch(max=10)[0]["seq"] == handled + 1
    consumer.seek(seq=20002)
    assert consumer.fetch()[0]["topic"] == "job.free"


@pytest.mark.parametrize("seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 12))])
def test_order_by_key_holds_while_workers_come_go_and_fail(broker, seed):
    """Six threads of random workers; each delivery is judged against what of its key was out and handled before."""
    count, keys = 300, 7
    Consumer(broker, "c", **ORDERED, order="header:key", max_inflight=50)
    publish_many(broker, "job.a", count, headers=by_header(count, keys))
    lock, done, faults = threading.Lock(), set(), []
    out = {}  # key -> seq that some worker believes to have

    def began(event):
        key = event["metadata"]["headers"]["key"]
        with lock:
            earlier = [s for s in range((event["seq"] - 1) % keys + 1, event["seq"], keys) if s not in done]
            if earlier:
                faults.append((event["seq"], "before", earlier[0]))
            if out.get(key, event["seq"]) != event["seq"]:
                faults.append((event["seq"], "beside", out[key]))
            out[key] = event["seq"]
        return key

    def work(number):
        dice = random.Random(seed * 100 + number)
        while len(done) < count and not faults:
            with Worker(broker, "c", max_inflight=dice.randint(1, 8)) as worker:
                worker.ws.sock.settimeout(0.2)
                try:
                    for _ in range(dice.randint(1, 30)):
                        event = worker.next()
                        key = began(event)
                        what = dice.random()
                        if what < 0.75:
                            with lock:  # what was acknowledged may be followed at once by the next of its key
                                done.add(event["seq"])
                                out.pop(key, None)
                            worker.ack(event["seq"])
                        elif what < 0.9:
                            worker.nack(event["seq"], delay=dice.choice([0, 0.02]))
                except TimeoutError:
                    pass  # others have all there is

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not faults, faults[:5]
    assert len(done) == count
    Consumer(broker, "c", make=False).wait(cursor=count, pending=0, inflight=0)
