"""The one table: what is measured (sides), and which of it is held against which goal (rows).

A *side* is one broker under one load. Sides of one group are measured in turn, round by round, so that a row compares
what was measured next to each other. A *row* is ours, against (a peer, a raw limit, ours in another state, or nothing for
an absolute bound), the figure compared, and the goal.
"""
import dataclasses
import typing

from . import brokers, special


@dataclasses.dataclass
class Side:
    name: str
    group: str
    what: str  # in words, for the page
    measure: typing.Callable  # (context, side) -> figures of one round; special.py has the usual ones
    broker: typing.Optional[type] = None
    settings: dict = dataclasses.field(default_factory=dict)
    target: str = ""
    load: tuple = ()  # the loader's mode and options; --seconds is added by the run
    raw: bool = False  # a limit of the machine or another's tool, not a broker
    paced: bool = False  # the rate is given: its share of the null sink's says nothing
    sink: bool = True  # the loader is also run against its null sink
    rounds: typing.Optional[int] = None
    seconds: float = 1.0  # of a measure, times the run's own
    options: dict = dataclasses.field(default_factory=dict)  # the special measure's


@dataclasses.dataclass
class Row:
    name: str
    work: str
    ours: str
    against: typing.Optional[str] = None
    op: str = ">="
    goal: typing.Optional[float] = None
    key: str = "rate"
    against_key: typing.Optional[str] = None
    plus: typing.Optional[str] = None  # a second side whose figure is added to theirs
    plus_key: typing.Optional[str] = None
    possible: typing.Optional[str] = None  # the raw limit behind it
    possible_key: typing.Optional[str] = None
    full: bool = False  # in --full only
    unit: str = ""  # of an absolute bound

    def goal_text(self):
        if self.goal is None:
            return ""
        return f"{self.op} {self.goal:g}{' ' + self.unit if self.unit else ''}"

    def sides(self):
        return [s for s in (self.ours, self.against, self.plus, self.possible) if s]


FSYNC = {}  # the default: what was acknowledged survives a power cut
MEMORY = {"storage": "memory"}
NATS_WEB = {"websocket": True}
JETSTREAM = {"jetstream": True}

sides, rows = [], []


def side(*args, **kwargs):
    sides.append(Side(*args, **kwargs))


def ours(name, group, what, target, load, settings=FSYNC, **kwargs):
    side(name, group, what, kwargs.pop("measure", special.loaded), brokers.Eventbus, settings, target, load, **kwargs)


def peer(name, group, what, broker, target, load, settings=None, **kwargs):
    side(name, group, what, kwargs.pop("measure", special.loaded), broker, settings or {}, target, load, **kwargs)


def raw(name, group, what, *options, **kwargs):
    side(name, group, what, special.raw_limit, raw=True, sink=False, seconds=kwargs.pop("seconds", 0.5), options={"argv": options, **kwargs})


def row(*args, **kwargs):
    rows.append(Row(*args, **kwargs))


# ---- one connection, thousands in flight ----

FLIGHT = ("publish", "--connections", 1, "--window", 8192, "--topics", 100)
BATCHES = ("publish", "--connections", 1, "--window", 8192, "--batch", 256, "--topics", 100)


def in_flight(size, full):
    """The group of pipelined publishes with one size of payload."""
    end, words = ("", "128 B") if size == 128 else (f"-{size}", f"{size} B")
    group, payload = "publish" + end, ("--payload", size)
    ours("bin" + end, group, f"binary, 8,192 in flight, {words}", "eventbus-bin", FLIGHT + payload)
    ours("bin-batch" + end, group, f"binary, batches of 256, {words}", "eventbus-bin", BATCHES + payload)
    ours("json" + end, group, f"JSON, one event a frame, 8,192 in flight, {words}", "eventbus-json", FLIGHT + payload)
    ours("json-batch" + end, group, f"JSON, batches of 256, {words}", "eventbus-json", BATCHES + payload)
    peer("jetstream" + end, group, f"JetStream, file, asynchronous (no fsync), {words}", brokers.Nats, "jetstream", FLIGHT + payload, JETSTREAM)
    peer("redis-always-16" + end, group, f"XADD, appendfsync always, 64 connections, pipeline 16, {words}", brokers.Redis, "redis",
         ("publish", "--connections", 64, "--window", 16, "--refill", 16, "--topics", 100) + payload)
    raw("sqlite-1024" + end, group, f"SQLite's own insert, {words}, a commit of 1,024", "sqlite-insert", "--batch", 1024, "--bytes", size)
    for name, work, mine, theirs, goal in [
        ("publish-bin", "publish, one connection, binary", "bin", "jetstream", 3.5),
        ("publish-bin-batch", "publish, one connection, binary batches of 256", "bin-batch", "jetstream", None),
        ("publish-json", "publish, one connection, JSON", "json", "jetstream", 2.5),
        ("publish-json-batch", "publish, one connection, JSON batches of 256", "json-batch", "jetstream", 3.0),
        ("publish-batch-redis", "publish, binary batches of 256 / XADD always, 64 x 16", "bin-batch", "redis-always-16", 2.0),
        ("publish-json-batch-redis", "publish, JSON batches of 256 / XADD always, 64 x 16", "json-batch", "redis-always-16", 2.0),
    ]:
        row(name + end, f"{work}, {words}", mine + end, theirs + end, ">=", goal if size == 128 else None,
            possible="sqlite-1024" + end, full=full or goal is None)


