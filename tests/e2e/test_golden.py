"""Files kept in tests/data/store open as they always did: whole, damaged, of a newer schema, of the older bus."""
import json
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess
import tempfile

import pytest

from lib.broker import BUILD, PATIENCE

GOLDEN = pathlib.Path(__file__).parent.parent / "data" / "store"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
V1 = EXPECTED["v1"]
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


@pytest.fixture(params=sorted(EXPECTED))
def older(request, tmp_path):
    """A log of each version there was, and what is in it."""
    return pathlib.Path(shutil.copy(GOLDEN / f"{request.param}.db", tmp_path / "log.db")), EXPECTED[request.param]


def last_of_lists(log):
    """The last seq of each topic by the lists of the closed segments."""
    with sqlite3.connect(log) as db:
        rows = list(db.execute("SELECT name, segment, seqs FROM postings JOIN topics ON topics.id = topic ORDER BY segment"))
    db.close()
    return {name: segment * 65536 + int.from_bytes(seqs[-6:-4], "little") for name, segment, seqs in rows}


def test_a_log_of_an_older_version_is_found_as_it_was_left(start_broker, older):
    log, was = older
    closed = last_of_lists(log)
    assert len(closed) == 4
    broker = start_broker(*WINDOW, db=log)
    stats = broker.stats()
    assert (stats["epoch"], stats["last_seq"], stats["events"]) == (was["epoch"], was["last_seq"], len(was["events"]))
    assert broker.events() == was["events"]
    for topic in {event["topic"] for event in was["events"]}:  # by the lists of the closed segment and the open one
        assert broker.events(topic) == [event for event in was["events"] if event["topic"] == topic]
    for message_id, seq in was["gone"].items():
        answer = broker.publish("golden.gone", "whatever", Event_Id=message_id)
        assert (answer["duplicate"], answer["seq"]) == (True, seq)
    page = broker.get("/v1/events?pattern=%23&starting_seq=2").json
    assert page["gap"]["reason"] == "retention" and page["gap"]["to_seq"] == was["deleted_upto"]
    assert broker.publish("golden.t1", "new")["seq"] == was["last_seq"] + 1
    assert broker.stop() == 0
    with sqlite3.connect(log) as db:
        assert [row[0] for row in db.execute("SELECT seq FROM messages WHERE status = 'processed' ORDER BY seq")] == was["acked"]
        assert db.execute("PRAGMA user_version").fetchone()[0] >= 3
        last = dict(db.execute("SELECT name, last_seq FROM topics"))
    db.close()
    for topic, seq in closed.items():  # what the open segment holds need not be there
        assert last[topic] == seq or last[topic] >= 65536
    assert operate("--verify", "--db", log).returncode == 0


def test_a_log_of_an_older_version_is_verified_backed_up_and_repaired(older, tmp_path):
    log, was = older
    before = log.read_bytes()
    n = len(was["events"])
    assert f"{n} events whole, 0 damaged, 0 other problems" in operate("--verify", "--db", log).stdout
    for action, file in (("--backup", tmp_path / "copy.db"), ("--repair", tmp_path / "new.db")):
        answer = operate(action, file, "--db", log)
        assert answer.returncode == 0 and f"{n} events" in answer.stdout and f"{len(was['acked'])} acknowledged" in answer.stdout
        assert (was["epoch"] in answer.stdout) == (action == "--backup")
    assert log.read_bytes() == before


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
        db.execute("PRAGMA user_version = 17")
    db.close()
    said = refusal(start_broker, v1)
    assert "schema version 17" in said and "newer eventbus" in said and "versions up to 3" in said


@pytest.mark.parametrize("length", [60, 75, 76, 85, 86, 130])
def test_the_command_that_takes_an_older_file_over_is_said_whole(start_broker, length):
    """However long the file's name is: a long one is cut, never the command."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        old = pathlib.Path(folder, "n" * (length - len(folder) - 4) + ".db")
        shutil.copy(GOLDEN / "prk_eventbus-0.1.db", old)
        assert len(str(old)) == length
        said = refusal(start_broker, old)
        assert re.search(rf"eventbusd --import ({re.escape(str(old))}|OLD) --db NEW$", said.strip()), said
        assert (str(old) + " --db") in said or length > 85


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
