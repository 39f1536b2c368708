"""An outside ledger: what publishers sent and were answered, what subscribers were given, held against the log.

Publishers and subscribers run on threads of their own and live through any number of broker deaths: a publisher
sends again, under the same message ids, what was not answered (or, when it does not retry, leaves it open), a
subscriber resumes behind its last seq with the epoch. The ledger judges when all is quiet.

(L1) A publish is `acked` with a seq, or open. An open one may be in the log or not; once or not at all.
(L2) Every answer for one message id names the same seq, whoever asks and whenever.
(L3) The topic of publisher N is crash.N (and crash.N.batch), so order within a publisher can be judged.
"""
import http.client
import json
import random
import threading
import time
import uuid

from lib.rawhttp import RawHttp
from lib.ws import Closed, WebSocket
from lib.ws_bin import BinaryWebSocket

BROKEN = (OSError, EOFError, Closed, http.client.HTTPException, ValueError)


class Entry:
    __slots__ = ("id", "topic", "payload", "group", "seqs", "answers", "attempts", "refused")

    def __init__(self, topic, payload, group):
        self.id = str(uuid.uuid4())
        self.topic, self.payload, self.group = topic, payload, group
        self.seqs = set()
        self.answers = 0
        self.attempts = 0
        self.refused = []

    @property
    def data(self):
        return {"topic": self.topic, "payload": self.payload, "message_id": self.id}


