#include "tests/support/checkpoint_files/safetensors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <random>

namespace ckptd::tests {
namespace {

std::uint64_t bits_of(std::string_view dtype) {
  if (dtype == "BOOL") return 8;
  const auto digits = dtype.find_first_of("0123456789");
  return std::stoull(std::string(dtype.substr(digits, dtype.find_first_not_of("0123456789", digits) - digits)));
}

}  // namespace

TestTensor random_tensor(std::string name, std::string dtype, std::vector<std::uint64_t> shape, std::uint64_t seed) {
  std::uint64_t bits = bits_of(dtype);
  for (auto size : shape) bits *= size;
  const auto text = fmt::format("{}/{}", name, seed);
  std::seed_seq seeds(text.begin(), text.end());
  std::mt19937_64 random(seeds);
  std::string bytes(bits / 8, '\0');
  for (auto& byte : bytes) byte = static_cast<char>(random());
  return {std::move(name), std::move(dtype), std::move(shape), std::move(bytes)};
}

std::string json_string(std::string_view text) {
  std::string result = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\')
      result += fmt::format("\\{}", c);
    else if (static_cast<unsigned char>(c) < 0x20)
      result += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
    else
      result += c;
  }
  return result + '"';
}

std::string header_length(std::uint64_t header_bytes) {
  std::string result;
  for (unsigned i = 0; i < 8; ++i) result += static_cast<char>(header_bytes >> (8 * i) & 0xff);
  return result;
}

std::string file_with_header(std::string_view header, std::string_view data) {
  return fmt::format("{}{}{}", header_length(header.size()), header, data);
}

std::string safetensors_file(const std::vector<TestTensor>& tensors, const std::map<std::string, std::string>& metadata,
                             std::size_t pad_bytes) {
  std::vector<std::string> members;
  if (!metadata.empty()) {
    std::vector<std::string> entries;
    for (const auto& [key, value] : metadata) entries.push_back(json_string(key) + ":" + json_string(value));
    members.push_back(fmt::format(R"("__metadata__":{{{}}})", fmt::join(entries, ",")));
  }
  std::string data;
  for (const auto& tensor : tensors) {
    members.push_back(fmt::format(R"({}:{{"dtype":{},"shape":[{}],"data_offsets":[{},{}]}})", json_string(tensor.name),
                                  json_string(tensor.dtype), fmt::join(tensor.shape, ","), data.size(),
                                  data.size() + tensor.bytes.size()));
    data += tensor.bytes;
  }
  auto header = fmt::format("{{{}}}", fmt::join(members, ","));
  while (header.size() % pad_bytes != 0) header += ' ';
  return file_with_header(header, data);
}

}  // namespace ckptd::tests
