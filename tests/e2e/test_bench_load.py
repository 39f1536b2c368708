"""The load generator of the benchmarks (tests/bench/load): what it claims to have done is what the broker says it did."""
import json
import os
import signal
import subprocess
import threading
import time

import pytest

from lib.consumer import flat
from lib.broker import BUILD, PATIENCE, wait_for

LOAD = BUILD / "tests" / "bench" / "load" / "eventbus-load"
PUBLISHING = ["eventbus-json", "eventbus-bin", "eventbus-http"]
SUBSCRIBING = ["eventbus-json", "eventbus-bin", "eventbus-sse"]


def load(port, mode, target, *options):
    run = subprocess.run(
        [LOAD, mode, "--target", target, "--port", str(port), *map(str, options)], capture_output=True, text=True, timeout=PATIENCE
    )
    lines = run.stdout.splitlines()
    assert run.returncode == 0 and len(lines) == 1, run
    answer = json.loads(lines[0])
    assert (answer["target"], answer["mode"], answer["errors"]) == (target, mode, 0)
    return answer


@pytest.fixture
def memory(start_broker):
    return start_broker("--storage", "memory", db=None)


# An event that the loader counts was acknowledged and is stored, once.
@pytest.mark.parametrize("target", PUBLISHING)
@pytest.mark.parametrize("batch", [1, 64])
@pytest.mark.parametrize("window", [1, 500])
def test_published_events_are_in_the_log(broker, target, batch, window):
    answer = load(broker.port, "publish", target, "--connections", 3, "--topics", 7, "--events", 2000, "--window", window, "--batch", batch)
    assert answer["events"] == answer["measured"] == 2000
    assert 0 < answer["p50_us"] <= answer["p99_us"] <= answer["max_us"]
    stats = broker.stats()
    assert (stats["last_seq"], stats["events"], stats["topics"]) == (2000, 2000, 7)
    numbers = sorted(event["payload"][:14] for event in broker.events())
    assert numbers == sorted(f"{c:04}{i:010}" for c, n in enumerate([667, 667, 666]) for i in range(n))


# A run for a time ends with nothing unanswered.
def test_a_run_for_a_time_waits_for_its_answers(memory):
    answer = load(memory.port, "publish", "eventbus-json", "--seconds", 0.2, "--window", 100, "--paced", 5000, "--mask", "zero")
    assert answer["events"] == memory.stats()["published"] > 0


# Nobody publishes before all are connected and the counting has begun, however early his own connection is there.
def test_no_event_is_published_while_connections_are_still_opened(memory):
    answer = load(memory.port, "publish", "eventbus-json", "--connections", 300, "--events", 3000, "--window", 1)
    assert answer["events"] == answer["measured"] == 3000


# What fell due since the last tick is written together, and its latency still counts from when it was due.
def test_a_tick_gathers_events_and_forgives_no_latency(memory):
    answer = load(memory.port, "publish", "eventbus-json", "--seconds", 0.3, "--window", 4096, "--paced", 5000, "--tick", 50000)
    assert answer["events"] == memory.stats()["published"] > 1000
    assert answer["p50_us"] > 15000  # half a tick, and more on a slow machine


# A broker that stood still for 300 ms is a stall of at least that, one and not many, and within the run.
def test_a_stall_is_named_with_its_place(memory):
    def stand_still():
        wait_for(lambda: memory.stats()["published"] > 500)
        os.kill(memory.pid, signal.SIGSTOP)
        time.sleep(0.3)
        os.kill(memory.pid, signal.SIGCONT)

    thread = threading.Thread(target=stand_still)
    thread.start()
    answer = load(memory.port, "publish", "eventbus-json", "--seconds", 1.5, "--window", 4096, "--paced", 5000, "--tick", 1000)
    thread.join()
    stall = answer["stalls"][0]
    assert 250e3 < stall["us"] == answer["max_us"] and 0 < stall["at_s"] < 1.5, answer
    assert answer["own_max_us"] >= max((s["us"] for s in answer["stalls"] if not s["stolen_ms"]), default=0), answer
    assert all(abs(stall["at_s"] - other["at_s"]) > 0.1 for other in answer["stalls"][1:]), answer


# Each subscriber is given each event, and the broker counted as many deliveries.
@pytest.mark.parametrize("target", SUBSCRIBING)
@pytest.mark.parametrize("options", [["--threads", 2, "--topics", 3], ["--publishers", 3, "--batch", 10], ["--paced", 20000]])
def test_every_subscriber_gets_every_event(memory, target, options):
    answer = load(memory.port, "fanout", target, "--subscribers", 5, "--events", 3000, "--window", 500, *options)
    assert (answer["events"], answer["deliveries"], answer["dropped"]) == (3000, 15000, 0)
    assert memory.stats()["published"] == 3000
    wait_for(lambda: memory.stats()["delivered"] == 15000, what="count of deliveries")


