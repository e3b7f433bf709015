// What the machine can do at best, measured on request or once by itself.
#include "daemon/probe/probe.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <condition_variable>
#include <nlohmann/json.hpp>

#include "common/units.h"
#include "daemon/operations/service.h"
#include "daemon/operations/show.h"

namespace ckptd::operations {
namespace {

constexpr std::uint64_t kAskedBytes = 256 * kMiB, kUnaskedBytes = 64 * kMiB;
constexpr std::chrono::milliseconds kAskedWorking{1'000}, kUnaskedWorking{100};  ///< for all devices together
constexpr std::chrono::milliseconds kSettle{1'000}, kAskAgain{5'000};

bool sleep(std::chrono::milliseconds span, std::stop_token stop) {
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable_any cv;
  cv.wait_for(lock, stop, span, [] { return false; });
  return !stop.stop_requested();
}

journal::PeakRecord peak_of(std::string stage, std::string device, const probe::Rate& rate) {
  return {.stage = std::move(stage),
          .device = std::move(device),
          .bytes_per_second = rate.bytes_per_second,
          .bytes = rate.bytes,
          .measured = std::chrono::floor<std::chrono::seconds>(std::chrono::system_clock::now())};
}

std::string in_one_line(const std::vector<journal::PeakRecord>& peaks) {
  std::string line;
  for (const auto& peak : peaks) {
    if (!line.empty()) line += ", ";
    line += peak.stage == "hash" ? fmt::format("one core hashes {:.2f} GB/s", peak.bytes_per_second / 1e9)
                                 : fmt::format("copies to {}{} {:.2f} GB/s", peak.device,
                                               peak.stage == "spread" ? " from another device" : "",
                                               peak.bytes_per_second / 1e9);
  }
  return line;
}

std::string result_of(const std::vector<journal::PeakRecord>& peaks) {
  auto array = nlohmann::json::array();
  for (const auto& peak : peaks)
    array.push_back(api::to_json(
        api::Peak{peak.stage, peak.device, peak.bytes_per_second, peak.bytes, api::show_time(peak.measured)}));
  return nlohmann::json{{"peaks", array}}.dump();
}

}  // namespace

std::vector<device::Device*> Service::working_devices() const {
  auto devices = parts_.devices;
  std::erase_if(devices, [](const auto* device) { return device->lost().has_value(); });
  return devices;
}

/// A measurement beside a load or an update would disturb it, and be wrong.
Result<> Service::check_nothing_moves() const {
  for (const auto& record : parts_.jobs.list())
    if (record.state == jobs::State::running && record.kind != "probe")
      return std::unexpected(Error{ErrorKind::busy, fmt::format("{} runs ({}), and a measurement beside it would disturb "
                                                                "it and be wrong: wait for it (ckptctl wait job/{})",
                                                                record.id, record.subject, record.id)}
                                 .with_fact("job", record.id));
  return {};
}

Result<std::vector<journal::PeakRecord>> Service::measure(std::uint64_t bytes, std::chrono::milliseconds working,
                                                          std::stop_token stop) {
  std::lock_guard alone(measuring_);
  probe::Limits limits;
  // A machine that may have little for weights may have little for measurements.
  limits.bytes = std::min(bytes, parts_.store.usage().budget_bytes);
  const auto devices = working_devices();
  limits.working = working / static_cast<int>(2 * devices.size() + 1);
  const auto may_go_on = [&]() -> Result<> {
    if (stop.stop_requested()) return fail(ErrorKind::cancelled, "the measurement was cancelled");
    return check_nothing_moves();
  };
  auto memory = CKPTD_TRY(probe::HostMemory::make(limits));
  std::vector<journal::PeakRecord> peaks;
  for (auto* device : devices) {
    const auto rate = CKPTD_TRY(probe::measure_copies(*device, memory->bytes(), limits, may_go_on));
    peaks.push_back(peak_of("copy", device->identity().uuid, rate));
  }
  const auto rate = CKPTD_TRY(probe::measure_hash(memory->bytes(), limits, may_go_on));
  peaks.push_back(peak_of("hash", "", rate));
  memory.reset();
  for (std::size_t i = 0; devices.size() > 1 && i < devices.size(); ++i) {
    auto peers = devices;  // the others, beginning with its neighbour
    std::ranges::rotate(peers, peers.begin() + static_cast<std::ptrdiff_t>(i));
    const auto spread = CKPTD_TRY(probe::measure_spread(*peers[0], std::span(peers).subspan(1), limits, may_go_on));
    peaks.push_back(peak_of("spread", peers[0]->identity().uuid, spread));
  }
  return peaks;
}

Result<api::Job> Service::probe() {
  std::lock_guard lock(starting_);
  if (auto running = parts_.jobs.running_with_key("probe")) return show(*running);
  CKPTD_TRY(check_nothing_moves());
  const auto started = CKPTD_TRY(parts_.jobs.start({"probe", "this machine", "probe", ""},
                                                   [this](jobs::Handle& job) { return run_probe(job); }));
  return show(started);
}

Result<std::string> Service::run_probe(jobs::Handle& job) {
  job.stage("measuring");
  const auto peaks = CKPTD_TRY(measure(kAskedBytes, kAskedWorking, job.stop()));
  CKPTD_TRY(parts_.peaks.remember(peaks));
  spdlog::info("{}: {}", job.id(), in_one_line(peaks));
  return result_of(peaks);
}

bool Service::knows_all_peaks() const {
  const auto known = peaks();
  const auto devices = working_devices();
  return known.hash && std::ranges::all_of(devices, [&](const auto* device) {
           const auto& uuid = device->identity().uuid;
           return known.copy.contains(uuid) && (devices.size() < 2 || known.spread.contains(uuid));
         });
}

void Service::start_probe() {
  if (options()->probe_at_start && !knows_all_peaks())
    prober_ = std::jthread([this](std::stop_token stop) { probe_once_idle(stop); });
}

void Service::probe_once_idle(std::stop_token stop) {
  for (auto wait = kSettle; sleep(wait, stop); wait = kAskAgain) {
    if (knows_all_peaks()) return;  // somebody asked for it meanwhile
    if (!check_nothing_moves()) continue;
    const auto peaks = measure(kUnaskedBytes, kUnaskedWorking, stop);
    if (!peaks && peaks.error().kind == ErrorKind::busy) continue;
    auto remembered = peaks ? parts_.peaks.remember(*peaks) : std::unexpected(peaks.error());
    if (peaks) spdlog::info("measured once for the records of updates: {}", in_one_line(*peaks));
    if (!remembered && !stop.stop_requested())
      spdlog::warn("the machine's peaks could not be measured and remembered: {}", remembered.error().sentence);
    return;
  }
}

}  // namespace ckptd::operations
