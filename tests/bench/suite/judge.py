"""From figures to a verdict: medians, ratios with their spread, goals, and whether a row says anything at all."""
import operator
import statistics

# Above this part of what the loader does against a sink that costs nothing, the loader is what was measured.
SINK_LIMIT = 0.9
# A loader's thread that is busy for so much of the time has nothing left to give …
BUSY_LIMIT = 0.95
# … and one that idles for more than half of it is not the limit: then the sink itself had a slow moment.
IDLE_ENOUGH = 0.5
# A stall counts from when an event was due: when the loader sent it so late, the stall is the loader's, or the machine's.
LATE_LIMIT = 0.5
# Stalls in which a virtual machine's host had the cores are not counted; when it had so much of them, too little is left.
STOLEN_LIMIT = 0.05

OPERATORS = {">=": operator.ge, "<=": operator.le, "<": operator.lt}


def values(side, key):
    """The figure of each round that gave one."""
    return [r[key] for r in (side or {}).get("rounds", []) if isinstance(r.get(key), (int, float))]


def median(side, key):
    found = values(side, key)
    return statistics.median(found) if found else None


def quotients(ours, against, key, against_key=None, plus=None, plus_key=None):
    """Ours over theirs, round by round: what was measured next to each other is compared with each other."""
    theirs = values(against, against_key or key)
    if plus is not None:
        theirs = [a + b for a, b in zip(theirs, values(plus, plus_key or key))]
    return [a / b for a, b in zip(values(ours, key), theirs) if b]


def why_void(name, side):
    """The reason why the loader, and not the broker, set this side's figure; None when it did not."""
    busy = median(side, "cpu_share")
    if busy is not None and busy >= BUSY_LIMIT:
        return f"the loader was busy for {busy:.0%} of the time on {name}"
    if busy is not None and busy < IDLE_ENOUGH:
        return None
    sink, rate = (side.get("sink") or {}).get("rate"), median(side, "rate")
    if sink and rate and not side.get("paced") and rate >= SINK_LIMIT * sink:
        return f"{name} came to {rate / sink:.0%} of what the loader does against a null sink"
    return None


def state_of(sides, names):
    """What keeps a row from being judged: a side that is not built, failed, or was not measured."""
    for name in names:
        side = sides.get(name)
        if side is None:
            return "not measured", f"{name} was not measured"
        if side.get("missing"):
            return "not built", f"{name}: {side['missing']}"
        if side.get("error") or not side.get("rounds"):
            return "failed", f"{name}: {side.get('error') or 'no round ended'}"
    return None, None


def judge(row, sides):
    """The verdict on one row: a dict for the JSON result.

    verdict: met, behind, void, no goal, not built, failed, not measured
    possible: how near ours is to the raw limit behind it (reached), and the ratio that the limit itself comes to (figure):
    a goal above that is out of reach for whatever is built on it
    """
    names = [n for n in (row.ours, row.against, row.plus) if n]
    result = {"row": row.name, "work": row.work, "ours": row.ours, "against": row.against, "key": row.key, "goal": row.goal_text()}
    verdict, why = state_of(sides, names)
    if verdict:
        return {**result, "verdict": verdict, "why": why}
    ours, against = sides[row.ours], sides.get(row.against)
    result["value"] = median(ours, row.key)
    if against is not None:
        result["against_value"] = median(against, row.against_key or row.key)
        found = quotients(ours, against, row.key, row.against_key, sides.get(row.plus), row.plus_key)
    else:
        found = values(ours, row.key)
    if not found:
        return {**result, "verdict": "failed", "why": f"no figure \"{row.key}\" in what was measured"}
    figure = statistics.median(found)
    result.update(figure=figure, spread=[min(found), max(found)], rounds=len(found))
    possible = median(sides.get(row.possible), row.possible_key or row.key) if row.possible else None
    if possible:
        result["possible"] = {"limit": row.possible, "value": possible, "reached": result["value"] / possible}
        own = quotients(sides[row.possible], against, row.possible_key or row.key, row.against_key, sides.get(row.plus), row.plus_key)
        if own:
            result["possible"]["figure"] = statistics.median(own)
    void = [w for w in (why_void(n, sides[n]) for n in names) if w]
    late = median(ours, "own_late_us")
    if row.key == "own_max_us" and late and late >= LATE_LIMIT * result["value"]:
        void.append(f"the loader itself was late by up to {late / 1e3:.0f} ms")
    stolen = median(ours, "stolen")
    if row.key == "own_max_us" and stolen and stolen >= STOLEN_LIMIT:
        void.append(f"the host of this machine took {stolen:.1%} of its cores meanwhile")
    aside, seconds = median(ours, "aside_s"), median(ours, "seconds")
    if row.key == "own_max_us" and aside and aside >= STOLEN_LIMIT * seconds:
        void.append(f"the host had a part in stalls of {aside:.1f} s of {seconds:.0f}")
    if void and row.goal is not None:
        return {**result, "verdict": "void", "why": "; ".join(void)}
    if row.goal is None:
        return {**result, "verdict": "no goal", "why": "; ".join(void)}
    met = OPERATORS[row.op](figure, row.goal)
    return {**result, "verdict": "met" if met else "behind", "why": ""}
