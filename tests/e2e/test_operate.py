"""What an operator types: backup, restore, verify and repair, beside a running broker and on damaged files.

Import is in test_golden.py, with the older bus's file.
"""
import os
import pathlib
import pty
import select
import sqlite3
import subprocess

import pytest

from lib.broker import BUILD, PATIENCE, wait_for
from lib.load import Load

DAEMON = str(BUILD / "broker" / "eventbusd")

OLD_BUS = pathlib.Path(__file__).parent.parent / "data" / "store" / "prk_eventbus-0.1.db"

ENV = {name: value for name, value in os.environ.items() if not name.startswith("EVENTBUS_")}


def operate(*options, timeout=10 * PATIENCE):
    return subprocess.run([DAEMON, *map(str, options)], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL, env=ENV)


def worked(*options):
    answer = operate(*options)
    assert answer.returncode == 0, answer
    assert answer.stderr == "", "no progress where there is no terminal"
    return answer


def a_log(start_broker, count=50):
    """A stopped broker's log of events that can be found in the file by their payload."""
    broker = start_broker()
    for n in range(1, count + 1):
        broker.publish(f"op.t{n % 3}", f"needle-{n:04}-end", Event_TTL="0" if n % 2 else "86400")
    epoch = broker.stats()["epoch"]
    assert broker.stop() == 0
    return broker, epoch


def flip(path, needle):
    """Change one bit of an event's payload in the file."""
    data = bytearray(path.read_bytes())
    at = data.find(needle)
    assert at > 0
    data[at] ^= 1
    path.write_bytes(data)


def content(broker):
    return [(e["seq"], e["message_id"], e["topic"], e["payload"], e["metadata"]) for e in broker.events()]


def test_a_backup_beside_a_loaded_broker_is_a_prefix_and_publishes_go_on(start_broker, tmp_path):
    broker = start_broker()
    load = Load(broker.port, count=20000, topics=["load.a", "load.b"], size=300)
    load.wait()
    load = Load(broker.port, topics=["load.a", "load.b"], size=300, rate=3000)
    try:
        before = broker.stats()["last_seq"]
        copies = []
        for n in range(2):
            copy = tmp_path / f"copy{n}.db"
            worked("--backup", copy, "--db", broker.db)
            copies.append(copy)
        after = broker.stats()
        wait_for(lambda: broker.stats()["last_seq"] > after["last_seq"], what="publishes after the backup")
    finally:
        load.stop()
        load.wait()
    assert after["wal_bytes"] < 64 << 20
    assert broker.stop() == 0
    with sqlite3.connect(broker.db) as log:
        whole = log.execute("SELECT seq, topic, payload, metadata FROM messages ORDER BY seq").fetchall()
    last = 0
    for copy in copies:
        worked("--verify", "--db", copy)
        with sqlite3.connect(copy) as db:
            rows = db.execute("SELECT seq, topic, payload, metadata FROM messages ORDER BY seq").fetchall()
        assert before <= len(rows) <= after["last_seq"] and len(rows) >= last
        assert rows == whole[: len(rows)]
        last = len(rows)


def test_a_restored_log_is_the_same_under_a_new_epoch(start_broker, tmp_path):
    broker, epoch = a_log(start_broker)
    said = worked("--backup", tmp_path / "copy.db", "--db", broker.db)
    assert epoch in said.stdout and "50 events on 3 topics" in said.stdout
    said = worked("--restore", tmp_path / "copy.db", "--db", tmp_path / "new.db")
    assert "50 events on 3 topics" in said.stdout and epoch not in said.stdout
    restored = start_broker(db=tmp_path / "new.db")
    assert restored.stats()["epoch"] != epoch and restored.stats()["last_seq"] == 50
    broker.start()
    assert content(restored) == content(broker)
    page = restored.get(f"/v1/events?pattern=%23&starting_seq=40&epoch={epoch}").json
    assert page["gap"]["reason"] == "epoch"
    assert restored.publish("op.more", "x")["seq"] == 51


def test_verify_says_by_its_status_whether_all_is_whole(start_broker, tmp_path):
    broker, _ = a_log(start_broker)
    assert "50 events whole, 0 damaged, 0 other problems" in worked("--verify", "--db", broker.db).stdout
    flip(broker.db, b"needle-0017")
    before = broker.db.read_bytes()
    answer = operate("--verify", "--db", broker.db)
    assert answer.returncode == 1 and "lost: event 17" in answer.stdout and "49 events whole, 1 damaged" in answer.stdout
    assert broker.db.read_bytes() == before
    answer = operate("--verify", "--db", tmp_path / "nowhere.db")
    assert answer.returncode == 1 and "nowhere.db" in answer.stderr


def test_verify_beside_a_running_broker(broker):
    broker.publish("op.x", "x")
    assert "1 events whole" in worked("--verify", "--db", broker.db).stdout


