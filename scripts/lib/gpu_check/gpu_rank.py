#!/usr/bin/env python3
"""One inference rank on a GPU: the unmodified checkpoint_engine.worker.update_weights_from_ipc with torch.cuda.

Not run on a GPU yet.

  gpu_rank.py --support tests/support --memory cuda|host --device UUID

Commands and answers are those of tests/support/torch_rank.py, of which this is the form for a GPU: nothing of the worker
is replaced, tensors are kept and compared on the GPU. With --memory host it is that program, to rehearse.

The answer to "update" has two things more:
  "handle"     a digest of what names the offered memory: the same twice, if the arena is the same
  "receipt"    of torch's ref counter in /dev/shm: its value when the memory was offered and when the session was over;
               nothing if the sender offered none
To see them, the worker's function that opens the memory is wrapped; the wrapper calls it and changes nothing.
"""

import argparse
import hashlib
import importlib
import mmap
import os
import struct
import sys
import time

# Where things are in the arguments of torch.multiprocessing.reductions.rebuild_cuda_tensor, and in its shared memory.
STORAGE_HANDLE, COUNTER_NAME, COUNTER_OFFSET, ARGUMENTS = 7, 11, 12, 15
COUNTERS_BEGIN, COUNTER_BYTES = 64, 8


class Receipt:
    """One ref counter of torch, mapped before the worker can release it."""

    def __init__(self, name, number):
        path = os.path.join("/dev/shm", os.fsdecode(name).lstrip("/"))
        with open(path, "rb") as file:
            self._memory = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
        self._at = COUNTERS_BEGIN + COUNTER_BYTES * number
        self.offered = self.value()

    def value(self):
        return struct.unpack_from("<q", self._memory, self._at)[0]

    def wait_for_zero(self, seconds):
        deadline = time.monotonic() + seconds
        while self.value() != 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.value()


class Watcher:
    """Looks at what is offered, and hands it on."""

    def __init__(self, worker):
        self._open = worker._rebuild_ipc
        worker._rebuild_ipc = self._look
        self.forget()

    def forget(self):
        self.handle, self.receipt, self.trouble = None, None, None

    def _look(self, handle, device_id=None):
        try:
            self._note(handle[1])
        except Exception as error:  # whatever it is, the worker shall see the offer as it came
            self.trouble = f"{type(error).__name__}: {error}"
        return self._open(handle, device_id)

    def _note(self, arguments):
        of_cuda = len(arguments) == ARGUMENTS
        named = arguments[STORAGE_HANDLE] if of_cuda else arguments[0]
        self.handle = hashlib.sha256(repr(named).encode()).hexdigest()[:16]
        if of_cuda and arguments[COUNTER_NAME]:
            self.receipt = Receipt(arguments[COUNTER_NAME], arguments[COUNTER_OFFSET])

    def seen(self, seconds):
        found = {"handle": self.handle, "receipt": None, "trouble": self.trouble}
        if self.receipt:
            found["receipt"] = {"offered": self.receipt.offered, "after": self.receipt.wait_for_zero(seconds)}
        return found


def index_of(uuid):
    """torch's number of the GPU with this uuid. torch tells the digits alone, also of an instance of a divided GPU."""
    import torch

    digits = [str(torch.cuda.get_device_properties(number).uuid) for number in range(torch.cuda.device_count())]
    if uuid.partition("-")[2] not in digits:
        sys.exit(f"gpu_rank.py: torch sees no GPU {uuid}, but {digits}")
    return digits.index(uuid.partition("-")[2])


def make_rank(torch_rank, arguments):
    if arguments.memory == "host":
        worker, index = torch_rank.import_worker(), None
    else:
        import torch

        worker, index = importlib.import_module("checkpoint_engine.worker"), index_of(arguments.device)
        torch.cuda.set_device(index)
        torch.empty(1, device=f"cuda:{index}")  # an engine has its context long before an update
    watcher = Watcher(worker)

    class GpuRank(torch_rank.TorchRank):
        def update(self, request):
            watcher.forget()
            return {**super().update(request), **watcher.seen(5)}

    return GpuRank(arguments.device, worker, index)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--support", required=True, help="the folder tests/support")
    parser.add_argument("--memory", choices=("cuda", "host"), default="cuda")
    parser.add_argument("--device", required=True, help="uuid that the engine looks its endpoint up by, as GPU-...")
    arguments = parser.parse_args()
    sys.path.insert(0, arguments.support)
    import torch_rank

    answers = torch_rank.claim_stdout()
    torch_rank.serve(make_rank(torch_rank, arguments), answers)


if __name__ == "__main__":
    main()
