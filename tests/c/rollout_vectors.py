"""Writes tests/vectors/rollout.json as macros for C: decisions, buckets and exact shares."""

import json
import sys

BUILT = ("hybrid_mode", "ml_compression", "internet_optimization")
# What C calls otherwise.
REASONS = {"latched_off": "rolled_back"}


def literal(text):
    """A C string, in pieces that every compiler takes."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def number(percent):
    """A percentage in parts of a million."""
    return round(percent * 10_000)


def rules_at(flag, percent, seed):
    """All flags, one of them at a percentage."""
    rule = {"enabled": True, "rollout_percent": percent, "seed": seed}
    names = ["crdt_sync", "pbft_consensus", *BUILT]
    flags = {name: {"rule": rule if name == flag else {}, "latch": None} for name in names}
    return json.dumps({"flags": flags, "killed": None, "configuration": None})


def main(path):
    """One macro for each case."""
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)
    for case in vectors["decisions"]:
        reason = REASONS.get(case["reason"], case["reason"]).upper()
        rules = json.dumps(case["set"], ensure_ascii=False)
        print(
            f"DECISION({literal(case['why'])}, {literal(rules)}, DWCP_FLAG_{case['flag'].upper()}, "
            f"{literal(case['unit'])}, {int(case['peer_can'])}, {case['now_s']}u, "
            f"{int(case['is_on'])}, DWCP_REASON_{reason})"
        )
    for case in vectors["buckets"]:
        if case["flag"] in BUILT and all(case["unit"].split("|")):
            rules = rules_at(case["flag"], 0, case["seed"])
            print(
                f"BUCKET({literal(rules)}, DWCP_FLAG_{case['flag'].upper()}, "
                f"{literal(case['unit'])}, {case['bucket']})"
            )
    for case in vectors["exact"]:
        members = ", ".join(literal(name) for name in case["members"])
        chosen = literal(json.dumps(case["chosen"], separators=(",", ":")))
        print(
            f"EXACT(DWCP_FLAG_{case['flag'].upper()}, {case['seed']}u, {number(case['percent'])}, "
            f"{chosen}, {members})"
        )


main(sys.argv[1])
