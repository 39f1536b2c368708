"""docs/delivery.md: its commands run in order, its conversation is played, its tables hold against the broker."""
import json
import re
import subprocess

from lib import page
from lib.broker import wait_for
from lib.consumer import Consumer, flat, publish_many
from lib.ws import WebSocket

PAGE = "docs/delivery.md"
MARKS = re.findall(r"^<!-- run: (\w+) -->$", page.read(PAGE), re.M)


def run(broker, commands):
    text = commands.replace("http://127.0.0.1:3000", broker.url).replace("curl ", "curl -sS --fail-with-body -w '\\n' ")
    done = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, (commands, done)
    return [line for line in done.stdout.splitlines() if line]


def test_the_commands_run_in_order_and_show_what_the_page_shows(broker):
    assert MARKS == ["queue", "fetch", "ack", "order", "dead"]
    said = {}
    for mark in MARKS:
        said[mark] = []
        for command in re.split(r"\n(?=curl)", page.marked(PAGE, f"run: {mark}")):
            if command.endswith("/dead\n") or command.endswith("/dead"):  # nobody types as fast: the letter is there a moment later
                wait_for(lambda: Consumer(broker, "billing", make=False).dead())
            said[mark] += run(broker, command)
    for mark in ("fetch", "ack"):
        shown = page.shape(page.marked(PAGE, f"shown: {mark}", "json").strip())
        for line, real in zip(shown.splitlines(), said[mark], strict=True):
            assert page.shape(real).startswith(line.removesuffix("…")), (mark, line, real)
    assert sorted(e["payload"] for e in json.loads(said["order"][-1])["events"]) == ["first of 7", "first of 8", "order 17", "order 18"]
    fetched, term, letters, _ = map(json.loads, said["dead"])
    assert [e["seq"] for e in fetched["events"]] == [3]
    assert term["results"] == [{"seq": 3, "result": "ok"}]
    assert letters["events"][0]["metadata"]["headers"]["dead-reason"] == "no such customer"


def test_the_conversation_goes_as_the_page_shows_it(broker):
    [text] = [text for kind, text in page.blocks(PAGE) if kind == "ws"]
    with WebSocket(broker.port) as ws:
        wanted = []
        for line in text.splitlines():
            if line.startswith("> "):
                ws.send(line[2:])
            else:
                wanted.append(line[2:])
                if not text.split(line, 1)[1].lstrip("\n").startswith("< "):
                    said = [json.dumps(ws.next(), separators=(",", ":")) for _ in wanted]
                    assert sorted(map(page.shape, said)) == sorted(map(page.shape, wanted))
                    wanted = []
        assert ws.quiet() == [] and not wanted


def test_the_webhook_is_made_and_its_secret_not_shown(broker):
    run(broker, page.marked(PAGE, "put: webhook"))
    shown = broker.get("/v1/consumers/mailer")
    assert b"MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw" not in shown.body
    assert flat(shown.json)["push"]["url"] == "https://mail.example/hook"


def test_every_setting_and_figure_on_the_page_is_shown_by_the_broker(broker):
    view = Consumer(broker, "c", patterns=["a"]).view()
    text = page.read(PAGE)
    settings = re.search(r"## Choosing settings\n(.*?)\n## ", text, re.S).group(1)
    figures = re.search(r"^\| figure \|.*?\n\n", text, re.S | re.M).group(0)
    names = [name for row in re.findall(r"^\| (`.*?) \|", settings + figures, re.M) for name in page.quoted(row)]
    assert len(names) > 14
    for name in names:
        assert name in view or name == "push" or name == "lag" and {"lag_events", "lag_seconds"} <= set(view), name


def test_the_table_of_answers_is_what_the_broker_answers(broker):
    table = re.search(r"^\| \| never given.*?\n\n", page.read(PAGE), re.S | re.M).group(0)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.strip().splitlines()]
    other = next(row for row in rows if "delivery" in row[0])
    publish_many(broker, "job.a", 1)
    for verb in ("ack", "nack", "term", "in_progress"):
        row = next(row for row in rows if f"`{verb}`" in row[0])
        for column in range(1, 5):
            consumer = Consumer(broker, f"{verb}-{column}", patterns=["job.*"], from_="all")
            consumer.wait(pending=1)
            if column > 1:
                consumer.fetch()
            if column == 3:
                consumer.nack(1, delay=600)
            if column == 4:
                consumer.ack(1)
            if verb != "ack":
                assert [consumer._results(verb, [1], {"delivery": 7})] == page.quoted(other[column])
            assert [consumer._results(verb, [1], {})] == page.quoted(row[column]), (verb, rows[0][column])
