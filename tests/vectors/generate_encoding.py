"""Writes encoding.json: page hashes, digests and blocks, computed without the library.

A second implementation, over the reference C code of each algorithm:
    pip install xxhash lz4 zstandard && python3 tests/vectors/generate_encoding.py
"""

import json
import pathlib

import lz4.block
import xxhash
import zstandard

MASK = (1 << 64) - 1


def content(pattern: str, length: int) -> bytes:
    """The pattern (hex), repeated and cut to the length; every reader of the vectors does this."""
    unit = bytes.fromhex(pattern)
    return (unit * (length // len(unit) + 1))[:length]


def page_hash(page: bytes) -> int:
    return xxhash.xxh3_64_intdigest(page) or 1


def avalanche(value: int) -> int:
    value = ((value ^ value >> 30) * 0xBF58476D1CE4E5B9) & MASK
    value = ((value ^ value >> 27) * 0x94D049BB133111EB) & MASK
    return value ^ value >> 31


def lanes(page: int, hash_: int) -> tuple[int, int]:
    place = avalanche(page ^ 0x9E3779B97F4A7C15)
    turned = (hash_ << 32 | hash_ >> 32) & MASK
    return avalanche(hash_ ^ place), avalanche((turned * 0xD6E8FEB86659FD93 + place) & MASK)


def digest(pages: list[tuple[int, int]]) -> str:
    sums = [sum(lane) & MASK for lane in zip(*(lanes(*page) for page in pages))] or [0, 0]
    return "".join(f"{value:016x}" for value in sums)


def checksum(pages: list[tuple[int, int]]) -> str:
    return f"{sum(lanes(*page)[0] for page in pages) & MASK:016x}"


TEXT = b"dwcp page \x00\x01\x02 of a guest; ".hex()
PATTERNS = [("00", 64), ("00", 4096), ("00", 65536), ("ff", 4096), (TEXT, 64), (TEXT, 4096), (TEXT, 16384)]
COUNTING = bytes(range(256)).hex()


def hashes() -> list[dict]:
    cases = PATTERNS + [(COUNTING, length) for length in (64, 128, 256, 512, 1024, 4096)]
    return [
        {"pattern": pattern, "bytes": length, "hash": f"{page_hash(content(pattern, length)):016x}"}
        for pattern, length in cases
    ]


def images() -> list[dict]:
    zero = page_hash(bytes(4096))
    text = page_hash(content(TEXT, 4096))
    lists = [
        [],
        [(0, zero)],
        [(0, zero), (1, zero)],
        [(0, text), (1, zero)],
        [(1, text), (0, zero)],
        [((1 << 34) - 1, text), (7, 1), (8, MASK)],
    ]
    return [
        {
            "pages": [{"page": page, "hash": f"{hash_:016x}"} for page, hash_ in pages],
            "digest": digest(pages),
            "checksum": checksum(pages),
        }
        for pages in lists
    ]


def blocks() -> list[dict]:
    made = []
    for pattern, length in [("00", 4096), (TEXT, 4096), (TEXT, 65536), (COUNTING, 1 << 20)]:
        raw = content(pattern, length)
        case = {"pattern": pattern, "bytes": length}
        made.append({"codec": 1, **case, "payload": lz4.block.compress(raw, store_size=False).hex()})
        for level in (-1, 1, 3, 19):
            packed = zstandard.ZstdCompressor(level=level).compress(raw)
            made.append({"codec": 2, **case, "payload": packed.hex()})
    return made


def refused() -> list[dict]:
    raw = content(TEXT, 4096)
    good = zstandard.ZstdCompressor(level=1).compress(raw)
    sizeless = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(raw)
    lz4_good = lz4.block.compress(raw, store_size=False)
    skippable = bytes.fromhex("502a4d1800000000")
    cases = [
        ("unknown codec", 3, good),
        ("stored payload of another length", 0, raw[:-1]),
        ("lz4 cut short", 1, lz4_good[:-1]),
        ("lz4 with a byte more", 1, lz4_good + b"\0"),
        ("lz4 of half the pages", 1, lz4.block.compress(raw[:2048], store_size=False)),
        ("lz4 empty", 1, b""),
        ("zstd cut short", 2, good[:-1]),
        ("zstd with a byte more", 2, good + b"\0"),
        ("zstd twice", 2, good + good),
        ("zstd without content size", 2, sizeless),
        ("zstd behind a skippable frame", 2, skippable + good),
        ("zstd of half the pages", 2, zstandard.ZstdCompressor(level=1).compress(raw[:2048])),
        ("zstd under the name of lz4", 1, good),
        ("lz4 under the name of zstd", 2, lz4_good),
    ]
    return [
        {"why": why, "codec": codec, "bytes": 4096, "payload": payload.hex()}
        for why, codec, payload in cases
    ]


def main() -> None:
    vectors = {
        "about": "Page hashes, image digests, chunk checksums and blocks; see generate_encoding.py",
        "hashes": hashes(),
        "images": images(),
        "blocks": blocks(),
        "refused": refused(),
    }
    path = pathlib.Path(__file__).with_name("encoding.json")
    path.write_text(json.dumps(vectors, indent=1) + "\n")


if __name__ == "__main__":
    main()
