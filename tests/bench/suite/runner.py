"""A run: groups one after the other, in each group rounds in turn, the result written after every side of every round."""
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
import traceback

from . import brokers, facts
from .judge import judge
from .load import Loader
from .procs import Missing, Trouble
from .rows import rows, sides
from .special import null_sink

SCHEMA = 1
QUICK = {"seconds": 0.4, "replay_events": 200_000, "work_events": 100_000, "idle_connections": 4_000, "long_events": 500_000, "stall_seconds": 20, "sink_rounds": 1}
FULL = {"seconds": 3.0, "replay_events": 1_000_000, "work_events": 500_000, "idle_connections": 10_000, "long_events": 20_000_000, "stall_seconds": 600, "sink_rounds": 3}


class Context:
    """What the measures know of the run."""

    def __init__(self, build, home, scale, result):
        self.loader, self.home, self.result = Loader(build), home, result
        self.made = set()  # folders that are kept through the run
        for name, value in scale.items():
            setattr(self, name, value)

    def say(self, words):
        print(words, file=sys.stderr, flush=True)

    def folder(self, name, make=False):
        """A side's folder, empty unless it is one of those kept."""
        folder = self.home / name
        if folder not in self.made:
            shutil.rmtree(folder, ignore_errors=True)
        if make:
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def configured(self, side, broker):
        self.result["sides"].setdefault(side.name, {})["config"] = broker.config

    def described(self, side, config, load=None):
        about = self.result["sides"].setdefault(side.name, {})
        if config is not None:
            about["config"] = config
        if load is not None:
            about["load"] = [str(word) for word in load]


def chosen(only, skip, full):
    """The rows asked for: by name, with * for any letters."""
    def fits(names, row):
        return any(re.fullmatch(re.escape(n).replace(r"\*", ".*"), row.name) for n in names)

    unknown = [n for n in [*only, *skip] if not any(fits([n], r) for r in rows)]
    if unknown:
        raise SystemExit(f"no such row: {', '.join(unknown)}\nrows: {' '.join(r.name for r in rows)}")
    return [r for r in rows if (fits(only, r) if only else full or not r.full) and not fits(skip, r)]


def needed(picked):
    names = {name for r in picked for name in r.sides()}
    unknown = names - {s.name for s in sides}
    assert not unknown, unknown
    return [s for s in sides if s.name in names]


def in_groups(wanted):
    groups = {}
    for side in wanted:
        groups.setdefault(side.group, []).append(side)
    return groups


class Run:
    def __init__(self, options, scale, path=None):
        self.options, self.path = options, path
        self.result = {"schema": SCHEMA, "mode": "full" if options.full else "quick", "rounds": options.rounds, "scale": scale, "sides": {}, "rows": []}
        if options.resume and path and path.exists():
            self.result = self.before(path)
        self.scale = scale

    def before(self, path):
        old = json.loads(path.read_text())
        alike = ("seconds", "replay_events", "idle_connections")  # what a row itself says of its size may differ
        if old.get("schema") != SCHEMA or any(old["scale"][k] != self.result["scale"][k] for k in alike):
            raise SystemExit(f"{path} is of another kind of run: it cannot be gone on with")
        return old

    def save(self):
        """Whole or not at all, so that an interrupted run leaves what it had."""
        if self.path is None:
            return
        self.judge()
        part = self.path.with_name(self.path.name + ".part")
        part.write_text(json.dumps(self.result, indent=1) + "\n")
        os.replace(part, self.path)

    def judge(self):
        self.result["rows"] = [judge(r, self.result["sides"]) for r in rows
                               if all(n in self.result["sides"] for n in (r.ours, r.against, r.plus) if n)]

    def rounds_of(self, side):
        return min(side.rounds or self.options.rounds, self.options.rounds)

    def done(self, side):
        had = self.result["sides"].get(side.name, {})
        return not had.get("error") and len(had.get("rounds", [])) >= self.rounds_of(side)

    def run(self, picked):
        wanted, started = needed(picked), time.monotonic()
        if self.options.folder:
            pathlib.Path(self.options.folder).mkdir(parents=True, exist_ok=True)
        home = pathlib.Path(tempfile.mkdtemp(prefix="bench-", dir=self.options.folder)).resolve()
        context = Context(self.options.build, home, self.scale, self.result)
        brokers.Eventbus.program = (self.options.build / "broker/eventbusd").resolve()
        self.result["facts"] = facts.gather(home, self.options.source)
        if self.result["facts"]["filesystem"] == "tmpfs":
            context.say("warning: the folder is in memory (tmpfs): what is said of fsync means nothing")
        try:
            for group, members in in_groups(wanted).items():
                left = [s for s in members if not self.done(s)]
                if not left:
                    continue
                if self.options.budget and time.monotonic() - started > self.options.budget:
                    context.say(f"the budget of {self.options.budget} s is used up: --resume goes on with \"{group}\"")
                    return False
                # all of the group again: what is compared is measured next to each other
                self.measure_group(context, group, members)
        finally:
            shutil.rmtree(home, ignore_errors=True)
            self.save()
        return True

    def measure_group(self, context, group, members):
        for side in members:
            self.result["sides"][side.name] = {"what": side.what, "target": side.target, "load": [str(w) for w in side.load], "raw": side.raw,
                                               "paced": side.paced, "group": group, "rounds": []}
        for number in range(self.options.rounds):
            order = members if number % 2 == 0 else members[::-1]
            for side in order:
                about = self.result["sides"][side.name]
                if number >= self.rounds_of(side) or about.get("error") or about.get("missing"):
                    continue
                context.say(f"{group}: round {number + 1}, {side.what}")
                self.guarded(about, lambda s=side, a=about: a["rounds"].append(timed(context, s)))
                self.save()
            if number < self.scale["sink_rounds"]:
                self.measure_sinks(context, members)
        self.save()

    def measure_sinks(self, context, members):
        """What the loader does at its best, once for each load; the best it ever did is its ceiling."""
        for load in dict.fromkeys((s.target, s.load) for s in members):
            alike = [s for s in members if (s.target, s.load) == load and s.sink and s.load and not s.paced]
            alike = [s for s in alike if self.result["sides"][s.name]["rounds"] and "sink_error" not in self.result["sides"][s.name]]
            if not alike:
                continue
            about = {}
            self.guarded(about, lambda: about.update(rate=null_sink(context, alike[0])), "sink_error")
            for side in alike:
                had = self.result["sides"][side.name]
                if "rate" in about:
                    had["sink"] = {"rate": max(about["rate"], had.get("sink", {}).get("rate", 0))}
                else:
                    had.update(about)

    def guarded(self, about, step, key="error"):
        """A side that fails is said to have failed, and the rest goes on."""
        try:
            step()
        except Missing as missing:
            about["missing" if key == "error" else key] = str(missing)
        except Trouble as trouble:
            about[key] = str(trouble)
        except Exception as error:  # a mistake in the suite itself must not cost the other rows
            about[key] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        for said in (about.get(key), about.get("missing")):
            if said:
                print(f"  {said}", file=sys.stderr, flush=True)


def timed(context, side):
    """One round, with how long it took with all its starting and filling."""
    begin = time.monotonic()
    figures = side.measure(context, side)
    return {**figures, "took_s": round(time.monotonic() - begin, 2)}
