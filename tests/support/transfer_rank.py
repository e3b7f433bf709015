#!/usr/bin/env python3
"""One worker of a vLLM server as its own weight transfer sees it (packed, CUDA IPC or NCCL), on host memory and without torch.

Written from what vLLM's worker does (docs/standins.md); none of vLLM's code runs here. It takes CUDA IPC handles only on a
GPU, so on host memory a convention of these tests stands in their place: slot 7 of the arguments, the handle, is the path of
the file that holds the memory. All else is as on the wire, and is read as strictly as torch reads it: the bucket is split
at the sizes, each part must stand where its type may stand, and is copied out before the answer.

By NCCL it is a member of the clique of tests/support/fake_nccl, which net.h there describes: its rank 0 is the fake library
in ckptd. Nothing of that is NVIDIA's. Like a worker of vLLM it waits for ever when rank 0 has gone in a broadcast.

Reads one JSON object a line on standard input and answers each with one on standard output, until standard input ends:

  {"cmd":"transfer","call":"init|start|start_draft|update|finish","info":{..}}     {"ok":true} or {"ok":false,"error":...}
  {"cmd":"compare","checkpoint":"/dir"}   every tensor of the target, and of the draft once it has any, byte for byte
  {"cmd":"state"} {"cmd":"forget"} {"cmd":"checksums"}
  {"cmd":"fault","kind":K,"bucket":B,"seconds":S,"gate":PATH}     of the next update: fail_load, stall, die, slow; of NCCL's,
                                          before the bucket is taken: refuse, stall, die; and stall_init, die_init. One that
                                          sleeps makes the file PATH.DEVICE when it begins to, and ends early once the file
                                          PATH is there; a stall that has ended is a failure

--form says how it is told that weights are packed (init, server, update); --keeps-session, that a failed update leaves the
session open, as before vLLM ended it by itself.
"""

import argparse
import base64
import hashlib
import io
import json
import math
import mmap
import os
import pickle
import signal
import socket
import struct
import sys
import time
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import checkpoints  # noqa: E402
from gates import sleep_until_open  # noqa: E402

ITEM_BYTES = {"bool": 1, "float4_e2m1fn_x2": 1, "uint8": 1, "int8": 1, "float8_e5m2": 1, "float8_e4m3fn": 1,
              "float8_e8m0fnu": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1, "int16": 2, "uint16": 2, "float16": 2,
              "bfloat16": 2, "int32": 4, "uint32": 4, "float32": 4, "complex64": 8, "float64": 8, "int64": 8, "uint64": 8}
TORCH_NAMES = {"BOOL": "bool", "F4": "float4_e2m1fn_x2", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2",
               "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
               "F8_E5M2FNUZ": "float8_e5m2fnuz", "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16",
               "I32": "int32", "U32": "uint32", "F32": "float32", "C64": "complex64", "F64": "float64", "I64": "int64",
               "U64": "uint64"}
ARGUMENTS = 15
ID_BYTES, NAME_AT = 128, 8
NCCL_INIT = {"master_address", "master_port", "rank_offset", "world_size", "nccl_unique_id_b64", "packed",
             "packed_buffer_size_bytes", "packed_num_buffers"}


class Unpickler(pickle.Unpickler):
    """Finds torch's names and nothing else."""

    def find_class(self, module, name):
        if (module, name) in (("torch", "Tensor"), ("torch.storage", "TypedStorage"), ("torch", "uint8")):
            return f"{module}.{name}"
        raise pickle.UnpicklingError(f"{module}.{name} has no place among handles")


class Gone(RuntimeError):
    """Rank 0 has."""


