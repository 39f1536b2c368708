"""How a side is measured: one function makes one round and returns its figures.

`context` is the run: folders, the loader, seconds and sizes (runner.Context).
"""
import csv
import io
import json
import pathlib
import resource
import shutil
import statistics
import subprocess
import time
import urllib.request

from . import brokers
from .load import run_json, stopped
from .procs import Missing, Trouble


def seconds_of(context, side):
    return max(0.2, context.seconds * side.seconds)


def with_seconds(context, side, seconds=None):
    return (*side.load, "--seconds", f"{seconds or seconds_of(context, side):g}")


def watched(context, side, broker, load):
    """The load on a running broker, with what the broker spent on it."""
    before = broker.cpu()
    figures = context.loader.run(side.target, load, broker.port, 60 + 20 * seconds_of(context, side))
    spent = broker.cpu() - before
    figures["broker_cpu_s"] = round(spent, 3)
    if figures.get("measured"):  # acknowledged, or delivered
        figures["broker_cpu_s_per_million"] = round(spent * 1e6 / figures["measured"], 3)
    figures["broker_memory_kib"] = broker.memory_kib()
    return figures


def fresh(context, side):
    """A broker with nothing in it."""
    broker = side.broker(context.folder(side.name), **side.settings)
    context.configured(side, broker)
    return broker


TRIES = 5


def loaded(context, side):
    """The usual: a fresh broker, the load, the end."""
    for attempt in range(1, TRIES + 1):
        with fresh(context, side) as broker:
            try:
                return watched(context, side, broker, with_seconds(context, side))
            except Trouble as trouble:
                # A new JetStream stream sometimes has no responder yet for the first publishes that come to it.
                if "NATS/1.0 503" not in str(trouble) or attempt == TRIES:
                    raise


def raw_limit(context, side):
    limit, *options = side.options["argv"]
    context.described(side, "eventbus-raw " + " ".join(str(o) for o in (limit, *options)))
    return context.loader.raw(limit, context.folder(side.name, make=True), seconds_of(context, side), options)


def bare_http(context, side):
    """The same POSTs to a libmicrohttpd that answers 201 and does nothing."""
    return bare(context, side, "http201")


def bare_group_ack(context, side):
    """A thread a connection that reads, one that syncs 4 KiB for all that wait and answers them; nothing else."""
    return bare(context, side, "group-ack")


def bare_lone_ack(context, side):
    """The connection's thread commits one row with SQLite and answers; nothing else."""
    return bare(context, side, "lone-ack")


def bare(context, side, limit):
    context.described(side, f"eventbus-raw {limit}")
    with context.loader.raw_server(limit, context.folder(side.name, make=True)) as (port, cpu):
        before = cpu()
        figures = context.loader.run(side.target, with_seconds(context, side), port, 60 + 20 * seconds_of(context, side))
        figures["broker_cpu_s"] = round(cpu() - before, 3)
    return figures


def beside(context, side):
    """With one more subscriber in a process of its own, which is stopped or not."""
    with fresh(context, side) as broker:
        more = ("fanout", "--subscribers", 1, "--publishers", 0, "--payload", 128, "--seconds", 3600)
        with context.loader.background(side.target, more, broker.port, broker.folder) as process:
            wait_for(lambda: stats(broker)["subscriptions"] == 1, process)
            if side.options["stop"]:
                stopped(process)
            return watched(context, side, broker, with_seconds(context, side))


def replay(context, side):
    """Events that are in the log, once through; they are published before."""
    with fresh(context, side) as broker:
        events = ("--events", context.replay_events, "--payload", 128, "--topics", side.options["topics"])
        context.loader.run(side.options["fill"], ("publish", "--window", 8192, *side.options.get("batch", ()), *events), broker.port, 300)
        return watched(context, side, broker, (*side.load, *events))


def drained(context, side):
    """Events that are in the log, handed out to workers of one consumer and acknowledged one by one; published before."""
    with fresh(context, side) as broker:
        count = int(side.options.get("events") or context.work_events)
        events = ("--events", count, "--payload", 128, "--topics", 1)
        context.loader.run(side.options["fill"], ("publish", "--window", 8192, *side.options.get("batch", ()), *events), broker.port, 300)
        load = (*side.load, "--publishers", 0, *events)
        before = broker.cpu()
        figures = context.loader.run(side.target, load, broker.port, 60 + count / 2000)
        figures["broker_cpu_s_per_million"] = round((broker.cpu() - before) * 1e6 / count, 3)
    if figures["again"]:
        raise Trouble(f"{figures['again']} events came a second time: workers were too slow for the ack_wait, and the round says nothing")
    return figures


