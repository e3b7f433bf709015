"""Watching a daemon at work: streams of events as curl reads them, ckptctl watch, and metrics."""

import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import threading
import time
import unittest

import harness

ROOT = harness.ROOT


class Stream:
    """Reads one stream of events on a thread, as any client of HTTP would."""

    def __init__(self, daemon, path, headers=None):
        self.events, self.failure = [], None
        self._connection = harness.UnixConnection(daemon.socket_path, 60 * harness.PATIENCE)
        self._connection.request("GET", path, headers=headers or {})
        self._socket = self._connection.sock  # http.client forgets it: the answer says that the connection ends with it
        self._response = self._connection.getresponse()
        self.status = self._response.status
        self.type = self._response.getheader("Content-Type")
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        event = {}
        try:
            for line in iter(self._response.readline, b""):
                field, _, value = line.decode().rstrip("\n").partition(":")
                if field:
                    event[field] = value.removeprefix(" ")
                elif not line.strip() and "data" in event:
                    self.events.append((event["event"], json.loads(event["data"]), event.get("id")))
                    event = {}
        except Exception as failure:  # a connection that breaks off
            self.failure = failure

    def named(self, name):
        return [data for event, data, _ in list(self.events) if event == name]

    def wait_for(self, what, predicate, seconds=30):
        return harness.wait_until(f"{what}; so far {[event for event, _, _ in self.events]}",
                                  lambda: predicate(self), seconds)

    def wait_end(self, seconds=30):
        self._thread.join(seconds * harness.PATIENCE)
        if self._thread.is_alive():
            raise AssertionError(f"the stream did not end: {self.events}")

    def close(self):
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._connection.close()


class Events(harness.Case):
    def test_all_events_of_a_load_an_update_and_a_failing_update(self):
        engine = self.engine()
        daemon = self.daemon()
        stream = Stream(daemon, "/v1/events")
        self.addCleanup(stream.close)
        self.assertEqual((stream.status, stream.type), (200, "text/event-stream"))
        daemon.add_engine("e", engine, "m")
        daemon.load("m@1", self.llama(megabytes=40))
        daemon.must("update", "m@1")
        ended = stream.wait_for("two jobs to end", lambda s: len(s.named("job-ended")) >= 2 and s.named("job-ended"))
        self.assertEqual([job["state"] for job in ended], ["succeeded", "succeeded"])
        for job in ended:  # the API's own values
            self.assertEqual(job, daemon.job(job["id"]))
        self.assertEqual([job["id"] for job in stream.named("job-started")], [job["id"] for job in ended])
        states = [version["state"] for version in stream.named("version-changed")]
        self.assertEqual(states[:2], ["loading", "resident"])
        states = [each["state"] for each in stream.named("engine-changed")]
        self.assertEqual((states[0], states[-1]), ("waiting", "serving"))
        self.assertIn("updating", states)
        self.assertEqual(stream.named("engine-changed")[-1], daemon.engine("e"))
        self.assertEqual(stream.named("engine-changed")[-1]["serving"], "m@1")

        engine.fault("HOST-1", "fail_load", bucket=1)
        self.assertNotEqual(daemon.ctl("update", "m@1").code, 0)
        stream.wait_for("the failure", lambda s: len(s.named("job-ended")) >= 3)
        self.assertEqual(stream.named("job-ended")[2]["state"], "failed")
        self.assertEqual(stream.named("job-ended")[2]["error"]["kind"], "peer_failed")
        stream.wait_for("the engine to be told poisoned",
                        lambda s: s.named("engine-changed")[-1]["state"] == "poisoned")

        daemon.must("evict", "m@1", "--forget")
        daemon.must("engine", "remove", "e")
        stream.wait_for("the removals", lambda s: s.named("engine-removed") and s.named("version-removed"))
        ids = [id_ for _, _, id_ in stream.events if id_]
        self.assertEqual(len(ids), len(set(ids)))

        behind = Stream(daemon, "/v1/events", {"Last-Event-ID": ids[0]})
        self.addCleanup(behind.close)
        behind.wait_for("what came after the first event", lambda s: [id_ for _, _, id_ in s.events] == ids[1:])

    def test_one_job_from_its_beginning_to_its_outcome(self):
        daemon = self.daemon({"store": {"budget": "1GiB"}})
        job = daemon.detached("load", "m@1", self.llama(megabytes=300))
        stream = Stream(daemon, f"/v1/jobs/{job}/events")
        stream.wait_end()
        names = [name for name, _, _ in stream.events]
        self.assertEqual(names[-1], "job-ended")
        self.assertEqual(set(names[:-1]) - {"job-progress"}, set())
        done = [data["done_bytes"] for name, data, _ in stream.events if data["stage"] == "reading"]
        self.assertEqual(done, sorted(done))
        self.assertEqual(stream.events[-1][1], daemon.job(job))
        self.assertIsNone(stream.failure)
        again = Stream(daemon, f"/v1/jobs/{job}/events")
        again.wait_end()
        self.assertEqual([name for name, _, _ in again.events], ["job-ended"])
        self.assertEqual(daemon.http("GET", "/v1/jobs/load-99/events")[0], 404)

    def test_the_end_of_the_daemon_is_the_last_event(self):
        daemon = self.daemon()
        stream = Stream(daemon, "/v1/events")
        began = time.monotonic()
        daemon.terminate()
        self.assertLess(time.monotonic() - began, 20 * harness.PATIENCE)
        stream.wait_end()
        self.assertEqual([name for name, _, _ in stream.events], ["closing"])
        self.assertIsNone(stream.failure)


