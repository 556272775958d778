"""Writes rollout.json: places, buckets, decisions and exact shares of flags, computed without the library.

A second implementation, over the reference C code of XXH3:
    pip install xxhash && python3 tests/vectors/generate_rollout.py
"""

import json
import pathlib
from fractions import Fraction

import xxhash

FLAGS = ["hybrid_mode", "ml_compression", "crdt_sync", "pbft_consensus", "internet_optimization"]
NOT_BUILT = {"crdt_sync", "pbft_consensus"}
BUCKETS = 1_000_000
NOW_S = 1_798_761_600  # 2027-01-01
LATCH = {"since_us": 1, "reason": "error rate 5 %", "evidence": {"errors": 25, "requests": 500}}


def xxh3(data: bytes, seed: int = 0) -> int:
    return xxhash.xxh3_64_intdigest(data, seed=seed)


def members(unit: str) -> list[str]:
    """One name, or the two around the first bar, in order of their bytes."""
    return sorted(unit.split("|", 1), key=lambda name: name.encode())


def key(unit: str) -> str:
    return "|".join(members(unit))


def unit_hash(unit: str) -> int:
    first, *second = (xxh3(name.encode()) for name in members(unit))
    return xxh3(second[0].to_bytes(8, "little"), first) if second else first


def place(flag: str, seed: int, unit: str) -> int:
    return xxh3(unit_hash(unit).to_bytes(8, "little"), xxh3(flag.encode(), seed))


def bucket(flag: str, seed: int, unit: str) -> int:
    return place(flag, seed, unit) * BUCKETS >> 64


def rule(enabled: bool = True, percent: float = 100, **fields) -> dict:
    return {
        "enabled": enabled,
        "rollout_percent": percent,
        "allow_list": fields.get("allow", []),
        "deny_list": fields.get("deny", []),
        "seed": fields.get("seed", 0),
        "prerequisites": fields.get("needs", []),
        "schedule": None,
        "owner": "",
        "expires": fields.get("expires"),
    }


def flag_set(killed: str | None = None, latched: tuple[str, ...] = (), **rules: dict) -> dict:
    """A whole set: flags that are not named are on everywhere."""
    state = {
        flag: {"rule": rules.get(flag, rule()), "latch": LATCH if flag in latched else None}
        for flag in FLAGS
    }
    return {"flags": state, "killed": killed, "configuration": None}


def listed(names: list[str], unit: str) -> bool:
    keys = {key(name) for name in names}
    return key(unit) in keys or any(name in keys for name in members(unit))


def reason(state: dict, flag: str, unit: str, peer_can: bool) -> str:
    of = state["flags"][flag]["rule"]
    latch = state["flags"][flag]["latch"]
    met = (reason(state, other, unit, True) in ("allowed", "percentage") for other in of["prerequisites"])
    questions = [
        (lambda: state["killed"] is not None, "kill_switch"),
        (lambda: not of["enabled"], "not_enabled"),
        (lambda: of["expires"] == "2027-01-01T00:00:00Z", "expired"),
        (lambda: flag in NOT_BUILT, "not_built"),
        (lambda: listed(of["deny_list"], unit), "denied"),
        (lambda: not peer_can, "peer_cannot"),
        (lambda: not all(met), "prerequisite_unmet"),
        (lambda: latch is not None, "latched_off"),
        (lambda: listed(of["allow_list"], unit), "allowed"),
        (lambda: bucket(flag, of["seed"], unit) < Fraction(str(of["rollout_percent"])) * 10_000, "percentage"),
    ]
    return next((name for applies, name in questions if applies()), "below_percentage")


def buckets() -> list[dict]:
    units = ["node-1", "node-2", "", "node-1|node-2", "node-2|node-1", "node-1|10.0.0.2:4040", "a|b|c", "zürich|bern"]
    units += ["node-1|node-1", "|", "x" * 128 + "|" + "y" * 261]
    cases = [(flag, 0, unit) for flag in FLAGS for unit in units]
    cases += [("hybrid_mode", seed, "node-1|node-2") for seed in (1, 2, 1 << 40, (1 << 64) - 1)]
    return [
        {
            "flag": flag,
            "seed": seed,
            "unit": unit,
            "key": key(unit),
            "unit_hash": f"{unit_hash(unit):016x}",
            "place": f"{place(flag, seed, unit):016x}",
            "bucket": bucket(flag, seed, unit),
        }
        for flag, seed, unit in cases
    ]


