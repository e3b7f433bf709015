"""Repeated and colliding requests, cancelling, and what the control socket does with nonsense."""

import json
import os
import signal
import socket
import subprocess
import threading
import time

import harness
from harness import checkpoints


def put_load(daemon, version, source, key=None, **fields):
    headers = {"Idempotency-Key": key} if key else {}
    return daemon.http("PUT", f"/v1/checkpoints/m/versions/{version}", {"source": {"uri": "file://" + source}, **fields},
                       headers)


def post_update(daemon, version="m@1", key=None, **fields):
    return daemon.http("POST", "/v1/updates", {"checkpoint": version, **fields}, {"Idempotency-Key": key} if key else {})


class Repeated(harness.Case):
    def held_update(self):
        daemon, engine, source = self.serving({"timeouts": harness.HELD}, devices=("HOST-0",))
        engine.hold("HOST-0")
        status, job = post_update(daemon)
        self.assertEqual(status, 202, job)
        return daemon, engine, source, job["id"]

    def test_the_same_running_update_is_the_same_job(self):
        daemon, engine, source, job = self.held_update()
        for _ in range(3):
            status, again = post_update(daemon)
            self.assertEqual((status, again["id"]), (202, job))
        engine.go()
        self.assertEqual(daemon.wait_job(job)["state"], "succeeded")
        self.assertEqual(len(engine.calls()), 1)
        self.assert_holds(engine, source)

    def test_another_version_while_one_runs_is_busy_and_names_the_job(self):
        daemon, engine, source, job = self.held_update()
        daemon.load("m@2", self.second(source))
        status, answer = post_update(daemon, "m@2")
        self.assertEqual(status, 409)
        self.assertEqual(answer["error"]["kind"], "busy")
        self.assertEqual(answer["error"]["facts"]["job"], job)
        self.assertIn(job, answer["error"]["sentence"])
        engine.go()
        self.assertEqual(daemon.wait_job(job)["state"], "succeeded")
        self.assertEqual(len(engine.calls()), 1)
        daemon.must("update", "m@2")

    def test_a_finished_update_runs_again_unless_its_key_is_repeated(self):
        daemon, engine, _ = self.serving(devices=("HOST-0",))
        first = post_update(daemon, key="a")[1]["id"]
        daemon.wait_job(first)
        status, again = post_update(daemon, key="a")
        self.assertEqual((status, again["id"], again["state"]), (200, first, "succeeded"))
        ids = {first}
        for key in ("b", None, None):
            job = post_update(daemon, key=key)[1]["id"]
            self.assertNotIn(job, ids)
            ids.add(job)
            self.assertEqual(daemon.wait_job(job)["state"], "succeeded")
        self.assertEqual(len(engine.calls()), 4)

    def test_many_clients_at_once_start_one_job(self):
        daemon, engine, _ = self.serving({"timeouts": harness.HELD}, devices=("HOST-0",))
        engine.hold("HOST-0")
        waits = [self.background(post_update, daemon) for _ in range(16)]
        answers = [wait() for wait in waits]
        engine.go()
        self.assertEqual({status for status, _ in answers} - {200, 202}, set())
        self.assertEqual(len({job["id"] for _, job in answers}), 1)
        daemon.wait_job(answers[0][1]["id"])
        self.assertEqual(len(engine.calls()), 1)

    def test_a_load_while_it_runs_and_after_is_the_same_version(self):
        daemon, source = self.daemon(), self.llama(megabytes=100)
        jobs = [put_load(daemon, "1", source)[1]["id"] for _ in range(3)]
        for job in jobs:
            self.assertEqual(daemon.wait_job(job)["state"], "succeeded")
        before = daemon.version("m", "1")[1]
        status, again = put_load(daemon, "1", source)
        self.assertIn(status, (200, 202))
        daemon.wait_job(again["id"])
        self.assertEqual(daemon.version("m", "1")[1]["identity"], before["identity"])
        self.assertEqual(daemon.http("GET", "/v1/status")[1]["versions_resident"], 1)

    def test_two_loads_of_one_version_from_two_places_collide(self):
        daemon, one = self.daemon(), self.llama(megabytes=1)
        two = self.second(one)
        daemon.load("m@1", one)
        answer = daemon.ctl("load", "m@1", two)
        self.assert_fails(answer, "conflict", "m@1", daemon.version("m", "1")[1]["identity"][:12])

    def test_changed_files_are_a_conflict_with_both_identities(self):
        daemon, source = self.daemon(), self.llama(megabytes=1)
        daemon.load("m@1", source)
        identity = daemon.version("m", "1")[1]["identity"]
        changed = self.second(source)
        for path in checkpoints.files_of(changed):
            os.replace(path, os.path.join(source, os.path.basename(path)))
        answer = daemon.ctl("load", "m@1", source)
        self.assert_fails(answer, "conflict", identity[:12])
        self.assertGreaterEqual(len([value for value in answer.error.get("facts", {}).values() if len(value) >= 16]), 2,
                                "both identities are facts: " + str(answer))
        # Also after its memory was given back: the bytes of a version never change.
        daemon.must("evict", "m@1")
        answer = daemon.ctl("load", "m@1", source)
        self.assert_fails(answer, "conflict", identity[:12])
        daemon.must("evict", "m@1", "--forget")
        daemon.load("m@1", source)
        self.assertNotEqual(daemon.version("m", "1")[1]["identity"], identity)

    def test_equal_files_elsewhere_are_the_same_identity(self):
        daemon = self.daemon()
        daemon.load("m@1", self.llama("a", megabytes=1))
        identity = daemon.version("m", "1")[1]["identity"]
        daemon.load("m@2", self.llama("b", megabytes=1))
        daemon.load("m@3", checkpoints.write_sharded(self.path("c"), checkpoints.llama_tensors(1_000_000), 3, 9))
        self.assertEqual(daemon.version("m", "2")[1]["identity"], identity)
        self.assertNotEqual(daemon.version("m", "3")[1]["identity"], identity)

    def test_a_failed_load_may_be_repeated(self):
        daemon, source = self.daemon(), self.llama(megabytes=1)
        path = checkpoints.files_of(source)[1]
        with open(path, "rb") as file:
            whole = file.read()
        with open(path, "wb") as file:
            file.write(whole[:-100])
        for key in ((), ("--idempotency-key", "k")):
            answer = daemon.ctl("load", "m@1", source, *key)
            self.assert_fails(answer, "corrupt", os.path.basename(path))
        with open(path, "wb") as file:
            file.write(whole)
        daemon.load("m@1", source, "--idempotency-key", "k")
        self.assertEqual(daemon.version("m", "1")[1]["state"], "resident")

    def test_an_engine_cannot_be_changed_or_removed_under_an_update(self):
        daemon, engine, _, job = self.held_update()
        self.assertNotEqual(daemon.ctl("engine", "remove", "e").code, 0)
        self.assertIn(job, daemon.ctl("engine", "remove", "e").everything())
        engine.go()
        daemon.wait_job(job)
        daemon.must("engine", "remove", "e")


