"""Disk trouble seen from outside: too little room, a full disk, room again. A real small file system (tmpfs).

A quota or RLIMIT_FSIZE is no substitute: what is free is asked of the file system, and the WAL and the database
fill it from two sides. Where mounting is not permitted, also not in a namespace of our own, these are skipped.
"""
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from lib.broker import wait_for
from lib.swarm import SseFeed, Swarm, WsFeed, assert_same
from lib.ws import WebSocket

MOUNT = shutil.which("mount")


def can_mount(where):
    return MOUNT and subprocess.run([MOUNT, "-t", "tmpfs", "-o", "size=1m", "none", str(where)], capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path, request):
    """small_disk(size in MiB) -> a folder on a file system of its own.

    Without the right to mount here the test runs once more as root of a user and mount namespace of its own.
    """
    mounted = []

    def make(size):
        where = tmp_path / f"disk{len(mounted)}"
        where.mkdir()
        if not can_mount(where):
            if os.environ.get("EVENTBUS_IN_NAMESPACE") or not run_in_namespace(request):
                pytest.skip("mounting a tmpfs is not permitted, also not by unshare -rm")
            pytest.skip("passed in a mount namespace of its own")
        mounted.append(where)
        subprocess.run([MOUNT, "-o", f"remount,size={size}m", str(where)], check=True)
        return where

    yield make
    for where in mounted:
        subprocess.run(["umount", "-l", str(where)], check=False)


