"""What is resident and for how long: budgets, eviction, leases, preloads, and sources that are no checkpoints."""

import json
import os
import struct

import harness
from harness import checkpoints


class Residence(harness.Case):
    def test_a_budget_that_is_too_small_is_refused_with_numbers_and_the_flag(self):
        daemon = self.daemon({"store": {"budget": "64MiB"}})
        answer = daemon.ctl("load", "m@1", self.llama(megabytes=150))
        self.assert_fails(answer, "no_space", "--store-budget", "64")
        self.assert_alive(daemon)
        daemon.load("m@2", self.llama("small", megabytes=10))

    def test_loads_beyond_the_budget_evict_or_are_refused_but_kept_ones_stay(self):
        daemon = self.daemon({"store": {"budget": "256MiB"}})
        sources = [self.llama(f"s{number}", megabytes=80, seed=number) for number in range(4)]
        daemon.load("m@0", sources[0], "--keep")
        for number in (1, 2, 3):
            answer = daemon.ctl("load", f"m@{number}", sources[number])
            if answer.code:
                self.assert_fails(answer, "no_space")
                daemon.must("evict", f"m@{number - 1}")
                daemon.load(f"m@{number}", sources[number])
        self.assertEqual(daemon.version("m", "0")[1]["state"], "resident")
        self.assertEqual(daemon.version("m", "3")[1]["state"], "resident")
        status = daemon.http("GET", "/v1/status")[1]
        self.assertLessEqual(status["lent_bytes"] + status["idle_bytes"], status["budget_bytes"])

    def test_a_budget_that_the_machine_does_not_have_is_refused(self):
        daemon = self.daemon({"store": {"budget": "900TiB"}}, start=False)
        daemon.launch()
        harness.wait_until("the daemon to refuse or to serve", lambda: not daemon.process.running() or os.path.exists(
            daemon.socket_path))
        if daemon.process.running():
            harness.wait_until("the daemon to serve", daemon._answers)
            daemon.load("m@1", self.llama(megabytes=10))
        else:
            self.assertIn("budget", daemon.log())

    def test_evict_keep_unkeep_trim(self):
        daemon, engine, source = self.serving(devices=("HOST-0",))
        daemon.must("keep", "m@1")
        self.assertTrue(daemon.version("m", "1")[1]["kept"])
        self.assert_fails(daemon.ctl("evict", "m@1"), "busy", "unkeep")
        daemon.must("unkeep", "m@1")
        identity = daemon.version("m", "1")[1]["identity"]
        daemon.must("evict", "m@1")
        self.assertEqual(daemon.version("m", "1")[1]["state"], "evicted")
        self.assertEqual(daemon.version("m", "1")[1]["identity"], identity)
        status = daemon.http("GET", "/v1/status")[1]
        self.assertEqual(status["lent_bytes"], 0)
        self.assertGreater(status["idle_bytes"], 0, "segments go back to the pool as they are")
        answer = daemon.ctl("update", "m@1")
        self.assertNotEqual(answer.code, 0)
        self.assertIn("m@1", answer.error["sentence"])
        daemon.must("trim")
        self.assertEqual(daemon.http("GET", "/v1/status")[1]["idle_bytes"], 0)
        self.assertEqual([memfd for memfd in daemon.memfds() if "arena" not in memfd and "HOST" not in memfd], [])
        daemon.load("m@1", source)
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)

    def test_evicting_during_an_update_is_busy_and_names_the_job(self):
        daemon, engine, source = self.serving({"timeouts": harness.HELD}, devices=("HOST-0",))
        engine.hold("HOST-0")
        job = daemon.detached("update", "m@1")
        engine.wait_held()
        for flags in ([], ["--forget"]):
            self.assert_fails(daemon.ctl("evict", "m@1", *flags), "busy", job)
        self.assertIn(job, daemon.version("m", "1")[1]["leased_by"])
        engine.go()
        self.assertEqual(daemon.wait_job(job)["state"], "succeeded")
        self.assert_holds(engine, source)
        daemon.must("evict", "m@1")

    def test_loading_during_an_update(self):
        daemon, engine, source = self.serving({"timeouts": harness.HELD}, devices=("HOST-0",))
        engine.hold("HOST-0")
        job = daemon.detached("update", "m@1")
        engine.wait_held()
        second = self.second(source)
        daemon.load("m@2", second)
        daemon.must("trim")
        engine.go()
        self.assertEqual(daemon.wait_job(job)["state"], "succeeded")
        self.assert_holds(engine, source)
        daemon.must("update", "m@2")
        self.assert_holds(engine, second)

    def test_preloads_and_readiness(self):
        one, two = self.llama("one", megabytes=2), self.llama("two", megabytes=2, seed=2)
        daemon = self.daemon(extra_toml=f'''
[[preload]]
checkpoint = "m@1"
source = "{one}"
[[preload]]
checkpoint = "m@2"
source = "{two}"
keep = false
''')
        harness.wait_until("readiness", lambda: daemon.http("GET", "/readyz")[0] == 200)
        self.assertTrue(daemon.version("m", "1")[1]["kept"])
        self.assertFalse(daemon.version("m", "2")[1]["kept"])

    def test_a_preload_that_fails_is_named_by_readyz_and_the_daemon_serves(self):
        one = self.llama("one", megabytes=2)
        daemon = self.daemon(extra_toml=f'[[preload]]\ncheckpoint = "m@1"\nsource = "{self.path("later")}"\n')
        status, answer = daemon.http("GET", "/readyz")
        self.assertEqual(status, 503)
        self.assertIn("m@1", json.dumps(answer))
        self.assertEqual(daemon.http("GET", "/healthz")[0], 200)
        daemon.load("m@2", one)
        os.rename(one, self.path("later"))
        daemon.load("m@1", self.path("later"))
        self.assertEqual(daemon.http("GET", "/readyz")[0], 200)

    def test_engines_of_the_configuration(self):
        engine = self.engine(devices=("HOST-0",))
        daemon = self.daemon(extra_toml=f'[[engine]]\nname = "e"\nkind = "sglang"\nendpoint = "{engine.endpoint}"\n'
                                        'checkpoint = "m"\ndevices = ["HOST-0"]\n')
        source = self.llama(megabytes=1)
        daemon.load("m@1", source)
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)
        daemon.terminate()
        daemon.start()
        self.assertEqual(daemon.engine("e")["serving"], "m@1")


