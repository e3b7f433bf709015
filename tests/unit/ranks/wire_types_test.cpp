#include "daemon/ranks/checkpoint_engine/wire_types.h"

#include <catch2/catch.hpp>
#include <limits>
#include <set>

namespace ckptd::ranks::checkpoint_engine {
namespace {

using weights::Dtype;

weights::Manifest manifest_of(std::string name, Dtype dtype, std::vector<std::uint64_t> shape) {
  weights::Manifest manifest;
  manifest.tensors.push_back({.name = "fine", .dtype = Dtype::bf16, .shape = {2, 2}, .extent = {}});
  manifest.tensors.push_back({.name = std::move(name), .dtype = dtype, .shape = std::move(shape), .extent = {}});
  return manifest;
}

}  // namespace

TEST_CASE("each type has a torch name of its own, but for the packed ones of six bits") {
  std::set<std::string_view> names;
  int without = 0;
  for (int i = 0; i <= static_cast<int>(Dtype::u64); ++i) {
    auto name = torch_name_of(static_cast<Dtype>(i));
    if (name)
      CHECK(names.insert(*name).second);
    else
      ++without;
  }
  CHECK(without == 2);
  CHECK(torch_name_of(Dtype::bf16) == "bfloat16");
  CHECK(torch_name_of(Dtype::f8_e4m3) == "float8_e4m3fn");
  CHECK(torch_name_of(Dtype::f8_e8m0) == "float8_e8m0fnu");
  CHECK(torch_name_of(Dtype::c64) == "complex64");
  CHECK(torch_name_of(Dtype::boolean) == "bool");
}

TEST_CASE("shapes are torch's: pairs for F4, as they are for the rest") {
  using Shape = std::vector<std::uint64_t>;
  CHECK(torch_shape_of(Dtype::bf16, Shape{2, 3}) == Shape{2, 3});
  CHECK(torch_shape_of(Dtype::f32, Shape{}) == Shape{});
  CHECK(torch_shape_of(Dtype::f4, Shape{3, 2}) == Shape{3, 1});
  CHECK(torch_shape_of(Dtype::f4, Shape{5, 0}) == Shape{5, 0});
  CHECK_FALSE(torch_shape_of(Dtype::f4, Shape{4, 3}));
  CHECK_FALSE(torch_shape_of(Dtype::f4, Shape{0, 3}));
  CHECK_FALSE(torch_shape_of(Dtype::f4, Shape{}));
}

TEST_CASE("what can be carried") {
  CHECK(check_carriable({}));
  CHECK(check_carriable(manifest_of("scalar", Dtype::f32, {})));
  CHECK(check_carriable(manifest_of("empty", Dtype::bf16, {0, 5})));
  CHECK(check_carriable(manifest_of("packed", Dtype::f4, {4, 2})));
  CHECK(check_carriable(manifest_of("\xe6\x9d\x83", Dtype::u64, {1})));
}

TEST_CASE("what cannot be carried is named") {
  auto refused =
      GENERATE(manifest_of("the.culprit", Dtype::f6_e2m3, {4}), manifest_of("the.culprit", Dtype::f6_e3m2, {4}),
               manifest_of("the.culprit", Dtype::f4, {2, 3}),
               manifest_of("the.culprit", Dtype::u8, {0, std::numeric_limits<std::uint64_t>::max()}),
               manifest_of("the.culprit\xff", Dtype::bf16, {1}));
  auto carriable = check_carriable(refused);
  REQUIRE_FALSE(carriable);
  CHECK(carriable.error().kind == ErrorKind::unsupported);
  CHECK(carriable.error().sentence.find("the.culprit") != std::string::npos);
  CHECK(carriable.error().sentence.find('\xff') == std::string::npos);
}

}  // namespace ckptd::ranks::checkpoint_engine
