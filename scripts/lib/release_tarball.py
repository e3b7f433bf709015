#!/usr/bin/env python3
"""Makes ckptd-VERSION-ARCHITECTURE.tar.gz of a build: programs, the libraries that they need, and what an installation has.

  release_tarball.py --build build/release --output DIR [--cmake CMAKE]

Prints the path of the tarball. The same build gives the same bytes: entries are sorted, owned by root and as old as
SOURCE_DATE_EPOCH or else the last commit. scripts/release builds first; decision 0020 says what is bundled and why.
"""

import argparse
import gzip
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

sys.dont_write_bytecode = True
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "scripts", "lib"))

import shared_objects  # noqa: E402

PREFIX = "/opt/ckptd"  # what the unit in the tarball names
PROGRAMS = ("ckptd", "ckptctl")


def version_of(build):
    with open(os.path.join(build, "CMakeCache.txt"), encoding="utf-8") as file:
        match = re.search(r"^CMAKE_PROJECT_VERSION:STATIC=(.*)$", file.read(), re.MULTILINE)
    if not match:
        raise shared_objects.Failed(f"{build}/CMakeCache.txt names no CMAKE_PROJECT_VERSION")
    return match[1]


def age():
    """Seconds since 1970 that every entry is dated with."""
    if os.environ.get("SOURCE_DATE_EPOCH"):
        return int(os.environ["SOURCE_DATE_EPOCH"])
    done = subprocess.run(["git", "-C", ROOT, "log", "-1", "--format=%ct"], capture_output=True, text=True, timeout=60)
    return int(done.stdout) if done.returncode == 0 else 0


def headers_compiled_in():
    """Packages whose headers are part of the programs: all that the build needs for development."""
    with open(os.path.join(ROOT, "scripts", "debian-packages.txt"), encoding="utf-8") as file:
        return [line.strip() for line in file if line.strip().endswith("-dev")]


def stage(build, cmake, top):
    """What cmake --install would put below PREFIX, with all programs in bin/ and their libraries in lib/."""
    with tempfile.TemporaryDirectory(prefix="ckptd-stage-") as root:
        shared_objects.run(cmake, "--install", build, "--prefix", PREFIX, env={**os.environ, "DESTDIR": root})
        shutil.move(root + PREFIX, top)
        shutil.move(root + "/etc", os.path.join(top, "etc"))
    for folder in ("bin", "sbin"):
        shutil.rmtree(os.path.join(top, folder))
    os.mkdir(os.path.join(top, "bin"))
    built = {name: os.path.join(build, "bin", name) for name in PROGRAMS}
    for name, path in built.items():
        shared_objects.install(path, os.path.join(top, "bin", name), "$ORIGIN/../lib")
    libraries = shared_objects.to_bundle(built.values())
    shared_objects.install_libraries(libraries, os.path.join(top, "lib"))
    packages = [shared_objects.package_of(path) for path in libraries.values()] + headers_compiled_in()
    shared_objects.install_licences(packages, os.path.join(top, "licences"))

    unit = os.path.join(top, "lib", "systemd", "system", "ckptd.service")
    with open(unit, encoding="utf-8") as file:
        text = file.read()
    with open(unit, "w", encoding="utf-8") as file:
        file.write(text.replace(PREFIX + "/sbin/", PREFIX + "/bin/"))
    shutil.copyfile(os.path.join(ROOT, "packaging", "tarball", "README.md"), os.path.join(top, "README.md"))


def entry(info, date):
    info.uid = info.gid = 0
    info.uname = info.gname = "root"
    info.mtime = date
    info.mode = 0o755 if info.isdir() or info.mode & 0o100 else 0o644
    return info


def write_tar(stream, top, name, date):
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        tar.add(top, name, filter=lambda info: entry(info, date))  # TarFile.add() sorts each directory


def write_tarball(path, top, name, date):
    with open(path, "wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=date) as stream:
        write_tar(stream, top, name, date)


def make(build, output, cmake="cmake"):
    """Returns the tarball's path."""
    name = f"ckptd-{version_of(build)}-{platform.machine()}"
    os.makedirs(output, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="ckptd-tarball-") as folder:
        top = os.path.join(folder, name)
        stage(build, cmake, top)
        making = os.path.join(output, name + ".making")
        write_tarball(making, top, name, age())
        os.replace(making, os.path.join(output, name + ".tar.gz"))
    return os.path.join(output, name + ".tar.gz")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", required=True)
    parser.add_argument("--output", required=True)
    parser.add_argument("--cmake", default="cmake")
    arguments = parser.parse_args()
    try:
        print(make(arguments.build, arguments.output, arguments.cmake))
    except shared_objects.Failed as error:
        sys.exit(f"release_tarball.py: {error}")


if __name__ == "__main__":
    main()
