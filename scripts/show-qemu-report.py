#!/usr/bin/env python3
"""Prints the report of a relayed migration as a table for people."""

import json
import sys


def mib(count):
    return f"{count / 2**20:,.1f} MiB"


def rows(report):
    yield "status", report["status"]
    yield "guest is at", report["owner"]
    yield "total", f"{report['total_ms']:,.0f} ms"
    yield "downtime", f"{report['downtime_ms']:,.0f} ms"
    for name, value in report["phases"].items():
        yield f"  {name}", f"{value:,.1f} ms"
    yield "guest memory", mib(report["ram_bytes"])
    yield "on the wire", mib(report["wire_bytes"])
    for kind in ("zero", "full", "duplicate", "delta"):
        yield f"{kind} pages", f"{report[f'{kind}_pages']:,}"
    yield "digest", report["digest"]


def main():
    with open(sys.argv[1]) as file:
        table = list(rows(json.load(file)))
    width = max(len(name) for name, _ in table)
    for name, value in table:
        print(f"  {name:<{width}}  {value}")


if __name__ == "__main__":
    main()