class Cancel(harness.Case):
    def test_before_the_first_bucket_it_is_clean(self):
        daemon, engine, source = self.serving({"timeouts": {**harness.HELD, "answer_grace": "500ms"}})
        for device in engine.devices:
            engine.hold(device, "connect_late")
        job = daemon.detached("update", "m@1")
        engine.wait_held()
        daemon.must("job", "cancel", job)
        self.assertEqual(daemon.wait_job(job, 20)["state"], "cancelled")
        engine.go()
        self.assertFalse(daemon.engine("e")["poisoned"])
        engine.wait_idle()
        self.assertGreaterEqual(engine.calls()[-1]["status"], 400)
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)

    def test_later_it_needs_force_and_poisons(self):
        daemon, engine, source = self.serving({"timeouts": {**harness.HELD, "answer_grace": "500ms"}})
        for device in engine.devices:
            engine.hold(device)
        job = daemon.detached("update", "m@1")
        engine.wait_held()
        self.assert_fails(daemon.ctl("job", "cancel", job), "conflict", "--force")
        self.assertEqual(daemon.job(job)["state"], "running")
        daemon.must("job", "cancel", job, "--force")
        self.assertEqual(daemon.wait_job(job, 20)["state"], "cancelled")
        engine.go()
        self.assertTrue(daemon.engine("e")["poisoned"])
        engine.wait_idle()
        # Poisoned is shown until a whole update succeeds.
        self.assertTrue(daemon.http("GET", "/v1/status")[1]["engines"][0]["poisoned"])
        daemon.must("update", "m@1")
        self.assertFalse(daemon.engine("e")["poisoned"])
        self.assert_holds(engine, source)

    def test_a_load(self):
        daemon = self.daemon()
        source = self.llama(megabytes=200)
        job = daemon.detached("load", "m@1", source)
        answer = daemon.ctl("job", "cancel", job)
        ended = daemon.wait_job(job)
        if answer.code == 0:  # else it was done already
            self.assertIn(ended["state"], ("cancelled", "succeeded"))
        if ended["state"] == "cancelled":
            self.assertNotEqual(daemon.version("m", "1")[1]["state"], "resident")
            self.assertEqual(daemon.http("GET", "/v1/status")[1]["lent_bytes"], 0)
        daemon.load("m@1", source)

    def test_what_has_ended_and_what_never_was(self):
        daemon, _, source = self.serving(devices=("HOST-0",))
        job = daemon.must("update", "m@1")["id"]
        self.assert_fails(daemon.ctl("job", "cancel", job), "conflict", job)
        self.assert_fails(daemon.ctl("job", "cancel", "update-999"), "not_found", "update-999")


