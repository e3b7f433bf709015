// How the tensors of a checkpoint are spoken of to torch, in whatever protocol.
//
// torch has no packed six-bit types, and its packed four-bit type counts pairs: a tensor of shape [..., n] in the file
// is float4_e2m1fn_x2 of shape [..., n / 2] in a rank, as the safetensors library itself returns it. What cannot be
// carried is refused before an engine is touched.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "common/result.h"
#include "daemon/weights/dtype.h"
#include "daemon/weights/manifest.h"

namespace ckptd::ranks {

/// Attribute of the module torch, "bfloat16"; nothing for a type that torch does not have.
std::optional<std::string_view> torch_name_of(weights::Dtype dtype);

/// The shape as torch counts it. unsupported when F4 has no last dimension of an even size.
Result<std::vector<std::uint64_t>> torch_shape_of(weights::Dtype dtype, std::span<const std::uint64_t> shape);

/// unsupported, naming the first tensor that a rank could not take: its type, its shape or a name that is not UTF-8.
/// `protocol` is for the sentence: "the checkpoint_engine protocol".
Result<> check_torch_can_carry(const weights::Manifest& manifest, std::string_view protocol);

}  // namespace ckptd::ranks
