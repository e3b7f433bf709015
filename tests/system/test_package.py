"""The Debian package in a real systemd, from its installation to its purge: one story, told in the order of the tests.

Environment: CKPTD_BUILD_DIR (what to pack), CKPTD_CPACK, CKPTD_REFERENCE_RANK, CKPTD_TEST_PATIENCE (factor on every
deadline). Skipped, with the reason, where no container can be had: see container.py.
"""

import glob
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tests", "support")]
sys.dont_write_bytecode = True

import checkpoints  # noqa: E402
import container  # noqa: E402

BUILD = os.environ.get("CKPTD_BUILD_DIR") or os.path.join(ROOT, "build", "dev")
CPACK = os.environ.get("CKPTD_CPACK") or "cpack"
REFERENCE_RANK = os.environ.get("CKPTD_REFERENCE_RANK") or os.path.join(BUILD, "tests", "reference_rank")
CACHE = os.path.join(ROOT, "build", "system")
SKIP_RETURN_CODE = 77
CONFIG = "/etc/ckptd/ckptd.toml"

# Runs in the container, where the stand-in engine is.
ASK_ENGINE = """
import json, sys
sys.path.insert(0, "/ckptd-tests/tests/e2e")
import harness
method, path, body = sys.argv[1:]
status, answer = harness.http_request(harness.UnixConnection("/run/engine/engine.sock", 60), method, path,
                                      json.loads(body) or None)
if status != 200: sys.exit(f"{path}: {status} {answer}")
print(json.dumps(answer))
"""


def pack():
    folder = tempfile.mkdtemp(prefix="ckptd-deb-")
    done = subprocess.run([CPACK, "-G", "DEB", "--config", os.path.join(BUILD, "CPackConfig.cmake"), "-B", folder],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          timeout=300, cwd=ROOT)
    packages = glob.glob(os.path.join(folder, "*.deb"))
    if done.returncode != 0 or len(packages) != 1:
        raise AssertionError(f"cpack: exit {done.returncode}\n{done.stdout}")
    return folder, packages[0]


