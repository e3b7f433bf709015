#!/usr/bin/env python3
"""Makes checkpoints for tests and the demo, with nothing but the standard library.

  checkpoints.py llama DIR [--bytes 300MB] [--shards 4] [--seed 1]   a Llama-shaped checkpoint of random weights
  checkpoints.py second FROM TO [--key 1]                            the same names and shapes, every byte another one
  checkpoints.py unpack WHEEL DIR                                    the model inside a Python wheel
  checkpoints.py describe DIR                                        {"files":N,"tensors":N,"bytes":N}

Content depends on the arguments alone. Files are written in pieces: memory stays small for any size.
"""

import argparse
import glob
import json
import math
import multiprocessing
import os
import random
import shutil
import struct
import sys
import zipfile

PIECE_BYTES = 4 << 20
INDEX = "model.safetensors.index.json"

BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}


def extent_bytes(dtype, shape):
    bits = BITS[dtype] * math.prod(shape)
    if bits % 8:
        raise ValueError(f"{dtype} of shape {shape} is no whole number of bytes")
    return bits // 8


# ---- files ----------------------------------------------------------------------------------------------------------


def write_header(file, tensors, metadata=None, pad_to=8):
    """`tensors` is a list of (name, dtype, shape); their bytes are to follow in this order."""
    header, offset = {}, 0
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, dtype, shape in tensors:
        end = offset + extent_bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode("utf-8")
    text += b" " * (-len(text) % pad_to)
    file.write(struct.pack("<Q", len(text)) + text)


def random_pieces(source, total, is_bool=False):
    while total > 0:
        size = min(total, PIECE_BYTES)
        piece = source.randbytes(size)
        yield piece.translate(BOOL_TABLE) if is_bool else piece
        total -= size


BOOL_TABLE = bytes(value & 1 for value in range(256))


def write_random_file(path, tensors, seed, metadata=None, pad_to=8):
    source = random.Random(f"{seed}/{os.path.basename(path)}")
    with open(path, "wb") as file:
        write_header(file, tensors, metadata, pad_to)
        for _, dtype, shape in tensors:
            for piece in random_pieces(source, extent_bytes(dtype, shape), dtype == "BOOL"):
                file.write(piece)


def write_file(path, tensors, metadata=None):
    """`tensors` is a list of (name, dtype, shape, bytes)."""
    with open(path, "wb") as file:
        write_header(file, [tensor[:3] for tensor in tensors], metadata)
        for name, dtype, shape, content in tensors:
            if len(content) != extent_bytes(dtype, shape):
                raise ValueError(f"{name}: {len(content)} bytes given, {extent_bytes(dtype, shape)} needed")
            file.write(content)


