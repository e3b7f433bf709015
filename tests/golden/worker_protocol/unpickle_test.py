#!/usr/bin/env python3
"""Unpickles what our C++ writes and compares the values.

  unpickle_test.py [--torch] WRITE_MESSAGES

WRITE_MESSAGES is the program that writes the samples into a directory. Without --torch stand-ins take the place of
torch's modules and each pickle is read by both of Python's unpicklers. With --torch the interpreter named by the
environment variable CKPTD_TEST_PYTHON reads them with the torch that it has, and opens a real file as the offered
memory; the exit code is 77, skipped, when no such interpreter is given.
"""

import functools
import io
import os
import pathlib
import pickle
import pickletools
import subprocess
import sys
import tempfile
import types
import unittest

SKIPPED = 77
ALL_DTYPES = ("bool float4_e2m1fn_x2 uint8 int8 float8_e5m2 float8_e4m3fn float8_e8m0fnu float8_e4m3fnuz "
              "float8_e5m2fnuz int16 uint16 float16 bfloat16 int32 uint32 float32 complex64 float64 int64 uint64").split()


def install_stand_ins():
    """Modules that have just the names that the messages mention."""
    torch = types.ModuleType("torch")
    for name in ALL_DTYPES:
        setattr(torch, name, types.SimpleNamespace(name=name))
    torch.Tensor = type("Tensor", (), {})
    torch.from_file = lambda *args, **kwargs: ("from_file", args, kwargs)
    storage = types.ModuleType("torch.storage")
    storage.TypedStorage = type("TypedStorage", (), {})
    multiprocessing = types.ModuleType("torch.multiprocessing")
    reductions = types.ModuleType("torch.multiprocessing.reductions")
    reductions.rebuild_cuda_tensor = lambda *args: args
    torch.storage, torch.multiprocessing, multiprocessing.reductions = storage, multiprocessing, reductions
    for module in (torch, storage, multiprocessing, reductions):
        sys.modules[module.__name__] = module


def read_samples(program):
    with tempfile.TemporaryDirectory(prefix="ckptd-messages-") as directory:
        subprocess.run([program, directory], check=True)
        return {path.stem: path.read_bytes() for path in pathlib.Path(directory).iterdir()}


def loads_both_ways(data):
    value = pickle.loads(data)
    # The unpickler written in Python is stricter about marks than the one written in C.
    pickle._Unpickler(io.BytesIO(data)).load()
    return value


