"""vLLM's own weight transfer by NCCL, end to end: ckptd with the libraries of tests/support/fake_cuda and fake_nccl, a stand-in
server with the routes of vLLM, and workers in processes of their own that join the fake's clique over a socket.

This shows the calls, what is broadcast when, every byte, and that each side's failure ends the other's wait. How workers
meet, and what becomes of one whose peer has gone, is the fake's: of NVIDIA's library it proves nothing.
"""

import os
import time

import harness
import own_transfer
from harness import EXIT, checkpoints

LIBRARIES = os.path.join(os.path.dirname(harness.BIN_DIR), "tests")
CUDA = os.environ.get("CKPTD_FAKE_CUDA") or os.path.join(LIBRARIES, "libfake_cuda.so")
NCCL = os.environ.get("CKPTD_FAKE_NCCL") or os.path.join(LIBRARIES, "libfake_nccl.so")
GPUS = [f"GPU-fa4ec0da-0000-0000-0000-00000000000{number}" for number in range(2)]
WORKERS = ("W-0", "W-1", "W-2")
WAITS = "waits in NCCL for a rank that has gone"


class VllmNccl(own_transfer.OwnTransfer):
    def tearDown(self):
        for part in self._parts:
            self.assertNotIn("fake_cuda: complaint", part.log(), "what a driver would have punished")
            self.assertNotIn("fake NCCL:", part.log(), "what NCCL would have punished")

    def server(self, *arguments, rank=(), workers=WORKERS):
        return self.start_server(workers, ("--weight-transfer", "nccl", *arguments), ("--backend", "nccl", *rank))

    def ready(self, engine, devices=tuple(GPUS[:1]), config=None, environment=None, **fields):
        sections = {"device": {"kind": "cuda"}, "cuda": {"library": CUDA}, "nccl": {"library": NCCL}, "store": {"segment": "1MiB"}}
        for section, values in (config or {}).items():
            sections.setdefault(section, {}).update(values)
        daemon = self.daemon(sections, environment={"CKPTD_FAKE_NCCL_CUDA": CUDA, "CKPTD_FAKE_NCCL_NETWORK": "1",
                                                    **(environment or {})})
        return daemon, self.register(daemon, engine, devices=list(devices), follow=False, on_failure="hold", **fields)

    def check_fails(self, daemon, *sentences):
        answer = daemon.ctl("update", "m@1", "--bucket-size", "256KiB")
        self.assertNotEqual(answer.code, 0)
        for sentence in sentences:
            self.assertIn(sentence, answer.everything())
        self.assert_alive(daemon)
        return answer

    def test_every_worker_holds_every_byte_of_every_version_and_joined_once(self):
        engine = self.server()
        daemon, one = self.ready(engine)
        report = self.check_update(daemon, engine, one, "m@1")
        self.assertEqual(engine.state()["weight_version"], "1")
        # One call and one broadcast a bucket for all workers, from the one device.
        self.assertEqual([state["buckets"] for state in engine.rank_states().values()], [report["buckets"]] * 3)
        self.assertEqual([lane["device"] for lane in report["lanes"]], GPUS[:1])
        two = self.second(one)
        daemon.load("m@2", two)
        self.check_update(daemon, engine, two, "m@2")
        self.check_update(daemon, engine, one, "m@1")
        self.assertEqual({state["inits"] for state in engine.rank_states().values()}, {1})
        self.assertEqual(daemon.must("trim")["communicators"], 1)
        self.check_update(daemon, engine, two, "m@2")
        self.assertEqual({state["inits"] for state in engine.rank_states().values()}, {2})
        self.assertEqual(daemon.terminate(), 0)

    def test_types_and_shapes_of_every_kind(self):
        engine = self.server(workers=("W-0",))
        daemon, _ = self.ready(engine, checkpoint="odd")
        source = checkpoints.make_oddities(self.path("odd"))
        daemon.load("odd@1", source)
        self.assertEqual(daemon.must("update", "odd@1")["state"], "succeeded")
        self.assert_holds(engine, source)

    def test_a_draft_model_is_given_everything_once_more(self):
        engine = self.server("--mtp")
        daemon, source = self.ready(engine)
        self.check_update(daemon, engine, source, "m@1")
        for state in engine.rank_states().values():
            self.assertEqual((state["tensors"], state["sessions"]), (state["draft_tensors"], 2))

    def test_a_server_that_was_started_anew_is_joined_anew(self):
        engine = self.server()
        daemon, source = self.ready(engine)
        self.check_update(daemon, engine, source, "m@1")
        before = engine.state()["pid"]
        engine.post("/standin/restart", seconds=0)
        harness.wait_until("the server to be there again", lambda: self.pid_of(engine) not in (None, before))
        self.check_update(daemon, engine, source, "m@1")
        self.assertEqual({state["inits"] for state in engine.rank_states().values()}, {1})

    @staticmethod
    def pid_of(engine):
        try:
            return engine.state()["pid"]
        except (OSError, AssertionError):
            return None

    def test_a_worker_that_never_joins_ends_the_update_before_the_model_is_touched(self):
        engine = self.server()
        daemon, source = self.ready(engine, config={"timeouts": {"nccl_start": "4s"}})
        engine.fault("W-1", "stall_init")
        answer = self.check_fails(daemon, "of 3 workers not all have joined NCCL with " + GPUS[0], "NCCL_SOCKET_IFNAME")
        self.assertEqual(answer.code, EXIT["timed_out"])
        self.assertFalse(daemon.engine("e")["poisoned"])
        engine.reset()
        self.check_update(daemon, engine, source, "m@1")

    def test_what_the_server_says_of_workers_that_could_not_join_is_the_error(self):
        engine = self.server()
        daemon, source = self.ready(engine, config={"timeouts": {"nccl_start": "4s"}})
        engine.fault("W-1", "die_init")
        self.check_fails(daemon, "POST /init_weight_transfer_engine", "remote process exited", "not all have joined")
        self.assertFalse(daemon.engine("e")["poisoned"])
        engine.reset()
        self.check_update(daemon, engine, source, "m@1")

    def test_a_worker_that_dies_in_a_broadcast_poisons_and_the_daemon_does_not_wait(self):
        engine = self.server()
        daemon, source = self.ready(engine)
        engine.fault("W-1", "die", bucket=2)
        started = time.monotonic()
        self.check_fails(daemon, "remote process exited", "restart it")
        self.assertLess(time.monotonic() - started, 10 * harness.PATIENCE, "the bucket has 10 s, which need not pass")
        self.assertTrue(daemon.engine("e")["poisoned"])
        # The others are in NCCL, as vLLM's would be: nothing but a restart frees them.
        harness.wait_until("the others to wait in NCCL", lambda: engine.log().count(WAITS) == 2)
        engine.reset()
        self.check_update(daemon, engine, source, "m@1")
        self.assertFalse(daemon.engine("e")["poisoned"])

    def test_a_server_that_says_no_while_we_broadcast(self):
        engine = self.server()
        daemon, source = self.ready(engine)
        for worker in WORKERS:
            engine.fault(worker, "refuse", bucket=1)
        self.check_fails(daemon, "the worker was told to fail", "was closed, so that it lives on")
        self.assertTrue(daemon.engine("e")["poisoned"])
        for state in engine.rank_states().values():
            self.assertEqual((state["open"], state["taken_apart"]), ("", False))
        self.check_update(daemon, engine, source, "m@1")
        self.assertEqual({state["inits"] for state in engine.rank_states().values()}, {2})

    def test_a_worker_that_fails_to_load_what_it_took(self):
        engine = self.server()
        daemon, source = self.ready(engine)
        engine.fault("W-2", "fail_load", bucket=1)
        self.check_fails(daemon, "the worker was told to fail", "was closed, so that it lives on")
        self.assertTrue(daemon.engine("e")["poisoned"])
        self.check_update(daemon, engine, source, "m@1")

    def test_a_worker_that_hangs_is_waited_for_until_the_deadline_and_said(self):
        engine = self.server()
        daemon, source = self.ready(engine, config={"timeouts": {"reload": "4s"}})
        engine.fault("W-1", "stall", bucket=1)
        answer = self.check_fails(daemon, "not all of its 3 workers take part in the broadcast of")
        self.assertEqual(answer.code, EXIT["timed_out"])
        self.assertTrue(daemon.engine("e")["poisoned"])
        engine.reset()
        daemon.be_patient()
        self.check_update(daemon, engine, source, "m@1")

    def test_a_cancelled_update_leaves_nobody_in_nccl(self):
        engine = self.server()
        daemon, source = self.ready(engine, config={"timeouts": harness.HELD})
        for worker in WORKERS:
            engine.hold(worker, "slow")
        job = daemon.detached("update", "m@1", "--bucket-size", "256KiB")
        engine.wait_held()
        daemon.must("job", "cancel", job, "--force")
        engine.go()
        harness.wait_until("the job to end", lambda: daemon.job(job)["state"] in ("cancelled", "failed", "succeeded"))
        for worker in WORKERS:
            engine.fault(worker, "none")
        self.assertNotIn(WAITS, engine.log())
        self.assertTrue(daemon.engine("e")["poisoned"])
        self.check_update(daemon, engine, source, "m@1")

    def test_a_daemon_that_is_killed_leaves_workers_in_nccl_and_its_successor_says_what_to_do(self):
        engine = self.server()
        daemon, source = self.ready(engine)
        engine.fault("W-0", "stall", bucket=2)
        daemon.detached("update", "m@1", "--bucket-size", "256KiB")
        harness.wait_until("a broadcast to be under way", lambda: "was told to stall" in engine.log())
        daemon.kill9()
        harness.wait_until("its workers to wait in NCCL", lambda: engine.log().count(WAITS) == 2)
        daemon.start()
        self.assertIn("ckptd ended in the middle", daemon.engine("e")["poisoned"])
        daemon.load("m@1", source)
        engine.reset()
        self.check_update(daemon, engine, source, "m@1")

    def test_an_end_of_the_daemon_is_not_held_up(self):
        engine = self.server()
        daemon, _ = self.ready(engine, config={"timeouts": {"reload": "60s", "upload": "60s", "spread": "60s", "shutdown": "2s"}})
        engine.fault("W-0", "stall", bucket=1)
        daemon.detached("update", "m@1", "--bucket-size", "256KiB")
        harness.wait_until("a broadcast to be under way", lambda: "was told to stall" in engine.log())
        started = time.monotonic()
        self.assertEqual(daemon.terminate(), 0)
        self.assertLess(time.monotonic() - started, 15 * harness.PATIENCE, "with patience it would be a minute")

    def test_what_is_lacking_is_said_and_nothing_is_touched(self):
        old = self.server(rank=("--no-unique-id",))
        daemon, _ = self.ready(old)
        self.check_fails(daemon, "vllm-project/vllm#53784")
        engine = self.server()
        daemon, _ = self.ready(engine, devices=GPUS)
        self.check_fails(daemon, "the one device of this node that sends")
        daemon, _ = self.ready(engine, config={"nccl": {"library": "/nowhere/libnccl.so.2"}})
        self.check_fails(daemon, "which this daemon cannot", "/nowhere/libnccl.so.2")
        daemon, _ = self.ready(engine, config={"device": {"kind": "host"}}, devices=["HOST-0"])
        self.check_fails(daemon, "set [device] kind (--device) to cuda")
        for server in (old, engine):
            self.assertEqual({state["sessions"] for state in server.rank_states().values()}, {0})


if __name__ == "__main__":
    harness.main()