@pytest.mark.parametrize("target", SUBSCRIBING)
def test_latency_is_of_each_delivery(memory, target):
    answer = load(memory.port, "latency", target, "--subscribers", 2, "--rate", 5000, "--events", 1000)
    assert (answer["deliveries"], answer["measured"], answer["paced"]) == (2000, 2000, 5000)
    assert 0 < answer["p50_us"] <= answer["p99_us"] <= answer["p999_us"] <= answer["max_us"]


@pytest.mark.parametrize("target", SUBSCRIBING)
def test_a_replay_reads_the_log_from_its_start(broker, target):
    load(broker.port, "publish", "eventbus-json", "--connections", 2, "--topics", 5, "--events", 4000, "--batch", 100)
    answer = load(broker.port, "replay", target, "--topics", 5, "--events", 4000)
    assert (answer["events"], answer["gaps"]) == (4000, 0)


@pytest.mark.parametrize("workers", [1, 5])
def test_workers_acknowledge_each_stored_event_once(broker, workers):
    load(broker.port, "publish", "eventbus-json", "--events", 4000, "--batch", 100)
    answer = load(broker.port, "work", "eventbus-json", "--publishers", 0, "--events", 4000, "--subscribers", workers, "--window", 64)
    assert (answer["events"], answer["measured"], answer["again"]) == (4000, 4000, 0) and answer["rate"] > 0
    shown = flat(broker.get("/v1/consumers/load").json)
    assert (shown["cursor"], shown["inflight"], shown["redelivered"]) == (4000, 0, 0)


def test_the_time_from_publish_to_worker_is_of_each_event(broker):
    answer = load(broker.port, "work", "eventbus-json", "--rate", 1000, "--events", 500, "--subscribers", 2)
    assert (answer["events"], answer["measured"], answer["again"]) == (500, 500, 0)
    assert 0 < answer["p50_us"] <= answer["p99_us"] <= answer["max_us"]


@pytest.mark.parametrize("target", SUBSCRIBING)
def test_idle_connections_stay_until_input_ends(memory, target):
    command = [LOAD, "idle", "--target", target, "--port", str(memory.port), "--connections", "150"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as idle:
        assert json.loads(idle.stdout.readline())["open"] == 150
        assert memory.stats()["connections"] + memory.stats()["streams"] == 150
        idle.stdin.close()
        assert idle.wait(PATIENCE) == 0
    wait_for(lambda: memory.stats()["connections"] + memory.stats()["streams"] == 0, what="end of the connections")


# An answer that is an error fails the run: a rate over refused events would be a lie.
@pytest.mark.parametrize("target", PUBLISHING)
def test_a_refused_publish_fails_the_run(start_broker, target):
    broker = start_broker("--max-payload", "100")
    command = [LOAD, "publish", "--target", target, "--port", str(broker.port), "--events", "10"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode == 1 and "payload_too_large" in run.stderr
    assert json.loads(run.stdout)["errors"] >= 1


# An event that was lost on the way fails the run: the log holds number 0 and 2 of a publisher, not 1.
def test_a_lost_event_fails_a_replay(broker):
    for number in (0, 2):
        broker.publish("t.0", f"0000{number:010}{0:016}".ljust(128, "x"))
    command = [LOAD, "replay", "--target", "eventbus-json", "--port", str(broker.port), "--events", "2"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert run.returncode == 1 and "event 2 of publisher 0 came, 1 did not" in run.stderr


# The sink speaks each protocol well enough that its rate is the loader's own.
@pytest.mark.parametrize("target", ["eventbus-json", "eventbus-bin", "eventbus-http", "redis", "nats", "nats-ws", "jetstream", "nchan", "mosquitto"])
def test_the_sink_answers_every_request(target):
    with subprocess.Popen([LOAD, "sink", "--target", target, "--port", "0"], stdout=subprocess.PIPE, text=True) as sink:
        try:
            port = sink.stdout.readline().rsplit(":", 1)[1].strip()
            answer = load(port, "publish", target, "--events", 5000, "--window", 200, "--connections", 2)
            assert answer["events"] == 5000
            if target not in ("eventbus-http", "jetstream"):
                answer = load(port, "fanout", target, "--events", 5000, "--window", 200, "--subscribers", 3)
                assert answer["deliveries"] == 15000
        finally:
            sink.terminate()