class Messages(unittest.TestCase):
    program = None

    @classmethod
    def setUpClass(cls):
        cls.samples = read_samples(cls.program)

    def load(self, name):
        return loads_both_ways(self.samples.pop(name))

    def test_every_message_is_plain_protocol_3(self):
        for name, data in read_samples(self.program).items():
            with self.subTest(name):
                opcodes = [(opcode.name, opcode.proto, argument) for opcode, argument, _ in pickletools.genops(data)]
                self.assertEqual(opcodes[0], ("PROTO", 2, 3))
                self.assertLessEqual(max(proto for _, proto, _ in opcodes), 3)
                self.assertFalse({"MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"} & {name for name, _, _ in opcodes})
                self.assertEqual(opcodes[-1][0], "STOP")
                pickletools.dis(data, out=io.StringIO())  # checks the stack as well

    def test_offer_cuda(self):
        import torch
        from torch.multiprocessing import reductions

        for name, size, counter, index in (("offer_cuda", 1 << 34, b"/ce_123_0", 0),
                                           ("offer_cuda_small", 1 << 21, b"", 9999)):
            function, arguments = self.load(name)
            self.assertIs(function, reductions.rebuild_cuda_tensor)
            self.assertEqual(arguments, (torch.Tensor, (size,), (1,), 0, torch.storage.TypedStorage, torch.uint8, 0,
                                         bytes(range(64)), size, 0, False, counter, index, b"", False))
            self.assertEqual([type(argument) for argument in arguments[10:]], [bool, bytes, int, bytes, bool])

    def test_offer_file(self):
        import torch

        for name, path, size in (("offer_file", "/proc/4711/fd/12", 1 << 20),
                                 ("offer_file_long", "/" + "p" * 5000 + "/ü", 5 << 40)):
            function, arguments = self.load(name)
            self.assertIs(type(function), functools.partial)
            self.assertIs(function.func, torch.from_file)
            self.assertEqual(function.args, ())
            self.assertEqual(function.keywords, {"dtype": torch.uint8})
            self.assertEqual(arguments, (path, True, size))
            self.assertIs(type(arguments[1]), bool)

    def test_reload(self):
        import torch

        self.assertEqual(self.load("reload"), [
            {"name": "lm_head.weight", "dtype": torch.bfloat16, "shape": (256, 64), "offset": 256},
            {"name": "größe", "dtype": torch.float32, "shape": (), "offset": 1 << 31},
            {"name": "empty", "dtype": torch.float8_e4m3fn, "shape": (0, 5), "offset": 0},
        ])
        self.assertEqual(self.load("reload_nothing"), [])

    def test_reload_integers(self):
        import torch

        values = [near for bits in range(64) for near in ((1 << bits) - 1, 1 << bits)] + [2**64 - 1]
        self.assertEqual(self.load("reload_borders"),
                         [{"name": "t", "dtype": torch.uint8, "shape": (value,), "offset": value} for value in values])

    def test_reload_many(self):
        import torch

        self.assertEqual(self.load("reload_300"), [
            {"name": f"model.layers.{i}.権重", "dtype": torch.float16, "shape": (i, i * 1000, 1), "offset": i << 24}
            for i in range(300)])

    def test_none_and_exceptions(self):
        self.assertIsNone(self.load("none"))
        for name, text in (("exception", "rank 1 is gone: ü"), ("exception_invalid", "broken \ufffd\ufffd here"),
                           ("exception_long", "x" * 65536)):
            exception = self.load(name)
            self.assertIs(type(exception), RuntimeError)
            self.assertEqual(exception.args, (text,))

    @classmethod
    def tearDownClass(cls):
        if cls.samples:
            raise AssertionError(f"samples that no test reads: {sorted(cls.samples)}")


class RealTorch(unittest.TestCase):
    """What stand-ins cannot show: that torch opens the memory and has the types."""

    def test_the_partial_opens_a_file_of_bytes(self):
        import torch

        with tempfile.NamedTemporaryFile() as file:
            file.write(bytes(range(256)))
            file.flush()
            function, (_, shared, _) = pickle.loads(read_samples(Messages.program)["offer_file"])
            buffer = function(file.name, shared, 256)
            self.assertEqual((buffer.dtype, buffer.shape), (torch.uint8, torch.Size([256])))
            file.seek(0)
            file.write(b"\xff")
            file.flush()
            self.assertEqual(int(buffer[0]), 255)  # shared: what is written later is seen

    def test_types_and_pairs_of_four_bits(self):
        import torch

        buffer = torch.arange(64, dtype=torch.uint8)
        for name in ALL_DTYPES:
            with self.subTest(name):
                dtype = getattr(torch, name)
                count = 16 // dtype.itemsize
                self.assertEqual(buffer[16:32].view(dtype=dtype).view(torch.Size((1, count))).shape, (1, count))
        self.assertEqual(torch.float4_e2m1fn_x2.itemsize, 1)


def main():
    arguments = sys.argv[1:]
    with_torch = "--torch" in arguments
    Messages.program = [argument for argument in arguments if argument != "--torch"][0]
    if with_torch and "CKPTD_TEST_PYTHON" in os.environ:
        python = os.environ.pop("CKPTD_TEST_PYTHON")
        os.environ["CKPTD_TEST_IN_TORCH"] = "1"
        os.execv(python, [python, *sys.argv])
    if with_torch and "CKPTD_TEST_IN_TORCH" not in os.environ:
        print("skipped: CKPTD_TEST_PYTHON names no interpreter that has torch")
        sys.exit(SKIPPED)
    cases = [Messages]
    if with_torch:
        cases.append(RealTorch)
    else:
        install_stand_ins()
    suite = unittest.TestSuite(unittest.defaultTestLoader.loadTestsFromTestCase(case) for case in cases)
    sys.exit(0 if unittest.TextTestRunner(verbosity=1).run(suite).wasSuccessful() else 1)


if __name__ == "__main__":
    main()
