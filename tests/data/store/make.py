#!/usr/bin/python3
"""Make the golden files of this folder: a log of each schema version as its own eventbusd left it, and what is in it.

    EVENTBUS_BUILD=build /usr/bin/python3 tests/data/store/make.py       (makes vN.db of that build's version N; refuses what is there already)

v1.db, v2.db          events with and without headers, ttl, content type, ids of the publisher's, bytes that are not
                      UTF-8; acknowledged ones; a prefix deleted by retention and one deleted by its ttl, whose ids are
                      kept; the end of one segment (seq 65535) and the beginning of the next
prk_eventbus-0.1.db   a file of the older bus, by its schema
expected.json         what must be found in v1.db and v2.db

A file here is never made again once its version was released: it stands for the files that people have.
"""
import json
import pathlib
import sqlite3
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))
from lib.broker import Broker, wait_for  # noqa: E402
from lib.ws import WebSocket  # noqa: E402

WINDOW = ("--dedupe-window", "36500d")  # the ids of what was deleted stay for as long as the tests are run
START = 65530  # the seq before the first: so few events reach into a second segment

OLD = """
CREATE TABLE messages (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL,
 metadata TEXT NOT NULL, ttl INTEGER NOT NULL, status TEXT NOT NULL DEFAULT 'pending');
CREATE TABLE processed_messages (message_id TEXT PRIMARY KEY);
"""


def uuid(n):
    return f"0190aaaa-bbbb-7ccc-8ddd-eeeeffff{n:04x}"


def publish_all(broker):
    with WebSocket(broker.port) as ws:
        for n in range(1, 21):
            data = {"topic": f"golden.t{n % 4}", "payload": f"event {n}", "message_id": uuid(n)}
            if n % 3 == 0:
                data["headers"] = {"n": str(n), "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
            if n % 4 == 0:
                data |= {"content_type": "application/octet-stream", "payload": "/wCA", "payload_encoding": "base64"}
            if n % 5 == 0:
                data["message_id"] = f"order-{n}"  # becomes a UUIDv5, and stands in the headers
            if n == 13:
                data["payload"] = "long " * 2000  # overflow pages
            ttl = 1 if n == 14 else 3_000_000_000 if n % 7 == 0 else 0
            assert ws.call(type="publish", data=data, ttl=ttl)["type"] == "ok"
        for seq in (START + 5, START + 7, START + 9):
            assert ws.call(type="ack", seq=seq)["type"] == "ok"


def make_log(path):
    broker = Broker(WINDOW, db=path).start()
    broker.stop()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'last_seq'", (START,))
    db.close()
    broker.start()
    publish_all(broker)
    wait_for(lambda: broker.stats()["events"] == 19, what="the end of the event with a ttl of a second")
    broker.stop()
    broker.options += ["--retention-events", "16"]
    broker.start()
    wait_for(lambda: broker.stats()["events"] == 16, what="retention")
    broker.stop()
    broker.options = list(WINDOW)
    broker.start()
    stats = broker.stats()
    events = broker.events()
    broker.stop()
    there = {event["seq"] for event in events}
    return {
        "epoch": stats["epoch"],
        "last_seq": stats["last_seq"],
        "events": events,
        "acked": [START + 5, START + 7, START + 9],
        "gone": {uuid(n): START + n for n in range(1, 21) if n % 5 and START + n not in there},
        "deleted_upto": START + 3,
    }


def make_old(path):
    with sqlite3.connect(path) as db:
        db.executescript(OLD)
        db.executemany(
            "INSERT INTO messages(topic, payload, metadata, ttl, status) VALUES(?, ?, ?, ?, ?)",
            [
                ("user.created", b"one", '{"timestamp":1700000000,"content_type":"text/plain"}', 0, "delivered"),
                ("user.created", b"\xff\x00", '{"timestamp":1700000001500,"content_type":"application/json"}', 0, "pending"),
                ("bad topic", b"three", '{"timestamp":1700000002,"content_type":"text/plain"}', 0, "pending"),
                ("user.deleted", b"four", '{"timestamp":1700000001,"content_type":"text/plain"}', 0, "pending"),
            ],
        )
        db.execute("INSERT INTO processed_messages VALUES('0190aaaa-bbbb-4ccc-8ddd-eeeeffff0001')")
    db.close()


def main():
    with tempfile.TemporaryDirectory() as folder:
        log, old, known = pathlib.Path(folder) / "log.db", pathlib.Path(folder) / "old.db", HERE / "expected.json"
        expected = json.loads(known.read_text()) if known.exists() else {}
        content = make_log(log)
        with sqlite3.connect(log) as db:
            name = f"v{db.execute('PRAGMA user_version').fetchone()[0]}"
        db.close()
        with open(HERE / f"{name}.db", "xb") as target:
            target.write(log.read_bytes())
        known.write_text(json.dumps(expected | {name: content}, indent=1, ensure_ascii=False) + "\n")
        if not (HERE / "prk_eventbus-0.1.db").exists():
            make_old(old)
            (HERE / "prk_eventbus-0.1.db").write_bytes(old.read_bytes())


if __name__ == "__main__":
    main()