def edge_sets() -> list[tuple[str, dict]]:
    """A percentage just below a unit's place, and just above it."""
    here = bucket("hybrid_mode", 0, "node-1|node-2")
    return [
        ("at its own place a unit is out", flag_set(hybrid_mode=rule(percent=here / 10_000))),
        ("the next percentage takes it in", flag_set(hybrid_mode=rule(percent=(here + 1) / 10_000))),
    ]


def decisions() -> list[dict]:
    expired, later = "2027-01-01T00:00:00Z", "2027-01-01T00:00:01Z"
    pair = ["node-2|node-1"]
    sets = [
        ("all on", flag_set()),
        ("killed", flag_set(killed="drill")),
        ("disabled, though allowed", flag_set(hybrid_mode=rule(False, allow=pair))),
        ("expired", flag_set(hybrid_mode=rule(expires=expired))),
        ("expires in a second", flag_set(hybrid_mode=rule(expires=later))),
        ("a member is denied", flag_set(hybrid_mode=rule(deny=["node-2"], allow=["node-1"]))),
        ("the pair is denied", flag_set(hybrid_mode=rule(deny=pair))),
        ("another pair is denied", flag_set(hybrid_mode=rule(deny=["node-1|node-3"]))),
        ("a prerequisite is disabled", flag_set(hybrid_mode=rule(needs=["ml_compression"]), ml_compression=rule(False))),
        ("a prerequisite is rolled back", flag_set(latched=("ml_compression",), hybrid_mode=rule(needs=["ml_compression"]))),
        ("a prerequisite is not built", flag_set(hybrid_mode=rule(needs=["crdt_sync"], allow=pair))),
        ("prerequisites are met", flag_set(hybrid_mode=rule(needs=["ml_compression", "internet_optimization"]))),
        ("rolled back, though allowed", flag_set(latched=("hybrid_mode",), hybrid_mode=rule(allow=pair))),
        ("the pair is allowed at zero", flag_set(hybrid_mode=rule(percent=0, allow=pair))),
        ("a member is allowed at zero", flag_set(hybrid_mode=rule(percent=0, allow=["node-1"]))),
        ("half of the name is not allowed", flag_set(hybrid_mode=rule(percent=0, allow=["node"]))),
        ("zero", flag_set(hybrid_mode=rule(percent=0))),
        *edge_sets(),
        *((f"{percent} %", flag_set(hybrid_mode=rule(percent=percent))) for percent in (0.0001, 12.5, 50, 99.9999)),
        *((f"half, seed {seed}", flag_set(hybrid_mode=rule(percent=50, seed=seed))) for seed in range(1, 7)),
    ]
    cases = [(why, state, "hybrid_mode", "node-1|node-2", True) for why, state in sets]
    cases += [("the peer cannot", flag_set(), "hybrid_mode", "node-1|node-2", False)]
    cases += [("denied before the peer is asked", flag_set(hybrid_mode=rule(deny=pair)), "hybrid_mode", "node-1|node-2", False)]
    cases += [("not built", flag_set(**{flag: rule(allow=["group"])}), flag, "group", True) for flag in sorted(NOT_BUILT)]
    cases += [("a third of the links", flag_set(ml_compression=rule(percent=33.3333)), "ml_compression", f"a|node-{node}", True) for node in range(6)]
    return [
        {
            "why": why,
            "set": state,
            "flag": flag,
            "unit": unit,
            "peer_can": peer_can,
            "now_s": NOW_S,
            "reason": reason(state, flag, unit, peer_can),
            "is_on": reason(state, flag, unit, peer_can) in ("allowed", "percentage"),
        }
        for why, state, flag, unit, peer_can in cases
    ]


def exact() -> list[dict]:
    made = []
    for count, percent, seed in [(20, 10, 0), (20, 10, 7), (20, 0, 0), (20, 100, 0), (21, 10, 0), (20, 0.0001, 0), (7, 33.3333, 1)]:
        names = [f"node-{node}" for node in range(1, count + 1)]
        chosen = -(-count * int(Fraction(str(percent)) * 10_000) // BUCKETS)
        ranked = sorted(names, key=lambda name: place("hybrid_mode", seed, name))
        made.append({"flag": "hybrid_mode", "seed": seed, "percent": percent, "members": names, "chosen": ranked[:chosen]})
    return made


def main() -> None:
    vectors = {
        "about": "Places and buckets of units, decisions, exact shares of members; see generate_rollout.py",
        "buckets": buckets(),
        "decisions": decisions(),
        "exact": exact(),
    }
    path = pathlib.Path(__file__).with_name("rollout.json")
    path.write_text(json.dumps(vectors, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
