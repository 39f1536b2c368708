"""tests/bench/suite: it judges as its page says, and one tiny row runs from the broker's start to the page. No timing."""
import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tests/bench"))
from suite import report, runner  # noqa: E402
from suite.judge import judge, quotients  # noqa: E402
from suite.rows import Row, rows, sides  # noqa: E402


def side(*rates, **more):
    """A side that was measured so often, with a loader that had time to spare."""
    key = more.pop("key", "rate")
    busy = more.pop("busy", 0.6)
    return {"what": "made up", "rounds": [{key: rate, "cpu_share": busy} for rate in rates], **more}


def verdict(row, **measured):
    found = judge(row, measured)
    return found["verdict"], found


AT_LEAST = Row("r", "work", "a", "b", ">=", 2.0)
AT_MOST = Row("r", "work", "a", "b", "<=", 2.0, key="p99_us")


def test_a_ratio_is_the_median_of_the_rounds_own_ratios_and_its_spread_their_ends():
    # The machine was twice as fast in the last round: each round is compared with itself.
    said, found = verdict(AT_LEAST, a=side(200, 220, 500), b=side(100, 100, 200))
    assert said == "met"
    assert found["figure"] == 2.2 and found["spread"] == [2.0, 2.5] and found["value"] == 220


def test_the_goal_is_met_or_it_is_behind():
    assert verdict(AT_LEAST, a=side(200), b=side(100))[0] == "met"
    assert verdict(AT_LEAST, a=side(199), b=side(100))[0] == "behind"
    assert verdict(AT_MOST, a=side(200, key="p99_us"), b=side(100, key="p99_us"))[0] == "met"
    assert verdict(AT_MOST, a=side(201, key="p99_us"), b=side(100, key="p99_us"))[0] == "behind"


def test_a_bound_without_a_peer_is_about_the_figure_itself():
    bound = Row("r", "work", "a", None, "<", 100, key="start_ms", unit="ms")
    assert verdict(bound, a=side(99, key="start_ms"))[0] == "met"
    said, found = verdict(bound, a=side(120, 80, 110, key="start_ms"))
    assert said == "behind" and found["figure"] == 110 and found["goal"] == "< 100 ms"


def test_two_figures_of_theirs_are_added_when_the_goal_says_so():
    row = Row("r", "work", "a", "b", "<=", 1.0, key="p99_us", plus="c")
    measured = {"b": side(100, key="p99_us"), "c": side(60, key="p99_us")}
    assert verdict(row, a=side(150, key="p99_us"), **measured)[0] == "met"
    assert verdict(row, a=side(170, key="p99_us"), **measured)[0] == "behind"


def test_rounds_without_a_partner_do_not_count():
    assert quotients(side(10, 20, 30), side(10, 10), "rate") == [1, 2]


def test_a_row_is_void_when_the_loader_was_the_limit_on_either_side():
    fast = {"sink": {"rate": 1000}}
    said, found = verdict(AT_LEAST, a=side(950, **fast), b=side(100, **fast))
    assert said == "void" and "a came to 95%" in found["why"]
    assert verdict(AT_LEAST, a=side(300, **fast), b=side(900, **fast))[0] == "void"
    assert verdict(AT_LEAST, a=side(899, **fast), b=side(100, **fast))[0] == "met"


def test_a_row_is_void_when_the_loader_had_no_time_left():
    said, found = verdict(AT_LEAST, a=side(300, busy=0.97), b=side(100))
    assert said == "void" and "97%" in found["why"]


# The sink shares the machine too: what it came to in a slow moment is no ceiling.
def test_a_loader_that_idles_is_not_the_limit_whatever_the_sink_did():
    slow = {"sink": {"rate": 280}}
    assert verdict(AT_LEAST, a=side(300, busy=0.3, **slow), b=side(100))[0] == "met"
    assert verdict(AT_LEAST, a=side(300, busy=0.6, **slow), b=side(100))[0] == "void"


def test_a_paced_load_is_not_held_against_the_sinks_rate():
    fast = {"sink": {"rate": 1000}}
    assert verdict(AT_LEAST, a=side(990, paced=True, **fast), b=side(100))[0] == "met"


# An event's wait counts from when it was due, so a loader that was late itself has made the wait.
def test_a_stall_is_void_when_the_loader_was_late_itself():
    row = Row("r", "work", "a", None, "<", 50000, key="own_max_us", unit="us")
    late = {"what": "made up", "rounds": [{"own_max_us": 80000, "own_late_us": 60000}]}
    assert verdict(row, a=late)[0] == "void"
    late["rounds"][0]["own_late_us"] = 1000
    assert verdict(row, a=late)[0] == "behind"


# A run of which the host took a part says little of what it left.
def test_a_stall_is_void_when_the_host_took_the_cores():
    row = Row("r", "work", "a", None, "<", 50000, key="own_max_us", unit="us")
    taken = {"what": "made up", "rounds": [{"own_max_us": 80000, "own_late_us": 9000, "stolen": 0.057}]}
    said, found = verdict(row, a=taken)
    assert said == "void" and "5.7%" in found["why"]
    taken["rounds"][0].update(stolen=0.0004, aside_s=31.0, seconds=600.0)
    assert verdict(row, a=taken)[0] == "void"
    taken["rounds"][0]["aside_s"] = 3.0
    assert verdict(row, a=taken)[0] == "behind"


