"""Engines come and go, and each is brought to its target by itself: from the store, with no disk read."""

import os
import shutil
import time

import harness

QUICK = {"watch": {"poll": "200ms", "poll_slowest": "500ms", "retry": "500ms", "retry_slowest": "2s"}}


class LifeCycle(harness.Case):
    def wait_serving(self, daemon, version, name="e", seconds=30):
        return harness.wait_until(f"{name} to serve {version}", lambda: (lambda engine: (
            engine["state"], engine["serving"], engine["ready"]) == ("serving", version, True) and engine)(
                daemon.engine(name)), seconds)

    def wait_state(self, daemon, state, name="e", seconds=30):
        return harness.wait_until(f"{name} to be {state}", lambda: (lambda engine: engine["state"] == state and engine)(
            daemon.engine(name)), seconds)

    def ready(self, daemon, name="e", query=""):
        return daemon.http("GET", f"/v1/engines/{name}/ready{query}")

    def settled(self, daemon, seconds=1.5):
        """Some looks later."""
        time.sleep(seconds)

    def followed(self, config=None):
        """A daemon and an engine that it has brought to m@1 by itself."""
        engine = self.engine()
        daemon = self.daemon({**QUICK, **(config or {})})
        source = self.llama()
        daemon.load("m@1", source)
        daemon.add_engine("e", engine, "m", follow=True, target="m@1")
        self.wait_serving(daemon, "m@1")
        self.assert_holds(engine, source)
        return daemon, engine, source

    def test_the_daemon_first_and_then_the_engine(self):
        engine = self.engine()
        engine.kill9()
        daemon = self.daemon(QUICK)
        source = self.llama()
        daemon.add_engine("e", engine, "m", follow=True, target="m@1")
        self.assertIn("not appeared", self.wait_state(daemon, "waiting")["why"] + daemon.engine("e")["why"])
        daemon.load("m@1", source)
        self.settled(daemon)
        status, answer = self.ready(daemon)
        self.assertEqual((status, answer["ready"], answer["state"]), (503, False, "waiting"))
        engine.start_again()
        self.wait_serving(daemon, "m@1")
        self.assert_holds(engine, source)
        self.assertEqual(self.ready(daemon)[0], 200)
        jobs = [job for job in daemon.http("GET", "/v1/jobs")[1]["jobs"] if job["kind"] == "update"]
        self.assertEqual(len(jobs), 1)
        self.assertIn("by itself", jobs[0]["subject"])

    def test_the_engine_first_and_the_configuration_says_where_it_goes(self):
        engine = self.engine()
        source = self.llama()
        toml = (f'[[preload]]\ncheckpoint = "m@1"\nsource = "{source}"\n'
                f'[[engine]]\nname = "e"\nkind = "sglang"\nendpoint = "{engine.endpoint}"\ncheckpoint = "m"\n'
                'target = "m@1"\n')
        daemon = self.daemon(QUICK, toml)
        self.wait_serving(daemon, "m@1")
        self.assert_holds(engine, source)
        # Once: what somebody does afterwards survives the file.
        second = self.second(source)
        daemon.load("m@2", second)
        daemon.must("update", "m@2")
        daemon.terminate()
        daemon.start()
        self.assertEqual((daemon.engine("e")["target"], daemon.engine("e")["serving"]), ("m@2", "m@2"))
        self.settled(daemon)
        self.assertEqual(len(engine.calls()), 2)

    def test_a_restart_within_one_poll_is_noticed_and_healed_without_the_disk(self):
        daemon, engine, source = self.followed({"watch": {**QUICK["watch"], "poll": "3s"}})
        kept = self.path("elsewhere")
        shutil.move(source, kept)
        pid = daemon.engine("e")["pid"]
        engine.kill9()
        engine.start_again()
        harness.wait_until("the restart to be noticed", lambda: daemon.engine("e")["restarts"] == 1, 20)
        self.wait_serving(daemon, "m@1")
        self.assert_holds(engine, kept)
        self.assertFalse(os.path.exists(source))
        self.assertNotEqual(daemon.engine("e")["pid"], pid)
        self.assertEqual(len(engine.calls()), 1)
        subject = daemon.http("GET", "/v1/jobs")[1]["jobs"][0]["subject"]
        self.assertIn("restarted", subject)

    def test_gone_and_back(self):
        daemon, engine, source = self.followed()
        engine.kill9()
        self.wait_state(daemon, "gone")
        self.assertEqual(self.ready(daemon)[0], 503)
        engine.start_again()
        self.wait_serving(daemon, "m@1")
        self.assert_holds(engine, source)

    def test_a_load_changes_nothing_of_what_a_restart_brings_up(self):
        daemon, engine, source = self.followed()
        daemon.load("m@2", self.second(source))
        engine.kill9()
        engine.start_again()
        harness.wait_until("the restart to be noticed", lambda: daemon.engine("e")["restarts"] == 1)
        self.wait_serving(daemon, "m@1")
        self.assert_holds(engine, source)

    def test_update_rollback_and_set(self):
        daemon, engine, source = self.followed()
        second = self.second(source)
        daemon.load("m@2", second)
        self.assert_fails(daemon.ctl("rollback", "--engine", "e"), "not_found", "no earlier version")
        daemon.must("update", "m@2")
        self.assert_holds(engine, second)
        self.assertEqual(daemon.engine("e")["previous"], "m@1")
        daemon.must("rollback")
        self.assert_holds(engine, source)
        self.assertEqual((daemon.engine("e")["target"], daemon.engine("e")["previous"]), ("m@1", "m@2"))
        daemon.must("engine", "set", "e", "--target", "m@2")
        daemon.must("wait", "engine/e", "--serving", "m@2", "--timeout", "20s")
        self.assert_holds(engine, second)
        daemon.must("evict", "m@1")
        self.assert_fails(daemon.ctl("rollback"), "not_found", "ckptctl load m@1")
        self.assertEqual(daemon.engine("e")["target"], "m@2")

    def test_a_failed_update_is_followed_by_the_last_good_version(self):
        daemon, engine, source = self.followed()
        daemon.load("m@2", self.second(source))
        engine.fault("HOST-0", "fail_load", bucket=1)
        self.assertNotEqual(daemon.ctl("update", "m@2").code, 0)
        self.wait_serving(daemon, "m@1")
        self.assert_holds(engine, source)
        self.assertEqual(daemon.engine("e")["target"], "m@1")

    def test_drain_and_undrain(self):
        daemon, engine, source = self.followed()
        daemon.load("m@2", self.second(source))
        self.assertEqual(daemon.must("drain", "e")["state"], "draining")
        status, answer = self.ready(daemon)
        self.assertEqual((status, answer["state"]), (503, "draining"))
        self.assert_fails(daemon.ctl("update", "m@2", "--engine", "e"), "conflict", "ckptctl undrain e")
        engine.kill9()
        engine.start_again()
        daemon.terminate()
        daemon.start()
        daemon.load("m@1", source)
        self.settled(daemon)
        self.assertEqual(daemon.engine("e")["state"], "draining")
        self.assertEqual(len(engine.calls()), 0)
        daemon.must("undrain", "e")
        self.wait_serving(daemon, "m@1")
        self.assert_holds(engine, source)

        self.assertTrue(daemon.must("drain", "--all")["drained"])
        status, answer = daemon.http("GET", "/readyz")
        self.assertEqual(status, 503)
        self.assertIn("undrain --all", answer["not_ready"][0])
        self.assert_fails(daemon.ctl("update", "m@1"), "conflict", "ckptctl undrain --all")
        daemon.must("undrain", "--all")
        self.assertEqual(daemon.http("GET", "/readyz")[0], 200)

    def test_a_running_job_finishes_in_a_drained_engine(self):
        daemon, engine, source = self.followed({"timeouts": harness.HELD})
        engine.hold("HOST-0")
        job = daemon.detached("update", "m@1")
        engine.wait_held("HOST-0")
        daemon.must("drain", "e")
        self.assertEqual(self.ready(daemon)[0], 503)
        engine.go()
        self.assertEqual(daemon.wait_job(job)["state"], "succeeded")
        self.assertEqual(daemon.engine("e")["state"], "draining")
        self.assertEqual(self.ready(daemon)[0], 503)

    def test_wait_for_an_engine(self):
        engine = self.engine()
        engine.kill9()
        daemon = self.daemon(QUICK)
        daemon.load("m@1", self.llama())
        daemon.add_engine("e", engine, "m", follow=True, target="m@1")
        self.assert_fails(daemon.ctl("wait", "engine/e", "--timeout", "1s"), "timed_out", "waiting", "m@1")
        waiting = self.background(daemon.must, "wait", "engine/e", "--serving", "m@1", "--timeout", "60s")
        engine.start_again()
        self.assertEqual(waiting()["serving"], "m@1")
        self.assertEqual(self.ready(daemon, query="?serving=m%401")[0], 200)
        self.assertEqual(self.ready(daemon, query="?serving=m%402")[0], 503)

    def test_a_daemon_that_comes_back_pushes_nothing_into_a_healthy_engine(self):
        daemon, engine, source = self.followed()
        for end in (daemon.kill9, daemon.terminate):
            end()
            daemon.start()
            daemon.load("m@1", source)
            self.settled(daemon)
            self.wait_serving(daemon, "m@1")
        self.assertEqual(len(engine.calls()), 1)

    def test_a_daemon_that_comes_back_heals_an_engine_that_was_restarted_meanwhile(self):
        daemon, engine, source = self.followed()
        daemon.kill9()
        engine.kill9()
        engine.start_again()
        daemon.start()
        daemon.load("m@1", source)
        harness.wait_until("the restart to be noticed", lambda: daemon.engine("e")["restarts"] == 1)
        self.wait_serving(daemon, "m@1")
        self.assert_holds(engine, source)

    def test_one_engine_that_crashes_again_and_again_disturbs_no_other(self):
        daemon, engine, source = self.followed({"device": {"kind": "host", "host_devices": 2}})
        other = self.engine(devices=("HOST-0",))
        other.misbehave("failure", update=True)
        daemon.add_engine("other", other, "m", devices=("HOST-0",), follow=True, target="m@1")
        harness.wait_until("a failure of its own", lambda: daemon.engine("other")["own_failures"] >= 1)
        self.assertTrue(daemon.engine("other")["last_error"])
        self.assertEqual(daemon.engine("e")["state"], "serving")
        self.wait_serving(daemon, "m@1", "other")  # its next attempt
        self.assertEqual(daemon.engine("other")["last_error"], "")

    def test_without_being_followed_it_is_only_watched(self):
        engine = self.engine()
        daemon = self.daemon(QUICK)
        source = self.llama()
        daemon.load("m@1", source)
        daemon.add_engine("e", engine, "m")
        daemon.must("update", "m@1")
        self.wait_serving(daemon, "m@1")
        engine.kill9()
        self.wait_state(daemon, "gone")
        engine.start_again()
        self.assertIn("ckptctl update m@1", self.wait_state(daemon, "waiting")["why"])
        self.settled(daemon)
        self.assertEqual(len(engine.calls()), 0)


if __name__ == "__main__":
    harness.main()
