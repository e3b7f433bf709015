#!/usr/bin/env python3
"""Compares the #includes and the link lists of the rooms with rooms.txt.

usage: check_includes.py ROOT ROOMS_FILE

Prints one line for each violation, FILE:LINE: sentence, and ends with 1 if there was one. Reads text alone, so that an
include counts whether or not this build compiles it.
"""

import pathlib
import re
import sys

FOLDERS = ("common", "proto", "daemon", "ctl")
SUFFIXES = (".h", ".hpp", ".inl", ".cpp", ".cc")

# What comes with the compiler and the C library. A header that is neither here nor in rooms.txt is a new package.
SYSTEM_FOLDERS = ("sys/", "linux/", "netinet/", "arpa/", "net/", "bits/", "asm/")
SYSTEM_HEADERS = {
    "dirent.h", "dlfcn.h", "errno.h", "fcntl.h", "fnmatch.h", "glob.h", "grp.h", "ifaddrs.h", "libgen.h", "limits.h",
    "netdb.h", "poll.h", "pthread.h", "pwd.h", "sched.h", "semaphore.h", "signal.h", "spawn.h", "stdint.h", "stdio.h",
    "stdlib.h", "string.h", "strings.h", "syslog.h", "termios.h", "time.h", "ucontext.h", "unistd.h", "cxxabi.h",
}


class Table:
    """rooms.txt: the rooms by target, in order, and who may use which package."""

    def __init__(self, text):
        self.path_of = {}  # target -> path, in the order of the file
        self.leans_on = {}  # target -> set of targets
        self.packages = []  # (prefix, set of targets or None for all)
        self.problems = []
        for number, line in enumerate(text.splitlines(), 1):
            line = line.split("#", 1)[0].strip()
            if line:
                self._read(number, line)

    def _read(self, number, line):
        left, colon, right = line.partition(":")
        names = right.split()
        if not colon:
            self._problem(number, f"'{line}' has no colon")
        elif left.startswith("<"):
            self._check_known(number, names)
            self.packages.append((left[1:].strip(), None if names == ["*"] else set(names)))
        elif len(left.split()) != 2:
            self._problem(number, f"'{left}' is not TARGET PATH")
        else:
            target, path = left.split()
            if target in self.path_of or path in self.path_of.values():
                self._problem(number, f"{target} or {path} stands twice")
                return
            # Only what stands above may be named: no set of such lines has a cycle.
            self._check_known(number, names)
            self.leans_on[target] = set(self.path_of) if names == ["*"] else set(names)
            self.path_of[target] = path

    def _check_known(self, number, names):
        for name in names:
            if name != "*" and name not in self.path_of:
                self._problem(number, f"{name} is not a room above this line")

    def _problem(self, number, sentence):
        self.problems.append(f"rooms.txt:{number}: {sentence}")

    def room_of(self, path):
        """The target whose path is the longest that holds this file, or None."""
        best = None
        for target, start in self.path_of.items():
            rest = path[len(start):]
            inside = path.startswith(start) and (rest[:1] == "/" or (rest[:1] in ("_", ".") and "/" not in rest))
            if inside and (best is None or len(start) > len(self.path_of[best])):
                best = target
        return best

    def package_of(self, header):
        for prefix, targets in self.packages:
            if header.startswith(prefix):
                return prefix, targets
        return None


def without_comments(text):
    """C++ source with its comments blanked, line numbers kept, and text in quotes left alone."""
    pattern = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', re.DOTALL)

    def blank(match):
        text = match.group(0)
        return "\n" * text.count("\n") if text[0] == "/" else text

    return pattern.sub(blank, text)


def includes_of(text):
    """(line number, '"' or '<' or 'macro', what is included) of each #include."""
    text = without_comments(text).replace("\\\n", " \n")
    for number, line in enumerate(text.splitlines(), 1):
        match = re.match(r"\s*#\s*(?:include|include_next|import)\b\s*(.*)", line)
        if match:
            what = match.group(1).strip()
            named = re.match(r'"([^"]*)"|<([^>]*)>', what)
            if not named:
                yield number, "macro", what
            elif named.group(1) is not None:
                yield number, '"', named.group(1)
            else:
                yield number, "<", named.group(2)


