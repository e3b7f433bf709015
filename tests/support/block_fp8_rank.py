#!/usr/bin/env python3
"""One rank on CPU torch whose model has block-quantised FP8 weights, as DeepSeek's checkpoints and the engines have them.

  block_fp8_rank.py --device HOST-0 [--forget scales]

A checkpoint has for each projection a `weight` of F8_E4M3 [N, K] and a `weight_scale_inv` of F32
[ceil(N/128), ceil(K/128)], one scale for each block of 128 x 128. The engines fuse `gate_proj` and `up_proj` into one
parameter, and so does the module here: its loader puts each shard at its place in the fused weight and in the fused
scales. The worker around it is checkpoint_engine.worker, unmodified.

Understands the commands of torch_rank.py; "compare" also multiplies: what the module computes from its fused parameters has
to be what the checkpoint's own tensors give. With `--forget scales` the loader leaves the scales as they were, which is what
an engine did whose reload of such a model went wrong.
"""

import argparse
import re
import sys

from torch_rank import TorchRank, claim_stdout, different, import_worker, safetensors_files, serve

BLOCK = 128
NAME = re.compile(r"^(?P<layer>.+)\.(?P<part>gate_proj|up_proj)\.(?P<what>weight|weight_scale_inv)$")
PARTS = ("gate_proj", "up_proj")


def blocks(length):
    return -(-length // BLOCK)


def dequantised(torch, weight, scale):
    """Each block times its scale; the last blocks of a row or column may be smaller."""
    rows, columns = weight.shape
    wide = scale.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
    return weight.to(torch.float32) * wide


def make_module(forget=()):
    import torch

    class GateUp(torch.nn.Module):
        """Both projections of one layer in one parameter, gate first."""

        def __init__(self, rows, columns):
            super().__init__()
            self.rows = rows
            self.weight = torch.nn.Parameter(torch.zeros(2 * rows, columns).to(torch.float8_e4m3fn), requires_grad=False)
            self.weight_scale_inv = torch.nn.Parameter(torch.ones(2 * blocks(rows), blocks(columns)), requires_grad=False)

        def load(self, part, what, tensor):
            parameter = getattr(self, what)
            length = parameter.shape[0] // 2
            parameter.data[PARTS.index(part) * length:][:length].copy_(tensor)

        def forward(self, x):
            # A block never spans the two: each has its own scales, also where its rows are no multiple of 128.
            half = self.weight_scale_inv.shape[0] // 2
            parts = [dequantised(torch, self.weight[i * self.rows:(i + 1) * self.rows],
                                 self.weight_scale_inv[i * half:(i + 1) * half]) for i in (0, 1)]
            return x @ torch.cat(parts).T

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = {}
            self.early = {}  # scales that came before the weight that tells the layer's size

        def load_weights(self, weights):
            for name, tensor in weights:
                at = NAME.match(name)
                if not at or at["what"] in forget:
                    continue
                layer = self.layers.get(at["layer"])
                if layer is None and at["what"] == "weight":
                    layer = self.layers[at["layer"]] = GateUp(*tensor.shape)
                    for part, early in self.early.pop(at["layer"], {}).items():
                        layer.load(part, "weight_scale_inv", early)
                if layer is None:
                    self.early.setdefault(at["layer"], {})[at["part"]] = tensor.clone()
                else:
                    layer.load(at["part"], at["what"], tensor)

    return Model()


class Worker:
    """The real worker module, whose `run` also loads the model."""

    def __init__(self, real, model):
        self.__dict__.update(_real=real, _model=model)

    def __getattr__(self, name):
        return getattr(self._real, name)

    def __setattr__(self, name, value):
        setattr(self._real, name, value)

    def update_weights_from_ipc(self, *arguments, run, **options):
        def both(weights):
            weights = list(weights)
            self._model.load_weights(weights)
            run(weights)

        return self._real.update_weights_from_ipc(*arguments, run=both, **options)


class BlockFp8Rank(TorchRank):
    def __init__(self, device, forget=()):
        self._model = make_module(forget)
        super().__init__(device, worker=Worker(import_worker(), self._model))

    def compare(self, request):
        told = super().compare(request)
        return told if not told["equal"] else self._multiply(request["checkpoint"], told)

    def _multiply(self, checkpoint, told):
        from safetensors import safe_open

        torch, tensors = self._torch, {}
        for path in safetensors_files(checkpoint):
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}
        layers = {match["layer"] for match in map(NAME.match, tensors) if match}
        if layers != set(self._model.layers):
            return different(f"the module has the layers {sorted(self._model.layers)}, the checkpoint {sorted(layers)}")
        for layer in sorted(layers):
            own = [dequantised(torch, tensors[f"{layer}.{part}.weight"], tensors[f"{layer}.{part}.weight_scale_inv"])
                   for part in PARTS]
            x = torch.randn(4, own[0].shape[1], generator=torch.Generator().manual_seed(1))
            wanted, given = torch.cat([x @ weight.T for weight in own], 1), self._model.layers[layer](x)
            if not torch.isfinite(wanted).all() or not wanted.abs().max() > 0:
                return different(f"{layer}: the checkpoint's own product says nothing")
            if not torch.allclose(given, wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max())):
                return different(f"{layer}: its product differs from that of the checkpoint's own tensors by "
                                 f"{float((given - wanted).abs().max())}")
        return {**told, "multiplied": len(layers)}

    def forget(self, request):
        self._model.layers.clear()
        return super().forget(request)


def write_checkpoint(directory, shapes, seed):
    """{layer: (N, K)} as a checkpoint of gate_proj and up_proj, quantised from random values block by block."""
    import os

    import torch
    from safetensors.torch import save_file

    source, tensors = torch.Generator().manual_seed(seed), {}
    for layer, (rows, columns) in shapes.items():
        for part in PARTS:
            # Blocks of very different sizes, so that a scale at the wrong place shows.
            values = torch.randn(rows, columns, generator=source)
            size = torch.exp2(torch.randint(-6, 7, (blocks(rows), blocks(columns)), generator=source).float())
            values *= size.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
            scale = torch.empty(blocks(rows), blocks(columns))
            weight = torch.empty(rows, columns).to(torch.float8_e4m3fn)
            for i in range(scale.shape[0]):
                for j in range(scale.shape[1]):
                    at = (slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK))
                    scale[i, j] = values[at].abs().max() / 448
                    weight[at] = (values[at] / scale[i, j]).to(torch.float8_e4m3fn)
            tensors[f"{layer}.{part}.weight"], tensors[f"{layer}.{part}.weight_scale_inv"] = weight, scale
    os.makedirs(directory)
    save_file(tensors, os.path.join(directory, "model.safetensors"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", required=True, help="uuid that the engine looks its endpoint up by, as HOST-0")
    parser.add_argument("--forget", choices=("scales",), help="what the loader leaves as it was")
    parser.add_argument("--write", metavar="DIR", help="write a checkpoint of --shapes there, and end")
    parser.add_argument("--shapes", default="", help="LAYER=NxK,..")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.write:
        pairs = [one.split("=") for one in arguments.shapes.split(",")]
        return write_checkpoint(arguments.write, {layer: tuple(map(int, shape.split("x"))) for layer, shape in pairs},
                                arguments.seed)
    answers = claim_stdout()
    return serve(BlockFp8Rank(arguments.device, ("weight_scale_inv",) if arguments.forget else ()), answers)


if __name__ == "__main__":
    sys.exit(main())