class Package(unittest.TestCase):
    box = None
    lock = "required"

    @classmethod
    def setUpClass(cls):
        cls.folder, package = pack()
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        binds = {"/ckptd-tests/tests": os.path.join(ROOT, "tests"), "/ckptd-rank": REFERENCE_RANK}
        cls.box = container.Container(CACHE, package, binds)
        cls.addClassCleanup(cls.box.close)
        models = os.path.join(cls.box.tree, "srv", "models")
        checkpoints.make_llama(os.path.join(models, "1"), 8 << 20)
        checkpoints.make_second(os.path.join(models, "1"), os.path.join(models, "2"))

    def setUp(self):
        self.began = time.monotonic()

    def tearDown(self):
        print(f"  {self.id().split('.')[-1]}: {time.monotonic() - self.began:.1f} s", flush=True)

    # -- words for what the tests do

    def must(self, script, seconds=60):
        return self.box.must(script, seconds)

    def refused(self, script, seconds=60):
        done = self.box.run(script, seconds)
        self.assertNotEqual(done.code, 0, str(done))
        return done.output

    def show(self, name):
        return self.must(f"systemctl show --value -p {name} ckptd").strip()

    def status(self):
        return json.loads(self.must("ckptctl --json status"))

    def engine(self, method, path, **body):
        return json.loads(self.must(f"python3 -c '{ASK_ENGINE}' {method} {path} '{json.dumps(body)}'"))

    def engine_record(self):
        return json.loads(self.must("ckptctl --json engine show e0"))

    def until(self, what, holds, seconds=30):
        deadline = time.monotonic() + seconds * container.PATIENCE
        while not holds():
            if time.monotonic() > deadline:
                self.fail(f"waited in vain for: {what}\n{self.box.run('journalctl --no-pager -u ckptd | tail -40').output}")
            time.sleep(0.1)

    def is_serving(self):
        return self.box.run("ckptctl --json status", 10).code == 0

    def write_config(self, extra="", budget="256MiB", top=""):
        """The example as it came, with what an operator adds."""
        example = self.must("cat /ckptd.toml.example")
        text = example.replace('# budget = "64GiB"', f'budget = "{budget}"\nlock = "{self.lock}"')
        text = text.replace('kind = "cuda"', 'kind = "host"')  # of a build with CUDA: the container has no GPU
        text = text.replace('# log_level = "info"', top or '# log_level = "info"')
        self.assertIn("budget = \"256MiB\"" if budget == "256MiB" else budget, text)
        with open(self.box.tree + CONFIG, "w", encoding="utf-8") as file:
            file.write(text + '\n[timeouts]\nshutdown = "2s"\n' + extra)  # each stop waits that long for dead ranks

    def compare(self, version):
        verdict = self.engine("POST", "/standin/compare", checkpoint=f"/srv/models/{version}")["HOST-0"]
        self.assertTrue(verdict.get("equal"), verdict)

    def update(self, version):
        self.must(f"ckptctl load gt@{version} /srv/models/{version}")
        self.must(f"ckptctl update gt@{version}")
        self.assertEqual(self.engine_record()["serving"], f"gt@{version}")
        self.compare(version)

    def rank_is_busy(self):
        return any(rank["busy_with"] for rank in self.engine("GET", "/standin/state")["ranks"])

    def begin_hanging_update(self, version, seconds):
        """Until a rank has been sent a bucket and does not answer."""
        self.engine("POST", "/standin/fault", device="HOST-0", kind="stall", bucket=0, seconds=seconds)
        self.must(f"ckptctl load gt@{version} /srv/models/{version} && ckptctl update gt@{version} --detach")
        self.until("the update to reach the rank", lambda: self.rank_is_busy() and "reload" in self.must(
            "ckptctl --json job list | head -c 4000"))

    def start_engine(self):
        # The memory of a host device opens within one user and group; see docs/decisions/0016-users.md.
        self.must("systemctl reset-failed engine 2>/dev/null; systemd-run --quiet --unit=engine --service-type=exec "
                  "-p User=ckptd -p Group=ckptd -p RuntimeDirectory=engine /usr/bin/python3 "
                  "/ckptd-tests/tests/support/standin_sglang.py --devices HOST-0 --kind reference --program /ckptd-rank "
                  "--unix /run/engine/engine.sock")
        self.until("the engine", lambda: self.box.run("test -S /run/engine/engine.sock").code == 0)

    # -- the story

    def test_01_installation_says_what_is_missing(self):
        self.must("! id ckptd")
        said = self.must("apt-get -q -y --no-install-recommends "
                         "install /ckptd.deb", 180)
        self.assertIn("installed, but not started yet: no store budget is set", said)
        self.assertIn("systemctl enable --now ckptd", said)
        self.must(f"cp {CONFIG} /ckptd.toml.example")
        self.assertEqual(self.box.run("systemctl is-active ckptd").output.strip(), "inactive")
        self.assertEqual(self.box.run("systemctl is-enabled ckptd").output.strip(), "disabled")
        self.assertEqual(self.must("systemctl --failed --no-legend").strip(), "")
        self.assertIn("ckptd-ranks", self.must("id -nG ckptd").split())
        self.assertEqual(self.must("stat -c '%U:%G %a' /run/ckptd").strip(), "ckptd:ckptd 755")
        self.must("for page in man1/ckptctl.1 man5/ckptd.toml.5 man8/ckptd.8; do test -s /usr/share/man/$page.gz; done")
        self.must("systemd-analyze verify --man=no ckptd.service")

    def test_02_a_start_without_a_budget_fails_once_and_says_why(self):
        self.refused("systemctl start ckptd")
        self.assertEqual(self.show("ExecMainStatus"), "3")
        self.assertEqual(self.show("NRestarts"), "0")
        self.assertIn("no store budget is set", self.must("systemctl status ckptd --no-pager || true"))
        self.must("systemctl reset-failed ckptd")

    def test_03_start(self):
        if not self.box.may_raise_limits():
            type(self).lock = "try"
            print("  (limits of memory cannot be raised here, so: store.lock = try)")
        self.write_config()
        self.must("systemctl enable --now ckptd")
        self.assertEqual(self.show("ActiveState"), "active")
        self.assertEqual(self.show("User"), "ckptd")
        self.assertEqual(self.must("stat -c %U /proc/$(systemctl show --value -p MainPID ckptd)").strip(), "ckptd")
        self.assertEqual(self.show("LimitMEMLOCK"), "infinity")
        self.assertEqual(self.show("OOMScoreAdjust"), "-900")
        self.until("the status line", lambda: self.show("StatusText") == "serving 0 versions to 0 engines")
        if self.lock == "required":
            limits = self.must("cat /proc/$(systemctl show --value -p MainPID ckptd)/limits")
            self.assertRegex(limits, r"Max locked memory +unlimited +unlimited")
            self.assertEqual(self.must("cat /proc/$(systemctl show --value -p MainPID ckptd)/oom_score_adj").strip(),
                             "-900")

    def test_04_who_may_talk_to_it(self):
        self.must("useradd -G ckptd alice && useradd -G ckptd-ranks inference && useradd stranger")
        self.must("setpriv --reuid alice --regid alice --init-groups ckptctl status")
        for user in ("stranger", "inference"):
            done = self.box.run(f"setpriv --reuid {user} --regid {user} --init-groups ckptctl status")
            self.assertEqual(done.code, 4, str(done))  # denied
        self.must("setpriv --reuid inference --regid inference --init-groups ls /run/ckptd/r")
        for user in ("stranger", "alice"):
            self.refused(f"setpriv --reuid {user} --regid {user} --init-groups ls /run/ckptd/r")
        self.assertEqual(self.must("stat -c '%U:%G %a' /run/ckptd/control.sock /run/ckptd/r /var/lib/ckptd").split("\n")[:3],
                         ["ckptd:ckptd 660", "ckptd:ckptd-ranks 750", "ckptd:ckptd 750"])

    def test_05_completion(self):
        def complete(program, line):
            return self.must(f"source /usr/share/bash-completion/completions/{program}; COMP_LINE='{line}'; "
                             f"COMP_POINT={len(line)}; COMP_WORDS=({line} ''); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 2)); "
                             f"_{program} {program}; echo ${{COMPREPLY[@]}}").split()

        self.assertEqual(complete("ckptctl", "ckptctl upd"), ["update"])
        self.assertIn("--store-budget", complete("ckptd", "ckptd --st"))

    def test_06_load_and_push(self):
        self.start_engine()
        self.must("ckptctl engine add e0 --kind sglang --endpoint unix:/run/engine/engine.sock --checkpoint gt")
        self.update(1)
        self.until("the status line", lambda: self.show("StatusText") == "serving 1 version to 1 engine")
        self.must("test \"$(ckptctl __complete update gt)\" = gt@1 && test \"$(ckptctl __complete engine show '')\" = e0")

    def test_07_reload(self):
        pid = self.show("MainPID")
        self.write_config(budget="512MiB", top='log_level = "debug"', extra=(
            '\n[[preload]]\ncheckpoint = "gt@2"\nsource = "/srv/models/2"\n'))
        self.must("systemctl reload ckptd")
        told = self.status()["last_reload"]
        self.assertEqual((told["applied"], told["needs_restart"], told["failed"]),
                         (["log_level", "preload"], ["store.budget"], ""))
        self.until("the new preload", lambda: self.status()["ready"] and self.status()["versions_resident"] == 2)
        self.assertEqual(self.status()["budget_bytes"], 256 << 20)

        self.write_config(top='log_level = "loud"')
        self.refused("systemctl reload ckptd")
        self.assertIn("ckptd.toml:", self.status()["last_reload"]["failed"])
        self.assertIn("'loud' is not one of", self.must("ckptctl status"))
        self.until("the status line", lambda: "last reload REFUSED" in self.show("StatusText"))
        self.assertIn("'loud' is not one of", self.must("journalctl --no-pager -u ckptd"))
        self.assertEqual(self.show("ActiveState"), "active")

        self.write_config()
        before = self.status()["last_reload"]["at"]
        time.sleep(1.1)
        self.must("systemctl kill --signal=HUP --kill-whom=main ckptd")
        self.until("the reload by SIGHUP", lambda: self.status()["last_reload"]["at"] != before)
        self.assertEqual(self.status()["last_reload"]["failed"], "")
        self.until("the status line", lambda: self.show("StatusText") == "serving 2 versions to 1 engine")
        self.assertEqual((self.show("ActiveState"), self.show("MainPID")), ("active", pid))

    def test_08_a_restart_keeps_the_directory_that_containers_mount(self):
        inode = self.must("stat -c %i /run/ckptd")
        self.must("systemctl restart ckptd")
        self.assertEqual(self.must("stat -c %i /run/ckptd"), inode)
        self.assertEqual(self.engine_record()["serving"], "gt@1")
        self.update(2)

    def test_09_a_killed_daemon_comes_back_and_frees_its_ranks(self):
        # The rank comes back to its socket after the daemon has died, and would wait there for ever.
        self.begin_hanging_update(1, seconds=6)
        self.must("kill -9 $(systemctl show --value -p MainPID ckptd)")
        self.until("the successor", lambda: self.show("NRestarts") == "1" and self.is_serving())
        self.assertEqual(self.engine_record()["state"], "poisoned")
        self.until("the status line", lambda: "1 engine POISONED" in self.show("StatusText"))
        self.until("the rank to be told and free", lambda: not self.rank_is_busy(), 60)
        self.update(2)
        self.until("the engine to serve", lambda: self.engine_record()["state"] == "serving")

    def test_10_a_stop_while_a_rank_hangs_ends_in_time(self):
        self.begin_hanging_update(1, seconds=300)
        began = time.monotonic()
        self.must("systemctl stop ckptd", 120)
        took = time.monotonic() - began
        self.assertEqual(self.show("Result"), "success")
        self.assertIn("ended", self.must("journalctl --no-pager -u ckptd -n 5"))
        print(f"  (the stop took {took:.1f} s; TimeoutStopUSec is {self.show('TimeoutStopUSec')})")
        self.must("test -d /run/ckptd && test ! -e /run/ckptd/control.sock")
        self.must("systemctl stop engine")
        self.start_engine()
        self.must("systemctl start ckptd")
        self.update(1)

    def test_11_a_daemon_that_hangs_is_replaced(self):
        self.must("mkdir -p /run/systemd/system/ckptd.service.d && printf '[Service]\\nWatchdogSec=3s\\n' "
                  ">/run/systemd/system/ckptd.service.d/watchdog.conf && systemctl daemon-reload && "
                  "systemctl restart ckptd")
        restarts = int(self.show("NRestarts"))
        pid = self.show("MainPID")
        time.sleep(5 * container.PATIENCE if container.PATIENCE < 2 else 8)
        self.assertEqual(self.show("MainPID"), pid, "a daemon that is well was taken for one that hangs")
        self.must(f"kill -STOP {pid}")
        self.until("systemd to replace it", lambda: int(self.show("NRestarts")) == restarts + 1 and self.is_serving(), 60)
        self.assertNotEqual(self.show("MainPID"), pid)
        self.assertIn("Watchdog timeout", self.must("journalctl --no-pager -u ckptd"))
        self.must("rm -r /run/systemd/system/ckptd.service.d && systemctl daemon-reload && "
                  "systemctl restart ckptd")

    def test_12_an_upgrade_does_not_restart_it(self):
        pid = self.show("MainPID")
        config = self.must(f"cat {CONFIG}")
        said = self.must("dpkg -i --force-confold /ckptd.deb", 120)
        self.assertIn("goes on with what is resident", said)
        self.assertEqual(self.show("MainPID"), pid)
        self.assertEqual(self.must(f"cat {CONFIG}"), config)
        self.assertEqual(self.must("systemctl is-enabled ckptd").strip(), "enabled")
        self.must("ckptctl status")

    def test_13_removal_ends_it_and_keeps_what_is_the_operators(self):
        self.must("apt-get -q -y remove ckptd", 120)
        self.assertEqual(self.box.run("systemctl is-active ckptd").output.strip(), "inactive")
        self.must(f"test -s {CONFIG} && test -s /var/lib/ckptd/state.json && test ! -e /usr/sbin/ckptd")
        said = self.must("dpkg -i /ckptd.deb", 120)
        self.assertNotIn("not started yet", said)
        self.must("systemctl start ckptd")
        self.assertEqual(self.engine_record()["name"], "e0")
        self.assertEqual(self.must("systemctl is-enabled ckptd").strip(), "enabled")

    def test_14_purge_leaves_nothing_but_the_users(self):
        self.must("systemctl stop engine || true; apt-get -q -y purge ckptd", 120)
        left = self.must("find / -xdev \\( -path /proc -o -path /var/log -o -path /var/cache -o -path /ckptd-tests \\) "
                         "-prune -o -iname '*ckptd*' -print; find /run -iname '*ckptd*' -print").split()
        self.assertEqual(sorted(set(left) - {"/ckptd.deb", "/ckptd.toml.example", "/ckptd-tests", "/ckptd-rank"}), [])
        self.must("id ckptd")
        self.assertEqual(self.must("systemctl --failed --no-legend").strip(), "")


if __name__ == "__main__":
    try:
        container.check_host()
        program = unittest.main(exit=False, failfast=True, verbosity=0)
    except container.Unavailable as reason:
        print(f"skipped: no real systemd to test the package in: {reason}")
        sys.exit(SKIP_RETURN_CODE)
    if any("Unavailable" in text for _, text in program.result.errors):
        print("skipped: no real systemd to test the package in: " + re.search(
            r"container\.Unavailable: (.*)", program.result.errors[0][1]).group(1))
        sys.exit(SKIP_RETURN_CODE)
    sys.exit(0 if program.result.wasSuccessful() else 1)
