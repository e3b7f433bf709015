"""The demo, as scripts/demo runs it once all is built: each engine's flow, from its first weights to the kill."""

import os
import subprocess
import sys

import harness


class Demo(harness.Case):
    def run_it(self, engine):
        self.llama(megabytes=2)
        done = subprocess.run(
            [sys.executable, "-B", os.path.join(harness.ROOT, "scripts", "lib", "demo.py"), "--worker", harness.RANKS,
             "--engine", engine, "--checkpoint", self.path("llama")],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=200 * harness.PATIENCE, preexec_fn=harness.die_with_parent)
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def test_the_flow_of_each_engine(self):
        for engine in ("sglang", "vllm"):
            with self.subTest(engine=engine):
                said = self.run_it(engine)
                self.assertIn(f"{engine} appears with dummy weights", said)
                self.assertIn("demo@1 -> engine-0, by itself", said)
                self.assertIn("serves demo@2 again", said)
                # Of each of the two ranks, each time: its first weights, the update, after the kill.
                self.assertEqual(said.count(", all equal"), 6, said)
                for row in ("files to memory", "whole update, all ranks", "bounded by"):
                    self.assertIn(row, said)


if __name__ == "__main__":
    harness.main()
