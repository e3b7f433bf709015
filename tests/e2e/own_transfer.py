"""What tests of vLLM's own weight transfer share, whichever way the workers come to the bytes."""

import os
import shlex
import sys

import harness

RANK = os.path.join(harness.SUPPORT, "transfer_rank.py")


class OwnTransfer(harness.Case):
    def start_server(self, workers, arguments, rank=()):
        command = shlex.join([sys.executable, RANK, *rank])
        return self.engine(kind="vllm", devices=workers, rank_commands=[command], arguments=("--no-extension", *arguments))

    def register(self, daemon, engine, **fields):
        """As e, with m@1 loaded; where that came from."""
        status, answer = daemon.http("PUT", "/v1/engines/e", {"kind": "vllm", "endpoint": engine.endpoint,
                                                              "checkpoint": "m", **fields})
        self.assertEqual(status, 200, answer)
        source = self.llama(megabytes=3)
        daemon.load("m@1", source)
        return source

    def check_update(self, daemon, engine, source, version):
        job = daemon.must("update", version, "--bucket-size", "256KiB")
        self.assertEqual(job["state"], "succeeded")
        (report,) = job["result"]["engines"]
        self.assertGreater(report["buckets"], 2)
        self.assert_holds(engine, source)
        self.assertEqual(daemon.engine("e")["serving"], version)
        for state in engine.rank_states().values():
            self.assertEqual((state["open"], state["taken_apart"]), ("", False))
        return report
