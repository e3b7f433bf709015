"""scripts/gpu-check itself: without a GPU each check says so, and rehearsed on host memory each check that can works."""

import json
import os
import subprocess
import sys
import unittest

import harness

PROGRAM = os.path.join(harness.ROOT, "scripts", "gpu-check")
SKIPPED_IN_REHEARSAL = {"machine", "receipt", "oldest-worker", "other-sender", "load-file"}


def has_driver():
    import ctypes

    try:
        ctypes.CDLL("libcuda.so.1")
        return True
    except OSError:
        return False


class GpuCheck(harness.Case):
    def run_it(self, *arguments, seconds=300):
        """(exit status, output, the JSON file)"""
        figures = self.path("figures.json")
        done = subprocess.run(
            [sys.executable, "-B", PROGRAM, "--build", os.path.dirname(harness.BIN_DIR), "--json", figures, *arguments],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=seconds * harness.PATIENCE, preexec_fn=harness.die_with_parent)
        document = None
        if os.path.exists(figures):
            with open(figures, encoding="utf-8") as file:
                document = json.load(file)
        return done.returncode, done.stdout, document

    @unittest.skipIf(has_driver(), "this machine has NVIDIA's driver")
    @unittest.skipIf(harness.RANKS == "torch", "the same with any rank")
    def test_without_a_gpu_each_check_says_so(self):
        status, output, document = self.run_it("--bytes", "8MiB")
        self.assertEqual(status, 77, output)
        self.assertIn("nothing could be checked on a GPU", output)
        states = {check["name"]: check["status"] for check in document["checks"]}
        self.assertEqual(states.pop("programs"), "passed")
        self.assertEqual(set(states.values()), {"skipped"}, states)
        for check in document["checks"]:
            if check["needs_gpu"]:
                self.assertIn("it needs a GPU: there is no libcuda.so.1", check["sentence"], check["name"])
        self.assertTrue(document["finished"])

    @unittest.skipIf(harness.RANKS == "torch", "the same with any rank")
    def test_wrong_usage(self):
        for arguments, word in ((["--device", "GPU-0"], "there is no GPU GPU-0"), (["--nccl", "/none"], "there is no /none"),
                                (["--bundle", self.path("none")], "is no unpacked bundle"),
                                (["--only", "moon"], "there is no check moon"),
                                (["--json", "/none/f.json"], "/none cannot be written"),
                                (["--bytes", "8GB"], "is no size")):
            status, output, _ = self.run_it(*arguments)
            self.assertEqual(status, 2, output)
            self.assertIn(word, output)
        status, output, _ = self.run_it("--list")
        self.assertEqual(status, 0)
        self.assertIn("second-update", output)

    @unittest.skipUnless(harness.RANKS == "torch", "needs torch")
    def test_a_rehearsal_on_host_memory(self):
        before = set(os.listdir("/dev/shm"))
        status, output, document = self.run_it("--rehearse", "--python", harness.test_python(), "--bytes", "12MiB",
                                               seconds=600)
        self.assertEqual(status, 0, output)
        self.assertIn("this says nothing about a GPU", output)
        self.assertTrue(document["rehearsal"])
        for check in document["checks"]:
            if check["name"] not in SKIPPED_IN_REHEARSAL and not check["name"].startswith(("contract", "sanitizer")):
                # Namespaces and other users are not to be had everywhere.
                allowed = ("passed", "skipped") if check["name"] in ("namespaces", "other-uid") else ("passed",)
                self.assertIn(check["status"], allowed, check)
            self.assertNotIn("processes_left_behind", check["measured"], check)
        left = [name for name in set(os.listdir("/dev/shm")) - before if name.startswith("ckptd-gpu-check-")]
        self.assertEqual(left, [], "checkpoints were left behind")


if __name__ == "__main__":
    harness.main()
