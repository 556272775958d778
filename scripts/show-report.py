#!/usr/bin/env python3
"""Prints what the two sides of an example migration reported, as tables for people."""

import json
import sys


def mib(count):
    return f"{count / 2**20:,.1f} MiB"


def ms(microseconds):
    return f"{microseconds / 1000:,.1f} ms"


def table(title, rows):
    print(title)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")
    print()


def passes(details):
    print("passes (the guest is paused in the last)")
    print("    pass    pages     zero         wire         time   guest writes          link")
    for each in details:
        print(
            f"    {each['pass']:>4} {each['pages']:>8,} {each['zero_pages']:>8,}"
            f" {mib(each['wire_bytes']):>12} {ms(each['duration_us']):>12}"
            f" {mib(each['dirty_rate_bytes_per_s']):>12}/s"
            f" {mib(each['bandwidth_bytes_per_s']):>11}/s"
        )
    print()


def main():
    with open(sys.argv[1]) as source_file, open(sys.argv[2]) as destination_file:
        source, destination = json.load(source_file), json.load(destination_file)
    report, stopped = source["sent"], source["stopped_at"]
    arrival, later = destination["arrival_proof"], destination["later_proof"]
    table(
        "migration",
        [
            ("status", report["status"]),
            ("total", f"{report['total_ms']:,} ms"),
            ("downtime", f"{report['downtime_ms']:,} ms"),
            ("memory", mib(report["ram_bytes"])),
            ("on the wire", mib(report["wire_bytes"])),
            ("full pages", f"{report['full_pages']:,}"),
            ("zero pages", f"{report['zero_pages']:,}"),
            ("reconnects", report["reconnects"]),
            ("digest", report["digest"]),
        ],
    )
    table("phases", [(name, f"{value:,} ms") for name, value in report["phases"].items()])
    passes(report["pass_details"])
    held = arrival["holds"] and later["holds"]
    table(
        "continuity",
        [
            ("source stopped at write", f"{stopped['writes']:,}"),
            ("destination began at write", f"{arrival['counter']:,}"),
            ("and is now at write", f"{later['counter']:,}"),
            ("pages checked", f"{arrival['pages']:,} stopped, {later['pages']:,} after running"),
            ("proof", "holds" if held else arrival["text"] or later["text"]),
        ],
    )


if __name__ == "__main__":
    main()
