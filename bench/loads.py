#!/usr/bin/env python3
"""Compares loads by ckptd with fio and with PyPI packages, and tells what a load costs its neighbours.

usage: loads.py --programs DIR [--python PYTHON] [--directory DIR] [--bytes 2GiB] [--rounds 5] [--only cold,warm,...]
                [--drop-caches] [--json FILE]

Rounds are interleaved: in each, everybody loads the same files once, one after the other, in an order that changes. What
is compared is the median, over the rounds, of the ratio of ckptd's rate to the other's in the same round. Every process
lives through all rounds and its first load, into memory that nobody touched, is told on its own: afterwards ckptd has
its segments, and the others their heap (glibc is told to keep it: MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_).

  cold   the files are dropped from the page cache before each load; fio reads the same files with O_DIRECT in a fixed
         set of ways, and the one with the best median is what counts
  warm   the files are read into the page cache before each load
  tmpfs  the files lie in /dev/shm
  hash   cold and warm loads by ckptd with and without digests
  guest  a neighbour that lives on memory bandwidth, beside loads in a loop: unlimited, at half of their rate, and with
         nice 19 and idle I/O; and beside fio

ckptd hashes all that it reads (but in `hash`), the others do not.
"""

import argparse
import contextlib
import glob
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
import checkpoints  # noqa: E402

PACKAGES = ["safetensors-pread", "safetensors-clone", "runai", "fastsafetensors"]
# (bytes of a read, reads under way, processes)
FIO_WAYS = [("1m", 16, 1), ("4m", 8, 1), ("8m", 8, 1), ("1m", 8, 2), ("512k", 32, 1)]
GUEST_SECONDS = 4
ROUND_SECONDS = 600  # nobody takes longer for one load


def files_in(directory):
    return sorted(glob.glob(os.path.join(glob.escape(directory), "*.safetensors")))


def total_bytes(directory):
    return sum(os.path.getsize(path) for path in files_in(directory))


def drop_from_page_cache(directory, everything):
    for path in files_in(directory):
        descriptor = os.open(path, os.O_RDONLY)
        os.fdatasync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)
    if everything:
        with open("/proc/sys/vm/drop_caches", "w") as file:
            file.write("1")


def read_into_page_cache(directory, _everything):
    buffer = bytearray(8 << 20)
    for path in files_in(directory):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


# ---- contenders -----------------------------------------------------------------------------------------------------


class Worker:
    """A process that loads once for each line and answers with JSON."""

    def __init__(self, name, command, environment=None):
        self.name = name
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                        env={**os.environ, **(environment or {})})

    def load(self):
        try:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass
        line = self.process.stdout.readline()
        if not line:
            self.log.seek(0)
            raise RuntimeError(f"{self.name} ended with {self.process.wait(timeout=60)}: {self.log.read()[-1000:]}")
        return json.loads(line)

    def close(self):
        with contextlib.suppress(BrokenPipeError):  # it ended before us
            self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Fio:
    def __init__(self, directory, way):
        self.block, self.depth, self.jobs = way
        self.name = f"fio {self.block} x {self.depth}" + (f", {self.jobs} processes" if self.jobs > 1 else "")
        self.files = files_in(directory)

    def command(self, *more):
        command = ["fio", "--output-format=json", "--ioengine=io_uring", "--direct=1", "--rw=read", f"--bs={self.block}",
                   f"--iodepth={self.depth}", "--file_service_type=sequential", *more]
        for job in range(self.jobs):
            own = [path.replace(":", "\\:") for path in self.files[job::self.jobs]]
            if own:
                command += [f"--name=job{job}", "--filename=" + ":".join(own)]
        return command

    def load(self):
        output = subprocess.run(self.command(), check=True, capture_output=True, text=True, timeout=ROUND_SECONDS).stdout
        jobs = json.loads(output[output.index("{"):])["jobs"]
        milliseconds = [job["read"]["runtime"] for job in jobs]
        return {
            "seconds": max(milliseconds) / 1000,
            "core_seconds": sum((job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000 for job in jobs),
            "bytes": sum(job["read"]["io_bytes"] for job in jobs),
        }

    def close(self):
        pass


def ckptd(arguments, directory, name="ckptd", *more):
    return Worker(name, [os.path.join(arguments.programs, "bench_load"), directory, "--on-demand", *more])


def package(arguments, directory, name):
    script = os.path.join(ROOT, "bench", "load_with.py")
    return Worker(name, [arguments.python, script, name, directory],
                  {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 62), "MALLOC_ARENA_MAX": "1"})


