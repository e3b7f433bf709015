#include "tests/support/reference_rank/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "tests/support/reference_rank/python_error.h"

namespace ckptd::reference_rank {
namespace {

constexpr std::array kTypes{
    TorchType{"bool", "BOOL", 1},
    TorchType{"float4_e2m1fn_x2", "F4", 1},
    TorchType{"uint8", "U8", 1},
    TorchType{"int8", "I8", 1},
    TorchType{"float8_e5m2", "F8_E5M2", 1},
    TorchType{"float8_e4m3fn", "F8_E4M3", 1},
    TorchType{"float8_e8m0fnu", "F8_E8M0", 1},
    TorchType{"float8_e4m3fnuz", "F8_E4M3FNUZ", 1},
    TorchType{"float8_e5m2fnuz", "F8_E5M2FNUZ", 1},
    TorchType{"int16", "I16", 2},
    TorchType{"uint16", "U16", 2},
    TorchType{"float16", "F16", 2},
    TorchType{"bfloat16", "BF16", 2},
    TorchType{"int32", "I32", 4},
    TorchType{"uint32", "U32", 4},
    TorchType{"float32", "F32", 4},
    TorchType{"complex64", "C64", 8},
    TorchType{"float64", "F64", 8},
    TorchType{"int64", "I64", 8},
    TorchType{"uint64", "U64", 8},
};

std::optional<TorchType> find(std::string_view TorchType::* field, std::string_view name) {
  auto found = std::ranges::find(kTypes, name, field);
  if (found == kTypes.end()) return std::nullopt;
  return *found;
}

}  // namespace

std::optional<TorchType> torch_type_named(std::string_view name) { return find(&TorchType::torch_name, name); }
std::optional<TorchType> torch_type_of_safetensors(std::string_view name) {
  return find(&TorchType::safetensors_name, name);
}

std::span<const std::byte> view_of(std::span<const std::byte> buffer, const TorchType& type,
                                   std::span<const std::int64_t> shape, std::int64_t offset) {
  std::uint64_t bytes = type.bytes;
  for (auto extent : shape) {
    if (extent < 0) throw PythonError("RuntimeError", "negative dimension");
    if (__builtin_mul_overflow(bytes, static_cast<std::uint64_t>(extent), &bytes))
      throw PythonError("RuntimeError", "numel: integer multiplication overflow");
  }
  if (offset < 0 || static_cast<std::uint64_t>(offset) > buffer.size() ||
      bytes > buffer.size() - static_cast<std::uint64_t>(offset))
    throw PythonError("RuntimeError", fmt::format("shape [{}] at {} is invalid for a buffer of {} bytes",
                                                  fmt::join(shape, ", "), offset, buffer.size()));
  if (static_cast<std::uint64_t>(offset) % type.bytes != 0)
    throw PythonError("RuntimeError",
                      fmt::format("self.storage_offset() must be divisible by {} to view Byte as {}, but "
                                  "got {}",
                                  type.bytes, type.torch_name, offset));
  return buffer.subspan(static_cast<std::size_t>(offset), bytes);
}

}  // namespace ckptd::reference_rank
