// Do single small tensors that a server tells have the values of the checkpoint? For servers that tell no checksums. Pure.
//
// Only tensors that a server neither fuses, splits nor processes can be compared with the checkpoint's: weights of norms.
// They are also small, which matters, since a server makes a list of a whole tensor however few values are wanted of it.
// A server may keep them in another floating type than the checkpoint has them in, to which they are rounded then.
#pragma once

#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "daemon/weights/manifest.h"

namespace ckptd::fleet {

inline constexpr std::size_t kMostSpots = 6, kMostSpotValues = 1024;

/// Indices of the manifest's tensors that are worth asking for: one-dimensional weights of norms in F32, BF16 or F16, the
/// model's own and some of the first, the last and the layers between. At most kMostSpots; empty: there are none.
std::vector<std::size_t> spots_in(const weights::Manifest& manifest);

/// How told values and those of the checkpoint agree.
enum class Agreement {
  exact,
  as_bf16,    ///< the checkpoint's, rounded to that
  as_f16,
  different,
};
std::string_view name_of(Agreement agreement);

/// `bytes` are the first of a tensor of that type, as many values as were told; false sizes count as different.
Agreement agreement(weights::Dtype dtype, std::span<const std::byte> bytes, std::span<const double> told);

/// A checksum of told values, to compare two statements of the same tensor.
std::string checksum_of(std::span<const double> told);

}  // namespace ckptd::fleet