class Watch(harness.Case):
    def watch(self, daemon, *flags, json_output=False):
        """ckptctl watch with pipes; output is gathered in .out and .err."""
        process = subprocess.Popen(daemon.ctl_command("watch", *flags, json_output=json_output),
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                   preexec_fn=harness.die_with_parent)
        process.out, process.err = "", ""

        def read(pipe, name):
            for line in iter(pipe.readline, b""):
                setattr(process, name, getattr(process, name) + line.decode())
            pipe.close()

        threads = [threading.Thread(target=read, args=(process.stdout, "out"), daemon=True),
                   threading.Thread(target=read, args=(process.stderr, "err"), daemon=True)]
        for thread in threads:
            thread.start()

        def end():
            if process.poll() is None:
                process.kill()
            process.wait()
            for thread in threads:
                thread.join(10)

        self.addCleanup(end)
        process.join_readers = lambda: [thread.join(10) for thread in threads]
        harness.wait_until("the watcher to be connected", lambda: self.event_clients(daemon) >= 1 or process.poll())
        return process

    def event_clients(self, daemon):
        return metric(scrape(daemon), "ckptd_event_clients")

    def daemon(self, config=None, **options):
        return super().daemon({**(config or {}), "metrics": {"listen": "unix:" + self.path("m.sock")}}, **options)

    def test_lines_through_a_restart_until_ctrl_c(self):
        daemon = self.daemon()
        source = self.llama()
        watching = self.watch(daemon)
        daemon.load("m@1", source)
        harness.wait_until("the load to be told", lambda: "loaded m@1" in watching.out)
        lines = watching.out.splitlines()
        for line in lines:
            self.assertRegex(line, r"^\d\d:\d\d:\d\d  (load-1|m@1) +(started|succeeded|loading|resident) ")
        daemon.terminate()
        harness.wait_until("the end to be told", lambda: "waiting for it to come back" in watching.err)
        daemon.start()
        harness.wait_until("the return to be told", lambda: "answers again" in watching.err)
        daemon.load("m@2", source)
        harness.wait_until("the second load to be told", lambda: "loaded m@2" in watching.out)
        self.assertEqual(watching.err.count("waiting for it to come back"), 1)
        watching.send_signal(signal.SIGINT)
        self.assertEqual(watching.wait(10 * harness.PATIENCE), 0)

    def test_once_ends_with_the_daemon(self):
        daemon = self.daemon()
        watching = self.watch(daemon, "--once")
        daemon.kill9()
        self.assertEqual(watching.wait(30 * harness.PATIENCE), harness.EXIT["unavailable"])
        watching.join_readers()
        self.assertIn("daemon has ended", watching.err)

    def test_json_is_one_value_a_line(self):
        daemon = self.daemon()
        watching = self.watch(daemon, json_output=True)
        daemon.load("m@1", self.llama())
        harness.wait_until("the load to be told", lambda: '"job-ended"' in watching.out)
        watching.send_signal(signal.SIGTERM)
        self.assertEqual(watching.wait(10 * harness.PATIENCE), 0)
        watching.join_readers()
        events = [json.loads(line) for line in watching.out.splitlines()]
        self.assertEqual([each["event"] for each in events if each["event"] != "job-progress"][0], "job-started")
        ended = next(each for each in events if each["event"] == "job-ended")
        self.assertEqual(ended["data"], daemon.job("load-1"))
        self.assertEqual(watching.err, "")

    def test_no_daemon_is_an_error_at_once(self):
        daemon = super().daemon(start=False)
        self.assert_fails(daemon.ctl("watch"), "unavailable", "systemctl")

    def test_a_bar_on_a_terminal(self):
        daemon = self.daemon({"store": {"budget": "1GiB"}})
        source = self.llama(megabytes=300)
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        watching = subprocess.Popen(daemon.ctl_command("watch", json_output=False), stdin=slave, stdout=slave, stderr=slave,
                                    env={**os.environ, "TERM": "xterm", "LC_ALL": "C.UTF-8"},
                                    preexec_fn=harness.die_with_parent)
        os.close(slave)
        self.addCleanup(lambda: (watching.poll() is None and watching.kill(), watching.wait()))
        harness.wait_until("the watcher to be connected", lambda: self.event_clients(daemon) == 1)
        daemon.load("m@1", source)
        shown = b""

        def told():
            nonlocal shown
            if select.select([master], [], [], 0)[0]:
                shown += os.read(master, 65536)
            return b"loaded m@1" in shown

        harness.wait_until("the load to be told", told)
        text = shown.decode()
        self.assertIn("\r\x1b[K", text)  # the bar leaves before a line comes
        self.assertRegex(text, r"load-1  (opening|reserving memory|reading)")
        for line in text.split("\r\n"):  # each line of text stands alone
            self.assertRegex(re.sub(r"^.*\x1b\[K", "", line), r"^(\d\d:\d\d:\d\d .*|)$")
        watching.send_signal(signal.SIGINT)
        self.assertEqual(watching.wait(10 * harness.PATIENCE), 0)

    def test_job_watch_follows_events_and_not_polls(self):
        daemon = self.daemon({"store": {"budget": "1GiB"}})
        daemon.load("m@1", self.llama(megabytes=300))
        counted = {labels["route"] for labels, value in series(scrape(daemon), "ckptd_control_requests_total")}
        self.assertIn("/v1/jobs/{id}/events", counted)
        self.assertNotIn("/v1/jobs/{id}", counted)


