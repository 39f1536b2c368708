"""docs/protocol.md: its conversations are played against a real broker, its tables are held against it."""
import json
import re
import sqlite3
import subprocess
import urllib.parse
import uuid

import pytest

from lib import page
from lib.broker import wait_for
from lib.ws import JSON_V1, WebSocket

PAGE = "docs/protocol.md"


def conversations():
    return [(kind, text) for kind, text in page.blocks(PAGE) if kind in ("ws", "ws-older")]


def turns(text):
    """[(what the client sends, [what the broker then says])]"""
    found = []
    for line in text.splitlines():
        assert line[:2] in ("> ", "< "), line
        if line[0] == ">":
            found.append((line[2:], []))
        else:
            found[-1][1].append(line[2:])
    return found


@pytest.mark.parametrize("number", range(len(conversations())))
def test_each_conversation_goes_as_the_page_shows_it(broker, number):
    """The order of what comes between two requests is not promised, so it is not compared."""
    kind, text = conversations()[number]
    with WebSocket(broker.port, protocol=JSON_V1 if kind == "ws" else None) as ws:
        for sent, shown in turns(text):
            ws.send(sent)
            said = [json.dumps(ws.next(), ensure_ascii=False, separators=(",", ":")) for _ in shown]
            assert sorted(map(page.shape, said)) == sorted(map(page.shape, shown)), sent
        if kind == "ws":
            assert ws.quiet() == [], "the page leaves something out"


def test_the_page_shows_every_request_and_every_answer():
    text = "".join(text for _, text in conversations())
    for type in ("publish", "publish_batch", "subscribe", "unsubscribe", "ack", "ping", "consume", "release", "nack", "ok", "error", "event", "live", "gap", "pong"):
        assert f'"type":"{type}"' in text, type


def test_vectors(broker):
    """The namespace, and what becomes of a name; the broker agrees where it takes the name as an id."""
    namespace = uuid.uuid5(uuid.NAMESPACE_DNS, "eventbus")
    assert f"`{namespace}`" in page.read(PAGE)
    rows = page.table(PAGE, "test: vectors")
    assert len(rows) == 5
    for name, value in rows:
        words = page.quoted(name)
        plain = "" if name.startswith("(empty") else "\0".join(words[:2]) if "NUL" in name else words[0]
        assert page.quoted(value) == [str(uuid.uuid5(namespace, plain))], name
        if plain and "\0" not in plain:
            with WebSocket(broker.port) as ws:
                assert ws.publish("vector.test", plain, data={"message_id": plain})["message_id"] == page.quoted(value)[0]
        if "\0" in plain:
            source, id = words[:2]
            headers = {"ce-specversion": "1.0", "ce-id": id, "ce-source": source, "ce-type": "vector.test"}
            assert broker.request("POST", "/v1/events", b"", headers).json["message_id"] == page.quoted(value)[0]


def test_patterns(broker):
    rows = page.table(PAGE, "test: patterns")
    topics = {topic for _, yes, no in rows for topic in page.quoted(yes) + page.quoted(no) if not topic.startswith("$")}
    for topic in topics:
        broker.publish(topic)
    for pattern, yes, no in rows:
        [pattern] = page.quoted(pattern)
        got = {event["topic"] for event in broker.events(urllib.parse.quote(pattern))}
        assert set(page.quoted(yes)) <= got, pattern
        assert not set(page.quoted(no)) & got, pattern


def test_every_error_code_is_on_the_page_with_its_status():
    code = re.compile(r'X\(EB_\w+,\s*"(\w+)",\s*(\d+),')
    known = {name: status for name, status in code.findall(page.read("common/error.h")) if name != "ok"}
    assert len(known) > 10
    assert {page.quoted(name)[0]: status for name, status, _ in page.table(PAGE, "test: codes")} == known


def test_every_close_code_that_is_sent_is_on_the_page():
    sent = set(re.findall(r"EB_WS_CLOSE_\w+ = (\d{4})", page.read("broker/net/ws_internal.h"))) - {"1000", "1005"}
    assert {code for code, *_ in page.table(PAGE, "test: close codes")} == sent


def test_an_events_own_ttl_beats_the_one_beside(broker):
    with WebSocket(broker.port) as ws:
        ws.publish("t", "x", data={"ttl": 60}, ttl=3600)
        assert broker.get("/v1/events/1").json["ttl"] == 60


def test_the_first_request_decides_who_is_an_older_client(broker):
    """The page's two ways out of it: an id, or a member behind the type."""
    for first, answer in (('{"id":1,"type":"ping"}', "pong"), ('{"type":"fly","wings":2}', "error")):
        with WebSocket(broker.port, protocol=None) as ws:
            ws.send(first)
            assert ws.next()["type"] == answer


def test_the_first_conversation_by_hand(broker, tmp_path):
    """The command under "Try it", and what is typed into it."""
    [command] = [text.strip() for kind, text in page.blocks(PAGE) if kind == "sh"]
    assert command == "python3 -m websockets ws://127.0.0.1:3000/ws"
    out = tmp_path / "said"
    with open(out, "w") as stdout:
        client = subprocess.Popen(["/usr/bin/python3", *command.split()[1:-1], broker.ws_url], stdin=subprocess.PIPE, stdout=stdout, text=True)
        try:
            for sent, shown in turns(conversations()[0][1]):
                client.stdin.write(sent + "\n")
                client.stdin.flush()
                wait_for(lambda: all(page.shape(line) in page.shape(out.read_text()) for line in shown), what="the answers")
        finally:
            client.stdin.close()
            client.wait(30)


def test_the_sqlite_shell_shows_what_the_page_says(broker):
    broker.publish("user.created", b"alice")
    with WebSocket(broker.port) as ws:
        assert ws.call(type="ack", seq=1)["type"] == "ok"
    columns = re.search(r"`SELECT \* FROM messages` in the `sqlite3` shell shows `([^`]+)`", page.read(PAGE).replace("\n", " ")).group(1)
    with sqlite3.connect(f"file:{broker.db}?mode=ro", uri=True) as db:
        cursor = db.execute("SELECT * FROM messages")
        assert ", ".join(column[0] for column in cursor.description) == columns
        assert cursor.fetchone()[-1] == "processed"
        assert db.execute("SELECT count(*) FROM processed_messages").fetchone() == (1,)
