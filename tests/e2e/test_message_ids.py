"""Message ids that the broker makes: each says its seq, and a repeat under it is a duplicate like any other (PROTOCOL 1, 2.2)."""
import json
import subprocess
import uuid

import pytest

from lib import bin
from lib.bin import BIN_V1
from lib.broker import BUILD, wait_for
from lib.load import Load
from lib.log_ids import LogIds
from lib.procs import is_sanitized, rss_mib
from lib.ws import BINARY, WebSocket


def publish_by_each_transport(broker):
    """(topic, payload, seq, message id) of events published without an id, as the broker told them."""
    told = []
    for i in range(3):
        answer = broker.publish("http", b"h%d" % i)
        told.append(("http", f"h{i}", answer["seq"], answer["message_id"]))
    lines = "\n".join(json.dumps({"topic": "batch", "payload": f"b{i}"}) for i in range(3))
    answer = broker.request("POST", "/v1/events", lines.encode(), {"Content-Type": "application/x-ndjson"}).json
    told += [("batch", f"b{i}", r["seq"], r["message_id"]) for i, r in enumerate(answer["results"])]
    with WebSocket(broker.port) as ws:
        answer = ws.publish("json", "j")
        told.append(("json", "j", answer["seq"], answer["message_id"]))
        answer = ws.call(type="publish_batch", messages=[{"topic": "json", "payload": p} for p in "xy"])
        told += [("json", p, r["seq"], r["message_id"]) for p, r in zip("xy", answer["results"], strict=True)]
    with WebSocket(broker.port, BIN_V1) as ws:  # tells no id (docs/binary.md): the event has it
        ws.send(bin.encode({"kind": "publish", "id": 1, "topic": "binary", "payload": b"n"}), BINARY)
        [acks] = bin.decode(ws.next_data(BINARY))
    told.append(("binary", "n", acks["seq"], broker.get(f"/v1/events/{acks['seq']}").json["message_id"]))
    return told


def assert_all_are_duplicates(broker, told):
    for topic, payload, seq, id in told:
        assert broker.publish(topic, payload.encode(), Event_Id=id) == {"seq": seq, "message_id": id, "duplicate": True}
        other = broker.request("POST", f"/v1/topics/{topic}/events", b"else", {"Event-Id": id})
        assert (other.status, other.json["code"]) == (422, "message_id_reused"), other
    with WebSocket(broker.port) as ws:
        for topic, payload, seq, id in told:
            answer = ws.call(type="publish", data={"topic": topic, "payload": payload, "message_id": id})
            assert (answer["seq"], answer["message_id"], answer["duplicate"]) == (seq, id, True)
        messages = [{"topic": topic, "payload": payload, "message_id": id} for topic, payload, _, id in told]
        answer = ws.call(type="publish_batch", messages=messages)
        assert [(r["seq"], r["duplicate"]) for r in answer["results"]] == [(seq, True) for _, _, seq, _ in told]
    with WebSocket(broker.port, BIN_V1) as ws:
        for n, (topic, payload, seq, id) in enumerate(told, 1):
            ws.send(bin.encode({"kind": "publish", "id": n, "topic": topic, "payload": payload.encode(), "message_id": id}), BINARY)
            [answer] = bin.decode(ws.next_data(BINARY))
            assert (answer["kind"], answer["seq"], answer["duplicate"], answer["message_id"]) == ("published", seq, True, id)


def test_each_is_a_uuid_v7_of_its_events_time_and_they_sort_as_the_seqs(start_broker):
    broker = start_broker()
    told = publish_by_each_transport(broker)
    assert [id for *_, id in told] == sorted({id for *_, id in told})
    for event in broker.events():
        id = uuid.UUID(event["message_id"])
        assert (id.version, id.variant) == (7, uuid.RFC_4122) and id.int >> 80 == event["metadata"]["timestamp"]
        assert (event["seq"], event["message_id"]) in [(seq, id) for _, _, seq, id in told]


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_published_again_under_the_told_id_it_is_a_duplicate_on_every_transport_also_after_the_end(start_broker, end):
    broker = start_broker()
    told = publish_by_each_transport(broker)
    last = broker.stats()["last_seq"]
    for _ in range(3):
        assert_all_are_duplicates(broker, told)
        assert broker.stats()["last_seq"] == last == broker.stats()["dedupe_ids"]
        broker.stop() if end == "stop" else broker.kill()
        broker.start()


def test_in_memory_it_is_a_duplicate_too(start_broker):
    broker = start_broker("--storage", "memory", db=None)
    assert_all_are_duplicates(broker, publish_by_each_transport(broker))


def test_deletion_does_not_free_it_nor_does_an_end(start_broker):
    """"deletion does not shorten it … A repeat of an id whose event was deleted meanwhile is a duplicate (nothing is left to compare)" """
    broker = start_broker()
    brief = broker.publish("t", b"x", Event_TTL="1")
    stays = broker.publish("t", b"x")
    wait_for(lambda: broker.stats()["events"] == 1, what="deletion")
    for end in (lambda: None, broker.stop, broker.kill, broker.kill):
        end()
        if broker.process.poll() is not None:
            broker.start()
        assert broker.publish("t", b"other", Event_Id=brief["message_id"]) == {**brief, "duplicate": True}
        assert broker.publish("t", b"x", Event_Id=stays["message_id"]) == {**stays, "duplicate": True}
    assert broker.stats()["last_seq"] == stays["seq"]


