#!/usr/bin/env python3
"""Rolls a feature out to a canary, then to a tenth of the peers, and switches it off again.

Without arguments on a node of this process; with `--socket PATH` on one behind a control socket, whose
flags are changed for real.
"""

from __future__ import annotations

import argparse

import dwcp

FLAG = "hybrid_mode"
PEERS = [f"peer-{number}" for number in range(100)]


def show(node: dwcp.Node | dwcp.RemoteNode, when: str) -> None:
    """How many peers have the feature, and why the canary has it or not."""
    on = sum(node.explain_flag(FLAG, f"rack1|{peer}").is_on for peer in PEERS)
    print(f"{when}: {on} of {len(PEERS)}; {node.explain_flag(FLAG, 'rack1|canary').text}")


def roll_out(node: dwcp.Node | dwcp.RemoteNode) -> None:
    """The steps, each with its reason for the audit log."""
    show(node, "at first")
    node.set_flag(FLAG, percent=0, enabled=True, allow_list=["canary"], why="the canary first")
    show(node, "canary")
    node.set_flag(FLAG, percent=10, why="week 2")
    show(node, "at 10 %")
    decider = node.decider(FLAG, "rack1|canary")  # For hot paths: some nanoseconds an answer.
    node.disable_all_flags(why="the example ends")
    show(node, "disabled")
    assert not decider
    for change in node.flag_history(3):
        print(change)


def main() -> None:
    """Picks the node."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--socket", help="control socket of a node")
    socket = parser.parse_args().socket
    if socket:
        roll_out(dwcp.connect(socket))
        return
    with dwcp.Node(name="rack1", plain=True) as node:
        roll_out(node)


if __name__ == "__main__":
    main()