class Nccl:
    """A member of the fake's clique."""

    def __init__(self, unique_id, rank, world_size):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.connect(b"\0" + unique_id[NAME_AT:].split(b"\0", 1)[0])
        self._socket.sendall(struct.pack("=ii", rank, world_size))
        if self._read(1) != b"G":
            raise Gone("no answer of rank 0")

    def sum(self, value):
        self._socket.sendall(b"S" + struct.pack("=f", value))
        return struct.unpack("=f", self._read(4))[0]

    def broadcast(self, count):
        self._socket.sendall(b"B" + struct.pack("=Q", count))
        return self._read(count)

    def _read(self, count):
        content = bytearray()
        while len(content) < count:
            piece = self._socket.recv(min(count - len(content), 1 << 20))
            if not piece:
                raise Gone("closed")
            content += piece
        return bytes(content)


class Worker:
    def __init__(self, device, form, keeps_session, backend, no_unique_id):
        self._device, self._form, self._keeps_session = device, form, keeps_session
        self._backend, self._no_unique_id = backend, no_unique_id
        self._nccl, self._buffer_bytes, self._inits = None, 1 << 30, 0
        self._uuid = device.removeprefix("GPU-")
        self._packed = form == "server"
        self._models = {"target": {}, "draft": {}}
        self._session = None      # "target" or "draft"
        self._taken_apart = False  # layers are without memory until the update is finished
        self._updates = self._buckets = self._sessions = 0
        self._fault, self._list = {"kind": "none"}, 0

    # -- the calls of vLLM

    def transfer(self, request):
        self._rank = request.get("rank", 0)
        return getattr(self, "_" + request["call"])(request.get("info")) or {"ok": True}

    def _init(self, info):
        if self._backend == "nccl":
            return self._init_nccl(info)
        unknown = set(info) - ({"packed"} if self._form == "init" else set())
        if unknown:
            raise ValueError("Invalid init_info for IPCWeightTransferEngine: IPCWeightTransferInitInfo.__init__() got an "
                             f"unexpected keyword argument '{min(unknown)}'")
        self._packed = info.get("packed", False) if self._form == "init" else self._packed

    def _init_nccl(self, info):
        unknown = set(info) - (NCCL_INIT - ({"nccl_unique_id_b64"} if self._no_unique_id else set()))
        if unknown:
            raise ValueError("Invalid init_info for NCCLWeightTransferEngine: NCCLWeightTransferInitInfo.__init__() got an "
                             f"unexpected keyword argument '{min(unknown)}'")
        if "nccl_unique_id_b64" not in info or "master_address" in info or "master_port" in info:
            raise ValueError("NCCLWeightTransferInitInfo: this stand-in has no store to meet at")
        unique_id = base64.b64decode(info["nccl_unique_id_b64"], validate=True)
        if len(unique_id) != ID_BYTES:
            raise ValueError(f"nccl_unique_id_b64 must decode to {ID_BYTES} bytes, got {len(unique_id)}")
        self._packed = info.get("packed", False)
        self._buffer_bytes = info.get("packed_buffer_size_bytes", 1 << 30)
        self._misbehave(("stall_init", "die_init"))
        try:
            self._nccl = Nccl(unique_id, self._rank + info["rank_offset"], info["world_size"])
            assert self._nccl.sum(0.0) == 0.0, "the first sum"
        except (Gone, ConnectionError):
            raise RuntimeError("NCCL error: remote process exited or there was a network error") from None
        self._inits += 1

    def _start(self, _info, session="target"):
        if self._session:
            raise RuntimeError("start_weight_update called while a weight update is already active. Call "
                               "finish_weight_update first.")
        self._session, self._taken_apart, self._list = session, True, 0
        self._sessions += 1

    def _start_draft(self, info):
        self._start(info, "draft")

    def _update(self, info):
        if not self._session:
            raise RuntimeError("start_weight_update must be called before update_weights.")
        try:
            self._receive(info)
        except BaseException:
            if not self._keeps_session:
                self._session = None
            raise

    def _finish(self, _info):
        if not self._session:
            raise RuntimeError("finish_weight_update called without a matching start_weight_update.")
        self._session, self._taken_apart = None, False
        self._updates += 1

    # -- what a bucket is

    def _receive_nccl(self, info):
        unknown = set(info) - {"names", "dtype_names", "shapes"}
        if unknown:
            raise ValueError("Invalid update_info for NCCLWeightTransferEngine: NCCLWeightTransferUpdateInfo.__init__() got an "
                             f"unexpected keyword argument '{min(unknown)}'")
        if self._nccl is None:
            raise RuntimeError("NCCL weight transfer not initialized. Call init_transfer_engine() first.")
        if not self._packed:
            raise ValueError("one broadcast a tensor is not what this stand-in takes: weights must be packed")
        buffer, size = [], 0
        for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
            buffer.append((name, dtype, shape, math.prod(shape) * ITEM_BYTES[dtype]))
            size += buffer[-1][-1]
            if size > self._buffer_bytes:
                self._take_buffer(buffer, size)
                buffer, size = [], 0
        if buffer:
            self._take_buffer(buffer, size)
        self._buckets += 1
        self._list += 1

    def _take_buffer(self, buffer, size):
        self._misbehave(("refuse", "stall", "die"))
        try:
            content = self._nccl.broadcast(size)
        except (Gone, ConnectionError):
            print("waits in NCCL for a rank that has gone", file=sys.stderr, flush=True)
            time.sleep(3600)
            raise
        self._misbehave(("fail_load", "slow"))
        at = 0
        for name, dtype, shape, part in buffer:
            self._take(name, dtype, shape, content[at:at + part], at)
            at += part

    def _receive(self, info):
        if self._backend == "nccl":
            return self._receive_nccl(info)
        fields = {"names", "dtype_names", "shapes", "ipc_handles_pickled", "tensor_sizes"}
        packed = self._packed
        if self._form == "update":
            packed = info.get("packed", False)
            fields.add("packed")
        unknown = set(info) - fields
        if unknown:
            raise ValueError("Invalid update_info for IPCWeightTransferEngine: IPCWeightTransferUpdateInfo.__init__() got an "
                             f"unexpected keyword argument '{min(unknown)}'")
        names, dtypes, shapes, sizes = (info[field] for field in ("names", "dtype_names", "shapes", "tensor_sizes"))
        if not len(names) == len(dtypes) == len(shapes) == len(sizes):
            raise ValueError("`dtype_names` should be of the same size as `names`")
        handles = Unpickler(io.BytesIO(base64.b64decode(info["ipc_handles_pickled"], validate=True))).load()
        if not packed or not isinstance(handles, dict):
            raise ValueError("one handle a tensor is not what this stand-in takes: weights must be packed")
        if self._uuid not in handles:
            raise ValueError(f"IPC handle not found for GPU UUID {self._uuid}. Available UUIDs: {list(handles)}")
        content, begin = self._bucket(handles[self._uuid])
        self._misbehave()
        if sum(sizes) > len(content):
            raise RuntimeError("split_with_sizes expects split_sizes to sum exactly to the size of the tensor")
        at = 0
        for name, dtype, shape, size in zip(names, dtypes, shapes, sizes):
            self._take(name, dtype, shape, content[at:at + size], begin + at)
            at += size
        self._buckets += 1
        self._list += 1

    @staticmethod
    def _bucket(arguments):
        """The bytes of the bucket, and where they stand in the allocation."""
        if not isinstance(arguments, tuple) or len(arguments) != ARGUMENTS:
            raise TypeError(f"rebuild_cuda_tensor() takes {ARGUMENTS} positional arguments")
        (kind, size, stride, offset, storage, dtype, _device, handle, storage_bytes, storage_offset, requires_grad, counter,
         index, event, event_sync) = arguments
        assert (kind, storage, dtype) == ("torch.Tensor", "torch.storage.TypedStorage", "torch.uint8"), arguments
        assert stride == (1,) and storage_offset == 0 and not requires_grad and not event_sync, arguments
        assert isinstance(counter, bytes) and isinstance(index, int) and isinstance(event, bytes), arguments
        assert offset + size[0] <= storage_bytes, arguments
        with open(os.fsdecode(handle), "rb") as file, mmap.mmap(file.fileno(), storage_bytes, prot=mmap.PROT_READ) as memory:
            return memory[offset:offset + size[0]], offset  # a copy: what is overwritten later is not ours any more

    def _take(self, name, dtype, shape, content, offset):
        item = ITEM_BYTES[dtype]
        if offset % item:
            raise RuntimeError(f"self.storage_offset() must be divisible by {item} to view Byte as {dtype} (different "
                               f"element sizes), but got {offset}")
        if not shape:
            raise TypeError("view() received an invalid combination of arguments - got ()")
        if math.prod(shape) * item != len(content):
            raise RuntimeError(f"shape '{shape}' is invalid for input of size {len(content) // item}")
        self._models[self._session][name] = (dtype, tuple(shape), content)

    def _misbehave(self, kinds=("fail_load", "stall", "die", "slow")):
        kind, bucket = self._fault["kind"], self._fault.get("bucket", 0)
        if kind not in kinds or (kind != "slow" and not kind.endswith("_init") and self._list != bucket):
            return
        if kind == "slow":
            sleep_until_open(self._fault["seconds"], self._fault.get("gate"), self._device)
            return
        fault, self._fault = self._fault, {"kind": "none"}
        print(f"was told to {kind}", file=sys.stderr, flush=True)
        if kind.startswith("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if kind.startswith("stall"):
            sleep_until_open(fault.get("seconds") or 3600, fault.get("gate"), self._device)
        raise RuntimeError("the worker was told to fail in load_weights")

    # -- of tests

    def compare(self, request):
        wanted, seen = checkpoints.payloads(request["checkpoint"]), 0
        models = [model for model in self._models.values() if model] or [{}]
        for name, payload in wanted.items():
            _, dtype, shape, *_ = payload
            shape = (*shape[:-1], shape[-1] // 2) if dtype == "F4" else shape or (1,)
            content = checkpoints.tensor_bytes(payload)
            seen += len(content)
            for model in models:
                held = model.get(name)
                if held != (TORCH_NAMES[dtype], shape, content):
                    what = "was not loaded" if held is None else f"is {held[:2]} or has other bytes"
                    return {"equal": False, "difference": f"tensor {name} {what}"}
        for model in models:
            if set(model) - set(wanted):
                return {"equal": False, "difference": f"{min(set(model) - set(wanted))} is not in the checkpoint"}
        return {"equal": True, "tensors": len(wanted), "bytes": seen}

    def state(self, _request):
        return {"tensors": len(self._models["target"]), "draft_tensors": len(self._models["draft"]),
                "inits": self._inits, "updates": self._updates, "buckets": self._buckets, "sessions": self._sessions,
                "open": self._session or "", "taken_apart": self._taken_apart}

    def checksums(self, _request):
        return {"checksums": {name: hashlib.sha256(content).hexdigest()
                              for name, (_, _, content) in self._models["target"].items()}}

    def forget(self, _request):
        for model in self._models.values():
            model.clear()
        self._session, self._taken_apart = None, False
        return {"ok": True}

    def fault(self, request):
        known = ("none", "fail_load", "stall", "die", "slow", "refuse", "stall_init", "die_init")
        if request.get("kind", "none") not in known:
            return {"ok": False, "error": f"faults are {', '.join(known)}"}
        self._fault = request
        return {"ok": True}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", required=True)
    parser.add_argument("--form", choices=("init", "server", "update"), default="init")
    parser.add_argument("--keeps-session", action="store_true")
    parser.add_argument("--backend", choices=("ipc", "nccl"), default="ipc")
    parser.add_argument("--no-unique-id", action="store_true", help="of NCCL: as before nccl_unique_id_b64")
    arguments = parser.parse_args()
    worker = Worker(arguments.device, arguments.form, arguments.keeps_session, arguments.backend, arguments.no_unique_id)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request["cmd"])(request)
        except Exception as error:
            traceback.print_exc()
            answer = {"ok": False, "error": str(error)}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
