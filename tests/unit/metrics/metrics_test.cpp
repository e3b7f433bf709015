#include "daemon/metrics/metrics.h"

#include <atomic>
#include <catch2/catch.hpp>
#include <fmt/ranges.h>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <thread>

#include "daemon/metrics/state.h"
#include "tests/unit/control/fake_operations.h"

using namespace ckptd;
using metrics::Metrics;
using testing::FakeOperations;
namespace api = proto::control;

namespace {

/// What a text exports: for each family its type, its help and the names of its labels.
struct Exported {
  std::string type, help;
  std::set<std::string> labels;
  bool operator==(const Exported&) const = default;
};

std::map<std::string, Exported> families_of(const std::string& text) {
  std::map<std::string, Exported> families;
  std::istringstream lines(text);
  Exported* family = nullptr;
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string hash, what, name, rest;
    if (line.starts_with("# ")) {
      words >> hash >> what >> name;
      std::getline(words >> std::ws, rest);
      family = &families[name];
      (what == "HELP" ? family->help : family->type) = rest;
      continue;
    }
    REQUIRE(family != nullptr);
    // No value of a test has a quote, a comma or an equals sign inside.
    auto open = line.find('{'), close = line.rfind('}');
    if (open == line.npos) continue;
    std::istringstream labels(line.substr(open + 1, close - open - 1));
    for (std::string label; std::getline(labels, label, ',');)
      if (auto name_of_label = label.substr(0, label.find('=')); name_of_label != "le")
        family->labels.insert(name_of_label);
  }
  return families;
}

/// The value of a series, written as in the text; -1 when there is none.
double value_of(const std::string& text, const std::string& series) {
  auto at = text.find("\n" + series + " ");
  return at == text.npos ? -1 : std::stod(text.substr(at + 2 + series.size()));
}

jobs::Record run(jobs::Registry& registry, const std::string& kind, jobs::Body body) {
  auto started = registry.start({kind, "m@1", "", ""}, std::move(body));
  REQUIRE(started);
  auto ended = registry.wait(started->id, Deadline::in(std::chrono::seconds(60)));
  REQUIRE(ended);
  return *ended;
}

/// Everything that has a series at some time has one in this text.
std::string full_text() {
  Metrics metrics;
  jobs::Registry registry(1);
  auto counted = metrics.follow(registry);
  run(registry, "load", [](jobs::Handle& job) -> Result<std::string> {
    job.took({"read", 1.5, 100});
    return "{}";
  });
  metrics.count_request("GET", "/v1/status", 200);
  return metrics.text(FakeOperations());
}

std::vector<std::string> cells_of(const std::string& row) {
  std::vector<std::string> cells;
  std::istringstream text(row.substr(1));
  for (std::string cell; std::getline(text, cell, '|');) {
    auto begin = cell.find_first_not_of(' '), end = cell.find_last_not_of(' ');
    cells.push_back(begin == cell.npos ? "" : cell.substr(begin, end - begin + 1));
  }
  return cells;
}

std::string without_quotes(std::string text) {
  std::erase(text, '`');
  return text;
}

}  // namespace

TEST_CASE("docs/metrics.md has one row for each metric, and no other") {
  std::map<std::string, Exported> documented;
  std::ifstream file(CKPTD_DOCS "/metrics.md");
  REQUIRE(file);
  for (std::string line; std::getline(file, line);) {
    if (!line.starts_with("| `")) continue;
    auto cells = cells_of(line);
    INFO(line);
    REQUIRE(cells.size() == 5);
    Exported row{cells[1], cells[3], {}};
    std::istringstream labels(without_quotes(cells[2]));
    for (std::string label; std::getline(labels >> std::ws, label, ',');) row.labels.insert(label);
    CHECK(documented.emplace(without_quotes(cells[0]), row).second);
  }
  auto exported = families_of(full_text());
  for (const auto& [name, family] : exported) {
    INFO(fmt::format("the row should be: | `{}` | {} | {} | {} |", name, family.type, fmt::join(family.labels, ", "),
                     family.help));
    CHECK(documented.contains(name));
    CHECK(documented[name].type == family.type);
    CHECK(documented[name].labels == family.labels);
    CHECK(documented[name].help == family.help);
  }
  for (const auto& [name, row] : documented) {
    INFO(name);
    CHECK(exported.contains(name));
  }
}

