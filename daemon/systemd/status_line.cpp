#include "daemon/systemd/status_line.h"

#include <fmt/ranges.h>

#include <algorithm>

namespace ckptd::systemd {
namespace {

constexpr std::size_t kMostBytes = 400;

std::string counted(std::uint64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

/// Cuts before the first byte of a character, and replaces what would end the line for systemd.
std::string one_line(std::string text) {
  for (auto& c : text)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  if (text.size() <= kMostBytes) return text;
  auto end = kMostBytes - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "...";
}

}  // namespace

std::string status_line(const proto::control::Status& status) {
  std::string line;
  if (status.ready)
    line = fmt::format("serving {} to {}", counted(status.versions_resident, "version"),
                       counted(status.engines.size(), "engine"));
  else
    line = fmt::format("loading: {} of {} preloads resident; {}",
                       status.preloads - std::min<std::uint64_t>(status.preloads, status.not_ready.size()),
                       status.preloads, fmt::join(status.not_ready, "; "));
  const auto poisoned =
      std::ranges::count_if(status.engines, [](const auto& engine) { return !engine.poisoned.empty(); });
  if (poisoned > 0) line += fmt::format("; {} POISONED", counted(static_cast<std::uint64_t>(poisoned), "engine"));
  if (!status.in_custody.empty())
    line += fmt::format("; {} in custody", counted(status.in_custody.size(), "failed session"));
  if (!status.running_jobs.empty()) line += fmt::format("; running {}", fmt::join(status.running_jobs, ", "));
  if (status.last_reload && !status.last_reload->failed.empty())
    line += "; last reload REFUSED: " + status.last_reload->failed;
  return one_line(std::move(line));
}

}  // namespace ckptd::systemd
