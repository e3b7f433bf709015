"""Block-quantised FP8 in the engines' layout: after an update through ckptd, a module that fuses gate and up projections
computes what the checkpoint's own tensors give. With the real worker on CPU torch."""

import os
import subprocess

import harness

RANK = os.path.join(harness.SUPPORT, "block_fp8_rank.py")
# The blocks are of 128 x 128: whole ones, a smaller last one in each direction, and less than one in all.
SHAPES = "model.layers.0.mlp=256x384,model.layers.1.mlp=300x129,model.layers.2.mlp=127x512,model.layers.3.mlp=5x7"


class BlockFp8(harness.Case):
    def checkpoint(self, name, seed):
        path = self.path(name)
        subprocess.run([harness.test_python(), RANK, "--device", "-", "--write", path, "--shapes", SHAPES, "--seed",
                        str(seed)], check=True, timeout=120)
        return path

    def engine_of(self, *arguments):
        # Small buckets: weights and their scales come in different ones.
        daemon = self.daemon({"push": {"bucket": "64KiB"}})
        command = " ".join([harness.test_python(), RANK, *arguments])
        engine = self.engine(rank_commands=[command], devices=("HOST-0",))
        first, second = self.checkpoint("first", 1), self.checkpoint("second", 2)
        daemon.load("m@1", first)
        daemon.load("m@2", second)
        daemon.add_engine("e", engine, "m", ("HOST-0",))
        return daemon, engine, first, second

    def compare(self, engine, source):
        return engine.post("/standin/compare", checkpoint=source)["HOST-0"]

    def test_products_are_those_of_the_checkpoint(self):
        daemon, engine, first, second = self.engine_of()
        for version, source in (("m@1", first), ("m@2", second), ("m@1", first)):
            daemon.must("update", version, "--force")
            told = self.compare(engine, source)
            self.assertTrue(told["equal"], told)
            self.assertEqual(told["multiplied"], 4)
        self.assertFalse(self.compare(engine, second)["equal"])

    def test_scales_that_stay_behind_are_seen(self):
        """The bytes arrived and the product is wrong: this test's own eyes are open."""
        daemon, engine, first, _ = self.engine_of("--forget", "scales")
        daemon.must("update", "m@1", "--force")
        told = self.compare(engine, first)
        self.assertFalse(told["equal"])
        self.assertIn("its product differs", told["difference"])


if __name__ == "__main__":
    harness.main()
