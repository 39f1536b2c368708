"""The seam between replay and live, and between lagging and live, under load: every event in order, exactly once."""
import random
import time

import pytest

from lib.broker import wait_for
from lib.load import Load
from lib.swarm import SseFeed, Swarm, WsFeed, assert_same, check_sse, check_ws, matches
from lib.ws import WebSocket
from lib.ws_bin import BinaryWsFeed

TOPICS = ["seam.a.x", "seam.a.y", "seam.b.x", "seam.b.y.z", "other.a", "seam"]
PATTERNS = ["seam.a.*", "seam.#", "*.a.x", "#", "seam.b.#", "other.*", "#.x", "seam"]


@pytest.fixture
def loads():
    running = []

    def start(port, **options):
        running.append(Load(port, **options))
        return running[-1]

    yield start
    for load in running:
        load.kill()


def whole_log(broker):
    return [(event["seq"], event["topic"]) for event in broker.events()]


def settle(feeds, log):
    """Wait until each feed has all it is owed, or nothing comes any more; the check judges who lacks some."""
    newest = {pattern: max((seq for seq, topic in log if matches(pattern, topic)), default=0) for pattern in PATTERNS}
    behind, count, since = feeds, -1, time.monotonic()
    while time.monotonic() - since < 20:  # without a single event more: slow readers are not stuck ones
        behind = [feed for feed in behind if feed.closed is None and not is_whole(feed, newest)]
        if not behind:
            return
        if (now := sum(feed.count for feed in feeds)) != count:
            count, since = now, time.monotonic()
        time.sleep(0.05)


def is_whole(feed, newest):
    """Has the end of each of its streams come? newest: the last seq that matches, by pattern. One stream's end says
    nothing of another's: a replay may have begun when the connection's shared stream is over."""
    if isinstance(feed, SseFeed):
        return feed.last >= max(newest[p] for p in feed.patterns) and (feed.start is None or bool(feed.live_at))
    live_at = dict(feed.live_at)
    for pattern, start, id in feed.subs:
        if start is None and (answer := feed.answer(id)):
            live_at[pattern] = answer["last_seq"]
    owed = max((newest[pattern] for pattern, at in live_at.items() if newest[pattern] > at), default=0)
    return len(live_at) == len(feed.subs) and feed.last_shared >= owed


def quote(pattern):
    return pattern.replace("#", "%23")


def join_at_random(broker, swarm, rand, last, n):
    """One subscriber more: WebSocket (JSON and binary in turn) with one to three overlapping patterns, or SSE."""
    patterns = rand.sample(PATTERNS, rand.choice([1, 1, 2, 3]))
    if n % 2:
        start = rand.choice([None, 0, 1, rand.randint(1, last), last, last + 1])
        query = "&".join(f"pattern={quote(p)}" for p in patterns) + (f"&starting_seq={start}" if start is not None else "")
        feed = SseFeed(broker.port, query, name=f"sse-{n}")
        feed.patterns, feed.start = patterns, start
        return swarm.add(feed)
    feed = swarm.add(BinaryWsFeed(broker.port, name=f"bin-{n}") if n % 4 else WsFeed(broker.port, name=f"ws-{n}"))
    feed.patterns = patterns
    for pattern in patterns:
        feed.subscribe(pattern, rand.choice([None, 0, 1, rand.randint(1, last), last, last + 1]))
    return feed


def seam_under_load(start_broker, loads, joiners, *options, before=1500, slow=False, seed=1, rate=1200):
    broker = start_broker(*options)
    rand = random.Random(seed)
    loads(broker.port, count=before, topics=TOPICS, size=40).wait()
    with Swarm() as swarm:
        publishers = [loads(broker.port, topics=TOPICS[i:] + TOPICS[:i], size=size, window=64, rate=rate) for i, size in [(0, 20), (2, 200)]]
        for n in range(joiners):
            # the last seq moves on meanwhile: the places it names are in what is replayed and in what is live
            last = int(broker.metric("eventbus_log_last_seq"))
            feed = join_at_random(broker, swarm, rand, last, n)
            if slow:
                for other in rand.sample(swarm.feeds, min(4, len(swarm.feeds))):
                    (swarm.resume if other.paused else swarm.pause)(other)
        wait_for(lambda: all(feed.count or feed.paused for feed in swarm.feeds), timeout=30, what="first events")
        acked = sum(load.stop().wait() for load in publishers)
        for feed in swarm.feeds:
            swarm.resume(feed)
        log = whole_log(broker)
        assert len(log) == before + acked
        settle(swarm.feeds, log)
        swarm.check()
        for feed in swarm.feeds:
            assert feed.closed is None, feed
            if isinstance(feed, SseFeed):
                check_sse(feed, log, feed.patterns, feed.start)
            else:
                check_ws(feed, log)
        print(f"{acked} events while {joiners} joined; lagged {broker.metric('eventbus_sessions_lagged_total'):.0f} times")
        return broker


