"""The Debian package in a real systemd, from its installation to its purge: one story, told in the order of the tests."""

import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True

import container  # noqa: E402
import machine  # noqa: E402
from machine import CONFIG  # noqa: E402


class Package(machine.Machine):
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
        self.must("ckptctl engine add e0 --kind sglang --endpoint unix:/run/engine/engine.sock --checkpoint gt "
                  "--no-follow --on-failure hold")  # the story heals it by hand
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
        self.begin_hanging_update(1)
        self.must("kill -9 $(systemctl show --value -p MainPID ckptd)")
        self.until("the successor", lambda: self.show("NRestarts") == "1" and self.is_serving())
        self.assertEqual(self.engine_record()["state"], "poisoned")
        self.until("the status line", lambda: "1 engine POISONED" in self.show("StatusText"))
        self.must("touch /run/engine/go")
        self.until("the rank to be told and free", lambda: not self.rank_is_busy(), 60)
        self.must("rm /run/engine/go")
        self.update(2)
        self.until("the engine to serve", lambda: self.engine_record()["state"] == "serving")

    def test_10_a_stop_while_a_rank_hangs_ends_in_time(self):
        self.begin_hanging_update(1)
        began = time.monotonic()
        self.must("systemctl stop ckptd", 120)
        took = time.monotonic() - began
        self.assertEqual(self.show("Result"), "success")
        self.assertIn("ended", self.must("journalctl --no-pager -u ckptd -n 5"))
        print(f"  (the stop took {took:.1f} s; TimeoutStopUSec is {self.show('TimeoutStopUSec')})")
        self.must("test -d /run/ckptd && test ! -e /run/ckptd/control.sock")
        self.stop_engine()
        self.start_engine()
        self.must("systemctl start ckptd")
        self.update(1)

    def test_11_a_daemon_that_hangs_is_replaced(self):
        watchdog = 4 + 2 * container.PATIENCE  # seconds
        self.must(f"mkdir -p /run/systemd/system/ckptd.service.d && printf '[Service]\\nWatchdogSec={watchdog:g}s\\n' "
                  ">/run/systemd/system/ckptd.service.d/watchdog.conf && systemctl daemon-reload && "
                  "systemctl restart ckptd")
        restarts = int(self.show("NRestarts"))
        pid = self.show("MainPID")
        time.sleep(1.5 * watchdog)
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
        self.stop_engine()
        self.must("apt-get -q -y purge ckptd", 120)
        left = self.must("find / -xdev \\( -path /proc -o -path /var/log -o -path /var/cache -o -path /ckptd-tests \\) "
                         "-prune -o -iname '*ckptd*' -print; find /run -iname '*ckptd*' -print").split()
        self.assertEqual(sorted(set(left) - {"/ckptd.deb", "/ckptd.toml.example", "/ckptd-tests", "/ckptd-rank"}), [])
        self.must("id ckptd")
        self.assertEqual(self.must("systemctl --failed --no-legend").strip(), "")


if __name__ == "__main__":
    machine.main()