def is_system(header):
    if "/" not in header and "." not in header:
        return True  # <vector> and its kin
    return header in SYSTEM_HEADERS or header.startswith(SYSTEM_FOLDERS)


def check_project_header(table, room, header):
    if header.startswith(".") or "/../" in header or "/" not in header:
        return f'"{header}" is not a path from the root of the project'
    other = table.room_of(header)
    if other is None:
        return f'"{header}" belongs to no room of rooms.txt'
    if other != room and other not in table.leans_on[room]:
        return f'{room} may not lean on {other}, whose "{header}" it includes'
    return None


def check_package_header(table, room, header):
    if is_system(header):
        return None
    if table.room_of(header) is not None and header.startswith(tuple(f + "/" for f in FOLDERS)):
        return f'<{header}> is ours: write it in quotes, so that it is checked'
    package = table.package_of(header)
    if package is None:
        return f"<{header}> is of no package of rooms.txt"
    prefix, targets = package
    if targets is not None and room not in targets:
        return f"{room} may not use <{header}>; {' '.join(sorted(targets))} may"
    return None


def check_file(table, path, text):
    room = table.room_of(path)
    if room is None:
        yield f"{path}:1: the file belongs to no room of rooms.txt"
        return
    for number, form, what in includes_of(text):
        if form == "macro":
            problem = f"'{what}' hides what is included"
        elif form == '"':
            problem = check_project_header(table, room, what)
        else:
            problem = check_package_header(table, room, what)
        if problem:
            yield f"{path}:{number}: {problem}"


def links_of(text):
    """(line number, target, the rooms that it is linked with) of each room in a CMakeLists.txt."""
    text = re.sub(r"#[^\n]*", "", text)
    for match in re.finditer(r"\b(ckptd_room|target_link_libraries)\s*\(([^)]*)\)", text):
        words = match.group(2).split()
        number = text.count("\n", 0, match.start()) + 1
        if not words:
            continue
        if match.group(1) == "ckptd_room":
            rooms, taking = [], False
            for word in words[1:]:
                if word in ("SOURCES", "LEANS_ON", "PACKAGES"):
                    taking = word == "LEANS_ON"
                elif taking:
                    rooms.append(word)
            yield number, words[0], rooms
        elif words[0].startswith("ckptd_"):
            linked = [word[len("ckptd_"):] for word in words[1:] if word.startswith("ckptd_")]
            yield number, words[0][len("ckptd_"):], linked


def check_links(table, path, text):
    for number, target, rooms in links_of(text):
        if target not in table.path_of:
            yield f"{path}:{number}: the room {target} is not in rooms.txt"
            continue
        folder = str(pathlib.PurePosixPath(path).parent)
        if not (table.path_of[target] + "/").startswith(folder + "/"):
            yield f"{path}:{number}: {target} is of {table.path_of[target]}/, not of {folder}/"
        for room in rooms:
            # Warnings and sanitizers are targets that start like rooms and are none.
            if room not in ("warnings", "sanitizers") and room not in table.leans_on[target]:
                yield f"{path}:{number}: {target} may not lean on {room}, with which it is linked"


def check_tree(root, table):
    problems = list(table.problems)
    seen = 0
    for folder in FOLDERS:
        for file in sorted((root / folder).rglob("*")):
            path = file.relative_to(root).as_posix()
            if file.suffix in SUFFIXES:
                seen += 1
                problems += check_file(table, path, file.read_text(encoding="utf-8", errors="replace"))
            elif file.name == "CMakeLists.txt":
                problems += check_links(table, path, file.read_text(encoding="utf-8"))
    if seen == 0:
        problems.append(f"{root}: there is no source file below {', '.join(FOLDERS)}")
    return problems


def main():
    root, rooms_file = (pathlib.Path(argument) for argument in sys.argv[1:3])
    problems = check_tree(root, Table(rooms_file.read_text(encoding="utf-8")))
    for problem in problems:
        print(problem)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
