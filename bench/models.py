#!/usr/bin/env python3
"""The tensors of well-known models, from their published configurations: true names, dtypes and shapes to measure with.

  models.py                                     models, with their tensors and bytes
  models.py MODEL [--scale F]                   one JSON object a line: {"name", "dtype", "shape", "shard"}
  models.py MODEL --write DIR [--scale F]       a checkpoint of random weights with this list

--scale shrinks the first dimension of every tensor, to no less than 1, for machines with less memory than the model.
Shards hold 4.3 GB at most, in the order of the list.
"""

import argparse
import json
import math
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
WIDTH_BYTES = {"BF16": 2, "F32": 4, "F8_E4M3": 1}
SHARD_BYTES = 4_300_000_000
BLOCK = 128  # DeepSeek's FP8 has one scale for each block of 128 x 128


class Model:
    """Collects (name, dtype, shape) in the order in which they are added."""

    def __init__(self):
        self.tensors = []

    def add(self, name, *shape, dtype="BF16"):
        self.tensors.append((name, dtype, list(shape)))

    def linear(self, name, rows, columns):
        self.add(name + ".weight", rows, columns)

    def quantised(self, name, rows, columns):
        self.add(name + ".weight", rows, columns, dtype="F8_E4M3")
        self.add(name + ".weight_scale_inv", math.ceil(rows / BLOCK), math.ceil(columns / BLOCK), dtype="F32")

    def feed_forward(self, name, hidden, inner, linear):
        linear(name + ".gate_proj", inner, hidden)
        linear(name + ".up_proj", inner, hidden)
        linear(name + ".down_proj", hidden, inner)


def qwen3_moe(hidden, inner, layers, heads, key_value_heads, head, vocabulary, experts):
    model = Model()
    model.linear("model.embed_tokens", vocabulary, hidden)
    for layer in range(layers):
        at = f"model.layers.{layer}."
        model.linear(at + "self_attn.q_proj", heads * head, hidden)
        model.linear(at + "self_attn.k_proj", key_value_heads * head, hidden)
        model.linear(at + "self_attn.v_proj", key_value_heads * head, hidden)
        model.linear(at + "self_attn.o_proj", hidden, heads * head)
        model.add(at + "self_attn.q_norm.weight", head)
        model.add(at + "self_attn.k_norm.weight", head)
        model.linear(at + "mlp.gate", experts, hidden)
        for expert in range(experts):
            model.feed_forward(f"{at}mlp.experts.{expert}", hidden, inner, model.linear)
        model.add(at + "input_layernorm.weight", hidden)
        model.add(at + "post_attention_layernorm.weight", hidden)
    model.add("model.norm.weight", hidden)
    model.linear("lm_head", vocabulary, hidden)
    return model.tensors


def deepseek_v3(layers, dense_layers, experts, heads, vocabulary):
    """Latent attention, one shared expert, block-quantised: DeepSeek-V3's shape, which Kimi-K2 has with other counts."""
    hidden, query_rank, key_value_rank, plain, rotary, value = 7168, 1536, 512, 128, 64, 128
    dense_inner, expert_inner = 18432, 2048
    model = Model()
    model.linear("model.embed_tokens", vocabulary, hidden)
    for layer in range(layers):
        at = f"model.layers.{layer}."
        model.quantised(at + "self_attn.q_a_proj", query_rank, hidden)
        model.add(at + "self_attn.q_a_layernorm.weight", query_rank)
        model.quantised(at + "self_attn.q_b_proj", heads * (plain + rotary), query_rank)
        model.quantised(at + "self_attn.kv_a_proj_with_mqa", key_value_rank + rotary, hidden)
        model.add(at + "self_attn.kv_a_layernorm.weight", key_value_rank)
        model.quantised(at + "self_attn.kv_b_proj", heads * (plain + value), key_value_rank)
        model.quantised(at + "self_attn.o_proj", hidden, heads * value)
        if layer < dense_layers:
            model.feed_forward(at + "mlp", hidden, dense_inner, model.quantised)
        else:
            model.linear(at + "mlp.gate", experts, hidden)
            model.add(at + "mlp.gate.e_score_correction_bias", experts, dtype="F32")
            model.feed_forward(at + "mlp.shared_experts", hidden, expert_inner, model.quantised)
            for expert in range(experts):
                model.feed_forward(f"{at}mlp.experts.{expert}", hidden, expert_inner, model.quantised)
        model.add(at + "input_layernorm.weight", hidden)
        model.add(at + "post_attention_layernorm.weight", hidden)
    model.add("model.norm.weight", hidden)
    model.linear("lm_head", vocabulary, hidden)
    return model.tensors


MODELS = {
    "qwen3-30b-a3b": lambda: qwen3_moe(2048, 768, 48, 32, 4, 128, 151936, 128),
    "qwen3-235b-a22b": lambda: qwen3_moe(4096, 1536, 94, 64, 4, 128, 151936, 128),
    "kimi-k2": lambda: deepseek_v3(61, 1, 384, 64, 163840),
}


def bytes_of(dtype, shape):
    return WIDTH_BYTES[dtype] * math.prod(shape)


def tensors_of(model, scale=1.0):
    """[(name, dtype, shape)]"""
    return [(name, dtype, [max(1, round(shape[0] * scale)), *shape[1:]]) for name, dtype, shape in MODELS[model]()]


def with_shards(tensors):
    shard = filled = 0
    for name, dtype, shape in tensors:
        size = bytes_of(dtype, shape)
        if filled and filled + size > SHARD_BYTES:
            shard, filled = shard + 1, 0
        filled += size
        yield {"name": name, "dtype": dtype, "shape": shape, "shard": shard}


def write(directory, tensors):
    """Returns the bytes of the weights. Several shards even when little was asked for, as such models have."""
    sys.path.insert(0, os.path.join(HERE, "..", "tests", "support"))
    sys.dont_write_bytecode = True
    import checkpoints

    total = sum(bytes_of(dtype, shape) for _, dtype, shape in tensors)
    checkpoints.write_sharded(directory, tensors, max(4, math.ceil(total / SHARD_BYTES)), seed=1)
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", choices=sorted(MODELS))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--write", metavar="DIR")
    arguments = parser.parse_args()
    if not arguments.model:
        for name in MODELS:
            tensors = tensors_of(name)
            total = sum(bytes_of(dtype, shape) for _, dtype, shape in tensors)
            print(f"{name:16} {len(tensors):8,} tensors {total / 1e9:8.1f} GB")
        return
    tensors = tensors_of(arguments.model, arguments.scale)
    if arguments.write:
        total = write(arguments.write, tensors)
        print(f"{arguments.write}: {len(tensors)} tensors, {total} bytes")
        return
    for tensor in with_shards(tensors):
        print(json.dumps(tensor))


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:
        sys.exit(1)
