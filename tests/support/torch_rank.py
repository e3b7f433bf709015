#!/usr/bin/env python3
"""One inference rank on CPU torch: runs the unmodified checkpoint_engine.worker.update_weights_from_ipc.

Reads one JSON object a line on standard input and answers each with one on standard output, until standard input ends:

  {"cmd":"update","endpoint":"ipc:///..."}     answered when the session is over: {"ok":true} or {"ok":false,"error":...},
                                               with "load_seconds", which the function that takes the weights has used
  {"cmd":"compare","checkpoint":"/dir"}        every tensor against what the safetensors library reads, byte for byte
  {"cmd":"state"}                              {"tensors":N,"updates":N,"buckets":N,"sessions":N}
  {"cmd":"forget"}                             drops what was loaded
  {"cmd":"checksums"}                          {"checksums":{NAME: hex}} of what is loaded, as it would be served
  {"cmd":"values","name":N,"count":C}          {"values":[..]}: the first of a tensor, or null for one that is not there
  {"cmd":"fault","kind":K,"bucket":B,"seconds":S,"session":N,"gate":PATH}   applies to the next update only; lists and
                                               sessions are counted from 0. A fault that sleeps makes the file PATH.DEVICE
                                               when it begins to, and ends early once the file PATH is there

Only what an engine would provide is replaced: the device manager of a machine without accelerator (before checkpoint-engine
0.2.1, two functions of torch.cuda), and the function that takes the weights. --package DIR takes checkpoint_engine from there,
in whatever version it is. Like SGLang, each session makes a ZeroMQ context of its own and terminates it: that blocks for
ever if the sender leaves a reply undelivered, so a session that ends and a call that does not is visible from outside.
With --sessions N an update calls the worker N times with the same endpoint, as SGLang does for the worker of a draft
model; what each session has loaded is compared.
"""

import argparse
import gc
import glob
import hashlib
import json
import os
import signal
import sys
import threading
import time
import traceback

from gates import sleep_until_open

KINDS = ("none", "fail_load", "stall", "die", "fail_open", "fail_post_hook", "connect_late", "connect_twice", "slow",
         "slow_post_hook",
         "swallow_post_hook")


class NoAccelerator:
    """Stands for checkpoint_engine.device_utils.DeviceManager, whose constructor refuses machines without a GPU."""

    class device_module:
        synchronize = staticmethod(lambda: None)
        ipc_collect = staticmethod(lambda: None)
        empty_cache = staticmethod(lambda: None)


def import_worker():
    import checkpoint_engine.worker as worker

    if hasattr(worker, "DeviceManager"):
        worker.DeviceManager = NoAccelerator
    else:
        worker.torch.cuda.synchronize = worker.torch.cuda.empty_cache = lambda: None
    return worker


def raw_bytes(tensor):
    """The tensor's bytes as a one-dimensional uint8 tensor; a 0-d tensor cannot be viewed as another width."""
    import torch

    return tensor.contiguous().reshape(-1).view(torch.uint8)


class Fault:
    def __init__(self, kind="none", bucket=0, seconds=0.0, session=0, gate=None, device=""):
        if kind not in KINDS:
            raise ValueError(f"unknown kind of fault {kind!r}; known: {', '.join(KINDS)}")
        self.kind, self.bucket, self.seconds, self.session = kind, int(bucket or 0), float(seconds or 0.0), int(session or 0)
        self._gate, self._device = gate, device

    def sleep(self):
        sleep_until_open(self.seconds, self._gate, self._device)

    def in_list(self, number):
        """Called while list `number` is loaded."""
        if self.kind == "slow":
            self.sleep()
        if number != self.bucket:
            return
        if self.kind == "fail_load":
            raise RuntimeError(f"load_weights was told to fail at list {number}")
        if self.kind == "stall":
            self.sleep()
        if self.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)

    def in_post_hook(self):
        if self.kind == "slow_post_hook":
            self.sleep()
        if self.kind == "fail_post_hook":
            raise RuntimeError("the post hook was told to fail")
        if self.kind == "swallow_post_hook":  # as SGLang's: a line in the log, and the update goes on
            print("Post-hook processing failed: the post hook was told to fail", file=sys.stderr, flush=True)