def test_after_the_window_it_is_free_also_over_a_kill(start_broker):
    broker = start_broker("--dedupe-window", "2s")
    first = broker.publish("t", b"x")
    assert broker.publish("t", b"x", Event_Id=first["message_id"])["duplicate"]
    broker.kill()
    broker.start()
    again = wait_for(lambda: (a := broker.publish("t", b"x", Event_Id=first["message_id"])) and not a["duplicate"] and a, timeout=20, what="the end of the window")
    assert (again["seq"], again["message_id"]) == (first["seq"] + 1, first["message_id"])


def test_beyond_dedupe_max_the_oldest_are_free_and_counted(start_broker):
    broker = start_broker("--dedupe-max", "10")
    told = [broker.publish("t", b"%d" % i) for i in range(30)]
    assert broker.publish("t", b"20", Event_Id=told[20]["message_id"])["duplicate"]
    assert broker.stats()["dedupe_ids"] == 10 and broker.metric("eventbus_dedupe_evicted_total") == 20
    assert not broker.publish("t", b"19", Event_Id=told[19]["message_id"])["duplicate"]
    broker.kill()
    broker.start()
    assert broker.stats()["dedupe_ids"] == 10
    assert broker.publish("t", b"29", Event_Id=told[29]["message_id"])["duplicate"]
    assert not broker.publish("t", b"20", Event_Id=told[20]["message_id"])["duplicate"]


def test_what_waits_tells_the_id_that_its_event_will_have(start_broker):
    broker = start_broker()
    told = broker.request("POST", "/v1/topics/t/events", b"x", {"Event-Delay": "1"})
    assert told.status == 202
    [event] = wait_for(lambda: broker.events("t"), what="the event")
    assert event["message_id"] == told.json["message_id"]
    again = broker.publish("t", b"x", Event_Id=event["message_id"])
    assert again == {"seq": event["seq"], "message_id": event["message_id"], "duplicate": True}


def test_a_new_epoch_forgets_none(start_broker):
    broker = start_broker()
    told = publish_by_each_transport(broker)
    epoch = broker.stats()["epoch"]
    broker.stop()
    broker.options += ["--new-epoch"]
    broker.start()
    assert broker.stats()["epoch"] != epoch
    assert_all_are_duplicates(broker, told)


def test_a_restored_backup_knows_them(start_broker, tmp_path):
    def operate(*words):
        subprocess.run([BUILD / "broker" / "eventbusd", *words], check=True, capture_output=True)

    broker = start_broker()
    told = publish_by_each_transport(broker)
    operate("--backup", tmp_path / "copy.db", "--db", broker.db)
    later = broker.publish("t", b"later")
    broker.stop()
    operate("--restore", tmp_path / "copy.db", "--db", tmp_path / "new.db")
    operate("--verify", "--db", tmp_path / "new.db")
    restored = start_broker(db=tmp_path / "new.db")
    assert_all_are_duplicates(restored, told)
    assert not restored.publish("t", b"later", Event_Id=later["message_id"])["duplicate"], "it is not in the copy"


def test_they_take_no_memory_after_a_start(start_broker):
    """As many in a table would take 19 MiB."""
    broker = start_broker()
    if is_sanitized(broker):
        pytest.skip("a sanitizer needs the memory")
    empty = rss_mib(broker)
    Load(broker.port, count=300_000, window=4096, size=10).wait()
    broker.stop()
    broker.start()
    assert broker.stats()["dedupe_ids"] == 300_000
    grown = rss_mib(broker) - empty
    print(f"{empty:.1f} MiB and {grown:.1f} more")
    assert grown < 4


def test_the_file_says_of_each_id_what_its_format_promises(start_broker):
    """docs/formats/log.md: what an id is made of, over new epochs too; and where the snapshot has those that were given."""
    broker = start_broker()
    given = []
    for turn in range(3):
        publish_by_each_transport(broker)
        messages = [{"topic": "given", "payload": "x", "message_id": f"given-{turn}-{i}"} for i in range(1500)]
        answer = broker.request("POST", "/v1/events", json.dumps({"messages": messages}).encode(), {"Content-Type": "application/json"}).json
        given += [(r["seq"], uuid.UUID(r["message_id"])) for r in answer["results"]]
        broker.stop()
        ids = LogIds(broker.db)
        rows = ids.rows()
        made = {id for seq, ts, id in rows if ids.made(seq, ts) == id}
        since = 1 if turn < 2 else given[1500][0] - 10  # this epoch and the one before
        assert [id in made for seq, _, id in rows if seq >= since] == [(seq, id) not in given for seq, _, id in rows if seq >= since]
        assert ids.saved_count() == len(rows) - len(made)
        times = {seq: ts for seq, ts, _ in rows}
        assert [ids.saved(id) for _, id in given[::50]] == [(seq, times[seq]) for seq, _ in given[::50]]
        assert sum(ids.saved(uuid.uuid4()) is not None for _ in range(50)) == 0
        if "--new-epoch" not in broker.options:
            broker.options += ["--new-epoch"]
        broker.start()
