#!/usr/bin/env python3
"""Loads a checkpoint with one of the PyPI packages that ckptd is compared with: load_with.py WHAT DIRECTORY

A round begins with each line on standard input and prints one JSON object. At its end every tensor's bytes lie in
memory that belongs to this process; they are let go before the next line is read. Nothing is checked or hashed.

  safetensors-pread    safetensors.torch.load_file(path, backend="pread"), file after file
  safetensors-clone    safetensors.torch.load_file(path), which maps the file, and a clone() of each tensor
  runai                runai_model_streamer.SafetensorsStreamer.stream_files(all paths), tensors owned, kept in a dict
  fastsafetensors      SafeTensorsFileLoader(None, "cpu", nogds=True) over all files, get_tensor() of each, its buffers kept
"""

import gc
import glob
import json
import os
import resource
import sys
import time

import torch


def safetensors_pread(paths):
    import safetensors.torch
    return [safetensors.torch.load_file(path, backend="pread") for path in paths]


def safetensors_clone(paths):
    import safetensors.torch
    return [{name: tensor.clone() for name, tensor in safetensors.torch.load_file(path).items()} for path in paths]


def runai(paths):
    from runai_model_streamer import SafetensorsStreamer
    with SafetensorsStreamer() as streamer:
        streamer.stream_files(paths)
        return [dict(streamer.get_tensors())]


def fastsafetensors(paths):
    from fastsafetensors import SafeTensorsFileLoader
    loader = SafeTensorsFileLoader(None, device="cpu", nogds=True)
    loader.add_filenames({0: paths})
    buffers = loader.copy_files_to_device()
    tensors = {name: buffers.get_tensor(name) for name in buffers.key_to_rank_lidx}
    return [tensors, buffers, loader]


WAYS = {"safetensors-pread": safetensors_pread, "safetensors-clone": safetensors_clone, "runai": runai,
        "fastsafetensors": fastsafetensors}


def release(loaded):
    for each in reversed(loaded):
        if hasattr(each, "close"):
            each.close()
    loaded.clear()
    gc.collect()


def main():
    way, directory = WAYS[sys.argv[1]], sys.argv[2]
    paths = sorted(glob.glob(os.path.join(glob.escape(directory), "*.safetensors")))
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the packages print is not an answer
    for _ in sys.stdin:
        before, start = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
        loaded = way(paths)
        seconds = time.monotonic() - start
        after = resource.getrusage(resource.RUSAGE_SELF)
        tensors = [value for part in loaded if isinstance(part, dict) for value in part.values()]
        answers.write(json.dumps({
            "seconds": seconds,
            "core_seconds": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
            "bytes": sum(tensor.nbytes for tensor in tensors if torch.is_tensor(tensor)),
            "touched_bytes": (after.ru_minflt - before.ru_minflt) * resource.getpagesize(),
        }) + "\n")
        del tensors
        release(loaded)


if __name__ == "__main__":
    main()
