// The element types of safetensors 0.8, by their names in the file format.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

namespace ckptd::weights {

enum class Dtype : std::uint8_t {
  boolean, f4, f6_e2m3, f6_e3m2, u8, i8, f8_e5m2, f8_e4m3, f8_e8m0, f8_e4m3fnuz, f8_e5m2fnuz,
  i16, u16, f16, bf16, i32, u32, f32, c64, f64, i64, u64,
};

/// Bits of one element: 4 and 6 for the packed types, where only whole bytes of a tensor exist.
unsigned bits_of(Dtype dtype);

/// Bytes of one element, at least 1: what an address or an offset of a tensor must be divisible by.
unsigned alignment_of(Dtype dtype);

/// "BF16", "F8_E4M3", ... as in a safetensors header; nothing for an unknown name.
std::string_view safetensors_name(Dtype dtype);
std::optional<Dtype> dtype_named(std::string_view safetensors_name);

}  // namespace ckptd::weights
