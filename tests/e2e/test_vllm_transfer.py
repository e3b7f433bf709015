"""vLLM's own weight transfer, end to end: ckptd, a stand-in server with the routes of vLLM, and workers on host memory.

The workers take the place of vLLM's (tests/support/transfer_rank.py says by what convention), so this shows the calls, their
order, the bytes and what an operator sees; not that a GPU opens the handle.
"""

import harness
import own_transfer
from harness import checkpoints

START = ("--weight-transfer", "ipc", "--insecure-serialization")


class VllmTransfer(own_transfer.OwnTransfer):
    def server(self, *arguments, rank=(), devices=("HOST-0", "HOST-1"), start=START):
        return self.start_server(devices, (*start, *arguments), rank)

    def ready(self, engine, config=None, **fields):
        daemon = self.daemon(config) if config else self.daemon()
        return daemon, self.register(daemon, engine, **fields)

    def test_every_worker_holds_every_byte_of_every_version(self):
        engine = self.server()
        daemon, one = self.ready(engine)
        report = self.check_update(daemon, engine, one, "m@1")
        self.assertEqual(engine.state()["weight_version"], "1")
        # One call a bucket for all workers.
        self.assertEqual([state["buckets"] for state in engine.rank_states().values()], [report["buckets"]] * 2)
        two = self.second(one)
        daemon.load("m@2", two)
        self.check_update(daemon, engine, two, "m@2")
        self.check_update(daemon, engine, one, "m@1")
        self.assertEqual(daemon.rank_sockets(), [], "nobody is waited for at a socket")

    def test_types_and_shapes_of_every_kind(self):
        engine = self.server(devices=("HOST-0",))
        daemon = self.daemon()
        daemon.must("engine", "add", "e", "--kind", "vllm", "--endpoint", engine.endpoint, "--checkpoint", "odd",
                    "--devices", "HOST-0")
        source = checkpoints.make_oddities(self.path("odd"))
        daemon.load("odd@1", source)
        self.assertEqual(daemon.must("update", "odd@1")["state"], "succeeded")
        for device, answer in engine.post("/standin/compare", checkpoint=source).items():
            self.assertTrue(answer.get("equal"), f"{device}: {answer}")

    def test_older_forms(self):
        for form, arguments in (("update", ()), ("server", ("--packed-server",))):
            with self.subTest(form):
                engine = self.server(*arguments, rank=("--form", form))
                daemon, source = self.ready(engine)
                self.check_update(daemon, engine, source, "m@1")
                daemon.close()

    def test_a_draft_model_of_the_same_checkpoint(self):
        engine = self.server("--mtp")
        daemon, source = self.ready(engine)
        self.check_update(daemon, engine, source, "m@1")
        for state in engine.rank_states().values():
            self.assertEqual((state["sessions"], state["draft_tensors"]), (2, state["tensors"]))

    def test_a_worker_that_raises_leaves_a_server_that_lives_and_is_poisoned(self):
        for rank in ((), ("--keeps-session",)):
            with self.subTest(rank=rank):
                engine = self.server(rank=rank)
                daemon, source = self.ready(engine)
                engine.fault("HOST-1", "fail_load", bucket=1)
                answer = daemon.ctl("update", "m@1", "--bucket-size", "256KiB")
                self.assertNotEqual(answer.code, 0)
                self.assertIn("was told to fail in load_weights", answer.everything())
                self.assertIn("its weight update was closed", answer.everything())
                self.assertIn("fail in load_weights", daemon.engine("e")["poisoned"])
                for state in engine.rank_states().values():
                    self.assertEqual((state["open"], state["taken_apart"]), ("", False))
                self.check_update(daemon, engine, source, "m@1")
                self.assertFalse(daemon.engine("e")["poisoned"])
                daemon.close()

    def test_an_update_that_a_killed_daemon_left_open_is_taken_over(self):
        engine = self.server()
        daemon, source = self.ready(engine, config={"timeouts": harness.HELD})
        engine.hold("HOST-0", "slow")
        daemon.detached("update", "m@1", "--bucket-size", "256KiB")
        engine.wait_held("HOST-0")
        daemon.kill9()
        engine.go()
        engine.fault("HOST-0", "none")
        self.assertTrue(engine.rank_states()["HOST-0"]["taken_apart"])
        daemon.start()
        self.assertIn("ckptd ended in the middle", daemon.engine("e")["poisoned"])
        self.assertNotIn("is not answered", daemon.log())
        daemon.load("m@1", source)
        self.check_update(daemon, engine, source, "m@1")

    def test_a_worker_that_hangs_is_named_and_the_engine_is_poisoned(self):
        engine = self.server()
        daemon, _ = self.ready(engine, config={"timeouts": {"reload": "1s"}})
        engine.fault("HOST-1", "stall", bucket=1)
        answer = daemon.ctl("update", "m@1", "--bucket-size", "256KiB")
        self.assertNotEqual(answer.code, 0)
        self.assertIn("has not answered POST /update_weights", answer.everything())
        self.assertIn("engine e, device HOST-", answer.everything())
        self.assertTrue(daemon.engine("e")["poisoned"])

    def test_what_the_server_lacks_is_said_and_nothing_is_touched(self):
        cases = (
            (("--two-phases",), START, "older than 0.22"),
            ((), ("--weight-transfer", "nccl"), "by NCCL, which this daemon cannot: NCCL sends from GPUs"),
            ((), (), "started without weight transfer"),
            (("--tells-environment",), ("--weight-transfer", "ipc"), "VLLM_ALLOW_INSECURE_SERIALIZATION=1"),
            (("--no-dev-mode",), START, "VLLM_SERVER_DEV_MODE=1"),
        )
        for arguments, start, sentence in cases:
            with self.subTest(sentence):
                engine = self.server(*arguments, start=start)
                daemon, _ = self.ready(engine, transfer="native")
                answer = daemon.ctl("update", "m@1")
                self.assertNotEqual(answer.code, 0)
                self.assertIn(sentence, answer.everything())
                self.assertFalse(daemon.engine("e")["poisoned"])
                self.assertEqual({state["sessions"] for state in engine.rank_states().values()}, {0})
                daemon.close()

    def test_pickles_are_refused_by_a_server_that_does_not_tell_so_before(self):
        engine = self.server(start=("--weight-transfer", "ipc"))
        daemon, _ = self.ready(engine)
        answer = daemon.ctl("update", "m@1")
        self.assertNotEqual(answer.code, 0)
        self.assertIn("start vLLM with VLLM_ALLOW_INSECURE_SERIALIZATION=1", answer.everything())

    def test_more_workers_than_devices(self):
        engine = self.server()
        daemon, _ = self.ready(engine, devices=["HOST-0"])
        answer = daemon.ctl("update", "m@1")
        self.assertIn("it has 2 workers, and this update has memory on 1 devices", answer.everything())
        self.assertFalse(daemon.engine("e")["poisoned"])


if __name__ == "__main__":
    harness.main()
