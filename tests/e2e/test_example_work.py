"""examples/work_queue.c: workers that crash and give jobs back, and what the dispatcher says of it in the end."""
import os
import pty
import re
import subprocess
import threading

import pytest

from lib.broker import PATIENCE


def run(build, broker, *options, **kwargs):
    command = [build / "examples/work_queue", "--url", broker.ws_url, "--work", "1", *map(str, options)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=2 * PATIENCE, **{"stderr": subprocess.PIPE, **kwargs})
    assert done.returncode == 0, done
    return done.stdout


def figures(text):
    """done, reports, twice, crashes, dead letters"""
    (line,) = re.findall(r"^(\d+) jobs done, (\d+) reports, (\d+) done more than once$", text, re.M)
    (crashes,) = re.findall(r"^(\d+) crashes of", text, re.M)
    (dead,) = re.findall(r"^(\d+) dead letters", text, re.M)
    return [int(part) for part in (*line, crashes, dead)]


def test_every_job_is_done_once_when_nothing_goes_wrong(build, broker):
    assert figures(run(build, broker, "--jobs", 200)) == [200, 200, 0, 0, 0]
    assert figures(run(build, broker, "--jobs", 50, "--workers", 1)) == [50, 50, 0, 0, 0], "again with the same consumer"


def test_every_job_is_done_though_workers_crash_and_give_back(build, broker):
    """Without a bound of deliveries nothing is given up: all are done, in the order of their keys."""
    text = run(build, broker, "--jobs", 150, "--workers", 3, "--crash", 5, "--nack", 10, "--keys", 6, "--max-deliver", 0)
    done, reports, twice, crashes, dead = figures(text)
    assert (done, dead) == (150, 0) and crashes > 0 and reports == done + twice
    assert "6 keys, 0 jobs out of their key's order" in text


def test_what_is_given_up_is_a_dead_letter(build, broker):
    """Nacked nine times in ten, three times at most: most are dead letters, and none is neither done nor dead."""
    text = run(build, broker, "--jobs", 40, "--nack", 90, "--max-deliver", 3)
    done, reports, twice, crashes, dead = figures(text)
    assert done + dead == 40 and dead > 5
    assert len(re.findall(r'^  job \d+: .*"dead-deliveries":"3"', text, re.M)) == min(dead, 10)


def test_a_bar_on_a_terminal(build, broker):
    master, slave = pty.openpty()
    shown = []

    def read():
        try:
            while data := os.read(master, 65536):
                shown.append(data.decode())
        except OSError:
            pass

    reader = threading.Thread(target=read)
    reader.start()
    run(build, broker, "--jobs", 100, stderr=slave)
    os.close(slave)
    reader.join(PATIENCE)
    os.close(master)
    assert "] 100%" in "".join(shown)


def test_other_settings_want_another_name(build, broker):
    run(build, broker, "--jobs", 5)
    command = [build / "examples/work_queue", "--url", broker.ws_url, "--jobs", "5", "--max-deliver", "2"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert refused.returncode == 1 and "--consumer" in refused.stderr
    assert figures(run(build, broker, "--jobs", 5, "--max-deliver", 2, "--consumer", "other"))[0] == 5


@pytest.mark.parametrize("options", ["--jobs 0", "--jobs x", "--workers 65", "--crash 91", "--nack -1", "--keys x", "--work x", "--max-deliver x",
                                     "--no-such", "extra", "--consumer " + "x" * 65])  # fmt: skip
def test_it_refuses_what_it_does_not_understand(build, options):
    refused = subprocess.run([build / "examples/work_queue", *options.split()], capture_output=True, text=True, timeout=PATIENCE)
    assert refused.returncode == 2 and "usage" in refused.stderr