TEST_CASE("jobs are counted at their end, with outcome and kind of error") {
  Metrics metrics;
  FakeOperations operations;
  jobs::Registry registry(1);
  auto counted = metrics.follow(registry);
  const auto before = metrics.text(operations);
  // A series that appears with its first failure would hide that failure from increase().
  CHECK(value_of(before, R"(ckptd_jobs_ended_total{error="no_space",kind="load",outcome="failed"})") == 0);

  run(registry, "load", [](jobs::Handle& job) -> Result<std::string> {
    job.progress(50, 100);
    job.progress(100, 100);
    job.took({"read", 2, 100});
    job.took({"hash", 0.5, 100});
    return "{}";
  });
  run(registry, "load", [](jobs::Handle& job) -> Result<std::string> {
    job.progress(7, 100);
    return fail(ErrorKind::no_space, "the budget");
  });
  run(registry, "update", [](jobs::Handle&) -> Result<std::string> { return fail(ErrorKind::cancelled, "asked"); });
  run(registry, "update", [](jobs::Handle&) -> Result<std::string> { throw std::runtime_error("bug"); });

  const auto after = metrics.text(operations);
  CHECK(value_of(after, R"(ckptd_jobs_ended_total{error="",kind="load",outcome="succeeded"})") == 1);
  CHECK(value_of(after, R"(ckptd_jobs_ended_total{error="no_space",kind="load",outcome="failed"})") == 1);
  CHECK(value_of(after, R"(ckptd_jobs_ended_total{error="cancelled",kind="update",outcome="cancelled"})") == 1);
  CHECK(value_of(after, R"(ckptd_jobs_ended_total{error="internal",kind="update",outcome="failed"})") == 1);
  CHECK(value_of(after, R"(ckptd_job_seconds_count{kind="load",outcome="succeeded"})") == 1);
  CHECK(value_of(after, R"(ckptd_job_stage_seconds_sum{kind="load",stage="read"})") == 2);
  CHECK(value_of(after, R"(ckptd_job_stage_bytes_total{kind="load",stage="hash"})") == 100);
  CHECK(value_of(after, "ckptd_loaded_bytes_total") == 100);
  CHECK(value_of(after, "ckptd_pushed_bytes_total") == 0);
  CHECK(value_of(after, R"(ckptd_jobs_running{kind="load"})") == 0);
}

TEST_CASE("a running job is seen, and subscriptions end") {
  Metrics metrics;
  FakeOperations operations;
  jobs::Registry registry(10);
  auto counted = metrics.follow(registry);
  std::atomic<bool> go_on = false;
  auto started = registry.start({"update", "s", "", ""}, [&](jobs::Handle&) -> Result<std::string> {
    go_on.wait(false);
    return "{}";
  });
  REQUIRE(started);
  CHECK(value_of(metrics.text(operations), R"(ckptd_jobs_running{kind="update"})") == 1);
  go_on = true;
  go_on.notify_all();
  REQUIRE(registry.wait(started->id, Deadline::in(std::chrono::seconds(60))));
  CHECK(value_of(metrics.text(operations), R"(ckptd_jobs_running{kind="update"})") == 0);
  counted.reset();
  run(registry, "load", [](jobs::Handle&) -> Result<std::string> { return "{}"; });
  CHECK(value_of(metrics.text(operations), R"(ckptd_jobs_ended_total{error="",kind="load",outcome="succeeded"})") == 0);
}

TEST_CASE("names of stages cannot pile up") {
  Metrics metrics;
  jobs::Registry registry(10);
  auto counted = metrics.follow(registry);
  run(registry, "load", [](jobs::Handle& job) -> Result<std::string> {
    for (int i = 0; i < 500; ++i) job.took({fmt::format("stage{}", i), 1, 1});
    job.took({std::string(1000, 'x'), 1, 1});
    job.took({"stage3", -1, 1});  // clocks get set
    return "{}";
  });
  const auto text = metrics.text(FakeOperations());
  std::size_t series = 0;
  for (auto at = text.find("ckptd_job_stage_bytes_total{"); at != text.npos;
       at = text.find("ckptd_job_stage_bytes_total{", at + 1))
    ++series;
  CHECK(series == 33);
  CHECK(value_of(text, R"(ckptd_job_stage_bytes_total{kind="load",stage="other"})") == 469);
  CHECK(value_of(text, R"(ckptd_job_stage_seconds_sum{kind="load",stage="stage3"})") == 1);
}

