#include "ctl/progress.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/units.h"
#include "ctl/text.h"

namespace ckptd::ctl {
namespace {

using proto::control::Job;

constexpr auto kRateWindow = std::chrono::seconds(5);
constexpr std::size_t kWidestBar = 30, kNarrowestBar = 10;

double fraction_of(const Job& job) {
  if (job.total_bytes == 0) return 0;
  return std::min(1.0, static_cast<double>(job.done_bytes) / static_cast<double>(job.total_bytes));
}

/// Rounds down: 100% is said when all is done.
std::string percent_of(const Job& job) {
  return fmt::format("{:.0f}%", std::floor(fraction_of(job) * 100));
}

std::string stage_of(const Job& job) {
  return job.stage.empty() ? job.state : printable(job.stage);
}

std::optional<std::string> rate_of(const ProgressView& view) {
  if (!view.rate_bytes_per_second) return std::nullopt;
  return show_rate(static_cast<std::uint64_t>(std::llround(*view.rate_bytes_per_second)), 1.0);
}

/// Fractions of a second would only flicker here.
std::string whole_seconds(double seconds) {
  return seconds < 60 ? fmt::format("{:.0f} s", seconds) : show_seconds(seconds);
}

std::optional<std::string> eta_of(const Job& job, const ProgressView& view) {
  if (!view.rate_bytes_per_second || *view.rate_bytes_per_second < 1 || job.done_bytes >= job.total_bytes)
    return std::nullopt;
  auto seconds = static_cast<double>(job.total_bytes - job.done_bytes) / *view.rate_bytes_per_second;
  return "ETA " + whole_seconds(std::ceil(seconds));
}

std::string bar(double fraction, std::size_t cells, bool utf8) {
  // Eighths of a cell, where the terminal can draw them.
  static constexpr std::string_view kParts[] = {"", "▏", "▎", "▍", "▌", "▋", "▊", "▉"};
  auto eighths = static_cast<std::size_t>(fraction * static_cast<double>(cells * 8));
  auto whole = eighths / 8;
  std::string inside;
  for (std::size_t i = 0; i < whole; ++i) inside += utf8 ? "█" : "#";
  if (utf8) inside += kParts[eighths % 8];
  inside.append(cells - display_width(inside), ' ');
  return "[" + inside + "]";
}

std::string join(const std::vector<std::string>& parts) {
  std::string line;
  for (const auto& part : parts) line += (line.empty() ? "" : "  ") + part;
  return line;
}

}  // namespace

std::optional<double> RateMeter::add(const Job& job, Clock::time_point now) {
  if (job.stage != stage_ || (!samples_.empty() && job.done_bytes < samples_.back().done_bytes)) samples_.clear();
  stage_ = job.stage;
  samples_.push_back({now, job.done_bytes});
  while (samples_.size() > 2 && samples_[1].at + kRateWindow <= now) samples_.pop_front();
  auto seconds = std::chrono::duration<double>(now - samples_.front().at).count();
  auto bytes = job.done_bytes - samples_.front().done_bytes;
  if (seconds <= 0 || bytes == 0) return std::nullopt;
  return static_cast<double>(bytes) / seconds;
}

std::string progress_line(const Job& job, const ProgressView& view) {
  auto limit = view.width > 1 ? view.width - 1 : 1;
  std::vector<std::string> head{printable(job.id), stage_of(job)};
  std::vector<std::string> tail;  // what may go, the most dispensable last
  if (job.total_bytes > 0) {
    head.push_back(fmt::format("{:>4}", percent_of(job)));
    tail.push_back(fmt::format("{} / {}", show_bytes(job.done_bytes), show_bytes(job.total_bytes)));
  } else if (job.done_bytes > 0) {
    tail.push_back(show_bytes(job.done_bytes));
  } else {
    tail.push_back(whole_seconds(std::floor(std::max(0.0, view.elapsed_seconds))));
  }
  if (auto rate = rate_of(view)) tail.push_back(*rate);
  if (auto eta = eta_of(job, view)) tail.push_back(*eta);

  auto needs_bar = job.total_bytes > 0 ? kNarrowestBar + 4 : 0;
  auto parts = [&] {
    auto all = head;
    all.insert(all.end(), tail.begin(), tail.end());
    return all;
  };
  while (!tail.empty() && display_width(join(parts())) + needs_bar > limit) tail.pop_back();
  auto used = display_width(join(parts()));
  if (needs_bar != 0 && used + needs_bar <= limit)
    head.insert(head.begin() + 2, bar(fraction_of(job), std::min(kWidestBar, limit - used - 4), view.utf8));
  return shorten(join(parts()), limit, view.utf8);
}

std::string plain_progress_line(const Job& job, const ProgressView& view) {
  auto line = fmt::format("{}: {}", printable(job.id), stage_of(job));
  if (job.total_bytes > 0)
    line += fmt::format(", {} of {} ({})", show_bytes(job.done_bytes), show_bytes(job.total_bytes), percent_of(job));
  else if (job.done_bytes > 0)
    line += ", " + show_bytes(job.done_bytes);
  if (auto rate = rate_of(view)) line += ", " + *rate;
  if (auto eta = eta_of(job, view)) line += ", " + *eta;
  return line;
}

void ProgressDisplay::show(const Job& job) {
  if (mode_ == ProgressMode::silent) return;
  auto now = Clock::now();
  // Both clocks are of this machine: the daemon is behind a Unix socket.
  auto elapsed = std::chrono::duration<double>(std::chrono::system_clock::now() - job.started).count();
  ProgressView view{console_.err_width(), console_.utf8(), elapsed, meter_.add(job, now)};
  if (mode_ == ProgressMode::lines) return show_line(job, view, now);
  console_.err("\r" + progress_line(job, view) + "\x1b[K");
  drawn_ = true;
}

void ProgressDisplay::show_line(const Job& job, const ProgressView& view, Clock::time_point now) {
  static constexpr auto kEvery = std::chrono::seconds(5);
  if (last_stage_ == job.stage && now - last_line_ < kEvery) return;
  last_stage_ = job.stage;
  last_line_ = now;
  console_.err(plain_progress_line(job, view) + "\n");
}

void ProgressDisplay::finish() {
  if (drawn_) console_.err("\r\x1b[K");
  drawn_ = false;
}

}  // namespace ckptd::ctl
