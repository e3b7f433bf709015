"""The main job, end to end: load, update, and every rank holds every byte. With both kinds of ranks."""

import os
import sys

import harness
from harness import checkpoints

sys.path.insert(0, os.path.join(harness.ROOT, "bench"))
import models  # noqa: E402


class Update(harness.Case):
    def check_round(self, source, name="m@1", **engine_options):
        daemon, engine = self.daemon(), self.engine(**engine_options)
        daemon.add_engine("e", engine, name.split("@")[0])
        loaded = daemon.load(name, source)
        about = checkpoints.describe(source)
        self.assertEqual(loaded["state"], "succeeded")
        self.assertEqual(loaded["result"]["bytes"], about["bytes"])
        self.assertEqual(loaded["result"]["tensors"], about["tensors"])
        self.check_update(daemon, engine, source, name)
        return daemon, engine

    def check_update(self, daemon, engine, source, name, *flags):
        about = checkpoints.describe(source)
        job = daemon.must("update", name, *flags)
        self.assertEqual(job["state"], "succeeded")
        (report,) = job["result"]["engines"]
        self.assertEqual(sorted(lane["device"] for lane in report["lanes"]), sorted(engine.devices))
        for lane in report["lanes"]:
            self.assertGreaterEqual(lane["bytes"], about["bytes"])
            self.assertEqual(lane["pid"], engine.rank(lane["device"])["pid"])
        self.assert_holds(engine, source)
        record = daemon.engine("e")
        self.assertEqual((record["serving"], record["target"], record["state"]), (name, name, "serving"))
        self.assertFalse(record["poisoned"])
        self.assertIn(name.split("@")[1], engine.state()["weight_version"])
        self.assertEqual(daemon.rank_sockets(), [], "sockets of finished sessions are left")

    def test_oddities_in_one_file(self):
        source = checkpoints.make_oddities(self.path("odd"))
        self.check_round(source)

    def test_one_file_named_itself(self):
        source = os.path.join(checkpoints.make_oddities(self.path("odd")), "model.safetensors")
        self.check_round(source)

    def test_shards_with_an_index_and_a_second_version(self):
        one = self.llama()
        two = self.second(one)
        daemon, engine = self.check_round(one)
        daemon.load("m@2", two)
        self.assert_differs(engine, two)
        self.check_update(daemon, engine, two, "m@2")
        self.assert_differs(engine, one)
        self.check_update(daemon, engine, one, "m@1")  # back, from memory

    def test_shards_without_an_index(self):
        source = checkpoints.write_sharded(self.path("plain"), checkpoints.llama_tensors(2_000_000), 3, 5, index=False)
        self.check_round(source)

    def test_hub_snapshot_of_links(self):
        self.check_round(checkpoints.make_hub_snapshot(self.path("hub"), 2_000_000))

    def test_name_with_slashes_over_a_unix_socket(self):
        daemon, _ = self.check_round(self.llama(megabytes=1), "Qwen/Qwen3-8B@step-1.0_a", unix=True)
        status, version = daemon.version("Qwen/Qwen3-8B", "step-1.0_a")
        self.assertEqual((status, version["state"]), (200, "resident"))

    def test_one_device_of_two(self):
        daemon, engine, source = self.daemon(), self.engine(devices=("HOST-1",)), self.llama(megabytes=1)
        daemon.add_engine("e", engine, "m", devices=("HOST-1",))
        daemon.load("m@1", source)
        self.check_update(daemon, engine, source, "m@1")

    def test_two_engines_at_once(self):
        daemon, source = self.daemon(), self.llama()
        engines = [self.engine(devices=(f"HOST-{number}",)) for number in range(2)]
        for number, engine in enumerate(engines):
            daemon.add_engine(f"e{number}", engine, "m", devices=(f"HOST-{number}",))
        daemon.load("m@1", source)
        job = daemon.must("update", "m@1")
        self.assertEqual(sorted(report["engine"] for report in job["result"]["engines"]), ["e0", "e1"])
        for number, engine in enumerate(engines):
            self.assert_holds(engine, source)
            self.assertEqual(daemon.engine(f"e{number}")["serving"], "m@1")

    def test_two_engines_on_the_same_devices_at_once(self):
        daemon, source = self.daemon(), self.llama(megabytes=2)
        engines = [self.engine(), self.engine()]
        for number, engine in enumerate(engines):
            daemon.add_engine(f"e{number}", engine, "m")
        daemon.load("m@1", source)
        daemon.must("update", "m@1", "--engine", "e0", "--engine", "e1")
        for engine in engines:
            self.assert_holds(engine, source)

    def test_one_bad_engine_does_not_spoil_the_other(self):
        daemon, source = self.daemon(), self.llama(megabytes=2)
        good, bad = self.engine(devices=("HOST-0",)), self.engine(devices=("HOST-1",))
        daemon.add_engine("good", good, "m", devices=("HOST-0",))
        daemon.add_engine("bad", bad, "m", devices=("HOST-1",))
        daemon.load("m@1", source)
        bad.fault("HOST-1", "fail_load", 1)
        self.assert_fails(daemon.ctl("update", "m@1"), "partial", "bad")
        self.assert_holds(good, source)
        self.assertEqual(daemon.engine("good")["serving"], "m@1")
        self.assertTrue(daemon.engine("bad")["poisoned"])
        bad.wait_idle()


