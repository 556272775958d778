"""Writes v1_frames.json, v1_payloads.json and v1_json.json: formats of v1, computed without the library.

A second implementation, by the description of v1's source; Python's own modules suffice:
    python3 tests/vectors/generate_v1.py
v1's own code, as far as it builds alone, was run over them: its transports send these F8 and F16 frames and
receive them, its types read and write these documents, its differences are these.
Bytes that the description spells out are here too (`spelled`), and must come out the same.
"""

import json
import pathlib
import struct
import zlib

MESSAGES = {"keep_alive": 0, "state_sync": 1, "consensus": 2, "baseline": 3, "full_sync": 4}
NOW = 1_700_000_000
# Tier global, a zstd frame with the raw block "hello".
PACKET = bytes.fromhex("0002000000000000000000000000000e28b52ffd200529000068656c6c6f")
BLOCK = 4096


def content(pattern: str, length: int) -> bytes:
    """The pattern (hex), repeated and cut to the length; every reader of the vectors does this."""
    unit = bytes.fromhex(pattern)
    return (unit * (length // len(unit) + 1))[:length]


def spelled(computed: bytes, description: str) -> str:
    assert computed.hex() == description.replace(" ", ""), (computed.hex(), description)
    return computed.hex()


def f8(chunk: int, payload: bytes) -> bytes:
    return struct.pack(">II", chunk, len(payload)) + payload


def f16(chunk: int, offset: int, payload: bytes, total: int) -> bytes:
    return struct.pack(">IIII", chunk, offset, len(payload), total) + payload


def f12(kind: str, payload: bytes, seconds: int = NOW) -> bytes:
    return struct.pack(">III", MESSAGES[kind], len(payload), seconds) + payload


def f16d(kind: str, payload: bytes, seconds: int = NOW) -> bytes:
    return struct.pack(">IIQ", MESSAGES[kind], len(payload), seconds) + payload


def batch(entries: list[tuple[int, int, bytes]]) -> bytes:
    return b"".join(struct.pack(">QQI", term, index, len(data)) + data for term, index, data in entries)


def sdk(kind: int, seconds: int, name: str, payload: str) -> bytes:
    name_bytes, payload_bytes = name.encode(), payload.encode()
    body = struct.pack(">BBQH", 3, kind, seconds, len(name_bytes)) + name_bytes
    body += struct.pack(">I", len(payload_bytes)) + payload_bytes
    return struct.pack(">I", len(body)) + body


def frames() -> dict:
    """Transfers in chunks, messages of clusters, requests of clients."""
    one8, one16 = f8(0, b"abc"), f16(1, 65536, b"abc", 65539)
    spelled(one8, "00000000 00000003 616263")
    spelled(one16, "00000001 00010000 00000003 00010003 616263")
    image = content("00ff10", 10_000)
    pieces = [(index, image[index * BLOCK : (index + 1) * BLOCK]) for index in range(3)]
    chunks8 = [f8(index, piece).hex() for index, piece in pieces]
    chunks16 = [f16(index, index * BLOCK, piece, len(image)).hex() for index, piece in pieces]
    transfer = {"pattern": "00ff10", "bytes": 10_000, "chunk_bytes": BLOCK}
    entries = [(3, 42, b"hi"), (4, 43, b"")]
    spelled(batch(entries[:1]), "0000000000000003 000000000000002a 00000002 6869")
    return {
        "about": "F8, F16, F12 and F16d with the handshake, and requests of clients; see generate_v1.py",
        "f8_headers": [{"bytes": one8.hex(), "id": 0, "payload": b"abc".hex()}],
        "f8_transfers": [transfer | {"frames": chunks8}],
        "f16_headers": [
            {"bytes": one16.hex(), "id": 1, "offset": 65536, "total": 65539, "payload": b"abc".hex()}
        ],
        "f16_transfers": [transfer | {"frames": chunks16}],
        "handshakes": handshakes(),
        "messages": messages(entries),
        "sdk": requests(),
        "refused": refused_frames(),
    }


def handshakes() -> list[dict]:
    cases = [("local", ["HDE", "AMST", "DELTA"], NOW), ("eu-1", [], 9_999_999_999)]
    return [
        {
            "bytes": f"HANDSHAKE|1.0|{cluster}|[{' '.join(capabilities)}]|{seconds}".encode().hex(),
            "cluster_id": cluster,
            "capabilities": capabilities,
            "seconds": seconds,
        }
        for cluster, capabilities, seconds in cases
    ]


def messages(entries: list[tuple[int, int, bytes]]) -> list[dict]:
    short, alive = f12("state_sync", b"abc"), f16d("keep_alive", b"KEEPALIVE")
    spelled(short, "00000001 00000003 6553f100 616263")
    spelled(alive, "00000000 00000009 000000006553f100 4b454550414c495645")
    listed = [{"term": term, "index": index, "data": data.hex()} for term, index, data in entries]
    late = (1 << 32) + 5
    full = b"FULL_SYNC_REQUEST"
    return [
        {"bytes": short.hex(), "kind": "state_sync", "data": b"abc".hex(), "framing": "streams"},
        {"bytes": alive.hex(), "kind": "keep_alive", "framing": "streams"},
        {"bytes": alive.hex(), "kind": "keep_alive", "framing": "direct"},
        {
            "bytes": f16d("keep_alive", b"KEEPALIVE", late).hex(),
            "kind": "keep_alive",
            "framing": "streams",
            "seconds": late,
        },
        {"bytes": f16d("full_sync", full).hex(), "kind": "full_sync", "framing": "streams"},
        {"bytes": f12("consensus", batch(entries)).hex(), "kind": "consensus", "entries": listed, "framing": "streams"},
        {"bytes": f16d("consensus", batch(entries)).hex(), "kind": "consensus", "entries": listed, "framing": "direct"},
        {"bytes": f12("baseline", b"\0\0").hex(), "kind": "baseline", "data": "0000", "framing": "streams"},
        {"bytes": f16d("baseline", b"").hex(), "kind": "baseline", "data": "", "framing": "direct"},
    ]


def requests() -> list[dict]:
    health = sdk(5, NOW, "r1", "{}")
    spelled(health, "00000014 03 05 000000006553f100 0002 7231 00000002 7b7d")
    login = '{"api_key":"k","version":"3"}'
    return [
        {"bytes": health.hex(), "kind": 5, "id": "r1", "payload": "{}"},
        {"bytes": sdk(1, NOW, "é", login).hex(), "kind": 1, "id": "é", "payload": login},
    ]


def refused_frames() -> list[dict]:
    too_long = struct.pack(">I", (16 << 20) + 1)
    word = struct.pack(">I", 5)
    cases = [
        ("f8", "an empty chunk", f8(0, b"")),
        ("f8", "a chunk over the limit", struct.pack(">I", 0) + too_long),
        ("f16", "an empty chunk", f16(0, 0, b"", 10)),
        ("f16", "a chunk beyond the end", f16(1, 8, b"abc", 10)),
        ("f16", "a chunk over the limit", struct.pack(">II", 0, 0) + too_long + b"\xff" * 4),
        ("message", "an unknown kind", struct.pack(">III", 5, 0, NOW)),
        ("message", "a message over the limit", struct.pack(">I", 1) + too_long + word),
        ("message", "a keep-alive of other letters", f16d("keep_alive", b"KEEPALIVF")),
        ("message", "a request that says more", f16d("full_sync", b"FULL_SYNC_REQUEST\n")),
        ("message", "a log entry cut short", f12("consensus", batch([(1, 2, b"abc")])[:-1])),
        ("message", "a log entry longer than its message", f12("consensus", b"\0" * 16 + b"\xff" * 4)),
        ("handshake", "another version", f"HANDSHAKE|2.0|local|[HDE]|{NOW}".encode()),
        ("handshake", "another opening", f"HANDSHAKF|1.0|local|[HDE]|{NOW}".encode()),
        ("handshake", "a field too few", f"HANDSHAKE|1.0|[HDE]|{NOW}".encode()),
        ("handshake", "a list without brackets", f"HANDSHAKE|1.0|local|HDE|{NOW}".encode()),
        ("handshake", "two spaces", f"HANDSHAKE|1.0|local|[HDE  AMST]|{NOW}".encode()),
        ("handshake", "seconds of nine digits", b"HANDSHAKE|1.0|local|[HDE]|999999999"),
        ("handshake", "seconds with a sign", b"HANDSHAKE|1.0|local|[HDE]|+170000000"),
        ("handshake", "a control character", f"HANDSHAKE|1.0|lo\ncal|[HDE]|{NOW}".encode()),
        ("sdk", "version 2", sdk(5, NOW, "r1", "{}").replace(b"\x14\x03", b"\x14\x02")),
        ("sdk", "kind 9", sdk(9, NOW, "r1", "{}")),
        ("sdk", "kind 0", sdk(0, NOW, "r1", "{}")),
        ("sdk", "a payload that is not JSON", sdk(5, NOW, "r1", "{")),
        ("sdk", "an id beyond the end", sdk(5, NOW, "r1", "{}").replace(b"\0\x02r1", b"\xff\x02r1")),
        ("sdk", "bytes left over", struct.pack(">I", 21) + sdk(5, NOW, "r1", "{}")[4:] + b"\0"),
    ]
    return [{"kind": kind, "why": why, "bytes": data.hex()} for kind, why, data in cases]


def xor(old: bytes, new: bytes) -> bytes:
    common = min(len(old), len(new))
    tail = old[common:] if len(old) > len(new) else new[common:]
    return bytes(a ^ b for a, b in zip(old, new)) + tail


def rsync(old: bytes, new: bytes) -> bytes:
    """As v1 does it: by checksums of whole blocks, the last of equal ones counting."""
    whole = range(0, len(old) - BLOCK + 1, BLOCK)
    known = {zlib.adler32(old[place : place + BLOCK]): place for place in whole}
    out = b""
    for place in range(0, len(new), BLOCK):
        block = new[place : place + BLOCK]
        match = known.get(zlib.adler32(block)) if len(block) == BLOCK else None
        if match is not None:
            out += b"\xff" + struct.pack(">I", match)
        else:
            out += b"\0" + struct.pack(">I", len(block)) + block
    return out


def record(block: int, packet: bytes) -> bytes:
    return struct.pack(">II", block, len(packet)) + packet


def payloads() -> dict:
    """What migrations carry, and differences between images."""
    disk = record(7, PACKET) + record(0, PACKET)
    blocks = [(9, b"abcd"), (1, b""), (2, b"xy")]
    plain = struct.pack(">Q", 6) + b"".join(record(block, data) for block, data in blocks)
    memory = struct.pack(">Q", 5) + b"hello"
    good = record(1, PACKET)
    refused = [
        ("records", "a packet longer than the rest", good[:-1]),
        ("records", "a packet shorter than its header", struct.pack(">II", 1, 15) + PACKET[:15]),
        ("records", "a header cut short", good + b"\0\0\0"),
        ("records", "a block that comes twice", good + good),
        ("records", "a packet of an unknown tier", record(1, b"\0\x03" + PACKET[2:])),
        ("disk", "blocks longer than announced", struct.pack(">Q", 5) + plain[8:]),
        ("disk", "blocks shorter than announced", struct.pack(">Q", 7) + plain[8:]),
        ("disk", "more than any disk", b"\xff" * 8 + plain[8:]),
        ("disk", "a block that comes twice", struct.pack(">Q", 4) + record(1, b"ab") * 2),
        ("disk", "a block over the limit", struct.pack(">QII", 1 << 25, 0, (16 << 20) + 1)),
        ("memory", "shorter than announced", memory[:-1]),
        ("memory", "longer than announced", memory + b"!"),
        ("memory", "more than any memory", b"\xff" * 8 + b"hello"),
        ("rsync", "an unknown piece", b"\x01\0\0\0\0"),
        ("rsync", "fresh bytes that are not there", b"\0\0\0\0\x03ab"),
        ("rsync", "fresh bytes over a block", b"\0\0\0\x10\x01" + bytes(4097)),
        ("rsync", "a place cut short", b"\xff\0\0"),
    ]
    return {
        "about": "Disk records, plain memory and disks, xor and rsync differences; see generate_v1.py",
        "records": [{"bytes": disk.hex(), "blocks": [7, 0], "packet": PACKET.hex()}],
        "disks": [
            {"bytes": plain.hex(), "blocks": [{"id": block, "data": data.hex()} for block, data in blocks]}
        ],
        "memories": [{"bytes": memory.hex(), "data": b"hello".hex()}],
        "xor": differences(xor),
        "rsync": differences(rsync) + [spelled_rsync()],
        "refused": [{"kind": kind, "why": why, "bytes": data.hex()} for kind, why, data in refused],
    }


def differences(between) -> list[dict]:
    old = [("00ff10", 9000), ("41", 12_288), ("", 0), ("61", 3)]
    made = []
    for (pattern, length), tail in zip(old, ["7a7a", "", "6162", ""]):
        before = content(pattern, length) if pattern else b""
        for cut in {length, length // 2}:
            after = before[:cut] + bytes.fromhex(tail)
            delta = between(before, after)
            case = {"pattern": pattern, "bytes": length, "cut": cut, "tail": tail}
            made.append(case | {"delta": delta.hex()})
    return made


def spelled_rsync() -> dict:
    """The second of two blocks, then three letters."""
    first, second = content("61", BLOCK), content("62", BLOCK)
    delta = rsync(first + second, second + b"xyz")
    spelled(delta, "ff 00001000 00 00000003 78797a")
    return {"old": (first + second).hex(), "new": (second + b"xyz").hex(), "delta": delta.hex()}


def go(value) -> str:
    """JSON as Go writes it; maps must come sorted, objects in the order of their declaration."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def time_of(fraction: str = "", zone: str = "Z") -> str:
    return f"2023-11-14T22:13:20{fraction}{zone}"


def stamp(clock: int, node: str = "node-1") -> dict:
    return {"node": node, "clock": clock, "wall": time_of(".5", "+01:00")}


def counter(**counts: int) -> dict:
    return {"node_id": "node-1", "payload": counts}


def or_set(**adds: list) -> dict:
    return {"node_id": "node-1", "adds": adds, "removes": {}, "clock": len(adds)}


def register(value) -> dict:
    return {"node_id": "node-1", "value": value, "timestamp": stamp(3)}


def or_map(entries: dict) -> dict:
    values = [{"key": key, "type": kind, "data": data} for key, (kind, data) in entries.items()]
    keys = or_set(**{key: [stamp(1)] for key in entries})
    return {"node_id": "node-1", "keys": keys, "values": values}


def replicated() -> list[tuple[str, object]]:
    first = {"id": "node-1-\x01", "element": "a<b", "timestamp": stamp(1)}
    second = {"id": "node-1-\x02", "element": {"n": 1}, "left_origin": "node-1-\x01", "timestamp": stamp(2)}
    multi = [{"timestamp": stamp(1), "value": None}, {"timestamp": stamp(2, "é"), "value": [1, "x"]}]
    return [
        ("g_counter", counter(a=1, b=(1 << 64) - 1)),
        ("pn_counter", {"node_id": "node-1", "pos": counter(a=1), "neg": counter()}),
        ("g_set", ["b", "a", "&\u2028"]),
        ("2p_set", {"added": ["a", "b"], "removed": []}),
        ("or_set", or_set(x=[stamp(1), stamp(2)], y=[])),
        ("lww_register", register("tab\tquote\"back\\bell\x07bs\bff\f")),
        ("mv_register", {"node_id": "node-1", "values": multi, "vector_clock": {"node-1": 2}}),
        ("or_map", or_map({"k": ("lww_register", register(True)), "u": ("unknown", {})})),
        ("rga", {"node_id": "node-1", "sequence": [first, second], "tombstones": ["node-1-\x01"], "clock": 2}),
        ("rga", {"node_id": "", "sequence": [], "tombstones": [], "clock": 0}),
    ]


def sync_messages() -> list[dict]:
    digest = {
        "node_id": "node-2",
        "vector_clock": {"node-1": 4, "node-2": 9},
        "checksums": {"vm-1": "0123456789abcdef" * 4},
        "timestamp": time_of(".000000001"),
    }
    update = {
        "key": "vm-1",
        "type": "g_counter",
        "data": counter(a=1),
        "vector_clock": {},
        "timestamp": time_of(),
    }
    gossip = {
        "id": "1700000000000000001",
        "update": update,
        "hops": 1,
        "ttl": 10,
        "timestamp": time_of(),
        "path": ["node-1", "node-2"],
    }
    payload_of = {
        "DIGEST_REQUEST": None,
        "STATES_REQUEST": ["a", "b"],
        "STATES_RESPONSE": {"a": counter(x=2), "b": ["m"]},
        "GOSSIP": gossip,
        "ANTI_ENTROPY_DIGEST": digest,
        "ANTI_ENTROPY_DIGEST_RESPONSE": digest,
        "ANTI_ENTROPY_ACK": None,
    }
    return [
        {
            "id": "1700000000000000000",
            "type": kind,
            "sender_id": "node-1",
            "receiver_id": "node-2",
            "vector_clock": {"node-1": 4},
            "payload": payload,
            "timestamp": time_of(".123456789", "-05:30"),
        }
        for kind, payload in payload_of.items()
    ]


def cluster() -> tuple[dict, dict, dict]:
    machine = {
        "id": "vm-1",
        "status": "running",
        "node_id": "node-1",
        "cpu_cores": 4,
        "memory_mb": 8192,
        "disk_gb": 40,
        "ip_address": "10.0.0.7",
        "created_at": "0001-01-01T00:00:00Z",
        "updated_at": time_of(),
        "metadata": {"a": 1, "b": None},
    }
    node = {
        "id": "node-1",
        "region": "eu",
        "status": "active",
        "cpu_usage": 0.25,
        "memory_usage": 100,
        "disk_usage": 0.1234567890123456,
        "vm_count": 1,
        "last_heartbeat": time_of(),
        "updated_at": time_of(),
    }
    document = {
        "node_id": "node-1",
        "vm_states": or_map({"vm-1": ("lww_register", register(go(machine)))}),
        "node_status": or_map({"node-1": ("lww_register", register(go(node)))}),
        "assignments": or_map({"vm-1": ("lww_register", register("node-1"))}),
        "counters": {"node_id": "node-1", "pos": counter(a=3), "neg": counter()},
        "resources": or_map({}),
    }
    return document, machine, node


FLAGS = {
    "enableV3Transport": True,
    "enableV3Compression": True,
    "enableV3Prediction": False,
    "enableV3StateSync": False,
    "enableV3Consensus": False,
    "enableV3Placement": False,
    "v3RolloutPercentage": 25,
    "forceV1Mode": False,
    "enableHybridMode": True,
    "enableModeDetection": True,
}
HASHES = {"node-1": (0x54C43383, 87), "node-2": (0x55C43516, 6), "node-3": (0x56C436A9, 25), "": (0x811C9DC5, 61)}
# Numbers with a fraction, and what Go makes of them.
FLOATS = {
    "0": "0",
    "-0.0": "-0",
    "1.0": "1",
    "0.1": "0.1",
    "100": "100",
    "0.000001": "0.000001",
    "9.99e-7": "9.99e-7",
    "1e-10": "1e-10",
    "5e-324": "5e-324",
    "123456789012345680000": "123456789012345680000",
    "1e21": "1e+21",
    "1.7976931348623157e308": "1.7976931348623157e+308",
    "-2.5e22": "-2.5e+22",
    "0.30000000000000004": "0.30000000000000004",
    "9007199254740993": "9007199254740992",
}


def fnv(name: str) -> int:
    value = 0x811C9DC5
    for byte in name.encode():
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
    return value


def documents() -> dict:
    """Flags, queue pairs, and what nodes tell each other of their state."""
    metadata, machine, node = cluster()
    pair = {"LID": 65535, "QPNum": 291, "PSN": 0xABCDEF, "GID": [254, 128] + [0] * 12 + [1, 255]}
    assert all((fnv(name), fnv(name) % 100) == expected for name, expected in HASHES.items())
    return {
        "about": "Flags, RDMA queue pairs, state synchronisation, as v1's JSON; see generate_v1.py",
        "flags": [{"text": json.dumps(FLAGS, indent=2), "values": FLAGS}],
        "hashes": [{"node": name, "hash": fnv(name), "bucket": fnv(name) % 100} for name in HASHES],
        "queue_pairs": [{"text": go(pair), "values": pair}],
        "messages": [{"text": go(message), "type": message["type"]} for message in sync_messages()],
        "replicated": [{"type": kind, "text": go(value)} for kind, value in replicated()],
        "clusters": [{"text": go(metadata), "machine": go(machine), "node": go(node)}],
        "floats": [{"text": text, "written": written} for text, written in FLOATS.items()],
        "times": times(),
        "compact": compact(),
        "refused": refused_documents(),
    }


def times() -> list[dict]:
    moments = [(NOW, 0, ""), (NOW, 500_000_000, ".5"), (NOW, 1, ".000000001"), (NOW, 120_000_000, ".12")]
    made = [{"seconds": s, "nanoseconds": n, "text": time_of(fraction)} for s, n, fraction in moments]
    made.append({"seconds": 253_402_300_799, "nanoseconds": 0, "text": "9999-12-31T23:59:59Z"})
    return made


def compact() -> list[dict]:
    """What v1 makes of JSON that it passes on."""
    cases = {
        '{ "a" : [ 1 ,\t2.50 ] ,\n "b<" : "x y\\" , z" }': '{"a":[1,2.50],"b\\u003c":"x y\\" , z"}',
        ' "\\\\" ': '"\\\\"',
        '["\u2028", "é"]': '["\\u2028","é"]',
    }
    return [{"text": text, "written": written} for text, written in cases.items()]


def refused_documents() -> list[dict]:
    message = go(sync_messages()[0])
    digest = go(sync_messages()[4])
    cases = [
        ("message", "an unknown type", message.replace("DIGEST_REQUEST", "DIGEST")),
        ("message", "a type in other letters", message.replace("DIGEST_REQUEST", "digest_request")),
        ("message", "a payload where there is none", message.replace("null", "[]")),
        ("message", "a field too few", message.replace('"sender_id":"node-1",', "")),
        ("message", "an id that is no number", message.replace("1700000000000000000", "17x")),
        ("message", "a clock below zero", message.replace('{"node-1":4}', '{"node-1":-4}')),
        ("message", "a month too many", message.replace("2023-11", "2023-13")),
        ("message", "a time without a zone", message.replace("-05:30", "")),
        ("message", "a day that February has not", message.replace("11-14", "02-29")),
        ("message", "two documents", message + message),
        ("message", "cut short", message[:-1]),
        ("message", "a checksum too short", digest.replace("0123456789abcdef", "0123456789abcde", 1)),
        ("message", "a checksum in capitals", digest.replace("abcdef", "ABCDEF", 1)),
        ("g_counter", "a count that is no whole number", '{"node_id":"a","payload":{"a":1.5}}'),
        ("g_counter", "a count over 64 bits", '{"node_id":"a","payload":{"a":18446744073709551616}}'),
        ("g_set", "a member that is no text", '["a",1]'),
        ("g_counter", "a list of its fields' values", '["a",{"a":1}]'),
        ("lww_register", "a list within", go(register(1)).replace(go(stamp(3)), go(list(stamp(3).values())))),
        ("map", "an unknown type's name", "{}"),
        ("queue_pair", "a list of its fields' values", "[0,1,2,[" + "0," * 15 + "0]]"),
        ("queue_pair", "a GID as text", '{"LID":0,"QPNum":1,"PSN":2,"GID":"AAAA"}'),
        ("queue_pair", "a LID over 16 bits", '{"LID":65536,"QPNum":1,"PSN":2,"GID":[' + "0," * 15 + "0]}"),
        ("queue_pair", "a number of 25 bits", '{"LID":1,"QPNum":16777216,"PSN":2,"GID":[' + "0," * 15 + "0]}"),
        ("flags", "a flag that is a number", '{"forceV1Mode":1}'),
        ("flags", "a list", "[]"),
        ("flags", "nothing", ""),
    ]
    return [{"kind": kind, "why": why, "text": text} for kind, why, text in cases]


def main() -> None:
    folder = pathlib.Path(__file__).parent
    files = {"v1_frames.json": frames(), "v1_payloads.json": payloads(), "v1_json.json": documents()}
    for name, vectors in files.items():
        (folder / name).write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
