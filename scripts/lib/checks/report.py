"""What a run of checks came to: the table for people, the JSON file for everything else, the exit status."""

import dataclasses
import json
import os

from .frame import FAILED, PASSED, SKIPPED

EXIT_PASSED, EXIT_FAILED, EXIT_NOTHING_CHECKED = 0, 1, 77


def exit_status(checks, results):
    """Failed when anything failed; "nothing checked" when no check that needs a GPU could be made."""
    if any(outcome.status == FAILED for outcome in results.values()):
        return EXIT_FAILED
    of_gpu = [check for check in checks if check.gpu and check.counts and results[check.name].status == PASSED]
    return EXIT_PASSED if of_gpu else EXIT_NOTHING_CHECKED


@dataclasses.dataclass(frozen=True)
class Words:
    """How a program ends its report."""
    nothing: str
    rehearsed: str
    good: str


OF_GPU = Words("nothing could be checked on a GPU",
               "the checks' own code works on host memory; this says nothing about a GPU",
               "what could be checked on this GPU is as it should be")


def verdict(status, results, rehearsal, words=OF_GPU):
    counts = {each: sum(outcome.status == each for outcome in results.values()) for each in (PASSED, FAILED, SKIPPED)}
    numbers = ", ".join(f"{count} {each}" for each, count in counts.items())
    if status == EXIT_FAILED:
        return f"{numbers}: something failed"
    if status == EXIT_NOTHING_CHECKED:
        return f"{numbers}: {words.nothing}"
    return f"{numbers}: {words.rehearsed if rehearsal else words.good}"


def figure(name, value):
    if name.endswith("bytes_per_second"):
        return f"{value / 1e9:.2f} GB/s"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def line(check, outcome):
    return f"{check.name:24} {outcome.status:8} {outcome.seconds:7.1f} s  {outcome.sentence}"


def table(checks, results):
    lines = [f"{'check':24} {'came to':8} {'took':>9}  in words"]
    for check in checks:
        outcome = results[check.name]
        lines.append(line(check, outcome))
        for name, value in outcome.measured.items():
            if not isinstance(value, (dict, list)):
                lines.append(f"{'':24} {'':8} {'':9}    {name} = {figure(name, value)}")
    return "\n".join(lines)


def document(checks, results, machine, rehearsal, status=None):
    """The JSON file. `checks` that have not run yet are missing in it, so that a run that was cut off tells what it did."""
    done = [check for check in checks if check.name in results]
    return {
        "format": 1,
        "rehearsal": rehearsal,
        "finished": status is not None,
        "exit_status": status,
        "machine": machine,
        "checks": [{"name": check.name, "question": check.question, "needs_gpu": check.gpu,
                    **dataclasses.asdict(results[check.name])} for check in done],
    }


def write(path, value):
    """Whole or not at all."""
    making = path + ".making"
    with open(making, "w", encoding="utf-8") as file:
        json.dump(value, file, indent=2)
        file.write("\n")
    os.replace(making, path)