class FanOut(harness.Case):
    def test_broadcast(self):
        daemon, engine, source = self.serving({"push": {"bucket": "256KiB", "fan_out": "broadcast"}})
        job = daemon.must("update", "m@1")
        self.assertEqual(job["result"]["engines"][0]["fan_out"], "broadcast")
        self.assert_holds(engine, source)

    def test_broadcast_with_one_slow_rank(self):
        daemon, engine, source = self.serving({"push": {"bucket": "512KiB", "fan_out": "broadcast"}})
        engine.fault("HOST-1", "slow", seconds=0.05)
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)

    def test_independent_serves_ranks_that_attach_one_after_the_other(self):
        daemon, engine, source = self.serving({"push": {"bucket": "256KiB", "fan_out": "independent"}}, sequential=True)
        job = daemon.must("update", "m@1")
        self.assertEqual(job["result"]["engines"][0]["fan_out"], "independent")
        self.assert_holds(engine, source)
        self.assertEqual(daemon.engine("e")["serving"], "m@1")

    def test_broadcast_names_the_rank_that_did_not_come(self):
        daemon, engine, _ = self.serving(
            {"push": {"fan_out": "broadcast"}, "timeouts": {"connect": "3s"}}, sequential=True)
        answer = daemon.ctl("update", "m@1")
        self.assert_fails(answer, "timed_out", "HOST-1")
        self.assertFalse(daemon.engine("e")["poisoned"], "no bucket was sent")
        engine.wait_idle()  # both: the second rank came after the end


