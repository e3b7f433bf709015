// What is asked of a vLLM server that is given weights by its own weight transfer, CUDA IPC or NCCL, packed. Pure: bytes from
// values. docs/vllm_weight_transfer.md describes every byte and the order.
//
//   init -> { start -> update ... -> finish } [ start_draft -> update ... -> finish ]     each a POST whose 200 is the acknowledgement of all workers
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "proto/torch/cuda_tensor.h"

namespace ckptd::proto::vllm::weight_transfer {

inline constexpr std::string_view kInitTarget = "/init_weight_transfer_engine", kStartTarget = "/start_weight_update";
inline constexpr std::string_view kStartDraftTarget = "/start_draft_weight_update";
inline constexpr std::string_view kUpdateTarget = "/update_weights", kFinishTarget = "/finish_weight_update";
inline constexpr std::string_view kServerTarget = "/server_info?config_format=json";
inline constexpr std::string_view kWorldTarget = "/get_world_size";
inline constexpr std::string_view kAllWorkersTarget = "/get_world_size?include_dp=true";

/// How a server is told that tensors come packed. It changed twice.
enum class PackedForm {
  at_init,      ///< init says so once, from 0.27 on
  of_server,    ///< its command line says so, about 0.26
  each_update,  ///< each update says so, 0.22 to 0.25
};

/// {"init_info":{"packed":true}}, or {"init_info":{}} for the older forms.
std::string init_body(bool say_packed);

/// {}: the form of a checkpoint, of the target model, is what every version does without being told.
std::string start_body();

struct PackedTensor {
  std::string_view name;
  std::string_view torch_dtype;  ///< attribute of the module torch: "bfloat16"
  std::span<const std::uint64_t> shape;
  std::uint64_t bytes = 0;
};

/// The tensors of one bucket in one device's memory. They stand back to back from `memory.offset` on.
struct DeviceBytes {
  std::string_view uuid;  ///< as ckptd knows the device
  torch::SharedBytes memory;
};

/// "GPU-1f..": torch's own name for the device has no "GPU-".
std::string_view torch_uuid(std::string_view uuid);

/// A dict from each device's uuid, as torch has it, to the arguments that open its memory, as a pickle.
std::string pickled_handles(std::span<const DeviceBytes> devices);

/// {"update_info":{"names":[..],"dtype_names":[..],"shapes":[..],"tensor_sizes":[..],"ipc_handles_pickled":"<base64>"}}
/// A tensor without dimensions is told as one of a single element: vLLM's unpacking cannot make the former.
std::string update_body(std::span<const PackedTensor> tensors, std::span<const DeviceBytes> devices, PackedForm form);

/// By NCCL, where the sender is rank 0 and the workers follow. A worker cuts the tensors of an update into buffers, each of
/// which ends with the tensor that makes it larger than packed_buffer_size_bytes, and takes a broadcast for each. With a
/// limit that nothing reaches an update is one buffer: one call, one bucket, one broadcast.
///
/// {"init_info":{"nccl_unique_id_b64":"..","packed":true,"packed_buffer_size_bytes":..,"packed_num_buffers":1,
///               "rank_offset":1,"world_size":N}}, N being the workers and the sender; `unique_id` has 128 bytes
std::string nccl_init_body(std::string_view unique_id, unsigned workers);
/// {"update_info":{"names":[..],"dtype_names":[..],"shapes":[..]}}
std::string nccl_update_body(std::span<const PackedTensor> tensors);

/// {"weight_version":"7"}, or {} when there is no label.
std::string finish_body(std::string_view weight_version);

}  // namespace ckptd::proto::vllm::weight_transfer