# ---- metrics ----


def parse(text):
    """Prometheus' text format, strictly: {family: (type, [(name, labels, value)])}. Raises ValueError."""
    families, family = {}, None
    if not text.endswith("\n"):
        raise ValueError("the last line does not end")
    sample = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)( \d+)?')
    label = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
    for line in text.splitlines():
        if line.startswith("# HELP "):
            name = line.split(" ")[2]
            if name in families:
                raise ValueError(f"{name} comes twice")
            if len(line.split(" ", 3)) < 4:
                raise ValueError(f"{name} has no help")
            family, families[name] = name, ["untyped", []]
        elif line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            if name != family or families[name][1]:
                raise ValueError(f"the type of {name} does not stand before its series")
            if kind not in ("counter", "gauge", "histogram"):
                raise ValueError(f"{name} is a {kind}")
            families[name][0] = kind
        else:
            match = sample.fullmatch(line)
            if not match:
                raise ValueError(f"no sample: {line!r}")
            name, labels, value = match[1], match[2] or "", float(match[3])
            base = re.sub(r"_(bucket|sum|count)$", "", name) if families[family][0] == "histogram" else name
            if base != family:
                raise ValueError(f"{name} stands below {family}")
            found, end = {}, 0
            while end < len(labels):
                part = label.match(labels, end)
                if not part or part[1] in found:
                    raise ValueError(f"labels of {line!r}")
                found[part[1]], end = re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], part[2]), part.end()
            if any(each[0] == name and each[1] == found for each in families[family][1]):
                raise ValueError(f"twice: {line!r}")
            families[family][1].append((name, found, value))
    for name, (kind, samples) in families.items():
        check_histogram(name, samples) if kind == "histogram" else None
    return {name: (kind, samples) for name, (kind, samples) in families.items()}