class Sizes(harness.Case):
    def test_a_tensor_larger_than_the_bucket_has_one_of_its_own(self):
        source = self.path("big")
        os.mkdir(source)
        checkpoints.write_random_file(os.path.join(source, "model.safetensors"), [
            ("a", "U8", (1000,)), ("big", "F32", (700, 1000)), ("b", "BF16", (3,)), ("c", "F32", (70000,))], 1)
        daemon, engine, _ = self.serving({"push": {"bucket": "256KiB"}}, checkpoint=source)
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)
        for size in ("1B", "1KiB", "1GiB"):
            engine.reset()
            daemon.must("update", "m@1", "--bucket-size", size)
            self.assert_holds(engine, source)

    def test_a_tensor_larger_than_the_arena_is_refused_with_numbers(self):
        source = self.path("big")
        os.mkdir(source)
        checkpoints.write_random_file(os.path.join(source, "model.safetensors"), [("giant", "F32", (1000, 1000))], 1)
        daemon, engine, _ = self.serving({"push": {"bucket": "256KiB", "arena": "1MiB"}}, checkpoint=source)
        for flags in (["--dry-run"], []):
            answer = daemon.ctl("update", "m@1", *flags)
            self.assert_fails(answer, "no_space", "giant")
            self.assertRegex(answer.error["sentence"], r"\d.*\d")
        self.assertEqual(engine.calls(), [])

    def test_an_arena_of_the_largest_tensor_is_enough(self):
        source = self.llama(megabytes=4)
        largest = max(end - begin for path in checkpoints.files_of(source)
                      for *_, begin, end in checkpoints.read_header(path)[1])
        arena = (largest + 4095) // 4096 * 4096
        daemon, engine, _ = self.serving({"push": {"bucket": "64KiB", "arena": f"{arena}"}}, checkpoint=source)
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)

    def test_many_small_tensors(self):
        source = self.path("many")
        os.mkdir(source)
        checkpoints.write_random_file(os.path.join(source, "model.safetensors"),
                                      [(f"t{number}", ("U8", "BF16", "F32")[number % 3], (number % 11,))
                                       for number in range(5000)], 1)
        daemon, engine, _ = self.serving({"push": {"bucket": "16KiB"}}, checkpoint=source)
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)

    def test_a_checkpoint_of_empty_tensors_alone(self):
        source = self.path("empty")
        os.mkdir(source)
        checkpoints.write_random_file(os.path.join(source, "model.safetensors"), [("none", "F32", (0, 3))], 1)
        daemon, engine, _ = self.serving(checkpoint=source)
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)


