"""A result in words: the table in the terminal, and docs/benchmarks.md."""
from .judge import median

MARK = {"met": "met", "behind": "BEHIND", "void": "void", "no goal": "-", "not built": "not built", "failed": "FAILED", "not measured": "not measured"}


def number(value):
    if value is None:
        return ""
    if value >= 1e6:
        return f"{value / 1e6:.2f}M"
    if value >= 1e4:
        return f"{value / 1e3:.0f}k"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}"


def figure(row):
    """The ratio, or the bounded figure itself, with its spread."""
    if "figure" not in row:
        return ""
    text = number if row["against"] is None else (lambda v: f"{v:.2f}")
    spread = "" if row["rounds"] == 1 else f" ({text(row['spread'][0])}-{text(row['spread'][1])})"
    return text(row["figure"]) + spread


def loaded(side):
    """How busy the loader was, and how near its own ceiling."""
    if not side or not side.get("rounds"):
        return ""
    parts = []
    busy = median(side, "cpu_share")
    if busy is not None:
        parts.append(f"{busy:.0%} busy")
    rate, sink = median(side, "rate"), (side.get("sink") or {}).get("rate")
    if rate and sink:
        parts.append(f"{rate / sink:.0%} of sink")
    return ", ".join(parts + stalled(side))


def stalled(side):
    """What is not the broker's of its longest stalls: the loader's lateness, and the host's share."""
    stolen = median(side, "stolen")
    if stolen is None:
        return []
    parts = [f"late by {median(side, 'own_late_us') / 1000:.0f} ms itself", f"{stolen:.2%} of the cores taken by the host"]
    taken = [stall for round in side["rounds"] for stall in round["stalls"] if stall["stolen_ms"]]
    if taken:
        longest = max(taken, key=lambda stall: stall["us"])
        parts.append(f"{longest['us'] / 1000:.0f} ms while it took {longest['stolen_ms']:.0f} ms of them")
    aside = median(side, "aside_s")
    if aside:
        parts.append(f"{aside:.1f} s set aside for that")
    return parts


def of_possible(row):
    """How near to the limit, and the ratio which that limit itself comes to."""
    possible = row.get("possible")
    if not possible:
        return ""
    return f"{possible['reached']:.0%}" + (f" of {possible['figure']:.2f}" if "figure" in possible else "")


def table(result):
    """Lines for the terminal."""
    heads = ["row", "ours", "against", "ratio or figure (spread)", "goal", "", "of the possible", "loader: ours / peer"]
    lines = []
    for r in result["rows"]:
        sides = result["sides"]
        share = " / ".join(filter(None, (loaded(sides.get(r["ours"])), loaded(sides.get(r["against"])))))
        lines.append([r["row"], number(r.get("value")), number(r.get("against_value")), figure(r), r["goal"], MARK[r["verdict"]],
                      of_possible(r), share])
    widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(len(heads))]
    out = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in [heads, *lines]]
    why = [f"{r['row']}: {r['why']}" for r in result["rows"] if r.get("why")]
    return "\n".join(out + ([""] + why if why else []) + [""] + configured(result))


def configured(result):
    """Who ran how, below the table."""
    lines = []
    for config, members in by_config(result).items():
        lines += [", ".join(name for name, _ in members) + ":", *("    " + line for line in config.splitlines())]
    return lines


def by_config(result):
    """Each different configuration, with the sides that used it."""
    found = {}
    for name, side in result["sides"].items():
        if side.get("config"):
            found.setdefault(side["config"], []).append((name, side))
    return found


# ---- docs/benchmarks.md ----

HEAD = """# Benchmarks

Ours beside what others do, on the same work, in turn, in one run. This page is written by

```sh
./dev bench --{mode} --json result.json --docs
```

which installs the peers from Debian, starts every broker itself in a folder of its own on a free port, and ends what it
started. Absolute figures move from machine to machine, and from hour to hour on a shared one: **compare the ratios**.
`./dev bench --quick` repeats most of it in three minutes; `--only NAME` one row.

- A ratio is the median of {rounds} rounds, each round's ours over the same round's theirs; the spread is the smallest and the
  largest of them. 128-byte events over 100 topics unless said.
- A row is **void** when the load generator was the limit: its threads were busy for {busy:.0%} of the time, or for {idle:.0%}
  and it came to {sink:.0%} of what it does against a sink that answers at once and keeps nothing. So is a longest stall
  while the loader itself was late by half of it. One during which a virtual machine's host took the cores (steal in
  /proc/stat, to ten milliseconds) is said beside it and does not count; a run in which it took {stolen:.0%} of them, or in
  which such stalls make up {stolen:.0%} of the time, is void.
- "Of the possible" is ours over the raw limit behind it, measured beside it: the disk, SQLite, libmicrohttpd, the kernel;
  and behind it the ratio that this limit itself comes to. A goal above that is out of reach for what is built on it.
- Peers run as their packages come, except for what stands under [configurations](#configurations). NATS JetStream
  acknowledges what is in the page cache; nchan and NATS core keep memory; redis with `appendfsync always` and ours with
  `durability = fsync` acknowledge what is on the disk.
"""