def test_60_subscribers_join_while_publishers_run_flat_out(start_broker, loads):
    """Replays from random places join live without a gap and without a repeat; `live` is said once for each."""
    seam_under_load(start_broker, loads, 60)


def test_30_subscribers_join_a_log_in_memory(start_broker, loads):
    """The ring obeys the same rules as long as it forgets nothing."""
    seam_under_load(start_broker, loads, 30, "--storage", "memory", "--memory-bytes", "512M", seed=2)


def test_slow_readers_lag_and_catch_up_and_lose_nothing(start_broker, loads):
    """Small queues, readers that stop and go: the way between live and lagging is taken again and again."""
    broker = seam_under_load(start_broker, loads, 24, "--channel-capacity", "16", "--channel-bytes", "4K", "--readers", "2", slow=True, seed=3)
    assert broker.metric("eventbus_sessions_lagged_total") > 24


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 16))
def test_the_seam_again_and_again(start_broker, loads, seed):
    options = random.Random(seed).choice([(), ("--channel-capacity", "4"), ("--channel-bytes", "4K", "--readers", "1"), ("--durability", "os")])
    seam_under_load(start_broker, loads, 60, *options, before=20000, slow=seed % 2, seed=seed, rate=random.Random(seed).choice([3000, None]))


@pytest.mark.parametrize("feeds", [WsFeed, BinaryWsFeed])
def test_unsubscribe_and_resubscribe_under_load(start_broker, loads, feeds):
    """After `ok` to unsubscribe nothing more comes; one that begins again behind its last seq misses nothing; the
    connection's other subscription is not disturbed by either."""
    broker = start_broker("--channel-capacity", "64")
    with Swarm() as swarm:
        comes_and_goes = swarm.add(feeds(broker.port, "comes and goes"))
        both = swarm.add(feeds(broker.port, "one stays"))
        both.subscribe("seam.a.x")
        publisher = loads(broker.port, topics=TOPICS, size=60, window=64, rate=4000)
        got, last = [], 0
        for n in range(40):
            feed, at = comes_and_goes, len(comes_and_goes.messages)
            feed.send(type="subscribe", id=f"on{n}", pattern="seam.#", starting_seq=last + 1)
            both.send(type="subscribe", id=f"on{n}", pattern="seam.#", starting_seq=max(1, last))
            count = feed.count
            wait_for(lambda: feed.count > count + 20 + 10 * (n % 7), what="events after a new subscription")
            feed.send(type="unsubscribe", id=f"off{n}", pattern="seam.#")
            both.send(type="unsubscribe", id=f"off{n}", pattern="seam.#")
            wait_for(lambda: feed.answer(f"off{n}"), what="answer to unsubscribe")
            taken = feed.messages[at:]
            ok = next(i for i, m in enumerate(taken) if m.get("id") == f"on{n}")
            off = next(i for i, m in enumerate(taken) if m.get("id") == f"off{n}")
            events = [m["seq"] for m in taken if m["type"] == "event"]
            assert taken[off]["type"] == "ok" and ok == 0, taken[:1]
            got += events
            last = events[-1]
        acked = publisher.stop().wait()
        # all that was sent for it must have come by the answer of a later request
        comes_and_goes.send(type="ping", id="end")
        wait_for(lambda: any(m["type"] == "pong" for m in comes_and_goes.messages), what="pong")
        final = [m for m in comes_and_goes.messages if m["type"] == "event"]
        assert len(final) == len(got), "events came after the answer to unsubscribe"
        log = whole_log(broker)
        assert len(log) == acked
        assert_same(got, [seq for seq, topic in log if matches("seam.#", topic) and seq <= last], "comes and goes")
        staying = {seq for seq, topic in log if topic == "seam.a.x"}
        wait_for(lambda: both.last >= max(staying), what="the end of the stream")
        shared = both.events(None)
        assert shared == sorted(set(shared)), "the shared stream is not in order, or repeats"
        first = both.answer("s0")["last_seq"]
        assert {seq for seq in staying if seq > first} <= set(shared), "what the staying subscription was owed is missing"
        assert all(matches("seam.#", dict(log)[seq]) for seq in shared[:2000])


def test_the_same_pattern_afresh_under_load_starts_in_one_step(start_broker, loads):
    """Subscribing again with starting_seq: old deliveries end before the answer, the new replay is whole."""
    broker = start_broker()
    loads(broker.port, count=2000, topics=TOPICS, size=40).wait()
    with Swarm() as swarm:
        feed = swarm.add(WsFeed(broker.port, "afresh"))
        feed.send(type="subscribe", id="r0", pattern="seam.#", starting_seq=1)
        publisher = loads(broker.port, topics=TOPICS, size=40, window=32, rate=4000)
        for n in range(1, 25):
            wait_for(lambda: feed.answer(f"r{n - 1}") and feed.count > n * 50, what="events")
            feed.send(type="subscribe", id=f"r{n}", pattern="seam.#", starting_seq=1 + 70 * n)
        wait_for(lambda: feed.answer("r24"))
        publisher.stop().wait()
        log = [seq for seq, topic in whole_log(broker) if matches("seam.#", topic)]
        wait_for(lambda: newest(feed) == log[-1] and len(feed.of_type("ok")) == 25, what="the end of the stream")
        at = [i for i, m in enumerate(feed.messages) if m["type"] == "ok"]
        for n, (start, end) in enumerate(zip(at, at[1:] + [len(feed.messages)])):
            part = [m["seq"] for m in feed.messages[start:end] if m["type"] == "event"]
            wanted = [seq for seq in log if seq >= max(1, 1 if n == 0 else 1 + 70 * n)]
            assert_same(part, wanted[: len(part)], f"start {n}")
        assert part[-1] == log[-1]