in_flight(128, full=False)

# ---- waiting for each ack ----

WAIT64 = ("publish", "--connections", 64, "--window", 1, "--topics", 100, "--payload", 128)
WAIT1 = ("publish", "--connections", 1, "--window", 1, "--topics", 100, "--payload", 128)

ours("bin-64", "wait", "binary, 64 connections, each waits for its ack", "eventbus-bin", WAIT64)
ours("json-64", "wait", "JSON, 64 connections, each waits for its ack", "eventbus-json", WAIT64)
peer("jetstream-64", "wait", "JetStream, file, 64 connections, each waits (no fsync)", brokers.Nats, "jetstream", WAIT64, JETSTREAM)
peer("redis-always-64", "wait", "XADD, appendfsync always, 64 connections, no pipeline", brokers.Redis, "redis", WAIT64)
side("group-ack", "wait", "a thread a connection, one sync for all that wait, nothing else", special.bare_group_ack, target="redis", load=WAIT64, raw=True, sink=False)
for end, target in (("", "bin-64"), ("-json", "json-64")):
    row(f"wait-64-jetstream{end}", f"64 connections, each waits for its ack, {'JSON' if end else 'binary'}", target, "jetstream-64", ">=", 2.5, possible="group-ack")
    row(f"wait-64-redis{end}", f"64 connections, each waits for its ack, {'JSON' if end else 'binary'}", target, "redis-always-64", ">=", 1.2, possible="group-ack")

ours("bin-1", "alone", "binary, one connection waits for each ack", "eventbus-bin", WAIT1)
ours("json-1", "alone", "JSON, one connection waits for each ack", "eventbus-json", WAIT1)
raw("fdatasync", "alone", "the disk's own fdatasync, 4 KiB overwritten in place", "fdatasync-overwrite")
raw("fdatasync-append", "alone", "the disk's own fdatasync, 4 KiB appended", "fdatasync-append")
raw("sqlite-1", "alone", "SQLite's own insert, 128 B, a commit of 1", "sqlite-insert", "--batch", 1)
raw("sqlite-256", "alone", "SQLite's own insert, 128 B, a commit of 256", "sqlite-insert", "--batch", 256)
side("lone-ack", "alone", "one connection, whose thread commits a row with SQLite and answers, nothing else", special.bare_lone_ack, target="redis",
     load=WAIT1, raw=True, sink=False)
row("wait-1", "one connection waits for each ack, binary", "bin-1", "fdatasync", ">=", 0.55, possible="lone-ack")
row("wait-1-json", "one connection waits for each ack, JSON", "json-1", "fdatasync", ">=", 0.55, possible="lone-ack")
row("limits", "the disk: appended 4 KiB / overwritten in place", "fdatasync-append", "fdatasync")
row("limits-256", "SQLite: a commit of 256 rows / of one", "sqlite-256", "sqlite-1")

# ---- HTTP ----

POST64 = ("publish", "--connections", 64, "--window", 1, "--topics", 100, "--payload", 128)

ours("http-64", "http", "POST, 64 keep-alive connections", "eventbus-http", POST64)
side("http201", "http", "libmicrohttpd answering 201 and nothing else", special.bare_http, target="eventbus-http", load=POST64, raw=True, sink=False)
peer("nchan-64", "http", "POST to nchan, 64 connections (memory)", brokers.Nchan, "nchan", POST64)
row("http", "HTTP POST, 64 keep-alive connections", "http-64", "http201", ">=", 0.5)
row("http-p99", "the same, p99 of an answer", "http-64", None, "<", 5000, key="p99_us", unit="us")
row("http-nchan", "the same, against memory", "http-64", "nchan-64", full=True)

# ---- fan-out ----


