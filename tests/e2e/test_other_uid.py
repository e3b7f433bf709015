"""Ranks of another user. A rank that may not open its socket hangs without an error on either side: only the daemon's
deadline ends that, and its sentence must say what a person has to change. Needs root and setpriv."""

import os
import shutil
import unittest

import harness

NOBODY = 65534


@unittest.skipUnless(os.geteuid() == 0 and shutil.which("setpriv"), "needs root and setpriv(1)")
class OtherUid(harness.Case):
    def setUp(self):
        super().setUp()
        # A copy that everybody may run, wherever the build lies.
        self.program = self.path("reference_rank")
        shutil.copyfile(harness.REFERENCE_RANK, self.program)
        os.chmod(self.program, 0o755)

    def other_engine(self):
        other = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups {self.program}"
        return self.engine(rank_commands=[harness.REFERENCE_RANK, other])

    def start(self, config):
        engine = self.other_engine()
        daemon = self.daemon({"timeouts": {"connect": "3s"}, **config})
        daemon.add_engine("e", engine, "m")
        daemon.load("m@1", self.llama(megabytes=2))
        return daemon, engine

    def test_a_rank_that_may_not_open_its_socket(self):
        daemon, engine = self.start({})
        answer = daemon.ctl("update", "m@1", seconds=40)
        self.assert_fails(answer, ("timed_out", "denied"), "HOST-1", "uid", "group")
        self.assert_alive(daemon)
        self.assertNotEqual(daemon.engine("e")["serving"], "m@1")
        # It still waits, and nobody can reach it: what the daemon can do is to say so.
        self.assertTrue(any("HOST-1" in held for held in daemon.http("GET", "/v1/status")[1]["in_custody"]))
        engine.kill_rank("HOST-1")
        engine.wait_idle()

    def test_a_rank_that_may_not_open_the_memory(self):
        daemon, engine = self.start({"": {"rank_group": str(NOBODY)}})
        os.chmod(daemon.runtime_dir, 0o755)
        answer = daemon.ctl("update", "m@1", seconds=40)
        self.assert_fails(answer, ("peer_failed", "denied"), "HOST-1", str(NOBODY))
        self.assert_alive(daemon)
        engine.wait_idle()

    def test_the_sockets_belong_to_the_rank_group(self):
        daemon, engine = self.start({"": {"rank_group": str(NOBODY)}, "timeouts": harness.HELD})
        directory = os.path.join(daemon.runtime_dir, "r")
        about = os.stat(directory)
        self.assertEqual((about.st_gid, oct(about.st_mode & 0o7777)), (NOBODY, "0o750"))
        engine.hold("HOST-0", "connect_late")
        job = daemon.detached("update", "m@1")
        engine.wait_held("HOST-0")  # by now they are as they are to be
        names = daemon.rank_sockets()
        self.assertEqual(len(names), 2)
        for name in names:
            about = os.stat(os.path.join(directory, name))
            self.assertEqual((about.st_gid, oct(about.st_mode & 0o777)), (NOBODY, "0o660"))
        engine.go()
        daemon.wait_job(job)


if __name__ == "__main__":
    harness.main()
