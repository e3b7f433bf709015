"""The daemon ends in the middle: killed or asked to. The engine's call must end with an error and no rank may stay in
recv, whatever step it was at; the next full update heals. With both kinds of ranks."""

import json
import os
import signal
import time

import harness

# What the wire contract promises after a restart; the rest is the time that processes need on a busy machine.
PROMISED_SECONDS = 10

# Where the daemon is when it ends: the rank that is held, where, the fan-out, and whether a bucket was sent by then. The
# first rank, because SGLang's answer is its own; it waits for its next bucket while a broadcast waits for the second one.
STEPS = {
    "before_the_rank_connects": (("HOST-0", "connect_late"), "broadcast", False),
    "in_a_bucket": (("HOST-0", "stall"), "auto", True),
    "in_a_later_bucket": (("HOST-0", "stall", 2), "broadcast", True),
    "between_buckets": (("HOST-1", "stall", 2), "broadcast", True),
    "in_the_post_hook": (("HOST-0", "slow_post_hook"), "auto", True),
}


class Restart(harness.OneEngine):
    def begin(self, held, fan_out):
        # A rank that had finished before the end never comes again: its endpoint is held for as long as custody lasts.
        daemon = self.daemon({"push": {"bucket": "512KiB", "fan_out": fan_out},
                              "timeouts": {**harness.HELD, "custody": "10s"}})
        daemon.add_engine("e", self.shared, "m", devices=("HOST-0", "HOST-1"))
        daemon.load("m@1", self.source)
        self.shared.hold(*held)
        daemon.detached("update", "m@1")
        self.shared.wait_held(held[0])
        time.sleep(0.2)  # for the other rank to come as far as it can
        return daemon

    def check_released(self, step, daemon):
        held, _, poisoned = STEPS[step]
        if held[1] != "slow_post_hook":  # there the rank has all it wants, and says so to its engine
            self.assertGreaterEqual(self.shared.calls()[-1]["status"], 400, "a cut-off update was a success")
        engine = daemon.engine("e")
        self.assertEqual(bool(engine["poisoned"]), poisoned, engine)
        self.assertNotEqual(engine["serving"], "m@1")
        harness.wait_until("the custodian to let go", lambda: not daemon.http("GET", "/v1/status")[1]["in_custody"], 40)

    def check_healing(self, daemon):
        self.shared.reset()
        daemon.load("m@1", self.source)
        daemon.must("update", "m@1")
        self.assert_holds(self.shared, self.source)
        engine = daemon.engine("e")
        self.assertEqual((engine["serving"], engine["poisoned"]), ("m@1", ""))
        harness.wait_until("the sockets to be removed", lambda: not daemon.rank_sockets(), 40)

    def check_kill(self, step):
        held, fan_out, _ = STEPS[step]
        daemon = self.begin(held, fan_out)
        daemon.kill9()
        self.assertFalse(self.shared.idle(), "the kill came too late to test anything")
        daemon.start()
        started = time.monotonic()
        self.shared.go()
        self.shared.wait_idle(PROMISED_SECONDS + 5)
        print(f"released {time.monotonic() - started:.1f} s after the restart", end=" ", flush=True)
        self.check_released(step, daemon)
        self.check_healing(daemon)

    def check_term(self, step):
        held, fan_out, _ = STEPS[step]
        daemon = self.begin(held, fan_out)
        daemon.process.send(signal.SIGTERM)
        harness.wait_until("its end to begin", lambda: "Terminated: ending" in daemon.log())
        self.shared.go()  # the rank looks at its socket again while the daemon waits for it
        self.assertEqual(daemon.process.wait(30), 0, "SIGTERM is an orderly end")
        # Nobody binds the endpoints any more: what was not released by now stays in recv.
        self.shared.wait_idle(PROMISED_SECONDS + 5)
        daemon.start()
        self.check_released(step, daemon)
        self.check_healing(daemon)

    def test_kill_before_the_rank_connects(self):
        self.check_kill("before_the_rank_connects")

    def test_kill_in_a_bucket(self):
        self.check_kill("in_a_bucket")

    def test_kill_in_a_later_bucket(self):
        self.check_kill("in_a_later_bucket")

    def test_kill_between_buckets(self):
        self.check_kill("between_buckets")

    def test_kill_in_the_post_hook(self):
        self.check_kill("in_the_post_hook")

    def test_term_before_the_rank_connects(self):
        self.check_term("before_the_rank_connects")

    def test_term_in_a_bucket(self):
        self.check_term("in_a_bucket")

    def test_term_between_buckets(self):
        self.check_term("between_buckets")

    def test_term_in_the_post_hook(self):
        self.check_term("in_the_post_hook")

    def test_kill_twice_in_a_row(self):
        held, fan_out, _ = STEPS["in_a_bucket"]
        daemon = self.begin(held, fan_out)
        daemon.kill9()
        daemon.start()
        daemon.kill9()
        daemon.start()
        self.shared.go()
        self.shared.wait_idle(PROMISED_SECONDS + 5)
        self.assertTrue(daemon.engine("e")["poisoned"])
        self.check_healing(daemon)

    def test_a_long_time_between_kill_and_restart(self):
        held, fan_out, _ = STEPS["in_a_later_bucket"]
        daemon = self.begin(held, fan_out)
        daemon.kill9()
        self.shared.go()  # its answer is taken by nobody
        time.sleep(4)
        self.assertFalse(self.shared.idle())
        daemon.start()
        self.shared.wait_idle(PROMISED_SECONDS + 5)
        self.assertTrue(daemon.engine("e")["poisoned"])
        self.check_healing(daemon)

    def test_a_second_term_does_not_leave_ranks_behind(self):
        held, fan_out, _ = STEPS["in_a_bucket"]
        daemon = self.begin(held, fan_out)
        daemon.process.send(signal.SIGTERM)
        harness.wait_until("its end to begin", lambda: "Terminated: ending" in daemon.log())
        daemon.process.send(signal.SIGTERM)
        self.shared.go()
        daemon.process.wait(30)
        daemon.start()
        self.shared.wait_idle(PROMISED_SECONDS + 5)
        self.check_healing(daemon)


