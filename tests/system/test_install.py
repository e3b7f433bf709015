"""cmake --install: any prefix, DESTDIR, and a configuration that is the operator's once it is there.

Environment: CKPTD_BUILD_DIR, CKPTD_CMAKE.
"""

import os
import re
import subprocess
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.environ.get("CKPTD_BUILD_DIR") or os.path.join(ROOT, "build", "dev")
CMAKE = os.environ.get("CKPTD_CMAKE") or "cmake"


class Install(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="ckptd-install-")
        self.addCleanup(folder.cleanup)
        self.root = folder.name

    def install(self, prefix):
        done = subprocess.run([CMAKE, "--install", BUILD, "--prefix", prefix], env={**os.environ, "DESTDIR": self.root},
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout)

    def read(self, path):
        with open(self.root + path, encoding="utf-8") as file:
            return file.read()

    def test_the_unit_names_the_programs_where_they_are(self):
        for prefix in ("/opt/ckptd", "/usr"):
            self.install(prefix)
            unit = self.read(prefix + "/lib/systemd/system/ckptd.service")
            self.assertNotRegex(unit, "@[A-Z]+@")
            programs = re.findall(r"^Exec\w+=(\S+)", unit, re.MULTILINE)
            self.assertEqual(programs, [prefix + "/sbin/ckptd", prefix + "/bin/ckptctl"])
            for program in programs:
                self.assertTrue(os.access(self.root + program, os.X_OK), program)
            self.assertIn("--config /etc/ckptd/ckptd.toml ", unit)

    def test_everything_that_is_not_below_the_prefix_is_the_configuration(self):
        self.install("/opt/ckptd")
        elsewhere = [os.path.join(folder, name)[len(self.root):] for folder, _, names in os.walk(self.root)
                     for name in names if not folder.startswith(self.root + "/opt/ckptd")]
        self.assertEqual(elsewhere, ["/etc/ckptd/ckptd.toml"])

    def test_a_configuration_that_is_there_stays(self):
        self.install("/usr")
        with open(self.root + "/etc/ckptd/ckptd.toml", "a", encoding="utf-8") as file:
            file.write("# mine\n")
        self.install("/usr")
        self.assertTrue(self.read("/etc/ckptd/ckptd.toml").endswith("# mine\n"))

    def test_the_example_lacks_a_budget_and_nothing_else(self):
        self.install("/usr")
        path = self.root + "/etc/ckptd/ckptd.toml"
        command = [self.root + "/usr/sbin/ckptd", "--config", path, "--check-config"]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(refused.returncode, 3)
        self.assertIn("no store budget is set", refused.stderr)
        example = self.read("/etc/ckptd/ckptd.toml")
        with open(path, "w", encoding="utf-8") as file:
            file.write(re.sub(r"^# (budget = .*)", r"\1", example, flags=re.MULTILINE))
        accepted = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual((accepted.returncode, accepted.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
