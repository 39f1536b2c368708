"""Durable consumers over eventbus.bin.v1: the promises of test_consumers_ws.py, asked and answered in records that carry
JSON (docs/binary.md, json_request and json)."""
import pytest

# Written for JSON, run here with the fixture `connect` below: the same promise in another form.
from test_consumers_ws import (  # noqa: F401
    broker,
    consume,
    make,
    test_a_seek_is_said_and_the_work_goes_on_after_consume,
    test_a_vanished_workers_events_go_to_others_within_a_second,
    test_a_worker_that_does_not_read_costs_a_bounded_queue,
    test_an_ack_without_consumer_stays_the_plain_one,
    test_at_the_brokers_end_workers_are_closed_and_their_events_are_kept,
    test_bad_requests_are_answered_and_close_nothing,
    test_consume_with_settings_makes_the_consumer_first,
    test_deliveries_name_their_consumer_and_come_behind_the_ok,
    test_deliveries_stand_beside_the_connections_own_streams,
    test_each_answer_says_what_became_of_each_seq,
    test_max_inflight_bounds_what_is_out_with_the_connection_and_may_change,
    test_one_connection_works_for_several_consumers,
    test_released_events_go_to_others_at_once,
    test_the_end_of_a_consumer_is_said,
    test_without_an_id_nothing_is_answered_but_errors,
)

from lib import bin
from lib.ws import BINARY
from lib.ws_bin import BinaryWebSocket


@pytest.fixture
def connect(broker):  # noqa: F811
    opened = []

    def connect(to=broker, **options):
        opened.append(BinaryWebSocket(to.port, **options))
        return opened[-1]

    yield connect
    for ws in opened:
        ws.__exit__()


def test_a_delivery_is_a_record_without_id(broker, connect):  # noqa: F811
    """Kind `json`, id 0; several of them may share a message with other records."""
    make(broker)
    ws = connect()
    consume(ws)
    broker.publish("job.a", b"\xff\x00")
    [record] = bin.decode(ws.message())
    assert record["kind"] == "json" and record["id"] == 0 and '"delivery":1' in record["text"] and '"payload_encoding":"base64"' in record["text"]


def test_requests_of_both_forms_share_a_message(broker, connect):  # noqa: F811
    """They are carried out in the order in which they stand there."""
    make(broker)
    ws = connect()
    ws.send_frame(
        BINARY,
        bin.encode(
            {"kind": "publish", "id": 1, "topic": "job.a", "payload": b"x"},
            {"kind": "json_request", "id": 2, "text": '{"type":"consume","consumer":"c"}'},
            {"kind": "ping", "id": 3},
        ),
    )
    got = []
    while len(got) < 4:
        got += bin.decode(ws.message())
    assert {(record["kind"], record["id"]) for record in got} == {("acks", 1), ("json", 2), ("pong", 3), ("json", 0)}