def run_in_namespace(request):
    """Run this one test again where we may mount. True when it passed; a failure there fails here."""
    if subprocess.run(["unshare", "-rm", "sh", "-c", "mount -t tmpfs none /mnt"], capture_output=True).returncode != 0:
        return False
    result = subprocess.run(
        ["unshare", "-rm", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", request.node.nodeid],
        env={**os.environ, "EVENTBUS_IN_NAMESPACE": "1"}, cwd=request.config.rootpath, capture_output=True, text=True,
    )
    assert result.returncode == 0, result.stdout[-4000:]
    return True


def fill(folder, leave):
    """A file that leaves about `leave` bytes free."""
    fs = os.statvfs(folder)
    size = fs.f_bavail * fs.f_frsize - leave
    path = folder / "ballast"
    with open(path, "ab") as file:
        os.posix_fallocate(file.fileno(), file.tell(), size)
    return path


def publish_until_refused(ws, topic, size=2000, limit=20000):
    """The seqs that were acked, and the refusal."""
    acked = []
    for n in range(limit):
        answer = ws.publish(topic, f"{n}:" + "x" * size)
        if answer["type"] == "error":
            return acked, answer
        acked.append(answer["seq"])
    raise AssertionError("never refused")


def refused(answer):
    assert answer.status == 507, answer
    problem = answer.json
    assert problem["code"] == "storage_full" and "full" in problem["detail"], problem
    return problem


def everything_but_publish_lives(broker, ws, acked):
    """What must go on while publishes are refused."""
    assert broker.get("/healthz").status == 200
    assert broker.get(f"/v1/events/{acked[0]}").status == 200
    assert [e["seq"] for e in broker.events("full.%23")] == acked
    assert ws.call(type="ack", seq=acked[0])["type"] == "ok"
    assert ws.call(type="ping")["type"] == "pong"
    with WebSocket(broker.port) as other:
        other.subscribe("full.#", starting_seq=acked[-1])
        assert other.event()["seq"] == acked[-1]
    assert broker.metric("eventbus_storage_full") == 1
    assert broker.get("/readyz").status in (200, 503)


def test_below_min_free_publishes_are_refused_and_all_else_lives(small_disk, start_broker):
    """min_free is reached by publishing; room comes back and publishes are taken again by themselves."""
    folder = small_disk(24)
    broker = start_broker("--min-free", "8M", db=folder / "eventbus.db")
    with WebSocket(broker.port) as ws, Swarm() as swarm:
        live = swarm.add(WsFeed(broker.port))
        live.subscribe("full.#", 0)
        stream = swarm.add(SseFeed(broker.port, "pattern=full.%23&starting_seq=0"))
        ballast = fill(folder, 10 << 20)
        acked, answer = publish_until_refused(ws, "full.a")
        assert answer["code"] == "storage_full" and "min_free" in answer["message"], answer
        before = broker.metric('eventbus_publish_refused_total{code="storage_full"}')
        assert before >= 1
        refused(broker.request("POST", "/v1/topics/full.b/events", b"x"))
        batch = ws.call(type="publish_batch", messages=[{"topic": "full.c", "payload": "x"}] * 3)
        assert batch["code"] == "storage_full"
        assert broker.metric('eventbus_publish_refused_total{code="storage_full"}') > before
        assert broker.said("EB-DISK-LOW")
        everything_but_publish_lives(broker, ws, acked)
        ballast.unlink()
        after = wait_for(lambda: (a := ws.publish("full.a", "again"))["type"] == "ok" and a, what="recovery by itself")
        assert after["seq"] == acked[-1] + 1
        wait_for(lambda: live.last == stream.last == after["seq"])
        assert_same(live.events(), acked + [after["seq"]], "live subscriber")
        assert_same(stream.events(), acked + [after["seq"]], "stream")
        assert broker.metric("eventbus_storage_full") == 0
        assert broker.said("EB-DISK-OK")


@pytest.mark.parametrize("way", ["freed", "killed"])
def test_a_disk_that_is_full_to_its_end_loses_nothing_and_recovers(small_disk, start_broker, way):
    """min_free as small as may be, so that the disk itself says ENOSPC in the midst of a write."""
    folder = small_disk(16)
    broker = start_broker("--min-free", "0", db=folder / "eventbus.db")
    with WebSocket(broker.port) as ws:
        acked = [ws.publish("full.a", "first")["seq"]]
        ballast = fill(folder, 3 << 20)
        more, answer = publish_until_refused(ws, "full.a", size=20000)
        acked += more
        assert answer["code"] == "storage_full", answer
        refused(broker.request("POST", "/v1/topics/full.b/events", b"y" * 200000))
        assert broker.get(f"/v1/events/{acked[0]}").status == 200
        assert broker.get("/healthz").status == 200
        assert [e["seq"] for e in broker.events("full.%23")][: len(acked)] == acked
        if way == "killed":
            broker.kill()
            ballast.unlink()
            broker.start()
    if way == "freed":
        ballast.unlink()
    with WebSocket(broker.port) as ws:
        wait_for(lambda: ws.publish("full.end", "again")["type"] == "ok", what="recovery by itself")
        stored = [e["seq"] for e in broker.events("full.%23")]
        assert stored[: len(acked)] == acked and stored == list(range(1, len(stored) + 1))
    broker.stop()
    checked = subprocess.run([*broker.command[:1], "--verify", "--db", str(broker.db)], capture_output=True, text=True)
    assert checked.returncode == 0, checked


def test_acks_and_deletion_go_on_below_min_free_and_deletion_makes_room(small_disk, start_broker):
    """Retention is what frees the disk here: nobody from outside does anything."""
    folder = small_disk(48)
    broker = start_broker("--min-free", "12M", "--retention-age", "4s", db=folder / "eventbus.db")
    fill(folder, 30 << 20)
    with WebSocket(broker.port) as ws:
        acked, answer = publish_until_refused(ws, "full.a", size=20000)
        assert answer["code"] == "storage_full"
        assert ws.call(type="ack", seq=acked[-1])["type"] == "ok"
        wait_for(lambda: ws.publish("full.a", "again")["type"] == "ok", what="room by retention")


def test_min_free_above_what_is_free_refuses_all_and_sighup_lowers_it(start_broker, tmp_path):
    """On an ordinary disk: the message says what is free and what is asked for; a reload is enough to recover."""
    config = tmp_path / "eventbus.ini"
    config.write_text("min_free = 1000G\n")
    broker = start_broker("--config", config)
    problem = refused(broker.request("POST", "/v1/topics/t/events", b"x"))
    assert "min_free" in problem["detail"] and "1000.0 GiB" in problem["detail"], problem
    with WebSocket(broker.port) as ws:
        assert ws.publish("t", "x")["code"] == "storage_full"
        ws.subscribe("t", starting_seq=0)
        assert broker.metric('eventbus_publish_refused_total{code="storage_full"}') == 2
        assert broker.metric("eventbus_storage_full") == 1
        config.write_text("min_free = 1M\n")
        broker.process.send_signal(signal.SIGHUP)
        answer = wait_for(lambda: (a := ws.publish("t", "y"))["type"] == "ok" and a, what="recovery")
        assert answer["seq"] == 1 and ws.event()["seq"] == 1
    assert broker.metric("eventbus_storage_full") == 0


def test_the_refused_id_is_not_taken(start_broker, tmp_path):
    """What storage_full refused was not stored: the same id is new when it is sent again."""
    config = tmp_path / "eventbus.ini"
    config.write_text("min_free = 1000G\n")
    broker = start_broker("--config", config)
    assert broker.request("POST", "/v1/topics/t/events", b"x", {"Event-Id": "order-1"}).status == 507
    config.write_text("min_free = 1M\n")
    broker.process.send_signal(signal.SIGHUP)
    answer = wait_for(lambda: (a := broker.request("POST", "/v1/topics/t/events", b"x", {"Event-Id": "order-1"})).status != 507 and a)
    assert answer.status == 201 and answer.json["duplicate"] is False and answer.json["seq"] == 1


def test_a_log_that_cannot_grow_for_its_file_size_limit_is_refused_in_order(start_broker, tmp_path):
    """EFBIG (or EIO, as SQLite tells it): publishes are refused with a code, everything else lives, none lost."""
    import resource

    broker = start_broker("--min-free", "1M")
    acked = [broker.publish("t", b"x" * 1000)["seq"] for _ in range(5)]
    size = max(pathlib.Path(f"{broker.db}{end}").stat().st_size for end in ("", "-wal"))
    resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (size + (1 << 20), resource.RLIM_INFINITY))
    with WebSocket(broker.port) as ws:
        more, answer = publish_until_refused(ws, "t", size=50000, limit=2000)
        acked += more
        assert answer["code"] in ("storage_full", "unavailable"), answer
        assert broker.process.poll() is None
        assert broker.get("/healthz").status == 200
        assert [e["seq"] for e in broker.events("t")] == acked
        resource.prlimit(broker.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        wait_for(lambda: ws.publish("t", "again")["type"] == "ok", what="recovery by itself")
        assert [e["seq"] for e in broker.events("t")] == acked + [acked[-1] + 1]