def idle(context, side):
    """Bytes of the broker for each connection that does nothing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = context.idle_connections
    if hard != resource.RLIM_INFINITY and hard < wanted + 1000:
        raise Trouble(f"the limit of open files is {hard}: {wanted} connections do not fit")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted + 1000 if hard == resource.RLIM_INFINITY else hard, hard))
    try:
        with fresh(context, side) as broker:
            before = broker.memory_kib()
            with context.loader.idle(side.target, (*side.load, "--connections", wanted), broker.port) as opened:
                time.sleep(1)
                after = broker.memory_kib()
        return {**opened, "connections": wanted, "bytes_each": (after - before) * 1024 / wanted, "broker_memory_kib": after}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# ---- ours, asked over HTTP ----


def stats(broker):
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.port}/v1/stats", timeout=20) as answer:
        return json.load(answer)


def wait_for(condition, process=None, patience=30):
    end = time.monotonic() + patience
    while not condition():
        if time.monotonic() > end or (process is not None and process.popen.poll() is not None):
            raise Trouble(process.tail() if process else "a state did not come")
        time.sleep(0.01)


# ---- a long log ----


def long_log(context):
    """The folder of a log with context.long_events events, closed cleanly; made once a run, through the broker."""
    folder = context.folder("long-log-kept")
    if folder not in context.made:
        shutil.rmtree(folder, ignore_errors=True)
        context.say(f"filling a log with {context.long_events:,} events")
        room = shutil.disk_usage(folder.parent).free
        if room < context.long_events * 600:
            raise Trouble(f"a log of {context.long_events:,} events does not fit: {room >> 20} MiB are free")
        with brokers.Eventbus(folder) as broker:
            context.loader.run("eventbus-json", ("publish", "--connections", 1, "--window", 8192, "--batch", 256, "--topics", 100, "--payload", 128,
                                                 "--events", context.long_events), broker.port, 60 + context.long_events / 5000)
        context.made.add(folder)
    return folder


def on_long_log(context, side):
    folder = long_log(context)
    broker = brokers.Eventbus(folder, **side.settings)
    context.configured(side, broker)
    with broker:
        before = stats(broker)["events"]
        figures = watched(context, side, broker, with_seconds(context, side))
    return {**figures, "events_before": before}


def started(context, side, folder):
    broker = brokers.Eventbus(folder, **side.settings)
    context.configured(side, broker)
    with broker:
        figures = {"start_ms": round(broker.start_s * 1e3, 1)}
        time.sleep(0.3)
        return {**figures, "memory_kib": broker.memory_kib(), "events_before": stats(broker)["events"]}


def start_on_long_log(context, side):
    return started(context, side, long_log(context))


def start_on_empty_log(context, side):
    return started(context, side, context.folder(side.name))


def with_retention(context, side):
    """Publishing with retention at work. When it deleted less than most of what came meanwhile, the round says nothing."""
    seconds = max(3, seconds_of(context, side))
    with fresh(context, side) as broker:
        context.loader.run(side.target, with_seconds(context, side, 1), broker.port, 60)
        if side.settings:  # no backlog from before
            wait_for(lambda: stats(broker)["events"] <= 1.2 * side.settings["retention_events"])
        before = stats(broker)
        figures = watched(context, side, broker, with_seconds(context, side, seconds))
        now = stats(broker)
    deleted = (now["last_seq"] - now["events"]) - (before["last_seq"] - before["events"])
    figures["deleted_share"] = round(deleted / (now["last_seq"] - before["last_seq"]), 3)
    if side.settings and figures["deleted_share"] < 0.7:
        raise Trouble(f"retention deleted {figures['deleted_share']:.0%} of what was published meanwhile: {figures['rate']:.0f} events/s say nothing")
    return figures


def null_sink(context, side):
    """The same load against a sink that answers at once and keeps nothing: what the loader could do."""
    with context.loader.sink(side.target, side.load, context.folder("sink", make=True)) as port:
        return context.loader.run(side.target, with_seconds(context, side, max(0.4, context.seconds)), port, 90)["rate"]


# ---- stalls ----


def taken_away():
    """Clock ticks of all cores so far, and how many of them a virtual machine's host had for itself."""
    ticks = [int(word) for word in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(ticks), ticks[7]


def stall(context, side):
    """
    The top rate of this load is measured first; then half of it for long. What is due within a millisecond is written
    together: single writes of so many events would take a core from the broker and wake a thread of it for each,
    which no load at the top rate does.
    """
    with fresh(context, side) as broker:
        tops = [context.loader.run(side.target, with_seconds(context, side, 1), broker.port, 60)["rate"] for _ in range(3)]
    pace = int(statistics.median(tops) / 2)
    with fresh(context, side) as broker:
        load = (*side.load, "--paced", pace, "--tick", 1000, "--seconds", f"{context.stall_seconds:g}")
        context.described(side, None, load)
        before, (ticks, stolen) = broker.cpu(), taken_away()
        figures = context.loader.run(side.target, load, broker.port, 120 + context.stall_seconds)
        ticks, stolen = (now - then for now, then in zip(taken_away(), (ticks, stolen)))
        figures.update(broker_cpu_s=round(broker.cpu() - before, 3), top_rate=statistics.median(tops), pace=pace, stolen=round(stolen / ticks, 5))
    return figures


# ---- matching ----


def match(context, side):
    context.described(side, f"bench_match {side.options['subscriptions']}")
    return run_json([context.loader.match_program, side.options["subscriptions"]], 120)


# ---- others' own tools ----


def redis_benchmark(context, side):
    with fresh(context, side) as broker:
        count = int(200000 * max(1, seconds_of(context, side)))
        argv = ["redis-benchmark", "-p", broker.port, "-c", 64, "-P", 16, "-n", count, "--csv", "XADD", "bench", "*", "d", "x" * 128]
        context.described(side, None, [str(a) if len(str(a)) < 100 else "128 bytes" for a in argv])
        out = subprocess.run([str(a) for a in argv], capture_output=True, text=True, timeout=120)
    lines = [line for line in csv.reader(io.StringIO(out.stdout)) if len(line) > 1]
    if out.returncode != 0 or len(lines) < 2:
        raise Trouble(f"redis-benchmark: {out.stderr.strip()[-200:] or out.stdout[-200:]}")
    figures = dict(zip(lines[0], lines[-1]))
    return {"rate": float(figures["rps"]), "events": count, "p50_us": 1e3 * float(figures["p50_latency_ms"]), "p99_us": 1e3 * float(figures["p99_latency_ms"])}


def wrk(context, side):
    folder = context.folder(side.name, make=True)
    (folder / "post.lua").write_text('wrk.method = "POST"\nwrk.headers["Content-Type"] = "text/plain"\nwrk.body = string.rep("x", 128)\n'
                                     'function done(s, l, r)\n  io.write(string.format("JSON %d %d %d %d\\n", s.requests, s.duration, '
                                     'l:percentile(50), l:percentile(99)))\nend\n')
    context.described(side, "wrk -t1 -c64 -s post.lua http://127.0.0.1:PORT/v1/topics/bench.0/events")
    with context.loader.raw_server("http201") as (port, _):
        seconds = max(1, round(seconds_of(context, side)))
        try:
            out = subprocess.run(["wrk", "-t1", "-c64", f"-d{seconds}s", "-s", folder / "post.lua", f"http://127.0.0.1:{port}/v1/topics/bench.0/events"],
                                 capture_output=True, text=True, timeout=60 + 10 * seconds)
        except FileNotFoundError:
            raise Missing("wrk is not installed") from None
    found = [line.split() for line in out.stdout.splitlines() if line.startswith("JSON ")]
    if not found:
        raise Trouble(f"wrk: {(out.stderr or out.stdout).strip()[-200:]}")
    requests, microseconds, p50, p99 = (float(x) for x in found[0][1:])
    return {"rate": requests * 1e6 / microseconds, "events": int(requests), "p50_us": p50, "p99_us": p99}
