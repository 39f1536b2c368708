"""The older client (docs/protocol.md): no subprotocol, no id, `type` last; sent events and nothing else, never reading."""
import json
import socket

import pytest

from lib.broker import wait_for
from lib.ws import PING, TEXT, WebSocket


def older(type, **members):
    """A request as serde writes that client's tagged enum: `type` last, absent options as null."""
    return json.dumps({**members, "type": type})


def subscribe(pattern, starting_seq=None):
    return older("subscribe", pattern=pattern, starting_seq=starting_seq)


def publish(topic, payload):
    return older("publish", data={"topic": topic, "payload": payload}, ttl=None)


@pytest.fixture
def broker(start_broker):
    return start_broker("--storage", "memory", "--log-level", "debug", db=None)


@pytest.fixture
def client(broker):
    with WebSocket(broker.port, protocol=None) as client:
        yield client


def unsent(broker):
    return broker.metric("eventbus_websocket_legacy_unsent_total")


def test_it_is_sent_events_and_nothing_else(broker, client):
    client.send(subscribe("t"))
    client.send(publish("t", "1"))
    client.send(publish("a..b", "refused"))
    client.send(older("unsubscribe", pattern="never"))
    client.send(older("ack", seq=99))
    client.send(older("ping"))
    client.send("no json")
    client.send(publish("t", "2"))
    assert [client.next()["payload"] for _ in range(2)] == ["1", "2"]
    # A ping's answer is only counted. The log comes through a pipe of its own.
    wait_for(lambda: sum("is not told" in line for line in broker.log) == 4, what="four lines of the log")
    assert unsent(broker) == 5


def test_events_have_the_form_it_knows(client):
    client.send(subscribe("t"))
    client.send(publish("t", "x"))
    event = client.next()
    assert set(event) == {"type", "seq", "message_id", "topic", "payload", "metadata"}


def test_its_replay_is_pending_only_and_ends_without_a_notice(broker, client):
    for i in range(4):
        broker.publish("t", b"%d" % i)
    with WebSocket(broker.port) as other:
        other.call(type="ack", seq=2)
    client.send(subscribe("t", starting_seq=0))
    assert [client.next()["payload"] for _ in range(3)] == ["0", "2", "3"]
    client.send(publish("t", "live"))
    event = client.next()
    assert event["type"] == "event" and event["payload"] == "live"


def test_its_replayed_events_carry_no_pattern(broker, client):
    broker.publish("t", b"x")
    client.send(subscribe("t", starting_seq=1))
    assert "pattern" not in client.next()


def test_bytes_that_are_not_utf8_reach_it_as_numbers_and_others_as_base64(broker, client):
    client.send(subscribe("t"))
    with WebSocket(broker.port) as other, WebSocket(broker.port, protocol=None) as second:
        other.subscribe("t")
        second.send(subscribe("t"))
        # An older client is not answered, and connections are not ordered among each other: ask from outside.
        wait_for(lambda: broker.stats()["subscriptions"] == 3)
        second.send(publish("t", "seen"))
        assert [c.next()["payload"] for c in (client, second)] == ["seen"] * 2 and other.event()["payload"] == "seen"
        broker.publish("t", b"\xff\x00A")
        for older_client in (client, second):
            event = older_client.next()
            assert event["payload"] == [255, 0, 65] and "payload_encoding" not in event
        assert other.event()["payload_encoding"] == "base64"


def test_gaps_are_counted_and_not_sent(broker, client):
    broker.publish("t", b"x")
    client.send(subscribe("t", starting_seq=50))
    assert client.next()["type"] == "event"
    wait_for(lambda: unsent(broker) == 2, what="the gap and the live notice are counted")


@pytest.mark.parametrize(
    "first",
    [
        '{"id":1,"type":"ping"}',  # an id
        '{"type":"ping","x":1}',  # type is not last
        "no json",
    ],
)
def test_another_first_request_makes_no_older_client(broker, client, first):
    client.send(first)
    client.recv()
    client.send(older("zing"))
    assert client.recv()["code"] == "invalid_request"


def test_who_asked_for_the_subprotocol_is_no_older_client(broker):
    with WebSocket(broker.port) as ws:
        ws.send(older("zing"))
        assert ws.recv()["code"] == "invalid_request"


def test_the_first_request_decides_for_good(client):
    client.send(subscribe("t"))
    client.send('{"type":"ping","id":1}')
    client.send(publish("t", "x"))
    assert client.next()["type"] == "event"


def test_a_client_that_never_reads_is_not_closed_by_a_missing_pong(start_broker):
    """It publishes for many ping intervals without reading one byte; every event arrives."""
    broker = start_broker("--storage", "memory", "--ping-interval", "100ms", "--idle-timeout", "200ms", "--stall-timeout", "1100ms", db=None)
    with WebSocket(broker.port, protocol=None) as client, WebSocket(broker.port, protocol=None) as quiet, WebSocket(broker.port) as pinged:
        pings = 0
        client.send(publish("t", "first"))
        while pings < 5:  # five ping intervals of another connection, which answers
            opcode, payload = pinged.frame()
            if opcode == PING:
                pings += 1
                pinged.send_frame(10, payload)
                client.send(publish("t", str(pings)))
        quiet.send(publish("t", "still there"))
        wait_for(lambda: len(broker.events("t")) == 7, what="seven events")


def test_it_is_pinged_once_until_it_answers(start_broker):
    broker = start_broker("--storage", "memory", "--ping-interval", "50ms", db=None)
    with WebSocket(broker.port, protocol=None) as silent, WebSocket(broker.port) as pinged:
        for _ in range(6):
            opcode, payload = pinged.frame()
            assert opcode == PING
            pinged.send_frame(10, payload)
        assert silent.frame()[0] == PING
        silent.sock.settimeout(0.01)
        with pytest.raises(socket.timeout):
            silent.frame()
        silent.sock.settimeout(10)
        silent.send_frame(10)
        assert silent.frame()[0] == PING
