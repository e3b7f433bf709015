#!/usr/bin/env python3
"""What torch does on this GPU without ckptd, for comparison; prints one JSON object.

Not run on a GPU yet.

  rates.py pinned --device UUID                  the best copies of pinned memory to the GPU
  rates.py load-file --device UUID FILE...       safetensors.torch.load_file(device="cuda") of these files, one by one
"""

import argparse
import json
import sys
import time

BLOCK_BYTES, ROUNDS, COPIES = 256 << 20, 8, 4


def pinned(torch, device):
    """Bytes a second: the best of some rounds, each of copies that are queued together."""
    host = [torch.empty(BLOCK_BYTES, dtype=torch.uint8, pin_memory=True).fill_(number) for number in range(COPIES)]
    there = [torch.empty(BLOCK_BYTES, dtype=torch.uint8, device=device) for _ in range(COPIES)]
    best = 0.0
    for _ in range(ROUNDS):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        for source, target in zip(host, there):
            target.copy_(source, non_blocking=True)
        end.record()
        end.synchronize()
        best = max(best, BLOCK_BYTES * COPIES / (begin.elapsed_time(end) / 1000))
    return {"bytes_per_second": best}


def load_file(torch, device, files):
    """The better of two rounds; the second finds everything in the page cache."""
    from safetensors.torch import load_file as load

    best = None
    for _ in range(2):
        started, size = time.monotonic(), 0
        for path in files:
            tensors = load(path, device=device)
            size += sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
            torch.cuda.synchronize()
            del tensors
        seconds = time.monotonic() - started
        best = min(best or seconds, seconds)
    return {"bytes": size, "seconds": best, "bytes_per_second": size / best}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("pinned", "load-file"))
    parser.add_argument("files", nargs="*")
    parser.add_argument("--device", required=True)
    arguments = parser.parse_intermixed_args()  # the files come after an option
    import torch

    from gpu_rank import index_of

    torch.cuda.set_device(index_of(arguments.device))
    device = f"cuda:{torch.cuda.current_device()}"
    torch.empty(1, device=device)
    result = pinned(torch, device) if arguments.what == "pinned" else load_file(torch, device, arguments.files)
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main()
