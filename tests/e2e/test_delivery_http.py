"""Durable consumers over HTTP, sentence by sentence of the contract: making and changing one, where it begins, fetch,
and what ack, nack, term and in_progress answer in every state an event can be in."""
import json
import socket
import struct
import threading
import time


from lib.broker import wait_for
from lib.consumer import JSON, PUSH_LOCAL, Consumer, Worker, flat, publish_many, seqs
from lib.rawhttp import RawHttp

DEFAULTS = {
    "patterns": ["job.*"], "from": "new", "ack_wait": 30, "max_deliver": 0, "max_inflight": 256, "order": "none", "order_window": 10000, "dead_letter": True,
}  # fmt: skip
PUSH = {"url": "http://127.0.0.1:9/hook", "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"}


# ---- making and changing ----


def test_put_makes_it_once_and_then_replaces(broker):
    consumer = Consumer(broker, "billing", make=False)
    assert consumer.put(patterns=["job.*"]).status == 201
    assert consumer.put(patterns=["job.*"]).status == 200
    assert consumer.put(patterns=["other.*"]).status == 200
    assert consumer.view()["patterns"] == ["other.*"]


def test_what_is_absent_or_null_has_its_default(broker):
    view = Consumer(broker, "billing", patterns=["job.*"], ack_wait=None, from_=None, push=None).view()
    assert {name: view[name] for name in DEFAULTS} == DEFAULTS
    assert not view.get("backoff") and not view.get("push")


def test_put_replaces_all_settings_so_that_what_it_does_not_name_is_the_default_again(broker):
    consumer = Consumer(broker, "billing", patterns=["job.*"], ack_wait=7, max_deliver=3, backoff=[1, 2], max_inflight=5, dead_letter=False)
    view = consumer.view()
    assert (view["ack_wait"], view["max_deliver"], view["backoff"], view["max_inflight"], view["dead_letter"]) == (7, 3, [1, 2], 5, False)
    assert consumer.put(patterns=["job.*"]).status == 200
    view = consumer.view()
    assert {name: view[name] for name in DEFAULTS} == DEFAULTS and not view.get("backoff")


def test_get_shows_the_state_that_the_contract_names(broker):
    consumer = Consumer(broker, "billing", patterns=["job.*"], from_="all")
    publish_many(broker, "job.a", 5)
    consumer.fetch(max=2)
    view = consumer.wait(inflight=2, pending=3)
    assert (view["cursor"], view["redelivered"], view["dead"], view["lost"]) == (0, 0, 0, 0)
    assert view["lag_events"] == 5 and view["lag_seconds"] >= 0
    consumer.ack(1)
    consumer.wait(cursor=1, inflight=1, lag_events=4)


def test_another_from_is_409_and_changes_nothing(broker):
    consumer = Consumer(broker, "billing", patterns=["job.*"], from_="all", ack_wait=7)
    for other in ("new", {"seq": 1}, {"time": 1}, None):
        answer = consumer.put(patterns=["x.*"], from_=other)
        assert (answer.status, answer.json["code"]) == (409, "conflict"), answer
    assert consumer.view()["patterns"] == ["job.*"] and consumer.view()["ack_wait"] == 7
    assert consumer.put(patterns=["x.*"], from_="all").status == 200


def test_new_values_hold_from_the_next_delivery(broker):
    """What is out keeps its own ack_wait; what goes out after the PUT has the new one."""
    consumer = Consumer(broker, "billing", patterns=["job.*"], from_="all", ack_wait=0.3)
    publish_many(broker, "job.a", 2)
    assert seqs(consumer.fetch()) == [1]
    assert consumer.put(patterns=["job.*"], from_="all", ack_wait=60).status == 200
    assert [(e["seq"], e["delivery"]) for e in consumer.fetch()] == [(2, 1)]
    assert [(e["seq"], e["delivery"]) for e in consumer.fetch()] == [(1, 2)]


def test_a_name_is_1_to_64_of_letters_digits_underscore_and_hyphen(broker):
    for name in ("a", "Z", "0", "_", "-", "a" * 64, "A-z_09"):
        assert Consumer(broker, name, patterns=["job.*"]).view()["name"] == name


