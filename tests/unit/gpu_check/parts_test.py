"""What scripts/gpu-check decides without a GPU: sizes, where things are, what torch's ref counter said, the report."""

import contextlib
import importlib.machinery
import importlib.util
import io
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import types
import unittest
import unittest.mock
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
sys.path[:0] = [os.path.join(ROOT, "scripts", "lib")]

from checks import frame, machine, place, report  # noqa: E402
from checks.frame import Check, FAILED, Outcome, PASSED, SKIPPED  # noqa: E402
from checks.program import chosen  # noqa: E402
from gpu_check import checks_packed, checks_sanitizer, context, gpu_rank  # noqa: E402

LOADER = importlib.machinery.SourceFileLoader("gpu_check_program", os.path.join(ROOT, "scripts", "gpu-check"))
program = importlib.util.module_from_spec(importlib.util.spec_from_loader(LOADER.name, LOADER))
LOADER.exec_module(program)

GIB = 1 << 30


def about(available, *gpus):
    return {"memory": {"available_bytes": available}, "devices": [{"bytes": size} for size in gpus]}


class Sizes(unittest.TestCase):
    def test_eight_gibibytes_where_there_is_room(self):
        self.assertEqual(context.bytes_for(about(128 * GIB, 80 * GIB)), 8 * GIB)

    def test_less_on_a_small_gpu_and_on_a_small_machine(self):
        self.assertEqual(context.bytes_for(about(128 * GIB, 16 * GIB)), 2 * GIB)
        self.assertEqual(context.bytes_for(about(20 * GIB, 80 * GIB)), 2 * GIB)
        self.assertEqual(context.bytes_for(about(1000)), context.SMALLEST_BYTES)

    def test_the_gpu_that_was_chosen_counts(self):
        two = about(1000 * GIB, 80 * GIB, 16 * GIB)
        for number, each in enumerate(two["devices"]):
            each["uuid"] = f"GPU-{number}"
        self.assertEqual(context.bytes_for(two), 8 * GIB)
        self.assertEqual(context.bytes_for(two, "GPU-1"), 2 * GIB)

    def test_what_a_person_types(self):
        self.assertEqual(program.size("8GiB"), 8 * GIB)
        self.assertEqual(program.size("500MiB"), 500 << 20)
        self.assertEqual(program.size("3000000"), 3000000)
        for text in ("8GB", "", "GiB", "0", "-1GiB", "1.5GiB", "many"):
            with self.assertRaises(Exception, msg=text):
                program.size(text)


class Rank(unittest.TestCase):
    """The wrapper that looks at the offer: 15 arguments, as torch's rebuild_cuda_tensor has."""

    def setUp(self):
        self.opened = []
        self.worker = types.SimpleNamespace(_rebuild_ipc=lambda handle, device_id=None: self.opened.append(
            (handle, device_id)) or "memory")
        self.watcher = gpu_rank.Watcher(self.worker)

    def offer(self, counter=b"", offset=0, handle=b"h" * 64):
        arguments = [None] * gpu_rank.ARGUMENTS
        arguments[7], arguments[11], arguments[12] = handle, counter, offset
        self.watcher.forget()
        self.assertEqual(self.worker._rebuild_ipc(("open", tuple(arguments)), 3), "memory")
        self.assertEqual(self.opened[-1], (("open", tuple(arguments)), 3), "the offer was changed on its way")

    def counters(self, values):
        with tempfile.NamedTemporaryFile(prefix="gpu-check-test-", dir="/dev/shm", delete=False) as file:
            file.write(b"\0" * 64 + b"".join(struct.pack("<q", value) for value in values))
        self.addCleanup(os.unlink, file.name)
        return file.name

    def test_a_counter_that_comes_to_zero(self):
        path = self.counters([5, 1])
        self.offer(b"/" + os.path.basename(path).encode(), 1)
        with open(path, "r+b") as file:
            file.seek(64 + 8)
            file.write(struct.pack("<q", 0))
        self.assertEqual(self.watcher.seen(5)["receipt"], {"offered": 1, "after": 0})

    def test_a_counter_that_does_not(self):
        self.offer(os.path.basename(self.counters([1])).encode(), 0)
        self.assertEqual(self.watcher.seen(0.05)["receipt"], {"offered": 1, "after": 1})

    def test_no_counter_and_one_that_is_not_there(self):
        self.offer()
        self.assertEqual((self.watcher.seen(0)["receipt"], self.watcher.trouble), (None, None))
        self.offer(b"/there-is-no-such-counter")
        self.assertIn("FileNotFoundError", self.watcher.seen(0)["trouble"])

    def test_the_same_memory_has_the_same_name(self):
        self.offer(handle=b"a" * 64)
        first = self.watcher.handle
        self.offer(handle=b"a" * 64)
        self.assertEqual(self.watcher.handle, first)
        self.offer(handle=b"b" * 64)
        self.assertNotEqual(self.watcher.handle, first)

    def test_memory_of_the_host_is_three_arguments(self):
        self.worker._rebuild_ipc(("from_file", ("/proc/1/fd/3", True, 99)), None)
        self.assertIsNone(self.watcher.trouble)
        self.assertTrue(self.watcher.handle)


