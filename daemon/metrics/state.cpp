#include "daemon/metrics/state.h"

#include <algorithm>
#include <string_view>

namespace ckptd::metrics {
namespace {

namespace api = proto::control;
using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily gauges(std::string name, std::string help) {
  return {std::move(name), std::move(help), MetricType::Gauge, {}};
}

void add(MetricFamily& family, std::vector<ClientMetric::Label> labels, double value) {
  ClientMetric series;
  series.label = std::move(labels);
  series.gauge.value = value;
  family.metric.push_back(std::move(series));
}

MetricFamily counters(std::string name, std::string help) {
  return {std::move(name), std::move(help), MetricType::Counter, {}};
}

void count(MetricFamily& family, std::vector<ClientMetric::Label> labels, std::uint64_t value) {
  ClientMetric series;
  series.label = std::move(labels);
  series.counter.value = static_cast<double>(value);
  family.metric.push_back(std::move(series));
}

MetricFamily gauge(std::string name, std::string help, std::uint64_t value) {
  return single(std::move(name), std::move(help), MetricType::Gauge, static_cast<double>(value));
}

void add_store(std::vector<MetricFamily>& families, const api::Status& status) {
  families.push_back(gauge("ckptd_store_budget_bytes", "Host memory that weights may take.", status.budget_bytes));
  auto& held = families.emplace_back(gauges("ckptd_store_bytes", "Host memory that the store holds: lent to versions, or idle and ready for the next."));
  add(held, {{"state", "lent"}}, static_cast<double>(status.lent_bytes));
  add(held, {{"state", "idle"}}, static_cast<double>(status.idle_bytes));
  families.push_back(gauge("ckptd_store_locked_bytes", "What of it is locked against swapping.", status.locked_bytes));
  families.push_back(gauge("ckptd_store_huge_page_bytes", "What of it is in huge pages.", status.huge_page_bytes));
}

void add_versions(std::vector<MetricFamily>& families, const std::vector<api::Version>& versions) {
  auto states = gauges("ckptd_versions", "Versions that are known, by state.");
  auto sizes = gauges("ckptd_version_bytes", "Store memory of each resident version.");
  for (std::string_view state : {"loading", "resident", "failed", "evicted"}) {
    auto count = std::count_if(versions.begin(), versions.end(), [&](const auto& each) { return each.state == state; });
    add(states, {{"state", std::string(state)}}, static_cast<double>(count));
  }
  for (const auto& version : versions)
    if (version.state == "resident")
      add(sizes, {{"name", version.name}, {"version", version.version}}, static_cast<double>(version.store_bytes));
  families.push_back(std::move(states));
  families.push_back(std::move(sizes));
}

void add_engines(std::vector<MetricFamily>& families, const std::vector<api::Engine>& engines) {
  auto info = gauges("ckptd_engine_info", "One for each engine, with what it should have, has and does as labels.");
  auto poisoned = gauges("ckptd_engine_poisoned", "1 when the engine may hold a mixture of versions.");
  auto states = gauges("ckptd_engine_state", "1 for the state that the engine is in, 0 for the others.");
  auto ready = gauges("ckptd_engine_ready", "1 when requests may be sent to the engine.");
  auto restarts = counters("ckptd_engine_restarts_total", "Restarts of the engine's server that were noticed.");
  auto updates = counters("ckptd_engine_own_updates_total", "Updates of the engine that the daemon began by itself.");
  for (const auto& engine : engines) {
    for (std::string_view state : {"waiting", "serving", "updating", "asleep", "poisoned", "draining", "gone"})
      add(states, {{"engine", engine.name}, {"state", std::string(state)}}, engine.state == state ? 1 : 0);
    add(ready, {{"engine", engine.name}}, engine.ready ? 1 : 0);
    count(restarts, {{"engine", engine.name}}, engine.restarts);
    count(updates, {{"engine", engine.name}, {"outcome", "succeeded"}}, engine.own_updates);
    count(updates, {{"engine", engine.name}, {"outcome", "failed"}}, engine.own_failures);
    add(info,
        {{"engine", engine.name},
         {"kind", engine.kind},
         {"target", engine.target},
         {"serving", engine.serving},
         {"state", engine.state}},
        1);
    add(poisoned, {{"engine", engine.name}}, engine.poisoned.empty() ? 0 : 1);
  }
  families.push_back(std::move(info));
  families.push_back(std::move(poisoned));
  families.push_back(std::move(states));
  families.push_back(std::move(ready));
  families.push_back(std::move(restarts));
  families.push_back(std::move(updates));
}

void add_devices(std::vector<MetricFamily>& families, const std::vector<api::DeviceStatus>& devices) {
  auto held = gauges("ckptd_arena_bytes", "Device memory for updates: lent to running ones, kept for the next, or quarantined because a rank may still map it.");
  for (const auto& device : devices) {
    add(held, {{"device", device.uuid}, {"state", "lent"}}, static_cast<double>(device.arena_bytes));
    add(held, {{"device", device.uuid}, {"state", "kept"}}, static_cast<double>(device.kept_arena_bytes));
    add(held, {{"device", device.uuid}, {"state", "quarantined"}}, static_cast<double>(device.quarantined_bytes));
  }
  families.push_back(std::move(held));
  auto lost = gauges("ckptd_device_lost", "1 when nothing of the device works any more until ckptd is restarted.");
  for (const auto& device : devices) add(lost, {{"device", device.uuid}}, device.lost ? 1 : 0);
  families.push_back(std::move(lost));
}

}  // namespace

MetricFamily single(std::string name, std::string help, MetricType type, double value) {
  MetricFamily family{std::move(name), std::move(help), type, {ClientMetric()}};
  family.metric[0].gauge.value = value;
  family.metric[0].counter.value = value;
  return family;
}

std::vector<MetricFamily> state_families(const api::Status& status, const std::vector<api::Version>& versions,
                                         api::Time now) {
  std::vector<MetricFamily> families;
  auto& build = families.emplace_back(gauges("ckptd_build_info", "Which ckptd this is."));
  add(build, {{"version", status.daemon_version}}, 1);
  families.push_back(single("ckptd_uptime_seconds", "Since the daemon's start.", MetricType::Gauge,
                            std::chrono::duration<double>(now - status.started).count()));
  families.push_back(gauge("ckptd_ready", "1 when /readyz answers 200.", status.ready ? 1 : 0));
  add_store(families, status);
  add_versions(families, versions);
  add_engines(families, status.engines);
  add_devices(families, status.devices);
  families.push_back(gauge("ckptd_sessions_in_custody", "Failed sessions whose rank is not gone yet.",
                           status.in_custody.size()));
  return families;
}

}  // namespace ckptd::metrics