class BeforeItIsTouched(harness.Case):
    def test_dry_run_moves_nothing(self):
        daemon, engine, source = self.serving()
        preview = daemon.must("update", "m@1", "--dry-run")
        about = checkpoints.describe(source)
        self.assertEqual(preview["checkpoint"], "m@1")
        (plan,) = preview["engines"]
        self.assertEqual((plan["engine"], plan["tensors"], plan["tensor_bytes"]),
                         ("e", about["tensors"], about["bytes"]))
        self.assertGreater(plan["buckets"], 1)
        self.assertEqual(sorted(plan["devices"]), ["HOST-0", "HOST-1"])
        self.assertEqual(engine.calls(), [])
        self.assertEqual(daemon.rank_sockets(), [])
        self.assertFalse(daemon.engine("e")["serving"])

    def test_another_schema_is_refused_unless_forced(self):
        daemon, engine, source = self.serving()
        daemon.must("update", "m@1")
        other = self.llama("other", megabytes=8)
        daemon.load("m@2", other)
        for flags in (["--dry-run"], []):
            answer = daemon.ctl("update", "m@2", *flags)
            self.assert_fails(answer, ("conflict", "invalid_argument", "unsupported"), "--force")
        self.assertEqual(len(engine.calls()), 1, "the engine was called")
        self.assert_holds(engine, source)
        engine.reset()
        daemon.must("update", "m@2", "--force")
        self.assert_holds(engine, other)
        self.assertEqual(daemon.engine("e")["serving"], "m@2")

    def test_one_changed_dtype_or_name_is_enough(self):
        base = [("a", "F32", (8,)), ("b", "BF16", (4, 4))]
        others = {"a": [("a", "I32", (8,)), base[1]], "b": [base[0], ("b", "BF16", (16,))],
                  "c": [*base, ("c", "U8", ())]}
        daemon, engine = self.daemon(), self.engine(devices=("HOST-0",))
        daemon.add_engine("e", engine, "m", devices=("HOST-0",))
        checkpoints.write_random_file(self.path("base.safetensors"), base, 1)
        daemon.load("m@1", self.path("base.safetensors"))
        daemon.must("update", "m@1")
        for name, tensors in others.items():
            checkpoints.write_random_file(self.path(f"{name}.safetensors"), tensors, 1)
            daemon.load(f"m@{name}", self.path(f"{name}.safetensors"))
            answer = daemon.ctl("update", f"m@{name}")
            self.assertNotEqual(answer.code, 0, name)
            self.assertIn(name, answer.error["sentence"])
        self.assertEqual(len(engine.calls()), 1)

    def test_a_dtype_that_the_wire_lacks_is_refused_in_the_dry_run(self):
        for dtype in ("F6_E2M3", "F6_E3M2"):
            checkpoints.write_random_file(self.path(f"{dtype}.safetensors"), [("ok", "F32", (4,)), ("odd.one", dtype, (8,))], 1)
        daemon, engine = self.daemon(), self.engine(devices=("HOST-0",))
        daemon.add_engine("e", engine, "m", devices=("HOST-0",))
        for dtype in ("F6_E2M3", "F6_E3M2"):
            daemon.load(f"m@{dtype}", self.path(f"{dtype}.safetensors"))
            for flags in (["--dry-run"], []):
                self.assert_fails(daemon.ctl("update", f"m@{dtype}", *flags), "unsupported", "odd.one", dtype)
        self.assertEqual(engine.calls(), [])

    def test_packed_four_bit_tensors_arrive_or_are_refused(self):
        checkpoints.write_random_file(self.path("f4.safetensors"), [("a", "F4", (6, 32)), ("b", "F8_E8M0", (6,))], 1)
        daemon, engine, source = self.serving(checkpoint=self.path("f4.safetensors"))
        preview = daemon.ctl("update", "m@1", "--dry-run")
        if preview.code:
            self.assert_fails(preview, "unsupported", "a", "F4")
            self.assertEqual(engine.calls(), [])
            return
        daemon.must("update", "m@1")
        for device, result in engine.post("/standin/compare", checkpoint=source).items():
            self.assertTrue(result.get("equal"), f"{device}: {result}")

    def test_to_nobody_is_an_error(self):
        daemon, _, source = self.serving(devices=("HOST-0",))
        daemon.load("other@1", source)
        self.assert_fails(daemon.ctl("update", "other@1"), ("not_found", "invalid_argument"), "other")
        self.assert_fails(daemon.ctl("update", "m@1", "--engine", "nobody"), "not_found", "nobody")
        self.assert_fails(daemon.ctl("update", "m@9"), "not_found", "m@9")

    def test_an_engine_of_another_checkpoint_is_refused(self):
        daemon, engine, source = self.serving(devices=("HOST-0",))
        daemon.load("other@1", source)
        answer = daemon.ctl("update", "other@1", "--engine", "e")
        self.assertNotEqual(answer.code, 0)
        self.assertEqual(engine.calls(), [])

    def test_an_unknown_device_is_refused_by_name(self):
        daemon, engine, _ = self.serving(devices=("HOST-0",))
        answer = daemon.ctl("engine", "add", "e2", "--kind", "sglang", "--endpoint", engine.endpoint, "--checkpoint",
                            "m", "--devices", "HOST-7")
        if answer.code == 0:
            answer = daemon.ctl("update", "m@1", "--engine", "e2")
        self.assertNotEqual(answer.code, 0)
        self.assertIn("HOST-7", answer.error["sentence"])
        self.assertEqual(engine.calls(), [])


class TrueLists(harness.Case):
    """Names, dtypes and shapes of a published model; the first dimensions are small."""

    def test_qwen3_30b_a3b_travels_in_runs(self):
        tensors = models.tensors_of("qwen3-30b-a3b", 0.001)
        self.assertEqual(len(tensors), 18867)
        source = self.path("qwen")
        models.write(source, tensors)
        daemon, engine, _ = self.serving({"push": {"bucket": "8MiB"}}, checkpoint=source)
        (report,) = daemon.must("update", "m@1")["result"]["engines"]
        self.assert_holds(engine, source)
        self.assertEqual(report["bytes"], checkpoints.describe(source)["bytes"])
        self.assertGreater(report["buckets"], 4)
        # A run ends with its bucket, its segment or its file.
        self.assertLess(report["copy_runs"], 3 * report["buckets"] + 20)
        self.assertLess(report["copy_runs"] * 100, len(tensors))


if __name__ == "__main__":
    harness.main()
