"""Programs that stand where docs/engines.md starts a real one: their command lines are the real ones', to the letter.

Each takes the flags that the document gives it and refuses all others, so that a line that was never typed shows, and becomes
the stand-in server of tests/support. What the flags of the real servers do was read in their sources (docs/standins.md).
"""

import os

SUPPORT, RANK = "/ckptd-tests/tests/support", "/ckptd-rank"

SGLANG = f"""
import argparse, os, sys
parser = argparse.ArgumentParser("sglang.launch_server")
parser.add_argument("--model-path", required=True)
parser.add_argument("--load-format", choices=["auto", "dummy"], default="auto")
parser.add_argument("--checkpoint-engine-wait-weights-before-ready", action="store_true")
parser.add_argument("--host", choices=["127.0.0.1"], required=True)
parser.add_argument("--port", type=int, required=True)
given = parser.parse_args()
waits = int(os.environ.get("SGLANG_WAIT_WEIGHTS_READY_TIMEOUT", "120"))
os.execvp("python3", ["python3", "{SUPPORT}/standin_sglang.py", "--devices", "HOST-0", "--program", "{RANK}", "--port",
    str(given.port), "--load-format", given.load_format,
    *(["--wait-weights", str(waits)] if given.checkpoint_engine_wait_weights_before_ready else [])])
"""

VLLM = f"""#!/usr/bin/python3
import argparse, json, os, sys
parser = argparse.ArgumentParser("vllm")
serve = parser.add_subparsers(required=True).add_parser("serve")
serve.add_argument("model")
serve.add_argument("--load-format", choices=["auto", "dummy"], default="auto")
serve.add_argument("--weight-transfer-config", type=json.loads)
serve.add_argument("--worker-extension-cls", choices=["checkpoint_engine.worker.VllmColocateWorkerExtension"])
serve.add_argument("--host", choices=["127.0.0.1"], required=True)
serve.add_argument("--port", type=int, required=True)
given = parser.parse_args()
flags = ["--devices", "HOST-1", "--port", str(given.port)]
if os.environ.get("VLLM_SERVER_DEV_MODE") != "1": flags.append("--no-dev-mode")
if os.environ.get("VLLM_ALLOW_INSECURE_SERIALIZATION") == "1": flags.append("--insecure-serialization")
if not given.worker_extension_cls: flags.append("--no-extension")
if given.weight_transfer_config:
    flags += ["--weight-transfer", given.weight_transfer_config["backend"], "--rank",
              "python3 {SUPPORT}/transfer_rank.py"]
else:
    flags += ["--program", "{RANK}"]
os.execvp("python3", ["python3", "{SUPPORT}/standin_vllm.py", *flags])
"""

LMDEPLOY = f"""#!/usr/bin/python3
import argparse, os, sys
parser = argparse.ArgumentParser("lmdeploy")
serve = parser.add_subparsers(required=True).add_parser("serve").add_subparsers(required=True).add_parser("api_server")
serve.add_argument("model")
serve.add_argument("--backend", choices=["pytorch", "turbomind"], required=True)
serve.add_argument("--empty-init", action="store_true")
serve.add_argument("--server-name", choices=["127.0.0.1"], required=True)
serve.add_argument("--server-port", type=int, required=True)
given = parser.parse_args()
os.execvp("python3", ["python3", "{SUPPORT}/standin_lmdeploy.py", "--devices", "HOST-2", "--program", "{RANK}", "--port",
    str(given.server_port), "--backend", given.backend, *(["--empty-init"] if given.empty_init else [])])
"""

# What the options of `docker run` come to in the kernel: a mount namespace with the host's directories at the same paths
# and nothing else of them, and everything else the host's. Images are the host's programs.
DOCKER = """#!/usr/bin/python3
import argparse, os, signal, subprocess, sys, time
def folder(name): return "/tmp/docker-" + name
verb, words = sys.argv[1], sys.argv[2:]
if verb == "exec":
    pid = open(folder(words[0])).read()
    os.execvp("nsenter", ["nsenter", "--mount", "--target", pid, "--", *words[1:]])
if verb == "rm":
    assert words[0] == "-f"
    pid = int(open(folder(words[1])).read())
    os.kill(pid, signal.SIGKILL)
    while os.path.exists(f"/proc/{pid}"): time.sleep(0.01)
    sys.exit()
parser = argparse.ArgumentParser("docker run")
parser.add_argument("-d", action="store_true", required=True)
parser.add_argument("--name", required=True)
parser.add_argument("--gpus", choices=["all"])
for kind in ("pid", "ipc", "network"): parser.add_argument("--" + kind, choices=["host"], required=True)
parser.add_argument("--ulimit", choices=["memlock=-1"])
parser.add_argument("-v", action="append", default=[])
parser.add_argument("-e", action="append", default=[])
parser.add_argument("image", choices=["CKPTD_IMAGE", "SGLANG_IMAGE"])
parser.add_argument("command", nargs=argparse.REMAINDER)
assert verb == "run"
given = parser.parse_args(words)
# Of these directories a container sees what it was given, and nothing else.
script = "set -e; mkdir -p /tmp/given; mount -t tmpfs none /tmp/given; "
for number, bind in enumerate(given.v):
    here = bind.split(":")[0]
    script += f"mkdir /tmp/given/{number}; mount --bind {here} /tmp/given/{number}; "
for hidden in ("/run", "/var/lib", "/etc/ckptd", "/models"):
    script += f"mkdir -p {hidden}; mount -t tmpfs none {hidden}; "
for number, bind in enumerate(given.v):
    there = bind.split(":")[1]
    script += f"mkdir -p {there}; mount --move /tmp/given/{number} {there}; "
    if bind.endswith(":ro"): script += f"mount -o remount,bind,ro {there}; "
script += 'exec "$@"'
log = open("/var/log/docker-" + given.name, "wb")
process = subprocess.Popen(["unshare", "--mount", "bash", "-c", script, "bash", *given.command], stdin=subprocess.DEVNULL,
                           stdout=log, stderr=log, start_new_session=True,
                           env={**os.environ, **dict(each.split("=", 1) for each in given.e)})
open(folder(given.name), "w").write(str(process.pid))
print(given.name)
"""


def install(tree):
    """Where the document's commands look for them, in the tree of a container."""
    def write(path, text, mode=0o755):
        path = tree + path
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, mode)

    write("/usr/lib/python3/dist-packages/sglang/__init__.py", "", 0o644)
    write("/usr/lib/python3/dist-packages/sglang/launch_server.py", SGLANG, 0o644)
    write("/usr/local/bin/vllm", VLLM)
    write("/usr/local/bin/lmdeploy", LMDEPLOY)
    write("/usr/local/bin/docker", DOCKER)
    os.makedirs(tree + "/venv/sglang/bin", exist_ok=True)
    os.symlink("/usr/bin/python3", tree + "/venv/sglang/bin/python")
