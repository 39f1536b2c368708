"""Files kept in tests/data/store open as they always did: whole, damaged, of a newer schema, of the older bus."""
import json
import os
import pathlib
import shutil
import sqlite3
import subprocess

import pytest

from lib.broker import BUILD, PATIENCE

GOLDEN = pathlib.Path(__file__).parent.parent / "data" / "store"
V1 = json.loads((GOLDEN / "expected.json").read_text())["v1"]
WINDOW = ("--dedupe-window", "36500d")

ENV = {name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_")}


def operate(*options):
    return subprocess.run([str(BUILD / "broker" / "eventbusd"), *map(str, options)], capture_output=True, text=True, timeout=10 * PATIENCE, env=ENV)


@pytest.fixture
def v1(tmp_path):
    return pathlib.Path(shutil.copy(GOLDEN / "v1.db", tmp_path / "log.db"))


def refusal(start_broker, path):
    """What the start says that refuses the file, which stays as it is."""
    before = path.read_bytes()
    with pytest.raises(RuntimeError) as refused:
        start_broker(db=path)
    assert "EB-START-FAILED" in str(refused.value) and path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) in ([path.name], [path.name, path.name + ".lock"])
    return str(refused.value)


def test_a_log_of_version_1_is_found_as_it_was_left(start_broker, v1):
    broker = start_broker(*WINDOW, db=v1)
    stats = broker.stats()
    assert (stats["epoch"], stats["last_seq"], stats["events"]) == (V1["epoch"], V1["last_seq"], len(V1["events"]))
    assert broker.events() == V1["events"]
    for topic in {event["topic"] for event in V1["events"]}:  # by the lists of the closed segment and the open one
        assert broker.events(topic) == [event for event in V1["events"] if event["topic"] == topic]
    for message_id, seq in V1["gone"].items():
        answer = broker.publish("golden.gone", "whatever", Event_Id=message_id)
        assert (answer["duplicate"], answer["seq"]) == (True, seq)
    page = broker.get("/v1/events?pattern=%23&starting_seq=2").json
    assert page["gap"]["reason"] == "retention" and page["gap"]["to_seq"] == V1["deleted_upto"]
    assert broker.publish("golden.t1", "new")["seq"] == V1["last_seq"] + 1
    assert broker.stop() == 0
    with sqlite3.connect(v1) as db:
        assert [row[0] for row in db.execute("SELECT seq FROM messages WHERE status = 'processed' ORDER BY seq")] == V1["acked"]
        assert db.execute("PRAGMA user_version").fetchone()[0] >= 2
    db.close()
    assert operate("--verify", "--db", v1).returncode == 0


def test_a_log_of_version_1_is_verified_backed_up_and_repaired(v1, tmp_path):
    n = len(V1["events"])
    assert f"{n} events whole, 0 damaged, 0 other problems" in operate("--verify", "--db", v1).stdout
    for action, file in (("--backup", tmp_path / "copy.db"), ("--repair", tmp_path / "new.db")):
        answer = operate(action, file, "--db", v1)
        assert answer.returncode == 0 and f"{n} events" in answer.stdout and f"{len(V1['acked'])} acknowledged" in answer.stdout
        assert (V1["epoch"] in answer.stdout) == (action == "--backup")
    assert v1.read_bytes() == (GOLDEN / "v1.db").read_bytes()


@pytest.mark.parametrize(
    "damage, words",
    [
        (lambda data: data[: len(data) * 3 // 4], "it is cut"),
        (lambda data: data[:-1000], "is damaged"),
        (lambda data: bytes(100) + data[100:], "the header on page 1 is not SQLite's"),
        (lambda data: data[:16] + bytes(84) + data[100:], "the header on page 1 makes no sense"),
        (lambda data: data[:68] + bytes(4) + data[72:], "application_id in the header is not ours"),
        (lambda data: data.replace(b"event 17", b"event 71"), "event 65547 near its end"),
    ],
    ids=["cut by a quarter", "cut in a page", "header zeroed", "header without sense", "application_id zeroed", "payload changed"],
)
def test_a_damaged_log_is_refused_and_repaired(start_broker, v1, tmp_path, damage, words):
    data = damage(v1.read_bytes())
    v1.write_bytes(data)
    said = refusal(start_broker, v1)
    assert words in said and "--repair NEW --db" in said and "--verify --db" in said
    assert operate("--verify", "--db", v1).returncode == 1
    answer = operate("--repair", tmp_path / "new.db", "--db", v1)
    assert v1.read_bytes() == data
    if "cut" in words and answer.returncode == 1:
        return  # all of its events were in what is gone
    assert answer.returncode == 0, answer
    repaired = start_broker(db=tmp_path / "new.db")
    events = repaired.events()
    assert all(event in V1["events"] for event in events)
    if "header" in words:
        assert events == V1["events"]
    if "event" in words:
        assert len(events) == len(V1["events"]) - 1
    assert repaired.stats()["epoch"] != V1["epoch"]


def test_a_newer_schema_is_refused_by_name(start_broker, v1):
    with sqlite3.connect(v1) as db:
        db.execute("PRAGMA user_version = 3")
    db.close()
    said = refusal(start_broker, v1)
    assert "schema version 3" in said and "newer eventbus" in said and "versions up to 2" in said


def test_a_file_of_the_older_bus_is_refused_and_taken_over(start_broker, tmp_path):
    folder = tmp_path / "old"
    folder.mkdir()
    old = pathlib.Path(shutil.copy(GOLDEN / "prk_eventbus-0.1.db", folder / "old.db"))
    said = refusal(start_broker, old)
    assert "prk_eventbus 0.1" in said
    assert f"eventbusd --import {old if len(str(old)) <= 85 else 'OLD'} --db NEW" in said  # a long name is cut, never the command
    answer = operate("--import", old, "--db", tmp_path / "new.db")
    assert answer.returncode == 0 and answer.stderr == "", answer
    assert "message 3" in answer.stdout and "3 events" in answer.stdout and "1 rows were left out" in answer.stdout
    assert old.read_bytes() == (GOLDEN / "prk_eventbus-0.1.db").read_bytes()
    assert [p.name for p in folder.iterdir()] in (["old.db"], ["old.db", "old.db.lock"], ["old.db.lock", "old.db"])
    broker = start_broker(db=tmp_path / "new.db")
    found = [(e["seq"], e["topic"], e["payload"], e["metadata"]["timestamp"]) for e in broker.events()]
    assert found == [
        (1, "user.created", "one", 1700000000000),
        (2, "user.created", "/wA=", 1700000001500),
        (4, "user.deleted", "four", 1700000001500),
    ]
    assert broker.publish("user.created", "next")["seq"] == 5
    broker.stop()
    with sqlite3.connect(tmp_path / "new.db") as db:
        assert [row[0] for row in db.execute("SELECT seq FROM messages WHERE status = 'processed'")] == [1]
        assert db.execute("SELECT count(*) FROM processed_messages WHERE message_id LIKE '0190aaaa%'").fetchone()[0] == 1
    db.close()
