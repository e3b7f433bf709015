#!/usr/bin/env python3
"""gpu_rehearsal_test.py --nccl-program FILE --fake-cuda FILE --fake-nccl FILE

The program that goes to machines with GPUs for the sake of NCCL, over the fakes in place of NVIDIA's libraries: with several
GPUs, with one that has both members of a group, and with one where NCCL is too old for that, which is said and not passed. It
says whether the program works, and nothing about a GPU.
"""

import argparse
import os
import subprocess
import tempfile

PASSED, SKIPPED = 0, 77


def main():
    options = argparse.ArgumentParser(description=__doc__)
    for name in ("nccl-program", "fake-cuda", "fake-nccl"):
        options.add_argument("--" + name, required=True)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(prefix="ckptd-gpu-rehearsal-") as folder:
        os.symlink(os.path.abspath(arguments.fake_cuda), os.path.join(folder, "libcuda.so.1"))
        paths = [folder, os.environ.get("LD_LIBRARY_PATH")]

        def check(gpus, version, status, words):
            environment = {**os.environ, "LD_LIBRARY_PATH": os.pathsep.join(path for path in paths if path),
                           "CKPTD_TEST_NCCL": arguments.fake_nccl, "CKPTD_FAKE_NCCL_CUDA": arguments.fake_cuda,
                           "CKPTD_FAKE_CUDA_DEVICES": str(gpus), "CKPTD_FAKE_NCCL_VERSION": str(version)}
            environment.pop("NCCL_MULTI_RANK_GPU_ENABLE", None)
            done = subprocess.run([arguments.nccl_program], env=environment, stdin=subprocess.DEVNULL, text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=240)
            last = (done.stdout.strip().splitlines() or [""])[-1]
            if done.returncode != status or words not in last or "complaint" in done.stdout or "fake NCCL:" in done.stdout:
                raise SystemExit(f"{gpus} GPUs and NCCL {version}: status {done.returncode} and not {status}, or its last line "
                                 f"does not say '{words}', or something was complained of:\n{done.stdout}")

        check(1, 23000, PASSED, "two members on one GPU, by NCCL 2.30.0")
        check(1, 22907, SKIPPED, "two members of NCCL are untested")
        check(2, 22203, PASSED, "2 GPUs, by NCCL 2.22.3")


if __name__ == "__main__":
    main()
