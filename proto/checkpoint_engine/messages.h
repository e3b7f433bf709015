// The four messages of the checkpoint-engine worker protocol, as bytes. docs/worker_protocol.md describes each.
// A reply is not a pickle: an empty frame is success, anything else is the rank's traceback as UTF-8.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace ckptd::proto::checkpoint_engine {

struct TensorMetadata {
  std::string_view name;
  std::string_view torch_dtype;  ///< attribute of the module torch: "bfloat16"
  std::span<const std::uint64_t> shape;
  std::uint64_t offset = 0;  ///< bytes from the start of the offered buffer
};

/// Message 1 for host memory: (functools.partial(torch.from_file, dtype=torch.uint8), (path, True, bytes)).
std::string offer_file(std::string_view path, std::uint64_t bytes);

/// Message 1 for CUDA: (rebuild_cuda_tensor, 15 arguments) around a raw 64-byte cudaIpcMemHandle_t.
/// `counter_name` and `counter_index` name the reference counter of torch's shared memory file.
std::string offer_cuda(std::span<const std::uint8_t, 64> handle, std::uint64_t bytes, std::string_view counter_name,
                       std::uint64_t counter_index);

/// Messages 2 to n: a list of dicts {name, dtype, shape, offset}; an empty list is valid.
std::string reload(std::span<const TensorMetadata> tensors);

/// None. The first releases the buffer, the second runs the post hook and ends the session.
std::string none();

/// RuntimeError(sentence): the rank raises it and does not reply. Invalid UTF-8 is replaced.
std::string exception(std::string_view sentence);

}  // namespace ckptd::proto::checkpoint_engine
