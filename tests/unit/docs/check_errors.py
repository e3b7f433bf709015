"""Whether docs/errors.md still says what the programs say: every quoted sentence stands in the sources, and its table of
kinds is the one in proto/control/outcome.cpp.

    check_errors.py PROJECT_ROOT
"""
import pathlib
import re
import sys

ROOMS = ("common", "proto", "daemon", "ctl")
# Adjacent literals are one text: "a " "b" is "a b".
LITERALS = re.compile(r'"((?:[^"\\\n]|\\.)*)"((?:\s*(?:\n\s*)?"(?:[^"\\\n]|\\.)*")*)')


def texts_of(source):
    for first, more in LITERALS.findall(source):
        text = first + "".join(re.findall(r'"((?:[^"\\\n]|\\.)*)"', more))
        yield text.replace('\\"', '"').replace("{{", "{").replace("}}", "}")


def main(root):
    errors = (root / "docs/errors.md").read_text()
    sources = [path for room in ROOMS for path in sorted((root / room).rglob("*")) if path.suffix in (".h", ".cpp")]
    texts = "\n".join(text for path in sources for text in texts_of(path.read_text()))
    wrong = []
    quoted = [sentence for line in errors.splitlines() if line.startswith('| "')
              for sentence in re.findall(r'"([^"]+)"', line.split(" | ")[0])]
    if len(quoted) < 40:
        wrong.append(f"only {len(quoted)} sentences were found in docs/errors.md: has its form changed?")
    wrong += [f'docs/errors.md: "{sentence}" is said nowhere' for sentence in quoted if sentence not in texts]

    kinds = re.findall(r'Outcome\{ErrorKind::(\w+), (\d+), (\d+), "([^"]+)"\}',
                       (root / "proto/control/outcome.cpp").read_text())
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \| ([^|]+) \|", errors, re.MULTILINE)
    said = {(kind, status, code, text.strip()) for kind, code, status, text in rows}
    wrong += [f"docs/errors.md lacks or misstates the kind {kind[0]}: {kind}" for kind in kinds if kind not in said]
    wrong += [f"docs/errors.md has a kind that does not exist: {row}" for row in said - set(kinds)]

    for sentence in wrong:
        print(sentence)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(pathlib.Path(sys.argv[1])))
