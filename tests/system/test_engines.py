"""docs/engines.md, "Start side by side", typed command by command in a real systemd: by hand, under systemd, in two containers.

The servers are stand-ins behind the real command lines, and docker is a program that does in the kernel what its options
come to (servers.py). So this shows that the commands fit together, that the order does not matter, and that an engine that
comes back is brought to its target; not that a real server takes what is pushed.
"""

import json
import os
import re
import shlex
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import machine  # noqa: E402
import servers  # noqa: E402
from machine import CONFIG, checkpoints  # noqa: E402

DOCUMENT = os.path.join(machine.ROOT, "docs", "engines.md")
CHECKPOINT = "Qwen/Qwen3-8B@base"
DEVICES = {"sglang-0": "HOST-0", "vllm-0": "HOST-1", "lmdeploy-0": "HOST-2"}


def chapter():
    with open(DOCUMENT, encoding="utf-8") as file:
        return re.search(r"## Start side by side\n(.*?)\n## ", file.read(), re.S).group(1)


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", chapter(), re.S)


def commands_of_the_document():
    joined = "\n".join(blocks("sh")).replace("\\\n", " ")
    lines = (re.sub(r"(^|\s+)#.*$", "", line).strip() for line in joined.splitlines())
    return [re.sub(r"\s+", " ", line) for line in lines if line]


