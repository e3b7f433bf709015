// Accounts on a clock of tenths: at(15) is a second and a half after the beginning.
#pragma once

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "daemon/records/accounts.h"

namespace ckptd::records::testing {

using What = pipeline::Span::What;

inline Clock::time_point at(int tenths) { return Clock::time_point(std::chrono::hours(1)) + std::chrono::milliseconds(100) * tenths; }

inline pipeline::Span span(What what, int begin, int end, std::uint32_t bucket = 0, std::uint64_t bytes = 0) {
  return {what, bucket, bytes, at(begin), at(end)};
}

inline pipeline::LaneReport lane(std::string device, int pid, std::vector<pipeline::Span> spans) {
  pipeline::LaneReport report;
  report.device = std::move(device);
  report.pid = pid;
  for (const auto& each : spans)
    if (each.what == What::reload) report.bytes += each.bytes;
  report.spans = std::move(spans);
  return report;
}

/// A push from 0 to `end`; `steps` are names with the tenth at which each begins, the last one ends at `end`.
inline PushAccount push(std::vector<pipeline::LaneReport> lanes, std::initializer_list<std::pair<const char*, int>> steps,
                        int end, std::string fan_out = "independent") {
  PushAccount account;
  account.engine = "e";
  account.begin = at(0);
  account.end = at(end);
  for (const auto& [name, begin] : steps) account.steps.begin(name, at(begin));
  account.steps.end(at(end));
  account.tensor_bytes = 1000;
  account.buckets = 2;
  account.fan_out = std::move(fan_out);
  for (const auto& each : lanes) {
    account.devices.push_back(each.device);
    account.connected += each.pid != 0 ? 1 : 0;
    account.reloaded_bytes += each.bytes;
  }
  account.lanes = std::move(lanes);
  return account;
}

inline JobAccount job(int end, std::string kind = "update") {
  return {.id = kind + "-1", .kind = kind, .subject = "m@1 -> e", .state = "succeeded", .started = {}, .begin = at(0), .end = at(end)};
}

}  // namespace ckptd::records::testing