def check_histogram(family, samples):
    buckets, counts = {}, {}
    for name, labels, value in samples:
        key = tuple(sorted((k, v) for k, v in labels.items() if k != "le"))
        if name.endswith("_bucket"):
            buckets.setdefault(key, []).append((float(labels["le"]), value))
        elif name.endswith("_count"):
            counts[key] = value
    if buckets.keys() != counts.keys():
        raise ValueError(f"{family} has buckets without counts")
    for key, each in buckets.items():
        values = [value for _, value in each]
        if each != sorted(each) or values != sorted(values) or each[-1][0] != float("inf") or values[-1] != counts[key]:
            raise ValueError(f"the buckets of {family}{key} are not cumulative: {each}")


def scrape(daemon, path="/metrics"):
    with open(daemon.config_path, encoding="utf-8") as file:
        where = re.search(r'^listen = "unix:(.*)"$', file.read(), re.MULTILINE)[1]
    status, text = harness.http_request(harness.UnixConnection(where, 30 * harness.PATIENCE), "GET", path)
    assert status == 200, text
    return parse(text)


def series(families, family, suffix=""):
    return [(labels, value) for name, labels, value in families[family][1] if name == family + suffix]


def metric(families, family, suffix="", **wanted):
    found = [value for labels, value in series(families, family, suffix) if wanted.items() <= labels.items()]
    return sum(found)


