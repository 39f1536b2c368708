"""Chaos: workers in processes of their own (chaos_worker.py), a broker that is killed, and the judge over their ledgers.

The ledgers' lines are: KIND TIME PID.CONNECTION …, TIME of CLOCK_MONOTONIC, which all processes of a machine share.
  D seq delivery key    it was given this          A/N/T/P seq delivery   it is about to send ack, nack, term, in_progress
  R seq result verb     it was answered this       V, X, E                it is about to leave, to die; it saw the end
"""
import bisect
import collections
import json
import os
import pathlib
import random
import subprocess
import sys
import threading
import time

from lib.broker import wait_for
from lib.consumer import JSON, Consumer

ON_ITS_WAY = 3.0  # seconds that a delivery may take from the broker to a worker's ledger on a crowded machine
ABOUT = 0.05

Given = collections.namedtuple("Given", "time who delivery key")


class Ledger:
    """All that the workers wrote, by event."""

    def __init__(self):
        self.given = collections.defaultdict(list)  # seq -> Given, by time
        self.sent = collections.defaultdict(list)  # seq -> (time, who, kind, delivery)
        self.told = collections.defaultdict(list)  # seq -> (time, who, result) of acks
        self.ends = collections.defaultdict(list)  # who -> times
        self.left = collections.defaultdict(list)  # who -> times: it closed its connection itself
        self.failures = []
        self.kinds = collections.Counter()

    def line(self, text):
        kind, at, who, *words = text.split()
        at = float(at)
        self.kinds[kind] += 1
        if kind == "D":
            self.given[int(words[0])].append(Given(at, who, int(words[1]), words[2]))
        elif kind in "ANTP":
            self.sent[int(words[0])].append((at, who, kind, int(words[1])))
        elif kind == "R" and words[2] == "ack":
            self.told[int(words[0])].append((at, who, words[1]))
        elif kind in "VXE":
            self.ends[who].append(at)
            if kind == "V":
                self.left[who].append(at)
        elif kind == "F":
            self.failures.append(text)

    def read(self, folder):
        for path in sorted(pathlib.Path(folder).glob("*.ledger")):
            with open(path) as lines:
                for text in lines:
                    assert text.endswith("\n"), f"{path}: half a line"
                    self.line(text)
        return self.settle()

    def settle(self):
        """In the order of time; what was still read from a connection that had been left by then was given to nobody."""
        for seq, given in self.given.items():
            self.given[seq] = sorted(g for g in given if not any(end < g.time for end in self.left[g.who]))
        return self


