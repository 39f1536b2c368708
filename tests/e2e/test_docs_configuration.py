"""docs/configuration.md: its table is the daemon's own, its example is one that the daemon takes."""
import os
import re
import subprocess

from lib import page
from lib.broker import BUILD

PAGE = "docs/configuration.md"


def run(*options, env=()):
    env = {**os.environ, **dict(env)}
    return subprocess.run([str(BUILD / "broker" / "eventbusd"), *options], capture_output=True, text=True, timeout=30, env=env)


def test_the_table_is_what_the_daemon_prints():
    """A setting was changed: ./dev docs writes the page anew."""
    shown = re.search(r"<!-- settings -->\n(.*?)<!-- end of settings -->", page.read(PAGE), re.S).group(1)
    assert shown == run("--print-docs").stdout
    assert shown.count("\n") > 40


def test_the_example_is_taken(tmp_path):
    [text] = [text for kind, text in page.blocks(PAGE) if kind == "ini"]
    path = tmp_path / "eventbus.ini"
    path.write_text(text)
    done = run("--check-config", "--config", str(path))
    assert done.returncode == 0, done.stderr


def test_the_three_ways_to_say_it(tmp_path):
    """File, environment and command line, each with the example of its row."""
    rows = re.findall(r"^\| (file|environment|command line) \|.*\| (.*) \|$", page.read(PAGE), re.M)
    examples = {where: page.quoted(cell) for where, cell in rows}
    (tmp_path / "x.ini").write_text(examples["file"][0] + "\n")
    assert "max_payload = 2M" in run("--config", str(tmp_path / "x.ini"), "--print-config").stdout
    name, value = examples["environment"][0].split("=")
    assert "max_payload = 2M" in run("--print-config", env={name: value}).stdout
    options = [word for example in examples["command line"] for word in example.split()]
    printed = run(*options, "--print-config").stdout
    assert "max_payload = 2M" in printed and "pages = false" in printed


def test_what_is_printed_is_a_file_that_is_read(tmp_path):
    path = tmp_path / "printed.ini"
    path.write_text(run("--max-batch", "77", "--print-config").stdout)
    assert "max_batch = 77" in run("--config", str(path), "--print-config").stdout
