"""A machine of an operator: a container with a real systemd, our package as a file, two checkpoints and a stand-in engine.

Environment: CKPTD_BUILD_DIR (what to pack), CKPTD_CPACK, CKPTD_REFERENCE_RANK, CKPTD_TEST_PATIENCE (factor on every
deadline). main() skips, with the reason, where no container can be had: see container.py.
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


class Machine(unittest.TestCase):
    box = None
    lock = "required"
    engine_number = 0

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

    def begin_hanging_update(self, version):
        """Until a rank has been sent a bucket and does not answer, which it does once /run/engine/go is there."""
        self.engine("POST", "/standin/fault", device="HOST-0", kind="stall", bucket=0, seconds=3600, gate="/run/engine/go")
        self.must(f"ckptctl load gt@{version} /srv/models/{version} && ckptctl update gt@{version} --detach")
        self.until("the update to reach the rank", lambda: self.rank_is_busy() and "reload" in self.must(
            "ckptctl --json job list | head -c 4000"))

    def start_engine(self):
        """As engine-N: systemd may remember a unit that has ended for a while, and gives its name to nobody then."""
        # The memory of a host device opens within one user and group; see docs/decisions/0016-users.md.
        type(self).engine_number += 1
        self.must(f"systemd-run --quiet --unit=engine-{self.engine_number} --service-type=exec -p User=ckptd "
                  "-p Group=ckptd -p RuntimeDirectory=engine /usr/bin/python3 "
                  "/ckptd-tests/tests/support/standin_sglang.py --devices HOST-0 --kind reference --program /ckptd-rank "
                  "--unix /run/engine/engine.sock")
        self.until("the engine", lambda: self.box.run("test -S /run/engine/engine.sock").code == 0)

    def stop_engine(self):
        self.must(f"systemctl stop engine-{self.engine_number}")


def main():
    try:
        container.check_host()
        program = unittest.main(exit=False, failfast=True, verbosity=0)
    except container.Unavailable as reason:
        print(f"skipped: no real systemd to test in: {reason}")
        sys.exit(SKIP_RETURN_CODE)
    if any("Unavailable" in text for _, text in program.result.errors):
        print("skipped: no real systemd to test in: " + re.search(
            r"container\.Unavailable: (.*)", program.result.errors[0][1]).group(1))
        sys.exit(SKIP_RETURN_CODE)
    sys.exit(0 if program.result.wasSuccessful() else 1)
