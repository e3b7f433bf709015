#include "daemon/fleet/spot_check.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace ckptd::fleet {
namespace {

using weights::Dtype;

constexpr std::uint64_t kMostElements = 64 * 1024;

bool is_a_spot(const weights::Tensor& tensor) {
  const bool is_float = tensor.dtype == Dtype::f32 || tensor.dtype == Dtype::bf16 || tensor.dtype == Dtype::f16;
  return is_float && tensor.name.ends_with("norm.weight") && tensor.shape.size() == 1 && tensor.shape[0] > 0 &&
         tensor.shape[0] <= kMostElements;
}

/// The number behind ".layers."; nothing for what belongs to no layer.
std::optional<std::uint64_t> layer_of(std::string_view name) {
  constexpr std::string_view kLayers = ".layers.";
  const auto at = name.find(kLayers);
  if (at == name.npos) return std::nullopt;
  std::uint64_t layer = 0;
  for (auto digit = name.begin() + static_cast<std::ptrdiff_t>(at + kLayers.size());
       digit != name.end() && *digit >= '0' && *digit <= '9' && layer < 1'000'000; ++digit)
    layer = layer * 10 + static_cast<std::uint64_t>(*digit - '0');
  return layer;
}

template <class Value>
Value read(std::span<const std::byte> bytes, std::size_t index) {
  Value value;
  std::memcpy(&value, bytes.data() + index * sizeof value, sizeof value);
  return value;
}

float float_of_half(std::uint16_t half) {
  const int exponent = (half >> 10) & 31, mantissa = half & 1023;
  const float sign = (half & 0x8000) != 0 ? -1.0F : 1.0F;
  if (exponent == 31)
    return mantissa != 0 ? std::numeric_limits<float>::quiet_NaN() : sign * std::numeric_limits<float>::infinity();
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -24);
  return sign * std::ldexp(static_cast<float>(1024 + mantissa), exponent - 25);
}

float value_of(Dtype dtype, std::span<const std::byte> bytes, std::size_t index) {
  if (dtype == Dtype::f32) return read<float>(bytes, index);
  const auto bits = read<std::uint16_t>(bytes, index);
  return dtype == Dtype::f16 ? float_of_half(bits) : std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// To nearest, ties to even, as torch does.
float rounded_to_bf16(float value) {
  if (std::isnan(value)) return value;
  const auto bits = std::bit_cast<std::uint32_t>(value);
  return std::bit_cast<float>((bits + 0x7fffU + ((bits >> 16) & 1U)) & 0xffff0000U);
}

float rounded_to_half(float value) {
  if (!std::isfinite(value) || value == 0) return value;
  int exponent = 0;
  std::frexp(value, &exponent);                  // |value| = f * 2^exponent, f in [0.5, 1)
  const int lowest = std::max(exponent - 11, -24);  // the last bit of the eleven, or that of the smallest of all
  const float rounded = std::ldexp(std::nearbyint(std::ldexp(value, -lowest)), lowest);
  return std::abs(rounded) >= 65536.0F ? std::copysign(std::numeric_limits<float>::infinity(), rounded) : rounded;
}

bool same(float value, double told) {
  return static_cast<double>(value) == told || (std::isnan(value) && std::isnan(told));
}

}  // namespace

std::vector<std::size_t> spots_in(const weights::Manifest& manifest) {
  std::vector<std::size_t> whole, layered;
  for (std::size_t i = 0; i < manifest.tensors.size(); ++i)
    if (is_a_spot(manifest.tensors[i])) (layer_of(manifest.tensors[i].name) ? layered : whole).push_back(i);
  std::ranges::stable_sort(layered, {}, [&](std::size_t i) { return layer_of(manifest.tensors[i].name); });
  if (whole.size() > 2) whole.resize(2);
  const auto room = kMostSpots - whole.size();
  const auto taken = std::min(room, layered.size());
  for (std::size_t i = 0; i < taken; ++i)
    whole.push_back(layered[taken == 1 ? 0 : i * (layered.size() - 1) / (taken - 1)]);
  return whole;
}

std::string_view name_of(Agreement agreement) {
  switch (agreement) {
    case Agreement::exact: return "exact";
    case Agreement::as_bf16: return "as BF16";
    case Agreement::as_f16: return "as F16";
    case Agreement::different: break;
  }
  return "different";
}

Agreement agreement(Dtype dtype, std::span<const std::byte> bytes, std::span<const double> told) {
  if (told.empty() || bytes.size() != told.size() * weights::bits_of(dtype) / 8) return Agreement::different;
  const auto holds = [&](auto convert) {
    for (std::size_t i = 0; i < told.size(); ++i)
      if (!same(convert(value_of(dtype, bytes, i)), told[i])) return false;
    return true;
  };
  if (holds([](float value) { return value; })) return Agreement::exact;
  if (holds(rounded_to_bf16)) return Agreement::as_bf16;
  return holds(rounded_to_half) ? Agreement::as_f16 : Agreement::different;
}

std::string checksum_of(std::span<const double> told) {
  return weights::digest_of(std::as_bytes(told)).hex();
}

}  // namespace ckptd::fleet
