"""What engines tell of their own weights: an update is believed, a silent failure and a changed weight are found."""

import harness


class Verify(harness.Case):
    def two(self, kind):
        """A daemon with m@1 and m@2, and the engines `e` and `f` of that kind, one rank each."""
        daemon, source = self.daemon(), self.llama(megabytes=1)
        daemon.load("m@1", source)
        daemon.load("m@2", self.second(source))
        engines = {}
        for name, device in (("e", "HOST-0"), ("f", "HOST-1")):
            engines[name] = self.engine(kind=kind, devices=(device,))
            daemon.must("engine", "add", name, "--kind", kind, "--endpoint", engines[name].endpoint, "--checkpoint", "m",
                        "--devices", device, "--no-follow")
        return daemon, engines, source

    def test_equal_after_an_update(self):
        for kind in ("sglang", "vllm"):
            with self.subTest(kind=kind):
                daemon, _, _ = self.two(kind)
                job = daemon.must("update", "m@1")
                for report in job["result"]["engines"]:
                    self.assertEqual(len(report["checksums"]["ranks"]), 1, report)
                    self.assertGreater(report["checksums"]["ranks"][0]["tensors"], 0)
                self.assertEqual([pair["agree"] for pair in job["result"]["agreement"]], [True])
                result = daemon.must("verify", "e")["result"]
                self.assertEqual([other["engine"] for other in result["compared"]], ["e", "f"])
                text = daemon.ctl("verify", "f", json_output=False)
                self.assertEqual(text.code, 0)
                self.assertIn("engine f holds m@1", text.everything())
                self.assertIn("what engine e told after", text.everything())

    def test_a_post_hook_that_failed_silently_is_found_by_the_other_engine(self):
        daemon, engines, _ = self.two("sglang")
        engines["f"].fault("HOST-1", "swallow_post_hook")
        job = daemon.must("update", "m@1")  # every rank and both servers said yes
        pair, = job["result"]["agreement"]
        self.assertFalse(pair["agree"])
        warnings = [report["warnings"] for report in job["result"]["engines"] if report["engine"] == "f"][0]
        self.assertIn("their ranks do not hold the same", " ".join(warnings))
        for name in ("e", "f"):
            self.assert_fails(daemon.ctl("verify", name), "peer_failed", "does not hold what engine")
            self.assertFalse(daemon.engine(name)["poisoned"])
        daemon.must("update", "m@1")
        daemon.must("verify", "f")

    def test_a_weight_that_changed_afterwards_poisons(self):
        daemon, engines, source = self.two("sglang")
        daemon.must("update", "m@1")
        engines["e"].post("/standin/reset")  # its rank holds nothing of it any more, and the server says nothing
        answer = daemon.ctl("verify", "e")
        self.assert_fails(answer, "peer_failed", "has changed since")
        self.assertIn("has changed since", daemon.engine("e")["poisoned"])
        self.assertFalse(daemon.engine("e")["ready"])
        self.assertFalse(daemon.engine("f")["poisoned"])
        daemon.must("update", "m@1", "--engine", "e")
        self.assert_holds(engines["e"], source)
        daemon.must("verify", "e")

    def test_a_server_that_tells_none(self):
        daemon, source = self.daemon(), self.llama(megabytes=1)
        daemon.load("m@1", source)
        engine = self.engine(kind="sglang", arguments=("--old", "--no-values"))
        daemon.add_engine("e", engine, "m")
        job = daemon.must("update", "m@1")
        checksums = job["result"]["engines"][0]["checksums"]
        self.assertEqual(checksums["ranks"], [])
        self.assertIn("tells no values", checksums["spot_check"]["why"])
        self.assert_fails(daemon.ctl("verify", "e"), "unsupported", "cannot be verified", "tells no values")

    def old_server(self, *arguments):
        """An SGLang without checksums, of a model whose class tells single tensors."""
        daemon, source = self.daemon(), self.llama(megabytes=1)
        daemon.load("m@1", source)
        engine = self.engine(kind="sglang", arguments=("--old", *arguments))
        daemon.add_engine("e", engine, "m")
        return daemon, engine, source

    def test_without_checksums_small_tensors_are_held_against_the_checkpoint(self):
        daemon, engine, source = self.old_server()
        report, = daemon.must("update", "m@1")["result"]["engines"]
        spots = report["checksums"]["spot_check"]
        self.assertEqual(report["warnings"], [])
        self.assertEqual((spots["ranks"], spots["not_told"]), (["tp0"], []))
        self.assertEqual(set(spots["tensors"].values()), {"exact"})
        self.assertIn("model.norm.weight", spots["tensors"])
        self.assertGreater(spots["values"], 0)
        self.assertEqual(daemon.must("verify", "e")["result"]["spot_check"]["tensors"], spots["tensors"])
        text = daemon.ctl("verify", "e", json_output=False).everything()
        self.assertIn("a spot check, since its server tells no checksums", text)
        # A daemon that came back has the checkpoint to compare with, once it is loaded again.
        daemon.terminate()
        daemon.start()
        self.assert_fails(daemon.ctl("verify", "e"), "unsupported", "is not resident")
        daemon.load("m@1", source)
        self.assertEqual(daemon.must("verify", "e")["result"]["compared"], [])

    def test_values_that_are_not_the_checkpoints_are_told(self):
        daemon, engine, _ = self.old_server("--false-values")
        report, = daemon.must("update", "m@1")["result"]["engines"]
        self.assertEqual(set(report["checksums"]["spot_check"]["tensors"].values()), {"different"})
        self.assertIn("are not those of m@1", " ".join(report["warnings"]))
        self.assert_fails(daemon.ctl("verify", "e"), "peer_failed", "are not those of m@1", "nothing was done")
        self.assertEqual(daemon.engine("e")["poisoned"], "")  # it is as it was right after its update

    def test_values_that_have_changed_since_the_update_poison(self):
        daemon, engine, source = self.old_server()
        daemon.must("update", "m@1")
        # The same process with other values: told from outside, as a weight that somebody changed would be.
        engine.post("/standin/false_values", wrong=True)
        self.assert_fails(daemon.ctl("verify", "e"), "peer_failed", "has changed since", "It is poisoned now")
        self.assertIn("has changed since", daemon.engine("e")["poisoned"])

    def test_a_daemon_that_came_back_does_not_say_equal(self):
        daemon, _, _ = self.two("sglang")
        daemon.must("update", "m@1")
        daemon.terminate()
        daemon.start()
        harness.wait_until("it serves", lambda: daemon.engine("e")["serving"] == "m@1")
        self.assert_fails(daemon.ctl("verify", "e"), "not_found", "nothing to compare them with")


if __name__ == "__main__":
    harness.main()
