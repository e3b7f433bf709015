"""What this machine is: its processor and memory, its GPUs as the driver tells them, the Python that has torch.

Nothing here needs more than the standard library. The driver is asked through libcuda.so.1, in a process of its own, because
a driver that is stuck does not come back; and so is torch. What asks them has not been run on a GPU yet.
"""

import ctypes
import json
import os
import platform
import subprocess
import sys

_UUID_BYTES = 16
_TORCH = r"""
import importlib.metadata, json, os, sys
def version(name):
    try: return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError: return None
facts = {"python": sys.version.split()[0], "torch": None, "cuda": None, "nccl": None, "nccl_library": None, "devices": []}
facts.update({name.replace("-", "_"): version(name) for name in ("checkpoint-engine", "pyzmq", "safetensors", "numpy")})
try:
    import torch
    facts.update(torch=torch.__version__, cuda=torch.version.cuda)
    if torch.cuda.is_available():
        facts["devices"] = ["GPU-" + str(torch.cuda.get_device_properties(i).uuid) for i in range(torch.cuda.device_count())]
        facts["nccl"] = ".".join(map(str, torch.cuda.nccl.version()))
    beside = os.path.join(os.path.dirname(os.path.dirname(torch.__file__)), "nvidia", "nccl", "lib", "libnccl.so.2")
    facts["nccl_library"] = beside if os.path.exists(beside) else None
except Exception as error:
    facts["error"] = f"{type(error).__name__}: {error}"
print(json.dumps(facts))
"""


class NoGpu(Exception):
    """There is no GPU that could be used; the text says what is missing."""


def cuda_devices():
    """[{uuid, name, bytes}] and the driver's version, as libcuda.so.1 tells them."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        raise NoGpu("there is no libcuda.so.1: no NVIDIA driver is installed here") from None

    def must(result, what):
        if result != 0:
            text = ctypes.c_char_p()
            cuda.cuGetErrorString(result, ctypes.byref(text))
            raise NoGpu(f"{what} failed with error {result}: {(text.value or b'unknown').decode()}")

    must(cuda.cuInit(0), "cuInit")
    count, driver = ctypes.c_int(), ctypes.c_int()
    must(cuda.cuDeviceGetCount(ctypes.byref(count)), "cuDeviceGetCount")
    must(cuda.cuDriverGetVersion(ctypes.byref(driver)), "cuDriverGetVersion")
    if count.value == 0:
        raise NoGpu("the driver sees no GPU (CUDA_VISIBLE_DEVICES may hide them)")
    devices = []
    for ordinal in range(count.value):
        device, name, size = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
        uuid = (ctypes.c_ubyte * _UUID_BYTES)()
        must(cuda.cuDeviceGet(ctypes.byref(device), ordinal), "cuDeviceGet")
        must(cuda.cuDeviceGetName(name, len(name), device), "cuDeviceGetName")
        must(cuda.cuDeviceTotalMem_v2(ctypes.byref(size), device), "cuDeviceTotalMem")
        must(cuda.cuDeviceGetUuid_v2(ctypes.byref(uuid), device), "cuDeviceGetUuid")
        prefix = "MIG-" if is_instance(cuda, device, bytes(uuid)) else "GPU-"
        text = bytes(uuid).hex()
        parts = (text[:8], text[8:12], text[12:16], text[16:20], text[20:])
        devices.append({"uuid": prefix + "-".join(parts), "name": name.value.decode(), "bytes": size.value})
    return devices, f"{driver.value // 1000}.{driver.value % 1000 // 10}"


def is_instance(cuda, device, uuid):
    """Whether it is an instance of a divided GPU, whose own UUID the older call tells. ckptd asks in the same way."""
    of_gpu = (ctypes.c_ubyte * _UUID_BYTES)()
    older = getattr(cuda, "cuDeviceGetUuid", None)  # newer drivers may have dropped it
    return older is not None and older(ctypes.byref(of_gpu), device) == 0 and bytes(of_gpu) != uuid


def driver_release():
    """The kernel module's own version, as 580.65.06."""
    try:
        with open("/proc/driver/nvidia/version", encoding="ascii", errors="replace") as file:
            words = file.readline().split()
        return next((word for word in words if word[:1].isdigit() and "." in word), None)
    except OSError:
        return None


def memory():
    with open("/proc/meminfo", encoding="ascii") as file:
        fields = dict(line.split(":") for line in file)
    return {key: int(fields[name].split()[0]) * 1024 for key, name in
            (("total_bytes", "MemTotal"), ("available_bytes", "MemAvailable"))}


def python_facts(python, environment):
    """What `python` has of torch and of what the worker imports."""
    try:
        done = subprocess.run([python, "-c", _TORCH], env=environment, capture_output=True, text=True, timeout=180)
        return json.loads(done.stdout)
    except FileNotFoundError:
        return {"error": f"there is no {python}"}
    except subprocess.TimeoutExpired:
        return {"error": f"{python} did not import torch within 180 s"}
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return {"error": f"{python} could not tell what it has: {last}"}


def ask_driver(seconds=60):
    """What this file prints when it runs as a program."""
    try:
        done = subprocess.run([sys.executable, "-B", os.path.abspath(__file__)], capture_output=True, text=True,
                              timeout=seconds)
        return json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return {"no_gpu": f"the driver did not answer within {seconds} s"}
    except ValueError:
        return {"no_gpu": f"the driver could not be asked: exit status {done.returncode}"}


def facts(python, environment):
    found = {
        "architecture": platform.machine(), "kernel": platform.release(), "libc": "-".join(platform.libc_ver()),
        "processors": os.cpu_count(), "memory": memory(), "driver": driver_release(), "cuda_driver": None, "devices": [],
        "no_gpu": "", "python": python_facts(python, environment),
    }
    found.update(ask_driver())
    return found


if __name__ == "__main__":
    try:
        gpus, version = cuda_devices()
        print(json.dumps({"devices": gpus, "cuda_driver": version}))
    except NoGpu as reason:
        print(json.dumps({"no_gpu": str(reason)}))
