// Safetensors files as strings, good ones and broken ones. Nothing is checked: what is wrong here shall be read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace ckptd::tests {

struct TestTensor {
  std::string name;
  std::string dtype;  ///< as in a header: "BF16"
  std::vector<std::uint64_t> shape;
  std::string bytes;
};

/// With random bytes that depend on name and `seed` alone. `dtype` must have whole bytes.
TestTensor random_tensor(std::string name, std::string dtype, std::vector<std::uint64_t> shape, std::uint64_t seed = 1);

/// A JSON string with its quotes.
std::string json_string(std::string_view text);

/// 8 bytes of length, the header, the data: each exactly as given.
std::string file_with_header(std::string_view header, std::string_view data = {});

/// A well-formed file; the tensors' bytes in this order, the header padded with spaces to a multiple of `pad_bytes`.
std::string safetensors_file(const std::vector<TestTensor>& tensors,
                             const std::map<std::string, std::string>& metadata = {{"format", "pt"}},
                             std::size_t pad_bytes = 8);

/// The 8 bytes with which a file begins whose header has `header_bytes`.
std::string header_length(std::uint64_t header_bytes);

}  // namespace ckptd::tests
