"""Every kind of engine takes an update from the real daemon, with keys where it wants them, and what it lacks is said."""

import os
import re

import harness

SECRET = "sk-hidden-5f3a"


class Kinds(harness.Case):
    def engine_of(self, kind, *arguments, add=(), **options):
        """A daemon with m@1 loaded, and an engine `e` of that kind."""
        daemon = self.daemon()
        engine = self.engine(kind=kind, arguments=arguments, **options)
        source = self.llama()
        daemon.load("m@1", source)
        daemon.must("engine", "add", "e", "--kind", kind, "--endpoint", engine.endpoint, "--checkpoint", "m", *add)
        return daemon, engine, source

    def key_file(self, text=SECRET, mode=0o600, name="key"):
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text + "\n")
        os.chmod(path, mode)
        return path

    def assert_secret_kept(self, daemon, *answers):
        seen = daemon.log() + "".join(answer.everything() for answer in answers)
        seen += repr(daemon.http("GET", "/v1/engines")) + repr(daemon.http("GET", "/v1/jobs"))
        with open(os.path.join(daemon.state_dir, "state.json"), encoding="utf-8") as file:
            seen += file.read()
        self.assertNotIn(SECRET, seen)
        self.assertNotIn("Bearer", seen)

    def test_each_kind_takes_an_update(self):
        for kind, arguments in (("sglang", ()), ("sglang", ("--old",)), ("vllm", ("--sleep-mode",)),
                                ("lmdeploy", ("--empty-init",))):
            with self.subTest(kind=kind, arguments=arguments):
                daemon, engine, source = self.engine_of(kind, *arguments, add=() if kind == "sglang" else ("--wake", "all"))
                daemon.must("update", "m@1")
                self.assertEqual(daemon.engine("e")["serving"], "m@1")
                self.assert_holds(engine, source)

    def test_a_kind_that_nobody_knows_is_refused_with_those_that_are(self):
        answer = self.daemon().ctl("engine", "add", "e", "--kind", "tgi", "--endpoint", "http://127.0.0.1:1",
                                   "--checkpoint", "m")
        self.assert_fails(answer, "invalid_argument", "tgi")
        self.assertIn("sglang, vllm, lmdeploy", answer.everything())

    def test_a_server_that_cannot_be_updated_is_said_to_be_one_and_left_alone(self):
        two, one = ("HOST-0", "HOST-1"), ("HOST-0",)
        for kind, arguments, ranks, devices, words in (
                ("sglang", ("--dp-size", "2"), two, (), "start one server a replica"),
                ("sglang", (), two, one, "it has 2 ranks, and is registered with 1 device"),
                ("sglang", (), one, (), "it has 1 rank, and is registered with 2 devices"),
                ("vllm", (), one, (), "it has 1 rank, and is registered with 2 devices"),
                ("lmdeploy", (), one, (), "it has 1 rank, and is registered with 2 devices"),
                ("lmdeploy", ("--backend", "turbomind"), two, (), "--backend pytorch"),
                ("lmdeploy", ("--no-checkpoint-engine",), two, (), "install it beside LMDeploy")):
            with self.subTest(kind=kind, arguments=arguments, devices=devices):
                add = ("--target", "m@1") + (("--devices", ",".join(devices)) if devices else ())
                daemon, engine, _ = self.engine_of(kind, *arguments, devices=ranks, add=add)
                harness.wait_until("the operator to be told", lambda: words in daemon.engine("e")["why"])
                record = daemon.engine("e")
                self.assertEqual((record["state"], record["next"]), ("waiting", "tell"), record)
                self.assertIn(words, daemon.ctl("status", json_output=False).stdout.replace("\n", " "))
                answer = daemon.ctl("update", "m@1")
                self.assert_fails(answer, ("unsupported", "conflict"), words)
                self.assertEqual(engine.calls(), [])
                self.assertFalse(engine.state()["paused"])

    def test_ranks_that_are_left_out_by_force_are_not_heard_of(self):
        """The trap itself, which is why such an engine is refused."""
        daemon, engine, source = self.engine_of("sglang", add=("--devices", "HOST-0", "--no-follow"))
        daemon.must("update", "m@1", "--force")
        held = engine.post("/standin/compare", checkpoint=source)
        self.assertEqual([held[device]["equal"] for device in ("HOST-0", "HOST-1")], [True, False])

    def test_a_sglang_that_may_release_its_memory(self):
        daemon, engine, source = self.engine_of("sglang", "--memory-saver")
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)
        harness.wait_until("the warning", lambda: any("must resume it before" in each for each in daemon.engine("e")["warnings"]))
        answer = daemon.ctl("engine", "add", "e", "--kind", "sglang", "--endpoint", engine.endpoint, "--checkpoint", "m",
                            "--wake", "weights")
        self.assert_fails(answer, "unsupported", "resume_memory_occupation")
        # What the warning is about.
        self.assertEqual(engine.http("POST", "/release_memory_occupation", {"tags": ["weights"]})[0], 200)
        self.assertNotEqual(daemon.ctl("update", "m@1").code, 0)
        self.assert_alive(daemon)

    def test_a_server_with_more_patience_is_not_warned_about(self):
        for environment, warned in (({}, True), ({"SGLANG_WAIT_WEIGHTS_READY_TIMEOUT": "3600"}, False)):
            daemon, engine, _ = self.engine_of("sglang", "--wait-weights", "600", "--load-format", "dummy",
                                               environment=environment, add=("--no-follow",))
            harness.wait_until("it to be described", lambda: daemon.engine("e")["server"])
            self.assertEqual(any("gives up after 120 s" in each for each in daemon.engine("e")["warnings"]), warned)

    def test_what_a_server_lacks_is_said_and_nothing_is_touched(self):
        for kind, arguments, words in (("vllm", ("--no-dev-mode",), "VLLM_SERVER_DEV_MODE=1"),
                                       ("vllm", ("--no-extension",), "--worker-extension-cls"),
                                       ("lmdeploy", ("--old",), "LMDeploy"),
                                       ("lmdeploy", (), "pause abort")):
            with self.subTest(kind=kind, arguments=arguments):
                daemon, engine, _ = self.engine_of(kind, *arguments)
                answer = daemon.ctl("update", "m@1", "--pause", "none")
                self.assertNotEqual(answer.code, 0)
                self.assertIn(words, re.sub(r"\s+", " ", answer.everything()))
                self.assertFalse(daemon.engine("e")["poisoned"])
                self.assertEqual(engine.rank_states()["HOST-0"]["updates"], 0)

    def test_a_wrong_uuid_fails_the_update(self):
        for kind in ("sglang", "vllm"):
            with self.subTest(kind=kind):
                daemon, engine, _ = self.engine_of(kind)
                engine.misbehave("wrong_uuid")
                answer = daemon.ctl("update", "m@1")
                self.assertNotEqual(answer.code, 0)
                self.assertIn("GPU-ffffffff", answer.everything())

    def test_keys_missing_wrong_right_and_replaced(self):
        daemon, engine, source = self.engine_of("sglang", api_key=SECRET)
        missing = daemon.ctl("update", "m@1")
        self.assert_fails(missing, "denied", "--api-key-file")
        path = self.key_file("sk-wrong-0000")
        add = ("engine", "add", "e", "--kind", "sglang", "--endpoint", engine.endpoint, "--checkpoint", "m",
               "--api-key-file", path)
        daemon.must(*add)
        rejected = daemon.ctl("update", "m@1")
        self.assert_fails(rejected, "denied", "rejects the API key")
        self.assertNotIn("sk-wrong", rejected.everything() + daemon.log())
        self.key_file()  # replaced: nothing is restarted and nothing told
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)
        self.assertEqual(daemon.engine("e")["api_key_file"], path)
        self.assert_secret_kept(daemon, missing, rejected)

    def test_the_admin_key_where_there_is_one(self):
        api = self.key_file("sk-api-1111", name="api")
        daemon, engine, source = self.engine_of("sglang", "--admin-api-key", SECRET, api_key="sk-api-1111",
                                              add=("--api-key-file", api))
        refused = daemon.ctl("update", "m@1")
        self.assert_fails(refused, "denied", "admin_key_file")
        daemon.must("engine", "add", "e", "--kind", "sglang", "--endpoint", engine.endpoint, "--checkpoint", "m",
                    "--api-key-file", api, "--admin-key-file", self.key_file())
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)
        self.assert_secret_kept(daemon, refused)

    def test_key_files_that_cannot_be_used(self):
        daemon, engine, _ = self.engine_of("sglang", api_key=SECRET)
        for text, mode, words in ((SECRET, 0o644, "everybody"), ("", 0o600, "is empty"),
                                  (SECRET + "\n" + SECRET, 0o600, "more than one line")):
            daemon.must("engine", "add", "e", "--kind", "sglang", "--endpoint", engine.endpoint, "--checkpoint", "m",
                        "--api-key-file", self.key_file(text, mode))
            answer = daemon.ctl("update", "m@1")
            self.assert_fails(answer, "denied", words)
            self.assert_secret_kept(daemon, answer)
        os.unlink(os.path.join(self.directory, "key"))
        self.assert_fails(daemon.ctl("update", "m@1"), "denied", "No such file")

    def test_paths_of_keys_outlive_the_daemon(self):
        daemon, engine, source = self.engine_of("lmdeploy", "--empty-init", api_key=SECRET,
                                              add=("--api-key-file", self.key_file(), "--wake", "all"))
        daemon.terminate()
        daemon.start()
        daemon.load("m@1", source)
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)
        self.assert_secret_kept(daemon)


if __name__ == "__main__":
    harness.main()
