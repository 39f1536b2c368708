"""Random requests about one consumer, held against a model that is a dictionary: what each fetch may give, what each
answer must be, also over kills and restarts. What fails is printed as the list of steps that led there."""
import random
import time

import pytest

from lib.consumer import Consumer, publish_many

SETTINGS = {"patterns": ["job.#"], "from": "all", "ack_wait": 3600, "max_inflight": 40}


class Model:
    """By seq: "new", "ready" (given before), "out", "waiting" (an hour), "done", "dead"; and how often it was given."""

    def __init__(self, keys, max_deliver):
        self.state, self.count, self.key = {}, {}, {}
        self.keys, self.max_deliver = keys, max_deliver
        self.unsure = {}  # what was out at a kill that came at once: its last delivery may be forgotten
        self.letters = 0

    def publish(self, seqs, keys):
        for seq, key in zip(seqs, keys, strict=True):
            self.state[seq], self.count[seq], self.key[seq] = "new", 0, key

    def open(self):
        return [seq for seq in sorted(self.state) if self.state[seq] not in ("done", "dead")]

    def free(self, seq):
        """May it be given now?"""
        if self.state[seq] not in ("new", "ready"):
            return False
        return not self.keys or next(s for s in self.open() if self.key[s] == self.key[seq]) == seq

    def given(self, event):
        seq, delivery = event["seq"], event["delivery"]
        assert self.free(seq), (seq, self.state[seq])
        assert delivery - 1 in (self.count[seq], self.unsure.get(seq, self.count[seq])), (seq, delivery, self.count[seq])
        self.unsure.pop(seq, None)
        self.state[seq], self.count[seq] = "out", delivery

    def forgotten(self, seq, result):
        """Its one delivery was forgotten by the kill: that is what the broker says, and the model learns it."""
        if result != "unknown" or self.unsure.get(seq) != 0:
            return False
        self.unsure.pop(seq)
        self.state[seq], self.count[seq] = "new", 0
        return True

    def known(self, seq):
        return seq in self.state and self.count[seq] > 0

    def failed(self, seq, state):
        given_up = self.max_deliver and self.count[seq] >= self.max_deliver
        self.state[seq] = "dead" if given_up else state
        self.letters += bool(given_up)

    def answer(self, verb, seq, delay):
        """What the broker must say, and what then is."""
        if not self.known(seq):
            return {"unknown"}
        if verb == "ack":
            was = self.state[seq]
            if was != "dead":
                self.state[seq] = "done"
            return {"ok"} if was != "dead" else {"ok", "late"}
        if self.state[seq] != "out":
            return {"late"}
        if verb == "term":
            self.state[seq] = "dead"
            self.letters += 1
        elif verb == "nack":
            self.failed(seq, "waiting" if delay else "ready")
        return {"ok"}

    def crashed(self, hard):
        for seq in self.open():
            if self.state[seq] == "out":
                if hard:
                    self.unsure[seq] = self.count[seq] - 1
                self.failed(seq, "ready")

    def sought(self, seq):
        for s in self.state:
            if s >= seq:
                self.state[s], self.count[s] = "new", 0
            else:
                self.state[s], self.count[s] = "done", max(1, self.count[s])
        self.unsure.clear()


