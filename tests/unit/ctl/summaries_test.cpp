#include "ctl/summaries.h"

#include <catch2/catch.hpp>

#include "common/units.h"
#include "ctl/text.h"

namespace ckptd::ctl {
namespace {

namespace api = proto::control;

bool holds(const std::string& text, std::string_view part) {
  return text.find(part) != std::string::npos;
}

api::Job finished(std::string kind, std::string result) {
  api::Job job;
  job.id = kind + "-1";
  job.kind = std::move(kind);
  job.subject = "gt@1";
  job.state = "succeeded";
  job.result = std::move(result);
  return job;
}

TEST_CASE("the summary of a load") {
  CHECK(summary_of(finished("load", R"({"checkpoint":"gt@1","identity":"3fa9","bytes":1000000000,"tensors":103,
                                        "read_seconds":0.5,"seconds":1.25,"store_bytes":2})")) ==
        "loaded gt@1, 954 MiB, 103 tensors in 1.25 s (read at 2.00 GB/s), identity 3fa9\n");
  CHECK(holds(summary_of(finished("load", R"({"checkpoint":"gt@1","already_resident":true,"bytes":5,"seconds":0})")),
              "already resident: gt@1"));
}

TEST_CASE("the summary of an update has one line for each engine") {
  auto text = summary_of(finished("update", R"({"checkpoint":"gt@2","seconds":2.5,"engines":[
    {"engine":"e0","seconds":2.0,"bytes":1000000000,"fan_out":"independent","engine_wait_seconds":0.25,"first_bucket_seconds":0.008,
     "lanes":[{"device":"HOST-0"},{"device":"HOST-1"}]},{"engine":"e1"}]})"));
  CHECK(text ==
        "updated to gt@2 in 2.50 s:\n"
        "  e0: 954 MiB to each of 2 devices in 2.00 s, 500.0 MB/s to each, independent, first bucket after "
        "8 ms, waited 250 ms for the engine\n"
        "  e1:\n");
}

TEST_CASE("the summary of an update has its warnings") {
  auto text = summary_of(finished("update", R"({"checkpoint":"gt@2","seconds":2.5,"engines":[
    {"engine":"e0","seconds":2.0,"warnings":["the rank on GPU-1 gave no receipt",7]}]})"));
  CHECK(holds(text, "    warning: the rank on GPU-1 gave no receipt\n"));
}

TEST_CASE("what is to be handed to engines is one line of JSON each, or why there is nothing") {
  api::Job job;
  job.id = "update-3";
  job.engines = {{.engine = "e", .zmq_handles = {{"HOST-0", "ipc:///r/a"}}},
                 {.engine = "f", .error = Error{ErrorKind::no_space, "its device is full"}}};
  const auto text = show_handles(job);
  CHECK(text.find("  e: {\"HOST-0\":\"ipc:///r/a\"}\n") != std::string::npos);
  CHECK(text.find("  f: nothing, its device is full\n") != std::string::npos);
  CHECK(text.find("ckptctl wait job/update-3") != std::string::npos);
}

TEST_CASE("a summary survives whatever a result holds") {
  for (const char* kind : {"load", "update", "rollback"})
    for (const char* result :
         {"", "{}", "[]", "nonsense", "null", R"({"bytes":-1,"seconds":"x","checkpoint":7,"engines":{}})",
          R"({"engines":[1,null,{"lanes":7}],"tensors":1e99,"read_seconds":0,"bytes":1})"}) {
      CAPTURE(kind, result);
      auto text = summary_of(finished(kind, result));
      CHECK(holds(text, "gt@1"));
      CHECK(text.back() == '\n');
    }
}

TEST_CASE("empty lists say what to type next") {
  CHECK(holds(show_versions({}, {}), "ckptctl load"));
  CHECK(holds(show_engines({}, {}), "ckptctl engine add"));
  CHECK(holds(show_jobs({}, {}), "ckptctl load"));
}

api::Version resident() {
  api::Version version;
  version.name = "Qwen/Qwen3-8B";
  version.version = "base";
  version.state = "resident";
  version.source_uri = "file:///models/a/very/long/path/that/does/not/fit/on/eighty/columns/of/a/terminal";
  version.identity = "0123456789abcdef0123456789abcdef";
  version.tensor_count = 399;
  version.tensor_bytes = 16 * kGiB;
  version.kept = true;
  version.leased_by = {"update-3"};
  return version;
}

TEST_CASE("a list is cut to a terminal and never to a pipe") {
  View piped;
  auto whole = show_versions({resident()}, piped);
  CHECK(holds(whole, "Qwen/Qwen3-8B@base"));
  CHECK(holds(whole, resident().source_uri));
  CHECK(holds(whole, "16.0 GiB"));
  CHECK(holds(whole, "kept"));
  CHECK(holds(whole, "update-3"));
  View terminal;
  terminal.width = 120;
  auto cut = show_versions({resident()}, terminal);
  CHECK_FALSE(holds(cut, resident().source_uri));
  CHECK(display_width(cut.substr(cut.find('\n') + 1)) <= 121);
}

TEST_CASE("a version is shown with its error and its tensors") {
  auto version = resident();
  version.state = "failed";
  version.error = Error{ErrorKind::corrupt, "model.safetensors: byte 8"};
  version.tensors = {{"w", "BF16", {2, 3}, 12, "ff"}, {"scalar", "F32", {}, 4, "ee"}};
  auto text = show_version(version, {});
  CHECK(holds(text, "model.safetensors: byte 8"));
  CHECK(holds(text, "[2, 3]"));
  CHECK(holds(text, "[]"));
}