class CommandLine(harness.Case):
    def test_json_is_one_object_and_nothing_else(self):
        daemon, engine, source = self.serving(devices=("HOST-0",))
        commands = [["list"], ["status"], ["show", "m@1"], ["show", "m@1", "--tensors"], ["job", "list"],
                    ["engine", "list"], ["update", "m@1"], ["update", "m@1", "--dry-run"], ["update", "m@1", "--detach"],
                    ["keep", "m@1"], ["unkeep", "m@1"], ["trim"], ["load", "m@1", source], ["wait", "engine/e"],
                    # and what fails
                    ["show", "m@9"], ["evict", "nobody@1"], ["load", "x@1", "/nowhere"], ["update", "zzz@1"],
                    ["engine", "remove", "nobody"], ["job", "watch", "load-99"], ["wait", "job/load-99"],
                    ["wait", "nonsense"], ["load", "no-version", source], ["dance"], []]
        for command in commands:
            with self.subTest(command=command):
                answer = daemon.ctl(*command)
                self.assertIsInstance(json.loads(answer.stdout), dict)
                self.assertEqual(answer.code == 0, "error" not in answer.json or answer.json["error"] is None, answer)

    def test_exit_codes_follow_the_table(self):
        daemon, _, source = self.serving(devices=("HOST-0",))
        daemon.must("keep", "m@1")
        for kind, command in {"not_found": ["show", "m@9"], "busy": ["evict", "m@1"], "usage": ["dance"]}.items():
            self.assertEqual(daemon.ctl(*command).code, harness.EXIT[kind], command)
        done = subprocess.run([harness.CKPTCTL, "--socket", "/nowhere/control.sock", "--json", "status"],
                              capture_output=True, text=True, timeout=30 * harness.PATIENCE)
        self.assertEqual(done.returncode, harness.EXIT["unavailable"])
        self.assertIn("/nowhere/control.sock", json.loads(done.stdout)["error"]["sentence"])

    def test_the_text_form_speaks_to_people(self):
        daemon, engine, source = self.serving(devices=("HOST-0",))
        for command, words in {
            ("list",): ["m@1", "resident"], ("status",): ["HOST-0"], ("show", "m@1"): ["m@1"],
            ("engine", "list"): ["e", "sglang"], ("job", "list"): ["load-"], ("update", "m@1"): ["m@1"],
            ("update", "m@1", "--dry-run"): ["e"],
        }.items():
            answer = daemon.ctl(*command, json_output=False)
            self.assertEqual(answer.code, 0, answer)
            for word in words:
                self.assertIn(word, answer.stdout + answer.stderr, command)
            self.assertNotIn("\x1b", answer.stdout, "colours and bars are for terminals")
        answer = daemon.ctl("show", "m@9", json_output=False)
        self.assertIn("m@9", answer.stderr)
        self.assertEqual(answer.stdout, "")

    def test_interrupting_a_wait_leaves_the_job_running(self):
        daemon, engine, source = self.serving({"timeouts": harness.HELD}, devices=("HOST-0",))
        engine.hold("HOST-0")
        waiting = harness.Process("ckptctl", daemon.ctl_command("update", "m@1", json_output=False), self.path("said"))
        self.addCleanup(waiting.end)
        harness.wait_until("ckptctl to know its job", lambda: "update-" in waiting.log())
        waiting.send(signal.SIGINT)
        self.assertEqual(waiting.wait(20), 130, waiting.log())
        self.assertIn("watch", waiting.log())
        job = next(job for job in daemon.must("job", "list")["jobs"] if job["kind"] == "update")
        self.assertIn(job["id"], waiting.log())
        self.assertEqual(job["state"], "running")
        engine.go()
        watched = daemon.must("job", "watch", job["id"])
        self.assertEqual(watched["state"], "succeeded")
        self.assert_holds(engine, source)

    def test_wait(self):
        daemon, engine, _ = self.serving(devices=("HOST-0",))
        engine.fault("HOST-0", "slow", seconds=0.1)
        job = daemon.detached("update", "m@1")
        daemon.must("wait", "engine/e", "--serving", "m@1", "--timeout", "60s")
        self.assertEqual(daemon.engine("e")["serving"], "m@1")
        daemon.must("wait", f"job/{job}")
        engine.fault("HOST-0", "fail_load")
        job = daemon.detached("update", "m@1")
        self.assertEqual(daemon.ctl("wait", f"job/{job}").code, harness.EXIT["peer_failed"])

    def test_configuration_is_checked(self):
        daemon = self.daemon(start=False)

        def check(*flags):
            return subprocess.run([harness.CKPTD, "--config", daemon.config_path, "--check-config", *flags],
                                  capture_output=True, text=True, timeout=30 * harness.PATIENCE)

        self.assertEqual(check().returncode, 0)
        self.assertFalse(os.path.exists(daemon.socket_path))
        for config, word in ({"store": {"budgt": "1GiB"}}, "budgt"), ({"store": {"budget": "lots"}}, "budget"), (
                {"": {"colour": "red"}}, "colour"), ({"push": {"fan_out": "spray"}}, "spray"):
            daemon.write_config(config)
            done = check()
            self.assertNotEqual(done.returncode, 0, config)
            self.assertIn(word, done.stderr + done.stdout)
        daemon.write_config({})
        self.assertEqual(check("--store-budget", "1GiB", "--host-devices", "1").returncode, 0)
        self.assertNotEqual(check("--store-budget", "nonsense").returncode, 0)
        self.assertNotEqual(subprocess.run([harness.CKPTD, "--check-config", "--config", "/nowhere.toml"],
                                           capture_output=True, timeout=30).returncode, 0)

    def test_a_budget_is_required(self):
        done = subprocess.run([harness.CKPTD, "--runtime-dir", self.path("r"), "--state-dir", self.path("s"),
                               "--check-config"], capture_output=True, text=True, timeout=30 * harness.PATIENCE)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("budget", done.stderr + done.stdout)

    def test_a_runtime_directory_that_is_too_long_for_sockets_is_refused_at_the_start(self):
        daemon = self.daemon(start=False)
        daemon.runtime_dir = os.path.join(daemon.directory, "x" * 100)
        daemon.write_config({})
        daemon.launch()
        self.assertNotEqual(daemon.process.wait(20), 0)
        self.assertIn("107", daemon.log())