def newest(feed):
    """The seq of the event delivered last, which after a fresh start is not the highest."""
    return next((m["seq"] for m in reversed(feed.messages) if m["type"] == "event"), 0)


def test_overflow_gaps_of_a_log_in_memory_account_for_all_that_is_missing(start_broker, loads):
    """A ring far smaller than what passes: what a stopped reader misses is said, exactly and before what follows."""
    broker = start_broker("--storage", "memory", "--memory-bytes", "1M", "--channel-capacity", "64", "--channel-bytes", "32K", db=None)
    with Swarm() as swarm:
        feeds = [swarm.add(WsFeed(broker.port, f"ws-{i}", rcvbuf=4096)) for i in range(3)]
        for feed in feeds:
            feed.subscribe("seam.a.*")
        feeds += [swarm.add(SseFeed(broker.port, "pattern=seam.a.*", f"sse-{i}", rcvbuf=4096)) for i in range(3)]
        wait_for(lambda: all(f.open if isinstance(f, SseFeed) else f.answer("s0") for f in feeds))
        sent = 0
        for turn in range(3):
            for feed in feeds:
                if feed is not feeds[2]:
                    swarm.pause(feed)
            sent += loads(broker.port, count=1600, topics=["seam.a.x", "other.x"], size=4000, window=64).wait()
            for feed in feeds:
                swarm.resume(feed)
            wait_for(lambda: all(f.last >= sent - 1 for f in feeds), what="the end of the stream")
        wanted = set(range(2, sent + 1, 2)) if int(feeds[0].last) % 2 == 0 else set(range(1, sent + 1, 2))
        for feed in feeds:
            covered, at = set(), 0
            for message in feed.messages:
                if message["type"] == "event":
                    assert message["seq"] > at, (feed, at, message)
                    at = message["seq"]
                    covered.add(at)
                elif message["type"] == "gap":
                    assert message["reason"] == "overflow" and message["pattern"] == "seam.a.*", message
                    assert at < message["from_seq"] <= message["to_seq"], (feed, at, message)
                    at = message["to_seq"]
                    covered |= set(range(message["from_seq"], message["to_seq"] + 1))
            assert wanted <= covered, (feed, sorted(wanted - covered)[:10])
        assert sum(len(feed.of_type("gap")) for feed in feeds) >= 10, feeds
        assert broker.metric('eventbus_gaps_total{reason="overflow"}') == sum(len(f.of_type("gap")) for f in feeds)


def test_a_gap_in_memory_is_exact_for_a_subscription_of_everything(start_broker, loads):
    """With a pattern that matches all, what is in a gap was not delivered and what was not delivered is in a gap."""
    broker = start_broker("--storage", "memory", "--memory-bytes", "1M", "--channel-capacity", "16", db=None)
    with Swarm() as swarm:
        feed = swarm.add(WsFeed(broker.port, rcvbuf=4096))
        feed.subscribe("#", 0)
        wait_for(lambda: feed.of_type("live"))
        swarm.pause(feed)
        sent = loads(broker.port, count=2500, size=2000, window=128).wait()
        swarm.resume(feed)
        wait_for(lambda: feed.last == sent)
        missing = {seq for gap in feed.of_type("gap") for seq in range(gap["from_seq"], gap["to_seq"] + 1)}
        assert feed.of_type("gap") and missing == set(range(1, sent + 1)) - set(feed.events())


def test_a_subscriber_that_publishes_flat_out_gets_its_own_events_in_order(start_broker):
    """One connection, both ways at once: neither direction starves the other."""
    broker = start_broker()
    with WebSocket(broker.port) as ws:
        ws.subscribe("own")
        total, got, acks = 4000, [], 0
        for n in range(0, total, 200):
            ws.sock.sendall(b"".join(publish_frame(i) for i in range(n, n + 200)))
        end = time.monotonic() + 60
        while (len(got) < total or acks < total) and time.monotonic() < end:
            message = ws.next()
            if message["type"] == "event":
                got.append(int(message["payload"]))
            else:
                acks += 1
        assert got == list(range(total)) and acks == total


def publish_frame(n):
    from lib.ws import TEXT, frame

    return frame(TEXT, b'{"type":"publish","id":%d,"data":{"topic":"own","payload":"%d"}}' % (n, n), mask=b"\0\0\0\0")