def test_a_backup_of_a_damaged_log_is_made_and_says_what_it_lacks(start_broker, tmp_path):
    broker, epoch = a_log(start_broker)
    broker.start()
    Load(broker.port, count=3000, size=300).wait()  # what is damaged is far from the end: the broker starts
    broker.stop()
    flip(broker.db, b"needle-0017")
    broker.start()
    answer = operate("--backup", tmp_path / "copy.db", "--db", broker.db)
    assert answer.returncode == 3
    assert "lost: event 17" in answer.stdout and "3049 events" in answer.stdout and epoch in answer.stdout
    assert "--repair NEW --db" in answer.stderr and "lacks" in answer.stderr
    worked("--verify", "--db", tmp_path / "copy.db")
    with sqlite3.connect(tmp_path / "copy.db") as db:
        assert [row[0] for row in db.execute("SELECT seq FROM log")] == [n for n in range(1, 3051) if n != 17]


def test_repair_brings_back_all_that_is_whole(start_broker, tmp_path):
    broker, epoch = a_log(start_broker)
    broker.start()
    whole = content(broker)
    broker.stop()
    flip(broker.db, b"needle-0017")
    data = bytearray(broker.db.read_bytes())
    data[:100] = bytes(100)  # and the header: no program would know it for a database
    broker.db.write_bytes(data)
    with pytest.raises(RuntimeError) as refused:
        broker.start()
    assert "--repair NEW --db" in str(refused.value) and "EB-START-FAILED" in str(refused.value)
    answer = operate("--repair", tmp_path / "new.db", "--db", broker.db)
    assert answer.returncode == 0, answer
    assert "lost" in answer.stdout or "event 17" in answer.stdout
    assert broker.db.read_bytes() == data
    repaired = start_broker(db=tmp_path / "new.db")
    assert content(repaired) == [event for event in whole if event[0] != 17]
    assert repaired.stats()["epoch"] != epoch and repaired.publish("op.more", "x")["seq"] == 51


def test_repair_does_not_touch_a_log_in_use(broker, tmp_path):
    answer = operate("--repair", tmp_path / "new.db", "--db", broker.db)
    assert answer.returncode == 1 and "a broker is running on" in answer.stderr and not (tmp_path / "new.db").exists()


@pytest.mark.parametrize("action", ["--backup", "--restore", "--repair", "--import"])
def test_nothing_is_overwritten(start_broker, tmp_path, action):
    broker, _ = a_log(start_broker, 3)
    there = tmp_path / "there.db"
    there.write_bytes(b"precious")
    source = broker.db
    if action == "--import":
        source = OLD_BUS
    file, db = (there, source) if action in ("--backup", "--repair") else (source, there)
    answer = operate(action, file, "--db", db)
    assert answer.returncode == 1
    assert "there.db is there already" in answer.stderr and "name a file that is not there" in answer.stderr
    assert there.read_bytes() == b"precious" and not list(tmp_path.glob("*.part-*"))
    there.unlink()
    there.symlink_to(tmp_path / "elsewhere.db")  # a link that points nowhere is a name taken as well
    assert operate(action, file, "--db", db).returncode == 1 and there.is_symlink() and not (tmp_path / "elsewhere.db").exists()


@pytest.mark.parametrize("action", ["--backup", "--restore", "--repair", "--import", "--verify"])
def test_a_source_that_is_not_there_or_not_a_log_is_named(tmp_path, action):
    for source, text in ((tmp_path / "nowhere.db", None), (tmp_path / "text.db", "not a database, only words\n" * 100)):
        if text:
            source.write_text(text)
        file, db = (tmp_path / "new.db", source) if action in ("--backup", "--repair") else (source, tmp_path / "new.db")
        options = ["--verify", "--db", source] if action == "--verify" else [action, file, "--db", db]
        answer = operate(*options)
        assert answer.returncode == 1 and source.name in answer.stderr and not (tmp_path / "new.db").exists(), answer
        assert not list(tmp_path.glob("*.part-*"))


def test_progress_is_drawn_on_a_terminal_only(start_broker, tmp_path):
    broker, _ = a_log(start_broker, 5)
    inside, outside = pty.openpty()
    process = subprocess.Popen([DAEMON, "--backup", str(tmp_path / "copy.db"), "--db", str(broker.db)], stderr=outside, stdout=subprocess.PIPE, text=True, env=ENV)
    os.close(outside)
    drawn = b""
    while select.select([inside], [], [], PATIENCE)[0]:
        try:
            part = os.read(inside, 4096)
        except OSError:  # the terminal's end
            break
        if not part:
            break
        drawn += part
    os.close(inside)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert b"\rbackup [" in drawn and b"100%" in drawn and drawn.endswith(b"\n")
    assert "\r" not in out and "5 events" in out


