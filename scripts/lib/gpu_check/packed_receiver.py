#!/usr/bin/env python3
"""The receiving side of packed IPC, with torch alone: opens ONE handle for the whole buffer and cuts the tensors out of it by
their sizes, which lie back to back without padding; each is copied before it is looked at, as an engine does. Prints JSON.

Not run on a GPU yet.

  packed_receiver.py --memory cuda|host --device UUID --offer FILE --tensors FILE --expected FILE

`--offer` holds the sender's pickle in hexadecimal, `--tensors` a JSON list of [name, dtype, shape, bytes], `--expected` the
bytes that the sender was given.
"""

import argparse
import json
import pickle
import sys

DEVICE_ARGUMENT = 6  # of torch.multiprocessing.reductions.rebuild_cuda_tensor


def open_buffer(torch, offer, index):
    """The sender's number of the device is not ours: every engine writes its own over it."""
    rebuild, arguments = pickle.loads(offer)
    if index is not None:
        arguments = [*arguments[:DEVICE_ARGUMENT], index, *arguments[DEVICE_ARGUMENT + 1:]]
    buffer = rebuild(*arguments)
    if buffer.dtype != torch.uint8 or buffer.dim() != 1:
        raise SystemExit(f"the buffer is {buffer.dtype} of {buffer.dim()} dimensions, and not bytes")
    return buffer


def unpack(torch, buffer, tensors):
    """A tensor may begin at any byte, where its dtype could not be viewed: so first the copy, then the view."""
    begin = 0
    for name, dtype, shape, size in tensors:
        yield name, begin, buffer[begin:begin + size].clone().view(getattr(torch, dtype)).view(shape)
        begin += size


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memory", choices=("cuda", "host"), required=True)
    parser.add_argument("--device", required=True)
    for name in ("offer", "tensors", "expected"):
        parser.add_argument("--" + name, required=True)
    arguments = parser.parse_args()
    import torch

    index = None
    if arguments.memory == "cuda":
        from gpu_rank import index_of

        index = index_of(arguments.device)
        torch.cuda.set_device(index)
    with open(arguments.offer, encoding="ascii") as file:
        offer = bytes.fromhex(file.read())
    with open(arguments.tensors, encoding="utf-8") as file:
        tensors = json.load(file)
    with open(arguments.expected, "rb") as file:
        expected = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8)
    buffer = open_buffer(torch, offer, index)
    if buffer.numel() < expected.numel():
        raise SystemExit(f"the buffer has {buffer.numel()} bytes and not {expected.numel()}")
    unaligned = 0
    for name, begin, tensor in unpack(torch, buffer, tensors):
        raw = tensor.reshape(-1).view(torch.uint8)
        wanted = expected[begin:begin + raw.numel()].to(raw.device)
        if not torch.equal(raw, wanted):
            at = int((raw != wanted).nonzero()[0])
            raise SystemExit(f"tensor {name}: byte {at} is {int(raw[at])}, the sender had {int(wanted[at])}")
        unaligned += begin % tensor.element_size() != 0
    json.dump({"tensors": len(tensors), "bytes": expected.numel(), "unaligned": unaligned,
               "device": str(buffer.device)}, sys.stdout)


if __name__ == "__main__":
    main()
