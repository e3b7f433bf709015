"""Packed IPC, as vLLM's own weight transfer receives: one handle for a whole buffer, tensors back to back in it. The sender
is a program of ckptd's device backend and its writer of offers, the receiver torch alone. It says whether a handle that torch
did not make is taken there too; ckptd's updates do not go this way.

Not run on a GPU yet.
"""

import json
import os
import random
import subprocess

from checks.frame import Check, Skip, passed, step

PROGRAM = "packed_sender"
# Sizes of which most make the next tensor begin where its dtype could not be viewed. The last one makes the buffer larger
# than what a driver shares one block for.
TENSORS = (("a", "uint8", [7], 7), ("b", "bfloat16", [33, 3], 198), ("c", "float32", [5], 20), ("d", "uint8", [1], 1),
           ("e", "float16", [], 2), ("f", "int64", [0, 4], 0), ("g", "float8_e4m3fn", [129], 129),
           ("h", "bfloat16", [2049, 1025], 4200450))


def write_inputs(folder):
    """(path of the list, path of the bytes)"""
    listed, packed = os.path.join(folder, "packed.json"), os.path.join(folder, "packed.bin")
    with open(listed, "w", encoding="utf-8") as file:
        json.dump(TENSORS, file)
    with open(packed, "wb") as file:
        file.write(random.Random(1).randbytes(sum(tensor[-1] for tensor in TENSORS)))
    return listed, packed


def check_packed(context):
    program = context.place.helper(PROGRAM)
    if not program:
        raise Skip(f"this build has no {PROGRAM}")
    if not context.machine["python"].get("torch"):
        raise Skip(f"{context.python} has no torch: name another with --python")
    memory = "host" if context.rehearsal else "cuda"
    listed, packed = write_inputs(context.scratch)
    step("the sender to have its memory on the device")
    with subprocess.Popen([program, memory, context.uuid, packed], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as sender:
        try:
            offer = os.path.join(context.scratch, "packed.offer")
            with open(offer, "w", encoding="ascii") as file:
                file.write(sender.stdout.readline())
            if not os.path.getsize(offer):
                raise AssertionError(sender.stderr.read().strip() or "the sender ended without a word")
            step("torch to open the buffer and to compare each tensor")
            receiver = os.path.join(os.path.dirname(os.path.abspath(__file__)), "packed_receiver.py")
            done = subprocess.run([context.python, "-B", receiver, "--memory", memory, "--device", context.uuid, "--offer",
                                   offer, "--tensors", listed, "--expected", packed], stdin=subprocess.DEVNULL,
                                  env=context.python_environment(), capture_output=True, text=True, timeout=120)
            print(done.stderr)
            if done.returncode != 0:
                raise AssertionError((done.stderr.strip().splitlines() or ["the receiver said nothing"])[-1])
        finally:
            step("the sender to end")
            sender.stdin.close()
            status = sender.wait(30)
    if status != 0:
        raise AssertionError(f"the sender ended with {status}")
    seen = json.loads(done.stdout)
    return passed(f"{seen['tensors']} tensors out of one buffer on {seen['device']}, {seen['unaligned']} of them where their "
                  "dtype could not be viewed, all equal", **seen)


def checks(_context):
    return [Check("packed", "does torch open one handle for many tensors?", check_packed, 240, ("programs",))]