def fan(subscribers, size, full, goal_memory, goal_fsync):
    end, words = f"-{subscribers}" + ("" if size == 128 else f"-{size}"), f"{size} B to {subscribers:,}"
    group, load = "fan-out" + end, ("fanout", "--subscribers", subscribers, "--publishers", 1, "--payload", size)
    ours("fan-bin-memory" + end, group, f"binary, memory, {words}", "eventbus-bin", load, MEMORY)
    ours("fan-bin" + end, group, f"binary, fsync, {words}", "eventbus-bin", load)
    ours("fan-json-memory" + end, group, f"JSON, memory, {words}", "eventbus-json", load, MEMORY)
    ours("fan-json" + end, group, f"JSON, fsync, {words}", "eventbus-json", load)
    peer("fan-nats" + end, group, f"NATS core, WebSocket, {words}", brokers.Nats, "nats-ws", load, NATS_WEB)
    raw("writev" + end, group, f"bare writev, 256 frames or 64 KiB at once, {words}", "writev", "--batch", 256, "--sockets", subscribers, "--bytes", size)
    limit = "writev" + end
    row("fan-memory" + end, f"fan-out {words}, memory, binary", "fan-bin-memory" + end, "fan-nats" + end, ">=", goal_memory, possible=limit, full=full)
    row("fan-fsync" + end, f"fan-out {words}, fsync, binary", "fan-bin" + end, "fan-nats" + end, ">=", goal_fsync, possible=limit, full=full or goal_fsync is None)
    row("fan-json-memory" + end, f"fan-out {words}, memory, JSON", "fan-json-memory" + end, "fan-nats" + end, ">=", goal_memory, possible=limit, full=full)
    row("fan-json-fsync" + end, f"fan-out {words}, fsync, JSON", "fan-json" + end, "fan-nats" + end, ">=", goal_fsync, possible=limit, full=full or goal_fsync is None)


fan(100, 128, False, 2.0, 1.5)
fan(1000, 128, False, 2.0, None)
fan(100, 1024, True, 2.0, None)

OTHERS = ("fanout", "--subscribers", 100, "--publishers", 1, "--payload", 128)
peer("fan-nats-tcp", "fan-out-others", "NATS core, TCP, 128 B to 100", brokers.Nats, "nats", OTHERS)
peer("fan-redis", "fan-out-others", "redis PUBLISH, 128 B to 100", brokers.Redis, "redis", OTHERS)
peer("fan-nchan", "fan-out-others", "nchan, WebSocket, 128 B to 100", brokers.Nchan, "nchan", OTHERS)
peer("fan-mosquitto", "fan-out-others", "mosquitto, QoS 0, 128 B to 100", brokers.Mosquitto, "mosquitto", OTHERS)
ours("fan-others", "fan-out-others", "JSON, memory, 128 B to 100", "eventbus-json", OTHERS, MEMORY)
ours("fan-sse", "fan-out-others", "Server-Sent Events, memory, 128 B to 100", "eventbus-sse", OTHERS, MEMORY)
for name, words in (("nats-tcp", "NATS over TCP"), ("redis", "redis PUBLISH"), ("nchan", "nchan"), ("mosquitto", "mosquitto"), ("sse", "ours over Server-Sent Events")):
    row(f"fan-{name}", f"fan-out 128 B to 100, memory, JSON / {words}", "fan-others", f"fan-{name}", full=True)

# ---- latency ----

PACED = ("latency", "--rate", 10000, "--subscribers", 1, "--payload", 128)
for end, target in (("", "eventbus-bin"), ("-json", "eventbus-json")):
    ours("latency-memory" + end, "latency", f"10,000 events/s, memory, {target}", target, PACED, MEMORY, paced=True)
    ours("latency-fsync" + end, "latency", f"10,000 events/s, fsync, {target}", target, PACED, paced=True)
peer("latency-nats", "latency", "10,000 events/s, NATS core", brokers.Nats, "nats", PACED, paced=True)
raw("commit", "latency", "SQLite's own commit of one row", "sqlite-insert", "--batch", 1)
raw("paced", "latency", "SQLite's own commits of rows that come at 10,000/s, from when a row comes", "sqlite-paced", "--rate", 10000)
for end, words in (("", "binary"), ("-json", "JSON")):
    row("latency-memory" + end, f"p99 from publish to delivery at 10,000/s, memory, {words}", "latency-memory" + end, "latency-nats", "<=", 1.0, key="p99_us")
    row("latency-fsync" + end, f"the same with fsync / NATS' p99 and that of one commit, {words}", "latency-fsync" + end, "latency-nats", "<=", 1.0,
        key="p99_us", plus="commit")