class ControlSocket(harness.Case):
    def raw(self, daemon, content, seconds=5.0):
        """Sends bytes, ends its side, and returns what came back until the end or the time-out."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(seconds * harness.PATIENCE)
            connection.connect(daemon.socket_path)
            answer = b""
            try:
                connection.sendall(content)
                connection.shutdown(socket.SHUT_WR)
                while piece := connection.recv(65536):
                    answer += piece
            except OSError:
                pass
            return answer

    def test_garbage(self):
        daemon = self.daemon()
        for content in (b"", b"\0" * 10000, b"\xff\xfe garbage\r\n\r\n", b"GET", b"GET / HTTP/9.9\r\n\r\n",
                        b"GET /healthz HTTP/1.1\r\n" + b"X: y\r\n" * 100000 + b"\r\n",
                        b"GET /" + b"a" * 1_000_000 + b" HTTP/1.1\r\n\r\n",
                        b"POST /v1/updates HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
                        b"POST /v1/updates HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
                        b"POST /v1/updates HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{",
                        b"POST /v1/updates HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
                        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"):
            self.raw(daemon, content)
            self.assert_alive(daemon)

    def test_bodies(self):
        daemon = self.daemon()
        for body in (b"", b"{", b"[]", b"null", b"7", b'"x"', b"\xff\xfe", b"{}", b'{"checkpoint":7}',
                     b'{"checkpoint":"m@1","engines":"e"}', b'{"checkpoint":"m"}', b'{"checkpoint":"@"}',
                     b'{"checkpoint":"m@1","bucket_bytes":-1}', b'{"checkpoint":"m@1","bucket_bytes":1e99}',
                     b'{"checkpoint":"m@1","checkpoint":"m@2"}', b"[" * 100000, b'{"a":' * 50000):
            status, answer = daemon.http("POST", "/v1/updates", body)
            self.assertEqual(status, 400, (body[:60], answer))
            self.assertEqual(answer["error"]["kind"], "invalid_argument", body[:60])
        try:
            self.assertEqual(daemon.http("POST", "/v1/updates", b" " * (8 << 20))[0], 413)
        except BrokenPipeError:  # it need not listen to the rest
            pass
        self.assert_alive(daemon)

    def test_unknown_members_are_refused_by_name(self):
        daemon, _, source = self.serving(devices=("HOST-0",))
        for method, path, body in (
                ("POST", "/v1/updates", {"checkpoint": "m@1", "enginez": []}),
                ("PUT", "/v1/checkpoints/m/versions/2", {"source": {"uri": source}, "enginez": 1}),
                ("PUT", "/v1/checkpoints/m/versions/2", {"source": {"uri": source, "enginez": 1}}),
                ("PUT", "/v1/engines/x", {"kind": "sglang", "endpoint": "http://h:1", "checkpoint": "m", "enginez": 1}),
                ("GET", "/v1/jobs?enginez=1", None)):
            status, answer = daemon.http(method, path, body)
            self.assertEqual(status, 400, (path, answer))
            self.assertIn("enginez", answer["error"]["sentence"])

    def test_paths_and_methods(self):
        daemon = self.daemon()
        for method, path, expected in (
                ("GET", "/", 404), ("GET", "/v1", 404), ("GET", "/v1/nothing", 404), ("POST", "/v1/status", 405),
                ("DELETE", "/v1/updates", 405), ("GET", "/v1/jobs/%zz", 400), ("GET", "/v1/jobs/../../etc", 404),
                ("GET", "/v1/checkpoints/m/versions/1", 404), ("GET", "/v1/jobs/none-1", 404),
                ("DELETE", "/v1/engines/none", 404), ("GET", "/healthz", 200), ("GET", "/readyz", 200)):
            status, answer = daemon.http(method, path)
            self.assertEqual(status, expected, (method, path, answer))
        for name in ("", "%2F", "..%2F..", "a%20b", "a%00b", "x" * 1000, "-%40-"):
            status, answer = daemon.http("PUT", f"/v1/checkpoints/{name}/versions/1", {"source": {"uri": "/nowhere"}})
            self.assertIn(status, (400, 404), name)
        for version in ("a b".replace(" ", "%20"), "x" * 129, "%2F"):
            status, answer = daemon.http("PUT", f"/v1/checkpoints/m/versions/{version}", {"source": {"uri": "/nowhere"}})
            self.assertIn(status, (400, 404), version)

    def test_engines_that_make_no_sense(self):
        daemon = self.daemon()
        good = {"kind": "sglang", "endpoint": "http://127.0.0.1:1", "checkpoint": "m"}
        for field, values in {"kind": ["", "ollama", 7], "checkpoint": ["", "a@b", "/"],
                              "endpoint": ["", "ftp://x", "http://", "http://h:99999", "unix:", "unix:relative", 7],
                              "devices": ["HOST-0", [7]]}.items():
            for value in values:
                status, answer = daemon.http("PUT", "/v1/engines/x", {**good, field: value})
                self.assertIn(status, (400, 404, 422), (field, value, answer))
        self.assertEqual(daemon.http("GET", "/v1/engines")[1]["engines"], [])

    def test_clients_that_are_slow_or_silent_do_not_stop_others(self):
        daemon, engine, source = self.serving(devices=("HOST-0",))
        connections = []
        try:
            for _ in range(50):
                connections.append(socket.socket(socket.AF_UNIX))
                connections[-1].connect(daemon.socket_path)
                connections[-1].send(b"GET /v1/sta")
            self.assertEqual(daemon.http("GET", "/healthz", timeout=10)[0], 200)
            daemon.must("update", "m@1")
            self.assert_holds(engine, source)
        finally:
            for connection in connections:
                connection.close()

    def test_clients_that_leave_while_they_wait(self):
        daemon, engine, _ = self.serving(devices=("HOST-0",))
        engine.fault("HOST-0", "slow", seconds=0.3)
        job = daemon.detached("update", "m@1")
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(daemon.socket_path)
                connection.send(f"GET /v1/jobs/{job}?wait=30 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        self.assertEqual(daemon.wait_job(job)["state"], "succeeded")
        self.assert_alive(daemon)

    def test_many_clients(self):
        daemon, _, _ = self.serving(devices=("HOST-0",))
        errors = []

        def ask():
            for _ in range(30):
                try:
                    status, answer = daemon.http("GET", "/v1/status")
                    if status not in (200, 503):
                        errors.append((status, answer))
                except OSError as error:
                    errors.append(error)

        threads = [threading.Thread(target=ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(errors, [])
        time.sleep(0.1)
        self.assert_alive(daemon)

    def test_the_socket_is_for_its_group(self):
        daemon = self.daemon()
        self.assertEqual(oct(os.stat(daemon.socket_path).st_mode & 0o777), "0o660")
        self.assertEqual(oct(os.stat(os.path.join(daemon.runtime_dir, "r")).st_mode & 0o777), "0o750")


if __name__ == "__main__":
    harness.main()
