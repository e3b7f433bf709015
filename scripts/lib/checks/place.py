"""Where everything is that the checks use: an unpacked bundle of scripts/gpu-bundle, or a repository with a build.

  bundle        gpu-check  lib/checks/  lib/gpu_check/  ckptd-VERSION-ARCH.tar.gz  wheels/  contract/  tests/
  repository    scripts/gpu-check  build/PRESET/bin  build/PRESET/tests  tests/

From a bundle, the tarball and the wheels are unpacked into the scratch directory: there is no package registry where it
runs, and a wheel is a zip file with the modules in it.
"""

import glob
import json
import os
import subprocess
import sys
import tarfile
import zipfile

NEWEST, OLDEST = "0.4.2", "0.1.2"  # of checkpoint-engine: the protocol's dialects D and A


class Wrong(Exception):
    """What was given cannot be used; the text says what to do."""


class Place:
    """`bin_directory`, `tests` (its folders support and e2e), `contract` (programs of the label gpu), and import paths."""

    def __init__(self, root, scratch, build=None):
        self.root = root
        self.tests = os.path.join(root, "tests")
        self.is_bundle = os.path.exists(os.path.join(root, "bundle.json"))
        if self.is_bundle:
            self._open_bundle(scratch)
        else:
            self._open_repository(build)

    # -- a bundle

    def _open_bundle(self, scratch):
        tarballs = glob.glob(os.path.join(self.root, "ckptd-*.tar.gz"))
        if len(tarballs) != 1:
            raise Wrong(f"{self.root} holds {len(tarballs)} tarballs of ckptd: unpack the bundle again")
        with tarfile.open(tarballs[0]) as tar:
            top = tar.getnames()[0]
            tar.extractall(scratch)
        self.bin_directory = os.path.join(scratch, top, "bin")
        self._site = os.path.join(scratch, "site")
        unzip_all(os.path.join(self.root, "wheels", "always"), self._site)
        self._fallback = os.path.join(scratch, "site-if-missing")
        unzip_all(os.path.join(self.root, "wheels", "if-missing"), self._fallback)
        self._engines = {}
        for version in (NEWEST, OLDEST):
            self._engines[version] = os.path.join(scratch, "checkpoint_engine-" + version)
            unzip_all(os.path.join(self.root, "wheels", "checkpoint_engine-" + version), self._engines[version])
        with open(os.path.join(self.root, "contract", "tests.json"), encoding="utf-8") as file:
            self.contract = [{**each, "command": [os.path.join(self.root, "contract", "bin", each["command"][0]),
                                                  *each["command"][1:]]} for each in json.load(file)]

    # -- a repository

    def _open_repository(self, build):
        builds = [build] if build else [os.path.join(self.root, "build", name) for name in ("release", "dev")]
        found = [each for each in builds if os.path.exists(os.path.join(each, "bin", "ckptd"))]
        if not found:
            raise Wrong(f"there is no ckptd in {' or '.join(builds)}: build it (cmake --build --preset release), or name "
                        "an unpacked bundle with --bundle")
        self.bin_directory = os.path.join(found[0], "bin")
        self._site = self._fallback = None
        self._engines = {NEWEST: None}
        self.contract = []
        for each in [*found, *(os.path.join(self.root, "build", name) for name in ("gpu-bundle", "dev"))]:
            self.contract = self.contract or tests_of_label_gpu(each)

    # -- for both

    def helper(self, name):
        """A program that lies beside the contract suites, or nothing."""
        folders = [os.path.dirname(each["command"][0]) for each in self.contract]
        folders.append(os.path.join(os.path.dirname(self.bin_directory), "tests"))
        paths = [os.path.join(folder, name) for folder in folders]
        return next((path for path in paths if os.access(path, os.X_OK)), None)

    def worker_versions(self):
        return list(self._engines)

    def environment(self, python_has=None, version=NEWEST):
        """The environment for Python programs: the bundle's modules first, those that come with torch only where it lacks
        them (numpy, safetensors)."""
        paths = [self._engines.get(version), self._site]
        if self._fallback and python_has is not None:
            missing = [name for name in ("numpy", "safetensors") if not python_has.get(name)]
            if missing:
                paths.append(self._fallback)
        paths = [path for path in paths if path] + [path for path in [os.environ.get("PYTHONPATH")] if path]
        return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": os.pathsep.join(paths)}

    def import_harness(self):
        """tests/e2e/harness.py, which takes its programs from the environment when it is imported."""
        os.environ["CKPTD_BIN_DIR"] = self.bin_directory
        sys.path.insert(0, os.path.join(self.tests, "e2e"))
        import harness

        return harness


def unzip_all(directory, target):
    wheels = glob.glob(os.path.join(directory, "*.whl"))
    if not wheels:
        raise Wrong(f"{directory} holds no wheel: unpack the bundle again")
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as file:
            file.extractall(target)


def tests_of_label_gpu(build, built=True):
    """CTest's entries of the label gpu: [{name, command, seconds, files}]; those alone whose program is built, because
    CTest tells no command before."""
    if not os.path.exists(os.path.join(build, "CTestTestfile.cmake")):
        return []
    try:
        done = subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1"], capture_output=True, text=True,
                              timeout=60)
        tests = json.loads(done.stdout)["tests"]
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return []
    found = []
    for test in tests:
        properties = {each["name"]: each["value"] for each in test.get("properties", [])}
        if "gpu" in properties.get("LABELS", []) and (test.get("command") or not built):
            found.append({"name": test["name"], "command": test.get("command"), "seconds": properties.get("TIMEOUT", 600),
                          "files": properties.get("REQUIRED_FILES", [])})
    return found
