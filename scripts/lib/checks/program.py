"""What the programs have in common around their checks: which were asked for, an interrupt, logs that are kept, the run."""

import os
import shutil
import signal

from . import frame, place, report


def chosen(checks, names):
    """Those of these names, with what they need."""
    if not names:
        return checks
    by_name = {check.name: check for check in checks}
    wanted, queue = set(), list(names)
    while queue:
        name = queue.pop()
        if name not in by_name:
            raise place.Wrong(f"there is no check {name}; there are: {', '.join(by_name)}")
        if name not in wanted:
            wanted.add(name)
            queue += by_name[name].needs
    return [check for check in checks if check.name in wanted]


def interrupted(number, _frame):
    """A handler of signals: ends through every clean-up, which a second signal must not cut short."""
    for other in (signal.SIGINT, signal.SIGTERM):
        signal.signal(other, signal.SIG_IGN)
    raise SystemExit(128 + number)


def keep_logs(results, logs, where):
    """Those of the checks that failed; says where they are."""
    failed = [name for name, outcome in results.items() if outcome.status == frame.FAILED]
    kept = []
    for name in failed:
        source = os.path.join(logs, name + ".log")
        if os.path.exists(source):
            kept.append(f"{where}.{name.replace(':', '-')}.log")
            shutil.copyfile(source, kept[-1])
    if kept:
        print("logs of what failed: " + ", ".join(kept))


def must_be_writable(path):
    folder = os.path.dirname(os.path.abspath(path))
    if not os.access(folder, os.W_OK):
        raise place.Wrong(f"{folder} cannot be written: say with --json where the figures shall go")


def run(arguments, checks, context, words):
    """All of them, or with --list their names. `arguments` has only, list, logs, json and within; `context` has machine,
    rehearsal and scratch. Returns the exit status."""
    if arguments.list:
        for check in checks:
            print(f"{check.name:24} {check.question}")
        return 0
    checks = chosen(checks, arguments.only)
    logs = arguments.logs or os.path.join(context.scratch, "logs")
    os.makedirs(logs, exist_ok=True)

    def tell(check, outcome, results):
        print(report.line(check, outcome), flush=True)
        report.write(arguments.json, report.document(checks, results, context.machine, context.rehearsal))

    results = frame.run_all(checks, context, logs, tell, arguments.within)
    status = report.exit_status(checks, results)
    report.write(arguments.json, report.document(checks, results, context.machine, context.rehearsal, status))
    print("\n" + report.table(checks, results))
    keep_logs(results, logs, os.path.splitext(arguments.json)[0])
    print("\n" + report.verdict(status, results, context.rehearsal, words))
    return status
