"""The demo's main job: an inference server's whole life beside ckptd, played by a stand-in with two ranks. It appears and
is given its first weights, is updated, is killed and comes back with nothing; every byte is compared each time, and a
table at the end has each stage beside its limit.

Run by scripts/demo, which builds and installs; uses the same daemon, stand-in and comparers as the end-to-end tests.
"""

import argparse
import concurrent.futures
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
sys.dont_write_bytecode = True

import harness  # noqa: E402
from harness import checkpoints  # noqa: E402

DEVICES = ("HOST-0", "HOST-1")
ENGINE = "engine-0"
GENERATED_BYTES = 300 * 10**6


def size_of(directory):
    return sum(os.stat(path).st_size for path in checkpoints.files_of(directory))


def available_memory():
    with open("/proc/meminfo", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))


def plain_read_peak(directory, rounds=3):
    """Bytes a second of reading these files the plain way, the best of some rounds: block after block into memory that
    is touched and larger than a processor's cache, by one thread for each processor. What lies in the page cache comes
    from there, as it does for ckptd."""
    block, blocks, readers = 4 << 20, 64, os.cpu_count()
    pieces = [(path, at) for path in checkpoints.files_of(directory) for at in range(0, os.stat(path).st_size, block)]
    memory = memoryview(bytearray(b"touched!" * (block * blocks // 8)))

    def read(number):
        done = 0
        for place, (path, at) in list(enumerate(pieces))[number::readers]:
            file, to = os.open(path, os.O_RDONLY), place % blocks * block
            done += os.preadv(file, [memory[to:to + block]], at)
            os.close(file)
        return done

    def one_round(pool):
        start = time.monotonic()
        return sum(pool.map(read, range(readers))) / (time.monotonic() - start)

    with concurrent.futures.ThreadPoolExecutor(readers) as pool:
        return max(one_round(pool) for _ in range(rounds))


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


def stage(name, figure, limit, what):
    return {"stage": name, "bytes": figure["bytes"], "seconds": figure["seconds"], "limit": limit, "what": what}


def peaks_of(daemon):
    """What `ckptctl probe` measured: the best copy to each device, and the best hash of one core, in bytes a second."""
    return {peak["stage"] + peak.get("device", ""): peak["bytes_per_second"]
            for peak in daemon.http("GET", "/v1/status")[1]["peaks"]}


def load_version(daemon, version, directory, peaks):
    """Loads it; returns the rows of that, each with the limit of its stage."""
    loaded = daemon.job(daemon.must("load", f"demo@{version}", directory)["id"])["record"]["load"]
    limit = plain_read_peak(directory)  # after the load, which it must not help
    stages = {each["name"]: each for each in loaded["stages"]}
    cached = loaded.get("page_cache_bytes", 0) * 2 > loaded["bytes"]
    rows = [stage("files to memory", stages["read"], limit, f"plain reads, {'page cache' if cached else 'disk'}")]
    rows.append(stage("  hashed", stages["hash"], peaks["hash"], "one core"))
    return rows


def rows_of_update(job, peaks):
    """What a job's record says of its push, each stage with its limit."""
    updated = job["record"]["engines"][0]
    rows = []
    for lane in updated["lanes"]:
        each, device = {each["name"]: each for each in lane["stages"]}, lane["device"]
        rows.append(stage(f"memory to {device}", each["upload"], peaks["copy" + device], "one copy, measured"))
        rows.append(stage("  its rank reloads", each["reload"], None, "the rank's own pace"))
    whole = {"bytes": updated["bytes"] * len(updated["lanes"]), "seconds": updated["seconds"]}
    rows.append(stage("whole update, all ranks", whole, None, "bounded by: " + updated["bounded_by"]))
    return rows


def titled(title, rows):
    return [{**row, "version": "" if number else title} for number, row in enumerate(rows)]


def wait_serving(daemon, version, restarts=0):
    """Until ckptd has brought the server there by itself; returns the job that did."""
    def done():
        about = daemon.engine(ENGINE)
        return (about["state"], about["serving"]) == ("serving", version) and about["restarts"] >= restarts and about

    try:
        harness.wait_until(f"the server to be brought to {version}", done, 120)
    except AssertionError as late:
        raise AssertionError(f"{late}; ckptd says: {json.dumps(daemon.engine(ENGINE))}") from None
    jobs = [job for job in daemon.http("GET", "/v1/jobs")[1]["jobs"] if job["kind"] == "update"]
    newest = daemon.job(max(jobs, key=lambda job: int(job["id"].rsplit("-", 1)[1]))["id"])
    print(f"  {newest['subject']}")
    return newest


def live(daemon, server, first, second, both_fit, peaks):
    """The server's life: returns the table's rows."""
    rows = load_version(daemon, 1, first, peaks)
    print(f"\n{server.kind} appears with dummy weights; ckptd is told of it, and that it should serve demo@1")
    daemon.must("engine", "add", ENGINE, "--kind", server.kind, "--endpoint", server.endpoint, "--checkpoint", "demo",
                "--target", "demo@1")
    rows = titled("demo@1", rows + rows_of_update(wait_serving(daemon, "demo@1"), peaks))
    compare(server, first)

    print("\na second version: ckptctl load, ckptctl update")
    if not both_fit:
        daemon.must("evict", "demo@1")
    loaded = load_version(daemon, 2, second, peaks)
    updated = daemon.job(daemon.must("update", "demo@2")["id"])
    rows += titled("demo@2", loaded + rows_of_update(updated, peaks))
    compare(server, second)

    print(f"\n{server.kind} is killed, and started again with dummy weights; nobody tells ckptd")
    server.kill9()
    killed = time.monotonic()
    server.start_again()
    back = wait_serving(daemon, "demo@2", restarts=1)
    print(f"  serves demo@2 again {time.monotonic() - killed:.1f} s after it was killed, from memory, with no byte read")
    rows += titled("again", rows_of_update(back, peaks))
    compare(server, second)
    return rows


def print_table(rows):
    print(f"\n{'version':8} {'stage':24} {'bytes':>13} {'seconds':>8} {'GB/s':>6} {'limit':>6} {'of it':>6}  the limit is")
    for row in rows:
        rate = row["bytes"] / row["seconds"] if row["seconds"] else 0
        limit = f"{row['limit'] / 1e9:6.2f} {rate / row['limit']:6.0%}" if row["limit"] else f"{'':6} {'':6}"
        print(f"{row['version']:8} {row['stage']:24} {row['bytes']:13,} {row['seconds']:8.3f} {rate / 1e9:6.2f} {limit}  "
              f"{row['what']}")


def leave(number, _frame):
    """Ends the demo through its clean-up, which a second signal must not cut short."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    sys.exit(128 + number)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--worker", choices=("torch", "reference"), required=True)
    parser.add_argument("--engine", choices=("sglang", "vllm"), default="sglang")
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
        engine = harness.Engine(DEVICES, ranks=arguments.worker, kind=arguments.engine)
        daemon.must("probe")
        print_table(live(daemon, engine, first, second, both_fit, peaks_of(daemon)))
        print(f"\nEvery tensor of both ranks equals the files, for both versions and after the restart ({arguments.engine}'s "
              f"stand-in, {arguments.worker} worker).")
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
