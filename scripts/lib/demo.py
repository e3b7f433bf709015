"""The demo's main job: two versions of a checkpoint into two ranks, every byte compared, and a table at the end.

Run by scripts/demo, which builds and installs; uses the same daemon, stand-in and comparers as the end-to-end tests.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
sys.dont_write_bytecode = True

import harness  # noqa: E402
from harness import checkpoints  # noqa: E402

DEVICES = ("HOST-0", "HOST-1")
GENERATED_BYTES = 300 * 10**6


def size_of(directory):
    return sum(os.stat(path).st_size for path in checkpoints.files_of(directory))


def available_memory():
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def memcpy_peak():
    """Bytes a second of one thread's memcpy between touched memory, measured now."""
    return float(subprocess.run([os.path.join(harness.BIN_DIR, "memcpy_peak")], check=True, capture_output=True,
                                text=True, timeout=120).stdout)


def prepare(arguments, scratch):
    """The first version's directory, made if none was given, and a second one whose every byte differs."""
    first = arguments.checkpoint
    if not first:
        first = os.path.join(scratch, "llama")
        print(f"checkpoint: generated, Llama-shaped, {GENERATED_BYTES / 1e6:.0f} MB in 4 shards")
        checkpoints.make_llama(first, GENERATED_BYTES)
    size = size_of(first)
    print(f"checkpoint: {first}, {size / 1e6:.1f} MB")
    if shutil.disk_usage(scratch).free < size * 1.05:
        sys.exit(f"demo: the second version needs {size / 1e9:.1f} GB in {scratch}; set TMPDIR to a larger file system")
    print("making a second version with other values")
    return first, checkpoints.make_second(first, os.path.join(scratch, "second")), size


def compare(engine, directory):
    """Every tensor of every rank against the files, byte for byte; ends the demo when anything differs."""
    for device, verdict in engine.post("/standin/compare", checkpoint=directory).items():
        if not verdict.get("equal"):
            sys.exit(f"demo: {device} differs from {directory}: {verdict.get('difference') or verdict}")
        print(f"  {device}: {verdict['tensors']} tensors, {verdict['bytes']} bytes, all equal")


def run_version(daemon, engine, version, directory):
    """Loads, updates and compares one version; returns its rows of the table."""
    loaded = daemon.must("load", f"demo@{version}", directory)["result"]
    updated = daemon.must("update", f"demo@{version}")["result"]
    print(f"demo@{version}: loaded and pushed, comparing")
    compare(engine, directory)
    push = updated["engines"][0]
    rows = [(f"demo@{version}", "disk to memory, hashed", loaded["bytes"], loaded["read_seconds"])]
    rows += [("", f"memory to rank on {lane['device']}", lane["bytes"], lane["push_seconds"]) for lane in push["lanes"]]
    rows.append(("", "whole update, all ranks", push["bytes"] * len(push["lanes"]), updated["seconds"]))
    return rows


def print_table(rows, peak):
    print(f"\n{'version':10} {'stage':28} {'bytes':>13} {'seconds':>9} {'GB/s':>7} {'of memcpy':>10}")
    for version, stage, size, seconds in rows:
        rate = size / seconds if seconds else 0
        print(f"{version:10} {stage:28} {size:13,} {seconds:9.3f} {rate / 1e9:7.2f} {rate / peak:9.0%}")
    print(f"{'':10} {'memcpy, one thread':28} {'':13} {'':9} {peak / 1e9:7.2f}")


def leave(number, _frame):
    """Ends the demo through its clean-up, which a second signal must not cut short."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", choices=("torch", "reference"), required=True)
    parser.add_argument("--checkpoint")
    arguments = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, leave)

    scratch = tempfile.mkdtemp(prefix="ckptd-demo-")
    daemon = engine = None
    try:
        first, second, size = prepare(arguments, scratch)
        print("worker: " + ("the unmodified checkpoint_engine.worker of PyPI on CPU torch" if arguments.worker == "torch"
                            else "the C++ reference rank"))
        both_fit = available_memory() > 6 * size
        budget = size * (2 if both_fit else 1) + size // 8 + (64 << 20)
        daemon = harness.Daemon({"": {"log_level": "info"}, "store": {"budget": str(budget), "lock": "try"},
                                 "push": {}})
        daemon.start()
        engine = harness.Engine(DEVICES, ranks=arguments.worker)
        daemon.must("engine", "add", "sglang-0", "--kind", "sglang", "--endpoint", engine.endpoint, "--checkpoint", "demo")
        peak = memcpy_peak()
        rows = run_version(daemon, engine, 1, first)
        if not both_fit:
            daemon.must("evict", "demo@1")
        rows += run_version(daemon, engine, 2, second)
        print_table(rows, peak)
        print(f"\nEvery tensor of both ranks equals the files, for both versions ({arguments.worker} worker).")
    except (AssertionError, OSError, subprocess.SubprocessError) as error:
        for part in (daemon, engine):
            if part:
                print(f"---- log of {type(part).__name__.lower()}\n{part.log()}", file=sys.stderr)
        sys.exit(f"demo: {error}")
    finally:
        for part in (engine, daemon):
            if part:
                part.close()
        shutil.rmtree(scratch, ignore_errors=True)


if __name__ == "__main__":
    main()
