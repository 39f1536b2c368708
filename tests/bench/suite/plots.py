"""SVG plots of a result, with matplotlib; the same result gives the same bytes."""
import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "eventbus"
matplotlib.rcParams["svg.fonttype"] = "none"
import matplotlib.pyplot as plt  # noqa: E402

from .judge import median  # noqa: E402

OURS, PEER, RAW = "#1f6f8b", "#b0b0b0", "#e3d5a5"

# file, title, group of sides, figure, its unit
CHARTS = [
    ("publish.svg", "One connection, 8,192 in flight, 128 B", "publish", "rate", "acknowledged events/s"),
    ("publish-1024.svg", "One connection, 8,192 in flight, 1 KiB", "publish-1024", "rate", "acknowledged events/s"),
    ("wait.svg", "64 connections, each waits for its ack", "wait", "rate", "acknowledged events/s"),
    ("http.svg", "HTTP POST, 64 connections", "http", "rate", "requests/s"),
    ("fan-out-100.svg", "Fan-out to 100 subscribers, 128 B", "fan-out-100", "rate", "deliveries/s"),
    ("fan-out-1000.svg", "Fan-out to 1,000 subscribers, 128 B", "fan-out-1000", "rate", "deliveries/s"),
    ("fan-out-100-1024.svg", "Fan-out to 100 subscribers, 1 KiB", "fan-out-100-1024", "rate", "deliveries/s"),
    ("latency.svg", "From publish to delivery at 10,000 events/s, p99", "latency", "p99_us", "microseconds"),
    ("replay.svg", "Replay to one subscriber", "replay", "rate", "events/s"),
    ("idle.svg", "Memory of an idle WebSocket connection", "idle", "bytes_each", "bytes"),
]


def bars(path, title, sides, key, unit):
    """Horizontal bars: the median, with the smallest and largest round as a line."""
    fig, axes = plt.subplots(figsize=(8, 0.9 + 0.42 * len(sides)))
    for at, side in enumerate(reversed(sides)):
        found = [r[key] for r in side["rounds"] if key in r]
        middle = median(side, key)
        color = RAW if side.get("raw") else OURS if "eventbus" in side.get("target", "") else PEER
        axes.barh(at, middle, color=color, xerr=[[middle - min(found)], [max(found) - middle]], ecolor="#555555", capsize=3)
    axes.set_yticks(range(len(sides)), [side["what"] for side in reversed(sides)])
    axes.set_title(title, loc="left")
    axes.set_xlabel(unit)
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(fig)


def ratios(path, rows):
    """Every goal at once: how many times the goal each row reaches, 1 being just met."""
    shown = [r for r in rows if r["verdict"] in ("met", "behind")]
    if not shown:
        return False
    fig, axes = plt.subplots(figsize=(8, 0.9 + 0.3 * len(shown)))
    for at, r in enumerate(reversed(shown)):
        goal = float(r["goal"].split()[1])
        reached = r["figure"] / goal if r["goal"].startswith(">") else goal / r["figure"] if r["figure"] else 1
        axes.barh(at, reached, color=OURS if r["verdict"] == "met" else "#c0504d")
    axes.margins(y=0.01)
    axes.axvline(1, color="#333333", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(shown)), [r["row"] for r in reversed(shown)])
    axes.set_title("Times the goal (right of the line: met)", loc="left")
    axes.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%g"))
    axes.spines[["top", "right"]].set_visible(False)
    fig.savefig(path, bbox_inches="tight", metadata={"Date": None, "Creator": None})
    plt.close(fig)
    return True


def draw(result, folder):
    """Write what the result has figures for; returns (file, title) of each."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    if ratios(folder / "goals.svg", result["rows"]):
        drawn.append(("goals.svg", "Each row against its goal"))
    for name, title, group, key, unit in CHARTS:
        sides = [s for s in result["sides"].values() if s.get("group") == group and median(s, key) is not None]
        if len(sides) > 1:
            bars(folder / name, title, sides, key, unit)
            drawn.append((name, title))
    return drawn