# ---- rounds ---------------------------------------------------------------------------------------------------------


def interleave(contenders, rounds, prepare):
    """name -> the answers of the first round and of all others; a contender that fails is left out and said so."""
    answers, failed = {each.name: [] for each in contenders}, {}
    for number in range(rounds + 1):
        # In another order each time: whoever follows a heavy load is not always the same.
        for each in random.Random(number).sample(contenders, len(contenders)):
            if each.name in failed:
                continue
            prepare()
            try:
                answers[each.name].append(each.load())
            except (RuntimeError, OSError, ValueError, subprocess.SubprocessError) as error:
                failed[each.name] = str(error)
                print(f"{each.name} left out: {error}", file=sys.stderr)
    for name in failed:
        del answers[name]
    return answers


def rate(answer):
    return answer["bytes"] / answer["seconds"]


def median_rate(answers):
    return statistics.median(rate(each) for each in answers[1:])


def summary(answers, measured="ckptd"):
    rows = {}
    for name, each in answers.items():
        pairs = [rate(own) / rate(other) for own, other in zip(answers[measured][1:], each[1:])]
        rows[name] = {
            "bytes_per_second": median_rate(each),
            "core_seconds_per_gb": statistics.median(one["core_seconds"] / one["bytes"] * 1e9 for one in each[1:]),
            "first_bytes_per_second": rate(each[0]),
            "ratio": statistics.median(pairs),
            "ratios": pairs,
        }
    return rows


def table(title, rows, measured="ckptd"):
    print(f"\n### {title}\n")
    print(f"| | GB/s | core-s/GB | first load, untouched, GB/s | {measured} / this |")
    print("|---|---:|---:|---:|---:|")
    for name, row in sorted(rows.items(), key=lambda item: -item[1]["bytes_per_second"]):
        ratio = "" if name == measured else f"{row['ratio']:.2f} ({min(row['ratios']):.2f} to {max(row['ratios']):.2f})"
        first = "" if name.startswith("fio") else f"{row['first_bytes_per_second'] / 1e9:.2f}"
        print(f"| {name} | {row['bytes_per_second'] / 1e9:.2f} | {row['core_seconds_per_gb']:.3f} | {first} | {ratio} |")
    sys.stdout.flush()


@contextlib.contextmanager
def closing(contenders):
    try:
        yield contenders
    finally:
        for each in contenders:
            each.close()


def compare(arguments, title, directory, contenders, prepare, measured="ckptd"):
    with closing(contenders):
        answers = interleave(contenders, arguments.rounds, lambda: prepare(directory, arguments.drop_caches))
    ways = [name for name in answers if name.startswith("fio")]
    best = max(ways, key=lambda name: median_rate(answers[name]), default=None)
    rows = summary(answers, measured)
    table(title, rows, measured)
    if best:
        print(f"\nBest fio: {best}; ckptd reaches {rows[best]['ratio']:.2f} of it.")
    own = answers[measured][1:]
    if own and "backend" in own[0]:
        cached = statistics.median(each["cached_bytes"] / each["bytes"] for each in own)
        over = max(each["overhead_bytes"] for each in answers[measured])
        print(f"\n{measured}: {own[0]['backend']}, {cached:.0%} from memory, at most {over / 2**20:.0f} MiB beside its segments.")
    return {"rows": rows, "best_fio": best, "answers": answers}


def contenders_for(arguments, directory):
    packages = [] if arguments.python is None else [package(arguments, directory, name) for name in PACKAGES]
    return [ckptd(arguments, directory), *packages]


def cold(arguments, directory):
    ways = [Fio(directory, way) for way in FIO_WAYS]
    return compare(arguments, "cold: from the disk", directory, contenders_for(arguments, directory) + ways,
                   drop_from_page_cache)


