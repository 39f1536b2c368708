"""One worker of the chaos test, a process of its own: python3 chaos_worker.py PORT CONSUMER SEED LEDGER ACK_WAIT WILD.
It handles events until its standard input ends, and meanwhile crashes, hangs, nacks and vanishes as its dice say. What
it is about to do, and what it was given and told, it first writes to its ledger (lib/chaos.py reads that), by one write
each, so that its death takes no line with it."""
import os
import pathlib
import queue
import random
import signal
import sys
import threading
import time

HERE = pathlib.Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent))
from lib.ws import Closed, WebSocket  # noqa: E402

CRASH, VANISH, HANG = 0.0004, 0.001, 0.0008  # of an event, times WILD
NACK, PROGRESS = 0.04, 0.02


class Life:
    """What outlives a connection: the ledger, the dice, whether the end was asked for."""

    def __init__(self, port, consumer, seed, ledger, ack_wait, wild):
        self.port, self.consumer, self.ack_wait, self.wild = int(port), consumer, float(ack_wait), float(wild)
        self.dice = random.Random(int(seed))
        self.fd = os.open(ledger, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self.connections = 0
        self.over = threading.Event()

    def say(self, kind, connection, *words):
        os.write(self.fd, (" ".join([kind, f"{time.monotonic():.6f}", f"{os.getpid()}.{connection}", *map(str, words)]) + "\n").encode())


class Connection:
    """A reader thread, which notes what comes the moment it comes, and the hands, which take their time."""

    def __init__(self, life):
        self.life = life
        life.connections += 1
        self.number = life.connections
        self.events = queue.Queue()
        self.asked = {}  # id -> seq of an ack
        self.ws = WebSocket(life.port)
        self.ws.sock.settimeout(None)
        answer = self.ws.call(type="consume", consumer=life.consumer, max_inflight=life.dice.randint(1, 64))
        if answer["type"] != "ok":
            raise Closed(None, str(answer).encode())
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def say(self, kind, *words):
        self.life.say(kind, self.number, *words)

    def read(self):
        try:
            while True:
                message = self.ws.recv()
                if message["type"] == "event":
                    key = message["metadata"].get("headers", {}).get("key", "-")
                    self.say("D", message["seq"], message["delivery"], key)
                    self.events.put(message)
                elif message["type"] == "ok":
                    for result in message["results"]:
                        self.say("R", result["seq"], result["result"], self.asked.pop(message["id"], "ack"))
                elif message["type"] == "error":
                    self.say("F", message["code"], message["message"].replace(" ", "_"))
        except (Closed, OSError, ValueError):
            self.say("E")
            self.events.put(None)

    def ask(self, verb, event, **more):
        id = f"{verb}-{event['seq']}-{event['delivery']}-{self.life.dice.random()}"
        self.asked[id] = verb
        self.say({"ack": "A", "nack": "N", "term": "T", "in_progress": "P"}[verb], event["seq"], event["delivery"])
        self.ws.send({"type": verb, "id": id, "consumer": self.life.consumer, "seq": event["seq"], **more})

    def handle(self, event):
        """False: it has left its connection."""
        dice = self.life.dice
        if event["payload"].startswith("poison"):
            self.ask("nack", event, delivery=event["delivery"])
            return True
        if event["payload"].startswith("term"):
            self.ask("term", event, reason="as it says", delivery=event["delivery"])
            return True
        chance = dice.random()
        if (chance := chance - CRASH * self.life.wild) < 0:
            self.say("X")
            os.kill(os.getpid(), signal.SIGKILL)
        if (chance := chance - VANISH * self.life.wild) < 0:
            self.say("V")
            return False
        if (chance := chance - HANG * self.life.wild) < 0:
            self.life.over.wait(self.life.ack_wait * dice.uniform(0.5, 1.6))
        elif (chance := chance - NACK) < 0:
            self.ask("nack", event, delivery=event["delivery"], **dice.choice([{}, {"delay": 0}, {"delay": 0.05}, {"delay": 0.3}]))
            return True
        elif chance < PROGRESS:
            self.ask("in_progress", event)
        self.ask("ack", event)
        return True

    def work(self):
        try:
            while not self.life.over.is_set():
                try:
                    event = self.events.get(timeout=0.1)
                except queue.Empty:
                    continue
                if event is None or not self.handle(event):
                    return
        except (OSError, BrokenPipeError):
            pass
        finally:
            if self.life.over.is_set():
                time.sleep(0.3)  # the answers to the last acks
            self.say("V")
            self.ws.sock.shutdown(2) if self.thread.is_alive() else None
            self.thread.join(10)
            self.ws.sock.close()


def main(*args):
    life = Life(*args)
    threading.Thread(target=lambda: (sys.stdin.read(), life.over.set()), daemon=True).start()
    while not life.over.is_set():
        try:
            Connection(life).work()
        except (Closed, OSError, AssertionError, ValueError):
            time.sleep(0.02)  # the broker is away


if __name__ == "__main__":
    main(*sys.argv[1:])
