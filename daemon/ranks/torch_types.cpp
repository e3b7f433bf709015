#include "daemon/ranks/torch_types.h"

#include <limits>

#include "common/utf8.h"

namespace ckptd::ranks {
namespace {

constexpr std::uint64_t kLargestExtent = std::numeric_limits<std::int64_t>::max();

Result<> check_tensor(const weights::Tensor& tensor) {
  if (!is_utf8(tensor.name))
    return fail(ErrorKind::unsupported, "its name is not UTF-8, and Python would refuse to read it");
  if (!torch_name_of(tensor.dtype))
    return fail(ErrorKind::unsupported, "torch has no type for {}; store the tensor in a type that torch has",
                weights::safetensors_name(tensor.dtype));
  for (auto extent : tensor.shape)
    if (extent > kLargestExtent)
      return fail(ErrorKind::unsupported, "torch counts elements in 63 bits, {} of them are too many", extent);
  if (tensor.dtype == weights::Dtype::f4) CKPTD_TRY(torch_shape_of(tensor.dtype, tensor.shape));
  return {};
}

}  // namespace

std::optional<std::string_view> torch_name_of(weights::Dtype dtype) {
  using enum weights::Dtype;
  switch (dtype) {
    case boolean: return "bool";
    case f4: return "float4_e2m1fn_x2";
    case f6_e2m3:
    case f6_e3m2: return std::nullopt;
    case u8: return "uint8";
    case i8: return "int8";
    case f8_e5m2: return "float8_e5m2";
    case f8_e4m3: return "float8_e4m3fn";
    case f8_e8m0: return "float8_e8m0fnu";
    case f8_e4m3fnuz: return "float8_e4m3fnuz";
    case f8_e5m2fnuz: return "float8_e5m2fnuz";
    case i16: return "int16";
    case u16: return "uint16";
    case f16: return "float16";
    case bf16: return "bfloat16";
    case i32: return "int32";
    case u32: return "uint32";
    case f32: return "float32";
    case c64: return "complex64";
    case f64: return "float64";
    case i64: return "int64";
    case u64: return "uint64";
  }
  return std::nullopt;
}

Result<std::vector<std::uint64_t>> torch_shape_of(weights::Dtype dtype, std::span<const std::uint64_t> shape) {
  std::vector<std::uint64_t> torch_shape(shape.begin(), shape.end());
  if (dtype != weights::Dtype::f4) return torch_shape;
  if (torch_shape.empty() || torch_shape.back() % 2 != 0)
    return fail(ErrorKind::unsupported,
                "torch packs two F4 values into one element: the last dimension of [{}] must be even",
                fmt::join(shape, ","));
  torch_shape.back() /= 2;
  return torch_shape;
}

Result<> check_torch_can_carry(const weights::Manifest& manifest, std::string_view protocol) {
  for (const auto& tensor : manifest.tensors)
    if (auto carriable = check_tensor(tensor); !carriable)
      return std::unexpected(carriable.error()
                                 .within(fmt::format("{} cannot carry tensor {}, {}", protocol, shown(tensor.name),
                                                     weights::show_type(tensor)))
                                 .with_fact("tensor", shown(tensor.name)));
  return {};
}

}  // namespace ckptd::ranks
