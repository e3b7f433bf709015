"""GPUs, played by the libcuda of tests/support/fake_cuda: ckptd --device cuda pushes through CUDA IPC handles, every byte is
compared, a GPU that is lost ends one update and no other, and a driver that is not there ends the start."""

import os

import harness
from harness import EXIT, checkpoints

FAKE = os.environ.get("CKPTD_FAKE_CUDA") or os.path.join(os.path.dirname(harness.BIN_DIR), "tests", "libfake_cuda.so")
GPUS = [f"GPU-fa4ec0da-0000-0000-0000-00000000000{number}" for number in range(2)]
ILLEGAL_ADDRESS, ECC, NOT_READY_SYSTEM = 700, 214, 802


class Cuda(harness.Case):
    def config(self, **sections):
        config = {"device": {"kind": "cuda"}, "cuda": {"library": FAKE}, "store": {"segment": "1MiB"}}
        for section, values in sections.items():
            config.setdefault(section, {}).update(values)
        return config

    def gpus(self, devices=GPUS, **environment):
        return self.engine(devices=devices, environment={"CKPTD_RANK_CUDA_LIBRARY": FAKE, **environment})

    def house(self, config=None, environment=None, devices=GPUS):
        engine, source = self.gpus(devices), self.llama()
        daemon = self.daemon(self.config(**(config or {})), environment=environment)
        daemon.add_engine("e", engine, "m", devices)
        daemon.load("m@1", source)
        return daemon, engine, source

    def update(self, daemon, engine, source, version="m@1"):
        job = daemon.must("update", version)
        self.assertEqual(job["state"], "succeeded")
        self.assert_holds(engine, source)
        return job["result"]["engines"][0]

    def tearDown(self):
        for part in self._parts:
            self.assertNotIn("fake_cuda: complaint", part.log(), "what a driver would have punished")

    def end(self, daemon):
        self.assertEqual(daemon.terminate(), 0)

    def test_every_byte_arrives_through_the_raw_handle(self):
        daemon, engine, source = self.house()
        devices = daemon.must("status")["devices"]
        self.assertEqual([device["uuid"] for device in devices], GPUS)
        report = self.update(daemon, engine, source)
        self.assertEqual(sorted(lane["device"] for lane in report["lanes"]), GPUS)
        second = self.second(source)
        daemon.load("m@2", second)
        self.update(daemon, engine, second, "m@2")
        self.update(daemon, engine, source, "m@1")  # back, through the arena that was kept
        self.end(daemon)

    def test_oddities(self):
        source = checkpoints.make_oddities(self.path("odd"))
        engine, daemon = self.gpus(), self.daemon(self.config())
        daemon.add_engine("e", engine, "m", GPUS)
        daemon.load("m@1", source)
        self.update(daemon, engine, source)

    def test_broadcast_copies_between_gpus(self):
        daemon, engine, source = self.house({"push": {"fan_out": "broadcast"}})
        peaks = daemon.must("probe")["result"]["peaks"]
        self.assertEqual([peak["device"] for peak in peaks if peak["stage"] == "spread"], GPUS)
        self.update(daemon, engine, source)
        self.end(daemon)

    def test_one_gpu_of_two_by_its_uuid(self):
        daemon, engine, source = self.house({"cuda": {"devices": GPUS[1:]}}, devices=GPUS[1:])
        self.assertEqual([device["uuid"] for device in daemon.must("status")["devices"]], GPUS[1:])
        self.update(daemon, engine, source)

    def test_an_arena_of_a_configured_size_is_there_before_the_engines(self):
        config = self.config(push={"arena": "1MiB"})
        daemon = self.daemon(config)
        kept = [device["kept_arena_bytes"] for device in daemon.must("status")["devices"]]
        self.assertEqual(kept, [1 << 20, 1 << 20])
        self.end(daemon)
        # A GPU without room for it: the start goes on and says so.
        daemon = self.daemon(config, environment={"CKPTD_FAKE_CUDA_MEMORY": str(512 << 10)})
        self.assertEqual([device["kept_arena_bytes"] for device in daemon.must("status")["devices"]], [0, 0])
        self.assertIn("no arena is reserved on " + GPUS[0], daemon.log())
        self.end(daemon)

    def test_a_gpu_with_little_memory_gets_a_smaller_arena(self):
        # One bucket, if there was room for it.
        daemon, engine, source = self.house({"push": {"bucket": "4MiB"}},
                                            environment={"CKPTD_FAKE_CUDA_MEMORY": str(2 << 20)})
        self.update(daemon, engine, source)
        self.assertRegex(daemon.log(), "e: arenas hold .* instead of .*, because a device has no more memory free")

    def check_lost(self, call, code, nth):
        """The update names device, rank and step; the daemon goes on, and the other GPU with it."""
        # Two slots: what is uploaded later than that is uploaded to a rank that is there.
        daemon, engine, source = self.house({"push": {"arena": "512KiB"}},
                                            environment={"CKPTD_FAKE_CUDA_FAIL": f"{call}:{nth}={code}@0"})
        answer = daemon.ctl("update", "m@1")
        self.assertEqual(answer.code, EXIT["unavailable"], answer)
        sentence = answer.error["sentence"]
        pid = str(engine.rank(GPUS[0])["pid"])
        for word in (GPUS[0], "uploading bucket", str(code), "restart"):
            self.assertIn(word, sentence)
        self.assert_alive(daemon)
        engine.wait_idle()
        self.assertEqual(daemon.version("m", "1")[1]["state"], "resident")
        again = daemon.ctl("update", "m@1")
        self.assertEqual(again.code, EXIT["unavailable"], again)
        for word in (str(code), "engine e cannot be updated", GPUS[0], "is lost since"):
            self.assertIn(word, again.error["sentence"])
        self.check_tells_of_loss(daemon, code)
        other = self.gpus(GPUS[1:])
        daemon.must("engine", "remove", "e")
        daemon.add_engine("healthy", other, "m", GPUS[1:])
        daemon.must("update", "m@1")
        self.assert_holds(other, source)
        second = self.second(source)  # in memory that is new, and that the lost one would have to register
        daemon.load("m@2", second)
        daemon.must("update", "m@2")
        self.assert_holds(other, second)
        self.assertEqual([device["uuid"] for device in daemon.must("status")["devices"]], GPUS)
        self.end(daemon)
        return sentence, pid

    def check_tells_of_loss(self, daemon, code):
        """status, its table and a dry run say which GPU, since when, why and what to do."""
        status = daemon.must("status")
        lost, healthy = status["devices"]
        self.assertRegex(lost["lost"]["since"], r"^\d{4}-\d\d-\d\dT.*Z$")
        for word in (GPUS[0], str(code), "restart"):
            self.assertIn(word, lost["lost"]["why"])
        self.assertIn(str(code), lost["lost"]["vendor"])
        self.assertNotIn("lost", healthy)
        warning, = [each for each in status["warnings"] if "is lost since" in each]
        self.assertIn(GPUS[0], warning)
        table = daemon.must("status", json_output=False).stdout
        self.assertIn("LOST", table)
        self.assertIn("Xid", table)
        peaks = daemon.must("probe")["result"]["peaks"]  # of those that work
        self.assertEqual([peak["device"] for peak in peaks if peak["stage"] == "copy"], GPUS[1:])
        preview = daemon.ctl("update", "m@1", "--dry-run")
        self.assertEqual(preview.code, EXIT["unavailable"], preview)
        self.assertIn("is lost since", preview.error["sentence"])

    def test_a_gpu_is_lost_in_mid_update(self):
        sentence, pid = self.check_lost("work_copy", ILLEGAL_ADDRESS, 12)
        self.assertIn("pid " + pid, sentence)

    def test_a_gpu_is_lost_before_its_rank_is_there(self):
        self.check_lost("cuMemcpyHtoDAsync_v2", ECC, 1)

    def check_start_fails(self, code, words, config=None, environment=None, flags=()):
        daemon = self.daemon(config or self.config(), start=False, environment=environment).launch(*flags)
        self.assertEqual(daemon.process.wait(30), EXIT[code], daemon.log())
        for word in words:
            self.assertIn(word, daemon.log())

    def test_an_instance_of_a_divided_gpu_has_its_engine_in_either_spelling(self):
        """CUDA and NVML say MIG-..., SGLang asks for GPU- and the digits of the instance."""
        instance = "MIG-fa4ec0da-ab00-0000-0000-000000000001"
        divided = {"CKPTD_FAKE_CUDA_MIG": "1"}
        engine, source = self.gpus(["GPU-" + instance[4:]], **divided), self.llama()
        daemon = self.daemon(self.config(), environment=divided)
        self.assertEqual([device["uuid"] for device in daemon.must("status")["devices"]], [GPUS[0], instance])
        daemon.add_engine("sglang", engine, "m", [instance])
        daemon.load("m@1", source)
        report = self.update(daemon, engine, source)
        self.assertEqual([lane["device"] for lane in report["lanes"]], [instance])
        other = self.gpus([instance], **divided)
        daemon.must("engine", "remove", "sglang")
        daemon.add_engine("nvml", other, "m", [instance])
        self.update(daemon, other, source)
        self.end(daemon)

    def test_a_gpu_that_is_not_there_is_a_wrong_configuration_which_systemd_does_not_try_again(self):
        self.check_start_fails("invalid_argument", ["GPU-12345678", GPUS[0], GPUS[1], "[cuda] devices"],
                               self.config(cuda={"devices": ["GPU-12345678-0000-0000-0000-000000000000"]}))
        with open(os.path.join(harness.ROOT, "systemd", "ckptd.service.in"), encoding="utf-8") as file:
            stay, = [line for line in file if line.startswith("RestartPreventExitStatus=")]
        never = {EXIT[kind] for kind in ("invalid_argument", "denied", "unsupported")}
        self.assertEqual({int(code) for code in stay.split("=")[1].split()}, never)

    def test_a_driver_that_is_missing_or_not_ready_ends_the_start(self):
        self.check_start_fails("unavailable", ["/nowhere/libcuda.so.1", "[cuda] library"],
                               self.config(cuda={"library": "/nowhere/libcuda.so.1"}))
        self.check_start_fails("unavailable", ["nvidia-fabricmanager", "802"],
                               environment={"CKPTD_FAKE_CUDA_FAIL": f"cuInit:1={NOT_READY_SYSTEM}"})
        self.check_start_fails("unavailable", ["nvidia-smi"], environment={"CKPTD_FAKE_CUDA_DEVICES": "0"})
        self.check_start_fails("unsupported", ["525"], environment={"CKPTD_FAKE_CUDA_VERSION": "11080"})

    def test_auto_takes_gpus_where_there_are_some_and_says_why_where_not(self):
        config = self.config(device={"kind": "auto"})
        daemon = self.daemon(config)
        self.assertEqual([device["uuid"] for device in daemon.must("status")["devices"]], GPUS)
        config = self.config(device={"kind": "auto"}, cuda={"library": "/nowhere/libcuda.so.1"})
        daemon = self.daemon(config)
        self.assertIn("HOST-0", [device["uuid"] for device in daemon.must("status")["devices"]])
        self.assertIn("/nowhere/libcuda.so.1", daemon.log())


if __name__ == "__main__":
    harness.main()
