"""When the arena of a GPU is used again: ranks that unmap it in time, late and never, with the libcuda of
tests/support/fake_cuda. The reference rank counts down in the file of receipts as torch does."""

import os
import struct
import subprocess

import harness
from harness import wait_until

FAKE = os.environ.get("CKPTD_FAKE_CUDA") or os.path.join(os.path.dirname(harness.BIN_DIR), "tests", "libfake_cuda.so")
GPUS = [f"GPU-fa4ec0da-0000-0000-0000-00000000000{number}" for number in range(2)]

# torch without CUDA refuses to count ("CUDA is not available"), but it maps shared memory by the very code that the
# counting would use: it counts itself in and out in the header, makes a short file longer and removes the last name.
WITH_TORCH = """
import sys, torch
name, index = sys.argv[1].encode(), int(sys.argv[2])
try:
    torch.UntypedStorage._release_ipc_counter_cuda(name, index)
except RuntimeError as error:
    assert "CUDA is not available" in str(error), error
    storage = torch.UntypedStorage._new_shared_filename_cpu(b"", name, 8 * 10000)
    counters = torch.empty(0, dtype=torch.int64).set_(storage, 0, (10000,))
    counters[index] -= 1
    del counters, storage
"""


IN_VAIN = {"timeouts": {"receipt": "4s"}}  # where a rank never unmaps; the others have to within it


