#include "daemon/source/safetensors_header.h"

#include <algorithm>
#include <optional>
#include <tuple>

#include "daemon/source/json_text.h"

namespace ckptd::source {
namespace {

using simdjson::dom::element;
using weights::Tensor;

constexpr std::uint64_t kLengthBytes = 8;

template <class... Args>
std::unexpected<Error> corrupt(fmt::format_string<Args...> text, Args&&... args) {
  return fail(ErrorKind::corrupt, text, std::forward<Args>(args)...);
}

/// The header without its padding: it starts with '{', and only spaces may follow the last '}'.
Result<std::span<const std::byte>> without_padding(std::span<const std::byte> text) {
  if (text.empty() || text.front() != std::byte{'{'})
    return corrupt("byte {} is not '{{', with which a safetensors header begins", kLengthBytes);
  while (text.back() == std::byte{' '}) text = text.first(text.size() - 1);
  if (text.back() != std::byte{'}'})
    return corrupt("byte {}, the last of the header before its padding with spaces, is not '}}'",
                   kLengthBytes + text.size() - 1);
  return text;
}

/// Where a '-' stands outside of strings. Negative numbers have no place in a header, and the parser hands out -0 as 0.
/// `text` is valid JSON.
std::optional<std::size_t> minus_in(std::span<const std::byte> text) {
  bool in_string = false;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const auto character = static_cast<char>(text[at]);
    if (character == '"') in_string = !in_string;
    if (character == '\\') ++at;
    if (character == '-' && !in_string) return at;
  }
  return std::nullopt;
}

Result<> check_metadata(element value) {
  simdjson::dom::object entries;
  if (value.get(entries) != simdjson::SUCCESS) return corrupt("__metadata__ is not an object");
  std::vector<std::string_view> keys;
  for (auto [key, text] : entries) {
    if (!text.is_string()) return corrupt("__metadata__: the value of '{}' is not a string", shown(key));
    keys.push_back(key);
  }
  if (auto twice = repeated(std::move(keys))) return corrupt("__metadata__ has the key '{}' twice", shown(*twice));
  return {};
}

Result<std::vector<std::uint64_t>> unsigned_numbers(element value) {
  simdjson::dom::array items;
  if (value.get(items) != simdjson::SUCCESS) return corrupt("it is not an array");
  std::vector<std::uint64_t> numbers;
  for (auto item : items) {
    std::uint64_t number = 0;
    if (item.get(number) != simdjson::SUCCESS)
      return corrupt("element {} is not an unsigned integer", numbers.size());
    numbers.push_back(number);
  }
  return numbers;
}

Result<weights::Dtype> dtype_of(element value) {
  std::string_view name;
  if (value.get(name) != simdjson::SUCCESS) return corrupt("it is not a string");
  if (auto dtype = weights::dtype_named(name)) return *dtype;
  return fail(ErrorKind::unsupported, "'{}' is not an element type that safetensors 0.8 knows", shown(name));
}

/// The values of a tensor's three members, not yet compared with each other.
struct Members {
  std::optional<element> dtype, shape, data_offsets;
};

Result<Members> members_of(element value) {
  simdjson::dom::object entries;
  if (value.get(entries) != simdjson::SUCCESS) return corrupt("it is not an object");
  Members members;
  for (auto [key, member] : entries) {
    auto* place = key == "dtype"          ? &members.dtype
                  : key == "shape"        ? &members.shape
                  : key == "data_offsets" ? &members.data_offsets
                                          : nullptr;
    if (!place) return corrupt("it has a member '{}', which the format does not know", shown(key));
    if (*place) return corrupt("it has the member '{}' twice", shown(key));
    *place = member;
  }
  if (!members.dtype || !members.shape || !members.data_offsets)
    return corrupt("it has no member '{}'", !members.dtype ? "dtype" : !members.shape ? "shape" : "data_offsets");
  return members;
}

template <class T>
Result<T> in_member(std::string_view member, Result<T> result) {
  if (!result) return std::unexpected(result.error().within(member));
  return result;
}

/// The bytes of all elements. The format counts elements from left to right, so that a zero does not excuse an
/// overflow before it.
Result<std::uint64_t> bytes_of(weights::Dtype dtype, const std::vector<std::uint64_t>& shape) {
  std::uint64_t bits = 1;
  bool overflow = false;
  for (auto size : shape) overflow = overflow || __builtin_mul_overflow(bits, size, &bits);
  overflow = overflow || __builtin_mul_overflow(bits, weights::bits_of(dtype), &bits);
  if (overflow) return corrupt("its shape has more bits than 64-bit numbers can count");
  if (bits % 8 != 0) return corrupt("its {} bits are not a whole number of bytes", bits);
  return bits / 8;
}

Result<Tensor> tensor_of(std::string_view name, element value, std::uint64_t data_begin, std::uint64_t file_bytes) {
  const auto members = CKPTD_TRY(members_of(value));
  Tensor tensor;
  tensor.name = name;
  tensor.dtype = CKPTD_TRY(in_member("dtype", dtype_of(*members.dtype)));
  tensor.shape = CKPTD_TRY(in_member("shape", unsigned_numbers(*members.shape)));
  const auto offsets = CKPTD_TRY(in_member("data_offsets", unsigned_numbers(*members.data_offsets)));
  if (offsets.size() != 2) return corrupt("data_offsets has {} elements and not 2", offsets.size());
  const auto begin = offsets[0], end = offsets[1], data_bytes = file_bytes - data_begin;
  if (begin > end) return corrupt("data_offsets end at {}, before they begin at {}", end, begin);
  if (end > data_bytes)
    return corrupt("data_offsets end at {}, and the file has {} bytes of data, from byte {} to byte {}", end,
                   data_bytes, data_begin, file_bytes);
  const auto bytes = CKPTD_TRY(bytes_of(tensor.dtype, tensor.shape));
  if (bytes != end - begin)
    return corrupt("{} takes {} bytes, and data_offsets give it {}, from byte {} to byte {}",
                   shown(weights::show_type(tensor)), bytes, end - begin, data_begin + begin, data_begin + end);
  tensor.extent = {.file = 0, .offset = data_begin + begin, .bytes = bytes};
  return tensor;
}

/// Every byte of data belongs to exactly one tensor; tensors without bytes lie where another one begins or ends.
Result<> check_coverage(std::vector<Tensor>& tensors, std::uint64_t data_begin, std::uint64_t file_bytes) {
  std::ranges::sort(tensors, {}, [](const Tensor& tensor) {
    return std::tuple(tensor.extent.offset, tensor.extent.bytes, std::string_view(tensor.name));
  });
  std::uint64_t covered = data_begin;
  std::string before = "the header";
  for (const auto& tensor : tensors) {
    const auto begin = tensor.extent.offset, end = begin + tensor.extent.bytes;
    if (begin > covered)
      return corrupt("bytes {} to {}, between {} and tensor {}, belong to no tensor", covered, begin, before,
                     shown(tensor.name));
    if (begin < covered)
      return corrupt("tensor {}, bytes {} to {}, overlaps {}, which ends at byte {}", shown(tensor.name), begin, end,
                     before, covered);
    covered = end;
    before = "tensor " + shown(tensor.name);
  }
  if (covered != file_bytes)
    return corrupt("bytes {} to {}, the end of the file, follow {} and belong to no tensor", covered, file_bytes,
                   before);
  return {};
}

Result<std::vector<Tensor>> tensors_of(simdjson::dom::object entries, std::uint64_t data_begin,
                                       std::uint64_t file_bytes) {
  std::vector<Tensor> tensors;
  std::vector<std::string_view> names;
  for (auto [name, value] : entries) {
    // An escape in JSON can name half a surrogate pair.
    if (!is_utf8(name)) return corrupt("the name of tensor '{}' has half a surrogate pair", shown(name));
    names.push_back(name);
    if (name == "__metadata__") {
      CKPTD_TRY(check_metadata(value));
      continue;
    }
    auto tensor = tensor_of(name, value, data_begin, file_bytes);
    if (!tensor) return std::unexpected(tensor.error().within(fmt::format("tensor {}", shown(name))));
    tensors.push_back(std::move(*tensor));
  }
  if (auto twice = repeated(std::move(names))) return corrupt("the header has the key '{}' twice", shown(*twice));
  return tensors;
}

}  // namespace

