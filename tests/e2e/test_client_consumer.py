"""eb_consumer_…: work is taken, answered, kept across lost connections and given back in order. Against a broker that does
what it is told (lib/fake_consumer.py), so that each moment can be chosen; test_client_work.py does it with a real one."""
import threading
import time

import pytest

from lib.broker import wait_for
from lib.driver import RESULTS, Driver
from lib.fake_broker import FakeBroker
from lib.fake_consumer import FakeConsumers

QUICK = dict(reconnect_interval=5, reconnect_interval_max=50)
PATTERNS = ["work.#"]


@pytest.fixture
def driver():
    driver = Driver()
    yield driver
    driver.finish()


@pytest.fixture
def fake():
    """(broker, consumers), the driver's other end."""
    broker = FakeBroker()
    consumers = FakeConsumers(broker)
    broker.answer = consumers.handler
    yield broker, consumers
    broker.finish()


def start(fake, driver, **options):
    broker, consumers = fake
    driver.ok("open", url=broker.url, **QUICK)
    return driver.ok("consume", **{"name": "w", "patterns": PATTERNS, **options})


def seqs(lines):
    return [line["seq"] for line in lines]


# ---- opening ----


def test_the_settings_are_asked_for_as_given(fake, driver):
    start(fake, driver, ack_wait=1500, max_deliver=3, backoff=250, order="header:key", max_inflight=7, **{"from": 2, "start_at": 9})
    (request,) = fake[0].requests
    assert request["consumer"] == "w" and request["max_inflight"] == 7
    assert request["settings"] == {
        "patterns": PATTERNS, "from": {"seq": 9}, "ack_wait": 1.5, "max_deliver": 3, "backoff": [0.25], "max_inflight": 256,
        "order": "header:key", "order_window": 10000, "dead_letter": True}  # fmt: skip


def test_without_settings_it_must_be_there(fake, driver):
    driver.ok("open", url=fake[0].url)
    assert driver.consume(name="w")["rc"] == RESULTS["not_found"]
    assert "w" in driver.last_error()["error"]
    fake[1].make("w")
    driver.ok("consume", name="w")
    assert "settings" not in fake[0].requests[-1]


def test_other_settings_are_a_conflict(fake, driver):
    fake[1].make("w", {"patterns": ["other"]})
    driver.ok("open", url=fake[0].url)
    assert driver.consume(name="w", patterns=PATTERNS)["rc"] == RESULTS["conflict"]
    assert driver.of("work_failed") == []


