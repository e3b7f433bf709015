"""Twenty updates leave the daemon as one did: descriptors, memory files, sockets, threads."""

import os
import time

import harness


class Leaks(harness.Case):
    def count(self, daemon):
        return {"descriptors": len(daemon.open_files()), "memory files": len(daemon.memfds()),
                "threads": len(os.listdir(f"/proc/{daemon.process.pid}/task"))}

    def settle(self, daemon, at_most):
        """Threads and sockets of a finished update end a little later."""
        def settled():
            now = self.count(daemon)
            return all(now[what] <= limit for what, limit in at_most.items())

        try:
            harness.wait_until("the daemon to come back to what it held", settled, 10)
        except AssertionError:
            self.fail(f"grew from {at_most} to {self.count(daemon)}:\n" + "\n".join(sorted(daemon.open_files())))

    def warm_up(self, daemon):
        for _ in range(3):
            daemon.must("update", "m@1")
        time.sleep(1)
        return {what: number + 1 for what, number in self.count(daemon).items()}  # one client may be on its way

    def test_updates(self):
        daemon, engine, source = self.serving()
        held = self.warm_up(daemon)
        for _ in range(20):
            daemon.must("update", "m@1")
        self.settle(daemon, held)
        self.assert_holds(engine, source)
        self.assertEqual(daemon.rank_sockets(), [])

    def test_failed_updates(self):
        daemon, engine, source = self.serving()
        held = self.warm_up(daemon)
        for number in range(12):
            kind = ("fail_load", "fail_open", "fail_post_hook")[number % 3]
            engine.fault(f"HOST-{number % 2}", kind, number % 2)
            self.assertNotEqual(daemon.ctl("update", "m@1").code, 0)
            engine.wait_idle()
        harness.wait_until("the custodian to let go", lambda: not daemon.http("GET", "/v1/status")[1]["in_custody"], 40)
        self.settle(daemon, held)
        self.assertEqual(daemon.rank_sockets(), [])
        engine.reset()
        daemon.must("update", "m@1")
        self.assert_holds(engine, source)

    def test_loads_and_evictions(self):
        daemon, source = self.daemon(), self.llama(megabytes=20)
        daemon.load("m@1", source)
        daemon.must("evict", "m@1")
        held = {what: number + 1 for what, number in self.count(daemon).items()}
        memory = daemon.http("GET", "/v1/status")[1]
        for _ in range(10):
            daemon.load("m@1", source)
            daemon.must("evict", "m@1")
            self.assertNotEqual(daemon.ctl("load", "bad@1", "/nowhere").code, 0)
        self.settle(daemon, held)
        after = daemon.http("GET", "/v1/status")[1]
        self.assertEqual((after["lent_bytes"], after["idle_bytes"]), (memory["lent_bytes"], memory["idle_bytes"]),
                         "segments are not used again")

    def test_the_history_of_jobs_is_bounded(self):
        daemon = self.daemon({"jobs": {"history": 5}})
        for _ in range(20):
            daemon.ctl("load", "bad@1", "/nowhere")
        self.assertLessEqual(len(daemon.http("GET", "/v1/jobs")[1]["jobs"]), 6)


if __name__ == "__main__":
    harness.main()