def test_any_other_name_is_refused_also_one_that_only_looks_alike(broker):
    for name in ("a" * 65, "a.b", "a%20b", "%C3%A9", "a%2Fb", "%EF%BC%A1", "a%E2%80%8Db", "a*", "%23", "$a", "a%00"):
        answer = Consumer(broker, name, make=False).put(patterns=["job.*"])
        assert (answer.status, answer.json["code"]) == (400, "invalid_request"), (name, answer)


def test_1_to_16_patterns(broker):
    consumer = Consumer(broker, "c", patterns=[f"p{n}.*" for n in range(16)], from_="all")
    for n in range(16):
        broker.publish(f"p{n}.x", str(n).encode())
    assert [e["payload"] for e in consumer.fetch_all(16)] == [str(n) for n in range(16)]
    for number, bad in enumerate(([], [f"p{n}" for n in range(17)], "job.*", [1], None, {})):
        assert Consumer(broker, f"d{number}", make=False).put(patterns=bad).status in (400, 429), bad
    assert Consumer(broker, "e", make=False).put().status == 400


def test_an_event_that_matches_several_patterns_comes_once(broker):
    consumer = Consumer(broker, "c", patterns=["a.*", "*.b", "#"], from_="all")
    broker.publish("a.b", b"x")
    broker.publish("a.c", b"y")
    assert seqs(consumer.fetch_all(2)) == [1, 2]
    consumer.wait(pending=0, inflight=2)


BAD_VALUES = [
    ("ack_wait", 0), ("ack_wait", -1), ("ack_wait", "30"), ("max_deliver", -1), ("max_deliver", 1.5), ("max_deliver", "x"),
    ("backoff", 5), ("backoff", [-1]), ("backoff", ["1"]), ("max_inflight", 0), ("max_inflight", -1), ("max_inflight", True), ("order", "key"),
    ("order", "header:"), ("order", 1), ("order_window", 0), ("order_window", -3), ("dead_letter", "yes"), ("dead_letter", 1), ("push", "http://x"),
    ("push", {}), ("push", {"url": "ftp://x/"}), ("push", {"url": 7}), ("from", "later"), ("from", {}), ("from", {"seq": -1}), ("from", {"seq": "1"}),
    ("from", {"time": "now"}), ("from", 3), ("from", {"seq": 2**53 + 1}),
]  # fmt: skip


def test_a_bad_value_is_400_and_the_error_names_the_member(broker):
    for member, value in BAD_VALUES:
        answer = Consumer(broker, "c", make=False).put(**{"patterns": ["job.*"], member: value})
        assert (answer.status, answer.json["code"]) == (400, "invalid_request"), (member, value, answer)
        assert member in answer.json["detail"], (member, value, answer)
    assert broker.get("/v1/consumers/c").status == 404


def test_a_bad_pattern_is_told_as_one(broker):
    answer = Consumer(broker, "c", make=False).put(patterns=["ok.*", "a*"])
    assert (answer.status, answer.json["code"]) == (400, "invalid_pattern"), answer


def test_a_body_that_is_no_json_object_is_told(broker):
    Consumer(broker, "c", patterns=["job.*"])
    for body in ("", "{", "[]", "null", '"x"', "{}x", "\xff"):
        for method, path in (("PUT", ""), ("POST", "/ack"), ("POST", "/seek")):
            answer = broker.request(method, f"/v1/consumers/c{path}", body.encode("latin-1"), JSON)
            assert answer.status == 400 and answer.json["code"] in ("invalid_json", "invalid_request"), (body, path, answer)


def test_unknown_members_are_ignored(broker):
    assert Consumer(broker, "c", make=False).put(patterns=["job.*"], colour="red").status == 201


OPERATIONS = [
    ("GET", "", None), ("DELETE", "", None), ("POST", "/fetch", {}), ("POST", "/ack", {"seqs": [1]}), ("POST", "/nack", {"seqs": [1]}),
    ("POST", "/term", {"seqs": [1]}), ("POST", "/in_progress", {"seqs": [1]}), ("POST", "/seek", {"seq": 1}), ("GET", "/dead", None),
    ("POST", "/dead/redrive", {}),
]  # fmt: skip