TEST_CASE("versions and engines have series while they are there, with any name escaped") {
  api::Status status;
  status.budget_bytes = 100;
  status.lent_bytes = 30;
  status.idle_bytes = 20;
  api::Engine engine;
  engine.name = "e\"\\\n";
  engine.target = "m@2";
  engine.poisoned = "why";
  engine.state = "poisoned";
  engine.restarts = 2;
  engine.own_updates = 3;
  engine.own_failures = 1;
  status.engines = {engine};
  status.in_custody = {"HOST-0", "HOST-1"};
  api::DeviceStatus device;
  device.uuid = "GPU-1";
  device.kept_arena_bytes = 7;
  device.quarantined_bytes = 8;
  status.devices = {device};
  device.uuid = "GPU-2";
  device.lost = api::LostDevice{};
  status.devices.push_back(device);
  auto gone = testing::version_named("m", "1");
  gone.state = "evicted";
  auto there = testing::version_named("m", "2");
  there.store_bytes = 30;

  std::map<std::string, prometheus::MetricFamily> families;
  for (auto& family : metrics::state_families(status, {gone, there}, status.started + std::chrono::seconds(5)))
    families[family.name] = family;
  REQUIRE(families["ckptd_device_lost"].metric.size() == 2);
  CHECK(families["ckptd_device_lost"].metric[0].gauge.value == 0);
  CHECK(families["ckptd_device_lost"].metric[1].gauge.value == 1);
  CHECK(families["ckptd_device_lost"].metric[1].label[0].value == "GPU-2");
  REQUIRE(families["ckptd_arena_bytes"].metric.size() == 6);
  CHECK(families["ckptd_arena_bytes"].metric[0].gauge.value == 0);
  CHECK(families["ckptd_arena_bytes"].metric[1].gauge.value == 7);
  CHECK(families["ckptd_arena_bytes"].metric[2].gauge.value == 8);
  CHECK(families["ckptd_arena_bytes"].metric[2].label[0].value == "GPU-1");
  CHECK(families["ckptd_arena_bytes"].metric[2].label[1].value == "quarantined");
  REQUIRE(families["ckptd_version_bytes"].metric.size() == 1);
  CHECK(families["ckptd_version_bytes"].metric[0].label[1].value == "2");
  CHECK(families["ckptd_version_bytes"].metric[0].gauge.value == 30);
  CHECK(families["ckptd_versions"].metric.size() == 4);
  CHECK(families["ckptd_engine_poisoned"].metric[0].gauge.value == 1);
  REQUIRE(families["ckptd_engine_state"].metric.size() == 7);
  for (const auto& series : families["ckptd_engine_state"].metric)
    CHECK(series.gauge.value == (series.label[1].value == "poisoned" ? 1 : 0));
  CHECK(families["ckptd_engine_ready"].metric[0].gauge.value == 0);
  CHECK(families["ckptd_engine_restarts_total"].metric[0].counter.value == 2);
  REQUIRE(families["ckptd_engine_own_updates_total"].metric.size() == 2);
  CHECK(families["ckptd_engine_own_updates_total"].metric[0].counter.value == 3);
  CHECK(families["ckptd_engine_own_updates_total"].metric[1].counter.value == 1);
  CHECK(families["ckptd_sessions_in_custody"].metric[0].gauge.value == 2);
  CHECK(families["ckptd_uptime_seconds"].metric[0].gauge.value == 5);
  CHECK(families["ckptd_ready"].metric[0].gauge.value == 0);
}

TEST_CASE("the process is described, and a /proc that is not there is no harm") {
  std::map<std::string, double> values;
  for (const auto& family : metrics::process_families()) values[family.name] = family.metric[0].gauge.value;
  CHECK(values["process_resident_memory_bytes"] > 1e6);
  CHECK(values["process_open_fds"] >= 3);
  CHECK(values["process_threads"] >= 1);
  CHECK(values.contains("process_cpu_seconds_total"));
  CHECK(metrics::process_families("/nowhere").empty());
}

TEST_CASE("scrapes, requests and jobs at once") {
  Metrics metrics;
  FakeOperations operations;
  jobs::Registry registry(5);
  auto counted = metrics.follow(registry);
  std::atomic<bool> over = false;
  {
    std::vector<std::jthread> threads;
    for (int i = 0; i < 3; ++i)
      threads.emplace_back([&] {
        while (!over) (void)metrics.text(operations);
      });
    threads.emplace_back([&] {
      for (unsigned i = 0; !over; ++i) metrics.count_request("GET", "/v1/status", 200 + i % 5), metrics.set_event_clients(i % 7);
    });
    for (int i = 0; i < 60; ++i)
      run(registry, i % 2 ? "load" : "update", [](jobs::Handle& job) -> Result<std::string> {
        job.progress(1, 2);
        job.took({"read", 0.1, 1});
        return "{}";
      });
    over = true;
  }
  CHECK(value_of(metrics.text(operations), R"(ckptd_jobs_ended_total{error="",kind="load",outcome="succeeded"})") == 30);
}
