"""The tarball of scripts/release: what is in it, what it wants from the machine, and that it runs where nothing of ours is.

Environment: CKPTD_BUILD_DIR (what to pack), CKPTD_CMAKE. Tests that need a tree of debootstrap, root or patchelf are
skipped with the reason where these are missing.
"""

import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(ROOT, "tests", "support"), os.path.join(ROOT, "scripts", "lib")]
sys.dont_write_bytecode = True

import checkpoints  # noqa: E402
import container  # noqa: E402
import release_tarball  # noqa: E402
import shared_objects  # noqa: E402

BUILD = os.environ.get("CKPTD_BUILD_DIR") or os.path.join(ROOT, "build", "dev")
CMAKE = os.environ.get("CKPTD_CMAKE") or "cmake"
CACHE = os.path.join(ROOT, "build", "system")
STORY = os.path.join(HERE, "release_story.sh")
SKIP_RETURN_CODE = 77
# Ubuntu 22.04: the oldest system that images with a current CUDA are made of.
GLIBC, GLIBCXX = "2.35", "3.4.30"


class Release(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.mkdtemp(prefix="ckptd-release-", dir="/tmp")
        cls.addClassCleanup(shutil.rmtree, folder, ignore_errors=True)
        os.chmod(folder, 0o755)
        cls.folder = folder
        cls.tarball = release_tarball.make(BUILD, os.path.join(folder, "packed"), CMAKE)
        with tarfile.open(cls.tarball) as tar:
            cls.entries = tar.getmembers()
        # A blank in the path, because somebody's home directory has one.
        os.mkdir(os.path.join(folder, "un packed"))
        shared_objects.run("tar", "-xzf", cls.tarball, "-C", os.path.join(folder, "un packed"))
        cls.name = f"ckptd-{release_tarball.version_of(BUILD)}-{platform.machine()}"
        cls.top = os.path.join(folder, "un packed", cls.name)
        cls.checkpoint = os.path.join(folder, "checkpoint")
        checkpoints.make_llama(cls.checkpoint, 4_000_000, 2)

    def elf_files(self):
        files = [os.path.join(folder, name) for folder, _, names in os.walk(self.top) for name in names]
        return [path for path in files if shared_objects.is_elf(path)]

    def run_story(self, command, **options):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=180, **options)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertIn("the story is over", done.stdout)

    def test_nothing_needs_a_newer_system_than_ubuntu_22_04(self):
        files = self.elf_files()
        self.assertGreater(len(files), 10)
        for path in files:
            needed = shared_objects.versions_needed(path)
            for family, limit in (("GLIBC", GLIBC), ("GLIBCXX", GLIBCXX)):
                self.assertEqual(shared_objects.newer_than(needed, family, limit), [], os.path.basename(path))
        self.assertTrue(any(shared_objects.newer_than(shared_objects.versions_needed(path), "GLIBC", "2.2.5")
                            for path in files), "this test has gone blind: nothing needs any version of glibc")

    def test_every_library_is_in_lib_or_the_systems_own(self):
        # Libraries of a CUDA image or conda would come first with a RUNPATH. What is no library shows who looks there.
        decoys = os.path.join(self.folder, "decoys")
        os.mkdir(decoys)
        names = [name for name in os.listdir(os.path.join(self.top, "lib")) if ".so" in name]
        for name in names:
            with open(os.path.join(decoys, name), "w", encoding="ascii") as file:
                file.write("no library\n")
        for path in self.elf_files():
            found = shared_objects.resolved(path, {**os.environ, "LD_LIBRARY_PATH": decoys})
            elsewhere = {name: where for name, where in found.items()
                         if not shared_objects.OF_THE_SYSTEM.match(name) and
                         os.path.dirname(os.path.normpath(where)) != os.path.join(self.top, "lib")}
            self.assertEqual(elsewhere, {}, path)
        for name in ("libzmq.so.5", "libspdlog.so.1.10"):
            self.assertIn(name, names)
        self.assertNotIn("libstdc++.so.6", names)
        self.run_story([STORY, self.top, self.checkpoint, tempfile.mkdtemp(dir=self.folder)],
                       env={**os.environ, "LD_LIBRARY_PATH": decoys})

    def test_what_an_installation_has_is_there(self):
        for path in ("README.md", "etc/ckptd/ckptd.toml", "share/man/man8/ckptd.8", "share/man/man5/ckptd.toml.5",
                     "share/man/man1/ckptctl.1", "share/bash-completion/completions/ckptctl", "lib/sysusers.d/ckptd.conf",
                     "share/zsh/site-functions/_ckptd", "share/fish/vendor_completions.d/ckptctl.fish",
                     "share/doc/ckptd/operations.md", "lib/tmpfiles.d/ckptd.conf", "licences/libzmq5"):
            self.assertTrue(os.path.getsize(os.path.join(self.top, path)), path)
        with open(os.path.join(self.top, "lib/systemd/system/ckptd.service"), encoding="utf-8") as file:
            unit = file.read()
        self.assertIn("ExecStart=/opt/ckptd/bin/ckptd ", unit)
        self.assertIn("ExecReload=/opt/ckptd/bin/ckptctl ", unit)
        self.assertNotIn("sbin", unit)

    def test_the_same_build_gives_the_same_bytes(self):
        again = release_tarball.make(BUILD, os.path.join(self.folder, "again"), CMAKE)
        with open(self.tarball, "rb") as one, open(again, "rb") as two:
            self.assertTrue(one.read() == two.read(), "two tarballs of one build differ")
        self.assertEqual({(entry.uid, entry.gid, entry.uname, entry.gname) for entry in self.entries},
                         {(0, 0, "root", "root")})
        self.assertEqual(len({entry.mtime for entry in self.entries}), 1)
        self.assertEqual({entry.mode for entry in self.entries}, {0o755, 0o644})
        self.assertEqual({entry.name.split("/")[0] for entry in self.entries}, {self.name})

    def test_it_runs_on_a_system_without_our_libraries(self):
        try:
            container.check_host()
            os.makedirs(CACHE, exist_ok=True)
            tree = container.base_tree(CACHE)
        except container.Unavailable as why:
            self.skipTest(str(why))
        self.assertFalse(any("libzmq" in name for _, _, names in os.walk(os.path.join(tree, "usr/lib")) for name in names))
        # Everything is mounted in a namespace that ends with its processes; the tree itself stays as it is.
        guest = os.path.join(self.folder, "guest")
        shutil.copytree(self.top, os.path.join(guest, "ckptd"))
        shutil.copytree(self.checkpoint, os.path.join(guest, "checkpoint"))
        shutil.copy(STORY, guest)
        script = ('set -e; mount --bind "$2" "$1/mnt"; mount -t proc proc "$1/proc"; mount -t tmpfs tmpfs "$1/tmp"; '
                  'mount --rbind /dev "$1/dev"; exec chroot "$1" /usr/bin/env -i PATH=/usr/bin:/bin '
                  "/mnt/release_story.sh /mnt/ckptd /mnt/checkpoint /tmp")
        apart = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        if subprocess.run([*apart, "true"], capture_output=True, timeout=60).returncode != 0:
            self.skipTest("unshare(1) may not make mount and PID namespaces here")
        self.run_story([*apart, "bash", "-c", script, "bash", tree, guest])


def main():
    if not shutil.which("patchelf"):
        print("skipped: patchelf is not installed (scripts/debian-packages-release.txt)")
        sys.exit(SKIP_RETURN_CODE)
    program = unittest.main(exit=False, verbosity=2)
    for test, why in program.result.skipped:
        print(f"skipped: {test.id()}: {why}")
    sys.exit(not program.result.wasSuccessful())


if __name__ == "__main__":
    main()
