"""docs/configuration.md: its table is the daemon's own, its example is one that the daemon takes."""
import re
import subprocess

from lib import page
from lib.broker import BUILD

PAGE = "docs/configuration.md"


def run(*options):
    return subprocess.run([str(BUILD / "broker" / "eventbusd"), *options], capture_output=True, text=True, timeout=30)


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
