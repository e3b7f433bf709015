#include "bench/tensor_list.h"

#include <fstream>
#include <nlohmann/json.hpp>

#include "common/units.h"

namespace ckptd::bench {
namespace {

constexpr std::uint64_t kHeaderBytesPerTensor = 120;

/// Adds the tensor behind the last one of its file. Shards come in their order.
Result<> add(weights::Manifest& manifest, const nlohmann::json& line) {
  weights::Tensor tensor;
  tensor.name = line.at("name");
  const auto dtype = line.at("dtype").get<std::string>();
  const auto known = weights::dtype_named(dtype);
  if (!known) return fail(ErrorKind::unsupported, "{} has a dtype that is not known here: {}", tensor.name, dtype);
  tensor.dtype = *known;
  tensor.shape = line.at("shape").get<std::vector<std::uint64_t>>();
  std::uint64_t bits = weights::bits_of(tensor.dtype);
  for (const auto extent : tensor.shape) bits *= extent;

  const auto shard = line.at("shard").get<std::uint32_t>();
  if (shard >= manifest.files.size())
    manifest.files.resize(shard + 1, {.path = {}, .bytes = 0, .data_begin = 0, .stamp = {}});
  auto& file = manifest.files[shard];
  tensor.extent = {shard, file.bytes, bits / 8};
  file.bytes += tensor.extent.bytes;
  manifest.tensors.push_back(std::move(tensor));
  return {};
}

/// The header's size is known only when all its tensors are.
void make_room_for_headers(weights::Manifest& manifest) {
  std::vector<std::uint64_t> header_bytes(manifest.files.size(), 8);
  for (const auto& tensor : manifest.tensors) header_bytes[tensor.extent.file] += kHeaderBytesPerTensor;
  for (auto& tensor : manifest.tensors) tensor.extent.offset += header_bytes[tensor.extent.file];
  for (std::size_t i = 0; i < manifest.files.size(); ++i) {
    manifest.files[i].path = fmt::format("model-{:05}.safetensors", i);
    manifest.files[i].data_begin = header_bytes[i];
    manifest.files[i].bytes += header_bytes[i];
  }
}

}  // namespace

Result<weights::Manifest> read_tensor_list(const std::filesystem::path& path) try {
  std::ifstream file(path);
  weights::Manifest manifest;
  for (std::string line; std::getline(file, line);) CKPTD_TRY(add(manifest, nlohmann::json::parse(line)));
  if (manifest.tensors.empty()) return fail(ErrorKind::invalid_argument, "{} holds no tensors", path.string());
  make_room_for_headers(manifest);
  return manifest;
} catch (const std::exception& error) {
  return fail(ErrorKind::corrupt, "{}: {}", path.string(), error.what());
}

}  // namespace ckptd::bench
