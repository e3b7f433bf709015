#include "tests/support/reference_rank/compare.h"

#include <fmt/format.h>

#include <cstring>

#include "tests/support/reference_rank/safetensors.h"

namespace ckptd::reference_rank {
namespace {

std::string difference_of(const LoadedTensor& loaded, const StoredTensor& stored) {
  auto type = torch_type_of_safetensors(stored.dtype);
  if (!type) return fmt::format("torch has no type for {}", stored.dtype);
  if (type->torch_name != loaded.dtype)
    return fmt::format("is {}, the checkpoint has {}", loaded.dtype, type->torch_name);
  auto shape = stored.shape;
  if (stored.dtype == "F4" && !shape.empty()) shape.back() /= 2;  // torch counts pairs
  if (shape != loaded.shape)
    return fmt::format("has shape [{}], the checkpoint [{}]", fmt::join(loaded.shape, ","), fmt::join(shape, ","));
  auto bytes = read_bytes(stored);
  if (bytes.size() != loaded.bytes.size())
    return fmt::format("has {} bytes, the checkpoint {}", loaded.bytes.size(), bytes.size());
  for (std::size_t i = 0; i < bytes.size(); ++i)
    if (static_cast<std::byte>(bytes[i]) != loaded.bytes[i])
      return fmt::format("byte {} is {:02x}, the checkpoint has {:02x}", i, static_cast<unsigned>(loaded.bytes[i]),
                         static_cast<unsigned char>(bytes[i]));
  return {};
}

}  // namespace

Comparison compare(const Model& model, const std::filesystem::path& checkpoint) {
  Comparison comparison;
  auto stored = read_checkpoint(checkpoint);
  for (const auto& [name, loaded] : model)
    if (!stored.contains(name)) return {fmt::format("tensor {}: loaded, but not in the checkpoint", name), 0, 0};
  for (const auto& [name, tensor] : stored) {
    auto loaded = model.find(name);
    auto difference = loaded == model.end() ? "not loaded" : difference_of(loaded->second, tensor);
    if (!difference.empty()) return {fmt::format("tensor {}: {}", name, difference), 0, 0};
    ++comparison.tensors;
    comparison.bytes += tensor.bytes;
  }
  return comparison;
}

}  // namespace ckptd::reference_rank
