// What a rank has loaded, and torch's view of a flat buffer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace ckptd::reference_rank {

struct LoadedTensor {
  std::string dtype;  ///< as torch calls it: "bfloat16"
  std::vector<std::int64_t> shape;
  std::vector<std::byte> bytes;
};

using Model = std::map<std::string, LoadedTensor>;

struct TorchType {
  std::string_view torch_name;
  std::string_view safetensors_name;
  std::uint64_t bytes;  ///< dtype.itemsize
};

std::optional<TorchType> torch_type_named(std::string_view torch_name);
std::optional<TorchType> torch_type_of_safetensors(std::string_view safetensors_name);

/// buffer[offset : offset + size].view(dtype).view(shape), with torch's refusals as PythonError.
std::span<const std::byte> view_of(std::span<const std::byte> buffer, const TorchType& type,
                                   std::span<const std::int64_t> shape, std::int64_t offset);

}  // namespace ckptd::reference_rank