row("latency-limit", "rows committed by SQLite as they come at 10,000/s, p99, without any network / NATS' p99 and that of one commit", "paced", "latency-nats",
    key="p99_us", plus="commit")

# ---- one stopped subscriber ----

AMONG = ("fanout", "--subscribers", 99, "--publishers", 1, "--payload", 128)
AMONG_PACED = AMONG + ("--paced", 2000)
for end, load, paced in (("", AMONG, False), ("-paced", AMONG_PACED, True)):
    ours("stopped" + end, "stopped" + end, "99 subscribers read, one is stopped (SIGSTOP)", "eventbus-json", load, measure=special.beside,
         paced=paced, options={"stop": True})
    ours("running" + end, "stopped" + end, "99 subscribers read, and one more", "eventbus-json", load, measure=special.beside,
         paced=paced, options={"stop": False})
row("stopped", "one of 100 subscribers stopped: the others' rate", "stopped", "running", ">=", 0.95)
row("stopped-p99", "the same at 2,000 events/s: the others' p99", "stopped-paced", "running-paced", "<=", 1.2, key="p99_us")

# ---- replay ----

FILL = {"fill": "eventbus-json", "batch": ("--batch", 256), "topics": 100}
ours("replay-bin", "replay", "replay of 100 topics to one subscriber, binary", "eventbus-bin", ("replay",), measure=special.replay, sink=False, options=FILL)
ours("replay-json", "replay", "replay of 100 topics to one subscriber, JSON", "eventbus-json", ("replay",), measure=special.replay, sink=False, options=FILL)
peer("replay-jetstream", "replay", "JetStream, ordered consumer, one topic", brokers.Nats, "jetstream", ("replay",), JETSTREAM, measure=special.replay,
     sink=False, options={"fill": "jetstream", "topics": 1})
raw("select", "replay", "SQLite's own pages of 256 rows", "sqlite-select")
row("replay-bin", "replay, binary / SQLite's own paged SELECT", "replay-bin", "select", ">=", 0.3)
row("replay-json", "replay, JSON / SQLite's own paged SELECT", "replay-json", "select", ">=", 0.15)
row("replay-bin-jetstream", "replay, binary / JetStream", "replay-bin", "replay-jetstream", ">=", 2.0)
row("replay-json-jetstream", "replay, JSON / JetStream", "replay-json", "replay-jetstream", ">=", 2.0)

# ---- durable consumers: each event acknowledged by a request of its own, each ack answered ----

JSON_FILL = {"fill": "eventbus-json", "batch": ("--batch", 256)}


def worked(end, workers, words, full, **options):
    group, load = "work" + end, ("work", "--subscribers", workers, "--window", 256)
    usual = {"measure": special.drained, "sink": False}
    ours("work" + end, group, f"{words}, JSON, acks on disk when answered", "eventbus-json", load, **usual, options={**JSON_FILL, **options})
    ours("work-os" + end, group, f"{words}, JSON, durability = os", "eventbus-json", load, {"durability": "os"}, **usual, options={**JSON_FILL, **options})
    peer("work-jetstream" + end, group, f"{words}, JetStream pull consumer, file, acks answered (no fsync)", brokers.Nats, "jetstream", load, JETSTREAM, **usual,
         options={"fill": "jetstream", **options})
    peer("work-redis" + end, group, f"{words}, Redis consumer group, appendfsync always", brokers.Redis, "redis", load, **usual,
         options={"fill": "redis", **options})
    for peer_, words_ in (("jetstream", "JetStream"), ("redis", "Redis, appendfsync always")):
        row(f"work-{peer_}{end}", f"{words} / {words_}", "work" + end, f"work-{peer_}{end}", full=full)
    row(f"work-os-jetstream{end}", f"{words}, durability = os / JetStream", "work-os" + end, "work-jetstream" + end, full=full)


worked("", 1, "acks a second, 1 worker", False)
worked("-16", 16, "acks a second, 16 workers", False)
worked("-million", 4, "a backlog of 1,000,000 drained by 4 workers", True, events=1_000_000)

WORK_PACED = ("work", "--subscribers", 4, "--window", 256, "--rate", 2000, "--payload", 128, "--topics", 1)
ours("work-latency", "work-latency", "2,000 events/s to 4 workers of a consumer", "eventbus-json", WORK_PACED, paced=True, seconds=2)
peer("work-latency-jetstream", "work-latency", "2,000 events/s to 4 workers, JetStream pull consumer", brokers.Nats, "jetstream", WORK_PACED, JETSTREAM, paced=True, seconds=2)
peer("work-latency-redis", "work-latency", "2,000 events/s to 4 workers, Redis consumer group, appendfsync always", brokers.Redis, "redis", WORK_PACED, paced=True, seconds=2)
row("work-latency-jetstream", "p99 from publish to worker at 2,000/s / JetStream (no fsync)", "work-latency", "work-latency-jetstream", key="p99_us")
row("work-latency-redis", "p99 from publish to worker at 2,000/s / Redis, appendfsync always", "work-latency", "work-latency-redis", key="p99_us")