def test_without_such_a_consumer_it_is_404(broker):
    for method, path, body in OPERATIONS:
        answer = Consumer(broker, "nobody", make=False).call(method, path, body)
        assert (answer.status, answer.json["code"]) == (404, "not_found"), (method, path, answer)


def test_another_method_is_405_with_what_is_allowed(broker):
    Consumer(broker, "c", patterns=["job.*"])
    for method, path in (("POST", ""), ("GET", "/fetch"), ("PUT", "/ack"), ("DELETE", "/dead"), ("GET", "/dead/redrive"), ("PATCH", "")):
        answer = broker.request(method, f"/v1/consumers/c{path}", "{}", JSON)
        assert answer.status == 405 and answer.headers["Allow"], (method, path, answer)


def test_the_list_has_all_by_name_and_pages(broker):
    for name in ("c", "a", "b", "B"):
        Consumer(broker, name, patterns=["job.*"])
    shown = broker.get("/v1/consumers").json
    assert [c["name"] for c in shown["consumers"]] == ["B", "a", "b", "c"]
    assert all({"cursor", "pending", "inflight", "lag_events"} <= set(flat(c)) for c in shown["consumers"])
    page = broker.get("/v1/consumers?limit=3").json
    assert [c["name"] for c in page["consumers"]] == ["B", "a", "b"] and page["next_after"]
    page = broker.get(f"/v1/consumers?limit=3&after={page['next_after']}").json
    assert [c["name"] for c in page["consumers"]] == ["c"] and page["next_after"] is None