@pytest.mark.parametrize(
    "options, word",
    [(dict(name="a b"), "name"), (dict(name=""), "name"), (dict(name="x" * 65), "name"), (dict(patterns=["a*"]), "a*"),
     (dict(threads=0), "threads"), (dict(threads=257), "threads"), (dict(max_inflight=0), "max_inflight"), (dict(ack_wait=0), "ack_wait"),
     (dict(in_progress=-2), "in_progress"), (dict(pull=1, in_progress=5), "in_progress"), (dict(patterns=[], in_progress=-1), "in_progress")],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_a_reason(fake, driver, options, word):
    driver.ok("open", url=fake[0].url)
    assert driver.consume(**{"name": "w", "patterns": PATTERNS, **options})["rc"] == RESULTS["invalid"]
    assert word in driver.last_error()["error"]


def test_a_name_is_consumed_once_by_a_client(fake, driver):
    start(fake, driver)
    assert driver.consume(name="w")["rc"] == RESULTS["invalid"]
    driver.ok("consume", name="v", patterns=PATTERNS)


@pytest.mark.parametrize("text", ['unknown type "consume"; known are publish', "kind 0x07 is no request that this broker knows; known are 0x01 to 0x06"])
def test_an_older_broker_is_named_so(fake, driver, text):
    async def answer(request, send, connection):
        await send({"type": "error", "id": request["id"], "code": "invalid_request", "message": text})

    fake[0].answer = answer
    driver.ok("open", url=fake[0].url)
    assert driver.consume(name="w", patterns=PATTERNS)["rc"] == RESULTS["invalid"]
    assert "older" in driver.last_error()["error"]


# ---- callbacks and their verdicts ----


def test_each_event_is_handled_and_acknowledged(fake, driver):
    start(fake, driver)
    wanted = fake[1].add(100)
    driver.wait("answered", 100)
    assert seqs(driver.of("work")) == wanted
    assert {line["rc"] for line in driver.of("answered")} == {0}
    assert fake[1].handled == {("w", seq): "ack" for seq in wanted}


def test_acks_share_requests(fake, driver):
    """Many events answered while one answer is on its way go in few requests."""
    start(fake, driver, max_inflight=256, quiet=1)
    fake[1].add(2000)
    driver.wait("answered", 2000)
    requests = [r for r in fake[0].requests if r["type"] == "ack"]
    assert sum(len(r["seqs"]) for r in requests) == 2000
    assert len(requests) < 1000


def test_a_nack_comes_again_with_the_next_number(fake, driver):
    start(fake, driver, verdicts="nna", nack_delay=1500)
    fake[1].add(1)
    driver.wait("answered", 3)
    assert [line["delivery"] for line in driver.of("work")] == [1, 2, 3]
    nacks = [r for r in fake[0].requests if r["type"] == "nack"]
    assert [(r["delivery"], r["delay"]) for r in nacks] == [(1, 1.5), (2, 1.5)]


def test_a_nack_without_delay_leaves_it_to_the_backoff(fake, driver):
    start(fake, driver, verdicts="na")
    fake[1].add(1)
    driver.wait("answered", 2)
    assert "delay" not in next(r for r in fake[0].requests if r["type"] == "nack")


def test_a_term_says_why(fake, driver):
    start(fake, driver, verdicts="t")
    (seq,) = fake[1].add(1)
    driver.wait("answered")
    (request,) = [r for r in fake[0].requests if r["type"] == "term"]
    assert (request["seqs"], request["reason"], request["delivery"]) == ([seq], "cannot be done", 1)


def test_what_is_answered_later_may_come_from_any_thread(fake, driver):
    start(fake, driver, verdicts="l")
    one, two, three, four = fake[1].add(4)
    driver.wait("work", 4)
    assert driver.figures(name="w")["handed"] == 4
    driver.ok("work_ack", name="w", seq=two, delivery=1)
    driver.ok("work_term", name="w", seq=three, delivery=1, reason="no")
    driver.ok("work_ack_wait", name="w", seq=one, delivery=1)
    driver.ok("work_nack", name="w", seq=four, delivery=1, delay=0)
    driver.wait("work", 5)
    driver.ok("work_ack_wait", name="w", seq=four, delivery=2)
    assert fake[1].handled == {("w", one): "ack", ("w", two): "ack", ("w", three): "term", ("w", four): "ack"}
    assert {line["seq"] for line in driver.of("answered")} == {two, three, four}, "who waits is not told a second time"


def test_late_and_unknown_are_told(fake, driver):
    start(fake, driver, verdicts="l")
    (seq,) = fake[1].add(1)
    driver.wait("work")
    assert driver.work_ack_wait(name="w", seq=99, delivery=1)["rc"] == RESULTS["unknown"]
    fake[1].again("w", seq)
    driver.wait("work", 2, seq=seq)
    assert driver.work_nack(name="w", seq=seq, delivery=1)["rc"] == RESULTS["late"], "a later delivery is known"
    driver.ok("work_ack", name="w", seq=seq, delivery=1)  # an ack counts, whoever has it
    assert [line["rc"] for line in driver.wait("answered")] == [0]
    driver.ok("work_nack", name="w", seq=seq, delivery=2)
    assert driver.wait("answered", 2)[-1]["rc"] == RESULTS["late"]


def test_an_answer_counts_once(fake, driver):
    broker, consumers = fake
    start(fake, driver, verdicts="l")
    (seq,) = consumers.add(1)
    driver.wait("work")
    broker.answer = lambda *args: never()
    driver.ok("work_ack", name="w", seq=seq, delivery=1)
    driver.ok("work_ack", name="w", seq=seq, delivery=1)
    assert driver.work_nack(name="w", seq=seq, delivery=1)["rc"] == RESULTS["conflict"]
    assert driver.work_ack_wait(name="w", seq=seq, delivery=1, timeout=30)["rc"] == RESULTS["timeout"]
    broker.answer = consumers.handler
    consumers.cut()
    driver.ok("flush")
    assert len(driver.of("answered")) == 1


async def never():
    pass


def test_several_threads_work_at_once(fake, driver):
    start(fake, driver, threads=4, delay_us=20000)
    fake[1].add(40)
    driver.wait("answered", 40)
    assert driver.figures(name="w")["most"] == 4
    assert sorted(seqs(driver.of("work"))) == sorted(fake[1].log)


def test_max_inflight_is_what_is_out_here(fake, driver):
    start(fake, driver, max_inflight=3, verdicts="l")
    wanted = fake[1].add(10)
    driver.wait("work", 3)
    assert driver.figures(name="w")["received"] == 3
    driver.ok("work_ack_wait", name="w", seq=wanted[1], delivery=1)
    driver.wait("work", 4)


def test_waiting_is_allowed_in_a_callback_and_closing_is_not(fake, driver):
    start(fake, driver, publish=1, ack_within=1)
    fake[1].add(1)
    (line,) = driver.wait("published")
    assert (line["rc"], line["close_rc"], line["consumer_close_rc"]) == (0, RESULTS["would_deadlock"], RESULTS["would_deadlock"])
    assert driver.wait("acked_within")[0]["rc"] == 0
    driver.ok("flush")
    assert [r["type"] for r in fake[0].requests].count("ack") == 1, "answered from within: the verdict adds nothing"


def test_several_consumers_of_a_client_are_apart(fake, driver):
    start(fake, driver, verdicts="a")
    driver.ok("consume", name="v", patterns=PATTERNS, verdicts="t")
    wanted = fake[1].add(20)
    driver.wait("answered", 20, consumer="w")
    driver.wait("answered", 20, consumer="v")
    assert {key: value for key, value in fake[1].handled.items()} == {
        **{("w", seq): "ack" for seq in wanted}, **{("v", seq): "term" for seq in wanted}}  # fmt: skip


# ---- in progress ----


def test_what_runs_or_waits_here_is_in_progress(fake, driver):
    """Every third of ack_wait, for the running callback and for what waits for its thread; not for what is answered later."""
    start(fake, driver, delay_us=400000, ack_wait=90, in_progress=-1)
    one, two = fake[1].add(2)
    wait_for(lambda: len([s for s in fake[1].said if s[0] == "in_progress" and s[1] == two]) >= 3, what="in_progress")
    driver.wait("answered", 2)
    said = [s for s in fake[1].said if s[0] == "in_progress"]
    assert {s[1] for s in said} == {one, two} and {s[2] for s in said} == {1} and {s[3] for s in said} <= {"ok"}


def test_in_progress_is_off_unless_asked_for(fake, driver):
    start(fake, driver, delay_us=100000, ack_wait=9)
    fake[1].add(2)
    driver.wait("answered", 2)
    assert not [s for s in fake[1].said if s[0] == "in_progress"]


def test_in_progress_by_hand(fake, driver):
    start(fake, driver, verdicts="l")
    (seq,) = fake[1].add(1)
    driver.wait("work")
    driver.ok("work_in_progress", name="w", seq=seq, delivery=1)
    wait_for(lambda: ("in_progress", seq, 1, "ok") in fake[1].said, what="in_progress")


# ---- pulling ----


def test_events_are_pulled_one_by_one(fake, driver):
    start(fake, driver, pull=1)
    assert driver.work_next(name="w", timeout=20)["rc"] == 0
    one, two = fake[1].add(2)
    first = driver.work_next(name="w")
    assert (first["rc"], first["seq"], first["delivery"]) == (1, one, 1)
    assert driver.work_next(name="w")["seq"] == two
    driver.ok("work_nack", name="w", seq=one, delivery=1)
    again = driver.work_next(name="w")
    assert (again["seq"], again["delivery"]) == (one, 2)
    driver.ok("work_ack_wait", name="w", seq=one, delivery=2)
    driver.ok("work_ack", name="w", seq=two, delivery=1)
    driver.ok("flush")
    assert len(fake[1].handled) == 2


def test_a_pull_that_waits_ends_with_the_consumer(fake, driver):
    start(fake, driver, pull=1)
    driver.send("work_next", name="w", timeout=20000)
    fake[1].say({"type": "released", "consumer": "w", "reason": "deleted"})
    assert driver.answer()["rc"] == RESULTS["not_found"]


# ---- lost connections ----


def test_a_lost_connection_is_consumed_again_without_settings(fake, driver):
    """An operator may have changed them meanwhile: that ends nobody's work."""
    start(fake, driver)
    fake[1].add(1)
    driver.wait("answered")
    fake[1].known["w"] = {"patterns": PATTERNS, "ack_wait": 99}
    fake[1].cut()
    wait_for(lambda: fake[1].workers, what="the consume of the second connection")
    fake[1].add(1)
    driver.wait("answered", 2)
    assert ["settings" in r for r in fake[0].requests if r["type"] == "consume"] == [True, False]


def test_a_broker_that_lost_the_consumer_makes_it_again(fake, driver):
    start(fake, driver)
    del fake[1].known["w"]
    fake[1].cut()
    wait_for(lambda: fake[1].workers, what="the consumer")
    assert ["settings" in r for r in fake[0].requests if r["type"] == "consume"] == [True, False, True]


def test_an_answer_that_was_lost_is_given_again(fake, driver):
    """The broker took it, or not: either way it is told in the end, and the event is handled once."""
    broker, consumers = fake
    lost = []

    async def answer(request, send, connection):
        if request["type"] == "ack" and len(lost) < 2:
            lost.append(request)
            if len(lost) == 1:  # taken, but the answer is lost
                await consumers.answers({**request, "id": request["id"]}, swallow)
            connection.transport.abort()
            return
        await consumers.handler(request, send, connection)

    async def swallow(message):
        pass

    broker.answer = answer
    start(fake, driver)
    (seq,) = consumers.add(1)
    assert driver.wait("answered")[0]["rc"] == 0
    assert len(lost) == 2 and consumers.handled == {("w", seq): "ack"}
    assert len(driver.of("work")) == 1


def test_what_waited_here_for_a_thread_is_dropped_with_its_connection(fake, driver):
    """The broker gives it to others at once, so it would be handled twice. What runs goes on, and its ack counts."""
    start(fake, driver, delay_us=300000)
    one, two, three = fake[1].add(3)
    driver.wait("work")
    wait_for(lambda: driver.figures(name="w")["held"] == 2, what="two that wait")
    fake[1].cut()
    fake[1].handled["w", two] = "ack"  # another did it
    driver.wait("answered", 2)
    assert seqs(driver.of("work")) == [one, three]
    assert fake[1].handled["w", one] == "ack" and len([r for r in driver.of("answered") if r["seq"] == one]) == 1


def test_an_event_is_not_handled_twice_at_once(fake, driver):
    """It comes again while its callback runs: the ack covers that delivery, too."""
    start(fake, driver, delay_us=200000, threads=4)
    (seq,) = fake[1].add(1)
    driver.wait("work")
    fake[1].again("w", seq)
    driver.wait("answered")
    driver.ok("flush")
    assert (driver.figures(name="w")["received"], len(driver.of("work"))) == (2, 1)


def test_what_came_again_is_handed_over_with_its_number_when_it_was_not_handled(fake, driver):
    start(fake, driver, delay_us=200000, verdicts="na")
    (seq,) = fake[1].add(1)
    driver.wait("work")
    fake[1].again("w", seq)  # so the nack of delivery 1 is late
    answered = driver.wait("answered", 2)
    assert [(line["verdict"], line["delivery"], line["rc"]) for line in answered] == [("nack", 1, RESULTS["late"]), ("ack", 2, 0)]


def test_another_log_is_not_acknowledged(fake, driver):
    """After a reconnect the broker has another log: what was handled of the old one is not said about the new one."""
    broker, consumers = fake
    start(fake, driver, verdicts="l")
    one, two = consumers.add(2)
    driver.wait("work", 2)
    broker.answer = lambda *args: never()
    driver.ok("work_ack", name="w", seq=one, delivery=1)
    wait_for(lambda: broker.requests[-1]["type"] == "ack", what="the ack")
    consumers.epoch = consumers.epoch[:-1] + "2"
    broker.answer = consumers.handler
    consumers.handled[("w", one)] = consumers.handled[("w", two)] = "nobody"
    consumers.cut()
    assert driver.wait("answered", seq=one)[0]["rc"] == RESULTS["disconnected"]
    driver.ok("work_ack", name="w", seq=two, delivery=1)
    assert driver.wait("answered", seq=two)[0]["rc"] == RESULTS["disconnected"]
    assert not consumers.said


@pytest.mark.parametrize("code", ["unavailable", "storage_full", "rate_limited"])
def test_an_answer_that_is_refused_for_now_is_given_again(fake, driver, code):
    fake[1].refuse = code
    start(fake, driver)
    (seq,) = fake[1].add(1)
    assert driver.wait("answered")[0]["rc"] == 0
    assert len([r for r in fake[0].requests if r["type"] == "ack"]) == 2


def test_an_answer_that_is_refused_for_good_is_told(fake, driver):
    fake[1].refuse = "forbidden"
    start(fake, driver)
    fake[1].add(1)
    assert driver.wait("answered")[0]["rc"] == RESULTS["forbidden"]


# ---- what the broker says ----


def test_gaps_reach_the_program(fake, driver):
    start(fake, driver)
    fake[1].say({"type": "gap", "consumer": "w", "from_seq": 3, "to_seq": 9, "reason": "retention"})
    (gap,) = driver.wait("work_gap")
    assert (gap["consumer"], gap["from_seq"], gap["to_seq"], gap["reason"]) == ("w", 3, 9, "retention")


def test_a_seek_is_followed(fake, driver):
    start(fake, driver)
    fake[1].say({"type": "released", "consumer": "w", "reason": "seek"})
    driver.wait("released", reason="seek")
    wait_for(lambda: len([r for r in fake[0].requests if r["type"] == "consume"]) == 2, what="the second consume")
    fake[1].add(1)
    driver.wait("answered")


@pytest.mark.parametrize("reason, result", [("deleted", "not_found"), ("push", "conflict")])
def test_an_end_is_told_and_answers_end_too(fake, driver, reason, result):
    start(fake, driver, verdicts="l")
    (seq,) = fake[1].add(1)
    driver.wait("work")
    fake[1].say({"type": "released", "consumer": "w", "reason": reason})
    assert driver.wait("released")[0]["reason"] == reason
    assert driver.wait("work_failed")[0]["rc"] == RESULTS[result]
    assert driver.work_ack(name="w", seq=seq, delivery=1)["rc"] == RESULTS[result]
    driver.ok("work_close", name="w", timeout=10000)
    driver.ok("consume", name="w", patterns=PATTERNS)


# ---- the end ----


def test_close_finishes_what_runs_and_gives_the_rest_back(fake, driver):
    """The running callback ends, its ack is answered, then the consumer is released: nothing lost, nothing acked unhandled."""
    broker, consumers = fake
    start(fake, driver, delay_us=300000)
    one, two, three = consumers.add(3)
    driver.wait("work")
    wait_for(lambda: driver.figures(name="w")["held"] == 2, what="two that wait")
    driver.ok("work_close", name="w")
    assert len(driver.of("work")) == len(driver.of("worked")) == 1
    assert driver.of("answered")[0]["rc"] == 0
    wait_for(lambda: not consumers.workers, what="the release")
    assert consumers.handled == {("w", one): "ack"}
    assert consumers.waiting["w"] == [two, three]
    assert [r["type"] for r in broker.requests] == ["consume", "ack", "release"]


def test_close_waits_for_later_answers(fake, driver):
    start(fake, driver, verdicts="l")
    (seq,) = fake[1].add(1)
    driver.wait("work")
    assert driver.work_close(name="w", timeout=50)["rc"] == RESULTS["timeout"]
    wait_for(lambda: fake[1].waiting["w"] == [seq], what="it goes back")
    assert not fake[1].handled


def test_close_while_the_broker_is_away(fake, driver):
    """The ack waits for a connection as long as close may; then the event is delivered again, to somebody."""
    broker, consumers = fake
    start(fake, driver, delay_us=200000)
    consumers.add(1)
    driver.wait("work")
    broker.status = 503
    consumers.cut()
    driver.wait("worked")
    started = time.monotonic()
    assert driver.work_close(name="w", timeout=100)["rc"] == RESULTS["timeout"]
    assert time.monotonic() - started < 10
    assert not consumers.handled


def test_close_of_the_client_ends_consumers_in_order(fake, driver):
    start(fake, driver, delay_us=200000, threads=2)
    wanted = fake[1].add(5)
    driver.wait("work", 2)
    assert driver.close(timeout=10000)["rc"] == 0
    assert len(driver.of("worked")) == 2
    assert sorted(seq for _, seq in fake[1].handled) == sorted(wanted[:2])


def test_close_of_the_client_with_a_pull_that_waits(fake, driver):
    start(fake, driver, pull=1)
    fake[1].add(1)
    assert driver.work_next(name="w")["rc"] == 1
    assert driver.close(timeout=50)["rc"] == RESULTS["timeout"]


# ---- under fire ----


def test_cuts_at_any_moment_lose_nothing(fake, driver):
    """Connections end again and again while callbacks run and acks are under way: each event is acknowledged at last, and
    none is acknowledged that was not handled."""
    broker, consumers = fake
    start(fake, driver, threads=3, delay_us=500, max_inflight=32, verdicts="nal")
    count = 400
    ending = threading.Event()

    def fire():
        while not ending.is_set():
            time.sleep(0.02)
            consumers.cut()

    thread = threading.Thread(target=fire)
    thread.start()
    try:
        for _ in range(4):
            consumers.add(count // 4)
            time.sleep(0.1)
    finally:
        ending.set()
        thread.join()
    answer_the_rest(driver, consumers, count)
    worked = {line["seq"] for line in driver.of("worked")}
    assert worked == set(consumers.log) and len(consumers.log) == count
    assert {value for value in consumers.handled.values()} == {"ack"}
    assert broker.connections > 3


def answer_the_rest(driver, consumers, count):
    """Third deliveries are answered later: here."""
    for _ in range(600):
        for line in driver.of("work"):
            if line["delivery"] >= 3 and ("w", line["seq"]) not in consumers.handled:
                driver.work_ack_wait(name="w", seq=line["seq"], delivery=line["delivery"])
        if len(consumers.handled) == count:
            return
        time.sleep(0.05)
    raise AssertionError(f"{len(consumers.handled)} of {count}; {driver.figures(name='w')}")
