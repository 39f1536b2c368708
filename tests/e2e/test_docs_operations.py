"""docs/operations.md: what it says of metrics, log lines, systemd and tokens is what there is."""
import configparser
import re
import shutil
import sqlite3
import subprocess

import pytest

from lib import page
from lib.broker import BUILD

PAGE = "docs/operations.md"


def test_every_metric_on_the_page_exists(broker):
    assert broker.request("PUT", "/v1/consumers/c", b'{"patterns":["a"]}').status == 201  # some are a consumer's
    known = set(re.findall(r"^# TYPE (\S+) ", broker.get("/metrics").body.decode(), re.M))
    named = set(re.findall(r"\b((?:eventbus|process)_[a-z_]+[a-z])\b", page.read(PAGE)))
    assert len(named) > 15
    for name in named:
        assert re.sub("_(bucket|sum|count)$", "", name) in known or name in known, name


def log_ids():
    """Every id a source file can log."""
    found = set()
    for path in [*page.ROOT.glob("common/**/*.c"), *page.ROOT.glob("broker/**/*.c")]:
        found |= set(re.findall(r'"(EB-[A-Z-]+)"', path.read_text()))
    assert len(found) > 10
    return found


def test_the_table_of_log_lines_is_complete():
    """Both ways: an id that nobody explains, and an explanation of an id that is gone."""
    rows = page.table(PAGE, "test: log ids")
    assert {page.quoted(row[0])[0] for row in rows} == log_ids()
    assert all(len(row) == 4 and row[2] and row[3] for row in rows)


def test_each_log_line_has_the_level_the_table_says():
    source = "".join(path.read_text() for path in [*page.ROOT.glob("common/**/*.c"), *page.ROOT.glob("broker/**/*.c")])
    for id, level, *_ in page.table(PAGE, "test: log ids"):
        id = page.quoted(id)[0]
        call = re.findall(rf'eb_(error_log|warn|info)\([^;"]*(?:"EB-[A-Z-]+" : )?"{id}"', source)
        assert call and {name.removesuffix("_log") for name in call} == {level}, (id, call)


@pytest.fixture
def unit():
    text = page.marked(PAGE, "systemd unit", "ini")
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str
    parser.read_string(text)
    return text, parser["Service"]


def test_the_unit_is_one_that_systemd_takes(unit, tmp_path):
    if not shutil.which("systemd-analyze"):
        pytest.skip("no systemd-analyze here")
    text, _ = unit
    path = tmp_path / "eventbusd.service"
    path.write_text(text.replace("/usr/local/bin/eventbusd", str(BUILD / "broker" / "eventbusd")))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60)
    said = [line for line in done.stderr.splitlines() if "eventbusd.service" in line]
    assert not said, done.stderr


def test_the_units_options_are_the_daemons(unit):
    options = re.findall(r"--[a-z-]+", unit[1]["ExecStart"])
    known = subprocess.run([str(BUILD / "broker" / "eventbusd"), "--help"], capture_output=True, text=True, timeout=30).stdout
    assert options and all(option in known for option in options)


def test_a_token_made_as_the_page_says_is_taken(start_broker, tmp_path):
    [command] = [text for kind, text in page.blocks(PAGE) if kind == "sh" and "openssl rand" in text]
    subprocess.run(["sh", "-ec", command], cwd=tmp_path, check=True, timeout=30)
    tokens = tmp_path / "tokens"
    assert tokens.stat().st_mode & 0o077 == 0
    broker = start_broker("--token-file", tokens)
    assert broker.get("/v1/stats").status == 401
    assert broker.get("/v1/stats", Authorization=f"Bearer {tokens.read_text().strip()}").status == 200


def test_every_setting_that_is_named_exists():
    known = set(re.findall(r'^    \{"([a-z_]+)", KIND_', page.read("broker/settings.c"), re.M))
    assert len(known) > 30
    named = set(re.findall(r"`(\w+) = [^`]*`", page.read(PAGE))) - {"location"}  # nginx's
    assert named and named <= known, named - known


def section(title):
    """The commands of the first block under that heading."""
    return re.search(rf"^## {re.escape(title)}\n+```\n(.*?)^```$", page.read(PAGE), re.S | re.M).group(1).splitlines()


def daemon(line, names):
    """A command of the page with real paths for its words in capitals. It must end by itself, with 0."""
    words = [str(names.get(word, word)) for word in line.split()]
    assert words[0] == "eventbusd"
    done = subprocess.run([str(BUILD / "broker" / "eventbusd"), *words[1:]], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (line, done)
    return done.stdout


def serves(start_broker, line, names):
    """The last line of a section starts a broker on what was made."""
    assert line.split()[:2] == ["eventbusd", "--db"]
    return start_broker(db=names[line.split()[2]])


@pytest.fixture
def log(broker):
    for i in range(3):
        broker.publish("user.created", b"%d" % i)
    return broker


def payloads(broker):
    return [event["payload"] for event in broker.events()]


def test_backup_and_restore_as_the_page_types_them(log, start_broker, tmp_path):
    """Beside the running broker; the restored log has the events and another epoch."""
    names = {"PATH": log.db, "COPY": tmp_path / "copy.db", "NEW": tmp_path / "new.db"}
    [backup] = section("Backup")
    daemon(backup, names)
    log.publish("user.created", b"later")
    restore, start = section("Restore")
    daemon(restore, names)
    restored = serves(start_broker, start, names)
    assert payloads(restored) == ["0", "1", "2"]
    assert restored.stats()["epoch"] != log.stats()["epoch"]


def test_verify_and_repair_as_the_page_types_them(log, start_broker, tmp_path):
    log.stop()
    names = {"PATH": log.db, "DAMAGED": log.db, "NEW": tmp_path / "new.db"}
    [verify] = section("Verify")
    assert "3 events whole" in daemon(verify, names)
    with open(log.db, "r+b") as file:
        file.write(bytes(100))  # the header of the file
    before = log.db.read_bytes()
    repair, start = section("Repair")
    daemon(repair, names)
    assert log.db.read_bytes() == before
    assert payloads(serves(start_broker, start, names)) == ["0", "1", "2"]


def test_import_as_the_page_types_it(start_broker, tmp_path):
    names = {"OLD": tmp_path / "old.db", "NEW": tmp_path / "new.db"}
    with sqlite3.connect(names["OLD"]) as old:
        old.executescript(
            "CREATE TABLE messages(seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL, metadata TEXT NOT NULL,"
            " ttl INTEGER NOT NULL, status TEXT NOT NULL DEFAULT 'pending');"
            "CREATE TABLE processed_messages(message_id TEXT PRIMARY KEY);"
        )
        old.execute("INSERT INTO messages(topic, payload, metadata, ttl) VALUES ('chat.a', CAST('hi' AS BLOB), '{\"timestamp\":1700000000,\"content_type\":\"text/plain\"}', 0)")
    old.close()
    [command] = section("Import from prk_eventbus 0.1")
    daemon(command, names)
    assert payloads(start_broker(db=names["NEW"])) == ["hi"]
