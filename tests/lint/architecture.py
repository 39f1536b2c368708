#!/usr/bin/env python3
"""docs/architecture.md names every thread that the code names, and every lock rank, in its order.

   architecture.py [ROOT]     0 when page and code agree; else one line for each that they do not
"""
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent.parent)


def sources():
    return [path for room in ("common", "broker", "client") for path in sorted((ROOT / room).rglob("*.[ch]"))]


def threads_of_the_code():
    """Every string literal that is a thread's name: eb-writer, or eb-read-%u, which the page calls eb-read-N."""
    found = {}
    for path in sources():
        for name in re.findall(r'"(eb-[a-z]+(?:-[a-z]+)*(?:-%u)?)"', path.read_text()):
            found[name.replace("%u", "N")] = path.relative_to(ROOT)
    return found


def main():
    page = (ROOT / "docs" / "architecture.md").read_text()
    wrong = []

    named = threads_of_the_code()
    shown = set(re.findall(r"^\| `(eb-[a-zN-]+)` \|", page, re.M))
    wrong += [f"{path}: the thread {name} is not in docs/architecture.md" for name, path in named.items() if name not in shown]
    wrong += [f"docs/architecture.md: no code names a thread {name}" for name in sorted(shown - set(named))]

    ranks = re.findall(r"^    X\((EB_RANK_\w+),", (ROOT / "common" / "lock.h").read_text(), re.M)
    rows = re.findall(r"^\| (\d+) \| `(EB_RANK_\w+)` \|", page, re.M)
    if [name for _, name in rows] != ranks or [int(n) for n, _ in rows] != list(range(1, len(ranks) + 1)):
        wrong.append(f"docs/architecture.md: its locks are {[name for _, name in rows]}, common/lock.h has {ranks}")

    used = {rank for path in sources() if path.name not in ("lock.h", "lock.c") for rank in re.findall(r"\bEB_RANK_\w+", path.read_text())}
    wrong += [f"common/lock.h: nobody uses {rank}" for rank in ranks if rank not in used]
    if not named or not ranks:
        wrong.append("no thread or no rank was found: this check looks in the wrong place")
    print("\n".join(wrong), end="\n" if wrong else "")
    return bool(wrong)


sys.exit(main())