def test_what_is_not_there_is_never_a_figure():
    missing = {"missing": "no such target", "rounds": []}
    assert verdict(AT_LEAST, a=missing, b=side(100))[0] == "not built"
    said, found = verdict(AT_LEAST, a=side(300), b={"error": "it fell over", "rounds": [{"rate": 1}]})
    assert said == "failed" and "it fell over" in found["why"]
    assert verdict(AT_LEAST, a=side(300))[0] == "not measured"
    assert verdict(AT_LEAST, a=side(300, key="other"), b=side(100))[0] == "failed"


def test_how_far_it_is_from_the_possible():
    row = Row("r", "work", "a", "b", ">=", 2.0, possible="raw")
    found = verdict(row, a=side(300), b=side(100), raw={**side(1200), "raw": True})[1]
    assert found["possible"] == {"limit": "raw", "value": 1200, "reached": 0.25, "figure": 12}


# A goal that the limit itself does not come to is out of reach: the page says what it comes to.
def test_what_the_limit_itself_comes_to_is_on_the_page():
    row = Row("r", "work", "a", "b", ">=", 2.0, possible="raw")
    found = verdict(row, a=side(100), b=side(100), raw={**side(150), "raw": True})[1]
    assert found["verdict"] == "behind" and report.of_possible(found) == "67% of 1.50"


# Every row of the table names sides that exist, and compares what is measured in turn.
def test_the_table_of_rows_is_sound():
    known = {s.name: s for s in sides}
    assert len(known) == len(sides) and len({r.name for r in rows}) == len(rows)
    for row in rows:
        assert all(name in known for name in row.sides()), row.name
        assert len({known[name].group for name in (row.ours, row.against, row.plus) if name}) == 1, row.name


def test_rows_are_chosen_by_name_and_a_wrong_name_is_said():
    assert [r.name for r in runner.chosen(["match-*"], ["match-cached"], False)] == ["match-uncached"]
    assert {r.name for r in runner.chosen([], [], False)} == {r.name for r in rows if not r.full}
    with pytest.raises(SystemExit, match="no such row: nothing"):
        runner.chosen(["nothing"], [], False)


@pytest.fixture
def bench(build, tmp_path):
    """./dev bench without the installing and building."""

    def run(*options):
        return subprocess.run(["/usr/bin/python3", "-m", "suite", "--build", build, "--folder", tmp_path, *options], cwd=ROOT / "tests/bench",
                              capture_output=True, text=True, timeout=300)

    return run


TINY = ["--seconds", "0.05", "--rounds", "2", "--only"]


# One row from the start of the broker to the table: the shape of what comes out, and nothing left behind.
def test_one_row_runs_and_its_result_goes_on_where_it_ended(bench, tmp_path):
    result = tmp_path / "result.json"
    ran = bench("--json", result, *TINY, "idle-memory")
    assert ran.returncode == 0, ran.stderr
    said = json.loads(result.read_text())
    assert {"cpu", "cores", "kernel", "filesystem", "versions"} <= said["facts"].keys()
    measured = said["sides"]["start-empty"]
    assert len(measured["rounds"]) == 2 and measured["rounds"][0]["memory_kib"] > 0
    assert measured["config"].startswith("eventbusd --listen=127.0.0.1:PORT --db=DIR/eventbus.db")
    (row,) = said["rows"]
    assert row["row"] == "idle-memory" and row["rounds"] == 2 and row["spread"][0] <= row["figure"] <= row["spread"][1]
    assert ran.stdout.splitlines()[0].startswith("row ") and ran.stdout.splitlines()[1].startswith("idle-memory ")
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]

    # Whole already: nothing is measured again. Another row: only that.
    again = bench("--resume", result, *TINY, "idle-memory")
    assert again.returncode == 0 and "round" not in again.stderr
    more = bench("--resume", result, *TINY, "limits")
    assert more.returncode == 0 and "long-log" not in more.stderr
    assert {r["row"] for r in json.loads(result.read_text())["rows"]} == {"idle-memory", "limits"}
    refused = bench("--resume", result, "--seconds", "9", "--only", "limits")
    assert refused.returncode != 0 and "another kind of run" in refused.stderr


# A side that fails is reported with its error, and the others are measured.
def test_a_row_that_fails_does_not_end_the_run(bench, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    ran = bench("--build", empty, *TINY, "limits", "idle-memory")
    assert ran.returncode == 0, ran.stderr
    assert "idle-memory" in ran.stdout and "eventbusd is not built" in ran.stdout and "eventbus-raw is not built" in ran.stdout
    assert "not built" in ran.stdout


def test_the_page_says_what_was_measured_and_names_neither_folder_nor_port(bench, tmp_path):
    result = tmp_path / "result.json"
    assert bench("--json", result, *TINY, "idle-memory", "limits").returncode == 0
    page = report.page(json.loads(result.read_text()), [("goals.svg", "Goals")])
    assert "| resident memory when idle |" in page and "![Goals](benchmarks/goals.svg)" in page
    assert "fdatasync" in page and str(tmp_path) not in page and str(ROOT) not in page