api::Engine poisoned() {
  api::Engine engine;
  engine.name = "e0";
  engine.kind = "sglang";
  engine.checkpoint = "gt";
  engine.serving = "gt@1";
  engine.target = "gt@2";
  engine.state = "poisoned";
  engine.poisoned = "the rank on HOST-1 died in list 3";
  return engine;
}

TEST_CASE("a poisoned engine is told everywhere, with why and what to do") {
  api::Status status;
  status.engines = {poisoned()};
  for (const auto& text : {show_engines({poisoned()}, {}), show_engine(poisoned(), {}), show_status(status, {})}) {
    CHECK(holds(text, "POISONED"));
    CHECK(holds(text, "HOST-1 died in list 3"));
    CHECK(holds(text, "ckptctl update gt@2 --engine e0"));
  }
}

TEST_CASE("poison shows even while the next update runs") {
  auto engine = poisoned();
  engine.state = "updating";
  engine.job = "update-9";
  auto text = show_engine(engine, {});
  CHECK(holds(text, "updating by update-9, POISONED"));
}

TEST_CASE("status tells all that an operator asks for") {
  api::Status status;
  status.daemon_version = "0.1.0";
  status.pid = 77;
  status.not_ready = {"preload gt@1 is loading"};
  status.budget_bytes = 8 * kGiB;
  status.lent_bytes = 3 * kGiB;
  status.idle_bytes = kGiB;
  status.locked_bytes = 2 * kGiB;
  status.segment_bytes = kGiB;
  status.lock = "try";
  status.devices = {{"HOST-0", "host", 5 * kGiB, 0, kGiB}, {"HOST-1", "host", 5 * kGiB, 2 * kGiB, 0}};
  status.devices[1].quarantined_bytes = 3 * kGiB;
  status.devices[1].quarantine = {{3 * kGiB, "e0", {4711}, "the rank has not unmapped the memory", {}}};
  status.devices.push_back({"GPU-7", "cuda"});
  status.devices[2].lost = api::LostDevice{{}, "GPU-7: copy failed; restart ckptd", "CUDA_ERROR_X (1)"};
  status.running_jobs = {"load-3"};
  status.in_custody = {"HOST-1 of e0"};
  status.warnings = {"gt: no fallback while load-3 runs"};
  status.prefault = {"background", "running", 3 * kGiB, 8 * kGiB, ""};
  auto text = show_status(status, {});
  for (const char* part :
       {"0.1.0", "pid 77", "NOT READY", "preload gt@1 is loading", "8.00 GiB budget", "3.00 GiB lent", "1.00 GiB idle",
        "4.00 GiB not claimed", "2.00 GiB locked", "2.00 GiB NOT locked", "HOST-0", "1.00 GiB kept for the next update", "2.00 GiB in updates",
        "3.00 GiB in QUARANTINE", "GPU-7  cuda, LOST", "ago: GPU-7: copy failed; restart ckptd (CUDA_ERROR_X (1))", "pid 4711 of engine e0 may still map it", "not unmapped", "ckptctl engine add",
        "ckptctl job watch load-3", "HOST-1 of e0", "no fallback while load-3", "prefaulting: 3.00 GiB of 8.00 GiB"})
    CHECK(holds(text, part));
  status.lent_bytes = 100 * kGiB;  // more than the budget: no arithmetic below zero
  CHECK(holds(show_status(status, {}), "0 B not claimed"));
}

TEST_CASE("a preview shows its numbers and its warnings") {
  api::UpdatePreview preview{.checkpoint = "gt@2", .engines = {}};
  preview.engines.push_back(
      {"e0", "independent", {"HOST-0", "HOST-1"}, 3, kMiB, 2 * kMiB, 5 * kMiB, 103, 104, "gt@1", {"names differ"}});
  auto text = show_preview(preview, {});
  for (const char* part : {"gt@2", "nothing was changed", "independent", "HOST-0, HOST-1", "103", "104", "2.00 MiB",
                           "warning: e0: names differ"})
    CHECK(holds(text, part));
}

TEST_CASE("a job shows the traceback of a rank") {
  auto job = finished("update", "");
  job.state = "failed";
  job.error = Error{ErrorKind::peer_failed, "the rank failed", "Traceback:\n  File x"};
  auto text = show_job(job, {});
  CHECK(holds(text, "the rank failed"));
  CHECK(holds(text, "  File x"));
  job.state = "running";
  job.cancel_requested = true;
  CHECK(holds(show_jobs({job}, {}), "cancelling"));
}

TEST_CASE("what a reload did") {
  api::Reload reload;
  CHECK(show_reload(reload) == "nothing has changed");
  reload.applied = {"log_level", "preload"};
  CHECK(show_reload(reload) == "applied log_level, preload");
  reload.needs_restart = {"store.budget"};
  CHECK(show_reload(reload) ==
        "applied log_level, preload; store.budget changed too and will count after a restart (systemctl restart ckptd)");
  reload.applied.clear();
  CHECK(holds(show_reload(reload), "nothing is applied; store.budget changed too"));
  reload.failed = "/etc/ckptd.toml:3:1: \x1b[31mno";
  CHECK(holds(show_reload(reload), "REFUSED, everything stays as it was: /etc/ckptd.toml:3:1: "));
  CHECK_FALSE(holds(show_reload(reload), "\x1b"));

  api::Status status;
  CHECK_FALSE(holds(show_status(status, {}), "reload"));
  status.last_reload = reload;
  CHECK(holds(show_status(status, {}), "REFUSED"));
}

}  // namespace
}  // namespace ckptd::ctl
