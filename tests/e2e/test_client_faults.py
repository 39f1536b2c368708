"""The client through a proxy that cuts, stalls and halves the stream at every frame, in both directions in turn.

An outside ledger: each publish is stored exactly once, in its order, and each event is handed over once, in order."""
import pytest

from lib.broker import wait_for
from lib.driver import Driver
from lib.proxy import Fault, Proxy

# Answers come between: both directions have frames to cut, also where many publishes share one.
FLOODS = [10, *[1] * 32, 10]
COUNT = sum(FLOODS)
QUICK = dict(reconnect_interval=2, reconnect_interval_max=10)


@pytest.fixture(params=["any", "json"])
def driver(request):
    """With a broker of today: the binary protocol, and JSON."""
    driver = Driver(EBC_PROTOCOL=request.param)
    yield driver
    driver.finish()


def number(event):
    return int(bytes.fromhex(event["payload"]).split()[0])


def check_ledger(broker, driver, count):
    """What the log holds, what was answered and what was handed over, against each other."""
    stored = broker.events("load.%23")
    assert [int(event["payload"]) for event in stored] == list(range(count)), "stored once, in order"
    seq = {int(event["payload"]): event["seq"] for event in stored}
    done = driver.wait("done", count)
    assert len(done) == count, "each completion once"
    for line in done:
        assert line["rc"] == 0 and line["receipts"][0]["seq"] == seq[int(line["tag"])], line
    events = driver.wait("event", count, sub="all")
    assert [number(event) for event in events] == list(range(count)), "handed over once, in order"
    assert [event["seq"] for event in events] == [event["seq"] for event in stored]


def round_trip(broker, driver, faults, **options):
    proxy = Proxy(broker.port, faults)
    try:
        driver.ok("open", url=proxy.url, **{**QUICK, **options})
        driver.ok("subscribe", name="all", pattern="load.#", start=0, timeout=0)
        driver.ok("subscribe", name="one", pattern="load.*", timeout=0)
        for n, count in enumerate(FLOODS):
            driver.ok("flood", topic="load.x", **{"from": sum(FLOODS[:n]), "count": count})
            driver.ok("flush", timeout=30000)
        driver.ok("flush", timeout=30000)
        check_ledger(broker, driver, COUNT)
        assert [number(event) for event in driver.wait("event", 1, sub="one")] == sorted({number(e) for e in driver.of("event", sub="one")})
        driver.ok("close")
        return proxy
    finally:
        proxy.close()


FRAMES = [0, 1, 2, 3, 5, 8, 12, 13, 21, 31]


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("kind", ["cut", "halve", "after"])
@pytest.mark.parametrize("frame", FRAMES)
def test_a_broken_connection_loses_and_repeats_nothing(broker, driver, direction, kind, frame):
    proxy = round_trip(broker, driver, [Fault(direction, frame, kind)])
    assert proxy.hits == 1 and proxy.connections >= 2


@pytest.mark.long
@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("kind", ["cut", "halve", "after", "stall", "split"])
@pytest.mark.parametrize("frame", range(70))
def test_every_frame_boundary(broker, driver, direction, kind, frame):
    round_trip(broker, driver, [Fault(direction, frame, kind)], connect_timeout=300, ping_interval=150)


@pytest.mark.parametrize("direction", ["up", "down"])
@pytest.mark.parametrize("frame", [0, 1, 2, 7, 13])
def test_a_half_open_peer_is_found_and_left(broker, driver, direction, frame):
    proxy = round_trip(broker, driver, [Fault(direction, frame, "stall")], connect_timeout=300, ping_interval=200)
    assert proxy.hits == 1 and proxy.connections >= 2


@pytest.mark.parametrize("direction", ["up", "down"])
def test_a_stream_in_single_bytes_is_a_stream(broker, driver, direction):
    proxy = round_trip(broker, driver, [[Fault(direction, frame, "split") for frame in range(40)]])
    assert proxy.connections == 1


def test_connections_that_break_again_and_again(broker, driver):
    faults = [Fault("up" if i % 2 else "down", i % 9, ["cut", "halve", "after"][i % 3]) for i in range(40)]
    proxy = round_trip(broker, driver, faults)
    assert proxy.hits >= 5


def test_cuts_under_load(broker, driver):
    """Thousands in flight while the connection is cut at any moment."""
    proxy = Proxy(broker.port)
    count = 3000
    try:
        driver.ok("open", url=proxy.url, **QUICK)
        driver.ok("subscribe", name="all", pattern="load.#")
        for start in range(0, count, 250):
            driver.ok("flood", topic="load.x", **{"from": start, "count": 250})
            wait_for(lambda: proxy.pairs, what="a connection to cut")
            proxy.cut()
        driver.ok("flush", timeout=60000)
        check_ledger(broker, driver, count)
        assert proxy.connections > 5
        driver.ok("close")
    finally:
        proxy.close()


def test_batches_are_stored_whole_and_once(broker, driver):
    proxy = Proxy(broker.port, [Fault("down", 1, "cut"), Fault("up", 1, "halve"), Fault("down", 1, "cut")])
    try:
        driver.ok("open", url=proxy.url, **QUICK)
        for i in range(5):
            driver.ok("batch", tag=str(i), events=[{"topic": "load.b", "payload": f"{i} {k}"} for k in range(20)])
        driver.ok("flush", timeout=30000)
        assert [line["rc"] for line in driver.wait("done", 5)] == [0] * 5
        stored = [event["payload"] for event in broker.events("load.%23")]
        assert stored == [f"{i} {k}" for i in range(5) for k in range(20)]
        assert proxy.connections == 4
        driver.ok("close")
    finally:
        proxy.close()


def test_nothing_is_called_back_after_close(broker, driver):
    """Closed in the middle of everything; the driver marks what comes late, and its end fails then."""
    proxy = Proxy(broker.port)
    try:
        driver.ok("open", url=proxy.url, **QUICK)
        driver.ok("subscribe", name="all", pattern="#", delay_us=200)
        driver.ok("flood", topic="load.x", count=2000)
        assert driver.close(timeout=0)["rc"] in (0, -3)
        done = driver.wait("done", 2000)
        assert len(done) == 2000 and {line["rc"] for line in done} <= {0, -4}
        assert driver.states()[-1] == "closed"
    finally:
        proxy.close()
