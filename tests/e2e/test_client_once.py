"""<eventbus/client_sqlite.h>: killed with -9 at every point of an event, what it changes and the note of it are there together
or not at all, and the event that comes again is applied once."""
import sqlite3
import subprocess
import threading

import pytest

EPOCH, OTHER = "00000000-0000-4000-8000-00000000000a", "00000000-0000-4000-8000-00000000000b"
POINTS = ["before", "begun", "applied", "commit", "after"]


@pytest.fixture
def once(build, tmp_path):
    """once(MODE, EPOCH, FROM, TO, POINT, SEQ) -> the run."""

    def run(*arguments):
        command = [build / "tests/client/once_driver", tmp_path / "copy.db", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    return run


def applied(tmp_path, epoch=EPOCH):
    with sqlite3.connect(tmp_path / "copy.db") as db:
        return [seq for (seq,) in db.execute("SELECT seq FROM applied WHERE epoch = ? ORDER BY seq", (epoch,))]


@pytest.mark.parametrize("mode", ["cursor", "any"])
@pytest.mark.parametrize("point", POINTS)
def test_a_kill_leaves_both_or_neither(once, tmp_path, mode, point):
    """Each event is killed once at this point; then all of them come again from the first."""
    for seq in range(1, 9):
        killed = once(mode, EPOCH, 1, 8, point, seq)
        assert killed.returncode == -9, killed
        there = applied(tmp_path)
        assert there == list(range(1, seq + 1 if point == "after" else seq)), "whole events, none twice"
    run = once(mode, EPOCH, 1, 8)
    assert run.returncode == 0 and applied(tmp_path) == list(range(1, 9))
    if mode == "cursor":
        assert run.stdout == f"position 8 {EPOCH}\n"


def test_another_log_starts_anew(once, tmp_path):
    once("cursor", EPOCH, 1, 8)
    assert once("cursor", OTHER, 1, 3, "commit", 2).returncode == -9
    assert once("cursor", OTHER, 1, 3).stdout == f"position 3 {OTHER}\n"
    assert (applied(tmp_path), applied(tmp_path, OTHER)) == (list(range(1, 9)), [1, 2, 3])


@pytest.mark.parametrize("mode", ["cursor", "any"])
def test_two_processes_on_one_database_apply_each_event_once(once, tmp_path, mode):
    once(mode, EPOCH, 1, 1)
    threads = [threading.Thread(target=once, args=(mode, EPOCH, 1, 300)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert applied(tmp_path) == list(range(1, 301))


def test_workers_of_a_consumer_apply_each_event_once(broker, build, tmp_path):
    """Two workers on one database, killed at any point of any event and started again: at-least-once delivery, and each
    event is in the database once."""
    wanted = [broker.publish("once.x", str(n))["seq"] for n in range(150)]
    command = [build / "tests/client/once_worker", broker.ws_url, tmp_path / "copy.db"]
    kills = [0]

    def look_after():
        for _ in range(400):
            run = subprocess.run(command, capture_output=True, timeout=60)
            if run.returncode == 0:
                return
            assert run.returncode == -9, run
            kills[0] += 1

    threads = [threading.Thread(target=look_after) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert subprocess.run([*command, "steady"], timeout=60).returncode == 0
    with sqlite3.connect(tmp_path / "copy.db") as db:
        assert [seq for (seq,) in db.execute("SELECT seq FROM applied ORDER BY seq")] == wanted
    state = broker.get("/v1/consumers/once").json
    assert (state["pending"], state["inflight"], state["lag"]["events"]) == (0, 0, 0)
    assert kills[0] > 5