class Verdict:
    """judge(): a list of broken promises, each in words; empty when all held."""

    def __init__(self, ledger, events, letters, kills, ack_wait, max_deliver, wall):
        """events: the log's own by seq; letters: events of $dead.*; kills: times of the broker's deaths; wall: wall clock less
        CLOCK_MONOTONIC."""
        self.ledger, self.events, self.kills, self.ack_wait, self.max_deliver = ledger, events, kills, ack_wait, max_deliver
        self.dead = collections.defaultdict(list)  # seq -> when
        for letter in letters:
            self.dead[int(letter["metadata"]["headers"]["dead-seq"])].append(letter["metadata"]["timestamp"] / 1000 - wall)
        self.faults = []

    def fault(self, seq, words):
        self.faults.append(f"{seq}: {words}; given {self.ledger.given[seq]}, sent {self.ledger.sent[seq]}, told {self.ledger.told[seq]}, dead {self.dead.get(seq)}")

    def judge(self):
        for seq in self.events:
            self.ends_once(seq)
            self.none_after_its_ack(seq)
            self.one_at_a_time(seq)
        self.in_order()
        for seq in [*self.ledger.given, *self.dead]:
            if seq not in self.events:
                self.fault(seq, "no such event")
        return self.faults

    def acks(self, seq):
        return [at for at, _, kind, _ in self.ledger.sent[seq] if kind == "A"]

    def ends_once(self, seq):
        """Acknowledged, or a dead letter; never both, but for an ack of what was given up already, which is ok and late."""
        asked, letters = self.acks(seq), self.dead.get(seq, [])
        ok = [at for at, _, result in self.ledger.told[seq] if result == "ok"]
        if len(letters) > 1:
            self.fault(seq, "two dead letters")
        if not asked and not letters:
            self.fault(seq, "neither acknowledged nor a dead letter")
        if letters and ok and min(ok) < letters[0] - ABOUT:
            self.fault(seq, "a dead letter after its ack was answered")
        if not letters and not ok and self.events[seq].startswith(("poison", "term")):
            self.fault(seq, "poison that is no dead letter")

    def current(self, seq, who, at):
        """Did the acknowledging worker still have the event, beyond doubt?"""
        had = [g for g in self.ledger.given[seq] if g.who == who and g.time <= at]
        if not had or any(kind == "N" and sent <= at for sent, _, kind, _ in self.ledger.sent[seq]):
            return False
        last = max(g.delivery for g in self.ledger.given[seq] if g.time <= at)
        return had[-1].delivery == last and at - had[-1].time < self.ack_wait / 2

    def none_after_its_ack(self, seq):
        for at, who, result in self.ledger.told[seq]:
            if result != "ok":
                continue
            patience = 0 if self.current(seq, who, at) else ON_ITS_WAY
            for given in self.ledger.given[seq]:
                if given.time > at + patience:
                    self.fault(seq, f"delivery {given.delivery} after its ack was answered at {at}")

    def killed_between(self, a, b):
        return any(a - ABOUT <= kill <= b + ABOUT for kill in self.kills)

    def one_at_a_time(self, seq):
        given = self.ledger.given[seq]
        for g in given:
            if not 1 <= g.delivery <= self.max_deliver:
                self.fault(seq, f"delivery {g.delivery} of at most {self.max_deliver}")
        for a, b in zip(given, given[1:]):
            if self.killed_between(a.time, b.time):
                continue  # counts are kept a moment later: what was out may have been forgotten
            if b.delivery <= a.delivery:
                self.fault(seq, f"delivery {b.delivery} behind {a.delivery}")
            back = any(kind in "NT" and who == a.who and at <= b.time for at, who, kind, _ in self.ledger.sent[seq])
            left = any(end <= b.time for end in self.ledger.ends[a.who])
            if not back and not left and b.time - a.time < self.ack_wait / 2:
                self.fault(seq, f"delivery {b.delivery} while {a.delivery} was out")

    def in_order(self):
        """Whoever is given an event: all before it of its key had an ack on its way, or were given up."""
        of_key = collections.defaultdict(list)
        for seq, given in self.ledger.given.items():
            if given and given[0].key != "-":
                of_key[given[0].key].append(seq)
        for seqs in of_key.values():
            done = float("-inf")  # when the last of those before was done
            last = {}  # between two kills: when one of those before was given the last time
            for seq in sorted(seqs):
                first = self.ledger.given[seq][0].time
                if first < done:
                    self.fault(seq, f"given {done - first:.3f} s before one of its key that comes earlier was done")
                for given in self.ledger.given[seq]:  # acks that a kill came before are unmade: all of the key comes again, in order
                    life = bisect.bisect(self.kills, given.time)
                    if last.get(life, given.time) > given.time + ON_ITS_WAY:
                        self.fault(seq, f"one of its key that comes earlier was given again {last[life] - given.time:.3f} s after it")
                for given in self.ledger.given[seq]:
                    life = bisect.bisect(self.kills, given.time)
                    last[life] = max(last.get(life, given.time), given.time)
                settled = self.acks(seq) + [at - ABOUT for at in self.dead.get(seq, [])]
                done = max(done, min(settled)) if settled else float("inf")


