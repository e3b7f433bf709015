"""What becomes of the arena between updates. That ranks hold the right bytes after several updates from one arena is
test_update.py's business, with both kinds of ranks."""

import harness


class KeptArena(harness.Case):
    def arenas(self, daemon):
        return [device["kept_arena_bytes"] for device in daemon.http("GET", "/v1/status")[1]["devices"]]

    def device_memory(self, daemon):
        return [memfd for memfd in daemon.memfds() if "ckptd-device" in memfd]

    def test_the_next_update_uses_it_and_trim_frees_it(self):
        one = self.llama()
        two = self.second(one)
        daemon, engine, _ = self.serving(checkpoint=one)
        daemon.load("m@2", two)
        first = daemon.must("update", "m@1")
        kept = self.arenas(daemon)
        self.assertEqual(kept, [first["result"]["engines"][0]["arena_bytes"]] * 2)
        second = daemon.must("update", "m@2")
        self.assert_holds(engine, two)
        self.assertEqual(self.arenas(daemon), kept)
        self.assertEqual(len(self.device_memory(daemon)), 2)
        (report,) = second["result"]["engines"]
        self.assertGreater(report["first_bucket_seconds"], 0)
        self.assertLess(report["first_bucket_seconds"], report["seconds"] + 1)
        self.assertEqual({stage["name"] for stage in second["stages"]},
                         {"arena", "plan", "open", "ping", "pause", "journal", "connect", "push", "upload", "reload",
                          "finish", "answer"})
        self.assertIn("kept for the next update", daemon.ctl("status", json_output=False).stdout)
        self.assertGreaterEqual(daemon.must("trim")["bytes"], sum(kept))
        self.assertEqual(self.arenas(daemon), [0, 0])
        self.assertEqual(self.device_memory(daemon), [])
        daemon.must("update", "m@1")
        self.assert_holds(engine, one)

    def test_a_failed_update_leaves_none(self):
        daemon, engine, source = self.serving()
        daemon.must("update", "m@1")
        engine.fault("HOST-1", "fail_load", 1)
        self.assertNotEqual(daemon.ctl("update", "m@1").code, 0)
        self.assertEqual(self.arenas(daemon), [0, 0])  # the ranks may still map them
        engine.wait_idle()
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)

    def test_engines_that_share_devices_keep_one_for_each_device(self):
        daemon, source = self.daemon(), self.llama(megabytes=2)
        engines = [self.engine(), self.engine()]
        for number, engine in enumerate(engines):
            daemon.add_engine(f"e{number}", engine, "m")
        daemon.load("m@1", source)
        for _ in range(2):
            daemon.must("update", "m@1")
            self.assertEqual(len(self.device_memory(daemon)), 2)
        for engine in engines:
            self.assert_holds(engine, source)

    def test_none_is_kept_when_that_is_configured(self):
        daemon, engine, source = self.serving({"push": {"bucket": "256KiB", "keep_arena": False}})
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)
        self.assertEqual(self.arenas(daemon), [0, 0])
        self.assertEqual(self.device_memory(daemon), [])


if __name__ == "__main__":
    harness.main()
