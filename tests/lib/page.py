"""What a page of the documentation shows, taken out of it: fenced blocks, marked tables."""
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent.parent


def read(name):
    return (ROOT / name).read_text()


def blocks(name):
    """(kind, text) of every fenced block, in order; kind "" where the fence names none."""
    return re.findall(r"^```([\w-]*)\n(.*?)^```$", read(name), re.S | re.M)


def marked(name, mark, kind="sh"):
    """The block of that kind behind <!-- mark -->."""
    found = re.search(rf"^<!-- {re.escape(mark)} -->\n+```{kind}\n(.*?)^```$", read(name), re.S | re.M)
    assert found, f"{name}: no {kind} block behind <!-- {mark} -->"
    return found.group(1)


def table(name, mark):
    """Cells of the table behind <!-- mark -->, without its head; each cell a string."""
    found = re.search(rf"^<!-- {re.escape(mark)} -->\n((?:\|.*\n)+)", read(name), re.M)
    assert found, f"{name}: no table behind <!-- {mark} -->"
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in found.group(1).splitlines()]
    assert len(rows) > 2, f"{name}: the table behind <!-- {mark} --> is empty"
    return rows[2:]


def quoted(cell):
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)


def shape(text):
    """What does not change from run to run: times, version 4 and 7 ids and epochs are masked."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}", "UUID", text)
    return re.sub(r'"timestamp":\d+', '"timestamp":T', text)