def without_digests(arguments, directory):
    """The same work as the packages do: they do not hash, and with few processors that is most of a difference."""
    return ckptd(arguments, directory, "ckptd, no digests", "--no-hash")


def warm(arguments, directory):
    contenders = [*contenders_for(arguments, directory), without_digests(arguments, directory)]
    return compare(arguments, "warm: from the page cache", directory, contenders, read_into_page_cache)


def tmpfs(arguments, directory):
    copy = tempfile.mkdtemp(prefix="ckptd-bench-", dir="/dev/shm")
    try:
        for path in files_in(directory) + glob.glob(os.path.join(glob.escape(directory), "*.json")):
            shutil.copy(path, copy)
        drop_from_page_cache(directory, False)
        contenders = [*contenders_for(arguments, copy), without_digests(arguments, copy)]
        return compare(arguments, "tmpfs", copy, contenders, lambda *_: None)
    finally:
        shutil.rmtree(copy)


def hashing(arguments, directory):
    results = {}
    for name, prepare in (("cold", drop_from_page_cache), ("warm", read_into_page_cache)):
        pair = [ckptd(arguments, directory), without_digests(arguments, directory)]
        results[name] = compare(arguments, f"digests, {name}", directory, pair, prepare)
    return results


# ---- neighbour ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def in_a_loop(command, output):
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.DEVNULL, text=True)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


def measure_neighbour(neighbour, command, is_ready):
    with tempfile.TemporaryFile("w+") as output, contextlib.ExitStack() as stack:
        if command:
            stack.enter_context(in_a_loop(command, output))
            deadline = time.monotonic() + ROUND_SECONDS
            while not is_ready(output) and time.monotonic() < deadline:
                time.sleep(0.05)
        neighbour.load()  # begins a new count
        time.sleep(GUEST_SECONDS)
        answer = neighbour.load()
        output.seek(0)
        answer["rounds"] = [json.loads(line) for line in output if line.startswith("{") and line.endswith("}\n")][1:]
        return answer


def touched_its_memory(output):
    return os.fstat(output.fileno()).st_size > 0  # its first round is over


def guest(arguments, directory):
    drop_from_page_cache(directory, arguments.drop_caches)
    own = [os.path.join(arguments.programs, "bench_load"), directory, "--rounds", "1000000"]
    reached = subprocess.run([*own[:2], "--rounds", "4"], check=True, capture_output=True, text=True).stdout
    reached = statistics.median(rate(json.loads(line)) for line in reached.splitlines()[1:])
    half = str(int(reached / 2))
    fio = Fio(directory, FIO_WAYS[0]).command("--time_based=1", "--runtime=1000000")
    conditions = {
        "alone": None,
        "beside loads": own,
        "beside loads at half of their rate": [*own, "--max-bytes-per-second", half],
        "beside loads with nice 19, idle I/O": [*own, "--nice", "19", "--io-priority", "idle"],
        "beside loads at half, nice 19, idle I/O": [*own, "--max-bytes-per-second", half, "--nice", "19",
                                                    "--io-priority", "idle"],
        "beside fio": fio,
    }
    answers = {name: [] for name in conditions}
    with closing([Worker("neighbour", [os.path.join(arguments.programs, "bench_neighbour")])]) as (neighbour,):
        for _ in range(arguments.rounds):
            for name, command in conditions.items():
                is_ready = (lambda _: True) if command is fio else touched_its_memory
                answers[name].append(measure_neighbour(neighbour, command, is_ready))
    print("\n### the neighbour of a load\n")
    print("| | neighbour, GB/s | of alone | its worst tenth of a second, of alone | loads, GB/s |")
    print("|---|---:|---:|---:|---:|")
    rows = {}
    for name, measured in answers.items():
        loads = [rate(one) for each in measured for one in each["rounds"]]
        rows[name] = {
            "bytes_per_second": statistics.median(each["bytes_per_second"] for each in measured),
            "of_alone": statistics.median(each["bytes_per_second"] / alone["bytes_per_second"]
                                          for each, alone in zip(measured, answers["alone"])),
            "worst_of_alone": statistics.median(each["worst_bytes_per_second"] / alone["bytes_per_second"]
                                                for each, alone in zip(measured, answers["alone"])),
            "load_bytes_per_second": statistics.median(loads) if loads else None,
        }
        row = rows[name]
        load = f"{row['load_bytes_per_second'] / 1e9:.2f}" if loads else ""
        print(f"| {name} | {row['bytes_per_second'] / 1e9:.2f} | {row['of_alone']:.2f} | {row['worst_of_alone']:.2f} | {load} |")
    return {"rows": rows, "limit_bytes_per_second": int(half)}


