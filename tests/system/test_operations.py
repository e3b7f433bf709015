"""docs/operations.md, typed command by command in a real systemd.

Every command of its sh blocks is typed here as it stands there, and the last test fails for one that was not. What cannot
run as it stands has its own words in `typed_as`: each says why.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import container  # noqa: E402
import machine  # noqa: E402
from machine import CONFIG  # noqa: E402

DOCUMENT = os.path.join(machine.ROOT, "docs", "operations.md")

# What opens when the document says editor or systemctl edit: a person's typing, as a program.
EDITOR = """#!/bin/sh
case $1 in
  {config}) cp /ckptd.toml.edited "$1" ;;
  *override.conf*) printf '[Service]\\nSupplementaryGroups=models\\n' >"$1" ;;
  *) echo "nobody expected $1" >&2; exit 1 ;;
esac
"""

# No registry gives an image here, and no daemon of docker runs. What the two options come to, in the kernel's words: a
# process of a foreign user, with that one group, that sees the host's directory at the same path.
DOCKER = """#!/bin/bash
set -e
[ "$1 $2 $3" = "run -v /run/ckptd:/run/ckptd" ] && [ "$4" = --group-add ] && [ "$6" = ... ]
unshare --mount bash -c 'mount --bind /run/ckptd /mnt && mount -t tmpfs none /run && mkdir /run/ckptd &&
  mount --move /mnt /run/ckptd && exec setpriv --reuid 4711 --regid 4711 --groups '"$5"' ls -d /run/ckptd/r/.'
