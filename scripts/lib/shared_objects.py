"""Programs and the shared libraries that travel with them: which they are, whose they are, and how one finds the other.

Needs ldd, readelf and strip (Debian: libc-bin, binutils), patchelf, and dpkg for the licences.
"""

import os
import re
import shutil
import subprocess

# What every target has, and has to have from its own system:
# - glibc, because the loader of the target and its libc belong together;
# - libstdc++ and libgcc_s: those of Debian 12 need GLIBC_2.36, those of Ubuntu 22.04 (GLIBCXX_3.4.30) are new enough;
# - the driver's libraries, because they belong to the kernel module.
OF_THE_SYSTEM = re.compile(
    r"^(ld-linux.*|linux-vdso|lib(c|m|mvec|pthread|dl|rt|resolv|util|anl|nsl|nss_\w+|thread_db|stdc\+\+|gcc_s)|"
    r"libcuda|libnvidia.*)\.so(\.|$)")


class Failed(Exception):
    """Cannot go on; the text says what to do."""


def run(*command, **options):
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300, **options).stdout
    except FileNotFoundError:
        raise Failed(f"{command[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        raise Failed(f"{' '.join(command)}: exit {error.returncode}\n{error.stdout}{error.stderr}") from None


def resolved(program, environment=None):
    """{name: path} of every library that the loader finds for `program`, this moment and in this environment."""
    found = {}
    for line in run("ldd", program, env=environment).splitlines():
        match = re.match(r"\s*(\S+) => (.+?)(?: \(0x[0-9a-f]+\))?$", line)
        if match and match[2] == "not found":
            raise Failed(f"{program} needs {match[1]}, which is not installed")
        if match:
            found[match[1]] = match[2]
    return found


def to_bundle(programs):
    """{name: path} of the libraries that have to travel with `programs`."""
    libraries = {}
    for program in programs:
        libraries.update({name: path for name, path in resolved(program).items() if not OF_THE_SYSTEM.match(name)})
    return libraries


def install(source, target, library_path):
    """Copies a program or library, without what only a debugger reads; it looks for libraries in `library_path` first.

    DT_RPATH and not DT_RUNPATH: LD_LIBRARY_PATH, which images with CUDA or conda set, would go before the latter, and
    the libzmq or libzstd of such an image would be mixed with ours.
    """
    shutil.copyfile(source, target)
    os.chmod(target, 0o755)
    run("strip", "--strip-unneeded", target)
    run("patchelf", "--force-rpath", "--set-rpath", library_path, target)


def install_libraries(libraries, directory):
    os.makedirs(directory, exist_ok=True)
    for name, path in sorted(libraries.items()):
        install(os.path.realpath(path), os.path.join(directory, name), "$ORIGIN")


def package_of(path):
    """The Debian package that a file belongs to."""
    real = os.path.realpath(path)
    # dpkg knows a file by the name that it was packed with, from before /lib became a link to /usr/lib.
    for name in (real, real.removeprefix("/usr"), "/usr" + real):
        done = subprocess.run(["dpkg-query", "-S", name], capture_output=True, text=True, timeout=60)
        if done.returncode == 0:
            return done.stdout.split(":")[0]
    raise Failed(f"no Debian package owns {path}: its licence is unknown")


def install_licences(packages, directory):
    os.makedirs(directory, exist_ok=True)
    for package in sorted(set(packages)):
        source = f"/usr/share/doc/{package}/copyright"
        if not os.path.exists(source):
            raise Failed(f"{source} is missing: install {package} again (images without documentation leave it out)")
        shutil.copyfile(source, os.path.join(directory, package))


def is_elf(path):
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


def versions_needed(path):
    """{"GLIBC_2.34": ["pthread_create", ...]}: the versioned symbols that an ELF file wants from others."""
    needed = {}
    for line in run("readelf", "--wide", "--dyn-syms", path).splitlines():
        match = re.search(r" UND (\S+?)@+(\w+_[\d.]+)", line)
        if match:
            needed.setdefault(match[2], []).append(match[1])
    return needed


def newer_than(needed, family, limit):
    """What of versions_needed() is of this family and newer than `limit`, as sentences."""
    number = re.compile(re.escape(family) + r"_(\d[\d.]*)$")
    limit = [int(part) for part in limit.split(".")]
    return [f"{version} for {', '.join(sorted(symbols))}" for version, symbols in sorted(needed.items())
            if (match := number.match(version)) and [int(part) for part in match[1].split(".")] > limit]
