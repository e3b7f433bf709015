"""The bundle of scripts/gpu-bundle, with wheels and a contract suite that stand in for the real ones: nothing is fetched.

Environment: CKPTD_BUILD_DIR (what to pack), CKPTD_CMAKE.
"""

import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [os.path.join(ROOT, "scripts", "lib")]
sys.dont_write_bytecode = True

import gpu_bundle  # noqa: E402
import release_tarball  # noqa: E402
import shared_objects  # noqa: E402
from checks import place  # noqa: E402

BUILD = os.environ.get("CKPTD_BUILD_DIR") or os.path.join(ROOT, "build", "dev")
CMAKE = os.environ.get("CKPTD_CMAKE") or "cmake"
SKIP_RETURN_CODE = 77


class Bundle(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="ckptd-bundle-", dir="/tmp")
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.tarball = release_tarball.make(BUILD, cls.folder, CMAKE)
        cls.wheels = os.path.join(cls.folder, "wheels")
        for folder in ("always", "if-missing", "checkpoint_engine-" + place.NEWEST, "checkpoint_engine-" + place.OLDEST):
            os.makedirs(os.path.join(cls.wheels, folder))
            with zipfile.ZipFile(os.path.join(cls.wheels, folder, "stand_in-1-py3-none-any.whl"), "w") as wheel:
                wheel.writestr("stand_in.py", f"where = {folder!r}\n")
        cls.suites = cls.build_with_a_suite()
        cls.bundle = os.path.join(cls.folder, "gpu-bundle.tar")
        gpu_bundle.make(place.tests_of_label_gpu(cls.suites), cls.tarball, cls.wheels, cls.bundle)
        shared_objects.run("tar", "-xf", cls.bundle, "-C", cls.folder)
        cls.top = os.path.join(cls.folder, "gpu-bundle")

    @classmethod
    def build_with_a_suite(cls):
        """A build folder as CTest sees one. The suite is ckptctl, whose libraries travel; its helper is a script."""
        build = os.path.join(cls.folder, "build")
        os.mkdir(build)
        helper = os.path.join(build, "helper")
        with open(helper, "w", encoding="ascii") as file:
            file.write("#!/bin/sh\n")
        program = os.path.join(BUILD, "bin", "ckptctl")
        with open(os.path.join(build, "CTestTestfile.cmake"), "w", encoding="utf-8") as file:
            file.write(f'add_test(suite "{program}" "--version")\n'
                       f'set_tests_properties(suite PROPERTIES LABELS "gpu" REQUIRED_FILES "{helper}" TIMEOUT "33")\n'
                       f'add_test(unbuilt "{build}/not-there")\nset_tests_properties(unbuilt PROPERTIES LABELS "gpu")\n'
                       f'add_test(other "{program}" "--help")\nset_tests_properties(other PROPERTIES LABELS "unit")\n')
        return build

    def check(self, *arguments):
        """(exit status, output, figures) of gpu-check from the bundle, with nothing of the repository around it."""
        figures = os.path.join(self.folder, "figures.json")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CKPTD_")}
        done = subprocess.run([sys.executable, os.path.join(self.top, "gpu-check"), "--json", figures, *arguments],
                              cwd="/", env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=120)
        with open(figures, encoding="utf-8") as file:
            return done.returncode, done.stdout, json.load(file)

    def test_suites_are_found_by_their_label(self):
        self.assertEqual([test["name"] for test in place.tests_of_label_gpu(self.suites, built=False)], ["suite", "unbuilt"])
        [suite] = place.tests_of_label_gpu(self.suites)
        self.assertEqual((suite["name"], suite["command"][1:], suite["seconds"]), ("suite", ["--version"], 33))

    def test_what_is_in_it(self):
        with open(os.path.join(self.top, "bundle.json"), encoding="utf-8") as file:
            about = json.load(file)
        self.assertEqual(about["contract"], ["suite"])
        self.assertEqual(len(about["wheels"]), 4)
        for path in ("README.md", "contract/bin/helper", "contract/lib/libfmt.so.9", "contract/licences/libfmt9",
                     "tests/e2e/harness.py"):
            self.assertTrue(os.path.exists(os.path.join(self.top, path)), path)
        self.assertTrue(os.access(os.path.join(self.top, "contract/bin/helper"), os.X_OK))
        self.assertFalse(glob.glob(os.path.join(self.top, "**", "__pycache__"), recursive=True))

    def test_its_programs_run_from_where_it_lies(self):
        found = shared_objects.resolved(os.path.join(self.top, "contract/bin/ckptctl"))
        self.assertEqual(os.path.normpath(found["libfmt.so.9"]), os.path.join(self.top, "contract/lib/libfmt.so.9"))
        status, output, document = self.check("--rehearse", "--only", "contract:suite", "--only", "start")
        self.assertEqual(status, 0, output)
        self.assertEqual({check["name"]: check["status"] for check in document["checks"]},
                         {"programs": "passed", "contract:suite": "passed", "start": "passed"})

    def test_the_same_bytes_twice(self):
        again = os.path.join(self.folder, "again.tar")
        gpu_bundle.make(place.tests_of_label_gpu(self.suites), self.tarball, self.wheels, again)
        with open(self.bundle, "rb") as one, open(again, "rb") as two:
            self.assertTrue(one.read() == two.read(), "two bundles of the same parts differ")

    def test_one_that_is_too_large_is_not_made(self):
        limit, gpu_bundle.LIMIT_BYTES = gpu_bundle.LIMIT_BYTES, 1 << 20
        try:
            with self.assertRaisesRegex(shared_objects.Failed, "MiB, 1 are allowed"):
                gpu_bundle.make([], self.tarball, self.wheels, os.path.join(self.folder, "large.tar"))
        finally:
            gpu_bundle.LIMIT_BYTES = limit
        self.assertEqual(glob.glob(os.path.join(self.folder, "large*")), [])


if __name__ == "__main__":
    if not shutil.which("patchelf"):
        print("skipped: patchelf is not installed (scripts/debian-packages-release.txt)")
        sys.exit(SKIP_RETURN_CODE)
    unittest.main(verbosity=2)