def test_delete_ends_it_and_one_of_the_same_name_begins_afresh(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all")
    publish_many(broker, "job.a", 3)
    consumer.ack(*seqs(consumer.fetch_all(2)))
    assert consumer.delete().status in (200, 204)
    assert consumer.delete().status == 404 and consumer.try_fetch().status == 404
    again = Consumer(broker, "c", patterns=["job.*"], from_="all")
    assert [(e["seq"], e["delivery"]) for e in again.fetch_all(3)] == [(1, 1), (2, 1), (3, 1)]


def test_two_consumers_have_a_place_of_their_own_each(broker):
    a, b = (Consumer(broker, name, patterns=["job.*"], from_="all") for name in "ab")
    publish_many(broker, "job.a", 2)
    assert a.ack(*seqs(a.fetch_all(2))) == ["ok", "ok"]
    assert b.ack(1) == "unknown"
    assert seqs(b.fetch_all(2)) == [1, 2]


# ---- where it begins ----


def test_from_new_begins_above_the_last_seq_when_it_is_made(broker):
    publish_many(broker, "job.a", 3)
    consumer = Consumer(broker, "c", patterns=["job.*"])
    assert seqs(publish_many(broker, "job.a", 1) and consumer.fetch()) == [4]


def test_from_all_begins_at_the_first(broker):
    publish_many(broker, "job.a", 3)
    assert seqs(Consumer(broker, "c", patterns=["job.*"], from_="all").fetch_all(3)) == [1, 2, 3]


def test_from_a_seq_begins_there_up_to_last_plus_1(broker):
    publish_many(broker, "job.a", 3)
    assert seqs(Consumer(broker, "c", patterns=["job.*"], from_={"seq": 2}).fetch_all(2)) == [2, 3]
    consumer = Consumer(broker, "d", patterns=["job.*"], from_={"seq": 4})
    answer = Consumer(broker, "e", make=False).put(patterns=["job.*"], from_={"seq": 5})
    assert (answer.status, answer.json["code"]) == (400, "invalid_request") and "4" in answer.json["detail"], answer
    publish_many(broker, "job.a", 1)
    assert seqs(consumer.fetch()) == [4]


def test_from_a_time_begins_at_the_first_event_with_that_timestamp_or_a_later_one(broker):
    publish_many(broker, "job.a", 2)
    before = broker.events()[-1]["metadata"]["timestamp"]
    wait_for(lambda: time.time() * 1000 > before + 2)
    publish_many(broker, "job.a", 2)
    after = broker.events()[-1]["metadata"]["timestamp"]
    assert seqs(Consumer(broker, "c", patterns=["job.*"], from_={"time": after}).fetch_all(2)) == [3, 4]
    assert seqs(Consumer(broker, "d", patterns=["job.*"], from_={"time": before + 1}).fetch_all(2)) == [3, 4]
    assert seqs(Consumer(broker, "e", patterns=["job.*"], from_={"time": 0}).fetch_all(4)) == [1, 2, 3, 4]
    later = Consumer(broker, "f", patterns=["job.*"], from_={"time": after + 3600000})
    publish_many(broker, "job.a", 1)
    assert seqs(later.fetch()) == [5]


# ---- fetch ----


def test_a_fetched_event_is_the_frame_of_the_contract_with_its_delivery(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all")
    broker.publish("job.a", b"hello", Content_Type="text/x", Event_Header_Colour="red")
    [event] = consumer.fetch()
    [plain] = broker.events()
    assert event["delivery"] == 1
    assert {name: event[name] for name in plain} == plain


def test_fetch_gives_at_most_max_and_by_default_no_more_than_there_is(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all")
    publish_many(broker, "job.a", 5)
    consumer.wait(pending=5)
    assert seqs(consumer.fetch(max=3)) == [1, 2, 3]
    assert seqs(consumer.fetch(max=1000)) == [4, 5]
    assert consumer.fetch(max=5, wait=0) == []


def test_fetch_answers_as_soon_as_there_is_one(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"])
    got = []
    thread = threading.Thread(target=lambda: got.append(consumer.fetch(max=10, wait=60)))
    thread.start()
    wait_for(lambda: consumer.view().get("workers", 1))
    broker.publish("job.a", b"x")
    thread.join(20)
    assert seqs(got[0]) == [1]


def test_fetch_is_empty_after_wait_seconds(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"])
    begin = time.monotonic()
    assert consumer.fetch(wait=0.5) == []
    assert time.monotonic() - begin >= 0.49
    assert consumer.fetch(wait=0) == []


def test_fetch_refuses_what_is_beyond_its_limits(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"])
    for body in ({"max": 0}, {"max": 1001}, {"max": -1}, {"max": "10"}, {"wait": 61}, {"wait": -1}, {"wait": "5"}, {"max": 1.5}):
        answer = consumer.try_fetch(**body)
        assert (answer.status, answer.json["code"]) == (400, "invalid_request"), (body, answer)
        assert next(iter(body)) in answer.json["detail"]


def test_an_answer_has_at_most_4_mib_but_at_least_one_event(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all")
    for _ in range(6):
        broker.publish("job.a", b"x" * (1 << 20))
    consumer.wait(pending=6)
    got = []
    while len(got) < 6:
        answer = consumer.try_fetch(max=100, wait=10)
        assert answer.json["events"] and len(answer.body) <= 4 << 20, answer
        got += seqs(answer.json["events"])
    assert got == [1, 2, 3, 4, 5, 6]
    big = Consumer(broker, "big", patterns=["big"])
    assert broker.publish("big", b"\1" * (1 << 20))  # each byte is \u0001 in JSON: 6 MiB
    assert len(big.fetch(max=10)) == 1


def test_when_the_answer_cannot_be_written_its_events_go_back_at_once_uncounted(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all", ack_wait=600)
    http = RawHttp(broker.port)
    body = json.dumps({"max": 5, "wait": 60})
    http.send(f"POST /v1/consumers/c/fetch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}")
    wait_for(lambda: consumer.view()["workers"] == 1, timeout=10)
    http.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    http.close()
    broker.publish("job.a", b"x")
    [event] = consumer.fetch()
    assert (event["seq"], event["delivery"]) == (1, 1)
    assert consumer.view()["redelivered"] == 0


def test_fetch_and_consume_are_409_while_the_broker_calls_a_webhook(start_broker):
    broker = start_broker(*PUSH_LOCAL)
    consumer = Consumer(broker, "c", patterns=["job.*"], push=PUSH)
    answer = consumer.try_fetch()
    assert (answer.status, answer.json["code"]) == (409, "conflict"), answer
    with Worker(broker, "d", settings={"patterns": ["job.*"]}) as worker:
        answer = worker.ws.call(type="consume", consumer="c")
        assert (answer["type"], answer["code"]) == ("error", "conflict"), answer


# ---- ack, nack, term, in_progress: each in every state ----

VERBS = ["ack", "nack", "term", "in_progress"]
AFTERWARDS = [("ack", "ok"), ("nack", "late"), ("term", "late"), ("in_progress", "late")]


def test_never_delivered(broker):
    """Neither what was not given yet nor what is not there."""
    consumer = Consumer(broker, "c", patterns=["job.*"], from_={"seq": 1})
    publish_many(broker, "job.a", 2)
    consumer.wait(pending=2)
    for verb in VERBS:
        assert consumer._results(verb, [1, 2, 77], {}) == ["unknown"] * 3
    assert consumer.wait(pending=2)["inflight"] == 0


def test_out_with_a_worker(broker):
    """Each acts at once, and is answered ok."""
    publish_many(broker, "job.a", 1)
    for verb in VERBS:
        consumer = Consumer(broker, verb, patterns=["job.*"], from_="all", ack_wait=600)
        consumer.fetch()
        assert consumer._results(verb, [1], {}) == "ok"
        if verb == "nack":
            assert consumer.fetch()[0]["delivery"] == 2
        else:
            view = consumer.wait(pending=0, inflight=1 if verb == "in_progress" else 0)
            assert view["cursor"] == (0 if verb == "in_progress" else view["cursor"])


def test_waiting_for_its_redelivery(broker):
    """An ack is taken whoever had it; the others are about a delivery that is over."""
    publish_many(broker, "job.a", 1)
    for verb, result in AFTERWARDS:
        consumer = Consumer(broker, verb, patterns=["job.*"], from_="all")
        consumer.fetch()
        assert consumer.nack(1, delay=600) == "ok"
        consumer.wait(inflight=0)
        assert consumer._results(verb, [1], {}) == result
        if verb == "ack":
            consumer.wait(pending=0, cursor=1)
        else:
            consumer.wait(pending=1, cursor=0)


def test_handled_already(broker):
    publish_many(broker, "job.a", 2)
    for verb, result in AFTERWARDS:
        consumer = Consumer(broker, verb, patterns=["job.*"], from_="all")
        consumer.fetch_all(2)
        consumer.ack(1)
        assert consumer._results(verb, [1], {}) == result
        assert consumer.wait(inflight=1)["pending"] == 0


def test_a_dead_letter_is_handled(broker):
    publish_many(broker, "job.a", 1)
    for verb, result in AFTERWARDS:
        consumer = Consumer(broker, verb, patterns=["job.*"], from_="all")
        consumer.fetch()
        consumer.term(1)
        wait_for(lambda: consumer.view()["cursor"] >= 1, what="the end of the original")
        assert consumer._results(verb, [1], {}) == result


def test_forgotten_by_seek(broker):
    """What was out before the seek and was not given again since is unknown."""
    publish_many(broker, "job.a", 3)
    for verb in VERBS:
        consumer = Consumer(broker, verb, patterns=["job.*"], from_="all")
        consumer.fetch_all(3)
        consumer.seek(seq=1)
        consumer.wait(pending=3, inflight=0)
        assert consumer._results(verb, [2], {}) == "unknown"
        assert [(e["seq"], e["delivery"]) for e in consumer.fetch_all(3)] == [(1, 1), (2, 1), (3, 1)]


def test_with_the_number_of_another_delivery_it_is_late(broker):
    publish_many(broker, "job.a", 1)
    for verb in ["nack", "term", "in_progress"]:
        consumer = Consumer(broker, verb, patterns=["job.*"], from_="all", ack_wait=600)
        consumer.fetch()
        consumer.nack(1)
        assert consumer.fetch()[0]["delivery"] == 2
        for other in (1, 3):
            assert consumer._results(verb, [1], {"delivery": other}) == "late"
        assert consumer.wait(inflight=1)["dead"] == 0
        assert consumer._results(verb, [1], {"delivery": 2}) == "ok"


def test_after_ack_wait_is_over_it_is_late(broker):
    publish_many(broker, "job.a", 1)
    for verb in ["nack", "term", "in_progress"]:
        consumer = Consumer(broker, verb, patterns=["job.*"], from_="all", ack_wait=0.1, backoff=[600])
        consumer.fetch()
        consumer.wait(inflight=0, pending=1)
        assert consumer._results(verb, [1], {}) == "late"
        assert consumer._results(verb, [1], {"delivery": 1}) == "late"
        assert consumer.ack(1) == "ok"


def test_acks_are_taken_from_any_connection_and_from_http(broker):
    """Neither the fetcher nor the worker that has it need be the one who acknowledges."""
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all")
    publish_many(broker, "job.a", 3)
    consumer.fetch()
    with Worker(broker, "c") as has, Worker(broker, "c", max_inflight=1) as other:
        had = seqs(has.waiting() or has.take(1))
        assert other.ack(1) == "ok"  # fetched over HTTP
        assert other.ack(had[0]) == "ok"  # with another worker
        left = ({2, 3} - set(had[:1])).pop()
        wait_for(lambda: consumer.view()["inflight"] == 1)
        assert consumer.ack(left) == "ok"
    consumer.wait(cursor=3, pending=0, inflight=0)


def test_results_come_for_each_seq_in_the_order_asked_also_repeated(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all")
    publish_many(broker, "job.a", 4)
    consumer.fetch_all(3)
    assert consumer.ack(3, 4, 3, 1, 99) == ["ok", "unknown", "ok", "ok", "unknown"]


def test_bad_seqs_are_400(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"])
    for verb in VERBS:
        for body in ({}, {"seqs": None}, {"seqs": 1}, {"seqs": ["1"]}, {"seqs": [1.5]}, {"seqs": [-1]}, {"seqs": [0]}, {"seqs": [[1]]}):
            answer = consumer.call("POST", f"/{verb}", body)
            assert (answer.status, answer.json["code"]) == (400, "invalid_request") and "seq" in answer.json["detail"], (verb, body, answer)


def test_bad_members_beside_are_400_and_change_nothing(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all")
    publish_many(broker, "job.a", 1)
    consumer.fetch()
    for verb, more in (("nack", {"delay": -1}), ("nack", {"delay": "5"}), ("term", {"reason": 5}), ("nack", {"delivery": 0}), ("term", {"delivery": "1"})):
        answer = consumer.judge(verb, 1, **more)
        assert answer.status == 400 and next(iter(more)) in answer.json["detail"], (verb, more, answer)
    consumer.wait(inflight=1, dead=0)


def test_a_plain_ack_changes_nothing_for_consumers_and_theirs_nothing_for_the_log(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all")
    publish_many(broker, "job.a", 2)
    with Worker(broker, "d", settings={"patterns": ["x"]}) as worker:
        assert worker.ws.call(type="ack", seq=1)["type"] == "ok"
        assert seqs(consumer.fetch_all(2)) == [1, 2]
        assert consumer.ack(1, 2) == ["ok", "ok"]
        worker.ws.subscribe("job.*", starting_seq=1, pending_only=True)
        assert worker.ws.event()["seq"] == 2


def test_auto_ack_marks_nothing_for_consumers(start_broker):
    broker = start_broker("--auto-ack")
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all", ack_wait=0.1)
    publish_many(broker, "job.a", 1)
    assert [consumer.fetch()[0]["delivery"] for _ in range(2)] == [1, 2]


# ---- time ----


def test_unanswered_for_ack_wait_an_event_is_delivered_again_and_counted(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all", ack_wait=0.3)
    publish_many(broker, "job.a", 1)
    times = []
    for number in (1, 2, 3):
        assert [(e["seq"], e["delivery"]) for e in consumer.fetch()] == [(1, number)]
        times.append(time.monotonic())
    assert all(b - a >= 0.25 for a, b in zip(times, times[1:])), times
    assert consumer.wait(redelivered=2)["dead"] == 0
    assert consumer.ack(1) == "ok"


def test_after_its_ack_no_new_delivery_begins(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all", ack_wait=0.1)
    publish_many(broker, "job.a", 1)
    consumer.fetch()
    consumer.wait(inflight=0, pending=1)
    assert consumer.ack(1) == "ok"
    assert consumer.fetch(wait=0.4) == []


def test_backoff_is_the_wait_before_each_further_delivery_and_its_last_repeats(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all", backoff=[0.1, 0.4])
    publish_many(broker, "job.a", 1)
    waits = []
    for number in (1, 2, 3, 4):
        begin = time.monotonic()
        assert consumer.fetch()[0]["delivery"] == number
        waits.append(time.monotonic() - begin)
        consumer.nack(1)
    for least, waited in zip((0, 0.1, 0.4, 0.4), waits):
        assert waited >= least - 0.05, waits


def test_nack_with_a_delay_beats_the_backoff_and_without_one_comes_again_at_once(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all", ack_wait=600)
    publish_many(broker, "job.a", 1)
    consumer.fetch()
    begin = time.monotonic()
    assert consumer.nack(1, delay=0.5) == "ok"
    assert consumer.fetch()[0]["delivery"] == 2
    assert time.monotonic() - begin >= 0.45
    consumer.nack(1)
    assert consumer.fetch()[0]["delivery"] == 3
    assert consumer.put(patterns=["job.*"], from_="all", backoff=[600]).status == 200
    consumer.nack(1, delay=0)
    assert consumer.fetch()[0]["delivery"] == 4


def test_in_progress_extends_ack_wait_as_often_as_it_is_sent(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all", ack_wait=0.6)
    publish_many(broker, "job.a", 1)
    consumer.fetch()
    begin = time.monotonic()
    while time.monotonic() - begin < 1.5:
        assert consumer.in_progress(1) == "ok"
        assert consumer.fetch(wait=0.1) == []
    assert consumer.fetch()[0]["delivery"] == 2  # and then it ends


# ---- seek ----


def test_seek_goes_to_a_seq_or_a_time_and_delivers_from_there_with_delivery_1(broker):
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all")
    publish_many(broker, "job.a", 2)
    before = broker.events()[-1]["metadata"]["timestamp"]
    wait_for(lambda: time.time() * 1000 > before + 2)
    publish_many(broker, "job.a", 2)
    consumer.ack(*seqs(consumer.fetch_all(4)))
    consumer.wait(cursor=4)
    consumer.seek(seq=3)
    assert [(e["seq"], e["delivery"]) for e in consumer.fetch_all(2)] == [(3, 1), (4, 1)]
    consumer.seek(time=before + 1)
    assert [(e["seq"], e["delivery"]) for e in consumer.fetch_all(2)] == [(3, 1), (4, 1)]
    consumer.seek(seq=5)
    publish_many(broker, "job.a", 1)
    assert seqs(consumer.fetch(max=10)) == [5]


def test_a_bad_seek_is_400_and_changes_nothing(broker):
    """Also above last + 1, as `from` is judged."""
    consumer = Consumer(broker, "c", patterns=["job.*"], from_="all")
    publish_many(broker, "job.a", 2)
    consumer.fetch()
    for body in ({}, {"seq": -1}, {"seq": "1"}, {"time": "x"}, {"seq": 4}):
        assert consumer.call("POST", "/seek", body).status == 400, body
    consumer.wait(inflight=1, pending=1)


# ---- what is on the wire elsewhere ----


def test_stats_show_the_limits_and_metrics_the_consumers(broker):
    consumer = Consumer(broker, "billing", patterns=["job.*"], from_="all", ack_wait=0.2)
    publish_many(broker, "job.a", 4)
    consumer.fetch()
    consumer.fetch()
    text = broker.get("/metrics").body.decode()
    lines = [line for line in text.splitlines() if 'consumer="billing"' in line]
    for figure in ("lag_events", "lag_seconds", "inflight", "redelivered", "dead"):
        assert any(figure in line for line in lines), (figure, lines)


def test_a_token_is_asked_for_there_too(start_broker, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("secret\n")
    broker = start_broker("--token-file", tokens)
    assert broker.get("/v1/consumers").status == 401
    assert broker.request("PUT", "/v1/consumers/c", '{"patterns":["job.*"]}', JSON).status == 401
    assert broker.get("/v1/consumers", Authorization="Bearer secret").status == 200
