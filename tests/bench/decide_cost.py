"""What it costs to ask a decider from Python; prints one JSON object."""

from __future__ import annotations

import json
import timeit

import dwcp

CALLS = 2_000_000


def main() -> None:
    """Asks by the method and by the truth value, the loop's own cost included."""
    with dwcp.Node(name="decide-cost", plain=True) as node:
        node.set_flag("hybrid_mode", percent=50, why="a benchmark")
        decider = node.decider("hybrid_mode", "rack1|rack2")
        names = {"decider": decider}
        decide_s = timeit.timeit("decider.is_on()", globals=names, number=CALLS)
        truth_s = timeit.timeit("not decider", globals=names, number=CALLS)
    print(json.dumps({"decide_ns": decide_s / CALLS * 1e9, "truth_ns": truth_s / CALLS * 1e9}))


main()
