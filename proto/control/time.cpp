#include <charconv>

#include "proto/control/api.h"

namespace ckptd::proto::control {
namespace {

constexpr std::string_view kPattern = "dddd-dd-ddTdd:dd:ddZ";

bool has_the_pattern(std::string_view text) {
  if (text.size() != kPattern.size()) return false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    bool digit = text[i] >= '0' && text[i] <= '9';
    if (kPattern[i] == 'd' ? !digit : text[i] != kPattern[i]) return false;
  }
  return true;
}

unsigned number(std::string_view text, std::size_t at, std::size_t digits) {
  unsigned value = 0;
  std::from_chars(text.data() + at, text.data() + at + digits, value);
  return value;
}

}  // namespace

std::string show_time(Time time) {
  auto whole = std::chrono::floor<std::chrono::seconds>(time);
  auto day = std::chrono::floor<std::chrono::days>(whole);
  std::chrono::year_month_day date(day);
  std::chrono::hh_mm_ss clock(whole - day);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", static_cast<int>(date.year()),
                     static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()), clock.hours().count(),
                     clock.minutes().count(), clock.seconds().count());
}

std::optional<Time> parse_time(std::string_view text) {
  if (!has_the_pattern(text)) return std::nullopt;
  std::chrono::year_month_day date(std::chrono::year(static_cast<int>(number(text, 0, 4))),
                                   std::chrono::month(number(text, 5, 2)), std::chrono::day(number(text, 8, 2)));
  auto hours = number(text, 11, 2), minutes = number(text, 14, 2), seconds = number(text, 17, 2);
  // Beyond these years a time in nanoseconds does not fit 64 bits.
  bool fits = date.year() > std::chrono::year(1678) && date.year() < std::chrono::year(2262);
  if (!date.ok() || !fits || hours > 23 || minutes > 59 || seconds > 59) return std::nullopt;
  return std::chrono::sys_days(date) + std::chrono::hours(hours) + std::chrono::minutes(minutes) +
         std::chrono::seconds(seconds);
}

}  // namespace ckptd::proto::control