class SecondPeer:
    """Another process's mistake: a second REP socket on the rank's endpoint. It takes and answers nothing."""

    def __init__(self, endpoint, seconds):
        import zmq

        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.connect(endpoint)
        self._timer = threading.Timer(max(seconds, 0.5), self._close)
        self._timer.daemon = True
        self._timer.start()

    def _close(self):
        self._socket.close()
        self._context.term()

    def join(self):
        self._timer.join()


class TorchRank:
    """With `index` it is a rank on that GPU of torch's, and nothing of `worker` is replaced."""

    def __init__(self, device, worker=None, index=None, sessions=1):
        import torch
        import zmq

        self._torch, self._zmq, self._worker = torch, zmq, worker or import_worker()
        self._device, self._index = device, index
        self._models = [{} for _ in range(sessions)]
        self._updates = self._buckets = self._sessions = 0
        self._unprocessed = False  # the last post hook failed and nobody was told
        self._fault = Fault()

    def update(self, request):
        fault, self._fault = self._fault, Fault()
        totals = {"lists": 0, "bytes": 0, "load_seconds": 0.0}
        started = time.monotonic()
        for number, model in enumerate(self._models):
            error = self._whole_session(request["endpoint"], fault if number == fault.session else Fault(), model, totals)
            if error:
                break
            self._sessions += 1
        answer = {"ok": not error, **totals, "started": started, "ended": time.monotonic()}
        if error:
            answer["error"] = error
        else:
            self._updates += 1
            self._unprocessed = fault.kind == "swallow_post_hook"
        return answer

    def _whole_session(self, endpoint, fault, model, totals):
        lists = 0

        def load(weights):
            nonlocal lists
            began = time.monotonic()
            fault.in_list(lists)
            for name, tensor in weights:
                # The buffer is reused for the next list: what stays is a copy, as in every engine.
                model[name] = (tensor.dtype, tuple(tensor.shape), raw_bytes(tensor).clone())
                totals["bytes"] += tensor.numel() * tensor.element_size()
            if self._index is not None:
                self._torch.cuda.synchronize()  # as the worker does next: what was queued here is the rank's time
            lists += 1
            totals["lists"] += 1
            totals["load_seconds"] += time.monotonic() - began
            self._buckets += 1

        context = self._zmq.Context()
        error = self._session(context, endpoint, fault, load)
        # A worker that raised leaves its socket to the garbage collector, in some versions.
        gc.collect()
        self._terminate(context)
        return error

    def _session(self, context, endpoint, fault, load):
        """Returns the traceback of a failed session, or nothing."""
        real_rebuild = self._worker._rebuild_ipc
        second_peer = None
        if fault.kind == "connect_late":
            fault.sleep()
        if fault.kind == "connect_twice":
            second_peer = SecondPeer(endpoint, fault.seconds)
        if fault.kind == "fail_open":

            def refuse(*_):
                raise RuntimeError("opening the offered memory was told to fail")

            self._worker._rebuild_ipc = refuse
        try:
            self._worker.update_weights_from_ipc(
                context, endpoint, device_id=self._index, run=load, post_hook=fault.in_post_hook
            )
            return ""
        except Exception:  # what a scheduler would log and answer
            return traceback.format_exc()
        finally:
            self._worker._rebuild_ipc = real_rebuild
            if second_peer:
                second_peer.join()

    def _terminate(self, context):
        done = threading.Event()

        def complain():
            if not done.wait(5):
                print(f"{self._device}: the ZeroMQ context has not ended for 5 s: a reply of ours is undelivered",
                      file=sys.stderr, flush=True)

        watcher = threading.Thread(target=complain, daemon=True)
        watcher.start()
        context.term()
        done.set()
        watcher.join()

    def compare(self, request):
        from safetensors import safe_open

        expected, bytes_seen = set(), 0
        for path in safetensors_files(request["checkpoint"]):
            with safe_open(path, framework="pt", device="cpu" if self._index is None else f"cuda:{self._index}") as file:
                for name in file.keys():
                    if name in expected:
                        return different(f"tensor {name} stands in two files of the checkpoint")
                    expected.add(name)
                    wanted = file.get_tensor(name)
                    for model in self._models:
                        difference = self._difference(model, name, wanted)
                        if difference:
                            return different(difference)
                    bytes_seen += wanted.numel() * wanted.element_size()
        for name in set().union(*self._models):
            if name not in expected:
                return different(f"tensor {name} was loaded and is not in the checkpoint")
        return {"equal": True, "tensors": len(expected), "bytes": bytes_seen}

    def _difference(self, model, name, wanted):
        if name not in model:
            return f"tensor {name} was not loaded"
        dtype, shape, content = model[name]
        if dtype != wanted.dtype:
            return f"tensor {name}: dtype {dtype} was loaded, the checkpoint has {wanted.dtype}"
        if shape != tuple(wanted.shape):
            return f"tensor {name}: shape {list(shape)} was loaded, the checkpoint has {list(wanted.shape)}"
        wanted_content = raw_bytes(wanted)
        if self._torch.equal(content, wanted_content):
            return None
        at = int((content != wanted_content).nonzero()[0])
        return f"tensor {name}: byte {at} is {int(content[at])}, the checkpoint has {int(wanted_content[at])}"

    def state(self, _request):
        return {"tensors": len(self._models[0]), "updates": self._updates, "buckets": self._buckets,
                "sessions": self._sessions}

    def checksums(self, _request):
        """Weights that were not processed after loading are other weights, whatever was loaded."""
        mark = b"unprocessed" if self._unprocessed else b""
        return {"checksums": {name: hashlib.sha256(mark + bytes(content.cpu().numpy())).hexdigest()
                              for name, (_, _, content) in self._models[0].items()}}

    def values(self, request):
        if request["name"] not in self._models[0]:
            return {"values": None}
        dtype, shape, content = self._models[0][request["name"]]
        tensor = content.view(dtype).reshape(shape)[:request["count"]]
        return {"values": tensor.to(self._torch.float32).cpu().tolist()}

    def forget(self, _request):
        for model in self._models:
            model.clear()
        gc.collect()
        return {"ok": True}

    def fault(self, request):
        self._fault = Fault(request.get("kind", "none"), request.get("bucket"), request.get("seconds"),
                            request.get("session"), request.get("gate"), self._device)
        return {"ok": True}