class Sources(harness.Case):
    def setUp(self):
        super().setUp()
        self.shared = self.daemon()

    def refused(self, path, kinds, *words):
        answer = self.shared.ctl("load", "bad@1", path)
        self.assert_fails(answer, kinds, *words)
        self.assert_alive(self.shared)
        self.assertEqual(self.shared.http("GET", "/v1/status")[1]["lent_bytes"], 0)

    def write(self, name, content):
        path = self.path(name)
        with open(path, "wb") as file:
            file.write(content)
        return path

    def header(self, text, payload=b""):
        text = text if isinstance(text, bytes) else json.dumps(text).encode()
        return struct.pack("<Q", len(text)) + text + payload

    def test_what_is_no_checkpoint(self):
        os.mkdir(self.path("empty"))
        os.mkfifo(self.path("pipe.safetensors"))
        os.mkdir(self.path("dir.safetensors"))
        kinds = ("invalid_argument", "not_found", "corrupt", "denied", "unsupported")
        for path in (self.path("nowhere"), self.path("empty"), self.path("pipe.safetensors"),
                     self.path("dir.safetensors"), "/dev/null", "/dev/zero", "/proc/self/mem",
                     self.write("text.txt", b"hello")):
            self.refused(path, kinds, os.path.basename(path))

    def test_broken_headers(self):
        one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
        cases = {
            "short": b"\1\2\3", "endless": struct.pack("<Q", 1 << 62), "longer": struct.pack("<Q", 100) + b"{}",
            "huge": struct.pack("<Q", 200_000_000) + b"{}", "text": self.header(b"hello"), "list": self.header([1]),
            "utf8": self.header(b'{"\xff\xfe":{}}'), "twice": self.header(
                b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"x"),
            "dtype": self.header({"a": {**one, "dtype": "F99"}}, bytes(8)),
            "shape": self.header({"a": {**one, "shape": [3]}}, bytes(8)),
            "negative": self.header({"a": {**one, "shape": [-2]}}, bytes(8)),
            "overflow": self.header({"a": {**one, "shape": [1 << 40, 1 << 40]}}, bytes(8)),
            "backwards": self.header({"a": {**one, "data_offsets": [8, 0]}}, bytes(8)),
            "beyond": self.header({"a": one}, bytes(4)), "trailing": self.header({"a": one}, bytes(9)),
            "overlap": self.header({"a": one, "b": {**one, "data_offsets": [4, 12]}}, bytes(12)),
            "gap": self.header({"a": one, "b": {**one, "data_offsets": [12, 20]}}, bytes(20)),
            "nested": self.header(b"[" * 100000), "metadata": self.header({"__metadata__": {"a": 1}, "a": one}, bytes(8)),
        }
        for name, content in cases.items():
            with self.subTest(name):
                self.refused(self.write(f"{name}.safetensors", content), ("corrupt", "invalid_argument", "unsupported"),
                             f"{name}.safetensors")

    def test_broken_shards(self):
        for name, spoil in {"missing": lambda shards: os.unlink(shards[1]),
                            "twice": lambda shards: os.replace(shards[0], shards[1]),
                            "pipe": lambda shards: (os.unlink(shards[1]), os.mkfifo(shards[1])),
                            "directory": lambda shards: (os.unlink(shards[1]), os.mkdir(shards[1]))}.items():
            with self.subTest(name):
                source = self.llama(name, megabytes=1)
                shards = checkpoints.files_of(source)
                spoil(shards)
                if name == "twice":  # the index names a shard whose tensors stand in another
                    os.link(shards[1], shards[0])
                self.refused(source, ("corrupt", "invalid_argument", "not_found"))

    def test_an_index_that_leaves_the_directory(self):
        source = self.llama(megabytes=1)
        outside = self.llama("outside", megabytes=1)
        index = os.path.join(source, checkpoints.INDEX)
        with open(index, encoding="utf-8") as file:
            good = json.load(file)
        for target in ("../outside/" + os.path.basename(checkpoints.files_of(outside)[0]),
                       checkpoints.files_of(outside)[0], "..", "", "nowhere.safetensors"):
            bad = {**good, "weight_map": {name: target for name in good["weight_map"]}}
            with open(index, "w", encoding="utf-8") as file:
                json.dump(bad, file)
            self.refused(source, ("corrupt", "invalid_argument", "not_found", "denied"))

    def test_roots_bound_what_clients_may_name(self):
        inside, outside = self.llama("root/inside", megabytes=1), self.llama("outside", megabytes=1)
        daemon = self.daemon({"source": {"roots": [self.path("root")]}})
        daemon.load("m@1", inside)
        os.symlink(outside, self.path("root", "link"))
        for path in (outside, self.path("root", "..", "outside"), self.path("root", "link"), "/etc"):
            self.assert_fails(daemon.ctl("load", "m@2", path), ("denied", "not_found", "invalid_argument"))

    def test_direct_io_can_be_switched_off(self):
        daemon = self.daemon({"source": {"direct_io": False}})
        source = self.llama(megabytes=3)
        first = daemon.load("m@1", source)["result"]["identity"]
        self.assertEqual(self.shared.load("m@1", source)["result"]["identity"], first)


if __name__ == "__main__":
    harness.main()