class Chaos:
    """One run: publish, workers, kills; then all that was promised is judged."""

    def __init__(self, broker, folder, events, kills, seed, workers=8, keys=200, ack_wait=2, max_deliver=8, wild=1):
        self.broker, self.folder, self.count, self.kill_count, self.seed = broker, folder, events, kills, seed
        self.ack_wait, self.max_deliver, self.keys, self.wild = ack_wait, max_deliver, keys, wild
        self.workers = [None] * workers
        self.lives = 0
        self.kills, self.over = [], threading.Event()
        self.published = 0
        folder.mkdir()
        broker.listen = f"127.0.0.1:{broker.port}"
        self.consumer = Consumer(
            broker, "chaos", patterns=["chaos.#"], from_="all", order="header:key", ack_wait=ack_wait, max_deliver=max_deliver, max_inflight=200, backoff=[0],
        )  # fmt: skip

    def member(self, dice, number):
        chance = dice.random()
        what = "poison" if chance < 0.005 else "term" if chance < 0.007 else "work"
        headers = {"headers": {"key": f"k{dice.randrange(self.keys)}"}} if dice.random() < 0.95 else {}
        return {"topic": f"chaos.{number % 7}", "payload": f"{what} {number}", "message_id": f"chaos-{number}", **headers}

    def publish(self):
        """Batches, each sent again until it is answered: the ids make that one publish."""
        dice, size = random.Random(self.seed), 200
        for begin in range(0, self.count, size):
            messages = [self.member(dice, n) for n in range(begin, min(begin + size, self.count))]
            body = json.dumps({"messages": messages})
            while True:
                try:
                    if self.broker.request("POST", "/v1/events", body, JSON, timeout=10).status in (200, 201):
                        break
                except (OSError, ValueError, EOFError):
                    pass
                except Exception as error:  # http.client's own, of an answer that was cut
                    if type(error).__module__ != "http.client":
                        raise
                time.sleep(0.02)
            self.published = begin + len(messages)

    def keep_workers(self):
        for n, process in enumerate(self.workers):
            if process is None or process.poll() is not None:
                self.lives += 1
                worker = pathlib.Path(__file__).parent / "chaos_worker.py"
                argv = [sys.executable, str(worker), str(self.broker.port), "chaos", str(self.seed * 100000 + self.lives), str(self.folder / f"{n}.ledger"),
                        str(self.ack_wait), str(self.wild)]
                self.workers[n] = subprocess.Popen(argv, stdin=subprocess.PIPE, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})

    def kill(self):
        self.kills.append(time.monotonic())
        self.broker.kill()
        self.kills.append(time.monotonic())
        self.broker.start()

    def run(self, patience):
        publisher = threading.Thread(target=self.publish, daemon=True)
        publisher.start()
        end, last = time.monotonic() + patience, None
        try:
            while True:
                self.keep_workers()
                last = self.consumer.view()
                if len(self.kills) // 2 < self.kill_count and last["cursor"] > self.count * (len(self.kills) // 2 + 1) / (self.kill_count + 1):
                    self.kill()
                if self.published == self.count and last["pending"] == 0 and last["inflight"] == 0 and last["lag_events"] == 0:
                    return last
                assert time.monotonic() < end, f"not through after {patience} s: {last}, {self.published} published, {self.lives} lives"
                time.sleep(0.02)
        finally:
            for process in self.workers:
                if process:
                    process.stdin.close()
            for process in self.workers:
                if process:
                    process.wait(30)
            publisher.join(30)

    def verdict(self):
        wall = time.time() - time.monotonic()
        log = {event["seq"]: event["payload"] for event in self.broker.events("chaos.%23")}
        assert sorted(int(payload.split()[1]) for payload in log.values()) == list(range(self.count))
        letters = self.broker.events("$dead.chaos")
        self.ledger = Ledger().read(self.folder)
        self.letters = letters
        return Verdict(self.ledger, log, letters, self.kills, self.ack_wait, self.max_deliver, wall).judge()