def different(text):
    return {"equal": False, "difference": text}


def safetensors_files(checkpoint):
    """The files of a checkpoint: itself, those that its index names, or all in the directory."""
    if os.path.isfile(checkpoint):
        return [checkpoint]
    index = os.path.join(checkpoint, "model.safetensors.index.json")
    if os.path.exists(index):
        with open(index, encoding="utf-8") as file:
            shards = sorted(set(json.load(file)["weight_map"].values()))
        return [os.path.join(checkpoint, shard) for shard in shards]
    files = sorted(glob.glob(os.path.join(glob.escape(checkpoint), "*.safetensors")))
    if not files:
        raise FileNotFoundError(f"{checkpoint} holds no safetensors file")
    return files


def claim_stdout():
    """Keeps the real standard output for answers; whatever a library prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def serve(rank, answers):
    """Commands from standard input until it ends."""
    commands = {name: getattr(rank, name) for name in ("update", "compare", "state", "forget", "fault", "checksums", "values")}
    for line in sys.stdin:
        if not line.strip():
            continue
        try:
            request = json.loads(line)
            answer = commands[request["cmd"]](request)
        except Exception:
            answer = {"ok": False, "error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", required=True, help="uuid that the engine looks its endpoint up by, as HOST-0")
    parser.add_argument("--package", help="directory to take checkpoint_engine from, in place of the installed one")
    parser.add_argument("--sessions", type=int, default=1, help="of each update, more than one with draft models")
    arguments = parser.parse_args()
    answers = claim_stdout()
    if arguments.package:
        sys.path.insert(0, arguments.package)
    serve(TorchRank(arguments.device, sessions=arguments.sessions), answers)


if __name__ == "__main__":
    main()
