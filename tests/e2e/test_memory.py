"""How versions share the store's memory: prefaulting, who leaves for a load, handing over, cancelled loads."""

import os
import shutil

import harness
from harness import checkpoints


class Prefault(harness.Case):
    def status(self, daemon):
        return daemon.http("GET", "/v1/status")[1]

    def wait_for_end(self, daemon):
        return harness.wait_until("prefaulting to end", lambda: (lambda status: status["prefault"]["state"] != "running"
                                                                 and status)(self.status(daemon)))

    def test_in_the_background_the_daemon_is_ready_at_once_and_the_budget_soon(self):
        daemon = self.daemon({"store": {"budget": "384MiB", "prefault": "background"}})
        self.assertEqual(daemon.http("GET", "/readyz")[0], 200)
        daemon.load("m@1", self.llama(megabytes=20))
        status = self.wait_for_end(daemon)
        self.assertEqual(status["prefault"]["state"], "done")
        self.assertEqual(status["prefault"]["ready_bytes"], 384 << 20)
        self.assertEqual(status["lent_bytes"] + status["idle_bytes"], 384 << 20)
        self.assertIn("prefaulted", daemon.log())

    def test_before_ready_readyz_tells_how_far_it_is(self):
        daemon = self.daemon({"store": {"budget": "2GiB", "prefault": "before-ready"}})
        seen = []

        def ready():
            code, answer = daemon.http("GET", "/readyz")
            if code != 200:
                self.assertEqual(code, 503)
                seen.append(answer["not_ready"])
            return code == 200

        harness.wait_until("readiness", ready)
        for sentences in seen:
            self.assertRegex(sentences[0], "^prefaulting: .* of 2.00 GiB$")
        self.assertEqual(self.status(daemon)["prefault"]["state"], "done")

    def test_a_trim_ends_it_and_is_not_undone(self):
        daemon = self.daemon({"store": {"budget": "4GiB", "prefault": "before-ready"}})
        daemon.must("trim")
        status = self.status(daemon)
        self.assertEqual(status["idle_bytes"], 0)
        self.assertEqual(daemon.http("GET", "/readyz")[0], 200)
        if status["prefault"]["state"] == "ended":  # it was in time
            self.assertIn("trim", " ".join(status["warnings"]))
        daemon.load("m@1", self.llama(megabytes=2))
        self.assertEqual(self.status(daemon)["idle_bytes"], 0)

    def test_an_orderly_end_does_not_wait_for_it(self):
        daemon = self.daemon({"store": {"budget": "6GiB", "prefault": "background"}})
        self.assertEqual(daemon.terminate(10), 0)


class Room(harness.Case):
    """A budget that holds two versions of 80 MB and not three."""

    BUDGET = {"store": {"budget": "200MiB"}}

    def sources(self, count):
        return [self.llama(f"s{number}", megabytes=80, shards=1, seed=number) for number in range(count)]

    def state(self, daemon, version):
        return daemon.version("m", version)[1]["state"]

    def test_the_least_recently_used_version_leaves(self):
        daemon = self.daemon(self.BUDGET)
        sources = self.sources(3)
        daemon.load("m@0", sources[0])
        daemon.load("m@1", sources[1])
        daemon.load("m@0", sources[0])  # resident already, but used
        job = daemon.load("m@2", sources[2])
        self.assertEqual(job["result"]["evicted"], ["m@1"])
        self.assertEqual([self.state(daemon, version) for version in "012"], ["resident", "evicted", "resident"])
        self.assertIn("m@1 (", daemon.log())
        answer = daemon.must("load", "m@1", sources[1], json_output=False)
        self.assertIn("m@0 left to make room", answer.stdout)

    def test_what_is_kept_or_an_engines_stays_and_the_refusal_says_why(self):
        daemon, engine, source = self.serving(self.BUDGET, checkpoint=self.sources(1)[0], devices=("HOST-0",))
        daemon.must("update", "m@1")
        kept, third = self.llama("kept", 80, 1, 7), self.llama("third", 80, 1, 8)
        daemon.load("m@kept", kept, "--keep")
        answer = daemon.ctl("load", "m@3", third)
        self.assert_fails(answer, "no_space", "m@1", "e serves", "--policy resource", "m@kept", "unkeep", "Nothing was evicted")
        self.assertEqual(self.state(daemon, "1"), "resident")
        daemon.must("unkeep", "m@kept")
        self.assertEqual(daemon.load("m@3", third)["result"]["evicted"], ["m@kept"])
        daemon.must("update", "m@3")
        self.assert_holds(engine, third)
        self.assertEqual(daemon.load("m@kept", kept)["result"]["evicted"], ["m@1"])  # no engine has it any more

    def test_resource_gives_the_served_version_over_and_says_that_there_is_no_fallback(self):
        config = {"store": {"budget": "110MiB"}}
        first, second = self.sources(2)
        daemon, engine, _ = self.serving(config, checkpoint=first, devices=("HOST-0",))
        daemon.must("update", "m@1")
        self.assert_fails(daemon.ctl("load", "m@2", second), "no_space", "--policy resource")
        self.assert_fails(daemon.ctl("load", "m@2", self.path("nowhere"), "--policy", "resource"), "not_found")
        self.assertEqual(self.state(daemon, "1"), "resident", "a request that is refused early evicts nothing")
        job = daemon.load("m@2", second, "--policy", "resource")
        self.assertEqual(job["result"]["evicted"], ["m@1"])
        shown = daemon.must("status", json_output=False).stdout
        self.assertIn("no fallback until e is updated to m@2", shown)
        self.assert_holds(engine, first)
        daemon.must("update", "m@2")
        self.assert_holds(engine, second)
        self.assertEqual(daemon.http("GET", "/v1/status")[1]["warnings"], [])

    def test_a_cancelled_load_gives_its_memory_back_ready_for_the_next(self):
        daemon = self.daemon({"store": {"budget": "512MiB"}})
        source = self.llama("large", megabytes=300, shards=4)
        cancelled = 0
        for _ in range(4):
            daemon.must("trim")
            job = daemon.detached("load", "m@1", source)
            daemon.ctl("job", "cancel", job)
            if daemon.wait_job(job)["state"] == "cancelled":
                cancelled += 1
                status = daemon.http("GET", "/v1/status")[1]
                self.assertEqual(status["lent_bytes"], 0)
                self.assertEqual(status["prefault"]["ready_bytes"], status["idle_bytes"])
                self.assertIn(status["locked_bytes"], (0, status["idle_bytes"]))  # 0: where locking is not allowed
            else:
                daemon.must("evict", "m@1")
        daemon.load("m@1", source)
        self.assertEqual(self.state(daemon, "1"), "resident")


