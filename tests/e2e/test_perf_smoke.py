"""What an event costs, in numbers that a busy machine does not change: instructions, allocations, locks and system calls.

A bound is what was measured (docs/performance.md) and a part of slack for the next harmless change. Whoever loses an
optimisation loses more than that; whoever gains one lowers the bound.
"""
import json
import pathlib
import re
import subprocess

import pytest

from lib.broker import BUILD
from lib.count import LIBRARY, Counters
from lib.instructions import Instructions
from lib.ws import WebSocket

LOAD = BUILD / "tests" / "bench" / "load" / "eventbus-load"
pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason=f"{BUILD} is built with a sanitizer, which changes every count")


def load(broker, mode, target, events, **options):
    """Run the load generator, which checks every answer and delivery; its own answer."""
    words = [f"--{name}={value}" for name, value in {"topics": 100, "payload": 128, "events": events, **options}.items()]
    command = [str(LOAD), mode, "--target", target, "--host", "127.0.0.1", "--port", str(broker.port)]
    run = subprocess.run(command + [part for word in words for part in word.split("=")], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


# name: (events or deliveries, mode, target, options of the load, bound of instructions for each)
WORK = {
    "replay, JSON": (20500, "replay", "eventbus-json", {"events": 20500}, 6800),
    "replay, binary": (20500, "replay", "eventbus-bin", {"events": 20500}, 4900),
    "publish, JSON": (5000, "publish", "eventbus-json", {"window": 4096}, 8400),
    "publish, binary": (5000, "publish", "eventbus-bin", {"window": 4096}, 6800),
    "publish, JSON, batches of 256": (25600, "publish", "eventbus-json", {"window": 4096, "batch": 256}, 7600),
    "publish, binary, batches of 256": (25600, "publish", "eventbus-bin", {"window": 4096, "batch": 256}, 6500),
    "publish, binary, one waits": (1000, "publish", "eventbus-bin", {"window": 1}, 31000),
    "HTTP POST, 16 wait": (1600, "publish", "eventbus-http", {"connections": 16}, 80000),
    "fan-out to 20, JSON": (40000, "fanout", "eventbus-json", {"events": 2000, "subscribers": 20, "batch": 64}, 560),
    "fan-out to 20, binary": (40000, "fanout", "eventbus-bin", {"events": 2000, "subscribers": 20, "batch": 64}, 450),
}


def test_instructions_of_an_event(start_broker, tmp_path):
    """No optimisation of the one way of an event is lost unseen."""
    counter = Instructions(tmp_path)
    broker = start_broker(wrapper=counter.wrapper)
    load(broker, "publish", "eventbus-json", 20500, window=4096)  # the first time of everything, and what replay reads
    counter.taken(broker)
    cost = {}
    for name, (count, mode, target, options, _) in WORK.items():
        load(broker, mode, target, **{"events": count, **options})
        cost[name] = round(counter.taken(broker) / count)
    print(cost)
    assert not {name: f"{cost[name]}, bound {work[4]}" for name, work in WORK.items() if cost[name] > work[4]}


def test_calls_of_a_pipelined_publish(start_broker, tmp_path):
    """Allocations, locks and system calls of an event are few, because many share them."""
    counters = Counters(tmp_path / "counters")
    broker = start_broker(env=counters.env)
    load(broker, "publish", "eventbus-json", 500, window=4096)
    before = counters.now()
    load(broker, "publish", "eventbus-json", 20000, window=4096)
    cost = {name: n / 20000 for name, n in counters.since(before).items()}
    print(cost)
    assert 0 < cost["allocations"] <= 0.7 and cost["locks"] <= 0.3  # an event takes the memory of an answered one
    assert cost["syncs"] <= 0.01 and cost["file_writes"] <= 0.02
    assert 0.0003 < cost["hints"] <= 0.01  # of what is on its way to the disk before the sync
    assert cost["receives"] + cost["sends"] + cost["polls"] <= 0.1


def test_calls_of_a_publish_while_retention_deletes(start_broker, tmp_path):
    """What retention deletes goes with the publishes' own commits, and its pages are taken by their rows at once."""
    counters = Counters(tmp_path / "counters")
    broker = start_broker("--retention-events", "70000", env=counters.env)
    load(broker, "publish", "eventbus-json", 150000, window=8192, batch=256)
    before = counters.now()
    load(broker, "publish", "eventbus-json", 100000, window=8192, batch=256)
    cost = {name: n / 100000 for name, n in counters.since(before).items()}
    print(cost)
    assert broker.stats()["events"] < 70000 + 30000
    assert cost["syncs"] <= 0.01 and cost["file_writes"] <= 0.09


def test_calls_of_a_lone_publish(start_broker, tmp_path):
    """One connection that waits for each answer costs one sync and a handful of calls."""
    counters = Counters(tmp_path / "counters")
    broker = start_broker(env=counters.env)
    load(broker, "publish", "eventbus-json", 50, window=1)
    before = counters.now()
    load(broker, "publish", "eventbus-json", 300, window=1)
    cost = {name: n / 300 for name, n in counters.since(before).items()}
    print(cost)
    assert cost["syncs"] <= 1.1 and cost["file_writes"] <= 1.3 and cost["signals"] <= 0.2  # nobody is woken to commit
    assert cost["hints"] == 0
    assert cost["receives"] + cost["sends"] + cost["polls"] <= 2.5


def test_nothing_is_urged_to_the_disk_that_is_not_synced(start_broker, tmp_path):
    """With durability = os when the log is written is the kernel's to choose."""
    counters = Counters(tmp_path / "counters")
    broker = start_broker("--durability", "os", env=counters.env)
    load(broker, "publish", "eventbus-json", 20000, window=4096)
    assert counters.now()["hints"] == 0 < counters.now()["file_writes"]


def flushers_slept(broker):
    """How often the threads that write to WebSockets have gone to sleep, which each does once when it is woken."""
    count = 0
    for task in pathlib.Path(f"/proc/{broker.pid}/task").iterdir():
        if (task / "comm").read_text().startswith("eb-flush-"):
            count += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.M).group(1))
    return count


def test_a_lone_publish_wakes_nobody_to_deliver_to_two(start_broker):
    """Who commits alone sends to the first two subscribers, too; a third is a flusher's (decision 0028)."""
    broker = start_broker()
    with WebSocket(broker.port) as publisher, WebSocket(broker.port) as one, WebSocket(broker.port) as two, WebSocket(broker.port) as three:
        woken = {}
        for count, ws in enumerate((one, two, three), 1):
            ws.subscribe("lone")
            before = flushers_slept(broker)
            for _ in range(200):
                seq = publisher.publish("lone")["seq"]
                assert {other.event()["seq"] for other in (one, two, three)[:count]} == {seq}
            woken[count] = flushers_slept(broker) - before
    print(woken)
    assert woken[1] <= 20 and woken[2] <= 20 and woken[3] >= 150


def test_who_publishes_goes_before_the_checkpoint(start_broker):
    """The thread that copies the WAL into the file yields its core to the others (decision 0028)."""
    broker = start_broker()
    nice = {}
    for task in pathlib.Path(f"/proc/{broker.pid}/task").iterdir():
        name, fields = re.fullmatch(r"\d+ \((.*)\) (.*)", (task / "stat").read_text().strip()).groups()
        nice[name] = int(fields.split()[16])
    assert nice["eb-checkpoint"] == nice["eb-writer"] + 5