Result<std::uint64_t> safetensors_data_begin(std::span<const std::byte> file_start, std::uint64_t file_bytes) {
  if (file_start.size() < kLengthBytes || file_bytes < kLengthBytes)
    return corrupt("the file has {} bytes, and a safetensors file begins with 8 bytes for the length of its header",
                   file_bytes);
  std::uint64_t header_bytes = 0;
  for (std::size_t i = 0; i < kLengthBytes; ++i)
    header_bytes |= std::to_integer<std::uint64_t>(file_start[i]) << (8 * i);
  if (header_bytes > kHeaderLimitBytes)
    return corrupt("its first 8 bytes announce a header of {} bytes, and safetensors allows {}: this is another format "
                   "or a damaged file",
                   header_bytes, kHeaderLimitBytes);
  if (header_bytes > file_bytes - kLengthBytes)
    return corrupt("its first 8 bytes announce a header that ends at byte {}, and the file ends at byte {}",
                   kLengthBytes + header_bytes, file_bytes);
  return kLengthBytes + header_bytes;
}

Result<SafetensorsHeader> parse_safetensors_header(std::span<const std::byte> file_start, std::uint64_t file_bytes) {
  const auto data_begin = CKPTD_TRY(safetensors_data_begin(file_start, file_bytes));
  if (file_start.size() < data_begin)
    return corrupt("the header ends at byte {}, and only {} bytes of it are there", data_begin, file_start.size());
  const auto text = CKPTD_TRY(without_padding(file_start.subspan(kLengthBytes, data_begin - kLengthBytes)));
  simdjson::dom::parser parser;
  const auto root = CKPTD_TRY(parse_json(parser, text, kLengthBytes));
  simdjson::dom::object entries;
  if (root.get(entries) != simdjson::SUCCESS) return corrupt("the header is not a JSON object");
  if (auto at = minus_in(text))
    return corrupt("byte {} is a '-', and all numbers of a header are unsigned", kLengthBytes + *at);
  SafetensorsHeader header{.data_begin = data_begin,
                           .tensors = CKPTD_TRY(tensors_of(entries, data_begin, file_bytes))};
  CKPTD_TRY(check_coverage(header.tensors, data_begin, file_bytes));
  std::ranges::sort(header.tensors, {}, [](const Tensor& tensor) {
    return std::tuple(tensor.extent.offset, std::string_view(tensor.name));
  });
  return header;
}

}  // namespace ckptd::source
