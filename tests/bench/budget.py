#!/usr/bin/python3
"""What an event costs, by stage: /usr/bin/python3 tests/bench/budget.py [--build build-bench] [--only WORD] [--no-time]

Instructions and allocations come from callgrind and do not change with the machine's load; nanoseconds are CPU time of
the broker's threads over a second, plain run, and do. docs/performance.md keeps the tables. What a function costs is given
to the stage in STAGES that called it; what no stage claims is `rest`, so that a renamed function is seen there.
"""
import argparse
import collections
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
STAGES = {
    "receive": "thread_main eb_ws_read step",
    "parse": "eb_ws_json_message eb_ws_bin_message",
    "event": "eb_publish_add make_publish eb_ws_publish_create eb_event_create eb_event_create_in fill_event eb_page_finish",
    "submit": "eb_bus_publish eb_store_submit eb_store_submit_or_commit",
    "group": "commit_group_locked eb_writer_thread",
    "ids": "eb_repeat_check eb_dedupe_put eb_dedupe_bound hash_id eb_made_id eb_window_add",
    "row": "eb_sqlite_append append_run next_row column eb_row_crc crc_by_steps",
    "SQLite": "sqlite3_step sqlite3_reset",
    "dispatch": "eb_dispatch_committed flush_segment",
    "answer": "publish_done answer_publish eb_session_answer",
    "encode": "eb_ws_encode_event eb_ws_encode_events eb_ws_encode_live eb_ws_encode_event_bin eb_ws_encode_events_bin "
    "eb_ws_encode_live_bin encode_event encode_live eb_bundle_make",
    "enqueue": "eb_queue_push_locked push_gathered",
    "send": "run flush",
    "read the log": "reader_main take_row",
    "HTTP": "handle",
}  # fmt: skip
CLAIMED = {name: stage for stage, names in STAGES.items() for name in names.split()}
ALLOCATORS = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"}
PUBLISH = ["publish", "--topics", "100"]
FANOUT = ["fanout", "--subscribers", "100", "--window", "2048", "--batch", "64"]
REPLAY = ["replay", "--topics", "100"]
WORKS = [  # name, target, what the loader does, events under callgrind, events of the plain run
    ("publish, 4,096 open, JSON", "eventbus-json", [*PUBLISH, "--window", "4096"], 20000, 400000),
    ("publish, 4,096 open, binary", "eventbus-bin", [*PUBLISH, "--window", "4096"], 20000, 400000),
    ("publish, batches of 256, JSON", "eventbus-json", [*PUBLISH, "--window", "4096", "--batch", "256"], 20480, 409600),
    ("publish, batches of 256, binary", "eventbus-bin", [*PUBLISH, "--window", "4096", "--batch", "256"], 20480, 409600),
    ("HTTP POST, 64 connections", "eventbus-http", [*PUBLISH, "--connections", "64"], 6400, 64000),
    ("fan-out to 100, JSON, a delivery", "eventbus-json", FANOUT, 2048, 40960),
    ("fan-out to 100, binary, a delivery", "eventbus-bin", FANOUT, 2048, 40960),
    ("replay, JSON", "eventbus-json", REPLAY, 40000, 400000),
    ("replay, binary", "eventbus-bin", REPLAY, 40000, 400000),
]


class Profile:
    """One thread of callgrind's output: own instructions of each function, and calls with what they cost."""

    def __init__(self, path):
        self.own, self.edges, self.total, self.memo = collections.Counter(), {}, 0, {}
        names, function, callee, library, objects = {}, None, None, "", {}

        def name(text):
            number, _, rest = text.partition(" ")
            if rest:
                names[number] = re.sub(r"(\.(lto_priv|part|isra|constprop|cold)(\.\d+)?)+|'\d+|@@.*", "", rest)
            return names[number]

        for line in path.read_text(errors="replace").splitlines():
            if line.startswith("ob="):
                number, _, rest = line[3:].partition(" ")
                library = objects.setdefault(number, rest)
            elif line.startswith("cob="):
                number, _, rest = line[4:].partition(" ")
                objects.setdefault(number, rest)
            elif line.startswith("fn="):
                function = name(line[3:])
                if "libmicrohttpd" in library:
                    self.memo[function] = {"libmicrohttpd": 1.0}
            elif line.startswith("cfn="):
                callee = name(line[4:])
            elif line.startswith("calls="):
                calls = int(line[6:].split()[0])
            elif line[:1] in "0123456789+-*" and line and function:
                cost = int((line.split() + ["0"])[1])
                if callee:
                    edge = self.edges.setdefault(callee, {}).setdefault(function, [0, 0])
                    edge[0], edge[1], callee = edge[0] + calls, edge[1] + cost, None
                else:
                    self.own[function] += cost

    def shares(self, function, above=()):
        """{stage: part of what the function does}, by who calls it."""
        if function in CLAIMED:
            return {CLAIMED[function]: 1.0}
        if function in self.memo:
            return self.memo[function]
        callers = {f: cost for f, (_, cost) in self.edges.get(function, {}).items() if f != function and f not in above}
        whole, shares = sum(callers.values()), collections.Counter()
        for caller, cost in callers.items() if whole and len(above) < 60 else ():
            for stage, part in self.shares(caller, (*above, function)).items():
                shares[stage] += part * cost / whole
        if not shares:
            shares = {"rest": 1.0}
        if not above:
            self.memo[function] = shares
        return shares

    def add_to(self, instructions, allocations):
        for function, cost in self.own.items():
            for stage, part in self.shares(function).items():
                instructions[stage] += cost * part
        for allocator in ALLOCATORS:
            for caller, (calls, _) in self.edges.get(allocator, {}).items():
                if caller not in ALLOCATORS:
                    for stage, part in self.shares(caller).items():
                        allocations[stage] += calls * part