class Receipts(harness.Case):
    def house(self, **sections):
        config = {"device": {"kind": "cuda"}, "cuda": {"library": FAKE}, "store": {"segment": "1MiB"},
                  "timeouts": {"receipt": "20s"}, **sections}
        engine, source = self.engine(devices=GPUS, environment={"CKPTD_RANK_CUDA_LIBRARY": FAKE}), self.llama()
        daemon = self.daemon(config)
        daemon.add_engine("e", engine, "m", GPUS)
        daemon.load("m@1", source)
        return daemon, engine, source

    def tearDown(self):
        for part in self._parts:
            self.assertNotIn("fake_cuda: complaint", part.log(), "what a driver would have punished")

    def update(self, daemon):
        job = daemon.must("update", "m@1")
        self.assertEqual(job["state"], "succeeded")
        return job["result"]["engines"][0]

    def device(self, daemon, number=0):
        return daemon.must("status")["devices"][number]

    def receipts(self, daemon):
        """The files of receipts that the daemon has open."""
        return [path for path in daemon.open_files() if path.startswith("/dev/shm/ckptd-receipts-")]

    def test_the_second_update_has_the_kept_arena(self):
        daemon, engine, source = self.house()
        first = self.update(daemon)
        self.assertEqual([lane["receipt"] for lane in first["lanes"]], ["seen", "seen"])
        kept = self.device(daemon)["kept_arena_bytes"]
        self.assertEqual(kept, first["arena_bytes"])
        second = self.update(daemon)
        self.assertEqual([lane["receipt"] for lane in second["lanes"]], ["seen", "seen"])
        self.assertEqual(second["warnings"], [])
        self.assertEqual(self.device(daemon)["kept_arena_bytes"], kept)
        self.assert_holds(engine, source)
        files = self.receipts(daemon)
        self.assertEqual(len(files), 1)
        self.assertEqual(os.stat(files[0]).st_mode & 0o7777, 0o600)
        self.assertEqual(os.stat(files[0]).st_size, 80064)
        self.assertEqual(daemon.terminate(), 0)
        self.assertFalse(os.path.exists(files[0]))

    def test_a_rank_that_unmaps_after_its_last_word_is_waited_for(self):
        daemon, engine, _ = self.house()
        engine.fault(GPUS[0], "unmap_late", seconds=0.1)
        report = self.update(daemon)
        lane = next(lane for lane in report["lanes"] if lane["device"] == GPUS[0])
        self.assertEqual(lane["receipt"], "seen")
        # The engine's own answer takes as long here: how long was waited for the receipt alone is not for this test.
        self.assertGreater(lane["receipt_seconds"], 0)
        self.assertEqual(self.device(daemon)["quarantined_bytes"], 0)

    def test_a_rank_that_never_unmaps_puts_the_arena_into_quarantine_until_its_end(self):
        daemon, engine, source = self.house(**IN_VAIN)
        engine.fault(GPUS[0], "keep_memory")
        report = self.update(daemon)
        pid = engine.rank(GPUS[0])["pid"]
        self.assertEqual(len(report["warnings"]), 1)
        self.assertIn(str(pid), report["warnings"][0])
        self.assertIn(GPUS[0], report["warnings"][0])
        self.assertEqual(daemon.engine("e")["serving"], "m@1")
        self.assert_holds(engine, source)
        held, other = daemon.must("status")["devices"]
        self.assertEqual((held["kept_arena_bytes"], other["quarantined_bytes"]), (0, 0))
        self.assertEqual(held["quarantined_bytes"], report["arena_bytes"])
        self.assertEqual([entry["pids"] for entry in held["quarantine"]], [[pid]])
        self.assertEqual(held["quarantine"][0]["engine"], "e")
        text = daemon.ctl("status", json_output=False).stdout
        self.assertIn("QUARANTINE", text)
        self.assertIn(f"pid {pid} of engine e", text)
        daemon.must("trim")
        self.assertEqual(self.device(daemon)["quarantined_bytes"], report["arena_bytes"])
        daemon.be_patient()
        self.update(daemon)  # in another arena
        self.assertEqual(self.device(daemon)["quarantined_bytes"], report["arena_bytes"])
        engine.kill_rank(GPUS[0])
        wait_until("the quarantine to end", lambda: self.device(daemon)["quarantined_bytes"] == 0, 20)
        self.assertGreater(self.device(daemon)["kept_arena_bytes"], 0)
        wait_until("a line about it", lambda: "leaves quarantine" in daemon.log())
        self.assertEqual(daemon.terminate(), 0)

    def test_torch_itself_counts_down(self):
        python = harness.test_python()
        if not python:
            self.skipTest("no Python with torch")
        daemon, engine, _ = self.house(**IN_VAIN)
        engine.fault(GPUS[0], "keep_memory")
        self.update(daemon)
        path, = self.receipts(daemon)

        def content():
            with open(path, "rb") as file:
                return file.read()

        counters = struct.unpack("=10000q", content()[64:])
        self.assertEqual(sorted(set(counters)), [0, 1])
        held = counters.index(1)
        subprocess.run([python, "-c", WITH_TORCH, "/" + os.path.basename(path), str(held)], check=True,
                       timeout=120 * harness.PATIENCE)
        wait_until("the quarantine to end", lambda: self.device(daemon)["quarantined_bytes"] == 0, 20)
        after = content()
        self.assertEqual(len(after), 80064)
        self.assertEqual(struct.unpack("=i", after[:4]), (1,))
        self.assertTrue(os.path.exists(path))

    def test_advisory(self):
        daemon, engine, _ = self.house(push={"receipt": "advisory"}, **IN_VAIN)
        engine.fault(GPUS[0], "keep_memory")
        report = self.update(daemon)
        self.assertIn("advisory", report["warnings"][0])
        self.assertEqual(self.device(daemon)["quarantined_bytes"], 0)
        self.assertGreater(self.device(daemon)["kept_arena_bytes"], 0)

    def test_a_rank_that_fails_holds_its_arena_until_it_drops_the_memory(self):
        daemon, engine, _ = self.house()
        engine.fault(GPUS[1], "fail_load")
        self.assertNotEqual(daemon.ctl("update", "m@1").code, 0)
        engine.wait_idle()
        for number in range(2):
            wait_until("the quarantine to end", lambda: self.device(daemon, number)["quarantined_bytes"] == 0, 20)
            self.assertEqual(self.device(daemon, number)["arena_bytes"], 0)
        self.update(daemon)

    def test_a_rank_that_is_killed_in_mid_update_frees_its_arena(self):
        daemon, engine, _ = self.house()
        engine.fault(GPUS[1], "die")
        self.assertNotEqual(daemon.ctl("update", "m@1").code, 0)
        wait_until("the quarantine to end", lambda: self.device(daemon, 1)["quarantined_bytes"] == 0, 20)

    def test_the_file_of_a_daemon_that_was_killed_is_removed_by_the_next(self):
        daemon, engine, _ = self.house()
        self.update(daemon)
        left, = self.receipts(daemon)
        daemon.kill9()
        self.assertTrue(os.path.exists(left))
        daemon.start()
        self.assertFalse(os.path.exists(left))

    def test_an_end_with_memory_in_quarantine_is_an_orderly_one(self):
        daemon, engine, _ = self.house(**IN_VAIN)
        engine.fault(GPUS[0], "keep_memory")
        self.update(daemon)
        self.assertEqual(daemon.terminate(), 0)
        self.assertIn("is still in quarantine", daemon.log())


if __name__ == "__main__":
    harness.main()