class Engines(machine.Machine):
    typed = []
    server_number = 0

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        servers.install(cls.box.tree)
        checkpoints.make_llama(os.path.join(cls.box.tree, "models", "Qwen3-8B"), 8 << 20)

    def line(self, start, number=0):
        """The document's command that begins so, once it is joined."""
        found = [line for line in commands_of_the_document() if line.startswith(start)]
        self.assertGreater(len(found), number, f"docs/engines.md has no command that begins with: {start}")
        self.typed.append(found[number])
        return found[number]

    def type(self, start, seconds=60):
        return self.must(self.line(start), seconds)

    def configure(self, extra=""):
        self.write_config(extra)
        self.must(f"sed -i 's/^# .device.$/[device]/; s/^# host_devices = 1/host_devices = {len(DEVICES)}/' {CONFIG}")

    def start_server(self, line):
        """In a terminal of the user whom the memory of host devices opens for: docs/decisions/0016-users.md."""
        type(self).server_number += 1
        unit = f"server-{self.server_number}"
        self.must(f"systemd-run --quiet --unit={unit} -p User=ckptd -p Group=ckptd bash -c {shlex.quote(line)}")
        return unit

    def serves(self, engine):
        record = self.record(engine)
        return record["state"] == "serving" and record["serving"] == CHECKPOINT and record["ready"]

    def record(self, engine):
        return json.loads(self.must(f"ckptctl --json engine show {engine}"))

    def add(self, engine, number=0):
        """Host devices have no uuid that a server would find by itself: whose is whose is said here."""
        line = self.line(f"ckptctl engine add {engine}", number)
        self.must(line.replace("--devices GPU-...", "") + f" --devices {DEVICES[engine]}")

    def by_hand(self, engine, start, number=0, added=0):
        unit = self.start_server(self.line(start, number))
        self.add(engine, added)
        self.until(f"{engine} to serve", lambda: self.serves(engine))
        return unit

    # -- the story

    def test_01_a_daemon_that_has_the_model(self):
        self.must("apt-get -q -y -o APT::Sandbox::User=root --no-install-recommends install /ckptd.deb && "
                  f"cp {CONFIG} /ckptd.toml.example", 180)
        if not self.box.may_raise_limits():
            type(self).lock = "try"
        self.configure()
        self.must("systemctl start ckptd", 120)
        self.assertEqual(len(self.status()["devices"]), 3)
        self.type("ckptctl load")

    def test_02_sglang_by_hand(self):
        unit = self.by_hand("sglang-0", "SGLANG_WAIT_WEIGHTS_READY_TIMEOUT=3600 python3")
        self.type("ckptctl wait engine/sglang-0")
        # It comes back with dummy weights, and is given its own without a word from anybody.
        self.must(f"systemctl kill --signal=KILL {unit}")
        self.until("sglang-0 to be missed", lambda: self.record("sglang-0")["state"] == "gone")
        unit = self.start_server(commands_of_the_document()[1])
        self.until("sglang-0 to serve again", lambda: self.serves("sglang-0"))
        self.must(f"systemctl stop {unit}; ckptctl engine remove sglang-0")

    def test_03_vllm_by_hand(self):
        native, others, registered = "VLLM_SERVER_DEV_MODE=1 VLLM_ALLOW", "VLLM_SERVER_DEV_MODE=1 vllm", 1
        for start, number in ((native, 0), (others, 1)):
            unit = self.by_hand("vllm-0", start, number, registered)
            self.must(f"systemctl stop {unit}; ckptctl engine remove vllm-0")
        # By NCCL a GPU sends. Without one the operator is told so, and the server is not touched.
        unit = self.start_server(self.line(others, 0))
        self.add("vllm-0", 0)
        self.until("an attempt", lambda: "NCCL" in self.record("vllm-0").get("last_error", ""))
        record = self.record("vllm-0")
        self.assertEqual((record["serving"], record["poisoned"]), ("", ""), record)
        self.must(f"systemctl stop {unit}; ckptctl engine remove vllm-0")

    def test_04_lmdeploy_by_hand(self):
        unit = self.by_hand("lmdeploy-0", "lmdeploy serve")
        self.must(f"systemctl stop {unit}; ckptctl engine remove lmdeploy-0")

    def test_05_under_systemd(self):
        (unit,), (toml,) = blocks("ini"), blocks("toml")
        self.configure("\n" + toml + 'devices = ["HOST-0"]\n')
        path = self.box.tree + "/etc/systemd/system/sglang-0.service"
        with open(path, "w", encoding="utf-8") as file:
            file.write(unit)
        # See start_server().
        self.must("mkdir -p /etc/systemd/system/sglang-0.service.d && useradd --system inference && printf "
                  "'[Service]\\nUser=ckptd\\nGroup=ckptd\\n' >/etc/systemd/system/sglang-0.service.d/host.conf")
        self.must("systemctl daemon-reload && systemctl stop ckptd && rm /var/lib/ckptd/state.json")
        self.must("systemctl start sglang-0", 120)  # the daemon comes with it, and its weights from the preload
        self.assertEqual(self.show("ActiveState"), "active")
        self.assertTrue(self.serves("sglang-0"), self.record("sglang-0"))
        self.must("systemctl restart sglang-0", 120)
        self.assertTrue(self.serves("sglang-0"), self.record("sglang-0"))
        self.must("systemctl stop sglang-0 ckptd")

    def test_06_in_two_containers(self):
        self.must("rm -rf /var/lib/ckptd /run/ckptd")
        self.type("mkdir -p /run/ckptd")
        self.type("docker run -d --name ckptd")
        self.until("the daemon", self.is_serving)
        self.type("docker run -d --name sglang-0")
        waited = self.box.run(self.line("docker exec ckptd ckptctl wait engine/sglang-0"), 40)
        self.assertEqual(waited.code, 0, self.box.run("tail -n 30 /var/log/docker-*").output)
        self.assertTrue(self.serves("sglang-0"), self.record("sglang-0"))
        # The daemon alone ends and comes back: the server goes on, and nothing is pushed again.
        self.must("docker rm -f ckptd")
        self.must(next(line for line in commands_of_the_document() if line.startswith("docker run -d --name ckptd")))
        self.until("the daemon to be back", self.is_serving)
        self.until("the engine to be known again", lambda: self.serves("sglang-0"))
        self.assertEqual(self.record("sglang-0")["own_updates"], 0)
        self.must("docker rm -f sglang-0; docker rm -f ckptd")

    def test_07_nothing_was_left_out(self):
        self.assertEqual([line for line in commands_of_the_document() if line not in self.typed], [])


if __name__ == "__main__":
    machine.main()