class Places(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="gpu-check-test-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def test_a_repository_without_a_build_says_what_to_do(self):
        with self.assertRaisesRegex(place.Wrong, "cmake --build.*--bundle"):
            place.Place(self.folder, self.folder)

    def test_a_bundle_without_its_tarball_says_what_to_do(self):
        with open(os.path.join(self.folder, "bundle.json"), "w", encoding="ascii") as file:
            file.write("{}")
        with self.assertRaisesRegex(place.Wrong, "unpack the bundle again"):
            place.Place(self.folder, self.folder)

    def test_a_wheel_is_unpacked(self):
        with zipfile.ZipFile(os.path.join(self.folder, "thing-1-py3-none-any.whl"), "w") as wheel:
            wheel.writestr("thing/__init__.py", "")
        place.unzip_all(self.folder, os.path.join(self.folder, "site"))
        self.assertTrue(os.path.exists(os.path.join(self.folder, "site", "thing", "__init__.py")))
        with self.assertRaisesRegex(place.Wrong, "holds no wheel"):
            place.unzip_all(os.path.join(self.folder, "site"), self.folder)

    def test_a_python_that_is_not_there(self):
        self.assertIn("there is no", machine.python_facts("/there/is/none", dict(os.environ))["error"])
        facts = machine.python_facts(sys.executable, dict(os.environ))
        self.assertTrue(facts["python"])


class Programs(unittest.TestCase):
    def test_the_checks_call_them_as_they_want_to_be_called(self):
        """Without a GPU they end with another status than that of wrong usage."""
        folder = os.path.dirname(gpu_rank.__file__)
        for command in (["rates.py", "pinned", "--device", "GPU-0"],
                        ["rates.py", "load-file", "--device", "GPU-0", "a.safetensors", "b.safetensors"],
                        ["parameter_server.py", "--port", "1", "--device", "GPU-0", "--rounds", "3", "a.safetensors", "b"],
                        ["gpu_rank.py", "--support", ROOT + "/tests/support", "--memory", "cuda", "--device", "GPU-0"]):
            done = subprocess.run([sys.executable, "-B", os.path.join(folder, command[0]), *command[1:]],
                                  stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
            self.assertNotIn(done.returncode, (0, 2), f"{command}: {done.stderr}")
            self.assertRegex(done.stderr, "torch|GPU", f"{command}: {done.stderr}")


class Sanitizer(unittest.TestCase):
    """A program in the place of compute-sanitizer, which says what the real one says and runs nothing."""

    def setUp(self):
        self.folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.folder)
        os.mkdir(os.path.join(self.folder, "bin"))
        self.test = {"name": "contract_device_gpu", "seconds": 5, "command": ["/suite", "argument"]}

    def run_with(self, *lines):
        if lines:
            path = os.path.join(self.folder, "bin", "compute-sanitizer")
            with open(path, "w", encoding="utf-8") as file:
                file.write("#!/bin/sh\necho \"$@\"\n" + "\n".join(lines) + "\n")
            os.chmod(path, 0o755)
        check, = checks_sanitizer.checks(types.SimpleNamespace(place=types.SimpleNamespace(
            contract=[self.test, {"name": "fence_device_gpu"}])))
        self.assertEqual(check.needs, ("contract:contract_device_gpu",))
        with unittest.mock.patch.dict(os.environ, {"CUDA_HOME": self.folder, "PATH": "/bin:/usr/bin"}), \
                unittest.mock.patch.object(checks_sanitizer, "PLACES", ()), \
                contextlib.redirect_stdout(io.StringIO()) as self.said, contextlib.redirect_stderr(io.StringIO()):
            return check.run(types.SimpleNamespace(needs_real_gpu=lambda: None))

    def test_no_errors(self):
        outcome = self.run_with("echo '========= ERROR SUMMARY: 0 errors'")
        self.assertEqual((outcome.status, outcome.sentence), ("passed", "ERROR SUMMARY: 0 errors"))
        self.assertRegex(self.said.getvalue(), "--tool memcheck .* /suite argument")

    def test_errors(self):
        with self.assertRaisesRegex(AssertionError, "found errors: .*2 errors"):
            self.run_with("echo '========= ERROR SUMMARY: 2 errors'", "exit 86")

    def test_a_suite_that_fails_by_itself(self):
        with self.assertRaisesRegex(AssertionError, "exit status 1 under"):
            self.run_with("echo '========= ERROR SUMMARY: 0 errors'", "exit 1")

    def test_absent_unable_and_skipped(self):
        with self.assertRaisesRegex(frame.Skip, "there is no compute-sanitizer here"):
            self.run_with()
        with self.assertRaisesRegex(frame.Skip, "does not run here: .*no debugger"):
            self.run_with("echo '========= Error: no debugger'", "exit 1")
        self.assertEqual(self.run_with("echo skipped: no GPU", "exit 77").status, "skipped")


class Packed(unittest.TestCase):
    def test_the_bytes_are_those_of_the_list_and_most_tensors_begin_anywhere(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        listed, packed = checks_packed.write_inputs(folder)
        with open(listed, encoding="utf-8") as file:
            tensors = json.load(file)
        self.assertEqual(os.path.getsize(packed), sum(size for *_, size in tensors))
        widths = {"uint8": 1, "float8_e4m3fn": 1, "bfloat16": 2, "float16": 2, "float32": 4, "int64": 8}
        begin = odd = 0
        for _, dtype, shape, size in tensors:
            self.assertEqual(size, math.prod(shape) * widths[dtype])
            odd += begin % widths[dtype] != 0
            begin += size
        self.assertGreater(odd, 2)


class Names(unittest.TestCase):
    def test_an_instance_of_a_divided_gpu_is_told_by_the_older_call(self):
        import ctypes

        def older(of_gpu, _device):
            ctypes.memmove(of_gpu, bytes(range(16)), 16)
            return 0

        cuda = types.SimpleNamespace(cuDeviceGetUuid=older)
        self.assertFalse(machine.is_instance(cuda, 0, bytes(range(16))))
        self.assertTrue(machine.is_instance(cuda, 0, bytes(16)))
        self.assertFalse(machine.is_instance(types.SimpleNamespace(), 0, bytes(16)))  # where the driver has dropped it


class Libraries(unittest.TestCase):
    def test_another_nccl_is_for_ckptd_and_not_for_torch(self):
        folder = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, folder)
        where = types.SimpleNamespace(environment=lambda *_: dict(os.environ))
        for before in (None, "/opt/lib"):
            with unittest.mock.patch.dict(os.environ, {"LD_LIBRARY_PATH": before} if before else {}):
                scratch = tempfile.mkdtemp(dir=folder)
                made = context.Context(where, {"python": {}}, scratch, "python3", 1, False, "/etc/hostname")
                self.assertTrue(os.environ["LD_LIBRARY_PATH"].startswith(os.path.join(scratch, "nccl")))
                self.assertEqual(made.python_environment().get("LD_LIBRARY_PATH"), before)


class Choice(unittest.TestCase):
    CHECKS = [Check("a", "?", None, 1), Check("b", "?", None, 1, ("a",)), Check("c", "?", None, 1, ("b",)),
              Check("d", "?", None, 1)]

    def test_a_check_brings_what_it_needs(self):
        self.assertEqual([check.name for check in chosen(self.CHECKS, ["c"])], ["a", "b", "c"])
        self.assertEqual([check.name for check in chosen(self.CHECKS, ["d", "a"])], ["a", "d"])
        self.assertEqual(chosen(self.CHECKS, None), self.CHECKS)

    def test_one_that_does_not_exist(self):
        with self.assertRaisesRegex(place.Wrong, "there is no check moon; there are: a, b, c, d"):
            chosen(self.CHECKS, ["moon"])


class Report(unittest.TestCase):
    CHECKS = [Check("one", "is it?", None, 1), Check("two", "is it?", None, 1), Check("three", "is it?", None, 1)]

    def test_the_table_and_the_file(self):
        results = {"one": Outcome(PASSED, "yes", {"upload_bytes_per_second": 5.5e10, "buckets": 4096, "list": [1]}, 1.25),
                   "two": Outcome(FAILED, "no", {}, 0.5), "three": Outcome(SKIPPED, "no GPU")}
        table = report.table(self.CHECKS, results)
        for words in ("one", "passed", "1.2 s  yes", "upload_bytes_per_second = 55.00 GB/s", "buckets = 4,096", "no GPU"):
            self.assertIn(words, table)
        self.assertNotIn("list =", table)
        document = report.document(self.CHECKS, results, {"driver": "580"}, False, 1)
        self.assertEqual(json.loads(json.dumps(document)), document)
        self.assertEqual([check["status"] for check in document["checks"]], ["passed", "failed", "skipped"])
        self.assertEqual((document["machine"], document["exit_status"]), ({"driver": "580"}, 1))

    def test_the_last_line_says_which_of_four_ends_it_was(self):
        good, none = {"one": Outcome(PASSED, "yes")}, {"one": Outcome(SKIPPED, "no GPU")}
        self.assertIn("something failed", report.verdict(1, {"one": Outcome(FAILED, "no")}, False))
        self.assertIn("nothing could be checked", report.verdict(77, none, False))
        self.assertIn("on this GPU", report.verdict(0, good, False))
        self.assertIn("says nothing about a GPU", report.verdict(0, good, True))


if __name__ == "__main__":
    unittest.main()
