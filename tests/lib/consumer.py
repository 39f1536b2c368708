"""A durable consumer as its users see it: over HTTP (Consumer), and from a worker's WebSocket (Worker)."""
import json

from lib.broker import wait_for
from lib.ws import JSON_V1, WebSocket

JSON = {"Content-Type": "application/json"}
PUSH_LOCAL = ("--webhook-allow", "127.0.0.0/8")  # a broker that may call webhooks on this machine


def members(settings):
    """Python's own words have a _ behind: from_="all" is "from"."""
    return {name.rstrip("_"): value for name, value in settings.items()}


class Consumer:
    """make=False: it is only named, and made by put() or by a worker."""

    def __init__(self, broker, name, make=True, **settings):
        self.broker, self.name = broker, name
        if make:
            answer = self.put(**settings)
            assert answer.status == 201, answer

    # ---- requests, as answers ----
    def call(self, method, path="", body=None, **kwargs):
        text = None if body is None else json.dumps(body)
        return self.broker.request(method, f"/v1/consumers/{self.name}{path}", text, JSON if text is not None else {}, **kwargs)

    def put(self, **settings):
        return self.call("PUT", body=members(settings))

    def delete(self):
        return self.call("DELETE")

    def try_fetch(self, **body):
        return self.call("POST", "/fetch", body)

    def judge(self, verb, *seqs, **more):
        return self.call("POST", f"/{verb}", {"seqs": list(seqs), **more})

    # ---- requests that must work, as what they are about ----
    def fetch(self, max=1, wait=10, **more):
        """Events; by default one, waited for."""
        answer = self.try_fetch(max=max, wait=wait, **more)
        assert answer.status == 200, answer
        return answer.json["events"]

    def fetch_all(self, count, **more):
        """Exactly so many, over as many fetches as it takes."""
        events = []
        while len(events) < count:
            got = self.fetch(max=min(1000, count - len(events)), **more)
            assert got, f"{len(events)} of {count} events came"
            events += got
        return events

    def _results(self, verb, seqs, more):
        answer = self.judge(verb, *seqs, **more)
        assert answer.status == 200, answer
        results = answer.json["results"]
        assert [r["seq"] for r in results] == list(seqs), results
        words = [r["result"] for r in results]
        assert set(words) <= {"ok", "late", "unknown"}, words
        return words[0] if len(words) == 1 else words

    def ack(self, *seqs, **more):
        return self._results("ack", seqs, more)

    def nack(self, *seqs, **more):
        return self._results("nack", seqs, more)

    def term(self, *seqs, **more):
        return self._results("term", seqs, more)

    def in_progress(self, *seqs, **more):
        return self._results("in_progress", seqs, more)

    def seek(self, **where):
        answer = self.call("POST", "/seek", where)
        assert answer.status == 200, answer
        return answer

    def dead(self):
        """The dead letters that wait, as events."""
        answer = self.call("GET", "/dead?limit=1000")
        assert answer.status == 200, answer
        return answer.json["events"]

    def redrive(self, *seqs):
        answer = self.call("POST", "/dead/redrive", {"seqs": list(seqs)} if seqs else {})
        assert answer.status == 200, answer
        return answer.json

    # ---- what it shows ----
    def view(self):
        """Settings and state as one flat table."""
        answer = self.call("GET")
        assert answer.status == 200, answer
        return flat(answer.json)

    def wait(self, **wanted):
        """Until its state shows these values."""
        return wait_for(lambda: (view := self.view()) and all(view.get(k) == v for k, v in wanted.items()) and view, timeout=20, what=f"{wanted} of {self.name}")


def flat(shown):
    view = {}
    for name, value in shown.items():
        if name in ("settings", "state") and isinstance(value, dict):
            view.update(value)
        elif name == "lag" and isinstance(value, dict):
            view.update({f"lag_{unit}": amount for unit, amount in value.items()})
        else:
            view[name] = value
    return view


class Worker:
    """A WebSocket of its own that consumes; settings (a dict) makes the consumer when there is none."""

    def __init__(self, broker, name, settings=None, rcvbuf=None, **more):
        self.name = name
        self.ws = WebSocket(broker.port, JSON_V1, rcvbuf=rcvbuf)
        self.ws.sock.settimeout(20)
        if settings is not None:
            more["settings"] = members(settings)
        answer = self.ws.call(type="consume", consumer=name, **more)
        assert answer["type"] == "ok", answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.ws.sock.close()

    def close(self):
        self.ws.sock.close()

    def next(self, kind="event"):
        """The next message about the consumer, which must be of that kind."""
        while True:
            message = self.ws.recv()
            if message.get("consumer") == self.name:
                assert message["type"] == kind, message
                return message

    def take(self, count=1):
        return [self.next() for _ in range(count)]

    def call(self, verb, *seqs, **more):
        return self.ws.call(type=verb, consumer=self.name, seqs=list(seqs), **more)

    def _results(self, verb, seqs, more):
        answer = self.call(verb, *seqs, **more)
        assert answer["type"] == "ok", answer
        words = [r["result"] for r in answer["results"]]
        assert [r["seq"] for r in answer["results"]] == list(seqs), answer
        return words[0] if len(words) == 1 else words

    def ack(self, *seqs, **more):
        return self._results("ack", seqs, more)

    def nack(self, *seqs, **more):
        return self._results("nack", seqs, more)

    def term(self, *seqs, **more):
        return self._results("term", seqs, more)

    def in_progress(self, *seqs, **more):
        return self._results("in_progress", seqs, more)

    def release(self):
        answer = self.ws.call(type="release", consumer=self.name)
        assert answer["type"] == "ok", answer

    def waiting(self):
        """Deliveries that came while an answer was waited for."""
        return [m for m in self.ws.pending if m["type"] == "event" and m.get("consumer") == self.name]


def seqs(events):
    return [event["seq"] for event in events]


def publish_many(broker, topic, count, headers=None, ttl=None):
    """count events with payloads "0", "1", …, in one batch; returns their seqs."""
    messages = [{"topic": topic, "payload": str(n), **({"headers": headers(n)} if headers else {})} for n in range(count)]
    body = {"messages": messages, **({"ttl": ttl} if ttl is not None else {})}
    answer = broker.request("POST", "/v1/events", json.dumps(body), JSON)
    assert answer.status == 201, answer
    return [result["seq"] for result in answer.json["results"]]
