"""python3 -m suite: see `./dev bench --help`."""
import argparse
import json
import pathlib
import sys

from . import report
from .rows import rows
from .runner import FULL, QUICK, Run, chosen

SOURCE = pathlib.Path(__file__).resolve().parents[3]


def arguments(argv):
    parser = argparse.ArgumentParser(prog="./dev bench", description="Ours and its peers on the same work, in turn, in one run.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="under three minutes (the default): short measures, smaller logs")
    size.add_argument("--full", action="store_true", help="full sizes, 1 KiB payloads, others' own tools; about 40 minutes, 10 of them one row (stall)")
    parser.add_argument("--only", nargs="+", default=[], metavar="ROW", help="these rows; * stands for any letters")
    parser.add_argument("--skip", nargs="+", default=[], metavar="ROW", help="all but these")
    parser.add_argument("--list", action="store_true", help="name the rows and end")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the result there, as it comes")
    parser.add_argument("--resume", type=pathlib.Path, metavar="FILE", help="go on with that result: measure what it lacks, write into it")
    parser.add_argument("--budget", type=float, metavar="S", help="begin no further group after so many seconds; the exit status is then 3")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks.md, its plots and its result")
    parser.add_argument("--show", type=pathlib.Path, metavar="FILE", help="measure nothing: print that result (and with --docs write the page)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, help="of a usual measure")
    parser.add_argument("--stall-seconds", type=float, help="of the row stall")
    parser.add_argument("--long-events", type=int, help="events in the long log")
    parser.add_argument("--build", type=pathlib.Path, default=SOURCE / "build-bench", help="build folder with broker and loaders")
    parser.add_argument("--folder", type=pathlib.Path, help="where brokers keep their files (default: in the build folder)")
    parser.add_argument("--out", type=pathlib.Path, default=SOURCE / "docs", help="where --docs writes")
    options = parser.parse_args(argv)
    if options.rounds < 1 or (options.seconds is not None and options.seconds <= 0):
        parser.error("--rounds and --seconds are above 0")
    options.source = SOURCE
    options.folder = options.folder or options.build
    return options


def scale_of(options):
    scale = dict(FULL if options.full else QUICK)
    for name in ("seconds", "stall_seconds", "long_events"):
        if getattr(options, name) is not None:
            scale[name] = getattr(options, name)
    return scale


def write_docs(result, folder):
    from . import plots

    drawn = plots.draw(result, folder / "benchmarks")
    (folder / "benchmarks" / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "benchmarks.md").write_text(report.page(result, drawn))
    print(f"wrote {folder / 'benchmarks.md'}", file=sys.stderr)


def main(argv=None):
    options = arguments(argv)
    if options.list:
        for row in rows:
            print(f"{row.name:28} {row.work}{' (--full)' if row.full else ''}")
        return 0
    if options.show:
        result, whole = json.loads(options.show.read_text()), True
    else:
        run = Run(options, scale_of(options), options.resume or options.json)
        try:
            whole = run.run(chosen(options.only, options.skip, options.full))
        except KeyboardInterrupt:
            whole = False
        run.judge()
        result = run.result
    print(report.table(result))
    if options.docs:
        write_docs(result, options.out)
    return 0 if whole else 3


if __name__ == "__main__":
    sys.exit(main())
