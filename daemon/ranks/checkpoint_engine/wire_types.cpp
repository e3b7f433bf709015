#include "daemon/ranks/checkpoint_engine/wire_types.h"

#include <deque>
#include <vector>

#include "proto/checkpoint_engine/messages.h"

namespace ckptd::ranks::checkpoint_engine {

Result<std::string> reload_message(std::span<const TensorView> tensors) {
  std::deque<std::vector<std::uint64_t>> packed_shapes;  // of those that torch counts otherwise; metadata points into it
  std::vector<proto::checkpoint_engine::TensorMetadata> metadata;
  metadata.reserve(tensors.size());
  for (const auto& tensor : tensors) {
    const auto torch_name = torch_name_of(tensor.dtype);
    if (!torch_name)
      return fail(ErrorKind::unsupported, "tensor {}: torch has no type for {}", tensor.name,
                  weights::safetensors_name(tensor.dtype));
    auto shape = tensor.shape;
    if (tensor.dtype == weights::Dtype::f4) {
      auto packed = torch_shape_of(tensor.dtype, tensor.shape);
      if (!packed) return std::unexpected(packed.error().within(fmt::format("tensor {}", tensor.name)));
      shape = packed_shapes.emplace_back(*std::move(packed));
    }
    metadata.push_back({tensor.name, *torch_name, shape, tensor.offset});
  }
  return proto::checkpoint_engine::reload(metadata);
}

Result<> check_carriable(const weights::Manifest& manifest) {
  return check_torch_can_carry(manifest, "the checkpoint_engine protocol");
}

}  // namespace ckptd::ranks::checkpoint_engine
