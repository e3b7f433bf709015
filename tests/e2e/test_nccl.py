"""Buckets spread by NCCL between GPUs, played by the libraries of tests/support/fake_nccl and fake_cuda: every byte is compared,
communicators serve one update after the other, a failure of NCCL ends one update and no other, and a library that is not
usable ends the start or is passed over with its reason."""

import os
import time

import harness
from harness import EXIT

LIBRARIES = os.path.join(os.path.dirname(harness.BIN_DIR), "tests")
CUDA = os.environ.get("CKPTD_FAKE_CUDA") or os.path.join(LIBRARIES, "libfake_cuda.so")
NCCL = os.environ.get("CKPTD_FAKE_NCCL") or os.path.join(LIBRARIES, "libfake_nccl.so")
GPUS = [f"GPU-fa4ec0da-0000-0000-0000-00000000000{number}" for number in range(2)]
MADE = "communicators of " + ", ".join(GPUS) + " made"


class Nccl(harness.Case):
    def config(self, **sections):
        config = {"device": {"kind": "cuda"}, "cuda": {"library": CUDA}, "nccl": {"library": NCCL},
                  "collective": {"backend": "nccl"}, "push": {"fan_out": "broadcast"}, "store": {"segment": "1MiB"}}
        for section, values in sections.items():
            config.setdefault(section, {}).update(values)
        return config

    def house(self, config=None, environment=None):
        engine = self.engine(devices=GPUS, environment={"CKPTD_RANK_CUDA_LIBRARY": CUDA})
        source = self.llama()
        daemon = self.daemon(config or self.config(), environment={"CKPTD_FAKE_NCCL_CUDA": CUDA, **(environment or {})})
        daemon.add_engine("e", engine, "m", GPUS)
        daemon.load("m@1", source)
        return daemon, engine, source

    def tearDown(self):
        for part in self._parts:
            self.assertNotIn("fake_cuda: complaint", part.log(), "what a driver would have punished")
            self.assertNotIn("fake NCCL:", part.log(), "what NCCL would have punished")

    def test_every_byte_arrives_and_communicators_are_made_once(self):
        daemon, engine, source = self.house()
        second = self.second(source)
        daemon.load("m@2", second)
        for version, expected in (("m@1", source), ("m@2", second), ("m@1", source)):
            self.assertEqual(daemon.must("update", version)["state"], "succeeded")
            self.assert_holds(engine, expected)
        self.assertEqual(daemon.log().count(MADE), 1)
        self.assertEqual(daemon.must("trim")["communicators"], 1)
        self.assertEqual(daemon.must("trim")["communicators"], 0)
        self.assertEqual(daemon.must("update", "m@2")["state"], "succeeded")
        self.assert_holds(engine, second)
        self.assertEqual(daemon.log().count(MADE), 2)
        self.assertEqual(daemon.terminate(), 0)

    def test_a_failure_names_device_and_step_and_the_next_update_begins_anew(self):
        daemon, engine, source = self.house(environment={"CKPTD_FAKE_NCCL_LATER": "ncclBroadcast:4=2"})
        answer = daemon.ctl("update", "m@1")
        self.assertNotEqual(answer.code, 0, answer)
        for word in (GPUS[1], "spreading bucket", "queue a broadcast of", "system error"):
            self.assertIn(word, answer.error["sentence"])
        pids = [f"its rank of pid {engine.rank(gpu)['pid']}" for gpu in GPUS]
        self.assertTrue(any(pid in answer.error["sentence"] for pid in pids), answer.error)
        self.assert_alive(daemon)
        engine.wait_idle()
        self.assertEqual(daemon.must("update", "m@1")["state"], "succeeded")
        self.assert_holds(engine, source)
        self.assertEqual(daemon.log().count(MADE), 2)
        self.assertEqual(daemon.terminate(), 0)

    def test_communicators_that_are_not_made_in_time_end_the_update_before_the_engine_is_touched(self):
        config = self.config(timeouts={"nccl_start": "4s", "spread": "10s"})
        daemon, engine, source = self.house(config, {"CKPTD_FAKE_NCCL_LATER": "ncclCommInitRankConfig:2=7"})
        answer = daemon.ctl("update", "m@1")
        self.assertEqual(answer.code, EXIT["timed_out"], answer)
        for word in (GPUS[1], "NCCL_SOCKET_IFNAME"):
            self.assertIn(word, answer.error["sentence"])
        self.assertEqual(daemon.must("update", "m@1")["state"], "succeeded")
        self.assert_holds(engine, source)

    def test_an_end_is_not_held_up_by_nccl_that_hangs(self):
        config = self.config(timeouts={"shutdown": "2s", "spread": "60s", "upload": "60s", "reload": "60s"})
        daemon, engine, _ = self.house(config, {"CKPTD_FAKE_NCCL_LATER": "ncclBroadcast:4=7"})
        daemon.detached("update", "m@1")
        engine.wait_updating(1)
        time.sleep(1)  # until the lanes wait for NCCL
        started = time.monotonic()
        self.assertEqual(daemon.terminate(), 0)
        self.assertLess(time.monotonic() - started, 10 * harness.PATIENCE, "with patience it would be minutes")

    def test_a_cancel_is_heard_while_all_lanes_wait_for_nccl(self):
        # A part of a broadcast comes to no end: of the first one, before any rank was sent a bucket, and of the second, which
        # in an arena of one slot begins when the first bucket is loaded.
        minutes = {"spread": "60s", "upload": "60s", "reload": "60s"}
        for part, state in (("ncclBroadcast:2=7", "waiting"), ("ncclBroadcast:4=7", "poisoned")):
            with self.subTest(part):
                config = self.config(timeouts=minutes, push={"bucket": "512KiB", "arena": "512KiB"})
                daemon, engine, source = self.house(config, {"CKPTD_FAKE_NCCL_LATER": part})
                job = daemon.detached("update", "m@1")
                engine.wait_updating(1)
                if state == "poisoned":
                    harness.wait_until("a bucket to be sent", lambda: "pushing" in daemon.phases())  # noqa: B023
                time.sleep(1)  # until the lanes wait for NCCL
                started = time.monotonic()
                daemon.must("job", "cancel", job, "--force")
                self.assertEqual(daemon.wait_job(job)["state"], "cancelled")
                self.assertLess(time.monotonic() - started, 10 * harness.PATIENCE, "with patience it would be minutes")
                engine.wait_idle()
                self.assertEqual(daemon.engine("e")["state"], state)
                self.assertEqual(daemon.must("update", "m@1")["state"], "succeeded")
                self.assert_holds(engine, source)
                self.assertEqual(daemon.log(10**7).count(MADE), 2)  # many looks at the job ago
                self.assertEqual(daemon.terminate(), 0)

    def test_a_cancel_is_heard_while_communicators_are_made(self):
        config = self.config(timeouts={"nccl_start": "60s", "spread": "60s"})
        daemon, engine, source = self.house(config, {"CKPTD_FAKE_NCCL_LATER": "ncclCommInitRankConfig:2=7"})
        job = daemon.detached("update", "m@1")
        time.sleep(1)
        started = time.monotonic()
        daemon.must("job", "cancel", job)
        self.assertEqual(daemon.wait_job(job)["state"], "cancelled")
        self.assertLess(time.monotonic() - started, 10 * harness.PATIENCE, "with patience it would be a minute")
        self.assertEqual(daemon.must("update", "m@1")["state"], "succeeded")
        self.assert_holds(engine, source)
        self.assertEqual(daemon.terminate(), 0)

    def check_start_fails(self, code, words, config, environment=None):
        daemon = self.daemon(config, start=False, environment=environment).launch()
        self.assertEqual(daemon.process.wait(30), EXIT[code], daemon.log())
        for word in words:
            self.assertIn(word, daemon.log())

    def test_a_library_that_is_missing_or_too_old_ends_the_start(self):
        self.check_start_fails("unavailable", ["/nowhere/libnccl.so.2", "[nccl] library"],
                               self.config(nccl={"library": "/nowhere/libnccl.so.2"}))
        self.check_start_fails("unsupported", ["2.21.5", "2.22.3"], self.config(),
                               {"CKPTD_FAKE_NCCL_VERSION": "22105"})
        self.check_start_fails("unsupported", ["HOST-0", "[collective] backend"],
                               self.config(device={"kind": "host", "host_devices": 2}))

    def test_auto_takes_nccl_where_it_can_and_says_why_where_not(self):
        daemon, engine, source = self.house(self.config(collective={"backend": "auto"}))
        daemon.must("update", "m@1")
        self.assertIn(MADE, daemon.log())
        daemon, engine, source = self.house(
            self.config(collective={"backend": "auto"}, nccl={"library": "/nowhere/libnccl.so.2"}))
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)
        self.assertIn("collective auto means local", daemon.log())
        self.assertIn("/nowhere/libnccl.so.2", daemon.log())


if __name__ == "__main__":
    harness.main()
