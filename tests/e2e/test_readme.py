"""README.md: its commands are run, and it shows what they print; its C compiles; its links lead somewhere."""
import re
import subprocess

import pytest

from lib import page
from lib.broker import wait_for

PAGE = "README.md"


def command(name, broker):
    text = page.marked(PAGE, f"run: {name}")
    assert "http://127.0.0.1:3000" in text
    return text.replace("http://127.0.0.1:3000", broker.url).replace("curl ", "curl -sS --no-buffer ")


def shown(name, kind):
    return page.shape(page.marked(PAGE, f"shown: {name}", kind)).strip()


def shell(text):
    done = subprocess.run(["bash", "-ec", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return page.shape(done.stdout).strip()


class Subscriber:
    """The README's subscribe, as long as the block runs; what it has printed so far is .said()."""

    def __init__(self, broker, folder):
        self.path = folder / "subscriber"
        with open(self.path, "w") as out:
            self.process = subprocess.Popen(["bash", "-ec", "exec " + command("subscribe", broker)], stdout=out)

    def said(self):
        return page.shape(self.path.read_text())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def test_the_quick_start_prints_what_it_shows(broker, tmp_path):
    with Subscriber(broker, tmp_path) as subscriber:
        wait_for(lambda: "event: live" in subscriber.said(), what="the stream")
        assert shell(command("publish", broker)) == shown("publish", "json")
        wait_for(lambda: subscriber.said().strip() == shown("subscribe", "text"), what="the event as it is shown")
    assert shell(command("replay", broker)) == shown("replay", "json")


def test_a_late_subscriber_gets_the_same_event_also_after_a_restart(broker, tmp_path):
    """What the README says beneath its quick start."""
    shell(command("publish", broker))
    broker.restart()
    with Subscriber(broker, tmp_path) as subscriber:
        wait_for(lambda: shown("subscribe", "text").splitlines()[-1] in subscriber.said(), what="the event")


def test_the_two_commands_are_commands_of_dev():
    known = subprocess.run([str(page.ROOT / "dev"), "help"], capture_output=True, text=True, timeout=30, check=True).stdout
    named = set(re.findall(r"\./dev \w+", page.read(PAGE)))
    assert {"./dev run", "./dev test"} <= named
    assert all(name in known for name in named)


def test_the_c_compiles(tmp_path):
    [text] = [text for kind, text in page.blocks(PAGE) if kind == "c"]
    include, body = text.split("\n\n", 1)
    source = tmp_path / "readme.c"
    source.write_text(f"{include}\nint main(void)\n{{\n{body}return result;\n}}\n")
    flags = ["-std=gnu11", "-Wall", "-Werror", "-fsyntax-only", f"-I{page.ROOT}/client/include", f"-I{page.ROOT}/common/include"]
    done = subprocess.run(["cc", *flags, str(source)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_what_it_says_is_kept_is_what_the_broker_does(broker):
    """Everything, unless said otherwise; refused below 64 MiB; the first log line and /v1/stats say so."""
    limits = broker.stats()["limits"]
    assert limits["retention_age"] == limits["retention_bytes"] == limits["retention_events"] == limits["default_ttl"] == 0
    assert limits["min_free"] == 64 << 20 and limits["max_payload"] == 1 << 20 and limits["dedupe_window"] == 600
    assert broker.stats()["durability"] == "fsync"
    assert broker.said("everything is kept") == broker.log[0]


def anchors(path):
    """GitHub's anchors of a page's headings."""
    found = set()
    for line in re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.S | re.M), re.M):
        found.add(re.sub(r"[^\w\- ]", "", line.strip().lower()).replace(" ", "-"))
    return found


PAGES = sorted([page.ROOT / "README.md", page.ROOT / "tests" / "README.md", *page.ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(page.ROOT)))
def test_every_link_leads_somewhere(path):
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.S | re.M)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        other = (path.parent / name).resolve() if name else path
        assert other.exists(), f"{target}: no such file"
        if anchor:
            assert anchor in anchors(other), f"{target}: no such heading"


def test_the_decisions_are_all_in_their_index():
    folder = page.ROOT / "docs" / "decisions"
    records = {path.name for path in folder.glob("[0-9]*.md")}
    listed = re.findall(r"^\| \[(\d{4})\]\(([^)]+)\) \| (.*) \|$", (folder / "README.md").read_text(), re.M)
    assert records == {name for _, name, _ in listed}
    for number, name, title in listed:
        first = (folder / name).read_text().splitlines()[0]
        assert first.startswith(f"# {number} {title}      Status: "), (name, first)


def test_every_test_that_the_overview_names_exists():
    folder = page.ROOT / "tests"
    named = re.findall(r"`((?:unit|e2e|lint)/[\w./*]+)`", (folder / "README.md").read_text())
    assert len(named) > 15
    for name in named:
        assert list(folder.glob(name)), name
