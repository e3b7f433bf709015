#!/usr/bin/env python3
"""gpu_programs_test.py --with-fakes FILE... --without FILE...

Programs that go to a machine with a GPU have nothing of the fakes of CUDA and NCCL: they define no symbol of those libraries,
which the dynamic linker could take in place of NVIDIA's, need none at their start, and do not know where a fake lies. Files
that do have something of the fakes show that this test would see it.
"""

import argparse
import re
import subprocess

THEIRS = re.compile(r"(cu[A-Z]\w+|nccl[A-Z]\w+|fake_(cuda|nccl)\w*)")


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def traces_of_fakes(path):
    found = []
    for table in ([], ["-D"]):
        for line in run("nm", "--format=posix", *table, path).splitlines():
            name = line.split()[0].split("@")[0]
            if THEIRS.fullmatch(name):
                found.append(f"the symbol {line.strip()}")
    for line in run("objdump", "-p", path).splitlines():
        if "NEEDED" in line and re.search(r"cuda|nccl", line):
            found.append(line.strip())
    with open(path, "rb") as file:
        if re.search(rb"libfake_|fake_cuda_|fake_nccl_", file.read()):
            found.append("the name of a fake among its bytes")
    return found


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--with-fakes", nargs="+", required=True)
    options.add_argument("--without", nargs="+", required=True)
    arguments = options.parse_args()
    wrong = [f"{path} has {trace}" for path in arguments.without for trace in traces_of_fakes(path)]
    wrong += [f"{path} has fakes, and nothing of them was seen" for path in arguments.with_fakes if not traces_of_fakes(path)]
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
