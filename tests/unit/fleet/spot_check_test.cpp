#include "daemon/fleet/spot_check.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>
#include <limits>

using namespace ckptd;
using namespace ckptd::fleet;
using weights::Dtype;

namespace {

template <class Value>
std::vector<std::byte> bytes_of(const std::vector<Value>& values) {
  std::vector<std::byte> bytes(values.size() * sizeof(Value));
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

weights::Tensor tensor(const std::string& name, Dtype dtype, std::vector<std::uint64_t> shape) {
  return {name, dtype, std::move(shape), {}};
}

std::vector<std::string> names_of(const weights::Manifest& manifest) {
  std::vector<std::string> names;
  for (const auto i : spots_in(manifest)) names.push_back(manifest.tensors[i].name);
  return names;
}

}  // namespace

TEST_CASE("small weights of norms are asked for, from the first layer to the last") {
  weights::Manifest manifest;
  for (const auto layer : {10, 2, 0, 1, 31})
    manifest.tensors.push_back(tensor(fmt::format("model.layers.{}.input_layernorm.weight", layer), Dtype::bf16, {4096}));
  manifest.tensors.push_back(tensor("model.norm.weight", Dtype::f32, {4096}));
  CHECK(names_of(manifest) == std::vector<std::string>{
                                  "model.norm.weight", "model.layers.0.input_layernorm.weight",
                                  "model.layers.1.input_layernorm.weight", "model.layers.2.input_layernorm.weight",
                                  "model.layers.10.input_layernorm.weight", "model.layers.31.input_layernorm.weight"});
  for (int layer = 32; layer < 100; ++layer)
    manifest.tensors.push_back(tensor(fmt::format("model.layers.{}.input_layernorm.weight", layer), Dtype::bf16, {4096}));
  const auto names = names_of(manifest);
  CHECK(names.size() == kMostSpots);
  CHECK(names[1] == "model.layers.0.input_layernorm.weight");
  CHECK(names.back() == "model.layers.99.input_layernorm.weight");
}

TEST_CASE("what is fused, split, quantised or large is not asked for") {
  weights::Manifest manifest;
  for (const auto* name : {"model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.q_proj.weight",
                           "model.layers.0.self_attn.o_proj.bias"})
    manifest.tensors.push_back(tensor(name, Dtype::bf16, {64}));
  manifest.tensors.push_back(tensor("a.norm.weight", Dtype::bf16, {64, 64}));
  manifest.tensors.push_back(tensor("b.norm.weight", Dtype::bf16, {65 * 1024}));
  manifest.tensors.push_back(tensor("c.norm.weight", Dtype::bf16, {0}));
  manifest.tensors.push_back(tensor("d.norm.weight", Dtype::f8_e4m3, {64}));
  CHECK(names_of(manifest).empty());
  CHECK(names_of({}).empty());
}

TEST_CASE("values are compared as they are, or rounded to the type that a server keeps them in") {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::numeric_limits<double>::quiet_NaN();
  const float third = 1.0F / 3.0F;
  struct Row {
    std::string why;
    Dtype dtype;
    std::vector<std::byte> bytes;
    std::vector<double> told;
    Agreement agreement;
  };
  const std::vector<Row> rows{
      {"F32", Dtype::f32, bytes_of<float>({third, -2, 0}), {static_cast<double>(third), -2, -0.0}, Agreement::exact},
      {"F32 that the server keeps as BF16", Dtype::f32, bytes_of<float>({third, -2}), {0.333984375, -2}, Agreement::as_bf16},
      {"F32 that the server keeps as F16", Dtype::f32, bytes_of<float>({third, -2}), {0.333251953125, -2}, Agreement::as_f16},
      {"half of the values in each", Dtype::f32, bytes_of<float>({third, third}), {0.333984375, 0.333251953125},
       Agreement::different},
      {"BF16", Dtype::bf16, bytes_of<std::uint16_t>({0x3f80, 0xc000, 0x3eab}), {1, -2, 0.333984375}, Agreement::exact},
      {"BF16, one of them another", Dtype::bf16, bytes_of<std::uint16_t>({0x3f80, 0xc000}), {1, -2.015625},
       Agreement::different},
      {"F16", Dtype::f16, bytes_of<std::uint16_t>({0x3c00, 0x3555, 0x0001, 0x7bff, 0x8000}),
       {1, 0.333251953125, std::ldexp(1.0, -24), 65504, 0}, Agreement::exact},
      {"F16 that the server keeps as BF16", Dtype::f16, bytes_of<std::uint16_t>({0x3555}), {0.333984375}, Agreement::as_bf16},
      {"infinity and not a number", Dtype::bf16, bytes_of<std::uint16_t>({0x7f80, 0xff80, 0x7fc0}), {inf, -inf, nan},
       Agreement::exact},
      {"not a number where there is one", Dtype::bf16, bytes_of<std::uint16_t>({0x3f80}), {nan}, Agreement::different},
      {"ties go to even", Dtype::f32, bytes_of<float>({1 + 1.0F / 256, 1 + 3.0F / 256}), {1, 1 + 4.0 / 256}, Agreement::as_bf16},
      {"more than F16 can hold", Dtype::f32, bytes_of<float>({65519, 65520}), {65504, inf}, Agreement::as_f16},
      {"smaller than F16 can hold", Dtype::f32, bytes_of<float>({std::ldexp(1.0F, -26), std::ldexp(1.5F, -24)}),
       {0, std::ldexp(1.0, -23)}, Agreement::as_f16},
      {"fewer values than bytes", Dtype::f32, bytes_of<float>({1, 1}), {1}, Agreement::different},
      {"none", Dtype::f32, {}, {}, Agreement::different},
  };
  for (const auto& row : rows) {
    INFO(row.why);
    CHECK(name_of(agreement(row.dtype, row.bytes, row.told)) == name_of(row.agreement));
  }
}

TEST_CASE("a checksum of values tells two statements apart") {
  const std::vector<double> one{1, 2, 3}, other{1, 2, 4};
  CHECK(checksum_of(one) == checksum_of(std::vector<double>(one)));
  CHECK(checksum_of(one) != checksum_of(other));
}