"""


def commands_of_the_document():
    with open(DOCUMENT, encoding="utf-8") as file:
        blocks = re.findall(r"```sh\n(.*?)```", file.read(), re.S)
    lines = (re.sub(r"(^|\s+)#.*$", "", line).strip() for block in blocks for line in block.splitlines())
    return [line for line in lines if line]


class Operations(machine.Machine):
    typed = []

    def note(self, command):
        self.assertIn(command, commands_of_the_document(), "docs/operations.md has no such line any more")
        self.typed.append(command)

    def type(self, command, seconds=60):
        self.note(command)
        return self.must(command, seconds)

    def typed_as(self, command, instead, seconds=60):
        self.note(command)
        return self.must(instead, seconds)

    def begin(self, command, word, meanwhile=":", seconds=60):
        """One that goes on until Ctrl-C: that comes once it has said the word. Returns its output."""
        self.note(command)
        return self.must(f"rm -f /said; timeout --signal=INT 1h {command} >/said 2>&1 & begun=$!; {meanwhile}; "
                         f"until grep -qs '{word}' /said; do sleep 0.1; done; kill -INT $begun; wait $begun; cat /said", seconds)

    # -- the story

    def test_01_install(self):
        packed = [name for name in os.listdir(self.folder) if name.endswith(".deb")]
        self.note("./scripts/package")  # the package itself is made by the same CPack, from another build
        line = "apt install ./build/package/ckptd_0.1.0_amd64.deb"
        self.assertEqual(packed, [os.path.basename(line)])
        self.must("mkdir -p /build/package && cp /ckptd.deb /build/package/ckptd_0.1.0_amd64.deb && "
                  "printf 'APT::Get::Assume-Yes \"true\";\\nAPT::Install-Recommends \"false\";\\n"
                  "APT::Sandbox::User \"root\";\\n' >/etc/apt/apt.conf.d/99test")
        self.type(line, 180)
        self.type("systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload")
        self.must(f"cp {CONFIG} /ckptd.toml.example")

    def test_02_who_gets_in(self):
        self.must("useradd alice && useradd inference && groupadd models && chmod 750 /srv/models && "
                  "chgrp -R models /srv/models && ln -s /srv/models /models")
        self.type("usermod -aG ckptd alice")
        self.type("usermod -aG ckptd-ranks inference")
        # A link is not followed by setfacl -R where it is named itself without a slash, so the directory is there in truth.
        self.must("rm /models && mv /srv/models /models && ln -s /models /srv/models && chmod -R o-rwx /models")
        read = "setpriv --reuid ckptd --regid ckptd --init-groups cat /models/1/config.json /models/1/*.safetensors"
        self.refused(read + " >/dev/null")
        self.type("setfacl -R -m u:ckptd:rX /models")
        self.must(read + " >/dev/null")

    def test_03_configure(self):
        if not self.box.may_raise_limits():
            type(self).lock = "try"
        self.write_config(extra='\n[metrics]\nlisten = "127.0.0.1:9464"\n')
        self.must(f"mv {CONFIG} /ckptd.toml.edited && cp /ckptd.toml.example {CONFIG}")
        self.box.must(f"cat >/usr/local/bin/editor <<'END'\n{EDITOR.format(config=CONFIG)}\nEND\n"
                      "chmod +x /usr/local/bin/editor")
        check = f"ckptd --config {CONFIG} --check-config"
        self.assertIn("budget", self.refused(check))
        self.type(f"editor {CONFIG}")
        self.assertIn('listen = "127.0.0.1:9464"', self.type(check))
        self.must("setfacl -R -x u:ckptd /models")  # the other way: a group that may read them
        self.typed_as("systemctl edit ckptd", "SYSTEMD_EDITOR=/usr/local/bin/editor script -qec 'systemctl edit ckptd' "
                      "/dev/null")  # it wants a terminal

    def test_04_start(self):
        self.type("systemctl enable --now ckptd")
        self.until("the status line", lambda: self.show("StatusText") == "serving 0 versions to 0 engines")
        self.assertIn('Status: "serving 0 versions to 0 engines"', self.type("systemctl status ckptd"))
        self.assertIn("256 MiB budget", self.type("ckptctl status"))
        self.begin("journalctl -u ckptd -f", "ckptd")
        models = self.must("getent group models | cut -d: -f3").strip()
        self.assertIn(models, self.must("grep ^Groups: /proc/$(systemctl show --value -p MainPID ckptd)/status").split())
        self.assertEqual(self.must("curl --silent -o /dev/null -w '%{http_code}' --unix-socket /run/ckptd/control.sock "
                                   "http://localhost/readyz"), "200")
        self.type("curl --unix-socket /run/ckptd/control.sock http://localhost/readyz")
        self.must("setpriv --reuid alice --regid alice --init-groups ckptctl status")
        self.must("setpriv --reuid inference --regid inference --init-groups ls /run/ckptd/r")

    def test_05_a_container_finds_the_sockets(self):
        self.must(f"cat >/usr/local/bin/docker <<'END'\n{DOCKER}\nEND\nchmod +x /usr/local/bin/docker")
        line = 'docker run -v /run/ckptd:/run/ckptd --group-add "$(getent group ckptd-ranks | cut -d: -f3)" ...'
        self.assertIn("/run/ckptd/r", self.type(line))
        self.refused(line.replace("ckptd-ranks", "models"))

    def test_06_watch(self):
        self.start_engine()
        self.must("ckptctl engine add e0 --kind sglang --endpoint unix:/run/engine/engine.sock --checkpoint gt")
        self.begin("ckptctl watch", "gt@1",
                   "until curl --silent http://127.0.0.1:9464/metrics | grep -q '^ckptd_event_clients 1'; do sleep 0.1; done; "
                   "ckptctl load gt@1 /models/1 >/dev/null && ckptctl update gt@1 >/dev/null")
        jobs = json.loads(self.must("ckptctl --json job list"))
        update = next(job["id"] for job in jobs["jobs"] if job["kind"] == "update")
        self.assertIn("gt@1", self.typed_as("ckptctl engine show sglang-0", "ckptctl engine show e0"))
        self.assertIn("gt@1", self.type("ckptctl job list"))
        self.assertIn("upload", self.typed_as("ckptctl job show update-18", f"ckptctl job show {update}"))
        self.typed_as("ckptctl job trace update-18 --html update-18.html",
                      f"cd /tmp && ckptctl job trace {update} --html {update}.html && grep -q '<html' {update}.html")
        self.assertIn("copies to HOST-0", self.type("ckptctl probe", 120))
        self.assertIn("ckptd_", self.type("curl http://127.0.0.1:9464/metrics"))

    def test_07_reload(self):
        self.type("systemctl reload ckptd")
        self.must("ckptctl reload")

    def test_08_upgrade(self):
        self.repack_as_newer()
        preload = '\n[[preload]]\ncheckpoint = "gt@1"\nsource = "/models/1"\n'
        self.write_config(extra=preload)
        pid = self.show("MainPID")
        self.type("apt install ./ckptd_NEW_amd64.deb", 180)
        self.assertEqual(self.show("MainPID"), pid)
        self.type("ckptctl status")
        self.must(f"ckptd --config {CONFIG} --check-config")
        self.type("systemctl restart ckptd")
        ready = "curl --fail --unix-socket /run/ckptd/control.sock http://localhost/readyz"
        self.note(ready)
        self.until("the preload", lambda: self.box.run(ready).code == 0)
        self.assertEqual(self.engine_record()["serving"], "gt@1")
        self.assertIn("+newer", self.must("dpkg-query -W -f '${Version}' ckptd"))

    def repack_as_newer(self):
        with tempfile.TemporaryDirectory() as folder:
            tree = os.path.join(folder, "tree")
            subprocess.run(["dpkg-deb", "-R", os.path.join(self.box.tree, "ckptd.deb"), tree], check=True)
            control = os.path.join(tree, "DEBIAN", "control")
            with open(control, encoding="utf-8") as file:
                text = re.sub(r"(?m)^Version: .*$", r"\g<0>+newer", file.read())
            with open(control, "w", encoding="utf-8") as file:
                file.write(text)
            newer = os.path.join(folder, "ckptd_NEW_amd64.deb")
            subprocess.run(["dpkg-deb", "--root-owner-group", "-b", tree, newer], check=True, stdout=subprocess.DEVNULL)
            shutil.copy(newer, self.box.tree)

    def test_09_stop_and_remove(self):
        self.type("systemctl stop ckptd")
        self.stop_engine()
        self.type("apt remove ckptd", 120)
        self.must(f"test -s {CONFIG} && test -s /var/lib/ckptd/state.json")
        self.type("apt purge ckptd", 120)
        self.must(f"test ! -e {CONFIG} && test ! -e /var/lib/ckptd && test ! -e /run/ckptd")
        self.type("userdel ckptd; groupdel ckptd-ranks")
        self.type("getent group ckptd && groupdel ckptd")
        self.must("! getent passwd ckptd && ! getent group ckptd && ! getent group ckptd-ranks")

    def test_10_nothing_was_left_out(self):
        self.assertEqual([line for line in commands_of_the_document() if line not in self.typed], [])


if __name__ == "__main__":
    machine.main()
