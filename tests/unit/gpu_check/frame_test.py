"""The frame of scripts/gpu-check: deadlines, reasons, clean-up by process id, exit status. Its checks run in a process of
their own here (toy_checks.py), because the frame ends every process below its own."""

import json
import os
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Frame(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="gpu-check-test-")
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def run_toys(self, *names, within=None, gpu=True):
        """{name: outcome}, and the exit status that gpu-check would have."""
        done = subprocess.run(
            [sys.executable, "-B", os.path.join(HERE, "toy_checks.py"), self.folder, str(within or 0), str(int(gpu)),
             *names],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)
        self.assertEqual(done.stderr.count("Traceback"), 0, done.stderr)
        with open(os.path.join(self.folder, "result.json"), encoding="utf-8") as file:
            self.document = json.load(file)
        return {check["name"]: check for check in self.document["checks"]}, done.returncode

    def pid_of(self, name):
        with open(os.path.join(self.folder, name + ".pid"), encoding="ascii") as file:
            return int(file.read())

    def test_what_passes_tells_its_figures(self):
        results, status = self.run_toys("good")
        self.assertEqual((results["good"]["status"], results["good"]["sentence"]), ("passed", "all is well"))
        self.assertEqual(results["good"]["measured"], {"bytes": 7})
        self.assertEqual(status, 0)
        self.assertTrue(self.document["finished"])

    def test_what_fails_says_its_first_line_and_the_others_go_on(self):
        results, status = self.run_toys("bad", "good")
        self.assertEqual((results["bad"]["status"], results["bad"]["sentence"]), ("failed", "the moon is missing"))
        self.assertEqual(results["good"]["status"], "passed")
        self.assertEqual(status, 1)
        with open(os.path.join(self.folder, "bad.log"), encoding="utf-8") as file:
            self.assertIn("Traceback", file.read())

    def test_a_check_that_hangs_is_ended_and_the_step_is_blamed(self):
        for name in ("hangs", "hangs_for_good"):
            started = time.monotonic()
            results, status = self.run_toys(name, "good")
            self.assertEqual(results[name]["status"], "failed")
            self.assertRegex(results[name]["sentence"], "did not end within [0-9.]+ s; ")
            self.assertIn("the rank to answer", results[name]["sentence"])
            self.assertEqual((results["good"]["status"], status), ("passed", 1))
            self.assertLess(time.monotonic() - started, 20)
            self.assertFalse(alive(self.pid_of(name)))

    def test_one_that_hangs_cleans_up_first(self):
        self.run_toys("hangs")
        self.assertTrue(os.path.exists(os.path.join(self.folder, "cleaned-up")))

    def test_a_check_whose_process_dies(self):
        results, status = self.run_toys("dies", "good")
        self.assertEqual(results["dies"]["status"], "failed")
        self.assertIn("without a word", results["dies"]["sentence"])
        self.assertIn("the end", results["dies"]["sentence"])
        self.assertEqual((results["good"]["status"], status), ("passed", 1))

    def test_a_check_that_is_asked_to_end_while_it_leaves_cleans_up_nothing_of_the_parents(self):
        results, status = self.run_toys("asked_while_leaving", "good")
        self.assertEqual((results["asked_while_leaving"]["status"], results["good"]["status"]), ("passed", "passed"))
        self.assertFalse(os.path.exists(os.path.join(self.folder, "escaped.pid")), "it went on as its parent")

    def test_what_cannot_even_be_logged_says_so(self):
        os.mkdir(os.path.join(self.folder, "good.log"))
        results, status = self.run_toys("good")
        self.assertEqual((results["good"]["status"], status), ("failed", 1))
        self.assertIn("good.log", results["good"]["sentence"])

    def test_nothing_stays_behind_and_nobody_else_is_touched(self):
        bystander = subprocess.Popen(["sleep", "100"])
        try:
            results, _ = self.run_toys("litters", "hangs_with_child")
            self.assertEqual(results["litters"]["status"], "passed")
            self.assertEqual(results["litters"]["measured"]["processes_left_behind"], 2)
            for name in ("litters", "litters_detached", "hangs_with_child"):
                self.assertFalse(alive(self.pid_of(name)), name)
            self.assertIsNone(bystander.poll(), "a process of somebody else was ended")
        finally:
            bystander.kill()
            bystander.wait()

    def test_what_needs_something_that_failed_is_skipped_with_the_reason(self):
        results, _ = self.run_toys("bad", "needs_bad", "needs_needs_bad")
        self.assertEqual(results["needs_bad"]["status"], "skipped")
        self.assertIn("bad, which was failed", results["needs_bad"]["sentence"])
        self.assertIn("needs_bad, which was skipped", results["needs_needs_bad"]["sentence"])

    def test_a_skip_is_told_as_its_reason(self):
        results, status = self.run_toys("skips", "good")
        self.assertEqual((results["skips"]["status"], results["skips"]["sentence"]), ("skipped", "there is no moon"))
        self.assertEqual(status, 0)

    def test_without_a_gpu_nothing_could_be_checked(self):
        results, status = self.run_toys("good", "for_host", gpu=False)
        self.assertEqual((results["good"]["status"], results["for_host"]["status"]), ("skipped", "passed"))
        self.assertIn("it needs a GPU", results["good"]["sentence"])
        self.assertEqual(status, 77)
        _, status = self.run_toys("good", "bad_for_host", gpu=False)
        self.assertEqual(status, 1, "what fails without a GPU has failed")

    def test_preparations_alone_check_nothing(self):
        results, status = self.run_toys("prepares")
        self.assertEqual((results["prepares"]["status"], status), ("passed", 77))

    def test_no_check_begins_that_has_no_time(self):
        results, status = self.run_toys("good", "slow", within=0.1)
        self.assertEqual(results["slow"]["status"], "skipped")
        self.assertIn("no time is left", results["slow"]["sentence"])
        self.assertEqual(status, 77)

    def test_a_run_that_is_cut_off_has_told_what_it_did(self):
        process = subprocess.Popen(
            [sys.executable, "-B", os.path.join(HERE, "toy_checks.py"), self.folder, "0", "1", "good", "slow"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            deadline = time.monotonic() + 30
            while not os.path.exists(os.path.join(self.folder, "slow.pid")):
                self.assertLess(time.monotonic(), deadline, "the second check never began")
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
        with open(os.path.join(self.folder, "result.json"), encoding="utf-8") as file:
            document = json.load(file)
        self.assertEqual([check["name"] for check in document["checks"]], ["good"])
        self.assertFalse(document["finished"])
        deadline = time.monotonic() + 10
        while alive(self.pid_of("slow")):  # dies with its parent
            self.assertLess(time.monotonic(), deadline, "a check outlived gpu-check")
            time.sleep(0.05)


if __name__ == "__main__":
    unittest.main()