# ---- the machine ----------------------------------------------------------------------------------------------------


def first_line(path):
    with contextlib.suppress(OSError), open(path) as file:
        return file.readline().strip()
    return ""


def machine(directory):
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.machine())
    device = os.stat(directory).st_dev
    disk = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    if not os.path.exists(os.path.join(disk, "queue")):
        disk = os.path.dirname(disk)  # of a partition
    return {
        "kernel": platform.release().split("-")[0],
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "disk": first_line(os.path.join(disk, "device", "model")) or os.path.basename(disk).rstrip("0123456789"),
        "disk_scheduler": first_line(os.path.join(disk, "queue", "scheduler")),
        "shmem_huge_pages": first_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled"),
        "file_system": subprocess.run(["stat", "-f", "-c", "%T", directory], capture_output=True, text=True).stdout.strip(),
    }


def available_bytes():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable:"))


def checkpoint(arguments):
    if arguments.directory:
        return os.path.abspath(arguments.directory)
    directory = os.path.join(ROOT, "build", "bench-data", f"llama-{arguments.bytes}")
    if not os.path.exists(os.path.join(directory, "config.json")):
        print(f"making a checkpoint of {arguments.bytes} bytes", file=sys.stderr)
        shutil.rmtree(directory, ignore_errors=True)
        os.makedirs(directory)
        checkpoints.make_llama(directory, arguments.bytes, max(2, round(arguments.bytes / 2**30)))
    return directory


def main():
    parts = {"cold": cold, "warm": warm, "tmpfs": tmpfs, "hash": hashing, "guest": guest}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", required=True, help="where bench_load and bench_neighbour are")
    parser.add_argument("--python", help="a Python that has the packages; without one they are left out")
    parser.add_argument("--directory", help="a checkpoint; without one it is made")
    parser.add_argument("--bytes", type=checkpoints.parse_bytes,
                        help="of the checkpoint that is made; without it a ninth of the free memory, at most 4 GiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(parts))
    parser.add_argument("--drop-caches", action="store_true", help="drops the whole page cache before cold loads too")
    parser.add_argument("--json", help="also writes everything there")
    arguments = parser.parse_args()
    # Whole quarters of a GiB, so that another run finds the same checkpoint.
    arguments.bytes = arguments.bytes or max(1 << 28, min(4 << 30, available_bytes() // 9 >> 28 << 28))
    chosen = arguments.only.split(",")
    if unknown := set(chosen) - set(parts):
        parser.error(f"{', '.join(sorted(unknown))}: choose from {', '.join(parts)}")

    # Everybody keeps what was loaded, and the files are in memory once more.
    needed = arguments.bytes * (len(PACKAGES) + 3)
    if not arguments.directory and needed > available_bytes():
        parser.error(f"--bytes: all contenders together would need {needed / 2**30:.1f} GiB, and {available_bytes() / 2**30:.1f} GiB are free")

    directory = checkpoint(arguments)
    about = machine(directory)
    told = {"machine": about, "bytes": total_bytes(directory), "files": len(files_in(directory)), "rounds": arguments.rounds}
    print(f"Linux {about['kernel']}, {about['cpu']}, {about['cores']} cores, {about['memory_bytes'] / 2**30:.0f} GiB; disk "
          f"{about['disk']} (scheduler {about['disk_scheduler']}), {about['file_system']}; shared memory's huge pages {about['shmem_huge_pages']}; {told['files']} files with "
          f"{told['bytes'] / 1e9:.2f} GB, {arguments.rounds} rounds")
    for name in chosen:
        told[name] = parts[name](arguments, directory)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(told, file, indent=1)


if __name__ == "__main__":
    main()