def read_header(path):
    """(where the payload starts, [(name, dtype, shape, begin, end)] in the order of the payload)."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    tensors = [(name, about["dtype"], tuple(about["shape"]), *about["data_offsets"])
               for name, about in header.items()]
    return 8 + length, sorted(tensors, key=lambda tensor: (tensor[3], tensor[4]))


def files_of(checkpoint):
    if os.path.isfile(checkpoint):
        return [checkpoint]
    index = os.path.join(checkpoint, INDEX)
    if os.path.exists(index):
        with open(index, encoding="utf-8") as file:
            return [os.path.join(checkpoint, shard) for shard in sorted(set(json.load(file)["weight_map"].values()))]
    return sorted(glob.glob(os.path.join(glob.escape(checkpoint), "*.safetensors")))


def describe(checkpoint):
    files = files_of(checkpoint)
    if not files:
        raise FileNotFoundError(f"{checkpoint} holds no safetensors file")
    tensors = [tensor for path in files for tensor in read_header(path)[1]]
    return {"files": len(files), "tensors": len(tensors), "bytes": sum(end - begin for *_, begin, end in tensors)}


# ---- checkpoints ----------------------------------------------------------------------------------------------------


def call_each(function, calls, processes):
    """One call a file, in so many processes at once."""
    if processes == 1:
        for arguments in calls:
            function(*arguments)
        return
    with multiprocessing.get_context("fork").Pool(processes) as pool:
        pool.starmap(function, calls, 1)


def write_sharded(directory, tensors, shards, seed, index=True, processes=1):
    """Spreads `tensors`, a list of (name, dtype, shape), over shards of about equal size, as transformers does."""
    os.makedirs(directory, exist_ok=True)
    total = sum(extent_bytes(dtype, shape) for _, dtype, shape in tensors)
    parts, filled = [[] for _ in range(shards)], 0
    for tensor in tensors:
        parts[min(filled * shards // max(total, 1), shards - 1)].append(tensor)
        filled += extent_bytes(*tensor[1:])
    parts = [part for part in parts if part]
    weight_map, calls = {}, []
    for number, part in enumerate(parts, 1):
        shard = "model.safetensors" if len(parts) == 1 else f"model-{number:05}-of-{len(parts):05}.safetensors"
        calls.append((os.path.join(directory, shard), part, seed, {"format": "pt"}))
        weight_map.update({name: shard for name, _, _ in part})
    call_each(write_random_file, calls, processes)
    if index and len(parts) > 1:
        with open(os.path.join(directory, INDEX), "w", encoding="utf-8") as file:
            json.dump({"metadata": {"total_size": total}, "weight_map": weight_map}, file, indent=2, ensure_ascii=False)
    return directory


def llama_tensors(target_bytes):
    """Names, dtypes and shapes of a Llama of about `target_bytes`: weights in BF16, norms in F32."""
    hidden = 64
    while llama_bytes(hidden * 2, 2) <= target_bytes and hidden < 4096:
        hidden *= 2
    layers = 2
    while llama_bytes(hidden, layers + 1) <= target_bytes:
        layers += 1
    return list(llama_of(hidden, layers))


def llama_bytes(hidden, layers):
    return sum(extent_bytes(dtype, shape) for _, dtype, shape in llama_of(hidden, layers))


def llama_of(hidden, layers):
    inner, key_value, vocabulary = hidden * 11 // 4, max(hidden // 4, 16), hidden * 16
    yield "model.embed_tokens.weight", "BF16", (vocabulary, hidden)
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        yield prefix + "input_layernorm.weight", "F32", (hidden,)
        yield prefix + "mlp.down_proj.weight", "BF16", (hidden, inner)
        yield prefix + "mlp.gate_proj.weight", "BF16", (inner, hidden)
        yield prefix + "mlp.up_proj.weight", "BF16", (inner, hidden)
        yield prefix + "post_attention_layernorm.weight", "F32", (hidden,)
        yield prefix + "self_attn.k_proj.weight", "BF16", (key_value, hidden)
        yield prefix + "self_attn.o_proj.weight", "BF16", (hidden, hidden)
        yield prefix + "self_attn.q_proj.weight", "BF16", (hidden, hidden)
        yield prefix + "self_attn.v_proj.weight", "BF16", (key_value, hidden)
    yield "model.norm.weight", "F32", (hidden,)
    yield "lm_head.weight", "BF16", (vocabulary, hidden)


def make_llama(directory, target_bytes, shards=4, seed=1, processes=1):
    tensors = llama_tensors(target_bytes)
    write_sharded(directory, tensors, shards, seed, processes=processes)
    with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as file:
        json.dump({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16"}, file)
    return directory


def make_fp8(directory, seed=1):
    """Weights of eight-bit floats with scales for blocks of 128 x 128 beside them."""
    tensors = [("model.embed_tokens.weight", "BF16", (256, 128)), ("model.norm.weight", "F32", (128,))]
    for layer in range(2):
        for part in ("gate_proj", "up_proj"):
            name = f"model.layers.{layer}.mlp.{part}.weight"
            tensors += [(name, "F8_E4M3", (256, 128)), (name + "_scale_inv", "F32", (2, 1))]
    write_sharded(directory, tensors, 1, seed)
    return directory


def make_experts(directory, seed=1):
    """A mixture of experts in BF16."""
    tensors = [("model.embed_tokens.weight", "BF16", (256, 128)), ("model.norm.weight", "F32", (128,))]
    tensors += [(f"model.layers.0.mlp.experts.{expert}.{part}.weight", "BF16", (64, 128))
                for expert in range(4) for part in ("gate_proj", "up_proj", "down_proj")]
    write_sharded(directory, tensors, 1, seed)
    return directory


def make_oddities(directory, seed=1):
    """One file with what the format allows and few models have: every dtype of byte width that torch knows, scalars,
    empty tensors, odd sizes and odd names."""
    os.makedirs(directory, exist_ok=True)
    wide = ["BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ", "I16", "U16", "F16",
            "BF16", "I32", "U32", "F32", "C64", "F64", "I64", "U64"]
    tensors = [("dtype." + dtype, dtype, (3, 5, 7)) for dtype in wide]
    tensors += [("scalar." + dtype, dtype, ()) for dtype in ("U8", "BF16", "F32", "I64", "BOOL")]
    tensors += [
        ("empty.first", "F32", (0, 4096)), ("empty.last", "BF16", (4096, 0)), ("empty.flat", "I64", (0,)),
        ("names/with/slashes/../and.dots", "F16", (17,)), ("név/重み/🎛", "U8", (33,)), ("quote\"back\\slash\ttab", "I8", (9,)),
        (" blank ", "U8", (1,)), ("x" * 300, "F32", (3,)), ("deep", "F32", (1, 1, 1, 2, 1, 1, 3, 1)),
    ]
    write_random_file(os.path.join(directory, "model.safetensors"), tensors, seed, {"format": "pt", "nøte": "x"})
    return directory


def make_hub_snapshot(root, target_bytes, shards=3, seed=1, name="models--acme--tiny"):
    """The layout of the Hugging Face cache: files are links from a snapshot into blobs. Returns the snapshot."""
    plain = os.path.join(root, "plain")
    make_llama(plain, target_bytes, shards, seed)
    blobs, snapshot = os.path.join(root, name, "blobs"), os.path.join(root, name, "snapshots", "0" * 39 + str(seed % 10))
    os.makedirs(blobs)
    os.makedirs(snapshot)
    for number, entry in enumerate(sorted(os.listdir(plain))):
        blob = f"{seed:032x}{number:032x}"
        os.rename(os.path.join(plain, entry), os.path.join(blobs, blob))
        os.symlink(os.path.join("..", "..", "blobs", blob), os.path.join(snapshot, entry))
    os.rmdir(plain)
    return snapshot


def make_second(source, target, key=1, processes=1):
    """Copies a checkpoint and changes every byte of every tensor. BOOL stays 0 or 1."""
    if not 0 < key < 256:
        raise ValueError("key is from 1 to 255")
    os.makedirs(target, exist_ok=True)
    payload_files = files_of(source)
    call_each(copy_changed, [(path, os.path.join(target, os.path.basename(path)), key) for path in payload_files], processes)
    if os.path.isdir(source):
        for entry in os.scandir(source):
            if entry.is_file() and entry.path not in payload_files and entry.name.endswith(".json"):
                shutil.copyfile(entry.path, os.path.join(target, entry.name))
    return target


def copy_changed(path, target, key):
    other = bytes(value ^ key for value in range(256))
    other_bool = bytes((value & 1) ^ 1 for value in range(256))
    start, tensors = read_header(path)
    with open(path, "rb") as old, open(target, "wb") as new:
        new.write(old.read(start))
        for _, dtype, _, begin, end in tensors:
            copy_translated(old, new, end - begin, other_bool if dtype == "BOOL" else other)
        new.write(old.read())


def copy_translated(old, new, total, table):
    while total > 0:
        piece = old.read(min(total, PIECE_BYTES))
        if not piece:
            raise EOFError(f"{old.name} ends {total} bytes early")
        new.write(piece.translate(table))
        total -= len(piece)


def unpack_wheel(wheel, directory):
    """Extracts the folder of the one model in a wheel: that which holds model.safetensors or an index."""
    os.makedirs(directory, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        homes = sorted({os.path.dirname(name) for name in archive.namelist() if name.endswith(".safetensors")})
        if len(homes) != 1:
            raise ValueError(f"{wheel} holds {len(homes)} folders with safetensors files, one is needed")
        for info in archive.infolist():
            folder, entry = os.path.split(info.filename)
            if folder == homes[0] and entry:
                with archive.open(info) as packed, open(os.path.join(directory, entry), "wb") as file:
                    shutil.copyfileobj(packed, file, PIECE_BYTES)
    return directory


def difference_between(one, other):
    """Compares names, dtypes, shapes and bytes of two checkpoints; None when equal, else a sentence."""
    first, second = payloads(one), payloads(other)
    for name in sorted(set(first) ^ set(second)):
        return f"tensor {name} is only in {one if name in first else other}"
    for name in sorted(first):
        if first[name][1:3] != second[name][1:3]:
            return f"tensor {name}: {first[name][1:3]} and {second[name][1:3]}"
        if tensor_bytes(first[name]) != tensor_bytes(second[name]):
            return f"tensor {name}: other bytes"
    return None


def payloads(checkpoint):
    """name -> (file, dtype, shape, where its bytes begin, where they end)"""
    found = {}
    for path in files_of(checkpoint):
        start, tensors = read_header(path)
        for name, dtype, shape, begin, end in tensors:
            found[name] = (path, dtype, shape, start + begin, start + end)
    return found


def tensor_bytes(payload):
    path, _, _, begin, end = payload
    with open(path, "rb") as file:
        file.seek(begin)
        return file.read(end - begin)


# ---- command line ---------------------------------------------------------------------------------------------------


def parse_bytes(text):
    units = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
    number = text.rstrip("KMGBi")
    if not number.isdigit() or text[len(number):] not in units:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, write 300MB or 1GiB")
    return int(number) * units[text[len(number):]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    llama = commands.add_parser("llama")
    llama.add_argument("directory")
    llama.add_argument("--bytes", type=parse_bytes, default=300 * 10**6)
    llama.add_argument("--shards", type=int, default=4)
    llama.add_argument("--seed", type=int, default=1)
    second = commands.add_parser("second")
    second.add_argument("source")
    second.add_argument("target")
    second.add_argument("--key", type=int, default=1)
    unpack = commands.add_parser("unpack")
    unpack.add_argument("wheel")
    unpack.add_argument("directory")
    about = commands.add_parser("describe")
    about.add_argument("directory")
    arguments = parser.parse_args()
    try:
        if arguments.command == "llama":
            make_llama(arguments.directory, arguments.bytes, arguments.shards, arguments.seed)
        elif arguments.command == "second":
            make_second(arguments.source, arguments.target, arguments.key)
        elif arguments.command == "unpack":
            unpack_wheel(arguments.wheel, arguments.directory)
        if arguments.command == "describe":
            print(json.dumps(describe(arguments.directory)))
    except (OSError, ValueError, EOFError, struct.error) as error:
        sys.exit(f"checkpoints.py: {error}")


if __name__ == "__main__":
    main()
