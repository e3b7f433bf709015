#!/usr/bin/env python3
"""Makes the bundle of scripts/gpu-bundle of what that has built and fetched.

  gpu_bundle.py list --build BUILD         names of the CTest entries of the label gpu
  gpu_bundle.py make --build BUILD --tarball FILE --wheels DIR --output FILE

A test's programs are its command and the files that its property REQUIRED_FILES names; all of them lie in one folder there,
so a program finds a helper beside itself.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "scripts", "lib"))

import release_tarball  # noqa: E402
import shared_objects  # noqa: E402
from checks import place  # noqa: E402

LIMIT_BYTES = 60 << 20  # so that it travels where 64 MiB may
OLDEST_GLIBC = "2.35"
FILES = ("tests/support/checkpoints.py", "tests/support/standin_common.py", "tests/support/standin_sglang.py",
         "tests/support/torch_rank.py", "tests/support/gates.py", "tests/e2e/harness.py")


def copy(source, target, mode=0o644):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(source, target)
    os.chmod(target, mode)


def install_contract(tests, top):
    """The programs of `tests` and their libraries; returns tests.json's value, with commands relative to bin/."""
    entries, programs = [], {}
    for test in tests:
        for path in [test["command"][0], *test["files"]]:
            if programs.setdefault(os.path.basename(path), path) != path:
                raise shared_objects.Failed(f"two programs of contract suites are named {os.path.basename(path)}")
        entries.append({"name": test["name"], "seconds": test["seconds"], "files": [],
                        "command": [os.path.basename(test["command"][0]), *test["command"][1:]]})
    os.makedirs(os.path.join(top, "bin"))
    libraries = shared_objects.to_bundle([path for path in programs.values() if shared_objects.is_elf(path)])
    for name, path in programs.items():
        target = os.path.join(top, "bin", name)
        if not shared_objects.is_elf(path):
            copy(path, target, 0o755)
            continue
        shared_objects.install(path, target, "$ORIGIN/../lib")
        newer = shared_objects.newer_than(shared_objects.versions_needed(target), "GLIBC", OLDEST_GLIBC)
        if newer:
            raise shared_objects.Failed(f"{name} needs a newer glibc than {OLDEST_GLIBC}: {'; '.join(newer)}")
    shared_objects.install_libraries(libraries, os.path.join(top, "lib"))
    shared_objects.install_licences([shared_objects.package_of(path) for path in libraries.values()],
                                    os.path.join(top, "licences"))
    with open(os.path.join(top, "tests.json"), "w", encoding="utf-8") as file:
        json.dump(entries, file, indent=2)
    return entries


def commit():
    done = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else None


def stage(top, tests, tarball, wheels):
    copy(tarball, os.path.join(top, os.path.basename(tarball)))
    copy(os.path.join(ROOT, "scripts", "gpu-check"), os.path.join(top, "gpu-check"), 0o755)
    copy(os.path.join(ROOT, "docs", "gpu.md"), os.path.join(top, "README.md"))
    for package in ("checks", "gpu_check"):
        folder = os.path.join(ROOT, "scripts", "lib", package)
        for name in os.listdir(folder):
            if name.endswith(".py"):
                copy(os.path.join(folder, name), os.path.join(top, "lib", package, name))
    for name in FILES:
        copy(os.path.join(ROOT, name), os.path.join(top, name))
    names = []
    for folder in sorted(os.listdir(wheels)):
        if os.path.isdir(os.path.join(wheels, folder)):
            for name in sorted(os.listdir(os.path.join(wheels, folder))):
                copy(os.path.join(wheels, folder, name), os.path.join(top, "wheels", folder, name))
                names.append(f"{folder}/{name}")
    entries = install_contract(tests, os.path.join(top, "contract"))
    about = {"format": 1, "ckptd": os.path.basename(tarball), "commit": commit(),
             "contract": [each["name"] for each in entries], "wheels": names}
    with open(os.path.join(top, "bundle.json"), "w", encoding="utf-8") as file:
        json.dump(about, file, indent=2)


def make(tests, tarball, wheels, output):
    with tempfile.TemporaryDirectory(prefix="ckptd-bundle-") as folder:
        top = os.path.join(folder, "gpu-bundle")
        os.mkdir(top)
        stage(top, tests, tarball, wheels)
        making = output + ".making"
        with open(making, "wb") as file:
            release_tarball.write_tar(file, top, "gpu-bundle", release_tarball.age())
    size = os.stat(making).st_size
    if size > LIMIT_BYTES:
        os.unlink(making)
        raise shared_objects.Failed(f"the bundle would have {size / (1 << 20):.1f} MiB, {LIMIT_BYTES >> 20} are allowed")
    os.replace(making, output)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("list", "make"))
    parser.add_argument("--build", required=True)
    for name in ("--tarball", "--wheels", "--output"):
        parser.add_argument(name)
    arguments = parser.parse_args()
    try:
        tests = place.tests_of_label_gpu(arguments.build, built=arguments.what == "make")
        if arguments.what == "list":
            for test in tests:
                print(test["name"])
        else:
            make(tests, arguments.tarball, arguments.wheels, arguments.output)
    except shared_objects.Failed as error:
        sys.exit(f"gpu_bundle.py: {error}")


if __name__ == "__main__":
    main()