def test_a_link_to_a_log_is_that_log(start_broker, tmp_path):
    """Through a symbolic link: the same lock, the same WAL, and a second broker is refused by either name."""
    real = tmp_path / "disk"
    real.mkdir()
    link = tmp_path / "link.db"
    broker = start_broker(db=real / "log.db")
    broker.publish("op.link", "one")
    link.symlink_to(real / "log.db")
    with pytest.raises(RuntimeError) as refused:
        start_broker(db=link)
    assert "in use by another broker" in str(refused.value) and str(broker.pid) in str(refused.value)
    worked("--backup", tmp_path / "copy.db", "--db", link)
    broker.kill()  # leaves a WAL beside the real file
    second = start_broker(db=link)
    assert [e["payload"] for e in second.events()] == ["one"]
    second.publish("op.link", "two")
    with pytest.raises(RuntimeError) as refused:
        start_broker(db=real / "log.db")
    assert "in use by another broker" in str(refused.value)
    assert second.stop() == 0
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("link")) == ["link.db"]
    assert "2 events whole" in worked("--verify", "--db", link).stdout


# ---- what is kept beside the events ----


def kept(path):
    """All that a log keeps for consumers, and what waits, as rows."""
    with sqlite3.connect(path) as db:
        found = [db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in ("consumers", "open_blocks", "dead_letters", "marks", "scheduled")]
    db.close()
    return found


def a_log_with_consumers(start_broker):
    """As a broker leaves it: 50 events, of them one a dead letter, 5 for later, and two consumers."""
    broker, _ = a_log(start_broker)
    broker.start()
    for n in range(1, 6):
        assert broker.request("POST", "/v1/topics/op.later/events", f"later {n}", {"Event-Delay": "100000"}).status == 202
    assert broker.stop() == 0
    with sqlite3.connect(broker.db) as db:
        db.executescript(
            """INSERT INTO consumers VALUES(1, 'mail', '{}', 5, 41, 17, 1, 1, 0, NULL), (4, 'push', '{}', 6, 51, 51, 0, 0, 2, '410');
            INSERT INTO open_blocks VALUES(1, 0, x'0102');
            INSERT INTO dead_letters VALUES(1, 9);
            INSERT INTO marks VALUES('outbox', 33);"""
        )
    db.close()
    return broker


def test_a_copy_has_its_consumers_and_what_waits(start_broker, tmp_path):
    broker = a_log_with_consumers(start_broker)
    was = kept(broker.db)
    assert [len(rows) for rows in was] == [2, 1, 1, 1, 5]
    said = worked("--backup", tmp_path / "copy.db", "--db", broker.db)
    assert "2 consumers, 5 scheduled" in said.stdout and kept(tmp_path / "copy.db") == was
    worked("--verify", "--db", tmp_path / "copy.db")
    said = worked("--restore", tmp_path / "copy.db", "--db", tmp_path / "new.db")
    assert "2 consumers, 5 scheduled" in said.stdout and kept(tmp_path / "new.db") == was
    restored = start_broker(db=tmp_path / "new.db")
    waiting = restored.get("/v1/scheduled").json["scheduled"]
    assert len(waiting) == 5 and {event["topic"] for event in waiting} == {"op.later"}


def test_verify_says_what_belongs_to_no_consumer_and_what_lies_beyond_the_log(start_broker):
    broker = a_log_with_consumers(start_broker)
    worked("--verify", "--db", broker.db)
    with sqlite3.connect(broker.db) as db:
        db.executescript("INSERT INTO open_blocks VALUES(9, 0, x'00'); UPDATE consumers SET next = 60 WHERE id = 4; UPDATE scheduled SET due = due + 1 WHERE place = 3")
    db.close()
    answer = operate("--verify", "--db", broker.db)
    assert answer.returncode == 1 and "50 events whole, 0 damaged, 3 other problems" in answer.stdout
    assert "blocks of consumer 9, which is not there" in answer.stdout
    assert "the position of consumer 4 lies beyond the last seq" in answer.stdout
    assert "scheduled: the event in place 3 is damaged" in answer.stdout


def test_repair_brings_consumers_and_what_waits_and_takes_nothing_open_for_handled(start_broker, tmp_path):
    broker = a_log_with_consumers(start_broker)
    was = kept(broker.db)
    said = worked("--repair", tmp_path / "whole.db", "--db", broker.db)
    assert "2 consumers, 5 scheduled" in said.stdout and kept(tmp_path / "whole.db") == was
    with sqlite3.connect(broker.db) as db:
        page = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'open_blocks'").fetchone()[0]
    db.close()
    data = bytearray(broker.db.read_bytes())
    data[(page - 1) * 4096 : page * 4096] = bytes(4096)
    broker.db.write_bytes(data)
    answer = operate("--repair", tmp_path / "new.db", "--db", broker.db)
    assert answer.returncode == 0 and "each begins again at its first one" in answer.stdout
    consumers = kept(tmp_path / "new.db")[0]
    assert [(row[1], row[4]) for row in consumers] == [("mail", 17), ("push", 51)]
    worked("--verify", "--db", tmp_path / "new.db")
