#!/usr/bin/env python3
"""One inference rank whose update goes through an engine's own worker extension, unmodified, around a torch module.

  extension_rank.py --extension sglang --sglang .venv/sglang --device HOST-0     SGLangCheckpointEngineWorkerExtensionImpl
  extension_rank.py --extension vllm --device HOST-0                             VllmColocateWorkerExtension

Understands the commands of torch_rank.py. Stands for the engine around the extension, and for nothing of the extension:

  sglang.srt.platforms.current_platform, sglang.srt.utils    which device this is (a machine without GPU has none)
  sglang.srt.model_loader.loader.device_loading_context      nothing has to be moved to a device
  vllm.platforms.current_platform                            which device this is
  vllm.model_executor.model_loader.utils                     process_weights_after_loading: the module's own processing
  checkpoint_engine.worker.DeviceManager                     as in torch_rank.py

The module keeps what it is given and, like a quantised layer, processes it once an update is complete: each processing
counts, and what was loaded and not processed is not what is served.
"""

import argparse
import contextlib
import functools
import gc
import importlib.util
import os
import sys
import traceback
import types

from torch_rank import TorchRank, claim_stdout, import_worker, raw_bytes, serve


FAULTS = ("none", "fail_load", "stall", "die", "slow", "fail_post_hook")


def stub(name, **members):
    """A module of that name, and packages above it."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        package = sys.modules.setdefault(".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
        package.__path__ = []
    module = types.ModuleType(name)
    vars(module).update(members)
    sys.modules[name] = module


class NoDevice:
    """Of a machine without GPU; the uuid is the one that ckptd gives to its host devices."""

    device_type = "cuda"  # what the extensions look keys up for

    def __init__(self, uuid):
        self._uuid = uuid

    def get_device_uuid(self, _index=None):
        return self._uuid

    def current_device(self):
        return 0


def make_module():
    import torch

    class Layer(torch.nn.Module):
        """Its weights come by name; as a quantised one it has a method that processes them."""

        def __init__(self):
            super().__init__()
            self.held, self.processed, self.fails = {}, 0, False
            self.quant_method = self

        def process_weights_after_loading(self, _module):
            if self.fails:
                self.fails = False
                raise RuntimeError("the post hook was told to fail")
            self.processed += 1

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = Layer()
            self.on_list = lambda: None
            self.post_loads = 0

        def load_weights(self, weights):
            self.on_list()
            for name, tensor in weights:
                # The buffer is reused for the next list: what stays is a copy, as in every engine.
                self.layer.held[name] = (tensor.dtype, tuple(tensor.shape), raw_bytes(tensor).clone())

        def post_load_weights(self):
            self.post_loads += 1

    return Model()


def sglang_extension(folder, uuid, model):
    """Made anew for each update, as SGLang does."""
    device = NoDevice(uuid)
    stub("sglang.srt.platforms", current_platform=device)
    stub("sglang.srt.utils", get_device=lambda: "cpu", get_device_module=lambda: device, is_npu=lambda: False)
    stub("sglang.srt.model_loader.loader", device_loading_context=lambda _module, _device: contextlib.nullcontext())
    path = os.path.join(folder, "sglang", "srt", "checkpoint_engine", "checkpoint_engine_worker.py")
    spec = importlib.util.spec_from_file_location("sglang.srt.checkpoint_engine.checkpoint_engine_worker", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    runner = types.SimpleNamespace(model=model)

    class OnHost(module.SGLangCheckpointEngineWorkerExtensionImpl):
        """A host device's uuid has no "GPU-" before it, and its memory is opened without the number of a device."""

        def get_device_uuid(self):
            return uuid

        def get_device_id(self):
            return None

    return lambda: OnHost(runner)


def vllm_extension(worker, uuid, model):
    """Mixed into the worker class, and made once, as vLLM does."""
    import torch

    def process(module, _config, _device):
        for layer in module.modules():
            if getattr(layer, "quant_method", None) is not None:
                layer.quant_method.process_weights_after_loading(layer)

    stub("vllm.platforms", current_platform=NoDevice(uuid))
    stub("vllm.model_executor.model_loader.utils", process_weights_after_loading=process)

    class Worker(worker.VllmColocateWorkerExtension):
        def __init__(self):
            self.device, self.model_config = torch.device("cpu"), None
            self.model_runner = types.SimpleNamespace(model=model, drafter=None)

    one = Worker()
    return lambda: one


class ExtensionRank(TorchRank):
    def __init__(self, device, make_extension):
        super().__init__(device, import_worker())
        self._model = make_module()
        self._make_extension = make_extension(self._model)
        self._models = [self._model.layer.held]

    def _session(self, context, endpoint, fault, load):
        del context, load  # the extension brings its own
        lists = [0]

        def on_list():
            fault.in_list(lists[0])
            lists[0] += 1
            self._buckets += 1

        self._model.on_list = on_list
        self._model.layer.fails = fault.kind == "fail_post_hook"
        try:
            self._make_extension().update_weights_from_ipc({self._device: endpoint})
            return ""
        except Exception:  # what a scheduler would log and answer
            return traceback.format_exc()
        finally:
            gc.collect()  # SGLang's extension, and with it its ZeroMQ context, ends with the call

    def update(self, request):
        before = self._model.layer.processed
        answer = super().update(request)
        if answer["ok"]:
            self._unprocessed = self._model.layer.processed == before
        return answer

    def fault(self, request):
        if request.get("kind", "none") not in FAULTS:
            return {"ok": False, "error": f"this rank knows {', '.join(FAULTS)}"}
        return super().fault(request)

    def state(self, request):
        return super().state(request) | {"processed": self._model.layer.processed, "post_loads": self._model.post_loads}

    def forget(self, _request):
        self._model.layer.held.clear()
        return {"ok": True}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", required=True, help="uuid that the engine looks its endpoint up by, as HOST-0")
    parser.add_argument("--extension", choices=("sglang", "vllm"), required=True)
    parser.add_argument("--sglang", default=os.environ.get("CKPTD_SGLANG_DIR"), help="folder that has sglang/")
    arguments = parser.parse_args()
    answers = claim_stdout()
    if arguments.extension == "sglang":
        make = functools.partial(sglang_extension, arguments.sglang, arguments.device)
    else:
        make = functools.partial(vllm_extension, import_worker(), arguments.device)
    serve(ExtensionRank(arguments.device, make), answers)


if __name__ == "__main__":
    main()
