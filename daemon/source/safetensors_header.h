// The header of one safetensors file: bytes in, tensors or an error out. Pure; any bytes are safe input.
//
//   0        8                  8+N                                    file_bytes
//   |   N    |{"name":{...}}    |     the tensors, without gaps        |
//   | LE u64 |  JSON, padded    |     data_offsets count from here     |
//              with spaces
//
// The published format is kept to the letter: what it calls disallowed is refused even where other readers are lenient.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/result.h"
#include "daemon/weights/manifest.h"

namespace ckptd::source {

/// The format's own limit for N.
inline constexpr std::uint64_t kHeaderLimitBytes = 100'000'000;

struct SafetensorsHeader {
  std::uint64_t data_begin = 0;           ///< 8 + N
  std::vector<weights::Tensor> tensors;   ///< by (offset, name); extents in bytes of the file, as file 0
};

/// How many bytes of the file parse_safetensors_header() must see: 8 + N. `file_start` needs only the first 8 bytes.
Result<std::uint64_t> safetensors_data_begin(std::span<const std::byte> file_start, std::uint64_t file_bytes);

/// `file_start` is at least the file up to its data; bytes behind that are not looked at. corrupt, or unsupported for
/// an element type that safetensors 0.8 does not know. The sentence names tensor and byte, and leaves the file to the
/// caller. Takes up to about 20 times the header's size of memory while it runs.
Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file_start, std::uint64_t file_bytes);

}  // namespace ckptd::source