def rows_table(result):
    lines = ["| work | ours | against | ratio (spread) | goal | verdict | of the possible | loader: ours; peer |", "|---|---|---|---|---|---|---|---|"]
    for r in result["rows"]:
        sides = result["sides"]
        share = "; ".join(filter(None, (loaded(sides.get(r["ours"])), loaded(sides.get(r["against"])))))
        verdict = {"behind": "**behind**", "no goal": ""}.get(r["verdict"], r["verdict"])
        theirs = (sides.get(r["against"]) or {}).get("what", "")
        against = f"{theirs}: {number(r.get('against_value'))}" if theirs else ""
        lines.append("| " + " | ".join([r["work"], number(r.get("value")), against, figure(r), r["goal"], verdict,
                                         of_possible(r), share]) + " |")
    return lines


def raw_table(result):
    lines = ["| limit | rate | p50 | p99 |", "|---|---|---|---|"]
    for side in result["sides"].values():
        if side.get("raw") and side.get("rounds"):
            times = [median(side, key) for key in ("p50_us", "p99_us")]
            lines.append("| " + " | ".join([side["what"], number(median(side, "rate")), *(f"{number(t)} us" if t is not None else "" for t in times)]) + " |")
    return lines


def sides_table(result):
    """Percentiles, CPU and memory of every broker under every load."""
    lines = ["| broker and load | rate | p50 | p99 | longest | CPU seconds a million | memory afterwards |", "|---|---|---|---|---|---|---|"]
    for side in result["sides"].values():
        if side.get("raw") or not side.get("rounds") or median(side, "rate") is None:
            continue
        times = [median(side, key) for key in ("p50_us", "p99_us", "max_us")]
        memory = median(side, "broker_memory_kib")
        lines.append("| " + " | ".join([side["what"], number(median(side, "rate")), *(f"{number(t)} us" if t is not None else "" for t in times),
                                        number(median(side, "broker_cpu_s_per_million")), f"{memory / 1024:.0f} MiB" if memory else ""]) + " |")
    return lines


def configurations(result):
    """Each different configuration once, with the sides that used it and what they were given."""
    lines = []
    for config, members in by_config(result).items():
        lines += ["```text", config, "```", ""]
        lines += [f"- {side['what']}" + (f": `{command(side)}`" if command(side) else "") for _, side in members] + [""]
    return lines


def command(side):
    """The load as it can be typed again."""
    if not side.get("target"):
        return " ".join(side["load"])
    mode, *options = side["load"]
    return " ".join(["eventbus-load", mode, "--target", side["target"], "--port", "PORT", *options])


def facts_lines(facts):
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    return [
        f"- {facts['cores']} cores of {facts['cpu']}, {facts['memory_gib']} GiB, Linux {facts['kernel']}, {facts['filesystem']}; load average before: {facts['load_before']}",
        f"- eventbus at {facts['commit']}{' with changes' if facts['changed'] else ''}, release build with LTO",
        f"- {versions}",
    ]


def scale_lines(scale):
    return [f"- a measure takes {scale['seconds']:g} s (more where the work needs it); replay of {scale['replay_events']:,} events; workers of {scale.get('work_events', 0):,}; "
            f"{scale['idle_connections']:,} idle connections; a long log of {scale['long_events']:,} events; stalls over {scale['stall_seconds']:g} s"]


def page(result, plots):
    """docs/benchmarks.md as text."""
    from .judge import BUSY_LIMIT, IDLE_ENOUGH, SINK_LIMIT, STOLEN_LIMIT

    out = [HEAD.format(mode=result["mode"], rounds=result["rounds"], sink=SINK_LIMIT, busy=BUSY_LIMIT, idle=IDLE_ENOUGH, stolen=STOLEN_LIMIT)]
    out += ["## The machine", *facts_lines(result["facts"]), *scale_lines(result["scale"]), ""]
    behind = [r for r in result["rows"] if r["verdict"] in ("behind", "void", "failed", "not built")]
    out += ["## Against the goals", *rows_table(result), ""]
    for name, title in plots:
        out += [f"![{title}](benchmarks/{name})", ""]
    if behind:
        out += ["### Where ours is behind, or the row says nothing"]
        out += [f"- {r['work']}: {figure(r)}, goal {r['goal']}" + (f" ({r['why']})" if r.get("why") else "") if r["verdict"] == "behind"
                else f"- {r['work']}: {r['verdict']}, {r['why']}" for r in behind] + [""]
    out += ["## The raw limits in the same run", *raw_table(result), ""]
    out += ["## Every side", *sides_table(result), ""]
    out += ["## Configurations", "`DIR` is the side's own folder, `PORT` a free port; under each, the loads it was measured with.", "",
            *configurations(result)]
    return "\n".join(out).rstrip() + "\n"
