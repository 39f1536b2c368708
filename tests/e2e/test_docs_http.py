"""docs/http.md: every example runs, and what it shows is what the broker says."""
import pathlib
import re
import subprocess

DOC = pathlib.Path(__file__).parent.parent.parent / "docs" / "http.md"


def examples():
    """(commands, the block shown behind them or None), in order."""
    blocks = re.findall(r"```(\w*)\n(.*?)```", DOC.read_text(), re.S)
    return [(text, blocks[i + 1][1] if i + 1 < len(blocks) and blocks[i + 1][0] == "" else None)
            for i, (kind, text) in enumerate(blocks) if kind == "sh"]  # fmt: skip


def run(broker, commands):
    text = commands.replace("http://127.0.0.1:3000", broker.url).replace("curl -N", "curl -N --max-time 1").replace("curl ", "curl -sS ")
    done = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", text], capture_output=True, text=True, timeout=60)
    assert done.returncode == (28 if "curl -N" in commands else 0), (commands, done)
    return done.stdout


def shape(text):
    """What does not change from run to run: times, version 7 ids and epochs are masked, cut parts left out."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID", text)
    return re.sub(r'"timestamp":\d+', '"timestamp":T', text)


def test_examples_run_and_show_what_the_broker_says(broker):
    assert len(examples()) >= 9
    for commands, shown in examples():
        out = run(broker, commands)
        assert '"code"' not in out or '"code"' in (shown or ""), out
        if shown is None or "…" in shown:
            continue
        for line in filter(None, shape(shown).splitlines()):
            assert line in shape(out).replace("\r", ""), (commands, line, out)
