#include "proto/vllm/weight_transfer/requests.h"

#include <nlohmann/json.hpp>

#include "proto/pickle/writer.h"
#include "proto/vllm/weight_transfer/base64.h"

namespace ckptd::proto::vllm::weight_transfer {
namespace {

using nlohmann::json;

std::string text_of(const json& value) { return value.dump(-1, ' ', false, json::error_handler_t::replace); }

json shape_of(std::span<const std::uint64_t> shape) {
  if (shape.empty()) return json::array({1});
  auto extents = json::array();
  for (auto extent : shape) extents.push_back(extent);
  return extents;
}

json description_of(std::span<const PackedTensor> tensors) {
  auto names = json::array(), dtypes = json::array(), shapes = json::array();
  for (const auto& tensor : tensors) {
    names.push_back(tensor.name);
    dtypes.push_back(tensor.torch_dtype);
    shapes.push_back(shape_of(tensor.shape));
  }
  return {{"names", std::move(names)}, {"dtype_names", std::move(dtypes)}, {"shapes", std::move(shapes)}};
}

/// More than any model has, and less than what a reader of JSON may take for a number with a fraction.
constexpr std::uint64_t kOneBuffer = std::uint64_t{1} << 50;

}  // namespace

std::string init_body(bool say_packed) {
  auto info = json::object();
  if (say_packed) info["packed"] = true;
  return text_of({{"init_info", std::move(info)}});
}

std::string start_body() { return "{}"; }

std::string_view torch_uuid(std::string_view uuid) {
  constexpr std::string_view kPrefix = "GPU-";
  return uuid.starts_with(kPrefix) ? uuid.substr(kPrefix.size()) : uuid;
}

std::string pickled_handles(std::span<const DeviceBytes> devices) {
  pickle::Writer writer;
  writer.empty_dict();
  writer.mark();
  for (const auto& device : devices) {
    writer.text(torch_uuid(device.uuid));
    torch::write_rebuild_arguments(writer, device.memory);
  }
  writer.set_items();
  return writer.take();
}

std::string nccl_init_body(std::string_view unique_id, unsigned workers) {
  return text_of({{"init_info",
                   {{"nccl_unique_id_b64", base64(unique_id)},
                    {"packed", true},
                    {"packed_buffer_size_bytes", kOneBuffer},
                    {"packed_num_buffers", 1},
                    {"rank_offset", 1},
                    {"world_size", workers + 1}}}});
}

std::string nccl_update_body(std::span<const PackedTensor> tensors) {
  return text_of({{"update_info", description_of(tensors)}});
}

std::string update_body(std::span<const PackedTensor> tensors, std::span<const DeviceBytes> devices, PackedForm form) {
  auto info = description_of(tensors);
  auto& sizes = info["tensor_sizes"] = json::array();
  for (const auto& tensor : tensors) sizes.push_back(tensor.bytes);
  info["ipc_handles_pickled"] = base64(pickled_handles(devices));
  // Elsewhere the word is unknown, and an unknown word is an error.
  if (form == PackedForm::each_update) info["packed"] = true;
  return text_of({{"update_info", std::move(info)}});
}

std::string finish_body(std::string_view weight_version) {
  auto body = json::object();
  if (!weight_version.empty()) body["weight_version"] = weight_version;
  return text_of(body);
}

}  // namespace ckptd::proto::vllm::weight_transfer