class Broker:
    def __init__(self, build, folder, wrapper=()):
        command = [*wrapper, str(build / "broker/eventbusd"), "--listen", "127.0.0.1:0", "--db", str(folder / "x.db"), "--channel-capacity", "16384"]
        self.build = build
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            sys.exit(f"the broker did not start: {line!r}")
        self.port = line.strip().rsplit(":", 1)[1]

    def load(self, target, work, events):
        command = [str(self.build / "tests/bench/load/eventbus-load"), work[0], "--target", target, "--port", self.port, *work[1:], "--events", str(events)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def cpu(self):
        """Nanoseconds of CPU by thread's name, and of the process with threads that have ended."""
        threads, base = collections.Counter(), pathlib.Path(f"/proc/{self.process.pid}")
        for task in (base / "task").iterdir():
            try:
                threads[(task / "comm").read_text().strip()] += int((task / "schedstat").read_text().split()[0])
            except (FileNotFoundError, ProcessLookupError):
                pass  # it ended meanwhile: the process has its time
        fields = (base / "stat").read_text().rsplit(")", 1)[1].split()
        return threads, (int(fields[11]) + int(fields[12])) * 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def count(build, target, work, events):
    with tempfile.TemporaryDirectory(prefix="eventbus-budget-") as name:
        folder = pathlib.Path(name)
        if work[0] == "replay":
            before = Broker(build, folder)
            before.load(target, [*PUBLISH, "--window", "4096"], events)
            before.stop()
        broker = Broker(build, folder, ["valgrind", "-q", "--tool=callgrind", "--separate-threads=yes", f"--callgrind-out-file={folder}/cg"])
        broker.load(target, work, events)
        broker.stop()
        instructions, allocations = collections.Counter(), collections.Counter()
        for path in sorted(folder.glob("cg-*")):
            if path.name != "cg-01":  # the main thread starts and stops, and has no part in an event
                Profile(path).add_to(instructions, allocations)
    return instructions, allocations


def clock(build, target, work, events):
    with tempfile.TemporaryDirectory(prefix="eventbus-budget-") as name:
        broker = Broker(build, pathlib.Path(name))
        if work[0] == "replay":
            broker.load(target, [*PUBLISH, "--window", "4096"], events)
            time.sleep(1)  # the file's checkpoint is not a reader's
        threads, whole = broker.cpu()
        broker.load(target, work, events)
        threads_after, whole_after = broker.cpu()
        broker.stop()
    spent = {thread: ns - threads[thread] for thread, ns in threads_after.items()}
    spent["threads of ended connections"] = max(0, whole_after - whole - sum(spent.values()))
    return spent


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=ROOT / "build-bench", help="a release build with -Dtests=true [build-bench]")
    parser.add_argument("--only", default="", help="works whose name holds this")
    parser.add_argument("--no-time", action="store_true", help="instructions and allocations alone")
    options = parser.parse_args()
    for name, target, work, events, plain in WORKS:
        if options.only not in name:
            continue
        each = 100 if work[0] == "fanout" else 1
        instructions, allocations = count(options.build, target, work, events)
        print(f"\n### {name}\n| stage | instructions | allocations |\n|---|---|---|")
        for stage in [*STAGES, "libmicrohttpd", "rest"]:
            if instructions[stage] / events / each >= 1 or allocations[stage] / events / each >= 0.005:
                print(f"| {stage} | {instructions[stage] / events / each:,.0f} | {allocations[stage] / events / each:.2f} |")
        print(f"| all | {sum(instructions.values()) / events / each:,.0f} | {sum(allocations.values()) / events / each:.2f} |")
        if not options.no_time:
            spent = clock(options.build, target, work, plain)
            parts = [f"{thread} {ns / plain / each:,.0f}" for thread, ns in sorted(spent.items(), key=lambda x: -x[1]) if ns / plain / each >= 1]
            print("\nCPU, ns: " + ", ".join(parts), flush=True)


main()
