"""Records and traces: after a load, an update and an update that failed one can see where the time went."""

import json
import os
import re

import harness


class Records(harness.Case):
    def check_trace(self, trace):
        """What a viewer relies on. Returns the complete events."""
        events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
        named = {(event["pid"], event["tid"]) for event in trace["traceEvents"] if event["name"] == "thread_name"}
        self.assertTrue(events)
        self.assertEqual([event["ts"] for event in events], sorted(event["ts"] for event in events))
        for event in events:
            self.assertGreaterEqual(event["ts"], 0)
            self.assertGreaterEqual(event["dur"], 0)
            self.assertIn((event["pid"], event["tid"]), named)
        return events

    def check_page(self, daemon, job_id):
        path = self.path(f"{job_id}.html")
        daemon.must("job", "trace", job_id, "--html", path)
        with open(path, encoding="utf-8") as file:
            page = file.read()
        self.assertNotRegex(page, r"(src|href)=")
        data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.S).group(1))
        self.assertEqual(data["job"]["id"], job_id)
        self.assertEqual(data["trace"]["otherData"]["job"], job_id)

    def test_load_update_and_failure(self):
        daemon, engine, source = self.daemon(), self.engine(), self.llama(megabytes=4)
        daemon.add_engine("e", engine, "m")
        loaded = daemon.load("m@1", source)
        load = loaded["record"]["load"]
        self.assertGreaterEqual(load["bytes"], loaded["result"]["bytes"])
        self.assertAlmostEqual(sum(share["seconds"] for share in load["shares"]), load["seconds"], places=6)
        self.assertTrue(load["bounded_by"])
        self.check_trace(daemon.must("job", "trace", loaded["id"]))
        self.check_page(daemon, loaded["id"])

        updated = daemon.must("update", "m@1")
        record = daemon.must("job", "show", updated["id"])["record"]
        (push,) = record["engines"]
        self.assertEqual((push["engine"], push["state"]), ("e", "succeeded"))
        self.assertEqual(push["bytes"], updated["result"]["engines"][0]["bytes"])
        self.assertAlmostEqual(sum(share["seconds"] for share in push["shares"]), push["seconds"], places=6)
        self.assertEqual({lane["device"]: lane["pid"] for lane in push["lanes"]},
                         {device: engine.rank(device)["pid"] for device in engine.devices})
        events = self.check_trace(daemon.must("job", "trace", updated["id"]))
        self.assertIn("push", {event["name"] for event in events})
        self.check_page(daemon, updated["id"])
        if any(lane["stages"] for lane in push["lanes"]):  # lanes tell their spans
            for lane in push["lanes"]:
                self.assertEqual(lane["buckets_reloaded"], push["buckets"])
                self.assertGreater({stage["name"]: stage for stage in lane["stages"]}["upload"]["bytes_per_second"], 0)
            reloads = [event for event in events if event["cat"] == "reload"]
            self.assertEqual(len(reloads), push["buckets"] * len(push["lanes"]))
        text = daemon.ctl("job", "show", updated["id"], json_output=False).stdout
        for word in ("where the time went", "bounded by", "HOST-0", "WAITED FOR"):
            self.assertIn(word, text)

        engine.fault("HOST-1", "fail_load", 1)
        self.assert_fails(daemon.ctl("update", "m@1"), "peer_failed", "HOST-1")
        failed = daemon.http("GET", "/v1/jobs")[1]["jobs"][0]["id"]
        (push,) = daemon.must("job", "show", failed)["record"]["engines"]
        self.assertEqual(push["state"], "failed")
        self.assertIn(f"the rank on HOST-1 (pid {engine.rank('HOST-1')['pid']})", push["failed"])
        self.assertIn("acknowledged", push["came_to"])
        self.check_trace(daemon.must("job", "trace", failed))
        self.check_page(daemon, failed)
        self.assertIn("came to", daemon.ctl("job", "show", failed, json_output=False).stdout)
        self.assertEqual(daemon.log().count("record: "), 3)
        engine.wait_idle()

    def test_an_update_that_waits_has_no_trace_yet(self):
        daemon, engine, _ = self.serving({"timeouts": harness.HELD})
        engine.hold("HOST-0")
        job = daemon.detached("update", "m@1")
        engine.wait_held("HOST-0")
        self.assert_fails(daemon.ctl("job", "trace", job), "busy", "wait")
        self.assert_fails(daemon.ctl("probe"), "busy", job)
        daemon.must("job", "cancel", job, "--force")
        engine.go()
        self.assertEqual(daemon.wait_job(job)["record"]["state"], "cancelled")
        self.check_trace(daemon.must("job", "trace", job))
        self.assert_fails(daemon.ctl("job", "trace", "update-99"), "not_found", "update-99")
        engine.wait_idle()

    def test_traces_leave_with_the_history(self):
        daemon = self.daemon({"jobs": {"history": 1}})
        source = self.llama(megabytes=1)
        first, second = daemon.load("m@1", source)["id"], daemon.load("m@2", source)["id"]
        self.assert_fails(daemon.ctl("job", "trace", first), "not_found", first)
        self.check_trace(daemon.must("job", "trace", second))

    def test_peaks_are_measured_and_survive_a_restart(self):
        daemon, engine, _ = self.serving({"push": {"fan_out": "broadcast", "bucket": "512KiB"}})
        self.assertEqual(daemon.must("status")["peaks"], [])
        self.assertIn("no peak measured: ckptctl probe", daemon.must("update", "m@1")["record"]["notes"])
        probe = daemon.must("probe")
        rates = {(peak["stage"], peak["device"]): peak["bytes_per_second"] for peak in probe["result"]["peaks"]}
        self.assertEqual(sorted(rates), [("copy", "HOST-0"), ("copy", "HOST-1"), ("hash", ""),
                                         ("spread", "HOST-0"), ("spread", "HOST-1")])
        updated = daemon.must("update", "m@1")
        self.assertEqual(updated["record"]["notes"], [])
        for lane in updated["record"]["engines"][0]["lanes"]:
            stages = {stage["name"]: stage for stage in lane["stages"]}
            for name, stage in stages.items():
                self.assertEqual("share_of_peak" in stage, name in ("upload", "spread"), name)
            self.assertEqual(stages["spread"]["peak_bytes_per_second"], rates["spread", lane["device"]])
        daemon.terminate()
        daemon.start()
        self.assertEqual({(peak["stage"], peak["device"]): peak["bytes_per_second"]
                          for peak in daemon.must("status")["peaks"]}, rates)
        daemon.terminate()
        with open(os.path.join(daemon.state_dir, "peaks.json"), "w", encoding="utf-8") as file:
            file.write("{ damaged")
        daemon.start()
        self.assertEqual(daemon.must("status")["peaks"], [])

    def test_peaks_are_measured_once_by_itself(self):
        daemon = self.daemon({"probe": {"at_start": True}})
        harness.wait_until("peaks to be measured", lambda: len(daemon.must("status")["peaks"]) == 5, 30)
        self.assertEqual(daemon.http("GET", "/v1/jobs")[1]["jobs"], [])


if __name__ == "__main__":
    harness.main()
