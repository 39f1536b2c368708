"""Chaos: workers that crash, hang, nack and vanish, a broker that is killed, keys in order; a ledger outside says whether
every promise of a durable consumer held.

Process death only, as in test_crash.py. The judge is itself tested: it refuses a ledger with one thing wrong.
"""
import time

import pytest

from lib.chaos import Chaos, Ledger, Verdict


def run(start_broker, tmp_path, events, kills, seed, patience, **more):
    broker = start_broker()
    chaos = Chaos(broker, tmp_path / "ledger", events, kills, seed, **more)
    begin = time.monotonic()
    view = chaos.run(patience)
    took = time.monotonic() - begin
    faults = chaos.verdict()
    kinds = chaos.ledger.kinds
    print(f"{events} events in {took:.0f} s, {len(chaos.kills) // 2} kills, {chaos.lives} lives of workers, {kinds['D']} deliveries, {kinds['A']} acks, "
          f"{kinds['N']} nacks, {kinds['X']} crashes, {kinds['V']} departures, {len(chaos.letters)} dead letters, {view['redelivered']} redelivered")  # fmt: skip
    assert not faults, f"{len(faults)} faults: " + "\n".join(faults[:10])
    assert not chaos.ledger.failures, chaos.ledger.failures[:5]
    assert view["dead"] == len(chaos.letters) and view["lost"] == 0
    return chaos


def test_every_promise_holds_through_crashes_and_kills(start_broker, tmp_path):
    chaos = run(start_broker, tmp_path, 6000, 3, seed=11, patience=120, workers=6, keys=60, ack_wait=1, wild=5)
    assert len(chaos.kills) == 6 and chaos.letters and chaos.ledger.kinds["N"] and chaos.ledger.kinds["X"]


@pytest.mark.long
@pytest.mark.parametrize("seed", [1])
def test_every_promise_holds_for_100000_events_8_workers_and_10_kills(start_broker, tmp_path, seed):
    chaos = run(start_broker, tmp_path, 100_000, 10, seed=seed, patience=1800)
    assert len(chaos.kills) == 20 and chaos.ledger.kinds["X"] > 10 and chaos.letters


HONEST = """
D 1.0 1.1 1 1 a
D 1.0 1.1 2 1 b
A 1.1 1.1 1 1
R 1.2 1.1 1 ok ack
D 1.3 2.1 3 1 a
N 1.4 1.1 2 1
D 1.5 2.1 2 2 b
A 1.6 2.1 2 2
R 1.7 2.1 2 ok ack
V 1.8 2.1
D 1.9 1.1 3 2 a
"""


def verdict(text, letters=((3, 2.5),), kills=()):
    ledger = Ledger()
    for line in text.strip().splitlines():
        ledger.line(line)
    ledger.settle()
    dead = [{"metadata": {"timestamp": at * 1000, "headers": {"dead-seq": str(seq)}}} for seq, at in letters]
    return Verdict(ledger, {1: "work 0", 2: "work 1", 3: "poison 2"}, dead, list(kills), ack_wait=10, max_deliver=2, wall=0).judge()


def test_the_judge_lets_an_honest_ledger_through():
    assert verdict(HONEST) == []


def test_the_judge_knows_that_a_kill_unmakes_acks_that_were_not_answered():
    """All of the key comes again, in order; without the kill the same ledger is a fault."""
    again = "D 1.0 1.1 1 1 a\nA 1.1 1.1 1 1\nD 1.2 2.1 3 1 a\nE 1.4 1.1\nE 1.4 2.1\nD 6.0 1.2 1 1 a\nA 6.1 1.2 1 1\nR 6.2 1.2 1 ok ack\nD 6.3 2.2 3 1 a\nD 6.3 1.2 2 1 b\nA 6.4 1.2 2 1\n"
    assert verdict(again, [(3, 7)], kills=[1.3, 1.35]) == []
    assert verdict(again.replace("1 1 a\nA 6.1", "1 2 a\nA 6.1").replace("D 6.3 2.2 3 1", "D 6.3 2.2 3 2"), [(3, 7)])


HARMS = [
    ("given after its ack", HONEST + "D 2.0 2.2 1 2 a\n", [(3, 2.5)]),
    ("neither acknowledged nor given up", HONEST, []),
    ("given up twice", HONEST, [(3, 2.5), (3, 2.6)]),
    ("given up after its ack", HONEST, [(3, 2.5), (2, 5)]),
    ("a later one of its key before the ack", HONEST.replace("D 1.3 2.1 3", "D 1.05 2.1 3"), [(3, 2.5)]),
    ("out with one that has not left", HONEST + "D 1.95 2.2 3 2 a\n", [(3, 2.5)]),
    ("out twice at once", HONEST.replace("N 1.4 1.1 2 1\n", ""), [(3, 2.5)]),
    ("too many deliveries", HONEST + "V 2.0 1.1\nD 2.1 2.2 3 3 a\n", [(3, 2.5)]),
    ("a count that falls back", HONEST.replace("2 2 b", "2 1 b"), [(3, 2.5)]),
    ("an earlier one of its key again", HONEST + "V 8.0 2.1\nD 8.1 2.2 1 2 a\n", [(3, 2.5)]),
    ("an event of nobody", HONEST + "D 2.0 1.1 9 1 z\n", [(3, 2.5)]),
]  # fmt: skip


@pytest.mark.parametrize("harm, text, letters", HARMS, ids=[harm for harm, *_ in HARMS])
def test_the_judge_refuses(harm, text, letters):
    """Trust no gate before seeing it fail."""
    assert verdict(text, letters), harm