class Publisher(threading.Thread):
    """One publisher: kind is http, ws or bin (eventbus.bin.v1), each with or without _batch."""

    def __init__(self, number, kind, port, retry=True, window=64):
        super().__init__(daemon=True, name=f"publisher-{number}")
        self.number, self.kind, self.port, self.retry, self.window = number, kind, port, retry, window
        self.random = random.Random(number)
        self.entries = []
        self.open = []  # groups (lists of entries) sent and not answered
        self.acked = 0
        self.groups = 0
        self.stop_asked = False
        self.failure = None

    # ---- what to send ----
    def group(self):
        self.groups += 1
        size = self.random.choice([1, 2, 7, 40, 200]) if self.kind.endswith("batch") else 1
        topic = f"crash.{self.number}" + (".batch" if self.kind.endswith("batch") else "")
        made = [Entry(topic, f"{self.number}:{self.groups}:{i} " + "x" * self.random.choice([0, 10, 300]), (self.number, self.groups)) for i in range(size)]
        self.entries += made
        return made

    # ---- the run ----
    def run(self):
        try:
            while not (self.stop_asked and not (self.open and self.retry)):
                try:
                    self.session()
                except BROKEN:
                    if not self.retry:
                        self.open = []
                    time.sleep(0.01)
        except Exception as error:  # noqa: BLE001: shown by the test's thread
            self.failure = error

    def session(self):
        """One connection, from its making to its end."""
        if not self.kind.startswith("http"):
            with BinaryWebSocket(self.port) if self.kind.startswith("bin") else WebSocket(self.port) as ws:
                ws.sock.settimeout(60)
                self.talk(lambda groups: self.ws_round(ws, groups))
        else:
            connection = RawHttp(self.port, 60)
            with connection:
                connection.socket.setsockopt(6, 1, 1)
                self.talk(lambda groups: self.http_round(connection, groups))

    def talk(self, round):
        while True:
            again = list(self.open)
            if not again and self.stop_asked:
                return
            limit = self.window if self.kind in ("ws", "bin") else 1
            groups = again[:limit] or [self.group() for _ in range(limit)]
            if not again:
                self.open += groups
            round(groups)

    def answered(self, group, results):
        assert len(results) == len(group), (group, results)
        for entry, result in zip(group, results):
            assert result["message_id"] == entry.id, (entry.id, result)
            if entry.answers == 0 and entry.attempts == 1:
                assert not result["duplicate"], (entry.id, result)
            entry.answers += 1
            entry.seqs.add(result["seq"])
        if group in self.open:
            self.open.remove(group)
        self.acked += len(group)

    def sent(self, group):
        for entry in group:
            entry.attempts += 1

    def ws_round(self, ws, groups):
        requests = []
        for i, group in enumerate(groups):
            self.sent(group)
            if self.kind.endswith("batch"):
                requests.append({"type": "publish_batch", "id": i, "messages": [entry.data for entry in group]})
            else:
                requests.append({"type": "publish", "id": i, "data": group[0].data})
        ws.send_all(requests)
        for _ in groups:
            answer = ws.next()
            if answer["type"] != "ok":
                raise AssertionError(answer)
            self.answered(groups[answer["id"]], answer.get("results") or [answer])

    def http_round(self, connection, groups):
        group = groups[0]
        self.sent(group)
        if self.kind == "http":
            path, body, headers = f"/v1/topics/{group[0].topic}/events", group[0].payload, f"Event-Id: {group[0].id}\r\nContent-Type: text/plain\r\n"
        else:
            path, body, headers = "/v1/events", json.dumps({"messages": [entry.data for entry in group]}), "Content-Type: application/json\r\n"
        connection.send(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n{headers}\r\n{body}")
        answer = connection.answer()
        if answer.status not in (200, 201):
            if answer.status == 503:  # it is going down in order
                raise EOFError
            raise AssertionError(answer)
        self.answered(group, answer.json["results"] if self.kind == "http_batch" else [answer.json])


class Subscriber(threading.Thread):
    """Reads a pattern through all deaths of the broker: resumes behind its last seq, with the epoch."""

    def __init__(self, port, pattern, transport):
        super().__init__(daemon=True, name=f"subscriber-{transport}-{pattern}")
        self.port, self.pattern, self.transport = port, pattern, transport
        self.got = []  # (seq, message_id)
        self.last = 0
        self.epoch = None
        self.sessions = 0
        self.gaps = []
        self.errors = []
        self.stop_asked = False
        self.failure = None
        self.current = None

    def stop(self):
        self.stop_asked = True
        current = self.current
        if current:
            try:
                current.shutdown(2)
            except OSError:
                pass

    def run(self):
        while not self.stop_asked:
            try:
                self.sse_session() if self.transport == "sse" else self.ws_session()
            except BROKEN:
                time.sleep(0.01)
            except Exception as error:  # noqa: BLE001
                self.failure = error
                return

    def take(self, message):
        self.got.append((message["seq"], message["message_id"]))
        self.last = message["seq"]

    def ws_session(self):
        with BinaryWebSocket(self.port) if self.transport == "bin" else WebSocket(self.port) as ws:
            self.current = ws.sock
            self.sessions += 1
            request = {"type": "subscribe", "id": 1, "pattern": self.pattern, "starting_seq": self.last + 1}
            if self.epoch:
                request["epoch"] = self.epoch
            ws.send(request)
            while not self.stop_asked:
                message = ws.next()
                if message["type"] == "event":
                    self.take(message)
                elif message["type"] == "gap":
                    self.gaps.append(message)
                elif message["type"] == "ok":
                    self.epoch = message["epoch"]
                elif message["type"] == "error":
                    self.errors.append(message)

    def sse_session(self):
        from lib.sse import Sse

        headers = [("Last-Event-ID", f"{self.last}@{self.epoch}")] if self.epoch else []
        with Sse(self.port, f"pattern={self.pattern.replace('#', '%23')}&starting_seq=0&epoch={self.epoch or ''}".removesuffix("&epoch="), headers, timeout=60) as sse:
            self.current = sse.http.socket
            if sse.status != 200:
                if sse.status != 503:
                    self.errors.append(sse.status)
                raise EOFError
            self.sessions += 1
            self.epoch = sse.open["epoch"]
            while not self.stop_asked:
                event = sse.next()
                if event is None:
                    raise EOFError
                if event.event == "message":
                    self.take(event.json)
                elif event.event == "gap":
                    self.gaps.append(event.json)


def check_publishers(publishers, log):
    """log: every event as GET /v1/events shows it. Raises with the first broken promise."""
    by_id, seqs = {}, set()
    for event in log:
        assert event["seq"] not in seqs, f"seq {event['seq']} stands twice in the log"
        seqs.add(event["seq"])
        assert event["message_id"] not in by_id, f"{event['message_id']} is stored twice: {by_id[event['message_id']]['seq']}, {event['seq']}"
        by_id[event["message_id"]] = event
    given = {}
    for publisher in publishers:
        if publisher.failure:
            raise publisher.failure
        for entry in publisher.entries:
            assert len(entry.seqs) <= 1, f"answers for {entry.id} name several seqs: {entry.seqs}"
            stored = by_id.get(entry.id)
            for seq in entry.seqs:
                assert given.setdefault(seq, entry.id) == entry.id, f"seq {seq} was given to {given[seq]} and {entry.id}"
                assert stored, f"acked and lost: {entry.id} seq {seq} of {publisher.name}"
                assert stored["seq"] == seq, (stored, seq)
            if stored:
                assert (stored["topic"], stored["payload"]) == (entry.topic, entry.payload), (stored, entry.data)
        check_groups(publisher, by_id)
    known = {entry.id for publisher in publishers for entry in publisher.entries}
    strangers = [event["seq"] for event in log if event["message_id"] not in known and event["topic"].startswith("crash.")]
    assert not strangers, f"events that nobody published: {strangers[:10]}"


def check_groups(publisher, by_id):
    """A batch is there whole, with consecutive seqs, or not at all; a publisher's groups are in its order."""
    groups = {}
    for entry in publisher.entries:
        groups.setdefault(entry.group, []).append(by_id.get(entry.id))
    last = 0
    for group, events in groups.items():
        present = [event["seq"] for event in events if event]
        assert len(present) in (0, len(events)), f"{publisher.name}: a part of batch {group} is stored: {len(present)} of {len(events)}"
        if not present:
            continue
        assert present == list(range(present[0], present[0] + len(present))), f"{publisher.name}: batch {group} has seqs {present[:5]}…"
        assert present[0] > last, f"{publisher.name}: {group} at {present[0]} stands before its predecessor at {last}"
        last = present[-1]


def check_subscriber(subscriber, log, matching):
    """No gap, no repeat, nothing that is not in the log."""
    from lib.swarm import assert_same

    if subscriber.failure:
        raise subscriber.failure
    assert not subscriber.gaps and not subscriber.errors, (subscriber.name, subscriber.gaps[:3], subscriber.errors[:3])
    ids = {event["seq"]: event["message_id"] for event in log}
    for seq, id in subscriber.got:
        assert ids.get(seq) == id, f"{subscriber.name} was given {seq} {id}; the log has {ids.get(seq)} there"
    assert_same([seq for seq, _ in subscriber.got], matching, subscriber.name)
