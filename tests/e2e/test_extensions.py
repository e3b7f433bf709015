"""Real ckptd against the engines' own worker extensions, unmodified, around a small torch module: SGLang's, loaded from its
file of the package sglang, and checkpoint-engine's for vLLM. Behind the stand-in servers of their kinds."""

import os

import harness

SGLANG = os.environ.get("CKPTD_SGLANG_DIR") or os.path.join(harness.ROOT, ".venv", "sglang")
RANK = os.path.join(harness.SUPPORT, "extension_rank.py")


class Extension:
    def engine_of(self, *arguments, devices=("HOST-0",)):
        command = f"{harness.test_python()} {RANK} --extension {self.KIND} --sglang {SGLANG}"
        daemon = self.daemon({"push": {"bucket": "512KiB"}})
        engine = self.engine(kind=self.KIND, rank_commands=[command], devices=devices, arguments=arguments)
        source = self.llama()
        daemon.load("m@1", source)
        daemon.add_engine("e", engine, "m", devices)
        return daemon, engine, source

    def state(self, engine):
        return engine.rank_states()["HOST-0"]

    def test_an_update_is_loaded_and_processed_once(self):
        daemon, engine, source = self.engine_of()
        for updates in (1, 2):
            daemon.must("update", "m@1")
            self.assert_holds(engine, source)
            self.assertEqual(self.state(engine)["processed"], updates)
        self.assertEqual(daemon.engine("e")["serving"], "m@1")

    def test_another_version_replaces_every_tensor(self):
        daemon, engine, source = self.engine_of()
        daemon.must("update", "m@1")
        second = self.second(source)
        daemon.load("m@2", second)
        daemon.must("update", "m@2")
        self.assert_holds(engine, second)

    def test_load_weights_that_raises_fails_the_update_with_its_words(self):
        daemon, engine, source = self.engine_of()
        engine.fault("HOST-0", "fail_load", bucket=1)
        self.assert_fails(daemon.ctl("update", "m@1"), "peer_failed", "told to fail at list 1")
        self.assertTrue(daemon.engine("e")["poisoned"])
        engine.wait_idle()
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)


class Sglang(Extension, harness.Case):
    KIND = "sglang"

    def setUp(self):
        if not os.path.exists(os.path.join(SGLANG, "sglang", "srt", "checkpoint_engine", "checkpoint_engine_worker.py")):
            self.skipTest(f"there is no sglang in {SGLANG} (scripts/test fetches it)")
        super().setUp()

    def test_the_model_is_told_that_its_weights_are_there(self):
        daemon, engine, _ = self.engine_of()
        daemon.must("update", "m@1")
        self.assertEqual(self.state(engine)["post_loads"], 1)

    def test_a_post_hook_that_fails_is_swallowed_and_only_checksums_show_it(self):
        daemon, engine, source = self.engine_of()
        daemon.must("update", "m@1")
        before = engine.post("/weights_checker", action="checksum")["ranks"][0]["checksums"]
        engine.fault("HOST-0", "fail_post_hook")
        daemon.must("update", "m@1")  # nobody was told: 200, and every acknowledgement
        self.assert_holds(engine, source)
        self.assertEqual(self.state(engine)["processed"], 1)
        after = engine.post("/weights_checker", action="checksum")["ranks"][0]["checksums"]
        self.assertEqual(set(before), set(after))
        self.assertTrue(all(before[name] != after[name] for name in before))


class Vllm(Extension, harness.Case):
    KIND = "vllm"

    def test_a_post_hook_that_fails_fails_the_update(self):
        daemon, engine, source = self.engine_of()
        engine.fault("HOST-0", "fail_post_hook")
        self.assert_fails(daemon.ctl("update", "m@1"), "peer_failed", "the post hook was told to fail")
        self.assertTrue(daemon.engine("e")["poisoned"])
        engine.wait_idle()
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)


if __name__ == "__main__":
    harness.torch_or_skip()
    harness.main()
