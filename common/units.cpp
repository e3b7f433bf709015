#include "common/units.h"

#include <array>
#include <charconv>
#include <cmath>
#include <optional>

namespace ckptd {
namespace {

struct Unit {
  std::string_view name;
  double factor;
};

constexpr std::array kByteUnits{
    Unit{"", 1},       Unit{"B", 1},        Unit{"KiB", 0x1p10}, Unit{"MiB", 0x1p20}, Unit{"GiB", 0x1p30},
    Unit{"TiB", 0x1p40}, Unit{"kB", 1e3},   Unit{"KB", 1e3},     Unit{"MB", 1e6},     Unit{"GB", 1e9},
    Unit{"TB", 1e12},  Unit{"K", 0x1p10},   Unit{"M", 0x1p20},   Unit{"G", 0x1p30},   Unit{"T", 0x1p40},
};
constexpr std::array kTimeUnits{Unit{"ms", 1}, Unit{"s", 1e3}, Unit{"m", 60e3}, Unit{"h", 3600e3}};

std::string_view trim(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

/// A number, optional blanks and one of the units; the product, or nothing.
template <std::size_t N>
std::optional<double> parse_quantity(std::string_view text, const std::array<Unit, N>& units) {
  text = trim(text);
  double number = 0;
  auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  // The library reads "nan" and "inf" as numbers too.
  if (error != std::errc{} || !std::isfinite(number) || number < 0) return std::nullopt;
  auto unit = trim(text.substr(static_cast<std::size_t>(rest - text.data())));
  for (const auto& known : units)
    if (known.name == unit) return number * known.factor;
  return std::nullopt;
}

}  // namespace

Result<std::uint64_t> parse_bytes(std::string_view text) {
  auto bytes = parse_quantity(text, kByteUnits);
  if (!bytes) return fail(ErrorKind::invalid_argument, "'{}' is not a size; write it like 8GiB or 512MiB", text);
  if (*bytes >= 0x1p63) return fail(ErrorKind::invalid_argument, "'{}' is more bytes than any machine has", text);
  return static_cast<std::uint64_t>(std::llround(*bytes));
}

Result<std::chrono::milliseconds> parse_duration(std::string_view text) {
  auto ms = parse_quantity(text, kTimeUnits);
  if (!ms || *ms >= 0x1p53)
    return fail(ErrorKind::invalid_argument, "'{}' is not a duration; write it like 30s, 2m or 250ms", text);
  return std::chrono::milliseconds(std::llround(*ms));
}

std::string show_bytes(std::uint64_t bytes) {
  static constexpr std::array names{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  if (bytes < kKiB) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < names.size()) value /= 1024, ++unit;  // 999.5 would round to four digits
  return fmt::format("{:.{}f} {}", value, value < 9.995 ? 2 : value < 99.95 ? 1 : 0, names[unit]);
}

std::string show_rate(std::uint64_t bytes, double seconds) {
  if (seconds <= 0) return "-";
  double rate = static_cast<double>(bytes) / seconds;
  if (rate >= 1e9) return fmt::format("{:.2f} GB/s", rate / 1e9);
  return fmt::format("{:.1f} MB/s", rate / 1e6);
}

std::string show_seconds(double seconds) {
  if (seconds < 0.9995) return fmt::format("{:.0f} ms", seconds * 1e3);
  if (seconds < 60) return fmt::format("{:.2f} s", seconds);
  auto whole = static_cast<std::uint64_t>(seconds);
  if (whole < 3600) return fmt::format("{} m {:02} s", whole / 60, whole % 60);
  return fmt::format("{} h {:02} m", whole / 3600, whole / 60 % 60);
}

}  // namespace ckptd