class WhatSurvives(harness.Case):
    def test_engines_targets_and_what_they_serve(self):
        daemon, engine, source = self.serving()
        daemon.must("update", "m@1")
        daemon.add_engine("other", engine, "n", devices=("HOST-1",))
        for end in (daemon.kill9, daemon.terminate):
            end()
            daemon.start()
            record = daemon.engine("e")
            self.assertEqual((record["serving"], record["target"], record["state"], record["poisoned"]),
                             ("m@1", "m@1", "serving", ""))
            other = daemon.engine("other")
            self.assertEqual((other["endpoint"], other["checkpoint"], other["devices"]),
                             (engine.endpoint, "n", ["HOST-1"]))
        # What is served is known by its schema, too: other shapes are still refused.
        daemon.load("m@2", self.llama("other", megabytes=8))
        self.assertNotEqual(daemon.ctl("update", "m@2", "--engine", "e").code, 0)
        daemon.load("m@1", source)
        daemon.must("update", "m@1", "--engine", "e")
        self.assert_holds(engine, source)

    def test_a_removed_engine_stays_removed(self):
        daemon, _, _ = self.serving(devices=("HOST-0",))
        daemon.must("engine", "remove", "e")
        daemon.kill9()
        daemon.start()
        self.assertEqual(daemon.http("GET", "/v1/engines/e")[0], 404)

    def test_a_poisoned_engine_stays_poisoned(self):
        daemon, engine, _ = self.serving(devices=("HOST-0",))
        engine.fault("HOST-0", "fail_load", 1)
        self.assertNotEqual(daemon.ctl("update", "m@1").code, 0)
        engine.wait_idle()
        for end in (daemon.terminate, daemon.kill9):
            end()
            daemon.start()
            self.assertTrue(daemon.engine("e")["poisoned"])

    def test_kill_during_a_load(self):
        daemon, source = self.daemon(), self.llama(megabytes=150)
        job = daemon.detached("load", "m@1", source)
        daemon.kill9()
        daemon.start()
        self.assertEqual(daemon.http("GET", f"/v1/jobs/{job}")[0], 404)
        daemon.load("m@1", source)

    def test_term_during_a_load_is_prompt(self):
        daemon, source = self.daemon(), self.llama(megabytes=150)
        daemon.detached("load", "m@1", source)
        self.assertEqual(daemon.terminate(20), 0)


class StateDirectory(harness.Case):
    def test_if_it_cannot_be_written_the_engine_is_not_touched(self):
        daemon, engine, source = self.serving()
        blocker = os.path.join(daemon.state_dir, "state.json.new")
        os.mkdir(blocker)  # what the journal writes before it renames; holds against root, too
        answer = daemon.ctl("update", "m@1")
        self.assertNotEqual(answer.code, 0)
        self.assertIn("state.json", answer.everything())
        self.assertEqual(engine.calls(), [])
        self.assertFalse(daemon.engine("e")["poisoned"])
        self.assert_alive(daemon)
        self.assertNotEqual(daemon.ctl("engine", "add", "x", "--kind", "sglang", "--endpoint", "http://127.0.0.1:1",
                                       "--checkpoint", "m").code, 0)
        os.rmdir(blocker)
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)

    def test_damaged_state_is_refused_by_name(self):
        daemon, _, _ = self.serving(devices=("HOST-0",))
        daemon.terminate()
        path = os.path.join(daemon.state_dir, "state.json")
        with open(path, encoding="utf-8") as file:
            good = file.read()
        newer = json.loads(good)
        self.assertIn("format", newer)
        newer["format"] = 999
        for content in (good[: len(good) // 2], "", "[]", "{}", '{"format": 1, "engines": 7}', json.dumps(newer)):
            with self.subTest(content=content[:40]):
                with open(path, "w", encoding="utf-8") as file:
                    file.write(content)
                daemon.launch()
                self.assertNotEqual(daemon.process.wait(20), 0)
                self.assertIn("state.json", daemon.log())
        with open(path, "w", encoding="utf-8") as file:
            file.write(good)
        daemon.start()
        self.assertEqual(daemon.engine("e")["checkpoint"], "m")

    def test_a_second_daemon_is_refused_and_the_first_unharmed(self):
        daemon, engine, source = self.serving()
        second = self.daemon(start=False)
        for shared in ("runtime_dir", "state_dir"):
            with self.subTest(shared=shared):
                second.write_config({"": {shared: getattr(daemon, shared)}})
                second.launch()
                self.assertNotEqual(second.process.wait(20), 0)
                self.assert_alive(daemon)
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)

    def test_a_stale_socket_and_strange_files_do_not_stop_the_start(self):
        daemon = self.daemon()
        daemon.kill9()
        self.assertTrue(os.path.exists(daemon.socket_path))
        os.makedirs(os.path.join(daemon.runtime_dir, "r"), exist_ok=True)
        with open(os.path.join(daemon.runtime_dir, "r", "stale12345"), "w", encoding="utf-8"):
            pass
        daemon.start()
        self.assertEqual(oct(os.stat(daemon.socket_path).st_mode & 0o777), "0o660")
        self.assertEqual(daemon.terminate(), 0)
        self.assertFalse(os.path.exists(daemon.socket_path), "the socket outlived an orderly end")


if __name__ == "__main__":
    harness.main()
