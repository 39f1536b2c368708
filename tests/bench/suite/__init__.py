"""The benchmark suite behind `./dev bench`: ours and its peers on the same work, in turn, in one run.

    rows.py      what is measured, against what, with which goal: the one table
    runner.py    rounds in turn, partial results, resume
    brokers.py   how each broker is configured, started, watched and ended
    load.py      the load generator, its null sink, the raw limits
    special.py   measures that need steps of their own
    judge.py     from figures to a verdict; no side effects
    report.py, plots.py, facts.py    table, page, plots, the machine
"""
