#!/usr/bin/env python3
"""How soon an update's first bucket is ready, through the real daemon, its socket and its journal.

usage: updates.py --programs DIR [--model qwen3-30b-a3b] [--scale 0.02] [--rounds 15] [--json FILE]

Two versions of a model with the true tensor list of --model are resident. They are pushed in turn to a stand-in engine
on one host device, whose rank is a process that maps the arena and only acknowledges. The first update finds no arena;
all others find it kept. What is told, in milliseconds from the request's arrival: when the first bucket lay in the
arena, ready to be announced; then, each by itself, what nobody but others can shorten (the engine's answer to the ping,
the rank's way to its session) and the journal's two writes to the disk; and the whole update. Medians, and the worst.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

MEGABYTE = 1_000_000


def milliseconds_of(job):
    """The figures of one update, from its result and its record."""
    (engine,) = job["result"]["engines"]
    (record,) = job["record"]["engines"]
    steps = {}
    for step in record["steps"]:
        steps[step["name"]] = steps.get(step["name"], 0) + step["seconds"] * 1000
    return {
        "first bucket ready": engine["first_bucket_seconds"] * 1000,
        "ping of the engine": steps.get("ping", 0),
        "journal": steps.get("journal", 0),
        "rank connects": engine["connect_seconds"] * 1000,
        "arena": steps.get("arena", 0),
        "plan": steps.get("plan", 0),
        "whole update": engine["seconds"] * 1000,
    }


def measure(arguments, scratch):
    import harness  # its programs are those of CKPTD_BIN_DIR, which is set by now

    sys.path.insert(0, os.path.join(ROOT, "bench"))
    import models

    first = os.path.join(scratch, "first")
    tensors = models.tensors_of(arguments.model, arguments.scale)
    size = models.write(first, tensors)
    second = harness.checkpoints.make_second(first, os.path.join(scratch, "second"))
    daemon = engine = None
    try:
        daemon = harness.Daemon({
            "": {"log_level": "info"}, "device": {"host_devices": 1}, "push": {"bucket": "auto"},
            "store": {"budget": str(2 * size + size // 4 + 256 * 2**20)},
        }).start()
        rank = f"{harness.REFERENCE_RANK} --device HOST-0 --acknowledge-only"
        engine = harness.Engine(("HOST-0",), rank_commands=[rank])
        daemon.add_engine("e", engine, "m", ("HOST-0",))
        daemon.load("m@1", first)
        daemon.load("m@2", second)
        updates = []
        for number in range(arguments.rounds + 1):
            job = daemon.must("update", f"m@{number % 2 + 1}")
            updates.append(milliseconds_of(daemon.job(job["id"])))
        return {"model": arguments.model, "scale": arguments.scale, "tensors": len(tensors), "bytes": size,
                "rounds": arguments.rounds, "first": updates[0], "kept": updates[1:]}
    finally:
        for part in (engine, daemon):
            if part:
                part.close()


def show(result):
    print(f"\n### a second update, its arena kept: {result['model']} at scale {result['scale']}, {result['tensors']:,} "
          f"tensors, {result['bytes'] / MEGABYTE:,.0f} MB\n")
    print("| ms | median | worst | first update, no arena yet |")
    print("|---|---:|---:|---:|")
    for name, first in result["first"].items():
        values = [update[name] for update in result["kept"]]
        print(f"| {name} | {statistics.median(values):.1f} | {max(values):.1f} | {first:.1f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", required=True)
    parser.add_argument("--model", default="qwen3-30b-a3b")
    parser.add_argument("--scale", type=float, default=0.02)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    os.environ["CKPTD_BIN_DIR"] = os.path.abspath(arguments.programs)
    sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
    with tempfile.TemporaryDirectory(prefix="ckptd-bench-") as scratch:
        result = measure(arguments, scratch)
    show(result)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(result, file, indent=1)


if __name__ == "__main__":
    main()