class Run:
    def __init__(self, broker, seed, keys, max_deliver):
        self.broker, self.dice, self.keys = broker, random.Random(seed), keys
        self.model = Model(keys, max_deliver)
        self.consumer = Consumer(broker, "c", **SETTINGS, order="header:key" if keys else "none", max_deliver=max_deliver)
        self.steps = []

    def say(self, *step):
        self.steps.append(step)

    def publish(self):
        count = self.dice.randint(1, 15)
        keys = [f"k{self.dice.randrange(self.keys or 1)}" for _ in range(count)]
        seqs = publish_many(self.broker, "job.a", count, headers=lambda i: {"key": keys[i]})
        self.say("publish", seqs)
        self.model.publish(seqs, keys)

    def fetch(self):
        """Whatever it gives must be free; when there is something free and room, it gives something."""
        free = [seq for seq in self.model.open() if self.model.free(seq)]
        room = sum(state == "out" for state in self.model.state.values()) < SETTINGS["max_inflight"]
        events = self.consumer.fetch(max=self.dice.randint(1, 12), wait=5 if free and room else 0)
        self.say("fetch", [(e["seq"], e["delivery"]) for e in events])
        for event in events:
            self.model.given(event)
        assert events or not (free and room), f"nothing was given of {free}"

    def judge(self):
        verb = self.dice.choice(["ack", "ack", "ack", "nack", "nack", "term", "in_progress"])
        out = [seq for seq, state in self.model.state.items() if state == "out"]
        pool = out if out and self.dice.random() < 0.8 else [*self.model.state, 10**6]
        seqs = self.dice.sample(pool, min(len(pool), self.dice.randint(1, 6)))
        delay = self.dice.choice([0, 3600]) if verb == "nack" else None
        answer = self.consumer.judge(verb, *seqs, **({"delay": delay} if verb == "nack" else {}))
        assert answer.status == 200, answer
        got = [(r["seq"], r["result"]) for r in answer.json["results"]]
        self.say(verb, delay, got)
        for seq, result in got:
            if self.model.forgotten(seq, result):
                continue
            wanted = self.model.answer(verb, seq, delay)
            assert result in wanted, (verb, seq, result, wanted)
        self.consumer.wait(dead=self.model.letters)  # until it lies there, an ack still ends an event that is given up

    def seek(self):
        last = max(self.model.state)
        seq = self.dice.randint(1, last + 1)
        self.say("seek", seq)
        self.consumer.seek(seq=seq)
        self.model.sought(seq)

    def restart(self):
        hard = self.dice.random() < 0.7
        self.say("kill" if hard else "stop")
        if hard:
            if self.model.max_deliver:  # who is given up must not depend on the last moment
                time.sleep(0.3)
            self.broker.kill()
            self.broker.start()
        else:
            self.broker.restart()
        self.model.crashed(hard and not self.model.max_deliver)

    def state(self):
        """What the broker says of itself is what the model holds."""
        values = list(self.model.state.values())
        view = self.consumer.wait(inflight=values.count("out"))
        self.say("state", view["cursor"])
        first = min(self.model.open(), default=None)
        assert first is None or view["cursor"] < first, (view["cursor"], first)
        self.consumer.wait(dead=self.model.letters)

    def go(self, count):
        self.publish()
        for _ in range(count):
            weights = {self.publish: 4, self.fetch: 10, self.judge: 14, self.seek: 0.3, self.restart: 0.7, self.state: 2}
            self.dice.choices(list(weights), list(weights.values()))[0]()
        for seq in self.model.open():
            if self.model.state[seq] == "waiting":
                assert self.consumer.ack(seq) == "ok"
                self.model.answer("ack", seq, None)
        while self.model.open():
            self.fetch()
            for seq in [seq for seq in self.model.open() if self.model.state[seq] == "out"]:
                assert self.consumer.ack(seq) == "ok", seq
                self.model.answer("ack", seq, None)
        self.consumer.wait(pending=0, inflight=0)
        assert len(self.broker.events("$dead.c")) == self.model.letters


@pytest.mark.parametrize("keys, max_deliver", [(0, 0), (0, 3), (4, 0), (4, 2)])
@pytest.mark.parametrize("seed", [1, 2, *(pytest.param(n, marks=pytest.mark.long) for n in range(3, 40))])
def test_a_consumer_does_what_its_model_does(broker, seed, keys, max_deliver):
    run = Run(broker, seed, keys, max_deliver)
    try:
        run.go(120)
    except BaseException:
        print(f"seed {seed}, keys {keys}, max_deliver {max_deliver}:", *run.steps[-60:], sep="\n  ")
        raise
