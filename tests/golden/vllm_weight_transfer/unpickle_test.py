#!/usr/bin/env python3
"""Reads the requests that our C++ writes the way a vLLM server does, and compares the values.

  unpickle_test.py [--torch] WRITE_VLLM_REQUESTS

WRITE_VLLM_REQUESTS writes the samples into a directory. Without --torch stand-ins take the place of torch's modules. With
--torch the interpreter named by CKPTD_TEST_PYTHON reads them with its torch; the exit code is 77, skipped, when there is
none.
"""

import base64
import io
import json
import os
import pathlib
import pickle
import subprocess
import sys
import tempfile
import types
import unittest

SKIPPED = 77
UUID = "1f2e3d4c-0000-1111-2222-333344445555"


def install_stand_ins():
    torch = types.ModuleType("torch")
    torch.Tensor, torch.uint8 = type("Tensor", (), {}), object()
    storage = types.ModuleType("torch.storage")
    storage.TypedStorage = type("TypedStorage", (), {})
    torch.storage = storage
    sys.modules["torch"], sys.modules["torch.storage"] = torch, storage


class Requests(unittest.TestCase):
    samples = {}

    def info(self, name="update.json"):
        return json.loads(self.samples[name])["update_info"]

    def handles(self, name="update.json"):
        return pickle.loads(base64.b64decode(self.info(name)["ipc_handles_pickled"], validate=True))

    def test_phases(self):
        read = lambda name: json.loads(self.samples[name])
        self.assertEqual(read("init.json"), {"init_info": {"packed": True}})
        self.assertEqual(read("init_older.json"), {"init_info": {}})
        self.assertEqual(read("start.json"), {})
        self.assertEqual(read("finish.json"), {"weight_version": "step-7"})
        self.assertEqual(read("finish_unlabelled.json"), {})

    def test_tensors_are_told_in_lists_of_one_length(self):
        info = self.info()
        self.assertEqual(info["names"], ["model.a.weight", "model.a.scale", "mod\u00e8le.b"])
        self.assertEqual(info["dtype_names"], ["bfloat16", "float32", "float16"])
        self.assertEqual(info["shapes"], [[2, 5], [1], [9]])
        self.assertEqual(info["tensor_sizes"], [20, 4, 18])
        self.assertEqual(set(info), {"names", "dtype_names", "shapes", "tensor_sizes", "ipc_handles_pickled"})

    def test_only_the_form_that_has_it_says_packed(self):
        self.assertEqual(self.info("update_each.json") | {"packed": True}, self.info("update_each.json"))
        self.assertNotIn("packed", self.info())

    def test_by_nccl_a_worker_is_told_how_to_join_and_what_comes(self):
        info = json.loads(self.samples["nccl_init.json"])["init_info"]
        self.assertEqual(base64.b64decode(info.pop("nccl_unique_id_b64"), validate=True), bytes(range(128, 256)))
        # More than any update has: the whole of one is one buffer, and one broadcast.
        self.assertGreater(info.pop("packed_buffer_size_bytes"), 1 << 45)
        self.assertEqual(info, {"packed": True, "packed_num_buffers": 1, "rank_offset": 1, "world_size": 17})
        told = self.info()
        self.assertEqual(self.info("nccl_update.json"), {name: told[name] for name in ("names", "dtype_names", "shapes")})

    def test_handles_are_a_dict_by_torchs_name_of_the_device(self):
        handles = self.handles()
        self.assertEqual(list(handles), [UUID, "HOST-0"])
        raw = base64.b64decode(self.info()["ipc_handles_pickled"])
        self.assertEqual(raw, self.samples["handles.pickle"])
        pickle._Unpickler(io.BytesIO(raw)).load()  # is stricter about marks than the one written in C

    def test_arguments_are_those_of_rebuild_cuda_tensor(self):
        import torch
        arguments = self.handles()[UUID]
        self.assertIsInstance(arguments, tuple)
        self.assertEqual(len(arguments), 15)
        self.assertEqual(hash(arguments), hash(tuple(arguments)))  # vLLM keys its one mapping by them
        (tensor, size, stride, offset, storage, dtype, device, handle, storage_bytes, storage_offset, requires_grad,
         counter, index, event, event_sync) = arguments
        self.assertIs(tensor, torch.Tensor)
        self.assertIs(storage, torch.storage.TypedStorage)
        self.assertIs(dtype, torch.uint8)
        self.assertEqual((size, stride, offset), ((42,), (1,), 5 << 30))
        self.assertEqual((device, handle), (0, bytes(range(64))))
        self.assertEqual((storage_bytes, storage_offset), (16 << 30, 0))
        self.assertEqual((counter, index), (b"/ckptd-receipts-0123456789abcdef", 300))
        self.assertEqual((requires_grad, event, event_sync), (False, b"", False))


class TensorsOfTorch(unittest.TestCase):
    """What vLLM makes of the lists with torch itself: split at the sizes, view as dtype, view as shape."""
    samples = {}

    def test_unpacking(self):
        import torch
        info = json.loads(self.samples["update.json"])["update_info"]
        arguments = pickle.loads(base64.b64decode(info["ipc_handles_pickled"]))[UUID]
        packed = torch.arange(100, dtype=torch.uint8)[:arguments[1][0]]
        parts = packed.split(info["tensor_sizes"])
        tensors = [part.contiguous().view(getattr(torch, dtype)).view(*shape)
                   for part, dtype, shape in zip(parts, info["dtype_names"], info["shapes"])]
        self.assertEqual([tuple(tensor.shape) for tensor in tensors], [(2, 5), (1,), (9,)])
        self.assertEqual(tensors[2].view(torch.uint8).tolist(), list(range(24, 42)))

    def test_why_a_tensor_without_dimensions_is_told_otherwise(self):
        import torch
        with self.assertRaises(TypeError):
            torch.zeros(4, dtype=torch.uint8).view(torch.float32).view(*[])

    def test_why_a_tensor_may_not_stand_anywhere(self):
        import torch
        with self.assertRaises(RuntimeError):
            torch.zeros(8, dtype=torch.uint8)[1:5].view(torch.float32)


def main():
    arguments = sys.argv[1:]
    with_torch = "--torch" in arguments
    program = [argument for argument in arguments if argument != "--torch"][0]
    if with_torch and os.environ.get("CKPTD_TORCH_CHILD") != "1":
        python = os.environ.get("CKPTD_TEST_PYTHON")
        if not python:
            print("skipped: CKPTD_TEST_PYTHON names no interpreter with torch")
            return SKIPPED
        return subprocess.run([python, *sys.argv], env=os.environ | {"CKPTD_TORCH_CHILD": "1"}).returncode
    if not with_torch:
        install_stand_ins()
    with tempfile.TemporaryDirectory(prefix="ckptd-vllm-requests-") as directory:
        subprocess.run([program, directory], check=True)
        samples = {path.name: path.read_bytes() for path in pathlib.Path(directory).iterdir()}
    Requests.samples = TensorsOfTorch.samples = samples
    loader = unittest.TestLoader()
    suite = loader.loadTestsFromTestCase(Requests)
    if with_torch:
        suite.addTests(loader.loadTestsFromTestCase(TensorsOfTorch))
    return 0 if unittest.TextTestRunner().run(suite).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