class Metrics(harness.Case):
    def daemon(self, config=None, **options):
        return super().daemon({**(config or {}), "metrics": {"listen": "unix:" + self.path("m.sock")}}, **options)

    def test_before_and_after_a_load_an_update_and_a_failing_update(self):
        daemon = self.daemon({"jobs": {"history": 1}})
        engine = self.engine()
        new = scrape(daemon)
        for name in ("ckptd_versions", "ckptd_jobs_ended_total", "ckptd_job_seconds", "process_open_fds"):
            self.assertTrue(new[name][1], name)
        self.assertEqual(metric(new, "ckptd_jobs_ended_total"), 0)
        self.assertEqual(series(new, "ckptd_version_bytes"), [])
        self.assertEqual(metric(new, "ckptd_store_budget_bytes"), 512 << 20)

        daemon.add_engine("e", engine, "m")
        source = self.llama(megabytes=20)
        loaded = daemon.load("m@1", source)["result"]
        after = scrape(daemon)
        self.assertEqual(metric(after, "ckptd_jobs_ended_total", kind="load", outcome="succeeded"), 1)
        self.assertEqual(metric(after, "ckptd_job_seconds", "_count", kind="load", outcome="succeeded"), 1)
        self.assertGreaterEqual(metric(after, "ckptd_loaded_bytes_total"), loaded["bytes"])
        self.assertEqual(series(after, "ckptd_version_bytes"),
                         [({"name": "m", "version": "1"}, loaded["store_bytes"])])
        self.assertEqual(metric(after, "ckptd_store_bytes", state="lent"), loaded["store_bytes"])
        self.assertEqual(series(after, "ckptd_engine_info")[0][0],
                         {"engine": "e", "kind": "sglang", "target": "", "serving": "", "state": "waiting"})

        daemon.must("update", "m@1")
        after = scrape(daemon)
        self.assertEqual(metric(after, "ckptd_jobs_ended_total", kind="update", outcome="succeeded"), 1)
        self.assertGreaterEqual(metric(after, "ckptd_pushed_bytes_total"), loaded["bytes"])
        self.assertEqual(series(after, "ckptd_engine_info")[0][0]["serving"], "m@1")
        self.assertEqual(metric(after, "ckptd_engine_poisoned", engine="e"), 0)

        engine.fault("HOST-1", "fail_load", bucket=1)
        self.assertNotEqual(daemon.ctl("update", "m@1").code, 0)
        after = scrape(daemon)
        self.assertEqual(metric(after, "ckptd_jobs_ended_total", kind="update", outcome="failed", error="peer_failed"), 1)
        self.assertEqual(metric(after, "ckptd_engine_poisoned", engine="e"), 1)
        # The history has forgotten the first jobs; the counters have not.
        self.assertEqual(len(daemon.must("job", "list")["jobs"]), 1)
        self.assertEqual(metric(after, "ckptd_jobs_ended_total"), 3)
        self.assertEqual(metric(after, "ckptd_jobs_running"), 0)
        self.assertGreaterEqual(metric(after, "ckptd_control_requests_total", route="/v1/updates", status="202"), 2)

        daemon.must("engine", "remove", "e")
        daemon.must("evict", "m@1")
        gone = scrape(daemon)
        self.assertEqual(series(gone, "ckptd_version_bytes") + series(gone, "ckptd_engine_info"), [])
        self.assertEqual(metric(gone, "ckptd_versions", state="evicted"), 1)

    def test_scrapes_while_jobs_run_are_valid_and_hold_up_nothing(self):
        daemon = self.daemon({"store": {"budget": "1GiB"}})
        source = self.llama(megabytes=200)
        over = threading.Event()

        def scrape_on():
            count = 0
            while not over.is_set():
                scrape(daemon)
                count += 1
            return count

        results = [self.background(scrape_on) for _ in range(3)]
        for number in range(3):
            daemon.load(f"m@{number}", source)
        over.set()
        for result in results:
            self.assertGreater(result(), 0)

    def test_over_tcp_and_never_a_control_route(self):
        daemon = super().daemon(start=False)
        daemon.start("--metrics-listen", "127.0.0.1:0")
        port = int(harness.wait_until("the port in the log",
                                      lambda: re.search(r"http://127\.0\.0\.1:(\d+)/metrics", daemon.log()))[1])
        ask = lambda method, path: harness.http_request(
            harness.http.client.HTTPConnection("127.0.0.1", port, timeout=30), method, path)
        status, text = ask("GET", "/metrics")
        self.assertEqual(status, 200)
        self.assertEqual(metric(parse(text), "ckptd_ready"), 1)
        self.assertEqual(ask("GET", "/readyz"), (200, {"ready": True}))
        for method, path in (("GET", "/v1/status"), ("POST", "/v1/updates"), ("GET", "/v1/events")):
            self.assertEqual(ask(method, path)[0], 404)
        self.assertNotIn(" W ", daemon.log().replace("huge", ""))
        second = super().daemon(start=False)
        second.launch("--metrics-listen", f"127.0.0.1:{port}")
        self.assertEqual(second.process.wait(30), harness.EXIT["busy"])
        self.assertIn("metrics", second.log())


class Strictness(unittest.TestCase):
    """The parser above refuses what Prometheus would."""

    GOOD = '# HELP a b\n# TYPE a gauge\na{x="1"} 1\na{x="\\\\\\"\\n"} +Inf\n'

    def test_it(self):
        self.assertEqual(len(parse(self.GOOD)["a"][1]), 2)
        for bad in (self.GOOD[:-1], self.GOOD + "\n", self.GOOD + 'a{x="1"} 2\n', self.GOOD + "b 1\n",
                    self.GOOD + self.GOOD, self.GOOD + 'a{x="1} 1\n', self.GOOD + "a  1\n", self.GOOD + "a one\n",
                    "# HELP h t\n# TYPE h histogram\nh_bucket{le=\"1\"} 2\nh_bucket{le=\"+Inf\"} 1\nh_sum 1\nh_count 1\n"):
            with self.assertRaises(ValueError, msg=bad):
                parse(bad)


if __name__ == "__main__":
    harness.main()
