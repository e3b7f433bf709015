#include "daemon/journal/peaks.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cmath>
#include <exception>
#include <nlohmann/json.hpp>
#include <utility>

#include "common/files.h"

namespace ckptd::journal {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kPeaksFormat = 1;
constexpr std::uint64_t kLimitBytes = 1 << 20;
constexpr std::int64_t kLatest = 253'402'300'799;  ///< the end of the year 9999, in seconds since 1970

Error damaged(std::string_view what) { return {ErrorKind::corrupt, fmt::format("it holds {}", what)}; }

/// Throws what the library throws for members that are missing or of another type.
Result<PeakRecord> peak_of(const Json& json) {
  PeakRecord peak{.stage = json.at("stage").get<std::string>(),
                  .device = json.at("device").get<std::string>(),
                  .bytes_per_second = json.at("bytes_per_second").get<double>(),
                  .bytes = json.at("bytes").get<std::uint64_t>()};
  const auto measured = json.at("measured_unix_seconds").get<std::int64_t>();
  if (measured < 0 || measured > kLatest) return std::unexpected(damaged("a date that is none"));
  peak.measured = std::chrono::sys_seconds(std::chrono::seconds(measured));
  if (!std::isfinite(peak.bytes_per_second) || peak.bytes_per_second <= 0)
    return std::unexpected(damaged("a rate that is none"));
  return peak;
}

bool same_thing(const PeakRecord& one, const PeakRecord& other) {
  return one.stage == other.stage && one.device == other.device;
}

}  // namespace

std::string peaks_to_json(const std::vector<PeakRecord>& peaks) {
  Json json = {{"format", kPeaksFormat}, {"peaks", Json::array()}};
  for (const auto& peak : peaks)
    json["peaks"].push_back({{"stage", peak.stage},
                             {"device", peak.device},
                             {"bytes_per_second", peak.bytes_per_second},
                             {"bytes", peak.bytes},
                             {"measured_unix_seconds", peak.measured.time_since_epoch().count()}});
  return json.dump(1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Result<std::vector<PeakRecord>> peaks_from_json(std::string_view text) {
  try {
    const auto json = Json::parse(text);
    if (json.at("format").get<int>() != kPeaksFormat) return std::unexpected(damaged("another format"));
    std::vector<PeakRecord> peaks;
    for (const auto& each : json.at("peaks")) {
      auto peak = CKPTD_TRY(peak_of(each));
      peaks.push_back(std::move(peak));
    }
    return peaks;
  } catch (const std::exception& error) {
    return std::unexpected(damaged("no peaks").with_vendor(error.what()));
  }
}

Peaks::Peaks(std::filesystem::path file) : file_(std::move(file)) {
  std::error_code error;
  if (!std::filesystem::exists(std::filesystem::symlink_status(file_, error))) return;
  auto text = read_small_file(file_, kLimitBytes);
  auto peaks = text ? peaks_from_json(*text) : std::unexpected(text.error());
  if (peaks)
    peaks_ = *std::move(peaks);
  else
    spdlog::warn("{} is ignored: {}; ckptctl probe writes it anew", file_.string(), peaks.error().sentence);
}

std::vector<PeakRecord> Peaks::all() const {
  std::lock_guard lock(mutex_);
  return peaks_;
}

Result<> Peaks::remember(const std::vector<PeakRecord>& measured) {
  std::lock_guard writing(writing_);
  auto next = all();
  std::erase_if(next, [&](const PeakRecord& old) {
    return std::ranges::any_of(measured, [&](const PeakRecord& fresh) { return same_thing(old, fresh); });
  });
  next.insert(next.end(), measured.begin(), measured.end());
  {
    std::lock_guard lock(mutex_);
    peaks_ = next;
  }
  return write_file_atomically(file_, peaks_to_json(next));
}

}  // namespace ckptd::journal
