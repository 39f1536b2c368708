"""docs/binary.md: its bytes are those of tests/data/binary/vectors.json, and the plain Python codec made from the page
reads and writes them. (unit/common/test_bin.c holds the broker's codec against the same file.)"""
import json
import re

import pytest

from lib import bin, page
from lib.page import ROOT

PAGE = "docs/binary.md"
VECTORS = json.loads((ROOT / "tests/data/binary/vectors.json").read_text())


def shown():
    """{name: bytes} of the page's blocks."""
    found = {}
    for kind, text in page.blocks(PAGE):
        if kind == "bin":
            title, *lines = text.splitlines()
            found[title.removeprefix("# ")] = bytes.fromhex("".join(line.split(";")[0] for line in lines))
    return found


def plain(value):
    """A decoded record as the vectors write it: payloads and options in hex, lists for tuples."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def raw(record):
    """The other way."""
    record = dict(record)
    if "payload" in record:
        record["payload"] = bytes.fromhex(record["payload"])
    if "options" in record:
        record["options"] = [(tag, bytes.fromhex(value)) for tag, value in record["options"]]
    if "messages" in record:
        record["messages"] = [raw(member) for member in record["messages"]]
    return record


def test_the_page_shows_the_vectors():
    assert shown() == {vector["name"]: bytes.fromhex(vector["hex"]) for vector in VECTORS["records"]}


def test_every_kind_has_a_vector():
    kinds = {name: int(number, 16) for number, name, *_ in ((row[0], page.quoted(row[1])[0]) for row in page.table(PAGE, "test: kinds"))}
    assert kinds == bin.KINDS
    assert {vector["record"]["kind"] for vector in VECTORS["records"]} == set(kinds) - {"member"}


@pytest.mark.parametrize("vector", VECTORS["records"], ids=lambda vector: vector["name"])
def test_the_plain_codec_reads_and_writes(vector):
    data = bytes.fromhex(vector["hex"])
    assert plain(bin.decode(data)) == [vector["record"]]
    assert bin.encode(raw(vector["record"])) == data


def test_an_event_costs_what_the_page_says():
    """The sentence on the 40 bytes, and the bound that it was designed for."""
    [cost] = re.findall(r"costs (\d+) bytes beside topic and payload", page.read(PAGE))
    event = next(vector for vector in VECTORS["records"] if vector["name"] == "event")
    record = raw(event["record"])
    assert len(bytes.fromhex(event["hex"])) - len(record["topic"]) - len(record["payload"]) == int(cost) <= 56