class Shared(harness.Case):
    """Same bytes are held once, and every version keeps its own."""

    def partly(self, source, name):
        """The same checkpoint, with other bytes near the end of its last shard."""
        shutil.copytree(source, self.path(name))
        last = checkpoints.files_of(self.path(name))[-1]
        with open(last, "r+b") as file:
            file.seek(-50_000, os.SEEK_END)
            file.write(os.urandom(40_000))
        return self.path(name)

    def status(self, daemon):
        return daemon.http("GET", "/v1/status")[1]

    def test_another_name_costs_nothing_and_each_may_leave(self):
        daemon, engine, source = self.serving(checkpoint=self.llama(megabytes=60), devices=("HOST-0",))
        alone = self.status(daemon)["lent_bytes"]
        job = daemon.load("m@same", source)
        status = self.status(daemon)
        self.assertEqual(status["lent_bytes"], alone)
        self.assertEqual(status["saved_bytes"], alone)
        self.assertEqual(job["result"]["shared_bytes"], alone)
        self.assertEqual(daemon.version("m", "same")[1]["identity"], daemon.version("m", "1")[1]["identity"])
        self.assertIn("saved", daemon.must("status", json_output=False).stdout)
        self.assertIn("shared with other versions", daemon.must("show", "m@1", json_output=False).stdout)
        daemon.must("evict", "m@1")
        daemon.load("m@filler", self.llama("filler", megabytes=60, seed=9))
        daemon.must("update", "m@same")
        self.assert_holds(engine, source)
        daemon.must("evict", "m@same")
        daemon.must("evict", "m@filler")
        self.assertEqual(self.status(daemon)["lent_bytes"], 0)

    def test_versions_that_differ_in_part(self):
        daemon, engine, source = self.serving(checkpoint=self.llama(megabytes=60), devices=("HOST-0", "HOST-1"))
        alone = self.status(daemon)["lent_bytes"]
        sources = {"1": source, "2": self.partly(source, "two"), "3": self.partly(source, "three")}
        for version in "23":
            daemon.load(f"m@{version}", sources[version])
        self.assertLess(self.status(daemon)["lent_bytes"], 2 * alone)
        self.assertGreater(self.status(daemon)["saved_bytes"], 0)
        for version in "321":
            daemon.must("update", f"m@{version}")
            self.assert_holds(engine, sources[version])
        daemon.must("evict", "m@1")
        daemon.load("other@1", self.llama("filler", megabytes=60, seed=9))
        for version in "23":
            daemon.must("update", f"m@{version}")
            self.assert_holds(engine, sources[version])

    def test_what_is_shared_lets_a_third_version_fit(self):
        source = self.llama(megabytes=80)
        daemon = self.daemon({"store": {"budget": "200MiB"}})
        daemon.load("m@1", source)
        for version in "234":
            job = daemon.load(f"m@{version}", self.partly(source, version))
            self.assertEqual(job["result"]["evicted"], [])


if __name__ == "__main__":
    harness.main()