# ---- what it holds ----

ours("idle", "idle", "idle WebSocket connections, memory of each", "eventbus-json", ("idle",), MEMORY,
     measure=special.idle, sink=False, rounds=1)
peer("idle-nchan", "idle", "idle WebSocket connections of nchan, memory of each", brokers.Nchan, "nchan", ("idle",), {"workers": 1},
     measure=special.idle, sink=False, rounds=1)
row("idle", "memory of an idle WebSocket connection", "idle", "idle-nchan", "<=", 1.3, key="bytes_each")

# ---- a long log ----

ours("long-log", "long-log", "publish with a long log", "eventbus-json", BATCHES + ("--payload", 128), measure=special.on_long_log)
ours("empty-log", "long-log", "publish with an empty log", "eventbus-json", BATCHES + ("--payload", 128))
ours("start-long", "long-log", "start with a long log after a clean stop", "", (), measure=special.start_on_long_log, sink=False)
ours("start-empty", "long-log", "start with a new log", "", (), measure=special.start_on_empty_log, sink=False)
row("long-log", "publish rate with a long log", "long-log", "empty-log", ">=", 0.85)
row("start", "start with a long log after a clean stop", "start-long", None, "<", 100, key="start_ms", unit="ms")
row("idle-memory", "resident memory when idle", "start-empty", None, "<", 12288, key="memory_kib", unit="KiB")
row("idle-memory-long", "resident memory when idle, after a start with a long log", "start-long", None, "<", 12288, key="memory_kib", unit="KiB")

# ---- retention ----

KEEP = {"retention_events": 100000}
ours("retention", "retention", "publish while retention deletes as much", "eventbus-json", BATCHES + ("--payload", 128), KEEP,
     measure=special.with_retention, seconds=2)
ours("no-retention", "retention", "publish without retention", "eventbus-json", BATCHES + ("--payload", 128), measure=special.with_retention, seconds=2)
row("retention", "publish rate with retention deleting as fast", "retention", "no-retention", ">=", 0.7)
row("retention-p99", "the same, p99 of an ack", "retention", "no-retention", "<=", 2.0, key="p99_us")

# ---- matching ----

side("match-many", "match", "100,000 subscriptions, half with wildcards, 100,000 topics", special.match, sink=False, options={"subscriptions": 100000})
side("match-few", "match", "100 subscriptions, 100,000 topics", special.match, sink=False, options={"subscriptions": 100})
row("match-cached", "matching, 100,000 subscriptions / 100, answer remembered", "match-many", "match-few", "<=", 1.5, key="cached_ns")
row("match-uncached", "matching, 100,000 subscriptions, topic seen first", "match-many", None, "<", 20000, key="uncached_ns", unit="ns")

# ---- stalls ----

ours("stall", "stall", "publishes at half the top rate, the longest wait for an ack", "eventbus-json",
     ("publish", "--connections", 16, "--window", 4096, "--topics", 100, "--payload", 128), measure=special.stall, sink=False, paced=True, rounds=1)
row("stall", "longest stall of a publish at half the top rate", "stall", None, "<", 50000, key="own_max_us", unit="us")

# ---- 1 KiB, and the loader against others' tools ----

in_flight(1024, full=True)

peer("redis-own", "loader", "redis-benchmark: XADD, appendfsync always, 64 connections, pipeline 16", brokers.Redis, "", (),
     measure=special.redis_benchmark, sink=False, raw=True)
peer("redis-loader", "loader", "our loader: the same", brokers.Redis, "redis",
     ("publish", "--connections", 64, "--window", 16, "--refill", 16, "--topics", 1, "--payload", 128))
side("wrk", "loader", "wrk: 128-byte POST, 64 connections, to libmicrohttpd answering 201", special.wrk, sink=False, raw=True)
side("http-loader", "loader", "our loader: the same", special.bare_http, target="eventbus-http", load=POST64, raw=True, sink=False)
row("loader-redis", "our loader / redis-benchmark", "redis-loader", "redis-own", ">=", 0.9, full=True)
row("loader-wrk", "our loader / wrk", "http-loader", "wrk", ">=", 0.9, full=True)
